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

// Options are how a session works. The zero value, and a nil *Options, are the
// defaults. A session copies them, so they may be used for any number of
// sessions, at once or one after the other.
type Options struct {
	// Handler answers the peer's requests. If nil, each is answered
	// CodeMethodNotFound.
	Handler Handler
	// Middleware is wrapped around Handler, the first outermost.
	Middleware []func(Handler) Handler

	// Protocol is what the messages mean. Default JSONRPCv2.
	Protocol Protocol
	// Framer keeps messages apart in the byte stream. Default NewlineFramer{}.
	Framer Framer
	// Codec encodes and decodes params and results. Default: the protocol's own,
	// which is JSON for JSON-RPC. The output of any other codec is checked to be
	// valid before it is sent.
	Codec Codec

	// StrictParams has a request or notification with "params":null, and in JSON-RPC
	// 1.0 one without params, refused with CodeInvalidParams, as aiorpcX does. By
	// default it is a request without arguments.
	StrictParams bool
	// IgnoreUnknownParams has the handlers of [Func] leave out named params that they
	// have no parameter for, as if "..." were the last name of each. By default they
	// refuse them with CodeInvalidParams.
	IgnoreUnknownParams bool
	// FirstID is the id of the first call, from which the others count up. (Calls that
	// fail before they are sent take a number, too.) Default 0,
	// which some peers take for no id at all: they are called from 1 on. A peer that
	// reads numbers as floats needs ids below 1<<53.
	FirstID uint64

	// Order is in what order requests are handled. Default Concurrent.
	Order Order
	// Cancellation is how the two sides cancel requests. Default: not at all.
	Cancellation *Cancellation
	// Objects has services sent and received as references, by which the peer can
	// call them back: a *Router, or what [Expose] was given (if it is a pointer), is
	// an argument or a result like any other, at any depth. It has to hang in the tree
	// of Handler, which then is a *Router. The peer receives a *Proxy, also where it
	// takes an any. On a session whose protocol is a [ServiceProtocol] it is always so.
	Objects bool
	// Types are further types whose values are sent as objects, where services are:
	// with Objects, or a ServiceProtocol. Both sides need the same, in the same order.
	// None may be given twice.
	Types []Type

	// Role is which end of the connection the session is. By default a session
	// that a Server accepted is a server, and so is the second of a Pipe; any other
	// is a client.
	Role Role
	// Limits bound what the session may use.
	Limits Limits
	// ExtraCost returns what is added to a session's cost when what follows from
	// it is calculated; it may be negative. See [Session.UpdateCost].
	ExtraCost func(s *Session) float64
	// OnExcessiveCost is called just before a session is ended for its cost.
	OnExcessiveCost func(s *Session)

	// Logger is told of what is wrong but has no caller to return an error to:
	// handlers that fail or panic, notifications that fail with an [*Error],
	// messages that are dropped. Each record has the peer's address, if it has one,
	// or the program that [Command] has started. Default: silent. What a peer sent is
	// only ever in attributes, never in the message, and there at most 64 bytes of a
	// text and its length (512 bytes of an error's text). What a peer causes takes up
	// at most 32 KiB for each session, and two bytes for each byte received; half of
	// that is kept for level Error. What was left out is counted in a record. A session
	// writes its records on a goroutine of its own, all of them before Done is closed.
	Logger *slog.Logger
	// Trace is told of what happens. Default: nobody.
	Trace *Trace

	objects *objectTypes // nil if there are none; set when the options are resolved
}

// Order is in what order a session handles what its peer asks. Requests are
// always taken in the order of their arrival, and replies to the session's own
// calls are never held up.
type Order uint8

const (
	// Concurrent: up to Limits.Concurrency handlers run at once.
	Concurrent Order = iota
	// NotificationsFirst: what follows a notification waits until it has been
	// handled. It is for language servers, among others.
	NotificationsFirst
	// Sequential: one at a time. A handler can rely on the effects of all requests
	// before its own, a login for example.
	Sequential
)

