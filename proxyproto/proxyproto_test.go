package proxyproto_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pp "github.com/pires/go-proxyproto"

	"example.com/rpcx"
	"example.com/rpcx/proxyproto"
)

// setUp runs a server in a bubble, behind the proxies of config.
func setUp(t *testing.T, config *proxyproto.Config) (*rpcx.Server, *pipes, *logBuffer) {
	log := &logBuffer{}
	srv := &rpcx.Server{Preamble: config.Preamble, Options: rpcx.Options{Handler: methods(), Logger: log.logger()}}
	l := newPipes()
	return srv, l, log
}

func TestSessionsHaveTheAddressesOfTheHeader(t *testing.T) {
	for _, c := range []struct{ name, header, who, group string }{
		{"version 1, IPv4", string(header(1, "203.0.113.7:1000")), "203.0.113.7:1000 at 192.0.2.1:443", "203.0.113.0/24"},
		{"version 1, IPv6", string(header(1, "[2001:db8:1::7]:1000")), "[2001:db8:1::7]:1000 at [2001:db8::1]:443", "2001:db8:1::/64"},
		{"version 2, IPv4", string(header(2, "203.0.113.7:1000")), "203.0.113.7:1000 at 192.0.2.1:443", "203.0.113.0/24"},
		{"version 2, IPv6", string(header(2, "[2001:db8:1::7]:1000")), "[2001:db8:1::7]:1000 at [2001:db8::1]:443", "2001:db8:1::/64"},
		{"version 2, with TLVs", string(header(2, "203.0.113.7:1000", pp.TLV{Type: pp.PP2_TYPE_UNIQUE_ID, Value: make([]byte, 100)})), "203.0.113.7:1000 at 192.0.2.1:443", "203.0.113.0/24"},
		{"IPv4 in the form of IPv6", "PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 1000 443\r\n", "203.0.113.7:1000 at 192.0.2.1:443", "203.0.113.0/24"},
		{"a client of the proxy's machine", "PROXY TCP4 192.0.2.10 192.0.2.1 4001 8888\r\n", "192.0.2.10:4001 at 192.0.2.1:8888", "192.0.2.0/24"},
		{"a client of the proxy's port", "PROXY TCP4 192.0.2.10 192.0.2.1 4000 443\r\n", "192.0.2.10:4000 at 192.0.2.1:443", "192.0.2.0/24"},
		{"version 2, the proxy as its own client", ownHeader(), "192.0.2.10:4000 at 192.0.2.1:8888", "192.0.2.0/24"},
		{"version 2, a unix socket", unixHeader(), "/client at /frontend", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, l, log := setUp(t, &proxyproto.Config{Proxies: prefixes("192.0.2.10/32")})
				serve(t, srv, l)
				conn := l.dial(theProxy)
				io.WriteString(conn, c.header)
				s := rpcx.NewSession(conn, nil)
				if got := ask(t, s, "who"); got != c.who {
					t.Errorf("the addresses are %s, want %s", got, c.who)
				}
				if got := ask(t, s, "group"); got != c.group {
					t.Errorf("the group is %q, want %q", got, c.group)
				}
				s.Close()
				<-s.Done()
				synctest.Wait()
				expectLog(t, log, "")
			})
		})
	}
}

// unixHeader returns a header of version 2 for a client of a unix socket.
func unixHeader() string {
	h := pp.HeaderProxyFromAddrs(2, &net.UnixAddr{Net: "unix", Name: "/client"}, &net.UnixAddr{Net: "unix", Name: "/frontend"})
	text, err := h.Format()
	if err != nil {
		panic(err)
	}
	return string(text)
}

// ownHeader returns a header of version 2 in which the proxy is the client. Version 2 has
// LOCAL for health checks, so such a client is one.
func ownHeader() string {
	text, err := pp.HeaderProxyFromAddrs(2, theProxy, newPipes().Addr()).Format()
	if err != nil {
		panic(err)
	}
	return string(text)
}

