// Package promrpcx shows what rpcx does as metrics of Prometheus.
//
//	srv := new(rpcx.Server)
//	collector := promrpcx.New(srv, nil)
//	srv.Options = *collector.Instrument(&rpcx.Options{Handler: router})
//	prometheus.MustRegister(collector)
//	http.Handle("/metrics", promhttp.Handler())
//
// # Metrics of calls
//
//	rpc_server_call_duration_seconds  a histogram: from the arrival of a request to the reply
//	rpc_client_call_duration_seconds  a histogram: from a call of this side to its end
//
// The labels are rpc_method, rpc_response_status_code (the code of the JSON-RPC error, or
// empty), and error_type (the same code, or the reason for another failure, or empty). The
// reasons are those of package otelrpcx, "timeout" for example. The buckets are those of
// OpenTelemetry's conventions. Notifications are counted as calls.
//
// Methods that are not known have the rpc_method "_OTHER". So do methods over MaxMethods.
// Error codes after the first 100 are "_OTHER", too. So a peer cannot make series.
//
// # Further metrics
//
//	rpcx_refused_total{kind,limit}  refused requests and connections, by the exceeded limit
//	rpcx_pauses_total               pauses of reading, because requests arrive too fast
//	rpcx_paused_seconds_total       their sum, once they are over
//	rpcx_sessions                   live sessions of the server
//	rpcx_handshakes                 handshakes in progress
//	rpcx_queued_bytes               bytes counted for Server.MaxQueuedBytes
//	rpcx_handled_bytes              bytes counted for Server.MaxHandledBytes
//	rpcx_session_cost               a histogram of the present costs of the live sessions
//
// The kind of a refusal is "request" or "connection". A refused request never reaches a
// handler, and has no duration. rpcx_session_cost is a picture of the moment, so its counts
// also fall. A quantile of it needs no rate:
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
	// MaxMethods is the number of methods of each direction with series of their own, for the
	// next Instrument. Further methods are "_OTHER". Default 1,000.
	MaxMethods int

	srv     *rpcx.Server // nil without a server
	methods func(string) bool

	requests, calls       *prometheus.HistogramVec
	refused               *prometheus.CounterVec
	pauses, pausedSeconds prometheus.Counter
	server                serverDescs
}

// New returns a collector, to be registered. With a server, the collector has the metrics of
// the server; srv may be nil, for programs that only call.
//
// methods reports whether a method has series of its own. It may be called by several
// goroutines at once. If nil: for requests of the peer, the methods of Options.Handler and
// Options.Gate that are a [*rpcx.Router]; for calls of this side, all. A program whose calls
// have names from data should pass a function.
func New(srv *rpcx.Server, methods func(method string) bool) *Collector {
	durations := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: telemetry.Buckets},
			[]string{"rpc_method", "rpc_response_status_code", "error_type"})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &Collector{
		srv:           srv,
		methods:       methods,
		requests:      durations("rpc_server_call_duration_seconds", "Duration of incoming calls and notifications, from their arrival."),
		calls:         durations("rpc_client_call_duration_seconds", "Duration of outgoing calls and notifications."),
		refused:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: refusedName, Help: refusedHelp}, refusedLabels),
		pauses:        counter("rpcx_pauses_total", "Pauses of reading, because requests arrive faster than they are handled."),
		pausedSeconds: counter("rpcx_paused_seconds_total", "Sum of the pauses of reading that are over."),
		server:        newServerDescs(),
	}
}

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
	o.Context = in.contextFor(o.Context)
	o.Trace = c.traceFor(in, o.Trace)
	return &o
}

// instrumentation is the addition of an Instrument to options. Its fields do not change.
type instrumentation struct {
	requests, calls *telemetry.Methods[*method]
	cancellation    *rpcx.Cancellation
	running         telemetry.Requests[context.Context]
}