// Role is which end of a connection a session is.
type Role uint8

const (
	RoleDefault Role = iota // as Options.Role says
	RoleClient
	RoleServer
)

// Limits bound what one session may use. The zero value of a field is its
// default, a negative value switches it off. A duration between 0 and a millisecond is
// refused: it is a number without its unit (30 instead of 30*time.Second).
type Limits struct {
	// Concurrency is how many handlers run at once. Default 20. Cost lowers it.
	Concurrency int

	// Queue and QueueBytes are how many requests, and of how many bytes
	// together, may wait for a handler. A batch is one request here, and each of
	// its members counts 256 bytes more. Defaults 4,096 and 8 MiB. Reading pauses
	// then, and before if they would wait too long. Where reading has to go on (see
	// the manual on bursts), a request beyond is answered CodeServerBusy, at no cost,
	// and a notification dropped and counted.
	Queue      int
	QueueBytes int

	// Outbox is how many bytes may wait to be written to the peer. Default
	// 4 MiB. One message of any size may wait in it alone. When it is full,
	// callers and handlers wait.
	Outbox int

	// Batch is how many members a batch may have, notifications included. Default
	// 10,000. A longer one from the peer is refused as a whole, with one error; one of
	// our own is not sent, since the peer's limit is taken to be the same.
	Batch int

	// Response is how many bytes a reply may have; in a batch, all its replies
	// together, with 2 bytes more for each. Default, and at most: the largest message
	// that the session's framer takes, see [SizeLimiter]; [DefaultMaxSize] if that
	// is not known. What waits in unfinished batches may have as many in all, or as
	// many as Outbox if that is more. A reply that is larger is replaced by an error
	// with CodeInvalidRequest.
	Response int

	// RequestTimeout is how long a call takes when its context has no deadline: from
	// when it waits for a slot or for room, if it does, to the reply. Default 30 s.
	// The error is ErrTimeout. It is no upper limit: a context with a deadline, be that
	// shorter or longer, counts instead.
	RequestTimeout time.Duration

	// ProcessingTimeout is how long a request may take from its arrival, waiting
	// included. Default 30 s. Then it is answered CodeServerBusy and its
	// handler's context ends; what the handler returns later is dropped. Once handlers
	// that go on all the same have all places of Concurrency, the log has their methods.
	ProcessingTimeout time.Duration

	// SendTimeout is how long a write may make no progress, that is, how long the
	// peer may take for 16 KiB (for a MessageConn, for that many and one message
	// more, or one part of it if the connection is a PartWriter). Default 20 s. Then the
	// session ends with ErrSlowPeer. How fast a peer has to read so is in the manual,
	// under Limits. A peer whose reading pauses takes as long as its handlers do: one whose
	// handlers get through less than that needs a longer SendTimeout at this end.
	// On a server that holds half of MaxQueuedBytes, 16 KiB of a message of more than
	// 64 KiB have to come in the same time, or the session ends with a FrameError.
	SendTimeout time.Duration

	// CloseTimeout is how long a session that is closed by ReplyAndDisconnect,
	// or for its cost, may take to send what is queued. Default 30 s.
	CloseTimeout time.Duration

	// ExitTimeout is how long a program that [Command] has started, and its process
	// group, may take to end once its input is closed. Default cmd.WaitDelay, or 5 s
	// if that is not set. Then the group is sent SIGTERM.
	ExitTimeout time.Duration

	// KillTimeout is how long a program, and its group, may take to end after
	// SIGTERM. Default cmd.WaitDelay, or 2 s if that is not set. Then the group is sent
	// SIGKILL.
	KillTimeout time.Duration

	// HalfClose is how long a session goes on when its peer has finished sending
	// (closed its half of the connection), to handle and answer what it had sent.
	// Default: ProcessingTimeout and a second more for unix sockets, pipes and
	// programs, 5 s for TCP and TLS, where a peer that is gone looks the same. A
	// connection that cannot be closed by halves, such as a WebSocket, ends at once, and
	// so does any other if HalfClose is negative.
	HalfClose time.Duration

	// Outgoing is how many of our calls wait for a reply at once, in the
	// beginning. Default 50. A batch is one. Others wait for their turn, in order;
	// those of a running handler do not. After every 30 replies the number is
	// changed so that they take ResponseTime (default 3 s), up to OutgoingMax
	// (default 250), as in aiorpcX. It is lowered only if it was reached and replies
	// take more than twice as long as when it was not, and not below a fifth of
	// Outgoing.
	Outgoing     int
	OutgoingMax  int
	ResponseTime time.Duration

	// IdleTimeout is how long nothing may pass in either direction while no
	// handler runs and no call is pending. Default: for ever. Then the session
	// ends with ErrIdle.
	IdleTimeout time.Duration
	// KeepAlive is after how long without anything passing the connection is
	// probed: by a notification if KeepAliveMethod names one (default 60 s; what
	// is sent so is no life for this side's IdleTimeout), otherwise by TCP
	// (default what package net does: 15 s). The peer should have a handler for
	// that method, or each probe is an error, with its cost. Over TCP the session ends
	// with ErrUnreachable if nothing is acknowledged for three times KeepAlive; where
	// something of ours is under way, that is only so on Linux.
	KeepAlive       time.Duration
	KeepAliveMethod string

	// What a session uses has a cost, which decays with time. Sessions of role
	// server are held to it; those of role client only if CostHard is set. The
	// formulas and numbers are aiorpcX's. CostOff switches all of it off.
	CostOff bool
	// CostSoft is the cost above which requests are delayed, and fewer of them
	// handled at once: the more, the nearer the cost is to CostHard. Default 2,000,
	// or a fifth of CostHard if that is no more. A negative value: neither, up to
	// CostHard.
	CostSoft float64
	// CostHard is the cost at which the session's requests are answered
	// CodeExcessiveResourceUsage and it ends with a [*CostError]. Default 10,000.
	// If it is not above CostSoft, nothing is limited, as in aiorpcX, and that is logged.
	CostHard float64
	// CostDecay is by how much a cost falls each second. Default CostHard / 3,600.
	CostDecay float64
	// CostPerByte is the cost of a byte, sent or received. Default 1/100,000.
	CostPerByte float64
	// CostError is the cost of an error, to which an Error's own Cost is added; a
	// message that is no JSON costs ten times as much in addition. Default 100.
	CostError float64
	// CostHandlerError is the cost of an error of the handler's, to which the Error's own
	// Cost is added, of a reply that is too large, and of a request that was begun and not
	// finished within ProcessingTimeout. Default 0: an application's errors must not end its sessions. In
	// aiorpcX it is 100.
	CostHandlerError float64
	// CostDelay is by how much a request is delayed at CostHard. Default 2 s.
	CostDelay time.Duration
	// CostData has the peer told what a CostError says, in the data of the error
	// that it is answered, which decodes to one.
	CostData bool

	// PeerErrors is how many errors a second the peer may make, as an average over ten
	// seconds: messages that are wrong, and replies to nothing that was asked, each 10,000
	// bytes of them once more. A request or notification whose method or arguments are
	// wrong counts a tenth. With more the
	// session ends with ErrFaultyPeer. Default 10,000 for role client, which is not held
	// to cost: no honest server gets there, and one that does would keep the client busy
	// for nothing. For role server the default is none.
	PeerErrors int

	// Group names the group whose members share one budget and
	// Server.MaxGroup; "" is none. It is called when a Server starts a session
	// (for others there is nobody to share with), and must not wait: no other
	// connection is accepted meanwhile. A group's cost is never more than
	// twice CostHard. A session that has not used more than CostSoft itself (a fifth of
	// CostHard, if that is negative) is held to its own cost alone, so that neighbours do
	// not end it; but one that begins when the group is over CostHard is answered
	// CodeExcessiveResourceUsage, and ends. Default: none. See [GroupBySubnet].
	Group func(*Session) string
	// Exempt reports whether a session's cost is not counted. It is called when
	// the session starts. Default: none is exempt.
	Exempt func(*Session) bool
}

