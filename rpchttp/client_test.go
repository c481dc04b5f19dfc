package rpchttp_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// webServer is an HTTP server that counts requests and connections.
type webServer struct {
	*httptest.Server
	mu       sync.Mutex
	requests []webRequest
	conns    int
	open     map[net.Conn]bool
	changed  chan struct{} // closed, and replaced, when a connection is closed
}

// webRequest is a request that a webServer has received.
type webRequest struct {
	*http.Request
	body string
}

// startWebServer starts a server with the given handler, which is told the number of the
// request, from 1. The body was read before.
func startWebServer(t *testing.T, handle func(w http.ResponseWriter, r webRequest, n int)) *webServer {
	t.Helper()
	s := newWebServer(handle)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// newWebServer returns an unstarted server; see startWebServer.
func newWebServer(handle func(w http.ResponseWriter, r webRequest, n int)) *webServer {
	s := &webServer{open: make(map[net.Conn]bool), changed: make(chan struct{})}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client has hung up
		}
		s.mu.Lock()
		request := webRequest{r, string(body)}
		s.requests = append(s.requests, request)
		n := len(s.requests)
		s.mu.Unlock()
		handle(w, request, n)
	}))
	s.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch state {
		case http.StateNew:
			s.conns++
			s.open[conn] = true
		case http.StateClosed, http.StateHijacked:
			delete(s.open, conn)
			close(s.changed)
			s.changed = make(chan struct{})
		}
	}
	return s
}

// seen returns the requests so far.
func (s *webServer) seen() []webRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// wantSeen fails the test unless the server has seen this many requests and connections.
func (s *webServer) wantSeen(t *testing.T, requests, conns int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) != requests || s.conns != conns {
		t.Errorf("the server has seen %d requests on %d connections, want %d on %d", len(s.requests), s.conns, requests, conns)
	}
}

// waitUntilUnused waits until the client has closed all connections.
func (s *webServer) waitUntilUnused(t *testing.T) {
	t.Helper()
	replyLate := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		open, changed := len(s.open), s.changed
		s.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-changed:
		case <-replyLate:
			t.Fatalf("%d connections are open", open)
		}
	}
}

// answeringBy returns the handler that answers by the methods of h.
func answeringBy(h rpcx.Handler) func(http.ResponseWriter, webRequest, int) {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: h}}
	return func(w http.ResponseWriter, r webRequest, _ int) {
		reply, err := srv.ServeMessage(r.Context(), nil, []byte(r.body), nil)
		w.Header().Set("Content-Type", "application/json")
		if err == nil && reply == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Write(reply)
	}
}

// sumMethods has a method "sum", a method "fail", and a notification "note".
func sumMethods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("sum", rpcx.Func(func(a, b int) int { return a + b }))
	router.Handle("fail", rpcx.Func(func() error { return rpcx.Errorf(7, "no") }))
	router.Handle("note", rpcx.Func(func() {}))
	return router
}

// dialClient returns a Client of url, which is closed at the end of the test.
func dialClient(t *testing.T, d rpchttp.Dialer, url string, opts *rpcx.Options) *rpchttp.Client {
	t.Helper()
	c, err := d.Dial(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// answerStatus makes the answer of a page: a status and a text.
func answerStatus(code int, text string, header ...string) func(http.ResponseWriter, webRequest, int) {
	return func(w http.ResponseWriter, _ webRequest, _ int) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, text)
	}
}

// replyOne is the reply to the first call, with the result 1.
const replyOne = `{"jsonrpc":"2.0","result":1,"id":0}`

