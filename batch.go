package rpcx

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Batch collects requests and notifications to be sent in a single message. The zero value
// is ready to use. A Batch is sent once, by [Session.SendBatch] or [Session.GoBatch].
// Until then, only one goroutine may use the Batch.
//
// A Batch must not be copied after its first use. The methods panic on a copy, and go vet
// finds most copies.
//
// If calls fail, the error is a [*BatchError], and the results of successful calls are
// available. If a member cannot be encoded, nothing is sent. A call without a response
// fails with [ErrNoResponse]. A peer may also answer in separate messages.
//
// The members of a received batch are handled concurrently, and answered in a single
// message. At most 16 invalid members are answered. A batch with more invalid members, or
// over Limits.Batch, is refused as a whole. If a peer refuses a batch as a whole, the
// calls fail at once if no other message was sent since the last reply. JSON-RPC 1.0 has
// no batches.
type Batch struct {
	_       noCopy
	self    *Batch // receiver of the first use; a copy has another address
	entries []batchEntry
	futures []batchFuture // allocated in advance for the next calls
	sent    bool
}

// noCopy makes go vet report copies of a struct with a field of type noCopy.
type noCopy struct{}

// Lock and Unlock exist for go vet. Nobody calls them.
func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// checkCopy panics if b is a copy of a used batch.
func (b *Batch) checkCopy() {
	if b.self == nil {
		b.self = b
	}
	if b.self != b {
		panic("rpcx: a Batch was copied after its first use: pass a *Batch instead")
	}
}

type batchEntry struct {
	method string
	params any
	future *Future // nil for a notification
}

// batchPart is the part of a Future that only a member of a batch, or a batch as a whole,
// has.
type batchPart struct {
	members []*Future // of a batch as a whole; nil for a member
	dest    any       // destination of a member's result
	filled  sync.Once // guards fillErr
	fillErr error
}

// batchFuture is the future of a member or of a batch as a whole, in one allocation.
type batchFuture struct {
	future Future
	part   batchPart
}

// sentBatch is the message of a batch, and the future of the batch as a whole.
type sentBatch struct {
	message pendingMessage
	batchFuture
}

// open makes the future that of an unsent batch or member, and returns the future.
func (b *batchFuture) open() *Future {
	b.future.phase, b.future.batch = futureOpen, &b.part
	return &b.future
}

// members returns the futures of the calls, or nil if f is not a batch as a whole.
func (f *Future) members() []*Future {
	if f.batch == nil {
		return nil
	}
	return f.batch.members
}

// joinMessage adds the call of f to the message m of a batch. After Cancel, joinMessage
// reports false: the call is not sent.
func (f *Future) joinMessage(m *pendingMessage, method string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != futureOpen {
		return false
	}
	m.calls = append(m.calls, pendingCall{message: m, id: m.session.calls.table.newID(), method: method})
	f.message, f.call = m, &m.calls[len(m.calls)-1]
	return true
}

func (f *Future) isCancelled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase == futureCancelled
}

// fillDestinations decodes results into the destinations given to [Batch.Call], once, and
// returns the error of the call or of the decoding.
func (f *Future) fillDestinations() error {
	b := f.batch
	if b == nil || b.members == nil && b.dest == nil {
		return f.err
	}
	b.filled.Do(func() {
		if b.members == nil {
			b.fillErr = f.Decode(b.dest)
			return
		}
		b.fillErr = batchError(b.members, (*Future).fillDestinations)
	})
	return b.fillErr
}

// Call adds a call. dest is a pointer or nil. The result of the call is decoded into dest
// when [Session.SendBatch] returns, or when Wait of the call's or the batch's future
// returns. After the batch was sent, Call returns a future that has failed with
// [ErrBatchSent].
func (b *Batch) Call(method string, params, dest any) *Future {
	b.checkCopy()
	if b.sent {
		return newFailedFuture(ErrBatchSent)
	}
	if len(b.futures) == 0 {
		b.futures = make([]batchFuture, min(max(1, len(b.entries)), 64))
	}
	member := &b.futures[0]
	b.futures = b.futures[1:]
	member.part.dest = dest
	f := member.open()
	b.entries = append(b.entries, batchEntry{method, params, f})
	return f
}

// Notify adds a notification.
func (b *Batch) Notify(method string, params any) {
	b.checkCopy()
	b.entries = append(b.entries, batchEntry{method, params, nil})
}

// Len returns the number of calls and notifications.
func (b *Batch) Len() int { return len(b.entries) }

// isEmpty reports whether the batch is unsent and has no members.
func (b *Batch) isEmpty() bool {
	b.checkCopy()
	return !b.sent && len(b.entries) == 0
}

