package rpcx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/duration"
	"example.com/rpcx/internal/lockowner"
)

// ClientOptions holds the settings of a [Client]. Only Addrs is required. The functions run
// on goroutines of the client, where a panic ends the program.
type ClientOptions struct {
	// Addrs are the addresses of the peer, or of several equal peers. After each session,
	// and after each failed attempt, the next address is tried.
	Addrs []string
	// Shuffle puts the addresses into a random order: at the start, and each time that all
	// have been tried.
	Shuffle bool
	// Connect makes a session with addr. Default: [Dial], for tcp://, tls:// and unix://.
	// Dial of the package websocket, and the Dial of a [Dialer] with settings, fit. opts is
	// a copy of Options. ctx ends with the session, with the client, and after
	// ConnectTimeout if the attempt still goes on: so [Command] with ctx fits. Each session
	// must be new. A [*PermanentError] ends the client.
	Connect func(ctx context.Context, addr string, opts *Options) (*Session, error)
	// Options holds the options of each session: the handler of the peer's requests, for
	// example. A failed attempt is logged with level Info, if the error is not that of the
	// attempt before.
	//
	// With Limits.KeepAliveMethod, the client notices a peer that has vanished, and also a
	// proxy that swallows everything: see "Keep-alive" at Client.
	Options Options

	// OnConnect is called before anything else is sent on a new session: for
	// "server.version", "initialize", a login. Calls on s, and calls through the client
	// with ctx, go to s. An error is a failed attempt, and ends s. A [*PermanentError] ends
	// the client. NewClient may not have returned yet: use s.
	//
	// Without a call in OnConnect, a connection alone counts as a session. A proxy without a
	// peer, or a server that is full, then uses up the MaxRetries of calls. Default: nothing
	// to do.
	OnConnect func(ctx context.Context, s *Session) error
	// OnState is called with each new state, and with the reason: for ClientBackoff and
	// ClientConnecting why there is no session, nil before the first attempt; for
	// ClientClosed the error of [Client.Err].
	//
	// The calls come one at a time, in order, on a separate goroutine. If OnState is slower
	// than 64 changes, the oldest changes are left out. OnState must not call
	// [Client.Shutdown] or wait for [Client.Done], which wait for OnState. Default: nothing
	// is called.
	OnState func(state ClientState, reason error)

	// MinBackoff and MaxBackoff bound the wait before an attempt. Defaults 100 ms and 30 s.
	// The wait is random, between 0 and a bound: the bound is MinBackoff at first, and
	// doubles with each attempt up to MaxBackoff. If thousands of clients lose their server
	// in one moment, a larger MinBackoff, or Server.ShutdownSpread, spares the next server.
	// The wait for an address is not shorter than the RetryAfter of a [CostError] that the
	// peer has sent, up to ten times MaxBackoff.
	MinBackoff time.Duration
	MaxBackoff time.Duration
	// StableAfter is the age of a session after which the bound begins anew at MinBackoff.
	// Default 10 s.
	StableAfter time.Duration
	// ConnectTimeout bounds an attempt: Connect and OnConnect together. Default 30 s.
	ConnectTimeout time.Duration

	// FailFast makes calls fail with [ErrNotConnected] while there is no session, also
	// calls that would be repeated after the loss of their session. Default: calls wait for
	// a session, within their context or Limits.RequestTimeout.
	FailFast bool
	// MaxWaiting is the number of calls, batches and notifications that wait for a session.
	// Default 1,000; a negative value means no limit. Further calls fail with
	// ErrNotConnected.
	MaxWaiting int
	// Idempotent reports whether a request of the method may be carried out twice. If so, a
	// call is repeated after the loss of its session, even if the request was written.
	// Idempotent may be called on any goroutine, by several at once, and must not wait.
	// Default: no method.
	Idempotent func(method string) bool
	// MaxRetries is the number of repetitions of a call that the peer may have received, or
	// has refused. Default 2; a negative value means none. A repetition of a call that was
	// not written does not count.
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
// FailFast, or if MaxWaiting calls wait already, and otherwise when the time of the call
// ends. Then the error also matches the cause of the context, or ErrTimeout. The error
// wraps the reason why there is no session.
//
// The peer has not received the call, with one exception: if an attempt of an idempotent
// call was written before, the error also wraps a [*ConnectionError] with Written set.
var ErrNotConnected = errors.New("rpcx: not connected")

// PermanentError wraps an error after which a further attempt is of no use, such as a
// refused login. Returned by ClientOptions.OnConnect or Connect, it ends the [Client].
// Later calls fail with an error that matches [ErrClosed] and wraps the PermanentError.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string {
	if e.Err == nil {
		return "rpcx: permanent error"
	}
	return e.Err.Error()
}

