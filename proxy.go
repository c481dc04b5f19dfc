package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// Proxy stands for a service of the peer: a router, or what it exposes. It comes
// from [Session.Remote] and [Proxy.At], or as an argument or a result in which the
// peer has sent a service.
//
// Proxies are equal if they stand for the same path on the same session: compare
// them with Equal, or with == as values. So a Proxy can be the key of a map.
type Proxy struct {
	session *Session
	path    string
}

// Named are arguments by name, among those of [Proxy.Call].
type Named map[string]any

// Remote returns the proxy for the root of the peer's services. This sends
// nothing, and does not need Options.Objects.
func (s *Session) Remote() *Proxy { return &Proxy{session: s} }

// At returns the proxy for the service at the given names, one below the other.
// It is not looked whether there is one: calls will tell. The names and the method are
// sent with "/" between them, "math/add", which a [Router] and aiomas understand. To a
// peer whose methods have dots, name the whole as the method:
//
//	s.Remote().Call(ctx, &sum, "math.add", 1, 2) // or s.Call, with rpcx.Args{1, 2}
func (p *Proxy) At(name ...string) *Proxy {
	return &Proxy{p.session, p.pathTo(strings.Join(name, "/"))}
}

// pathTo returns the path to what is below p.
func (p *Proxy) pathTo(name string) string {
	if p.path == "" || name == "" {
		return p.path + name
	}
	return p.path + "/" + name
}

// Call calls a method of the service; see [Session.Call] for ctx, result and the
// error. The args are positional. If the last is [Named] it holds arguments by
// name; to have both is an error where the protocol cannot carry both, as JSON-RPC.
func (p *Proxy) Call(ctx context.Context, result any, method string, args ...any) error {
	if err := p.checkMethod(method); err != nil {
		return err
	}
	return p.session.Call(ctx, p.pathTo(method), arrangeParams(args), result)
}

// Go is Call without waiting; see [Session.Go].
func (p *Proxy) Go(ctx context.Context, method string, args ...any) *Future {
	if err := p.checkMethod(method); err != nil {
		return newFailedFuture(p.session, method, err)
	}
	return p.session.Go(ctx, p.pathTo(method), arrangeParams(args))
}

// Notify notifies a method of the service; see [Session.Notify].
func (p *Proxy) Notify(ctx context.Context, method string, args ...any) error {
	if err := p.checkMethod(method); err != nil {
		return err
	}
	return p.session.Notify(ctx, p.pathTo(method), arrangeParams(args))
}

func (p *Proxy) checkMethod(method string) error {
	switch {
	case p == nil || p.session == nil:
		return fmt.Errorf("call %q: the proxy stands for no service", method)
	case method == "":
		return fmt.Errorf("call of %v: no method is named", p)
	}
	return nil
}

// arrangeParams returns the params for the arguments.
func arrangeParams(args []any) any {
	if last := len(args) - 1; last >= 0 {
		if named, ok := args[last].(Named); ok {
			if args = args[:last]; len(named) > 0 {
				return Mixed{Args: args, Named: named}
			}
		}
	}
	if len(args) == 0 {
		return nil
	}
	return Args(args)
}

// Session returns the session that the service is reached by.
func (p *Proxy) Session() *Session { return p.session }

// Path returns the path of the service in the tree of the peer's handler.
func (p *Proxy) Path() string { return p.path }

// Equal reports whether p and q stand for the same service. Nil equals nil.
func (p *Proxy) Equal(q *Proxy) bool {
	if p == nil || q == nil {
		return p == q
	}
	return *p == *q
}

// String returns the peer's address and the path.
func (p *Proxy) String() string {
	if p == nil || p.session == nil {
		return "Proxy(none)"
	}
	peer := "?"
	if addr := p.session.RemoteAddr(); addr != nil {
		peer = addr.String()
	}
	return fmt.Sprintf("Proxy(%s, %q)", peer, excerpt(p.path))
}

var errNoObjects = errors.New("services are received only on a session with Options.Objects")

