package rpcx

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// unfinished holds the large messages that a server's sessions have received in part,
// the oldest first. "Large" is what Server.MaxQueuedBytes counts of them.
type unfinished struct {
	mu    sync.Mutex
	parts []*part
}

// part is a large message that has come in part.
type part struct {
	session *Session
	size    int // that is taken for it; guarded by unfinished.mu

	// Guarded by the session's lock.
	progress time.Duration // when partRate bytes had come since it was this before
	given    bool          // up, for another message

	// The reader's.
	messages uint64 // that had been received when it began
	received uint64 // the bytes at progress
}

// partRate is how many bytes of a large message have to come within Limits.SendTimeout
// when a server is near MaxQueuedBytes: as many as a write has to send.
const partRate = writeChunk

// trackPartLocked follows the large message for which the reader takes size bytes, 0 if
// there is none. Only the reader calls it. Callers must hold s.mu.
func (s *Session) trackPartLocked(size int) {
	s.owner.check()
	if size <= largeBuffer {
		size = 0 // what a connection keeps beside messages, as a WebSocket its request
	}
	p := s.part
	if p != nil && (size == 0 || p.messages != s.stats.MessagesReceived) {
		s.dropPartLocked()
		p = nil
	}
	if size == 0 || s.load.limit == 0 {
		return
	}
	received, now := s.conn.received(), s.now()
	if p == nil {
		p = &part{session: s, messages: s.stats.MessagesReceived, received: received, progress: now}
		s.part = p
		s.load.unfinished.add(p, size)
		s.arm(after(now, s.limits.SendTimeout))
		return
	}
	s.load.unfinished.resize(p, size)
	if received-p.received >= partRate {
		p.received, p.progress = received, now
	}
}

// dropPartLocked ends what trackPartLocked has begun. Callers must hold s.mu.
func (s *Session) dropPartLocked() {
	s.owner.check()
	if s.part != nil {
		s.load.unfinished.remove(s.part)
		s.part = nil
	}
}

// partWeightLocked returns how much the session holds of a message that has come in
// part. Callers must hold s.mu.
func (s *Session) partWeightLocked() int {
	s.owner.check()
	if s.part != nil && s.part.given {
		return 0 // as soon as the reader returns
	}
	return s.partial
}

// checkPartLocked ends a session where a large message has come in part and does not go
// on. A message that is not read, because reading pauses, is not waited for. Callers must
// hold s.mu.
func (s *Session) checkPartLocked(now time.Duration) {
	s.owner.check()
	p := s.part
	if p == nil || s.state >= stateClosing {
		return
	}
	timeout := s.limits.SendTimeout
	if by := after(p.progress, timeout); by > now {
		s.arm(by)
		return
	}
	if !s.load.nearFull() {
		s.arm(after(now, timeout/4))
		return
	}
	s.note(slog.LevelWarn, "a message does not go on, and memory is short",
		timeLimit("Limits.SendTimeout", timeout), slog.Int("bytes", s.partial))
	s.fx.end(&fullError{&FrameError{Message: fmt.Sprintf("less than %s bytes of a message in %v (Limits.SendTimeout), near %s bytes on this server (Server.MaxQueuedBytes)",
		thousands(partRate), timeout, thousands(s.load.limit))}}, s.violationGrace())
}

// nearFull reports whether half of what may wait on the server does.
func (l *load) nearFull() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/2 }

// makeRoomLocked ends the sessions whose large messages are the oldest, and older than
// that of s, to make room for so many bytes; it reports false, and ends none, if these
// do not hold as much, or if s has no large message. Only such as take more than half of
// a session's share have to go: others do not lock anybody out.
// Callers must hold s.mu.
func (s *Session) makeRoomLocked(bytes int) bool {
	s.owner.check()
	if s.part == nil {
		return false
	}
	old := s.load.unfinished.take(s.part, bytes, s.load.limit/int(2*max(s.load.sessions.Load(), 1)))
	for _, p := range old {
		s.pool.run(p.giveUp)
	}
	return old != nil
}

// giveUp ends the session of a message that has come in part, to make room for others.
func (p *part) giveUp() {
	s := p.session
	s.lock()
	defer s.unlock()
	if s.part != p || s.state >= stateClosing {
		return
	}
	p.given = true
	s.note(slog.LevelWarn, "a message that has come in part makes room for a later one",
		byteLimit("Server.MaxQueuedBytes", s.load.limit), slog.Int("bytes", s.partial))
	s.fx.end(&fullError{&FrameError{Message: "no room for a message that has come in part: " + over(s.load.limit, "bytes on this server", "Server.MaxQueuedBytes")}},
		s.violationGrace())
}

func (u *unfinished) add(p *part, size int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.size = size
	u.parts = append(u.parts, p)
}

func (u *unfinished) resize(p *part, size int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	p.size = size
}

func (u *unfinished) remove(p *part) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.parts, p); i >= 0 {
		u.parts = slices.Delete(u.parts, i, i+1)
	}
}

// take removes the oldest messages that have least bytes each and are older than p,
// until they have so many bytes in all; none if there are not so many.
func (u *unfinished) take(p *part, bytes, least int) []*part {
	u.mu.Lock()
	defer u.mu.Unlock()
	var old []*part
	for _, other := range u.parts {
		if other == p || bytes <= 0 {
			break
		}
		if other.size >= least {
			old = append(old, other)
			bytes -= other.size
		}
	}
	if bytes > 0 {
		return nil
	}
	u.parts = slices.DeleteFunc(u.parts, func(p *part) bool { return slices.Contains(old, p) })
	return old
}
