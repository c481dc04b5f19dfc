package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// localCaller is a Caller that runs a handler for each call, on another goroutine.
type localCaller struct {
	handler rpcx.Handler
	running sync.WaitGroup

	mu    sync.Mutex
	calls []string // "method params", with "!" before those of notifications
}

// start runs the handler and completes the call with its outcome.
func (c *localCaller) start(ctx context.Context, call *rpcx.OutgoingCall, complete func(json.RawMessage, error)) {
	params, err := json.Marshal(call.Params)
	if err != nil {
		complete(nil, err)
		return
	}
	text := fmt.Sprintf("%s %s", call.Method, params)
	if call.Notification {
		text = "!" + text
	}
	c.mu.Lock()
	c.calls = append(c.calls, text)
	c.mu.Unlock()
	req := &rpcx.Request{Method: call.Method}
	switch params[0] {
	case '[':
		req.Params.Positional = params
	case '{':
		req.Params.Named = params
	}
	c.running.Go(func() {
		result, err := c.handler.ServeRPC(ctx, req)
		var encoded []byte
		if err == nil {
			encoded, err = json.Marshal(result)
		}
		complete(encoded, err)
	})
}

func (c *localCaller) Go(ctx context.Context, method string, params any) *rpcx.Future {
	f, complete := rpcx.NewFuture()
	c.start(ctx, &rpcx.OutgoingCall{Method: method, Params: params}, complete)
	return f
}

func (c *localCaller) Call(ctx context.Context, method string, params, result any) error {
	return c.Go(ctx, method, params).Wait(ctx, result)
}

func (c *localCaller) Notify(ctx context.Context, method string, params any) error {
	c.start(ctx, &rpcx.OutgoingCall{Method: method, Params: params, Notification: true}, func(json.RawMessage, error) {})
	return nil
}

func (c *localCaller) SendBatch(ctx context.Context, b *rpcx.Batch) error {
	for call, complete := range b.Calls() {
		c.start(ctx, call, complete)
	}
	return b.Wait(ctx)
}

func (c *localCaller) Close() error {
	c.running.Wait()
	return nil
}

// arithmetic is a handler of a few methods.
func arithmetic() rpcx.Handler {
	r := rpcx.NewRouter()
	r.Handle("sum", rpcx.Func(func(_ context.Context, a, b int) (int, error) { return a + b, nil }, "a", "b"))
	r.Handle("math/negate", rpcx.Func(func(_ context.Context, a int) (int, error) { return -a, nil }, "a"))
	r.Handle("fail", rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.Errorf(7, "no") }))
	r.Handle("hang", rpcx.HandlerFunc(hang))
	r.Handle("note", rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil }))
	return r
}

// Call[T], a Proxy and the functions of BindProxy go through a Caller of the test's own.
func TestCallerOfOnesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := &localCaller{handler: arithmetic()}
		defer c.Close()
		if sum, err := rpcx.Call[int](ctx, c, "sum", rpcx.Args{1, 2}); sum != 3 || err != nil {
			t.Errorf("Call: %v, %v", sum, err)
		}
		root := rpcx.Remote(c)
		var negated int
		if err := root.At("math").Call(ctx, &negated, "negate", 5); negated != -5 || err != nil {
			t.Errorf("Proxy.Call: %v, %v", negated, err)
		}
		if err := root.Go(ctx, "sum", rpcx.Named{"a": 3, "b": 4}).Wait(ctx, &negated); negated != 7 || err != nil {
			t.Errorf("Proxy.Go: %v, %v", negated, err)
		}
		if err := root.Notify(ctx, "note", 1); err != nil {
			t.Errorf("Proxy.Notify: %v", err)
		}
		var client struct {
			Sum  func(ctx context.Context, a, b int) (int, error)
			Fail func(context.Context) error
			Math struct {
				Negate func(context.Context, struct {
					A int `json:"a"`
				}) (int, error)
			}
		}
		if err := rpcx.BindProxy(root, &client); err != nil {
			t.Fatal(err)
		}
		if sum, err := client.Sum(ctx, 5, 6); sum != 11 || err != nil {
			t.Errorf("a bound function: %v, %v", sum, err)
		}
		if got, err := client.Math.Negate(ctx, struct {
			A int `json:"a"`
		}{9}); got != -9 || err != nil {
			t.Errorf("a bound function with a struct: %v, %v", got, err)
		}
		matches(t, client.Fail(ctx), rpcx.Errorf(7, ""))
		if root.Session() != nil {
			t.Error("a Proxy without a session has one")
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		want := []string{"sum [1,2]", "math/negate [5]", `sum {"a":3,"b":4}`, "!note [1]", "sum [5,6]", `math/negate {"a":9}`, "fail null"}
		if !slices.Equal(c.calls, want) {
			t.Errorf("the Caller was given\n%q, want\n%q", c.calls, want)
		}
	})
}

