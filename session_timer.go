package rpcx

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"time"
)

// Time. A session reads one clock, the time since its start, and has one timer,
// for all of its deadlines. The timer is set for the earliest deadline it was
// told of, and is left alone when that one is met in time: while messages flow
// it fires about once in the shortest timeout.

// deadline is an entry in a list of them. Equal timeouts expire in the order in
// which they began, so a list needs no sorting.
type deadline struct {
	at         time.Duration
	owner      expirer // nil when it is in no list
	prev, next *deadline
}

// expirer is what a deadline is for.
type expirer interface {
	// expireLocked is called when the deadline has passed. The caller holds s.mu, and removes
	// the deadline from its list afterwards.
	expireLocked(s *Session)
}

type deadlineList struct{ first, last *deadline }

// appendDeadline appends d, and makes sure that the timer will fire for it.
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

// removeDeadline takes d out if it is in.
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

// now is the time on the session's clock.
func (s *Session) now() time.Duration { return time.Since(s.startTime) }

// sessionTimer is the one timer of a session, for all of its deadlines.
type sessionTimer struct {
	s     *Session
	timer *time.Timer
	at    time.Duration // when the timer is due, never if it is not set
}

// setTimerLocked makes sure that the timer fires at the given time or before.
func (t *sessionTimer) setTimerLocked(at time.Duration) {
	s := t.s
	s.mu.AssertHeld()
	if at >= t.at {
		return
	}
	t.at = at
	if t.timer == nil {
		t.timer = time.AfterFunc(at-s.now(), t.checkDeadlines)
	} else {
		t.timer.Reset(at - s.now())
	}
}

// checkDeadlines does what is due, and arms the timer for what is next.
func (t *sessionTimer) checkDeadlines() {
	s := t.s
	s.lock()
	t.at = never
	if s.life.state == stateDone {
		s.unlock()
		return
	}
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
	s.requests.checkPauseLocked() // what has expired left room
	s.requests.checkPauseDeadlinesLocked(now)
	s.checkHalfCloseLocked(now)
	s.requests.checkLateLocked(now)
	s.reader.checkStalledInputLocked(now)
	s.reader.checkPartialLocked(now)
	s.activity.checkNetworkLocked(now)
	s.activity.checkIdleLocked(now)
	if s.life.state == stateClosing {
		if s.life.closeDeadline <= now {
			s.effects.setFlag(&s.effects.connCloseDue)
			s.writer.wakeWriter() // which may linger
		} else {
			t.setTimerLocked(s.life.closeDeadline)
		}
	}
	s.unlock()
}

// keepAliveProbes is how many times KeepAlive passes without a sign of life before a
// connection is dead.
const keepAliveProbes = 3

// defaultKeepAlive is what package net sets.
const defaultKeepAlive = 15 * time.Second

// connActivity is what a session knows of life on its connection, if anybody wants to
// know. It is guarded by the session's lock.
type connActivity struct {
	s *Session

	watched       bool
	lastTraffic   time.Duration // when something passed
	lastWorkEnd   time.Duration // when a handler returned or a call was given up
	lastKeepAlive time.Duration // when the last probe was sent

	networkConn    syscall.RawConn // that is asked whether it repeats what it has sent; nil if none
	repeatingSince time.Duration   // since when it does, never if it does not
}

// watchConn begins to watch over the connection, as the limits say.
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
			// If it fails the connection is broken, which the reader sees.
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

// markActiveLocked is called, under the lock, when something has passed.
func (a *connActivity) markActiveLocked() {
	a.s.mu.AssertHeld()
	if a.watched {
		a.lastTraffic = a.s.now()
	}
}

// markWorkEndLocked is called, under the lock, when a handler has returned or a call was
// given up: the session may be idle from now on.
func (a *connActivity) markWorkEndLocked() {
	a.s.mu.AssertHeld()
	if a.watched {
		a.lastWorkEnd = a.s.now()
	}
}

