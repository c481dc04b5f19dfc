package rpcx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"time"
)

// acceptErrorPasses reports whether Accept may succeed after err: if err is about one
// connection, or about memory or files that others may give back. A listener that
// is gone has other errors.
func acceptErrorPasses(err error) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	if is(net.ErrClosed) || slices.ContainsFunc(listenerErrors, is) {
		return false
	}
	return slices.ContainsFunc(acceptErrors, is) || isTemporary(err)
}

// acceptErrors are the errors of a system's accept(2) that pass, and listenerErrors
// those of a descriptor that is no listener, or no longer. The files for the
// systems fill them.
var acceptErrors, listenerErrors []error

// isTemporary reports whether err, or an error that err wraps, says that it passes.
// The outermost error that says anything counts. But what a [net.OpError] says is
// about an error of the system only, and it denies for all others.
func isTemporary(err error) bool {
	if says, ok := err.(interface{ Temporary() bool }); ok {
		if _, op := err.(*net.OpError); !op || says.Temporary() {
			return says.Temporary()
		}
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		return isTemporary(wrapper.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(wrapper.Unwrap(), isTemporary)
	}
	return false
}

// accept runs a session on conn, after its handshake if it has one.
func (srv *Server) accept(conn net.Conn) {
	shaker, ok := conn.(interface{ HandshakeContext(context.Context) error })
	if !ok {
		srv.ServeConn(conn)
		return
	}
	srv.mu.Lock()
	limit := limitOr(srv.MaxHandshakes, 256)
	full := len(srv.shaking) >= limit
	if full {
		srv.refuse("Server.MaxHandshakes", limit)
	}
	if srv.stopped || full && time.Since(srv.shaking[0].began) < handshakeTime {
		srv.mu.Unlock()
		conn.Close()
		return
	}
	if full {
		srv.shaking[0].giveUp(errTooManyHandshakes)
		srv.shaking = slices.Delete(srv.shaking, 0, 1)
	}
	ctx, giveUp := context.WithCancelCause(context.Background())
	h := &handshake{time.Now(), giveUp}
	srv.shaking = append(srv.shaking, h)
	srv.enter()
	srv.mu.Unlock()
	srv.pool.run(func() {
		defer giveUp(nil)
		if timeout := srv.HandshakeTimeout; timeout >= 0 {
			if timeout == 0 {
				timeout = 10 * time.Second
			}
			defer time.AfterFunc(timeout, func() { giveUp(errHandshakeTimeout) }).Stop()
		}
		err := shaker.HandshakeContext(ctx)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		srv.mu.Lock()
		if i := slices.Index(srv.shaking, h); i >= 0 {
			srv.shaking = slices.Delete(srv.shaking, i, i+1)
		}
		srv.mu.Unlock()
		if err != nil {
			srv.options.Logger.LogAttrs(context.Background(), slog.LevelInfo, "TLS handshake failed",
				peerAttr(conn.RemoteAddr()), slog.Any("error", err))
			conn.Close()
		} else {
			srv.ServeConn(conn)
		}
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.leave()
	})
}

// handshakeTime is how long a handshake may go on however many others there are.
// Those that never end would lock out all others, so the oldest goes after that,
// and not before: when many come at once, each would make way for the next, and
// none would ever be through.
const handshakeTime = 250 * time.Millisecond

// handshake is one that is in progress.
type handshake struct {
	began time.Time
	// giveUp ends it, whatever it waits for: the peer, or a certificate. To close
	// the connection would end the former only, and may wait itself.
	giveUp context.CancelCauseFunc
}

// Why a handshake was given up, if not because the server was stopped.
var (
	errHandshakeTimeout  error = &timeoutError{"rpcx: handshake timed out (Server.HandshakeTimeout)"}
	errTooManyHandshakes       = errors.New("rpcx: handshake given up for a later one (Server.MaxHandshakes)")
)

// refuse counts a connection that is closed for a limit. It is called under the
// lock.
func (srv *Server) refuse(name string, limit int) {
	if srv.refused == nil {
		srv.refused = make(map[string]uint64)
	}
	if srv.refused[name]++; srv.refused[name] == 1 {
		// (The next ones are not logged: there may be very many.)
		log := srv.options.Logger
		srv.pool.run(func() {
			log.LogAttrs(context.Background(), slog.LevelWarn, "connection refused, as will be others", limitAttr(name, limit))
		})
	}
}

// ServeConn runs a session on a connection that was accepted elsewhere, as
// [Server.Serve] does on its own. It returns nil, and closes conn, if the
// server was stopped or has as many sessions as it may.
func (srv *Server) ServeConn(conn io.ReadWriteCloser) *Session {
	return srv.serve(newStream(conn, srv.resolved().Framer))
}

// ServeMessageConn is [Server.ServeConn] for a connection that keeps messages
// apart by itself; Options.Framer is ignored.
func (srv *Server) ServeMessageConn(conn MessageConn) *Session {
	return srv.serve(newMessages(conn))
}

// Accepts reports whether the server would run a session on one more connection: it
// was not stopped, and has fewer than MaxSessions. (Server.MaxGroup is about a session,
// and so is not asked.) It is for transports that can refuse a connection before there
// is one, as HTTP can: false for MaxSessions counts as a connection refused, in
// ServerStats. True promises nothing, since others may come first.
func (srv *Server) Accepts() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.init()
	return srv.hasRoom()
}

