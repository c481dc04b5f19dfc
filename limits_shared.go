package rpcx

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// serverLoad is what the sessions of a server hold together.
type serverLoad struct {
	limits   *Limits // of each, resolved; nil where each has its own
	limit    int     // of the bytes; 0 is none
	bytes    atomic.Int64
	sessions atomic.Int64
	warned   atomic.Bool       // of a session that was ended for its cost
	logs     *serverLogBudgets // nil where each has only its own budgets

	live          func() []*Session // of the server; nil if there is no limit
	roomMu        sync.Mutex        // room: the claims that make it are not looked at twice
	roomRequested atomic.Bool       // makeRoom was called, and has not begun

	handlingLimit int          // of the bytes that are being handled; 0 is none
	handling      atomic.Int64 // the bytes of requests whose handlers run
	mu            sync.Mutex
	blocked       []*Session // that wait until fewer are handled, in that order
}

// noServer is for sessions that are no server's. It has no limit.
var noServer serverLoad

// addBytes counts bytes more, and has room made if they are too many.
func (l *serverLoad) addBytes(bytes int, p *pool) {
	if bytes == 0 {
		return
	}
	l.bytes.Add(int64(bytes))
	if bytes > 0 && l.exceedsCeiling(0) && l.roomRequested.CompareAndSwap(false, true) {
		p.runTask(func() {
			l.roomRequested.Store(false)
			l.makeRoom(0)
		})
	}
}

// reachesLimit reports whether the limit is reached with bytes more.
func (l *serverLoad) reachesLimit(bytes int) bool {
	return l.limit > 0 && l.bytes.Load()+int64(bytes) >= int64(l.limit)
}

// isThreeQuartersFull reports whether three quarters of the limit are.
func (l *serverLoad) isThreeQuartersFull() bool {
	return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/4*3
}

// smallShare returns a quarter of a session's share of the limit. Outboxes that hold no
// more fill at most the quarter that isThreeQuartersFull leaves.
func (l *serverLoad) smallShare() int { return l.limit / 4 / int(max(l.sessions.Load(), 1)) }

// isOverShare reports whether the limit is reached, and by one that holds weight bytes,
// more than its share. So a few that hold much do not lock the others out. What all
// hold together is bounded by exceeds.
func (l *serverLoad) isOverShare(weight int) bool { return l.isOverShareWith(0, weight) }

// isOverShareWith is full for one that holds weight bytes, and is to hold bytes more.
func (l *serverLoad) isOverShareWith(bytes, weight int) bool {
	return l.reachesLimit(bytes) && int64(weight+bytes) >= int64(l.limit)/max(l.sessions.Load(), 1)
}

// exceedsCeiling reports whether one and a half times the limit would be passed with bytes
// more. That is for none, whatever its share is: sessions that came when there were few
// had large shares, and each may have a message that is larger than its share.
func (l *serverLoad) exceedsCeiling(bytes int) bool {
	return l.limit > 0 && (l.bytes.Load()+int64(bytes))/3*2 > int64(l.limit)
}

// claim is what a session holds that others may need: replies that its peer has not read,
// and a message that has come in part.
type claim struct {
	*Session
	began time.Time // the older of the two: the write, or the message; notBegun if neither
	part  bool      // it is the message
	size  int
	all   int // that the session holds
}

// claimsBegunBy returns the claims of more than half of a session's share that began no later
// than by, without that of except: the oldest first. Then come those of replies that are
// still put together, the largest first. Callers must hold l.making, and no session's lock.
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

// notBegun is later than any claim that has begun.
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

// makeRoom ends sessions by their claims for so many bytes, and reports whether there is
// room then. The sessions end until a quarter over the limit is left, so that they need
// not be looked at again soon. Callers must hold no session's lock.
func (l *serverLoad) makeRoom(bytes int) bool {
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	if !l.exceedsCeiling(bytes) {
		return true // others have made it
	}
	for _, c := range l.claimsBegunBy(notBegun, nil) {
		if (l.bytes.Load()+int64(bytes))/5*4 <= int64(l.limit) {
			break
		}
		c.memory.closeForMemory(c.part)
	}
	return !l.exceedsCeiling(bytes)
}

