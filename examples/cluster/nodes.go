package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	natsrpcx "example.com/rpcx/nats"
	"example.com/rpcx/nats/embedded"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// nodes is a NATS cluster in this process, on loopback addresses. In production each node
// is a nats-server on a machine of its own.
type nodes []*embedded.Server

// startNodes starts a cluster of n nodes, and waits until each knows the others.
func startNodes(n int) (nodes, error) {
	var c nodes
	var routes []*url.URL // to the first node, which tells of the others
	for i := range n {
		node, err := embedded.Start(func(o *server.Options) {
			o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
			o.ServerName = fmt.Sprintf("node%d", i+1)
			o.Cluster = server.ClusterOpts{Name: "example", Host: "127.0.0.1", Port: server.RANDOM_PORT}
			o.Routes = routes
		})
		if err != nil {
			c.close()
			return nil, err
		}
		c = append(c, node)
		if i == 0 {
			routes = []*url.URL{{Scheme: "nats", Host: node.NATS.ClusterAddr().String()}}
		}
	}
	for deadline := time.Now().Add(10 * time.Second); !c.connected(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c.close()
			return nil, errors.New("the NATS nodes have no routes after ten seconds")
		}
	}
	return c, nil
}

// connected reports whether each node has a route to each other one.
func (c nodes) connected() bool {
	for _, node := range c {
		routes, err := node.NATS.Routez(nil)
		if err != nil {
			return false
		}
		remote := make(map[string]bool)
		for _, r := range routes.Routes {
			remote[r.RemoteID] = true
		}
		if len(remote) < len(c)-1 {
			return false
		}
	}
	return true
}

// connect returns a connection to node i, which goes to another node when i is gone.
func (c nodes) connect(i int) (*nats.Conn, error) {
	urls := make([]string, len(c))
	for k := range c {
		urls[k] = c[(i+k)%len(c)].NATS.ClientURL()
	}
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}) // the calls show it
	return natsrpcx.Connect(strings.Join(urls, ","), nats.DontRandomize(), quiet)
}

// close stops all nodes.
func (c nodes) close() {
	for _, node := range c {
		node.Close()
	}
}
