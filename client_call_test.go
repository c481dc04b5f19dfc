package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// reply answers a request of w's session, whose line is given.
func (w *wire) reply(line, outcome string) {
	w.t.Helper()
	w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, idOf(w.t, line), outcome))
}

// down takes the client's session away, and keeps it away.
func (l *lines) downFrom(n int) {
	l.t.Helper()
	w := l.wire(n)
	l.set(false, errors.New("down"))
	w.Close()
	synctest.Wait()
}

// A call that has failed as unwritten is not written afterwards: Close of a session writes what
// is queued, for a second.
func TestClientWaitsForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lines{t: t, deaf: true}
		c, _ := newClient(t, rpcx.ClientOptions{Connect: l.connect})
		s, err := c.Session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f := c.Go(t.Context(), "m", nil)
		if err := c.Notify(t.Context(), "n", nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		l.set(false, nil)
		s.Close()
		l.wire(2).expectNothing()
		if isDone(f) {
			t.Errorf("%v, while the message may be written", f.Err())
		}
		l.wire(1).listen()
		l.wire(1).expect(`{"jsonrpc":"2.0","method":"m","id":0}`, `{"jsonrpc":"2.0","method":"n"}`)
		var lost *rpcx.ConnectionError
		if err := f.Wait(t.Context(), nil); !errors.As(err, &lost) || !lost.Written {
			t.Error(err)
		}
		l.wire(2).expectNothing()
		l.wire(1).Close()
		l.wire(2).Close()
	})
}

// A future can be cancelled in every phase, and its context ends it.
func TestClientFutureIsGivenUp(t *testing.T) {
	for _, phase := range []struct {
		name  string
		opts  rpcx.ClientOptions
		reach func(t *testing.T, c *rpcx.Client, l *lines, send func() *rpcx.Future) *rpcx.Future
	}{
		{"pending", rpcx.ClientOptions{}, func(t *testing.T, c *rpcx.Client, l *lines, send func() *rpcx.Future) *rpcx.Future {
			f := send()
			l.wire(1).heard()
			return f
		}},
		{"waiting for a session", rpcx.ClientOptions{}, func(t *testing.T, c *rpcx.Client, l *lines, send func() *rpcx.Future) *rpcx.Future {
			l.downFrom(1)
			return send()
		}},
		{"held", rpcx.ClientOptions{MinBackoff: time.Hour, MaxBackoff: time.Hour}, func(t *testing.T, c *rpcx.Client, l *lines, send func() *rpcx.Future) *rpcx.Future {
			f := send()
			w := l.wire(1)
			w.reply(w.heard()[0], isNotStarted)
			return f
		}},
		{"waiting for a slot", rpcx.ClientOptions{Options: rpcx.Options{Limits: rpcx.Limits{Outgoing: 1}}}, func(t *testing.T, c *rpcx.Client, l *lines, send func() *rpcx.Future) *rpcx.Future {
			l.downFrom(1)
			c.Go(t.Context(), "first", nil)
			f := send()
			l.set(false, nil)
			if lines := l.wire(2).heard(); len(lines) != 1 || !strings.Contains(lines[0], "first") {
				t.Fatalf("%q", lines)
			}
			return f
		}},
	} {
		for _, end := range []struct {
			name string
			end  func(f *rpcx.Future, cancel context.CancelCauseFunc)
			want error
		}{
			{"by Cancel", func(f *rpcx.Future, _ context.CancelCauseFunc) { f.Cancel() }, rpcx.ErrCancelled},
			{"by its context", func(_ *rpcx.Future, cancel context.CancelCauseFunc) { cancel(errTableContext) }, errTableContext},
			{"by Limits.RequestTimeout", func(*rpcx.Future, context.CancelCauseFunc) { time.Sleep(time.Minute) }, rpcx.ErrTimeout},
		} {
			t.Run(phase.name+"/"+end.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, l := newClient(t, phase.opts)
					l.wire(1)
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					f := phase.reach(t, c, l, func() *rpcx.Future { return c.Go(ctx, "m", nil) })
					synctest.Wait()
					if isDone(f) {
						t.Fatal(f.Err())
					}
					called := make(chan struct{})
					f.OnDone(func(*rpcx.Future) { close(called) })
					end.end(f, cancel)
					if synctest.Wait(); !isDone(f) || !errors.Is(f.Err(), end.want) {
						t.Errorf("the future has ended with %v, want %v", f.Err(), end.want)
					}
					<-called
				})
			})
		}
	}
}

