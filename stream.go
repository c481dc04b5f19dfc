package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"example.com/rpcx/internal/bounded"
)

// OverflowPolicy says what happens to a value for which a queue has no room.
type OverflowPolicy uint8

const (
	// DropOldest drops the oldest values until there is room.
	DropOldest OverflowPolicy = iota
	// KeepLatest drops each value that has a later value with the same key, always. If the
	// queue is still full, the oldest values are dropped.
	KeepLatest
	// EndStream ends the stream with ErrSlowReader, after the queued values. On a Hub,
	// EndStream ends the subscription and drops the queued values. The peer learns of the
	// end only by Correlation.Error.
	EndStream
	// EndSession ends the session with ErrSlowPeer. EndSession is for a Hub.
	EndSession
)

const (
	defaultStreamQueue = 256
	maxStreamQueue     = 65536
	defaultStreamBytes = 1 << 20
)

// Subscription describes a subscription, for [Subscribe].
type Subscription struct {
	// Method and Params are the subscribing call. Without Correlation.ID, Params must be
	// positional.
	Method string
	Params any
	// Correlation says how notifications belong to the subscription. Default: for a Method of
	// Ethereum, with any namespace, EthSubscription with the same namespace.
	Correlation *Correlation
	// Queue is the number of values that wait to be read. Default 256, at most 65,536.
	Queue int
	// Bytes bounds the size of the waiting notifications. Default 1 MiB. A single value of
	// any size may wait alone.
	Bytes int
	// Overflow says what happens if Queue or Bytes is exceeded. Default DropOldest.
	Overflow OverflowPolicy
	// Key returns the key of a value, for KeepLatest. Default: all values have the same key,
	// so that only the latest value waits. Key is called by one goroutine at a time: by that
	// of Next, or, when the queue is full, by a separate goroutine; meanwhile up to twice as
	// many values wait. Key must not change or keep the value, and must not wait.
	Key func(value json.RawMessage) string
	// OnGap is called when a [Client] has subscribed again on another session: values may have
	// been missed. The goroutine is that of Next, between the values before and after the gap. A
	// subscription whose reply is the first value (Correlation.Current) has no gap if the new
	// reply equals the last value. Default: nothing is called.
	OnGap func(gap *GapError)
}

var (
	// ErrSlowReader is the error of a [Stream] with EndStream whose queue was full, and of a
	// [CallProgress] whose function has held up the reading for too long.
	ErrSlowReader = errors.New("rpcx: the reader of a stream is too slow")
	// ErrNoStreams is the error of [Subscribe], [StreamOf] and [CallProgress] on a Caller that
	// receives no notifications: an [Exchange], the session of [Server.ServeMessage], a session
	// with the protocol [Aiomas], or another Caller that embeds no *Session or *Client.
	// Nothing is sent.
	ErrNoStreams = errors.New("rpcx: this Caller receives no notifications: streams need a Session or an rpcx.Client whose protocol has them")
	// ErrStreamEnded is the error of [Stream.Next] when the reply has ended the subscription.
	ErrStreamEnded = errors.New("rpcx: the reply has ended the stream")
	// ErrStreamClosed is the error of [Stream.Next] after [Stream.Close].
	ErrStreamClosed = errors.New("rpcx: stream was closed")
)

var errTwoReaders = errors.New("rpcx: two goroutines read a Stream at once: use one goroutine, or a Stream for each")

// PeerEndError is the error of a stream that the peer has ended by a notification, as
// Correlation.Error describes. If the reason is an object with code and message, the error
// wraps an [*Error].
type PeerEndError struct {
	Reason json.RawMessage
}

func (e *PeerEndError) Error() string {
	return "rpcx: the peer has ended the subscription: " + bounded.Text(string(e.Reason))
}

func (e *PeerEndError) Unwrap() error {
	var reason struct {
		Code    *int
		Message *string
		Data    any
	}
	if json.Unmarshal(e.Reason, &reason) != nil || reason.Code == nil || reason.Message == nil {
		return nil
	}
	return &Error{Code: *reason.Code, Message: *reason.Message, Data: reason.Data}
}

