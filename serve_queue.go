package rpcx

import (
	"log/slog"
	"maps"
	"runtime"
	"time"
)

// requestQueue holds the queued requests and counts the workers. Callers must hold s.mu.
//
// Workers take entries in the order of arrival. So the queued entries are at the end of
// requestServer.open, the list of all unanswered entries. Between queued entries may be
// refused batches whose replies are about to be queued.
type requestQueue struct {
	first           *deadline // deadline of the next entry; nil if the queue is empty
	count           int       // number of queued entries
	bytes           int       // bytes of queued entries
	begunBatchBytes int       // bytes of batches that have running handlers and no queued member

	workers          int                       // workers of the session
	workerStarting   bool                      // a worker was called and has not locked s.mu yet
	running          int                       // running handlers
	lateHandlers     map[*peerRequest]struct{} // running handlers whose requests have timed out
	lateAt           time.Duration             // when to log that late handlers have all places; 0 if they do not
	allLate          bool                      // logged, and late handlers have remained since
	limit            int                       // maximum of workers
	workersHeld      bool                      // no worker is called until the handshake, Trace.Connected and OnSession return
	order            Order
	notificationRuns bool // a notification's handler runs, and Options.Order forbids every other start

	handling int  // counted bytes of requests whose handlers run
	blocked  bool // waits until the server handles fewer bytes; see serverLoad
	needs    int  // bytes of the request that blocks, or last blocked, the session; set under s.mu and load.mu
	reserved int  // bytes reserved for a worker that has not taken the request yet

	tiedHandling int // part of handling that does not count for a blocked session; guarded by load.mu
}

// requestServer handles the requests of the peer.
type requestServer struct {
	requestQueue
	s           *Session
	pressure    backPressure
	gate        gateState
	cancellable map[string]*peerRequest // unanswered requests by id, if the peer can cancel requests
	meta        *Meta                   // Options.Meta, or nil; does not change
	open        deadlineList            // deadlines of unanswered entries
	callbacks   map[*peerRequest]*replyCallbacks
	lastRequest time.Duration // when a request last arrived, also a refused one; not for notifications
}

// queueEntry is an entry of the request queue: a single request, or a batch. Callers must
// hold s.mu.
type queueEntry interface {
	expirer
	// beginNext returns the next request to be handled, or nil. last reports whether the
	// entry is then empty.
	beginNext(s *Session) (c *peerRequest, last bool)
	// about returns the log message and an attribute for an unhandled entry.
	about() (msg string, what slog.Attr)
	// refuseRemaining answers the requests that have not begun with e. from is the send
	// mode.
	refuseRemaining(s *Session, e *Error, from sendMode)
	// appendRequests appends the requests for which want returns true.
	appendRequests(calls []*peerRequest, want func(*peerRequest) bool) []*peerRequest
	// abortRequest answers the request c with e. If e is nil, the request gets no reply.
	abortRequest(s *Session, c *peerRequest, e *Error)
	// markArrived records the admission of the entry.
	markArrived(s *Session, now time.Duration)
	requestDeadline() *deadline
	// isQueued reports whether the entry is in the queue.
	isQueued() bool
	queuedBytes() int // bytes for Limits.QueueBytes
	// nextHandlingBytes returns the bytes counted while the next request is handled. The
	// result is 0 if the bytes are few or no request is left.
	nextHandlingBytes() int
}

// push counts e as queued. The caller has appended the deadline of e to
// requestServer.open.
func (q *requestQueue) push(e queueEntry) {
	if q.first == nil {
		q.first = e.requestDeadline()
	}
	q.count++
	q.bytes += e.queuedBytes()
}

// removeEntry removes a queued entry. The deadline of e must still be in
// requestServer.open.
func (q *requestQueue) removeEntry(e queueEntry) {
	if q.first == e.requestDeadline() {
		q.first = nextWaiting(q.first.next)
	}
	q.count--
	q.bytes -= e.queuedBytes()
	if b, ok := e.(*peerBatch); ok && b.handlers > 0 {
		b.begunCounted = true
		q.begunBatchBytes += b.size
	}
}

// takeRequest returns the next request to be handled, or nil.
func (q *requestQueue) takeRequest(s *Session) *peerRequest {
	for q.first != nil && !q.notificationRuns {
		e := q.first.owner.(queueEntry)
		c, last := e.beginNext(s)
		if c == nil || last {
			q.removeEntry(e)
			if c == nil {
				s.requests.open.removeDeadline(e.requestDeadline())
			}
		}
		if c != nil {
			q.running++
			q.notificationRuns = q.order == NotificationsFirst && c.IsNotification()
			return c
		}
	}
	return nil
}

