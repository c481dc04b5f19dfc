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

// inbox holds what waits for a worker, and counts the workers. It is guarded by
// the session's lock.
//
// Entries are taken in the order of their arrival, so those that wait are at the end
// of Session.incoming, the list of all entries that are not answered. Between them may
// be batches that were refused and whose replies are about to be queued.
type inbox struct {
	first *deadline // of the entry that is taken next; nil if none waits
	count int       // entries that wait
	bytes int       // of these
	begun int       // bytes of batches that do not wait any more, and whose handlers run

	workers int                // that have the session
	waking  bool               // one was called and has not looked yet
	running int                // handlers
	late    map[*call]struct{} // of these, those whose requests have timed out
	lateAt  time.Duration      // when to log that these have all places, 0 if they have not
	allLate bool               // it was logged, and since then there was always one
	limit   int                // of workers
	held    bool               // no worker is called for now
	order   Order
	waits   bool // for the handler of a notification, by its order

	handling int  // bytes of the requests whose handlers run, if they are many
	blocked  bool // until the server handles fewer bytes; see load
	needs    int  // the bytes of the request for which it is blocked, or was
	reserved int  // of these, for a worker that has not looked yet

	tiedHandling int // of handling, what does not count for a blocked session; guarded by load.mu
}

// entry is what waits in an inbox as one: a call, or a batch of them.
// All is called under the lock.
type entry interface {
	expirer
	// next returns the next call to be run, nil if none is left; last means
	// that nothing is left behind it.
	next(s *Session) (c *call, last bool)
	// about says in the log what it is that is not handled.
	about() (msg string, what slog.Attr)
	// refuse answers what was not begun with e, as post sends for from.
	refuse(s *Session, e *Error, from sender)
	// notifications appends the notifications that would be lost if the entry were discarded.
	notifications(calls []*call) []*call
	// running appends the calls that were begun and not answered.
	running(calls []*call) []*call
	// cancel answers the request c with e, or not at all if that is nil.
	cancel(s *Session, c *call, e *Error)
	// arrive says that it has been admitted.
	arrive(s *Session, now time.Duration)
	due() *deadline
	// waits reports whether it is in the inbox.
	waits() bool
	bytes() int // that it counts in Limits.QueueBytes
	// nextSize returns how many bytes the next call counts while it is handled, 0 if these
	// are few or none is left.
	nextSize() int
}

// push adds the entry at the end of the session's incoming list.
func (in *inbox) push(e entry) {
	if in.first == nil {
		in.first = e.due()
	}
	in.count++
	in.bytes += e.bytes()
}

// drop removes an entry that waits, which is still in the session's incoming list.
func (in *inbox) drop(e entry) {
	if in.first == e.due() {
		in.first = nextWaiting(in.first.next)
	}
	in.count--
	in.bytes -= e.bytes()
	if b, ok := e.(*inBatch); ok && b.handlers > 0 {
		b.begun = true
		in.begun += b.size
	}
}

// take returns the next call to be run, nil if there is none.
func (in *inbox) take(s *Session) *call {
	for in.first != nil && !in.waits {
		e := in.first.owner.(entry)
		c, last := e.next(s)
		if c == nil || last {
			in.drop(e)
			if c == nil {
				s.incoming.remove(e.due())
			}
		}
		if c != nil {
			in.running++
			in.waits = in.order == NotificationsFirst && c.IsNotification()
			return c
		}
	}
	return nil
}

// done is called when the handler of c has returned.
func (in *inbox) done(c *call) {
	in.running--
	if len(in.late) > 0 {
		delete(in.late, c)
		in.allLate, in.lateAt = in.allLate && len(in.late) > 0, 0
	}
	if c.IsNotification() {
		in.waits = false
	}
	if b := c.batch(); b != nil {
		if b.handlers--; b.handlers == 0 && b.begun {
			in.begun -= b.size
		}
	}
}

// waiting returns the entries that wait.
func (in *inbox) waiting() []entry {
	entries := make([]entry, 0, in.count)
	for d := in.first; d != nil; d = nextWaiting(d.next) {
		entries = append(entries, d.owner.(entry))
	}
	return entries
}

// nextWaiting returns the first of d and those behind it whose entry waits.
func nextWaiting(d *deadline) *deadline {
	for d != nil && !d.owner.(entry).waits() {
		d = d.next
	}
	return d
}

// discard drops the entries that wait, without an answer: all of them, or if
// keepNotifications is set those that have none. Callers must hold s.mu.
func (s *Session) discard(keepNotifications bool) {
	var calls []*call
	for _, e := range s.in.waiting() {
		calls = e.notifications(calls[:0])
		if keepNotifications && len(calls) > 0 {
			continue
		}
		for _, c := range calls {
			s.dropLocked(c)
		}
		s.in.drop(e)
		s.incoming.remove(e.due())
	}
}

