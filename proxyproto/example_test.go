package proxyproto_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"example.com/rpcx"
	"example.com/rpcx/proxyproto"
)

// The server is reached through proxies on this machine only. In a program, Proxies holds
// the addresses of the proxies: 10.0.0.5/32, say.
func ExampleConfig() {
	router := rpcx.NewRouter()
	router.Handle("whoami", rpcx.Func(func(s *rpcx.Session) string { return s.RemoteAddr().String() }))
	proxies := &proxyproto.Config{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	srv := &rpcx.Server{
		Options: rpcx.Options{
			Handler: router,
			Limits:  rpcx.Limits{Group: rpcx.GroupBySubnet(32, 64)}, // one budget for a client, not for the proxy
		},
		Preamble: proxies.Preamble,
	}
	l, err := rpcx.Listen(context.Background(), "tcp://127.0.0.1:0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- srv.Serve(l) }()

	conn, err := net.Dial("tcp", l.Addr().String()) // HAProxy does this, with send-proxy
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(conn, "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n")
	s := rpcx.NewSession(conn, nil) // the client
	fmt.Println(rpcx.Call[string](context.Background(), s, "whoami", nil))
	s.Close()
	srv.Shutdown(context.Background())
	fmt.Println(<-served)
	// Output:
	// 203.0.113.7:56324 <nil>
	// rpcx: server closed
}

// The header may tell more about the client, such as the name that it has asked for.
func ExampleHeader() {
	router := rpcx.NewRouter()
	router.Handle("version", rpcx.Func(func(s *rpcx.Session) int {
		if header := proxyproto.Header(s.NetConn()); header != nil {
			return int(header.Version)
		}
		return 0
	}))
	proxies := &proxyproto.Config{
		Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		Direct:  true, // others connect without a header
	}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}, Preamble: proxies.Preamble}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error)
	go func() { served <- srv.Serve(l) }()

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprint(conn, "PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n")
	s := rpcx.NewSession(conn, nil)
	fmt.Println(rpcx.Call[int](context.Background(), s, "version", nil))
	s.Close()
	srv.Shutdown(context.Background())
	fmt.Println(<-served)
	// Output:
	// 1 <nil>
	// rpcx: server closed
}
