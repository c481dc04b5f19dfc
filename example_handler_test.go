package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
)

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
	//  method "find" does not take parameter "Limit"; names are case-sensitive: "limit" (not "Limit") (code -32602)
}

// An only parameter without a name takes all params. With a name it is one of them.
func ExampleFunc_shapes() {
	type Query struct {
		Text  string `json:"text"`
		Limit int    `json:"limit,omitempty"`
	}
	router := rpcx.NewRouter()
	router.Handle("find", rpcx.Func(func(ctx context.Context, q *Query) (string, error) {
		return fmt.Sprintf("%q, at most %d", q.Text, q.Limit), nil
	}))
	router.Handle("set", rpcx.Func(func(values map[string]int) string { return fmt.Sprint(values) }))
	router.Handle("sort", rpcx.Func(func(words []string) []string {
		slices.Sort(words)
		return words
	}))
	router.Handle("named", rpcx.Func(func(words []string) int { return len(words) }, "words"))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[string](ctx, s, "find", map[string]any{"text": "go"}))
	fmt.Println(rpcx.Call[string](ctx, s, "set", map[string]any{"width": 3, "height": 4}))
	fmt.Println(rpcx.Call[[]string](ctx, s, "sort", rpcx.Args{"pear", "apple"}))
	fmt.Println(rpcx.Call[int](ctx, s, "named", map[string]any{"words": []string{"pear", "apple"}}))
	// Output:
	// "go", at most 0 <nil>
	// map[height:4 width:3] <nil>
	// [apple pear] <nil>
	// 2 <nil>
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

// Peers of some protocols send more than one asks for, and newer ones ever more.
func ExampleFunc_more() {
	type HoverParams struct {
		Line int `json:"line"`
	}
	hover := func(p HoverParams) string { return fmt.Sprint("line ", p.Line) }
	router := rpcx.NewRouter()
	router.Handle("hover", rpcx.Func(hover, "..."))
	router.Handle("strict", rpcx.Func(hover))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()

	params := map[string]any{"line": 7, "workDoneToken": 1}
	fmt.Println(rpcx.Call[string](ctx, s, "hover", params))
	fmt.Println(rpcx.Call[string](ctx, s, "strict", params))
	// Output:
	// line 7 <nil>
	//  method "strict" does not take parameter "workDoneToken" (code -32602)
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

// A notification can end the session, too, as "exit" does in the protocol of language
// servers. Order lets the requests before it be answered, and what edits a text be handled
// before what asks about it.
func ExampleReplyAndDisconnect_notification() {
	router := rpcx.NewRouter()
	router.Handle("shutdown", rpcx.Func(func() {}))
	router.Handle("exit", rpcx.Func(func() any { return rpcx.ReplyAndDisconnect(nil) }))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router, Order: rpcx.NotificationsFirst})
	ctx := context.Background()

	fmt.Println(s.Call(ctx, "shutdown", nil, nil))
	fmt.Println(s.Notify(ctx, "exit", nil))
	<-server.Done()
	fmt.Println(server.Err())
	<-s.Done()
	// Output:
	// <nil>
	// <nil>
	// rpcx: session closed
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

// The data of an error are decoded into a value of one's own.
func ExampleError_DecodeData() {
	router := rpcx.NewRouter()
	router.Handle("withdraw", rpcx.Func(func(amount int) error {
		return rpcx.Errorf(2001, "not enough money").WithData(map[string]int{"balance": 5})
	}))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()

	err := s.Call(context.Background(), "withdraw", rpcx.Args{10}, nil)
	var e *rpcx.Error
	if errors.As(err, &e) {
		var account struct {
			Balance int `json:"balance"`
		}
		err := e.DecodeData(&account)
		fmt.Println(e.Code, account.Balance, err)
	}
	// Output: 2001 5 <nil>
}

