package rpcx

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/rpcx/internal/bounded"
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

// accept has a session run on conn, and does not wait for conn's peer. A connection
// of package net can be asked anything without waiting. Any other connection is
// prepared on the pool.
func (srv *Server) accept(conn net.Conn) {
	mustHave("Server.Serve, whose listener accepts,", "connection", conn)
	if isPlain(conn) {
		srv.ServeConn(conn)
		return
	}
	srv.mu.Lock()
	srv.enter()
	if srv.beginning == nil {
		srv.beginning = make(chan struct{}, min(maxBeginning, max(1, limitOr(srv.MaxHandshakes, 256)/2)))
	}
	beginning := srv.beginning
	srv.mu.Unlock()
	beginning <- struct{}{} // waits for goroutines that can run, and for no peer
	srv.pool.run(func() {
		srv.prepare(conn, func() { <-beginning })
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.leave()
	})
}

// maxBeginning is how many connections are accepted ahead of the goroutines that prepare
// them. A goroutine that has counted its handshake may have to queue for a processor.
// With thousands in that queue, MaxHandshakes would refuse connections that wait for
// nothing.
const maxBeginning = 16

// isPlain reports whether conn's type is one of package net itself: TCP, a unix
// socket, or [net.Pipe].
func isPlain(conn io.ReadWriteCloser) bool {
	t := reflect.TypeOf(conn)
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "net"
}

// prepare runs a session on conn once all is known of conn that its peer has to send
// first. What needs the peer's address, or a session, comes after that; before it
// only MaxSessions and MaxHandshakes count. It calls begun before it waits for anything.
func (srv *Server) prepare(conn net.Conn, begun func()) {
	begun = sync.OnceFunc(begun)
	closeConn := sync.OnceFunc(func() { begun(); conn.Close() })
	if !srv.Accepts() {
		closeConn()
		return
	}
	o := srv.resolved()
	var s *Session
	var group string
	err := srv.runHandshake(plainUnder(conn), func(error) { closeConn() }, func(ctx context.Context, h *handshake) error {
		begun()
		h.locate(conn)
		if found, ok := findTLS(conn); ok {
			h.failure = "TLS handshake failed"
			if err := found.shake(ctx, conn); err != nil {
				return err
			}
		}
		s, group = srv.newSession(newStream(conn, o.Framer), o) // calls Exempt and Group
		return nil
	})
	if err != nil || !srv.start(s, group, nil) {
		closeConn()
	}
}

// handshake is what comes before a session, or before OnSession, and may wait for
// the peer.
type handshake struct {
	began time.Time
	// giveUp ends the handshake, whatever it waits for: the peer, or a certificate.
	// To close the connection would end the former only, and may wait itself.
	giveUp context.CancelCauseFunc
	ended  atomic.Bool
	// located is the peer's address once it is known, for the table to take over.
	located atomic.Pointer[net.Addr]
	// Guarded by the server's lock.
	subnet, single *handshakeGroup // of the peer
	known          bool            // the peer has an IP address
	raw            syscall.RawConn // under the connection; nil if there is none
	heard          bool            // the peer has sent something
	// For the log, and for the handshake's goroutine only.
	peer    net.Addr // nil until it is known
	failure string   // what it means that the handshake failed
}

// Why a handshake was given up, if not because the server was stopped.
var (
	errHandshakeTimeout  error = &timeoutError{"rpcx: handshake timed out (Server.HandshakeTimeout)"}
	errTooManyHandshakes       = errors.New("rpcx: handshake given up, since there are too many (Server.MaxHandshakes)")
)

// runHandshake runs shake on the caller's goroutine, within MaxHandshakes and
// HandshakeTimeout. The peer's address is that of conn until shake calls
// locate; conn may be nil. If the handshake is given up, its context ends, and abort is
// called on another goroutine, to close the connection. The error is shake's, or the
// reason why the handshake was given up or never begun.
func (srv *Server) runHandshake(conn net.Conn, abort func(error), shake func(context.Context, *handshake) error) error {
	ctx, giveUp := context.WithCancelCause(context.Background())
	defer giveUp(nil)
	h := &handshake{began: time.Now(), giveUp: giveUp, failure: "connection setup failed"}
	if err := srv.addHandshake(h, conn); err != nil {
		return err
	}
	if timeout := srv.HandshakeTimeout; timeout >= 0 {
		if timeout == 0 {
			timeout = 10 * time.Second
		}
		defer time.AfterFunc(timeout, func() { giveUp(errHandshakeTimeout) }).Stop()
	}
	stop := context.AfterFunc(ctx, func() { abort(context.Cause(ctx)) })
	err := shake(ctx, h)
	srv.removeHandshake(h)
	if !stop() { // it was given up, and the connection is closed
		err = context.Cause(ctx)
	}
	if err != nil {
		srv.logHandshake(h, err)
	}
	return err
}