// hasRoom reports whether there may be one more session, and counts it as refused if
// not. It is called under the lock.
func (srv *Server) hasRoom() bool {
	if srv.stopped {
		return false
	}
	most := limitOr(srv.MaxSessions, 10000)
	if len(srv.sessions) < most {
		return true
	}
	srv.refuse("Server.MaxSessions", most)
	return false
}

func (srv *Server) serve(conn transport) *Session {
	s := srv.add(conn)
	if s == nil {
		srv.mu.Lock()
		stopped := srv.stopped
		srv.mu.Unlock()
		var cause error = ServerBusy("too many sessions")
		if stopped {
			cause = ErrServerClosed
		}
		_ = conn.close(cause)
	}
	return s
}

// add starts a session that the server keeps track of, unless it may not have it.
func (srv *Server) add(conn transport) *Session {
	s := newSession(conn, srv.resolved(), RoleServer, &srv.pool, &srv.load)
	group := ""
	if s.limits.Group != nil {
		group = s.limits.Group(s)
	}
	srv.mu.Lock()
	mostOfGroup := limitOr(srv.MaxGroup, math.MaxInt)
	switch {
	case !srv.hasRoom():
		srv.mu.Unlock()
		return nil
	case group != "" && srv.groups.size(group) >= mostOfGroup:
		srv.refuse("Server.MaxGroup", mostOfGroup)
		srv.mu.Unlock()
		return nil
	}
	var account *account
	if group != "" {
		account = srv.groups.join(group, s.limits)
		if s.cost.account != nil {
			s.cost.account = account
			s.retarget() // the others may have used much
		}
	}
	held := srv.OnSession != nil || s.trace.Connected != nil
	s.in.held = held
	s.ended = func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		if account != nil {
			account.sessions--
		}
		delete(srv.sessions, s)
		srv.leave()
	}
	if srv.sessions == nil {
		srv.sessions = make(map[*Session]struct{})
	}
	srv.sessions[s] = struct{}{} // from now on others see it
	srv.enter()
	if held {
		srv.enter() // for the goroutine below
	}
	srv.mu.Unlock()

	s.start()
	if held {
		// Owner: the server. End: Trace.Connected and OnSession return.
		go func() {
			defer func() {
				s.release()
				srv.mu.Lock()
				defer srv.mu.Unlock()
				srv.leave()
			}()
			s.connected()
			if srv.OnSession != nil {
				srv.OnSession(s)
			}
		}()
	}
	return s
}

// release lets workers handle what a held session has received.
func (s *Session) release() {
	s.mu.Lock()
	s.in.held = false
	s.unblock()
	wake := s.state < stateClosing && s.in.wants()
	s.mu.Unlock()
	if wake {
		s.pool.run(s.workFn)
	}
}
