// Package otelrpcx shows what rpcx does as OpenTelemetry traces and metrics.
//
// [Instrument] adds spans and metrics to the options of a session, a [rpcx.Server], a
// [rpcx.Client] or an [rpcx.Exchange], for the calls of both directions:
//
//	opts := otelrpcx.Instrument(&rpcx.Options{Handler: router, Meta: rpcx.MemberMeta}, nil)
//	srv := &rpcx.Server{Options: *opts}
//	err := otelrpcx.InstrumentServer(srv, nil)
//
// # Spans
//
// A call or notification of this side is a span of kind CLIENT, from before the encoding to
// the reply, or to the queueing of a notification. A request of the peer is a span of kind
// SERVER, from its arrival to the reply, the wait for a handler included. The context of the
// handler has the span, so a call back by the handler is a child.
//
// A batch of this side is a span "jsonrpc batch" of kind INTERNAL; the spans of its members
// are its children. A repetition by a Client is a span of its own, with the attribute
// rpcx.attempt, beside the span of the attempt before.
//
// These have no spans: requests that are refused before a handler (their number is a metric),
// the values of a [rpcx.Hub] and of streams, and messages of the session itself, such as
// cancellations.
//
// A span has the name of its method. Methods that are not known ("Methods" in [Config]) have
// the name "jsonrpc", the rpc.method "_OTHER", and the name itself in rpc.method_original.
//
// The names of attributes are those of OpenTelemetry's conventions for JSON-RPC, which are
// still in development, and may change with the conventions. Names with the prefix "rpcx."
// are this package's own.
//
//	rpc.system.name           "jsonrpc"
//	rpc.method                the method, or "_OTHER"
//	rpc.method_original       the method, if rpc.method is "_OTHER"
//	rpc.status_code           code of the JSON-RPC error
//	error.type                the same code, or one of the words below
//	jsonrpc.request.id        id of the request; on SERVER spans
//	jsonrpc.protocol.version  "2.0"; nothing for other protocols
//	server.address, .port     Config.ServerAddress, or on a dialled session the peer's
//	network.peer.address      address of the peer
//	network.peer.port         its port
//	rpcx.attempt              number of the attempt, from 2
//	rpcx.batch.size           number of members of the batch
//	rpcx.batch.number         place in the batch of the peer, from 1
//
// An error.type without a code is "timeout", "cancelled", "not_connected", "connection_lost",
// "closed", "not_sent", "no_response", "member_failed" (of a batch), or "_OTHER".
//
// # Metrics
//
//	rpc.server.call.duration  seconds from the arrival of a request to the reply
//	rpc.client.call.duration  seconds from a call to its end
//	rpcx.requests.refused     requests without a handler, by rpcx.limit
//
// The durations have rpc.system.name, rpc.method, rpc.status_code and error.type, and on
// calls of dialled sessions the server.address and server.port of Config.ServerAddress.
// [InstrumentServer] adds the metrics of a server.
//
// A peer cannot make series: unknown methods share one, and so do error codes after the first
// 100.
//
// # Trace context
//
// If Options.Meta is set, each request carries the trace context in the fields of the
// propagator: "traceparent", "tracestate" and "baggage". Both ends need the same Meta. The
// peer of a third program may know another one, or none: a Model Context Protocol server has
// [rpcx.MCPMeta].
//
// The trace context is input from the peer. Only for a trusted peer (Config.TrustPeer) do
// the spans of this side belong to the peer's trace, with its sampling and its baggage.
// Otherwise a request begins a new trace with a link to the peer's span. Only the two ids
// are taken. Baggage is sent to trusted peers only.
//
// Fields over 512 bytes are neither sent nor read, and baggage over 8,192 bytes.
package otelrpcx

