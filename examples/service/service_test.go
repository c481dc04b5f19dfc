package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"example.com/rpcx"
)

// Each transport has the same methods and errors.
func TestTransports(t *testing.T) {
	p := start(t, "")
	added := 0
	for name, c := range p.connect() {
		t.Run(name, func(t *testing.T) {
			note, err := rpcx.Call[Note](t.Context(), c, "add", rpcx.Args{name})
			added++
			if err != nil || note != (Note{added, name}) {
				t.Errorf("add: %v, %v", note, err)
			}
			notes, err := rpcx.Call[[]Note](t.Context(), c, "list", nil)
			if err != nil || len(notes) != added || notes[added-1] != note {
				t.Errorf("list: %v, %v", notes, err)
			}
			_, err = rpcx.Call[Note](t.Context(), c, "add", rpcx.Named{"text": strings.Repeat("x", 201)})
			refused, ok := errors.AsType[*rpcx.Error](err)
			var data struct{ Bytes, MaxBytes int }
			if !ok || refused.Code != 1 || refused.DecodeData(&data) != nil || data.Bytes != 201 || data.MaxBytes != 200 {
				t.Errorf("a long note: %v, %v", err, data)
			}
		})
	}
	for errorType, want := range map[string]float64{"": 3, "1": 3} {
		if n := p.sum("rpc_server_call_duration_seconds_count", "rpc_method=add", "error_type="+errorType); n != want {
			t.Errorf("%v calls of add have the error %q\n%s", n, errorType, p.metrics())
		}
	}
	if n := p.sum("rpc_server_call_duration_seconds_bucket", "rpc_method=list", "le=+Inf"); n != 3 {
		t.Errorf("%v calls of list are in a bucket", n)
	}
}

// Subscribers receive the notes of everybody, in order. HTTP has no subscriptions.
func TestSubscriptions(t *testing.T) {
	p := start(t, "")
	clients := p.connect()
	subscription := rpcx.Subscription{Method: "subscribe", Correlation: news}
	streams := make(map[string]*rpcx.Stream[Note])
	for _, name := range []string{"TCP", "WebSocket"} {
		stream, err := rpcx.Subscribe[Note](t.Context(), clients[name], subscription)
		if err != nil {
			t.Fatal(err)
		}
		streams[name] = stream
	}
	if err := clients["HTTP"].Call(t.Context(), "subscribe", nil, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
		t.Errorf("over HTTP: %v", err)
	}
	for i, c := range []string{"HTTP", "TCP", "WebSocket"} {
		if err := clients[c].Call(t.Context(), "add", rpcx.Args{c}, nil); err != nil {
			t.Fatal(err)
		}
		for name, stream := range streams {
			if note, err := stream.Next(t.Context()); err != nil || note != (Note{i + 1, c}) {
				t.Errorf("%s: %v, %v", name, note, err)
			}
		}
	}
	streams["TCP"].Close() // unsubscribes
	p.until("unsubscribe was called", func() bool {
		return p.sum("rpc_server_call_duration_seconds_count", "rpc_method=unsubscribe", "error_type=") == 1
	})
	streams["WebSocket"].Close()
}

// A caller who gives up ends the method, and adds nothing.
func TestCancellation(t *testing.T) {
	p := start(t, "")
	for name, c := range p.connect() {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		// Owner: the test. End: cancel.
		go func() { done <- c.Call(ctx, "remind", rpcx.Args{"never", 20}, nil) }()
		p.until("remind is running", func() bool { return p.running() == 1 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		p.until("remind has ended", func() bool { return p.running() == 0 })
	}
	notes, err := rpcx.Call[[]Note](t.Context(), p.connect()["HTTP"], "list", nil)
	if err != nil || len(notes) != 0 {
		t.Errorf("notes of callers who gave up: %v, %v", notes, err)
	}
}

// running returns the number of requests with a running handler.
func (p *program) running() float64 { return p.sum("rpcx_handlers") }

// The examples in the document are true on a new board.
func TestExamples(t *testing.T) {
	document := discover(t, start(t, ""))
	called := 0
	for _, m := range document.Methods {
		for _, e := range m.Examples {
			client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: new(board).methods()})
			args := rpcx.Args{}
			for _, param := range e.Params {
				args = append(args, param.Value)
			}
			got, err := rpcx.Call[json.RawMessage](t.Context(), client, m.Name, args)
			if err != nil || string(got) != string(e.Result.Value) {
				t.Errorf("%s, %s: %s, %v; want %s", m.Name, e.Name, got, err, e.Result.Value)
			}
			client.Close()
			<-server.Done()
			called++
		}
	}
	if called != 3 {
		t.Errorf("%d examples were called", called)
	}
}

