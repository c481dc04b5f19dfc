// Package proxyproto lets a server of package rpcx stand behind proxies that speak the
// PROXY protocol, version 1 or 2: HAProxy, nginx, Envoy, Traefik, balancers of clouds. The
// proxy sends a header before everything else, which names the client. With the header, the
// addresses of a session, the log, and the budgets of Limits.Group are those of the client.
//
//	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.5/32")}
//	proxies := &proxyproto.Config{Proxies: trusted}
//	srv := &rpcx.Server{Options: options, Preamble: proxies.Preamble}
//	err := srv.ListenAndServe(ctx, "tcp://:8888") // tls:// as well: the header comes first
//
// In HAProxy, the server line then has send-proxy-v2 (version 2) or send-proxy (version 1).
//
// The package is a module of its own, on github.com/pires/go-proxyproto.
package proxyproto

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/pires/go-proxyproto"
)

// Config says which connections begin with a PROXY header. The zero value trusts nobody,
// and refuses every connection. A Config must not be changed while a server uses it.
//
// The source address decides first, before anything is read. A listed proxy must send a
// header. Any other peer is refused, or served without a header if Direct is set: the peer
// cannot forge an address. List no network in which clients are, too: every host in Proxies
// may claim any address.
type Config struct {
	// Proxies holds the addresses of the proxies: 192.0.2.10/32, for example.
	Proxies []netip.Prefix
	// Direct lets other peers connect, without a header, under their own addresses. If such
	// a peer sends a header all the same, the session or TLS receives it, as bad input.
	Direct bool
	// UnixProxy makes every peer of a unix socket a proxy. The socket's file permissions
	// then decide who may be a proxy.
	UnixProxy bool
	// MaxSize is the maximum size of a header of version 2 in bytes, with the TLVs (type,
	// length, value) that a proxy may add. Default 536; negative: no limit of this package.
	// More than 4,112 bytes also need a larger MaxV2HeaderSize of go-proxyproto. A header
	// of version 1 has 107 bytes at most.
	MaxSize int
}

// defaultMaxSize is what fits into one segment of TCP in any network. Senders of the
// protocol keep headers below, unless they add large TLVs.
const defaultMaxSize = 536

// Preamble is the function for Server.Preamble. It reads the header from a listed proxy,
// and no byte beyond. The result has the addresses of the header, and is as fast as conn:
// the session reads and writes the connection of the proxy directly. Preamble ignores ctx,
// because the server closes conn when ctx ends.
//
// A proxy's own connections, such as health checks, have the command LOCAL (version 2), or
// the protocol UNKNOWN or both addresses of the connection itself (version 1). Preamble
// returns an error that matches [net.ErrClosed], so that the server closes the connection
// without a session or a log record. The same holds if a proxy connects and leaves without
// a byte, or resets the connection within the header: some health checks do.
//
// A proxy also sends UNKNOWN for a client whose address is neither IPv4 nor IPv6, such as a
// client of a unix socket of the proxy. For such clients, let the proxy send version 2.
func (c *Config) Preamble(_ context.Context, conn net.Conn) (net.Conn, error) {
	isProxy, err := c.isProxy(conn.RemoteAddr())
	switch {
	case isProxy:
	case c.Direct:
		return conn, nil
	default:
		return nil, err
	}
	header, err := c.readHeader(conn)
	if err != nil {
		if _, ok := conn.(*tls.Conn); ok {
			err = fmt.Errorf("%w (the header comes before TLS: listen with rpcx.Listen and a tls:// address, not with package tls)", err)
		}
		return nil, fmt.Errorf("read the PROXY header: %w", err)
	}
	if header.Command.IsLocal() || header.Version == 1 && isOfConn(header, conn) {
		return nil, errHealthCheck
	}
	return &proxiedConn{conn, header}, nil
}

// closedError is an error of a connection that the server closes without a log record.
type closedError struct{ text string }

func (e *closedError) Error() string { return e.text }

