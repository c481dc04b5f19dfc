package rpcx

import "time"

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
