//go:build linux

package proxyproto_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pp "github.com/pires/go-proxyproto"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/proxyproto"
)

// haproxy is a HAProxy under construction. Its frontends listen before it starts, so that
// nobody has to wait for it.
type haproxy struct {
	program string
	dir     string
	config  strings.Builder
	files   []*os.File    // from descriptor 3 on
	exited  chan struct{} // closed when the process has ended
}

func newHAProxy(t *testing.T) *haproxy {
	h := &haproxy{
		program: interoptest.Program(t, "apt-get install haproxy", "haproxy", "/usr/sbin"),
		dir:     t.TempDir(),
	}
	h.config.WriteString(`
defaults
  mode tcp
  timeout connect 10s
  timeout client 1m
  timeout server 1m
  timeout check 10s
`)
	return h
}

// add adds a frontend on a free port, with a server, and returns the address of the
// frontend. bind has more words for the frontend, server those of the server line.
func (h *haproxy) add(t *testing.T, bind, server string) string {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // the file keeps listening
	fd := 3 + len(h.files)
	h.files = append(h.files, file)
	fmt.Fprintf(&h.config, "listen l%d\n  bind fd@%d %s\n  server s %s\n", fd, fd, bind, server)
	return l.Addr().String()
}

// start starts HAProxy, until the test ends.
func (h *haproxy) start(t *testing.T) {
	t.Helper()
	path := filepath.Join(h.dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(h.config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(h.program, "-db", "-f", path)
	cmd.ExtraFiles = h.files
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, file := range h.files {
		file.Close()
	}
	h.exited = make(chan struct{})
	// Owner: the test. End: HAProxy has ended, by itself or at the end of the test.
	go func() {
		cmd.Wait()
		close(h.exited)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-h.exited
		if t.Failed() {
			t.Logf("configuration:\n%s\noutput:\n%s", h.config.String(), output.String())
		}
	})
}

// certificate returns the configurations of a TLS server and of a client that trusts it,
// and writes the certificate with its key to a file for HAProxy.
func (h *haproxy) certificate(t *testing.T) (server, client *tls.Config, path string) {
	t.Helper()
	web := httptest.NewTLSServer(nil) // has a certificate for tests
	defer web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	secret, err := x509.MarshalPKCS8PrivateKey(web.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	path = filepath.Join(h.dir, "certificate.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: web.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "example.com"}, path
}

// dialFrom returns a session that is connected from an address of loopback, and the local
// address. config is for TLS; nil: none.
func dialFrom(t *testing.T, from, to string, config *tls.Config) (*rpcx.Session, string) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	local := conn.LocalAddr().String()
	if config != nil {
		conn = tls.Client(conn, config)
	}
	s := rpcx.NewSession(conn, nil)
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	return s, local
}

// Behind HAProxy, with either version of the header, and TLS that HAProxy passes through or
// terminates, sessions have the addresses and the budgets of their clients.
func TestInteropHAProxy(t *testing.T) {
	for _, c := range []struct {
		name         string
		options      string // of the server line
		end2end, end bool   // TLS as far as the server, or as far as HAProxy
		unix         bool
		header       []int // version, and types of TLVs that must be there
	}{
		{name: "version 1", options: "send-proxy", header: []int{1}},
		{name: "version 2", options: "send-proxy-v2", header: []int{2}},
		{name: "version 2 with a checksum and an id", options: "send-proxy-v2 proxy-v2-options crc32c,unique-id", header: []int{2, int(pp.PP2_TYPE_CRC32C)}},
		{name: "version 1, TLS passed through", options: "send-proxy", end2end: true, header: []int{1}},
		{name: "version 2, TLS passed through", options: "send-proxy-v2", end2end: true, header: []int{2}},
		{name: "version 1, TLS terminated", options: "send-proxy", end: true, header: []int{1}},
		{name: "version 2, TLS terminated", options: "send-proxy-v2-ssl-cn", end: true, header: []int{2, int(pp.PP2_TYPE_SSL)}},
		{name: "version 2, TLS terminated and begun anew", options: "send-proxy-v2 ssl verify none", end2end: true, end: true, header: []int{2}},
		{name: "version 2, a unix socket", options: "send-proxy-v2", unix: true, header: []int{2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHAProxy(t)
			server, client, certificate := h.certificate(t)
			addr := "tcp://127.0.0.1:0"
			config := &proxyproto.Config{Proxies: prefixes("127.0.0.1/32")}
			switch {
			case c.unix:
				addr = "unix://" + filepath.Join(h.dir, "socket")
				config = &proxyproto.Config{UnixProxy: true}
			case c.end2end:
				addr = "tls://127.0.0.1:0"
			}
			l, err := rpcx.Listen(t.Context(), addr, server)
			if err != nil {
				t.Fatal(err)
			}
			log := &logBuffer{}
			srv := &rpcx.Server{MaxGroup: 2, Preamble: config.Preamble, Options: rpcx.Options{Handler: methods(), Logger: log.logger()}}
			srv.Options.Limits.Group = func(s *rpcx.Session) string {
				host, _, _ := net.SplitHostPort(s.RemoteAddr().String())
				return host
			}
			serve(t, srv, l)
			bind := ""
			if c.end {
				bind = "ssl crt " + certificate
			}
			to := l.Addr().String()
			if c.unix {
				to = "unix@" + to
			}
			frontend := h.add(t, bind, to+" "+c.options)
			h.start(t)
			if !c.end && !c.end2end {
				client = nil
			}

			one, local := dialFrom(t, "127.0.0.2", frontend, client)
			if got := ask(t, one, "who"); got != local+" at "+frontend {
				t.Errorf("the addresses are %s, want %s at %s", got, local, frontend)
			}
			if got, err := rpcx.Call[[]int](t.Context(), one, "header", nil); err != nil || len(got) == 0 || got[0] != c.header[0] ||
				slices.ContainsFunc(c.header[1:], func(tlv int) bool { return !slices.Contains(got[1:], tlv) }) {
				t.Errorf("the header is %v, %v, want %v", got, err, c.header)
			}
			if got := ask(t, one, "proxy"); !c.unix && !strings.HasPrefix(got, "127.0.0.1:") {
				t.Errorf("the proxy is at %s", got)
			}
			two, local := dialFrom(t, "127.0.0.2", frontend, client)
			if got := ask(t, two, "who"); got != local+" at "+frontend {
				t.Errorf("the addresses are %s, want %s at %s", got, local, frontend)
			}
			three, _ := dialFrom(t, "127.0.0.2", frontend, client)
			<-three.Done() // over MaxGroup
			other, local := dialFrom(t, "127.0.0.3", frontend, client)
			if got := ask(t, other, "who"); got != local+" at "+frontend {
				t.Errorf("the addresses are %s, want %s at %s", got, local, frontend)
			}
			// A client that uses up its budget does not use up that of others.
			one.Call(t.Context(), "work", nil, nil)
			if err := one.Call(t.Context(), "who", nil, nil); err == nil {
				t.Error("a client over budget is served")
			}
			ask(t, other, "who")
			if got := srv.Stats().Refused; len(got) != 1 || got["Server.MaxGroup"] != 1 {
				t.Errorf("refused are %v", got)
			}
		})
	}
}

// HAProxy's health checks cost nobody anything. Checks without a header are not here, since
// HAProxy resets their connections before the server can accept them.
func TestInteropHAProxyHealthChecks(t *testing.T) {
	secure, _, _ := (&haproxy{dir: t.TempDir()}).certificate(t)
	for _, c := range []struct{ name, addr, options string }{
		{"version 1", "tcp://127.0.0.1:0", "check send-proxy"},
		{"version 2", "tcp://127.0.0.1:0", "check send-proxy-v2"},
		{"version 2, before TLS", "tls://127.0.0.1:0", "check send-proxy-v2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHAProxy(t)
			l, err := rpcx.Listen(t.Context(), c.addr, secure)
			if err != nil {
				t.Fatal(err)
			}
			config := &proxyproto.Config{Proxies: prefixes("127.0.0.0/8")}
			log := &logBuffer{}
			checks := make(chan error)
			ended := make(chan struct{})
			srv := &rpcx.Server{MaxGroup: 1, Options: rpcx.Options{Handler: methods(), Logger: log.logger()},
				Preamble: func(ctx context.Context, conn net.Conn) (net.Conn, error) {
					conn, err := config.Preamble(ctx, conn)
					select {
					case checks <- err:
					case <-ended:
					}
					return conn, err
				},
				OnSession: func(*rpcx.Session) { t.Error("there is a session") },
			}
			srv.Options.Limits.Group = func(*rpcx.Session) string { t.Error("a group is asked for"); return "all" }
			serve(t, srv, l)
			h.add(t, "", l.Addr().String()+" "+c.options+" inter 20")
			h.start(t)
			for range 20 {
				select {
				case err := <-checks:
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("a health check ends by %v", err)
					}
				case <-h.exited:
					t.Fatal("HAProxy has ended")
				}
			}
			close(ended)
			expectLog(t, log, "")
			if got := srv.Stats(); got.Sessions != 0 || len(got.Refused) != 0 || got.LogRecordsLeftOut != 0 {
				t.Errorf("stats are %+v", got)
			}
		})
	}
}

