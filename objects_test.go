package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"github.com/google/go-cmp/cmp"
)

// withObjects returns options for a session with objects.
func withObjects(h rpcx.Handler) *rpcx.Options { return &rpcx.Options{Handler: h, Objects: true} }

// parcel has services at any depth.
type parcel struct {
	ID      int64                  `json:"id"`
	One     *rpcx.Proxy            `json:"one"`
	Maybe   *rpcx.Proxy            `json:"maybe,omitempty"`
	Many    []*rpcx.Proxy          `json:"many"`
	Named   map[string]*rpcx.Proxy `json:"named"`
	Pair    [2]rpcx.Proxy          `json:"pair"`
	Any     any                    `json:"any"`
	Inner   []parcel               `json:"inner,omitempty"`
	Plain   []string               `json:"plain"`
	Skipped any                    `json:"-"`
	Embedded
}

// Embedded is embedded in a parcel.
type Embedded struct {
	Deep struct{ P *rpcx.Proxy } `json:"deep"`
}

// sent is a parcel as its sender has it.
type sent struct {
	ID    int64                   `json:"id"`
	One   *counter                `json:"one"`
	Many  []*rpcx.Router          `json:"many"`
	Named map[string]*rpcx.Router `json:"named"`
	Pair  [2]any                  `json:"pair"`
	Any   any                     `json:"any"`
	Inner []sent                  `json:"inner,omitempty"`
	Plain []string                `json:"plain"`
	EmbeddedRouter
}

// EmbeddedRouter is embedded in what is sent.
type EmbeddedRouter struct {
	Deep struct{ P *rpcx.Router } `json:"deep"`
}

// A service is found at any depth, and can be called at the other end.
func TestObjectsAtAnyDepth(t *testing.T) {
	root, a, b, c := tree(t)
	svc := &counter{Limit: 10}
	mount(t, a, "count", rpcx.Expose[counting](svc))
	const large = 1<<62 + 1 // is not rounded
	out := sent{
		ID: large, One: svc, Many: []*rpcx.Router{a, nil, b}, Named: map[string]*rpcx.Router{"c": c},
		Pair: [2]any{root, svc}, Any: []any{map[string]any{"deep": c}, 1.5, "x"},
		Inner: []sent{{ID: large, One: svc, Plain: []string{"in"}}}, Plain: []string{"out"},
	}
	out.Deep.P = b
	var in parcel
	var dynamic any
	server := rpcx.NewRouter()
	server.Handle("take", rpcx.Func(func(ctx context.Context, p parcel) (int, error) {
		in = p
		var total int
		return total, p.One.Call(ctx, &total, "add", 4) // from inside the handler
	}, "parcel"))
	server.Handle("any", rpcx.Func(func(v any) { dynamic = v }))
	client, _ := newPipe(t, withObjects(root), withObjects(server))

	total := 0
	if err := client.Remote().Call(t.Context(), &total, "take", out); err != nil || svc.GetTotal() != 4 {
		t.Fatalf("total %d, error %v", svc.GetTotal(), err)
	}
	paths := func(proxies ...*rpcx.Proxy) string {
		var list []string
		for _, p := range proxies {
			if p == nil {
				list = append(list, "nil")
			} else {
				list = append(list, p.Path())
			}
		}
		return strings.Join(list, " ")
	}
	listed, _ := in.Any.([]any)
	if len(listed) != 3 || len(in.Many) != 3 || len(in.Inner) != 1 {
		t.Fatalf("got %+v", in)
	}
	deep, _ := listed[0].(map[string]any)["deep"].(*rpcx.Proxy)
	got := paths(in.One, in.Many[0], in.Many[1], in.Many[2], in.Named["c"], &in.Pair[0], &in.Pair[1], deep, in.Inner[0].One, in.Deep.P, in.Maybe)
	if want := "a/count a nil a/b a/b/c  a/count a/b/c a/count a/b nil"; got != want {
		t.Errorf("paths %q, want %q", got, want)
	}
	if in.ID != large || in.Inner[0].ID != large || in.Plain[0] != "out" || in.Inner[0].Plain[0] != "in" || listed[1] != 1.5 {
		t.Errorf("the rest has changed: %+v", in)
	}
	if err := client.Remote().Call(t.Context(), nil, "any", map[string]any{"x": []any{svc}}); err != nil {
		t.Fatal(err)
	}
	if p, ok := dynamic.(map[string]any)["x"].([]any)[0].(*rpcx.Proxy); !ok || p.Path() != "a/count" {
		t.Errorf("any value is %v", dynamic)
	}
}

