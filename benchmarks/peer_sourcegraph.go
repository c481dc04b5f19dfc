package benchmarks

import (
	"context"
	"io"
	"log"
	"net"

	"github.com/sourcegraph/jsonrpc2"
)

// sourcegraphPeer uses the plain object stream and inline handlers, the
// faster choice of both (its other codecs write and parse a header; its
// AsyncHandler starts a goroutine for each request).
var sourcegraphPeer = Peer{
	Name:  "sourcegraph",
	Title: "sourcegraph/jsonrpc2",
	Kind:  JSON,
	Start: startSourcegraph(jsonrpc2.NewPlainObjectStream),
	Dial:  dialSourcegraph(jsonrpc2.NewPlainObjectStream),
}

var sourcegraphHeadersPeer = Peer{
	Name:  "sourcegraph-headers",
	Title: "sourcegraph/jsonrpc2 (headers)",
	Kind:  JSON,
	Start: startSourcegraph(sourcegraphHeaders),
	Dial:  dialSourcegraph(sourcegraphHeaders),
}

func sourcegraphHeaders(conn io.ReadWriteCloser) jsonrpc2.ObjectStream {
	return jsonrpc2.NewBufferedStream(conn, jsonrpc2.VSCodeObjectCodec{})
}

// sourcegraphStream frames messages.
type sourcegraphStream func(io.ReadWriteCloser) jsonrpc2.ObjectStream

func startSourcegraph(stream sourcegraphStream) func(Load) (Server, error) {
	return func(load Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		h := jsonrpc2.HandlerWithError(func(_ context.Context, _ *jsonrpc2.Conn, req *jsonrpc2.Request) (any, error) {
			switch req.Method {
			case echoMethod:
				if req.Params == nil {
					return nil, errParams
				}
				return echoElement(*req.Params)
			case notifyMethod:
				load.Notified()
				return nil, nil
			}
			return nil, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: "unknown method"}
		})
		go l.each(func(conn net.Conn) { // until acceptor.Close
			newSourcegraphConn(stream(conn), h)
		})
		return l, nil
	}
}

// dialSourcegraph returns a Peer's Dial.
func dialSourcegraph(stream sourcegraphStream) func(context.Context, string, Load) (Client, error) {
	noRequests := jsonrpc2.HandlerWithError(func(context.Context, *jsonrpc2.Conn, *jsonrpc2.Request) (any, error) {
		return nil, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: "unknown method"}
	})
	return func(ctx context.Context, addr string, _ Load) (Client, error) {
		conn, err := dialTCP(ctx, addr)
		if err != nil {
			return nil, err
		}
		return sourcegraphClient{newSourcegraphConn(stream(conn), noRequests)}, nil
	}
}

// newSourcegraphConn keeps the library from logging that a connection was
// closed, which here all are.
func newSourcegraphConn(stream jsonrpc2.ObjectStream, h jsonrpc2.Handler) *jsonrpc2.Conn {
	silent := jsonrpc2.SetLogger(log.New(io.Discard, "", 0))
	return jsonrpc2.NewConn(context.Background(), stream, h, silent)
}

type sourcegraphClient struct{ *jsonrpc2.Conn }

func (c sourcegraphClient) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.Call(ctx, echoMethod, []string{text}, &reply)
	return reply, err
}

func (c sourcegraphClient) Notify(ctx context.Context) error {
	return c.Conn.Notify(ctx, notifyMethod, nil)
}