// Subscribe makes the subscribing call on c, and returns the stream of the values. The stream
// has each value that follows the reply on the wire, also in the same packet. The session
// sorts notifications in the order in which they and the reply arrive. If the caller makes the
// id, the stream also has the values that come before the reply.
//
// ctx bounds only the subscribing call. If ctx ends first, and the reply still comes, the
// session unsubscribes at once. The errors are those of [Session.Call], [ErrNoStreams], or
// the reason why sub does not fit. Options.OnCall sees the call.
//
// If the reply ends the subscription, as with [MCPListen] or [LSPPartialResult], Subscribe
// returns when the call is sent. An error of the peer is then the error of the stream. Such
// a call takes no slot of Limits.Outgoing, and [Session.Shutdown] does not wait for it. The
// result of the call is dropped; see [CallProgress].
//
// Without Correlation.ID, subscriptions with equal Method and Params share the notifications.
// Each Subscribe makes the call, for the current value, and the last Close unsubscribes. As
// long as the peer has not answered an unsubscribing call, an equal Subscribe waits.
func Subscribe[T any](ctx context.Context, c Caller, sub Subscription) (*Stream[T], error) {
	mustHaveContext("Subscribe", ctx)
	sc, ok := c.(streamCaller)
	if !ok {
		return nil, ErrNoStreams
	}
	q, err := sc.openStream(ctx, &sub)
	if err != nil {
		return nil, err
	}
	return &Stream[T]{q}, nil
}

// StreamOf returns the stream of an id that this program has not got from Subscribe: a token
// that the peer has made, such as that of window/workDoneProgress/create, or a token that
// the program puts into the params of a call itself. id is a string, a number or their JSON.
// Nothing is sent.
//
// Notifications that came before are in the stream, if the method was known before: by
// Options.Correlations, or by another stream. The session keeps 64 such notifications, with
// at most 1 MiB, for a second. A handler that claims the id before returning misses nothing.
//
// The stream ends with Close, the session, or Correlation.Error. The queue is that of a zero
// Subscription.
func StreamOf[T any](c Caller, form *Correlation, id any) (*Stream[T], error) {
	sc, ok := c.(streamCaller)
	if !ok {
		return nil, ErrNoStreams
	}
	q, err := sc.claimStream(form, id)
	if err != nil {
		return nil, err
	}
	return &Stream[T]{q}, nil
}

// streamCaller is a Caller that receives notifications.
type streamCaller interface {
	Caller
	openStream(ctx context.Context, sub *Subscription) (streamSource, error)
	claimStream(form *Correlation, id any) (streamSource, error)
	callWithProgress(ctx context.Context, form *Correlation, method string, params, result any, f func(q *streamQueue, value []byte) error) error
}

var _ streamCaller = (*Session)(nil)

// streamSource is what a Stream reads: the queue of a session, or the queues of a Client, one
// after the other.
type streamSource interface {
	next(ctx context.Context) ([]byte, error)
	decode(value []byte, v any) error // of the value that next has returned
	closeWith(reason error)
	setMisuse(err error)
	reason() error
	droppedValues() uint64
	streamID() json.RawMessage
}

var (
	_ streamSource = (*streamQueue)(nil)
	_ streamSource = (*clientStream)(nil)
)

// Stream is a subscription, read by one goroutine at a time. Each value is delivered once, in
// the order of arrival, or counted by Dropped. See [Subscribe] and [StreamOf].
//
// The notifications of streams do not go to Options.Handler, and have no order with the
// requests and notifications that do. A notification of a known method without an id goes to
// Options.Handler.
type Stream[T any] struct {
	queue streamSource
}

