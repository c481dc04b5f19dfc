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
//
// Routers can be mounted in other routers, and then form a tree. The path of a method has
// the names on the way to the method, with "/" between names, as in aiomas. A "." also
// separates names, except on sessions with a [ServiceProtocol]. Each router looks for the
// whole of the remaining path first, so a name may contain "/" and ".".
//
// Peers can reach only the entries of a router. Other methods are answered with
// [CodeMethodNotFound], and the message says which name was not found where. Names are
// case-sensitive. If a method differs in case only, Options.Logger receives a hint.
//
// A tree may be changed while it serves. The zero value is an empty router.
type Router struct {
	mu      sync.RWMutex       // guards entries and longest
	entries map[string]Handler // a *Router is a mounted router
	longest int                // length of the longest name so far

	serviceType string              // type of the service, as named to peers
	hidden      map[string]struct{} // names of the service that are not exposed
	doc         atomic.Pointer[Doc] // set by Documented; nil if there is none

	// Guarded by trees.
	parent   *Router
	name     string
	services map[any][]*Router // exposed services of the subtree, with the routers that expose each
}

// trees guards the links between routers. Mounting is rare, and needs a consistent view of
// two trees.
var trees sync.RWMutex

// NewRouter returns an empty router. See the examples of [Router] and [Func].
func NewRouter() *Router { return new(Router) }

// Handle registers h as the handler for method. Handle panics if h is nil, a nil
// [HandlerFunc] or a *Router, or if method has a handler already. To add a *Router, call
// [Router.Mount].
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

// addEntry adds h under name, and reports whether name was free.
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

// Mount adds sub to r under name, so that the paths of sub's methods begin with name.
// Mount fails if sub is nil, if name is empty or taken, or if r is within sub. Mount also
// fails if sub is mounted already, because a router has a single parent.
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

// addExposed records the routers that expose service.
func (r *Router) addExposed(service any, routers ...*Router) {
	if r.services == nil {
		r.services = make(map[any][]*Router)
	}
	r.services[service] = append(r.services[service], routers...)
}

// Remove removes the handler or router with the given name from r, and reports whether
// there was an entry. A removed router may be mounted again. Requests in progress are not
// affected.
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

// Parent returns the router in which r is mounted, or nil.
func (r *Router) Parent() *Router {
	trees.RLock()
	defer trees.RUnlock()
	return r.parent
}

// Path returns the path of r in its tree, or "" if r is not mounted.
func (r *Router) Path() string {
	trees.RLock()
	defer trees.RUnlock()
	path, _ := r.pathFrom(nil)
	return path
}

