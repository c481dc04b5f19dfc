package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"example.com/rpcx"
)

// textErrors is JSON-RPC 1.0 with errors that are strings: clients of net/rpc need them.
type textErrors struct{ rpcx.Protocol }

func (textErrors) AppendError(dst []byte, id rpcx.ID, e *rpcx.Error, _ rpcx.Codec) ([]byte, error) {
	if id == nil {
		id = rpcx.ID("null")
	}
	text, err := json.Marshal(e.Message)
	return fmt.Appendf(dst, `{"result":null,"error":%s,"id":%s}`, text, id), err
}

type Operands struct{ A, B int }

type Math struct{}

func (Math) Sum(n Operands) int { return n.A + n.B }

func (Math) Divide(n Operands) (int, error) {
	if n.B == 0 {
		return 0, rpcx.Errorf(1, "division by zero")
	}
	return n.A / n.B, nil
}

func main() {
	run := map[string]func(addr string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := run(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) error {
	methods := rpcx.ExposeMap(map[string]any{
		"Math": map[string]any{
			"Sum":    rpcx.Func(Math{}.Sum, "n"), // with a name, Operands is an argument by position, too
			"Divide": rpcx.Func(Math{}.Divide, "n"),
		},
	})
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods, Protocol: textErrors{rpcx.JSONRPCv1}}}
	return srv.ServeContext(context.Background(), l)
}

func call(addr string) error {
	ctx := context.Background()
	s, err := rpcx.Dial(ctx, "tcp://"+addr, &rpcx.Options{Protocol: rpcx.JSONRPCv1})
	if err != nil {
		return err
	}
	defer s.Close()

	sum, err := rpcx.Call[int](ctx, s, "Math.Sum", rpcx.Args{Operands{40, 2}})
	if err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var quotient int
	var e *rpcx.Error
	later := s.Go(ctx, "Math.Divide", rpcx.Args{Operands{1, 0}})
	if err := later.Wait(ctx, &quotient); errors.As(err, &e) {
		fmt.Println("divide:", e.Message)
	}
	return nil
}
