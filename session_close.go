package rpcx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// effects collects work that is decided while s.mu is held and must run without it.
// Session.unlock runs it, on the goroutine that unlocks, in the order of run.
type effects struct {
	notEmpty        bool       // there is any
	finishedFutures futureList // calls that are over
	hasErrors       bool       // there are errorResponses or failedMembers, which Shutdown waits for
	errorResponses  []errorResponse
	failedMembers   []failedMembers
	errorsMayWait   bool // these may wait for room in the outbox: not on the goroutine that unlocks
	endedContexts   []endedContext
	abandonedIDs    []uint64 // ids of our calls, of which the peer is told
	keepAliveDue    bool     // a keep-alive notification is due
	workerWanted    bool     // work waits for one more worker
	costCloseDue    bool     // the session is over its cost
	hangUpCheckDue  bool     // the operating system is to be asked whether the peer is gone
	closeArgs       *closeArguments
	connCloseDue    bool
}

// futureList is a list of futures, linked by Future.nextCompleted.
type futureList struct{ first, last *Future }

// errorResponse is an error response that the session itself sends.
type errorResponse struct {
	id   ID
	err  *Error
	from sendMode
}

// failedMembers are members of a batch that are answered with err, or not at all if
// that is nil.
type failedMembers struct {
	batch   *peerBatch
	members []*peerRequest
	err     *Error
	from    sendMode
}

// endedContext is the context of a handler, and why it ends.
type endedContext struct {
	call  *peerRequest
	cause error
}

// closeArguments has the arguments of Session.end.
type closeArguments struct {
	cause error
	grace time.Duration
}

// finishFuture has f told that it is over.
func (fx *effects) finishFuture(f *Future) {
	fx.notEmpty = true
	if fx.finishedFutures.last == nil {
		fx.finishedFutures.first = f
	} else {
		fx.finishedFutures.last.nextCompleted = f
	}
	fx.finishedFutures.last = f
}

// replyError has an error response sent.
func (fx *effects) replyError(id ID, err *Error, from sendMode) {
	fx.notEmpty, fx.hasErrors = true, true
	fx.errorResponses = append(fx.errorResponses, errorResponse{id, err, from})
}

// failMembers has members of b answered with err.
func (fx *effects) failMembers(b *peerBatch, members []*peerRequest, err *Error, from sendMode) {
	fx.notEmpty, fx.hasErrors = true, true
	fx.failedMembers = append(fx.failedMembers, failedMembers{b, members, err, from})
}

// endContext has the context of the handler of c end.
func (fx *effects) endContext(c *peerRequest, cause error) {
	fx.notEmpty = true
	fx.endedContexts = append(fx.endedContexts, endedContext{c, cause})
}

// abandonCall has the peer told that nobody waits for its reply any more.
func (fx *effects) abandonCall(id uint64) {
	fx.notEmpty = true
	fx.abandonedIDs = append(fx.abandonedIDs, id)
}

// closeSession has the session ended. The first cause counts.
func (fx *effects) closeSession(cause error, grace time.Duration) {
	fx.notEmpty = true
	if fx.closeArgs == nil {
		fx.closeArgs = &closeArguments{cause, grace}
	}
}

// setFlag sets a flag of fx.
func (fx *effects) setFlag(flag *bool) { fx.notEmpty, *flag = true, true }

// lock takes s.mu.
func (s *Session) lock() {
	s.mu.Lock()
}

