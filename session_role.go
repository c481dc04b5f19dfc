package rpcx

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// The reading role. One goroutine at a time has the role of the reader of a session, and
// most sessions have a goroutine for the role: that of readLoop. On a socket, the role is
// lent where a change of goroutines would cost more than the work itself:
//
//	who has the role     begin                                    end
//	readLoop             start of the session; fillVacancyLocked  the input ends: the role ends, too
//	                                                              all input is handed over, and
//	                                                              – reading has to pause: vacantPaused
//	                                                              – a lone request has a quick handler: vacantHandling
//	                                                              – the last loneReplies replies were lone: vacantLone
//	Session.Call         in a vacancy                             the call has ended by a lone reply: vacantLone
//	                                                              the call has ended otherwise, an error, a full
//	                                                              queue, or after lendTime: readLoop
//	nobody, vacantLone   see above                                the next Call takes the role; otherwise: readLoop
//	nobody,              see above                                the handler has returned: readLoop, on the
//	vacantHandling                                                goroutine of the handler; a Call takes the role
//	nobody, vacantPaused see serve_pressure.go                    resumeReadingLocked: readLoop
//
// Rules, beside I1 and I2:
//
//   - Whoever has the role waits for nothing but input. The goroutine of readLoop runs a
//     handler only in a vacancy, when any other goroutine can take the role.
//   - Lending ends after lendTime: readLoop fills a vacancy, and a read of a caller is
//     interrupted. So the end of a context, for example, needs no further signal.
//   - A vacancy ends at once if a goroutine waits in another way than by Session.Call: for a
//     Future or a batch, or in a handler. The same applies if the session drains or closes.
//   - While the session has streams, whose readers wait, the role is not lent to callers.

// vacancy is the reason why no goroutine has the reading role.
type vacancy uint8

const (
	notVacant vacancy = iota
	vacantLone
	vacantHandling
	vacantPaused
)

const (
	minLendTime = time.Millisecond      // of readingRole.lendTime
	maxLendTime = 16 * time.Millisecond // of readingRole.lendTime
	loneReplies = 8                     // lone replies in a row, each within minLendTime, until the role is lent to callers
	busyReplies = 64                    // further lone replies after a message of the peer that is no reply
)

// readingRole is the state of the reading role, guarded by the session's lock. Only the
// goroutine that has the role changes caller.
type readingRole struct {
	vacancy     vacancy
	lentSince   time.Duration   // start of the vacancy, or of the caller's call
	watched     bool            // the timer looks at lentSince
	lentAgain   bool            // the role was lent since the timer has looked
	lendTime    time.Duration   // longest time of a vacancy, except in a pause, and of the reading for a call
	lone        int8            // number of successive lone replies; negative after other messages
	caller      *pendingMessage // whose goroutine in Session.Call has the role; nil for readLoop
	callerDone  bool            // the call of caller has ended
	callerLimit time.Duration   // the deadline of the caller's context
	interrupted bool            // the read of caller is interrupted
}

// readStep is what the goroutine with the reading role does after a hand-over.
type readStep uint8

const (
	readOn     readStep = iota
	runRequest          // the role is vacant: handle the lone request
	leaveRole           // the role is vacant, or passes to readLoop
)

// nextStepLocked decides who reads after all input was handed over, of which in is the
// last. Callers must hold s.mu and have the role.
func (r *reader) nextStepLocked(in *decodedInput, now time.Duration) readStep {
	s := r.s
	s.mu.AssertHeld()
	role, rs := &r.role, &s.requests
	isLone := in.messages == 1 && s.life.state == stateOpen && !in.queueFullOrCrowded && rs.running == 0
	isReply := isLone && len(in.replies) == 1 && s.calls.table.pending == 0 && now-s.calls.lastStarted <= minLendTime && s.writer.sock != nil && !s.hasStreamsLocked()
	switch {
	case role.caller != nil && (role.callerDone || role.interrupted || in.queueFullOrCrowded):
		if !isReply {
			role.lone = min(role.lone, 0)
		}
		r.leaveCallerLocked(isReply && role.lone >= 0, now)
		return leaveRole
	case isReply && role.caller == nil:
		if role.lone++; role.lone >= loneReplies {
			role.lone = loneReplies
			r.vacateLocked(vacantLone, now)
			return leaveRole
		}
	case in.messages > 0:
		if role.lone = min(role.lone, 0); len(in.entries) > 0 {
			role.lone = -busyReplies
		}
	}
	if isLone && role.caller == nil && rs.count == 1 && rs.workers == 1 && s.effects.workerWanted && r.isQuick(in) {
		s.effects.workerWanted = false
		r.vacateLocked(vacantHandling, now)
		return runRequest
	}
	return readOn
}

