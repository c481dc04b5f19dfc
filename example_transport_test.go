package rpcx_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"

	"example.com/rpcx"
)

// What language servers speak.
func ExampleHeaderFramer() {
	frame, _ := rpcx.HeaderFramer{}.AppendFrame(nil, []byte(`{"jsonrpc":"2.0","method":"exit"}`))
	fmt.Printf("%q\n", frame)

	near, far := net.Pipe()
	opts := &rpcx.Options{Framer: rpcx.HeaderFramer{}, Handler: methods{"reply": reply}}
	client, server := rpcx.NewSession(near, opts), rpcx.NewSession(far, opts)
	fmt.Println(client.Call(context.Background(), "reply", nil, nil))
	client.Close()
	<-server.Done()
	// Output:
	// "Content-Length: 33\r\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"exit\"}"
	// <nil>
}

// The program cat sends back what it gets: the request comes back as one, and is
// answered here.
func ExampleCommand() {
	router := rpcx.NewRouter()
	router.Handle("double", rpcx.Func(func(n int) int { return 2 * n }))
	ctx := context.Background()
	s, err := rpcx.Command(ctx, exec.Command("cat"), &rpcx.Options{Handler: router})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[int](ctx, s, "double", rpcx.Args{21}))
	s.Close()
	<-s.Done() // the program has ended
	// Output: 42 <nil>
}

// A plugin, which another program starts, in full.
func ExampleStdio() {
	router := rpcx.NewRouter()
	router.Handle("double", rpcx.Func(func(n int) int { return 2 * n }))
	s := rpcx.NewSession(rpcx.Stdio(), &rpcx.Options{Handler: router})
	<-s.Done()
}
