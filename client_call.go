package rpcx

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"reflect"
	"time"
)

// clientFuture is a call of Client.Go. Between two attempts, the future has no message. One
// goroutine at a time has the call: that of Go, then, if an attempt has failed, that of
// judgeReturned, and then sendWaiting. The functions endByContext, expire and release may
// run at any time.
type clientFuture struct {
	futureCall // the first message, and the future
	repetition
	client *Client
	ctx    context.Context
	params []byte // encoded, because the user may change the params after Go; nil for none

	// Guarded by Client.mu.
	waiting    *waitingMessage // nil if the call does not wait
	waitReason error           // of the last attempt, while the call waits
	timer      *time.Timer     // Limits.RequestTimeout, from the first wait on
	stopWatch  func() bool     // stops watching the context; nil if it cannot end
	released   bool            // the future has finished
}

// returnedCall is a call whose attempt has failed, and is to be judged.
type returnedCall struct {
	call   *clientFuture
	cs     *clientSession
	err    error
	hooked *hookedCall // of the attempt; nil without functions of Options.OnCall
	order  uint64      // number of the message
}

// startCall implements [Client.Go].
func (c *Client) startCall(ctx context.Context, method string, params any) *Future {
	if err := context.Cause(ctx); err != nil {
		return newFailedFuture(err)
	}
	encoded, err := c.encodeParams(params)
	if err != nil {
		return newFailedFuture(err)
	}
	call := &clientFuture{client: c, ctx: ctx, params: encoded}
	call.method = method
	f := &call.future
	f.phase, f.waiters = futureOpen, &call.waiters
	call.waiters.stop = call.release
	if ctx.Done() != nil {
		call.watchContext()
	}
	cs := c.ready.Load()
	if cs == nil {
		cs = c.sessionOf(ctx, &call.repetition)
	}
	if cs == nil || call.send(ctx, cs, &call.soleCall, params) {
		call.wait(true)
	}
	return f
}

// watchContext gives the call up when the context ends.
func (call *clientFuture) watchContext() {
	stop := context.AfterFunc(call.ctx, call.endByContext)
	c := call.client
	c.mu.Lock()
	call.stopWatch = stop
	c.mu.Unlock()
}

// endByContext gives the call up, because the context has ended.
func (call *clientFuture) endByContext() { call.giveUp(context.Cause(call.ctx)) }

// expire gives the call up after Limits.RequestTimeout.
func (call *clientFuture) expire() { call.giveUp(ErrTimeout) }

// endWith ends the call with the client. err is its error, unless an attempt has failed.
func (call *clientFuture) endWith(err error) {
	c := call.client
	c.mu.Lock()
	if call.waitReason != nil {
		err = call.waitReason
	}
	c.mu.Unlock()
	call.future.finish(err)
}

// giveUp ends the call with the cause, and with the reason why it waits.
func (call *clientFuture) giveUp(cause error) {
	c := call.client
	c.mu.Lock()
	if call.waiting != nil {
		cause = c.waitErrorLocked(cause, &repetition{lastErr: call.waitReason})
	}
	c.mu.Unlock()
	call.future.abandon(cause)
}

// release ends what the call has in the client. The future calls release when it finishes.
func (call *clientFuture) release() bool {
	c := call.client
	c.mu.Lock()
	call.released = true
	if call.timer != nil {
		call.timer.Stop()
	}
	if call.waiting != nil {
		c.queue.remove(call.waiting)
		call.waiting = nil
		c.checkDrainedLocked()
	}
	stopWatch := call.stopWatch
	c.mu.Unlock()
	if stopWatch != nil {
		stopWatch() // may be a function of the user's context (I5)
	}
	return true
}

// wait makes the call wait for a session. If direct is set, there is a session, and nothing
// waits, wait sends the call instead.
func (call *clientFuture) wait(direct bool) {
	c := call.client
	for {
		c.mu.Lock()
		if call.released {
			c.mu.Unlock()
			return
		}
		w := &waitingMessage{call: call}
		cs, err := c.joinLocked(call.ctx, &call.repetition, w, direct)
		if cs == nil && err == nil {
			call.waiting, call.waitReason = w, call.lastErr
			call.startTimerLocked()
		}
		c.mu.Unlock()
		if err != nil {
			call.future.finish(err)
		}
		if cs == nil || !call.send(call.ctx, cs, new(soleCall), c.keptParams(call.params)) {
			return
		}
	}
}

// startTimerLocked starts Limits.RequestTimeout for the rest of the call. Callers must hold
// c.mu.
func (call *clientFuture) startTimerLocked() {
	c := call.client
	c.mu.AssertHeld()
	if _, ok := call.ctx.Deadline(); ok || call.timer != nil || c.requestTimeout == never {
		return
	}
	call.timer = time.AfterFunc(c.requestTimeout, call.expire)
}