// isQuick reports whether in has only a request whose handler is known to be quick.
func (r *reader) isQuick(in *decodedInput) bool {
	if r.s.writer.sock == nil || len(in.entries) != 1 || r.s.requests.gate.closed.Load() {
		return false
	}
	c, ok := in.entries[0].(*singleRequest)
	return ok && !c.IsNotification() && r.s.pool.handlers.isQuick(c.Method)
}

// vacateLocked puts the role down. Callers must hold s.mu and have the role.
func (r *reader) vacateLocked(why vacancy, now time.Duration) {
	r.s.mu.AssertHeld()
	r.role.vacancy = why
	if why != vacantPaused {
		r.watchLentLocked(now)
	}
}

// watchLentLocked makes the timer end the lending after lendTime. Callers must hold s.mu.
func (r *reader) watchLentLocked(now time.Duration) {
	s, role := r.s, &r.role
	s.mu.AssertHeld()
	role.lentSince, role.lentAgain, role.callerLimit = now, true, never
	if !role.watched {
		role.watched, role.lentAgain, role.lendTime = true, false, minLendTime
		s.timer.setTimerLocked(now + minLendTime)
	}
}

// retakeRole takes the role for readLoop after a lone request, and reports success.
func (r *reader) retakeRole() bool {
	s := r.s
	s.lock()
	defer s.unlock()
	isLent := r.role.isLent()
	if isLent {
		r.role.vacancy = notVacant
	}
	return isLent
}

// fillVacancyLocked makes readLoop run if nobody reads, except in a pause. Callers must
// hold s.mu.
func (r *reader) fillVacancyLocked() {
	r.s.mu.AssertHeld()
	if r.role.isLent() {
		r.startReaderLocked()
	}
}

// noteWaitLocked records that a handler of the session waits. A handler that waits is not
// quick, and another goroutine reads from now on. Callers must hold s.mu.
func (r *reader) noteWaitLocked(h *handlerContext) {
	r.s.mu.AssertHeld()
	if h.owner.timed {
		r.s.pool.handlers.recordRun(h.owner.Method, slowRun)
	}
	r.fillVacancyLocked()
}

// startReaderLocked ends a vacancy by readLoop. Callers must hold s.mu.
func (r *reader) startReaderLocked() {
	s := r.s
	s.mu.AssertHeld()
	r.role.vacancy = notVacant
	s.effects.setFlag(&s.effects.readerWanted)
}

// isLent reports whether nobody has the role, and any goroutine may take it.
func (role *readingRole) isLent() bool {
	return role.vacancy == vacantLone || role.vacancy == vacantHandling
}

// checkRoleLocked ends a vacancy that has lost its reason. During a vacancy, each unlock
// calls checkRoleLocked. Callers must hold s.mu.
func (r *reader) checkRoleLocked() {
	s := r.s
	s.mu.AssertHeld()
	if s.life.state != stateOpen {
		r.fillVacancyLocked()
	}
	s.requests.checkPauseLocked()
}

// checkLentLocked ends the lending after lendTime. As long as the role is lent again and
// again, lendTime doubles up to maxLendTime: a timer that is due soon makes each wait for
// input slower. The session's timer calls checkLentLocked. Callers must hold s.mu.
func (r *reader) checkLentLocked(now time.Duration) {
	s, role := r.s, &r.role
	s.mu.AssertHeld()
	if role.lentAgain {
		role.lendTime = min(2*role.lendTime, maxLendTime)
	}
	isLent := role.isLent() || role.caller != nil && !role.interrupted
	switch end := min(role.lentSince+role.lendTime, role.callerLimit); {
	case !role.watched:
	case isLent && end <= now:
		role.watched, role.lone = false, min(role.lone, 0)
		if r.fillVacancyLocked(); role.caller != nil {
			role.interrupted = true
			s.writer.sock.interruptRead()
		}
	case isLent:
		role.lentAgain = false
		s.timer.setTimerLocked(end)
	case role.lentAgain:
		role.lentAgain = false
		s.timer.setTimerLocked(now + role.lendTime)
	default:
		role.watched = false
	}
}

