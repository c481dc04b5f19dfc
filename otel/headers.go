package otelrpcx

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/propagation"

	"example.com/rpcx"
)

// Headers returns a function that returns the trace context of ctx as headers, for
// transports with a message for each call. For a batch, the context is that of the batch. c
// may be nil.
//
//	dialer := rpchttp.Dialer{CallHeader: otelrpcx.Headers(config)}
//	client, err := dialer.Dial(url, otelrpcx.Instrument(opts, config))
//
//	workers, err := natsrpcx.Dial(natsrpcx.Config{Conn: conn, Header: otelrpcx.Headers(config)}, opts)
//
// Headers over their limits are left out. Baggage goes to every peer: set another
// Propagator for strange servers.
func Headers(c *Config) func(ctx context.Context) map[string]string {
	propagator := c.resolve().Propagator
	return func(ctx context.Context) map[string]string {
		values := make(writtenHeaders, 3)
		propagator.Inject(ctx, values)
		return values
	}
}

// writtenHeaders are the headers for a message.
type writtenHeaders map[string]string

func (h writtenHeaders) Get(key string) string { return h[key] }

func (h writtenHeaders) Set(key, value string) {
	if fits(key, len(value)) {
		h[key] = value
	}
}

func (h writtenHeaders) Keys() []string { return nil }

// withHeaders is the conn of a session whose transport has headers.
type withHeaders interface{ Header(name string) []string }

// headersOf returns the headers of the message with req, or nil if the transport has none.
func headersOf(req *rpcx.Request) propagation.TextMapCarrier {
	if conn, ok := req.Session().Conn().(withHeaders); ok {
		return readHeaders{conn}
	}
	return nil
}

// readHeaders reads the trace context of a message in its headers.
type readHeaders struct{ conn withHeaders }

// Get returns the value of key. Headers of the same name are one list. A list that is too
// long counts as missing.
func (h readHeaders) Get(key string) string {
	values := h.conn.Header(key)
	if len(values) == 1 && fits(key, len(values[0])) {
		return values[0]
	}
	length := -1
	for _, value := range values {
		if length += len(value) + 1; !fits(key, length) {
			return ""
		}
	}
	return strings.Join(values, ",")
}

func (h readHeaders) Set(string, string) {}

// Keys returns nil: propagators know their keys.
func (h readHeaders) Keys() []string { return nil }
