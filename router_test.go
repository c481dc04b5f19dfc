package rpcx_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"github.com/google/go-cmp/cmp"
)

// says is a handler that answers with a text.
func says(text string) rpcx.Handler { return rpcx.Func(func() string { return text }) }

// mount mounts routers, which works.
func mount(t *testing.T, r *rpcx.Router, name string, sub *rpcx.Router) {
	t.Helper()
	if err := r.Mount(name, sub); err != nil {
		t.Fatal(err)
	}
}

// tree returns a router in which a, b and c hang one below the other. Each has a
// method get.
func tree(t *testing.T) (root, a, b, c *rpcx.Router) {
	t.Helper()
	var routers [4]*rpcx.Router
	for i := range routers {
		routers[i] = rpcx.NewRouter()
		routers[i].Handle("get", says(fmt.Sprint("level ", i)))
		if i > 0 {
			mount(t, routers[i-1], string("abc"[i-1]), routers[i])
		}
	}
	return routers[0], routers[1], routers[2], routers[3]
}

func TestRouterPaths(t *testing.T) {
	root, a, _, c := tree(t)
	root.Handle("a/b/special", says("a whole name"))
	root.Handle("dotted.name", says("dotted"))
	slashed := rpcx.NewRouter()
	slashed.Handle("get", says("slashed"))
	mount(t, a, "x/y", slashed)
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: root})
	for _, test := range []struct{ sentence, path, result, message string }{
		{"a method at the root", "get", "level 0", ""},
		{"one below", "a/get", "level 1", ""},
		{"three below", "a/b/c/get", "level 3", ""},
		{"dots are as good", "a.b.c.get", "level 3", ""},
		{"dots and slashes may be mixed", "a.b/c.get", "level 3", ""},
		{"the whole name comes first", "a/b/special", "a whole name", ""},
		{"so a name may have a dot in it", "dotted.name", "dotted", ""},
		{"a router's name may have a slash in it", "a/x/y/get", "slashed", ""},
		{"no such method", "put", "", `unknown method "put"`},
		{"no such method below", "a/b/put", "", `unknown method "a/b/put": Name "put" not found in "a/b"`},
		{"no such service", "a/z/get", "", `unknown method "a/z/get": Name "z" not found in "a"`},
		{"nothing is within a method", "a/get/x", "", `unknown method "a/get/x": Name "x" not found in "a/get"`},
		{"an empty name", "a//get", "", `unknown method "a//get": Name "" not found in "a"`},
		{"an empty name at the end", "a/get/", "", `unknown method "a/get/": Name "" not found in "a/get"`},
		{"no name at all", "", "", `unknown method ""`},
		{"a service is no method", "a/b", "", `unknown method "a/b": "a/b" is a service and not a method`},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			got, err := rpcx.Call[string](t.Context(), client, test.path, nil)
			if test.message != "" {
				matches(t, err, rpcx.ErrMethodNotFound)
				if e, ok := err.(*rpcx.Error); !ok || e.Message != test.message {
					t.Errorf("error %v, want %q", err, test.message)
				}
			} else if err != nil || got != test.result {
				t.Errorf("got %q, %v; want %q", got, err, test.result)
			}
		})
	}
	if path := c.Path(); path != "a/b/c" || c.Parent().Path() != "a/b" || root.Path() != "" {
		t.Errorf("the path of c is %q, of its parent %q, of the root %q", path, c.Parent().Path(), root.Path())
	}
}

func TestRouterResolve(t *testing.T) {
	root, _, _, c := tree(t)
	if h, err := root.Resolve("a/b/c"); h != c || err != nil {
		t.Errorf("resolved to %v, %v; want the router c", h, err)
	}
	if h, err := root.Resolve("a/b/get"); h == nil || err != nil {
		t.Errorf("resolved to %v, %v; want the method", h, err)
	}
	for path, message := range map[string]string{
		"a/z": `Name "z" not found in "a"`,
		"a.b": `Name "a.b" not found in ""`, // dots are of JSON-RPC
		"":    `Name "" not found in ""`,
	} {
		_, err := root.Resolve(path)
		matches(t, err, rpcx.ErrMethodNotFound)
		if e, ok := err.(*rpcx.Error); !ok || e.Message != message {
			t.Errorf("%q: error %v, want %q", path, err, message)
		}
	}
}

func TestRouterHasOneParent(t *testing.T) {
	root, a, b, _ := tree(t)
	alone := rpcx.NewRouter()
	for _, test := range []struct {
		sentence, name string
		into, sub      *rpcx.Router
		want           string
	}{
		{"mounted already", "x", root, b, `mounted already, as "a/b"`},
		{"mounted there already", "x", a, b, "mounted already"},
		{"within itself", "x", alone, alone, "within itself"},
		{"within what is within it", "x", b, root, "within itself"},
		{"under a name that is taken", "get", root, alone, "taken"},
		{"without a name", "", root, alone, "needed"},
		{"nothing", "x", root, nil, "needed"},
	} {
		if err := test.into.Mount(test.name, test.sub); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.sentence, err, test.want)
		}
	}
	if !root.Remove("a") || root.Remove("a") || a.Parent() != nil || b.Path() != "b" {
		t.Error("a is not removed just once")
	}
	mount(t, alone, "moved", a)
	if b.Path() != "moved/b" {
		t.Errorf("the path of b is %q", b.Path())
	}
}

