package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

type forecastQuery struct {
	City string `json:"city"`
	Days int    `json:"days,omitempty"`
	Unit *string
}

// aroundHandler is a middleware of a program's own that shows what it wraps.
type aroundHandler struct{ rpcx.Handler }

func (w aroundHandler) ServeRPC(ctx context.Context, req *rpcx.Request) (any, error) {
	return w.Handler.ServeRPC(ctx, req)
}

func (w aroundHandler) Unwrap() rpcx.Handler { return w.Handler }

func TestSignatureOf(t *testing.T) {
	text, number := reflect.TypeFor[string](), reflect.TypeFor[int]()
	for _, c := range []struct {
		name  string
		fn    any
		names []string
		want  rpcx.Signature
	}{
		{"nothing", func() {}, nil, rpcx.Signature{Named: true}},
		{"an error alone", func(context.Context) error { return nil }, nil, rpcx.Signature{Named: true}},
		{"by position only, called directly", func(context.Context, string) (int, error) { return 0, nil }, nil,
			rpcx.Signature{Params: []rpcx.Param{{Type: text}}, Result: number}},
		{"by position only, called by reflection", func(*rpcx.Session, string, int) string { return "" }, nil,
			rpcx.Signature{Params: []rpcx.Param{{Type: text}, {Type: number}}, Result: text}},
		{"with names, one of them optional", func(context.Context, int, int) (int, error) { return 0, nil }, []string{"a", "b?"},
			rpcx.Signature{Params: []rpcx.Param{{"a", number, false}, {"b", number, true}}, Named: true, Result: number}},
		{"pointers at the end", func(string, *int) {}, nil,
			rpcx.Signature{Params: []rpcx.Param{{Type: text}, {Type: reflect.TypeFor[*int](), Optional: true}}}},
		{"unknown names are ignored", func(string) {}, []string{"a", "..."},
			rpcx.Signature{Params: []rpcx.Param{{"a", text, false}}, Named: true, IgnoreUnknown: true}},
		{"variadic alone", func(context.Context, ...int) (int, error) { return 0, nil }, nil,
			rpcx.Signature{Variadic: number, Result: number}},
		{"variadic beside a name", func(string, ...int) {}, []string{"a"},
			rpcx.Signature{Params: []rpcx.Param{{"a", text, false}}, Variadic: number, Named: true}},
		{"variadic beside no name", func(string, ...int) {}, nil,
			rpcx.Signature{Params: []rpcx.Param{{Type: text}}, Variadic: number}},
		{"a slice of all arguments", func([]string) {}, nil, rpcx.Signature{Variadic: text}},
		{"a slice as an argument", func([]string) {}, []string{"list"},
			rpcx.Signature{Params: []rpcx.Param{{"list", reflect.TypeFor[[]string](), false}}, Named: true}},
		{"a map of all arguments", func(map[string]int) {}, nil, rpcx.Signature{Named: true, Object: reflect.TypeFor[map[string]int]()}},
		{"a struct", func(forecastQuery) []int { return nil }, nil, rpcx.Signature{
			Params: []rpcx.Param{{"city", text, false}, {"days", number, true}, {"Unit", reflect.TypeFor[*string](), true}},
			Named:  true, Object: reflect.TypeFor[forecastQuery](), Result: reflect.TypeFor[[]int](),
		}},
		{"a pointer to a struct, open", func(*forecastQuery) {}, []string{"..."}, rpcx.Signature{
			Params: []rpcx.Param{{"city", text, false}, {"days", number, true}, {"Unit", reflect.TypeFor[*string](), true}},
			Named:  true, Object: reflect.TypeFor[forecastQuery](), IgnoreUnknown: true,
		}},
		{"a struct as an argument", func(forecastQuery) {}, []string{"q"},
			rpcx.Signature{Params: []rpcx.Param{{"q", reflect.TypeFor[forecastQuery](), false}}, Named: true}},
		{"raw JSON", func(json.RawMessage) (json.RawMessage, error) { return nil, nil }, nil,
			rpcx.Signature{Params: []rpcx.Param{{Type: reflect.TypeFor[json.RawMessage]()}}, Result: reflect.TypeFor[json.RawMessage]()}},
		{"a result of no members", func() struct{} { return struct{}{} }, nil, rpcx.Signature{Named: true, Result: reflect.TypeFor[struct{}]()}},
		{"a last reply", func() *rpcx.Disconnect { return nil }, nil, rpcx.Signature{Named: true, Result: reflect.TypeFor[any]()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := rpcx.Func(c.fn, c.names...)
			for wrap, h := range map[string]rpcx.Handler{
				"bare": h, "documented": rpcx.Documented(h, rpcx.Doc{}), "wrapped": aroundHandler{rpcx.Documented(aroundHandler{h}, rpcx.Doc{})},
			} {
				got, ok := rpcx.SignatureOf(h)
				if !ok {
					t.Fatalf("%s: there is no signature", wrap)
				}
				if diff := cmp.Diff(&c.want, got, cmp.Comparer(func(a, b reflect.Type) bool { return a == b })); diff != "" {
					t.Errorf("%s:\n%s", wrap, diff)
				}
			}
		})
	}
}

