//go:build unix

// Package examples_test builds the examples and runs them.
package examples_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
)

// programs is the folder that the examples are built into.
var programs string

func TestMain(m *testing.M) {
	code := 1
	defer func() { os.Exit(code) }()
	var err error
	// A short name: the path of a unix socket must fit into 104 bytes.
	if programs, err = os.MkdirTemp("", "rpcx"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer os.RemoveAll(programs)
	build := exec.Command("go", "build", "-o", programs, "./...")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return
	}
	code = m.Run()
}

// command returns a command that runs an example, and ends with the test.
func command(t *testing.T, program string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, filepath.Join(programs, program), args...)
}

// output runs an example and returns what it prints.
func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := command(t, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

func TestQuickstart(t *testing.T) {
	const want = `echo        "Howdy"
by name     divide(a=7, b=2) = 3.5
pipelining  1000 calls, the sum of their results is 249750 (TIME)
batch       "one" and "two"; unknown method "nope" (code -32601)
an error    code 1001, "7 cannot be divided by zero"
another     1 argument passed to method "divide" but it requires 2 (code -32602); invalid params: true
call back   "hello, client"
the end     client: rpcx: session closed; server: all finished
`
	got := regexp.MustCompile(`\([0-9.]+[µm]?s\)`).ReplaceAllString(output(t, "quickstart"), "(TIME)")
	if got != want {
		t.Errorf("quickstart printed\n%s\nwant\n%s", got, want)
	}
}

// startServer starts the server example; see startProgram.
func startServer(t *testing.T, args ...string) (addr string, stop func() (log string)) {
	t.Helper()
	return startProgram(t, "server", args...)
}

// startProgram starts an example that serves. It returns the address at which it
// listens, and what sends it SIGTERM, waits for its end and returns its log.
func startProgram(t *testing.T, program string, args ...string) (addr string, stop func() (log string)) {
	t.Helper()
	cmd := command(t, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceValue(func() string {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the %s ended with %v\n%s", program, err, &stderr)
		}
		return stderr.String()
	})
	t.Cleanup(func() { stop() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the %s printed %q (%v)", program, line, err)
	}
	return addr, stop
}

// checkLog checks that one connection was logged, from its beginning to its end.
func checkLog(t *testing.T, log string) {
	t.Helper()
	if strings.Count(log, "INFO connected ") != 1 || strings.Count(log, "INFO disconnected ") != 1 {
		t.Errorf("the server logged\n%s\nwant one connection, and its end", log)
	}
}

// What the client example prints, but for the version of the protocol.
const (
	clientV2 = `Calls:
  echo ["Howdy"] -> "Howdy"
  echo {"message":"by name"} -> "by name"
  sum [1,2,3.5] -> 6.5
  sum null -> 0
Bad calls:
  nope null -> the peer's error -32601: unknown method "nope"
  echo null -> the peer's error -32602: 0 arguments passed to method "echo" but it requires 1
  echo ["too","many"] -> the peer's error -32602: 2 arguments passed to method echo taking at most 1
  echo [5] -> the peer's error -32602: invalid argument "message" of method "echo": json: cannot unmarshal number into Go value of type string
  echo {"text":"a wrong name"} -> the peer's error -32602: method "echo" requires parameter "message"
  sum [1,"two"] -> the peer's error -32602: invalid argument 2 of method "sum": json: cannot unmarshal string into Go value of type float64
  echo "neither an array nor an object" -> message not sent: request arguments must be a list or a dictionary; of the params, a value of type string, make rpcx.Args{…}, or a map or struct for named ones (code -32602)
A batch:
  echo -> "in a batch"
  nope -> the peer's error -32601: unknown method "nope"
  sum -> 9
  the batch -> 1 of 3 batch requests failed, the first, number 2: unknown method "nope" (code -32601)
`
	noNames = "message not sent: JSONRPCv1 does not support named arguments (code -32602)"
	noBatch = "message not sent: protocol does not permit batches (code -32600)"
)

// clientV1 is what the client prints that speaks JSON-RPC 1.0.
func clientV1() string {
	calls, _, _ := strings.Cut(clientV2, "A batch:\n")
	named := regexp.MustCompile(`(?m)^(  echo \{.*\}) -> .*$`)
	return named.ReplaceAllString(calls, "$1 -> "+noNames) + "A batch:\n  the batch -> " + noBatch + "\n"
}

func TestClientAndServer(t *testing.T) {
	cert := newCertificate(t)
	socket := "unix://" + filepath.Join(programs, "socket")
	const tcp, tls = "tcp://127.0.0.1:0", "tls://127.0.0.1:0"
	for _, test := range []struct {
		name           string
		server, client []string // arguments, without the client's address
		want           string
	}{
		{"tcp", []string{"-listen", tcp}, nil, clientV2},
		{"tls", []string{"-listen", tls, "-cert", cert.cert, "-key", cert.key}, []string{"-ca", cert.cert}, clientV2},
		{"tls, any certificate", []string{"-listen", tls, "-cert", cert.cert, "-key", cert.key}, []string{"-insecure"}, clientV2},
		{"ws", []string{"-listen", "ws://127.0.0.1:0"}, nil, clientV2},
		{"unix", []string{"-listen", socket}, nil, clientV2},
		{"v1", []string{"-listen", tcp, "-protocol", "v1"}, []string{"-protocol", "v1"}, clientV1()},
		{"loose", []string{"-listen", tcp, "-protocol", "loose"}, []string{"-protocol", "loose"}, clientV2},
		{"auto", []string{"-listen", tcp, "-protocol", "auto"}, []string{"-protocol", "v2"}, clientV2},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, stop := startServer(t, test.server...)
			got := output(t, "client", append(test.client, "-connect", addr)...)
			if got != test.want {
				t.Errorf("client printed\n%s\nwant\n%s", got, test.want)
			}
			checkLog(t, stop())
		})
	}
}

