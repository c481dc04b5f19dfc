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
	"sync"
	"time"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/duration"

	"golang.org/x/sync/errgroup"
)

// Server accepts connections and runs a session on each. Its fields must not be
// changed once it serves. The zero value serves any number of connections, with
// sessions that know no method.
type Server struct {
	// Options are those of every session.
	Options Options
	// TLS, with a certificate, is used for tls:// addresses; [Server.Serve] takes a
	// listener as it is.
	TLS *tls.Config
	// MaxSessions is how many sessions may be live. Default 10,000. A connection
	// beyond is closed at once. For this limit and the next ones, 0 is the
	// default and a negative value no limit; the first refusal for each is logged,
	// and all are counted in ServerStats.
	MaxSessions int
	// CrowdedIdleTimeout is how long a session may be idle while nine tenths of
	// MaxSessions are live: no message passes, no handler runs and no call is pending.
	// Then those that have been idle longest end, with an error that matches ErrIdle,
	// until there are fewer. Blank lines, the pings of a WebSocket and bytes of a message
	// that does not end are no messages; 16 KiB of one of more than 64 KiB count as one.
	// Default 1 min, but for ever if MaxSessions is less than 10: then nine tenths are all
	// of them, and such a server is meant to be full. A negative value is for ever, too.
	CrowdedIdleTimeout time.Duration
	// MaxGroup is how many sessions of one Limits.Group, which has to be set, may be live.
	// Default: no limit of their own.
	MaxGroup int
	// MaxHandshakes is how many handshakes may be in progress: what comes before a
	// session and may wait for the peer, which is TLS, and the address of a
	// connection that reads it from a header. Default 256. For one more, a connection
	// is closed of the subnet (/24, or /48 of IPv6), and there of the address (a /64 of
	// IPv6), that has the most: on Linux the oldest that has sent nothing yet, otherwise
	// the oldest. If none has more than that of the new connection, and the oldest
	// has not had a quarter of a second, the new one is closed.
	MaxHandshakes int
	// HandshakeTimeout is how long a handshake may take. Default 10 s. See
	// [Server.Serve] for where TLS is found.
	HandshakeTimeout time.Duration
	// MaxQueuedBytes is how many bytes may wait in all sessions together: requests,
	// replies, and messages of which a part has come, where more than 8 KiB are held for
	// it. Default 256 MiB. Beyond, sessions that hold more than their share (the limit
	// divided by their number) have their requests answered CodeServerBusy, send one
	// message at a time, for which others wait, and end if they need more for a message
	// of more than 64 KiB that comes in.
	//
	// But first others make room for such a message: sessions end that hold more than half
	// of their share in replies that are not read or in a message that is not complete, if
	// the write or the message began before. The oldest go first. From three quarters of
	// the limit on each session has one handler at a time, beside those that wait for a
	// reply of its peer, which starts while its outbox holds at most a quarter of the
	// session's share. At one and a half times the limit such sessions end whatever comes
	// in. Their error matches ErrServerFull, and ErrSlowPeer if it is for their replies.
	//
	// The memory in use for what counts is at most twice the limit; garbage, and what
	// is too little to count in a session (44 KiB), come on top.
	MaxQueuedBytes int
	// MaxHandledBytes is how many bytes the requests may have together that are being
	// handled, of those of 1 KiB and more. Each object of JSON counts 16 bytes more. Default
	// 16 MiB: decoded into values of type any, JSON takes up to 17 times as much, and
	// MessagePack, whose maps count nothing more, up to 170 times. Beyond, the requests of sessions that have
	// more than their share (the limit divided by their number) wait until others have
	// been handled. While all handlers of a session wait for replies of its peer, which may
	// ask before it replies, their own requests do not count for it.
	MaxHandledBytes int
	// ShutdownTimeout is how long sessions have to finish what is under way when the
	// context of ListenAndServe or ServeContext ends. Default 30 s. Then those that are
	// left are closed. 0 is the default, and a negative value no limit.
	ShutdownTimeout time.Duration
	// OnSession is called for each new session, on a goroutine of its own, after
	// the TLS handshake. No request is handled before it returns, but it may call
	// the peer. So it must not wait for a request of the peer, such as a login, nor for the
	// end of the session: a handler, or a goroutine, can do that. The requests that time out
	// meanwhile are logged with that reason. Shutdown and Wait wait for it. What the peer has sent before it closed
	// the connection waits for it, too, for at most Limits.ProcessingTimeout.
	OnSession func(*Session)

	pool       pool
	load       serverLoad
	mu         sync.Mutex
	groups     groups
	handshakes handshakeTable
	// unpreparedConns holds a token for each connection whose goroutine has not begun its
	// handshake; nil before the first.
	unpreparedConns chan struct{}
	failureLogRate  bounded.Rate      // handshakes and HTTP requests that are logged
	refusals        map[string]uint64 // connections, by the limits' names
	options         *Options          // resolved
	sessions        map[*Session]struct{}
	listeners       map[*trackedListener]struct{}
	watchesCrowd    bool // the sessions, since there are many
	stopped         bool
	users           int           // sessions and Serve calls
	usersGone       chan struct{} // closed when busy falls to 0; nil if nobody waits
}

