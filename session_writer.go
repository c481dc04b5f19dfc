package rpcx

import (
	"context"
	"errors"
	"io"
	"math/bits"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// frames are framed messages in a row.
type frames struct {
	buf  []byte
	ends []int // where each ends in buf
}

// largeFrames is the capacity from which a buffer of frames is a large one. Large
// buffers have powers of two as their capacities, and a pool for each: what few frames
// of a peer that does not read hold is no more than twice their size.
const largeFrames = 16 << 10

// The buffers of outboxes: one that is empty holds none.
var (
	smallFramesPool  = sync.Pool{New: func() any { return new(frames) }}
	largeFramesPools [bits.UintSize]sync.Pool // by the logarithm of their capacities
)

// getFrames returns empty frames, for need bytes if these need a large buffer.
func getFrames(need int) *frames {
	if need <= largeFrames/2 {
		return smallFramesPool.Get().(*frames)
	}
	log := bits.Len(uint(need - 1))
	if f, ok := largeFramesPools[log].Get().(*frames); ok {
		return f
	}
	size := need
	if need <= maxScratch {
		size = 1 << log
	}
	return &frames{buf: make([]byte, 0, size)}
}

func (f *frames) put() {
	pool, size := &smallFramesPool, cap(f.buf)
	if size >= largeFrames {
		log := bits.TrailingZeros(uint(size))
		if size != 1<<log || size > maxScratch {
			return
		}
		pool = &largeFramesPools[log]
	}
	f.buf, f.ends = f.buf[:0], f.ends[:0]
	pool.Put(f)
}

// add adds a framed message, and returns f, or what it was moved to.
func (f *frames) add(frame []byte) *frames {
	if need := len(f.buf) + len(frame); need > cap(f.buf) && need > largeFrames/2 {
		larger := getFrames(need)
		larger.buf, larger.ends = append(larger.buf, f.buf...), append(larger.ends, f.ends...)
		f.put()
		f = larger
	}
	f.buf = append(f.buf, frame...)
	f.ends = append(f.ends, len(f.buf))
	return f
}

// held returns how much memory counts: that of small buffers is not worth it.
func (f *frames) held() int {
	if size := cap(f.buf); size >= largeFrames {
		return size
	}
	return len(f.buf)
}

// split ranges over the parts of buf that end at ends.
func split(buf []byte, ends []int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		start := 0
		for _, end := range ends {
			if !yield(buf[start:end:end]) {
				return
			}
			start = end
		}
	}
}

// outbox holds framed messages until the writer takes them. It is guarded by
// the session's lock. One buffer is filled while another is written.
type outbox struct {
	*frames // that wait; nil if none do

	inFlight int           // bytes that are being written
	taken    int           // what these hold
	writing  bool          // the writer is in a write
	began    time.Duration // when the last write began
	progress time.Duration // when that was or it has made progress
	writeBy  time.Duration // when there has to be some
	idle     bool          // the writer waits for wake
	wake     sync.Cond     // the writer's, on the session's lock
	sock     *socket       // nil if there is none
	lent     bool          // a sender has the write side, while the writer is idle
	waiting  int           // bytes of messages whose senders wait for room
	queue    sendQueue
	flushed  chan struct{} // closed when Close need not wait for the writer any more; nil if it does not

	queued, written uint64 // messages, ever

	line line // for room
}

func (o *outbox) empty() bool { return o.frames == nil }

func (o *outbox) size() int {
	if o.empty() {
		return o.inFlight
	}
	return len(o.buf) + o.inFlight
}

// held returns how much memory counts of what waits and is being written.
func (o *outbox) held() int {
	if o.empty() {
		return o.taken
	}
	return o.frames.held() + o.taken
}

// room reports whether n bytes fit within limit. What is too large for it fits
// when nothing else is there.
func (o *outbox) room(n, limit int) bool {
	size := o.size()
	return size == 0 || n <= limit-size
}

// push adds a framed message.
func (o *outbox) push(frame []byte) {
	if o.empty() {
		o.frames = getFrames(len(frame))
	}
	o.frames = o.frames.add(frame)
	o.queued++
	o.wakeWriter()
}

// lend gives the write side to a sender who has the only message, if the writer
// is idle and nothing else waits. It saves waking the writer, half of what a
// call costs where there is one at a time; where there are many the writer does
// better, for it sends them together.
func (o *outbox) lend(n int, alone bool) bool {
	if !alone || o.sock == nil || !o.idle || o.lent || o.size() > 0 {
		return false
	}
	o.lent = true
	o.queued++
	o.inFlight = n
	return true
}

// unlend takes the write side back after n bytes of frame were written. The
// writer gets what is left.
func (o *outbox) unlend(frame []byte, n int) {
	o.lent, o.inFlight = false, 0
	if n == len(frame) {
		o.written++
		o.line.next()
	} else {
		if o.empty() {
			o.frames = getFrames(len(frame) - n)
		}
		rest := len(frame) - n
		o.buf = slices.Insert(o.buf, 0, frame[n:]...)
		o.ends = slices.Insert(o.ends, 0, 0)
		for i := range o.ends {
			o.ends[i] += rest
		}
	}
	if !o.empty() {
		o.wakeWriter()
	}
}

