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
type Batch struct {
	_         noCopy
	self      *Batch // the receiver of the first use, which a copy is not
	entries   []batchEntry
	futures   []Future // to be given to the next calls
	sent      bool
	own       *Future // the outcome of the whole
	unsettled int     // members without an outcome
	answered  bool    // a member of an array was the reply to one of ours
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
		return failed(nil, method, ErrBatchSent)
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
	f := getFrames(0)
	defer f.put()
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
	sc := getScratch()
	defer sc.put()
	sc.parts = slices.AppendSeq(sc.parts, split(f.buf, f.ends))
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
	if err := own.wait(ctx); err != nil {
		s.giveUp(own, err)
		<-own.Done()
	}
	return own.fill()
}

// GoBatch sends b and returns a future for the whole of it. It waits, and ctx bounds
// the calls, as for [Session.Go]; to Limits.Outgoing a batch is one call. For an empty
// batch nothing is sent, as by SendBatch, and the future is done.
func (s *Session) GoBatch(ctx context.Context, b *Batch) *Future {
	mustHaveContext("Session.GoBatch", ctx)
	if b.isEmpty() {
		done := newFuture(s, "")
		done.members = []*Future{}
		done.finish()
		return done
	}
	own, err := s.sendBatch(ctx, b)
	if err != nil {
		return failed(s, "", err)
	}
	own.watch(ctx)
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
	_, own.untimed = ctx.Deadline()
	b.own = own
	b.entries = slices.DeleteFunc(b.entries, func(e batchEntry) bool {
		if e.future == nil {
			return false
		}
		own.members = append(own.members, e.future)
		return !e.future.send(s) // it was cancelled
	})
	if len(b.entries) == 0 && len(own.members) > 0 {
		own.finish()
		return own, nil
	}
	err := context.Cause(ctx)
	if n := len(b.entries); err == nil && n > s.limits.Batch {
		// The receiver, whose limit is the same by default, would refuse it as a
		// whole, and this side a reply of as many members.
		err = unsentf(CodeInvalidRequest, "batch too long: %s calls and notifications, %s: send it in parts, or raise the limit at both ends",
			thousands(n), over(s.limits.Batch, "members", "Limits.Batch"))
	}
	if err == nil {
		err = s.queueBatch(ctx, b)
	}
	if err != nil {
		for _, f := range own.members {
			f.fail(err)
		}
		return nil, err
	}
	if b.calls() == 0 {
		own.finish()
	}
	return own, nil
}

// calls counts the calls.
func (b *Batch) calls() (n int) {
	for _, e := range b.entries {
		if e.future != nil {
			n++
		}
	}
	return n
}

func (s *Session) queueBatch(ctx context.Context, b *Batch) error {
	sc := getScratch()
	defer sc.put()
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
	if err = s.post(ctx, sc, fromCaller, b.own); err != nil {
		return err
	}
	for _, e := range b.entries {
		if e.future != nil && e.future.isWithdrawn() { // just before it was in the table
			s.giveUp(e.future, ErrCancelled)
		}
	}
	if s.trace.RequestSent != nil {
		for _, e := range b.entries {
			s.traceSent(e.method, e.future)
		}
	}
	return nil
}

// inBatch is a batch of requests that the peer sent: one entry of the inbox,
// whose members workers take in turn. Its replies go out in one message, in the
// order of the requests, when the last is there. It is guarded by the session's
// lock; what it shares with its message was copied.
type inBatch struct {
	members    []call // all of its items; invalid ones are answered
	taken      int    // of the members, how many were begun or refused
	replies    []byte // in the order in which they came
	spans      []span // where in replies those of the members are
	waiting    int    // replies that are not there yet
	unfinished int    // requests and notifications that are not over
	replySize  int    // of the replies of handlers, 2 more for each; also of those that were too large
	held       int    // of that, what waits: s.assembled counts it
	size       int    // what it counts in Limits.QueueBytes
	arrived    time.Duration
	deadline   deadline
	handlers   int  // of members, that run
	begun      bool // it does not wait any more, and handlers run: inbox.begun counts it
	sending    bool // all replies are there, and not queued yet
	disconnect bool // a member's handler wants it when the replies are queued
}

