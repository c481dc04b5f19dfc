package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// The wait before an attempt is random, and its bound doubles up to MaxBackoff.
func TestClientBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{MaxBackoff: 2 * time.Second})
		l.wire(1)
		l.set(false, errors.New("down"))
		l.wire(1).Close()
		time.Sleep(time.Hour)
		if n := l.attempts(); n < 3000 || n > 5000 {
			t.Errorf("%d attempts in an hour, want about one a second", n)
		}
		bound := 100 * time.Millisecond
		var waits []time.Duration
		for i := 2; i < len(l.times); i++ {
			wait := l.times[i].Sub(l.times[i-1])
			if waits = append(waits, wait); wait > 2*bound || wait > 2*time.Second {
				t.Errorf("attempt %d is made after %v", i, wait)
			}
			bound = min(2*bound, 2*time.Second)
		}
		slices.Sort(waits)
		if waits[len(waits)/2] < 800*time.Millisecond || waits[len(waits)/2] > 1200*time.Millisecond {
			t.Errorf("the median of the waits is %v", waits[len(waits)/2])
		}
		if c.State() != rpcx.ClientBackoff {
			t.Error(c.State())
		}
		// Only a session that has lived for StableAfter starts the backoff anew.
		l.set(false, nil)
		l.wire(2)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		l.wire(2).Close()
		takesAtMost(t, 200*time.Millisecond, func() { l.wire(3) })
	})
}

// takesAtMost says that f takes at most so long, on the bubble's clock.
func takesAtMost(t *testing.T, most time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if got := time.Since(start); got > most {
		t.Errorf("took %v, want at most %v", got, most)
	}
}

// A hostile server can neither park the client for longer than ten times MaxBackoff nor make it
// spin.
func TestClientOfHostileServers(t *testing.T) {
	refusal := func(outcome string) func(*wire) {
		return func(w *wire) {
			if lines := w.heard(); len(lines) == 1 {
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":%s}`, idOf(w.t, lines[0]), outcome))
			}
		}
	}
	for _, test := range []struct {
		name        string
		addrs       []string
		serve       func(w *wire) // after the connection
		least, most int           // attempts in three hours
	}{
		{"asks for years of patience", []string{"a"}, refusal(`{"code":-101,"message":"","data":{"retry_after":1e18}}`), 34, 40},
		{"asks for years of patience, both", []string{"a", "b"}, refusal(`{"code":-101,"message":"","data":{"retry_after":1e300}}`), 68, 80},
		{"asks for patience in the past", []string{"a"}, refusal(`{"code":-101,"message":"","data":{"retry_after":-1e300}}`), 500, 1000},
		{"asks for nonsense", []string{"a"}, refusal(`{"code":-101,"message":"","data":"x"}`), 500, 1000},
		{"shuts down for ever", []string{"a"}, refusal(`{"code":-102,"message":"","data":{"started":false,"reason":"shutting down"}}`), 500, 1000},
		{"shuts down for ever, three of them", []string{"a", "b", "c"}, refusal(`{"code":-102,"message":"","data":{"started":false,"reason":"shutting down"}}`), 1500, 3000},
		{"is busy for ever", []string{"a"}, refusal(`{"code":-102,"message":"","data":{"started":false,"reason":"queue"}}`), 500, 1000},
		{"closes after the login", []string{"a"}, func(w *wire) { w.answer("null"); w.Close() }, 500, 1000},
		{"accepts and says nothing", []string{"a"}, func(*wire) {}, 190, 370},
		{"accepts and hangs up", []string{"a"}, func(w *wire) { w.Close() }, 500, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &lines{t: t}
				c := rpcx.NewClient(&rpcx.ClientOptions{
					Addrs: test.addrs,
					Connect: func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
						l.mu.Lock()
						n := len(l.wires)
						l.mu.Unlock()
						s, err := l.connect(ctx, addr, opts)
						w := l.wires[n]
						go func() {
							time.Sleep(time.Millisecond)
							test.serve(w)
						}()
						return s, err
					},
					OnConnect: func(ctx context.Context, s *rpcx.Session) error { return s.Call(ctx, "login", nil, nil) },
				})
				f := c.Go(t.Context(), "waits", nil)
				time.Sleep(3 * time.Hour)
				if n := l.attempts(); n < test.least || n > test.most {
					t.Errorf("%d attempts in three hours, want %d to %d", n, test.least, test.most)
				}
				if err := f.Err(); !errors.Is(err, rpcx.ErrTimeout) && !errors.Is(err, rpcx.ErrConnectionLost) {
					t.Errorf("a call has ended with %v", err)
				}
				c.Close()
				for _, w := range l.wires {
					w.Close()
				}
				<-c.Done()
			})
		})
	}
}

