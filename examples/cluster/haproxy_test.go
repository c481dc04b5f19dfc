//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/internal/oracle"
)

// startHAProxy starts HAProxy in front of the gateways, and returns its address. The
// configuration is haproxy.cfg, with other addresses and faster checks.
func startHAProxy(t *testing.T, gateways []*gateway) string {
	t.Helper()
	program := interoptest.Program(t, "apt-get install haproxy", "haproxy", "/usr/sbin")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.TCPListener).File() // listens before HAProxy has started
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	text, err := os.ReadFile("haproxy.cfg")
	if err != nil {
		t.Fatal(err)
	}
	changes := []string{"bind 127.0.0.1:8888", "bind fd@3", "inter 1s", "inter 50ms"}
	for i, g := range gateways {
		_, readyPort, _ := net.SplitHostPort(g.readyAddr)
		changes = append(changes, fmt.Sprintf("127.0.0.1:888%d port 808%d", i+1, i+1), strings.TrimPrefix(g.addr, "tcp://")+" port "+readyPort)
	}
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(string(text), changes[i]) {
			t.Fatalf("haproxy.cfg has no %q", changes[i])
		}
	}
	config := strings.NewReplacer(changes...).Replace(string(text))
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-db", "-f", path)
	cmd.ExtraFiles = []*os.File{file}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("configuration:\n%s\noutput:\n%s", config, output.String())
		}
	})
	return "tcp://" + l.Addr().String()
}

// Two gateways behind HAProxy drain, one after the other. Their clients, which know
// HAProxy alone, go to the others, and no call is lost.
func TestInteropHAProxyDrain(t *testing.T) {
	l := newLoad(nil, &settings{clients: 12, duration: time.Hour}, new(bytes.Buffer))
	c, err := startNodes(1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	workerCtx, drainWorkers := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	for range cap(ended) {
		conn, err := c.connect(0)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// Owner: the test. End: drainWorkers.
		go func() { ended <- serveWorker(workerCtx, conn, &l.log, nil) }()
	}
	defer func() {
		drainWorkers()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}()
	conn, err := c.connect(0)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var gateways []*gateway
	for range 3 {
		g, err := startGateway(t.Context(), gatewayConfig{conn: conn, listen: "tcp://127.0.0.1:0", ready: "127.0.0.1:0",
			proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, notice: 500 * time.Millisecond, spread: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer g.kill()
		gateways = append(gateways, g)
	}
	l.addrs = []string{startHAProxy(t, gateways)}

	ctx, stop := context.WithCancel(t.Context())
	calling := make(chan struct{})
	// Owner: the test. End: stop.
	go func() {
		defer close(calling)
		l.run(ctx)
	}()
	sessions := func() (n []int) {
		for _, g := range gateways {
			n = append(n, g.server.Stats().Sessions)
		}
		return n
	}
	answered := func() int { return l.log.Counts().Ended[oracle.Once][oracle.Answered] }
	until(t, "each gateway has clients", func() bool { n := sessions(); return n[0] >= 3 && n[1] >= 3 && n[2] >= 3 })
	until(t, "calls are answered", func() bool { return answered() > 500 })
	for i := range 2 {
		if err := gateways[i].drain(context.Background()); err != nil {
			t.Error(err)
		}
		until(t, "the clients are at the other gateways", func() bool {
			n := sessions()
			return n[i] == 0 && n[0]+n[1]+n[2] == l.settings.clients
		})
		before := answered()
		until(t, "calls are answered", func() bool { return answered() > before+500 })
	}
	stop()
	<-calling
	if err := l.report(true); err != nil {
		t.Errorf("%v\n%s", err, l.out)
	}
	// Without the refusals, each of the ten sessions that end would leave a call uncertain. On
	// a busy machine, a client may be silent for so long that it meets no refusal.
	counts := l.log.Counts().Ended[oracle.Once]
	if counts[oracle.NotStarted] > 0 || counts[oracle.Written] > 3 {
		t.Errorf("%d calls were not started, %d have an uncertain end\n%s", counts[oracle.NotStarted], counts[oracle.Written], l.out)
	}
}
