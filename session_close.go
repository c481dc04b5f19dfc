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
	pending        bool        // there is any
	completed      completions // calls that are over
	refusing       bool        // there are errorResponses or failedMembers, which Shutdown waits for
	errorResponses []errorResponse
	failed         []failedMembers
	mayWait        bool // these may wait for room in the outbox: not on the goroutine that unlocks
	ended          []endedContext
	abandoned      []uint64 // ids of our calls, of which the peer is told
	keepAlive      bool     // a keep-alive notification is due
	startWorker    bool     // work waits for one more worker
	dismiss        bool     // the session is over its cost
	checkHungUp    bool     // the operating system is to be asked whether the peer is gone
	closing        *closing
	closeConn      bool
}

// completions is a list of futures, linked by Future.nextCompleted.
type completions struct{ first, last *Future }

// errorResponse is an error response that the session itself sends.
type errorResponse struct {
	id   ID
	err  *Error
	from sender
}

// failedMembers are members of a batch that are answered with err, or not at all if
// that is nil.
type failedMembers struct {
	batch   *inBatch
	members []*call
	err     *Error
	from    sender
}

// endedContext is the context of a handler, and why it ends.
type endedContext struct {
	call  *call
	cause error
}

// closing has the arguments of Session.end.
type closing struct {
	cause error
	grace time.Duration
}

// complete has f told that it is over.
func (fx *effects) complete(f *Future) {
	fx.pending = true
	if fx.completed.last == nil {
		fx.completed.first = f
	} else {
		fx.completed.last.nextCompleted = f
	}
	fx.completed.last = f
}

// replyError has an error response sent.
func (fx *effects) replyError(id ID, err *Error, from sender) {
	fx.pending, fx.refusing = true, true
	fx.errorResponses = append(fx.errorResponses, errorResponse{id, err, from})
}

// failMembers has members of b answered with err.
func (fx *effects) failMembers(b *inBatch, members []*call, err *Error, from sender) {
	fx.pending, fx.refusing = true, true
	fx.failed = append(fx.failed, failedMembers{b, members, err, from})
}

// endContext has the context of the handler of c end.
func (fx *effects) endContext(c *call, cause error) {
	fx.pending = true
	fx.ended = append(fx.ended, endedContext{c, cause})
}

// abandonCall has the peer told that nobody waits for its reply any more.
func (fx *effects) abandonCall(id uint64) {
	fx.pending = true
	fx.abandoned = append(fx.abandoned, id)
}

// end has the session ended. The first cause counts.
func (fx *effects) end(cause error, grace time.Duration) {
	fx.pending = true
	if fx.closing == nil {
		fx.closing = &closing{cause, grace}
	}
}

// set sets a flag of fx.
func (fx *effects) set(flag *bool) { fx.pending, *flag = true, true }

// lock takes s.mu.
func (s *Session) lock() {
	s.mu.Lock()
	s.owner.Set()
}

// unlock is how s.mu is left. It looks again at what depends on the state of the session,
// and runs the effects without the lock.
func (s *Session) unlock() {
	if s.fx.refusing {
		s.refusing++
	}
	s.weigh()
	if s.pressure.paused {
		s.checkPauseLocked()
	}
	if s.state != stateOpen || s.input.closed {
		s.checkDrained()
		s.leave()
	}
	s.owner.Check()
	if !s.fx.pending {
		s.owner.Clear()
		s.mu.Unlock()
		return
	}
	fx := s.fx
	s.fx = effects{}
	s.owner.Clear()
	s.mu.Unlock()
	fx.run(s)
}

func (fx *effects) run(s *Session) {
	for f := fx.completed.first; f != nil; {
		next := f.nextCompleted // a future of the pool's may be used again once it is finished
		f.nextCompleted = nil
		f.finish()
		f = next
	}
	replies, failed := fx.errorResponses, fx.failed
	switch {
	case fx.mayWait:
		s.pool.run(func() { s.sendErrors(replies, failed) })
	case fx.refusing:
		s.sendErrors(replies, failed)
	}
	for _, e := range fx.ended {
		e.call.ctx.end(e.cause)
	}
	if len(fx.abandoned) > 0 {
		s.tell(fx.abandoned)
	}
	if fx.keepAlive {
		s.probe()
	}
	if fx.startWorker {
		s.pool.run(s.workFn)
	}
	if fx.dismiss {
		s.pool.run(s.dismiss)
	}
	if fx.checkHungUp {
		s.endIfHungUp()
	}
	if fx.closing != nil {
		s.end(fx.closing.cause, fx.closing.grace)
	}
	if fx.closeConn {
		s.closeConn() // last, for it may take its time
	}
}

