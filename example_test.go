package rpcx_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"testing/synctest"
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

// The result's type is the type argument.
func ExampleCall() {
	s, end := examplePipe()
	defer end()

	sum, err := rpcx.Call[float64](context.Background(), s, "sum", rpcx.Args{1, 2, 3.5})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(sum)
	// Output: 6.5
}

// Arguments by position.
func ExampleSession_Call() {
	s, end := examplePipe()
	defer end()

	var reply string
	err := s.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, &reply)
	fmt.Println(reply, err)
	// Output: Howdy <nil>
}

// Arguments by name, from a map or from a struct.
func ExampleSession_Call_named() {
	s, end := examplePipe()
	defer end()

	var reply string
	err := s.Call(context.Background(), "echo", map[string]any{"message": "from a map"}, &reply)
	fmt.Println(reply, err)

	type args struct {
		Message string `json:"message"`
	}
	err = s.Call(context.Background(), "echo", args{"from a struct"}, &reply)
	fmt.Println(reply, err)
	// Output:
	// from a map <nil>
	// from a struct <nil>
}

// The context bounds a call; where it has no deadline, Limits.RequestTimeout does. So a
// long poll is a call with a deadline that is far away. The server must allow as much:
// its Limits.ProcessingTimeout, 30 s by default, bounds the handler.
func ExampleSession_Call_timeout() {
	rain := make(chan bool)
	router := rpcx.NewRouter()
	router.Handle("news", rpcx.Func(func(ctx context.Context) (string, error) {
		select {
		case <-rain:
			return "it rains", nil
		case <-ctx.Done(): // the session ends, or Limits.ProcessingTimeout has passed
			return "", ctx.Err()
		}
	}))
	s, server := rpcx.Pipe(
		&rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 10 * time.Millisecond}},
		&rpcx.Options{Handler: router, Limits: rpcx.Limits{ProcessingTimeout: time.Hour}},
	)
	defer server.Close()
	defer s.Close()

	hour, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	poll := s.Go(hour, "news", nil)

	err := s.Call(context.Background(), "news", nil, nil)
	fmt.Println(err)
	fmt.Println(errors.Is(err, rpcx.ErrTimeout), errors.Is(err, context.DeadlineExceeded))

	close(rain)
	var news string
	err = poll.Wait(context.Background(), &news)
	fmt.Println(news, err)
	// Output:
	// rpcx: request timed out (Limits.RequestTimeout)
	// true true
	// it rains <nil>
}

// Go does not wait for the reply, so any number of calls may be under way.
func ExampleSession_Go() {
	s, end := examplePipe()
	defer end()
	ctx := context.Background()

	var futures []*rpcx.Future
	for i := range 3 {
		futures = append(futures, s.Go(ctx, "sum", rpcx.Args{i, i}))
	}
	for _, f := range futures {
		var sum float64
		err := f.Wait(ctx, &sum)
		fmt.Println(sum, err)
	}
	// Output:
	// 0 <nil>
	// 2 <nil>
	// 4 <nil>
}

// A future can be waited for with a context, in a select, or by a callback.
func ExampleFuture() {
	s, end := examplePipe()
	defer end()

	f := s.Go(context.Background(), "echo", rpcx.Args{"later"})
	called := make(chan struct{})
	f.OnDone(func(f *rpcx.Future) {
		fmt.Println("called back:", f.Err())
		close(called)
	})
	<-called

	select {
	case <-f.Done():
		var reply string
		err := f.Decode(&reply)
		fmt.Println(reply, err)
	case <-time.After(time.Minute):
		f.Cancel()
	}
	// Output:
	// called back: <nil>
	// later <nil>
}