func (b *inBatch) arrive(s *Session, now time.Duration) {
	b.arrived = now
	for i := range b.members {
		s.know(&b.members[i])
	}
}

func (b *inBatch) bytes() int     { return b.size }
func (b *inBatch) due() *deadline { return &b.deadline }
func (b *inBatch) waits() bool    { return b.deadline.owner != nil && b.taken < len(b.members) }

func (b *inBatch) about() (string, slog.Attr) {
	return "request refused", slog.Int("members", len(b.members))
}

func (b *inBatch) notifications(calls []*call) []*call {
	for i := b.taken; i < len(b.members); i++ {
		if c := &b.members[i]; c.IsNotification() && !c.answered {
			calls = append(calls, c)
		}
	}
	return calls
}

func (b *inBatch) next(s *Session) (c *call, last bool) {
	for b.skipAnswered() {
		c := &b.members[b.taken]
		b.taken++
		if c.IsNotification() || s.state < stateClosing {
			c.arrived = b.arrived
			c.begin(s)
			b.handlers++
			return c, !b.skipAnswered()
		}
	}
	return nil, true
}

// skipAnswered passes over members that need no handler, and reports whether there
// is one that does.
func (b *inBatch) skipAnswered() bool {
	for b.taken < len(b.members) && b.members[b.taken].answered {
		b.taken++
	}
	return b.taken < len(b.members)
}

func (b *inBatch) nextSize() int {
	if !b.skipAnswered() {
		return 0
	}
	return int(b.members[b.taken].held)
}

