package rpcx

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// load is what the sessions of a server hold together.
type load struct {
	limits   *Limits // of each, resolved; nil where each has its own
	limit    int     // of the bytes; 0 is none
	bytes    atomic.Int64
	sessions atomic.Int64
	warned   atomic.Bool // of a session that was ended for its cost

	unfinished unfinished

	handlingLimit int          // of the bytes that are being handled; 0 is none
	handling      atomic.Int64 // the bytes of requests whose handlers run
	mu            sync.Mutex
	blocked       []*Session // that wait until fewer are handled, in that order
}

// lone is for sessions that are no server's. It has no limit.
var lone load

func (l *load) add(bytes int) {
	if bytes != 0 {
		l.bytes.Add(int64(bytes))
	}
}

// reached reports whether the limit is.
func (l *load) reached() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit) }

// nearlyReached reports whether three quarters of the limit are.
func (l *load) nearlyReached() bool { return l.limit > 0 && l.bytes.Load() >= int64(l.limit)/4*3 }

// full reports whether the limit is reached, and by one that holds weight bytes,
// more than its share. So a few that hold much do not lock the others out, and
// all together hold twice the limit at most, and one message each; more if they
// were fewer when they took it, though never more than the sum of what were the
// shares of the first, the second and so on: ten times the limit with 10,000.
func (l *load) full(weight int) bool {
	return l.reached() && int64(weight) >= int64(l.limit)/max(l.sessions.Load(), 1)
}

// over reports whether one and a half times the limit is reached, and by one that holds
// more than its share: handlers that had started before the limit was reached have
// replies that nobody reads.
func (l *load) over(weight int) bool {
	return l.full(weight) && l.bytes.Load()/3*2 >= int64(l.limit)
}

// weightStep is by how much what a session holds has to change before it is
// counted anew: an atomic addition for each message would be felt.
const weightStep = 4 << 10

// requestOverhead is about what a request that waits takes up beside its bytes.
const requestOverhead = 448

// weigh counts what the session holds: requests that wait, batches that are not over, messages to be written or
// that wait for room in the outbox, the replies of batches that are not complete, and what has come of a message that
// is not complete. It is called under the lock, when that has changed. The end of the
// session takes all off: a batch whose last member is refused later changes nothing.
func (s *Session) weigh() {
	if s.load.limit == 0 || s.state == stateDone {
		return
	}
	held := s.in.bytes + s.in.begun + requestOverhead*s.in.count + s.out.size() + s.out.waiting + s.partWeightLocked() + s.assembled
	if d := held - s.weight; d >= weightStep || d <= -weightStep {
		s.weight += d
		s.load.add(d)
	}
}

// partStep is how much of a message may come before it is charged for: one that is
// dropped need never end.
const partStep = 1 << 20

// receivePart is called by the reader before it reads more of a message of which a
// part has come, for which it takes size bytes; with less when it has given them back.
func (s *Session) receivePart(size int) error {
	endless := s.conn.received()-s.stats.BytesReceived >= partStep
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ignoreIfEndingLocked()
	if s.reader.ignoring && !s.reader.ignores(s.conn.received()) {
		return errIgnored
	}
	s.markAlive()
	if endless {
		s.meter()
		if s.overdrawn() {
			s.pool.run(s.dismiss)
		}
	}
	more := size - s.partial
	s.partial = size
	s.trackPartLocked(size)
	s.weigh()
	if more > 0 && s.load.full(s.weight) && !s.makeRoomLocked(more) {
		return &FrameError{Message: fmt.Sprintf("no room for a message of more than %d bytes: over %d bytes on this server (Server.MaxQueuedBytes)", size/2, s.load.limit)}
	}
	return nil
}

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
	if c.held == 0 {
		return
	}
	s.in.handling += int(c.held)
	s.load.handling.Add(int64(c.held))
}

// stopHandlingLocked ends what startHandlingLocked has begun, and has the sessions that
// are blocked look again. Callers must hold s.mu.
func (s *Session) stopHandlingLocked(c *call) {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.blocked = false
	s.wakeWorkerLocked()
	s.checkPauseLocked()
}

// wakeWorkerLocked calls another worker if one is wanted. Callers must hold s.mu.
func (s *Session) wakeWorkerLocked() {
	if !s.cost.over && s.wantsWorkerLocked() {
		s.pool.run(s.workFn)
	}
}

// wakeAfterWriteLocked calls a worker if the next request has waited for the outbox to
// be empty. Callers must hold s.mu.
func (s *Session) wakeAfterWriteLocked() {
	if s.in.count > 0 && s.in.running == 0 && s.out.size() == 0 {
		s.wakeWorkerLocked()
	}
}
