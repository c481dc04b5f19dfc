package rpcx_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// readHeader is a Preamble: a line with the address of the peer comes before everything.
func readHeader(_ context.Context, conn net.Conn) (net.Conn, error) {
	var line []byte
	for one := make([]byte, 1); ; line = append(line, one...) {
		if _, err := conn.Read(one); err != nil {
			return nil, err
		}
		if one[0] == '\n' {
			break
		}
	}
	if string(line) == "check" {
		return nil, net.ErrClosed
	}
	addr, err := netip.ParseAddrPort(string(line))
	if err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	return rpcx.WithAddrs(conn, net.TCPAddrFromAddrPort(addr), nil), nil
}

// whoAmI answers with the addresses of the session.
var whoAmI = methods{"who": func(_ context.Context, req *rpcx.Request) (any, error) {
	s := req.Session()
	return s.RemoteAddr().String() + " at " + s.LocalAddr().Network(), nil
}}

func TestPreambleTellsTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: *handling(whoAmI), MaxGroup: 1, Preamble: readHeader}
		srv.Options.Logger = slog.New(log)
		srv.Options.Limits.Group = rpcx.GroupBySubnet(24, 64)
		m, _ := newServer(t, srv)
		w := m.connect(t)
		synctest.Wait()
		for _, b := range []byte("192.0.2.7:1000\n") {
			if srv.Stats().Sessions != 0 || srv.Stats().Handshakes != 1 {
				t.Fatalf("within the header stats are %+v", srv.Stats())
			}
			w.Write([]byte{b})
			synctest.Wait()
		}
		w.say(`{"jsonrpc":"2.0","method":"who","id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":"192.0.2.7:1000 at pipe","id":1}`)
		w.say("evil")
		synctest.Wait()
		if got := log.attr("peer"); !slices.Equal(got, []string{"192.0.2.7:1000"}) {
			t.Errorf("the log tells of the peers %q", got)
		}
		neighbour := m.dial(t)
		fmt.Fprint(neighbour, "192.0.2.8:1000\n")
		synctest.Wait()
		other := m.connect(t)
		other.say("198.51.100.7:1", `{"jsonrpc":"2.0","method":"who","id":1}`)
		other.expect(`{"jsonrpc":"2.0","result":"198.51.100.7:1 at pipe","id":1}`)
		if got := srv.Stats(); !isClosed(neighbour) || !maps.Equal(got.Refused, map[string]uint64{"Server.MaxGroup": 1}) || got.Handshakes != 0 {
			t.Errorf("stats are %+v", got)
		}
	})
}

// buffered is a connection that has been read from.
type buffered struct {
	net.Conn
	r      *bufio.Reader
	closed *atomic.Int32 // closes; may be nil
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

func (b *buffered) Close() error {
	if b.closed != nil {
		b.closed.Add(1)
	}
	return b.Conn.Close()
}

// The server may speak first, and may read more than it wants.
func TestPreambleReplacesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), Preamble: func(_ context.Context, conn net.Conn) (net.Conn, error) {
			if _, err := io.WriteString(conn, "welcome\n"); err != nil {
				return nil, err
			}
			r := bufio.NewReader(conn)
			line, err := r.ReadString('\n')
			if err == nil && line != "hello\n" {
				err = errors.New("impolite")
			}
			return &buffered{conn, r, nil}, err
		}}
		m, _ := newServer(t, srv)
		w := m.connect(t)
		w.expect("welcome")
		w.Write([]byte("hello\n" + `{"jsonrpc":"2.0","method":"reply","params":[1],"id":1}` + "\n"))
		w.expect(`{"jsonrpc":"2.0","result":1,"id":1}`)
	})
}