const (
	// reserve is how much the reader and the timer, which cannot wait, may queue
	// beyond Limits.Outbox.
	reserve = 256 << 10
	// closeGrace is how long Close goes on writing what was queued.
	closeGrace = time.Second
	// outgoingFloor is into how many parts Limits.Outgoing is divided for the lowest
	// number of calls that may wait for a reply.
	outgoingFloor = 5
	// errorSeconds is over how many seconds PeerErrors is an average.
	errorSeconds = 10
	// maxAbandoned is how many calls and batches given up are remembered, to know late replies.
	maxAbandoned = 1024

	never = time.Duration(math.MaxInt64)
)

// Trace has functions that are called when something happens; any may be nil.
// They run on the goroutine that does it, or on one of their own, never on the
// one that reads the connection, and may call the session.
type Trace struct {
	// Connected: the session has started.
	Connected func(s *Session)
	// RequestSent: a request or (if id is nil) a notification was queued. It is
	// called for each member of a batch. ReplyReceived may come before it, if the
	// peer is quick.
	RequestSent func(s *Session, method string, id ID)
	// ReplyReceived: a call ended, after d; err is its error.
	ReplyReceived func(s *Session, method string, err error, d time.Duration)
	// RequestReceived: a request or notification is about to be handled.
	RequestReceived func(req *Request)
	// ReplySent: the handler returned, d after the request had arrived; err is
	// what it failed with. It is called for notifications too. The reply has been queued
	// by then, so what is sent from here on leaves after it; in a batch, the reply leaves
	// with those to the other members, which may be later.
	ReplySent func(req *Request, err error, d time.Duration)
	// CostChanged: the session's cost has changed by more than 100, or while it
	// is being held to it; concurrency is how many handlers may run at once now.
	CostChanged func(s *Session, cost float64, concurrency int)
	// Closed: the session is over, for the reason err.
	Closed func(s *Session, err error)
	// Paused: reading pauses, because requests arrive faster than they are handled.
	Paused func(s *Session)
	// Resumed: reading goes on after a pause of d.
	Resumed func(s *Session, d time.Duration)
}

