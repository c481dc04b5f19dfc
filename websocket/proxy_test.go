package websocket_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// askedProxy is a forward proxy that knows nothing but CONNECT, and remembers what it
// was asked for.
type askedProxy struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func newAskedProxy(t *testing.T, start func(*httptest.Server)) *askedProxy {
	t.Helper()
	p := new(askedProxy)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, strings.TrimSpace(r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization")))
		p.mu.Unlock()
		tunnel(w, r)
	}))
	start(p.Server)
	t.Cleanup(p.Close)
	return p
}

func (p *askedProxy) requests() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := strings.Join(p.asked, ", ")
	p.asked = nil
	return asked
}

// An HTTP proxy is asked for a tunnel, for ws:// too, and is told nothing that is for
// the server; nor is the server told what is for the proxy.
func TestForwardProxy(t *testing.T) {
	header := make(chan http.Header, 1)
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	h := websocket.Handler(srv)
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header <- r.Header.Clone()
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	plain := newAskedProxy(t, (*httptest.Server).Start)
	secure := newAskedProxy(t, (*httptest.Server).StartTLS)
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	target := strings.TrimPrefix(server, "ws://")
	withUser := func(proxy string) string { return strings.Replace(proxy, "://", "://ann:se%40cret@", 1) }
	const auth = " Basic YW5uOnNlQGNyZXQ="
	for name, c := range map[string]struct {
		proxy  *askedProxy
		url    string
		header http.Header
		want   string
	}{
		"http":                        {plain, plain.URL, nil, "CONNECT " + target},
		"http with a path":            {plain, plain.URL + "/", nil, "CONNECT " + target},
		"http with a user":            {plain, withUser(plain.URL), nil, "CONNECT " + target + auth},
		"https":                       {secure, secure.URL, nil, "CONNECT " + target},
		"https with a user":           {secure, withUser(secure.URL), nil, "CONNECT " + target + auth},
		"http with a token":           {plain, plain.URL, http.Header{"Proxy-Authorization": {"Bearer x"}}, "CONNECT " + target + " Bearer x"},
		"a user, and a token as well": {plain, withUser(plain.URL), http.Header{"Proxy-Authorization": {"Bearer x"}}, "CONNECT " + target + auth},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, err := url.Parse(c.url)
			if err != nil {
				t.Fatal(err)
			}
			if c.header == nil {
				c.header = http.Header{}
			}
			c.header.Set("Authorization", "Bearer y")
			asked := ""
			d := websocket.Dialer{
				Dialer: rpcx.Dialer{TLS: &tls.Config{RootCAs: roots, ServerName: "other.example"}}, // the server's
				Header: c.header,
				Proxy: func(r *http.Request) (*url.URL, error) {
					asked = r.URL.String()
					return proxy, nil
				},
			}
			s := dial(t, d, server, nil)
			if err := s.Call(t.Context(), "echo", rpcx.Args{1}, nil); err != nil {
				t.Error(err)
			}
			if got := c.proxy.requests(); got != c.want {
				t.Errorf("the proxy was asked %q, want %q", got, c.want)
			}
			if got := <-header; got.Get("Proxy-Authorization") != "" || got.Get("Authorization") != "Bearer y" {
				t.Errorf("the server was sent %v", got)
			}
			if want := "http://" + target; asked != want {
				t.Errorf("the proxy for %s was looked for, want %s", asked, want)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		d := websocket.Dialer{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
		dial(t, d, server, nil)
		<-header
		if got := plain.requests() + secure.requests(); got != "" {
			t.Errorf("a proxy was asked %q", got)
		}
	})
	t.Run("it cannot be told", func(t *testing.T) {
		unknown := errors.New("unknown")
		d := websocket.Dialer{Proxy: func(*http.Request) (*url.URL, error) { return nil, unknown }}
		if _, err := d.Dial(t.Context(), server, nil); !errors.Is(err, unknown) {
			t.Errorf("dialling: %v", err)
		}
	})
	t.Run("through SOCKS to the proxy", func(t *testing.T) {
		proxy, _ := url.Parse(plain.URL)
		d := websocket.Dialer{Dialer: rpcx.Dialer{SOCKS: socksTo(t, "tcp", "127.0.0.1:0")}, Proxy: http.ProxyURL(proxy)}
		s := dial(t, d, server, nil)
		<-header
		if got := plain.requests(); got != "CONNECT "+target || s.SOCKS() != d.SOCKS {
			t.Errorf("the proxy was asked %q, through %v", got, s.SOCKS())
		}
	})
}

// TLS runs to the proxy and, within that, to the server.
func TestTLSThroughAProxyOverTLS(t *testing.T) {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	web := httptest.NewTLSServer(websocket.Handler(srv))
	t.Cleanup(web.Close)
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	p := newAskedProxy(t, (*httptest.Server).StartTLS)
	proxy, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	roots.AddCert(p.Certificate())
	d := websocket.Dialer{Dialer: rpcx.Dialer{TLS: &tls.Config{RootCAs: roots}}, Proxy: http.ProxyURL(proxy)}
	s := dial(t, d, "wss"+strings.TrimPrefix(web.URL, "https"), nil)
	if err := s.Call(t.Context(), "echo", rpcx.Args{1}, nil); err != nil {
		t.Error(err)
	}
	if got, want := p.requests(), "CONNECT "+strings.TrimPrefix(web.URL, "https://"); got != want {
		t.Errorf("the proxy was asked %q, want %q", got, want)
	}
}

// A proxy that does not make a tunnel is named, its password is not, and nothing goes
// round it.
func TestForwardProxyThatRefuses(t *testing.T) {
	server := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the server was reached") }))
	reply := func(text string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		// Owner: the test. End: the listener is closed.
		wg.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.Read(make([]byte, 4096))
				io.WriteString(conn, text)
				conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, conn)
				conn.Close()
			}
		})
		t.Cleanup(func() {
			l.Close()
			wg.Wait()
		})
		return "http://ann:secret@" + l.Addr().String()
	}
	for name, c := range map[string]struct{ proxy, want string }{
		"it wants a user":         {reply("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwho?"), "407 Proxy Authentication Required"},
		"it forbids the port":     {reply("HTTP/1.1 403 Forbidden\r\n\r\n"), "403 Forbidden"},
		"it is a web server":      {serveHTTP(t, http.NotFoundHandler()), "404 Not Found"},
		"it hangs up":             {reply(""), "CONNECT"},
		"it does not speak HTTP":  {reply("SSH-2.0-OpenSSH\r\n"), "CONNECT"},
		"its answer has no end":   {reply("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), "more than 65536 bytes"},
		"it says too much":        {reply("HTTP/1.1 200 OK\r\n\r\nhello"), "more than its answer"},
		"it is not there":         {"http://ann:secret@127.0.0.1:1", "refused"},
		"it has no TLS":           {strings.Replace(reply("HTTP/1.1 400 Bad Request\r\n\r\n"), "http", "https", 1), "tls"},
		"it is of no known kind":  {"ftp://ann:secret@127.0.0.1:1", "unknown scheme"},
		"it has no scheme":        {"//ann:secret@127.0.0.1:1", "socks5://"},
		"it is SOCKS and is none": {"socks://ann:secret@127.0.0.1:1", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, err := url.Parse(c.proxy)
			if err != nil {
				t.Fatal(err)
			}
			d := websocket.Dialer{Proxy: http.ProxyURL(proxy)}
			s, err := d.Dial(t.Context(), server, nil)
			if err == nil {
				s.Close()
				t.Fatal("it is dialled")
			}
			if text := err.Error(); !strings.Contains(text, c.want) || !strings.Contains(text, proxy.Host) || strings.Contains(text, "secret") {
				t.Errorf("got %q, want %q in it", text, c.want)
			}
			if _, ok := errors.AsType[*websocket.StatusError](err); ok {
				t.Error("the proxy's answer is taken for the server's")
			}
		})
	}
}

