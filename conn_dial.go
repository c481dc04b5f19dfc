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
	// Timeout bounds dialling, the TLS handshake included; 0 means 30 s, a
	// negative value no bound but the context's.
	Timeout time.Duration
	// TLS is used for tls:// addresses. If nil, or if it has no ServerName, the
	// certificate must be valid for the address's host.
	TLS *tls.Config
	// DialContext, if set, makes the connection in place of a [net.Dialer].
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// SOCKS, if set, is the proxy that everything is dialled through; unix:///path
	// cannot be (but the proxy can be there). The connection to the proxy is made by its
	// own Dial, or else by DialContext. See [ParseSOCKSProxy] for one from a URL. If SOCKS
	// is nil there is no proxy, and all is dialled directly: a program that must not do
	// that checks its configuration, or sets DialContext to the proxy's DialContext, which
	// fails if the proxy is nil.
	SOCKS *SOCKSProxy
}

// Connect makes the connection of [Dialer.Dial], for transports that run on top of
// one. It starts no session.
func (d *Dialer) Connect(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d.connectWithTimeout(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, bounded.Error(err))
	}
	return conn, nil
}

// Dial connects to addr and starts a session on the connection. Addresses are
// tcp://host:port, tls://host:port (or ssl://) and unix:///path. ctx bounds only
// the dialling; a nil opts is the zero [Options].
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

// dialPlainConn makes the connection, without TLS.
func (d *Dialer) dialPlainConn(ctx context.Context, network, address string) (net.Conn, error) {
	switch {
	case d.SOCKS != nil:
		return d.SOCKS.dialThroughProxy(ctx, network, address, d.DialContext)
	case d.DialContext != nil:
		return d.DialContext(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// NetAddress is a host, which is a name or an IP address, and a port. It has been
// checked when it was made, by [ParseNetAddress] or [NewNetAddress], is comparable
// and can be the key of a map. It is a [net.Addr], and a text for encoding/json.
// The zero value is no address; its text is empty.
//
// Names are compared as they are written: Foo.example and foo.example are two
// (as in aiorpcX). Of IP addresses there is one way to write each.
type NetAddress struct {
	name string     // empty if the host is
	ip   netip.Addr // an IP address
	port uint16
}

// NewNetAddress returns the address of a host and a port, of 1 to 65535. The host
// is an IP address, without brackets, or a name: labels of letters, digits, '-' and
// '_', up to 63 bytes each and 253 together, the last of which is not a number. A
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

// AddressDefaults are for what an address may leave out: Port, or Host, or both.
// What is empty or 0 is no default. Protocol is the one that they are for; only
// [ParseServiceAddr] looks at it.
type AddressDefaults struct {
	Protocol string
	Host     string
	Port     int
}

// ParseNetAddress parses "host:port", "1.2.3.4:port" or "[::1]:port". Where a part
// is missing it is that of the first of the defaults that has it.
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

// splitHostPort splits at the first colon, or behind brackets. Either part may be
// missing, unlike with net.SplitHostPort.
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

// isForbiddenInZone tells what a zone, the name of an interface, may not have in it. With
// some of what package netip takes, the text of an address has another meaning.
func isForbiddenInZone(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("%[]/", r) }

// isHostname follows aiorpcX, which allows underscores: they are in no host's
// name by the rules, but in those of services. A last label that is a number is
// refused, for a name that looks like an IPv4 address must not be one of a host.
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
		for _, c := range []byte(label) {
			if !isLetter(c) && !isDigit(c) && c != '-' && c != '_' {
				return false
			}
		}
		last = label
	}
	return !allDigits(last)
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

func allDigits(s string) bool {
	for _, c := range []byte(s) {
		if !isDigit(c) {
			return false
		}
	}
	return s != ""
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

// Host returns the host: the name, or the IP address without brackets.
func (a NetAddress) Host() string {
	if a.ip.IsValid() {
		return a.ip.String()
	}
	return a.name
}

// IP returns the host's IP address, the zero Addr if the host is a name.
func (a NetAddress) IP() netip.Addr { return a.ip }

// Port returns the port, from 1 to 65535.
func (a NetAddress) Port() uint16 { return a.port }

// Network returns "tcp"; with String it makes a NetAddress a [net.Addr].
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

// MarshalText returns String's text.
func (a NetAddress) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses like [ParseNetAddress], without defaults. An empty text is
// the zero value.
func (a *NetAddress) UnmarshalText(text []byte) (err error) {
	return unmarshalAddress(a, text, ParseNetAddress)
}

// ServiceAddr is a protocol, in lower case, and an address: "ssl://example.org:443".
// It is aiorpcX's Service. It has been checked when it was made, by
// [ParseServiceAddr] or [NewServiceAddr], is comparable and can be the key of a
// map. The zero value is no address; its text is empty.
//
// Its text can be dialled if the protocol is one that [Dial] knows.
type ServiceAddr struct {
	protocol string
	address  NetAddress
}

// NewServiceAddr returns the address of a service. The protocol is a letter,
// followed by one or more letters, digits and any of "+,-." in any case.
func NewServiceAddr(protocol string, address NetAddress) (ServiceAddr, error) {
	if !isProtocol(protocol) {
		return ServiceAddr{}, fmt.Errorf("invalid protocol: %s", protocol)
	}
	if address == (NetAddress{}) {
		return ServiceAddr{}, errors.New("no address")
	}
	return ServiceAddr{strings.ToLower(protocol), address}, nil
}

// ParseServiceAddr parses "protocol://host:port". What is missing is taken from the
// defaults: the protocol is that of the first, host and port are from those that
// have the address's protocol, the first of these that has one. A single word
// that is a protocol, in lower case, with both of them means that; any other is
// a host.
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

// defaultsOf returns what the defaults have for a protocol, nil if there are none
// for any.
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

func isProtocol(s string) bool {
	if len(s) < 2 || !isLetter(s[0]) {
		return false
	}
	for _, c := range []byte(s) {
		if !isLetter(c) && !isDigit(c) && !strings.ContainsRune("+,-.", rune(c)) {
			return false
		}
	}
	return true
}

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

// MarshalText returns String's text.
func (a ServiceAddr) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses like [ParseServiceAddr], without defaults. An empty text is
// the zero value.
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

// splitAddr splits an address such as "tcp://host:port" or "unix:///path" into
// what [net.Dial] and [net.Listen] take. Unlike a ServiceAddr it may have a path,
// no host or port 0 (to listen on), or a port by name: package net is the judge.
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
		return "", "", false, fmt.Errorf("address %q is a WebSocket's: see the package websocket", addr)
	default:
		return "", "", false, fmt.Errorf("address %q has an unknown scheme: want tcp://, tls:// (ssl://) or unix://", addr)
	}
	if rest == "" {
		return "", "", false, fmt.Errorf("address %q names no place", addr)
	}
	return network, rest, secure, nil
}
