package proxyproto_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	pp "github.com/pires/go-proxyproto"

	"example.com/rpcx"
	"example.com/rpcx/proxyproto"
)

// methods returns the handler of the tests' servers.
func methods() *rpcx.Router {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(text string) string { return text }, "text"))
	// who returns the addresses of the client and of its other end.
	router.Handle("who", rpcx.Func(func(s *rpcx.Session) string {
		return s.RemoteAddr().String() + " at " + s.LocalAddr().String()
	}))
	router.Handle("group", rpcx.Func(func(s *rpcx.Session) string {
		return rpcx.GroupBySubnet(24, 64)(s)
	}))
	// proxy returns the address of the proxy.
	router.Handle("proxy", rpcx.Func(func(s *rpcx.Session) string {
		conn := s.NetConn()
		for {
			wrapper, ok := conn.(interface{ NetConn() net.Conn })
			if !ok {
				return conn.RemoteAddr().String()
			}
			conn = wrapper.NetConn()
		}
	}))
	// header returns the version of the header and the types of its TLVs.
	router.Handle("header", rpcx.Func(func(s *rpcx.Session) ([]int, error) {
		header := proxyproto.Header(s.NetConn())
		if header == nil {
			return nil, nil
		}
		result := []int{int(header.Version)}
		tlvs, err := header.TLVs()
		for _, tlv := range tlvs {
			result = append(result, int(tlv.Type))
		}
		return result, err
	}))
	router.Handle("work", rpcx.Func(func(s *rpcx.Session) { s.BumpCost(1e6) }))
	return router
}

// prefixes returns prefixes by their texts.
func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// logBuffer is a log of one record a line.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// serve runs srv on l until the test ends.
func serve(t testing.TB, srv *rpcx.Server, l net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	// Owner: the test. End: the server is closed.
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
		if err := <-served; err != rpcx.ErrServerClosed {
			t.Errorf("Serve returns %v", err)
		}
	})
}

// listen listens on a free port of loopback.
func listen(t testing.TB, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pipes is a listener in memory, whose connections have the addresses of TCP.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8888} }

// dial connects from an address, and returns the peer's end.
func (p *pipes) dial(from net.Addr) net.Conn {
	here, there := net.Pipe()
	p.conns <- rpcx.WithAddrs(there, from, p.Addr())
	return here
}

// The addresses of the tests: a listed proxy, and a peer that is none.
var (
	theProxy = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 10), Port: 4000}
	stranger = &net.TCPAddr{IP: net.IPv4(198, 51, 100, 66), Port: 4000}
)

// header returns a header of version 1 or 2 for a client at addr.
func header(version byte, addr string, tlvs ...pp.TLV) []byte {
	client := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))
	local := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	if client.IP.To4() == nil {
		local.IP = net.ParseIP("2001:db8::1")
	}
	h := pp.HeaderProxyFromAddrs(version, client, local)
	if err := h.SetTLVs(tlvs); err != nil {
		panic(err)
	}
	text, err := h.Format()
	if err != nil {
		panic(err)
	}
	return text
}

// isClosed reports whether the peer has closed conn, whose peer sends nothing.
func isClosed(conn net.Conn) bool {
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe)
}

// ask calls a method that returns a text.
func ask(t testing.TB, s *rpcx.Session, method string) string {
	t.Helper()
	text, err := rpcx.Call[string](t.Context(), s, method, nil)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return text
}

// expectLog checks that the log has one record, with a text, or none if the text is "".
func expectLog(t *testing.T, log *logBuffer, want string) {
	t.Helper()
	got := log.String()
	if want == "" && got != "" || want != "" && (strings.Count(got, "\n") != 1 || !strings.Contains(got, want)) {
		t.Errorf("the log is %q, want %q", got, want)
	}
}
