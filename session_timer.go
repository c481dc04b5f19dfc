package rpcx

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"example.com/rpcx/internal/sockstate"
)

// Time. A session reads one clock, the time since its start, and has a single timer for
// all deadlines. The timer is set for the earliest known deadline. If a deadline is met
// in time, the timer stays set: while messages flow, the timer fires about once in the
// shortest timeout.

// deadline is an entry of a deadlineList. Equal timeouts expire in the order of their
// start, so a list needs no sorting.
type deadline struct {
	at         time.Duration
	owner      expirer // nil outside of a list
	prev, next *deadline
}

// expirer is the owner of a deadline.
type expirer interface {
	// expireLocked is called when the deadline has passed. Callers must hold s.mu, and
	// remove the deadline from its list afterwards.
	expireLocked(s *Session)
}

// deadlineList holds deadlines in the order of their times. Callers must hold s.mu.
type deadlineList struct{ first, last *deadline }

// appendDeadline appends d, and sets the timer for d.
func (l *deadlineList) appendDeadline(s *Session, d *deadline, at time.Duration, owner expirer) {
	d.at, d.owner, d.prev, d.next = at, owner, l.last, nil
	if l.last != nil {
		l.last.next = d
	} else {
		l.first = d
	}
	l.last = d
	s.timer.setTimerLocked(at)
}

// removeDeadline removes d if d is in the list.
func (l *deadlineList) removeDeadline(d *deadline) {
	if d.owner == nil {
		return
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		l.first = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		l.last = d.prev
	}
	*d = deadline{}
}

// now returns the time on the session's clock.
func (s *Session) now() time.Duration { return time.Since(s.startTime) }

// sessionTimer is the single timer of a session, for all deadlines.
type sessionTimer struct {
	s     *Session
	timer *pooledTimer  // nil before the first deadline
	at    time.Duration // when the timer is due; never if it is not set, and 0 after the end
}

// pooledTimer is a timer that sessions of a server pass on, without stopping it. Setting a
// timer takes a tenth of the time of an exchange. Mostly the timer of the last exchange
// fires early enough for the next. Its lock is taken after s.mu.
type pooledTimer struct {
	mu      sync.Mutex
	session *Session // nil while no session has the timer
	timer   *time.Timer
	at      time.Time // when the timer is due; zero if it is not set
}

// takeTimer returns a timer for s.
func (p *pool) takeTimer(s *Session) *pooledTimer {
	t, ok := p.timers.Get().(*pooledTimer)
	if !ok {
		t = &pooledTimer{}
	}
	t.setSession(s)
	return t
}

// putTimer returns a timer to the pool.
func (p *pool) putTimer(t *pooledTimer) {
	t.setSession(nil)
	p.timers.Put(t)
}

func (t *pooledTimer) setSession(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.session = s
}

// setTimer makes the timer fire at the given time or earlier.
func (t *pooledTimer) setTimer(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.timer == nil:
		t.timer = time.AfterFunc(time.Until(at), t.fire)
	case t.at.IsZero() || at.Before(t.at):
		t.timer.Reset(time.Until(at))
	default:
		return
	}
	t.at = at
}

// fire checks the deadlines of the session that has the timer.
func (t *pooledTimer) fire() {
	t.mu.Lock()
	s := t.session
	t.at = time.Time{}
	t.mu.Unlock()
	if s != nil {
		s.timer.checkDeadlines()
	}
}

// setTimerLocked makes the timer fire at the given time or earlier. Callers must hold
// s.mu.
func (t *sessionTimer) setTimerLocked(at time.Duration) {
	s := t.s
	s.mu.AssertHeld()
	if at >= t.at {
		return
	}
	t.at = at
	if t.timer == nil {
		t.timer = s.pool.takeTimer(s)
	}
	t.timer.setTimer(s.startTime.Add(at))
}

// endLocked returns the timer to the pool. No deadline sets a timer any more. Callers must
// hold s.mu.
func (t *sessionTimer) endLocked() {
	t.s.mu.AssertHeld()
	t.at = 0
	if t.timer != nil {
		t.s.pool.putTimer(t.timer)
		t.timer = nil
	}
}

