package benchmarks

import (
	"context"
	"net"

	"github.com/ethereum/go-ethereum/rpc"
)

// gethPeer has handlers by reflection only: go-ethereum's server calls the
// methods of a registered value.
var gethPeer = Peer{
	Name:  "geth",
	Title: "go-ethereum/rpc",
	Kind:  JSON,
	Start: func(load Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		server := rpc.NewServer()
		if err := server.RegisterName("bench", &gethService{load.Notified}); err != nil {
			return nil, err
		}
		go server.ServeListener(l) // until gethServer.Close
		return gethServer{l, server}, nil
	},
	Dial: dialGeth,
}

type gethService struct{ notified func() }

// Echo is called as bench_echo.
func (s *gethService) Echo(text string) string { return text }

// Ping is called as bench_ping.
func (s *gethService) Ping() { s.notified() }

type gethServer struct {
	*acceptor
	server *rpc.Server
}

func (s gethServer) Close() error {
	err := s.acceptor.Close()
	s.server.Stop()
	return err
}

func dialGeth(ctx context.Context, addr string, _ Load) (Client, error) {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	client, err := rpc.DialIO(ctx, conn, conn)
	if err != nil {
		return nil, err
	}
	return gethClient{client, conn}, nil
}

type gethClient struct {
	client *rpc.Client
	conn   net.Conn
}

func (c gethClient) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.client.CallContext(ctx, &reply, "bench_echo", text)
	return reply, err
}

func (c gethClient) Batch(ctx context.Context, in, out []string) error {
	elems := make([]rpc.BatchElem, len(in))
	for i, text := range in {
		elems[i] = rpc.BatchElem{Method: "bench_echo", Args: []any{text}, Result: &out[i]}
	}
	if err := c.client.BatchCallContext(ctx, elems); err != nil {
		return err
	}
	for _, e := range elems {
		if e.Error != nil {
			return e.Error
		}
	}
	return nil
}

func (c gethClient) Notify(ctx context.Context) error { return c.client.Notify(ctx, "bench_ping") }

// Close closes the connection first: a client made by DialIO does not own it,
// and its Close waits for the read that only this ends.
func (c gethClient) Close() error {
	err := c.conn.Close()
	c.client.Close()
	return err
}
