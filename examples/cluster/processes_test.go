package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx/internal/interoptest"
	natsrpcx "example.com/rpcx/nats"
)

// process is a process of a test.
type process struct {
	cmd    *exec.Cmd
	lines  chan string // of standard output; closed at its end
	stderr bytes.Buffer
	exited bool
}

// startProgram starts this program as a process of its own.
func startProgram(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return start(t, cmd)
}

// start starts cmd, which ends with the test.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, lines: make(chan string, 1000)}
	cmd.Stderr = &p.stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Owner: the test. End: the process has ended.
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = p.kill()
		if t.Failed() {
			t.Logf("stderr of %s:\n%s", strings.Join(cmd.Args[1:], " "), p.stderr.String())
		}
	})
	return p
}

// line returns the next line, or "" at the end.
func (p *process) line(t *testing.T) string {
	t.Helper()
	select {
	case line := <-p.lines:
		return line
	case <-time.After(time.Minute):
		t.Fatalf("%s prints no line in a minute", p.cmd.Args)
		return ""
	}
}

// kill kills the process, without a word.
func (p *process) kill() error {
	if !p.exited {
		_ = p.cmd.Process.Kill()
	}
	return p.wait()
}

// wait waits for the end of the process.
func (p *process) wait() error {
	if p.exited {
		return nil
	}
	for range p.lines { // to the end, as Wait demands
	}
	p.exited = true
	return p.cmd.Wait()
}

// Parts that are processes of their own are killed, and all calls are accounted for. The
// nodes are in the process of the test.
func TestProcesses(t *testing.T) {
	c, err := startNodes(3)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	var urls []string
	for _, node := range c {
		urls = append(urls, node.NATS.ClientURL())
	}
	testProcesses(t, urls, c[2].NATS.Shutdown)
}

// The same with three of Debian's nats-server, which is older: each a process of its own.
func TestInteropProcesses(t *testing.T) {
	program := interoptest.Program(t, "apt-get install nats-server", "nats-server", "/usr/sbin")
	ports := freePorts(t, 6) // of each node, for clients and for the other nodes
	var urls, routes []string
	for i := range 3 {
		urls = append(urls, "nats://127.0.0.1:"+ports[i])
		routes = append(routes, "nats://127.0.0.1:"+ports[3+i])
	}
	var nodes []*process
	for i := range 3 {
		nodes = append(nodes, start(t, exec.Command(program, "-a", "127.0.0.1", "-p", ports[i], "-n", fmt.Sprintf("node%d", i+1),
			"--cluster_name", "example", "--cluster", routes[i], "--routes", strings.Join(routes, ","))))
	}
	for _, url := range urls {
		until(t, "the node answers", func() bool {
			conn, err := natsrpcx.Connect(url)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	testProcesses(t, urls, func() { _ = nodes[2].kill() })
}

// freePorts returns n ports that are free.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // not before all are found, which are different then
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
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

// testProcesses runs four workers, three gateways and a client as processes, which use the
// nodes at urls. killNode kills the last node.
func testProcesses(t *testing.T, urls []string, killNode func()) {
	records := t.TempDir()
	var workers, gateways []*process
	for range 4 {
		p := startProgram(t, "-role", "worker", "-nats", strings.Join(urls, ","), "-records", records)
		if line := p.line(t); line != "worker" {
			t.Fatalf("a worker says %q", line)
		}
		workers = append(workers, p)
	}
	var addrs []string
	for range 3 {
		p := startProgram(t, "-role", "gateway", "-nats", strings.Join(urls, ","), "-listen", "tcp://127.0.0.1:0", "-ready", "127.0.0.1:0",
			"-notice", "200ms", "-spread", "500ms")
		line := p.line(t)
		var addr, ready string
		if _, err := fmt.Sscanf(strings.ReplaceAll(line, ",", ""), "gateway at %s %s", &addr, &ready); err != nil {
			t.Fatalf("a gateway says %q: %v", line, err)
		}
		addrs = append(addrs, addr)
		gateways = append(gateways, p)
	}
	client := startProgram(t, "-role", "client", "-gateways", strings.Join(addrs, ","), "-duration", "5s", "-records", records)
	var lines []string
	next := func() {
		lines = append(lines, client.line(t))
	}
	next()
	_ = workers[3].kill()
	next()
	_ = gateways[2].kill()
	next()
	killNode()
	next()
	// A gateway and a worker drain.
	for _, p := range []*process{gateways[1], workers[0]} {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := p.wait(); err != nil {
			t.Errorf("%s: %v\n%s", p.cmd.Args, err, p.stderr.String())
		}
	}
	for line := range client.lines {
		lines = append(lines, line)
	}
	t.Log(strings.Join(lines, "\n"))
	if err := client.wait(); err != nil {
		t.Errorf("the client: %v", err)
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "calls ") || !strings.HasSuffix(last, "carried out twice: 0; unaccounted: 0") {
		t.Errorf("the last line is %q", last)
	}
}
