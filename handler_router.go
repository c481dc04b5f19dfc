package rpcx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
)

// Router is a [Handler] that passes each request to the handler of its method.
// Routers may be mounted in one another; together they are a tree, in which a
// method is found by its path: the names on the way to it, with "/" between
// them, as in aiomas. A "." will do as well, save on sessions that speak a
// [ServiceProtocol]. In each router the whole of the path is looked for first, so
// a name may itself have these characters in it.
//
// Only what was put into a router can be reached. Anything else is answered
// [CodeMethodNotFound], with a message that says which name was not found where. Names are
// case-sensitive: Options.Logger is told of a method that differs in case only.
//
// A tree may be changed while it serves. The zero value is an empty router.
type Router struct {
	mu      sync.RWMutex
	entries map[string]Handler // a *Router is one that is mounted
	longest int                // the length of the longest name that there was

	serviceType string              // the type of the service, as it is named to peers
	hidden      map[string]struct{} // names that it has and that are not exposed

	// Guarded by trees.
	parent   *Router
	name     string
	services map[any][]*Router // the exposed services of the whole subtree
}

// trees guards how routers hang together. Mounting is rare, and must see two
// trees as they are at one time.
var trees sync.RWMutex

// NewRouter returns an empty router. See the examples of [Router] and [Func].
func NewRouter() *Router { return new(Router) }

// Handle has h handle the requests for method. It panics if h is nil, a nil HandlerFunc or a
// *Router (which is mounted instead), or if method has a handler.
func (r *Router) Handle(method string, h Handler) {
	if h == nil || isNilHandler(h) {
		panic("rpcx: nil handler for method " + method)
	}
	if _, ok := h.(*Router); ok {
		panic("rpcx: a router is not a handler for one method, but mounted: " + method)
	}
	if !r.addEntry(method, h) {
		panic("rpcx: a second handler for method " + method)
	}
}

// addEntry enters h unless the name is taken.
func (r *Router) addEntry(name string, h Handler) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries[name] != nil {
		return false
	}
	if r.entries == nil {
		r.entries = make(map[string]Handler)
	}
	r.entries[name] = h
	r.longest = max(r.longest, len(name))
	return true
}

// Mount hangs sub into r, so that its methods are found under name. It fails if
// name is empty or taken, if sub is mounted already (a router has one parent), or
// if r is within sub.
func (r *Router) Mount(name string, sub *Router) error {
	if sub == nil || name == "" {
		return fmt.Errorf("mount %q: a router and a name are needed", name)
	}
	trees.Lock()
	defer trees.Unlock()
	if sub.parent != nil {
		path, _ := sub.pathFrom(nil)
		return fmt.Errorf("mount %q: the router is mounted already, as %q", name, path)
	}
	for above := r; above != nil; above = above.parent {
		if above == sub {
			return fmt.Errorf("mount %q: the router would be within itself", name)
		}
	}
	if !r.addEntry(name, sub) {
		return fmt.Errorf("mount %q: the name is taken", name)
	}
	sub.parent, sub.name = r, name
	for above := r; above != nil; above = above.parent {
		for service, routers := range sub.services {
			above.addExposed(service, routers...)
		}
	}
	return nil
}

// addExposed notes which routers expose a service.
func (r *Router) addExposed(service any, routers ...*Router) {
	if r.services == nil {
		r.services = make(map[any][]*Router)
	}
	r.services[service] = append(r.services[service], routers...)
}

// Remove takes the handler or router of the given name out of r, and reports
// whether there was one. A router may be mounted elsewhere then. Requests that
// are being handled are not disturbed.
func (r *Router) Remove(name string) bool {
	trees.Lock()
	defer trees.Unlock()
	r.mu.Lock()
	h := r.entries[name]
	delete(r.entries, name)
	r.mu.Unlock()
	if sub, ok := h.(*Router); ok {
		sub.parent, sub.name = nil, ""
		for above := r; above != nil; above = above.parent {
			for service, gone := range sub.services {
				left := slices.DeleteFunc(above.services[service], func(r *Router) bool { return slices.Contains(gone, r) })
				if above.services[service] = left; len(left) == 0 {
					delete(above.services, service)
				}
			}
		}
	}
	return h != nil
}

