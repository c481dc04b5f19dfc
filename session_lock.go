package rpcx

import "time"

// effects collects work that is decided under s.mu and must run without s.mu.
// Session.unlock releases s.mu and calls runUnlocked, on the unlocking goroutine.
type effects struct {
	notEmpty         bool        // any work is collected
	hasErrors        bool        // error replies are to be sent; Shutdown waits for the end of the sending
	errorsMayWait    bool        // error replies may wait for room in the outbox, on another goroutine
	keepAliveDue     bool        // a keep-alive notification is due
	workerWanted     bool        // another worker is needed
	readerWanted     bool        // readLoop is to run, and has the reading role
	costCloseDue     bool        // the session is over its cost limit
	hangUpCheckDue   bool        // ask the operating system whether the peer is gone
	connCloseDue     bool        // close the connection
	exchangeOver     bool        // the session of an exchange is over
	hubsDue          bool        // values for subscribers of hubs have room
	finishedMessages messageList // messages whose calls are completed
	closeArgs        *closeArguments
	lists            *effectLists // nil if all lists are empty
}

// effectLists holds the effects that most unlocks do not have. Each unlock copies and
// clears effects.
type effectLists struct {
	cancelledMembers []*Future // members of batches, cancelled alone
	errorResponses   []errorResponse
	failedMembers    []failedMembers
	endedContexts    []endedContext
	abandonedIDs     []uint64 // ids of abandoned calls, for cancellations
}

// noLists is the effectLists of effects without lists.
var noLists effectLists

// mustLists marks the effects as not empty, and returns the lists.
func (fx *effects) mustLists() *effectLists {
	fx.notEmpty = true
	if fx.lists == nil {
		fx.lists = new(effectLists)
	}
	return fx.lists
}

// messageList is a list of messages, linked by pendingMessage.nextFinished.
type messageList struct{ first, last *pendingMessage }

// errorResponse is an error response made by the session itself.
type errorResponse struct {
	id   ID
	err  *Error
	from sendMode
}

// failedMembers is members of a batch to be answered with err. If err is nil, the members
// get no answer.
type failedMembers struct {
	batch   *peerBatch
	members []*peerRequest
	err     *Error
	from    sendMode
}

// endedContext is a request whose handler's context ends, with the cause.
type endedContext struct {
	call  *peerRequest
	cause error
}

// closeArguments holds the arguments of Session.closeWith.
type closeArguments struct {
	cause error
	grace time.Duration
}

// finishMessage schedules the publication of m's outcome.
func (fx *effects) finishMessage(m *pendingMessage) {
	fx.notEmpty = true
	if fx.finishedMessages.last == nil {
		fx.finishedMessages.first = m
	} else {
		fx.finishedMessages.last.nextFinished = m
	}
	fx.finishedMessages.last = m
}

// finishMember schedules the publication of the outcome of f, a member of a batch.
func (fx *effects) finishMember(f *Future) {
	l := fx.mustLists()
	l.cancelledMembers = append(l.cancelledMembers, f)
}

// replyError schedules an error response.
func (fx *effects) replyError(id ID, err *Error, from sendMode) {
	l := fx.mustLists()
	fx.hasErrors = true
	l.errorResponses = append(l.errorResponses, errorResponse{id, err, from})
}

// failMembers schedules the answer err for members of b.
func (fx *effects) failMembers(b *peerBatch, members []*peerRequest, err *Error, from sendMode) {
	l := fx.mustLists()
	fx.hasErrors = true
	l.failedMembers = append(l.failedMembers, failedMembers{b, members, err, from})
}

// endContext schedules the end of the context of c's handler.
func (fx *effects) endContext(c *peerRequest, cause error) {
	l := fx.mustLists()
	l.endedContexts = append(l.endedContexts, endedContext{c, cause})
}

// reportAbandoned schedules a cancellation of the call with the given id.
func (fx *effects) reportAbandoned(id uint64) {
	l := fx.mustLists()
	l.abandonedIDs = append(l.abandonedIDs, id)
}

// closeSession schedules the close of the session. The first cause counts.
func (fx *effects) closeSession(cause error, grace time.Duration) {
	fx.closeSessionWith(&closeArguments{cause, grace})
}

