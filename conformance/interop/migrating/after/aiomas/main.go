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

func options(service *rpcx.Router) rpcx.Options {
	return rpcx.Options{Handler: service, Protocol: rpcx.Aiomas, Framer: rpcx.LengthFramer{}}
}

func serve(addr string) error {
	service := rpcx.ExposeMap(map[string]any{
		"sum": rpcx.Func(func(a, b int) int { return a + b }, "a", "b"),
		"divide": rpcx.Func(func(a, b int) (int, error) {
			if b == 0 {
				return 0, errors.New("division by zero")
			}
			return a / b, nil
		}, "a", "b"),
		"greet": rpcx.Func(func(ctx context.Context, client *rpcx.Proxy) (string, error) {
			var name string
			err := client.Call(ctx, &name, "name")
			return "hello, " + name, err
		}, "client"),
	})
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	srv := &rpcx.Server{Options: options(service)}
	return srv.ServeContext(context.Background(), l)
}

func call(addr string) error {
	ctx := context.Background()
	client := rpcx.ExposeMap(map[string]any{"name": func() string { return "gopher" }})
	opts := options(client)
	s, err := rpcx.Dial(ctx, "tcp://"+addr, &opts)
	if err != nil {
		return err
	}
	defer s.Close()
	remote := s.Remote()

	var sum int
	if err := remote.Call(ctx, &sum, "sum", 40, rpcx.Named{"b": 2}); err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var e *rpcx.Error
	if err := remote.Call(ctx, nil, "divide", 1, 0); errors.As(err, &e) {
		fmt.Println("divide:", e.Message)
	}
	var greeting string
	err = remote.Call(ctx, &greeting, "greet", client)
	fmt.Println("greet:", greeting)
	return err
}
