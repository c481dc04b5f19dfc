//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/rpcx/internal/interoptest"
)

// The command is used with programs of other people, and with the examples. Each program is
// started once.

// startProgram starts a program that serves until the test ends. Its stdin stays open.
func startProgram(t *testing.T, cmd *exec.Cmd) (stdin io.Writer, stdout *bufio.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Signal(syscall.SIGTERM)
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Errorf("%s: %v", cmd.Path, err)
		}
	})
	return in, bufio.NewReader(out)
}

// freePort returns an address of loopback that nothing listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l := listenTCP(t)
	defer l.Close()
	return l.Addr().String()
}

// waitUntilListening waits for a program to listen.
func waitUntilListening(t *testing.T, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

// buildExample builds a program of the folder examples.
func buildExample(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", file, "./examples/"+name)
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// checkLines checks that a run has succeeded and printed these lines.
func checkLines(t *testing.T, r result, lines ...string) {
	t.Helper()
	checkResult(t, r, exitOK, strings.Join(lines, "\n")+"\n")
}

// In a real terminal the output has colours, and what a peer sends is escaped. In a pipe the
// output is as the peer has sent it.
func TestInteropTerminal(t *testing.T) {
	script := interoptest.Program(t, "apt-get install bsdutils", "script")
	p := newPeer(t)
	run := func(vars ...string) string {
		cmd := exec.CommandContext(t.Context(), script, "-qec", "'"+os.Args[0]+"' call "+p.tcp+" hostile_text", "/dev/null")
		cmd.Env = append(append(os.Environ(), asCommand+"=1", "TERM=xterm"), vars...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	const text = `"\u001b[2J\u009b2Jcleared\r\u202ecba"`
	if got, want := run(), colourString+text+colourEnd; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := run("NO_COLOR=1"); got != text {
		t.Errorf("without colours %q, want %q", got, text)
	}
	piped := process(t, "call", p.tcp, "hostile_text", "--output", "raw")
	if out, err := piped.Output(); err != nil || string(out) != "\x1b[2J\u009b2Jcleared\r\u202ecba\n" {
		t.Errorf("in a pipe %q, %v", out, err)
	}
}

// Open vSwitch's database server speaks JSON-RPC 1.0, with nothing between messages.
func TestInteropOVSDB(t *testing.T) {
	const install = "apt-get install openvswitch-common"
	server := interoptest.Program(t, install, "ovsdb-server", "/usr/sbin")
	tool := interoptest.Program(t, install, "ovsdb-tool", "/usr/bin")
	dir := t.TempDir()
	schema, database, socket := filepath.Join(dir, "schema"), filepath.Join(dir, "db"), filepath.Join(dir, "s")
	const text = `{"name":"Inventory","version":"1.0.0","tables":{"Thing":{"isRoot":true,"columns":{"name":{"type":"string"}}}}}`
	if err := os.WriteFile(schema, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "create", database, schema).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	startProgram(t, interoptest.Command(t, server, "--remote=ptcp:"+port+":127.0.0.1", "--remote=punix:"+socket,
		"--unixctl="+filepath.Join(dir, "control"), "--log-file=/dev/null", database))
	waitUntilListening(t, addr)
	flags := []string{"--framing", "json", "--protocol", "1", "-o", "compact"}
	run := func(args ...string) result { return rpcxRun(append(args, flags...)...) }

	for _, addr := range []string{addr, "unix://" + socket} {
		checkLines(t, run("call", addr, "list_dbs", "[]"), `["Inventory","_Server"]`)
		checkLines(t, run("call", addr, "get_schema", "Inventory", "--jq", ".tables | keys"), `["Thing"]`)
	}
	checkResult(t, run("call", addr, "nothing", "[]"), exitPeer, "", "unknown method")
	// Without --framing json, the command finds out what is wrong.
	checkResult(t, rpcxRun("call", addr, "list_dbs", "[]", "--protocol", "1", "--timeout", "1s"), exitTimeout, "", "Try --framing json.")
	lines := "list_dbs []\ntransact Inventory '{\"op\":\"insert\",\"table\":\"Thing\",\"row\":{\"name\":\"cup\"}}'\n"
	r := invocation{stdin: lines}.run(append([]string{"batch", addr, "--each", "--jq", ".[0].result, (.[1].result[0] | keys)"}, flags...)...)
	checkLines(t, r, `["Inventory","_Server"]`, `["uuid"]`)
	r = run("listen", addr, "--subscribe", `monitor ["Inventory","things",{"Thing":[{}]}]`, "--subscribe",
		`transact ["Inventory",{"op":"insert","table":"Thing","row":{"name":"plate"}}]`, "--count", "1",
		"--jq", `select(.method) | .method, .params[0], [.params[1].Thing[].new.name]`)
	checkLines(t, r, `"update"`, `"things"`, `["plate"]`)
}

// aria2, a program that downloads, is asked over HTTP and over a WebSocket.
func TestInteropAria2(t *testing.T) {
	aria2 := interoptest.Program(t, "apt-get install aria2", "aria2c")
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the file") }))
	defer web.Close()
	startProgram(t, interoptest.Command(t, aria2, "--enable-rpc", "--rpc-listen-port="+port, "--rpc-secret=hunter2",
		"--no-conf", "--quiet", "--dir="+dir, "--disable-ipv6", "--dht-file-path="+filepath.Join(dir, "dht"), "--enable-dht=false"))
	waitUntilListening(t, addr)
	httpAddr, wsAddr := "http://"+addr+"/jsonrpc", "ws://"+addr+"/jsonrpc"
	for _, addr := range []string{httpAddr, wsAddr} {
		checkLines(t, rpcxRun("call", addr, "aria2.getVersion", "token:hunter2", "--jq", `.version | test("^[0-9.]+$")`), "true")
		r := invocation{stdin: "aria2.getGlobalOption token:hunter2\nsystem.listMethods\naria2.tellActive token:wrong\n"}.
			run("batch", addr, "-o", "compact", "--jq", `.[0].result.dir, (.[1].result | contains(["aria2.addUri"])), .[2].error.message`)
		checkResult(t, r, exitPeer, `"`+dir+"\"\ntrue\n\"Unauthorized\"\n")
	}
	checkResult(t, rpcxRun("call", httpAddr, "aria2.getVersion"), exitPeer, "", "Unauthorized")
	r := rpcxRun("listen", wsAddr, "--subscribe", "aria2.addUri token:hunter2 [\""+web.URL+"/file\"]", "--count", "2",
		"--jq", ".method // empty", "-o", "raw")
	checkLines(t, r, "aria2.onDownloadStart", "aria2.onDownloadComplete")
	if text, err := os.ReadFile(filepath.Join(dir, "file")); string(text) != "the file" {
		t.Errorf("downloaded %q, %v", text, err)
	}
	// To a client without HTTP, aria2 says nothing.
	checkResult(t, rpcxRun("call", addr, "aria2.getVersion", "--timeout", "5s"), exitConnection, "", "without a word")
}

// gopls is started, and asked as an editor would.
func TestInteropGopls(t *testing.T) {
	path, err := exec.Command("go", "env", "GOPATH").Output() // where go install puts it
	if err != nil {
		t.Fatal(err)
	}
	gopls := interoptest.Program(t, "go -C tools/gopls install tool", "gopls", filepath.Join(strings.TrimSpace(string(path)), "bin"), "../../bin")
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module small\n", "small.go": "package small\n\n// Answer is known.\nconst Answer = 42\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := "file://" + dir
	lines := `
initialize processId=null rootUri=` + root + ` capabilities={}
!initialized {}
textDocument/documentSymbol {"textDocument":{"uri":"` + root + `/small.go"}}
textDocument/nothing {}
shutdown
!exit
`
	r := invocation{stdin: lines}.run("batch", "stdio:'"+gopls+"'", "--framing", "lsp", "--each", "--output", "compact", "--jq",
		`.[] | [.line, (.result | arrays[0].name, objects.serverInfo.name, nulls), (.error.code // empty)]`)
	checkResult(t, r, exitPeer, `[2,"gopls"]
[4,"Answer"]
[5,null,-32601]
[6,null]
`)
	checkLines(t, rpcxRun("call", "initialize", "processId=null", "capabilities={}", "--stdio", gopls, "--framing=lsp",
		"--jq", ".serverInfo.name", "-o", "raw"), "gopls")
}

// Servers of the Model Context Protocol: the example, and one made with the official library.
func TestInteropMCP(t *testing.T) {
	const hello = `initialize protocolVersion='"2025-06-18"' capabilities={} clientInfo='{"name":"rpcx","version":"1"}'
!notifications/initialized
tools/list
`
	t.Run("the example", func(t *testing.T) {
		r := invocation{stdin: hello + "tools/call name=count arguments='{\"to\":3}'\n"}.run("batch", "stdio:"+buildExample(t, "mcp")+" -step 1ms",
			"--each", "--jq", `.[1].result.tools[0].name, .[2].result.content[0].text`, "--output", "compact", "--cancel", "mcp")
		checkLines(t, r, `"count"`, `"counted to 3"`)
	})
	t.Run("TypeScript", func(t *testing.T) {
		const install = "(cd testdata/interop && npm ci)"
		interoptest.Need(t, install, "node", "-e", "require('@modelcontextprotocol/sdk/server/mcp.js')")
		script, err := filepath.Abs(filepath.Join("..", "..", "testdata", "interop", "mcp_server.js"))
		if err != nil {
			t.Fatal(err)
		}
		r := invocation{stdin: hello + "tools/call name=cancellations\ntools/call name=nothing\n"}.run("batch", "stdio:node '"+script+"'",
			"--each", "--jq", `.[0].result.serverInfo.name, .[2].result.content[0].text, (.[3].result.isError // .[3].error.code)`, "--output", "compact")
		if r.code == exitUsage || !strings.HasPrefix(r.stdout, "\"peer\"\n\"0\"\n") {
			t.Errorf("%+v", r)
		}
	})
}

// The example of an Electrum server: a login first, and a subscription.
func TestInteropElectrum(t *testing.T) {
	server := interoptest.Command(t, buildExample(t, "electrum"), "server", "-listen", "tcp://127.0.0.1:0")
	stdin, stdout := startProgram(t, server)
	addr := ""
	for addr == "" {
		line, err := stdout.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if _, after, ok := strings.Cut(line, "tcp://"); ok {
			addr = strings.Fields(after)[0]
		}
	}
	checkLines(t, rpcxRun("call", addr, "server.version", "rpcx", `"1.4"`, "--jq", ".[1]", "-o", "raw"), "1.4")
	r := invocation{stdin: "server.version rpcx '\"1.4\"'\nblockchain.headers.subscribe\nblockchain.block.header 0\n"}.
		run("batch", addr, "--each", "-o", "compact", "--jq", ".[1].result.height, (.[2].result | length)")
	checkLines(t, r, "110", "160")
	// The listener has printed the subscription's reply before the block is mined.
	out := newLineWriter()
	done := make(chan result, 1)
	go func() { // Owner: the test. End: --count.
		done <- invocation{stdout: out}.run("listen", addr, "--subscribe", `server.version ["rpcx","1.4"]`, "--subscribe", "blockchain.headers.subscribe",
			"--count", "1", "-o", "compact", "--jq", ".result.height? // .params[0].height // empty")
	}()
	if line := out.next(t); line != "110" {
		t.Errorf("the height is %s", line)
	}
	if _, err := io.WriteString(stdin, "mine 1\n"); err != nil {
		t.Fatal(err)
	}
	if line := out.next(t); line != "111" {
		t.Errorf("the height is %s", line)
	}
	if r := <-done; r.code != exitOK {
		t.Errorf("%+v", r)
	}
}

// lineWriter passes on what is written, which is whole lines.
type lineWriter struct{ lines chan string }

func newLineWriter() *lineWriter { return &lineWriter{make(chan string, 100)} }

func (w *lineWriter) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		w.lines <- strings.TrimSpace(line)
	}
	return len(p), nil
}

func (w *lineWriter) next(t *testing.T) string {
	t.Helper()
	select {
	case line := <-w.lines:
		return line
	case <-t.Context().Done():
		t.Fatal("nothing was printed")
	}
	return ""
}

// jayson's server over HTTP.
func TestInteropJayson(t *testing.T) {
	interoptest.Need(t, "(cd testdata/interop && npm ci)", "node", "-e", "require('jayson')")
	_, stdout := startProgram(t, interoptest.Command(t, "node", "jayson_server.js"))
	line, err := stdout.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimSpace(line)
	checkLines(t, rpcxRun("call", addr, "sum", "1", "2", "3"), "6")
	checkLines(t, rpcxRun("call", addr, "subtract", "minuend=42", "subtrahend=23"), "19")
	checkLines(t, rpcxRun("call", addr, "echo", "naïve ☃ 𝄞", "-o", "raw"), "naïve ☃ 𝄞")
	checkResult(t, rpcxRun("call", addr, "refuse", "[]"), exitPeer, "", `{"code":42,"message":"refused: naïve","data":{"why":["tired"]}}`)
	checkResult(t, rpcxRun("notify", addr, "note", "hello"), exitOK, "")
	checkLines(t, rpcxRun("call", addr, "notes", "[]", "-o", "compact"), `["hello"]`)
	r := invocation{stdin: "sum 1 2\n!note again\nnothing\n"}.run("batch", addr, "-o", "table")
	checkResult(t, r, exitPeer, `line  method   result  error
1     sum      3
3     nothing          {"code":-32601,"message":"Method not found"}
`)
}

// A SOCKS proxy that wants a password.
func TestInteropSOCKS(t *testing.T) {
	microsocks := interoptest.Program(t, "apt-get install microsocks", "microsocks")
	p := newPeer(t)
	addr := freePort(t)
	host, port, _ := net.SplitHostPort(addr)
	startProgram(t, interoptest.Command(t, microsocks, "-i", host, "-p", port, "-u", "ann", "-P", "hunter2"))
	waitUntilListening(t, addr)
	for _, to := range []string{p.tcp, p.ws, p.http} {
		checkLines(t, rpcxRun("call", to, "params", "1", "-o", "compact", "--proxy", "socks5://ann:hunter2@"+addr), "[1]")
		r := rpcxRun("call", to, "params", "--proxy", "socks5://ann:wrong-password@"+addr, "-v")
		checkResult(t, r, exitConnection, "")
		if strings.Contains(r.stderr, "wrong-password") {
			t.Errorf("the password is in the output: %s", r.stderr)
		}
	}
	checkResult(t, rpcxRun("call", freePort(t), "params", "--proxy", "socks5://ann:hunter2@"+addr), exitConnection, "", "refused")
}

// OpenSSL, in socat, asks for a client certificate.
func TestInteropTLS(t *testing.T) {
	socat := interoptest.Program(t, "apt-get install socat", "socat")
	p := newPeer(t)
	certs := newCertificates(t)
	addr := freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	startProgram(t, interoptest.Command(t, socat, "OPENSSL-LISTEN:"+port+",bind=127.0.0.1,reuseaddr,fork,verify=1,cert="+certs.server+",cafile="+certs.ca, "TCP:"+p.tcp))
	waitUntilListening(t, addr)
	call := func(args ...string) result {
		return rpcxRun(append([]string{"call", "tls://localhost:" + port, "params", "1", "-o", "compact", "--tls-ca", certs.ca}, args...)...)
	}
	checkLines(t, call("--cert", certs.client), "[1]")
	checkResult(t, call(), exitConnection, "", "certificate")
	checkResult(t, rpcxRun("call", "localhost:"+port, "params", "--timeout", "5s"), exitConnection, "", "Does it expect TLS (--tls)?")
}