// unlock is how s.mu is left. It looks again at what depends on the state of the session,
// and runs the effects without the lock.
func (s *Session) unlock() {
	if s.effects.hasErrors {
		s.life.unsentErrors++
	}
	s.memory.reportMemoryLocked()
	if s.requests.pressure.paused {
		s.requests.checkPauseLocked()
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
	for f := fx.finishedFutures.first; f != nil; {
		next := f.nextCompleted // a future of the pool's may be used again once it is finished
		f.nextCompleted = nil
		f.publishOutcome()
		f = next
	}
	replies, failed := fx.errorResponses, fx.failedMembers
	switch {
	case fx.errorsMayWait:
		s.pool.runTask(func() { s.requests.sendErrorReplies(replies, failed) })
	case fx.hasErrors:
		s.requests.sendErrorReplies(replies, failed)
	}
	for _, e := range fx.endedContexts {
		e.call.ctx.endWith(e.cause)
	}
	if len(fx.abandonedIDs) > 0 {
		s.calls.sendCancellations(fx.abandonedIDs)
	}
	if fx.keepAliveDue {
		s.activity.sendKeepAlive()
	}
	if fx.workerWanted {
		s.pool.runTask(s.runWorkerFn)
	}
	if fx.costCloseDue {
		s.pool.runTask(s.cost.closeForCost)
	}
	if fx.hangUpCheckDue {
		s.closeIfHungUp()
	}
	if fx.closeArgs != nil {
		s.closeWith(fx.closeArgs.cause, fx.closeArgs.grace)
	}
	if fx.connCloseDue {
		s.closeConn() // last, for it may take its time
	}
}

// sendErrorReplies queues what is answered with errors.
func (rs *requestServer) sendErrorReplies(replies []errorResponse, failed []failedMembers) {
	for _, r := range replies {
		rs.sendErrorReply(r.id, r.err, r.from)
	}
	for _, f := range failed {
		f.batch.answerMembers(rs.s, f.members, f.err, f.from)
	}
	rs.finishSendingErrors()
}

// finishSendingErrors is called when errors that s.refusing counts are queued. The last of them
// ends a session that is being dismissed.
func (rs *requestServer) finishSendingErrors() {
	s := rs.s
	s.lock()
	if s.life.unsentErrors--; s.life.unsentErrors == 0 && s.cost.closeError != nil {
		s.closePolitelyLocked(s.cost.closeError)
	}
	s.unlock()
}

// locker is s.mu for what waits with it.
type locker Session

func (l *locker) Lock()   { (*Session)(l).lock() }
func (l *locker) Unlock() { (*Session)(l).unlock() }

// runsHandlerOf reports whether ctx is made from the context of a handler that runs.
func (s *Session) runsHandlerOf(ctx context.Context) bool {
	h := handlerOf(ctx)
	if h == nil || h.session != s {
		return false
	}
	s.lock()
	defer s.unlock()
	return !h.waits.handlerReturned
}

// shutdownWith is Shutdown, for the cause given.
func (s *Session) shutdownWith(ctx context.Context, cause error) error {
	s.lock()
	if s.life.state == stateOpen {
		s.life.state = stateDraining
		s.life.drained = make(chan struct{})
		for _, e := range s.requests.waitingEntries() {
			e.refuseRemaining(s, notStarted("shutting down", "shutting down"), fromHandler)
		}
		s.effects.errorsMayWait = s.effects.hasErrors // until the session closes
		s.writer.roomLine.wakeAll()
		s.calls.limiter.line.wakeAll()
	}
	drained := s.life.drained
	s.unlock()
	// Owner: this call. End: it logs.
	slow := time.AfterFunc(shutdownNotice, func() { s.logShutdownWaits("shutdown waits") })
	defer slow.Stop()
	select {
	case <-drained: // nil if the session was ending already: it takes the time that it was left
		s.closeWith(cause, closeGrace)
	case <-s.Done():
	case <-ctx.Done():
		s.logShutdownWaits(shutdownGivenUp)
		s.closeAndFlush(cause)
		return ctx.Err()
	}
	select {
	case <-s.Done():
		return nil
	case <-ctx.Done():
		s.logShutdownWaits(shutdownGivenUp)
		return ctx.Err()
	}
}

// shutdownNotice is after how long a Shutdown has logged what it waits for.
const shutdownNotice = 10 * time.Second

const shutdownGivenUp = "shutdown did not finish in time"

// logShutdownWaits logs what a Shutdown waits for, if that are handlers or calls.
func (s *Session) logShutdownWaits(msg string) {
	s.lock()
	defer s.unlock()
	running := slices.AppendSeq(s.requests.runningRequestsLocked(), maps.Keys(s.requests.lateHandlers))
	if len(running) == 0 && s.calls.table.pending == 0 {
		return
	}
	s.logs.logLaterLocked(slog.LevelWarn, msg, slog.String("handlers that run", methodsOf(slices.Values(running))),
		slog.Int("calls", s.calls.table.pending))
}

// runningRequestsLocked returns the calls that were begun and not answered. Callers must hold s.mu.
func (rs *requestServer) runningRequestsLocked() []*peerRequest {
	rs.s.mu.AssertHeld()
	var running []*peerRequest
	for d := rs.open.first; d != nil; d = d.next {
		running = d.owner.(queueEntry).appendRunning(running)
	}
	return running
}

// hangUpErrors are the errors of a connection that the peer has closed. The files for the
// systems add theirs.
var hangUpErrors = []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe}

// droppedNotifications counts notifications that were received and dropped because the session was
// ending.
type droppedNotifications struct {
	count       int
	firstMethod string // the method of the first
}

