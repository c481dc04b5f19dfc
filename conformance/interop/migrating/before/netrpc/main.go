package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
)

type Operands struct{ A, B int }

type Math struct{}

func (Math) Sum(n *Operands, sum *int) error {
	*sum = n.A + n.B
	return nil
}

func (Math) Divide(n *Operands, quotient *int) error {
	if n.B == 0 {
		return errors.New("division by zero")
	}
	*quotient = n.A / n.B
	return nil
}

func main() {
	run := map[string]func(addr string) error{"serve": serve, "call": call}[os.Args[1]]
	if err := run(os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func serve(addr string) error {
	if err := rpc.Register(Math{}); err != nil {
		return err
	}
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
		go jsonrpc.ServeConn(conn)
	}
}

func call(addr string) error {
	c, err := jsonrpc.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()

	var sum int
	if err := c.Call("Math.Sum", Operands{40, 2}, &sum); err != nil {
		return err
	}
	fmt.Println("sum:", sum)
	var quotient int
	later := c.Go("Math.Divide", Operands{1, 0}, &quotient, nil)
	fmt.Println("divide:", (<-later.Done).Error)
	return nil
}
