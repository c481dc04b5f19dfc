package rpcx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"
)

// SOCKSProxy dials through a SOCKS proxy; see [SOCKSProxy.DialContext]. Any goroutine may
// use a SOCKSProxy, but its fields must not be changed while in use.
//
// Every dialled destination is reached through the proxy or not at all.
//
// With Tor, use SOCKS5 or SOCKS4a, and do not set ResolveLocally: names stay out of DNS, and
// onion addresses work. By default Tor sends streams with different credentials over
// different circuits. [SOCKSRandomAuth] keeps every connection apart,
// [SOCKSDestinationAuth] connections to different places, and a [SOCKSUserAuth] each account.
// Tor listens on port 9050, or 9150 with its browser.
type SOCKSProxy struct {
	// Addr is the proxy's host:port, or unix:///path for a proxy on a unix socket. If the
	// host name has several addresses, they are tried in turn.
	Addr string
	// Version is the protocol version; the default is SOCKS5.
	Version SOCKSVersion
	// Auth supplies the credentials: a SOCKSUserAuth, a SOCKSRandomAuth, a
	// SOCKSDestinationAuth or your own type. If Auth is nil, no credentials are offered.
	Auth SOCKSAuth
	// ResolveLocally makes this machine look up host names. The addresses that the version
	// can express are tried in turn. Anybody who sees this machine's DNS queries then sees
	// the destinations. By default the proxy receives the name, which SOCKS4 cannot
	// express. The proxy always receives the names of onion services, since DNS does not
	// know them.
	ResolveLocally bool
	// Dial, if set, makes the connection to Addr in place of a [net.Dialer], for example
	// through another proxy's DialContext. It is called with "tcp" and host:port, or with
	// "unix" and the path.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// ParseSOCKSProxy returns the proxy of a URL such as socks5://user:password@host:port. A
// proxy on a unix socket is socks5+unix:///path, or socks5+unix://user:password@/path. For
// an abstract socket, @name replaces /path, as in socks5+unix://user:password@@name.
//
// The scheme is socks5 (also written socks or socks5h), socks4a or socks4, with or without
// +unix; unix:///path means SOCKS5. The user, the password and the port (default 1080) are
// optional. Special characters are written as in any URL (%40 for @). The proxy looks up
// names with every scheme, unlike with curl, where socks5 and socks5h differ.
func ParseSOCKSProxy(proxyURL string) (*SOCKSProxy, error) {
	// Errors of package url quote parts of the URL, including the password.
	pathURL, abstract := abstractSocketPath(proxyURL)
	u, err := url.Parse(pathURL)
	if err != nil || u.Scheme == "" || u.Opaque+u.RawQuery+u.Fragment != "" {
		return nil, errProxyURL
	}
	scheme := u.Scheme
	if scheme == "unix" {
		scheme = "socks5+unix"
	}
	p := new(SOCKSProxy)
	version, unix := strings.CutSuffix(scheme, "+unix")
	switch version {
	case "socks5", "socks5h", "socks":
	case "socks4a":
		p.Version = SOCKS4a
	case "socks4":
		p.Version = SOCKS4
	default:
		return nil, fmt.Errorf("parse proxy URL: unknown scheme %q: want socks5 (socks, socks5h), socks4a or socks4, with +unix for a unix socket", u.Scheme)
	}
	switch path := strings.TrimLeft(u.Path, "/"); {
	case unix && (u.Host != "" || path == ""):
		return nil, fmt.Errorf("parse proxy URL: want a path and no host with the scheme %s: %s:///path, or @name for an abstract socket", scheme, scheme)
	case unix && abstract:
		p.Addr = "unix://@" + strings.TrimPrefix(u.Path, "/")
	case unix:
		p.Addr = "unix://" + u.Path
	case u.Host == "" || path != "":
		return nil, errProxyURL
	default:
		addr, err := ParseNetAddress(u.Host, AddressDefaults{Port: 1080})
		if err != nil {
			return nil, fmt.Errorf("parse proxy URL: %w", err)
		}
		p.Addr = addr.String()
	}
	password, _ := u.User.Password()
	if user := (SOCKSUserAuth{u.User.Username(), password}); user != (SOCKSUserAuth{}) {
		p.Auth = user
	}
	if _, err := NewSOCKSHandshake(p.Version, anyDestination, p.Auth); err != nil {
		return nil, fmt.Errorf("parse proxy URL: %w", err)
	}
	return p, nil
}

// abstractSocketPath returns proxyURL with an abstract socket rewritten as a path, and
// reports whether the URL has an abstract socket. Examples are unix://@name and
// socks5+unix://user:password@@name.
func abstractSocketPath(proxyURL string) (pathURL string, abstract bool) {
	scheme, rest, _ := strings.Cut(proxyURL, "://")
	if !strings.HasSuffix(strings.ToLower(scheme), "unix") {
		return proxyURL, false
	}
	if name, ok := strings.CutPrefix(rest, "@"); ok {
		return scheme + ":///" + name, true
	}
	if authority, name, ok := strings.Cut(rest, "@@"); ok && !strings.Contains(authority, "/") {
		return scheme + "://" + authority + "@/" + name, true
	}
	return proxyURL, false
}

var errProxyURL = errors.New("parse proxy URL: want socks5://user:password@host:port or socks5+unix:///path, or with another scheme (socks, socks5h, socks4a, socks4)")

// parseProxyAddr parses SOCKSProxy.Addr into a NetAddress or a *net.UnixAddr.
func parseProxyAddr(addr string) (net.Addr, error) {
	if !strings.Contains(addr, "://") {
		return ParseNetAddress(addr)
	}
	network, path, _, err := splitAddr(addr)
	if err == nil && network != "unix" {
		err = fmt.Errorf("address %q: want host:port or unix:///path", addr)
	}
	if err != nil {
		return nil, err
	}
	return &net.UnixAddr{Name: path, Net: network}, nil
}

// formatProxyAddr returns addr in the format of SOCKSProxy.Addr.
func formatProxyAddr(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix://" + addr.String()
	}
	return addr.String()
}

