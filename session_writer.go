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

// frameBuffer are framed messages in a row.
type frameBuffer struct {
	buf  []byte
	ends []int // where each ends in buf
}

// largeFrameBuffer is the capacity from which a buffer of frames is a large one. Large
// buffers have powers of two as their capacities, and a pool for each: what few frames
// of a peer that does not read hold is no more than twice their size.
const largeFrameBuffer = 16 << 10

// The buffers of outboxes: one that is empty holds none.
var (
	smallFramesPool  = sync.Pool{New: func() any { return new(frameBuffer) }}
	largeFramesPools [bits.UintSize]sync.Pool // by the logarithm of their capacities
)

// getFrameBuffer returns empty frames, for need bytes if these need a large buffer.
func getFrameBuffer(need int) *frameBuffer {
	if need <= largeFrameBuffer/2 {
		return smallFramesPool.Get().(*frameBuffer)
	}
	log := bits.Len(uint(need - 1))
	if f, ok := largeFramesPools[log].Get().(*frameBuffer); ok {
		return f
	}
	size := need
	if need <= maxPooledBuffer {
		size = 1 << log
	}
	return &frameBuffer{buf: make([]byte, 0, size)}
}

func (f *frameBuffer) recycle() {
	pool, size := &smallFramesPool, cap(f.buf)
	if size >= largeFrameBuffer {
		log := bits.TrailingZeros(uint(size))
		if size != 1<<log || size > maxPooledBuffer {
			return
		}
		pool = &largeFramesPools[log]
	}
	f.buf, f.ends = f.buf[:0], f.ends[:0]
	pool.Put(f)
}

// appendFrame adds a framed message, and returns f, or what it was moved to.
func (f *frameBuffer) appendFrame(frame []byte) *frameBuffer {
	if need := len(f.buf) + len(frame); need > cap(f.buf) && need > largeFrameBuffer/2 {
		larger := getFrameBuffer(need)
		larger.buf, larger.ends = append(larger.buf, f.buf...), append(larger.ends, f.ends...)
		f.recycle()
		f = larger
	}
	f.buf = append(f.buf, frame...)
	f.ends = append(f.ends, len(f.buf))
	return f
}

// countedBytes returns how much memory counts: that of small buffers is not worth it.
func (f *frameBuffer) countedBytes() int {
	if size := cap(f.buf); size >= largeFrameBuffer {
		return size
	}
	return len(f.buf)
}

// splitAtEnds ranges over the parts of buf that end at ends.
func splitAtEnds(buf []byte, ends []int) func(yield func([]byte) bool) {
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
	*frameBuffer // that wait; nil if none do

	inFlight        int           // bytes that are being written
	countedInFlight int           // what these hold
	writing         bool          // the writer is in a write
	writeStart      time.Duration // when the last write began
	lastProgress    time.Duration // when that was or it has made progress
	writeDeadline   time.Duration // when there has to be some
	writerIdle      bool          // the writer waits for wake
	writerWakeup    sync.Cond     // the writer's, on the session's lock
	sock            *socket       // nil if there is none
	writeSideLent   bool          // a sender has the write side, while the writer is idle
	waitingBytes    int           // bytes of messages whose senders wait for room
	kernelQueue     kernelSendQueue
	flushed         chan struct{} // closed when Close need not wait for the writer any more; nil if it does not

	queuedMessages, writtenMessages uint64 // messages, ever

	roomLine waitLine // for room
}

// writer writes messages to the connection: those in the outbox on a goroutine of its own, and a
// message that is alone on the goroutine that sends it.
type writer struct {
	outbox
	s *Session
}

func (o *outbox) isEmpty() bool { return o.frameBuffer == nil }

func (o *outbox) size() int {
	if o.isEmpty() {
		return o.inFlight
	}
	return len(o.buf) + o.inFlight
}

// countedBytes returns how much memory counts of what waits and is being written.
func (o *outbox) countedBytes() int {
	if o.isEmpty() {
		return o.countedInFlight
	}
	return o.frameBuffer.countedBytes() + o.countedInFlight
}

