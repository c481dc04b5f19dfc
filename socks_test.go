package rpcx_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// serveSessions serves sessions until the test ends.
func serveSessions(t *testing.T, config *tls.Config) (addr string, srv *rpcx.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	if config != nil {
		l = tls.NewListener(l, config)
	}
	srv = &rpcx.Server{Options: *handling(methods{"reply": reply})}
	// Owner: the test. End: the server is closed.
	go srv.Serve(l)
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	return addr, srv
}

// answers checks that the peer does.
func answers(t *testing.T, s *rpcx.Session) {
	t.Helper()
	if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestSOCKSDialsWhatItIsAskedFor(t *testing.T) {
	noLeak(t)
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	asked := fakeDNS(t, nil)
	for _, c := range []struct {
		name  string
		proxy rpcx.SOCKSProxy
		addr  string
		want  string
	}{
		{"an IPv4 address by version 4", rpcx.SOCKSProxy{Version: rpcx.SOCKS4}, "192.0.2.1:81", "SOCKS4 192.0.2.1:81"},
		{"an IPv4 address by version 4a", rpcx.SOCKSProxy{Version: rpcx.SOCKS4a}, "192.0.2.1:81", "SOCKS4 192.0.2.1:81"},
		{"a name by version 4a", rpcx.SOCKSProxy{Version: rpcx.SOCKS4a}, "a.test:81", "SOCKS4 a.test:81"},
		{"an IPv4 address by version 5", rpcx.SOCKSProxy{}, "192.0.2.1:81", "SOCKS5 192.0.2.1:81"},
		{"an IPv6 address", rpcx.SOCKSProxy{}, "[2001:db8::1]:81", "SOCKS5 [2001:db8::1]:81"},
		{"a name", rpcx.SOCKSProxy{}, "Foo.onion:81", "SOCKS5 Foo.onion:81"},
		{"an onion service, whatever is resolved", rpcx.SOCKSProxy{ResolveLocally: true}, "foo.Onion.:81", "SOCKS5 foo.Onion.:81"},
		{"with a user", rpcx.SOCKSProxy{Auth: rpcx.SOCKSUserAuth{Username: "u", Password: "p"}}, "a.test:81", "SOCKS5 u:p a.test:81"},
		{"with a user's name alone", rpcx.SOCKSProxy{Version: rpcx.SOCKS4, Auth: rpcx.SOCKSUserAuth{Username: "u"}}, "192.0.2.1:81", "SOCKS4 u 192.0.2.1:81"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newTestProxy(t)
			p.answer = func(string) (byte, string) { return 0, strings.TrimPrefix(server.URL, "http://") }
			p.greeting = "hello\n"
			c.proxy.Addr = p.addr
			conn, err := c.proxy.DialContext(t.Context(), "tcp", c.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got := p.requests(); len(got) != 1 || got[0] != c.want {
				t.Errorf("asked for %q, want %q", got, c.want)
			}
			tunnel := conn.(*rpcx.SOCKSConn)
			if tunnel.RemoteAddr().String() != c.addr || tunnel.ProxyAddr().String() != p.addr || tunnel.Proxy() != &c.proxy {
				t.Errorf("it goes to %v by %v, %v", tunnel.RemoteAddr(), tunnel.ProxyAddr(), tunnel.Proxy())
			}
			// What came with the reply is not lost.
			if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
				t.Errorf("got %q, %v", line, err)
			}
			if names := asked(); len(names) != 0 {
				t.Errorf("looked up %v", names)
			}
		})
	}
}

