package rpcx

import (
	"cmp"
	"context"
	"errors"
	"slices"
)

// AfterReply calls f when the reply to a handler's request has been queued. ctx is the
// context of the handler, or derived from it. Messages that f sends, and messages sent as a
// result of f, leave after the reply. For a member of a batch, f waits for the message with
// all replies of the batch. So a handler can subscribe its peer, and let the news follow
// the reply:
//
//	rpcx.AfterReply(ctx, func(err error) {
//		if err != nil {
//			subscription.Close() // the peer does not know of it
//			return
//		}
//		subscription.Start()
//	})
//
// err is nil also if the reply is an error, because the handler has failed or panicked. So a
// handler should call AfterReply where it can no longer fail.
//
// In an exchange of [Server.ServeMessage], the reply is handed over at the end. What f sends
// goes to notify before, and the transport decides what leaves first. If err is not nil, the
// exchange may be over. Then f can send nothing.
//
// If the handler's reply is not sent, err matches [ErrNoReply] and the reason:
//
//   - The message is a notification.
//   - Limits.ProcessingTimeout has passed, and the request is answered CodeServerBusy. err
//     matches [context.DeadlineExceeded].
//   - The peer has cancelled the request ([ErrPeerCancelled]), and the handler has given
//     up, or the [Cancellation] has no reply.
//   - The session has ended ([ErrClosed]), or the request was refused for its cost.
//   - ctx is not derived from a handler's context.
//
// In these cases f has no order with the error that answers the request instead.
//
// The error that replaces a reply over Limits.Response is a reply, too.
//
// f is called exactly once, after the handler has returned, and after Trace.ReplySent. The
// functions of a request are called one at a time, in the order of the calls of AfterReply.
// The goroutine is that of the handler; for a batch, of the handler that returned last. If
// a timeout, a cancellation or the end of the session completes a batch, the goroutine is a
// separate one. If everything is decided when AfterReply is called, by a goroutine that
// outlives the handler for example, AfterReply calls f before returning.
//
// f may send messages and call the session. On a handler's goroutine f counts for
// Limits.Concurrency. ctx has ended when f is called, so calls of f need another context,
// for example [context.WithoutCancel] of ctx. Shutdown and the session's end wait for f, so
// f must not wait for them. A panic in f ends the program.
func AfterReply(ctx context.Context, f func(err error)) {
	mustHaveContext("AfterReply", ctx)
	mustHave("AfterReply", "function", f)
	h := handlerOf(ctx)
	if h == nil {
		f(errNoHandler)
		return
	}
	h.session.requests.addReplyCallback(h.owner, f)
}

// ErrNoReply is matched by the error for a function of [AfterReply] when no reply of the
// handler is sent.
var ErrNoReply = errors.New("rpcx: no reply")

// noReplyError is ErrNoReply with a reason.
type noReplyError struct{ reason error }

func (e *noReplyError) Error() string   { return ErrNoReply.Error() + ": " + trimPrefix(e.reason) }
func (e *noReplyError) Unwrap() []error { return []error{ErrNoReply, e.reason} }

var (
	errNoHandler    = &noReplyError{errors.New("AfterReply needs the context of a handler, or a context derived from it")}
	errNotification = errors.New("a notification is not answered")
	errReplyUnsent  = errors.New("the reply cannot be framed")
)

// replyOutcome is what becomes of a handler's reply.
type replyOutcome uint8

const (
	replyOpen    replyOutcome = iota // the handler runs, or the reply waits for room
	replyInBatch                     // the handler has returned, and the outcome is that of the batch
	replyQueued                      // the reply is in the outbox
	replyUnsent                      // the reply could not be sent
	replyNone                        // the handler's reply is not wanted
)

// replyCallbacks holds the functions of AfterReply for a request, until all have returned.
// The session's lock guards the fields.
type replyCallbacks struct {
	waiting []func(error) // in the order of AfterReply
	first   [1]func(error)
}

// addReplyCallback calls f when the outcome of c's reply is decided, or at once.
func (rs *requestServer) addReplyCallback(c *peerRequest, f func(error)) {
	s := rs.s
	s.lock()
	w := rs.callbacks[c]
	if outcome := rs.replyOutcomeLocked(c); w == nil && outcome != replyOpen {
		err := rs.replyErrorLocked(c, outcome)
		s.unlock()
		f(err)
		return
	}
	if w == nil {
		if rs.callbacks == nil {
			rs.callbacks = make(map[*peerRequest]*replyCallbacks)
		}
		w = new(replyCallbacks)
		w.waiting = w.first[:0]
		rs.callbacks[c] = w
	}
	w.waiting = append(w.waiting, f)
	s.unlock()
}

// replyOutcomeLocked returns the outcome of the reply to c; replyOpen if not decided. An
// incomplete batch of a closing session is never sent. Callers must hold s.mu.
func (rs *requestServer) replyOutcomeLocked(c *peerRequest) replyOutcome {
	rs.s.mu.AssertHeld()
	if c.outcome != replyInBatch {
		return c.outcome
	}
	b := c.parentBatch()
	if b.outcome == replyOpen && !b.sending && rs.s.life.state >= stateClosing {
		b.outcome = replyUnsent
	}
	return b.outcome
}

