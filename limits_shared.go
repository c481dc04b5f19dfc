package rpcx

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// serverLoad counts the memory that the sessions of a server hold together.
type serverLoad struct {
	limits   *Limits // limits of each session, resolved; nil if each session has separate limits
	limit    int     // limit of bytes; 0 means no limit
	bytes    atomic.Int64
	sessions atomic.Int64
	warned   atomic.Bool       // a session's end for its cost was logged as a warning
	logs     *serverLogBudgets // nil if each session has only separate budgets

	live          func() []*Session // sessions of the server; nil without a limit
	roomMu        sync.Mutex        // serializes making room, so that each claim is examined once
	roomRequested atomic.Bool       // makeRoom is scheduled and has not begun

	lateExchanges atomic.Int64 // late handlers of exchanges

	handlingLimit int          // limit of handling; 0 means no limit
	handling      atomic.Int64 // bytes of requests whose handlers run, and reserved bytes
	mu            sync.Mutex   // guards blocked, and tiedHandling of the sessions; taken after Session.mu
	blocked       []*Session   // sessions that wait until fewer bytes are handled, in order of arrival
}

// noServer is the load of sessions without a server. noServer has no limit.
var noServer serverLoad

// addBytes adds bytes, which may be negative. If the sum is over the ceiling, addBytes
// schedules makeRoom.
func (l *serverLoad) addBytes(bytes int, p *pool) {
	if bytes == 0 {
		return
	}
	l.bytes.Add(int64(bytes))
	if bytes > 0 && l.exceedsCeiling(0) && l.roomRequested.CompareAndSwap(false, true) {
		p.RunTask(func() {
			l.roomRequested.Store(false)
			l.makeRoom(0)
		})
	}
}

// reachesLimit reports whether bytes more reach the limit.
func (l *serverLoad) reachesLimit(bytes int) bool {
	return l.limit > 0 && l.bytes.Load()+int64(bytes) >= int64(l.limit)
}

// isHalfFull reports whether half of the limit is reached.
func (l *serverLoad) isHalfFull() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/2 }

// isThreeQuartersFull reports whether three quarters of the limit are reached.
func (l *serverLoad) isThreeQuartersFull() bool {
	return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/4*3
}

// smallShare returns a quarter of a session's share of the limit. Outboxes of at most
// smallShare fill at most the last quarter of the limit, which isThreeQuartersFull leaves.
func (l *serverLoad) smallShare() int { return l.limit / 4 / int(max(l.sessions.Load(), 1)) }

// isOverShare reports whether the limit is reached, and a session with weight bytes holds
// at least its share. So a few large sessions do not lock out the small sessions.
// exceedsCeiling bounds the sum.
func (l *serverLoad) isOverShare(weight int) bool { return l.isOverShareWith(0, weight) }

// isOverShareWith is isOverShare for a session with weight bytes that needs bytes more.
func (l *serverLoad) isOverShareWith(bytes, weight int) bool {
	return l.reachesLimit(bytes) && int64(weight+bytes) >= int64(l.limit)/max(l.sessions.Load(), 1)
}

// exceedsCeiling reports whether bytes more exceed one and a half times the limit. No
// session may exceed the ceiling, whatever its share is. A session that came when sessions
// were few had a large share, and each session may have a message larger than its share.
func (l *serverLoad) exceedsCeiling(bytes int) bool {
	return l.limit > 0 && (l.bytes.Load()+int64(bytes))/3*2 > int64(l.limit)
}

// claim is memory of a session that other sessions may need: replies that the peer has not
// read, and an incomplete message.
type claim struct {
	*Session
	began time.Time // start of the write or of the message, whichever is older; notBegun without either
	part  bool      // began is the start of the message
	size  int
	all   int // bytes that the session holds
}

// claimsBegunBy returns the claims of more than half of a session's share that began no
// later than by. The claim of except is left out. The oldest claims come first. Claims of
// replies that are still being assembled come last, the largest first. Callers must hold
// l.roomMu, and no session's lock.
func (l *serverLoad) claimsBegunBy(by time.Time, except *Session) []claim {
	least := l.limit / int(2*max(l.sessions.Load(), 1))
	var claims []claim
	for _, s := range l.live() {
		if s == except {
			continue
		}
		s.lock()
		c := s.memory.claimLocked()
		ending := s.life.state >= stateClosing || s.memory.closed
		s.unlock()
		if !ending && c.size > least && !c.began.After(by) {
			claims = append(claims, c)
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.began.Compare(b.began), cmp.Compare(b.all, a.all))
	})
	return claims
}

