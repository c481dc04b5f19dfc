package rpcx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"example.com/rpcx/internal/jsonscan"
)

// handlerContext is the context of a handler. Most handlers never wait on
// theirs, so it is a part of the call, and becomes a real one of package
// context only when somebody asks for its Done channel or for a value that it
// does not have. From then on it stands behind that one, so contexts derived
// from it attach without a goroutine of their own.
type handlerContext struct {
	session  *Session
	request  *Request
	deadline time.Duration // on the session's clock

	waits handlerWaits // guarded by the session's lock

	mu     sync.Mutex
	real   context.Context
	cancel context.CancelCauseFunc
	cause  error // why it ended, nil before
}

// errHandlerReturned is the cause with which a handler's context ends when the handler
// has returned, if it had not ended before. Whoever keeps the context, to call the peer
// later, is told so.
var errHandlerReturned error = &cancelledError{"rpcx: the handler has returned, and its context has ended with it"}

// endWith ends the context, and reports whether it had ended by itself, at its
// deadline, before.
func (c *handlerContext) endWith(cause error) (overdue bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	overdue = c.cause == nil && c.real != nil && c.real.Err() != nil
	if overdue {
		c.cause = errProcessing
	} else if c.cause == nil {
		c.cause = cause
	}
	if c.cancel != nil && cause != errProcessing {
		c.cancel(cause)
	}
	return overdue
}

// endCause returns why the context ended, nil if it has not (or by itself only).
func (c *handlerContext) endCause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// makeReal returns the real context.
func (c *handlerContext) makeReal() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		// At the deadline it has to end by itself, for only so is what its Err
		// says, and that of the contexts made from it, DeadlineExceeded.
		base, stop := context.Background(), context.CancelFunc(func() {})
		if at, ok := c.Deadline(); ok {
			base, stop = context.WithDeadlineCause(base, at, errProcessing)
		}
		real, cancel := context.WithCancelCause(base)
		c.real, c.cancel = real, func(cause error) { cancel(cause); stop() }
		if c.cause != nil && c.cause != errProcessing {
			c.cancel(c.cause)
		}
	}
	return c.real
}

func (c *handlerContext) Deadline() (time.Time, bool) {
	if c.deadline == never {
		return time.Time{}, false
	}
	return c.session.startTime.Add(c.deadline), true
}

func (c *handlerContext) Done() <-chan struct{} { return c.makeReal().Done() }

func (c *handlerContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
		return c.real.Err()
	case c.cause == nil:
		return nil
	case c.cause == errProcessing:
		return context.DeadlineExceeded
	}
	return context.Canceled
}

func (c *handlerContext) Value(key any) any {
	if _, ok := key.(handlerKey); ok {
		return c
	}
	if v := c.session.Value(key); v != nil {
		return v
	}
	return c.makeReal().Value(key)
}

// SetValue stores value under key in the session: what a program has to know of this
// peer, such as who has logged in. A value of nil removes the key, which must be
// comparable, and be of a type of the package's own, as in [context.WithValue].
// Handlers find the values in their contexts, too. They run concurrently, so what
// changes should be stored once, by [Server.OnSession] before the first request is
// handled, as a pointer to what has a lock.
func (s *Session) SetValue(key, value any) {
	s.lock()
	defer s.unlock()
	if value == nil {
		delete(s.values, key)
		return
	}
	if s.values == nil {
		s.values = make(map[any]any)
	}
	s.values[key] = value
}

// Value returns what [Session.SetValue] has stored under key, nil if nothing.
func (s *Session) Value(key any) any {
	s.lock()
	defer s.unlock()
	return s.values[key]
}

// Cancellation is how one side tells the other, by a notification, that it does
// not want the reply to a request any more. JSON-RPC itself has none.
//
// With Options.Cancellation set, a call that is given up (its context ended, its
// time was over, [Future.Cancel]) is reported to the peer, if the outbox has room
// for that: it never delays the caller. A request that the peer reports is answered
// at once if it waits for a handler; if one runs, its context ends with
// [ErrPeerCancelled], and what it returns is sent, unless that is the context's
// error. A report is a message of its own: in a batch it is a notification like any
// other. A handler for Method is not called for a report. A report whose params do not fit,
// or whose id has another type than the request's ("7" for 7), is logged and changes
// nothing; one of a request that has been answered is normal, and does nothing. See the
// example of Cancellation, and the example Mcp.
//
// The end of a connection is no report. Over TCP the handlers of a client that hangs up
// may go on for Limits.HalfClose, 5 s.
//
// If the two ends have different dialects, the receiver logs the first notification, and its
// handlers go on. A dialect has a method, a param and a code of the answer:
//
//	RPCCancellation   rpc.cancel               [id]               -32097
//	LSPCancellation   $/cancelRequest          {"id": id}         -32800
//	MCPCancellation   notifications/cancelled  {"requestId": id}  not answered
type Cancellation struct {
	// Method is the notification's. It must be set.
	Method string
	// Param is the name of the param that holds the request's id; "" if the id
	// is positional. Then a peer may list several ids, up to Limits.Batch, whose
	// requests all are cancelled.
	Param string
	// Code is that of the error which a cancelled request is answered; 0 if it
	// is not answered at all.
	Code int
}

// LSPCancellation is the cancellation of the language server protocol.
var LSPCancellation = &Cancellation{Method: "$/cancelRequest", Param: "id", Code: -32800}

// MCPCancellation is the cancellation of the Model Context Protocol. A request that is
// cancelled is not answered. (A client must not cancel its "initialize".)
var MCPCancellation = &Cancellation{Method: "notifications/cancelled", Param: "requestId"}

