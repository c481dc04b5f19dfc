package rpcx_test

// The tests named TestInterop… have other people's programs as peers: aiorpcX,
// which does in Python what this library does in Go, and jayson. Where a peer is
// not installed they are skipped, unless RPCX_INTEROP=require is set. Here the
// peers are clients; interop_server_test.go has a server. (Other Go libraries
// are the peers in the module interop.)

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
)

// Debian's packages are for this Python, which need not be the first in PATH.
const interopPython = "/usr/bin/python3"

// interopDir has the peers' programs.
var interopDir = filepath.Join("testdata", "interop")

func TestInteropAiorpcxClient(t *testing.T) {
	noLeak(t)
	needAiorpcx(t)
	cert := newInteropCert(t)
	for _, transport := range []string{"tcp", "tls", "unix"} {
		t.Run(transport, func(t *testing.T) {
			srv := &rpcx.Server{Options: rpcx.Options{Handler: interopRouter()}}
			addr := interopServe(t, srv, transport, cert)
			interopChecks(t, interopPython, "aiorpcx_client.py", addr, "all", cert.certFile)
		})
	}
	// Its remaining suites are for servers of other kinds.
	for suite, srv := range map[string]*rpcx.Server{
		"timeout":     {Options: rpcx.Options{Limits: rpcx.Limits{ProcessingTimeout: 10 * time.Millisecond}}},
		"response":    {Options: rpcx.Options{Limits: rpcx.Limits{Response: 1000}}},
		"v1":          {Options: rpcx.Options{Protocol: rpcx.JSONRPCv1}},
		"v1-marked":   {Options: rpcx.Options{Protocol: rpcx.JSONRPCAutoDetect}},
		"v1-unmarked": {Options: rpcx.Options{Protocol: rpcx.JSONRPCAutoDetect}},
		"v1-greeted":  {Options: rpcx.Options{Protocol: rpcx.JSONRPCAutoDetect}, OnSession: greet},
		"auto":        {Options: rpcx.Options{Protocol: rpcx.JSONRPCv1}},
	} {
		t.Run(suite, func(t *testing.T) {
			srv.Options.Handler = interopRouter()
			addr := interopServe(t, srv, "tcp", nil)
			interopChecks(t, interopPython, "aiorpcx_client.py", addr, suite)
		})
	}
}

// greet calls a client before it has called, so that its answer shows what it
// speaks; the notification then lets it go on. The call has an argument because
// 2.0, which it is in, leaves params out if there are none, and 1.0 does not
// allow that. If it fails the client's checks do, by waiting.
func greet(s *rpcx.Session) {
	ctx := context.Background()
	if s.Call(ctx, "hello", rpcx.Args{"client"}, nil) == nil {
		_ = s.Notify(ctx, "ready", rpcx.Args{})
	}
}

func TestInteropJaysonClient(t *testing.T) {
	noLeak(t)
	needJayson(t)
	for version, protocol := range map[string]rpcx.Protocol{"2": rpcx.JSONRPCv2, "1": rpcx.JSONRPCv1} {
		t.Run("v"+version, func(t *testing.T) {
			srv := &rpcx.Server{Options: rpcx.Options{Handler: interopRouter(), Protocol: protocol}}
			addr := interopServe(t, srv, "tcp", nil)
			interopChecks(t, "node", "jayson_client.js", strings.TrimPrefix(addr, "tcp://127.0.0.1:"), version)
		})
	}
}

