package rpcx

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
)

// Expose returns a router of the methods of interface I, which are called on
// impl, and of no others. Each is found under its name in Go and under that in
// lower snake case (GetName is get_name, too), or what rename makes of it, if it
// is given. The methods take and return what [Func]'s functions do; since the
// names of their parameters are not known, they are called with positional
// arguments, a map or a slice among them even if it is the only one; or by name if a
// struct, or a pointer to one, is their only parameter.
//
// If impl is a pointer it can itself be sent to a peer that may call it; see
// [Options].Objects. To ask for another of its exported methods or fields is
// answered that it is not exposed.
//
// Expose panics if I is no interface with exported methods, if impl is nil, or if
// a method cannot be a handler.
func Expose[I any](impl I, rename ...func(method string) string) *Router {
	t, v := reflect.TypeFor[I](), reflect.ValueOf(impl)
	fail := func(format string, args ...any) {
		panic(fmt.Sprintf("rpcx.Expose[%v]: %s", t, fmt.Sprintf(format, args...)))
	}
	switch {
	case t.Kind() != reflect.Interface || t.NumMethod() == 0:
		fail("not an interface with methods")
	case !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil():
		fail("there is no implementation")
	}
	mapped := snakeCase
	if len(rename) > 0 {
		mapped = rename[0]
	}
	r := NewRouter()
	for m := range t.Methods() {
		if !m.IsExported() {
			fail("method %s is not exported", m.Name)
		}
		h, err := newMethod(v.MethodByName(m.Name).Interface())
		if err != nil {
			fail("method %s: %v", m.Name, err)
		}
		for _, name := range slices.Compact([]string{m.Name, mapped(m.Name)}) {
			if !r.add(name, h) {
				fail("two methods are named %q", name)
			}
		}
	}
	r.hide(v.Type(), mapped)
	if v.Kind() == reflect.Pointer {
		r.expose(impl, r)
		if _, known := exposed.LoadOrStore(v.Type(), true); !known {
			exposures.Add(1)
		}
	}
	return r
}

// exposed has the types of the pointers that Expose was given, and exposures
// counts them.
var (
	exposed   sync.Map
	exposures atomic.Uint64
)

// hide notes what names a service of type t has that r does not expose.
func (r *Router) hide(t reflect.Type, mapped func(string) string) {
	r.hidden = make(map[string]struct{})
	hide := func(name string) {
		for _, name := range []string{name, mapped(name)} {
			if r.entries[name] == nil {
				r.hidden[name] = struct{}{}
			}
		}
	}
	for m := range t.Methods() {
		hide(m.Name)
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	r.owner = t.String()
	if t.Kind() == reflect.Struct {
		for f := range t.Fields() {
			if f.IsExported() {
				hide(f.Name)
			}
		}
	}
}

// ExposeMap returns a router of what m has: functions as [Func] takes them,
// handlers, routers, which are mounted, and further maps of this type, nested as
// deeply as one likes. (A function whose arguments may be given by name is put in
// as Func(fn, names...).) It panics if there is anything else, and says what.
func ExposeMap(m map[string]any) *Router {
	r := NewRouter()
	for _, name := range slices.Sorted(maps.Keys(m)) {
		var err error
		switch v := m[name].(type) {
		case *Router:
			err = r.Mount(name, v)
		case map[string]any:
			err = r.Mount(name, ExposeMap(v))
		case Handler:
			r.Handle(name, v)
		default:
			if reflect.TypeOf(v) == nil || reflect.TypeOf(v).Kind() != reflect.Func {
				err = fmt.Errorf("%T is neither a function, a Handler, a *Router nor a map", v)
				break
			}
			var h Handler
			if h, err = newFunc(v, nil); err == nil {
				r.Handle(name, h)
			}
		}
		if err != nil {
			panic(fmt.Sprintf("rpcx.ExposeMap: %q: %v", name, err))
		}
	}
	return r
}

// snakeCase puts a name of Go in lower snake case: HTTPServer is http_server.
func snakeCase(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, c := range runes {
		if unicode.IsUpper(c) && i > 0 {
			word := !unicode.IsUpper(runes[i-1]) // the one before has ended
			last := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if (word || last) && runes[i-1] != '_' {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}
