package rpcx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"reflect"
	"slices"
	"sync"
	"time"
)

// isTemporaryAcceptError reports whether Accept may succeed after err: if err is about one
// connection, or about memory or files that others may give back. A listener that
// is gone has other errors.
func isTemporaryAcceptError(err error) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	if is(net.ErrClosed) || slices.ContainsFunc(lostListenerErrors, is) {
		return false
	}
	return slices.ContainsFunc(temporaryAcceptErrors, is) || isTemporary(err)
}

// temporaryAcceptErrors are the errors of a system's accept(2) that pass, and lostListenerErrors
// those of a descriptor that is no listener, or no longer. The files for the
// systems fill them.
var temporaryAcceptErrors, lostListenerErrors []error

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

// acceptConn has a session run on conn, and does not wait for conn's peer. A connection
// of package net can be asked anything without waiting. Any other connection is
// prepared on the pool.
func (srv *Server) acceptConn(conn net.Conn) {
	mustHave("Server.Serve, whose listener accepts,", "connection", conn)
	if isPlainNetConn(conn) {
		srv.ServeConn(conn)
		return
	}
	srv.mu.Lock()
	srv.addUserLocked()
	if srv.unpreparedConns == nil {
		srv.unpreparedConns = make(chan struct{}, min(maxUnpreparedConns, max(1, limitOr(srv.MaxHandshakes, 256)/2)))
	}
	beginning := srv.unpreparedConns
	srv.mu.Unlock()
	beginning <- struct{}{} // waits for goroutines that can run, and for no peer
	srv.pool.runTask(func() {
		srv.prepareConn(conn, func() { <-beginning })
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.removeUserLocked()
	})
}

// maxUnpreparedConns is how many connections are accepted ahead of the goroutines that prepare
// them. A goroutine that has counted its handshake may have to queue for a processor.
// With thousands in that queue, MaxHandshakes would refuse connections that wait for
// nothing.
const maxUnpreparedConns = 16

// isPlainNetConn reports whether conn's type is one of package net itself: TCP, a unix
// socket, or [net.Pipe].
func isPlainNetConn(conn io.ReadWriteCloser) bool {
	t := reflect.TypeOf(conn)
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "net"
}

