package rpcx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// noMethods is the handler where there is none.
var noMethods = NewRouter()

// options is resolveOptions for who cannot return an error.
func options(opts *Options) *Options {
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