// A result may be a service as well, in a batch and from a handler of any kind.
func TestObjectsAsResults(t *testing.T) {
	root, a, b, _ := tree(t)
	root.Handle("a_router", rpcx.Func(func() *rpcx.Router { return a }))
	root.Handle("in a map", rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
		return map[string]any{"b": b}, nil
	}))
	client, _ := newPipe(t, withObjects(nil), withObjects(root))
	p, err := rpcx.Call[*rpcx.Proxy](t.Context(), client, "a_router", nil)
	if err != nil || !p.Equal(client.Remote().At("a")) {
		t.Fatalf("got %v, %v", p, err)
	}
	var level string
	if err := p.At("b", "c").Call(t.Context(), &level, "get"); err != nil || level != "level 3" {
		t.Errorf("got %q, %v", level, err)
	}
	var batch rpcx.Batch
	var proxy rpcx.Proxy
	var m map[string]*rpcx.Proxy
	batch.Call("a_router", nil, &proxy)
	batch.Call("in a map", nil, &m)
	if err := client.SendBatch(t.Context(), &batch); err != nil || proxy.Path() != "a" || m["b"].Path() != "a/b" {
		t.Errorf("got %v and %v, %v", &proxy, m, err)
	}
}

// What cannot be called back is refused before anything is sent.
func TestObjectsThatCannotBeSent(t *testing.T) {
	root, a, _, _ := tree(t)
	svc := new(counter)
	rpcx.Expose[counting](svc)
	removed := rpcx.NewRouter()
	mount(t, root, "x", removed)
	root.Remove("x")
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, withObjects(root))
		inside, _ := newWire(t, withObjects(a)) // its root is not the tree's
		none, _ := newWire(t, withObjects(rpcx.HandlerFunc(hang)))
		off, _ := newWire(t, handling(root))
		for _, test := range []struct {
			sentence string
			s        *rpcx.Session
			arg      any
			want     string
		}{
			{"a router that hangs nowhere", s, rpcx.NewRouter(), "does not hang in the tree"},
			{"one that was removed", s, removed, "does not hang in the tree"},
			{"a service that hangs nowhere", s, svc, "(*rpcx_test.counter) cannot be sent: it does not hang"},
			{"within a list in a struct", s, struct{ L []any }{[]any{svc}}, "field L: a service"},
			{"within a map", s, map[string]*counter{"x": svc}, "does not hang in the tree"},
			{"above the session's handler", inside, root, "does not hang in the tree"},
			{"by a side without services", none, root, "handler is no *Router"},
			{"a proxy", s, s.Remote().At("x"), "of the peer cannot be sent"},
			{"a proxy within a struct", s, parcel{One: s.Remote()}, "of the peer cannot be sent"},
			{"a value within itself", s, cyclic(), "nested over 10000 levels"},
			{"without Options.Objects", off, root, "only on a session with Options.Objects"},
			{"a proxy without Options.Objects", off, off.Remote(), "a proxy cannot be sent"},
		} {
			err := test.s.Remote().Call(t.Context(), nil, "m", test.arg)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: error %v, want %q", test.sentence, err, test.want)
			}
		}
		w.expectNothing()
		f := inside.Remote().Go(t.Context(), "m", a) // it is the root there
		synctest.Wait()
		if f.Err() != nil {
			t.Error(f.Err())
		}
	})
}

func cyclic() any {
	m := map[string]any{}
	m["m"] = []any{m}
	return m
}