// Append appends the batch to dst, as a single message of protocol p, without framing. id
// supplies the ids of the calls. If a member cannot be encoded, or p has no batches,
// Append fails and returns dst unchanged. Append is for use without a session.
func (b *Batch) Append(dst []byte, p Protocol, c Codec, id func() ID) ([]byte, error) {
	b.checkCopy()
	f := getFrameBuffer(0)
	defer f.recycle()
	for i, e := range b.entries {
		var err error
		if e.future != nil {
			f.buf, err = p.AppendRequest(f.buf, id(), e.method, e.params, c)
		} else {
			f.buf, err = p.AppendNotification(f.buf, e.method, e.params, c)
		}
		if err != nil {
			// If the protocol has no batches, that error comes first, for any members.
			if _, none := p.AppendBatch(nil, [][]byte{[]byte("0")}); none != nil {
				return dst, none
			}
			return dst, fmt.Errorf("member %d of the batch, %q: %w", i+1, e.method, asUnsent(err))
		}
		f.ends = append(f.ends, len(f.buf))
	}
	sc := getEncodeBuffer()
	defer sc.recycle()
	sc.parts = f.appendParts(sc.parts)
	return p.AppendBatch(dst, sc.parts)
}

// SendBatch sends b and waits for the replies to every call. ctx bounds the whole batch,
// as for [Session.Call]. If a call fails, the error is a [*BatchError], and the results of
// successful calls are available. If the batch cannot be sent, the error gives the reason
// and the member at fault.
//
// A batch of only notifications is finished when queued. If the batch is empty, SendBatch
// sends nothing and returns nil. An empty batch may be filled and sent later.
func (s *Session) SendBatch(ctx context.Context, b *Batch) error {
	mustHaveContext("Session.SendBatch", ctx)
	if b.isEmpty() {
		return nil
	}
	own, err := s.sendBatch(ctx, b)
	if err != nil {
		return err
	}
	if err := own.waitUntilFinished(ctx); err != nil {
		s.calls.abandonMessage(own.message, err)
		<-own.Done()
	}
	return own.fillDestinations()
}

// GoBatch sends b and returns a future for the whole batch. GoBatch waits as [Session.Go]
// does, and ctx bounds the calls in the same way. For Limits.Outgoing, a batch counts as
// one call. If the batch is empty, GoBatch sends nothing, and the future is finished.
func (s *Session) GoBatch(ctx context.Context, b *Batch) *Future {
	mustHaveContext("Session.GoBatch", ctx)
	if b.isEmpty() {
		return &Future{phase: futureFinished, batch: &batchPart{members: []*Future{}}}
	}
	own, err := s.sendBatch(ctx, b)
	if err != nil {
		return newFailedFuture(err)
	}
	own.watchContext(ctx)
	return own
}

// sendBatch queues b and returns the future of the batch.
func (s *Session) sendBatch(ctx context.Context, b *Batch) (*Future, error) {
	b.checkCopy()
	if b.sent {
		return nil, ErrBatchSent
	}
	b.sent = true
	calls := b.countCalls()
	sent := new(sentBatch)
	own, m := sent.open(), &sent.message
	own.message, own.batch.members = m, make([]*Future, 0, calls)
	m.session, m.future, m.isBatch, m.calls = s, own, true, make([]pendingCall, 0, calls)
	_, m.hasOwnDeadline = ctx.Deadline()
	b.entries = slices.DeleteFunc(b.entries, func(e batchEntry) bool {
		if e.future == nil {
			return false
		}
		own.batch.members = append(own.batch.members, e.future)
		return !e.future.joinMessage(m, e.method) // cancelled before
	})
	m.items = len(b.entries)
	if m.items == 0 && calls > 0 {
		own.publishOutcome()
		return own, nil
	}
	err := context.Cause(ctx)
	if n := m.items; err == nil && n > s.limits.Batch {
		// A receiver with the same limit, the default, would refuse the whole batch. This
		// side would refuse a reply with as many members.
		err = unsentf(CodeInvalidRequest, "batch too long: %s calls and notifications, %s: send it in parts, or raise the limit at both ends",
			thousands(n), overLimitText(s.limits.Batch, "members", "Limits.Batch"))
	}
	if err == nil {
		err = s.queueBatch(ctx, b, m)
	}
	if err != nil {
		for _, f := range own.batch.members {
			f.finish(err)
		}
		return nil, err
	}
	if !m.expectsReply() {
		own.publishOutcome()
	}
	return own, nil
}

// countCalls returns the number of calls, without notifications.
func (b *Batch) countCalls() (n int) {
	for _, e := range b.entries {
		if e.future != nil {
			n++
		}
	}
	return n
}

