package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"

	"example.com/rpcx/internal/jsonscan"
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

// Func turns a Go function into a [Handler], which decodes the arguments of a
// request and passes them to it:
//
//	rpcx.Func(func(ctx context.Context, message string) (string, error) { … }, "message")
//	rpcx.Func(func(ctx context.Context, values ...float64) (float64, error) { … })
//	rpcx.Func(func(s *rpcx.Session, from string, limit int) []Entry { … }, "from", "limit?")
//	rpcx.Func(func(ctx context.Context, q Query) error { … })
//	rpcx.Func(func(ctx context.Context, p HoverParams) (*Hover, error) { … }, "...")
//
// fn may begin with a [context.Context], then a *[Session]: those of the
// request. Its other parameters are for the arguments. It returns (T, error),
// T, error or nothing; the error goes out as that of any Handler would. Without a
// result the reply is null. Where peers expect an empty object instead, as those of MCP
// do, the result is a struct{}, which is sent as {}:
//
//	rpcx.Func(func() struct{} { return struct{}{} }) // MCP's "ping"
//
// Positional arguments bind by place, and a variadic parameter takes the rest
// of them. Named ones bind by names, which has a name for every parameter but a
// variadic one (that cannot be given by name). A name that ends in "?" makes its
// parameter optional: if absent, it is the zero value. Only optional parameters
// may follow. Without names, fn can be called with positional arguments alone.
// If the last of names is "...", named arguments that fn has no parameter for are
// left out: peers of some protocols (LSP and MCP are two) send more than one asks
// for. Options.IgnoreUnknownParams does the same for all functions of a session. An
// argument null leaves the zero value in what cannot be nil. Pointers at the end that
// have no names are optional, as in go-ethereum.
//
// An only parameter that has no name takes all params, if it is one of these:
//
//	func(q Query), func(q *Query)  the fields of the struct, by name only
//	func(m map[string]T)           whatever is given by name
//	func(list []T)                 all positional arguments, as list ...T does
//
// The fields of a struct are called what encoding/json calls them, but in exact case,
// and each is required unless it is a pointer or has the option omitempty or omitzero.
// Both hold for the outermost struct only: a struct within it, in a slice or as a
// parameter that has a name is decoded as encoding/json does, in any case and with
// nothing required.
// A parameter that has a name is an ordinary one: Func(func(q Query) { … }, "q") is
// called with [{…}]. So is one whose type decodes itself, like [time.Time], and a
// []byte, which is base64 in JSON.
//
// Values are decoded as encoding/json does: a [time.Duration] is a number of nanoseconds,
// so that 5 is 5ns. Take a string and call [time.ParseDuration], or a number whose name
// tells its unit ("timeoutMs").
//
// A function that wants all params as they came is no Func but a [HandlerFunc], with
// [Request.Bind].
//
// A raw payload binds to a function whose only parameter is a []byte.
//
// Each of these forms has an example, in example_handler_test.go.
//
// Arguments that are missing, too many, unknown, given twice or of the wrong
// type are answered [CodeInvalidParams], with a message that names them. If they are
// missing or unknown, Options.Logger is told how to allow that: see [Error].Hint. (Where
// one is missing and another unknown, as when a name is misspelt, the peer is told of the
// missing one, in the words of aiorpcX, and the log of both.)
//
// Func panics if it cannot make a handler of fn, and says what to write instead. An
// array as the only parameter, a map there whose keys are no strings, a reply as the
// second one, as in net/rpc, and a result such as *[Error] or [Error], which is an error,
// are refused so.
func Func(fn any, names ...string) Handler {
	h, err := newFunc(fn, names)
	if err != nil {
		panic(fmt.Sprintf("rpcx.Func(%T): %v", fn, err))
	}
	return h
}

// newFunc is Func with an error.
func newFunc(fn any, names []string) (Handler, error) {
	sig, err := newSignature(reflect.TypeOf(fn), names)
	if err == nil {
		return sig.newHandler(fn)
	}
	return nil, err
}

// newMethod is newFunc for a method of an interface, whose parameters have no names.
func newMethod(fn any) (Handler, error) {
	sig, err := signatureOf(reflect.TypeOf(fn), nil, true)
	if err != nil {
		return nil, err
	}
	return sig.newHandler(fn)
}

// newHandler returns the handler that calls fn.
func (sig *signature) newHandler(fn any) (Handler, error) {
	if reflect.ValueOf(fn).IsNil() {
		return nil, errors.New("the function is nil")
	}
	if h := directHandler(sig, fn); h != nil {
		return h, nil
	}
	return sig.newReflectHandler(reflect.ValueOf(fn)), nil
}

