package rpcx_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
)

// What is no proxy is not taken for one, and is waited for no longer than ctx allows.
func TestDetectionOfWhatIsNoProxy(t *testing.T) {
	noLeak(t)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	sessions, _ := serveSessions(t, nil)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, addr := range map[string]string{
		"an HTTP server":        strings.TrimPrefix(web.URL, "http://"),
		"a server of sessions":  sessions,
		"a port that is silent": silent.Addr().String(),
		"a closed port":         freePort(t),
		"no address":            "127.0.0.1",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if p := rpcx.DetectSOCKS(ctx, addr, nil); p != nil {
			t.Errorf("%s: found %v", name, p)
		}
		cancel()
	}
}

// Proxies of older versions hang up on what they do not understand.
func TestDetectionOfOlderVersions(t *testing.T) {
	noLeak(t)
	const refused = "\x00\x5b\x00\x00\x00\x00\x00\x00"
	for _, c := range []struct {
		name    string
		replies map[string]string // to how a request begins
		want    *rpcx.SOCKSProxy
	}{
		{"4a", map[string]string{"\x04\x01\x00\x01\x00\x00\x00\x01": refused}, &rpcx.SOCKSProxy{Version: rpcx.SOCKS4a}},
		{"4", map[string]string{"\x04\x01\x00\x01\x7f\x00\x00\x01": refused}, &rpcx.SOCKSProxy{Version: rpcx.SOCKS4}},
		{"what begins as HTTP/2 does", map[string]string{"\x04": "\x00\x00\x06\x04\x00\x00\x00\x00\x00", "\x05": "\x00\x00\x06\x04\x00\x00\x00\x00\x00"}, nil},
		{"a reply that is none", map[string]string{"\x04": "HTTP/1.1 400 Bad Request", "\x05": "HTTP/1.1 400 Bad Request"}, nil},
		{"nothing", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			// Owner: the test. End: the listener is closed.
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					r := bufio.NewReader(conn)
					first, _ := r.Peek(1)
					if string(first) == "\x04" {
						first, _ = r.Peek(8)
					}
					for request, reply := range c.replies {
						if strings.HasPrefix(string(first), request) {
							io.WriteString(conn, reply)
						}
					}
					conn.Close()
				}
			}()
			p := rpcx.DetectSOCKS(t.Context(), l.Addr().String(), nil)
			if (p == nil) != (c.want == nil) || p != nil && (p.Version != c.want.Version || p.Addr != l.Addr().String()) {
				t.Errorf("found %v", p)
			}
		})
	}
}

// To be found, a SOCKS5 proxy need not be asked to connect anywhere.
func TestDetectionAsksSOCKS5ForNothing(t *testing.T) {
	noLeak(t)
	p := newTestProxy(t)
	found := rpcx.DetectSOCKS(t.Context(), p.addr, rpcx.SOCKSUserAuth{Username: "u", Password: "p"})
	if found == nil || found.Version != rpcx.SOCKS5 {
		t.Errorf("found %v", found)
	}
	if asked := p.requests(); len(asked) != 0 {
		t.Errorf("asked for %v", asked)
	}
}
