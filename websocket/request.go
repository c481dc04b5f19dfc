package websocket

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"example.com/rpcx/internal/bounded"
)

const (
	defaultHeaderFields = 100
	defaultHeaderBytes  = 16 << 10
)

// checkSize returns an error if r is too large. The caller checks before keeping or
// searching any part of r.
func (a *Acceptor) checkSize(r *http.Request) error {
	fields, size := measure(r)
	if limit := bounded.LimitOr(a.MaxHeaderFields, defaultHeaderFields); fields > limit {
		return fmt.Errorf("request with %d header fields and URL parameters is too large: %s", fields, bounded.Over(limit, "fields", "websocket.Acceptor.MaxHeaderFields"))
	}
	if limit := bounded.LimitOr(a.MaxHeaderBytes, defaultHeaderBytes); size > limit {
		return fmt.Errorf("request with %s bytes of header and URL is too large: %s", bounded.Thousands(size), bounded.Over(limit, "bytes", "websocket.Acceptor.MaxHeaderBytes"))
	}
	return nil
}

// measure returns the number of fields and parameters of r, and their size in bytes
// together with the URL.
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

// fieldSize is the memory overhead of a field or parameter: a map slot (the map may be half
// empty), a slice, and rounding of allocations.
const fieldSize = 160

// requestSize returns the approximate memory use of a session's request, in bytes.
func requestSize(r *http.Request) int {
	fields, size := measure(r)
	return size + len(r.URL.Path) + fields*fieldSize
}

// keep returns a copy of r for the session, because middleware may still change r.
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
	_ = kept.ParseForm() // the first FormValue would parse otherwise, concurrently with other readers
	return kept
}
