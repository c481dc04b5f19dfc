// Package promrpcx shows what rpcx does as metrics of Prometheus.
//
//	srv := new(rpcx.Server)
//	collector := promrpcx.New(srv, nil)
//	srv.Options = *collector.Instrument(&rpcx.Options{Handler: router})
//	prometheus.MustRegister(collector)
//	http.Handle("/metrics", promhttp.Handler())
//
// In the example, prometheus and promhttp are packages of
// github.com/prometheus/client_golang. docs/observing.md says what to do about each metric,
// and alerts.yml beside this package has alerts.
//
// # Metrics of calls
//
//	rpc_server_call_duration_seconds  a histogram: from the arrival of a request to the reply
//	rpc_client_call_duration_seconds  a histogram: from a call of this side to its end
//
// The label rpc_method is the method. The label rpc_status_code is the code of the JSON-RPC
// error. For another failure, rpc_status_code is empty, and error_type has the reason, in
// the words of package otelrpcx ("timeout", for example). With a code, error_type is the
// code. After success, both are empty. The label rpc_system_name is always "jsonrpc".
//
// OpenTelemetry's conventions define the names and the buckets: OpenTelemetry's exporter for
// Prometheus makes the same series of what package otelrpcx measures. Notifications count as
// calls.
//
// Unknown methods have the rpc_method "_OTHER", and so have methods over MaxMethods. After
// the first 100 error codes and statuses of HTTP, others are "_OTHER", except the codes of
// JSON-RPC and of rpcx. So a peer cannot make series.
//
// # Further metrics
//
//	rpcx_refused_total{kind,limit}  refused requests and connections, by the exceeded limit
//	rpcx_handlers                   requests and notifications with a running handler
//	rpcx_pauses_total               pauses of reading, because requests arrive too fast
//	rpcx_paused_seconds_total       their sum, once they are over
//	rpcx_sessions                   live sessions of the server
//	rpcx_handshakes                 handshakes in progress
//	rpcx_queued_bytes               bytes counted for Server.MaxQueuedBytes
//	rpcx_handled_bytes              bytes counted for Server.MaxHandledBytes
//	rpcx_session_cost               a histogram of the present costs of the live sessions
//
// The kind of a refusal is "request" or "connection". A refused request never reaches a
// handler, and has no duration. With a server, the counts of refusals begin with 0 for each
// limit, so that a rate sees the first. rpcx_session_cost shows the present moment, so the
// counts also fall. A quantile needs no rate:
//
//	histogram_quantile(0.99, rpcx_session_cost_bucket)
package promrpcx

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
)

// Collector is a [prometheus.Collector] of what rpcx counts.
type Collector struct {
	// MaxMethods is the number of methods with a series, in each direction. Further methods
	// are "_OTHER". Set MaxMethods before Instrument. Default 1,000.
	MaxMethods int

	srv     *rpcx.Server // nil without a server
	methods func(string) bool

	requests, calls       *prometheus.HistogramVec
	refused               *prometheus.CounterVec
	handlers              prometheus.Gauge
	pauses, pausedSeconds prometheus.Counter
	server                serverDescs
}

// New returns a collector, to be registered. If srv is not nil, the collector has the
// metrics of the server. Programs that only call pass nil.
//
// The function methods reports whether a method has a series. Several goroutines may call
// the function at once. If methods is nil, requests of the peer have the methods of
// Options.Handler and Options.Gate, if they are a [*rpcx.Router]. For calls of this side,
// every method is known. If calls have names from data, a program should pass a function.
func New(srv *rpcx.Server, methods func(method string) bool) *Collector {
	durations := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: telemetry.Buckets, ConstLabels: systemName},
			[]string{"rpc_method", "rpc_status_code", "error_type"})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	c := &Collector{
		srv:           srv,
		methods:       methods,
		requests:      durations("rpc_server_call_duration_seconds", "Duration of incoming calls and notifications, from their arrival."),
		calls:         durations("rpc_client_call_duration_seconds", "Duration of outgoing calls and notifications."),
		refused:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: refusedName, Help: refusedHelp}, refusedLabels),
		handlers:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "rpcx_handlers", Help: "Requests and notifications with a running handler."}),
		pauses:        counter("rpcx_pauses_total", "Pauses of reading, because requests arrive faster than they are handled."),
		pausedSeconds: counter("rpcx_paused_seconds_total", "Sum of the pauses of reading that are over."),
		server:        newServerDescs(),
	}
	if srv != nil {
		for _, limit := range telemetry.RequestLimits {
			c.refused.WithLabelValues("request", limit) // begins with 0, for rates
		}
	}
	return c
}

// systemName is the label by which OpenTelemetry tells JSON-RPC from other calls.
var systemName = prometheus.Labels{"rpc_system_name": "jsonrpc"}

const (
	refusedName = "rpcx_refused_total"
	refusedHelp = "Requests and connections that were refused, by the exceeded limit."
)

var refusedLabels = []string{"kind", "limit"}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	c.requests.Describe(ch)
	c.calls.Describe(ch)
	c.refused.Describe(ch)
	c.handlers.Describe(ch)
	c.pauses.Describe(ch)
	c.pausedSeconds.Describe(ch)
	if c.srv != nil {
		c.server.describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.requests.Collect(ch)
	c.calls.Collect(ch)
	c.refused.Collect(ch)
	c.handlers.Collect(ch)
	c.pauses.Collect(ch)
	c.pausedSeconds.Collect(ch)
	if c.srv != nil {
		c.server.collect(ch, c.srv)
	}
}

// Instrument returns a copy of opts whose sessions are measured, for both directions. opts
// may be nil. Functions that opts has already are called as well. Several options may be
// instrumented, for example those of a server and of a client.
func (c *Collector) Instrument(opts *rpcx.Options) *rpcx.Options {
	var o rpcx.Options
	if opts != nil {
		o = *opts
	}
	limit := c.MaxMethods
	if limit <= 0 {
		limit = telemetry.MaxMethods
	}
	known := c.methods
	if known == nil {
		known = telemetry.KnownTo(o.Handler, o.Gate)
	}
	in := &instrumentation{
		requests:     newMethods(c.requests, limit, known),
		calls:        newMethods(c.calls, limit, c.methods),
		cancellation: o.Cancellation,
	}
	o.OnCall = slices.Insert(slices.Clone(o.OnCall), 0, in.beginCall)
	o.Context = c.contextFor(in, o.Context)
	o.Trace = c.traceFor(in, o.Trace)
	return &o
}

// instrumentation is the addition of an Instrument to options. Its fields do not change.
type instrumentation struct {
	requests, calls *telemetry.Methods[*method]
	cancellation    *rpcx.Cancellation
	running         telemetry.Requests[context.Context]
}
