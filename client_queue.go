package rpcx

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// What waits for a session. A message that waits is one of
//
//	a call of Call, Notify, SendBatch, …   its goroutine waits for its turn, and sends the message
//	a call of Go                            sendWaiting sends it
//	a notification of an earlier session    sendWaiting sends its message, as it is
//
// Messages are sent in the order in which they left before, and then in the order of
// arrival. While sendWaiting runs, further messages wait behind the others. Otherwise
// messages go directly to the session, and the queue is empty, except for those that are
// held: requests that the peer of the present session has refused as not started.

// sendOrder is the place of a message among those that wait: the place that it had on the
// first session with the message. A message that has waited before comes after the last
// session that took messages directly, in the order of arrival.
type sendOrder struct {
	session, message uint64
}

// unsentOrder is added to the numbers of messages that were on no session.
const unsentOrder = 1 << 63

func (o sendOrder) compare(other sendOrder) int {
	return cmp.Or(cmp.Compare(o.session, other.session), cmp.Compare(o.message, other.message))
}

// waitingMessage is a message that waits for a session. Exactly one of turn, call and note
// is set.
type waitingMessage struct {
	order sendOrder
	turn  *sendTurn
	call  *clientFuture
	note  []byte // a notification
}

// sendTurn is the turn of a goroutine with a message that waits. A nil sendTurn is for
// messages that do not wait.
type sendTurn struct {
	begin  chan *clientSession // receives the session; one slot
	passed chan struct{}       // closed when the message is queued, or was given up
	once   sync.Once
}

// pass lets the next message be sent.
func (t *sendTurn) pass() {
	if t != nil {
		t.once.Do(func() { close(t.passed) })
	}
}

// clientQueue holds the messages that wait, guarded by Client.mu.
type clientQueue struct {
	messages []*waitingMessage // in the order of sending
	held     []*waitingMessage // wait for the end of a backoff, and then join messages
	timer    *time.Timer       // ends the backoff; nil if nothing is held
	arrived  uint64            // number of messages that have waited without an earlier session
}

func (q *clientQueue) isEmpty() bool { return len(q.messages) == 0 && len(q.held) == 0 }

// place returns the index of w in messages, or where to insert w: after messages with the
// same order.
func (q *clientQueue) place(w *waitingMessage) (at int, found bool) {
	at, _ = slices.BinarySearchFunc(q.messages, w.order, func(o *waitingMessage, order sendOrder) int { return o.order.compare(order) })
	for ; at < len(q.messages) && q.messages[at].order == w.order; at++ {
		if q.messages[at] == w {
			return at, true
		}
	}
	return at, false
}

// insert adds w in order.
func (q *clientQueue) insert(w *waitingMessage) {
	at, _ := q.place(w)
	q.messages = slices.Insert(q.messages, at, w)
}

// remove removes w, if w waits.
func (q *clientQueue) remove(w *waitingMessage) {
	if at, found := q.place(w); found {
		q.messages = slices.Delete(q.messages, at, at+1)
		return
	}
	q.held = slices.DeleteFunc(q.held, func(o *waitingMessage) bool { return o == w })
}

// releaseHeldLocked ends the backoff of refused messages. Callers must hold c.mu.
func (q *clientQueue) releaseHeldLocked(c *Client) {
	c.mu.AssertHeld()
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	for _, w := range q.held {
		q.insert(w)
	}
	q.held = nil
	if c.current != nil && len(q.messages) > 0 {
		c.startSendingLocked(c.current)
	}
}

// holdLocked makes w wait for a backoff. Messages that are held meanwhile wait for the same
// end, so that they keep their order. Callers must hold c.mu.
func (q *clientQueue) holdLocked(c *Client, w *waitingMessage, retries int) {
	c.mu.AssertHeld()
	q.held = append(q.held, w)
	if q.timer == nil {
		// Owner: the client. End: the function returns, at once.
		q.timer = time.AfterFunc(c.options.backoff(retries-1), func() {
			c.mu.Lock()
			q.releaseHeldLocked(c)
			c.mu.Unlock()
		})
	}
}

// startSendingLocked starts sendWaiting for cs, if it does not run. Callers must hold c.mu.
func (c *Client) startSendingLocked(cs *clientSession) {
	c.mu.AssertHeld()
	c.ready.Store(nil)
	if cs.sending {
		return
	}
	cs.sending = true
	c.active++
	// Owner: the client. End: nothing waits, or cs is no longer the session of the client.
	go c.sendWaiting(cs)
}

