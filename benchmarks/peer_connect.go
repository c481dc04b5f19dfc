package benchmarks

import (
	"context"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// connectPeer is connect-go with one unary method of its own protocol and a
// ready-made message type. Nothing is compressed. It has neither batches nor
// notifications.
var connectPeer = Peer{
	Name:   "connect",
	Title:  "connect-go (protobuf)",
	Kind:   Other,
	OneWay: true,
	Start: func(load Load) (Server, error) {
		mux := http.NewServeMux()
		mux.Handle(connectEcho, connect.NewUnaryHandlerSimple(connectEcho,
			func(_ context.Context, text *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
				return text, nil
			},
			connect.WithCompression("gzip", nil, nil)))
		return startHTTP(mux, connectProtocols(load))
	},
	Dial: func(_ context.Context, addr string, load Load) (Client, error) {
		client := newHTTPClient(load, connectProtocols(load))
		return connectClient{
			connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](client, "http://"+addr+connectEcho,
				connect.WithAcceptCompression("gzip", nil, nil)),
			client,
		}, nil
	},
}

const connectEcho = "/bench.Echo/Echo"

// connectProtocols chooses HTTP/1.1 for a single caller, whom it is faster for,
// and HTTP/2 for several, whose calls share a connection then.
func connectProtocols(load Load) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(load.Callers == 1)
	p.SetUnencryptedHTTP2(load.Callers > 1)
	return p
}

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
