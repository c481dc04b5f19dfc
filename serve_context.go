package rpcx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx/internal/jsonscan"
)

// lazyContext is the context of a task, or with other methods that of a handler. Most tasks
// and handlers never wait for the end of their context, so the context is a field of the
// task or the request. The first call of Done, or the first context that derives from the
// lazy context, makes a real context of package context. From then on the real context
// answers. So derived contexts attach without a goroutine.
type lazyContext struct {
	parent context.Context
	end    contextEnd
}

func (c *lazyContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }
func (c *lazyContext) Done() <-chan struct{}       { return c.makeReal().Done() }
func (c *lazyContext) Err() error                  { return c.end.err(c.parent) }

func (c *lazyContext) Value(key any) any {
	if needsReal(key) {
		return c.makeReal().Value(key)
	}
	return c.parent.Value(key)
}

func (c *lazyContext) makeReal() context.Context {
	return c.end.makeReal(c.parent, time.Time{}, false)
}

// endWith ends the context, unless the context has ended.
func (c *lazyContext) endWith(cause error) { c.end.endWith(c.parent, cause) }

// contextEnd is how a lazy context ends, and the real context. parent is the parent of the
// lazy context, always the same.
type contextEnd struct {
	state atomic.Pointer[endState] // nil: no cause and no real context
}

// endState is the state of a contextEnd. A shared state does not change, and is replaced
// when a real context is needed. A state of the context's own stays.
type endState struct {
	shared bool

	mu           sync.Mutex      // guards the fields below
	real         context.Context // nil if nobody has needed the real context
	cancel       context.CancelCauseFunc
	stopDeadline context.CancelFunc
	cause        error // cause of the end; nil before, or if the parent ended first
}

// handlerReturned and taskFinished are the shared states: those of most contexts at the
// end. So the end allocates nothing.
var (
	handlerReturned = &endState{shared: true, cause: errHandlerReturned}
	taskFinished    = &endState{shared: true, cause: context.Canceled}
)

// ownState returns the state of the context's own, and makes the state on first use.
func (e *contextEnd) ownState() *endState {
	for {
		st := e.state.Load()
		if st != nil && !st.shared {
			return st
		}
		own := new(endState)
		if st != nil {
			own.cause = st.cause
		}
		if e.state.CompareAndSwap(st, own) {
			return own
		}
	}
}

// endWith ends the context, unless the context has ended. It reports whether the deadline
// or the parent had ended the real context before.
func (e *contextEnd) endWith(parent context.Context, cause error) (overdue bool) {
	var shared *endState
	switch cause {
	case errHandlerReturned:
		shared = handlerReturned
	case context.Canceled:
		shared = taskFinished
	}
	if e.state.Load() == nil && (parent.Err() != nil || shared != nil && e.state.CompareAndSwap(nil, shared)) {
		return false
	}
	if st := e.state.Load(); st != nil && st.shared { // ended before
		return false
	}
	st := e.ownState()
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.cause != nil, st.real == nil && parent.Err() != nil:
	case st.real != nil && st.real.Err() != nil:
		st.cause, overdue = context.Cause(st.real), true
	default:
		st.cause = cause
	}
	if st.real != nil && cause != errProcessing {
		st.cancel(cause)
		st.stopDeadline()
	}
	return overdue
}

// current returns the real context, or nil, and the cause of the end. If the context has
// not ended, or only the deadline or the parent has ended the context, the cause is nil.
func (e *contextEnd) current() (real context.Context, cause error) {
	st := e.state.Load()
	if st == nil {
		return nil, nil
	}
	if !st.shared {
		st.mu.Lock()
		defer st.mu.Unlock()
	}
	return st.real, st.cause
}

// makeReal returns the real context, and makes the context on first use. If limited is
// set, the real context ends at the given time. Err returns DeadlineExceeded only if the
// deadline itself ends the context, also for derived contexts.
func (e *contextEnd) makeReal(parent context.Context, at time.Time, limited bool) context.Context {
	st := e.ownState()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.real == nil {
		st.stopDeadline = func() {}
		ended := st.cause != nil && st.cause != errProcessing
		switch {
		case ended: // the end of parent must not replace the cause
			parent = context.WithoutCancel(parent)
		case limited:
			parent, st.stopDeadline = context.WithDeadlineCause(parent, at, errProcessing)
		}
		st.real, st.cancel = context.WithCancelCause(parent)
		if ended {
			st.cancel(st.cause)
		}
	}
	return st.real
}

