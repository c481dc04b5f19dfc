package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// What Shutdown refuses waits for room in the outbox, as replies do: a peer that is
// only slow to read what it has asked for loses nothing.
func TestShutdownRefusesMuchToAPeerThatIsSlowToRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const asked = 4400
		long := strings.Repeat("x", 10_000)
		s, w := newDeafWire(t, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return long, nil })))
		for i := range asked {
			w.say(ask("m", i))
		}
		synctest.Wait()
		queued := s.Stats().Queued
		done := make(chan error)
		go func() { done <- s.Shutdown(t.Context()) }()
		time.Sleep(10 * time.Second)
		w.listen()
		if err := <-done; err != nil || s.Err() != rpcx.ErrClosed {
			t.Errorf("Shutdown returns %v, and the session ended with %v", err, s.Err())
		}
		refused := 0
		lines := w.heard()
		for _, line := range lines {
			if strings.Contains(line, "shutting down") {
				refused++
			}
		}
		if len(lines) != asked || refused != queued {
			t.Errorf("%d of %d were answered, and %d of %d refused", len(lines), asked, refused, queued)
		}
	})
}

// Its context bounds that, too.
func TestShutdownThatHasMuchToRefuseIsOverWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := strings.Repeat("x", 10_000)
		s, w := newDeafWire(t, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return long, nil })))
		for i := range 4400 {
			w.say(ask("m", i))
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		takes(t, 5*time.Second, func() {
			if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
				t.Errorf("Shutdown returns %v", err)
			}
		})
		takes(t, time.Second, func() { <-s.Done() })
	})
}

// The log tells which handlers a Shutdown waits for: after a while, and when it gives up.
func TestLogTellsWhatShutdownWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		open := make(chan struct{})
		opts := log.options()
		opts.Limits.ProcessingTimeout = -1
		opts.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { <-open; return nil, nil })
		s, w := newWire(t, opts)
		w.say(ask("slow", 1), ask("stuck", 2), ask("slow", 3), `{"jsonrpc":"2.0","method":"note"}`, "["+ask("member", 4)+"]")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		takes(t, 30*time.Second, func() { matches(t, s.Shutdown(ctx), context.DeadlineExceeded) })
		synctest.Wait()
		const handlers = `peer=pipe "handlers that run"="slow (2), member (1), note (1), stuck (1)" calls=0`
		for _, want := range []string{
			`time=2000-01-01T00:00:10.000Z level=WARN msg="shutdown waits" ` + handlers,
			`time=2000-01-01T00:00:30.000Z level=WARN msg="shutdown did not finish in time" ` + handlers,
		} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("the log says\n%s\nwant %s", log.String(), want)
			}
		}
		close(open)
		<-s.Done()
	})
}

// tellingConn is a MessageConn that is told why it is closed.
type tellingConn struct {
	*chanConn
	errs  chan error // of ReadMessage
	takes time.Duration
	told  []error
	plain int // calls of Close
}

func newTellingConn() *tellingConn {
	return &tellingConn{chanConn: newChanConn(), errs: make(chan error)}
}

func (c *tellingConn) ReadMessage() ([]byte, error) {
	select {
	case msg := <-c.in:
		return msg, nil
	case err := <-c.errs:
		return nil, err
	case <-c.closed:
		return nil, io.EOF
	}
}

func (c *tellingConn) Close() error {
	c.plain++
	return c.chanConn.Close()
}

func (c *tellingConn) CloseWithError(err error) error {
	c.told = append(c.told, err)
	time.Sleep(c.takes)
	return c.chanConn.Close()
}