// queueBatch encodes and queues b, whose calls are in m.
func (s *Session) queueBatch(ctx context.Context, b *Batch, m *pendingMessage) error {
	sc := getEncodeBuffer()
	defer sc.recycle()
	next := 0
	var err error
	sc.msg, err = b.Append(sc.msg[:0], s.Protocol(), s.codec, func() ID {
		sc.id = strconv.AppendUint(sc.id[:0], m.calls[next].id, 10)
		next++
		return sc.id
	})
	if err != nil {
		return asUnsent(err)
	}
	if err = s.writer.sendMessage(ctx, sc, fromCaller, m); err != nil {
		return err
	}
	for _, e := range b.entries {
		if e.future != nil && e.future.isCancelled() { // cancelled just before the registration
			s.calls.cancelMember(e.future, e.future.call)
		}
	}
	if s.trace.RequestSent != nil {
		for _, e := range b.entries {
			var c *pendingCall // nil for a notification
			if e.future != nil {
				c = e.future.call
			}
			s.writer.traceRequestSent(e.method, c)
		}
	}
	return nil
}

// peerBatch is a batch of requests from the peer. The request queue holds a batch as one
// entry, and workers take the members in turn. After the last reply, the replies leave in
// a single message, in the order of the requests. The session's lock guards the fields.
// Members share no bytes with the received message.
type peerBatch struct {
	members        []peerRequest // every item of the batch; invalid items are answered
	nextMember     int           // number of members begun or refused
	replies        []byte        // encoded replies, in the order of completion
	spans          []span        // position of each member's reply in replies
	missingReplies int           // number of replies still to come
	openMembers    int           // requests and notifications that have not finished
	replySize      int           // bytes of handlers' replies, plus 2 for each; including replies that were too large
	reservedBytes  int           // part of replySize that memoryUse.batchReplies includes
	size           int           // bytes for Limits.QueueBytes
	arrived        time.Duration
	deadline       deadline
	handlers       int  // members whose handlers run
	begunCounted   bool // no member waits, and handlers run: requestQueue.begunBatchBytes includes size
	sending        bool // every reply is stored, but the message is not queued yet
	disconnect     bool // close the session once the replies are queued, as a handler wants
}

func (b *peerBatch) markArrived(s *Session, now time.Duration) {
	b.arrived = now
	for i := range b.members {
		s.requests.trackCancellableLocked(&b.members[i])
	}
}

func (b *peerBatch) queuedBytes() int           { return b.size }
func (b *peerBatch) requestDeadline() *deadline { return &b.deadline }
func (b *peerBatch) isQueued() bool             { return b.deadline.owner != nil && b.nextMember < len(b.members) }

func (b *peerBatch) about() (string, slog.Attr) {
	return "request refused", slog.Int("members", len(b.members))
}

func (b *peerBatch) appendRequests(calls []*peerRequest, want func(*peerRequest) bool) []*peerRequest {
	for i := range b.members {
		if c := &b.members[i]; want(c) {
			calls = append(calls, c)
		}
	}
	return calls
}

func (b *peerBatch) beginNext(s *Session) (c *peerRequest, last bool) {
	for b.skipAnswered() {
		c := &b.members[b.nextMember]
		b.nextMember++
		if c.IsNotification() || s.life.state < stateClosing {
			c.arrived = b.arrived
			c.markBegun(s)
			b.handlers++
			return c, !b.skipAnswered()
		}
	}
	return nil, true
}

// skipAnswered skips members that need no handler, and reports whether a member is left.
func (b *peerBatch) skipAnswered() bool {
	for b.nextMember < len(b.members) && b.members[b.nextMember].answered {
		b.nextMember++
	}
	return b.nextMember < len(b.members)
}

func (b *peerBatch) nextHandlingBytes() int {
	if !b.skipAnswered() {
		return 0
	}
	return int(b.members[b.nextMember].handlingBytes)
}

// memberSize is the approximate memory of a waiting member, besides the bytes of the
// member.
const memberSize = 256

// maxGuess bounds an allocation of estimated size.
const maxGuess = 64 << 10

// span is a part of a buffer. An empty span stands for no reply.
type span struct{ start, end int }

// appendReply stores the reply to item i.
func (b *peerBatch) appendReply(i int, reply []byte) {
	if b.replies == nil { // further replies are probably about as long
		b.replies = make([]byte, 0, min((len(reply)+8)*len(b.members), maxGuess))
	}
	b.spans[i].start = len(b.replies)
	b.replies = append(b.replies, reply...)
	b.spans[i].end = len(b.replies)
}

// reserveReplyLocked counts a reply of size bytes, and returns the exceeded limit, or 0.
// The replies of the batch, including refused replies, must fit into Limits.Response (as
// in aiorpcX). The replies of all incomplete batches together must fit into
// Limits.Response or Limits.Outbox, whichever is larger. Callers must hold s.mu.
func (b *peerBatch) reserveReplyLocked(s *Session, size int) (limit int) {
	s.mu.AssertHeld()
	size += 2
	b.replySize += size
	response := s.requests.maxResponse()
	together := max(response, s.limits.Outbox)
	switch {
	case b.replySize > response:
		return response
	case s.memory.batchReplies+size > together:
		return together
	}
	b.reservedBytes += size
	s.memory.batchReplies += size
	return 0
}