// A dial that cannot go through the proxy fails, and neither DNS nor the
// destination hears of it.
func TestSOCKSNeverGoesRoundTheProxy(t *testing.T) {
	noLeak(t)
	destination, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer destination.Close()
	_, port, _ := net.SplitHostPort(destination.Addr().String())
	asked := fakeDNS(t, map[string][]string{"a.test": {"127.0.0.1"}})

	refuses := newTestProxy(t)
	refuses.answer = func(string) (byte, string) { return 2, "" }
	garbage := httptest.NewServer(http.NotFoundHandler())
	defer garbage.Close()
	hangsUp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hangsUp.Close()
	go func() {
		for {
			conn, err := hangsUp.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	for name, p := range map[string]rpcx.SOCKSProxy{
		"it refuses":                {Addr: refuses.addr},
		"it refuses, by version 4a": {Addr: refuses.addr, Version: rpcx.SOCKS4a},
		"it cannot carry a name":    {Addr: refuses.addr, Version: rpcx.SOCKS4},
		"it hangs up":               {Addr: hangsUp.Addr().String()},
		"it is not there":           {Addr: freePort(t)},
		"it is no address":          {Addr: "127.0.0.1"},
		"it is of no version":       {Addr: refuses.addr, Version: 9},
		"its password is too long":  {Addr: refuses.addr, Auth: rpcx.SOCKSUserAuth{Username: "u", Password: strings.Repeat("p", 256)}},
		"it has no user's name":     {Addr: refuses.addr, Auth: rpcx.SOCKSUserAuth{Password: "p"}},
		"it is dialled by a failure": {Addr: "a.test:1", Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := rpcx.Dialer{SOCKS: &p}
			s, err := d.Dial(t.Context(), "tcp://a.test:"+port, nil)
			if err == nil {
				s.Close()
				t.Error("it was connected to")
			}
			if names := asked(); len(names) != 0 {
				t.Errorf("looked up %v", names)
			}
		})
	}
	t.Run("unix sockets are not dialled", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d := rpcx.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: refuses.addr}}
		if _, err := d.Dial(t.Context(), "unix://"+path, nil); err == nil {
			t.Error("it was connected to")
		}
	})
	t.Run("without a proxy both would have heard", func(t *testing.T) {
		s, err := rpcx.Dial(t.Context(), "tcp://a.test:"+port, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		// The first to be accepted is the first that has connected.
		conn, err := destination.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if conn.RemoteAddr().String() != s.LocalAddr().String() {
			t.Error("it had been connected to before")
		}
		if names := asked(); !slices.Contains(names, "a.test.") {
			t.Errorf("looked up %v", names)
		}
		if s.SOCKS() != nil {
			t.Errorf("it goes through %v", s.SOCKS())
		}
	})
}

func TestSOCKSResolvesLocallyWhenToldTo(t *testing.T) {
	noLeak(t)
	addr, _ := serveSessions(t, nil)
	asked := fakeDNS(t, map[string][]string{"a.test": {"192.0.2.1", "192.0.2.2", "2001:db8::1"}})
	p := newTestProxy(t)
	p.answer = func(dest string) (byte, string) {
		if dest == "192.0.2.2:81" {
			return 0, addr
		}
		return 91, ""
	}
	for _, version := range []rpcx.SOCKSVersion{rpcx.SOCKS4, rpcx.SOCKS4a, rpcx.SOCKS5} {
		proxy := rpcx.SOCKSProxy{Addr: p.addr, Version: version, ResolveLocally: true}
		conn, err := proxy.DialContext(t.Context(), "tcp", "a.test:81")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != "192.0.2.2:81" {
			t.Errorf("%v: connected to %s", version, got)
		}
		got := fmt.Sprint(p.requests())
		if strings.Contains(got, "a.test") || version != rpcx.SOCKS5 && strings.Contains(got, "2001") {
			t.Errorf("%v: asked for %s", version, got)
		}
		if !slices.Contains(asked(), "a.test.") {
			t.Errorf("%v: the name was not looked up", version)
		}
	}
	proxy := rpcx.SOCKSProxy{Addr: p.addr, ResolveLocally: true}
	var dns *net.DNSError
	if _, err := proxy.DialContext(t.Context(), "tcp", "b.test:81"); !errors.As(err, &dns) {
		t.Errorf("a name that is not there: %v", err)
	}
	if got := p.requests(); len(got) != 0 {
		t.Errorf("asked for %q", got)
	}
}

// A proxy's name may have addresses on which it does not listen.
func TestSOCKSTriesTheProxysAddressesInTurn(t *testing.T) {
	noLeak(t)
	p := newTestProxy(t)
	_, port, _ := net.SplitHostPort(p.addr)
	fakeDNS(t, map[string][]string{"proxy.test": {"::1", "127.0.0.1"}, "nobody.test": {"::1"}})
	proxy := rpcx.SOCKSProxy{Addr: "proxy.test:" + port}
	addr, _ := serveSessions(t, nil)
	conn, err := proxy.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.(*rpcx.SOCKSConn).ProxyAddr().String(); got != p.addr {
		t.Errorf("the proxy is at %s, want %s", got, p.addr)
	}
	proxy.Addr = "nobody.test:" + port
	var op *net.OpError
	if _, err := proxy.DialContext(t.Context(), "tcp", addr); !errors.As(err, &op) || op.Source.String() != proxy.Addr || op.Addr.String() != addr {
		t.Errorf("got %v", err)
	}
}