// wantsWorkerLocked reports whether another worker is to be called, and counts it in if
// so: one at a time, and only while work waits that nobody is coming for. Callers must
// hold s.mu.
func (s *Session) wantsWorkerLocked() bool {
	s.owner.Check()
	in := &s.in
	if in.waking || in.held || in.waits || in.workers >= in.limit || in.first == nil || !s.mayStartLocked() {
		return false
	}
	in.waking = true
	in.workers++
	return true
}

// admit queues what has arrived now, or refuses it. Callers must hold s.mu.
func (s *Session) admit(e entry, now time.Duration) {
	var why *Error
	switch {
	case s.state >= stateClosing:
		for _, c := range e.notifications(nil) {
			s.dropLocked(c)
		}
		return // nobody waits for an answer any more
	case s.state == stateDraining:
		e.refuse(s, notStarted("shutting down", "shutting down"), fromReader)
		return
	case s.cost.over:
		why = s.excessive()
	case !s.mayPauseLocked(): // otherwise the reader pauses once this has been handed over
		why = s.fullErrorLocked(e.bytes())
	}
	if why != nil {
		s.turnAway(e, why)
		e.refuse(s, why, fromReader)
		return
	}
	e.arrive(s, now)
	s.incoming.add(s, e.due(), after(now, s.limits.ProcessingTimeout), e)
	s.in.push(e)
	s.weigh() // the next one may find the server full
}

// turnAway counts that what was as it should be is not handled, and has it logged. It is
// called under the lock.
func (s *Session) turnAway(what interface{ about() (string, slog.Attr) }, why *Error) {
	s.countRefusedLocked(why)
	msg, attr := what.about()
	s.notePeerLocked(slog.LevelWarn, msg, attr, slog.Any("error", why))
}

// countRefusedLocked counts that what was as it should be is not handled, or not to its
// end. Callers must hold s.mu.
func (s *Session) countRefusedLocked(why *Error) {
	s.owner.Check()
	if why.Code == CodeServerBusy { // a limit of ours, and not the peer's fault
		s.stats.Errors++
		if !why.NotStarted() {
			s.charge(s.limits.CostHandlerError)
		}
	} else {
		s.penalize(why)
	}
}

// timeOutLocked counts that Limits.ProcessingTimeout has passed for c, has it logged, and
// returns the error that c is answered. Callers must hold s.mu.
func (s *Session) timeOutLocked(c *call) *Error {
	s.owner.Check()
	e := timedOut(c.isRunning())
	s.countRefusedLocked(e)
	msg := "request timed out"
	attrs := []slog.Attr{methodAttr(c.Method), timeLimit("Limits.ProcessingTimeout", s.limits.ProcessingTimeout)}
	if c.IsNotification() {
		msg = "notification timed out"
	}
	switch {
	case !c.isRunning():
		msg += " before its handler was called"
		if s.in.held {
			attrs = append(attrs, slog.String("reason", "OnSession or Trace.Connected has not returned"))
		}
	case c.ctx.ended() == nil:
		msg += ", and its handler goes on"
		s.trackLateLocked(c)
	}
	s.notePeerLocked(slog.LevelWarn, msg, attrs...)
	return e
}

// isAllLate reports whether no other handler can start before one of those returns whose
// requests have timed out.
func (in *inbox) isAllLate() bool {
	return len(in.late) >= in.limit || in.waits && len(in.late) >= in.running
}

// lateGrace is how long a handler may take to return once its context has ended.
const lateGrace = time.Second

// trackLateLocked notes that the handler of c goes on though its request has timed out.
// Callers must hold s.mu.
func (s *Session) trackLateLocked(c *call) {
	s.owner.Check()
	in := &s.in
	if in.late == nil {
		in.late = make(map[*call]struct{})
	}
	in.late[c] = struct{}{}
	if !in.allLate && in.isAllLate() {
		in.lateAt = after(s.now(), lateGrace)
		s.arm(in.lateAt)
	}
}

// checkLateLocked is called by the session's timer. It logs, once, that handlers whose
// requests have timed out have all places for handlers. Callers must hold s.mu.
func (s *Session) checkLateLocked(now time.Duration) {
	s.owner.Check()
	in := &s.in
	switch {
	case in.lateAt == 0:
		return
	case in.lateAt > now:
		s.arm(in.lateAt)
		return
	case !in.isAllLate(): // since the limit has been raised
		in.lateAt = 0
		return
	}
	in.lateAt, in.allLate = 0, true
	field, limit := "Limits.Concurrency", in.limit
	if in.order == Sequential || in.waits {
		field, limit = "Options.Order", 1
	}
	s.notePeerLocked(slog.LevelWarn, "no request is handled: the handlers that run are all of requests that have timed out",
		limitAttr(field, slog.Int("handlers", limit)), slog.String("methods", methodsOf(maps.Keys(in.late))))
}

// mostMethods is how many methods methodsOf names.
const mostMethods = 8

