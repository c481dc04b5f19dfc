package embedded_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// router returns the methods of most workers.
func router() *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("sum", rpcx.Func(func(_ context.Context, values ...float64) (float64, error) {
		total := 0.0
		for _, v := range values {
			total += v
		}
		return total, nil
	}))
	r.Handle("echo", rpcx.Func(func(_ context.Context, v json.RawMessage) (json.RawMessage, error) { return v, nil }, "v"))
	r.Handle("refuse", rpcx.Func(func() error { return rpcx.Errorf(42, "refused").WithData([]int{1}) }))
	r.Handle("fail", rpcx.Func(func() error { return errors.New("nobody else is to know") }))
	r.Handle("text", rpcx.Func(func(n int) string { return strings.Repeat("x", n) }))
	return r
}

// serverOf returns a server with the handler.
func serverOf(h rpcx.Handler) *rpcx.Server { return &rpcx.Server{Options: rpcx.Options{Handler: h}} }

// blocking has the method "block", whose handlers run until release is closed.
type blocking struct {
	*rpcx.Router
	started atomic.Int64
	release chan struct{}
}

func newBlocking() *blocking {
	b := &blocking{Router: router(), release: make(chan struct{})}
	b.Handle("block", rpcx.Func(func(ctx context.Context) (string, error) {
		b.started.Add(1)
		select {
		case <-b.release:
			return "released", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}))
	return b
}

// notStarted checks that err says that the request was not started, for the reason.
func notStarted(t *testing.T, err error, reason string) {
	t.Helper()
	e, ok := errors.AsType[*rpcx.Error](err)
	var data struct{ Reason string }
	if !ok || !e.NotStarted() || e.DecodeData(&data) != nil || data.Reason != reason {
		t.Errorf("error %v, want not started (%s)", err, reason)
	}
}

// inBubble runs a test with a server of NATS in a bubble.
func inBubble(t *testing.T, test func(t *testing.T, c natsrpcx.Config)) {
	t.Helper()
	bubble(t, func(t *testing.T) { test(t, natsrpcx.Config{Conn: newBus(t).Conn}) })
}

// bubble is synctest.Test. Package nats keeps timers for further use, which must not pass
// from one bubble to another: two collections of garbage empty a sync.Pool.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	emptyPools := func() {
		runtime.GC()
		runtime.GC()
	}
	emptyPools()
	t.Cleanup(emptyPools)
	synctest.Test(t, test)
}

// startWork is work in a bubble, and returns when the worker serves.
func startWork(t *testing.T, srv *rpcx.Server, c natsrpcx.Config) (drain func() error) {
	t.Helper()
	drain = work(t, srv, c)
	synctest.Wait()
	return drain
}

func TestAMethodThatNobodyServes(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		callers := map[string]rpcx.Caller{"gateway": pipeGateway(t, c, rpcx.Options{}, nil), "client": dial(t, c, nil)}
		call := func(method string, check func(err error)) {
			t.Helper()
			for _, caller := range callers {
				check(caller.Call(t.Context(), method, nil, nil))
			}
		}
		noWorker := func(err error) { t.Helper(); notStarted(t, err, "no worker") }
		notFound := func(err error) {
			t.Helper()
			if !errors.Is(err, rpcx.ErrMethodNotFound) || !strings.Contains(err.Error(), `unknown method`) {
				t.Errorf("error %v, want method not found", err)
			}
		}
		call("sum", noWorker) // a worker may have announced the method before
		time.Sleep(5 * time.Second)
		call("sum", notFound)

		drain := startWork(t, serverOf(router()), c)
		time.Sleep(time.Minute)
		call("sum", func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
		call("sum/other", notFound)
		call("SUM", notFound)
		if err := drain(); err != nil {
			t.Error(err)
		}
		for range 5 {
			call("sum", noWorker)
			time.Sleep(5 * time.Second)
		}
		time.Sleep(5*time.Second + time.Millisecond)
		call("sum", notFound)
	})
}

