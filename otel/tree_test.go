package otelrpcx_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"example.com/rpcx"
)

// router returns the methods of the tests. Handlers wait for the end of their context after
// a token was sent to entered.
func router(entered chan<- struct{}) *rpcx.Router {
	r := rpcx.NewRouter()
	handle := func(method string, fn any) { r.Handle(method, rpcx.Func(fn)) }
	handle("add", func(a, b int) int { return a + b })
	handle("note", func(string) {})
	handle("refuse", func() error { return rpcx.Errorf(7, "not today") })
	handle("fail", func() error { return errors.New("disk full") })
	handle("panic", func() { panic("broken") })
	handle("unencodable", func() any { return func() {} })
	handle("large", func() string { return strings.Repeat("x", 2000) })
	handle("costly", func() error { return rpcx.ErrExcessiveCost })
	handle("wait", func(ctx context.Context) error {
		entered <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	handle("ignore", func(ctx context.Context) (string, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return "late", nil
	})
	handle("sleep", func() { // in a bubble
		entered <- struct{}{}
		time.Sleep(10 * time.Second)
	})
	handle("ask", func(ctx context.Context, s *rpcx.Session) (string, error) {
		return rpcx.Call[string](ctx, s, "name", nil)
	})
	handle("sub.add", func(a int) int { return a })
	return r
}

// names is the handler of a client. tick closes ticked.
func names(ticked chan struct{}) *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("name", rpcx.Func(func() string { return "client" }))
	r.Handle("tick", rpcx.Func(func(int) { close(ticked) }))
	return r
}

func TestTreeOfACall(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		p := newTelemetry().connect(t, transport, rpcx.Options{}, rpcx.Options{Handler: router(nil)})
		ctx, span := p.tracer.Start(t.Context(), "program")
		if sum, err := rpcx.Call[int](ctx, p.client, "add", rpcx.Args{1, 2}); sum != 3 || err != nil {
			t.Error(sum, err)
		}
		if _, err := rpcx.Call[int](context.Background(), p.client, "sub.add", rpcx.Args{1}); err != nil {
			t.Error(err)
		}
		span.End()
		p.close()
		p.wantTree(t, `
		program
			CLIENT add jsonrpc.request.id=0
				SERVER add jsonrpc.request.id=0
		CLIENT sub.add jsonrpc.request.id=1
			SERVER sub.add jsonrpc.request.id=1`)
	})
}

func TestTreeOfACallBack(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		p := newTelemetry().connect(t, transport, rpcx.Options{Handler: names(nil)}, rpcx.Options{Handler: router(nil)})
		if name, err := rpcx.Call[string](context.Background(), p.client, "ask", nil); name != "client" || err != nil {
			t.Error(name, err)
		}
		p.close()
		p.wantTree(t, `
		CLIENT ask jsonrpc.request.id=0
			SERVER ask jsonrpc.request.id=0
				CLIENT name jsonrpc.request.id=0
					SERVER name jsonrpc.request.id=0`)
	})
}

func TestTreeOfABatch(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		p := newTelemetry().connect(t, transport, rpcx.Options{}, rpcx.Options{Handler: router(nil), Order: rpcx.Sequential})
		ctx, span := p.tracer.Start(t.Context(), "program")
		var b rpcx.Batch
		b.Call("add", rpcx.Args{1, 2}, nil)
		b.Notify("note", rpcx.Args{"x"})
		b.Call("refuse", nil, nil)
		if err := p.client.SendBatch(ctx, &b); !errors.Is(err, rpcx.Errorf(7, "")) {
			t.Error(err)
		}
		span.End()
		p.close()
		p.wantTree(t, `
		program
			jsonrpc batch error.type=member_failed rpcx.batch.size=3
				CLIENT add jsonrpc.request.id=0
					SERVER add jsonrpc.request.id=0 rpcx.batch.number=1 rpcx.batch.size=3
				CLIENT note
					SERVER note rpcx.batch.number=2 rpcx.batch.size=3
				CLIENT refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7
					SERVER refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7 rpcx.batch.number=3 rpcx.batch.size=3`)
	})
}

