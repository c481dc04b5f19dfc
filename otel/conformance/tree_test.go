package conformance_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
	"example.com/rpcx/rpchttp"
)

// router returns the methods of the tests. A handler of "wait" or "hold" sends to entered.
func router(entered chan<- struct{}) *rpcx.Router {
	r := rpcx.NewRouter()
	handle := func(method string, fn any) { r.Handle(method, rpcx.Func(fn)) }
	handle("ready", func() {})
	handle("add", func(a, b int) int { return a + b })
	handle("note", func(string) {
		if entered != nil {
			entered <- struct{}{}
		}
	})
	handle("refuse", func() error { return rpcx.Errorf(7, "not today") })
	handle("fail", func() error { return errors.New("disk full") })
	handle("panic", func() { panic("broken") })
	handle("unencodable", func() any { return func() {} })
	handle("large", func() string { return strings.Repeat("x", 2000) })
	handle("costly", func() error { return rpcx.ErrExcessiveCost })
	handle("wait", func(ctx context.Context) error {
		entered <- struct{}{}
		<-ctx.Done()
		entered <- struct{}{}
		return ctx.Err()
	})
	handle("ask", func(ctx context.Context, s *rpcx.Session) (string, error) {
		return rpcx.Call[string](ctx, s, "name", nil)
	})
	handle("tell", func(ctx context.Context, s *rpcx.Session) error { return s.Notify(ctx, "tick", rpcx.Args{1}) })
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
	each(t, func(t *testing.T, tr transport) {
		s := tr.open(t, rpcx.Options{}, rpcx.Options{Handler: router(nil)})
		ctx, span := s.tracer.Start(t.Context(), "program")
		if sum, err := rpcx.Call[int](ctx, s.caller, "add", rpcx.Args{1, 2}); sum != 3 || err != nil {
			t.Error(sum, err)
		}
		span.End()
		s.want(t, `
		program
			CLIENT add jsonrpc.request.id=0
				SERVER add jsonrpc.request.id=0`)
	})
}

// Over HTTP and NATS, a handler cannot call back.
func TestTreeOfACallBack(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		s := tr.open(t, rpcx.Options{Handler: names(nil)}, rpcx.Options{Handler: router(nil)})
		err := s.caller.Call(t.Context(), "ask", nil, nil)
		if (err == nil) != tr.session {
			t.Error(err)
		}
		const refused = `
		CLIENT ask error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603
			SERVER ask error.type=-32603 jsonrpc.request.id=0 rpc.status_code=-32603
				CLIENT name error.type=not_sent jsonrpc.request.id=0`
		s.want(t, trees{"TCP,WebSocket": `
		CLIENT ask jsonrpc.request.id=0
			SERVER ask jsonrpc.request.id=0
				CLIENT name jsonrpc.request.id=0
					SERVER name jsonrpc.request.id=0`,
			"HTTP,NATS": refused}.of(t, tr))
	})
}

// The members of a batch belong to the spans of the caller's members, if the trace context
// is in the message. Headers have only the span of the batch as a whole.
func TestTreeOfABatch(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		s := tr.open(t, rpcx.Options{}, rpcx.Options{Handler: router(nil), Order: rpcx.Sequential})
		ctx, span := s.tracer.Start(t.Context(), "program")
		var b rpcx.Batch
		b.Call("add", rpcx.Args{1, 2}, nil)
		b.Notify("note", rpcx.Args{"x"})
		b.Call("refuse", nil, nil)
		if err := s.caller.SendBatch(ctx, &b); !errors.Is(err, rpcx.Errorf(7, "")) {
			t.Error(err)
		}
		span.End()
		s.want(t, trees{"TCP,WebSocket": `
		program
			jsonrpc batch error.type=member_failed rpcx.batch.size=3
				CLIENT add jsonrpc.request.id=0
					SERVER add jsonrpc.request.id=0 rpcx.batch.number=1 rpcx.batch.size=3
				CLIENT note
					SERVER note rpcx.batch.number=2 rpcx.batch.size=3
				CLIENT refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7
					SERVER refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7 rpcx.batch.number=3 rpcx.batch.size=3`,
			"HTTP,NATS": `
		program
			jsonrpc batch error.type=member_failed rpcx.batch.size=3
				CLIENT add jsonrpc.request.id=0
				CLIENT note
				CLIENT refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7
				SERVER add jsonrpc.request.id=0 rpcx.batch.number=1 rpcx.batch.size=3
				SERVER note rpcx.batch.number=2 rpcx.batch.size=3
				SERVER refuse error.type=7 jsonrpc.request.id=1 rpc.status_code=7 rpcx.batch.number=3 rpcx.batch.size=3`}.of(t, tr))
	})
}

