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
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
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

// chanConn is a connection that keeps messages apart, made of channels.
type chanConn struct {
	in     <-chan []byte
	out    chan<- []byte
	closed chan struct{} // shared by both ends
	once   *sync.Once
}

func newChanConns() (a, b *chanConn) {
	there, back := make(chan []byte), make(chan []byte)
	closed, once := make(chan struct{}), new(sync.Once)
	return &chanConn{back, there, closed, once}, &chanConn{there, back, closed, once}
}

func (c *chanConn) ReadMessage() ([]byte, error) {
	select {
	case msg := <-c.in:
		return msg, nil
	case <-c.closed:
		return nil, io.EOF
	}
}

func (c *chanConn) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		select {
		case c.out <- bytes.Clone(msg): // msg is the session's
		case <-c.closed:
			return io.ErrClosedPipe
		}
	}
	return nil
}

func (c *chanConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// A transport that keeps messages apart by itself needs no framer.
func ExampleNewMessageSession() {
	here, there := newChanConns()
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

// The end of the context is a Shutdown; in a program it would be that of
// [os/signal.NotifyContext].
func ExampleServer_ListenAndServe() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	srv := &rpcx.Server{Options: rpcx.Options{Handler: exampleMethods()}}
	err := srv.ListenAndServe(ctx, "tcp://127.0.0.1:0")
	fmt.Println(err, errors.Is(err, rpcx.ErrServerClosed))
	// Output: rpcx: server closed true
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
	srv.Wait()
	// Output:
	// connected: gopher <nil>
	// disconnected: EOF
}

// Calls.

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

// The context bounds a call; where it has no deadline, Limits.RequestTimeout does.
func ExampleSession_Call_timeout() {
	router := rpcx.NewRouter()
	router.Handle("sleep", rpcx.Func(func(ctx context.Context) error {
		<-ctx.Done() // until the session ends
		return ctx.Err()
	}))
	s, server := rpcx.Pipe(
		&rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 10 * time.Millisecond}},
		&rpcx.Options{Handler: router},
	)
	defer server.Close()
	defer s.Close()

	err := s.Call(context.Background(), "sleep", nil, nil)
	fmt.Println(err)
	fmt.Println(errors.Is(err, rpcx.ErrTimeout), errors.Is(err, context.DeadlineExceeded))
	// Output:
	// rpcx: request timed out
	// true true
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
	// <nil> rpcx: future is not done
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
	// 1 of 2 batch requests failed, the first: unknown method "nope" (code -32601)
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

// Handlers.

// With names, arguments can be given by position or by name.
func ExampleFunc() {
	router := rpcx.NewRouter()
	router.Handle("subtract", rpcx.Func(func(ctx context.Context, minuend, subtrahend int) (int, error) {
		return minuend - subtrahend, nil
	}, "minuend", "subtrahend"))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[int](ctx, s, "subtract", rpcx.Args{42, 23}))
	fmt.Println(rpcx.Call[int](ctx, s, "subtract", map[string]any{"subtrahend": 23, "minuend": 42}))
	fmt.Println(rpcx.Call[int](ctx, s, "subtract", map[string]any{"minuend": 42}))
	// Output:
	// 19 <nil>
	// 19 <nil>
	// 0 method "subtract" requires parameter "subtrahend" (code -32602)
}

// A name that ends in "?" is that of an optional parameter.
func ExampleFunc_optional() {
	router := rpcx.NewRouter()
	router.Handle("greet", rpcx.Func(func(name, greeting string) string {
		if greeting == "" {
			greeting = "Hello"
		}
		return greeting + ", " + name
	}, "name", "greeting?"))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[string](ctx, s, "greet", rpcx.Args{"Ann"}))
	fmt.Println(rpcx.Call[string](ctx, s, "greet", rpcx.Args{"Ann", "Howdy"}))
	fmt.Println(rpcx.Call[string](ctx, s, "greet", map[string]any{"greeting": "Howdy"}))
	// Output:
	// Hello, Ann <nil>
	// Howdy, Ann <nil>
	//  method "greet" requires parameter "name" (code -32602)
}

// A variadic parameter takes the rest of the positional arguments.
func ExampleFunc_variadic() {
	router := rpcx.NewRouter()
	router.Handle("join", rpcx.Func(func(separator string, parts ...string) string {
		return strings.Join(parts, separator)
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[string](ctx, s, "join", rpcx.Args{"-", "a", "b", "c"}))
	fmt.Println(rpcx.Call[string](ctx, s, "join", rpcx.Args{"-", "a", 5}))
	// Output:
	// a-b-c <nil>
	//  invalid argument 3 of method "join": json: cannot unmarshal number into Go value of type string (code -32602)
}

// A function whose only parameter is a struct takes its fields by name.
func ExampleFunc_struct() {
	type Query struct {
		Text  string `json:"text"`
		Limit int    `json:"limit,omitempty"` // optional
	}
	router := rpcx.NewRouter()
	router.Handle("find", rpcx.Func(func(ctx context.Context, q Query) (string, error) {
		return fmt.Sprintf("%q, at most %d", q.Text, q.Limit), nil
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[string](ctx, s, "find", Query{"go", 10}))
	fmt.Println(rpcx.Call[string](ctx, s, "find", map[string]any{"limit": 10}))
	fmt.Println(rpcx.Call[string](ctx, s, "find", map[string]any{"text": "go", "Limit": 10}))
	// Output:
	// "go", at most 10 <nil>
	//  method "find" requires parameter "text" (code -32602)
	//  method "find" does not take parameter "Limit" (code -32602)
}

// A router passes requests on by method. Methods may be added while it serves.
func ExampleRouter() {
	router := rpcx.NewRouter()
	router.Handle("ping", rpcx.Func(func() string { return "pong" }))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[string](ctx, s, "ping", nil))
	fmt.Println(rpcx.Call[string](ctx, s, "pong", nil))
	router.Handle("pong", rpcx.Func(func() string { return "ping" }))
	fmt.Println(rpcx.Call[string](ctx, s, "pong", nil))
	// Output:
	// pong <nil>
	//  unknown method "pong" (code -32601)
	// ping <nil>
}

// A HandlerFunc sees the request as it came.
func ExampleHandlerFunc() {
	handler := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		var args []json.RawMessage
		if err := req.Bind(&args); err != nil {
			return nil, err // an *Error with CodeInvalidParams
		}
		return fmt.Sprintf("%s got %d arguments in request %s", req.Method, len(args), req.ID), nil
	})
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: handler})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[string](ctx, s, "anything", rpcx.Args{1, "two"}))
	fmt.Println(rpcx.Call[string](ctx, s, "whatever", nil))
	// Output:
	// anything got 2 arguments in request 0 <nil>
	// whatever got 0 arguments in request 1 <nil>
}