func (b *inBatch) running(calls []*call) []*call {
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

// append stores the reply to item i.
func (b *inBatch) append(i int, reply []byte) {
	if b.replies == nil { // the others will be about as long
		b.replies = make([]byte, 0, min((len(reply)+8)*len(b.members), maxGuess))
	}
	b.spans[i].start = len(b.replies)
	b.replies = append(b.replies, reply...)
	b.spans[i].end = len(b.replies)
}

// hold counts a reply of so many bytes, and returns the limit that it exceeds, 0
// if it does not: with all that this batch was to be answered, what was refused
// included, Limits.Response (as in aiorpcX); with what the other incomplete batches
// hold, too, that or Limits.Outbox, whichever is more.
func (b *inBatch) hold(s *Session, size int) (limit int) {
	size += 2
	b.replySize += size
	response := s.maxResponse()
	together := max(response, s.limits.Outbox)
	switch {
	case b.replySize > response:
		return response
	case s.assembled+size > together:
		return together
	}
	b.held += size
	s.assembled += size
	return 0
}

// put stores a reply that was waited for, and reports whether it was the last.
func (b *inBatch) put(s *Session, i int, reply []byte) bool {
	b.append(i, reply)
	b.waiting--
	b.finish(s)
	b.sending = b.waiting == 0
	return b.sending
}

// finish counts a member that is over.
func (b *inBatch) finish(s *Session) {
	if b.unfinished--; b.unfinished == 0 {
		s.incoming.remove(&b.deadline)
	}
}

func (b *inBatch) refuse(s *Session, e *Error, from sender) {
	s.fx.failMembers(b, b.remaining(s), e, from)
}

func (b *inBatch) cancel(s *Session, c *call, e *Error) {
	c.settle(s)
	if b.waits() && !b.skipAnswered() {
		s.in.drop(b)
	}
	s.fx.failMembers(b, []*call{c}, e, fromReader)
}

// remaining takes what was not begun: it drops the notifications and returns
// the requests.
func (b *inBatch) remaining(s *Session) (rest []*call) {
	if b.waits() {
		s.in.drop(b)
	}
	for ; b.taken < len(b.members); b.taken++ {
		switch c := &b.members[b.taken]; {
		case c.answered:
		case c.IsNotification():
			c.settle(s)
			s.countDroppedLocked(c)
			b.finish(s)
		default:
			c.settle(s)
			rest = append(rest, c)
		}
	}
	return rest
}

// fail answers members with e.
func (b *inBatch) fail(s *Session, members []*call, e *Error, from sender) {
	sc := getScratch()
	defer sc.put()
	complete := false
	for _, c := range members {
		sc.msg = sc.msg[:0]
		if e != nil { // otherwise the request is not answered
			s.encodeError(sc, c.ID, e)
		}
		s.lock()
		complete = b.put(s, int(c.index), sc.msg)
		s.unlock()
	}
	if complete {
		b.send(s, nil, from)
	}
}

// expire implements [expirer]: Limits.ProcessingTimeout has passed. Each member that
// is not over is an error, as it would be by itself.
func (b *inBatch) expire(s *Session) {
	for i := range b.members {
		if c := &b.members[i]; !c.answered {
			s.timeOutLocked(c)
		}
	}
	waiting := b.remaining(s)
	calls := b.running(nil)
	var begun []*call
	for _, c := range calls {
		c.settle(s)
		switch {
		case c.IsNotification():
			b.finish(s)
		case c.isRunning():
			begun = append(begun, c)
		default:
			waiting = append(waiting, c)
		}
	}
	s.fx.failMembers(b, waiting, timedOut(false), fromReader)
	s.fx.failMembers(b, begun, timedOut(true), fromReader)
	for _, c := range calls {
		s.fx.endContext(c, errProcessing)
	}
}

// send sends the replies, for the handler h if that is not nil. Nobody else has the
// batch any more.
func (b *inBatch) send(s *Session, h *handlerContext, from sender) {
	s.lock()
	s.assembled -= b.held
	s.unlock()
	sc := getScratch()
	defer sc.put()
	err := b.frame(s, sc)
	b.replies, b.spans = nil, nil // one copy is enough to wait with
	clear(sc.parts)
	if err == nil {
		_ = s.postFramed(context.Background(), h, sc, from, nil) // fails only if the session ends
	}
	s.lock()
	b.sending = false
	s.unlock()
	if b.disconnect { // which stands now
		s.endPolitely(ErrClosed)
	}
}

// frame puts the replies into one message and frames it. If the message is too large,
// errors take the place of the largest replies. If it still is, one error does.
func (b *inBatch) frame(s *Session, sc *scratch) error {
	err := b.join(s, sc)
	size, ok := errors.AsType[*SizeError](err)
	if !ok {
		return err
	}
	e := responseTooLarge(size.Limit)
	s.lock()
	s.notePeerLocked(slog.LevelWarn, "replies to a batch are too large together, and some are replaced by errors",
		slog.Int("members", len(b.members)), byteLimit(size.Field, size.Limit))
	s.unlock()
	b.shrink(s, sc, e, size.Size-size.Limit)
	if err = b.join(s, sc); err == nil {
		return nil
	}
	s.encodeError(sc, nil, e)
	return s.framed(sc)
}

// join puts the replies into one message and frames it.
func (b *inBatch) join(s *Session, sc *scratch) (err error) {
	sc.parts = sc.parts[:0]
	for _, sp := range b.spans {
		if sp.end > sp.start {
			sc.parts = append(sc.parts, b.replies[sp.start:sp.end])
		}
	}
	if sc.msg, err = s.Protocol().AppendBatch(sc.msg[:0], sc.parts); err != nil {
		return err
	}
	return s.framed(sc)
}

// shrink replaces replies by e, the largest first, until the others together have
// become smaller by the given number of bytes.
func (b *inBatch) shrink(s *Session, sc *scratch, e *Error, bytes int) {
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
		if c := &b.members[i]; c.ID != nil && s.encodeError(sc, c.ID, e) && len(sc.msg) < size(i) {
			bytes -= size(i) - len(sc.msg)
			sp := &b.spans[i]
			sp.end = sp.start + copy(b.replies[sp.start:], sc.msg)
		}
	}
}
