package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"sync"
)

// Proxy refers to a service of the peer: a [Router], or a value passed to [Expose].
// [Session.Remote], [Remote] and [Proxy.At] return proxies. A peer can also send a
// service as an argument or as a result, and the service arrives as a Proxy.
//
// Proxies are equal if they have the same path and the same [Caller], a session for
// example. Compare pointers with Equal, and values with ==. A Proxy value can be the key
// of a map. With a Caller that Go cannot compare, such as a struct with a slice, ==
// panics. Equal then reports true only for the same pointer.
type Proxy struct {
	caller Caller
	path   string
}

// Named holds named arguments. A Named can be the last argument of [Proxy.Call].
type Named map[string]any

// Remote returns the proxy for the root of the services that c calls. Remote sends
// nothing. Remote panics if c is nil.
func Remote(c Caller) *Proxy {
	mustHave("Remote", "caller", c)
	return &Proxy{caller: c}
}

// Remote returns the proxy for the root of the peer's services. Remote sends nothing, and
// does not need Options.Objects.
func (s *Session) Remote() *Proxy { return Remote(s) }

// At returns the proxy for the service at the given names, each below the previous name.
// At does not check whether the service exists: calls fail if there is no service. A call
// sends the names and the method with "/" between names, as in "math/add". A [Router] and
// aiomas understand this form. If the peer's methods have dots, pass the complete name as
// the method:
//
//	s.Remote().Call(ctx, &sum, "math.add", 1, 2) // or s.Call, with rpcx.Args{1, 2}
func (p *Proxy) At(name ...string) *Proxy {
	return &Proxy{p.caller, p.pathTo(strings.Join(name, "/"))}
}

// pathTo returns the path to name below p.
func (p *Proxy) pathTo(name string) string {
	if p.path == "" || name == "" {
		return p.path + name
	}
	return p.path + "/" + name
}

// Call calls a method of the service; see [Session.Call] for ctx, result and the error.
// The args are positional arguments. If the last argument is a [Named], it holds the named
// arguments. If the protocol cannot carry both kinds of arguments, as JSON-RPC, passing
// both is an error.
func (p *Proxy) Call(ctx context.Context, result any, method string, args ...any) error {
	if err := p.checkMethod(method); err != nil {
		return err
	}
	return p.caller.Call(ctx, p.pathTo(method), arrangeParams(args), result)
}

// Go is Call without waiting; see [Session.Go].
func (p *Proxy) Go(ctx context.Context, method string, args ...any) *Future {
	if err := p.checkMethod(method); err != nil {
		return newFailedFuture(err)
	}
	return p.caller.Go(ctx, p.pathTo(method), arrangeParams(args))
}

// Notify sends a notification to a method of the service; see [Session.Notify].
func (p *Proxy) Notify(ctx context.Context, method string, args ...any) error {
	if err := p.checkMethod(method); err != nil {
		return err
	}
	return p.caller.Notify(ctx, p.pathTo(method), arrangeParams(args))
}

func (p *Proxy) checkMethod(method string) error {
	switch {
	case p == nil || p.caller == nil:
		return fmt.Errorf("call %q: the proxy stands for no service", method)
	case method == "":
		return fmt.Errorf("call of %v: no method is named", p)
	}
	return nil
}

// arrangeParams converts args to the params of a call.
func arrangeParams(args []any) any {
	if last := len(args) - 1; last >= 0 {
		if named, ok := args[last].(Named); ok {
			args = args[:last]
			switch {
			case len(named) > 0 && len(args) > 0:
				return Mixed{Args: args, Named: named}
			case len(named) > 0:
				return named // any Caller can encode a map
			}
		}
	}
	if len(args) == 0 {
		return nil
	}
	return Args(args)
}

// Session returns the session for calls to the service, or nil if the calls go through
// another [Caller].
func (p *Proxy) Session() *Session {
	s, _ := p.caller.(*Session)
	return s
}

// Path returns the path of the service in the tree of the peer's handler.
func (p *Proxy) Path() string { return p.path }

// Equal reports whether p and q stand for the same service. Nil equals nil.
func (p *Proxy) Equal(q *Proxy) bool {
	if p == nil || q == nil || !reflect.ValueOf(&p.caller).Elem().Comparable() || !reflect.ValueOf(&q.caller).Elem().Comparable() {
		return p == q
	}
	return *p == *q
}

// String returns the peer's address, if the [Caller] has a method RemoteAddr, and the
// path.
func (p *Proxy) String() string {
	if p == nil || p.caller == nil {
		return "Proxy(none)"
	}
	peer := "?"
	if c, ok := p.caller.(interface{ RemoteAddr() net.Addr }); ok {
		if addr := c.RemoteAddr(); addr != nil {
			peer = addr.String()
		}
	}
	return fmt.Sprintf("Proxy(%s, %q)", peer, excerpt(p.path))
}

