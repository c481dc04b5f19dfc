package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
	"example.com/rpcx/nats/embedded"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// newBus returns a server within the process, for a single test.
func newBus(t testing.TB, configure ...func(*server.Options)) *embedded.Server {
	t.Helper()
	bus, err := embedded.Start(configure...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bus.Close)
	return bus
}

// cluster is three nodes in this process, which listen on loopback addresses.
type cluster struct{ nodes []*embedded.Server }

// newCluster starts three nodes, and waits until each has routes to the others.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := new(cluster)
	var first *url.URL
	for i := range 3 {
		node := newBus(t, func(o *server.Options) {
			o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
			o.ServerName = fmt.Sprintf("n%d", i)
			o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT}
			if first != nil {
				o.Routes = []*url.URL{first}
			}
		})
		if first == nil {
			first = &url.URL{Scheme: "nats", Host: node.NATS.ClusterAddr().String()}
		}
		c.nodes = append(c.nodes, node)
	}
	for _, node := range c.nodes {
		until(t, "the node has its routes", func() bool {
			remote := make(map[string]bool)
			routes, err := node.NATS.Routez(nil)
			if err != nil {
				return false
			}
			for _, r := range routes.Routes {
				remote[r.RemoteID] = true
			}
			return len(remote) == len(c.nodes)-1
		})
	}
	return c
}

// connect returns a connection to node i, which goes to another node if this one is gone.
func (c *cluster) connect(t testing.TB, i int, options ...nats.Option) *nats.Conn {
	t.Helper()
	var urls []string
	for k := range c.nodes {
		urls = append(urls, c.nodes[(i+k)%len(c.nodes)].NATS.ClientURL())
	}
	own := []nats.Option{nats.DontRandomize(), nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0)}
	conn, err := natsrpcx.Connect(strings.Join(urls, ","), append(own, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// until waits until ok, and fails the test after ten seconds.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in ten seconds: %s", what)
		}
		time.Sleep(pause)
	}
}

// work starts a worker, which the returned function drains. The end of the test does so,
// too.
func work(t testing.TB, srv *rpcx.Server, c natsrpcx.Config) (drain func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	// Owner: the test. End: drain.
	go func() { done <- natsrpcx.Serve(ctx, srv, c) }()
	drained := false
	drain = func() error {
		if drained {
			return nil
		}
		drained = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := drain(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return drain
}

// dial returns a Client.
func dial(t testing.TB, c natsrpcx.Config, opts *rpcx.Options) *natsrpcx.Client {
	t.Helper()
	client, err := natsrpcx.Dial(c, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// gateway returns a session with a server whose handler is Forward(c).
func gateway(t testing.TB, c natsrpcx.Config, opts rpcx.Options, client *rpcx.Options) *rpcx.Session {
	t.Helper()
	return gatewayServer(t, &rpcx.Server{Options: opts}, c, client)
}

// gatewayServer is gateway with a Server, whose Handler is set unless the test has set one.
func gatewayServer(t testing.TB, srv *rpcx.Server, c natsrpcx.Config, opts *rpcx.Options) *rpcx.Session {
	t.Helper()
	if srv.Options.Handler == nil {
		srv.Options.Handler = natsrpcx.Forward(c)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Owner: the test. End: Close of the server.
	go srv.Serve(l)
	s, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
		srv.Close()
		srv.Wait(context.Background())
	})
	return s
}

// pipeGateway is gateway without sockets, for a bubble.
func pipeGateway(t testing.TB, c natsrpcx.Config, opts rpcx.Options, client *rpcx.Options) *rpcx.Session {
	t.Helper()
	if opts.Handler == nil {
		opts.Handler = natsrpcx.Forward(c)
	}
	srv := &rpcx.Server{Options: opts}
	near, far := net.Pipe()
	peer := srv.ServeConn(far)
	s := rpcx.NewSession(near, client)
	t.Cleanup(func() {
		s.Close()
		<-s.Done()
		<-peer.Done()
		srv.Close()
	})
	return s
}

// pausedConn is a connection that can be paused, as if its machine had stopped.
type pausedConn struct {
	slot chan struct{} // taken during a pause
}

func newPausedConn() *pausedConn { return &pausedConn{make(chan struct{}, 1)} }

func (p *pausedConn) pause() { p.slot <- struct{}{} }
func (p *pausedConn) goOn()  { <-p.slot }

// provider wraps the server of a connection in the process, so that p can pause what the
// connection reads.
func (p *pausedConn) provider(server nats.InProcessConnProvider) nats.InProcessConnProvider {
	return pausedProvider{p, server}
}

type pausedProvider struct {
	paused *pausedConn
	server nats.InProcessConnProvider
}

func (p pausedProvider) InProcessConn() (net.Conn, error) {
	conn, err := p.server.InProcessConn()
	return &pausedNetConn{conn, p.paused}, err
}

type pausedNetConn struct {
	net.Conn
	paused *pausedConn
}

func (c *pausedNetConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.paused.pause()
	c.paused.goOn()
	return n, err
}

// cutConn is the way to a server in this process, which can be cut.
type cutConn struct {
	server nats.InProcessConnProvider

	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func (c *cutConn) InProcessConn() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		return nil, errors.New("cut")
	}
	conn, err := c.server.InProcessConn()
	c.conns = append(c.conns, conn)
	return conn, err
}

func (c *cutConn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = true
	for _, conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

func (c *cutConn) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = false
}