// A connection that can tell its peer is told why the session ends, once, and by
// nothing else.
func TestConnectionIsToldWhyTheSessionEnds(t *testing.T) {
	broken := errors.New("broken")
	frame := &rpcx.FrameError{Message: "out of step"}
	is := func(want error) func(error) bool { return func(err error) bool { return err == want } }
	costs := func(err error) bool { _, ok := errors.AsType[*rpcx.CostError](err); return ok }
	busy := func(err error) bool { return errors.Is(err, rpcx.ErrServerBusy) }
	for _, c := range []struct {
		name   string
		server *rpcx.Server // nil for a session that is no server's
		opts   rpcx.Options
		end    func(t *testing.T, srv *rpcx.Server, s *rpcx.Session, c *tellingConn)
		told   func(error) bool
		err    func(error) bool // Session.Err, if it is another
	}{
		{name: "Close", end: func(_ *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *tellingConn) { s.Close() }, told: is(rpcx.ErrClosed)},
		{name: "Shutdown", end: func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *tellingConn) {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}, told: is(rpcx.ErrClosed)},
		{name: "the server's Shutdown", server: &rpcx.Server{}, end: func(t *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) {
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server's Shutdown, which is given up", server: &rpcx.Server{}, end: func(t *testing.T, srv *rpcx.Server, s *rpcx.Session, c *tellingConn) {
			c.in <- []byte(`{"jsonrpc":"2.0","method":"hang","id":1}`)
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server's Close", server: &rpcx.Server{}, end: func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) { srv.Close() },
			told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "Close, before the server's", server: &rpcx.Server{}, end: func(_ *testing.T, srv *rpcx.Server, s *rpcx.Session, _ *tellingConn) {
			s.Close()
			srv.Close()
		}, told: is(rpcx.ErrClosed)},
		{name: "a handler that disconnects", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) {
			c.in <- []byte(`{"jsonrpc":"2.0","method":"bye","id":1}`)
		}, told: is(rpcx.ErrClosed)},
		{name: "the cost", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) {
			c.in <- []byte(`{"jsonrpc":"2.0","method":"costly","id":1}`)
		}, told: costs},
		{name: "nothing happens", opts: rpcx.Options{Limits: rpcx.Limits{IdleTimeout: time.Minute}},
			end: func(*testing.T, *rpcx.Server, *rpcx.Session, *tellingConn) {}, told: is(rpcx.ErrIdle)},
		{name: "the peer does not read", opts: rpcx.Options{Limits: rpcx.Limits{SendTimeout: time.Minute}},
			end: func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, c *tellingConn) {
				for range cap(c.out) + 1 {
					if err := s.Notify(t.Context(), "m", nil); err != nil {
						t.Error(err)
					}
				}
			}, told: func(err error) bool { return errors.Is(err, rpcx.ErrSlowPeer) }},
		{name: "the peer sends too much that is wrong", opts: rpcx.Options{Limits: rpcx.Limits{PeerErrors: 1}},
			end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) {
				for range 11 {
					c.in <- []byte("{}")
				}
			}, told: is(rpcx.ErrFaultyPeer)},
		{name: "a violation that the connection has found", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.errs <- frame }, told: is(frame)},
		{name: "a message that ends the session", opts: rpcx.Options{Protocol: rpcx.Aiomas, Framer: rpcx.LengthFramer{}},
			end:  func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.in <- []byte("rubbish") },
			told: func(err error) bool { _, ok := errors.AsType[*rpcx.ProtocolError](err); return ok }},
		{name: "the connection fails", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.errs <- broken }, told: is(broken)},
		{name: "the peer closes it", end: func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, c *tellingConn) { c.errs <- io.EOF }, told: is(io.EOF)},
		{name: "the server has no room", server: &rpcx.Server{MaxSessions: 1}, end: func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) {
			refusedWith(t, srv, busy)
			srv.Close()
		}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server has no room for one of a group", server: &rpcx.Server{MaxGroup: 1},
			opts: rpcx.Options{Limits: rpcx.Limits{Group: func(*rpcx.Session) string { return "all" }}},
			end: func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *tellingConn) {
				refusedWith(t, srv, busy)
				srv.Close()
			}, told: is(rpcx.ErrServerClosed), err: is(rpcx.ErrClosed)},
		{name: "the server was stopped", server: &rpcx.Server{}, end: func(_ *testing.T, srv *rpcx.Server, s *rpcx.Session, _ *tellingConn) {
			srv.StopListening()
			refusedWith(t, srv, is(rpcx.ErrServerClosed))
			s.Close()
		}, told: is(rpcx.ErrClosed)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.opts.Handler = methods{
					"hang":   hang,
					"bye":    func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
					"costly": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ErrExcessiveCost },
				}
				conn := newTellingConn()
				var s *rpcx.Session
				if c.server != nil {
					c.server.Options = c.opts
					s = c.server.ServeMessageConn(conn)
				} else {
					s = rpcx.NewMessageSession(conn, &c.opts)
				}
				c.end(t, c.server, s, conn)
				<-s.Done()
				if len(conn.told) != 1 || conn.plain != 0 || !c.told(conn.told[0]) {
					t.Errorf("the connection was told %v, and closed without a word %d times", conn.told, conn.plain)
				}
				if c.err == nil {
					c.err = c.told
				}
				if !c.err(s.Err()) {
					t.Errorf("the session ended with %v", s.Err())
				}
				if c.server != nil {
					c.server.Wait(context.Background())
				}
			})
		})
	}
}