// replyErrorLocked returns the argument of callbacks for the outcome of c's reply. Callers
// must hold s.mu.
func (rs *requestServer) replyErrorLocked(c *peerRequest, outcome replyOutcome) error {
	s := rs.s
	s.mu.AssertHeld()
	if outcome == replyQueued {
		return nil
	}
	reason := c.ctx.endCause()
	switch {
	case c.IsNotification():
		reason = errNotification
	case reason == errProcessing || reason == ErrPeerCancelled:
	case s.life.state >= stateClosing:
		reason = s.closedErrorLocked()
	case outcome == replyUnsent:
		reason = errReplyUnsent
	case s.cost.limitExceeded:
		reason = s.cost.costErrorLocked()
	case c.ctx.deadline <= s.now(): // answered just before the handler returned
		reason = errProcessing
	default:
		reason = ErrPeerCancelled
	}
	return &noReplyError{reason}
}

// ownCallbacksLocked returns c if c has callbacks and the goroutine of c's handler must run
// them: the outcome is decided, and not by the goroutine that sends the batch. Callers must
// hold s.mu.
func (rs *requestServer) ownCallbacksLocked(c *peerRequest) []*peerRequest {
	rs.s.mu.AssertHeld()
	if len(rs.callbacks) == 0 || rs.callbacks[c] == nil || rs.replyOutcomeLocked(c) == replyOpen {
		return nil
	}
	return []*peerRequest{c}
}

// decideBatchLocked sets the outcome of b, unless decided, and returns the members whose
// callbacks the caller must run. Callers must hold s.mu.
func (rs *requestServer) decideBatchLocked(b *peerBatch, outcome replyOutcome) []*peerRequest {
	rs.s.mu.AssertHeld()
	if b.outcome != replyOpen {
		return nil
	}
	b.outcome = outcome
	if len(rs.callbacks) == 0 {
		return nil
	}
	return b.appendRequests(nil, func(c *peerRequest) bool { return c.outcome == replyInBatch && rs.callbacks[c] != nil })
}

// failBatchCallbacksLocked runs, on another goroutine, the callbacks of members of
// batches that a closing session does not send. Callers must hold s.mu.
func (rs *requestServer) failBatchCallbacksLocked() {
	rs.s.mu.AssertHeld()
	var ready []*peerRequest
	for c := range rs.callbacks {
		if b := c.parentBatch(); c.outcome == replyInBatch && !b.sending {
			ready = append(ready, rs.decideBatchLocked(b, replyUnsent)...)
		}
	}
	slices.SortFunc(ready, func(a, b *peerRequest) int { return cmp.Compare(a.seq, b.seq) })
	rs.runCallbacksLaterLocked(ready, nil)
}

// runCallbacksLaterLocked runs the callbacks of requests, and then the function then, if
// not nil, on another goroutine. Without callbacks, runCallbacksLaterLocked does nothing
// and returns false. Callers must hold s.mu.
func (rs *requestServer) runCallbacksLaterLocked(ready []*peerRequest, then func()) bool {
	s := rs.s
	s.mu.AssertHeld()
	if len(ready) == 0 {
		return false
	}
	s.life.callbackTasks++
	s.pool.RunTask(func() {
		defer func() {
			s.lock()
			s.life.callbackTasks--
			s.unlock()
		}()
		rs.runCallbacks(ready, then)
	})
	return true
}

// runCallbacks runs the callbacks of requests, and then the function then, if not nil. The
// outcomes are decided, and no other goroutine runs these callbacks.
func (rs *requestServer) runCallbacks(ready []*peerRequest, then func()) {
	s := rs.s
	returned := false
	defer func() {
		if !returned { // a callback has ended the goroutine with runtime.Goexit
			s.lock()
			rs.runCallbacksLaterLocked(ready, then)
			s.unlock()
		}
	}()
	for ; len(ready) > 0; ready = ready[1:] {
		for f, err := rs.takeCallback(ready[0]); f != nil; f, err = rs.takeCallback(ready[0]) {
			f(err)
		}
	}
	returned = true
	if then != nil {
		then()
	}
}

// takeCallback takes the next callback of c, and returns the argument for the callback.
// Without a callback, takeCallback forgets c and returns nil: from now on AfterReply calls
// its function at once.
func (rs *requestServer) takeCallback(c *peerRequest) (f func(error), err error) {
	s := rs.s
	s.lock()
	defer s.unlock()
	w := rs.callbacks[c]
	if len(w.waiting) == 0 {
		delete(rs.callbacks, c)
		return nil, nil
	}
	f, w.waiting = w.waiting[0], w.waiting[1:]
	return f, rs.replyErrorLocked(c, rs.replyOutcomeLocked(c))
}