// closeSessionWith is closeSession with the given arguments.
func (fx *effects) closeSessionWith(args *closeArguments) {
	fx.notEmpty = true
	if fx.closeArgs == nil {
		fx.closeArgs = args
	}
}

// setFlag sets flag, a field of fx.
func (fx *effects) setFlag(flag *bool) { fx.notEmpty, *flag = true, true }

// lock takes s.mu.
func (s *Session) lock() {
	s.mu.Lock()
}

// unlock is the only way to release s.mu. Before the release, unlock checks conditions
// that depend on the session's state. After the release, unlock runs the effects.
func (s *Session) unlock() {
	if s.effects.hasErrors {
		s.life.unsentErrors++
	}
	s.memory.reportMemoryLocked()
	if s.hubs != nil {
		s.hubs.checkLaggingLocked()
	}
	if s.reader.role.vacancy != notVacant {
		s.reader.checkRoleLocked()
	}
	if s.life.state != stateOpen || s.input.closed {
		s.checkDrainedLocked()
		s.finishIfLastLocked()
	}
	s.mu.AssertHeld()
	if !s.effects.notEmpty {
		s.mu.Unlock()
		return
	}
	fx := s.effects
	s.effects = effects{}
	s.mu.Unlock()
	fx.runUnlocked(s)
}

func (fx *effects) runUnlocked(s *Session) {
	lists := fx.lists
	if lists == nil {
		lists = &noLists
	}
	var ended endedCalls
	for _, f := range lists.cancelledMembers {
		f.publishOutcome()
		ended.add(f)
	}
	for m := fx.finishedMessages.first; m != nil; {
		next := m.nextFinished // before publishOutcome, after which a pooled message may be reused
		m.nextFinished = nil
		ended.add(m.publishOutcome())
		m = next
	}
	ended.endHooksLater()
	replies, failed := lists.errorResponses, lists.failedMembers
	switch {
	case fx.errorsMayWait:
		s.pool.RunTask(func() { s.requests.sendErrorReplies(replies, failed) })
	case fx.hasErrors:
		s.requests.sendErrorReplies(replies, failed)
	}
	for _, e := range lists.endedContexts {
		e.call.ctx.endWith(e.cause)
	}
	if len(lists.abandonedIDs) > 0 {
		s.calls.sendCancellations(lists.abandonedIDs)
	}
	if fx.keepAliveDue {
		s.activity.sendKeepAlive()
	}
	if fx.readerWanted {
		s.pool.RunTask(s.readLoopFn)
	}
	if fx.workerWanted {
		s.pool.RunTask(s.workerTask())
	}
	if fx.hubsDue {
		s.hubs.drain()
	}
	if fx.costCloseDue {
		s.pool.RunTask(s.cost.closeForCost)
	}
	if fx.hangUpCheckDue {
		s.closeIfHungUp()
	}
	if fx.closeArgs != nil {
		s.closeWith(fx.closeArgs.cause, fx.closeArgs.grace)
	}
	if fx.connCloseDue {
		s.closeConn() // last, because Close may wait
	}
	if fx.exchangeOver {
		s.endExchange()
	}
}

// sendErrorReplies queues error replies.
func (rs *requestServer) sendErrorReplies(replies []errorResponse, failed []failedMembers) {
	for _, r := range replies {
		rs.sendErrorReply(r.id, r.err, r.from)
	}
	for _, f := range failed {
		f.batch.answerMembers(rs.s, f.members, f.err, f.from)
	}
	rs.finishSendingErrors()
}

// finishSendingErrors counts life.unsentErrors down, after a goroutine has queued its
// error replies. When the count reaches 0, a session with cost.closeError closes.
func (rs *requestServer) finishSendingErrors() {
	s := rs.s
	s.lock()
	if s.life.unsentErrors--; s.life.unsentErrors == 0 && s.cost.closeError != nil {
		s.closePolitelyLocked(s.cost.closeError)
	}
	s.unlock()
}

// locker is s.mu as a [sync.Locker], for waiting goroutines.
type locker Session

func (l *locker) Lock()   { (*Session)(l).lock() }
func (l *locker) Unlock() { (*Session)(l).unlock() }
