package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// A function of OnCall that calls the client itself, for a token for example, must not wait
// behind the message that waits for the function.
func TestClientIsCalledByHooks(t *testing.T) {
	for _, kind := range []string{"Call", "Go", "SendBatch", "Notify", "Subscribe", "subscribes again"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c *rpcx.Client
				withToken := func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
					if call.Method == "token" {
						return ctx, nil, nil
					}
					return ctx, nil, c.Call(ctx, "token", nil, nil)
				}
				c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{OnCall: []onCall{withToken}}})
				subscribe := func() {
					_, _ = rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: "m", Correlation: rpcx.ElectrumHeaders})
				}
				if w := l.wire(1); kind == "subscribes again" {
					go subscribe()
					w.answer("1")
					w.answer("1")
				}
				l.downFrom(1)
				switch kind {
				case "Call":
					go c.Call(t.Context(), "m", nil, nil)
				case "Go":
					c.Go(t.Context(), "m", nil)
				case "SendBatch":
					var b rpcx.Batch
					b.Call("m", nil, nil)
					go c.SendBatch(t.Context(), &b)
				case "Notify":
					go c.Notify(t.Context(), "m", nil)
				case "Subscribe":
					go subscribe()
				}
				synctest.Wait()
				l.set(false, nil)
				w := l.wire(2)
				w.answer("1")
				if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], `"m"`) {
					t.Errorf("heard %q", lines)
				}
			})
		})
	}
}

// OnConnect may call the client by Go, too.
func TestClientGoInOnConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *rpcx.Client
		made := make(chan struct{})
		c, l := newClient(t, rpcx.ClientOptions{OnConnect: func(ctx context.Context, s *rpcx.Session) error {
			<-made
			return c.Go(ctx, "login", nil).Wait(ctx, nil)
		}})
		close(made)
		l.wire(1).answer("1")
		if synctest.Wait(); c.State() != rpcx.ClientReady {
			t.Error(c.State())
		}
	})
}

// A handler may call its peer through the client during OnConnect and Shutdown, as through its
// session: the peer may wait for the reply of the handler.
func TestClientIsCalledByAHandlerInEveryState(t *testing.T) {
	for _, state := range []string{"OnConnect", "Shutdown"} {
		t.Run(state, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var c *rpcx.Client
				made, begin := make(chan struct{}), make(chan struct{})
				c, l := newClient(t, rpcx.ClientOptions{
					OnConnect: func(ctx context.Context, s *rpcx.Session) error { return s.Call(ctx, "login", nil, nil) },
					Options: rpcx.Options{Handler: methods{"back": func(ctx context.Context, _ *rpcx.Request) (any, error) {
						<-begin
						return nil, errors.Join(c.Call(ctx, "inner", nil, nil), c.Go(ctx, "inner", nil).Wait(ctx, nil))
					}}},
				})
				close(made)
				w := l.wire(1)
				down := func() error { return nil }
				if state == "Shutdown" {
					w.answer("1")
				} else {
					w.heard()
				}
				w.say(`{"jsonrpc":"2.0","method":"back","id":"x"}`)
				synctest.Wait()
				if state == "Shutdown" {
					down = started(func() error { return c.Shutdown(t.Context()) })
					synctest.Wait()
				}
				close(begin)
				w.answer("1")
				w.answer("2")
				w.expect(`{"jsonrpc":"2.0","result":null,"id":"x"}`)
				if err := down(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A future that is cancelled while its session ends ends, and does not wait for another.
func TestClientFutureIsCancelledWhileSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f *rpcx.Future
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour) // so that Limits.RequestTimeout does not end the call
		defer cancel()
		first := true
		c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{OnCall: []onCall{
			func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
				if first {
					first = false
					f.Cancel()
					call.Session.Close()
				}
				return ctx, nil, nil
			},
		}}})
		l.downFrom(1)
		f = c.Go(ctx, "m", nil)
		l.set(false, nil)
		l.wire(3)
		if !isDone(f) || f.Err() != rpcx.ErrCancelled {
			t.Errorf("the future is done: %v, with the error %v", isDone(f), f.Err())
		}
	})
}

// A stream whose first session is lost before Subscribe returns is subscribed again on the next
// session, also if that is sending already.
func TestClientSubscribesAgainForALateStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{Limits: rpcx.Limits{Outgoing: 1}, OnCall: []onCall{
			func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
				if call.Method == "sub" {
					return ctx, func(error) { <-release }, nil
				}
				return ctx, nil, nil
			},
		}}})
		var st *rpcx.Stream[int]
		subscribed := started(func() (err error) {
			st, err = rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: "sub", Correlation: rpcx.ElectrumHeaders})
			return err
		})
		l.wire(1).answer("1")
		l.downFrom(1)
		for range 3 {
			c.Go(t.Context(), "m", nil)
		}
		l.set(false, nil)
		w := l.wire(2)
		lines := w.heard() // a call; the others wait for Limits.Outgoing
		close(release)
		if err := subscribed(); err != nil {
			t.Fatal(err)
		}
		w.reply(lines[0], isAnswered)
		for range 3 {
			w.answer("2")
		}
		if v := value(t, st); v != 1 {
			t.Error(v)
		}
		if v := value(t, st); v != 2 {
			t.Error(v)
		}
	})
}

