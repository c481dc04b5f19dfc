package rpcx

import (
	"errors"
	"io"
	"math/bits"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"example.com/rpcx/internal/buffers"
	"example.com/rpcx/internal/sockstate"
)

// frameBuffer holds successive framed messages.
type frameBuffer struct {
	buf  []byte
	ends []int // end of each message in buf
}

// largeFrameBuffer is the minimum capacity of a large buffer. Large buffers have powers
// of two as capacities, and a pool for each capacity. So a few frames for a peer that
// does not read take at most twice their size.
const largeFrameBuffer = 16 << 10

// Pools of frame buffers. An empty outbox holds no buffer.
var (
	smallFramesPool  = sync.Pool{New: func() any { return new(frameBuffer) }}
	largeFramesPools [bits.UintSize]sync.Pool // by the logarithm of the capacity
)

// getFrameBuffer returns an empty buffer. If need bytes require a large buffer, the
// buffer has room for need bytes.
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

// withRoom returns f with room for n more bytes, or a larger buffer that replaces f. A small
// buffer, and a buffer that is too large for the pools, may have less room: append makes the
// room, and grows a buffer by a part of its size.
func (f *frameBuffer) withRoom(n int) *frameBuffer {
	need := len(f.buf) + n
	if need <= cap(f.buf) || need <= largeFrameBuffer/2 || cap(f.buf) > maxPooledBuffer {
		return f
	}
	larger := getFrameBuffer(need)
	larger.buf, larger.ends = append(larger.buf, f.buf...), append(larger.ends, f.ends...)
	f.recycle()
	return larger
}

// appendFrame appends a framed message. It returns f, or a larger buffer that replaces f.
func (f *frameBuffer) appendFrame(frame []byte) *frameBuffer {
	f = f.withRoom(len(frame))
	f.buf = append(f.buf, frame...)
	f.ends = append(f.ends, len(f.buf))
	return f
}

// countedBytes returns the number of bytes to account for. For a small buffer, only the
// frames count.
func (f *frameBuffer) countedBytes() int {
	if size := cap(f.buf); size >= largeFrameBuffer {
		return size
	}
	return len(f.buf)
}

// appendParts appends the messages of f to parts.
func (f *frameBuffer) appendParts(parts [][]byte) [][]byte {
	start := 0
	for _, end := range f.ends {
		parts = append(parts, f.buf[start:end:end])
		start = end
	}
	return parts
}

// outbox holds framed messages for the writer, guarded by the session's lock. While a
// buffer is written, another is filled.
type outbox struct {
	*frameBuffer // waiting messages; nil if there are none

	inFlight        int           // number of bytes being written
	countedInFlight int           // memory counted for inFlight
	writing         bool          // the writer is in a write
	writeStart      time.Duration // start of the last write
	lastProgress    time.Duration // start or last progress of the last write
	writeDeadline   time.Duration // when the next progress is due
	writerIdle      bool          // no goroutine runs writeLoop, or writerWaits is set
	writerWaits     bool          // the goroutine of writeLoop waits for writerWakeup
	writerWakeup    sync.Cond     // on the session's lock
	startWriter     func()        // runs writeLoop on another goroutine
	sock            *socket       // may be nil
	writeSideLent   bool          // a sender has the write side, while the writer is idle
	waitingBytes    int           // bytes of messages whose senders wait for room
	kernelQueue     kernelSendQueue
	flushed         chan struct{} // closed when Close need not wait any longer; nil if Close does not wait

	queuedMessages, writtenMessages uint64 // total numbers

	roomLine waitLine // senders that wait for room
}

// writer writes messages to the connection. The goroutine of writeLoop writes the
// messages in the outbox, and returns when the outbox is empty: idle sessions need not its
// stack. A sender may write a lone message directly.
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

// countedBytes returns the number of bytes to account for, waiting or being written.
func (o *outbox) countedBytes() int {
	if o.isEmpty() {
		return o.countedInFlight
	}
	return o.frameBuffer.countedBytes() + o.countedInFlight
}

// hasRoom reports whether n more bytes fit within limit. A message of any size fits into
// an empty outbox.
func (o *outbox) hasRoom(n, limit int) bool {
	size := o.size()
	return size == 0 || n <= limit-size
}

