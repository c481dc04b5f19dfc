package rpcx

import (
	"context"
	"slices"
)

// clientBatch is a batch of a Client. The first message has all members, and further
// messages have those that are sent again. Only the goroutine of SendBatch uses the fields.
type clientBatch struct {
	client *Client
	batch  *Batch
	open   []batchEntry  // calls without an outcome, and unsent notifications, as the program has added them
	sent   bool          // a message was queued
	done   chan struct{} // receives a value when the present message has an outcome
}

// takeOutcome implements [messageOwner].
func (cb *clientBatch) takeOutcome(*pendingMessage) bool {
	cb.done <- struct{}{}
	return true
}

// sendBatch implements [Client.SendBatch].
func (c *Client) sendBatch(ctx context.Context, b *Batch) error {
	if b.sent {
		return ErrBatchSent
	}
	b.sent = true
	cb := &clientBatch{client: c, batch: b, done: make(chan struct{}, 1)}
	for _, e := range b.entries {
		cb.open = append(cb.open, *e)
		if e.future != nil {
			b.members = append(b.members, e.future)
		}
	}
	r := &repetition{}
	err := errCallPanicked
	defer func() {
		for _, e := range cb.open {
			if e.future != nil {
				e.future.finish(err) // nothing if the future has finished
			}
		}
	}()
	err = c.repeat(ctx, r, func(ctx context.Context, cs *clientSession, t *sendTurn) (bool, error) {
		return cb.attempt(ctx, r, cs, t)
	})
	if err != nil && !cb.sent {
		return err
	}
	for _, e := range cb.open {
		if e.future != nil {
			e.future.finish(err)
		}
	}
	return fillMembers(b.members)
}

// attempt sends the open members on cs, waits for the outcomes and judges them. It reports
// true if members are to be sent again.
func (cb *clientBatch) attempt(ctx context.Context, r *repetition, cs *clientSession, t *sendTurn) (again bool, err error) {
	m := &pendingMessage{session: cs.session, owner: cb, isBatch: true, calls: make([]pendingCall, 0, len(cb.open))}
	part := cb.nextPart(r.attempt)
	cb.open = slices.DeleteFunc(cb.open, func(e batchEntry) bool {
		return e.future != nil && !e.future.joinMessage(m, e.method) // cancelled before
	})
	part.entries = slices.DeleteFunc(part.entries, func(e *batchEntry) bool {
		return e.future != nil && !e.future.isIn(m)
	})
	if m.items = int32(len(part.entries)); m.items == 0 {
		return false, nil
	}
	ctx, err = cs.session.sendPart(ctx, part, m)
	t.pass()
	if err != nil {
		for _, e := range part.entries {
			if e.future == nil {
				continue
			}
			if _, ok := e.future.detach(m); !ok {
				e.future.finish(ErrCancelled) // cancelled meanwhile
			}
		}
		part.endHooks(ctx, func(*Future) error { return err }, err)
		return cb.client.judge(r, cs, err)
	}
	cb.sent = true
	if m.expectsReply() {
		cb.await(ctx, m)
	}
	again = cb.judgeMembers(ctx, r, cs, m, part)
	if part.hooked != nil {
		part.hooked.end(ctx, batchError(part.futures(), func(f *Future) error { return f.finishedError() }))
	}
	return again, nil
}

// nextPart returns the batch for the given attempt: the user's, or one with the open
// members.
func (cb *clientBatch) nextPart(attempt int) *Batch {
	if attempt == 1 {
		return cb.batch
	}
	part := &Batch{sent: true, attempt: attempt}
	part.checkCopy()
	entries := slices.Clone(cb.open)
	for i := range entries {
		part.entries = append(part.entries, &entries[i])
	}
	return part
}

// sendPart calls the functions of Options.OnBatchCall and OnCall, and queues b, whose calls
// are in m. It returns the context for the batch.
func (s *Session) sendPart(ctx context.Context, b *Batch, m *pendingMessage) (context.Context, error) {
	ctx, err := s.calls.hooks.beginBatch(ctx, nil, s, b)
	if err == nil {
		_, m.hasOwnDeadline = ctx.Deadline()
		err = context.Cause(ctx)
	}
	if err == nil {
		err = b.checkLength(s.limits.Batch)
	}
	if err == nil {
		err = s.queueBatch(ctx, b, m)
	}
	return ctx, err
}

// await waits for the outcome of m. If ctx ends, the calls are given up.
func (cb *clientBatch) await(ctx context.Context, m *pendingMessage) {
	s := m.session
	h := handlerOf(ctx)
	s.requests.beginReplyWait(h)
	defer s.requests.endReplyWait(h)
	select {
	case <-cb.done:
	case <-ctx.Done():
		s.calls.abandonMessage(m, context.Cause(ctx))
		<-cb.done // sent by the goroutine that removed the last call from the table (I3)
	}
}

// judgeMembers finishes the members whose outcome is final, and leaves the others in
// cb.open. It reports whether there are others.
func (cb *clientBatch) judgeMembers(ctx context.Context, r *repetition, cs *clientSession, m *pendingMessage, part *Batch) bool {
	var open []batchEntry
	before, unwritten := *r, false
	for i, e := range cb.open {
		hooked := part.entries[i].hooked
		if e.future == nil {
			if hooked != nil {
				hooked.end(ctx, nil)
			}
			continue
		}
		call := e.future.callIn(m)
		if call == nil { // cancelled and finished alone
			if hooked != nil {
				hooked.end(ctx, e.future.finishedError())
			}
			continue
		}
		member := before
		member.method = e.method
		err := call.err
		again, final := cb.client.judge(&member, cs, err)
		if again {
			if lost, ok := err.(*ConnectionError); ok && !lost.Written {
				unwritten = true
			}
			if _, again = e.future.detach(m); !again {
				final = ErrCancelled // meanwhile
			}
		}
		r.merge(&member)
		if again {
			open = append(open, e)
		} else {
			call.err = final
			e.future.publishOutcome()
			err = e.future.fillDestinations()
		}
		if hooked != nil {
			hooked.end(ctx, err)
		}
	}
	if unwritten { // and so are the notifications
		open = slices.DeleteFunc(slices.Clone(cb.open), func(e batchEntry) bool {
			return e.future != nil && e.future.isFinished()
		})
	}
	cb.open = open
	return len(open) > 0
}

// merge takes over what is known of a member of the batch.
func (r *repetition) merge(member *repetition) {
	r.retries = max(r.retries, member.retries)
	r.order = member.order
	r.written = r.written || member.written
	r.held = r.held || member.held
	if member.lastErr != nil {
		r.lastErr = member.lastErr
	}
}

// futures returns the futures of the calls.
func (b *Batch) futures() []*Future {
	var futures []*Future
	for _, e := range b.entries {
		if e.future != nil {
			futures = append(futures, e.future)
		}
	}
	return futures
}

// isIn reports whether m is the message of f.
func (f *Future) isIn(m *pendingMessage) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.message == m
}

// callIn returns the call of f if m is its message and f has not finished, otherwise nil.
func (f *Future) callIn(m *pendingMessage) *pendingCall {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.message != m || f.phase == futureFinished {
		return nil
	}
	return f.call
}

// finishedError returns the error of f. If f goes on, the error is that of the last
// attempt.
func (f *Future) finishedError() error {
	if f.isFinished() {
		return f.err
	}
	return errRepeated
}