// Params may change as soon as Go has returned, and a struct is encoded as before.
func TestClientKeepsParams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{})
		l.downFrom(1)
		args := rpcx.Args{"a", map[string]any{"k": []int{1}}}
		f := c.Go(t.Context(), "m", args)
		named := struct{ A string }{"b"}
		g := c.Go(t.Context(), "m", &named)
		args[0], named.A = "changed", "changed"
		if err := c.Go(t.Context(), "m", rpcx.Args{make(chan int)}).Err(); err == nil {
			t.Error("a channel was encoded")
		}
		l.set(false, nil)
		w := l.wire(2)
		w.expect(`{"jsonrpc":"2.0","method":"m","id":0,"params":["a",{"k":[1]}]}`, `{"jsonrpc":"2.0","method":"m","id":1,"params":{"A":"b"}}`)
		w.say(`{"jsonrpc":"2.0","id":0,"result":1}`, `{"jsonrpc":"2.0","id":1,"result":2}`)
		if err := errors.Join(f.Wait(t.Context(), nil), g.Wait(t.Context(), nil)); err != nil {
			t.Error(err)
		}
	})
}

// Services are passed by calls that wait, too.
func TestClientKeepsParamsWithObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		router, service := rpcx.NewRouter(), rpcx.NewRouter()
		service.Handle("name", rpcx.Func(func() string { return "service" }))
		router.Mount("service", service)
		var peers []*rpcx.Session
		var up atomic.Bool
		c, _ := newClient(t, rpcx.ClientOptions{
			Options: rpcx.Options{Handler: router, Objects: true},
			Connect: func(_ context.Context, _ string, opts *rpcx.Options) (*rpcx.Session, error) {
				if !up.Load() {
					return nil, errors.New("down")
				}
				near, far := net.Pipe()
				s := rpcx.NewSession(near, opts)
				peers = append(peers, rpcx.NewSession(far, &rpcx.Options{Objects: true, Handler: methods{
					"take": rpcx.Func(func(ctx context.Context, p *rpcx.Proxy) (name string, err error) {
						err = p.Call(ctx, &name, "name")
						return name, err
					}).ServeRPC,
				}}))
				return s, nil
			},
		})
		f := c.Go(t.Context(), "take", rpcx.Args{service})
		synctest.Wait()
		up.Store(true)
		var name string
		if err := f.Wait(t.Context(), &name); err != nil || name != "service" {
			t.Errorf("%q, %v", name, err)
		}
		for _, p := range peers {
			p.Close()
		}
	})
}

// A batch's members have their own outcomes, and only some are sent again.
func TestClientBatchInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []string
		note := func(text string) { attempts = append(attempts, text) }
		c, l := newClient(t, rpcx.ClientOptions{
			Idempotent: func(method string) bool { return method == "get" },
			Options: rpcx.Options{
				OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
					func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
						method, attempt := call.Method, call.Attempt
						call.Method += "!" // to be sent
						return ctx, func(err error) { note(fmt.Sprintf("%s %d: %v", method, attempt, err != nil)) }, nil
					},
				},
				OnBatchCall: []func(context.Context, *rpcx.Session, *rpcx.Batch) (context.Context, func(error)){
					func(ctx context.Context, _ *rpcx.Session, b *rpcx.Batch) (context.Context, func(error)) {
						n := b.Len()
						return ctx, func(err error) { note(fmt.Sprintf("batch of %d: %v", n, err != nil)) }
					},
				},
			},
		})
		var b rpcx.Batch
		var refused, got, set string
		b.Call("refused", nil, &refused)
		b.Call("get", nil, &got)
		b.Call("set", nil, &set)
		failed := b.Call("fails", nil, nil)
		b.Notify("note", nil)
		sent := started(func() error { return c.SendBatch(t.Context(), &b) })
		w := l.wire(1)
		w.expect(`[{"jsonrpc":"2.0","method":"refused!","id":0}, {"jsonrpc":"2.0","method":"get!","id":1}, {"jsonrpc":"2.0","method":"set!","id":2}, {"jsonrpc":"2.0","method":"fails!","id":3}, {"jsonrpc":"2.0","method":"note!"}]`)
		w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":0,%s}`, isNotStarted), fmt.Sprintf(`{"jsonrpc":"2.0","id":3,%s}`, isFailed))
		synctest.Wait()
		w.Close()
		w = l.wire(2)
		w.expect(`[{"jsonrpc":"2.0","method":"refused!","id":0}, {"jsonrpc":"2.0","method":"get!","id":1}]`)
		w.say(`[{"jsonrpc":"2.0","id":1,"result":"b"}, {"jsonrpc":"2.0","id":0,"result":"a"}]`)
		err := sent()
		var failure *rpcx.BatchError
		var lost *rpcx.ConnectionError
		if !errors.As(err, &failure) || len(failure.Errs) != 4 || failure.Errs[0] != nil || failure.Errs[1] != nil ||
			!errors.As(failure.Errs[2], &lost) || !lost.Written || failed.Err() != failure.Errs[3] {
			t.Errorf("%v", err)
		}
		if refused != "a" || got != "b" {
			t.Errorf("%q, %q", refused, got)
		}
		want := []string{
			"note 1: false", "refused 1: true", "get 1: true", "set 1: true", "fails 1: true", "batch of 5: true",
			"refused 2: false", "get 2: false", "batch of 2: false",
		}
		slices.Sort(want[:5])
		slices.Sort(attempts[:5])
		if !slices.Equal(attempts, want) {
			t.Errorf("the hooks were told %q, want %q", attempts, want)
		}
	})
}