func (e *PermanentError) Unwrap() error { return e.Err }

// GapError tells the reader of a stream of a [Client] that values may have been missed
// between two sessions. See Subscription.OnGap.
type GapError struct {
	From time.Time // end of the first session
	To   time.Time // when the peer confirmed the new subscription
	Err  error     // why the first session ended
}

func (e *GapError) Error() string {
	return fmt.Sprintf("rpcx: values may have been missed for %v: %v", e.To.Sub(e.From), e.Err)
}

func (e *GapError) Unwrap() error { return e.Err }

// NewClient returns a client, which begins to connect. NewClient does not wait for a
// session: see [Client.Session]. NewClient panics if an option is invalid.
func NewClient(opts *ClientOptions) *Client {
	o, err := opts.resolve()
	if err != nil {
		panic("rpcx: " + err.Error())
	}
	session := mustResolveOptions(&o.Options)
	limits := session.Limits.resolved(RoleClient)
	c := &Client{
		clientConfig: clientConfig{
			options:        o,
			session:        o.Options,
			logger:         session.Logger,
			hooks:          session.hooks,
			codec:          session.Codec,
			requestTimeout: limits.RequestTimeout,
			wake:           make(chan struct{}, 1),
			done:           make(chan struct{}),
		},
		addrs: clientAddrs{list: slices.Clone(o.Addrs), shuffle: o.Shuffle},
	}
	c.active = 1 // run
	if session.objects != nil {
		c.codec = &objectCodec{session.Codec, session.objects, c}
	}
	if limits.KeepAlive != never && limits.KeepAliveMethod != "" {
		c.keepAlive, c.keepAliveMethod = limits.KeepAlive, limits.KeepAliveMethod
		c.session.Limits.KeepAliveMethod = ""
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	// Owner: the client. End: Close, Shutdown or a PermanentError.
	go c.run()
	return c
}

// resolve returns a copy of o with defaults filled in, or why o is invalid.
func (o *ClientOptions) resolve() (*ClientOptions, error) {
	if o == nil || len(o.Addrs) == 0 {
		return nil, errors.New("ClientOptions.Addrs is empty: set the address of the peer")
	}
	if err := duration.Check("ClientOptions", o); err != nil {
		return nil, err
	}
	resolved := *o
	for _, d := range []struct {
		field     *time.Duration
		name      string
		byDefault time.Duration
	}{
		{&resolved.MinBackoff, "MinBackoff", 100 * time.Millisecond},
		{&resolved.MaxBackoff, "MaxBackoff", max(30*time.Second, o.MinBackoff)},
		{&resolved.StableAfter, "StableAfter", 10 * time.Second},
		{&resolved.ConnectTimeout, "ConnectTimeout", 30 * time.Second},
	} {
		switch {
		case *d.field < 0:
			return nil, fmt.Errorf("ClientOptions.%s is %v: it cannot be switched off", d.name, *d.field)
		case *d.field == 0:
			*d.field = d.byDefault
		}
	}
	if resolved.MinBackoff > resolved.MaxBackoff {
		return nil, fmt.Errorf("ClientOptions.MinBackoff is %v, over MaxBackoff, %v", resolved.MinBackoff, resolved.MaxBackoff)
	}
	resolved.MaxWaiting = bounded.LimitOr(o.MaxWaiting, 1000)
	if resolved.MaxRetries = max(o.MaxRetries, 0); o.MaxRetries == 0 {
		resolved.MaxRetries = 2
	}
	if o.Connect == nil {
		resolved.Connect = Dial
		for i, addr := range o.Addrs {
			if _, _, _, err := splitAddr(addr); err != nil {
				return nil, fmt.Errorf("ClientOptions.Addrs[%d]: %w (other addresses need ClientOptions.Connect)", i, err)
			}
		}
	}
	return &resolved, nil
}

// Client is a [Caller] over sessions that come and go. When a session ends, the client
// makes another, subscribes again, and repeats the calls that may be repeated. All methods
// may be called from any goroutine.
//
// # What is repeated
//
// A call ends once: with the reply, or with an error that says whether the peer may have
// carried it out. What happens to an attempt decides:
//
//	the attempt                                 idempotent  not idempotent        counts
//	waits, or its session takes no more calls   again       again                 no
//	queued, and its session ends unwritten      again       again                 no
//	written, and its session ends               again       *ConnectionError [1]  yes
//	refused as not started ([Error.NotStarted]) again [2]   again [2]             yes
//	refused, because the peer shuts down        again [3]   again [3]             yes
//	refused for its cost (-101)                 the *Error  the *Error [4]        –
//	any other reply, -102 without "not started" the reply   the reply             –
//	the context or the time ends                its cause   its cause [5]         –
//	Future.Cancel, Close of the client          the error   the error             –
//
//	[1] with Written set: the peer may have carried out the call.
//	[2] on the same session after a backoff, or on the next.
//	[3] on the next session: with the next address at once, or with the only address after a
//	    backoff. The session has Limits.RequestTimeout for the other calls.
//	[4] The address waits for the RetryAfter of the CostError.
//	[5] If the call was waiting, the error also matches ErrNotConnected, and wraps that of
//	    the last attempt, or why there is no session.
//
// Idempotent is what ClientOptions.Idempotent says. "again" means on the next session, as
// soon as it is ready, within the context of the call. After MaxRetries repetitions that
// count, the error is that of the last attempt. If any attempt was written and had no
// reply, the error is a [*ConnectionError] with Written set.
//
// If the context has no deadline, Limits.RequestTimeout bounds a first attempt that need
// not wait, and begins anew with the first wait for a session. From there, it bounds the
// rest of the call: all waits and attempts together.
//
//   - A member of a batch is treated as a single call. What is sent again of a batch is a
//     shorter batch. Notifications of a batch are sent again only with an unwritten batch.
//   - A notification is sent at most once. If its session ends before the writing, it is sent
//     on the next, in the same version of JSON-RPC. Otherwise it is not sent again, and
//     nothing reports whether it has arrived.
//   - A subscribing call may always be repeated. See "Streams" below.
//   - A [CallProgress] is treated as a call. It is not idempotent once progress has arrived.
//
// Messages that wait together are sent in the order in which they left before, and before
// later messages. Beyond that, there is no order across a reconnection. Params are encoded
// before Go returns, as on a session.
//
// Options.OnCall sees each attempt, with its number in OutgoingCall.Attempt. If a call of
// Go waits for a session, or is repeated, OutgoingCall.Params are encoded, and the functions
// may run on a goroutine of the client, where a panic ends the program. Messages behind a
// call that has waited wait for the functions. Future.Wait does not wait for the done
// functions of earlier attempts. The subscribing call of a stream on a further session is a
// new call: Attempt is 1, and context and goroutine are those of the client.
//
// # Sessions
//
// A new session is ready when OnConnect has returned. Then the subscribing calls leave, in
// the order of the subscriptions, and then what waits. When a session takes no more calls,
// because the connection has ended, or the peer has finished sending, the client connects
// to the next address after a backoff. A peer that shuts down says so, by refusing calls or
// by the close code 1001 or 1012 of a WebSocket. Then the next address is tried at once,
// but each address only once without a backoff. For another transport, the error of its
// connection can say so by a method GoingAway() bool.
//
// # Keep-alive
//
// TCP's keep-alive is on by default: it notices a peer whose machine or network is gone.
// It does not notice a program that hangs, or a proxy that has lost the peer and goes on
// to acknowledge bytes. With Limits.KeepAliveMethod, the client calls the method after
// KeepAlive (60 s) without input from the peer. Any reply is a sign of life, also an
// error, and so is a part of a message. After another KeepAlive without input, the session
// ends with [ErrUnreachable], so at the latest three times KeepAlive after the peer has
// vanished. As long as the peer does not even read the request, Limits.SendTimeout applies
// instead. A server that handles requests one by one must be able to answer in that time.
// The sessions of a Client do not send the method as a notification. WebSockets send pings
// of their own, each 30 s: see the package websocket.
//
// # Streams
//
// A [Stream] of [Subscribe] on a client outlives sessions. On each new session the client
// makes the subscribing call again, with the params of the first. Values of the time
// between two sessions are lost, and the reader is told by Subscription.OnGap. The id of
// the subscription may change. If the peer refuses the call, the stream ends with that
// error, except that a refusal as not started, or a call without a reply within
// Limits.RequestTimeout, is repeated, MaxRetries times. Values that
// wait to be read stay; the values of at most two sessions wait, each within the limits of
// the subscription.
//
// # What belongs to a session
//
// A [Proxy] in a result is a service of one session, and fails after its end. [StreamOf] and
// CallProgress use the present session. A stream of StreamOf ends with its session, since
// the peer has made the id there.
type Client struct {
	clientConfig
	ready atomic.Pointer[clientSession] // takes calls directly; nil without a session, and while messages wait

	addrs  clientAddrs // the connecting goroutine's
	number uint64      // of the last session; the connecting goroutine's

	mu lockowner.Mutex // guards the fields below; a leaf, except for locks of timers and channels
	clientStatus
	queue clientQueue
}

// clientConfig holds the fields of a Client that do not change.
type clientConfig struct {
	options         *ClientOptions // resolved
	session         Options        // for Connect
	logger          *slog.Logger
	hooks           *callHooks
	codec           Codec         // of params that are kept
	requestTimeout  time.Duration // Limits.RequestTimeout
	keepAlive       time.Duration
	keepAliveMethod string // "" without probes
	ctx             context.Context
	cancel          context.CancelFunc // called at the end
	wake            chan struct{}      // makes the connecting goroutine look; one slot
	done            chan struct{}      // closed when the client is over
}

// clientStatus is what Client.mu guards, beside the queue.
type clientStatus struct {
	latest    *clientSession // the last session that was ready
	published uint64         // number of the last session that has taken messages directly
	current   *clientSession // nil without a session
	state     ClientState
	reason    error                // why there is no session
	endErr    error                // a *clientClosedError; nil before the end
	draining  bool                 // Shutdown was called
	drained   []chan struct{}      // closed when no message waits
	reconnect bool                 // Reconnect was called
	over      bool                 // done is closed
	active    int                  // goroutines and sessions that Done waits for
	holds     map[string]time.Time // when an address may be tried again
	changes   []stateChange        // for OnState
	reporting bool                 // a goroutine runs reportStates
	returned  []returnedCall       // of Go, to be judged
	judging   bool                 // a goroutine runs judgeReturned
	streams   []*clientStream      // in the order of Subscribe
}

var _ Caller = (*Client)(nil)

// Call calls method and waits for the reply, as [Session.Call] does. The errors are those
// of Session.Call, and [ErrNotConnected].
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	mustHaveContext("Client.Call", ctx)
	if cs := c.ready.Load(); cs != nil {
		err := cs.session.call(ctx, method, params, result, 1, nil)
		if err == nil || !mayGoAgain(err) {
			return err
		}
		return c.callAgain(ctx, cs, err, method, params, result)
	}
	return c.callAgain(ctx, nil, nil, method, params, result)
}

