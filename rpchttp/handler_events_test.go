package rpchttp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// counting notifies n times, at intervals, and then replies.
func counting(n int, interval time.Duration) func(context.Context, *rpcx.Request) (any, error) {
	return func(ctx context.Context, req *rpcx.Request) (any, error) {
		for i := range n {
			if err := req.Session().Notify(ctx, "count", rpcx.Args{i}); err != nil {
				return nil, err
			}
			select {
			case <-time.After(interval):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		return "done", nil
	}
}

// posting is a POST of msg that accepts events.
func posting(msg string) string {
	return head + fmt.Sprintf("Accept: application/json, text/event-stream\r\nContent-Length: %d\r\n\r\n%s", len(msg), msg)
}

const (
	countRequest = `{"jsonrpc":"2.0","method":"count","id":1}`
	countReply   = `{"jsonrpc":"2.0","result":"done","id":1}`
)

// event is an event with a message.
func event(msg string) string { return "event: message\ndata: " + msg + "\n\n" }

func countEvent(i int) string {
	return event(fmt.Sprintf(`{"jsonrpc":"2.0","method":"count","params":[%d]}`, i))
}

// readEvent reads an event, or a comment, up to the empty line.
func readEvent(t *testing.T, in *bufio.Reader) string {
	t.Helper()
	var event strings.Builder
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", &event, err)
		}
		event.WriteString(line)
		if line == "\n" {
			return event.String()
		}
	}
}

// Notifications leave while the handler runs, and the reply is the last event. In a silence
// a comment comes every 15 s.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(methods{"count": counting(2, 40*time.Second)})
		srv.Options.Limits.ProcessingTimeout = -1
		web := newWeb(t, &rpchttp.Handler{Server: srv, SSE: true})
		w := web.wire()
		for range 2 { // the connection is used again
			start := time.Now()
			w.send(posting(countRequest))
			resp := w.answer()
			if kind, cache := resp.Header.Get("Content-Type"), resp.Header.Get("Cache-Control"); resp.StatusCode != 200 || kind != "text/event-stream" || cache != "no-cache" {
				t.Errorf("the answer is %s, %v", resp.Status, resp.Header)
			}
			in := bufio.NewReader(resp.Body)
			for _, want := range []struct {
				after time.Duration
				event string
			}{
				{0, countEvent(0)}, {15, ":\n\n"}, {30, ":\n\n"}, {40, countEvent(1)}, {55, ":\n\n"}, {70, ":\n\n"}, {80, event(countReply)},
			} {
				if got := readEvent(t, in); got != want.event || time.Since(start) != want.after*time.Second {
					t.Errorf("after %v there is %q; want %q after %d s", time.Since(start), got, want.event, want.after)
				}
			}
			if _, err := in.ReadByte(); err != io.EOF {
				t.Errorf("after the reply: %v", err)
			}
			time.Sleep(time.Minute) // no more comments
		}
		w.send(head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(echoing), echoing))
		w.answering(200, echoed)
	})
}

// A handler that does not notify is answered without events.
func TestNoEvents(t *testing.T) {
	h := &rpchttp.Handler{Server: newServer(nil), SSE: true}
	w := answering(t, h, post(echoing, "Accept", "application/json, text/event-stream"), 200, echoed)
	if kind := w.Header().Get("Content-Type"); kind != "application/json" {
		t.Errorf("the Content-Type is %s", kind)
	}
}

// Without events, a handler cannot notify.
func TestNotificationsWithoutEvents(t *testing.T) {
	srv := newServer(methods{"count": func(ctx context.Context, req *rpcx.Request) (any, error) {
		err := req.Session().Notify(ctx, "count", nil)
		return errors.Is(err, rpcx.ErrNoCallback), nil
	}})
	const want = `{"jsonrpc":"2.0","result":true,"id":1}`
	plain := &rpchttp.Handler{Server: srv}
	answering(t, plain, post(countRequest, "Accept", "text/event-stream"), 200, want)
	h := &rpchttp.Handler{Server: srv, SSE: true}
	for _, accept := range []string{"", "*/*", "text/*", "application/json", "text/event-stream; q=0", "text/event-stream;q=0.0", "text/event-streams"} {
		answering(t, h, post(countRequest, "Accept", accept), 200, want)
	}
	unflushable := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
	})
	answering(t, unflushable, post(countRequest, "Accept", "text/event-stream"), 200, want)
	for _, accept := range []string{"text/event-stream", "application/json , Text/Event-Stream;q=0.5"} {
		w := answering(t, h, post(countRequest, "Accept", accept), 200, "")
		if kind := w.Header().Get("Content-Type"); kind != "text/event-stream" {
			t.Errorf("for %q the Content-Type is %s", accept, kind)
		}
	}
}

