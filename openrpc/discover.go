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
//	discover := openrpc.Discover(router, info, nil)
//	router.Handle("rpc.discover", discover)
//	mux.Handle("GET /{$}", openrpc.Page(discover.Document, "/rpc"))
//
// If Describe fails, the error goes to the log of the session, and the peer is sent an
// internal error.
func Discover(r *rpcx.Router, info Info, opts *Options) *Discoverer {
	d := &Discoverer{router: r, info: info}
	d.info.Servers = slices.Clone(info.Servers)
	if opts != nil {
		d.opts = *opts
	}
	d.Handler = rpcx.Func(d.serveDocument)
	return d
}

// Discoverer is a handler made by [Discover]. No document lists the handler.
//
// A Discoverer keeps its document, and makes another after a method was added, removed,
// replaced or documented. If the schema of a type changes while the program runs, the kept
// document does not change.
type Discoverer struct {
	rpcx.Handler
	router *rpcx.Router
	info   Info
	opts   Options

	mu       sync.Mutex // guards the fields below
	methods  []describedMethod
	document *Document       // of methods; nil if there is none yet
	encoded  json.RawMessage // of document
}

// Unwrap returns the function within d.
func (d *Discoverer) Unwrap() rpcx.Handler { return d.Handler }

// Document returns the document that d replies with, for [Page]. Callers share the document
// and must not change it.
func (d *Discoverer) Document() (*Document, error) {
	document, _, err := d.keptDocument()
	return document, err
}

// isDiscover reports whether h is a handler made by Discover.
func isDiscover(h rpcx.Handler) bool {
	for h != nil {
		if _, ok := h.(*Discoverer); ok {
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

func (d *Discoverer) serveDocument(context.Context) (json.RawMessage, error) {
	_, encoded, err := d.keptDocument()
	return encoded, err
}

// keptDocument returns the document of the present methods, and its JSON.
func (d *Discoverer) keptDocument() (*Document, json.RawMessage, error) {
	methods := listMethods(d.router, d.opts.All)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.document != nil && slices.EqualFunc(methods, d.methods, describedMethod.isSame) {
		return d.document, d.encoded, nil
	}
	document, err := describeMethods(methods, d.info, &d.opts)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := json.Marshal(document)
	if err != nil {
		return nil, nil, err
	}
	d.methods, d.document, d.encoded = methods, document, encoded
	return document, encoded, nil
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
