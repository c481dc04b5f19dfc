package benchmarks

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmux"
	"storj.io/drpc/drpcpool"
	"storj.io/drpc/drpcserver"
)

// drpcPeer is Storj's RPC with one unary method and a ready-made message type. A
// connection carries one call at a time, so callers share the library's pool of
// connections. It has neither batches nor notifications.
var drpcPeer = Peer{
	Name:   "drpc",
	Title:  "storj drpc (pool)",
	Kind:   Other,
	OneWay: true,
	Start: func(Load) (Server, error) {
		mux := drpcmux.New()
		if err := mux.Register(drpcService{}, drpcDescription{}); err != nil {
			return nil, err
		}
		l, err := listen()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(context.Background())
		go drpcserver.New(mux).Serve(ctx, l) // until drpcServer.Close
		return drpcServer{l, cancel}, nil
	},
	Dial: dialDRPC,
}

const drpcEcho = "/bench.Echo/Echo"

type drpcServer struct {
	*acceptor
	cancel context.CancelFunc
}

func (s drpcServer) Close() error {
	s.cancel()
	return s.acceptor.Close()
}

// drpcService is what a user of the generated code writes.
type drpcService struct{}

func (drpcService) Echo(_ context.Context, text *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	return text, nil
}

// drpcDescription and drpcEncoding are what protoc-gen-go-drpc would generate.
type (
	drpcDescription struct{}
	drpcEncoding    struct{}
)

func (drpcDescription) NumMethods() int { return 1 }

func (drpcDescription) Method(int) (string, drpc.Encoding, drpc.Receiver, any, bool) {
	return drpcEcho, drpcEncoding{},
		func(srv any, ctx context.Context, in1, _ any) (drpc.Message, error) {
			return srv.(drpcService).Echo(ctx, in1.(*wrapperspb.StringValue))
		},
		drpcService.Echo, true
}

func (drpcEncoding) Marshal(msg drpc.Message) ([]byte, error) {
	return proto.Marshal(msg.(proto.Message))
}

func (drpcEncoding) MarshalAppend(buf []byte, msg drpc.Message) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(buf, msg.(proto.Message))
}

func (drpcEncoding) Unmarshal(buf []byte, msg drpc.Message) error {
	return proto.Unmarshal(buf, msg.(proto.Message))
}

func dialDRPC(ctx context.Context, addr string, load Load) (Client, error) {
	if load.Callers > 1 {
		pool := drpcpool.New[string, drpcpool.Conn](drpcpool.Options{})
		conn := pool.Get(ctx, addr, func(ctx context.Context, addr string) (drpcpool.Conn, error) {
			return newDRPCConn(ctx, addr)
		})
		return drpcClient{conn, pool.Close}, nil
	}
	conn, err := newDRPCConn(ctx, addr)
	if err != nil {
		return nil, err
	}
	return drpcClient{conn, conn.Close}, nil
}

func newDRPCConn(ctx context.Context, addr string) (*drpcconn.Conn, error) {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	return drpcconn.New(conn), nil
}

type drpcClient struct {
	conn  drpc.Conn
	close func() error
}

func (c drpcClient) Echo(ctx context.Context, text string) (string, error) {
	reply := new(wrapperspb.StringValue)
	err := c.conn.Invoke(ctx, drpcEcho, drpcEncoding{}, wrapperspb.String(text), reply)
	return reply.Value, err
}

func (c drpcClient) Close() error { return c.close() }