// Parent returns the router that r is mounted in, nil if there is none.
func (r *Router) Parent() *Router {
	trees.RLock()
	defer trees.RUnlock()
	return r.parent
}

// Path returns the path of r in its tree, "" if it is mounted nowhere.
func (r *Router) Path() string {
	trees.RLock()
	defer trees.RUnlock()
	path, _ := r.pathFrom(nil)
	return path
}

// pathFrom returns the path from root to r, and from the top of the tree if r is
// not within root.
func (r *Router) pathFrom(root *Router) (path string, within bool) {
	var names []string
	for ; r != root && r != nil && r.parent != nil; r = r.parent {
		names = append(names, r.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/"), r == root
}

// PathOf returns the path from r to a service that hangs in its tree: a *Router,
// or what [Expose] was given, if that is a pointer. That of r itself is "".
func (r *Router) PathOf(service any) (path string, ok bool) {
	trees.RLock()
	defer trees.RUnlock()
	sub, ok := service.(*Router)
	if !ok {
		if reflect.ValueOf(service).Kind() != reflect.Pointer || len(r.services[service]) == 0 {
			return "", false
		}
		sub = r.services[service][0]
	}
	if path, ok = sub.pathFrom(r); !ok {
		return "", false
	}
	return path, true
}

// Resolve returns what is at path: the handler of a method, or a *Router. The
// error is an [*Error] with [CodeMethodNotFound], which says what name was not
// found in what, or that it is not exposed.
func (r *Router) Resolve(path string) (Handler, error) {
	h, miss := r.findEntry(path, "/")
	if h == nil {
		return nil, &Error{Code: CodeMethodNotFound, Message: miss.String()}
	}
	return h, nil
}

// Methods ranges over the paths of all the methods in the tree below r, in
// order. They are those that there were when the range began.
func (r *Router) Methods() iter.Seq[string] {
	return func(yield func(string) bool) {
		trees.RLock() // or a tree that is being rebuilt could be followed round and round
		methods := r.appendMethods(nil, "")
		trees.RUnlock()
		for _, method := range methods {
			if !yield(method) {
				return
			}
		}
	}
}

func (r *Router) appendMethods(methods []string, prefix string) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		if sub, ok := r.entries[name].(*Router); ok {
			methods = sub.appendMethods(methods, prefix+name+"/")
		} else {
			methods = append(methods, prefix+name)
		}
	}
	return methods
}

// ServeRPC implements [Handler].
func (r *Router) ServeRPC(ctx context.Context, req *Request) (any, error) {
	service := false
	if req.session != nil {
		_, service = req.session.Protocol().(ServiceProtocol)
	}
	separators := "/."
	if service {
		separators = "/"
	}
	h, miss := r.findEntry(req.Method, separators)
	if _, ok := h.(*Router); ok {
		h, miss.why = nil, fmt.Sprintf("%q is a service and not a method", excerpt(req.Method))
	}
	switch {
	case h != nil:
		return h.ServeRPC(ctx, req)
	case service:
		return nil, &Error{Code: CodeMethodNotFound, Message: miss.String(), Hint: r.notFoundHint(ctx, req, separators)}
	}
	e := MethodNotFound(req.Method)
	if miss.why != "" || miss.in != "" {
		e.Message += ": " + miss.String()
	}
	e.Hint = r.notFoundHint(ctx, req, separators)
	return nil, e
}

// notFoundHint returns what may be wrong at this side if r does not have the method of req, "" if
// nothing is known or nobody would read the hint.
func (r *Router) notFoundHint(ctx context.Context, req *Request, separators string) string {
	switch {
	case req.session == nil || !req.session.log.Enabled(ctx, slog.LevelInfo):
		return ""
	case r == noMethods:
		return "this session has no handler: set Options.Handler"
	}
	if other := r.inOtherCase(req.Method, separators); other != "" {
		return fmt.Sprintf("names are case-sensitive: there is %q", other)
	}
	return ""
}

// maxFolded is the length of the longest path that inOtherCase looks for, in bytes.
const maxFolded = 256

