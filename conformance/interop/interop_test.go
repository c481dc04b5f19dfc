// Package interop tests rpcx with other people's packages at the other end of a
// connection: github.com/creachadair/jrpc2, for plain messages
// github.com/btcsuite/btcd/wire, and for subscriptions
// github.com/ethereum/go-ethereum/rpc. It is a module of its own, so that rpcx does
// not depend on them. (Package peers has the tests with peers that are not in Go.)
package interop

import (
	"context"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"github.com/creachadair/jrpc2/channel"
)

// pipelined is how many calls are in flight at once.
const pipelined = 2000

// values survive a round trip.
var values = []any{
	"Howdy", "", "naïve ☃ 𝄞 </script> \u2028", "tab\tquote\"\\\x00\x7f", 0.0, -1.5, 1e300, true, nil,
	[]any{}, map[string]any{}, []any{1.0, []any{2.0, map[string]any{"é": nil}}},
	strings.Repeat("0123456789", 90_000), // 900 kB
}

// errInside must not reach the peer of an rpcx session.
var errInside = errors.New("nobody else is to know")

// operands are the named arguments of subtract.
type operands struct {
	Subtrahend float64 `json:"subtrahend"`
	Minuend    float64 `json:"minuend"`
}

// testContext bounds what a test does.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// serve returns a connection to a server.
func serve(t *testing.T, opts rpcx.Options) net.Conn {
	t.Helper()
	srv := &rpcx.Server{Options: opts}
	l := listen(t)
	served := make(chan error, 1)
	// Owner: the test. End: the server is closed.
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
		if err := <-served; !errors.Is(err, rpcx.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// dial returns a session, and the connection that was accepted from it.
func dial(t *testing.T, opts rpcx.Options) (*rpcx.Session, net.Conn) {
	t.Helper()
	l := listen(t)
	s, err := rpcx.Dial(testContext(t), "tcp://"+l.Addr().String(), &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return s, conn
}

// lines is the framing of both libraries: a message a line.
func lines(conn net.Conn) channel.Channel { return channel.Line(conn, conn) }

// want wants a value, and no error.
func want(t *testing.T, what string, got any, err error, want any) {
	t.Helper()
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %.100v (%v), want %.100v", what, got, err, want)
	}
}

// receive wants a value to come from a channel.
func receive[T comparable](t *testing.T, ctx context.Context, c <-chan T, want T) {
	t.Helper()
	select {
	case got := <-c:
		if got != want {
			t.Errorf("received %v, want %v", got, want)
		}
	case <-ctx.Done():
		t.Errorf("%v did not come", want)
	}
}
