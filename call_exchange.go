package rpcx

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	"example.com/rpcx/internal/gopool"
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

// Exchange is a [Caller] over a [RoundTripper]. An Exchange has no reader: the peer
// cannot call back, and the reply to a message comes with the message's own round trip.
// Messages have no order. Methods may be called from any goroutine. See [NewExchange].
type Exchange struct {
	transport RoundTripper
	protocol  atomic.Pointer[Protocol]
	codec     Codec
	limits    Limits
	log       *slog.Logger
	hooks     *callHooks
	meta      *Meta // nil for none
	pool      gopool.Pool
	lastID    atomic.Uint64 // the next id; at the start, Options.FirstID

	mu      sync.Mutex // guards the fields below; no user code runs under mu
	closed  bool
	line    waitLine                // of messages that wait for a slot
	pending map[*roundTrip]struct{} // messages with a slot, until RoundTrip returns
}

// NewExchange returns the [Caller] that sends each call, notification or batch by a
// RoundTrip of rt. A nil opts means the zero Options. NewExchange panics if rt is nil or
// an option is invalid. Close the Exchange to release its idle goroutines, and rt.
//
// These fields of opts matter: Protocol (a [Detector] is replaced as in a session, by the
// first reply), Codec, Objects, Types, FirstID, OnCall, OnBatchCall, Meta, Logger, and of
// Limits: Outgoing, RequestTimeout and Batch. The others are ignored; Handler and Framer,
// for example, have no use here. Limits.Outgoing does not adapt. The context that OnCall
// returns, or for a batch OnBatchCall, goes to RoundTrip: see [OutgoingCall].
func NewExchange(rt RoundTripper, opts *Options) *Exchange {
	mustHave("NewExchange", "RoundTripper", rt)
	var own Options
	if opts != nil {
		own = Options{
			Protocol: opts.Protocol, Codec: opts.Codec, Objects: opts.Objects, Types: opts.Types,
			FirstID: opts.FirstID, Logger: opts.Logger, Limits: opts.Limits,
			OnCall: opts.OnCall, OnBatchCall: opts.OnBatchCall, Meta: opts.Meta,
		}
	}
	o := mustResolveOptions(&own)
	x := &Exchange{
		transport: rt, codec: o.Codec, limits: o.Limits.resolved(RoleClient), log: o.Logger, hooks: o.hooks, meta: o.Meta,
		pending: make(map[*roundTrip]struct{}),
	}
	if o.objects != nil {
		x.codec = &objectCodec{o.Codec, o.objects, x}
	}
	protocol := o.Protocol // a copy: &o.Protocol would keep all options alive
	x.protocol.Store(&protocol)
	x.lastID.Store(o.FirstID)
	x.pool.AddUser()
	return x
}

// objectCodec implements objectCaller. Without objects, the result is nil.
func (x *Exchange) objectCodec() *objectCodec {
	o, _ := x.codec.(*objectCodec)
	return o
}

// Call calls method and waits for the reply, as [Session.Call] does. ctx, or else
// Limits.RequestTimeout, bounds the whole call, including the wait while Limits.Outgoing
// messages have no reply. The error for a failed call is
//
//   - an [*Error], if the peer answers with an error, even without an id;
//   - a [*ProtocolError], if the reply is ill-formed or has another id;
//   - an error that matches [ErrNoResponse], if there is no reply;
//   - a [*ConnectionError], if RoundTrip fails; Written is false only by a [SentError];
//   - the cause of ctx, or [ErrTimeout];
//   - an error that matches [ErrClosed], after Close.
func (x *Exchange) Call(ctx context.Context, method string, params, result any) error {
	mustHaveContext("Exchange.Call", ctx)
	if len(x.hooks.onCall) > 0 {
		return x.hooks.runCall(ctx, OutgoingCall{Method: method, Params: params}, func(ctx context.Context, c *OutgoingCall) error {
			return x.callAndWait(ctx, &OutgoingCall{Method: c.Method, Params: c.Params, Meta: c.Meta}, result)
		})
	}
	return x.callAndWait(ctx, &OutgoingCall{Method: method, Params: params}, result)
}

// callAndWait is Call after the functions of Options.OnCall.
func (x *Exchange) callAndWait(ctx context.Context, c *OutgoingCall, result any) error {
	f, _ := x.sendSingle(ctx, c, nil)
	<-f.Done() // at the latest with ctx
	return f.Decode(result)
}

// Go calls method and returns a future as soon as the round trip has begun. While
// Limits.Outgoing messages have no reply, Go waits. ctx bounds the whole call, as for
// [Exchange.Call]. [Future.Cancel] ends the context of RoundTrip.
func (x *Exchange) Go(ctx context.Context, method string, params any) *Future {
	mustHaveContext("Exchange.Go", ctx)
	if len(x.hooks.onCall) > 0 {
		return x.hooks.startCall(ctx, &x.pool, OutgoingCall{Method: method, Params: params}, func(ctx context.Context, h *hookedCall) (*Future, error) {
			return x.sendSingle(ctx, &OutgoingCall{Method: h.Method, Params: h.Params, Meta: h.Meta}, h)
		})
	}
	f, _ := x.sendSingle(ctx, &OutgoingCall{Method: method, Params: params}, nil)
	return f
}