// refusedWith offers a server one more connection, which it is to close.
func refusedWith(t *testing.T, srv *rpcx.Server, told func(error) bool) {
	t.Helper()
	conn := newTellingConn()
	if s := srv.ServeMessageConn(conn); s != nil {
		t.Errorf("a session was started")
	}
	if len(conn.told) != 1 || !told(conn.told[0]) {
		t.Errorf("the connection was told %v", conn.told)
	}
}

// What was queued is written before the peer is told of its violation.
func TestConnectionIsToldAfterTheRestIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newTellingConn()
		s := rpcx.NewMessageSession(conn, nil)
		for range cap(conn.out) + 1 { // the writer waits in the last one
			if err := s.Notify(t.Context(), "m", nil); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if err := s.Notify(t.Context(), "last", nil); err != nil {
			t.Fatal(err)
		}
		conn.errs <- &rpcx.FrameError{Message: "out of step"}
		synctest.Wait()
		if len(conn.told) != 0 {
			t.Errorf("it is told %v while it writes", conn.told)
		}
		var last string
		for range cap(conn.out) + 2 {
			last = string(<-conn.out)
		}
		<-s.Done()
		if len(conn.told) != 1 || !strings.Contains(last, "last") {
			t.Errorf("it is told %v after %s", conn.told, last)
		}
	})
}

// Close does not wait for a connection that waits for its peer.
func TestCloseDoesNotWaitForWhatThePeerIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := newTellingConn()
		conn.takes = time.Second
		s := rpcx.NewMessageSession(conn, nil)
		takes(t, 0, func() { s.Close() })
		takes(t, time.Second, func() { <-s.Done() })
	})
}

func TestReplyAndDisconnect(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler rpcx.HandlerFunc
		want    string
	}{
		{"as the result", func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
			`"result":"bye"`},
		{"as the error", func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ReplyAndDisconnect("bye") },
			`"result":"bye"`},
		{"within another error", func(context.Context, *rpcx.Request) (any, error) {
			return nil, fmt.Errorf("enough: %w", rpcx.ReplyAndDisconnect("bye"))
		}, `"result":"bye"`},
		{"with an error, as the result", func(context.Context, *rpcx.Request) (any, error) {
			return rpcx.ReplyAndDisconnect(rpcx.Errorf(5, "go away")), nil
		}, `"error":{"code":5,"message":"go away"}`},
		{"with an error, as the error", func(context.Context, *rpcx.Request) (any, error) {
			return nil, rpcx.ReplyAndDisconnect(rpcx.Errorf(5, "go away"))
		}, `"error":{"code":5,"message":"go away"}`},
		{"with an error that is not for the peer", func(context.Context, *rpcx.Request) (any, error) {
			return nil, rpcx.ReplyAndDisconnect(errors.New("secret"))
		}, `"error":{"code":-32603,"message":"internal server error"}`},
		{"with what cannot be encoded", func(context.Context, *rpcx.Request) (any, error) {
			return rpcx.ReplyAndDisconnect(make(chan int)), nil
		}, `"error":{"code":-32603,"message":"internal server error"}`},
		{"with what panics when it is encoded", func(context.Context, *rpcx.Request) (any, error) {
			return rpcx.ReplyAndDisconnect(explosive{}), nil
		}, `"error":{"code":-32603,"message":"internal server error"}`},
		{"with nothing", func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect(nil), nil },
			`"result":null`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, form := range []struct{ request, reply string }{
				{`{"jsonrpc":"2.0","method":"quit","id":1}`, `{"jsonrpc":"2.0",` + c.want + `,"id":1}`},
				{`[{"jsonrpc":"2.0","method":"quit","id":1}]`, `[{"jsonrpc":"2.0",` + c.want + `,"id":1}]`},
			} {
				synctest.Test(t, func(t *testing.T) {
					s, w := newWire(t, handling(methods{"quit": c.handler}))
					s.Notify(t.Context(), "before", nil)
					w.say(form.request)
					w.expect(`{"jsonrpc":"2.0","method":"before"}`, form.reply)
					if err := ended(t, s); err != rpcx.ErrClosed || !w.hungUp() {
						t.Errorf("it ended with %v", err)
					}
				})
			}
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, handling(methods{"quit": c.handler}))
				w.say(`{"jsonrpc":"2.0","method":"quit"}`)
				w.expectNothing()
				ended(t, s)
			})
		})
	}
}

func TestDisconnectFromABatchComesAfterItsReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		s, w := newWire(t, handling(methods{
			"quit": func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
			"slow": open.ServeRPC,
		}))
		w.say(`[{"jsonrpc":"2.0","method":"slow","id":1},{"jsonrpc":"2.0","method":"quit","id":2},{"jsonrpc":"2.0","method":"quit"}]`)
		w.expectNothing()
		live(t, s)
		close(open)
		w.expect(`[{"jsonrpc":"2.0","result":"through","id":1}, {"jsonrpc":"2.0","result":"bye","id":2}]`)
		if err := ended(t, s); err != rpcx.ErrClosed {
			t.Errorf("it ended with %v", err)
		}
	})
}

// slowBatches takes two seconds to put a batch together.
type slowBatches struct{ rpcx.Protocol }

func (p slowBatches) AppendBatch(dst []byte, items [][]byte) ([]byte, error) {
	time.Sleep(2 * time.Second)
	return p.Protocol.AppendBatch(dst, items)
}

func TestDisconnectWhileTheBatchIsPutTogetherComesAfterItsReply(t *testing.T) {
	for name, c := range map[string]struct{ request, reply string }{
		"from another request": {
			`[{"jsonrpc":"2.0","method":"quit","id":1},{"jsonrpc":"2.0","method":"slow","id":2}]`,
			`[{"jsonrpc":"2.0","result":"bye","id":1}, {"jsonrpc":"2.0","result":"slow","id":2}]`,
		},
		"from a notification": {
			`[{"jsonrpc":"2.0","method":"quit"},{"jsonrpc":"2.0","method":"slow","id":2}]`,
			`[{"jsonrpc":"2.0","result":"slow","id":2}]`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{
					"quit": func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil },
					"slow": func(context.Context, *rpcx.Request) (any, error) { time.Sleep(time.Second); return "slow", nil },
				})
				opts.Trace = &rpcx.Trace{ReplySent: func(req *rpcx.Request, _ error, _ time.Duration) {
					if req.Method == "quit" {
						time.Sleep(2 * time.Second) // and goes on while the batch is put together
					}
				}}
				opts.Protocol = slowBatches{rpcx.JSONRPCv2}
				s, w := newWire(t, opts)
				w.say(c.request)
				<-s.Done()
				w.expect(c.reply)
			})
		})
	}
}