// checkIdleLocked ends a session that is idle, and sends what keeps one alive. Callers must
// hold s.mu.
func (a *connActivity) checkIdleLocked(now time.Duration) {
	s := a.s
	s.mu.AssertHeld()
	v, l := &s.activity, s.limits
	if !v.watched || s.life.state >= stateClosing || s.input.closed {
		return
	}
	if s.requests.pressure.paused {
		v.lastTraffic = now // silence counts only while somebody reads
	}
	idle := max(v.lastTraffic, v.lastWorkEnd)
	if s.requests.running > 0 || s.requests.count > 0 || s.calls.table.pending > 0 || s.writer.writing {
		idle = now // at the earliest
	}
	if l.KeepAliveMethod != "" {
		if after(max(v.lastTraffic, v.lastKeepAlive), l.KeepAlive) <= now {
			v.lastKeepAlive = now
			s.effects.setFlag(&s.effects.keepAliveDue)
		}
		s.timer.setTimerLocked(after(max(v.lastTraffic, v.lastKeepAlive), l.KeepAlive))
	}
	if after(idle, l.IdleTimeout) <= now {
		s.logs.logLaterLocked(slog.LevelInfo, "session is idle", timeLimitAttr("Limits.IdleTimeout", l.IdleTimeout))
		s.effects.keepAliveDue = false
		s.effects.closeSession(ErrIdle, closeGrace)
		return
	}
	s.timer.setTimerLocked(after(idle, l.IdleTimeout))
}

// sendKeepAlive sends a notification whose arrival is all that it is for.
func (a *connActivity) sendKeepAlive() {
	s := a.s
	s.tryNotify(s.limits.KeepAliveMethod, nil, "keep-alive cannot be sent")
}

// watchNetworkLocked has the session end when what it has sent is not acknowledged for
// keepAliveProbes times KeepAlive. Without that, TCP goes on for some 15 minutes.
//
// TCP_USER_TIMEOUT counts the time in which the peer does not read, too, and must not
// be shorter than SendTimeout. Where KeepAlive asks for less, the operating system is
// asked whether it repeats what it has sent.
func (a *connActivity) watchNetworkLocked() {
	s := a.s
	s.mu.AssertHeld()
	keepAlive := s.limits.tcpKeepAlive()
	conn := tcpConn(s.NetConn())
	if conn == nil || keepAlive < 0 || keepAlive > never/keepAliveProbes {
		return
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	patience := keepAlive * keepAliveProbes
	if s.limits.KeepAliveMethod != "" {
		patience -= keepAlive // before the probe that is not acknowledged
	}
	if patience >= s.limits.SendTimeout {
		setUserTimeout(raw, patience)
	} else if canSeeRepeats {
		a.networkConn, a.repeatingSince = raw, never
	}
}

// tcpKeepAlive returns KeepAlive with its default for TCP.
func (l *Limits) tcpKeepAlive() time.Duration {
	if l.KeepAlive == 0 {
		return defaultKeepAlive
	}
	return l.KeepAlive
}

// tcpConn returns the TCP connection that carries conn, nil if there is none.
func tcpConn(conn net.Conn) *net.TCPConn {
	switch c := conn.(type) {
	case *net.TCPConn:
		return c
	case *SOCKSConn:
		return tcpConn(c.Conn)
	case interface{ NetConn() net.Conn }:
		return tcpConn(c.NetConn())
	}
	return nil
}

// checkNetworkLocked ends a session if what was sent is not acknowledged. Callers must
// hold s.mu.
func (a *connActivity) checkNetworkLocked(now time.Duration) {
	s := a.s
	s.mu.AssertHeld()
	v, keepAlive := &s.activity, s.limits.tcpKeepAlive()
	if v.networkConn == nil || s.life.state >= stateClosing {
		return
	}
	s.timer.setTimerLocked(after(now, keepAlive/4))
	switch {
	case !isRepeating(v.networkConn):
		v.repeatingSince = never
	case v.repeatingSince == never:
		v.repeatingSince = now
	case now-v.repeatingSince >= 2*keepAlive: // which leaves one for the first repetition
		v.networkConn = nil
		s.effects.closeSession(ErrUnreachable, 0)
	}
}

// isUnreachable reports whether the operating system has given the connection up
// because nothing came from the peer.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}
