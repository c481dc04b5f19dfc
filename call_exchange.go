package rpcx

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	"example.com/rpcx/internal/gopool"
)

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
			return x.callAndWait(ctx, 1, c, result)
		})
	}
	return x.callAndWait(ctx, 1, &OutgoingCall{Method: method, Params: params}, result)
}

// callAndWait is Call, or Notify for 0 calls, after the functions of Options.OnCall.
func (x *Exchange) callAndWait(ctx context.Context, calls int, c *OutgoingCall, result any) error {
	f, _ := x.sendSingle(ctx, calls, c, nil)
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
			return x.sendSingle(ctx, 1, &h.OutgoingCall, h)
		})
	}
	f, _ := x.sendSingle(ctx, 1, &OutgoingCall{Method: method, Params: params}, nil)
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
			return x.callAndWait(ctx, 0, c, nil)
		})
	}
	return x.callAndWait(ctx, 0, &c, nil)
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

// sendSingle sends a call, or a notification for 0 calls, and returns its future. The future
// ends h, if not nil. If the message cannot be sent, sendSingle also returns the error.
func (x *Exchange) sendSingle(ctx context.Context, calls int, c *OutgoingCall, h *hookedCall) (*Future, error) {
	t := x.newRoundTrip(calls)
	f := newDetachedFuture(x.codec)
	if f.call.method = c.Method; h != nil && len(h.done) > 0 {
		f.hooked, h.future = h, f
	}
	t.futures = []*Future{f}
	err := x.encodeAndStart(ctx, t, func(sc *encodeBuffer) (err error) {
		if calls == 0 {
			sc.msg, err = x.appendCall(sc.msg[:0], nil, c)
			return err
		}
		sc.id = strconv.AppendUint(sc.id[:0], t.firstID, 10)
		if sc.msg, err = x.appendCall(sc.msg[:0], sc.id, c); err == nil {
			c.setID(t.firstID)
		}
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
		b.setIDs(err, func(call int) uint64 { return t.firstID + uint64(call) })
		return err
	})
}

// appendCall appends the message of a call, or of a notification, whose id is nil. The only
// other place where an Exchange encodes calls is sendBatch.
func (x *Exchange) appendCall(dst []byte, id ID, c *OutgoingCall) (msg []byte, err error) {
	p := *x.protocol.Load()
	if id == nil {
		msg, err = p.AppendNotification(dst, c.Method, c.Params, x.codec)
	} else {
		msg, err = p.AppendRequest(dst, id, c.Method, c.Params, x.codec)
	}
	if err != nil {
		return msg, err
	}
	return x.meta.appendTo(msg, len(dst), c.Meta, x.codec)
}
