package rpcx

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"time"
)

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