// What follows the header in the same write is for the session.
func TestNoByteBehindTheHeaderIsRead(t *testing.T) {
	for _, version := range []byte{1, 2} {
		here, there := net.Pipe()
		defer here.Close()
		config := &proxyproto.Config{Proxies: prefixes("192.0.2.10/32")}
		message := "the first message"
		sent := make(chan error, 1)
		// Owner: the test. End: all is read, or the pipe is closed.
		go func() {
			_, err := here.Write(append(header(version, "203.0.113.7:1000"), message...))
			sent <- err
		}()
		conn, err := config.Preamble(t.Context(), rpcx.WithAddrs(there, theProxy, nil))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(message))
		if _, err := io.ReadFull(conn, got); string(got) != message || err != nil {
			t.Errorf("behind the header is %q, %v", got, err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		conn.Close()
	}
}

// Who may send a header is decided by the source address, before anything is read.
func TestTheSourceAddressDecides(t *testing.T) {
	proxied, direct, refused := "203.0.113.7:1000 at 192.0.2.1:443", "itself", ""
	all := proxyproto.Config{Proxies: prefixes("192.0.2.10/32", "2001:db8::/32"), UnixProxy: true}
	ipv6 := &net.TCPAddr{IP: net.ParseIP("2001:db8::10"), Zone: "eth0"}
	mapped := &net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.10")}
	unix := &net.UnixAddr{Net: "unix", Name: "@"}
	for name, c := range map[string]struct {
		config proxyproto.Config
		from   net.Addr
		want   string
		log    string
	}{
		"the zero value, over TCP":                {proxyproto.Config{}, theProxy, refused, "192.0.2.10 is no listed proxy: add it to Proxies, or set Direct"},
		"the zero value, over a unix socket":      {proxyproto.Config{}, unix, refused, "set UnixProxy to make it one, or Direct"},
		"the zero value, over anything else":      {proxyproto.Config{}, pipeAddr{}, refused, "the peer has no IP address (pipe), and so is no proxy: set Direct"},
		"a listed proxy":                          {all, theProxy, proxied, ""},
		"a listed network":                        {all, ipv6, proxied, ""},
		"IPv4 in the form of IPv6":                {all, mapped, proxied, ""},
		"a listed address in the form of IPv6":    {proxyproto.Config{Proxies: prefixes("::ffff:192.0.2.0/120")}, theProxy, proxied, ""},
		"all of IPv6, and a peer of IPv4":         {proxyproto.Config{Proxies: prefixes("::/0")}, theProxy, refused, "is no listed proxy"},
		"the address of a foreign connection":     {all, otherAddr("192.0.2.10:4000"), proxied, ""},
		"a peer that is not listed":               {all, stranger, refused, "198.51.100.66 is no listed proxy"},
		"a peer that is not listed, with Direct":  {proxyproto.Config{Direct: true}, stranger, direct, ""},
		"a unix socket that is a proxy":           {all, unix, proxied, ""},
		"a unix socket that is none, with Direct": {proxyproto.Config{Direct: true}, unix, direct, ""},
		"a pipe, with Direct":                     {proxyproto.Config{Direct: true}, pipeAddr{}, direct, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, l, log := setUp(t, &c.config)
				serve(t, srv, l)
				conn := l.dial(c.from)
				if c.want == refused {
					if n, err := conn.Write(header(2, "203.0.113.7:1000")); n != 0 || err == nil {
						t.Errorf("%d bytes are read, %v", n, err)
					}
					synctest.Wait()
					expectLog(t, log, c.log)
					return
				}
				if c.want == proxied {
					conn.Write(header(1, "203.0.113.7:1000"))
				}
				s := rpcx.NewSession(conn, nil)
				if c.want == direct {
					c.want = c.from.String() + " at " + l.Addr().String()
				}
				if got := ask(t, s, "who"); got != c.want {
					t.Errorf("the addresses are %s, want %s", got, c.want)
				}
				if got, err := rpcx.Call[[]int](t.Context(), s, "header", nil); (got == nil) != c.config.Direct || err != nil {
					t.Errorf("the header is %v, %v", got, err)
				}
				s.Close()
				<-s.Done()
				synctest.Wait()
				expectLog(t, log, "")
			})
		})
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// otherAddr is an address of a type that nobody knows.
type otherAddr string

func (otherAddr) Network() string  { return "tcp" }
func (a otherAddr) String() string { return string(a) }

