package rpcx

import (
	"context"
	"errors"
	"slices"
)

// CallProgress makes a call through c, and gives its progress to f, in the order of arrival,
// on the calling goroutine, and never after CallProgress has returned. All progress before
// the reply arrives before CallProgress returns, also before an error. p says where the call
// carries the token: [LSPWorkDone], [LSPPartialResult] and [MCPProgress], for example. With
// Correlation.CallID, the id of the call is the token.
//
// The errors are those of [Session.Call], [ErrNoStreams], an error of decoding a P, and
// [ErrSlowReader]. After an error of decoding, and when ctx ends, the call is given up. The
// peer learns of that only with Options.Cancellation.
//
// If the params have a value at the place of the token, it is the token. So a call can have
// two tokens: the program puts one of its own into the params, and reads its stream, which
// [StreamOf] returns before the call:
//
//	work, err := rpcx.StreamOf[WorkDone](s, rpcx.LSPWorkDone, "search-1")
//	// …
//	params := map[string]any{"query": "x", "workDoneToken": "search-1"}
//	found, err := rpcx.CallProgress[[]Item](ctx, s, rpcx.LSPPartialResult, "search", params, add)
//
// Nothing is dropped. If 256 values or 1 MiB wait for f, reading pauses, as if
// Limits.Queue were reached. So f should be quick, and should not call the peer: the reply
// has to wait, too. If f does not return for a pause of the greatest length (5 s, or less with
// a short SendTimeout or KeepAlive), reading goes on, and CallProgress returns ErrSlowReader.
// In a handler that waits for its peer meanwhile, the time is a second. Handlers that call
// each other by CallProgress, as deep as Limits.Concurrency, wait for ever, as with Call.
//
// Limits.RequestTimeout applies only if set, and each progress begins it anew.
func CallProgress[R, P any](ctx context.Context, c Caller, p *Correlation, method string, params any, f func(P)) (result R, err error) {
	mustHaveContext("CallProgress", ctx)
	mustHave("CallProgress", "function", f)
	sc, ok := c.(streamCaller)
	if !ok {
		return result, ErrNoStreams
	}
	err = sc.callWithProgress(ctx, p, method, params, &result, func(q *streamQueue, value []byte) error {
		var v P
		if err := q.decode(value, &v); err != nil {
			return err
		}
		f(v)
		return nil
	})
	if err != nil {
		var zero R
		return zero, err
	}
	return result, nil
}

// progressReader is the goroutine in CallProgress that empties a queue. The session's lock
// guards the fields.
type progressReader struct {
	handler *handlerContext // whose goroutine takes the values; nil if none of this session
	call    *pendingMessage
	full    bool // the queue is in sessionStreams.full
	waiting bool // the goroutine waits for the queue or the reply
}

// errNotProgress is the error for a form in which the reply does not end the news.
var errNotProgress = errors.New("rpcx: CallProgress needs a Correlation with Token or CallID, without Unsubscribe and Current: use Subscribe")

// callWithProgress implements [CallProgress]. f is called with each value.
func (s *Session) callWithProgress(ctx context.Context, form *Correlation, method string, params, result any, f func(q *streamQueue, value []byte) error) error {
	return s.attemptProgress(ctx, form, OutgoingCall{Method: method, Params: params, Attempt: 1}, result, nil, f)
}

// attemptProgress is callWithProgress for an attempt of a Client. t is its turn, or nil.
func (s *Session) attemptProgress(ctx context.Context, form *Correlation, out OutgoingCall, result any, t *sendTurn, f func(q *streamQueue, value []byte) error) error {
	if err := s.checkStreams(); err != nil {
		return err
	}
	if err := form.check("the Correlation for CallProgress, such as LSPWorkDone,"); err != nil {
		return errors.New("rpcx: " + err.Error())
	}
	if !form.endsByReply() {
		return errNotProgress
	}
	q := newStreamQueue(s, form, out.Method, defaultQueueLimits)
	q.progress = new(progressReader)
	if h := handlerOf(ctx); h != nil && h.session == s {
		q.progress.handler = h
	}
	call, params, err := s.beginStreamCall(ctx, q, out.Params)
	if err != nil {
		return err
	}
	out.Session, out.Params = s, params
	defer call.finishUnsent(ErrCancelled) // if a hook has failed or panicked
	if len(s.calls.hooks.onCall) > 0 {
		return s.calls.hooks.runCall(ctx, out, func(ctx context.Context, out *OutgoingCall) error {
			return s.callAndTakeProgress(ctx, out, result, call, t, f)
		})
	}
	return s.callAndTakeProgress(ctx, &out, result, call, t, f)
}

