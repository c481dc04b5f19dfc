package rpcx

import (
	"fmt"
	"strings"
)

// splitAddr splits an address such as "tcp://host:port" or "unix:///path" into
// its scheme and what [net.Dial] and [net.Listen] take.
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
	default:
		return "", "", false, fmt.Errorf("address %q has an unknown scheme: want tcp://, tls:// (ssl://) or unix://", addr)
	}
	if rest == "" {
		return "", "", false, fmt.Errorf("address %q names no place", addr)
	}
	return network, rest, secure, nil
}