// A -102 for ever ends a call after MaxRetries, and does not end the session.
func TestClientKeepsTheOrderOfRefusedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{})
		w := l.wire(1)
		var futures []*rpcx.Future
		for i := range 20 {
			futures = append(futures, c.Go(t.Context(), "m", rpcx.Args{i}))
		}
		for _, line := range w.heard() {
			w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, idOf(t, line), isNotStarted))
		}
		time.Sleep(time.Second)
		lines := w.heard()
		if len(lines) != 20 {
			t.Fatalf("%q", lines)
		}
		for i, line := range lines {
			if !strings.Contains(line, fmt.Sprintf("[%d]", i)) {
				t.Errorf("line %d is %s", i, line)
			}
			w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%d}`, idOf(t, line), i))
		}
		for i, f := range futures {
			var n int
			if err := f.Wait(t.Context(), &n); err != nil || n != i {
				t.Errorf("%d, %v", n, err)
			}
		}
	})
}

// Close and Shutdown work in every state, and Close returns at once.
func TestClientEndsInEveryState(t *testing.T) {
	connecting := func(ctx context.Context, _ string, _ *rpcx.Options) (*rpcx.Session, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, test := range []struct {
		name  string
		opts  rpcx.ClientOptions
		reach func(t *testing.T, c *rpcx.Client, l *lines)
		state rpcx.ClientState
	}{
		{"connecting", rpcx.ClientOptions{Connect: connecting}, nil, rpcx.ClientConnecting},
		{"in OnConnect", rpcx.ClientOptions{OnConnect: func(ctx context.Context, s *rpcx.Session) error {
			return s.Call(context.Background(), "login", nil, nil)
		}}, nil, rpcx.ClientConnecting},
		{"ready", rpcx.ClientOptions{}, nil, rpcx.ClientReady},
		{"in a backoff", rpcx.ClientOptions{MinBackoff: time.Hour, MaxBackoff: time.Hour}, func(t *testing.T, c *rpcx.Client, l *lines) {
			l.set(false, errors.New("down"))
			l.wire(1).Close()
		}, rpcx.ClientBackoff},
		{"with a peer that does not read", rpcx.ClientOptions{}, func(t *testing.T, c *rpcx.Client, l *lines) {
			l.set(true, nil)
			l.wire(1).Close()
			l.wire(2)
			for range 10 {
				c.Go(t.Context(), "m", rpcx.Args{strings.Repeat("x", 1<<20)})
				started(func() error { return c.Call(t.Context(), "m", rpcx.Args{strings.Repeat("x", 1<<20)}, nil) })
			}
		}, rpcx.ClientReady},
		{"while calls are held", rpcx.ClientOptions{MinBackoff: time.Hour, MaxBackoff: time.Hour}, func(t *testing.T, c *rpcx.Client, l *lines) {
			c.Go(t.Context(), "m", nil)
			w := l.wire(1)
			w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, idOf(t, w.heard()[0]), isNotStarted))
		}, rpcx.ClientReady},
		{"while a replaced session is drained", rpcx.ClientOptions{}, func(t *testing.T, c *rpcx.Client, l *lines) {
			c.Go(t.Context(), "m", nil)
			l.wire(1)
			c.Reconnect()
			l.wire(2)
		}, rpcx.ClientReady},
	} {
		for _, end := range []struct {
			name string
			call func(c *rpcx.Client) error
		}{
			{"Close", func(c *rpcx.Client) error { return c.Close() }},
			{"Shutdown with a context that has ended", func(c *rpcx.Client) error {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				if err := c.Shutdown(ctx); err != nil && err != context.Canceled {
					return err
				}
				return nil
			}},
		} {
			t.Run(test.name+"/"+end.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, l := newClient(t, test.opts)
					if synctest.Wait(); test.reach != nil {
						test.reach(t, c, l)
						synctest.Wait()
					}
					if c.State() != test.state {
						t.Fatalf("the client is %v, want %v", c.State(), test.state)
					}
					call := c.Go(t.Context(), "late", nil)
					notify := started(func() error { return c.Notify(t.Context(), "late", nil) })
					synctest.Wait()
					takes(t, 0, func() {
						if err := end.call(c); err != nil {
							t.Error(err)
						}
						synctest.Wait()
						if err := call.Err(); err == nil || !errors.Is(err, rpcx.ErrClosed) {
							t.Errorf("a call ends with %v", err)
						}
						_ = notify()
					})
					if c.State() != rpcx.ClientClosed || !errors.Is(c.Err(), rpcx.ErrClosed) {
						t.Errorf("%v, %v", c.State(), c.Err())
					}
					for _, err := range []error{c.Call(t.Context(), "m", nil, nil), c.Go(t.Context(), "m", nil).Err(), c.Notify(t.Context(), "m", nil)} {
						matches(t, err, rpcx.ErrClosed)
					}
				})
			})
		}
	}
}

// Shutdown waits for the calls under way, also for those that wait for a session.
func TestClientShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{Idempotent: func(string) bool { return true }})
		ctx := t.Context()
		pending := c.Go(ctx, "pending", nil)
		l.wire(1).heard()
		down := started(func() error { return c.Shutdown(ctx) })
		synctest.Wait()
		if err := c.Call(ctx, "late", nil, nil); err != rpcx.ErrClosed {
			t.Error(err)
		}
		if err := c.Go(ctx, "late", nil).Err(); err != rpcx.ErrClosed {
			t.Error(err)
		}
		l.wire(1).say(`{"jsonrpc":"2.0","id":0,"result":1}`)
		if err := pending.Wait(ctx, nil); err != nil {
			t.Error(err)
		}
		if err := down(); err != nil || l.attempts() != 1 {
			t.Errorf("%v, after %d attempts", err, l.attempts())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{})
		l.wire(1)
		l.set(false, errors.New("down"))
		l.wire(1).Close()
		synctest.Wait()
		f := c.Go(t.Context(), "waits", nil)
		down := started(func() error { return c.Shutdown(t.Context()) })
		time.Sleep(time.Second)
		l.set(false, nil)
		w := l.wire(2)
		w.answer("1")
		if err := errors.Join(f.Wait(t.Context(), nil), down()); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // without anything to do
		c, l := newClient(t, rpcx.ClientOptions{})
		l.wire(1)
		l.set(false, errors.New("down"))
		l.wire(1).Close()
		synctest.Wait()
		takes(t, 0, func() {
			if err := c.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	})
}

// A PermanentError of OnConnect or Connect ends the client, and fails what waits.
func TestClientPermanentError(t *testing.T) {
	for _, test := range []struct {
		name string
		opts rpcx.ClientOptions
	}{
		{"OnConnect", rpcx.ClientOptions{OnConnect: func(context.Context, *rpcx.Session) error {
			return fmt.Errorf("login: %w", &rpcx.PermanentError{Err: io.ErrNoProgress})
		}}},
		{"Connect", rpcx.ClientOptions{Connect: func(context.Context, string, *rpcx.Options) (*rpcx.Session, error) {
			return nil, &rpcx.PermanentError{Err: io.ErrNoProgress}
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := newClient(t, test.opts)
				f := c.Go(t.Context(), "m", nil)
				_, err := c.Session(t.Context())
				<-c.Done()
				var permanent *rpcx.PermanentError
				for _, err := range []error{err, f.Err(), c.Call(t.Context(), "m", nil, nil), c.Err()} {
					if !errors.Is(err, rpcx.ErrClosed) || !errors.Is(err, io.ErrNoProgress) || !errors.As(err, &permanent) {
						t.Errorf("the error is %v", err)
					}
				}
			})
		})
	}
}

// OnState is told each state, in order, with the reason.
func TestClientStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var states []string
		fails := true
		c, l := newClient(t, rpcx.ClientOptions{
			MinBackoff: time.Second, MaxBackoff: time.Second,
			OnState: func(state rpcx.ClientState, reason error) {
				states = append(states, fmt.Sprintf("%v: %v", state, reason))
			},
			OnConnect: func(context.Context, *rpcx.Session) error {
				if fails {
					fails = false
					return errors.New("no")
				}
				return nil
			},
		})
		if s, err := c.Session(t.Context()); err != nil {
			t.Fatal(s, err)
		}
		l.wire(2).Close()
		l.wire(3)
		synctest.Wait()
		c.Close()
		<-c.Done()
		want := []string{
			"connecting: <nil>", "backoff: no", "connecting: no", "ready: <nil>",
			"backoff: EOF", "connecting: EOF", "ready: <nil>", "closed: rpcx: client closed",
		}
		if !slices.Equal(states, want) {
			t.Errorf("the states are %q, want %q", states, want)
		}
	})
}

// OnConnect comes before anything else, and may call the client itself. Its failures are failed
// attempts, within ConnectTimeout.
func TestClientOnConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *rpcx.Client
		made := make(chan struct{})
		var mu sync.Mutex
		var results []error
		c, l := newClient(t, rpcx.ClientOptions{OnConnect: func(ctx context.Context, s *rpcx.Session) error {
			<-made
			err := errors.Join(s.Notify(ctx, "hello", nil), c.Call(ctx, "login", nil, nil), c.Notify(ctx, "ready", nil))
			mu.Lock()
			defer mu.Unlock()
			results = append(results, err)
			return err
		}})
		close(made)
		f := c.Go(t.Context(), "waits", nil)
		w := l.wire(1)
		w.expect(`{"jsonrpc":"2.0","method":"hello"}`, `{"jsonrpc":"2.0","method":"login","id":0}`)
		time.Sleep(31 * time.Second) // ConnectTimeout
		w = l.wire(2)
		w.expect(`{"jsonrpc":"2.0","method":"hello"}`, `{"jsonrpc":"2.0","method":"login","id":0}`)
		w.say(`{"jsonrpc":"2.0","id":0,"result":null}`)
		w.expect(`{"jsonrpc":"2.0","method":"ready"}`)
		if err := f.Err(); !errors.Is(err, rpcx.ErrTimeout) || !errors.Is(err, rpcx.ErrNotConnected) {
			t.Error(err)
		}
		if len(results) != 2 || results[0] == nil || results[1] != nil {
			t.Errorf("%v", results)
		}
	})
}

// Reconnect uses the next address, and lets calls finish.
func TestClientReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{Addrs: []string{"a", "b", "c"}, MinBackoff: time.Hour, MaxBackoff: time.Hour})
		ctx := t.Context()
		f := c.Go(ctx, "first", nil)
		st := clientStreamOfSecond(t, c, l.wire(1))
		takes(t, 0, func() {
			c.Reconnect()
			l.wire(2).answer("2")
		})
		if v := value(t, st); v != 1 {
			t.Error(v)
		}
		if v := value(t, st); v != 2 {
			t.Error(v)
		}
		l.wire(1).say(`{"jsonrpc":"2.0","id":0,"result":1}`)
		if err := f.Wait(ctx, nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !l.wire(1).hungUp() {
			t.Error("the replaced session goes on")
		}
		c.Reconnect()
		l.wire(3)
		if got := strings.Join(l.addrs, ""); got != "abc" {
			t.Errorf("the addresses are %s", got)
		}
	})
}

// clientStreamOfSecond subscribes on w, which has heard another call before.
func clientStreamOfSecond(t *testing.T, c *rpcx.Client, w *wire) *rpcx.Stream[int] {
	w.heard()
	return clientStreamOf[int](t, c, w, rpcx.Subscription{Method: "news", Correlation: rpcx.ElectrumHeaders}, "1")
}

// A peer that vanishes without a sign is noticed within three times KeepAlive, and one that
// answers is not taken for dead.
func TestClientKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := rpcx.ClientOptions{Options: rpcx.Options{Limits: rpcx.Limits{KeepAlive: 10 * time.Second, KeepAliveMethod: "ping"}}}
		c, l := newClient(t, opts)
		w := l.wire(1)
		for range 20 { // an error is an answer, too
			time.Sleep(10 * time.Second)
			if lines := w.heard(); len(lines) == 1 && strings.Contains(lines[0], `"ping"`) {
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, idOf(t, lines[0]), isFailed))
			} else if len(lines) > 0 {
				t.Fatalf("%q", lines)
			}
		}
		if c.State() != rpcx.ClientReady {
			t.Fatal("a live session has ended")
		}
		f := c.Go(t.Context(), "m", nil)
		takesAtMost(t, 30*time.Second+200*time.Millisecond, func() { l.wire(2) })
		matches(t, f.Err(), rpcx.ErrConnectionLost, rpcx.ErrUnreachable)
	})
}

// If the peer finishes sending, the client goes on with another session, and the old session
// still answers its peer.
func TestClientLeavesWhenThePeerHasFinishedSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, end := make(chan struct{}), make(chan struct{})
		handler := methods{"slow": func(context.Context, *rpcx.Request) (any, error) {
			close(begun)
			<-end
			return "done", nil
		}}
		var toClient, fromClient []*io.PipeWriter
		var heard []*strings.Builder
		connect := func(_ context.Context, _ string, opts *rpcx.Options) (*rpcx.Session, error) {
			in, peerOut := io.Pipe()
			peerIn, out := io.Pipe()
			text := new(strings.Builder)
			toClient, fromClient, heard = append(toClient, peerOut), append(fromClient, out), append(heard, text)
			go io.Copy(text, peerIn)
			return rpcx.NewSession(rpcx.Join(in, out), opts), nil
		}
		c := rpcx.NewClient(&rpcx.ClientOptions{Addrs: []string{"a"}, Connect: connect, Options: rpcx.Options{Handler: handler}})
		synctest.Wait()
		io.WriteString(toClient[0], `{"jsonrpc":"2.0","id":7,"method":"slow"}`+"\n")
		<-begun
		f := c.Go(t.Context(), "m", nil)
		synctest.Wait()
		toClient[0].Close()
		synctest.Wait()
		matches(t, f.Err(), rpcx.ErrConnectionLost)
		time.Sleep(time.Second)
		if synctest.Wait(); len(heard) != 2 || c.State() != rpcx.ClientReady {
			t.Errorf("%d connections, %v", len(heard), c.State())
		}
		close(end)
		synctest.Wait()
		if !strings.Contains(heard[0].String(), `"id":7,"result":"done"`) && !strings.Contains(heard[0].String(), `"result":"done","id":7`) {
			t.Errorf("heard %q", heard[0])
		}
		c.Close()
		toClient[1].Close()
		<-c.Done()
		for _, w := range fromClient {
			w.Close()
		}
	})
}

func TestNewClientChecksItsOptions(t *testing.T) {
	for _, test := range []struct {
		opts *rpcx.ClientOptions
		want string
	}{
		{nil, "rpcx: ClientOptions.Addrs is empty"},
		{&rpcx.ClientOptions{}, "rpcx: ClientOptions.Addrs is empty"},
		{&rpcx.ClientOptions{Addrs: []string{"a"}, MinBackoff: 5}, "rpcx: ClientOptions.MinBackoff is 5ns: write 5*time.Second"},
		{&rpcx.ClientOptions{Addrs: []string{"a"}, StableAfter: -1}, "rpcx: ClientOptions.StableAfter is -1ns: it cannot be switched off"},
		{&rpcx.ClientOptions{Addrs: []string{"a"}, MinBackoff: time.Minute, MaxBackoff: time.Second}, "rpcx: ClientOptions.MinBackoff is 1m0s, over MaxBackoff, 1s"},
		{&rpcx.ClientOptions{Addrs: []string{"tcp://a:1", "ws://a"}}, `rpcx: ClientOptions.Addrs[1]: address "ws://a" is a WebSocket's`},
		{&rpcx.ClientOptions{Addrs: []string{"tcp://a:1"}, Options: rpcx.Options{Limits: rpcx.Limits{KeepAlive: 3}}}, "rpcx: Limits.KeepAlive is 3ns"},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, test.want) {
					t.Errorf("NewClient panics with %q, want %q", got, test.want)
				}
			}()
			rpcx.NewClient(test.opts)
		}()
	}
}

