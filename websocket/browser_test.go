package websocket_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/websocket"
)

// What the page in testdata writes.
const pageText = `echo: "naïve ☃"
sum: 42
an error: error 42: refused: naïve
called back: 42
many at once: true
a large message: true
all met: browser,go,python
` + closeCodes + `closed: 1005 true
`

// A page in a browser, the original in Python and a session of ours are clients of
// one server at the same time: each waits until all have met.
func TestInteropBrowserPythonAndGo(t *testing.T) {
	interoptest.Need(t, "apt-get install chromium", "chromium", "--version")
	needAiorpcx(t)
	srv := &rpcx.Server{Options: rpcx.Options{Handler: meeting(3)}}
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	finished := make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.Handle("/rpc", websocket.Handler(srv))
	mux.Handle("/closes/", closing(t))
	mux.HandleFunc("/codes.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/codes.js") })
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/page.html") })
	mux.HandleFunc("/finished", func(http.ResponseWriter, *http.Request) { finished <- struct{}{} })
	mux.HandleFunc("/hold", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-finished:
		case <-r.Context().Done():
		}
	})
	url := serve(t, mux)

	var wg sync.WaitGroup // subtests in parallel would be as many as there are processors
	var text string
	wg.Go(func() {
		dom := chromium(t, "http"+strings.TrimPrefix(url, "ws")+"/page")
		_, text, _ = strings.Cut(dom, `<pre id="results">`)
		text, _, _ = strings.Cut(text, "</pre>")
	})
	s := dial(t, websocket.Dialer{}, url+"/rpc", nil)
	f := s.Go(t.Context(), "meet", rpcx.Args{"go"})
	interoptest.Checks(t, interoptest.Python, "aiorpcx_client.py", url+"/rpc", "meet")
	var names []string
	if err := f.Wait(t.Context(), &names); err != nil || len(names) != 3 {
		t.Errorf("met %q, %v", names, err)
	}
	if wg.Wait(); text != pageText {
		t.Errorf("the page shows\n%s\nwant\n%s", text, pageText)
	}
}

// chromium loads a page and returns it as it is once it has loaded.
func chromium(t *testing.T, url string) (dom string) {
	t.Helper()
	// Not a t.TempDir, which complains if the browser is not quite gone.
	profile, err := os.MkdirTemp("", "rpcx")
	if err != nil {
		t.Error(err)
		return ""
	}
	defer os.RemoveAll(profile)
	out, err := interoptest.Command(t, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+profile, "--dump-dom", url).Output()
	if err != nil {
		t.Errorf("chromium: %v", err)
	}
	return string(out)
}