// prepareConn runs a session on conn once all is known of conn that its peer has to send
// first. What needs the peer's address, or a session, comes after that; before it
// only MaxSessions and MaxHandshakes count. It calls begun before it waits for anything.
func (srv *Server) prepareConn(conn net.Conn, begun func()) {
	begun = sync.OnceFunc(begun)
	closeConn := sync.OnceFunc(func() { begun(); conn.Close() })
	if !srv.Accepts() {
		closeConn()
		return
	}
	o := srv.resolvedOptions()
	var s *Session
	var group string
	err := srv.runHandshake(findPlainNetConn(conn), func(error) { closeConn() }, func(ctx context.Context, h *handshake) error {
		begun()
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
	if err != nil || !srv.startSession(s, group, nil) {
		closeConn()
	}
}

// countRefusalLocked counts a connection that is closed for a limit. It is called under the
// lock.
func (srv *Server) countRefusalLocked(name string, limit slog.Attr) {
	if srv.refusals == nil {
		srv.refusals = make(map[string]uint64)
	}
	if srv.refusals[name]++; srv.refusals[name] == 1 {
		// (The next ones are not logged: there may be very many.)
		log := srv.options.Logger
		srv.pool.runTask(func() {
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
	return srv.serveTransport(newStream(conn, srv.resolvedOptions().Framer), pendingTLS(conn))
}

// ServeMessageConn is [Server.ServeConn] for a connection that keeps messages
// apart by itself; Options.Framer is ignored.
func (srv *Server) ServeMessageConn(conn MessageConn) *Session {
	mustHave("Server.ServeMessageConn", "connection", conn)
	return srv.serveTransport(newMessages(conn), nil)
}

// Accepts reports whether the server would run a session on one more connection: it
// was not stopped, and has fewer than MaxSessions. (Server.MaxGroup is about a session,
// and so is not asked.) It is for transports that can refuse a connection before there
// is one, as HTTP can: false for MaxSessions counts as a connection refused, in
// ServerStats. True promises nothing, since others may come first.
func (srv *Server) Accepts() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.mustResolveOptionsLocked()
	return srv.acceptsSessionLocked()
}

// acceptsSessionLocked reports whether there may be one more session, and counts it as refused if
// not. It is called under the lock.
func (srv *Server) acceptsSessionLocked() bool {
	if srv.stopped {
		return false
	}
	most := limitOr(srv.MaxSessions, 10000)
	if len(srv.sessions) < most {
		return true
	}
	srv.countRefusalLocked("Server.MaxSessions", slog.Int("sessions", most))
	return false
}

func (srv *Server) serveTransport(conn transport, secure handshaker) *Session {
	s, group := srv.newSessionInGroup(conn, srv.resolvedOptions())
	if !srv.startSession(s, group, secure) {
		srv.mu.Lock()
		stopped := srv.stopped
		srv.mu.Unlock()
		var cause error = ServerBusy("too many sessions")
		if stopped {
			cause = ErrServerClosed
		}
		_ = conn.closeWithCause(cause)
		return nil
	}
	return s
}

// newSessionInGroup makes a session that is not started yet, and tells its group.
func (srv *Server) newSessionInGroup(conn transport, o *Options) (s *Session, group string) {
	s = newSession(conn, o, RoleServer, &srv.pool, &srv.load)
	if s.limits.Group != nil {
		group = s.limits.Group(s)
	}
	return s, group
}

// startSession starts a session that the server keeps track of, unless a limit is reached. If
// secure is not nil, the session starts after its handshake.
func (srv *Server) startSession(s *Session, group string, secure handshaker) bool {
	srv.mu.Lock()
	mostOfGroup := limitOr(srv.MaxGroup, math.MaxInt)
	switch {
	case !srv.acceptsSessionLocked():
		srv.mu.Unlock()
		return false
	case group != "" && srv.groups.size(group) >= mostOfGroup:
		srv.countRefusalLocked("Server.MaxGroup", slog.Int("sessions", mostOfGroup))
		srv.mu.Unlock()
		return false
	}
	var account *account
	if group != "" {
		account = srv.groups.joinGroup(group, s.limits)
		s.lock() // nobody else has the session yet
		s.cost.joinGroupLocked(account)
		s.unlock()
	}
	held := srv.OnSession != nil || s.trace.Connected != nil || secure != nil
	s.requests.paused = held
	s.beforeCallbacks = func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		if account != nil {
			account.sessions--
		}
		delete(srv.sessions, s)
	}
	s.afterCallbacks = func() {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.removeUserLocked()
	}
	if srv.sessions == nil {
		srv.sessions = make(map[*Session]struct{})
	}
	srv.sessions[s] = struct{}{} // from now on others see it
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
			defer func() {
				s.requests.resumeWorkers()
				srv.mu.Lock()
				defer srv.mu.Unlock()
				srv.removeUserLocked()
			}()
			shaken := true
			if secure != nil {
				shaken = srv.runSessionHandshake(s, secure)
				s.start() // also to end it
			}
			s.traceConnected()
			if srv.OnSession != nil && shaken {
				srv.OnSession(s)
			}
		}()
	}
	return true
}

// resumeWorkers lets workers handle what a held session has received.
func (rs *requestServer) resumeWorkers() {
	s := rs.s
	s.lock()
	rs.paused = false
	s.cost.checkStarvedQueueLocked()
	rs.startWorkerIfNeededLocked()
	s.unlock()
}

// GroupBySubnet returns a function for Limits.Group that puts sessions together
// whose peers have the first bits of their IP addresses in common: bits4 of
// IPv4 addresses (24, say), bits6 of IPv6 addresses (48 or 64). A number that
// is negative or too large puts each address in a group of its own.
//
// Peers without an IP address are in no group, and so are those on a loopback address:
// a proxy on this machine, or Tor, has all of its clients arrive from there, and one
// of them could use up the budget of all. The clients of a proxy on another machine
// are in one group. For both see the manual, "Behind a proxy".
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

// groups are the accounts of groups of sessions, by their names. An account is
// kept as long as the group has a session or a cost: it does no good to
// disconnect. They are guarded by the server's lock.
type groups struct {
	accounts map[string]*account
	most     int // there may be before those that are not needed are dropped
}

// joinGroup returns the account of a group, with one more session, whose limits are l.
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
		a = newAccount()
		// What a peer sends at once can cost a thousand times the limit: that must
		// not lock its group out for weeks.
		a.most = 2 * l.CostHard
		g.accounts[name] = a
	}
	a.sessions++
	return a
}

