package rpcx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"example.com/rpcx/internal/duration"
)

// Options holds the settings of a session. The zero value, and a nil *Options, mean the
// defaults. A session copies its Options, so one value may be used for many sessions.
type Options struct {
	// Handler answers the peer's requests. If nil, each request is answered
	// CodeMethodNotFound.
	Handler Handler
	// Gate handles the requests and notifications before [Session.Admit], one at a time, in
	// order of arrival: a login, "initialize", "server.version". Default: none; all go to
	// Handler. The errors of Gate are answered, and the session goes on; ReplyAndDisconnect
	// ends the session. The members of a batch pass the gate one by one; behind a
	// ReplyAndDisconnect they are refused. A refused login costs the peer nothing, unless the
	// [Error] has a Cost.
	//
	// Behind the handler's message, Limits.GateQueue messages wait; then reading pauses. If
	// reading has to go on, because the handler waits for its peer, a message over the limit
	// ends the session with [ErrNotAdmitted]; so does Limits.GateTimeout. Replies and
	// cancellations do not wait. While Gate calls the peer, requests of the peer wait. Calls
	// to the peer, also from other goroutines, do not need Admit.
	Gate Handler
	// Middleware is wrapped around Handler, the first outermost: once for a session, or once
	// for all sessions of a Server. Gate is inside Middleware, too.
	Middleware []func(Handler) Handler

	// Protocol gives messages their meaning. Default JSONRPCv2.
	Protocol Protocol
	// Framer keeps messages apart in the byte stream. Default NewlineFramer{}.
	Framer Framer
	// Codec encodes and decodes params and results. Default: the protocol's own codec, which
	// is JSON for JSON-RPC. The session checks the output of any other codec before sending.
	Codec Codec

	// StrictParams refuses a request or notification with "params":null, and in JSON-RPC 1.0
	// a request without params, with CodeInvalidParams, as aiorpcX does. Default: a request
	// without arguments.
	StrictParams bool
	// IgnoreUnknownParams lets the handlers of [Func] ignore unknown named params, as if "..."
	// were the last name of each. By default the handlers refuse them with CodeInvalidParams.
	IgnoreUnknownParams bool
	// FirstID is the id of the first call; the ids of later calls count up. (A call that fails
	// before sending takes a number, too.) Default 0. For a peer that takes 0 for no id, set 1.
	// A peer that reads numbers as floats needs ids below 1<<53.
	FirstID uint64

	// Order is the order in which requests are handled. Default Concurrent.
	Order Order
	// Cancellation is how the two sides cancel requests. Default: not at all.
	Cancellation *Cancellation
	// OnCall holds functions that see each call and notification of this side before the
	// encoding, and are told the end; see [OutgoingCall]. Sessions and an [Exchange] have such
	// functions. Default: none.
	OnCall []func(ctx context.Context, c *OutgoingCall) (next context.Context, done func(err error), err error)
	// OnBatchCall is OnCall for a batch as a whole; see [OutgoingCall]. On an Exchange, s is
	// nil. Default: none.
	OnBatchCall []func(ctx context.Context, s *Session, b *Batch) (next context.Context, done func(err error))
	// Meta says where messages carry data about a request, for OutgoingCall.Meta and
	// Request.Meta. Default: nowhere.
	Meta *Meta
	// Correlations are the forms of subscriptions and progress that the session speaks. The
	// notifications of their Methods go to [Subscribe], [StreamOf] and [CallProgress] instead of
	// Handler, unless they carry no id. [Progress] uses the first form that finds a token. A
	// stream of another form needs no entry: its Methods count from the first such stream on.
	// The handlers of [Func] ignore the tokens. Default: none.
	Correlations []*Correlation
	// Objects lets both sides pass services as arguments and results, at any depth: a *Router,
	// or a pointer given to [Expose]. The peer receives a *Proxy, also in place of an any, and
	// can call the service. The service must be in the tree of Handler, a *Router. With a
	// [ServiceProtocol], Objects is always on.
	Objects bool
	// Types holds further types with values to be sent as objects, like services: with Objects,
	// or a ServiceProtocol. Both sides need the same types in the same order. No type may be
	// given twice.
	Types []Type

	// Role is the role of the session on its connection. Default: server for a session of a
	// Server and for the second session of a Pipe, otherwise client.
	Role Role
	// Limits bounds the memory, goroutines and time of the session.
	Limits Limits
	// ExtraCost returns an addition to the session's cost, which may be negative. The session
	// calls ExtraCost when it applies the cost. See [Session.UpdateCost].
	ExtraCost func(s *Session) float64
	// OnExcessiveCost is called just before a session is ended for its cost.
	OnExcessiveCost func(s *Session)

	// Logger receives errors without a caller: failures and panics of handlers, notifications
	// that fail with an [*Error], dropped messages. Default: silent. Input of the peer is only
	// in attributes, never in the message. The records that a peer causes are limited: see
	// "Logs and counters" in docs/behaviour.md. All records are written before Done is closed.
	Logger *slog.Logger
	// Trace has functions to be called on events. Default: none.
	Trace *Trace
	// Context makes the context of each handler, Middleware included. It is called with the
	// context that the handler would have, just before the handler and on its goroutine.
	// The result must derive from ctx. If there is nothing to add, Context returns ctx. A
	// result that does not derive from ctx, and a panic, have the consequences of a
	// handler's panic. What has to be released can be released by [context.AfterFunc] or
	// [AfterReply]. Default: ctx.
	Context func(ctx context.Context, req *Request) context.Context

	objects *objectTypes // nil if there are none; set by resolveOptions
	hooks   *callHooks   // set by resolveOptions
}

