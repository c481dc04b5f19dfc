package rpcx_test

// The tests named TestInterop… have other people's programs as peers: aiorpcX,
// which this library does in Go what it does in Python, and jayson. Where a peer
// is not installed they are skipped, unless RPCX_INTEROP=require is set. (Those
// with other Go libraries are in the module interop.)

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
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

// interopPatience is far more than any check takes. A check that fails by
// waiting for what does not come takes as long.
const interopPatience = 2 * time.Minute

// interopPython is the interpreter that has Debian's packages.
const interopPython = "/usr/bin/python3"

var interopTransports = []string{"tcp", "tls", "unix"}

// interopDir is the folder of the peers' scripts.
var interopDir = filepath.Join("testdata", "interop")

// needAiorpcx skips the test if aiorpcX is not installed.
func needAiorpcx(t *testing.T) {
	t.Helper()
	needPeer(t, "apt-get install python3-aiorpcx", interopPython, "-c", "import aiorpcx")
}

// needJayson skips the test if jayson is not installed, there or in NODE_PATH.
func needJayson(t *testing.T) {
	t.Helper()
	needPeer(t, "npm ci in testdata/interop", "node", "-e", "require('jayson')")
}

// needPeer skips the test if a command that only finds the peer fails.
func needPeer(t *testing.T, install, command string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, args...)
	cmd.Dir = interopDir
	err := cmd.Run()
	switch {
	case err == nil:
	case os.Getenv("RPCX_INTEROP") == "require":
		t.Fatalf("the peer is missing (%v): %s", err, install)
	default:
		t.Skipf("the peer is missing (%v): %s", err, install)
	}
}

// peerCommand is a peer's program, to be started by the caller. What it writes
// to its standard error is logged if the test fails.
func peerCommand(t *testing.T, command string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), interopPatience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = interopDir
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s wrote:\n%s", strings.Join(args, " "), stderr)
		}
	})
	return cmd
}

// runChecks runs a peer's program, which prints a line for each of its checks,
// and has a subtest for each.
func runChecks(t *testing.T, command string, args ...string) {
	cmd := peerCommand(t, command, args...)
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
			t.Fatalf("%v in what %s printed:\n%s", err, args[0], stdout)
		}
		t.Run(result.Check, func(t *testing.T) {
			if !result.OK {
				t.Error(result.Detail)
			}
		})
	}
	if checks == 0 {
		t.Error("no check was made")
	}
}

// certificate is that of a server, for this run and this machine only.
type certificate struct {
	files []string // of the certificate and of its key
	pair  tls.Certificate
	roots *x509.CertPool // trusts it
}

var interopCertificate = sync.OnceValues(newCertificate)

func newCertificate() (certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate{}, err
	}
	// It has signed itself, which only an authority's may have.
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "rpcx interop tests"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return certificate{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certificate{}, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	_ = certPEM
	_ = keyPEM
	return certificate{}, nil
}
