// Package otlp_test exports the spans and metrics of package otelrpcx to a receiver of the
// OpenTelemetry protocol.
package otlp_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	otelrpcx "example.com/rpcx/otel"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// receiver keeps what exporters send.
type receiver struct {
	collectortrace.UnimplementedTraceServiceServer

	mu      sync.Mutex
	spans   []*tracepb.Span
	metrics []*metricspb.Metric
}

func (r *receiver) Export(_ context.Context, req *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range req.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

// metricsReceiver is the receiver for metrics, a service of its own.
type metricsReceiver struct {
	collectormetrics.UnimplementedMetricsServiceServer
	*receiver
}

func (r metricsReceiver) Export(_ context.Context, req *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range req.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			r.metrics = append(r.metrics, scope.Metrics...)
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// listen serves on a port of this machine until the end of the test, and returns the
// address.
func listen(t *testing.T, serve func(net.Listener) error, stop func()) string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan struct{})
	// Owner: the test. End: stop.
	go func() { defer close(served); _ = serve(l) }()
	t.Cleanup(func() { stop(); <-served })
	return l.Addr().String()
}

// attributes returns the text of attributes, sorted.
func attributes(attrs []*common.KeyValue) string {
	var text []string
	for _, a := range attrs {
		if !strings.HasPrefix(a.Key, "network.peer.") && !strings.HasPrefix(a.Key, "server.") {
			value := a.Value.GetStringValue()
			if value == "" {
				value = fmt.Sprint(a.Value.GetIntValue())
			}
			text = append(text, a.Key+"="+value)
		}
	}
	slices.Sort(text)
	return strings.Join(text, " ")
}

// A receiver gets the spans of both ends in one trace, and the durations.
func TestExport(t *testing.T) {
	got := new(receiver)
	server := grpc.NewServer()
	collectortrace.RegisterTraceServiceServer(server, got)
	collectormetrics.RegisterMetricsServiceServer(server, metricsReceiver{receiver: got})
	endpoint := listen(t, server.Serve, server.Stop)

	ctx := context.Background()
	traces := must(otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure()))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(traces))
	metrics := must(otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpoint(endpoint), otlpmetricgrpc.WithInsecure()))
	meters := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(metrics)))
	config := &otelrpcx.Config{
		TracerProvider: provider,
		MeterProvider:  meters,
		Propagator:     propagation.TraceContext{},
		TrustPeer:      func(*rpcx.Session) bool { return true },
	}

	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(a, b int) int { return a + b }))
	router.Handle("fail", rpcx.Func(func() error { return errors.New("not UTF-8: \xff") }))
	srv := &rpcx.Server{Options: *otelrpcx.Instrument(&rpcx.Options{Handler: router, Meta: rpcx.MemberMeta}, config)}
	if err := otelrpcx.InstrumentServer(srv, config); err != nil {
		t.Fatal(err)
	}
	addr := listen(t, srv.Serve, func() { srv.Close(); _ = srv.Wait(ctx) })
	client := must(rpcx.Dial(ctx, "tcp://"+addr, otelrpcx.Instrument(&rpcx.Options{Meta: rpcx.MemberMeta}, config)))
	var b rpcx.Batch
	b.Call("add", rpcx.Args{1, 2}, nil)
	b.Call("fail", nil, nil)
	if err := client.SendBatch(ctx, &b); err == nil {
		t.Error("the batch succeeded")
	}
	_ = client.Shutdown(ctx)
	<-client.Done()
	_ = srv.Shutdown(ctx)
	for _, err := range []error{provider.Shutdown(ctx), meters.Shutdown(ctx)} {
		if err != nil {
			t.Error(err)
		}
	}

	got.mu.Lock()
	defer got.mu.Unlock()
	names := make(map[string]string)
	for _, s := range got.spans {
		names[hex.EncodeToString(s.SpanId)] = fmt.Sprintf("%v %s", s.Kind, s.Name)
	}
	var spans []string
	for _, s := range got.spans {
		spans = append(spans, fmt.Sprintf("%v %s below %q: %s; %v", s.Kind, s.Name, names[hex.EncodeToString(s.ParentSpanId)], attributes(s.Attributes), s.Status.GetCode()))
		if string(s.TraceId) != string(got.spans[0].TraceId) {
			t.Errorf("%s is in another trace", s.Name)
		}
	}
	slices.Sort(spans)
	want := []string{
		`SPAN_KIND_CLIENT add below "SPAN_KIND_INTERNAL jsonrpc batch": jsonrpc.protocol.version=2.0 jsonrpc.request.id=0 rpc.method=add rpc.system.name=jsonrpc; STATUS_CODE_UNSET`,
		`SPAN_KIND_CLIENT fail below "SPAN_KIND_INTERNAL jsonrpc batch": error.type=-32603 jsonrpc.protocol.version=2.0 jsonrpc.request.id=1 rpc.method=fail rpc.status_code=-32603 rpc.system.name=jsonrpc; STATUS_CODE_ERROR`,
		`SPAN_KIND_INTERNAL jsonrpc batch below "": error.type=member_failed rpc.system.name=jsonrpc rpcx.batch.size=2; STATUS_CODE_ERROR`,
		`SPAN_KIND_SERVER add below "SPAN_KIND_CLIENT add": jsonrpc.protocol.version=2.0 jsonrpc.request.id=0 rpc.method=add rpc.system.name=jsonrpc rpcx.batch.number=1 rpcx.batch.size=2; STATUS_CODE_UNSET`,
		`SPAN_KIND_SERVER fail below "SPAN_KIND_CLIENT fail": error.type=-32603 jsonrpc.protocol.version=2.0 jsonrpc.request.id=1 rpc.method=fail rpc.status_code=-32603 rpc.system.name=jsonrpc rpcx.batch.number=2 rpcx.batch.size=2; STATUS_CODE_ERROR`,
	}
	if !slices.Equal(spans, want) {
		t.Errorf("spans:\n%s", strings.Join(spans, "\n"))
	}

	found := make(map[string]int)
	for _, m := range got.metrics {
		found[m.Name+" "+m.Unit] += max(1, len(m.GetHistogram().GetDataPoints()))
	}
	wantMetrics := map[string]int{
		"rpc.client.call.duration s": 2, "rpc.server.call.duration s": 2, "rpcx.server.sessions {session}": 1, "rpcx.server.handshakes {handshake}": 1,
		"rpcx.server.queued By": 1, "rpcx.server.handled By": 1, "rpcx.server.cost.sum 1": 1, "rpcx.server.cost.max 1": 1,
		"rpcx.requests.refused {request}": 1, "rpcx.server.connections.refused {connection}": 1, // which begin with 0
	}
	if !maps.Equal(found, wantMetrics) {
		t.Errorf("metrics: %v", found)
	}
}
