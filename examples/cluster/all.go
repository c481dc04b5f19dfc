package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// cluster is everything in one process.
type cluster struct {
	nodes    nodes
	gateways []*gateway
	workers  []*worker
	conns    []*nats.Conn // of the gateways
}

// worker is a worker of a cluster in one process.
type worker struct {
	conn  *nats.Conn
	drain context.CancelFunc
	ended chan error
}

// startCluster starts three nodes, four workers and three gateways.
func startCluster(ctx context.Context, record recorder) (*cluster, error) {
	c := new(cluster)
	var err error
	if c.nodes, err = startNodes(3); err != nil {
		return nil, err
	}
	for i := range 4 {
		conn, err := c.nodes.connect(i)
		if err != nil {
			c.close()
			return nil, err
		}
		workerCtx, drain := context.WithCancel(context.Background())
		w := &worker{conn, drain, make(chan error, 1)}
		// Owner: the cluster. End: drain, or the connection is closed.
		go func() { w.ended <- serveWorker(workerCtx, conn, record, nil) }()
		c.workers = append(c.workers, w)
	}
	for i := range 3 {
		conn, err := c.nodes.connect(i)
		if err != nil {
			c.close()
			return nil, err
		}
		c.conns = append(c.conns, conn)
		g, err := startGateway(ctx, gatewayConfig{conn: conn, listen: "tcp://127.0.0.1:0"})
		if err != nil {
			c.close()
			return nil, err
		}
		c.gateways = append(c.gateways, g)
	}
	return c, nil
}

// The last of each kind is killed. Without a word to anybody, its connections end.

func (c *cluster) killWorker() {
	w := c.workers[len(c.workers)-1]
	w.conn.Close()
}

func (c *cluster) killGateway() {
	c.gateways[len(c.gateways)-1].kill()
	c.conns[len(c.conns)-1].Close()
}

func (c *cluster) killNode() {
	c.nodes[len(c.nodes)-1].NATS.Shutdown()
}

// close drains gateways and workers, and stops the nodes. The clients are gone.
func (c *cluster) close() {
	for _, g := range c.gateways {
		_ = g.drain(context.Background())
	}
	for _, w := range c.workers {
		w.drain()
		<-w.ended
		w.conn.Close()
	}
	for _, conn := range c.conns {
		conn.Close()
	}
	c.nodes.close()
}

// runAll is the form without a role.
func runAll(ctx context.Context, s *settings, out io.Writer) error {
	l := newLoad(nil, s, out)
	c, err := startCluster(ctx, &l.log)
	if err != nil {
		return err
	}
	for _, g := range c.gateways {
		l.addrs = append(l.addrs, g.addr)
	}
	fmt.Fprintf(out, "3 NATS nodes, 4 workers, 3 gateways at %v, %d clients\n", l.addrs, s.clients)
	var killing sync.WaitGroup
	killCtx, stop := context.WithCancel(ctx)
	if s.kill {
		killing.Go(func() {
			for _, k := range []struct {
				name string
				kill func()
			}{{"a worker", c.killWorker}, {"a gateway", c.killGateway}, {"a NATS node", c.killNode}} {
				select {
				case <-time.After(s.duration / 4):
				case <-killCtx.Done():
					return
				}
				k.kill()
				l.note(k.name + " was killed")
			}
		})
	}
	l.run(ctx)
	stop()
	killing.Wait()
	c.close()
	return l.report(true)
}
