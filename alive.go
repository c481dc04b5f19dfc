package rpcx

import (
	"crypto/tls"
	"log/slog"
	"net"
	"time"
)

// vigil is what a session knows of life on its connection, if anybody wants to
// know. It is guarded by the session's lock.
type vigil struct {
	on     bool
	life   time.Duration // when something passed
	rest   time.Duration // when a handler returned or a call was given up
	probed time.Duration // when the last probe was sent
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
			// If it fails the connection is broken, which the reader sees.
			_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: l.KeepAlive > 0, Idle: l.KeepAlive, Interval: l.KeepAlive})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vigil.on = l.IdleTimeout != never || l.KeepAliveMethod != ""; s.vigil.on {
		s.vigil.life = s.now()
		s.keepVigil(s.vigil.life)
	}
}

// lived is called, under the lock, when something has passed.
func (s *Session) lived() {
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

// keepVigil returns what is to be done now, without the lock with which it is
// called; nil if nothing.
func (s *Session) keepVigil(now time.Duration) (due func()) {
	v, l := &s.vigil, s.limits
	if !v.on || s.state >= stateClosing {
		return nil
	}
	idle := max(v.life, v.rest)
	if s.in.running > 0 || s.in.count > 0 || s.table.pending > 0 || s.out.writing {
		idle = now // at the earliest
	}
	if l.KeepAliveMethod != "" {
		if after(max(v.life, v.probed), l.KeepAlive) <= now {
			v.probed = now
			due = s.probe
		}
		s.arm(after(max(v.life, v.probed), l.KeepAlive))
	}
	if after(idle, l.IdleTimeout) <= now {
		s.note(slog.LevelInfo, "session is idle", slog.Duration("Limits.IdleTimeout", l.IdleTimeout))
		return func() { s.end(ErrIdle, closeGrace) }
	}
	s.arm(after(idle, l.IdleTimeout))
	return due
}

// probe sends a notification whose arrival is all that it is for.
func (s *Session) probe() {
	s.mention(s.limits.KeepAliveMethod, nil, "keep-alive cannot be sent")
}