// finishHandler updates the counts after the handler of c has returned.
func (q *requestQueue) finishHandler(c *peerRequest) {
	q.running--
	if len(q.lateHandlers) > 0 {
		if s := c.session; s.exchange() != nil && q.isLate(c) {
			s.load.lateExchanges.Add(-1)
		}
		delete(q.lateHandlers, c)
		q.allLate, q.lateAt = q.allLate && len(q.lateHandlers) > 0, 0
	}
	if c.IsNotification() {
		q.notificationRuns = false
	}
	if b := c.parentBatch(); b != nil {
		if b.handlers--; b.handlers == 0 && b.begunCounted {
			q.begunBatchBytes -= b.size
		}
	}
}

// waitingEntries returns the queued entries in order.
func (q *requestQueue) waitingEntries() []queueEntry {
	entries := make([]queueEntry, 0, q.count)
	for d := q.first; d != nil; d = nextWaiting(d.next) {
		entries = append(entries, d.owner.(queueEntry))
	}
	return entries
}

// nextWaiting returns the first deadline, from d on, whose entry is queued.
func nextWaiting(d *deadline) *deadline {
	for d != nil && !d.owner.(queueEntry).isQueued() {
		d = d.next
	}
	return d
}

// discardQueueLocked drops the queued entries without a reply. If keepNotifications is
// set, entries with notifications stay. Callers must hold s.mu.
func (rs *requestServer) discardQueueLocked(keepNotifications bool) {
	rs.s.mu.AssertHeld()
	var calls []*peerRequest
	for _, e := range rs.waitingEntries() {
		calls = e.appendRequests(calls[:0], (*peerRequest).isWaitingNotification)
		if keepNotifications && len(calls) > 0 {
			continue
		}
		for _, c := range calls {
			rs.s.countDroppedAtEndLocked(c)
		}
		rs.removeEntry(e)
		rs.open.removeDeadline(e.requestDeadline())
	}
}

// reserveWorkerLocked reports whether another worker is to be called, and counts the
// worker. Workers are called one at a time, and only while queued requests need a worker.
// Callers must hold s.mu.
func (rs *requestServer) reserveWorkerLocked() bool {
	s := rs.s
	s.mu.AssertHeld()
	if rs.workerStarting || rs.workersHeld || rs.notificationRuns || rs.workers >= rs.limit || rs.first == nil || !s.memory.mayStartLocked() {
		return false
	}
	rs.workerStarting = true
	rs.workers++
	return true
}

// startWorkerIfNeededLocked calls another worker if needed. Callers must hold s.mu.
func (rs *requestServer) startWorkerIfNeededLocked() {
	s := rs.s
	s.mu.AssertHeld()
	if !s.cost.limitExceeded && rs.reserveWorkerLocked() {
		s.effects.setFlag(&s.effects.workerWanted)
	}
}

// startWorkerAfterWriteLocked calls a worker if the next request may have waited for a
// smaller outbox, as in mayStartLocked. Callers must hold s.mu.
func (rs *requestServer) startWorkerAfterWriteLocked() {
	rs.s.mu.AssertHeld()
	if rs.count > 0 && rs.running <= rs.pressure.replyWaiters {
		rs.startWorkerIfNeededLocked()
	}
}

// resumeWorkers ends the hold of the workers, and starts workers for the requests that have
// arrived.
func (rs *requestServer) resumeWorkers() {
	s := rs.s
	s.lock()
	rs.workersHeld = false
	s.cost.checkStarvedQueueLocked()
	rs.startWorkerIfNeededLocked()
	s.unlock()
}

// enqueueRequestLocked queues an entry that has just arrived, or refuses the entry.
// Callers must hold s.mu.
func (rs *requestServer) enqueueRequestLocked(e queueEntry, now time.Duration) {
	s := rs.s
	s.mu.AssertHeld()
	if c, single := e.(*singleRequest); !single || !c.IsNotification() {
		rs.lastRequest = now
	}
	var why *Error
	switch {
	case s.life.state >= stateClosing:
		for _, c := range e.appendRequests(nil, (*peerRequest).isWaitingNotification) {
			s.countDroppedAtEndLocked(c)
		}
		return // nobody waits for a reply any more
	case s.life.state == stateDraining:
		rs.refuseForShutdownLocked(e, fromReader)
		return
	case s.cost.limitExceeded:
		why = s.cost.excessiveErrorLocked()
	case !rs.mayPauseLocked(): // if reading can pause, even a full queue takes the entry
		if rs.endIfGateQueueFullLocked(e) {
			return
		}
		why = rs.queueFullErrorLocked(e.queuedBytes())
	}
	if why != nil {
		rs.recordRefusalLocked(e, why)
		e.refuseRemaining(s, why, fromReader)
		return
	}
	e.markArrived(s, now)
	rs.open.appendDeadline(s, e.requestDeadline(), after(now, s.limits.ProcessingTimeout), e)
	rs.push(e)
	s.memory.reportMemoryLocked() // the next entry may find the server full
}

