package benchmarks

import (
	"context"
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
)

// The standard library's RPC, with JSON-RPC 1.0 and with its own encoding. It has
// neither batches nor notifications nor contexts.
var (
	netrpcPeer = Peer{
		Name:   "netrpc",
		Title:  "net/rpc/jsonrpc",
		Kind:   JSON,
		OneWay: true,
		Start: startNetRPC(func(server *rpc.Server, conn net.Conn) {
			server.ServeCodec(jsonrpc.NewServerCodec(conn))
		}),
		Dial: dialNetRPC(jsonrpc.NewClient),
	}
	gobPeer = Peer{
		Name:   "gob",
		Title:  "net/rpc (gob)",
		Kind:   Other,
		OneWay: true,
		Start: startNetRPC(func(server *rpc.Server, conn net.Conn) {
			server.ServeConn(conn)
		}),
		Dial: dialNetRPC(rpc.NewClient),
	}
)

// startNetRPC returns a Peer's Start; serve serves a connection until it is closed.
func startNetRPC(serve func(*rpc.Server, net.Conn)) func(Load) (Server, error) {
	return func(Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		server := rpc.NewServer()
		if err := server.RegisterName("Bench", netrpcService{}); err != nil {
			return nil, err
		}
		go l.each(func(conn net.Conn) { // until acceptor.Close
			go serve(server, conn) // until the connection is closed
		})
		return l, nil
	}
}

type netrpcService struct{}

// Echo is called as Bench.Echo.
func (netrpcService) Echo(text string, reply *string) error {
	*reply = text
	return nil
}

// dialNetRPC returns a Peer's Dial.
func dialNetRPC(newClient func(io.ReadWriteCloser) *rpc.Client) func(context.Context, string, Load) (Client, error) {
	return func(ctx context.Context, addr string, _ Load) (Client, error) {
		conn, err := dialTCP(ctx, addr)
		if err != nil {
			return nil, err
		}
		return netrpcClient{newClient(conn)}, nil
	}
}

type netrpcClient struct{ *rpc.Client }

func (c netrpcClient) Echo(_ context.Context, text string) (reply string, err error) {
	err = c.Call("Bench.Echo", text, &reply)
	return reply, err
}
