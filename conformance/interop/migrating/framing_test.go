package migrating

import (
	"context"
	"io"
	"net"
	"net/rpc/jsonrpc"
	"testing"
	"time"

	"example.com/rpcx"
	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/channel"
	"github.com/sourcegraph/jsonrpc2"
)

// TestFramings is about the table of framings in the document: a client of each library
// calls a session with the framer of the table. (The programs have the rest of the table.)
// The session of the last client has JSONRPCAutoDetect.
func TestFramings(t *testing.T) {
	sumByJRPC2 := func(framing channel.Framing) func(context.Context, net.Conn, *int) error {
		return func(ctx context.Context, conn net.Conn, sum *int) error {
			c := jrpc2.NewClient(framing(conn, conn), nil)
			defer c.Close()
			return c.CallResult(ctx, "sum", []int{40, 2}, sum)
		}
	}
	sumBySourcegraph := func(stream func(io.ReadWriteCloser) jsonrpc2.ObjectStream) func(context.Context, net.Conn, *int) error {
		return func(ctx context.Context, conn net.Conn, sum *int) error {
			c := jsonrpc2.NewConn(ctx, stream(conn), jsonrpc2.HandlerWithError(nil))
			defer c.Close()
			return c.Call(ctx, "sum", []int{40, 2}, sum)
		}
	}
	for name, test := range map[string]struct {
		framer rpcx.Framer
		sum    func(ctx context.Context, conn net.Conn, sum *int) error
	}{
		"channel.LSP":          {rpcx.HeaderFramer{}, sumByJRPC2(channel.LSP)},
		"channel.RawJSON":      {rpcx.JSONFramer{}, sumByJRPC2(channel.RawJSON)},
		"NewPlainObjectStream": {rpcx.JSONFramer{}, sumBySourcegraph(jsonrpc2.NewPlainObjectStream)},
		"VSCodeObjectCodec": {rpcx.HeaderFramer{}, sumBySourcegraph(func(conn io.ReadWriteCloser) jsonrpc2.ObjectStream {
			return jsonrpc2.NewBufferedStream(conn, jsonrpc2.VSCodeObjectCodec{})
		})},
		"net/rpc/jsonrpc": {rpcx.NewlineFramer{}, func(_ context.Context, conn net.Conn, sum *int) error {
			c := jsonrpc.NewClient(conn)
			defer c.Close()
			return c.Call("sum.Operands", []int{40, 2}, sum)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			methods := rpcx.ExposeMap(map[string]any{
				"sum":          func(a, b int) int { return a + b },
				"sum.Operands": rpcx.Func(func(n []int) int { return n[0] + n[1] }, "n"),
			})
			opts := &rpcx.Options{Handler: methods, Framer: test.framer}
			if name == "net/rpc/jsonrpc" {
				opts.Protocol = rpcx.JSONRPCAutoDetect
			}
			s := rpcx.NewSession(far, opts)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var sum int
			if err := test.sum(ctx, near, &sum); err != nil || sum != 42 {
				t.Errorf("%d, %v", sum, err)
			}
			s.Close()
			<-s.Done()
		})
	}
}
