package rpcx

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"strconv"
	"sync"
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

// sender is who queues a message, which decides when it may and whether it waits.
type sender uint8

const (
	fromCaller  sender = iota // waits for room; not while draining, unless a handler calls
	fromHandler               // a reply, or what Shutdown refuses: waits for room
	fromReader                // another reply: never waits (I2), and may exceed the limit
	fromNobody                // never waits, and is dropped if there is no room
)

// post frames sc.msg and queues it, with register (a call, or a batch's future)
// entered into the table before (I4). It waits for room, and fails if ctx ends
// or the session does.
func (s *Session) post(ctx context.Context, sc *scratch, from sender, register *Future) error {
	if err := s.framed(sc); err != nil {
		return err
	}
	return s.postFramed(ctx, handlerOf(ctx), sc, from, register)
}

// postFramed is post for sc.frame, for the handler h if that is not nil.
func (s *Session) postFramed(ctx context.Context, h *handlerContext, sc *scratch, from sender, register *Future) error {
	s.lock()
	lent, err := s.queueLocked(ctx, h, sc, from, register)
	s.unlock()
	if lent {
		s.writeDirectly(sc.frame)
	}
	return err
}

// framed frames sc.msg.
func (s *Session) framed(sc *scratch) (err error) {
	sc.frame, err = s.conn.frame(sc.frame[:0], sc.msg)
	return err
}

// queueLocked queues sc.frame. It reports whether the caller has the write side of the
// connection and is to call writeDirectly instead, when it has left the lock. Callers must
// hold s.mu, which is released while queueLocked waits for room.
func (s *Session) queueLocked(ctx context.Context, h *handlerContext, sc *scratch, from sender, register *Future) (lent bool, err error) {
	s.owner.check()
	if h != nil && h.session == s && h.waits.returned {
		h = nil // a context may outlive its handler, by context.WithoutCancel
	}
	size := len(sc.msg)
	switch from {
	case fromReader:
		if name, limit := s.outboxLimitLocked(len(sc.frame)); name != "" && s.state < stateClosing {
			s.note(slog.LevelWarn, "peer does not read its replies", byteLimit(name, limit))
			err := slowPeer("%s", over(limit, "bytes waiting", name))
			if name != "Limits.Outbox" {
				err = &fullError{err}
			}
			s.fx.end(err, 0)
			return false, err
		}
	case fromNobody:
		if !s.out.room(len(sc.frame), s.limits.Outbox) {
			return false, nil
		}
	default:
		if n := len(sc.frame); n >= weightStep && s.load.exceeds(n) {
			s.unlock()
			room := s.load.makeRoom(n)
			if !room {
				s.makeWay(false)
			}
			s.lock()
		}
		if err := s.waitToSend(ctx, h, sc, from, register); err != nil {
			return false, err
		}
	}
	if s.state >= stateClosing {
		return false, s.closedError()
	}
	if register != nil {
		s.register(register)
	}
	s.spend(size)
	if from != fromNobody {
		s.markAlive()
	}
	lent = s.out.lend(len(sc.frame), s.alone(from, register))
	if !lent {
		s.out.push(sc.frame)
	}
	if register != nil {
		register.queued = s.out.queued
		for _, member := range register.members {
			member.queued = s.out.queued
		}
	}
	s.stats.MessagesSent++
	return lent, nil
}

// writeDirectly writes frame on the goroutine that sends it, to which the outbox has lent
// the write side.
func (s *Session) writeDirectly(frame []byte) {
	n := s.out.sock.tryWrite(frame)
	s.lock()
	s.stats.BytesSent += uint64(n)
	s.out.unlend(frame, n)
	s.wakeAfterWriteLocked()
	if s.state >= stateClosing {
		s.out.wakeWriter()
	}
	s.unlock()
}

// alone reports whether nothing but the message at hand is going on.
func (s *Session) alone(from sender, call *Future) bool {
	switch from {
	case fromCaller:
		return call != nil && s.table.pending == 1
	case fromHandler:
		return s.in.running == 1 && s.in.count == 0
	}
	return false
}

