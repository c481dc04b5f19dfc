package benchmarks

import (
	"context"
	"encoding/json"

	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/channel"
	"github.com/creachadair/jrpc2/handler"
	"github.com/creachadair/jrpc2/server"
)

// jrpc2Peer uses line framing and the library's own accept loop.
var jrpc2Peer = Peer{
	Name:  "jrpc2",
	Title: "creachadair/jrpc2",
	Kind:  JSON,
	Start: func(load Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		methods := handler.Map{
			echoMethod: func(_ context.Context, req *jrpc2.Request) (any, error) {
				var params json.RawMessage
				if err := req.UnmarshalParams(&params); err != nil {
					return nil, err
				}
				return echoElement(params)
			},
			notifyMethod: func(context.Context, *jrpc2.Request) (any, error) {
				load.Notified()
				return nil, nil
			},
		}
		accepter := server.NetAccepter(l, channel.Line)
		options := &server.LoopOptions{ServerOptions: &jrpc2.ServerOptions{DisableBuiltin: true}}
		go server.Loop(context.Background(), accepter, server.Static(methods), options) // until acceptor.Close
		return l, nil
	},
	Dial: dialJRPC2,
}

func dialJRPC2(ctx context.Context, addr string, _ Load) (Client, error) {
	conn, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	return jrpc2Client{jrpc2.NewClient(channel.Line(conn, conn), nil)}, nil
}

type jrpc2Client struct{ *jrpc2.Client }

func (c jrpc2Client) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.CallResult(ctx, echoMethod, []string{text}, &reply)
	return reply, err
}

func (c jrpc2Client) Batch(ctx context.Context, in, out []string) error {
	specs := make([]jrpc2.Spec, len(in))
	for i, text := range in {
		specs[i] = jrpc2.Spec{Method: echoMethod, Params: []string{text}}
	}
	replies, err := c.Client.Batch(ctx, specs)
	if err != nil {
		return err
	}
	for i, r := range replies {
		if err := r.UnmarshalResult(&out[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c jrpc2Client) Notify(ctx context.Context) error {
	return c.Client.Notify(ctx, notifyMethod, nil)
}
