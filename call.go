package rpcx

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
)

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
//   - [ErrNoCallback], if the session is that of [Server.ServeMessage];
//   - a [*SizeError], if the request or the reply is larger than the framer takes.
func (s *Session) Call(ctx context.Context, method string, params, result any) error {
	mustHaveContext("Session.Call", ctx)
	return s.call(ctx, method, params, result, 1, nil)
}

// call is Call, for the given attempt of a Client. t is the turn of a call that has waited in
// the Client, otherwise nil.
func (s *Session) call(ctx context.Context, method string, params, result any, attempt int, t *sendTurn) error {
	if len(s.calls.hooks.onCall) > 0 {
		return s.calls.hooks.runCall(ctx, OutgoingCall{Session: s, Method: method, Params: params, Attempt: attempt}, func(ctx context.Context, c *OutgoingCall) error {
			return s.callAndWait(ctx, c.Method, c.Params, c, result, nil, t)
		})
	}
	return s.callAndWait(ctx, method, params, nil, result, nil, t)
}

// callAndWait is Call after the functions of Options.OnCall. out is the call that the
// functions have seen, or nil. stream is nil unless the call belongs to a stream. t is as in
// call.
func (s *Session) callAndWait(ctx context.Context, method string, params any, out *OutgoingCall, result any, stream *streamCall, t *sendTurn) error {
	c := s.pool.takeCall(s, method)
	m := &c.message
	m.stream = stream
	err := s.sendCall(ctx, m, params, out)
	t.pass()
	if err != nil {
		s.pool.putCall(c)
		return err
	}
	h := handlerOf(ctx)
	s.requests.beginReplyWait(h)
	if m.mayRead {
		s.reader.readForCall(ctx, m)
	}
	if end := ctx.Done(); end == nil {
		<-m.done
	} else {
		select {
		case <-m.done:
		case <-end:
			s.calls.abandonMessage(m, context.Cause(ctx))
			<-m.done // sent by the goroutine that removed the call from the table (I3)
		}
	}
	s.requests.endReplyWait(h)
	if s.trace.ReplyReceived != nil {
		m.calls[0].traceReply()
	}
	err = m.calls[0].decodeResult(result)
	s.pool.putCall(c) // not deferred: after a panic, of a hook for example, the table may still have the call
	return err
}

// Go calls method at the peer and returns a future as soon as the request is queued. While
// the outbox is full, Go waits. Unless ctx is a handler's, Go also waits while as many
// calls as Limits.Outgoing (initially 50) have no reply. ctx bounds the whole call, as for
// [Session.Call], not only Go. If Go, Notify or GoBatch returns before the next call of
// Go, Notify or GoBatch, the first message leaves first.
func (s *Session) Go(ctx context.Context, method string, params any) *Future {
	mustHaveContext("Session.Go", ctx)
	if len(s.calls.hooks.onCall) > 0 {
		return s.calls.hooks.startCall(ctx, &s.pool.Pool, OutgoingCall{Session: s, Method: method, Params: params}, func(ctx context.Context, h *hookedCall) (*Future, error) {
			return s.startCall(ctx, h.Method, h.Params, h, nil)
		})
	}
	f, _ := s.startCall(ctx, method, params, nil, nil)
	return f
}

// startCall is Go after the functions of Options.OnCall. h is the call that the functions
// have seen, or nil. If the call cannot be sent, startCall also returns the error. stream is
// nil, or the stream that lasts as long as the call, which ctx then does not end.
func (s *Session) startCall(ctx context.Context, method string, params any, h *hookedCall, stream *streamCall) (*Future, error) {
	c := new(futureCall)
	f, m := &c.future, c.begin(s, method)
	f.phase, f.message, f.call, f.waiters, m.future = futureOpen, m, &m.calls[0], &c.waiters, f
	m.stream = stream
	var out *OutgoingCall
	if h != nil {
		if out = &h.OutgoingCall; len(h.done) > 0 {
			f.hooked, h.future = h, f
		}
	}
	if err := s.sendCall(ctx, m, params, out); err != nil {
		f.finish(err)
		return f, err
	}
	if stream == nil {
		f.watchContext(ctx)
	}
	return f, nil
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
	return s.notifyCaller(ctx, fromCaller, method, params, 1)
}

