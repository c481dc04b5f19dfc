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

// maxNotes is how many notes may wait; more are only counted.
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
	if s.notes = append(s.notes, note{level, msg, attrs}); len(s.notes) == 1 {
		s.pool.run(s.logNotes)
	}
}

// logNotes logs until there is nothing left.
func (s *Session) logNotes() {
	for i := 0; ; i++ {
		s.mu.Lock()
		if i == len(s.notes) && s.unlogged > 0 {
			s.notes = append(s.notes, note{slog.LevelWarn, "too much to log", []slog.Attr{slog.Int("left out", s.unlogged)}})
			s.unlogged = 0
		}
		if i == len(s.notes) {
			s.notes = nil
			s.leave()
			s.mu.Unlock()
			return
		}
		n := s.notes[i]
		s.mu.Unlock()
		s.log.LogAttrs(context.Background(), n.level, n.msg, n.attrs...)
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
