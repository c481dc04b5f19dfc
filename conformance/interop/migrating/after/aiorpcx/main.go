package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"example.com/rpcx"
)

func main() {
	run := map[string]func(addr string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := run(net.JoinHostPort(os.Args[2], os.Args[3])); err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) error {
	methods := rpcx.ExposeMap(map[string]any{
		"sum": rpcx.Func(func(a, b int) int { return a + b }, "a", "b"),
		"divide": rpcx.Func(func(a, b int) (int, error) {
			if b == 0 {
				return 0, rpcx.Errorf(1, "division by zero")
			}
			return a / b, nil
		}, "a", "b"),
		"log": rpcx.Func(func(text string) { fmt.Println("log:", text) }, "text"),
		"greet": func(ctx context.Context, s *rpcx.Session) (string, error) {
			name, err := rpcx.Call[string](ctx, s, "name", nil)
			return "hello, " + name, err
		},
	})
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods}}
	return srv.ServeContext(context.Background(), l)
}

func call(addr string) error {
	ctx := context.Background()
	methods := rpcx.ExposeMap(map[string]any{"name": func() string { return "gopher" }})
	s, err := rpcx.Dial(ctx, "tcp://"+addr, &rpcx.Options{Handler: methods})
	if err != nil {
		return err
	}
	defer s.Close()

	sum, err := rpcx.Call[int](ctx, s, "sum", rpcx.Args{40, 2})
	if err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var e *rpcx.Error
	if err := s.Call(ctx, "divide", rpcx.Args{1, 0}, nil); errors.As(err, &e) {
		fmt.Printf("divide: %d, %s\n", e.Code, e.Message)
	}
	if err := s.Notify(ctx, "log", rpcx.Args{"it rains"}); err != nil {
		return err
	}
	greeting, err := rpcx.Call[string](ctx, s, "greet", nil)
	fmt.Println("greet:", greeting)
	return err
}