func TestMethodsOfTheRouterChange(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		r := router()
		client := dial(t, c, nil)
		startWork(t, serverOf(r), c)
		r.Handle("new", rpcx.Func(func() string { return "new" }))
		r.Remove("sum")
		sub := rpcx.NewRouter()
		sub.Handle("c.d", rpcx.Func(func() string { return "a/b/c.d" }))
		middle := rpcx.NewRouter()
		if err := errors.Join(middle.Mount("b", sub), r.Mount("a", middle)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		for _, method := range []string{"new", "a/b/c.d", "a.b.c.d"} {
			if v, err := rpcx.Call[string](t.Context(), client, method, nil); err != nil || v == "" {
				t.Errorf("%s: %q, %v", method, v, err)
			}
		}
		notStarted(t, client.Call(t.Context(), "sum", nil, nil), "no worker")
	})
}

func TestAFullWorkerLeavesRequestsToTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		full := newBlocking()
		defer close(full.release)
		c.MaxInFlight = 2
		srv, log := serverOf(full.Router), new(strings.Builder)
		srv.Options.Logger = slog.New(slog.NewTextHandler(log, nil))
		startWork(t, srv, c)
		client := dial(t, c, nil)
		calls := []*rpcx.Future{client.Go(t.Context(), "block", nil), client.Go(t.Context(), "block", nil)}
		synctest.Wait()
		if n := full.started.Load(); n != 2 {
			t.Fatalf("%d handlers have started, want 2", n)
		}
		attempts := countRequests(t, c, "sum")
		notStarted(t, client.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil), "queue")
		if n := attempts(); n != 3 {
			t.Errorf("the request was sent %d times, want 3", n)
		}
		b := new(rpcx.Batch)
		b.Call("sum", rpcx.Args{1}, nil)
		b.Call("sum", rpcx.Args{2}, nil)
		if batch, ok := errors.AsType[*rpcx.BatchError](client.SendBatch(t.Context(), b)); !ok {
			t.Error("a batch to a full worker has no BatchError")
		} else {
			notStarted(t, batch, "queue")
		}
		if err := client.Notify(t.Context(), "sum", nil); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if text := log.String(); strings.Count(text, "the worker was full") != 1 || !strings.Contains(text, "messages=7 limit.name=natsrpcx.Config.MaxInFlight limit.requests=2") {
			t.Errorf("the log has %s", text)
		}

		// Another worker has room. Each call meets the full one three times in a row with a
		// probability of one in eight.
		startWork(t, serverOf(router()), c)
		answered := 0
		for range 100 {
			if err := client.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err == nil {
				answered++
			} else {
				notStarted(t, err, "queue")
			}
		}
		if answered < 60 {
			t.Errorf("%d of 100 calls were answered", answered)
		}
		for _, f := range calls {
			if err := f.Decode(nil); err != rpcx.ErrNotDone {
				t.Errorf("a call has ended: %v", err)
			}
		}
	})
}