// push adds a framed message and wakes the writer.
func (o *outbox) push(frame []byte) {
	if o.isEmpty() {
		o.frameBuffer = getFrameBuffer(len(frame))
	}
	o.frameBuffer = o.frameBuffer.appendFrame(frame)
	o.queuedMessages++
	o.wakeWriter()
}

// lendWriteSide lends the write side to the sender of a lone message of n bytes, if the
// writer is idle and the outbox empty. Waking the writer would be half of the cost of a
// lone call. But several messages are better left to the writer, which sends them
// together.
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
// writer gets the remainder.
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
	if !o.writerIdle || o.writeSideLent {
		return
	}
	if o.writerIdle = false; o.writerWaits {
		o.writerWakeup.Signal()
	} else {
		o.startWriter()
	}
}

// waitForWakeup makes the goroutine of writeLoop wait for wakeWriter.
func (o *outbox) waitForWakeup() {
	o.writerIdle, o.writerWaits = true, true
	o.writerWakeup.Wait()
	o.writerWaits = false
}

// takeFrames hands the queued frames to the writer.
func (o *outbox) takeFrames() *frameBuffer {
	f := o.frameBuffer
	o.frameBuffer = nil
	o.inFlight, o.countedInFlight = len(f.buf), f.countedBytes()
	return f
}

// returnFrames takes back frames that the writer has written.
func (o *outbox) returnFrames(f *frameBuffer) {
	o.inFlight, o.countedInFlight = 0, 0
	o.writtenMessages += uint64(len(f.ends))
	f.recycle()
	o.roomLine.wakeFirst()
}

// maxPooledBuffer is the maximum size of a pooled buffer. The garbage collector empties
// the pools, so even large buffers do not stay.
const maxPooledBuffer = buffers.MaxSize

// encodeBuffer holds a message during encoding. After framing, the message's bytes are in
// frame, which shares memory with msg or with copied.
type encodeBuffer struct {
	msg, id []byte
	frame   []byte   // the framed message
	copied  []byte   // memory for a frame that cannot extend msg; see transport.frame
	parts   [][]byte // of a batch
}

var encodeBuffers = sync.Pool{New: func() any { return new(encodeBuffer) }}

func getEncodeBuffer() *encodeBuffer { return encodeBuffers.Get().(*encodeBuffer) }

func (sc *encodeBuffer) recycle() {
	if cap(sc.msg) <= maxPooledBuffer && cap(sc.copied) <= maxPooledBuffer {
		clear(sc.parts)
		sc.frame, sc.parts = nil, sc.parts[:0]
		encodeBuffers.Put(sc)
	}
}

// writeLoop writes queued messages, each time all of them in one write. When the session
// closes, writeLoop writes the remaining messages and closes the connection.
func (w *writer) writeLoop() {
	s := w.s
	// Other runnable goroutines may have messages, too. A write costs far more than the
	// yield.
	runtime.Gosched()
	s.lock()
	for {
		if w.isEmpty() {
			if s.life.state >= stateClosing && !w.writeSideLent {
				break
			}
			w.writerIdle = true
			s.unlock()
			return
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
			written := 0
			for written < len(f.ends) && f.ends[written] <= n+1 { // a last line may lack its end
				written++
			}
			w.writtenMessages += uint64(written)
			s.calls.client.takeUnwrittenLocked(f, written, w.writtenMessages)
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
		s.calls.failUnanswerableLocked()
		s.requests.startWorkerAfterWriteLocked()
		if s.hubs.isLaggingLocked() { // unlock drains the rings, before this goroutine would return
			s.unlock()
			s.lock()
		}
	}
	w.stopFlushWaitLocked()
	if s.life.lingerWanted && w.isEmpty() {
		w.lingerLocked()
	}
	if !w.isEmpty() {
		s.calls.client.takeUnwrittenLocked(w.frameBuffer, 0, w.queuedMessages-uint64(len(w.ends)))
	}
	w.frameBuffer, w.inFlight, w.countedInFlight = nil, 0, 0
	s.calls.failPendingLocked(s.life.closeCause, true)
	client := s.calls.client
	s.unlock()
	client.returnNotes()
	s.closeConn()
	s.lock()
	s.life.runningLoops--
	s.unlock()
}

// maxFlushWait is the maximum time of flush. Normally flush waits for nothing slow.
const maxFlushWait = 100 * time.Millisecond

// flush waits until the writers of closing sessions have written their messages, as long
// as the connections take bytes without waiting for their peers.
func flush(sessions ...*Session) {
	timer := time.NewTimer(maxFlushWait) // for all sessions: the writers write at the same time
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

// startFlush begins a flush of the session: the writer closes writer.flushed when the
// flush is over.
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

// stopFlushWait ends the wait of flush.
func (w *writer) stopFlushWait() {
	s := w.s
	s.lock()
	defer s.unlock()
	w.stopFlushWaitLocked()
}

// stopFlushWaitLocked does the work of stopFlushWait. Callers must hold s.mu.
func (w *writer) stopFlushWaitLocked() {
	w.s.mu.AssertHeld()
	if w.flushed != nil {
		close(w.flushed)
		w.flushed = nil
	}
}

// lingerLocked closes this side's half of the connection, and waits for the reader to
// reach the end of input, for at most closeGrace. If a connection closes with unread
// bytes, the system resets the connection, and the peer may lose the last replies.
// Callers must hold s.mu, which is released meanwhile.
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
		w.waitForWakeup()
	}
}

