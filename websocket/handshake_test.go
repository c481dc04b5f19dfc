package websocket_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	coder "github.com/coder/websocket"
)

func TestOrigins(t *testing.T) {
	var logged bytes.Buffer
	srv := &rpcx.Server{Options: rpcx.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))}}
	for _, c := range []struct {
		name    string
		origins []string
		origin  string // %s is the server's host
		allowed bool
	}{
		{"no origin is no browser", nil, "", true},
		{"the page is the server's own", nil, "http://%s", true},
		{"the page is somebody else's", nil, "http://evil.example", false},
		{"the page is at another port", nil, "http://127.0.0.1:1", false},
		{"the origin is hidden", nil, "null", false},
		{"the page is a friend's", []string{"*.friend.example"}, "https://www.friend.example", true},
		{"the page looks like a friend's", []string{"*.friend.example"}, "https://friend.example.evil.example", false},
		{"a scheme can be asked for", []string{"https://friend.example"}, "http://friend.example", false},
		{"anybody may come", []string{"*"}, "http://evil.example", true},
		{"a hidden origin may come", []string{"null"}, "null", true},
		{"beside others", []string{"friend.example", "null"}, "null", true},
		{"it lets nobody else come", []string{"null"}, "http://evil.example", false},
		{"it lets the others come", []string{"friend.example", "null"}, "http://friend.example", true},
		{"others do not let it come", []string{"friend.example", "https://*"}, "null", false},
		{"it is no host", []string{"null"}, "http://null", false},
		{"a host has its name", []string{"http://null"}, "null", false},
		{"such a host", []string{"http://null", "null"}, "http://null", true},
		{"the server's own, beside it", []string{"null"}, "http://%s", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			logged.Reset()
			url := serve(t, &websocket.Acceptor{Server: srv, Origins: c.origins})
			header := http.Header{}
			if c.origin != "" {
				header.Set("Origin", strings.ReplaceAll(c.origin, "%s", strings.TrimPrefix(url, "ws://")))
			}
			d := websocket.Dialer{Header: header}
			s, err := d.Dial(t.Context(), url, nil)
			if err == nil {
				s.Close()
				<-s.Done()
			}
			if (err == nil) != c.allowed {
				t.Errorf("dialling: %v", err)
			}
			if !c.allowed && !strings.Contains(logged.String(), "WebSocket refused") {
				t.Errorf("the log is %q", &logged)
			}
		})
	}
	srv.Close()
	srv.Wait(context.Background())
}

func TestSubprotocols(t *testing.T) {
	srv := &rpcx.Server{}
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	url := serve(t, &websocket.Acceptor{Server: srv, Config: websocket.Config{Subprotocols: []string{"jsonrpc"}}})
	ws := peer(t, url, &coder.DialOptions{Subprotocols: []string{"other", "jsonrpc"}})
	if got := ws.Subprotocol(); got != "jsonrpc" {
		t.Errorf("the server picks %q", got)
	}
	ws.Close(coder.StatusNormalClosure, "")
}

func TestTLSAndProxy(t *testing.T) {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	web := httptest.NewUnstartedServer(websocket.Handler(srv))
	web.Config.ErrorLog = log.New(io.Discard, "", 0)
	web.StartTLS()
	defer web.Close()
	defer srv.Wait(context.Background())
	defer srv.Close()
	var tunnels atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tunnels.Add(1)
		tunnel(w, r)
	}))
	defer proxy.Close()
	proxyURL, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	d := websocket.Dialer{
		Dialer: rpcx.Dialer{TLS: &tls.Config{RootCAs: roots}},
		Proxy:  http.ProxyURL(proxyURL),
	}
	addr := "wss" + strings.TrimPrefix(web.URL, "https")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := d.Dial(ctx, addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // it was for the dialling
	if got, err := rpcx.Call[string](t.Context(), s, "echo", rpcx.Args{"secret"}); got != "secret" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if tunnels.Load() != 1 {
		t.Errorf("%d connections went through the proxy", tunnels.Load())
	}
	if conn, ok := s.NetConn().(*tls.Conn); !ok || !conn.ConnectionState().HandshakeComplete {
		t.Errorf("the connection is a %T", s.NetConn())
	}
	s.Close()
	<-s.Done()
	if _, err := websocket.Dial(t.Context(), addr, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown certificate: %v", err)
	}
}

// tunnel is a proxy's CONNECT.
func tunnel(w http.ResponseWriter, r *http.Request) {
	far, err := net.Dial("tcp", r.Host)
	if err != nil || r.Method != http.MethodConnect {
		http.Error(w, "no", http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		far.Close()
		return
	}
	io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	// Owner: the proxy. End: one of the ends closes its connection.
	go func() {
		io.Copy(far, near)
		far.Close()
	}()
	io.Copy(near, far)
	near.Close()
}

func TestDialErrors(t *testing.T) {
	notThere := serve(t, http.NotFoundHandler())
	for name, c := range map[string]struct{ url, want string }{
		"there is no WebSocket":   {notThere, "404"},
		"the scheme is another":   {"tcp://127.0.0.1:1", "want ws://host/path or wss://host/path"},
		"there is no scheme":      {"127.0.0.1:1", "ws://host/path"},
		"nobody listens":          {"ws://127.0.0.1:1/", "refused"},
		"the address is no URL":   {"ws://%", ""},
		"the address has no host": {"ws://", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := websocket.Dial(t.Context(), c.url, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "dial "+c.url) {
				t.Errorf("%v", err)
			}
		})
	}
	// What the server says is not lost, and a password is not told.
	busy := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, strings.Repeat("later ", 1000), http.StatusTooManyRequests)
	}))
	_, err := websocket.Dial(t.Context(), strings.Replace(busy, "ws://", "ws://ann:secret@", 1), nil)
	e, ok := errors.AsType[*websocket.StatusError](err)
	if !ok || e.Code != http.StatusTooManyRequests || e.Header.Get("Retry-After") != "60" || e.Body != strings.Repeat("later ", 1000)[:1024] {
		t.Errorf("a server without time: %v, %+v", err, e)
	}
	if text := err.Error(); !strings.HasSuffix(text, ` 429 Too Many Requests: "`+strings.Repeat("later ", 22)[:128]+`…"`) {
		t.Errorf("the error is %q", text)
	}
	if text := err.Error(); strings.Contains(text, "secret") || !strings.Contains(text, "ann") {
		t.Errorf("the error is %q", text)
	}
	if _, err := rpcx.Dial(t.Context(), "ws://127.0.0.1:1", nil); err == nil || !strings.Contains(err.Error(), "package websocket") {
		t.Errorf("rpcx.Dial: %v", err)
	}
}

