package rpcx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/duration"
)

// Server accepts connections and runs a session on each connection. After the server has
// begun to serve, the fields must not be changed. The zero value serves any number of
// connections, with sessions that know no method.
//
// The limits of a server are shared by its clients. If a limit is near, the server ends
// sessions to make room: idle sessions, silent handshakes, and peers that do not read. In the
// source, docs/limits.md has the rules, and advice for servers behind a proxy, where many
// clients share an address.
type Server struct {
	// Options holds the options of each session.
	Options Options
	// TLS is the configuration for tls:// addresses, and needs a certificate.
	// [Server.Serve] uses the given listener as is.
	TLS *tls.Config
	// MaxSessions is the maximum number of live sessions. Default 10,000. The server
	// closes a connection over the limit at once. For MaxSessions and the following
	// limits, 0 means the default, and a negative value no limit. ServerStats counts
	// every refused connection; the log has only the first for each limit.
	MaxSessions int
	// CrowdedIdleTimeout is the maximum idle time of sessions while nine tenths of
	// MaxSessions are live. Default 1 min. If MaxSessions is less than 10, the default is
	// no limit: nine tenths, rounded up, are then all sessions, and such a server is
	// meant to be full. A negative value means no limit.
	//
	// A session is idle while no message passes, no handler runs and no call is pending.
	// Blank lines, WebSocket pings and bytes of an incomplete message do not count as
	// messages. In a message of more than 64 KiB, each 16 KiB count as a message.
	//
	// The server ends the longest-idle sessions until fewer than nine tenths are live.
	// The error of an ended session matches ErrIdle and ErrServerFull.
	CrowdedIdleTimeout time.Duration
	// MaxGroup is the maximum number of live sessions in a group of Limits.Group, which
	// must be set. Default: no limit.
	MaxGroup int
	// MaxHandshakes is the maximum number of handshakes in progress. Default 256. A
	// handshake is work before a session that may wait for the peer: TLS, and a header
	// with the peer's address.
	//
	// Over the limit, the server closes a connection of the busiest address (a /64 of
	// IPv6) in the busiest subnet (/24, or /48 of IPv6). On Linux, the oldest connection
	// whose peer has sent nothing goes first; otherwise, the oldest connection goes.
	// There is an exception if no peer has more handshakes than the new peer. In this
	// case, while the oldest handshake is younger than a quarter of a second, the server
	// closes the new connection.
	MaxHandshakes int
	// HandshakeTimeout is the maximum duration of a handshake. Default 10 s.
	// [Server.Serve] describes how TLS is found.
	HandshakeTimeout time.Duration
	// MaxQueuedBytes is the maximum number of bytes that wait in all sessions together.
	// Default 256 MiB. Requests and replies count, and incomplete messages for which a
	// session holds more than 8 KiB.
	//
	// Over the limit, sessions that hold more than a share (the limit divided by the
	// number of sessions) are restricted. The requests of a restricted session are
	// answered CodeServerBusy. The session sends one message at a time, and further
	// senders wait. If the session needs more memory for an incoming message of more than
	// 64 KiB, the session ends.
	//
	// Before that, other sessions make room for such a message. The server ends sessions
	// that hold more than half of a share in unread replies or in an incomplete message.
	// The write or the message must have begun before the incoming message, and the
	// oldest go first.
	//
	// At one and a half times the limit, the server ends such sessions even without an
	// incoming message. The error of an ended session matches ErrServerFull, and
	// ErrSlowPeer if the session held unread replies.
	//
	// From three quarters of the limit on, each session runs one handler at a time,
	// beside handlers that wait for a reply of the peer. The handler starts while the
	// session's outbox holds at most a quarter of a share.
	//
	// The counted data takes at most twice the limit in memory. Garbage and uncounted
	// small amounts (44 KiB a session) come on top.
	MaxQueuedBytes int
	// MaxHandledBytes is the maximum size of all requests in handlers together, in bytes.
	// Default 16 MiB. Requests of less than 1 KiB do not count. Each JSON object counts
	// 16 bytes more. Decoded into values of type any, JSON takes up to 17 times as much
	// memory. MessagePack takes up to 170 times as much, because MessagePack maps count
	// nothing more.
	//
	// Over the limit, the requests of sessions over a share (the limit divided by the
	// number of sessions) wait until other requests have been handled. While all handlers
	// of a session wait for replies of the peer, the session's own requests do not count
	// for the session: the peer may ask before replying.
	MaxHandledBytes int
	// ShutdownTimeout is the time for sessions to finish when the context of
	// ListenAndServe or ServeContext ends. Default 30 s. Then the server closes the
	// remaining sessions. 0 means the default, and a negative value no limit. The time
	// begins after ShutdownNotice and ShutdownSpread.
	ShutdownTimeout time.Duration
	// ShutdownNotice is how long Shutdown waits before anything else, so that balancers
	// notice in time: [Server.Ready] returns false, and with it package rpchttp's Ready says
	// no, while the server still accepts connections and requests. Default 0: no wait. The
	// wait also ends with the context of Shutdown, and by StopListening and Close.
	ShutdownNotice time.Duration
	// ShutdownSpread is the time over which Shutdown spreads the ends of the sessions, so
	// that their clients do not all come back in the same moment. Default 0: no spread.
	//
	// From the beginning, after ShutdownNotice, the server accepts nothing any more, and
	// [Server.Accepts] returns false. The sessions have their turns in random order, at even
	// distances, and at a random time within each distance. A session goes on until its
	// turn, and then ends as by [Session.Shutdown], with one difference: if the peer has sent
	// a request within the last half second, the session goes on to refuse requests until the
	// peer has been quiet for as long, but not for more than a second. By a refusal, a
	// [Client] learns to go elsewhere. Otherwise most clients that call without a pause would
	// have a call under way whose end is uncertain.
	//
	// When no session is left, Shutdown does not wait for further turns. When the context of
	// Shutdown ends, no session waits for its turn any more.
	ShutdownSpread time.Duration
	// Preamble is called for each connection that the server accepts, before TLS and the
	// session: for a banner, or a PROXY header (the module proxyproto has such a Preamble).
	// The connection that Preamble returns takes the place of conn, and tells the address
	// of the peer; see [WithAddrs]. If Preamble has read more than its header, the returned
	// connection must begin with the rest. Its Close must close conn.
	//
	// Preamble runs on a separate goroutine for each connection, within MaxHandshakes and
	// HandshakeTimeout. If the server gives the connection up, ctx ends and the server
	// closes conn, so that Preamble needs no deadline. A deadline that Preamble has set
	// stays. Before Preamble, only MaxSessions and MaxHandshakes apply. Limits by address
	// and by group apply afterwards.
	//
	// If Preamble returns an error, the server closes conn, and logs the error as for a
	// failed handshake. An error that matches [net.ErrClosed] is not logged: return it for
	// the health checks of a balancer. A panic ends the program, as in OnSession.
	//
	// With a listener of [Listen] or ListenAndServe, Preamble comes before TLS. Of any other
	// listener, Preamble sees the accepted connections, such as a *tls.Conn. ServeConn and
	// ServeMessageConn, and so WebSockets, do not call Preamble.
	Preamble func(ctx context.Context, conn net.Conn) (net.Conn, error)
	// OnSession is called for each new session, on a separate goroutine, after the TLS
	// handshake. No request is handled before OnSession returns, but OnSession may call
	// the peer. So OnSession must not wait for a request of the peer, such as a login, or
	// for the end of the session: use a handler or a goroutine. If requests time out in
	// the meantime, the log gives OnSession as the reason. Shutdown and Wait wait for
	// OnSession. If the peer closes the connection, the input before the close waits for
	// OnSession, too, for at most Limits.ProcessingTimeout.
	OnSession func(*Session)

	pool       pool
	load       serverLoad
	mu         sync.Mutex // guards the fields below, except failureLogRate, which has a lock of its own
	groups     groups
	handshakes handshakeTable
	// unpreparedConns holds a token for each connection whose goroutine has not begun the
	// handshake; nil before the first connection.
	unpreparedConns chan struct{}
	failureLogRate  bounded.Rate      // of log records about failed handshakes and HTTP requests
	refusals        map[string]uint64 // refused connections, by the name of the limit
	events          eventQueue        // for Trace.ConnRefused
	options         *Options          // resolved
	sessions        map[*Session]struct{}
	listeners       map[*trackedListener]struct{}
	watchesCrowd    bool // closeIdleSessions is scheduled
	stopped         bool
	noticeEnd       time.Time     // end of ShutdownNotice; zero before Shutdown
	noticeOver      chan struct{} // closed by StopListening; nil before Shutdown
	users           int           // sessions, Serve calls, and goroutines of prepareConn and OnSession
	usersGone       chan struct{} // closed when users falls to 0; nil if nobody waits
	spreadDone      chan struct{} // closed when each session has had its turn; nil before ShutdownSpread begins
}

