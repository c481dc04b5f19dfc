package rpchttp_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// web is an HTTP server in memory, for bubbles of testing/synctest.
type web struct {
	t     *testing.T
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// newWeb serves h without any timeout of its own until the test ends.
func newWeb(t *testing.T, h http.Handler) *web {
	w := &web{t: t, conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: h}
	served := make(chan struct{})
	// Owner: the test. End: Close of the server.
	go func() {
		defer close(served)
		srv.Serve(w)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
		time.Sleep(time.Second) // on the bubble's clock: package http closes some connections after half a second
	})
	return w
}

func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *web) Close() error {
	w.once.Do(func() { close(w.done) })
	return nil
}

func (w *web) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 80} }

// farConn is a connection of a client at 198.51.100.7.
type farConn struct{ net.Conn }

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 7} }

// dial connects to the server.
func (w *web) dial() net.Conn {
	here, there := net.Pipe()
	w.conns <- farConn{there}
	w.t.Cleanup(func() { here.Close() })
	return here
}

// wire is a connection of a client that writes HTTP by hand.
type wire struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func (w *web) wire() *wire {
	c := w.dial()
	return &wire{c, w.t, bufio.NewReader(c)}
}

// send writes text.
func (w *wire) send(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w.Conn, text); err != nil {
		w.t.Fatal(err)
	}
}

// answer reads a response. The body is open.
func (w *wire) answer() *http.Response {
	w.t.Helper()
	resp, err := http.ReadResponse(w.in, &http.Request{Method: http.MethodPost})
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// answering says that the next response has the status and the body.
func (w *wire) answering(status int, want string) *http.Response {
	w.t.Helper()
	resp := w.answer()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != status || string(body) != want || err != nil {
		w.t.Errorf("the answer is %s, %s, %v; want %d %s", resp.Status, body, err, status, want)
	}
	return resp
}

// head is the header of a POST, without the empty line.
const head = "POST /rpc HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/json\r\n"

// closed says that the server has closed the connection.
func (w *wire) closed() {
	w.t.Helper()
	if b, err := w.in.ReadByte(); err != io.EOF {
		w.t.Errorf("the connection is not closed: %q, %v", b, err)
	}
}