// A signal ends the program in order: /ready says no, while calls and new connections are
// answered, and then calls under way are answered.
func TestShutdown(t *testing.T) {
	p := start(t, "", "-notice", "1s")
	clients := p.connect()
	var calls sync.WaitGroup
	for name, c := range clients {
		calls.Go(func() {
			if note, err := rpcx.Call[Note](context.Background(), c, "remind", rpcx.Args{name, 3}); err != nil || note.Text != name {
				t.Errorf("%s: %v, %v", name, note, err)
			}
		})
	}
	p.until("all calls are running", func() bool { return p.running() == 3 })
	if err := p.signal(); err != nil {
		t.Fatal(err)
	}
	p.until("/ready says no", func() bool { return p.ready() == http.StatusServiceUnavailable })
	for name, c := range p.connect() { // new clients, within the notice
		if err := c.Call(t.Context(), "list", nil, nil); err != nil {
			t.Errorf("during the notice, %s: %v", name, err)
		}
	}
	calls.Wait()
	p.end()
}

// spans are the spans that the test knows, by name: the id, the parent's id, and whether
// there is a link to the trace of the caller.
type spans map[string]struct {
	id, parent string
	linked     bool
}

// callWithTrace calls add with a trace context.
func callWithTrace(t *testing.T, p *program) {
	t.Helper()
	const message = `{"jsonrpc":"2.0","id":1,"method":"add","params":["x"],"meta":{"traceparent":"00-11111111111111111111111111111111-2222222222222222-01"}}`
	resp, err := http.Post("http://"+p.http+"/rpc", "application/json", strings.NewReader(message))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), `"result"`) {
		t.Errorf("add: %s, %v", body, err)
	}
}

// check fails the test if the span of the handler is not below the span of the request, or
// if the request continues the trace of a stranger.
func (s spans) check(t *testing.T) {
	t.Helper()
	request, store := s["add"], s["store"]
	if len(s) != 2 || request.id == "" || store.parent != request.id || strings.Trim(request.parent, "0") != "" || !request.linked {
		t.Errorf("the spans are %+v", s)
	}
}

func TestTracesOnStdout(t *testing.T) {
	p := start(t, "", "-traces", "stdout")
	callWithTrace(t, p)
	p.end()
	got := make(spans)
	for d := json.NewDecoder(&p.stdout); ; {
		var span struct {
			Name        string
			SpanContext struct{ TraceID, SpanID string }
			Parent      struct{ SpanID string }
			Links       []struct{ SpanContext struct{ TraceID string } }
		}
		err := d.Decode(&span)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		entry := got[span.Name]
		entry.id, entry.parent = span.SpanContext.SpanID, span.Parent.SpanID
		entry.linked = len(span.Links) == 1 && strings.HasPrefix(span.Links[0].SpanContext.TraceID, "1111")
		got[span.Name] = entry
	}
	got.check(t)
}

// The traces go to a receiver of OTLP, named by the flag or by the standard variable.
func TestTracesToCollector(t *testing.T) {
	for _, by := range []string{"flag", "variable"} {
		t.Run(by, func(t *testing.T) {
			var mu sync.Mutex
			got := make(spans)
			receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var req collector.ExportTraceServiceRequest
				body, err := io.ReadAll(r.Body)
				if err == nil {
					err = proto.Unmarshal(body, &req)
				}
				if err != nil || r.URL.Path != "/v1/traces" {
					t.Errorf("POST %s: %v", r.URL.Path, err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, resource := range req.ResourceSpans {
					for _, scope := range resource.ScopeSpans {
						for _, span := range scope.Spans {
							entry := got[span.Name]
							entry.id, entry.parent = string(span.SpanId), string(span.ParentSpanId)
							entry.linked = len(span.Links) == 1 && span.Links[0].TraceId[0] == 0x11
							got[span.Name] = entry
						}
					}
				}
			}))
			defer receiver.Close()
			var p *program
			if by == "flag" {
				p = start(t, "", "-traces", receiver.URL)
			} else {
				p = start(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+receiver.URL)
			}
			callWithTrace(t, p)
			p.end()
			got.check(t)
		})
	}
}

// A page whose name leads to this machine gets nothing, by no path.
func TestStrangersHost(t *testing.T) {
	p := start(t, "")
	for _, path := range []string{"/", "/rpc", "/metrics"} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+p.http+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "stranger.test"
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
	}
}

// The program that new users copy is short.
func TestLength(t *testing.T) {
	lines := 0
	for _, file := range []string{"main.go", "board.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += strings.Count(string(text), "\n")
	}
	if lines >= 200 {
		t.Errorf("the program has %d lines", lines)
	}
}
