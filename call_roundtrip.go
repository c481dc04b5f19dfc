package rpcx

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
)

// RoundTripper is a transport that brings each message its reply by itself, as HTTP and
// NATS do. [NewExchange] makes calls over a RoundTripper.
type RoundTripper interface {
	// RoundTrip sends msg, a request, notification or batch, and returns the reply, or
	// nil if there is none. RoundTrip is called on a goroutine of its own, at the same
	// time for at most Limits.Outgoing messages.
	//
	// ctx has the values of the caller's context. It ends when the calls in msg are given
	// up, by the end of the caller's context for example. RoundTrip should return then.
	// Until it returns, the message counts for Limits.Outgoing.
	//
	// RoundTrip owns msg, and may keep it. The reply belongs to the Exchange, and must
	// not change afterwards. RoundTrip bounds the size of the reply. An error is the
	// error of all calls in msg, and of no others: see [SentError]. A panic ends the
	// program.
	RoundTrip(ctx context.Context, msg []byte) (reply []byte, err error)
	// Close releases the transport. Close is called once, and may be called while
	// RoundTrip runs or begins.
	Close() error
}

// SentError is an error of [RoundTripper] that says whether the peer may have received
// the message. The calls fail with a [*ConnectionError] whose Written is Sent(). If
// RoundTrip returns any other error, Written is true.
type SentError interface {
	error
	Sent() bool
}

// roundTrip is a message of an Exchange, and the calls that wait for the reply.
type roundTrip struct {
	exchange *Exchange
	msg      []byte
	batch    bool
	firstID  uint64    // of the calls, which have consecutive ids
	calls    int       // calls in the message; without calls, no reply is expected
	futures  []*Future // of the calls; without calls, a single one for the message

	// The future of the notifications in a batch finishes before the last call; nil if nobody
	// needs the outcome.
	notifications *Future

	ctx        context.Context // of RoundTrip
	endContext context.CancelCauseFunc
	stopTimer  context.CancelFunc // of Limits.RequestTimeout
	stopWatch  func() bool        // stops watching ctx
	unfinished atomic.Int32       // futures
}

// newRoundTrip returns a roundTrip with ids for the given number of calls.
func (x *Exchange) newRoundTrip(calls int) *roundTrip {
	n := uint64(calls)
	return &roundTrip{exchange: x, calls: calls, firstID: x.lastID.Add(n) - n}
}

// encodeAndStart encodes the message of t by encode, waits for a slot and starts the
// RoundTrip.
func (x *Exchange) encodeAndStart(ctx context.Context, t *roundTrip, encode func(*encodeBuffer) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := t.encode(encode); err != nil {
		return asUnsent(err)
	}
	t.setContext(ctx)
	if err := x.takeSlot(t); err != nil {
		t.releaseContext(err)
		return err
	}
	t.stopWatch = context.AfterFunc(t.ctx, func() { t.finishAll(context.Cause(t.ctx)) })
	t.unfinished.Store(int32(len(t.futures)))
	stop := t.countFinished
	for _, f := range t.futures {
		f.setStop(stop)
	}
	x.pool.RunTask(t.run)
	return nil
}

// encode encodes the message by the given function. RoundTrip will own the message, so t
// gets a copy.
func (t *roundTrip) encode(encode func(*encodeBuffer) error) error {
	sc := getEncodeBuffer()
	defer sc.recycle()
	if err := encode(sc); err != nil {
		return err
	}
	t.msg = bytes.Clone(sc.msg)
	return nil
}

// setContext makes the context of RoundTrip from the caller's.
func (t *roundTrip) setContext(ctx context.Context) {
	_, limited := ctx.Deadline()
	t.ctx, t.endContext = context.WithCancelCause(ctx)
	if timeout := t.exchange.limits.RequestTimeout; !limited && timeout != never {
		t.ctx, t.stopTimer = context.WithTimeoutCause(t.ctx, timeout, ErrTimeout)
	}
}

// releaseContext ends the context of RoundTrip with the given cause.
func (t *roundTrip) releaseContext(cause error) {
	t.endContext(cause)
	if t.stopTimer != nil {
		t.stopTimer()
	}
}

// takeSlot waits for one of the slots of Limits.Outgoing.
func (x *Exchange) takeSlot(t *roundTrip) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.line.waitTurn(t.ctx, &x.mu, func() (bool, error) {
		if x.closed {
			return false, ErrClosed
		}
		return len(x.pending) < x.limits.Outgoing, nil
	})
	if err == nil {
		x.pending[t] = struct{}{}
	}
	return err
}

// releaseSlot releases the slot of t.
func (x *Exchange) releaseSlot(t *roundTrip) {
	x.mu.Lock()
	delete(x.pending, t)
	x.line.wakeFirst()
	x.mu.Unlock()
}

// run runs RoundTrip and finishes the calls.
func (t *roundTrip) run() {
	var reply []byte
	err := t.ctx.Err() // the calls may be finished already
	if err == nil {
		reply, err = t.exchange.transport.RoundTrip(t.ctx, t.msg)
	}
	t.exchange.releaseSlot(t)
	switch {
	case err == nil:
		t.receive(reply)
	case t.ctx.Err() != nil:
		t.finishAll(context.Cause(t.ctx))
	default:
		sent := true
		if e, ok := errors.AsType[SentError](err); ok {
			sent = e.Sent()
		}
		t.finishAll(&ConnectionError{Written: sent, Err: err, isRoundTrip: true})
	}
}

