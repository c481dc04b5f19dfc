// Server answers echo(message) and sum(values...) until it is told to stop.
//
//	go run ./examples/server -listen tcp://127.0.0.1:8888
//	go run ./examples/server -listen tls://:8889 -cert cert.pem -key key.pem
//	go run ./examples/server -listen unix:///tmp/rpcx.sock -protocol auto
//	go run ./examples/server -listen ws://127.0.0.1:8890
//
// At SIGINT or SIGTERM it finishes what is under way, for at most ten seconds; a
// second signal ends it at once. It can be tried without a client:
//
//	echo '{"jsonrpc":"2.0","method":"sum","params":[1,2],"id":0}' | nc 127.0.0.1 8888
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
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
	addr := flag.String("listen", "tcp://127.0.0.1:8888", "address: tcp://host:port, tls://host:port, unix:///path or ws://host:port")
	protocol := flag.String("protocol", "v2", "version of JSON-RPC: v2, v1, loose or auto")
	cert := flag.String("cert", "", "file of the certificate, for tls")
	key := flag.String("key", "", "file of its key, for tls")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program
	if err := run(ctx, *addr, *protocol, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr, protocol, cert, key string) error {
	p := protocols[protocol]
	if p == nil {
		return fmt.Errorf("unknown protocol %q: want v2, v1, loose or auto", protocol)
	}
	config, err := certificate(cert, key)
	if err != nil {
		return err
	}
	// ListenAndServe would do, but here the address is wanted: the port may be 0.
	scheme, host, _ := strings.Cut(addr, "://")
	web := scheme == "ws"
	if web {
		addr = "tcp://" + host
	}
	l, err := rpcx.Listen(ctx, addr, config)
	if err != nil {
		return err
	}
	srv := &rpcx.Server{
		Options:         rpcx.Options{Handler: methods(), Protocol: p, Logger: slog.Default()},
		OnSession:       logSession,
		ShutdownTimeout: grace,
	}
	fmt.Printf("listening on %s://%s\n", scheme, l.Addr())
	if web {
		// The handler may be one of many in a mux.
		front := &http.Server{Handler: websocket.Handler(srv), ReadHeaderTimeout: 10 * time.Second}
		return websocket.ServeContext(ctx, srv, front, l)
	}
	return srv.ServeContext(ctx, l)
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

// logSession logs a session's beginning and its end.
func logSession(s *rpcx.Session) {
	log := slog.With("peer", s.RemoteAddr())
	log.Info("connected")
	s.OnClose(func(err error) {
		stats := s.Stats()
		log.Info("disconnected", "reason", err, "requests", stats.RequestsReceived, "errors", stats.Errors)
	})
}
