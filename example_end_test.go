package rpcx_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"example.com/rpcx"
)

// A client's last act is Shutdown, which waits until all is written. Close does not wait,
// and is for the ways out before.
func ExampleSession_Shutdown_client() {
	heard := make(chan string, 1)
	router := rpcx.NewRouter()
	router.Handle("log", rpcx.Func(func(line string) { heard <- line }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error)
	go func() { served <- srv.ServeContext(serving, l) }()

	client := func(ctx context.Context) error { // a main
		s, err := rpcx.Dial(ctx, "tcp://"+l.Addr().String(), nil)
		if err != nil {
			return err
		}
		defer s.Close()
		if err := s.Notify(ctx, "log", rpcx.Args{"bye"}); err != nil {
			return err
		}
		return s.Shutdown(ctx)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println("the client:", client(ctx))
	fmt.Println("heard:", <-heard)
	stop()
	fmt.Println("the server:", <-served)
	// Output:
	// the client: <nil>
	// heard: bye
	// the server: <nil>
}

// A method that stops the server must not wait for it, since the server waits for its
// handler. The reply is sent before the session ends.
func ExampleServer_Shutdown() {
	var srv *rpcx.Server
	router := rpcx.NewRouter()
	router.Handle("stop", rpcx.Func(func(ctx context.Context) string {
		fmt.Println("wrong:", srv.Shutdown(ctx) == rpcx.ErrInHandler)
		go srv.Shutdown(context.Background())
		return "bye"
	}))
	srv = &rpcx.Server{Options: rpcx.Options{Handler: router}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error)
	go func() { // main
		err := srv.ServeContext(context.Background(), l)
		srv.Wait(context.Background())
		ended <- err
	}()

	ctx := context.Background()
	s, err := rpcx.Dial(ctx, "tcp://"+l.Addr().String(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[string](ctx, s, "stop", nil))
	fmt.Println(<-ended)
	<-s.Done()
	// Output:
	// wrong: true
	// bye <nil>
	// rpcx: server closed
}