// With Options.Meta, batches over HTTP and NATS have the same tree as those of a session.
func TestTreeOfABatchWithData(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		tr.meta = rpcx.MemberMeta
		s := tr.open(t, rpcx.Options{}, rpcx.Options{Handler: router(nil), Order: rpcx.Sequential})
		var b rpcx.Batch
		b.Call("add", rpcx.Args{1, 2}, nil)
		b.Call("add", rpcx.Args{3, 4}, nil)
		if err := s.caller.SendBatch(t.Context(), &b); err != nil {
			t.Error(err)
		}
		s.want(t, `
		jsonrpc batch rpcx.batch.size=2
			CLIENT add jsonrpc.request.id=0
				SERVER add jsonrpc.request.id=0 rpcx.batch.number=1 rpcx.batch.size=2
			CLIENT add jsonrpc.request.id=1
				SERVER add jsonrpc.request.id=1 rpcx.batch.number=2 rpcx.batch.size=2`)
	})
}

func TestTreeOfANotification(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		entered := make(chan struct{}, 1)
		s := tr.open(t, rpcx.Options{}, rpcx.Options{Handler: router(entered)})
		ctx, span := s.tracer.Start(t.Context(), "program")
		if err := s.caller.Notify(ctx, "note", rpcx.Args{"x"}); err != nil {
			t.Error(err)
		}
		<-entered
		span.End()
		s.want(t, `
		program
			CLIENT note
				SERVER note`)
	})
}

// A session sends a cancellation, and HTTP ends the request. Over NATS, nothing tells the
// worker, whose handler ends at its own deadline.
func TestTreeOfACancellation(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		entered := make(chan struct{})
		opts := rpcx.Options{Cancellation: rpcx.RPCCancellation}
		if !tr.session {
			opts.Cancellation = nil
		}
		server := opts
		server.Handler = router(entered)
		server.Limits.ProcessingTimeout = time.Minute
		if tr.name == overNATS.name {
			server.Limits.ProcessingTimeout = time.Second
		}
		s := tr.open(t, opts, server)
		ctx, cancel := context.WithCancel(t.Context())
		f := s.caller.Go(ctx, "wait", nil)
		<-entered
		cancel()
		if err := f.Wait(context.Background(), nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		<-entered // the handler ends
		s.want(t, trees{"TCP,WebSocket": `
		CLIENT wait error.type=cancelled jsonrpc.request.id=0
			SERVER wait error.type=-32097 jsonrpc.request.id=0 rpc.status_code=-32097`,
			"HTTP": `
		CLIENT wait error.type=cancelled jsonrpc.request.id=0
			SERVER wait error.type=cancelled jsonrpc.request.id=0`,
			"NATS": `
		CLIENT wait error.type=cancelled jsonrpc.request.id=0
			SERVER wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`}.of(t, tr))
	})
}

