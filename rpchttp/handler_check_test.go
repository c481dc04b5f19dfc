package rpchttp_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// Only POST is served. A 200 for GET would have some clients of server-sent events connect
// for ever.
func TestMethods(t *testing.T) {
	h := &rpchttp.Handler{Server: newServer(nil), SSE: true}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "QUERY"} {
		r := post(echoing, "Accept", "text/event-stream")
		r.Method = method
		w := answering(t, h, r, 405, "method not allowed: a message is POSTed\n")
		if allow := w.Header().Get("Allow"); allow != "POST, OPTIONS" {
			t.Errorf("for %s, Allow is %q", method, allow)
		}
	}
	r := post("")
	r.Method = "OPTIONS"
	w := answering(t, h, r, 204, "")
	if allow := w.Header().Get("Allow"); allow != "POST, OPTIONS" || w.Header().Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("for OPTIONS, the header is %v", w.Header())
	}
}

// A message has one of three types, in UTF-8. A page may POST text/plain without asking.
func TestContentTypes(t *testing.T) {
	h := &rpchttp.Handler{Server: newServer(nil)}
	for kind, status := range map[string]int{
		"application/json":                            200,
		"application/json-rpc":                        200,
		"application/jsonrequest":                     200,
		"Application/JSON":                            200,
		"application/json; charset=utf-8":             200,
		`application/json;charset="UTF-8"`:            200,
		"application/json; charset=utf-8; x=y":        200,
		"application/json; charset=utf-16":            415,
		"application/json; charset=iso-8859-1":        415,
		"application/json; charset=":                  415,
		"application/json; charset":                   415,
		"application/json, text/plain":                415,
		"text/plain":                                  415,
		"text/plain; application/json":                415,
		"text/json":                                   415,
		"application/x-www-form-urlencoded":           415,
		"multipart/form-data; boundary=b":             415,
		"application/javascript":                      415,
		"application/jsonx":                           415,
		"":                                            415,
		" application/json ":                          200,
		"application/json; charset=utf-8; charset=\"": 415,
	} {
		answering(t, h, post(echoing, "Content-Type", kind), status, "")
	}
	r := post(echoing)
	r.Header.Del("Content-Type")
	answering(t, h, r, 415, "no Content-Type, or several: a message has the Content-Type application/json\n")
	r.Header["Content-Type"] = []string{"application/json", "text/plain"}
	answering(t, h, r, 415, "")
}

// at returns the request as one that came to the local address.
func at(r *http.Request, local string) *http.Request {
	addr := &net.TCPAddr{IP: net.ParseIP(local), Port: 80}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, addr))
}