func TestClientDoesNotTrustAnyCertificate(t *testing.T) {
	cert := newCertificate(t)
	addr, _ := startServer(t, "-listen", "tls://127.0.0.1:0", "-cert", cert.cert, "-key", cert.key)
	out, err := command(t, "client", "-connect", addr).CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); !failed || !strings.Contains(string(out), "certificate") {
		t.Errorf("client ended with %v, and printed\n%s", err, out)
	}
}

// socks4Proxy forwards connections to IPv4 addresses for a client that speaks
// SOCKS4, until the test ends. (One request, one reply, then the tunnel.)
func socks4Proxy(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				var request [9]byte // without a user
				if _, err := io.ReadFull(conn, request[:]); err != nil {
					return
				}
				port := int(request[2])<<8 | int(request[3])
				far, err := net.Dial("tcp", net.JoinHostPort(net.IP(request[4:8]).String(), fmt.Sprint(port)))
				if err != nil {
					return
				}
				defer far.Close()
				conn.Write([]byte{0, 90, 0, 0, 0, 0, 0, 0})
				go io.Copy(far, conn)
				io.Copy(conn, far)
			}()
		}
	}()
	return l.Addr().String()
}

func TestClientGoesThroughAProxy(t *testing.T) {
	addr, stop := startServer(t, "-listen", "tcp://127.0.0.1:0")
	proxy := socks4Proxy(t)
	if got := output(t, "client", "-connect", addr, "-proxy", "socks4://"+proxy); got != clientV2 {
		t.Errorf("client printed\n%s\nwant\n%s", got, clientV2)
	}
	checkLog(t, stop())
	out, err := command(t, "client", "-connect", addr, "-proxy", "http://"+proxy).CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); !failed || !strings.Contains(string(out), "unknown scheme") {
		t.Errorf("with a proxy of another kind: %v, %s", err, out)
	}
}

func TestServerRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, args := range [][]string{
		{"-protocol", "v3"},
		{"-listen", "127.0.0.1:0"},
		{"-listen", "udp://127.0.0.1:0"},
		{"-listen", "tls://127.0.0.1:0"},
	} {
		out, err := command(t, "server", args...).CombinedOutput()
		if _, failed := errors.AsType[*exec.ExitError](err); !failed || !strings.HasPrefix(string(out), "server: ") {
			t.Errorf("server %s: %v, %s", strings.Join(args, " "), err, out)
		}
	}
}

// A server that is told to stop closes the connections that it has.
func TestServerStopsWithASessionOpen(t *testing.T) {
	addr, stop := startServer(t, "-listen", "tcp://127.0.0.1:0")
	s, err := rpcx.Dial(t.Context(), addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if sum, err := rpcx.Call[float64](t.Context(), s, "sum", rpcx.Args{1, 2}); sum != 3 || err != nil {
		t.Fatalf("sum: %v, %v", sum, err)
	}
	checkLog(t, stop())
	<-s.Done()
	if err := s.Err(); !errors.Is(err, io.EOF) {
		t.Errorf("the session ended with %v, want EOF", err)
	}
}

// certificate is a certificate for this machine, which has signed itself.
type certificate struct{ cert, key string } // files

func newCertificate(t *testing.T) certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "rpcx examples"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return certificate{
		cert: writePEM(t, "cert.pem", "CERTIFICATE", der),
		key:  writePEM(t, "key.pem", "PRIVATE KEY", keyDER),
	}
}

func writePEM(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