// Listen listens on addr, for [Server.Serve]. ctx bounds the lookup of a host name and
// the rest of Listen. The forms of addr are:
//   - tcp://host:port, where port 0 is any free port (see the listener's Addr);
//   - tls://host:port or ssl://host:port, with a certificate in config;
//   - unix:///path;
//   - unix://@name, a name in Linux's abstract namespace, without a file.
//
// Close removes the file of a unix socket if the file still belongs to the listener. If
// nobody listens on a file after a crash, Listen takes the file over, a quarter of a
// second after creation at the earliest. If somebody listens on the file, if Listen may
// not find out, or if the file is no socket, Listen fails. On Windows, Listen behaves as
// package net does and takes nothing over. The listener of a unix socket has the methods
// of a [net.UnixListener].
func Listen(ctx context.Context, addr string, config *tls.Config) (net.Listener, error) {
	network, address, secure, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	if secure {
		if config == nil {
			return nil, fmt.Errorf("listen on %s: no TLS configuration", addr)
		}
		// The condition of tls.Listen: without a certificate, no handshake could succeed.
		if len(config.Certificates) == 0 && config.GetCertificate == nil && config.GetConfigForClient == nil {
			return nil, fmt.Errorf("listen on %s: the TLS configuration has no certificate: set Certificates, GetCertificate or GetConfigForClient", addr)
		}
	}
	if network == "unix" {
		return listenUnix(ctx, address)
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil || !secure {
		return l, err
	}
	return &tlsListener{l, config}, nil
}

// ListenAndServe listens on addr and serves until ctx ends or the server is stopped. The
// end of ctx causes a [Server.Shutdown]. Addresses are tcp://host:port (tcp://:port for
// all interfaces), tls://host:port (or ssl://) with a certificate in Server.TLS, and
// unix:///path; see [Listen]. If listening fails, ListenAndServe returns the error,
// otherwise the result of [Server.ServeContext]. For several addresses, call
// ListenAndServe for each address, with the context of an errgroup: see the example. If
// listening fails for one of them, the others end in order, after ShutdownNotice. For an
// error at once, call [Listen] for all addresses first, and then [Server.ServeContext].
func (srv *Server) ListenAndServe(ctx context.Context, addr string) error {
	mustHaveContext("Server.ListenAndServe", ctx)
	if err := srv.checkOptions(); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	l, err := Listen(ctx, addr, srv.TLS)
	switch {
	case err == nil:
		return srv.ServeContext(ctx, l)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return srv.shutdownWithTimeout()
	}
	return err
}

// ServeContext is [Server.Serve] until ctx ends. Then ServeContext does a
// [Server.Shutdown] of the server, for at most the sum of ShutdownNotice, ShutdownSpread and
// ShutdownTimeout. If all sessions end in time, the result is nil, otherwise an error that
// matches context.DeadlineExceeded. In the latter case the remaining sessions are closed, but
// ServeContext does not wait for their end. If OnClose must have been called, wait with
// [Server.Wait]. So
//
//	if err := srv.ServeContext(ctx, l); err != nil {
//		log.Fatal(err)
//	}
//
// is right if nothing else stops the server. If StopListening, Shutdown or Close stops
// the server, ServeContext returns [ErrServerClosed] as Serve does, and the end of ctx
// does nothing afterwards.
func (srv *Server) ServeContext(ctx context.Context, l net.Listener) error {
	mustHaveContext("Server.ServeContext", ctx)
	mustHave("Server.ServeContext", "listener", l)
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { drained <- srv.shutdownWithTimeout() })
	err := srv.Serve(l)
	if stop() {
		if ctx.Err() == nil {
			return err
		}
		// Another ServeContext with the same context has stopped the server first.
		drained <- srv.shutdownWithTimeout()
	}
	if failed := <-drained; err == ErrServerClosed {
		return failed
	}
	return err
}