// anyDestination is a destination that every version can express.
var anyDestination, _ = ParseNetAddress("127.0.0.1:1")

// String describes the proxy without its credentials, as in "SOCKS5 proxy at
// 127.0.0.1:9050, auth: none".
func (p SOCKSProxy) String() string {
	auth := "none"
	if p.Auth != nil {
		auth = "username"
	}
	return fmt.Sprintf("%v proxy at %s, auth: %s", p.Version, p.Addr, auth)
}

// DialContext connects through the proxy to addr, a host:port. The network must be "tcp".
// The connection is a [*SOCKSConn]. ctx bounds the whole dialling, but not the connection
// afterwards. If ctx ends during dialling, the connection to the proxy is closed. If
// several addresses are tried, each gets an even share of the remaining time.
//
// DialContext fits [Dialer.DialContext] (but see [Dialer.SOCKS]), http.Transport's field,
// and a connection under tls.Client. The error is a [*net.OpError] from the proxy to the
// destination. If the proxy answered, it wraps a [*SOCKSError]; otherwise ctx's cause, or
// the error of the connection to the proxy. A nil proxy fails without dialling.
func (p *SOCKSProxy) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return p.dialThroughProxy(ctx, network, addr, nil)
}

// dialFunc makes a connection; nil means a net.Dialer.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// dialThroughProxy is DialContext, except that direct connects to the proxy if p.Dial is
// nil.
func (p *SOCKSProxy) dialThroughProxy(ctx context.Context, network, addr string, direct dialFunc) (net.Conn, error) {
	if p == nil {
		return nil, fmt.Errorf("connect to %s through a SOCKS proxy: the *SOCKSProxy is nil", addr)
	}
	if p.Dial != nil {
		direct = p.Dial
	}
	if network != "tcp" {
		return nil, fmt.Errorf("connect to %s through a SOCKS proxy: %w (want tcp; what is not is dialled without one)", addr, net.UnknownNetworkError(network))
	}
	dest, err := ParseNetAddress(addr)
	if err != nil {
		return nil, err
	}
	proxy, err := parseProxyAddr(p.Addr)
	if err != nil {
		return nil, fmt.Errorf("address of the SOCKS proxy (SOCKSProxy.Addr, host:port or unix:///path): %w", err)
	}
	conn, err := p.dialDestination(ctx, proxy, dest, direct)
	if err != nil {
		return nil, &net.OpError{Op: "socks", Net: network, Source: proxy, Addr: dest, Err: causeOr(ctx, err)}
	}
	return conn, nil
}

func (p *SOCKSProxy) dialDestination(ctx context.Context, proxy net.Addr, dest NetAddress, dial dialFunc) (net.Conn, error) {
	connect := func(ctx context.Context, dest NetAddress) (net.Conn, error) {
		h, err := NewSOCKSHandshake(p.Version, dest, p.Auth)
		if err != nil {
			return nil, err
		}
		conn, err := connectProxy(ctx, proxy, dial, *h)
		if err != nil {
			return nil, err
		}
		return &SOCKSConn{Conn: conn, proxy: p, dest: dest}, nil
	}
	// RFC 7686: names of onion services must not be looked up in DNS.
	onion := strings.HasSuffix(strings.ToLower(strings.TrimSuffix(dest.Host(), ".")), ".onion")
	if !p.ResolveLocally || onion {
		return connect(ctx, dest)
	}
	network := "ip"
	if p.Version != SOCKS5 {
		network = "ip4"
	}
	dests, err := lookupAddresses(ctx, network, dest)
	if err != nil {
		return nil, err
	}
	return tryInTurn(ctx, dests, connect)
}