// A timeout is that of the caller, whose context the test ends, or that of the handler.
func TestTreeOfATimeout(t *testing.T) {
	t.Run("of the caller", func(t *testing.T) {
		each(t, func(t *testing.T, tr transport) {
			entered := make(chan struct{})
			server := rpcx.Options{Handler: router(entered), Limits: rpcx.Limits{ProcessingTimeout: time.Second}}
			s := tr.open(t, rpcx.Options{}, server)
			ctx, end := context.WithCancelCause(t.Context())
			f := s.caller.Go(ctx, "wait", nil)
			<-entered
			end(context.DeadlineExceeded)
			if err := f.Wait(context.Background(), nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			<-entered
			s.want(t, trees{"TCP,WebSocket,NATS": `
		CLIENT wait error.type=timeout jsonrpc.request.id=0
			SERVER wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`,
				"HTTP": `
		CLIENT wait error.type=timeout jsonrpc.request.id=0
			SERVER wait error.type=cancelled jsonrpc.request.id=0`}.of(t, tr))
		})
	})
	t.Run("of the handler", func(t *testing.T) {
		each(t, func(t *testing.T, tr transport) {
			entered := make(chan struct{}, 2)
			s := tr.open(t, rpcx.Options{}, rpcx.Options{Handler: router(entered), Limits: rpcx.Limits{ProcessingTimeout: time.Second}})
			if err := s.caller.Call(t.Context(), "wait", nil, nil); !errors.Is(err, rpcx.ErrServerBusy) {
				t.Error(err)
			}
			<-entered
			<-entered
			s.want(t, `
		CLIENT wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102
			SERVER wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`)
		})
	})
}

func TestTreeOfARefusal(t *testing.T) {
	// Most refusals are answers to a request with a span of its own.
	answered := func(method, code string) string {
		attrs := "error.type=" + code + " jsonrpc.request.id=0 rpc.status_code=" + code
		return "CLIENT " + method + " " + attrs + "\n\tSERVER " + method + " " + attrs
	}
	only := func(code string) string { // without a handler
		return "CLIENT add error.type=" + code + " jsonrpc.request.id=0 rpc.status_code=" + code
	}
	closedGate := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, errNotAdmitted })
	const unknown = `
		CLIENT nothing error.type=-32601 jsonrpc.request.id=0 rpc.status_code=-32601
			SERVER jsonrpc error.type=-32601 jsonrpc.request.id=0 rpc.method=_OTHER rpc.method_original=nothing rpc.status_code=-32601`
	tests := map[string]struct {
		method string
		params any
		opts   rpcx.Options // of the server
		want   string
		others trees // by transport, instead of want
	}{
		"an unknown method": {method: "nothing", want: unknown, others: trees{
			// No worker has subscribed to the method. At first it may be a lost worker's.
			"NATS": `CLIENT nothing error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`}},
		"an unknown method below a known one": {method: "add.nothing", want: strings.ReplaceAll(unknown, "nothing", "add.nothing"), others: trees{
			"NATS": `CLIENT add.nothing error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102`}},
		"wrong params":                    {method: "add", params: rpcx.Args{"x"}, want: answered("add", "-32602")},
		"an error of the handler":         {method: "refuse", want: answered("refuse", "7")},
		"a failed handler":                {method: "fail", want: answered("fail", "-32603")},
		"a panic":                         {method: "panic", want: answered("panic", "-32603")},
		"a result that cannot be encoded": {method: "unencodable", want: answered("unencodable", "-32603")},
		"a reply that is too large":       {method: "large", opts: rpcx.Options{Limits: rpcx.Limits{Response: 1000}}, want: answered("large", "-32600")},
		"excessive cost":                  {method: "costly", want: answered("costly", "-101")},
		"the gate": {method: "add", opts: rpcx.Options{Gate: closedGate}, want: answered("add", "-32002"), others: trees{
			// Without Handler.Admit, the answer is 401.
			"HTTP": "CLIENT add error.type=http_401 jsonrpc.request.id=0",
			// A worker has Config.Admit in place of a Gate.
			"NATS": only("-32002")}},
		"params that cannot be encoded": {method: "add", params: rpcx.Args{func() {}}, want: "CLIENT add error.type=not_sent"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, tr transport) {
				opts := test.opts
				opts.Handler = router(nil)
				s := tr.open(t, rpcx.Options{}, opts)
				if err := s.caller.Call(t.Context(), test.method, test.params, nil); err == nil {
					t.Error("the call succeeded")
				}
				want, ok := test.others[tr.name]
				if !ok {
					want = test.want
				}
				s.want(t, want)
			})
		})
	}
}