// err returns the error of the context.
func (e *contextEnd) err(parent context.Context) error {
	real, cause := e.current()
	switch {
	case real != nil:
		return real.Err()
	case cause == nil:
		return parent.Err()
	case cause == errProcessing:
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// needsReal reports whether only the real context has a value for key. This is so for the
// key with which package context looks for its own contexts. For every other key, the real
// context has the value of its parent.
func needsReal(key any) bool { return key == ownContextKey || ownContextKey == nil }

// ownContextKey is the key with which package context looks for its own contexts. If
// package context should cease to use a key, ownContextKey is nil, and every value makes
// the real context.
var ownContextKey = findOwnContextKey()

func findOwnContextKey() (key any) {
	_, cancel := context.WithCancel(keyProbe{context.Background(), make(chan struct{}), func(asked any) { key = asked }})
	cancel()
	return key
}

// keyProbe is a context that shows the keys that package context asks for.
type keyProbe struct {
	context.Context
	done  chan struct{} // if Done returned nil, package context would ask for nothing
	asked func(key any)
}

func (p keyProbe) Done() <-chan struct{} { return p.done }

func (p keyProbe) Value(key any) any {
	p.asked(key)
	return nil
}

// handlerContext is the context of a handler. It is a lazy context; see lazyContext.
type handlerContext struct {
	end      contextEnd
	session  *Session
	owner    *peerRequest  // the request with the handler
	deadline time.Duration // on the session's clock

	waits handlerWaits // guarded by the session's lock
}

// errHandlerReturned is the cause with which a handler's context ends when the handler
// returns, unless the context had ended before. A later call with the context fails with
// errHandlerReturned.
var errHandlerReturned error = &cancelledError{"rpcx: the handler has returned, and its context has ended with it"}

// parent returns the parent: in an exchange, the context of Server.ServeMessage.
func (c *handlerContext) parent() context.Context {
	if x := c.session.exchange(); x != nil {
		return x.ctx
	}
	return context.Background()
}

func (c *handlerContext) Deadline() (time.Time, bool) {
	at, limited := c.ownDeadline()
	if parentAt, ok := c.parent().Deadline(); ok && (!limited || parentAt.Before(at)) {
		return parentAt, true
	}
	return at, limited
}

// ownDeadline returns the deadline of Limits.ProcessingTimeout.
func (c *handlerContext) ownDeadline() (time.Time, bool) {
	if c.deadline == never {
		return time.Time{}, false
	}
	return c.session.startTime.Add(c.deadline), true
}

func (c *handlerContext) Done() <-chan struct{} { return c.makeReal().Done() }
func (c *handlerContext) Err() error            { return c.end.err(c.parent()) }

func (c *handlerContext) Value(key any) any {
	if _, ok := key.(handlerKey); ok {
		return c
	}
	if needsReal(key) {
		return c.makeReal().Value(key)
	}
	if v := c.session.Value(key); v != nil {
		return v
	}
	return c.parent().Value(key)
}

func (c *handlerContext) makeReal() context.Context {
	at, limited := c.ownDeadline()
	return c.end.makeReal(c.parent(), at, limited)
}

// endWith ends the context, as contextEnd.endWith does.
func (c *handlerContext) endWith(cause error) (overdue bool) { return c.end.endWith(c.parent(), cause) }

// endCause returns the cause of the end, as contextEnd.current does.
func (c *handlerContext) endCause() error {
	_, cause := c.end.current()
	return cause
}

// contextForHandler returns the context for the handler of c, made by Options.Context if
// set. A wrong result panics, like a handler.
func (c *peerRequest) contextForHandler() context.Context {
	makeContext := c.session.makeContext
	if makeContext == nil {
		return &c.ctx
	}
	switch ctx := makeContext(&c.ctx, &c.Request); {
	case ctx == nil:
		panic("rpcx: Options.Context has returned nil: return ctx if there is nothing to add")
	case handlerOf(ctx) != &c.ctx:
		panic("rpcx: Options.Context has returned a context that does not derive from ctx")
	default:
		return ctx
	}
}

// handlerKey is the context key of the handlerContext from which a context derives.
type handlerKey struct{}

// handlerOf returns the handlerContext from which ctx derives, or nil. The handler may
// belong to another session.
func handlerOf(ctx context.Context) *handlerContext {
	h, _ := ctx.Value(handlerKey{}).(*handlerContext)
	return h
}

// SetValue stores value under key in the session. So a program can remember facts about
// the peer, such as the user who has logged in. A nil value removes the key. The key must
// be comparable, and should have a type of the program's own, as for [context.WithValue].
//
// Handlers also find the values in their contexts. Because handlers run concurrently,
// state that changes should be stored once, as a pointer to a struct with a lock.
// [Server.OnSession] can do so before the first request is handled.
func (s *Session) SetValue(key, value any) {
	values := s.values.Load()
	if values == nil {
		s.values.CompareAndSwap(nil, new(sync.Map))
		values = s.values.Load()
	}
	if value == nil {
		values.Delete(key)
		return
	}
	values.Store(key, value)
}

// Value returns the value that [Session.SetValue] has stored under key, or nil.
func (s *Session) Value(key any) any {
	values := s.values.Load()
	// The context of a handler may be asked for a key of any type.
	if values == nil || !reflect.ValueOf(key).Comparable() {
		return nil
	}
	value, _ := values.Load(key)
	return value
}

// Cancellation describes a notification by which a side reports that it no longer wants
// the reply to a request. JSON-RPC itself has no cancellation.
//
// If Options.Cancellation is set, the session reports each abandoned call to the peer. A
// call is abandoned when the context ends, when the call times out, or by [Future.Cancel].
// The report is sent only if the outbox has room, and never delays the caller.
//
// If the peer reports a request that waits for a handler, the session answers at once. If
// the handler runs, its context ends with [ErrPeerCancelled]. The session then sends the
// handler's result, unless the handler returns the context's error or Code is 0.
//
// A report must be a separate message. In a batch, the notification has no special
// meaning. The session does not call a handler of Method for a report. The session logs
// and ignores a report whose params do not fit. The same applies if the id has another
// type than the request's id ("7" for 7). A report of an answered request is normal, and
// the session ignores the report silently. See the example of Cancellation, and the
// example Mcp.
//
// The end of a connection is no report. Over TCP, the handlers of a client that hangs up
// may continue for Limits.HalfClose, 5 s.
//
// If the two ends have different dialects, the receiver logs the first notification, and
// the handlers of the receiver go on. A dialect has a method, a param and an error code:
//
//	RPCCancellation   rpc.cancel               [id]               -32097
//	LSPCancellation   $/cancelRequest          {"id": id}         -32800
//	MCPCancellation   notifications/cancelled  {"requestId": id}  not answered
type Cancellation struct {
	// Method is the method of the notification, and must be set.
	Method string
	// Param is the name of the param with the request's id; "" if the id is positional. If
	// the id is positional, a peer may list several ids, up to Limits.Batch. The session
	// cancels every listed request.
	Param string
	// Code is the code of the error that answers a cancelled request. If Code is 0, a
	// cancelled request gets no reply.
	Code int
}

// LSPCancellation is the cancellation of the Language Server Protocol.
var LSPCancellation = &Cancellation{Method: "$/cancelRequest", Param: "id", Code: -32800}

// MCPCancellation is the cancellation of the Model Context Protocol. A cancelled request
// gets no reply. (A client must not cancel "initialize".)
var MCPCancellation = &Cancellation{Method: "notifications/cancelled", Param: "requestId"}

// RPCCancellation is a cancellation for private protocols, between programs that both set
// RPCCancellation. The notification "rpc.cancel" has the request's id as the only param.
// JSON-RPC reserves method names that begin with "rpc." for extensions. A peer may list
// several ids, as jrpc2 does.
//
//	{"jsonrpc":"2.0","method":"rpc.cancel","params":[7]}
//	{"jsonrpc":"2.0","error":{"code":-32097,"message":"request cancelled"},"id":7}
var RPCCancellation = &Cancellation{Method: "rpc.cancel", Code: -32097}

// dialectOf returns the name of the predefined cancellation with the given method, or "".
func dialectOf(method string) string {
	switch method {
	case LSPCancellation.Method:
		return "LSPCancellation"
	case MCPCancellation.Method:
		return "MCPCancellation"
	case RPCCancellation.Method:
		return "RPCCancellation"
	}
	return ""
}

// params returns the params of the notification that cancels our call with the given id.
func (c *Cancellation) params(id uint64) any {
	if c.Param == "" {
		return Args{id}
	}
	return map[string]uint64{c.Param: id}
}

// ids ranges over the ids in the params of a cancellation. Params that do not fit have no
// ids.
func (c *Cancellation) ids(p Params) iter.Seq[ID] {
	return func(yield func(ID) bool) {
		if c.Param == "" {
			s := jsonscan.Scanner{Data: p.Positional}
			for id, ok := s.NextElement(); ok && yield(id); id, ok = s.NextElement() {
			}
			return
		}
		var vals [1][]byte
		s := jsonscan.Scanner{Data: p.Named}
		if len(p.Named) == 0 {
			return
		}
		if dup, ok := s.ScanMembers([]string{c.Param}, vals[:]); ok && dup == 0 && vals[0] != nil {
			yield(vals[0])
		}
	}
}

// example returns an example of fitting params.
func (c *Cancellation) example() string {
	if c.Param == "" {
		return "[7]"
	}
	return fmt.Sprintf(`{"%s":7}`, c.Param)
}

// sendCancellations reports abandoned calls to the peer.
func (pc *pendingCalls) sendCancellations(ids []uint64) {
	s := pc.s
	for _, id := range ids {
		if !s.tryNotify(s.cancellation.Method, s.cancellation.params(id), "cancellation cannot be sent") {
			return
		}
	}
}

// trackCancellableLocked records an arrived request, so that the peer can cancel the
// request. Callers must hold s.mu.
func (rs *requestServer) trackCancellableLocked(c *peerRequest) {
	rs.s.mu.AssertHeld()
	if rs.s.cancellation != nil && !c.IsNotification() && !c.answered {
		rs.cancellable[string(c.ID)] = c
	}
}

// copiedIDBytes returns the size of the copy of an id for trackCancellableLocked.
func (s *Session) copiedIDBytes(item *Item) int {
	if s.cancellation == nil {
		return 0
	}
	return len(item.ID)
}

// markAnsweredLocked marks c as answered, so that nobody can cancel c any more. Callers
// must hold s.mu.
func (c *peerRequest) markAnsweredLocked(s *Session) {
	s.mu.AssertHeld()
	c.answered = true
	if s.cancellation != nil && s.requests.cancellable[string(c.ID)] == c {
		delete(s.requests.cancellable, string(c.ID))
	}
}

// cancelRequests handles the peer's report of cancelled requests. Only the reader calls
// cancelRequests.
func (rs *requestServer) cancelRequests(params Params) {
	s := rs.s
	s.lock()
	count := 0
	for id := range s.cancellation.ids(params) {
		if count++; count > s.limits.Batch { // a long list must not hold the lock
			break
		}
		rs.cancelRequestLocked(id)
	}
	if count == 0 {
		s.logs.logPeerLaterLocked(slog.LevelInfo, cancellationIgnored, slog.String("params", excerpt(params.text())),
			slog.String("reason", "params have to be like "+s.cancellation.example()))
	}
	s.unlock()
}

const cancellationIgnored = "cancellation by the peer ignored"

// cancelRequestLocked cancels the request with the given id. Callers must hold s.mu.
func (rs *requestServer) cancelRequestLocked(id ID) {
	s := rs.s
	s.mu.AssertHeld()
	c := rs.cancellable[string(id)]
	if c == nil { // already answered, or the id has another type
		var other ID
		switch {
		case len(id) > 2 && id[0] == '"':
			other = id[1 : len(id)-1]
		case id[0] != '"':
			other = slices.Concat(ID(`"`), id, ID(`"`))
		}
		reason := ""
		switch _, known := rs.cancellable[string(other)]; {
		case known:
			reason = "the id of the request is " + excerpt(other)
		case id[0] == '{', id[0] == '[', id[0] == 't', id[0] == 'f', id[0] == 'n':
			reason = "an id is a number or a string"
		default:
			return
		}
		s.logs.logPeerLaterLocked(slog.LevelInfo, cancellationIgnored, slog.String("id", excerpt(id)), slog.String("reason", reason))
		return
	}
	if silent := s.cancellation.Code == 0; !c.isRunning() || silent {
		c.entry.abortRequest(s, c, rs.cancellationError())
	}
	s.effects.endContext(c, ErrPeerCancelled) // ends the running handler's context, or the delay
}

// text returns the params as received.
func (p *Params) text() []byte {
	switch {
	case p.Positional != nil:
		return p.Positional
	case p.Named != nil:
		return p.Named
	}
	return p.Raw
}

// cancellationError returns the error for a cancelled request, or nil if the request gets
// no reply.
func (rs *requestServer) cancellationError() *Error {
	s := rs.s
	if s.cancellation.Code == 0 {
		return nil
	}
	return &Error{Code: s.cancellation.Code, Message: "request cancelled"}
}

// failedByCancellation reports whether the handler of c failed because the peer cancelled
// c.
func (c *peerRequest) failedByCancellation(err error) bool {
	return c.ctx.endCause() == ErrPeerCancelled && errors.Is(err, context.Canceled)
}