// On a loopback address only loopback names are served, so that no page reaches the server
// by a name that leads there (DNS rebinding).
func TestHosts(t *testing.T) {
	client := rpchttp.XForwardedFor()
	for _, c := range []struct {
		local, host string
		hosts       []string
		client      bool
		allowed     bool
	}{
		{local: "192.0.2.1", host: "evil.example", allowed: true},
		{local: "127.0.0.1", host: "evil.example"},
		{local: "127.0.0.1", host: "evil.example:80"},
		{local: "::1", host: "evil.example:80"},
		{local: "127.8.9.10", host: "evil.example:80"},
		{local: "127.0.0.1", host: "127.0.0.1.evil.example"},
		{local: "127.0.0.1", host: "localhost.evil.example"},
		{local: "127.0.0.1", host: "notlocalhost"},
		{local: "127.0.0.1", host: "192.0.2.1"},
		{local: "127.0.0.1", host: "localhost", allowed: true},
		{local: "127.0.0.1", host: "LocalHost:8080", allowed: true},
		{local: "127.0.0.1", host: "localhost.:8080", allowed: true},
		{local: "127.0.0.1", host: "app.localhost:8080", allowed: true},
		{local: "127.0.0.1", host: "127.0.0.1:8080", allowed: true},
		{local: "127.0.0.1", host: "127.1.2.3", allowed: true},
		{local: "::1", host: "[::1]:8080", allowed: true},
		{local: "::1", host: "[::1]", allowed: true},
		{local: "127.0.0.1", host: "[::ffff:127.0.0.1]", allowed: true},
		{local: "127.0.0.1", host: "", allowed: true}, // HTTP/1.0, which no browser speaks
		{local: "127.0.0.1", host: "evil.example", client: true, allowed: true},
		{local: "127.0.0.1", host: "api.example", hosts: []string{"api.example"}, allowed: true},
		{local: "127.0.0.1", host: "API.example:8080", hosts: []string{"api.EXAMPLE"}, allowed: true},
		{local: "127.0.0.1", host: "localhost", hosts: []string{"api.example"}},
		{local: "192.0.2.1", host: "evil.example", hosts: []string{"api.example"}},
		{local: "192.0.2.1", host: "evil.example", hosts: []string{"api.example"}, client: true},
		{local: "192.0.2.1", host: "", hosts: []string{"api.example"}},
		{local: "192.0.2.1", host: "a.example", hosts: []string{"*.example"}, allowed: true},
		{local: "192.0.2.1", host: "a.example:81", hosts: []string{"a.example:80"}},
		{local: "192.0.2.1", host: "[2001:db8::1]:80", hosts: []string{"[2001:db8::1]"}, allowed: true},
		{local: "127.0.0.1", host: "anything", hosts: []string{"*"}, allowed: true},
	} {
		h := &rpchttp.Handler{Server: newServer(nil), Hosts: c.hosts}
		if c.client {
			h.Client = client
		}
		r := at(post(echoing), c.local)
		r.Host = c.host
		if w := serve(h, r); c.allowed != (w.Code == 200) || !c.allowed && (w.Code != 421 || !strings.Contains(w.Body.String(), "rpchttp.Handler.Hosts")) {
			t.Errorf("%+v is answered %d %s", c, w.Code, w.Body)
		}
	}
	r := at(post(""), "127.0.0.1")
	r.Host, r.Method = "evil.example", "OPTIONS"
	r.Header.Set("Origin", "http://evil.example")
	answering(t, &rpchttp.Handler{Server: newServer(nil)}, r, 421, "")
}

