package rpcx

import (
	"cmp"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// requestQueue holds what waits for a worker, and counts the workers. It is guarded by
// the session's lock.
//
// Entries are taken in the order of their arrival, so those that wait are at the end
// of Session.incoming, the list of all entries that are not answered. Between them may
// be batches that were refused and whose replies are about to be queued.
type requestQueue struct {
	first           *deadline // of the entry that is taken next; nil if none waits
	count           int       // entries that wait
	bytes           int       // of these
	begunBatchBytes int       // bytes of batches that do not wait any more, and whose handlers run

	workers          int                       // that have the session
	workerStarting   bool                      // one was called and has not looked yet
	running          int                       // handlers
	lateHandlers     map[*peerRequest]struct{} // of these, those whose requests have timed out
	lateAt           time.Duration             // when to log that these have all places, 0 if they have not
	allLate          bool                      // it was logged, and since then there was always one
	limit            int                       // of workers
	paused           bool                      // no worker is called for now
	order            Order
	notificationRuns bool // for the handler of a notification, by its order

	handling int  // bytes of the requests whose handlers run, if they are many
	blocked  bool // until the server handles fewer bytes; see load
	needs    int  // the bytes of the request for which it is blocked, or was
	reserved int  // of these, for a worker that has not looked yet

	tiedHandling int // of handling, what does not count for a blocked session; guarded by load.mu
}

// requestServer handles the requests of the peer.
type requestServer struct {
	requestQueue
	s           *Session
	pressure    backPressure
	cancellable map[string]*peerRequest // requests that are not answered, by id, if the peer can cancel them
	open        deadlineList            // of the requests that are not answered
}

// queueEntry is what waits in an inbox as one: a call, or a batch of them.
// All is called under the lock.
type queueEntry interface {
	expirer
	// beginNext returns the next call to be run, nil if none is left; last means
	// that nothing is left behind it.
	beginNext(s *Session) (c *peerRequest, last bool)
	// about says in the log what it is that is not handled.
	about() (msg string, what slog.Attr)
	// refuseRemaining answers what was not begun with e, as post sends for from.
	refuseRemaining(s *Session, e *Error, from sendMode)
	// appendNotifications appends the notifications that would be lost if the entry were discarded.
	appendNotifications(calls []*peerRequest) []*peerRequest
	// appendRunning appends the calls that were begun and not answered.
	appendRunning(calls []*peerRequest) []*peerRequest
	// abortRequest answers the request c with e, or not at all if that is nil.
	abortRequest(s *Session, c *peerRequest, e *Error)
	// markArrived says that it has been admitted.
	markArrived(s *Session, now time.Duration)
	requestDeadline() *deadline
	// isQueued reports whether it is in the inbox.
	isQueued() bool
	queuedBytes() int // that it counts in Limits.QueueBytes
	// nextHandlingBytes returns how many bytes the next call counts while it is handled, 0 if these
	// are few or none is left.
	nextHandlingBytes() int
}

// push adds the entry at the end of the session's incoming list.
func (in *requestQueue) push(e queueEntry) {
	if in.first == nil {
		in.first = e.requestDeadline()
	}
	in.count++
	in.bytes += e.queuedBytes()
}

// removeEntry removes an entry that waits, which is still in the session's incoming list.
func (in *requestQueue) removeEntry(e queueEntry) {
	if in.first == e.requestDeadline() {
		in.first = nextWaiting(in.first.next)
	}
	in.count--
	in.bytes -= e.queuedBytes()
	if b, ok := e.(*peerBatch); ok && b.handlers > 0 {
		b.begunCounted = true
		in.begunBatchBytes += b.size
	}
}

// takeRequest returns the next call to be run, nil if there is none.
func (in *requestQueue) takeRequest(s *Session) *peerRequest {
	for in.first != nil && !in.notificationRuns {
		e := in.first.owner.(queueEntry)
		c, last := e.beginNext(s)
		if c == nil || last {
			in.removeEntry(e)
			if c == nil {
				s.requests.open.removeDeadline(e.requestDeadline())
			}
		}
		if c != nil {
			in.running++
			in.notificationRuns = in.order == NotificationsFirst && c.IsNotification()
			return c
		}
	}
	return nil
}

// finishHandler is called when the handler of c has returned.
func (in *requestQueue) finishHandler(c *peerRequest) {
	in.running--
	if len(in.lateHandlers) > 0 {
		delete(in.lateHandlers, c)
		in.allLate, in.lateAt = in.allLate && len(in.lateHandlers) > 0, 0
	}
	if c.IsNotification() {
		in.notificationRuns = false
	}
	if b := c.parentBatch(); b != nil {
		if b.handlers--; b.handlers == 0 && b.begunCounted {
			in.begunBatchBytes -= b.size
		}
	}
}

// waitingEntries returns the entries that wait.
func (in *requestQueue) waitingEntries() []queueEntry {
	entries := make([]queueEntry, 0, in.count)
	for d := in.first; d != nil; d = nextWaiting(d.next) {
		entries = append(entries, d.owner.(queueEntry))
	}
	return entries
}

// nextWaiting returns the first of d and those behind it whose entry waits.
func nextWaiting(d *deadline) *deadline {
	for d != nil && !d.owner.(queueEntry).isQueued() {
		d = d.next
	}
	return d
}

// discardQueueLocked drops the entries that wait, without an answer: all of them, or if
// keepNotifications is set those that have none. Callers must hold s.mu.
func (rs *requestServer) discardQueueLocked(keepNotifications bool) {
	rs.s.mu.AssertHeld()
	var calls []*peerRequest
	for _, e := range rs.waitingEntries() {
		calls = e.appendNotifications(calls[:0])
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

// reserveWorkerLocked reports whether another worker is to be called, and counts it in if
// so: one at a time, and only while work waits that nobody is coming for. Callers must
// hold s.mu.
func (rs *requestServer) reserveWorkerLocked() bool {
	s := rs.s
	s.mu.AssertHeld()
	in := &s.requests
	if in.workerStarting || in.paused || in.notificationRuns || in.workers >= in.limit || in.first == nil || !s.memory.mayStartLocked() {
		return false
	}
	in.workerStarting = true
	in.workers++
	return true
}

// enqueueRequestLocked queues what has arrived now, or refuses it. Callers must hold s.mu.
func (rs *requestServer) enqueueRequestLocked(e queueEntry, now time.Duration) {
	s := rs.s
	s.mu.AssertHeld()
	var why *Error
	switch {
	case s.life.state >= stateClosing:
		for _, c := range e.appendNotifications(nil) {
			s.countDroppedAtEndLocked(c)
		}
		return // nobody waits for an answer any more
	case s.life.state == stateDraining:
		e.refuseRemaining(s, notStarted("shutting down", "shutting down"), fromReader)
		return
	case s.cost.limitExceeded:
		why = s.cost.excessiveErrorLocked()
	case !rs.mayPauseLocked(): // otherwise the reader pauses once this has been handed over
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
	s.memory.reportMemoryLocked() // the next one may find the server full
}

// recordRefusalLocked counts that what was as it should be is not handled, and has it logged. It is
// called under the lock.
func (rs *requestServer) recordRefusalLocked(what interface{ about() (string, slog.Attr) }, why *Error) {
	rs.s.mu.AssertHeld()
	rs.countRefusedLocked(why)
	msg, attr := what.about()
	rs.s.logs.logPeerLaterLocked(slog.LevelWarn, msg, attr, slog.Any("error", why))
}

// countRefusedLocked counts that what was as it should be is not handled, or not to its
// end. Callers must hold s.mu.
func (rs *requestServer) countRefusedLocked(why *Error) {
	s := rs.s
	s.mu.AssertHeld()
	if why.Code == CodeServerBusy { // a limit of ours, and not the peer's fault
		s.stats.Errors++
		if !why.NotStarted() {
			s.cost.addCostLocked(s.limits.CostHandlerError)
		}
	} else {
		s.reader.chargeErrorLocked(why)
	}
}

// timeOutLocked counts that Limits.ProcessingTimeout has passed for c, has it logged, and
// returns the error that c is answered. Callers must hold s.mu.
func (rs *requestServer) timeOutLocked(c *peerRequest) *Error {
	s := rs.s
	s.mu.AssertHeld()
	e := timedOut(c.isRunning())
	rs.countRefusedLocked(e)
	msg := "request timed out"
	attrs := []slog.Attr{methodAttr(c.Method), timeLimitAttr("Limits.ProcessingTimeout", s.limits.ProcessingTimeout)}
	if c.IsNotification() {
		msg = "notification timed out"
	}
	switch {
	case !c.isRunning():
		msg += " before its handler was called"
		if rs.paused {
			attrs = append(attrs, slog.String("reason", "OnSession or Trace.Connected has not returned"))
		}
	case c.ctx.endCause() == nil:
		msg += ", and its handler goes on"
		rs.trackLateLocked(c)
	}
	s.logs.logPeerLaterLocked(slog.LevelWarn, msg, attrs...)
	return e
}

// isAllLate reports whether no other handler can start before one of those returns whose
// requests have timed out.
func (in *requestQueue) isAllLate() bool {
	return len(in.lateHandlers) >= in.limit || in.notificationRuns && len(in.lateHandlers) >= in.running
}

// lateGrace is how long a handler may take to return once its context has ended.
const lateGrace = time.Second

// trackLateLocked notes that the handler of c goes on though its request has timed out.
// Callers must hold s.mu.
func (rs *requestServer) trackLateLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	in := &s.requests
	if in.lateHandlers == nil {
		in.lateHandlers = make(map[*peerRequest]struct{})
	}
	in.lateHandlers[c] = struct{}{}
	if !in.allLate && in.isAllLate() {
		in.lateAt = after(s.now(), lateGrace)
		s.timer.setTimerLocked(in.lateAt)
	}
}

// checkLateLocked is called by the session's timer. It logs, once, that handlers whose
// requests have timed out have all places for handlers. Callers must hold s.mu.
func (rs *requestServer) checkLateLocked(now time.Duration) {
	s := rs.s
	s.mu.AssertHeld()
	in := &s.requests
	switch {
	case in.lateAt == 0:
		return
	case in.lateAt > now:
		s.timer.setTimerLocked(in.lateAt)
		return
	case !in.isAllLate(): // since the limit has been raised
		in.lateAt = 0
		return
	}
	in.lateAt, in.allLate = 0, true
	field, limit := "Limits.Concurrency", in.limit
	if in.order == Sequential || in.notificationRuns {
		field, limit = "Options.Order", 1
	}
	s.logs.logPeerLaterLocked(slog.LevelWarn, "no request is handled: the handlers that run are all of requests that have timed out",
		limitAttr(field, slog.Int("handlers", limit)), slog.String("methods", methodsOf(maps.Keys(in.lateHandlers))))
}

// mostMethods is how many methods methodsOf names.
const mostMethods = 8

// methodsOf names the methods of calls, and of how many each is, the most frequent first.
func methodsOf(calls iter.Seq[*peerRequest]) string {
	counts := make(map[string]int)
	for c := range calls {
		counts[c.Method]++
	}
	methods := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
	})
	var b strings.Builder
	for i, method := range methods {
		if i == mostMethods {
			fmt.Fprintf(&b, " and %d others", len(methods)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%d)", excerpt(method), counts[method])
	}
	return b.String()
}

// runWorker handles requests until there are none.
func (rs *requestServer) runWorker() {
	s := rs.s
	s.lock()
	rs.workerStarting = false
	var c *peerRequest
	defer func() {
		if c != nil { // its handler ended the goroutine: runtime.Goexit
			s.lock()
			rs.finishHandlerLocked(c)
		}
		rs.workers--
		s.memory.releaseReservedBytesLocked()
		s.cost.checkStarvedQueueLocked()
		rs.startWorkerIfNeededLocked()
		s.unlock()
	}()
	for !s.cost.limitExceeded && rs.workers <= rs.limit && s.memory.mayStartLocked() {
		if s.input.closed && rs.count > 0 {
			s.unlock()
			s.closeIfHungUp() // nobody wants the replies any more
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
		s.unlock()
		handle := delay <= 0 || c.waitForDelay(s, delay)
		if handle {
			rs.runHandler(c)
		} else if c.ctx.endWith(errHandlerReturned) {
			rs.expireRequest(c)
		}
		s.lock()
		if !handle && c.IsNotification() {
			rs.dropDelayedLocked(c)
		}
		rs.finishHandlerLocked(c)
		c = nil
	}
}

// countDroppedLocked counts a notification that is refused. While the session is open,
// recordRefusalLocked has it logged. Callers must hold s.mu.
func (rs *requestServer) countDroppedLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	if s.life.state == stateOpen {
		s.stats.NotificationsDropped++
	} else {
		s.countDroppedAtEndLocked(c)
	}
}

// dropDelayedLocked counts a notification whose handler was to be called after a delay,
// and is not. If its time is over, expire has had it logged. Callers must hold s.mu.
func (rs *requestServer) dropDelayedLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	if c.ctx.endCause() == errProcessing {
		s.stats.NotificationsDropped++
	} else {
		s.countDroppedAtEndLocked(c)
	}
}

// finishHandlerLocked is called when c's handler has returned, or ended its goroutine.
func (rs *requestServer) finishHandlerLocked(c *peerRequest) {
	s := rs.s
	s.mu.AssertHeld()
	rs.finishHandler(c)
	s.memory.releaseHandlingBytesLocked(c)
	rs.recordHandlerReturnLocked(c)
	s.activity.markWorkEndLocked()
	s.memory.reportMemoryLocked()
}

// waitForDelay delays c because of the session's cost, and reports whether it is still
// to be handled then.
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
		overdue := c.ctx.deadline <= until // which its context does not tell any more
		timer.Reset(min(until, c.ctx.deadline) - s.now())
		<-timer.C
		if overdue {
			s.requests.expireRequest(c)
		}
	}
	s.lock()
	defer s.unlock()
	c.delayed = false
	if c.answered { // by dismiss, or since its time is over
		return false
	}
	s.stats.RequestsReceived++
	return true
}

