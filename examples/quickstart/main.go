// Quickstart runs a server and a client in one program, and shows what a
// session does: calls by position and by name, many at once, a batch, an error,
// a call back from the server, and the end.
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"example.com/rpcx"
)

// codeDivisionByZero is an error code of this program's own.
const codeDivisionByZero = 1001

// methods returns what the server can do.
func methods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(ctx context.Context, message string) (string, error) {
		return message, nil
	}, "message"))
	router.Handle("divide", rpcx.Func(func(ctx context.Context, a, b float64) (float64, error) {
		if b == 0 {
			return 0, rpcx.Errorf(codeDivisionByZero, "%v cannot be divided by zero", a)
		}
		return a / b, nil
	}, "a", "b"))
	// The handlers of a method may call the peer: both ends are alike.
	router.Handle("greet", rpcx.Func(func(ctx context.Context, s *rpcx.Session) (string, error) {
		name, err := rpcx.Call[string](ctx, s, "name", nil)
		return "hello, " + name, err
	}))
	return router
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	// The server. With a fixed address this is srv.ListenAndServe(ctx, "tcp://…").
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- srv.ServeContext(serving, l) }()

	// The client. It has a method of its own, for the server to call.
	own := rpcx.NewRouter()
	own.Handle("name", rpcx.Func(func() string { return "client" }))
	s, err := rpcx.Dial(ctx, "tcp://"+l.Addr().String(), &rpcx.Options{Handler: own})
	if err != nil {
		return err
	}
	defer s.Close()

	// A call, its arguments by position.
	var reply string
	if err := s.Call(ctx, "echo", rpcx.Args{"Howdy"}, &reply); err != nil {
		return err
	}
	show("echo", "%q", reply)

	// Arguments by name, from a map or a struct; and a result of a known type.
	quotient, err := rpcx.Call[float64](ctx, s, "divide", map[string]any{"a": 7, "b": 2})
	if err != nil {
		return err
	}
	show("by name", "divide(a=7, b=2) = %v", quotient)

	// Many calls at once: Go does not wait for the reply.
	began := time.Now()
	futures := make([]*rpcx.Future, 1000)
	for i := range futures {
		futures[i] = s.Go(ctx, "divide", rpcx.Args{i, 2})
	}
	sum := 0.0
	for _, f := range futures {
		var half float64
		if err := f.Wait(ctx, &half); err != nil {
			return err
		}
		sum += half
	}
	show("pipelining", "%d calls, the sum of their results is %v (%v)",
		len(futures), sum, time.Since(began).Round(time.Microsecond))

	// A batch: one message there, one back.
	var b rpcx.Batch
	var first, second string
	b.Call("echo", rpcx.Args{"one"}, &first)
	b.Call("echo", rpcx.Args{"two"}, &second)
	b.Notify("echo", rpcx.Args{"nobody waits for this"})
	bad := b.Call("nope", nil, nil)
	err = s.SendBatch(ctx, &b)
	show("batch", "%q and %q; %v", first, second, bad.Err())
	if failed, ok := errors.AsType[*rpcx.BatchError](err); !ok || len(failed.Unwrap()) != 1 {
		return fmt.Errorf("the batch ended with %v", err)
	}

	// Errors have codes: take them apart, or compare them with errors.Is.
	err = s.Call(ctx, "divide", rpcx.Args{7, 0}, nil)
	if e, ok := errors.AsType[*rpcx.Error](err); ok {
		show("an error", "code %d, %q", e.Code, e.Message)
	}
	err = s.Call(ctx, "divide", rpcx.Args{7}, nil)
	show("another", "%v; invalid params: %t", err, errors.Is(err, rpcx.ErrInvalidParams))

	// The server calls back before it answers.
	greeting, err := rpcx.Call[string](ctx, s, "greet", nil)
	if err != nil {
		return err
	}
	show("call back", "%q", greeting)

	// The end: what is under way is finished, and nothing is left behind.
	if err := s.Shutdown(ctx); err != nil {
		return err
	}
	stop() // a server in a program of its own: signal.NotifyContext does it
	if err := <-served; err != nil {
		return err
	}
	show("the end", "client: %v; server: all finished", s.Err())
	return nil
}

// show prints what a step has come to.
func show(step, format string, args ...any) {
	fmt.Printf("%-11s %s\n", step, fmt.Sprintf(format, args...))
}
