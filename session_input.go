package rpcx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"
)

// Back-pressure (I13). The reader pauses when the queue is full and a running
// handler can empty it. Then nobody has the reader's role: its goroutine has
// returned, and whoever makes room starts readLoop again.
//
// The queue is full at Limits.Queue, at Limits.QueueBytes, or when the server holds
// Server.MaxQueuedBytes and the session more than its share. It is crowded before
// that, when more requests wait than handlers have returned in the last quarter of
// Limits.ProcessingTimeout (but at least two for each worker): those that arrive
// next would wait longer than that. Reading pauses at either. Where it has to go on,
// only what arrives at a full queue is refused.
//
// A running handler is tied while it waits for a reply of the session's peer: it needs
// the reader, so reading goes on when all are tied. A handler that waits for room in
// the outbox needs a peer that reads. It is tied, too, once the writer has made no
// progress for currentStallLimit, for then the peer may wait for this side to read.
//
// A handler that waits for the peer in another way (through another goroutine or
// session) is not recognised: therefore reading also goes on when no handler has
// returned for pauseLimit. That is currentStallLimit while handlers of other sessions wait
// for this one: they may be what this session's handlers wait for.
//
// Handlers may return all the time, and a pause take long all the same: a few batches
// can fill the queue. After twice pauseLimit the reader takes maxDecodedBytes and a
// message at most, and pauses again. So the peer's SendTimeout does not end the session,
// and replies and pings come through. What is read so is admitted, until the queue is
// twice as full as it may be.

// backPressure is the state of a session's pauses. It is guarded by the session's lock.
type backPressure struct {
	paused          bool          // nobody reads
	since           time.Duration // when the pause began
	lastProgress    time.Duration // when a handler last returned in the pause, or when it began
	longPauseLogged bool          // a pause of more than pauseLogDelay was logged
	pauseForbidden  bool          // reading goes on after pauseLimit: no pause before there is room
	readUntilBytes  uint64        // Stats.BytesReceived below which there is no pause: a little is read
	replyWaiters    int           // running handlers that wait for a reply
	roomWaiters     int           // running handlers that wait for room and for no reply
	foreignWaiters  int           // waits of handlers of other sessions for this one
	writerStalled   bool          // the writer made no progress: these are tied, until the queue is empty
	stallCount      int           // how often that was so lately
	lastStall       time.Duration // when it was last

	// Handlers that have returned in the current period and in the one before. A
	// period is an eighth of Limits.ProcessingTimeout.
	periodStart                     time.Duration // when the current one began
	currentReturns, previousReturns int
}

const (
	// maxPauseLimit is the longest time without a returning handler in a pause.
	maxPauseLimit = 5 * time.Second
	// cancelRoom is how many requests may wait at least if the peer can cancel them: it
	// is not heard in a pause.
	cancelRoom = 64
	// currentStallLimit is how long a pause may bring no progress where it is likely that others
	// wait for this session to read; half of that the next time, and so on, until there
	// has been no stall for stallResetTime.
	stallLimit     = time.Second
	stallResetTime = time.Minute
	// pauseLogDelay is how long a pause may take before it is logged.
	pauseLogDelay = time.Second
	// maxDecodedBytes is how many bytes of messages are handed over at once: by so many,
	// and one message, Limits.QueueBytes can be exceeded before reading pauses.
	maxDecodedBytes = 64 << 10
)

// pauseLimit returns how long a pause may last without a returning handler: less than
// half of what the peer, with the same limits, waits for a write, and than what a
// keep-alive waits for life.
func (l *Limits) pauseLimit() time.Duration {
	limit := min(maxPauseLimit, l.SendTimeout/4)
	if keepAlive := l.tcpKeepAlive(); keepAlive > 0 && keepAlive < limit {
		limit = min(limit, keepAlive*keepAliveProbes/2)
	}
	return limit
}