// resetSendTimeoutLocked restarts the send timeout of a write. Callers must hold s.mu.
func (w *writer) resetSendTimeoutLocked() {
	s := w.s
	s.mu.AssertHeld()
	w.lastProgress = s.now()
	w.writeDeadline = after(w.lastProgress, s.limits.SendTimeout)
	w.kernelQueue.hasSample = false
	if w.writeDeadline != never {
		s.timer.setTimerLocked(w.writeDeadline)
		if sockstate.CanSeeUnsent {
			s.timer.setTimerLocked(after(w.lastProgress, s.limits.SendTimeout/kernelQueueChecks))
		}
	}
}

// kernelSendQueue tracks the bytes that the operating system has taken and not yet sent,
// guarded by the session's lock.
//
// The system reports room only when a third of these bytes are sent (for a unix socket,
// three quarters). A third can be more than a megabyte. Samples of the queue show the
// progress of a slow peer earlier.
type kernelSendQueue struct {
	raw            syscall.RawConn // nil if there is no socket
	socketSearched bool            // raw was searched for
	hasSample      bool            // sampled since the last progress; then the next two are set
	sampledBytes   int             // size of the queue
	sampleTime     time.Duration   // time of the sample
}

// kernelQueueChecks is the number of samples in Limits.SendTimeout.
const kernelQueueChecks = 8

// readUnsent returns the number of unsent bytes, and reports whether the number is known.
func (q *kernelSendQueue) readUnsent(conn net.Conn) (int, bool) {
	if !q.socketSearched {
		q.socketSearched = true
		q.raw = socketUnder(conn)
	}
	if q.raw == nil {
		return 0, false
	}
	return sockstate.UnsentBytes(q.raw)
}

// socketUnder returns the socket under conn, or nil.
func socketUnder(conn net.Conn) syscall.RawConn {
	switch carrier := carrierOf(conn).(type) {
	case *net.TCPConn, *net.UnixConn:
		return rawConn(carrier)
	}
	return nil
}

// isProgress reports whether a queue that has shrunk by fallen bytes, in the time since,
// shrinks fast enough: by writeChunk in the timeout.
func isProgress(fallen int, since, timeout time.Duration) bool {
	return fallen > 0 && float64(fallen) >= writeChunk*float64(since)/float64(timeout)
}

// checkSendProgressLocked restarts the send timeout if the operating system has sent
// enough: writeChunk in Limits.SendTimeout. Bytes that the writer adds between two
// samples count against the peer, but are fewer than the bytes of one write. Callers must
// hold s.mu.
func (w *writer) checkSendProgressLocked(now time.Duration) {
	s := w.s
	s.mu.AssertHeld()
	q, timeout := &w.kernelQueue, s.limits.SendTimeout
	if !sockstate.CanSeeUnsent || !w.writing || timeout == never {
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
