package otelrpcx_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	otelrpcx "example.com/rpcx/otel"
	"example.com/rpcx/otel/internal/spantree"
	"example.com/rpcx/websocket"
)

// TestMain fails the run if it leaves a goroutine behind. As the child of a benchmark, the
// program is a server.
func TestMain(m *testing.M) {
	if variant := os.Getenv(serverVariant); variant != "" {
		serveBenchmark(variant)
		return
	}
	os.Exit(leaktest.Run(m))
}

// telemetry records the spans and metrics of a test.
type telemetry struct {
	spans  *tracetest.SpanRecorder
	tracer trace.Tracer // of the program
	reader *metric.ManualReader
	config otelrpcx.Config
}

func newTelemetry() *telemetry {
	tel := &telemetry{spans: tracetest.NewSpanRecorder(), reader: metric.NewManualReader()}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(tel.spans))
	tel.tracer = provider.Tracer("program")
	tel.config = otelrpcx.Config{
		TracerProvider: provider,
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(tel.reader)),
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
		TrustPeer:      func(*rpcx.Session) bool { return true },
	}
	return tel
}

// instrument returns instrumented options with Meta.
func (tel *telemetry) instrument(opts rpcx.Options) *rpcx.Options {
	opts.Meta = rpcx.MemberMeta
	return otelrpcx.Instrument(&opts, &tel.config)
}

// pair is a client's session and the server of its peer.
type pair struct {
	*telemetry
	client *rpcx.Session
	srv    *rpcx.Server
	web    *http.Server
}

// transports connect a client to a server.
var transports = map[string]func(t *testing.T, p *pair, opts *rpcx.Options){
	"pipe": func(t *testing.T, p *pair, opts *rpcx.Options) {
		here, there := net.Pipe()
		p.srv.ServeConn(there)
		p.client = rpcx.NewSession(here, opts)
	},
	"TCP": func(t *testing.T, p *pair, opts *rpcx.Options) {
		p.client = must(rpcx.Dial(t.Context(), "tcp://"+p.listen(t, func(l net.Listener) { p.srv.Serve(l) }), opts))
	},
	"WebSocket": func(t *testing.T, p *pair, opts *rpcx.Options) {
		p.web = &http.Server{Handler: websocket.Handler(p.srv)}
		p.client = must(websocket.Dial(t.Context(), "ws://"+p.listen(t, func(l net.Listener) { p.web.Serve(l) }), opts))
	},
}

// listen serves on a port of this machine, and returns the address.
func (p *pair) listen(t *testing.T, serve func(net.Listener)) string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	served := make(chan struct{})
	// Owner: the test. End: close closes the server.
	go func() { defer close(served); serve(l) }()
	t.Cleanup(func() { l.Close(); <-served })
	return l.Addr().String()
}

// connect connects instrumented sessions.
func (tel *telemetry) connect(t *testing.T, transport string, client, server rpcx.Options) *pair {
	t.Helper()
	p := &pair{telemetry: tel, srv: &rpcx.Server{Options: *tel.instrument(server)}}
	transports[transport](t, p, tel.instrument(client))
	t.Cleanup(p.close)
	return p
}

// close ends the sessions, and waits for their handlers.
func (p *pair) close() {
	p.client.Close()
	<-p.client.Done()
	p.srv.Close()
	_ = p.srv.Wait(context.Background())
	if p.web != nil {
		p.web.Close()
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// eachTransport runs a subtest for each transport.
func eachTransport(t *testing.T, test func(t *testing.T, transport string)) {
	for name := range transports {
		t.Run(name, func(t *testing.T) { test(t, name) })
	}
}

// wantTree checks the spans that have ended, as [spantree.Check] does.
func (tel *telemetry) wantTree(t *testing.T, want string) {
	t.Helper()
	spantree.Check(t, tel.spans, want)
}

// tree returns a line for each span that has ended.
func (tel *telemetry) tree() []string { return spantree.Lines(tel.spans) }

// series returns the number of measurements of a histogram or counter, by the attributes.
func (tel *telemetry) series(t *testing.T, name string) map[string]uint64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := tel.reader.Collect(context.Background(), &data); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]uint64)
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					got[setText(p.Attributes)] += p.Count
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					got[setText(p.Attributes)] += uint64(p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					got[setText(p.Attributes)] += uint64(p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					got[setText(p.Attributes)] += uint64(p.Value)
				}
			}
		}
	}
	return got
}

// setText returns the attributes without the rpc.system.name.
func setText(set attribute.Set) string {
	var text []string
	for _, a := range set.ToSlice() {
		if a.Key != "rpc.system.name" {
			text = append(text, fmt.Sprintf("%s=%s", a.Key, a.Value.String()))
		}
	}
	return strings.Join(text, " ")
}