// newReflectHandler returns the handler for any function, which it calls by reflection.
func (sig *signature) newReflectHandler(fn reflect.Value) HandlerFunc {
	return func(ctx context.Context, req *Request) (any, error) {
		args := make([]json.RawMessage, len(sig.params))
		rest, err := sig.bindArguments(req, args)
		if err != nil {
			return nil, err
		}
		in := make([]reflect.Value, 0, len(args)+3)
		if sig.contextParam {
			in = append(in, reflect.ValueOf(ctx))
		}
		if sig.sessionParam {
			in = append(in, reflect.ValueOf(req.session))
		}
		var object reflect.Value // the struct, if that is what the arguments are for
		switch {
		case sig.structType != nil && sig.pointerParam:
			in = append(in, reflect.New(sig.structType))
			object = in[len(in)-1].Elem()
		case sig.structType != nil:
			object = reflect.New(sig.structType).Elem()
			in = append(in, object)
		case sig.mapping != nil:
			all, err := sig.decodeNamedMap(req)
			if err != nil {
				return nil, err
			}
			in = append(in, all)
		}
		for i, p := range sig.params {
			var v reflect.Value
			if sig.structType != nil {
				v = object.FieldByIndex(p.field)
			} else {
				v = reflect.New(p.typ).Elem()
				in = append(in, v)
			}
			if err := sig.decodeArgument(req, i, args[i], v.Addr().Interface()); err != nil {
				return nil, err
			}
		}
		if sig.variadic == nil {
			return sig.handlerResult(fn.Call(in))
		}
		few := min(rest.n, fewArguments) // more only as they turn out to be good
		tail := reflect.MakeSlice(sig.variadic, 0, few)
		for i := range rest.n {
			tail = reflect.Append(tail, reflect.Zero(sig.variadic.Elem()))
			if err := sig.decodeArgument(req, len(args)+i, rest.nextArgument(), tail.Index(i).Addr().Interface()); err != nil {
				return nil, err
			}
		}
		in = append(in, tail)
		if sig.sliceParam {
			return sig.handlerResult(fn.Call(in))
		}
		return sig.handlerResult(fn.CallSlice(in))
	}
}

// handlerResult makes a handler's result of what the function returned.
func (sig *signature) handlerResult(out []reflect.Value) (any, error) {
	if sig.errorReturned {
		if err, _ := out[len(out)-1].Interface().(error); err != nil {
			return nil, err
		}
	}
	if sig.resultReturned {
		return out[0].Interface(), nil
	}
	return nil, nil
}

// directHandler returns a handler for a function of a common type, which it calls
// without reflection, or nil. The types are those with a context, up to two
// parameters or a variadic one of a type listed in taking, and an error or a
// result of a type listed here and an error.
func directHandler(sig *signature, fn any) Handler {
	if f, ok := fn.(func(context.Context) error); ok {
		return adaptNoArgument(sig, func(ctx context.Context) (any, error) { return nil, f(ctx) })
	}
	for _, try := range []func(*signature, any) HandlerFunc{
		directHandlerReturning[any], directHandlerReturning[json.RawMessage], directHandlerReturning[string], directHandlerReturning[bool],
		directHandlerReturning[int], directHandlerReturning[int64], directHandlerReturning[float64],
	} {
		if h := try(sig, fn); h != nil {
			return h
		}
	}
	return nil
}

// directHandlerReturning is direct for the functions that return an R.
func directHandlerReturning[R any](sig *signature, fn any) HandlerFunc {
	if f, ok := fn.(func(context.Context) (R, error)); ok {
		return adaptNoArgument(sig, f)
	}
	for _, try := range []func(*signature, any) HandlerFunc{
		directHandlerTaking[json.RawMessage, R], directHandlerTaking[string, R], directHandlerTaking[int, R], directHandlerTaking[int64, R], directHandlerTaking[float64, R],
	} {
		if h := try(sig, fn); h != nil {
			return h
		}
	}
	return nil
}

// directHandlerTaking is direct for the functions that take an A, and return an R or only an error.
func directHandlerTaking[A, R any](sig *signature, fn any) HandlerFunc {
	switch f := fn.(type) {
	case func(context.Context, A) error:
		return adaptOneArgument(sig, func(ctx context.Context, a A) (any, error) { return nil, f(ctx, a) })
	case func(context.Context, A) (R, error):
		return adaptOneArgument(sig, f)
	case func(context.Context, A, A) (R, error):
		return adaptTwoArguments(sig, f)
	case func(context.Context, ...A) (R, error):
		return adaptVariadic(sig, f)
	}
	return nil
}

func adaptNoArgument[R any](sig *signature, fn func(context.Context) (R, error)) HandlerFunc {
	return func(ctx context.Context, req *Request) (any, error) {
		if _, err := sig.bindArguments(req, nil); err != nil {
			return nil, err
		}
		return boxResult(fn(ctx))
	}
}

func adaptOneArgument[A, R any](sig *signature, fn func(context.Context, A) (R, error)) HandlerFunc {
	var args argumentPool[A]
	return func(ctx context.Context, req *Request) (any, error) {
		var raw [1]json.RawMessage
		if _, err := sig.bindArguments(req, raw[:]); err != nil {
			return nil, err
		}
		a, err := args.decodePooled(sig, req, 0, raw[0])
		if err != nil {
			return nil, err
		}
		return boxResult(fn(ctx, a))
	}
}

