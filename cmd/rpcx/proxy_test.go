package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// proxyTo starts a proxy to addr.
func proxyTo(t *testing.T, addr string, args ...string) *service {
	t.Helper()
	return invocation{}.serve(t, append([]string{"proxy", "127.0.0.1:0", addr}, args...)...)
}

var (
	clockTime = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d\d\d`)
	duration  = regexp.MustCompile(`\b\d[\d.]*(ns|µs|ms|s)\b`)
	address   = regexp.MustCompile(`127\.0\.0\.1:\d+`)
)

// shownBy returns what a proxy has shown, without what differs from run to run.
func shownBy(s *service, until func() string) string {
	text := clockTime.ReplaceAllString(until(), "TIME")
	return address.ReplaceAllString(duration.ReplaceAllString(text, "DUR"), "ADDR")
}

func TestProxyShowsCalls(t *testing.T) {
	p := newPeer(t)
	record := filepath.Join(t.TempDir(), "record")
	s := proxyTo(t, p.tcp, "--record", record)
	checkResult(t, rpcxRun("call", s.addr, "params", "1", "-o", "compact"), exitOK, "[1]\n")
	s.stdout.wait(t, "#1 closed")
	r := invocation{stdin: "params 1\nrefuse\n!params 2\n"}.run("batch", s.addr, "-o", "compact")
	if r.code != exitPeer {
		t.Errorf("%+v", r)
	}
	got := shownBy(s, func() string { return s.stdout.wait(t, "#2 closed") })
	want := `TIME #1 opened by ADDR
TIME #1 --> {"jsonrpc":"2.0","method":"params","id":0,"params":[1]}
TIME #1 <-- {"jsonrpc":"2.0","result":[1],"id":0}  (params DUR)
TIME #1 closed after DUR, --> 56 bytes, <-- 38 bytes
TIME #2 opened by ADDR
TIME #2 --> [{"jsonrpc":"2.0","method":"params","id":0,"params":[1]},{"jsonrpc":"2.0","method":"refuse","id":1},{"jsonrpc":"2.0","method":"params","params":[2]}]
TIME #2 <-- [{"jsonrpc":"2.0","result":[1],"id":0},{"jsonrpc":"2.0","error":{"code":42,"message":"refused: naïve \u001b[31m","data":{"why":["tired"]}},"id":1}]  (params DUR)  (refuse DUR)
TIME #2 closed after DUR, --> 152 bytes, <-- 150 bytes
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	events := readRecord(t, record)
	if len(events) != 8 || events[2].From != "server" || len(events[2].Calls) != 1 || events[2].Calls[0].Method != "params" || len(events[6].Calls) != 2 {
		t.Errorf("%+v", events)
	}
	checkPrivate(t, record, 0o600)
}

func readRecord(t *testing.T, path string) (events []proxyEvent) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var ev proxyEvent
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		events = append(events, ev)
	}
	return events
}

// --output and --jq print the recorded objects.
func TestProxyOutput(t *testing.T) {
	p := newPeer(t)
	s := proxyTo(t, p.tcp, "-o", "raw", "--jq", ".message.method // .calls[0].method // empty")
	checkResult(t, rpcxRun("call", s.addr, "params"), exitOK, "null\n")
	s.stop()
	if got := s.stdout.text(); got != "params\nparams\n" {
		t.Errorf("got %q", got)
	}
	s = proxyTo(t, p.tcp, "-o", "compact")
	checkResult(t, rpcxRun("call", s.addr, "params"), exitOK, "null\n")
	s.stop()
	var ev proxyEvent
	line, _, _ := strings.Cut(s.stdout.text(), "\n")
	if err := json.Unmarshal([]byte(line), &ev); err != nil || ev.Conn != 1 {
		t.Errorf("%q: %v", line, err)
	}
	r := rpcxRun("proxy", "127.0.0.1:0", p.tcp, "--jq", "(")
	checkResult(t, r, exitUsage, "", "--jq")
}