func TestSOCKSRefusalsCanBeToldApart(t *testing.T) {
	p := newTestProxy(t)
	for _, c := range []struct {
		name    string
		version rpcx.SOCKSVersion
		code    byte
		text    string
	}{
		{"by version 4", rpcx.SOCKS4, 91, "request rejected or failed"},
		{"by version 4a", rpcx.SOCKS4a, 93, "different user-ids"},
		{"by version 5", rpcx.SOCKS5, 5, "connection refused"},
		{"Tor's first", rpcx.SOCKS5, 0xF0, "onion service descriptor not found"},
		{"Tor's last", rpcx.SOCKS5, 0xF7, "onion service introduction timed out"},
		{"an unknown one", rpcx.SOCKS5, 0xF8, "unknown SOCKS5 error code: 248"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.answer = func(string) (byte, string) { return c.code, "" }
			proxy := rpcx.SOCKSProxy{Addr: p.addr, Version: c.version}
			_, err := proxy.DialContext(t.Context(), "tcp", "192.0.2.1:81")
			matches(t, err, rpcx.ErrSOCKSFailure)
			matchesNot(t, err, rpcx.ErrSOCKSProtocol)
			refusal, ok := errors.AsType[*rpcx.SOCKSError](err)
			if !ok || refusal.Reply != int(c.code) || refusal.Version != c.version || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v", err)
			}
			if !strings.Contains(err.Error(), p.addr+"->192.0.2.1:81") {
				t.Errorf("the error does not tell from where to where: %v", err)
			}
		})
	}
}

func TestSOCKSCredentialsForIsolation(t *testing.T) {
	noLeak(t)
	addr, _ := serveSessions(t, nil)
	for _, c := range []struct {
		name     string
		auth     rpcx.SOCKSAuth
		distinct int // of two dials to each of two hosts, and one to another port
	}{
		{"fresh for every dial", rpcx.SOCKSRandomAuth{}, 5},
		{"by destination", rpcx.SOCKSDestinationAuth{}, 3},
		{"the same for all", rpcx.SOCKSUserAuth{Username: "u", Password: "p"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newTestProxy(t)
			p.answer = func(string) (byte, string) { return 0, addr }
			proxy := rpcx.SOCKSProxy{Addr: p.addr, Auth: c.auth}
			for _, dest := range []string{"a.test:1", "b.test:1", "a.test:1", "b.test:1", "a.test:2"} {
				conn, err := proxy.DialContext(t.Context(), "tcp", dest)
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
			}
			users := make(map[string]bool)
			for _, request := range p.requests() {
				users[strings.Fields(request)[1]] = true
			}
			if len(users) != c.distinct {
				t.Errorf("%d users, want %d: %v", len(users), c.distinct, users)
			}
		})
	}
}

func TestSOCKSCarriesSessions(t *testing.T) {
	noLeak(t)
	serverTLS, clientTLS := certificate(t)
	for name, config := range map[string]*tls.Config{"tcp": nil, "tls": serverTLS} {
		t.Run(name, func(t *testing.T) {
			addr, _ := serveSessions(t, config)
			p := newTestProxy(t)
			p.answer = func(string) (byte, string) { return 0, addr }
			proxy := &rpcx.SOCKSProxy{Addr: p.addr}
			for _, d := range []rpcx.Dialer{
				{TLS: clientTLS, SOCKS: proxy},
				{TLS: clientTLS, DialContext: proxy.DialContext},
			} {
				s, err := d.Dial(t.Context(), name+"://"+"example.com:443", nil) // as the certificate says
				if err != nil {
					t.Fatal(err)
				}
				answers(t, s)
				if s.SOCKS() != proxy || s.RemoteAddr().String() != "example.com:443" {
					t.Errorf("it goes to %v, through %v", s.RemoteAddr(), s.SOCKS())
				}
				s.Close()
				<-s.Done()
			}
		})
	}
}