// Health checks of proxies, in all their forms, cost nobody anything: no session, no group,
// no refusal, no record in the log.
func TestHealthChecksCostNothing(t *testing.T) {
	local, err := (&pp.Header{Version: 2, Command: pp.LOCAL}).Format()
	if err != nil {
		t.Fatal(err)
	}
	addressed := header(2, "203.0.113.7:1000")
	addressed[12] = 0x20 // LOCAL; its addresses mean nothing
	for name, said := range map[string][]byte{
		"LOCAL":                         local,
		"LOCAL with addresses":          addressed,
		"UNKNOWN":                       []byte("PROXY UNKNOWN\r\n"),
		"UNKNOWN with more":             []byte("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"),
		"the proxy as its own client":   []byte("PROXY TCP4 192.0.2.10 192.0.2.1 4000 8888\r\n"),
		"a connection and nothing else": nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, l, log := setUp(t, &proxyproto.Config{Proxies: prefixes("192.0.2.0/24")})
				srv.MaxGroup = 1
				srv.Options.Limits.Group = func(s *rpcx.Session) string { t.Error("a group is asked for"); return "all" }
				srv.OnSession = func(*rpcx.Session) { t.Error("there is a session") }
				serve(t, srv, l)
				for range 1000 {
					conn := l.dial(theProxy)
					if said == nil {
						conn.Close()
					} else if _, err := conn.Write(said); err != nil {
						t.Fatal(err)
					} else if !isClosed(conn) {
						t.Fatal("the connection is open")
					}
				}
				synctest.Wait()
				if got := srv.Stats(); got.Sessions != 0 || got.Handshakes != 0 || len(got.Refused) != 0 || got.LogRecordsLeftOut != 0 {
					t.Errorf("stats are %+v", got)
				}
				expectLog(t, log, "")
			})
		})
	}
}

// What listed proxies must not send is refused at the first byte that is wrong, and the
// record says why.
func TestBadHeadersAreRefused(t *testing.T) {
	good := header(2, "203.0.113.7:1000")
	change := func(at int, b byte) string {
		bad := bytes.Clone(good)
		bad[at] = b
		return string(bad)
	}
	big := header(2, "203.0.113.7:1000", pp.TLV{Type: pp.PP2_TYPE_MIN_CUSTOM, Value: make([]byte, 60000)})
	tenMB := append(bytes.Clone(big[:16]), make([]byte, 10_000_000)...)
	edge := header(2, "203.0.113.7:1000", pp.TLV{Type: pp.PP2_TYPE_MIN_CUSTOM, Value: make([]byte, 536-16-12-3)})
	over := header(2, "203.0.113.7:1000", pp.TLV{Type: pp.PP2_TYPE_MIN_CUSTOM, Value: make([]byte, 536-16-12-2)})
	none := "the proxy has sent none: configure it to (in HAProxy, send-proxy-v2"
	for name, c := range map[string]struct {
		config proxyproto.Config
		say    string
		read   int    // bytes
		log    string // "": the header is good
	}{
		"none, but JSON":            {say: `{"jsonrpc":"2.0","method":"who","id":1}`, read: 1, log: none},
		"none, but TLS":             {say: "\x16\x03\x01\x02\x00\x01", read: 1, log: none},
		"none, but HTTP":            {say: "POST / HTTP/1.1\r\n", read: 2, log: none},
		"none, but blank lines":     {say: strings.Repeat("\r\n", 50), read: 16, log: none},
		"another word":              {say: "PROXYv1 TCP4 1.2.3.4 1.2.3.4 1 1\r\n", read: 6, log: none},
		"no end of line":            {say: "PROXY " + strings.Repeat("x", 1000), read: 107, log: "no end of line within 107 bytes"},
		"another end of line":       {say: "PROXY TCP4 203.0.113.7 192.0.2.1 1000 443\n", read: 42, log: "must end with"},
		"no addresses":              {say: "PROXY TCP4\r\n", read: 12, log: "address family"},
		"a wrong address":           {say: "PROXY TCP4 203.0.113.777 192.0.2.1 1000 443\r\n", read: 45, log: "invalid address"},
		"an address with a zone":    {say: "PROXY TCP6 fe80::1%eth0 fe80::2 1000 443\r\n", read: 42, log: "invalid address"},
		"a wrong port":              {say: "PROXY TCP4 203.0.113.7 192.0.2.1 100000 443\r\n", read: 45, log: "invalid port"},
		"another version":           {say: change(12, 0x31), read: 28, log: "unsupported proxy protocol version"},
		"another command":           {say: change(12, 0x22), read: 28, log: "unsupported proxy protocol version and command"},
		"another family":            {say: change(13, 0x41), read: 28, log: "unsupported address family"},
		"a client without family":   {say: change(13, 0), read: 28, log: "unsupported address family"},
		"too short for addresses":   {say: change(15, 11), read: 27, log: "invalid length"},
		"10 MB of TLVs":             {say: string(tenMB), read: 16, log: "60031 bytes with its TLVs, over 536 bytes (proxyproto.Config.MaxSize)"},
		"536 bytes":                 {say: string(edge), read: 536},
		"537 bytes":                 {say: string(over), read: 16, log: "537 bytes with its TLVs, over 536 bytes (proxyproto.Config.MaxSize)"},
		"a limit of one's own":      {config: proxyproto.Config{MaxSize: 537}, say: string(over), read: 537},
		"a small limit":             {config: proxyproto.Config{MaxSize: 20}, say: string(good), read: 16, log: "28 bytes with its TLVs, over 20 bytes"},
		"no limit of ours":          {config: proxyproto.Config{MaxSize: -1}, say: string(big), read: 16, log: "60031 bytes with its TLVs, over 4112 bytes (MaxV2HeaderSize of go-proxyproto, and 16)"},
		"an end within version 1":   {say: "PROXY TCP4 203", read: 14, log: "unexpected EOF"},
		"an end within version 2":   {say: string(good[:20]), read: 20, log: "unexpected EOF"},
		"an end within the first 3": {say: "\r\n\r", read: 3, log: "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.config.Proxies = prefixes("192.0.2.0/24")
				srv, l, log := setUp(t, &c.config)
				serve(t, srv, l)
				conn := l.dial(theProxy)
				n, _ := io.WriteString(conn, c.say)
				if n != c.read {
					t.Errorf("%d bytes are read, want %d", n, c.read)
				}
				switch {
				case c.log == "":
					s := rpcx.NewSession(conn, nil)
					ask(t, s, "who")
					s.Close()
					<-s.Done()
				case strings.Contains(c.log, "EOF"):
					conn.Close()
				case !isClosed(conn):
					t.Error("the connection is open")
				}
				synctest.Wait()
				expectLog(t, log, c.log)
				if log := log.String(); c.log != "" && !strings.Contains(log, "read the PROXY header: ") {
					t.Errorf("the log is %q", log)
				}
				if got := srv.Stats(); got.Sessions != 0 || got.Handshakes != 0 {
					t.Errorf("stats are %+v", got)
				}
			})
		})
	}
}

