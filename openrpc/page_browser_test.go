package openrpc_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/browsertest"
	"example.com/rpcx/openrpc"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// pageServer serves pages of the shop at /fetch, /socket and /both, and the shop at /rpc and
// /ws.
func pageServer(t *testing.T, r *rpcx.Router) string {
	t.Helper()
	srv := &rpcx.Server{Options: rpcx.Options{Handler: r}}
	mux := http.NewServeMux()
	web := httptest.NewUnstartedServer(mux)
	doc := func() (*openrpc.Document, error) { return openrpc.Describe(r, shopInfo, nil) }
	mux.Handle("/fetch", openrpc.Page(doc, "/rpc"))
	mux.Handle("/elsewhere", openrpc.Page(doc, "http://127.0.0.1:"+closedPort(t)+"/rpc"))
	mux.Handle("/socket", openrpc.Page(doc, "ws://"+web.Listener.Addr().(*net.TCPAddr).String()+"/ws"))
	mux.Handle("/both", openrpc.Page(doc, "/rpc", "ws:/ws"))
	mux.Handle("/rpc", &rpchttp.Handler{Server: srv})
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
	b := browsertest.Start(t)
	base := pageServer(t, shopRouter())
	for path, closed := range map[string]bool{"/fetch": false, "/socket": false, "/elsewhere": true} {
		t.Run(path, func(t *testing.T) {
			b.T = t
			b.Open(base + path)
			if title := b.Eval("document.title"); title != "Shop" {
				t.Fatalf("the title is %q", title)
			}
			b.Press("/")
			b.Write("math")
			if count := b.Await(`document.getElementById("count").textContent`); count != "1 of 16 methods" {
				t.Errorf("found %s", count)
			}
			b.TabTo(`e.tagName === "SUMMARY"`)
			b.Press("Enter")
			b.Await(`document.querySelector("details[open] form")`)
			b.TabTo(`e.textContent === "Fill in"`)
			b.Press("Enter")
			b.TabTo(`e.tagName === "TEXTAREA"`)
			b.TabTo(`e.tagName === "BUTTON" && e.textContent === "Call"`)
			b.Press("Enter")
			reply := b.Await(replied)
			if closed {
				if !strings.HasPrefix(reply, "bad No reply: ") {
					t.Errorf("a server that is not there has answered %q", reply)
				}
				return
			}
			if reply != "good 3" {
				t.Errorf("1 + 2 is %q", reply)
			}
			b.Eval(`document.querySelector("form textarea").select()`)
			b.Eval(`document.querySelector("form textarea").focus()`)
			b.Write(`"x"`)
			b.TabTo(`e.textContent === "Call"`)
			b.Press("Enter")
			if reply := b.Await(`(` + replied + ` || "").startsWith("bad") && ` + replied); !strings.Contains(reply, "-32602") {
				t.Errorf("a text instead of a number is answered %q", reply)
			}
			b.Eval(`document.querySelector("form textarea").select()`)
			b.Eval(`document.querySelector("form textarea").focus()`)
			b.Write(`{`)
			b.TabTo(`e.textContent === "Call"`)
			b.Press("Enter")
			if reply := b.Await(`(` + replied + ` || "").startsWith("bad a: ") && ` + replied); reply == "" {
				t.Error("half a value is sent")
			}
			if problems := b.Reported(); len(problems) > 0 {
				t.Errorf("the page has reported %s", problems)
			}
		})
	}
}