// notifyCaller calls the functions of Options.OnCall, and sends a notification of the user.
// attempt is that of a Client.
func (s *Session) notifyCaller(ctx context.Context, from sendMode, method string, params any, attempt int) error {
	if len(s.calls.hooks.onCall) > 0 {
		return s.calls.hooks.runCall(ctx, OutgoingCall{Session: s, Method: method, Params: params, Notification: true, Attempt: attempt}, func(ctx context.Context, c *OutgoingCall) error {
			return s.notifyUnhooked(ctx, from, c.Method, c.Params, c.Meta)
		})
	}
	return s.notifyUnhooked(ctx, from, method, params, nil)
}

// notifyUnhooked is notifyCaller after the functions of Options.OnCall. meta is data about
// the notification.
func (s *Session) notifyUnhooked(ctx context.Context, from sendMode, method string, params any, meta map[string]any) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	err := s.sendNotification(ctx, from, method, params, meta)
	if err == nil {
		s.writer.traceRequestSent(method, nil)
	}
	return err
}

// TryNotify is [Session.Notify] without waiting: if the outbox has no room, TryNotify sends
// nothing and returns false, without an error. While other senders wait for room, there is
// no room. Another goroutine writes the message to the connection. TryNotify returns the
// errors of Notify, except those of a context. From the start of [Session.Shutdown] the
// error matches [ErrClosed]. Options.OnCall sees the notification, also if there is no
// room; done then receives an error.
//
// In an exchange of [Server.ServeMessage], TryNotify calls notify itself, and so waits for a
// client that reads slowly. During another call of notify, there is no room.
//
// TryNotify is for news to many sessions, of which none may hold up the others.
func (s *Session) TryNotify(method string, params any) (bool, error) {
	err := s.notifyCaller(context.Background(), fromTryNotify, method, params, 1)
	if err == errNoRoom {
		return false, nil
	}
	return err == nil, err
}

// sendNotification encodes and queues a notification.
func (s *Session) sendNotification(ctx context.Context, from sendMode, method string, params any, meta map[string]any) (err error) {
	sc := getEncodeBuffer()
	defer sc.recycle()
	if sc.msg, err = s.Protocol().AppendNotification(sc.msg[:0], method, params, s.codec); err != nil {
		return asUnsent(err)
	}
	if sc.msg, err = s.calls.meta.appendTo(sc.msg, 0, meta, s.codec); err != nil {
		return err
	}
	return s.writer.sendMessage(ctx, sc, from, nil)
}

// tryNotify sends a notification of the session itself. If the outbox has no room, the
// notification is dropped. tryNotify reports false if the notification cannot be encoded
// or framed, or if the session is closing. Unless the session is closing, tryNotify then
// logs the message failed.
func (s *Session) tryNotify(method string, params any, failed string) bool {
	err := s.sendNotification(context.Background(), fromNobody, method, params, nil)
	if err == errNoRoom {
		return true
	}
	if err != nil && !errors.Is(err, ErrClosed) && s.log.Handler() != slog.DiscardHandler {
		attrs := []slog.Attr{errorAttr(err)}
		size := recordSize(failed, attrs)
		s.lock()
		s.noteOfSizeLocked(size, slog.LevelWarn, failed, attrs)
		s.unlock()
	}
	return err == nil
}

// sendCall encodes and queues the request of m, a message with a single call. out is the
// call that the functions of Options.OnCall have seen, or nil.
func (s *Session) sendCall(ctx context.Context, m *pendingMessage, params any, out *OutgoingCall) error {
	return s.sendCallAs(ctx, fromCaller, m, params, out)
}