// A redirection is followed, but not out of TLS.
func TestRedirections(t *testing.T) {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	insecure := serveRPC(t, srv)
	asHTTP := "http" + strings.TrimPrefix(insecure, "ws")
	secure := httptest.NewTLSServer(http.RedirectHandler(asHTTP, http.StatusFound))
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	d := websocket.Dialer{Dialer: rpcx.Dialer{TLS: &tls.Config{RootCAs: roots}}}
	if _, err := d.Dial(t.Context(), "wss"+strings.TrimPrefix(secure.URL, "https"), nil); err == nil || !strings.Contains(err.Error(), "insecure") {
		t.Errorf("from wss:// to ws://: %v", err)
	}
	s := dial(t, d, serve(t, http.RedirectHandler(asHTTP, http.StatusFound)), nil)
	if err := s.Call(t.Context(), "echo", rpcx.Args{1}, nil); err != nil {
		t.Errorf("from ws:// to ws://: %v", err)
	}
	endless := serve(t, http.RedirectHandler("/", http.StatusFound))
	if _, err := d.Dial(t.Context(), endless, nil); err == nil || !strings.Contains(err.Error(), "10 redirections") {
		t.Errorf("in a circle: %v", err)
	}
}

func TestDialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, stop := inMemory(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		start := time.Now()
		d := websocket.Dialer{Dialer: rpcx.Dialer{DialContext: l.dial, Timeout: time.Minute}}
		if _, err := d.Dial(t.Context(), "ws://memory/", nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		stop()
	})
}

// What is no WebSocket request is answered as HTTP.
func TestPlainRequests(t *testing.T) {
	srv := &rpcx.Server{}
	url := "http" + strings.TrimPrefix(serve(t, websocket.Handler(srv)), "ws")
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("GET: %s", resp.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}

// A middleware may wrap the response if it lets us have the connection.
func TestMiddleware(t *testing.T) {
	type hiding struct{ http.ResponseWriter }
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	h := websocket.Handler(srv)
	for name, c := range map[string]struct {
		wrap    func(w http.ResponseWriter) http.ResponseWriter
		refused string
	}{
		"it lets us":             {func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{hiding{w}, w} }, ""},
		"it does not":            {func(w http.ResponseWriter) http.ResponseWriter { return hiding{w} }, "501"},
		"what it wraps does not": {func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{w, hiding{w}} }, "501"},
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(c.wrap(w), r) }))
			s, err := websocket.Dial(t.Context(), url, nil)
			if err == nil {
				err = s.Call(t.Context(), "echo", rpcx.Args{1}, nil)
				s.Close()
				<-s.Done()
			}
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("%v", err)
			}
		})
	}
}

// unwrapping is a response that shows what it wraps.
type unwrapping struct {
	http.ResponseWriter
	wrapped http.ResponseWriter
}

func (u unwrapping) Unwrap() http.ResponseWriter { return u.wrapped }

// A request that is refused costs a peer little, and the error repeats its headers.
func TestRefusalsAreLoggedWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := &websocket.Acceptor{Server: &rpcx.Server{Options: rpcx.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}}}
		r := httptest.NewRequest(http.MethodGet, "http://example.com", nil)
		r.Header.Set("Connection", strings.Repeat("\x1b", 100_000))
		const n = 300
		for range n {
			w := httptest.NewRecorder()
			if a.ServeHTTP(w, r); w.Code < 400 {
				t.Fatalf("the status is %d", w.Code)
			}
		}
		if got := strings.Count(log.String(), "WebSocket refused"); got != 100 {
			t.Errorf("%d of %d refusals were logged at once", got, n)
		}
		if got := log.Len(); got > 100*1200 {
			t.Errorf("%d bytes were logged", got)
		}
		log.Reset()
		time.Sleep(time.Second)
		a.ServeHTTP(httptest.NewRecorder(), r)
		if got := log.String(); !strings.Contains(got, `"records left out"=200`) {
			t.Errorf("a second later %q was logged", got)
		}
	})
}

// What a server answers instead of a WebSocket comes into the error of Dial in part.
func TestDialErrorIsCut(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", strings.Repeat("x", 100_000))
		w.WriteHeader(http.StatusSwitchingProtocols)
	}))
	defer srv.Close()
	_, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http"), nil)
	if err == nil || len(err.Error()) > 700 {
		t.Errorf("got %.1000v", err)
	}
}
