package rpchttp_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// Each message decides its version alone.
func TestAutoDetect(t *testing.T) {
	srv := newServer(nil)
	srv.Options.Protocol = rpcx.JSONRPCAutoDetect
	h := &rpchttp.Handler{Server: srv}
	for range 2 {
		answering(t, h, post(echoing), 200, echoed)
		answering(t, h, post(`{"jsonrpc":"1.0","method":"echo","params":["hi"],"id":"x"}`), 200, `{"result":["hi"],"error":null,"id":"x"}`)
		answering(t, h, post(`{"method":"echo","params":["hi"],"id":1}`), 200, echoed)
	}
}

// bitcoind's statuses tell errors only where the client does not speak 2.0.
func TestBitcoindStatus(t *testing.T) {
	srv := newServer(nil)
	srv.Options.Protocol = rpcx.JSONRPCAutoDetect
	h := &rpchttp.Handler{Server: srv, Status: rpchttp.BitcoindStatus}
	for _, c := range []struct {
		msg    string
		status int
	}{
		{echoing, 200},
		{`{"jsonrpc":"2.0","method":"fail","id":1}`, 200},
		{`{"jsonrpc":"2.0","method":"none","id":1}`, 200},
		{`{"jsonrpc":"2.0","method":1,"id":1}`, 200},
		{`{"jsonrpc":"2.0","method":"fail"}`, 204},
		{`{"jsonrpc":"1.0","method":"echo","params":[],"id":1}`, 200},
		{`{"jsonrpc":"1.0","method":"fail","params":[],"id":1}`, 500},
		{`{"jsonrpc":"1.0","method":"none","params":[],"id":1}`, 404},
		{`{"jsonrpc":"1.0","method":1,"params":[],"id":1}`, 400},
		{`{"method":"fail","id":1}`, 500},
		{`{"method":"none","id":1}`, 404},
		{`[{"jsonrpc":"1.0","method":"none","params":[],"id":1}]`, 400}, // 1.0 has no batches
		{`[{"method":"none","id":1}]`, 200},
		{`{`, 500},
		{`[]`, 400},
	} {
		if w := serve(h, post(c.msg)); w.Code != c.status {
			t.Errorf("%s is answered %d %s; want %d", c.msg, w.Code, w.Body, c.status)
		}
	}
}

// Status sees the request, the error and the protocol of a single reply, and nothing else.
func TestStatus(t *testing.T) {
	var seen []string
	h := &rpchttp.Handler{Server: newServer(nil), Status: func(r *http.Request, e *rpcx.Error, p rpcx.Protocol) int {
		seen = append(seen, fmt.Sprint(r.URL.Path, e.Code, e.Message, p == rpcx.JSONRPCv2))
		return http.StatusTeapot
	}}
	answering(t, h, post(`{"jsonrpc":"2.0","method":"fail","id":1}`), 418, `{"jsonrpc":"2.0","error":{"code":7,"message":"no luck"},"id":1}`)
	answering(t, h, post(echoing), 200, echoed)
	answering(t, h, post(`[{"jsonrpc":"2.0","method":"fail","id":1}]`), 200, "")
	answering(t, h, post(`{"jsonrpc":"2.0","method":"fail"}`), 204, "")
	if want := "[/rpc7no lucktrue]"; fmt.Sprint(seen) != want {
		t.Errorf("Status has seen %v; want %s", seen, want)
	}
}

// Empty has the status of what is not answered.
func TestEmpty(t *testing.T) {
	h := &rpchttp.Handler{Server: newServer(nil), Empty: func(*http.Request) int { return 202 }}
	w := answering(t, h, post(`{"jsonrpc":"2.0","method":"fail"}`), 202, "")
	if w.Body.Len() > 0 {
		t.Errorf("the body is %q", w.Body)
	}
	answering(t, h, post(echoing), 200, echoed)
	for _, blank := range []string{"", " \r\n\t"} {
		answering(t, h, post(blank), 200, emptyReply)
	}
}

