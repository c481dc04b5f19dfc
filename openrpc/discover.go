package openrpc

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"sync"

	"example.com/rpcx"
)

// Discover returns the handler for "rpc.discover", which replies with the document of
// [Describe]:
//
//	router.Handle("rpc.discover", openrpc.Discover(router, info, nil))
//
// The handler keeps the document, and makes another after a method was added, removed,
// replaced or documented. No document lists a handler made by Discover. If Describe fails,
// the error goes to the log of the session, and the peer is sent an internal error.
//
// If the schema of a type changes while the program runs, the kept document does not
// change.
func Discover(r *rpcx.Router, info Info, opts *Options) rpcx.Handler {
	d := &discoverer{router: r, info: info}
	d.info.Servers = slices.Clone(info.Servers)
	if opts != nil {
		d.opts = *opts
	}
	d.Handler = rpcx.Func(d.serveDocument)
	return d
}

// discoverer is a result of [Discover].
type discoverer struct {
	rpcx.Handler
	router *rpcx.Router
	info   Info
	opts   Options

	mu       sync.Mutex // guards the fields below
	methods  []describedMethod
	document json.RawMessage // of methods; nil if there is none yet
}

// Unwrap returns the function within d.
func (d *discoverer) Unwrap() rpcx.Handler { return d.Handler }

// isDiscover reports whether h is a handler made by Discover.
func isDiscover(h rpcx.Handler) bool {
	for h != nil {
		if _, ok := h.(*discoverer); ok {
			return true
		}
		wrapper, ok := h.(interface{ Unwrap() rpcx.Handler })
		if !ok {
			return false
		}
		h = wrapper.Unwrap()
	}
	return false
}

func (d *discoverer) serveDocument(context.Context) (json.RawMessage, error) {
	methods := listMethods(d.router, d.opts.All)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.document != nil && slices.EqualFunc(methods, d.methods, describedMethod.isSame) {
		return d.document, nil
	}
	doc, err := describeMethods(methods, d.info, &d.opts)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	d.methods, d.document = methods, data
	return data, nil
}

// isSame reports whether m and other have the same description.
func (m describedMethod) isSame(other describedMethod) bool {
	if m.name != other.name || m.doc != other.doc {
		return false
	}
	if _, ok := m.handler.(rpcx.HandlerFunc); ok { // Go cannot compare functions
		return reflect.TypeOf(other.handler) == reflect.TypeOf(m.handler)
	}
	return sameHandler(m.handler, other.handler)
}
