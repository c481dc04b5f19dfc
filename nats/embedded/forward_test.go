package embedded_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats.go"
)

func TestAGatewayPassesRepliesOn(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		startWork(t, serverOf(router()), c)
		s := pipeGateway(t, c, rpcx.Options{}, nil)
		for _, test := range []struct {
			method string
			params any
			want   string // result, or error with code and data
		}{
			{"sum", rpcx.Args{1, 2}, `3`},
			{"sum", nil, `0`},
			{"sum", rpcx.EmptyArgs, `0`},
			{"echo", map[string]any{"v": []any{nil, 1e300, "é\u2028<"}}, "[null,1e+300,\"é\\u2028<\"]"},
			{"echo", rpcx.Args{nil}, `null`},
			{"refuse", nil, `42 refused [1]`},
			{"fail", nil, `-32603 internal server error null`},
			{"sum", map[string]any{"a": 1}, `-32602 `},
			{"echo", nil, `-32602 `},
			{strings.Repeat("long", 64), nil, `-32601 `},
		} {
			var result json.RawMessage
			err := s.Call(t.Context(), test.method, test.params, &result)
			got := string(result)
			if e, ok := errors.AsType[*rpcx.Error](err); ok {
				data, _ := json.Marshal(e.Data)
				if got = fmt.Sprintf("%d %s %s", e.Code, e.Message, data); strings.HasSuffix(test.want, " ") {
					got = fmt.Sprintf("%d ", e.Code)
				}
			} else if err != nil {
				t.Errorf("%s: %v", test.method, err)
			}
			if got != test.want {
				t.Errorf("%s: %s, want %s", test.method, got, test.want)
			}
		}
		b := new(rpcx.Batch)
		sums := make([]float64, 50)
		for i := range sums {
			b.Call("sum", rpcx.Args{i, 1}, &sums[i])
		}
		b.Notify("sum", nil)
		if err := s.SendBatch(t.Context(), b); err != nil {
			t.Error(err)
		}
		for i, sum := range sums {
			if sum != float64(i+1) {
				t.Errorf("member %d: %v", i, sum)
			}
		}
	})
}

func TestClientsOfOtherProtocolsAtAGateway(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		startWork(t, serverOf(router()), c)
		for name, p := range map[string]rpcx.Protocol{"1.0": rpcx.JSONRPCv1, "loose": rpcx.JSONRPCLoose, "aiomas": rpcx.Aiomas} {
			opts := rpcx.Options{Protocol: p}
			if p == rpcx.Aiomas {
				opts.Framer = rpcx.LengthFramer{}
			}
			s := pipeGateway(t, c, opts, &opts)
			if sum, err := rpcx.Call[float64](t.Context(), s, "sum", rpcx.Args{1, 2}); err != nil || sum != 3 {
				t.Errorf("%s: %v, %v", name, sum, err)
			}
			if p != rpcx.Aiomas {
				continue
			}
			if v, err := rpcx.Call[string](t.Context(), s, "echo", map[string]any{"v": "x"}); err != nil || v != "x" {
				t.Errorf("named params of aiomas: %q, %v", v, err)
			}
			err := s.Call(t.Context(), "sum", rpcx.Mixed{Args: rpcx.Args{1}, Named: map[string]any{"b": 2}}, nil)
			if err == nil || !strings.Contains(err.Error(), "cannot be forwarded") {
				t.Errorf("mixed params of aiomas: %v", err)
			}
		}
	})
}