func adaptTwoArguments[A, R any](sig *signature, fn func(context.Context, A, A) (R, error)) HandlerFunc {
	var args argumentPool[A]
	return func(ctx context.Context, req *Request) (any, error) {
		var raw [2]json.RawMessage
		if _, err := sig.bindArguments(req, raw[:]); err != nil {
			return nil, err
		}
		a, err := args.decodePooled(sig, req, 0, raw[0])
		if err != nil {
			return nil, err
		}
		b, err := args.decodePooled(sig, req, 1, raw[1])
		if err != nil {
			return nil, err
		}
		return boxResult(fn(ctx, a, b))
	}
}

func adaptVariadic[A, R any](sig *signature, fn func(context.Context, ...A) (R, error)) HandlerFunc {
	return func(ctx context.Context, req *Request) (any, error) {
		rest, err := sig.bindArguments(req, nil)
		if err != nil {
			return nil, err
		}
		args := make([]A, 0, min(rest.n, fewArguments)) // more only as they turn out to be good
		for i := range rest.n {
			var zero A
			args = append(args, zero)
			if err := sig.decodeArgument(req, i, rest.nextArgument(), &args[i]); err != nil {
				return nil, err
			}
		}
		return boxResult(fn(ctx, args...))
	}
}

// fewArguments is how many there is room for before any is decoded.
const fewArguments = 16

func boxResult[R any](r R, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// argumentPool decodes arguments of type A. What a codec decodes into has to be on
// the heap; so that this costs no allocation for each argument, it is reused.
type argumentPool[A any] struct{ values sync.Pool }

func (args *argumentPool[A]) decodePooled(sig *signature, req *Request, i int, raw json.RawMessage) (A, error) {
	v, _ := args.values.Get().(*A)
	if v == nil {
		v = new(A)
	}
	err := sig.decodeArgument(req, i, raw, v)
	var a, zero A
	// Emptied, it neither keeps this argument nor lends its memory to the next.
	a, *v = *v, zero
	args.values.Put(v)
	return a, err
}

// elements goes through the elements of an array: of JSON as it stands, of any
// other encoding as the codec has taken it to pieces.
type elements struct {
	scan   jsonscan.Scanner // behind the element before
	pieces []json.RawMessage
}

// nextElement returns the next element. ok is false behind the last one.
func (e *elements) nextElement() (value json.RawMessage, ok bool) {
	if len(e.pieces) > 0 {
		value, e.pieces = e.pieces[0], e.pieces[1:]
		return value, true
	}
	return e.scan.NextElement()
}

// members goes through the members of an object likewise.
type members struct {
	scan   jsonscan.Scanner
	pieces []member
}

type member struct{ key, value json.RawMessage } // the key is a JSON string in any encoding

func (m *members) nextKeyValue() (key, value json.RawMessage, ok bool) {
	if len(m.pieces) > 0 {
		next := m.pieces[0]
		m.pieces = m.pieces[1:]
		return next.key, next.value, true
	}
	return m.scan.NextMember()
}

// splitArguments returns what goes through the params, from their start.
func (p *Params) splitArguments() (positional elements, named members, err error) {
	raw := rawType(p.codec)
	if raw == nil {
		positional.scan.Data, named.scan.Data = p.Positional, p.Named
		return positional, named, nil
	}
	if p.Positional != nil {
		list := reflect.New(reflect.SliceOf(raw))
		if err := p.codec.Unmarshal(p.Positional, list.Interface()); err != nil {
			return positional, named, invalidArguments(err)
		}
		for i := range list.Elem().Len() {
			positional.pieces = append(positional.pieces, pieceBytes(p.codec, list.Elem().Index(i)))
		}
	}
	if p.Named != nil {
		object := reflect.New(reflect.MapOf(reflect.TypeFor[string](), raw))
		if err := p.codec.Unmarshal(p.Named, object.Interface()); err != nil {
			return positional, named, invalidArguments(err)
		}
		for each := object.Elem().MapRange(); each.Next(); {
			key := jsonscan.AppendString(nil, each.Key().String())
			named.pieces = append(named.pieces, member{key, pieceBytes(p.codec, each.Value())})
		}
	}
	return positional, named, nil
}

// pieceBytes returns the bytes of a codec's raw value, which are nil for null.
func pieceBytes(c Codec, raw reflect.Value) json.RawMessage {
	if raw.Len() > 0 {
		return raw.Bytes()
	}
	null, _ := c.Append(nil, nil)
	return null
}

// rawType returns the type of the raw values of a codec, nil if that is JSON's.
func rawType(c Codec) reflect.Type {
	if o, ok := c.(*objectCodec); ok {
		c = o.Codec
	}
	if c, ok := c.(RawCodec); ok {
		return c.RawType()
	}
	return nil
}