// What comes in ill-formed is answered, and named.
func TestObjectsIllFormed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := rpcx.NewRouter()
		root.Handle("proxy", rpcx.Func(func(p *rpcx.Proxy) any { return p == nil }))
		root.Handle("value", rpcx.Func(func(p rpcx.Proxy) string { return p.String() }))
		root.Handle("list", rpcx.Func(func(p []*rpcx.Proxy) any { return len(p) }, "p"))
		root.Handle("any", rpcx.Func(func(v any) string { return fmt.Sprintf("%T", v) }))
		rpcx.Expose[counting](new(counter)) // so that pointers to it are services
		root.Handle("service", rpcx.Func(func(c *counter) any { return c == nil }, "c"))
		_, w := newWire(t, withObjects(root))
		for _, test := range []struct{ method, arg, want string }{
			{"proxy", `null`, `"result":true`},
			{"value", `null`, `"result":"Proxy(none)"`},
			{"value", `{"__type__":[0,"x/y"],"more":1}`, `"result":"Proxy(pipe, \"x/y\")"`},
			{"list", `null`, `"result":0`},
			{"service", `null`, `"result":true`},
			{"service", `{}`, `"result":false`},
			{"service", `{"__type__":[0,"x"]}`, `a service arrives as a *Proxy and not as a *rpcx_test.counter`},
			{"any", `{"__type__":[0,"x"]}`, `"result":"*rpcx.Proxy"`},
			{"any", `{"__Type__":[0,"x"]}`, `"result":"map[string]interface {}"`},
			{"proxy", `{"__Type__":[0,"x"]}`, `not an object with \"__type__\"`},
			{"proxy", `{}`, `not an object`},
			{"proxy", `"x"`, `not an object`},
			{"proxy", `{"__type__":[0]}`, `has to be [id, data]`},
			{"proxy", `{"__type__":[0,"x",1]}`, `has to be [id, data]`},
			{"proxy", `{"__type__":5}`, `has to be [id, data]`},
			{"proxy", `{"__type__":[1,"x"]}`, `no type with the id of an object: 1`},
			{"proxy", `{"__type__":[-1,"x"]}`, `no type with the id of an object: -1`},
			{"proxy", `{"__type__":["0","x"]}`, `no type with the id of an object`},
			{"proxy", `{"__type__":[0,7]}`, `the path of a service has to be a string`},
			{"any", `[[{"__type__":[0,{}]}]]`, `the path of a service has to be a string`},
			{"list", `[null,{"__type__":[0,""]},5]`, `invalid argument \"p\"`},
		} {
			w.say(`{"jsonrpc":"2.0","method":"` + test.method + `","params":[` + test.arg + `],"id":1}`)
			if got := w.heard(); len(got) != 1 || !strings.Contains(got[0], test.want) {
				t.Errorf("%s %s: %s, want %q", test.method, test.arg, got, test.want)
			}
		}
	})
}

// Without Options.Objects a reference is an ordinary value, and no service.
func TestObjectsAreOffByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := rpcx.NewRouter()
		root.Handle("any", rpcx.Func(func(v any) any { return v }))
		root.Handle("proxy", rpcx.Func(func(p *rpcx.Proxy) any { return p }))
		_, w := newWire(t, handling(root))
		w.say(`{"jsonrpc":"2.0","method":"any","params":[{"__type__":[0,""]}],"id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":{"__type__":[0,""]},"id":1}`)
		w.say(`{"jsonrpc":"2.0","method":"proxy","params":[{"__type__":[0,""]}],"id":1}`)
		if got := w.heard(); len(got) != 1 || !strings.Contains(got[0], "Options.Objects") {
			t.Errorf("got %s", got)
		}
	})
}

// celsius and moment travel as objects.
type celsius float64

type moment struct{ at time.Time }

var (
	celsiusType = rpcx.NewType(
		func(c celsius) (float64, error) { return float64(c), nil },
		func(f float64) (celsius, error) {
			if f < -273.15 {
				return 0, errors.New("below absolute zero")
			}
			return celsius(f), nil
		})
	momentType = rpcx.NewType(
		func(m moment) (momentData, error) { return momentData{m.at.Unix(), celsius(20)}, nil },
		func(m momentData) (moment, error) {
			if m.T != celsius(20) {
				return moment{}, fmt.Errorf("got %v", m.T)
			}
			return moment{time.Unix(m.S, 0).UTC()}, nil
		})
)

// momentData is what is sent for a moment. There is an object in it.
type momentData struct {
	S int64 `json:"s"`
	T any   `json:"t"`
}

