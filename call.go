package rpcx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"example.com/rpcx/internal/bounded"
)

// Future is a call that was sent, or is to be sent in a [Batch]. Its methods
// may be called from any goroutine. The zero value is no call, and has failed.
type Future struct {
	session        *Session // set when it is sent
	method         string
	id             uint64
	messageSeq     uint64 // its message's number in the outbox
	started        time.Duration
	deadline       deadline
	hasOwnDeadline bool        // its context has a deadline, which counts instead of ours
	expired        bool        // Limits.RequestTimeout has passed before it was queued
	stop           func() bool // ends the watch over its context

	batch   *Batch    // that it is a member of
	members []*Future // of the batch that it is the outcome of
	dest    any       // what a member's result goes to
	filled  sync.Once
	fillErr error

	nextCompleted *Future // in completions

	result []byte // owned
	err    error

	mu        sync.Mutex
	finished  bool          // result and err stand
	cancelled bool          // Cancel was called
	done      chan struct{} // closed at the end, made when asked for; of one slot in a Future of the pool's
	callbacks []func(*Future)
}

// Call calls method at the peer, waits for the reply, and decodes its result
// into result, a pointer, unless that is nil.
//
// params is what encodes to an array or an object: [Args] for positional
// arguments, a map or a struct for named ones, nil for none, [EmptyArgs] for none in
// an array.
//
// ctx bounds the whole call, waiting for room in the outbox included: when it
// ends the call is given up and fails with ctx's cause. If ctx has no deadline,
// Limits.RequestTimeout applies, and the error is [ErrTimeout]; a deadline of ctx counts
// instead, even one that is longer. An error that matches context.DeadlineExceeded may be
// wrapped, to say that a bad message came meanwhile, or that what has come is not taken for
// a message. If the peer
// answers with an error it is an [*Error]; if its answer is ill-formed a
// [*ProtocolError]; if the connection ends first a [*ConnectionError]; if the
// session is over already it matches [ErrClosed]. If the request is larger than the
// framer takes, or the reply was, it is a [*SizeError].
func (s *Session) Call(ctx context.Context, method string, params, result any) error {
	mustHaveContext("Session.Call", ctx)
	f := s.pool.takeFuture(s, method)
	if err := s.sendCall(ctx, f, params); err != nil {
		s.pool.putFuture(f)
		return err
	}
	h := handlerOf(ctx)
	s.requests.beginReplyWait(h)
	if end := ctx.Done(); end == nil {
		<-f.done
	} else {
		select {
		case <-f.done:
		case <-end:
			s.calls.abandonCall(f, context.Cause(ctx))
			<-f.done // by whoever removed it from the table, if not by us (I3)
		}
	}
	s.requests.endReplyWait(h)
	err := f.decode(result)
	s.pool.putFuture(f) // not after a panic (of a hook, say), when the table may have it still
	return err
}

// Go calls method at the peer and returns a future for the result, as soon as
// the request is queued. Before that it waits while the outbox is full, and, unless
// ctx is a handler's, while as many calls as Limits.Outgoing says have no reply (50
// in the beginning). ctx bounds the whole call, as for [Session.Call], not only Go.
// If Go, Notify or GoBatch has returned before another of them is called, its
// message leaves first.
func (s *Session) Go(ctx context.Context, method string, params any) *Future {
	mustHaveContext("Session.Go", ctx)
	f := newFuture(s, method)
	if err := s.sendCall(ctx, f, params); err != nil {
		f.failUnsent(err)
		return f
	}
	f.watchContext(ctx)
	return f
}

// Notify sends a notification: a request that is not answered. It returns when
// the message is queued; ctx bounds the wait for room in the outbox. The error is
// ctx's cause, one that matches [ErrClosed], or why the message cannot be built or
// framed: a [*SizeError] if it is larger than the framer takes. That it returns nil does
// not mean that the peer has the notification: before a program ends, it should call
// [Session.Shutdown], which waits until all is written, and not only Close.
func (s *Session) Notify(ctx context.Context, method string, params any) error {
	mustHaveContext("Session.Notify", ctx)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	err := s.sendNotification(ctx, fromCaller, method, params)
	if err == nil {
		s.writer.traceRequestSent(method, nil)
	}
	return err
}

