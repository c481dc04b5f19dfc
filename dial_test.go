package rpcx_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// certificate returns the configurations of a TLS server for 127.0.0.1, and of
// a client that trusts it.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	h := httptest.NewTLSServer(nil) // has a certificate for tests
	defer h.Close()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	return &tls.Config{Certificates: h.TLS.Certificates}, &tls.Config{RootCAs: roots}
}

// freePort returns an address on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// dialSoon dials a server that is about to listen.
func dialSoon(t *testing.T, d *rpcx.Dialer, addr string, opts *rpcx.Options) *rpcx.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		s, err := d.Dial(ctx, addr, opts)
		if err == nil {
			return s
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

func TestListenAndServeAndDial(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	for name, addr := range map[string]string{
		"tcp":  "tcp://" + freePort(t),
		"TCP":  "TCP://" + freePort(t),
		"tls":  "tls://" + freePort(t),
		"ssl":  "ssl://" + freePort(t),
		"unix": "unix://" + filepath.Join(t.TempDir(), "socket"),
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			secure := name == "tls" || name == "ssl"
			srv := &rpcx.Server{TLS: serverTLS, Options: *handling(methods{
				"back": func(ctx context.Context, req *rpcx.Request) (any, error) {
					return rpcx.Call[string](ctx, req.Session(), "reply", rpcx.Args{"and back"})
				},
				"secure": func(_ context.Context, req *rpcx.Request) (any, error) {
					_, ok := req.Session().NetConn().(*tls.Conn)
					return ok, nil
				},
			})}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			served := make(chan error, 1)
			go func() { served <- srv.ListenAndServe(ctx, addr) }()

			s := dialSoon(t, &rpcx.Dialer{TLS: clientTLS}, addr, handling(methods{"reply": reply}))
			if got, err := rpcx.Call[string](t.Context(), s, "back", nil); err != nil || got != "and back" {
				t.Errorf("got %q, %v", got, err)
			}
			if got, err := rpcx.Call[bool](t.Context(), s, "secure", nil); err != nil || got != secure {
				t.Errorf("the connection is secure: %v, %v", got, err)
			}
			if s.RemoteAddr() == nil || s.LocalAddr() == nil || s.Role() != rpcx.RoleClient {
				t.Errorf("it goes from %v to %v as %v", s.LocalAddr(), s.RemoteAddr(), s.Role())
			}
			if err := srv.ListenAndServe(ctx, addr); err == nil || errors.Is(err, rpcx.ErrServerClosed) {
				t.Errorf("an address that is in use: %v", err)
			}
			cancel()
			if err := <-served; err != nil {
				t.Errorf("ListenAndServe returns %v", err)
			}
			<-s.Done()
			if err := s.Err(); err != io.EOF {
				t.Errorf("the client's session ended with %v", err)
			}
			if _, err := rpcx.Dial(t.Context(), addr, nil); err == nil {
				t.Error("somebody listens still")
			}
		})
	}
}

func TestListenAndServeEndsAfterItsSessions(t *testing.T) {
	noLeak(t)
	begun, end := make(chan struct{}), make(chan struct{})
	srv := &rpcx.Server{Options: *handling(methods{"m": func(ctx context.Context, _ *rpcx.Request) (any, error) {
		close(begun)
		<-end
		return "done", nil
	}})}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	addr := "tcp://" + freePort(t)
	go func() { served <- srv.ListenAndServe(ctx, addr) }()
	s := dialSoon(t, &rpcx.Dialer{}, addr, nil)
	defer s.Close()
	f := s.Go(t.Context(), "m", nil)
	<-begun
	cancel()
	for { // until the shutdown has begun
		if err := s.Call(t.Context(), "m", nil, nil); errors.Is(err, rpcx.ErrServerBusy) {
			break
		}
	}
	select {
	case err := <-served:
		t.Errorf("ListenAndServe returns %v while a request is handled", err)
	default:
	}
	close(end)
	if err := <-served; err != nil {
		t.Errorf("ListenAndServe returns %v", err)
	}
	if err := f.Wait(t.Context(), nil); err != nil {
		t.Errorf("the request that was handled: %v", err)
	}
	if n := srv.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

func TestAddressesThatAreNone(t *testing.T) {
	srv := &rpcx.Server{}
	for name, addr := range map[string]string{
		"no scheme":       "127.0.0.1:80",
		"only a scheme":   "tcp://",
		"another scheme":  "udp://127.0.0.1:80",
		"no port":         "tcp://127.0.0.1",
		"a port too high": "tcp://127.0.0.1:65536",
		"no name":         "unix://",
		"nothing":         "",
		"no such folder":  "unix:///there/is/no/such/folder/socket",
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := rpcx.Dial(t.Context(), addr, nil); err == nil || s != nil || !strings.Contains(err.Error(), addr) {
				t.Errorf("Dial returns %v, %v", s, err)
			}
			if err := srv.ListenAndServe(t.Context(), addr); err == nil || errors.Is(err, rpcx.ErrServerClosed) {
				t.Errorf("ListenAndServe returns %v", err)
			}
		})
	}
	if err := srv.ListenAndServe(t.Context(), "tls://127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("without a certificate, ListenAndServe returns %v", err)
	}
}

