//go:build unix

package peers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
)

// haproxyConfig forwards to one server as long as its path /ready says 200. The path /admin
// is not for clients. Without abortonclose, HAProxy does not tell the server that a client
// has given a request up. The interval of the checks is their time to connect, too: a busy
// machine needs a longer one.
const haproxyConfig = `
global
    maxconn 500
defaults
    mode http
    option forwardfor
    option abortonclose
    timeout connect 30s
    timeout client 60s
    timeout server 60s
frontend web
    bind fd@3
    http-request deny deny_status 403 if { path_beg /admin }
    default_backend rpc
backend rpc
    option httpchk GET /ready
    http-check expect status 200
    http-reuse always
    timeout check 30s
    server a %s check inter 500ms fall 2 rise 1
`

// behindHAProxy is a web server of ours with HAProxy in front.
type behindHAProxy struct {
	addr         string // of HAProxy
	direct       string // of the web server
	rpc          atomic.Pointer[rpchttp.Handler]
	pretendReady atomic.Bool
	checked      chan struct{} // HAProxy has asked for /ready
	answers      chan struct{} // to handlers of the method "ask"
	hanging      chan struct{} // of the method "hang": its begin and its end

	mu      sync.Mutex
	handled map[string]int // how often each method was handled, and the path /admin
}

// startHAProxy starts the web server and HAProxy. The web server believes the header
// X-Forwarded-For of 127.0.0.1.
func startHAProxy(t *testing.T) *behindHAProxy {
	t.Helper()
	program := interoptest.Program(t, "apt-get install haproxy", "haproxy", "/usr/sbin")
	b := &behindHAProxy{checked: make(chan struct{}, 1), answers: make(chan struct{}, 1), hanging: make(chan struct{}, 2), handled: make(map[string]int)}
	b.restart()
	web := httptest.NewServer(b.paths())
	t.Cleanup(func() {
		web.Close()
		b.rpc.Load().Server.Close()
		b.rpc.Load().Server.Wait(context.Background())
	})
	b.direct = strings.TrimPrefix(web.URL, "http://")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // HAProxy has its own
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b.addr = l.Addr().String()
	config := writeFile(t, t.TempDir(), "haproxy.cfg", fmt.Sprintf(haproxyConfig, b.direct))
	cmd := interoptest.Command(t, program, "-db", "-f", config)
	if cmd.Dir, err = os.Getwd(); err != nil { // the path of the file may be relative
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{file} // fd@3
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return b
}

// restart puts a new rpcx.Server in place of the one before. Three errors use up a budget.
func (b *behindHAProxy) restart() {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(message any) any { return message }))
	router.Handle("note", rpcx.Func(func() {}))
	router.Handle("smuggled", rpcx.Func(func() {}))
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) (string, error) {
		host, _, err := net.SplitHostPort(s.RemoteAddr().String())
		return host, err
	}))
	router.Handle("ask", rpcx.Func(func(ctx context.Context, s *rpcx.Session) error {
		if err := s.Notify(ctx, "asked", nil); err != nil {
			return err
		}
		return receiveToken(ctx, b.answers)
	}))
	router.Handle("answer", rpcx.Func(func() { b.answers <- struct{}{} }))
	router.Handle("hang", rpcx.Func(func(ctx context.Context) {
		b.hanging <- struct{}{}
		<-ctx.Done()
		b.hanging <- struct{}{}
	}))
	counting := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		b.count(req.Method)
		return router.ServeRPC(ctx, req)
	})
	b.rpc.Store(&rpchttp.Handler{
		Server: &rpcx.Server{Options: rpcx.Options{Handler: counting, Limits: rpcx.Limits{CostHard: 250, CostDelay: -1}}},
		Client: rpchttp.XForwardedFor(netip.MustParsePrefix("127.0.0.1/32")),
		SSE:    true,
	})
}

// receiveToken receives from c, or returns the cause of ctx.
func receiveToken(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// paths is the handler of the web server. At /abort, the server handles a message, and
// breaks off instead of an answer.
func (b *behindHAProxy) paths() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/rpc", func(w http.ResponseWriter, r *http.Request) { b.rpc.Load().ServeHTTP(w, r) })
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) {
		b.rpc.Load().ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if !b.pretendReady.Load() {
			rpchttp.Ready(b.rpc.Load().Server).ServeHTTP(w, r)
		}
		select {
		case b.checked <- struct{}{}:
		default:
		}
	})
	mux.HandleFunc("/admin", func(http.ResponseWriter, *http.Request) { b.count("/admin") })
	return mux
}

func (b *behindHAProxy) count(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handled[what]++
}

// handledOf returns how often a method, or the path /admin, was handled since the last call.
func (b *behindHAProxy) handledOf(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.handled[what]
	delete(b.handled, what)
	return n
}

// dialFrom returns a client with a source address of this machine, and a count of the
// requests that it sends.
func (b *behindHAProxy) dialFrom(t *testing.T, source, url string, d rpchttp.Dialer) (*rpchttp.Client, *attempts) {
	t.Helper()
	return b.dialWith(t, source, url, d, nil)
}