// sendCallAs is sendCall in the given mode.
func (s *Session) sendCallAs(ctx context.Context, from sendMode, m *pendingMessage, params any, out *OutgoingCall) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	sc := getEncodeBuffer()
	defer sc.recycle()
	c := &m.calls[0]
	c.id = s.calls.table.newID()
	if m.future == nil || m.stream == nil { // otherwise the context bounds only the sending
		_, m.hasOwnDeadline = ctx.Deadline()
	}
	sc.id = strconv.AppendUint(sc.id[:0], c.id, 10)
	var err error
	if sc.msg, err = s.Protocol().AppendRequest(sc.msg[:0], sc.id, c.method, params, s.codec); err != nil {
		return asUnsent(err)
	}
	if sc.msg, err = s.calls.meta.appendTo(sc.msg, 0, out.metaValues(), s.codec); err != nil {
		return err
	}
	out.setID(c.id)
	if err = s.writer.sendMessage(ctx, sc, from, m); err == nil {
		s.writer.traceRequestSent(c.method, c)
	}
	return err
}

// Future is a call that was sent, or that is to be sent in a [Batch]. For the calls of a
// program's own [Caller], see [NewFuture]. All methods may be called from any goroutine.
// The zero Future is no call, and has failed.
type Future struct {
	batch  *batchPart  // of a batch as a whole, or of a member; nil for a single call
	hooked *hookedCall // set before the call is sent, and for a member under mu; nil without hooks

	mu      sync.Mutex // guards the fields below
	phase   futurePhase
	message *pendingMessage // the last message with the call on a session; nil before, and without a session
	call    *pendingCall    // in the last message; nil for a batch as a whole
	err     error           // in futureFinished
	waiters *futureWaiters  // nil if nobody waits, as for most members of a batch
}

// futureWaiters is what the end of a call has to notify. Future.mu guards the fields.
type futureWaiters struct {
	stop      func() bool   // called once at the end; on a session, stops watching the context
	done      chan struct{} // made by Done, closed at the end
	callbacks []func(*Future)
}

// waitersLocked returns the waiters of f, and makes them on first use. Callers must hold
// f.mu.
func (f *Future) waitersLocked() *futureWaiters {
	if f.waiters == nil {
		f.waiters = new(futureWaiters)
	}
	return f.waiters
}

// futurePhase is the phase of a Future.
type futurePhase uint8

const (
	futureZero      futurePhase = iota // no function of the package has made the Future
	futureOpen                         // the call is unsent or pending
	futureCancelled                    // Cancel was called in phase futureOpen
	futureFinished                     // message, call and err do not change any more
)

// newFailedFuture returns a finished future with err.
func newFailedFuture(err error) *Future { return &Future{phase: futureFinished, err: err} }

// watchContext abandons the call when ctx ends, without a goroutine until then.
func (f *Future) watchContext(ctx context.Context) {
	if ctx.Done() == nil {
		return
	}
	m := f.message
	f.setStop(context.AfterFunc(ctx, func() { m.session.calls.abandonMessage(m, context.Cause(ctx)) }))
}

// setStop makes the end of the call run stop, at once if the call has finished.
func (f *Future) setStop(stop func() bool) {
	f.mu.Lock()
	f.waitersLocked().stop = stop
	finished := f.phase == futureFinished
	f.mu.Unlock()
	if finished {
		stop()
	}
}

// errZeroFuture is the error of a Future that no function of the package has made.
var errZeroFuture = errors.New("rpcx: a zero Future is no call: Session.Go, Session.GoBatch, Batch.Call and NewFuture return futures")

// checkZeroLocked makes a zero Future fail. Callers must hold f.mu.
func (f *Future) checkZeroLocked() {
	if f.phase == futureZero {
		f.phase, f.err = futureFinished, errZeroFuture
	}
}

// Done returns a channel that is closed when the call has finished.
func (f *Future) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checkZeroLocked()
	w := f.waitersLocked()
	if w.done == nil {
		w.done = make(chan struct{})
		if f.phase == futureFinished {
			close(w.done)
		}
	}
	return w.done
}