// finishAll finishes the unfinished calls with err.
func (t *roundTrip) finishAll(err error) {
	t.finishNotifications(err)
	for _, f := range t.futures {
		f.finish(err)
	}
}

// countFinished is called once for each future that has finished. The last call ends the
// context of RoundTrip.
func (t *roundTrip) countFinished() bool {
	if t.unfinished.Add(-1) == 0 {
		t.stopWatch()
		err := t.futures[0].Err()
		t.releaseContext(err)
		t.finishNotifications(err) // if all calls were cancelled
	}
	return true
}

// finishNotifications finishes the notifications of a batch. Only the first outcome counts.
func (t *roundTrip) finishNotifications(err error) {
	if t.notifications != nil {
		t.notifications.finish(err)
	}
}

// outcome returns the error of a member of the batch, all of whose calls have finished. The
// future of a notification is nil.
func (t *roundTrip) outcome(f *Future) error {
	if f != nil {
		return f.fillDestinations()
	}
	<-t.notifications.Done()
	return t.notifications.Err()
}

// noResponseError is the error of a single call without a reply.
type noResponseError struct{}

func (noResponseError) Error() string { return "rpcx: no response to the call" }

func (noResponseError) Is(target error) bool { return target == ErrNoResponse }

// receive finishes the calls that the reply answers, and then the others with an error:
// no other reply will come. If no call was answered, an error of the peer without an id
// is the error of all. Otherwise a fault in the reply is the error.
func (t *roundTrip) receive(reply []byte) {
	x := t.exchange
	var refusal, fault error
	answered := 0
	if spaces(reply) < len(reply) {
		buf := decodeBuffers.Get().(*decodeBuffer)
		defer buf.recycle()
		p := x.decode(&buf.Message, reply)
		for _, item := range x.findReplies(&buf.Message, p, reply) {
			e, isError := item.Err.(*Error)
			switch {
			case item.Kind == KindResponse && item.ID == nil && isError:
				refusal = e
			case item.Kind == KindResponse:
				if f, err := t.match(p, &item); f != nil {
					t.finishNotifications(nil)
					f.complete(item.Result, err)
					answered++
				} else {
					fault = unexpectedReply(item.ID, item.Err)
				}
			case item.Err != nil:
				fault = item.Err
			default:
				fault = protocolErrorf(CodeInvalidRequest, "the reply has a request or notification, %q", excerpt(item.Method))
			}
		}
	}
	switch {
	case answered == 0 && refusal != nil:
		t.finishAll(refusal)
	case answered == 0 && fault != nil:
		t.finishAll(fault)
	case t.calls == 0:
		t.finishAll(nil)
	case t.batch:
		t.finishNotifications(nil)
		t.finishAll(ErrNoResponse)
	default:
		t.finishAll(noResponseError{})
	}
	if answered > 0 && fault != nil {
		x.log.Warn("bad message", errorAttr(fault))
	}
}

// decode decodes a reply into m. If the protocol is a Detector, the reply may decide the
// protocol.
func (x *Exchange) decode(m *Message, reply []byte) Protocol {
	p := x.protocol.Load()
	if d, ok := (*p).(Detector); ok {
		if found := d.Detect(reply, x.limits.Batch); found != nil {
			x.protocol.CompareAndSwap(p, &found)
			p = &found
		}
	}
	(*p).Decode(m, reply, x.limits.Batch)
	return *p
}

// findReplies returns the items of m. If all items are invalid, findReplies also finds
// replies in them, as in a session: objects with an id and without a method.
func (x *Exchange) findReplies(m *Message, p Protocol, reply []byte) []Item {
	finder, ok := p.(replyFinder)
	if !ok || slices.ContainsFunc(m.Items, func(item Item) bool { return item.Kind != KindInvalid }) {
		return m.Items
	}
	var items []Item
	taken := make([]bool, len(m.Items))
	for _, found := range finder.findReplies(m, reply, x.limits.Batch) {
		items = append(items, found.Item)
		taken[found.itemIndex] = true
	}
	for i, item := range m.Items {
		if !taken[i] {
			items = append(items, item)
		}
	}
	return items
}

// match returns the future of the call that item answers, and the outcome of the call. If
// there is no such call, the future is nil.
func (t *roundTrip) match(p Protocol, item *Item) (*Future, error) {
	id, err := strconv.ParseUint(string(item.ID), 10, 64)
	outcome := item.Err
	if err != nil {
		loose, ok := p.(interface{ loose() bool })
		if !ok {
			return nil, nil
		}
		if id, ok = stringNumber(item.ID); !ok {
			return nil, nil
		}
		if !loose.loose() {
			outcome = stringIDError(item.ID, id)
		}
	}
	if i := id - t.firstID; i < uint64(t.calls) {
		return t.futures[i], outcome
	}
	return nil, nil
}
