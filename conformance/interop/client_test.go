package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"example.com/rpcx"
	"github.com/creachadair/jrpc2"
)

// server is an rpcx server with one client: jrpc2's.
type server struct {
	client  *jrpc2.Client
	notes   chan string // notifications that the server has received
	news    chan string // notifications that the client has received
	hanging chan struct{}
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{notes: make(chan string, 10), news: make(chan string, 10), hanging: make(chan struct{}, 10)}
	conn := serve(t, rpcx.Options{Handler: s.router()})
	s.client = jrpc2.NewClient(lines(conn), &jrpc2.ClientOptions{
		OnNotify: func(req *jrpc2.Request) {
			var params []string
			if err := req.UnmarshalParams(&params); err != nil {
				params = []string{err.Error()}
			}
			s.news <- req.Method() + ": " + params[0]
		},
		OnCallback: func(_ context.Context, req *jrpc2.Request) (any, error) {
			if req.Method() != "double" {
				return nil, jrpc2.Errorf(7, "no").WithData([]string{"tired"})
			}
			var params [1]float64
			err := req.UnmarshalParams(&params)
			return 2 * params[0], err
		},
	})
	t.Cleanup(func() { s.client.Close() })
	return s
}

func (s *server) router() *rpcx.Router {
	router := rpcx.NewRouter()
	handle := func(method string, fn any, names ...string) { router.Handle(method, rpcx.Func(fn, names...)) }
	handle("echo", func(message json.RawMessage) json.RawMessage { return message }, "message")
	handle("subtract", func(minuend, subtrahend float64) float64 { return minuend - subtrahend }, "minuend", "subtrahend")
	handle("refuse", func() error {
		err := rpcx.Errorf(42, "refused: naïve")
		err.Data = []string{"tired"}
		return err
	})
	handle("fail", func() error { return errInside })
	handle("note", func(text string) { s.notes <- text })
	handle("tell", func(ctx context.Context, caller *rpcx.Session, text string) error {
		return caller.Notify(ctx, "news", rpcx.Args{text})
	})
	handle("call_back", func(ctx context.Context, caller *rpcx.Session, method string, number float64) (float64, error) {
		return rpcx.Call[float64](ctx, caller, method, rpcx.Args{number})
	})
	handle("hang", func(ctx context.Context) { s.hanging <- struct{}{}; <-ctx.Done() })
	handle("hangup", func(caller *rpcx.Session) { caller.Close() })
	return router
}

func TestClientCalls(t *testing.T) {
	ctx, client := testContext(t), newServer(t).client
	for _, value := range values {
		var got any
		err := client.CallResult(ctx, "echo", []any{value}, &got)
		want(t, "echo", got, err, value)
	}
	for _, args := range []any{[]float64{42, 23}, operands{23, 42}, map[string]int{"minuend": 42, "subtrahend": 23}} {
		var got float64
		err := client.CallResult(ctx, "subtract", args, &got)
		want(t, "subtract", got, err, 19.0)
	}
}

func TestClientErrors(t *testing.T) {
	ctx, client := testContext(t), newServer(t).client
	for _, test := range []struct {
		method string
		args   any
		want   jrpc2.Error
	}{
		{"nothing", nil, jrpc2.Error{Code: jrpc2.MethodNotFound, Message: `unknown method "nothing"`}},
		{"subtract", map[string]int{"minuend": 1}, jrpc2.Error{Code: jrpc2.InvalidParams}},
		{"subtract", []int{1, 2, 3}, jrpc2.Error{Code: jrpc2.InvalidParams}},
		{"subtract", []string{"1", "2"}, jrpc2.Error{Code: jrpc2.InvalidParams}},
		{"refuse", nil, jrpc2.Error{Code: 42, Message: "refused: naïve", Data: json.RawMessage(`["tired"]`)}},
		{"fail", nil, jrpc2.Error{Code: jrpc2.InternalError, Message: "internal server error"}},
	} {
		_, err := client.Call(ctx, test.method, test.args)
		var got *jrpc2.Error
		if !errors.As(err, &got) || got.Code != test.want.Code || string(got.Data) != string(test.want.Data) ||
			test.want.Message != "" && got.Message != test.want.Message {
			t.Errorf("%s(%v): got %v, want %v", test.method, test.args, err, test.want)
		}
	}
}