func TestObjectsOfOtherTypes(t *testing.T) {
	types := []rpcx.Type{celsiusType, momentType}
	root := rpcx.NewRouter()
	root.Handle("echo", rpcx.Func(func(v any) any { return v }))
	root.Handle("typed", rpcx.Func(func(c celsius, m *moment, all []celsius) any {
		return map[string]any{"c": c, "m": *m, "n": len(all)}
	}))
	opts := &rpcx.Options{Handler: root, Objects: true, Types: types}
	client, _ := newPipe(t, opts, opts)
	now := moment{time.Unix(1e9, 0).UTC()}
	for _, v := range []any{celsius(1.5), now, []any{now, celsius(2)}, map[string]any{"x": now}} {
		got, err := rpcx.Call[any](t.Context(), client, "echo", rpcx.Args{v})
		if diff := cmp.Diff(v, got, cmp.AllowUnexported(moment{})); diff != "" || err != nil {
			t.Errorf("error %v, or another value:\n%s", err, diff)
		}
	}
	var got struct {
		C celsius `json:"c"`
		M moment  `json:"m"`
		N int     `json:"n"`
	}
	err := client.Remote().Call(t.Context(), &got, "typed", celsius(3), &now, []celsius{4, 5})
	if err != nil || got.C != 3 || got.M != now || got.N != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
	var bound struct {
		Echo func(ctx context.Context, m moment) (moment, error)
	}
	if err := rpcx.BindProxy(client.Remote(), &bound); err != nil {
		t.Fatal(err)
	}
	if got, err := bound.Echo(t.Context(), now); err != nil || got != now {
		t.Errorf("through a bound function: got %v, %v", got, err)
	}
	p, err := rpcx.Call[*rpcx.Proxy](t.Context(), client, "echo", rpcx.Args{root})
	if err == nil {
		t.Errorf("a proxy was sent back: %v", p)
	}
	for arg, want := range map[string]string{
		`{"__type__":[0,-300]}`: "below absolute zero",
		`{"__type__":[1,{}]}`:   "got <nil>",
		`{"__type__":[2,""]}`:   "is a *rpcx.Proxy and not a rpcx_test.celsius",
		`5`:                     "not an object",
	} {
		err := client.Call(t.Context(), "typed", rpcx.Args{json.RawMessage(arg), nil, nil}, nil)
		matches(t, err, rpcx.ErrInvalidParams)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", arg, err, want)
		}
	}
	panicsWith(t, "has rpcx_test.celsius twice", func() {
		rpcx.Pipe(&rpcx.Options{Objects: true, Types: []rpcx.Type{celsiusType, celsiusType}}, nil)
	})
	panicsWith(t, "*int is an interface or a pointer", func() {
		rpcx.NewType(func(*int) (int, error) { return 0, nil }, func(int) (*int, error) { return nil, nil })
	})
	panicsWith(t, "string has no name of its own", func() {
		rpcx.NewType(func(string) (int, error) { return 0, nil }, func(int) (string, error) { return "", nil })
	})
}

// nest is a type that contains itself.
type nest struct {
	P    *rpcx.Proxy `json:"p,omitempty"`
	Nest []*nest     `json:"nest,omitempty"`
}

// What a peer nests costs it more than us: there is an end to it.
func TestObjectsNestedTooDeeply(t *testing.T) {
	root := rpcx.NewRouter()
	root.Handle("nest", rpcx.Func(func(nest) {}, "nest"))
	types := []rpcx.Type{rpcx.NewType(
		func(w wrapped) (any, error) { return w.v, nil }, func(v any) (wrapped, error) { return wrapped{v}, nil })}
	root.Handle("wrapped", rpcx.Func(func(any) {}))
	opts := &rpcx.Options{Handler: root, Objects: true, Types: types}
	client, _ := newPipe(t, opts, opts)
	for method, levels := range map[string][2]string{
		"nest":    {`{"nest":[`, `]}`},
		"wrapped": {`{"__type__":[0,`, `]}`},
	} {
		for n, fine := range map[int]bool{10: true, 15: true, 50: false, 3000: false} {
			inner := "{}"
			if method == "wrapped" {
				inner = "1"
			}
			arg := strings.Repeat(levels[0], n) + inner + strings.Repeat(levels[1], n)
			err := client.Call(t.Context(), method, rpcx.Args{json.RawMessage(arg)}, nil)
			if fine && err != nil || !fine && (err == nil || !strings.Contains(err.Error(), "over 32 levels")) {
				t.Errorf("%s, %d levels: error %v", method, n, err)
			}
		}
	}
}

type wrapped struct{ v any }

// exactly is a number that a float64 would round.
type exactly int64

