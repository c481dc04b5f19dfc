package rpcx_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"golang.org/x/sync/errgroup"
)

// connectAll has srv serve n sessions, and returns their clients.
func connectAll(t *testing.T, srv *rpcx.Server, n int) []*rpcx.Session {
	t.Helper()
	clients := make([]*rpcx.Session, n)
	for i := range clients {
		near, far := net.Pipe()
		if srv.ServeConn(near) == nil {
			t.Fatalf("session %d is refused", i)
		}
		clients[i] = rpcx.NewSession(far, nil)
	}
	t.Cleanup(func() {
		for _, c := range clients {
			c.Close()
			<-c.Done()
		}
		srv.Close()
		srv.Wait(context.Background())
	})
	return clients
}

// endTimes returns how many of the clients' sessions end in each tenth of d from
// now on, the last with those that end later.
func endTimes(clients []*rpcx.Session, d time.Duration) (counts *[10]atomic.Int32, wait func()) {
	counts = new([10]atomic.Int32)
	begun := time.Now()
	var all sync.WaitGroup
	for _, c := range clients {
		all.Add(1)
		c.OnClose(func(error) {
			defer all.Done()
			counts[min(9, time.Since(begun)*10/d)].Add(1)
		})
	}
	return counts, all.Wait
}

// The sessions of a server end evenly over ShutdownSpread. Until its turn each answers
// everything, and what its handler has begun is answered.
func TestShutdownSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, spread = 1000, 10 * time.Second
		var handled, answered atomic.Int32
		srv := &rpcx.Server{ShutdownSpread: spread, Options: *handling(methods{"work": func(context.Context, *rpcx.Request) (any, error) {
			handled.Add(1)
			time.Sleep(300 * time.Millisecond)
			return true, nil
		}})}
		clients := connectAll(t, srv, n)
		var calling errgroup.Group
		for i, c := range clients {
			calling.Go(func() error {
				time.Sleep(time.Duration(i) * 2 * time.Millisecond) // not all in one moment
				for {
					err := c.Call(context.Background(), "work", nil, nil)
					switch {
					case err == nil:
						answered.Add(1)
					case errors.Is(err, rpcx.ErrClosed), errors.Is(err, rpcx.ErrConnectionLost):
						return nil
					case strings.Contains(err.Error(), "shutting down"):
						return nil
					default:
						return err
					}
					time.Sleep(1700 * time.Millisecond)
				}
			})
		}
		counts, wait := endTimes(clients, spread)
		takes(t, 0, func() {
			go srv.Shutdown(context.Background())
			synctest.Wait()
		})
		if srv.Accepts() {
			t.Error("the server still accepts connections")
		}
		begun := time.Now()
		srv.Wait(context.Background())
		if d := time.Since(begun); d < spread-spread/10 || d > spread+time.Second {
			t.Errorf("the end takes %v", d)
		}
		wait()
		for tenth := range counts {
			if n := counts[tenth].Load(); n < 80 || n > 120 {
				t.Errorf("in tenth %d, %d sessions end", tenth, n)
			}
		}
		if err := calling.Wait(); err != nil {
			t.Error(err)
		}
		if h, a := handled.Load(), answered.Load(); h != a || h < 2*n {
			t.Errorf("%d requests were handled, %d answered", h, a)
		}
	})
}

// A single session goes on until its turn, and its turn is not known before.
func TestShutdownSpreadIsRandom(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			srv := &rpcx.Server{ShutdownSpread: time.Hour, Options: *handling(methods{"reply": reply})}
			client := connectAll(t, srv, 1)[0]
			begun := time.Now()
			go srv.Shutdown(context.Background())
			synctest.Wait()
			if n, err := rpcx.Call[int](t.Context(), client, "reply", rpcx.Args{1}); n != 1 || err != nil {
				t.Errorf("before its turn the session answers %d, %v", n, err)
			}
			<-client.Done()
			d := time.Since(begun)
			if d > time.Hour {
				t.Errorf("it ends after %v", d)
			}
			seen[d] = true
		})
	}
	if len(seen) < 5 {
		t.Errorf("of five servers the sessions ended after %v", seen)
	}
}