// sendWaiting subscribes again, and sends the messages that wait, one after the other. When
// nothing waits, messages go directly to the session.
func (c *Client) sendWaiting(cs *clientSession) {
	defer c.release()
	c.resubscribe(cs)
	for {
		if !cs.takesCalls() {
			c.loseSession(cs, cs.reason())
		}
		c.mu.Lock()
		if c.current != cs || len(c.queue.messages) == 0 {
			if cs.sending = false; c.current == cs {
				c.publishLocked(cs)
			}
			c.checkDrainedLocked()
			c.mu.Unlock()
			return
		}
		w := c.queue.messages[0]
		c.queue.messages = slices.Delete(c.queue.messages, 0, 1)
		c.mu.Unlock()
		w.send(cs)
	}
}

// send sends the message on cs. If the session is lost before, the message waits again.
func (w *waitingMessage) send(cs *clientSession) {
	switch {
	case w.turn != nil:
		w.turn.begin <- cs
		select {
		case <-w.turn.passed:
		case <-cs.lost: // otherwise a function of Options.OnCall could hold up the others
		}
	case w.call != nil:
		w.call.sendAgain(cs)
	default:
		if !cs.sendNote(w.note) {
			cs.client.keepNotes([]keptNote{{w.order, w.note}})
		}
	}
}

// keepNotes makes notifications of an earlier session wait for the next.
func (c *Client) keepNotes(notes []keptNote) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endErr != nil {
		return
	}
	for _, n := range notes {
		c.queue.insert(&waitingMessage{order: n.order, note: n.message})
	}
	c.wakeQueueLocked()
}

// wakeQueueLocked makes the messages that wait be sent, if there is a session. Callers must
// hold c.mu.
func (c *Client) wakeQueueLocked() {
	c.mu.AssertHeld()
	if c.current != nil {
		c.startSendingLocked(c.current)
	} else {
		c.wakeUp() // Shutdown connects for the sake of messages that wait
	}
}

// repetition is what a Client has to know of a call between its attempts.
type repetition struct {
	method  string
	attempt int // number of the attempt, from 1
	retries int // attempts that count
	order   sendOrder
	written bool  // the peer may have received an attempt
	held    bool  // the next attempt waits for a backoff
	lastErr error // of the last attempt; nil before

	mustWait   bool // whatever FailFast says
	repeatable bool // whatever Idempotent says
	final      bool // the peer has begun with the call
}

// errRepeated is the error of an attempt for functions of Options.OnBatchCall, if the call
// is sent again.
var errRepeated = errors.New("rpcx: the call is sent again")

// mayGoAgain reports whether err, of an attempt, has to be judged. Most errors do not.
func mayGoAgain(err error) bool {
	switch e := err.(type) {
	case *Error:
		return e.Code == CodeServerBusy || e.Code == CodeExcessiveResourceUsage
	case *ConnectionError:
		return true
	}
	return errors.Is(err, ErrClosed)
}

// judge decides whether a call whose attempt on cs has ended with err is to be repeated. If
// not, the returned error is that of the call.
func (c *Client) judge(r *repetition, cs *clientSession, err error) (again bool, final error) {
	if err == nil || !mayGoAgain(err) {
		return false, err
	}
	counts := false
	switch e := err.(type) {
	case *ConnectionError:
		if cs.takesCalls() {
			return false, err // of another session, and returned by a function of Options.OnCall
		}
		c.loseSession(cs, e.Err)
		r.setOrder(cs, e.message)
		if e.Written {
			r.written, counts = true, true
			again = !r.final && (r.repeatable || c.options.Idempotent != nil && c.options.Idempotent(r.method))
		} else {
			again = true
		}
	case *Error:
		c.noteRefusal(cs, e)
		again, counts = e.NotStarted() && !r.final, true
		if again {
			c.avoidRefusal(r, cs, e)
		}
	default:
		if again = !cs.takesCalls(); again {
			c.loseSession(cs, cs.reason())
		}
	}
	if counts && again {
		again = r.retries < c.options.MaxRetries
		r.retries++
	}
	r.lastErr = r.finalError(err)
	if !again || c.Err() != nil {
		return false, r.lastErr
	}
	return true, nil
}