// countDroppedAtEndLocked counts a notification that is dropped because the session ends. One record
// tells of all of them when the session is over. Callers must hold s.mu.
func (s *Session) countDroppedAtEndLocked(c *peerRequest) {
	s.mu.AssertHeld()
	s.stats.NotificationsDropped++
	if s.life.droppedAtEnd.count++; s.life.droppedAtEnd.count == 1 {
		s.life.droppedAtEnd.firstMethod = c.Method
	}
}

// isOnlyLogLeftLocked reports whether nothing is left of a session but to log what has happened.
func (s *Session) isOnlyLogLeftLocked() bool {
	s.mu.AssertHeld()
	return s.life.state == stateClosing && s.life.runningLoops == 0 && s.requests.workers == 0 && s.requests.count == 0
}

// closedErrorLocked is ErrClosed, with the reason for the end if it is another.
func (s *Session) closedErrorLocked() error {
	s.mu.AssertHeld()
	switch cause := s.life.closeCause.(type) {
	case nil:
		return ErrClosed
	case *closedError, *contextClosedError: // ErrClosed, and what wraps it
		return cause
	}
	return &endedError{s.life.closeCause}
}

// endedError is the error of what is asked of a session that has ended.
type endedError struct{ cause error }

func (e *endedError) Error() string   { return ErrClosed.Error() + ": " + trimPrefix(e.cause) }
func (e *endedError) Unwrap() []error { return []error{ErrClosed, ErrConnectionLost, e.cause} }

// Shutdown ends the session in order. From now on requests are answered
// [CodeServerBusy] "server busy - shutting down", those that wait for a handler
// included, notifications are dropped, and calls fail with [ErrClosed] unless a
// running handler makes them with its context. Shutdown waits for the handlers
// that run, for the calls that are pending, and until all is written; then it
// closes the session and waits for its end. For that of a session that is ending
// already it only waits. If ctx ends first it calls Close, and returns ctx's error. The
// methods of the handlers that it waits for are logged then, and after 10 seconds.
//
// A handler must not call it, since it waits for the handler. With the handler's
// context, or one made from it, Shutdown returns [ErrInHandler] at once and does
// nothing; that a handler calls it with another context cannot be recognised. See
// [ReplyAndDisconnect].
func (s *Session) Shutdown(ctx context.Context) error {
	mustHaveContext("Session.Shutdown", ctx)
	if s.runsHandlerOf(ctx) {
		return ErrInHandler
	}
	return s.shutdownWith(ctx, ErrClosed)
}

// checkDrainedLocked sees whether Shutdown, or a session without input, has anything left to
// wait for. Callers must hold s.mu.
func (s *Session) checkDrainedLocked() {
	s.mu.AssertHeld()
	s.closeIfAllAnsweredLocked()
	if s.life.state != stateDraining || s.life.unsentErrors > 0 || s.requests.running > 0 || s.calls.table.pending > 0 {
		return
	}
	if s.life.drainTarget == 0 {
		// What is refused from now on is not waited for, or a peer that goes on
		// asking could hold the session open.
		s.life.drainTarget = s.writer.queuedMessages
	}
	if s.writer.writtenMessages >= s.life.drainTarget {
		select {
		case <-s.life.drained:
		default:
			close(s.life.drained)
		}
	}
}

// closeWith begins the end: it fails what is pending and leaves the writer grace to
// write what is queued; none for 0. A second end may only shorten the grace. To this
// side the end of its server is a Close: only the connection is told of it.
func (s *Session) closeWith(cause error, grace time.Duration) {
	told := cause
	switch {
	case cause == ErrServerClosed:
		cause = ErrClosed
	case cause == io.EOF:
		cause = s.endOfInput()
	case isUnreachable(cause):
		cause = fmt.Errorf("%w: %w", ErrUnreachable, cause)
	}
	s.lock()
	closeBy := after(s.now(), grace)
	if s.life.state >= stateClosing {
		if s.life.state == stateClosing && closeBy < s.life.closeDeadline {
			s.life.closeDeadline = closeBy
			s.timer.setTimerLocked(closeBy)
		}
		s.unlock()
		return
	}
	s.life.state, s.life.closeCause, s.life.connCause, s.life.closeDeadline = stateClosing, cause, told, closeBy
	if grace > 0 {
		s.timer.setTimerLocked(closeBy)
	}
	// What of the rest goes out is known when the writer returns: now, if the
	// connection is closed.
	s.calls.failPendingLocked(cause, grace > 0 && !errors.Is(cause, io.EOF))
	running := s.requests.runningRequestsLocked() // before discard, which takes batches out that are begun
	s.requests.discardQueueLocked(isHangUp(cause))
	for _, c := range running {
		s.effects.endContext(c, cause)
	}
	s.writer.roomLine.wakeAll()
	s.calls.limiter.line.wakeAll()
	s.writer.wakeWriter()
	s.requests.startWorkerIfNeededLocked() // which waits for nobody any more
	if grace == 0 {
		s.effects.setFlag(&s.effects.connCloseDue)
	}
	s.unlock()
}