// pathFrom returns the path from root to r. If r is not within root, the path begins at
// the top of the tree. Callers must hold trees.
func (r *Router) pathFrom(root *Router) (path string, within bool) {
	var names []string
	for ; r != root && r != nil && r.parent != nil; r = r.parent {
		names = append(names, r.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/"), r == root
}

// PathOf returns the path from r to a service in the tree below r. The service is a
// *Router, or a pointer passed to [Expose]. The path of r itself is "".
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

// Resolve returns the entry at path: the handler of a method, or a *Router. If there is no
// entry, the error is an [*Error] with [CodeMethodNotFound]. The message says which name
// was not found where, or that the name is not exposed.
func (r *Router) Resolve(path string) (Handler, error) {
	h, miss := r.findEntry(path, "/")
	if h == nil {
		return nil, &Error{Code: CodeMethodNotFound, Message: miss.String()}
	}
	return h, nil
}

// Has reports whether r has the method of a request. As in requests, "/" and "." separate
// names. For a path, see [Router.Resolve].
func (r *Router) Has(method string) bool {
	h, _ := r.findEntry(method, "/.")
	_, service := h.(*Router)
	return h != nil && !service
}

// Methods iterates over the paths of the methods that are now in the tree below r, sorted
// by name within each router. [Router.Handlers] has the handlers, too.
func (r *Router) Methods() iter.Seq[string] {
	methods := r.listMethods()
	return func(yield func(string) bool) {
		for _, m := range methods {
			if !yield(m.path) {
				return
			}
		}
	}
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

// notFoundHint returns the likely mistake at this side if r does not have the method of
// req. The hint is "" if no mistake is found, or if the log would drop the hint.
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

// maxFolded is the length in bytes of the longest path that inOtherCase looks for.
const maxFolded = 256

// inOtherCase returns the path of a method that differs from path in case only, or "".
func (r *Router) inOtherCase(path, separators string) string {
	if len(path) > maxFolded {
		return ""
	}
	trees.RLock() // as in Methods
	defer trees.RUnlock()
	return r.findFolded(path, separators)
}

// findFolded is inOtherCase for a path of any length. Callers must hold trees. The running
// time is proportional to the entries of each router on the way, and to the separators in
// path.
func (r *Router) findFolded(path, separators string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	found := "" // the first match in order, so that the log is reproducible
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

// missing is the reason why no entry was found.
type missing struct {
	name, in string // name was not found in the service at path in
	why      string // another reason, or ""
}

// String returns the reason in the words of aiomas.
func (m missing) String() string {
	if m.why != "" {
		return m.why
	}
	return `Name "` + excerpt(m.name) + `" not found in "` + m.in + `"`
}

// findEntry returns the entry at path, or the reason why there is none. separators has one
// or two characters.
func (r *Router) findEntry(path, separators string) (Handler, missing) {
	start := 0 // the next search in r is for path[start:]
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
		if h != nil { // a method, which has no entries
			start = end + 1
		}
		name := path[start:]
		if i := strings.IndexAny(name, separators); i >= 0 {
			name = name[:i]
		}
		return nil, missing{name, path[:max(start-1, 0)], why}
	}
}

// findNextEntry returns the entry with the name rest. Otherwise, the result is the router
// with the shortest name that ends at a separator in rest. Without such a router, the
// result is the handler with the shortest name. n is the length of the name. If there is
// no entry, why may say that the name is not exposed.
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

// MarshalJSON fails: only a session can send a router, as a reference.
func (*Router) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a service can be sent only on a session with Options.Objects")
}

// Expose returns a router with the methods of interface I, called on impl. Peers cannot
// call any other method of impl. Each method has its Go name and the name in lower snake
// case (GetName is also get_name). If rename is given, the result of rename replaces the
// name in snake case.
//
// The methods take and return the same types as the functions of [Func]. Go does not
// record the names of parameters, so peers pass positional arguments, also if the only
// parameter is a map or a slice. If the only parameter is a struct, or a pointer to a
// struct, peers pass its fields by name.
//
// If impl is a pointer, a session can send impl to a peer, which may then call the
// service: see [Options].Objects.
//
// A request for another exported method or field of impl is answered with the message that
// the name is not exposed.
//
// Expose panics if I is not an interface, or has no methods or unexported methods. Expose
// also panics if impl is nil, if a method cannot be a handler, or if two methods have the
// same name.
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
		h, err := newFunc(v.MethodByName(m.Name).Interface(), nil, true)
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

// exposedTypes has the types of the pointers passed to Expose. exposures counts the types.
var (
	exposedTypes sync.Map
	exposures    atomic.Uint64
)

// hideUnexposed records the names of methods and fields of t that r does not expose.
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

// ExposeMap returns a router with the entries of m. An entry is a function as for [Func],
// a [Handler], a [*Router] to mount, or another map of this type, at any depth. To allow
// named arguments, use Func(fn, names...) as the entry. If an entry has another type, or
// cannot be added, ExposeMap panics and names the entry.
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
			if h, err = newFunc(v, nil, false); err == nil {
				r.Handle(name, h)
			}
		}
		if err != nil {
			panic(fmt.Sprintf("rpcx.ExposeMap: %q: %v", name, err))
		}
	}
	return r
}

// snakeCase converts a Go name to lower snake case: HTTPServer becomes http_server.
func snakeCase(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, c := range runes {
		if unicode.IsUpper(c) && i > 0 {
			word := !unicode.IsUpper(runes[i-1]) // the previous word has ended
			last := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if (word || last) && runes[i-1] != '_' {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}
