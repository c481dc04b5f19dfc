package rpcx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"golang.org/x/sync/errgroup"
)

// memory is a listener for connections in memory, for use in a synctest bubble.
type memory struct {
	conns  chan net.Conn
	errs   chan error // that Accept returns next
	closed chan struct{}
	close  func() // closes closed, once
}

func newMemory() *memory {
	closed := make(chan struct{})
	return &memory{make(chan net.Conn), make(chan error), closed, sync.OnceFunc(func() { close(closed) })}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.conns:
		return conn, nil
	case err := <-m.errs:
		return nil, err
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Close may be called by several goroutines: Close of the server, and Serve at its end.
func (m *memory) Close() error {
	m.close()
	return nil
}

func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "memory"} }

// connect returns a wire to a session of the server that accepts from m.
func (m *memory) connect(t *testing.T) *wire {
	t.Helper()
	near, far := net.Pipe()
	w := &wire{Conn: far, t: t}
	select {
	case m.conns <- near:
	case <-time.After(time.Minute):
		t.Fatal("nobody accepts the connection")
	}
	t.Cleanup(func() { far.Close() })
	w.listen()
	return w
}

// newServer has srv serve a listener in memory. It is closed at the end.
func newServer(t *testing.T, srv *rpcx.Server) (m *memory, served <-chan error) {
	t.Helper()
	m = newMemory()
	errs := make(chan error, 1)
	go func() { errs <- srv.Serve(m) }()
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	synctest.Wait()
	return m, errs
}

func TestServerServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *handling(methods{"role": func(_ context.Context, req *rpcx.Request) (any, error) {
			return req.Session().Role() == rpcx.RoleServer, nil
		}})}
		m, served := newServer(t, srv)
		for range 3 {
			w := m.connect(t)
			w.say(`{"jsonrpc":"2.0","method":"role","id":1}`)
			w.expect(`{"jsonrpc":"2.0","result":true,"id":1}`)
		}
		live := slices.Collect(srv.Sessions())
		if len(live) != 3 || srv.Stats().Sessions != 3 {
			t.Errorf("%d sessions are live, %d counted", len(live), srv.Stats().Sessions)
		}
		for range srv.Sessions() {
			break // a loop may end early
		}
		live[0].Close()
		ended(t, live[0])
		if n := len(slices.Collect(srv.Sessions())); n != 2 || srv.Stats().Sessions != 2 {
			t.Errorf("after one was closed %d are live, %d counted", n, srv.Stats().Sessions)
		}
		srv.Close()
		srv.Wait(context.Background())
		if err := <-served; err != rpcx.ErrServerClosed || !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve returns %v", err)
		}
		for _, s := range live {
			if err := ended(t, s); err != rpcx.ErrClosed {
				t.Errorf("a session ended with %v", err)
			}
		}
		if n := srv.Stats().Sessions; n != 0 {
			t.Errorf("at the end %d sessions are live", n)
		}
	})
}