// A batch goes through a Caller of the test's own as through a session: destinations are
// filled, and errors are those of a BatchError.
func TestBatchThroughCallerOfOnesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &localCaller{handler: arithmetic()}
		defer c.Close()
		var b rpcx.Batch
		var sum, other int
		first := b.Call("sum", rpcx.Args{1, 2}, &sum)
		b.Notify("note", rpcx.Args{0})
		failing := b.Call("fail", nil, nil)
		cancelled := b.Call("sum", rpcx.Args{0, 0}, nil)
		cancelled.Cancel()
		b.Call("sum", rpcx.Args{3, 4}, &other)
		err := c.SendBatch(t.Context(), &b)
		batchErr, ok := errors.AsType[*rpcx.BatchError](err)
		if !ok || len(batchErr.Errs) != 4 || batchErr.Errs[0] != nil || batchErr.Errs[3] != nil {
			t.Fatalf("the error is %v", err)
		}
		matches(t, batchErr.Errs[1], rpcx.Errorf(7, ""))
		matches(t, batchErr.Errs[2], rpcx.ErrCancelled)
		matches(t, failing.Err(), rpcx.Errorf(7, ""))
		if sum != 3 || other != 7 || first.Err() != nil {
			t.Errorf("the destinations have %d and %d", sum, other)
		}
		if err := c.SendBatch(t.Context(), &b); err != rpcx.ErrBatchSent {
			t.Errorf("sent again: %v", err)
		}
		if err := b.Call("sum", nil, nil).Err(); err != rpcx.ErrBatchSent {
			t.Errorf("a call after the batch was sent: %v", err)
		}
		client, _ := newPipe(t, nil, nil)
		if err := client.SendBatch(t.Context(), &b); err != rpcx.ErrBatchSent {
			t.Errorf("sent again through a session: %v", err)
		}
		if len(c.calls) != 4 {
			t.Errorf("the Caller was given %q", c.calls)
		}
	})
}

// The end of the context gives up what a batch of a Caller's own still waits for.
func TestBatchWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		var b rpcx.Batch
		var sum int
		done := b.Call("sum", nil, &sum)
		open := b.Call("sum", nil, nil)
		var completions []func(json.RawMessage, error)
		for _, complete := range b.Calls() {
			completions = append(completions, complete)
		}
		completions[0](json.RawMessage("3"), nil)
		go func() {
			synctest.Wait()
			cancel(cause)
		}()
		err := b.Wait(ctx)
		matches(t, err, cause)
		if sum != 3 || done.Err() != nil || open.Err() != cause {
			t.Errorf("sum %d, errors %v and %v", sum, done.Err(), open.Err())
		}
		completions[1](json.RawMessage("4"), nil)
		if open.Err() != cause {
			t.Errorf("a late completion has changed the error to %v", open.Err())
		}
	})
}

