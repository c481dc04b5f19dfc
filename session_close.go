package rpcx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// runsHandlerOf reports whether ctx derives from the context of a running handler of s.
func (s *Session) runsHandlerOf(ctx context.Context) bool {
	h := handlerOf(ctx)
	if h == nil || h.session != s {
		return false
	}
	s.lock()
	defer s.unlock()
	return !h.waits.handlerReturned
}

// shutdownWith is Shutdown with the given cause. When everything is finished, the session
// goes on to refuse requests until the peer is quiet, for the time quiet; see waitForQuiet.
func (s *Session) shutdownWith(ctx context.Context, cause error, quiet time.Duration) error {
	s.lock()
	if s.life.state == stateOpen {
		s.life.state = stateDraining
		s.life.drained = make(chan struct{})
		s.hubs.endAllLocked(ErrClosed)
		s.calls.client.markLostLocked()
		for _, e := range s.requests.waitingEntries() {
			s.requests.refuseForShutdownLocked(e, fromHandler)
		}
		s.effects.errorsMayWait = s.effects.hasErrors // for room in the outbox, until the session closes
		s.writer.roomLine.wakeAll()
		s.calls.limiter.line.wakeAll()
	}
	drained := s.life.drained
	s.unlock()
	// Owner: this call. End: logShutdownWaits returns.
	slow := time.AfterFunc(shutdownNotice, func() { s.logShutdownWaits("shutdown waits") })
	defer slow.Stop()
	select {
	case <-drained: // nil if the session was closing already: then the first grace counts
		s.waitForQuiet(ctx, quiet)
		s.closeWith(cause, closeGrace)
	case <-s.Done():
	case <-ctx.Done():
		s.logShutdownWaits(shutdownGivenUp)
		s.closeAndFlush(cause)
		return ctx.Err()
	}
	select {
	case <-s.Done():
		return nil
	case <-ctx.Done():
		s.logShutdownWaits(shutdownGivenUp)
		return ctx.Err()
	}
}

// shutdownNotice is the delay before a Shutdown logs the awaited handlers and calls.
const shutdownNotice = 10 * time.Second

const shutdownGivenUp = "shutdown did not finish in time"

// logShutdownWaits logs the handlers and calls for which a Shutdown waits, if there are
// any.
func (s *Session) logShutdownWaits(msg string) {
	s.lock()
	defer s.unlock()
	running := slices.AppendSeq(s.requests.runningRequestsLocked(), maps.Keys(s.requests.lateHandlers))
	if len(running) == 0 && s.calls.table.pending == 0 {
		return
	}
	s.logs.logLaterLocked(slog.LevelWarn, msg, slog.String("handlers that run", methodsOf(slices.Values(running))),
		slog.Int("calls", s.calls.table.pending))
}

// runningRequestsLocked returns the begun and unanswered requests, delayed requests
// included. Callers must hold s.mu.
func (rs *requestServer) runningRequestsLocked() []*peerRequest {
	rs.s.mu.AssertHeld()
	var running []*peerRequest
	for d := rs.open.first; d != nil; d = d.next {
		running = d.owner.(queueEntry).appendRequests(running, (*peerRequest).isOpen)
	}
	return running
}

// hangUpErrors lists the errors of a connection closed by the peer. The files for each
// operating system add more.
var hangUpErrors = []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe}

// droppedNotifications counts received notifications that an ending session has dropped.
type droppedNotifications struct {
	count       int
	firstMethod string // of the first notification
}

// countDroppedAtEndLocked counts a notification dropped by an ending session. When the
// session is over, a single log record has the count. Callers must hold s.mu.
func (s *Session) countDroppedAtEndLocked(c *peerRequest) {
	s.mu.AssertHeld()
	s.stats.NotificationsDropped++
	if s.life.droppedAtEnd.count++; s.life.droppedAtEnd.count == 1 {
		s.life.droppedAtEnd.firstMethod = c.Method
	}
}

// isOnlyLogLeftLocked reports whether a closing session has only log records left to
// write. Callers must hold s.mu.
func (s *Session) isOnlyLogLeftLocked() bool {
	s.mu.AssertHeld()
	return s.life.state == stateClosing && s.life.runningLoops == 0 && s.requests.workers == 0 && s.requests.count == 0 && s.life.callbackTasks == 0
}

// closedErrorLocked returns ErrClosed. If the session ended for another reason, the error
// wraps the reason, too. Callers must hold s.mu.
func (s *Session) closedErrorLocked() error {
	s.mu.AssertHeld()
	switch cause := s.life.closeCause.(type) {
	case nil:
		return ErrClosed
	case *closedError, *contextClosedError: // ErrClosed, and what wraps it
		return cause
	}
	return &endedError{s.life.closeCause}
}

