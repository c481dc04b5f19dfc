package main

import (
	"net"
	"net/url"
	"os"
	"strings"
)

// The kinds of targets.
const (
	kindStream = "stream" // tcp, tls, unix: bytes with a framing
	kindWS     = "ws"
	kindHTTP   = "http"
	kindStdio  = "stdio"
)

// target is a place to connect to.
type target struct {
	kind    string
	addr    string   // for the library: tcp://host:port, unix:///path, ws://…, http://…
	command []string // of a stdio target
	secure  bool     // TLS is used
	shown   string   // for messages, without secrets
}

// addrForms is for error texts.
const addrForms = "host:port, tcp://host:port, tls://host:port, unix:///path, ws://…, wss://…, http://…, https://… or 'stdio:COMMAND ARGS'"

// targetOf takes the target from --stdio, or from the first of args, and returns the other
// arguments.
func (c *connFlags) targetOf(args []string) (target, []string, error) {
	if c.stdio != "" {
		t, err := c.parseTarget("stdio:" + c.stdio)
		return t, args, err
	}
	if len(args) == 0 {
		return target{}, nil, usagef("no address; want %s", addrForms)
	}
	t, err := c.parseTarget(args[0])
	return t, args[1:], err
}

// parseTarget reads the address of the target, and checks it against the flags.
func (c *connFlags) parseTarget(addr string) (target, error) {
	t, err := c.parseAddr(addr)
	if err != nil {
		return target{}, err
	}
	c.secure = t.secure
	return t, c.checkFor(t)
}

// parseAddr reads an address. Errors do not show its password.
func (c *connFlags) parseAddr(addr string) (target, error) {
	c.keepURLSecret(addr)
	t, err := c.parseForm(addr)
	if err != nil {
		return target{}, usagef("%s", c.redact(err.Error()))
	}
	return t, nil
}

// parseForm reads one of addrForms.
func (c *connFlags) parseForm(addr string) (target, error) {
	if line, ok := strings.CutPrefix(addr, "stdio:"); ok {
		words, err := splitWords(line)
		if err != nil {
			return target{}, usagef("address %q: %w", addr, err)
		}
		if len(words) == 0 {
			return target{}, usagef("address %q names no command", addr)
		}
		return target{kind: kindStdio, command: words, shown: words[0]}, nil
	}
	if strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "./") {
		addr = "unix://" + addr
	}
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		return c.parseHostPort(addr)
	}
	scheme = strings.ToLower(scheme)
	switch scheme {
	case "tcp", "tls", "ssl":
		if err := checkHostPort(addr, rest); err != nil {
			return target{}, err
		}
		secure := scheme != "tcp" || c.tls
		if secure {
			scheme = "tls"
		}
		return target{kind: kindStream, addr: scheme + "://" + rest, secure: secure, shown: addr}, nil
	case "unix":
		if rest == "" {
			return target{}, usagef("address %q has no path", addr)
		}
		return target{kind: kindStream, addr: addr, shown: addr}, nil
	case "ws", "wss", "http", "https":
		return c.parseURL(scheme, addr)
	}
	return target{}, usagef("address %q has an unknown scheme; want %s", addr, addrForms)
}

// parseHostPort returns the target for an address without a scheme, which --framing and
// --tls decide.
func (c *connFlags) parseHostPort(addr string) (target, error) {
	host, path, hasPath := strings.Cut(addr, "/")
	if err := checkHostPort(addr, host); err != nil {
		return target{}, err
	}
	scheme := "tcp"
	switch c.framing {
	case "ws", "http":
		scheme = c.framing
		if c.tls {
			scheme += "s"
		}
		return c.parseURL(scheme, scheme+"://"+host+"/"+path)
	}
	if hasPath {
		return target{}, usagef("address %q has a path; write http://%s or ws://%s", addr, addr, addr)
	}
	if c.tls {
		scheme = "tls"
	}
	return target{kind: kindStream, addr: scheme + "://" + host, secure: c.tls, shown: addr}, nil
}

func (c *connFlags) parseURL(scheme, addr string) (target, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return target{}, usagef("the address is not a URL: %w", withoutURL(err))
	}
	if u.Hostname() == "" {
		return target{}, usagef("address %q has no host", u.Redacted())
	}
	if err := checkPort(u.Redacted(), u.Port()); u.Port() != "" && err != nil {
		return target{}, err
	}
	t := target{kind: kindHTTP, addr: addr, secure: scheme == "https" || scheme == "wss", shown: u.Redacted()}
	if scheme == "ws" || scheme == "wss" || c.framing == "ws" {
		t.kind = kindWS
	}
	return t, nil
}

// withoutURL removes the URL from an error of package url: it may have a password.
func withoutURL(err error) error {
	if e, ok := err.(*url.Error); ok {
		return e.Err
	}
	return err
}

// checkHostPort checks host:port. addr is the address as it was written.
func checkHostPort(addr, hostPort string) error {
	host, port := hostPort, ""
	if i := strings.LastIndexByte(hostPort, ':'); i >= 0 && !strings.HasSuffix(hostPort, "]") {
		host, port = hostPort[:i], hostPort[i+1:]
	}
	switch {
	case strings.Contains(host, ":") && !strings.HasPrefix(host, "["):
		return usagef("address %q: write an IPv6 address in brackets, as in [::1]:8888", addr)
	case port == "":
		if _, err := os.Stat(addr); err == nil {
			return usagef("address %q is a file; for a socket write unix://%s", addr, addr)
		}
		return usagef("address %q has no port; want host:port, as in %s:8888", addr, host)
	}
	return checkPort(addr, port)
}

// checkPort refuses what is neither the number nor the name of a port.
func checkPort(addr, port string) error {
	if _, err := net.LookupPort("tcp", port); err != nil {
		return usagef("address %q: %q is no port; want a number up to 65535", addr, port)
	}
	return nil
}

// checkFor refuses flags that would have no effect on the target.
func (c *connFlags) checkFor(t target) error {
	web := t.kind == kindWS || t.kind == kindHTTP
	switch {
	case web && c.framing != "" && c.framing != t.kind:
		return usagef("--framing %s is not possible with %s", c.framing, t.shown)
	case !web && (c.framing == "ws" || c.framing == "http"):
		return usagef("--framing %s is not possible with %s; write a %s:// address", c.framing, t.shown, c.framing)
	case !web && (len(c.headers) > 0 || c.auth != ""):
		return usagef("--header and --auth are for HTTP and WebSockets, not for %s", t.shown)
	case !t.secure && (c.tls || c.tlsCA != "" || c.cert != "" || c.sni != "" || c.insecure):
		return usagef("--tls, --tls-ca, --cert, --sni and --insecure need TLS, which %s has not: "+
			"write tls://, wss:// or https://, or --tls with host:port", t.shown)
	case c.key != "" && c.cert == "":
		return usagef("--key needs --cert")
	case c.proxy != "" && t.kind == kindStdio:
		return usagef("--proxy is not possible with a command")
	}
	return nil
}
