// Package benchmarks measures rpcx beside its peers: other Go RPC libraries,
// and a line echo without any RPC as the floor.
//
// Client and server talk over loopback TCP, in one process except where a row
// says otherwise. What is measured is an echo: the client sends a string as the
// one positional parameter, the server sends it back, and every reply is compared
// with what was sent.
//
// Each [Peer] is one file, used in the way that its documentation recommends
// for speed. Handlers that are given undecoded parameters reply with the
// undecoded element, so that no library is charged for decoding that it does
// not ask for.
//
// The benchmarks (go test -bench .) and the command cmd/table run the same
// code: [Open] a [Row] for a peer, then [Bench.Run].
package benchmarks

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Kind tells what a peer is compared as.
type Kind int

const (
	// Floor is what a round trip costs without RPC.
	Floor Kind = iota
	// Ours is rpcx itself.
	Ours
	// JSON is a peer that speaks JSON-RPC.
	JSON
	// Other is a peer that speaks anything else.
	Other
)

// A Peer is one way to do the same work.
type Peer struct {
	Name  string // in benchmark names and flags
	Title string // in tables
	Kind  Kind
	// OneWay is true if the server cannot call a client on the client's connection.
	OneWay bool
	// Over is the name of the floor that the peer is compared with, if the floor
	// is not that of the row.
	Over string
	// Start starts a server on a loopback port. It echoes to any number of clients. The
	// error is [errors.ErrUnsupported] if the peer has no server for the load.
	Start func(Load) (Server, error)
	// Dial connects a client to the server at addr. The error is
	// [errors.ErrUnsupported] if the peer has no client for the load.
	Dial func(ctx context.Context, addr string, load Load) (Client, error)
}

// Load is what a peer will have to do: where a library offers a choice, the
// peer makes the one that suits it.
type Load struct {
	Callers int // goroutines that call at once on each connection
	Size    int // of the echoed strings in bytes, 0 for short ones
	// Notified is to be called for each notification that the server's handler
	// has got, on any goroutine.
	Notified func()
}

// A Server is what a Peer has started.
type Server interface {
	Addr() net.Addr
	// Close stops the server and ends its connections.
	Close() error
}

// A Client is one connection to a Server. Its methods may be called by
// [Load.Callers] goroutines at once. Their calls share the connection, except
// with a library whose connections carry one call at a time: its client has a
// pool of connections, and the peer's title tells so.
type Client interface {
	Echo(ctx context.Context, text string) (string, error)
	Close() error
}

// A Batcher is a Client of a library that has batches.
type Batcher interface {
	// Batch has each string of in echoed, all in one batch, and stores the
	// replies at the same places in out.
	Batch(ctx context.Context, in, out []string) error
}

// A Notifier is a Client of a library that has notifications.
type Notifier interface {
	Notify(ctx context.Context) error
}

// Peers lists all peers in the order of the tables.
var Peers = []Peer{
	floorPeer,
	fifoPeer,
	rpcxPeer,
	rpcxFuncPeer,
	rpcxDefaultPeer,
	rpcxCostOffPeer,
	rpcxRouterPeer,
	rpcxPathPeer,
	rpcxHeadersPeer,
	lspPeer,
	lspAsyncPeer,
	lspClientPeer,
	lspHeadersPeer,
	netrpcPeer,
	jrpc2Peer,
	gethPeer,
	sourcegraphPeer,
	sourcegraphHeadersPeer,
	xexpPeer,
	gobPeer,
	httpPeer,
	connectPeer,
	grpcPeer,
	ttrpcPeer,
	drpcPeer,
	natsPeer,
	wsFloorPeer,
	rpcxWSPeer,
	gethWSPeer,
}

// FloorOf returns the name of the peer that p is compared with as its floor in a row.
func FloorOf(p Peer, row Row) string {
	switch {
	case p.Over != "":
		return p.Over
	case row.Callers > row.Conns:
		return fifoPeer.Name
	}
	return floorPeer.Name
}

// FindPeers returns the peers with the given names, separated by commas, or
// all of them if names is empty.
func FindPeers(names string) ([]Peer, error) {
	return find(Peers, names, func(p Peer) string { return p.Name })
}

// find returns the elements of all that names asks for, in the order of all.
func find[T any](all []T, names string, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	wanted := strings.Split(names, ",")
	var found []T
	var known []string
	for _, v := range all {
		known = append(known, name(v))
		if slices.Contains(wanted, name(v)) {
			found = append(found, v)
		}
	}
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			return nil, fmt.Errorf("no %q among %s", w, strings.Join(known, ", "))
		}
	}
	return found, nil
}