var errNoObjects = errors.New("services are received only on a session with Options.Objects")

// MarshalJSON fails: a service of a peer cannot be sent, neither to the same peer nor to
// another.
func (Proxy) MarshalJSON() ([]byte, error) { return nil, errors.New("a proxy cannot be sent") }

// UnmarshalJSON fails: only a session with objects can receive a service.
func (*Proxy) UnmarshalJSON([]byte) error { return errNoObjects }

// BindProxy sets the function fields of a struct, so that calling a field calls a method
// of the service. client points to the struct:
//
//	var calc struct {
//		Add   func(ctx context.Context, a, b int) (int, error)
//		Count func(ctx context.Context) (int, error) `rpcx:"how_many"`
//		Log   struct {
//			Clear func(ctx context.Context) error // this is log/clear
//		}
//	}
//	err := rpcx.BindProxy(s.Remote().At("calculator"), &calc)
//	sum, err := calc.Add(ctx, 3, 4)
//
// The name of a method is the tag, or else the name of the field in lower snake case, as
// in services of [Expose]. A field that is a struct has the methods of a service below,
// named by the tag or the field in the same way. An embedded struct without a tag has
// methods of the same service.
//
// A path has "/" between names. If the peer's methods have dots, bind s.Remote() and write
// the complete name into the tag: `rpcx:"calculator.add"`. BindProxy ignores fields with
// the tag "-", and fields of other kinds.
//
// A function takes a context and arguments. The arguments are positional, and each element
// of a variadic parameter is an argument. If the only argument is a struct or a pointer to
// a struct, the fields are sent by name, as [Func] expects. Services, and types of
// Options.Types, remain positional arguments.
//
// The results are (T, error) or error. If a function has another form, BindProxy returns
// an error and sets no field.
func BindProxy(p *Proxy, client any) error {
	if p == nil || p.caller == nil {
		return errors.New("bind: the proxy stands for no service")
	}
	v := reflect.ValueOf(client)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("bind %v: %T is not a pointer to a struct", p, client)
	}
	stubs, err := p.appendStubs(nil, v.Elem())
	if err != nil {
		return fmt.Errorf("bind %v: %w", p, err)
	}
	for _, s := range stubs {
		s.field.Set(s.fn)
	}
	return nil
}

// stub is a function for a field.
type stub struct{ field, fn reflect.Value }

func (p *Proxy) appendStubs(stubs []stub, v reflect.Value) (_ []stub, err error) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("rpcx")
		switch {
		case name == "-":
			continue
		case name == "":
			name = snakeCase(f.Name)
		}
		switch f.Type.Kind() {
		case reflect.Struct:
			below := p.At(name)
			if f.Anonymous && f.Tag.Get("rpcx") == "" {
				below = p
			}
			if stubs, err = below.appendStubs(stubs, v.Field(i)); err != nil {
				return nil, err
			}
		case reflect.Func:
			if !f.IsExported() || !v.Field(i).CanSet() {
				return nil, fmt.Errorf("field %s cannot be set", f.Name)
			}
			fn, err := p.newStub(f.Type, p.pathTo(name))
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", f.Name, err)
			}
			stubs = append(stubs, stub{v.Field(i), fn})
		}
	}
	return stubs, nil
}

// stubArguments holds the arguments of a call. The [Caller] does not use the arguments
// after the call returns, so stubArguments can be reused.
type stubArguments struct {
	args   Args
	params any // args as an any, allocated anew only if the length changes
}

