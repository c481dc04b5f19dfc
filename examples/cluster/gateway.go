package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"example.com/rpcx/proxyproto"
	"example.com/rpcx/rpchttp"
	"github.com/nats-io/nats.go"
)

// gateway is a server for clients, whose requests the workers answer.
type gateway struct {
	server    *rpcx.Server
	web       *http.Server // for /ready
	addr      string       // for clients, tcp://host:port
	readyAddr string       // of web, host:port
	serving   sync.WaitGroup
}

// answerTimeout is how long a gateway waits for a worker. The call of a client whose worker
// was killed lasts so long, and then ends as "started": nobody knows whether it was carried
// out.
const answerTimeout = 2 * time.Second

// gatewayConfig says how a gateway listens.
type gatewayConfig struct {
	conn    *nats.Conn
	listen  string         // for clients, tcp://host:port
	ready   string         // for GET /ready, host:port; "": nowhere
	proxies []netip.Prefix // who may connect, each with a PROXY header; none: everybody, without one
	notice  time.Duration  // Server.ShutdownNotice
	spread  time.Duration  // Server.ShutdownSpread
	logger  *slog.Logger   // nil: silent
}

// startGateway starts a gateway.
func startGateway(ctx context.Context, c gatewayConfig) (*gateway, error) {
	g := &gateway{server: &rpcx.Server{
		ShutdownNotice: c.notice,
		ShutdownSpread: c.spread,
		Options: rpcx.Options{
			Handler: natsrpcx.Forward(natsrpcx.Config{Conn: c.conn}), // instead of a router
			Limits:  rpcx.Limits{ProcessingTimeout: answerTimeout},
			Logger:  c.logger,
		},
	}}
	if len(c.proxies) > 0 {
		g.server.Preamble = (&proxyproto.Config{Proxies: c.proxies}).Preamble
	}
	l, err := rpcx.Listen(ctx, c.listen, nil)
	if err != nil {
		return nil, err
	}
	g.addr = "tcp://" + l.Addr().String()
	if c.ready != "" {
		readyListener, err := net.Listen("tcp", c.ready)
		if err != nil {
			l.Close()
			return nil, err
		}
		g.readyAddr = readyListener.Addr().String()
		mux := http.NewServeMux()
		mux.Handle("/ready", rpchttp.Ready(g.server))
		g.web = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		// Owner: the gateway. End: kill or drain.
		g.serving.Go(func() { _ = g.web.Serve(readyListener) })
	}
	// Owner: the gateway. End: kill or drain.
	g.serving.Go(func() { _ = g.server.Serve(l) })
	return g, nil
}

// drain ends the gateway so that no call is lost. First /ready says no, and all else goes
// on, for Server.ShutdownNotice: balancers send no new clients any more. Then the sessions
// end, one after another, over Server.ShutdownSpread.
func (g *gateway) drain(ctx context.Context) error {
	err := g.server.Shutdown(ctx)
	g.kill()
	return err
}

// kill ends the gateway at once.
func (g *gateway) kill() {
	g.server.Close()
	if g.web != nil {
		g.web.Close()
	}
	g.serving.Wait()
	_ = g.server.Wait(context.Background())
}