// checkDeadlines handles due deadlines, and sets the timer for the next deadline.
func (t *sessionTimer) checkDeadlines() {
	s := t.s
	s.lock()
	if s.life.state == stateDone {
		s.unlock()
		return
	}
	t.at = never
	now := s.now()
	for _, list := range []*deadlineList{&s.calls.timeouts, &s.requests.open} {
		for list.first != nil && list.first.at <= now {
			d := list.first
			d.owner.expireLocked(s)
			list.removeDeadline(d)
		}
		if list.first != nil {
			t.setTimerLocked(list.first.at)
		}
	}
	s.writer.checkSendProgressLocked(now)
	switch {
	case s.writer.writing && s.writer.writeDeadline <= now:
		s.logs.logLaterLocked(slog.LevelWarn, "peer does not read", timeLimitAttr("Limits.SendTimeout", s.limits.SendTimeout))
		s.effects.closeSession(slowPeer("none of a write in %v (Limits.SendTimeout)", s.limits.SendTimeout), 0)
	case s.writer.writing:
		t.setTimerLocked(s.writer.writeDeadline)
	}
	switch {
	case s.input.writerWaiting && s.input.waitDeadline <= now:
		s.writer.wakeWriter()
	case s.input.writerWaiting:
		t.setTimerLocked(s.input.waitDeadline)
	}
	s.requests.checkPauseLocked() // expired requests have made room
	s.requests.checkPauseDeadlinesLocked(now)
	s.reader.checkLentLocked(now)
	s.checkHalfCloseLocked(now)
	s.requests.checkLateLocked(now)
	if ss := s.streams.Load(); ss != nil {
		ss.checkKeptLocked(now)
	}
	s.requests.checkGateTimeoutLocked(now)
	s.reader.checkStalledInputLocked(now)
	s.reader.checkPartialLocked(now)
	s.activity.checkNetworkLocked(now)
	s.activity.checkIdleLocked(now)
	if s.life.state == stateClosing {
		if s.life.closeDeadline <= now {
			s.effects.setFlag(&s.effects.connCloseDue)
			s.writer.wakeWriter() // the writer may linger
		} else {
			t.setTimerLocked(s.life.closeDeadline)
		}
	}
	s.unlock()
}

// keepAliveProbes is the number of KeepAlive periods without a sign of life, after which
// a connection is dead.
const keepAliveProbes = 3

// defaultKeepAlive is the default of package net.
const defaultKeepAlive = 15 * time.Second

// connActivity tracks signs of life on the connection, if a limit needs them.
// connActivity is guarded by the session's lock.
type connActivity struct {
	s *Session

	watched       bool
	lastTraffic   time.Duration // time of the last traffic
	lastWorkEnd   time.Duration // when a handler last returned or a call was abandoned
	lastKeepAlive time.Duration // time of the last probe

	networkConn    syscall.RawConn // asked for retransmissions; nil if not needed
	repeatingSince time.Duration   // start of the retransmissions; never if there are none
}

// watchConn begins to watch the connection, as the limits require.
func (a *connActivity) watchConn() {
	s := a.s
	l := s.limits
	if l.KeepAliveMethod == "" && l.KeepAlive != 0 {
		conn := s.NetConn()
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn()
		}
		if t, ok := conn.(interface {
			SetKeepAliveConfig(net.KeepAliveConfig) error
		}); ok {
			config := net.KeepAliveConfig{Enable: l.KeepAlive > 0, Idle: l.KeepAlive, Interval: l.KeepAlive}
			if config.Enable {
				config.Count = keepAliveProbes - 1 // after the first KeepAlive
			}
			// If the call fails, the connection is broken, and the reader notices.
			_ = t.SetKeepAliveConfig(config)
		}
	}
	s.lock()
	defer s.unlock()
	a.watchNetworkLocked()
	a.checkNetworkLocked(s.now())
	if a.watched = l.IdleTimeout != never || l.KeepAliveMethod != ""; a.watched {
		a.lastTraffic = s.now()
		a.checkIdleLocked(a.lastTraffic)
	}
}

// markActiveLocked records traffic. Callers must hold s.mu.
func (a *connActivity) markActiveLocked() {
	a.s.mu.AssertHeld()
	if a.watched {
		a.lastTraffic = a.s.now()
	}
}