// readForCall reads until m has ended, if the role is vacant. At the deadline of ctx, and
// after lendTime, readForCall returns: then the caller waits for m like any other. The end
// of ctx without a deadline is noticed after lendTime.
func (r *reader) readForCall(ctx context.Context, m *pendingMessage) {
	s := r.s
	if !r.takeRoleFor(ctx, m) {
		return
	}
	step, passOn := readOn, false
	defer func() {
		if step == leaveRole {
			return
		}
		if !passOn {
			r.leftError = errReaderPanicked
		}
		s.lock()
		r.leaveCallerLocked(false, 0)
		s.unlock()
	}()
	for step == readOn {
		msg, err := s.conn.nextMessage(true)
		buf := decodeBuffers.Get().(*decodeBuffer)
		for msg != nil && err == nil && !r.ignoresInput {
			r.receiveMessage(&buf.decodedInput, &buf.Message, msg)
			if msg = nil; !buf.queueFullOrCrowded { // otherwise readLoop has to pause
				msg, err = s.conn.nextMessage(false)
			}
		}
		passOn = err != nil || r.ignoresInput
		step = r.handOver(&buf.decodedInput, !passOn)
		buf.recycle()
		if passOn {
			if err != errReadInterrupted {
				r.leftError = err
			}
			return
		}
	}
}

// takeRoleFor takes the role for the goroutine of m, a single call, if the role is vacant.
func (r *reader) takeRoleFor(ctx context.Context, m *pendingMessage) bool {
	s, role := r.s, &r.role
	limit := never
	if deadline, ok := ctx.Deadline(); ok {
		limit = deadline.Sub(s.startTime)
	}
	s.lock()
	defer s.unlock()
	if !role.isLent() || m.openCalls == 0 {
		return false
	}
	role.vacancy, role.caller, role.callerDone = notVacant, m, false
	r.watchLentLocked(m.started)
	if role.callerLimit = limit; limit < m.started+role.lendTime {
		s.timer.setTimerLocked(limit)
	}
	return true
}

// leaveCallerLocked ends the reading of a caller: the role becomes vacant at the given
// time, or passes to readLoop. Callers must hold s.mu and have the role.
func (r *reader) leaveCallerLocked(vacant bool, now time.Duration) {
	s := r.s
	s.mu.AssertHeld()
	role := &r.role
	role.caller = nil
	if role.interrupted {
		role.interrupted = false
		s.writer.sock.allowRead()
	}
	if vacant {
		r.vacateLocked(vacantLone, now)
	} else {
		s.effects.setFlag(&s.effects.readerWanted)
	}
}

// errReaderPanicked ends a session whose caller has panicked as reader. The caller may
// recover, but messages are lost.
var errReaderPanicked = errors.New("rpcx: the Framer, Protocol or Codec has panicked")

// errReadInterrupted is the error of a read that interruptRead has ended.
var errReadInterrupted = errors.New("rpcx: read interrupted")

// quickHandlers knows which methods have quick handlers, for all sessions of a pool. The
// zero value is ready for use.
//
// A goroutine that reads must not run a handler that waits. A handler has proved to be
// quick after proofRuns runs in a row on another goroutine, of at most quickRun each, as
// the only running handler of its session. After a run of slowRun, or a wait for a session
// in the handler, the proof begins anew and needs slowProof runs more. The worst
// case, a handler that becomes slow after the proof, delays input by lendTime.
type quickHandlers struct {
	runs sync.Map     // method → *atomic.Int32, number of quick runs
	size atomic.Int32 // of runs
}

const (
	proofRuns  = 64
	slowProof  = 256
	quickRun   = 50 * time.Microsecond
	slowRun    = 500 * time.Microsecond
	maxMethods = 4096 // methods that quickHandlers knows
	maxMethod  = 256  // bytes of such a method, as the peer chooses the names
)

// isQuick reports whether the handler of the method has proved to be quick.
func (q *quickHandlers) isQuick(method string) bool {
	runs, ok := q.runs.Load(method)
	return ok && runs.(*atomic.Int32).Load() >= proofRuns
}

// recordRun records a run of the method's handler, without the reply: a write may wait for
// a processor.
func (q *quickHandlers) recordRun(method string, took time.Duration) {
	v, ok := q.runs.Load(method)
	if !ok {
		if q.size.Load() >= maxMethods || len(method) > maxMethod {
			return
		}
		if v, ok = q.runs.LoadOrStore(method, new(atomic.Int32)); !ok {
			q.size.Add(1)
		}
	}
	runs := v.(*atomic.Int32)
	n := runs.Load()
	switch {
	case took >= slowRun:
		runs.Store(-slowProof)
	case n >= proofRuns:
	case took > quickRun:
		runs.Store(min(n, 0))
	default:
		runs.Add(1)
	}
}
