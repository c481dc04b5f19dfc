//go:build unix

package proxyproto_test

import (
	"context"
	"crypto/tls"
	"io"
	"math"
	"net"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"example.com/rpcx/proxyproto"
)

// counters counts the calls of the connections that a server has accepted.
type counters struct{ reads, writes atomic.Int64 }

// countingListener accepts connections of TCP that count their calls, unless a session
// calls the socket below.
type countingListener struct {
	net.Listener
	*counters
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countingConn{conn, l.counters}, nil
}

type countingConn struct {
	net.Conn
	*counters
}

func (c countingConn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(p)
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func (c countingConn) SameBytes() net.Conn { return c.Conn }

// dialThrough connects to a server as a proxy would, with a header if there is one.
func dialThrough(t testing.TB, addr net.Addr, header []byte) *rpcx.Session {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(header); err != nil {
		t.Fatal(err)
	}
	return rpcx.NewSession(conn, nil)
}

// The session reads and writes the socket: through the connections above go the bytes of
// the header, and no others.
func TestSessionsUseTheSocketBelow(t *testing.T) {
	text := header(1, "203.0.113.7:1000")
	count := &counters{}
	config := &proxyproto.Config{Proxies: prefixes("127.0.0.0/8")}
	srv := &rpcx.Server{Preamble: config.Preamble, Options: rpcx.Options{Handler: methods()}}
	l := listen(t, "127.0.0.1:0")
	serve(t, srv, countingListener{l, count})
	s := dialThrough(t, l.Addr(), text)
	for range 100 {
		ask(t, s, "who")
	}
	s.Close()
	<-s.Done()
	srv.Close()
	srv.Wait(context.Background())
	if reads, writes := count.reads.Load(), count.writes.Load(); reads != int64(len(text)) || writes != 0 {
		t.Errorf("%d reads and %d writes are not of the socket, want %d and 0", reads, writes, len(text))
	}
}

// A lone call allocates as much as without a header.
func TestCallsAllocateAsMuchAsWithoutAHeader(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes pools forget")
	}
	measure := func(srv *rpcx.Server, header []byte) float64 {
		l := listen(t, "127.0.0.1:0")
		srv.Options.Handler = methods()
		serve(t, srv, l)
		s := dialThrough(t, l.Addr(), header)
		defer func() {
			s.Close()
			<-s.Done()
		}()
		call := func() {
			if err := s.Call(t.Context(), "echo", rpcx.Args{"hi"}, nil); err != nil {
				t.Fatal(err)
			}
		}
		least := math.Inf(1) // on a busy machine, some runs have a reader of their own
		for range 10 {
			least = min(least, testing.AllocsPerRun(500, call))
		}
		return least
	}
	config := &proxyproto.Config{Proxies: prefixes("127.0.0.0/8")}
	direct := measure(&rpcx.Server{}, nil)
	proxied := measure(&rpcx.Server{Preamble: config.Preamble}, header(2, "203.0.113.7:1000"))
	if direct != proxied {
		t.Errorf("a call makes %v allocations behind a proxy, and %v without one", proxied, direct)
	}
}

// A proxy that resets the connection within its header, as some health checks do, costs
// nothing. The bytes of the header may be lost in that.
func TestResetWithinTheHeader(t *testing.T) {
	config := &proxyproto.Config{Proxies: prefixes("127.0.0.0/8")}
	log := &logBuffer{}
	ended := make(chan error)
	srv := &rpcx.Server{Options: rpcx.Options{Logger: log.logger()},
		Preamble: func(ctx context.Context, conn net.Conn) (net.Conn, error) {
			conn, err := config.Preamble(ctx, conn)
			ended <- err
			return conn, err
		}}
	l := listen(t, "127.0.0.1:0")
	serve(t, srv, l)
	for _, said := range []string{"", "PROXY UNK", "PROXY UNKNOWN\r\n", string(header(2, "203.0.113.7:1000")[:20])} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, said)
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "proxy") {
			t.Errorf("after %q the Preamble ends by %v", said, err)
		}
	}
	for srv.Stats().Handshakes > 0 {
		runtime.Gosched()
	}
	srv.Close()
	srv.Wait(context.Background())
	expectLog(t, log, "")
}

