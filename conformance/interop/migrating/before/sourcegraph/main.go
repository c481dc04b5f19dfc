package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/sourcegraph/jsonrpc2"
)

func main() {
	run := map[string]func(addr string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := run(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func handle(ctx context.Context, conn *jsonrpc2.Conn, req *jsonrpc2.Request) (any, error) {
	bind := func(v any) error {
		if req.Params == nil || json.Unmarshal(*req.Params, v) != nil {
			return &jsonrpc2.Error{Code: jsonrpc2.CodeInvalidParams, Message: "invalid params"}
		}
		return nil
	}
	switch req.Method {
	case "sum":
		var n [2]int
		err := bind(&n)
		return n[0] + n[1], err
	case "divide":
		var n [2]int
		if err := bind(&n); err != nil {
			return nil, err
		}
		if n[1] == 0 {
			e := &jsonrpc2.Error{Code: 1, Message: "division by zero"}
			e.SetError(map[string]int{"dividend": n[0]})
			return nil, e
		}
		return n[0] / n[1], nil
	case "log":
		var text [1]string
		err := bind(&text)
		fmt.Println("log:", text[0])
		return nil, err
	case "greet":
		var name string
		err := conn.Call(ctx, "name", nil, &name)
		return "hello, " + name, err
	case "name":
		return "gopher", nil
	}
	return nil, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: "no method " + req.Method}
}

func newConn(conn net.Conn) *jsonrpc2.Conn {
	h := jsonrpc2.AsyncHandler(jsonrpc2.HandlerWithError(handle))
	return jsonrpc2.NewConn(context.Background(), jsonrpc2.NewPlainObjectStream(conn), h)
}

func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("listening on", l.Addr())
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		newConn(conn)
	}
}

func call(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	c := newConn(conn)
	defer c.Close()

	ctx := context.Background()
	var sum int
	if err := c.Call(ctx, "sum", []int{40, 2}, &sum); err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var e *jsonrpc2.Error
	if err := c.Call(ctx, "divide", []int{1, 0}, nil); errors.As(err, &e) {
		fmt.Printf("divide: %d, %s, %s\n", e.Code, e.Message, *e.Data)
	}
	if err := c.Notify(ctx, "log", []string{"it rains"}); err != nil {
		return err
	}
	var greeting string
	err = c.Call(ctx, "greet", nil, &greeting)
	fmt.Println("greet:", greeting)
	return err
}
