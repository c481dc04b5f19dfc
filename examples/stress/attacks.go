package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// attack is one way to harm a server with default limits, or a client.
type attack struct {
	class
	shows string // what holds
	// like is the size of the echo requests that the attack's bytes are compared with:
	// about that of its own messages.
	like int
	bounds

	// configure changes the server, "" if all is as by default.
	configure func(*rpcx.Server, *websocket.Acceptor)
	// dial connects the clients that are attacked, by rpcx.Dial if it is nil.
	dial func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error)
}

// bounds are what an attack must not exceed, where that is not what all attacks must not
// exceed; zero is the default. See the constants in verdict.go.
type bounds struct {
	heap    uint64  // bytes in use
	cpu     float64 // times an echo of the same bytes, and as many connections
	replies float64 // bytes for each byte received; any number if negative
	full    bool    // the processors have all they can do
	// ends is after how much time sessions of the attack must have been ended, 0 if never.
	ends time.Duration
	// lingers says that its sessions may go on for Limits.ProcessingTimeout, and throttled
	// that they may go on until what they have received is handled with the delays of
	// Limits.CostSoft.
	lingers, throttled bool
	spares             bool // its clients do nothing wrong: none may be cut off, nor refused
	large              bool // the newcomers' requests have 900 kB
	// locksOut is for how long newcomers may be refused: for ever, if negative.
	locksOut time.Duration
}

// findAttack returns the attack of the given name, nil if there is none.
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

// Times after which sessions must have been ended.
const (
	soon  = shortAttack
	later = longAttack
)

// Sizes of messages that like is about.
const (
	tiny   = 64
	medium = 20_000
	large  = 900_000
)

// attacks are all of them, in the order of the report.
var attacks = slices.Concat(textsAttacks, peersAttacks, framingsAttacks, tlsAttacks, websocketAttacks, serversAttacks)

// references are what attacks are compared with: nothing at all, connections that ask
// once, and echoes. They are made for the transports and sizes of the attacks.
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

// references returns what an attack is compared with: calm, connections and echoes.
func (a *attack) references() [3]attack {
	over := overTCP // framings cost about the same
	if !a.serves && (a.over == overTLS || a.over == overWS) {
		over = a.over
	}
	echoes := func() string { return repeat(over.frame(echoRequest(a.like)))() }
	asks := asksOnce(just(over.frame(echoRequest(tiny))))
	count := 4
	if a.full { // the honest client has as many beside it
		count = max(count, min(a.count, 60))
	}
	return [3]attack{
		{class: class{name: fmt.Sprint("nothing, ", over), over: over}},
		{class: class{name: fmt.Sprint("connections, ", over), over: over, again: time.Millisecond, count: 8, use: asks}},
		{class: class{name: fmt.Sprintf("echo of %d bytes by %d, %v", a.like, count, over), over: over, count: count, use: pours(echoes)}},
	}
}

const (
	// maxFewSessions is Server.MaxSessions where there are fewer, to be filled in time.
	maxFewSessions = 500
	idleTimeout    = 200 * time.Millisecond
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