// countRequests counts the messages for a method from now on.
func countRequests(t *testing.T, c natsrpcx.Config, method string) (count func() int64) {
	t.Helper()
	n := new(atomic.Int64)
	sub, err := c.Conn.Subscribe("rpc."+method, func(*nats.Msg) { n.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	return func() int64 {
		synctest.Wait()
		sub.Unsubscribe()
		return n.Load()
	}
}

// During a deployment, workers of two versions are in one queue group.
func TestAMethodMeetsOnlyWorkersThatHaveIt(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		version := func(names ...string) *rpcx.Server {
			sub, r := rpcx.NewRouter(), rpcx.NewRouter()
			for _, name := range names {
				sub.Handle(name, rpcx.Func(func() string { return name }))
			}
			if err := r.Mount("db", sub); err != nil {
				t.Fatal(err)
			}
			return serverOf(r)
		}
		client := dial(t, c, nil)
		drain := startWork(t, version("read", "old"), c)
		startWork(t, version("read", "new"), c)
		for range 50 {
			for _, name := range []string{"read", "old", "new"} {
				if got, err := rpcx.Call[string](t.Context(), client, "db/"+name, nil); err != nil || got != name {
					t.Fatalf("%s: %q, %v", name, got, err)
				}
			}
		}
		if err := drain(); err != nil {
			t.Error(err)
		}
		notStarted(t, client.Call(t.Context(), "db/old", nil, nil), "no worker")
		if err := client.Call(t.Context(), "db/read", nil, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestHandlersThatFailAreAnswered(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		r := router()
		r.Handle("panic", rpcx.Func(func() { panic("nobody else is to know") }))
		r.Handle("goexit", rpcx.Func(func() { runtime.Goexit() }))
		r.Handle("close", rpcx.Func(func(s *rpcx.Session) { s.Close() }))
		r.Handle("bye", rpcx.Func(func() error { return rpcx.ReplyAndDisconnect("bye") }))
		r.Handle("callback", rpcx.Func(func(ctx context.Context, s *rpcx.Session) error {
			if err := s.Call(ctx, "name", nil, nil); !errors.Is(err, rpcx.ErrNoCallback) {
				t.Errorf("a call to the client: %v", err)
			}
			return nil
		}))
		drain := startWork(t, serverOf(r), c)
		client, s := dial(t, c, nil), pipeGateway(t, c, rpcx.Options{}, nil)
		for method, want := range map[string]error{
			"panic": rpcx.ErrInternalError, "goexit": rpcx.ErrInternalError, "close": rpcx.ErrInternalError, "bye": nil, "callback": nil, "sum": nil,
		} {
			start := time.Now()
			for _, caller := range []rpcx.Caller{client, s} {
				if err := caller.Call(t.Context(), method, nil, nil); !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", method, err, want)
				}
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("%s: answered after %v", method, took)
			}
		}
		if err := drain(); err != nil {
			t.Error(err)
		}
	})
}

func TestNothingStartedIsSentAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		r := router()
		r.Handle("busy", rpcx.Func(func() error { return rpcx.ServerBusy("later").WithData(json.RawMessage(`{"started":true}`)) }))
		r.Handle("unclear", rpcx.Func(func() error { return rpcx.ServerBusy("later") }))
		// A handler that says so of a further request, for example, does not speak of
		// this one.
		r.Handle("claims", rpcx.Func(func() error {
			return rpcx.ServerBusy("no").WithData(json.RawMessage(`{"started":false,"reason":"queue"}`))
		}))
		startWork(t, serverOf(r), c)
		client := dial(t, c, nil)
		for _, method := range []string{"busy", "unclear", "claims", "refuse", "fail", "sum"} {
			attempts := countRequests(t, c, method)
			_ = client.Call(t.Context(), method, nil, nil)
			if n := attempts(); n != 1 {
				t.Errorf("%s was sent %d times", method, n)
			}
		}
	})
}

func TestDrainingFinishesWhatHasArrived(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		b := newBlocking()
		drain := startWork(t, serverOf(b.Router), c)
		client := dial(t, c, nil)
		var calls []*rpcx.Future
		for range 5 {
			calls = append(calls, client.Go(t.Context(), "block", nil))
		}
		synctest.Wait()
		drained := make(chan error, 1)
		go func() { drained <- drain() }()
		synctest.Wait()
		notStarted(t, client.Call(t.Context(), "sum", nil, nil), "no worker")
		select {
		case err := <-drained:
			t.Fatalf("Serve did not wait for its handlers: %v", err)
		default:
		}
		close(b.release)
		if err := <-drained; err != nil {
			t.Error(err)
		}
		for _, f := range calls {
			if err := f.Wait(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDrainingIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		r := router()
		release := make(chan struct{})
		r.Handle("stubborn", rpcx.Func(func() { <-release }))
		srv := serverOf(r)
		srv.ShutdownTimeout = 3 * time.Second
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- natsrpcx.Serve(ctx, srv, c) }()
		synctest.Wait()
		client := dial(t, c, nil)
		f := client.Go(t.Context(), "stubborn", nil)
		synctest.Wait()
		cancel()
		start := time.Now()
		err := <-done
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "Server.ShutdownTimeout") || time.Since(start) != srv.ShutdownTimeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		if err := f.Decode(nil); err != rpcx.ErrNotDone {
			t.Error(err)
		}
		close(release)
		<-f.Done()
		if err := f.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestAServerThatIsShutDownEndsItsWorker(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		srv := serverOf(router())
		done := make(chan error, 1)
		go func() { done <- natsrpcx.Serve(context.Background(), srv, c) }()
		synctest.Wait()
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		client := dial(t, c, nil)
		err := client.Call(t.Context(), "sum", nil, nil)
		if e, ok := errors.AsType[*rpcx.Error](err); !ok || !e.NotStarted() {
			t.Errorf("error %v, want not started", err)
		}
		if err := <-done; err != rpcx.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestServeEndsWithItsConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bus := newBus(t)
		conn, err := bus.Connect()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- natsrpcx.Serve(t.Context(), serverOf(router()), natsrpcx.Config{Conn: conn}) }()
		synctest.Wait()
		conn.Close()
		if err := <-done; !errors.Is(err, nats.ErrConnectionClosed) {
			t.Error(err)
		}
	})
}

