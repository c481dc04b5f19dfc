package websocket_test

import (
	"net/http"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// The request is there from the beginning, for Limits.Group first of all, and as it
// was: whatever is done to the original one afterwards.
func TestRequest(t *testing.T) {
	groups, sessions := make(chan string, 1), make(chan *rpcx.Session, 1)
	srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { sessions <- s }}
	srv.Options.Limits.Group = func(s *rpcx.Session) string {
		groups <- websocket.Request(s).Header.Get("X-Forwarded-For")
		return ""
	}
	h := websocket.Handler(srv)
	served := make(chan struct{})
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		r.Header.Del("X-Forwarded-For")
		close(served)
	}))
	t.Cleanup(srv.Wait)
	t.Cleanup(func() { srv.Close() })
	d := websocket.Dialer{Header: http.Header{"X-Forwarded-For": {"192.0.2.7"}}}
	client := dial(t, d, url+"/rpc?token=abc", nil)
	if got := <-groups; got != "192.0.2.7" {
		t.Errorf("Limits.Group sees a session from %q", got)
	}
	s := <-sessions
	<-served
	r := websocket.Request(s)
	if got := r.Header.Get("X-Forwarded-For"); got != "192.0.2.7" {
		t.Errorf("the session came from %q", got)
	}
	if r.URL.Path != "/rpc" || r.Form.Get("token") != "abc" || r.RemoteAddr != client.LocalAddr().String() {
		t.Errorf("the request was for %v, from %v", r.URL, r.RemoteAddr)
	}
	if err := r.Context().Err(); err != nil || r.Context().Value(http.ServerContextKey) == nil {
		t.Errorf("its context has ended (%v) or lost its values", err)
	}
	if r.Form == nil {
		t.Error("its FormValue changes it, for all who ask for it")
	}
	if websocket.Request(client) != nil {
		t.Error("a session that was dialled has a request")
	}
	a, b := rpcx.Pipe(nil, nil)
	if websocket.Request(a) != nil {
		t.Error("a session of another kind has a request")
	}
	for _, s := range []*rpcx.Session{a, b} {
		s.Close()
		<-s.Done()
	}
}
