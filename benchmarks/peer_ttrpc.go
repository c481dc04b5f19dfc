package benchmarks

import (
	"context"
	"io"
	"sync"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// ttrpcPeer is containerd's RPC with one unary method and a ready-made message
// type: protobuf messages in frames of the library's own. It has neither batches
// nor notifications.
var ttrpcPeer = Peer{
	Name:   "ttrpc",
	Title:  "containerd/ttrpc",
	Kind:   Other,
	OneWay: true,
	Start: func(Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		server, err := ttrpc.NewServer()
		if err != nil {
			return nil, err
		}
		server.RegisterService(ttrpcService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			echoMethod: func(_ context.Context, unmarshal func(any) error) (any, error) {
				text := new(wrapperspb.StringValue)
				return text, unmarshal(text)
			},
		}})
		quiet.Do(func() { log.L.Logger.SetOutput(io.Discard) })
		go server.Serve(context.Background(), l) // until ttrpcServer.Close
		return ttrpcServer{l, server}, nil
	},
	Dial: func(ctx context.Context, addr string, _ Load) (Client, error) {
		conn, err := dialTCP(ctx, addr)
		if err != nil {
			return nil, err
		}
		return ttrpcClient{ttrpc.NewClient(conn)}, nil
	},
}

// quiet keeps the library from logging that a connection was closed, which here
// all are.
var quiet sync.Once

const ttrpcService = "bench.Echo"

type ttrpcServer struct {
	*acceptor
	server *ttrpc.Server
}

func (s ttrpcServer) Close() error {
	s.server.Close()
	return s.acceptor.Close()
}

type ttrpcClient struct{ *ttrpc.Client }

func (c ttrpcClient) Echo(ctx context.Context, text string) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := c.Call(ctx, ttrpcService, echoMethod, wrapperspb.String(text), reply)
	return reply.Value, err
}