// methodsOf names the methods of calls, and of how many each is, the most frequent first.
func methodsOf(calls iter.Seq[*call]) string {
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

// work handles requests until there are none.
func (s *Session) work() {
	s.lock()
	s.in.waking = false
	var c *call
	defer func() {
		if c != nil { // its handler ended the goroutine: runtime.Goexit
			s.lock()
			s.handled(c)
		}
		s.in.workers--
		s.freeReservedLocked()
		s.unblock()
		s.wakeWorkerLocked()
		s.unlock()
	}()
	for !s.cost.over && s.in.workers <= s.in.limit && s.mayStartLocked() {
		if s.input.closed && s.in.count > 0 {
			s.unlock()
			s.endIfHungUp() // nobody wants the replies any more
			s.lock()
		}
		if c = s.in.take(s); c == nil {
			break
		}
		s.startHandlingLocked(c)
		s.freeReservedLocked()
		if s.state >= stateClosing {
			c.ctx.end(s.cause)
		}
		delay := s.delay()
		if c.delayed = delay > 0; !c.delayed {
			s.stats.RequestsReceived++
		}
		s.wakeWorkerLocked()
		s.unlock()
		handle := delay <= 0 || c.wait(s, delay)
		if handle {
			s.serve(c)
		} else if c.ctx.end(errHandlerReturned) {
			s.overdue(c)
		}
		s.lock()
		if !handle && c.IsNotification() {
			s.dropDelayedLocked(c)
		}
		s.handled(c)
		c = nil
	}
}

// countDroppedLocked counts a notification that is refused. While the session is open,
// turnAway has it logged. Callers must hold s.mu.
func (s *Session) countDroppedLocked(c *call) {
	s.owner.Check()
	if s.state == stateOpen {
		s.stats.NotificationsDropped++
	} else {
		s.dropLocked(c)
	}
}

// dropDelayedLocked counts a notification whose handler was to be called after a delay,
// and is not. If its time is over, expire has had it logged. Callers must hold s.mu.
func (s *Session) dropDelayedLocked(c *call) {
	s.owner.Check()
	if c.ctx.ended() == errProcessing {
		s.stats.NotificationsDropped++
	} else {
		s.dropLocked(c)
	}
}

// handled is called when c's handler has returned, or ended its goroutine.
func (s *Session) handled(c *call) {
	s.in.done(c)
	s.stopHandlingLocked(c)
	s.handlerReturnedLocked(c)
	s.rested()
	s.weigh()
}

// wait delays c because of the session's cost, and reports whether it is still
// to be handled then.
func (c *call) wait(s *Session, delay time.Duration) bool {
	until := after(s.now(), delay)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
		if !c.IsNotification() || !hungUp(c.ctx.ended()) {
			return false
		}
		overdue := c.ctx.deadline <= until // which its context does not tell any more
		timer.Reset(min(until, c.ctx.deadline) - s.now())
		<-timer.C
		if overdue {
			s.overdue(c)
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

// single is a request or notification that came as a message of its own.
type single struct {
	call
	deadline deadline
	size     int
	arena    [64]byte // what the request has of its message, if that is little
}

func (c *single) arrive(s *Session, now time.Duration) {
	c.arrived = now
	s.know(&c.call)
}

func (c *single) bytes() int     { return c.size }
func (c *single) nextSize() int  { return int(c.held) }
func (c *single) due() *deadline { return &c.deadline }
func (c *single) waits() bool    { return c.deadline.owner != nil && !c.begun }

func (c *single) notifications(calls []*call) []*call {
	if c.IsNotification() && !c.begun && !c.answered {
		calls = append(calls, &c.call)
	}
	return calls
}

func (c *single) next(s *Session) (*call, bool) {
	if c.answered || s.state >= stateClosing && !c.IsNotification() {
		return nil, true
	}
	c.begin(s)
	return &c.call, true
}

func (c *single) running(calls []*call) []*call {
	if c.begun && !c.answered {
		calls = append(calls, &c.call)
	}
	return calls
}

func (c *single) refuse(s *Session, e *Error, from sender) {
	if c.answered { // it was cancelled, or its time was over
		return
	}
	if c.waits() {
		s.in.drop(c)
	}
	s.incoming.remove(&c.deadline)
	c.settle(s)
	if c.IsNotification() && !c.begun {
		s.countDroppedLocked(&c.call)
	}
	if e != nil && !c.IsNotification() {
		s.fx.replyError(c.ID, e, from)
	}
}

func (c *single) cancel(s *Session, _ *call, e *Error) { c.refuse(s, e, fromReader) }

// expire implements [expirer]: Limits.ProcessingTimeout has passed.
func (c *single) expire(s *Session) {
	e := s.timeOutLocked(&c.call)
	c.refuse(s, e, fromReader)
	s.fx.endContext(&c.call, errProcessing)
}