// Go calls method and returns a future, as [Session.Go] does. Without a session, Go returns
// at once, and the call waits.
func (c *Client) Go(ctx context.Context, method string, params any) *Future {
	mustHaveContext("Client.Go", ctx)
	return c.startCall(ctx, method, params)
}

// Notify sends a notification, as [Session.Notify] does. Without a session, Notify waits
// for one. A notification is sent at most once: if its session ends before the writing, the
// notification leaves on the next session, and otherwise not again.
func (c *Client) Notify(ctx context.Context, method string, params any) error {
	mustHaveContext("Client.Notify", ctx)
	if cs := c.ready.Load(); cs != nil {
		err := cs.session.notifyCaller(ctx, fromClient, method, params, 1)
		if err == nil || !mayGoAgain(err) {
			return err
		}
		return c.notifyAgain(ctx, cs, err, method, params)
	}
	return c.notifyAgain(ctx, nil, nil, method, params)
}

// SendBatch sends b and waits for the replies, as [Session.SendBatch] does. Each member has
// the outcome that a single call would have. The members to be repeated are sent as a
// shorter batch. A batch that has failed, also with [ErrNotConnected], counts as sent: to
// try again, build another.
func (c *Client) SendBatch(ctx context.Context, b *Batch) error {
	mustHaveContext("Client.SendBatch", ctx)
	if b.isEmpty() {
		return nil
	}
	return c.sendBatch(ctx, b)
}

