package rpcx_test

import (
	"context"
	"fmt"

	"example.com/rpcx"
)

// An Ethereum node sends the headers of new blocks. The stream has the first header, however
// soon it follows the reply.
func ExampleSubscribe() {
	ctx := context.Background()
	node := rpcx.NewRouter()
	node.Handle("eth_subscribe", rpcx.Func(func(ctx context.Context, s *rpcx.Session, what string) (string, error) {
		rpcx.AfterReply(ctx, func(err error) {
			for number := 1; number <= 3 && err == nil; number++ {
				err = s.Notify(context.Background(), "eth_subscription", map[string]any{
					"subscription": "0x9cef", "result": map[string]any{"number": fmt.Sprintf("0x%x", number)},
				})
			}
		})
		return "0x9cef", nil
	}))
	node.Handle("eth_unsubscribe", rpcx.Func(func(ctx context.Context, id string) (bool, error) { return true, nil }))
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: node})
	defer server.Close()
	defer client.Close()

	type header struct{ Number string }
	headers, err := rpcx.Subscribe[header](ctx, client, rpcx.Subscription{
		Method: "eth_subscribe", Params: rpcx.Args{"newHeads"}, // the default form is that of Ethereum
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer headers.Close() // unsubscribes
	for h := range headers.Values() {
		fmt.Println("block", h.Number)
		if h.Number == "0x3" {
			break
		}
	}
	fmt.Println("dropped:", headers.Dropped(), "error:", headers.Err())
	// Output:
	// block 0x1
	// block 0x2
	// block 0x3
	// dropped: 0 error: <nil>
}

// A language server makes a token of its own, and reports progress for it. The client claims
// the token before it answers the request.
func ExampleStreamOf() {
	ctx := context.Background()
	progress := make(chan *rpcx.Stream[map[string]any], 1)
	editor := rpcx.NewRouter()
	editor.Handle("window/workDoneProgress/create", rpcx.Func(func(ctx context.Context, s *rpcx.Session, token string) error {
		st, err := rpcx.StreamOf[map[string]any](s, rpcx.LSPWorkDone, token)
		if err == nil {
			progress <- st
		}
		return err
	}, "token"))
	client, server := rpcx.Pipe(&rpcx.Options{Handler: editor, Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone}}, nil)
	defer server.Close()
	defer client.Close()

	go func() { // the language server
		_ = server.Call(ctx, "window/workDoneProgress/create", map[string]any{"token": "index"}, nil)
		for _, kind := range []string{"begin", "report", "end"} {
			_ = server.Notify(ctx, "$/progress", map[string]any{"token": "index", "value": map[string]any{"kind": kind}})
		}
	}()
	st := <-progress
	defer st.Close()
	for value := range st.Values() {
		fmt.Println(value["kind"])
		if value["kind"] == "end" {
			break
		}
	}
	// Output:
	// begin
	// report
	// end
}

// A handler reports progress by Progress, and the caller receives it by CallProgress.
func ExampleCallProgress() {
	ctx := context.Background()
	tools := rpcx.NewRouter()
	tools.Handle("tools/call", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		progress := rpcx.Progress(ctx)
		for i := 1; i <= 3; i++ {
			if err := progress(map[string]any{"progress": i, "total": 3}); err != nil {
				return nil, err
			}
		}
		return "all counted", nil
	}))
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: tools, Correlations: []*rpcx.Correlation{rpcx.MCPProgress}})
	defer server.Close()
	defer client.Close()

	type step struct{ Progress, Total int }
	result, err := rpcx.CallProgress[string](ctx, client, rpcx.MCPProgress, "tools/call", map[string]any{"name": "count"}, func(s step) {
		fmt.Printf("%d of %d\n", s.Progress, s.Total)
	})
	fmt.Println(result, err)
	// Output:
	// 1 of 3
	// 2 of 3
	// 3 of 3
	// all counted <nil>
}

// A request without a token wants no progress, and the handler need not care.
func ExampleProgress() {
	handler := rpcx.Func(func(ctx context.Context, path string) (string, error) {
		progress := rpcx.Progress(ctx)
		_ = progress("half of " + path)
		return "done", nil
	}, "path") // the token needs no parameter
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: handler, Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone}})
	defer server.Close()
	defer client.Close()

	fmt.Println(rpcx.Call[string](context.Background(), client, "build", map[string]any{"path": "a"}))
	fmt.Println(rpcx.CallProgress[string](context.Background(), client, rpcx.LSPWorkDone, "build", map[string]any{"path": "a"}, func(v string) {
		fmt.Println(v)
	}))
	// Output:
	// done <nil>
	// half of a
	// done <nil>
}

// With LSP a call can have two tokens. One is that of CallProgress; the program makes the
// other, and reads its stream.
func ExampleProgressOf() {
	handler := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		work, found := rpcx.ProgressOf(ctx, rpcx.LSPWorkDone), rpcx.ProgressOf(ctx, rpcx.LSPPartialResult)
		_ = work(map[string]any{"kind": "begin", "title": "searching"})
		_ = found([]string{"a.go", "b.go"})
		_ = work(map[string]any{"kind": "end"})
		return []string{}, nil
	})
	client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: handler})
	defer server.Close()
	defer client.Close()

	work, err := rpcx.StreamOf[map[string]any](client, rpcx.LSPWorkDone, "search-1")
	if err != nil {
		fmt.Println(err)
		return
	}
	params := map[string]any{"query": "x", "workDoneToken": "search-1"}
	rest, err := rpcx.CallProgress[[]string](context.Background(), client, rpcx.LSPPartialResult, "search", params, func(files []string) {
		fmt.Println("found", files)
	})
	fmt.Println("rest", rest, err)
	for value := range work.Values() {
		fmt.Println(value["kind"])
		if value["kind"] == "end" {
			break
		}
	}
	work.Close()
	_, err = work.Next(context.Background())
	fmt.Println(err)
	// Output:
	// found [a.go b.go]
	// rest [] <nil>
	// begin
	// end
	// rpcx: stream was closed
}