// An error of a call back to the peer goes out as it is, unless it is wrapped with %v or
// made another one.
func ExampleHandler_errorOfThePeer() {
	router := rpcx.NewRouter()
	for method, answer := range map[string]func(err error) error{
		"as it is": func(err error) error { return err },
		"hidden":   func(err error) error { return fmt.Errorf("ask the client: %v", err) },
		"another":  func(err error) error { return rpcx.Errorf(7, "the client has no name: %v", err) },
	} {
		router.Handle(method, rpcx.Func(func(ctx context.Context, s *rpcx.Session) error {
			return answer(s.Call(ctx, "name", nil, nil)) // which the client does not have
		}))
	}
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()

	for _, method := range []string{"as it is", "hidden", "another"} {
		fmt.Println(s.Call(context.Background(), method, nil, nil))
	}
	// Output:
	// unknown method "name" (code -32601)
	// internal server error (code -32603)
	// the client has no name: unknown method "name" (code -32601) (code 7)
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

// A function that takes typed arguments has the request, too.
func ExampleRequestFromContext() {
	router := rpcx.NewRouter()
	router.Handle("greet", rpcx.Func(func(ctx context.Context, name string) string {
		req := rpcx.RequestFromContext(ctx)
		return fmt.Sprintf("%s, %s by request %s of a %T", req.Method, name, req.ID, req.Session())
	}, "name"))
	s, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
	defer server.Close()
	defer s.Close()

	fmt.Println(rpcx.Call[string](context.Background(), s, "greet", rpcx.Args{"Ann"}))
	// Output: greet, Ann by request 0 of a *rpcx.Session <nil>
}

// userKey is the key of the user's name among the values of a session.
type userKey struct{}

// The state of a session: here a name, without which nothing can be had. The gate knows only
// "login", and lets the session through. A client may send more right behind its login: that
// waits until the login is answered.
func ExampleServer_state() {
	gate := rpcx.NewRouter()
	gate.Handle("login", rpcx.Func(func(ctx context.Context, s *rpcx.Session, name string) error {
		if name == "" {
			return rpcx.InvalidParams("a name is needed")
		}
		s.SetValue(userKey{}, name) // handlers find it in their contexts
		s.Admit()
		return nil
	}))
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(func(ctx context.Context) string { return ctx.Value(userKey{}).(string) }))
	srv := &rpcx.Server{Options: rpcx.Options{Gate: gate, Handler: router}}

	here, there := net.Pipe()
	srv.ServeConn(there)
	s := rpcx.NewSession(here, nil)
	ctx := context.Background()
	fmt.Println(s.Call(ctx, "whoami", nil, nil))
	login := s.Go(ctx, "login", rpcx.Args{"gopher"})
	name, err := rpcx.Call[string](ctx, s, "whoami", nil) // without waiting for the login
	fmt.Println(name, err, login.Wait(ctx, nil))
	fmt.Println(s.Call(ctx, "login", rpcx.Args{"ferris"}, nil))
	s.Close()
	srv.Wait(context.Background())
	// Output:
	// unknown method "whoami" (code -32601)
	// gopher <nil> <nil>
	// unknown method "login" (code -32601)
}

// A method that must be first, as "server.version" of Electrum. The server hangs up on a
// client that begins with any other.
func ExampleSession_Admit() {
	gate := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		if req.Method != "server.version" {
			return nil, rpcx.ReplyAndDisconnect(rpcx.InvalidRequest("use server.version to identify client"))
		}
		req.Session().Admit()
		return []string{"example 1.0", "1.4"}, nil
	})
	router := rpcx.NewRouter()
	router.Handle("server.ping", rpcx.Func(func() {}))
	connect := func() *rpcx.Session {
		s, _ := rpcx.Pipe(nil, &rpcx.Options{Gate: gate, Handler: router})
		return s
	}

	ctx := context.Background()
	s := connect()
	version, err := rpcx.Call[[]string](ctx, s, "server.version", rpcx.Args{"example", "1.4"})
	fmt.Println(version, err, s.Call(ctx, "server.ping", nil, nil))
	s.Close()

	s = connect()
	fmt.Println(s.Call(ctx, "server.ping", nil, nil))
	<-s.Done()
	fmt.Println(s.Err())
	// Output:
	// [example 1.0 1.4] <nil> <nil>
	// use server.version to identify client (code -32600)
	// EOF
}

// A language server, before and after "initialize". The Language Server Protocol says how it
// refuses what comes too early.
func ExampleOptions_gate() {
	type object = map[string]any
	gate := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		switch req.Method {
		case "initialize":
			req.Session().Admit()
			return object{"capabilities": object{"hoverProvider": true}}, nil
		case "exit":
			return nil, rpcx.ReplyAndDisconnect(nil)
		}
		return nil, rpcx.Errorf(-32002, "server not initialized") // a notification is only dropped
	})
	router := rpcx.NewRouter()
	router.Handle("initialized", rpcx.Func(func() {}, "..."))
	router.Handle("textDocument/hover", rpcx.Func(func() string { return "a gopher" }, "..."))
	s, server := rpcx.Pipe(nil, &rpcx.Options{
		Gate:    gate,
		Handler: router,
		Order:   rpcx.NotificationsFirst,
	})
	defer server.Close()
	defer s.Close()

	ctx := context.Background()
	fmt.Println(s.Call(ctx, "textDocument/hover", nil, nil))
	fmt.Println(rpcx.Call[object](ctx, s, "initialize", object{"capabilities": object{}}))
	fmt.Println(s.Notify(ctx, "initialized", object{}))
	fmt.Println(rpcx.Call[string](ctx, s, "textDocument/hover", nil))
	// Output:
	// server not initialized (code -32002)
	// map[capabilities:map[hoverProvider:true]] <nil>
	// <nil>
	// a gopher <nil>
}

