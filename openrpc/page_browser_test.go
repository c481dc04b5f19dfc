package openrpc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/openrpc"
	"example.com/rpcx/websocket"
	coder "github.com/coder/websocket"
)

// browser is a tab of a Chromium, driven by its protocol for developers: JSON-RPC over a
// WebSocket, but Chromium refuses the member "jsonrpc".
type browser struct {
	t    *testing.T
	conn *coder.Conn
	load chan struct{} // receives when a page has loaded

	mu       sync.Mutex
	waiting  []chan tabReply // by id
	problems []string        // what the page has reported
}

// tabReply is a reply or an event of a tab.
type tabReply struct {
	ID     int
	Method string
	Params json.RawMessage
	Result json.RawMessage
	Error  json.RawMessage
}

// startBrowser starts Chromium with an empty tab.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := interoptest.Program(t, "apt-get install chromium", "chromium")
	profile, err := os.MkdirTemp("", "rpcx") // not a t.TempDir, which complains if the browser is not quite gone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	cmd := exec.CommandContext(t.Context(), path, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--force-color-profile=srgb", "--user-data-dir="+profile, "--remote-debugging-port=0", "about:blank")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // if Browser.close was not enough
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(stderr)
	host := ""
	for host == "" && lines.Scan() {
		if _, address, ok := strings.Cut(lines.Text(), "DevTools listening on "); ok {
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			host = u.Host
		}
	}
	// Owner: the test. End: Chromium ends, and with it the pipe.
	go func() { _, _ = io.Copy(io.Discard, stderr) }()

	var tabs []struct{ Type, WebSocketDebuggerURL string }
	response, err := http.Get("http://" + host + "/json/list")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&tabs); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	b := &browser{t: t, load: make(chan struct{}, 1)}
	for _, tab := range tabs {
		if tab.Type == "page" {
			if b.conn, _, err = coder.Dial(t.Context(), tab.WebSocketDebuggerURL, nil); err != nil {
				t.Fatal(err)
			}
			b.conn.SetReadLimit(32 << 20)
			break
		}
	}
	read := make(chan struct{})
	// Owner: the test. End: the connection is closed.
	go func() {
		defer close(read)
		b.readReplies()
	}()
	t.Cleanup(func() {
		b.conn.CloseNow()
		<-read
	})
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// readReplies reads replies and events until the connection ends.
func (b *browser) readReplies() {
	for {
		_, data, err := b.conn.Read(context.Background())
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, w := range b.waiting {
				close(w)
			}
			b.waiting = nil
			return
		}
		var reply tabReply
		if err := json.Unmarshal(data, &reply); err != nil {
			reply = tabReply{Method: "Log.entryAdded", Params: data}
		}
		b.mu.Lock()
		switch reply.Method {
		case "":
			b.waiting[reply.ID-1] <- reply
		case "Page.loadEventFired":
			b.load <- struct{}{}
		case "Runtime.exceptionThrown", "Log.entryAdded":
			b.problems = append(b.problems, string(reply.Params))
		}
		b.mu.Unlock()
	}
}

// reported returns what the page has reported so far: exceptions and broken policies.
func (b *browser) reported() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.problems)
}

func (b *browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	answer := make(chan tabReply, 1)
	b.mu.Lock()
	b.waiting = append(b.waiting, answer)
	id := len(b.waiting)
	b.mu.Unlock()
	message := map[string]any{"id": id, "method": method}
	if params != nil {
		message["params"] = params
	}
	data, err := json.Marshal(message)
	if err == nil {
		err = b.conn.Write(b.t.Context(), coder.MessageText, data)
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	reply, ok := <-answer
	switch {
	case !ok:
		b.t.Fatalf("%s: the browser has ended", method)
	case reply.Error != nil:
		b.t.Fatalf("%s: %s", method, reply.Error)
	case result != nil:
		if err := json.Unmarshal(reply.Result, result); err != nil {
			b.t.Fatalf("%s: %v", method, err)
		}
	}
}

// open loads a page, and forgets what the page before has reported.
func (b *browser) open(url string) {
	b.t.Helper()
	b.mu.Lock()
	b.problems = nil
	b.mu.Unlock()
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-b.load:
	case <-b.t.Context().Done():
		b.t.Fatal("the page has not loaded")
	}
}

