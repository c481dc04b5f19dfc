package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"example.com/rpcx"
)

// Names are looked up by the proxy. Random credentials keep each connection on a
// circuit of its own.
func ExampleSOCKSProxy() {
	proxy := &rpcx.SOCKSProxy{Addr: "127.0.0.1:9050", Auth: rpcx.SOCKSRandomAuth{}}
	fmt.Println(proxy)

	proxy.Dial = torWithoutTheService // for this example

	d := rpcx.Dialer{SOCKS: proxy}
	_, err := d.Dial(context.Background(), "tcp://nobody.onion:50001", nil)
	fmt.Println(errors.Is(err, rpcx.ErrSOCKSFailure))
	if refusal, ok := errors.AsType[*rpcx.SOCKSError](err); ok {
		fmt.Printf("0x%X: %s\n", refusal.Reply, refusal.Message)
	}
	// Output:
	// SOCKS5 proxy at 127.0.0.1:9050, auth: username
	// true
	// 0xF0: onion service descriptor not found
}

// torWithoutTheService connects to a proxy that takes any credentials and finds no
// service.
func torWithoutTheService(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		io.ReadFull(far, make([]byte, 4))
		io.WriteString(far, "\x05\x02")
		io.ReadFull(far, make([]byte, 2+64+1+64))
		io.WriteString(far, "\x01\x00")
		io.ReadFull(far, make([]byte, 7+len("nobody.onion")))
		io.WriteString(far, "\x05\xF0\x00\x01\x00\x00\x00\x00\x00\x00")
	}()
	return near, nil
}

func ExampleParseSOCKSProxy() {
	proxy, err := rpcx.ParseSOCKSProxy("socks5://user:secret@proxy.example")
	fmt.Println(proxy, err)
	// The Dialer of a session, and an http.Transport, can have it.
	_ = rpcx.Dialer{SOCKS: proxy}

	_, err = rpcx.ParseSOCKSProxy("http://proxy.example")
	fmt.Println(err)
	// Output:
	// SOCKS5 proxy at proxy.example:1080, auth: username <nil>
	// parse proxy URL: unknown scheme "http": want socks5 (socks, socks5h), socks4a or socks4, with +unix for a unix socket
}

func ExampleDetectSOCKS() {
	ctx := context.Background()
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close() // so nobody listens there
	fmt.Println(rpcx.DetectSOCKS(ctx, addr, nil) != nil)

	// Tor's ports on this machine: rpcx.DetectSOCKSHost(ctx, "localhost", []int{9050, 9150}, nil)
	fmt.Println(rpcx.DetectSOCKSHost(ctx, "localhost", nil, nil) != nil)
	// Output:
	// false
	// false
}

// The protocol by itself, over whatever carries bytes.
func ExampleSOCKSHandshake() {
	dest, _ := rpcx.ParseNetAddress("example.org:80")
	h, _ := rpcx.NewSOCKSHandshake(rpcx.SOCKS4a, dest, nil)

	send, need, _ := h.Next(nil)
	fmt.Printf("send %q, then read %d bytes\n", send, need)
	send, need, _ = h.Next([]byte("\x00\x5a\x00"))
	fmt.Printf("send %q, then read %d bytes\n", send, need)
	send, need, err := h.Next([]byte("\x00\x00\x00\x00\x00"))
	fmt.Printf("send %q, then read %d bytes, error %v\n", send, need, err)
	// Output:
	// send "\x04\x01\x00P\x00\x00\x00\x01\x00example.org\x00", then read 8 bytes
	// send "", then read 5 bytes
	// send "", then read 0 bytes, error <nil>
}

func ExampleParseNetAddress() {
	for _, text := range []string{"example.org:8080", "[2001:DB8::0:1]:80", "localhost", ":9000", "256.0.0.1:80"} {
		addr, err := rpcx.ParseNetAddress(text, rpcx.AddressDefaults{Host: "127.0.0.1", Port: 50001})
		fmt.Println(addr, err)
	}
	// Output:
	// example.org:8080 <nil>
	// [2001:db8::1]:80 <nil>
	// localhost:50001 <nil>
	// 127.0.0.1:9000 <nil>
	//  invalid host: "256.0.0.1" is neither a name nor an IP address
}

func ExampleParseServiceAddr() {
	defaults := []rpcx.AddressDefaults{
		{Protocol: "ssl", Port: 50002},
		{Protocol: "tcp", Port: 50001, Host: "localhost"},
	}
	for _, text := range []string{"example.org", "TCP://example.org", "tcp", "ssl://[::1]:443"} {
		service, err := rpcx.ParseServiceAddr(text, defaults...)
		fmt.Println(service, err)
	}
	// Output:
	// ssl://example.org:50002 <nil>
	// tcp://example.org:50001 <nil>
	// tcp://localhost:50001 <nil>
	// ssl://[::1]:443 <nil>
}

// An address can be the key of a map, also in JSON.
func ExampleNetAddress() {
	var seen map[rpcx.NetAddress]int
	err := json.Unmarshal([]byte(`{"[::1]:80": 1, "example.org:80": 2}`), &seen)
	addr, _ := rpcx.NewNetAddress("0:0::1", 80)
	fmt.Println(seen[addr], addr.Host(), addr.Port(), addr.IP().IsLoopback(), err)
	// Output:
	// 1 ::1 80 true <nil>
}

func ExampleServiceAddr() {
	addr, _ := rpcx.ParseNetAddress("example.org:443")
	service, err := rpcx.NewServiceAddr("SSL", addr)
	fmt.Println(service, service.Protocol(), service.Address().Host(), err)
	// Output:
	// ssl://example.org:443 ssl example.org <nil>
}
