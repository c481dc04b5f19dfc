// Browser serves a page whose script and this program call each other over a
// WebSocket: the page makes the calls that are typed into it, answers a call of
// the server's, and shows counters that the server pushes to all pages.
//
//	go run ./examples/browser -listen 127.0.0.1:8080
//
// and look at the address that it prints.
package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

//go:embed page.html
var page []byte

func main() {
	addr := flag.String("listen", "127.0.0.1:8080", "address: host:port")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr string) error {
	var requests atomic.Int64
	count := func(next rpcx.Handler) rpcx.Handler {
		return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			requests.Add(1)
			return next.ServeRPC(ctx, req)
		})
	}
	srv := &rpcx.Server{Options: rpcx.Options{
		Handler:    methods(),
		Middleware: []func(rpcx.Handler) rpcx.Handler{count},
		Logger:     slog.Default(),
	}, ShutdownTimeout: 10 * time.Second}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	mux.Handle("/rpc", websocket.Handler(srv)) // only for pages of this host

	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	// Owner: run. End: the end of ctx.
	go push(ctx, srv, &requests)
	fmt.Printf("look at http://%s/\n", l.Addr())
	return websocket.ServeContext(ctx, srv, web, l) // ends both servers, in order
}

// push sends the counters to all pages, again and again.
func push(ctx context.Context, srv *rpcx.Server, requests *atomic.Int64) {
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for s := range srv.Sessions() {
			// A page that does not read misses some.
			_, _ = s.TryNotify("counters", rpcx.Args{srv.Stats().Sessions, requests.Load()})
		}
	}
}

// methods returns what pages may call.
func methods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("sum", rpcx.Func(func(values ...float64) float64 {
		sum := 0.0
		for _, v := range values {
			sum += v
		}
		return sum
	}))
	router.Handle("greet", rpcx.Func(func(ctx context.Context, s *rpcx.Session) (string, error) {
		name, err := rpcx.Call[string](ctx, s, "name", nil) // asks the page
		return "hello, " + name, err
	}))
	return router
}