// eval returns the value of an expression of JavaScript, after a promise is resolved.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var reply struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &reply)
	if reply.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, reply.ExceptionDetails)
	}
	return fmt.Sprint(reply.Result.Value)
}

// await returns the value of an expression as soon as it is true.
func (b *browser) await(expression string) string {
	b.t.Helper()
	return b.eval(`new Promise(done => {
		const look = () => { const v = (` + expression + `); v ? done(v) : requestAnimationFrame(look); };
		look();
	})`)
}

// press presses a key.
func (b *browser) press(key string) {
	b.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13, " ": 32, "/": 191}
	text := map[string]string{"Enter": "\r", " ": " ", "/": "/"}[key]
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": codes[key]}, nil)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "windowsVirtualKeyCode": codes[key]}, nil)
}

func (b *browser) write(text string) {
	b.t.Helper()
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

// tabTo presses Tab until the element in focus fulfils a condition on the element e.
func (b *browser) tabTo(condition string) {
	b.t.Helper()
	for range 30 {
		b.press("Tab")
		if b.eval(`(e => `+condition+`)(document.activeElement)`) == "true" {
			return
		}
	}
	b.t.Fatalf("the key Tab does not lead to an element with %s", condition)
}

// show sets the width of the screen in pixels, and whether the reader wants a dark page.
func (b *browser) show(width int, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 1500, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// screenshot returns the tab as a PNG.
func (b *browser) screenshot() []byte {
	b.t.Helper()
	var reply struct{ Data []byte }
	b.call("Page.captureScreenshot", nil, &reply)
	return reply.Data
}

// postHandler serves a POST for each call.
func postHandler(t *testing.T, r rpcx.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		var call struct {
			ID     json.RawMessage
			Method string
			Params json.RawMessage
		}
		if err := json.NewDecoder(req.Body).Decode(&call); err != nil || req.Method != http.MethodPost {
			http.Error(w, "no call", http.StatusBadRequest)
			return
		}
		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: r})
		defer server.Close()
		defer client.Close()
		reply := map[string]any{"jsonrpc": "2.0", "id": call.ID}
		var params any
		if call.Params != nil {
			params = call.Params
		}
		result, err := rpcx.Call[json.RawMessage](req.Context(), client, call.Method, params)
		if failure := (*rpcx.Error)(nil); errors.As(err, &failure) {
			reply["error"] = map[string]any{"code": failure.Code, "message": failure.Message}
		} else {
			reply["result"] = result
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(reply); err != nil {
			t.Error(err)
		}
	}
}

// pageServer serves pages of the shop at /fetch and /socket, and the shop at /rpc and /ws.
func pageServer(t *testing.T, r *rpcx.Router) string {
	t.Helper()
	srv := &rpcx.Server{Options: rpcx.Options{Handler: r}}
	mux := http.NewServeMux()
	web := httptest.NewUnstartedServer(mux)
	doc := func() (*openrpc.Document, error) { return openrpc.Describe(r, shopInfo, nil) }
	mux.Handle("/fetch", openrpc.Page(doc, "/rpc"))
	mux.Handle("/elsewhere", openrpc.Page(doc, "http://127.0.0.1:"+closedPort(t)+"/rpc"))
	mux.Handle("/socket", openrpc.Page(doc, "ws://"+web.Listener.Addr().(*net.TCPAddr).String()+"/ws"))
	mux.Handle("/rpc", postHandler(t, r))
	mux.Handle("/ws", websocket.Handler(srv))
	mux.Handle("/favicon.ico", http.NotFoundHandler())
	web.Start()
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
		web.Close()
	})
	return web.URL
}

// closedPort returns a port of this machine where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// replied is the text of the first reply on the page, without the time that it took.
const replied = `[...document.querySelectorAll("pre.good, pre.bad")].map(e => e.className + " " + e.textContent.replace(/\n?after \d+ ms$/, ""))[0]`