// markWorkEndLocked records the end of a handler or of an abandoned call: the session may
// be idle from now on. Callers must hold s.mu.
func (a *connActivity) markWorkEndLocked() {
	a.s.mu.AssertHeld()
	if a.watched {
		a.lastWorkEnd = a.s.now()
	}
}

// checkIdleLocked ends an idle session, and schedules keep-alive notifications. Callers
// must hold s.mu.
func (a *connActivity) checkIdleLocked(now time.Duration) {
	s := a.s
	s.mu.AssertHeld()
	l := s.limits
	if !a.watched || s.life.state >= stateClosing || s.input.closed {
		return
	}
	if s.reader.role.vacancy == vacantPaused {
		a.lastTraffic = now // silence counts only while the session reads
	}
	idle := max(a.lastTraffic, a.lastWorkEnd)
	if s.requests.running > 0 || s.requests.count > 0 || s.calls.table.pending > 0 || s.writer.writing {
		idle = now // at the earliest
	}
	if l.KeepAliveMethod != "" {
		if after(max(a.lastTraffic, a.lastKeepAlive), l.KeepAlive) <= now {
			a.lastKeepAlive = now
			s.effects.setFlag(&s.effects.keepAliveDue)
		}
		s.timer.setTimerLocked(after(max(a.lastTraffic, a.lastKeepAlive), l.KeepAlive))
	}
	if after(idle, l.IdleTimeout) <= now {
		s.logs.logLaterLocked(slog.LevelInfo, "session is idle", timeLimitAttr("Limits.IdleTimeout", l.IdleTimeout))
		s.effects.keepAliveDue = false
		s.effects.closeSession(ErrIdle, closeGrace)
		return
	}
	s.timer.setTimerLocked(after(idle, l.IdleTimeout))
}

// sendKeepAlive sends a notification that has no purpose but to arrive.
func (a *connActivity) sendKeepAlive() {
	s := a.s
	s.tryNotify(s.limits.KeepAliveMethod, nil, "keep-alive cannot be sent")
}

// watchNetworkLocked makes the session end if sent bytes stay unacknowledged for
// keepAliveProbes times KeepAlive. Otherwise TCP would continue for some 15 minutes.
//
// TCP_USER_TIMEOUT must not be shorter than SendTimeout, because it also counts the time
// in which the peer does not read. If KeepAlive requires less, the session asks the
// operating system about retransmissions. Callers must hold s.mu.
func (a *connActivity) watchNetworkLocked() {
	s := a.s
	s.mu.AssertHeld()
	keepAlive := s.limits.tcpKeepAlive()
	conn, tcp := carrierOf(s.NetConn()).(*net.TCPConn)
	if !tcp || keepAlive < 0 || keepAlive > never/keepAliveProbes {
		return
	}
	raw := rawConn(conn)
	if raw == nil {
		return
	}
	patience := keepAlive * keepAliveProbes
	if s.limits.KeepAliveMethod != "" {
		patience -= keepAlive // before the unacknowledged probe
	}
	if patience >= s.limits.SendTimeout {
		sockstate.SetUserTimeout(raw, patience)
	} else if sockstate.CanSeeRepeats {
		a.networkConn, a.repeatingSince = raw, never
	}
}

// tcpKeepAlive returns KeepAlive, or the default for TCP.
func (l *Limits) tcpKeepAlive() time.Duration {
	if l.KeepAlive == 0 {
		return defaultKeepAlive
	}
	return l.KeepAlive
}

// checkNetworkLocked ends the session if sent bytes stay unacknowledged. Callers must
// hold s.mu.
func (a *connActivity) checkNetworkLocked(now time.Duration) {
	s := a.s
	s.mu.AssertHeld()
	keepAlive := s.limits.tcpKeepAlive()
	if a.networkConn == nil || s.life.state >= stateClosing {
		return
	}
	s.timer.setTimerLocked(after(now, keepAlive/4))
	switch {
	case !sockstate.IsRepeating(a.networkConn):
		a.repeatingSince = never
	case a.repeatingSince == never:
		a.repeatingSince = now
	case now-a.repeatingSince >= 2*keepAlive: // a third period passes before the first retransmission
		a.networkConn = nil
		s.effects.closeSession(ErrUnreachable, 0)
	}
}

// isUnreachable reports whether the operating system gave up the connection because the
// peer did not respond.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}
