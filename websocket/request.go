package websocket

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"example.com/rpcx/internal/bounded"
)

const (
	defaultHeaderFields = 100
	defaultHeaderBytes  = 16 << 10
)

// checkSize returns an error if r is larger than a request may be. It is asked before
// anything is kept of r, or looked for in it.
func (a *Acceptor) checkSize(r *http.Request) error {
	fields, size := measure(r)
	if limit := limitOr(a.MaxHeaderFields, defaultHeaderFields); fields > limit {
		return fmt.Errorf("request with %d header fields and URL parameters is too large: %s", fields, bounded.Over(limit, "fields", "websocket.Acceptor.MaxHeaderFields"))
	}
	if limit := limitOr(a.MaxHeaderBytes, defaultHeaderBytes); size > limit {
		return fmt.Errorf("request with %s bytes of header and URL is too large: %s", bounded.Thousands(size), bounded.Over(limit, "bytes", "websocket.Acceptor.MaxHeaderBytes"))
	}
	return nil
}

// limitOr resolves a limit: 0 is its default, a negative one is none.
func limitOr(n, byDefault int) int {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return math.MaxInt
	}
	return n
}

// measure returns how many fields and parameters r has, and how many bytes they and its
// URL are.
func measure(r *http.Request) (fields, size int) {
	size = len(r.RequestURI) + len(r.Host)
	if r.URL.RawQuery != "" {
		fields = 1 + strings.Count(r.URL.RawQuery, "&")
	}
	for name, values := range r.Header {
		fields += len(values)
		for _, value := range values {
			size += len(name) + len(": \r\n") + len(value)
		}
	}
	return fields, size
}

// fieldSize is what a field or parameter takes beside its bytes: a place in a map that
// may be half empty, a slice, and what allocations are rounded up by.
const fieldSize = 160

// requestSize returns how many bytes of memory the session's request takes, about.
func requestSize(r *http.Request) int {
	fields, size := measure(r)
	return size + len(r.URL.Path) + fields*fieldSize
}

// keep returns what a session keeps of its request. It is a copy, since what stands
// around the handler may still change the request.
func (a *Acceptor) keep(r *http.Request) *http.Request {
	kept := r.Clone(context.WithoutCancel(r.Context()))
	kept.Body, kept.Trailer = http.NoBody, nil
	if a.Headers != nil {
		kept.Header = make(http.Header, len(a.Headers))
		for _, name := range a.Headers {
			name = http.CanonicalHeaderKey(name)
			if values := r.Header[name]; len(values) > 0 {
				kept.Header[name] = slices.Clone(values)
			}
		}
	}
	_ = kept.ParseForm() // or the first FormValue would, while others look
	return kept
}
