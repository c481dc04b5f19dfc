package rpcx_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/oracle"
	"golang.org/x/sync/errgroup"
)

// spreadSessions is the number of sessions that end over a ShutdownSpread.
var spreadSessions = flag.Int("spread-sessions", 1000, "sessions in the tests of ShutdownSpread; 5,000 take some seconds")

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
		const spread = 10 * time.Second
		n := *spreadSessions
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
				time.Sleep(2 * time.Second * time.Duration(i) / time.Duration(n)) // not all in one moment
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
			if ended := int(counts[tenth].Load()); ended < n*8/100 || ended > n*12/100 {
				t.Errorf("in tenth %d, %d of %d sessions end", tenth, ended, n)
			}
		}
		if err := calling.Wait(); err != nil {
			t.Error(err)
		}
		if h, a := handled.Load(), answered.Load(); h != a || int(h) < 2*n {
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
	for _, test := range []struct {
		notice, spread, total time.Duration
		fields                string
	}{
		{0, 0, 5 * time.Second, "(Server.ShutdownTimeout)"},
		{0, 10 * time.Second, 15 * time.Second, "(Server.ShutdownSpread, Server.ShutdownTimeout)"},
		{3 * time.Second, 0, 8 * time.Second, "(Server.ShutdownNotice, Server.ShutdownTimeout)"},
		{3 * time.Second, 10 * time.Second, 18 * time.Second, "(Server.ShutdownNotice, Server.ShutdownSpread, Server.ShutdownTimeout)"},
	} {
		synctest.Test(t, func(t *testing.T) {
			open := make(gate)
			srv := &rpcx.Server{ShutdownNotice: test.notice, ShutdownSpread: test.spread, ShutdownTimeout: 5 * time.Second, Options: *handling(open)}
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- srv.ServeContext(ctx, newMemory()) }()
			clients := connectAll(t, srv, 2)
			clients[0].Go(t.Context(), "m", nil)
			synctest.Wait()
			takes(t, test.total, func() {
				cancel()
				err := <-served
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "after "+test.total.String()) ||
					!strings.Contains(err.Error(), test.fields) {
					t.Errorf("ServeContext returns %v", err)
				}
			})
			close(open)
		})
	}
}

// During ShutdownNotice the server is not ready, and still does everything. The end of the
// context, StopListening and Close end the notice.
func TestShutdownNotice(t *testing.T) {
	const notice = 3 * time.Second
	never, cancel := context.WithCancel(context.Background())
	cancel()
	for name, end := range map[string]struct {
		early func(*rpcx.Server)
		ctx   context.Context
		want  time.Duration
	}{
		"whole":             {func(*rpcx.Server) {}, context.Background(), notice},
		"StopListening":     {(*rpcx.Server).StopListening, context.Background(), time.Second},
		"Close":             {func(srv *rpcx.Server) { srv.Close() }, context.Background(), time.Second},
		"end of a context":  {func(*rpcx.Server) {}, never, 0},
		"a second Shutdown": {func(srv *rpcx.Server) { _ = srv.Shutdown(context.Background()) }, context.Background(), notice},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{ShutdownNotice: notice, Options: *handling(methods{"reply": reply})}
				if !srv.Ready() {
					t.Error("a new server is not ready")
				}
				client := connectAll(t, srv, 1)[0]
				begun := time.Now()
				done := make(chan struct{})
				// Owner: the test. End: Shutdown returns.
				go func() { defer close(done); _ = srv.Shutdown(end.ctx) }()
				if end.want > 0 {
					time.Sleep(time.Second)
					if srv.Ready() || srv.Stopped() || !srv.Accepts() {
						t.Errorf("after a second: ready %t, stopped %t", srv.Ready(), srv.Stopped())
					}
					if err := client.Call(t.Context(), "reply", nil, nil); err != nil {
						t.Errorf("a call during the notice: %v", err)
					}
					end.early(srv)
				}
				<-done
				if d := time.Since(begun); d != end.want || srv.Ready() || !srv.Stopped() {
					t.Errorf("stopped after %v (%t), want %v", d, srv.Stopped(), end.want)
				}
			})
		})
	}
	srv := &rpcx.Server{ShutdownNotice: -time.Second}
	if err := srv.Serve(newMemory()); err == nil || !strings.Contains(err.Error(), "-1s is negative (Server.ShutdownNotice): write 0") {
		t.Errorf("a negative notice: %v", err)
	}
}

// The time for sessions to finish begins after the notice.
func TestShutdownTimeoutComesAfterTheNotice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{ShutdownNotice: 3 * time.Second, ShutdownTimeout: 5 * time.Second}
		connectAll(t, srv, 1)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		begun := time.Now()
		if err := srv.ServeContext(ctx, newMemory()); err != nil || time.Since(begun) != 3*time.Second {
			t.Errorf("served until %v: %v", time.Since(begun), err)
		}
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