// inOtherCase returns the path of a method that differs from path in case only, "" if
// there is none.
func (r *Router) inOtherCase(path, separators string) string {
	if len(path) > maxFolded {
		return ""
	}
	trees.RLock() // as in Methods
	defer trees.RUnlock()
	return r.findFolded(path, separators)
}

// findFolded is inOtherCase. Callers must hold trees. The time is in proportion to the
// entries of each router on the way and to the separators in path.
func (r *Router) findFolded(path, separators string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	found := "" // the first one in order, so that the log is the same each time
	for name, h := range r.entries {
		other := ""
		if sub, ok := h.(*Router); !ok {
			if strings.EqualFold(path, name) {
				other = name
			}
		} else {
			for i := range len(path) {
				if strings.IndexByte(separators, path[i]) < 0 || !strings.EqualFold(path[:i], name) {
					continue
				}
				if below := sub.findFolded(path[i+1:], separators); below != "" {
					other = name + path[i:i+1] + below
				}
			}
		}
		if other != "" && (found == "" || other < found) {
			found = other
		}
	}
	return found
}

// missing says why nothing was found.
type missing struct {
	name, in string // this was not found in that
	why      string // unless there is another reason
}

// String returns the reason, in the words of aiomas.
func (m missing) String() string {
	if m.why != "" {
		return m.why
	}
	return `Name "` + excerpt(m.name) + `" not found in "` + m.in + `"`
}

// findEntry returns what is at path, or why there is nothing. There are one or two
// separators.
func (r *Router) findEntry(path, separators string) (Handler, missing) {
	start := 0 // path[start:] is looked for in r
	for {
		h, n, why := r.findNextEntry(path[start:], separators)
		end := start + n
		if h != nil && end == len(path) {
			return h, missing{}
		}
		if sub, ok := h.(*Router); ok {
			r, start = sub, end+1
			continue
		}
		if h != nil { // a method, which has nothing in it
			start = end + 1
		}
		name := path[start:]
		if i := strings.IndexAny(name, separators); i >= 0 {
			name = name[:i]
		}
		return nil, missing{name, path[:max(start-1, 0)], why}
	}
}

// findNextEntry returns the entry whose name rest is, or else the first router whose name
// rest begins with, or a handler; n is the length of the name.
func (r *Router) findNextEntry(rest, separators string) (h Handler, n int, why string) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(rest) <= r.longest {
		if h = r.entries[rest]; h != nil {
			return h, len(rest), ""
		}
	}
	first, slash, other := -1, separators[0], separators[len(separators)-1]
	for i := 0; i < len(rest) && i <= r.longest; i++ { // a hostile path may be long
		if rest[i] != slash && rest[i] != other {
			continue
		}
		if first < 0 {
			first = i
		}
		if found := r.entries[rest[:i]]; found != nil {
			if _, ok := found.(*Router); ok {
				return found, i, ""
			}
			if h == nil {
				h, n = found, i
			}
		}
	}
	if h != nil {
		return h, n, ""
	}
	name := rest
	if first >= 0 {
		name = rest[:first]
	}
	if _, ok := r.hidden[name]; ok {
		why = `"` + r.serviceType + "." + name + `" is not exposed`
	}
	return nil, 0, why
}

// MarshalJSON fails: only a session can send a router, as a reference to it.
func (*Router) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a service can be sent only on a session with Options.Objects")
}

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
			if !r.addEntry(name, h) {
				fail("two methods are named %q", name)
			}
		}
	}
	r.hideUnexposed(v.Type(), mapped)
	if v.Kind() == reflect.Pointer {
		r.addExposed(impl, r)
		if _, known := exposedTypes.LoadOrStore(v.Type(), true); !known {
			exposures.Add(1)
		}
	}
	return r
}

// exposed has the types of the pointers that Expose was given, and exposures
// counts them.
var (
	exposedTypes sync.Map
	exposures    atomic.Uint64
)

// hideUnexposed notes what names a service of type t has that r does not expose.
func (r *Router) hideUnexposed(t reflect.Type, mapped func(string) string) {
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
	r.serviceType = t.String()
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
