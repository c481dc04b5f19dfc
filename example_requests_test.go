package rpcx_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"

	"example.com/rpcx"
)

// News begin after the reply to "subscribe", also if the request is a member of a batch.
func ExampleAfterReply() {
	router := rpcx.NewRouter()
	router.Handle("subscribe", rpcx.Func(func(ctx context.Context, s *rpcx.Session, topic string) string {
		rpcx.AfterReply(ctx, func(err error) {
			if err != nil {
				return // the peer has no reply, and expects no news
			}
			_, _ = s.TryNotify("news", rpcx.Args{topic, "it rains"})
		})
		return "subscribed"
	}))
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Handler: router})
	defer server.Close()

	fmt.Fprintln(here, `{"jsonrpc":"2.0","method":"subscribe","params":["weather"],"id":1}`)
	lines := bufio.NewScanner(here)
	for range 2 {
		lines.Scan()
		fmt.Println(lines.Text())
	}
	here.Close()
	// Output:
	// {"jsonrpc":"2.0","result":"subscribed","id":1}
	// {"jsonrpc":"2.0","method":"news","params":["weather","it rains"]}
}

// requestUserKey is the key of the user's name in the contexts of handlers.
type requestUserKey struct{}

// Handlers find the user in their context, as do the functions that the handlers call.
func ExampleOptions_context() {
	router := rpcx.NewRouter()
	router.Handle("login", rpcx.Func(func(s *rpcx.Session, name string) { s.SetValue("user", name) }))
	router.Handle("greet", rpcx.Func(func(ctx context.Context) string {
		return fmt.Sprint("Hello, ", ctx.Value(requestUserKey{}))
	}))
	opts := &rpcx.Options{
		Handler: router,
		Context: func(ctx context.Context, req *rpcx.Request) context.Context {
			if user := req.Session().Value("user"); user != nil {
				ctx = context.WithValue(ctx, requestUserKey{}, user)
			}
			return ctx
		},
	}
	client, server := rpcx.Pipe(nil, opts)
	defer server.Close()
	defer client.Close()

	_ = client.Call(context.Background(), "login", rpcx.Args{"Ada"}, nil)
	fmt.Println(rpcx.Call[string](context.Background(), client, "greet", nil))
	// Output: Hello, Ada <nil>
}

// A middleware prints each request with its number, its wait and its place in a batch.
func ExampleRequest_Seq() {
	numbered := func(next rpcx.Handler) rpcx.Handler {
		return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			waited := time.Since(req.Arrived())
			n, of := req.Batch()
			fmt.Printf("request %d: %s, member %d of %d, waited less than a minute: %v\n",
				req.Seq(), req.Method, n, of, waited < time.Minute)
			return next.ServeRPC(ctx, req)
		})
	}
	client, server := rpcx.Pipe(nil, &rpcx.Options{
		Handler:    exampleMethods(),
		Middleware: []func(rpcx.Handler) rpcx.Handler{numbered},
		Order:      rpcx.Sequential, // for the output
	})
	defer server.Close()
	defer client.Close()

	_ = client.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, nil)
	var batch rpcx.Batch
	batch.Call("echo", rpcx.Args{"Hi"}, nil)
	batch.Call("echo", rpcx.Args{"Hello"}, nil)
	_ = client.SendBatch(context.Background(), &batch)
	// Output:
	// request 1: echo, member 0 of 0, waited less than a minute: true
	// request 2: echo, member 1 of 2, waited less than a minute: true
	// request 3: echo, member 2 of 2, waited less than a minute: true
}