// Serve runs a session on each connection that l accepts, and closes l before returning.
// After [Server.StopListening], [Server.Shutdown] or [Server.Close] the result is
// [ErrServerClosed], otherwise the error of l. Sessions go on.
//
// If Accept returns a temporary error, Serve logs the error and calls Accept again after
// 5 ms to a second. An error is temporary if the error, alone or wrapped, says so with a
// method Temporary. The errors of accept(2) about a single connection or about a lack of
// memory or files are temporary, too. After any other error, such as [net.ErrClosed],
// Serve takes l to be gone.
//
// Serve never waits for a peer. A connection of a type outside package net may read from
// the peer to tell the peer's address, or may contain TLS. Serve prepares such a
// connection on another goroutine, within MaxHandshakes and HandshakeTimeout. TLS is a
// connection with a method HandshakeContext, as [tls.Conn] has. Serve looks for TLS in
// fields of a wrapper that are connections, and behind a method NetConn.
func (srv *Server) Serve(l net.Listener) error {
	mustHave("Server.Serve", "listener", l)
	if err := srv.checkOptions(); err != nil {
		l.Close()
		return fmt.Errorf("serve: %w", err)
	}
	tracked := srv.addListener(l)
	if tracked == nil {
		l.Close()
		return ErrServerClosed
	}
	defer srv.removeListener(tracked)
	defer l.Close()
	accepting := srv.acceptorOf(l)
	var delay time.Duration
	for {
		conn, err := accepting.Accept()
		if err == nil {
			delay = 0
			srv.acceptConn(conn, accepting.config)
			continue
		}
		srv.mu.Lock()
		stopped := srv.stopped
		srv.mu.Unlock()
		if stopped {
			return ErrServerClosed
		}
		if !isTemporaryAcceptError(err) {
			return err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		srv.options.Logger.LogAttrs(context.Background(), slog.LevelWarn, "accept failed",
			errorAttr(err), slog.Duration("retry after", delay))
		select {
		case <-time.After(delay):
		case <-tracked.stopped:
			return ErrServerClosed
		}
	}
}

// trackedListener is the listener of one Serve call. The server identifies a Serve call
// by the pointer: a listener need not be comparable, and may be served twice.
type trackedListener struct {
	net.Listener
	stopped chan struct{} // closed by StopListening
}

// addListener registers l for a Serve call. If the server was stopped, addListener
// returns nil.
func (srv *Server) addListener(l net.Listener) *trackedListener {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.stopped {
		return nil
	}
	srv.mustResolveOptionsLocked()
	if srv.listeners == nil {
		srv.listeners = make(map[*trackedListener]struct{})
	}
	tracked := &trackedListener{l, make(chan struct{})}
	srv.listeners[tracked] = struct{}{}
	srv.addUserLocked()
	return tracked
}

func (srv *Server) removeListener(tracked *trackedListener) {
	srv.mu.Lock()
	delete(srv.listeners, tracked)
	srv.mu.Unlock()
	srv.removeUser()
}

// resolvedOptions returns the options with defaults filled in. The first call resolves
// the options.
func (srv *Server) resolvedOptions() *Options {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.mustResolveOptionsLocked()
	return srv.options
}

// checkOptions resolves the options, and returns an error if the options are invalid.
func (srv *Server) checkOptions() error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.resolveOptionsLocked()
}

