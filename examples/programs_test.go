//go:build unix

package examples_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

func TestPlugin(t *testing.T) {
	const want = `words: 6 <nil>
one part too many: there is no part 3 (code -32602)
the plugin: exit status 0
`
	if got := output(t, "plugin"); got != want {
		t.Errorf("plugin printed\n%s\nwant\n%s", got, want)
	}
}

// smallGo is a file for language servers.
const smallGo = `package small

// Pair is two numbers.
type Pair struct {
	A, B int
}

func (p Pair) Sum() int { return p.A + p.B }

const Answer = 42
`

// The symbols of a small file are asked of gopls itself.
func TestInteropLSP(t *testing.T) {
	path, err := exec.Command("go", "env", "GOPATH").Output() // where go install puts it
	if err != nil {
		t.Fatal(err)
	}
	gopls := interoptest.Program(t, "go -C tools/gopls install tool", "gopls", filepath.Join(strings.TrimSpace(string(path)), "bin"))
	const want = `gopls says of small.go:
  4: Pair struct{...}
    5: A int
    5: B int
  8: (Pair).Sum func() int
  10: Answer
`
	dir := t.TempDir()
	file := filepath.Join(dir, "small.go")
	for name, text := range map[string]string{file: smallGo, filepath.Join(dir, "go.mod"): "module small\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := output(t, "lsp", "-server", gopls, file); got != want {
		t.Errorf("lsp printed\n%s\nwant\n%s", got, want)
	}
}

// The client of a language server works with the example's own server, too.
func TestLSP(t *testing.T) {
	const want = `lsp says of small.go:
  4: Pair
  8: Sum
  10: Answer
`
	file := filepath.Join(t.TempDir(), "small.go")
	if err := os.WriteFile(file, []byte(smallGo), 0o600); err != nil {
		t.Fatal(err)
	}
	server := filepath.Join(programs, "lsp") + " -serve"
	if got := output(t, "lsp", "-server", server, file); got != want {
		t.Errorf("lsp printed\n%s\nwant\n%s", got, want)
	}
}