// Listen listens on addr, for [Server.Serve]: tcp://host:port, where port 0 is
// any that is free (see the listener's Addr), tls://host:port (or ssl://), which
// needs config with a certificate, or unix:///path. ctx bounds the looking up of a
// host name, and the rest of Listen.
//
// A unix socket has a file, which Close removes if the file is still the listener's
// own. A file on which nobody listens any more, since a program was killed, is taken
// over, a quarter of a second after it was made at the earliest. If somebody listens
// on the file, if Listen may not find that out, or if the file is no socket, Listen
// fails. (On Windows it is as package net has it: nothing is taken over.) The
// listener has the methods of a [net.UnixListener]. unix://@name is a name in Linux's
// abstract namespace, without a file.
func Listen(ctx context.Context, addr string, config *tls.Config) (net.Listener, error) {
	network, address, secure, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	if secure {
		if config == nil {
			return nil, fmt.Errorf("listen on %s: no TLS configuration", addr)
		}
		// The condition of tls.Listen. (Nobody could make a handshake.)
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
	return tls.NewListener(l, config), nil
}

// ListenAndServe listens on addr and serves until ctx ends, which is a
// [Server.Shutdown], or until the server is stopped. Addresses are
// tcp://host:port (tcp://:port for all interfaces), tls://host:port (or ssl://),
// which needs Server.TLS with a certificate, and unix:///path; see [Listen]. What it
// returns is [Server.ServeContext]'s, or why it cannot listen. For several addresses, call
// ListenAndServe for each of them, with the context of an errgroup: see the example.
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

// ServeContext is [Server.Serve] until ctx ends, which is a [Server.Shutdown] of the
// server, for at most ShutdownTimeout. Then it returns after all sessions have ended:
// nil if they did in time, otherwise an error that matches context.DeadlineExceeded. The
// sessions that are left are closed then, but not waited for: wait for them with
// [Server.Wait] where OnClose has to have been called.
// So
//
//	if err := srv.ServeContext(ctx, l); err != nil {
//		log.Fatal(err)
//	}
//
// is right where nobody else stops the server. If somebody does, by StopListening,
// Shutdown or Close, it returns [ErrServerClosed] as Serve does, and the end of ctx does
// nothing afterwards.
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

// shutdownWithTimeout is the Shutdown at the end of a context.
func (srv *Server) shutdownWithTimeout() error {
	timeout := srv.ShutdownTimeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if srv.shutdownSessions(ctx) != nil {
		return &timeoutError{fmt.Sprintf("rpcx: sessions were not finished after %v, and are closed (Server.ShutdownTimeout)", timeout)}
	}
	return nil
}

// Serve runs a session on each connection that l accepts, and closes l when it
// returns: with [ErrServerClosed] after [Server.StopListening],
// [Server.Shutdown] or [Server.Close], or with the error of l. Sessions go on.
//
// An error of Accept that passes is logged, and Accept called again after 5 ms to a
// second: an error that is Temporary, alone or wrapped, and those that accept(2)
// has for one connection or for a lack of memory or files. After any other error,
// such as [net.ErrClosed], l is taken to be gone.
//
// Serve never waits for a peer. A connection that is not one of package net itself
// may read from its peer to tell its address, or have TLS inside: Serve prepares it
// elsewhere, within MaxHandshakes and HandshakeTimeout. TLS is found in what has a
// method HandshakeContext, as [tls.Conn] does; in the fields of a wrapper that are
// connections; and behind its method NetConn.
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
	var delay time.Duration
	for {
		conn, err := l.Accept()
		if err == nil {
			delay = 0
			srv.acceptConn(conn)
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
			slog.Any("error", err), slog.Duration("retry after", delay))
		select {
		case <-time.After(delay):
		case <-tracked.stopped:
			return ErrServerClosed
		}
	}
}

