package otelrpcx_test

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	otelrpcx "example.com/rpcx/otel"
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

// wantTree checks the spans that have ended. The form is that of tree, with any indentation
// of the whole.
func (tel *telemetry) wantTree(t *testing.T, want string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(strings.TrimSpace(want)) {
		lines = append(lines, strings.TrimRight(strings.TrimPrefix(line, "\t\t"), "\n"))
	}
	if got := strings.Join(tel.tree(), "\n"); got != strings.Join(lines, "\n") {
		t.Errorf("spans:\n%s\n\nwant:\n%s", got, strings.Join(lines, "\n"))
	}
	if started, ended := len(tel.spans.Started()), len(tel.spans.Ended()); started != ended {
		t.Errorf("%d spans have begun, and %d have ended", started, ended)
	}
}

// tree returns a line for each span, indented below its parent: kind, name, attributes that
// are not the same for all, links. Spans with the same parent are in the order in which
// they have begun.
func (tel *telemetry) tree() []string {
	begun := make(map[trace.SpanID]int)
	for i, s := range tel.spans.Started() {
		begun[s.SpanContext().SpanID()] = i
	}
	spans := tel.spans.Ended()
	slices.SortFunc(spans, func(a, b sdktrace.ReadOnlySpan) int {
		return cmp.Compare(begun[a.SpanContext().SpanID()], begun[b.SpanContext().SpanID()])
	})
	names := make(map[trace.SpanID]string)
	for _, s := range spans {
		names[s.SpanContext().SpanID()] = s.SpanKind().String() + " " + s.Name()
	}
	var lines []string
	var walk func(parent trace.SpanID, indent string)
	walk = func(parent trace.SpanID, indent string) {
		for _, s := range spans {
			known := names[s.Parent().SpanID()] != ""
			if s.Parent().SpanID() != parent && (known || parent.IsValid()) {
				continue
			}
			var line strings.Builder
			line.WriteString(indent + describe(s))
			for _, link := range s.Links() {
				line.WriteString(" → " + cmp.Or(names[link.SpanContext.SpanID()], "a stranger's span"))
			}
			if s.Parent().IsValid() && !known {
				line.WriteString(" below a span that has not ended here")
			}
			lines = append(lines, line.String())
			walk(s.SpanContext().SpanID(), indent+"\t")
		}
	}
	walk(trace.SpanID{}, "")
	return lines
}

// describe returns the text of a span for tree.
func describe(s sdktrace.ReadOnlySpan) string {
	text := s.Name()
	if s.SpanKind() != trace.SpanKindInternal {
		text = strings.ToUpper(s.SpanKind().String()) + " " + text
	}
	attrs := s.Attributes()
	slices.SortFunc(attrs, func(a, b attribute.KeyValue) int { return cmp.Compare(a.Key, b.Key) })
	failed := false
	for _, a := range attrs {
		switch {
		case a.Key == "rpc.system.name" && a.Value.AsString() == "jsonrpc",
			a.Key == "jsonrpc.protocol.version" && a.Value.AsString() == "2.0",
			a.Key == "rpc.method" && a.Value.AsString() == s.Name(),
			strings.HasPrefix(string(a.Key), "network.peer."), strings.HasPrefix(string(a.Key), "server."):
			continue // the same for all, or of a test of their own
		case a.Key == "error.type":
			failed = true
		}
		text += fmt.Sprintf(" %s=%s", a.Key, a.Value.String())
	}
	if failed != (s.Status().Code == codes.Error) {
		text += " and the status " + s.Status().Code.String()
	}
	return text
}

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
