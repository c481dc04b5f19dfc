package rpchttp_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// The two halves of the package understand each other.
func TestClientOfHandler(t *testing.T) {
	router := rpcx.NewRouter()
	for name, h := range map[string]any{
		"sum": func(a, b int) int { return a + b }, "fail": func() error { return rpcx.Errorf(7, "no") }, "note": func() {},
		"size": func(s string) int { return len(s) },
		"slow": func(ctx context.Context, s *rpcx.Session) (int, error) {
			for i := range 3 {
				if err := s.Notify(ctx, "progress", rpcx.Args{i + 1}); err != nil {
					return 0, err
				}
			}
			return 1, nil
		},
	} {
		router.Handle(name, rpcx.Func(h))
	}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	h := &rpchttp.Handler{Server: srv, SSE: true, Compress: 100, MaxSize: 200_000}
	s := httptest.NewServer(h)
	defer s.Close()
	notes := new(noteCollector)
	for _, compress := range []bool{false, true} {
		c := dialClient(t, rpchttp.Dialer{Compress: compress}, s.URL, &rpcx.Options{Handler: notes})
		checkClient(t, c)
		notes.got = nil
		if n, err := rpcx.Call[int](t.Context(), c, "slow", nil); n != 1 || err != nil || len(notes.got) != 3 {
			t.Errorf("slow: %d, %v, %q", n, err, notes.got)
		}
		if n, err := rpcx.Call[int](t.Context(), c, "size", rpcx.Args{strings.Repeat("x", 100_000)}); n != 100_000 || err != nil {
			t.Errorf("size: %d, %v", n, err)
		}
		err := c.Call(t.Context(), "size", rpcx.Args{strings.Repeat("x", 300_000)}, nil)
		if _, ok := errors.AsType[*rpcx.ConnectionError](err); err == nil || ok {
			t.Errorf("a message over Handler.MaxSize: %v", err)
		}
		var b rpcx.Batch
		var n int
		b.Call("slow", nil, nil)
		b.Call("sum", rpcx.Args{1, 2}, &n)
		if err := c.SendBatch(t.Context(), &b); err != nil || n != 3 {
			t.Errorf("a batch: %d, %v", n, err)
		}
	}
	srv.Close()
	c := dialClient(t, rpchttp.Dialer{Retries: -1}, s.URL, nil)
	err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
	if e, ok := errors.AsType[*rpcx.Error](err); !ok || !e.NotStarted() {
		t.Errorf("after the end: %v", err)
	}
}

// A batch whose call waited in vain for its notification is not sent again, since the
// notification was handled.
func TestClientRepeatsNoNotification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		noted := 0
		srv := newServer(methods{"note": func(context.Context, *rpcx.Request) (any, error) {
			noted++
			time.Sleep(time.Minute)
			return nil, nil
		}})
		srv.Options.Order = rpcx.Sequential
		srv.Options.Limits.ProcessingTimeout = 30 * time.Second
		w := newWeb(t, &rpchttp.Handler{Server: srv})
		web := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return w.dial(), nil }}}
		defer web.CloseIdleConnections()
		c := dialClient(t, rpchttp.Dialer{Client: &web}, "http://example.com", &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: -1}})
		var b rpcx.Batch
		b.Notify("note", nil)
		b.Call("echo", nil, nil)
		err := c.SendBatch(t.Context(), &b)
		if e, ok := errors.AsType[*rpcx.Error](err); !ok || !e.NotStarted() {
			t.Errorf("the error is %v", err)
		}
		if noted != 1 {
			t.Errorf("the notification was handled %d times", noted)
		}
	})
}
