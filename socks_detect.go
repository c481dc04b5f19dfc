package rpcx

import (
	"context"
	"errors"
	"net"
	"time"
)

// detectTimeout is how long each version is tried for.
const detectTimeout = 5 * time.Second

var detectOrder = []SOCKSVersion{SOCKS5, SOCKS4a, SOCKS4}

// DetectSOCKS finds out what SOCKS proxy is at addr, a host:port or unix:///path. It tries
// [SOCKS5], [SOCKS4a] and [SOCKS4], in this order and on a connection each, for at
// most 5 s each and a third of the time that ctx then has left. It returns nil if
// nothing there answers like a proxy, and also if addr is no address. That there is
// a proxy does not mean that it can connect to anywhere, or that it takes auth.
//
// A SOCKS5 proxy is not asked to connect to anything. One of an older version
// is asked for port 1 of its own machine, for it can be told by nothing less. (A
// proxy that knows no names, and no other version, may be taken for SOCKS4a.)
func DetectSOCKS(ctx context.Context, addr string, auth SOCKSAuth) *SOCKSProxy {
	proxy, err := parseProxyAddr(addr)
	if err != nil {
		return nil
	}
	found, _ := detect(ctx, proxy, auth, nil)
	return found
}

// DetectSOCKSHost does [DetectSOCKS] on one port of a host after the other, and
// returns the first proxy that it finds, or nil. Each port has an even share of the
// time that ctx has left.
func DetectSOCKSHost(ctx context.Context, host string, ports []int, auth SOCKSAuth) *SOCKSProxy {
	var addrs []NetAddress
	for _, port := range ports {
		if addr, err := NewNetAddress(host, port); err == nil {
			addrs = append(addrs, addr)
		}
	}
	found, _ := inTurn(ctx, addrs, func(ctx context.Context, addr NetAddress) (*SOCKSProxy, error) {
		return detect(ctx, addr, auth, nil)
	})
	return found
}

var errNoProxy = errors.New("no SOCKS proxy")

func detect(ctx context.Context, proxy net.Addr, auth SOCKSAuth, dial dialFunc) (*SOCKSProxy, error) {
	for _, version := range detectOrder {
		part, cancel := share(ctx, 3)
		err := probe(part, proxy, version, auth, dial)
		cancel()
		if err == nil || errors.Is(err, ErrSOCKSFailure) { // a refusal is an answer
			return &SOCKSProxy{Addr: proxyAddr(proxy), Version: version, Auth: auth}, nil
		}
	}
	return nil, errNoProxy
}

// probe does as much of a handshake as shows a proxy of that version.
func probe(ctx context.Context, proxy net.Addr, version SOCKSVersion, auth SOCKSAuth, dial dialFunc) error {
	ctx, cancel := context.WithTimeout(ctx, detectTimeout)
	defer cancel()
	dest := anyDestination
	if version == SOCKS4a {
		dest = NetAddress{name: "localhost", port: dest.port}
	}
	h, err := NewSOCKSHandshake(version, dest, auth)
	if err != nil {
		return err
	}
	h.probe = true
	conn, err := connectProxy(ctx, proxy, dial, *h)
	if err != nil {
		return err
	}
	conn.Close()
	return nil
}