// A stream that ends because a notification has no value unsubscribes, as on a session.
func TestClientStreamWithoutAValueUnsubscribes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{})
		w := l.wire(1)
		st := clientStreamOf[int](t, c, w, rpcx.Subscription{Method: "eth_subscribe"}, `"id"`)
		w.say(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"id","nothing":1}}`)
		if v, err := st.Next(t.Context()); err == nil {
			t.Error(v)
		}
		if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], "eth_unsubscribe") {
			t.Errorf("heard %q", lines)
		}
	})
}

// A stream that is confirmed after its session was shut down, and goes on there, does not take
// values from two sessions.
func TestClientStreamLeavesASessionThatGoesOn(t *testing.T) {
	for _, lose := range []string{"Reconnect", "Session.Shutdown"} {
		t.Run(lose, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{OnCall: []onCall{
					func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
						if call.Method == "sub" {
							return ctx, func(error) { <-release }, nil
						}
						return ctx, nil, nil
					},
				}}})
				pending := c.Go(t.Context(), "pending", nil)
				l.wire(1).heard()
				var st *rpcx.Stream[int]
				subscribed := started(func() (err error) {
					st, err = rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: "sub", Correlation: rpcx.ElectrumHeaders})
					return err
				})
				l.wire(1).answer("1")
				s, _ := c.Session(t.Context())
				if lose == "Reconnect" {
					c.Reconnect()
				} else {
					go s.Shutdown(t.Context())
				}
				w := l.wire(2)
				close(release)
				if err := subscribed(); err != nil {
					t.Fatal(err)
				}
				w.answer("2")
				for want := range 2 {
					if v := value(t, st); v != want+1 {
						t.Error(v)
					}
				}
				l.wire(1).say(`{"jsonrpc":"2.0","method":"sub","params":[3]}`)
				noValue(t, st)
				pending.Cancel()
			})
		})
	}
}

// Sessions without values do not make a reader too slow: their gaps become one.
func TestClientStreamOfSilentSessions(t *testing.T) {
	for _, policy := range []rpcx.OverflowPolicy{rpcx.EndStream, rpcx.DropOldest, rpcx.KeepLatest} {
		synctest.Test(t, func(t *testing.T) {
			c, l := newClient(t, rpcx.ClientOptions{})
			var gaps []*rpcx.GapError
			sub := rpcx.Subscription{Method: "eth_subscribe", Overflow: policy, OnGap: func(g *rpcx.GapError) { gaps = append(gaps, g) }}
			st := clientStreamOf[int](t, c, l.wire(1), sub, `"id"`)
			say := func(n, v int) {
				l.wire(n).say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"id","result":%d}}`, v))
				synctest.Wait()
			}
			say(1, 1)
			start, end := time.Now(), time.Now()
			for n := range 5 {
				l.wire(n + 1).Close()
				l.wire(n + 2).answer(`"id"`)
				synctest.Wait()
				end = time.Now()
				time.Sleep(time.Minute)
			}
			say(6, 2)
			want := 1
			if policy == rpcx.KeepLatest {
				want = 2
			}
			for ; want <= 2; want++ {
				if v := value(t, st); v != want {
					t.Errorf("policy %d: the value is %d, want %d", policy, v, want)
				}
			}
			if len(gaps) != 1 || !gaps[0].From.Equal(start) || !gaps[0].To.Equal(end) {
				t.Errorf("policy %d: the gaps are %v, want one from %v to %v", policy, gaps, start, end)
			}
		})
	}
}