// avoidRefusal makes the next attempt of a refused request wait for a backoff. If the peer
// shuts down, the next attempt waits for another session.
func (c *Client) avoidRefusal(r *repetition, cs *clientSession, e *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.isShutdown() {
		c.leaveLocked(cs, e)
	}
	r.held = c.current == cs
}

// setOrder sets the order of the call, unless an earlier attempt has an order.
func (r *repetition) setOrder(cs *clientSession, message uint64) {
	if r.order == (sendOrder{}) && message > 0 {
		r.order = sendOrder{cs.number, message}
	}
}

// finalError returns the error of the call, whose last attempt has failed with err. If the
// peer may have received an earlier attempt, the error says so.
func (r *repetition) finalError(err error) error {
	if !r.written {
		return err
	}
	switch e := err.(type) {
	case *ConnectionError:
		if !e.Written {
			return &ConnectionError{Written: true, Err: e.Err}
		}
	case *Error:
		if e.NotStarted() {
			return &ConnectionError{Written: true, Err: e}
		}
	default:
		if errors.Is(err, ErrClosed) {
			return &ConnectionError{Written: true, Err: err}
		}
	}
	return err
}

// notConnectedError is the error of a call that has waited for a session in vain.
type notConnectedError struct {
	cause  error // why the wait has ended: of the context, ErrTimeout, or nil
	reason error // why there is no session, or the error of the call's last attempt; may be nil
	limit  string
}

func (e *notConnectedError) Error() string {
	text := ErrNotConnected.Error()
	if e.cause != nil {
		text = e.cause.Error() + ": not connected"
	}
	if e.limit != "" {
		text += ", " + e.limit
	}
	if e.reason != nil {
		text += ": " + trimPrefix(e.reason)
	}
	return text
}