// Session returns the present session, and waits until there is one, also with FailFast:
// within ctx, or within Limits.RequestTimeout if ctx has no deadline. Calls on the session
// itself are not repeated.
func (c *Client) Session(ctx context.Context) (*Session, error) {
	mustHaveContext("Client.Session", ctx)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	var s *Session
	err := c.repeat(ctx, &repetition{mustWait: true}, func(_ context.Context, cs *clientSession, _ *sendTurn) (bool, error) {
		s = cs.session
		return false, nil
	})
	return s, err
}

// State returns the state of the client.
func (c *Client) State() ClientState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Reconnect makes the client connect to the next address, at once. The calls of the present
// session have Limits.RequestTimeout to finish there; new calls wait for the next session.
// Streams leave the session at once: values under way are lost. During an attempt,
// Reconnect does nothing.
func (c *Client) Reconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reconnect = true
	c.wakeUp()
}

// Shutdown ends the client in order. New calls fail with [ErrClosed], except calls that a
// running handler of the session makes with its context. Shutdown waits for the calls under
// way, also for those that wait for a session, and then shuts the session down. A call whose
// session is lost meanwhile may fail in place of being repeated. If ctx ends first, Shutdown
// calls Close and returns the error of ctx.
//
// A handler of a session of the client must not call Shutdown: as with [Session.Shutdown],
// the error is [ErrInHandler]. So is the error with a context of OnConnect or
// Options.OnCall. OnState must not call Shutdown either, and nothing detects that deadlock:
// use Close. The streams end with a [*ConnectionError] that matches ErrClosed.
func (c *Client) Shutdown(ctx context.Context) error {
	mustHaveContext("Client.Shutdown", ctx)
	if c.sessionOfHandler(ctx) != nil || ctx.Value(sessionKey{c}) != nil {
		return ErrInHandler
	}
	return c.shutdown(ctx)
}

// Close ends the client without waiting for the peer. All calls and streams fail. Close
// does not wait for the end of functions such as OnConnect: see [Client.Done].
func (c *Client) Close() error {
	c.end(errClientClosed)
	return nil
}

// Done returns a channel that is closed when the client is over: its sessions are, and the
// functions of ClientOptions have returned.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns the error of calls after the end of the client, or nil before. The error
// matches [ErrClosed], and wraps the [*PermanentError] that has ended the client.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endErr
}
