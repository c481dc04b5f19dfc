package rpcx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
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
	conn, err := d.connect(ctx, addr)
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
	return startAlone(newStream(conn, o.Framer), o), nil
}

func (d *Dialer) connect(ctx context.Context, addr string) (net.Conn, error) {
	if err := duration.Check("Dialer", d); err != nil {
		return nil, err
	}
	network, address, secure, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := bounded.DialTimeout(ctx, d.Timeout)
	defer cancel()
	conn, err := d.open(ctx, network, address, secure)
	return conn, bounded.DialError(ctx, err)
}

// open makes the connection, with TLS if secure is set.
func (d *Dialer) open(ctx context.Context, network, address string, secure bool) (net.Conn, error) {
	conn, err := d.dial(ctx, network, address)
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

// dial makes the connection, without TLS.
func (d *Dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	switch {
	case d.SOCKS != nil:
		return d.SOCKS.dial(ctx, network, address, d.DialContext)
	case d.DialContext != nil:
		return d.DialContext(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}