// connectProxy connects to the proxy and performs the handshake, starting afresh with each
// of the proxy's addresses.
func connectProxy(ctx context.Context, proxy net.Addr, dial dialFunc, begun SOCKSHandshake) (net.Conn, error) {
	connect := func(ctx context.Context, proxy net.Addr) (net.Conn, error) {
		conn, err := dial(ctx, proxy.Network(), proxy.String())
		if err != nil {
			return nil, err
		}
		h := begun
		if err := h.runOverConn(ctx, conn); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
	if dial != nil { // dial knows the meaning of the name
		return connect(ctx, proxy)
	}
	dial = new(net.Dialer).DialContext
	addr, ok := proxy.(NetAddress)
	if !ok { // a unix socket
		return connect(ctx, proxy)
	}
	proxies, err := lookupAddresses(ctx, "ip", addr)
	if err != nil {
		return nil, err
	}
	return tryInTurn(ctx, proxies, func(ctx context.Context, proxy NetAddress) (net.Conn, error) { return connect(ctx, proxy) })
}

// runOverConn performs the handshake over conn, and reads no byte behind the proxy's
// replies. The end of ctx closes conn.
func (h *SOCKSHandshake) runOverConn(ctx context.Context, conn net.Conn) error {
	closed := make(chan struct{})
	// Owner: this call, which waits for the end. End: conn is closed.
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		conn.Close()
	})
	err := h.exchangeMessages(conn)
	if !stop() {
		<-closed
		return &socksUnansweredError{h.awaitedAnswer(), context.Cause(ctx)}
	}
	return err
}

// socksUnansweredError is the error of a handshake ended by its context.
type socksUnansweredError struct {
	awaited string
	cause   error
}

func (e *socksUnansweredError) Error() string { return e.awaited + ": " + e.cause.Error() }
func (e *socksUnansweredError) Unwrap() error { return e.cause }
func (e *socksUnansweredError) Timeout() bool { return errors.Is(e.cause, context.DeadlineExceeded) }

// awaitedAnswer names the answer that the proxy has not sent yet.
func (h *SOCKSHandshake) awaitedAnswer() string {
	if h.version == SOCKS5 && !h.greeted {
		return "the proxy did not answer the SOCKS5 greeting (is it a SOCKS proxy?)"
	}
	return fmt.Sprintf("the proxy did not answer the %v request to connect", h.version)
}

func (h *SOCKSHandshake) exchangeMessages(conn io.ReadWriter) error {
	var buf [257]byte // the longest remainder of a reply: a name and a port
	n := 0
	for {
		send, need, err := h.Next(buf[:n])
		if err != nil {
			return err
		}
		if len(send) > 0 {
			if _, err := conn.Write(send); err != nil {
				return err
			}
		}
		if need == 0 {
			return nil
		}
		n, err = conn.Read(buf[:need])
		if n == 0 && err == io.EOF {
			return h.protocolError("EOF received")
		}
		if n == 0 && err != nil {
			return err
		}
	}
}

// lookupAddresses returns the addresses of a's host, in the order to try. The network is
// "ip" or "ip4".
func lookupAddresses(ctx context.Context, network string, a NetAddress) ([]NetAddress, error) {
	if a.IP().IsValid() {
		return []NetAddress{a}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, network, a.Host())
	if err != nil {
		return nil, err
	}
	addrs := make([]NetAddress, len(ips))
	for i, ip := range ips {
		addrs[i] = NetAddress{ip: ip.Unmap(), port: a.port}
	}
	return addrs, nil
}

// tryInTurn calls try with each address in order, until a call succeeds. Each call has an
// even share of the remaining time.
func tryInTurn[R any](ctx context.Context, addrs []NetAddress, try func(context.Context, NetAddress) (R, error)) (R, error) {
	var none R
	var errs []error
	for i, addr := range addrs {
		part, cancel := withTimeShare(ctx, len(addrs)-i)
		result, err := try(part, addr)
		cancel()
		if err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return none, causeOr(ctx, err)
		}
		if len(errs) == 0 || errs[len(errs)-1].Error() != err.Error() {
			errs = append(errs, err)
		}
	}
	if len(errs) == 1 {
		return none, errs[0]
	}
	return none, errors.Join(errs...)
}