// Calculator is what the server exposes: an interface of Go's.
type Calculator interface {
	Add(ctx context.Context, a, b int) (int, error)
	Divide(ctx context.Context, a, b float64) (float64, error)
}

// CalculatorClient is the same for those who call it. Its functions are filled in.
type CalculatorClient struct {
	Add    func(ctx context.Context, a, b int) (int, error)
	Divide func(ctx context.Context, a, b float64) (float64, error)
}

type calculator struct{ secret int }

func (calculator) Add(_ context.Context, a, b int) (int, error) { return a + b, nil }

func (calculator) Divide(_ context.Context, a, b float64) (float64, error) {
	if b == 0 {
		return 0, rpcx.InvalidParams("division by zero")
	}
	return a / b, nil
}

// Secret is not in the interface.
func (c calculator) Secret() int { return c.secret }

// A calculator as an interface, and its typed client.
func ExampleBindProxy() {
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: rpcx.Expose[Calculator](calculator{42})})
	defer server.Close()
	defer client.Close()

	var calc CalculatorClient
	if err := rpcx.BindProxy(client.Remote(), &calc); err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	fmt.Println(calc.Add(ctx, 3, 4))
	fmt.Println(calc.Divide(ctx, 1, 8))
	fmt.Println(calc.Divide(ctx, 1, 0))
	fmt.Println(client.Remote().Call(ctx, nil, "secret"))
	// Output:
	// 7 <nil>
	// 0.125 <nil>
	// 0 division by zero (code -32602)
	// unknown method "secret": "rpcx_test.calculator.secret" is not exposed (code -32601)
}

// A peer whose methods have dots is called by whole names.
func ExampleBindProxy_dots() {
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		return req.Method, nil
	})})
	defer server.Close()
	defer client.Close()

	var math struct {
		Add func(ctx context.Context, a, b int) (string, error) `rpcx:"math.add"`
	}
	if err := rpcx.BindProxy(client.Remote(), &math); err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	fmt.Println(math.Add(ctx, 3, 4))
	var method string
	fmt.Println(client.Remote().Call(ctx, &method, "math.add", 3, 4), method)
	fmt.Println(client.Remote().At("math").Call(ctx, &method, "add", 3, 4), method)
	// Output:
	// math.add <nil>
	// <nil> math.add
	// <nil> math/add
}

func ExampleExpose() {
	for name := range rpcx.Expose[Calculator](calculator{}).Methods() {
		fmt.Println(name)
	}
	// Output:
	// Add
	// Divide
	// add
	// divide
}

// A tree of services, and how it changes while it serves.
func ExampleRouter_Mount() {
	house, kitchen := rpcx.NewRouter(), rpcx.NewRouter()
	kitchen.Handle("temperature", rpcx.Func(func() float64 { return 21.5 }))
	if err := house.Mount("kitchen", kitchen); err != nil {
		log.Fatal(err)
	}
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: house})
	defer server.Close()
	defer client.Close()
	ctx := context.Background()

	fmt.Println(rpcx.Call[float64](ctx, client, "kitchen/temperature", nil))

	oven := rpcx.ExposeMap(map[string]any{"temperature": func() float64 { return 180 }})
	if err := kitchen.Mount("oven", oven); err != nil {
		log.Fatal(err)
	}
	fmt.Println("mounted at", oven.Path())
	fmt.Println(rpcx.Call[float64](ctx, client, "kitchen/oven/temperature", nil))

	kitchen.Remove("oven")
	fmt.Println(client.Call(ctx, "kitchen/oven/temperature", nil, nil))
	fmt.Println(oven.Mount("kitchen", kitchen))
	// Output:
	// 21.5 <nil>
	// mounted at kitchen/oven
	// 180 <nil>
	// unknown method "kitchen/oven/temperature": Name "oven" not found in "kitchen" (code -32601)
	// mount "kitchen": the router is mounted already, as "kitchen"
}

