package otelrpcx

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// handling is a request whose handler runs.
type handling struct {
	method *method
	ctx    context.Context // of the handler, with the span
	span   trace.Span
}

// contextFor returns the function of Options.Context. user is the function of the user, or
// nil.
func (in *instrumentation) contextFor(user func(context.Context, *rpcx.Request) context.Context) func(context.Context, *rpcx.Request) context.Context {
	return func(ctx context.Context, req *rpcx.Request) context.Context {
		ctx = in.beginRequest(ctx, req)
		if user != nil {
			return user(ctx, req)
		}
		return ctx
	}
}

// beginRequest begins the span of a request, and returns the context for the handler.
func (in *instrumentation) beginRequest(ctx context.Context, req *rpcx.Request) context.Context {
	local, headers := ctx, headersOf(req)
	trusted := (in.carries || headers != nil) && in.trusts(req.Session())
	if trusted {
		ctx = in.extract(ctx, req, headers)
	}
	if req.IsNotification() && in.NoNotifications {
		return ctx
	}
	m := in.requests.of(req.Session(), req.Method)
	options := m.start
	if arrived := req.Arrived(); time.Since(arrived) > shortWait {
		options = append(slices.Clip(options), trace.WithTimestamp(arrived))
	}
	extracted := ctx
	ctx, span := in.tracer.Start(ctx, m.spanName, options...)
	if span.IsRecording() {
		in.describeRequest(span, m, req)
		switch former := trace.SpanContextFromContext(local); {
		case !trusted:
			addLink(span, in.spanOfStranger(former, req, headers))
		case trusted && !former.Equal(trace.SpanContextFromContext(extracted)):
			addLink(span, former)
		}
	}
	in.running.Add(req, handling{m, ctx, span})
	return ctx
}

// addLink adds a link to a span that is recorded, unless to is empty.
func addLink(span trace.Span, to trace.SpanContext) {
	if to.IsValid() {
		span.AddLink(trace.Link{SpanContext: to})
	}
}

// shortWait is the time from the arrival to the handler that spans leave out: the option
// for another begin is an allocation.
const shortWait = 100 * time.Microsecond

// describeRequest adds the attributes of req to a span that is recorded.
func (in *instrumentation) describeRequest(span trace.Span, m *method, req *rpcx.Request) {
	in.describe(span, m, req.Session(), req.Method)
	addRequestID(span, req.ID)
	if n, of := req.Batch(); of > 0 {
		span.SetAttributes(attribute.Int(keyBatchNumber, n), attribute.Int(keyBatchSize, of))
	}
}

// addRequestID adds the id of a call or request to a span that is recorded. Null and a
// missing id are left out.
func addRequestID(span trace.Span, id rpcx.ID) {
	if text, ok := idText(id); ok {
		span.SetAttributes(attribute.String(keyRequestID, bounded(text)))
	}
}

// idText returns the text of an id, without the quotes of a string. For null and a missing
// id, ok is false.
func idText(id rpcx.ID) (text string, ok bool) {
	switch {
	case id == nil || string(id) == "null":
		return "", false
	case id[0] == '"' && json.Unmarshal(id, &text) == nil:
		return text, true
	}
	return string(id), true
}

// traceFor returns a copy of user, which may be nil. The copy also ends spans, and counts
// refused requests.
func (in *instrumentation) traceFor(user *rpcx.Trace) *rpcx.Trace {
	var t rpcx.Trace
	if user != nil {
		t = *user
	}
	replySent, refused := t.ReplySent, t.Refused
	t.ReplySent = func(req *rpcx.Request, err error, d time.Duration) {
		in.endRequest(req, err, d)
		if replySent != nil {
			replySent(req, err, d)
		}
	}
	t.Refused = func(s *rpcx.Session, method string, id rpcx.ID, e *rpcx.Error) {
		in.countRefusal(telemetry.LimitOf(e), 1)
		if refused != nil {
			refused(s, method, id, e)
		}
	}
	return &t
}

// countRefusal counts n requests that were refused because of a limit.
func (in *instrumentation) countRefusal(limit string, n int64) {
	in.refused.Add(context.Background(), n, metric.WithAttributes(attribute.String(keyLimit, limit)))
}

// endRequest ends the span of a request, d after its arrival.
func (in *instrumentation) endRequest(req *rpcx.Request, err error, d time.Duration) {
	h, ok := in.running.Remove(req)
	if !ok {
		return
	}
	outcome := telemetry.OfRequest(h.ctx, req.Session(), err, in.cancellation)
	if h.span.IsRecording() {
		endSpan(h.span, err, outcome, trace.WithTimestamp(req.Arrived().Add(d)))
	}
	h.method.record(h.ctx, d, outcome)
}
