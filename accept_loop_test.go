package rpcx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// Listeners that cannot be compared, or be the key of a map.
type (
	listWithSlice struct {
		*memory
		names []string
	}
	listWithFunc struct {
		net.Listener
		log func()
	}
	listOfOne [1]any
)

func (l listWithSlice) String() string { return fmt.Sprint(l.names) }
func (l listWithFunc) Close() error    { l.log(); return l.Listener.Close() }

func (l listOfOne) Accept() (net.Conn, error) { return l[0].([]*memory)[0].Accept() }
func (l listOfOne) Close() error              { return l[0].([]*memory)[0].Close() }
func (l listOfOne) Addr() net.Addr            { return l[0].([]*memory)[0].Addr() }

func TestServeTakesListenersThatCannotBeCompared(t *testing.T) {
	for name, listener := range map[string]func(*memory) net.Listener{
		"a struct with a slice":     func(m *memory) net.Listener { return listWithSlice{m, []string{"one"}} },
		"a struct with a function":  func(m *memory) net.Listener { return listWithFunc{m, func() {}} },
		"an array that holds slice": func(m *memory) net.Listener { return listOfOne{[]*memory{m}} },
		"one in another":            func(m *memory) net.Listener { return listWithFunc{listWithSlice{m, nil}, func() {}} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
				m := newMemory()
				served := make(chan error, 2)
				for range 2 { // two calls with one listener are two
					go func() { served <- srv.Serve(listener(m)) }()
				}
				w := m.connect(t)
				w.say(ask("reply", 1))
				w.expect(answered("null", 1))
				srv.Close()
				srv.Wait(context.Background())
				for range 2 {
					if err := <-served; err != rpcx.ErrServerClosed {
						t.Errorf("Serve returns %v", err)
					}
				}
				<-m.closed
				if err := srv.Serve(listener(m)); err != rpcx.ErrServerClosed {
					t.Errorf("after the end, Serve returns %v", err)
				}
			})
		})
	}
}

func TestStoppingDoesNotWaitForTheNextAccept(t *testing.T) {
	for name, stop := range map[string]func(*rpcx.Server){
		"StopListening": (*rpcx.Server).StopListening,
		"Close":         func(srv *rpcx.Server) { srv.Close() },
		"Shutdown": func(srv *rpcx.Server) {
			if err := srv.Shutdown(context.Background()); err != nil {
				panic(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{}
				m, served := newServer(t, srv)
				for range 9 { // until it is a second
					m.errs <- passing{}
				}
				synctest.Wait()
				takes(t, 0, func() {
					stop(srv)
					srv.Wait(context.Background())
				})
				if err := <-served; err != rpcx.ErrServerClosed {
					t.Errorf("Serve returns %v", err)
				}
			})
		})
	}
}

// denying is an error that says that it does not pass.
type denying struct{ error }

func (denying) Temporary() bool { return false }
func (d denying) Unwrap() error { return d.error }

func TestErrorsOfAcceptThatPass(t *testing.T) {
	for name, err := range map[string]error{
		"as it is":         passing{},
		"wrapped":          fmt.Errorf("accept: %w", passing{}),
		"wrapped twice":    fmt.Errorf("accept: %w", fmt.Errorf("limit: %w", passing{})),
		"one of several":   fmt.Errorf("%w, %w", io.ErrNoProgress, passing{}),
		"joined":           errors.Join(io.ErrNoProgress, passing{}),
		"of an OpError":    &net.OpError{Op: "accept", Err: passing{}},
		"wrapped there":    &net.OpError{Op: "accept", Err: fmt.Errorf("limit: %w", passing{})},
		"an OpError in it": fmt.Errorf("limit: %w", &net.OpError{Op: "accept", Err: passing{}}),
	} {
		t.Run(name, func(t *testing.T) { serveSurvives(t, err) })
	}
}

// serveSurvives tests that a server goes on after an error of Accept.
func serveSurvives(t *testing.T, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		srv.Options.Logger = slog.New(log)
		m, served := newServer(t, srv)
		takes(t, 5*time.Millisecond, func() {
			m.errs <- err
			select {
			case m.conns <- newHungUp(t):
			case err := <-served:
				t.Errorf("Serve returns %v", err)
			}
		})
		synctest.Wait()
		if got := log.take(); len(got) == 0 || got[0] != "WARN accept failed" {
			t.Errorf("logged: %q", got)
		}
	})
}