// timeOutLocked counts and logs that Limits.ProcessingTimeout has passed for c, and
// returns the error for the reply. Callers must hold s.mu.
func (rs *requestServer) timeOutLocked(c *peerRequest) *Error {
	s := rs.s
	s.mu.AssertHeld()
	e := timedOut(c.isRunning())
	rs.countRefusedLocked(e)
	rs.traceRefusedLocked(c, e)
	msg := "request timed out"
	attrs := []slog.Attr{methodAttr(c.Method), timeLimitAttr("Limits.ProcessingTimeout", s.limits.ProcessingTimeout)}
	if c.IsNotification() {
		msg = "notification timed out"
	}
	switch {
	case !c.isRunning():
		msg += " before its handler was called"
		if rs.workersHeld {
			attrs = append(attrs, slog.String("reason", "OnSession or Trace.Connected has not returned"))
		}
	case c.ctx.endCause() == nil:
		msg += ", and its handler goes on"
		rs.trackLateLocked(c)
	}
	s.logs.logPeerLaterLocked(slog.LevelWarn, msg, attrs...)
	return e
}

// isLate reports whether the request of the running handler of c has timed out.
func (q *requestQueue) isLate(c *peerRequest) bool {
	_, late := q.lateHandlers[c]
	return late
}

// isAllLate reports whether no handler can start before a late handler returns. A handler
// is late if the request has timed out.
func (q *requestQueue) isAllLate() bool {
	return len(q.lateHandlers) >= q.limit || q.notificationRuns && len(q.lateHandlers) >= q.running
}

// lateGrace is the time in which a handler should return after the end of the context.
const lateGrace = time.Second

// trackLateLocked records that the handler of c continues after the request has timed out.
// Callers must hold s.mu.
func (rs *requestServer) trackLateLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	if rs.lateHandlers == nil {
		rs.lateHandlers = make(map[*peerRequest]struct{})
	}
	rs.lateHandlers[c] = struct{}{}
	if s.exchange() != nil {
		s.load.lateExchanges.Add(1)
	}
	if !rs.allLate && rs.isAllLate() {
		rs.lateAt = after(s.now(), lateGrace)
		s.timer.setTimerLocked(rs.lateAt)
	}
}

// checkLateLocked logs, once, that late handlers have all places for handlers. The
// session's timer calls checkLateLocked. Callers must hold s.mu.
func (rs *requestServer) checkLateLocked(now time.Duration) {
	s := rs.s
	s.mu.AssertHeld()
	switch {
	case rs.lateAt == 0:
		return
	case rs.lateAt > now:
		s.timer.setTimerLocked(rs.lateAt)
		return
	case !rs.isAllLate(): // the limit has been raised meanwhile
		rs.lateAt = 0
		return
	}
	rs.lateAt, rs.allLate = 0, true
	field, limit := "Limits.Concurrency", rs.limit
	switch {
	case rs.gate.closed.Load():
		field, limit = "Options.Gate", 1
	case rs.order == Sequential || rs.notificationRuns:
		field, limit = "Options.Order", 1
	}
	s.logs.logPeerLaterLocked(slog.LevelWarn, "no request is handled: the handlers that run are all of requests that have timed out",
		limitAttr(field, slog.Int("handlers", limit)), slog.String("methods", methodsOf(maps.Keys(rs.lateHandlers))))
}

// membersPerTurn is the number of members of batches that a worker handles before other
// goroutines run. With 80 busy workers and two processors, an honest client beside four
// peers that send batches of 10,000 waited 153 ms (p99) without turns, and 30 ms with
// turns. Single requests need no turns, because the reader takes turns.
const membersPerTurn = 8