// A reader finds a method, reads it, fills its form from an example and by hand, and calls
// it, with the keyboard alone.
func TestInteropPageByKeyboard(t *testing.T) {
	b := startBrowser(t)
	base := pageServer(t, shopRouter())
	for path, closed := range map[string]bool{"/fetch": false, "/socket": false, "/elsewhere": true} {
		t.Run(path, func(t *testing.T) {
			b.t = t
			b.open(base + path)
			if title := b.eval("document.title"); title != "Shop" {
				t.Fatalf("the title is %q", title)
			}
			b.press("/")
			b.write("math")
			if count := b.await(`document.getElementById("count").textContent`); count != "1 of 16 methods" {
				t.Errorf("found %s", count)
			}
			b.tabTo(`e.tagName === "SUMMARY"`)
			b.press("Enter")
			b.await(`document.querySelector("details[open] form")`)
			b.tabTo(`e.textContent === "Fill in"`)
			b.press("Enter")
			b.tabTo(`e.tagName === "TEXTAREA"`)
			b.tabTo(`e.tagName === "BUTTON" && e.textContent === "Call"`)
			b.press("Enter")
			reply := b.await(replied)
			if closed {
				if !strings.HasPrefix(reply, "bad No reply: ") {
					t.Errorf("a server that is not there has answered %q", reply)
				}
				return
			}
			if reply != "good 3" {
				t.Errorf("1 + 2 is %q", reply)
			}
			b.eval(`document.querySelector("form textarea").select()`)
			b.eval(`document.querySelector("form textarea").focus()`)
			b.write(`"x"`)
			b.tabTo(`e.textContent === "Call"`)
			b.press("Enter")
			if reply := b.await(`(` + replied + ` || "").startsWith("bad") && ` + replied); !strings.Contains(reply, "-32602") {
				t.Errorf("a text instead of a number is answered %q", reply)
			}
			b.eval(`document.querySelector("form textarea").select()`)
			b.eval(`document.querySelector("form textarea").focus()`)
			b.write(`{`)
			b.tabTo(`e.textContent === "Call"`)
			b.press("Enter")
			if reply := b.await(`(` + replied + ` || "").startsWith("bad a: ") && ` + replied); reply == "" {
				t.Error("half a value is sent")
			}
			if problems := b.reported(); len(problems) > 0 {
				t.Errorf("the page has reported %s", problems)
			}
		})
	}
}

// Each method can be called from its form: by name and by position, with optional and
// repeated params, and with numbers that JavaScript rounds.
func TestInteropPageCallsEveryForm(t *testing.T) {
	b := startBrowser(t)
	router := shopRouter()
	router.Handle("large", rpcx.Documented(rpcx.Func(func(n int64) int64 { return n }, "n"), rpcx.Doc{Public: true}))
	b.open(pageServer(t, router) + "/socket")
	for _, c := range []struct {
		method string
		fields []string
		want   string
	}{
		{"ping", nil, "good null"},
		{"add", []string{"2", "3"}, "good 5"},
		{"round", []string{"1.5", ""}, "good 1.5"},
		{"sum", []string{"[1, 2, 3]"}, "good 6"},
		{"sum", []string{""}, "good 0"},
		{"position", []string{"1", "2", ""}, "good \"\""},
		{"values", []string{`{"a": 1}`}, "good {\n  \"a\": 1\n}"},
		{"undecoded", []string{`[1, {"any": true}]`}, "good \"undecoded\""},
		{"shop/totals", []string{`{"b": 2}`}, "good {\n  \"b\": 2\n}"},
		{"shop/get_item", []string{""}, "good null"},
		{"large", []string{"9007199254740993"}, "good 9007199254740993"},
	} {
		fields, err := json.Marshal(c.fields)
		if err != nil {
			t.Fatal(err)
		}
		got := b.eval(`(async () => {
			const details = [...document.querySelectorAll("#methods > details")].find(d => d.querySelector("code").textContent === "` + c.method + `");
			details.open = true;
			const until = async f => { while (!f()) await new Promise(requestAnimationFrame); return f(); };
			const form = await until(() => details.querySelector("form"));
			const fields = ` + string(fields) + ` || [];
			form.querySelectorAll("textarea, select").forEach((e, i) => { e.value = fields[i]; });
			form.querySelector("button.main").click();
			const button = form.querySelector("button.main");
			const answer = await until(() => !button.disabled && form.querySelector("pre.good, pre.bad"));
			return answer.className + " " + answer.textContent.replace(/\nafter \d+ ms$/, "");
		})()`)
		if got != c.want {
			t.Errorf("%s %q: %q, want %q", c.method, c.fields, got, c.want)
		}
	}
	if problems := b.reported(); len(problems) > 0 {
		t.Errorf("the page has reported %s", problems)
	}
}

