package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strings"

	"example.com/rpcx"
)

type Math struct{}

func (Math) Sum(a, b int) int { return a + b }

func (Math) Divide(a, b int) (int, error) {
	if b == 0 {
		return 0, rpcx.Errorf(1, "division by zero").WithData(map[string]int{"dividend": a})
	}
	return a / b, nil
}

func (Math) Log(text string) { fmt.Println("log:", text) }

func (Math) Greet(ctx context.Context, s *rpcx.Session) (string, error) {
	name, err := rpcx.Call[string](ctx, s, "client_name", nil)
	return "hello, " + name, err
}

// MathAPI has the methods that clients may call.
type MathAPI interface {
	Sum(a, b int) int
	Divide(a, b int) (int, error)
	Log(text string)
	Greet(ctx context.Context, s *rpcx.Session) (string, error)
}

func main() {
	run := map[string]func(path string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := run(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(path string) error {
	methods := rpcx.Expose[MathAPI](Math{}, func(method string) string {
		return "math_" + strings.ToLower(method[:1]) + method[1:]
	})
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods, Framer: rpcx.JSONFramer{}}}
	return srv.ServeContext(context.Background(), l)
}

func call(path string) error {
	ctx := context.Background()
	methods := rpcx.ExposeMap(map[string]any{"client_name": func() string { return "gopher" }})
	s, err := rpcx.Dial(ctx, "unix://"+path, &rpcx.Options{Handler: methods, Framer: rpcx.JSONFramer{}})
	if err != nil {
		return err
	}
	defer s.Close()

	sum, err := rpcx.Call[int](ctx, s, "math_sum", rpcx.Args{40, 2})
	if err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var e *rpcx.Error
	if err := s.Call(ctx, "math_divide", rpcx.Args{1, 0}, nil); errors.As(err, &e) {
		var data any
		e.DecodeData(&data)
		fmt.Printf("divide: %d, %s, %v\n", e.Code, e.Message, data)
	}
	if err := s.Notify(ctx, "math_log", rpcx.Args{"it rains"}); err != nil {
		return err
	}
	greeting, err := rpcx.Call[string](ctx, s, "math_greet", nil)
	fmt.Println("greet:", greeting)
	return err
}