// Replies from Compress bytes on are compressed if the client takes gzip.
func TestCompress(t *testing.T) {
	for _, c := range []struct {
		accept     string
		size       int
		compressed bool
	}{
		{"gzip", 1000, true},
		{"gzip", 999, false},
		{"", 1000, false},
		{"br, GZIP;q=0.5", 5000, true},
		{"gzip;q=0", 5000, false},
		{"*", 5000, false},
		{"identity", 5000, false},
		{"gzip", 900_000, true},
	} {
		h := &rpchttp.Handler{Server: newServer(nil), Compress: 1000}
		msg := padded(c.size + len(echoing) - len(echoed))
		for range 2 {
			w := serve(h, post(msg, "Accept-Encoding", c.accept))
			body := io.Reader(w.Body)
			if got := w.Header().Get("Content-Encoding") == "gzip"; got != c.compressed || (w.Header().Get("Vary") == "Accept-Encoding") != (c.size >= 1000) {
				t.Errorf("%+v: the header is %v", c, w.Header())
			} else if got {
				if w.Body.Len() > c.size/2 {
					t.Errorf("%d of %d bytes are sent", w.Body.Len(), c.size)
				}
				z, err := gzip.NewReader(w.Body)
				if err != nil {
					t.Fatal(err)
				}
				body = z
			}
			reply, err := io.ReadAll(body)
			if len(reply) != c.size || !json.Valid(reply) || err != nil {
				t.Errorf("%+v: the reply has %d bytes, %v", c, len(reply), err)
			}
		}
	}
	w := serve(&rpchttp.Handler{Server: newServer(nil)}, post(padded(5000), "Accept-Encoding", "gzip"))
	if w.Header().Get("Content-Encoding") != "" || w.Header().Get("Vary") != "" {
		t.Errorf("by default, the header is %v", w.Header())
	}
}

// A client that does not read a large reply is given up after Limits.SendTimeout without
// progress, also by a bare http.Server. A slow one has the time that it needs.
func TestUnreadReply(t *testing.T) {
	for _, reads := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(nil)
			srv.Options.Limits.SendTimeout = 5 * time.Second
			web := newWeb(t, &rpchttp.Handler{Server: srv})
			w := web.wire()
			msg := padded(500_000)
			w.send(posting(msg))
			start := time.Now()
			if !reads {
				time.Sleep(time.Hour)
				if n, err := io.Copy(io.Discard, w); n > 20_000 || err != nil {
					t.Errorf("after an hour %d bytes come, %v", n, err)
				}
				return
			}
			resp := w.answer()
			var got bytes.Buffer
			for {
				if _, err := io.CopyN(&got, resp.Body, 16_000); err != nil {
					break
				}
				time.Sleep(4 * time.Second)
			}
			if want := len(msg) + len(echoed) - len(echoing); got.Len() != want || resp.ContentLength != int64(want) {
				t.Errorf("after %v the reply has %d bytes of %d, %d", time.Since(start), got.Len(), want, resp.ContentLength)
			}
			time.Sleep(time.Hour) // the deadline is cleared
			w.send(head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(echoing), echoing))
			w.answering(200, echoed)
		})
	}
}