// causeOr returns the cause of ctx if ctx has ended and err does not wrap the cause;
// otherwise err. The cause is clearer than the error of the interrupted operation.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(err, context.Cause(ctx)) {
		return err
	}
	return context.Cause(ctx)
}

// withTimeShare returns a context with the given fraction, 1/parts, of the time that ctx
// has left.
func withTimeShare(ctx context.Context, parts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || parts == 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(parts))
}

// SOCKSConn is a connection through a SOCKS proxy. The embedded Conn is the connection to
// the proxy.
type SOCKSConn struct {
	net.Conn
	proxy *SOCKSProxy
	dest  NetAddress
}

// Proxy returns the proxy.
func (c *SOCKSConn) Proxy() *SOCKSProxy { return c.proxy }

// ProxyAddr returns the proxy's address on this connection.
func (c *SOCKSConn) ProxyAddr() net.Addr { return c.Conn.RemoteAddr() }

// RemoteAddr returns the destination that the proxy was asked for, a [NetAddress].
func (c *SOCKSConn) RemoteAddr() net.Addr { return c.dest }

// SOCKS returns the proxy of the session's connection, or nil if no proxy is known.
// RemoteAddr returns the destination that the proxy was asked for.
func (s *Session) SOCKS() *SOCKSProxy {
	conn := s.NetConn()
	for {
		switch c := conn.(type) {
		case *SOCKSConn:
			return c.proxy
		case interface{ NetConn() net.Conn }: // such as *tls.Conn
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// socksDetectTimeout bounds the attempt with each version.
const socksDetectTimeout = 5 * time.Second

var socksDetectOrder = []SOCKSVersion{SOCKS5, SOCKS4a, SOCKS4}

// DetectSOCKS detects the SOCKS proxy at addr, a host:port or unix:///path. It tries
// [SOCKS5], [SOCKS4a] and [SOCKS4] in order, with a connection for each version. Each
// attempt has at most 5 s, and at most a third of the remaining time of ctx.
//
// If no proxy answers, or if addr is no address, the result is nil. A detected proxy may
// still refuse auth or fail to connect to destinations.
//
// A SOCKS5 proxy is not asked for a connection. A proxy of an older version is asked for
// port 1 of its own machine, because no lesser request shows such a proxy. (A proxy that
// knows neither names nor another version may be taken for SOCKS4a.)
func DetectSOCKS(ctx context.Context, addr string, auth SOCKSAuth) *SOCKSProxy {
	proxy, err := parseProxyAddr(addr)
	if err != nil {
		return nil
	}
	found, _ := detectProxy(ctx, proxy, auth, nil)
	return found
}

// DetectSOCKSHost calls [DetectSOCKS] for each port of a host in order, and returns the
// first proxy found, or nil. Each port has an even share of the remaining time of ctx.
func DetectSOCKSHost(ctx context.Context, host string, ports []int, auth SOCKSAuth) *SOCKSProxy {
	var addrs []NetAddress
	for _, port := range ports {
		if addr, err := NewNetAddress(host, port); err == nil {
			addrs = append(addrs, addr)
		}
	}
	found, _ := tryInTurn(ctx, addrs, func(ctx context.Context, addr NetAddress) (*SOCKSProxy, error) {
		return detectProxy(ctx, addr, auth, nil)
	})
	return found
}

var errNoProxy = errors.New("no SOCKS proxy")

func detectProxy(ctx context.Context, proxy net.Addr, auth SOCKSAuth, dial dialFunc) (*SOCKSProxy, error) {
	for _, version := range socksDetectOrder {
		part, cancel := withTimeShare(ctx, 3)
		err := probeVersion(part, proxy, version, auth, dial)
		cancel()
		if err == nil || errors.Is(err, ErrSOCKSFailure) { // a refusal is an answer
			return &SOCKSProxy{Addr: formatProxyAddr(proxy), Version: version, Auth: auth}, nil
		}
	}
	return nil, errNoProxy
}

// probeVersion performs enough of a handshake to recognize a proxy of the given version.
func probeVersion(ctx context.Context, proxy net.Addr, version SOCKSVersion, auth SOCKSAuth, dial dialFunc) error {
	ctx, cancel := context.WithTimeout(ctx, socksDetectTimeout)
	defer cancel()
	dest := anyDestination
	if version == SOCKS4a {
		dest = NetAddress{name: "localhost", port: dest.port}
	}
	h, err := NewSOCKSHandshake(version, dest, auth)
	if err != nil {
		return err
	}
	h.probeOnly = true
	conn, err := connectProxy(ctx, proxy, dial, *h)
	if err != nil {
		return err
	}
	conn.Close()
	return nil
}
