package rpchttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// exampleServer starts a server of JSON-RPC with the method "sum".
func exampleServer() *httptest.Server {
	router := rpcx.NewRouter()
	router.Handle("sum", rpcx.Func(func(a, b int) int { return a + b }))
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, rpcx.DefaultMaxSize))
		if err != nil {
			return
		}
		reply, _ := srv.ServeMessage(r.Context(), nil, body, nil)
		w.Header().Set("Content-Type", "application/json")
		w.Write(reply)
	}))
}

// A Client makes calls like a session.
func ExampleDial() {
	server := exampleServer()
	defer server.Close()

	client, err := rpchttp.Dial(server.URL+"/rpc", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	ctx := context.Background()

	sum, err := rpcx.Call[int](ctx, client, "sum", rpcx.Args{1, 2})
	fmt.Println(sum, err)

	var b rpcx.Batch
	var first, second int
	b.Call("sum", rpcx.Args{3, 4}, &first)
	b.Call("sum", rpcx.Args{5, 6}, &second)
	err = client.SendBatch(ctx, &b) // one POST
	fmt.Println(first, second, err)
	// Output:
	// 3 <nil>
	// 7 11 <nil>
}

// A Dialer has the settings: credentials, limits, and what may be sent again.
func ExampleDialer() {
	server := exampleServer()
	defer server.Close()

	d := rpchttp.Dialer{
		Header:     http.Header{"Authorization": {"Bearer " + os.Getenv("RPC_TOKEN")}},
		MaxSize:    10 << 20,
		Compress:   false, // true only if the server takes compressed messages
		Idempotent: func(method string) bool { return method == "sum" },
	}
	client, err := d.Dial(server.URL, &rpcx.Options{
		Limits: rpcx.Limits{RequestTimeout: 10 * time.Second},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Println(rpcx.Call[int](context.Background(), client, "sum", rpcx.Args{1, 2}))
	// Output: 3 <nil>
}

// A reply may come with server-sent events. The handler finds in its context what belongs to
// the call.
func ExampleClient_progress() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, message := range []string{
			`{"jsonrpc":"2.0","method":"progress","params":{"percent":50}}`,
			`{"jsonrpc":"2.0","method":"progress","params":{"percent":100}}`,
			`{"jsonrpc":"2.0","result":"done","id":0}`,
		} {
			fmt.Fprintf(w, "data: %s\n\n", message)
		}
	}))
	defer server.Close()

	type reportKey struct{}
	router := rpcx.NewRouter()
	router.Handle("progress", rpcx.Func(func(ctx context.Context, p struct {
		Percent int `json:"percent"`
	}) {
		if report, ok := ctx.Value(reportKey{}).(func(int)); ok {
			report(p.Percent)
		}
	}))
	client, err := rpchttp.Dial(server.URL, &rpcx.Options{Handler: router})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	ctx := context.WithValue(context.Background(), reportKey{}, func(percent int) { fmt.Println(percent, "%") })
	fmt.Println(rpcx.Call[string](ctx, client, "work", nil))
	// Output:
	// 50 %
	// 100 %
	// done <nil>
}

// A page in place of a reply is a StatusError.
func ExampleStatusError() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	client, err := rpchttp.Dial(server.URL+"/wrong", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	err = client.Call(context.Background(), "sum", rpcx.Args{1, 2}, nil)
	if e, ok := errors.AsType[*rpchttp.StatusError](err); ok {
		fmt.Println(e.StatusCode, e.Header.Get("Content-Type"))
	}
	fmt.Println(err)
	// Output:
	// 404 text/plain; charset=utf-8
	// no reply to the request: the server answers with status 404 (Not Found), without JSON-RPC: 404 page not found; is the path of the URL that of a JSON-RPC server?
}
