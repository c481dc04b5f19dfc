package interop

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"example.com/rpcx"
	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/handler"
)

// client is an rpcx session, its server jrpc2's.
type client struct {
	*rpcx.Session
	server  *jrpc2.Server
	notes   chan string // notifications that the server has received
	news    chan string // notifications that the client has received
	hanging chan struct{}
}

func newClient(t *testing.T) *client {
	t.Helper()
	c := &client{notes: make(chan string, 10), news: make(chan string, 10), hanging: make(chan struct{}, 10)}
	router := rpcx.NewRouter()
	router.Handle("news", rpcx.Func(func(text string) { c.news <- text }))
	router.Handle("double", rpcx.Func(func(number float64) float64 { return 2 * number }))
	router.Handle("refuse", rpcx.Func(func(float64) error { return rpcx.Errorf(7, "no") }))

	var conn net.Conn
	c.Session, conn = dial(t, rpcx.Options{Handler: router})
	c.server = jrpc2.NewServer(c.methods(), &jrpc2.ServerOptions{AllowPush: true, Concurrency: 20}).Start(lines(conn))
	t.Cleanup(func() {
		c.server.Stop()
		c.server.Wait()
	})
	return c
}

func (c *client) methods() handler.Map {
	return handler.Map{
		"echo":     handler.NewPos(func(_ context.Context, message json.RawMessage) json.RawMessage { return message }, "message"),
		"subtract": handler.NewPos(func(_ context.Context, a, b float64) float64 { return a - b }, "minuend", "subtrahend"),
		"refuse":   handler.New(func(context.Context) error { return jrpc2.Errorf(42, "refused: naïve").WithData([]string{"tired"}) }),
		"fail":     handler.New(func(context.Context) error { return errInside }),
		"note":     handler.NewPos(func(_ context.Context, text string) error { c.notes <- text; return nil }, "text"),
		"tell": handler.NewPos(func(ctx context.Context, text string) error {
			return jrpc2.ServerFromContext(ctx).Notify(ctx, "news", []string{text})
		}, "text"),
		"call_back": handler.NewPos(func(ctx context.Context, method string, number float64) (result float64, err error) {
			response, err := jrpc2.ServerFromContext(ctx).Callback(ctx, method, []float64{number})
			if err == nil {
				err = response.UnmarshalResult(&result)
			}
			return result, err
		}, "method", "number"),
		"hang": handler.New(func(ctx context.Context) error {
			c.hanging <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}),
	}
}

func TestServerIsCalled(t *testing.T) {
	ctx, c := testContext(t), newClient(t)
	for _, value := range values {
		got, err := rpcx.Call[any](ctx, c.Session, "echo", rpcx.Args{value})
		want(t, "echo", got, err, value)
	}
	for _, args := range []any{rpcx.Args{42, 23}, operands{23, 42}, map[string]int{"minuend": 42, "subtrahend": 23}} {
		got, err := rpcx.Call[float64](ctx, c.Session, "subtract", args)
		want(t, "subtract", got, err, 19.0)
	}
	info, err := rpcx.Call[jrpc2.ServerInfo](ctx, c.Session, "rpc.serverInfo", nil)
	want(t, "the server's methods", info.Methods, err, c.methods().Names())
}

func TestServerErrors(t *testing.T) {
	ctx, c := testContext(t), newClient(t)
	for _, test := range []struct {
		method string
		args   any
		want   rpcx.Error
	}{
		{"nothing", nil, rpcx.Error{Code: rpcx.CodeMethodNotFound}},
		{"subtract", rpcx.Args{1, 2, 3}, rpcx.Error{Code: rpcx.CodeInvalidParams}},
		{"subtract", rpcx.Args{"1", "2"}, rpcx.Error{Code: rpcx.CodeInvalidParams}},
		{"refuse", nil, rpcx.Error{Code: 42, Message: "refused: naïve", Data: json.RawMessage(`["tired"]`)}},
		{"fail", nil, rpcx.Error{Code: int(jrpc2.SystemError), Message: errInside.Error()}},
	} {
		err := c.Call(ctx, test.method, test.args, nil)
		var got *rpcx.Error
		if !errors.As(err, &got) || got.Code != test.want.Code || test.want.Message != "" && got.Message != test.want.Message {
			t.Errorf("%s(%v): got %v, want %v", test.method, test.args, err, test.want)
			continue
		}
		if test.want.Data != nil {
			want(t, "the error's data", got.Data, nil, test.want.Data)
		}
	}
}