// Order is the order in which a session handles its peer's requests. A session starts
// requests in the order of their arrival, the members of a batch in their order. Replies to
// the session's own calls do not wait for handlers, unless reading pauses.
//
// A reply can overtake a notification: when a call returns, earlier notifications of the
// peer may still wait for a handler. A notification after the reply can be handled before
// the call returns. Replies leave in the order in which handlers return.
//
// Messages leave in order if Go, Notify or GoBatch has returned before the next is sent,
// and messages sent by a handler before its reply. Messages of other goroutines have no
// order with the reply; see [AfterReply]. "Order" in docs/behaviour.md has recipes.
type Order uint8

const (
	// Concurrent runs up to Limits.Concurrency handlers at once.
	Concurrent Order = iota
	// NotificationsFirst finishes a notification before any later request or notification
	// starts. Language servers, for example, need NotificationsFirst.
	NotificationsFirst
	// Sequential runs a single handler at a time. A handler can rely on the effects of earlier
	// requests, a login for example. While a handler calls back, no other handler can run.
	Sequential
)

// Role is the role of a session on its connection.
type Role uint8

const (
	RoleDefault Role = iota // as Options.Role says
	RoleClient
	RoleServer
)

// Limits bounds the resources of a session. The zero value of a field means the default,
// and a negative value switches the limit off. Errors and log records name the exceeded
// limit.
//
//	field                default          when the limit is met
//	Concurrency          20               requests wait
//	Queue, QueueBytes    4,096, 8 MiB     reading pauses
//	Outbox               4 MiB            callers and handlers wait
//	Batch                10,000           the batch is refused as a whole
//	Response             the framer's     the reply is replaced by an error
//	RequestTimeout       30 s             the call fails with ErrTimeout
//	ProcessingTimeout    30 s             the request is answered CodeServerBusy
//	SendTimeout          20 s             the session ends with ErrSlowPeer
//	CloseTimeout         30 s             unsent messages are dropped
//	ExitTimeout          5 s              a program is sent SIGTERM
//	KillTimeout          2 s              the program is sent SIGKILL
//	HalfClose            5 s over TCP     the session ends after its peer's input
//	Outgoing             50, up to 250    calls wait for a slot
//	IdleTimeout          none             the session ends with ErrIdle
//	KeepAlive            60 s, TCP 15 s   the connection is probed
//	CostSoft             2,000            requests are delayed
//	CostHard             10,000           the session ends with a *CostError
//	PeerErrors           10,000 a second  a client ends with ErrFaultyPeer
//	GateQueue            16               reading pauses, before Session.Admit
//	GateQueueBytes       64 KiB           the same
//	GateTimeout          10 s, servers    the session ends with ErrNotAdmitted
//
// A duration between 0 and a millisecond lacks its unit (30 instead of 30*time.Second) and
// is refused: Dial and Serve return an error, and functions without an error panic.
//
// In the source, docs/limits.md has the details, other limits, bursts, cost, slow peers, and
// proxies in front of a server.
type Limits struct {
	// Concurrency is the number of handlers running at once. Default 20. Cost lowers it.
	Concurrency int

	// Queue is the number of requests waiting for a handler, and QueueBytes the total size.
	// Defaults 4,096 and 8 MiB. A batch is one request, with 256 bytes more for each member.
	// Reading pauses then, and before, if requests would wait too long. If reading has to go
	// on, a request is answered CodeServerBusy, at no cost, and a notification dropped.
	Queue      int
	QueueBytes int

	// GateQueue and GateQueueBytes take the place of Queue and QueueBytes before
	// [Session.Admit]. Defaults 16 and 64 KiB. One message of any size has room. Reading pauses
	// then; if reading has to go on, the session ends with ErrNotAdmitted.
	GateQueue      int
	GateQueueBytes int
	// GateTimeout bounds the time from the start of a session with Options.Gate to
	// [Session.Admit]. Then the session ends with ErrNotAdmitted, even while a handler runs.
	// Default for role server: Server.HandshakeTimeout, 10 s. For role client the default is
	// none.
	GateTimeout time.Duration

	// Outbox is the number of bytes waiting to be written to the peer. Default 4 MiB. A
	// single message of any size may wait alone. If Outbox is full, callers and handlers wait.
	Outbox int

	// Batch is the number of members of a batch, notifications included. Default 10,000. A
	// longer batch from the peer is refused as a whole, with a single error. A longer batch of our
	// own is not sent, because the peer presumably has the same limit.
	Batch int

	// Response is the size of a reply in bytes; in a batch, the sum over the replies, with 2
	// bytes more for each. Default, and at most: the largest message of the session's framer
	// (see [SizeLimiter]), or [DefaultMaxSize] if unknown. The replies in unfinished
	// batches together may have the larger of Response and Outbox. A larger reply is replaced
	// by an error with CodeInvalidRequest.
	Response int

	// RequestTimeout bounds a call whose context has no deadline, from the wait for a slot or
	// for room to the reply. Default 30 s. The error is ErrTimeout. RequestTimeout is no upper
	// limit: the deadline of a context counts instead, shorter or longer.
	RequestTimeout time.Duration

	// ProcessingTimeout bounds a request from its arrival, waiting included. Default 30 s. Then
	// the request is answered CodeServerBusy, and the context of its handler ends; a later
	// result is dropped. If late handlers take up Concurrency, the log has the methods.
	ProcessingTimeout time.Duration

	// SendTimeout bounds a write without progress: the time in which the peer must read 16 KiB.
	// (For a MessageConn: 16 KiB and a message; for a PartWriter: 16 KiB and a part.) Default
	// 20 s. Then the session ends with ErrSlowPeer. For the resulting speeds see docs/limits.md.
	// If a server is short of memory, SendTimeout also bounds the arrival of large messages.
	SendTimeout time.Duration

	// CloseTimeout bounds the sending of queued messages after ReplyAndDisconnect, or at the
	// end for cost. Default 30 s.
	CloseTimeout time.Duration

	// ExitTimeout is the time from the end of its input until a program of [Command], and its
	// process group, must have ended. Default cmd.WaitDelay if set, otherwise 5 s. Then the
	// session sends SIGTERM to the group.
	ExitTimeout time.Duration

	// KillTimeout is the time from SIGTERM until the program and the group must have ended.
	// Default cmd.WaitDelay if set, otherwise 2 s. Then the session sends SIGKILL.
	KillTimeout time.Duration

	// HalfClose bounds the handling and answering of input after the peer has finished sending
	// (closed its half of the connection). Default: ProcessingTimeout and a second for unix
	// sockets, pipes and programs; 5 s for TCP and TLS, where a dead peer looks the same. A
	// connection without halves, for example a WebSocket, ends at once, and so does any
	// connection if HalfClose is negative.
	HalfClose time.Duration

	// Outgoing is the initial number of our calls waiting for a reply. Default 50. A
	// batch is one call. Further calls wait in order, except calls of a running handler. After
	// every 30 replies the session adapts the number so that replies take ResponseTime (default
	// 3 s), up to OutgoingMax (default 250), as in aiorpcX. The number falls, to no less than a
	// fifth of Outgoing, only under two conditions: calls have reached the number, and replies
	// take more than twice as long as with fewer calls.
	Outgoing     int
	OutgoingMax  int
	ResponseTime time.Duration

	// IdleTimeout bounds a silence in both directions while no handler runs and no call is
	// pending. Default: none. Then the session ends with ErrIdle.
	IdleTimeout time.Duration
	// KeepAlive is the silence after which the connection is probed: by a notification, if
	// KeepAliveMethod is set (default 60 s), otherwise by TCP (default as in package net:
	// 15 s). The peer needs a handler for the method: without a handler each probe is an
	// error, with a cost. IdleTimeout ignores probes of this side. Over TCP the session ends
	// with ErrUnreachable after three times KeepAlive without an acknowledgement; while
	// something of ours is being sent, only on Linux. A [Client] calls KeepAliveMethod
	// instead, and needs a reply: see "Keep-alive" there.
	KeepAlive       time.Duration
	KeepAliveMethod string

	// CostOff switches cost off. The use of a session has a cost, which decays with time:
	// sessions of role server are limited by cost, and sessions of role client only if
	// CostHard is set. The formulas and numbers are aiorpcX's.
	CostOff bool
	// CostSoft is the cost above which requests are delayed, and fewer handlers run at once,
	// gradually up to CostHard. Default 2,000, or a fifth of CostHard if CostHard is at most
	// 2,000. A negative value: neither, up to CostHard.
	CostSoft float64
	// CostHard is the cost at which requests are answered CodeExcessiveResourceUsage and the
	// session ends with a [*CostError]. Default 10,000. If CostHard is not above CostSoft,
	// nothing is limited, as in aiorpcX, and the log says so.
	CostHard float64
	// CostDecay is the amount by which a cost falls each second. Default CostHard / 3,600.
	CostDecay float64
	// CostPerByte is the cost of a byte, sent or received. Default 1/100,000.
	CostPerByte float64
	// CostError is the cost of an error of the peer's, beside the Cost of the [Error]. For a
	// message without valid JSON, ten times as much is added. Default 100.
	CostError float64
	// CostHandlerError is the cost of an error of the handler's, beside the Cost of the [Error];
	// also of a reply over Response, and of a request that was begun and not finished within
	// ProcessingTimeout. Default 0, so that an application's errors do not end its sessions.
	// The original aiorpcX has 100.
	CostHandlerError float64
	// CostDelay is the delay of a request at CostHard. Default 2 s.
	CostDelay time.Duration
	// HideCost keeps the CostError from the peer. By default, if its RetryAfter is above 0, its
	// fields are the data of the error in the replies, so that a [Client] knows how long to
	// wait. The data decodes to a CostError. The original aiorpcX sends no data. Over HTTP,
	// the header Retry-After is sent in any case.
	HideCost bool

	// PeerErrors is the number of errors a second allowed to the peer, on average over ten
	// seconds. Bad messages and unexpected replies count, and every 10,000 bytes of these once
	// more. A request or notification with a wrong method or arguments
	// counts a tenth. Then the session ends with ErrFaultyPeer. Default 10,000 for role client,
	// where cost is not counted: no honest server makes as many. For role server the default is none.
	PeerErrors int

	// Group returns the name of the group whose members share one budget and Server.MaxGroup;
	// "" means no group. Default: no groups. See [GroupBySubnet]. A Server calls Group when a
	// session starts. Group must not wait: no other connection is accepted meanwhile. For the
	// cost of groups see docs/limits.md.
	Group func(*Session) string
	// Exempt reports whether the cost of a session is not counted. The session calls Exempt
	// when it starts. Default: no session is exempt.
	Exempt func(*Session) bool
}