// What is in an object is decoded as its type wants it, also where any value is
// expected, in which other numbers are what they are without objects.
func TestObjectsKeepTheirNumbers(t *testing.T) {
	const n = 1<<53 + 1
	opts := withObjects(rpcx.ExposeMap(map[string]any{
		"any":  func() any { return map[string]any{"n": exactly(n), "f": 1.5, "list": []any{exactly(n), int64(n)}} },
		"list": func() any { return []any{2, "\u0000", exactly(n)} },
		"none": func() any { return []any{2, "x"} },
	}))
	opts.Types = []rpcx.Type{rpcx.NewType(
		func(e exactly) (int64, error) { return int64(e), nil }, func(n int64) (exactly, error) { return exactly(n), nil })}
	client, _ := newPipe(t, opts, opts)
	for method, want := range map[string]any{
		"any":  map[string]any{"n": exactly(n), "f": 1.5, "list": []any{exactly(n), float64(1 << 53)}},
		"list": []any{2.0, "\u0000", exactly(n)},
		"none": []any{2.0, "x"},
	} {
		if got, err := rpcx.Call[any](t.Context(), client, method, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v; want %v", method, got, err, want)
		}
		if got, err := rpcx.Call[[]any](t.Context(), client, method, nil); method != "any" && (err != nil || !reflect.DeepEqual(got, want)) {
			t.Errorf("%s as a list: got %v, %v; want %v", method, got, err, want)
		} else if method == "any" && err == nil {
			t.Errorf("a map was decoded to a list: %v", got)
		}
	}
}

// lateIsExposed says that the test below has run: a type is exposed for good.
var lateIsExposed bool

// A type that is exposed when a session has seen it already is a service from then on.
func TestObjectsExposedLater(t *testing.T) {
	if lateIsExposed {
		t.Skip("the type was exposed by the first run")
	}
	lateIsExposed = true
	type late struct{ *counter }
	root := rpcx.NewRouter()
	client, _ := newPipe(t, withObjects(root), withObjects(rpcx.ExposeMap(map[string]any{
		"what": func(v any) string { return fmt.Sprintf("%T", v) },
	})))
	svc := &late{&counter{}}
	for _, want := range []string{"map[string]interface {}", "*rpcx.Proxy"} {
		got, err := rpcx.Call[string](t.Context(), client, "what", rpcx.Args{[]*late{svc}[0]})
		if got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		if _, ok := root.PathOf(svc); !ok {
			mount(t, root, "late", rpcx.Expose[counting](svc))
		}
	}
}

func TestProxies(t *testing.T) {
	client, _ := newPipe(t, nil, nil)
	other, _ := newPipe(t, nil, nil)
	root := client.Remote()
	for _, test := range []struct {
		p    *rpcx.Proxy
		path string
	}{
		{root, ""}, {root.At(), ""}, {root.At("a"), "a"}, {root.At("a", "b"), "a/b"},
		{root.At("a").At("b"), "a/b"}, {root.At("a/b"), "a/b"}, {root.At("a").At(), "a"},
	} {
		if test.p.Path() != test.path || test.p.Session() != client {
			t.Errorf("the path of %v is %q, want %q", test.p, test.p.Path(), test.path)
		}
	}
	if p, q := root.At("a", "b"), root.At("a/b"); !p.Equal(q) || *p != *q {
		t.Errorf("%v and %v are not equal", p, q)
	}
	if root.Equal(root.At("a")) || root.Equal(other.Remote()) || root.Equal(nil) || !(*rpcx.Proxy)(nil).Equal(nil) {
		t.Error("proxies are equal that are not")
	}
	if got := map[rpcx.Proxy]int{*root.At("a"): 1}[*root.At("a")]; got != 1 {
		t.Error("a proxy is no key")
	}
	if got, want := root.At("a").String(), `Proxy(pipe, "a")`; got != want {
		t.Errorf("printed as %s, want %s", got, want)
	}
}

