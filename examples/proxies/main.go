// Proxies is a server behind proxies, which know its clients: nginx, HAProxy and Tor. The
// configurations nginx.conf and torrc are for it, with its defaults:
//
//	go -C examples/proxies run . -onion /tmp/onion.sock
//	nginx -c "$PWD/examples/proxies/nginx.conf" -e stderr -g 'daemon off;'
//
// It is a module of its own, since it needs the module proxyproto.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

func main() {
	tcp := flag.String("tcp", "127.0.0.1:8881", "address for connections with PROXY headers")
	web := flag.String("web", "127.0.0.1:8882", "address for HTTP and WebSockets")
	onion := flag.String("onion", "", "path of the unix socket for Tor; empty for none")
	proxy := flag.String("proxies", "127.0.0.1/32", "address of the proxies")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program
	if err := run(ctx, *tcp, *web, *onion, *proxy); err != nil {
		fmt.Fprintln(os.Stderr, "proxies:", err)
		os.Exit(1)
	}
}

// run serves at all addresses until ctx ends.
func run(ctx context.Context, tcp, web, onion, proxy string) error {
	proxies, err := netip.ParsePrefix(proxy)
	if err != nil {
		return err
	}
	srv, handler := behindProxies(methods(), proxies)
	serving, ctx := errgroup.WithContext(ctx)
	serving.Go(func() error { return stopped(srv.ListenAndServe(ctx, "tcp://"+tcp)) })
	serving.Go(func() error {
		l, err := net.Listen("tcp", web)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 32 << 10}
		return stopped(websocket.ServeContext(ctx, srv, server, l))
	})
	if onion != "" {
		serving.Go(func() error { return behindTor(methods()).ListenAndServe(ctx, "unix://"+onion) })
	}
	slog.Info("listening", "tcp", tcp, "web", web, "onion", onion)
	return serving.Wait()
}

// stopped returns err, or nil if the other listener of the server has stopped it first.
func stopped(err error) error {
	if errors.Is(err, rpcx.ErrServerClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// methods returns what the servers can do.
func methods() *rpcx.Router {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(message string) string { return message }, "message"))
	router.Handle("whoami", rpcx.Func(clientOf))
	router.Handle("greet", rpcx.Func(func(ctx context.Context, s *rpcx.Session) (string, error) {
		name, err := rpcx.Call[string](ctx, s, "name", nil) // calls the client back
		return "hello, " + name, err
	}))
	return router
}
