package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// attack is a way to harm a server with default limits, or a client.
type attack struct {
	class
	shows string // the property under test
	// like is the size of the echo requests for comparison, in bytes: about the size of
	// the attack's messages.
	like int
	bounds

	// configure changes the server; nil means the defaults.
	configure func(*rpcx.Server, *websocket.Acceptor)
	// dial connects the attacked clients; nil means rpcx.Dial.
	dial func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error)
}

// bounds holds the limits of an attack that differ from the defaults; zero is the
// default. The constants in verdict.go are the defaults.
type bounds struct {
	heap    uint64  // bytes in use
	cpu     float64 // times the CPU time of an echo of the same bytes over as many connections
	replies float64 // bytes for each byte received; negative: no limit
	full    bool    // the attack keeps the processors fully busy
	// ends is the time by which the server must have ended a session of the attack; 0 is
	// never.
	ends time.Duration
	// lingers says that sessions of the attack may go on for Limits.ProcessingTimeout.
	// throttled says that sessions may go on until their input is handled, with the
	// delays of Limits.CostSoft.
	lingers, throttled bool
	spares             bool // the clients do nothing wrong: the server must not cut off or refuse any
	large              bool // the newcomers' requests have 900 kB
	// locksOut is the time for which newcomers may be refused; negative is for ever.
	locksOut time.Duration
}

// findAttack returns the attack or reference with the given name, or nil.
func findAttack(name string) *attack {
	for i := range attacks {
		if attacks[i].name == name {
			return &attacks[i]
		}
	}
	for i := range references {
		if references[i].name == name {
			return &references[i]
		}
	}
	return nil
}

// Times by which sessions must have been ended.
const (
	soon  = shortAttack
	later = longAttack
)

// Sizes of messages, for attack.like.
const (
	tiny   = 64
	medium = 20_000
	large  = 900_000
)

// attacks lists every attack, in the order of the report.
var attacks = slices.Concat(textsAttacks, peersAttacks, framingsAttacks, tlsAttacks, websocketAttacks, serversAttacks)

// references lists the load for comparison with attacks: no load, connections with a
// single request, and echoes. The references have the transports and sizes of the
// attacks.
var references []attack

func init() {
	for i := range attacks {
		for _, r := range attacks[i].references() {
			if findAttack(r.name) == nil {
				references = append(references, r)
			}
		}
	}
}

// references returns the load for comparison with the attack: calm, connections and
// echoes.
func (a *attack) references() [3]attack {
	over := overTCP // other framings cost about the same
	if !a.serves && (a.over == overTLS || a.over == overWS) {
		over = a.over
	}
	echoes := func() string { return repeat(over.frame(echoRequest(a.like)))() }
	asks := asksOnce(just(over.frame(echoRequest(tiny))))
	count := 4
	if a.full { // the same number of connections beside the honest client
		count = max(count, min(a.count, 60))
	}
	return [3]attack{
		{class: class{name: fmt.Sprint("nothing, ", over), over: over}},
		{class: class{name: fmt.Sprint("connections, ", over), over: over, again: time.Millisecond, count: 8, use: asks}},
		{class: class{name: fmt.Sprintf("echo of %d bytes by %d, %v", a.like, count, over), over: over, count: count, use: pours(echoes)}},
	}
}

const (
	// maxFewSessions is a small Server.MaxSessions, for an attack to fill in time.
	maxFewSessions = 500
	idleTimeout    = 100 * time.Millisecond
)

func fewSessions(srv *rpcx.Server, _ *websocket.Acceptor) {
	srv.MaxSessions = maxFewSessions
	srv.CrowdedIdleTimeout = idleTimeout
}

func oneGroup(srv *rpcx.Server, _ *websocket.Acceptor) {
	srv.Options.Limits.Group = func(*rpcx.Session) string { return "all" }
}

func cancellable(srv *rpcx.Server, _ *websocket.Acceptor) {
	srv.Options.Cancellation = rpcx.LSPCancellation
}

func compresses(_ *rpcx.Server, acceptor *websocket.Acceptor) { acceptor.Compress = true }

func dialWebSocket(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
	return websocket.Dial(ctx, "ws"+addr[len("tcp"):], opts)
}

func dialProxy(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
	d := rpcx.Dialer{SOCKS: &rpcx.SOCKSProxy{Addr: addr[len("tcp://"):], Version: rpcx.SOCKS5}}
	return d.Dial(ctx, "tcp://server.example:8888", opts)
}