// The page fits a phone, and has enough contrast in light and dark. RPCX_UPDATE=1 writes
// the pictures of the manual.
func TestInteropPageLooks(t *testing.T) {
	b := startBrowser(t)
	base := pageServer(t, shopRouter())
	for name, look := range map[string]struct {
		width int
		dark  bool
	}{"wide": {1000, false}, "dark": {1000, true}, "phone": {360, false}} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			b.show(look.width, look.dark)
			b.open(base + "/fetch")
			b.eval(`[...document.querySelectorAll("#methods > details")].slice(0, 1).forEach(d => { d.open = true; })`)
			b.await(`document.querySelector("details[open] form")`)
			b.eval(`document.querySelector("details[open] button").click()`)
			b.eval(`document.querySelector("button.main").click()`)
			b.await(replied)
			if wide := b.eval(`document.documentElement.scrollWidth - innerWidth`); wide != "0" && !strings.HasPrefix(wide, "-") {
				t.Errorf("the page is %s pixels too wide", wide)
			}
			if ratio := b.eval(contrast); ratio != "true" {
				t.Errorf("the contrast is too low: %s", ratio)
			}
			if picture := b.screenshot(); os.Getenv("RPCX_UPDATE") != "" {
				if err := os.WriteFile("../docs/page-"+name+".png", picture, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// contrast is true if the texts of the page have a contrast of 4.5 or more, as WCAG 2 asks.
const contrast = `(() => {
	const light = css => {
		const [r, g, b] = css.match(/[\d.]+/g).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	for (const e of document.querySelectorAll("body *:not(script)")) {
		if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
		let back = e;
		while (back && getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
		const [a, b] = [getComputedStyle(e).color, getComputedStyle(back || document.body).backgroundColor].map(light).sort((x, y) => y - x);
		if ((a + 0.05) / (b + 0.05) < 4.5) return e.tagName + " " + e.textContent.slice(0, 50) + " " + (a + 0.05) / (b + 0.05);
	}
	return true;
})()`

// A stranger's document runs no script, makes no element of its texts, and breaks no rule
// of the policy.
func TestInteropPageOfHostileDocuments(t *testing.T) {
	b := startBrowser(t)
	var current *openrpc.Document
	page := httptest.NewServer(openrpc.Page(func() (*openrpc.Document, error) { return current, nil }, "/rpc"))
	defer page.Close()
	for _, text := range []string{
		`</script><script>window.broken = 1</script>`, `<img src=x onerror="window.broken = 1">`, `"><svg onload=window.broken=1>`, "<!--<script>",
		"javascript:window.broken=1", "__proto__", "constructor", "{{constructor.constructor('window.broken=1')()}}", "\u202ewindow.broken\u2028", "<b>bold</b>",
	} {
		d, err := openrpc.Parse(hostileDocument(text, text+"2"))
		if err != nil {
			t.Fatal(err)
		}
		current = d
		b.open(page.URL)
		b.eval(`document.querySelectorAll("details").forEach(d => { d.open = true; })`)
		b.await(`document.querySelectorAll("form").length === 2`)
		b.eval(`document.querySelectorAll(".body details").forEach(d => { d.open = true; })`)
		b.await(`document.querySelectorAll(".body details pre").length > 0`)
		b.eval(`document.querySelectorAll("button").forEach(e => e.click())`)
		if got := b.eval(`[window.broken, document.querySelectorAll("img, svg, b, iframe, script:not([nonce])").length, document.scripts.length].join()`); got != ",0,2" {
			t.Errorf("%q: %s", text, got)
		}
		if shown := b.eval(`document.querySelector("summary code").textContent`); shown != text {
			t.Errorf("%q is shown as %q", text, shown)
		}
		for _, problem := range b.reported() {
			if !strings.Contains(problem, "405 (Method Not Allowed)") { // of the endpoint, which is a page
				t.Errorf("the page has reported %s", problem)
			}
		}
	}
}
