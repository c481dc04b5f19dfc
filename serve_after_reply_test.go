package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// news returns a function for AfterReply that sends a notification with name and the kind
// of its error.
func news(s *rpcx.Session, name string) func(error) {
	return func(err error) { s.TryNotify("news", rpcx.Args{name, errorKind(err)}) }
}

// errorKind names the reason in the error of a function of AfterReply.
func errorKind(err error) string {
	_, cost := errors.AsType[*rpcx.CostError](err)
	switch {
	case err == nil:
		return "sent"
	case !errors.Is(err, rpcx.ErrNoReply):
		return "wrong: " + err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, rpcx.ErrPeerCancelled):
		return "cancelled"
	case errors.Is(err, rpcx.ErrClosed):
		return "closed"
	case cost:
		return "cost"
	}
	return err.Error()
}

// afterReply returns a handler that registers news for each name, and then calls h.
func afterReply(h rpcx.HandlerFunc, names ...string) rpcx.HandlerFunc {
	return func(ctx context.Context, req *rpcx.Request) (any, error) {
		for _, name := range names {
			rpcx.AfterReply(ctx, news(req.Session(), name))
		}
		return h(ctx, req)
	}
}

func newsLine(name, kind string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"news","params":["%s","%s"]}`, name, kind)
}

const internalErrorText = `"error":{"code":-32603,"message":"internal server error"}`

// TestAfterReplyOrder checks what leaves after a reply, for each way in which a handler
// ends.
func TestAfterReplyOrder(t *testing.T) {
	fail := func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.Errorf(7, "no") }
	long := func(context.Context, *rpcx.Request) (any, error) { return make([]int, 1000), nil }
	for name, c := range map[string]struct {
		handler  rpcx.HandlerFunc
		response string
	}{
		"a result":   {reply, `"result":null`},
		"an error":   {fail, `"error":{"code":7,"message":"no"}`},
		"a panic":    {func(context.Context, *rpcx.Request) (any, error) { panic("bad") }, internalErrorText},
		"Goexit":     {func(context.Context, *rpcx.Request) (any, error) { runtime.Goexit(); return nil, nil }, internalErrorText},
		"no JSON":    {func(context.Context, *rpcx.Request) (any, error) { return func() {}, nil }, internalErrorText},
		"too large":  {long, `"error":{"code":-32600,"message":"response too large (over 1,000 bytes)"}`},
		"Disconnect": {func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }, `"result":"bye"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"m": afterReply(c.handler, "first", "second")})
				opts.Limits.Response = 1000
				_, w := newWire(t, opts)
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				w.expect(`{"jsonrpc":"2.0",`+c.response+`,"id":1}`, newsLine("first", "sent"), newsLine("second", "sent"))
				if hungUp := w.hungUp(); hungUp != (name == "Disconnect") {
					t.Errorf("hung up: %v", hungUp)
				}
			})
		})
	}
}