func TestRouterPathOf(t *testing.T) {
	root, a, _, c := tree(t)
	svc, twin := new(counter), new(counter)
	mount(t, c, "count", rpcx.Expose[counting](svc))
	slashed := rpcx.NewRouter()
	mount(t, a, "/with/slashes", slashed)
	for _, test := range []struct {
		sentence string
		from     *rpcx.Router
		service  any
		path     string
		ok       bool
	}{
		{"a router", root, c, "a/b/c", true},
		{"itself", a, a, "", true},
		{"from the middle of the tree", a, c, "b/c", true},
		{"not what is above", c, a, "", false},
		{"a name that begins with a slash", a, slashed, "/with/slashes", true},
		{"a service", root, svc, "a/b/c/count", true},
		{"a service from the middle", c, svc, "count", true},
		{"one that is not there", root, twin, "", false},
		{"no service at all", root, []int{1}, "", false},
		{"nothing", root, nil, "", false},
		{"no router", root, (*rpcx.Router)(nil), "", false},
	} {
		if path, ok := test.from.PathOf(test.service); path != test.path || ok != test.ok {
			t.Errorf("%s: %q, %v", test.sentence, path, ok)
		}
	}
	again := rpcx.Expose[counting](svc)
	mount(t, root, "again", again)
	a.Remove("b")
	if path, ok := root.PathOf(svc); path != "again" || !ok {
		t.Errorf("exposed twice, removed once: %q, %v", path, ok)
	}
	root.Remove("again")
	if path, ok := root.PathOf(svc); ok {
		t.Errorf("removed, but still at %q", path)
	}
}

func TestRouterMethods(t *testing.T) {
	root, _, b, _ := tree(t)
	b.Handle("zap", says(""))
	want := []string{"a/b/c/get", "a/b/get", "a/b/zap", "a/get", "get"}
	if diff := cmp.Diff(want, slices.Collect(root.Methods())); diff != "" {
		t.Error(diff)
	}
	for range b.Methods() {
		b.Remove("zap") // no lock is held
		break
	}
}

// A tree may be changed, in any place and from both ends, while it serves.
func TestRouterChangesWhileItServes(t *testing.T) {
	root, a, b, _ := tree(t)
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: root, Limits: rpcx.Limits{CostOff: true}}) // for there are many errors
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { // until stop
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprint("more", i%10)
			b.Handle(name, says(name))
			a.Remove("b")
			if err := b.Mount("a", a); err == nil {
				b.Remove("a")
			}
			_ = a.Mount("b", b)
			b.Remove(name)
		}
	})
	for range 200 {
		got, err := rpcx.Call[string](t.Context(), client, "a/b/get", nil)
		if err != nil {
			matches(t, err, rpcx.ErrMethodNotFound)
		} else if got != "level 2" {
			t.Errorf("got %q", got)
		}
		for range root.Methods() {
		}
		b.Path()
	}
	close(stop)
	wg.Wait()
}

func TestRouterLookupAllocatesNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	root, _, _, _ := tree(t)
	if n := testing.AllocsPerRun(100, func() {
		if h, err := root.Resolve("a/b/c/get"); h == nil || err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A look-up that fails costs no more than the names that there are, however long
// the path is.
func TestRouterLongPath(t *testing.T) {
	root, _, _, _ := tree(t)
	_, err := root.Resolve(strings.Repeat("a/", 500_000))
	matches(t, err, rpcx.ErrMethodNotFound)
	_, err = root.Resolve(strings.Repeat("/", 500_000))
	matches(t, err, rpcx.ErrMethodNotFound)
}

func TestRouterRefuses(t *testing.T) {
	r := rpcx.NewRouter()
	r.Handle("a", says(""))
	for part, f := range map[string]func(){
		"nil handler":      func() { r.Handle("b", nil) },
		"second handler":   func() { r.Handle("a", says("")) },
		"but mounted: sub": func() { r.Handle("sub", rpcx.NewRouter()) },
	} {
		panicsWith(t, part, f)
	}
}

// panicsWith says that f panics with a text that contains part.
func panicsWith(t *testing.T, part string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), part) {
			t.Errorf("panicked with %v, want %q", r, part)
		}
	}()
	f()
}

// counting is what a counter exposes.
type counting interface {
	Add(ctx context.Context, n int) (int, error)
	GetTotal() int
}

type counter struct {
	Limit int
	mu    sync.Mutex
	total int
}

func (c *counter) Add(_ context.Context, n int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total+n > c.Limit {
		return c.total, fmt.Errorf("over the limit of %d", c.Limit)
	}
	c.total += n
	return c.total, nil
}

func (c *counter) GetTotal() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// Reset is not exposed.
func (c *counter) Reset() { c.total = 0 }
