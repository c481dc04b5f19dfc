package rpcx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"
)

// Batch collects requests and notifications that are sent in one message. The
// zero value is ready to use. It is sent once, by [Session.SendBatch] or
// [Session.GoBatch], and is for one goroutine until then.
//
// A Batch must not be copied after its first use: its methods panic on the copy, and
// go vet finds most copies.
//
// If calls fail, the error is a [*BatchError], and the other results are in their places. If
// a member cannot be encoded, nothing is sent. A call without a response fails with
// [ErrNoResponse]. A peer may also answer in separate messages.
//
// The members of a received batch are handled concurrently, and answered in one message. Of
// invalid members 16 are answered; with more, the batch is refused as a whole, and so is a
// batch over Limits.Batch. If a peer refuses a batch as a whole, the calls fail at once,
// provided that nothing else was sent since the last reply. JSON-RPC 1.0 has no batches.
type Batch struct {
	_           noCopy
	self        *Batch // the receiver of the first use, which a copy is not
	entries     []batchEntry
	futures     []Future // to be given to the next calls
	sent        bool
	whole       *Future // the outcome of the whole
	openMembers int     // members without an outcome
	hasReply    bool    // a member of an array was the reply to one of ours
}

// noCopy makes go vet report the copies of a struct that has a field of this type.
type noCopy struct{}

// Lock and Unlock are what go vet looks for. Nobody calls them.
func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// checkCopy panics if b is a copy of a batch that was used.
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

// Call adds a call. Its result goes to dest, a pointer or nil, when
// [Session.SendBatch] returns or when the future or the batch's is waited for.
func (b *Batch) Call(method string, params, dest any) *Future {
	b.checkCopy()
	if b.sent {
		return newFailedFuture(nil, method, ErrBatchSent)
	}
	if len(b.futures) == 0 {
		b.futures = make([]Future, min(max(1, len(b.entries)), 64))
	}
	f := &b.futures[0]
	b.futures = b.futures[1:]
	f.method, f.batch, f.dest = method, b, dest
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

// isEmpty reports whether nothing was added.
func (b *Batch) isEmpty() bool {
	b.checkCopy()
	return !b.sent && len(b.entries) == 0
}

// Append appends the batch as one message under p, without framing, to dst; id
// gives the calls their ids. It fails, with dst as it was, if a member cannot be
// built, or if p has no batches. It is for use without a session.
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
			// A protocol that has no batches says so, whatever their members are.
			if _, none := p.AppendBatch(nil, [][]byte{[]byte("0")}); none != nil {
				return dst, none
			}
			return dst, fmt.Errorf("member %d of the batch, %q: %w", i+1, e.method, asUnsent(err))
		}
		f.ends = append(f.ends, len(f.buf))
	}
	sc := getEncodeBuffer()
	defer sc.recycle()
	sc.parts = slices.AppendSeq(sc.parts, splitAtEnds(f.buf, f.ends))
	return p.AppendBatch(dst, sc.parts)
}

// SendBatch sends b and waits for the replies to all of its calls. ctx bounds
// the whole, as for [Session.Call]. If a call fails the error is a
// [*BatchError]; then the results of the others are there all the same. If the
// batch cannot be sent the error says why, and because of which member. A batch of
// notifications only is over when it has been queued. For an empty batch nothing is
// sent, and nil returned; it may be filled and sent later.
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
		s.calls.abandonCall(own, err)
		<-own.Done()
	}
	return own.fillDestinations()
}

// GoBatch sends b and returns a future for the whole of it. It waits, and ctx bounds
// the calls, as for [Session.Go]; to Limits.Outgoing a batch is one call. For an empty
// batch nothing is sent, as by SendBatch, and the future is done.
func (s *Session) GoBatch(ctx context.Context, b *Batch) *Future {
	mustHaveContext("Session.GoBatch", ctx)
	if b.isEmpty() {
		done := newFuture(s, "")
		done.members = []*Future{}
		done.publishOutcome()
		return done
	}
	own, err := s.sendBatch(ctx, b)
	if err != nil {
		return newFailedFuture(s, "", err)
	}
	own.watchContext(ctx)
	return own
}

