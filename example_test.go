package rpcx_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"example.com/rpcx"

	"golang.org/x/sync/errgroup"
)

// The shortest way: two sessions joined in memory. One has a method, the other
// calls it.
func Example() {
	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(ctx context.Context, a, b int) (int, error) { return a + b, nil }))

	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer client.Close()

	sum, err := rpcx.Call[int](context.Background(), client, "add", rpcx.Args{1, 2})
	fmt.Println(sum, err)
	// Output: 3 <nil>
}

// exampleMethods are what the examples' servers can do.
func exampleMethods() *rpcx.Router {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(ctx context.Context, message string) (string, error) {
		return message, nil
	}, "message"))
	router.Handle("sum", rpcx.Func(func(ctx context.Context, values ...float64) (float64, error) {
		sum := 0.0
		for _, v := range values {
			sum += v
		}
		return sum, nil
	}))
	return router
}

// examplePipe returns a session whose peer has exampleMethods, and what closes both.
func examplePipe() (client *rpcx.Session, end func()) {
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: exampleMethods()})
	return client, func() {
		client.Close()
		server.Close()
	}
}

// Sessions.

// A session runs on any stream of bytes: a socket, a pipe, a child process.
func ExampleNewSession() {
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Handler: exampleMethods(), Role: rpcx.RoleServer})
	defer server.Close()
	client := rpcx.NewSession(here, nil)
	defer client.Close()

	reply, err := rpcx.Call[string](context.Background(), client, "echo", rpcx.Args{"Howdy"})
	fmt.Println(reply, err)
	// Output: Howdy <nil>
}

// messagePipe is a connection that keeps messages apart, made of channels.
type messagePipe struct {
	in     <-chan []byte
	out    chan<- []byte
	closed chan struct{} // shared by both ends
	once   *sync.Once
}

func newMessagePipe() (a, b *messagePipe) {
	there, back := make(chan []byte), make(chan []byte)
	closed, once := make(chan struct{}), new(sync.Once)
	return &messagePipe{back, there, closed, once}, &messagePipe{there, back, closed, once}
}

func (c *messagePipe) ReadMessage() ([]byte, error) {
	select {
	case msg := <-c.in:
		return msg, nil
	case <-c.closed:
		return nil, io.EOF
	}
}

func (c *messagePipe) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		select {
		case c.out <- bytes.Clone(msg): // msg is the session's
		case <-c.closed:
			return io.ErrClosedPipe
		}
	}
	return nil
}

func (c *messagePipe) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// A transport that keeps messages apart by itself needs no framer.
func ExampleNewMessageSession() {
	here, there := newMessagePipe()
	server := rpcx.NewMessageSession(there, &rpcx.Options{Handler: exampleMethods()})
	defer server.Close()
	client := rpcx.NewMessageSession(here, nil)
	defer client.Close()

	sum, err := rpcx.Call[float64](context.Background(), client, "sum", rpcx.Args{1, 2, 3.5})
	fmt.Println(sum, err)
	// Output: 6.5 <nil>
}

// For tests: both ends, in memory. Within a bubble of testing/synctest this
// takes no time at all.
func ExamplePipe() {
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: exampleMethods()})
	defer server.Close()

	fmt.Println(client.Role() == rpcx.RoleClient, server.Role() == rpcx.RoleServer)
	client.Close()
	<-server.Done()
	fmt.Println("the server's session ended:", server.Err())
	// Output:
	// true true
	// the server's session ended: EOF
}

// Dialling and serving.

func ExampleDial() {
	ctx := context.Background()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: exampleMethods()}}
	go srv.Serve(l)
	defer srv.Shutdown(ctx)

	s, err := rpcx.Dial(ctx, "tcp://"+l.Addr().String(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	reply, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{"Howdy"})
	fmt.Println(reply, err)
	// Output: Howdy <nil>
}

// A Dialer is for what Dial leaves out: how long it may take, what TLS trusts,
// and a way of one's own to make the connection.
func ExampleDialer() {
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Handler: exampleMethods()})
	defer server.Close()

	dialer := rpcx.Dialer{
		Timeout: 5 * time.Second,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			fmt.Println("dialling", network, addr)
			return here, nil
		},
	}
	s, err := dialer.Dial(context.Background(), "tcp://example.com:8888", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	reply, err := rpcx.Call[string](context.Background(), s, "echo", rpcx.Args{"Howdy"})
	fmt.Println(reply, err)
	// Output:
	// dialling tcp example.com:8888
	// Howdy <nil>
}

// Serve runs on any listener. It returns when the server is stopped.
func ExampleServer_Serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: exampleMethods()}, MaxSessions: 1000}
	served := make(chan error)
	go func() { served <- srv.Serve(l) }()

	s, err := rpcx.Dial(context.Background(), "tcp://"+l.Addr().String(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[float64](context.Background(), s, "sum", rpcx.Args{1, 2}))

	fmt.Println(srv.Shutdown(context.Background()))
	fmt.Println(<-served)
	<-s.Done()
	fmt.Println(s.Err())
	// Output:
	// 3 <nil>
	// <nil>
	// rpcx: server closed
	// EOF
}

// The end of the context is a Shutdown, and no error if all is finished in time; in a
// program it would be that of [os/signal.NotifyContext].
func ExampleServer_ListenAndServe() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	srv := &rpcx.Server{
		Options:         rpcx.Options{Handler: exampleMethods()},
		ShutdownTimeout: 10 * time.Second,
	}
	fmt.Println(srv.ListenAndServe(ctx, "tcp://127.0.0.1:0"))
	// Output: <nil>
}

// A server on several addresses. If one of the addresses fails, the end of the errgroup's
// context shuts the server down, and Wait returns the error.
func ExampleServer_ListenAndServe_severalAddresses() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	srv := &rpcx.Server{Options: rpcx.Options{Handler: exampleMethods()}}
	serving, ctx := errgroup.WithContext(ctx)
	for _, addr := range []string{"tcp://127.0.0.1:0", "tcp://127.0.0.2:0"} {
		serving.Go(func() error { return srv.ListenAndServe(ctx, addr) })
	}
	fmt.Println(serving.Wait())
	// Output: <nil>
}

// OnSession sees each session before its first request is handled, and may call
// its peer.
func ExampleServer_onSession() {
	srv := &rpcx.Server{OnSession: func(s *rpcx.Session) {
		name, err := rpcx.Call[string](context.Background(), s, "name", nil)
		fmt.Println("connected:", name, err)
		s.OnClose(func(err error) { fmt.Println("disconnected:", err) })
	}}
	own := rpcx.NewRouter()
	own.Handle("name", rpcx.Func(func() string { return "gopher" }))

	here, there := net.Pipe()
	srv.ServeConn(there)
	s := rpcx.NewSession(here, &rpcx.Options{Handler: own})
	_ = s.Call(context.Background(), "nothing", nil, nil) // answered when OnSession has returned
	s.Close()
	srv.Wait(context.Background())
	// Output:
	// connected: gopher <nil>
	// disconnected: EOF
}