// interopRouter has the methods that the peers' checks call.
func interopRouter() *rpcx.Router {
	router := rpcx.NewRouter()
	handle := func(method string, fn any, names ...string) { router.Handle(method, rpcx.Func(fn, names...)) }

	handle("echo", func(message json.RawMessage) json.RawMessage { return message }, "message")
	handle("sum", func(values ...float64) float64 {
		sum := 0.0
		for _, value := range values {
			sum += value
		}
		return sum
	})
	handle("subtract", func(minuend, subtrahend float64) float64 { return minuend - subtrahend }, "minuend", "subtrahend?")
	handle("text", func(length int) string { return strings.Repeat("x", length) })

	handle("refuse", func() error {
		err := rpcx.Errorf(42, "refused: naïve")
		err.Data = map[string][]string{"why": {"tired"}}
		return err
	})
	handle("fail", func() error { return errors.New("nobody else is to know") })
	handle("panic", func() { panic("nobody else is to know") })

	// Whoever awaits a note need not do so in the session that it came in by.
	var notes sync.Map
	note := func(token string) chan struct{} {
		c, _ := notes.LoadOrStore(token, make(chan struct{}, 1))
		return c.(chan struct{})
	}
	handle("note", func(token string) { note(token) <- struct{}{} })
	handle("await_note", func(ctx context.Context, token string) (string, error) {
		select {
		case <-note(token):
			return token, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	})

	handle("call_back", func(ctx context.Context, s *rpcx.Session, method string, args ...any) (any, error) {
		return rpcx.Call[any](ctx, s, method, rpcx.Args(args))
	})
	handle("errors", func(s *rpcx.Session) uint64 { return s.Stats().Errors })
	handle("protocol", func(s *rpcx.Session) string {
		switch s.Protocol() {
		case rpcx.JSONRPCv1:
			return "1.0"
		case rpcx.JSONRPCv2:
			return "2.0"
		}
		return "neither"
	})

	handle("hang", func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	handle("hangup", func(s *rpcx.Session) { s.Close() })
	handle("bye", func() error { return rpcx.ReplyAndDisconnect("bye") })
	return router
}

// interopServe runs srv over a transport and returns its address. It is closed
// when the test ends.
func interopServe(t *testing.T, srv *rpcx.Server, transport string, cert *interopCert) string {
	t.Helper()
	network, address := "tcp", "127.0.0.1:0"
	if transport == "unix" {
		network, address = "unix", interopSocket(t)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	addr := transport + "://" + l.Addr().String()
	if transport == "tls" {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert.pair}})
	}
	served := make(chan error, 1)
	// Owner: the test. End: the server is closed.
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		srv.Wait()
		if err := <-served; !errors.Is(err, rpcx.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return addr
}

// interopSocket returns a path for a unix socket. A t.TempDir, which has the
// test's name in it, can be longer than the 104 bytes that such a path may have.
func interopSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rpcx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "socket")
}

// interopChecks runs a client, which prints a line of JSON for each of its
// checks, and makes a subtest of each line.
func interopChecks(t *testing.T, command string, args ...string) {
	t.Helper()
	cmd := interopCommand(t, command, args...)
	stdout, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v", args[0], err)
	}
	checks := 0
	for dec := json.NewDecoder(bytes.NewReader(stdout)); dec.More(); checks++ {
		var result struct {
			Check  string
			OK     bool
			Detail string
		}
		if err := dec.Decode(&result); err != nil {
			t.Fatalf("%s printed what is no result: %v\n%s", args[0], err, stdout)
		}
		t.Run(result.Check, func(t *testing.T) {
			if !result.OK {
				t.Error(result.Detail)
			}
		})
	}
	if checks == 0 {
		t.Error("no check was run")
	}
}

// interopCommand returns the command that runs a peer. What it writes to stderr
// is logged if the test fails. It is killed should it outlive all patience.
func interopCommand(t *testing.T, command string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = interopDir
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stderr of %s:\n%s", strings.Join(args, " "), stderr)
		}
	})
	return cmd
}

func needAiorpcx(t *testing.T) {
	t.Helper()
	needPeer(t, "apt-get install python3-aiorpcx", interopPython, "-c", "import aiorpcx")
}

// needJayson finds it beside its script, or by NODE_PATH.
func needJayson(t *testing.T) {
	t.Helper()
	needPeer(t, "npm ci in testdata/interop", "node", "-e", "require('jayson')")
}

// needPeer skips the test if the command, which only looks for a peer, fails.
func needPeer(t *testing.T, install, command string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Dir = interopDir
	if err := cmd.Run(); err != nil {
		missingPeer(t, err, install)
	}
}

// missingPeer skips the test, or fails it where peers are required.
func missingPeer(t *testing.T, err error, install string) {
	t.Helper()
	if os.Getenv("RPCX_INTEROP") == "require" {
		t.Fatalf("a peer is missing (%v): %s", err, install)
	}
	t.Skipf("a peer is missing (%v): %s", err, install)
}

// interopCert is the certificate of a server on this machine.
type interopCert struct {
	pair              tls.Certificate
	roots             *x509.CertPool // a client's, to trust it
	certFile, keyFile string
}

func newInteropCert(t *testing.T) *interopCert {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		// It signs itself, as only an authority's may.
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})

	dir := t.TempDir()
	c := &interopCert{
		roots:    x509.NewCertPool(),
		certFile: filepath.Join(dir, "cert.pem"),
		keyFile:  filepath.Join(dir, "key.pem"),
	}
	c.roots.AppendCertsFromPEM(certPEM)
	c.pair, err = tls.X509KeyPair(certPEM, keyPEM)
	must(err)
	must(os.WriteFile(c.certFile, certPEM, 0o600))
	must(os.WriteFile(c.keyFile, keyPEM, 0o600))
	return c
}
