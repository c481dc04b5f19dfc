// Package telemetry has the common parts of the modules otel and prometheus: names of
// methods, outcomes of calls and requests, and tables with a limit.
package telemetry

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"net"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// Other stands for the methods and codes without a series.
const Other = "_OTHER"

// MaxMethods is the default number of methods with a series.
const MaxMethods = 1000

// MaxCodes is the number of further error types with a series; see NewTypes.
const MaxCodes = 100

// Buckets are the upper bounds, in seconds, of the buckets for durations in OpenTelemetry's
// conventions.
var Buckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

// Table holds a value for each key. Get takes no lock, except for a new key.
type Table[V any] struct {
	limit  int // number of keys; more keys share the value of Other
	build  func(key string) V
	other  func() V                     // makes the value of Other on first use
	values atomic.Pointer[map[string]V] // a map does not change
	mu     sync.Mutex                   // held while values is replaced
}

// NewTable returns a table for at most limit keys. build makes the value of a new key.
func NewTable[V any](limit int, build func(key string) V) *Table[V] {
	t := &Table[V]{limit: limit, build: build, other: sync.OnceValue(func() V { return build(Other) })}
	t.values.Store(new(map[string]V))
	return t
}

// Find returns the value of key, if the table has the key.
func (t *Table[V]) Find(key string) (v V, ok bool) {
	v, ok = (*t.values.Load())[key]
	return v, ok
}