// Proxies can be chained, and the connection to the first be anything.
func TestSOCKSThroughAnotherProxy(t *testing.T) {
	noLeak(t)
	addr, _ := serveSessions(t, nil)
	first, second := newTestProxy(t), newTestProxy(t)
	first.answer = func(string) (byte, string) { return 0, second.addr }
	second.answer = func(string) (byte, string) { return 0, addr }
	outer := &rpcx.SOCKSProxy{Addr: first.addr}
	inner := &rpcx.SOCKSProxy{Addr: "second.test:1", Version: rpcx.SOCKS4a}
	for _, d := range []rpcx.Dialer{
		{SOCKS: inner, DialContext: outer.DialContext},
		{SOCKS: &rpcx.SOCKSProxy{Addr: inner.Addr, Version: inner.Version, Dial: outer.DialContext}, DialContext: neverAnswers},
	} {
		s, err := d.Dial(t.Context(), "tcp://a.test:2", nil)
		if err != nil {
			t.Fatal(err)
		}
		answers(t, s)
		s.Close()
		<-s.Done()
		got := fmt.Sprint(first.requests(), second.requests())
		if got != "[SOCKS5 second.test:1] [SOCKS4 a.test:2]" {
			t.Errorf("asked for %s", got)
		}
	}
}

// A proxy can be on a unix socket, as Tor's can, of which nobody on the network knows.
func TestSOCKSProxyOnAUnixSocket(t *testing.T) {
	noLeak(t)
	addr, _ := serveSessions(t, nil)
	path := filepath.Join(t.TempDir(), "my socks")
	p := newTestProxyAt(t, "unix", path)
	p.answer = func(string) (byte, string) { return 0, addr }
	parsed, err := rpcx.ParseSOCKSProxy("socks4a+unix://" + strings.ReplaceAll(path, " ", "%20"))
	if err != nil {
		t.Fatal(err)
	}
	var dialled []string
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled = append(dialled, network+" "+addr)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	for name, c := range map[string]struct {
		dialer  rpcx.Dialer
		asked   string
		dialled int
	}{
		"by its address":      {rpcx.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: "unix://" + path}}, "SOCKS5 a.test:2", 0},
		"by a URL":            {rpcx.Dialer{SOCKS: parsed}, "SOCKS4 a.test:2", 0},
		"with DialContext":    {rpcx.Dialer{SOCKS: parsed, DialContext: dial}, "SOCKS4 a.test:2", 1},
		"with Dial":           {rpcx.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: "unix://" + path, Dial: dial}}, "SOCKS5 a.test:2", 1},
		"with a user":         {rpcx.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: "unix://" + path, Auth: rpcx.SOCKSUserAuth{Username: "u"}}}, "SOCKS5 u: a.test:2", 0},
		"with local look-ups": {rpcx.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: "UNIX://" + path, ResolveLocally: true}}, "SOCKS5 192.0.2.1:2", 0},
	} {
		t.Run(name, func(t *testing.T) {
			fakeDNS(t, map[string][]string{"a.test": {"192.0.2.1"}})
			dialled = nil
			s, err := c.dialer.Dial(t.Context(), "tcp://a.test:2", nil)
			if err != nil {
				t.Fatal(err)
			}
			answers(t, s)
			if got := p.requests(); len(got) != 1 || got[0] != c.asked {
				t.Errorf("asked for %q, want %q", got, c.asked)
			}
			if got := s.NetConn().(*rpcx.SOCKSConn).ProxyAddr(); got.Network() != "unix" || got.String() != path {
				t.Errorf("the proxy is at %v %v", got.Network(), got)
			}
			if len(dialled) != c.dialled || c.dialled > 0 && dialled[0] != "unix "+path {
				t.Errorf("dialled %q", dialled)
			}
			s.Close()
			<-s.Done()
		})
	}
	t.Run("it is detected", func(t *testing.T) {
		if found := rpcx.DetectSOCKS(t.Context(), "unix://"+path, nil); found == nil || found.Addr != "unix://"+path || found.Version != rpcx.SOCKS5 {
			t.Errorf("found %v", found)
		}
		if found := rpcx.DetectSOCKS(t.Context(), "unix://"+path+"x", nil); found != nil {
			t.Errorf("where nobody listens: found %v", found)
		}
	})
	t.Run("a refusal names it", func(t *testing.T) {
		p.answer = func(string) (byte, string) { return 5, "" }
		_, err := (&rpcx.SOCKSProxy{Addr: "unix://" + path}).DialContext(t.Context(), "tcp", "a.test:2")
		if !errors.Is(err, rpcx.ErrSOCKSFailure) || !strings.Contains(err.Error(), path+"->a.test:2") {
			t.Errorf("got %v", err)
		}
	})
	if runtime.GOOS == "linux" {
		t.Run("without a file", func(t *testing.T) {
			name := fmt.Sprintf("@rpcx/%d/%s", os.Getpid(), t.Name())
			p := newTestProxyAt(t, "unix", name)
			p.answer = func(string) (byte, string) { return 0, addr }
			parsed, err := rpcx.ParseSOCKSProxy("unix://" + name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := (&rpcx.Dialer{SOCKS: parsed}).Dial(t.Context(), "tcp://a.test:2", nil)
			if err != nil {
				t.Fatal(err)
			}
			answers(t, s)
			s.Close()
			<-s.Done()
		})
	}
	for _, addr := range []string{"unix://", "tcp://127.0.0.1:1", "tls://127.0.0.1:1", "ws://127.0.0.1:1", "other:///path"} {
		proxy := rpcx.SOCKSProxy{Addr: addr}
		if _, err := proxy.DialContext(t.Context(), "tcp", "a.test:2"); err == nil || !strings.Contains(err.Error(), "address of the SOCKS proxy") {
			t.Errorf("the address %s: %v", addr, err)
		}
	}
}

