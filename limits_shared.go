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

// load is what the sessions of a server hold together.
type load struct {
	limits   *Limits // of each, resolved; nil where each has its own
	limit    int     // of the bytes; 0 is none
	bytes    atomic.Int64
	sessions atomic.Int64
	warned   atomic.Bool // of a session that was ended for its cost
	logs     *serverLogs // nil where each has only its own budgets

	live     func() []*Session // of the server; nil if there is no limit
	making   sync.Mutex        // room: the claims that make it are not looked at twice
	awaiting atomic.Bool       // makeRoom was called, and has not begun

	handlingLimit int          // of the bytes that are being handled; 0 is none
	handling      atomic.Int64 // the bytes of requests whose handlers run
	mu            sync.Mutex
	blocked       []*Session // that wait until fewer are handled, in that order
}

// lone is for sessions that are no server's. It has no limit.
var lone load

// add counts bytes more, and has room made if they are too many.
func (l *load) add(bytes int, p *pool) {
	if bytes == 0 {
		return
	}
	l.bytes.Add(int64(bytes))
	if bytes > 0 && l.exceeds(0) && l.awaiting.CompareAndSwap(false, true) {
		p.run(func() {
			l.awaiting.Store(false)
			l.makeRoom(0)
		})
	}
}

// reaches reports whether the limit is reached with bytes more.
func (l *load) reaches(bytes int) bool {
	return l.limit > 0 && l.bytes.Load()+int64(bytes) >= int64(l.limit)
}

// nearlyReached reports whether three quarters of the limit are.
func (l *load) nearlyReached() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/4*3 }

// full reports whether the limit is reached, and by one that holds weight bytes,
// more than its share. So a few that hold much do not lock the others out. What all
// hold together is bounded by exceeds.
func (l *load) full(weight int) bool { return l.fullWith(0, weight) }

// fullWith is full for one that holds weight bytes, and is to hold bytes more.
func (l *load) fullWith(bytes, weight int) bool {
	return l.reaches(bytes) && int64(weight+bytes) >= int64(l.limit)/max(l.sessions.Load(), 1)
}

