package benchmarks

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grpcPeer is grpc-go with one unary method and a ready-made message type: a
// binary encoding over HTTP/2. It has neither batches nor notifications.
var grpcPeer = Peer{
	Name:   "grpc",
	Title:  "grpc-go (protobuf)",
	Kind:   Other,
	OneWay: true,
	Start: func(Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		server := grpc.NewServer()
		server.RegisterService(&grpcService, nil)
		go server.Serve(l) // until grpcServer.Close
		return grpcServer{l, server}, nil
	},
	Dial: dialGRPC,
}

const grpcEcho = "/bench.Echo/Echo"

// grpcService is what protoc would generate.
var grpcService = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			text := new(wrapperspb.StringValue)
			return text, decode(text)
		},
	}},
}

type grpcServer struct {
	*acceptor
	server *grpc.Server
}

func (s grpcServer) Close() error {
	s.server.Stop()
	return s.acceptor.Close()
}

func dialGRPC(_ context.Context, addr string, _ Load) (Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	conn.Connect()
	return grpcClient{conn}, nil
}

type grpcClient struct{ *grpc.ClientConn }

func (c grpcClient) Echo(ctx context.Context, text string) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := c.Invoke(ctx, grpcEcho, wrapperspb.String(text), reply)
	return reply.Value, err
}