// sendErrors queues what is answered with errors.
func (s *Session) sendErrors(replies []errorResponse, failed []failedMembers) {
	for _, r := range replies {
		s.postError(r.id, r.err, r.from)
	}
	for _, f := range failed {
		f.batch.fail(s, f.members, f.err, f.from)
	}
	s.refused()
}

// refused is called when errors that s.refusing counts are queued. The last of them
// ends a session that is being dismissed.
func (s *Session) refused() {
	s.lock()
	if s.refusing--; s.refusing == 0 && s.cost.why != nil {
		s.endPolitelyLocked(s.cost.why)
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
	return !h.waits.returned
}

// shutdown is Shutdown, for the cause given.
func (s *Session) shutdown(ctx context.Context, cause error) error {
	s.lock()
	if s.state == stateOpen {
		s.state = stateDraining
		s.drained = make(chan struct{})
		for _, e := range s.in.waiting() {
			e.refuse(s, notStarted("shutting down", "shutting down"), fromHandler)
		}
		s.fx.mayWait = s.fx.refusing // until the session closes
		s.out.line.release()
		s.slots.line.release()
	}
	drained := s.drained
	s.unlock()
	// Owner: this call. End: it logs.
	slow := time.AfterFunc(shutdownNotice, func() { s.noteWaits("shutdown waits") })
	defer slow.Stop()
	select {
	case <-drained: // nil if the session was ending already: it takes the time that it was left
		s.end(cause, closeGrace)
	case <-s.Done():
	case <-ctx.Done():
		s.noteWaits(shutdownGivenUp)
		s.close(cause)
		return ctx.Err()
	}
	select {
	case <-s.Done():
		return nil
	case <-ctx.Done():
		s.noteWaits(shutdownGivenUp)
		return ctx.Err()
	}
}

// shutdownNotice is after how long a Shutdown has logged what it waits for.
const shutdownNotice = 10 * time.Second

const shutdownGivenUp = "shutdown did not finish in time"

// noteWaits logs what a Shutdown waits for, if that are handlers or calls.
func (s *Session) noteWaits(msg string) {
	s.lock()
	defer s.unlock()
	running := slices.AppendSeq(s.runningLocked(), maps.Keys(s.in.late))
	if len(running) == 0 && s.table.pending == 0 {
		return
	}
	s.note(slog.LevelWarn, msg, slog.String("handlers that run", methodsOf(slices.Values(running))),
		slog.Int("calls", s.table.pending))
}

// runningLocked returns the calls that were begun and not answered. Callers must hold s.mu.
func (s *Session) runningLocked() []*call {
	s.owner.Check()
	var running []*call
	for d := s.incoming.first; d != nil; d = d.next {
		running = d.owner.(entry).running(running)
	}
	return running
}

// hangUps are the errors of a connection that the peer has closed. The files for the
// systems add theirs.
var hangUps = []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe}

// dropped counts notifications that were received and dropped because the session was
// ending.
type dropped struct {
	count int
	first string // the method of the first
}

// dropLocked counts a notification that is dropped because the session ends. One record
// tells of all of them when the session is over. Callers must hold s.mu.
func (s *Session) dropLocked(c *call) {
	s.owner.Check()
	s.stats.NotificationsDropped++
	if s.dropped.count++; s.dropped.count == 1 {
		s.dropped.first = c.Method
	}
}

// lastLocked reports whether nothing is left of a session but to log what has happened.
func (s *Session) lastLocked() bool {
	s.owner.Check()
	return s.state == stateClosing && s.loops == 0 && s.in.workers == 0 && s.in.count == 0
}

// closedError is ErrClosed, with the reason for the end if it is another.
func (s *Session) closedError() error {
	switch cause := s.cause.(type) {
	case nil:
		return ErrClosed
	case *closedError, *contextClosed: // ErrClosed, and what wraps it
		return cause
	}
	return &endedError{s.cause}
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
	return s.shutdown(ctx, ErrClosed)
}

// checkDrained sees whether Shutdown, or a session without input, has anything left to
// wait for. Callers must hold s.mu.
func (s *Session) checkDrained() {
	s.checkInputLocked()
	if s.state != stateDraining || s.refusing > 0 || s.in.running > 0 || s.table.pending > 0 {
		return
	}
	if s.flushTo == 0 {
		// What is refused from now on is not waited for, or a peer that goes on
		// asking could hold the session open.
		s.flushTo = s.out.queued
	}
	if s.out.written >= s.flushTo {
		select {
		case <-s.drained:
		default:
			close(s.drained)
		}
	}
}

