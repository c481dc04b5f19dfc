package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
)

// Caller is what calls are made through: a [Session], a [Client], an [Exchange], or a type of
// the program's own. [Call], [Remote] and [BindProxy] take any Caller. [Subscribe],
// [StreamOf] and [CallProgress] need a Session, a Client, or a struct that embeds a pointer
// to one of the two; otherwise, the error is [ErrNoStreams].
//
// A program's own Caller can wrap another Caller, for example to log calls or to repeat
// them. Or it carries the calls itself: see [NewFuture] for Go, and [Batch.Calls] for
// SendBatch. In both cases the methods should keep the promises of the methods of
// Session:
//
//   - All methods may be called from any goroutine, at the same time.
//   - Call, Go and SendBatch end at the latest with their context, with its cause as error.
//   - An error of the peer is an [*Error]. If some calls of a batch fail, the error is a
//     [*BatchError].
//   - params may be any value that Session.Call takes; the Append methods of a [Protocol]
//     encode them. A method does not use params after it has returned, because the program
//     may change them then.
//   - After Close, calls fail with an error that matches [ErrClosed].
type Caller interface {
	Call(ctx context.Context, method string, params, result any) error
	Go(ctx context.Context, method string, params any) *Future
	Notify(ctx context.Context, method string, params any) error
	SendBatch(ctx context.Context, b *Batch) error
	Close() error
}

var (
	_ Caller = (*Session)(nil)
	_ Caller = (*Exchange)(nil)
)

// NewFuture returns the future of a call that a program's own [Caller] makes, and the
// function that finishes the call. complete may be called from any goroutine, and waits
// for nothing.
//
// If err is not nil, it is the error of the call. Otherwise result, in JSON, is what Wait
// and Decode decode; a nil result means null. The future keeps result, which must not
// change afterwards. Only the first outcome counts: complete does nothing after another
// complete, or after [Future.Cancel], which finishes the call with [ErrCancelled]. To
// notice Cancel, use [Future.OnDone] or [Future.Done].
func NewFuture() (f *Future, complete func(result json.RawMessage, err error)) {
	f = newDetachedFuture(JSON)
	return f, f.complete
}

// newDetachedFuture returns the future of a call without a session. c decodes the result.
func newDetachedFuture(c Codec) *Future {
	call := new(futureCall)
	call.begin(nil, "").detachedCodec = c
	call.future.phase, call.future.call, call.future.waiters = futureOpen, &call.calls[0], &call.waiters
	return &call.future
}

// complete finishes the call of f, a call without a session. Only the first outcome
// counts.
func (f *Future) complete(result json.RawMessage, err error) {
	if result == nil && err == nil {
		result = json.RawMessage("null")
	}
	f.finishWith(result, err)
}

var errBatchUnsent = errors.New("rpcx: the batch was not sent: only SendBatch, GoBatch or a range over Calls sends a batch")

// Calls takes the batch apart, for SendBatch of a program's own [Caller]. Calls iterates
// over the calls and notifications in order, each with the function that finishes the
// call. Members that were cancelled before are left out. The Caller must call each
// function, as described at [NewFuture]; for a notification the function does nothing.
// [Batch.Wait] then returns the error for SendBatch:
//
//	for call, complete := range b.Calls() {
//		complete(post(ctx, call.Method, call.Params)) // or later, from another goroutine
//	}
//	return b.Wait(ctx)
//
// The start of the loop marks the batch as sent, unless the batch is empty. If the batch
// was sent already, there is nothing to iterate over, and Wait returns [ErrBatchSent]. If
// the loop ends early, the calls that were not reached fail with [ErrCancelled].
//
// The members are as the program added them: Options.OnCall, OnBatchCall and Meta do not
// apply, and OutgoingCall.Meta is nil. To call such functions is up to the Caller.
func (b *Batch) Calls() iter.Seq2[*OutgoingCall, func(result json.RawMessage, err error)] {
	return func(yield func(*OutgoingCall, func(json.RawMessage, error)) bool) {
		if b.isEmpty() {
			return
		}
		if _, err := b.detach(JSON); err != nil {
			b.sentAgain = true
			return
		}
		rest := b.entries
		defer func() {
			for _, e := range rest {
				if e.future != nil {
					e.future.finish(ErrCancelled)
				}
			}
		}()
		for len(rest) > 0 {
			e := rest[0]
			rest = rest[1:]
			complete := func(json.RawMessage, error) {}
			if e.future != nil {
				if e.future.isFinished() { // cancelled since the start of the loop
					continue
				}
				complete = e.future.complete
			}
			call := &OutgoingCall{Method: e.method, Params: e.params, Notification: e.future == nil, Batch: b, Attempt: 1}
			if !yield(call, complete) {
				return
			}
		}
	}
}

// detach marks b as sent without a session, and leaves out the members that were
// cancelled. c decodes the results. detach returns the futures of the other calls.
func (b *Batch) detach(c Codec) ([]*Future, error) {
	b.checkCopy()
	if b.sent {
		return nil, ErrBatchSent
	}
	b.sent = true
	n := b.countCalls()
	m := &pendingMessage{detachedCodec: c, calls: make([]pendingCall, 0, n)}
	futures, entries := make([]*Future, 0, n), make([]*batchEntry, 0, len(b.entries))
	b.members = make([]*Future, 0, n)
	for _, e := range b.entries {
		if e.future != nil {
			b.members = append(b.members, e.future)
			if !e.future.joinMessage(m, e.method) {
				continue
			}
			futures = append(futures, e.future)
		}
		entries = append(entries, e)
	}
	b.entries = entries
	return futures, nil
}

// Wait waits for the calls of a batch that was sent, fills the destinations given to
// [Batch.Call], and returns the error that [Session.SendBatch] describes: nil, or a
// [*BatchError]. If ctx ends first, Wait gives the unfinished calls up, and the cause of
// ctx is their error. If the batch was sent twice, the error is [ErrBatchSent]. Wait is
// for SendBatch of a program's own [Caller]; see [Batch.Calls].
func (b *Batch) Wait(ctx context.Context) error {
	mustHaveContext("Batch.Wait", ctx)
	switch {
	case b.isEmpty():
		return nil
	case !b.sent:
		return errBatchUnsent
	case b.sentAgain:
		return ErrBatchSent
	}
	for _, f := range b.members {
		if f.isFinished() {
			continue
		}
		if err := f.waitUntilFinished(ctx); err != nil {
			f.abandon(err)
			<-f.Done()
		}
	}
	return fillMembers(b.members)
}