// endedError is the error of an operation on an ended session.
type endedError struct{ cause error }

func (e *endedError) Error() string   { return ErrClosed.Error() + ": " + trimPrefix(e.cause) }
func (e *endedError) Unwrap() []error { return []error{ErrClosed, ErrConnectionLost, e.cause} }

// Shutdown ends the session in order. From the start of Shutdown:
//
//   - Requests are answered [CodeServerBusy] "server busy - shutting down", including
//     requests that wait for a handler.
//   - Notifications are dropped.
//   - Calls fail with [ErrClosed], except calls that a running handler makes with its
//     context.
//
// Shutdown waits for running handlers, for pending calls, and until all messages are
// written. Then Shutdown closes the session and waits for its end. If the session is
// ending already, Shutdown only waits for the end.
//
// If ctx ends first, Shutdown calls Close and returns ctx's error. In this case, and
// after 10 seconds, Shutdown logs the methods of the awaited handlers.
//
// A handler must not call Shutdown, because Shutdown waits for the handler. If ctx is the
// context of a handler, or derives from one, Shutdown returns [ErrInHandler] at once and
// does nothing. Shutdown cannot recognize a handler by any different context. See
// [ReplyAndDisconnect].
func (s *Session) Shutdown(ctx context.Context) error {
	mustHaveContext("Session.Shutdown", ctx)
	if s.runsHandlerOf(ctx) {
		return ErrInHandler
	}
	return s.shutdownWith(ctx, ErrClosed, 0)
}

// checkDrainedLocked closes life.drained if Shutdown has nothing left to wait for. A
// session without input closes when everything is answered. Callers must hold s.mu.
func (s *Session) checkDrainedLocked() {
	s.mu.AssertHeld()
	s.closeIfAllAnsweredLocked()
	if s.exchange() != nil && !s.input.closed {
		return // the message is still to come, and is refused
	}
	if s.life.state != stateDraining || s.life.unsentErrors > 0 || s.life.callbackTasks > 0 || s.requests.running > 0 || s.calls.table.pending > s.listeningCallsLocked() {
		return
	}
	if s.life.drainTarget == 0 {
		// Shutdown does not wait for later refusals. Otherwise new requests of a peer
		// could keep the session open.
		s.life.drainTarget = s.writer.queuedMessages
	}
	if s.writer.writtenMessages >= s.life.drainTarget && !isClosed(s.life.drained) {
		close(s.life.drained)
	}
}

// closeWith begins the close of the session. Pending calls fail, and the writer has the
// time grace to write the queue. If grace is 0, the connection closes at once. A second
// call can only shorten the grace.
//
// If the server ends the session, the cause is ErrClosed; only the connection receives
// ErrServerClosed.
func (s *Session) closeWith(cause error, grace time.Duration) {
	told := cause
	switch {
	case cause == ErrServerClosed:
		cause = ErrClosed
	case cause == io.EOF:
		cause = s.endOfInput()
	case isUnreachable(cause):
		cause = fmt.Errorf("%w: %w", ErrUnreachable, cause)
	}
	s.lock()
	closeBy := after(s.now(), grace)
	if s.life.state >= stateClosing {
		if s.life.state == stateClosing && closeBy < s.life.closeDeadline {
			s.life.closeDeadline = closeBy
			s.timer.setTimerLocked(closeBy)
		}
		s.unlock()
		return
	}
	s.life.state, s.life.closeCause, s.life.connCause, s.life.closeDeadline = stateClosing, cause, told, closeBy
	s.calls.client.markLostLocked()
	if ss := s.streams.Load(); ss != nil {
		ss.endLocked(cause)
	}
	if grace > 0 {
		s.timer.setTimerLocked(closeBy)
	}
	// Calls with written requests fail now. If the writer has time, unwritten calls fail
	// now, too. Otherwise, and after io.EOF, the writer returns soon. Then the written
	// part is known, and the writer fails the unwritten calls. A Client repeats unwritten
	// calls, and always waits for the writer.
	s.calls.failPendingLocked(cause, grace > 0 && !errors.Is(cause, io.EOF) && !s.calls.client.repeatsLocked())
	running := s.requests.runningRequestsLocked() // before discardQueueLocked, which removes begun batches
	s.requests.discardQueueLocked(isHangUp(cause))
	s.requests.failBatchCallbacksLocked()
	s.hubs.endAllLocked(s.closedErrorLocked())
	for _, c := range running {
		s.effects.endContext(c, cause)
	}
	s.writer.roomLine.wakeAll()
	s.calls.limiter.line.wakeAll()
	s.writer.wakeWriter()
	s.requests.startWorkerIfNeededLocked() // a closing session starts workers without waiting for room
	if grace == 0 || s.exchange() != nil {
		s.effects.setFlag(&s.effects.connCloseDue)
	}
	s.unlock()
}