// Close ends the sessions that the client has lost, too, if they go on: one whose peer has
// finished sending, or that the program shuts down.
func TestClientCloseEndsLostSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var peers []io.Closer
		c := rpcx.NewClient(&rpcx.ClientOptions{
			Addrs:   []string{"a"},
			Options: rpcx.Options{Handler: methods{"slow": func(ctx context.Context, _ *rpcx.Request) (any, error) { <-ctx.Done(); return nil, nil }}},
			Connect: func(_ context.Context, _ string, opts *rpcx.Options) (*rpcx.Session, error) {
				in, peerOut := io.Pipe()
				peerIn, out := io.Pipe()
				peers = append(peers, peerOut, peerIn)
				go io.Copy(io.Discard, peerIn)
				s := rpcx.NewSession(rpcx.Join(in, out), opts)
				io.WriteString(peerOut, `{"jsonrpc":"2.0","id":7,"method":"slow"}`+"\n")
				return s, nil
			},
		})
		synctest.Wait()
		peers[0].Close() // has finished sending
		time.Sleep(time.Second)
		s, _ := c.Session(t.Context())
		go s.Shutdown(context.Background())
		time.Sleep(time.Second)
		if len(peers) != 6 || c.State() != rpcx.ClientReady {
			t.Fatalf("%d connections, %v", len(peers)/2, c.State())
		}
		takes(t, 0, func() {
			c.Close()
			<-c.Done()
		})
		for _, p := range peers {
			p.Close()
		}
	})
}

// Shutdown in a handler fails at once, also if the session of the handler was replaced.
func TestClientShutdownInAHandler(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var c *rpcx.Client
			begin, result := make(chan struct{}), make(chan error, 1)
			c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{Handler: methods{"slow": func(ctx context.Context, _ *rpcx.Request) (any, error) {
				<-begin
				result <- c.Shutdown(ctx)
				return nil, nil
			}}}})
			l.wire(1).say(`{"jsonrpc":"2.0","id":7,"method":"slow"}`)
			if synctest.Wait(); replaced {
				c.Reconnect()
				l.wire(2)
			}
			close(begin)
			takes(t, 0, func() {
				if err := <-result; err != rpcx.ErrInHandler {
					t.Error(err)
				}
			})
		})
	}
}

// A CallProgress may be repeated after any time, and Options.OnCall sees the number of the
// attempt: Limits.RequestTimeout bounds the waits, not the call.
func TestClientRepeatsALongCallProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []int
		c, l := newClient(t, rpcx.ClientOptions{
			Idempotent: func(string) bool { return true },
			Options: rpcx.Options{OnCall: []onCall{
				func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
					attempts = append(attempts, call.Attempt)
					return ctx, nil, nil
				},
			}},
		})
		call := started(func() error {
			_, err := rpcx.CallProgress[int](t.Context(), c, rpcx.MCPProgress, "work", nil, func(int) {})
			return err
		})
		l.wire(1).heard()
		time.Sleep(time.Minute)
		l.wire(1).Close()
		w := l.wire(2)
		line := w.heard()[0]
		time.Sleep(time.Minute)
		w.reply(line, isAnswered)
		if err := call(); err != nil || fmt.Sprint(attempts) != "[1 2]" {
			t.Errorf("%v, attempts %v", err, attempts)
		}
		l.downFrom(2)
		takes(t, 30*time.Second, func() {
			_, err := rpcx.CallProgress[int](t.Context(), c, rpcx.MCPProgress, "work", nil, func(int) {})
			matches(t, err, rpcx.ErrTimeout, rpcx.ErrNotConnected)
		})
	})
}

// Subscribing calls and those with progress wait in line with other calls.
func TestClientSendsCallsOfStreamsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{Limits: rpcx.Limits{Outgoing: -1}}})
		l.downFrom(1)
		const n = 300
		for i := range n {
			switch method := fmt.Sprintf("m%03d", i); i % 3 {
			case 0:
				go rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: method, Correlation: rpcx.ElectrumHeaders})
			case 1:
				c.Go(t.Context(), method, nil)
			case 2:
				go rpcx.CallProgress[int](t.Context(), c, rpcx.MCPProgress, method, nil, func(int) {})
			}
			synctest.Wait()
		}
		l.set(false, nil)
		lines := l.wire(2).heard()
		if len(lines) != n {
			t.Errorf("heard %d lines, want %d", len(lines), n)
		}
		for i, line := range lines {
			if !strings.Contains(line, fmt.Sprintf("m%03d", i)) {
				t.Fatalf("line %d is %s", i, line)
			}
		}
	})
}

// If each member of a batch is to be sent again, and there is no session for it, the error is
// that of a batch that was sent.
func TestClientBatchThatIsRepeatedInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{Idempotent: func(string) bool { return true }})
		var b rpcx.Batch
		futures := []*rpcx.Future{b.Call("x", nil, nil), b.Call("y", nil, nil)}
		sent := started(func() error { return c.SendBatch(t.Context(), &b) })
		l.wire(1).heard()
		l.downFrom(1)
		err := sent()
		var failed *rpcx.BatchError
		if !errors.As(err, &failed) || len(failed.Errs) != 2 {
			t.Fatalf("%v", err)
		}
		for i, f := range futures {
			matches(t, failed.Errs[i], rpcx.ErrTimeout, rpcx.ErrNotConnected, rpcx.ErrConnectionLost, f.Err())
		}
	})
}
