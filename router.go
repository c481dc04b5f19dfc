package rpcx

import (
	"context"
	"sync"
)

// Router is a [Handler] that passes each request to the handler of its method,
// and answers [CodeMethodNotFound] where there is none. Handlers may be added
// while it serves.
type Router struct {
	mu       sync.RWMutex
	handlers map[string]Handler
}

// NewRouter returns an empty router.
func NewRouter() *Router { return &Router{handlers: make(map[string]Handler)} }

// Handle has h handle the requests for method. It panics if h is nil, or if
// method has a handler.
func (r *Router) Handle(method string, h Handler) {
	if h == nil {
		panic("rpcx: nil handler for method " + method)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.handlers[method] != nil {
		panic("rpcx: a second handler for method " + method)
	}
	r.handlers[method] = h
}

// ServeRPC implements [Handler].
func (r *Router) ServeRPC(ctx context.Context, req *Request) (any, error) {
	r.mu.RLock()
	h := r.handlers[req.Method]
	r.mu.RUnlock()
	if h == nil {
		return nil, MethodNotFound(req.Method)
	}
	return h.ServeRPC(ctx, req)
}
