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
	Start: func(load Load) (Server, error) {
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
		go l.each(func(conn net.Conn) { // until sourcegraphServer.Close
			newSourcegraphConn(conn, h)
		})
		return sourcegraphServer{l}, nil
	},
}

type sourcegraphServer struct{ *acceptor }

func (s sourcegraphServer) Dial(ctx context.Context) (Client, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	noRequests := jsonrpc2.HandlerWithError(func(context.Context, *jsonrpc2.Conn, *jsonrpc2.Request) (any, error) {
		return nil, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: "unknown method"}
	})
	return sourcegraphClient{newSourcegraphConn(conn, noRequests)}, nil
}

// newSourcegraphConn keeps the library from logging that a connection was
// closed, which here all are.
func newSourcegraphConn(conn net.Conn, h jsonrpc2.Handler) *jsonrpc2.Conn {
	silent := jsonrpc2.SetLogger(log.New(io.Discard, "", 0))
	return jsonrpc2.NewConn(context.Background(), jsonrpc2.NewPlainObjectStream(conn), h, silent)
}

type sourcegraphClient struct{ *jsonrpc2.Conn }

func (c sourcegraphClient) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.Call(ctx, echoMethod, []string{text}, &reply)
	return reply, err
}

func (c sourcegraphClient) Notify(ctx context.Context) error {
	return c.Conn.Notify(ctx, notifyMethod, nil)
}
