package main

import "time"

// tlsAttacks lists attacks on handshakes and on sessions over TLS.
var tlsAttacks = []attack{
	{
		class:  class{name: "handshakes", again: time.Millisecond, count: 8, over: overTLS, use: connectOnly},
		shows:  "handshakes cost what TLS costs",
		like:   tiny,
		bounds: bounds{full: true},
	},
	{
		class: class{name: "silent handshakes", count: 400, over: overTLS, raw: true, use: stays(just(""))},
		shows: "connections that are silent make room for honest handshakes",
		like:  tiny,
	},
	{
		class:  class{name: "trickled handshakes", count: 200, over: overTLS, raw: true, use: trickle(fill("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "x", 500, ""))},
		shows:  "handshakes that arrive byte by byte do so, too",
		like:   tiny,
		bounds: bounds{cpu: 60},
	},
	{
		class: class{name: "bytes that are no TLS", again: time.Millisecond, count: 8, over: overTLS, raw: true, use: pours(repeat("0\n"))},
		shows: "they end the handshake at once, and fill no log",
		like:  tiny,
	},
	{
		class:  class{name: "zeros over TLS", count: 4, over: overTLS, use: pours(repeat("0\n"))},
		shows:  "errors over TLS end the session as over TCP",
		like:   tiny,
		bounds: bounds{ends: soon},
	},
	{
		class:  class{name: "unread replies over TLS", count: 60, over: overTLS, use: unread},
		shows:  "replies that nobody reads are bounded over TLS, too",
		like:   tiny,
		bounds: bounds{full: true, replies: -1, heap: heapAtLimit},
	},
}