// sendNotification encodes and queues a notification.
func (s *Session) sendNotification(ctx context.Context, from sendMode, method string, params any) (err error) {
	sc := getEncodeBuffer()
	defer sc.recycle()
	if sc.msg, err = s.Protocol().AppendNotification(sc.msg[:0], method, params, s.codec); err != nil {
		return asUnsent(err)
	}
	return s.writer.sendMessage(ctx, sc, from, nil)
}

// tryNotify sends a notification of the session's own, if the outbox has room, and
// reports whether one could be sent. If not, and the session goes on, it has failed
// logged.
func (s *Session) tryNotify(method string, params any, failed string) bool {
	err := s.sendNotification(context.Background(), fromNobody, method, params)
	if err != nil && !errors.Is(err, ErrClosed) && s.log.Handler() != slog.DiscardHandler {
		attrs := []slog.Attr{errorAttr(err)}
		size := recordSize(failed, attrs)
		s.lock()
		s.noteOfSizeLocked(size, slog.LevelWarn, failed, attrs)
		s.unlock()
	}
	return err == nil
}

// sendCall encodes and queues a request.
func (s *Session) sendCall(ctx context.Context, f *Future, params any) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	sc := getEncodeBuffer()
	defer sc.recycle()
	f.id = s.calls.table.newID()
	_, f.hasOwnDeadline = ctx.Deadline()
	sc.id = strconv.AppendUint(sc.id[:0], f.id, 10)
	var err error
	if sc.msg, err = s.Protocol().AppendRequest(sc.msg[:0], sc.id, f.method, params, s.codec); err != nil {
		return asUnsent(err)
	}
	if err = s.writer.sendMessage(ctx, sc, fromCaller, f); err == nil {
		s.writer.traceRequestSent(f.method, f)
	}
	return err
}

// registerCallLocked enters a call, or the calls of a batch, into the table.
func (pc *pendingCalls) registerCallLocked(f *Future) {
	pc.s.mu.AssertHeld()
	f.started = pc.s.now()
	if f.members == nil {
		pc.table.addCalls(f)
	} else {
		calls := make([]*Future, 0, len(f.members))
		for _, member := range f.members {
			if member.isSent() {
				member.batch.openMembers++
				member.started = f.started
				calls = append(calls, member)
			}
		}
		pc.table.addCalls(calls...)
	}
	if f.expectsReply() {
		pc.startCallTimeoutLocked(f, f.started)
	}
}

// startCallTimeoutLocked begins Limits.RequestTimeout for a call, unless it has begun.
func (pc *pendingCalls) startCallTimeoutLocked(call *Future, now time.Duration) {
	s := pc.s
	s.mu.AssertHeld()
	if call.deadline.owner == nil && !call.hasOwnDeadline && s.limits.RequestTimeout != never {
		pc.timeouts.appendDeadline(s, &call.deadline, after(now, s.limits.RequestTimeout), call)
	}
}

// watchContext gives the call up when ctx ends. It needs no goroutine until then.
func (f *Future) watchContext(ctx context.Context) {
	if ctx.Done() == nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { f.session.calls.abandonCall(f, context.Cause(ctx)) })
	f.mu.Lock()
	f.stop = stop
	finished := f.finished
	f.mu.Unlock()
	if finished {
		stop()
	}
}

// abandonCall ends a call without its reply, if it is not over.
func (pc *pendingCalls) abandonCall(f *Future, err error) {
	s := pc.s
	late := errors.Is(err, context.DeadlineExceeded) // before the lock is held: err may be the user's
	s.lock()
	if late {
		err = pc.timeoutErrorLocked(f, err)
	}
	pc.abandonCallLocked(f, err)
	s.unlock()
}

// abandonCallLocked removes a call, or all that is pending of a batch, from the table. Callers must
// hold s.mu.
func (pc *pendingCalls) abandonCallLocked(f *Future, err error) {
	s := pc.s
	s.mu.AssertHeld()
	now := s.now()
	calls := f.members
	if calls == nil {
		calls = []*Future{f}
	}
	for _, c := range calls {
		if !pc.table.abandonCall(c) {
			continue
		}
		if s.cancellation != nil {
			s.effects.abandonCall(c.id)
		}
		if c == f && f.batch != nil {
			s.effects.finishFuture(f) // a member that is given up by itself does not wait for its batch
		}
		pc.completeCallLocked(c, now, nil, err)
	}
	s.activity.markWorkEndLocked()
}