// The language server refuses what comes before "initialize", drops notifications, and
// knows the text as the last notification has it.
func TestLSPServer(t *testing.T) {
	type object = map[string]any
	s, err := rpcx.Command(t.Context(), command(t, "lsp", "-serve"), &rpcx.Options{Framer: rpcx.HeaderFramer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	const uri = "file:///small.go"
	opened := func(text string) object { return object{"textDocument": object{"uri": uri, "text": text}} }
	symbols := func() *rpcx.Future { return s.Go(ctx, "textDocument/documentSymbol", opened("")) }
	notify := func(method string, params any) {
		if err := s.Notify(ctx, method, params); err != nil {
			t.Error(err)
		}
	}
	notify("textDocument/didOpen", opened(smallGo))
	if err := symbols().Wait(ctx, nil); !errors.Is(err, &rpcx.Error{Code: -32002}) {
		t.Errorf("before initialize: %v", err)
	}
	initialize := s.Go(ctx, "initialize", object{"capabilities": object{}})
	notify("initialized", object{})
	unopened := symbols() // without waiting for the reply
	if err := initialize.Wait(ctx, nil); err != nil {
		t.Error(err)
	}
	if err := unopened.Wait(ctx, nil); !errors.Is(err, rpcx.ErrInvalidParams) {
		t.Errorf("the text that was opened before initialize: %v", err)
	}
	for _, c := range []struct{ text, want string }{
		{"package p\nvar \U0001d4ca, x = 1, 2", `["𝓊" 4-6] ["x" 8-9]`}, // in UTF-16
		{"package p\n//line other.go:7\nfunc f(", `["f" 5-6]`},
		{"package p\n" + strings.Repeat("x\nvar _ = 1\n", 12) + "type f int", strings.Repeat(`["_" 4-5] `, 12) + `["f" 5-6]`},
		{"no Go", ""},
	} {
		notify("textDocument/didOpen", opened(c.text))
		var found []struct {
			Name           string
			SelectionRange struct{ Start, End struct{ Character int } }
		}
		if err := symbols().Wait(ctx, &found); err != nil || found == nil {
			t.Errorf("%q: %v, %v", c.text, found, err)
		}
		var got []string
		for _, f := range found {
			got = append(got, fmt.Sprintf("[%q %d-%d]", f.Name, f.SelectionRange.Start.Character, f.SelectionRange.End.Character))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%q has the symbols %s, want %s", c.text, text, c.want)
		}
	}
	notify("exit", nil) // without "shutdown" before
	<-s.Done()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("the server has ended with %v", err)
	}
}

// After "shutdown", the language server handles only "exit", and succeeds.
func TestLSPServerIsShutDown(t *testing.T) {
	s, err := rpcx.Command(t.Context(), command(t, "lsp", "-serve"), &rpcx.Options{Framer: rpcx.HeaderFramer{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, c := range []struct {
		method string
		want   error
	}{{"initialize", nil}, {"shutdown", nil}, {"shutdown", rpcx.ErrInvalidRequest}} {
		if err := s.Call(t.Context(), c.method, nil, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.method, err, c.want)
		}
	}
	if err := s.Notify(t.Context(), "exit", nil); err != nil {
		t.Error(err)
	}
	<-s.Done()
	if exit, ok := errors.AsType[*exec.ExitError](s.Err()); ok {
		t.Errorf("the server has ended with %v", exit)
	}
}

// The page is looked at with Chromium: it is connected, has been called back, and
// shows what the server pushes.
func TestInteropBrowser(t *testing.T) {
	chromium := interoptest.Program(t, "apt-get install chromium", "chromium")
	cmd := command(t, "browser", "-listen", "127.0.0.1:0")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	page, ok := strings.CutPrefix(strings.TrimSpace(line), "look at ")
	if err != nil || !ok {
		t.Fatalf("browser printed %q (%v)", line, err)
	}
	web := httptest.NewServer(held(t, page))
	defer web.Close()
	profile, err := os.MkdirTemp("", "rpcx") // not a t.TempDir, which complains if the browser is not quite gone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(profile)
	dom, err := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+profile, "--dump-dom", web.URL).Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	want := regexp.MustCompile(`(?s)<b id="state">open</b>.*<b id="sessions">1</b>.*<b id="requests">\d+</b>.*<b id="greeting">hello, the page at /</b>`)
	if !want.Match(dom) {
		t.Errorf("the page is\n%s", dom)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
}

// held passes a page on, and with it something that keeps it from having loaded, as
// which it is printed, until it shows what it has to.
func held(t *testing.T, page string) http.Handler {
	const hold = `<img src="/hold"><script>
		const look = setInterval(() => {
			if (document.getElementById('requests').textContent === '?') return;
			if (document.getElementById('greeting').textContent.length < 5) return;
			clearInterval(look);
			fetch('/finished');
		}, 20);
	</script>`
	target, err := url.Parse(page)
	if err != nil {
		t.Fatal(err)
	}
	finished := make(chan struct{}, 1)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // the browser hangs up
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.StatusCode != http.StatusOK || !strings.HasPrefix(r.Header.Get("Content-Type"), "text/html") {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		body = append(body, hold...)
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.ContentLength = int64(len(body))
		r.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", proxy)
	mux.HandleFunc("/finished", func(http.ResponseWriter, *http.Request) { finished <- struct{}{} })
	mux.HandleFunc("/hold", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-finished:
		case <-r.Context().Done():
		}
	})
	return mux
}

// A client in Go starts the server mcp, calls a tool, and ends the server.
func TestMCP(t *testing.T) {
	ctx := t.Context()
	cmd := command(t, "mcp", "-step", "1ms")
	s, err := rpcx.Command(ctx, cmd, &rpcx.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Call(ctx, "initialize", map[string]any{"protocolVersion": "2025-11-25"}, nil); err != nil {
		t.Errorf("initialize: %v", err)
	}
	var seen []int
	params := map[string]any{"name": "count", "arguments": map[string]any{"to": 3}}
	_, err = rpcx.CallProgress[any](ctx, s, rpcx.MCPProgress, "tools/call", params, func(p struct{ Progress int }) {
		seen = append(seen, p.Progress)
	})
	if want := []int{1, 2, 3}; err != nil || !slices.Equal(seen, want) {
		t.Errorf("progress %v, want %v (%v)", seen, want, err)
	}
	s.Close()
	<-s.Done()
	if !cmd.ProcessState.Success() {
		t.Errorf("mcp ended with %v", cmd.ProcessState)
	}
}

// The official client of the Model Context Protocol, in TypeScript, uses the server mcp.
func TestInteropMCP(t *testing.T) {
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('@modelcontextprotocol/sdk/client/index.js')")
	interoptest.Checks(t, "node", "mcp_client.js", filepath.Join(programs, "mcp"))
}