// Batch.Calls gives the members in order, and marks the batch as sent when the loop starts.
func TestBatchCalls(t *testing.T) {
	ctx := context.Background()
	t.Run("members", func(t *testing.T) {
		var b rpcx.Batch
		b.Call("a", rpcx.Args{1}, nil)
		b.Notify("n", nil)
		b.Call("dropped", nil, nil).Cancel()
		late := b.Call("late", nil, nil)
		b.Call("z", nil, nil)
		var got []string
		for call, complete := range b.Calls() {
			got = append(got, fmt.Sprintln(call.Method, call.Params, call.Notification, call.Batch == &b, call.Session == nil, call.Attempt))
			late.Cancel() // after the start of the loop
			complete(nil, nil)
			complete(nil, errors.New("a second outcome"))
		}
		want := []string{"a [1] false true true 1\n", "n <nil> true true true 1\n", "z <nil> false true true 1\n"}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%q, want\n%q", got, want)
		}
		e, ok := errors.AsType[*rpcx.BatchError](b.Wait(ctx))
		if !ok || !slices.Equal(e.Errs, []error{nil, rpcx.ErrCancelled, rpcx.ErrCancelled, nil}) {
			t.Errorf("the error is %v", e)
		}
	})
	t.Run("an empty batch stays unsent", func(t *testing.T) {
		var b rpcx.Batch
		for range b.Calls() {
			t.Error("an empty batch has a member")
		}
		if err := b.Wait(ctx); err != nil {
			t.Error(err)
		}
		if f := b.Call("a", nil, nil); f.Err() != nil {
			t.Errorf("the batch was marked as sent: %v", f.Err())
		}
	})
	t.Run("Calls alone sends nothing", func(t *testing.T) {
		var b rpcx.Batch
		f := b.Call("a", nil, nil)
		calls := b.Calls()
		if err := b.Wait(ctx); err == nil || !strings.Contains(err.Error(), "was not sent") {
			t.Errorf("the error of an unsent batch is %v", err)
		}
		for range 2 { // the second loop has nothing
			for _, complete := range calls {
				complete(json.RawMessage("1"), nil)
			}
		}
		var n int
		if err := f.Wait(ctx, &n); n != 1 || err != nil {
			t.Errorf("the result is %d, %v", n, err)
		}
		if err := b.Wait(ctx); err != rpcx.ErrBatchSent {
			t.Errorf("after a second loop: %v", err)
		}
	})
	t.Run("a loop that ends early", func(t *testing.T) {
		var b rpcx.Batch
		first, second := b.Call("a", nil, nil), b.Call("b", nil, nil)
		for _, complete := range b.Calls() {
			complete(nil, nil)
			break
		}
		if first.Err() != nil || second.Err() != rpcx.ErrCancelled {
			t.Errorf("the errors are %v and %v", first.Err(), second.Err())
		}
	})
	t.Run("only notifications", func(t *testing.T) {
		var b rpcx.Batch
		b.Notify("n", nil)
		for _, complete := range b.Calls() {
			complete(nil, errors.New("ignored"))
		}
		if err := b.Wait(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("after a session has sent the batch", func(t *testing.T) {
		client, _ := newPipe(t, nil, handling(arithmetic()))
		var b rpcx.Batch
		var sum int
		b.Call("sum", rpcx.Args{1, 1}, &sum)
		f := client.GoBatch(ctx, &b)
		if err := b.Wait(ctx); err != nil || sum != 2 {
			t.Errorf("Wait: %d, %v", sum, err)
		}
		if err := f.Wait(ctx, nil); err != nil {
			t.Error(err)
		}
	})
}

// A batch of a session is given up, too, when the context of Batch.Wait ends.
func TestBatchWaitGivesUpSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Cancellation: rpcx.LSPCancellation})
		var b rpcx.Batch
		open := b.Call("a", nil, nil)
		whole := s.GoBatch(t.Context(), &b)
		w.expect(`[{"jsonrpc":"2.0","method":"a","id":0}]`)
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("enough")
		cancel(cause)
		matches(t, b.Wait(ctx), cause)
		w.expect(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":0}}`)
		if open.Err() != cause || !isDone(whole) {
			t.Errorf("the call has the error %v", open.Err())
		}
	})
}

