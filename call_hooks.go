package rpcx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"example.com/rpcx/internal/gopool"
)

// OutgoingCall is a request or a notification of this side that is about to be encoded.
//
// The functions of Options.OnCall are called in order, outside of locks, on the goroutine
// of the caller, with the context of the caller. [Client] has two exceptions, for a call of
// Go that waits and for a stream that is subscribed again. The returned context next goes to
// the following function and to the call, whose deadline it may set; nil keeps ctx. An
// [Exchange] passes values of next on to its [RoundTripper]. A function may change Method,
// Params and Meta. The values left by the last function are sent, and changes of other
// fields are ignored. A function may keep the OutgoingCall for reading.
//
// The functions do not see the values of a [Hub], the unsubscribing call of a [Stream], or
// what a session sends by itself: reports of Options.Cancellation, and probes. They see
// subscribing calls, and what a handler sends by [Progress].
//
// The returned function done, which may be nil, is called once with the error of the call,
// when the call is over. The done functions of a call run in reverse order:
//
//   - On the calling goroutine, before the return of Call, SendBatch, Notify or TryNotify,
//     or if the call is not sent. The error is the returned error, or for TryNotify without
//     room an error that says so. A notification is over when a session has queued the
//     message, or when RoundTrip has returned.
//   - After Go and GoBatch: on the goroutine of [Future.Wait], before the return, or on a
//     separate goroutine. Done is not called on the reader, and may wait.
//
// If a function returns an error, nothing is sent, and the call fails with the error. Only
// the done functions of earlier functions run then. A panic of a function, or of done on
// the calling goroutine, passes to the caller. A panic of done on a separate goroutine ends
// the program.
//
// In a batch, the functions of Options.OnBatchCall come first, and their context goes to
// the functions of OnCall, for each member. The context next of a member goes no further
// than its functions, because the batch has one context. If a function fails, no member is
// sent. The done functions of the members run at the end of the batch, or when a member of
// GoBatch is cancelled, and those of OnBatchCall last. Without a session, the *Session of
// OnBatchCall is nil.
//
// A program's own [Caller] has no such functions, also if it uses [Batch.Calls].
type OutgoingCall struct {
	// nextID is the id after that of the request, or 0 until the request has an id. It is
	// atomic, because a call that is cancelled may end meanwhile, and first, because 32-bit
	// processors want it aligned.
	nextID uint64

	Session      *Session // nil on an Exchange, and for a program's own Caller
	Method       string
	Params       any
	Notification bool
	Batch        *Batch         // the batch with the call; nil for a single call
	Meta         map[string]any // data about the call, sent as Options.Meta says; nil at first
	Attempt      int            // number of the attempt, from 1; more than 1 only on a Client
}

// ID returns the id of the request, for the function done. The functions of Options.OnCall
// come before the id: until then, and for a notification, the result is nil. ID may be called
// from any goroutine.
func (c *OutgoingCall) ID() ID {
	next := atomic.LoadUint64(&c.nextID)
	if next == 0 {
		return nil
	}
	return strconv.AppendUint(nil, next-1, 10)
}

// setID stores the id of the request. c may be nil.
func (c *OutgoingCall) setID(id uint64) {
	if c != nil {
		atomic.StoreUint64(&c.nextID, id+1)
	}
}

// metaValues returns c.Meta. c may be nil.
func (c *OutgoingCall) metaValues() map[string]any {
	if c == nil {
		return nil
	}
	return c.Meta
}

// SetMeta sets c.Meta[key], and makes the map if c.Meta is nil. Without Options.Meta, the
// data is not sent.
func (c *OutgoingCall) SetMeta(key string, value any) {
	if c.Meta == nil {
		c.Meta = make(map[string]any)
	}
	c.Meta[key] = value
}

// callHooks holds the functions of Options.OnCall and Options.OnBatchCall.
type callHooks struct {
	onCall      []func(context.Context, *OutgoingCall) (context.Context, func(error), error)
	onBatchCall []func(context.Context, *Session, *Batch) (context.Context, func(error))
}

// noHooks is the callHooks of sessions and exchanges without such functions.
var noHooks = &callHooks{}