// notBegun is later than the start of any claim.
var notBegun = time.Unix(1<<40, 0)

// claimLocked returns the session's claim. Callers must hold s.mu.
func (m *memoryUse) claimLocked() claim {
	s := m.s
	s.mu.AssertHeld()
	c := claim{Session: s, began: notBegun, all: m.reported, size: s.writer.countedBytes() + s.writer.waitingBytes + m.batchReplies + m.partial.bufferSize}
	if s.writer.writing {
		c.began = s.startTime.Add(s.writer.writeStart)
	}
	if m.partial.bufferSize > 0 {
		if began := s.startTime.Add(m.partial.began); began.Before(c.began) {
			c.began, c.part = began, true
		}
	}
	return c
}

// makeRoom makes room for bytes more by ending sessions in the order of claims, and
// reports whether there is room then. Sessions end until the sum is at most a quarter over
// the limit, so that the next check is not due soon. Callers must hold no session's lock.
func (l *serverLoad) makeRoom(bytes int) bool {
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	if !l.exceedsCeiling(bytes) {
		return true // another goroutine has made room
	}
	for _, c := range l.claimsBegunBy(notBegun, nil) {
		if (l.bytes.Load()+int64(bytes))/5*4 <= int64(l.limit) {
			break
		}
		c.memory.closeForMemory(c.part)
	}
	return !l.exceedsCeiling(bytes)
}

// makeRoomForMessage makes room for bytes of a message of s that began at began, by ending
// sessions with older claims. If the older claims hold less than bytes, makeRoomForMessage
// ends no session and reports false. Sessions end until a thirty-second of the limit is
// free, so that not every message needs a check. Callers must hold no session's lock.
func (l *serverLoad) makeRoomForMessage(s *Session, began time.Time, bytes int) bool {
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	if !l.reachesLimit(bytes) {
		return true // another goroutine has made room
	}
	older, sum := l.claimsBegunBy(began, s), 0
	for _, c := range older {
		sum += c.size
	}
	if sum < bytes {
		return false
	}
	freed := 0
	for _, c := range older {
		if freed >= bytes && l.bytes.Load()+int64(bytes) <= int64(l.limit)/32*31 {
			break
		}
		freed += c.size
		c.memory.closeForMemory(c.part)
	}
	return true
}

// closeForMemory ends the session, because other sessions need its memory: for an
// incomplete message if part is set, otherwise for the replies. The memory of the session
// counts no more: the end of a write or a read frees the memory.
func (m *memoryUse) closeForMemory(part bool) {
	s := m.s
	s.lock()
	defer s.unlock()
	if s.life.state >= stateClosing || m.closed {
		return
	}
	msg, err, grace := "peer does not read its replies, and others need the memory", ErrSlowPeer, time.Duration(0)
	if part {
		msg, grace = "a message that has come in part makes room for a later one", s.violationGrace()
		err = &FrameError{Message: "no room for a message that has come in part: " + overLimitText(s.load.limit, "bytes on this server", "Server.MaxQueuedBytes")}
	}
	s.logs.logLaterLocked(slog.LevelWarn, msg, byteLimitAttr("Server.MaxQueuedBytes", s.load.limit), slog.Int("bytes", m.reported))
	m.closed = true
	s.load.addBytes(-m.reported, s.pool)
	m.reported = 0
	s.pool.RunTask(func() { s.closeWith(&fullError{err}, grace) })
}

// weightStep is the change in held bytes after which a session reports again. An atomic
// addition for each message would be noticeable.
const weightStep = 4 << 10

// requestOverhead is the approximate memory of a queued request, besides the bytes of the
// request.
const requestOverhead = 448