// The methods of a future without a session.
func TestNewFuture(t *testing.T) {
	ctx := context.Background()
	failure := errors.New("failed")
	t.Run("a result", func(t *testing.T) {
		f, complete := rpcx.NewFuture()
		if err := f.Decode(nil); err != rpcx.ErrNotDone || f.Err() != nil {
			t.Errorf("before the outcome: %v, %v", err, f.Err())
		}
		complete(json.RawMessage("[1,2]"), nil)
		complete(json.RawMessage("[3]"), nil)
		complete(nil, failure)
		f.Cancel()
		<-f.Done()
		var got []int
		if err := f.Wait(ctx, &got); err != nil || !slices.Equal(got, []int{1, 2}) || f.Err() != nil {
			t.Errorf("the result is %v, %v, %v", got, err, f.Err())
		}
		var text string
		if err := f.Decode(&text); err == nil || !strings.HasPrefix(err.Error(), "decode the result: ") {
			t.Errorf("decoding into another type: %v", err)
		}
		if err := f.Decode(text); err == nil || !strings.Contains(err.Error(), "pass a pointer") {
			t.Errorf("decoding into no pointer: %v", err)
		}
	})
	t.Run("no result is null", func(t *testing.T) {
		f, complete := rpcx.NewFuture()
		complete(nil, nil)
		got := new(int)
		if err := f.Wait(ctx, &got); err != nil || got != nil {
			t.Errorf("the result is %v, %v", got, err)
		}
	})
	t.Run("an error", func(t *testing.T) {
		f, complete := rpcx.NewFuture()
		complete(json.RawMessage("1"), failure)
		complete(json.RawMessage("1"), nil)
		var n int
		if err := f.Wait(ctx, &n); err != failure || f.Err() != failure || f.Decode(&n) != failure || n != 0 {
			t.Errorf("the outcome is %d, %v", n, err)
		}
	})
	t.Run("Cancel", func(t *testing.T) {
		f, complete := rpcx.NewFuture()
		f.Cancel()
		complete(json.RawMessage("1"), nil)
		<-f.Done()
		matches(t, f.Wait(ctx, nil), rpcx.ErrCancelled, context.Canceled)
		if f.Err() != rpcx.ErrCancelled || f.Decode(nil) != rpcx.ErrCancelled {
			t.Errorf("the error is %v", f.Err())
		}
	})
	t.Run("OnDone and Done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, complete := rpcx.NewFuture()
			calls := make(chan *rpcx.Future, 3)
			f.OnDone(func(f *rpcx.Future) { calls <- f })
			if isDone(f) || len(calls) > 0 {
				t.Error("the future has finished before its outcome")
			}
			complete(nil, nil)
			complete(nil, nil)
			f.OnDone(func(f *rpcx.Future) { calls <- f })
			synctest.Wait()
			if len(calls) != 2 || <-calls != f || !isDone(f) {
				t.Errorf("%d calls of OnDone's functions", len(calls))
			}
		})
	})
	t.Run("the context of Wait", func(t *testing.T) {
		f, complete := rpcx.NewFuture()
		ended, cancel := context.WithCancelCause(ctx)
		cancel(failure)
		if err := f.Wait(ended, nil); err != failure || f.Err() != nil {
			t.Errorf("Wait: %v; Err: %v", err, f.Err())
		}
		complete(nil, nil)
		if err := f.Wait(ctx, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("outcomes at the same time", func(t *testing.T) {
		for range 100 {
			f, complete := rpcx.NewFuture()
			var all sync.WaitGroup
			all.Go(func() { complete(json.RawMessage("1"), nil) })
			all.Go(func() { complete(nil, failure) })
			all.Go(f.Cancel)
			n := 0
			err := f.Wait(ctx, &n)
			all.Wait()
			if (err == nil) != (n == 1) || f.Err() != err {
				t.Fatalf("a mixed outcome: %d, %v, %v", n, err, f.Err())
			}
		}
	})
}

// uncomparable is a Caller that Go cannot compare.
type uncomparable struct {
	rpcx.Caller
	_ []int
}

// callerWithAddr is a Caller with an address.
type callerWithAddr struct{ rpcx.Caller }

func (callerWithAddr) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5} }

