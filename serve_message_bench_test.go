package rpcx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
)

const sumRequest = `{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":1}`

func newSumServer() *rpcx.Server {
	r := rpcx.NewRouter()
	r.Handle("sum", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		return json.RawMessage(req.Params.Positional), nil
	}))
	return &rpcx.Server{Options: rpcx.Options{Handler: r}}
}

// BenchmarkServeMessage measures an exchange without HTTP.
func BenchmarkServeMessage(b *testing.B) {
	srv, msg := newSumServer(), []byte(sumRequest)
	b.ReportAllocs()
	for b.Loop() {
		if reply, err := srv.ServeMessage(context.Background(), nil, msg, nil); reply == nil || err != nil {
			b.Fatal(string(reply), err)
		}
	}
}

// BenchmarkServeMessageHTTP measures requests over loopback HTTP, one at a time. The three
// handlers take turns, so that other work on the machine concerns all alike. The metrics
// are medians: of a handler that echoes the request, of ServeMessage, and of a whole
// session for each request.
func BenchmarkServeMessageHTTP(b *testing.B) {
	handlers := []struct {
		name  string
		serve func(ctx context.Context, w io.Writer, body []byte)
	}{
		{"echo", func(_ context.Context, w io.Writer, body []byte) { w.Write(body) }},
		{"message", func() func(context.Context, io.Writer, []byte) {
			srv := newSumServer()
			return func(ctx context.Context, w io.Writer, body []byte) {
				reply, err := srv.ServeMessage(ctx, nil, body, nil)
				if err != nil {
					panic(err)
				}
				w.Write(reply)
			}
		}()},
		{"session", func() func(context.Context, io.Writer, []byte) {
			srv := newSumServer()
			return func(ctx context.Context, w io.Writer, body []byte) {
				conn := &oneMessage{msg: body, w: w, closed: make(chan struct{}), written: make(chan struct{})}
				<-srv.ServeMessageConn(conn).Done()
			}
		}()},
	}
	type target struct {
		url   string
		times []time.Duration
	}
	targets := make([]target, len(handlers))
	for i, h := range handlers {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			h.serve(r.Context(), w, body)
		}))
		defer srv.Close()
		targets[i].url = srv.URL
	}
	client := &http.Client{Transport: new(http.Transport)}
	defer client.CloseIdleConnections()
	for b.Loop() {
		for i := range targets {
			t := &targets[i]
			start := time.Now()
			resp, err := client.Post(t.url, "application/json", strings.NewReader(sumRequest))
			if err != nil {
				b.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			t.times = append(t.times, time.Since(start))
			if resp.StatusCode != 200 || len(body) == 0 {
				b.Fatal(resp.Status, string(body))
			}
		}
	}
	for i, t := range targets {
		slices.Sort(t.times)
		b.ReportMetric(float64(t.times[len(t.times)/2])/1e3, handlers[i].name+"-µs")
	}
}

// oneMessage is a connection that brings one message and takes one reply.
type oneMessage struct {
	msg     []byte
	w       io.Writer
	read    bool
	written chan struct{}
	closed  chan struct{}
}

func (c *oneMessage) ReadMessage() ([]byte, error) {
	if !c.read {
		c.read = true
		return c.msg, nil
	}
	select {
	case <-c.written:
	case <-c.closed:
	}
	return nil, io.EOF
}

func (c *oneMessage) WriteMessages(msgs [][]byte) error {
	_, err := c.w.Write(bytes.Join(msgs, nil))
	close(c.written)
	return err
}

func (c *oneMessage) Close() error {
	close(c.closed)
	return nil
}
