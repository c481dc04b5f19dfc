package rpcx

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"

	"example.com/rpcx/internal/bounded"
)

// isTemporaryAcceptError reports whether Accept may succeed after err. Such errors are
// about a single connection, or about memory or files that another program may free. A
// lost listener has other errors.
func isTemporaryAcceptError(err error) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	if is(net.ErrClosed) || slices.ContainsFunc(lostListenerErrors, is) {
		return false
	}
	return slices.ContainsFunc(temporaryAcceptErrors, is) || isTemporary(err)
}

// temporaryAcceptErrors holds the temporary errors of accept(2), and lostListenerErrors
// the errors of a descriptor that is not, or no longer, a listener. The files for the
// operating systems fill both.
var temporaryAcceptErrors, lostListenerErrors []error

// isTemporary reports whether err or a wrapped error has a method Temporary that returns
// true. The outermost error with the method decides. There is one exception: a
// [net.OpError] that is not temporary decides nothing, because its method knows only
// errors of the system.
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

// acceptConn starts a session on conn, and never waits for the peer. No method of a
// connection of package net waits for the peer's address. Any other connection is
// prepared on the pool, and every connection of a server with a Preamble. config is for
// TLS after the Preamble, or nil.
func (srv *Server) acceptConn(conn net.Conn, config *tls.Config) {
	mustHave("Server.Serve, whose listener accepts,", "connection", conn)
	if isPlainNetConn(conn) && srv.Preamble == nil {
		srv.ServeConn(conn)
		return
	}
	srv.mu.Lock()
	srv.addUserLocked()
	if srv.unpreparedConns == nil {
		srv.unpreparedConns = make(chan struct{}, min(maxUnpreparedConns, max(1, bounded.LimitOr(srv.MaxHandshakes, 256)/2)))
	}
	beginning := srv.unpreparedConns
	srv.mu.Unlock()
	beginning <- struct{}{} // waits for runnable goroutines, and never for a peer
	srv.pool.RunTask(func() {
		srv.prepareConn(conn, config, func() { <-beginning })
		srv.removeUser()
	})
}

// maxUnpreparedConns is the maximum number of accepted connections whose goroutines have
// not begun the handshake. A goroutine that has counted its handshake may have to wait
// for a processor. With thousands of such goroutines, MaxHandshakes would refuse
// connections that wait for no peer.
const maxUnpreparedConns = 16

// isPlainNetConn reports whether the type of conn is from package net: TCP, a unix
// socket, or [net.Pipe].
func isPlainNetConn(conn io.ReadWriteCloser) bool {
	t := reflect.TypeOf(conn)
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "net"
}

// prepareConn runs a session on an accepted connection after the Preamble, any header of
// the peer, and the TLS handshake. Checks that need the peer's address or a session come
// afterwards; before, only MaxSessions and MaxHandshakes apply. prepareConn calls begun
// before waiting for the peer.
func (srv *Server) prepareConn(accepted net.Conn, config *tls.Config, begun func()) {
	begun = sync.OnceFunc(begun)
	prepared := &preparedConn{conn: accepted}
	closeConn := sync.OnceFunc(func() { begun(); prepared.closeConn() })
	counted := srv.handshakeConn(accepted)
	if !srv.acceptsFrom(counted) {
		closeConn()
		return
	}
	o := srv.resolvedOptions()
	var s *Session
	var group string
	err := srv.runHandshake(counted, func(error) { closeConn() }, func(ctx context.Context, h *handshake) error {
		begun()
		conn, err := srv.runPreamble(ctx, h, prepared, config)
		if err != nil {
			return err
		}
		h.locatePeer(conn)
		if found, ok := findTLS(conn); ok {
			h.failureText = "TLS handshake failed"
			if err := found.runTLSHandshake(ctx, conn); err != nil {
				return err
			}
		}
		s, group = srv.newSessionInGroup(newStream(conn, o.Framer), o) // calls Exempt and Group
		return nil
	})
	if err != nil || srv.startSession(s, group, nil) != nil {
		closeConn()
	}
}

// countRefusalLocked counts and traces a connection that the server closes because of a
// limit. addr is the address of the peer, or nil if unknown. Only the first refusal for
// each limit is logged, because there may be many. Callers must hold srv.mu.
func (srv *Server) countRefusalLocked(name string, limit slog.Attr, addr net.Addr) {
	srv.traceConnRefusedLocked(name, addr)
	if srv.refusals == nil {
		srv.refusals = make(map[string]uint64)
	}
	if srv.refusals[name]++; srv.refusals[name] == 1 {
		log := srv.options.Logger
		srv.pool.RunTask(func() {
			log.LogAttrs(context.Background(), slog.LevelWarn, "connection refused, as will be others", limitAttr(name, limit))
		})
	}
}