// TestAfterReplyWithoutReply checks the errors when the handler's reply is not sent.
func TestAfterReplyWithoutReply(t *testing.T) {
	t.Run("a notification", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, w := newWire(t, handling(methods{"m": afterReply(reply, "n")}))
			w.say(`{"jsonrpc":"2.0","method":"m"}`)
			w.expect(newsLine("n", "rpcx: no reply: a notification is not answered"))
		})
	})
	t.Run("a timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, w := newWire(t, handling(methods{"m": afterReply(hang, "n")}))
			w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
			time.Sleep(31 * time.Second)
			lines := w.heard()
			slices.Sort(lines) // two goroutines
			want := []string{`{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out","data":{"started":true,"reason":"timeout"}},"id":1}`,
				newsLine("n", "timeout")}
			if !slices.Equal(lines, want) {
				t.Errorf("heard %q, want %q", lines, want)
			}
		})
	})
	t.Run("a timeout, and a handler that does not notice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := make(gate)
			_, w := newWire(t, handling(methods{"m": afterReply(g.ServeRPC, "n")}))
			w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
			time.Sleep(31 * time.Second)
			if lines := w.heard(); len(lines) != 1 {
				t.Errorf("before the handler has returned: %q", lines)
			}
			close(g)
			w.expect(newsLine("n", "timeout"))
		})
	})
	for name, c := range map[string]struct {
		cancellation *rpcx.Cancellation
		handler      rpcx.HandlerFunc
		report       string
		want         []string
	}{
		"a cancellation": {rpcx.LSPCancellation, hang, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`,
			[]string{`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}`, newsLine("n", "cancelled")}},
		"a cancellation without a reply": {rpcx.MCPCancellation, hang, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
			[]string{newsLine("n", "cancelled")}},
		"a cancelled request with a result": {rpcx.LSPCancellation, func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			return "all the same", nil
		}, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`,
			[]string{`{"jsonrpc":"2.0","result":"all the same","id":1}`, newsLine("n", "sent")}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"m": afterReply(c.handler, "n")})
				opts.Cancellation = c.cancellation
				_, w := newWire(t, opts)
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				synctest.Wait() // the handler runs
				w.say(c.report)
				w.expect(c.want...)
			})
		})
	}
	for name, end := range map[string]func(s *rpcx.Session, w *wire){
		"Close":             func(s *rpcx.Session, w *wire) { s.Close() },
		"a lost connection": func(s *rpcx.Session, w *wire) { w.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got error
				s, w := newWire(t, handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
					rpcx.AfterReply(ctx, func(err error) { got = err })
					return hang(ctx, req)
				}}))
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				synctest.Wait()
				end(s, w)
				cause := ended(t, s)
				matches(t, got, rpcx.ErrNoReply, rpcx.ErrClosed, cause)
			})
		})
	}
	t.Run("no handler", func(t *testing.T) {
		var got error
		rpcx.AfterReply(t.Context(), func(err error) { got = err })
		const want = "rpcx: no reply: AfterReply needs the context of a handler, or a context derived from it"
		if !errors.Is(got, rpcx.ErrNoReply) || got.Error() != want {
			t.Errorf("the error is %v", got)
		}
	})
}

