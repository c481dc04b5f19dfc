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

// Future is a call that was sent, or that is to be sent in a [Batch]. All methods may be
// called from any goroutine. The zero Future is no call, and has failed.
type Future struct {
	session        *Session // nil for a member of an unsent batch
	method         string
	id             uint64
	messageSeq     uint64 // number of the queued message; 0 before
	started        time.Duration
	deadline       deadline
	hasOwnDeadline bool        // the context has a deadline, which replaces Limits.RequestTimeout
	expired        bool        // Limits.RequestTimeout passed before the message was queued
	stop           func() bool // stops watching the context

	batch   *Batch    // of a member
	members []*Future // of a batch, if the Future is its outcome
	dest    any       // destination of a member's result
	filled  sync.Once
	fillErr error

	nextCompleted *Future // link in a futureList

	result []byte // owned by the Future
	err    error

	mu        sync.Mutex
	finished  bool          // result and err are final
	cancelled bool          // Cancel was called
	done      chan struct{} // made by Done, closed at the end; in a pooled Future, a channel of one slot
	callbacks []func(*Future)
}

// Call calls method at the peer and waits for the reply. If result, a pointer, is not nil,
// Call decodes the reply's result into result.
//
// params must encode to an array or an object: [Args] for positional arguments, a map or a
// struct for named arguments. nil means no params, and [EmptyArgs] an empty array.
//
// ctx bounds the whole call, including the wait for room in the outbox. When ctx ends, the
// session gives the call up, and the error is the cause of ctx. If ctx has no deadline,
// Limits.RequestTimeout applies, and the error is [ErrTimeout]. A deadline of ctx replaces
// Limits.RequestTimeout, even if the deadline is later. An error that matches
// context.DeadlineExceeded may be wrapped. The wrapper adds a hint about a bad message, or
// about input that is not recognized as a message.
//
// The error for a failed call is
//
//   - an [*Error], if the peer answers with an error;
//   - a [*ProtocolError], if the answer is ill-formed;
//   - a [*ConnectionError], if the connection ends first;
//   - an error that matches [ErrClosed], if the session had already ended;
//   - a [*SizeError], if the request or the reply is larger than the framer takes.
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
			<-f.done // completed by the goroutine that removed f from the table (I3)
		}
	}
	s.requests.endReplyWait(h)
	err := f.decode(result)
	s.pool.putFuture(f) // not deferred: after a panic, of a hook for example, the table may still have f
	return err
}

// Go calls method at the peer and returns a future as soon as the request is queued. While
// the outbox is full, Go waits. Unless ctx is a handler's, Go also waits while as many
// calls as Limits.Outgoing (initially 50) have no reply. ctx bounds the whole call, as for
// [Session.Call], not only Go. If Go, Notify or GoBatch returns before the next call of
// Go, Notify or GoBatch, the first message leaves first.
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

// Notify sends a notification, a request without a reply. Notify returns when the message
// is queued; ctx bounds the wait for room in the outbox. The error is the cause of ctx, an
// error that matches [ErrClosed], or the reason why the message cannot be encoded or
// framed. If the message is larger than the framer takes, the error is a [*SizeError].
//
// A nil error does not mean that the peer has received the notification. Before a program
// ends, it should call [Session.Shutdown], which waits until everything is written. Close
// alone is not enough.
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

// tryNotify sends a notification of the session itself. If the outbox has no room, the
// notification is dropped. tryNotify reports false if the notification cannot be encoded
// or framed, or if the session is closing. Unless the session is closing, tryNotify then
// logs the message failed.
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

// sendCall encodes and queues the request of f.
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

// registerCallLocked adds a call, or the calls of a batch, to the table. Callers must hold
// s.mu.
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

// startCallTimeoutLocked starts Limits.RequestTimeout for a call, unless the timeout has
// started or the context has a deadline. Callers must hold s.mu.
func (pc *pendingCalls) startCallTimeoutLocked(call *Future, now time.Duration) {
	s := pc.s
	s.mu.AssertHeld()
	if call.deadline.owner == nil && !call.hasOwnDeadline && s.limits.RequestTimeout != never {
		pc.timeouts.appendDeadline(s, &call.deadline, after(now, s.limits.RequestTimeout), call)
	}
}

// watchContext abandons the call when ctx ends, without a goroutine until then.
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

// abandonCall ends an unfinished call without a reply.
func (pc *pendingCalls) abandonCall(f *Future, err error) {
	s := pc.s
	late := errors.Is(err, context.DeadlineExceeded) // before locking, because err may have a user's type (I5)
	s.lock()
	if late {
		err = pc.timeoutErrorLocked(f, err)
	}
	pc.abandonCallLocked(f, err)
	s.unlock()
}

