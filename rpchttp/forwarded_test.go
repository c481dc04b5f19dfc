package rpchttp_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// The header is believed of listed proxies only, and from the right.
func TestXForwardedFor(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("2001:db8:ff::/48")}
	for _, c := range []struct {
		peer   string
		header []string
		want   string
	}{
		{"192.0.2.1:80", []string{"198.51.100.1"}, "192.0.2.1"}, // anybody else
		{"[2001:db8::1]:80", []string{"198.51.100.1"}, "2001:db8::1"},
		{"10.0.0.1:80", nil, "10.0.0.1"},
		{"10.0.0.1:80", []string{""}, "10.0.0.1"},
		{"10.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{"127.0.0.1:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[::ffff:10.0.0.1]:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[2001:db8:ff::1%eth0]:80", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:80", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"}, // the client has made up 1.1.1.1
		{"10.0.0.1:80", []string{"1.1.1.1, 198.51.100.1, 10.0.0.2, 10.0.0.3"}, "198.51.100.1"},
		{"10.0.0.1:80", []string{"1.1.1.1", "198.51.100.1", "10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:80", []string{"198.51.100.1", "10.0.0.3,10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:80", []string{"10.0.0.3", "10.0.0.2"}, "10.0.0.3"},
		{"10.0.0.1:80", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"10.0.0.1:80", []string{"[2001:db8::7]:4711"}, "2001:db8::7"},
		{"10.0.0.1:80", []string{"[2001:db8::7]"}, "2001:db8::7"},
		{"10.0.0.1:80", []string{"2001:db8::7"}, "2001:db8::7"},
		{"10.0.0.1:80", []string{"2001:db8::7%eth0"}, "2001:db8::7"},
		{"10.0.0.1:80", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:80", []string{"198.51.100.1 ,\t, 10.0.0.2 ,"}, "198.51.100.1"},
		{"10.0.0.1:80", []string{"198.51.100.1, unknown, 10.0.0.2"}, "10.0.0.2"}, // what is left of an unreadable hop may be made up
		{"10.0.0.1:80", []string{"198.51.100.1, _hidden"}, "10.0.0.1"},
		{"10.0.0.1:80", []string{"198.51.100.1", "198.51.100"}, "10.0.0.1"},
		{"10.0.0.1:80", []string{"for=198.51.100.1"}, "10.0.0.1"},
		{"@", []string{"198.51.100.1"}, "invalid IP"},
	} {
		r := post(echoing)
		r.RemoteAddr, r.Header["X-Forwarded-For"] = c.peer, c.header
		if got := rpchttp.XForwardedFor(proxies...)(r).String(); got != c.want {
			t.Errorf("of %s, %q gives %s; want %s", c.peer, c.header, got, c.want)
		}
	}
	r := post(echoing)
	r.RemoteAddr, r.Header["X-Forwarded-For"] = "@", []string{"198.51.100.1"}
	if got := rpchttp.XForwardedFor(netip.Prefix{})(r).String(); got != "198.51.100.1" {
		t.Errorf("over a unix socket, the client is %s", got)
	}
	r.RemoteAddr = "10.0.7.1:80"
	for prefix, want := range map[string]string{"::ffff:10.0.0.0/112": "198.51.100.1", "::ffff:10.0.7.2/128": "10.0.7.1", "::/0": "10.0.7.1"} {
		if got := rpchttp.XForwardedFor(netip.MustParsePrefix(prefix))(r).String(); got != want {
			t.Errorf("with a proxy listed as %s, the client is %s", prefix, got)
		}
	}
}

// A header that is not believed is logged once, with the field to set.
func TestIgnoredForwardedFor(t *testing.T) {
	for name, client := range map[string]func(*http.Request) netip.Addr{
		"by default":          nil,
		"of another proxy":    rpchttp.XForwardedFor(netip.MustParsePrefix("10.0.0.0/8")),
		"without any address": func(*http.Request) netip.Addr { return netip.Addr{} },
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			srv := newServer(methods{"addr": func(_ context.Context, req *rpcx.Request) (any, error) {
				return req.Session().RemoteAddr().String(), nil
			}})
			srv.Options.Logger = slog.New(slog.NewTextHandler(&log, nil))
			h := &rpchttp.Handler{Server: srv, Client: client}
			msg := `{"jsonrpc":"2.0","method":"addr","id":1}`
			answering(t, h, post(msg), 200, "")
			if log.Len() > 0 {
				t.Errorf("the log is %s", &log)
			}
			for i := range 10 {
				answering(t, h, post(msg, "X-Forwarded-For", fmt.Sprint("198.51.100.", i)), 200, `{"jsonrpc":"2.0","result":"192.0.2.1:1234","id":1}`)
			}
			if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "set rpchttp.Handler.Client to rpchttp.XForwardedFor") || !strings.Contains(got, "peer=192.0.2.1:1234") {
				t.Errorf("the log is %s", got)
			}
		})
	}
	var log bytes.Buffer
	srv := newServer(nil)
	srv.Options.Logger = slog.New(slog.NewTextHandler(&log, nil))
	h := &rpchttp.Handler{Server: srv, Client: rpchttp.XForwardedFor(netip.MustParsePrefix("192.0.2.1/32"))}
	if answering(t, h, post(echoing, "X-Forwarded-For", "198.51.100.1"), 200, echoed); log.Len() > 0 {
		t.Errorf("a header that is believed is logged: %s", &log)
	}
}
