package rpcx

import (
	"context"
	"iter"
	"maps"
	"reflect"
	"slices"
)

// functionHandler is a handler made by [Func], or for a method of an interface.
type functionHandler struct {
	serve HandlerFunc
	sig   *signature
}

func (f *functionHandler) ServeRPC(ctx context.Context, req *Request) (any, error) {
	return f.serve(ctx, req)
}

// Signature describes what a handler made by [Func] takes and returns. The context and the
// session are not part of the Signature, because no peer sends them.
type Signature struct {
	// Params holds the parameters in order, without a variadic parameter. If Object is a
	// struct, Params holds the fields of the struct.
	Params []Param
	// Variadic is the type of each further positional argument, or nil. A function whose
	// only parameter is a slice takes all arguments in this way.
	Variadic reflect.Type
	// Named reports whether peers can pass the arguments by name. Without an Object, peers
	// can also pass the arguments by position.
	Named bool
	// Object is the type of the struct or map that takes all named arguments, or nil. With
	// an Object, peers pass arguments only by name. A map takes arguments of any name.
	Object reflect.Type
	// IgnoreUnknown reports whether the function ignores unknown named arguments, because
	// "..." is the last name. Options.IgnoreUnknownParams is not considered.
	IgnoreUnknown bool
	// Result is the type of the result, or nil if the reply is null. If the function
	// returns a [*Disconnect], Result is the type any.
	Result reflect.Type
}

// Param describes a parameter of a handler's function, or a field of its struct.
type Param struct {
	Name     string // "" if peers can pass the argument by position only
	Type     reflect.Type
	Optional bool // the argument may be absent
}

// SignatureOf returns the signature of a handler that was made by [Func], [Expose] or
// [ExposeMap]. For any other handler, such as a [HandlerFunc] or a [Router], ok is false.
// Each call returns a new Signature.
//
// SignatureOf looks through wrappers that have a method Unwrap() Handler, such as the
// result of [Documented]. A middleware can be such a wrapper:
//
//	type timed struct{ rpcx.Handler }
//
//	func (t timed) ServeRPC(ctx context.Context, req *rpcx.Request) (any, error) { … }
//	func (t timed) Unwrap() rpcx.Handler { return t.Handler }
func SignatureOf(h Handler) (sig *Signature, ok bool) {
	for h != nil {
		if f, ok := h.(*functionHandler); ok {
			return f.sig.describe(), true
		}
		h = unwrapHandler(h)
	}
	return nil, false
}

// unwrapHandler returns the handler within h, or nil.
func unwrapHandler(h Handler) Handler {
	if wrapper, ok := h.(interface{ Unwrap() Handler }); ok {
		return wrapper.Unwrap()
	}
	return nil
}

// describe returns sig in its exported form.
func (sig *signature) describe() *Signature {
	d := &Signature{
		Named:         sig.paramsNamed,
		Object:        sig.structType,
		IgnoreUnknown: sig.unknownIgnored,
		Result:        sig.resultType,
	}
	for _, p := range sig.params {
		d.Params = append(d.Params, Param{p.name, p.typ, p.optional})
	}
	if sig.variadic != nil {
		d.Variadic = sig.variadic.Elem()
		d.Named = d.Named && len(sig.params) > 0 // a variadic parameter has no name
	}
	if sig.mapping != nil {
		d.Object = sig.mapping
	}
	if d.Result == reflect.TypeFor[*Disconnect]() {
		d.Result = reflect.TypeFor[any]()
	}
	return d
}

// Doc is the documentation of a method, for people and for descriptions such as OpenRPC.
// The package itself only keeps a Doc.
type Doc struct {
	Summary     string // one line
	Description string
	Tags        []string // groups of methods that belong together
	Result      string   // what the result is
	Errors      []Error  // errors that the method may return
	Examples    []Example
	Deprecated  bool // callers should use another method
	Public      bool // the method may be listed for any peer
}

// Example is a call of a documented method, and its result. Params and Result are encoded
// as in a call: Params is an [Args], a map or a struct, or nil.
type Example struct {
	Name           string
	Params, Result any
}

