// Server answers echo(message) and sum(values...) until it is told to stop. It listens at
// each address that is given:
//
//	go run ./examples/server -listen tcp://127.0.0.1:8888 -listen unix:///tmp/rpcx.sock
//	go run ./examples/server -listen tls://:8889 -cert cert.pem -key key.pem
//	go run ./examples/server -listen http://127.0.0.1:8890/rpc -listen ws://127.0.0.1:8890/ws
//
// The addresses http and ws of the same host and port share a web server; the path of a
// request decides. Its path /ready is for load balancers: 200, or 503 during the shutdown.
//
// At SIGINT or SIGTERM it finishes what is under way, for at most ten seconds; a
// second signal ends it at once. It can be tried without a client:
//
//	echo '{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":0}' | nc 127.0.0.1 8888
//	curl -H 'Content-Type: application/json' http://127.0.0.1:8890/rpc \
//	    -d '{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":0}'
//
// The file main.go has the server and its methods, listen.go the addresses.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"

	"golang.org/x/sync/errgroup"
)

// grace is how long the server goes on after the first signal.
const grace = 10 * time.Second

var protocols = map[string]rpcx.Protocol{
	"v2":    rpcx.JSONRPCv2,
	"v1":    rpcx.JSONRPCv1,
	"loose": rpcx.JSONRPCLoose,
	"auto":  rpcx.JSONRPCAutoDetect,
}

func main() {
	var addrs []string
	flag.Func("listen", "address: tcp://host:port, tls://host:port, unix:///path, http://host:port/path or ws://host:port/path; "+
		"may be given several times (default tcp://127.0.0.1:8888)", func(addr string) error { addrs = append(addrs, addr); return nil })
	protocol := flag.String("protocol", "v2", "version of JSON-RPC: v2, v1, loose or auto")
	cert := flag.String("cert", "", "file of the certificate, for tls")
	key := flag.String("key", "", "file of its key, for tls")
	flag.Parse()
	if len(addrs) == 0 {
		addrs = []string{"tcp://127.0.0.1:8888"}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program
	if err := run(ctx, os.Stdout, addrs, *protocol, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. It writes to out where it listens, a line for each address.
func run(ctx context.Context, out io.Writer, addrs []string, protocol, cert, key string) error {
	p := protocols[protocol]
	if p == nil {
		return fmt.Errorf("unknown protocol %q: want v2, v1, loose or auto", protocol)
	}
	config, err := certificate(cert, key)
	if err != nil {
		return err
	}
	srv := &rpcx.Server{ // one, with the same limits for all addresses
		Options:         rpcx.Options{Handler: methods(), Protocol: p, Logger: slog.Default()},
		OnSession:       logSession,
		ShutdownTimeout: grace,
	}
	fronts, urls, err := listen(ctx, srv, addrs, config)
	for _, f := range fronts {
		defer f.Close()
	}
	if err != nil {
		return err
	}
	for _, url := range urls {
		fmt.Fprintln(out, "listening on", url)
	}
	running, ctx := errgroup.WithContext(ctx) // the end of one is the end of all
	for _, f := range fronts {
		running.Go(func() error { return f.serve(ctx, srv) })
	}
	return running.Wait()
}

// methods returns what the server can do.
func methods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("echo", rpcx.Func(func(ctx context.Context, message string) (string, error) {
		return message, nil
	}, "message"))
	router.Handle("sum", rpcx.Func(func(ctx context.Context, values ...float64) (float64, error) {
		sum := 0.0
		for _, v := range values {
			sum += v
		}
		return sum, nil
	}))
	return router
}

// certificate returns the TLS configuration, nil if there is no certificate.
func certificate(cert, key string) (*tls.Config, error) {
	if cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	return &tls.Config{Certificates: []tls.Certificate{pair}}, err
}

// logSession logs a session's beginning and its end. Each HTTP request is a session of its
// own, which is not logged.
func logSession(s *rpcx.Session) {
	if rpchttp.Request(s) != nil {
		return
	}
	log := slog.With("peer", s.RemoteAddr())
	log.Info("connected")
	s.OnClose(func(err error) {
		stats := s.Stats()
		log.Info("disconnected", "reason", err, "requests", stats.RequestsReceived, "errors", stats.Errors)
	})
}