// A call that is cancelled ends at once. The peer is not told.
func ExampleFuture_Cancel() {
	release := make(chan struct{})
	router := rpcx.NewRouter()
	router.Handle("wait", rpcx.Func(func(ctx context.Context) error {
		<-release
		return nil
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	defer close(release)

	f := s.Go(context.Background(), "wait", nil)
	fmt.Println(f.Err(), f.Decode(nil)) // it is not over
	f.Cancel()
	fmt.Println(f.Wait(context.Background(), nil))
	fmt.Println(errors.Is(f.Err(), rpcx.ErrCancelled), errors.Is(f.Err(), context.Canceled))
	// Output:
	// <nil> rpcx: not done
	// rpcx: call cancelled
	// true true
}

// A notification is not answered. What was notified before Close is still written.
func ExampleSession_Notify() {
	heard := make(chan string)
	router := rpcx.NewRouter()
	router.Handle("log", rpcx.Func(func(ctx context.Context, line string) error {
		heard <- line
		return nil
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()

	fmt.Println(s.Notify(context.Background(), "log", rpcx.Args{"it rains"}))
	fmt.Println(<-heard)
	s.Close()
	// Output:
	// <nil>
	// it rains
}

// Batches.

// The results of a batch go where Call was told; SendBatch fills them in.
func ExampleBatch() {
	s, end := examplePipe()
	defer end()

	var b rpcx.Batch
	var reply string
	var sum float64
	b.Call("echo", rpcx.Args{"Me again"}, &reply)
	b.Call("sum", rpcx.Args{1, 2}, &sum)
	b.Notify("echo", rpcx.Args{"not answered"})
	fmt.Println(b.Len(), "in one message")

	err := s.SendBatch(context.Background(), &b)
	fmt.Println(reply, sum, err)
	// Output:
	// 3 in one message
	// Me again 3 <nil>
}

// Of a batch, some calls may fail and others not.
func ExampleSession_SendBatch() {
	s, end := examplePipe()
	defer end()

	var b rpcx.Batch
	var reply string
	good := b.Call("echo", rpcx.Args{"good"}, &reply)
	bad := b.Call("nope", nil, nil)
	err := s.SendBatch(context.Background(), &b)

	fmt.Println(err)
	fmt.Println(errors.Is(err, rpcx.ErrMethodNotFound)) // some call failed with it
	fmt.Println(reply, good.Err())
	fmt.Println(bad.Err())
	// Output:
	// 1 of 2 batch requests failed, the first, number 2: unknown method "nope" (code -32601)
	// true
	// good <nil>
	// unknown method "nope" (code -32601)
}

// GoBatch does not wait. The batch has a future, and so has each call in it.
func ExampleSession_GoBatch() {
	s, end := examplePipe()
	defer end()
	ctx := context.Background()

	var b rpcx.Batch
	var sum float64
	item := b.Call("sum", rpcx.Args{4, 5}, &sum)
	whole := s.GoBatch(ctx, &b)

	fmt.Println(item.Wait(ctx, nil), sum) // fills sum
	fmt.Println(whole.Wait(ctx, nil))
	// Output:
	// <nil> 9
	// <nil>
}

// A notification behind a reply can be handled before Call returns. A handler that has to
// know the result waits for the future, which is done by then.
func ExampleFuture_Wait_order() {
	feed := rpcx.NewRouter()
	feed.Handle("subscribe", rpcx.Func(func() int { return 7 }))
	feed.Handle("publish", rpcx.Func(func(ctx context.Context, s *rpcx.Session, text string) error {
		return s.Notify(ctx, "news", rpcx.Args{7, text})
	}))

	subscribed, handled := make(chan *rpcx.Future, 1), make(chan bool)
	router := rpcx.NewRouter()
	router.Handle("news", rpcx.Func(func(ctx context.Context, number int, text string) error {
		defer close(handled)
		f := <-subscribed
		subscribed <- f // for the next
		var own int
		err := f.Wait(ctx, &own)
		fmt.Println(text, number == own, err)
		return err
	}))
	s, server := rpcx.Pipe(&rpcx.Options{Handler: router}, &rpcx.Options{Handler: feed, Order: rpcx.Sequential})
	defer server.Close()
	defer s.Close()

	ctx := context.Background()
	subscribed <- s.Go(ctx, "subscribe", nil)
	if err := s.Notify(ctx, "publish", rpcx.Args{"it rains"}); err != nil {
		fmt.Println(err)
		return
	}
	<-handled
	// Output: it rains true <nil>
}

// Both ends name the same dialect. The handler's context ends when the caller's does.
func ExampleCancellation() {
	began, ended := make(chan bool), make(chan error)
	router := rpcx.NewRouter()
	router.Handle("search", rpcx.Func(func(ctx context.Context, text string) ([]string, error) {
		close(began)
		<-ctx.Done() // a search that takes long looks at it now and then
		ended <- context.Cause(ctx)
		return nil, ctx.Err() // which is answered "request cancelled"
	}))
	s, server := rpcx.Pipe(
		&rpcx.Options{Cancellation: rpcx.RPCCancellation},
		&rpcx.Options{Cancellation: rpcx.RPCCancellation, Handler: router})
	defer server.Close()
	defer s.Close()

	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { <-began; cancel(errors.New("the user has typed on")) }()
	_, err := rpcx.Call[[]string](ctx, s, "search", rpcx.Args{"gopher"})
	fmt.Println("the caller:", err) // at once: it does not wait for the peer
	fmt.Println("the handler:", <-ended)
	// Output:
	// the caller: the user has typed on
	// the handler: rpcx: request cancelled by the peer
}

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

// Names are looked up by the proxy. Random credentials keep each connection on a
// circuit of its own.
func ExampleSOCKSProxy() {
	proxy := &rpcx.SOCKSProxy{Addr: "127.0.0.1:9050", Auth: rpcx.SOCKSRandomAuth{}}
	fmt.Println(proxy)

	proxy.Dial = torWithoutTheService // for this example

	d := rpcx.Dialer{SOCKS: proxy}
	_, err := d.Dial(context.Background(), "tcp://nobody.onion:50001", nil)
	fmt.Println(errors.Is(err, rpcx.ErrSOCKSFailure))
	if refusal, ok := errors.AsType[*rpcx.SOCKSError](err); ok {
		fmt.Printf("0x%X: %s\n", refusal.Reply, refusal.Message)
	}
	// Output:
	// SOCKS5 proxy at 127.0.0.1:9050, auth: username
	// true
	// 0xF0: onion service descriptor not found
}

// torWithoutTheService connects to a proxy that takes any credentials and finds no
// service.
func torWithoutTheService(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		io.ReadFull(far, make([]byte, 4))
		io.WriteString(far, "\x05\x02")
		io.ReadFull(far, make([]byte, 2+64+1+64))
		io.WriteString(far, "\x01\x00")
		io.ReadFull(far, make([]byte, 7+len("nobody.onion")))
		io.WriteString(far, "\x05\xF0\x00\x01\x00\x00\x00\x00\x00\x00")
	}()
	return near, nil
}

func ExampleParseSOCKSProxy() {
	proxy, err := rpcx.ParseSOCKSProxy("socks5://user:secret@proxy.example")
	fmt.Println(proxy, err)
	// The Dialer of a session, and an http.Transport, can have it.
	_ = rpcx.Dialer{SOCKS: proxy}

	_, err = rpcx.ParseSOCKSProxy("http://proxy.example")
	fmt.Println(err)
	// Output:
	// SOCKS5 proxy at proxy.example:1080, auth: username <nil>
	// parse proxy URL: unknown scheme "http": want socks5 (socks, socks5h), socks4a or socks4, with +unix for a unix socket
}

func ExampleDetectSOCKS() {
	ctx := context.Background()
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close() // so nobody listens there
	fmt.Println(rpcx.DetectSOCKS(ctx, addr, nil) != nil)

	// Tor's ports on this machine: rpcx.DetectSOCKSHost(ctx, "localhost", []int{9050, 9150}, nil)
	fmt.Println(rpcx.DetectSOCKSHost(ctx, "localhost", nil, nil) != nil)
	// Output:
	// false
	// false
}

// The protocol by itself, over whatever carries bytes.
func ExampleSOCKSHandshake() {
	dest, _ := rpcx.ParseNetAddress("example.org:80")
	h, _ := rpcx.NewSOCKSHandshake(rpcx.SOCKS4a, dest, nil)

	send, need, _ := h.Next(nil)
	fmt.Printf("send %q, then read %d bytes\n", send, need)
	send, need, _ = h.Next([]byte("\x00\x5a\x00"))
	fmt.Printf("send %q, then read %d bytes\n", send, need)
	send, need, err := h.Next([]byte("\x00\x00\x00\x00\x00"))
	fmt.Printf("send %q, then read %d bytes, error %v\n", send, need, err)
	// Output:
	// send "\x04\x01\x00P\x00\x00\x00\x01\x00example.org\x00", then read 8 bytes
	// send "", then read 5 bytes
	// send "", then read 0 bytes, error <nil>
}

func ExampleParseNetAddress() {
	for _, text := range []string{"example.org:8080", "[2001:DB8::0:1]:80", "localhost", ":9000", "256.0.0.1:80"} {
		addr, err := rpcx.ParseNetAddress(text, rpcx.AddressDefaults{Host: "127.0.0.1", Port: 50001})
		fmt.Println(addr, err)
	}
	// Output:
	// example.org:8080 <nil>
	// [2001:db8::1]:80 <nil>
	// localhost:50001 <nil>
	// 127.0.0.1:9000 <nil>
	//  invalid host: "256.0.0.1" is neither a name nor an IP address
}

func ExampleParseServiceAddr() {
	defaults := []rpcx.AddressDefaults{
		{Protocol: "ssl", Port: 50002},
		{Protocol: "tcp", Port: 50001, Host: "localhost"},
	}
	for _, text := range []string{"example.org", "TCP://example.org", "tcp", "ssl://[::1]:443"} {
		service, err := rpcx.ParseServiceAddr(text, defaults...)
		fmt.Println(service, err)
	}
	// Output:
	// ssl://example.org:50002 <nil>
	// tcp://example.org:50001 <nil>
	// tcp://localhost:50001 <nil>
	// ssl://[::1]:443 <nil>
}

// An address can be the key of a map, also in JSON.
func ExampleNetAddress() {
	var seen map[rpcx.NetAddress]int
	err := json.Unmarshal([]byte(`{"[::1]:80": 1, "example.org:80": 2}`), &seen)
	addr, _ := rpcx.NewNetAddress("0:0::1", 80)
	fmt.Println(seen[addr], addr.Host(), addr.Port(), addr.IP().IsLoopback(), err)
	// Output:
	// 1 ::1 80 true <nil>
}

func ExampleServiceAddr() {
	addr, _ := rpcx.ParseNetAddress("example.org:443")
	service, err := rpcx.NewServiceAddr("SSL", addr)
	fmt.Println(service, service.Protocol(), service.Address().Host(), err)
	// Output:
	// ssl://example.org:443 ssl example.org <nil>
}

// What language servers speak.
func ExampleHeaderFramer() {
	frame, _ := rpcx.HeaderFramer{}.AppendFrame(nil, []byte(`{"jsonrpc":"2.0","method":"exit"}`))
	fmt.Printf("%q\n", frame)

	near, far := net.Pipe()
	opts := &rpcx.Options{Framer: rpcx.HeaderFramer{}, Handler: methods{"reply": reply}}
	client, server := rpcx.NewSession(near, opts), rpcx.NewSession(far, opts)
	fmt.Println(client.Call(context.Background(), "reply", nil, nil))
	client.Close()
	<-server.Done()
	// Output:
	// "Content-Length: 33\r\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"exit\"}"
	// <nil>
}

// The program cat sends back what it gets: the request comes back as one, and is
// answered here.
func ExampleCommand() {
	router := rpcx.NewRouter()
	router.Handle("double", rpcx.Func(func(n int) int { return 2 * n }))
	ctx := context.Background()
	s, err := rpcx.Command(ctx, exec.Command("cat"), &rpcx.Options{Handler: router})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpcx.Call[int](ctx, s, "double", rpcx.Args{21}))
	s.Close()
	<-s.Done() // the program has ended
	// Output: 42 <nil>
}

// A plugin, which another program starts, in full.
func ExampleStdio() {
	router := rpcx.NewRouter()
	router.Handle("double", rpcx.Func(func(n int) int { return 2 * n }))
	s := rpcx.NewSession(rpcx.Stdio(), &rpcx.Options{Handler: router})
	<-s.Done()
}

// Shutdown lets what is under way be finished.
func ExampleSession_Shutdown() {
	started, release := make(chan struct{}), make(chan struct{})
	router := rpcx.NewRouter()
	router.Handle("work", rpcx.Func(func(ctx context.Context) (string, error) {
		close(started)
		<-release
		return "finished", nil
	}))
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer client.Close()

	f := client.Go(context.Background(), "work", nil)
	<-started
	time.AfterFunc(time.Millisecond, func() { close(release) })
	err := server.Shutdown(context.Background())
	fmt.Println("shut down:", err, server.Err())

	var reply string
	err = f.Wait(context.Background(), &reply)
	fmt.Println(reply, err)
	// Output:
	// shut down: <nil> rpcx: session closed
	// finished <nil>
}

// Seeing inside.

func ExampleTrace() {
	trace := &rpcx.Trace{
		Connected:       func(*rpcx.Session) { fmt.Println("connected") },
		RequestReceived: func(req *rpcx.Request) { fmt.Println("request", req.ID, req.Method) },
		ReplySent:       func(req *rpcx.Request, err error, _ time.Duration) { fmt.Println("reply", req.ID, err) },
		Closed:          func(_ *rpcx.Session, err error) { fmt.Println("closed:", err) },
	}
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: exampleMethods(), Trace: trace})
	_ = client.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, nil)
	client.Close()
	<-server.Done()
	// Output:
	// connected
	// request 0 echo
	// reply 0 <nil>
	// closed: EOF
}

// The peer is not told why a handler failed; the log is.
func ExampleOptions_logger() {
	router := rpcx.NewRouter()
	router.Handle("load", rpcx.Func(func() error { return errors.New("disk on fire") }))
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router, Logger: logger})
	err := s.Call(context.Background(), "load", nil, nil)
	s.Close()
	<-server.Done() // by now all is logged
	fmt.Println(err)
	// Output:
	// level=ERROR msg="handler failed" peer=pipe method=load error="disk on fire"
	// internal server error (code -32603)
}

