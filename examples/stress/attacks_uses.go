package main

import (
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