func TestServerPipelined(t *testing.T) {
	ctx, c := testContext(t), newClient(t)
	calls := make([]*rpcx.Future, pipelined)
	for i := range calls {
		calls[i] = c.Go(ctx, "echo", rpcx.Args{i})
	}
	for i, call := range calls {
		var got int
		err := call.Wait(ctx, &got)
		want(t, "echo", got, err, i)
	}
}

func TestServerBatches(t *testing.T) {
	ctx, c := testContext(t), newClient(t)
	var first, last string
	var difference float64
	var b rpcx.Batch
	b.Call("echo", rpcx.Args{"first"}, &first)
	b.Notify("note", rpcx.Args{"in a batch"})
	b.Call("nothing", nil, nil)
	b.Call("subtract", operands{1, 3}, &difference)
	b.Call("refuse", nil, nil)
	b.Notify("nothing", nil)
	b.Call("echo", rpcx.Args{"last"}, &last)

	var failed *rpcx.BatchError
	if err := c.SendBatch(ctx, &b); !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	errs := []error{nil, rpcx.ErrMethodNotFound, nil, &rpcx.Error{Code: 42}, nil}
	if !slices.EqualFunc(failed.Errs, errs, errors.Is) {
		t.Errorf("got the errors %v", failed.Errs)
	}
	want(t, "the results", []any{first, difference, last}, nil, []any{"first", 2.0, "last"})
	receive(t, ctx, c.notes, "in a batch")

	b = rpcx.Batch{}
	b.Notify("note", rpcx.Args{"with no call"})
	if err := c.SendBatch(ctx, &b); err != nil {
		t.Fatal(err)
	}
	receive(t, ctx, c.notes, "with no call")
}

func TestServerIsNotified(t *testing.T) {
	ctx, c := testContext(t), newClient(t)
	if err := c.Notify(ctx, "note", rpcx.Args{"alone"}); err != nil {
		t.Fatal(err)
	}
	receive(t, ctx, c.notes, "alone")
}

func TestServerNotifiesAndCalls(t *testing.T) {
	ctx, c := testContext(t), newClient(t)
	if err := c.Call(ctx, "tell", rpcx.Args{"it rains"}, nil); err != nil {
		t.Fatal(err)
	}
	receive(t, ctx, c.news, "it rains")

	got, err := rpcx.Call[float64](ctx, c.Session, "call_back", rpcx.Args{"double", 21})
	want(t, "call_back", got, err, 42.0)
	// The server hands our own errors back to us.
	for method, want := range map[string]error{"refuse": &rpcx.Error{Code: 7}, "nothing": rpcx.ErrMethodNotFound} {
		if err := c.Call(ctx, "call_back", rpcx.Args{method, 1}, nil); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", method, err, want)
		}
	}
}

func TestServerStops(t *testing.T) {
	ctx, c := testContext(t), newClient(t)
	var calls []*rpcx.Future
	for range cap(c.hanging) {
		calls = append(calls, c.Go(ctx, "hang", nil))
	}
	for range calls {
		<-c.hanging
	}
	c.server.Stop()
	for _, call := range calls {
		var lost *rpcx.ConnectionError
		if err := call.Wait(ctx, nil); !errors.Is(err, rpcx.ErrConnectionLost) || !errors.As(err, &lost) || !lost.Written {
			t.Errorf("got %v, want that the connection was lost after the request was written", err)
		}
	}
	select {
	case <-c.Done():
		want(t, "why the session ended", c.Err(), nil, io.EOF)
	case <-ctx.Done():
		t.Error("the session goes on")
	}
}