// A client that does not read the end of an answer is given up after Limits.SendTimeout,
// whatever the answer.
func TestUnreadAnswers(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"echo"}`
	for _, c := range []struct {
		name, request string
		read          func(w *wire)
	}{
		{"nothing to answer", posting(note), nil},
		{"a refusal", "GET /rpc HTTP/1.1\r\nHost: example.com\r\n\r\n", nil},
		{"a preflight", "OPTIONS /rpc HTTP/1.1\r\nHost: example.com\r\n\r\n", nil},
		{"the end of events", posting(countRequest), func(w *wire) {
			in := bufio.NewReaderSize(w.answer().Body, 16)
			readEvent(w.t, in)
			readEvent(w.t, in)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(methods{"count": counting(1, 0)})
				srv.Options.Limits.SendTimeout = 5 * time.Second
				w := newWeb(t, &rpchttp.Handler{Server: srv, SSE: true}).wire()
				w.send(c.request)
				if c.read != nil {
					c.read(w)
				}
				time.Sleep(time.Minute)
				if n, err := w.Read(make([]byte, 1)); n > 0 || err != io.EOF {
					t.Errorf("after a minute %d bytes come, %v", n, err)
				}
				w.Close()
			})
		})
	}
}

// Replies that are being written count for Server.MaxQueuedBytes, and the bodies of their
// requests no longer. Over half of it, a reply that is read slowly has Limits.SendTimeout as
// a whole.
func TestManyUnreadReplies(t *testing.T) {
	for _, c := range []struct{ clients, whole int }{{2, 2}, {3, 0}} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(nil)
			srv.MaxQueuedBytes = 4*100_000 + 50_000
			srv.Options.Limits.SendTimeout = 5 * time.Second
			web := newWeb(t, &rpchttp.Handler{Server: srv})
			var clients sync.WaitGroup
			var whole atomic.Int32
			read := func(pause time.Duration) {
				w := web.wire()
				msg := padded(99_000)
				w.send(posting(msg))
				// Owner: the test, which waits. End: the reply or the connection ends.
				clients.Go(func() {
					body := w.answer().Body
					for {
						switch _, err := io.CopyN(io.Discard, body, 16_000); err {
						case nil:
							time.Sleep(pause)
							continue
						case io.EOF:
							whole.Add(1)
						}
						w.Close()
						return
					}
				})
			}
			for range c.clients {
				read(4 * time.Second)
			}
			clients.Wait()
			if n := int(whole.Load()); n != c.whole {
				t.Errorf("%d of %d slow clients have the whole reply, want %d", n, c.clients, c.whole)
			}
			whole.Store(0)
			for range 8 {
				read(0)
				clients.Wait()
			}
			if n := whole.Load(); n != 8 { // nothing is counted any more
				t.Errorf("%d of 8 fast clients have the whole reply", n)
			}
		})
	}
}

// A batch of 1,000 is answered in its order.
func TestLargeBatch(t *testing.T) {
	var msg, want strings.Builder
	for i := range 1000 {
		sep, replySep := ",", ", "
		if i == 0 {
			sep, replySep = "[", "["
		}
		fmt.Fprintf(&msg, `%s{"jsonrpc":"2.0","method":"echo","params":[%d],"id":%d}`, sep, i, i)
		fmt.Fprintf(&want, `%s{"jsonrpc":"2.0","result":[%d],"id":%d}`, replySep, i, i)
	}
	srv := newServer(nil)
	srv.Options.Order = rpcx.Sequential
	answering(t, &rpchttp.Handler{Server: srv}, post(msg.String()+"]"), 200, want.String()+"]")
}

// A handler that panics has failed, and the connection stays.
func TestPanics(t *testing.T) {
	srv := newServer(methods{"panic": func(context.Context, *rpcx.Request) (any, error) { panic(http.ErrAbortHandler) }})
	w := answering(t, &rpchttp.Handler{Server: srv}, post(`{"jsonrpc":"2.0","method":"panic","id":1}`), 200, `{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
	if w.Header().Get("Connection") != "" {
		t.Errorf("the header is %v", w.Header())
	}
}

// Nothing of an error of this side is sent when there is no reply.
func TestFailuresWithoutReply(t *testing.T) {
	var log bytes.Buffer
	srv := newServer(methods{"close": func(_ context.Context, req *rpcx.Request) (any, error) {
		req.Session().Close()
		return nil, nil
	}})
	srv.Options.Logger = slog.New(slog.NewTextHandler(&log, nil))
	h := &rpchttp.Handler{Server: srv}
	answering(t, h, post(`{"jsonrpc":"2.0","method":"close","id":1}`), 500, "internal server error\n")
	if !strings.Contains(log.String(), `level=ERROR msg="HTTP request refused"`) || !strings.Contains(log.String(), rpcx.ErrClosed.Error()) {
		t.Errorf("the log is %s", &log)
	}
	answering(t, h, post(echoing), 200, echoed) // only the exchange has ended

	r := post(`{"jsonrpc":"2.0","method":"echo","id":1}`)
	ctx, cancel := context.WithDeadline(r.Context(), time.Now().Add(-time.Second)) // of a middleware
	defer cancel()
	answering(t, h, r.WithContext(ctx), 504, "gateway timeout\n")
}