// callAndTakeProgress is attemptProgress after the functions of Options.OnCall.
func (s *Session) callAndTakeProgress(ctx context.Context, out *OutgoingCall, result any, call *streamCall, t *sendTurn, f func(q *streamQueue, value []byte) error) error {
	c := s.pool.takeCall(s, out.Method)
	m := &c.message
	m.stream, call.queue.progress.call = call, m
	err := s.sendCall(ctx, m, out.Params, out)
	t.pass()
	if err != nil {
		s.pool.putCall(c)
		return err
	}
	err = s.takeProgress(ctx, m, call.queue, f)
	if s.trace.ReplyReceived != nil {
		m.calls[0].traceReply()
	}
	if err == nil {
		err = m.calls[0].decodeResult(result)
	}
	s.pool.putCall(c) // not deferred: after a panic the table may still have the call
	return err
}

// takeProgress calls f with the values of q until the call of m has an outcome, and the
// queue is empty. If f fails, or ctx ends, the call is given up.
func (s *Session) takeProgress(ctx context.Context, m *pendingMessage, q *streamQueue, f func(q *streamQueue, value []byte) error) (err error) {
	ended, returned := false, false
	giveUp := func(err error) error {
		s.calls.abandonMessage(m, err) // nothing if there is an outcome
		if !ended {
			<-m.done // sent by the goroutine that removed the call from the table (I3)
			ended = true
		}
		return err
	}
	defer func() {
		if !returned { // f has panicked, or has ended the goroutine
			_ = giveUp(errCallPanicked)
		}
	}()
	for {
		if end := context.Cause(ctx); end != nil && !ended {
			returned = true
			if giveUp(end); m.calls[0].err != nil {
				return end
			}
			returned = false // the reply was first
		}
		value, ok, err := q.takeProgress()
		switch {
		case err != nil:
			returned = true
			return giveUp(err)
		case ok:
			if err := f(q, value); err != nil {
				returned = true
				return giveUp(err)
			}
		case ended:
			returned = true
			return nil
		default:
			s.beginProgressWait(q)
			select {
			case <-q.wake:
			case <-m.done:
				ended = true
			case <-ctx.Done():
			}
			s.endProgressWait(q)
		}
	}
}

// takeProgress returns the next value, if there is one.
func (q *streamQueue) takeProgress() (value []byte, ok bool, err error) {
	q.mu.Lock()
	if ok = q.count() > 0; ok {
		value, err = q.valueOf(q.pop())
	}
	hasFilled := q.hasFilled
	q.mu.Unlock()
	if ok && hasFilled {
		s := q.session
		s.lock()
		s.noteProgressTakenLocked(q)
		s.unlock() // which ends a pause, if there is room
	}
	return value, ok, err
}

// beginProgressWait records that the consumer of q waits for the peer.
func (s *Session) beginProgressWait(q *streamQueue) { s.changeProgressWait(q, true) }

// endProgressWait ends a wait of beginProgressWait.
func (s *Session) endProgressWait(q *streamQueue) { s.changeProgressWait(q, false) }

func (s *Session) changeProgressWait(q *streamQueue, waiting bool) {
	h := q.progress.handler
	if h == nil {
		return
	}
	s.lock()
	q.progress.waiting = waiting
	if waiting {
		s.requests.changeWaitsLocked(h, 1, 0)
	} else {
		s.requests.changeWaitsLocked(h, -1, 0)
	}
	s.unlock()
}

