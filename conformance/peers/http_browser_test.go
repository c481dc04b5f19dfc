package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
	"example.com/rpcx/rpchttp"
)

// A page in Chromium, of another origin than the servers, reads answers only where the
// server lists the origin of the page. Elsewhere no message of the page is handled, whatever
// the page sends: JSON, plain text, a beacon, or a message to a name that leads to this
// machine (DNS rebinding).
func TestInteropChromiumOfAnotherOrigin(t *testing.T) {
	noLeak(t)
	chromium := interoptest.Program(t, "apt-get install chromium", "chromium")
	page := &browserPage{results: make(chan map[string]string, 1), beacon: make(chan struct{}), finished: make(chan struct{})}
	router := rpcx.NewRouter()
	methods := new(webServer).methods()
	for _, method := range []string{"allowed", "refused", "text", "opaque", "allowedText", "beacon", "rebound"} {
		router.Handle(method, rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			page.record("handled " + req.Method)
			return req.Method, nil
		}))
	}
	router.Handle("count", methods)
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}}
	pages := httptest.NewServer(page.handler(srv))
	defer pages.Close()
	pageHost := strings.TrimPrefix(pages.URL, "http://")
	servers := http.NewServeMux()
	servers.Handle("/allowed", page.recording(&rpchttp.Handler{Server: srv, Origins: []string{pageHost}, SSE: true}))
	servers.Handle("/refused", page.recording(&rpchttp.Handler{Server: srv, SSE: true}))
	rpc := httptest.NewServer(servers)
	defer rpc.Close()

	_, port, _ := strings.Cut(pageHost, ":")
	query := url.Values{"rpc": {strings.TrimPrefix(rpc.URL, "http://")}, "rebound": {"rebound.example:" + port}}
	runChromium(t, chromium, pages.URL+"/page?"+query.Encode(), "--host-resolver-rules=MAP rebound.example 127.0.0.1")
	rpc.Close() // all events are recorded
	select {
	case got := <-page.results:
		want := map[string]string{
			"allowed":     `200 {"jsonrpc":"2.0","result":"allowed","id":1}`,
			"refused":     "TypeError", // which is all that a page learns
			"text":        "TypeError",
			"opaque":      "opaque",
			"allowedText": "415",
			"beacon":      "true", // it was sent
			"rebound":     "421",
			"events":      "1 2 2",
		}
		got["allowedText"], _, _ = strings.Cut(got["allowedText"], " ")
		got["rebound"], _, _ = strings.Cut(got["rebound"], " ")
		if !maps.Equal(got, want) {
			t.Errorf("the page has learned %q, want %q", got, want)
		}
	default:
		t.Error("the page has sent no results")
	}
	wantEvents := []string{
		"OPTIONS /allowed: 204",
		"handled allowed", "POST /allowed allowed: 200",
		"OPTIONS /refused: 403", // and so the message is not sent
		"POST /refused text: 403",
		"POST /refused opaque: 403",
		"POST /allowed allowedText: 415",
		"POST /refused beacon: 403",
		"POST /rpc rebound: 421",
		"POST /allowed count: 200",
	}
	if got := page.recorded(); !slices.Equal(got, wantEvents) {
		t.Errorf("the servers have seen\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wantEvents, "\n"))
	}
}

// browserPage serves the page in testdata, and collects what happens.
type browserPage struct {
	results  chan map[string]string
	beacon   chan struct{} // closed when the beacon has arrived
	finished chan struct{} // closed when the browser may end

	mu     sync.Mutex
	events []string
}

func (p *browserPage) record(event string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, event)
}

// recorded returns the events, each once: the browser may ask again. The beacon comes at any
// time, and is moved to its place.
func (p *browserPage) recorded() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	const beacon, behind = "POST /refused beacon: 403", "POST /allowed allowedText: 415"
	var events []string
	for _, event := range p.events {
		if event != beacon && !slices.Contains(events, event) {
			events = append(events, event)
		}
		if event == behind && slices.Contains(p.events, beacon) {
			events = append(events, beacon)
		}
	}
	return events
}

// handler serves the page, its frame, and at /rpc an RPC server at the origin of the page.
func (p *browserPage) handler(srv *rpcx.Server) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/origin.html") })
	mux.HandleFunc("/frame", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/rebound.html") })
	mux.Handle("/rpc", p.recording(&rpchttp.Handler{Server: srv}))
	mux.HandleFunc("/results", func(w http.ResponseWriter, r *http.Request) {
		var results map[string]string
		if err := json.NewDecoder(r.Body).Decode(&results); err != nil {
			results = map[string]string{"error": err.Error()}
		}
		p.results <- results
		select {
		case <-p.beacon:
		case <-r.Context().Done():
		}
		close(p.finished)
	})
	mux.HandleFunc("/hold", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-p.finished:
		case <-r.Context().Done():
		}
	})
	return mux
}

// recording records the requests to h, and their statuses.
func (p *browserPage) recording(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var message struct{ Method string }
		event := r.Method + " " + r.URL.Path
		if r.Method == http.MethodPost {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				p.record(err.Error())
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			if err := json.Unmarshal(body, &message); err != nil {
				p.record(err.Error())
			}
			event += " " + message.Method
		}
		status := &statusWriter{w, http.StatusOK}
		h.ServeHTTP(status, r)
		p.record(fmt.Sprintf("%s: %d", event, status.status))
		if message.Method == "beacon" {
			close(p.beacon)
		}
	})
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// runChromium loads a page. Chromium ends when the page has loaded.
func runChromium(t *testing.T, chromium, url string, args ...string) {
	t.Helper()
	profile, err := os.MkdirTemp("", "rpcx") // not a t.TempDir, which complains if the browser is not quite gone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(profile)
	args = append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir=" + profile, "--dump-dom"}, args...)
	if out, err := interoptest.Command(t, chromium, append(args, url)...).Output(); err != nil {
		t.Errorf("chromium: %v\n%s", err, out)
	}
}
