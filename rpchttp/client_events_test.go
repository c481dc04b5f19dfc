package rpchttp_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// eventStream answers with a stream of events.
func eventStream(parts ...string) func(http.ResponseWriter, webRequest, int) {
	return func(w http.ResponseWriter, _ webRequest, _ int) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		for _, part := range parts {
			io.WriteString(w, part)
			w.(http.Flusher).Flush()
		}
	}
}

// progressEvent is an event with a notification.
func progressEvent(n int) string {
	return fmt.Sprintf("data: {\"jsonrpc\":\"2.0\",\"method\":\"progress\",\"params\":[%d]}\n\n", n)
}

// noteCollector is an Options.Handler that collects notifications.
type noteCollector struct{ got []string }

func (c *noteCollector) ServeRPC(_ context.Context, req *rpcx.Request) (any, error) {
	c.got = append(c.got, req.Method+" "+string(req.Params.Positional))
	return nil, nil
}

// A reply may come as events: notifications, which go to the handler in order, and then the
// responses.
func TestClientEvents(t *testing.T) {
	const second = `{"jsonrpc":"2.0","result":2,"id":1}`
	for _, test := range []struct {
		sentence string
		parts    []string
		want     string // the results or the error
		notes    int
	}{
		{"a response alone", []string{"data: " + replyOne + "\n\n"}, "1", 0},
		{"progress before", []string{progressEvent(1), progressEvent(2), "data: " + replyOne + "\n\n"}, "1", 2},
		{"in one write", []string{progressEvent(1) + progressEvent(2) + "data: " + replyOne + "\n\n"}, "1", 2},
		{"all fields", []string{"\ufeff: comment\nid: 7\nretry: 10\nevent: message\ndata:" + replyOne + "\n\n"}, "1", 0},
		{"a response of several lines", []string{"data: {\"jsonrpc\":\"2.0\",\ndata: \"result\":1,\ndata:\ndata: \"id\":0}\n\n"}, "1", 0},
		{"lines that end in CR LF", []string{": x\r\n\r", "\ndata: ", replyOne, "\r\n", "\r\n"}, "1", 0},
		{"lines that end in CR", []string{"data: " + replyOne + "\r\r"}, "1", 0},
		{"events of other types", []string{"event: ping\ndata: x\n\n", "event: endpoint\ndata: /x\n\n", "data: " + replyOne + "\n\n"}, "1", 0},
		{"an empty event", []string{"\n\n\nevent: message\n\n", "data: " + replyOne + "\n\n"}, "1", 0},
		{"what comes after the response is not read", []string{"data: " + replyOne + "\n\n", progressEvent(9)}, "1", 0},
		{"a request is dropped", []string{"data: {\"jsonrpc\":\"2.0\",\"method\":\"ask\",\"id\":5}\n\n", "data: " + replyOne + "\n\n"}, "1", 0},
		{"another id", []string{"data: " + second + "\n\n"}, "protocol error: response to unsent request (ID: 1) (code -32600)", 0},
		{"an error without an id", []string{"data: {\"jsonrpc\":\"2.0\",\"error\":{\"code\":7,\"message\":\"no\"},\"id\":null}\n\n"}, "no (code 7)", 0},
		{"no JSON", []string{"data: x\n\n"}, "protocol error: invalid JSON (code -32700)", 0},
		{"no response", []string{progressEvent(1)}, "rpcx: no response to the call", 1},
		{"nothing", nil, "rpcx: no response to the call", 0},
		{"an incomplete event", []string{"data: " + replyOne + "\n"}, "rpcx: no response to the call", 0},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			s := startWebServer(t, eventStream(test.parts...))
			notes := new(noteCollector)
			c := dialClient(t, rpchttp.Dialer{}, s.URL, &rpcx.Options{Handler: notes})
			got, err := rpcx.Call[int](t.Context(), c, "m", nil)
			text := fmt.Sprint(got)
			if err != nil {
				text = err.Error()
			}
			if text != test.want || len(notes.got) != test.notes {
				t.Errorf("got %s after %q, want %s", text, notes.got, test.want)
			}
			for i, note := range notes.got {
				if note != fmt.Sprintf("progress [%d]", i+1) {
					t.Errorf("notification %d is %s", i+1, note)
				}
			}
			if accept := s.seen()[0].Header.Get("Accept"); accept != "application/json, text/event-stream" {
				t.Errorf("Accept is %s", accept)
			}
		})
	}
}

