// Ethereum is a node of a chain of its own, with subscriptions: a block with the transfer
// of a token every few seconds, by a timer.
//
//	go run ./examples/ethereum -listen ws://127.0.0.1:8546 -block 2s
//	go run ./examples/ethereum -listen ws://127.0.0.1:8546 -listen unix:///tmp/ethereum.ipc
//
// The libraries of Ethereum connect to the node as to any other: ethers and viem over
// WebSockets, go-ethereum over the socket as well, whose messages are JSON with nothing
// required between two. The chain is in memory, and is the same in each run, so that a node
// with -head N goes on where a node that has ended was.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	"golang.org/x/sync/errgroup"
)

func main() {
	var addrs []string
	flag.Func("listen", "address: ws://host:port, tcp://host:port or unix:///path; may be given several times (default ws://127.0.0.1:8546)",
		func(addr string) error { addrs = append(addrs, addr); return nil })
	period := flag.Duration("block", 2*time.Second, "time between two blocks")
	head := flag.Uint64("head", 0, "number of the newest block at the beginning")
	flag.Parse()
	if len(addrs) == 0 {
		addrs = []string{"ws://127.0.0.1:8546"}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program
	if err := run(ctx, os.Stdout, addrs, *period, *head); err != nil {
		fmt.Fprintln(os.Stderr, "ethereum:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It writes to out where it listens, a line for each address.
func run(ctx context.Context, out io.Writer, addrs []string, period time.Duration, head uint64) error {
	if period <= 0 {
		return fmt.Errorf("-block %v: want a time above 0", period)
	}
	n := &node{chain: newChain(head), hub: rpcx.Hub{MaxPerSession: 1000}}
	srv := &rpcx.Server{Options: n.options(), MaxGroup: 100, ShutdownTimeout: 10 * time.Second}
	listeners := make([]net.Listener, len(addrs))
	for i, addr := range addrs {
		if host, ok := strings.CutPrefix(addr, webSocket); ok {
			addr = "tcp://" + host
		}
		l, err := rpcx.Listen(ctx, addr, nil)
		if err != nil {
			return err
		}
		defer l.Close()
		listeners[i] = l
	}
	running, ctx := errgroup.WithContext(ctx)
	for i, l := range listeners {
		scheme, _, _ := strings.Cut(addrs[i], "://")
		fmt.Fprintf(out, "listening on %s://%s\n", scheme, l.Addr())
		running.Go(func() error { return serve(ctx, srv, l, scheme+"://" == webSocket) })
	}
	running.Go(func() error { n.mine(ctx, period); return nil })
	return running.Wait()
}

const webSocket = "ws://"

// serve serves l until ctx ends.
func serve(ctx context.Context, srv *rpcx.Server, l net.Listener, web bool) error {
	if !web {
		return srv.ServeContext(ctx, l)
	}
	front := &http.Server{Handler: websocket.Handler(srv), ReadHeaderTimeout: 10 * time.Second}
	return websocket.ServeContext(ctx, srv, front, l)
}

// options returns the options of the sessions of n. WebSockets ignore the Framer.
func (n *node) options() rpcx.Options {
	return rpcx.Options{
		Handler: n.methods(),
		Framer:  rpcx.JSONFramer{},
		Logger:  slog.Default(),
		Limits:  rpcx.Limits{Group: rpcx.GroupBySubnet(24, 48)}, // whose members share one cost
	}
}