// queueFullErrorLocked returns the error for a request of the given size that finds no
// room, nil if there is room. Callers must hold s.mu.
func (rs *requestServer) queueFullErrorLocked(size int) *Error {
	s := rs.s
	s.mu.AssertHeld()
	switch {
	case rs.queueDepth() >= s.limits.Queue:
		return notStarted("queue", overLimitText(s.limits.Queue, "requests waiting", "Limits.Queue"))
	case rs.count > 0 && size > s.limits.QueueBytes-rs.bytes:
		return notStarted("queue", overLimitText(s.limits.QueueBytes, "bytes of requests waiting", "Limits.QueueBytes"))
	case s.load.isOverShare(s.memory.reported) || s.load.exceedsCeiling(size):
		return notStarted("queue", overLimitText(s.load.limit, "bytes waiting", "Server.MaxQueuedBytes"))
	}
	return nil
}

// queueDepth returns how many requests wait, without those whose turn it is.
func (in *requestQueue) queueDepth() int { return in.count - max(0, in.limit-in.running) }

// isCrowdedLocked reports whether the requests that wait take so many quarters of the
// room for them, or more. Callers must hold s.mu.
func (rs *requestServer) isCrowdedLocked(now time.Duration, quarters int) bool {
	s := rs.s
	s.mu.AssertHeld()
	if rs.count == 0 {
		return false
	}
	if rs.bytes >= quartersOf(s.limits.QueueBytes, quarters) || s.load.isOverShare(s.memory.reported) {
		return true
	}
	depth := rs.queueDepth()
	if depth <= 0 {
		return false
	}
	room := 2 * rs.limit
	if s.cancellation != nil {
		room = max(room, cancelRoom)
	}
	if depth >= quartersOf(room, quarters) {
		room = max(room, rs.pressure.countRecentReturns(now, s.limits))
	}
	return depth >= quartersOf(min(room, s.limits.Queue), quarters)
}

// quartersOf returns so many quarters of n, rounded up.
func quartersOf(n, quarters int) int { return n - n/4*(4-quarters) }

// countRecentReturns returns how many handlers have returned in the last quarter of
// Limits.ProcessingTimeout, or a little less.
func (b *backPressure) countRecentReturns(now time.Duration, l *Limits) int {
	if l.ProcessingTimeout == never {
		return l.Queue // nothing expires, however long it waits
	}
	switch period, passed := l.ProcessingTimeout/8, now-b.periodStart; {
	case passed >= 2*period:
		b.periodStart, b.previousReturns, b.currentReturns = now, 0, 0
	case passed >= period:
		b.periodStart, b.previousReturns, b.currentReturns = now, b.currentReturns, 0
	}
	return b.previousReturns + b.currentReturns
}

// mayPauseLocked reports whether somebody will make room who does not need the
// reader: a running handler that is not tied, a worker that is being started, or
// OnSession while it calls nobody. Callers must hold s.mu.
func (rs *requestServer) mayPauseLocked() bool {
	s := rs.s
	s.mu.AssertHeld()
	switch {
	case s.life.state != stateOpen || rs.pressure.pauseForbidden:
		return false
	case rs.paused:
		return s.calls.table.pending == 0
	}
	tied := rs.pressure.replyWaiters
	if rs.pressure.writerStalled {
		tied += rs.pressure.roomWaiters
	}
	return rs.workerStarting || rs.blocked && rs.running == 0 || rs.running > tied
}

// pauseReading gives up the reader's role if the session is to pause, and reports whether
// it did. Only the reader calls it, after it has handed over all that it had decoded.
func (r *reader) pauseReading() bool {
	s := r.s
	s.lock()
	defer s.unlock()
	now := s.now()
	b := &s.requests.pressure
	if !s.requests.mayPauseLocked() || !s.requests.isCrowdedLocked(now, 4) || s.stats.BytesReceived < b.readUntilBytes {
		return false
	}
	b.paused, b.since, b.lastProgress, b.longPauseLogged = true, now, now, false
	r.forgetPartialLocked() // it is this side that does not go on
	s.life.runningLoops--
	s.stats.Pauses++
	s.timer.setTimerLocked(now + min(s.limits.pauseLimit(), b.currentStallLimit(now)))
	if s.trace.Paused != nil {
		s.pool.runTask(func() { s.trace.Paused(s) })
	}
	return true
}

