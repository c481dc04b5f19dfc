package rpcx_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

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
