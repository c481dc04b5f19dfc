package natsrpcx_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/internal/oracle"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats.go"
)

// natsConfig has a user for gateways and a user for workers, who may do no more than they
// need.
const natsConfig = `
listen: "%s"
tls { cert_file: "%s", key_file: "%[3]s" }
authorization {
	users: [
		{ user: gateway, password: "g-secret", permissions: {
			publish: "rpc.>", subscribe: ["_INBOX.>", "rpc.%%announce", "rpc.%%topic.>", "rpc.%%longtopic.>"]
		} }
		{ user: worker, password: "w-secret", permissions: {
			publish: ["_INBOX.>", "rpc.%%announce"], subscribe: "rpc.>"
		} }
	]
}
`

// debianNATS is Debian's nats-server, in a process of its own.
type debianNATS struct {
	program, folder, addr string
	process               *exec.Cmd
}

// newDebianNATS starts a nats-server with TLS and users.
func newDebianNATS(t *testing.T) *debianNATS {
	t.Helper()
	program := interoptest.Program(t, "apt-get install nats-server", "nats-server", "/usr/sbin", "/usr/local/sbin")
	l, err := net.Listen("tcp", "127.0.0.1:0") // finds a free port
	if err != nil {
		t.Fatal(err)
	}
	n := &debianNATS{program: program, folder: t.TempDir(), addr: l.Addr().String()}
	l.Close()
	writeCertificate(t, n.file("cert.pem"), n.file("key.pem"))
	config := fmt.Sprintf(natsConfig, n.addr, n.file("cert.pem"), n.file("key.pem"))
	if err := os.WriteFile(n.file("nats.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start(t)
	t.Cleanup(n.kill)
	return n
}

func (n *debianNATS) file(name string) string { return filepath.Join(n.folder, name) }

// start starts the process, and returns when it listens.
func (n *debianNATS) start(t *testing.T) {
	t.Helper()
	n.process = exec.Command(n.program, "-c", n.file("nats.conf"), "-l", n.file("log"))
	if err := n.process.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "nats-server listens", func() bool {
		conn, err := net.Dial("tcp", n.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// kill kills the process.
func (n *debianNATS) kill() {
	_ = n.process.Process.Kill()
	_ = n.process.Wait()
}

// connect connects over TLS as a user.
func (n *debianNATS) connect(t *testing.T, user string) *nats.Conn {
	t.Helper()
	conn, err := natsrpcx.Connect("tls://"+n.addr, nats.RootCAs(n.file("cert.pem")), nats.UserInfo(user, user[:1]+"-secret"),
		nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s: %v", user, err)
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// writeCertificate writes a certificate for 127.0.0.1 and its key.
func writeCertificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyBytes}), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// until waits until ok, and fails the test after ten seconds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in ten seconds: %s", what)
		}
		time.Sleep(pause)
	}
}

// Debian's nats-server carries calls, batches, errors and publications over TLS, for users
// with few permissions. It is killed under load, and comes back.
func TestInteropDebianNATS(t *testing.T) {
	server := newDebianNATS(t)
	if _, err := natsrpcx.Connect("tls://"+server.addr, nats.RootCAs(server.file("cert.pem")), nats.UserInfo("gateway", "wrong")); err == nil {
		t.Error("a wrong password was accepted")
	}
	log := new(oracle.Log)
	router := rpcx.NewRouter()
	router.Handle("work", rpcx.Func(func(_ context.Context, n int) (int, error) {
		log.Started(n)
		log.Finished(n)
		return n, nil
	}))
	router.Handle("a/text", rpcx.Func(func(n int) string { return strings.Repeat("x", n) }))
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 2)
	for range cap(served) {
		conn := server.connect(t, "worker")
		// Owner: the test. End: stop.
		go func() {
			served <- natsrpcx.Serve(ctx, &rpcx.Server{Options: rpcx.Options{Handler: router}}, natsrpcx.Config{Conn: conn})
		}()
	}
	c := natsrpcx.Config{Conn: server.connect(t, "gateway")}
	client, err := natsrpcx.Dial(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	session, gateway := rpcx.Pipe(nil, &rpcx.Options{Handler: natsrpcx.Forward(c)})
	defer func() {
		stop()
		for range cap(served) {
			if err := <-served; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
		client.Close()
		for _, s := range []*rpcx.Session{session, gateway} {
			s.Close()
			<-s.Done()
		}
	}()
	call := func(caller rpcx.Caller) error {
		n := log.Begin(oracle.Once)
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		result, err := rpcx.Call[int](ctx, caller, "work", rpcx.Args{n})
		log.End(n, result, err)
		return err
	}
	callers := []rpcx.Caller{client, session}
	for _, caller := range callers {
		until(t, "a worker serves", func() bool { return call(caller) == nil })
		if text, err := rpcx.Call[string](ctx, caller, "a/text", rpcx.Args{500_000}); err != nil || len(text) != 500_000 {
			t.Errorf("a reply of 500,000 bytes: %d, %v", len(text), err)
		}
		if err := caller.Call(ctx, "a/text", rpcx.Args{1 << 20}, nil); !errors.Is(err, rpcx.ErrInvalidRequest) {
			t.Errorf("a reply over max_payload: %v", err)
		}
		if err := caller.Call(ctx, ">", nil, nil); err == nil {
			t.Error("a wildcard is a method")
		}
		b := new(rpcx.Batch)
		lengths := make([]string, 10)
		for i := range lengths {
			b.Call("a/text", rpcx.Args{i}, &lengths[i])
		}
		if err := caller.SendBatch(ctx, b); err != nil || len(lengths[9]) != 9 {
			t.Errorf("batch: %v", err)
		}
	}

	hub := &rpcx.Hub{Broker: natsrpcx.Broker(c)}
	hubRouter := rpcx.NewRouter()
	hubRouter.Handle("eth_subscribe", rpcx.Func(func(ctx context.Context, topic string) (any, error) {
		sub, err := hub.Subscribe(ctx, topic, nil, nil)
		if err != nil {
			return nil, err
		}
		return sub.ID(), nil
	}))
	listener, publisher := rpcx.Pipe(nil, &rpcx.Options{Handler: hubRouter})
	for _, topic := range []string{"news", strings.Repeat("long", 100)} {
		st, err := rpcx.Subscribe[int](ctx, listener, rpcx.Subscription{Method: "eth_subscribe", Params: rpcx.Args{topic}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := hub.Publish(ctx, topic, 7); err != nil {
			t.Fatal(err)
		}
		if v, err := st.Next(ctx); err != nil || v != 7 {
			t.Errorf("%d, %v", v, err)
		}
	}
	for _, s := range []*rpcx.Session{listener, publisher} {
		s.Close()
		<-s.Done()
	}

	for range 3 {
		results := make(chan error, 40)
		for i := range cap(results) {
			go func() { results <- call(callers[i%2]) }()
		}
		<-results
		server.kill()
		for range cap(results) - 1 {
			<-results
		}
		for _, caller := range callers {
			until(t, "the connection is lost", func() bool { return oracle.OutcomeOf(call(caller)) == oracle.NotStarted })
		}
		server.start(t)
		for _, caller := range callers {
			until(t, "a worker serves again", func() bool { return call(caller) == nil })
		}
	}
	for _, problem := range log.Problems() {
		t.Error(problem)
	}
	counts := log.Counts()
	t.Logf("answered, not started, written: %v", counts.Ended[oracle.Once][1:])
}