func TestProxyArguments(t *testing.T) {
	var last rpcx.Params
	h := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		last = req.Params
		return req.Method, nil
	})
	both, _ := newPipe(t, aiomasOptions(nil), aiomasOptions(h))
	inOrder := handling(h)
	inOrder.Order = rpcx.Sequential // the notification is handled before the call behind it
	either, _ := newPipe(t, nil, inOrder)
	for _, test := range []struct {
		sentence          string
		s                 *rpcx.Session
		args              []any
		positional, named string
	}{
		{"none", either, nil, "", ""},
		{"by position", either, []any{1, "x"}, `[1,"x"]`, ""},
		{"by name", either, []any{rpcx.Named{"a": 1}}, "", `{"a":1}`},
		{"no names", either, []any{1, rpcx.Named{}}, `[1]`, ""},
		{"none, where both are always sent", both, nil, `[]`, `{}`},
		{"both", both, []any{1, rpcx.Named{"a": 1}}, `[1]`, `{"a":1}`},
		{"by name alone", both, []any{rpcx.Named{"a": 1}}, `[]`, `{"a":1}`},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			var method string
			err := test.s.Remote().At("svc").Call(t.Context(), &method, "m", test.args...)
			if err != nil || method != "svc/m" {
				t.Fatalf("method %q, error %v", method, err)
			}
			if string(last.Positional) != test.positional || string(last.Named) != test.named {
				t.Errorf("got %s and %s", last.Positional, last.Named)
			}
		})
	}
	err := either.Remote().Call(t.Context(), nil, "m", 1, rpcx.Named{"a": 1})
	if err == nil || !strings.Contains(err.Error(), "cannot carry positional and named") {
		t.Errorf("both over JSON-RPC: error %v", err)
	}
	for _, p := range []*rpcx.Proxy{nil, {}} {
		if err := p.Call(t.Context(), nil, "m"); err == nil || p.Notify(t.Context(), "m") == nil {
			t.Errorf("a call of %v: error %v", p, err)
		}
	}
	if err := either.Remote().Go(t.Context(), "").Err(); err == nil || !strings.Contains(err.Error(), "no method") {
		t.Errorf("a call of no method: error %v", err)
	}
	if err := either.Remote().At("svc").Notify(t.Context(), "n", 5); err != nil {
		t.Error(err)
	}
	if err := either.Call(t.Context(), "m", nil, nil); err != nil || string(last.Positional) != "" {
		t.Errorf("error %v", err)
	}
}

// aiomasOptions returns options for a session that speaks aiomas's own protocol.
func aiomasOptions(h rpcx.Handler) *rpcx.Options {
	return &rpcx.Options{Handler: h, Protocol: rpcx.Aiomas, Framer: rpcx.LengthFramer{}}
}

// bound is a client of every kind of function.
type bound struct {
	None     func(ctx context.Context) error
	Add      func(ctx context.Context, n int) (int, error)
	GetTotal func(context.Context) (int, error)
	Sum      func(ctx context.Context, first string, more ...float64) (string, error)
	Renamed  func(ctx context.Context) (string, error) `rpcx:"other"`
	Query    func(ctx context.Context, q search) (search, error)
	Pointer  func(ctx context.Context, q *search) (*search, error)
	Proxy    func(ctx context.Context, svc any) (*rpcx.Proxy, error)
	Fail     func(context.Context) (int, error)
	Left     func() `rpcx:"-"`
	Value    int
	Below    struct {
		Get    func(context.Context) (string, error)
		Deeper struct {
			Get func(context.Context) (string, error)
		}
	}
	Same
	private int
}

// Same is embedded: its functions are of the same service.
type Same struct {
	Embedded func(context.Context) (bool, error)
}

type search struct {
	Text  string `json:"text"`
	Limit *int   `json:"limit"`
}

