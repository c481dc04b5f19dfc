package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// service is a command that serves until the test ends.
type service struct {
	addr   string // where it listens
	stdout *watchedBuffer
	stderr *watchedBuffer
	stop   func() int // ends the command as Ctrl-C does, and returns the exit code
}

var servingAt = regexp.MustCompile(` at (\S+),`)

// serve starts a command that says where it listens.
func (i invocation) serve(t *testing.T, args ...string) *service {
	t.Helper()
	s := &service{stdout: newWatchedBuffer(), stderr: newWatchedBuffer()}
	ctx, cancel := context.WithCancel(context.Background())
	e := &env{
		stdin: strings.NewReader(i.stdin), stdout: s.stdout, stderr: s.stderr, stdoutTTY: i.terminal, stderrTTY: i.terminal,
		getenv: func(key string) string { return i.vars[key] },
	}
	if i.stdout != nil {
		e.stdout = io.MultiWriter(s.stdout, i.stdout)
	}
	code := make(chan int, 1)
	// Owner: the test. End: stop.
	go func() {
		code <- run(ctx, e, args)
		s.stdout.end()
		s.stderr.end()
	}()
	s.stop = sync.OnceValue(func() int {
		cancel()
		return <-code
	})
	t.Cleanup(func() { s.stop() })
	out := s.stdout
	if args[0] == "proxy" {
		out = s.stderr
	}
	m := servingAt.FindStringSubmatch(out.wait(t, " at "))
	if m == nil {
		t.Fatalf("the command says no address: %q, %q", s.stdout.text(), s.stderr.text())
	}
	s.addr = m[1]
	return s
}

// watchedBuffer is a buffer in which a test can wait for a text.
type watchedBuffer struct {
	mu    sync.Mutex
	grown *sync.Cond
	b     strings.Builder
	ended bool
}

func newWatchedBuffer() *watchedBuffer {
	b := new(watchedBuffer)
	b.grown = sync.NewCond(&b.mu)
	return b
}

func (b *watchedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.grown.Broadcast()
	return b.b.Write(p)
}

// end says that nothing more comes.
func (b *watchedBuffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.grown.Broadcast()
}

func (b *watchedBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// wait waits for a text, and returns all that was written.
func (b *watchedBuffer) wait(t *testing.T, want string) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	late := time.AfterFunc(20*time.Second, b.end)
	defer late.Stop()
	for !strings.Contains(b.b.String(), want) {
		if b.ended {
			t.Fatalf("no %q in %q", want, b.b.String())
		}
		b.grown.Wait()
	}
	return b.b.String()
}

// mockDocument is a document of a stranger.
const mockDocument = `{"openrpc": "1.3.2", "info": {"title": "Shop\u001b[2J", "version": "1"}, "methods": [
	{"name": "sum", "params": [{"name": "a", "schema": {"type": "number"}}, {"name": "b", "schema": {"type": "number"}}],
	 "result": {"name": "sum", "schema": {"type": "number"}},
	 "errors": [{"code": -1, "message": "first", "data": {"x": 1}}, {"code": -2, "message": "second"}],
	 "examples": [
		{"name": "one", "params": [{"name": "a", "value": 1}, {"name": "b", "value": 2}], "result": {"name": "sum", "value": 3}},
		{"name": "two", "params": [{"name": "a", "value": 2}, {"name": "b", "value": 2.0}], "result": {"name": "sum", "value": 4}}]},
	{"name": "status", "params": [], "result": {"name": "status", "schema": {"type": "string", "default": "idle"}}},
	{"name": "bare\u001b[31m", "params": [], "result": {"name": "x", "schema": {}}}]}`

