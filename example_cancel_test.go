package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"example.com/rpcx"
)

// A client gives the request "a" up, as language servers and MCP do, and by a notification
// of one's own protocol. MCP wants no reply to such a request.
func ExampleCancellation_dialects() {
	const lsp = `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"a"}}`
	const mcp = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}`
	const own = `{"jsonrpc":"2.0","method":"job/abort","params":{"job":"a"}}`
	ownCancellation := &rpcx.Cancellation{Method: "job/abort", Param: "job", Code: 4001}

	began := make(chan bool)
	router := rpcx.NewRouter()
	router.Handle("run", rpcx.Func(func(ctx context.Context) error {
		began <- true
		<-ctx.Done() // a program looks at ctx between its steps
		fmt.Println("given up:", errors.Is(context.Cause(ctx), rpcx.ErrPeerCancelled))
		return ctx.Err()
	}))
	run := func(dialect *rpcx.Cancellation, notification string) {
		here, there := net.Pipe()
		s := rpcx.NewSession(there, &rpcx.Options{Handler: router, Cancellation: dialect})
		fmt.Fprintln(here, `{"jsonrpc":"2.0","method":"run","id":"a"}`)
		<-began // otherwise the request is answered, and never handled
		fmt.Fprintln(here, notification)
		go s.Shutdown(context.Background()) // waits for the handler and its reply
		reply, _ := io.ReadAll(here)
		fmt.Printf("%s", reply)
	}
	run(rpcx.LSPCancellation, lsp)
	run(rpcx.MCPCancellation, mcp)
	run(ownCancellation, own)
	// Output:
	// given up: true
	// {"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":"a"}
	// given up: true
	// given up: true
	// {"jsonrpc":"2.0","error":{"code":4001,"message":"request cancelled"},"id":"a"}
}
