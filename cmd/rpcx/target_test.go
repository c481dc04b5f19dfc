package main

import (
	"strings"
	"testing"
)

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		addr  string
		flags *connFlags
		want  string // kind and address, or a part of the error
	}{
		{"localhost:1", &connFlags{}, "stream tcp://localhost:1"},
		{"localhost:1", &connFlags{tls: true}, "stream tls://localhost:1"},
		{"[::1]:1", &connFlags{}, "stream tcp://[::1]:1"},
		{":1", &connFlags{}, "stream tcp://:1"},
		{"localhost:1", &connFlags{framing: "ws"}, "ws ws://localhost:1/"},
		{"localhost:1/rpc", &connFlags{framing: "ws", tls: true}, "ws wss://localhost:1/rpc"},
		{"localhost:1/a/b", &connFlags{framing: "http"}, "http http://localhost:1/a/b"},
		{"TCP://localhost:1", &connFlags{}, "stream tcp://localhost:1"},
		{"tcp://localhost:1", &connFlags{tls: true}, "stream tls://localhost:1"},
		{"tls://localhost:1", &connFlags{sni: "x"}, "stream tls://localhost:1"},
		{"ssl://localhost:1", &connFlags{}, "stream tls://localhost:1"},
		{"unix:///run/x", &connFlags{}, "stream unix:///run/x"},
		{"/run/x", &connFlags{}, "stream unix:///run/x"},
		{"./x", &connFlags{}, "stream unix://./x"},
		{"ws://host/x", &connFlags{headers: []string{"A: b"}}, "ws ws://host/x"},
		{"https://host/x", &connFlags{auth: "a:b"}, "http https://host/x"},
		{"https://host/x", &connFlags{framing: "ws"}, "ws https://host/x"},
		{"stdio:a 'b c'", &connFlags{}, "stdio [a b c]"},
		{"localhost", &connFlags{}, `address "localhost" has no port; want host:port, as in localhost:8888`},
		{"localhost:", &connFlags{}, "has no port"},
		{"tcp://localhost", &connFlags{}, "has no port"},
		{"[::1]", &connFlags{}, "has no port"},
		{"::1", &connFlags{}, "in brackets, as in [::1]:8888"},
		{"target_test.go", &connFlags{}, "is a file; for a socket write unix://"},
		{"localhost:1/x", &connFlags{}, "has a path; write http://localhost:1/x or ws://"},
		{"unix://", &connFlags{}, "has no path"},
		{"ftp://x:1", &connFlags{}, "has an unknown scheme"},
		{"http:///x", &connFlags{}, "has no host"},
		{"http://a b", &connFlags{}, "is not a URL"},
		{"stdio:", &connFlags{}, "names no command"},
		{"stdio:'a", &connFlags{}, "ends within quotes"},
		{"ws://host", &connFlags{framing: "line"}, "--framing line is not possible with ws://host"},
		{"ws://host", &connFlags{framing: "http"}, "--framing http is not possible with ws://host"},
		{"tcp://host:1", &connFlags{framing: "ws"}, "--framing ws is not possible"},
		{"host:1", &connFlags{auth: "a:b"}, "--header and --auth are for HTTP and WebSockets"},
		{"host:1", &connFlags{tlsCA: "x"}, "need TLS"},
		{"http://host", &connFlags{insecure: true}, "need TLS"},
		{"tls://host:1", &connFlags{key: "x"}, "--key needs --cert"},
		{"stdio:x", &connFlags{proxy: "socks5://x"}, "--proxy is not possible with a command"},
	} {
		t.Run(c.addr+" "+c.flags.framing, func(t *testing.T) {
			target, err := c.flags.parseTarget(c.addr)
			got := target.kind + " " + target.addr
			if target.kind == kindStdio {
				got += "[" + strings.Join(target.command, " ") + "]"
			}
			if err != nil {
				if got = err.Error(); exitCodeOf(t.Context(), err) != exitUsage || !strings.Contains(got, c.want) {
					t.Errorf("error %v, want %s", err, c.want)
				}
				return
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// --stdio takes the place of ADDR.
func TestTargetStdio(t *testing.T) {
	c := &connFlags{stdio: "prog -x"}
	target, rest, err := c.targetOf([]string{"method"})
	if err != nil || target.kind != kindStdio || strings.Join(target.command, "|") != "prog|-x" || len(rest) != 1 {
		t.Errorf("%+v, %v, %v", target, rest, err)
	}
}