// The context of Connect lives as long as the session, or the attempt.
func TestClientContextOfConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lines{t: t}
		var contexts []context.Context
		c, _ := newClient(t, rpcx.ClientOptions{ConnectTimeout: time.Second, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond,
			Connect: func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
				contexts = append(contexts, ctx)
				if len(contexts) == 1 {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return l.connect(ctx, addr, opts)
			}})
		_, err := c.Session(t.Context())
		time.Sleep(time.Minute)
		if err != nil || contexts[1].Err() != nil {
			t.Fatal(err, contexts[1].Err())
		}
		matches(t, context.Cause(contexts[0]), context.DeadlineExceeded)
		l.wire(1).Close()
		l.wire(2)
		synctest.Wait()
		if contexts[1].Err() == nil || contexts[2].Err() != nil {
			t.Error("a context does not end with its session")
		}
		c.Close()
		<-c.Done()
		if contexts[2].Err() == nil {
			t.Error("a context does not end with the client")
		}
		l.wire(2).Close()
	})
}

// Session waits also with FailFast, and Shutdown does not wait for the function it runs in.
func TestClientSessionAndShutdownOfFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *rpcx.Client
		made := make(chan struct{})
		ends := make(chan error, 1)
		c, l := newClient(t, rpcx.ClientOptions{FailFast: true, OnConnect: func(ctx context.Context, s *rpcx.Session) error {
			<-made
			ends <- c.Shutdown(ctx)
			return nil
		}})
		session := started(func() error { _, err := c.Session(t.Context()); return err })
		matches(t, c.Call(t.Context(), "m", nil, nil), rpcx.ErrNotConnected)
		close(made)
		if err := session(); err != nil {
			t.Error(err)
		}
		matches(t, <-ends, rpcx.ErrInHandler)
		l.wire(1)
	})
}

