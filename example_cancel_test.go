package rpcx_test

import (
	"context"
	"errors"
	"fmt"

	"example.com/rpcx"
)

// Both ends name the same dialect. The handler's context ends when the caller's does.
func ExampleCancellation() {
	began, ended := make(chan bool), make(chan error)
	router := rpcx.NewRouter()
	router.Handle("search", rpcx.Func(func(ctx context.Context, text string) ([]string, error) {
		close(began)
		<-ctx.Done() // a search that takes long looks at it now and then
		ended <- context.Cause(ctx)
		return nil, ctx.Err() // which is answered "request cancelled"
	}))
	s, server := rpcx.Pipe(
		&rpcx.Options{Cancellation: rpcx.RPCCancellation},
		&rpcx.Options{Cancellation: rpcx.RPCCancellation, Handler: router})
	defer server.Close()
	defer s.Close()

	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { <-began; cancel(errors.New("the user has typed on")) }()
	_, err := rpcx.Call[[]string](ctx, s, "search", rpcx.Args{"gopher"})
	fmt.Println("the caller:", err) // at once: it does not wait for the peer
	fmt.Println("the handler:", <-ended)
	// Output:
	// the caller: the user has typed on
	// the handler: rpcx: request cancelled by the peer
}
