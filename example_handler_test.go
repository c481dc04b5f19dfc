package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

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