func TestTreeOfANotification(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		p := newTelemetry().connect(t, transport, rpcx.Options{}, rpcx.Options{Handler: router(nil), Order: rpcx.Sequential})
		ctx, span := p.tracer.Start(t.Context(), "program")
		if err := p.client.Notify(ctx, "note", rpcx.Args{"x"}); err != nil {
			t.Error(err)
		}
		if sent, err := p.client.TryNotify("note", rpcx.Args{"x"}); !sent || err != nil {
			t.Error(sent, err)
		}
		if err := p.client.Call(ctx, "add", rpcx.Args{1, 2}, nil); err != nil { // behind the notifications
			t.Error(err)
		}
		span.End()
		p.close()
		p.wantTree(t, `
		program
			CLIENT note
				SERVER note
			CLIENT add jsonrpc.request.id=0
				SERVER add jsonrpc.request.id=0
		CLIENT note
			SERVER note`)
	})
}

func TestTreeOfACancellation(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		entered, left := make(chan struct{}), make(chan struct{})
		cancellable := rpcx.Options{Cancellation: rpcx.RPCCancellation}
		server, r := cancellable, router(nil)
		server.Handler = r
		r.Handle("hold", rpcx.Func(func(ctx context.Context) error {
			defer close(left)
			close(entered)
			<-ctx.Done()
			return ctx.Err()
		}))
		p := newTelemetry().connect(t, transport, cancellable, server)
		ctx, cancel := context.WithCancel(t.Context())
		f := p.client.Go(ctx, "hold", nil)
		<-entered
		cancel()
		<-left
		if err := f.Wait(context.Background(), nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := p.client.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		p.srv.Shutdown(context.Background())
		p.close()
		p.wantTree(t, `
		CLIENT hold error.type=cancelled jsonrpc.request.id=0
			SERVER hold error.type=-32097 jsonrpc.request.id=0 rpc.status_code=-32097`)
	})
}