// TLS begins behind the header, if the listener is one of rpcx.Listen.
func TestTLSComesAfterTheHeader(t *testing.T) {
	web := httptest.NewTLSServer(nil) // has a certificate for tests
	defer web.Close()
	secure := &tls.Config{Certificates: web.TLS.Certificates}
	config := &proxyproto.Config{Proxies: prefixes("127.0.0.0/8")}
	log := &logBuffer{}
	srv := &rpcx.Server{Preamble: config.Preamble, Options: rpcx.Options{Handler: methods(), Logger: log.logger()}}
	l, err := rpcx.Listen(t.Context(), "tls://127.0.0.1:0", secure)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, srv, l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(header(2, "203.0.113.7:1000"))
	s := rpcx.NewSession(tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), nil)
	if got := ask(t, s, "who"); got != "203.0.113.7:1000 at 192.0.2.1:443" {
		t.Errorf("the addresses are %s", got)
	}
	if got, err := rpcx.Call[[]int](t.Context(), s, "header", nil); err != nil || len(got) != 1 || got[0] != 2 {
		t.Errorf("the header is %v, %v", got, err)
	}
	s.Close()
	<-s.Done()

	expectLog(t, log, "")
}

func TestListenerThatBeginsWithTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	config := &proxyproto.Config{Proxies: prefixes("127.0.0.0/8")}
	log := &logBuffer{}
	srv := &rpcx.Server{Preamble: config.Preamble, Options: rpcx.Options{Logger: log.logger()}}
	l := listen(t, "127.0.0.1:0")
	serve(t, srv, tls.NewListener(l, &tls.Config{Certificates: web.TLS.Certificates}))
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(header(2, "203.0.113.7:1000"))
	io.Copy(io.Discard, conn) // until the server closes the connection
	conn.Close()
	srv.Close()
	srv.Wait(context.Background())
	expectLog(t, log, "listen with rpcx.Listen and a tls:// address, not with package tls")
}

// On a unix socket, the client's half may be closed as without a header.
func TestHalfCloseOfAUnixSocket(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	config := &proxyproto.Config{UnixProxy: true}
	serve(t, &rpcx.Server{Preamble: config.Preamble, Options: rpcx.Options{Handler: methods()}}, l)
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(header(2, "203.0.113.7:1000"))
	io.WriteString(conn, `{"jsonrpc":"2.0","method":"who","id":1}`+"\n")
	conn.(*net.UnixConn).CloseWrite()
	got, err := io.ReadAll(conn)
	if want := `{"jsonrpc":"2.0","result":"203.0.113.7:1000 at 192.0.2.1:443","id":1}` + "\n"; string(got) != want || err != nil {
		t.Errorf("the client gets %q, %v", got, err)
	}
	conn.Close()
}

// BenchmarkLoneCall measures one call at a time over loopback, without a header and behind
// one.
func BenchmarkLoneCall(b *testing.B) {
	config := &proxyproto.Config{Proxies: prefixes("127.0.0.0/8")}
	for _, c := range []struct {
		name     string
		preamble func(context.Context, net.Conn) (net.Conn, error)
		header   []byte
	}{
		{"direct", nil, nil},
		{"proxied", config.Preamble, header(2, "203.0.113.7:1000")},
	} {
		b.Run(c.name, func(b *testing.B) {
			limits := rpcx.Limits{CostHard: -1}
			srv := &rpcx.Server{Preamble: c.preamble, Options: rpcx.Options{Handler: methods(), Limits: limits}}
			l := listen(b, "127.0.0.1:0")
			// Owner: the benchmark. End: the server is closed.
			go srv.Serve(l)
			s := dialThrough(b, l.Addr(), c.header)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Call(context.Background(), "echo", rpcx.Args{"hi"}, nil); err != nil {
					b.Fatal(err)
				}
			}
			s.Close()
			<-s.Done()
			srv.Close()
			srv.Wait(context.Background())
		})
	}
}
