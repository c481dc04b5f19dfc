package rpcx

import (
	"log/slog"
	"slices"
	"time"
)

// A server that is nearly full ends sessions on which no message passes, so that idle
// connections cannot take all of MaxSessions for ever. It looks at the sessions now
// and then, and only while it is nearly full: a session that is busy does nothing for it.

// crowdLooks is how many times the sessions are looked at in CrowdedIdleTimeout.
const crowdLooks = 4

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

// crowded returns from how many sessions on a server is nearly full: nine tenths of most.
func crowded(most int) int { return most - most/10 }

// smallServer is the MaxSessions below which nobody ends for being idle by default. Such
// a server is for few clients, and to be full is how it is meant to be.
const smallServer = 10

// crowdedIdleTimeout returns CrowdedIdleTimeout with its default.
func (srv *Server) crowdedIdleTimeout() time.Duration {
	switch {
	case srv.CrowdedIdleTimeout != 0:
		return srv.CrowdedIdleTimeout
	case limitOr(srv.MaxSessions, 10000) < smallServer:
		return -1
	}
	return time.Minute
}

// watchCrowdLocked begins to look at the sessions if the server is nearly full. Callers
// must hold srv.mu.
func (srv *Server) watchCrowdLocked() {
	if srv.watching || len(srv.sessions) < crowded(limitOr(srv.MaxSessions, 10000)) || srv.crowdedIdleTimeout() < 0 {
		return
	}
	srv.watching = true
	time.AfterFunc(0, srv.endIdle)
}

// endIdle ends the sessions that have been idle longest, as long as the server is nearly
// full, and looks again later.
func (srv *Server) endIdle() {
	timeout, now := srv.crowdedIdleTimeout(), time.Now()
	srv.mu.Lock()
	excess := len(srv.sessions) - crowded(limitOr(srv.MaxSessions, 10000)) + 1
	srv.watching = excess > 0 && !srv.stopped
	if srv.watching {
		time.AfterFunc(max(1, timeout/crowdLooks), srv.endIdle)
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
	for _, s := range srv.live() {
		if since, ok := s.idleSince(now); ok && now.Sub(since) >= timeout {
			idle = append(idle, candidate{s, since})
		}
	}
	slices.SortFunc(idle, func(a, b candidate) int { return a.since.Compare(b.since) })
	for _, s := range idle[:min(excess, len(idle))] {
		s.lock()
		s.note(slog.LevelInfo, "session is idle, and the server nearly full",
			timeLimit("Server.CrowdedIdleTimeout", timeout))
		s.fx.end(errCrowded, closeGrace)
		s.unlock()
	}
}

// idleSince returns since when no message has passed on the session's connection, as far
// as it was looked at; false if something is under way.
func (s *Session) idleSince(now time.Time) (time.Time, bool) {
	s.lock()
	defer s.unlock()
	last := activity{received: s.stats.MessagesReceived, written: s.out.written}
	last.part = s.part.progress
	busy := s.state >= stateClosing || s.in.running > 0 || s.in.count > 0 || s.table.pending > 0 || s.out.writing
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
