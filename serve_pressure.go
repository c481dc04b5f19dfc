package rpcx

import (
	"log/slog"
	"time"
)

// Back-pressure (I13). If the queue is full or crowded, and can empty without the reader,
// reading pauses: the goroutine of the reader returns. resumeReadingLocked starts readLoop
// again, on the pool. The caller is a goroutine that ends the reason for the pause: mostly a
// worker, by unlock.
//
// The queue is full at Limits.Queue and at Limits.QueueBytes. If the server holds
// Server.MaxQueuedBytes and the session more than its share, the queue is full, too. Before
// Session.Admit, the limits are those of serve_gate.go.
//
// The queue is crowded if at least as many requests wait as handlers have returned in the
// last quarter of Limits.ProcessingTimeout. Further requests would wait longer than that
// quarter. Fewer than two requests per worker never crowd the queue. If the peer can cancel
// requests, fewer than cancelRoom never do.
//
// The reader pauses after a hand-over. So while reading can pause, enqueueRequestLocked
// exceeds the limits, by at most maxDecodedBytes and one message. If reading must continue,
// enqueueRequestLocked refuses requests that arrive at a full queue.
//
// A running handler is tied while it waits for a reply of the session's peer, because the
// reply needs the reader. If all running handlers are tied, reading continues. A handler
// that waits for room in the outbox needs a peer that reads. If the writer makes no
// progress for currentStallLimit, such a handler is tied, too: the peer may wait for this
// side to read.
//
// A handler may wait for the peer in other ways, through another goroutine or session.
// Such waits are not recognized. Therefore reading also continues if no handler has
// returned for pauseLimit. While handlers of other sessions wait for this session, the
// limit is currentStallLimit, because this session's handlers may wait for those
// handlers.
//
// Even if handlers return all the time, a pause may last long: a few batches can fill the
// queue. After twice pauseLimit the reader takes at most maxDecodedBytes and one message,
// and pauses again. So the peer's SendTimeout does not end the session, and replies and
// pings arrive. The queue may then grow to twice its limits.
//
// The queue of a CallProgress holds up the reading, too. The goroutine in CallProgress empties
// the queue. If no value was taken for pauseLimit, that CallProgress ends, and reading
// continues. A goroutine of the same handler may wait for the peer meanwhile. Whether it is
// the goroutine in CallProgress is unknown, so that the limit is then currentStallLimit.
//
// In a pause, nobody notices the end of the input. A write that fails, a timeout, or the
// next reader ends such a session.

// backPressure is the state of a session's pauses, guarded by the session's lock.
type backPressure struct {
	since           time.Duration // start of the pause
	lastProgress    time.Duration // last return of a handler in the pause, or start of the pause
	longPauseLogged bool          // a pause longer than pauseLogDelay was logged
	pauseForbidden  bool          // reading continued after pauseLimit: no pause until there is room
	readUntilBytes  uint64        // no pause while Stats.BytesReceived is lower: a little is read
	replyWaiters    int           // running handlers that wait for a reply
	roomWaiters     int           // running handlers that wait for room only
	foreignWaiters  int           // waits for this session by handlers of other sessions
	writerStalled   bool          // no progress of the writer: roomWaiters are tied until the queue is empty
	stallCount      int           // number of recent stalls
	lastStall       time.Duration // time of the last stall

	// Returns of handlers in the current and the previous period. A period is an eighth
	// of Limits.ProcessingTimeout.
	periodStart                     time.Duration // start of the current period
	currentReturns, previousReturns int
}

const (
	// maxPauseLimit is the upper bound of pauseLimit.
	maxPauseLimit = 5 * time.Second
	// cancelRoom is the minimum number of waiting requests before a pause, if the peer
	// can cancel requests. No cancellation is read in a pause.
	cancelRoom = 64
	// stallLimit is the maximum time without progress in a pause, while others probably
	// wait for this session to read. Each further stall halves the time, until
	// stallResetTime passes without a stall.
	stallLimit     = time.Second
	stallResetTime = time.Minute
	// pauseLogDelay is the length of a pause before the pause is logged.
	pauseLogDelay = time.Second
	// maxDecodedBytes is the maximum size of messages handed over at once, plus one
	// message. Limits.QueueBytes can be exceeded by the same amount before reading
	// pauses.
	maxDecodedBytes = 64 << 10
)

