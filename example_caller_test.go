package rpcx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"example.com/rpcx"
)

// loggingCaller is a Caller that prints the calls it passes on.
type loggingCaller struct {
	rpcx.Caller
	prefix string
}

func (c loggingCaller) Call(ctx context.Context, method string, params, result any) error {
	err := c.Caller.Call(ctx, method, params, result)
	fmt.Printf("%s: %s: %v\n", c.prefix, method, err)
	return err
}

func (c loggingCaller) Go(ctx context.Context, method string, params any) *rpcx.Future {
	f := c.Caller.Go(ctx, method, params)
	f.OnDone(func(f *rpcx.Future) { fmt.Printf("%s: %s: %v\n", c.prefix, method, f.Err()) })
	return f
}

// A Caller around a session logs the calls of proxies and bound functions, too.
func ExampleCaller() {
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: exampleMethods()})
	defer server.Close()
	c := loggingCaller{client, "calls"}
	defer c.Close()
	ctx := context.Background()

	sum, err := rpcx.Call[float64](ctx, c, "sum", rpcx.Args{1, 2})
	fmt.Println(sum, err)

	err = rpcx.Remote(c).Call(ctx, nil, "unknown")
	fmt.Println(errors.Is(err, rpcx.ErrMethodNotFound))
	// Output:
	// calls: sum: <nil>
	// 3 <nil>
	// calls: unknown: unknown method "unknown" (code -32601)
	// true
}

// roundTripFunc is a RoundTripper that is a function.
type roundTripFunc func(ctx context.Context, msg []byte) ([]byte, error)

func (f roundTripFunc) RoundTrip(ctx context.Context, msg []byte) ([]byte, error) {
	return f(ctx, msg)
}

func (roundTripFunc) Close() error { return nil }

// A function that brings each message its reply becomes a Caller.
func ExampleRoundTripper() {
	echo := roundTripFunc(func(_ context.Context, msg []byte) ([]byte, error) {
		var m rpcx.Message
		rpcx.JSONRPCv2.Decode(&m, msg, 1)
		request := m.Items[0]
		return rpcx.JSONRPCv2.AppendResult(nil, request.ID, request.Params.Positional, nil)
	})
	x := rpcx.NewExchange(echo, nil)
	defer x.Close()

	words, err := rpcx.Call[[]string](context.Background(), x, "echo", rpcx.Args{"a", "b"})
	fmt.Println(words, err)
	// Output: [a b] <nil>
}

// notSent is a SentError: the peer has not received the message.
type notSent struct{ error }

func (notSent) Sent() bool { return false }

// Calls over HTTP, in the simplest form: each message is the body of a POST.
func ExampleNewExchange() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"jsonrpc":"2.0","result":3,"id":0}`)
	}))
	defer server.Close()

	post := func(ctx context.Context, msg []byte) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, "POST", server.URL, bytes.NewReader(msg))
		if err != nil {
			return nil, notSent{err}
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := server.Client().Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		const limit = 1 << 20
		reply, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
		if err == nil && len(reply) > limit {
			err = errors.New("the reply is larger than 1 MiB")
		}
		return reply, err
	}
	x := rpcx.NewExchange(roundTripFunc(post), nil)
	defer x.Close()

	var sum float64
	err := x.Call(context.Background(), "sum", rpcx.Args{1, 2}, &sum)
	fmt.Println(sum, err)
	// Output: 3 <nil>
}

// tableCaller is a Caller that answers calls from a table.
type tableCaller map[string]string

func (c tableCaller) answer(method string) (json.RawMessage, error) {
	result, ok := c[method]
	if !ok {
		return nil, rpcx.MethodNotFound(method)
	}
	return json.RawMessage(result), nil
}

func (c tableCaller) Go(ctx context.Context, method string, params any) *rpcx.Future {
	f, complete := rpcx.NewFuture()
	complete(c.answer(method)) // a Caller that waits would call complete later
	return f
}

func (c tableCaller) Call(ctx context.Context, method string, params, result any) error {
	return c.Go(ctx, method, params).Wait(ctx, result)
}

func (c tableCaller) Notify(ctx context.Context, method string, params any) error { return nil }

func (c tableCaller) SendBatch(ctx context.Context, b *rpcx.Batch) error {
	for call, complete := range b.Calls() {
		complete(c.answer(call.Method))
	}
	return b.Wait(ctx)
}

func (c tableCaller) Close() error { return nil }

// A Caller of a program's own carries calls itself, a test's stand-in for example.
func ExampleNewFuture() {
	c := tableCaller{"price": "12.5", "name": `"nut"`}
	price, err := rpcx.Call[float64](context.Background(), c, "price", nil)
	fmt.Println(price, err)
	// Output: 12.5 <nil>
}

// SendBatch of a Caller of a program's own: see the type tableCaller.
func ExampleBatch_Calls() {
	c := tableCaller{"price": "12.5", "name": `"nut"`}
	var b rpcx.Batch
	var name string
	b.Call("name", nil, &name)
	b.Call("weight", nil, nil)
	err := c.SendBatch(context.Background(), &b)
	fmt.Println(name)
	fmt.Println(err)
	// Output:
	// nut
	// 1 of 2 batch requests failed, the first, number 2: unknown method "weight" (code -32601)
}