// The values of a hub have no spans. Over HTTP, a handler can notify while it runs. The
// client has no span for such a notification. Over NATS there is none.
func TestTreeOfASubscription(t *testing.T) {
	each(t, func(t *testing.T, tr transport) {
		hub := new(rpcx.Hub)
		r := router(nil)
		subscribe, unsubscribe := hub.Handlers(rpcx.EthSubscription, func(context.Context, *rpcx.Request) (string, error) { return "heads", nil }, nil)
		r.Handle("eth_subscribe", subscribe)
		r.Handle("eth_unsubscribe", unsubscribe)
		ticked := make(chan struct{})
		s := tr.open(t, rpcx.Options{Handler: names(ticked), Order: rpcx.Sequential}, rpcx.Options{Handler: r})
		if session, ok := s.caller.(*rpcx.Session); ok {
			stream, err := rpcx.Subscribe[int](t.Context(), session, rpcx.Subscription{
				Method: "eth_subscribe", Params: rpcx.Args{"newHeads"}, Correlation: rpcx.EthSubscription,
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, span := s.tracer.Start(t.Context(), "publisher")
			if err := hub.Publish(ctx, "heads", 5); err != nil {
				t.Error(err)
			}
			span.End()
			if v, err := stream.Next(t.Context()); v != 5 || err != nil {
				t.Error(v, err)
			}
		} else if err := s.caller.Call(t.Context(), "eth_subscribe", rpcx.Args{"newHeads"}, nil); err == nil {
			t.Error("a subscription without a session")
		}
		_ = s.caller.Call(t.Context(), "tell", nil, nil)
		if session, ok := s.caller.(*rpcx.Session); ok {
			<-ticked // Shutdown drops what waits
			_ = session.Shutdown(context.Background())
		}
		s.want(t, trees{"TCP,WebSocket": `
		CLIENT eth_subscribe jsonrpc.request.id=0
			SERVER eth_subscribe jsonrpc.request.id=0
		publisher
		CLIENT tell jsonrpc.request.id=1
			SERVER tell jsonrpc.request.id=1
				CLIENT tick
					SERVER tick`,
			"HTTP": `
		CLIENT eth_subscribe error.type=-32601 jsonrpc.request.id=0 rpc.status_code=-32601
			SERVER eth_subscribe error.type=-32601 jsonrpc.request.id=0 rpc.status_code=-32601
		CLIENT tell jsonrpc.request.id=1
			SERVER tell jsonrpc.request.id=1
				CLIENT tick`,
			"NATS": `
		CLIENT eth_subscribe error.type=-32601 jsonrpc.request.id=0 rpc.status_code=-32601
			SERVER eth_subscribe error.type=-32601 jsonrpc.request.id=0 rpc.status_code=-32601
		CLIENT tell error.type=-32603 jsonrpc.request.id=1 rpc.status_code=-32603
			SERVER tell error.type=-32603 jsonrpc.request.id=1 rpc.status_code=-32603
				CLIENT tick error.type=not_sent`}.of(t, tr))
	})
}

// A call that a Client repeats has a span for each attempt. The repetitions of rpchttp and
// natsrpcx are within one attempt.
func TestTreeOfARepeatedCall(t *testing.T) {
	var once sync.Once
	r := router(nil)
	r.Handle("get", rpcx.Func(func(s *rpcx.Session) (string, error) {
		once.Do(func() { s.Close() })
		return "value", nil
	}))
	for _, tr := range []transport{overTCP, overWebSocket} {
		once = sync.Once{}
		t.Run(tr.name, func(t *testing.T) {
			s := newSite(t)
			s.srv.Options = *otelrpcx.Instrument(&rpcx.Options{Handler: r, Meta: tr.meta}, &s.config)
			client := rpcx.NewClient(&rpcx.ClientOptions{
				Addrs:   []string{"the server"},
				Options: *otelrpcx.Instrument(&rpcx.Options{Meta: tr.meta}, &s.config),
				Connect: func(ctx context.Context, _ string, opts *rpcx.Options) (*rpcx.Session, error) {
					tr.connect(t, s, opts)
					return s.caller.(*rpcx.Session), nil
				},
				Idempotent: func(string) bool { return true },
			})
			if v, err := rpcx.Call[string](t.Context(), client, "get", nil); v != "value" || err != nil {
				t.Error(v, err)
			}
			client.Close()
			<-client.Done()
			s.want(t, `
		CLIENT get error.type=connection_lost jsonrpc.request.id=0
			SERVER get jsonrpc.request.id=0
		CLIENT get jsonrpc.request.id=0 rpcx.attempt=2
			SERVER get jsonrpc.request.id=0`)
		})
	}
	t.Run("HTTP", func(t *testing.T) {
		s := newSite(t)
		s.srv.Options = *otelrpcx.Instrument(&rpcx.Options{Handler: router(nil)}, &s.config)
		handler := &rpchttp.Handler{Server: s.srv}
		var lost sync.Once
		addr := s.listenHTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			lost.Do(func() {
				handler.ServeHTTP(discardingWriter{w}, r)
				panic(http.ErrAbortHandler)
			})
			handler.ServeHTTP(w, r)
		}))
		s.dialHTTP(addr, otelrpcx.Instrument(nil, &s.config), "add")
		if err := s.caller.Call(t.Context(), "add", rpcx.Args{1, 2}, nil); err != nil {
			t.Error(err)
		}
		s.want(t, `
		CLIENT add jsonrpc.request.id=0
			SERVER add jsonrpc.request.id=0
			SERVER add jsonrpc.request.id=0`)
	})
	t.Run("NATS", func(t *testing.T) {
		entered := make(chan struct{})
		s := newSite(t)
		s.srv.Options = *otelrpcx.Instrument(&rpcx.Options{Handler: router(entered), Limits: rpcx.Limits{Concurrency: 1, ProcessingTimeout: time.Second}}, &s.config)
		overNATS.connect(t, s, otelrpcx.Instrument(nil, &s.config))
		s.spans.Reset()
		first := s.caller.Go(t.Context(), "wait", nil)
		<-entered
		if err := s.caller.Call(t.Context(), "add", rpcx.Args{1, 2}, nil); !errors.Is(err, rpcx.ErrServerBusy) { // three times
			t.Error(err)
		}
		<-entered
		_ = first.Wait(context.Background(), nil)
		s.want(t, `
		CLIENT wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102
			SERVER wait error.type=-102 jsonrpc.request.id=0 rpc.status_code=-102
		CLIENT add error.type=-102 jsonrpc.request.id=1 rpc.status_code=-102`)
	})
}

// discardingWriter drops the answer.
type discardingWriter struct{ http.ResponseWriter }

func (discardingWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardingWriter) WriteHeader(int)             {}