// ReplyAndDisconnect ends the exchange after the reply.
func TestReplyAndDisconnect(t *testing.T) {
	srv := newServer(methods{"bye": func(context.Context, *rpcx.Request) (any, error) {
		return rpcx.ReplyAndDisconnect("bye"), nil
	}})
	answering(t, &rpchttp.Handler{Server: srv}, post(`{"jsonrpc":"2.0","method":"bye","id":1}`), 200, `{"jsonrpc":"2.0","result":"bye","id":1}`)
}

// The session of a request is known to its handler, and to Limits.Group.
func TestRequest(t *testing.T) {
	type key struct{}
	srv := newServer(methods{"look": func(ctx context.Context, req *rpcx.Request) (any, error) {
		r := rpchttp.Request(req.Session())
		return []any{r.URL.Path, r.Header.Get("X-User"), ctx.Value(key{}), req.Session().RemoteAddr().String(), req.Session().Role() == rpcx.RoleServer}, nil
	}})
	var group string
	srv.Options.Limits.Group = func(s *rpcx.Session) string {
		group = rpchttp.Request(s).Header.Get("X-User")
		return group
	}
	r := post(`{"jsonrpc":"2.0","method":"look","id":1}`, "X-User", "ann")
	r = r.WithContext(context.WithValue(r.Context(), key{}, "span"))
	answering(t, &rpchttp.Handler{Server: srv}, r, 200, `{"jsonrpc":"2.0","result":["/rpc","ann","span","192.0.2.1:1234",true],"id":1}`)
	if group != "ann" {
		t.Errorf("the group is %q", group)
	}
	a, b := rpcx.Pipe(nil, nil)
	if rpchttp.Request(a) != nil || rpchttp.Request(b) != nil {
		t.Error("a session of a pipe has a request")
	}
	a.Close()
	<-a.Done()
	<-b.Done()
}

// Ready turns to 503 when the server accepts nothing any more, and not when it is full.
func TestReady(t *testing.T) {
	srv := newServer(nil)
	srv.MaxSessions = 1
	a, b := rpcx.Pipe(nil, nil)
	defer func() { <-b.Done() }()
	defer a.Close()
	h := rpchttp.Ready(srv)
	for _, method := range []string{"GET", "HEAD", "OPTIONS"} { // as a balancer likes
		w := answering(t, h, httptest.NewRequest(method, "/ready", nil), 200, "")
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("the header is %v", w.Header())
		}
	}
	srv.StopListening()
	answering(t, h, httptest.NewRequest("GET", "/ready", nil), 503, "shutting down\n")
}

// A client that sends no body, or reads no answer, does not hold a connection.
func TestReadyOfSlowClients(t *testing.T) {
	for _, rest := range []string{"\r\n", "Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWeb(t, rpchttp.Ready(newServer(nil))).wire()
			w.send("GET /ready HTTP/1.1\r\nHost: example.com\r\n" + rest)
			if rest != "\r\n" {
				w.answering(200, "ready\n")
			}
			time.Sleep(time.Minute)
			if n, err := w.Read(make([]byte, 1)); n > 0 || err != io.EOF {
				t.Errorf("after a minute %d bytes come, %v", n, err)
			}
			w.Close()
		})
	}
}

// Many requests at once are kept apart.
func TestConcurrentRequests(t *testing.T) {
	h := &rpchttp.Handler{Server: newServer(nil), Compress: 3000}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			for j := range 50 {
				text := strings.Repeat(fmt.Sprint(i, j), 1+i*j)
				msg := fmt.Sprintf(`{"jsonrpc":"2.0","method":"echo","params":[%q],"id":%d}`, text, j)
				want := fmt.Sprintf(`{"jsonrpc":"2.0","result":[%q],"id":%d}`, text, j)
				r := post(zipped(msg), "Content-Encoding", "gzip")
				if j%2 == 0 {
					r = post(msg)
				}
				if w := serve(h, r); w.Body.String() != want {
					t.Errorf("the answer to %.100s is %.100s", msg, w.Body)
				}
			}
		})
	}
	all.Wait()
}
