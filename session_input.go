package rpcx

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// partStep is the number of bytes of an incomplete message after which the session is
// charged. A message that is being dropped need never end.
const partStep = 1 << 20

// receivePart accounts for a buffer of size bytes for an incomplete message. The reader
// calls receivePart before reading more of the message, and with a smaller size after
// releasing memory. If the server has no room, receivePart returns an error.
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
	s.calls.client.noteInputLocked()
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

// noRoomError returns the error for a message for which a buffer of size bytes is too
// large.
func (r *reader) noRoomError(size int) error {
	return &fullError{&FrameError{Message: fmt.Sprintf("no room for a message of more than %s bytes: %s", thousands(size/2), overLimitText(r.s.load.limit, "bytes on this server", "Server.MaxQueuedBytes"))}}
}

// partialInput is an incomplete message of more than readBuffer bytes. The zero value
// means no message. The session's lock guards the fields, and only the reader changes the
// fields.
type partialInput struct {
	bufferSize     int           // size of the buffer
	began          time.Duration // when bufferSize exceeded readBuffer
	lastProgress   time.Duration // for a large message: when partialRate bytes had come since the last time
	messagesBefore uint64        // messages received before
	progressBytes  uint64        // bytes received until lastProgress
}

// partialRate is the number of bytes of a large message (more than largeBuffer) that must
// come within Limits.SendTimeout on a server near MaxQueuedBytes. A write has to send as
// many bytes.
const partialRate = writeChunk

// trackPartialLocked tracks the message for which the reader has a buffer of size bytes.
// If size is 0, there is no message. Only the reader calls trackPartialLocked. Callers
// must hold s.mu.
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

// forgetPartialLocked reverts trackPartialLocked. Callers must hold s.mu.
func (r *reader) forgetPartialLocked() {
	s := r.s
	s.mu.AssertHeld()
	s.memory.partial = partialInput{}
}

// checkPartialLocked ends the session if a large incomplete message makes no progress on a
// server that is half full. In a pause, no message is tracked. Callers must hold s.mu.
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

// Half-close (I14). A peer may close its half of the connection after its last message,
// and continue to read. If the input ends between two messages, the session handles the
// received messages and sends the replies. Then the session ends with io.EOF. Pending
// calls fail at once, because no reply can come.
//
// A peer that has closed the whole connection looks the same until a write fails. So the
// session also ends at the first write error, when the operating system reports both
// halves closed, and after Limits.HalfClose.

// inputCheckInterval is the interval of asking the operating system whether the peer is
// gone.
const inputCheckInterval = time.Second

// inputState is the state of the input and of its end, guarded by the session's lock.
type inputState struct {
	stalled *stalledInput // nil if there is none, or after the first message

	closed        bool          // the peer has finished sending
	closeStarted  bool          // everything is answered
	closeDeadline time.Duration // latest end of the session

	writerWaiting bool          // the writer has failed, and waits for the reader
	waitDeadline  time.Duration // end of that wait
}

// errInputClosed is the reason for the failure of calls to a peer that has finished
// sending.
var errInputClosed = errors.New("the peer has finished sending")

// halfCloser is a connection whose halves can be closed separately.
type halfCloser interface{ CloseWrite() error }

// closeInput handles the end of the input with err, and reports whether the session
// continues without input. Only the reader calls closeInput.
func (r *reader) closeInput(err error) bool {
	s := r.s
	if err != io.EOF {
		return false
	}
	limit := s.halfCloseLimit()
	if limit <= 0 || s.conn.hasHungUp() {
		return false
	}
	s.conn.releaseInput()
	s.lock()
	if s.life.state >= stateClosing {
		s.unlock()
		return false
	}
	now := s.now()
	s.input.closed, s.input.closeDeadline = true, after(now, limit)
	s.calls.client.markLostLocked()
	s.calls.failUnanswerableLocked()
	if ss := s.streams.Load(); ss != nil {
		ss.endLocked(s.endOfInput())
	}
	s.writer.roomLine.wakeAll()
	s.calls.limiter.line.wakeAll()
	s.timer.setTimerLocked(min(s.input.closeDeadline, after(now, inputCheckInterval)))
	s.life.runningLoops--
	if s.input.writerWaiting {
		s.writer.wakeWriter()
	}
	s.unlock()
	return true
}

// failUnanswerableLocked fails calls with written requests after the end of the input. A
// queued request is still written, and the peer may execute it. So an unwritten call fails
// when the write has succeeded or the session ends. Callers must hold s.mu.
func (pc *pendingCalls) failUnanswerableLocked() {
	s := pc.s
	s.mu.AssertHeld()
	if s.input.closed && s.life.state < stateClosing {
		pc.failPendingLocked(s.endOfInput(), false)
	}
}

// waitForEndOfInput waits for the reader to read the remaining input, if err is the close
// of the connection by the peer. A write notices the close before the reader does. The
// writer calls waitForEndOfInput after a failed write.
func (w *writer) waitForEndOfInput(err error) {
	s := w.s
	if !isHangUp(err) {
		return
	}
	limit := closeGrace
	switch s.Conn().(type) {
	case *joinedConn, *program: // the input may continue
	default:
		if s.conn.hasHungUp() { // the remaining input has already arrived
			limit = max(limit, s.halfCloseLimit())
		}
	}
	s.lock()
	defer s.unlock()
	s.input.writerWaiting, s.input.waitDeadline = true, after(s.now(), limit)
	s.timer.setTimerLocked(s.input.waitDeadline)
	for s.life.state < stateClosing && !s.input.closed && s.now() < s.input.waitDeadline {
		w.waitForWakeup()
	}
	s.input.writerWaiting = false
}