// TestAfterReplyInBatch checks that the functions of members wait for the message with
// all replies.
func TestAfterReplyInBatch(t *testing.T) {
	const request = `[{"jsonrpc":"2.0","method":"quick","id":1},{"jsonrpc":"2.0","method":"note"},{"jsonrpc":"2.0","method":"slow","id":2}]`
	note := newsLine("note", "rpcx: no reply: a notification is not answered")
	t.Run("the handler of the last member", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := make(gate)
			_, w := newWire(t, handling(methods{"quick": afterReply(reply, "quick 1", "quick 2"), "note": afterReply(reply, "note"), "slow": afterReply(g.ServeRPC, "slow")}))
			w.say(request)
			w.expect(note)
			close(g)
			w.expect(`[{"jsonrpc":"2.0","result":null,"id":1}, {"jsonrpc":"2.0","result":"through","id":2}]`,
				newsLine("quick 1", "sent"), newsLine("quick 2", "sent"), newsLine("slow", "sent"))
		})
	})
	t.Run("a timeout completes the batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := make(gate)
			_, w := newWire(t, handling(methods{"quick": afterReply(reply, "quick"), "note": reply, "slow": afterReply(g.ServeRPC, "slow")}))
			w.say(request)
			time.Sleep(31 * time.Second)
			w.expect(`[{"jsonrpc":"2.0","result":null,"id":1}, {"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out","data":{"started":true,"reason":"timeout"}},"id":2}]`,
				newsLine("quick", "sent"))
			close(g)
			w.expect(newsLine("slow", "timeout"))
		})
	})
	t.Run("a cancellation completes the batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := handling(methods{"quick": afterReply(reply, "quick"), "note": reply, "slow": afterReply(hang, "slow")})
			opts.Cancellation = rpcx.MCPCancellation
			_, w := newWire(t, opts)
			w.say(request)
			synctest.Wait() // the handlers run
			w.say(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`)
			lines := w.heard()
			slices.Sort(lines[1:]) // two goroutines
			want := []string{`[{"jsonrpc":"2.0","result":null,"id":1}]`, newsLine("quick", "sent"), newsLine("slow", "cancelled")}
			if !slices.Equal(lines, want) {
				t.Errorf("heard %q, want %q", lines, want)
			}
		})
	})
	t.Run("Disconnect of an earlier member", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := make(gate)
			bye := func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }
			_, w := newWire(t, handling(methods{"quick": afterReply(bye, "quick"), "note": reply, "slow": afterReply(g.ServeRPC, "slow")}))
			w.say(request)
			w.expectNothing()
			close(g)
			w.expect(`[{"jsonrpc":"2.0","result":"bye","id":1}, {"jsonrpc":"2.0","result":"through","id":2}]`,
				newsLine("quick", "sent"), newsLine("slow", "sent"))
			if !w.hungUp() {
				t.Error("the session goes on")
			}
		})
	})
	t.Run("the end of the session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			got := make(map[string]string)
			keep := func(h rpcx.HandlerFunc) rpcx.HandlerFunc {
				return func(ctx context.Context, req *rpcx.Request) (any, error) {
					rpcx.AfterReply(ctx, func(err error) {
						mu.Lock()
						defer mu.Unlock()
						got[req.Method] = errorKind(err)
					})
					return h(ctx, req)
				}
			}
			g := make(gate)
			opts := handling(methods{"quick": keep(reply), "note": reply, "slow": keep(g.ServeRPC)})
			opts.Limits.Concurrency = 1
			s, w := newWire(t, opts)
			w.say(`[{"jsonrpc":"2.0","method":"quick","id":1},{"jsonrpc":"2.0","method":"slow","id":2},{"jsonrpc":"2.0","method":"quick","id":3}]`)
			synctest.Wait()
			s.Close()
			synctest.Wait()
			mu.Lock()
			if got["quick"] != "closed" || len(got) != 1 {
				t.Errorf("at the end: %v", got)
			}
			mu.Unlock()
			close(g)
			ended(t, s)
			if got["slow"] != "closed" || len(got) != 2 {
				t.Errorf("after the last handler: %v", got)
			}
		})
	})
}

// TestAfterReplyAtOnce checks functions of goroutines that outlive their handlers.
func TestAfterReplyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		contexts := make(chan context.Context, 10)
		give := func(ctx context.Context, req *rpcx.Request) (any, error) {
			contexts <- context.WithValue(ctx, contexts, "derived")
			return reply(ctx, req)
		}
		g := make(gate)
		s, w := newWire(t, handling(methods{"m": give, "slow": g.ServeRPC}))
		kind := func(ctx context.Context) string {
			got := "not called"
			rpcx.AfterReply(ctx, func(err error) { got = errorKind(err) })
			return got
		}
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.heard()
		alone := <-contexts
		if got := kind(alone); got != "sent" {
			t.Errorf("after the reply: %s", got)
		}
		w.say(`{"jsonrpc":"2.0","method":"m"}`)
		w.heard()
		if got := kind(<-contexts); got != "rpcx: no reply: a notification is not answered" {
			t.Errorf("after a notification: %s", got)
		}
		w.say(`[{"jsonrpc":"2.0","method":"m","id":2},{"jsonrpc":"2.0","method":"slow","id":3}]`)
		w.heard()
		member := <-contexts
		rpcx.AfterReply(member, news(s, "first"))
		rpcx.AfterReply(member, func(err error) {
			news(s, "second")(err)
			rpcx.AfterReply(member, news(s, "fourth")) // after those that wait
		})
		rpcx.AfterReply(member, news(s, "third"))
		w.expectNothing()
		close(g)
		w.expect(`[{"jsonrpc":"2.0","result":null,"id":2}, {"jsonrpc":"2.0","result":"through","id":3}]`,
			newsLine("first", "sent"), newsLine("second", "sent"), newsLine("third", "sent"), newsLine("fourth", "sent"))
		if got := kind(member); got != "sent" {
			t.Errorf("after the replies: %s", got)
		}
		s.Close()
		ended(t, s)
		if got := kind(alone); got != "sent" {
			t.Errorf("after the end: %s", got)
		}
	})
}

// TestAfterReplyCallsTheSession checks that a function may call the peer, and that Shutdown
// waits for the function.
func TestAfterReplyCallsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			rpcx.AfterReply(ctx, func(error) {
				if ctx.Err() == nil {
					t.Error("the context goes on")
				}
				time.Sleep(time.Second)
				if err := req.Session().Call(context.WithoutCancel(ctx), "back", nil, nil); err != nil {
					t.Error(err)
				}
				if sent, err := req.Session().TryNotify("late", nil); sent || !errors.Is(err, rpcx.ErrClosed) {
					t.Errorf("TryNotify during Shutdown: %v, %v", sent, err)
				}
			})
			return nil, nil
		}})
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(t.Context()) }()
		time.Sleep(2 * time.Second)
		w.expect(`{"jsonrpc":"2.0","method":"back","id":0}`)
		w.say(`{"jsonrpc":"2.0","result":null,"id":0}`)
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

// TestAfterReplyEndsItsGoroutine checks that runtime.Goexit in a function leaves out no
// other function.
func TestAfterReplyEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := func(ctx context.Context, req *rpcx.Request) (any, error) {
			rpcx.AfterReply(ctx, func(error) { runtime.Goexit() })
			rpcx.AfterReply(ctx, news(req.Session(), req.Method))
			return nil, nil
		}
		s, w := newWire(t, handling(methods{"a": h, "b": h}))
		w.say(`{"jsonrpc":"2.0","method":"a","id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`, newsLine("a", "sent"))
		w.say(`[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"b","id":2}]`)
		w.expect(`[{"jsonrpc":"2.0","result":null,"id":1}, {"jsonrpc":"2.0","result":null,"id":2}]`, newsLine("a", "sent"), newsLine("b", "sent"))
		s.Close()
		ended(t, s)
	})
}

