package rpcx_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// A typed handler reaches the request that it handles, also in a batch, through derived
// contexts, and when its context is a real one.
func TestRequestFromContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var session *rpcx.Session
		seen := func(ctx context.Context) string {
			req := rpcx.RequestFromContext(ctx)
			if req == nil || req.Session() != session {
				return fmt.Sprintf("the request is %v", req)
			}
			return fmt.Sprintf("%s %s %s", req.Method, req.ID, []byte(req.Params.Positional)) // a RawMessage prints itself since Go 1.27
		}
		notified := make(chan string, 2)
		router := rpcx.NewRouter()
		router.Handle("direct", rpcx.Func(func(ctx context.Context, n int) (string, error) { return seen(ctx), nil }))
		router.Handle("reflected", rpcx.Func(func(ctx context.Context, n int8) string { return seen(ctx) }, "n"))
		router.Handle("derived", rpcx.Func(func(ctx context.Context, n int) (string, error) {
			type key struct{}
			ctx, cancel := context.WithCancel(context.WithValue(ctx, key{}, 1)) // which makes it a real one
			defer cancel()
			return seen(ctx), nil
		}))
		router.Handle("note", rpcx.Func(func(ctx context.Context) { notified <- seen(ctx) }))
		s, w := newWire(t, handling(router))
		session = s
		w.say(`{"jsonrpc":"2.0","method":"direct","params":[1],"id":"a"}`)
		w.expect(`{"jsonrpc":"2.0","result":"direct \"a\" [1]","id":"a"}`)
		w.say(`[{"jsonrpc":"2.0","method":"reflected","params":[2],"id":2},{"jsonrpc":"2.0","method":"derived","params":[3],"id":3},{"jsonrpc":"2.0","method":"note"}]`)
		w.expect(`[{"jsonrpc":"2.0","result":"reflected 2 [2]","id":2}, {"jsonrpc":"2.0","result":"derived 3 [3]","id":3}]`)
		if got := <-notified; got != "note  " {
			t.Errorf("a notification is %q", got)
		}
	})
}

func TestRequestFromAnotherContext(t *testing.T) {
	if req := rpcx.RequestFromContext(t.Context()); req != nil {
		t.Errorf("got %v", req)
	}
}