func TestAWorkerLearnsOfTheClientByHeaders(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		type traceKey struct{}
		c.Peer = func(s *rpcx.Session) map[string]string {
			name, _ := s.Value("name").(string)
			return map[string]string{"User": name}
		}
		c.Header = func(ctx context.Context) map[string]string {
			trace, _ := ctx.Value(traceKey{}).(string)
			if req := rpcx.RequestFromContext(ctx); req != nil {
				trace = "gateway " + req.Method
			}
			return map[string]string{"Trace": trace}
		}
		r := rpcx.NewRouter()
		r.Handle("headers", rpcx.Func(func(s *rpcx.Session) string {
			h := natsrpcx.Message(s).Header
			return fmt.Sprintf("%q %q %d", h.Get("User"), h.Get("Trace"), len(h))
		}))
		startWork(t, serverOf(r), c)
		s := pipeGateway(t, c, rpcx.Options{Context: func(ctx context.Context, req *rpcx.Request) context.Context {
			req.Session().SetValue("name", "al\r\nRpcx-Not-Started: 1\x00ice")
			return ctx
		}}, nil)
		if got, err := rpcx.Call[string](t.Context(), s, "headers", nil); err != nil || got != `"al  Rpcx-Not-Started: 1 ice" "gateway headers" 2` {
			t.Errorf("%s, %v", got, err)
		}
		client := dial(t, c, &rpcx.Options{OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
			func(ctx context.Context, _ *rpcx.OutgoingCall) (context.Context, func(error), error) {
				return context.WithValue(ctx, traceKey{}, "call"), nil, nil
			},
		}})
		if got, err := rpcx.Call[string](t.Context(), client, "headers", nil); err != nil || got != `"" "call" 1` {
			t.Errorf("%s, %v", got, err)
		}
		if natsrpcx.Message(s) != nil {
			t.Error("a session with a connection has a message of NATS")
		}
		for _, name := range []string{"", "a b", "a:b", "é", "rpcx-time", "Nats-Msg-Id", "status", "a\r\nb"} {
			wrong := c
			wrong.Header = func(context.Context) map[string]string { return map[string]string{name: "x"} }
			client := dial(t, wrong, nil)
			err := client.Call(t.Context(), "headers", nil, nil)
			if lost, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || lost.Written || !strings.Contains(err.Error(), "Config.Header") {
				t.Errorf("a header named %q: %v", name, err)
			}
		}
	})
}

// The edge has the costs: a client that makes errors is cut off, and the others are not.
func TestCostIsOfTheClientAtTheGateway(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		startWork(t, serverOf(router()), c)
		srv := rpcx.Options{Limits: rpcx.Limits{CostHard: 1000, CostSoft: -1}}
		greedy, honest := pipeGateway(t, c, srv, nil), pipeGateway(t, c, srv, nil)
		var err error
		calls := 0
		for ; calls < 100 && greedy.Err() == nil; calls++ {
			err = greedy.Call(t.Context(), "echo", nil, nil)
		}
		<-greedy.Done()
		if calls == 100 {
			t.Errorf("the client of 100 errors goes on: %v", err)
		}
		if err := honest.Call(t.Context(), "sum", nil, nil); err != nil {
			t.Error(err)
		}
	})
}

// A name from a client is never a wildcard, or a subject of another purpose.
func TestHostileMethodNames(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		r := router()
		odd := []string{"*", ">", "$SYS.REQ", "a b", "a\r\nPUB x 0", "", "/", "..", "%", "%41", "é", "%announce", "_INBOX.x"}
		for _, name := range odd {
			r.Handle(name, rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) { return req.Method, nil }))
		}
		startWork(t, serverOf(r), c)
		callers := []rpcx.Caller{pipeGateway(t, c, rpcx.Options{}, nil), dial(t, c, nil)}
		time.Sleep(5 * time.Second)
		unknown := []string{
			"rpc", "sum.*", "sum.>", "s*", ">.>", "$JS.API.INFO", "_INBOX.>", "%topic.x", "%announce.x", "\xff", "sum ", "sum\t",
			strings.Repeat(">", 85), strings.Repeat(">", 86), strings.Repeat("x", 1000),
		}
		for _, caller := range callers {
			for _, name := range odd {
				if got, err := rpcx.Call[string](t.Context(), caller, name, nil); err != nil || got != name {
					t.Errorf("%q: %q, %v", name, got, err)
				}
			}
			for _, name := range unknown {
				if err := caller.Call(t.Context(), name, nil, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
					t.Errorf("%q: %v", name, err)
				}
			}
		}
		subjects := make(map[string]bool) // from now on, everything has a subscriber, which does not answer
		all, err := c.Conn.Subscribe(">", func(m *nats.Msg) { subjects[m.Subject] = true })
		if err != nil {
			t.Fatal(err)
		}
		for _, caller := range callers {
			for _, name := range append(odd, unknown...) {
				_ = caller.Call(t.Context(), name, nil, nil)
			}
		}
		all.Unsubscribe()
		synctest.Wait()
		for subject := range subjects {
			if !strings.HasPrefix(subject, "rpc.") && !strings.HasPrefix(subject, "_INBOX.") || strings.ContainsAny(subject, "*>$ \r\n") || len(subject) > 4+255 {
				t.Errorf("a message with the subject %q", subject)
			}
		}
		if len(subjects) < len(odd)+len(unknown)-2 {
			t.Errorf("only %d subjects", len(subjects))
		}
	})
}

