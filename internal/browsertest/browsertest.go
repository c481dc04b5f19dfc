// Package browsertest drives Chromium in tests.
package browsertest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx/internal/interoptest"
	"github.com/coder/websocket"
)

// Browser is a tab of a Chromium, driven by its protocol for developers: JSON-RPC over a
// WebSocket, but Chromium refuses the member "jsonrpc".
type Browser struct {
	// T is the test that fails with the tab. A subtest sets T to its own.
	T *testing.T

	conn *websocket.Conn
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

// Start starts Chromium with an empty tab.
func Start(t *testing.T) *Browser {
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
	b := &Browser{T: t, load: make(chan struct{}, 1)}
	for _, tab := range tabs {
		if tab.Type == "page" {
			if b.conn, _, err = websocket.Dial(t.Context(), tab.WebSocketDebuggerURL, nil); err != nil {
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
func (b *Browser) readReplies() {
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

// Reported returns what the page has reported so far: exceptions and broken policies.
func (b *Browser) Reported() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.problems)
}

func (b *Browser) call(method string, params map[string]any, result any) {
	b.T.Helper()
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
		err = b.conn.Write(b.T.Context(), websocket.MessageText, data)
	}
	if err != nil {
		b.T.Fatalf("%s: %v", method, err)
	}
	reply, ok := <-answer
	switch {
	case !ok:
		b.T.Fatalf("%s: the browser has ended", method)
	case reply.Error != nil:
		b.T.Fatalf("%s: %s", method, reply.Error)
	case result != nil:
		if err := json.Unmarshal(reply.Result, result); err != nil {
			b.T.Fatalf("%s: %v", method, err)
		}
	}
}

// Open loads a page, and forgets what the page before has reported.
func (b *Browser) Open(url string) {
	b.T.Helper()
	b.mu.Lock()
	b.problems = nil
	b.mu.Unlock()
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-b.load:
	case <-b.T.Context().Done():
		b.T.Fatal("the page has not loaded")
	}
}

// Eval returns the value of an expression of JavaScript, after a promise is resolved.
func (b *Browser) Eval(expression string) string {
	b.T.Helper()
	var reply struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &reply)
	if reply.ExceptionDetails != nil {
		b.T.Fatalf("%s: %s", expression, reply.ExceptionDetails)
	}
	return fmt.Sprint(reply.Result.Value)
}

// Await returns the value of an expression as soon as it is true.
func (b *Browser) Await(expression string) string {
	b.T.Helper()
	return b.Eval(`new Promise(done => {
		const look = () => { const v = (` + expression + `); v ? done(v) : requestAnimationFrame(look); };
		look();
	})`)
}

// Press presses a key.
func (b *Browser) Press(key string) {
	b.T.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13, " ": 32, "/": 191, "ArrowDown": 40}
	text := map[string]string{"Enter": "\r", " ": " ", "/": "/"}[key]
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "text": text, "windowsVirtualKeyCode": codes[key]}, nil)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "windowsVirtualKeyCode": codes[key]}, nil)
}

// Write types a text into the element in focus.
func (b *Browser) Write(text string) {
	b.T.Helper()
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

// TabTo presses Tab until the element in focus fulfils a condition on the element e.
func (b *Browser) TabTo(condition string) {
	b.T.Helper()
	for range 30 {
		b.Press("Tab")
		if b.Eval(`(e => `+condition+`)(document.activeElement)`) == "true" {
			return
		}
	}
	b.T.Fatalf("the key Tab does not lead to an element with %s", condition)
}

// Show sets the width of the screen in pixels, and whether the reader wants a dark page.
func (b *Browser) Show(width int, dark bool) {
	b.T.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 1500, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// Screenshot returns the tab as a PNG.
func (b *Browser) Screenshot() []byte {
	b.T.Helper()
	var reply struct{ Data []byte }
	b.call("Page.captureScreenshot", nil, &reply)
	return reply.Data
}

// Contrast is an expression that is true if the texts of the page have a contrast of 4.5 or
// more, as WCAG 2 asks.
const Contrast = `(() => {
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