// A client behind HAProxy that begins with a header of its own keeps its address, and one
// that goes round HAProxy is refused.
func TestInteropHAProxyForgedHeader(t *testing.T) {
	h := newHAProxy(t)
	l := listen(t, "127.0.0.1:0")
	config := &proxyproto.Config{Proxies: prefixes("127.0.0.1/32")}
	log := &logBuffer{}
	srv := &rpcx.Server{Preamble: config.Preamble, Options: rpcx.Options{Handler: methods(), Logger: log.logger()}}
	serve(t, srv, l)
	frontend := h.add(t, "", l.Addr().String()+" send-proxy-v2")
	h.start(t)

	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := d.DialContext(t.Context(), "tcp", frontend)
	if err != nil {
		t.Fatal(err)
	}
	expectRefusal(t, conn, header(1, "203.0.113.7:1000"))
	s := rpcx.NewSession(conn, nil)
	if got := ask(t, s, "who"); got != conn.LocalAddr().String()+" at "+frontend {
		t.Errorf("the addresses are %s", got)
	}
	s.Close()
	<-s.Done()

	conn, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Write(header(2, "203.0.113.7:1000"))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("a client that is no proxy receives %d bytes", n)
	}
	conn.Close()
	srv.Close()
	srv.Wait(context.Background())
	if got := log.String(); !strings.Contains(got, "127.0.0.2 is no listed proxy") || !strings.Contains(got, "peer=127.0.0.2:") {
		t.Errorf("the log is %q", got)
	}
}