func ExampleSession_Stats() {
	s, end := examplePipe()
	defer end()
	_ = s.Call(context.Background(), "echo", rpcx.Args{"Howdy"}, nil)
	stats := s.Stats()
	fmt.Println(stats.MessagesSent, stats.MessagesReceived, stats.Pending)
	// Output: 1 1 0
}

// Protocols, framers, codecs.

// Messages can be built and read without a session.
func ExampleProtocol() {
	p := rpcx.JSONRPCv2
	msg, err := p.AppendRequest(nil, rpcx.ID("7"), "echo", rpcx.Args{"hi"}, nil)
	fmt.Printf("%s %v\n", msg, err)

	var m rpcx.Message
	p.Decode(&m, msg, 0)
	item := m.Items[0]
	fmt.Printf("%v %s %s %s\n", item.Kind, item.ID, item.Method, item.Params.Positional)

	msg, err = p.AppendResult(nil, item.ID, "hi", nil)
	fmt.Printf("%s %v\n", msg, err)
	// Output:
	// {"jsonrpc":"2.0","method":"echo","id":7,"params":["hi"]} <nil>
	// request 7 echo ["hi"]
	// {"jsonrpc":"2.0","result":"hi","id":7} <nil>
}

// A batch that was received can be ranged over.
func ExampleMessage() {
	var m rpcx.Message
	rpcx.JSONRPCv2.Decode(&m, []byte(`[
		{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":"a"},
		{"jsonrpc":"2.0","method":"ping"},
		{"foo":"boo"}
	]`), 100)
	fmt.Println(m.Batch, m.Len())
	for i, item := range m.All() {
		fmt.Println(i, item.Kind, item.ID, item.Method, item.Err)
	}
	// Output:
	// true 3
	// 0 request "a" sum <nil>
	// 1 notification  ping <nil>
	// 2 invalid   protocol error: "jsonrpc" is not "2.0" (code -32600)
}