// waitToSend returns when sc.frame fits into the outbox and nobody waited longer;
// before, if call is not nil, it takes a slot for it. Callers must hold s.mu, which is
// released while it waits. A handler h of the session takes a slot without waiting: all
// slots may be taken by calls whose replies wait for it.
func (s *Session) waitToSend(ctx context.Context, h *handlerContext, sc *scratch, from sender, call *Future) error {
	if call != nil && !call.waits() {
		call = nil
	}
	if call != nil {
		if own := h != nil && h.session == s; !own && !s.slots.hasFree() {
			s.changeWaitsLocked(h, 1, 0)
			err := s.waitInLine(ctx, &s.slots.line, h, from, call, s.slots.isFree)
			s.changeWaitsLocked(h, -1, 0)
			if err != nil {
				return err
			}
		}
		s.slots.take()
	}
	err := s.maySend(h, from, call)
	if n := len(sc.frame); err == nil && !(len(s.out.line.turns) == 0 && s.hasRoom(n)) {
		sc.msg = nil // one copy is enough to wait with
		if cap(sc.frame) > 2*n {
			sc.frame = bytes.Clone(sc.frame)
		}
		s.out.waiting += n
		s.weigh()
		s.changeWaitsLocked(h, 0, 1)
		err = s.waitInLine(ctx, &s.out.line, h, from, call, func() bool { return s.hasRoom(n) })
		s.changeWaitsLocked(h, 0, -1)
		s.out.waiting -= n
		s.wakeWorkerLocked() // while this waited, no worker was called
	}
	if err != nil && call != nil {
		s.slots.free()
	}
	return err
}

// waitInLine returns when it is the caller's turn in l and ready says so, or with the
// error for which nothing can be sent any more. Limits.RequestTimeout of a call
// begins with the first wait. Callers must hold s.mu, which is released while it waits.
func (s *Session) waitInLine(ctx context.Context, l *line, h *handlerContext, from sender, call *Future, ready func() bool) error {
	if call != nil {
		s.startTimeout(call, s.now())
	}
	err := l.wait(ctx, (*locker)(s), func() (bool, error) {
		err := s.maySend(h, from, call)
		if err == nil && call != nil && call.expired {
			err = ErrTimeout
		}
		return ready(), err
	})
	if err != nil && call != nil {
		s.outgoing.remove(&call.deadline)
	}
	return err
}

// hasRoom reports whether n bytes fit into the outbox. Where the server holds all
// that it may and the session more than its share, only an empty outbox has room.
func (s *Session) hasRoom(n int) bool {
	limit := s.limits.Outbox
	if s.load.full(s.weight) {
		limit = 0
	}
	return s.out.room(n, limit)
}

// outboxLimitLocked returns the limit for which n bytes of who never waits are too many
// in the outbox, and its name; no name if there is none. Callers must hold s.mu.
func (s *Session) outboxLimitLocked(n int) (name string, value int) {
	s.owner.check()
	limit, size := s.limits.Outbox, s.out.size()
	if limit < math.MaxInt-reserve {
		limit += reserve
	}
	switch {
	case !s.out.room(n, limit):
		return "Limits.Outbox", s.limits.Outbox
	case size > writeChunk && s.load.exceeds(n) && s.load.full(size-writeChunk): // short refusals find room
		return "Server.MaxQueuedBytes", s.load.limit
	}
	return "", 0
}

// startTimeout begins Limits.RequestTimeout for a call, unless it has begun.
func (s *Session) startTimeout(call *Future, now time.Duration) {
	if call.deadline.owner == nil && !call.untimed && s.limits.RequestTimeout != never {
		s.outgoing.add(s, &call.deadline, after(now, s.limits.RequestTimeout), call)
	}
}

// closedError is ErrClosed, with the reason for the end if it is another.
func (s *Session) closedError() error {
	switch cause := s.cause.(type) {
	case nil:
		return ErrClosed
	case *closedError, *contextClosed: // ErrClosed, and what wraps it
		return cause
	}
	return &endedError{s.cause}
}

// endedError is the error of what is asked of a session that has ended.
type endedError struct{ cause error }

func (e *endedError) Error() string   { return ErrClosed.Error() + ": " + trimPrefix(e.cause) }
func (e *endedError) Unwrap() []error { return []error{ErrClosed, ErrConnectionLost, e.cause} }

// register enters a call, or the calls of a batch, into the table.
func (s *Session) register(f *Future) {
	f.started = s.now()
	if f.members == nil {
		s.table.add(f)
	} else {
		calls := make([]*Future, 0, len(f.members))
		for _, member := range f.members {
			if member.isSent() {
				member.batch.unsettled++
				member.started = f.started
				calls = append(calls, member)
			}
		}
		s.table.add(calls...)
	}
	if f.waits() {
		s.startTimeout(f, f.started)
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
	s.owner.check()
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
	s.owner.check()
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