func newFuture(s *Session, method string) *Future {
	return &Future{session: s, method: method}
}

// newFailedFuture returns a future that is done, with err.
func newFailedFuture(s *Session, method string, err error) *Future {
	f := newFuture(s, method)
	f.failUnsent(err)
	return f
}

// errZeroFuture is the error of a Future that nothing of this package has made.
var errZeroFuture = errors.New("rpcx: a zero Future is no call: Session.Go, Session.GoBatch and Batch.Call return futures")

// checkZeroLocked has a zero Future fail. Callers must hold f.mu.
func (f *Future) checkZeroLocked() {
	if f.session == nil && f.batch == nil && f.members == nil && !f.finished {
		f.finished, f.err = true, errZeroFuture
	}
}

// Done returns a channel that is closed when the call is over.
func (f *Future) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checkZeroLocked()
	if f.done == nil {
		f.done = make(chan struct{})
		if f.finished {
			close(f.done)
		}
	}
	return f.done
}

// isFinished reports whether the call is over, and so result and err may be read.
func (f *Future) isFinished() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checkZeroLocked()
	return f.finished
}

// Err returns the error that the call ended with, nil if it succeeded or is
// not done. A batch's is a [*BatchError].
func (f *Future) Err() error {
	if !f.isFinished() {
		return nil
	}
	return f.err
}

// Wait waits for the call to be over, or for ctx to end, which ends the waiting
// only, not the call. It decodes the result into v unless that is nil, and
// returns the call's error, the decoding's, or the cause of ctx's end. Waiting
// for a member of a batch, or for the batch, also fills the destinations that
// were given to [Batch.Call].
func (f *Future) Wait(ctx context.Context, v any) error {
	if !f.isFinished() {
		err := f.waitUntilFinished(ctx)
		if err != nil {
			return err
		}
	}
	if err := f.fillDestinations(); err != nil {
		return err
	}
	return f.Decode(v)
}

// waitUntilFinished waits for the call to be over, or returns the cause of ctx's end.
func (f *Future) waitUntilFinished(ctx context.Context) error {
	if s := f.session; s != nil { // nil in a batch that was not sent
		h := handlerOf(ctx)
		s.requests.beginReplyWait(h)
		defer s.requests.endReplyWait(h)
	}
	select {
	case <-f.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Decode decodes the result into v, a pointer, or does nothing if v is nil. It
// returns the call's error if it failed, [ErrNotDone] if it is not over.
func (f *Future) Decode(v any) error {
	if !f.isFinished() {
		return ErrNotDone
	}
	if f.members != nil && f.err == nil && v != nil {
		return errors.New("rpcx: a batch has no result of its own")
	}
	return f.decode(v)
}

func (f *Future) decode(v any) error {
	if f.err != nil || v == nil {
		return f.err
	}
	err := f.session.codec.Unmarshal(f.result, v)
	if isObjectData(f.session.codec, f.result) && (err != nil || !takesObjectData(v)) {
		err = errLooksLikeObject
	}
	switch {
	case err != nil && !isPointer(v):
		return fmt.Errorf("decode the result of %q: %w: pass a pointer to where the result goes, not a %T", f.method, bounded.Error(err), v)
	case err != nil:
		return fmt.Errorf("decode the result of %q: %w", f.method, bounded.Error(err))
	}
	return nil
}

// fillDestinations decodes results into the destinations that were given for them, once,
// and returns the call's error.
func (f *Future) fillDestinations() error {
	if f.members == nil && f.dest == nil {
		return f.err
	}
	f.filled.Do(func() {
		if f.members == nil {
			f.fillErr = f.Decode(f.dest)
			return
		}
		f.fillErr = batchError(f.members, (*Future).fillDestinations)
	})
	return f.fillErr
}

// Cancel gives the call up: it ends with [ErrCancelled] if it is not done yet.
// The peer is told if Options.Cancellation says how; a reply that comes all the
// same is dropped. Cancelling a batch's future cancels all of its calls.
func (f *Future) Cancel() {
	f.mu.Lock()
	f.checkZeroLocked()
	s := f.session
	f.cancelled = true
	if s == nil && !f.finished {
		f.err = ErrCancelled // it is not sent, and will not be
	}
	f.mu.Unlock()
	if s == nil {
		f.publishOutcome()
	} else {
		s.calls.abandonCall(f, ErrCancelled) // if it is about to be sent, queueBatch sees to it
	}
}

// failUnsent ends a call that is not in the table.
func (f *Future) failUnsent(err error) {
	f.mu.Lock()
	if !f.finished {
		f.err = err
	}
	f.mu.Unlock()
	f.publishOutcome()
}

// assignSession gives a member of a batch its session, and reports whether it is to be
// sent: not if it was cancelled before.
func (f *Future) assignSession(s *Session) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancelled {
		return false
	}
	f.session, f.id = s, s.calls.table.newID()
	return true
}

func (f *Future) isCancelled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cancelled
}

