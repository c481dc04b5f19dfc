//go:build unix

package examples_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"example.com/rpcx/internal/interoptest"
)

// followed is the address that the clients of the tests follow.
const followed = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"

// electrumClient is a running client of the example electrum. Its lines are sorted by
// their topics. If a line does not come, the end of the program ends the test.
type electrumClient struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   *bufio.Reader
	lines map[string][]string // unread, by topic
	all   []string
	log   bytes.Buffer
}

// topics are the beginnings of lines, and their topics: lines of one topic come from one
// goroutine of the client, in order.
var topics = map[string]string{
	"state ": "states", "connected ": "connections", "call ": "calls", "answer ": "answers",
	"header ": "headers", "gap in the headers": "headers",
	"status": "statuses", "gap in the statuses": "statuses",
}

// startElectrumClient starts a client of the servers, which prints its calls, too.
func startElectrumClient(t *testing.T, servers ...string) *electrumClient {
	t.Helper()
	args := []string{"client", "-v", "-address", followed}
	for _, addr := range servers {
		args = append(args, "-connect", addr)
	}
	c := &electrumClient{t: t, cmd: command(t, "electrum", args...), lines: make(map[string][]string)}
	c.cmd.Stderr = &c.log
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil { // the test has failed
			c.cmd.Process.Kill()
			c.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("the client printed\n%s\n%s", strings.Join(c.all, "\n"), &c.log)
		}
	})
	return c
}

// read reads a line. It reports false at the end of the output.
func (c *electrumClient) read() bool {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err == io.EOF && line == "" {
		return false
	}
	line = strings.TrimSpace(line)
	c.all = append(c.all, line)
	for prefix, topic := range topics {
		if strings.HasPrefix(line, prefix) {
			c.lines[topic] = append(c.lines[topic], line)
			return true
		}
	}
	c.t.Fatalf("the client printed %q (%v)", line, err)
	return false
}

// next waits for the next line of a topic, and returns the part that want has in
// parentheses.
func (c *electrumClient) next(topic, want string) string {
	c.t.Helper()
	for len(c.lines[topic]) == 0 {
		if !c.read() {
			c.t.Fatalf("the client has ended before %q", want)
		}
	}
	line := c.lines[topic][0]
	c.lines[topic] = c.lines[topic][1:]
	found := regexp.MustCompile("^" + want + "$").FindStringSubmatch(line)
	if found == nil {
		c.t.Fatalf("the client printed %q, want %q", line, want)
	}
	return found[len(found)-1]
}

// connected waits until the client is connected, logs in first, and then has subscribed in
// the order of the program.
func (c *electrumClient) connected(addr, software string) {
	c.t.Helper()
	subscribes := []string{"blockchain.headers.subscribe", "blockchain.scripthash.subscribe"}
	c.next("calls", "call server.version")
	c.next("answers", "answer server.version")
	c.next("connections", fmt.Sprintf("connected to %s, .*%s.*", regexp.QuoteMeta(strings.TrimPrefix(addr, "tcp://")), software))
	for _, method := range subscribes {
		c.next("calls", "call "+method)
	}
	for range subscribes { // in any order
		c.next("answers", "answer blockchain.(headers|scripthash).subscribe")
	}
}

// header waits for a header, with a gap before it or without one.
func (c *electrumClient) header(height int, hasGap bool) {
	c.t.Helper()
	c.gap("headers", hasGap)
	c.next("headers", fmt.Sprintf("header %d, [0-9a-f]{64}", height))
}

// status waits for a status, and returns it.
func (c *electrumClient) status(hasGap bool) string {
	c.t.Helper()
	c.gap("statuses", hasGap)
	return c.next("statuses", `status "([0-9a-f]{64})"`)
}

func (c *electrumClient) gap(topic string, exists bool) {
	c.t.Helper()
	if exists {
		c.next(topic, "gap in the "+topic+": .*missed for [0-9.]+[nµm]?s: .*")
	}
}

// stop ends the client as a user would. No line must be left, except of its states.
func (c *electrumClient) stop() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	for c.read() {
	}
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("the client ended with %v", err)
	}
	states := c.lines["states"]
	delete(c.lines, "states")
	if len(states) == 0 || states[len(states)-1] != "state closed: rpcx: client closed" {
		c.t.Errorf("the states are %q", states)
	}
	for topic, lines := range c.lines {
		if len(lines) > 0 {
			c.t.Errorf("%s of the client that the test did not expect: %q", topic, lines)
		}
	}
}

