package peers

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
)

// curlAnswer is what curl has received by its last request.
type curlAnswer struct {
	Status      int    `json:"http_code"`
	Version     string `json:"http_version"`
	NumConnects int    `json:"num_connects"`

	statuses    []string // the status lines of all requests, with "100 Continue"
	header      http.Header
	body        string // of all requests
	connections int    // made by all requests
}

// curl runs curl, with the text as its standard input.
func curl(t *testing.T, stdin string, args ...string) curlAnswer {
	t.Helper()
	dump := filepath.Join(t.TempDir(), "header")
	cmd := interoptest.Command(t, "curl", append([]string{"-q", "-sS", "--noproxy", "*", "--max-time", "120",
		"-D", dump, "-w", "%{stderr}%{json}\n"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	report := new(bytes.Buffer)
	cmd.Stderr = report
	body, err := cmd.Output()
	if err != nil {
		t.Fatalf("curl %s: %v\n%s", strings.Join(args, " "), err, report)
	}
	answer := curlAnswer{body: string(body)}
	for dec := json.NewDecoder(report); dec.More(); {
		if err := dec.Decode(&answer); err != nil {
			t.Fatalf("curl reported %v", err)
		}
		answer.connections += answer.NumConnects
	}
	head, err := os.ReadFile(dump)
	if err != nil {
		t.Fatal(err)
	}
	for r := textproto.NewReader(bufio.NewReader(bytes.NewReader(head))); ; {
		line, err := r.ReadLine()
		if err != nil {
			return answer
		}
		fields, err := r.ReadMIMEHeader()
		if err != nil {
			t.Fatalf("curl received the header %q: %v", head, err)
		}
		answer.statuses = append(answer.statuses, line)
		answer.header = http.Header(fields)
	}
}

// zipped returns n times a text as gzip.
func zipped(t *testing.T, text string, n int) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	for range n {
		if _, err := z.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

const (
	curlJSON = "Content-Type: application/json"
	curlEcho = `{"jsonrpc":"2.0","method":"echo","params":["Howdy"],"id":1}`
	echoed   = `{"jsonrpc":"2.0","result":"Howdy","id":1}`
)

// Each kind of request has the status that the handler promises.
func TestInteropCurl(t *testing.T) {
	noLeak(t)
	interoptest.Program(t, "apt-get install curl", "curl")
	w := serveHTTP(t, rpcx.Options{}, func(h *rpchttp.Handler) {
		h.SSE = true
		h.Compress = 1000
		h.Origins = []string{"https://friend.example"}
	})
	url := w.url + "/rpc"
	large := callText(1, "echo", strings.Repeat("x", rpcx.DefaultMaxSize))
	for name, test := range map[string]struct {
		stdin  string
		args   []string
		status int
		body   string // what it contains; "": nothing
	}{
		"a result":                    {curlEcho, nil, 200, echoed},
		"a charset":                   {curlEcho, []string{"-H", "Content-Type: application/json; charset=UTF-8"}, 200, echoed},
		"an older type":               {curlEcho, []string{"-H", "Content-Type: application/json-rpc"}, 200, echoed},
		"an error":                    {callText(1, "nothing"), nil, 200, `"code":-32601`},
		"an internal error":           {callText(1, "fail"), nil, 200, `"message":"internal server error"`},
		"no JSON":                     {"{", nil, 200, `"code":-32700`},
		"nothing":                     {"", nil, 200, `"code":-32700`},
		"an empty batch":              {"[]", nil, 200, `"code":-32600`},
		"a batch":                     {"[" + curlEcho + "," + curlEcho + "]", nil, 200, echoed},
		"a notification":              {`{"jsonrpc":"2.0","method":"echo","params":[1]}`, nil, 204, ""},
		"a batch of notifications":    {`[{"jsonrpc":"2.0","method":"echo","params":[1]}]`, nil, 204, ""},
		"a body in chunks":            {curlEcho, []string{"-H", "Transfer-Encoding: chunked"}, 200, echoed},
		"chunks without an end":       {large, []string{"-H", "Transfer-Encoding: chunked", "-H", "Expect:"}, 413, "1,000,000"},
		"a large body":                {large, []string{"-H", "Expect:"}, 413, "1,000,000"},
		"gzip":                        {zipped(t, curlEcho, 1), []string{"-H", "Content-Encoding: gzip"}, 200, echoed},
		"gzip that is large inside":   {zipped(t, strings.Repeat(" ", 1<<20), 100), []string{"-H", "Content-Encoding: gzip"}, 413, "1,000,000"},
		"no gzip":                     {curlEcho, []string{"-H", "Content-Encoding: gzip"}, 400, "gzip"},
		"another encoding":            {curlEcho, []string{"-H", "Content-Encoding: br"}, 415, "gzip"},
		"a form":                      {curlEcho, []string{"-H", "Content-Type: application/x-www-form-urlencoded"}, 415, "application/json"},
		"a text":                      {curlEcho, []string{"-H", "Content-Type: text/plain"}, 415, "application/json"},
		"another charset":             {curlEcho, []string{"-H", "Content-Type: application/json; charset=latin1"}, 415, "utf-8"},
		"GET":                         {"", []string{"-X", "GET"}, 405, "POST"},
		"DELETE":                      {"", []string{"-X", "DELETE"}, 405, "POST"},
		"a page of another origin":    {curlEcho, []string{"-H", "Origin: https://evil.example"}, 403, "Origins"},
		"a page of an allowed origin": {curlEcho, []string{"-H", "Origin: https://friend.example"}, 200, echoed},
		"a page of the same origin":   {curlEcho, []string{"-H", "Origin: " + w.url}, 200, echoed},
		"a name that was rebound":     {curlEcho, []string{"-H", "Host: evil.example"}, 421, "Hosts"},
		"HTTP/1.0":                    {curlEcho, []string{"-0"}, 200, echoed},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--data-binary", "@-"}, test.args...)
			if !strings.Contains(strings.Join(args, " "), "Content-Type: ") {
				args = append(args, "-H", curlJSON)
			}
			got := curl(t, test.stdin, append(args, url)...)
			if got.Status != test.status || !strings.Contains(strings.ToLower(got.body), strings.ToLower(test.body)) || test.body == "" && got.body != "" {
				t.Errorf("%d %.300q, want %d %q", got.Status, got.body, test.status, test.body)
			}
			if allow := got.header.Get("Allow"); got.Status == 405 && !strings.Contains(allow, "POST") {
				t.Errorf("Allow: %q", allow)
			}
			if kind := got.header.Get("Content-Type"); got.Status == 200 && !strings.HasPrefix(kind, jsonType) {
				t.Errorf("Content-Type: %q", kind)
			}
		})
	}

	// A browser asks before it posts JSON to another origin.
	t.Run("preflight", func(t *testing.T) {
		ask := func(origin string) curlAnswer {
			return curl(t, "", "-X", "OPTIONS", "-H", "Origin: "+origin, "-H", "Access-Control-Request-Method: POST",
				"-H", "Access-Control-Request-Headers: content-type", url)
		}
		allowed := ask("https://friend.example")
		if got := allowed.header.Get("Access-Control-Allow-Origin"); allowed.Status/100 != 2 || got != "https://friend.example" {
			t.Errorf("%d, Access-Control-Allow-Origin: %q", allowed.Status, got)
		}
		if got := allowed.header.Get("Access-Control-Allow-Headers"); !strings.Contains(strings.ToLower(got), "content-type") {
			t.Errorf("Access-Control-Allow-Headers: %q", got)
		}
		refused := ask("https://evil.example")
		if got := refused.header.Get("Access-Control-Allow-Origin"); refused.Status != 403 || got != "" {
			t.Errorf("%d, Access-Control-Allow-Origin: %q", refused.Status, got)
		}
	})

	// A large reply is compressed for a client that says that it takes gzip.
	t.Run("compressed reply", func(t *testing.T) {
		const post = callTextOf90kB
		got := curl(t, post, "--data-binary", "@-", "-H", curlJSON, "--compressed", url)
		if got.header.Get("Content-Encoding") != "gzip" || len(got.body) < 90_000 {
			t.Errorf("Content-Encoding %q, %d bytes", got.header.Get("Content-Encoding"), len(got.body))
		}
		if vary := strings.Join(got.header.Values("Vary"), ", "); !strings.Contains(vary, "Accept-Encoding") {
			t.Errorf("Vary: %q", vary)
		}
		plain := curl(t, post, "--data-binary", "@-", "-H", curlJSON, url)
		if plain.header.Get("Content-Encoding") != "" || plain.body != got.body {
			t.Errorf("for a client without gzip: Content-Encoding %q, %.100q", plain.header.Get("Content-Encoding"), plain.body)
		}
		small := curl(t, curlEcho, "--data-binary", "@-", "-H", curlJSON, "--compressed", url)
		if small.header.Get("Content-Encoding") != "" || small.body != echoed {
			t.Errorf("a small reply: Content-Encoding %q, %.100q", small.header.Get("Content-Encoding"), small.body)
		}
	})

	// The client is told to go on only if its request is not refused already.
	t.Run("Expect", func(t *testing.T) {
		for _, test := range []struct {
			kind, body string
			want       []string
		}{
			{curlJSON, curlEcho, []string{"100", "200"}},
			{"Content-Type: text/plain", curlEcho, []string{"415"}},
			{curlJSON, large, []string{"413"}},
		} {
			got := curl(t, test.body, "--data-binary", "@-", "-H", test.kind, "-H", "Expect: 100-continue",
				"--expect100-timeout", "60", url)
			var codes []string
			for _, line := range got.statuses {
				codes = append(codes, strings.Fields(line)[1])
			}
			if fmt.Sprint(codes) != fmt.Sprint(test.want) {
				t.Errorf("%s, %d bytes: the statuses are %q, want %q", test.kind, len(test.body), got.statuses, test.want)
			}
		}
	})

	// Requests follow each other on one connection, also behind one without a reply.
	t.Run("one connection", func(t *testing.T) {
		var args []string
		for _, body := range []string{curlEcho, `{"jsonrpc":"2.0","method":"echo","params":[1]}`, callText(1, "echo", "again")} {
			args = append(args, "-H", curlJSON, "--data-binary", body, url, "--next", "-sS", "--noproxy", "*", "-w", "%{stderr}%{json}\n")
		}
		got := curl(t, "", append(args, w.url+"/ready")...)
		if want := echoed + `{"jsonrpc":"2.0","result":"again","id":1}` + "ready\n"; got.connections != 1 || got.body != want {
			t.Errorf("%d connections for %q, want one for %q", got.connections, got.body, want)
		}
	})

	// Notifications of a handler are events, for a client that accepts those.
	t.Run("events", func(t *testing.T) {
		got := curl(t, callText(1, "count", 2), "-N", "--data-binary", "@-", "-H", curlJSON, "-H", "Accept: application/json, text/event-stream", url)
		var data []string
		for line := range strings.Lines(got.body) {
			if text, ok := strings.CutPrefix(line, "data:"); ok {
				data = append(data, strings.TrimSpace(text))
			}
		}
		want := []string{`{"jsonrpc":"2.0","method":"at","params":[1]}`, `{"jsonrpc":"2.0","method":"at","params":[2]}`, `{"jsonrpc":"2.0","result":2,"id":1}`}
		if fmt.Sprint(data) != fmt.Sprint(want) {
			t.Errorf("the events are %q, want %q", data, want)
		}
		if cached := got.header.Get("Cache-Control"); !strings.Contains(cached, "no-") {
			t.Errorf("Cache-Control: %q", cached)
		}
	})

	t.Run("ready", func(t *testing.T) {
		if got := curl(t, "", w.url+"/ready"); got.Status != 200 {
			t.Errorf("status %d", got.Status)
		}
	})
}

// callTextOf90kB is a call of the method text.
const callTextOf90kB = `{"jsonrpc":"2.0","method":"text","params":[90000],"id":1}`

// A body that drips is given up, whether its length is known or not. The next request of
// a client that takes its time within the limit is answered.
func TestInteropCurlSlowBody(t *testing.T) {
	noLeak(t)
	interoptest.Program(t, "apt-get install curl", "curl")
	w := serveHTTP(t, rpcx.Options{}, func(h *rpchttp.Handler) { h.ReadTimeout = 300 * time.Millisecond })
	body := callText(1, "echo", strings.Repeat("x", 500_000))
	for name, args := range map[string][]string{
		"with a length": nil,
		"in chunks":     {"-H", "Transfer-Encoding: chunked"},
	} {
		t.Run(name, func(t *testing.T) {
			args = append([]string{"--limit-rate", "10k", "--data-binary", "@-", "-H", curlJSON, "-H", "Expect:"}, args...)
			if got := curl(t, body, append(args, w.url+"/rpc")...); got.Status != 408 {
				t.Errorf("status %d, %q", got.Status, got.body)
			}
		})
	}
	if n := w.requests.Load(); n != 0 {
		t.Errorf("%d requests were handled", n)
	}
}

// HTTP/2 needs TLS; the requests of one client share a connection.
func TestInteropCurlHTTP2(t *testing.T) {
	noLeak(t)
	interoptest.Program(t, "apt-get install curl", "curl")
	srv := &rpcx.Server{Options: rpcx.Options{Handler: new(webServer).methods()}}
	web := httptest.NewUnstartedServer(&rpchttp.Handler{Server: srv, SSE: true})
	web.EnableHTTP2 = true
	web.StartTLS()
	defer web.Close()
	ca := writeCA(t, web)
	post := func(body string, args ...string) curlAnswer {
		return curl(t, body, append([]string{"--http2", "--cacert", ca, "--data-binary", "@-", "-H", curlJSON}, append(args, web.URL)...)...)
	}
	if got := post(curlEcho); got.Version != "2" || got.Status != 200 || got.body != echoed {
		t.Errorf("HTTP/%s: %d %q", got.Version, got.Status, got.body)
	}
	if got := post(curlEcho, "--http1.1"); got.Version != "1.1" || got.Status != 200 || got.body != echoed {
		t.Errorf("HTTP/%s: %d %q", got.Version, got.Status, got.body)
	}
	if got := post(callText(1, "count", 1), "-H", "Accept: text/event-stream, application/json"); got.Version != "2" ||
		!strings.HasPrefix(got.header.Get("Content-Type"), "text/event-stream") || !strings.Contains(got.body, `"result":1`) {
		t.Errorf("events over HTTP/%s: %d %q", got.Version, got.Status, got.body)
	}
	if got := post(callText(1, "echo", strings.Repeat("x", rpcx.DefaultMaxSize))); got.Version != "2" || got.Status != 413 {
		t.Errorf("a large body over HTTP/%s: %d %q", got.Version, got.Status, got.body)
	}
	if got := post(`{"jsonrpc":"2.0","method":"echo","params":[1]}`); got.Version != "2" || got.Status != 204 {
		t.Errorf("a notification over HTTP/%s: %d %q", got.Version, got.Status, got.body)
	}
	// Calls at once share a connection.
	args := []string{"--no-progress-meter", "-Z", "--parallel-max", "30"}
	for n := range 30 {
		if n > 0 {
			args = append(args, "--next", "-sS", "--noproxy", "*", "--http2", "--cacert", ca, "-w", "%{stderr}%{json}\n")
		}
		args = append(args, "-H", curlJSON, "--data-binary", callText(n, "echo", "n"), web.URL)
	}
	got := curl(t, "", append([]string{"--http2", "--cacert", ca}, args...)...)
	if n := strings.Count(got.body, `"result":"n"`); n != 30 || got.connections != 1 {
		t.Errorf("%d answers over %d connections, want 30 over one", n, got.connections)
	}
}

// A unix socket has no address of a client; its clients share a budget.
func TestInteropCurlUnixSocket(t *testing.T) {
	noLeak(t)
	interoptest.Program(t, "apt-get install curl", "curl")
	socket := interopSocket(t)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: new(webServer).methods()}}
	web := httptest.NewUnstartedServer(&rpchttp.Handler{Server: srv})
	web.Listener.Close()
	web.Listener = l
	web.Start()
	defer web.Close()
	if got := curl(t, curlEcho, "--unix-socket", socket, "--data-binary", "@-", "-H", curlJSON, "http://any.example/rpc"); got.Status != 200 || got.body != echoed {
		t.Errorf("%d %q", got.Status, got.body)
	}
	c, err := rpchttp.Dial("unix://"+socket+":/rpc", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if text, err := rpcx.Call[string](interopContext(t), c, "echo", rpcx.Args{"Howdy"}); text != "Howdy" || err != nil {
		t.Errorf("echo: %q, %v", text, err)
	}
}