func TestSOCKSProxyURLs(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"socks5://127.0.0.1:9050", "SOCKS5 proxy at 127.0.0.1:9050, auth: none"},
		{"SOCKS5H://proxy.test", "SOCKS5 proxy at proxy.test:1080, auth: none"},
		{"socks4://[::1]:1/", "SOCKS4 proxy at [::1]:1, auth: none"},
		{"socks4a://user@proxy.test:2", "SOCKS4a proxy at proxy.test:2, auth: username"},
		{"socks5://us%40er:pass@proxy.test", "SOCKS5 proxy at proxy.test:1080, auth: username"},
		{"socks://127.0.0.1:9050", "SOCKS5 proxy at 127.0.0.1:9050, auth: none"},
		{"Socks://proxy.test", "SOCKS5 proxy at proxy.test:1080, auth: none"},
		{"socks5://user@proxy.test", "SOCKS5 proxy at proxy.test:1080, auth: username"},
		{"socks://user:@proxy.test", "SOCKS5 proxy at proxy.test:1080, auth: username"},
		{"socks5://@proxy.test", "SOCKS5 proxy at proxy.test:1080, auth: none"},
		{"socks5://:@proxy.test", "SOCKS5 proxy at proxy.test:1080, auth: none"},
		{"socks5+unix:///run/tor/socks", "SOCKS5 proxy at unix:///run/tor/socks, auth: none"},
		{"socks+unix:///s", "SOCKS5 proxy at unix:///s, auth: none"},
		{"SOCKS5H+UNIX:///run/My%20Proxy", "SOCKS5 proxy at unix:///run/My Proxy, auth: none"},
		{"socks4a+unix://user@/run/tor/socks", "SOCKS4a proxy at unix:///run/tor/socks, auth: username"},
		{"socks4+unix:///run/tor/socks", "SOCKS4 proxy at unix:///run/tor/socks, auth: none"},
		{"unix:///run/tor/socks", "SOCKS5 proxy at unix:///run/tor/socks, auth: none"},
		{"unix://@name", "SOCKS5 proxy at unix://@name, auth: none"},
		{"Socks4a+Unix://@my%20name/of", "SOCKS4a proxy at unix://@my name/of, auth: none"},
		{"socks5+unix://user:pass@@name", "SOCKS5 proxy at unix://@name, auth: username"},
		{"unix:///@name", "SOCKS5 proxy at unix:///@name, auth: none"},
		{"unix://user:pass@/run/tor/socks", "SOCKS5 proxy at unix:///run/tor/socks, auth: username"},
	} {
		p, err := rpcx.ParseSOCKSProxy(c.url)
		if err != nil || p.String() != c.want || p.ResolveLocally {
			t.Errorf("%s: got %v, %v", c.url, p, err)
		}
	}
	p, err := rpcx.ParseSOCKSProxy("socks5://us%40er:se%3Acret@proxy.test:1")
	if err != nil || p.Auth != (rpcx.SOCKSUserAuth{Username: "us@er", Password: "se:cret"}) {
		t.Fatalf("got %v, %v", p.Auth, err)
	}
	p, err = rpcx.ParseSOCKSProxy("socks5://us%40er@proxy.test")
	if err != nil || p.Auth != (rpcx.SOCKSUserAuth{Username: "us@er"}) {
		t.Errorf("without a password: got %v, %v", p.Auth, err)
	}
	p, err = rpcx.ParseSOCKSProxy("socks5+unix://us%40er:se%3Acret@/path")
	if err != nil || p.Auth != (rpcx.SOCKSUserAuth{Username: "us@er", Password: "se:cret"}) {
		t.Fatalf("at a path: got %v, %v", p.Auth, err)
	}
	if text := fmt.Sprintf("%v %+v %v %v", p, *p, *p, p.Auth); strings.Contains(text, "cret") {
		t.Errorf("the password is in %s", text)
	}
	for name, url := range map[string]string{
		"no scheme":             "secret@127.0.0.1:9050",
		"no host":               "socks5://:9050",
		"another scheme":        "http://u:secret@127.0.0.1:9050",
		"a path":                "socks5://u:secret@127.0.0.1:9050/path",
		"a query":               "socks5://u:secret@127.0.0.1:9050?a",
		"no user's name":        "socks5://:secret@127.0.0.1:9050",
		"a user and no host":    "socks5://u:secret@",
		"unix and a host":       "socks5+unix://u:secret@localhost/path",
		"unix and no path":      "socks5+unix://u:secret@/",
		"unix and a query":      "socks5+unix:///path?secret",
		"unix without slashes":  "unix:secret",
		"unix and no name":      "socks5+unix://u:secret@@",
		"unix, @, and nothing":  "unix://@",
		"unix twice":            "unix+unix://u:secret@/path",
		"a password too long":   "socks5://user:secret" + strings.Repeat("x", 250) + "@127.0.0.1:9050",
		"a port that is none":   "socks5://u:secret@127.0.0.1:0",
		"a password for a port": "socks5://u:secret",
		"a zero in the name":    "socks4a://u%00secret@127.0.0.1",
		"nothing":               "",
	} {
		if p, err := rpcx.ParseSOCKSProxy(url); err == nil || strings.Contains(err.Error(), "secret") && name != "a zero in the name" {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
}

// testProxy is a SOCKS proxy that does as it is told, and remembers what it was
// asked for.
type testProxy struct {
	t    *testing.T
	addr string
	// answer returns the reply code for a destination, and where to connect to
	// instead if it is not empty. Nil connects to the destination.
	answer func(dest string) (code byte, instead string)
	// greeting is sent to whoever is connected, together with the last reply.
	greeting string

	wg    sync.WaitGroup
	mu    sync.Mutex
	asked []string // "SOCKS5 user:password example.org:80"
}

func newTestProxy(t *testing.T) *testProxy {
	t.Helper()
	return newTestProxyAt(t, "tcp", "127.0.0.1:0")
}

// newTestProxyAt listens on an address, or on a path if the network is "unix".
func newTestProxyAt(t *testing.T, network, addr string) *testProxy {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &testProxy{t: t, addr: l.Addr().String()}
	// Owner: the test. End: the listener is closed.
	p.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// Owner: the proxy. End: both sides of the connection have ended.
			p.wg.Go(func() {
				defer conn.Close()
				p.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.wg.Wait()
	})
	return p
}

// requests returns what was asked for since the last time.
func (p *testProxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

func (p *testProxy) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	version, user, dest, err := readSOCKSRequest(r, conn)
	if err != nil {
		return // it has hung up
	}
	p.mu.Lock()
	p.asked = append(p.asked, strings.Join(strings.Fields(version+" "+user+" "+dest), " "))
	p.mu.Unlock()
	code, to := byte(0), dest
	if p.answer != nil {
		var instead string
		if code, instead = p.answer(dest); instead != "" {
			to = instead
		}
	}
	reply := []byte{5, code, 0, 3, 4, 'h', 'o', 's', 't', 0, 80}
	if version == "SOCKS4" {
		reply = []byte{0, code, 1, 2, 3, 4, 5, 6}
		if code == 0 {
			reply[1] = 90
		}
	}
	if code != 0 {
		conn.Write(reply)
		return
	}
	far, err := net.Dial("tcp", to)
	if err != nil {
		p.t.Errorf("the proxy cannot connect to %s: %v", to, err)
		return
	}
	defer far.Close()
	conn.Write(append(reply, p.greeting...))
	// Owner: this call. End: the client has hung up.
	p.wg.Go(func() {
		io.Copy(far, r)
		far.(*net.TCPConn).CloseWrite()
	})
	io.Copy(conn, far)
}

// readSOCKSRequest reads the request of a client, of any version, as far as its
// destination.
func readSOCKSRequest(r *bufio.Reader, w io.Writer) (version, user, dest string, err error) {
	read := func(n int) []byte {
		b := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(r, b)
		}
		return b
	}
	text := func() string { return string(read(int(read(1)[0]))) }
	if read(1)[0] == 4 {
		head := read(7)
		user, _ := r.ReadString(0)
		host := netip.AddrFrom4([4]byte(head[3:])).String()
		if strings.HasPrefix(host, "0.0.0.") {
			host, _ = r.ReadString(0)
		}
		port := strconv.Itoa(int(binary.BigEndian.Uint16(head[1:])))
		return "SOCKS4", strings.Trim(user, "\x00"), net.JoinHostPort(strings.Trim(host, "\x00"), port), err
	}
	methods := text()
	method := methods[len(methods)-1]
	w.Write([]byte{5, method})
	if method == 2 {
		read(1)
		user = text()
		user += ":" + text()
		w.Write([]byte{1, 0})
	}
	var host string
	switch read(4)[3] {
	case 1:
		host = netip.AddrFrom4([4]byte(read(4))).String()
	case 3:
		host = text()
	case 4:
		host = netip.AddrFrom16([16]byte(read(16))).String()
	}
	port := strconv.Itoa(int(binary.BigEndian.Uint16(read(2))))
	return "SOCKS5", user, net.JoinHostPort(host, port), err
}

