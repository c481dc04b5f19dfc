package main

import (
	"fmt"
	"strings"
)

// textsAttacks lists attacks with invalid messages, with costly messages, and with texts
// that replies and logs might repeat.
var textsAttacks = []attack{
	{
		class: class{name: "endless line", count: 4, use: pours(repeat("x"))},
		shows: "a line without an end is dropped as it arrives",
		like:  large,
	},
	{
		class: class{name: "endless digits", count: 4, use: beginsAndPours(`{"jsonrpc":"2.0","id":`, repeat("7"))},
		shows: "a number without an end is dropped as it arrives",
		like:  large,
	},
	{
		class:  class{name: "blank lines", count: 4, use: pours(repeat("\n"))},
		shows:  "blank lines are passed over, and many of them are an error",
		like:   tiny,
		bounds: bounds{cpu: 20},
	},
	{
		class:  class{name: "zeros", count: 4, use: pours(repeat("0\n"))},
		shows:  "the smallest messages that are wrong end the session after about a hundred",
		like:   tiny,
		bounds: bounds{ends: soon},
	},
	{
		class:  class{name: "batches of 10,000 zeros", count: 4, use: pours(fill("[", "0,", medium, "0]\n"))},
		shows:  "a batch is given up at its 17th invalid member",
		like:   medium,
		bounds: bounds{ends: soon},
	},
	{
		class:  class{name: "batches of 16 zeros", count: 4, use: pours(repeat("[" + strings.Repeat("0,", 15) + "0]\n"))},
		shows:  "what has the longest replies for its size ends the session after about a hundred",
		like:   tiny,
		bounds: bounds{cpu: 20, ends: soon},
	},
	{
		class:  class{name: "deep nesting", count: 4, use: pours(params("any", strings.Repeat("[", 9_000)+strings.Repeat("]", 9_000)+",", "[]"))},
		shows:  "values that are nested 9,000 levels deep are decoded in bounded memory",
		like:   large,
		bounds: bounds{cpu: 60, lingers: true, heap: heapAtLimit, full: true},
	},
	{
		class:  class{name: "nesting too deep", count: 4, use: pours(params("any", "[", ""))},
		shows:  "deeper ones are refused at the 10,000th level",
		like:   large,
		bounds: bounds{ends: later},
	},
	{
		class: class{name: "invalid UTF-8", count: 4, use: pours(inString("\xff"))},
		shows: "a large message that is no JSON is refused",
		like:  large,
	},
	{
		class:  class{name: "HTTP requests", count: 4, use: pours(repeat("GET / HTTP/1.1\r\nHost: server\r\n\r\n"))},
		shows:  "a client of another protocol is recognised and ended at once",
		like:   tiny,
		bounds: bounds{ends: soon},
	},
	{
		class:  class{name: "digits", count: 4, use: pours(params("any", "7", ""))},
		shows:  "a number of 900,000 digits is decoded in linear time",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "exponents", count: 4, use: pours(params("sum", "1e999999999,", "1"))},
		shows:  "numbers that no float holds are refused",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "escapes", count: 4, use: pours(inString(`\u0041`))},
		shows:  "escape sequences are decoded in linear time",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "lone surrogates", count: 4, use: pours(inString(`\ud800`))},
		shows:  "surrogates without their half are replaced in linear time",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "escaped keys", count: 4, use: pours(escapedKeys)},
		shows:  "names of params with escape sequences are decoded once",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "duplicate keys", count: 4, use: pours(duplicateKeys)},
		shows:  "members of a request that come again and again are passed over",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "large values of any type", count: 10, use: pours(params("any", "[],", "[]"))},
		shows:  "what is decoded at once is bounded by Server.MaxHandledBytes",
		like:   large,
		bounds: bounds{cpu: 20, lingers: true, heap: heapAtLimit, full: true},
	},
	{
		class:  class{name: "batches of 10,000", count: 4, use: pours(func() string { return batch(10_000) })},
		shows:  "batches of as many requests as are allowed are handled",
		like:   tiny,
		bounds: bounds{full: true},
	},
	{
		class: class{name: "huge method names", count: 4, use: pours(fill(`{"jsonrpc":"2.0","id":1,"method":"`, "m", large, "\"}\n"))},
		shows: "neither the reply nor the log repeats them",
		like:  large,
	},
	{
		class: class{name: "huge ids", count: 4, use: pours(fill(`{"jsonrpc":"2.0","method":"m","id":"`, "i", large, "\"}\n"))},
		shows: "the reply repeats them, as it must, and nothing else does",
		like:  large,
	},
	{
		class:  class{name: "ill-formed ids", count: 4, use: pours(fill(`{"jsonrpc":"2.0","method":"m","id":[`, "{},", large, "{}]}\n"))},
		shows:  "neither the reply nor the log repeats them",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "log injection", count: 4, use: pours(repeat(`{"jsonrpc":"2.0","method":"m\n\u001b[2Jlevel=ERROR msg=\u0085\u202e"}` + "\n"))},
		shows:  "control characters are quoted in the log",
		like:   tiny,
		bounds: bounds{lingers: true},
	},
}

// escapedKeys is a request with named params, whose names have escape sequences.
func escapedKeys() string {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"method":"echo","params":{`)
	for i := 0; b.Len() < large; i++ {
		fmt.Fprintf(&b, `"\u006d%d":0,`, i)
	}
	b.WriteString(`"\u006dessage":"m"}}` + "\n")
	return b.String()
}

// duplicateKeys is a request with many copies of one member.
func duplicateKeys() string {
	return fill(`{"jsonrpc":"2.0","id":1,`, `"method":"echo",`, large, `"params":["m"]}`+"\n")()
}