// dialWith is dialFrom with options.
func (b *behindHAProxy) dialWith(t *testing.T, source, url string, d rpchttp.Dialer, opts *rpcx.Options) (*rpchttp.Client, *attempts) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	counted := &attempts{RoundTripper: transport}
	d.Client = &http.Client{Transport: counted}
	c, err := d.Dial(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, counted
}

// attempts counts the requests of a client.
type attempts struct {
	http.RoundTripper
	n       atomic.Int64
	refused func() // if not nil, is called after the first answer with 503
}

func (a *attempts) RoundTrip(r *http.Request) (*http.Response, error) {
	n := a.n.Add(1)
	response, err := a.RoundTripper.RoundTrip(r)
	if n == 1 && err == nil && response.StatusCode == http.StatusServiceUnavailable && a.refused != nil {
		a.refused()
	}
	return response, err
}

// expect checks the number of requests since the last call.
func (a *attempts) expect(t *testing.T, what string, want int64) {
	t.Helper()
	if n := a.n.Swap(0); n != want {
		t.Errorf("%s was sent %d times, want %d", what, n, want)
	}
}

// waitFor waits until HAProxy answers a GET with a status: 405 if the server is up, 503 if
// it is down. waitFor asks after each check.
func (b *behindHAProxy) waitFor(t *testing.T, status int) {
	t.Helper()
	ctx := interopContext(t)
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.addr+"/rpc", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("waiting for status %d: %v", status, err)
		}
		response.Body.Close()
		if response.StatusCode == status {
			return
		}
		if err := receiveToken(ctx, b.checked); err != nil {
			t.Fatalf("waiting for status %d: %v", status, err)
		}
	}
}

// One HAProxy is the peer of all its tests. The last one shuts the server down.
func TestInteropHAProxy(t *testing.T) {
	noLeak(t)
	b := startHAProxy(t)
	defer http.DefaultClient.CloseIdleConnections()
	t.Run("forwarded for", b.testForwardedFor)
	t.Run("smuggling", b.testSmuggling)
	t.Run("events", b.testEvents)
	t.Run("shutdown", b.testShutdown)
}

// Behind HAProxy, a budget is that of the client, whatever the client says of itself.
func (b *behindHAProxy) testForwardedFor(t *testing.T) {
	ctx := interopContext(t)
	url := "http://" + b.addr + "/rpc"
	status := func(err error) int {
		if e, ok := errors.AsType[*rpchttp.StatusError](err); ok {
			return e.StatusCode
		}
		return 0
	}
	once := rpchttp.Dialer{Retries: -1}
	spent, _ := b.dialFrom(t, "127.0.0.2", url, once)
	for n := 0; ; n++ {
		err := spent.Call(ctx, "nothing", nil, nil)
		if errors.Is(err, rpcx.ErrExcessiveCost) || isExcessive(err) {
			break
		}
		if !errors.Is(err, rpcx.ErrMethodNotFound) || n > 10 {
			t.Fatalf("call %d: %v (status %d)", n, err, status(err))
		}
	}
	for name, header := range map[string]http.Header{
		"as itself":                  nil,
		"as somebody else":           {"X-Forwarded-For": {"127.0.0.3"}},
		"as several others":          {"X-Forwarded-For": {"127.0.0.3, 127.0.0.4", "127.0.0.5"}},
		"as the proxy":               {"X-Forwarded-For": {"127.0.0.1"}},
		"as nobody":                  {"X-Forwarded-For": {"unknown"}},
		"as somebody else (Real-IP)": {"X-Real-Ip": {"127.0.0.3"}, "Forwarded": {"for=127.0.0.3"}},
	} {
		again, _ := b.dialFrom(t, "127.0.0.2", url, rpchttp.Dialer{Retries: -1, Header: header})
		if err := again.Call(ctx, "whoami", nil, nil); !isExcessive(err) {
			t.Errorf("%s on a new connection: %v", name, err)
		}
	}
	for source, header := range map[string]http.Header{
		"127.0.0.3": nil,
		"127.0.0.4": {"X-Forwarded-For": {"127.0.0.2"}},
	} {
		other, _ := b.dialFrom(t, source, url, rpchttp.Dialer{Retries: -1, Header: header})
		if who, err := rpcx.Call[string](ctx, other, "whoami", nil); who != source || err != nil {
			t.Errorf("from %s: %q, %v", source, who, err)
		}
	}
	// Without HAProxy, the header counts for nothing.
	direct, _ := b.dialFrom(t, "127.0.0.5", "http://"+b.direct+"/rpc", rpchttp.Dialer{Header: http.Header{"X-Forwarded-For": {"127.0.0.2"}}})
	if who, err := rpcx.Call[string](ctx, direct, "whoami", nil); who != "127.0.0.5" || err != nil {
		t.Errorf("without HAProxy: %q, %v", who, err)
	}
}

// isExcessive reports whether a call has failed because the budget is used up.
func isExcessive(err error) bool {
	e, ok := errors.AsType[*rpcx.Error](err)
	return ok && e.Code == rpcx.CodeExcessiveResourceUsage
}

