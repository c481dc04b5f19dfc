package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

func TestCloseReturnsAtOnceAnyNumberOfTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, nil)
		s.Notify(t.Context(), "m", nil) // which the peer does not read
		synctest.Wait()
		takes(t, 0, func() {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if err := s.Close(); err != nil {
						t.Errorf("Close returns %v", err)
					}
				})
			}
			wg.Wait()
		})
		<-s.Done()
		s.Close()
		if err := ended(t, s); err != rpcx.ErrClosed || !errors.Is(err, net.ErrClosed) {
			t.Errorf("it ended with %v", err)
		}
		w.listen()
		if !w.hungUp() {
			t.Error("the connection is not closed")
		}
	})
}

func TestCloseFromAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan error, 1)
		a, b := newPipe(t, nil, handling(methods{"close": func(ctx context.Context, req *rpcx.Request) (any, error) {
			takes(t, 0, func() { req.Session().Close() })
			over <- context.Cause(ctx)
			time.Sleep(time.Minute) // a handler that does not look at its context
			select {
			case <-req.Session().Done():
				t.Error("the session is over while a handler runs")
			default:
			}
			return "unheard", nil
		}}))
		start := time.Now()
		err := a.Call(t.Context(), "close", nil, nil)
		matches(t, err, rpcx.ErrConnectionLost)
		matchesNot(t, err, context.Canceled)
		if cause := <-over; cause != rpcx.ErrClosed {
			t.Errorf("the handler's context ended with %v", cause)
		}
		<-b.Done()
		if d := time.Since(start); d != time.Minute {
			t.Errorf("the session was over after %v, with a handler that takes a minute", d)
		}
	})
}

func TestWhatWasSentBeforeCloseArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var want []string
		for i := range 100 {
			if err := s.Notify(t.Context(), "m", rpcx.Args{i}); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","params":[%d]}`, i))
		}
		f := s.Go(t.Context(), "m", nil)
		want = append(want, `{"jsonrpc":"2.0","method":"m","id":0}`)
		s.Close()
		w.expect(want...)
		if !w.hungUp() || !isDone(f) {
			t.Error("and then it does not end")
		}
	})
}

func TestNotificationsSentBeforeCloseAreHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []int
		opts := handling(methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
			var n [1]int
			err := req.Bind(&n)
			got = append(got, n[0])
			return nil, err
		}})
		opts.Limits.Concurrency = 1
		a, b := newPipe(t, nil, opts)
		var want []int
		for i := range 100 {
			want = append(want, i)
			if err := a.Notify(t.Context(), "m", rpcx.Args{i}); err != nil {
				t.Fatal(err)
			}
		}
		a.Close()
		<-b.Done()
		if !slices.Equal(got, want) {
			t.Errorf("%d of %d notifications were handled", len(got), len(want))
		}
	})
}

func TestCloseWaitsASecondForAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newDeafWire(t, nil)
		s.Notify(t.Context(), "m", nil)
		synctest.Wait()
		takes(t, time.Second, func() { s.Close(); <-s.Done() })
		if s.Err() != rpcx.ErrClosed {
			t.Errorf("it ended with %v", s.Err())
		}
		if n := s.Stats().OutboxBytes; n != 0 {
			t.Errorf("%d bytes wait to be written", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, nil)
		s.Notify(t.Context(), "first", nil)
		synctest.Wait()
		s.Notify(t.Context(), "second", nil)
		s.Close()
		time.Sleep(time.Second - 1)
		w.listen()
		w.expect(`{"jsonrpc":"2.0","method":"first"}`, `{"jsonrpc":"2.0","method":"second"}`)
		<-s.Done()
	})
	synctest.Test(t, func(t *testing.T) {
		s, _ := newDeafWire(t, nil)
		takes(t, 0, func() { s.Close(); <-s.Done() }) // there is nothing to be written
	})
}

func TestAfterCloseNothingIsTakenAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handled := false
		s, w := newDeafWire(t, handling(methods{"m": func(context.Context, *rpcx.Request) (any, error) {
			handled = true
			return nil, nil
		}}))
		f := s.Go(t.Context(), "pending", nil)
		synctest.Wait()
		s.Close()
		if !isDone(f) {
			t.Error("a call is still pending")
		}
		matches(t, f.Err(), rpcx.ErrConnectionLost, rpcx.ErrClosed, net.ErrClosed)
		matchesNot(t, f.Err(), context.Canceled)

		var b, c rpcx.Batch
		b.Call("m", nil, nil)
		c.Notify("m", nil)
		takes(t, 0, func() {
			for how, err := range map[string]error{
				"Call": s.Call(t.Context(), "m", nil, nil), "Go": s.Go(t.Context(), "m", nil).Wait(t.Context(), nil),
				"Notify": s.Notify(t.Context(), "m", nil), "SendBatch": s.SendBatch(t.Context(), &b),
				"GoBatch": s.GoBatch(t.Context(), &c).Wait(t.Context(), nil), "Shutdown's": nil,
			} {
				if how != "Shutdown's" && (!errors.Is(err, rpcx.ErrClosed) || errors.Is(err, rpcx.ErrConnectionLost)) {
					t.Errorf("%s returns %v, want ErrClosed", how, err)
				}
			}
		})
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`, `{"jsonrpc":"2.0","method":"m"}`, `rubbish`)
		w.listen()
		w.expect(`{"jsonrpc":"2.0","method":"pending","id":0}`)
		if handled {
			t.Error("a request was handled after Close")
		}
		if err := ended(t, s); err != rpcx.ErrClosed {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestShutdownOfAnIdleSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		takes(t, 0, func() {
			for range 3 {
				if err := s.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown returns %v", err)
				}
			}
		})
		if err := ended(t, s); err != rpcx.ErrClosed || !w.hungUp() {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestShutdownRefusesWhatHasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		w.say(
			`{"jsonrpc":"2.0","method":"runs","id":1}`,
			`{"jsonrpc":"2.0","method":"waits","id":2}`,
			`{"jsonrpc":"2.0","method":"waits"}`,
			`[{"jsonrpc":"2.0","method":"waits","id":3},{"jsonrpc":"2.0","method":"waits"},1]`,
		)
		w.expectNothing()
		shut := make(chan error, 1)
		go func() { shut <- s.Shutdown(t.Context()) }()
		const busy = shuttingDown
		const invalid = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}`
		w.expect(busy+`2}`, `[`+busy+`3}, `+invalid+`]`)
		w.say(
			`{"jsonrpc":"2.0","method":"new","id":4}`,
			`{"jsonrpc":"2.0","method":"new"}`,
			`[{"jsonrpc":"2.0","method":"new","id":5},{"jsonrpc":"2.0","method":"new"}]`,
		)
		w.expect(busy+`4}`, `[`+busy+`5}]`)
		stats := s.Stats()
		if stats.NotificationsDropped != 4 || stats.RequestsReceived != 1 || stats.Queued != 0 {
			t.Errorf("stats are %+v", stats)
		}
		live(t, s)

		time.Sleep(10 * time.Second)
		close(open)
		w.expect(`{"jsonrpc":"2.0","result":"through","id":1}`)
		if err := <-shut; err != nil || !w.hungUp() {
			t.Errorf("Shutdown returns %v", err)
		}
	})
}

func TestShutdownRefusesABatchInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		w.say(`[{"jsonrpc":"2.0","method":"runs","id":1},{"jsonrpc":"2.0","method":"waits","id":2},{"jsonrpc":"2.0","method":"waits"}]`)
		synctest.Wait()
		go s.Shutdown(t.Context())
		w.expectNothing()
		close(open)
		w.expect(`[{"jsonrpc":"2.0","result":"through","id":1}, ` + shuttingDown + "2}]")
		ended(t, s)
		if n := s.Stats().NotificationsDropped; n != 1 {
			t.Errorf("%d notifications dropped, want 1", n)
		}
	})
}

func TestShutdownLetsHandlersCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := make(chan struct{})
		s, w := newWire(t, handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			<-begin
			s := req.Session()
			derived, cancel := context.WithTimeout(context.WithValue(ctx, ctxKey{}, "value"), time.Minute)
			defer cancel()
			if err := s.Notify(ctx, "progress", nil); err != nil {
				t.Errorf("Notify with the handler's context: %v", err)
			}
			if err := s.Call(context.Background(), "ask", nil, nil); !errors.Is(err, rpcx.ErrClosed) {
				t.Errorf("a call with another context: %v", err)
			}
			return rpcx.Call[int](derived, s, "ask", nil)
		}}))
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		synctest.Wait()
		shut := make(chan error, 1)
		go func() { shut <- s.Shutdown(t.Context()) }()
		synctest.Wait()
		for how, err := range map[string]error{
			"Call": s.Call(t.Context(), "m", nil, nil), "Go": s.Go(t.Context(), "m", nil).Err(), "Notify": s.Notify(t.Context(), "m", nil),
		} {
			if !errors.Is(err, rpcx.ErrClosed) {
				t.Errorf("%s by others: %v, want ErrClosed", how, err)
			}
		}
		close(begin)
		lines := w.heard()
		if len(lines) != 2 || lines[0] != `{"jsonrpc":"2.0","method":"progress"}` {
			t.Fatalf("heard %q", lines)
		}
		time.Sleep(5 * time.Second)
		w.say(`{"jsonrpc":"2.0","result":42,"id":` + idOf(t, lines[1]) + `}`)
		w.expect(`{"jsonrpc":"2.0","result":42,"id":1}`)
		if err := <-shut; err != nil {
			t.Errorf("Shutdown returns %v", err)
		}
	})
}