// checkClient makes calls of all kinds over c, to a server of sumMethods.
func checkClient(t *testing.T, c *rpchttp.Client) {
	t.Helper()
	ctx := t.Context()
	if sum, err := rpcx.Call[int](ctx, c, "sum", rpcx.Args{1, 2}); sum != 3 || err != nil {
		t.Errorf("Call[int]: %d, %v", sum, err)
	}
	if err := c.Call(ctx, "fail", nil, nil); !errors.Is(err, rpcx.Errorf(7, "")) {
		t.Errorf("Call: %v", err)
	}
	var sum int
	if err := c.Go(ctx, "sum", rpcx.Args{3, 4}).Wait(ctx, &sum); sum != 7 || err != nil {
		t.Errorf("Go: %d, %v", sum, err)
	}
	if err := c.Notify(ctx, "note", nil); err != nil {
		t.Errorf("Notify: %v", err)
	}
	if err := rpcx.Remote(c).Call(ctx, &sum, "sum", 5, 6); sum != 11 || err != nil {
		t.Errorf("a proxy: %d, %v", sum, err)
	}
	var bound struct {
		Sum func(ctx context.Context, a, b int) (int, error) `rpcx:"sum"`
	}
	if err := rpcx.BindProxy(rpcx.Remote(c), &bound); err != nil {
		t.Error(err)
	} else if sum, err := bound.Sum(ctx, 7, 8); sum != 15 || err != nil {
		t.Errorf("a bound function: %d, %v", sum, err)
	}
	var b, notes rpcx.Batch
	results := make([]int, 1000)
	for i := range results {
		b.Call("sum", rpcx.Args{i, i}, &results[i])
	}
	if err := c.SendBatch(ctx, &b); err != nil {
		t.Errorf("a batch: %v", err)
	}
	for i, result := range results {
		if result != 2*i {
			t.Errorf("result %d is %d", i, result)
		}
	}
	notes.Notify("note", nil)
	notes.Notify("note", nil)
	if err := c.SendBatch(ctx, &notes); err != nil {
		t.Errorf("a batch of notifications: %v", err)
	}
}

// Calls of all kinds go over one connection, whatever it is.
func TestClient(t *testing.T) {
	const requests = 8
	t.Run("TCP", func(t *testing.T) {
		s := startWebServer(t, answeringBy(sumMethods()))
		c := dialClient(t, rpchttp.Dialer{}, s.URL+"/rpc?key=1", nil)
		checkClient(t, c)
		s.wantSeen(t, requests, 1)
		r := s.seen()[0]
		if r.Method != "POST" || r.RequestURI != "/rpc?key=1" || r.Header.Get("Content-Type") != "application/json" ||
			r.Header.Get("Accept") != "application/json" || r.Header.Get("Accept-Encoding") != "" || r.ContentLength != int64(len(r.body)) {
			t.Errorf("the request is %s %s %v", r.Method, r.RequestURI, r.Header)
		}
	})
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run("TLS with "+proto, func(t *testing.T) {
			s := newWebServer(answeringBy(sumMethods()))
			s.EnableHTTP2 = proto == "HTTP/2.0"
			s.StartTLS()
			t.Cleanup(s.Close)
			c := dialClient(t, rpchttp.Dialer{TLS: trusting(s)}, s.URL, nil)
			checkClient(t, c)
			s.wantSeen(t, requests, 1)
			if got := s.seen()[0].Proto; got != proto {
				t.Errorf("the protocol is %s", got)
			}
			c.Close()
			s.waitUntilUnused(t)
		})
	}
	t.Run("another http.Client", func(t *testing.T) {
		s := newWebServer(answeringBy(sumMethods()))
		s.StartTLS()
		t.Cleanup(s.Close)
		c := dialClient(t, rpchttp.Dialer{Client: s.Client()}, s.URL, nil)
		checkClient(t, c)
		c.Close()
		checkClient(t, dialClient(t, rpchttp.Dialer{Client: s.Client()}, s.URL, nil)) // over the connection of c
		s.wantSeen(t, 2*requests, 1)
	})
	for _, test := range []struct{ form, path string }{{"", "/"}, {":/rpc?key=1", "/rpc?key=1"}, {":/", "/"}} {
		t.Run("a unix socket"+test.form, func(t *testing.T) {
			s := newWebServer(answeringBy(sumMethods()))
			path := filepath.Join(t.TempDir(), "a:b.sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Skip(err)
			}
			s.Listener.Close()
			s.Listener = l
			s.Start()
			t.Cleanup(s.Close)
			c := dialClient(t, rpchttp.Dialer{}, "unix://"+path+test.form, nil)
			checkClient(t, c)
			s.wantSeen(t, requests, 1)
			if r := s.seen()[0]; r.RequestURI != test.path || r.Host != "localhost" {
				t.Errorf("the request is for %s of %s", r.RequestURI, r.Host)
			}
		})
	}
}

// trusting returns a configuration with the certificate of s.
func trusting(s *webServer) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{RootCAs: pool}
}