func TestListenNeedsACertificate(t *testing.T) {
	secure, _ := certificate(t)
	for name, config := range map[string]*tls.Config{
		"no configuration":        nil,
		"an empty one":            {},
		"no certificates":         {Certificates: []tls.Certificate{}},
		"only what a client uses": {ServerName: "example.com", RootCAs: x509.NewCertPool()},
		"only names":              {NameToCertificate: map[string]*tls.Certificate{"example.com": &secure.Certificates[0]}},
	} {
		free := freePort(t)
		for _, scheme := range []string{"tls", "ssl"} {
			l, err := rpcx.Listen(t.Context(), scheme+"://"+free, config)
			if err == nil {
				l.Close()
			}
			if err == nil || l != nil || !strings.Contains(err.Error(), "TLS") || !strings.Contains(err.Error(), free) {
				t.Errorf("%s: Listen returns %v, %v", name, l, err)
			}
			srv := &rpcx.Server{TLS: config}
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // or else it would serve
			if err := srv.ListenAndServe(ctx, scheme+"://"+free); err == nil || errors.Is(err, rpcx.ErrServerClosed) {
				t.Errorf("%s: ListenAndServe returns %v", name, err)
			}
		}
	}
	for name, config := range map[string]*tls.Config{
		"certificates": secure,
		"GetCertificate": {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &secure.Certificates[0], nil
		}},
		"GetConfigForClient": {GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return secure, nil }},
	} {
		l, err := rpcx.Listen(t.Context(), "tls://127.0.0.1:0", config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		l.Close()
	}
	l, err := rpcx.Listen(t.Context(), "tcp://127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestDialFails(t *testing.T) {
	noLeak(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	free := freePort(t)
	for name, c := range map[string]struct {
		ctx  context.Context
		addr string
		want error
	}{
		"where nobody listens":          {t.Context(), "tcp://" + free, nil},
		"with a context that has ended": {ended, "tcp://" + free, context.Canceled},
	} {
		_, err := rpcx.Dial(c.ctx, c.addr, nil)
		var op *net.OpError
		if !errors.As(err, &op) && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.addr) {
			t.Errorf("%s: %v", name, err)
		}
	}

	serverTLS, clientTLS := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", serverTLS)
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
	go srv.Serve(l)
	defer srv.Wait(context.Background())
	defer srv.Close()
	addr := "tls://" + l.Addr().String()
	_, err = rpcx.Dial(t.Context(), addr, nil)
	var untrusted *tls.CertificateVerificationError
	if !errors.As(err, &untrusted) {
		t.Errorf("a certificate that nobody vouches for: %v", err)
	}
	d := rpcx.Dialer{TLS: clientTLS.Clone()}
	d.TLS.ServerName = "example.org"
	if _, err = d.Dial(t.Context(), addr, nil); !errors.As(err, &untrusted) {
		t.Errorf("a certificate for another host: %v", err)
	}
	d.TLS = clientTLS
	s, err := d.Dial(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if clientTLS.ServerName != "" {
		t.Error("the user's configuration was changed")
	}
	if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
		t.Error(err)
	}
}

// neverAnswers is a DialContext whose connections are never made.
func neverAnswers(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestDialIsBounded(t *testing.T) {
	for _, c := range []struct {
		name    string
		timeout time.Duration
		ctx     time.Duration // 0 for none
		want    time.Duration
	}{
		{"by 30 s", 0, 0, 30 * time.Second},
		{"by what the Dialer says", 3 * time.Second, 0, 3 * time.Second},
		{"by the context", 0, 5 * time.Second, 5 * time.Second},
		{"by nothing but the context", -1, time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			for what, dial := range map[string]struct {
				addr string
				hook func(ctx context.Context, network, addr string) (net.Conn, error)
			}{
				"the connection": {"tcp://a.test:1", neverAnswers},
				"the handshake": {"tls://a.test:1", func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					go io.Copy(io.Discard, far) // a peer that reads and says nothing
					return near, nil
				}},
			} {
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					if c.ctx > 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, c.ctx)
						defer cancel()
					}
					d := rpcx.Dialer{Timeout: c.timeout, DialContext: dial.hook}
					takes(t, c.want, func() {
						_, err := d.Dial(ctx, dial.addr, nil)
						if !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("%s: %v", what, err)
						}
						if text := fmt.Sprintf("over %v (Dialer.Timeout)", c.want); strings.Contains(err.Error(), text) != (c.ctx == 0) {
							t.Errorf("%s: the error is %v", what, err)
						}
					})
				})
			}
		})
	}
}

func TestDialContextMakesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var asked []string
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		d := rpcx.Dialer{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, network+" "+addr)
			near, far := net.Pipe()
			srv.ServeConn(far)
			return near, nil
		}}
		for _, addr := range []string{"tcp://a.test:1", "unix:///a/b"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s, err := d.Dial(ctx, addr, nil)
			if err != nil {
				t.Fatal(err)
			}
			cancel() // which bounds only the dialling
			time.Sleep(time.Minute)
			if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
				t.Error(err)
			}
			s.Close()
			<-s.Done()
		}
		if got := strings.Join(asked, ", "); got != "tcp a.test:1, unix /a/b" {
			t.Errorf("asked for %s", got)
		}
		srv.Wait(context.Background())
	})
}