// singleRequest is a request or notification that came as a message of its own.
type singleRequest struct {
	peerRequest
	deadline deadline
	size     int
	arena    [64]byte // what the request has of its message, if that is little
}

func (c *singleRequest) markArrived(s *Session, now time.Duration) {
	c.arrived = now
	s.requests.trackCancellableLocked(&c.peerRequest)
}

func (c *singleRequest) queuedBytes() int           { return c.size }
func (c *singleRequest) nextHandlingBytes() int     { return int(c.handlingBytes) }
func (c *singleRequest) requestDeadline() *deadline { return &c.deadline }
func (c *singleRequest) isQueued() bool             { return c.deadline.owner != nil && !c.begun }

func (c *singleRequest) appendNotifications(calls []*peerRequest) []*peerRequest {
	if c.IsNotification() && !c.begun && !c.answered {
		calls = append(calls, &c.peerRequest)
	}
	return calls
}

func (c *singleRequest) beginNext(s *Session) (*peerRequest, bool) {
	if c.answered || s.life.state >= stateClosing && !c.IsNotification() {
		return nil, true
	}
	c.markBegun(s)
	return &c.peerRequest, true
}

func (c *singleRequest) appendRunning(calls []*peerRequest) []*peerRequest {
	if c.begun && !c.answered {
		calls = append(calls, &c.peerRequest)
	}
	return calls
}

func (c *singleRequest) refuseRemaining(s *Session, e *Error, from sendMode) {
	if c.answered { // it was cancelled, or its time was over
		return
	}
	if c.isQueued() {
		s.requests.removeEntry(c)
	}
	s.requests.open.removeDeadline(&c.deadline)
	c.markAnsweredLocked(s)
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

// expireLocked implements [expirer]: Limits.ProcessingTimeout has passed.
func (c *singleRequest) expireLocked(s *Session) {
	s.mu.AssertHeld()
	e := s.requests.timeOutLocked(&c.peerRequest)
	c.refuseRemaining(s, e, fromReader)
	s.effects.endContext(&c.peerRequest, errProcessing)
}