// resolveCallOptions checks and copies OnCall, OnBatchCall and Meta.
func (o *Options) resolveCallOptions() (err error) {
	for i, hook := range o.OnCall {
		if hook == nil {
			return fmt.Errorf("Options.OnCall[%d] is nil", i)
		}
	}
	for i, hook := range o.OnBatchCall {
		if hook == nil {
			return fmt.Errorf("Options.OnBatchCall[%d] is nil", i)
		}
	}
	o.hooks = noHooks
	if len(o.OnCall) > 0 || len(o.OnBatchCall) > 0 {
		o.hooks = &callHooks{slices.Clone(o.OnCall), slices.Clone(o.OnBatchCall)}
	}
	o.Meta, err = o.Meta.resolved()
	return err
}

// hookedCall is a call, or a batch, that hooks have seen. The hooks' done functions are
// called once, when the call is over.
type hookedCall struct {
	OutgoingCall               // empty for a batch as a whole
	pool         *gopool.Pool  // runs the done functions after Go and GoBatch; nil if the sender does
	done         []func(error) // in the order of the hooks
	few          [2]func(error)
	future       *Future     // of the call; nil in Session.Call, and for a notification
	nextEnded    *hookedCall // link in endedCalls

	mu     sync.Mutex // guards the fields below
	ending bool       // end was called
	ended  bool       // the done functions have returned
	waiter chan struct{}
}

// Errors for done functions, if nothing was returned to the caller.
var (
	errHookPanicked = errors.New("rpcx: a function of Options.OnCall or Options.OnBatchCall has not returned")
	errCallPanicked = errors.New("rpcx: the call has not returned")
)

// addDone adds the done function of a hook, if any.
func (h *hookedCall) addDone(done func(error)) {
	if h.done == nil {
		h.done = h.few[:0]
	}
	if done != nil {
		h.done = append(h.done, done)
	}
}

// end calls the done functions, the last first, unless they were called before. While
// another goroutine calls the functions, end waits, at most until ctx ends.
func (h *hookedCall) end(ctx context.Context, err error) {
	if !h.beginEnd(ctx) {
		return
	}
	defer h.markEnded()
	for i := len(h.done) - 1; i >= 0; i-- {
		h.done[i](err)
	}
}

// beginEnd reports whether the caller has to call the done functions. If another goroutine
// does so, beginEnd waits for the end, or for the end of ctx.
func (h *hookedCall) beginEnd(ctx context.Context) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ending {
		h.ending = true
		return true
	}
	if h.ended {
		return false
	}
	if h.waiter == nil {
		h.waiter = make(chan struct{})
	}
	waiter := h.waiter
	h.mu.Unlock()
	select { // a channel, because testing/synctest does not see a wait for a lock
	case <-waiter:
	case <-ctx.Done():
	}
	h.mu.Lock()
	return false
}

// markEnded wakes the goroutines that wait in beginEnd.
func (h *hookedCall) markEnded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	if h.waiter != nil {
		close(h.waiter)
	}
}

// beginCall calls the functions of Options.OnCall. It returns the context for the call, and
// the call to be sent. If a function fails, the call is over, and its error is returned.
// pool is that of hookedCall.
func (hooks *callHooks) beginCall(ctx context.Context, pool *gopool.Pool, call OutgoingCall) (context.Context, *hookedCall, error) {
	if call.Attempt == 0 {
		call.Attempt = 1
	}
	h := &hookedCall{OutgoingCall: call, pool: pool}
	err := errHookPanicked
	defer func() {
		if err != nil {
			h.end(ctx, err)
		}
	}()
	for _, onCall := range hooks.onCall {
		next, done, failure := onCall(ctx, &h.OutgoingCall)
		if failure != nil {
			err = failure
			return ctx, h, err
		}
		h.addDone(done)
		if next != nil {
			ctx = next
		}
	}
	err = nil
	return ctx, h, nil
}

// runCall calls the functions of Options.OnCall, then send, and then the done functions.
// send sends the call, which the functions may have changed, and waits for the end.
func (hooks *callHooks) runCall(ctx context.Context, call OutgoingCall, send func(context.Context, *OutgoingCall) error) error {
	ctx, h, err := hooks.beginCall(ctx, nil, call)
	if err != nil {
		return err
	}
	err = errCallPanicked
	defer func() { h.end(ctx, err) }()
	err = send(ctx, &h.OutgoingCall)
	return err
}

