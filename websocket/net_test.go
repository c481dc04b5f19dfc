package websocket_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	coder "github.com/coder/websocket"
)

// serve serves h over HTTP on a port of this machine until the test ends, and
// returns the URL of its WebSockets.
func serve(t *testing.T, h http.Handler) (url string) {
	t.Helper()
	web := httptest.NewServer(h)
	t.Cleanup(web.Close)
	return "ws" + strings.TrimPrefix(web.URL, "http")
}

// serveRPC serves the sessions of srv, which is closed when the test ends.
func serveRPC(t *testing.T, srv *rpcx.Server) (url string) {
	t.Helper()
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	return serve(t, websocket.Handler(srv))
}

// dial returns a session that ends with the test.
func dial(t *testing.T, d websocket.Dialer, url string, opts *rpcx.Options) *rpcx.Session {
	t.Helper()
	s, err := d.Dial(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	return s
}

// ended waits for a session's end and returns its reason.
func ended(t *testing.T, s *rpcx.Session) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-s.Done():
	case <-ctx.Done():
		t.Fatal("the session does not end")
	}
	return s.Err()
}

// peer connects to url as a plain WebSocket, which a test reads and writes itself.
func peer(t *testing.T, url string, opts *coder.DialOptions) *coder.Conn {
	t.Helper()
	ws, _, err := coder.Dial(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

// memory is a listener in memory, for tests in a bubble.
type memory struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemory() *memory { return &memory{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (m *memory) Accept() (net.Conn, error) {
	select {
	case conn := <-m.conns:
		return conn, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// dial is for Dialer.DialContext.
func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case m.conns <- far:
		return near, nil
	case <-m.closed:
		return nil, errors.New("nobody listens")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inMemory serves h until stop is called.
func inMemory(h http.Handler) (l *memory, stop func()) {
	l = newMemory()
	web := &http.Server{Handler: h}
	served := make(chan struct{})
	// Owner: the test. End: stop.
	go func() {
		defer close(served)
		web.Serve(l)
	}()
	return l, func() {
		web.Close()
		<-served
	}
}
