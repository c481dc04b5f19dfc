package otelrpcx

import (
	"bytes"
	"context"
	"encoding/json"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
)

const (
	// maxField is the length in bytes of a field of the trace context.
	maxField = 512
	// maxBaggage is the length in bytes of the field "baggage".
	maxBaggage = 8192
)

// fits reports whether a field is not too long.
func fits(key string, length int) bool {
	if key == "baggage" {
		return length <= maxBaggage
	}
	return length <= maxField
}

// trusts reports whether the peer of s is trusted. s is nil for an exchange of this side.
func (in *instrumentation) trusts(s *rpcx.Session) bool { return s == nil || in.TrustPeer(s) }

// inject adds the trace context of ctx to c. Without Options.Meta, only an exchange may have
// a use for the data: rpchttp.Dialer.Meta.
func (in *instrumentation) inject(ctx context.Context, c *rpcx.OutgoingCall) {
	if !in.carries && c.Session != nil {
		return
	}
	if baggage.FromContext(ctx).Len() > 0 && !in.trusts(c.Session) {
		ctx = baggage.ContextWithoutBaggage(ctx)
	}
	in.Propagator.Inject(ctx, callCarrier{c})
}

// extract returns a copy of ctx with the trace context that came with req: in the message,
// or else in the headers. headers may be nil.
func (in *instrumentation) extract(ctx context.Context, req *rpcx.Request, headers propagation.TextMapCarrier) context.Context {
	if headers != nil {
		former := trace.SpanContextFromContext(ctx)
		next := in.Propagator.Extract(ctx, headers)
		// A span of the transport, of otelhttp for example, may be a child of the same span
		// already, and is nearer.
		if !former.IsValid() || trace.SpanContextFromContext(next).TraceID() != former.TraceID() {
			ctx = next
		}
	}
	if in.carries {
		ctx = in.Propagator.Extract(ctx, requestCarrier{req})
	}
	return ctx
}

// spanOfStranger returns the ids of the span that the peer names, and nothing more. Within
// the trace of the span former, the result is empty.
func (in *instrumentation) spanOfStranger(former trace.SpanContext, req *rpcx.Request, headers propagation.TextMapCarrier) trace.SpanContext {
	remote := trace.SpanContextFromContext(in.extract(context.Background(), req, headers))
	if remote.TraceID() == former.TraceID() {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: remote.TraceID(), SpanID: remote.SpanID(), Remote: true})
}

// callCarrier writes the trace context of a call.
type callCarrier struct{ call *rpcx.OutgoingCall }

func (c callCarrier) Get(key string) string {
	value, _ := c.call.Meta[key].(string)
	return value
}

func (c callCarrier) Set(key, value string) {
	if fits(key, len(value)) {
		c.call.SetMeta(key, value)
	}
}

func (c callCarrier) Keys() []string {
	keys := make([]string, 0, len(c.call.Meta))
	for key := range c.call.Meta {
		keys = append(keys, key)
	}
	return keys
}

// requestCarrier reads the trace context of a request.
type requestCarrier struct{ req *rpcx.Request }

// Get returns the value of key. A value that is too long or no string counts as missing.
func (c requestCarrier) Get(key string) string {
	raw := c.req.Meta(key)
	if len(raw) < 2 || raw[0] != '"' || !fits(key, len(raw)-2) {
		return ""
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var value string
	if json.Unmarshal(raw, &value) != nil {
		return ""
	}
	return value
}

func (c requestCarrier) Set(string, string) {}

// Keys returns nil: a request has no list of its data, and propagators know their keys.
func (c requestCarrier) Keys() []string { return nil }