// TestAfterReplyEndsItsGoroutineBeforeTheSession checks that runtime.Goexit in a function
// does not keep the session from ending as the handler wants.
func TestAfterReplyEndsItsGoroutineBeforeTheSession(t *testing.T) {
	for _, want := range []error{rpcx.ReplyAndDisconnect(nil), rpcx.ErrExcessiveCost} {
		for _, msg := range []string{request("m"), "[" + request("m") + "]"} {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, handling(rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
					rpcx.AfterReply(ctx, func(error) { runtime.Goexit() })
					return nil, want
				})))
				w.say(msg)
				if synctest.Wait(); s.Err() == nil {
					t.Errorf("the session goes on after %s and the error %v", msg, want)
				}
			})
		}
	}
}

// TestAfterReplyIsCalledOnce ends sessions at random moments of many requests and batches.
func TestAfterReplyIsCalledOnce(t *testing.T) {
	runs := 1000
	if testing.Short() {
		runs = 200
	}
	for range runs {
		synctest.Test(t, endAmidCallbacks)
		if t.Failed() {
			return
		}
	}
}

// pauseAtRandom sleeps on the clock of a bubble, or lets other goroutines run.
func pauseAtRandom(most int) {
	if n := rand.IntN(most + 1); n > most/2 {
		time.Sleep(time.Duration(n))
	} else {
		for range n {
			runtime.Gosched()
		}
	}
}

// endAmidCallbacks ends a session among calls and checks that each function of AfterReply
// is called exactly once.
func endAmidCallbacks(t *testing.T) {
	var registered, called, twice atomic.Int64
	timeouts := rand.IntN(3) == 0
	h := func(ctx context.Context, req *rpcx.Request) (any, error) {
		register := func() {
			registered.Add(1)
			var own atomic.Int64
			rpcx.AfterReply(ctx, func(error) {
				called.Add(1)
				if own.Add(1) > 1 {
					twice.Add(1)
				}
			})
		}
		register()
		pauseAtRandom(10)
		if timeouts && rand.IntN(3) == 0 {
			time.Sleep(time.Millisecond) // a race with the end of the time
		}
		if req.Method == "later" {
			go func() {
				pauseAtRandom(10)
				register()
			}()
		}
		register()
		return nil, nil
	}
	opts := handling(methods{"m": h, "later": h})
	opts.Cancellation = rpcx.LSPCancellation
	opts.Limits.Concurrency = 1 + rand.IntN(5)
	if timeouts {
		opts.Limits.ProcessingTimeout = time.Millisecond
	}
	a, b := rpcx.Pipe(&rpcx.Options{Cancellation: rpcx.LSPCancellation}, opts)
	ctx, cancel := context.WithCancel(context.Background())
	for range 5 {
		var batch rpcx.Batch
		batch.Call("m", nil, nil)
		batch.Call("later", nil, nil)
		batch.Notify("m", nil)
		batch.Call("m", nil, nil)
		a.GoBatch(ctx, &batch)
		a.Go(ctx, "m", nil)
		a.Go(ctx, "later", nil)
	}
	if pauseAtRandom(40); timeouts {
		time.Sleep(time.Duration(rand.IntN(2)) * time.Millisecond)
	}
	switch rand.IntN(4) {
	case 0:
		a.Close()
	case 1:
		b.Close()
	case 2:
		b.Shutdown(context.Background())
	case 3:
		cancel()
		pauseAtRandom(10)
		a.Close()
	}
	cancel()
	<-b.Done()
	a.Close()
	<-a.Done()
	synctest.Wait()
	time.Sleep(time.Second) // goroutines that outlive their handlers
	if r, c := registered.Load(), called.Load(); r != c || twice.Load() > 0 {
		t.Errorf("%d functions, %d calls, %d of them twice", r, c, twice.Load())
	}
}

