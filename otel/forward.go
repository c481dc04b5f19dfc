package otelrpcx

import (
	"context"
	"errors"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// InstrumentForward returns a handler with a span of kind CLIENT, and a duration of a call,
// around h, which has another server answer the requests: natsrpcx.Forward, for example. So
// a gateway shows its own time, and the time of the workers. c may be nil.
// Config.ServerAddress is the address of the other server.
//
//	forward := natsrpcx.Forward(natsrpcx.Config{Conn: conn, Header: otelrpcx.Headers(config)})
//	opts.Handler = otelrpcx.InstrumentForward(forward, config)
//
// Clients choose the names here, so no method has a name by default, unless h is an
// [*rpcx.Router] with the method. Config.Methods says which methods have one.
func InstrumentForward(h rpcx.Handler, c *Config) rpcx.Handler {
	config := c.resolve()
	if config.Methods == nil {
		config.Methods = telemetry.KnownTo(h)
	}
	return &forwarder{newInstrumentation(&rpcx.Options{}, config), h}
}

// forwarder is the handler of InstrumentForward.
type forwarder struct {
	in   *instrumentation
	next rpcx.Handler
}

// Unwrap returns the handler within.
func (f *forwarder) Unwrap() rpcx.Handler { return f.next }

// errNotReturned is the error of a handler that has panicked, or called runtime.Goexit.
var errNotReturned = errors.New("the handler has not returned")

// ServeRPC implements [rpcx.Handler].
func (f *forwarder) ServeRPC(ctx context.Context, req *rpcx.Request) (result any, err error) {
	start := time.Now()
	m := f.in.calls.of(nil, req.Method)
	ctx, span := f.in.tracer.Start(ctx, m.spanName, m.start...)
	if span.IsRecording() {
		f.in.describe(span, m, nil, req.Method)
	}
	err = errNotReturned
	defer func() {
		outcome := telemetry.OfCall(ctx, err)
		endSpan(span, err, outcome)
		m.record(ctx, time.Since(start), outcome)
	}()
	return f.next.ServeRPC(ctx, req)
}