// Bodies are read to their end, so that connections are used again, also after pages.
func TestClientUsesConnectionsAgain(t *testing.T) {
	long := strings.Repeat("x", 50_000)
	s := startWebServer(t, func(w http.ResponseWriter, r webRequest, n int) {
		switch n % 4 {
		case 0:
			answerStatus(404, long)(w, r, n)
		case 1:
			answerStatus(204, "")(w, r, n)
		case 2:
			answerStatus(200, fmt.Sprintf(`{"jsonrpc":"2.0","result":"%s","id":%d}`, long, n-1))(w, r, n)
		case 3:
			answerStatus(202, "accepted", "Content-Type", "text/plain")(w, r, n)
		}
	})
	c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
	for range 12 {
		c.Call(t.Context(), "m", nil, nil)
	}
	s.wantSeen(t, 12, 1)
}

// An idle connection is closed after IdleTimeout, and the next call makes another.
func TestDialerIdleTimeout(t *testing.T) {
	s := startWebServer(t, answeringBy(sumMethods()))
	c := dialClient(t, rpchttp.Dialer{IdleTimeout: time.Millisecond}, s.URL, nil)
	for range 2 {
		if err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err != nil {
			t.Fatal(err)
		}
		s.waitUntilUnused(t)
	}
	s.wantSeen(t, 2, 2)
}

// The connections of many calls at the same time stay open for further calls.
func TestClientConcurrentCalls(t *testing.T) {
	const calls = 50 // Limits.Outgoing
	var arrived sync.WaitGroup
	arrived.Add(calls)
	answer := answeringBy(sumMethods())
	s := startWebServer(t, func(w http.ResponseWriter, r webRequest, n int) {
		if n <= calls { // all at once
			arrived.Done()
			arrived.Wait()
		}
		answer(w, r, n)
	})
	c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
	for range 4 {
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				if sum, err := rpcx.Call[int](t.Context(), c, "sum", rpcx.Args{i, i}); sum != 2*i || err != nil {
					t.Errorf("%d: %d, %v", i, sum, err)
				}
			})
		}
		all.Wait()
	}
	s.wantSeen(t, 4*calls, calls)
	c.Close()
	s.waitUntilUnused(t)
}

// What a call becomes by the answer of the server.
func TestClientReplies(t *testing.T) {
	const refusal = `{"jsonrpc":"2.0","error":{"code":7,"message":"no"},"id":0}`
	const noID = `{"jsonrpc":"2.0","error":{"code":-32700,"message":"bad"},"id":null}`
	const noReply = "rpcx: no response to the call"
	const page = "no reply to the request: the server answers with status "
	for _, test := range []struct {
		sentence  string
		status    int
		mediaType string
		body      string
		want      string // the result or the beginning of the error
	}{
		{"a result", 200, "application/json", replyOne, "1"},
		{"white space around it", 200, "application/json; charset=utf-8", "\r\n " + replyOne + "\n", "1"},
		{"another media type", 200, "text/plain; charset=utf-8", replyOne, "1"},
		{"a result with 500", 500, "application/json", replyOne, "1"},
		{"an error with 400", 400, "application/json", refusal, "no (code 7)"},
		{"an error with 503", 503, "text/html", refusal, "no (code 7)"},
		{"an error with 302", 302, "application/json", refusal, "no (code 7)"},
		{"an error without an id", 400, "application/json", noID, "bad (code -32700)"},
		{"another id", 200, "application/json", strings.Replace(replyOne, "0}", "9}", 1), "protocol error: response to unsent request (ID: 9)"},
		{"nothing", 200, "application/json", "", noReply},
		{"white space", 200, "application/json", " \n", noReply},
		{"204", 204, "", "", noReply},
		{"202", 202, "text/plain", "Accepted", noReply},
		{"broken JSON", 200, "application/json", `{"jsonrpc":`, "protocol error: invalid JSON"},
		{"JSON of another type", 200, "application/json", `"x"`, "protocol error: "},
		{"a page", 200, "text/html", "<html>\n</html>", page + `200 (OK), without JSON-RPC: <html>\n</html>; is the path of the URL that of a JSON-RPC server?`},
		{"text", 200, "text/plain", "hello", page + `200 (OK), without JSON-RPC: hello; is the path`},
		{"a page with 404", 404, "text/html", "<html>", page + `404 (Not Found), without JSON-RPC: <html>; is the path`},
		{"JSON with 401", 401, "application/json", `{"error":"unauthorized"}`, page + `401 (Unauthorized), without JSON-RPC: {"error":"unauthorized"}; set Dialer.Auth`},
		{"a message with 404", 404, "application/json", `{"message":"none"}`, page + `404 (Not Found), without JSON-RPC: {"message":"none"}`},
		{"nothing with 404", 404, "", "", page + "404 (Not Found), without JSON-RPC; is the path"},
		{"405", 405, "", "", page + "405 (Method Not Allowed), without JSON-RPC; is the path"},
		{"406", 406, "", "", page + "406 (Not Acceptable), without JSON-RPC; set Accept in Dialer.Header"},
		{"413", 413, "", "", page + "413 (Request Entity Too Large), without JSON-RPC; the message is too large for the server"},
		{"415", 415, "", "", page + "415 (Unsupported Media Type), without JSON-RPC; set the Content-Type"},
		{"421", 421, "", "", page + "421 (Misdirected Request), without JSON-RPC; it does not answer for this host"},
		{"an unknown status", 599, "", "\x1b[2J", page + `599, without JSON-RPC: \x1b[2J`},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			s := startWebServer(t, func(w http.ResponseWriter, r webRequest, n int) {
				answerStatus(test.status, test.body, "Content-Type", test.mediaType)(w, r, n)
			})
			c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
			got, err := rpcx.Call[int](t.Context(), c, "m", nil)
			text := fmt.Sprint(got)
			if err != nil {
				text = err.Error()
			}
			if !strings.HasPrefix(text, test.want) {
				t.Errorf("got %s, want %s", text, test.want)
			}
			s.wantSeen(t, 1, 1)
		})
	}
}

