package rpchttp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of pipes.
type pipes struct {
	conns chan net.Conn
	net.Listener
}

func (l pipes) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l pipes) Close() error { return nil }

// lossyConn loses all data once dead is set, in both directions, and nobody is told.
type lossyConn struct {
	net.Conn
	dead *atomic.Bool
}

func (c lossyConn) Read(p []byte) (n int, err error) {
	for {
		if n, err = c.Conn.Read(p); err != nil || !c.dead.Load() {
			return n, err
		}
	}
}

func (c lossyConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A connection of HTTP/2 on which nothing arrives any more is given up for another one.
func TestDeadHTTP2Connection(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	roots, certificates := x509.NewCertPool(), s.TLS.Certificates
	roots.AddCert(s.Certificate())
	s.Close()
	synctest.Test(t, func(t *testing.T) {
		l := pipes{conns: make(chan net.Conn)}
		srv := &http.Server{
			Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Proto", r.Proto) }),
			TLSConfig: &tls.Config{Certificates: certificates, NextProtos: []string{"h2"}},
		}
		served := make(chan struct{})
		// Owner: the test. End: the channel of connections is closed.
		go func() {
			defer close(served)
			srv.ServeTLS(l, "", "")
		}()
		conns := newClientConns()
		d := Dialer{TLS: &tls.Config{RootCAs: roots}}
		client, err := d.httpClient(conns, "")
		if err != nil {
			t.Fatal(err)
		}
		var dials, dead = 0, new(atomic.Bool)
		client.Transport.(*http.Transport).DialContext = conns.dialling(func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			dials++
			l.conns <- far
			return lossyConn{near, dead}, nil
		}, 0)
		get := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, "POST", "https://example.com/", nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(r)
			if err == nil {
				if resp.Body.Close(); resp.Header.Get("Proto") != "HTTP/2.0" {
					t.Errorf("the answer is %v", resp)
				}
			}
			return err
		}
		if err := get(); err != nil {
			t.Fatal(err)
		}
		dead.Store(true)
		if get() == nil {
			t.Error("a reply comes on a dead connection")
		}
		dead = new(atomic.Bool)
		for range 4 {
			err = get()
		}
		if err != nil || dials != 2 {
			t.Errorf("a minute later, after %d dials: %v", dials, err)
		}
		conns.close()
		close(l.conns)
		<-served
		srv.Close()
	})
}
