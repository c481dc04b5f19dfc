package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// What hostile clients do with connections, and servers. Texts are made when an attack
// begins: the program under attack, which has the same table, shall not hold them.

// use is what a hostile client does with a connection.
type use = func(*client, net.Conn) error

// text makes what is sent.
type text func() string

// block is about how much is sent in one write.
const block = 64 << 10

// repeat repeats unit, for one write.
func repeat(unit string) text { return fill("", unit, block, "") }

// fill repeats unit up to about the given size, between prefix and suffix.
func fill(prefix, unit string, size int, suffix string) text {
	return func() string {
		return prefix + strings.Repeat(unit, max(1, size/len(unit))) + suffix
	}
}

// just returns a text as it is.
func just(s string) text { return func() string { return s } }

// inString makes a request whose argument is a string of units, as large as is allowed.
func inString(unit string) text {
	return fill(`{"jsonrpc":"2.0","id":1,"method":"echo","params":["`, unit, large, "\"]}\n")
}

// echoRequest returns a request of about the given size, which is answered with as much.
func echoRequest(size int) string {
	const around = `{"jsonrpc":"2.0","method":"echo","params":[""],"id":1}`
	return strings.TrimSpace(request("echo", 1, `"`+strings.Repeat("x", max(1, size-len(around)))+`"`))
}

// params makes a request whose params are a list of units, as large as is allowed.
func params(method, unit, last string) text {
	return fill(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":[[`, unit, large, last+"]]}\n")
}

// pours sends a text again and again, and reads what comes back.
func pours(t text) use { return beginsAndPours("", t) }

// beginsAndPours sends a beginning, and then a text again and again.
func beginsAndPours(beginning string, t text) use {
	return func(h *client, conn net.Conn) error {
		if err := h.send(conn, beginning, 0); err != nil {
			return err
		}
		return h.pour(conn, t(), 1, 0)
	}
}

// sends sends a text, and reads until the server closes the connection.
func sends(t text) use {
	return func(h *client, conn net.Conn) error {
		err := h.send(conn, t(), 1)
		_, _ = io.Copy(io.Discard, conn)
		return err
	}
}

// stays sends a text and stays. When the server closes the connection, it
// stays away.
func stays(t text) use {
	return func(h *client, conn net.Conn) error {
		if err := h.send(conn, t(), 1); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, conn)
		return err
	}
}

// trickle sends a text again and again, 200 bytes a second.
func trickle(t text) use {
	return func(h *client, conn net.Conn) error {
		text := t()
		for i := 0; h.pause(5 * time.Millisecond); i++ {
			if err := h.send(conn, text[i%len(text):][:1], 0); err != nil {
				return err
			}
		}
		return nil
	}
}

// connectOnly closes the connection.
func connectOnly(*client, net.Conn) error { return nil }

// asksOnce asks, waits for the answer, and closes the connection.
func asksOnce(t text) use {
	return func(h *client, conn net.Conn) error {
		if err := h.send(conn, t(), 1); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, block))
		return err
	}
}

// upgradesAndPours asks for a WebSocket with more header lines, and sends a text again
// and again.
func upgradesAndPours(headers string, t text) use {
	return beginsAndPours(upgrade(headers), t)
}

// askAndLeave asks for much that takes time, and closes the connection.
func askAndLeave(h *client, conn net.Conn) error {
	return h.send(conn, strings.Repeat(request("look", 1, ""), 1000), 1000)
}

// halfClose asks, finishes sending, and reads all answers.
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

// cancels asks for what takes time, and cancels it.
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

// readSlowly asks 2,000 times in one go, and reads the answers at 40 kB a second.
func readSlowly(h *client, conn net.Conn) error {
	const n = 2000
	_ = conn.(*countedConn).SetReadBuffer(4 << 10)
	if err := h.send(conn, strings.Repeat(request("echo", 1, `"at my leisure"`), n), n); err != nil {
		return err
	}
	return h.read(conn, n, 500*time.Millisecond)
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

// duplicateKeys is a request with one member very often.
func duplicateKeys() string {
	return fill(`{"jsonrpc":"2.0","id":1,`, `"method":"echo",`, large, `"params":["m"]}`+"\n")()
}

// bomb is a compressed WebSocket message of 10 MB, and of 10 kB on the way.
func bomb() string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression) // fails only for a level that does not exist
	_, _ = w.Write(bytes.Repeat([]byte(" "), 10_000_000))
	_ = w.Flush()
	return frame(opText|finalFrame|compressed, strings.TrimSuffix(b.String(), "\x00\x00\xff\xff"))
}

// answersErrors answers each call with an error, whose text is long and would change a
// terminal's colours and title.
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

// socksAnswers are what hostile proxies answer: nonsense, too much, too little, and the
// address of a tunnel that is too long and full of control characters.
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

// proxies are hostile SOCKS proxies, each time another one. One of them stays silent.
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
