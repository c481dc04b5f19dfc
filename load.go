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

	unfinished unfinished

	live     func() []*Session // of the server; nil if there is no limit
	making   sync.Mutex        // room, in makeRoom
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

// reached reports whether the limit is.
func (l *load) reached() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit) }

// nearlyReached reports whether three quarters of the limit are.
func (l *load) nearlyReached() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/4*3 }

// full reports whether the limit is reached, and by one that holds weight bytes,
// more than its share. So a few that hold much do not lock the others out. What all
// hold together is bounded by exceeds.
func (l *load) full(weight int) bool {
	return l.reached() && int64(weight) >= int64(l.limit)/max(l.sessions.Load(), 1)
}

// exceeds reports whether one and a half times the limit would be passed with bytes
// more. That is for none, whatever its share is: sessions that came when there were few
// had large shares, and each may have a message that is larger than its share.
func (l *load) exceeds(bytes int) bool {
	return l.limit > 0 && (l.bytes.Load()+int64(bytes))/3*2 > int64(l.limit)
}

// makeRoom ends sessions for so many bytes, and reports whether there is room then: those
// whose replies take more than half of their share. The first to end are those whose
// writes began first; then come those who have their replies still put together, the
// largest before the others. They end until a quarter over the limit is left, so that
// the sessions need not be looked at again soon. Callers must hold no session's lock.
func (l *load) makeRoom(bytes int) bool {
	l.making.Lock()
	defer l.making.Unlock()
	if !l.exceeds(bytes) {
		return true // others have made it
	}
	type candidate struct {
		*Session
		weight int
		began  time.Time // notWriting if nothing is being written
	}
	notWriting := time.Now().Add(time.Hour) // later than any that has begun
	var held []candidate
	least := l.limit / int(2*max(l.sessions.Load(), 1))
	for _, s := range l.live() {
		s.lock()
		if replies := s.out.held() + s.out.waiting + s.assembled; s.state < stateClosing && replies > least {
			c := candidate{Session: s, weight: s.weight, began: notWriting}
			if s.out.writing {
				c.began = s.epoch.Add(s.out.began)
			}
			held = append(held, c)
		}
		s.unlock()
	}
	slices.SortFunc(held, func(a, b candidate) int {
		return cmp.Or(a.began.Compare(b.began), cmp.Compare(b.weight, a.weight))
	})
	for _, s := range held {
		if (l.bytes.Load()+int64(bytes))/5*4 <= int64(l.limit) {
			break
		}
		s.makeWay()
	}
	return !l.exceeds(bytes)
}

// makeWay ends the session, whose replies take memory that others need. What it holds
// is not counted any more: nothing but the end of a write keeps it.
func (s *Session) makeWay() {
	s.lock()
	defer s.unlock()
	if s.state >= stateClosing || s.gaveWay {
		return
	}
	s.note(slog.LevelWarn, "peer does not read its replies, and others need the memory",
		byteLimit("Server.MaxQueuedBytes", s.load.limit), slog.Int("bytes", s.weight))
	s.gaveWay = true
	s.load.add(-s.weight, s.pool)
	s.weight = 0
	s.pool.run(func() { s.end(&fullError{ErrSlowPeer}, 0) })
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
	held := s.in.bytes + s.in.begun + requestOverhead*s.in.count + s.out.held() + s.out.waiting + s.partWeightLocked() + s.assembled
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
	more := size - s.partial
	s.partial = size
	s.trackPartLocked(size)
	s.weigh()
	if more > 0 && (s.load.full(s.weight) || s.load.exceeds(0)) && !s.makeRoomLocked(more) {
		return &fullError{&FrameError{Message: fmt.Sprintf("no room for a message of more than %s bytes: %s", thousands(size/2), over(s.load.limit, "bytes on this server", "Server.MaxQueuedBytes"))}}
	}
	return nil
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
	s.owner.check()
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
// session that handles what s.in.handling says. If not, the session is blocked: unblock
// starts it again. Callers must hold s.mu.
func (l *load) mayHandle(s *Session, size int) bool {
	fits := func() bool {
		all := int(l.handling.Load())
		return all == 0 || all+size <= l.handlingLimit ||
			s.in.handling+size <= l.handlingLimit/int(max(l.sessions.Load(), 1))
	}
	switch {
	case size == 0:
		return true
	case s.in.blocked:
		return false
	case fits():
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if fits() { // the last handler may have returned just now
		return true
	}
	s.in.blocked = true
	l.blocked = append(l.blocked, s)
	return false
}

// startHandlingLocked counts a request whose handler is about to be called. Callers must
// hold s.mu.
func (s *Session) startHandlingLocked(c *call) {
	s.owner.check()
	if c.held == 0 {
		return
	}
	s.in.handling += int(c.held)
	s.load.handling.Add(int64(c.held))
}

// stopHandlingLocked ends what startHandlingLocked has begun, and has the sessions that
// are blocked look again. Callers must hold s.mu.
func (s *Session) stopHandlingLocked(c *call) {
	s.owner.check()
	if c.held == 0 {
		return
	}
	s.in.handling -= int(c.held)
	l := s.load
	l.handling.Add(-int64(c.held))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, blocked := range l.blocked {
		blocked.pool.run(blocked.unblockHandling)
	}
	l.blocked = nil
}

// unblockHandling has the session look again whether its next request may be handled.
func (s *Session) unblockHandling() {
	s.lock()
	defer s.unlock()
	s.in.blocked = false
	s.wakeWorkerLocked()
}

// wakeWorkerLocked calls another worker if one is wanted. Callers must hold s.mu.
func (s *Session) wakeWorkerLocked() {
	s.owner.check()
	if !s.cost.over && s.wantsWorkerLocked() {
		s.fx.set(&s.fx.startWorker)
	}
}

// wakeAfterWriteLocked calls a worker if the next request has waited for the outbox to
// be empty. Callers must hold s.mu.
func (s *Session) wakeAfterWriteLocked() {
	s.owner.check()
	if s.in.count > 0 && s.in.running == 0 && s.out.size() == 0 {
		s.wakeWorkerLocked()
	}
}
