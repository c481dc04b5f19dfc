package peers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

// mcpUpdates is how the news of a resource belong to a subscription: by the URI.
var mcpUpdates = &rpcx.Correlation{
	Methods:     []string{"notifications/resources/updated"},
	ID:          []string{"uri"},
	Token:       []string{"uri"},
	Unsubscribe: "resources/unsubscribe",
}

type (
	// mcpResult is the result of a tool, and mcpProgress what is told before.
	mcpResult struct {
		Content []struct{ Text string }
		IsError bool
	}
	mcpProgress struct {
		Progress, Total int
		Message         string
	}
)

func (r mcpResult) String() string {
	if len(r.Content) != 1 {
		return fmt.Sprintf("%d contents", len(r.Content))
	}
	return r.Content[0].Text
}

// mcpPeer is a server of the Model Context Protocol in a program of its own. The official
// library in TypeScript is the server.
type mcpPeer struct {
	*rpcx.Session
	cmd    *exec.Cmd
	logged chan string // what the server tells
	stray  chan string // notifications that no call and no stream has taken
}

func startMCP(t *testing.T) *mcpPeer {
	t.Helper()
	p := &mcpPeer{logged: make(chan string, 64), stray: make(chan string, 64)}
	router := rpcx.NewRouter()
	router.Handle("ping", rpcx.Func(func() struct{} { return struct{}{} }))
	router.Handle("notifications/message", rpcx.Func(func(m struct {
		Data string `json:"data"`
	}) {
		p.logged <- m.Data
	}))
	stray := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		p.stray <- req.Method + " " + string(req.Params.Named)
		return nil, nil
	})
	router.Handle("notifications/progress", stray)
	router.Handle("notifications/resources/updated", stray)
	router.Handle("notifications/tools/list_changed", rpcx.Func(func() {}))
	p.cmd = interoptest.Command(t, "node", "mcp_server.js")
	var err error
	p.Session, err = rpcx.Command(t.Context(), p.cmd, &rpcx.Options{
		Handler:             router,
		Cancellation:        rpcx.MCPCancellation,
		Correlations:        []*rpcx.Correlation{rpcx.MCPProgress, mcpUpdates},
		IgnoreUnknownParams: true,
		FirstID:             1, // the library takes 0 for no id
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := interopContext(t)
	var initialized struct{ ProtocolVersion string }
	err = p.Call(ctx, "initialize", object{
		"protocolVersion": "2025-11-25", "capabilities": object{}, "clientInfo": object{"name": "rpcx", "version": "1.0.0"},
	}, &initialized)
	if err != nil || initialized.ProtocolVersion != "2025-11-25" {
		t.Fatalf("initialize: %+v, %v", initialized, err)
	}
	if err := p.Notify(ctx, "notifications/initialized", nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// stop ends the server, and checks that it has ended well and sent nothing astray.
func (p *mcpPeer) stop(t *testing.T) {
	t.Helper()
	p.Close()
	<-p.Done()
	if !p.cmd.ProcessState.Success() {
		t.Errorf("the program: %v", p.cmd.ProcessState)
	}
	select {
	case notification := <-p.stray:
		t.Errorf("a handler received %s", notification)
	default:
	}
}

// tool calls a tool, and collects the numbers of the progress.
func (p *mcpPeer) tool(ctx context.Context, name string, args any, f func(mcpProgress)) (mcpResult, error) {
	return rpcx.CallProgress[mcpResult](ctx, p.Session, rpcx.MCPProgress, "tools/call", object{"name": name, "arguments": args}, f)
}

func (p *mcpPeer) call(t *testing.T, ctx context.Context, name string, args any) string {
	t.Helper()
	result, err := rpcx.Call[mcpResult](ctx, p.Session, "tools/call", object{"name": name, "arguments": args})
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return result.String()
}

// needMCP skips the test if the library is not installed.
func needMCP(t *testing.T) {
	t.Helper()
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('@modelcontextprotocol/sdk/server/mcp.js'); require('zod')")
}

// numbers returns 1, 2, … n.
func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i + 1
	}
	return list
}

func TestInteropMCPServer(t *testing.T) {
	noLeak(t)
	needMCP(t)
	p := startMCP(t)
	ctx := interopContext(t)

	// The server sends as fast as it can, and the reply with the last progress.
	t.Run("progress", func(t *testing.T) {
		for _, to := range []int{0, 1, 2, 3000} {
			var got []int
			result, err := p.tool(ctx, "count", object{"to": to}, func(m mcpProgress) {
				if m.Total != to || m.Message != fmt.Sprint("at ", m.Progress) {
					t.Errorf("progress %+v", m)
				}
				got = append(got, m.Progress) // on this goroutine
			})
			if result.String() != fmt.Sprint(to) || err != nil {
				t.Errorf("count to %d: %v, %v", to, result, err)
			}
			if !slices.Equal(got, numbers(to)) {
				t.Errorf("count to %d: %d values of progress: %v", to, len(got), got)
			}
		}
	})
	t.Run("many calls", func(t *testing.T) {
		for n := range 500 {
			var got []int
			if _, err := p.tool(ctx, "count", object{"to": 3}, func(m mcpProgress) { got = append(got, m.Progress) }); err != nil || len(got) != 3 {
				t.Fatalf("call %d: progress %v, %v", n, got, err)
			}
		}
	})
	t.Run("calls at once", func(t *testing.T) {
		var calls sync.WaitGroup
		for to := range 40 {
			calls.Go(func() {
				var got []int
				_, err := p.tool(ctx, "count", object{"to": to}, func(m mcpProgress) { got = append(got, m.Progress) })
				if err != nil || !slices.Equal(got, numbers(to)) {
					t.Errorf("count to %d: progress %v, %v", to, got, err)
				}
			})
		}
		calls.Wait()
	})
	// A slow reader pauses the server, and loses nothing.
	t.Run("a slow reader", func(t *testing.T) {
		var got []int
		pauses := p.Stats().Pauses
		result, err := p.tool(ctx, "count", object{"to": 20_000}, func(m mcpProgress) {
			for len(got) == 0 && p.Stats().Pauses == pauses && ctx.Err() == nil {
				runtime.Gosched()
			}
			got = append(got, m.Progress)
		})
		if err != nil || result.String() != "20000" || !slices.Equal(got, numbers(20_000)) {
			t.Errorf("%d values of progress, %v, %v", len(got), result, err)
		}
	})
	t.Run("progress after the reply", func(t *testing.T) {
		calls := 0
		result, err := p.tool(ctx, "late", object{}, func(mcpProgress) { calls++ })
		if result.String() != `"answered"` || err != nil {
			t.Errorf("%v, %v", result, err)
		}
		p.waitForLog(t, ctx, "late has ended") // the late progress is behind us
		if calls != 1 {
			t.Errorf("%d values of progress, want the one before the reply", calls)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(ctx)
		why := errors.New("seen enough")
		calls := 0
		_, err := p.tool(ctx, "hang", object{}, func(mcpProgress) {
			calls++
			cancel(why)
		})
		if !errors.Is(err, why) && !errors.Is(err, context.Canceled) || calls != 1 {
			t.Errorf("%v after %d values of progress", err, calls)
		}
		p.waitForLog(t, t.Context(), "hang was cancelled")
		if got := p.call(t, t.Context(), "cancellations", object{}); got != "1" {
			t.Errorf("the server knows of %s cancellations", got)
		}
	})
	t.Run("a call within a call", func(t *testing.T) {
		if got := p.call(t, ctx, "ask", object{}); got != `"the client is there"` {
			t.Errorf("the server asks the client: %s", got)
		}
	})
	t.Run("a failure", func(t *testing.T) {
		result, err := p.tool(ctx, "fail", object{}, func(mcpProgress) { t.Error("progress") })
		if err != nil || !result.IsError || result.String() != "it failed" {
			t.Errorf("%+v, %v", result, err)
		}
		_, err = rpcx.CallProgress[mcpResult](ctx, p.Session, rpcx.MCPProgress, "tools/nothing", nil, func(mcpProgress) { t.Error("progress") })
		if !errors.Is(err, rpcx.ErrMethodNotFound) {
			t.Errorf("an unknown method: %v", err)
		}
	})
	t.Run("subscriptions", func(t *testing.T) { mcpSubscriptions(t, ctx, p) })
	p.stop(t)
}

func (p *mcpPeer) waitForLog(t *testing.T, ctx context.Context, want string) {
	t.Helper()
	select {
	case got := <-p.logged:
		if got != want {
			t.Errorf("the server tells %q, want %q", got, want)
		}
	case <-ctx.Done():
		t.Errorf("the server does not tell %q", want)
	}
}

// mcpUpdate is the news of a resource. The server numbers all changes.
type mcpUpdate struct {
	URI  string `json:"uri"`
	Meta struct {
		Change int `json:"change"`
	} `json:"_meta"`
}

// change changes a resource, and returns the number of the first change.
func (p *mcpPeer) change(t *testing.T, ctx context.Context, uri string, times int) (first int) {
	t.Helper()
	first, err := strconv.Atoi(p.call(t, ctx, "change", object{"uri": uri, "times": times}))
	if err != nil {
		t.Error(err)
	}
	return first
}

func (p *mcpPeer) subscribe(t *testing.T, ctx context.Context, uri string) *rpcx.Stream[mcpUpdate] {
	t.Helper()
	stream, err := rpcx.Subscribe[mcpUpdate](ctx, p.Session, rpcx.Subscription{
		Method: "resources/subscribe", Params: object{"uri": uri}, Correlation: mcpUpdates,
	})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// expectUpdates checks that the next values of s are the changes from first on.
func expectUpdates(t *testing.T, ctx context.Context, s *rpcx.Stream[mcpUpdate], uri string, first, times int) {
	t.Helper()
	for n := range times {
		got, err := s.Next(ctx)
		if err != nil || got.URI != uri || got.Meta.Change != first+n {
			t.Fatalf("change %d of %s: %+v, %v", first+n, uri, got, err)
		}
	}
}

// mcpSubscriptions subscribes two resources. The server changes them in between.
func mcpSubscriptions(t *testing.T, ctx context.Context, p *mcpPeer) {
	const a, b = "note:///a", "note:///b"
	first, second := p.subscribe(t, ctx, a), p.subscribe(t, ctx, b)
	ofFirst, ofSecond := p.change(t, ctx, a, 200), p.change(t, ctx, b, 100)
	again := p.change(t, ctx, a, 50)
	expectUpdates(t, ctx, second, b, ofSecond, 100)
	expectUpdates(t, ctx, first, a, ofFirst, 200)
	expectUpdates(t, ctx, first, a, again, 50)
	if n := first.Dropped() + second.Dropped(); n != 0 {
		t.Errorf("%d updates were dropped", n)
	}
	first.Close()
	var left []string
	for !slices.Equal(left, []string{b}) && ctx.Err() == nil { // the unsubscribing call is on its way
		if err := json.Unmarshal([]byte(p.call(t, ctx, "subscriptions", object{})), &left); err != nil {
			t.Fatal(err)
		}
	}
	p.change(t, ctx, a, 3)
	expectUpdates(t, ctx, second, b, p.change(t, ctx, b, 1), 1)
	second.Close()

	// Each stream begins with the changes behind its own subscription, however many of the
	// stream before were left unread, or were on their way.
	for round := range 200 {
		stream := p.subscribe(t, ctx, a)
		change := p.change(t, ctx, a, round%7)
		expectUpdates(t, ctx, stream, a, change, round%7/2)
		stream.Close()
	}
}