func TestZeroServerKnowsNoMethod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var srv rpcx.Server
		takes(t, 0, func() { srv.Wait(context.Background()) }) // for nothing
		m, _ := newServer(t, &srv)
		w := m.connect(t)
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32601,"message":"unknown method \"m\""},"id":1}`)
	})
}

func TestStopListeningLeavesTheSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		m, served := newServer(t, srv)
		other, alsoServed := newServer(t, srv) // one server may have several listeners
		w, v := m.connect(t), other.connect(t)
		synctest.Wait()
		takes(t, 0, srv.StopListening)
		if err := <-served; err != rpcx.ErrServerClosed {
			t.Errorf("Serve returns %v", err)
		}
		if err := <-alsoServed; err != rpcx.ErrServerClosed {
			t.Errorf("Serve of the other listener returns %v", err)
		}
		<-m.closed
		<-other.closed
		for _, w := range []*wire{w, v} {
			w.say(`{"jsonrpc":"2.0","method":"reply","params":[1],"id":1}`)
			w.expect(`{"jsonrpc":"2.0","result":1,"id":1}`)
		}

		third := newMemory()
		if err := srv.Serve(third); err != rpcx.ErrServerClosed {
			t.Errorf("a listener that comes late: Serve returns %v", err)
		}
		<-third.closed
		near, far := net.Pipe()
		if srv.ServeConn(near) != nil {
			t.Error("a connection that comes late has a session")
		}
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a connection that comes late: %v", err)
		}

		waited := make(chan struct{})
		go func() { srv.Wait(context.Background()); close(waited) }()
		w.Close()
		synctest.Wait()
		select {
		case <-waited:
			t.Error("Wait returns while a session is live")
		default:
		}
		v.Close()
		<-waited
	})
}

func TestServerShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *handling(methods{"slow": func(context.Context, *rpcx.Request) (any, error) {
			time.Sleep(5 * time.Second)
			return "done", nil
		}})}
		m, served := newServer(t, srv)
		idle, busy := m.connect(t), m.connect(t)
		busy.say(`{"jsonrpc":"2.0","method":"slow","id":1}`)
		synctest.Wait()
		shut := make(chan error, 1)
		takes(t, 5*time.Second, func() {
			go func() { shut <- srv.Shutdown(t.Context()) }()
			<-served
			if !idle.hungUp() {
				t.Error("an idle session goes on")
			}
			busy.say(`{"jsonrpc":"2.0","method":"slow","id":2}`)
			busy.expect(shuttingDown + "2}")
			if err := <-shut; err != nil {
				t.Errorf("Shutdown returns %v", err)
			}
		})
		busy.expect(`{"jsonrpc":"2.0","result":"done","id":1}`)
		takes(t, 0, func() { srv.Wait(context.Background()) })
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Errorf("again it returns %v", err)
		}
	})
}

func TestServerShutdownThatTakesTooLongIsAClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{Options: *handling(open)}
		m, _ := newServer(t, srv)
		idle, busy := m.connect(t), m.connect(t)
		busy.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		takes(t, 3*time.Second, func() {
			if err := srv.Shutdown(ctx); err != context.DeadlineExceeded {
				t.Errorf("Shutdown returns %v", err)
			}
		})
		if !idle.hungUp() || !busy.hungUp() {
			t.Error("a connection is open")
		}
		time.AfterFunc(time.Minute, func() { close(open) })
		takes(t, time.Minute, func() { srv.Wait(context.Background()) }) // for the handler
	})
}

func TestServerCloseDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *handling(methods{"hang": hang})}
		m, _ := newServer(t, srv)
		w := m.connect(t)
		w.say(`{"jsonrpc":"2.0","method":"hang","id":1}`)
		synctest.Wait()
		takes(t, 0, func() {
			srv.Close()
			srv.Close()
			srv.Wait(context.Background())
		})
		if !w.hungUp() {
			t.Error("the connection is open")
		}
	})
}

func TestOnSessionComesBeforeTheFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order events
		srv := &rpcx.Server{Options: *handling(methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
			order.add("handling %s", req.ID)
			return nil, nil
		}})}
		srv.OnSession = func(s *rpcx.Session) {
			order.add("begun")
			time.Sleep(5 * time.Second)
			name, err := rpcx.Call[string](t.Context(), s, "name", nil) // it may call the peer
			order.add("the peer is %s, %v", name, err)
		}
		m, _ := newServer(t, srv)
		w := m.connect(t)
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		time.Sleep(5 * time.Second)
		w.expect(`{"jsonrpc":"2.0","method":"name","id":0}`)
		other := m.connect(t) // others are not held up
		other.say(`{"jsonrpc":"2.0","method":"m","id":2}`)
		synctest.Wait()
		w.say(`{"jsonrpc":"2.0","result":"Kim","id":0}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
		want := []string{"begun", "begun", "the peer is Kim, <nil>", "handling 1"}
		if got := order.take(); !slices.Equal(got, want) {
			t.Errorf("the order is %q, want %q", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) { // it need not want the session
		srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { s.Close() }}
		m, _ := newServer(t, srv)
		if w := m.connect(t); !w.hungUp() {
			t.Error("the session goes on")
		}
	})
	synctest.Test(t, func(t *testing.T) { // it may stay until the session ends
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), OnSession: func(s *rpcx.Session) { <-s.Done() }}
		m, _ := newServer(t, srv)
		w := m.connect(t)
		w.say(`{"jsonrpc":"2.0","method":"reply","id":1}`, `{"jsonrpc":"2.0","method":"reply"}`)
		w.expectNothing()
		takes(t, 0, func() {
			if err := srv.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown returns %v", err)
			}
		})
		w.expect(shuttingDown + "1}")
	})
}

func TestRefusalsAtShutdownAreFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := make(chan *rpcx.Session)
		srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { started <- s; <-s.Done() }}
		m, _ := newServer(t, srv)
		near, far := net.Pipe()
		m.conns <- near
		s := <-started
		w := &wire{Conn: far, t: t}
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		synctest.Wait()
		go s.Shutdown(t.Context())
		time.Sleep(10 * time.Second) // the peer reads late, but it does
		w.listen()
		w.expect(shuttingDown + "1}")
	})
}

func TestMaxSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{MaxSessions: 2}
		srv.Options.Logger = slog.New(log)
		m, _ := newServer(t, srv)
		first, second := m.connect(t), m.connect(t)
		if third := m.connect(t); !third.hungUp() {
			t.Error("there is a third session")
		}
		if srv.Accepts() || srv.Stats().Refused["Server.MaxSessions"] != 2 {
			t.Error("the server says that it has room, or does not count who asked")
		}
		if got := log.take(); len(got) != 1 {
			t.Errorf("logged: %q", got)
		}
		if first.hungUp() || second.hungUp() || srv.Stats().Sessions != 2 {
			t.Errorf("%d sessions are left", srv.Stats().Sessions)
		}
		first.Close()
		synctest.Wait()
		if !srv.Accepts() {
			t.Error("there is room, and the server denies it")
		}
		if fourth := m.connect(t); fourth.hungUp() {
			t.Error("there is room, and yet the connection was refused")
		}
		near, far := net.Pipe()
		defer far.Close()
		if srv.ServeConn(near) != nil {
			t.Error("ServeConn goes beyond the limit")
		}
		second.Close()
		synctest.Wait()
		if srv.StopListening(); srv.Accepts() {
			t.Error("a server that was stopped says that it has room")
		}
	})
}

func TestServeConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		near, far := net.Pipe()
		s := srv.ServeConn(near)
		if s == nil || s.Role() != rpcx.RoleServer || srv.Stats().Sessions != 1 {
			t.Fatalf("the session is %v", s)
		}
		client := rpcx.NewSession(far, nil)
		if got, err := rpcx.Call[int](t.Context(), client, "reply", rpcx.Args{1}); err != nil || got != 1 {
			t.Errorf("got %d, %v", got, err)
		}
		srv.Close()
		srv.Wait(context.Background())
		if err := ended(t, client); err != io.EOF {
			t.Errorf("the client's session ended with %v", err)
		}
	})
}

// passing is an error of Accept that passes.
type passing struct{}

func (passing) Error() string   { return "too many open files" }
func (passing) Temporary() bool { return true }

func TestServeOutlivesErrorsThatPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		srv.Options.Logger = slog.New(log)
		m, served := newServer(t, srv)
		takes(t, (5+10+20)*time.Millisecond, func() {
			for range 3 {
				m.errs <- passing{}
			}
			w := m.connect(t)
			w.say(`{"jsonrpc":"2.0","method":"reply","id":1}`)
			w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
		})
		if got := log.take(); len(got) != 3 {
			t.Errorf("logged: %q", got)
		}
		broken := errors.New("the network is down")
		m.errs <- broken
		if err := <-served; err != broken {
			t.Errorf("Serve returns %v", err)
		}
		<-m.closed
		if n := srv.Stats().Sessions; n != 1 {
			t.Errorf("%d sessions, want the one to go on", n)
		}
	})
}

