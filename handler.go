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

// A Handler answers requests and handles notifications.
//
// The session's codec encodes the result, and the session sends the encoding as the reply.
// A [json.RawMessage] is sent unchanged, but without white space. Nil is sent as null, and
// struct{}{} as {}.
//
// If the returned error is or wraps an [*Error], the session sends the [*Error]. An
// [*Error] returned as the result is treated in the same way. A [*ProtocolError] about a
// received message is sent with its code and message, unless the code is
// [CodeInternalError]. [ErrExcessiveCost] ends the session.
//
// Any other error is logged, and answered with [CodeInternalError], "internal server
// error". The text of the error stays here, unless the protocol is a [ServiceProtocol].
// Errors of other libraries are no exception, even if they have a code. If a handler
// panics, or its result cannot be encoded, the request is answered in the same way. The
// session recovers the panic. If ctx has ended and the error says so, the handler has not
// failed, and the record has the level Debug.
//
// The [*Error] may come from a peer, as the answer to a call back or to a call of a third
// program. The caller receives an [*Error] returned unchanged with its code, as if the
// handler had made the error. To keep the error here, wrap it with %v. To report the
// error, make a new [*Error]:
//
//	return nil, fmt.Errorf("ask the client: %v", err)            // answered "internal server error"
//	return nil, rpcx.Errorf(7, "the client has no name: %v", err) // answered with code 7
//
// The handlers of a session run concurrently, at most Limits.Concurrency at once.
//
// ctx ends when the handler returns, when Limits.ProcessingTimeout has passed since the
// request arrived, and when the session ends. With Options.Cancellation, ctx also ends
// when the peer cancels the request. [context.Cause] returns the reason. Work that
// continues after the handler needs a separate context, for example from
// [context.WithoutCancel].
//
// A connection without halves, such as a WebSocket, ends as soon as the peer closes it. A
// notification sent just before the close is still handled, but ctx has already ended.
//
// A handler may call its peer through req.Session(). The call should use ctx, so that the
// session can tell which handler waits.
//
// A Handler may serve many sessions, and must be safe for concurrent use. A handler that goes
// on after the end of its context still counts for Limits.Concurrency.
type Handler interface {
	ServeRPC(ctx context.Context, req *Request) (any, error)
}

// HandlerFunc adapts a function to a [Handler]. See [Handler] for the treatment of errors.
type HandlerFunc func(ctx context.Context, req *Request) (any, error)

// ServeRPC calls f.
func (f HandlerFunc) ServeRPC(ctx context.Context, req *Request) (any, error) { return f(ctx, req) }

// Request is a request or notification to be handled. The Request belongs to its handler,
// which may keep it.
type Request struct {
	Method string
	ID     ID // nil for a notification
	Params Params

	session *Session
	meta    *json.RawMessage // an object with the values for Request.Meta, or nil
}

// Session returns the session that received the request.
func (r *Request) Session() *Session { return r.session }

// IsNotification reports whether the sender expects no reply.
func (r *Request) IsNotification() bool { return r.ID == nil }

// Bind decodes the params into v; see [Params.Bind].
func (r *Request) Bind(v any) error { return r.Params.Bind(v) }

// RequestFromContext returns the request that a handler is handling. ctx is the handler's
// context, or derived from it. For any other context the result is nil. In a function of
// [Func], the request gives access to the method, the id, the undecoded params and the
// session:
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

// ReplyAndDisconnect makes the session reply with v and then close. A handler returns the
// [*Disconnect] as its result or as its error. If v is an error, the session answers as if
// the handler had returned v as its error. In a batch, the session first waits for the
// replies to the remaining members. Before closing, the session sends queued messages, for
// at most Limits.CloseTimeout.
func ReplyAndDisconnect(v any) *Disconnect { return &Disconnect{v} }

// Disconnect is the result of [ReplyAndDisconnect]. A handler can return a Disconnect as
// its result or as its error.
type Disconnect struct{ reply any }

func (d *Disconnect) Error() string { return "reply and disconnect" }