// newHungUp returns a connection whose peer has hung up.
func newHungUp(t *testing.T) net.Conn {
	near, far := net.Pipe()
	far.Close()
	t.Cleanup(func() { near.Close() })
	return near
}

func TestErrorsOfAcceptThatEndServe(t *testing.T) {
	for name, err := range map[string]error{
		"closed":                    net.ErrClosed,
		"closed, wrapped":           &net.OpError{Op: "accept", Err: net.ErrClosed},
		"closed, and another":       errors.Join(passing{}, net.ErrClosed),
		"nothing known":             errors.New("the network is down"),
		"the end":                   io.EOF,
		"one that denies":           denying{io.EOF},
		"one that denies another's": denying{passing{}},
		"denied, wrapped":           fmt.Errorf("accept: %w", denying{passing{}}),
	} {
		t.Run(name, func(t *testing.T) { serveEnds(t, err) })
	}
}

// serveEnds tests that Serve returns an error of Accept.
func serveEnds(t *testing.T, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		m, served := newServer(t, srv)
		m.errs <- err
		synctest.Wait()
		select {
		case got := <-served:
			if fmt.Sprint(got) != fmt.Sprint(err) {
				t.Errorf("Serve returns %v", got)
			}
		default:
			t.Error("Serve goes on")
		}
	})
}

// wrapping is a listener that wraps what it accepts.
type wrapping struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l wrapping) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		conn = l.wrap(conn)
	}
	return conn, err
}

// newWrapping has srv serve a listener in memory whose connections are wrapped.
func newWrapping(t *testing.T, srv *rpcx.Server, wrap func(net.Conn) net.Conn) *memory {
	t.Helper()
	m := newMemory()
	go srv.Serve(wrapping{m, wrap})
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	synctest.Wait()
	return m
}

// headed is a connection that begins with a line, the address of its peer.
type headed struct {
	net.Conn
	once sync.Once
	addr net.Addr
}

type textAddr string

func (textAddr) Network() string  { return "text" }
func (a textAddr) String() string { return string(a) }

func (c *headed) read() {
	c.once.Do(func() {
		var line []byte
		for b := make([]byte, 1); ; line = append(line, b[0]) {
			if _, err := c.Conn.Read(b); err != nil {
				c.addr = c.Conn.RemoteAddr()
				return
			} else if b[0] == '\n' {
				c.addr = textAddr(line)
				return
			}
		}
	})
}

func (c *headed) RemoteAddr() net.Addr { c.read(); return c.addr }

// Connections that read their peer's address when they are first used in one way.
type (
	headedNetConn struct{ *headed }
	headedAddr    struct{ *headed }
)

func (c headedNetConn) RemoteAddr() net.Addr { return c.addr }
func (c headedNetConn) NetConn() net.Conn    { c.read(); return c.Conn }
func (c headedAddr) RemoteAddr() net.Addr    { return c.addr }

func TestSilentClientsDoNotStopTheOthers(t *testing.T) {
	for name, c := range map[string]struct {
		wrap  func(net.Conn) net.Conn
		group func(*rpcx.Session) string
	}{
		"where RemoteAddr reads":             {wrap: func(c net.Conn) net.Conn { return &headed{Conn: c} }},
		"where RemoteAddr reads, in a group": {func(c net.Conn) net.Conn { return &headed{Conn: c} }, rpcx.GroupBySubnet(24, 64)},
		"where NetConn reads":                {wrap: func(c net.Conn) net.Conn { return headedNetConn{&headed{Conn: c}} }},
		"where Limits.Group reads": {func(c net.Conn) net.Conn { return headedAddr{&headed{Conn: c}} }, func(s *rpcx.Session) string {
			s.NetConn().(headedAddr).read()
			return ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				addr := make(chan net.Addr, 1)
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), OnSession: func(s *rpcx.Session) { addr <- s.RemoteAddr() }}
				srv.Options.Logger = slog.New(log)
				srv.Options.Limits.Group = c.group
				m := newWrapping(t, srv, c.wrap)
				silent := []net.Conn{m.dial(t), m.dial(t)}
				takes(t, 0, func() {
					conn := m.dial(t)
					fmt.Fprint(conn, "192.0.2.7:1000\n")
					s := rpcx.NewSession(conn, nil)
					if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
						t.Errorf("the call: %v", err)
					}
					if a := <-addr; a == nil || a.String() != "192.0.2.7:1000" {
						t.Errorf("the address is %v", a)
					}
					s.Close()
				})
				if got := srv.Stats(); got.Handshakes != 2 {
					t.Errorf("stats are %+v", got)
				}
				time.Sleep(10*time.Second - 2)
				if isClosed(silent[0]) {
					t.Error("the connection is closed too early")
				}
				time.Sleep(time.Nanosecond) // another has passed in isClosed
				synctest.Wait()
				if !isClosed(silent[0]) || !isClosed(silent[1]) || srv.Stats().Handshakes != 0 || srv.Stats().Sessions != 0 {
					t.Errorf("silent clients are kept, stats are %+v", srv.Stats())
				}
				if got := log.attr("error"); len(got) != 2 || !strings.Contains(got[1], "Server.HandshakeTimeout") {
					t.Errorf("logged were the errors %q", got)
				}
			})
		})
	}
}

func TestMaxHandshakesIsForAddressesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxHandshakes: 2, HandshakeTimeout: -1}
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return &headed{Conn: c} })
		first, second := m.dial(t), m.dial(t)
		if !isClosed(m.dial(t)) {
			t.Error("there is a third handshake")
		}
		time.Sleep(time.Hour)
		third := m.dial(t)
		if !isClosed(first) || isClosed(second) || isClosed(third) {
			t.Error("it is not the oldest that was given up")
		}
		if got := srv.Stats(); got.Handshakes != 2 || !maps.Equal(got.Refused, map[string]uint64{"Server.MaxHandshakes": 2}) {
			t.Errorf("stats are %+v", got)
		}
		takes(t, 0, func() {
			srv.Close()
			srv.Wait(context.Background())
		})
		if !isClosed(second) || !isClosed(third) {
			t.Error("a connection outlives the server")
		}
	})
}

// What is known of a peer only after its header is asked after it.
func TestMaxGroupComesAfterTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxGroup: 1}
		srv.Options.Limits.Group = rpcx.GroupBySubnet(24, 64)
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return &headed{Conn: c} })
		connect := func(addr string) net.Conn {
			conn := m.dial(t)
			fmt.Fprintln(conn, addr)
			synctest.Wait()
			return conn
		}
		if isClosed(connect("192.0.2.7:1000")) || isClosed(connect("198.51.100.7:1000")) {
			t.Error("the first of a group is refused")
		}
		if !isClosed(connect("192.0.2.8:1000")) {
			t.Error("there is a second of a group")
		}
		if got := srv.Stats(); got.Sessions != 2 || !maps.Equal(got.Refused, map[string]uint64{"Server.MaxGroup": 1}) {
			t.Errorf("stats are %+v", got)
		}
	})
}

// A server that is full does not make handshakes for nothing.
func TestMaxSessionsComesBeforeTheHandshake(t *testing.T) {
	secure, _ := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 1}
		near, far := net.Pipe()
		defer far.Close()
		srv.ServeConn(near)
		m := newSecureServer(t, srv, secure)
		if !isClosed(m.dial(t)) {
			t.Error("a handshake has begun")
		}
		if got := srv.Stats(); got.Handshakes != 0 || !maps.Equal(got.Refused, map[string]uint64{"Server.MaxSessions": 1}) {
			t.Errorf("stats are %+v", got)
		}
	})
}

// slowToClose is a connection whose Close waits.
type slowToClose struct {
	net.Conn
	closing atomic.Int32
	end     chan struct{}
}

func (c *slowToClose) Close() error {
	if c.closing.Add(1) > 1 {
		panic("closed twice")
	}
	<-c.end
	return c.Conn.Close()
}

func TestAcceptingDoesNotWaitForClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 1, MaxHandshakes: -1}
		end := make(chan struct{})
		m := newWrapping(t, srv, func(c net.Conn) net.Conn {
			if srv.Stats().Sessions == 0 {
				return c
			}
			return &slowToClose{Conn: c, end: end}
		})
		first := m.dial(t)
		refused := m.dial(t)
		first.Close()
		synctest.Wait()
		m.dial(t)
		if got := srv.Stats(); got.Sessions != 1 || got.Refused["Server.MaxSessions"] != 1 {
			t.Errorf("stats are %+v", got)
		}
		close(end)
		synctest.Wait()
		if !isClosed(refused) {
			t.Error("what was refused is left open")
		}
	})
}