// Options.OnCall sees each attempt of a call and of a future, and an error of a hook does not
// look like the end of the session.
func TestClientHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen []string
		fails := error(nil)
		c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{
			OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
				func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
					mu.Lock()
					defer mu.Unlock()
					name := fmt.Sprintf("%s %d", call.Method, call.Attempt)
					seen = append(seen, name)
					return ctx, func(err error) {
						mu.Lock()
						defer mu.Unlock()
						seen = append(seen, fmt.Sprintf("%s: %v", name, err != nil))
					}, fails
				},
			},
		}})
		w := l.wire(1)
		f := c.Go(t.Context(), "go", nil)
		w.reply(w.heard()[0], isNotStarted)
		time.Sleep(time.Second)
		w.reply(w.heard()[0], isAnswered)
		if err := f.Wait(t.Context(), nil); err != nil {
			t.Error(err)
		}
		call := started(func() error { return c.Call(t.Context(), "call", nil, nil) })
		w.reply(w.heard()[0], isNotStarted)
		time.Sleep(time.Second)
		w.reply(w.heard()[0], isAnswered)
		if err := call(); err != nil {
			t.Error(err)
		}
		want := []string{"go 1", "go 1: true", "go 2", "go 2: false", "call 1", "call 1: true", "call 2", "call 2: false"}
		if !slices.Equal(seen, want) {
			t.Errorf("the hooks were told %q, want %q", seen, want)
		}
		for _, fails = range []error{rpcx.ErrClosed, &rpcx.ConnectionError{}, &rpcx.ConnectionError{Written: true}} {
			if err := c.Call(t.Context(), "m", nil, nil); err != fails {
				t.Error(err)
			}
			if err := c.Go(t.Context(), "m", nil).Err(); err != fails {
				t.Error(err)
			}
			if err := c.Notify(t.Context(), "m", nil); err != fails {
				t.Error(err)
			}
		}
		if l.attempts() != 1 {
			t.Error("the session was lost")
		}
	})
}

// For a call of Go that waits for a session, the functions of OnCall run on a goroutine of
// the client, with the encoded params and the values of the caller's context, already at the
// first attempt. For a call that waits in Call they run on the caller's goroutine.
func TestClientHooksOfACallThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		type attempt struct {
			goroutine string
			params    reflect.Type
			number    int
			value     any
		}
		attempts := make(map[string]attempt)
		open := make(chan struct{})
		var l *lines
		c, l := newClient(t, rpcx.ClientOptions{
			Connect: func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
				<-open
				return l.connect(ctx, addr, opts)
			},
			Options: rpcx.Options{OnCall: []onCall{
				func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
					attempts[c.Method] = attempt{goroutine(), reflect.TypeOf(c.Params), c.Attempt, ctx.Value(key{})}
					return ctx, nil, nil
				},
			}},
		})
		ctx := context.WithValue(t.Context(), key{}, "of the caller")
		params := []int{1}
		f := c.Go(ctx, "go", params)
		params[0] = 2 // the caller may change the params after Go
		caller := ""
		call := started(func() error {
			caller = goroutine()
			return c.Call(ctx, "call", params, nil)
		})
		synctest.Wait()
		if len(attempts) > 0 {
			t.Errorf("without a session, the functions have seen %+v", attempts)
		}
		close(open)
		w := l.wire(1)
		w.expect(`{"jsonrpc":"2.0","method":"go","id":0,"params":[1]}`, `{"jsonrpc":"2.0","method":"call","id":1,"params":[2]}`)
		w.say(answered("1", 0), answered("1", 1))
		if err := errors.Join(f.Wait(ctx, nil), call()); err != nil {
			t.Error(err)
		}
		if a := attempts["go"]; a.goroutine == goroutine() || a.params != reflect.TypeFor[json.RawMessage]() || a.number != 1 || a.value != "of the caller" {
			t.Errorf("for Go, the functions have seen %+v", a)
		}
		if a := attempts["call"]; a.goroutine != caller || a.params != reflect.TypeFor[[]int]() || a.number != 1 || a.value != "of the caller" {
			t.Errorf("for Call on goroutine %s, the functions have seen %+v", caller, a)
		}
	})
}