// A failed attempt is logged once for each reason.
func TestClientLogsFailedAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		reasons := []string{"busy", "busy", "gone", "busy"}
		l := &lines{t: t}
		c, _ := newClient(t, rpcx.ClientOptions{
			Options: rpcx.Options{Logger: slog.New(log)},
			Connect: func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
				if len(reasons) > 0 {
					reason := reasons[0]
					reasons = reasons[1:]
					return nil, errors.New(reason)
				}
				return l.connect(ctx, addr, opts)
			},
		})
		if _, err := c.Session(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := log.attr("error"); !slices.Equal(got, []string{"busy", "gone", "busy"}) {
			t.Errorf("the log has the reasons %q", got)
		}
		l.wire(1).Close()
	})
}

// slowlyClosed is a connection to a peer that has vanished. Close takes a second, as that of
// a WebSocket does.
type slowlyClosed struct{ closed chan struct{} }

func (c slowlyClosed) ReadMessage() ([]byte, error) {
	<-c.closed
	return nil, io.EOF
}
func (c slowlyClosed) WriteMessages([][]byte) error { return nil }
func (c slowlyClosed) Close() error {
	time.Sleep(time.Second)
	close(c.closed)
	return nil
}

// The client does not wait for the close of a connection whose peer has vanished.
func TestClientKeepAliveDoesNotWaitForClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newClient(t, rpcx.ClientOptions{
			Options:    rpcx.Options{Limits: rpcx.Limits{KeepAlive: 10 * time.Second, KeepAliveMethod: "ping"}},
			MinBackoff: time.Hour, MaxBackoff: time.Hour,
			Connect: func(_ context.Context, _ string, opts *rpcx.Options) (*rpcx.Session, error) {
				return rpcx.NewMessageSession(slowlyClosed{make(chan struct{})}, opts), nil
			},
		})
		if _, err := c.Session(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if synctest.Wait(); c.State() != rpcx.ClientBackoff {
			t.Errorf("the state is %v", c.State())
		}
		f := c.Go(t.Context(), "m", nil)
		c.Close()
		matches(t, f.Err(), rpcx.ErrClosed)
	})
}

// A refusal in OnConnect counts, although the peer hangs up after it.
func TestClientOnConnectIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refused error
		c, l := newClient(t, rpcx.ClientOptions{
			Addrs: []string{"a", "b"}, MinBackoff: time.Hour, MaxBackoff: time.Hour,
			OnConnect: func(ctx context.Context, s *rpcx.Session) error {
				err := s.Call(ctx, "login", nil, nil)
				if err != nil {
					refused = err
					<-s.Done()
				}
				return err
			},
		})
		w := l.wire(1)
		w.say(`{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy","data":{"reason":"shutting down","started":false}},"id":0}`)
		w.Close()
		takes(t, 0, func() { l.wire(2).answer("null") }) // at once
		if _, err := c.Session(t.Context()); err != nil || !errors.Is(refused, rpcx.ErrServerBusy) {
			t.Error(err, refused)
		}
	})
}