// mustResolveOptionsLocked panics if an option is invalid. Callers must hold srv.mu.
func (srv *Server) mustResolveOptionsLocked() {
	if err := srv.resolveOptionsLocked(); err != nil {
		panic("rpcx: " + err.Error())
	}
}

// resolveOptionsLocked resolves the options and the limits of the server once, and
// returns an error for invalid options. Callers must hold srv.mu.
func (srv *Server) resolveOptionsLocked() (err error) {
	if srv.options != nil {
		return nil
	}
	if err := duration.Check("Server", srv); err != nil {
		return err
	}
	if srv.ShutdownNotice < 0 {
		return fmt.Errorf("a notice of %v is negative (Server.ShutdownNotice): write 0 to stop at once", srv.ShutdownNotice)
	}
	if srv.ShutdownSpread < 0 {
		return fmt.Errorf("a spread of %v is negative (Server.ShutdownSpread): write 0 to end all sessions at once", srv.ShutdownSpread)
	}
	if srv.MaxGroup > 0 && srv.Options.Limits.Group == nil {
		return errors.New("sessions of a group are limited and there are no groups (Server.MaxGroup, Limits.Group): set Group, too, to GroupBySubnet(24, 64), for example")
	}
	if srv.options, err = resolveOptions(&srv.Options); err != nil {
		return err
	}
	role := RoleServer
	if srv.options.Role != RoleDefault {
		role = srv.options.Role
	}
	if l := &srv.options.Limits; role == RoleServer && l.GateTimeout == 0 {
		l.GateTimeout = srv.HandshakeTimeout
	}
	limits := srv.options.Limits.resolved(role)
	srv.load.limits = &limits
	if log := srv.options.Logger; limits.costIsVoid() {
		srv.pool.RunTask(func() { log.LogAttrs(context.Background(), slog.LevelWarn, voidCost, limits.costAttr()) })
	}
	srv.load.limit = bounded.LimitOr(srv.MaxQueuedBytes, 256<<20)
	srv.load.live = srv.liveSessions
	srv.load.logs = newServerLogBudgets()
	srv.load.handlingLimit = bounded.LimitOr(srv.MaxHandledBytes, 16<<20)
	return nil
}

