package rpcx

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"example.com/rpcx/internal/bounded"
)

// logRecord is a log record that waits for writeLogRecords.
type logRecord struct {
	level slog.Level
	msg   string
	attrs []slog.Attr
}

// maxLogRecords is the maximum number of waiting records. At most as many more are being
// written. Further records are only counted.
const maxLogRecords = 64

// logLaterLocked queues a log record. Another goroutine writes the record before the
// session is over. logLaterLocked is for events that happen once or twice in a session,
// and uses the server's budget of notices. Callers must hold s.mu.
func (l *deferredLog) logLaterLocked(level slog.Level, msg string, attrs ...slog.Attr) {
	s := l.s
	s.mu.AssertHeld()
	if s.log.Handler() != slog.DiscardHandler {
		s.noteOfSizeLocked(recordSize(msg, attrs), level, msg, attrs)
	}
}

// noteOfSizeLocked is logLaterLocked for a record with the given recordSize. If an
// attribute may contain a user's error, callers compute the size before locking s.mu.
// Callers must hold s.mu.
func (s *Session) noteOfSizeLocked(size int, level slog.Level, msg string, attrs []slog.Attr) {
	s.mu.AssertHeld()
	if s.life.state == stateDone {
		return
	}
	if l := s.load.logs; l == nil || s.logs.takeServerLogBudgetLocked(&l.notices, size, 0, 1) {
		s.logs.queueLogRecordLocked(level, msg, attrs)
	}
}

// queueLogRecordLocked queues a record for which the budgets have room. Callers must hold
// s.mu.
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
		s.pool.RunTask(l.writeLogRecords)
	}
}

// logBudget bounds the bytes of the records caused by the peer: logBurst, and one byte
// for each received byte. When the budget is exhausted, no record fits until there is
// room for logRun. So a flood is logged in runs of records.
type logBudget struct {
	logged    uint64 // approximate number of logged bytes
	earned    uint64 // received bytes already credited to the server's budget
	exhausted bool
}

const (
	logBurst = 16 << 10
	logRun   = 4 << 10
)

// takeBytes reports whether the budget has room for a record of the given size, and
// counts the record. received is the number of received bytes.
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

// deferredLog keeps log records for writing without s.mu.
type deferredLog struct {
	s        *Session
	records  []logRecord
	unlogged int        // number of records without room
	running  bool       // writeLogRecords runs, or is about to
	budgets  logBudgets // for records caused by the peer
}

// logBudgets holds the budgets of a session. Records of level Error have a separate
// budget, so that a peer cannot hide a handler's panic behind bad messages.
type logBudgets struct{ errors, others logBudget }

// serverLogBudgets holds the log budgets that the sessions of a server share. Without
// shared budgets, many short sessions could each use up a session's budget. Errors and
// notices have budgets of their own, so that bad messages cannot hide errors or notices.
// Each received byte earns a further byte for errors and others.
type serverLogBudgets struct{ errors, others, notices bounded.Budget }

// Size of each budget of the server, in bytes.
const (
	serverLogBurst     = 256 << 10
	serverLogPerSecond = 8 << 10
)

func newServerLogBudgets() *serverLogBudgets {
	l := new(serverLogBudgets)
	for _, b := range l.allBudgets() {
		b.Burst, b.PerSecond, b.Run = serverLogBurst, serverLogPerSecond, logRun
	}
	return l
}

func (l *serverLogBudgets) allBudgets() []*bounded.Budget {
	return []*bounded.Budget{&l.errors, &l.others, &l.notices}
}

// takeServerLogBudgetLocked reports whether the server's budget b has room for a record
// of the given size, which stands for the given number of records. earned is the number
// of received bytes to add to the budget first. If the budget has refused records before,
// a warning with their number is queued. Callers must hold s.mu.
func (l *deferredLog) takeServerLogBudgetLocked(b *bounded.Budget, size, earned, records int) bool {
	l.s.mu.AssertHeld()
	ok, skipped := b.Take(float64(size), float64(earned), records)
	if skipped > 0 {
		l.queueLogRecordLocked(slog.LevelWarn, "too much to log of this server's sessions",
			[]slog.Attr{slog.Int("records left out", skipped)})
	}
	return ok
}

