package promrpcx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.com/rpcx"
	promrpcx "example.com/rpcx/prometheus"
)

// router returns the methods of the tests.
func router() *rpcx.Router {
	r := rpcx.NewRouter()
	handle := func(method string, fn any) { r.Handle(method, rpcx.Func(fn)) }
	handle("add", func(a, b int) int { return a + b })
	handle("refuse", func() error { return rpcx.Errorf(7, "not today") })
	handle("fail", func() error { return errors.New("disk full") })
	handle("unencodable", func() any { return func() {} })
	handle("sleep", func() { time.Sleep(3 * time.Second) }) // in a bubble
	handle("ask", func(ctx context.Context, s *rpcx.Session) error { return s.Call(ctx, "name", nil, nil) })
	return r
}

// pair is a measured server and a client's session.
type pair struct {
	registry *prometheus.Registry
	srv      *rpcx.Server
	client   *rpcx.Session
}

// newPair joins a client to a server. One collector measures both.
func newPair(t *testing.T, methods func(string) bool, server rpcx.Options) *pair {
	t.Helper()
	p := &pair{registry: prometheus.NewPedanticRegistry(), srv: new(rpcx.Server)}
	collector := promrpcx.New(p.srv, methods)
	p.registry.MustRegister(collector)
	p.srv.Options = *collector.Instrument(&server)
	here, there := net.Pipe()
	p.srv.ServeConn(there)
	p.client = rpcx.NewSession(here, collector.Instrument(&rpcx.Options{Handler: rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })}))
	t.Cleanup(p.close)
	return p
}

func (p *pair) close() {
	p.client.Close()
	<-p.client.Done()
	p.srv.Close()
	_ = p.srv.Wait(context.Background())
}

// scrape returns the lines of the text format, without comments.
func scrape(t *testing.T, g prometheus.Gatherer) []string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
	return slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "#") })
}

// matching returns the lines that begin with one of prefixes.
func matching(lines []string, prefixes ...string) (found []string) {
	for _, line := range lines {
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				found = append(found, line)
			}
		}
	}
	return found
}

func TestDurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil, rpcx.Options{Handler: router()})
		for _, method := range []string{"add", "add", "refuse", "fail", "unencodable", "sleep", "ask", "nothing"} {
			_ = p.client.Call(context.Background(), method, map[string]rpcx.Args{"add": {1, 2}}[method], nil)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.client.Call(ctx, "sleep", nil, nil)
		p.close()
		lines := scrape(t, p.registry)
		want := []string{
			`rpc_client_call_duration_seconds_count{error_type="",rpc_method="add",rpc_status_code="",rpc_system_name="jsonrpc"} 2`,
			`rpc_client_call_duration_seconds_count{error_type="",rpc_method="ask",rpc_status_code="",rpc_system_name="jsonrpc"} 1`,
			`rpc_client_call_duration_seconds_count{error_type="",rpc_method="name",rpc_status_code="",rpc_system_name="jsonrpc"} 1`,
			`rpc_client_call_duration_seconds_count{error_type="",rpc_method="sleep",rpc_status_code="",rpc_system_name="jsonrpc"} 1`,
			`rpc_client_call_duration_seconds_count{error_type="-32601",rpc_method="nothing",rpc_status_code="-32601",rpc_system_name="jsonrpc"} 1`,
			`rpc_client_call_duration_seconds_count{error_type="-32603",rpc_method="fail",rpc_status_code="-32603",rpc_system_name="jsonrpc"} 1`,
			`rpc_client_call_duration_seconds_count{error_type="-32603",rpc_method="unencodable",rpc_status_code="-32603",rpc_system_name="jsonrpc"} 1`,
			`rpc_client_call_duration_seconds_count{error_type="7",rpc_method="refuse",rpc_status_code="7",rpc_system_name="jsonrpc"} 1`,
			`rpc_client_call_duration_seconds_count{error_type="timeout",rpc_method="sleep",rpc_status_code="",rpc_system_name="jsonrpc"} 1`,
			`rpc_server_call_duration_seconds_count{error_type="",rpc_method="_OTHER",rpc_status_code="",rpc_system_name="jsonrpc"} 1`, // "name"
			`rpc_server_call_duration_seconds_count{error_type="",rpc_method="add",rpc_status_code="",rpc_system_name="jsonrpc"} 2`,
			`rpc_server_call_duration_seconds_count{error_type="",rpc_method="ask",rpc_status_code="",rpc_system_name="jsonrpc"} 1`,
			`rpc_server_call_duration_seconds_count{error_type="",rpc_method="sleep",rpc_status_code="",rpc_system_name="jsonrpc"} 2`,
			`rpc_server_call_duration_seconds_count{error_type="-32601",rpc_method="_OTHER",rpc_status_code="-32601",rpc_system_name="jsonrpc"} 1`,
			`rpc_server_call_duration_seconds_count{error_type="-32603",rpc_method="fail",rpc_status_code="-32603",rpc_system_name="jsonrpc"} 1`,
			`rpc_server_call_duration_seconds_count{error_type="-32603",rpc_method="unencodable",rpc_status_code="-32603",rpc_system_name="jsonrpc"} 1`,
			`rpc_server_call_duration_seconds_count{error_type="7",rpc_method="refuse",rpc_status_code="7",rpc_system_name="jsonrpc"} 1`,
		}
		if diff := cmp.Diff(want, matching(lines, "rpc_client_call_duration_seconds_count", "rpc_server_call_duration_seconds_count")); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		const slept = `{error_type="",rpc_method="sleep",rpc_status_code="",rpc_system_name="jsonrpc"`
		want = []string{
			"rpc_server_call_duration_seconds_bucket" + slept + `,le="2.5"} 0`,
			"rpc_server_call_duration_seconds_bucket" + slept + `,le="5"} 2`,
			"rpc_server_call_duration_seconds_sum" + slept + "} 6",
		}
		got := matching(lines, "rpc_server_call_duration_seconds_bucket"+slept+`,le="2.5"`, "rpc_server_call_duration_seconds_bucket"+slept+`,le="5"`, "rpc_server_call_duration_seconds_sum"+slept)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// 10,000 unknown methods make one series.
func TestUnknownMethodsMakeOneSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, func(method string) bool { return method == "add" }, rpcx.Options{Handler: router(), Limits: rpcx.Limits{CostOff: true}})
		for i := range 10_000 {
			_ = p.client.Call(context.Background(), fmt.Sprint("unknown", i), nil, nil)
		}
		p.close()
		const labels = `{error_type="-32601",rpc_method="_OTHER",rpc_status_code="-32601",rpc_system_name="jsonrpc"} 10000`
		want := []string{"rpc_client_call_duration_seconds_count" + labels, "rpc_server_call_duration_seconds_count" + labels}
		lines := scrape(t, p.registry)
		if got := matching(lines, "rpc_client_call_duration_seconds_count", "rpc_server_call_duration_seconds_count"); !slices.Equal(got, want) {
			t.Errorf("%d series: %.1000q", len(got), got)
		}
		if len(lines) > 100 {
			t.Errorf("%d lines", len(lines))
		}
	})
}

func TestMetricsOfAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil, rpcx.Options{Handler: router(), Limits: rpcx.Limits{Concurrency: 1, ProcessingTimeout: time.Second}})
		p.srv.MaxSessions = 1
		here, there := net.Pipe()
		p.srv.ServeConn(there) // refused
		here.Close()
		p.client.Go(context.Background(), "sleep", nil)
		if err := p.client.Call(context.Background(), "add", rpcx.Args{1, 2}, nil); !errors.Is(err, rpcx.ErrServerBusy) {
			t.Error(err)
		}
		synctest.Wait()
		for s := range p.srv.Sessions() {
			s.BumpCost(1500 - s.Cost())
		}
		want := []string{
			`rpcx_handled_bytes 0`,
			`rpcx_handlers 1`,
			`rpcx_handshakes 0`,
			`rpcx_paused_seconds_total 0`,
			`rpcx_pauses_total 0`,
			`rpcx_queued_bytes 0`,
			`rpcx_refused_total{kind="connection",limit="Server.MaxGroup"} 0`,
			`rpcx_refused_total{kind="connection",limit="Server.MaxHandshakes"} 0`,
			`rpcx_refused_total{kind="connection",limit="Server.MaxSessions"} 1`,
			`rpcx_refused_total{kind="request",limit="Limits.CostHard"} 0`,
			`rpcx_refused_total{kind="request",limit="Limits.GateQueue"} 0`,
			`rpcx_refused_total{kind="request",limit="Limits.GateQueueBytes"} 0`,
			`rpcx_refused_total{kind="request",limit="Limits.ProcessingTimeout"} 1`,
			`rpcx_refused_total{kind="request",limit="Limits.Queue"} 0`,
			`rpcx_refused_total{kind="request",limit="Limits.QueueBytes"} 0`,
			`rpcx_refused_total{kind="request",limit="Server.MaxGroup"} 0`,
			`rpcx_refused_total{kind="request",limit="Server.MaxQueuedBytes"} 0`,
			`rpcx_refused_total{kind="request",limit="Server.MaxSessions"} 0`,
			`rpcx_refused_total{kind="request",limit="shutdown"} 0`,
			`rpcx_session_cost_bucket{le="0"} 0`,
			`rpcx_session_cost_bucket{le="100"} 0`,
			`rpcx_session_cost_bucket{le="500"} 0`,
			`rpcx_session_cost_bucket{le="1000"} 0`,
			`rpcx_session_cost_bucket{le="2000"} 1`,
			`rpcx_session_cost_bucket{le="4000"} 1`,
			`rpcx_session_cost_bucket{le="6000"} 1`,
			`rpcx_session_cost_bucket{le="8000"} 1`,
			`rpcx_session_cost_bucket{le="10000"} 1`,
			`rpcx_session_cost_bucket{le="+Inf"} 1`,
			`rpcx_session_cost_sum 1500`,
			`rpcx_session_cost_count 1`,
			`rpcx_sessions 1`,
		}
		if diff := cmp.Diff(want, matching(scrape(t, p.registry), "rpcx_")); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// Pauses of reading are counted, and their time.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil, rpcx.Options{Handler: router(), Limits: rpcx.Limits{Concurrency: 1, Queue: 1}})
		var calls []*rpcx.Future
		for range 3 {
			calls = append(calls, p.client.Go(context.Background(), "sleep", nil))
			synctest.Wait()
		}
		for _, f := range calls {
			if err := f.Wait(context.Background(), nil); err != nil {
				t.Error(err)
			}
		}
		p.close()
		got := matching(scrape(t, p.registry), "rpcx_pause")
		if len(got) != 2 || got[0] == "rpcx_paused_seconds_total 0" || got[1] == "rpcx_pauses_total 0" {
			t.Errorf("%q", got)
		}
	})
}

// A collector without a server has the metrics of calls.
func TestCollectorWithoutAServer(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(promrpcx.New(nil, nil))
	if got, want := scrape(t, registry), []string{"rpcx_handlers 0", "rpcx_paused_seconds_total 0", "rpcx_pauses_total 0"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// The alerts ask for metrics and labels that exist.
func TestNamesInAlerts(t *testing.T) {
	text, err := os.ReadFile("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	descs := make(chan *prometheus.Desc, 100)
	promrpcx.New(new(rpcx.Server), nil).Describe(descs)
	close(descs)
	known := make(map[string]bool)
	for d := range descs {
		name := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]
		for _, suffix := range []string{"", "_bucket", "_count"} {
			known[name+suffix] = true
		}
	}
	names := regexp.MustCompile(`\brpcx?_(server|client|refused|session|handshakes|queued|handled|paused)[a-z_]*`).FindAllString(string(text), -1)
	for _, name := range names {
		if !known[name] {
			t.Errorf("there is no %s", name)
		}
	}
	if len(names) < 10 {
		t.Errorf("the alerts name %q", names)
	}
}