// Connections that are wrapped and do not wait for anything are no handshakes, however
// many come at once.
func TestManyWrappedConnectionsAtOnce(t *testing.T) {
	const n = 2000
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		m := newMemory()
		m.conns = make(chan net.Conn, n)
		for range n {
			near, far := net.Pipe()
			t.Cleanup(func() { far.Close() })
			m.conns <- struct{ net.Conn }{near}
		}
		go srv.Serve(m)
		synctest.Wait()
		if got := srv.Stats(); got.Sessions != n || got.Refused != nil || got.Handshakes != 0 {
			t.Errorf("stats are %+v", got)
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}

// Ways to wrap a connection.
type (
	wrappedValue   struct{ net.Conn }
	wrappedPointer struct {
		net.Conn
		closed atomic.Bool
	}
	netConn       interface{ net.Conn }
	wrappedHidden struct{ netConn }
	wrappedStream struct {
		forwarder
		Stream io.ReadWriteCloser
	}
	wrappedTLS struct {
		forwarder
		tls *tls.Conn
	}
	wrappedFunc struct{ forwarder }
)

// wrapCircle returns a connection that is one of its own fields.
func wrapCircle(conn net.Conn) net.Conn {
	c := &wrappedCircle{Conn: conn}
	c.self = c
	return c
}

type wrappedCircle struct {
	self *wrappedCircle
	net.Conn
}

func (c *wrappedPointer) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	return c.Conn.Close()
}

func wrapNothing(c net.Conn) net.Conn   { return c }
func wrapValue(c net.Conn) net.Conn     { return wrappedValue{c} }
func wrapPointer(c net.Conn) net.Conn   { return &wrappedPointer{Conn: c} }
func wrapHidden(c net.Conn) net.Conn    { return wrappedHidden{c} }
func wrapStream(c net.Conn) net.Conn    { return &wrappedStream{forward(c), c} }
func wrapTLS(c net.Conn) net.Conn       { return wrappedTLS{forward(c), c.(*tls.Conn)} }
func wrapFunc(c net.Conn) net.Conn      { return wrappedFunc{forward(c)} }
func (c wrappedFunc) NetConn() net.Conn { return c.conn() }
func forward(c net.Conn) forwarder      { return forwarder{func() net.Conn { return c }} }

// forwarder has the methods of a connection, and not the connection.
type forwarder struct{ conn func() net.Conn }

func (f forwarder) Read(b []byte) (int, error)         { return f.conn().Read(b) }
func (f forwarder) Write(b []byte) (int, error)        { return f.conn().Write(b) }
func (f forwarder) Close() error                       { return f.conn().Close() }
func (f forwarder) LocalAddr() net.Addr                { return f.conn().LocalAddr() }
func (f forwarder) RemoteAddr() net.Addr               { return f.conn().RemoteAddr() }
func (f forwarder) SetDeadline(t time.Time) error      { return f.conn().SetDeadline(t) }
func (f forwarder) SetReadDeadline(t time.Time) error  { return f.conn().SetReadDeadline(t) }
func (f forwarder) SetWriteDeadline(t time.Time) error { return f.conn().SetWriteDeadline(t) }