// If the exchange is not over before, ServeMessage returns after the functions, and what
// they send goes to notify before. The errors are those of a session with a connection.
func TestAfterReplyInAnExchange(t *testing.T) {
	const single = `{"jsonrpc":"2.0","method":"quick","id":1}`
	gone := errors.New("the client is gone")
	for name, c := range map[string]struct {
		msg     string
		cancel  time.Duration // of the caller's context; 0 for not at all
		notes   []string
		at      time.Duration // of the functions
		targets []error       // of the error that the functions get; none for nil
	}{
		"a request": {msg: single, notes: []string{"quick"}, at: time.Second},
		"a notification": {msg: `{"jsonrpc":"2.0","method":"quick"}`, notes: []string{"quick"}, at: time.Second,
			targets: []error{rpcx.ErrNoReply}},
		"a batch": {msg: "[" + single + `,{"jsonrpc":"2.0","method":"slow","id":2}]`, notes: []string{"quick", "slow"}, at: 5 * time.Second},
		"a timeout": {msg: `{"jsonrpc":"2.0","method":"hang","id":1}`, at: 30 * time.Second,
			targets: []error{rpcx.ErrNoReply, context.DeadlineExceeded}},
		"the caller's context": {msg: `{"jsonrpc":"2.0","method":"hang","id":1}`, cancel: 2 * time.Second, at: 2 * time.Second,
			targets: []error{rpcx.ErrNoReply, rpcx.ErrClosed, gone}},
		"Close": {msg: `{"jsonrpc":"2.0","method":"close","id":1}`, targets: []error{rpcx.ErrNoReply, rpcx.ErrClosed}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if c.cancel > 0 {
					time.AfterFunc(c.cancel, func() { cancel(gone) })
				}
				called, notes := 0, []string(nil)
				after := func(h rpcx.HandlerFunc) rpcx.HandlerFunc {
					return func(ctx context.Context, req *rpcx.Request) (any, error) {
						rpcx.AfterReply(ctx, func(err error) {
							called++
							if at := time.Since(start); at != c.at && (called == 1 || at != c.at+time.Second) {
								t.Errorf("the function of %s was called after %v, want %v", req.Method, at, c.at)
							}
							if matches(t, err, c.targets...); len(c.targets) == 0 && err != nil {
								t.Errorf("the function of %s got %v", req.Method, err)
							}
							time.Sleep(time.Second)
							if name != "a timeout" { // the exchange may be over, or not
								req.Session().TryNotify(req.Method, nil)
							}
						})
						return h(ctx, req)
					}
				}
				wait := func(d time.Duration) rpcx.HandlerFunc {
					return func(context.Context, *rpcx.Request) (any, error) { time.Sleep(d); return nil, nil }
				}
				srv := serving(methods{
					"quick": after(wait(time.Second)), "slow": after(wait(5 * time.Second)), "hang": after(hang),
					"close": after(func(_ context.Context, req *rpcx.Request) (any, error) { return nil, req.Session().Close() }),
				})
				srv.ServeMessage(ctx, nil, []byte(c.msg), func(msg []byte) error {
					notes = append(notes, string(msg))
					return nil
				})
				var want []string
				for _, method := range c.notes {
					want = append(want, fmt.Sprintf(`{"jsonrpc":"2.0","method":%q}`, method))
				}
				if n := max(1, len(c.notes)); called != n || !slices.Equal(notes, want) {
					t.Errorf("%d functions have returned and sent %q, want %q", called, notes, want)
				}
				idleServer(t, srv)
			})
		})
	}
}