// HAProxy learns by /ready that the server takes nothing any more, and answers 503 itself.
// A client repeats only idempotent methods then, and a message that the server says it has
// not started.
func (b *behindHAProxy) testShutdown(t *testing.T) {
	ctx := interopContext(t)
	idempotent := rpchttp.Dialer{Idempotent: func(method string) bool { return method == "echo" }}
	c, sent := b.dialFrom(t, "127.0.0.22", "http://"+b.addr+"/rpc", idempotent)
	expectStatus := func(what string, err error, want int) {
		t.Helper()
		if e, ok := errors.AsType[*rpchttp.StatusError](err); !ok || e.StatusCode != want {
			t.Errorf("%s: %v, want status %d", what, err, want)
		}
	}

	// The server breaks off after it has carried a message out. HAProxy answers 502, or, if
	// its own connection to the server was not new, closes the connection in silence.
	aborted, abortedSent := b.dialFrom(t, "127.0.0.23", "http://"+b.addr+"/abort", idempotent)
	expectBroken := func(method string, want int) {
		t.Helper()
		err := aborted.Call(ctx, method, rpcx.Args{}, nil)
		if e, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || !e.Written {
			t.Errorf("%s: %v", method, err)
		}
		abortedSent.expect(t, method, int64(want))
		if n := b.handledOf(method); n != want {
			t.Errorf("%s was handled %d times, want %d", method, n, want)
		}
	}
	for range 20 { // on all kinds of connections
		expectBroken("note", 1)
		if err := c.Call(ctx, "echo", rpcx.Args{1}, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.handledOf("echo")
	sent.n.Store(0)
	expectBroken("echo", 3)

	// The server says itself that it has not started a message, and HAProxy passes that on.
	b.pretendReady.Store(true)
	b.rpc.Load().Server.Shutdown(ctx)
	once, _ := b.dialFrom(t, "127.0.0.22", "http://"+b.addr+"/rpc", rpchttp.Dialer{Retries: -1})
	err := once.Call(ctx, "note", nil, nil)
	if e, ok := errors.AsType[*rpcx.Error](err); !ok || !e.NotStarted() {
		t.Errorf("during the shutdown: %v", err)
	}
	sent.refused = func() { b.restart() }
	if err := c.Call(ctx, "note", nil, nil); err != nil {
		t.Errorf("a note that was not started is not sent again: %v", err)
	}
	sent.expect(t, "a note that was not started", 2)
	if n := b.handledOf("note"); n != 1 {
		t.Errorf("the note was handled %d times", n)
	}

	// HAProxy sees /ready, and answers 503 itself.
	b.pretendReady.Store(false)
	b.rpc.Load().Server.Shutdown(ctx)
	b.waitFor(t, http.StatusServiceUnavailable)
	sent.refused = nil
	expectStatus("a note", c.Call(ctx, "note", nil, nil), http.StatusServiceUnavailable)
	sent.expect(t, "a note", 1)
	expectStatus("an echo", c.Call(ctx, "echo", rpcx.Args{1}, nil), http.StatusServiceUnavailable)
	sent.expect(t, "an echo", 3)
	var mixed rpcx.Batch
	mixed.Call("echo", rpcx.Args{1}, nil)
	mixed.Call("note", nil, nil)
	expectStatus("a batch", c.SendBatch(ctx, &mixed), http.StatusServiceUnavailable)
	sent.expect(t, "a batch with a note", 1)

	// The server is back between the first attempt and the next.
	sent.refused = func() {
		b.restart()
		b.waitFor(t, http.StatusMethodNotAllowed)
	}
	if got, err := rpcx.Call[int](ctx, c, "echo", rpcx.Args{7}); got != 7 || err != nil {
		t.Errorf("echo after the restart: %d, %v", got, err)
	}
	sent.expect(t, "an echo", 2)
	if n := b.handledOf("note"); n != 0 {
		t.Errorf("%d notes were handled", n)
	}
}

// HAProxy passes events on at once, in time for a handler that waits for what the event
// causes, and tells the server when a client gives a request up.
func (b *behindHAProxy) testEvents(t *testing.T) {
	ctx := interopContext(t)
	url := "http://" + b.addr + "/rpc"
	other, _ := b.dialFrom(t, "127.0.0.33", url, rpchttp.Dialer{})
	router := rpcx.NewRouter()
	router.Handle("asked", rpcx.Func(func(ctx context.Context) error { return other.Call(ctx, "answer", nil, nil) }))
	c, _ := b.dialWith(t, "127.0.0.32", url, rpchttp.Dialer{}, &rpcx.Options{Handler: router})
	for range 10 {
		if err := c.Call(ctx, "ask", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		hurried, cancel := context.WithCancel(ctx)
		call := c.Go(hurried, "hang", nil)
		if err := receiveToken(ctx, b.hanging); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := call.Wait(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("the call ended with %v", err)
		}
		if err := receiveToken(ctx, b.hanging); err != nil {
			t.Fatalf("the handler goes on: %v", err)
		}
	}
}
