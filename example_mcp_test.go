package rpcx_test

import (
	"context"
	"encoding/json"
	"fmt"

	"example.com/rpcx"
)

// A server of the Model Context Protocol, and its client: a tool that tells how far it
// is, and is cancelled. Here both are joined by a Pipe. In a real program the client
// starts the server by Command, and the server is a session on Stdio.
func Example_mcp() {
	type object = map[string]any
	type call struct {
		Name string `json:"name"`
		Meta struct {
			ProgressToken any `json:"progressToken"`
		} `json:"_meta,omitzero"`
	}
	cancelled := make(chan error, 1)
	tools := rpcx.NewRouter()
	tools.Handle("initialize", rpcx.Func(func() object {
		return object{"protocolVersion": "2025-06-18", "capabilities": object{"tools": object{}}, "serverInfo": object{"name": "example", "version": "1"}}
	}, "...")) // the client says more than this server asks
	// Without a result the reply would be null, which clients take for an invalid message.
	tools.Handle("ping", rpcx.Func(func() struct{} { return struct{}{} }, "..."))
	tools.Handle("notifications/initialized", rpcx.Func(func() {}, "..."))
	tools.Handle("tools/list", rpcx.Func(func() object {
		return object{"tools": []object{{"name": "dig", "inputSchema": object{"type": "object"}}}}
	}, "..."))
	tools.Handle("tools/call", rpcx.Func(func(ctx context.Context, s *rpcx.Session, c call) (object, error) {
		if c.Name != "dig" {
			return nil, rpcx.InvalidParams("unknown tool: %s", c.Name)
		}
		err := s.Notify(ctx, "notifications/progress", object{"progressToken": c.Meta.ProgressToken, "progress": 1})
		if err != nil {
			return nil, err
		}
		<-ctx.Done() // it digs for ever
		cancelled <- context.Cause(ctx)
		return nil, ctx.Err()
	}, "..."))

	progress := make(chan string)
	client := rpcx.NewRouter()
	client.Handle("notifications/progress", rpcx.Func(func(p struct {
		ProgressToken string  `json:"progressToken"`
		Progress      float64 `json:"progress"`
	}) {
		progress <- fmt.Sprint(p.ProgressToken, " ", p.Progress)
	}, "..."))

	s, server := rpcx.Pipe(
		&rpcx.Options{Handler: client, Cancellation: rpcx.MCPCancellation},
		&rpcx.Options{Handler: tools, Cancellation: rpcx.MCPCancellation, Limits: rpcx.Limits{ProcessingTimeout: -1}})
	defer server.Close()
	defer s.Close()
	ctx := context.Background()
	err := s.Call(ctx, "initialize", object{"protocolVersion": "2025-06-18", "capabilities": object{}, "clientInfo": object{"name": "me"}}, nil)
	fmt.Println(err, s.Notify(ctx, "notifications/initialized", nil))
	pong, err := rpcx.Call[json.RawMessage](ctx, s, "ping", nil)
	fmt.Println(string(pong), err)
	f := s.Go(ctx, "tools/call", object{"name": "dig", "arguments": object{}, "_meta": object{"progressToken": "hole"}})
	fmt.Println(<-progress)
	f.Cancel()
	fmt.Println(f.Err())
	fmt.Println(<-cancelled)
	// Output:
	// <nil> <nil>
	// {} <nil>
	// hole 1
	// rpcx: call cancelled
	// rpcx: request cancelled by the peer
}