// sendBatch queues b and returns the future of the whole.
func (s *Session) sendBatch(ctx context.Context, b *Batch) (*Future, error) {
	b.checkCopy()
	if b.sent {
		return nil, ErrBatchSent
	}
	b.sent = true
	own := newFuture(s, "")
	own.members = make([]*Future, 0, len(b.entries))
	_, own.hasOwnDeadline = ctx.Deadline()
	b.whole = own
	b.entries = slices.DeleteFunc(b.entries, func(e batchEntry) bool {
		if e.future == nil {
			return false
		}
		own.members = append(own.members, e.future)
		return !e.future.assignSession(s) // it was cancelled
	})
	if len(b.entries) == 0 && len(own.members) > 0 {
		own.publishOutcome()
		return own, nil
	}
	err := context.Cause(ctx)
	if n := len(b.entries); err == nil && n > s.limits.Batch {
		// The receiver, whose limit is the same by default, would refuse it as a
		// whole, and this side a reply of as many members.
		err = unsentf(CodeInvalidRequest, "batch too long: %s calls and notifications, %s: send it in parts, or raise the limit at both ends",
			thousands(n), overLimitText(s.limits.Batch, "members", "Limits.Batch"))
	}
	if err == nil {
		err = s.queueBatch(ctx, b)
	}
	if err != nil {
		for _, f := range own.members {
			f.failUnsent(err)
		}
		return nil, err
	}
	if b.countCalls() == 0 {
		own.publishOutcome()
	}
	return own, nil
}

// countCalls counts the calls.
func (b *Batch) countCalls() (n int) {
	for _, e := range b.entries {
		if e.future != nil {
			n++
		}
	}
	return n
}

func (s *Session) queueBatch(ctx context.Context, b *Batch) error {
	sc := getEncodeBuffer()
	defer sc.recycle()
	next := 0
	var err error
	sc.msg, err = b.Append(sc.msg[:0], s.Protocol(), s.codec, func() ID {
		for b.entries[next].future == nil {
			next++
		}
		sc.id = strconv.AppendUint(sc.id[:0], b.entries[next].future.id, 10)
		next++
		return sc.id
	})
	if err != nil {
		return asUnsent(err)
	}
	if err = s.writer.sendMessage(ctx, sc, fromCaller, b.whole); err != nil {
		return err
	}
	for _, e := range b.entries {
		if e.future != nil && e.future.isCancelled() { // just before it was in the table
			s.calls.abandonCall(e.future, ErrCancelled)
		}
	}
	if s.trace.RequestSent != nil {
		for _, e := range b.entries {
			s.writer.traceRequestSent(e.method, e.future)
		}
	}
	return nil
}

