package rpcx_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

func TestExpose(t *testing.T) {
	r := rpcx.Expose[counting](&counter{Limit: 10})
	want := []string{"Add", "GetTotal", "add", "get_total"}
	if diff := cmp.Diff(want, slices.Collect(r.Methods())); diff != "" {
		t.Errorf("it has other methods than the interface:\n%s", diff)
	}
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: r})
	for method, params := range map[string]any{"Add": rpcx.Args{3}, "add": rpcx.Args{4}} {
		if _, err := rpcx.Call[int](t.Context(), client, method, params); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	if total, err := rpcx.Call[int](t.Context(), client, "get_total", nil); total != 7 || err != nil {
		t.Errorf("the total is %d, %v; want 7", total, err)
	}
	for _, hidden := range []string{"Reset", "reset", "Limit", "limit"} {
		err := client.Call(t.Context(), hidden, nil, nil)
		matches(t, err, rpcx.ErrMethodNotFound)
		if want := `"rpcx_test.counter.` + hidden + `" is not exposed`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	for _, absent := range []string{"mu", "total", "Nothing"} {
		err := client.Call(t.Context(), absent, nil, nil)
		matches(t, err, rpcx.ErrMethodNotFound)
		if err == nil || strings.Contains(err.Error(), "exposed") {
			t.Errorf("error %v tells of what is not exported", err)
		}
	}
}

func TestExposeRenames(t *testing.T) {
	lower := func(name string) string { return strings.ToLower(name[:1]) + name[1:] }
	r := rpcx.Expose[counting](&counter{}, lower)
	want := []string{"Add", "GetTotal", "add", "getTotal"}
	if diff := cmp.Diff(want, slices.Collect(r.Methods())); diff != "" {
		t.Error(diff)
	}
}

// names has methods whose names are hard to put in lower snake case.
type names interface {
	HTTPServer()
	GetID()
	ID()
	Utf8Text()
	A()
	Snake_Case()
}

type named struct{}

func (named) HTTPServer() {}
func (named) GetID()      {}
func (named) ID()         {}
func (named) Utf8Text()   {}
func (named) A()          {}
func (named) Snake_Case() {}

func TestExposeSnakeCase(t *testing.T) {
	r := rpcx.Expose[names](named{})
	var lower []string
	for name := range r.Methods() {
		if strings.ToLower(name) == name {
			lower = append(lower, name)
		}
	}
	want := []string{"a", "get_id", "http_server", "id", "snake_case", "utf8_text"}
	if diff := cmp.Diff(want, lower); diff != "" {
		t.Error(diff)
	}
}

// What is not valid is refused when it is built, with the reason.
func TestExposeRefuses(t *testing.T) {
	type hidden interface{ hidden() }
	mounted := rpcx.NewRouter()
	mount(t, rpcx.NewRouter(), "x", mounted)
	for part, f := range map[string]func(){
		"not an interface":                     func() { rpcx.Expose[counter](counter{}) },
		"not an interface with methods":        func() { rpcx.Expose[any](1) },
		"there is no implementation":           func() { rpcx.Expose[counting](nil) },
		"no implementation":                    func() { rpcx.Expose[counting]((*counter)(nil)) },
		"hidden is not exported":               func() { rpcx.Expose[hidden](hider{}) },
		"method Watch: parameter 1: chan int":  func() { rpcx.Expose[interface{ Watch(c chan int) }](hider{}) },
		"method Two: the results have to be":   func() { rpcx.Expose[interface{ Two() (int, int) }](hider{}) },
		"method Take: parameter 1: *rpcx.Rout": func() { rpcx.Expose[interface{ Take(*rpcx.Router) }](hider{}) },
		"two methods are named":                func() { rpcx.Expose[names](named{}, func(string) string { return "same" }) },
		`ExposeMap: "n": int is neither`:       func() { rpcx.ExposeMap(map[string]any{"n": 7}) },
		`"m": map[string]int is neither`:       func() { rpcx.ExposeMap(map[string]any{"m": map[string]int{}}) },
		`"nil": <nil> is neither`:              func() { rpcx.ExposeMap(map[string]any{"nil": nil}) },
		`"f": parameter 1: chan int`:           func() { rpcx.ExposeMap(map[string]any{"f": func(chan int) {}}) },
		`"r": mount "r": the router is mounted`: func() {
			rpcx.ExposeMap(map[string]any{"r": mounted})
		},
	} {
		panicsWith(t, part, f)
	}
}

type hider struct{}

func (hider) hidden()           {}
func (hider) Watch(chan int)    {}
func (hider) Two() (int, int)   { return 1, 2 }
func (hider) Take(*rpcx.Router) {}

func TestExposeMapNests(t *testing.T) {
	r := rpcx.ExposeMap(map[string]any{
		"sum": func(_ context.Context, values ...float64) (total float64, err error) {
			for _, v := range values {
				total += v
			}
			return total, nil
		},
		"divide": rpcx.Func(func(a, b float64) (float64, error) {
			if b == 0 {
				return 0, errors.New("by zero")
			}
			return a / b, nil
		}, "a", "b"),
		"deep":    map[string]any{"er": map[string]any{"get": func() string { return "here" }}},
		"counter": rpcx.Expose[counting](&counter{Limit: 1}),
	})
	want := []string{"counter/Add", "counter/GetTotal", "counter/add", "counter/get_total", "deep/er/get", "divide", "sum"}
	if diff := cmp.Diff(want, slices.Collect(r.Methods())); diff != "" {
		t.Error(diff)
	}
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: r})
	if half, err := rpcx.Call[float64](t.Context(), client, "divide", map[string]any{"b": 4, "a": 2}); half != 0.5 || err != nil {
		t.Errorf("got %v, %v", half, err)
	}
	if here, err := rpcx.Call[string](t.Context(), client, "deep/er/get", nil); here != "here" || err != nil {
		t.Errorf("got %v, %v", here, err)
	}
}