func ExampleExposeMap() {
	services := rpcx.ExposeMap(map[string]any{
		"ping": func() string { return "pong" },
		"math": map[string]any{
			"double": func(n int) int { return 2 * n },
			"divide": rpcx.Func(func(a, b float64) float64 { return a / b }, "a", "b"),
		},
	})
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: services})
	defer server.Close()
	defer client.Close()

	ctx := context.Background()
	math := client.Remote().At("math")
	var n, quotient float64
	fmt.Println(math.Call(ctx, &n, "double", 21), n)
	fmt.Println(math.Call(ctx, &quotient, "divide", rpcx.Named{"b": 4, "a": 1}), quotient)
	fmt.Println(math)
	// Output:
	// <nil> 42
	// <nil> 0.25
	// Proxy(pipe, "math")
}

// room is a chat: it calls all who have joined.
type room struct {
	mu      sync.Mutex
	members map[*rpcx.Session]chan string // what each is still to hear
}

func (r *room) Join(_ context.Context, s *rpcx.Session, member *rpcx.Proxy) error {
	queue := make(chan string, 16)
	r.mu.Lock()
	_, joined := r.members[s]
	if !joined {
		r.members[s] = queue
	}
	r.mu.Unlock() // before anything that may wait
	if joined {
		return rpcx.InvalidRequest("joined already")
	}
	s.OnClose(func(error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.members, s)
	})
	go deliver(s, member, queue)
	return nil
}

// deliver calls a member with what it is to hear, in that order. It ends with the
// session.
func deliver(s *rpcx.Session, member *rpcx.Proxy, queue <-chan string) {
	for {
		select {
		case text := <-queue:
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := member.Call(ctx, nil, "hear", text); err != nil && !errors.Is(err, rpcx.ErrConnectionLost) {
				log.Print(err) // the others hear it all the same
			}
			cancel()
		case <-s.Done():
			return
		}
	}
}

// Say waits for nobody: who is slow and has a full queue misses what is said.
func (r *room) Say(_ context.Context, text string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, queue := range r.members {
		select {
		case queue <- text:
		default:
		}
	}
	return nil
}

// member is what a client of the chat exposes.
type member struct {
	name  string
	heard chan string
}

func (m *member) Hear(_ context.Context, text string) error {
	if text == "" {
		return errors.New("nothing was said")
	}
	m.heard <- fmt.Sprintf("%s hears %q", m.name, text)
	return nil
}

// A chat, in which the server calls every client back. Each member has a queue, so that
// nobody waits for one that is slow. By Order: Sequential what a client says is passed on
// in the order in which it has said it.
func Example_chat() {
	type chat interface {
		Join(ctx context.Context, s *rpcx.Session, member *rpcx.Proxy) error
		Say(ctx context.Context, text string) error
	}
	type hearer interface {
		Hear(ctx context.Context, text string) error
	}
	server := rpcx.Expose[chat](&room{members: make(map[*rpcx.Session]chan string)})
	ctx := context.Background()
	heard := make(chan string)
	var last *rpcx.Session
	for _, name := range []string{"Kim", "Sascha"} {
		me := &member{name, heard}
		client, far := rpcx.Pipe(
			&rpcx.Options{Handler: rpcx.Expose[hearer](me), Objects: true},
			&rpcx.Options{Handler: server, Objects: true, Order: rpcx.Sequential})
		defer far.Close()
		defer client.Close()
		// The member is sent as a reference, and arrives as a proxy.
		if err := client.Remote().Call(ctx, nil, "join", me); err != nil {
			log.Fatal(err)
		}
		last = client
	}
	if err := last.Remote().Call(ctx, nil, "say", "hello, everybody"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-heard)
	fmt.Println(<-heard)
	// Unordered output:
	// Kim hears "hello, everybody"
	// Sascha hears "hello, everybody"
}

// Point is a type that travels as an object: as its coordinates, with a type's id.
type Point struct{ X, Y int }

func ExampleNewType() {
	points := []rpcx.Type{rpcx.NewType(
		func(p Point) ([2]int, error) { return [2]int{p.X, p.Y}, nil },
		func(xy [2]int) (Point, error) { return Point{xy[0], xy[1]}, nil },
	)}
	mirror := rpcx.ExposeMap(map[string]any{
		"mirror": rpcx.Func(func(p Point) any { return []any{p, Point{p.Y, p.X}} }, "point"),
	})
	client, server := rpcx.Pipe(
		&rpcx.Options{Objects: true, Types: points},
		&rpcx.Options{Objects: true, Types: points, Handler: mirror})
	defer server.Close()
	defer client.Close()
	fmt.Println(rpcx.Call[[]Point](context.Background(), client, "mirror", rpcx.Args{Point{1, 2}}))
	// Output: [{1 2} {2 1}] <nil>
}

