package rpcx_test

import (
	"context"
	"fmt"
	"net"

	"example.com/rpcx"
)

// A client goes on with another session when its server is restarted. Each session begins with
// a login.
func ExampleClient() {
	ctx := context.Background()
	start := func(addr string) (*rpcx.Server, string) {
		router := rpcx.NewRouter()
		router.Handle("login", rpcx.Func(func(name string) { fmt.Println(name, "logs in") }))
		router.Handle("sum", rpcx.Func(func(a, b int) int { return a + b }))
		srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			panic(err)
		}
		go srv.Serve(ln)
		return srv, ln.Addr().String()
	}
	srv, addr := start("127.0.0.1:0")

	c := rpcx.NewClient(&rpcx.ClientOptions{
		Addrs: []string{"tcp://" + addr},
		OnConnect: func(ctx context.Context, s *rpcx.Session) error {
			return s.Call(ctx, "login", rpcx.Args{"gopher"}, nil)
		},
		Idempotent: func(method string) bool { return method == "sum" },
	})
	defer c.Close()
	fmt.Println(rpcx.Call[int](ctx, c, "sum", rpcx.Args{1, 2}))

	_ = srv.Shutdown(ctx)
	srv, _ = start(addr)
	fmt.Println(rpcx.Call[int](ctx, c, "sum", rpcx.Args{3, 4})) // waits for the new session
	_ = c.Shutdown(ctx)
	_ = srv.Shutdown(ctx)
	// Output:
	// gopher logs in
	// 3 <nil>
	// gopher logs in
	// 7 <nil>
}

// A subscription outlives its session. OnGap tells the reader that values may be missing.
func ExampleClient_subscriptions() {
	ctx := context.Background()
	height := 100
	ready := make(chan *rpcx.Session, 1)
	node := rpcx.NewRouter()
	node.Handle("blockchain.headers.subscribe", rpcx.Func(func(ctx context.Context, s *rpcx.Session) (int, error) {
		rpcx.AfterReply(ctx, func(error) { ready <- s })
		return height, nil
	}))
	c := rpcx.NewClient(&rpcx.ClientOptions{
		Addrs: []string{"node"},
		Connect: func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
			s, _ := rpcx.Pipe(opts, &rpcx.Options{Handler: node}) // in a program: leave Connect out
			return s, nil
		},
	})
	defer c.Close()

	headers, err := rpcx.Subscribe[int](ctx, c, rpcx.Subscription{
		Method: "blockchain.headers.subscribe", Correlation: rpcx.ElectrumHeaders,
		OnGap: func(gap *rpcx.GapError) { fmt.Println("blocks may be missing:", gap.Err) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer headers.Close()
	height = 103
	for h := range headers.Values() {
		fmt.Println("height", h)
		if h == 103 {
			break
		}
		(<-ready).Close() // the node hangs up
	}
	// Output:
	// height 100
	// blocks may be missing: EOF
	// height 103
}