func ExampleBatch_Append() {
	var b rpcx.Batch
	b.Call("sum", rpcx.Args{1, 2}, nil)
	b.Notify("ping", nil)
	msg, err := b.Append(nil, rpcx.JSONRPCv2, nil, func() rpcx.ID { return rpcx.ID("1") })
	fmt.Printf("%s %v\n", msg, err)
	// Output: [{"jsonrpc":"2.0","method":"sum","id":1,"params":[1,2]}, {"jsonrpc":"2.0","method":"ping"}] <nil>
}

// nulFramer ends each message with a zero byte, which JSON never has in it.
type nulFramer struct{ maxSize int }

func (f nulFramer) NewSplitter() bufio.SplitFunc {
	scanned := 0 // of data, the bytes that were looked at before
	return func(data []byte, _ bool) (advance int, token []byte, err error) {
		i := bytes.IndexByte(data[scanned:], 0)
		end := scanned + i
		switch {
		case i < 0 && len(data) <= f.maxSize:
			scanned = len(data)
			return 0, nil, nil // more, please
		case i < 0 || end > f.maxSize:
			return 0, nil, &rpcx.FrameError{Message: "message too long"} // ends the session
		}
		scanned = 0
		return end + 1, data[:end], nil
	}
}

func (f nulFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	return append(append(dst, msg...), 0), nil
}

