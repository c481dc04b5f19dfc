package rpcx

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// The gate. While the gate is closed, a single worker gives the messages to Options.Gate,
// in order of arrival. Admit opens the gate, but never while a handler runs: the
// remaining messages wait for the return of the handler, and so for its reply in the
// outbox. Replies and cancellations do not pass the gate.
//
// While the gate is closed, Limits.GateQueue and GateQueueBytes bound the queue, and no
// queue is crowded. The reader hands over each message at once, so the queue never
// exceeds GateQueue. Reading pauses as described in serve_pressure.go. If reading must
// continue and the queue is full, the session ends.

// gateState is the state of a session's gate. The session's lock guards the fields, except
// that any goroutine may read closed.
type gateState struct {
	closed   atomic.Bool   // Options.Gate handles the messages; changes only while no handler runs
	admitted bool          // Admit was called: the gate opens when no handler runs
	deadline time.Duration // when the session ends without Admit
}

// gateSwitch is the handler of a session with a gate, inside the middleware.
type gateSwitch struct{ gate, handler Handler }

func (g *gateSwitch) ServeRPC(ctx context.Context, req *Request) (any, error) {
	s := req.session
	if s == nil { // a middleware made the request
		if h := handlerOf(ctx); h != nil {
			s = h.session
		}
	}
	if s == nil || s.requests.gate.closed.Load() {
		return g.gate.ServeRPC(ctx, req)
	}
	return g.handler.ServeRPC(ctx, req)
}

// Admit lets a session with Options.Gate go on to Options.Handler. Admit may be called from
// any goroutine: mostly from the handler of Gate, after a login for example, or from
// [Server.OnSession], for a client known by its certificate.
//
// If a handler of Gate runs, the next message starts when the handler has returned and its
// reply is queued. So the reply leaves before anything that the next handler sends.
// The result of the handler does not matter, except a [Disconnect], which takes Admit back:
// a handler that fails should not call Admit. A panic after Admit leaves the session
// admitted.
//
// There is no way back. Admit has no effect on a session without Gate, on an admitted
// session, and on a session that is over.
func (s *Session) Admit() {
	s.lock()
	defer s.unlock()
	g := &s.requests.gate
	if !g.closed.Load() {
		return
	}
	if g.admitted = true; s.requests.running == 0 {
		s.requests.openGateLocked()
		s.requests.startWorkerIfNeededLocked()
	}
}

// openGateLocked opens the gate. The queued messages go to Options.Handler. Callers must
// hold s.mu. No handler may run.
func (rs *requestServer) openGateLocked() {
	s := rs.s
	s.mu.AssertHeld()
	rs.gate.closed.Store(false)
	limit := s.limits.Concurrency
	if s.cost.account != nil {
		limit = s.cost.target
	}
	rs.setLimitLocked(limit)
}

// setLimitLocked sets the maximum of workers to limit, or to less if the messages have to
// be handled one at a time. Callers must hold s.mu.
func (rs *requestServer) setLimitLocked(limit int) {
	rs.s.mu.AssertHeld()
	if rs.order == Sequential || rs.gate.closed.Load() {
		limit = min(limit, 1)
	}
	rs.limit = limit
}

// startGateTimeout starts Limits.GateTimeout, if there is a gate.
func (rs *requestServer) startGateTimeout() {
	s := rs.s
	if !rs.gate.closed.Load() {
		return
	}
	s.lock()
	defer s.unlock()
	rs.gate.deadline = after(s.now(), s.limits.GateTimeout)
	s.timer.setTimerLocked(rs.gate.deadline)
}

// checkGateTimeoutLocked ends the session if Admit was not called within
// Limits.GateTimeout. The session's timer calls checkGateTimeoutLocked. Callers must hold
// s.mu.
func (rs *requestServer) checkGateTimeoutLocked(now time.Duration) {
	s := rs.s
	s.mu.AssertHeld()
	switch g := &rs.gate; {
	case !g.closed.Load() || g.admitted || s.life.state >= stateClosing:
	case g.deadline > now:
		s.timer.setTimerLocked(g.deadline)
	default:
		s.logs.logLaterLocked(slog.LevelInfo, "session ended: it was not admitted in time",
			timeLimitAttr("Limits.GateTimeout", s.limits.GateTimeout), slog.Int("requests", rs.count), slog.Int("handlers", rs.running))
		s.effects.closeSession(notAdmitted("no Session.Admit in %v (Limits.GateTimeout)", s.limits.GateTimeout), closeGrace)
	}
}

// notAdmitted returns ErrNotAdmitted together with the reason for the end of the session.
func notAdmitted(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrNotAdmitted}, args...)...)
}

// isGateQueueFullLocked reports whether the queue before the closed gate is at least
// quarters/4 full. Callers must hold s.mu.
func (rs *requestServer) isGateQueueFullLocked(quarters int) bool {
	s := rs.s
	s.mu.AssertHeld()
	l := s.limits
	return rs.queueDepth() >= quartersOf(min(l.GateQueue, l.Queue), quarters) ||
		rs.bytes >= quartersOf(min(l.GateQueueBytes, l.QueueBytes), quarters)
}

// endIfGateQueueFullLocked ends the session if an entry does not fit into the queue before
// the closed gate. The entry is answered before. It reports whether the session ends.
// Callers must hold s.mu.
func (rs *requestServer) endIfGateQueueFullLocked(e queueEntry) bool {
	s := rs.s
	s.mu.AssertHeld()
	l, text, limit := s.limits, "", slog.Attr{}
	switch {
	case !rs.gate.closed.Load():
		return false
	case rs.queueDepth() >= l.GateQueue:
		text = overLimitText(l.GateQueue, "requests waiting", "Limits.GateQueue")
		limit = limitAttr("Limits.GateQueue", slog.Int("requests", l.GateQueue))
	case rs.count > 0 && e.queuedBytes() > l.GateQueueBytes-rs.bytes:
		text = overLimitText(l.GateQueueBytes, "bytes of requests waiting", "Limits.GateQueueBytes")
		limit = byteLimitAttr("Limits.GateQueueBytes", l.GateQueueBytes)
	default:
		return false
	}
	why := notStarted("queue", text)
	rs.countRefusedLocked(why)
	rs.traceRefusedLocked(e, why)
	s.logs.logLaterLocked(slog.LevelWarn, "session ended: too much has arrived before it was admitted", limit,
		slog.Int("requests", rs.count), slog.Int("bytes", rs.bytes))
	e.refuseRemaining(s, why, fromReader)
	s.effects.closeSession(notAdmitted("%s", text), closeGrace)
	return true
}