// ServeConn runs a session on a connection that was accepted by other code;
// [Server.Serve] does so on its own. If the server was stopped or has MaxSessions
// sessions, or if the group of the session has MaxGroup, ServeConn closes conn and
// returns nil. ServeConn asks conn for its address, and waits if conn does. If conn has
// TLS without a completed handshake, the session begins with the handshake, within
// HandshakeTimeout and MaxHandshakes. ServeConn does not call Server.Preamble.
func (srv *Server) ServeConn(conn io.ReadWriteCloser) *Session {
	mustHave("Server.ServeConn", "connection", conn)
	return srv.serveTransport(newStream(conn, srv.resolvedOptions().Framer), pendingTLS(conn))
}

// ServeMessageConn is [Server.ServeConn] for a connection that keeps messages apart.
// Options.Framer is ignored.
func (srv *Server) ServeMessageConn(conn MessageConn) *Session {
	mustHave("Server.ServeMessageConn", "connection", conn)
	return srv.serveTransport(newMessages(conn), nil)
}

// Accepts reports whether the server would run a session on a further connection: the
// server was not stopped, and has fewer than MaxSessions sessions. Accepts does not check
// Server.MaxGroup, which needs a session. Accepts is for transports that can refuse a
// connection early, such as HTTP. A false because of MaxSessions counts as a refused
// connection in ServerStats. A true promises nothing, because other connections may come
// first.
func (srv *Server) Accepts() bool { return srv.acceptsFrom(nil) }

