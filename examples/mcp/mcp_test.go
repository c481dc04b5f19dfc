package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// client is the other end of a server in the same process.
type client struct {
	*rpcx.Session
	t      *testing.T
	state  *server
	server *rpcx.Session // the other end
	logs   chan string   // "level: text"
	lists  chan string   // the notifications without params
}

// connect runs a test with a client in a bubble. The session is not initialized.
func connect(t *testing.T, test func(ctx context.Context, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &client{t: t, state: newServer(time.Second, slog.New(slog.DiscardHandler)), logs: make(chan string, 64), lists: make(chan string, 64)}
		router := rpcx.NewRouter()
		router.Handle("ping", rpcx.Func(ping))
		router.Handle("notifications/message", rpcx.Func(func(m struct {
			Level string `json:"level"`
			Data  string `json:"data"`
		}) {
			c.logs <- m.Level + ": " + m.Data
		}))
		router.Handle("notifications/resources/list_changed", rpcx.Func(func() { c.lists <- "changed" }))
		c.Session, c.server = rpcx.Pipe(&rpcx.Options{
			Handler:             router,
			Cancellation:        rpcx.MCPCancellation,
			Correlations:        []*rpcx.Correlation{rpcx.MCPProgress, resourceUpdates},
			IgnoreUnknownParams: true,
		}, c.state.options())
		defer func() {
			c.Close()
			<-c.Done()
			<-c.server.Done()
		}()
		test(t.Context(), c)
	})
}

// initialized runs a test with a client that has initialized the session.
func initialized(t *testing.T, test func(ctx context.Context, c *client)) {
	t.Helper()
	connect(t, func(ctx context.Context, c *client) {
		c.initialize(ctx, versions[0])
		test(ctx, c)
	})
}

func (c *client) initialize(ctx context.Context, version string) (spoken string) {
	c.t.Helper()
	var result struct{ ProtocolVersion string }
	err := c.Call(ctx, "initialize", object{
		"protocolVersion": version, "capabilities": object{}, "clientInfo": object{"name": "test", "version": "1"},
	}, &result)
	if err != nil {
		c.t.Errorf("initialize: %v", err)
	}
	if err := c.Notify(ctx, "notifications/initialized", nil); err != nil {
		c.t.Error(err)
	}
	return result.ProtocolVersion
}

type toolResult struct {
	Content []struct{ Text string } `json:"content"`
	IsError bool                    `json:"isError"`
}

func (r toolResult) String() string {
	if len(r.Content) != 1 {
		return fmt.Sprintf("%d contents", len(r.Content))
	}
	if r.IsError {
		return "failed: " + r.Content[0].Text
	}
	return r.Content[0].Text
}

// tool calls a tool without progress.
func (c *client) tool(ctx context.Context, name string, arguments any) string {
	c.t.Helper()
	result, err := rpcx.Call[toolResult](ctx, c.Session, "tools/call", object{"name": name, "arguments": arguments})
	if err != nil {
		return err.Error()
	}
	return result.String()
}

// expectLogs checks which log messages have arrived.
func (c *client) expectLogs(want ...string) {
	c.t.Helper()
	synctest.Wait()
	var got []string
	for len(c.logs) > 0 {
		got = append(got, <-c.logs)
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("logs %q, want %q", got, want)
	}
}

func TestBeforeInitialize(t *testing.T) {
	connect(t, func(ctx context.Context, c *client) {
		if err := c.Call(ctx, "ping", nil, nil); err != nil {
			t.Errorf("ping: %v", err)
		}
		if err := c.Call(ctx, "tools/list", nil, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
			t.Errorf("tools/list: %v", err)
		}
		if got := c.initialize(ctx, "2025-06-18"); got != "2025-06-18" {
			t.Errorf("the version is %q", got)
		}
		if err := c.Call(ctx, "tools/list", nil, nil); err != nil {
			t.Errorf("tools/list: %v", err)
		}
		if err := c.Call(ctx, "initialize", nil, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
			t.Errorf("initialize again: %v", err)
		}
	})
	connect(t, func(ctx context.Context, c *client) {
		if got := c.initialize(ctx, "2024-10-07"); got != versions[0] {
			t.Errorf("for an old client, the version is %q", got)
		}
	})
}

func TestTools(t *testing.T) {
	initialized(t, func(ctx context.Context, c *client) {
		list, err := rpcx.Call[struct{ Tools []tool }](ctx, c.Session, "tools/list", nil)
		if err != nil || len(list.Tools) != 2 || list.Tools[0].Name != "count" {
			t.Errorf("tools %+v, %v", list, err)
		}
		for _, test := range []struct {
			name      string
			arguments any
			want      string
		}{
			{"count", object{"to": 2}, "counted to 2"},
			{"count", object{"to": -1}, `failed: count needs a number from 0 to 100000: {"to": 3}`},
			{"count", object{}, `failed: count needs a number from 0 to 100000: {"to": 3}`},
			{"write", object{"text": "bread"}, `failed: write needs a name and a text: {"name": "shopping", "text": "bread"}`},
			{"dance", object{}, `unknown tool "dance" (code -32602)`},
		} {
			if got := c.tool(ctx, test.name, test.arguments); got != test.want {
				t.Errorf("%s %v: %s, want %s", test.name, test.arguments, got, test.want)
			}
		}
	})
}

func TestProgress(t *testing.T) {
	initialized(t, func(ctx context.Context, c *client) {
		type progress struct {
			Progress, Total int
			Message         string
		}
		var got []progress
		start := time.Now()
		result, err := rpcx.CallProgress[toolResult](ctx, c.Session, rpcx.MCPProgress, "tools/call",
			object{"name": "count", "arguments": object{"to": 3}}, func(p progress) { got = append(got, p) })
		if err != nil || result.String() != "counted to 3" {
			t.Errorf("%v, %v", result, err)
		}
		if want := []progress{{1, 3, "at 1"}, {2, 3, "at 2"}, {3, 3, "at 3"}}; !slices.Equal(got, want) {
			t.Errorf("progress %v, want %v", got, want)
		}
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("count took %v", d)
		}
	})
}

