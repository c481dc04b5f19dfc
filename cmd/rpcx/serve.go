package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"strings"

	"example.com/rpcx"
)

// listenFlags is the flags of a command that others connect to.
type listenFlags struct {
	prefix    string // of the names of the flags
	cert, key string
}

func (l *listenFlags) declare(fs *flags, prefix string) {
	l.prefix = prefix
	fs.File(&l.cert, prefix+"cert", "`FILE`: the PEM file of the certificate for listening at tls://, https:// and wss://")
	fs.File(&l.key, prefix+"key", "`FILE`: the key of the certificate. Default: in its file")
}

// listen listens at a target. The listener of an https:// or wss:// target makes TLS.
func (l *listenFlags) listen(ctx context.Context, t target) (net.Listener, error) {
	var config *tls.Config
	switch {
	case t.kind == kindStdio:
		return nil, usagef("listening is not possible at a command")
	case !t.secure && l.cert != "":
		return nil, usagef("--%scert needs tls://, https:// or wss://, and not %s", l.prefix, t.shown)
	case t.secure && l.cert == "":
		return nil, usagef("%s needs --%scert", t.shown, l.prefix)
	case t.secure:
		pair, err := loadKeyPair(l.cert, l.key)
		if err != nil {
			return nil, usagef("--%scert, --%skey: %w", l.prefix, l.prefix, err)
		}
		config = &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	addr, err := listenAddr(t)
	if err != nil {
		return nil, err
	}
	listener, err := rpcx.Listen(ctx, addr, config)
	if err != nil {
		return nil, connectionError(err)
	}
	return listener, nil
}

// listenAddr returns the address of a target for rpcx.Listen.
func listenAddr(t target) (string, error) {
	if t.kind == kindStream {
		return t.addr, nil
	}
	u, err := url.Parse(t.addr)
	if err != nil {
		return "", usagef("%w", withoutURL(err))
	}
	scheme, port := "tcp", "80"
	if t.secure {
		scheme, port = "tls", "443"
	}
	return scheme + "://" + net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)), nil
}

// shownAddr returns the address of a listener as clients write it. The port of t may be 0.
func shownAddr(t target, l net.Listener) string {
	scheme, _, _ := strings.Cut(t.addr, "://")
	if scheme == "unix" {
		return t.addr
	}
	addr := scheme + "://" + l.Addr().String()
	if u, err := url.Parse(t.addr); err == nil && t.kind != kindStream {
		addr += u.EscapedPath()
	}
	return addr
}