// end begins the end: it fails what is pending and leaves the writer grace to
// write what is queued; none for 0. A second end may only shorten the grace. To this
// side the end of its server is a Close: only the connection is told of it.
func (s *Session) end(cause error, grace time.Duration) {
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
	if s.state >= stateClosing {
		if s.state == stateClosing && closeBy < s.closeBy {
			s.closeBy = closeBy
			s.arm(closeBy)
		}
		s.unlock()
		return
	}
	s.state, s.cause, s.told, s.closeBy = stateClosing, cause, told, closeBy
	if grace > 0 {
		s.arm(closeBy)
	}
	// What of the rest goes out is known when the writer returns: now, if the
	// connection is closed.
	s.lose(cause, grace > 0 && !errors.Is(cause, io.EOF))
	running := s.runningLocked() // before discard, which takes batches out that are begun
	s.discard(hungUp(cause))
	for _, c := range running {
		s.fx.endContext(c, cause)
	}
	s.out.line.release()
	s.slots.line.release()
	s.out.wakeWriter()
	s.wakeWorkerLocked() // which waits for nobody any more
	if grace == 0 {
		s.fx.set(&s.fx.closeConn)
	}
	s.unlock()
}

// endPolitely is end where the peer is to read what it was answered last: the writer
// has Limits.CloseTimeout, and lingers.
func (s *Session) endPolitely(cause error) {
	s.lock()
	s.endPolitelyLocked(cause)
	s.unlock()
}

// endPolitelyLocked is endPolitely for callers that hold s.mu.
func (s *Session) endPolitelyLocked(cause error) {
	s.owner.Check()
	s.lingers = s.lingers || s.state < stateClosing
	s.fx.end(cause, s.limits.CloseTimeout)
}

// hungUp reports whether a session ends since its peer has closed the connection: what
// the peer had sent before was sent in good faith.
func hungUp(cause error) bool {
	return slices.ContainsFunc(hangUps, func(target error) bool { return errors.Is(cause, target) })
}

// lose completes the calls that are pending as lost for the given cause. Those that are
// not written only if unwritten is set. Callers must hold s.mu.
func (s *Session) lose(cause error, unwritten bool) {
	now := s.now()
	for _, f := range s.table.all() {
		written := f.queued <= s.out.written
		if !written && !unwritten {
			continue
		}
		s.table.remove(f)
		if f.batch != nil {
			s.fx.complete(f)
		}
		s.complete(f, now, nil, &ConnectionError{written, cause})
	}
}

// closeConn closes the connection, which ends the reader and a blocked writer.
func (s *Session) closeConn() {
	s.lock()
	told := s.told
	s.unlock()
	_ = s.conn.close(told)
}

// violationGrace returns the grace of an end because of what the peer has sent. A
// connection that tells the peer why must not be in a write then.
func (s *Session) violationGrace() time.Duration {
	if s.conn.tells() {
		return closeGrace
	}
	return 0
}

// leave ends the session when the reader, the writer and all workers have returned, and
// all is logged. Callers must hold s.mu.
func (s *Session) leave() {
	if !s.lastLocked() || s.logging {
		return
	}
	if s.unlogged > 0 {
		s.logging = true
		s.pool.run(s.logNotes) // which calls leave again
		return
	}
	s.state = stateDone
	s.load.add(-s.weight, s.pool)
	s.dropPartLocked()
	s.stopWaitingLocked()
	s.load.sessions.Add(-1)
	if s.timer != nil {
		s.timer.Stop()
	}
	// Owner: the session. End: the callbacks return.
	go s.finish(s.onClose, s.dropped)
}

// logDropped logs how many notifications were dropped, within the server's budget.
func (s *Session) logDropped(dropped dropped) {
	const msg = "notifications dropped: the session was ending"
	attrs := []slog.Attr{slog.Int("notifications", dropped.count), slog.String("first", excerpt(dropped.first)), errorAttr(s.cause)}
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

// finish logs how many notifications were dropped, runs the callbacks and closes Done.
func (s *Session) finish(callbacks []func(error), dropped dropped) {
	if dropped.count > 0 {
		s.logDropped(dropped)
	}
	if s.left != nil {
		s.left()
	}
	if s.trace.Closed != nil {
		s.trace.Closed(s, s.cause)
	}
	for _, callback := range callbacks {
		callback(s.cause)
	}
	s.pool.leave()
	s.lock()
	s.over = true
	if s.done != nil {
		close(s.done)
	}
	s.unlock()
	if s.ended != nil {
		s.ended()
	}
}