func TestTreeOfATimeout(t *testing.T) {
	tests := map[string]struct {
		method         string
		client, server rpcx.Limits
		want           string
	}{
		"of the caller": {"wait", rpcx.Limits{RequestTimeout: time.Second}, rpcx.Limits{ProcessingTimeout: 5 * time.Second}, `
		CLIENT wait error.type=timeout jsonrpc.request.id=0
			SERVER wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`},
		"of the handler": {"wait", rpcx.Limits{}, rpcx.Limits{ProcessingTimeout: time.Second}, `
		CLIENT wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102
			SERVER wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`},
		"of a handler that succeeds afterwards": {"ignore", rpcx.Limits{}, rpcx.Limits{ProcessingTimeout: time.Second}, `
		CLIENT ignore error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102
			SERVER ignore error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				entered := make(chan struct{}, 1)
				p := newTelemetry().connect(t, "pipe", rpcx.Options{Limits: test.client}, rpcx.Options{Handler: router(entered), Limits: test.server})
				if err := p.client.Call(context.Background(), test.method, nil, nil); err == nil {
					t.Error("the call succeeded")
				}
				time.Sleep(10 * time.Second)
				p.close()
				p.wantTree(t, test.want)
			})
		})
	}
}

func TestTreeOfARefusal(t *testing.T) {
	tests := map[string]struct {
		method string
		params any
		opts   rpcx.Options // of the server
		want   string
	}{
		"an unknown method": {method: "nothing", want: `
		CLIENT nothing error.type=-32601 jsonrpc.request.id=0 rpc.status_code=-32601
			SERVER jsonrpc error.type=-32601 jsonrpc.request.id=0 rpc.method=_OTHER rpc.method_original=nothing rpc.status_code=-32601`},
		"wrong params": {method: "add", params: rpcx.Args{"x"}, want: `
		CLIENT add error.type=-32602 jsonrpc.request.id=0 rpc.status_code=-32602
			SERVER add error.type=-32602 jsonrpc.request.id=0 rpc.status_code=-32602`},
		"an error of the handler": {method: "refuse", want: `
		CLIENT refuse error.type=7 jsonrpc.request.id=0 rpc.status_code=7
			SERVER refuse error.type=7 jsonrpc.request.id=0 rpc.status_code=7`},
		"a failed handler": {method: "fail", want: `
		CLIENT fail error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603
			SERVER fail error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603`},
		"a panic": {method: "panic", want: `
		CLIENT panic error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603
			SERVER panic error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603`},
		"a result that cannot be encoded": {method: "unencodable", want: `
		CLIENT unencodable error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603
			SERVER unencodable error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603`},
		"a reply that is too large": {method: "large", opts: rpcx.Options{Limits: rpcx.Limits{Response: 1000}}, want: `
		CLIENT large error.type=-32600 jsonrpc.request.id=0 rpc.status_code=-32600
			SERVER large error.type=-32600 jsonrpc.request.id=0 rpc.status_code=-32600`},
		"excessive cost": {method: "costly", want: `
		CLIENT costly error.type=-101 jsonrpc.request.id=0 rpc.status_code=-101
			SERVER costly error.type=-101 jsonrpc.request.id=0 rpc.status_code=-101`},
		"the gate": {method: "add", opts: rpcx.Options{Gate: rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			return nil, rpcx.Errorf(-32002, "not initialized")
		})}, want: `
		CLIENT add error.type=-32002 jsonrpc.request.id=0 rpc.status_code=-32002
			SERVER add error.type=-32002 jsonrpc.request.id=0 rpc.status_code=-32002`},
		"params that cannot be encoded": {method: "add", params: rpcx.Args{func() {}}, want: `
		CLIENT add error.type=not_sent`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			eachTransport(t, func(t *testing.T, transport string) {
				test.opts.Handler = router(nil)
				p := newTelemetry().connect(t, transport, rpcx.Options{}, test.opts)
				if err := p.client.Call(context.Background(), test.method, test.params, nil); err == nil {
					t.Error("the call succeeded")
				}
				p.close()
				p.wantTree(t, test.want)
			})
		})
	}
}

// Texts in spans are short, and in UTF-8.
func TestTextsOfAPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := strings.Repeat("é", 300) // cut within a rune
		failing := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("x" + long + "\xff") })
		p := newTelemetry().connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: failing})
		for _, method := range []string{"x" + long, "m\xff"} {
			_ = p.client.Call(context.Background(), method, nil, nil)
		}
		p.close()
		for _, s := range p.spans.Ended() {
			texts := []string{s.Name(), s.Status().Description}
			for _, a := range s.Attributes() {
				texts = append(texts, a.Value.String())
			}
			for _, text := range texts {
				if len(text) > 600 || !utf8.ValidString(text) {
					t.Errorf("%q", text)
				}
			}
		}
	})
}

// Requests that never reach a handler have no SERVER span. They are counted.
func TestTreeOfARequestWithoutAHandler(t *testing.T) {
	waiting := func(p *pair) { // occupies the only handler
		p.client.Go(context.Background(), "sleep", nil)
		synctest.Wait()
	}
	tests := map[string]struct {
		limits  rpcx.Limits
		prepare func(p *pair)
		refused string
		want    string
	}{
		"the queue is full": {rpcx.Limits{Concurrency: 1, Queue: 1}, func(p *pair) {
			waiting(p)
			p.client.Go(context.Background(), "add", rpcx.Args{1, 2})
			synctest.Wait()
		}, "Limits.Queue", `
		CLIENT add error.type=-102 jsonrpc.request.id=2 rpc.status_code=-102`},
		"the time in the queue is over": {rpcx.Limits{Concurrency: 1, ProcessingTimeout: time.Second}, func(p *pair) {
			waiting(p)
		}, "Limits.ProcessingTimeout", `
		CLIENT add error.type=-102 jsonrpc.request.id=1 rpc.status_code=-102`},
		"the server shuts down": {rpcx.Limits{Concurrency: 1}, func(p *pair) {
			waiting(p)
			// Owner: the test. End: p.close.
			go p.srv.Shutdown(context.Background())
			synctest.Wait()
		}, "shutdown", `
		CLIENT add error.type=-102 jsonrpc.request.id=1 rpc.status_code=-102`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				entered := make(chan struct{}, 1)
				p := newTelemetry().connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: router(entered), Limits: test.limits})
				test.prepare(p)
				err := p.client.Call(context.Background(), "add", rpcx.Args{3, 4}, nil)
				if !errors.Is(err, rpcx.ErrServerBusy) {
					t.Error(err)
				}
				tree := strings.Join(p.tree(), "\n")
				if !strings.Contains(tree, strings.TrimSpace(test.want)) || strings.Contains(tree, "SERVER add") {
					t.Errorf("spans:\n%s", tree)
				}
				synctest.Wait()
				if got := p.series(t, "rpcx.requests.refused"); got["rpcx.limit="+test.refused] != 1 {
					t.Errorf("refused: %v", got)
				}
				p.close()
			})
		})
	}
}