func serveHTTP(t *testing.T, h http.Handler) string {
	return "http" + strings.TrimPrefix(serve(t, h), "ws")
}

// Who does not answer is waited for as long as dialling may take, at every stage of it,
// and nothing goes on afterwards.
func TestSilenceWhileDialling(t *testing.T) {
	for name, c := range map[string]struct{ server, proxy string }{
		"the server's handshake":       {"ws://memory/", ""},
		"its TLS":                      {"wss://memory/", ""},
		"the proxy's tunnel":           {"ws://memory/", "http://memory"},
		"the proxy's tunnel, for TLS":  {"wss://memory/", "http://memory"},
		"the proxy's TLS":              {"ws://memory/", "https://memory"},
		"the handshake of SOCKS":       {"ws://memory/", "socks5://memory"},
		"the connection":               {"ws://nowhere/", ""},
		"the connection, of the proxy": {"wss://memory/", "http://nowhere"},
	} {
		for _, timeout := range []time.Duration{time.Minute, -1} {
			t.Run(fmt.Sprint(name, ", ", timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					d := websocket.Dialer{Dialer: rpcx.Dialer{Timeout: timeout}}
					if c.proxy != "" {
						proxy, err := url.Parse(c.proxy)
						if err != nil {
							t.Fatal(err)
						}
						d.Proxy = http.ProxyURL(proxy)
					}
					d.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
						if strings.HasPrefix(addr, "nowhere") {
							<-ctx.Done()
							return nil, ctx.Err()
						}
						near, far := net.Pipe()
						// Owner: the test. End: the client hangs up.
						go io.Copy(io.Discard, far)
						return near, nil
					}
					start := time.Now()
					if _, err := d.Dial(ctx, c.server, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
						t.Errorf("after %v: %v", time.Since(start), err)
					}
				})
			})
		}
	}
}