func init() {
	bounded.OfServer = func(server any) *bounded.Rate { return &server.(*Server).failed }
}

// logHandshake logs that a handshake failed, unless many others did. Any peer can make
// handshakes fail, and some of the errors repeat what the peer has sent.
func (srv *Server) logHandshake(h *handshake, err error) {
	log := srv.options.Logger
	if !log.Enabled(context.Background(), slog.LevelInfo) {
		return
	}
	ok, skipped := srv.failed.Allow()
	if !ok {
		return
	}
	attrs := []slog.Attr{errorAttr(err)}
	if h.peer != nil {
		attrs = append(attrs, peerAttr(h.peer))
	}
	if skipped > 0 {
		attrs = append(attrs, slog.Int("records left out", skipped))
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, h.failure, attrs...)
}

// addHandshake counts h in, with the address of conn if that is not nil. If there are
// MaxHandshakes already, another one is given up, or h must not begin.
func (srv *Server) addHandshake(h *handshake, conn net.Conn) error {
	var addr net.Addr
	var raw syscall.RawConn
	if conn != nil {
		addr, raw = conn.RemoteAddr(), rawConn(conn)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.stopped {
		return ErrServerClosed
	}
	limit := limitOr(srv.MaxHandshakes, 256)
	if len(srv.shaking.list) >= limit {
		srv.shaking.update()
	}
	srv.shaking.add(h, addr, raw)
	if len(srv.shaking.list) > limit {
		srv.refuse("Server.MaxHandshakes", slog.Int("handshakes", limit))
		victim := srv.shaking.victim()
		srv.shaking.remove(victim)
		if victim == h {
			return errTooManyHandshakes
		}
		victim.giveUp(errTooManyHandshakes)
	}
	return nil
}

// locate asks conn for the address of the peer of h, and waits if conn does. It does not
// take the server's lock: when thousands of connections come at once, the lock has a
// queue, and each handshake that waited in it would count meanwhile.
func (h *handshake) locate(conn net.Conn) {
	h.peer = conn.RemoteAddr() // may read a header
	h.located.Store(&h.peer)
}

// removeHandshake counts h out, and first of all without the lock, for the same reason
// as locate.
func (srv *Server) removeHandshake(h *handshake) {
	h.ended.Store(true)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.shaking.remove(h)
}

// handshaker is [tls.Conn], or a connection of another package for TLS.
type handshaker interface {
	HandshakeContext(context.Context) error
}

var (
	handshakerType = reflect.TypeFor[handshaker]()
	netConnType    = reflect.TypeFor[net.Conn]()
)

// foundTLS is TLS within a connection: nil if its place is closed to other packages.
type foundTLS struct{ handshaker }

// shake makes the handshake of what was found in conn.
func (t foundTLS) shake(ctx context.Context, conn net.Conn) error {
	if t.handshaker != nil {
		return t.HandshakeContext(ctx)
	}
	// To read nothing makes the handshake (see crypto/tls), as long as whoever
	// stands between passes it on. If not, the first read of the session makes it.
	_, err := conn.Read(nil)
	return err
}

// findTLS finds the TLS that conn is or has inside. A listener that counts, limits or
// logs connections wraps those that it accepts, and hides most of their methods.
func findTLS(conn net.Conn) (foundTLS, bool) {
	for range maxWrappers {
		if found, ok := findTLSIn(reflect.ValueOf(conn), maxWrappers); ok {
			return found, true
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		if conn = wrapper.NetConn(); conn == nil {
			break
		}
	}
	return foundTLS{}, false
}

// maxWrappers is how many connections may be wrapped in each other.
const maxWrappers = 8

// findTLSIn finds TLS in v and in those of its fields that are connections.
func findTLSIn(v reflect.Value, depth int) (foundTLS, bool) {
	if depth == 0 || v.Kind() == reflect.Pointer && v.IsNil() {
		return foundTLS{}, false
	}
	if v.Type().Implements(handshakerType) {
		if v.CanInterface() {
			return foundTLS{v.Interface().(handshaker)}, true
		}
		return foundTLS{}, true
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return foundTLS{}, false
	}
	for _, field := range v.Fields() {
		if field.Kind() == reflect.Interface {
			field = field.Elem()
		}
		if field.IsValid() && field.Type().Implements(netConnType) {
			if found, ok := findTLSIn(field, depth-1); ok {
				return found, true
			}
		}
	}
	return foundTLS{}, false
}

// refuse counts a connection that is closed for a limit. It is called under the
// lock.
func (srv *Server) refuse(name string, limit slog.Attr) {
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
// server was stopped or has as many sessions as it may. It asks conn for its
// address, and so waits if conn does. If conn has TLS whose handshake is not
// complete, the session begins with it, within HandshakeTimeout and MaxHandshakes.
func (srv *Server) ServeConn(conn io.ReadWriteCloser) *Session {
	mustHave("Server.ServeConn", "connection", conn)
	return srv.serve(newStream(conn, srv.resolved().Framer), pendingTLS(conn))
}

// pendingTLS returns the TLS that conn has inside, nil if there is none, or none whose
// handshake is to be made.
func pendingTLS(conn io.ReadWriteCloser) handshaker {
	c, ok := conn.(net.Conn)
	if !ok || isPlain(conn) {
		return nil
	}
	found, _ := findTLS(c)
	if t, ok := found.handshaker.(*tls.Conn); ok && t.ConnectionState().HandshakeComplete {
		return nil
	}
	return found.handshaker
}

// ServeMessageConn is [Server.ServeConn] for a connection that keeps messages
// apart by itself; Options.Framer is ignored.
func (srv *Server) ServeMessageConn(conn MessageConn) *Session {
	mustHave("Server.ServeMessageConn", "connection", conn)
	return srv.serve(newMessages(conn), nil)
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
	srv.refuse("Server.MaxSessions", slog.Int("sessions", most))
	return false
}

func (srv *Server) serve(conn transport, secure handshaker) *Session {
	s, group := srv.newSession(conn, srv.resolved())
	if !srv.start(s, group, secure) {
		srv.mu.Lock()
		stopped := srv.stopped
		srv.mu.Unlock()
		var cause error = ServerBusy("too many sessions")
		if stopped {
			cause = ErrServerClosed
		}
		_ = conn.close(cause)
		return nil
	}
	return s
}

// newSession makes a session that is not started yet, and tells its group.
func (srv *Server) newSession(conn transport, o *Options) (s *Session, group string) {
	s = newSession(conn, o, RoleServer, &srv.pool, &srv.load)
	if s.limits.Group != nil {
		group = s.limits.Group(s)
	}
	return s, group
}

// start starts a session that the server keeps track of, unless a limit is reached. If
// secure is not nil, the session starts after its handshake.
func (srv *Server) start(s *Session, group string, secure handshaker) bool {
	srv.mu.Lock()
	mostOfGroup := limitOr(srv.MaxGroup, math.MaxInt)
	switch {
	case !srv.hasRoom():
		srv.mu.Unlock()
		return false
	case group != "" && srv.groups.size(group) >= mostOfGroup:
		srv.refuse("Server.MaxGroup", slog.Int("sessions", mostOfGroup))
		srv.mu.Unlock()
		return false
	}
	var account *account
	if group != "" {
		account = srv.groups.join(group, s.limits)
		s.lock() // nobody else has the session yet
		s.joinGroupLocked(account)
		s.unlock()
	}
	held := srv.OnSession != nil || s.trace.Connected != nil || secure != nil
	s.in.held = held
	s.left = func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		if account != nil {
			account.sessions--
		}
		delete(srv.sessions, s)
	}
	s.ended = func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.leave()
	}
	if srv.sessions == nil {
		srv.sessions = make(map[*Session]struct{})
	}
	srv.sessions[s] = struct{}{} // from now on others see it
	srv.watchCrowdLocked()
	srv.enter()
	if held {
		srv.enter() // for the goroutine below
	}
	srv.mu.Unlock()

	if secure == nil {
		s.start()
	}
	if held {
		// Owner: the server. End: the handshake, Trace.Connected and OnSession return.
		go func() {
			defer func() {
				s.release()
				srv.mu.Lock()
				defer srv.mu.Unlock()
				srv.leave()
			}()
			shaken := true
			if secure != nil {
				shaken = srv.shakeSession(s, secure)
				s.start() // also to end it
			}
			s.connected()
			if srv.OnSession != nil && shaken {
				srv.OnSession(s)
			}
		}()
	}
	return true
}

// shakeSession makes the handshake of a session that has not started yet. If the
// handshake fails, shakeSession ends the session.
func (srv *Server) shakeSession(s *Session, secure handshaker) bool {
	abort := func(cause error) { s.end(cause, 0) }
	err := srv.runHandshake(s.NetConn(), abort, func(ctx context.Context, h *handshake) error {
		h.peer, h.failure = s.RemoteAddr(), "TLS handshake failed"
		return secure.HandshakeContext(ctx)
	})
	if err != nil {
		abort(err)
	}
	return err == nil
}

// release lets workers handle what a held session has received.
func (s *Session) release() {
	s.lock()
	s.in.held = false
	s.unblock()
	s.wakeWorkerLocked()
	s.unlock()
}