// takeLogBudgetLocked reports whether the budgets of the session and its server have room
// for a record. Callers must hold s.mu.
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

// logPeerLaterLocked is logLaterLocked for events that a peer can cause at will. Records
// over the budget are only counted. Errors in attrs must be errors of this package,
// because the text of a user's error is user code (I5). Callers must hold s.mu.
func (l *deferredLog) logPeerLaterLocked(level slog.Level, msg string, attrs ...slog.Attr) {
	s := l.s
	s.mu.AssertHeld()
	if s.log.Handler() != slog.DiscardHandler {
		l.logSizedLaterLocked(recordSize(msg, attrs), level, msg, attrs)
	}
}

// notePeer is logPeerLaterLocked for attributes with any errors. Callers must not hold
// s.mu.
func (s *Session) notePeer(level slog.Level, msg string, attrs ...slog.Attr) {
	if s.log.Handler() == slog.DiscardHandler {
		return
	}
	size := recordSize(msg, attrs)
	s.lock()
	s.logs.logSizedLaterLocked(size, level, msg, attrs)
	s.unlock()
}

// logSizedLaterLocked queues a record of the given size, within the budget. Callers must
// hold s.mu.
func (l *deferredLog) logSizedLaterLocked(size int, level slog.Level, msg string, attrs []slog.Attr) {
	s := l.s
	s.mu.AssertHeld()
	if s.life.state != stateDone && l.takeLogBudgetLocked(level, size) {
		l.queueLogRecordLocked(level, msg, attrs)
	}
}

// logHandlerLater logs an event in the handling of c, within the budget. A nil err is
// left out. Callers must not hold s.mu, because the logger and err are user code.
func (l *deferredLog) logHandlerLater(level slog.Level, msg string, c *peerRequest, err error, more ...slog.Attr) {
	s := l.s
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	attrs := append([]slog.Attr{methodAttr(c.Method)}, more...)
	if err != nil {
		attrs = append(attrs, errorAttr(err))
	}
	s.notePeer(level, msg, attrs...)
}

// recordOverhead is the approximate number of bytes for time, level and peer in a record.
const recordOverhead = 192

// recordSize returns the approximate number of bytes of a record as text, never too few.
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

// quotedSize returns the maximum number of bytes of text when quoted by a logger.
func quotedSize(text string) int {
	size := 0
	for _, r := range text {
		switch {
		case r == '"' || r == '\\' || r == '\n' || r == '\t':
			size += 2
		case r >= ' ' && r < 0x7f:
			size++
		default:
			size += 6 // an escape sequence, or at most 4 bytes of UTF-8
		}
	}
	return size
}

// writeLogRecords writes queued records until none are left. Each round first empties the
// queue, so that even a log that is always too slow shows a part of all events.
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
			l.budgets.others.logged += recordOverhead // for the record about left-out records
			if ofServer := s.load.logs; ofServer != nil && !l.takeServerLogBudgetLocked(&ofServer.others, recordOverhead, 0, unlogged) {
				unlogged = 0 // the server's record has the number
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

// limitAttr returns a log attribute with the name and the value of a limit. The key of
// the value is the unit.
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

// methodAttr returns a log attribute with a method, possibly an invention of the peer.
func methodAttr(method string) slog.Attr { return slog.String("method", excerpt(method)) }

// errorAttr returns a log attribute with an error of a handler, a codec or a connection.
func errorAttr(err error) slog.Attr { return slog.Any("error", bounded.Error(err)) }

// peerAttr returns a log attribute with the address of a peer, as text: a JSON handler
// would split the address into fields.
func peerAttr(addr net.Addr) slog.Attr { return slog.String("peer", fmt.Sprint(addr)) }

// mostMethods is the maximum of methods that methodsOf names.
const mostMethods = 8

// methodsOf names the methods of requests, each with the number of requests, the most
// frequent first.
func methodsOf(calls iter.Seq[*peerRequest]) string {
	counts := make(map[string]int)
	for c := range calls {
		counts[c.Method]++
	}
	methods := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	var b strings.Builder
	for i, method := range methods {
		if i == mostMethods {
			fmt.Fprintf(&b, " and %d others", len(methods)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%d)", excerpt(method), counts[method])
	}
	return b.String()
}