// Get returns the value of key. If the table is full, a new key has the value of Other.
func (t *Table[V]) Get(key string) V {
	if v, ok := t.Find(key); ok {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.Find(key); ok {
		return v
	}
	old := *t.values.Load()
	if key == Other || len(old) >= t.limit {
		return t.other()
	}
	key = strings.Clone(key) // the memory of a whole message must not stay
	values := make(map[string]V, len(old)+1)
	maps.Copy(values, old)
	v := t.build(key)
	values[key] = v
	t.values.Store(&values)
	return v
}

// Other returns the value of Other.
func (t *Table[V]) Other() V { return t.other() }

// Methods holds a value for each known method.
type Methods[V any] struct {
	known func(method string) bool // nil if all methods are known
	table *Table[V]
}

// NewMethods returns the Methods for at most limit methods. If known is nil, all methods
// are known. build makes the value of a method, or of Other.
func NewMethods[V any](limit int, known func(string) bool, build func(method string) V) *Methods[V] {
	return &Methods[V]{known, NewTable(limit, build)}
}

// Get returns the value of method, or that of Other if the method is unknown. A method that
// is not UTF-8 is unknown, because Prometheus takes no such label.
func (m *Methods[V]) Get(method string) V {
	if v, ok := m.table.Find(method); ok {
		return v
	}
	if len(method) > maxMethod || !utf8.ValidString(method) || m.known != nil && !m.known(method) {
		return m.table.Other()
	}
	return m.table.Get(method)
}

// maxMethod is the length in bytes of the longest known method.
const maxMethod = 256

// KnownTo returns a function that reports whether one of handlers, which may be nil, is a
// router with the method. A handler of another type has no known methods.
func KnownTo(handlers ...rpcx.Handler) func(method string) bool {
	var routers []*rpcx.Router
	for _, h := range handlers {
		if r := routerIn(h); r != nil {
			routers = append(routers, r)
		}
	}
	return func(method string) bool {
		for _, r := range routers {
			if r.Has(method) {
				return true
			}
		}
		return false
	}
}

// routerIn returns the router that h is or wraps, or nil.
func routerIn(h rpcx.Handler) *rpcx.Router {
	for h != nil {
		if r, ok := h.(*rpcx.Router); ok {
			return r
		}
		wrapper, ok := h.(interface{ Unwrap() rpcx.Handler })
		if !ok {
			return nil
		}
		h = wrapper.Unwrap()
	}
	return nil
}

// Outcome is the way in which a call or a request has ended. A success is the zero value.
type Outcome struct {
	Code string // code of the JSON-RPC error, or "" if there is none
	Type string // the same code, or else one of the types below
}

// Types of failures without a code.
const (
	TypeTimeout        = "timeout"
	TypeCancelled      = "cancelled"
	TypeNotConnected   = "not_connected"
	TypeConnectionLost = "connection_lost"
	TypeClosed         = "closed"
	TypeNotSent        = "not_sent"
	TypeNoResponse     = "no_response"
	TypeMemberFailed   = "member_failed" // of a batch
	typeHTTP           = "http_"         // and the status of an answer without JSON-RPC
)

// NewTypes returns the error types with a series: the words, the codes of JSON-RPC and of
// this library, and the first MaxCodes others. A peer can send any code and any status of
// HTTP, and must not take the places of the codes that alerts ask for.
func NewTypes() *Table[string] {
	known := []string{
		TypeTimeout, TypeCancelled, TypeNotConnected, TypeConnectionLost, TypeClosed, TypeNotSent, TypeNoResponse, TypeMemberFailed,
	}
	for _, code := range []int{
		rpcx.CodeParseError, rpcx.CodeInvalidRequest, rpcx.CodeMethodNotFound, rpcx.CodeInvalidParams, rpcx.CodeInternalError,
		rpcx.CodeUnavailable, rpcx.CodeExcessiveResourceUsage, rpcx.CodeServerBusy,
	} {
		known = append(known, strconv.Itoa(code))
	}
	t := NewTable(len(known)+MaxCodes, func(typ string) string { return typ })
	for _, typ := range known {
		t.Get(typ)
	}
	return t
}

func withCode(code int) Outcome {
	text := strconv.Itoa(code)
	return Outcome{text, text}
}

// OfCall returns the outcome of a call, a notification or a batch with the error err. ctx is
// the context of the caller.
func OfCall(ctx context.Context, err error) Outcome {
	switch {
	case err == nil:
		return Outcome{}
	case isCause(ctx, err) && !errors.Is(err, context.DeadlineExceeded):
		return Outcome{Type: localType(ctx.Err())}
	}
	if _, batch := errors.AsType[*rpcx.BatchError](err); batch {
		return Outcome{Type: TypeMemberFailed}
	}
	if e, ok := errors.AsType[*rpcx.Error](err); ok && !isLost(err) {
		return withCode(e.Code)
	}
	if e, ok := errors.AsType[*rpchttp.StatusError](err); ok {
		return Outcome{Type: typeHTTP + strconv.Itoa(e.StatusCode)}
	}
	return Outcome{Type: localType(err)}
}

// isCause reports whether ctx has ended and err is the cause. A cause may be any error: with
// an errgroup, the error of another call.
func isCause(ctx context.Context, err error) bool {
	return ctx.Err() != nil && reflect.ValueOf(err).Comparable() && context.Cause(ctx) == err
}

// isLost reports whether err is that of a call without an answer. An *rpcx.Error within err
// is then the answer to another call: to the login of a client, for example.
func isLost(err error) bool {
	return errors.Is(err, rpcx.ErrNotConnected) || errors.Is(err, rpcx.ErrConnectionLost) || errors.Is(err, rpcx.ErrClosed)
}

// localType returns the type of a failure of this side.
func localType(err error) string {
	for _, known := range []struct {
		err error
		typ string
	}{
		{rpcx.ErrNotConnected, TypeNotConnected}, // may also match one of the following errors
		{rpcx.ErrConnectionLost, TypeConnectionLost},
		{rpcx.ErrClosed, TypeClosed},
		{rpcx.ErrNoResponse, TypeNoResponse},
		{rpcx.ErrNoCallback, TypeNotSent},
		{context.DeadlineExceeded, TypeTimeout},
		{context.Canceled, TypeCancelled},
		{net.ErrClosed, TypeClosed},
	} {
		if errors.Is(err, known.err) {
			return known.typ
		}
	}
	if e, ok := errors.AsType[*rpcx.ProtocolError](err); ok && e.Unsent {
		return TypeNotSent
	}
	if e, ok := errors.AsType[*rpcx.SizeError](err); ok && e.Size > 0 { // 0 for a reply
		return TypeNotSent
	}
	return Other
}

// OfRequest returns the outcome of a request of s whose handler has returned: err is the
// error for Trace.ReplySent, ctx the handler's context, and c is Options.Cancellation, or
// nil. If err has several errors, their order is that of the session for the reply.
func OfRequest(ctx context.Context, s *rpcx.Session, err error, c *rpcx.Cancellation) Outcome {
	switch {
	case ctx.Err() == context.DeadlineExceeded: // the peer has got this error, or will
		return withCode(rpcx.CodeServerBusy)
	case err == nil:
		return Outcome{}
	case errors.Is(err, rpcx.ErrExcessiveCost):
		return withCode(rpcx.CodeExcessiveResourceUsage)
	case errors.Is(err, context.Canceled) && context.Cause(ctx) == rpcx.ErrPeerCancelled:
		if c == nil || c.Code == 0 {
			return Outcome{Type: TypeCancelled}
		}
		return withCode(c.Code)
	}
	if e, ok := errors.AsType[*rpcx.Error](err); ok {
		return withCode(e.Code)
	}
	if e, ok := errors.AsType[*rpcx.ProtocolError](err); ok && !e.Unsent {
		return withCode(e.Code)
	}
	// Only here is the cause needed: context.Cause allocates a context.
	switch cause := context.Cause(ctx); {
	case !errors.Is(cause, context.Canceled) && matches(err, cause): // the session has ended
		return Outcome{Type: TypeClosed}
	case matches(err, cause) && endedByClient(s):
		return Outcome{Type: TypeCancelled}
	}
	return withCode(rpcx.CodeInternalError)
}

// endedByClient reports whether the client has ended the HTTP request that s answers. s may
// be nil.
func endedByClient(s *rpcx.Session) bool {
	if s == nil {
		return false
	}
	r := rpchttp.Request(s)
	return r != nil && r.Context().Err() != nil
}

// matches reports whether err says that a context has ended with cause.
func matches(err, cause error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, cause)
}