// hasRoom reports whether n bytes fit within limit. What is too large for it fits
// when nothing else is there.
func (o *outbox) hasRoom(n, limit int) bool {
	size := o.size()
	return size == 0 || n <= limit-size
}

// push adds a framed message.
func (o *outbox) push(frame []byte) {
	if o.isEmpty() {
		o.frameBuffer = getFrameBuffer(len(frame))
	}
	o.frameBuffer = o.frameBuffer.appendFrame(frame)
	o.queuedMessages++
	o.wakeWriter()
}

// lendWriteSide gives the write side to a sender who has the only message, if the writer
// is idle and nothing else waits. It saves waking the writer, half of what a
// call costs where there is one at a time; where there are many the writer does
// better, for it sends them together.
func (o *outbox) lendWriteSide(n int, alone bool) bool {
	if !alone || o.sock == nil || !o.writerIdle || o.writeSideLent || o.size() > 0 {
		return false
	}
	o.writeSideLent = true
	o.queuedMessages++
	o.inFlight = n
	return true
}

// returnWriteSide takes the write side back after n bytes of frame were written. The
// writer gets what is left.
func (o *outbox) returnWriteSide(frame []byte, n int) {
	o.writeSideLent, o.inFlight = false, 0
	if n == len(frame) {
		o.writtenMessages++
		o.roomLine.wakeFirst()
	} else {
		if o.isEmpty() {
			o.frameBuffer = getFrameBuffer(len(frame) - n)
		}
		rest := len(frame) - n
		o.buf = slices.Insert(o.buf, 0, frame[n:]...)
		o.ends = slices.Insert(o.ends, 0, 0)
		for i := range o.ends {
			o.ends[i] += rest
		}
	}
	if !o.isEmpty() {
		o.wakeWriter()
	}
}

func (o *outbox) wakeWriter() {
	if o.writerIdle && !o.writeSideLent {
		o.writerIdle = false
		o.writerWakeup.Signal()
	}
}

// takeFrames hands all that is queued to the writer.
func (o *outbox) takeFrames() *frameBuffer {
	f := o.frameBuffer
	o.frameBuffer = nil
	o.inFlight, o.countedInFlight = len(f.buf), f.countedBytes()
	return f
}

// returnFrames takes the frames back from the writer, who has written them.
func (o *outbox) returnFrames(f *frameBuffer) {
	o.inFlight, o.countedInFlight = 0, 0
	o.writtenMessages += uint64(len(f.ends))
	f.recycle()
	o.roomLine.wakeFirst()
}

// maxPooledBuffer is the largest buffer that is kept for the next message. The
// garbage collector empties the pool, so that even large ones do not stay.
const maxPooledBuffer = 4 << 20

// encodeBuffer is where a message is put together.
type encodeBuffer struct {
	msg, frame, id []byte
	parts          [][]byte // of a batch
}

var encodeBuffers = sync.Pool{New: func() any { return new(encodeBuffer) }}

func getEncodeBuffer() *encodeBuffer { return encodeBuffers.Get().(*encodeBuffer) }

func (sc *encodeBuffer) recycle() {
	if cap(sc.msg) <= maxPooledBuffer && cap(sc.frame) <= maxPooledBuffer {
		clear(sc.parts)
		sc.parts = sc.parts[:0]
		encodeBuffers.Put(sc)
	}
}

// waitLine is where goroutines wait for something to come true that a lock guards,
// in the order in which they came.
type waitLine struct {
	waiters []chan struct{} // each has one slot
}