// checkPauseLocked has reading go on if there is no reason for the pause any more.
// It is called after each change that can be such a reason. Callers must hold s.mu.
func (rs *requestServer) checkPauseLocked() {
	s := rs.s
	s.mu.AssertHeld()
	if rs.pressure.paused && !(rs.mayPauseLocked() && rs.isCrowdedLocked(s.now(), 3)) {
		rs.resumeReadingLocked()
	}
}

// resumeReadingLocked starts a reader after a pause. Callers must hold s.mu.
func (rs *requestServer) resumeReadingLocked() {
	s := rs.s
	s.mu.AssertHeld()
	b, now := &rs.pressure, s.now()
	b.paused = false
	s.life.runningLoops++
	took := now - b.since
	s.stats.Paused += took
	s.activity.markActiveLocked() // silence counts only while somebody reads
	if s.trace.Resumed != nil {
		s.pool.runTask(func() { s.trace.Resumed(s, took) })
	}
	s.pool.runTask(s.readLoopFn)
}

// recordHandlerReturnLocked notes that the handler of c has returned. Callers must hold
// s.mu, and call checkPauseLocked before they release it.
func (rs *requestServer) recordHandlerReturnLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	b := &rs.pressure
	b.currentReturns++
	b.countWaiter(&c.ctx, -1)
	c.ctx.waits.handlerReturned = true
	if rs.count == 0 {
		b.writerStalled = false
	}
	if b.paused {
		b.lastProgress = s.now()
	}
	if b.pauseForbidden && !rs.isCrowdedLocked(s.now(), 3) {
		b.pauseForbidden = false
	}
}

// checkPauseDeadlinesLocked is called by the session's timer: it logs a long pause, and
// ends one in which no handler returns. Callers must hold s.mu.
func (rs *requestServer) checkPauseDeadlinesLocked(now time.Duration) {
	s := rs.s
	s.mu.AssertHeld()
	b := &rs.pressure
	if !b.paused {
		return
	}
	if !b.longPauseLogged && now-b.since >= pauseLogDelay {
		b.longPauseLogged = true
		s.logs.logPeerLaterLocked(slog.LevelInfo, "reading paused: requests arrive faster than they are handled",
			slog.Int("requests", rs.count), slog.Int("bytes", rs.bytes), slog.Int("handlers", rs.running))
	}
	progress := b.lastProgress
	if b.roomWaiters > 0 && rs.running <= b.replyWaiters+b.roomWaiters && !b.writerStalled {
		written := max(b.since, s.writer.lastProgress)
		if stall := written + b.currentStallLimit(now); stall <= now {
			b.writerStalled, b.lastStall = true, now
			b.stallCount++
			rs.checkPauseLocked()
		} else {
			s.timer.setTimerLocked(stall)
		}
		progress = max(progress, written) // which is all that these handlers wait for
	}
	patience := s.limits.pauseLimit()
	if b.foreignWaiters > 0 {
		patience = min(patience, b.currentStallLimit(now))
	}
	limit := after(progress, patience)
	sip := after(b.since, 2*s.limits.pauseLimit())
	if !rs.mayReadALittleLocked() {
		sip = never
	}
	switch {
	case !b.paused:
		return
	case limit <= now:
		if b.pauseForbidden = true; b.foreignWaiters > 0 {
			b.lastStall = now
			b.stallCount++
		}
		if b.stallCount <= 1 { // the next ones come soon
			s.logs.logPeerLaterLocked(slog.LevelWarn, "reading goes on though the queue is full: no handler has returned",
				slog.Duration("for", now-progress), slog.Int("requests", rs.count))
		}
		rs.resumeReadingLocked()
		return
	case sip <= now:
		b.readUntilBytes = s.stats.BytesReceived + maxDecodedBytes
		rs.resumeReadingLocked()
		return
	case !b.longPauseLogged:
		limit = min(limit, b.since+pauseLogDelay)
	}
	s.timer.setTimerLocked(min(limit, sip))
}