func TestDisconnectIsPoliteForCloseTimeout(t *testing.T) {
	quit := methods{"quit": func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect("bye"), nil }}
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		want   time.Duration
	}{
		{"30 s by default", rpcx.Limits{SendTimeout: -1}, 30 * time.Second},
		{"what Limits say", rpcx.Limits{CloseTimeout: 5 * time.Second}, 5 * time.Second},
		{"less if the peer does not read at all", rpcx.Limits{}, 20 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newDeafWire(t, &rpcx.Options{Handler: quit, Limits: c.limits})
				f := s.Go(t.Context(), "pending", nil)
				takes(t, c.want, func() {
					w.say(`{"jsonrpc":"2.0","method":"quit","id":1}`)
					<-s.Done()
				})
				if s.Err() != rpcx.ErrClosed {
					t.Errorf("it ended with %v", s.Err())
				}
				matches(t, f.Err(), rpcx.ErrConnectionLost, rpcx.ErrClosed)
			})
		})
	}
	t.Run("no more than the second of Close, if that comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newDeafWire(t, handling(quit))
			w.say(`{"jsonrpc":"2.0","method":"quit","id":1}`)
			time.Sleep(5 * time.Second)
			takes(t, time.Second, func() { s.Close(); <-s.Done() })
		})
	})
	for name, shut := range map[string]bool{"as long as the peer needs": false, "and Shutdown leaves it that": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newDeafWire(t, handling(quit))
				w.say(`{"jsonrpc":"2.0","method":"quit","id":1}`)
				synctest.Wait()
				if shut {
					go s.Shutdown(t.Context())
				}
				time.Sleep(19 * time.Second)
				live(t, s)
				w.listen()
				w.expect(`{"jsonrpc":"2.0","result":"bye","id":1}`)
				ended(t, s)
			})
		})
	}
}

func TestDoneErrAndOnCloseComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var order []string
		nested := make(chan struct{})
		for _, name := range []string{"first", "second"} {
			s.OnClose(func(err error) {
				time.Sleep(time.Second)
				select {
				case <-s.Done():
					t.Error("Done is closed before the callbacks have returned")
				default:
				}
				if s.Err() != err {
					t.Errorf("Err returns %v in a callback that is given %v", s.Err(), err)
				}
				s.Close() // a callback may use the session, for what that is worth
				s.Stats()
				order = append(order, fmt.Sprint(name, " ", err))
				s.OnClose(func(error) { nested <- struct{}{} })
			})
		}
		if s.Err() != nil {
			t.Errorf("Err returns %v while the session lives", s.Err())
		}
		w.Close()
		<-s.Done()
		if s.Err() != io.EOF {
			t.Errorf("Err returns %v", s.Err())
		}
		<-nested
		<-nested
		slices.Sort(order)
		if want := []string{"first EOF", "second EOF"}; !slices.Equal(order, want) {
			t.Errorf("the callbacks: %q, want %q", order, want)
		}
		late := make(chan error)
		s.OnClose(func(err error) { late <- err })
		if err := <-late; err != io.EOF {
			t.Errorf("a callback that was late was told %v", err)
		}
	})
}

// What refuses a message has to queue the answer yet when the session begins to end.
func TestRefusalsThatAreUnderWayWhenTheEndBeginsAreSent(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits rpcx.Limits
		say    []string // while a handler runs, the only one that may
		want   string
	}{
		{"invalid", rpcx.Limits{}, []string{`{"jsonrpc":"2.0","id":7}`},
			`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":7}`},
		{"invalid batch", rpcx.Limits{}, []string{`[{"jsonrpc":"2.0","id":7}]`},
			`[{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":7}]`},
		// No handler returns for a quarter of SendTimeout, so reading goes on. What is refused is
		// written in one go: behind it, the session may end before it reads more.
		{"beyond the queue", rpcx.Limits{Queue: 1, SendTimeout: 400 * time.Millisecond}, []string{ask("reply", 1), ask("reply", 2) + "\n" + ask("reply", 3)},
			`{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - over 1 requests waiting (Limits.Queue)","data":{"started":false,"reason":"queue"}},"id":2}`},
		{"too late", rpcx.Limits{ProcessingTimeout: time.Second}, []string{ask("reply", 1)}, timedOutNew + "1}"},
		{"batch too late", rpcx.Limits{ProcessingTimeout: time.Second}, []string{"[" + ask("reply", 1) + "]"}, "[" + timedOutNew + "1}]"},
		{"cancelled", rpcx.Limits{}, []string{ask("reply", 1), `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`},
			`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}`},
		{"batch cancelled", rpcx.Limits{}, []string{"[" + ask("reply", 1) + "]", `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`},
			`[{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}]`},
	} {
		for _, end := range []error{rpcx.ErrExcessiveCost, rpcx.ErrClosed} {
			t.Run(test.name+"/"+end.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := handling(methods{"reply": reply, "end": func(context.Context, *rpcx.Request) (any, error) {
						time.Sleep(1500 * time.Millisecond)
						return nil, end
					}})
					var first atomic.Bool
					opts.Protocol = slowErrors{rpcx.JSONRPCv2, func() {
						if first.CompareAndSwap(false, true) {
							time.Sleep(2 * time.Second)
						}
					}}
					opts.Cancellation = rpcx.LSPCancellation
					opts.Limits = test.limits
					opts.Limits.Concurrency = 1
					s, w := newWire(t, opts)
					w.say(`{"jsonrpc":"2.0","method":"end"}`)
					w.say(test.say...)
					if end == rpcx.ErrClosed {
						time.Sleep(1250 * time.Millisecond)
						if err := s.Shutdown(t.Context()); err != nil {
							t.Error(err)
						}
					}
					<-s.Done()
					if lines := w.heard(); !slices.Contains(lines, test.want) {
						t.Errorf("heard %q, without %s", lines, test.want)
					}
				})
			})
		}
	}
}