// makeRoomForMessage ends sessions whose claims are older than the message of s that
// began at began, to make room for so many bytes of it. If these do not hold as much, it
// reports false and ends none. The sessions end until a thirty-second of the limit is free, so that
// they need not be looked at for each message. Callers must hold no session's lock.
func (l *serverLoad) makeRoomForMessage(s *Session, began time.Time, bytes int) bool {
	l.roomMu.Lock()
	defer l.roomMu.Unlock()
	if !l.reachesLimit(bytes) {
		return true // others have made it
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

// closeForMemory ends the session, which holds memory that others need: for a message that has
// come in part if part is set, otherwise for its replies. What it holds is not counted any
// more: the end of a write or a read frees it.
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
	s.pool.runTask(func() { s.closeWith(&fullError{err}, grace) })
}

// weightStep is by how much what a session holds has to change before it is
// counted anew: an atomic addition for each message would be felt.
const weightStep = 4 << 10

// requestOverhead is about what a request that waits takes up beside its bytes.
const requestOverhead = 448

// reportMemoryLocked counts what the session holds: requests that wait, batches that are not over, messages to be written or
// that wait for room in the outbox, the replies of batches that are not complete, and what has come of a message that
// is not complete. Callers must hold s.mu; unlock calls it. The end of the
// session takes all off: a batch whose last member is refused later changes nothing.
func (m *memoryUse) reportMemoryLocked() {
	s := m.s
	s.mu.AssertHeld()
	if s.load.limit == 0 || s.life.state == stateDone || m.closed {
		return
	}
	held := s.requests.bytes + s.requests.begunBatchBytes + requestOverhead*s.requests.count + s.writer.countedBytes() + s.writer.waitingBytes + m.partialBytes + m.batchReplies
	if d := held - m.reported; d >= weightStep || d <= -weightStep {
		m.reported += d
		s.load.addBytes(d, s.pool)
	}
}

// partStep is how much of a message may come before it is charged for: one that is
// dropped need never end.
const partStep = 1 << 20

// receivePart is called by the reader before it reads more of a message of which a
// part has come, for which it takes size bytes; with less when it has given them back.
func (r *reader) receivePart(size int) error {
	s := r.s
	endless := s.conn.receivedBytes()-s.stats.BytesReceived >= partStep
	s.lock()
	defer s.unlock()
	r.ignoreInputIfClosingLocked()
	if r.ignoresInput && !r.mayIgnoreMore(s.conn.receivedBytes()) {
		return errInputIgnored
	}
	s.activity.markActiveLocked()
	if s.stats.MessagesReceived == 0 {
		r.keepStalledInputLocked()
	}
	if endless {
		r.countReceivedLocked()
		s.cost.checkCostLimitLocked()
	}
	r.trackPartialLocked(size)
	more, began := size-s.memory.partialBytes, s.startTime.Add(s.memory.partial.began)
	large, kept := s.memory.partial.bufferSize > largeBuffer, s.memory.partial.bufferSize == 0
	needs := more > 0 && ((large || kept) && s.load.isOverShareWith(more, s.memory.reported) || s.load.exceedsCeiling(more))
	if needs {
		s.unlock()
		room := !kept && s.load.makeRoomForMessage(s, began, more)
		s.lock()
		if !room {
			return r.noRoomError(size)
		}
	}
	s.memory.partialBytes = size
	s.memory.reportMemoryLocked()
	return nil
}

// noRoomError is the error for a message for which a buffer of size bytes is too large.
func (r *reader) noRoomError(size int) error {
	return &fullError{&FrameError{Message: fmt.Sprintf("no room for a message of more than %s bytes: %s", thousands(size/2), overLimitText(r.s.load.limit, "bytes on this server", "Server.MaxQueuedBytes"))}}
}

// makeRoomForRequests is called by the reader before requests are admitted, the last of
// which has come in part. If a full server had to refuse them, older claims make way.
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

// fullError is why a session ends to make room on its server. It matches ErrServerFull
// and the error that says what the session held.
type fullError struct{ held error }

func (e *fullError) Error() string   { return e.held.Error() }
func (e *fullError) Unwrap() []error { return []error{e.held, ErrServerFull} }

// minHandling is the size from which a request counts while it is handled.
const minHandling = 1 << 10

// objectSize is what each object of JSON counts beside its bytes: decoded into any, it is
// a map with room for eight.
const objectSize = 16

// mayStartLocked reports whether the next request may be given to a handler. While
// somebody waits for room in the outbox, no other reply is made that would have to
// wait, too. Where the server holds nearly all that it may, each session has one handler
// at a time, beside those that wait for replies of the peer, which may ask before it
// replies, and none while its outbox holds more than smallShare. And where the server handles as many bytes as it
// may, such a session waits until others have finished. Callers must hold s.mu.
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

// mayHandle reports whether a request that counts size bytes may be handled now, by a
// session that handles what s.in.handling says. If not, the session is blocked until
// unblockSessions finds room for the request, which is reserved for the session. Callers
// must hold s.mu.
//
// While all handlers of the session wait for replies of its peer, which may ask before it
// replies, only what other sessions handle counts.
func (l *serverLoad) mayHandle(s *Session, size int) bool {
	tied, own := s.requests.running > 0 && s.requests.running <= s.requests.pressure.replyWaiters, 0
	if tied {
		own = s.requests.handling
	}
	fits := func() bool {
		all := int(l.handling.Load()) - s.requests.reserved
		return all == 0 || all-own+size <= l.handlingLimit || s.memory.fitsShareLocked(size)
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

// fitsShareLocked reports whether a request that counts size bytes is within the session's
// share of what is handled. Callers must hold s.mu.
func (m *memoryUse) fitsShareLocked(size int) bool {
	s := m.s
	s.mu.AssertHeld()
	return s.requests.handling+size <= s.load.handlingLimit/int(max(s.load.sessions.Load(), 1))
}

// addHandlingBytesLocked counts a request whose handler is about to be called. Callers must
// hold s.mu.
func (m *memoryUse) addHandlingBytesLocked(c *peerRequest) {
	s := m.s
	s.mu.AssertHeld()
	if c.handlingBytes == 0 {
		return
	}
	s.requests.handling += int(c.handlingBytes)
	s.load.handling.Add(int64(c.handlingBytes))
}

// releaseHandlingBytesLocked ends what addHandlingBytesLocked has begun, and has as many of the
// sessions that are blocked go on as there is room for. Callers must hold s.mu.
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

// unblockSessions has blocked sessions go on, the first before the others, as far as
// there is room for the requests that they wait with; and own if its request is within its
// share by now. The room is reserved until a worker of the session has looked. Callers
// must hold the lock of own, which may be nil.
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
			s.pool.runTask(s.memory.unblockHandling)
			return true
		}
		return false
	})
}