// Serving until a context ends is no error if all is finished in time.
func TestServeContext(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration
		handler rpcx.Handler
		end     func(srv *rpcx.Server, l net.Listener, cancel context.CancelFunc)
		takes   time.Duration
		want    string // in the error; "" for none
		is      error
	}{
		"the context, at rest": {
			end: func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
		},
		"the context, and a handler finishes": {
			handler: slow(20 * time.Second), takes: 20 * time.Second,
			end: func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
		},
		"the context, and a handler takes too long": {
			timeout: 10 * time.Second, handler: slow(20 * time.Second), takes: 10 * time.Second,
			end:  func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
			want: "10s, and are closed (Server.ShutdownTimeout)", is: context.DeadlineExceeded,
		},
		"the context, and a handler that heeds nothing": {
			handler: rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
				time.Sleep(time.Hour)
				return nil, nil
			}), takes: 30 * time.Second,
			end:  func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
			want: "30s", is: context.DeadlineExceeded,
		},
		"the context, without a limit": {
			timeout: -1, handler: slow(29 * time.Second), takes: 29 * time.Second,
			end: func(_ *rpcx.Server, _ net.Listener, cancel context.CancelFunc) { cancel() },
		},
		"Shutdown by somebody": {
			end:  func(srv *rpcx.Server, _ net.Listener, _ context.CancelFunc) { srv.Shutdown(context.Background()) },
			want: "server closed", is: rpcx.ErrServerClosed,
		},
		"Close by somebody": {
			end:  func(srv *rpcx.Server, _ net.Listener, _ context.CancelFunc) { srv.Close() },
			want: "server closed", is: rpcx.ErrServerClosed,
		},
		"a listener that fails": {
			end:  func(_ *rpcx.Server, l net.Listener, _ context.CancelFunc) { l.Close() },
			want: "closed", is: net.ErrClosed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{ShutdownTimeout: c.timeout}
				srv.Options.Handler = c.handler
				m := newMemory()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				served := make(chan error, 1)
				go func() { served <- srv.ServeContext(ctx, m) }()
				far := m.connect(t)
				defer far.Close()
				if c.handler != nil {
					far.Write([]byte(ask("m", 1) + "\n"))
				}
				synctest.Wait()
				start := time.Now()
				c.end(srv, m, cancel)
				err := <-served
				if took := time.Since(start); took != c.takes {
					t.Errorf("it took %v, want %v", took, c.takes)
				}
				if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("it returns %v, want %q", err, c.want)
				}
				srv.Close()
				srv.Wait(context.Background())
			})
		})
	}
}

// The end of a context shared by several listeners is no error for any of them, though one
// of them shuts the server down before the others have noticed the end.
func TestServeContextOnSeveralListeners(t *testing.T) {
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		srv := new(rpcx.Server)
		var serving errgroup.Group
		accepting := make(chan struct{})
		for range 8 {
			l := &firstAccept{memory: newMemory(), begun: accepting}
			serving.Go(func() error { return srv.ServeContext(ctx, l) })
		}
		for range 8 {
			<-accepting
		}
		cancel()
		if err := serving.Wait(); err != nil {
			t.Fatalf("it returns %v", err)
		}
	}
}

// firstAccept is a listener that sends to begun when Accept is called first.
type firstAccept struct {
	*memory
	begun chan<- struct{}
	once  sync.Once
}

func (l *firstAccept) Accept() (net.Conn, error) {
	l.once.Do(func() { l.begun <- struct{}{} })
	return l.memory.Accept()
}

// A context that has ended before is the same, for Listen too.
func TestListenAndServeAfterTheEndOfItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, addr := range []string{"tcp://127.0.0.1:0", "tcp://localhost:0", "unix://" + t.TempDir() + "/s"} {
		if err := new(rpcx.Server).ListenAndServe(ctx, addr); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if err := new(rpcx.Server).ListenAndServe(ctx, "udp://127.0.0.1:0"); err == nil {
		t.Error("an address that is none is accepted")
	}
}

// slowConn is a connection whose writes take their time, though the operating system says
// that the connection has room.
type slowConn struct {
	net.Conn
	room syscall.Conn
	wait chan struct{}
}

func (c slowConn) SyscallConn() (syscall.RawConn, error) { return c.room.SyscallConn() }

func (c slowConn) Write(p []byte) (int, error) {
	<-c.wait
	return c.Conn.Write(p)
}

// Close of a server takes no longer than that of one session.
func TestServerCloseWaitsForAllWritesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room, _ := socketPair(t, "tcp", "127.0.0.1:0")
		srv := new(rpcx.Server)
		wait := make(chan struct{})
		for range 20 {
			near, far := net.Pipe()
			defer far.Close()
			s := srv.ServeConn(slowConn{near, room.(syscall.Conn), wait})
			if err := s.Notify(t.Context(), "m", rpcx.Args{string(bytes.Repeat([]byte("x"), 1000))}); err != nil {
				t.Fatal(err)
			}
		}
		takes(t, 100*time.Millisecond, func() { srv.Close() })
		close(wait)
		if err := srv.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