func TestPreambleComesBeforeTLS(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	for name, c := range map[string]struct {
		listen func() (net.Listener, error)
		header bool // comes before TLS
	}{
		"a listener of Listen":      {func() (net.Listener, error) { return rpcx.Listen(t.Context(), "tls://127.0.0.1:0", secure) }, true},
		"a listener without TLS":    {func() (net.Listener, error) { return rpcx.Listen(t.Context(), "tcp://127.0.0.1:0", nil) }, true},
		"a listener of package tls": {func() (net.Listener, error) { return tls.Listen("tcp", "127.0.0.1:0", secure) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := c.listen()
			if err != nil {
				t.Fatal(err)
			}
			saw := make(chan net.Conn, 1)
			srv := &rpcx.Server{Options: *handling(methods{"who": func(_ context.Context, req *rpcx.Request) (any, error) {
				conn := req.Session().NetConn()
				if wrapper, ok := conn.(interface{ NetConn() net.Conn }); ok && name == "a listener of package tls" {
					conn = wrapper.NetConn()
				}
				state := "no TLS"
				if conn, ok := conn.(*tls.Conn); ok && conn.ConnectionState().HandshakeComplete {
					state = "TLS"
				}
				return req.Session().RemoteAddr().String() + ", " + state, nil
			}}), Preamble: func(ctx context.Context, conn net.Conn) (net.Conn, error) {
				saw <- conn
				return readHeader(ctx, conn)
			}}
			served := make(chan error, 1)
			// Owner: the test. End: the server is closed.
			go func() { served <- srv.Serve(l) }()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			want := "192.0.2.7:1000, TLS"
			if c.header {
				fmt.Fprint(conn, "192.0.2.7:1000\n")
			}
			if name == "a listener without TLS" {
				want = "192.0.2.7:1000, no TLS"
			} else {
				conn = tls.Client(conn, client)
			}
			if !c.header {
				fmt.Fprint(conn, "192.0.2.7:1000\n")
			}
			s := rpcx.NewSession(conn, nil)
			if got, err := rpcx.Call[string](t.Context(), s, "who", nil); got != want || err != nil {
				t.Errorf("the server sees %q, %v; want %q", got, err, want)
			}
			if _, secure := (<-saw).(*tls.Conn); secure == c.header {
				t.Errorf("the Preamble sees TLS: %v", secure)
			}
			s.Close()
			<-s.Done()
			srv.Close()
			srv.Wait(context.Background())
			if err := <-served; err != rpcx.ErrServerClosed {
				t.Errorf("Serve returns %v", err)
			}
		})
	}
}

// ListenAndServe is a listener of Listen: the certificate is for after the header.
func TestPreambleOfListenAndServe(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	addr := freePort(t)
	srv := &rpcx.Server{Options: *handling(whoAmI), TLS: secure, Preamble: readHeader}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	// Owner: the test. End: the context ends.
	go func() { served <- srv.ListenAndServe(ctx, "tls://"+addr) }()
	d := &rpcx.Dialer{TLS: client, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			_, err = io.WriteString(conn, "192.0.2.7:1000\n")
		}
		return conn, err
	}}
	s := dialSoon(t, d, "tls://"+addr, nil)
	if got, err := rpcx.Call[string](t.Context(), s, "who", nil); got != "192.0.2.7:1000 at tcp" || err != nil {
		t.Errorf("the server sees %q, %v", got, err)
	}
	s.Close()
	<-s.Done()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("ListenAndServe returns %v", err)
	}
}

func TestPreambleThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		preamble func(context.Context, net.Conn) (net.Conn, error)
		say      string
		want     string // is logged; none if it is ""
	}{
		"a wrong header":  {readHeader, "what?\n", "read header"},
		"the peer leaves": {readHeader, "", "EOF"},
		"a health check":  {readHeader, "check\n", ""},
		"a health check, wrapped": {func(context.Context, net.Conn) (net.Conn, error) {
			return nil, fmt.Errorf("a check: %w", net.ErrClosed)
		}, "", ""},
		"no connection":                {func(context.Context, net.Conn) (net.Conn, error) { return nil, nil }, "", "neither a connection nor an error (Server.Preamble)"},
		"a nil pointer":                {func(context.Context, net.Conn) (net.Conn, error) { return (*net.TCPConn)(nil), nil }, "", "neither a connection nor an error (Server.Preamble)"},
		"an error beside a connection": {func(_ context.Context, conn net.Conn) (net.Conn, error) { return conn, errors.New("no") }, "", "no"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				srv := &rpcx.Server{Preamble: c.preamble, Options: rpcx.Options{Logger: slog.New(log)}}
				m, _ := newServer(t, srv)
				conn := m.dial(t)
				io.WriteString(conn, c.say)
				if name == "the peer leaves" {
					conn.Close()
				} else if synctest.Wait(); !isClosed(conn) {
					t.Error("the connection is open")
				}
				synctest.Wait()
				got := log.take()
				switch errs := log.attr("error"); {
				case c.want == "" && len(got) > 0:
					t.Errorf("logged was %q", got)
				case c.want != "" && (!slices.Equal(got, []string{"INFO preamble failed"}) || len(errs) != 1 || !strings.Contains(errs[0], c.want)):
					t.Errorf("logged was %q with the errors %q", got, errs)
				case c.want != "" && !slices.Equal(log.attr("peer"), []string{"pipe"}):
					t.Errorf("the log tells of the peers %q", log.attr("peer"))
				}
				if got := srv.Stats(); got.Sessions != 0 || got.Handshakes != 0 {
					t.Errorf("stats are %+v", got)
				}
			})
		})
	}
}

