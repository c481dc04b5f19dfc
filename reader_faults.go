package rpcx

import "log/slog"

// meter counts the bytes that have come in, and charges for them. It is called under
// the lock by the reader.
func (s *Session) meter() {
	received := s.conn.received()
	s.spend(int(received - s.stats.BytesReceived))
	s.stats.BytesReceived = received
}

// fault counts a message that was not as it should be, charges for it, and has it
// logged. It is called under the lock.
func (s *Session) fault(err error, more ...slog.Attr) {
	s.penalize(err)
	s.noteFault(err, more...)
}

// penalize counts an error and charges for it.
func (s *Session) penalize(err error) {
	s.stats.Errors++
	cost := s.limits.CostError
	switch e := err.(type) {
	case *Error:
		cost += e.Cost
	case *FrameError:
		cost += e.Cost
	case *ProtocolError:
		if e.Code == CodeParseError {
			cost += 10 * s.limits.CostError
		}
	}
	s.charge(cost)
}

// badMessage is the last message that was not as it should be.
type badMessage struct {
	err    error
	queued uint64 // the messages that had been queued when it came
}

// lateError is the error of a call that timed out while something came that may have been
// its reply.
type lateError struct {
	err  error // the timeout
	came string
}

func (e *lateError) Error() string { return e.err.Error() + "; " + e.came }
func (e *lateError) Unwrap() error { return e.err }

// timeoutErrorLocked returns err, with which the call f times out, and tells of what has
// come meanwhile that may have been its reply. Callers must hold s.mu.
func (s *Session) timeoutErrorLocked(f *Future, err error) error {
	s.owner.Check()
	if like := s.standingLocked(); like != "" {
		return &lateError{err, standingText + ": it looks like " + like}
	}
	if bad := s.lastBad; bad != nil && f.queued > 0 && f.queued <= bad.queued {
		return &lateError{err, "a bad message came meanwhile: " + bad.err.Error()}
	}
	return err
}

// faultOf counts the nth fault of a message, which is one error however many
// faults it has.
func (s *Session) faultOf(err error, nth int) {
	if nth == 1 {
		s.fault(err)
	} else {
		s.noteFault(err)
	}
}

// noteFault has a fault logged, and keeps it for the calls that are pending. Callers
// must hold s.mu.
func (s *Session) noteFault(err error, more ...slog.Attr) {
	s.countPeerErrorLocked(wholeError)
	if s.table.pending > 0 {
		s.lastBad = &badMessage{err, s.out.queued}
	}
	s.notePeerLocked(slog.LevelWarn, "bad message", append(more, slog.Any("error", err))...)
}

// receiveInvalid answers what is no valid request: msg as a whole. If the first message
// is no JSON, and something else is recognized in it, it ends the session.
func (s *Session) receiveInvalid(item *Item, msg []byte, first bool) {
	var more []slog.Attr
	foreign := ""
	if item.isNoJSON() { // which does not say what it was
		_, f := s.conn.unread()
		like := recognize(msg, f.content(), false)
		if first && like != "" && like != likeValues {
			foreign = like
			item.Err = protocolErrorf(CodeParseError, "%s; the input looks like %s", textNotJSON, like)
		}
		if more = append(more, slog.String("begin", excerpt(msg))); like != "" {
			more = append(more, slog.String("looks like", like))
		}
	}
	answer := s.answerTo(item)
	s.lock()
	if s.dropsFaultsLocked() {
		s.unlock()
		return
	}
	s.overdrawn()
	s.fault(item.Err, more...)
	s.countPeerErrorBytesLocked(wholeError, len(msg))
	s.fx.replyError(item.ID, answer, fromReader)
	if foreign != "" {
		s.fx.end(&FrameError{Message: "the input looks like " + foreign}, closeGrace)
	}
	s.unlock()
	if foreign != "" {
		s.reader.ignoring, s.reader.from = true, s.conn.received()
	}
}

// dropsFaultsLocked reports whether a message that is wrong is dropped, and counts it
// then: the session is about to end because of its cost. The reader may receive
// thousands of messages before that. Callers must hold s.mu.
func (s *Session) dropsFaultsLocked() bool {
	s.owner.Check()
	if s.cost.over {
		s.stats.Errors++
	}
	return s.cost.over
}

// answerTo returns the error that an invalid item is answered.
func (s *Session) answerTo(item *Item) *Error {
	if e := wireError(item.Err); e != nil {
		return e
	}
	return s.exception(item.Err)
}