// fills reports whether the queue of a CallProgress is at least quarters/4 full.
func (q *streamQueue) fills(quarters int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count() >= quartersOf(q.limits.count, quarters) || q.bytes >= quartersOf(q.limits.bytes, quarters)
}

// deliverProgressLocked queues progress. If the queue is full, reading pauses after the
// hand-over. Callers must hold s.mu.
func (ss *sessionStreams) deliverProgressLocked(q *streamQueue, params []byte) {
	ss.s.mu.AssertHeld()
	q.push(queuedNews{data: params})
	if !q.progress.full && q.fills(4) {
		q.progress.full = true
		q.setFilled(true)
		ss.full = append(ss.full, q)
	}
}

// setFilled makes takeProgress report the values that it takes.
func (q *streamQueue) setFilled(filled bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.hasFilled = filled
}

// endSlowLocked ends a CallProgress whose goroutine is too slow. Callers must hold s.mu.
func (ss *sessionStreams) endSlowLocked(q *streamQueue) {
	s := ss.s
	s.mu.AssertHeld()
	m := q.progress.call
	q.finish(ErrSlowReader, true)
	ss.leaveFullLocked(q)
	s.calls.abandonMessageLocked(m, ErrSlowReader)
}

// leaveFullLocked records that q no longer holds up the reading. Callers must hold s.mu.
func (ss *sessionStreams) leaveFullLocked(q *streamQueue) {
	ss.s.mu.AssertHeld()
	if q.progress == nil || !q.progress.full {
		return
	}
	q.progress.full = false
	q.setFilled(false)
	ss.full = slices.DeleteFunc(ss.full, func(other *streamQueue) bool { return other == q })
}

// noteProgressTakenLocked records that the consumer of a full queue has taken a value.
// Callers must hold s.mu.
func (s *Session) noteProgressTakenLocked(q *streamQueue) {
	s.mu.AssertHeld()
	if !q.progress.full {
		return
	}
	if s.reader.role.vacancy == vacantPaused {
		s.requests.pressure.lastProgress = s.now()
	}
	if !q.fills(3) {
		s.streams.Load().leaveFullLocked(q)
	}
}

// isProgressTiedLocked reports whether the consumer of a full queue may wait for the peer: a
// goroutine of its handler does. Then a pause lasts currentStallLimit at most. Callers must
// hold s.mu.
func (s *Session) isProgressTiedLocked() bool {
	s.mu.AssertHeld()
	return s.isProgressFullLocked() && slices.ContainsFunc(s.streams.Load().full, func(q *streamQueue) bool {
		h := q.progress.handler
		return h != nil && !q.progress.waiting && (h.waits.replies > 0 || h.waits.room > 0)
	})
}

// isProgressFullLocked reports whether the queue of a CallProgress is full, so that reading
// may have to pause. Callers must hold s.mu.
func (s *Session) isProgressFullLocked() bool {
	s.mu.AssertHeld()
	ss := s.streams.Load()
	return ss != nil && len(ss.full) > 0
}

// mustPauseForProgressLocked reports whether reading must pause for a CallProgress. Callers
// must hold s.mu.
func (s *Session) mustPauseForProgressLocked() bool {
	s.mu.AssertHeld()
	return s.isProgressFullLocked() && s.life.state < stateClosing
}

// endSlowProgressLocked ends each CallProgress that holds up the reading. Callers must hold
// s.mu.
func (s *Session) endSlowProgressLocked() {
	s.mu.AssertHeld()
	if s.isProgressFullLocked() {
		ss := s.streams.Load()
		for _, q := range slices.Clone(ss.full) {
			ss.endSlowLocked(q)
		}
	}
}

// hasProgressRoomLocked reports whether the full queues may take a little more in a long
// pause. Callers must hold s.mu.
func (s *Session) hasProgressRoomLocked() bool {
	s.mu.AssertHeld()
	return !s.isProgressFullLocked() || !slices.ContainsFunc(s.streams.Load().full, func(q *streamQueue) bool { return q.fills(8) })
}