// Each method can be called from its form: by name and by position, with optional and
// repeated params, and with numbers that JavaScript rounds.
func TestInteropPageCallsEveryForm(t *testing.T) {
	b := browsertest.Start(t)
	router := shopRouter()
	router.Handle("large", rpcx.Documented(rpcx.Func(func(n int64) int64 { return n }, "n"), rpcx.Doc{Public: true}))
	b.Open(pageServer(t, router) + "/socket")
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
		got := b.Eval(`(async () => {
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
	if problems := b.Reported(); len(problems) > 0 {
		t.Errorf("the page has reported %s", problems)
	}
}

// The reader of a page with two endpoints chooses the way of each call.
func TestInteropPageWithTwoEndpoints(t *testing.T) {
	b := browsertest.Start(t)
	router := shopRouter()
	router.Handle("way", rpcx.Documented(rpcx.Func(func(s *rpcx.Session) string {
		_, _ = s.TryNotify("news", rpcx.Args{"heard"}) // no notification over HTTP
		return map[bool]string{true: "HTTP", false: "WebSocket"}[rpchttp.Request(s) != nil]
	}), rpcx.Doc{Public: true}))
	b.Open(pageServer(t, router) + "/both")
	if got := b.Eval(`[...document.getElementById("endpoint").options].map(o => o.textContent).join()`); got != "HTTP /rpc,WebSocket ws:/ws" {
		t.Errorf("the choice is %s", got)
	}
	b.Eval(`[...document.querySelectorAll("#methods > details")].find(d => d.querySelector("code").textContent === "way").open = true`)
	b.Await(`document.querySelector("form")`)
	b.TabTo(`e.id === "endpoint"`)
	for _, want := range []string{"HTTP", "WebSocket"} {
		b.Eval(`document.querySelector("button.main").click()`)
		b.Await(`(` + replied + ` || "") === 'good "` + want + `"'`)
		b.Press("ArrowDown")
	}
	if news := b.Await(`document.getElementById("newslist").textContent`); news != `news ["heard"]` {
		t.Errorf("the news are %q", news)
	}
	if problems := b.Reported(); len(problems) > 0 {
		t.Errorf("the page has reported %s", problems)
	}
}

// The page fits a phone, and has enough contrast in light and dark. RPCX_UPDATE=1 writes
// the pictures of the manual.
func TestInteropPageLooks(t *testing.T) {
	b := browsertest.Start(t)
	base := pageServer(t, shopRouter())
	for name, look := range map[string]struct {
		width int
		dark  bool
	}{"wide": {1000, false}, "dark": {1000, true}, "phone": {360, false}} {
		t.Run(name, func(t *testing.T) {
			b.T = t
			b.Show(look.width, look.dark)
			b.Open(base + "/fetch")
			b.Eval(`[...document.querySelectorAll("#methods > details")].slice(0, 1).forEach(d => { d.open = true; })`)
			b.Await(`document.querySelector("details[open] form")`)
			b.Eval(`document.querySelector("details[open] button").click()`)
			b.Eval(`document.querySelector("button.main").click()`)
			b.Await(replied)
			if wide := b.Eval(`document.documentElement.scrollWidth - innerWidth`); wide != "0" && !strings.HasPrefix(wide, "-") {
				t.Errorf("the page is %s pixels too wide", wide)
			}
			if ratio := b.Eval(browsertest.Contrast); ratio != "true" {
				t.Errorf("the contrast is too low: %s", ratio)
			}
			if picture := b.Screenshot(); os.Getenv("RPCX_UPDATE") != "" {
				if err := os.WriteFile("../docs/page-"+name+".png", picture, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A stranger's document runs no script, makes no element of its texts, and breaks no rule
// of the policy.
func TestInteropPageOfHostileDocuments(t *testing.T) {
	b := browsertest.Start(t)
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
		b.Open(page.URL)
		b.Eval(`document.querySelectorAll("details").forEach(d => { d.open = true; })`)
		b.Await(`document.querySelectorAll("form").length === 2`)
		b.Eval(`document.querySelectorAll(".body details").forEach(d => { d.open = true; })`)
		b.Await(`document.querySelectorAll(".body details pre").length > 0`)
		b.Eval(`document.querySelectorAll("button").forEach(e => e.click())`)
		if got := b.Eval(`[window.broken, document.querySelectorAll("img, svg, b, iframe, script:not([nonce])").length, document.scripts.length].join()`); got != ",0,2" {
			t.Errorf("%q: %s", text, got)
		}
		if shown := b.Eval(`document.querySelector("summary code").textContent`); shown != text {
			t.Errorf("%q is shown as %q", text, shown)
		}
		for _, problem := range b.Reported() {
			if !strings.Contains(problem, "405 (Method Not Allowed)") { // of the endpoint, which is a page
				t.Errorf("the page has reported %s", problem)
			}
		}
	}
}