// Any URL that ParseSOCKSProxy takes is one of a proxy.
func TestSOCKSProxyOfARequest(t *testing.T) {
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods()}}
	server := serveRPC(t, srv)
	tcp, unix := socksTo(t, "tcp", "127.0.0.1:0"), socksTo(t, "unix", filepath.Join(t.TempDir(), "socks"))
	for _, proxy := range []string{
		"socks5://" + tcp.Addr, "socks5h://" + tcp.Addr, "socks://" + tcp.Addr,
		"socks5+" + unix.Addr, unix.Addr,
	} {
		t.Run(strings.SplitN(proxy, ":", 2)[0], func(t *testing.T) {
			u, err := url.Parse(proxy)
			if err != nil {
				t.Fatal(err)
			}
			s := dial(t, websocket.Dialer{Proxy: http.ProxyURL(u)}, server, nil)
			if err := s.Call(t.Context(), "echo", rpcx.Args{1}, nil); err != nil {
				t.Error(err)
			}
			if s.SOCKS() == nil || s.RemoteAddr().String() != strings.TrimPrefix(server, "ws://") {
				t.Errorf("it goes to %v, through %v", s.RemoteAddr(), s.SOCKS())
			}
		})
	}
}

// socksTo returns a SOCKS5 proxy that knows IPv4 addresses and no users.
func socksTo(t *testing.T, network, addr string) *rpcx.SOCKSProxy {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	// Owner: the test. End: the listener is closed.
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			// Owner: the proxy. End: both sides have closed their connections.
			wg.Go(func() {
				defer near.Close()
				var b [10]byte
				io.ReadFull(near, b[:3])
				near.Write([]byte{5, 0})
				if _, err := io.ReadFull(near, b[:]); err != nil || b[3] != 1 {
					t.Errorf("the proxy was asked % x, %v", b, err)
					return
				}
				far, err := net.Dial("tcp", fmt.Sprintf("%v:%d", net.IP(b[4:8]), int(b[8])<<8|int(b[9])))
				if err != nil {
					near.Write([]byte{5, 5})
					return
				}
				defer far.Close()
				near.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				wg.Go(func() {
					io.Copy(far, near)
					far.Close()
				})
				io.Copy(near, far)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	if addr = l.Addr().String(); network == "unix" {
		addr = "unix://" + addr
	}
	return &rpcx.SOCKSProxy{Addr: addr}
}

// The name by which a server is asked can be another than that of its address.
func TestHostHeader(t *testing.T) {
	hosts := make(chan string, 2)
	srv := &rpcx.Server{}
	h := websocket.Handler(srv)
	server := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Host
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	addr := strings.TrimPrefix(server, "ws://")
	for name, c := range map[string]struct {
		header http.Header
		query  string
		want   []string
	}{
		"none":                      {nil, "", []string{addr}},
		"another header":            {http.Header{"X": {"y"}}, "", []string{addr}},
		"a name":                    {http.Header{"Host": {"rpc.example"}}, "", []string{"rpc.example"}},
		"a name and a port":         {http.Header{"Host": {"rpc.example:81"}, "X": {"y"}}, "", []string{"rpc.example:81"}},
		"in lower case":             {http.Header{"host": {"rpc.example"}}, "", []string{"rpc.example"}},
		"an empty one":              {http.Header{"Host": {""}}, "", []string{addr}},
		"no value":                  {http.Header{"Host": nil}, "", []string{addr}},
		"on the same server":        {http.Header{"Host": {"rpc.example"}}, "?to=/", []string{"rpc.example", "rpc.example"}},
		"not on another one's name": {http.Header{"Host": {"rpc.example"}}, "?to=http://" + addr, []string{"rpc.example", addr}},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.header.Clone()
			s := dial(t, websocket.Dialer{Header: c.header}, server+"/"+c.query, nil)
			for _, want := range c.want {
				if got := <-hosts; got != want {
					t.Errorf("the server is asked as %q, want %q", got, want)
				}
			}
			if fmt.Sprint(before) != fmt.Sprint(c.header) {
				t.Errorf("the header was changed from %v to %v", before, c.header)
			}
			s.Close()
			<-s.Done()
		})
	}
}
