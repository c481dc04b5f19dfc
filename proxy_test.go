package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"github.com/google/go-cmp/cmp"
)

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
