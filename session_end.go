package rpcx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"
)

// Shutdown ends the session in order. From now on requests are answered
// [CodeServerBusy] "server busy - shutting down", those that wait for a handler
// included, notifications are dropped, and calls fail with [ErrClosed] unless a
// running handler makes them with its context. Shutdown waits for the handlers
// that run, for the calls that are pending, and until all is written; then it
// closes the session and waits for its end. For that of a session that is ending
// already it only waits. If ctx ends first it calls Close, and returns ctx's error. The
// methods of the handlers that it waits for are logged then, and after 10 seconds.
//
// A handler must not call it, since it waits for the handler. With the handler's
// context, or one made from it, Shutdown returns [ErrInHandler] at once and does
// nothing; that a handler calls it with another context cannot be recognised. See
// [ReplyAndDisconnect].
func (s *Session) Shutdown(ctx context.Context) error {
	mustHaveContext("Session.Shutdown", ctx)
	if s.runsHandlerOf(ctx) {
		return ErrInHandler
	}
	return s.shutdown(ctx, ErrClosed)
}

// checkDrained sees whether Shutdown, or a session without input, has anything left to
// wait for. Callers must hold s.mu.
func (s *Session) checkDrained() {
	s.checkInputLocked()
	if s.state != stateDraining || s.refusing > 0 || s.in.running > 0 || s.table.pending > 0 {
		return
	}
	if s.flushTo == 0 {
		// What is refused from now on is not waited for, or a peer that goes on
		// asking could hold the session open.
		s.flushTo = s.out.queued
	}
	if s.out.written >= s.flushTo {
		select {
		case <-s.drained:
		default:
			close(s.drained)
		}
	}
}

// end begins the end: it fails what is pending and leaves the writer grace to
// write what is queued; none for 0. A second end may only shorten the grace. To this
// side the end of its server is a Close: only the connection is told of it.
func (s *Session) end(cause error, grace time.Duration) {
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
	if s.state >= stateClosing {
		if s.state == stateClosing && closeBy < s.closeBy {
			s.closeBy = closeBy
			s.arm(closeBy)
		}
		s.unlock()
		return
	}
	s.state, s.cause, s.told, s.closeBy = stateClosing, cause, told, closeBy
	if grace > 0 {
		s.arm(closeBy)
	}
	// What of the rest goes out is known when the writer returns: now, if the
	// connection is closed.
	s.lose(cause, grace > 0 && !errors.Is(cause, io.EOF))
	running := s.runningLocked() // before discard, which takes batches out that are begun
	s.discard(hungUp(cause))
	for _, c := range running {
		s.fx.endContext(c, cause)
	}
	s.out.line.release()
	s.slots.line.release()
	s.out.wakeWriter()
	s.wakeWorkerLocked() // which waits for nobody any more
	if grace == 0 {
		s.fx.set(&s.fx.closeConn)
	}
	s.unlock()
}

// endPolitely is end where the peer is to read what it was answered last: the writer
// has Limits.CloseTimeout, and lingers.
func (s *Session) endPolitely(cause error) {
	s.lock()
	s.endPolitelyLocked(cause)
	s.unlock()
}

// endPolitelyLocked is endPolitely for callers that hold s.mu.
func (s *Session) endPolitelyLocked(cause error) {
	s.owner.Check()
	s.lingers = s.lingers || s.state < stateClosing
	s.fx.end(cause, s.limits.CloseTimeout)
}

// hungUp reports whether a session ends since its peer has closed the connection: what
// the peer had sent before was sent in good faith.
func hungUp(cause error) bool {
	return slices.ContainsFunc(hangUps, func(target error) bool { return errors.Is(cause, target) })
}

// lose completes the calls that are pending as lost for the given cause. Those that are
// not written only if unwritten is set. Callers must hold s.mu.
func (s *Session) lose(cause error, unwritten bool) {
	now := s.now()
	for _, f := range s.table.all() {
		written := f.queued <= s.out.written
		if !written && !unwritten {
			continue
		}
		s.table.remove(f)
		if f.batch != nil {
			s.fx.complete(f)
		}
		s.complete(f, now, nil, &ConnectionError{written, cause})
	}
}

// closeConn closes the connection, which ends the reader and a blocked writer.
func (s *Session) closeConn() {
	s.lock()
	told := s.told
	s.unlock()
	_ = s.conn.close(told)
}

// violationGrace returns the grace of an end because of what the peer has sent. A
// connection that tells the peer why must not be in a write then.
func (s *Session) violationGrace() time.Duration {
	if s.conn.tells() {
		return closeGrace
	}
	return 0
}

// leave ends the session when the reader, the writer and all workers have returned, and
// all is logged. Callers must hold s.mu.
func (s *Session) leave() {
	if !s.lastLocked() || s.logging {
		return
	}
	if s.unlogged > 0 {
		s.logging = true
		s.pool.run(s.logNotes) // which calls leave again
		return
	}
	s.state = stateDone
	s.load.add(-s.weight, s.pool)
	s.dropPartLocked()
	s.stopWaitingLocked()
	s.load.sessions.Add(-1)
	if s.timer != nil {
		s.timer.Stop()
	}
	// Owner: the session. End: the callbacks return.
	go s.finish(s.onClose, s.dropped)
}

// logDropped logs how many notifications were dropped, within the server's budget.
func (s *Session) logDropped(dropped dropped) {
	const msg = "notifications dropped: the session was ending"
	attrs := []slog.Attr{slog.Int("notifications", dropped.count), slog.String("first", excerpt(dropped.first)), errorAttr(s.cause)}
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

// finish logs how many notifications were dropped, runs the callbacks and closes Done.
func (s *Session) finish(callbacks []func(error), dropped dropped) {
	if dropped.count > 0 {
		s.logDropped(dropped)
	}
	if s.left != nil {
		s.left()
	}
	if s.trace.Closed != nil {
		s.trace.Closed(s, s.cause)
	}
	for _, callback := range callbacks {
		callback(s.cause)
	}
	s.pool.leave()
	s.lock()
	s.over = true
	if s.done != nil {
		close(s.done)
	}
	s.unlock()
	if s.ended != nil {
		s.ended()
	}
}
