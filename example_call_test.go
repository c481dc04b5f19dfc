package rpcx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

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