// More calls than MaxWaiting fail at once, and so do all with FailFast; a lost call says why.
func TestClientWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{MaxWaiting: 3})
		l.downFrom(1)
		futures := []*rpcx.Future{c.Go(t.Context(), "m", nil), c.Go(t.Context(), "m", nil)}
		call := started(func() error { return c.Call(t.Context(), "m", nil, nil) })
		synctest.Wait()
		err := c.Call(t.Context(), "m", nil, nil)
		if matches(t, err, rpcx.ErrNotConnected); !strings.Contains(err.Error(), "over 3 calls waiting (ClientOptions.MaxWaiting): EOF") {
			t.Error(err)
		}
		matches(t, c.Go(t.Context(), "m", nil).Err(), rpcx.ErrNotConnected)
		futures[0].Cancel() // makes room
		futures = append(futures, c.Go(t.Context(), "m", nil))
		matches(t, c.Go(t.Context(), "m", nil).Err(), rpcx.ErrNotConnected)
		l.set(false, nil)
		w := l.wire(2)
		for _, line := range w.heard() {
			w.reply(line, isAnswered)
		}
		if err := errors.Join(call(), futures[1].Wait(t.Context(), nil), futures[2].Wait(t.Context(), nil)); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{FailFast: true})
		l.set(true, nil)
		l.wire(1).Close()
		l.wire(2)
		synctest.Wait()
		f := c.Go(t.Context(), "m", nil)
		synctest.Wait()
		l.downFrom(2)
		var lost *rpcx.ConnectionError
		if err := f.Err(); !errors.As(err, &lost) || lost.Written || !errors.Is(err, rpcx.ErrNotConnected) {
			t.Error(err)
		}
		if _, err := c.Session(t.Context()); !errors.Is(err, rpcx.ErrNotConnected) {
			t.Error(err)
		}
	})
}

// Thousands of calls wait for few slots and come through, each once.
func TestClientSendsManyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{MaxWaiting: -1, Options: rpcx.Options{Limits: rpcx.Limits{Outgoing: 10}}})
		l.downFrom(1)
		const n = 3000
		var done sync.WaitGroup
		counts := make([]int, n)
		for i := range n {
			done.Go(func() {
				var err error
				if i%2 == 0 {
					err = c.Call(t.Context(), "m", rpcx.Args{i}, nil)
				} else {
					err = c.Go(t.Context(), "m", rpcx.Args{i}).Wait(t.Context(), nil)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		l.set(false, nil)
		w := l.wire(2)
		for sent := 0; sent < n; {
			for _, line := range w.heard() {
				var request struct{ Params []int }
				if err := json.Unmarshal([]byte(line), &request); err != nil {
					t.Fatal(err)
				}
				counts[request.Params[0]]++
				sent++
				w.reply(line, isAnswered)
			}
		}
		done.Wait()
		for i, count := range counts {
			if count != 1 {
				t.Errorf("call %d was answered %d times", i, count)
			}
		}
	})
}

// A handler of the session may call its peer through the client, also while others wait.
func TestClientIsCalledByAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *rpcx.Client
		made := make(chan struct{})
		c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{
			Limits: rpcx.Limits{Outgoing: 1},
			Handler: methods{"back": func(ctx context.Context, _ *rpcx.Request) (any, error) {
				<-made
				return nil, c.Call(ctx, "inner", nil, nil)
			}},
		}})
		close(made)
		l.downFrom(1)
		for range 3 {
			c.Go(t.Context(), "outer", nil)
		}
		l.set(false, nil)
		w := l.wire(2)
		w.expect(`{"jsonrpc":"2.0","method":"outer","id":0}`)
		w.say(`{"jsonrpc":"2.0","method":"back","id":"x"}`)
		if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], "inner") {
			t.Fatalf("heard %q", lines)
		}
	})
}