// newStub returns a function of type t that calls method.
func (p *Proxy) newStub(t reflect.Type, method string) (reflect.Value, error) {
	if t.NumIn() == 0 || t.In(0) != contextType {
		return reflect.Value{}, errors.New("the first parameter has to be a context.Context")
	}
	if n := t.NumOut(); n == 0 || n > 2 || t.Out(n-1) != errorType {
		return reflect.Value{}, errors.New("the results have to be (T, error) or error")
	}
	for in := range t.Ins() {
		if in != contextType && !hasJSON(in) {
			return reflect.Value{}, fmt.Errorf("%v cannot be encoded", in)
		}
	}
	if t.NumOut() == 2 && !decodable(t.Out(0)) {
		return reflect.Value{}, fmt.Errorf("%v cannot be decoded", t.Out(0))
	}
	fixed := t.NumIn() - 1
	if t.IsVariadic() {
		fixed--
	}
	// The single parameter becomes the params: a struct by name, or the slice of a
	// variadic parameter.
	whole := t.NumIn() == 2 && !t.IsVariadic() && asParams(p.caller, t.In(1)) ||
		t.NumIn() == 2 && t.IsVariadic() && t.In(1).Elem().Kind() != reflect.Uint8
	caller := p.caller
	call := func(ctx context.Context, params, result any) error { return caller.Call(ctx, method, params, result) }
	if fn := directStub(t, call); fn != nil {
		return reflect.ValueOf(fn), nil
	}
	free := sync.Pool{New: func() any { return &stubArguments{Args{}, Args{}} }}
	return reflect.MakeFunc(t, func(in []reflect.Value) []reflect.Value {
		ctx, _ := in[0].Interface().(context.Context)
		var result reflect.Value
		var dest any
		if t.NumOut() == 2 {
			result = reflect.New(t.Out(0))
			dest = result.Interface()
		}
		var err error
		if whole {
			err = call(ctx, in[1].Interface(), dest)
		} else {
			o := free.Get().(*stubArguments)
			args := o.args[:0]
			for _, arg := range in[1 : 1+fixed] {
				args = append(args, arg.Interface())
			}
			if t.IsVariadic() {
				for i := range in[1+fixed].Len() {
					args = append(args, in[1+fixed].Index(i).Interface())
				}
			}
			if len(args) != len(o.args) {
				o.args, o.params = args, args
			}
			err = call(ctx, o.params, dest)
			clear(o.args)
			free.Put(o)
		}
		if dest == nil {
			return []reflect.Value{errorValue(err)}
		}
		return []reflect.Value{result.Elem(), errorValue(err)}
	}), nil
}

// objectCaller is a [Caller] that may send objects: a *Session, an *Exchange, or a struct
// that embeds one of them.
type objectCaller interface{ objectCodec() *objectCodec }

// objectCodec implements objectCaller. Without objects, the result is nil.
func (s *Session) objectCodec() *objectCodec {
	o, _ := s.codec.(*objectCodec)
	return o
}

// asParams reports whether t is a struct, or a pointer to a struct, with the params as
// fields. For services and types of Options.Types, the result is false.
func asParams(c Caller, t reflect.Type) bool {
	var o *objectCodec
	if c, ok := c.(objectCaller); ok {
		o = c.objectCodec()
	}
	for {
		if kind := planNone; t == routerType {
			return false
		} else if o != nil {
			kind = o.planOf(t).kind
			if kind == planObject || kind == planService {
				return false
			}
		}
		if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
			return isPlainStruct(t)
		}
		t = t.Elem()
	}
}

// errorValue returns err as a value of type error. reflect.ValueOf would return the
// concrete type.
func errorValue(err error) reflect.Value {
	if err == nil {
		return reflect.Zero(errorType) // allocates nothing
	}
	failure := err
	return reflect.ValueOf(&failure).Elem()
}

// callFunc calls a method of the peer.
type callFunc func(ctx context.Context, params, result any) error

// directStub returns a function of type t that calls call without reflection, or nil if t
// is not common. The common types are those of directHandler, except variadic functions.
// The cost is the same as for [Session.Call]: by reflection, a call has 9 allocations
// instead of 7, and takes as long.
func directStub(t reflect.Type, call callFunc) any {
	fn := reflect.Zero(t).Interface()
	if _, ok := fn.(func(context.Context) error); ok {
		return func(ctx context.Context) error { return call(ctx, nil, nil) }
	}
	return firstDirect(fn, call, directStubReceiving[any], directStubReceiving[json.RawMessage], directStubReceiving[string],
		directStubReceiving[bool], directStubReceiving[int], directStubReceiving[int64], directStubReceiving[float64])
}

// directStubReceiving is directStub for a fixed result type R.
func directStubReceiving[R any](fn any, call callFunc) any {
	if _, ok := fn.(func(context.Context) (R, error)); ok {
		return func(ctx context.Context) (result R, err error) {
			err = call(ctx, nil, &result)
			return result, err
		}
	}
	return firstDirect(fn, call, directStubSending[json.RawMessage, R], directStubSending[string, R], directStubSending[int, R],
		directStubSending[int64, R], directStubSending[float64, R])
}

// directStubSending is directStub for a fixed parameter type A and result type R, and
// functions with a parameter.
func directStubSending[A, R any](fn any, call callFunc) any {
	switch fn.(type) {
	case func(context.Context, A) error:
		return func(ctx context.Context, a A) error { return call(ctx, Args{a}, nil) }
	case func(context.Context, A) (R, error):
		return func(ctx context.Context, a A) (result R, err error) {
			err = call(ctx, Args{a}, &result)
			return result, err
		}
	case func(context.Context, A, A) (R, error):
		return func(ctx context.Context, a, b A) (result R, err error) {
			err = call(ctx, Args{a, b}, &result)
			return result, err
		}
	}
	return nil
}