func TestClientPipelines(t *testing.T) {
	ctx, client := testContext(t), newServer(t).client
	var wg sync.WaitGroup
	for i := range pipelined {
		wg.Go(func() {
			var got int
			err := client.CallResult(ctx, "echo", []int{i}, &got)
			want(t, "echo", got, err, i)
		})
	}
	wg.Wait()
}

func TestClientBatches(t *testing.T) {
	ctx, s := testContext(t), newServer(t)
	responses, err := s.client.Batch(ctx, []jrpc2.Spec{
		{Method: "echo", Params: []string{"first"}},
		{Method: "note", Params: []string{"in a batch"}, Notify: true},
		{Method: "nothing"},
		{Method: "subtract", Params: operands{1, 3}},
		{Method: "refuse"},
		{Method: "nothing", Notify: true},
		{Method: "echo", Params: []string{"last"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, response := range responses {
		if err := response.Error(); err != nil {
			got = append(got, fmt.Sprint(int(err.Code)))
		} else {
			got = append(got, response.ResultString())
		}
	}
	want(t, "the batch", got, nil, []string{`"first"`, "-32601", "2", "42", `"last"`})
	receive(t, ctx, s.notes, "in a batch")
}

func TestClientNotifies(t *testing.T) {
	ctx, s := testContext(t), newServer(t)
	for _, method := range []string{"nothing", "refuse"} { // nobody is told that they fail
		if err := s.client.Notify(ctx, method, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.client.Notify(ctx, "note", []string{"alone"}); err != nil {
		t.Fatal(err)
	}
	receive(t, ctx, s.notes, "alone")
}

func TestClientIsNotifiedAndCalled(t *testing.T) {
	ctx, s := testContext(t), newServer(t)
	if _, err := s.client.Call(ctx, "tell", []string{"it rains"}); err != nil {
		t.Fatal(err)
	}
	receive(t, ctx, s.news, "news: it rains")

	var got float64
	err := s.client.CallResult(ctx, "call_back", []any{"double", 21}, &got)
	want(t, "call_back", got, err, 42.0)
	// The server hands the client's own error back to it.
	_, err = s.client.Call(ctx, "call_back", []any{"refuse", 1})
	var refused *jrpc2.Error
	if !errors.As(err, &refused) || refused.Code != 7 || refused.Message != "no" || string(refused.Data) != `["tired"]` {
		t.Errorf("got %v, want what the client refused with", err)
	}
}

func TestClientGivesUp(t *testing.T) {
	ctx, s := testContext(t), newServer(t)
	hurried, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-s.hanging
		cancel()
	}()
	if _, err := s.client.Call(hurried, "hang", nil); jrpc2.ErrorCode(err) != jrpc2.Cancelled {
		t.Errorf("got %v", err)
	}
	var got string
	err := s.client.CallResult(ctx, "echo", []string{"still there"}, &got)
	want(t, "the next call", got, err, "still there")
}

func TestClientLosesConnection(t *testing.T) {
	ctx, s := testContext(t), newServer(t)
	errs := make(chan error)
	for range cap(s.hanging) {
		go func() {
			_, err := s.client.Call(ctx, "hang", nil)
			errs <- err
		}()
	}
	for range cap(s.hanging) {
		<-s.hanging
	}
	if _, err := s.client.Call(ctx, "hangup", nil); err == nil {
		t.Error("answered after the connection was closed")
	}
	for range cap(s.hanging) {
		if err := <-errs; err == nil || ctx.Err() != nil {
			t.Errorf("a call that was pending ended with %v", err)
		}
	}
}
