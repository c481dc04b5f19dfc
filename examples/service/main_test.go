package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// asProgram is the variable by which the executable of the tests becomes the program.
const asProgram = "RPCX_SERVICE"

// TestMain fails the run if it leaves a goroutine behind, and so does the program.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(leaktest.Run(service{}))
	}
	os.Exit(leaktest.Run(m))
}

// service is the program.
type service struct{}

func (service) Run() int {
	main()
	return 0
}

// program is the program as a process.
type program struct {
	t              *testing.T
	cmd            *exec.Cmd
	http, tcp      string // addresses
	stdout, stderr bytes.Buffer
	signal, wait   func() error
}

// start starts the program and waits until it is ready. The program ends with the test, and
// has to end well.
func start(t *testing.T, env string, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, http: freeAddr(t), tcp: freeAddr(t)}
	p.cmd = exec.Command(self, append([]string{"-http", p.http, "-tcp", p.tcp, "-notice", "10ms"}, args...)...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1", env)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.signal = sync.OnceValue(func() error { return p.cmd.Process.Signal(syscall.SIGTERM) })
	p.wait = sync.OnceValue(p.cmd.Wait)
	t.Cleanup(func() {
		p.end()
		http.DefaultClient.CloseIdleConnections()
	})
	p.until("the program is ready", func() bool { return p.ready() == http.StatusOK })
	return p
}

// end ends the program with SIGTERM.
func (p *program) end() {
	p.t.Helper()
	_ = p.signal() // once, because a second signal ends the program at once
	kill := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	if err := p.wait(); err != nil || p.t.Failed() {
		p.t.Errorf("the program has ended with %v\n%s", err, &p.stderr)
	}
}

// ready returns the status of /ready, or 0.
func (p *program) ready() int {
	resp, err := http.Get("http://" + p.http + "/ready")
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// metrics returns the text of /metrics.
func (p *program) metrics() string {
	resp, err := http.Get("http://" + p.http + "/metrics")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(resp.Body)
	return text.String()
}

// sum returns the sum of a metric over the series that have the given labels ("name=value").
func (p *program) sum(metric string, labels ...string) (sum float64) {
	for line := range strings.Lines(p.metrics()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name, _, _ = strings.Cut(name, "{"); name != metric {
			continue
		}
		has := func(label string) bool {
			key, value, _ := strings.Cut(label, "=")
			return strings.Contains(line, "{"+key+`="`+value+`"`) || strings.Contains(line, ","+key+`="`+value+`"`)
		}
		v, err := strconv.ParseFloat(value, 64)
		if err == nil && !slices.ContainsFunc(labels, func(label string) bool { return !has(label) }) {
			sum += v
		}
	}
	return sum
}

// until waits until ok, and fails the test after twenty seconds.
func (p *program) until(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			p.t.Fatalf("not in twenty seconds: %s", what)
		}
		time.Sleep(pause)
	}
}

// freeAddr returns an address where nothing listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// connect returns clients of the program, by their transport.
func (p *program) connect() map[string]rpcx.Caller {
	p.t.Helper()
	overTCP, err := rpcx.Dial(p.t.Context(), "tcp://"+p.tcp, &rpcx.Options{Cancellation: rpcx.LSPCancellation, Meta: rpcx.MemberMeta})
	if err != nil {
		p.t.Fatal(err)
	}
	overWebSocket, err := websocket.Dial(p.t.Context(), "ws://"+p.http+"/rpc", &rpcx.Options{Cancellation: rpcx.LSPCancellation})
	if err != nil {
		p.t.Fatal(err)
	}
	overHTTP, err := rpchttp.Dial("http://"+p.http+"/rpc", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	clients := map[string]rpcx.Caller{"TCP": overTCP, "WebSocket": overWebSocket, "HTTP": overHTTP}
	p.t.Cleanup(func() {
		for _, c := range clients {
			c.Close()
		}
		<-overTCP.Done()
		<-overWebSocket.Done()
	})
	return clients
}

// A program that cannot listen says so, and ends at once: nothing is served yet, so there is
// no notice.
func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, flags := range [][]string{
		{"-tcp", l.Addr().String(), "-http", "127.0.0.1:0"}, {"-http", l.Addr().String(), "-tcp", "127.0.0.1:0"},
	} {
		cmd := exec.CommandContext(ctx, self, append(flags, "-notice", "1h")...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "address already in use") {
			t.Errorf("%q: %v\n%s", flags, err, out)
		}
	}
}