// mayReadALittleLocked reports whether a little may be read in a long pause: not if the queue
// is twice as full as it may be, and not if the peer does not read its replies. Callers
// must hold s.mu.
func (rs *requestServer) mayReadALittleLocked() bool {
	s := rs.s
	s.mu.AssertHeld()
	return rs.pressure.roomWaiters == 0 && rs.bytes/2 < s.limits.QueueBytes && rs.queueDepth()/2 < s.limits.Queue &&
		!s.load.isOverShare(s.memory.reported)
}

// currentStallLimit returns how long a pause may bring no progress now. Two sides that flood
// each other stall again and again: all of that together takes no longer than twice
// currentStallLimit.
func (b *backPressure) currentStallLimit(now time.Duration) time.Duration {
	if now-b.lastStall >= stallResetTime {
		b.stallCount = 0
	}
	return stallLimit >> min(b.stallCount, 20)
}

// handlerKey is the context key for the context of the handler that it is made from.
type handlerKey struct{}

// handlerOf returns the context of the handler that ctx is made from, nil if there is
// none. It may be a handler of another session.
func handlerOf(ctx context.Context) *handlerContext {
	h, _ := ctx.Value(handlerKey{}).(*handlerContext)
	return h
}

// handlerWaits are the waits of a handler's goroutines for the session. They are small, since
// each request has some.
type handlerWaits struct {
	replies         int32
	room            int16 // beyond its range it is right again when the waits end
	handlerReturned bool  // the handler has: then they are nobody's
}

// countWaiter counts a running handler by what it waits for.
func (b *backPressure) countWaiter(h *handlerContext, n int) {
	switch {
	case h.waits.handlerReturned:
	case h.waits.replies > 0:
		b.replyWaiters += n
	case h.waits.room != 0:
		b.roomWaiters += n
	}
}

// changeWaitsLocked changes what the handler h waits for; a nil h is none. Callers
// must hold s.mu.
func (rs *requestServer) changeWaitsLocked(h *handlerContext, replies, room int32) {
	s := rs.s
	s.mu.AssertHeld()
	if h == nil {
		return
	}
	b := &rs.pressure
	if h.session == s {
		b.countWaiter(h, -1)
		h.waits.replies += replies
		h.waits.room += int16(room)
		b.countWaiter(h, 1)
		if replies > 0 && rs.count > 0 {
			rs.startWorkerIfNeededLocked() // who answers may ask before
		}
		rs.checkPauseLocked()
	} else {
		b.foreignWaiters += int(replies + room)
	}
	if b.paused && b.roomWaiters+b.foreignWaiters > 0 {
		now := s.now()
		s.timer.setTimerLocked(now + b.currentStallLimit(now))
	}
}

// beginReplyWait notes that the handler h waits for a reply; a nil h is none.
func (rs *requestServer) beginReplyWait(h *handlerContext) { rs.changeReplyWaits(h, 1) }

// endReplyWait ends what beginReplyWait has begun.
func (rs *requestServer) endReplyWait(h *handlerContext) { rs.changeReplyWaits(h, -1) }

func (rs *requestServer) changeReplyWaits(h *handlerContext, replies int32) {
	s := rs.s
	if h != nil {
		s.lock()
		rs.changeWaitsLocked(h, replies, 0)
		s.unlock()
	}
}

// Half-close (I14). A peer may close its half of the connection when it has sent all
// that it has to say, and read on. When its input ends between two messages, the
// session handles what it has read and sends the replies; then it ends with io.EOF.
// There is nobody to call any more: what is pending fails at once.
//
// A peer that has closed the whole connection looks the same, until something is
// written. So the session also ends at the first error of a write, when the operating
// system says that both halves are closed, and after Limits.HalfClose.

// inputCheckInterval is how often the operating system is asked whether the peer is gone.
const inputCheckInterval = time.Second