// echoServer answers bytes with the same bytes, and closes when its input has ended.
func echoServer(t *testing.T, l net.Listener) string {
	t.Helper()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

// Whatever passes is unchanged, and the end of one direction leaves the other open.
func TestProxyPassesEveryByte(t *testing.T) {
	all := make([]byte, 0, 1<<20)
	for i := range 1 << 12 {
		all = append(all, byte(i), byte(i>>4), '\n', '{', '"', 0, 0xff)
	}
	big := append(bytes.Repeat([]byte("x"), 3<<20), '\n')
	framed := []byte("Content-Length: 2\r\n\r\n{}Content-Length: x\r\n\r\n" + strings.Repeat("{}", 1000))
	echo := echoServer(t, listenTCP(t))
	socket := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	echoServer(t, unix)
	for _, framing := range []string{"line", "lsp", "length", "json"} {
		for _, addr := range []string{echo, "unix://" + socket} {
			s := proxyTo(t, addr, "--framing", framing, "--max-size", "10000")
			for _, data := range [][]byte{all, big, framed, nil, []byte("{"), []byte(`{"jsonrpc":"2.0"}`)} {
				conn, err := net.Dial("tcp", s.addr[len("tcp://"):])
				if err != nil {
					t.Fatal(err)
				}
				var got []byte
				var read sync.WaitGroup
				read.Go(func() { got, err = io.ReadAll(conn) })
				if _, err := conn.Write(data); err != nil {
					t.Error(err)
				}
				conn.(*net.TCPConn).CloseWrite() // the reply comes after this
				read.Wait()
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, %s: %d bytes came back of %d, %v", framing, addr, len(got), len(data), err)
				}
				conn.Close()
			}
			if code := s.stop(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if text := s.stdout.text(); len(text) > 10<<20 || strings.Contains(text, strings.Repeat("x", 10001)) {
				t.Errorf("%s: a message over the limit is shown", framing)
			}
		}
	}
}

func TestProxySaysWhatIsNoMessage(t *testing.T) {
	p := newPeer(t)
	for _, c := range []struct {
		name, sent, want string
		args             []string
	}{
		{"a large message", strings.Repeat("y", 5000) + "\n", "--> a message of more than 100 bytes passes, and is not shown (--max-size)\n", []string{"--max-size", "100"}},
		{"another framing", "{}\n{}\n", "--> what follows is not a message of this --framing: it passes, and is not shown", []string{"--framing", "lsp"}},
		{"the other framing", "Content-Length: 2\r\n\r\n{}", "--> Content-Length: 2\\r\n", nil},
		{"HTTP", "GET / HTTP/1.1\r\nAuthorization: Basic c2VjcmV0\r\ncookie: c2VjcmV0\r\nX-Api-Key: c2VjcmV0\r\n\r\n", "--> Authorization: …\n", nil},
		{"bytes", "\xff\x1b[31m\x9b\n", `--> \ufffd\u001b[31m\ufffd` + "\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			record := filepath.Join(t.TempDir(), "record")
			s := proxyTo(t, p.tcp, append(c.args, "--record", record)...)
			conn, err := net.Dial("tcp", s.addr[len("tcp://"):])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.sent); err != nil {
				t.Fatal(err)
			}
			s.stdout.wait(t, c.want)
			conn.Close()
			s.stop()
			text, err := os.ReadFile(record)
			if err != nil || strings.Contains(s.stdout.text()+string(text), "c2VjcmV0") {
				t.Errorf("a secret is shown or recorded (%v): %s\n%s", err, s.stdout.text(), text)
			}
		})
	}
}

// A proxy over TLS on both sides.
func TestProxyTLS(t *testing.T) {
	certs := newCertificates(t)
	p := newPeer(t)
	s := invocation{stdin: `{"sum": 3}`}.serve(t, "serve-mock", "-", "--listen", "tls://127.0.0.1:0", "--cert", certs.server)
	both := invocation{}.serve(t, "proxy", "tls://127.0.0.1:0", s.addr, "--listen-cert", certs.server, "--tls-ca", certs.ca, "--sni", "localhost")
	checkResult(t, rpcxRun("call", both.addr, "sum", "--tls-ca", certs.ca, "--sni", "localhost"), exitOK, "3\n")
	both.stdout.wait(t, "(sum ")
	// A client without TLS is told, and the proxy goes on.
	checkResult(t, rpcxRun("call", both.addr[len("tls://"):], "sum", "--timeout", "5s"), exitConnection, "")
	checkResult(t, rpcxRun("call", both.addr, "sum", "--tls-ca", certs.ca, "--sni", "localhost"), exitOK, "3\n")
	r := rpcxRun("proxy", "tls://127.0.0.1:0", p.tcp)
	checkResult(t, r, exitUsage, "", "needs --listen-cert")
}

