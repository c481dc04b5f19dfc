package benchmarks

import (
	"bytes"
	"context"
	"net"

	lsp "go.lsp.dev/jsonrpc2"
)

// go.lsp.dev/jsonrpc2 in its three ways: a Conn at both ends with handlers that
// run on the reading goroutine, the same with concurrent handlers, and its
// client-only modes: one for a single caller, who reads the reply himself, and
// one for pipelining. There are no calls for batches: the BatchClient moves
// frames, and leaves building requests and matching replies to its user.
var (
	lspPeer = Peer{
		Name:  "lsp",
		Title: "go.lsp.dev/jsonrpc2 inline",
		Kind:  JSON,
		Start: startLSP(lspHandler),
		Dial:  dialLSP(newLSPConn),
	}
	lspAsyncPeer = Peer{
		Name:  "lsp-async",
		Title: "go.lsp.dev/jsonrpc2 async",
		Kind:  JSON,
		Start: startLSP(func(load Load) lsp.Handler { return lsp.AsyncHandler(lspHandler(load)) }),
		Dial:  dialLSP(newLSPConn),
	}
	lspClientPeer = Peer{
		Name:   "lsp-client",
		Title:  "go.lsp.dev/jsonrpc2 one-way",
		Kind:   JSON,
		OneWay: true,
		Start:  startLSP(lspHandler),
		Dial:   dialLSP(newLSPClient),
	}
	lspHeadersPeer = Peer{
		Name:  "lsp-headers",
		Title: "go.lsp.dev/jsonrpc2 inline (headers)",
		Kind:  JSON,
		Start: func(load Load) (Server, error) {
			load.Size = max(load.Size, 1) // see lspStream
			return startLSP(lspHandler)(load)
		},
		Dial: func(ctx context.Context, addr string, load Load) (Client, error) {
			load.Size = max(load.Size, 1)
			return dialLSP(newLSPConn)(ctx, addr, load)
		},
	}
)

func lspHandler(load Load) lsp.Handler {
	return func(_ context.Context, req *lsp.Request) (any, error) {
		switch req.Method() {
		case echoMethod:
			element, err := echoElement([]byte(req.Params()))
			return lsp.RawMessage(bytes.Clone(element)), err // params end with the handler
		case notifyMethod:
			load.Notified()
			return nil, nil
		}
		return nil, lsp.ErrMethodNotFound
	}
}

func startLSP(handler func(Load) lsp.Handler) func(Load) (Server, error) {
	return func(load Load) (Server, error) {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		h := handler(load)
		go l.each(func(conn net.Conn) { // until acceptor.Close
			lsp.NewConn(lspStream(conn, load)).Go(context.Background(), h)
		})
		return l, nil
	}
}

// lspStream picks the framing. Lines take fewer allocations; headers, which
// tell the length in advance, take half the time for a large message.
func lspStream(conn net.Conn, load Load) lsp.Stream {
	if load.Size > 0 {
		return lsp.NewHeaderStream(conn)
	}
	return lsp.NewNDJSONStream(conn)
}

// dialLSP returns a Peer's Dial whose client is made by newCaller.
func dialLSP(newCaller func(net.Conn, Load) (lspCaller, error)) func(context.Context, string, Load) (Client, error) {
	return func(ctx context.Context, addr string, load Load) (Client, error) {
		conn, err := dialTCP(ctx, addr)
		if err != nil {
			return nil, err
		}
		c, err := newCaller(conn, load)
		if err != nil {
			return nil, err
		}
		return lspClient{c}, nil
	}
}

func newLSPConn(conn net.Conn, load Load) (lspCaller, error) {
	c := lsp.NewConn(lspStream(conn, load))
	c.Go(context.Background(), lsp.MethodNotFoundHandler)
	return c, nil
}

func newLSPClient(conn net.Conn, load Load) (lspCaller, error) {
	stream := lspStream(conn, load)
	if load.Callers == 1 {
		return lsp.NewSingleClient(stream)
	}
	c := lsp.NewPipelineClient(stream)
	c.Go(context.Background(), nil)
	return c, nil
}

// lspCaller is what the library's clients have in common.
type lspCaller interface {
	Call(ctx context.Context, method string, params, result any) (lsp.ID, error)
	Notify(ctx context.Context, method string, params any) error
	Close() error
}

type lspClient struct{ lspCaller }

func (c lspClient) Echo(ctx context.Context, text string) (reply string, err error) {
	_, err = c.Call(ctx, echoMethod, []string{text}, &reply)
	return reply, err
}

func (c lspClient) Notify(ctx context.Context) error {
	return c.lspCaller.Notify(ctx, notifyMethod, nil)
}