// A proxy, or a client that forges one, may drip its header or be silent: others are served
// meanwhile, and HandshakeTimeout ends the connection.
func TestSlowHeadersHoldUpNobody(t *testing.T) {
	for _, c := range []struct {
		name string
		say  []byte
		left int // bytes that are not read
	}{
		{"silent", nil, 0},
		{"drips version 1", header(1, "203.0.113.7:1000"), len(header(1, "203.0.113.7:1000")) - 10},
		{"drips version 2", header(2, "203.0.113.7:1000"), len(header(2, "203.0.113.7:1000")) - 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, l, log := setUp(t, &proxyproto.Config{Proxies: prefixes("192.0.2.0/24")})
				serve(t, srv, l)
				slow := l.dial(theProxy)
				left := make(chan int, 1)
				// Owner: the test. End: the header is over, or the server closes the connection.
				go func() {
					for i, b := range c.say {
						time.Sleep(900 * time.Millisecond)
						if _, err := slow.Write([]byte{b}); err != nil {
							left <- len(c.say) - i + 1
							return
						}
					}
					left <- 0
				}()
				time.Sleep(5 * time.Second)
				conn := l.dial(theProxy)
				conn.Write(header(2, "203.0.113.8:1000"))
				s := rpcx.NewSession(conn, nil)
				if got := ask(t, s, "who"); got != "203.0.113.8:1000 at 192.0.2.1:443" {
					t.Errorf("meanwhile the addresses are %s", got)
				}
				if got := srv.Stats(); got.Handshakes != 1 || got.Sessions != 1 {
					t.Errorf("meanwhile stats are %+v", got)
				}
				s.Close()
				<-s.Done()
				if c.say == nil && !isClosed(slow) {
					t.Error("the connection is open")
				}
				if n := <-left; n != c.left {
					t.Errorf("%d bytes were not read, want %d", n, c.left)
				}
				synctest.Wait()
				expectLog(t, log, "Server.HandshakeTimeout")
				if got := srv.Stats(); got.Handshakes != 0 || got.Sessions != 0 {
					t.Errorf("stats are %+v", got)
				}
			})
		})
	}
}

// A client that is no proxy cannot take another address, whatever it sends: with Direct,
// its header is a bad message, which costs its own group.
func TestForgedHeaderOfADirectClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, l, _ := setUp(t, &proxyproto.Config{Proxies: prefixes("192.0.2.0/24"), Direct: true})
		costs := make(chan string, 1)
		srv.Options.Limits.Group = rpcx.GroupBySubnet(32, 128)
		srv.OnSession = func(s *rpcx.Session) { costs <- s.RemoteAddr().String() }
		serve(t, srv, l)
		conn := l.dial(stranger)
		expectRefusal(t, conn, header(1, "203.0.113.7:1000"))
		s := rpcx.NewSession(conn, nil)
		if got := ask(t, s, "who"); !strings.HasPrefix(got, "198.51.100.66:4000 ") {
			t.Errorf("the addresses are %s", got)
		}
		if addr := <-costs; addr != "198.51.100.66:4000" {
			t.Errorf("the session is of %s", addr)
		}
		s.Close()
		<-s.Done()
	})
}

