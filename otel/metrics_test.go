package otelrpcx_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
)

func TestDurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered := make(chan struct{}, 1)
		p := newTelemetry().connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: router(entered)})
		for _, method := range []string{"add", "sleep", "refuse"} {
			_ = p.client.Call(context.Background(), method, map[string]rpcx.Args{"add": {1, 2}}[method], nil)
		}
		p.close()
		want := map[string]uint64{"rpc.method=add": 1, "rpc.method=sleep": 1, "error.type=7 rpc.method=refuse rpc.status_code=7": 1}
		for _, name := range []string{"rpc.server.call.duration", "rpc.client.call.duration"} {
			if got := p.series(t, name); !maps.Equal(got, want) {
				t.Errorf("%s: %v", name, got)
			}
			if got := p.sum(t, name); got != 10 {
				t.Errorf("%s: %v s", name, got)
			}
		}
		for _, s := range p.spans.Ended() {
			if d := s.EndTime().Sub(s.StartTime()); s.Name() == "sleep" && d != 10*time.Second {
				t.Errorf("the span of sleep is %v long", d)
			}
		}
	})
}

// sum returns the sum of a histogram, and checks the buckets.
func (tel *telemetry) sum(t *testing.T, name string) (sum float64) {
	var data metricdata.ResourceMetrics
	if err := tel.reader.Collect(context.Background(), &data); err != nil {
		t.Fatal(err)
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name == name {
				for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
					sum += p.Sum
					if !slices.Equal(p.Bounds, []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}) || m.Unit != "s" {
						t.Errorf("%s: buckets %v in %s", name, p.Bounds, m.Unit)
					}
				}
			}
		}
	}
	return sum
}

// 10,000 unknown methods make one series, and so do 10,000 error codes of a peer, after the
// first 100.
func TestPeersMakeNoSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		code := 0
		p := tel.connect(t, "pipe", rpcx.Options{Limits: rpcx.Limits{CostOff: true}}, rpcx.Options{
			Handler: router(nil),
			Limits:  rpcx.Limits{CostOff: true},
		})
		p.config.Methods = func(string) bool { return false }
		hostile := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { code++; return nil, rpcx.Errorf(code, "no") })
		q := tel.connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: hostile, Limits: rpcx.Limits{CostOff: true}, Order: rpcx.Sequential})
		for i := range 10_000 {
			_ = p.client.Call(context.Background(), fmt.Sprint("unknown", i), nil, nil)
			_ = q.client.Call(context.Background(), "m", nil, nil)
		}
		p.close()
		q.close()
		server := tel.series(t, "rpc.server.call.duration")
		if n := server["error.type=-32601 rpc.method=_OTHER rpc.status_code=-32601"]; n != 10_000 {
			t.Errorf("%d requests of unknown methods: %.1000v", n, fmt.Sprint(server))
		}
		client := tel.series(t, "rpc.client.call.duration")
		if n := client["error.type=_OTHER rpc.method=_OTHER"]; n != 9_900 || len(client) > 1200 {
			t.Errorf("%d calls with a further code, %d series: %.1000v", n, len(client), fmt.Sprint(client))
		}
	})
}

// Calls of this side are named, up to MaxMethods.
func TestMethodsOfCalls(t *testing.T) {
	for name, test := range map[string]struct {
		config otelrpcx.Config
		want   map[string]uint64
	}{
		"all":        {otelrpcx.Config{}, map[string]uint64{"rpc.method=a": 2, "rpc.method=b": 1, "rpc.method=c": 1}},
		"MaxMethods": {otelrpcx.Config{MaxMethods: 2}, map[string]uint64{"rpc.method=a": 2, "rpc.method=b": 1, "rpc.method=_OTHER": 1}},
		"Methods":    {otelrpcx.Config{Methods: func(m string) bool { return m == "c" }}, map[string]uint64{"rpc.method=_OTHER": 3, "rpc.method=c": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tel := newTelemetry()
				tel.config.MaxMethods, tel.config.Methods = test.config.MaxMethods, test.config.Methods
				any := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })
				p := tel.connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: any})
				for _, method := range []string{"a", "b", "c", "a"} {
					if err := p.client.Call(context.Background(), method, nil, nil); err != nil {
						t.Error(err)
					}
				}
				p.close()
				if got := tel.series(t, "rpc.client.call.duration"); !maps.Equal(got, test.want) {
					t.Errorf("%v", got)
				}
			})
		})
	}
}