func TestADeadlineTravelsAsTheTimeThatIsLeft(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		r := rpcx.NewRouter()
		ended := make(chan time.Duration, 1)
		r.Handle("wait", rpcx.Func(func(ctx context.Context) error {
			start := time.Now()
			<-ctx.Done()
			ended <- time.Since(start)
			return context.Cause(ctx)
		}))
		startWork(t, serverOf(r), c)
		client := dial(t, c, nil)
		for _, timeout := range []time.Duration{3 * time.Second, time.Minute} {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			err := client.Call(ctx, "wait", nil, nil)
			cancel()
			want := min(timeout, 30*time.Second) // the worker's Limits.ProcessingTimeout
			if got := <-ended; got != want {
				t.Errorf("the handler's context has ended after %v, want %v", got, want)
			}
			if timeout == want && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want DeadlineExceeded", err)
			}
			if e, ok := errors.AsType[*rpcx.Error](err); timeout > want && (!ok || e.Code != rpcx.CodeServerBusy || e.NotStarted()) {
				t.Errorf("error %v, want that of ProcessingTimeout", err)
			}
		}
		s := pipeGateway(t, c, rpcx.Options{Limits: rpcx.Limits{ProcessingTimeout: 2 * time.Second}}, nil)
		err := s.Call(t.Context(), "wait", nil, nil)
		if e, ok := errors.AsType[*rpcx.Error](err); !ok || e.Code != rpcx.CodeServerBusy || e.NotStarted() {
			t.Errorf("error %v, want that of the gateway's ProcessingTimeout", err)
		}
		if got := <-ended; got != 2*time.Second {
			t.Errorf("the handler's context has ended after %v", got)
		}
	})
}

// A worker's machine pauses, and then finds requests whose callers have given up.
func TestWhatArrivesLateIsNotStarted(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		var started atomic.Int64
		r := router()
		r.Handle("count", rpcx.Func(func() int64 { return started.Add(1) }))
		paused := newPausedConn()
		conn, err := nats.Connect("", nats.ReconnectBufSize(-1), nats.InProcessServer(paused.provider(c.Conn.Opts.InProcessServer)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		worker := c
		worker.Conn = conn
		startWork(t, serverOf(r), worker)
		client := dial(t, c, nil)
		if err := client.Call(t.Context(), "count", nil, nil); err != nil {
			t.Fatal(err)
		}
		paused.pause()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := client.Call(ctx, "count", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		long := client.Go(t.Context(), "count", nil) // has 30 s
		time.Sleep(2 * time.Second)
		paused.goOn()
		if n, err := rpcx.Call[int64](t.Context(), client, "count", nil); err != nil || n > 3 {
			t.Errorf("call %d: %v", n, err)
		}
		if err := long.Wait(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if n := started.Load(); n != 3 {
			t.Errorf("%d requests were started, want 3 of 4", n)
		}
	})
}

func TestNotifications(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		got := make(chan string, 10)
		r := router()
		r.Handle("note", rpcx.Func(func(_ context.Context, text string) { got <- text }, "text"))
		startWork(t, serverOf(r), c)
		s, client := pipeGateway(t, c, rpcx.Options{}, nil), dial(t, c, nil)
		b := new(rpcx.Batch)
		b.Notify("note", rpcx.Args{"batch"})
		err := errors.Join(
			s.Notify(t.Context(), "note", rpcx.Args{"gateway"}),
			client.Notify(t.Context(), "note", map[string]string{"text": "client"}),
			client.SendBatch(t.Context(), b),
			client.Notify(t.Context(), "nobody", nil),
		)
		if err != nil {
			t.Fatal(err)
		}
		texts := []string{<-got, <-got, <-got}
		slices.Sort(texts)
		if fmt.Sprint(texts) != "[batch client gateway]" {
			t.Errorf("received %q", texts)
		}
	})
}