// Stats count what a session did and hold.
type Stats struct {
	BytesSent, BytesReceived       uint64 // framing included (not in what a MessageConn sends)
	MessagesSent, MessagesReceived uint64 // a batch is one message

	RequestsReceived     uint64  // requests and notifications that were handled, members of batches too
	NotificationsDropped uint64  // because the queue was full, their time over or the session ending; not those that were not read yet then
	Errors               uint64  // protocol and framing errors, requests refused or failed
	LateReplies          uint64  // to calls that had been given up
	UnexpectedReplies    uint64  // to nothing that was asked
	LateResults          uint64  // of handlers that had not to be waited for any more: after ProcessingTimeout, say
	Pending              int     // our calls that wait for a reply
	Queued, QueuedBytes  int     // requests that wait for a handler
	Running              int     // handlers that run
	Concurrency          int     // handlers that may run at once
	Outgoing             int     // calls of ours that may wait for a reply at once
	Cost                 float64 // see Limits.CostHard; 0 if it is not counted
	OutboxBytes          int     // waiting to be written

	Pauses uint64        // how often reading has paused, because requests arrive faster than they are handled
	Paused time.Duration // how long reading has paused, all pauses together, with one that goes on
}

// noMethods is the handler where there is none.
var noMethods = NewRouter()

// mustResolveOptions is resolveOptions for who cannot return an error.
func mustResolveOptions(opts *Options) *Options {
	o, err := resolveOptions(opts)
	if err != nil {
		panic("rpcx: " + err.Error())
	}
	return o
}

