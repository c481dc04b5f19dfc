package rpchttp_test

import (
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"example.com/rpcx/internal/race"
	"example.com/rpcx/rpchttp"
)

// plainWriter is a response without a socket. It can be used again.
type plainWriter struct {
	header http.Header
	status int
	size   int
}

func (w *plainWriter) Header() http.Header  { return w.header }
func (w *plainWriter) WriteHeader(code int) { w.status = code }

func (w *plainWriter) Write(p []byte) (int, error) {
	w.size += len(p)
	return len(p), nil
}

func (*plainWriter) SetReadDeadline(time.Time) error  { return nil }
func (*plainWriter) SetWriteDeadline(time.Time) error { return nil }

// repeated is a request that can be served again and again, from a page of a listed host.
type repeated struct {
	r    *http.Request
	body repeatedBody
}

type repeatedBody struct {
	text string
	n    int
}

func (b *repeatedBody) Close() error { return nil }

func (b *repeatedBody) Read(p []byte) (int, error) {
	n := copy(p, b.text[b.n:])
	if b.n += n; b.n == len(b.text) {
		return n, io.EOF
	}
	return n, nil
}

func newRepeated(text string) *repeated {
	r := &repeated{body: repeatedBody{text: text}}
	r.r = at(post(text, "Accept-Encoding", "gzip", "Accept", "application/json"), "192.0.2.80")
	r.r.URL = &url.URL{Path: "/rpc"}
	r.r.Body = &r.body
	return r
}

func (r *repeated) serve(h http.Handler, w *plainWriter) {
	r.body.n = 0
	clear(w.header)
	h.ServeHTTP(w, r.r)
}

// A small request makes at most 12 allocations more than a handler that reads the body and
// writes it, with the checks of hosts and origins, compression and budgets switched on.
func TestAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	w := &plainWriter{header: make(http.Header)}
	r := newRepeated(echoing)
	plain := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	})
	h := &rpchttp.Handler{Server: newServer(nil), Hosts: []string{"example.com"}, Origins: []string{"app.example"}, Compress: 1000}
	count := func(h http.Handler) float64 { return testing.AllocsPerRun(200, func() { r.serve(h, w) }) }
	alone, ours := count(plain), count(h)
	if w.status != 200 || ours > alone+12 {
		t.Errorf("%v allocations, and %v without JSON-RPC; the status is %d", ours, alone, w.status)
	}
	t.Logf("%v allocations, and %v without JSON-RPC", ours, alone)
}

// BenchmarkHandler measures a request without a socket.
func BenchmarkHandler(b *testing.B) {
	w := &plainWriter{header: make(http.Header)}
	r := newRepeated(echoing)
	h := &rpchttp.Handler{Server: newServer(nil), Hosts: []string{"example.com"}, Origins: []string{"app.example"}, Compress: 1000}
	b.ReportAllocs()
	for b.Loop() {
		r.serve(h, w)
	}
}
