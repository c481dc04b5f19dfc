package peers

import (
	"bufio"
	"context"
	"crypto/tls"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

func TestInteropAiorpcxServer(t *testing.T) {
	noLeak(t)
	needAiorpcx(t)
	cert := newInteropCert(t)
	for _, transport := range []string{"tcp", "tls", "unix"} {
		t.Run(transport, func(t *testing.T) {
			peer := startAiorpcx(t, transport, "v2", cert)
			for _, check := range aiorpcxChecks {
				t.Run(check.name, func(t *testing.T) {
					s, _ := peer.dial(t, rpcx.JSONRPCv2)
					check.run(t, interopContext(t), s)
				})
			}
		})
	}
}

// TestInteropAiorpcxServerVersions is about the versions of JSON-RPC. A server
// that finds out which it is ("auto") calls first, so that our answer shows it.
func TestInteropAiorpcxServerVersions(t *testing.T) {
	noLeak(t)
	needAiorpcx(t)
	for _, test := range []struct {
		name         string
		ours         rpcx.Protocol
		server       string
		want         rpcx.Protocol
		wantAtServer string
		checks       []aiorpcxCheck
	}{
		{"1.0 at both ends", rpcx.JSONRPCv1, "v1", rpcx.JSONRPCv1, "JSONRPCv1", aiorpcxV1Checks},
		{"we find out that it is 1.0", rpcx.JSONRPCAutoDetect, "v1", rpcx.JSONRPCv1, "JSONRPCv1", aiorpcxV1Checks},
		{"we find out that it is 2.0", rpcx.JSONRPCAutoDetect, "v2", rpcx.JSONRPCv2, "JSONRPCv2", aiorpcxChecks},
		{"it finds out that we are 1.0", rpcx.JSONRPCv1, "auto", rpcx.JSONRPCv1, "JSONRPCv1", aiorpcxV1Checks},
		{"it finds out that we are 2.0", rpcx.JSONRPCv2, "auto", rpcx.JSONRPCv2, "JSONRPCv2", aiorpcxChecks},
		{"both find out", rpcx.JSONRPCAutoDetect, "auto", rpcx.JSONRPCv2, "JSONRPCv2", aiorpcxChecks},
	} {
		t.Run(test.name, func(t *testing.T) {
			peer := startAiorpcx(t, "tcp", test.server, nil)
			for _, check := range test.checks {
				t.Run(check.name, func(t *testing.T) {
					ctx := interopContext(t)
					s, ready := peer.dial(t, test.ours)
					if test.server == "auto" {
						select {
						case <-ready:
						case <-ctx.Done():
							t.Fatal("the server did not call")
						}
					}
					// Until we have found out we write 2.0, which leaves params
					// out if there are no arguments; 1.0 does not allow that.
					if _, err := rpcx.Call[int](ctx, s, "echo", rpcx.Args{1}); err != nil {
						t.Fatal(err)
					}
					if s.Protocol() != test.want {
						t.Errorf("we speak %#v", s.Protocol())
					}
					if at, err := rpcx.Call[string](ctx, s, "protocol", nil); err != nil || at != test.wantAtServer {
						t.Errorf("it speaks %s (%v)", at, err)
					}
					check.run(t, ctx, s)
				})
			}
		})
	}
}

func TestInteropAiorpcxServerKilled(t *testing.T) {
	noLeak(t)
	needAiorpcx(t)
	peer := startAiorpcx(t, "tcp", "v2", nil)
	s, _ := peer.dial(t, rpcx.JSONRPCv2)
	ctx := interopContext(t)
	var calls []*rpcx.Future
	for range 10 {
		calls = append(calls, s.Go(ctx, "hang", nil))
	}
	// Its answer shows that the server has those before, too.
	if _, err := rpcx.Call[int](ctx, s, "echo", rpcx.Args{1}); err != nil {
		t.Fatal(err)
	}
	peer.kill()
	for _, call := range calls {
		wantCallLost(t, call.Wait(ctx, nil))
	}
}

// interopContext bounds a check.
func interopContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// aiorpcxPeer is a running server.
type aiorpcxPeer struct {
	addr   string
	dialer rpcx.Dialer
	cmd    *exec.Cmd
	killed bool
}

// startAiorpcx starts a server that speaks protocol (v1, v2 or auto). It is
// stopped when the test ends.
func startAiorpcx(t *testing.T, transport, protocol string, cert *interopCert) *aiorpcxPeer {
	t.Helper()
	peer := &aiorpcxPeer{}
	args := []string{"aiorpcx_server.py", transport + "://127.0.0.1", protocol}
	switch transport {
	case "unix":
		args[1] = "unix://" + interopSocket(t)
	case "tls":
		args = append(args, cert.certFile, cert.keyFile)
		peer.dialer.TLS = &tls.Config{RootCAs: cert.roots}
	}
	peer.cmd = interoptest.Command(t, interoptest.Python, args...)
	stdin, err := peer.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := peer.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // which it takes for the end
		if err := peer.cmd.Wait(); err != nil && !peer.killed {
			t.Errorf("the server: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server does not say where it listens: %v", err)
	}
	peer.addr = strings.TrimSpace(line)
	return peer
}

// dial returns a session that the server can call, and a channel that is closed
// once it has called "ready". The session ends with the test.
func (peer *aiorpcxPeer) dial(t *testing.T, protocol rpcx.Protocol) (s *rpcx.Session, ready <-chan struct{}) {
	t.Helper()
	greeted := make(chan struct{})
	router := rpcx.NewRouter()
	router.Handle("double", rpcx.Func(func(number int) int { return 2 * number }))
	router.Handle("refuse", rpcx.Func(func(int) error { return rpcx.Errorf(7, "no") }))
	router.Handle("hello", rpcx.Func(func(name string) string { return "hello " + name }))
	router.Handle("ready", rpcx.Func(sync.OnceFunc(func() { close(greeted) })))
	s, err := peer.dialer.Dial(interopContext(t), peer.addr, &rpcx.Options{Protocol: protocol, Handler: router})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
	})
	return s, greeted
}

func (peer *aiorpcxPeer) kill() {
	peer.killed = true
	peer.cmd.Process.Kill()
}
