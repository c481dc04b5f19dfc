package websocket_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	"github.com/google/go-cmp/cmp"
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
	t.Cleanup(func() { srv.Wait(context.Background()) })
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

// A request that is too large is refused before there is a WebSocket, with the limit and
// the field that sets it.
func TestRequestTooLarge(t *testing.T) {
	const usual = 4 // Connection and so on, which upgrade sends; and User-Agent
	fields := func(n int) http.Header {
		h := make(http.Header)
		for i := range n {
			h.Set(fmt.Sprintf("X%d", i), "1")
		}
		return h
	}
	params := func(n int) string { return "/rpc?" + strings.TrimSuffix(strings.Repeat("a&", n), "&") }
	for name, c := range map[string]struct {
		acceptor *websocket.Acceptor
		target   string
		header   http.Header
		field    string // that the answer names; "" if the request is accepted
	}{
		"as many fields as there may be":     {target: "/", header: fields(100 - usual - 1)},
		"one field more":                     {target: "/", header: fields(100 - usual), field: "MaxHeaderFields"},
		"one field with many values":         {target: "/", header: http.Header{"X": slices.Repeat([]string{""}, 100)}, field: "MaxHeaderFields"},
		"as many parameters as there may be": {target: params(100 - usual - 1)},
		"one parameter more":                 {target: params(100 - usual), field: "MaxHeaderFields"},
		"fields and parameters":              {target: params(50), header: fields(50), field: "MaxHeaderFields"},
		"a large value":                      {target: "/", header: http.Header{"Cookie": {strings.Repeat("x", 16<<10)}}, field: "MaxHeaderBytes"},
		"a large name":                       {target: "/", header: http.Header{strings.Repeat("X", 16<<10): {""}}, field: "MaxHeaderBytes"},
		"a large path":                       {target: "/" + strings.Repeat("x", 16<<10), field: "MaxHeaderBytes"},
		"a large query":                      {target: "/?" + strings.Repeat("x", 16<<10), field: "MaxHeaderBytes"},
		"what a browser may have in cookies": {target: "/", header: http.Header{"Cookie": {strings.Repeat("x", 15<<10)}}},
		"more than a limit that is set":      {acceptor: &websocket.Acceptor{MaxHeaderFields: 10}, target: "/", header: fields(10), field: "MaxHeaderFields"},
		"bytes beyond a limit that is set":   {acceptor: &websocket.Acceptor{MaxHeaderBytes: 1000}, target: params(2), header: http.Header{"X": {strings.Repeat("x", 900)}}, field: "MaxHeaderBytes"},
		"anything without limits": {
			acceptor: &websocket.Acceptor{MaxHeaderFields: -1, MaxHeaderBytes: -1},
			target:   params(5000), header: fields(300),
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := &rpcx.Server{}
			acceptor := c.acceptor
			if acceptor == nil {
				acceptor = &websocket.Acceptor{}
			}
			acceptor.Server = srv
			t.Cleanup(func() { srv.Wait(context.Background()) })
			t.Cleanup(func() { srv.Close() })
			url := serve(t, acceptor)
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "ws://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			resp := upgrade(t, conn, bufio.NewReader(conn), c.target, c.header)
			if c.field == "" {
				if resp.StatusCode != http.StatusSwitchingProtocols {
					t.Errorf("it is answered %s", resp.Status)
				}
				return
			}
			body, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge || err != nil || !strings.Contains(string(body), "(websocket.Acceptor."+c.field+")") {
				t.Errorf("it is answered %s: %s (%v)", resp.Status, body, err)
			}
			if len(body) > 200 {
				t.Errorf("the answer has %d bytes", len(body))
			}
		})
	}
}

// Of the header what is asked for is kept, by names in any case.
func TestRequestKeepsHeaders(t *testing.T) {
	sent := http.Header{"X-Forwarded-For": {"192.0.2.7", "192.0.2.8"}, "Cookie": {"a=b"}, "X-Other": {"other"}}
	for name, c := range map[string]struct {
		headers []string
		want    http.Header // of what was sent
	}{
		"all":        {nil, sent},
		"none":       {[]string{}, http.Header{}},
		"some":       {[]string{"x-forwarded-for", "COOKIE", "Authorization"}, http.Header{"X-Forwarded-For": sent["X-Forwarded-For"], "Cookie": sent["Cookie"]}},
		"one, twice": {[]string{"x-other", "X-Other"}, http.Header{"X-Other": sent["X-Other"]}},
	} {
		t.Run(name, func(t *testing.T) {
			sessions := make(chan *rpcx.Session, 1)
			srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { sessions <- s }}
			t.Cleanup(func() { srv.Wait(context.Background()) })
			t.Cleanup(func() { srv.Close() })
			url := serve(t, &websocket.Acceptor{Server: srv, Headers: c.headers})
			dial(t, websocket.Dialer{Header: sent}, url+"/rpc?token=abc", nil)
			r := websocket.Request(<-sessions)
			got := r.Header
			if c.headers == nil {
				got = make(http.Header)
				for name := range sent {
					got[name] = r.Header[name]
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("wrong header (-want +got):\n%s", diff)
			}
			if r.FormValue("token") != "abc" || r.RemoteAddr == "" || r.Host == "" {
				t.Errorf("the rest of the request is %+v", r)
			}
		})
	}
}