// The default for a loopback address holds on a real socket.
func TestHostsOnLoopback(t *testing.T) {
	url := serveOnLoopback(t, &rpchttp.Handler{Server: newServer(nil)})
	for host, status := range map[string]int{"": 200, "localhost": 200, "evil.example": 421} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(echoing))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != status {
			t.Errorf("%q is answered %s", host, resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// The page of the requested host may ask, and the pages that Origins allows.
func TestOrigins(t *testing.T) {
	for _, c := range []struct {
		name    string
		origins []string
		origin  string
		allowed bool
	}{
		{"no origin is no browser", nil, "", true},
		{"the server's own page", nil, "https://example.com", true},
		{"the own page in capitals", nil, "https://EXAMPLE.com", true},
		{"another page", nil, "https://evil.example", false},
		{"another port", nil, "https://example.com:444", false},
		{"a hidden origin", nil, "null", false},
		{"no URL", nil, "example.com", false},
		{"garbage", nil, "http://[", false},
		{"a listed host", []string{"app.example"}, "https://app.example", true},
		{"a listed host in capitals", []string{"App.Example"}, "https://app.example", true},
		{"a listed host with another port", []string{"app.example"}, "https://app.example:444", false},
		{"a pattern", []string{"*.example"}, "https://app.example", true},
		{"a listed scheme", []string{"https://app.example"}, "https://app.example", true},
		{"another scheme", []string{"https://app.example"}, "http://app.example", false},
		{"a listed address of IPv6", []string{"[2001:db8::1]:8080"}, "http://[2001:db8::1]:8080", true},
		{"a listed scheme and address of IPv6", []string{"http://[2001:db8::1]"}, "http://[2001:db8::1]", true},
		{"a listed hidden origin", []string{"null"}, "null", true},
		{"a host named null", []string{"null"}, "https://null", false},
		{"everybody", []string{"*"}, "https://app.example:1", true},
		{"everybody without the hidden", []string{"*"}, "null", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &rpchttp.Handler{Server: newServer(nil), Origins: c.origins}
			r := post(echoing)
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			status, preflight, origin := 200, 204, c.origin
			if !c.allowed {
				status, preflight, origin = 403, 403, ""
			}
			w := answering(t, h, r, status, "")
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != origin {
				t.Errorf("Access-Control-Allow-Origin is %q", got)
			}
			if w.Header().Get("Access-Control-Allow-Credentials") != "" {
				t.Error("cookies are allowed")
			}
			if got := w.Header().Get("Vary"); (got == "Origin") != (c.origin != "") {
				t.Errorf("Vary is %q", got)
			}
			if !c.allowed && !strings.Contains(w.Body.String(), "rpchttp.Handler.Origins") {
				t.Errorf("the refusal is %s", w.Body)
			}
			r.Method = "OPTIONS"
			r.Header.Set("Access-Control-Request-Method", "POST")
			r.Header.Set("Access-Control-Request-Headers", "content-type,authorization")
			w = answering(t, h, r, preflight, "")
			methods, headers := w.Header().Get("Access-Control-Allow-Methods"), w.Header().Get("Access-Control-Allow-Headers")
			if allows := methods == "POST" && headers == "content-type,authorization"; allows != (origin != "") {
				t.Errorf("the preflight allows %q with %q", methods, headers)
			}
		})
	}
	t.Run("two origins", func(t *testing.T) {
		r := post(echoing)
		r.Header["Origin"] = []string{"https://example.com", "https://evil.example"}
		answering(t, &rpchttp.Handler{Server: newServer(nil)}, r, 403, "")
	})
	t.Run("a very long list of header fields", func(t *testing.T) {
		r := post("", "Origin", "http://example.com", "Access-Control-Request-Headers", strings.Repeat("x", 2000))
		r.Method = "OPTIONS"
		w := answering(t, &rpchttp.Handler{Server: newServer(nil)}, r, 204, "")
		if got := w.Header().Get("Access-Control-Allow-Headers"); got != "" {
			t.Errorf("%d bytes are allowed", len(got))
		}
	})
}

// A server with a Gate serves only what Admit lets in.
func TestAdmit(t *testing.T) {
	var log bytes.Buffer
	srv := newServer(nil)
	srv.Options.Logger = slog.New(slog.NewTextHandler(&log, nil))
	srv.Options.Gate = methods{"echo": func(context.Context, *rpcx.Request) (any, error) {
		t.Error("the gate is asked")
		return nil, nil
	}}
	h := &rpchttp.Handler{Server: srv}
	w := answering(t, h, post(echoing), 401, "not admitted\n")
	if got := w.Header().Get("WWW-Authenticate"); got != "Bearer" {
		t.Errorf("WWW-Authenticate is %q", got)
	}
	if !strings.Contains(log.String(), "set rpchttp.Handler.Admit") {
		t.Errorf("the log is %s", &log)
	}
	admit := func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer secret" {
			return errors.New("no token in table tokens")
		}
		return nil
	}
	for _, gate := range []rpcx.Handler{srv.Options.Gate, nil} {
		srv := newServer(nil)
		srv.Options.Gate, srv.Options.Logger = gate, slog.New(slog.NewTextHandler(&log, nil))
		h := &rpchttp.Handler{Server: srv, Admit: admit}
		answering(t, h, post(echoing, "Authorization", "Bearer secret"), 200, echoed)
		log.Reset()
		answering(t, h, post(echoing), 401, "not admitted\n")
		if !strings.Contains(log.String(), "table tokens") {
			t.Errorf("the log is %s", &log)
		}
	}
	basic := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", "Basic")
		h.ServeHTTP(w, r)
	})
	if w := serve(basic, post(echoing)); w.Header().Get("WWW-Authenticate") != "Basic" {
		t.Errorf("the header is %v", w.Header())
	}
}