func TestTLSBehindAWrapper(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"not wrapped":                  wrapNothing,
		"in a struct":                  wrapValue,
		"in a pointer":                 wrapPointer,
		"in one in another":            func(c net.Conn) net.Conn { return wrapPointer(wrapValue(c)) },
		"in a stream":                  wrapStream,
		"in a field that is not open":  wrapHidden,
		"as a field that is not open":  wrapTLS,
		"in an open one in a closed":   func(c net.Conn) net.Conn { return wrapHidden(wrapPointer(c)) },
		"behind NetConn":               wrapFunc,
		"behind NetConn, in a struct":  func(c net.Conn) net.Conn { return wrapFunc(wrapValue(c)) },
		"in what is a field of itself": wrapCircle,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var last *tls.Conn
				begun := make(chan bool, 1)
				log := &records{}
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), MaxHandshakes: 2}
				srv.Options.Logger = slog.New(log)
				srv.OnSession = func(*rpcx.Session) { begun <- last.ConnectionState().HandshakeComplete }
				m := newWrapping(t, srv, func(c net.Conn) net.Conn {
					last = tls.Server(c, secure)
					return wrap(last)
				})
				first, second := m.dial(t), m.dial(t)
				if got := srv.Stats(); got.Handshakes != 2 || got.Sessions != 0 {
					t.Errorf("stats are %+v", got)
				}
				time.Sleep(time.Second)
				third := m.dial(t)
				if !isClosed(first) || isClosed(second) || isClosed(third) {
					t.Error("beyond MaxHandshakes it is not the oldest that was given up")
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if !isClosed(second) || !isClosed(third) || srv.Stats().Handshakes != 0 {
					t.Error("silent clients are kept")
				}
				if len(begun) != 0 {
					t.Error("there is a session before the handshake")
				}
				if got := log.attr("error"); len(got) != 3 || !strings.Contains(got[0], "Server.MaxHandshakes") || !strings.Contains(got[2], "Server.HandshakeTimeout") {
					t.Errorf("logged were the errors %q", got)
				}

				s := rpcx.NewSession(tls.Client(m.dial(t), client), nil)
				if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
					t.Errorf("the call: %v", err)
				}
				if !<-begun {
					t.Error("OnSession runs before the handshake is complete")
				}
				s.Close()
				<-s.Done()
			})
		})
	}
}

// A listener for TLS may stand on one that reads headers.
func TestTLSBehindAHeader(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	synctest.Test(t, func(t *testing.T) {
		addr := make(chan string, 1)
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), OnSession: func(s *rpcx.Session) { addr <- s.RemoteAddr().String() }}
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return tls.Server(&headed{Conn: c}, secure) })
		silent, half := m.dial(t), m.dial(t)
		fmt.Fprint(half, "192.0.2.7:1000\n") // and no TLS
		conn := m.dial(t)
		fmt.Fprint(conn, "192.0.2.8:1000\n")
		s := rpcx.NewSession(tls.Client(conn, client), nil)
		if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
			t.Errorf("the call: %v", err)
		}
		if a := <-addr; a != "192.0.2.8:1000" {
			t.Errorf("the address is %s", a)
		}
		s.Close()
		<-s.Done()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !isClosed(silent) || !isClosed(half) || srv.Stats().Handshakes != 0 {
			t.Error("silent clients are kept")
		}
	})
}

func TestServeConnMakesTheHandshakeFirst(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	for name, wrap := range map[string]func(net.Conn) net.Conn{"TLS": wrapNothing, "wrapped": wrapPointer} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var begun atomic.Int32
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), MaxHandshakes: 1}
				srv.OnSession = func(*rpcx.Session) { begun.Add(1) }
				serve := func(handshake bool) (*rpcx.Session, net.Conn) {
					near, far := net.Pipe()
					t.Cleanup(func() { far.Close() })
					conn := tls.Server(near, secure)
					peer := tls.Client(far, client)
					if handshake {
						go peer.Handshake()
						if err := conn.Handshake(); err != nil {
							t.Fatal(err)
						}
					}
					s := srv.ServeConn(wrap(conn))
					synctest.Wait()
					return s, peer
				}
				silent, _ := serve(false)
				if got := srv.Stats(); begun.Load() != 0 || got.Handshakes != 1 || got.Sessions != 1 {
					t.Errorf("begun are %d, stats are %+v", begun.Load(), got)
				}
				if s, _ := serve(false); s.Err() == nil {
					t.Error("there is a second handshake")
				}
				made, peer := serve(true) // by the caller, and so it does not count
				s := rpcx.NewSession(peer, nil)
				if err := s.Call(t.Context(), "reply", nil, nil); err != nil || begun.Load() != 1 {
					t.Errorf("the call: %v, begun are %d", err, begun.Load())
				}
				s.Close()
				<-made.Done()

				takes(t, 10*time.Second, func() { <-silent.Done() })
				if err := silent.Err(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "Server.HandshakeTimeout") {
					t.Errorf("the silent one's session ended with %v", err)
				}
				last, peer := serve(false)
				s = rpcx.NewSession(peer, nil)
				if err := s.Call(t.Context(), "reply", nil, nil); err != nil || begun.Load() != 2 {
					t.Errorf("the call: %v, begun are %d", err, begun.Load())
				}
				s.Close()
				<-last.Done()
				srv.Wait(context.Background())
			})
		})
	}
}
