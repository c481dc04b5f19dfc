package benchmarks

import (
	"context"

	"example.com/rpcx"
)

// rpcx with its defaults: handlers run concurrently, every call and every
// request has a deadline. Only the largest message is raised, for the row that
// needs it.
var (
	rpcxPeer = Peer{
		Name:  "rpcx",
		Title: "rpcx",
		Kind:  Ours,
		Start: startRPCX(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			return echoElement(req.Params.Positional)
		})),
	}
	rpcxFuncPeer = Peer{
		Name:  "rpcx-func",
		Title: "rpcx (Func handler)",
		Kind:  Ours,
		Start: startRPCX(rpcx.Func(func(_ context.Context, message string) (string, error) {
			return message, nil
		}, "message")),
	}
)

// rpcxFramer takes messages of up to 2 MiB.
var rpcxFramer = rpcx.NewlineFramer{MaxSize: 2 << 20}

// startRPCX returns a Peer's Start whose server answers echoMethod by echo.
func startRPCX(echo rpcx.Handler) func(Load) (Server, error) {
	return func(load Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		server := &rpcx.Server{Options: rpcx.Options{
			Framer: rpcxFramer,
			Handler: rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
				switch req.Method {
				case echoMethod:
					return echo.ServeRPC(ctx, req)
				case notifyMethod:
					load.Notified()
					return nil, nil
				}
				return nil, rpcx.MethodNotFound(req.Method)
			}),
		}}
		go server.Serve(l) // until rpcxServer.Close
		return rpcxServer{l, server}, nil
	}
}

type rpcxServer struct {
	*acceptor
	server *rpcx.Server
}

func (s rpcxServer) Close() error {
	s.server.Close()
	return s.acceptor.Close()
}

func (s rpcxServer) Dial(ctx context.Context) (Client, error) {
	session, err := rpcx.Dial(ctx, "tcp://"+s.Addr().String(), &rpcx.Options{Framer: rpcxFramer})
	if err != nil {
		return nil, err
	}
	return rpcxClient{session}, nil
}

type rpcxClient struct{ *rpcx.Session }

func (c rpcxClient) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.Call(ctx, echoMethod, rpcx.Args{text}, &reply)
	return reply, err
}

func (c rpcxClient) Batch(ctx context.Context, in, out []string) error {
	var b rpcx.Batch
	for i, text := range in {
		b.Call(echoMethod, rpcx.Args{text}, &out[i])
	}
	return c.SendBatch(ctx, &b)
}

func (c rpcxClient) Notify(ctx context.Context) error {
	return c.Session.Notify(ctx, notifyMethod, nil)
}

// Close waits for the session's end, so that a test sees what it left.
func (c rpcxClient) Close() error {
	err := c.Session.Close()
	<-c.Done()
	return err
}