// What a session keeps of its request counts for Server.MaxQueuedBytes, at no less than
// the memory that it takes, until the session is over.
func TestRequestsAreCounted(t *testing.T) {
	const sessions, most = 200, 400 // of 500 fields, net/http itself refuses a request since Go 1.27
	small, params := make(http.Header), []string{}
	for i := range most / 2 {
		small.Set(fmt.Sprintf("A%d", i), "")
		params = append(params, fmt.Sprintf("%d", i))
	}
	large := http.Header{"Cookie": {strings.Repeat("x", 15<<10)}}
	hold := func(target string, header http.Header) (held, counted int) {
		srv := &rpcx.Server{}
		url := serve(t, &websocket.Acceptor{Server: srv, MaxHeaderFields: most + 100, Config: websocket.Config{PingInterval: -1}})
		conns := make([]net.Conn, sessions)
		before := heapBytes()
		for i := range conns {
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "ws://"))
			if err != nil {
				t.Fatal(err)
			}
			if resp := upgrade(t, conn, bufio.NewReader(conn), target, header); resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("it is answered %s", resp.Status)
			}
			conns[i] = conn
		}
		// What is said last is answered when all before has been read.
		for _, conn := range conns {
			conn.Write(clientFrame(pingFrame, ""))
			conn.Read(make([]byte, 2))
		}
		held, counted = heapBytes()-before, srv.Stats().QueuedBytes
		srv.Close()
		for _, conn := range conns {
			conn.Close()
		}
		srv.Wait(context.Background())
		if n := srv.Stats().QueuedBytes; n != 0 {
			t.Errorf("%d bytes are counted when all is over", n)
		}
		return held, counted
	}
	hold("/", nil)
	bare, counted := hold("/", nil)
	if counted != 0 {
		t.Errorf("%d bytes are counted of requests with nothing in them", counted)
	}
	for name, c := range map[string]struct {
		target string
		header http.Header
	}{
		"many small fields": {"/", small},
		"many parameters":   {"/?" + strings.Join(params, "&"), nil},
		"one large field":   {"/", large},
		"a long path":       {"/" + strings.Repeat("x", 15<<10), nil},
	} {
		held, counted := hold(c.target, c.header)
		held -= bare
		t.Logf("%s: %d bytes are held by a session, %d counted", name, held/sessions, counted/sessions)
		if counted < held*9/10 || counted > 3*held {
			t.Errorf("%s: %d bytes are held, and %d counted", name, held, counted)
		}
	}
}

// heapBytes returns how many bytes are in use.
func heapBytes() int {
	runtime.GC()
	runtime.GC() // for what is in pools
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// A request that counts too much on a server that is full is not kept.
func TestRequestBeyondMaxQueuedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxQueuedBytes: 20_000}
		l, stopped := inMemory(&websocket.Acceptor{Server: srv})
		var conns []net.Conn
		connect := func() {
			conn, err := l.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			upgrade(t, conn, bufio.NewReader(conn), "/", http.Header{"Cookie": {strings.Repeat("x", 15_000)}})
			// Owner: the test. End: the connection is closed.
			go io.Copy(io.Discard, conn)
			conns = append(conns, conn)
			synctest.Wait()
		}
		for range 4 {
			connect()
		}
		time.Sleep(time.Minute)
		// A session that makes room, and the session that needs the room, may both end.
		if n := srv.Stats(); n.Sessions > 1 || n.QueuedBytes > 20_000 {
			t.Errorf("of 4 requests of 15 kB %d are kept, of %d bytes", n.Sessions, n.QueuedBytes)
		}
		if srv.Stats().Sessions == 0 {
			connect()
			time.Sleep(time.Minute)
			if n := srv.Stats(); n.Sessions != 1 {
				t.Errorf("a request of 15 kB alone is not kept: %d sessions", n.Sessions)
			}
		}
		srv.Close()
		for _, conn := range conns {
			conn.Close()
		}
		srv.Wait(context.Background())
		stopped()
	})
}