// inputState is the state of a session whose peer has finished sending. It is guarded
// by the session's lock.
type inputState struct {
	stalled *stalledInput // nil if there is none, or once a message has come

	closed        bool
	closeStarted  bool          // nothing is left to do
	closeDeadline time.Duration // when the session ends, whatever is left

	writerWaiting bool          // the writer has failed, and waits for the reader
	waitDeadline  time.Duration // for so long at most
}

// errInputClosed is the reason why nothing can be asked of a peer that has finished
// sending.
var errInputClosed = errors.New("the peer has finished sending")

// halfCloser is a connection of which the peer may close one half.
type halfCloser interface{ CloseWrite() error }

// closeInput is called by the reader when the input has ended with err. It reports
// whether the session goes on without input.
func (r *reader) closeInput(err error) bool {
	s := r.s
	if err != io.EOF {
		return false
	}
	limit := s.halfCloseLimit()
	if limit <= 0 || s.conn.hasHungUp() {
		return false
	}
	s.lock()
	if s.life.state >= stateClosing {
		s.unlock()
		return false
	}
	now := s.now()
	s.input.closed, s.input.closeDeadline = true, after(now, limit)
	s.calls.failPendingLocked(s.endOfInput(), true)
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

// waitForEndOfInput waits until the reader has read what the peer had sent, if err says that
// the peer has closed the connection: a write finds out before the reader does. The
// writer calls it when a write has failed.
func (w *writer) waitForEndOfInput(err error) {
	s := w.s
	if !isHangUp(err) {
		return
	}
	limit := closeGrace
	switch s.Conn().(type) {
	case *joinedConn, *program: // whose input may go on
	default:
		if s.conn.hasHungUp() { // what is left has arrived already
			limit = max(limit, s.halfCloseLimit())
		}
	}
	s.lock()
	defer s.unlock()
	s.input.writerWaiting, s.input.waitDeadline = true, after(s.now(), limit)
	s.timer.setTimerLocked(s.input.waitDeadline)
	for s.life.state < stateClosing && !s.input.closed && s.now() < s.input.waitDeadline {
		w.writerIdle = true
		w.writerWakeup.Wait()
	}
	s.input.writerWaiting = false
}

// halfCloseLimit returns how long the session may go on without input; 0 if the
// connection has no halves.
func (s *Session) halfCloseLimit() time.Duration {
	if _, ok := s.conn.(*messages); ok {
		return 0 // whatever methods the type has of the connection below
	}
	limit := s.limits.HalfClose
	conn := s.Conn()
	for {
		switch c := conn.(type) {
		case *SOCKSConn:
			conn = c.Conn
			continue
		case *joinedConn, *program, *net.UnixConn:
			if limit == 0 {
				limit = after(s.limits.ProcessingTimeout, closeGrace) // what times out is answered
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
}

// closeIfAllAnsweredLocked ends a session without input when nothing is left to do. Callers
// must hold s.mu.
func (s *Session) closeIfAllAnsweredLocked() {
	s.mu.AssertHeld()
	if !s.input.closed || s.input.closeStarted || s.life.state >= stateClosing ||
		s.life.unsentErrors > 0 || s.requests.running > 0 || s.requests.count > 0 || s.writer.writeSideLent || s.writer.size() > 0 {
		return
	}
	s.input.closeStarted = true
	s.effects.closeSession(io.EOF, closeGrace)
}

// checkHalfCloseLocked is called by the session's timer. It ends a session whose input
// has ended, when its time is over or the peer is gone. Callers must hold s.mu.
func (s *Session) checkHalfCloseLocked(now time.Duration) {
	s.mu.AssertHeld()
	switch {
	case !s.input.closed || s.life.state >= stateClosing:
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

// closeIfHungUp ends the session if the operating system says that the peer is gone.
func (s *Session) closeIfHungUp() {
	if s.conn.hasHungUp() {
		s.closeWith(io.EOF, 0)
	}
}

// endOfInput returns io.EOF, or an error that wraps it and says that the program has
// ended which the session was started with.
func (s *Session) endOfInput() error {
	if p, ok := s.Conn().(*program); ok && p.hasEnded() && p.exitErr == nil {
		return p.newExitError()
	}
	return io.EOF
}