// Func turns a Go function into a [Handler]. The handler decodes the arguments of a
// request and passes them to fn:
//
//	rpcx.Func(func(ctx context.Context, message string) (string, error) { … }, "message")
//	rpcx.Func(func(ctx context.Context, values ...float64) (float64, error) { … })
//	rpcx.Func(func(s *rpcx.Session, from string, limit int) []Entry { … }, "from", "limit?")
//	rpcx.Func(func(ctx context.Context, q Query) error { … })
//	rpcx.Func(func(ctx context.Context, p HoverParams) (*Hover, error) { … }, "...")
//
// fn may begin with a [context.Context], followed by a *[Session]: the context of the
// handler and the session of the request. The remaining parameters receive the arguments.
//
// fn returns (T, error), T, error or nothing. An error is answered as described at
// [Handler]. Without a result the reply is null. If peers expect an empty object instead,
// as peers of MCP do, return a struct{}, which is sent as {}:
//
//	rpcx.Func(func() struct{} { return struct{}{} }) // MCP's "ping"
//
// Positional arguments bind by position, and a variadic parameter takes all further
// arguments. Named arguments bind by names, which has a name for every parameter except a
// variadic parameter. A variadic parameter cannot be given by name. If a name ends in "?",
// its parameter is optional, and is the zero value if the argument is absent. Only
// optional parameters may follow an optional parameter. Without names, fn accepts
// positional arguments only.
//
// If the last of names is "...", unknown named arguments are ignored. Peers of some
// protocols, such as LSP and MCP, send more arguments than fn needs.
// Options.IgnoreUnknownParams ignores unknown arguments for all functions of a session.
//
// If an argument is null and the parameter's type has no nil, the parameter is the zero
// value. Without names, pointers at the end of the parameters are optional, as in
// go-ethereum.
//
// If a single parameter is for arguments, and has no name, the parameter takes all params.
// The following types can do so:
//
//	func(q Query), func(q *Query)  the fields of the struct, by name only
//	func(m map[string]T)           all named arguments
//	func(list []T)                 all positional arguments, as list ...T does
//
// The fields of a struct have the same names as in encoding/json, but in exact case. A
// field is required, unless it is a pointer or its tag has the option omitempty or
// omitzero. Both rules hold for the outermost struct only. Structs in fields, in slices
// and as named parameters are decoded as in encoding/json, in any case and without
// required fields.
//
// A parameter with a name is an ordinary parameter: Func(func(q Query) { … }, "q") is
// called with [{…}]. A parameter whose type decodes itself, like [time.Time], is an
// ordinary parameter, too. So is a []byte, which is base64 in JSON.
//
// Values are decoded as in encoding/json. A [time.Duration] is a number of nanoseconds, so
// 5 means 5ns. For a duration, take a string and call [time.ParseDuration], or take a
// number and name the parameter after the unit ("timeoutMs").
//
// If a function needs the undecoded params, write a [HandlerFunc] and call [Request.Bind].
//
// A raw payload binds to a function whose only parameter is a []byte.
//
// The file example_handler_test.go has examples of the common forms.
//
// If arguments are missing, too many, unknown, given twice or of the wrong type, the reply
// is an error with [CodeInvalidParams]. The message names the arguments. If arguments are
// missing or unknown, Options.Logger receives a hint for allowing the call: see
// [Error].Hint. If an argument is missing and another argument is unknown, a name may be
// misspelt. The message to the peer then has only the missing argument, in the words of
// aiorpcX. The log has both.
//
// If Func cannot make a handler of fn, it panics, and the text of the panic suggests a
// correction. Func refuses an array, and a map without strings as keys, as the only
// parameter. Func also refuses a second parameter for the reply, as in net/rpc, and an
// error as the result, such as *[Error] or [Error].
func Func(fn any, names ...string) Handler {
	h, err := newFunc(fn, names, false)
	if err != nil {
		panic(fmt.Sprintf("rpcx.Func(%T): %v", fn, err))
	}
	return h
}

// newFunc is [Func] with an error in place of a panic. fn may be a method of an interface.
func newFunc(fn any, names []string, method bool) (Handler, error) {
	sig, err := newSignature(reflect.TypeOf(fn), names, method)
	switch {
	case err != nil:
		return nil, err
	case reflect.ValueOf(fn).IsNil():
		return nil, errors.New("the function is nil")
	}
	if h, ok := directHandler(sig, fn).(HandlerFunc); ok {
		return h, nil
	}
	return sig.newReflectHandler(reflect.ValueOf(fn)), nil
}

// newReflectHandler returns a handler that calls fn by reflection.
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
		var object reflect.Value // the struct for the arguments, if the function takes a struct
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
		few := min(rest.n, fewArguments) // the slice grows only with decoded arguments
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