// lateConn is a connection whose bytes arrive a millisecond after they were written.
type lateConn struct {
	net.Conn
	sent   chan []byte
	closed chan struct{}
	once   sync.Once
}

// latePipe returns the ends of a connection with late bytes both ways.
func latePipe() (a, b net.Conn) {
	near, far := net.Pipe()
	return newLateConn(near), newLateConn(far)
}

func newLateConn(conn net.Conn) *lateConn {
	c := &lateConn{Conn: conn, sent: make(chan []byte, 100), closed: make(chan struct{})}
	// Owner: the connection. End: Close, or the other end is closed.
	go func() {
		defer conn.Close()
		for {
			select {
			case p := <-c.sent:
				time.Sleep(time.Millisecond)
				if _, err := conn.Write(p); err != nil {
					return
				}
			case <-c.closed:
				if len(c.sent) == 0 {
					time.Sleep(time.Millisecond)
					return
				}
			}
		}
	}()
	return c
}

func (c *lateConn) Write(p []byte) (int, error) {
	select {
	case c.sent <- bytes.Clone(p):
		return len(p), nil
	default:
		return 0, io.ErrShortWrite
	}
}

func (c *lateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// Clients that call one after another leave a server that ends with ShutdownSpread, evenly,
// and all their calls are answered: each client learns by a refusal to go elsewhere.
func TestClientsLeaveByShutdownSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const spread = 10 * time.Second
		n := *spreadSessions
		var log oracle.Log
		work := rpcx.NewRouter()
		work.Handle("work", rpcx.Func(func(number int) int {
			log.Started(number)
			defer log.Finished(number)
			time.Sleep(2 * time.Millisecond)
			return number
		}))
		servers := map[string]*rpcx.Server{}
		for _, name := range []string{"tcp://one:1", "tcp://two:2"} {
			servers[name] = &rpcx.Server{ShutdownSpread: spread, Options: *handling(work)}
		}
		var clients []*rpcx.Client
		for range n {
			clients = append(clients, rpcx.NewClient(&rpcx.ClientOptions{
				Addrs: []string{"tcp://one:1", "tcp://two:2"},
				Connect: func(_ context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
					near, far := latePipe()
					if servers[addr].ServeConn(near) == nil {
						near.Close()
						far.Close()
						return nil, errors.New("refused")
					}
					return rpcx.NewSession(far, opts), nil
				},
			}))
		}
		synctest.Wait()
		one, two := servers["tcp://one:1"], servers["tcp://two:2"]
		var counts [12]atomic.Int32
		var begun time.Time
		for s := range one.Sessions() {
			s.OnClose(func(error) { counts[min(11, time.Since(begun)/time.Second)].Add(1) })
		}
		stop := make(chan struct{})
		var calling errgroup.Group
		for i, c := range clients {
			calling.Go(func() error {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond)
				for {
					select {
					case <-stop:
						return nil
					default:
					}
					number := log.Begin(oracle.Once)
					result, err := rpcx.Call[int](context.Background(), c, "work", rpcx.Args{number})
					log.End(number, result, err)
					if err != nil {
						t.Errorf("after %v, a call ends by %v", time.Since(begun), err)
					}
					if i%200 != 0 { // the others have a pause
						time.Sleep(time.Duration(2+i%3) * 100 * time.Millisecond)
					}
				}
			})
		}
		time.Sleep(time.Second)
		begun = time.Now()
		if err := one.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		close(stop)
		calling.Wait()
		for second := range 10 {
			least := n * 8 / 100
			if second == 0 {
				least = n * 7 / 100 // sessions end a moment after their turns
			}
			if ended := int(counts[second].Load()); ended < least || ended > n*12/100 {
				t.Errorf("in second %d, %d of %d sessions end", second, ended, n)
			}
		}
		for _, problem := range log.Problems() {
			t.Error(problem)
		}
		ended := log.Counts().Ended[oracle.Once]
		if ended[oracle.Written] != 0 || ended[oracle.NotStarted] != 0 {
			t.Errorf("%d calls are answered, %d not started, %d uncertain", ended[oracle.Answered], ended[oracle.NotStarted], ended[oracle.Written])
		}
		if sessions := two.Stats().Sessions; sessions != n {
			t.Errorf("%d clients have gone to the other server", sessions)
		}
		for _, c := range clients {
			c.Close()
			<-c.Done()
		}
		two.Close()
		two.Wait(context.Background())
		time.Sleep(time.Second) // the last bytes arrive
	})
}