// A body is not read before the request is let in.
func TestRefusedBeforeTheBody(t *testing.T) {
	srv := newServer(nil)
	srv.Options.Gate = methods{}
	body := &endless{begin: strings.NewReader("")}
	r := post("")
	r.Body, r.ContentLength = http.NoBody, 10
	r.Body = readCloser{body}
	answering(t, &rpchttp.Handler{Server: srv}, r, 401, "")
	if body.read != 0 {
		t.Errorf("%d bytes were read", body.read)
	}
}

type readCloser struct{ *endless }

func (readCloser) Close() error { return nil }

// A handler that cannot work panics, with a text that says why.
func TestInvalidHandlers(t *testing.T) {
	invalid := newServer(nil)
	invalid.MaxGroup = 1 // without groups
	for want, h := range map[string]*rpchttp.Handler{
		"rpcx: rpchttp.Handler without a Server: set that field":                                                                                               {},
		"rpcx: rpchttp.Handler.ReadTimeout is 30ns: write 30*time.Second":                                                                                      {Server: newServer(nil), ReadTimeout: 30},
		"rpcx: rpchttp.Handler.Origins has the pattern \"[\": syntax error in pattern":                                                                         {Server: newServer(nil), Origins: []string{"["}},
		"rpcx: rpchttp.Handler.Hosts has the pattern \"a[\": syntax error in pattern":                                                                          {Server: newServer(nil), Hosts: []string{"a["}},
		"rpcx: sessions of a group are limited and there are no groups (Server.MaxGroup, Limits.Group): set Group, too, to GroupBySubnet(24, 64), for example": {Server: invalid},
	} {
		for range 2 { // not only once
			func() {
				defer func() {
					if got := recover(); got != want {
						t.Errorf("the panic is %v; want %s", got, want)
					}
				}()
				serve(h, post(echoing))
			}()
		}
	}
	defer func() {
		if got := recover(); got != "rpcx: rpchttp.Ready with a nil *rpcx.Server" {
			t.Errorf("the panic is %v", got)
		}
	}()
	rpchttp.Ready(nil)
}

// The records that clients cause are limited, and say where the peer is and what is wrong.
func TestRefusalsInTheLog(t *testing.T) {
	var log bytes.Buffer
	srv := newServer(nil)
	srv.Options.Logger = slog.New(slog.NewTextHandler(&log, nil))
	h := &rpchttp.Handler{Server: srv}
	for range 1000 {
		serve(h, post(echoing, "Content-Type", "text/plain"))
	}
	records := strings.Split(strings.TrimSpace(log.String()), "\n")
	if n := len(records); n < 100 || n > 150 {
		t.Errorf("there are %d records", n)
	}
	for _, want := range []string{"level=WARN", `msg="HTTP request refused"`, "peer=192.0.2.1:1234", "status=415", `Content-Type \"text/plain\"`} {
		if !strings.Contains(strings.ReplaceAll(records[0], `\\`, ""), want) && !strings.Contains(records[0], strings.ReplaceAll(want, `\"`, `\\\"`)) {
			t.Errorf("there is no %s in %s", want, records[0])
		}
	}
	log.Reset()
	quiet := newServer(nil)
	quiet.Options.Logger = srv.Options.Logger
	h.Server, h.Client = quiet, func(*http.Request) netip.Addr { return netip.MustParseAddr("198.51.100.7") }
	if serve(h, post(echoing, "Content-Type", "text/plain")); !strings.Contains(log.String(), "peer=198.51.100.7 ") {
		t.Errorf("a client behind a proxy is logged as %s", &log)
	}
	log.Reset()
	r := post(echoing)
	r.Method = "GET"
	if serve(h, r); log.Len() > 0 {
		t.Errorf("a GET is logged: %s", &log)
	}
}

// serveOnLoopback serves h on a socket, and returns the URL.
func serveOnLoopback(t *testing.T, h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	// Owner: the test. End: Close of the server.
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return "http://" + l.Addr().String() + "/rpc"
}
