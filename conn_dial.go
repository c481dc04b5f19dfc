package rpcx

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/duration"
)

// Dialer connects to servers. The zero value is ready to use.
type Dialer struct {
	// Timeout bounds dialling, including the TLS handshake. 0 means 30 s; with a negative
	// value only the context bounds dialling.
	Timeout time.Duration
	// TLS configures tls:// addresses. If TLS is nil or has no ServerName, the certificate
	// must be valid for the address's host.
	TLS *tls.Config
	// DialContext, if set, makes the connection in place of a [net.Dialer].
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// SOCKS, if set, is the proxy for every connection; see [ParseSOCKSProxy] for proxy
	// URLs. A unix:///path address cannot be dialled through a proxy, but the proxy itself
	// may have such an address. SOCKS.Dial makes the connection to the proxy; if SOCKS.Dial
	// is nil, DialContext does.
	//
	// If SOCKS is nil, connections are direct. A program that must not connect directly
	// checks its configuration. Or it sets DialContext to the proxy's DialContext, which
	// fails if the proxy is nil.
	SOCKS *SOCKSProxy
}

// Connect makes the connection of [Dialer.Dial] without starting a session, for transports
// on top of a connection.
func (d *Dialer) Connect(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d.connectWithTimeout(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, bounded.Error(err))
	}
	return conn, nil
}

// Dial connects to addr and starts a session on the connection. Addresses are
// tcp://host:port, tls://host:port (or ssl://) and unix:///path. ctx bounds only the
// dialling; a nil opts means the zero [Options].
func (d *Dialer) Dial(ctx context.Context, addr string, opts *Options) (*Session, error) {
	mustHaveContext("Dial", ctx)
	o, err := resolveOptions(opts)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	conn, err := d.Connect(ctx, addr)
	if err != nil {
		return nil, err
	}
	return startStandalone(newStream(conn, o.Framer), o), nil
}

func (d *Dialer) connectWithTimeout(ctx context.Context, addr string) (net.Conn, error) {
	if err := duration.Check("Dialer", d); err != nil {
		return nil, err
	}
	network, address, secure, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := bounded.DialTimeout(ctx, d.Timeout)
	defer cancel()
	conn, err := d.openConn(ctx, network, address, secure)
	return conn, bounded.DialError(ctx, err)
}

