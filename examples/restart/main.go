//go:build unix

// Restart is a server whose listener outlives its process:
//
//	go build -o /tmp/restart ./examples/restart
//	/tmp/restart -listen tcp://127.0.0.1:8888 -spread 10s
//	kill -HUP $(pgrep -x restart)    # after a new build: the new program takes over
//
// At SIGHUP the program starts its successor, the file of the program as it is then, and
// hands the listener over. When the successor serves, the old process accepts nothing more
// and drains: its sessions end one after another within -spread, and their clients connect
// to the successor. A successor that does not serve changes nothing.
//
// The program also takes a listener from systemd; see rpc.socket and rpc.service.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.com/rpcx"
)

func main() {
	addr := flag.String("listen", "tcp://127.0.0.1:8888", "tcp://host:port or unix:///path, if nobody hands a listener over")
	spread := flag.Duration("spread", 10*time.Second, "time over which the sessions end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so that a second signal ends the program
	if err := run(ctx, *addr, *spread); err != nil {
		fmt.Fprintln(os.Stderr, "restart:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, or until a successor has taken over.
func run(ctx context.Context, addr string, spread time.Duration) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	l, err := listen(ctx, addr)
	if err != nil {
		return err
	}
	defer l.Close()

	srv := &rpcx.Server{
		Options:         rpcx.Options{Handler: methods(), Logger: slog.Default()},
		ShutdownSpread:  spread,
		ShutdownTimeout: 30 * time.Second, // after the spread
	}
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	// Owner: run. End: the end of ctx, or the start of a successor.
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
			}
			if err := startSuccessor(l); err != nil {
				slog.Error("the old process goes on", "err", err)
				continue
			}
			drain()
		}
	}()
	fmt.Printf("listening on %s://%s\n", l.Addr().Network(), l.Addr())
	if err := reportReady(); err != nil { // connections wait in the listener until Serve
		return err
	}
	return srv.ServeContext(ctx, l)
}

// methods returns what the server can do.
func methods() rpcx.Handler {
	router := rpcx.NewRouter()
	router.Handle("pid", rpcx.Func(os.Getpid))
	return router
}
