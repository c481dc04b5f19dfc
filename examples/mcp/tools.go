package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.com/rpcx"
)

// tool is a tool as tools/list shows it, with the function that does the work.
type tool struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	InputSchema object `json:"inputSchema"`

	run func(ctx context.Context, s *rpcx.Session, arguments json.RawMessage) (string, error)
}

// schema returns the JSON schema of arguments that are all required.
func schema(properties object, required ...string) object {
	return object{"type": "object", "properties": properties, "required": required}
}

func (srv *server) tools() []tool {
	return []tool{
		{"count", "Counts from 1 up to a number, and reports each number as progress.", schema(object{
			"to": object{"type": "integer", "minimum": 0, "maximum": maxCount},
		}, "to"), srv.count},
		{"write", "Writes a note. An existing note is replaced.", schema(object{
			"name": object{"type": "string", "minLength": 1},
			"text": object{"type": "string"},
		}, "name", "text"), srv.write},
	}
}

// listTools answers in one page.
func (srv *server) listTools() object { return object{"tools": srv.tools()} }

// toolCall is the params of tools/call.
type toolCall struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	Meta      struct {
		ProgressToken any `json:"progressToken"`
	} `json:"_meta,omitzero"`
}

// callTool runs a tool. The failure of a tool is a result, for the model to read.
func (srv *server) callTool(ctx context.Context, s *rpcx.Session, call toolCall) (object, error) {
	for _, tool := range srv.tools() {
		if tool.Name != call.Name {
			continue
		}
		srv.tell(s, "info", call.Name+" begins")
		text, err := tool.run(ctx, s, call.Arguments)
		if err == nil && call.Meta.ProgressToken != nil {
			waitForClient(ctx, s)
		}
		switch {
		case errors.Is(context.Cause(ctx), rpcx.ErrPeerCancelled):
			srv.tell(s, "notice", call.Name+" was cancelled")
			return nil, ctx.Err() // not answered
		case ctx.Err() != nil:
			return nil, ctx.Err() // the session has ended
		case err != nil:
			srv.tell(s, "warning", call.Name+" has failed")
			return result(err.Error(), true), nil
		}
		return result(text, false), nil
	}
	return nil, rpcx.InvalidParams("unknown tool %q", call.Name)
}

// result returns the result of a tool.
func result(text string, failed bool) object {
	return object{"content": []object{{"type": "text", "text": text}}, "isError": failed}
}

// waitForClient waits until the client has handled the progress of a call. The client in
// TypeScript handles replies at once, and notifications a moment later: progress that
// arrives together with the reply is lost. The client answers a ping after the progress
// before the ping. (A client without "ping" gets the result at once.)
func waitForClient(ctx context.Context, s *rpcx.Session) { _ = s.Call(ctx, "ping", nil, nil) }

// maxCount bounds the argument of the tool count.
const maxCount = 100_000

// count is the tool that takes its time. The progress leaves before the reply.
func (srv *server) count(ctx context.Context, _ *rpcx.Session, arguments json.RawMessage) (string, error) {
	var args struct{ To *int }
	if err := json.Unmarshal(arguments, &args); err != nil || args.To == nil || *args.To < 0 || *args.To > maxCount {
		return "", fmt.Errorf("count needs a number from 0 to %d: {\"to\": 3}", maxCount)
	}
	report := rpcx.Progress(ctx) // does nothing if the client has not asked for progress
	for n := 1; n <= *args.To; n++ {
		if err := sleep(ctx, srv.step); err != nil {
			return "", err
		}
		if err := report(object{"progress": n, "total": *args.To, "message": fmt.Sprintf("at %d", n)}); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("counted to %d", *args.To), nil
}

// sleep waits for d, or until the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
