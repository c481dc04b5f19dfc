package main

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// peersAttacks lists attacks by peers with valid requests, and by peers that do not read,
// send or end.
var peersAttacks = []attack{
	{
		class:  class{name: "the same id", count: 4, use: pours(repeat(`{"jsonrpc":"2.0","method":"look","id":1}` + "\n"))},
		shows:  "requests with the same id are separate",
		like:   tiny,
		bounds: bounds{cpu: 40}, // two wake-ups of an idle processor for each request
	},
	{
		class:  class{name: "unagreed cancellations", count: 4, use: pours(repeat(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}` + "\n"))},
		shows:  "notifications that cost little are held to their cost",
		like:   tiny,
		bounds: bounds{throttled: true},
	},
	{
		class:     class{name: "cancel flood", count: 4, use: cancels},
		shows:     "requests that are cancelled at once are answered or dropped",
		like:      tiny,
		configure: cancellable,
		bounds:    bounds{full: true},
	},
	{
		class:  class{name: "requests that wait", count: 100, use: pours(repeat(`{"jsonrpc":"2.0","method":"wait","id":1}` + "\n"))},
		shows:  "what waits is bounded by Limits.Queue, and counted with what it takes up",
		like:   tiny,
		bounds: bounds{lingers: true, heap: heapAtLimit},
	},
	{
		class:  class{name: "call-backs unanswered", count: 20, use: pours(repeat(`{"jsonrpc":"2.0","method":"back","id":1}` + "\n"))},
		shows:  "handlers that wait for the peer do not stop the reader",
		like:   tiny,
		bounds: bounds{full: true, replies: 5, lingers: true, heap: heapAtLimit},
	},
	{
		class:  class{name: "ask and leave", count: 8, use: askAndLeave},
		shows:  "handlers of a peer that has left are cancelled, and what it had asked for is dropped",
		like:   tiny,
		bounds: bounds{cpu: 20},
	},
	{
		class: class{name: "half-closed connections", count: 8, use: halfClose},
		shows: "a peer that has finished sending is answered",
		like:  tiny,
	},
	{
		class:  class{name: "unread replies", count: 60, use: unread},
		shows:  "replies that nobody reads are bounded by Server.MaxQueuedBytes",
		like:   tiny,
		bounds: bounds{full: true, replies: -1, heap: heapAtLimit},
	},
	{
		class:  class{name: "unfinished lines", count: 500, use: stays(fill(`{"jsonrpc":"2.0","method":"`, "x", 600_000, ""))},
		shows:  "large messages without an end make room for those of honest newcomers",
		like:   large,
		bounds: bounds{full: true, heap: heapAtLimit, large: true},
	},
	{
		class:  class{name: "trickled bytes", count: 200, use: trickle(just(`{"jsonrpc":"2.0","method":"echo","params":["x"],"id":1}` + "\n"))},
		shows:  "bytes that arrive one by one cost what a packet costs",
		like:   tiny,
		bounds: bounds{cpu: 60},
	},
	{
		class:  class{name: "slow readers, honest", count: 8, use: readSlowly},
		shows:  "clients that read slowly are answered in full",
		like:   tiny,
		bounds: bounds{spares: true},
	},
	{
		class:     class{name: "idle connections", count: 600, use: stays(just(""))},
		shows:     "idle sessions make room when Server.MaxSessions is nearly reached",
		like:      tiny,
		configure: fewSessions,
		bounds:    bounds{locksOut: 10 * idleTimeout},
	},
	{
		class: class{name: "churn", again: time.Millisecond, count: 16, use: connectOnly},
		shows: "connections that come and go leave nothing behind",
		like:  tiny,
	},
	{
		class: class{name: "connections that are reset", again: time.Millisecond, count: 16, use: storm},
		shows: "connections that ask once and are reset leave nothing behind",
		like:  tiny,
	},
	{
		class:     class{name: "errors in one subnet", count: 4, use: pours(repeat("0\n"))},
		shows:     "a session that was good goes on beside the errors of its group",
		like:      tiny,
		configure: oneGroup,
		bounds:    bounds{ends: soon, locksOut: -1},
	},
}

// askAndLeave sends many slow requests, and closes the connection.
func askAndLeave(h *client, conn net.Conn) error {
	return h.send(conn, strings.Repeat(request("look", 1, ""), 1000), 1000)
}

// halfClose sends requests, finishes sending, and reads every answer.
func halfClose(h *client, conn net.Conn) error {
	const n = 100
	if err := h.send(conn, strings.Repeat(request("echo", 1, `"half"`), n), n); err != nil {
		return err
	}
	if err := conn.(*countedConn).CloseWrite(); err != nil {
		return err
	}
	return h.read(conn, n, 0)
}

// cancels sends slow requests, and cancels each request.
func cancels(h *client, conn net.Conn) error {
	var b strings.Builder
	for id := range 500 {
		b.WriteString(request("look", id, ""))
		fmt.Fprintf(&b, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}`+"\n", id)
	}
	return h.pour(conn, b.String(), 1000, 0)
}

// unread asks for 64 MiB again and again, and reads nothing.
func unread(h *client, conn net.Conn) error {
	for text := h.class.over.frame(strings.TrimSpace(request("blob", 1, ""))); ; {
		if err := h.send(conn, strings.Repeat(text, 1024), 1024); err != nil {
			return err
		}
	}
}

// readSlowly sends 2,000 requests at once, and reads the answers at 40 kB a second.
func readSlowly(h *client, conn net.Conn) error {
	const n = 2000
	_ = conn.(*countedConn).SetReadBuffer(4 << 10)
	if err := h.send(conn, strings.Repeat(request("echo", 1, `"at my leisure"`), n), n); err != nil {
		return err
	}
	return h.read(conn, n, 500*time.Millisecond)
}