// closePolitely is end where the peer is to read what it was answered last: the writer
// has Limits.CloseTimeout, and lingers.
func (s *Session) closePolitely(cause error) {
	s.lock()
	s.closePolitelyLocked(cause)
	s.unlock()
}

// closePolitelyLocked is closePolitely for callers that hold s.mu.
func (s *Session) closePolitelyLocked(cause error) {
	s.mu.AssertHeld()
	s.life.lingerWanted = s.life.lingerWanted || s.life.state < stateClosing
	s.effects.closeSession(cause, s.limits.CloseTimeout)
}

// isHangUp reports whether a session ends since its peer has closed the connection: what
// the peer had sent before was sent in good faith.
func isHangUp(cause error) bool {
	return slices.ContainsFunc(hangUpErrors, func(target error) bool { return errors.Is(cause, target) })
}

// failPendingLocked completes the calls that are pending as lost for the given cause. Those that are
// not written only if unwritten is set. Callers must hold s.mu.
func (pc *pendingCalls) failPendingLocked(cause error, unwritten bool) {
	s := pc.s
	s.mu.AssertHeld()
	now := s.now()
	for _, f := range pc.table.pendingCalls() {
		written := f.messageSeq <= s.writer.writtenMessages
		if !written && !unwritten {
			continue
		}
		pc.table.remove(f)
		pc.completeCallLocked(f, now, nil, &ConnectionError{written, cause})
	}
}

// connCloseDue closes the connection, which ends the reader and a blocked writer.
func (s *Session) closeConn() {
	s.lock()
	told := s.life.connCause
	s.unlock()
	_ = s.conn.closeWithCause(told)
}

// violationGrace returns the grace of an end because of what the peer has sent. A
// connection that tells the peer why must not be in a write then.
func (s *Session) violationGrace() time.Duration {
	if s.conn.tellsCause() {
		return closeGrace
	}
	return 0
}

// finishIfLastLocked ends the session when the reader, the writer and all workers have returned, and
// all is logged. Callers must hold s.mu.
func (s *Session) finishIfLastLocked() {
	s.mu.AssertHeld()
	if !s.isOnlyLogLeftLocked() || s.logs.running {
		return
	}
	if s.logs.unlogged > 0 {
		s.logs.running = true
		s.pool.runTask(s.logs.writeLogRecords) // which calls leave again
		return
	}
	s.life.state = stateDone
	s.load.addBytes(-s.memory.reported, s.pool)
	s.reader.forgetPartialLocked()
	s.memory.removeFromBlockedLocked()
	s.load.sessions.Add(-1)
	if s.timer.timer != nil {
		s.timer.timer.Stop()
	}
	// Owner: the session. End: the callbacks return.
	go s.runCloseCallbacks(s.life.onClose, s.life.droppedAtEnd)
}

// logDropped logs how many notifications were dropped, within the server's budget.
func (s *Session) logDropped(dropped droppedNotifications) {
	const msg = "notifications dropped: the session was ending"
	attrs := []slog.Attr{slog.Int("notifications", dropped.count), slog.String("first", excerpt(dropped.firstMethod)), errorAttr(s.life.closeCause)}
	if l := s.load.logs; l != nil {
		ok, skipped := l.notices.Take(float64(recordSize(msg, attrs)), 0, 1)
		if !ok {
			return
		}
		if skipped > 0 {
			attrs = append(attrs, slog.Int("records left out", skipped))
		}
	}
	s.log.LogAttrs(context.Background(), slog.LevelInfo, msg, attrs...)
}

// runCloseCallbacks logs how many notifications were dropped, runs the callbacks and closes Done.
func (s *Session) runCloseCallbacks(callbacks []func(error), dropped droppedNotifications) {
	if dropped.count > 0 {
		s.logDropped(dropped)
	}
	if s.beforeCallbacks != nil {
		s.beforeCallbacks()
	}
	if s.trace.Closed != nil {
		s.trace.Closed(s, s.life.closeCause)
	}
	for _, callback := range callbacks {
		callback(s.life.closeCause)
	}
	s.pool.removeUser()
	s.lock()
	s.life.callbacksDone = true
	if s.life.done != nil {
		close(s.life.done)
	}
	s.unlock()
	if s.afterCallbacks != nil {
		s.afterCallbacks()
	}
}
