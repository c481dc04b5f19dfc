package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// serve serves srv at a listener, until the test ends.
func serve(t *testing.T, srv *rpcx.Server, l net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	// Owner: serve. End: the end of the test.
	go func() { served <- srv.ServeContext(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil && !errors.Is(err, rpcx.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// listenTCP listens on a free port of this machine.
func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l.(*net.TCPListener)
}

// startServer starts the server behind proxies, and returns its addresses for connections
// with PROXY headers and for the web.
func startServer(t *testing.T) (tcp, web string) {
	t.Helper()
	srv, handler := behindProxies(methods(), netip.MustParsePrefix("127.0.0.1/32"))
	l := listenTCP(t)
	serve(t, srv, l)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return l.Addr().String(), server.Listener.Addr().String()
}

// call calls through c with a large text, and checks that the server knows the client.
func call(t *testing.T, c rpcx.Caller, client string) {
	t.Helper()
	text := strings.Repeat("x", 900_000)
	if echo, err := rpcx.Call[string](t.Context(), c, "echo", rpcx.Args{text}); err != nil || echo != text {
		t.Errorf("echo of %d bytes: %d bytes, %v", len(text), len(echo), err)
	}
	checkClient(t, c, client)
}

// checkClient checks that the server knows the client's address.
func checkClient(t *testing.T, c rpcx.Caller, client string) {
	t.Helper()
	if got, err := rpcx.Call[string](t.Context(), c, "whoami", nil); err != nil || got != client {
		t.Errorf("the server knows the client as %q, want %q: %v", got, client, err)
	}
}

// checkProxied checks calls from the address client, by each of three transports: tcp is
// the address of the proxy for TCP, and web that for HTTP and WebSockets.
func checkProxied(t *testing.T, client, tcp, web string) {
	local := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
	own := rpcx.NewRouter()
	own.Handle("name", rpcx.Func(func() string { return "client" }))
	opts := &rpcx.Options{Handler: own}
	forged := http.Header{"X-Forwarded-For": {"10.9.8.7"}} // to be ignored
	session := func(s *rpcx.Session, err error) {
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		call(t, s, client)
		if got, err := rpcx.Call[string](t.Context(), s, "greet", nil); err != nil || got != "hello, client" {
			t.Errorf("the greeting is %q: %v", got, err)
		}
	}
	t.Run("TCP", func(t *testing.T) {
		session((&rpcx.Dialer{DialContext: local.DialContext}).Dial(t.Context(), "tcp://"+tcp, opts))
	})
	t.Run("WebSocket", func(t *testing.T) {
		d := websocket.Dialer{Dialer: rpcx.Dialer{DialContext: local.DialContext}, Header: forged}
		session(d.Dial(t.Context(), "ws://"+web+"/ws", opts))
	})
	t.Run("HTTP", func(t *testing.T) {
		transport := &http.Transport{DialContext: local.DialContext}
		defer transport.CloseIdleConnections()
		d := rpchttp.Dialer{Client: &http.Client{Transport: transport}, Header: forged}
		c, err := d.Dial("http://"+web+"/rpc", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		call(t, c, client)
	})
}

// A client has the sessions of MaxGroup, from all addresses of its network together.
func TestMaxGroup(t *testing.T) {
	_, web := startServer(t)
	connect := func(client string) error {
		d := websocket.Dialer{Header: http.Header{"X-Forwarded-For": {client}}}
		s, err := d.Dial(t.Context(), "ws://"+web+"/ws", nil)
		if err != nil {
			return err
		}
		t.Cleanup(func() { s.Close() })
		return s.Call(t.Context(), "echo", rpcx.Args{"hello"}, nil)
	}
	for i := range 100 {
		if err := connect(fmt.Sprintf("2001:db8:0:1::%x", i)); err != nil {
			t.Fatal(err)
		}
	}
	err := connect("2001:db8:0:1::ffff")
	if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != 1013 {
		t.Errorf("session 101 of a client ended with %v, want close code 1013", err)
	}
	if err := connect("2001:db8:0:2::1"); err != nil {
		t.Errorf("another client is refused, too: %v", err)
	}
}

// Tor's header names the circuit. Circuits have budgets of their own, and each the sessions
// of MaxGroup.
func TestTorCircuits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "onion.sock")
	l, err := rpcx.Listen(t.Context(), "unix://"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, behindTor(methods()), l)
	dial := func(circuit string) *rpcx.Session {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		// The form is that of the manual of Tor, HiddenServiceExportCircuitID.
		if _, err := conn.Write([]byte("PROXY TCP6 fc00:dead:beef:4dad::" + circuit + " ::1 65535 42\r\n")); err != nil {
			t.Fatal(err)
		}
		s := rpcx.NewSession(conn, nil)
		t.Cleanup(func() { s.Close() })
		return s
	}
	for _, circuit := range []string{"ffff:fffe", "ffff:ffff"} {
		for range 10 {
			checkClient(t, dial(circuit), "fc00:dead:beef:4dad::"+circuit)
		}
		if err := dial(circuit).Call(t.Context(), "whoami", nil, nil); err == nil {
			t.Errorf("circuit %s has more than ten sessions", circuit)
		}
	}
}