// The responses to a batch may come one by one or together.
func TestClientEventsOfBatches(t *testing.T) {
	const a, b, c = `{"jsonrpc":"2.0","result":1,"id":0}`, `{"jsonrpc":"2.0","result":2,"id":1}`, `{"jsonrpc":"2.0","result":3,"id":2}`
	for _, parts := range [][]string{
		{"data: [" + a + "," + b + "," + c + "]\n\n"},
		{"data: " + c + "\n\n", "data: " + b + "\n\n", "data: " + a + "\n\n"},
		{"data: [ " + c + "," + b + " ]\n\n", progressEvent(1), "data: " + a + "\n\n"},
		{"data: " + c + "\n\n", "data: [" + a + "]\n\n", "data: [" + b + "]\n\n"},
	} {
		s := startWebServer(t, eventStream(parts...))
		client := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
		var batch rpcx.Batch
		var results [3]int
		for i := range results {
			batch.Call("m", nil, &results[i])
			batch.Notify("n", nil)
		}
		if err := client.SendBatch(t.Context(), &batch); err != nil || results != [3]int{1, 2, 3} {
			t.Errorf("%q: %v, %v", parts, results, err)
		}
	}
}

// The events are the same however the stream comes in pieces.
func TestClientEventsInPieces(t *testing.T) {
	stream := "\ufeff: comment\r\n\r\n" + progressEvent(1) + "event: ping\rdata: x\r\r" + strings.ReplaceAll(progressEvent(2), "\n", "\r\n") +
		strings.ReplaceAll(progressEvent(3), "\n", "\r") + "data: {\"jsonrpc\":\"2.0\",\r\ndata: \"result\":1,\"id\":0}\r\n\r\n"
	for size := range len(stream) {
		client := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			r := strings.NewReader(stream)
			return &http.Response{
				StatusCode: 200, Header: http.Header{"Content-Type": {"text/event-stream"}},
				Body: io.NopCloser(readerFunc(func(p []byte) (int, error) { return r.Read(p[:min(len(p), size+1)]) })),
			}, nil
		})}
		notes := new(noteCollector)
		c := dialClient(t, rpchttp.Dialer{Client: client}, "http://a/", &rpcx.Options{Handler: notes})
		if n, err := rpcx.Call[int](t.Context(), c, "m", nil); n != 1 || err != nil || len(notes.got) != 3 {
			t.Errorf("in pieces of %d bytes: %d, %v, %q", size+1, n, err, notes.got)
		}
	}
}

// readerFunc is an io.Reader that is a function.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Events with a notification as the message: nothing is missing.
func TestClientEventsAfterNotification(t *testing.T) {
	s := startWebServer(t, eventStream(progressEvent(1)))
	notes := new(noteCollector)
	c := dialClient(t, rpchttp.Dialer{}, s.URL, &rpcx.Options{Handler: notes})
	if err := c.Notify(t.Context(), "n", nil); err != nil || len(notes.got) != 1 {
		t.Errorf("%q, %v", notes.got, err)
	}
}

// Limits of the size: an event, and all responses together.
func TestClientEventsSize(t *testing.T) {
	const limit = 1000
	fill := func(n int) string { return strings.Repeat(" ", n) }
	var many []string
	for range 100 {
		many = append(many, progressEvent(1)+": "+fill(500)+"\n")
	}
	half := "data: " + strings.Replace(replyOne, "0}", "1}", 1) + fill(limit/2) + "\n\n"
	for _, test := range []struct {
		sentence string
		parts    []string
		ok       bool
	}{
		{"at the limit", []string{"data: " + paddedReply(limit) + "\n\n"}, true},
		{"over the limit", []string{"data: " + paddedReply(limit+1) + "\n\n"}, false},
		{"over the limit by lines", []string{"data: " + paddedReply(limit) + "\ndata: \n\n"}, false},
		{"a line without end", []string{"data: ", strings.Repeat("x", 5000)}, false},
		{"a comment without end", []string{": ", strings.Repeat("x", 5000)}, false},
		{"a stream of more than the limit", append(many, "data: "+replyOne+"\n\n"), true},
		{"compressed", nil, true},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			s := startWebServer(t, func(w http.ResponseWriter, r webRequest, n int) {
				if test.parts == nil {
					w.Header().Set("Content-Encoding", "gzip")
					test.parts = []string{gzipText(strings.Join(many, "") + "data: " + replyOne + "\n\n")}
				}
				eventStream(test.parts...)(w, r, n)
			})
			c := dialClient(t, rpchttp.Dialer{MaxSize: limit}, s.URL, &rpcx.Options{Handler: new(noteCollector)})
			err := c.Call(t.Context(), "m", nil, nil)
			if _, tooLarge := errors.AsType[*rpcx.SizeError](err); tooLarge == test.ok || (err == nil) != test.ok {
				t.Errorf("the error is %v", err)
			}
		})
	}
	s := startWebServer(t, eventStream(half, half, half))
	c := dialClient(t, rpchttp.Dialer{MaxSize: limit}, s.URL, nil)
	var b rpcx.Batch
	for range 4 {
		b.Call("m", nil, nil)
	}
	if _, tooLarge := errors.AsType[*rpcx.SizeError](c.SendBatch(t.Context(), &b)); !tooLarge {
		t.Error("responses over the limit were collected")
	}
}