// RPCCancellation is the cancellation for a protocol of one's own, between programs that
// both set it: a notification "rpc.cancel" with the request's id as its only param.
// JSON-RPC reserves names that begin with "rpc." for such extensions. A peer may list
// several ids, as jrpc2 does.
//
//	{"jsonrpc":"2.0","method":"rpc.cancel","params":[7]}
//	{"jsonrpc":"2.0","error":{"code":-32097,"message":"request cancelled"},"id":7}
var RPCCancellation = &Cancellation{Method: "rpc.cancel", Code: -32097}

// dialectOf returns the name of the cancellation whose notification has that method, ""
// if none that has a name does.
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

// params returns those of the notification that cancels our call id.
func (c *Cancellation) params(id uint64) any {
	if c.Param == "" {
		return Args{id}
	}
	return map[string]uint64{c.Param: id}
}

// ids ranges over the ids in the params of such a notification. There is none if the
// params do not fit.
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

// example returns how the params of such a notification look.
func (c *Cancellation) example() string {
	if c.Param == "" {
		return "[7]"
	}
	return fmt.Sprintf(`{"%s":7}`, c.Param)
}

// sendCancellations reports to the peer that calls were given up.
func (pc *pendingCalls) sendCancellations(ids []uint64) {
	s := pc.s
	for _, id := range ids {
		if !s.tryNotify(s.cancellation.Method, s.cancellation.params(id), "cancellation cannot be sent") {
			return
		}
	}
}

// trackCancellableLocked keeps a request that arrived, to be found if it is cancelled. It is
// called under the lock.
func (rs *requestServer) trackCancellableLocked(c *peerRequest) {
	rs.s.mu.AssertHeld()
	if rs.s.cancellation != nil && !c.IsNotification() && !c.answered {
		rs.cancellable[string(c.ID)] = c
	}
}

// markAnsweredLocked says that nobody has to answer c any more. It is called under the lock.
func (c *peerRequest) markAnsweredLocked(s *Session) {
	s.mu.AssertHeld()
	c.answered = true
	if s.cancellation != nil && s.requests.cancellable[string(c.ID)] == c {
		delete(s.requests.cancellable, string(c.ID))
	}
}

// cancelRequests deals with the peer's report that it does not want the replies to
// requests any more. It is called by the reader.
func (rs *requestServer) cancelRequests(params Params) {
	s := rs.s
	s.lock()
	count := 0
	for id := range s.cancellation.ids(params) {
		if count++; count > s.limits.Batch { // the lock is not held for as long as the peer likes
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
	if c == nil { // it has been answered meanwhile, or is meant by an id of another type
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
	s.effects.endContext(c, ErrPeerCancelled) // of a handler that runs, or of the wait for one
}

// text returns the params as they came.
func (p *Params) text() []byte {
	switch {
	case p.Positional != nil:
		return p.Positional
	case p.Named != nil:
		return p.Named
	}
	return p.Raw
}

// cancellationError is what a cancelled request is answered, nil if it is not.
func (rs *requestServer) cancellationError() *Error {
	s := rs.s
	if s.cancellation.Code == 0 {
		return nil
	}
	return &Error{Code: s.cancellation.Code, Message: "request cancelled"}
}

// failedByCancellation reports whether what the handler of c failed with is that it was cancelled.
func (c *peerRequest) failedByCancellation(err error) bool {
	return c.ctx.endCause() == ErrPeerCancelled && errors.Is(err, context.Canceled)
}

// maxIdle is how many goroutines a pool keeps for reuse.
const maxIdle = 64

// pool reuses goroutines: one whose stack has grown to what a handler needs is
// several times faster than a new one. It limits nothing. It belongs to one
// Server, one dialled session or one Pipe, and its goroutines end with the last
// session that uses it.
type pool struct {
	mu    sync.Mutex
	idle  []chan func()
	users int
	calls sync.Pool // Futures for Session.Call
}

// takeFuture returns a Future for Session.Call. Nobody else sees it, so one value sent
// says that it is done, and then it can be used again: with this pool only, for
// a channel must not leave the bubble of testing/synctest that it was made in.
func (p *pool) takeFuture(s *Session, method string) *Future {
	f, ok := p.calls.Get().(*Future)
	if !ok {
		f = &Future{done: make(chan struct{}, 1)}
	}
	f.session, f.method = s, method
	return f
}

// putFuture takes a Future back whose value was received, or that was never sent.
func (p *pool) putFuture(f *Future) {
	*f = Future{done: f.done}
	p.calls.Put(f)
}

// addUser adds a session to the pool's users.
func (p *pool) addUser() {
	p.mu.Lock()
	p.users++
	p.mu.Unlock()
}

// removeUser takes a session off. The last one ends the goroutines.
func (p *pool) removeUser() {
	p.mu.Lock()
	p.users--
	var idle []chan func()
	if p.users == 0 {
		idle, p.idle = p.idle, nil
	}
	p.mu.Unlock()
	for _, tasks := range idle {
		close(tasks)
	}
}

// runTask runs task on a goroutine of its own.
func (p *pool) runTask(task func()) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		// The last one in: its stack is in the cache still.
		tasks := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		tasks <- task // has room: an idle worker's channel is empty
		return
	}
	p.mu.Unlock()
	// Owner: the pool. End: when the pool has enough idle ones, or no users.
	go p.runTasks(task)
}

func (p *pool) runTasks(task func()) {
	var tasks chan func()
	for ok := true; ok; task, ok = <-tasks {
		task()
		p.mu.Lock()
		if p.users == 0 || len(p.idle) == maxIdle {
			p.mu.Unlock()
			return
		}
		if tasks == nil {
			tasks = make(chan func(), 1)
		}
		p.idle = append(p.idle, tasks)
		p.mu.Unlock()
	}
}