// reportMemoryLocked reports the bytes that the session holds: queued requests, unfinished
// batches, messages in the outbox or waiting for room, replies of incomplete batches,
// values for subscribers of hubs, and an incomplete message. unlock calls reportMemoryLocked. The end of the session subtracts
// the sum: a batch whose last member is refused later changes nothing. Callers must hold
// s.mu.
func (m *memoryUse) reportMemoryLocked() {
	s := m.s
	s.mu.AssertHeld()
	if s.load.limit == 0 || s.life.state == stateDone || m.closed {
		return
	}
	held := s.keptNewsBytesLocked() + s.requests.bytes + s.requests.begunBatchBytes + requestOverhead*s.requests.count + s.writer.countedBytes() + s.writer.waitingBytes + m.partialBytes + m.batchReplies + s.hubs.ringBytesLocked()
	if d := held - m.reported; d >= weightStep || d <= -weightStep {
		m.reported += d
		s.load.addBytes(d, s.pool)
	}
}

// makeRoomForRequests makes room for entries, the last of which came in parts. If a full
// server would refuse the entries, sessions with older claims end. The reader calls
// makeRoomForRequests before the admission.
func (m *memoryUse) makeRoomForRequests(entries []queueEntry) {
	s := m.s
	if m.partial.bufferSize == 0 || len(entries) == 0 || !s.load.reachesLimit(0) {
		return
	}
	bytes := 0
	for _, e := range entries {
		bytes += e.queuedBytes()
	}
	s.lock()
	refused := !s.requests.mayPauseLocked() && (s.load.isOverShare(m.reported) || s.load.exceedsCeiling(bytes))
	s.unlock()
	if refused {
		s.load.makeRoomForMessage(s, s.startTime.Add(m.partial.began), bytes)
	}
}

// fullError is the cause of an end that makes room on the server. A fullError matches
// ErrServerFull and held, which describes the memory of the session.
type fullError struct{ held error }

func (e *fullError) Error() string   { return e.held.Error() }
func (e *fullError) Unwrap() []error { return []error{e.held, ErrServerFull} }

// minHandling is the size from which a request counts while the handler runs.
const minHandling = 1 << 10

// objectSize is the number of bytes that each JSON object counts in addition. Decoded into
// any, an object is a map with room for eight members.
const objectSize = 16

// mayStartLocked reports whether the next request may be given to a handler. While a
// sender waits for room in the outbox, no handler starts: the reply would have to wait,
// too.
//
// If three quarters of the server's limit are reached, a session runs a single handler at
// a time. Then no handler starts while the outbox holds more than smallShare. Handlers
// that wait for replies of the peer do not count, because the peer may ask before it
// replies. If the server handles as many bytes as the limit allows, the session waits
// until handlers have finished; see mayHandle. Callers must hold s.mu.
func (m *memoryUse) mayStartLocked() bool {
	s := m.s
	s.mu.AssertHeld()
	switch {
	case s.life.state >= stateClosing || s.requests.first == nil:
		return true
	case len(s.writer.roomLine.waiters) > 0:
		return false
	case s.load.isThreeQuartersFull() && (s.requests.running > s.requests.pressure.replyWaiters || s.writer.countedBytes() > s.load.smallShare()):
		return false
	}
	return s.load.mayHandle(s, s.requests.first.owner.(queueEntry).nextHandlingBytes())
}