func TestSignatureOfOthers(t *testing.T) {
	for name, h := range map[string]rpcx.Handler{
		"nil": nil, "HandlerFunc": rpcx.HandlerFunc(reply), "Router": rpcx.NewRouter(), "a user's type": methods{},
		"a wrapper of nothing": aroundHandler{}, "a documented HandlerFunc": rpcx.Documented(rpcx.HandlerFunc(reply), rpcx.Doc{}),
	} {
		if sig, ok := rpcx.SignatureOf(h); ok || sig != nil {
			t.Errorf("%s has the signature %v", name, sig)
		}
	}
}

// The caller owns a signature: to change it changes neither the handler nor the next one.
func TestSignatureBelongsToItsCaller(t *testing.T) {
	h := rpcx.Func(func(a, b int) int { return a - b }, "a", "b")
	first, _ := rpcx.SignatureOf(h)
	first.Params[0].Name, first.Params[1].Optional = "changed", true
	again, _ := rpcx.SignatureOf(h)
	if again.Params[0].Name != "a" || again.Params[1].Optional {
		t.Errorf("a second look finds %v", again)
	}
	client, _ := newPipe(t, nil, handling(h))
	if n, err := rpcx.Call[int](t.Context(), client, "", map[string]any{"a": 3, "b": 1}); n != 2 || err != nil {
		t.Errorf("the handler answers %d, %v", n, err)
	}
}

func TestDocOf(t *testing.T) {
	serve := rpcx.Func(func() {})
	first, second := rpcx.Doc{Summary: "first", Public: true}, rpcx.Doc{Summary: "second"}
	for _, c := range []struct {
		name string
		h    rpcx.Handler
		want string
	}{
		{"nil", nil, ""},
		{"a nil router", (*rpcx.Router)(nil), ""},
		{"a handler without any", serve, ""},
		{"a router without any", rpcx.NewRouter(), ""},
		{"a handler", rpcx.Documented(serve, first), "first"},
		{"one that is documented twice", rpcx.Documented(rpcx.Documented(serve, first), second), "second"},
		{"one within a wrapper", aroundHandler{rpcx.Documented(serve, first)}, "first"},
		{"a wrapper around one, documented", rpcx.Documented(aroundHandler{rpcx.Documented(serve, first)}, second), "second"},
		{"a router", rpcx.Documented(rpcx.NewRouter(), first), "first"},
		{"a router within a wrapper", aroundHandler{rpcx.Documented(rpcx.NewRouter(), first)}, "first"},
		{"a router that is documented twice", rpcx.Documented(rpcx.Documented(rpcx.NewRouter(), first), second), "second"},
	} {
		d, ok := rpcx.DocOf(c.h)
		if ok != (c.want != "") || ok != (d != nil) || ok && d.Summary != c.want {
			t.Errorf("%s: %v, %v", c.name, d, ok)
		}
	}
	if first.Summary != "first" || !first.Public {
		t.Error("Documented has changed the Doc of its caller")
	}
}

func TestDocumentedRefusesNil(t *testing.T) {
	for name, h := range map[string]rpcx.Handler{"nil": nil, "a nil HandlerFunc": rpcx.HandlerFunc(nil), "a nil Router": (*rpcx.Router)(nil)} {
		func() {
			defer func() {
				if r := recover(); r != "rpcx: Documented with a nil handler" {
					t.Errorf("%s: it panics with %v", name, r)
				}
			}()
			rpcx.Documented(h, rpcx.Doc{})
		}()
	}
}

// A documented router is the same router: a tree, a service, and the root of a session.
func TestDocumentedRouterIsTheRouter(t *testing.T) {
	service := &counter{Limit: 10}
	exposed := rpcx.Expose[counting](service)
	h := rpcx.Documented(exposed, rpcx.Doc{Summary: "counts"})
	if h != rpcx.Handler(exposed) {
		t.Fatalf("it is a %T", h)
	}
	root := rpcx.ExposeMap(map[string]any{"counter": h, "ping": rpcx.Documented(rpcx.Func(func() string { return "pong" }), rpcx.Doc{})})
	if path, ok := root.PathOf(service); path != "counter" || !ok {
		t.Errorf("the service is at %q, %v", path, ok)
	}
	client, _ := newPipe(t, nil, handling(rpcx.Documented(root, rpcx.Doc{})))
	if _, err := rpcx.Call[int](t.Context(), client, "counter/add", rpcx.Args{3}); err != nil {
		t.Error(err)
	}
	if total, err := rpcx.Call[int](t.Context(), client, "counter.get_total", nil); total != 3 || err != nil {
		t.Errorf("the total is %d, %v", total, err)
	}
	if got, err := rpcx.Call[string](t.Context(), client, "ping", nil); got != "pong" || err != nil {
		t.Errorf("a documented method answers %q, %v", got, err)
	}
	sub, err := root.Resolve("counter")
	if d, ok := rpcx.DocOf(sub); err != nil || !ok || d.Summary != "counts" {
		t.Errorf("the mounted router has the Doc %v, %v", d, err)
	}
}