// A framer of one's own: here, messages end with a zero byte.
func ExampleFramer() {
	framer := nulFramer{maxSize: 1 << 20}
	s, server := rpcx.Pipe(
		&rpcx.Options{Framer: framer},
		&rpcx.Options{Framer: framer, Handler: exampleMethods()},
	)
	defer server.Close()
	defer s.Close()

	fmt.Println(rpcx.Call[string](context.Background(), s, "echo", rpcx.Args{"Howdy"}))
	// Output: Howdy <nil>
}

// indenting is a codec that writes JSON for people to read.
type indenting struct{}

func (indenting) Append(dst []byte, v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(dst, data...), err
}

func (indenting) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// What a codec puts out is checked, and loses the white space: nothing gets into
// the stream that could be taken for the end of a message.
func ExampleCodec() {
	msg, err := rpcx.JSONRPCv2.AppendNotification(nil, "log", rpcx.Args{1, "two"}, indenting{})
	fmt.Printf("%s %v\n", msg, err)
	// Output: {"jsonrpc":"2.0","method":"log","params":[1,"two"]} <nil>
}

// Nodes of Bitcoin send each other plain messages: a command and a payload.
func ExampleBitcoinFramer() {
	options := func(router *rpcx.Router) *rpcx.Options {
		return &rpcx.Options{
			Protocol: rpcx.BitcoinProtocol,
			Framer:   rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet},
			Handler:  router,
		}
	}
	answered := make(chan []byte)
	near, far := rpcx.NewRouter(), rpcx.NewRouter()
	near.Handle("pong", rpcx.Func(func(nonce []byte) { answered <- nonce }))
	far.Handle("ping", rpcx.Func(func(ctx context.Context, s *rpcx.Session, nonce []byte) error {
		return s.Notify(ctx, "pong", nonce)
	}))
	a, b := rpcx.Pipe(options(near), options(far))
	defer a.Close()
	defer b.Close()

	err := a.Notify(context.Background(), "ping", []byte("12345678"))
	fmt.Printf("pong %s %v\n", <-answered, err)
	fmt.Println(a.Call(context.Background(), "ping", nil, nil))
	// Output:
	// pong 12345678 <nil>
	// message not sent: BitcoinProtocol has no calls, only notifications (code -32600)
}