// A notification expects an empty answer with a status of success.
func TestClientReplyToNotifications(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		want   string
	}{
		{200, "", "<nil>"},
		{202, "", "<nil>"},
		{202, "Accepted", "<nil>"},
		{204, "", "<nil>"},
		{404, "", "no reply to the request: the server answers with status 404 (Not Found)"},
		{200, "<html>", "no reply to the request: the server answers with status 200 (OK)"},
		{400, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}`, "no (code -32600)"},
	} {
		s := startWebServer(t, answerStatus(test.status, test.body))
		c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
		if err := c.Notify(t.Context(), "n", nil); !strings.HasPrefix(fmt.Sprint(err), test.want) {
			t.Errorf("%d %q: %v, want %s", test.status, test.body, err, test.want)
		}
		var b rpcx.Batch
		b.Notify("n", nil)
		if err := c.SendBatch(t.Context(), &b); !strings.HasPrefix(fmt.Sprint(err), test.want) {
			t.Errorf("%d %q to a batch: %v, want %s", test.status, test.body, err, test.want)
		}
		c.Close()
	}
}

// The error of each call of a batch is that of its message.
func TestClientBatchErrors(t *testing.T) {
	s := startWebServer(t, answerStatus(403, "go away"))
	c := dialClient(t, rpchttp.Dialer{}, s.URL, nil)
	var b rpcx.Batch
	first, second := b.Call("a", nil, nil), b.Call("b", nil, nil)
	err := c.SendBatch(t.Context(), &b)
	for _, err := range []error{err, first.Err(), second.Err()} {
		if e, ok := errors.AsType[*rpchttp.StatusError](err); !ok || e.StatusCode != 403 || e.Body != "go away" {
			t.Errorf("the error is %v", err)
		}
	}
}

// The end of a context ends the call at once, and closes its connection.
func TestClientContext(t *testing.T) {
	cause := errors.New("given up")
	for _, test := range []struct {
		sentence string
		end      func(ctx context.Context, arrived <-chan struct{}) (context.Context, context.CancelFunc)
		opts     *rpcx.Options
		want     error
	}{
		{"cancelled", func(ctx context.Context, arrived <-chan struct{}) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			go func() { // Owner: the test. End: the request has arrived.
				<-arrived
				cancel(cause)
			}()
			return ctx, func() { cancel(nil) }
		}, nil, cause},
		{"a deadline", func(ctx context.Context, _ <-chan struct{}) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 20*time.Millisecond)
		}, nil, context.DeadlineExceeded},
		{"Limits.RequestTimeout", func(ctx context.Context, _ <-chan struct{}) (context.Context, context.CancelFunc) {
			return context.WithCancel(ctx)
		}, &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 20 * time.Millisecond}}, rpcx.ErrTimeout},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			arrived := make(chan struct{})
			s := startWebServer(t, func(_ http.ResponseWriter, r webRequest, n int) {
				if n == 1 {
					close(arrived)
				}
				<-r.Context().Done() // the client has hung up
			})
			c := dialClient(t, rpchttp.Dialer{Idempotent: func(string) bool { return true }}, s.URL, test.opts)
			ctx, cancel := test.end(t.Context(), arrived)
			defer cancel()
			if err := c.Call(ctx, "m", nil, nil); !errors.Is(err, test.want) {
				t.Errorf("the error is %v", err)
			}
			s.waitUntilUnused(t)
		})
	}
}

// Close fails the calls under way, and leaves no connection and no goroutine.
func TestClientClose(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			const calls = 5
			arrived := make(chan struct{}, calls)
			answer := answeringBy(sumMethods())
			s := newWebServer(func(w http.ResponseWriter, r webRequest, n int) {
				if strings.Contains(r.body, "sum") {
					answer(w, r, n)
					return
				}
				arrived <- struct{}{}
				<-r.Context().Done()
			})
			if s.EnableHTTP2 = proto == "HTTP/2.0"; s.EnableHTTP2 {
				s.StartTLS()
			} else {
				s.Start()
			}
			t.Cleanup(s.Close)
			d := rpchttp.Dialer{}
			if s.EnableHTTP2 {
				d.TLS = trusting(s)
			}
			c := dialClient(t, d, s.URL, nil)
			if err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err != nil {
				t.Fatal(err)
			}
			var pending []*rpcx.Future
			for range calls {
				pending = append(pending, c.Go(t.Context(), "hang", nil))
			}
			for range calls {
				<-arrived
			}
			if err := c.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			for _, f := range pending {
				<-f.Done()
				if e, ok := errors.AsType[*rpcx.ConnectionError](f.Err()); !ok || !e.Written || !errors.Is(e, rpcx.ErrClosed) {
					t.Errorf("the error of a pending call is %v", f.Err())
				}
			}
			if err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); !errors.Is(err, rpcx.ErrClosed) {
				t.Errorf("after Close: %v", err)
			}
			s.waitUntilUnused(t)
			waitForConnGoroutines(t)
		})
	}
}

// Close ends dialling, too: a proxy that does not answer is hung up on.
func TestClientCloseEndsDialling(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dialClient(t, rpchttp.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: l.Addr().String()}}, "http://a/", nil)
	f := c.Go(t.Context(), "m", nil)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.Close()
	if <-f.Done(); !errors.Is(f.Err(), rpcx.ErrClosed) {
		t.Errorf("the error is %v", f.Err())
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection to the proxy is open")
	}
}

// waitForConnGoroutines waits until package http has no goroutine of a client's connection.
func waitForConnGoroutines(t *testing.T) {
	t.Helper()
	buf := make([]byte, 1<<20)
	var stacks []byte
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		stacks = buf[:runtime.Stack(buf, true)]
		if !bytes.Contains(stacks, []byte("http.(*persistConn)")) && !bytes.Contains(stacks, []byte("ClientConn).readLoop")) {
			return
		}
	}
	t.Errorf("goroutines of connections are left:\n%s", stacks)
}

// Headers of the Dialer, of Auth and of the URL.
func TestDialerHeader(t *testing.T) {
	s := startWebServer(t, answeringBy(sumMethods()))
	calls := 0
	type key struct{}
	c := dialClient(t, rpchttp.Dialer{
		Header: http.Header{"host": {"example.org"}, "Authorization": {"Bearer fixed"}, "x-own": {"a", "b"}, "Content-Type": {"application/json-rpc"}},
		Auth: func(ctx context.Context, r *http.Request) error {
			calls++
			if user := ctx.Value(key{}); user != nil {
				r.SetBasicAuth(user.(string), "secret")
			}
			r.URL.RawQuery += "&signed" // of this request alone
			return nil
		},
	}, s.URL+"/?a", nil)
	for _, ctx := range []context.Context{t.Context(), context.WithValue(t.Context(), key{}, "ann"), t.Context()} {
		if err := c.Call(ctx, "sum", rpcx.Args{1, 2}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 3 {
		t.Errorf("Auth was called %d times", calls)
	}
	for i, want := range []string{"Bearer fixed", "Basic YW5uOnNlY3JldA==", "Bearer fixed"} {
		r := s.seen()[i]
		if r.Header.Get("Authorization") != want || r.Host != "example.org" || len(r.Header["X-Own"]) != 2 ||
			r.Header.Get("Content-Type") != "application/json-rpc" || r.RequestURI != "/?a&signed" {
			t.Errorf("request %d is for %s of %s, with %v", i+1, r.RequestURI, r.Host, r.Header)
		}
	}

	var signed string
	refused := errors.New("refused")
	reading := func(_ context.Context, r *http.Request) error {
		body, _ := r.GetBody()
		for _, body := range []io.Reader{r.Body, body} {
			text, err := io.ReadAll(body)
			if signed = string(text); err != nil || !strings.HasPrefix(signed, `{"jsonrpc"`) {
				t.Errorf("Auth reads %q, %v", text, err)
			}
		}
		return nil
	}
	c = dialClient(t, rpchttp.Dialer{Auth: reading}, s.URL, nil)
	if err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err != nil || s.seen()[3].body != signed {
		t.Errorf("after Auth has read the body: %v", err)
	}
	c = dialClient(t, rpchttp.Dialer{Auth: reading, Retries: -1, Client: &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, refused })}}, s.URL, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](c.Call(t.Context(), "sum", nil, nil)); !ok || e.Written || !errors.Is(e, refused) {
		t.Errorf("after Auth has read the body, and nothing was sent: %v", e)
	}

	failure := errors.New("no token")
	c = dialClient(t, rpchttp.Dialer{Auth: func(context.Context, *http.Request) error { calls++; return failure }}, s.URL, nil)
	err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
	if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || e.Written || !errors.Is(err, failure) || calls != 4 {
		t.Errorf("Auth has failed, called %d times: %v", calls, err)
	}

	c = dialClient(t, rpchttp.Dialer{}, strings.Replace(s.URL, "://", "://ann:secret@", 1), nil)
	if err := c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err != nil {
		t.Fatal(err)
	}
	if got := s.seen()[4].Header.Get("Authorization"); got != "Basic YW5uOnNlY3JldA==" {
		t.Errorf("Authorization is %q", got)
	}
}

// Errors of Dial itself say what is wanted, and show no password.
func TestDialErrors(t *testing.T) {
	for _, test := range []struct {
		url  string
		d    rpchttp.Dialer
		opts *rpcx.Options
		want string
	}{
		{url: "localhost:80", want: "the address has no scheme: want http://host/path, https://host/path or unix:///path/of/socket:/path"},
		{url: "ann:secret@h", want: "the address has no scheme"},
		{url: "ftp://a/b", want: `the scheme "ftp" is unknown: want http://`},
		{url: "http+unix://%2Frun%2Fa.sock/rpc", want: `the scheme "http+unix" is unknown: want http://`},
		{url: "ws://a/b", want: "see the package websocket"},
		{url: "tcp://a:1", want: "see rpcx.Dial"},
		{url: "http:///path", want: "the address has no host"},
		{url: "http://ann:secret@a:b/", want: "invalid port"},
		{url: "unix://", want: "the address names no socket"},
		{url: "unix:///a", d: rpchttp.Dialer{SOCKS: new(rpcx.SOCKSProxy)}, want: "cannot be dialled through Dialer.SOCKS"},
		{url: "unix:///a", d: rpchttp.Dialer{Client: http.DefaultClient}, want: "set DialContext of its Transport"},
		{url: "http://a", d: rpchttp.Dialer{Client: http.DefaultClient, TLS: new(tls.Config)}, want: "set DialContext and TLSClientConfig"},
		{url: "http://a", d: rpchttp.Dialer{MaxRetryWait: 30}, want: "Dialer.MaxRetryWait is 30ns: write 30*time.Second"},
		{url: "http://a", opts: &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 30}}, want: "Limits.RequestTimeout is 30ns: write 30*time.Second"},
	} {
		c, err := test.d.Dial(test.url, test.opts)
		if c != nil || err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", test.url, err)
		}
	}
}