import (
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// Config holds settings. The zero value, and a nil *Config, mean the defaults.
type Config struct {
	// TracerProvider makes the spans. Default: the global provider.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the metrics. Default: the global provider.
	MeterProvider metric.MeterProvider
	// Propagator reads and writes the trace context. Default: the global propagator, which a
	// program has to set.
	Propagator propagation.TextMapPropagator
	// Methods reports whether a method has a name in spans and metrics. All other methods are
	// "_OTHER", and so are names over 256 bytes. Set Methods if this side calls methods whose names come from data. Methods
	// may be called by several goroutines at once. Default: for requests of the peer, the
	// methods of Options.Handler and Options.Gate that are a [*rpcx.Router]; for calls of
	// this side, all.
	Methods func(method string) bool
	// MaxMethods is the number of methods of each direction that have a name. Further methods
	// are "_OTHER". Default 1,000.
	MaxMethods int
	// TrustPeer reports whether the peer of a session is trusted: whether requests go on with
	// the peer's trace, its sampling and its baggage, and whether the peer receives baggage.
	// TrustPeer is called for each request, by several goroutines at once. The peer of an
	// [rpcx.Exchange] is trusted. Default: the peers of sessions with [rpcx.RoleClient],
	// which this side has dialled.
	TrustPeer func(s *rpcx.Session) bool
	// ServerAddress is the address by which clients know the server: "host:port", "host" or a
	// path. It is for calls of dialled sessions, and for requests of other sessions. Default:
	// spans of calls have the address of the connection's peer.
	ServerAddress string
	// NoNotifications leaves notifications without spans and durations. Trace context is sent
	// with them all the same.
	NoNotifications bool
}

// scope is the name of the instrumentation.
const scope = "example.com/rpcx/otel"

// resolve returns a copy of c with defaults.
func (c *Config) resolve() Config {
	var r Config
	if c != nil {
		r = *c
	}
	if r.TracerProvider == nil {
		r.TracerProvider = otel.GetTracerProvider()
	}
	if r.MeterProvider == nil {
		r.MeterProvider = otel.GetMeterProvider()
	}
	if r.Propagator == nil {
		r.Propagator = otel.GetTextMapPropagator()
	}
	if r.MaxMethods <= 0 {
		r.MaxMethods = telemetry.MaxMethods
	}
	if r.TrustPeer == nil {
		r.TrustPeer = func(s *rpcx.Session) bool { return s.Role() == rpcx.RoleClient }
	}
	return r
}

// Instrument returns a copy of opts with spans and metrics, for both directions. opts and c
// may be nil. Functions that opts has already are called as well: those of OnCall and
// OnBatchCall after the span has begun, and Context with the span.
func Instrument(opts *rpcx.Options, c *Config) *rpcx.Options {
	var o rpcx.Options
	if opts != nil {
		o = *opts
	}
	in := newInstrumentation(&o, c.resolve())
	o.OnCall = slices.Insert(slices.Clone(o.OnCall), 0, in.beginCall)
	o.OnBatchCall = slices.Insert(slices.Clone(o.OnBatchCall), 0, in.beginBatch)
	o.Context = in.contextFor(o.Context)
	o.Trace = in.traceFor(o.Trace)
	return &o
}

// newInstrumentation returns the instrumentation of a session with the options o.
func newInstrumentation(o *rpcx.Options, c Config) *instrumentation {
	in := &instrumentation{
		Config:       c,
		tracer:       c.TracerProvider.Tracer(scope),
		carries:      o.Meta != nil,
		protocol:     o.Protocol,
		cancellation: o.Cancellation,
		batchStart:   []trace.SpanStartOption{trace.WithAttributes(systemName)},
	}
	meter := c.MeterProvider.Meter(scope)
	in.refused = must(meter.Int64Counter("rpcx.requests.refused", metric.WithUnit("{request}"),
		metric.WithDescription("Requests and notifications that were refused before a handler.")))
	known := c.Methods
	if known == nil {
		known = telemetry.KnownTo(o.Handler, o.Gate)
	}
	in.requests = in.newDirection(rpcx.RoleServer, known, durations(meter, "rpc.server.call.duration", "Duration of an incoming call."))
	in.calls = in.newDirection(rpcx.RoleClient, c.Methods, durations(meter, "rpc.client.call.duration", "Duration of an outgoing call."))
	return in
}

// instrumentation is the addition of an Instrument to options. Its fields do not change.
type instrumentation struct {
	Config
	tracer          trace.Tracer
	carries         bool // Options.Meta is set
	protocol        rpcx.Protocol
	cancellation    *rpcx.Cancellation
	calls, requests direction
	batchStart      []trace.SpanStartOption
	refused         metric.Int64Counter
	running         telemetry.Requests[handling]
}

// must passes an error to the global error handler. Instruments work in spite of errors.
func must[T any](instrument T, err error) T {
	if err != nil {
		otel.Handle(err)
	}
	return instrument
}

// durations makes a histogram of durations, with the buckets of the conventions.
func durations(meter metric.Meter, name, description string) metric.Float64Histogram {
	return must(meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(telemetry.Buckets...)))
}