func TestBindProxy(t *testing.T) {
	total := 0
	svc := rpcx.ExposeMap(map[string]any{
		"none":      func() {},
		"add":       func(n int) int { total += n; return total },
		"get_total": func() int { return total },
		"sum": func(first string, more ...float64) string {
			return strings.Repeat(first, len(more))
		},
		"other":    func() string { return "another name" },
		"query":    func(q search) search { return q },
		"pointer":  func(q *search) *search { return q },
		"proxy":    func(p *rpcx.Proxy) error { return p.Call(context.Background(), nil, "got it") },
		"fail":     func() error { return rpcx.Errorf(7, "no") },
		"embedded": func() bool { return true },
		"below":    map[string]any{"get": func() string { return "low" }, "deeper": map[string]any{"get": func() string { return "lower" }}},
	})
	server := rpcx.ExposeMap(map[string]any{"svc": svc})
	called := false
	mine := rpcx.ExposeMap(map[string]any{"got it": func() { called = true }})
	client, _ := newPipe(t, withObjects(mine), withObjects(server))
	c := bound{Value: 5, private: 6}
	if err := rpcx.BindProxy(client.Remote().At("svc"), &c); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	limit := 3
	check := func(what string, got, want any, err error) {
		t.Helper()
		if got != want || err != nil {
			t.Errorf("%s: got %v, %v; want %v", what, got, err, want)
		}
	}
	check("none", nil, nil, c.None(ctx))
	n, err := c.Add(ctx, 300)
	check("add", n, 300, err)
	n, err = c.GetTotal(ctx)
	check("get_total", n, 300, err)
	s, err := c.Sum(ctx, "na", 1, 2, 3)
	check("sum", s, "nanana", err)
	s, err = c.Sum(ctx, "na")
	check("sum of none", s, "", err)
	s, err = c.Renamed(ctx)
	check("renamed", s, "another name", err)
	q, err := c.Query(ctx, search{"hi", &limit})
	check("query", q.Text, "hi", err)
	check("its limit", *q.Limit, 3, nil)
	p, err := c.Pointer(ctx, &search{"ho", nil})
	check("pointer", *p, search{"ho", nil}, err)
	_, err = c.Pointer(ctx, nil)
	matches(t, err, rpcx.ErrInvalidParams) // "text" is missing
	_, err = c.Proxy(ctx, mine)
	check("proxy", called, true, err)
	s, err = c.Below.Get(ctx)
	check("below", s, "low", err)
	s, err = c.Below.Deeper.Get(ctx)
	check("deeper", s, "lower", err)
	b, err := c.Embedded(ctx)
	check("embedded", b, true, err)
	var e *rpcx.Error
	if n, err = c.Fail(ctx); n != 0 || !errors.As(err, &e) || e.Code != 7 {
		t.Errorf("failed with %d, %v", n, err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	matches(t, c.None(ended), context.Canceled)
	if c.Left != nil || c.Value != 5 || c.private != 6 {
		t.Error("another field was set")
	}
}

func TestBindProxyRefuses(t *testing.T) {
	client, _ := newPipe(t, nil, nil)
	p := client.Remote()
	type fine = func(context.Context) error
	for want, dest := range map[string]any{
		"not a pointer to a struct": struct{ A fine }{},
		"(int) is not":              nil,
		"has to be a context":       &struct{ A func() error }{},
		"results have to be":        &struct{ A func(context.Context) }{},
		"results have to be (T":     &struct{ A func(context.Context) int }{},
		"results have to": &struct {
			A func(context.Context) (int, int, error)
		}{},
		"chan int cannot be enc": &struct {
			A func(context.Context, chan int) error
		}{},
		"chan int cannot be dec": &struct {
			A func(context.Context) (chan int, error)
		}{},
		"field a cannot be set": &struct{ a fine }{},
		"field B: the results": &struct {
			S struct{ B func(context.Context) }
		}{},
	} {
		if dest == nil {
			dest, want = 5, "int is not a pointer"
		}
		if err := rpcx.BindProxy(p, dest); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: error %v, want %q", dest, err, want)
		}
	}
	half := struct {
		Good fine
		Bad  func()
	}{}
	if err := rpcx.BindProxy(p, &half); err == nil || half.Good != nil {
		t.Errorf("error %v, but a function was set", err)
	}
	if err := rpcx.BindProxy(nil, &half); err == nil {
		t.Error("bound to no service")
	}
}

// Functions of common types are called in another way than others.
func TestBindProxyCommonTypes(t *testing.T) {
	var last json.RawMessage
	client, _ := newPipe(t, nil, handling(rpcx.ExposeMap(map[string]any{
		"one":  func(v json.RawMessage) any { return v },
		"two":  func(_, v json.RawMessage) any { return v },
		"only": func(v json.RawMessage) { last = v },
		"none": func() any { return last },
		"fail": func(json.RawMessage) error { return &rpcx.Error{Code: 7, Message: "no"} },
	})))
	bindTo(t, client, "a", "b")
	bindTo(t, client, 1, 2)
	bindTo(t, client, int64(1<<53+1), 2)
	bindTo(t, client, 1.5, -2)
	bindTo(t, client, true, false)
	bindTo(t, client, uint8(1), 2) // not common
	bindTo[any](t, client, "x", 1.0)
}

func bindTo[T any](t *testing.T, s *rpcx.Session, a, b T) {
	t.Helper()
	var c struct {
		One  func(ctx context.Context, v T) (T, error)
		Two  func(ctx context.Context, v, w T) (T, error)
		Only func(ctx context.Context, v T) error
		None func(ctx context.Context) (T, error)
		Fail func(ctx context.Context, v T) error
	}
	if err := rpcx.BindProxy(s.Remote(), &c); err != nil {
		t.Fatal(err)
	}
	one, err1 := c.One(t.Context(), a)
	two, err2 := c.Two(t.Context(), a, b)
	err3 := c.Only(t.Context(), b)
	none, err4 := c.None(t.Context())
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Errorf("%T: %v", a, err)
	}
	if diff := cmp.Diff([]T{a, b, b}, []T{one, two, none}); diff != "" {
		t.Errorf("%T: other results:\n%s", a, diff)
	}
	var e *rpcx.Error
	if err := c.Fail(t.Context(), a); !errors.As(err, &e) || e.Code != 7 {
		t.Errorf("%T: error %v", a, err)
	}
}