func TestFailedPreamblesAreLoggedWithinARate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: rpcx.Options{Logger: slog.New(log)},
			Preamble: func(context.Context, net.Conn) (net.Conn, error) { return nil, errors.New("no") }}
		m, _ := newServer(t, srv)
		for range 1000 {
			m.dial(t)
		}
		synctest.Wait()
		if n := len(log.take()); n == 0 || n > 100 {
			t.Errorf("%d records are logged", n)
		}
	})
}

// Silent connections are given up as in a TLS handshake. That is logged with its reason,
// whatever the Preamble makes of the closed connection.
func TestPreambleIsWithinTheLimitsOfHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		var causes []string
		srv := &rpcx.Server{MaxHandshakes: 2, Options: rpcx.Options{Logger: slog.New(log)}}
		done := make(chan string, 10)
		srv.Preamble = func(ctx context.Context, conn net.Conn) (net.Conn, error) {
			_, err := readHeader(ctx, conn)
			<-ctx.Done()
			done <- context.Cause(ctx).Error()
			return nil, fmt.Errorf("%w, %w", err, net.ErrClosed)
		}
		m, _ := newServer(t, srv)
		first, second := m.dial(t), m.dial(t)
		time.Sleep(time.Second)
		third := m.dial(t)
		if !isClosed(first) || isClosed(second) || isClosed(third) {
			t.Error("it is not the oldest that has made way")
		}
		causes = append(causes, <-done)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !isClosed(second) || !isClosed(third) || srv.Stats().Handshakes != 0 {
			t.Error("silent connections are kept")
		}
		causes = append(causes, <-done, <-done)
		for i, want := range []string{"Server.MaxHandshakes", "Server.HandshakeTimeout", "Server.HandshakeTimeout"} {
			if errs := log.attr("error"); !strings.Contains(causes[i], want) || len(errs) != 3 || !strings.Contains(errs[i], want) {
				t.Errorf("the contexts ended by %q, logged were %q", causes, errs)
			}
		}
		last := m.dial(t)
		takes(t, 0, func() {
			srv.Close()
			srv.Wait(context.Background())
		})
		if !isClosed(last) || !strings.Contains(<-done, rpcx.ErrServerClosed.Error()) {
			t.Error("a Preamble outlives its server")
		}
	})
}

// A peer is nobody's neighbour before the Preamble has told its address, and one of its
// subnet afterwards.
func TestHandshakesAreCountedByTheAddressOfThePreamble(t *testing.T) {
	secure, _ := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxHandshakes: 4, HandshakeTimeout: -1, Preamble: func(ctx context.Context, conn net.Conn) (net.Conn, error) {
			conn, err := readHeader(ctx, conn)
			if err != nil {
				return nil, err
			}
			return tls.Server(conn, secure), nil
		}}
		m, _ := newServer(t, srv)
		connect := func(addr string) net.Conn {
			conn := m.dial(t)
			fmt.Fprint(conn, addr+"\n")
			synctest.Wait()
			return conn
		}
		other := connect("198.51.100.7:1")
		of := []net.Conn{connect("192.0.2.7:1"), connect("192.0.2.7:2"), connect("192.0.2.8:3")}
		time.Sleep(time.Second)
		last := connect("203.0.113.1:1")
		if isClosed(other) || !isClosed(of[0]) || isClosed(of[1]) || isClosed(of[2]) || isClosed(last) {
			t.Error("it is not the oldest of the busiest address that has made way")
		}
	})
}

// A connection that Preamble returns when it is too late is closed.
func TestPreambleThatIsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int32
		srv := &rpcx.Server{HandshakeTimeout: time.Second, Preamble: func(_ context.Context, conn net.Conn) (net.Conn, error) {
			time.Sleep(3 * time.Second)
			return &buffered{conn, bufio.NewReader(conn), &closed}, nil
		}}
		m, _ := newServer(t, srv)
		conn := m.dial(t)
		time.Sleep(time.Second)
		synctest.Wait()
		if !isClosed(conn) {
			t.Error("after HandshakeTimeout the connection is open")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := closed.Load(); n != 1 || srv.Stats().Sessions != 0 {
			t.Errorf("what the Preamble has returned was closed %d times, stats are %+v", n, srv.Stats())
		}
	})
}

