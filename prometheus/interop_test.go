package promrpcx_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/rpcx"
	"example.com/rpcx/internal/prometheustest"
	promrpcx "example.com/rpcx/prometheus"
	"example.com/rpcx/websocket"
)

// measuredServer serves over TCP and WebSockets, has a call of each kind behind it, and
// shows its metrics. The result is the URL of the web server.
func measuredServer(t *testing.T) string {
	t.Helper()
	srv := new(rpcx.Server)
	collector := promrpcx.New(srv, nil)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	srv.Options = *collector.Instrument(&rpcx.Options{Handler: router()})
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("/rpc", websocket.Handler(srv))
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	// Owner: the test. End: srv.Close.
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-served; _ = srv.Wait(context.Background()) })
	overTCP, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), collector.Instrument(nil))
	if err != nil {
		t.Fatal(err)
	}
	overWebSocket, err := websocket.Dial(t.Context(), web.URL+"/rpc", collector.Instrument(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*rpcx.Session{overTCP, overWebSocket} {
		for _, method := range []string{"add", "refuse", "nothing"} {
			_ = s.Call(t.Context(), method, rpcx.Args{}, nil)
		}
		s.Close()
		<-s.Done()
	}
	return web.URL
}

// promtool finds nothing to complain of.
func TestInteropPromtool(t *testing.T) { prometheustest.Check(t, measuredServer(t)+"/metrics") }

// Prometheus scrapes a server, and answers the questions of an operator.
func TestInteropPrometheus(t *testing.T) {
	prometheus := prometheustest.Start(t, strings.TrimPrefix(measuredServer(t), "http://"))
	for query, want := range map[string]string{
		`sum(rpc_server_call_duration_seconds_count)`:                      "6",
		`sum(rpc_server_call_duration_seconds_bucket{le="+Inf"})`:          "6",
		`rpc_server_call_duration_seconds_count{rpc_method="_OTHER"}`:      "2",
		`sum(rpc_client_call_duration_seconds_count{error_type="-32602"})`: "2", // add without arguments
		`rpcx_sessions`: "0",
	} {
		got, err := prometheus.Ask(query)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", query, got, err, want)
		}
	}
}
