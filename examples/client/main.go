// Client calls the server of examples/server: rightly, wrongly, and in a batch,
// to show what comes of it.
//
//	go run ./examples/client -connect tcp://127.0.0.1:8888
//	go run ./examples/client -connect tls://localhost:8889 -ca cert.pem
//	go run ./examples/client -connect unix:///tmp/rpcx.sock -protocol v1
//	go run ./examples/client -connect tcp://localhost:8888 -proxy socks5://127.0.0.1:9050
//	go run ./examples/client -connect ws://127.0.0.1:8890/ws
//	go run ./examples/client -connect http://127.0.0.1:8890/rpc
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
	"example.com/rpcx/websocket"
)

var protocols = map[string]rpcx.Protocol{
	"v2":    rpcx.JSONRPCv2,
	"v1":    rpcx.JSONRPCv1,
	"loose": rpcx.JSONRPCLoose,
}

func main() {
	addr := flag.String("connect", "tcp://127.0.0.1:8888", "address: tcp://host:port, tls://host:port, unix:///path, or ws://, wss://, http:// or https://host:port/path")
	protocol := flag.String("protocol", "v2", "version of JSON-RPC: v2, v1 or loose")
	ca := flag.String("ca", "", "file of the certificates to trust, for tls")
	insecure := flag.Bool("insecure", false, "trust any certificate, for tls")
	proxy := flag.String("proxy", "", "SOCKS proxy to connect through: socks5://user:password@host:port, socks4a:// or socks4://")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, *addr, *protocol, *ca, *insecure, *proxy); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

// run connects, and makes all the calls.
func run(ctx context.Context, addr, protocol, ca string, insecure bool, proxy string) error {
	p := protocols[protocol]
	if p == nil {
		return fmt.Errorf("unknown protocol %q: want v2, v1 or loose", protocol)
	}
	config := &tls.Config{InsecureSkipVerify: insecure}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("no certificate in %s", ca)
		}
	}
	dialer := rpcx.Dialer{TLS: config}
	if proxy != "" {
		var err error
		if dialer.SOCKS, err = rpcx.ParseSOCKSProxy(proxy); err != nil {
			return err
		}
	}
	c, err := dial(ctx, dialer, addr, &rpcx.Options{Protocol: p})
	if err != nil {
		return err
	}
	defer c.Close()

	fmt.Println("Calls:")
	call(ctx, c, "echo", rpcx.Args{"Howdy"})
	call(ctx, c, "echo", map[string]any{"message": "by name"}) // not in JSON-RPC 1.0
	call(ctx, c, "sum", rpcx.Args{1, 2, 3.5})
	call(ctx, c, "sum", nil)

	fmt.Println("Bad calls:")
	call(ctx, c, "nope", nil)
	call(ctx, c, "echo", nil)
	call(ctx, c, "echo", rpcx.Args{"too", "many"})
	call(ctx, c, "echo", rpcx.Args{5})
	call(ctx, c, "echo", map[string]any{"text": "a wrong name"})
	call(ctx, c, "sum", rpcx.Args{1, "two"})
	call(ctx, c, "echo", "neither an array nor an object")

	fmt.Println("A batch:")
	batch(ctx, c)

	if s, ok := c.(*rpcx.Session); ok {
		return s.Shutdown(ctx)
	}
	return nil
}

// dial connects, except over HTTP, where each call connects if it needs to.
func dial(ctx context.Context, d rpcx.Dialer, addr string, opts *rpcx.Options) (rpcx.Caller, error) {
	switch scheme, _, _ := strings.Cut(addr, "://"); scheme {
	case "http", "https":
		web := rpchttp.Dialer{TLS: d.TLS, SOCKS: d.SOCKS}
		return web.Dial(addr, opts)
	case "ws", "wss":
		web := websocket.Dialer{Dialer: d}
		return web.Dial(ctx, addr, opts)
	}
	return d.Dial(ctx, addr, opts)
}

// call makes a call and prints what came of it.
func call(ctx context.Context, c rpcx.Caller, method string, params any) {
	var result json.RawMessage // whatever it is
	err := c.Call(ctx, method, params, &result)
	args, _ := json.Marshal(params)
	show(fmt.Sprintf("%s %s", method, args), result, err)
}

// batch sends good and bad calls together. (JSON-RPC 1.0 has no batches.)
func batch(ctx context.Context, c rpcx.Caller) {
	var b rpcx.Batch
	var echoed, sum json.RawMessage
	first := b.Call("echo", rpcx.Args{"in a batch"}, &echoed)
	b.Notify("echo", rpcx.Args{"not answered"})
	second := b.Call("nope", nil, nil)
	third := b.Call("sum", rpcx.Args{4, 5}, &sum)

	err := c.SendBatch(ctx, &b)
	if _, sent := errors.AsType[*rpcx.BatchError](err); err != nil && !sent {
		show("the batch", nil, err)
		return
	}
	show("echo", echoed, first.Err())
	show("nope", nil, second.Err())
	show("sum", sum, third.Err())
	show("the batch", nil, err)
}

// show prints a result or an error; of an error, whose it is.
func show(what string, result json.RawMessage, err error) {
	switch e := err.(type) {
	case nil:
		fmt.Printf("  %s -> %s\n", what, result)
	case *rpcx.Error:
		fmt.Printf("  %s -> the peer's error %d: %s\n", what, e.Code, e.Message)
	default:
		fmt.Printf("  %s -> %v\n", what, err)
	}
}
