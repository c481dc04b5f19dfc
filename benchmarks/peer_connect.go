package benchmarks

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// connectPeer is connect-go with one unary method of its own protocol and a
// ready-made message type. Nothing is compressed, and HTTP/1.1 carries the calls:
// with HTTP/2, whose calls share a connection, each takes as long or longer. It
// has neither batches nor notifications.
var connectPeer = Peer{
	Name:   "connect",
	Title:  "connect-go (protobuf, pool)",
	Kind:   Other,
	OneWay: true,
	Start: func(Load) (Server, error) {
		mux := http.NewServeMux()
		mux.Handle(connectEcho, connect.NewUnaryHandlerSimple(connectEcho,
			func(_ context.Context, text *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
				return text, nil
			},
			connect.WithCompression("gzip", nil, nil)))
		return startHTTP(mux)
	},
	Dial: func(_ context.Context, addr string, load Load) (Client, error) {
		client := newHTTPClient(load)
		return connectClient{
			connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](client, "http://"+addr+connectEcho,
				connect.WithAcceptCompression("gzip", nil, nil)),
			client,
		}, nil
	},
}

const connectEcho = "/bench.Echo/Echo"

type connectClient struct {
	*connect.Client[wrapperspb.StringValue, wrapperspb.StringValue]
	http *http.Client
}

func (c connectClient) Echo(ctx context.Context, text string) (string, error) {
	reply, err := c.CallUnary(ctx, connect.NewRequest(wrapperspb.String(text)))
	if err != nil {
		return "", err
	}
	return reply.Msg.Value, nil
}

func (c connectClient) Close() error {
	c.http.CloseIdleConnections()
	return nil
}