// addUserLocked counts a user of the server. Wait waits for the users, and the pool stays
// alive with them. Callers must hold srv.mu.
func (srv *Server) addUserLocked() {
	srv.users++
	srv.pool.AddUser()
}

// removeUser undoes addUserLocked.
func (srv *Server) removeUser() {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.pool.RemoveUser()
	if srv.users--; srv.users == 0 && srv.usersGone != nil {
		close(srv.usersGone)
		srv.usersGone = nil
	}
}

// Sessions ranges over the sessions that are live now.
func (srv *Server) Sessions() iter.Seq[*Session] { return slices.Values(srv.liveSessions()) }

func (srv *Server) liveSessions() []*Session {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return slices.AppendSeq(make([]*Session, 0, len(srv.sessions)), maps.Keys(srv.sessions))
}

// StopListening closes the listeners and gives up handshakes in progress. Sessions go on.
// Afterwards the server accepts nothing any more.
func (srv *Server) StopListening() {
	srv.mu.Lock()
	if !srv.stopped && srv.noticeOver != nil {
		close(srv.noticeOver)
	}
	srv.stopped = true
	serving := srv.listeners
	srv.listeners = nil
	for l := range serving {
		close(l.stopped)
	}
	for _, h := range srv.handshakes.list {
		h.cancel(ErrServerClosed)
	}
	srv.mu.Unlock()
	for l := range serving {
		l.Close() // without the lock: a listener is user code
	}
}

// Stopped reports whether StopListening, Shutdown or Close has stopped the server: the server
// accepts nothing any more.
func (srv *Server) Stopped() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.stopped
}

// Ready reports whether balancers should send new clients: the server was not stopped, and
// Shutdown has not begun. Ready is also true before the server listens.
func (srv *Server) Ready() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return !srv.stopped && srv.noticeEnd.IsZero()
}

// Shutdown waits for ShutdownNotice, stops listening, and shuts all sessions down, spread
// over ShutdownSpread; see [Session.Shutdown]. If ctx ends first, Shutdown closes the
// remaining sessions and returns the error of ctx.
//
// A handler must not call Shutdown, because Shutdown waits for the handler. If ctx is or
// derives from the context of a handler of the server, Shutdown returns [ErrInHandler] at
// once and does nothing. Shutdown cannot recognise a handler's call with another context.
// A handler can start Shutdown on a goroutine:
//
//	go srv.Shutdown(context.Background())
func (srv *Server) Shutdown(ctx context.Context) error {
	mustHaveContext("Server.Shutdown", ctx)
	if srv.runsHandlerOf(ctx) {
		return ErrInHandler
	}
	return srv.shutdownSessions(ctx)
}

// runsHandlerOf reports whether ctx derives from the context of a running handler in a
// session of the server.
func (srv *Server) runsHandlerOf(ctx context.Context) bool {
	h := handlerOf(ctx)
	return h != nil && h.session.load == &srv.load && h.session.runsHandlerOf(ctx)
}

// Close stops listening and closes all sessions; see [Session.Close].
func (srv *Server) Close() error {
	srv.StopListening()
	live := srv.liveSessions()
	for _, s := range live {
		s.closeWith(ErrServerClosed, closeGrace)
	}
	flush(live...)
	return nil
}

// Wait returns when the server has no listener and no session left. If ctx ends first,
// Wait returns the error of ctx. A handler of a session would wait for itself: with the
// context of a handler, Wait returns [ErrInHandler], as [Server.Shutdown] does.
func (srv *Server) Wait(ctx context.Context) error {
	mustHaveContext("Server.Wait", ctx)
	if srv.runsHandlerOf(ctx) {
		return ErrInHandler
	}
	return srv.waitForUsers(ctx)
}