func TestRouterHandlers(t *testing.T) {
	root := rpcx.ExposeMap(map[string]any{
		"b":       func(int) {},
		"a":       rpcx.Documented(rpcx.HandlerFunc(reply), rpcx.Doc{Summary: "replies"}),
		"counter": rpcx.Expose[counting](&counter{}),
		"empty":   rpcx.NewRouter(),
	})
	var paths []string
	handlers := make(map[string]rpcx.Handler)
	for path, h := range root.Handlers() {
		root.Remove(path) // no lock is held, and the list is that of the beginning
		paths = append(paths, path)
		handlers[path] = h
	}
	want := []string{"a", "b", "counter/Add", "counter/GetTotal", "counter/add", "counter/get_total"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Error(diff)
	}
	for path := range root.Handlers() {
		if path != "counter/Add" {
			t.Errorf("after the others were removed %q comes first", path)
		}
		break
	}
	if d, ok := rpcx.DocOf(handlers["a"]); !ok || d.Summary != "replies" {
		t.Errorf("the Doc is %v", d)
	}
	for path, params := range map[string]int{"b": 1, "counter/add": 1, "counter/get_total": 0} {
		if sig, ok := rpcx.SignatureOf(handlers[path]); !ok || len(sig.Params) != params {
			t.Errorf("%s has the signature %v", path, sig)
		}
	}
	if handlers["counter/Add"] != handlers["counter/add"] {
		t.Error("the two names of a method have different handlers")
	}
	if left := slices.Collect(root.Methods()); len(left) != 4 {
		t.Errorf("left are %v", left)
	}
}

// Router.Document documents what is in a router already: a method by all its names, a
// mounted router, and a handler that was documented before.
func TestRouterDocument(t *testing.T) {
	service := &counter{Limit: 10}
	root := rpcx.ExposeMap(map[string]any{
		"counter": rpcx.Expose[counting](service),
		"a/b":     rpcx.HandlerFunc(reply),
		"other":   rpcx.Documented(aroundHandler{rpcx.Func(func() {})}, rpcx.Doc{Summary: "before"}),
	})
	for _, path := range []string{"counter/get_total", "counter", "a/b", "other"} {
		if err := root.Document(path, rpcx.Doc{Summary: "of " + path}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := root.Document("counter/Add", rpcx.Doc{Summary: "by one name"}); err != nil {
		t.Error(err)
	}
	if err := root.Document("counter/add", rpcx.Doc{Summary: "by the other name"}); err != nil {
		t.Error(err)
	}
	docs := make(map[string]string)
	for path, h := range root.Handlers() {
		if d, ok := rpcx.DocOf(h); ok {
			docs[path] = d.Summary
		}
	}
	want := map[string]string{
		"a/b": "of a/b", "other": "of other", "counter/get_total": "of counter/get_total", "counter/GetTotal": "of counter/get_total",
		"counter/add": "by the other name", "counter/Add": "by the other name",
	}
	if diff := cmp.Diff(want, docs); diff != "" {
		t.Error(diff)
	}
	sub, _ := root.Resolve("counter")
	if d, ok := rpcx.DocOf(sub); !ok || d.Summary != "of counter" {
		t.Errorf("the router has the Doc %v", d)
	}
	if path, ok := root.PathOf(service); path != "counter" || !ok {
		t.Errorf("the service is at %q, %v", path, ok)
	}
	client, _ := newPipe(t, nil, handling(root))
	if total, err := rpcx.Call[int](t.Context(), client, "counter/get_total", nil); total != 0 || err != nil {
		t.Errorf("the total is %d, %v", total, err)
	}
	for _, path := range []string{"none", "counter/none", "a", "counter/Reset", ""} {
		if err := root.Document(path, rpcx.Doc{}); !errors.Is(err, rpcx.ErrMethodNotFound) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// A Doc costs a call nothing, and neither does what SignatureOf reads.
func TestDocumentedAllocs(t *testing.T) {
	bare := rpcx.Func(func(context.Context, string) (string, error) { return "", nil })
	documented := rpcx.Documented(bare, rpcx.Doc{Summary: "says nothing"})
	req := &rpcx.Request{Method: "m", Params: rpcx.Params{Positional: json.RawMessage(`["x"]`)}}
	allocs := func(h rpcx.Handler) float64 {
		return testing.AllocsPerRun(1000, func() {
			if _, err := h.ServeRPC(t.Context(), req); err != nil {
				t.Error(err)
			}
		})
	}
	if a, b := allocs(bare), allocs(documented); a != b || a > 1 {
		t.Errorf("a bare handler allocates %v times, a documented one %v times", a, b)
	}
}
