package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/handler"
	"github.com/creachadair/jrpc2/jhttp"
	"github.com/ethereum/go-ethereum/rpc"
)

// httpServer is a server of ours over HTTP.
type httpServer struct {
	server
	url   string
	conns atomic.Int64 // connections that were made
}

// newHTTPServer serves the methods of server.router until the test ends.
func newHTTPServer(t *testing.T) *httpServer {
	t.Helper()
	s := &httpServer{server: server{notes: make(chan string, 10), hanging: make(chan struct{}, 10)}}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: s.router()}}
	s.url = s.serve(t, &rpchttp.Handler{Server: srv, Compress: 1000})
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	return s
}

// serve serves h until the test ends.
func (s *httpServer) serve(t *testing.T, h http.Handler) (url string) {
	web := httptest.NewUnstartedServer(h)
	web.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	web.Start()
	t.Cleanup(web.Close)
	return web.URL
}

// newHTTPClient returns a client of the default transport's kind, which closes with the test.
func newHTTPClient(t *testing.T) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// jrpc2's client over HTTP: calls with the values and the errors that a connection has,
// batches, notifications, many calls at once.
func TestHTTPClientOfJRPC2(t *testing.T) {
	ctx, s := testContext(t), newHTTPServer(t)
	client := jrpc2.NewClient(jhttp.NewChannel(s.url, &jhttp.ChannelOptions{Client: newHTTPClient(t)}), nil)
	defer client.Close()
	for _, value := range values {
		var got any
		err := client.CallResult(ctx, "echo", []any{value}, &got)
		want(t, "echo", got, err, value)
	}
	for _, args := range []any{[]float64{42, 23}, operands{23, 42}} {
		var got float64
		err := client.CallResult(ctx, "subtract", args, &got)
		want(t, "subtract", got, err, 19.0)
	}
	for method, code := range map[string]jrpc2.Code{"nothing": jrpc2.MethodNotFound, "refuse": 42, "fail": jrpc2.InternalError} {
		if _, err := client.Call(ctx, method, nil); jrpc2.ErrorCode(err) != code {
			t.Errorf("%s: %v, want code %d", method, err, code)
		}
	}
	responses, err := client.Batch(ctx, []jrpc2.Spec{
		{Method: "echo", Params: []string{"first"}},
		{Method: "note", Params: []string{"in a batch"}, Notify: true},
		{Method: "nothing"},
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
	want(t, "the batch", got, nil, []string{`"first"`, "-32601", `"last"`})
	receive(t, ctx, s.notes, "in a batch")
	if err := client.Notify(ctx, "note", []string{"alone"}); err != nil {
		t.Fatal(err)
	}
	receive(t, ctx, s.notes, "alone")
	var calls sync.WaitGroup
	for i := range 200 {
		calls.Go(func() {
			var got int
			err := client.CallResult(ctx, "echo", []int{i}, &got)
			want(t, "echo", got, err, i)
		})
	}
	calls.Wait()
}

// go-ethereum's client over HTTP: calls, errors, batches, many calls at once, the status of
// what is refused. (The client returns io.EOF for each notification, since it expects a
// reply.)
func TestHTTPClientOfGeth(t *testing.T) {
	ctx, s := testContext(t), newHTTPServer(t)
	client, err := rpc.DialOptions(ctx, s.url, rpc.WithHTTPClient(newHTTPClient(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, value := range values {
		var got any
		err := client.CallContext(ctx, &got, "echo", value)
		want(t, "echo", got, err, value)
	}
	for method, code := range map[string]int{"nothing": -32601, "refuse": 42, "fail": -32603} {
		var e rpc.Error
		if err := client.CallContext(ctx, nil, method); !errors.As(err, &e) || e.ErrorCode() != code {
			t.Errorf("%s: %v, want code %d", method, err, code)
		}
	}
	results := make([]int, 1000)
	batch := make([]rpc.BatchElem, len(results))
	for i := range batch {
		batch[i] = rpc.BatchElem{Method: "echo", Args: []any{i}, Result: &results[i]}
	}
	batch[500].Method = "nothing"
	if err := client.BatchCallContext(ctx, batch); err != nil {
		t.Fatal(err)
	}
	for i, elem := range batch {
		if failed := elem.Error != nil; failed != (i == 500) || !failed && results[i] != i {
			t.Fatalf("member %d: %d, %v", i, results[i], elem.Error)
		}
	}
	if err := client.Notify(ctx, "note", "alone"); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("notify: %v", err)
	}
	receive(t, ctx, s.notes, "alone")
	var calls sync.WaitGroup
	for i := range 200 {
		calls.Go(func() {
			var got int
			err := client.CallContext(ctx, &got, "echo", i)
			want(t, "echo", got, err, i)
		})
	}
	calls.Wait()
	var refused rpc.HTTPError
	if err := client.CallContext(ctx, nil, "echo", strings.Repeat("x", rpcx.DefaultMaxSize)); !errors.As(err, &refused) || refused.StatusCode != 413 {
		t.Errorf("a large message: %v", err)
	}
	hurried, cancel := context.WithCancel(ctx)
	// Owner: the test. End: the handler has begun.
	go func() { <-s.hanging; cancel() }()
	if err := client.CallContext(hurried, nil, "hang"); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that is given up: %v", err)
	}
}

// httpCases are the calls of a client of ours to a server that has the methods echo,
// subtract, refuse and note.
func httpCases(t *testing.T, ctx context.Context, c *rpchttp.Client, conns *atomic.Int64, notes <-chan string) {
	t.Helper()
	for _, value := range values {
		got, err := rpcx.Call[any](ctx, c, "test_echo", rpcx.Args{value})
		want(t, "echo", got, err, value)
	}
	got, err := rpcx.Call[float64](ctx, c, "test_subtract", rpcx.Args{42, 23})
	want(t, "subtract", got, err, 19.0)
	// On a busy machine, package net/http drops a connection whose write is reported over 50 ms
	// late.
	if n := conns.Load(); n > 3 {
		t.Errorf("%d connections for calls one at a time", n)
	}
	for method, want := range map[string]error{"test_nothing": rpcx.ErrMethodNotFound, "test_refuse": &rpcx.Error{Code: 42}} {
		if err := c.Call(ctx, method, nil, nil); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
	}
	if err := c.Notify(ctx, "test_note", rpcx.Args{"alone"}); err != nil {
		t.Errorf("notify: %v", err)
	}
	receive(t, ctx, notes, "alone")
	var b rpcx.Batch
	results := make([]int, 300)
	for i := range results {
		method := "test_echo"
		if i == 100 {
			method = "test_nothing"
		}
		b.Call(method, rpcx.Args{i}, &results[i])
	}
	b.Notify("test_note", rpcx.Args{"in a batch"})
	var failed *rpcx.BatchError
	if err := c.SendBatch(ctx, &b); !errors.As(err, &failed) {
		t.Fatalf("the batch: %v", err)
	}
	for i, err := range failed.Errs {
		if i == 100 && !errors.Is(err, rpcx.ErrMethodNotFound) || i != 100 && (err != nil || results[i] != i) {
			t.Fatalf("member %d: %d, %v", i, results[i], err)
		}
	}
	receive(t, ctx, notes, "in a batch")
	b = rpcx.Batch{}
	b.Notify("test_note", rpcx.Args{"with no call"})
	if err := c.SendBatch(ctx, &b); err != nil {
		t.Errorf("a batch of notifications: %v", err)
	}
	receive(t, ctx, notes, "with no call")
	futures := make([]*rpcx.Future, 300)
	for i := range futures {
		futures[i] = c.Go(ctx, "test_echo", rpcx.Args{i})
	}
	for i, f := range futures {
		var got int
		err := f.Wait(ctx, &got)
		want(t, "a future", got, err, i)
	}
}

// A client of ours and jrpc2's server over HTTP.
func TestHTTPServerOfJRPC2(t *testing.T) {
	ctx := testContext(t)
	notes := make(chan string, 10)
	bridge := jhttp.NewBridge(handler.Map{
		"test_echo":     handler.NewPos(func(_ context.Context, message json.RawMessage) json.RawMessage { return message }, "message"),
		"test_subtract": handler.NewPos(func(_ context.Context, a, b float64) float64 { return a - b }, "minuend", "subtrahend"),
		"test_refuse":   handler.New(func(context.Context) error { return jrpc2.Errorf(42, "refused") }),
		"test_note":     handler.NewPos(func(_ context.Context, text string) error { notes <- text; return nil }, "text"),
	}, nil)
	defer bridge.Close()
	s := new(httpServer)
	c, err := rpchttp.Dial(s.serve(t, bridge), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	httpCases(t, ctx, c, &s.conns, notes)
	named, err := rpcx.Call[float64](ctx, c, "test_subtract", operands{23, 42})
	want(t, "subtract by name", named, err, 19.0)
}

// gethMethods are the methods of go-ethereum's server, by the names test_….
type gethMethods struct{ notes chan string }

func (gethMethods) Echo(message *any) any { // a pointer, for null
	if message == nil {
		return nil
	}
	return *message
}

func (gethMethods) Subtract(a, b float64) float64 { return a - b }
func (gethMethods) Refuse() error                 { return gethError{} }
func (m gethMethods) Note(text string)            { m.notes <- text }

type gethError struct{}

func (gethError) Error() string  { return "refused" }
func (gethError) ErrorCode() int { return 42 }

// A client of ours and go-ethereum's server over HTTP.
func TestHTTPServerOfGeth(t *testing.T) {
	ctx := testContext(t)
	notes := make(chan string, 10)
	server := rpc.NewServer()
	defer server.Stop()
	if err := server.RegisterName("test", gethMethods{notes}); err != nil {
		t.Fatal(err)
	}
	s := new(httpServer)
	url := s.serve(t, server)
	c, err := rpchttp.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	httpCases(t, ctx, c, &s.conns, notes)

	// What the server refuses without JSON-RPC is an error with the status.
	d := rpchttp.Dialer{Header: http.Header{"Content-Type": {"text/plain"}}}
	wrong, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	var status *rpchttp.StatusError
	if err := wrong.Call(ctx, "test_echo", rpcx.Args{1}, nil); !errors.As(err, &status) || status.StatusCode != 415 {
		t.Errorf("text/plain: %v", err)
	}
}