// A batch leaves as a whole: what runs of it is answered with what is refused.
func TestBatchesAreAnsweredWhenASessionIsEndedForItsCost(t *testing.T) {
	for name, c := range map[string]struct {
		limits rpcx.Limits
		say    []string
		want   []string
	}{
		"by one of their members": {
			say:  []string{"[" + ask("hang", 1) + "," + ask("end", 2) + `,{"jsonrpc":"2.0","method":"hang"}]`},
			want: []string{"[" + excessive + "1}, " + excessive + "2}]"},
		},
		"by another request, while some wait": {
			limits: rpcx.Limits{Concurrency: 2},
			say:    []string{"[" + ask("hang", 1) + "," + ask("hang", 2) + "," + ask("hang", 3) + "]", ask("hang", 4)},
			want:   []string{"[" + excessive + "1}, " + excessive + "2}, " + excessive + "3}]", excessive + "4}"},
		},
		"by another request, when some are answered": {
			say:  []string{"[" + ask("hang", 1) + "," + ask("reply", 2) + "]", ask("end", 3)},
			want: []string{excessive + "3}", "[" + excessive + `1}, {"jsonrpc":"2.0","result":null,"id":2}]`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"reply": reply, "hang": hang, "end": func(context.Context, *rpcx.Request) (any, error) {
					time.Sleep(time.Second)
					return nil, rpcx.ErrExcessiveCost
				}})
				opts.Limits = c.limits
				opts.Limits.HideCost = true
				s, w := newServed(t, opts)
				w.say(c.say...)
				time.Sleep(2 * time.Second)
				if c.limits.Concurrency > 0 {
					s.BumpCost(20000)
					w.say(ask("hang", 5))
					c.want = append([]string{excessive + "5}"}, c.want...)
				}
				lines := w.heard()
				slices.Sort(lines)
				slices.Sort(c.want)
				if !slices.Equal(lines, c.want) {
					t.Errorf("heard %q, want %q", lines, c.want)
				}
				matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
			})
		})
	}
}

// What a shutdown has dropped of a batch is not over once more when the time is.
func TestDroppedMembersOfABatchAreNoErrorsWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits = rpcx.Limits{Concurrency: 1, ProcessingTimeout: time.Second}
		s, w := newWire(t, opts)
		w.say("[" + ask("m", 1) + `,{"jsonrpc":"2.0","method":"m"}]`)
		synctest.Wait()
		go s.Shutdown(t.Context())
		time.Sleep(2 * time.Second)
		w.expect("[" + timedOut + "1}]")
		if stats := s.Stats(); stats.NotificationsDropped != 1 || stats.Errors != 1 {
			t.Errorf("stats are %+v", stats)
		}
		close(open)
		ended(t, s)
	})
}

