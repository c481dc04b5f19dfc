package benchmarks

import (
	"context"
	"errors"

	"example.com/rpcx"
)

// rpcx as its speed is quoted: handlers run concurrently, every call and every
// request has a deadline, cost is counted with limits out of reach, and the
// caller's side does not limit its calls. Beside it: a handler of a typed
// function, all defaults as they are, and no accounting.
var (
	rpcxPeer        = ours("rpcx", "rpcx", rawEcho, outOfReach)
	rpcxFuncPeer    = ours("rpcx-func", "rpcx (Func handler)", typedEcho, outOfReach)
	rpcxDefaultPeer = ours("rpcx-defaults", "rpcx (plain defaults)", rawEcho, rpcxLimits{plain: true})
	rpcxCostOffPeer = ours("rpcx-cost-off", "rpcx (no cost accounting)", rawEcho, rpcxLimits{
		server: rpcx.Limits{CostOff: true},
		client: rpcx.Limits{Outgoing: -1},
	})
	rpcxHeadersPeer = ours("rpcx-headers", "rpcx (headers)", rawEcho, rpcxLimits{
		server: outOfReach.server,
		client: outOfReach.client,
		framer: rpcx.HeaderFramer{MaxSize: rpcxMaxSize},
	})
)

type rpcxLimits struct {
	server, client rpcx.Limits
	framer         rpcx.Framer // with the largest size; nil for lines
	plain          bool        // they are the defaults
}

var outOfReach = rpcxLimits{
	server: rpcx.Limits{CostSoft: 1e15, CostHard: 2e15},
	client: rpcx.Limits{Outgoing: -1},
}

var rawEcho = rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
	return echoElement(req.Params.Positional)
})

var typedEcho = rpcx.Func(func(_ context.Context, message string) (string, error) {
	return message, nil
}, "message")

func ours(name, title string, echo rpcx.Handler, limits rpcxLimits) Peer {
	return Peer{Name: name, Title: title, Kind: Ours, Start: startRPCX(echo, limits), Dial: dialRPCX(limits, echoMethod)}
}

// rpcxMaxSize is the largest message, for the row of large ones.
const rpcxMaxSize = 2 << 20

// startRPCX returns a Peer's Start whose server answers echoMethod by echo.
func startRPCX(echo rpcx.Handler, limits rpcxLimits) func(Load) (Server, error) {
	return func(load Load) (Server, error) {
		if load.Size > 0 && limits.plain {
			return nil, errors.ErrUnsupported // it would show how such a load is slowed down
		}
		return serveRPCX(limits, rpcxHandler(load, echo))
	}
}

// rpcxHandler answers echoMethod by echo.
func rpcxHandler(load Load, echo rpcx.Handler) rpcx.Handler {
	return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		switch req.Method {
		case echoMethod:
			return echo.ServeRPC(ctx, req)
		case notifyMethod:
			load.Notified()
			return nil, nil
		}
		return nil, rpcx.MethodNotFound(req.Method)
	})
}

// serveRPCX starts a server.
func serveRPCX(limits rpcxLimits, h rpcx.Handler) (Server, error) {
	l, err := listen()
	if err != nil {
		return nil, err
	}
	server := &rpcx.Server{Options: rpcx.Options{Framer: limits.framing(), Limits: limits.server, Handler: h}}
	go server.Serve(l) // until rpcxServer.Close
	return rpcxServer{l, server}, nil
}

// framing returns how messages are framed.
func (l rpcxLimits) framing() rpcx.Framer {
	if l.framer == nil {
		return rpcx.NewlineFramer{MaxSize: rpcxMaxSize}
	}
	return l.framer
}

type rpcxServer struct {
	*acceptor
	server *rpcx.Server
}

func (s rpcxServer) Close() error {
	s.server.Close()
	return s.acceptor.Close()
}

// dialRPCX returns a Peer's Dial whose clients call method for an echo.
func dialRPCX(limits rpcxLimits, method string) func(context.Context, string, Load) (Client, error) {
	return func(ctx context.Context, addr string, _ Load) (Client, error) {
		session, err := rpcx.Dial(ctx, "tcp://"+addr, &rpcx.Options{Framer: limits.framing(), Limits: limits.client})
		if err != nil {
			return nil, err
		}
		return rpcxClient{session, method}, nil
	}
}

type rpcxClient struct {
	*rpcx.Session
	method string
}

func (c rpcxClient) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.Call(ctx, c.method, rpcx.Args{text}, &reply)
	return reply, err
}

func (c rpcxClient) Batch(ctx context.Context, in, out []string) error {
	var b rpcx.Batch
	for i, text := range in {
		b.Call(c.method, rpcx.Args{text}, &out[i])
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
