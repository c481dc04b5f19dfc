//go:build unix

package examples_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// startServerAt starts the server example with several addresses. It returns the addresses
// at which the server listens, and what sends it SIGTERM and waits for its end.
func startServerAt(t *testing.T, addrs ...string) (urls []string, stop func()) {
	t.Helper()
	var args []string
	for _, addr := range addrs {
		args = append(args, "-listen", addr)
	}
	cmd := command(t, "server", args...)
	var log strings.Builder
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	for range addrs {
		if !lines.Scan() {
			t.Fatalf("the server listens at %q only, not at %q", urls, addrs)
		}
		url, _ := strings.CutPrefix(lines.Text(), "listening on ")
		urls = append(urls, url)
	}
	return urls, func() {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the server logged\n%s", &log)
		}
	}
}

// One server answers at all its addresses at once, and HTTP and WebSockets share a port.
func TestServerAtSeveralAddresses(t *testing.T) {
	urls, stop := startServerAt(t, "tcp://127.0.0.1:0", "http://127.0.0.1:0/rpc", "ws://127.0.0.1:0/ws",
		"unix://"+filepath.Join(programs, "several"), "http://127.0.0.1:0/second")
	ctx := t.Context()
	var callers []rpcx.Caller
	for _, url := range urls {
		var caller rpcx.Caller
		var err error
		switch scheme, _, _ := strings.Cut(url, "://"); scheme {
		case "http":
			caller, err = rpchttp.Dial(url, nil)
		case "ws":
			caller, err = websocket.Dial(ctx, url, nil)
		default:
			caller, err = rpcx.Dial(ctx, url, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer caller.Close()
		callers = append(callers, caller)
	}
	for i, caller := range callers {
		if sum, err := rpcx.Call[float64](ctx, caller, "sum", rpcx.Args{i, 1}); err != nil || sum != float64(i+1) {
			t.Errorf("%s: sum is %v, %v", urls[i], sum, err)
		}
		var echo string
		var b rpcx.Batch
		b.Call("echo", rpcx.Args{urls[i]}, &echo)
		b.Notify("echo", rpcx.Args{"nobody hears of it"})
		if err := caller.SendBatch(ctx, &b); err != nil || echo != urls[i] {
			t.Errorf("%s: a batch: %q, %v", urls[i], echo, err)
		}
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(urls[1], "http://"), "/")
	if ws, _, _ := strings.Cut(strings.TrimPrefix(urls[2], "ws://"), "/"); ws != host {
		t.Errorf("HTTP is at %s, and WebSockets are at %s", host, ws)
	}
	for path, want := range map[string]int{"/ready": 200, "/rpc": 405, "/nothing": 404, "/rpc/more": 404, "/ws": 426} {
		if got, _, _ := request(t, http.MethodGet, "http://"+host+path, "", nil); got != want {
			t.Errorf("GET %s: status %d, want %d", path, got, want)
		}
	}
	stop()
	for i, caller := range callers {
		if err := caller.Call(ctx, "sum", nil, nil); err == nil {
			t.Errorf("%s answers after the end", urls[i])
		}
	}
}

// Over HTTP, the client prints the same as over a connection, also through a proxy.
func TestClientAndServerOverHTTP(t *testing.T) {
	for _, test := range []struct {
		name           string
		server, client []string // arguments, without addresses
		want           string
	}{
		{"v2", nil, nil, clientV2},
		{"v1", []string{"-protocol", "v1"}, []string{"-protocol", "v1"}, clientV1()},
		{"loose", []string{"-protocol", "loose"}, []string{"-protocol", "loose"}, clientV2},
		{"auto", []string{"-protocol", "auto"}, []string{"-protocol", "v2"}, clientV2},
		{"through a proxy", nil, []string{"-proxy", "socks4://" + socks4Proxy(t)}, clientV2},
	} {
		t.Run(test.name, func(t *testing.T) {
			url, _ := startServer(t, append(test.server, "-listen", "http://127.0.0.1:0/rpc")...)
			if got := output(t, "client", append(test.client, "-connect", url)...); got != test.want {
				t.Errorf("client printed\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// request makes a request and returns the answer.
func request(t *testing.T, method, url, body string, header map[string]string) (status int, answer http.Header, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	if host := header["Host"]; host != "" {
		r.Host = host
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0, nil, ""
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header, string(read)
}

// A header and a URL have a limit.
func TestServerBoundsHeaders(t *testing.T) {
	urls, stop := startServerAt(t, "http://127.0.0.1:0/rpc")
	large := strings.Repeat("x", 64<<10)
	header := map[string]string{"Content-Type": "application/json"}
	const call = `{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":1}`
	for what, got := range map[string]func() (int, http.Header, string){
		"a large header": func() (int, http.Header, string) {
			return request(t, "POST", urls[0], call, map[string]string{"Content-Type": "application/json", "X": large})
		},
		"a large URL": func() (int, http.Header, string) { return request(t, "POST", urls[0]+"?"+large, call, header) },
	} {
		if status, _, text := got(); status != 431 {
			t.Errorf("%s: %d %.100q", what, status, text)
		}
	}
	if status, _, text := request(t, "POST", urls[0]+"?a=b", call, header); status != 200 || text != `{"jsonrpc":"2.0","result":3,"id":1}` {
		t.Errorf("a query: %d %.100q", status, text)
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
}

// Two addresses of a web server need two paths.
func TestServerRefusesAPathTwice(t *testing.T) {
	out, err := command(t, "server", "-listen", "http://127.0.0.1:0/a", "-listen", "ws://127.0.0.1:0/a").CombinedOutput()
	if want := "server: ws://127.0.0.1:0/a: the path /a has another use: give each address a path of its own\n"; err == nil || string(out) != want {
		t.Errorf("the server ended with %v and printed\n%s\nwant\n%s", err, out, want)
	}
}

// The server mcp refuses over HTTP what the protocol says, by the status that it says.
func TestMCPOverHTTP(t *testing.T) {
	url, stop := startProgram(t, "mcp", "-http", "127.0.0.1:0", "-step", "1ms")
	const ping = `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	const pong = `{"jsonrpc":"2.0","result":{},"id":1}`
	for name, test := range map[string]struct {
		method, body string
		header       map[string]string
		status       int
		answer       string // what the body contains
	}{
		"a request":                     {"POST", ping, nil, 200, pong},
		"a known version":               {"POST", ping, map[string]string{"MCP-Protocol-Version": "2025-06-18"}, 200, pong},
		"an unknown version":            {"POST", ping, map[string]string{"MCP-Protocol-Version": "2024-11-05"}, 400, "want 2025-11-25 or 2025-06-18"},
		"a notification":                {"POST", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, nil, 202, ""},
		"a response":                    {"POST", `{"jsonrpc":"2.0","id":1,"result":{}}`, nil, 202, ""},
		"no JSON":                       {"POST", `{`, nil, 400, `"code":-32700`},
		"no message":                    {"POST", `{"jsonrpc":"2.0","id":1}`, nil, 400, `"code":-32600`},
		"an unknown method":             {"POST", `{"jsonrpc":"2.0","id":1,"method":"prompts/list"}`, nil, 200, `"code":-32601`},
		"a stream":                      {"GET", "", map[string]string{"Accept": "text/event-stream"}, 405, ""},
		"the end of a session":          {"DELETE", "", map[string]string{"Mcp-Session-Id": "1"}, 405, ""},
		"a page of another origin":      {"POST", ping, map[string]string{"Origin": "http://evil.example"}, 403, ""},
		"a name that leads to loopback": {"POST", ping, map[string]string{"Host": "evil.example"}, 421, ""},
		"a text":                        {"POST", ping, map[string]string{"Content-Type": "text/plain"}, 415, ""},
	} {
		t.Run(name, func(t *testing.T) {
			header := map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
			maps.Copy(header, test.header)
			status, answer, text := request(t, test.method, url, test.body, header)
			if status != test.status || !strings.Contains(text, test.answer) {
				t.Errorf("%d %q, want %d %q", status, text, test.status, test.answer)
			}
			if allow := answer.Get("Allow"); status == 405 && !strings.Contains(allow, "POST") {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
	t.Run("progress", func(t *testing.T) {
		const call = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"count","arguments":{"to":2},"_meta":{"progressToken":"a"}}}`
		header := map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
		_, answer, text := request(t, "POST", url, call, header)
		var messages []string
		for line := range strings.Lines(text) {
			if data, ok := strings.CutPrefix(line, "data:"); ok {
				messages = append(messages, strings.TrimSpace(data))
			}
		}
		if kind := answer.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") || len(messages) != 3 {
			t.Fatalf("the answer is %s:\n%s", kind, text)
		}
		for i, want := range []string{`"progress":1`, `"progress":2`, `counted to 2`} {
			if !strings.Contains(messages[i], want) {
				t.Errorf("event %d is %s, want %s", i+1, messages[i], want)
			}
		}
	})
	http.DefaultClient.CloseIdleConnections()
	stop()
}

// countOverHTTP calls the tool count and returns the stream after the first event.
func countOverHTTP(t *testing.T, url string, to int) io.ReadCloser {
	t.Helper()
	call := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"count","arguments":{"to":%d},"_meta":{"progressToken":1}}}`, to)
	r, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(call))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("no event: %v", err)
	}
	return resp.Body
}

// A client that closes the stream ends the tool: nothing is left to be finished, which would
// take half an hour.
func TestMCPOverHTTPStreamIsClosed(t *testing.T) {
	url, stop := startProgram(t, "mcp", "-http", "127.0.0.1:0", "-step", "20ms")
	countOverHTTP(t, url, 100_000).Close()
	stop()
}

// At a signal the server mcp first says that it is not ready, then finishes the tool that
// runs, and then ends.
func TestMCPOverHTTPEnds(t *testing.T) {
	url, stop := startProgram(t, "mcp", "-http", "127.0.0.1:0", "-step", "20ms")
	events := countOverHTTP(t, url, 100)
	defer events.Close()
	stopped := make(chan struct{})
	// Owner: the test. End: the program has ended.
	go func() { defer close(stopped); stop() }()
	ready := strings.TrimSuffix(url, "mcp") + "ready"
	for status := 200; status != 503; {
		if status, _, _ = request(t, "GET", ready, "", nil); status != 200 && status != 503 {
			t.Fatalf("/ready: status %d", status)
		}
	}
	const ping = `{"jsonrpc":"2.0","id":2,"method":"ping"}`
	if status, header, text := request(t, "POST", url, ping, map[string]string{"Content-Type": "application/json"}); status != 503 ||
		header.Get("Retry-After") == "" || !strings.Contains(text, `"started":false`) {
		t.Errorf("a message during the shutdown: %d %q", status, text)
	}
	if rest, err := io.ReadAll(events); err != nil || !strings.Contains(string(rest), "counted to 100") {
		t.Errorf("the tool that was running: %v, %.300q", err, rest)
	}
	http.DefaultClient.CloseIdleConnections()
	<-stopped
}

// The official client of the Model Context Protocol, in TypeScript, uses the server mcp
// over HTTP: progress comes in full, and the client asks once for the stream that the
// server does not have.
func TestInteropMCPOverHTTP(t *testing.T) {
	interoptest.Need(t, "npm ci in testdata/interop", "node", "-e", "require('@modelcontextprotocol/sdk/client/streamableHttp.js')")
	url, stop := startProgram(t, "mcp", "-http", "127.0.0.1:0", "-step", "0s")
	interoptest.Checks(t, "node", "mcp_http_client.js", url)
	stop()
}
