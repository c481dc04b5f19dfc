package peers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

func TestInteropAiorpcxClient(t *testing.T) {
	noLeak(t)
	needAiorpcx(t)
	cert := newInteropCert(t)
	for _, transport := range []string{"tcp", "tls", "unix"} {
		t.Run(transport, func(t *testing.T) {
			srv := &rpcx.Server{Options: rpcx.Options{Handler: interoptest.Router()}}
			addr := interopServe(t, srv, transport, cert)
			interoptest.Checks(t, interoptest.Python, "aiorpcx_client.py", addr, "all", cert.certFile)
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
			srv.Options.Handler = interoptest.Router()
			addr := interopServe(t, srv, "tcp", nil)
			interoptest.Checks(t, interoptest.Python, "aiorpcx_client.py", addr, suite)
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
			srv := &rpcx.Server{Options: rpcx.Options{Handler: interoptest.Router(), Protocol: protocol}}
			addr := interopServe(t, srv, "tcp", nil)
			interoptest.Checks(t, "node", "jayson_client.js", strings.TrimPrefix(addr, "tcp://127.0.0.1:"), version)
		})
	}
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
		srv.Wait(context.Background())
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

func needAiorpcx(t *testing.T) {
	t.Helper()
	interoptest.Need(t, "apt-get install python3-aiorpcx", interoptest.Python, "-c", "import aiorpcx")
}

// needJayson finds it beside its script, or by NODE_PATH.
func needJayson(t *testing.T) {
	t.Helper()
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('jayson')")
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
