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
	// expire is called when the deadline has passed. The caller holds s.mu, and removes
	// the deadline from its list afterwards.
	expire(s *Session)
}

type deadlines struct{ first, last *deadline }

// add appends d, and makes sure that the timer will fire for it.
func (l *deadlines) add(s *Session, d *deadline, at time.Duration, owner expirer) {
	d.at, d.owner, d.prev, d.next = at, owner, l.last, nil
	if l.last != nil {
		l.last.next = d
	} else {
		l.first = d
	}
	l.last = d
	s.arm(at)
}

// remove takes d out if it is in.
func (l *deadlines) remove(d *deadline) {
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
func (s *Session) now() time.Duration { return time.Since(s.epoch) }

// arm makes sure that the timer fires at the given time or before.
func (s *Session) arm(at time.Duration) {
	if at >= s.armed {
		return
	}
	s.armed = at
	if s.timer == nil {
		s.timer = time.AfterFunc(at-s.now(), s.tick)
	} else {
		s.timer.Reset(at - s.now())
	}
}

// tick does what is due, and arms the timer for what is next.
func (s *Session) tick() {
	s.lock()
	s.armed = never
	if s.state == stateDone {
		s.unlock()
		return
	}
	now := s.now()
	for _, list := range []*deadlines{&s.outgoing, &s.incoming} {
		for list.first != nil && list.first.at <= now {
			d := list.first
			d.owner.expire(s)
			list.remove(d)
		}
		if list.first != nil {
			s.arm(list.first.at)
		}
	}
	s.checkSentLocked(now)
	switch {
	case s.out.writing && s.out.writeBy <= now:
		s.note(slog.LevelWarn, "peer does not read", timeLimit("Limits.SendTimeout", s.limits.SendTimeout))
		s.fx.end(slowPeer("none of a write in %v (Limits.SendTimeout)", s.limits.SendTimeout), 0)
	case s.out.writing:
		s.arm(s.out.writeBy)
	}
	switch {
	case s.input.awaited && s.input.awaitBy <= now:
		s.out.wakeWriter()
	case s.input.awaited:
		s.arm(s.input.awaitBy)
	}
	s.checkPauseLocked() // what has expired left room
	s.checkPauseTimeLocked(now)
	s.checkInputTimeLocked(now)
	s.checkLateLocked(now)
	s.checkStandingLocked(now)
	s.checkPartLocked(now)
	s.checkNetworkLocked(now)
	s.keepVigil(now)
	if s.state == stateClosing {
		if s.closeBy <= now {
			s.fx.set(&s.fx.closeConn)
			s.out.wakeWriter() // which may linger
		} else {
			s.arm(s.closeBy)
		}
	}
	s.unlock()
}

// keepAliveProbes is how many times KeepAlive passes without a sign of life before a
// connection is dead.
const keepAliveProbes = 3

// defaultKeepAlive is what package net sets.
const defaultKeepAlive = 15 * time.Second

// vigil is what a session knows of life on its connection, if anybody wants to
// know. It is guarded by the session's lock.
type vigil struct {
	on     bool
	life   time.Duration // when something passed
	rest   time.Duration // when a handler returned or a call was given up
	probed time.Duration // when the last probe was sent

	network syscall.RawConn // that is asked whether it repeats what it has sent; nil if none
	repeats time.Duration   // since when it does, never if it does not
}

// watchConn begins to watch over the connection, as the limits say.
func (s *Session) watchConn() {
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
	s.watchNetwork()
	s.checkNetworkLocked(s.now())
	if s.vigil.on = l.IdleTimeout != never || l.KeepAliveMethod != ""; s.vigil.on {
		s.vigil.life = s.now()
		s.keepVigil(s.vigil.life)
	}
}

// markAlive is called, under the lock, when something has passed.
func (s *Session) markAlive() {
	if s.vigil.on {
		s.vigil.life = s.now()
	}
}

// rested is called, under the lock, when a handler has returned or a call was
// given up: the session may be idle from now on.
func (s *Session) rested() {
	if s.vigil.on {
		s.vigil.rest = s.now()
	}
}

// keepVigil ends a session that is idle, and sends what keeps one alive. Callers must
// hold s.mu.
func (s *Session) keepVigil(now time.Duration) {
	v, l := &s.vigil, s.limits
	if !v.on || s.state >= stateClosing || s.input.closed {
		return
	}
	if s.pressure.paused {
		v.life = now // silence counts only while somebody reads
	}
	idle := max(v.life, v.rest)
	if s.in.running > 0 || s.in.count > 0 || s.table.pending > 0 || s.out.writing {
		idle = now // at the earliest
	}
	if l.KeepAliveMethod != "" {
		if after(max(v.life, v.probed), l.KeepAlive) <= now {
			v.probed = now
			s.fx.set(&s.fx.keepAlive)
		}
		s.arm(after(max(v.life, v.probed), l.KeepAlive))
	}
	if after(idle, l.IdleTimeout) <= now {
		s.note(slog.LevelInfo, "session is idle", timeLimit("Limits.IdleTimeout", l.IdleTimeout))
		s.fx.keepAlive = false
		s.fx.end(ErrIdle, closeGrace)
		return
	}
	s.arm(after(idle, l.IdleTimeout))
}

// probe sends a notification whose arrival is all that it is for.
func (s *Session) probe() {
	s.mention(s.limits.KeepAliveMethod, nil, "keep-alive cannot be sent")
}

// watchNetwork has the session end when what it has sent is not acknowledged for
// keepAliveProbes times KeepAlive. Without that, TCP goes on for some 15 minutes.
//
// TCP_USER_TIMEOUT counts the time in which the peer does not read, too, and must not
// be shorter than SendTimeout. Where KeepAlive asks for less, the operating system is
// asked whether it repeats what it has sent.
func (s *Session) watchNetwork() {
	keepAlive := s.limits.keepAlive()
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
		s.vigil.network, s.vigil.repeats = raw, never
	}
}

// keepAlive returns KeepAlive with its default for TCP.
func (l *Limits) keepAlive() time.Duration {
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
func (s *Session) checkNetworkLocked(now time.Duration) {
	s.owner.Check()
	v, keepAlive := &s.vigil, s.limits.keepAlive()
	if v.network == nil || s.state >= stateClosing {
		return
	}
	s.arm(after(now, keepAlive/4))
	switch {
	case !repeats(v.network):
		v.repeats = never
	case v.repeats == never:
		v.repeats = now
	case now-v.repeats >= 2*keepAlive: // which leaves one for the first repetition
		v.network = nil
		s.fx.end(ErrUnreachable, 0)
	}
}

// isUnreachable reports whether the operating system has given the connection up
// because nothing came from the peer.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}