func TestMessagesOverMaxPayload(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bus := newBus(t, func(o *server.Options) { o.MaxPayload = 10_000 })
		c := natsrpcx.Config{Conn: bus.Conn}
		startWork(t, serverOf(router()), c)
		s, client := pipeGateway(t, c, rpcx.Options{}, nil), dial(t, c, nil)
		for name, caller := range map[string]rpcx.Caller{"gateway": s, "client": client} {
			for _, n := range []int{9_000, 9_600} {
				if text, err := rpcx.Call[string](t.Context(), caller, "text", rpcx.Args{n}); err != nil || len(text) != n {
					t.Errorf("%s: a reply of %d bytes: %v", name, n, err)
				}
			}
			for _, n := range []int{9_744, 10_000, 1_000_000} {
				err := caller.Call(t.Context(), "text", rpcx.Args{n}, nil)
				if !errors.Is(err, rpcx.ErrInvalidRequest) || !strings.Contains(err.Error(), "response too large (over 9,744 bytes)") {
					t.Errorf("%s: a reply of %d bytes: %v", name, n, err)
				}
			}
		}
		long := rpcx.Args{strings.Repeat("x", 10_000)}
		if err := s.Call(t.Context(), "echo", long, nil); !errors.Is(err, rpcx.ErrInvalidRequest) || !strings.Contains(err.Error(), "request too large (over 10,000 bytes)") {
			t.Errorf("a request over max_payload at a gateway: %v", err)
		}
		err := client.Call(t.Context(), "echo", long, nil)
		size, isSize := errors.AsType[*rpcx.SizeError](err)
		lost, isLost := errors.AsType[*rpcx.ConnectionError](err)
		if !isSize || !isLost || lost.Written || size.Limit != 10_000 || !strings.Contains(err.Error(), "max_payload") {
			t.Errorf("a request over max_payload at a client: %v", err)
		}
		if err := client.Call(t.Context(), "echo", rpcx.Args{"x"}, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestAdmit(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		srv := serverOf(router())
		srv.Options.Gate = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("gate") })
		if err := natsrpcx.Serve(t.Context(), srv, c); err == nil || !strings.Contains(err.Error(), "Config.Admit") {
			t.Errorf("Serve with a Gate: %v", err)
		}
		c.Peer = func(s *rpcx.Session) map[string]string {
			name, _ := s.Value("name").(string)
			return map[string]string{"Name": name}
		}
		worker := c
		worker.Admit = func(m *nats.Msg) error {
			switch m.Header.Get("Name") {
			case "alice":
				return nil
			case "bob":
				return rpcx.Errorf(7, "not bob")
			}
			return errors.New("nobody else is to know")
		}
		startWork(t, srv, worker)
		for name, want := range map[string]int{"alice": 0, "bob": 7, "": -32002} {
			s := pipeGateway(t, c, rpcx.Options{
				Gate: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
					req.Session().SetValue("name", name)
					req.Session().Admit()
					return nil, nil
				}),
			}, nil)
			if err := s.Call(t.Context(), "login", nil, nil); err != nil {
				t.Fatal(err)
			}
			err := s.Call(t.Context(), "sum", nil, nil)
			e, _ := errors.AsType[*rpcx.Error](err)
			if want == 0 && err != nil || want != 0 && (e == nil || e.Code != want || strings.Contains(e.Message, "know")) {
				t.Errorf("%q: %v", name, err)
			}
		}
	})
}