// unblockHandling has the session look again whether its next request may be handled.
func (m *memoryUse) unblockHandling() {
	s := m.s
	s.lock()
	defer s.unlock()
	s.requests.blocked, s.requests.reserved = false, s.requests.needs
	if s.cost.limitExceeded || !s.requests.reserveWorkerLocked() {
		m.releaseReservedBytesLocked()
	} else {
		s.effects.setFlag(&s.effects.workerWanted)
	}
	s.requests.checkPauseLocked()
}

// releaseReservedBytesLocked gives the room back that is reserved for the session, and has it
// used by others if the session has not. Callers must hold s.mu.
func (m *memoryUse) releaseReservedBytesLocked() {
	s := m.s
	s.mu.AssertHeld()
	if s.requests.reserved > 0 {
		s.load.handling.Add(-int64(s.requests.reserved))
		s.requests.reserved = 0
		s.load.unblockSessions(s)
	}
}

// removeFromBlockedLocked has the session wait for no other's handlers any more. Callers must
// hold s.mu.
func (m *memoryUse) removeFromBlockedLocked() {
	s := m.s
	s.mu.AssertHeld()
	if l := s.load; s.requests.blocked {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.blocked = slices.DeleteFunc(l.blocked, func(blocked *Session) bool { return blocked == s })
	}
}

// startWorkerIfNeededLocked calls another worker if one is wanted. Callers must hold s.mu.
func (rs *requestServer) startWorkerIfNeededLocked() {
	s := rs.s
	s.mu.AssertHeld()
	if !s.cost.limitExceeded && rs.reserveWorkerLocked() {
		s.effects.setFlag(&s.effects.workerWanted)
	}
}