// storeReplyLocked stores an awaited reply, and reports whether the reply was the last.
// Callers must hold s.mu.
func (b *peerBatch) storeReplyLocked(s *Session, i int, reply []byte) bool {
	s.mu.AssertHeld()
	b.appendReply(i, reply)
	b.missingReplies--
	b.finishMemberLocked(s)
	b.sending = b.missingReplies == 0
	return b.sending
}

// finishMemberLocked counts a finished member. The last member ends the batch's deadline.
// Callers must hold s.mu.
func (b *peerBatch) finishMemberLocked(s *Session) {
	s.mu.AssertHeld()
	if b.openMembers--; b.openMembers == 0 {
		s.requests.open.removeDeadline(&b.deadline)
	}
}

func (b *peerBatch) refuseRemaining(s *Session, e *Error, from sendMode) {
	s.effects.failMembers(b, b.takeUnbegunLocked(s), e, from)
}

func (b *peerBatch) abortRequest(s *Session, c *peerRequest, e *Error) {
	c.markAnsweredLocked(s)
	if b.isQueued() && !b.skipAnswered() {
		s.requests.removeEntry(b)
	}
	s.effects.failMembers(b, []*peerRequest{c}, e, fromReader)
}

// takeUnbegunLocked takes the members that have not begun. It drops the notifications and
// returns the requests. Callers must hold s.mu.
func (b *peerBatch) takeUnbegunLocked(s *Session) (rest []*peerRequest) {
	s.mu.AssertHeld()
	if b.isQueued() {
		s.requests.removeEntry(b)
	}
	for ; b.nextMember < len(b.members); b.nextMember++ {
		switch c := &b.members[b.nextMember]; {
		case c.answered:
		case c.IsNotification():
			c.markAnsweredLocked(s)
			s.requests.countDroppedLocked(c)
			b.finishMemberLocked(s)
		default:
			c.markAnsweredLocked(s)
			rest = append(rest, c)
		}
	}
	return rest
}

// answerMembers answers members with e. If e is nil, the members get no reply.
func (b *peerBatch) answerMembers(s *Session, members []*peerRequest, e *Error, from sendMode) {
	sc := getEncodeBuffer()
	defer sc.recycle()
	complete := false
	for _, c := range members {
		sc.msg = sc.msg[:0]
		if e != nil { // a nil e means no reply
			s.requests.encodeError(sc, c.ID, e)
		}
		s.lock()
		complete = b.storeReplyLocked(s, int(c.index), sc.msg)
		s.unlock()
	}
	if complete {
		b.sendReplies(s, nil, from)
	}
}

// expireLocked implements [expirer]. Limits.ProcessingTimeout has passed. Each unfinished
// member counts as an error, like a request outside a batch. Callers must hold s.mu.
func (b *peerBatch) expireLocked(s *Session) {
	s.mu.AssertHeld()
	for i := range b.members {
		if c := &b.members[i]; !c.answered {
			s.requests.timeOutLocked(c)
		}
	}
	waiting := b.takeUnbegunLocked(s)
	calls := b.appendRequests(nil, (*peerRequest).isOpen)
	var begun []*peerRequest
	for _, c := range calls {
		c.markAnsweredLocked(s)
		switch {
		case c.IsNotification():
			b.finishMemberLocked(s)
		case c.isRunning():
			begun = append(begun, c)
		default:
			waiting = append(waiting, c)
		}
	}
	s.effects.failMembers(b, waiting, timedOut(false), fromReader)
	s.effects.failMembers(b, begun, timedOut(true), fromReader)
	for _, c := range calls {
		s.effects.endContext(c, errProcessing)
	}
}

// shrinkReplies replaces replies by e, the largest first, until the message has shrunk by
// the given number of bytes.
func (b *peerBatch) shrinkReplies(s *Session, sc *encodeBuffer, e *Error, bytes int) {
	size := func(i int) int { return b.spans[i].end - b.spans[i].start }
	order := make([]int, len(b.spans))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return size(j) - size(i) })
	for _, i := range order {
		if bytes <= 0 {
			return
		}
		if c := &b.members[i]; c.ID != nil && s.requests.encodeError(sc, c.ID, e) && len(sc.msg) < size(i) {
			bytes -= size(i) - len(sc.msg)
			sp := &b.spans[i]
			sp.end = sp.start + copy(b.replies[sp.start:], sc.msg)
		}
	}
}