// OnDone has callback called when the call is over, or now if it is. It runs
// on a goroutine of its own.
func (f *Future) OnDone(callback func(*Future)) {
	mustHave("Future.OnDone", "callback", callback)
	f.mu.Lock()
	f.checkZeroLocked()
	if !f.finished {
		f.callbacks = append(f.callbacks, callback)
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.runCallback(func() { callback(f) })
}

func (f *Future) runCallback(task func()) {
	if f.session != nil {
		f.session.pool.runTask(task)
		return
	}
	// Owner: whoever called OnDone. End: the callback returns.
	go task()
}

// expectsReply reports whether anything is to be waited for: not by a batch of which only
// notifications are sent.
func (f *Future) expectsReply() bool {
	return f.members == nil || slices.ContainsFunc(f.members, (*Future).isSent)
}

// isSent reports whether a member of a batch is sent: not if it was cancelled before.
func (f *Future) isSent() bool { return f.session != nil }

// completeCallLocked stores the outcome of a call that was removed from the table (I3) now. The
// call is finished when the lock is left; a batch as a whole, when its last member is
// complete. Callers must hold s.mu.
func (pc *pendingCalls) completeCallLocked(f *Future, now time.Duration, result []byte, err error) {
	pc.s.mu.AssertHeld()
	f.result, f.err = result, err
	whole := f
	if f.batch != nil {
		if f.batch.openMembers--; f.batch.openMembers > 0 {
			return
		}
		whole = f.batch.whole
	}
	pc.timeouts.removeDeadline(&whole.deadline)
	pc.releaseSlotLocked(f, now)
	pc.s.effects.finishFuture(whole)
}

// publishOutcome tells everybody that the call is over.
func (f *Future) publishOutcome() {
	f.mu.Lock()
	if f.finished {
		f.mu.Unlock()
		return
	}
	if f.members != nil {
		f.mu.Unlock()
		for _, member := range f.members {
			member.publishOutcome()
		}
		f.mu.Lock()
		f.err = batchError(f.members, func(m *Future) error { return m.err })
	}
	if f.messageSeq > 0 && f.members == nil && f.session.trace.ReplyReceived != nil {
		trace := f.session.trace.ReplyReceived
		s, method, err, d := f.session, f.method, f.err, f.session.now()-f.started
		f.runCallback(func() { trace(s, method, err, d) })
	}
	f.finished = true
	stop, callbacks, done := f.stop, f.callbacks, f.done
	f.callbacks = nil
	f.mu.Unlock()

	if stop != nil {
		stop()
	}
	for _, callback := range callbacks {
		f.runCallback(func() { callback(f) })
	}
	switch {
	case done == nil:
	case cap(done) > 0:
		done <- struct{}{} // the last that is done with f: its caller uses it again
	default:
		close(done)
	}
}

// expireLocked implements [expirer]: Limits.RequestTimeout has passed.
func (f *Future) expireLocked(s *Session) {
	s.mu.AssertHeld()
	if f.messageSeq == 0 { // it still waits for a slot or for room
		f.expired = true
		s.calls.limiter.line.wakeAll()
		s.writer.roomLine.wakeAll()
		return
	}
	s.calls.abandonCallLocked(f, s.calls.timeoutErrorLocked(f, ErrTimeout))
}