// closePolitely closes the session after the last replies. The writer has
// Limits.CloseTimeout, and lingers.
func (s *Session) closePolitely(cause error) {
	s.lock()
	s.closePolitelyLocked(cause)
	s.unlock()
}

// closePolitelyLocked does the work of closePolitely. Callers must hold s.mu.
func (s *Session) closePolitelyLocked(cause error) {
	s.mu.AssertHeld()
	s.life.lingerWanted = s.life.lingerWanted || s.life.state < stateClosing
	s.effects.closeSession(cause, s.limits.CloseTimeout)
}

// isHangUp reports whether cause is the close of the connection by the peer.
// Notifications that arrived before are still handled. After any other cause, closeWith
// drops such notifications.
func isHangUp(cause error) bool {
	return slices.ContainsFunc(hangUpErrors, func(target error) bool { return errors.Is(cause, target) })
}

// failPendingLocked completes pending calls as lost, for the given cause. If unwritten is
// false, calls with unwritten requests stay pending. Callers must hold s.mu.
func (pc *pendingCalls) failPendingLocked(cause error, unwritten bool) {
	s := pc.s
	s.mu.AssertHeld()
	now := s.now()
	for _, c := range pc.table.pendingCalls() {
		written := c.message.messageSeq <= s.writer.writtenMessages
		if !written && !unwritten {
			continue
		}
		pc.table.remove(c)
		pc.completeCallLocked(c, now, nil, &ConnectionError{Written: written, Err: cause, message: c.message.messageSeq})
	}
}

// closeConn closes the connection. The close ends the reader and a blocked writer.
func (s *Session) closeConn() {
	s.lock()
	told := s.life.connCause
	s.unlock()
	_ = s.conn.closeWithCause(told)
}

// violationGrace returns the grace for a close because of the peer's input. A connection
// that reports the cause to the peer needs the writer to finish first.
func (s *Session) violationGrace() time.Duration {
	if s.conn.tellsCause() {
		return closeGrace
	}
	return 0
}

// finishIfLastLocked ends the session after reader, writer and workers have returned and
// all records are logged. Callers must hold s.mu.
func (s *Session) finishIfLastLocked() {
	s.mu.AssertHeld()
	if !s.isOnlyLogLeftLocked() || s.logs.running || s.events.running {
		return
	}
	if s.logs.unlogged > 0 {
		s.logs.running = true
		s.pool.RunTask(s.logs.writeLogRecords) // whose last unlock calls finishIfLastLocked again
		return
	}
	s.life.state = stateDone
	s.load.addBytes(-s.memory.reported, s.pool)
	s.reader.forgetPartialLocked()
	s.memory.removeFromBlockedLocked()
	s.load.sessions.Add(-1)
	s.timer.endLocked()
	if s.exchange() != nil {
		s.effects.setFlag(&s.effects.exchangeOver)
		return
	}
	// Owner: the session. End: the callbacks return.
	go s.runCloseCallbacks(s.life.onClose, s.life.droppedAtEnd)
}

// logDropped logs the number of dropped notifications, within the server's budget.
func (s *Session) logDropped(dropped droppedNotifications) {
	const msg = "notifications dropped: the session was ending"
	attrs := []slog.Attr{slog.Int("notifications", dropped.count), slog.String("first", excerpt(dropped.firstMethod)), errorAttr(s.life.closeCause)}
	if l := s.load.logs; l != nil {
		ok, skipped := l.notices.Take(float64(recordSize(msg, attrs)), 0, 1)
		if !ok {
			return
		}
		if skipped > 0 {
			attrs = append(attrs, slog.Int("records left out", skipped))
		}
	}
	s.log.LogAttrs(context.Background(), slog.LevelInfo, msg, attrs...)
}

// runCloseCallbacks logs the number of dropped notifications, runs the callbacks and
// closes Done.
func (s *Session) runCloseCallbacks(callbacks []func(error), dropped droppedNotifications) {
	if dropped.count > 0 {
		s.logDropped(dropped)
	}
	if s.server != nil {
		s.server.forgetSession(s)
	}
	if s.trace.Closed != nil {
		s.trace.Closed(s, s.life.closeCause)
	}
	for _, callback := range callbacks {
		callback(s.life.closeCause)
	}
	s.pool.RemoveUser()
	s.lock()
	s.life.callbacksDone = true
	if s.life.done != nil {
		close(s.life.done)
	}
	s.unlock()
	if s.server != nil {
		s.server.removeUser()
	}
}