// mayHandle reports whether a request of s that counts size bytes may be handled now, and
// reserves the bytes, so that sessions that ask at the same time do not exceed the limit.
// If not, the session is blocked until unblockSessions reserves room for the request. The
// worker that the request is for releases the room. Callers must hold s.mu.
//
// If all handlers of the session wait for replies of the peer, only the bytes of foreign
// sessions count. The peer may ask before it replies.
func (l *serverLoad) mayHandle(s *Session, size int) bool {
	tied, own := s.requests.running > 0 && s.requests.running <= s.requests.pressure.replyWaiters, 0
	if tied {
		own = s.requests.handling
	}
	fits := func() bool {
		for {
			sum, reserved := l.handling.Load(), s.requests.reserved
			all := int(sum) - reserved
			if all != 0 && all-own+size > l.handlingLimit && !s.memory.fitsShareLocked(size) {
				return false
			}
			missing := max(0, size-reserved)
			if l.handling.CompareAndSwap(sum, sum+int64(missing)) {
				s.requests.reserved += missing
				return true
			}
		}
	}
	switch {
	case size == 0:
		return true
	case s.requests.blocked && !tied:
		return false
	case fits():
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.requests.tiedHandling = own
	if fits() { // the last handler may have returned just now
		return true
	}
	if !s.requests.blocked {
		s.requests.blocked, s.requests.needs = true, size
		l.blocked = append(l.blocked, s)
	}
	return false
}

// fitsShareLocked reports whether a request that counts size bytes fits into the session's
// share of the handling limit. Callers must hold s.mu.
func (m *memoryUse) fitsShareLocked(size int) bool {
	s := m.s
	s.mu.AssertHeld()
	return s.requests.handling+size <= s.load.handlingLimit/int(max(s.load.sessions.Load(), 1))
}

// addHandlingBytesLocked counts a request whose handler is about to be called. Callers
// must hold s.mu.
func (m *memoryUse) addHandlingBytesLocked(c *peerRequest) {
	s := m.s
	s.mu.AssertHeld()
	if c.handlingBytes == 0 {
		return
	}
	size := int(c.handlingBytes)
	s.requests.handling += size
	reserved := min(size, s.requests.reserved)
	s.requests.reserved -= reserved
	s.load.handling.Add(int64(size - reserved))
}

// releaseHandlingBytesLocked reverts addHandlingBytesLocked, and unblocks as many sessions
// as there is room for. Callers must hold s.mu.
func (m *memoryUse) releaseHandlingBytesLocked(c *peerRequest) {
	s := m.s
	s.mu.AssertHeld()
	if c.handlingBytes == 0 {
		return
	}
	s.requests.handling -= int(c.handlingBytes)
	s.load.handling.Add(-int64(c.handlingBytes))
	s.load.unblockSessions(s)
}

// unblockSessions unblocks sessions in order of arrival, as far as there is room for the
// requests that block the sessions. If the request of own is within its share by now, own
// is unblocked as well. The room stays reserved until a worker of the session has checked
// the request. Callers must hold the lock of own.
func (l *serverLoad) unblockSessions(own *Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.blocked) == 0 {
		return
	}
	l.blocked = slices.DeleteFunc(l.blocked, func(s *Session) bool {
		all := int(l.handling.Load())
		if room := l.handlingLimit - all + s.requests.tiedHandling; room < minHandling && all > 0 && s != own {
			return false
		} else if size := s.requests.needs; all == 0 || size <= room || s == own && s.memory.fitsShareLocked(size) {
			l.handling.Add(int64(size))
			s.pool.RunTask(s.memory.unblockHandling)
			return true
		}
		return false
	})
}

// unblockHandling makes the session check again whether the next request may be handled.
func (m *memoryUse) unblockHandling() {
	s := m.s
	s.lock()
	defer s.unlock()
	s.requests.blocked = false
	s.requests.reserved += s.requests.needs
	if s.cost.limitExceeded || !s.requests.reserveWorkerLocked() {
		m.releaseReservedBytesLocked()
	} else {
		s.effects.setFlag(&s.effects.workerWanted)
	}
	s.requests.checkPauseLocked()
}

// releaseReservedBytesLocked releases the room reserved for the session, so that blocked
// sessions can use unneeded room. Callers must hold s.mu.
func (m *memoryUse) releaseReservedBytesLocked() {
	s := m.s
	s.mu.AssertHeld()
	if s.requests.reserved > 0 {
		s.load.handling.Add(-int64(s.requests.reserved))
		s.requests.reserved = 0
		s.load.unblockSessions(s)
	}
}

// removeFromBlockedLocked removes the session from the blocked sessions. Callers must hold
// s.mu.
func (m *memoryUse) removeFromBlockedLocked() {
	s := m.s
	s.mu.AssertHeld()
	if l := s.load; s.requests.blocked {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.blocked = slices.DeleteFunc(l.blocked, func(blocked *Session) bool { return blocked == s })
	}
}

// memoryUse tracks the memory of a session that counts for the server.
type memoryUse struct {
	s            *Session
	reported     int          // bytes that serverLoad counts for the session
	closed       bool         // the session makes room and does not count any more
	batchReplies int          // bytes of replies in incomplete batches
	partialBytes int          // bytes of the reader's buffer for an incomplete message
	partial      partialInput // the incomplete message, on a server with a limit; only the reader changes partial
}