// runWorker handles requests until no request can start, or until the session has more
// workers than its limit allows.
func (rs *requestServer) runWorker() {
	s := rs.s
	s.lock()
	rs.workerStarting = false
	var c *peerRequest
	defer func() {
		if c != nil { // the handler ended the goroutine with runtime.Goexit
			s.lock()
			rs.finishHandlerLocked(c)
		}
		rs.workers--
		s.memory.releaseReservedBytesLocked()
		s.cost.checkStarvedQueueLocked()
		rs.startWorkerIfNeededLocked()
		s.unlock()
	}()
	for handled := 1; !s.cost.limitExceeded && rs.workers <= rs.limit && s.memory.mayStartLocked(); handled++ {
		if s.input.closed && rs.count > 0 {
			s.unlock()
			s.closeIfHungUp() // nobody wants replies after a hang-up
			s.lock()
		}
		if c = rs.takeRequest(s); c == nil {
			break
		}
		s.memory.addHandlingBytesLocked(c)
		s.memory.releaseReservedBytesLocked()
		if s.life.state >= stateClosing {
			c.ctx.endWith(s.life.closeCause)
		}
		delay := s.cost.requestDelayLocked()
		if c.delayed = delay > 0; !c.delayed {
			s.stats.RequestsReceived++
		}
		rs.startWorkerIfNeededLocked()
		c.timed = s.writer.sock != nil && rs.running == 1 && rs.count == 0 && delay <= 0 && !c.IsNotification()
		s.unlock()
		handle := delay <= 0 || c.waitForDelay(s, delay)
		if handle {
			rs.runHandler(c)
		} else if c.ctx.endWith(errHandlerReturned) {
			rs.expireRequest(c)
		}
		if handled%membersPerTurn == 0 && c.parentBatch() != nil {
			runtime.Gosched()
		}
		s.lock()
		if !handle && c.IsNotification() {
			rs.dropDelayedLocked(c)
		}
		rs.finishHandlerLocked(c)
		c = nil
	}
}

// finishHandlerLocked updates the session after the handler of c has returned, or has
// ended the goroutine. Callers must hold s.mu.
func (rs *requestServer) finishHandlerLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	rs.finishHandler(c)
	if rs.gate.admitted && rs.gate.closed.Load() && rs.running == 0 {
		rs.openGateLocked()
	}
	s.memory.releaseHandlingBytesLocked(c)
	rs.recordHandlerReturnLocked(c)
	s.activity.markWorkEndLocked()
	s.memory.reportMemoryLocked()
}

// waitForDelay delays c because of the session's cost, and reports whether c is still to
// be handled.
func (c *peerRequest) waitForDelay(s *Session, delay time.Duration) bool {
	until := after(s.now(), delay)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
		if !c.IsNotification() || !isHangUp(c.ctx.endCause()) {
			return false
		}
		overdue := c.ctx.deadline <= until // the ended context no longer signals the deadline
		timer.Reset(min(until, c.ctx.deadline) - s.now())
		<-timer.C
		if overdue {
			s.requests.expireRequest(c)
		}
	}
	s.lock()
	defer s.unlock()
	c.delayed = false
	if c.answered { // by closeForCost, or at the deadline
		return false
	}
	s.stats.RequestsReceived++
	return true
}

// singleRequest is a request or notification that came as a separate message.
type singleRequest struct {
	peerRequest
	deadline deadline
	size     int
	arena    [56]byte // copy of the message's parts, if small
}

func (c *singleRequest) markArrived(s *Session, now time.Duration) {
	c.arrived = now
	s.requests.trackCancellableLocked(&c.peerRequest)
}

func (c *singleRequest) queuedBytes() int           { return c.size }
func (c *singleRequest) nextHandlingBytes() int     { return int(c.handlingBytes) }
func (c *singleRequest) requestDeadline() *deadline { return &c.deadline }
func (c *singleRequest) isQueued() bool             { return c.deadline.owner != nil && !c.begun }

func (c *singleRequest) beginNext(s *Session) (*peerRequest, bool) {
	if c.answered || s.life.state >= stateClosing && !c.IsNotification() {
		return nil, true
	}
	c.markBegun(s)
	return &c.peerRequest, true
}

func (c *singleRequest) refuseRemaining(s *Session, e *Error, from sendMode) {
	if c.answered { // cancelled or timed out
		return
	}
	if c.isQueued() {
		s.requests.removeEntry(c)
	}
	s.requests.open.removeDeadline(&c.deadline)
	c.markAnsweredLocked(s)
	if x := s.exchange(); x != nil {
		x.noteRefusalLocked(e)
	}
	if c.IsNotification() && !c.begun {
		s.requests.countDroppedLocked(&c.peerRequest)
	}
	if e != nil && !c.IsNotification() {
		s.effects.replyError(c.ID, e, from)
	}
}

func (c *singleRequest) abortRequest(s *Session, _ *peerRequest, e *Error) {
	c.refuseRemaining(s, e, fromReader)
}

// expireLocked implements [expirer]. Limits.ProcessingTimeout has passed. Callers must
// hold s.mu.
func (c *singleRequest) expireLocked(s *Session) {
	s.mu.AssertHeld()
	e := s.requests.timeOutLocked(&c.peerRequest)
	c.refuseRemaining(s, e, fromReader)
	s.effects.endContext(&c.peerRequest, errProcessing)
}