func TestShutdownDoesNotWaitForTurnsOfSessionsThatAreOver(t *testing.T) {
	for name, end := range map[string]func(*rpcx.Server, []*rpcx.Session){
		"the clients leave": func(_ *rpcx.Server, clients []*rpcx.Session) {
			for _, c := range clients {
				c.Close()
			}
		},
		"the server is closed": func(srv *rpcx.Server, _ []*rpcx.Session) { srv.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{ShutdownSpread: 10000 * time.Hour}
				clients := connectAll(t, srv, 3)
				time.AfterFunc(time.Second, func() { end(srv, clients) })
				takes(t, time.Second, func() {
					if err := srv.Shutdown(t.Context()); err != nil {
						t.Errorf("Shutdown returns %v", err)
					}
				})
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{ShutdownSpread: time.Hour}
		takes(t, 0, func() {
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Errorf("of a server without sessions Shutdown returns %v", err)
			}
		})
	})
}

func TestEndOfTheContextEndsTheSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{ShutdownSpread: 10000 * time.Hour}
		clients := connectAll(t, srv, 3)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		takes(t, 3*time.Second, func() {
			if err := srv.Shutdown(ctx); err != nil && err != context.DeadlineExceeded {
				t.Errorf("Shutdown returns %v", err)
			}
			for _, c := range clients {
				<-c.Done()
			}
		})
	})
}

// Listeners that are served with one context have one spread.
func TestShutdownSpreadOfSeveralListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const spread = 10 * time.Second
		srv := &rpcx.Server{ShutdownSpread: spread}
		ctx, cancel := context.WithCancel(t.Context())
		var serving errgroup.Group
		for range 3 {
			serving.Go(func() error { return srv.ServeContext(ctx, newMemory()) })
		}
		clients := connectAll(t, srv, 200)
		synctest.Wait()
		counts, wait := endTimes(clients, spread)
		cancel()
		if err := serving.Wait(); err != nil {
			t.Errorf("ServeContext returns %v", err)
		}
		wait()
		for tenth := range counts {
			if n := counts[tenth].Load(); n < 15 || n > 25 {
				t.Errorf("in tenth %d, %d sessions end", tenth, n)
			}
		}
	})
}

// ShutdownTimeout begins after the spread, so that the last session has as long as the first.
func TestShutdownTimeoutComesAfterTheSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{ShutdownSpread: 10 * time.Second, ShutdownTimeout: 5 * time.Second, Options: *handling(open)}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- srv.ServeContext(ctx, newMemory()) }()
		clients := connectAll(t, srv, 2)
		clients[0].Go(t.Context(), "m", nil)
		synctest.Wait()
		takes(t, 15*time.Second, func() {
			cancel()
			err := <-served
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "after 15s") ||
				!strings.Contains(err.Error(), "(Server.ShutdownSpread, Server.ShutdownTimeout)") {
				t.Errorf("ServeContext returns %v", err)
			}
		})
		close(open)
	})
}

func TestNegativeShutdownSpreadIsRefused(t *testing.T) {
	srv := &rpcx.Server{ShutdownSpread: -time.Second}
	if err := srv.Serve(newMemory()); err == nil || !strings.Contains(err.Error(), "-1s is negative (Server.ShutdownSpread): write 0") {
		t.Errorf("Serve returns %v", err)
	}
}

// Stopped tells a server that accepts nothing any more from one that is full.
func TestServerStopped(t *testing.T) {
	for name, stop := range map[string]func(*rpcx.Server){
		"StopListening": (*rpcx.Server).StopListening,
		"Close":         func(srv *rpcx.Server) { srv.Close() },
		"Shutdown":      func(srv *rpcx.Server) { srv.Shutdown(t.Context()) },
	} {
		srv := new(rpcx.Server)
		if srv.Stopped() {
			t.Error("a new server was stopped")
		}
		if stop(srv); !srv.Stopped() {
			t.Errorf("after %s the server was not stopped", name)
		}
	}
}
