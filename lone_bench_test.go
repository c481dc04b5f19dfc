package rpcx_test

import (
	"context"
	"example.com/rpcx"
	"net"
	"testing"
)

func BenchmarkLone(b *testing.B) {
	r := rpcx.NewRouter()
	r.Handle("echo", rpcx.Func(func(s string) string { return s }, "s"))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: r}}
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go srv.Serve(l)
	defer srv.Close()
	s, _ := rpcx.Dial(context.Background(), "tcp://"+l.Addr().String(), nil)
	defer s.Close()
	var out string
	for b.Loop() {
		s.Call(context.Background(), "echo", rpcx.Args{"hi"}, &out)
	}
}