// sendAgain sends the call, which has waited, on cs.
func (call *clientFuture) sendAgain(cs *clientSession) {
	c := call.client
	c.mu.Lock()
	call.waiting = nil
	c.mu.Unlock()
	if call.send(c.inTurn(call.ctx, cs), cs, new(soleCall), c.keptParams(call.params)) {
		call.wait(false)
	}
}

// send makes an attempt on cs, with the message sole. ctx is that of the call, perhaps
// changed by inTurn. send reports true if the call was not sent, and has to wait for
// another session.
func (call *clientFuture) send(ctx context.Context, cs *clientSession, sole *soleCall, params any) (again bool) {
	s, f := cs.session, &call.future
	m := sole.begin(s, call.method)
	m.future, m.owner = f, call
	call.attempt++
	if !f.setMessage(m) {
		return false
	}
	err := errCallPanicked
	var h *hookedCall
	var out *OutgoingCall
	defer func() {
		if err != nil {
			open := f.clearMessage(m)
			if h != nil {
				h.end(ctx, err)
			}
			var final error
			if again, final = call.client.judge(&call.repetition, cs, err); again && !open {
				s.lock()
				again, final = false, cmp.Or(m.givenUp, context.Cause(call.ctx), ErrCancelled)
				s.unlock()
			}
			if !again {
				f.finish(final)
			}
		}
	}()
	if hooks := s.calls.hooks; len(hooks.onCall) > 0 {
		ctx, h, err = hooks.beginCall(ctx, &s.pool.Pool, OutgoingCall{Session: s, Method: call.method, Params: params, Attempt: call.attempt})
		if err != nil {
			h = nil // beginCall has ended the call
			return false
		}
		err = errCallPanicked
		params, out = h.Params, &h.OutgoingCall
		m.calls[0].method = h.Method
		f.setHooked(h)
	}
	err = s.sendCall(ctx, m, params, out)
	return false
}

// takeOutcome implements [messageOwner].
func (call *clientFuture) takeOutcome(m *pendingMessage) bool {
	err := m.calls[0].err
	if err == nil || !mayGoAgain(err) {
		return false
	}
	h, ok := call.future.detach(m)
	if !ok {
		return false
	}
	m.calls[0].traceReplyLater()
	call.client.judgeLater(returnedCall{call, m.session.calls.client, err, h, m.messageSeq})
	return true
}

// judgeLater has r judged on another goroutine, since ClientOptions.Idempotent is a
// function of the user.
func (c *Client) judgeLater(r returnedCall) {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		r.call.future.finish(r.err)
		return
	}
	defer c.mu.Unlock()
	if c.returned = append(c.returned, r); !c.judging {
		c.judging = true
		c.active++
		// Owner: the client. End: no call is to be judged.
		go c.judgeReturned()
	}
}

// judgeReturned decides which calls are sent again.
func (c *Client) judgeReturned() {
	defer c.release()
	for {
		c.mu.Lock()
		returned := c.returned
		if c.returned = nil; len(returned) == 0 {
			c.judging = false
			c.checkDrainedLocked()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for _, r := range returned {
			if r.hooked != nil {
				r.hooked.end(context.Background(), r.err)
			}
			r.call.setOrder(r.cs, r.order)
			if again, err := c.judge(&r.call.repetition, r.cs, r.err); again {
				r.call.wait(false)
			} else {
				r.call.future.finish(err)
			}
		}
	}
}

// setMessage makes m the message of f. It reports false if f has finished or was cancelled.
func (f *Future) setMessage(m *pendingMessage) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != futureOpen {
		return false
	}
	f.message, f.call = m, &m.calls[0]
	return true
}

// clearMessage reverts setMessage for m, which was not queued. It reports false if f was
// cancelled meanwhile, which has no effect but on m: the caller must finish f.
func (f *Future) clearMessage(m *pendingMessage) (open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.message == m && f.phase != futureFinished {
		f.message, f.call, f.hooked = nil, nil, nil
	}
	return f.phase == futureOpen
}

// detach makes f wait for another message than m, whose attempt has failed. It returns the
// hookedCall of the attempt, or nil, and reports false if f has finished or was cancelled.
func (f *Future) detach(m *pendingMessage) (*hookedCall, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != futureOpen || f.message != m {
		return nil, false
	}
	h := f.hooked
	f.message, f.call, f.hooked = nil, nil, nil
	return h, true
}

// encodeParams encodes params, for messages that are sent later.
func (c *Client) encodeParams(params any) ([]byte, error) {
	if params == nil {
		return nil, nil
	}
	sc := getEncodeBuffer()
	defer sc.recycle()
	encoded, err := appendCodec(sc.msg[:0], c.codec, params)
	if err != nil {
		return nil, asUnsent(err)
	}
	sc.msg = encoded
	return bytes.Clone(encoded), nil
}

// keptParams returns encoded params as a value that a codec encodes unchanged.
func (c *Client) keptParams(encoded []byte) any {
	switch raw := rawType(c.codec); {
	case encoded == nil:
		return nil
	case raw != nil:
		return reflect.ValueOf(encoded).Convert(raw).Interface()
	}
	return json.RawMessage(encoded)
}