// The methods of mounted routers are known, with both separators.
func TestMethodsOfMountedRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, dotted, deep := rpcx.NewRouter(), rpcx.NewRouter(), rpcx.NewRouter()
		deep.Handle("m.n", rpcx.Func(func() {}))
		must(0, dotted.Mount("deep", deep))
		must(0, r.Mount("a.b", dotted))
		tel := newTelemetry()
		p := tel.connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: rpcx.Documented(r, rpcx.Doc{})})
		for _, method := range []string{"a.b/deep/m.n", "a.b.deep.m.n", "a.b.deep"} {
			_ = p.client.Call(context.Background(), method, nil, nil)
		}
		p.close()
		want := map[string]uint64{"rpc.method=a.b/deep/m.n": 1, "rpc.method=a.b.deep.m.n": 1, "error.type=-32601 rpc.method=_OTHER rpc.status_code=-32601": 1}
		if got := tel.series(t, "rpc.server.call.duration"); !maps.Equal(got, want) {
			t.Errorf("%v", got)
		}
	})
}

func TestNoNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		tel.config.NoNotifications = true
		r := router(nil)
		var got trace.SpanContext
		r.Handle("look", rpcx.Func(func(ctx context.Context) { got = trace.SpanContextFromContext(ctx) }))
		p := tel.connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: r})
		ctx, span := p.tracer.Start(t.Context(), "program")
		if err := p.client.Notify(ctx, "look", nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		span.End()
		p.close()
		p.wantTree(t, "program")
		if got.SpanID() != span.SpanContext().SpanID() {
			t.Errorf("the handler has the span context %v", got)
		}
		if n := len(p.series(t, "rpc.server.call.duration")) + len(p.series(t, "rpc.client.call.duration")); n != 0 {
			t.Errorf("%d series", n)
		}
	})
}

// Addresses are those of the connection, or Config.ServerAddress.
func TestAddresses(t *testing.T) {
	for _, transport := range []string{"TCP", "WebSocket"} {
		for _, address := range []string{"", "rpc.example.com:443"} {
			t.Run(transport+" "+address, func(t *testing.T) {
				tel := newTelemetry()
				tel.config.ServerAddress = address
				p := tel.connect(t, transport, rpcx.Options{Handler: names(nil)}, rpcx.Options{Handler: router(nil)})
				if err := p.client.Call(context.Background(), "ask", nil, nil); err != nil {
					t.Error(err)
				}
				remote, local := p.client.RemoteAddr().(*net.TCPAddr), p.client.LocalAddr().(*net.TCPAddr)
				p.close()
				at := map[bool]string{true: fmt.Sprintf("127.0.0.1:%d", remote.Port), false: address}[address == ""]
				want := map[string]string{ // peer, server
					"client ask":  fmt.Sprintf("127.0.0.1:%d %s", remote.Port, at),
					"server ask":  fmt.Sprintf("127.0.0.1:%d %s", local.Port, map[bool]string{true: ":0", false: address}[address == ""]),
					"client name": fmt.Sprintf("127.0.0.1:%d :0", local.Port),
					"server name": fmt.Sprintf("127.0.0.1:%d :0", remote.Port),
				}
				got := make(map[string]string)
				for _, s := range p.spans.Ended() {
					set := attribute.NewSet(s.Attributes()...)
					text := func(key attribute.Key) string { v, _ := set.Value(key); return v.AsString() }
					number := func(key attribute.Key) int64 { v, _ := set.Value(key); return v.AsInt64() }
					got[s.SpanKind().String()+" "+s.Name()] = fmt.Sprintf("%s:%d %s:%d", text("network.peer.address"), number("network.peer.port"),
						text("server.address"), number("server.port"))
				}
				if !maps.Equal(got, want) {
					t.Errorf("%v\nwant %v", got, want)
				}
			})
		}
	}
}

func TestInstrumentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		p := tel.connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: router(nil)})
		p.srv.MaxSessions = 1
		if err := otelrpcx.InstrumentServer(p.srv, &tel.config); err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		p.srv.ServeConn(there)
		here.Close()
		synctest.Wait()
		for s := range p.srv.Sessions() {
			s.BumpCost(500)
		}
		for name, want := range map[string]map[string]uint64{
			"rpcx.server.sessions":            {"": 1},
			"rpcx.server.handshakes":          {"": 0},
			"rpcx.server.queued":              {"": 0},
			"rpcx.server.handled":             {"": 0},
			"rpcx.server.cost.sum":            {"": 500},
			"rpcx.server.cost.max":            {"": 500},
			"rpcx.server.connections.refused": {"rpcx.limit=Server.MaxGroup": 0, "rpcx.limit=Server.MaxHandshakes": 0, "rpcx.limit=Server.MaxSessions": 1},
			"rpcx.requests.refused": { // a rate sees the first refusal
				"rpcx.limit=Limits.CostHard": 0, "rpcx.limit=Limits.ProcessingTimeout": 0, "rpcx.limit=shutdown": 0,
				"rpcx.limit=Limits.Queue": 0, "rpcx.limit=Limits.QueueBytes": 0, "rpcx.limit=Limits.GateQueue": 0, "rpcx.limit=Limits.GateQueueBytes": 0,
				"rpcx.limit=Server.MaxQueuedBytes": 0, "rpcx.limit=Server.MaxSessions": 0, "rpcx.limit=Server.MaxGroup": 0,
			},
		} {
			if got := p.series(t, name); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
		p.close()
	})
	if err := otelrpcx.InstrumentServer(nil, nil); err == nil {
		t.Error("a nil server has metrics")
	}
}

// The functions of the user are called as well, and see the span.
func TestFunctionsOfTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		note := func(ctx context.Context, what string) {
			if !trace.SpanContextFromContext(ctx).IsValid() {
				what += " without a span"
			}
			got = append(got, what)
		}
		opts := rpcx.Options{
			OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
				func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
					note(ctx, "OnCall")
					c.Method = "add"
					return nil, nil, nil
				},
			},
			OnBatchCall: []func(context.Context, *rpcx.Session, *rpcx.Batch) (context.Context, func(error)){
				func(ctx context.Context, _ *rpcx.Session, _ *rpcx.Batch) (context.Context, func(error)) {
					note(ctx, "OnBatchCall")
					return nil, nil
				},
			},
		}
		server := rpcx.Options{
			Handler: router(nil),
			Context: func(ctx context.Context, _ *rpcx.Request) context.Context { note(ctx, "Context"); return ctx },
			Trace:   &rpcx.Trace{ReplySent: func(*rpcx.Request, error, time.Duration) { got = append(got, "ReplySent") }},
		}
		p := newTelemetry().connect(t, "pipe", opts, server)
		var b rpcx.Batch
		b.Call("other", rpcx.Args{1, 2}, nil)
		if err := p.client.SendBatch(context.Background(), &b); err != nil {
			t.Error(err)
		}
		p.close()
		if want := []string{"OnBatchCall", "OnCall", "Context", "ReplySent"}; !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		p.wantTree(t, `
		jsonrpc batch rpcx.batch.size=1
			CLIENT add jsonrpc.request.id=0
				SERVER add jsonrpc.request.id=0 rpcx.batch.number=1 rpcx.batch.size=1`)
		if otelrpcx.Instrument(nil, nil) == nil {
			t.Error("no options")
		}
	})
}