// A handler that would wait for itself is told so, and nothing is begun.
func TestErrInHandler(t *testing.T) {
	type key struct{}
	for name, wait := range map[string]func(ctx context.Context, srv *rpcx.Server, s *rpcx.Session) error{
		"Session.Shutdown": func(ctx context.Context, _ *rpcx.Server, s *rpcx.Session) error { return s.Shutdown(ctx) },
		"Server.Shutdown":  func(ctx context.Context, srv *rpcx.Server, _ *rpcx.Session) error { return srv.Shutdown(ctx) },
		"Server.Wait":      func(ctx context.Context, srv *rpcx.Server, _ *rpcx.Session) error { return srv.Wait(ctx) },
	} {
		for made, from := range map[string]func(ctx context.Context) context.Context{
			"its context":           func(ctx context.Context) context.Context { return ctx },
			"one made from it":      func(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, 1) },
			"one that does not end": context.WithoutCancel,
		} {
			t.Run(name+" with "+made, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv, other := &rpcx.Server{}, &rpcx.Server{}
					kept := make(chan context.Context, 1)
					srv.Options.Handler = methods{
						"stop": func(ctx context.Context, req *rpcx.Request) (any, error) {
							ctx = from(ctx)
							if err := wait(ctx, other, srv.ServeConn(deaf(t))); err != nil && name != "Session.Shutdown" {
								t.Errorf("of another server: %v", err)
							}
							kept <- ctx
							return nil, wait(ctx, srv, req.Session())
						},
						"echo": reply,
					}
					near, far := net.Pipe()
					s := srv.ServeConn(near)
					log := make(chan error, 1)
					client := rpcx.NewSession(far, nil)
					srv.Options.Logger = nil
					go func() { log <- client.Call(t.Context(), "stop", nil, nil) }()
					if err := <-log; !errors.Is(err, rpcx.ErrInternalError) {
						t.Errorf("stop: %v", err)
					}
					if got, err := rpcx.Call[int](t.Context(), client, "echo", rpcx.Args{1}); got != 1 || err != nil {
						t.Errorf("afterwards: %v, %v", got, err)
					}
					client.Close()
					srv.Close()
					synctest.Wait() // the reply goes out before the worker has finished
					if err := wait(<-kept, srv, s); errors.Is(err, rpcx.ErrInHandler) {
						t.Error("it is refused after the handler has returned, too")
					}
					srv.Wait(t.Context())
				})
			})
		}
	}
}

// tellingSocket is a socket that is told why it is closed.
type tellingSocket struct {
	*socket
	told chan error
}

func (s tellingSocket) CloseWithError(err error) error {
	s.told <- err
	return s.socket.Close()
}

func (s tellingSocket) Close() error { panic("a CloserWithError is closed without a reason") }

