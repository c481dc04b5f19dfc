package benchmarks

import (
	"context"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
)

// netrpcPeer is the standard library's JSON-RPC 1.0. It has neither batches
// nor notifications nor contexts.
var netrpcPeer = Peer{
	Name:  "netrpc",
	Title: "net/rpc/jsonrpc",
	Kind:  OneWay,
	Start: func(Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		server := rpc.NewServer()
		if err := server.RegisterName("Bench", netrpcService{}); err != nil {
			return nil, err
		}
		go l.each(func(conn net.Conn) { // until netrpcServer.Close
			go server.ServeCodec(jsonrpc.NewServerCodec(conn)) // until the connection is closed
		})
		return netrpcServer{l}, nil
	},
}

type netrpcService struct{}

// Echo is called as Bench.Echo.
func (netrpcService) Echo(text string, reply *string) error {
	*reply = text
	return nil
}

type netrpcServer struct{ *acceptor }

func (s netrpcServer) Dial(ctx context.Context) (Client, error) {
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	return netrpcClient{jsonrpc.NewClient(conn)}, nil
}

type netrpcClient struct{ *rpc.Client }

func (c netrpcClient) Echo(_ context.Context, text string) (reply string, err error) {
	err = c.Call("Bench.Echo", text, &reply)
	return reply, err
}