const (
	// reserve is the number of bytes allowed beyond Limits.Outbox for the reader and the
	// timer, which cannot wait.
	reserve = 256 << 10
	// closeGrace bounds the writing of queued messages after Close.
	closeGrace = time.Second
	// outgoingFloor divides Limits.Outgoing: the quotient is the lowest limit on pending calls.
	outgoingFloor = 5
	// errorSeconds is the number of seconds over which PeerErrors is an average.
	errorSeconds = 10
	// maxAbandoned is the number of abandoned calls and batches in a session's memory, for the
	// recognition of late replies.
	maxAbandoned = 1024

	never = time.Duration(math.MaxInt64)
)

// Stats holds counters of a session, and what the session holds now.
type Stats struct {
	BytesSent, BytesReceived       uint64 // framing included (not in what a MessageConn sends)
	MessagesSent, MessagesReceived uint64 // a batch is one message

	RequestsReceived     uint64  // handled requests and notifications, members of batches included
	NotificationsDropped uint64  // queue full, time over, or session ending; not unread ones
	News                 uint64  // notifications for streams and CallProgress, which no handler gets
	Unclaimed            uint64  // of News, those whose id was unknown for a second, or that were too many
	Errors               uint64  // protocol and framing errors; requests and notifications refused or failed
	LateReplies          uint64  // to abandoned calls
	UnexpectedReplies    uint64  // without a call
	LateResults          uint64  // requests and notifications whose handlers returned too late, after ProcessingTimeout say
	Pending              int     // our calls waiting for a reply
	Queued, QueuedBytes  int     // requests waiting for a handler
	Running              int     // running handlers
	Concurrency          int     // limit on running handlers
	Outgoing             int     // limit on Pending
	Cost                 float64 // see Limits.CostHard; 0 if cost is not counted
	OutboxBytes          int     // waiting to be written

	Pauses uint64        // pauses of reading, because requests, or progress, arrive faster than they are handled
	Paused time.Duration // sum of the pauses, a current pause included

	EventsDropped uint64 // events without a call of Trace, because earlier calls were too slow
}