// The wire of aiomas itself, as a Python program speaks it.
func Example_aiomas() {
	wire := func(h rpcx.Handler) *rpcx.Options {
		return &rpcx.Options{Protocol: rpcx.Aiomas, Framer: rpcx.LengthFramer{}, Handler: h}
	}
	client, server := rpcx.Pipe(wire(nil), wire(rpcx.ExposeMap(map[string]any{
		"add":  rpcx.Func(func(a, b int) int { return a + b }, "a", "b"),
		"sell": func() error { return errors.New("this parrot is dead") },
	})))
	defer server.Close()
	defer client.Close()

	ctx := context.Background()
	var sum int
	fmt.Println(client.Remote().Call(ctx, &sum, "add", 3, rpcx.Named{"b": 4}), sum) // by place and by name
	var e *rpcx.Error
	if errors.As(client.Remote().Call(ctx, nil, "sell"), &e) {
		fmt.Printf("%s\n%q\n", e.Message, e.Data)
	}
	// Output:
	// <nil> 7
	// this parrot is dead
	// "Traceback (most recent call last):\nthis parrot is dead\n"
}

// A server of the Model Context Protocol, and its client: a tool that tells how far it
// is, and is cancelled. Here both are joined by a Pipe. In a real program the client
// starts the server by Command, and the server is a session on Stdio: see examples/mcp.
func Example_mcp() {
	type object = map[string]any
	type call struct {
		Name string `json:"name"`
	}
	cancelled := make(chan error, 1)
	// Without a result the reply would be null, which clients take for an invalid message.
	ping := rpcx.Func(func() struct{} { return struct{}{} })
	gate := rpcx.NewRouter() // for what comes first
	gate.Handle("ping", ping)
	gate.Handle("initialize", rpcx.Func(func(ctx context.Context, s *rpcx.Session) object {
		s.Admit()
		return object{"protocolVersion": "2025-06-18", "capabilities": object{"tools": object{}}, "serverInfo": object{"name": "example", "version": "1"}}
	}))
	tools := rpcx.NewRouter()
	tools.Handle("ping", ping)
	tools.Handle("notifications/initialized", rpcx.Func(func() {}))
	tools.Handle("tools/list", rpcx.Func(func() object {
		return object{"tools": []object{{"name": "dig", "inputSchema": object{"type": "object"}}}}
	}))
	tools.Handle("tools/call", rpcx.Func(func(ctx context.Context, c call) (object, error) {
		if c.Name != "dig" {
			return nil, rpcx.InvalidParams("unknown tool: %s", c.Name)
		}
		progress := rpcx.Progress(ctx) // does nothing if the client has sent no progressToken
		for depth := 1; depth <= 3; depth++ {
			if err := progress(object{"progress": depth, "total": 1000}); err != nil {
				return nil, err
			}
		}
		<-ctx.Done() // the rest takes for ever
		cancelled <- context.Cause(ctx)
		return nil, ctx.Err()
	}))

	opts := rpcx.Options{
		Cancellation:        rpcx.MCPCancellation,
		Correlations:        []*rpcx.Correlation{rpcx.MCPProgress},
		IgnoreUnknownParams: true, // either side may say more than the other asks
	}
	clientOpts, serverOpts := opts, opts
	serverOpts.Gate, serverOpts.Handler, serverOpts.Limits.ProcessingTimeout = gate, tools, -1
	s, server := rpcx.Pipe(&clientOpts, &serverOpts)
	defer server.Close()
	defer s.Close()
	ctx := context.Background()
	fmt.Println(s.Call(ctx, "tools/list", nil, nil)) // too early
	err := s.Call(ctx, "initialize", object{"protocolVersion": "2025-06-18", "capabilities": object{}, "clientInfo": object{"name": "me"}}, nil)
	fmt.Println(err, s.Notify(ctx, "notifications/initialized", nil))
	pong, err := rpcx.Call[json.RawMessage](ctx, s, "ping", nil)
	fmt.Println(string(pong), err)

	type progress struct{ Progress, Total int }
	ctx, cancel := context.WithCancel(ctx)
	_, err = rpcx.CallProgress[object](ctx, s, rpcx.MCPProgress, "tools/call", object{"name": "dig"}, func(p progress) {
		fmt.Println("progress", p.Progress, "of", p.Total)
		if p.Progress == 3 {
			cancel()
		}
	})
	fmt.Println(err)
	fmt.Println(<-cancelled)
	// Output:
	// unknown method "tools/list" (code -32601)
	// <nil> <nil>
	// {} <nil>
	// progress 1 of 1000
	// progress 2 of 1000
	// progress 3 of 1000
	// context canceled
	// rpcx: request cancelled by the peer
}