// resolverDial is the dial of the default resolver, from TestMain on: package net
// may look at that variable after a look-up, when a test would set it again.
var resolverDial atomic.Pointer[func(ctx context.Context, network, addr string) (net.Conn, error)]

func setResolver() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dial := resolverDial.Load(); dial != nil {
			return (*dial)(ctx, network, addr)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
}

// fakeDNS makes the default resolver ask a server that knows the hosts given, and
// returns what tells the names that were asked for since the last time. Nothing
// else is asked for until the test ends.
func fakeDNS(t *testing.T, hosts map[string][]string) (asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var names []string
	dial := func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		// Owner: the resolver. End: it closes its end.
		go func() {
			defer far.Close()
			for {
				// As near is no PacketConn, a message has its length before it.
				var length [2]byte
				if _, err := io.ReadFull(far, length[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(far, query); err != nil {
					return
				}
				name, reply := answerDNS(query, hosts)
				mu.Lock()
				names = append(names, name)
				mu.Unlock()
				far.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
			}
		}()
		return near, nil
	}
	resolverDial.Store(&dial)
	t.Cleanup(func() { resolverDial.Store(nil) })
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		asked := names
		names = nil
		return asked
	}
}

// answerDNS answers a query for the addresses of a name. (RFC 1035: a header of
// 12 bytes, the question, and here an answer for each address.)
func answerDNS(query []byte, hosts map[string][]string) (name string, reply []byte) {
	end := 12
	for query[end] != 0 {
		label := query[end+1 : end+1+int(query[end])]
		name += string(label) + "."
		end += 1 + len(label)
	}
	question := query[12 : end+5] // with type and class
	kind := binary.BigEndian.Uint16(question[len(question)-4:])
	var answers []byte
	count := 0
	for _, host := range hosts[strings.TrimSuffix(name, ".")] {
		ip := netip.MustParseAddr(host)
		if kind == 1 && ip.Is4() || kind == 28 && ip.Is6() {
			count++
			answers = append(answers, 0xC0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(ip.BitLen()/8))
			answers = append(answers, ip.AsSlice()...)
		}
	}
	reply = append(reply, query[0], query[1], 0x85, 0x80, 0, 1, 0, byte(count), 0, 0, 0, 0)
	if len(hosts[strings.TrimSuffix(name, ".")]) == 0 {
		reply[3] |= 3 // no such name
	}
	return name, append(append(reply, question...), answers...)
}