// resolveOptions returns a copy of opts with defaults filled in, or what is wrong with
// them.
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
	if o.Cancellation != nil && o.Cancellation.Method == "" {
		return nil, errors.New("Options.Cancellation has no Method")
	}
	if err := duration.Check("Limits", &o.Limits); err != nil {
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

// isNilHandler reports whether h is of a type of this package and has nothing to call.
func isNilHandler(h Handler) bool {
	switch h := h.(type) {
	case HandlerFunc:
		return h == nil
	case *Router:
		return h == nil
	}
	return false
}

var noTrace = new(Trace)

// resolved returns the limits of a session of the given role, with defaults
// filled in and with what is switched off out of reach.
func (l Limits) resolved(role Role) Limits {
	number := func(n *int, byDefault int) { *n = limitOr(*n, byDefault) }
	duration := func(d *time.Duration, byDefault time.Duration) {
		switch {
		case *d == 0:
			*d = byDefault
		case *d < 0:
			*d = never
		}
	}
	rate := func(x *float64, byDefault float64) {
		switch {
		case *x == 0:
			*x = byDefault
		case *x < 0:
			*x = 0
		}
	}
	number(&l.Concurrency, 20)
	number(&l.Queue, 4096)
	number(&l.QueueBytes, 8<<20)
	number(&l.Outbox, 4<<20)
	number(&l.Batch, 10000)
	if l.Response < 0 {
		l.Response = math.MaxInt
	}
	duration(&l.RequestTimeout, 30*time.Second)
	duration(&l.ProcessingTimeout, 30*time.Second)
	duration(&l.SendTimeout, 20*time.Second)
	duration(&l.CloseTimeout, 30*time.Second)

	number(&l.Outgoing, 50)
	number(&l.OutgoingMax, 250)
	duration(&l.ResponseTime, 3*time.Second)
	duration(&l.IdleTimeout, never)
	if l.KeepAliveMethod != "" {
		duration(&l.KeepAlive, 60*time.Second)
	}

	if l.CostHard < 0 || l.CostHard == 0 && role != RoleServer {
		l.CostOff = true
	}
	if role == RoleServer {
		number(&l.PeerErrors, math.MaxInt)
	} else {
		number(&l.PeerErrors, 10000)
	}
	rate(&l.CostHard, 10000)
	if l.CostSoft == 0 {
		if l.CostSoft = 2000; l.CostHard <= 2000 {
			l.CostSoft = l.CostHard / 5
		}
	}
	rate(&l.CostDecay, l.CostHard/3600)
	rate(&l.CostPerByte, 1./100000)
	rate(&l.CostError, 100)
	rate(&l.CostHandlerError, 0)
	if l.CostDelay == 0 {
		l.CostDelay = 2 * time.Second
	}
	l.CostDelay = max(l.CostDelay, 0)
	return l
}

// clientLimits are the defaults, resolved, for all clients that have no others.
var clientLimits = Limits{}.resolved(RoleClient)

// limitOr resolves a limit: 0 is its default, a negative one is none.
func limitOr(n, byDefault int) int {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return math.MaxInt
	}
	return n
}

// after returns the time d after now, never if d is never.
func after(now, d time.Duration) time.Duration {
	if d > never-now {
		return never
	}
	return now + d
}

// durationOr returns the first of the durations that is set: a negative d is
// never, and a negative byDefault is not set.
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

// Call calls method on s and returns its result, as a T. See [Session.Call].
func Call[T any](ctx context.Context, s *Session, method string, params any) (T, error) {
	var result T
	err := s.Call(ctx, method, params, &result)
	return result, err
}

// Dial connects to addr and starts a session on the connection: [Dialer.Dial]
// with a zero Dialer. ctx bounds only the dialling.
func Dial(ctx context.Context, addr string, opts *Options) (*Session, error) {
	var d Dialer
	return d.Dial(ctx, addr, opts)
}
