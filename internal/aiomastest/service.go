package aiomastest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/rpcx"
)

// Root is the service at the root of the vectors' tree.
type Root struct {
	Value int
	Loose *Sub // not mounted

	sub                                          *Sub
	router, subRouter, deep, funcs, inner, loose *rpcx.Router
}

// subAPI is the exposed part of Sub, and deepAPI the exposed part of Deep.
type (
	subAPI  interface{ Mul(a, b float64) float64 }
	deepAPI interface{ Get(x any) any }
)

// Sub and Deep are services below the root.
type (
	Sub  struct{ secrets int }
	Deep struct{}
)

func (*Sub) Mul(a, b float64) float64 { return a * b }
func (s *Sub) Secret() int            { return s.secrets }
func (Deep) Get(x any) any            { return []any{"deep", x} }

// rootAPI is the part of Root that is exposed without parameter names.
type rootAPI interface {
	Echo(x any) any
	Nothing()
	Fail(message string) error
	FailEmpty() error
	FailCustom() error
	Afail() error
	Slow(ms int) int
	BadResult() any
	BytesResult() []byte
	GetSelf() *Root
	GetSub() *Sub
	GetDeepList() any
	GetLoose() *rpcx.Router
	CallBack(ctx context.Context, client *rpcx.Proxy) (string, error)
	CallBackFail(ctx context.Context, client *rpcx.Proxy) (any, error)
}

func newRoot() *Root {
	r := &Root{Value: 5, Loose: &Sub{}, sub: &Sub{}}
	r.loose = rpcx.Expose[subAPI](r.Loose)
	r.subRouter = rpcx.Expose[subAPI](r.sub)
	r.deep = rpcx.Expose[deepAPI](Deep{})
	r.inner = rpcx.ExposeMap(map[string]any{"div": div})
	r.funcs = rpcx.ExposeMap(map[string]any{"div": div, "inner": r.inner})
	r.router = rpcx.Expose[rootAPI](r)
	for name, h := range map[string]rpcx.Handler{
		"add":            rpcx.Func(add, "a", "b"),
		"opt":            rpcx.Func(echoOptional, "a", "b?", "c?"),
		"describe":       rpcx.Func(describe, "obj"),
		"kw":             rpcx.HandlerFunc(echoArguments),
		"call_back_args": rpcx.HandlerFunc(callBackArgs),
	} {
		r.router.Handle(name, h)
	}
	mustMount(r.subRouter.Mount("deep", r.deep))
	mustMount(r.router.Mount("sub", r.subRouter))
	mustMount(r.router.Mount("funcs", r.funcs))
	return r
}

func mustMount(err error) {
	if err != nil {
		panic(err)
	}
}

func (*Root) Hidden() int               { return 0 }
func (*Root) Echo(x any) any            { return x }
func (*Root) Nothing()                  {}
func (*Root) Fail(message string) error { return errors.New("ValueError: " + message) }
func (*Root) FailEmpty() error          { return errors.New("KeyError") }
func (*Root) FailCustom() error         { return errors.New("svc.CustomError: ('a', 1)") }
func (*Root) Afail() error              { return errors.New("RuntimeError: async") }
func (*Root) BadResult() any            { return make(chan int) }
func (*Root) BytesResult() []byte       { return []byte("ab") }
func (r *Root) GetSelf() *Root          { return r }
func (r *Root) GetLoose() *rpcx.Router  { return r.loose }
func (r *Root) GetDeepList() any        { return []any{r.deep, map[string]any{"k": r.funcs}} }
func (r *Root) GetSub() *Sub            { return r.sub }

func (*Root) Slow(ms int) int {
	time.Sleep(time.Duration(ms) * time.Millisecond)
	return ms
}

func (*Root) CallBack(ctx context.Context, client *rpcx.Proxy) (string, error) {
	var name string
	err := client.Call(ctx, &name, "get_name")
	return "name is " + name, err
}

func (*Root) CallBackFail(ctx context.Context, client *rpcx.Proxy) (any, error) {
	return nil, client.Call(ctx, nil, "fail")
}

func add(a, b any) (any, error) {
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return x + y, nil
		}
	}
	if x, ok := a.(int64); ok {
		if y, ok := b.(int64); ok {
			return x + y, nil
		}
	}
	x, okX := toFloat(a)
	y, okY := toFloat(b)
	if !okX || !okY {
		return nil, fmt.Errorf("TypeError: unsupported operand types for +: %T and %T", a, b)
	}
	return x + y, nil
}

// toFloat converts a number decoded by a codec.
func toFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int64:
		return float64(v), true
	}
	return 0, false
}

func div(a, b float64) (float64, error) {
	if b == 0 {
		return 0, errors.New("ZeroDivisionError: division by zero")
	}
	return a / b, nil
}

func echoOptional(a any, b, c *int) any {
	two, three := 2, 3
	if b == nil {
		b = &two
	}
	if c == nil {
		c = &three
	}
	return []any{a, *b, *c}
}

func describe(obj any) string {
	if p, ok := obj.(*rpcx.Proxy); ok {
		return "Proxy:" + p.Path()
	}
	return fmt.Sprintf("%T", obj)
}

// bindBoth decodes the positional and named arguments of a request.
func bindBoth(req *rpcx.Request) (args []any, kwargs map[string]any, err error) {
	positional, named := req.Params, req.Params
	positional.Named, named.Positional = nil, nil
	if err := positional.Bind(&args); err != nil {
		return nil, nil, err
	}
	return args, kwargs, named.Bind(&kwargs)
}

func echoArguments(_ context.Context, req *rpcx.Request) (any, error) {
	args, kwargs, err := bindBoth(req)
	return []any{args, kwargs}, err
}

func callBackArgs(ctx context.Context, req *rpcx.Request) (any, error) {
	args, kwargs, err := bindBoth(req)
	if err != nil {
		return nil, err
	}
	client, ok := args[0].(*rpcx.Proxy)
	if !ok {
		return nil, fmt.Errorf("%T is no service", args[0])
	}
	var joined any
	err = client.At("tools").Call(ctx, &joined, "join", append(args[1:], rpcx.Named(kwargs))...)
	return joined, err
}

// newClientRoot returns the vectors' service of a client, and the service below.
func newClientRoot() (root, inner *rpcx.Router) {
	inner = rpcx.Expose[deepAPI](Deep{})
	root = rpcx.ExposeMap(map[string]any{
		"get_name": func() string { return "Monty" },
		"inner":    inner,
	})
	return root, inner
}