// A connection that can tell its peer why a session ends is told once, and before the
// session is over.
func TestCloseWithErrorIsToldTheCause(t *testing.T) {
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	ask := func(method string) func(*rpcx.Server, *rpcx.Session, *socket) {
		return func(_ *rpcx.Server, _ *rpcx.Session, peer *socket) {
			peer.WriteMessages([][]byte{[]byte(`{"jsonrpc":"2.0","method":"` + method + `"}`)})
		}
	}
	for name, c := range map[string]struct {
		srv  *rpcx.Server // nil: the zero Server
		end  func(srv *rpcx.Server, s *rpcx.Session, peer *socket)
		want func(error) bool
	}{
		"Close": {
			end:  func(_ *rpcx.Server, s *rpcx.Session, _ *socket) { s.Close() },
			want: is(rpcx.ErrClosed),
		},
		"Shutdown of the session": {
			end:  func(_ *rpcx.Server, s *rpcx.Session, _ *socket) { go s.Shutdown(context.Background()) },
			want: is(rpcx.ErrClosed),
		},
		"ReplyAndDisconnect": {end: ask("bye"), want: is(rpcx.ErrClosed)},
		"Close of the server": {
			end:  func(srv *rpcx.Server, _ *rpcx.Session, _ *socket) { srv.Close() },
			want: is(rpcx.ErrServerClosed),
		},
		"Shutdown of the server": {
			end:  func(srv *rpcx.Server, _ *rpcx.Session, _ *socket) { go srv.Shutdown(context.Background()) },
			want: is(rpcx.ErrServerClosed),
		},
		"Shutdown of the server, at the session's turn": {
			srv:  &rpcx.Server{ShutdownSpread: time.Minute},
			end:  func(srv *rpcx.Server, _ *rpcx.Session, _ *socket) { go srv.Shutdown(context.Background()) },
			want: is(rpcx.ErrServerClosed),
		},
		"cost": {
			end: ask("costly"),
			want: func(err error) bool {
				_, ok := errors.AsType[*rpcx.CostError](err)
				return ok
			},
		},
		"silence": {
			srv:  &rpcx.Server{Options: rpcx.Options{Limits: rpcx.Limits{IdleTimeout: time.Second}}},
			end:  func(*rpcx.Server, *rpcx.Session, *socket) {},
			want: is(rpcx.ErrIdle),
		},
		"faults": {
			srv: &rpcx.Server{Options: rpcx.Options{Limits: rpcx.Limits{PeerErrors: 1, CostOff: true}}},
			end: func(_ *rpcx.Server, _ *rpcx.Session, peer *socket) {
				peer.WriteMessages(slices.Repeat([][]byte{[]byte("evil")}, 11))
			},
			want: is(rpcx.ErrFaultyPeer),
		},
		"the peer": {
			end:  func(_ *rpcx.Server, _ *rpcx.Session, peer *socket) { peer.Close() },
			want: is(io.EOF),
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := c.srv
				if srv == nil {
					srv = &rpcx.Server{}
				}
				srv.Options.Handler = methods{
					"bye":    func(context.Context, *rpcx.Request) (any, error) { return rpcx.ReplyAndDisconnect(nil), nil },
					"costly": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ErrExcessiveCost },
				}
				near, peer := newSockets()
				conn := tellingSocket{near, make(chan error, 2)}
				s := srv.ServeMessageConn(conn)
				// Owner: the test. End: the connection is closed.
				go func() {
					for {
						if _, err := peer.ReadMessage(); err != nil {
							return
						}
					}
				}()
				c.end(srv, s, peer)
				<-s.Done()
				if err := <-conn.told; !c.want(err) {
					t.Errorf("it is told %v", err)
				}
				if len(conn.told) > 0 {
					t.Errorf("it is told again: %v", <-conn.told)
				}
				srv.Close()
				srv.Wait(context.Background())
				peer.Close()
			})
		})
	}
}

// So is a connection of which no session comes.
func TestCloseWithErrorOfARefusedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 1}
		connectAll(t, srv, 1)
		refuse := func() error {
			near, peer := newSockets()
			defer peer.Close()
			conn := tellingSocket{near, make(chan error, 2)}
			if srv.ServeMessageConn(conn) != nil {
				t.Error("there is a session")
			}
			return <-conn.told
		}
		if busy, ok := errors.AsType[*rpcx.Error](refuse()); !ok || busy.Code != rpcx.CodeServerBusy {
			t.Errorf("a full server tells %v", busy)
		}
		srv.Close()
		if err := refuse(); err != rpcx.ErrServerClosed {
			t.Errorf("a closed server tells %v", err)
		}
	})
}

// askingSocket is a socket that uses its session while it is closed.
type askingSocket struct {
	*socket
	session chan *rpcx.Session
	failed  chan error // of a notification
}

func (c askingSocket) CloseWithError(error) error {
	s := <-c.session
	s.Stats()
	s.Close()
	_, err := s.TryNotify("late", nil)
	c.failed <- err
	return c.socket.Close()
}

// CloseWithError is called without a lock, whatever ends the session, and ends the reads
// and writes that are under way.
func TestCloseWithErrorMayUseTheSession(t *testing.T) {
	for name, end := range map[string]func(s *rpcx.Session, peer *socket){
		"Close":           func(s *rpcx.Session, _ *socket) { s.Close() },
		"the peer":        func(_ *rpcx.Session, peer *socket) { peer.Close() },
		"a blocked write": func(s *rpcx.Session, _ *socket) { s.Notify(context.Background(), "m", nil) }, // Limits.SendTimeout
		"silence":         func(*rpcx.Session, *socket) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, peer := newSockets()
				conn := askingSocket{near, make(chan *rpcx.Session, 1), make(chan error, 1)}
				s := rpcx.NewMessageSession(conn, &rpcx.Options{Limits: rpcx.Limits{IdleTimeout: time.Minute}})
				conn.session <- s
				end(s, peer)
				<-s.Done()
				matches(t, <-conn.failed, rpcx.ErrClosed)
				peer.Close()
			})
		})
	}
}
