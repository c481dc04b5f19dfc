package main

import (
	"bytes"
	"compress/flate"
	"strings"
)

// websocketAttacks lists attacks over WebSockets.
var websocketAttacks = []attack{
	{
		class:  class{name: "pings", count: 4, over: overWS, use: pours(repeat(frame(opPing|finalFrame, "")))},
		shows:  "over 100 control frames a second end the session",
		like:   tiny,
		bounds: bounds{cpu: 40, ends: soon},
	},
	{
		class:  class{name: "empty frames", count: 4, over: overWS, use: beginsAndPours(frame(opText, ""), repeat(frame(opContinuing, "")))},
		shows:  "frames without content cost what their bytes cost",
		like:   tiny,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "empty messages", count: 4, over: overWS, use: pours(repeat(frame(opText|finalFrame, "")))},
		shows:  "messages without content are errors",
		like:   tiny,
		bounds: bounds{ends: soon},
	},
	{
		class:  class{name: "frames of one byte", count: 4, over: overWS, use: beginsAndPours(frame(opText, `{"method":"`), repeat(frame(opContinuing, "x")))},
		shows:  "the smallest frames of a message cost what their bytes cost",
		like:   tiny,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "header floods", count: 20, over: overWS, raw: true, use: sends(func() string { return upgrade(strings.Repeat("A:b\r\n", large/5)) })},
		shows:  "a request with too large a header is answered 431",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class: class{name: "many headers", count: 500, over: overWS, raw: true, use: stays(func() string { return upgrade(strings.Repeat("A: 1\r\n", 90)) })},
		shows: "what a session keeps of its request is bounded",
		like:  large,
	},
	{
		class: class{name: "silent upgrades", count: 500, over: overWS, raw: true, use: stays(just("GET / HTTP/1.1\r\n"))},
		shows: "requests that do not end are the http.Server's, and take little",
		like:  tiny,
	},
	{
		class: class{name: "false frame lengths", count: 200, over: overWS, use: stays(just(frameHeader(opText|finalFrame, 1<<62)))},
		shows: "no memory is taken for what a frame announces",
		like:  tiny,
	},
	{
		class:  class{name: "unfinished frames", count: 500, over: overWS, use: stays(fill(frameHeader(opText|finalFrame, large), "x", 600_000, ""))},
		shows:  "large messages without an end make room over WebSockets, too",
		like:   large,
		bounds: bounds{heap: heapAtLimit, large: true},
	},
	{
		class:  class{name: "compression unasked for", count: 4, over: overWS, use: pours(bomb)},
		shows:  "compressed frames that were not agreed on end the session",
		like:   tiny,
		bounds: bounds{ends: soon},
	},
	{
		class:     class{name: "compression bombs", count: 4, over: overWS, raw: true, use: upgradesAndPours("Sec-WebSocket-Extensions: permessage-deflate\r\n", bomb)},
		shows:     "where compression is allowed, what comes out is bounded by Config.MaxSize",
		like:      tiny,
		configure: compresses,
		bounds:    bounds{ends: later},
	},
	{
		class:  class{name: "text over WebSockets", count: 4, over: overWS, use: pours(repeat(frame(opText|finalFrame, "no message")))},
		shows:  "errors over WebSockets end the session as over TCP",
		like:   tiny,
		bounds: bounds{ends: soon},
	},
	{
		class:  class{name: "unread replies by WebSocket", count: 60, over: overWS, use: unread},
		shows:  "replies that nobody reads are bounded over WebSockets, too",
		like:   tiny,
		bounds: bounds{full: true, replies: -1, heap: heapAtLimit},
	},
}

// bomb is a compressed WebSocket message: 10 kB on the wire, 10 MB decompressed.
func bomb() string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // fails only for a level that does not exist
	_, _ = w.Write(bytes.Repeat([]byte(" "), 10_000_000))
	_ = w.Flush()
	return frame(opText|finalFrame|compressed, strings.TrimSuffix(b.String(), "\x00\x00\xff\xff"))
}

// upgradesAndPours asks for a WebSocket with extra header lines, and sends a text again
// and again.
func upgradesAndPours(headers string, t text) use {
	return beginsAndPours(upgrade(headers), t)
}