// embedder is a decorator that embeds its session.
type embedder struct{ *rpcx.Session }

func TestProxyOfCaller(t *testing.T) {
	a, b := newPipe(t, nil, nil)
	c := &localCaller{}
	odd := rpcx.Remote(uncomparable{Caller: c})
	for _, test := range []struct {
		sentence string
		p, q     *rpcx.Proxy
		equal    bool
	}{
		{"the same session", a.Remote(), rpcx.Remote(a), true},
		{"two sessions", a.Remote(), b.Remote(), false},
		{"two paths", a.Remote(), a.Remote().At("x"), false},
		{"the same caller", rpcx.Remote(c), rpcx.Remote(c), true},
		{"two callers", rpcx.Remote(c), rpcx.Remote(&localCaller{}), false},
		{"a session and a decorator", a.Remote(), rpcx.Remote(embedder{a}), false},
		{"equal decorators", rpcx.Remote(embedder{a}), rpcx.Remote(embedder{a}), true},
		{"an uncomparable caller and itself", odd, odd, true},
		{"two uncomparable callers", odd, rpcx.Remote(uncomparable{Caller: c}), false},
		{"an uncomparable caller and a session", odd, a.Remote(), false},
		{"a session and an uncomparable caller", a.Remote(), odd, false},
		{"zero proxies", new(rpcx.Proxy), new(rpcx.Proxy), true},
		{"nil and zero", nil, new(rpcx.Proxy), false},
	} {
		if got := test.p.Equal(test.q); got != test.equal {
			t.Errorf("%s: Equal is %v", test.sentence, got)
		}
	}
	if rpcx.Remote(c).At("x") == nil || *rpcx.Remote(c).At("x") != *rpcx.Remote(c).At("x") {
		t.Error("values of proxies of one caller differ")
	}
	for want, p := range map[string]*rpcx.Proxy{
		`Proxy(?, "x")`:           rpcx.Remote(c).At("x"),
		`Proxy(192.0.2.1:5, "x")`: rpcx.Remote(callerWithAddr{c}).At("x"),
		"Proxy(none)":             {},
	} {
		if got := fmt.Sprint(p); got != want {
			t.Errorf("the text is %s, want %s", got, want)
		}
	}
	if a.Remote().Session() != a || odd.Session() != nil || rpcx.Remote(embedder{a}).Session() != nil {
		t.Error("wrong sessions")
	}
	if _, err := json.Marshal(rpcx.Remote(c)); err == nil {
		t.Error("a proxy was encoded")
	}
	panicsWith(t, "rpcx: Remote with a nil caller: check the error of what returned it", func() { rpcx.Remote(nil) })
	panicsWith(t, "rpcx: Remote with a nil caller: check the error of what returned it", func() { rpcx.Remote((*rpcx.Session)(nil)) })
}

// A struct that embeds a session sends the objects of the session, also as the only
// argument of a bound function.
func TestBindProxyThroughEmbeddedSession(t *testing.T) {
	options := func() *rpcx.Options {
		return &rpcx.Options{Objects: true, Types: []rpcx.Type{rpcx.NewType(
			func(s search) (string, error) { return s.Text, nil },
			func(text string) (search, error) { return search{Text: text}, nil })}}
	}
	server := options()
	var got string
	server.Handler = methods{"find": func(_ context.Context, req *rpcx.Request) (any, error) {
		got = string(req.Params.Positional)
		return nil, nil
	}}
	client, _ := newPipe(t, options(), server)
	for _, c := range []rpcx.Caller{client, embedder{client}} {
		var bound struct {
			Find func(context.Context, search) error
		}
		if err := rpcx.BindProxy(rpcx.Remote(c), &bound); err != nil {
			t.Fatal(err)
		}
		if err := bound.Find(t.Context(), search{Text: "x"}); err != nil || !strings.Contains(got, "__type__") {
			t.Errorf("%T: the params are %s, error %v", c, got, err)
		}
	}
}