// pauseLimit returns the maximum time in a pause without a returning handler. For a peer
// with the same limits, the time is less than half of the send timeout. A keep-alive of
// the peer gives up after at least twice the time.
func (l *Limits) pauseLimit() time.Duration {
	limit := min(maxPauseLimit, l.SendTimeout/4)
	if keepAlive := l.tcpKeepAlive(); keepAlive > 0 && keepAlive < limit {
		limit = min(limit, keepAlive*keepAliveProbes/2)
	}
	return limit
}

// queueFullErrorLocked returns the error for a request of the given size. If the queue
// has room, queueFullErrorLocked returns nil. Callers must hold s.mu.
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

// queueDepth returns the number of waiting requests, without those that can start now.
func (q *requestQueue) queueDepth() int { return q.count - max(0, q.limit-q.running) }

// isFullOrCrowdedLocked reports whether the queue is at least quarters/4 full or crowded.
// Unlike queueFullErrorLocked, isFullOrCrowdedLocked does not look at a further request.
// Callers must hold s.mu.
func (rs *requestServer) isFullOrCrowdedLocked(now time.Duration, quarters int) bool {
	s := rs.s
	s.mu.AssertHeld()
	if rs.count == 0 {
		return false
	}
	if rs.gate.closed.Load() {
		return rs.isGateQueueFullLocked(quarters) || s.load.isOverShare(s.memory.reported)
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

// quartersOf returns quarters/4 of n, rounded up.
func quartersOf(n, quarters int) int { return n - n/4*(4-quarters) }

// countRecentReturns returns the number of handlers that returned in the current and the
// previous period. The two periods are at most the last quarter of
// Limits.ProcessingTimeout.
func (b *backPressure) countRecentReturns(now time.Duration, l *Limits) int {
	if l.ProcessingTimeout == never {
		return l.Queue // requests never expire
	}
	switch period, passed := l.ProcessingTimeout/8, now-b.periodStart; {
	case passed >= 2*period:
		b.periodStart, b.previousReturns, b.currentReturns = now, 0, 0
	case passed >= period:
		b.periodStart, b.previousReturns, b.currentReturns = now, b.currentReturns, 0
	}
	return b.previousReturns + b.currentReturns
}

// mayPauseLocked reports whether the queue can empty without the reader, by a running
// handler that is not tied or by a starting worker. If the server handles too many bytes,
// a blocked session without running handlers waits for other sessions instead. While
// OnSession holds the workers, no call of this side may be pending. Callers must hold s.mu.
func (rs *requestServer) mayPauseLocked() bool {
	s := rs.s
	s.mu.AssertHeld()
	switch {
	case s.life.state != stateOpen || rs.pressure.pauseForbidden:
		return false
	case rs.workersHeld:
		return s.calls.table.pending == 0
	}
	tied := rs.pressure.replyWaiters
	if rs.pressure.writerStalled {
		tied += rs.pressure.roomWaiters
	}
	return rs.workerStarting || rs.blocked && rs.running == 0 || rs.running > tied
}

// pauseReading pauses reading if the session must pause, and reports whether it did. Only
// the reader calls pauseReading, after the hand-over of all decoded input.
func (r *reader) pauseReading() bool {
	s := r.s
	s.lock()
	defer s.unlock()
	now := s.now()
	b := &s.requests.pressure
	if !s.requests.mustPauseLocked(now, 4) || s.stats.BytesReceived < b.readUntilBytes {
		return false
	}
	b.since, b.lastProgress, b.longPauseLogged = now, now, false
	r.vacateLocked(vacantPaused, now)
	r.forgetPartialLocked() // an incomplete message waits for this side, not for the peer
	s.stats.Pauses++
	s.timer.setTimerLocked(now + min(s.limits.pauseLimit(), b.currentStallLimit(now)))
	if s.trace.Paused != nil {
		s.pool.RunTask(func() { s.trace.Paused(s) })
	}
	return true
}

// mustPauseLocked reports whether reading must pause: for the queue if it is at least
// quarters/4 full or crowded, or for a CallProgress. Callers must hold s.mu.
func (rs *requestServer) mustPauseLocked(now time.Duration, quarters int) bool {
	rs.s.mu.AssertHeld()
	return rs.mayPauseLocked() && rs.isFullOrCrowdedLocked(now, quarters) || rs.s.mustPauseForProgressLocked()
}

// checkPauseLocked resumes reading if the reason for the pause is gone. In a pause, each
// unlock calls checkPauseLocked. Callers must hold s.mu.
func (rs *requestServer) checkPauseLocked() {
	s := rs.s
	s.mu.AssertHeld()
	if s.reader.role.vacancy == vacantPaused && !rs.mustPauseLocked(s.now(), 3) {
		rs.resumeReadingLocked()
	}
}

// resumeReadingLocked starts a reader after a pause. Callers must hold s.mu.
func (rs *requestServer) resumeReadingLocked() {
	s := rs.s
	s.mu.AssertHeld()
	b, now := &rs.pressure, s.now()
	took := now - b.since
	s.stats.Paused += took
	s.activity.markActiveLocked() // silence counts only while the session reads
	if s.trace.Resumed != nil {
		s.pool.RunTask(func() { s.trace.Resumed(s, took) })
	}
	s.reader.startReaderLocked()
}

// recordHandlerReturnLocked records the return of c's handler. The next unlock ends a pause,
// if there is room now. Callers must hold s.mu.
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
	if s.reader.role.vacancy == vacantPaused {
		b.lastProgress = s.now()
	}
	if b.pauseForbidden && !rs.isFullOrCrowdedLocked(s.now(), 3) {
		b.pauseForbidden = false
	}
}

// checkPauseDeadlinesLocked logs a long pause, and ends a pause without a returning
// handler. Callers must hold s.mu.
func (rs *requestServer) checkPauseDeadlinesLocked(now time.Duration) {
	s := rs.s
	s.mu.AssertHeld()
	b := &rs.pressure
	if s.reader.role.vacancy != vacantPaused {
		return
	}
	if !b.longPauseLogged && now-b.since >= pauseLogDelay {
		b.longPauseLogged = true
		if s.isProgressFullLocked() {
			s.logs.logPeerLaterLocked(slog.LevelInfo, "reading paused: progress arrives faster than the function of CallProgress takes it",
				methodAttr(s.streams.Load().full[0].method))
		} else {
			s.logs.logPeerLaterLocked(slog.LevelInfo, "reading paused: requests arrive faster than they are handled",
				slog.Int("requests", rs.count), slog.Int("bytes", rs.bytes), slog.Int("handlers", rs.running))
		}
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
		progress = max(progress, written) // these handlers wait only for the writer
	}
	maxStall := s.limits.pauseLimit()
	if b.foreignWaiters > 0 || s.isProgressTiedLocked() {
		maxStall = min(maxStall, b.currentStallLimit(now))
	}
	resumeAt := after(progress, maxStall)
	readLittleAt := after(b.since, 2*s.limits.pauseLimit())
	if !rs.mayReadALittleLocked() {
		readLittleAt = never
	}
	switch {
	case s.reader.role.vacancy != vacantPaused:
		return
	case resumeAt <= now && !(rs.mayPauseLocked() && rs.isFullOrCrowdedLocked(now, 3)): // only a CallProgress holds up the reading
		s.endSlowProgressLocked()
		rs.resumeReadingLocked()
		return
	case resumeAt <= now:
		s.endSlowProgressLocked()
		if b.pauseForbidden = true; b.foreignWaiters > 0 {
			b.lastStall = now
			b.stallCount++
		}
		if b.stallCount <= 1 { // further stalls follow soon
			s.logs.logPeerLaterLocked(slog.LevelWarn, "reading goes on though the queue is full: no handler has returned",
				slog.Duration("for", now-progress), slog.Int("requests", rs.count))
		}
		rs.resumeReadingLocked()
		return
	case readLittleAt <= now:
		b.readUntilBytes = s.stats.BytesReceived + maxDecodedBytes
		rs.resumeReadingLocked()
		return
	case !b.longPauseLogged:
		resumeAt = min(resumeAt, b.since+pauseLogDelay)
	}
	s.timer.setTimerLocked(min(resumeAt, readLittleAt))
}

// mayReadALittleLocked reports whether the reader may take a little in a long pause. The
// queue must be below twice its limits, the gate must be open, and the peer must read its
// replies. Callers must hold s.mu.
func (rs *requestServer) mayReadALittleLocked() bool {
	s := rs.s
	s.mu.AssertHeld()
	return s.hasProgressRoomLocked() && !rs.gate.closed.Load() && rs.pressure.roomWaiters == 0 && rs.bytes/2 < s.limits.QueueBytes && rs.queueDepth()/2 < s.limits.Queue &&
		!s.load.isOverShare(s.memory.reported)
}

// currentStallLimit returns the present time without progress that a pause may last. Two
// sides that flood each other stall repeatedly: all stalls together last at most twice
// stallLimit.
func (b *backPressure) currentStallLimit(now time.Duration) time.Duration {
	if now-b.lastStall >= stallResetTime {
		b.stallCount = 0
	}
	return stallLimit >> min(b.stallCount, 20)
}

// handlerWaits counts the waits of a handler's goroutines for the session. The counters
// are small, because each request has them.
type handlerWaits struct {
	replies         int32
	room            int16 // correct again at the end of the waits, even after an overflow
	handlerReturned bool  // the remaining waits belong to no handler
}

// countWaiter adds n to the number of running handlers that wait as h does.
func (b *backPressure) countWaiter(h *handlerContext, n int) {
	switch {
	case h.waits.handlerReturned:
	case h.waits.replies > 0:
		b.replyWaiters += n
	case h.waits.room != 0:
		b.roomWaiters += n
	}
}

// changeWaitsLocked changes the number of waits of the handler h, which may be nil.
// Callers must hold s.mu.
func (rs *requestServer) changeWaitsLocked(h *handlerContext, replies, room int32) {
	s := rs.s
	s.mu.AssertHeld()
	if h == nil {
		return
	}
	b := &rs.pressure
	if h.session == s {
		if replies > 0 || room > 0 {
			s.reader.noteWaitLocked(h)
		}
		b.countWaiter(h, -1)
		h.waits.replies += replies
		h.waits.room += int16(room)
		b.countWaiter(h, 1)
		if replies > 0 && rs.count > 0 {
			rs.startWorkerIfNeededLocked() // the peer may call this side before replying
		}
		rs.checkPauseLocked()
	} else {
		b.foreignWaiters += int(replies + room)
	}
	if s.reader.role.vacancy == vacantPaused && (b.roomWaiters+b.foreignWaiters > 0 || s.isProgressTiedLocked()) {
		now := s.now()
		s.timer.setTimerLocked(now + b.currentStallLimit(now))
	}
}

// beginReplyWait records that the handler h waits for a reply. h may be nil.
func (rs *requestServer) beginReplyWait(h *handlerContext) { rs.changeReplyWaits(h, 1) }

// endReplyWait ends a wait of beginReplyWait.
func (rs *requestServer) endReplyWait(h *handlerContext) { rs.changeReplyWaits(h, -1) }

func (rs *requestServer) changeReplyWaits(h *handlerContext, replies int32) {
	s := rs.s
	if h == nil {
		return
	}
	if own := h.session; own != s && replies > 0 {
		own.lock()
		own.reader.noteWaitLocked(h)
		own.unlock()
	}
	s.lock()
	rs.changeWaitsLocked(h, replies, 0)
	s.unlock()
}