// A handler cannot call its client.
func TestNoCalls(t *testing.T) {
	srv := newServer(methods{"count": func(ctx context.Context, req *rpcx.Request) (any, error) {
		err := req.Session().Call(ctx, "f", nil, nil)
		return errors.Is(err, rpcx.ErrNoCallback), nil
	}})
	for _, sse := range []bool{false, true} {
		answering(t, &rpchttp.Handler{Server: srv, SSE: sse}, post(countRequest, "Accept", "text/event-stream"), 200, `{"jsonrpc":"2.0","result":true,"id":1}`)
	}
}

// When the client closes the stream, the context of the handler ends, and so it does when
// the client does not read.
func TestClosedStream(t *testing.T) {
	for _, c := range []struct {
		name  string
		after func(*wire)
	}{
		{"closed", func(w *wire) { w.Close() }},
		{"not read", func(*wire) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan error, 1)
				srv := newServer(methods{"count": func(ctx context.Context, req *rpcx.Request) (any, error) {
					req.Session().Notify(ctx, "count", rpcx.Args{0})
					<-ctx.Done()
					ended <- context.Cause(ctx)
					return nil, nil
				}})
				srv.Options.Limits.ProcessingTimeout = -1
				srv.Options.Limits.SendTimeout = 5 * time.Second
				w := newWeb(t, &rpchttp.Handler{Server: srv, SSE: true}).wire()
				w.send(posting(countRequest))
				if got := readEvent(t, bufio.NewReader(w.answer().Body)); got != countEvent(0) {
					t.Errorf("the event is %q", got)
				}
				start := time.Now()
				c.after(w)
				if err := <-ended; err == nil || c.name == "not read" && time.Since(start) != 20*time.Second { // a comment after 15 s
					t.Errorf("the context ended after %v with %v", time.Since(start), err)
				}
				synctest.Wait()
				if n := srv.Stats().Sessions; n != 0 {
					t.Errorf("%d sessions are left", n)
				}
			})
		})
	}
}

// Without a stream, too, the context of the handler ends when the client goes away.
func TestClientGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		srv := newServer(methods{"count": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, nil
		}})
		w := newWeb(t, &rpchttp.Handler{Server: srv}).wire()
		w.send(posting(countRequest))
		synctest.Wait()
		start := time.Now()
		w.Close()
		if err := <-ended; !errors.Is(err, context.Canceled) || time.Since(start) > 0 {
			t.Errorf("the context ended after %v with %v", time.Since(start), err)
		}
		synctest.Wait()
		if n := srv.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}

// A message is a single event, although its JSON has several lines.
func TestEventOfSeveralLines(t *testing.T) {
	srv := newServer(methods{"count": func(ctx context.Context, req *rpcx.Request) (any, error) {
		return nil, req.Session().Notify(ctx, "count", nil)
	}})
	srv.Options.Middleware = []func(rpcx.Handler) rpcx.Handler{func(next rpcx.Handler) rpcx.Handler { return next }}
	srv.Options.Protocol = lines{rpcx.JSONRPCv2}
	h := &rpchttp.Handler{Server: srv, SSE: true}
	want := "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"count\"}\ndata: \ndata: \ndata: \n\n" + event(`{"jsonrpc":"2.0","result":null,"id":1}`)
	answering(t, h, post(countRequest, "Accept", "text/event-stream"), 200, want)
}

// lines is a protocol that writes line ends after notifications.
type lines struct{ rpcx.Protocol }

func (p lines) AppendNotification(dst []byte, method string, params any, c rpcx.Codec) ([]byte, error) {
	dst, err := p.Protocol.AppendNotification(dst, method, params, c)
	return append(dst, "\n\r\n"...), err
}

// Progress of a call is sent as events.
func TestProgressAsEvents(t *testing.T) {
	srv := newServer(methods{"work": func(ctx context.Context, _ *rpcx.Request) (any, error) {
		progress := rpcx.Progress(ctx)
		for i := range 2 {
			if err := progress(map[string]any{"progress": i}); err != nil {
				return nil, err
			}
		}
		return "done", nil
	}})
	srv.Options.Meta = rpcx.MCPMeta
	srv.Options.Correlations = []*rpcx.Correlation{rpcx.MCPProgress}
	msg := `{"jsonrpc":"2.0","method":"work","params":{"_meta":{"progressToken":"t"}},"id":1}`
	w := answering(t, &rpchttp.Handler{Server: srv, SSE: true}, post(msg, "Accept", "text/event-stream"), 200, "")
	if got := w.Body.String(); strings.Count(got, `"progressToken":"t"`) != 2 || !strings.HasSuffix(got, event(countReply)) {
		t.Errorf("the events are %s", got)
	}
}