func (e *notConnectedError) Unwrap() []error {
	errs := []error{ErrNotConnected}
	for _, err := range []error{e.cause, e.reason} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// joinLocked makes w wait. If direct is set, there is a session, and nothing else waits,
// joinLocked returns the session instead, and if w must not wait, an error. Callers must
// hold c.mu.
func (c *Client) joinLocked(ctx context.Context, r *repetition, w *waitingMessage, direct bool) (*clientSession, error) {
	c.mu.AssertHeld()
	full := len(c.queue.messages)+len(c.queue.held) >= c.options.MaxWaiting
	switch cs := c.current; {
	case c.endErr != nil:
		return nil, c.endErrorLocked(r)
	case c.draining && r.attempt == 0:
		return nil, ErrClosed
	case cs != nil && direct && !r.held && (full || !cs.sending || runsHandlerNow(ctx, cs.session)):
		return cs, nil
	case cs == nil && (full || c.options.FailFast && !r.mustWait):
		err := &notConnectedError{reason: r.lastErr}
		if r.lastErr == nil {
			err.reason = c.reason
		}
		if err.limit = "and ClientOptions.FailFast is set"; full {
			err.limit = overLimitText(c.options.MaxWaiting, "calls waiting", "ClientOptions.MaxWaiting")
		}
		return nil, err
	}
	w.order = r.order
	if w.order == (sendOrder{}) {
		c.queue.arrived++
		w.order = sendOrder{c.published, unsentOrder + c.queue.arrived}
		r.order = w.order
	}
	if r.held && c.current != nil {
		c.queue.holdLocked(c, w, r.retries)
	} else {
		c.queue.insert(w)
		c.wakeQueueLocked()
	}
	r.held = false
	return nil, nil
}

// runsHandlerNow reports whether ctx is that of a handler of s. Its calls must not wait
// behind others, which may wait for the handler.
func runsHandlerNow(ctx context.Context, s *Session) bool {
	h := handlerOf(ctx)
	return h != nil && h.session == s
}

// sessionKey is the key of the session of calls with a context of OnConnect, or of
// Options.OnCall.
type sessionKey struct{ client *Client }

// inTurn returns ctx for a message that is sent on cs in its turn. Calls of functions of
// Options.OnCall with this context must not wait behind the message.
func (c *Client) inTurn(ctx context.Context, cs *clientSession) context.Context {
	if len(c.hooks.onCall) == 0 && len(c.hooks.onBatchCall) == 0 {
		return ctx
	}
	return context.WithValue(ctx, sessionKey{c}, cs)
}

// sessionOf returns the session on which a call with ctx must not wait for its turn, or
// nil: in OnConnect, in a function of Options.OnCall, and in a handler of a session of c,
// whose peer may wait for the reply of the handler.
func (c *Client) sessionOf(ctx context.Context, r *repetition) *clientSession {
	if cs, ok := ctx.Value(sessionKey{c}).(*clientSession); ok && cs.takesCalls() {
		return cs
	}
	cs := c.sessionOfHandler(ctx)
	if cs == nil || r.attempt > 0 || cs.isLeft() {
		return nil
	}
	s := cs.session
	s.lock()
	defer s.unlock()
	if s.life.state >= stateClosing || s.input.closed { // but a handler may call while the session drains
		return nil
	}
	return cs
}

// sessionOfHandler returns the session of c whose running handler has ctx, or nil.
func (c *Client) sessionOfHandler(ctx context.Context) *clientSession {
	h := handlerOf(ctx)
	if h == nil {
		return nil
	}
	s := h.session
	s.lock()
	defer s.unlock()
	cs := s.calls.client
	if cs == nil || cs.client != c || h.waits.handlerReturned {
		return nil
	}
	return cs
}

// waitTurn waits until a call may be sent. It returns the session, and the turn if the call
// has waited.
func (c *Client) waitTurn(ctx context.Context, r *repetition) (*clientSession, *sendTurn, error) {
	if cs := c.sessionOf(ctx, r); cs != nil {
		return cs, nil, nil
	}
	t := &sendTurn{begin: make(chan *clientSession, 1), passed: make(chan struct{})}
	w := &waitingMessage{turn: t}
	c.mu.Lock()
	cs, err := c.joinLocked(ctx, r, w, true)
	c.mu.Unlock()
	if cs != nil || err != nil {
		return cs, nil, err
	}
	select {
	case cs := <-t.begin:
		return cs, t, nil
	case <-ctx.Done():
	case <-c.ctx.Done():
	}
	c.mu.Lock()
	c.queue.remove(w)
	c.checkDrainedLocked()
	err = c.waitErrorLocked(context.Cause(ctx), r)
	c.mu.Unlock()
	t.pass()
	return nil, nil, err
}

// endErrorLocked returns the error of a call that waits when the client ends: that of the
// last attempt, if there was one. Callers must hold c.mu.
func (c *Client) endErrorLocked(r *repetition) error {
	c.mu.AssertHeld()
	if r.lastErr != nil {
		return r.lastErr
	}
	return c.endErr
}

// waitErrorLocked returns why the wait of a call has ended: because of the cause, or with
// the client, if the cause is nil. Callers must hold c.mu.
func (c *Client) waitErrorLocked(cause error, r *repetition) error {
	c.mu.AssertHeld()
	switch {
	case cause == nil:
		return c.endErrorLocked(r)
	case r.lastErr != nil:
		return &notConnectedError{cause: cause, reason: r.lastErr}
	case c.current == nil:
		return &notConnectedError{cause: cause, reason: c.reason}
	}
	return cause
}

// repeat makes a call until it has an outcome. first is the session of the first attempt,
// which has ended with err, or nil. op makes an attempt on a session, and judges its
// outcome.
func (c *Client) repeat(ctx context.Context, r *repetition, op func(ctx context.Context, cs *clientSession, t *sendTurn) (again bool, err error)) error {
	ctx, cancel := c.withRequestTimeout(ctx)
	defer cancel()
	for {
		cs, t, err := c.waitTurn(ctx, r)
		if err != nil {
			return err
		}
		if again, err := c.attemptCall(ctx, r, cs, t, op); !again {
			return err
		}
	}
}

// attemptCall makes an attempt on cs by op, whose turn is t.
func (c *Client) attemptCall(ctx context.Context, r *repetition, cs *clientSession, t *sendTurn, op func(ctx context.Context, cs *clientSession, t *sendTurn) (again bool, err error)) (again bool, err error) {
	defer t.pass() // also after a panic
	r.attempt++
	return op(c.inTurn(ctx, cs), cs, t)
}

// withRequestTimeout returns ctx with Limits.RequestTimeout, unless ctx has a deadline.
func (c *Client) withRequestTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok || c.requestTimeout == never {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, c.requestTimeout, ErrTimeout)
}