// trackedListener is the listener of one Serve call. The server knows it by its
// pointer: a listener need not be comparable, and may be served twice.
type trackedListener struct {
	net.Listener
	stopped chan struct{} // closed by StopListening
}

// addListener counts a listener in. It returns nil if the server was stopped.
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
	defer srv.mu.Unlock()
	delete(srv.listeners, tracked)
	srv.removeUserLocked()
}

// resolvedOptions returns the options with defaults filled in, which is done once.
func (srv *Server) resolvedOptions() *Options {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.mustResolveOptionsLocked()
	return srv.options
}

// checkOptions returns what is wrong with the options.
func (srv *Server) checkOptions() error {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.resolveOptionsLocked()
}

func (srv *Server) mustResolveOptionsLocked() {
	if err := srv.resolveOptionsLocked(); err != nil {
		panic("rpcx: " + err.Error())
	}
}

// resolveOptionsLocked is init with an error.
func (srv *Server) resolveOptionsLocked() (err error) {
	if srv.options != nil {
		return nil
	}
	if err := duration.Check("Server", srv); err != nil {
		return err
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
	limits := srv.options.Limits.resolved(role)
	srv.load.limits = &limits
	if log := srv.options.Logger; limits.costIsVoid() {
		srv.pool.runTask(func() { log.LogAttrs(context.Background(), slog.LevelWarn, voidCost, limits.costAttr()) })
	}
	srv.load.limit = limitOr(srv.MaxQueuedBytes, 256<<20)
	srv.load.live = srv.liveSessions
	srv.load.logs = newServerLogBudgets()
	srv.load.handlingLimit = limitOr(srv.MaxHandledBytes, 16<<20)
	return nil
}

// addUserLocked and leave count what Wait waits for, and keep the pool alive with it.
func (srv *Server) addUserLocked() {
	srv.users++
	srv.pool.addUser()
}

func (srv *Server) removeUserLocked() {
	srv.pool.removeUser()
	if srv.users--; srv.users == 0 && srv.usersGone != nil {
		close(srv.usersGone)
		srv.usersGone = nil
	}
}

// Sessions ranges over the sessions that are live when the loop begins.
func (srv *Server) Sessions() iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		for _, s := range srv.liveSessions() {
			if !yield(s) {
				return
			}
		}
	}
}

func (srv *Server) liveSessions() []*Session {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	live := make([]*Session, 0, len(srv.sessions))
	for s := range srv.sessions {
		live = append(live, s)
	}
	return live
}

// StopListening closes the listeners, gives up handshakes that are in progress, and
// leaves the sessions as they are. Afterwards the server accepts nothing any more.
func (srv *Server) StopListening() {
	srv.mu.Lock()
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
		l.Close() // without the lock: a listener is the user's code
	}
}

