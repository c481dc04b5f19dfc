package rpcx

import (
	"fmt"
	"log/slog"
	"time"
)

// part is a message that has come in part, of more than readBuffer: the zero value is
// none. It is guarded by the session's lock, and only the reader changes it.
type part struct {
	size     int           // that is taken for it
	began    time.Duration // when that became more than readBuffer
	progress time.Duration // when partRate bytes had come since it was this before; if it is large
	messages uint64        // that had been received when it began
	received uint64        // the bytes at progress
}

// partRate is how many bytes of a large message (more than largeBuffer) have to come
// within Limits.SendTimeout when a server is near MaxQueuedBytes: as many as a write has
// to send.
const partRate = writeChunk

// trackPartLocked follows the message for which the reader takes size bytes, 0 if there
// is none. Only the reader calls it. Callers must hold s.mu.
func (s *Session) trackPartLocked(size int) {
	s.owner.Check()
	p := &s.part
	if size -= s.kept; size <= readBuffer || s.load.limit == 0 {
		s.dropPartLocked()
		return
	}
	if p.size == 0 || p.messages != s.stats.MessagesReceived {
		*p = part{began: s.now(), messages: s.stats.MessagesReceived}
	}
	received, large := s.conn.received(), p.size > largeBuffer
	p.size = size
	switch {
	case size <= largeBuffer:
	case !large:
		p.received, p.progress = received, s.now()
		s.arm(after(p.progress, s.limits.SendTimeout))
	case received-p.received >= partRate:
		p.received, p.progress = received, s.now()
	}
}

// dropPartLocked ends what trackPartLocked has begun. Callers must hold s.mu.
func (s *Session) dropPartLocked() {
	s.owner.Check()
	s.part = part{}
}

// checkPartLocked ends a session where a large message has come in part and does not go
// on. A message that is not read, because reading pauses, is not waited for. Callers must
// hold s.mu.
func (s *Session) checkPartLocked(now time.Duration) {
	s.owner.Check()
	p := &s.part
	if p.size <= largeBuffer || s.state >= stateClosing {
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