// startWorkerAfterWriteLocked calls a worker if the next request has waited for the outbox to
// hold less, as in mayStartLocked. Callers must hold s.mu.
func (rs *requestServer) startWorkerAfterWriteLocked() {
	rs.s.mu.AssertHeld()
	if rs.count > 0 && rs.running <= rs.pressure.replyWaiters {
		rs.startWorkerIfNeededLocked()
	}
}

// memoryUse is the memory that a session holds, as far as it counts for its server.
type memoryUse struct {
	s            *Session
	reported     int          // bytes that serverLoad counts of the session
	closed       bool         // the session makes room for others, and does not count any more
	batchReplies int          // bytes of replies that wait for others of their batches
	partialBytes int          // bytes that the reader keeps for a message that is not complete
	partial      partialInput // that message, on a server that counts it; only the reader changes it
}

// partialInput is a message that has come in part, of more than readBuffer: the zero value is
// none. It is guarded by the session's lock, and only the reader changes it.
type partialInput struct {
	bufferSize     int           // that is taken for it
	began          time.Duration // when that became more than readBuffer
	lastProgress   time.Duration // when partialRate bytes had come since it was this before; if it is large
	messagesBefore uint64        // that had been received when it began
	progressBytes  uint64        // the bytes at progress
}

// partialRate is how many bytes of a large message (more than largeBuffer) have to come
// within Limits.SendTimeout when a server is near MaxQueuedBytes: as many as a write has
// to send.
const partialRate = writeChunk

// trackPartialLocked follows the message for which the reader takes size bytes, 0 if there
// is none. Only the reader calls it. Callers must hold s.mu.
func (r *reader) trackPartialLocked(size int) {
	s := r.s
	s.mu.AssertHeld()
	p := &s.memory.partial
	if size -= s.connBytes; size <= readBuffer || s.load.limit == 0 {
		r.forgetPartialLocked()
		return
	}
	if p.bufferSize == 0 || p.messagesBefore != s.stats.MessagesReceived {
		*p = partialInput{began: s.now(), messagesBefore: s.stats.MessagesReceived}
	}
	received, large := s.conn.receivedBytes(), p.bufferSize > largeBuffer
	p.bufferSize = size
	switch {
	case size <= largeBuffer:
	case !large:
		p.progressBytes, p.lastProgress = received, s.now()
		s.timer.setTimerLocked(after(p.lastProgress, s.limits.SendTimeout))
	case received-p.progressBytes >= partialRate:
		p.progressBytes, p.lastProgress = received, s.now()
	}
}

// forgetPartialLocked ends what trackPartialLocked has begun. Callers must hold s.mu.
func (r *reader) forgetPartialLocked() {
	s := r.s
	s.mu.AssertHeld()
	s.memory.partial = partialInput{}
}

// checkPartialLocked ends a session where a large message has come in part and does not go
// on. A message that is not read, because reading pauses, is not waited for. Callers must
// hold s.mu.
func (r *reader) checkPartialLocked(now time.Duration) {
	s := r.s
	s.mu.AssertHeld()
	p := &s.memory.partial
	if p.bufferSize <= largeBuffer || s.life.state >= stateClosing {
		return
	}
	timeout := s.limits.SendTimeout
	if by := after(p.lastProgress, timeout); by > now {
		s.timer.setTimerLocked(by)
		return
	}
	if !s.load.isHalfFull() {
		s.timer.setTimerLocked(after(now, timeout/4))
		return
	}
	s.logs.logLaterLocked(slog.LevelWarn, "a message does not go on, and memory is short",
		timeLimitAttr("Limits.SendTimeout", timeout), slog.Int("bytes", s.memory.partialBytes))
	s.effects.closeSession(&fullError{&FrameError{Message: fmt.Sprintf("less than %s bytes of a message in %v (Limits.SendTimeout), near %s bytes on this server (Server.MaxQueuedBytes)",
		thousands(partialRate), timeout, thousands(s.load.limit))}}, s.violationGrace())
}

// isHalfFull reports whether half of what may wait on the server does.
func (l *serverLoad) isHalfFull() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/2 }
