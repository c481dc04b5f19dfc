// Package interop tests rpcx with github.com/creachadair/jrpc2 at the other end
// of a TCP connection. It is a module of its own, so that rpcx does not depend
// on jrpc2. (The tests with peers that are not in Go are beside rpcx's own.)
package interop

import (
	"context"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

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