// The trace context of a call is sent as headers, with and without a place in the message.
func TestDialerMeta(t *testing.T) {
	s := startWebServer(t, answeringBy(sumMethods()))
	next := 0
	traced := func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
		if next++; c.Method != "fail" {
			c.SetMeta("traceparent", fmt.Sprintf("00-%d", next))
			c.SetMeta("tracestate", "a=b")
			c.SetMeta("baggage", "secret")
		}
		return ctx, nil, nil
	}
	opts := &rpcx.Options{OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){traced}}
	c := dialClient(t, rpchttp.Dialer{Meta: true}, s.URL, opts)
	c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
	c.Call(t.Context(), "fail", nil, nil)
	var b rpcx.Batch
	b.Call("fail", nil, nil)
	b.Call("sum", nil, nil)
	b.Notify("note", nil)
	c.SendBatch(t.Context(), &b)
	c.Notify(t.Context(), "note", nil)
	if len(opts.OnCall) != 1 || opts.OnBatchCall != nil {
		t.Error("Dial has changed the options")
	}
	for i, want := range []string{"00-1 a=b ", "  ", "00-4 a=b ", "00-6 a=b "} {
		h := s.seen()[i].Header
		if got := h.Get("traceparent") + " " + h.Get("tracestate") + " " + h.Get("baggage"); got != want {
			t.Errorf("request %d has the trace context %q, want %q", i+1, got, want)
		}
	}
	bad := dialClient(t, rpchttp.Dialer{Meta: true}, s.URL, &rpcx.Options{OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
		func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			c.SetMeta("traceparent", "00-1\r\nX: y")
			return ctx, nil, nil
		}}})
	if err := bad.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil); err != nil || s.seen()[4].Header.Get("traceparent") != "" {
		t.Errorf("a value that is no header: %v, %v", err, s.seen()[4].Header)
	}
}