// The connection of a stream is used again, if the server ends the stream soon after the
// response. The call does not wait for longer.
func TestClientEventsUseConnectionsAgain(t *testing.T) {
	for _, test := range []struct {
		pause time.Duration // between the response and the end of the stream
		took  time.Duration // of each call
		conns int32
	}{{0, 0, 1}, {10 * time.Millisecond, 10 * time.Millisecond, 1}, {time.Hour, 20 * time.Millisecond, 3}} {
		synctest.Test(t, func(t *testing.T) {
			var requests atomic.Int32
			n := &testNet{t: t, serve: func(conn net.Conn, _ int) {
				for r := bufio.NewReader(conn); ; {
					if _, err := readRequest(r); err != nil {
						return
					}
					event := fmt.Sprintf("data: {\"jsonrpc\":\"2.0\",\"result\":1,\"id\":%d}\n\n", requests.Add(1)-1)
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event)
					if test.pause == time.Hour {
						io.Copy(io.Discard, r) // until the client hangs up
						return
					}
					time.Sleep(test.pause)
					io.WriteString(conn, "0\r\n\r\n")
				}
			}}
			client := n.client()
			c := dialClient(t, rpchttp.Dialer{Client: client}, "http://a/", &rpcx.Options{Handler: new(noteCollector)})
			for range 3 {
				start := time.Now()
				if err := c.Call(t.Context(), "m", nil, nil); err != nil || time.Since(start) != test.took {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
			}
			if conns := n.conns.Load(); conns != test.conns {
				t.Errorf("a pause of %v: %d connections", test.pause, conns)
			}
			client.CloseIdleConnections()
			n.wg.Wait()
		})
	}
}

// A stream that breaks off is an error, and the call may have been carried out.
func TestClientEventsBreakOff(t *testing.T) {
	s := startWebServer(t, func(w http.ResponseWriter, r webRequest, n int) {
		eventStream(progressEvent(1))(w, r, n)
		panic(http.ErrAbortHandler)
	})
	c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
	err := c.Call(t.Context(), "m", nil, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || !e.Written || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the error is %v", err)
	}
	s.wantSeen(t, 1, 1)
}

// The handler has the context of the call, inside the middleware. What fails is logged.
func TestClientEventsHandler(t *testing.T) {
	var log bytes.Buffer
	var got []string
	type key struct{}
	wrap := func(name string) func(rpcx.Handler) rpcx.Handler {
		return func(next rpcx.Handler) rpcx.Handler {
			return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
				got = append(got, name)
				return next.ServeRPC(ctx, req)
			})
		}
	}
	router := rpcx.NewRouter()
	router.Handle("progress", rpcx.Func(func(ctx context.Context, n int) error {
		got = append(got, fmt.Sprint(ctx.Value(key{}), n))
		if n == 2 {
			panic("ouch")
		}
		return nil
	}))
	s := startWebServer(t, eventStream(progressEvent(1), progressEvent(2), strings.Replace(progressEvent(3), "progress", "other", 1),
		"data: {\"jsonrpc\":\"2.0\",\"method\":\"ask\",\"id\":5}\n\n", "data: "+replyOne+"\n\n"))
	c := dialClient(t, rpchttp.Dialer{}, s.URL, &rpcx.Options{
		Handler: router, Middleware: []func(rpcx.Handler) rpcx.Handler{wrap("outer"), wrap("inner")},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err := c.Call(context.WithValue(t.Context(), key{}, "mine"), "m", nil, nil); err != nil {
		t.Fatal(err)
	}
	if want := []string{"outer", "inner", "mine1", "outer", "inner", "mine2", "outer", "inner"}; !slices.Equal(got, want) {
		t.Errorf("called were %q", got)
	}
	for _, want := range []string{`msg="handler panicked" method=progress error=ouch`, `msg="notification failed" method=other`,
		`msg="request in server-sent events dropped: over HTTP it cannot be answered" method=ask`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has %s, want %s", log.String(), want)
		}
	}
}
