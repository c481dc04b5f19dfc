package rpchttp

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwardedFor is the header in which a proxy adds the address of its client.
const forwardedFor = "X-Forwarded-For"

// XForwardedFor returns a function for [Handler].Client that believes the header
// X-Forwarded-For of the proxies with the given addresses. [netip.Prefix]{} stands for
// connections without an IP address, which are those of unix sockets.
//
// Each proxy adds its client on the right, so the header is read from the right. Several
// header lines are one list. Ports and brackets do not matter. The result is the first
// address that belongs to no listed proxy. A hop that is no address ends the search, and
// the result is the last proxy before. For a request of anybody else, the header is
// ignored, and the result is the address of the connection.
func XForwardedFor(proxies ...netip.Prefix) func(*http.Request) netip.Addr {
	proxies = slices.Clone(proxies)
	for i, p := range proxies {
		if bits := p.Bits() - 96; p.Addr().Is4In6() && bits >= 0 {
			proxies[i] = netip.PrefixFrom(p.Addr().Unmap(), bits)
		}
	}
	listed := func(addr netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool {
			if p == (netip.Prefix{}) {
				return !addr.IsValid()
			}
			return p.Contains(addr)
		})
	}
	return func(r *http.Request) netip.Addr {
		client := remoteAddr(r).Addr()
		for _, line := range slices.Backward(r.Header[forwardedFor]) {
			for line != "" {
				if !listed(client) {
					return client
				}
				i := strings.LastIndexByte(line, ',')
				hop := strings.TrimSpace(line[i+1:])
				line = line[:max(i, 0)]
				if hop == "" { // lists may have empty elements
					continue
				}
				addr, ok := parseHop(hop)
				if !ok {
					return client
				}
				client = addr
			}
		}
		return client
	}
}

// parseHop parses an address with or without brackets and a port.
func parseHop(hop string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(trimBrackets(hop))
	if err != nil {
		withPort, err := netip.ParseAddrPort(hop)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone(""), true
}
