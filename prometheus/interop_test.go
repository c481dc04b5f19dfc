package promrpcx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
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

const installPrometheus = "apt-get install prometheus"

// promtool finds nothing to complain of.
func TestInteropPromtool(t *testing.T) {
	promtool := interoptest.Program(t, installPrometheus, "promtool")
	resp, err := http.Get(measuredServer(t) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = resp.Body, &out, &out
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		t.Errorf("promtool: %v\n%s", err, &out)
	}
}

// The alerts are correct, and ask for metrics that exist.
func TestInteropAlerts(t *testing.T) {
	promtool := interoptest.Program(t, installPrometheus, "promtool")
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "alerts.yml").CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// Prometheus scrapes a server, and answers the questions of an operator.
func TestInteropPrometheus(t *testing.T) {
	program := interoptest.Program(t, installPrometheus, "prometheus")
	target := strings.TrimPrefix(measuredServer(t), "http://")
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 100ms}\nscrape_configs: [{job_name: rpcx, static_configs: [{targets: ['%s']}]}]\n", target)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--config.file="+config, "--storage.tsdb.path="+dir, "--web.listen-address="+addr)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	for query, want := range map[string]string{
		`sum(rpc_server_call_duration_seconds_count)`:                      "6",
		`sum(rpc_server_call_duration_seconds_bucket{le="+Inf"})`:          "6",
		`rpc_server_call_duration_seconds_count{rpc_method="_OTHER"}`:      "2",
		`sum(rpc_client_call_duration_seconds_count{error_type="-32602"})`: "2", // add without arguments
		`rpcx_sessions`: "0",
	} {
		got, err := ask(ctx, addr, query)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", query, got, err, want)
		}
	}
	if t.Failed() {
		t.Logf("log of prometheus:\n%s", &log)
	}
}

// ask returns the value of a query. Until Prometheus has scraped the server, there is none,
// and ask tries again.
func ask(ctx context.Context, addr, query string) (string, error) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr+"/api/v1/query?query="+url.QueryEscape(query), nil)
		if err != nil {
			return "", err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			var reply struct {
				Data struct{ Result []struct{ Value [2]any } }
			}
			if json.Unmarshal(body, &reply) == nil && len(reply.Data.Result) == 1 {
				value, _ := reply.Data.Result[0].Value[1].(string)
				return value, nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}