func TestCancellation(t *testing.T) {
	initialized(t, func(ctx context.Context, c *client) {
		ctx, cancel := context.WithCancel(ctx)
		calls := 0
		_, err := rpcx.CallProgress[toolResult](ctx, c.Session, rpcx.MCPProgress, "tools/call",
			object{"name": "count", "arguments": object{"to": 1000}}, func(object) {
				if calls++; calls == 2 {
					cancel()
				}
			})
		if !errors.Is(err, context.Canceled) || calls != 2 {
			t.Errorf("%v after %d values of progress", err, calls)
		}
		c.expectLogs("info: count begins", "notice: count was cancelled")
		if n := c.server.Stats().Running; n != 0 {
			t.Errorf("%d handlers are running", n)
		}
	})
}

func TestLogging(t *testing.T) {
	initialized(t, func(ctx context.Context, c *client) {
		setLevel := func(level string) error { return c.Call(ctx, "logging/setLevel", object{"level": level}, nil) }
		c.tool(ctx, "count", object{"to": 0})
		c.expectLogs("info: count begins")
		if err := setLevel("warning"); err != nil {
			t.Error(err)
		}
		c.tool(ctx, "count", object{})
		c.expectLogs("warning: count has failed")
		if err := setLevel("error"); err != nil {
			t.Error(err)
		}
		c.tool(ctx, "count", object{})
		c.expectLogs()
		if err := setLevel("loud"); !errors.Is(err, rpcx.ErrInvalidParams) {
			t.Errorf("an unknown level: %v", err)
		}
	})
}

func TestResources(t *testing.T) {
	initialized(t, func(ctx context.Context, c *client) {
		type contents struct {
			Contents []struct{ URI, Text string }
		}
		c.tool(ctx, "write", object{"name": "shopping list", "text": "bread"})
		if got := <-c.lists; got != "changed" {
			t.Error(got)
		}
		const uri = "note:///shopping%20list"
		list, err := rpcx.Call[struct{ Resources []resource }](ctx, c.Session, "resources/list", nil)
		if err != nil || len(list.Resources) != 2 || list.Resources[0].URI != uri {
			t.Errorf("resources %v, %v", list, err)
		}
		read, err := rpcx.Call[contents](ctx, c.Session, "resources/read", object{"uri": uri})
		if err != nil || len(read.Contents) != 1 || read.Contents[0].Text != "bread" {
			t.Errorf("read %+v, %v", read, err)
		}
		for _, method := range []string{"resources/read", "resources/subscribe"} {
			err := c.Call(ctx, method, object{"uri": "note:///nothing"}, nil)
			var e *rpcx.Error
			if !errors.As(err, &e) || e.Code != codeNoResource {
				t.Errorf("%s of an unknown note: %v", method, err)
			}
		}
	})
}

func TestSubscriptions(t *testing.T) {
	initialized(t, func(ctx context.Context, c *client) {
		uri := noteURI("welcome")
		write := func(n int) {
			if got := c.tool(ctx, "write", object{"name": "welcome", "text": fmt.Sprint(n)}); got != "changed "+uri {
				t.Error(got)
			}
		}
		subscribe := func() *rpcx.Stream[resource] {
			t.Helper()
			stream, err := rpcx.Subscribe[resource](ctx, c.Session, rpcx.Subscription{
				Method: "resources/subscribe", Params: resource{uri}, Correlation: resourceUpdates,
			})
			if err != nil {
				t.Fatal(err)
			}
			return stream
		}
		write(0) // nobody hears of it
		stream := subscribe()
		for n := range 5 {
			write(n)
		}
		for range 5 {
			if got, err := stream.Next(ctx); got.URI != uri || err != nil {
				t.Errorf("%v, %v", got, err)
			}
		}
		stream.Close()
		synctest.Wait()
		if n := c.state.notes.updates.Stats().Subscribers; n != 0 {
			t.Errorf("%d subscriptions after Close", n)
		}
		write(6)
		stream = subscribe()
		write(7)
		if got, err := stream.Next(ctx); got.URI != uri || err != nil {
			t.Errorf("%v, %v", got, err)
		}
		// A client of another kind subscribes twice, and ends both by one call.
		for range 2 {
			if err := c.Call(ctx, "resources/subscribe", resource{uri}, nil); err != nil {
				t.Error(err)
			}
		}
		write(8)
		synctest.Wait()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if got, err := stream.Next(short); got.URI != uri || err != nil {
			t.Errorf("%v, %v", got, err)
		}
		if got, err := stream.Next(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one change is told twice: %v, %v", got, err)
		}
		stream.Close()
		stream = subscribe() // waits for the end of the other
		write(9)
		if got, err := stream.Next(ctx); got.URI != uri || err != nil {
			t.Errorf("%v, %v", got, err)
		}
		stream.Close()
	})
}

// The client may close the input while a tool is running: the program ends soon.
func TestInputEndsWhileAToolRuns(t *testing.T) {
	initialized(t, func(ctx context.Context, c *client) {
		call := c.Go(ctx, "tools/call", object{"name": "count", "arguments": object{"to": 1000}})
		synctest.Wait()
		start := time.Now()
		c.Close()
		<-c.server.Done()
		if d := time.Since(start); d > time.Second {
			t.Errorf("the server ended after %v", d)
		}
		if err := call.Err(); err == nil {
			t.Error("the call has succeeded")
		}
	})
}