// startCall calls the functions of Options.OnCall, and then start, which sends the call and
// puts the hookedCall into the future. The future ends the call. If the call is not sent,
// startCall does.
func (hooks *callHooks) startCall(ctx context.Context, pool *gopool.Pool, call OutgoingCall, start func(context.Context, *hookedCall) (*Future, error)) *Future {
	ctx, h, err := hooks.beginCall(ctx, pool, call)
	if err != nil {
		return newFailedFuture(err)
	}
	err = errCallPanicked
	defer func() {
		if err != nil {
			h.end(ctx, err)
		}
	}()
	f, err := start(ctx, h)
	return f
}

// beginBatch calls the functions of Options.OnBatchCall for b, and then the functions of
// Options.OnCall for each member. It returns the context for the batch. s is the session,
// or nil. pool is that of hookedCall.
func (hooks *callHooks) beginBatch(ctx context.Context, pool *gopool.Pool, s *Session, b *Batch) (context.Context, error) {
	if len(hooks.onCall) == 0 && len(hooks.onBatchCall) == 0 {
		return ctx, nil
	}
	b.hooked = &hookedCall{pool: pool}
	for _, onBatchCall := range hooks.onBatchCall {
		next, done := onBatchCall(ctx, s, b)
		b.hooked.addDone(done)
		if next != nil {
			ctx = next
		}
	}
	if len(hooks.onCall) == 0 {
		return ctx, nil
	}
	for i, e := range b.entries {
		_, h, err := hooks.beginCall(ctx, pool, OutgoingCall{
			Session: s, Method: e.method, Params: e.params, Notification: e.future == nil, Batch: b, Attempt: b.attempt,
		})
		if err != nil {
			return ctx, fmt.Errorf("member %d of the batch, %q: %w", i+1, e.method, err)
		}
		e.method, e.params, e.hooked = h.Method, h.Params, h
		if e.future != nil {
			e.future.setHooked(h)
		}
	}
	return ctx, nil
}

// endHooks calls the done functions of the members, with the error that outcome returns
// for the future, and then those of the batch as a whole with err. The future of a
// notification is nil.
func (b *Batch) endHooks(ctx context.Context, outcome func(*Future) error, err error) {
	for _, e := range b.entries {
		if e.hooked != nil {
			e.hooked.end(ctx, outcome(e.future))
		}
	}
	if b.hooked != nil {
		b.hooked.end(ctx, err)
	}
}

// setHooked stores the hookedCall of f, a member of a batch, before the batch is sent. If f
// was cancelled and has finished, f does not change any more; the sender ends h.
func (f *Future) setHooked(h *hookedCall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase == futureFinished {
		return
	}
	f.call.method = h.Method
	if len(h.done) > 0 {
		f.hooked, h.future = h, f
	}
}

// endHooks calls the done functions of the members, and then the functions of f itself, as
// hookedCall.end does. outcome returns the error of a finished call.
func (f *Future) endHooks(ctx context.Context, outcome func(*Future) error) {
	for _, member := range f.members() {
		member.endHooks(ctx, outcome)
	}
	if f.hooked != nil {
		f.hooked.end(ctx, outcome(f))
	}
}

// endHooksUnlessSender calls endHooks for f, which has finished, unless the sender does so.
func (f *Future) endHooksUnlessSender(ctx context.Context) {
	if f.hooked != nil && f.hooked.pool != nil {
		f.endHooks(ctx, callError)
	}
}

// endedCalls is a list of calls that ended together, and have done functions.
type endedCalls struct{ first, last *hookedCall }

// add adds the call of f, which may be nil, unless the sender calls the done functions.
func (l *endedCalls) add(f *Future) {
	switch {
	case f == nil || f.hooked == nil || f.hooked.pool == nil:
		return
	case l.last == nil:
		l.first = f.hooked
	default:
		l.last.nextEnded = f.hooked
	}
	l.last = f.hooked
}

// endHooksLater calls the done functions of all calls on a single goroutine of the pool. A
// goroutine for each call would cost more than the rest of the call.
func (l endedCalls) endHooksLater() {
	if l.first == nil {
		return
	}
	l.first.pool.RunTask(func() {
		for h := l.first; h != nil; h = h.nextEnded {
			h.future.endHooks(context.Background(), callError)
		}
	})
}

// callError returns the error of f, which has finished.
func callError(f *Future) error { return f.err }