// MarshalJSON fails: what is the peer's own cannot be sent to it, nor to another.
func (Proxy) MarshalJSON() ([]byte, error) { return nil, errors.New("a proxy cannot be sent") }

// UnmarshalJSON fails: only a session with objects can receive a service.
func (*Proxy) UnmarshalJSON([]byte) error { return errNoObjects }

// BindProxy fills the function fields of the struct that client points to, so
// that calling them calls methods of the service:
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
// A method is called what the tag says, or else as the field in lower snake case
// (so a service of [Expose] has it). A field that is a struct has the methods of a
// service below, named likewise; an embedded struct those of the same service.
// A path has "/" between its names; for a peer that has dots, bind s.Remote() and write the
// whole method into the tag: `rpcx:"calculator.add"`. With the tag "-" a field is left alone, and so is one of any other kind.
//
// A function takes a context and arguments, which are positional, the elements of
// a variadic parameter among them; but if its only argument is a struct or a pointer to
// one (and no service, and none of Options.Types), then the fields are given by name, as
// [Func] takes them. It returns
// (T, error) or an error. If there is a function that is no such one, BindProxy fails
// and sets none.
func BindProxy(p *Proxy, client any) error {
	if p == nil || p.session == nil {
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

// stub is a function to be set.
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

// stubArguments are the arguments of a call. They are encoded when it returns, so they
// are used again.
type stubArguments struct {
	args   Args
	params any // args, boxed anew only when there are more or fewer
}

// newStub makes a function of type t that calls method.
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
	// The one parameter is params as it is: a struct by name, a variadic's slice.
	whole := t.NumIn() == 2 && !t.IsVariadic() && p.session.asParams(t.In(1)) ||
		t.NumIn() == 2 && t.IsVariadic() && t.In(1).Elem().Kind() != reflect.Uint8
	session := p.session
	call := func(ctx context.Context, params, result any) error { return session.Call(ctx, method, params, result) }
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

// asParams reports whether t is a struct, or a pointer to one, whose fields are params: no
// service, and none of Options.Types.
func (s *Session) asParams(t reflect.Type) bool {
	o, ok := s.codec.(*objectCodec)
	for {
		if kind := planNone; t == routerType {
			return false
		} else if ok {
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

// errorValue returns err as an interface value, which reflect.ValueOf does not.
func errorValue(err error) reflect.Value {
	if err == nil {
		return reflect.Zero(errorType) // allocates nothing
	}
	failure := err
	return reflect.ValueOf(&failure).Elem()
}

// callFunc calls a method of the peer.
type callFunc func(ctx context.Context, params, result any) error

// directStub returns a function of type t that calls call without reflection, nil
// if t is not common: those that [direct] has for handlers. It costs what
// [Session.Call] does.
func directStub(t reflect.Type, call callFunc) any {
	fn := reflect.Zero(t).Interface()
	if _, ok := fn.(func(context.Context) error); ok {
		return func(ctx context.Context) error { return call(ctx, nil, nil) }
	}
	for _, try := range []func(any, callFunc) any{
		directStubReceiving[any], directStubReceiving[json.RawMessage], directStubReceiving[string], directStubReceiving[bool],
		directStubReceiving[int], directStubReceiving[int64], directStubReceiving[float64],
	} {
		if stub := try(fn, call); stub != nil {
			return stub
		}
	}
	return nil
}

// directStubReceiving is directStub for the functions that return an R.
func directStubReceiving[R any](fn any, call callFunc) any {
	if _, ok := fn.(func(context.Context) (R, error)); ok {
		return func(ctx context.Context) (result R, err error) {
			err = call(ctx, nil, &result)
			return result, err
		}
	}
	for _, try := range []func(any, callFunc) any{
		directStubSending[json.RawMessage, R], directStubSending[string, R], directStubSending[int, R], directStubSending[int64, R], directStubSending[float64, R],
	} {
		if stub := try(fn, call); stub != nil {
			return stub
		}
	}
	return nil
}

// directStubSending is directStub for the functions that take an A, and return an R or only an error.
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