// CallHeader sees the context of the call, or of the batch, after the functions of OnCall.
// It comes before Auth, for each attempt.
func TestCallHeader(t *testing.T) {
	type key struct{}
	s := startWebServer(t, answeringBy(sumMethods()))
	opts := &rpcx.Options{
		OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
			func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
				return context.WithValue(ctx, key{}, "call of "+c.Method), nil, nil
			}},
		OnBatchCall: []func(context.Context, *rpcx.Session, *rpcx.Batch) (context.Context, func(error)){
			func(ctx context.Context, _ *rpcx.Session, b *rpcx.Batch) (context.Context, func(error)) {
				return context.WithValue(ctx, key{}, "batch"), nil
			}},
	}
	dialer := rpchttp.Dialer{
		Header: http.Header{"X-Fixed": {"1"}, "X-From": {"fixed"}},
		CallHeader: func(ctx context.Context) map[string]string {
			from, _ := ctx.Value(key{}).(string)
			return map[string]string{"x-from": from, "host": "host.example"}
		},
		Auth: func(_ context.Context, r *http.Request) error {
			r.Header.Set("X-Signed", r.Header.Get("X-From"))
			return nil
		},
	}
	c := dialClient(t, dialer, s.URL, opts)
	c.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
	var b rpcx.Batch
	b.Call("sum", rpcx.Args{1, 2}, nil)
	c.SendBatch(t.Context(), &b)
	c.Notify(t.Context(), "note", nil)
	for i, want := range []string{"call of sum", "batch", "call of note"} {
		h := s.seen()[i].Header
		if s.seen()[i].Host != "host.example" || h.Get("X-From") != want || h.Get("X-Signed") != want || h.Get("X-Fixed") != "1" {
			t.Errorf("request %d has the headers %v", i+1, h)
		}
	}
	dialer.CallHeader = func(context.Context) map[string]string { return map[string]string{"X-From": "a\r\nX: y"} }
	bad := dialClient(t, dialer, s.URL, nil)
	err := bad.Call(t.Context(), "sum", rpcx.Args{1, 2}, nil)
	if err == nil || !strings.Contains(err.Error(), `Dialer.CallHeader has returned the header "X-From"`) || len(s.seen()) != 3 {
		t.Errorf("a value that is no header: %v", err)
	}
}

// discardLog is the log of a server whose errors are expected.
var discardLog = log.New(io.Discard, "", 0)
