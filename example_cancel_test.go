package rpcx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"

	"example.com/rpcx"
)

// A protocol of one's own: the notification "job/abort" gives a request up, and the request
// is answered with the code 4001.
func ExampleCancellation_own() {
	abort := &rpcx.Cancellation{Method: "job/abort", Param: "job", Code: 4001}
	began := make(chan bool)
	router := rpcx.NewRouter()
	router.Handle("job/run", rpcx.Func(func(ctx context.Context) error {
		close(began)
		<-ctx.Done() // a job looks at ctx between its steps
		fmt.Println("the job:", errors.Is(context.Cause(ctx), rpcx.ErrPeerCancelled))
		return ctx.Err()
	}))
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Handler: router, Cancellation: abort})
	defer server.Close()

	fmt.Fprintln(here, `{"jsonrpc":"2.0","method":"job/run","id":"a"}`)
	<-began
	fmt.Fprintln(here, `{"jsonrpc":"2.0","method":"job/abort","params":{"job":"a"}}`)
	reply, err := bufio.NewReader(here).ReadString('\n')
	fmt.Print(reply, err, "\n")
	here.Close()
	// Output:
	// the job: true
	// {"jsonrpc":"2.0","error":{"code":4001,"message":"request cancelled"},"id":"a"}
	// <nil>
}
