package rpcx

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"example.com/rpcx/internal/bounded"
)

// logRecord is something to be logged that the reader saw, which cannot do it.
type logRecord struct {
	level slog.Level
	msg   string
	attrs []slog.Attr
}

// maxLogRecords is how many notes may wait, behind as many at most that are being logged;
// more are only counted.
const maxLogRecords = 64

// logLaterLocked has something logged, on another goroutine, and before the session is over. It
// is for what happens once or twice in a session; the sessions of a server have a budget
// for that. It is called under the lock.
func (l *deferredLog) logLaterLocked(level slog.Level, msg string, attrs ...slog.Attr) {
	s := l.s
	s.mu.AssertHeld()
	if s.log.Handler() != slog.DiscardHandler {
		s.noteOfSizeLocked(recordSize(msg, attrs), level, msg, attrs)
	}
}

// noteOfSizeLocked is note for a record of the given size, as recordSize has it. For errors
// that may be the user's, callers have asked for it before they took the lock.
func (s *Session) noteOfSizeLocked(size int, level slog.Level, msg string, attrs []slog.Attr) {
	s.mu.AssertHeld()
	if s.life.state == stateDone {
		return
	}
	if l := s.load.logs; l == nil || s.logs.takeServerLogBudgetLocked(&l.notices, size, 0, 1) {
		s.logs.queueLogRecordLocked(level, msg, attrs)
	}
}

// queueLogRecordLocked is note for what the budgets have room for. Callers must hold s.mu.
func (l *deferredLog) queueLogRecordLocked(level slog.Level, msg string, attrs []slog.Attr) {
	s := l.s
	s.mu.AssertHeld()
	if len(l.records) >= maxLogRecords {
		l.unlogged++
		return
	}
	l.records = append(l.records, logRecord{level, msg, attrs})
	if !l.running {
		l.running = true
		s.pool.runTask(l.writeLogRecords)
	}
}

// A logBudget bounds the bytes of the records that the peer causes: logBurst, and one for
// each byte that was received. Once it is used up, no record fits before there is room
// for several, so that what is logged of a flood are runs of records.
type logBudget struct {
	logged    uint64 // about how many bytes
	earned    uint64 // of the bytes received, what the server's budget has been given for
	exhausted bool
}

const (
	logBurst = 16 << 10
	logRun   = 4 << 10
)

// takeBytes reports whether there is room for a record of the given size, and counts it.
func (b *logBudget) takeBytes(size int, received uint64) bool {
	after := b.logged + uint64(size)
	switch total := received + logBurst; {
	case after > total, b.exhausted && after+logRun > total:
		b.exhausted = true
		return false
	}
	b.exhausted, b.logged = false, after
	return true
}

// deferredLog keeps log records until they can be written without s.mu.
type deferredLog struct {
	s        *Session
	records  []logRecord
	unlogged int        // records for which there was no room
	running  bool       // a goroutine writes records, or is about to
	budgets  logBudgets // of records that the peer causes
}

// logBudgets are a session's: records of level Error have one of their own, so that a
// peer cannot hide a handler's panic behind bad messages.
type logBudgets struct{ errors, others logBudget }

// takeServerLogBudgetLocked reports whether the server's budget has room for a record of the
// given size, which tells of so many; earned are bytes received that it has not been given
// for. If others were left out before, that is said first. Callers must hold s.mu.
func (l *deferredLog) takeServerLogBudgetLocked(b *bounded.Budget, size, earned, records int) bool {
	l.s.mu.AssertHeld()
	ok, skipped := b.Take(float64(size), float64(earned), records)
	if skipped > 0 {
		l.queueLogRecordLocked(slog.LevelWarn, "too much to log of this server's sessions",
			[]slog.Attr{slog.Int("records left out", skipped)})
	}
	return ok
}

// takeLogBudgetLocked reports whether the budgets of the session and its server have room for a
// record. Callers must hold s.mu.
func (l *deferredLog) takeLogBudgetLocked(level slog.Level, size int) bool {
	s := l.s
	s.mu.AssertHeld()
	budget := &l.budgets.others
	if level >= slog.LevelError {
		budget = &l.budgets.errors
	}
	received := s.stats.BytesReceived
	if len(l.records) >= maxLogRecords || !budget.takeBytes(size, received) {
		l.unlogged++
		return false
	}
	ofServer := s.load.logs
	if ofServer == nil {
		return true
	}
	shared := &ofServer.others
	if level >= slog.LevelError {
		shared = &ofServer.errors
	}
	earned := int(received - budget.earned)
	budget.earned = received
	if !l.takeServerLogBudgetLocked(shared, size, earned, 1) {
		budget.logged -= uint64(size)
		return false
	}
	return true
}