func TestForwardAndDialRefuseAnInvalidConfig(t *testing.T) {
	panics := func(f func()) (text any) {
		defer func() { text = recover() }()
		f()
		return nil
	}
	for name, f := range map[string]func(){
		"Forward": func() { natsrpcx.Forward(natsrpcx.Config{}) },
		"Broker":  func() { natsrpcx.Broker(natsrpcx.Config{}) },
	} {
		if text := fmt.Sprint(panics(f)); !strings.Contains(text, "Config.Conn is nil") {
			t.Errorf("%s: %v", name, text)
		}
	}
	if _, err := natsrpcx.Dial(natsrpcx.Config{}, nil); err == nil || !strings.Contains(err.Error(), "Config.Conn is nil") {
		t.Error(err)
	}
	bubble(t, func(t *testing.T) {
		_, err := natsrpcx.Dial(natsrpcx.Config{Conn: newBus(t).Conn}, &rpcx.Options{Protocol: rpcx.JSONRPCv1})
		if err == nil || !strings.Contains(err.Error(), "Options.Protocol") {
			t.Error(err)
		}
	})
}

func TestALostConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bus := newBus(t)
		link := &cutConn{server: bus.NATS}
		conn, err := natsrpcx.Connect("", nats.InProcessServer(link), nats.ReconnectWait(time.Second), nats.ReconnectJitter(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		b := newBlocking()
		startWork(t, serverOf(b.Router), natsrpcx.Config{Conn: bus.Conn})
		c := natsrpcx.Config{Conn: conn}
		client, s := dial(t, c, nil), pipeGateway(t, c, rpcx.Options{}, nil)
		calls := []*rpcx.Future{client.Go(t.Context(), "block", nil), s.Go(t.Context(), "block", nil)}
		synctest.Wait()
		if n := b.started.Load(); n != 2 {
			t.Fatalf("%d handlers, want 2", n)
		}
		link.cut()
		synctest.Wait()
		<-calls[0].Done() // at once
		<-calls[1].Done()
		if lost, ok := errors.AsType[*rpcx.ConnectionError](calls[0].Err()); !ok || !lost.Written {
			t.Errorf("a call that was under way: %v", calls[0].Err())
		}
		if e, ok := errors.AsType[*rpcx.Error](calls[1].Err()); !ok || e.Code != rpcx.CodeServerBusy || e.NotStarted() {
			t.Errorf("a request that was under way: %v", calls[1].Err())
		}
		// Without a connection, nothing is kept for later.
		err = client.Call(t.Context(), "block", nil, nil)
		if lost, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || lost.Written || !strings.Contains(err.Error(), "not connected") {
			t.Errorf("a call without a connection: %v", err)
		}
		notStarted(t, s.Call(t.Context(), "block", nil, nil), "no worker")
		if err := client.Notify(t.Context(), "block", nil); err == nil {
			t.Error("a notification without a connection has no error")
		}
		link.mend()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := b.started.Load(); n != 2 {
			t.Errorf("%d handlers were started, want 2", n)
		}
		for _, caller := range []rpcx.Caller{client, s} {
			if err := caller.Call(t.Context(), "sum", nil, nil); err != nil {
				t.Error(err)
			}
		}
		close(b.release)
	})
}

func TestClose(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		b := newBlocking()
		startWork(t, serverOf(b.Router), c)
		client := dial(t, c, nil)
		f := client.Go(t.Context(), "block", nil)
		synctest.Wait()
		before := c.Conn.NumSubscriptions()
		if err := errors.Join(client.Close(), client.Close()); err != nil {
			t.Error(err)
		}
		if n := c.Conn.NumSubscriptions(); n != before-2 {
			t.Errorf("%d subscriptions, before Close %d", n, before)
		}
		if err := f.Wait(t.Context(), nil); !errors.Is(err, rpcx.ErrClosed) {
			t.Error(err)
		}
		if err := client.Call(t.Context(), "sum", nil, nil); !errors.Is(err, rpcx.ErrClosed) {
			t.Error(err)
		}
		close(b.release)
	})
}