// What no session can come of has no Preamble, and what is refused after it is closed.
func TestPreambleOfAFullServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, closed atomic.Int32
		proceed := make(chan struct{})
		srv := &rpcx.Server{MaxSessions: 1, Preamble: func(_ context.Context, conn net.Conn) (net.Conn, error) {
			calls.Add(1)
			<-proceed
			return &buffered{conn, bufio.NewReader(conn), &closed}, nil
		}}
		m, _ := newServer(t, srv)
		first, second := m.dial(t), m.dial(t)
		close(proceed)
		synctest.Wait()
		if one, two := isClosed(first), isClosed(second); one == two || closed.Load() != 1 || calls.Load() != 2 {
			t.Errorf("closed are %v and %v, %d of %d", one, two, closed.Load(), calls.Load())
		}
		if third := m.dial(t); !isClosed(third) || calls.Load() != 2 {
			t.Errorf("a full server calls Preamble")
		}
	})
}

func TestServeConnHasNoPreamble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), Preamble: func(context.Context, net.Conn) (net.Conn, error) {
			t.Error("the Preamble is called")
			return nil, net.ErrClosed
		}}
		client := connectAll(t, srv, 1)[0]
		if n, err := rpcx.Call[int](t.Context(), client, "reply", rpcx.Args{1}); n != 1 || err != nil {
			t.Errorf("the session answers %d, %v", n, err)
		}
	})
}

func TestWithAddrs(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	remote, local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 8), Port: 2}
	for _, c := range []struct {
		remote, local net.Addr
		want          string
	}{
		{remote, local, "192.0.2.7:1 192.0.2.8:2"},
		{remote, nil, "192.0.2.7:1 pipe"},
		{nil, local, "pipe 192.0.2.8:2"},
	} {
		conn := rpcx.WithAddrs(a, c.remote, c.local)
		if got := conn.RemoteAddr().String() + " " + conn.LocalAddr().String(); got != c.want {
			t.Errorf("the addresses are %s, want %s", got, c.want)
		}
		if under, ok := conn.(interface{ NetConn() net.Conn }); !ok || under.NetConn() != a {
			t.Error("NetConn does not return the connection")
		}
		if half, ok := conn.(interface{ CloseWrite() error }); !ok || !errors.Is(half.CloseWrite(), errors.ErrUnsupported) {
			t.Error("a pipe has halves")
		}
	}
}

// userConn is a connection with data of its own, which counts its calls.
type userConn struct {
	net.Conn
	calls *atomic.Int32
}

func (c userConn) Read(p []byte) (int, error) {
	c.calls.Add(1)
	return c.Conn.Read(p)
}

func (c userConn) Write(p []byte) (int, error) {
	c.calls.Add(1)
	return c.Conn.Write(p)
}

// userConnSameBytes is a userConn that a session may pass by.
type userConnSameBytes struct{ userConn }

func (c userConnSameBytes) SameBytes() net.Conn { return c.Conn }

// A session reads and writes the connection that SameBytes returns, and of other wrappers
// the wrapper.
func TestSessionsUseSameBytes(t *testing.T) {
	for _, same := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		calls := new(atomic.Int32)
		srv := &rpcx.Server{Options: *handling(whoAmI), Preamble: func(_ context.Context, conn net.Conn) (net.Conn, error) {
			wrapped := userConn{conn, calls}
			if same {
				return rpcx.WithAddrs(userConnSameBytes{wrapped}, nil, nil), nil
			}
			return rpcx.WithAddrs(wrapped, nil, nil), nil
		}}
		served := make(chan error, 1)
		// Owner: the test. End: the server is closed.
		go func() { served <- srv.Serve(l) }()
		s, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := s.Call(t.Context(), "who", nil, nil); err != nil {
				t.Error(err)
			}
		}
		s.Close()
		<-s.Done()
		srv.Close()
		srv.Wait(context.Background())
		<-served
		if n := calls.Load(); same && runtime.GOOS != "windows" && n != 0 || !same && n < 20 {
			t.Errorf("with SameBytes %v, %d reads and writes are the wrapper's", same, n)
		}
	}
}

// A connection with other addresses has halves as before: what a peer has asked before it
// closed its half is answered.
func TestWithAddrsKeepsHalves(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: *handling(whoAmI), Preamble: readHeader}
	served := make(chan error, 1)
	// Owner: the test. End: the server is closed.
	go func() { served <- srv.Serve(l) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "192.0.2.7:1000\n"+`{"jsonrpc":"2.0","method":"who","id":1}`+"\n")
	conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(conn)
	if want := `{"jsonrpc":"2.0","result":"192.0.2.7:1000 at tcp","id":1}` + "\n"; string(got) != want || err != nil {
		t.Errorf("the peer gets %q, %v", got, err)
	}
	conn.Close()
	srv.Close()
	srv.Wait(context.Background())
	<-served
}