// halfCloseLimit returns how long the session may continue without input. For a
// connection without halves, the result is 0.
func (s *Session) halfCloseLimit() time.Duration {
	if _, ok := s.conn.(*messages); ok {
		return 0 // even if the type has the methods of its underlying connection
	}
	limit := s.limits.HalfClose
	switch sameBytesConn(s.Conn()).(type) {
	case *joinedConn, *program, *net.UnixConn:
		if limit == 0 {
			limit = after(s.limits.ProcessingTimeout, closeGrace) // expired requests are still answered
		}
	case halfCloser:
		if limit == 0 {
			limit = 5 * time.Second
		}
	default:
		return 0
	}
	return limit
}

// closeIfAllAnsweredLocked ends a session without input when nothing is left to do.
// Callers must hold s.mu.
func (s *Session) closeIfAllAnsweredLocked() {
	s.mu.AssertHeld()
	running := s.requests.running
	if s.exchange() != nil {
		if s.cost.limitExceeded {
			return // closeForCost closes the session
		}
		running -= len(s.requests.lateHandlers)
	}
	if !s.input.closed || s.input.closeStarted || s.life.state >= stateClosing ||
		s.life.unsentErrors > 0 || s.life.callbackTasks > 0 || running > 0 || s.requests.count > 0 || s.writer.writeSideLent || s.writer.size() > 0 {
		return
	}
	s.input.closeStarted = true
	if s.exchange() != nil {
		s.effects.closeSessionWith(&exchangeAnswered)
	} else {
		s.effects.closeSession(io.EOF, closeGrace)
	}
}

// checkHalfCloseLocked ends a session without input at input.closeDeadline. Before the
// deadline, checkHalfCloseLocked schedules checks whether the peer is gone. Callers must
// hold s.mu.
func (s *Session) checkHalfCloseLocked(now time.Duration) {
	s.mu.AssertHeld()
	switch {
	case !s.input.closed || s.life.state >= stateClosing || s.exchange() != nil:
		return
	case s.input.closeDeadline <= now:
		s.logs.logLaterLocked(slog.LevelWarn, "session ended: the peer has finished sending, and its requests take too long",
			timeLimitAttr("Limits.HalfClose", s.halfCloseLimit()), slog.Int("requests", s.requests.count), slog.Int("handlers", s.requests.running))
		s.effects.closeSession(io.EOF, closeGrace)
		return
	}
	s.timer.setTimerLocked(min(s.input.closeDeadline, now+inputCheckInterval))
	s.effects.setFlag(&s.effects.hangUpCheckDue)
}

// closeIfHungUp ends the session if the operating system reports that the peer is gone.
func (s *Session) closeIfHungUp() {
	if x := s.exchange(); x != nil {
		x.closeIfContextEnded()
	} else if s.conn.hasHungUp() {
		s.closeWith(io.EOF, 0)
	}
}

// endOfInput returns io.EOF. If the program of the session has ended, the error also
// reports the exit, and wraps io.EOF.
func (s *Session) endOfInput() error {
	if p, ok := s.Conn().(*program); ok && p.hasEnded() && p.exitErr == nil {
		return p.newExitError()
	}
	return io.EOF
}

// stalledInput is a copy of the first bytes of input, as long as no message is complete.
// The peer may never send the end of message that this side expects.
type stalledInput struct {
	begin     []byte // at most maxStalledInput bytes
	size      int    // of the input so far
	framing   framing
	checkTime time.Duration // when to examine the input, unless more arrives; never after the check
	noted     bool          // logged
}

const (
	// maxStalledInput is the maximum size of stalledInput.begin.
	maxStalledInput = 4 << 10
	// stalledInputTime is the time without more input before the check.
	stalledInputTime = 5 * time.Second

	stalledInputText = "what has come is not taken for a message"
)

// keepStalledInputLocked copies the received part of the first message. Callers must hold
// s.mu and be the reader.
func (r *reader) keepStalledInputLocked() {
	s := r.s
	s.mu.AssertHeld()
	input, f := s.conn.unreadInput()
	if f == framedOtherwise || s.stats.Errors > 0 { // after an error, the input may be a part of a dropped message
		s.input.stalled = nil
		return
	}
	if s.input.stalled == nil {
		s.input.stalled = &stalledInput{framing: f}
	}
	st := s.input.stalled
	if len(st.begin) < maxStalledInput {
		st.begin = append(st.begin[:0], input[:min(len(input), maxStalledInput)]...)
	}
	st.size, st.checkTime = len(input), after(s.now(), stalledInputTime)
	s.timer.setTimerLocked(st.checkTime)
}

// recognizeStalledInputLocked describes the stalled input, or returns "" if the input is
// not recognized. Callers must hold s.mu.
func (r *reader) recognizeStalledInputLocked() string {
	s := r.s
	s.mu.AssertHeld()
	st := s.input.stalled
	if st == nil || s.stats.MessagesReceived > 0 || s.stats.Errors > 0 {
		return ""
	}
	return recognizeInput(st.begin, st.framing, len(st.begin) == st.size)
}

// checkStalledInputLocked logs, once, a description of input that stays incomplete for
// stalledInputTime. Callers must hold s.mu.
func (r *reader) checkStalledInputLocked(now time.Duration) {
	s := r.s
	s.mu.AssertHeld()
	st := s.input.stalled
	switch {
	case st == nil:
	case s.stats.MessagesReceived > 0:
		s.input.stalled = nil
	case st.checkTime > now:
		s.timer.setTimerLocked(st.checkTime)
	case !st.noted:
		st.checkTime = never
		if like := r.recognizeStalledInputLocked(); like != "" {
			st.noted = true
			s.logs.logLaterLocked(slog.LevelWarn, stalledInputText, slog.Int("bytes", st.size),
				slog.String("begin", excerpt(st.begin)), slog.String("looks like", like))
		}
	}
}
