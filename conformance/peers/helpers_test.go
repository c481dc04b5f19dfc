package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"net/http/httptest"
	"runtime"
	"testing"
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

// serveSessions serves sessions until the test ends.
func serveSessions(t *testing.T, config *tls.Config) (addr string, srv *rpcx.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	srv = &rpcx.Server{Options: *handling(methods{"reply": reply})}
	// Owner: the test. End: the server is closed.
	go srv.Serve(l)
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	return addr, srv
}

// answers checks that the peer does.
func answers(t *testing.T, s *rpcx.Session) {
	t.Helper()
	if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
		t.Error(err)
	}
}

// methods is a handler of requests by their method.
type methods map[string]rpcx.HandlerFunc

func (m methods) ServeRPC(ctx context.Context, req *rpcx.Request) (any, error) {
	if h := m[req.Method]; h != nil {
		return h(ctx, req)
	}
	return nil, rpcx.MethodNotFound(req.Method)
}

// object is a JSON object.
type object = map[string]any

// handling returns options with a handler.
func handling(h rpcx.Handler) *rpcx.Options { return &rpcx.Options{Handler: h} }

// reply answers with the request's first argument, nil if there is none.
func reply(_ context.Context, req *rpcx.Request) (any, error) {
	var args []json.RawMessage
	if err := req.Bind(&args); err != nil || len(args) == 0 {
		return nil, err
	}
	return args[0], nil
}
