package otelrpcx

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// beginCall is a function of Options.OnCall.
func (in *instrumentation) beginCall(ctx context.Context, c *rpcx.OutgoingCall) (next context.Context, done func(error), err error) {
	if c.Notification && in.NoNotifications {
		in.inject(ctx, c)
		return nil, nil, nil
	}
	start := time.Now()
	m := in.calls.of(c.Session, c.Method)
	ctx, span := in.tracer.Start(ctx, m.spanName, m.start...)
	if span.IsRecording() {
		in.describeCall(span, m, c)
	}
	in.inject(ctx, c)
	method := c.Method
	return ctx, func(err error) {
		if c.Method != method { // a later function of OnCall has changed the method
			m = in.calls.of(c.Session, c.Method)
			span.SetName(m.spanName)
			span.SetAttributes(attribute.String(keyMethod, m.name))
		}
		if span.IsRecording() {
			addRequestID(span, c.ID())
		}
		outcome := telemetry.OfCall(ctx, err)
		endSpan(span, err, outcome)
		m.record(ctx, time.Since(start), outcome)
	}, nil
}

// describeCall adds the attributes of c to a span that is recorded.
func (in *instrumentation) describeCall(span trace.Span, m *method, c *rpcx.OutgoingCall) {
	in.describe(span, m, c.Session, c.Method)
	if c.Session != nil && c.Session.Role() == rpcx.RoleClient && in.ServerAddress == "" {
		span.SetAttributes(addrAttributes(c.Session.RemoteAddr(), keyServerAddress, keyServerPort)...)
	}
	if c.Attempt > 1 {
		span.SetAttributes(attribute.Int(keyAttempt, c.Attempt))
	}
}

// beginBatch is a function of Options.OnBatchCall.
func (in *instrumentation) beginBatch(ctx context.Context, s *rpcx.Session, b *rpcx.Batch) (next context.Context, done func(error)) {
	ctx, span := in.tracer.Start(ctx, system+" batch", in.batchStart...)
	if span.IsRecording() {
		span.SetAttributes(attribute.Int(keyBatchSize, b.Len()))
		if s != nil {
			span.SetAttributes(addrAttributes(s.RemoteAddr(), keyPeerAddress, keyPeerPort)...)
		}
	}
	return ctx, func(err error) { endSpan(span, err, telemetry.OfCall(ctx, err)) }
}

// endSpan ends the span of a call, a request or a batch with the error err.
func endSpan(span trace.Span, err error, o telemetry.Outcome, options ...trace.SpanEndOption) {
	if span.IsRecording() && o.Type != "" {
		span.SetAttributes(attribute.String(keyErrorType, o.Type))
		if o.Code != "" {
			span.SetAttributes(attribute.String(keyStatusCode, o.Code))
		}
		text := ""
		if err != nil {
			text = bounded(err.Error())
		}
		span.SetStatus(codes.Error, text)
	}
	span.End(options...)
}
