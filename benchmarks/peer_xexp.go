package benchmarks

import (
	"context"
	"io"

	"golang.org/x/exp/jsonrpc2"
)

// xexpPeer uses the raw framer, which writes a message at once (the header
// framer takes two writes). The library runs one handler at a time.
var xexpPeer = Peer{
	Name:  "xexp",
	Title: "x/exp/jsonrpc2",
	Kind:  JSON,
	Start: func(load Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		options := jsonrpc2.ConnectionOptions{
			Framer: jsonrpc2.RawFramer(),
			Handler: jsonrpc2.HandlerFunc(func(_ context.Context, req *jsonrpc2.Request) (any, error) {
				switch req.Method {
				case echoMethod:
					return echoElement(req.Params)
				case notifyMethod:
					load.Notified()
					return nil, nil
				}
				return nil, jsonrpc2.ErrNotHandled
			}),
		}
		server, err := jsonrpc2.Serve(context.Background(), xexpListener{l}, options)
		if err != nil {
			return nil, err
		}
		return xexpServer{l, server}, nil
	},
	Dial: dialXExp,
}

// xexpListener is an acceptor in the library's terms.
type xexpListener struct{ *acceptor }

func (l xexpListener) Accept(context.Context) (io.ReadWriteCloser, error) { return l.acceptor.Accept() }
func (l xexpListener) Dialer() jsonrpc2.Dialer                            { return xexpDialer(l.Addr().String()) }

// xexpDialer is a server's address in the library's terms.
type xexpDialer string

func (addr xexpDialer) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	return dialTCP(ctx, string(addr))
}

type xexpServer struct {
	*acceptor
	server *jsonrpc2.Server
}

// Close closes the accepted connections too: the library never does.
func (s xexpServer) Close() error {
	err := s.acceptor.Close()
	s.server.Wait() // reports how the connections ended, as they did above
	return err
}

func dialXExp(ctx context.Context, addr string, _ Load) (Client, error) {
	conn, err := jsonrpc2.Dial(ctx, xexpDialer(addr), jsonrpc2.ConnectionOptions{Framer: jsonrpc2.RawFramer()})
	if err != nil {
		return nil, err
	}
	return xexpClient{conn}, nil
}

type xexpClient struct{ *jsonrpc2.Connection }

func (c xexpClient) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.Call(ctx, echoMethod, []string{text}).Await(ctx, &reply)
	return reply, err
}

func (c xexpClient) Notify(ctx context.Context) error {
	return c.Connection.Notify(ctx, notifyMethod, nil)
}