func (o *outbox) wakeWriter() {
	if o.idle && !o.lent {
		o.idle = false
		o.wake.Signal()
	}
}

// take hands all that is queued to the writer.
func (o *outbox) take() *frames {
	f := o.frames
	o.frames = nil
	o.inFlight, o.taken = len(f.buf), f.held()
	return f
}

// giveBack takes the frames back from the writer, who has written them.
func (o *outbox) giveBack(f *frames) {
	o.inFlight, o.taken = 0, 0
	o.written += uint64(len(f.ends))
	f.put()
	o.line.next()
}

// maxScratch is the largest buffer that is kept for the next message. The
// garbage collector empties the pool, so that even large ones do not stay.
const maxScratch = 4 << 20

// scratch is where a message is put together.
type scratch struct {
	msg, frame, id []byte
	parts          [][]byte // of a batch
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func getScratch() *scratch { return scratches.Get().(*scratch) }

func (sc *scratch) put() {
	if cap(sc.msg) <= maxScratch && cap(sc.frame) <= maxScratch {
		clear(sc.parts)
		sc.parts = sc.parts[:0]
		scratches.Put(sc)
	}
}

// line is where goroutines wait for something to come true that a lock guards,
// in the order in which they came.
type line struct {
	turns []chan struct{} // each has one slot
}

// wait returns when it is the caller's turn and ready says so, or with the error
// of ready or of ctx. It is called with mu held, and returns so.
func (l *line) wait(ctx context.Context, mu sync.Locker, ready func() (bool, error)) error {
	var turn chan struct{}
	for {
		ok, err := ready()
		if err == nil && ok && (len(l.turns) == 0 || l.turns[0] == turn) {
			// It may be true for the next as well: it looks when the caller is
			// done, who has the lock until then.
			l.leave(turn)
			return nil
		}
		if err == nil {
			if turn == nil {
				turn = make(chan struct{}, 1)
				l.turns = append(l.turns, turn)
			}
			mu.Unlock()
			select {
			case <-turn:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			mu.Lock()
		}
		if err != nil {
			l.leave(turn)
			return err
		}
	}
}

// leave takes one out, and lets the first look.
func (l *line) leave(turn chan struct{}) {
	if i := slices.Index(l.turns, turn); i >= 0 {
		l.turns = slices.Delete(l.turns, i, i+1)
		l.next()
	}
}

// next lets the first look whether it is its turn.
func (l *line) next() {
	if len(l.turns) > 0 {
		signal(l.turns[0])
	}
}

// release lets all look, to see that there is an error.
func (l *line) release() {
	for _, turn := range l.turns {
		signal(turn)
	}
}

func signal(turn chan struct{}) {
	select {
	case turn <- struct{}{}:
	default:
	}
}

// writeLoop writes what is queued, all of it in one write, until the session
// ends; then the rest, and closes the connection.
func (s *Session) writeLoop() {
	s.lock()
	for {
		if s.out.empty() {
			if s.state >= stateClosing && !s.out.lent {
				break
			}
			s.out.idle = true
			s.out.wake.Wait()
			// Whoever is ready to run may have something to write as well: a
			// write costs far more than this.
			s.unlock()
			runtime.Gosched()
			s.lock()
			continue
		}
		if s.state >= stateClosing && s.closeBy <= s.now() {
			break
		}
		f := s.out.take()
		s.out.writing = true
		s.progress()
		s.out.began = s.out.progress
		s.unlock()
		n, err := s.conn.write(f.buf, f.ends, func() {
			s.lock()
			s.progress()
			s.markAlive()
			flushing := s.out.flushed != nil
			s.unlock()
			if flushing && !s.conn.writable() {
				s.endFlush()
			}
		})
		s.lock()
		s.out.writing = false
		s.stats.BytesSent += uint64(n)
		if err != nil {
			for i := 0; i < len(f.ends) && f.ends[i] <= n; i++ {
				s.out.written++
			}
			s.unlock()
			s.awaitInput(err)
			s.lock()
			if s.input.closed && !errors.Is(err, io.EOF) {
				err = io.EOF // the peer had closed both halves
			}
			s.fx.end(err, 0) // (I10)
			s.unlock()
			s.lock()
			break
		}
		s.out.giveBack(f)
		s.wakeAfterWriteLocked()
	}
	s.endFlushLocked()
	if s.lingers && s.out.empty() {
		s.lingerLocked()
	}
	s.out.frames, s.out.inFlight, s.out.taken = nil, 0, 0
	s.lose(s.cause, true)
	s.unlock()
	s.closeConn()
	s.lock()
	s.loops--
	s.unlock()
}

// flushLimit is how long Close waits for the writer, which has nothing to wait for.
const flushLimit = 100 * time.Millisecond

// flush waits until the writers of sessions that are closing have written what is queued,
// as long as the connections take it without waiting for their peers.
func flush(sessions ...*Session) {
	timer := time.NewTimer(flushLimit) // for all of them: they write at the same time
	defer timer.Stop()
	for _, s := range sessions {
		s.startFlush()
	}
	for _, s := range sessions {
		s.lock()
		flushed := s.out.flushed
		s.unlock()
		if flushed == nil {
			continue
		}
		select {
		case <-flushed:
		case <-timer.C:
			return
		}
	}
}

// startFlush has endFlush called when flush need not wait for the session any more.
func (s *Session) startFlush() {
	s.lock()
	size := s.out.size()
	s.unlock()
	if size == 0 || !s.conn.writable() {
		return
	}
	s.lock()
	if s.state == stateClosing && s.out.size() > 0 && s.out.flushed == nil {
		s.out.flushed = make(chan struct{})
	}
	s.unlock()
}

// endFlush ends what flush waits for.
func (s *Session) endFlush() {
	s.lock()
	defer s.unlock()
	s.endFlushLocked()
}

func (s *Session) endFlushLocked() {
	s.owner.Check()
	if s.out.flushed != nil {
		close(s.out.flushed)
		s.out.flushed = nil
	}
}

// lingerLocked closes this end's half of the connection, and waits for the reader to
// come to the end of the peer's, for at most closeGrace. A connection that is closed
// with unread bytes is reset, and the peer may lose the last replies. Callers must
// hold s.mu, which is released meanwhile.
func (s *Session) lingerLocked() {
	s.owner.Check()
	if closeBy := after(s.now(), closeGrace); closeBy < s.closeBy {
		s.closeBy = closeBy
		s.arm(closeBy)
	}
	s.unlock()
	closed := s.conn.closeWrite()
	s.lock()
	for closed && (s.loops == 2 || s.reader.gaveUp) && s.now() < s.closeBy {
		s.out.idle = true
		s.out.wake.Wait()
	}
}

// progress restarts the time that a write may take.
func (s *Session) progress() {
	s.out.progress = s.now()
	s.out.writeBy = after(s.out.progress, s.limits.SendTimeout)
	s.out.queue.looked = false
	if s.out.writeBy != never {
		s.arm(s.out.writeBy)
		if canSeeUnsent {
			s.arm(after(s.out.progress, s.limits.SendTimeout/queueLooks))
		}
	}
}

// traceSent tells Trace.RequestSent of a request, or of a notification if f is nil.
func (s *Session) traceSent(method string, f *Future) {
	if s.trace.RequestSent == nil {
		return
	}
	var id ID
	if f != nil {
		id = strconv.AppendUint(nil, f.id, 10)
	}
	s.trace.RequestSent(s, method, id)
}

// sendQueue is what the operating system has taken of a connection's bytes and not
// sent yet. The system says that there is room only when a third of that is sent (of a
// unix socket, three quarters), which can be more than a megabyte: whether a slow peer
// makes progress is seen here. It is guarded by the session's lock.
type sendQueue struct {
	raw    syscall.RawConn // nil if there is no socket
	opened bool            // raw was looked for
	looked bool            // since the last progress; then the next two are set
	unsent int             // bytes, when it was looked at
	at     time.Duration   // when that was
}

// queueLooks is how many times in Limits.SendTimeout the queue is looked at.
const queueLooks = 8

// look returns how many bytes are unsent, and reports whether that is known.
func (q *sendQueue) look(conn net.Conn) (int, bool) {
	if !q.opened {
		q.opened = true
		q.raw = socketUnder(conn)
	}
	if q.raw == nil {
		return 0, false
	}
	return unsentBytes(q.raw)
}

// socketUnder returns the socket that carries conn, nil if there is none.
func socketUnder(conn net.Conn) syscall.RawConn {
	switch c := conn.(type) {
	case *SOCKSConn:
		return socketUnder(c.Conn)
	case *net.TCPConn, *net.UnixConn:
		if raw, err := c.(syscall.Conn).SyscallConn(); err == nil {
			return raw
		}
	case interface{ NetConn() net.Conn }:
		return socketUnder(c.NetConn())
	}
	return nil
}

// isProgress reports whether a queue that has fallen by so many bytes since some time
// falls fast enough: by writeChunk in the timeout.
func isProgress(fallen int, since, timeout time.Duration) bool {
	return fallen > 0 && float64(fallen) >= writeChunk*float64(since)/float64(timeout)
}

// checkSentLocked restarts the time that a write may take if the operating system has
// sent enough meanwhile: writeChunk in Limits.SendTimeout. What the writer adds to the
// queue between two looks is less than it writes at a time, and counts against the
// peer. Callers must hold s.mu.
func (s *Session) checkSentLocked(now time.Duration) {
	s.owner.Check()
	q, timeout := &s.out.queue, s.limits.SendTimeout
	if !canSeeUnsent || !s.out.writing || timeout == never {
		return
	}
	unsent, ok := q.look(s.NetConn())
	if !ok {
		return
	}
	switch {
	case !q.looked:
		q.looked, q.unsent, q.at = true, unsent, now
	case isProgress(q.unsent-unsent, now-q.at, timeout):
		q.unsent, q.at = unsent, now
		s.out.writeBy = after(now, timeout)
	}
	s.arm(after(now, timeout/queueLooks))
}