func TestFakeDNS(t *testing.T) {
	asked := fakeDNS(t, map[string][]string{"a.test": {"192.0.2.1", "2001:db8::1"}})
	ips, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", "a.test")
	if err != nil || len(ips) != 2 || !strings.Contains(fmt.Sprint(asked()), "a.test.") {
		t.Errorf("got %v, %v", ips, err)
	}
	if ips, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", "b.test"); err == nil {
		t.Errorf("got %v for a name that is not there", ips)
	}
}

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

// silentProxy accepts, reads and says what it is told, and no more. hungUp is
// closed when the client has hung up.
func silentProxy(says string) (proxy *rpcx.SOCKSProxy, hungUp chan struct{}) {
	hungUp = make(chan struct{})
	return &rpcx.SOCKSProxy{Addr: "127.0.0.1:1", Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		// Owner: the test. End: the client hangs up.
		go func() {
			defer close(hungUp)
			defer far.Close()
			far.Read(make([]byte, 100))
			io.WriteString(far, says)
			io.Copy(io.Discard, far)
		}()
		return near, nil
	}}, hungUp
}

func TestSOCKSIsBoundedByTheContext(t *testing.T) {
	cause := errors.New("enough")
	for name, says := range map[string]string{
		"the greeting":      "",
		"half a greeting":   "\x05",
		"the reply":         "\x05\x00",
		"half of a reply":   "\x05\x00\x05\x00\x00\x03\x20abc",
		"the last of it":    "\x05\x00\x05\x00\x00\x01\x01\x02\x03\x04\x00",
		"a reply so slowly": "\x05\x00\x05\x00",
	} {
		synctest.Test(t, func(t *testing.T) {
			proxy, hungUp := silentProxy(says)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			takes(t, time.Minute, func() {
				_, err := proxy.DialContext(ctx, "tcp", "a.test:1")
				matches(t, err, context.DeadlineExceeded)
				if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
					t.Errorf("%s: %v is no timeout", name, err)
				}
			})
			<-hungUp
		})
		synctest.Test(t, func(t *testing.T) {
			proxy, hungUp := silentProxy(says)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(cause) })
			takes(t, time.Second, func() {
				_, err := proxy.DialContext(ctx, "tcp", "a.test:1")
				matches(t, err, cause)
			})
			<-hungUp
		})
	}
}