func (*closedError) Is(target error) bool { return target == net.ErrClosed }

var (
	errHealthCheck error = &closedError{"a connection of the proxy itself, such as a health check"}
	errLeft        error = &closedError{"the proxy has left before the end of the header"}
)

// isProxy reports whether a peer at addr is a listed proxy. If not, the error says why, and
// which field would change that.
func (c *Config) isProxy(addr net.Addr) (bool, error) {
	if addr != nil && strings.HasPrefix(addr.Network(), "unix") {
		if c.UnixProxy {
			return true, nil
		}
		return false, errors.New("the peer of a unix socket is no proxy: set UnixProxy to make it one, or Direct to serve it without a header (proxyproto.Config)")
	}
	peer, ok := addrPortOf(addr)
	if !ok {
		return false, fmt.Errorf("the peer has no IP address (%v), and so is no proxy: set Direct to serve it without a header (proxyproto.Config)", addr)
	}
	for _, prefix := range c.Proxies {
		if unmapPrefix(prefix).Contains(peer.Addr()) {
			return true, nil
		}
	}
	return false, fmt.Errorf("%v is no listed proxy: add it to Proxies, or set Direct to serve it without a header (proxyproto.Config)", peer.Addr())
}

// addrPortOf returns the IP address and the port in addr, an IPv4 address in its short form
// and any address without a zone.
func addrPortOf(addr net.Addr) (netip.AddrPort, bool) {
	var parsed netip.AddrPort
	switch addr := addr.(type) {
	case nil:
	case *net.TCPAddr:
		parsed = addr.AddrPort()
	default:
		parsed, _ = netip.ParseAddrPort(addr.String())
	}
	return netip.AddrPortFrom(parsed.Addr().Unmap().WithZone(""), parsed.Port()), parsed.IsValid()
}

// isOfConn reports whether the header has the addresses of conn itself. Then the proxy
// speaks for itself: HAProxy's health checks have such headers in version 1, which has no
// LOCAL.
func isOfConn(header *proxyproto.Header, conn net.Conn) bool {
	source, ok := addrPortOf(header.SourceAddr)
	destination, ok2 := addrPortOf(header.DestinationAddr)
	remote, _ := addrPortOf(conn.RemoteAddr())
	local, _ := addrPortOf(conn.LocalAddr())
	return ok && ok2 && source == remote && destination == local
}

// unmapPrefix returns a prefix of IPv4 addresses that was written in IPv6's form
// (::ffff:192.0.2.0/120) in its short form, and any other prefix unchanged.
func unmapPrefix(prefix netip.Prefix) netip.Prefix {
	if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
		return netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	return prefix
}

// proxiedConn is a connection behind its header.
type proxiedConn struct {
	net.Conn // of the proxy
	header   *proxyproto.Header
}

// RemoteAddr returns the address of the client.
func (c *proxiedConn) RemoteAddr() net.Addr { return c.header.SourceAddr }

// LocalAddr returns the address to which the client has connected.
func (c *proxiedConn) LocalAddr() net.Addr { return c.header.DestinationAddr }

// NetConn returns the connection of the proxy.
func (c *proxiedConn) NetConn() net.Conn { return c.Conn }

// SameBytes returns the connection that a session may read and write instead.
func (c *proxiedConn) SameBytes() net.Conn { return c.Conn }

// CloseWrite closes this end's half of the connection, if the connection has halves.
func (c *proxiedConn) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Header returns the header that came before the session on conn, or nil if there was
// none. conn is the result of Session.NetConn. The TLVs of the header tell more about the
// client, for example the certificate that the proxy has checked. Callers must not change
// the header.
//
// The address of the proxy itself is that of the connection under conn, by NetConn.
func Header(conn net.Conn) *proxyproto.Header {
	for conn != nil {
		if c, ok := conn.(*proxiedConn); ok {
			return c.header
		}
		wrapper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = wrapper.NetConn()
	}
	return nil
}