// Middleware is wrapped around the handler, the first outermost.
func ExampleOptions_middleware() {
	logged := func(next rpcx.Handler) rpcx.Handler {
		return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			result, err := next.ServeRPC(ctx, req)
			fmt.Println("log:", req.Method, result, err)
			return result, err
		})
	}
	private := func(next rpcx.Handler) rpcx.Handler {
		return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			if strings.HasPrefix(req.Method, "_") {
				return nil, rpcx.MethodNotFound(req.Method)
			}
			return next.ServeRPC(ctx, req)
		})
	}
	s, server := rpcx.Pipe(nil, &rpcx.Options{
		Handler:    exampleMethods(),
		Middleware: []func(rpcx.Handler) rpcx.Handler{logged, private},
	})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	_ = s.Call(ctx, "sum", rpcx.Args{1, 2}, nil)
	_ = s.Call(ctx, "_secret", nil, nil)
	// Output:
	// log: sum 3 <nil>
	// log: _secret <nil> unknown method "_secret" (code -32601)
}

// Some requests deserve an answer and no second one.
func ExampleReplyAndDisconnect() {
	router := rpcx.NewRouter()
	router.Handle("login", rpcx.Func(func(ctx context.Context, password string) (any, error) {
		if password != "swordfish" {
			return nil, rpcx.ReplyAndDisconnect(rpcx.Errorf(1, "wrong password"))
		}
		return "welcome", nil
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()

	fmt.Println(s.Call(context.Background(), "login", rpcx.Args{"sesame"}, nil))
	<-s.Done()
	fmt.Println(s.Err())
	// Output:
	// wrong password (code 1)
	// EOF
}

// A handler may call the peer whose request it handles.
func ExampleRequest_Session() {
	router := rpcx.NewRouter()
	router.Handle("multiply", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		for i := range 3 {
			_ = req.Session().Notify(ctx, "progress", rpcx.Args{i})
		}
		return rpcx.Call[int](ctx, req.Session(), "factor", nil)
	}))
	own := rpcx.NewRouter()
	own.Handle("progress", rpcx.Func(func(ctx context.Context, step int) error { return nil }))
	own.Handle("factor", rpcx.Func(func() int { return 42 }))
	s, server := rpcx.Pipe(&rpcx.Options{Handler: own}, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()

	fmt.Println(rpcx.Call[int](context.Background(), s, "multiply", nil))
	fmt.Println(s.Stats().RequestsReceived)
	// Output:
	// 42 <nil>
	// 4
}

// Errors.

// A handler's *Error goes to the peer: its code, its message and its data.
func ExampleError() {
	router := rpcx.NewRouter()
	router.Handle("withdraw", rpcx.Func(func(ctx context.Context, amount int) error {
		return &rpcx.Error{Code: 2001, Message: "not enough money", Data: map[string]int{"balance": 5}}
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()

	err := s.Call(context.Background(), "withdraw", rpcx.Args{10}, nil)
	var e *rpcx.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code, e.Message)
		fmt.Printf("%s\n", e.Data)
	}
	// Output:
	// 2001 not enough money
	// {"balance":5}
}

// Errors match by their code.
func ExampleError_Is() {
	s, end := examplePipe()
	defer end()
	ctx := context.Background()

	err := s.Call(ctx, "nope", nil, nil)
	fmt.Println(errors.Is(err, rpcx.ErrMethodNotFound), err)
	err = s.Call(ctx, "echo", rpcx.Args{5}, nil)
	fmt.Println(errors.Is(err, rpcx.ErrInvalidParams), errors.Is(err, rpcx.ErrMethodNotFound))

	errQuota := &rpcx.Error{Code: 2002} // a code of one's own
	fmt.Println(errors.Is(rpcx.Errorf(2002, "over quota by %d", 7), errQuota))
	// Output:
	// true unknown method "nope" (code -32601)
	// true false
	// true
}

// What was pending when the connection ended says so.
func ExampleConnectionError() {
	router := rpcx.NewRouter()
	router.Handle("hang up", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		req.Session().Close()
		return nil, nil
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()

	err := s.Call(context.Background(), "hang up", nil, nil)
	fmt.Println(errors.Is(err, rpcx.ErrConnectionLost), errors.Is(err, io.EOF))
	<-s.Done()
	fmt.Println(errors.Is(s.Call(context.Background(), "echo", nil, nil), rpcx.ErrClosed))
	// Output:
	// true true
	// true
}

// The end.

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
	defer server.Close()
	defer s.Close()

	fmt.Println(s.Call(context.Background(), "load", nil, nil))
	// Output:
	// level=ERROR msg="handler failed" method=load error="disk on fire"
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
