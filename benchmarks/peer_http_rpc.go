package benchmarks

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/handler"
	"github.com/creachadair/jrpc2/jhttp"
	"github.com/ethereum/go-ethereum/rpc"
)

// HTTPPeers lists the servers of JSON-RPC over HTTP/1.1, and as the floor a handler that
// sends the body back. The same client, of net/http alone, asks the first four: it sends a
// request of JSON-RPC, and reads the reply without decoding. The other two ask by the
// client of their library.
var HTTPPeers = []Peer{
	{Name: "http", Title: "net/http (echo of the body)", Start: startHandler(http.HandlerFunc(echoBody)), Dial: dialPost(echoMethod)},
	{Name: "rpchttp", Title: "rpcx/rpchttp", Start: startRPCHTTP, Dial: dialPost(echoMethod)},
	{Name: "geth", Title: "go-ethereum/rpc", Start: startGethHTTP, Dial: dialPost("bench_echo")},
	{Name: "jrpc2", Title: "jrpc2/jhttp", Start: startJHTTP, Dial: dialPost(echoMethod)},
	{Name: "geth-both", Title: "go-ethereum/rpc, both ends", Start: startGethHTTP, Dial: dialGethHTTP},
	{Name: "jrpc2-both", Title: "jrpc2/jhttp, both ends", Start: startJHTTP, Dial: dialJHTTP},
}

func startHandler(h http.Handler) func(Load) (Server, error) {
	return func(Load) (Server, error) { return startHTTP(h) }
}

// startRPCHTTP starts rpcx with its checks, compression and budgets switched on.
func startRPCHTTP(Load) (Server, error) {
	router := rpcx.NewRouter()
	router.Handle(echoMethod, rawEcho)
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router, Limits: outOfReach.server}}
	return startHTTP(&rpchttp.Handler{Server: srv, Origins: []string{"app.example"}, Hosts: []string{"127.0.0.1"}, Compress: 1 << 10})
}

func startGethHTTP(load Load) (Server, error) {
	server := rpc.NewServer()
	if err := server.RegisterName("bench", &gethService{load.Notified}); err != nil {
		return nil, err
	}
	return startHTTP(server)
}

func startJHTTP(Load) (Server, error) {
	methods := handler.Map{echoMethod: func(_ context.Context, req *jrpc2.Request) (any, error) {
		var params json.RawMessage
		if err := req.UnmarshalParams(&params); err != nil {
			return nil, err
		}
		return echoElement(params)
	}}
	bridge := jhttp.NewBridge(methods, &jhttp.BridgeOptions{Server: &jrpc2.ServerOptions{DisableBuiltin: true}})
	l, err := startHTTP(bridge)
	return jhttpServer{l, bridge}, err
}

type jhttpServer struct {
	Server
	bridge jhttp.Bridge
}

func (s jhttpServer) Close() error {
	s.bridge.Close()
	return s.Server.Close()
}

// dialPost returns a Dial for a client that POSTs requests of method.
func dialPost(method string) func(context.Context, string, Load) (Client, error) {
	return func(_ context.Context, addr string, load Load) (Client, error) {
		return postClient{newHTTPClient(load), "http://" + addr, `{"jsonrpc":"2.0","method":"` + method + `","id":1,"params":["`}, nil
	}
}

type postClient struct {
	*http.Client
	url, begin string
}

func (c postClient) Echo(ctx context.Context, text string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(c.begin+text+`"]}`))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !strings.Contains(string(reply), `"`+text+`"`)) {
		err = fmt.Errorf("status %s: %s", resp.Status, reply)
	}
	return text, err
}

func (c postClient) Close() error {
	c.CloseIdleConnections()
	return nil
}

func dialGethHTTP(ctx context.Context, addr string, load Load) (Client, error) {
	pool := newHTTPClient(load)
	client, err := rpc.DialOptions(ctx, "http://"+addr, rpc.WithHTTPClient(pool))
	if err != nil {
		return nil, err
	}
	return gethHTTPClient{client, pool}, nil
}

type gethHTTPClient struct {
	*rpc.Client
	pool *http.Client
}

func (c gethHTTPClient) Echo(ctx context.Context, text string) (reply string, err error) {
	err = c.CallContext(ctx, &reply, "bench_echo", text)
	return reply, err
}

func (c gethHTTPClient) Close() error {
	c.Client.Close()
	c.pool.CloseIdleConnections()
	return nil
}

func dialJHTTP(_ context.Context, addr string, load Load) (Client, error) {
	pool := newHTTPClient(load)
	channel := jhttp.NewChannel("http://"+addr, &jhttp.ChannelOptions{Client: pool})
	return jhttpClient{jrpc2Client{jrpc2.NewClient(channel, nil)}, pool}, nil
}

type jhttpClient struct {
	jrpc2Client
	pool *http.Client
}

func (c jhttpClient) Close() error {
	err := c.jrpc2Client.Close()
	c.pool.CloseIdleConnections()
	return err
}