// logPeerLaterLocked is note for what a peer can cause as often as it likes. Records for
// which the budget has no room are only counted. Attributes have no errors but this
// package's own: the text of any other is the user's code.
func (l *deferredLog) logPeerLaterLocked(level slog.Level, msg string, attrs ...slog.Attr) {
	s := l.s
	s.mu.AssertHeld()
	if s.log.Handler() != slog.DiscardHandler {
		l.logSizedLaterLocked(recordSize(msg, attrs), level, msg, attrs)
	}
}

// notePeer is logPeerLaterLocked for attributes with any errors. Callers must not hold s.mu.
func (s *Session) notePeer(level slog.Level, msg string, attrs ...slog.Attr) {
	if s.log.Handler() == slog.DiscardHandler {
		return
	}
	size := recordSize(msg, attrs)
	s.lock()
	s.logs.logSizedLaterLocked(size, level, msg, attrs)
	s.unlock()
}

func (l *deferredLog) logSizedLaterLocked(size int, level slog.Level, msg string, attrs []slog.Attr) {
	s := l.s
	s.mu.AssertHeld()
	if s.life.state != stateDone && l.takeLogBudgetLocked(level, size) {
		l.queueLogRecordLocked(level, msg, attrs)
	}
}

// logHandlerLater logs what happened when c was handled, within the budget. A nil err is
// left out. Callers must not hold s.mu: the logger and err are the user's.
func (l *deferredLog) logHandlerLater(level slog.Level, msg string, c *peerRequest, err error, more ...slog.Attr) {
	s := l.s
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	attrs := append([]slog.Attr{methodAttr(c.Method)}, more...)
	if err != nil {
		attrs = append(attrs, errorAttr(err))
	}
	size := recordSize(msg, attrs)
	s.lock()
	l.logSizedLaterLocked(size, level, msg, attrs)
	s.unlock()
}

// recordOverhead is about how many bytes the time, the level and the peer have in a
// record.
const recordOverhead = 192

// recordSize returns about how many bytes a record has as text, and not fewer.
func recordSize(msg string, attrs []slog.Attr) int {
	size := recordOverhead + len(msg)
	for _, a := range attrs {
		size += len(a.Key) + len(`="" `)
		switch v := a.Value; v.Kind() {
		case slog.KindLogValuer:
			size += bounded.MaxText
		default:
			size += quotedSize(v.String())
		}
	}
	return size
}

// quotedSize returns how many bytes text has at most when a logger has quoted it.
func quotedSize(text string) int {
	size := 0
	for _, r := range text {
		switch {
		case r == '"' || r == '\\' || r == '\n' || r == '\t':
			size += 2
		case r >= ' ' && r < 0x7f:
			size++
		default:
			size += 6 // an escape sequence, if it is no character of 4 bytes
		}
	}
	return size
}

// writeLogRecords logs until there is nothing left. It makes room for as much as it takes, so
// that a log which is always too slow still shows some of all that happens.
func (l *deferredLog) writeLogRecords() {
	s := l.s
	for {
		s.lock()
		notes, unlogged := l.records, l.unlogged
		if len(notes) == 0 && (unlogged == 0 || !s.isOnlyLogLeftLocked()) {
			l.running = false
			s.unlock()
			return
		}
		l.records, l.unlogged = nil, 0
		if unlogged > 0 {
			l.budgets.others.logged += recordOverhead // for the record that says so
			if ofServer := s.load.logs; ofServer != nil && !l.takeServerLogBudgetLocked(&ofServer.others, recordOverhead, 0, unlogged) {
				unlogged = 0 // the server says it
			}
		}
		s.unlock()
		for _, n := range notes {
			s.log.LogAttrs(context.Background(), n.level, n.msg, n.attrs...)
		}
		if unlogged > 0 {
			s.log.LogAttrs(context.Background(), slog.LevelWarn, "too much to log", slog.Int("records left out", unlogged))
		}
	}
}

// limitAttr names a limit in a log record, and its value, whose key is the unit.
func limitAttr(name string, value slog.Attr) slog.Attr {
	return slog.Group("limit", slog.String("name", name), value)
}

// byteLimitAttr is limitAttr for a number of bytes.
func byteLimitAttr(name string, bytes int) slog.Attr {
	return limitAttr(name, slog.Int("bytes", bytes))
}

// timeLimitAttr is limitAttr for a duration.
func timeLimitAttr(name string, d time.Duration) slog.Attr {
	return limitAttr(name, slog.Duration("duration", d))
}

// methodAttr names a method, which the peer may have made up, in a log record.
func methodAttr(method string) slog.Attr { return slog.String("method", excerpt(method)) }

// errorAttr tells of an error of a handler, a codec or a connection in a log record.
func errorAttr(err error) slog.Attr { return slog.Any("error", bounded.Error(err)) }

// peerAttr names a peer in a log record: as text, since a handler that writes JSON
// would take the address apart.
func peerAttr(addr net.Addr) slog.Attr { return slog.String("peer", fmt.Sprint(addr)) }