// A call through a bound function costs little more than Session.Call.
func TestBindProxyAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	server := rpcx.ExposeMap(map[string]any{
		"none":  func(context.Context) error { return nil },
		"add":   func(_ context.Context, a, b int) (int, error) { return a + b, nil },
		"join":  func(_ context.Context, a, b string) (string, error) { return a + b, nil },
		"sum":   func(_ context.Context, n ...float64) (float64, error) { return float64(len(n)), nil },
		"mixed": func(_ context.Context, s string, n int) (string, error) { return s, nil },
		"tail":  func(s string, n ...int) string { return s },
		"query": func(s search) string { return s.Text },
	})
	client, _ := newPipe(t, nil, handling(server))
	var c struct {
		None  func(ctx context.Context) error
		Add   func(ctx context.Context, a, b int) (int, error)
		Join  func(ctx context.Context, a, b string) (string, error)
		Sum   func(ctx context.Context, n ...float64) (float64, error)
		Mixed func(ctx context.Context, s string, n int) (string, error)
		Tail  func(ctx context.Context, s string, n ...int) (string, error)
		Query func(ctx context.Context, s search) (string, error)
	}
	var sum int
	if err := rpcx.BindProxy(client.Remote(), &c); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	text, number, float := strings.Repeat("x", 3), 12345+len(t.Name()), 1.5*float64(len(t.Name()))
	for _, test := range []struct {
		name        string
		bound, call func() error
	}{
		{"nothing", func() error { return c.None(ctx) },
			func() error { return client.Call(ctx, "none", nil, nil) }},
		{"two constants", func() error { _, err := c.Add(ctx, 3, 4); return err },
			func() error { var n int; return client.Call(ctx, "add", rpcx.Args{3, 4}, &n) }},
		{"two constants into the same place", func() error { _, err := c.Add(ctx, 3, 4); return err },
			func() error { return client.Call(ctx, "add", rpcx.Args{3, 4}, &sum) }},
		{"two numbers", func() error { _, err := c.Add(ctx, number, number); return err },
			func() error { var n int; return client.Call(ctx, "add", rpcx.Args{number, number}, &n) }},
		{"two strings", func() error { _, err := c.Join(ctx, text, text); return err },
			func() error { var s string; return client.Call(ctx, "join", rpcx.Args{text, text}, &s) }},
		{"three of many", func() error { _, err := c.Sum(ctx, float, float, float); return err },
			func() error { var f float64; return client.Call(ctx, "sum", rpcx.Args{float, float, float}, &f) }},
		{"a string and a number", func() error { _, err := c.Mixed(ctx, text, number); return err },
			func() error { var s string; return client.Call(ctx, "mixed", rpcx.Args{text, number}, &s) }},
		{"a string and some numbers", func() error { _, err := c.Tail(ctx, text, number, number); return err },
			func() error { var s string; return client.Call(ctx, "tail", rpcx.Args{text, number, number}, &s) }},
		{"a struct", func() error { _, err := c.Query(ctx, search{Text: text}); return err },
			func() error { var s string; return client.Call(ctx, "query", search{Text: text}, &s) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			count := func(f func() error) float64 {
				return testing.AllocsPerRun(500, func() {
					if err := f(); err != nil {
						t.Fatal(err)
					}
				})
			}
			call, bound := count(test.call), count(test.bound)
			t.Logf("%v allocations a call, %v through the function", call, bound)
			if bound > call+3 {
				t.Errorf("%v allocations, Session.Call has %v", bound, call)
			}
		})
	}
}
