package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/channel"
	"github.com/creachadair/jrpc2/handler"
	"github.com/creachadair/jrpc2/server"
)

func main() {
	run := map[string]func(addr string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := run(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) error {
	methods := handler.Map{
		"sum": handler.NewPos(func(ctx context.Context, a, b int) int { return a + b }, "a", "b"),
		"divide": handler.NewPos(func(ctx context.Context, a, b int) (int, error) {
			if b == 0 {
				return 0, jrpc2.Errorf(1, "division by zero").WithData(map[string]int{"dividend": a})
			}
			return a / b, nil
		}, "a", "b"),
		"log": handler.New(func(ctx context.Context, text [1]string) error {
			_, err := fmt.Println("log:", text[0])
			return err
		}),
		"greet": handler.New(func(ctx context.Context) (string, error) {
			reply, err := jrpc2.ServerFromContext(ctx).Callback(ctx, "name", nil)
			if err != nil {
				return "", err
			}
			var name string
			err = reply.UnmarshalResult(&name)
			return "hello, " + name, err
		}),
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	opts := &server.LoopOptions{ServerOptions: &jrpc2.ServerOptions{AllowPush: true}}
	return server.Loop(context.Background(), server.NetAccepter(l, channel.Line), server.Static(methods), opts)
}

func call(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	methods := handler.Map{"name": handler.New(func(context.Context) string { return "gopher" })}
	ctx := context.Background()
	c := jrpc2.NewClient(channel.Line(conn, conn), &jrpc2.ClientOptions{
		OnCallback: func(ctx context.Context, req *jrpc2.Request) (any, error) {
			if h := methods.Assign(ctx, req.Method()); h != nil {
				return h(ctx, req)
			}
			return nil, jrpc2.MethodNotFound.Err()
		},
	})
	defer c.Close()

	var sum int
	if err := c.CallResult(ctx, "sum", []int{40, 2}, &sum); err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var e *jrpc2.Error
	if err := c.CallResult(ctx, "divide", []int{1, 0}, nil); errors.As(err, &e) {
		fmt.Printf("divide: %d, %s, %s\n", e.Code, e.Message, e.Data)
	}
	if err := c.Notify(ctx, "log", []string{"it rains"}); err != nil {
		return err
	}
	var greeting string
	err = c.CallResult(ctx, "greet", nil, &greeting)
	fmt.Println("greet:", greeting)
	return err
}