// copyState copies the state of a server, which carries out no command, to another, which
// does not run.
func copyState(t *testing.T, from, to string) {
	t.Helper()
	state, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, state, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A client follows two servers, of which one is restarted, and the other is killed.
func TestElectrumClient(t *testing.T) {
	dir := t.TempDir()
	states := [2]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	var servers [2]*electrumServer
	for i, state := range states {
		servers[i] = &electrumServer{t: t, listen: []string{"tcp://127.0.0.1:0"}, args: []string{"-state", state}}
	}
	a, b := servers[0], servers[1]
	a.start()
	a.pay(followed, 150_000_000)
	height := a.mine(1)
	copyState(t, states[0], states[1])
	b.start()

	c := startElectrumClient(t, a.listen[0], b.listen[0])
	c.connected(a.listen[0], "rpcx example")
	c.header(height, false)
	first := c.status(false)
	height = a.mine(1)
	c.header(height, false)

	// The client goes on with b, whose chain is a block shorter, and has the same status.
	a.stop()
	a.start()
	c.connected(b.listen[0], "rpcx example")
	c.header(height-1, true)
	for range 2 {
		c.header(b.mine(1), false)
	}
	b.pay(followed, 5_000_000)
	second := c.status(false)

	// The client goes back to a, which has neither the last block nor the payment of b.
	b.kill()
	c.connected(a.listen[0], "rpcx example")
	c.header(height, true)
	if again := c.status(true); again != first || second == first {
		t.Errorf("the status is %s, and was %s and %s", again, first, second)
	}

	// At b, which has the chain of a, nothing has changed.
	copyState(t, states[0], states[1])
	b.start()
	a.kill()
	c.connected(b.listen[0], "rpcx example")
	c.header(b.mine(1), false)
	b.pay(followed, 7_000_000)
	if third := c.status(false); third == first {
		t.Errorf("the status is still %s", third)
	}
	c.stop()
}

// aiorpcxElectrum is a server in Python, of the original of this library.
type aiorpcxElectrum struct {
	t    *testing.T
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
}

// start starts the server: at any port, or again at its port.
func (s *aiorpcxElectrum) start(height int, status string) {
	s.t.Helper()
	port := "0"
	if s.addr != "" {
		port = s.addr[strings.LastIndex(s.addr, ":")+1:]
	}
	s.cmd = interoptest.Command(s.t, interoptest.Python, "aiorpcx_electrum.py", port, fmt.Sprint(height), status)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, in := s.cmd, s.in
	s.t.Cleanup(func() {
		if cmd.ProcessState != nil { // killed
			return
		}
		in.Close() // which the server takes for the end
		if err := cmd.Wait(); err != nil {
			s.t.Errorf("the server ended with %v", err)
		}
	})
	s.out = bufio.NewReader(out)
	line, err := s.out.ReadString('\n')
	if err != nil {
		s.t.Fatalf("the server does not say where it listens: %v", err)
	}
	s.addr = strings.TrimSpace(line)
}

func (s *aiorpcxElectrum) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// do has the server carry out a command.
func (s *aiorpcxElectrum) do(command string) {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		s.t.Fatal(err)
	}
	if line, err := s.out.ReadString('\n'); strings.TrimSpace(line) != command {
		s.t.Fatalf("%s: the server printed %q (%v)", command, line, err)
	}
}

// The same client follows two servers of aiorpcX, which are killed in turn and come back.
func TestInteropElectrumClient(t *testing.T) {
	interoptest.Need(t, "apt-get install python3-aiorpcx", interoptest.Python, "-c", "import aiorpcx")
	status := func(n int) string { return fmt.Sprintf("%064x", n) }
	a, b := &aiorpcxElectrum{t: t}, &aiorpcxElectrum{t: t}
	a.start(100, status(1))
	b.start(101, status(1))
	c := startElectrumClient(t, a.addr, b.addr)
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("the status is %s, want %s", got, want)
		}
	}

	c.connected(a.addr, "aiorpcX")
	c.header(100, false)
	expect(c.status(false), status(1))
	a.do("header 101")
	c.header(101, false)

	a.kill() // at b, nothing is different
	c.connected(b.addr, "aiorpcX")
	b.do("header 102")
	c.header(102, false)
	b.do("status " + status(2))
	expect(c.status(false), status(2))

	a.start(103, status(2))
	b.kill() // at a, there is a block more
	c.connected(a.addr, "aiorpcX")
	c.header(103, true)
	a.do("status " + status(3))
	expect(c.status(false), status(3))

	b.start(104, status(4))
	a.kill() // at b, both are different
	c.connected(b.addr, "aiorpcX")
	c.header(104, true)
	expect(c.status(true), status(4))
	b.do("header 105")
	c.header(105, false)
	c.stop()
}
