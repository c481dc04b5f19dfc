package otelrpcx_test

import (
	"context"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// Every span ends, and every request is measured, however the session ends and whatever
// handlers and functions of the user do.
func TestEverySpanEnds(t *testing.T) {
	for name, end := range map[string]func(p *pair, cut func()){
		"Close of the client": func(p *pair, _ func()) { p.client.Close() },
		"Close of the server": func(p *pair, _ func()) { p.srv.Close() },
		"lost connection":     func(_ *pair, cut func()) { cut() },
		"Shutdown": func(p *pair, _ func()) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = p.srv.Shutdown(ctx)
		},
		"Shutdown of the client": func(p *pair, _ func()) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = p.client.Shutdown(ctx)
		},
		"answers": func(*pair, func()) { time.Sleep(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tel := newTelemetry()
				r := rpcx.NewRouter()
				for method, fn := range map[string]any{
					"wait":  func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
					"sleep": func() { time.Sleep(time.Minute) },
					"back":  func(ctx context.Context, s *rpcx.Session) error { return s.Call(ctx, "wait", nil, nil) },
					"panic": func() { panic("in a handler") },
					"exit":  func() { runtime.Goexit() },
					"hook":  func() {},
				} {
					r.Handle(method, rpcx.Func(fn))
				}
				server := rpcx.Options{Handler: r, Limits: rpcx.Limits{CostOff: true, Concurrency: 3}, Context: func(ctx context.Context, req *rpcx.Request) context.Context {
					if req.Method == "hook" {
						panic("in Options.Context")
					}
					return ctx
				}}
				here, there := net.Pipe()
				p := &pair{telemetry: tel, srv: &rpcx.Server{Options: *tel.instrument(server)}}
				p.srv.ServeConn(there)
				p.client = rpcx.NewSession(here, tel.instrument(rpcx.Options{Handler: r}))
				for range 3 {
					for _, method := range []string{"panic", "exit", "hook", "sleep", "back", "wait"} {
						p.client.Go(context.Background(), method, nil)
						_ = p.client.Notify(context.Background(), method, nil)
						var b rpcx.Batch
						b.Call(method, nil, nil)
						b.Notify("sleep", nil)
						b.Call("back", nil, nil)
						// Owner: the test. End: the session ends.
						go func() { _ = p.client.SendBatch(context.Background(), &b) }()
					}
				}
				time.Sleep(time.Second)
				end(p, func() { here.Close(); there.Close() })
				p.close()
				time.Sleep(2 * time.Minute) // for handlers that sleep
				synctest.Wait()
				started, ended := len(tel.spans.Started()), len(tel.spans.Ended())
				if started != ended || started < 20 {
					t.Errorf("%d spans have begun, and %d have ended", started, ended)
				}
				requests := uint64(0)
				for _, n := range tel.series(t, "rpc.server.call.duration") {
					requests += n
				}
				spans := uint64(0)
				for _, s := range tel.spans.Ended() {
					if s.SpanKind().String() == "server" {
						spans++
					}
				}
				if requests != spans {
					t.Errorf("%d requests with spans, %d with durations", spans, requests)
				}
			})
		})
	}
}