func TestShutdownWaitsForHandlersThenCallsThenTheFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, handling(methods{"slow": func(context.Context, *rpcx.Request) (any, error) {
			time.Sleep(5 * time.Second)
			return "slow", nil
		}}))
		start := time.Now()
		f := s.Go(t.Context(), "pending", nil)
		w.say(`{"jsonrpc":"2.0","method":"slow","id":1}`)
		synctest.Wait()
		shut := make(chan error, 1)
		go func() { shut <- s.Shutdown(t.Context()) }()
		running := func(d time.Duration) {
			t.Helper()
			time.Sleep(d - time.Since(start))
			synctest.Wait()
			select {
			case err := <-shut:
				t.Fatalf("Shutdown has returned %v after %v", err, time.Since(start))
			default:
			}
		}
		running(6 * time.Second) // now the handler has returned
		if isDone(f) {
			t.Fatal("a pending call was given up")
		}
		w.say(`{"jsonrpc":"2.0","result":1,"id":0}`)
		if !isDone(f) || f.Err() != nil {
			t.Errorf("the reply to a pending call came to nothing: %v", f.Err())
		}
		running(15 * time.Second) // now all but the flush is done
		w.listen()
		w.expect(`{"jsonrpc":"2.0","method":"pending","id":0}`, `{"jsonrpc":"2.0","result":"slow","id":1}`)
		if err := <-shut; err != nil || s.Err() != rpcx.ErrClosed || time.Since(start) != 15*time.Second {
			t.Errorf("Shutdown returns %v after %v", err, time.Since(start))
		}
	})
}

func TestShutdownWaitsForCallsThatEndWithoutAReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newWire(t, nil)
		s.Go(t.Context(), "m", nil)
		takes(t, 30*time.Second, func() {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown returns %v", err)
			}
		})
	})
	synctest.Test(t, func(t *testing.T) {
		s, _ := newWire(t, nil)
		f := s.Go(t.Context(), "m", nil)
		time.AfterFunc(time.Second, f.Cancel)
		takes(t, time.Second, func() { s.Shutdown(t.Context()) })
	})
}

func TestShutdownThatTakesTooLongIsAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		s, w := newWire(t, handling(open))
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		f := s.Go(t.Context(), "m", nil)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		takes(t, 3*time.Second, func() {
			if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
				t.Errorf("Shutdown returns %v, want the context's error", err)
			}
		})
		if !isDone(f) {
			t.Error("a call is still pending")
		}
		matches(t, f.Err(), rpcx.ErrConnectionLost, rpcx.ErrClosed)
		matchesNot(t, f.Err(), context.DeadlineExceeded, context.Canceled)
		if !w.hungUp() {
			t.Error("the connection is open")
		}
		live(t, s) // as long as the handler runs
		close(open)
		if err := ended(t, s); err != rpcx.ErrClosed {
			t.Errorf("it ended with %v", err)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown of a session that is over returns %v", err)
		}
	})
}

func TestShutdownOfASlowPeerEndsWithTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newDeafWire(t, nil)
		s.Notify(t.Context(), "m", nil)
		synctest.Wait()
		takes(t, 20*time.Second, func() { s.Shutdown(t.Context()) })
		if err := ended(t, s); !errors.Is(err, rpcx.ErrSlowPeer) {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestShutdownsMayMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(t, handling(methods{"hang": hang}), handling(methods{"hang": hang}))
		a.Go(t.Context(), "hang", nil)
		b.Go(t.Context(), "hang", nil)
		synctest.Wait()
		takes(t, 30*time.Second, func() {
			var wg sync.WaitGroup
			for _, s := range []*rpcx.Session{a, b, a, b} {
				wg.Go(func() { s.Shutdown(t.Context()) })
			}
			wg.Wait()
		})
		ended(t, a)
		ended(t, b)
	})
}