// Next returns the next value, and waits until there is one. The end of ctx ends only the
// wait, with the cause of ctx. The other errors end the stream:
//
//   - [ErrStreamEnded], if the reply has ended the subscription;
//   - a [*ConnectionError], if the session has ended: dial, and subscribe again; for a
//     stream of Subscribe on a [Client], if the client has ended;
//   - [ErrStreamClosed] after Close;
//   - [ErrSlowReader], with the policy EndStream;
//   - a [*PeerEndError], if the peer has ended the subscription;
//   - the error of the call, if its reply was to end the subscription;
//   - an error of decoding. The session then unsubscribes. A Stream[json.RawMessage] has no
//     such errors.
//
// Before an error, except ErrStreamClosed, Next returns the values that are queued.
func (s *Stream[T]) Next(ctx context.Context) (value T, err error) {
	mustHaveContext("Stream.Next", ctx)
	raw, err := s.queue.next(ctx)
	if err != nil {
		return value, err
	}
	if err := s.queue.decode(raw, &value); err != nil {
		s.queue.closeWith(err)
		var zero T
		return zero, err
	}
	return value, nil
}

// Values iterates over the values until the stream ends; then Err returns the reason. A
// break out of the loop leaves the stream open.
func (s *Stream[T]) Values() iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			value, err := s.Next(context.Background())
			if err != nil {
				if err == errTwoReaders {
					s.queue.setMisuse(err)
				}
				return
			}
			if !yield(value) {
				return
			}
		}
	}
}

// Err returns the error that has ended the stream. If the stream goes on, was closed, or was
// ended by a reply without error, Err returns nil. Values may still be queued.
func (s *Stream[T]) Err() error {
	if err := s.queue.reason(); err != ErrStreamEnded && err != ErrStreamClosed {
		return err
	}
	return nil
}

// Dropped returns the number of values that the policy has dropped so far. What comes after
// the end of the stream does not count.
func (s *Stream[T]) Dropped() uint64 { return s.queue.droppedValues() }

// ID returns the id of the subscription in JSON, or nil if the form has none.
func (s *Stream[T]) ID() json.RawMessage { return s.queue.streamID() }

// Close ends the stream, drops the queued values, and unsubscribes in the background. Close
// waits for nothing, and always returns nil. Nothing is delivered after Close, and what the
// peer still sends is dropped, at no cost for the peer. An error of the unsubscribing call is
// ignored.
func (s *Stream[T]) Close() error {
	s.queue.closeWith(ErrStreamClosed)
	return nil
}

// resolve returns a copy of sub with defaults, or why sub is wrong.
func (sub Subscription) resolve() (*Subscription, error) {
	if sub.Method == "" {
		return nil, errors.New("rpcx: Subscription.Method is empty: set the method of the subscribing call")
	}
	if sub.Correlation == nil {
		if sub.Correlation = ethereumForm(sub.Method); sub.Correlation == nil {
			return nil, fmt.Errorf("rpcx: Subscription.Correlation is not set, and %q is no method of Ethereum, such as eth_subscribe: set Correlation", sub.Method)
		}
	}
	if err := sub.Correlation.check("Subscription.Correlation"); err != nil {
		return nil, fmt.Errorf("rpcx: %w", err)
	}
	switch {
	case sub.Queue < 0 || sub.Queue > maxStreamQueue:
		return nil, fmt.Errorf("rpcx: Subscription.Queue is %d: use 1 to %s, or 0 for %d", sub.Queue, thousands(maxStreamQueue), defaultStreamQueue)
	case sub.Bytes < 0:
		return nil, fmt.Errorf("rpcx: Subscription.Bytes is %d: use a positive number, or 0 for 1 MiB", sub.Bytes)
	case sub.Overflow == EndSession:
		return nil, errors.New("rpcx: Subscription.Overflow is EndSession, which is for a Hub: use EndStream, and close the session")
	case sub.Overflow > EndSession:
		return nil, fmt.Errorf("rpcx: Subscription.Overflow is %d, which is no policy", sub.Overflow)
	case sub.Key != nil && sub.Overflow != KeepLatest:
		return nil, errors.New("rpcx: Subscription.Key is for the policy KeepLatest: set Overflow, too")
	}
	if sub.Queue == 0 {
		sub.Queue = defaultStreamQueue
	}
	if sub.Bytes == 0 {
		sub.Bytes = defaultStreamBytes
	}
	return &sub, nil
}
