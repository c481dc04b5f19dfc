package aiomastest

import (
	"fmt"
	"path"
	"regexp"
	"testing"

	"example.com/rpcx"
)

// trees is the state shared by the successive cases about routers.
type trees struct {
	root      *Root
	letters   map[string]*rpcx.Router // "A", "B" and so on
	dict      *rpcx.Router
	lastAdded string // the last added name
}

func newTrees() *trees {
	return &trees{root: newRoot(), letters: make(map[string]*rpcx.Router), dict: rpcx.NewRouter()}
}

func (tr *trees) letterRouter(name string) *rpcx.Router {
	if tr.letters[name] == nil {
		tr.letters[name] = rpcx.NewRouter()
	}
	return tr.letters[name]
}

var (
	mountAction   = regexp.MustCompile(`(\w)\.set_sub_router\((\w)\.router, "(.*)"\)`)
	emptyAction   = regexp.MustCompile(`^resolve "(.*)" in an empty dictionary`)
	addAction     = regexp.MustCompile(`^add key "(.*)" to the dictionary`)
	removeAction  = regexp.MustCompile(`^remove the key`)
	looseAction   = regexp.MustCompile(`not attached: resolve "(.*)"`)
	invalidAction = regexp.MustCompile(`^(not-a-router|expose-not-callable)`)
	expectedPath  = regexp.MustCompile(`^path_of_(\w)$`)
)

// runRouterCase runs a case about routers.
func (tr *trees) runRouterCase(t *testing.T, c *vector) {
	if c.Object != "" {
		tr.checkPlace(t, c)
		return
	}
	var err error
	switch action := c.Action; {
	case mountAction.MatchString(action):
		m := mountAction.FindStringSubmatch(action)
		err = tr.letterRouter(m[1]).Mount(m[3], tr.letterRouter(m[2]))
	case emptyAction.MatchString(action):
		_, err = rpcx.ExposeMap(nil).Resolve(emptyAction.FindStringSubmatch(action)[1])
	case addAction.MatchString(action):
		tr.lastAdded = addAction.FindStringSubmatch(action)[1]
		tr.dict.Handle(tr.lastAdded, rpcx.Func(div))
		_, err = tr.dict.Resolve(tr.lastAdded)
	case removeAction.MatchString(action):
		// aiomas finds a resolved name forever. This package does not find a removed
		// name.
		tr.dict.Remove(tr.lastAdded)
		if _, err := tr.dict.Resolve(tr.lastAdded); err == nil {
			t.Errorf("%q was removed and is found", tr.lastAdded)
		}
		return
	case looseAction.MatchString(action):
		// Only mounted services can be reached here.
		if h, err := tr.root.router.Resolve("loose/mul"); err == nil {
			t.Errorf("found %v, which was not mounted", h)
		}
		return
	case invalidAction.MatchString(action):
		// In Go, a typed service cannot be invalid. ExposeMap refuses an invalid value in
		// a map.
		expectPanic(t, "neither a function", func() { rpcx.ExposeMap(map[string]any{"x": 5}) })
		err = tr.dict.Mount("x", nil)
		if err == nil {
			t.Error("mounted nothing")
		}
		return
	default:
		t.Fatalf("an unknown action: %s", action)
	}
	if want, ok := c.Expect["message"]; ok {
		if e, ok := err.(*rpcx.Error); ok && e.Message != want {
			t.Errorf("got %q, want %q", e.Message, want)
		} else if err == nil {
			t.Errorf("no error, want %q", want)
		}
		return
	}
	if err != nil {
		t.Error(err)
	}
	for key, want := range c.Expect {
		if m := expectedPath.FindStringSubmatch(key); m != nil && tr.letterRouter(m[1]).Path() != want {
			t.Errorf("the path of %s is %q, want %q", m[1], tr.letterRouter(m[1]).Path(), want)
		}
	}
}

// checkPlace checks the path, name and parent of a service in the tree.
func (tr *trees) checkPlace(t *testing.T, c *vector) {
	r := map[string]*rpcx.Router{
		"root": tr.root.router, "sub": tr.root.subRouter, "deep": tr.root.deep,
		"funcs": tr.root.funcs, "inner": tr.root.inner, "loose": tr.root.loose,
	}[c.Object]
	if r == nil {
		t.Fatalf("an unknown service: %s", c.Object)
	}
	name := path.Base(r.Path())
	if r.Path() == "" {
		name = ""
	}
	if r.Path() != c.Expect["path"] || name != c.Expect["name"] || (r.Parent() != nil) != c.Expect["has_parent"] {
		t.Errorf("path %q, name %q, parent %v; want %v", r.Path(), name, r.Parent(), c.Expect)
	}
}

// runInvalidServiceCase exposes values that are no services.
func runInvalidServiceCase(t *testing.T, c *vector) {
	if c.Expect["raises"] != "ValueError" {
		t.Fatalf("an unknown error: %v", c.Expect)
	}
	for _, service := range []any{"x", 5, struct{}{}, nil} {
		expectPanic(t, fmt.Sprintf("%T is neither", service), func() {
			rpcx.ExposeMap(map[string]any{"service": service})
		})
	}
}