// isFinished reports whether the call has finished, so that err and the result of the call
// may be read.
func (f *Future) isFinished() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checkZeroLocked()
	return f.phase == futureFinished
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
	f.endHooksUnlessSender(ctx)
	if err := f.fillDestinations(); err != nil {
		return err
	}
	return f.Decode(v)
}

// waitUntilFinished waits until the call has finished, or returns the cause of ctx's end.
func (f *Future) waitUntilFinished(ctx context.Context) error {
	f.mu.Lock()
	m := f.message
	f.mu.Unlock()
	if m != nil { // nil in an unsent batch, and without a session
		h := handlerOf(ctx)
		m.session.requests.beginReplyWait(h)
		defer m.session.requests.endReplyWait(h)
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
	switch {
	case !f.isFinished():
		return ErrNotDone
	case f.err != nil || v == nil:
		return f.err
	case f.call == nil:
		return errors.New("rpcx: a batch has no result of its own")
	}
	return f.call.decodeResult(v)
}

// Cancel gives the call up. If the call has not finished, the error is [ErrCancelled].
// With Options.Cancellation, the session reports the cancellation to the peer. The session
// drops a late reply. Cancelling the future of a batch cancels every call of the batch.
func (f *Future) Cancel() { f.abandon(ErrCancelled) }

// abandon gives the call up, with the given error.
func (f *Future) abandon(err error) {
	f.mu.Lock()
	f.checkZeroLocked()
	if f.phase == futureOpen {
		f.phase = futureCancelled
	}
	m, c := f.message, f.call
	f.mu.Unlock()
	switch {
	case m == nil: // no session has the call; an unsent batch will omit the member
		f.finish(err)
	case m.isBatch && c != nil:
		m.session.calls.abandonMember(f, c, err) // if c is not registered yet, queueBatch cancels f
	default:
		m.session.calls.abandonMessage(m, err)
	}
}

// OnDone runs callback on a separate goroutine when the call has finished, or at once if
// the call has already finished.
func (f *Future) OnDone(callback func(*Future)) {
	mustHave("Future.OnDone", "callback", callback)
	f.mu.Lock()
	f.checkZeroLocked()
	if f.phase != futureFinished {
		w := f.waitersLocked()
		w.callbacks = append(w.callbacks, callback)
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	f.runCallback(func() { callback(f) })
}

func (f *Future) runCallback(task func()) {
	if f.message != nil {
		f.message.session.pool.RunTask(task)
		return
	}
	// Owner: the caller of OnDone. End: the callback returns.
	go task()
}

// publishOutcome finishes f with the outcome of the call. If f is a batch, the outcomes
// of all members come first.
func (f *Future) publishOutcome() {
	switch members := f.members(); {
	case members != nil:
		for _, member := range members {
			member.publishOutcome()
		}
		f.finish(batchError(members, func(member *Future) error { return member.err }))
	case f.call == nil: // cancelled before the batch was sent
		f.finish(ErrCancelled)
	default:
		f.finish(f.call.err)
	}
}

// finish stores the error of the call, starts the callbacks and signals done. Only the
// first outcome counts.
func (f *Future) finish(err error) { f.finishWith(nil, err) }

// finishWith is finish with the result of a call without a session. A session has stored
// the outcome in the call.
func (f *Future) finishWith(result []byte, err error) {
	f.mu.Lock()
	if f.phase == futureFinished {
		f.mu.Unlock()
		return
	}
	if f.call != nil && f.message == nil {
		f.call.result, f.call.err = result, err
	}
	if f.call != nil {
		f.call.traceReplyLater()
	}
	f.phase, f.err = futureFinished, err
	var waiters futureWaiters
	if f.waiters != nil {
		waiters, f.waiters.callbacks = *f.waiters, nil
	}
	f.mu.Unlock()

	if waiters.stop != nil {
		waiters.stop()
	}
	for _, callback := range waiters.callbacks {
		f.runCallback(func() { callback(f) })
	}
	if waiters.done != nil {
		close(waiters.done)
	}
	if f.message == nil { // a session does so itself, for all calls that ended together
		var ended endedCalls
		ended.add(f)
		ended.endHooksLater()
	}
}