// peerBatch is a batch of requests that the peer sent: one entry of the inbox,
// whose members workers take in turn. Its replies go out in one message, in the
// order of the requests, when the last is there. It is guarded by the session's
// lock; what it shares with its message was copied.
type peerBatch struct {
	members        []peerRequest // all of its items; invalid ones are answered
	nextMember     int           // of the members, how many were begun or refused
	replies        []byte        // in the order in which they came
	spans          []span        // where in replies those of the members are
	missingReplies int           // replies that are not there yet
	openMembers    int           // requests and notifications that are not over
	replySize      int           // of the replies of handlers, 2 more for each; also of those that were too large
	reservedBytes  int           // of that, what waits: s.assembled counts it
	size           int           // what it counts in Limits.QueueBytes
	arrived        time.Duration
	deadline       deadline
	handlers       int  // of members, that run
	begunCounted   bool // it does not wait any more, and handlers run: inbox.begun counts it
	sending        bool // all replies are there, and not queued yet
	disconnect     bool // a member's handler wants it when the replies are queued
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

func (b *peerBatch) appendNotifications(calls []*peerRequest) []*peerRequest {
	for i := b.nextMember; i < len(b.members); i++ {
		if c := &b.members[i]; c.IsNotification() && !c.answered {
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

// skipAnswered passes over members that need no handler, and reports whether there
// is one that does.
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

func (b *peerBatch) appendRunning(calls []*peerRequest) []*peerRequest {
	for i := range b.members {
		if c := &b.members[i]; c.begun && !c.answered {
			calls = append(calls, c)
		}
	}
	return calls
}

// memberSize is about what a member takes up while it waits, beside its bytes.
const memberSize = 256

// maxGuess is how much is allocated at most on a guess at what will be needed.
const maxGuess = 64 << 10

// span is a part of a buffer; an empty one is none.
type span struct{ start, end int }

// appendReply stores the reply to item i.
func (b *peerBatch) appendReply(i int, reply []byte) {
	if b.replies == nil { // the others will be about as long
		b.replies = make([]byte, 0, min((len(reply)+8)*len(b.members), maxGuess))
	}
	b.spans[i].start = len(b.replies)
	b.replies = append(b.replies, reply...)
	b.spans[i].end = len(b.replies)
}

// reserveReplyLocked counts a reply of so many bytes, and returns the limit that it exceeds, 0
// if it does not: with all that this batch was to be answered, what was refused
// included, Limits.Response (as in aiorpcX); with what the other incomplete batches
// hold, too, that or Limits.Outbox, whichever is more.
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

// storeReplyLocked stores a reply that was waited for, and reports whether it was the last.
func (b *peerBatch) storeReplyLocked(s *Session, i int, reply []byte) bool {
	s.mu.AssertHeld()
	b.appendReply(i, reply)
	b.missingReplies--
	b.finishMemberLocked(s)
	b.sending = b.missingReplies == 0
	return b.sending
}

// finishMemberLocked counts a member that is over.
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

// takeUnbegunLocked takes what was not begun: it drops the notifications and returns
// the requests.
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

// answerMembers answers members with e.
func (b *peerBatch) answerMembers(s *Session, members []*peerRequest, e *Error, from sendMode) {
	sc := getEncodeBuffer()
	defer sc.recycle()
	complete := false
	for _, c := range members {
		sc.msg = sc.msg[:0]
		if e != nil { // otherwise the request is not answered
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

// expireLocked implements [expirer]: Limits.ProcessingTimeout has passed. Each member that
// is not over is an error, as it would be by itself.
func (b *peerBatch) expireLocked(s *Session) {
	s.mu.AssertHeld()
	for i := range b.members {
		if c := &b.members[i]; !c.answered {
			s.requests.timeOutLocked(c)
		}
	}
	waiting := b.takeUnbegunLocked(s)
	calls := b.appendRunning(nil)
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

// sendReplies sends the replies, for the handler h if that is not nil. Nobody else has the
// batch any more.
func (b *peerBatch) sendReplies(s *Session, h *handlerContext, from sendMode) {
	s.lock()
	s.memory.batchReplies -= b.reservedBytes
	s.unlock()
	sc := getEncodeBuffer()
	defer sc.recycle()
	err := b.frameReplies(s, sc)
	b.replies, b.spans = nil, nil // one copy is enough to wait with
	clear(sc.parts)
	if err == nil {
		_ = s.writer.sendFrame(context.Background(), h, sc, from, nil) // fails only if the session ends
	}
	s.lock()
	b.sending = false
	s.unlock()
	if b.disconnect { // which stands now
		s.closePolitely(ErrClosed)
	}
}

// frameReplies puts the replies into one message and frames it. If the message is too large,
// errors take the place of the largest replies. If it still is, one error does.
func (b *peerBatch) frameReplies(s *Session, sc *encodeBuffer) error {
	err := b.joinReplies(s, sc)
	size, ok := errors.AsType[*SizeError](err)
	if !ok {
		return err
	}
	e := responseTooLarge(size.Limit)
	s.lock()
	s.logs.logPeerLaterLocked(slog.LevelWarn, "replies to a batch are too large together, and some are replaced by errors",
		slog.Int("members", len(b.members)), byteLimitAttr(size.Field, size.Limit))
	s.unlock()
	b.shrinkReplies(s, sc, e, size.Size-size.Limit)
	if err = b.joinReplies(s, sc); err == nil {
		return nil
	}
	s.requests.encodeError(sc, nil, e)
	return s.writer.frameMessage(sc)
}

// joinReplies puts the replies into one message and frames it.
func (b *peerBatch) joinReplies(s *Session, sc *encodeBuffer) (err error) {
	sc.parts = sc.parts[:0]
	for _, sp := range b.spans {
		if sp.end > sp.start {
			sc.parts = append(sc.parts, b.replies[sp.start:sp.end])
		}
	}
	if sc.msg, err = s.Protocol().AppendBatch(sc.msg[:0], sc.parts); err != nil {
		return err
	}
	return s.writer.frameMessage(sc)
}

// shrinkReplies replaces replies by e, the largest first, until the others together have
// become smaller by the given number of bytes.
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
