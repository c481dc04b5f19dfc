package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"time"
)

// serversAttacks lists attacks by servers and proxies on clients.
var serversAttacks = []attack{
	{
		class:  class{name: "server: garbage", count: 4, serves: true, raw: true, use: pours(repeat("no message\n"))},
		shows:  "a client is not kept busy for ever with what is no message",
		like:   tiny,
		bounds: bounds{full: true, cpu: 20, replies: 12, ends: later},
	},
	{
		class: class{name: "server: endless line", count: 4, serves: true, raw: true, use: pours(repeat("x"))},
		shows: "a client drops a line without an end as it arrives",
		like:  large,
	},
	{
		class:  class{name: "server: unknown replies", count: 4, serves: true, raw: true, use: pours(repeat(`{"jsonrpc":"2.0","result":1,"id":7777777}` + "\n"))},
		shows:  "a client is not kept busy for ever with replies to nothing",
		like:   tiny,
		bounds: bounds{full: true, ends: later},
	},
	{
		class:  class{name: "server: notifications", count: 4, serves: true, raw: true, use: pours(repeat(`{"jsonrpc":"2.0","method":"news"}` + "\n"))},
		shows:  "a client drops what it has no method for",
		like:   tiny,
		bounds: bounds{full: true},
	},
	{
		class:  class{name: "server: requests", count: 4, serves: true, raw: true, use: pours(repeat(`{"jsonrpc":"2.0","method":"news","id":1}` + "\n"))},
		shows:  "a client answers what it has no method for",
		like:   tiny,
		bounds: bounds{full: true, replies: 3},
	},
	{
		class:  class{name: "server: errors' texts", count: 4, serves: true, raw: true, use: answersErrors},
		shows:  "the text of a peer's error is quoted and cut in what Error returns",
		like:   large,
		bounds: bounds{full: true},
	},
	{
		class: class{name: "server: endless HTTP", count: 4, serves: true, raw: true, use: beginsAndPours("HTTP/1.1 101 Switching Protocols\r\n", repeat("A: b\r\n"))},
		shows: "a client gives up a response without an end",
		like:  large,
		dial:  dialWebSocket,
	},
	{
		class: class{name: "server: SOCKS proxies", count: 20, serves: true, raw: true, use: proxies},
		shows: "a client gives up proxies that answer nonsense, too much, too little or nothing",
		like:  tiny,
		dial:  dialProxy,
	},
}

// answersErrors answers each call with an error. The text of the error is long, and would
// change a terminal's colours and title.
func answersErrors(h *client, conn net.Conn) error {
	message := strings.Repeat(`\u001b[31m\r\n\u0000\u009b`, 100_000/24)
	for calls := bufio.NewReader(conn); ; {
		line, err := calls.ReadString('\n')
		if err != nil {
			return err
		}
		_, id, _ := strings.Cut(line, `"id":`)
		id, _, _ = strings.Cut(id, "}")
		answer := fmt.Sprintf(`{"jsonrpc":"2.0","error":{"code":1,"message":"%s"},"id":%s}`+"\n", message, id)
		if err := h.send(conn, answer, 1); err != nil {
			return err
		}
	}
}

// socksAnswers lists the answers of hostile proxies: nonsense, too much, too little, and
// tunnel addresses that are too long and full of control characters.
var socksAnswers = []string{
	"HTTP/1.1 400 Bad Request\r\n\r\n",
	strings.Repeat("\x05\x00", 10_000),
	"\x05",
	"\x05\x00\x05\x00\x00\x03\xff" + strings.Repeat("\x1b", 257) + "{",
	"\x05\x00\x05\x01\x00\x03\xff" + strings.Repeat("\x1b", 257) + "{",
	"\x05\x02\x01\x01",
	"\x05\xff",
	"",
}

// proxies is a hostile SOCKS proxy, for each connection with another answer. One proxy
// stays silent.
func proxies(h *client, conn net.Conn) error {
	answer := socksAnswers[h.number%len(socksAnswers)]
	if err := h.send(conn, answer, 1); err != nil {
		return err
	}
	if answer == "" || len(answer) == 1 {
		h.pause(time.Second)
		return nil
	}
	return h.pour(conn, repeat("\x05\x00")(), 1, 0)
}