// exceeds reports whether one and a half times the limit would be passed with bytes
// more. That is for none, whatever its share is: sessions that came when there were few
// had large shares, and each may have a message that is larger than its share.
func (l *load) exceeds(bytes int) bool {
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

// claims returns the claims of more than half of a session's share that began no later
// than by, without that of except: the oldest first. Then come those of replies that are
// still put together, the largest first. Callers must hold l.making, and no session's lock.
func (l *load) claims(by time.Time, except *Session) []claim {
	least := l.limit / int(2*max(l.sessions.Load(), 1))
	var claims []claim
	for _, s := range l.live() {
		if s == except {
			continue
		}
		s.lock()
		c := s.claimLocked()
		ending := s.state >= stateClosing || s.gaveWay
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
func (s *Session) claimLocked() claim {
	s.owner.Check()
	c := claim{Session: s, began: notBegun, all: s.weight, size: s.out.held() + s.out.waiting + s.assembled + s.part.size}
	if s.out.writing {
		c.began = s.epoch.Add(s.out.began)
	}
	if s.part.size > 0 {
		if began := s.epoch.Add(s.part.began); began.Before(c.began) {
			c.began, c.part = began, true
		}
	}
	return c
}

// makeRoom ends sessions by their claims for so many bytes, and reports whether there is
// room then. The sessions end until a quarter over the limit is left, so that they need
// not be looked at again soon. Callers must hold no session's lock.
func (l *load) makeRoom(bytes int) bool {
	l.making.Lock()
	defer l.making.Unlock()
	if !l.exceeds(bytes) {
		return true // others have made it
	}
	for _, c := range l.claims(notBegun, nil) {
		if (l.bytes.Load()+int64(bytes))/5*4 <= int64(l.limit) {
			break
		}
		c.makeWay(c.part)
	}
	return !l.exceeds(bytes)
}

// makeRoomForMessage ends sessions whose claims are older than the message of s that
// began at began, to make room for so many bytes of it. If these do not hold as much, it
// reports false and ends none. The sessions end until a thirty-second of the limit is free, so that
// they need not be looked at for each message. Callers must hold no session's lock.
func (l *load) makeRoomForMessage(s *Session, began time.Time, bytes int) bool {
	l.making.Lock()
	defer l.making.Unlock()
	if !l.reaches(bytes) {
		return true // others have made it
	}
	older, sum := l.claims(began, s), 0
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
		c.makeWay(c.part)
	}
	return true
}

// makeWay ends the session, which holds memory that others need: for a message that has
// come in part if part is set, otherwise for its replies. What it holds is not counted any
// more: the end of a write or a read frees it.
func (s *Session) makeWay(part bool) {
	s.lock()
	defer s.unlock()
	if s.state >= stateClosing || s.gaveWay {
		return
	}
	msg, err, grace := "peer does not read its replies, and others need the memory", ErrSlowPeer, time.Duration(0)
	if part {
		msg, grace = "a message that has come in part makes room for a later one", s.violationGrace()
		err = &FrameError{Message: "no room for a message that has come in part: " + over(s.load.limit, "bytes on this server", "Server.MaxQueuedBytes")}
	}
	s.note(slog.LevelWarn, msg, byteLimit("Server.MaxQueuedBytes", s.load.limit), slog.Int("bytes", s.weight))
	s.gaveWay = true
	s.load.add(-s.weight, s.pool)
	s.weight = 0
	s.pool.run(func() { s.end(&fullError{err}, grace) })
}

// weightStep is by how much what a session holds has to change before it is
// counted anew: an atomic addition for each message would be felt.
const weightStep = 4 << 10

// requestOverhead is about what a request that waits takes up beside its bytes.
const requestOverhead = 448

// weigh counts what the session holds: requests that wait, batches that are not over, messages to be written or
// that wait for room in the outbox, the replies of batches that are not complete, and what has come of a message that
// is not complete. Callers must hold s.mu; unlock calls it. The end of the
// session takes all off: a batch whose last member is refused later changes nothing.
func (s *Session) weigh() {
	if s.load.limit == 0 || s.state == stateDone || s.gaveWay {
		return
	}
	held := s.in.bytes + s.in.begun + requestOverhead*s.in.count + s.out.held() + s.out.waiting + s.partial + s.assembled
	if d := held - s.weight; d >= weightStep || d <= -weightStep {
		s.weight += d
		s.load.add(d, s.pool)
	}
}

// partStep is how much of a message may come before it is charged for: one that is
// dropped need never end.
const partStep = 1 << 20

// receivePart is called by the reader before it reads more of a message of which a
// part has come, for which it takes size bytes; with less when it has given them back.
func (s *Session) receivePart(size int) error {
	endless := s.conn.received()-s.stats.BytesReceived >= partStep
	s.lock()
	defer s.unlock()
	s.ignoreIfEndingLocked()
	if s.reader.ignoring && !s.reader.ignores(s.conn.received()) {
		return errIgnored
	}
	s.markAlive()
	if s.stats.MessagesReceived == 0 {
		s.keepStandingLocked()
	}
	if endless {
		s.meter()
		s.overdrawn()
	}
	s.trackPartLocked(size)
	more, began := size-s.partial, s.epoch.Add(s.part.began)
	large, kept := s.part.size > largeBuffer, s.part.size == 0
	needs := more > 0 && ((large || kept) && s.load.fullWith(more, s.weight) || s.load.exceeds(more))
	if needs {
		s.unlock()
		room := !kept && s.load.makeRoomForMessage(s, began, more)
		s.lock()
		if !room {
			return s.noRoomError(size)
		}
	}
	s.partial = size
	s.weigh()
	return nil
}

// noRoomError is the error for a message for which a buffer of size bytes is too large.
func (s *Session) noRoomError(size int) error {
	return &fullError{&FrameError{Message: fmt.Sprintf("no room for a message of more than %s bytes: %s", thousands(size/2), over(s.load.limit, "bytes on this server", "Server.MaxQueuedBytes"))}}
}

// makeRoomForRequests is called by the reader before requests are admitted, the last of
// which has come in part. If a full server had to refuse them, older claims make way.
func (s *Session) makeRoomForRequests(entries []entry) {
	if s.part.size == 0 || len(entries) == 0 || !s.load.reaches(0) {
		return
	}
	bytes := 0
	for _, e := range entries {
		bytes += e.bytes()
	}
	s.lock()
	refused := !s.mayPauseLocked() && (s.load.full(s.weight) || s.load.exceeds(bytes))
	s.unlock()
	if refused {
		s.load.makeRoomForMessage(s, s.epoch.Add(s.part.began), bytes)
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
// replies, and when its outbox is empty. And where the server handles as many bytes as it
// may, such a session waits until others have finished. Callers must hold s.mu.
func (s *Session) mayStartLocked() bool {
	s.owner.Check()
	switch {
	case s.state >= stateClosing || s.in.first == nil:
		return true
	case len(s.out.line.turns) > 0:
		return false
	case s.load.nearlyReached() && (s.in.running > s.pressure.tied || s.out.size() > 0):
		return false
	}
	return s.load.mayHandle(s, s.in.first.owner.(entry).nextSize())
}

// mayHandle reports whether a request that counts size bytes may be handled now, by a
// session that handles what s.in.handling says. If not, the session is blocked until
// unblockSessions finds room for the request, which is reserved for the session. Callers
// must hold s.mu.
//
// While all handlers of the session wait for replies of its peer, which may ask before it
// replies, only what other sessions handle counts.
func (l *load) mayHandle(s *Session, size int) bool {
	tied, own := s.in.running > 0 && s.in.running <= s.pressure.tied, 0
	if tied {
		own = s.in.handling
	}
	fits := func() bool {
		all := int(l.handling.Load()) - s.in.reserved
		return all == 0 || all-own+size <= l.handlingLimit || s.fitsShare(size)
	}
	switch {
	case size == 0:
		return true
	case s.in.blocked && !tied:
		return false
	case fits():
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.in.tiedHandling = own
	if fits() { // the last handler may have returned just now
		return true
	}
	if !s.in.blocked {
		s.in.blocked, s.in.needs = true, size
		l.blocked = append(l.blocked, s)
	}
	return false
}

// fitsShare reports whether a request that counts size bytes is within the session's
// share of what is handled. Callers must hold s.mu.
func (s *Session) fitsShare(size int) bool {
	return s.in.handling+size <= s.load.handlingLimit/int(max(s.load.sessions.Load(), 1))
}

// startHandlingLocked counts a request whose handler is about to be called. Callers must
// hold s.mu.
func (s *Session) startHandlingLocked(c *call) {
	s.owner.Check()
	if c.held == 0 {
		return
	}
	s.in.handling += int(c.held)
	s.load.handling.Add(int64(c.held))
}

// stopHandlingLocked ends what startHandlingLocked has begun, and has as many of the
// sessions that are blocked go on as there is room for. Callers must hold s.mu.
func (s *Session) stopHandlingLocked(c *call) {
	s.owner.Check()
	if c.held == 0 {
		return
	}
	s.in.handling -= int(c.held)
	s.load.handling.Add(-int64(c.held))
	s.load.unblockSessions(s)
}

// unblockSessions has blocked sessions go on, the first before the others, as far as
// there is room for the requests that they wait with; and own if its request is within its
// share by now. The room is reserved until a worker of the session has looked. Callers
// must hold the lock of own, which may be nil.
func (l *load) unblockSessions(own *Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.blocked) == 0 {
		return
	}
	l.blocked = slices.DeleteFunc(l.blocked, func(s *Session) bool {
		all := int(l.handling.Load())
		if room := l.handlingLimit - all + s.in.tiedHandling; room < minHandling && all > 0 && s != own {
			return false
		} else if size := s.in.needs; all == 0 || size <= room || s == own && s.fitsShare(size) {
			l.handling.Add(int64(size))
			s.pool.run(s.unblockHandling)
			return true
		}
		return false
	})
}

// unblockHandling has the session look again whether its next request may be handled.
func (s *Session) unblockHandling() {
	s.lock()
	defer s.unlock()
	s.in.blocked, s.in.reserved = false, s.in.needs
	if s.cost.over || !s.wantsWorkerLocked() {
		s.freeReservedLocked()
	} else {
		s.fx.set(&s.fx.startWorker)
	}
	s.checkPauseLocked()
}

// freeReservedLocked gives the room back that is reserved for the session, and has it
// used by others if the session has not. Callers must hold s.mu.
func (s *Session) freeReservedLocked() {
	s.owner.Check()
	if s.in.reserved > 0 {
		s.load.handling.Add(-int64(s.in.reserved))
		s.in.reserved = 0
		s.load.unblockSessions(s)
	}
}

// stopWaitingLocked has the session wait for no other's handlers any more. Callers must
// hold s.mu.
func (s *Session) stopWaitingLocked() {
	s.owner.Check()
	if l := s.load; s.in.blocked {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.blocked = slices.DeleteFunc(l.blocked, func(blocked *Session) bool { return blocked == s })
	}
}

// wakeWorkerLocked calls another worker if one is wanted. Callers must hold s.mu.
func (s *Session) wakeWorkerLocked() {
	s.owner.Check()
	if !s.cost.over && s.wantsWorkerLocked() {
		s.fx.set(&s.fx.startWorker)
	}
}

// wakeAfterWriteLocked calls a worker if the next request has waited for the outbox to
// be empty, as in mayStartLocked. Callers must hold s.mu.
func (s *Session) wakeAfterWriteLocked() {
	s.owner.Check()
	if s.in.count > 0 && s.in.running <= s.pressure.tied && s.out.size() == 0 {
		s.wakeWorkerLocked()
	}
}

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