// Limits because of which requests are refused.
const (
	limitCost     = "Limits.CostHard"
	limitTime     = "Limits.ProcessingTimeout"
	limitShutdown = "shutdown"
)

// sizeLimits are further limits for requests, which the errors name.
var sizeLimits = []string{
	"Limits.Queue", "Limits.QueueBytes", "Limits.GateQueue", "Limits.GateQueueBytes",
	"Server.MaxQueuedBytes", "Server.MaxSessions", "Server.MaxGroup",
}

// RequestLimits are the results of LimitOf, except Other. A counter of refusals should begin
// with 0 for each: for Prometheus, a series that begins with 1 has not increased.
var RequestLimits = append([]string{limitCost, limitTime, limitShutdown}, sizeLimits...)

// ConnectionLimits are the limits because of which a server refuses connections.
var ConnectionLimits = []string{"Server.MaxSessions", "Server.MaxGroup", "Server.MaxHandshakes"}

// LimitOf returns the name of the limit because of which a request was refused: of the
// field of Limits or Server, or "shutdown", or Other.
func LimitOf(e *rpcx.Error) string {
	switch {
	case e.Code == rpcx.CodeExcessiveResourceUsage:
		return limitCost
	case strings.HasSuffix(e.Message, "request timed out"):
		return limitTime
	case strings.HasSuffix(e.Message, "shutting down"):
		return limitShutdown
	}
	for _, limit := range sizeLimits {
		if strings.HasSuffix(e.Message, "("+limit+")") {
			return limit
		}
	}
	return Other
}

// Requests holds data about requests from Options.Context to Trace.ReplySent, which has no
// context. The parts have locks of their own, for less contention.
type Requests[T any] struct{ parts [16]requestPart[T] }

type requestPart[T any] struct {
	mu      sync.Mutex
	running map[*rpcx.Request]T
}

// partSeed spreads requests over the parts.
var partSeed = maphash.MakeSeed()

func (r *Requests[T]) partOf(req *rpcx.Request) *requestPart[T] {
	// Not by req.Seq: over HTTP and NATS each message is the first of a session.
	return &r.parts[maphash.Comparable(partSeed, req)%uint64(len(r.parts))]
}

// Add adds the data of a request whose handler is about to run.
func (r *Requests[T]) Add(req *rpcx.Request, data T) {
	p := r.partOf(req)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		p.running = make(map[*rpcx.Request]T)
	}
	p.running[req] = data
}

// Remove removes and returns the data of a request, if there is any.
func (r *Requests[T]) Remove(req *rpcx.Request) (data T, ok bool) {
	p := r.partOf(req)
	p.mu.Lock()
	defer p.mu.Unlock()
	if data, ok = p.running[req]; ok {
		delete(p.running, req)
	}
	return data, ok
}
