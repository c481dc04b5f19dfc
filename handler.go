package rpcx

import (
	"context"
)

// A Handler answers requests and takes notifications. What it returns as
// result is encoded by the session's codec and sent as the reply; a
// [json.RawMessage] is sent as it is, without white space; nil is sent as null, and
// struct{}{} as {}. If it returns an
// [*Error] (or an error that wraps one), that is sent instead, also as its result. Any other error is
// logged and answered [CodeInternalError] "internal server error": its text stays
// here. So is a panic, which is recovered, and a result that cannot be encoded. (An
// error that says that ctx has ended is logged with level Debug: that is no failure.)
// Errors of other libraries are such other errors, although they may have a code.
//
// An [*Error] may be the peer's own: of a call back to it, or of a call to a third
// program. Returned as it is, it reaches the caller as if the handler had made it, with its
// code. To keep it here, wrap it with %v; to say what it is, make an error of it:
//
//	return nil, fmt.Errorf("ask the client: %v", err)            // answered "internal server error"
//	return nil, rpcx.Errorf(7, "the client has no name: %v", err) // answered so
//
// Handlers of one session run concurrently, up to Limits.Concurrency of them.
// ctx ends when the handler returns, when Limits.ProcessingTimeout has passed,
// and when the session ends, with a cause; see [context.Cause]. (What outlives the
// handler needs a context of its own: [context.WithoutCancel].) Over a connection
// without halves (a WebSocket) it has ended already for a notification that the peer sent
// just before it closed the connection, which is handled all the same. A handler may call
// back to its peer, through req.Session(), and should do so with ctx: so the session
// knows who waits for it.
type Handler interface {
	ServeRPC(ctx context.Context, req *Request) (any, error)
}

// HandlerFunc adapts a function to a [Handler]. For the errors that it returns see there.
type HandlerFunc func(ctx context.Context, req *Request) (any, error)

// ServeRPC calls f.
func (f HandlerFunc) ServeRPC(ctx context.Context, req *Request) (any, error) { return f(ctx, req) }

// Request is a request or notification to be handled. It belongs to its
// handler, which may keep it.
type Request struct {
	Method string
	ID     ID // nil for a notification
	Params Params

	session *Session
}

// Session returns the session that the request came in by.
func (r *Request) Session() *Session { return r.session }

// IsNotification reports whether nobody waits for the result.
func (r *Request) IsNotification() bool { return r.ID == nil }

// Bind decodes the params into v; see [Params.Bind].
func (r *Request) Bind(v any) error { return r.Params.Bind(v) }

// RequestFromContext returns the request that is being handled, given the context of
// its handler or one derived from that, and nil for any other context. By it a function
// of [Func] has the method, the id, the params as they came and the session:
//
//	rpcx.Func(func(ctx context.Context, name string) (string, error) {
//		req := rpcx.RequestFromContext(ctx)
//		slog.Info("hello", "method", req.Method, "notification", req.IsNotification(), "peer", req.Session().RemoteAddr())
//		…
//	})
func RequestFromContext(ctx context.Context) *Request {
	if h, ok := ctx.Value(handlerKey{}).(*handlerContext); ok {
		return h.request
	}
	return nil
}

// ReplyAndDisconnect makes the session reply with v and then close. A handler
// returns it as its result or as its error; if v is an [*Error], the reply is
// that error. In a batch this waits for the other replies. What is queued for
// the peer is sent first, for at most Limits.CloseTimeout.
func ReplyAndDisconnect(v any) *Disconnect { return &Disconnect{v} }

// Disconnect is what [ReplyAndDisconnect] returns: a result that is an error too.
type Disconnect struct{ reply any }

func (d *Disconnect) Error() string { return "reply and disconnect" }
