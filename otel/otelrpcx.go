// Package otelrpcx shows what rpcx does as OpenTelemetry traces and metrics.
//
// [Instrument] adds spans and metrics to the options of a session, a [rpcx.Server], a
// [rpcx.Client] or an [rpcx.Exchange], for the calls of both directions:
//
//	opts := otelrpcx.Instrument(&rpcx.Options{Handler: router, Meta: rpcx.MemberMeta}, nil)
//	srv := &rpcx.Server{Options: *opts}
//	err := otelrpcx.InstrumentServer(srv, nil)
//
// By default, the spans and metrics go to the global providers of OpenTelemetry, which do
// nothing until the program has set them. docs/observing.md has an example.
//
// # Spans
//
// A call or notification of this side is a span of kind CLIENT. The span begins before the
// encoding, and ends with the reply, or when a notification is queued. A request of the
// peer is a span of kind SERVER, from the arrival to the reply, including the wait for a
// handler. The context of the handler has the span, so a call back by the handler is a
// child.
//
// A batch of this side is a span "jsonrpc batch" of kind INTERNAL, above the spans of the
// members. If a Client repeats a call, each attempt has a span, with the attribute
// rpcx.attempt from the second on.
//
// There are no spans for requests refused before a handler (a metric counts them), for the
// values of a [rpcx.Hub] and of streams, and for messages of the session itself, such as
// cancellations.
//
// A span has the name of the method. If the method is unknown (Config.Methods), the name is
// "jsonrpc", the rpc.method is "_OTHER", and rpc.method_original is the method.
//
// The names of attributes follow OpenTelemetry's conventions for JSON-RPC. The conventions
// have the status "Development": a later version of this package may follow with changes.
// Names with the prefix "rpcx." belong to this package.
//
//	rpc.system.name           "jsonrpc"
//	rpc.method                the method, or "_OTHER"
//	rpc.method_original       the method, if rpc.method is "_OTHER"
//	rpc.status_code           code of the JSON-RPC error
//	error.type                the same code, or one of the words below
//	jsonrpc.request.id        id of the request; not on spans of InstrumentForward
//	jsonrpc.protocol.version  "2.0"; nothing for other protocols
//	server.address, .port     Config.ServerAddress, or the address of a dialled peer
//	network.peer.address      address of the peer
//	network.peer.port         its port
//	rpcx.attempt              number of the attempt, from 2
//	rpcx.batch.size           number of members of the batch
//	rpcx.batch.number         place in the batch of the peer, from 1
//
// An error.type without a code is "timeout", "cancelled", "not_connected",
// "connection_lost", "closed", "not_sent", "no_response", "member_failed" (of a batch),
// "http_401" (an answer with this status and without JSON-RPC, for example), or "_OTHER".
//
// # Metrics
//
//	rpc.server.call.duration  seconds from the arrival of a request to the reply
//	rpc.client.call.duration  seconds from a call to its end
//	rpcx.requests.refused     requests without a handler, by rpcx.limit
//
// The durations have rpc.system.name, rpc.method, rpc.status_code and error.type, and also
// server.address and server.port if Config.ServerAddress is set. [InstrumentServer] adds
// the metrics of a server.
//
// A peer cannot make series. Unknown methods share a series. So do error codes and statuses
// of HTTP after the first 100, except the codes of JSON-RPC and of rpcx.
//
// # Trace context
//
// The trace context has the fields of the propagator: "traceparent", "tracestate" and
// "baggage". If Options.Meta is set, each request carries the fields in the message. Both
// ends need the same Meta, for example [rpcx.MemberMeta], or [rpcx.MCPMeta] for the Model
// Context Protocol. Without Options.Meta, a session sends nothing.
//
// Over HTTP and NATS, the fields are headers of the message: see [Headers] for the sender.
// The receiver reads headers by itself. A batch has one set of headers, so the spans of its
// requests are children of the span of the batch. If a message has both, the fields in the
// message count. If a middleware such as otelhttp has begun a span in the trace of the
// headers, that span is the parent.
//
// [InstrumentForward] adds the spans of a gateway, for the work of other servers.
//
// The trace context is input from the peer. If the peer is trusted (Config.TrustPeer), the
// spans of this side belong to the peer's trace, with the peer's sampling and baggage.
// Otherwise a request begins a new trace, with a link to the peer's span. The link has the
// ids of the trace and the span, and nothing more. Baggage is sent to trusted peers only.
//
// Fields over 512 bytes are neither sent nor read. The limit of baggage is 8,192 bytes.
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
	// Methods reports whether a method has a name in spans and metrics. An unknown method is
	// "_OTHER", and so is a name over 256 bytes. If this side calls methods whose names come
	// from data, set Methods. Methods may be called by several goroutines at once.
	//
	// Default: for requests of the peer, the methods of Options.Handler and Options.Gate, if
	// they are a [*rpcx.Router]. For calls of this side, every method is known, except in
	// [InstrumentForward].
	Methods func(method string) bool
	// MaxMethods is the number of methods of each direction that have a name. Further methods
	// are "_OTHER". Default 1,000.
	MaxMethods int
	// TrustPeer reports whether the peer of a session is trusted. Requests of a trusted peer
	// go on with the peer's trace, sampling and baggage, and the peer receives baggage.
	// TrustPeer is called for each request, by several goroutines at once. The peer of an
	// [rpcx.Exchange] is trusted. Default: the peers of sessions with [rpcx.RoleClient],
	// which this side has dialled.
	TrustPeer func(s *rpcx.Session) bool
	// ServerAddress is the address by which clients know the server: "host:port", "host" or a
	// path. Calls of dialled sessions have the address, and requests of sessions that this
	// side has accepted. Default: for spans of calls, the address of a dialled peer.
	ServerAddress string
	// NoNotifications leaves notifications without spans and durations. Notifications still
	// carry the trace context.
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
	if o.Handler != nil {
		for _, limit := range telemetry.RequestLimits {
			in.countRefusal(limit, 0) // begins with 0, for rates
		}
	}
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
