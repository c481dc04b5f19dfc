package rpcx_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

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
