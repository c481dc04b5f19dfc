package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/ethereum/go-ethereum/rpc"
)

type DivisionError struct{ dividend int }

func (e DivisionError) Error() string  { return "division by zero" }
func (e DivisionError) ErrorCode() int { return 1 }
func (e DivisionError) ErrorData() any { return map[string]int{"dividend": e.dividend} }

type Math struct{}

func (Math) Sum(a, b int) int { return a + b }

func (Math) Divide(a, b int) (int, error) {
	if b == 0 {
		return 0, DivisionError{a}
	}
	return a / b, nil
}

func (Math) Log(text string) { fmt.Println("log:", text) }

func (Math) Greet(ctx context.Context) (string, error) {
	client, _ := rpc.ClientFromContext(ctx)
	var name string
	err := client.CallContext(ctx, &name, "client_name")
	return "hello, " + name, err
}

type Client struct{}

func (Client) Name() string { return "gopher" }

func main() {
	run := map[string]func(path string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := run(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(path string) error {
	srv := rpc.NewServer()
	if err := srv.RegisterName("math", Math{}); err != nil {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	return srv.ServeListener(l)
}

func call(path string) error {
	ctx := context.Background()
	c, err := rpc.DialContext(ctx, path)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.RegisterName("client", Client{}); err != nil {
		return err
	}

	var sum int
	if err := c.CallContext(ctx, &sum, "math_sum", 40, 2); err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var e interface { // rpc.Error and rpc.DataError
		ErrorCode() int
		Error() string
		ErrorData() any
	}
	if err := c.CallContext(ctx, nil, "math_divide", 1, 0); errors.As(err, &e) {
		fmt.Printf("divide: %d, %s, %v\n", e.ErrorCode(), e.Error(), e.ErrorData())
	}
	if err := c.Notify(ctx, "math_log", "it rains"); err != nil {
		return err
	}
	var greeting string
	err = c.CallContext(ctx, &greeting, "math_greet")
	fmt.Println("greet:", greeting)
	return err
}
