package rpcx

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
)

// note is something to be logged that the reader saw, which cannot do it.
type note struct {
	level slog.Level
	msg   string
	attrs []slog.Attr
}

// maxNotes is how many notes may wait, behind as many at most that are being logged;
// more are only counted.
const maxNotes = 64

// note has something logged, on another goroutine, and before the session is over.
// It is called under the lock.
func (s *Session) note(level slog.Level, msg string, attrs ...slog.Attr) {
	if s.log.Handler() == slog.DiscardHandler || s.state == stateDone {
		return
	}
	if len(s.notes) >= maxNotes {
		s.unlogged++
		return
	}
	s.notes = append(s.notes, note{level, msg, attrs})
	if !s.logging {
		s.logging = true
		s.pool.run(s.logNotes)
	}
}

// logNotes logs until there is nothing left. It makes room for as much as it takes, so
// that a log which is always too slow still shows some of all that happens.
func (s *Session) logNotes() {
	for {
		s.mu.Lock()
		notes, unlogged := s.notes, s.unlogged
		s.notes, s.unlogged = nil, 0
		if len(notes) == 0 {
			s.logging = false
			s.leave()
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		for _, n := range notes {
			s.log.LogAttrs(context.Background(), n.level, n.msg, n.attrs...)
		}
		if unlogged > 0 {
			s.log.LogAttrs(context.Background(), slog.LevelWarn, "too much to log", slog.Int("left out", unlogged))
		}
	}
}

// limitAttr names a limit in a log record.
func limitAttr(name string, value int) slog.Attr {
	if value == math.MaxInt {
		value = -1
	}
	return slog.Group("limit", slog.String("name", name), slog.Int("value", value))
}

// peerAttr names a peer in a log record: as text, since a handler that writes JSON
// would take the address apart.
func peerAttr(addr net.Addr) slog.Attr { return slog.String("peer", fmt.Sprint(addr)) }
