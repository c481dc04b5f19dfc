package migrating

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"

	"example.com/rpcx"
	"github.com/creachadair/jrpc2/channel"
	"github.com/creachadair/jrpc2/handler"
	"github.com/creachadair/jrpc2/server"
	gethrpc "github.com/ethereum/go-ethereum/rpc"
	"github.com/sourcegraph/jsonrpc2"
)

// factServers are servers with the same methods in each library: sum adds two numbers,
// point takes an object, fail returns an error, panic panics. For rpcx there is a server
// for each library, with its framing and its names of methods.
var factServers = map[string]func(l net.Listener) error{
	"jrpc2":       serveJRPC2,
	"geth":        serveGeth,
	"sourcegraph": serveSourcegraph,
	"netrpc":      serveNetRPC,
}

var errSecret = errors.New("the password is 123")

type Point struct {
	X int `json:"x"`
	Y int `json:"y"`
}

func serveJRPC2(l net.Listener) error {
	methods := handler.Map{
		"sum":   handler.NewPos(func(_ context.Context, a, b int) int { return a + b }, "a", "b"),
		"point": handler.New(func(_ context.Context, p Point) int { return p.X + p.Y }),
		"fail":  handler.New(func(context.Context) error { return errSecret }),
		"panic": handler.New(func(context.Context) error { panic("the password is 123") }),
	}
	return server.Loop(context.Background(), server.NetAccepter(l, channel.Line), server.Static(methods), nil)
}

// gethService has its names without a prefix.
type gethService struct{}

func (gethService) Sum(a, b int) int  { return a + b }
func (gethService) Point(p Point) int { return p.X + p.Y }
func (gethService) Fail() error       { return errSecret }
func (gethService) Panic()            { panic("the password is 123") }

func serveGeth(l net.Listener) error {
	srv := gethrpc.NewServer()
	if err := srv.RegisterName("m", gethService{}); err != nil {
		return err
	}
	return srv.ServeListener(l)
}

func serveSourcegraph(l net.Listener) error {
	handle := func(_ context.Context, _ *jsonrpc2.Conn, req *jsonrpc2.Request) (any, error) {
		switch req.Method {
		case "sum":
			var n [2]int
			err := json.Unmarshal(*req.Params, &n)
			return n[0] + n[1], err
		case "point":
			var p Point
			err := json.Unmarshal(*req.Params, &p)
			return p.X + p.Y, err
		case "fail":
			return nil, errSecret
		case "panic":
			panic("the password is 123")
		}
		return nil, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: "no method " + req.Method}
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		jsonrpc2.NewConn(context.Background(), jsonrpc2.NewPlainObjectStream(conn),
			jsonrpc2.AsyncHandler(jsonrpc2.HandlerWithError(handle)))
	}
}

type netService struct{}

func (netService) Sum(n [2]int, sum *int) error {
	*sum = n[0] + n[1]
	return nil
}

func (netService) Point(p Point, sum *int) error {
	*sum = p.X + p.Y
	return nil
}

func (netService) Fail(_ int, _ *int) error  { return errSecret }
func (netService) Panic(_ int, _ *int) error { panic("the password is 123") }

func serveNetRPC(l net.Listener) error {
	if err := rpc.RegisterName("M", netService{}); err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go jsonrpc.ServeConn(conn)
	}
}

// rpcxOptions returns the options of rpcx's server for a library.
func rpcxOptions(library string) rpcx.Options {
	methods := map[string]any{
		"sum":   rpcx.Func(func(a, b int) int { return a + b }, "a", "b"),
		"point": func(p Point) int { return p.X + p.Y },
		"fail":  func() error { return errSecret },
		"panic": func() { panic("the password is 123") },
	}
	opts := rpcx.Options{}
	switch library {
	case "geth":
		opts.Framer = rpcx.JSONFramer{}
		methods["point"] = rpcx.Func(methods["point"], "p")
		renamed := make(map[string]any)
		for name, fn := range methods {
			renamed["m_"+name] = fn
		}
		methods = renamed
	case "sourcegraph":
		opts.Framer = rpcx.JSONFramer{}
	case "netrpc":
		opts.Protocol = rpcx.JSONRPCv1
		methods = map[string]any{"M": map[string]any{
			"Sum":   rpcx.Func(func(n []int) int { return n[0] + n[1] }, "n"),
			"Point": rpcx.Func(methods["point"], "p"),
			"Fail":  func(int) error { return errSecret },
			"Panic": func(int) { panic("the password is 123") },
		}}
	case "vscode":
		opts.Framer = rpcx.HeaderFramer{}
		opts.Cancellation = rpcx.LSPCancellation
	}
	opts.Handler = rpcx.ExposeMap(methods)
	return opts
}

// serveFacts serves on a port of its own, which it prints.
func serveFacts(library string, ours bool) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	if ours {
		return (&rpcx.Server{Options: rpcxOptions(library)}).Serve(l)
	}
	return factServers[library](l)
}