// acceptsFrom is Accepts for a connection whose address is that of conn. If conn is nil,
// the address is unknown.
func (srv *Server) acceptsFrom(conn net.Conn) bool {
	var addr net.Addr
	if conn != nil {
		addr = conn.RemoteAddr() // does not wait
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.mustResolveOptionsLocked()
	return srv.acceptsSessionLocked(addr)
}

func (srv *Server) maxSessions() int { return bounded.LimitOr(srv.MaxSessions, 10000) }

// acceptsSessionLocked reports whether there may be a further session. If MaxSessions
// forbids the session, acceptsSessionLocked counts a refusal. addr is the address of the
// peer, or nil if unknown. Callers must hold srv.mu.
func (srv *Server) acceptsSessionLocked(addr net.Addr) bool {
	if srv.stopped {
		return false
	}
	most := srv.maxSessions()
	if len(srv.sessions) < most {
		return true
	}
	srv.countRefusalLocked("Server.MaxSessions", slog.Int("sessions", most), addr)
	return false
}

func (srv *Server) serveTransport(conn transport, secure handshaker) *Session {
	s, group := srv.newSessionInGroup(conn, srv.resolvedOptions())
	if err := srv.startSession(s, group, secure); err != nil {
		var cause error = ServerBusy("too many sessions")
		if errors.Is(err, ErrServerClosed) {
			cause = ErrServerClosed
		}
		_ = conn.closeWithCause(cause)
		return nil
	}
	return s
}

// newSessionInGroup makes a session without starting the session, and returns the name of
// the session's group.
func (srv *Server) newSessionInGroup(conn transport, o *Options) (s *Session, group string) {
	s = newSession(conn, o, RoleServer, &srv.pool, &srv.load)
	if s.limits.Group != nil {
		group = s.limits.Group(s)
	}
	return s, group
}

// startSession registers and starts s. If a limit is reached or the server was stopped, the
// result is a *refusedError. If secure is not nil, the session starts after the handshake
// of secure.
func (srv *Server) startSession(s *Session, group string, secure handshaker) error {
	var addr net.Addr
	if s.trace.ConnRefused != nil {
		addr = s.RemoteAddr() // before locking, because the connection may be the user's
	}
	srv.mu.Lock()
	mostOfGroup := bounded.LimitOr(srv.MaxGroup, math.MaxInt)
	switch {
	case !srv.acceptsSessionLocked(addr):
		stopped := srv.stopped
		srv.mu.Unlock()
		if stopped {
			return &refusedError{notStarted("shutting down", "shutting down"), ErrServerClosed}
		}
		return tooManySessions(srv.maxSessions(), "Server.MaxSessions")
	case group != "" && srv.groups.size(group) >= mostOfGroup:
		srv.countRefusalLocked("Server.MaxGroup", slog.Int("sessions", mostOfGroup), addr)
		srv.mu.Unlock()
		return tooManySessions(mostOfGroup, "Server.MaxGroup")
	}
	if group != "" {
		s.lock() // no other goroutine has the session yet
		s.cost.joinGroupLocked(srv.groups.joinGroup(group, s.limits))
		s.unlock()
	}
	held := srv.OnSession != nil || s.trace.Connected != nil || secure != nil
	s.requests.workersHeld = held
	s.server = srv
	if srv.sessions == nil {
		srv.sessions = make(map[*Session]struct{})
	}
	srv.sessions[s] = struct{}{} // from now on, other goroutines see the session
	srv.watchCrowdLocked()
	srv.addUserLocked()
	if held {
		srv.addUserLocked() // for the goroutine below
	}
	srv.mu.Unlock()

	if secure == nil {
		s.start()
	}
	if held {
		// Owner: the server. End: the handshake, Trace.Connected and OnSession return.
		go func() {
			defer srv.removeUser()
			defer s.requests.resumeWorkers()
			shaken := true
			if secure != nil {
				shaken = srv.runSessionHandshake(s, secure)
				s.start() // also after a failed handshake: the end of a session needs its goroutines
			}
			s.traceConnected()
			if srv.OnSession != nil && shaken {
				srv.OnSession(s)
			}
		}()
	}
	return nil
}

// forgetSession removes s from the server's sessions, and from the group.
func (srv *Server) forgetSession(s *Session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if _, known := srv.sessions[s]; known && s.cost.group != nil {
		s.cost.group.sessions--
	}
	delete(srv.sessions, s)
}

// tooManySessions returns the error of a session over the limit of the given name.
func tooManySessions(limit int, name string) error {
	return &refusedError{notStarted("sessions", overLimitText(limit, "sessions", name)), ErrServerFull}
}

// GroupBySubnet returns a function for Limits.Group that groups sessions by the first
// bits of the peers' IP addresses. bits4 is the number of bits of an IPv4 address (24,
// for example), and bits6 of an IPv6 address (48 or 64). If a number is negative or too
// large, each address has a separate group.
//
// Peers without an IP address and peers on a loopback address are in no group. A proxy on
// the same machine, or Tor, connects its clients from a loopback address. In a group, a
// single client could use up the budget of every client. The clients of a proxy on
// another machine are in one group. For both cases see "Behind a proxy" in
// docs/limits.md.
func GroupBySubnet(bits4, bits6 int) func(*Session) string {
	return func(s *Session) string {
		ip := peerIP(s.RemoteAddr())
		if !ip.IsValid() || ip.IsLoopback() {
			return ""
		}
		bits := bits6
		if ip.Is4() {
			bits = bits4
		}
		subnet, err := ip.Prefix(bits)
		if err != nil {
			return ip.String()
		}
		return subnet.String()
	}
}

// groups holds the accounts of groups of sessions, by name. An account stays while the
// group has a session or a cost, so that disconnecting does not reset the cost. The lock
// of the server guards groups.
type groups struct {
	accounts map[string]*account
	most     int // number of accounts at which joinGroup drops unneeded accounts, but at least 1024
}

// joinGroup adds a session with the limits l to a group, and returns the account of the
// group.
func (g *groups) joinGroup(name string, l *Limits) *account {
	if g.accounts == nil {
		g.accounts = make(map[string]*account)
	}
	a := g.accounts[name]
	if a == nil {
		if len(g.accounts) >= max(g.most, 1024) {
			for name, a := range g.accounts {
				if a.sessions == 0 && a.currentCost(l.CostDecay) == 0 {
					delete(g.accounts, name)
				}
			}
			g.most = 2 * len(g.accounts)
		}
		a = &account{epoch: time.Now()}
		// A single burst of input can cost a thousand times the limit. Such a burst must
		// not lock the group out for weeks.
		a.most = 2 * l.CostHard
		g.accounts[name] = a
	}
	a.sessions++
	return a
}

// size returns the number of live sessions in a group.
func (g *groups) size(name string) int {
	if a := g.accounts[name]; a != nil {
		return a.sessions
	}
	return 0
}

// A nearly full server ends sessions on which no message passes. So idle connections
// cannot occupy MaxSessions for ever. The server checks the sessions now and then, and
// only while nearly full: a busy session has no extra work.

// crowdChecks is the number of checks within CrowdedIdleTimeout.
const crowdChecks = 60

// idleMark holds a server's last observation of a session's activity.
type idleMark struct {
	activity
	since time.Time // first check that found this activity; zero before the first check
}

// activity changes when a message passes on a connection. Bytes alone do not count:
// otherwise a blank line a minute would keep a session for ever.
type activity struct {
	received, written uint64        // messages
	part              time.Duration // last progress of a large incomplete message
}

// crowdThreshold returns the number of sessions from which a server is nearly full: nine
// tenths of most.
func crowdThreshold(most int) int { return most - most/10 }

// smallServerSize is the MaxSessions below which no session ends for being idle by
// default. Such a server has few clients, and is meant to be full.
const smallServerSize = 10

// crowdedIdleTimeout returns CrowdedIdleTimeout or the default; a negative result means
// no limit.
func (srv *Server) crowdedIdleTimeout() time.Duration {
	switch {
	case srv.CrowdedIdleTimeout != 0:
		return srv.CrowdedIdleTimeout
	case srv.maxSessions() < smallServerSize:
		return -1
	}
	return time.Minute
}

// watchCrowdLocked schedules closeIdleSessions if the server is nearly full. Callers must
// hold srv.mu.
func (srv *Server) watchCrowdLocked() {
	if srv.watchesCrowd || len(srv.sessions) < crowdThreshold(srv.maxSessions()) || srv.crowdedIdleTimeout() < 0 {
		return
	}
	srv.watchesCrowd = true
	time.AfterFunc(0, srv.closeIdleSessions)
}

// closeIdleSessions ends the longest-idle sessions while the server is nearly full, and
// schedules the next check.
func (srv *Server) closeIdleSessions() {
	timeout, now := srv.crowdedIdleTimeout(), time.Now()
	srv.mu.Lock()
	excess := len(srv.sessions) - crowdThreshold(srv.maxSessions()) + 1
	srv.watchesCrowd = excess > 0 && !srv.stopped
	if srv.watchesCrowd {
		time.AfterFunc(max(1, timeout/crowdChecks), srv.closeIdleSessions)
	}
	srv.mu.Unlock()
	if excess <= 0 {
		return
	}
	type candidate struct {
		*Session
		since time.Time
	}
	var idle []candidate
	for _, s := range srv.liveSessions() {
		if since, ok := s.idleSince(now); ok && now.Sub(since) >= timeout {
			idle = append(idle, candidate{s, since})
		}
	}
	slices.SortFunc(idle, func(a, b candidate) int { return a.since.Compare(b.since) })
	for _, s := range idle[:min(excess, len(idle))] {
		s.lock()
		s.logs.logLaterLocked(slog.LevelInfo, "session is idle, and the server nearly full",
			timeLimitAttr("Server.CrowdedIdleTimeout", timeout))
		s.effects.closeSession(errCrowded, closeGrace)
		s.unlock()
	}
}

// idleSince returns since when the checks have found the session idle, and whether the
// session is idle now.
func (s *Session) idleSince(now time.Time) (time.Time, bool) {
	s.lock()
	defer s.unlock()
	last := activity{received: s.stats.MessagesReceived, written: s.writer.writtenMessages}
	last.part = s.memory.partial.lastProgress
	busy := s.life.state >= stateClosing || s.requests.running > 0 || s.requests.count > 0 || s.calls.table.pending > 0 || s.writer.writing
	if busy || last != s.idle.activity || s.idle.since.IsZero() {
		s.idle = idleMark{last, now}
	}
	return s.idle.since, !busy
}

// crowdedError is the type of errCrowded, and matches ErrIdle and ErrServerFull.
type crowdedError struct{}

var errCrowded error = crowdedError{}

func (crowdedError) Error() string {
	return "rpcx: session idle, and the server nearly full (Server.CrowdedIdleTimeout, Server.MaxSessions)"
}

func (crowdedError) Is(target error) bool { return target == ErrIdle || target == ErrServerFull }

// ServerStats holds counters of a server's sessions.
type ServerStats struct {
	Sessions   int // live sessions
	Handshakes int // handshakes in progress, as in Server.MaxHandshakes
	// Refused is the number of connections that were closed, or not made, because of a
	// limit. The key is the name of the limit, such as "Server.MaxSessions".
	Refused     map[string]uint64
	QueuedBytes int // bytes counted for Server.MaxQueuedBytes, to about 4 KiB a session
	// HandledBytes is the number of bytes counted for Server.MaxHandledBytes.
	HandledBytes int
	// LogRecordsLeftOut is the number of session log records left out because a budget of
	// the server was used up. The server has three budgets: for records of level Error,
	// for other records that a peer causes, and for the ends of sessions. Each budget has
	// 256 KiB and 8 KiB a second. The first two budgets also earn a byte for each byte
	// received.
	LogRecordsLeftOut uint64
	// EventsDropped is the number of refused connections without a call of
	// Trace.ConnRefused, because earlier calls were too slow.
	EventsDropped uint64
}

// Stats returns the current counters of the server.
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
		EventsDropped:     srv.events.dropped,
	}
}