func TestServeRefusesWhatCannotWork(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		handler := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })
		long := rpcx.NewRouter()
		long.Handle(strings.Repeat("é", 43), handler) // 258 bytes, encoded
		fits := rpcx.NewRouter()
		fits.Handle(strings.Repeat("é", 42), handler)
		invalid := serverOf(router())
		invalid.Options.Meta = new(rpcx.Meta)
		with := func(change func(c *natsrpcx.Config)) natsrpcx.Config {
			changed := c
			change(&changed)
			return changed
		}
		withProtocol := func(p rpcx.Protocol) *rpcx.Server {
			srv := serverOf(router())
			srv.Options.Protocol = p
			return srv
		}
		buffering, err := nats.Connect("", nats.InProcessServer(c.Conn.Opts.InProcessServer.(*server.Server)))
		if err != nil {
			t.Fatal(err)
		}
		defer buffering.Close()
		for _, test := range []struct {
			name string
			srv  *rpcx.Server
			c    natsrpcx.Config
			want string
		}{
			{"no connection", serverOf(router()), natsrpcx.Config{}, "Config.Conn is nil"},
			{"a connection with a buffer", serverOf(router()), natsrpcx.Config{Conn: buffering}, "nats.ReconnectBufSize(-1)"},
			{"a handler that is no router", serverOf(handler), c, "set Config.Methods"},
			{"no handler", serverOf(nil), c, "set Config.Methods"},
			{"a method that is too long", serverOf(long), c, "over 255 bytes"},
			{"a protocol without JSON-RPC 2.0", withProtocol(rpcx.JSONRPCv1), c, "JSON-RPC 2.0"},
			{"messages of Bitcoin", withProtocol(rpcx.BitcoinProtocol), c, "JSON-RPC 2.0"},
			{"invalid options", invalid, c, "Options.Meta"},
			{"a wildcard as prefix", serverOf(router()), with(func(c *natsrpcx.Config) { c.Prefix = "a.>" }), "Config.Prefix"},
			{"an empty segment in the prefix", serverOf(router()), with(func(c *natsrpcx.Config) { c.Prefix = "a..b" }), "Config.Prefix"},
			{"a prefix that is too long", serverOf(router()), with(func(c *natsrpcx.Config) { c.Prefix = strings.Repeat("a", 129) }), "Config.Prefix"},
			{"a wildcard as queue", serverOf(router()), with(func(c *natsrpcx.Config) { c.Queue = "*" }), "Config.Queue"},
			{"a negative time", serverOf(router()), with(func(c *natsrpcx.Config) { c.Announce = -1 }), "Config.Announce"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := natsrpcx.Serve(ctx, test.srv, test.c)
			cancel()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %q", test.name, err, test.want)
			}
		}
		startWork(t, serverOf(fits), c)
		startWork(t, withProtocol(rpcx.JSONRPCAutoDetect), c)
		other := with(func(c *natsrpcx.Config) {
			c.Methods = func() iter.Seq[string] { return slices.Values([]string{"any"}) }
		})
		startWork(t, serverOf(handler), other)
		client := dial(t, c, nil)
		for _, method := range []string{"any", strings.Repeat("é", 42)} {
			if err := client.Call(t.Context(), method, nil, nil); err != nil {
				t.Errorf("%s: %v", method, err)
			}
		}
	})
}

// A program that knows nothing of this package can call a worker.
func TestAPlainRequestOfNATS(t *testing.T) {
	inBubble(t, func(t *testing.T, c natsrpcx.Config) {
		startWork(t, serverOf(router()), c)
		for request, want := range map[string]string{
			`{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":"x"}`: `{"jsonrpc":"2.0","result":3,"id":"x"}`,
			`{"jsonrpc":"2.0","method":"sum","params":[1,2]}`:          ``,
			`[`: `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`,
		} {
			reply, err := c.Conn.Request("rpc.sum", []byte(request), time.Minute)
			if err != nil {
				t.Errorf("%s: %v", request, err)
			} else if string(reply.Data) != want {
				t.Errorf("%s: %s, want %s", request, reply.Data, want)
			}
		}
		for _, reply := range []string{"x", "x.rpcx.1.2.3.4", "x.rpcx.1.zzzzzzzzzzzzz.1", "x.rpcx.1.0.0"} {
			sub, err := c.Conn.SubscribeSync(reply)
			if err != nil {
				t.Fatal(err)
			}
			request := &nats.Msg{Subject: "rpc.sum", Reply: reply, Data: []byte(`{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":1}`)}
			if err := c.Conn.PublishMsg(request); err != nil {
				t.Fatal(err)
			}
			if m, err := sub.NextMsg(time.Minute); err != nil || !strings.Contains(string(m.Data), `"result":3`) {
				t.Errorf("with the reply subject %q: %v", reply, err)
			}
			sub.Unsubscribe()
		}
	})
}
