package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// attack is one way to harm a server with default limits, or a client.
type attack struct {
	class
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
	heap    uint64  // bytes
	cpu     float64 // times an echo of the same bytes, and as many connections
	replies float64 // bytes for each byte received; any number if negative
	full    bool    // the processors have all they can do
	// ends is after how much time sessions of the attack must have been ended, 0 if never.
	ends    time.Duration
	lingers bool // its sessions may go on for Limits.ProcessingTimeout
	spares  bool // its clients do nothing wrong: none may be cut off, nor refused
	large   bool // the newcomers' requests have 900 kB
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
var attacks = []attack{
	// Text that is no message, or a bad one.
	{class: class{name: "endless line", count: 4, use: pours(repeat("x"))}, like: large},
	{class: class{name: "endless digits", count: 4, use: beginsAndPours(`{"jsonrpc":"2.0","id":`, repeat("7"))}, like: large},
	{class: class{name: "blank lines", count: 4, use: pours(repeat("\n"))}, like: tiny},
	{class: class{name: "zeros", count: 4, use: pours(repeat("0\n"))}, like: tiny, bounds: bounds{ends: soon}},
	{class: class{name: "batches of 10,000 zeros", count: 4, use: pours(fill("[", "0,", medium, "0]\n"))}, like: medium, bounds: bounds{ends: soon}},
	{class: class{name: "batches of 16 zeros", count: 4, use: pours(repeat("[" + strings.Repeat("0,", 15) + "0]\n"))}, like: tiny, bounds: bounds{ends: soon}},
	{class: class{name: "deep nesting", count: 4, use: pours(params("any", strings.Repeat("[", 9_000)+strings.Repeat("]", 9_000)+",", "[]"))}, like: large, bounds: bounds{heap: heapAtLimit, full: true}},
	{class: class{name: "nesting too deep", count: 4, use: pours(params("any", "[", ""))}, like: large, bounds: bounds{ends: soon}},
	{class: class{name: "invalid UTF-8", count: 4, use: pours(inString("\xff"))}, like: large},
	{class: class{name: "HTTP requests", count: 4, use: pours(repeat("GET / HTTP/1.1\r\nHost: server\r\n\r\n"))}, like: tiny, bounds: bounds{ends: soon}},
	// Values that are costly to look at.
	{class: class{name: "digits", count: 4, use: pours(params("any", "7", ""))}, like: large},
	{class: class{name: "exponents", count: 4, use: pours(params("sum", "1e999999999,", "1"))}, like: large},
	{class: class{name: "escapes", count: 4, use: pours(inString(`\u0041`))}, like: large},
	{class: class{name: "lone surrogates", count: 4, use: pours(inString(`\ud800`))}, like: large},
	{class: class{name: "escaped keys", count: 4, use: pours(escapedKeys)}, like: large},
	{class: class{name: "duplicate keys", count: 4, use: pours(duplicateKeys)}, like: large},
	{class: class{name: "large values of any type", count: 10, use: pours(params("any", "[],", "[]"))}, like: large, bounds: bounds{heap: heapAtLimit, full: true}},
	{class: class{name: "batches of 10,000", count: 4, use: pours(func() string { return batch(10_000) })}, like: tiny, bounds: bounds{full: true}},
	// Text that is repeated to the peer, or to a log.
	{class: class{name: "huge method names", count: 4, use: pours(fill(`{"jsonrpc":"2.0","id":1,"method":"`, "m", large, "\"}\n"))}, like: large},
	{class: class{name: "huge ids", count: 4, use: pours(fill(`{"jsonrpc":"2.0","method":"m","id":"`, "i", large, "\"}\n"))}, like: large},
	{class: class{name: "ill-formed ids", count: 4, use: pours(fill(`{"jsonrpc":"2.0","method":"m","id":[`, "{},", large, "{}]}\n"))}, like: large},
	{class: class{name: "log injection", count: 4, use: pours(repeat(`{"jsonrpc":"2.0","method":"m\n\u001b[2Jlevel=ERROR msg=\u0085\u202e"}` + "\n"))}, like: tiny, bounds: bounds{lingers: true}},
	// Requests that are no error.
	{class: class{name: "the same id", count: 4, use: pours(repeat(`{"jsonrpc":"2.0","method":"look","id":1}` + "\n"))}, like: tiny},
	{class: class{name: "unagreed cancellations", count: 4, use: pours(repeat(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}` + "\n"))}, like: tiny, bounds: bounds{lingers: true}},
	{class: class{name: "cancel flood", count: 4, use: cancels}, like: tiny, configure: cancellable},
	{class: class{name: "requests that wait", count: 100, use: pours(repeat(`{"jsonrpc":"2.0","method":"wait","id":1}` + "\n"))}, like: tiny, bounds: bounds{lingers: true, heap: heapAtLimit}},
	{class: class{name: "call-backs unanswered", count: 20, use: pours(repeat(`{"jsonrpc":"2.0","method":"back","id":1}` + "\n"))}, like: tiny, bounds: bounds{replies: 3, lingers: true, heap: heapAtLimit}},
	{class: class{name: "ask and leave", count: 8, use: askAndLeave}, like: tiny},
	{class: class{name: "half-closed connections", count: 8, use: halfClose}, like: tiny},
	// Peers that do not read, send or end.
	{class: class{name: "unread replies", count: 60, use: unread}, like: tiny, bounds: bounds{replies: -1, heap: heapAtLimit}},
	{class: class{name: "unfinished lines", count: 500, use: stays(fill(`{"jsonrpc":"2.0","method":"`, "x", 600_000, ""))}, like: large, bounds: bounds{heap: heapAtLimit, large: true}},
	{class: class{name: "trickled bytes", count: 200, use: trickle(just(`{"jsonrpc":"2.0","method":"echo","params":["x"],"id":1}` + "\n"))}, like: tiny},
	{class: class{name: "slow readers, honest", count: 8, use: readSlowly}, like: tiny, bounds: bounds{spares: true}},
	{class: class{name: "idle connections", count: 600, use: stays(just(""))}, like: tiny, configure: fewSessions, bounds: bounds{locksOut: 3 * idleTimeout}},
	{class: class{name: "churn", again: time.Millisecond, count: 16, use: connectOnly}, like: tiny},
	{class: class{name: "storm", again: time.Millisecond, count: 16, use: storm}, like: tiny},
	{class: class{name: "errors in one subnet", count: 4, use: pours(repeat("0\n"))}, like: tiny, configure: oneGroup, bounds: bounds{ends: soon, locksOut: -1}},

	// Other framings.
	{class: class{name: "endless nesting", count: 4, over: overJSON, use: pours(repeat("["))}, like: large},
	{class: class{name: "endless string", count: 4, over: overJSON, use: beginsAndPours(`{"method":"`, repeat(`\u0041`))}, like: large},
	{class: class{name: "endless headers", count: 4, over: overHeaders, use: pours(repeat("X-Name: value\r\n"))}, like: large},
	{class: class{name: "false content lengths", count: 200, over: overHeaders, use: stays(just("Content-Length: 999999999999\r\n\r\n"))}, like: tiny},
	{class: class{name: "false lengths", count: 200, over: overLengths, use: stays(just("\x00\x0f\x00\x00x"))}, like: tiny},
	{class: class{name: "false lengths of 4 GiB", count: 4, over: overLengths, use: beginsAndPours("\xff\xff\xff\xff", repeat("x"))}, like: large},

	// TLS.
	{class: class{name: "handshakes", again: time.Millisecond, count: 8, over: overTLS, use: connectOnly}, like: tiny, bounds: bounds{full: true}},
	{class: class{name: "silent handshakes", count: 400, over: overTLS, raw: true, use: stays(just(""))}, like: tiny},
	{class: class{name: "trickled handshakes", count: 200, over: overTLS, raw: true, use: trickle(fill("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "x", 500, ""))}, like: tiny},
	{class: class{name: "bytes that are no TLS", again: time.Millisecond, count: 8, over: overTLS, raw: true, use: pours(repeat("0\n"))}, like: tiny},
	{class: class{name: "zeros over TLS", count: 4, over: overTLS, use: pours(repeat("0\n"))}, like: tiny, bounds: bounds{ends: soon}},
	{class: class{name: "unread replies over TLS", count: 60, over: overTLS, use: unread}, like: tiny, bounds: bounds{replies: -1, heap: heapAtLimit}},

	// WebSockets.
	{class: class{name: "pings", count: 4, over: overWS, use: pours(repeat(frame(opPing|finalFrame, "")))}, like: tiny, bounds: bounds{ends: soon}},
	{class: class{name: "empty frames", count: 4, over: overWS, use: beginsAndPours(frame(opText, ""), repeat(frame(opContinuing, "")))}, like: tiny},
	{class: class{name: "empty messages", count: 4, over: overWS, use: pours(repeat(frame(opText|finalFrame, "")))}, like: tiny, bounds: bounds{ends: soon}},
	{class: class{name: "frames of one byte", count: 4, over: overWS, use: beginsAndPours(frame(opText, `{"method":"`), repeat(frame(opContinuing, "x")))}, like: tiny},
	{class: class{name: "header floods", count: 20, over: overWS, raw: true, use: sends(func() string { return upgrade(strings.Repeat("A:b\r\n", large/5)) })}, like: large},
	{class: class{name: "many headers", count: 500, over: overWS, raw: true, use: stays(func() string { return upgrade(strings.Repeat("A: 1\r\n", 90)) })}, like: large},
	{class: class{name: "silent upgrades", count: 500, over: overWS, raw: true, use: stays(just("GET / HTTP/1.1\r\n"))}, like: tiny},
	{class: class{name: "false frame lengths", count: 200, over: overWS, use: stays(just(frameHeader(opText|finalFrame, 1<<62)))}, like: tiny},
	{class: class{name: "unfinished frames", count: 500, over: overWS, use: stays(fill(frameHeader(opText|finalFrame, large), "x", 600_000, ""))}, like: large, bounds: bounds{heap: heapAtLimit, large: true}},
	{class: class{name: "compression unasked for", count: 4, over: overWS, use: pours(bomb)}, like: tiny, bounds: bounds{ends: soon}},
	{class: class{name: "compression bombs", count: 4, over: overWS, raw: true, use: upgradesAndPours("Sec-WebSocket-Extensions: permessage-deflate\r\n", bomb)}, like: tiny, configure: compresses, bounds: bounds{ends: soon}},
	{class: class{name: "text over WebSockets", count: 4, over: overWS, use: pours(repeat(frame(opText|finalFrame, "no message")))}, like: tiny, bounds: bounds{ends: soon}},
	{class: class{name: "unread replies by WebSocket", count: 60, over: overWS, use: unread}, like: tiny, bounds: bounds{replies: -1, heap: heapAtLimit}},

	// Hostile servers, and proxies.
	{class: class{name: "server: garbage", count: 4, serves: true, raw: true, use: pours(repeat("no message\n"))}, like: tiny, bounds: bounds{replies: 12, ends: later}},
	{class: class{name: "server: endless line", count: 4, serves: true, raw: true, use: pours(repeat("x"))}, like: large},
	{class: class{name: "server: unknown replies", count: 4, serves: true, raw: true, use: pours(repeat(`{"jsonrpc":"2.0","result":1,"id":7777777}` + "\n"))}, like: tiny, bounds: bounds{ends: later}},
	{class: class{name: "server: notifications", count: 4, serves: true, raw: true, use: pours(repeat(`{"jsonrpc":"2.0","method":"news"}` + "\n"))}, like: tiny},
	{class: class{name: "server: requests", count: 4, serves: true, raw: true, use: pours(repeat(`{"jsonrpc":"2.0","method":"news","id":1}` + "\n"))}, like: tiny, bounds: bounds{replies: 3}},
	{class: class{name: "server: errors' texts", count: 4, serves: true, raw: true, use: answersErrors}, like: large},
	{class: class{name: "server: endless HTTP", count: 4, serves: true, raw: true, use: beginsAndPours("HTTP/1.1 101 Switching Protocols\r\n", repeat("A: b\r\n"))}, like: large, dial: dialWebSocket},
	{class: class{name: "server: SOCKS proxies", count: 20, serves: true, raw: true, use: proxies}, like: tiny, dial: dialProxy},
}

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
	return [3]attack{
		{class: class{name: fmt.Sprint("nothing, ", over), over: over}},
		{class: class{name: fmt.Sprint("connections, ", over), over: over, again: time.Millisecond, count: 8, use: asks}},
		{class: class{name: fmt.Sprintf("echo of %d bytes, %v", a.like, over), over: over, count: 4, use: pours(echoes)}},
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