// Shutdown stops listening and shuts all sessions down; see [Session.Shutdown].
// If ctx ends first it closes those that are left and returns ctx's error.
//
// A handler must not call it, since it waits for the handler. With the context of a
// handler of one of its sessions, or one made from it, Shutdown returns [ErrInHandler]
// at once and does nothing; that a handler calls it with another context cannot be
// recognised. A handler can have it done:
//
//	go srv.Shutdown(context.Background())
func (srv *Server) Shutdown(ctx context.Context) error {
	mustHaveContext("Server.Shutdown", ctx)
	if srv.runsHandlerOf(ctx) {
		return ErrInHandler
	}
	return srv.shutdownSessions(ctx)
}

// runsHandlerOf reports whether ctx is made from the context of a handler that runs, in
// a session of the server.
func (srv *Server) runsHandlerOf(ctx context.Context) bool {
	h := handlerOf(ctx)
	return h != nil && h.session.load == &srv.load && h.session.runsHandlerOf(ctx)
}

// shutdownSessions is Shutdown for a context that is no handler's.
func (srv *Server) shutdownSessions(ctx context.Context) error {
	srv.StopListening()
	var shutdowns errgroup.Group
	for _, s := range srv.liveSessions() {
		// Owner: this call. End: the session's Shutdown returns.
		shutdowns.Go(func() error { return s.shutdownWith(ctx, ErrServerClosed) })
	}
	failed := shutdowns.Wait() != nil
	if err := ctx.Err(); err != nil && failed {
		return err
	}
	return srv.waitForUsers(ctx)
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

// Wait returns when nothing of the server is left, no listener and no session, or with
// ctx's error when ctx ends. For the context of a handler of one of the sessions, which
// would wait for itself, it is [ErrInHandler], as for [Server.Shutdown].
func (srv *Server) Wait(ctx context.Context) error {
	mustHaveContext("Server.Wait", ctx)
	if srv.runsHandlerOf(ctx) {
		return ErrInHandler
	}
	return srv.waitForUsers(ctx)
}

func (srv *Server) waitForUsers(ctx context.Context) error {
	srv.mu.Lock()
	if srv.users == 0 {
		srv.mu.Unlock()
		return nil
	}
	if srv.usersGone == nil {
		srv.usersGone = make(chan struct{})
	}
	idle := srv.usersGone
	srv.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ServerStats count a server's sessions.
type ServerStats struct {
	Sessions   int // live
	Handshakes int // in progress, as Server.MaxHandshakes counts them
	// Refused is how many connections were closed, or not made, for a limit, by its
	// name: "Server.MaxSessions".
	Refused     map[string]uint64
	QueuedBytes int // what counts for Server.MaxQueuedBytes, to about 4 KiB a session
	// HandledBytes is what counts for Server.MaxHandledBytes.
	HandledBytes int
	// LogRecordsLeftOut is how many records of sessions were not logged because the
	// server's budget was used up: for those of level Error, for others that a peer causes,
	// and for what ends sessions, 256 KiB each and 8 KiB a second, and for the first two a
	// byte for each byte received.
	LogRecordsLeftOut uint64
}

// Stats returns what the server has now.
func (srv *Server) Stats() ServerStats {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.handshakes.applyChanges()
	leftOut := uint64(0)
	if srv.load.logs != nil {
		for _, b := range srv.load.logs.allBudgets() {
			leftOut += b.Skipped()
		}
	}
	return ServerStats{
		Sessions:     len(srv.sessions),
		Handshakes:   len(srv.handshakes.list),
		Refused:      maps.Clone(srv.refusals),
		QueuedBytes:  int(srv.load.bytes.Load()),
		HandledBytes: int(srv.load.handling.Load()),

		LogRecordsLeftOut: leftOut,
	}
}
