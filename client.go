package rpcx

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ClientOptions holds the settings of a [Client]. Only Addrs is required.
type ClientOptions struct {
	// Addrs are the addresses of the peer, or of several equal peers. After each session, and
	// after each failed attempt, the next address is tried.
	Addrs []string
	// Shuffle puts the addresses into a random order: at the start, and each time that all have
	// been tried.
	Shuffle bool
	// Connect makes a session with addr. Default: [Dial], for tcp://, tls:// and unix://. Dial of
	// the package websocket, and the Dial of a [Dialer] with settings, fit. opts is a copy of
	// Session. ctx ends after ConnectTimeout, and with the client. Each session must be new.
	Connect func(ctx context.Context, addr string, opts *Options) (*Session, error)
	// Session holds the options of each session: the handler of the peer's requests, for
	// example.
	//
	// With Limits.KeepAliveMethod, the client notices a peer that has vanished, and also a proxy
	// that swallows everything: see "Keep-alive" at Client.
	Session Options

	// OnConnect is called before anything else is sent on a new session: for "server.version",
	// "initialize", a login. Calls on s, and calls through the client with ctx, go to s. An error
	// is a failed attempt, and ends s. A [*PermanentError] ends the client. Default: nothing to
	// do.
	OnConnect func(ctx context.Context, s *Session) error
	// OnState is called with each new state, and with the reason: for ClientBackoff, and after a
	// session for ClientConnecting, why there is no session; for ClientClosed the error of
	// [Client.Err]. The calls come one at a time, in order, on a separate goroutine. If OnState
	// is slower than 64 changes, the oldest changes are left out. Default: nothing is called.
	OnState func(state ClientState, reason error)

	// MinBackoff and MaxBackoff bound the wait before an attempt. Defaults 100 ms and 30 s. The
	// wait is random, between 0 and a bound: the bound is MinBackoff at first, and doubles with
	// each attempt up to MaxBackoff. The wait for an address is not shorter than the RetryAfter
	// of a [CostError] that the peer has sent, up to ten times MaxBackoff.
	MinBackoff time.Duration
	MaxBackoff time.Duration
	// StableAfter is the age of a session after which the bound begins anew at MinBackoff.
	// Default 10 s.
	StableAfter time.Duration
	// ConnectTimeout bounds an attempt: Connect and OnConnect together. Default 30 s.
	ConnectTimeout time.Duration

	// FailFast makes calls fail with [ErrNotConnected] while there is no session. Default: calls
	// wait for a session, within their context or Limits.RequestTimeout.
	FailFast bool
	// MaxWaiting is the number of calls, batches and notifications that wait for a session.
	// Default 1,000. Further calls fail with ErrNotConnected.
	MaxWaiting int
	// Idempotent reports whether a request of the method may be carried out twice. If so, a call
	// is repeated after the loss of its session, even if the request was written. Idempotent may
	// be called on any goroutine, by several at once, and must not wait. Default: no method.
	Idempotent func(method string) bool
	// MaxRetries is the number of repetitions of a call that the peer may have received, or has
	// refused. Default 2; a negative value means none. A repetition of a call that was not
	// written does not count.
	MaxRetries int
}

// ClientState is the state of a [Client].
type ClientState uint8

const (
	// ClientConnecting means that an attempt is being made, OnConnect included.
	ClientConnecting ClientState = iota
	// ClientReady means that there is a session.
	ClientReady
	// ClientBackoff means that the client waits before the next attempt.
	ClientBackoff
	// ClientClosed is the last state: after Close, Shutdown or a PermanentError.
	ClientClosed
)

// String returns "connecting", "ready", "backoff" or "closed".
func (s ClientState) String() string {
	switch s {
	case ClientConnecting:
		return "connecting"
	case ClientReady:
		return "ready"
	case ClientBackoff:
		return "backoff"
	case ClientClosed:
		return "closed"
	}
	return fmt.Sprintf("ClientState(%d)", uint8(s))
}

// ErrNotConnected is the error of a call on a [Client] without a session: at once with
// FailFast, or if MaxWaiting calls wait already, and otherwise when the time of the call ends.
// Then the error also matches the cause of the context, or ErrTimeout. The error wraps the
// reason why there is no session.
var ErrNotConnected = errors.New("rpcx: not connected")

// PermanentError wraps an error after which a further attempt is of no use, such as a refused
// login. Returned by ClientOptions.OnConnect or Connect, it ends the [Client]. Later calls fail
// with an error that matches [ErrClosed] and wraps the PermanentError.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// GapError tells the reader of a stream of a [Client] that values may have been missed between
// two sessions. See Subscription.OnGap.
type GapError struct {
	From time.Time // end of the first session
	To   time.Time // when the peer confirmed the new subscription
	Err  error     // why the first session ended
}

func (e *GapError) Error() string {
	return fmt.Sprintf("rpcx: values may have been missed for %v: %v", e.To.Sub(e.From), e.Err)
}

func (e *GapError) Unwrap() error { return e.Err }

// NewClient returns a client, which begins to connect. NewClient does not wait for a session:
// see [Client.Session]. NewClient panics if an option is invalid.
func NewClient(opts *ClientOptions) *Client {
	return nil
}

// Client is a [Caller] over sessions that come and go. When a session ends, the client
// connects again, subscribes again, and repeats the calls that may be repeated.
type Client struct {
}

var _ Caller = (*Client)(nil)

// Call calls method and waits for the reply, as [Session.Call] does. The errors are those of
// Session.Call, and [ErrNotConnected].
func (c *Client) Call(ctx context.Context, method string, params, result any) error { return nil }

// Go calls method and returns a future, as [Session.Go] does. Without a session, Go returns at
// once, and the call waits.
func (c *Client) Go(ctx context.Context, method string, params any) *Future { return nil }

// Notify sends a notification, as [Session.Notify] does. Without a session, Notify waits for
// one. A notification is sent at most once: if its session ends before the writing, the
// notification leaves on the next session, and otherwise not again.
func (c *Client) Notify(ctx context.Context, method string, params any) error { return nil }

// SendBatch sends b and waits for the replies, as [Session.SendBatch] does. Each member has the
// outcome that a single call would have. The members to be repeated are sent as a shorter
// batch.
func (c *Client) SendBatch(ctx context.Context, b *Batch) error { return nil }

// Session returns the present session, and waits until there is one. Calls on the session itself
// are not repeated.
func (c *Client) Session(ctx context.Context) (*Session, error) { return nil, nil }

// State returns the state of the client.
func (c *Client) State() ClientState { return 0 }

// Reconnect makes the client connect to the next address, at once. The calls of the present
// session have Limits.RequestTimeout to finish there; new calls wait for the next session.
func (c *Client) Reconnect() {}

// Shutdown ends the client in order. New calls fail with [ErrClosed]. Shutdown waits for the
// calls under way, also for those that wait for a session, and then shuts the session down. If
// ctx ends first, Shutdown calls Close and returns the error of ctx.
func (c *Client) Shutdown(ctx context.Context) error { return nil }

// Close ends the client without waiting for the peer. All calls and streams fail. Close does not
// wait for the end of functions such as OnConnect: see [Client.Done].
func (c *Client) Close() error { return nil }

// Done returns a channel that is closed when the client is over: its sessions are, and the
// functions of ClientOptions have returned.
func (c *Client) Done() <-chan struct{} { return nil }

// Err returns the reason for the end of the client, or nil before: [ErrClosed] after Close or
// Shutdown, or a [*PermanentError].
func (c *Client) Err() error { return nil }