// Documented returns a handler that does what h does, and has the documentation d. If h is
// documented already, d replaces the earlier Doc. Documented keeps the slices of d. If h is
// nil, Documented panics.
//
// Whatever else h is, the result is as well. [SignatureOf] finds the signature of h, and a
// method Unwrap returns h. If h is a *[Router], Documented sets the documentation of that
// router, and returns the same router.
func Documented(h Handler, d Doc) Handler {
	if h == nil || isNilHandler(h) {
		panic("rpcx: Documented with a nil handler")
	}
	switch h := h.(type) {
	case *Router:
		h.doc.Store(&d)
		return h
	case *documentedHandler:
		return &documentedHandler{h.Handler, &d}
	}
	return &documentedHandler{h, &d}
}

// documentedHandler is a result of [Documented].
type documentedHandler struct {
	Handler
	doc *Doc
}

// Unwrap returns the handler without its documentation.
func (d *documentedHandler) Unwrap() Handler { return d.Handler }

// DocOf returns the documentation of a handler or router, as given to [Documented]. The
// caller must not change the Doc. DocOf looks through wrappers as [SignatureOf] does.
// Without documentation, ok is false.
func DocOf(h Handler) (d *Doc, ok bool) {
	for h != nil {
		switch h := h.(type) {
		case *documentedHandler:
			return h.doc, true
		case *Router:
			if h == nil {
				return nil, false
			}
			d = h.doc.Load()
			return d, d != nil
		}
		h = unwrapHandler(h)
	}
	return nil, false
}

// Document replaces the handler at path by the same handler with the documentation d, as
// [Documented] makes it, or sets the documentation of the router at path. If the method has
// several names in its router, as after [Expose], d is for each name. Without an entry at
// path, the error is that of [Router.Resolve]. Document may be called while r serves:
//
//	service := rpcx.Expose[Wallet](wallet)
//	err := service.Document("get_balance", rpcx.Doc{Summary: "Coins in the wallet"})
func (r *Router) Document(path string, d Doc) error {
	h, err := r.Resolve(path)
	if err != nil {
		return err
	}
	if sub, ok := h.(*Router); ok {
		Documented(sub, d)
		return nil
	}
	for start := 0; ; { // as in findEntry
		next, n, _ := r.findNextEntry(path[start:], "/")
		sub, ok := next.(*Router)
		if !ok {
			r.documentEntry(path[start:], d)
			return nil
		}
		r, start = sub, start+n+1
	}
}

// documentEntry documents the method with the given name in r, and the other names of the
// same function. If the method was removed meanwhile, documentEntry does nothing.
func (r *Router) documentEntry(name string, d Doc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.entries[name]
	if h == nil {
		return
	}
	documented, f := Documented(h, d), undocumentedFunction(h)
	r.entries[name] = documented
	for other, h := range r.entries {
		if f != nil && undocumentedFunction(h) == f {
			r.entries[other] = documented
		}
	}
}

// undocumentedFunction returns the handler of a function without its documentation, or nil.
// undocumentedFunction calls no user code, because the router is locked.
func undocumentedFunction(h Handler) *functionHandler {
	if documented, ok := h.(*documentedHandler); ok {
		h = documented.Handler
	}
	f, _ := h.(*functionHandler)
	return f
}

// Handlers iterates over the methods of [Router.Methods], in the same order, with their
// handlers. [SignatureOf] and [DocOf] describe a handler, and [Router.Resolve] finds the
// routers on the way, for their documentation. A handler with two names appears twice.
func (r *Router) Handlers() iter.Seq2[string, Handler] {
	methods := r.listMethods()
	return func(yield func(string, Handler) bool) {
		for _, m := range methods {
			if !yield(m.path, m.handler) {
				return
			}
		}
	}
}

// routedMethod is a method in the tree below a router.
type routedMethod struct {
	path    string
	handler Handler
}

// listMethods returns the methods that are now in the tree below r.
func (r *Router) listMethods() []routedMethod {
	trees.RLock() // a tree changed during the walk could make the walk endless
	defer trees.RUnlock()
	return r.appendMethods(nil, "")
}

func (r *Router) appendMethods(methods []routedMethod, prefix string) []routedMethod {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		if sub, ok := r.entries[name].(*Router); ok {
			methods = sub.appendMethods(methods, prefix+name+"/")
		} else {
			methods = append(methods, routedMethod{prefix + name, r.entries[name]})
		}
	}
	return methods
}