// noMethods is the handler of sessions without a handler.
var noMethods = NewRouter()

// mustResolveOptions is resolveOptions for callers without an error result: it panics.
func mustResolveOptions(opts *Options) *Options {
	o, err := resolveOptions(opts)
	if err != nil {
		panic("rpcx: " + err.Error())
	}
	return o
}

// resolveOptions returns a copy of opts with defaults filled in, or why opts is invalid.
func resolveOptions(opts *Options) (*Options, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Protocol == nil {
		o.Protocol = JSONRPCv2
	}
	if o.Framer == nil {
		o.Framer = NewlineFramer{}
	}
	if o.Codec == nil {
		o.Codec = o.Protocol.Codec()
	}
	if o.Handler == nil {
		o.Handler = noMethods
	}
	if isNilHandler(o.Handler) {
		return nil, fmt.Errorf("Options.Handler is a %T that is nil", o.Handler)
	}
	if o.Gate != nil && isNilHandler(o.Gate) {
		return nil, fmt.Errorf("Options.Gate is a %T that is nil", o.Gate)
	}
	if o.Cancellation != nil && o.Cancellation.Method == "" {
		return nil, errors.New("Options.Cancellation has no Method")
	}
	if err := duration.Check("Limits", &o.Limits); err != nil {
		return nil, err
	}
	if err := o.resolveCallOptions(); err != nil {
		return nil, err
	}
	if err := o.resolveCorrelations(); err != nil {
		return nil, err
	}
	o.objects = nil
	if err := checkTypes(o.Types); err != nil {
		return nil, err
	}
	if _, service := o.Protocol.(ServiceProtocol); service || o.Objects {
		o.objects = newObjectTypes(o.Handler, o.Types, o.Codec)
	} else if len(o.Types) > 0 {
		return nil, errors.New("Options.Types without Options.Objects: set that, too, at both ends")
	}
	if o.Gate != nil {
		o.Handler = &gateSwitch{o.Gate, o.Handler}
	}
	for i := len(o.Middleware) - 1; i >= 0; i-- {
		if o.Middleware[i] == nil {
			return nil, fmt.Errorf("Options.Middleware[%d] is nil", i)
		}
		if o.Handler = o.Middleware[i](o.Handler); o.Handler == nil || isNilHandler(o.Handler) {
			return nil, fmt.Errorf("Options.Middleware[%d] has returned a nil Handler", i)
		}
	}
	o.Middleware = nil
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Trace == nil {
		o.Trace = noTrace
	} else {
		trace := *o.Trace
		o.Trace = &trace
	}
	return &o, nil
}

// isNilHandler reports whether h is a nil HandlerFunc or a nil *Router.
func isNilHandler(h Handler) bool {
	switch h := h.(type) {
	case HandlerFunc:
		return h == nil
	case *Router:
		return h == nil
	}
	return false
}

// after returns the time d after now, or never if d is never.
func after(now, d time.Duration) time.Duration {
	if d > never-now {
		return never
	}
	return now + d
}

// durationOr returns the first duration that is set. A negative d means never, and a
// negative byDefault is not set.
func durationOr(d, byDefault, otherwise time.Duration) time.Duration {
	switch {
	case d < 0:
		return never
	case d > 0:
		return d
	case byDefault > 0:
		return byDefault
	}
	return otherwise
}

// Call calls method through c, a *Session for example, and returns the result as a T. See
// [Session.Call].
func Call[T any](ctx context.Context, c Caller, method string, params any) (T, error) {
	var result T
	err := c.Call(ctx, method, params, &result)
	return result, err
}

// Dial connects to addr and starts a session on the connection, as [Dialer.Dial] of a zero
// Dialer. ctx bounds only the dialling.
func Dial(ctx context.Context, addr string, opts *Options) (*Session, error) {
	var d Dialer
	return d.Dial(ctx, addr, opts)
}