// waitTurn returns when it is the caller's turn and ready says so, or with the error
// of ready or of ctx. It is called with mu held, and returns so.
func (l *waitLine) waitTurn(ctx context.Context, mu sync.Locker, ready func() (bool, error)) error {
	var turn chan struct{}
	for {
		ok, err := ready()
		if err == nil && ok && (len(l.waiters) == 0 || l.waiters[0] == turn) {
			// It may be true for the next as well: it looks when the caller is
			// done, who has the lock until then.
			l.removeWaiter(turn)
			return nil
		}
		if err == nil {
			if turn == nil {
				turn = make(chan struct{}, 1)
				l.waiters = append(l.waiters, turn)
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
			l.removeWaiter(turn)
			return err
		}
	}
}

// removeWaiter takes one out, and lets the first look.
func (l *waitLine) removeWaiter(turn chan struct{}) {
	if i := slices.Index(l.waiters, turn); i >= 0 {
		l.waiters = slices.Delete(l.waiters, i, i+1)
		l.wakeFirst()
	}
}

// wakeFirst lets the first look whether it is its turn.
func (l *waitLine) wakeFirst() {
	if len(l.waiters) > 0 {
		wakeWaiter(l.waiters[0])
	}
}

// wakeAll lets all look, to see that there is an error.
func (l *waitLine) wakeAll() {
	for _, turn := range l.waiters {
		wakeWaiter(turn)
	}
}

func wakeWaiter(turn chan struct{}) {
	select {
	case turn <- struct{}{}:
	default:
	}
}

// writeLoop writes what is queued, all of it in one write, until the session
// ends; then the rest, and closes the connection.
func (w *writer) writeLoop() {
	s := w.s
	s.lock()
	for {
		if w.isEmpty() {
			if s.life.state >= stateClosing && !w.writeSideLent {
				break
			}
			w.writerIdle = true
			w.writerWakeup.Wait()
			// Whoever is ready to run may have something to write as well: a
			// write costs far more than this.
			s.unlock()
			runtime.Gosched()
			s.lock()
			continue
		}
		if s.life.state >= stateClosing && s.life.closeDeadline <= s.now() {
			break
		}
		f := w.takeFrames()
		w.writing = true
		w.resetSendTimeoutLocked()
		w.writeStart = w.lastProgress
		s.unlock()
		n, err := s.conn.writeFrames(f.buf, f.ends, func() {
			s.lock()
			w.resetSendTimeoutLocked()
			s.activity.markActiveLocked()
			flushing := w.flushed != nil
			s.unlock()
			if flushing && !s.conn.canWriteNow() {
				w.stopFlushWait()
			}
		})
		s.lock()
		w.writing = false
		s.stats.BytesSent += uint64(n)
		if err != nil {
			for i := 0; i < len(f.ends) && f.ends[i] <= n; i++ {
				w.writtenMessages++
			}
			s.unlock()
			w.waitForEndOfInput(err)
			s.lock()
			if s.input.closed && !errors.Is(err, io.EOF) {
				err = io.EOF // the peer had closed both halves
			}
			s.effects.closeSession(err, 0) // (I10)
			s.unlock()
			s.lock()
			break
		}
		w.returnFrames(f)
		s.requests.startWorkerAfterWriteLocked()
	}
	w.stopFlushWaitLocked()
	if s.life.lingerWanted && w.isEmpty() {
		w.lingerLocked()
	}
	w.frameBuffer, w.inFlight, w.countedInFlight = nil, 0, 0
	s.calls.failPendingLocked(s.life.closeCause, true)
	s.unlock()
	s.closeConn()
	s.lock()
	s.life.runningLoops--
	s.unlock()
}

// maxFlushWait is how long Close waits for the writer, which has nothing to wait for.
const maxFlushWait = 100 * time.Millisecond

// flush waits until the writers of sessions that are closing have written what is queued,
// as long as the connections take it without waiting for their peers.
func flush(sessions ...*Session) {
	timer := time.NewTimer(maxFlushWait) // for all of them: they write at the same time
	defer timer.Stop()
	for _, s := range sessions {
		s.startFlush()
	}
	for _, s := range sessions {
		s.lock()
		flushed := s.writer.flushed
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

// startFlush has stopFlushWait called when flush need not wait for the session any more.
func (s *Session) startFlush() {
	s.lock()
	size := s.writer.size()
	s.unlock()
	if size == 0 || !s.conn.canWriteNow() {
		return
	}
	s.lock()
	if s.life.state == stateClosing && s.writer.size() > 0 && s.writer.flushed == nil {
		s.writer.flushed = make(chan struct{})
	}
	s.unlock()
}

// stopFlushWait ends what flush waits for.
func (w *writer) stopFlushWait() {
	s := w.s
	s.lock()
	defer s.unlock()
	w.stopFlushWaitLocked()
}

func (w *writer) stopFlushWaitLocked() {
	w.s.mu.AssertHeld()
	if w.flushed != nil {
		close(w.flushed)
		w.flushed = nil
	}
}

// lingerLocked closes this end's half of the connection, and waits for the reader to
// come to the end of the peer's, for at most closeGrace. A connection that is closed
// with unread bytes is reset, and the peer may lose the last replies. Callers must
// hold s.mu, which is released meanwhile.
func (w *writer) lingerLocked() {
	s := w.s
	s.mu.AssertHeld()
	if closeBy := after(s.now(), closeGrace); closeBy < s.life.closeDeadline {
		s.life.closeDeadline = closeBy
		s.timer.setTimerLocked(closeBy)
	}
	s.unlock()
	closed := s.conn.closeWrite()
	s.lock()
	for closed && (s.life.runningLoops == 2 || s.reader.inputLeft) && s.now() < s.life.closeDeadline {
		w.writerIdle = true
		w.writerWakeup.Wait()
	}
}

// resetSendTimeoutLocked restarts the time that a write may take.
func (w *writer) resetSendTimeoutLocked() {
	s := w.s
	s.mu.AssertHeld()
	w.lastProgress = s.now()
	w.writeDeadline = after(w.lastProgress, s.limits.SendTimeout)
	w.kernelQueue.hasSample = false
	if w.writeDeadline != never {
		s.timer.setTimerLocked(w.writeDeadline)
		if canSeeUnsent {
			s.timer.setTimerLocked(after(w.lastProgress, s.limits.SendTimeout/kernelQueueChecks))
		}
	}
}

// traceRequestSent tells Trace.RequestSent of a request, or of a notification if f is nil.
func (w *writer) traceRequestSent(method string, f *Future) {
	s := w.s
	if s.trace.RequestSent == nil {
		return
	}
	var id ID
	if f != nil {
		id = strconv.AppendUint(nil, f.id, 10)
	}
	s.trace.RequestSent(s, method, id)
}

// kernelSendQueue is what the operating system has taken of a connection's bytes and not
// sent yet. The system says that there is room only when a third of that is sent (of a
// unix socket, three quarters), which can be more than a megabyte: whether a slow peer
// makes progress is seen here. It is guarded by the session's lock.
type kernelSendQueue struct {
	raw            syscall.RawConn // nil if there is no socket
	socketSearched bool            // raw was looked for
	hasSample      bool            // since the last progress; then the next two are set
	sampledBytes   int             // bytes, when it was looked at
	sampleTime     time.Duration   // when that was
}

// kernelQueueChecks is how many times in Limits.SendTimeout the queue is looked at.
const kernelQueueChecks = 8

// readUnsent returns how many bytes are unsent, and reports whether that is known.
func (q *kernelSendQueue) readUnsent(conn net.Conn) (int, bool) {
	if !q.socketSearched {
		q.socketSearched = true
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

// checkSendProgressLocked restarts the time that a write may take if the operating system has
// sent enough meanwhile: writeChunk in Limits.SendTimeout. What the writer adds to the
// queue between two looks is less than it writes at a time, and counts against the
// peer. Callers must hold s.mu.
func (w *writer) checkSendProgressLocked(now time.Duration) {
	s := w.s
	s.mu.AssertHeld()
	q, timeout := &w.kernelQueue, s.limits.SendTimeout
	if !canSeeUnsent || !w.writing || timeout == never {
		return
	}
	unsent, ok := q.readUnsent(s.NetConn())
	if !ok {
		return
	}
	switch {
	case !q.hasSample:
		q.hasSample, q.sampledBytes, q.sampleTime = true, unsent, now
	case isProgress(q.sampledBytes-unsent, now-q.sampleTime, timeout):
		q.sampledBytes, q.sampleTime = unsent, now
		w.writeDeadline = after(now, timeout)
	}
	s.timer.setTimerLocked(after(now, timeout/kernelQueueChecks))
}