// handlerResult converts the values that the function returned to a handler's result.
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

// directHandler returns a handler that calls fn without reflection, or nil if the type of
// fn is not common. A common type has a context and at most two parameters of the same
// type A, or a variadic ...A. The results are (R, error), or error alone if there are
// fewer than two parameters. directHandler lists the types R, and directHandlerReturning
// the types A.
func directHandler(sig *signature, fn any) any {
	if f, ok := fn.(func(context.Context) error); ok {
		return adaptNoArgument(sig, func(ctx context.Context) (any, error) { return nil, f(ctx) })
	}
	return firstDirect(sig, fn, directHandlerReturning[any], directHandlerReturning[json.RawMessage], directHandlerReturning[string],
		directHandlerReturning[bool], directHandlerReturning[int], directHandlerReturning[int64], directHandlerReturning[float64])
}

// firstDirect returns the first result of tries that is not nil, or nil.
func firstDirect[S, F any](s S, f F, tries ...func(S, F) any) any {
	for _, try := range tries {
		if direct := try(s, f); direct != nil {
			return direct
		}
	}
	return nil
}

// directHandlerReturning is directHandler for a fixed type R.
func directHandlerReturning[R any](sig *signature, fn any) any {
	if f, ok := fn.(func(context.Context) (R, error)); ok {
		return adaptNoArgument(sig, f)
	}
	return firstDirect(sig, fn, directHandlerTaking[json.RawMessage, R], directHandlerTaking[string, R], directHandlerTaking[int, R],
		directHandlerTaking[int64, R], directHandlerTaking[float64, R])
}

// directHandlerTaking is directHandler for fixed types A and R, and functions with a
// parameter.
func directHandlerTaking[A, R any](sig *signature, fn any) any {
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
		args := make([]A, 0, min(rest.n, fewArguments)) // the slice grows only with decoded arguments
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

// fewArguments bounds the capacity allocated before any argument is decoded.
const fewArguments = 16

func boxResult[R any](r R, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// argumentPool decodes arguments of type A. The destination of a codec has to be on the
// heap, so argumentPool reuses destinations to avoid an allocation for each argument.
type argumentPool[A any] struct{ values sync.Pool }

func (args *argumentPool[A]) decodePooled(sig *signature, req *Request, i int, raw json.RawMessage) (A, error) {
	v, _ := args.values.Get().(*A)
	if v == nil {
		v = new(A)
	}
	err := sig.decodeArgument(req, i, raw, v)
	var a, zero A
	// With the zero value, *v neither keeps this argument nor shares memory with the next.
	a, *v = *v, zero
	args.values.Put(v)
	return a, err
}

// elements iterates over the elements of an array. JSON is scanned in place. An array in
// another encoding has been split by its codec.
type elements struct {
	scan   jsonscan.Scanner // after the previous element
	pieces []json.RawMessage
}

// nextElement returns the next element. ok is false after the last element.
func (e *elements) nextElement() (value json.RawMessage, ok bool) {
	if len(e.pieces) > 0 {
		value, e.pieces = e.pieces[0], e.pieces[1:]
		return value, true
	}
	return e.scan.NextElement()
}

// members iterates over the members of an object in the same way.
type members struct {
	scan   jsonscan.Scanner
	pieces []member
}

type member struct{ key, value json.RawMessage } // key is a JSON string, whatever the codec

func (m *members) nextKeyValue() (key, value json.RawMessage, ok bool) {
	if len(m.pieces) > 0 {
		next := m.pieces[0]
		m.pieces = m.pieces[1:]
		return next.key, next.value, true
	}
	return m.scan.NextMember()
}

// splitArguments returns iterators over the positional and named params.
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

// pieceBytes returns the bytes of raw, a raw value of c. If raw is empty, the result is
// c's encoding of null.
func pieceBytes(c Codec, raw reflect.Value) json.RawMessage {
	if raw.Len() > 0 {
		return raw.Bytes()
	}
	null, _ := c.Append(nil, nil)
	return null
}

// rawType returns the type of the raw values of c, or nil if c encodes to JSON.
func rawType(c Codec) reflect.Type {
	if o, ok := c.(*objectCodec); ok {
		c = o.Codec
	}
	if c, ok := c.(RawCodec); ok {
		return c.RawType()
	}
	return nil
}
