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

func options(methods map[string]any) rpcx.Options {
	return rpcx.Options{
		Handler:      rpcx.ExposeMap(methods),
		Framer:       rpcx.HeaderFramer{},
		Order:        rpcx.NotificationsFirst,
		Cancellation: rpcx.LSPCancellation,
	}
}

func serve(addr string) error {
	opts := options(map[string]any{
		"sum": func(a, b int) int { return a + b },
		"divide": func(a, b int) (int, error) {
			if b == 0 {
				return 0, rpcx.Errorf(1, "division by zero").WithData(map[string]int{"dividend": a})
			}
			return a / b, nil
		},
		"log": func(text string) { fmt.Println("log:", text) },
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
	srv := &rpcx.Server{Options: opts}
	return srv.ServeContext(context.Background(), l)
}

func call(addr string) error {
	ctx := context.Background()
	opts := options(map[string]any{"name": func() string { return "gopher" }})
	s, err := rpcx.Dial(ctx, "tcp://"+addr, &opts)
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
		fmt.Printf("divide: %d, %s, %s\n", e.Code, e.Message, e.Data)
	}
	if err := s.Notify(ctx, "log", rpcx.Args{"it rains"}); err != nil {
		return err
	}
	greeting, err := rpcx.Call[string](ctx, s, "greet", nil)
	fmt.Println("greet:", greeting)
	return err
}