// Notify sends a notification and waits until RoundTrip returns. The error is one of
// [Exchange.Call], without ErrNoResponse. A peer has no reason to answer a notification.
// If the peer answers nevertheless, without an id and with an error, Notify returns the
// [*Error]. Any other answer is a [*ProtocolError].
func (x *Exchange) Notify(ctx context.Context, method string, params any) error {
	mustHaveContext("Exchange.Notify", ctx)
	c := OutgoingCall{Method: method, Params: params, Notification: true}
	if len(x.hooks.onCall) > 0 {
		return x.hooks.runCall(ctx, c, func(ctx context.Context, c *OutgoingCall) error {
			return x.callAndWait(ctx, &OutgoingCall{Method: c.Method, Params: c.Params, Notification: true, Meta: c.Meta}, nil)
		})
	}
	return x.callAndWait(ctx, &c, nil)
}

// SendBatch sends b by one RoundTrip and waits for the replies, as [Session.SendBatch]
// does. The reply may be an array in any order, or, for a single call, the response
// alone. A call without a response in the reply fails with [ErrNoResponse]. If the reply
// is an error without an id, the error is that of every call. A batch of only
// notifications is sent as by [Exchange.Notify].
func (x *Exchange) SendBatch(ctx context.Context, b *Batch) error {
	mustHaveContext("Exchange.SendBatch", ctx)
	if b.isEmpty() {
		return nil
	}
	futures, err := b.detach(x.codec)
	if err != nil {
		return err
	}
	if b.Len() == 0 { // all members were cancelled
		return b.Wait(ctx)
	}
	t := x.newRoundTrip(len(futures))
	t.futures, t.batch = futures, true
	if t.calls == 0 || t.calls < b.Len() && len(x.hooks.onCall) > 0 {
		t.notifications = newDetachedFuture(x.codec)
	}
	if t.calls == 0 {
		t.futures = []*Future{t.notifications}
	}
	ctx, err = x.startBatch(ctx, b, t)
	if err != nil {
		return err
	}
	if t.calls == 0 {
		<-t.notifications.Done()
		err = t.notifications.Err()
	}
	if err == nil {
		err = b.Wait(ctx)
	}
	if b.hooked != nil {
		b.endHooks(ctx, t.outcome, err)
	}
	return err
}

// startBatch calls the hooks, and starts the RoundTrip of b, whose calls are those of t. It
// returns the context for the batch. If b cannot be sent, its calls fail.
func (x *Exchange) startBatch(ctx context.Context, b *Batch, t *roundTrip) (_ context.Context, err error) {
	err = errCallPanicked
	defer func() {
		if err != nil {
			b.failSending(err)
		}
	}()
	ctx, err = x.sendBatch(ctx, b, t)
	return ctx, err
}

// Close ends the pending calls with a [*ConnectionError] that matches [ErrClosed], and
// closes the RoundTripper, whose error is the result. Close does not wait for RoundTrip.
// A second Close does nothing.
func (x *Exchange) Close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	x.closed = true
	pending := make([]*roundTrip, 0, len(x.pending))
	for t := range x.pending {
		pending = append(pending, t)
	}
	x.line.wakeAll()
	x.mu.Unlock()
	for _, t := range pending {
		t.finishAll(&ConnectionError{Written: true, Err: ErrClosed})
	}
	x.pool.RemoveUser()
	return x.transport.Close()
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

// sendSingle sends a call or a notification, and returns its future. The future ends h, if
// not nil. If the message cannot be sent, sendSingle also returns the error.
func (x *Exchange) sendSingle(ctx context.Context, c *OutgoingCall, h *hookedCall) (*Future, error) {
	calls := 1
	if c.Notification {
		calls = 0
	}
	t := x.newRoundTrip(calls)
	f := newDetachedFuture(x.codec)
	if f.call.method = c.Method; h != nil && len(h.done) > 0 {
		f.hooked, h.future = h, f
	}
	t.futures = []*Future{f}
	err := x.encodeAndStart(ctx, t, func(sc *encodeBuffer) (err error) {
		sc.id = strconv.AppendUint(sc.id[:0], t.firstID, 10)
		sc.msg, err = x.appendCall(sc.msg[:0], sc.id, c)
		return err
	})
	if err != nil {
		f.hooked = nil // the sender ends h
		f.finish(err)
	}
	return f, err
}

// sendBatch calls the hooks, and sends the members of b, whose calls are those of t. It
// returns the context for the batch.
func (x *Exchange) sendBatch(ctx context.Context, b *Batch, t *roundTrip) (context.Context, error) {
	ctx, err := x.hooks.beginBatch(ctx, nil, nil, b)
	if err == nil {
		err = b.checkLength(x.limits.Batch)
	}
	if err != nil {
		return ctx, err
	}
	return ctx, x.encodeAndStart(ctx, t, func(sc *encodeBuffer) (err error) {
		next := t.firstID
		sc.msg, err = b.appendWithMeta(sc.msg[:0], *x.protocol.Load(), x.codec, func() ID {
			sc.id = strconv.AppendUint(sc.id[:0], next, 10)
			next++
			return sc.id
		}, x.meta)
		return err
	})
}

// appendCall appends the message of a call or a notification. The only other place where
// an Exchange encodes calls is sendBatch.
func (x *Exchange) appendCall(dst []byte, id ID, c *OutgoingCall) (msg []byte, err error) {
	p := *x.protocol.Load()
	if c.Notification {
		msg, err = p.AppendNotification(dst, c.Method, c.Params, x.codec)
	} else {
		msg, err = p.AppendRequest(dst, id, c.Method, c.Params, x.codec)
	}
	if err != nil {
		return msg, err
	}
	return x.meta.appendTo(msg, len(dst), c.Meta, x.codec)
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
		t.finishAll(&ConnectionError{Written: sent, Err: err})
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