// size returns how many live sessions a group has.
func (g *groups) size(name string) int {
	if a := g.accounts[name]; a != nil {
		return a.sessions
	}
	return 0
}

// A server that is nearly full ends sessions on which no message passes, so that idle
// connections cannot take all of MaxSessions for ever. It looks at the sessions now
// and then, and only while it is nearly full: a session that is busy does nothing for it.

// crowdChecks is how many times the sessions are looked at in CrowdedIdleTimeout.
const crowdChecks = 4

// idleMark is what a server remembers of a session on which no message passes.
type idleMark struct {
	activity
	since time.Time // when nothing had passed after it for the first time; zero before
}

// activity changes when a message passes on a connection. Bytes alone do not count: a
// blank line a minute would keep a place for ever.
type activity struct {
	received, written uint64        // messages
	part              time.Duration // when a large message last went on
}

// crowdThreshold returns from how many sessions on a server is nearly full: nine tenths of most.
func crowdThreshold(most int) int { return most - most/10 }

// smallServerSize is the MaxSessions below which nobody ends for being idle by default. Such
// a server is for few clients, and to be full is how it is meant to be.
const smallServerSize = 10

// crowdedIdleTimeout returns CrowdedIdleTimeout with its default.
func (srv *Server) crowdedIdleTimeout() time.Duration {
	switch {
	case srv.CrowdedIdleTimeout != 0:
		return srv.CrowdedIdleTimeout
	case limitOr(srv.MaxSessions, 10000) < smallServerSize:
		return -1
	}
	return time.Minute
}

// watchCrowdLocked begins to look at the sessions if the server is nearly full. Callers
// must hold srv.mu.
func (srv *Server) watchCrowdLocked() {
	if srv.watchesCrowd || len(srv.sessions) < crowdThreshold(limitOr(srv.MaxSessions, 10000)) || srv.crowdedIdleTimeout() < 0 {
		return
	}
	srv.watchesCrowd = true
	time.AfterFunc(0, srv.closeIdleSessions)
}

// closeIdleSessions ends the sessions that have been idle longest, as long as the server is nearly
// full, and looks again later.
func (srv *Server) closeIdleSessions() {
	timeout, now := srv.crowdedIdleTimeout(), time.Now()
	srv.mu.Lock()
	excess := len(srv.sessions) - crowdThreshold(limitOr(srv.MaxSessions, 10000)) + 1
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

// idleSince returns since when no message has passed on the session's connection, as far
// as it was looked at; false if something is under way.
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

// crowdedError is errCrowded's type. It matches ErrIdle and ErrServerFull.
type crowdedError struct{}

var errCrowded error = crowdedError{}

func (crowdedError) Error() string {
	return "rpcx: session idle, and the server nearly full (Server.CrowdedIdleTimeout, Server.MaxSessions)"
}

func (crowdedError) Is(target error) bool { return target == ErrIdle || target == ErrServerFull }