// abandonCallLocked removes a call, or every pending call of a batch, from the table.
// Callers must hold s.mu.
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
			s.effects.finishFuture(f) // a member abandoned alone does not wait for the batch
		}
		pc.completeCallLocked(c, now, nil, err)
	}
	s.activity.markWorkEndLocked()
}

func newFuture(s *Session, method string) *Future {
	return &Future{session: s, method: method}
}

// newFailedFuture returns a finished future with err.
func newFailedFuture(s *Session, method string, err error) *Future {
	f := newFuture(s, method)
	f.failUnsent(err)
	return f
}

// errZeroFuture is the error of a Future that no function of the package has made.
var errZeroFuture = errors.New("rpcx: a zero Future is no call: Session.Go, Session.GoBatch and Batch.Call return futures")

// checkZeroLocked makes a zero Future fail. Callers must hold f.mu.
func (f *Future) checkZeroLocked() {
	if f.session == nil && f.batch == nil && f.members == nil && !f.finished {
		f.finished, f.err = true, errZeroFuture
	}
}

// Done returns a channel that is closed when the call has finished.
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

// isFinished reports whether the call has finished, so that result and err may be read.
func (f *Future) isFinished() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checkZeroLocked()
	return f.finished
}

// Err returns the error of the finished call. If the call has succeeded or has not
// finished, Err returns nil. The error of a batch is a [*BatchError].
func (f *Future) Err() error {
	if !f.isFinished() {
		return nil
	}
	return f.err
}

// Wait waits until the call has finished or ctx has ended. The end of ctx ends the wait,
// not the call. If v is not nil, Wait decodes the result into v. The error is that of the
// call, of the decoding, or the cause of ctx. For a member of a batch, Wait also fills the
// destination given to [Batch.Call]. For a batch, Wait fills the destinations of all
// members.
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

// waitUntilFinished waits until the call has finished, or returns the cause of ctx's end.
func (f *Future) waitUntilFinished(ctx context.Context) error {
	if s := f.session; s != nil { // nil in an unsent batch
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

// Decode decodes the result into v, a pointer. If v is nil, Decode decodes nothing. If the
// call has failed, Decode returns the error of the call; before the end of the call,
// [ErrNotDone]. The future of a batch has no result to decode.
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

// fillDestinations decodes results into the destinations given to [Batch.Call], once, and
// returns the error of the call or of the decoding.
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

// Cancel gives the call up. If the call has not finished, the error is [ErrCancelled].
// With Options.Cancellation, the session reports the cancellation to the peer. The session
// drops a late reply. Cancelling the future of a batch cancels every call of the batch.
func (f *Future) Cancel() {
	f.mu.Lock()
	f.checkZeroLocked()
	s := f.session
	f.cancelled = true
	if s == nil && !f.finished {
		f.err = ErrCancelled // the batch is unsent, and will omit the member
	}
	f.mu.Unlock()
	if s == nil {
		f.publishOutcome()
	} else {
		s.calls.abandonCall(f, ErrCancelled) // if f is not registered yet, queueBatch abandons f
	}
}

// failUnsent finishes a call outside the table with err.
func (f *Future) failUnsent(err error) {
	f.mu.Lock()
	if !f.finished {
		f.err = err
	}
	f.mu.Unlock()
	f.publishOutcome()
}

// assignSession sets the session and the id of a batch member. It reports whether the
// member is to be sent: not after Cancel.
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

// OnDone runs callback on a separate goroutine when the call has finished, or at once if
// the call has already finished.
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
		f.session.pool.RunTask(task)
		return
	}
	// Owner: the caller of OnDone. End: the callback returns.
	go task()
}

// expectsReply reports whether the message expects a reply. A batch in which only
// notifications are sent does not.
func (f *Future) expectsReply() bool {
	return f.members == nil || slices.ContainsFunc(f.members, (*Future).isSent)
}

// isSent reports whether a member of a batch is sent: not after an earlier Cancel.
func (f *Future) isSent() bool { return f.session != nil }

// completeCallLocked stores the outcome of a call that was removed from the table (I3).
// The future is finished when s.mu is released. A batch is finished as a whole, after the
// last member. Callers must hold s.mu.
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

// publishOutcome marks the future as finished, starts the callbacks and signals done.
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
		done <- struct{}{} // last use of f: the receiver returns f to the pool
	default:
		close(done)
	}
}

// expireLocked implements [expirer]. Limits.RequestTimeout has passed. Callers must hold
// s.mu.
func (f *Future) expireLocked(s *Session) {
	s.mu.AssertHeld()
	if f.messageSeq == 0 { // the sender still waits for a slot or for room
		f.expired = true
		s.calls.limiter.line.wakeAll()
		s.writer.roomLine.wakeAll()
		return
	}
	s.calls.abandonCallLocked(f, s.calls.timeoutErrorLocked(f, ErrTimeout))
}