// openConn makes the connection, with TLS if secure is set.
func (d *Dialer) openConn(ctx context.Context, network, address string, secure bool) (net.Conn, error) {
	conn, err := d.dialPlainConn(ctx, network, address)
	if err == nil && conn == nil {
		err = errors.New("DialContext returned neither a connection nor an error")
	}
	if err != nil || !secure {
		return conn, err
	}
	config := d.TLS.Clone() // nil stays nil
	if config == nil {
		config = &tls.Config{}
	}
	if config.ServerName == "" && !config.InsecureSkipVerify {
		config.ServerName, _ = splitHostPort(address)
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

// dialPlainConn makes the connection without TLS.
func (d *Dialer) dialPlainConn(ctx context.Context, network, address string) (net.Conn, error) {
	switch {
	case d.SOCKS != nil:
		return d.SOCKS.dialThroughProxy(ctx, network, address, d.DialContext)
	case d.DialContext != nil:
		return d.DialContext(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// NetAddress is a host, either a name or an IP address, and a port. [ParseNetAddress] and
// [NewNetAddress] check addresses. A NetAddress is comparable, can be a map key, implements
// [net.Addr], and is text for encoding/json. The zero value is no address, and its text is
// empty.
//
// Names are compared as written: Foo.example and foo.example differ (as in aiorpcX). Each
// IP address has a single spelling.
type NetAddress struct {
	name string     // empty if the host is an IP address
	ip   netip.Addr // zero if the host is a name
	port uint16
}

// NewNetAddress returns the address of a host and a port from 1 to 65535. The host is an IP
// address without brackets, or a name. A name consists of labels of letters, digits, '-'
// and '_', with up to 63 bytes each and 253 together. The last label is not a number. A
// final dot is kept.
func NewNetAddress(host string, port int) (NetAddress, error) {
	return newNetAddress(host, strconv.Itoa(port))
}

func newNetAddress(host, port string) (NetAddress, error) {
	a, err := parseHost(host)
	if err == nil {
		a.port, err = parsePort(port)
	}
	if err != nil {
		return NetAddress{}, err
	}
	return a, nil
}

// AddressDefaults holds defaults for the missing parts of an address: Port, Host, or both.
// An empty or zero field is no default. Only [ParseServiceAddr] uses Protocol, which names
// the protocol that the defaults apply to.
type AddressDefaults struct {
	Protocol string
	Host     string
	Port     int
}

// ParseNetAddress parses "host:port", "1.2.3.4:port" or "[::1]:port". A missing part is
// taken from the first element of defaults with this part.
func ParseNetAddress(s string, defaults ...AddressDefaults) (NetAddress, error) {
	if len(defaults) == 0 {
		return parseNetAddress(s, nil)
	}
	var merged AddressDefaults
	for _, d := range defaults {
		merged.fillFrom(d)
	}
	return parseNetAddress(s, &merged)
}

func (d *AddressDefaults) fillFrom(from AddressDefaults) {
	d.Host = cmp.Or(d.Host, from.Host)
	d.Port = cmp.Or(d.Port, from.Port)
}

func parseNetAddress(s string, d *AddressDefaults) (NetAddress, error) {
	host, port := splitHostPort(s)
	if d != nil {
		host = cmp.Or(host, d.Host)
		if port == "" && d.Port != 0 {
			port = strconv.Itoa(d.Port)
		}
		if host == "" || port == "" {
			return NetAddress{}, fmt.Errorf("invalid address string: %s", s)
		}
	}
	return newNetAddress(host, port)
}

// splitHostPort splits at the first colon, or behind brackets. Unlike with
// net.SplitHostPort, either part may be missing.
func splitHostPort(s string) (host, port string) {
	if inside, ok := strings.CutPrefix(s, "["); ok {
		if host, rest, ok := strings.Cut(inside, "]"); ok && (rest == "" || rest[0] == ':') {
			return host, strings.TrimPrefix(rest, ":")
		}
	}
	host, port, _ = strings.Cut(s, ":")
	return host, port
}

// parseHost returns an address without a port.
func parseHost(host string) (NetAddress, error) {
	if isHostname(host) {
		return NetAddress{name: host}, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || strings.ContainsFunc(ip.Zone(), isForbiddenInZone) {
		return NetAddress{}, fmt.Errorf("invalid host: %q is neither a name nor an IP address", host)
	}
	return NetAddress{ip: ip}, nil
}

// isForbiddenInZone reports whether a zone, the name of an interface, must not contain r.
// Package netip accepts some characters that would change the meaning of an address's text.
func isForbiddenInZone(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("%[]/", r) }

// isHostname reports whether s is a valid name. As in aiorpcX, underscores are allowed:
// names of services have underscores, although host names must not. A name whose last label
// is a number is refused, because it could look like an IPv4 address.
func isHostname(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if hasOther(label, "-_") {
			return false
		}
		last = label
	}
	return strings.Trim(last, "0123456789") != ""
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// hasOther reports whether s has a byte that is neither a letter nor a digit nor in more.
func hasOther(s, more string) bool {
	for _, c := range []byte(s) {
		if !isLetter(c) && c-'0' > 9 && strings.IndexByte(more, c) < 0 {
			return true
		}
	}
	return false
}

func parsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if s == "" {
		return 0, errors.New("invalid port: none (want host:port, with a port of 1 to 65535)")
	}
	if err != nil || port == 0 {
		return 0, fmt.Errorf("invalid port: %s", s)
	}
	return uint16(port), nil
}

// Host returns the name, or the IP address without brackets.
func (a NetAddress) Host() string {
	if a.ip.IsValid() {
		return a.ip.String()
	}
	return a.name
}

// IP returns the host's IP address, or the zero Addr if the host is a name.
func (a NetAddress) IP() netip.Addr { return a.ip }

// Port returns the port, from 1 to 65535.
func (a NetAddress) Port() uint16 { return a.port }

// Network returns "tcp". With String, it makes a NetAddress a [net.Addr].
func (NetAddress) Network() string { return "tcp" }

// String returns "host:port", with brackets around an IPv6 address.
func (a NetAddress) String() string {
	switch {
	case a == NetAddress{}:
		return ""
	case a.ip.Is6():
		return "[" + a.ip.String() + "]:" + strconv.Itoa(int(a.port))
	}
	return a.Host() + ":" + strconv.Itoa(int(a.port))
}

// MarshalText returns the text of String.
func (a NetAddress) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses like [ParseNetAddress], without defaults. An empty text yields the
// zero value.
func (a *NetAddress) UnmarshalText(text []byte) (err error) {
	return unmarshalAddress(a, text, ParseNetAddress)
}

// ServiceAddr is a protocol in lower case and an address, such as "ssl://example.org:443".
// The type corresponds to aiorpcX's Service. [ParseServiceAddr] and [NewServiceAddr] check
// addresses. A ServiceAddr is comparable and can be a map key. The zero value is no
// address, and its text is empty.
//
// If [Dial] knows the protocol, the text can be dialled.
type ServiceAddr struct {
	protocol string
	address  NetAddress
}

// NewServiceAddr returns the address of a service. The protocol is a letter, followed by at
// least one letter, digit or character of "+,-.", in any case.
func NewServiceAddr(protocol string, address NetAddress) (ServiceAddr, error) {
	if !isProtocol(protocol) {
		return ServiceAddr{}, fmt.Errorf("invalid protocol: %s", protocol)
	}
	if address == (NetAddress{}) {
		return ServiceAddr{}, errors.New("no address")
	}
	return ServiceAddr{strings.ToLower(protocol), address}, nil
}

// ParseServiceAddr parses "protocol://host:port". Missing parts are taken from the
// defaults. A missing protocol is the protocol of the first element. A missing host or port
// comes from the first element that has the address's protocol and a value. A single word
// in lower case is a protocol if the defaults have both a host and a port for the protocol.
// Any other word is a host.
//
//	d := []rpcx.AddressDefaults{{Protocol: "ssl", Port: 50002}, {Protocol: "tcp", Host: "localhost", Port: 50001}}
//	rpcx.ParseServiceAddr("example.org", d...)       // ssl://example.org:50002
//	rpcx.ParseServiceAddr("tcp://example.org", d...) // tcp://example.org:50001
//	rpcx.ParseServiceAddr("tcp", d...)               // tcp://localhost:50001
func ParseServiceAddr(s string, defaults ...AddressDefaults) (ServiceAddr, error) {
	protocol, rest, ok := strings.Cut(s, "://")
	if !ok && len(defaults) > 0 {
		if d := defaultsOf(s, defaults); d.Host != "" && d.Port != 0 {
			protocol, rest = s, ""
		} else {
			protocol, rest = defaults[0].Protocol, s
		}
		ok = protocol != ""
	}
	if !ok {
		return ServiceAddr{}, fmt.Errorf("invalid service string: %s", s)
	}
	address, err := parseNetAddress(rest, defaultsOf(strings.ToLower(protocol), defaults))
	if err != nil {
		return ServiceAddr{}, err
	}
	return NewServiceAddr(protocol, address)
}

// defaultsOf returns the merged defaults for a protocol, or nil if defaults is empty.
func defaultsOf(protocol string, defaults []AddressDefaults) *AddressDefaults {
	if len(defaults) == 0 {
		return nil
	}
	var d AddressDefaults
	for _, from := range defaults {
		if strings.ToLower(from.Protocol) == protocol {
			d.fillFrom(from)
		}
	}
	return &d
}

func isProtocol(s string) bool { return len(s) > 1 && isLetter(s[0]) && !hasOther(s, "+,-.") }

// Protocol returns the protocol, in lower case.
func (a ServiceAddr) Protocol() string { return a.protocol }

// Address returns the host and the port.
func (a ServiceAddr) Address() NetAddress { return a.address }

// String returns "protocol://host:port", with brackets around an IPv6 address.
func (a ServiceAddr) String() string {
	if a == (ServiceAddr{}) {
		return ""
	}
	return a.protocol + "://" + a.address.String()
}

// MarshalText returns the text of String.
func (a ServiceAddr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses like [ParseServiceAddr], without defaults. An empty text yields the
// zero value.
func (a *ServiceAddr) UnmarshalText(text []byte) error {
	return unmarshalAddress(a, text, ParseServiceAddr)
}

func unmarshalAddress[A any](a *A, text []byte, parse func(string, ...AddressDefaults) (A, error)) error {
	var parsed A
	if len(text) > 0 {
		var err error
		if parsed, err = parse(string(text)); err != nil {
			return err
		}
	}
	*a = parsed
	return nil
}

// splitAddr splits an address such as "tcp://host:port" or "unix:///path" into arguments
// for [net.Dial] and [net.Listen]. Package net checks the address. Unlike a ServiceAddr, it
// may have a path, no host, port 0 (for listening), or a port name.
func splitAddr(addr string) (network, address string, secure bool, err error) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		return "", "", false, fmt.Errorf("address %q has no scheme: want tcp://, tls:// or unix://", addr)
	}
	switch strings.ToLower(scheme) {
	case "tcp":
		network = "tcp"
	case "tls", "ssl":
		network, secure = "tcp", true
	case "unix":
		network = "unix"
	case "ws", "wss":
		return "", "", false, fmt.Errorf("address %q is a WebSocket's: use Dial of the package websocket", addr)
	default:
		return "", "", false, fmt.Errorf("address %q has an unknown scheme: want tcp://, tls:// (ssl://) or unix://", addr)
	}
	if rest == "" {
		return "", "", false, fmt.Errorf("address %q names no place", addr)
	}
	return network, rest, secure, nil
}