// Whatever the dial is waiting for when its context ends, the error is the cause.
func TestSOCKSFailsWithTheCauseAtEveryStage(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	silent, _ := silentProxy("")
	for name, c := range map[string]struct {
		proxy rpcx.SOCKSProxy
		addr  string
	}{
		"looking up the proxy":       {rpcx.SOCKSProxy{Addr: "proxy.test:1"}, "a.test:1"},
		"looking up the destination": {rpcx.SOCKSProxy{Addr: "127.0.0.1:1", ResolveLocally: true}, "a.test:1"},
		"connecting to the proxy":    {rpcx.SOCKSProxy{Addr: "127.0.0.1:1"}, "a.test:1"},
		"connecting in another way":  {rpcx.SOCKSProxy{Addr: "127.0.0.1:1", Dial: neverAnswers}, "a.test:1"},
		"the handshake":              {*silent, "a.test:1"},
	} {
		if _, err := c.proxy.DialContext(ctx, "tcp", c.addr); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// foreignContext is one of which package context knows nothing: it needs a
// goroutine to hear of its end.
type foreignContext struct {
	context.Context
	done chan struct{}
}

func (c foreignContext) Done() <-chan struct{} { return c.done }

func TestSOCKSLeavesNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var far net.Conn
		proxy := rpcx.SOCKSProxy{Addr: "127.0.0.1:1", Dial: func(context.Context, string, string) (net.Conn, error) {
			var near net.Conn
			near, far = net.Pipe()
			// Owner: the test. End: the handshake is over.
			go func() {
				io.ReadFull(far, make([]byte, 3))
				io.WriteString(far, "\x05\x00")
				io.ReadFull(far, make([]byte, 13))
				io.WriteString(far, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
			}()
			return near, nil
		}}
		conn, err := proxy.DialContext(foreignContext{t.Context(), make(chan struct{})}, "tcp", "a.test:1")
		if err != nil || conn.RemoteAddr().String() != "a.test:1" {
			t.Fatal(err)
		}
		// The connection is open, and the context has not ended: a goroutine that
		// is left now cannot end, which the bubble reports.
		far.SetDeadline(time.Time{})
	})
}