// A header behind the proxy's header is of the client, who cannot take another address.
func TestForgedHeaderBehindAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, l, _ := setUp(t, &proxyproto.Config{Proxies: prefixes("192.0.2.0/24")})
		serve(t, srv, l)
		conn := l.dial(theProxy)
		conn.Write(header(2, "203.0.113.7:1000"))
		expectRefusal(t, conn, header(1, "198.51.100.1:1"))
		s := rpcx.NewSession(conn, nil)
		if got := ask(t, s, "who"); !strings.HasPrefix(got, "203.0.113.7:1000 ") {
			t.Errorf("the addresses are %s", got)
		}
		s.Close()
		<-s.Done()
	})
}

// expectRefusal sends a header within a session, which answers that it is no message.
func expectRefusal(t *testing.T, conn net.Conn, header []byte) {
	t.Helper()
	conn.Write(header)
	reply, err := bufio.NewReader(conn).ReadString('\n')
	if !strings.Contains(reply, "-32700") {
		t.Errorf("the answer is %q, %v", reply, err)
	}
}

// The clients of one proxy have budgets of their own.
func TestBudgetsAreOfTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, l, _ := setUp(t, &proxyproto.Config{Proxies: prefixes("192.0.2.0/24")})
		srv.MaxGroup = 2
		srv.Options.Limits.Group = rpcx.GroupBySubnet(24, 64)
		serve(t, srv, l)
		connect := func(from string) *rpcx.Session {
			conn := l.dial(theProxy)
			conn.Write(header(2, from))
			synctest.Wait() // the server's sessions begin in the order of connect
			return rpcx.NewSession(conn, nil)
		}
		greedy, neighbour, third, other := connect("203.0.113.7:1"), connect("203.0.113.8:1"), connect("203.0.113.9:1"), connect("198.51.100.7:1")
		<-third.Done() // over MaxGroup
		if got := srv.Stats().Refused; !maps.Equal(got, map[string]uint64{"Server.MaxGroup": 1}) {
			t.Errorf("refused are %v", got)
		}
		ask(t, neighbour, "who")
		if err := greedy.Call(t.Context(), "work", nil, nil); err != nil {
			t.Error(err)
		}
		if err := greedy.Call(t.Context(), "who", nil, nil); err == nil {
			t.Error("a session over budget is served")
		}
		<-greedy.Done()
		again := connect("203.0.113.7:2") // the cost is still that of the group
		if err := again.Call(t.Context(), "who", nil, nil); err == nil {
			t.Error("the group is over budget, and is served")
		}
		ask(t, other, "who")
		for _, s := range []*rpcx.Session{greedy, neighbour, third, again, other} {
			s.Close()
			<-s.Done()
		}
	})
}

func TestHeader(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	if proxyproto.Header(nil) != nil || proxyproto.Header(here) != nil || proxyproto.Header(rpcx.WithAddrs(here, nil, nil)) != nil {
		t.Error("a connection without a header has one")
	}
	// Owner: the test. End: the header is read.
	go here.Write(header(2, "203.0.113.7:1000", pp.TLV{Type: pp.PP2_TYPE_AUTHORITY, Value: []byte("example.com")}))
	config := &proxyproto.Config{Proxies: prefixes("192.0.2.10/32")}
	conn, err := config.Preamble(context.Background(), rpcx.WithAddrs(there, theProxy, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{conn, rpcx.WithAddrs(conn, stranger, nil)} {
		got := proxyproto.Header(conn)
		if got == nil || got.Version != 2 || fmt.Sprint(got.SourceAddr) != "203.0.113.7:1000" {
			t.Fatalf("the header is %+v", got)
		}
		tlvs, err := got.TLVs()
		if err != nil || !slices.EqualFunc(tlvs, []string{"example.com"}, func(tlv pp.TLV, text string) bool { return string(tlv.Value) == text }) {
			t.Errorf("the TLVs are %v, %v", tlvs, err)
		}
	}
	if under := conn.(interface{ NetConn() net.Conn }).NetConn(); under.RemoteAddr() != theProxy {
		t.Errorf("the proxy is at %v", under.RemoteAddr())
	}
}