func TestMock(t *testing.T) {
	s := invocation{stdin: mockDocument}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0")
	want := fmt.Sprintf("serving %q at %s, 3 methods:\n  bare\x1b[31m: no example, answered with null\n  status\n  sum: 2 examples, 2 errors\n", "Shop\x1b[2J", s.addr)
	if got := s.stdout.wait(t, "sum"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, c := range []struct {
		args   []string
		result string
	}{
		{[]string{"sum", "1", "2"}, "3"},
		{[]string{"sum", "2", "2"}, "4"}, // 2 and 2.0 are equal
		{[]string{"sum", "b=2", "a=2"}, "4"},
		{[]string{"sum", "2", "2", "2"}, "3"}, // no example: the first
		{[]string{"sum", "a=2", "c=2"}, "3"},
		{[]string{"sum"}, "3"},
		{[]string{"status"}, `"idle"`},
		{[]string{"bare\x1b[31m", "1"}, "null"},
		{[]string{"rpc.discover", "--jq", ".methods[0].name"}, `"sum"`},
	} {
		args := append([]string{"call", s.addr, "-o", "compact"}, c.args...)
		checkResult(t, rpcxRun(args...), exitOK, c.result+"\n")
	}
	checkResult(t, rpcxRun("call", s.addr, "other"), exitPeer, "", `{"code":-32601,"message":"unknown method \"other\""`)
	checkResult(t, rpcxRun("notify", s.addr, "other"), exitOK, "")
	checkResult(t, rpcxRun("call", s.addr, "sum", "2", "2", "--protocol", "1"), exitOK, "4\n")
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestMockResults(t *testing.T) {
	s := invocation{stdin: `{"sum": 3, "status": {"ok": true}}`}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0", "-v")
	checkResult(t, rpcxRun("call", s.addr, "sum", "x=1"), exitOK, "3\n")
	checkResult(t, rpcxRun("call", s.addr, "status", "-o", "compact"), exitOK, "{\"ok\":true}\n")
	checkResult(t, rpcxRun("describe", s.addr, "--jq", ".methods[].name", "-o", "raw"), exitOK, "status\nsum\n")
	checkResult(t, rpcxRun("notify", s.addr, "log\x1b", "a"), exitOK, "")
	s.stderr.wait(t, "sum {\"x\":1} → 3\n")
	s.stderr.wait(t, "log\\u001b [\"a\"]\n")
}

func TestMockErrors(t *testing.T) {
	s := invocation{stdin: mockDocument}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0", "--error-rate", "1")
	for _, want := range []string{`{"code":-1,"message":"first","data":{"x":1}}`, `{"code":-2,"message":"second"}`, `{"code":-1,`} {
		checkResult(t, rpcxRun("call", s.addr, "sum", "1", "2"), exitPeer, "", want)
	}
	checkResult(t, rpcxRun("call", s.addr, "status"), exitPeer, "", `{"code":-32603,"message":"failed by --error-rate"}`)
	checkResult(t, rpcxRun("call", s.addr, "rpc.discover", "--jq", ".openrpc", "-o", "raw"), exitOK, "1.3.2\n")
}

// A delay is a deadline's affair of the caller; a caller that has gone is not waited for.
func TestMockDelay(t *testing.T) {
	s := invocation{stdin: mockDocument}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0", "--delay", "1h")
	checkResult(t, rpcxRun("call", s.addr, "sum", "--timeout", "20ms"), exitTimeout, "", "no reply within 20ms")
	s = invocation{stdin: mockDocument}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0", "--delay", "1ms")
	checkResult(t, rpcxRun("call", s.addr, "sum"), exitOK, "3\n")
}

func TestMockNotifies(t *testing.T) {
	s := invocation{stdin: mockDocument}.serve(t, "serve-mock", "-", "--listen", "ws://127.0.0.1:0/", "--notify", "news a=1", "--notify", "!tick", "--every", "1ms")
	r := rpcxRun("listen", s.addr, "--count", "2", "-o", "compact")
	checkResult(t, r, exitOK, `{"method":"news","params":{"a":1}}`+"\n"+`{"method":"tick"}`+"\n")
}

func TestMockListens(t *testing.T) {
	certs := newCertificates(t)
	trust := []string{"--tls-ca", certs.ca, "--sni", "localhost"}
	socket := filepath.Join(t.TempDir(), "s")
	for _, c := range []struct {
		listen []string
		call   []string // flags, besides the address
		change func(addr string) string
	}{
		{[]string{"unix://" + socket}, nil, nil},
		{[]string{"127.0.0.1:0", "--framing", "lsp"}, []string{"--framing", "lsp"}, nil},
		{[]string{"127.0.0.1:0", "--framing", "length", "--protocol", "aiomas"}, []string{"--protocol", "aiomas"}, nil},
		{[]string{"tls://127.0.0.1:0", "--cert", certs.server, "--key", certs.server}, trust, nil},
		{[]string{"http://127.0.0.1:0/rpc"}, nil, nil},
		{[]string{"http://127.0.0.1:0/rpc"}, nil, func(addr string) string { return strings.Replace(addr, "http", "ws", 1) }},
		{[]string{"https://127.0.0.1:0", "--cert", certs.server}, trust, nil},
		{[]string{"127.0.0.1:0", "--framing", "ws"}, nil, nil},
	} {
		s := invocation{stdin: mockDocument}.serve(t, append([]string{"serve-mock", "-", "--listen"}, c.listen...)...)
		addr := s.addr
		if c.change != nil {
			addr = c.change(addr)
		}
		checkResult(t, rpcxRun(append([]string{"call", addr, "sum", "2", "2"}, c.call...)...), exitOK, "4\n")
		if code := s.stop(); code != exitOK {
			t.Errorf("%q: exit code %d: %s", c.listen, code, s.stderr.text())
		}
	}
}

func TestMockRefuses(t *testing.T) {
	busy := listenTCP(t)
	defer busy.Close()
	for _, c := range []struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		{"{}", nil, exitUsage, "want one FILE"},
		{"[1]", []string{"-"}, exitUsage, `want an OpenRPC document, or an object as {"method": result}`},
		{"{,}", []string{"-"}, exitUsage, "not JSON"},
		{`{"openrpc": "2.0.0", "info": {"title": "x", "version": "1"}, "methods": []}`, []string{"-"}, exitUsage, "is not a version 1 of OpenRPC"},
		{"{}", []string{"-", "--error-rate", "1.5"}, exitUsage, `flag --error-rate: "1.5" is not a number from 0 to 1`},
		{"{}", []string{"-", "--error-rate", "NaN"}, exitUsage, "is not a number"},
		{"{}", []string{"-", "--notify", ""}, exitUsage, "--notify: no method"},
		{"{}", []string{"-", "--notify", "x", "--every", "0"}, exitUsage, "--every"},
		{"{}", []string{"-", "--listen", "localhost"}, exitUsage, "has no port"},
		{"{}", []string{"-", "--listen", "tls://127.0.0.1:0"}, exitUsage, "needs --cert"},
		{"{}", []string{"-", "--listen", "127.0.0.1:0", "--cert", "x"}, exitUsage, "--cert needs tls://"},
		{"{}", []string{"-", "--listen", "tls://127.0.0.1:0", "--cert", "nothing.pem"}, exitUsage, "nothing.pem"},
		{"{}", []string{"-", "--listen", "stdio:cat"}, exitUsage, "not possible at a command"},
		{"{}", []string{"-", "--listen", busy.Addr().String()}, exitConnection, "address already in use"},
		{"", []string{"nothing.json"}, exitUsage, "nothing.json"},
	} {
		r := invocation{stdin: c.stdin}.run(append([]string{"serve-mock"}, c.args...)...)
		checkResult(t, r, c.code, "", c.want)
	}
}

// The document of a stranger does not act on the terminal.
func TestMockIsHarmless(t *testing.T) {
	s := invocation{stdin: mockDocument, terminal: true}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0")
	if got := s.stdout.wait(t, "sum"); strings.ContainsRune(got, '\x1b') {
		t.Errorf("stdout has an escape: %q", got)
	}
}

// checkPrivate checks the mode of a file or folder.
func checkPrivate(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != want {
		t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
	}
}