func TestProxyFramings(t *testing.T) {
	for _, framing := range []string{"line", "lsp", "length", "json"} {
		mock := invocation{stdin: `{"sum": 3}`}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0", "--framing", framing)
		s := proxyTo(t, mock.addr, "--framing", framing)
		checkResult(t, rpcxRun("call", s.addr, "sum", "--framing", framing), exitOK, "3\n")
		s.stdout.wait(t, `<-- {"jsonrpc":"2.0","result":3,"id":0}  (sum `)
	}
	mock := invocation{stdin: `{"sum": 3}`}.serve(t, "serve-mock", "-", "--listen", "127.0.0.1:0", "--protocol", "aiomas")
	s := proxyTo(t, mock.addr, "--protocol", "aiomas")
	checkResult(t, rpcxRun("call", s.addr, "sum", "--protocol", "aiomas"), exitOK, "3\n")
	s.stdout.wait(t, "(sum ")
}

// HTTP and WebSockets pass with the headers of the command line, which nobody sees.
func TestProxyWeb(t *testing.T) {
	p := newPeer(t)
	var got http.Header
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		if r.Host != r.Context().Value(http.LocalAddrContextKey).(net.Addr).String() {
			t.Errorf("Host is %q", r.Host)
		}
		if r.Header.Get("Accept") == "text/event-stream" {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "event: message\ndata: {\"method\":\"news\"}\n\n: hint\n\ndata:{\"id\":0,\"result\":7}\n\n")
			return
		}
		p.web.ServeHTTP(w, r)
	}))
	defer web.Close()
	const secret = `hunter2"2`
	record := filepath.Join(t.TempDir(), "record")
	s := proxyTo(t, web.URL+"/rpc", "--record", record, "--auth", "bearer:"+secret, "--header", "Cookie: session=hunter3hunter3")
	host := s.addr[strings.Index(s.addr, "//"):]

	checkResult(t, rpcxRun("call", "http:"+host, "params", "1", "-o", "compact"), exitOK, "[1]\n")
	s.stdout.wait(t, `#1 <-- {"jsonrpc":"2.0","result":[1],"id":0}  (params `)
	if got.Get("Authorization") != "Bearer "+secret || got.Get("Cookie") != "session=hunter3hunter3" || got.Get("Accept-Encoding") != "" {
		t.Errorf("headers %v", got)
	}
	checkResult(t, rpcxRun("call", "http:"+host, "params", secret, "-o", "compact"), exitOK, `["hunter2\"2"]`+"\n")
	s.stdout.wait(t, `"params":["…"]`)
	checkResult(t, rpcxRun("call", "http:"+host+"/nothing", "params"), exitConnection, "", "404")
	unlimited := proxyTo(t, web.URL+"/rpc", "--max-size", "0")
	checkResult(t, rpcxRun("call", "http"+unlimited.addr[strings.Index(unlimited.addr, ":"):], "params"), exitOK, "null\n")
	unlimited.stdout.wait(t, "(params ")
	s.stdout.wait(t, "<-- 404 Not Found")

	req, err := http.NewRequest("POST", "http:"+host, strings.NewReader(`{"id":0,"method":"slow"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err != nil || strings.Count(string(text), "data:") != 2 {
		t.Errorf("%q, %v", text, err)
	}
	s.stdout.wait(t, `<-- {"method":"news"}`)
	s.stdout.wait(t, `<-- {"id":0,"result":7}  (slow `)

	s.stop()
	recorded, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"hunter2", "hunter3", "Authorization", "Cookie"} {
		if strings.Contains(s.stdout.text()+s.stderr.text()+string(recorded), hidden) {
			t.Errorf("%q is shown or recorded:\n%s", hidden, recorded)
		}
	}
}

// A request to the path of LISTEN goes to the path of ADDR. The notice says which scheme
// clients write.
func TestProxyWebPath(t *testing.T) {
	p := newPeer(t)
	end := strings.LastIndex(p.http, "/")
	for _, c := range []struct{ listen, to, path string }{
		{"127.0.0.1:0", p.http, ""},
		{"http://127.0.0.1:0", p.http, ""},
		{"http://127.0.0.1:0/rpc", p.http, ""},
		{"http://127.0.0.1:0/other/", p.http, ""},
		{"127.0.0.1:0", p.ws, ""},
		{"ws://127.0.0.1:0/rpc", p.ws, ""},
		{"http://127.0.0.1:0/in", p.http[:end], p.http[end:]},
	} {
		s := invocation{}.serve(t, "proxy", c.listen, c.to)
		scheme, _, _ := strings.Cut(c.to, ":")
		if got, _, _ := strings.Cut(s.addr, ":"); got != scheme {
			t.Errorf("%s: listening at %s, want %s", c.listen, s.addr, scheme)
		}
		addr := strings.TrimSuffix(s.addr, "/") + c.path
		checkResult(t, rpcxRun("call", addr, "params", "1", "-o", "compact"), exitOK, "[1]\n")
	}
	for _, c := range []struct{ to, base, in, want string }{
		{"/rpc", "", "/", "/rpc"},
		{"/rpc", "", "/x", "/rpc/x"},
		{"/rpc", "/in", "/in", "/rpc"},
		{"/rpc", "/in", "/in/", "/rpc"},
		{"/rpc", "/in", "/in/x", "/rpc/x"},
		{"/rpc", "/in", "/inner", "/rpc/inner"},
		{"/rpc", "/in", "/", "/rpc"},
		{"", "/in", "/in", "/"},
		{"", "/in", "/in/x", "/x"},
		{"", "", "/x", "/x"},
	} {
		got := joinTarget(&url.URL{Path: c.to}, c.base, &url.URL{Path: c.in})
		if got.Path != c.want {
			t.Errorf("from %q to %q: %s goes to %s, want %s", c.base, c.to, c.in, got.Path, c.want)
		}
	}
}

func TestProxyWebSocket(t *testing.T) {
	p := newPeer(t)
	s := proxyTo(t, p.ws)
	addr := "ws" + s.addr[strings.Index(s.addr, ":"):]
	checkResult(t, rpcxRun("call", addr, "params", "1", "-o", "compact"), exitOK, "[1]\n")
	s = proxyTo(t, p.ws, "--max-size", "0") // no limit
	addr = "ws" + s.addr[strings.Index(s.addr, ":"):]
	long := strings.Repeat("long", 20_000)
	checkResult(t, rpcxRun("call", addr, "params", long, "-o", "compact"), exitOK, `["`+long+`"]`+"\n")
	s.stdout.wait(t, "(params ")
	s.stdout.wait(t, "the WebSocket is closed")
	if text := s.stdout.text(); strings.Count(text, long) != 2 || !strings.Contains(text, "--> closes the WebSocket: 1000") {
		t.Errorf("shown: %d bytes", len(text))
	}
	// Both ends are closed at the end of rpcx.
	r := make(chan result, 1)
	go func() { r <- rpcxRun("listen", addr, "--subscribe", "subscribe heads 1 false", "-o", "compact") }()
	s.stdout.wait(t, `<-- {"jsonrpc":"2.0","method":"news"`)
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if got := <-r; !strings.Contains(got.stdout, "news") {
		t.Errorf("%+v", got)
	}
}

// A program that starts rpcx in place of its server, and a server that is a program.
func TestProxyStdio(t *testing.T) {
	client, server := io.Pipe()
	replies, stdout := io.Pipe()
	stderr := newWatchedBuffer()
	e := &env{stdin: client, stdout: stdout, stderr: stderr, getenv: func(string) string { return "" }}
	code := make(chan int, 1)
	go func() { code <- run(context.Background(), e, []string{"proxy", "-", "stdio:cat"}) }()
	if _, err := io.WriteString(server, `{"id":1,"method":"sum"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, err := replies.Read(line)
	if err != nil || string(line[:n]) != `{"id":1,"method":"sum"}`+"\n" {
		t.Errorf("%q, %v", line[:n], err)
	}
	server.Close() // cat ends, and so does rpcx
	if _, err := replies.Read(line); err != io.EOF {
		t.Errorf("%v", err)
	}
	if got := <-code; got != exitOK {
		t.Errorf("exit code %d", got)
	}
	got := clockTime.ReplaceAllString(stderr.text(), "TIME")
	if !strings.HasPrefix(got, "TIME #1 opened by stdin and stdout\nTIME #1 --> {\"id\":1,\"method\":\"sum\"}\nTIME #1 <-- {") {
		t.Errorf("stderr %q", got)
	}
	// A program that fails, and one that does not end by itself.
	s := proxyTo(t, "stdio:sh -c 'exit 3'")
	rpcxRun("call", s.addr, "x", "--timeout", "5s")
	s.stdout.wait(t, "the program has ended: exit status 3")
	s = proxyTo(t, "stdio:nothing-of-this-name")
	rpcxRun("call", s.addr, "x", "--timeout", "5s")
	s.stdout.wait(t, "cannot connect: exec:")
}

// No more connections than --max-conns are open at a time.
func TestProxyMaxConns(t *testing.T) {
	p := newPeer(t)
	for _, addr := range []string{p.tcp, p.ws} {
		s := proxyTo(t, addr, "--max-conns", "1")
		host := s.addr[strings.Index(s.addr, "//")+2:]
		first, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		if addr == p.tcp {
			s.stdout.wait(t, "#1 opened")
		} else if _, err := io.WriteString(first, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		} else {
			s.stdout.wait(t, "404")
		}
		second, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.Read(make([]byte, 1)); err == nil {
			t.Error("a second connection is open")
		}
		second.Close()
		s.stdout.wait(t, "1 connections are open (--max-conns)")
		first.Close()
		s.stop()
	}
	checkResult(t, rpcxRun("proxy", "127.0.0.1:0", p.tcp, "--max-conns", "0"), exitUsage, "", "--max-conns")
}

func TestProxyRecordIsPrivate(t *testing.T) {
	p := newPeer(t)
	record := filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(record, []byte("before\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(record, 0o644); err != nil {
		t.Fatal(err)
	}
	s := proxyTo(t, p.tcp, "--record", record)
	checkPrivate(t, record, 0o600)
	s.stop()
	if text, err := os.ReadFile(record); err != nil || !strings.HasPrefix(string(text), "before\n") {
		t.Errorf("%q, %v", text, err)
	}
	r := rpcxRun("proxy", "127.0.0.1:0", p.tcp, "--record", filepath.Join(t.TempDir(), "no", "folder"))
	checkResult(t, r, exitUsage, "", "--record: open ")
	if _, err := os.Stat("/dev/full"); err != nil {
		return
	}
	s = proxyTo(t, p.tcp, "--record", "/dev/full") // the traffic goes on
	checkResult(t, rpcxRun("call", s.addr, "params"), exitOK, "null\n")
	s.stderr.wait(t, "recording has stopped: ")
	if code := s.stop(); code == exitOK {
		t.Error("exit code 0")
	}
}

// Ctrl-C closes open connections, and their ends at the server.
func TestProxyEndsConnections(t *testing.T) {
	p := newPeer(t)
	s := proxyTo(t, p.tcp)
	conn, err := net.Dial("tcp", s.addr[len("tcp://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.stdout.wait(t, "#1 opened")
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
	if err := p.srv.Close(); err != nil {
		t.Error(err)
	}
}

// A stdout that is closed ends the proxy, as it does the other commands.
func TestProxyClosedOutput(t *testing.T) {
	p := newPeer(t)
	var out failingWriter
	s := invocation{stdout: &out}.serve(t, "proxy", "127.0.0.1:0", p.tcp)
	rpcxRun("call", s.addr, "params", "--timeout", "5s")
	s.stderr.mu.Lock()
	for !s.stderr.ended {
		s.stderr.grown.Wait()
	}
	s.stderr.mu.Unlock()
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

type failingWriter struct{}

func (*failingWriter) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func TestProxyRefuses(t *testing.T) {
	p := newPeer(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"127.0.0.1:0"}, exitUsage, "want LISTEN and ADDR"},
		{[]string{"127.0.0.1:0", p.tcp, "x"}, exitUsage, "want LISTEN and ADDR"},
		{[]string{"127.0.0.1", p.tcp}, exitUsage, "has no port"},
		{[]string{"127.0.0.1:0", "localhost"}, exitUsage, "has no port"},
		{[]string{"ws://127.0.0.1:0", p.tcp}, exitUsage, "passes to a web address only"},
		{[]string{"-", p.ws}, exitUsage, "- is not possible with ws://"},
		{[]string{"stdio:cat", p.tcp}, exitUsage, "not possible at a command"},
		{[]string{"127.0.0.1:0", p.tcp, "--auth", "a:bbbb"}, exitUsage, "--header and --auth are for HTTP and WebSockets"},
		{[]string{p.tcp, p.tcp}, exitConnection, "address already in use"},
	} {
		checkResult(t, rpcxRun(append([]string{"proxy"}, c.args...)...), c.code, "", c.want)
	}
	s := proxyTo(t, "127.0.0.1:1")
	rpcxRun("call", s.addr, "params", "--timeout", "5s")
	s.stdout.wait(t, "cannot connect: ")
	s = proxyTo(t, "http://127.0.0.1:1")
	checkResult(t, rpcxRun("call", "http"+s.addr[strings.Index(s.addr, ":"):], "params"), exitConnection, "", "502")
	s.stdout.wait(t, "no answer: ")
}
