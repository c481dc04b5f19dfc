package rpcx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"example.com/rpcx"
)

// traceKey is the key of the caller's trace in a context.
type traceKey struct{}

// Each call carries the trace of its caller's context, beside the params. The handler,
// whose params are strict, reads the trace from its request.
func ExampleMeta() {
	traced := func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
		if trace, ok := ctx.Value(traceKey{}).(string); ok {
			c.SetMeta("traceparent", trace)
		}
		return ctx, nil, nil
	}
	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(ctx context.Context, a, b int) (int, error) {
		var trace string
		if raw := rpcx.RequestFromContext(ctx).Meta("traceparent"); raw != nil {
			if err := json.Unmarshal(raw, &trace); err != nil {
				return 0, rpcx.InvalidParams("traceparent is no string")
			}
		}
		fmt.Println("add within", trace)
		return a + b, nil
	}, "a", "b"))
	client, server := rpcx.Pipe(
		&rpcx.Options{Meta: rpcx.MCPMeta, OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){traced}},
		&rpcx.Options{Meta: rpcx.MCPMeta, Handler: router})
	defer server.Close()
	defer client.Close()

	ctx := context.WithValue(context.Background(), traceKey{}, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	fmt.Println(rpcx.Call[int](ctx, client, "add", map[string]int{"a": 1, "b": 2}))
	// Output:
	// add within 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
	// 3 <nil>
}

// A function of OnCall chooses a value for each call, and the RoundTripper finds the value in
// its context: a header of an HTTP request, for example.
func ExampleOutgoingCall_roundTripper() {
	type tenantKey struct{}
	addressed := func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
		tenant, _, _ := strings.Cut(c.Method, ".")
		return context.WithValue(ctx, tenantKey{}, tenant), nil, nil
	}
	post := roundTripFunc(func(ctx context.Context, msg []byte) ([]byte, error) {
		fmt.Println("X-Tenant:", ctx.Value(tenantKey{}))
		return []byte(`{"jsonrpc":"2.0","result":42,"id":0}`), nil
	})
	x := rpcx.NewExchange(post, &rpcx.Options{
		OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){addressed},
	})
	defer x.Close()

	fmt.Println(rpcx.Call[int](context.Background(), x, "acme.count", nil))
	// Output:
	// X-Tenant: acme
	// 42 <nil>
}

// A function of OnCall sees each call, and is told how the call ends.
func ExampleOutgoingCall() {
	logged := func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
		if c.Method == "shutdown" {
			return nil, nil, fmt.Errorf("this program may not call %q", c.Method)
		}
		fmt.Println("call", c.Method, c.Params)
		return ctx, func(err error) { fmt.Println("end of", c.Method, err) }, nil
	}
	router := rpcx.NewRouter()
	router.Handle("double", rpcx.Func(func(n int) int { return 2 * n }))
	client, server := rpcx.Pipe(
		&rpcx.Options{OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){logged}},
		&rpcx.Options{Handler: router})
	defer server.Close()
	defer client.Close()

	ctx := context.Background()
	fmt.Println(rpcx.Call[int](ctx, client, "double", rpcx.Args{21}))
	fmt.Println(client.Call(ctx, "halve", rpcx.Args{21}, nil))
	fmt.Println(client.Call(ctx, "shutdown", nil, nil))
	// Output:
	// call double [21]
	// end of double <nil>
	// 42 <nil>
	// call halve [21]
	// end of halve unknown method "halve" (code -32601)
	// unknown method "halve" (code -32601)
	// this program may not call "shutdown"
}

// A function of OnBatchCall sees each batch as a whole. The deadline that it sets is that
// of the batch.
func ExampleOptions_onBatchCall() {
	limited := func(ctx context.Context, s *rpcx.Session, b *rpcx.Batch) (context.Context, func(error)) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(b.Len())*time.Minute)
		fmt.Println("batch of", b.Len())
		return ctx, func(err error) {
			cancel()
			fmt.Println("end of the batch:", err)
		}
	}
	client, server := rpcx.Pipe(
		&rpcx.Options{OnBatchCall: []func(context.Context, *rpcx.Session, *rpcx.Batch) (context.Context, func(error)){limited}},
		&rpcx.Options{Handler: exampleMethods()})
	defer server.Close()
	defer client.Close()

	var b rpcx.Batch
	var sum float64
	b.Call("sum", rpcx.Args{1, 2}, &sum)
	b.Call("product", rpcx.Args{1, 2}, nil)
	_ = client.SendBatch(context.Background(), &b) // the function has seen the error
	fmt.Println(sum)
	// Output:
	// batch of 2
	// end of the batch: 1 of 2 batch requests failed, the first, number 2: unknown method "product" (code -32601)
	// 3
}

// The id of a call is that of the request and of the reply: so calls of one method can be
// told apart.
func ExampleTrace_calls() {
	trace := &rpcx.Trace{
		RequestSent: func(_ *rpcx.Session, method string, id rpcx.ID) { fmt.Println("request", id, method) },
		ReplyReceived: func(_ *rpcx.Session, method string, id rpcx.ID, err error, d time.Duration) {
			fmt.Println("reply", id, method, err, "within a minute:", d < time.Minute)
		},
	}
	client, server := rpcx.Pipe(&rpcx.Options{Trace: trace}, &rpcx.Options{Handler: exampleMethods()})
	defer server.Close()
	defer client.Close()
	for _, method := range []string{"sum", "product"} {
		_ = client.Call(context.Background(), method, rpcx.Args{1, 2}, nil)
	}
	// Output:
	// request 0 sum
	// reply 0 sum <nil> within a minute: true
	// request 1 product
	// reply 1 product unknown method "product" (code -32601) within a minute: true
}

// No handler sees a message that is wrong, or a request that is refused. A Trace does.
func ExampleTrace_refused() {
	trace := &rpcx.Trace{
		BadMessage: func(_ *rpcx.Session, err error) { fmt.Println("bad message:", err) },
		Refused: func(_ *rpcx.Session, method string, id rpcx.ID, e *rpcx.Error) {
			fmt.Println("refused:", method, id, e)
		},
	}
	gate := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
		return nil, rpcx.ReplyAndDisconnect(rpcx.Errorf(1, "log in first"))
	})
	here, there := net.Pipe()
	server := rpcx.NewSession(there, &rpcx.Options{Gate: gate, Handler: exampleMethods(), Trace: trace})
	go io.Copy(io.Discard, here) // the replies
	fmt.Fprintln(here, `{"method":"sum"`)
	fmt.Fprintln(here, `[{"jsonrpc":"2.0","method":"sum","id":1},{"jsonrpc":"2.0","method":"echo","id":2}]`)
	<-server.Done() // after the last call of trace
	// Output:
	// bad message: protocol error: invalid JSON (code -32700)
	// refused: echo 2 server busy - shutting down (code -102)
}

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

// The proxies of any Caller: here of one that answers from a table, as a test might.
func ExampleRemote() {
	shop := rpcx.Remote(tableCaller{"shop/price": "12.5"}).At("shop")
	var price float64
	err := shop.Call(context.Background(), &price, "price", "nut")
	fmt.Println(price, err)
	// Output: 12.5 <nil>
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
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
			return nil, notSent{err} // and may be sent again
		}
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		const limit = 1 << 20
		reply, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
		if err == nil && len(reply) > limit {
			err = errors.New("the reply is larger than 1 MiB")
		}
		if err == nil && res.StatusCode >= 300 && res.Header.Get("Content-Type") != "application/json" {
			err = errors.New("HTTP " + res.Status) // otherwise a notification would seem to have arrived
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
