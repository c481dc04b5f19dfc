package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
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
// A stream that is confirmed after its session was shut down, and goes on there, does not take
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
		if synctest.Wait(); len(peers) != 6 || c.State() != rpcx.ClientReady {
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

// A peer that sends a long message slowly is alive, and so is one that reads a long message
// slowly: the probe waits behind that.
func TestClientKeepAliveOfASlowPeer(t *testing.T) {
	opts := rpcx.ClientOptions{Options: rpcx.Options{Limits: rpcx.Limits{
		KeepAlive: 10 * time.Second, KeepAliveMethod: "ping", RequestTimeout: time.Hour, SendTimeout: time.Hour, Outbox: 1000,
	}}}
	synctest.Test(t, func(t *testing.T) { // sends
		c, l := newClient(t, opts)
		w := l.wire(1)
		f := c.Go(t.Context(), "m", nil)
		w.heard()
		text := `{"jsonrpc":"2.0","id":0,"result":"` + strings.Repeat("x", 100) + `"}` + "\n"
		for i := range text {
			time.Sleep(time.Second)
			if _, err := w.Write([]byte{text[i]}); err != nil {
				t.Fatal(err)
			}
		}
		if !isDone(f) || f.Err() != nil {
			t.Error(f.Err())
		}
	})
	for _, size := range []int{100, 2000} { // reads; over Limits.Outbox, the probe is not sent
		synctest.Test(t, func(t *testing.T) {
			l := &lines{t: t, deaf: true}
			clientOpts := opts
			clientOpts.Connect = l.connect
			c, _ := newClient(t, clientOpts)
			c.Go(t.Context(), "m", rpcx.Args{strings.Repeat("x", size)})
			w := l.wire(1)
			for range size / 20 {
				time.Sleep(10 * time.Second)
				if _, err := io.ReadFull(w, make([]byte, 20)); err != nil {
					t.Fatal(err)
				}
			}
			if l.set(false, nil); c.State() != rpcx.ClientReady || l.attempts() != 1 {
				t.Errorf("%v, after %d attempts", c.State(), l.attempts())
			}
			w.Close()
			l.wire(2)
		})
	}
}

// The longest backoff is no number too large, and a RetryAfter of years stays within it.
func TestClientWithTheLongestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lines{t: t, down: errors.New("down")}
		c := rpcx.NewClient(&rpcx.ClientOptions{Addrs: []string{"a"}, Connect: l.connect, MinBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64})
		if synctest.Wait(); c.State() != rpcx.ClientBackoff {
			t.Error(c.State())
		}
		c.Close()
		<-c.Done()
	})
}

// An unwritten notification is framed anew: addresses may differ in their framing.
func TestClientFramesNotificationsAnew(t *testing.T) {
	framers := []rpcx.Framer{rpcx.NewlineFramer{}, rpcx.HeaderFramer{}, rpcx.LengthFramer{}, rpcx.JSONFramer{}, rpcx.NewlineFramer{}}
	for i := range framers[1:] {
		synctest.Test(t, func(t *testing.T) {
			var peers []net.Conn
			c := rpcx.NewClient(&rpcx.ClientOptions{Addrs: []string{"a"}, Connect: func(_ context.Context, _ string, opts *rpcx.Options) (*rpcx.Session, error) {
				near, far := net.Pipe()
				opts.Framer = framers[i+len(peers)]
				peers = append(peers, far)
				return rpcx.NewSession(near, opts), nil
			}})
			synctest.Wait()
			if err := c.Notify(t.Context(), "note", rpcx.Args{"a\nb"}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			peers[0].Close()
			time.Sleep(time.Second)
			synctest.Wait()
			heard := make(chan string, 1)
			peer := rpcx.NewSession(peers[1], &rpcx.Options{Framer: framers[i+1], Handler: methods{"note": rpcx.Func(func(text string) { heard <- text }).ServeRPC}})
			if got := <-heard; got != "a\nb" {
				t.Errorf("heard %s", got)
			}
			c.Close()
			<-c.Done()
			<-peer.Done()
		})
	}
}

// OnState is told that an attempt took too long, and by which option, also if OnConnect reports
// only the close of the session.
func TestClientNamesConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, own := range []bool{true, false} {
			var reason error
			c, l := newClient(t, rpcx.ClientOptions{
				OnConnect: func(ctx context.Context, s *rpcx.Session) error {
					if !own {
						ctx = context.Background()
					}
					return s.Call(ctx, "login", nil, nil)
				},
				OnState: func(state rpcx.ClientState, err error) {
					if state == rpcx.ClientBackoff {
						reason = err
					}
				},
				ConnectTimeout: 5 * time.Second,
			})
			l.wire(2)
			synctest.Wait()
			if matches(t, reason, context.DeadlineExceeded); fmt.Sprint(reason) != "rpcx: no session within 5s (ClientOptions.ConnectTimeout): context deadline exceeded" {
				t.Errorf("the reason is %v", reason)
			}
			c.Close()
		}
	})
}

// A member of a batch that is cancelled when it is about to be sent again fails, and does not
// look answered.
func TestClientBatchMemberIsCancelledBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b rpcx.Batch
		var f *rpcx.Future
		c, l := newClient(t, rpcx.ClientOptions{Idempotent: func(method string) bool {
			if method == "x" {
				f.Cancel()
			}
			return true
		}})
		f = b.Call("x", nil, nil)
		b.Call("y", nil, nil)
		sent := started(func() error { return c.SendBatch(t.Context(), &b) })
		l.wire(1).heard()
		l.wire(1).Close()
		w := l.wire(2)
		lines := w.heard()
		w.say(strings.Replace(strings.Replace(lines[0], `"method":"y"`, `"result":1`, 1), "null", "1", 1))
		var failed *rpcx.BatchError
		if err := sent(); !errors.As(err, &failed) || failed.Errs[0] != rpcx.ErrCancelled || failed.Errs[1] != nil || f.Err() != rpcx.ErrCancelled {
			t.Errorf("%v; the cancelled call: %v", err, f.Err())
		}
	})
}