// The bytes that go over the wire.
func ExampleProtocol_bitcoin() {
	msg, _ := rpcx.BitcoinProtocol.AppendNotification(nil, "ping", []byte("12345678"), nil)
	frame, err := rpcx.BitcoinFramer{Magic: rpcx.BitcoinCash}.AppendFrame(nil, msg)
	fmt.Printf("%x\n%v\n", frame, err)
	// Output:
	// e3e1f3e870696e6700000000000000000800000018b84ae53132333435363738
	// <nil>
}

// TestExampleOfTesting is the example in the manual's section Testing. The handler sleeps
// for ten seconds, which take no time.
func TestExampleOfTesting(t *testing.T) {
	router := rpcx.NewRouter()
	router.Handle("sleep", rpcx.Func(func(seconds int) {
		time.Sleep(time.Duration(seconds) * time.Second)
	}))
	synctest.Test(t, func(t *testing.T) {
		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
		defer func() {
			client.Close()
			server.Close()
			<-client.Done()
			<-server.Done() // when the handler has returned
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := client.Call(ctx, "sleep", rpcx.Args{10}, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A pipe has no halves: the peer's handlers end with it, and not after Limits.HalfClose.
func TestAPipeEndsTheHandlersOfThePeerAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, ctx.Err()
		})})
		client.Go(t.Context(), "wait", nil)
		synctest.Wait()
		begin := time.Now()
		client.Close()
		<-ended
		<-server.Done()
		<-client.Done()
		if took := time.Since(begin); took != 0 {
			t.Errorf("the handler has ended after %v", took)
		}
	})
}

// Two limits of 30 s are met by a handler that takes too long. The text of each says which
// one it was.
func TestTheTextOfATimeoutSaysWhoseItWas(t *testing.T) {
	for want, limits := range map[string][2]time.Duration{
		"rpcx: request timed out (Limits.RequestTimeout)":                                                                       {30 * time.Second, time.Minute},
		"server busy - request timed out, over the time that the peer has for a handler (Limits.ProcessingTimeout) (code -102)": {time.Minute, 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := rpcx.Pipe(&rpcx.Options{Limits: rpcx.Limits{RequestTimeout: limits[0]}},
				&rpcx.Options{Handler: rpcx.HandlerFunc(hang), Limits: rpcx.Limits{ProcessingTimeout: limits[1]}})
			if err := client.Call(context.Background(), "hang", nil, nil); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			client.Close()
			server.Close()
			<-client.Done()
			<-server.Done()
		})
	}
}
