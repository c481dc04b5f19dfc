package main

import (
	"io"
	"net"
	"strings"
	"time"
)

// This file holds the behaviours of hostile clients and servers on a connection. Texts
// are made when an attack begins: the program under attack has the same table, and must
// not hold the texts.

// use is the behaviour of a hostile client on a connection.
type use = func(*client, net.Conn) error

// text makes the text to send.
type text func() string

// block is about the size of a write, in bytes.
const block = 64 << 10

// repeat repeats unit, for a single write.
func repeat(unit string) text { return fill("", unit, block, "") }

// fill repeats unit up to about the given size, between prefix and suffix.
func fill(prefix, unit string, size int, suffix string) text {
	return func() string {
		return prefix + strings.Repeat(unit, max(1, size/len(unit))) + suffix
	}
}

// just returns a text unchanged.
func just(s string) text { return func() string { return s } }

// inString makes a request whose argument is a string of units, of the largest allowed
// size.
func inString(unit string) text {
	return fill(`{"jsonrpc":"2.0","id":1,"method":"echo","params":["`, unit, large, "\"]}\n")
}

// echoRequest returns an echo request of about the given size. The answer has about the
// same size.
func echoRequest(size int) string {
	const around = `{"jsonrpc":"2.0","method":"echo","params":[""],"id":1}`
	return strings.TrimSpace(request("echo", 1, `"`+strings.Repeat("x", max(1, size-len(around)))+`"`))
}

// params makes a request whose params are a list of units, of the largest allowed size.
func params(method, unit, last string) text {
	return fill(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":[[`, unit, large, last+"]]}\n")
}

// pours sends a text again and again, and reads the answers.
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

// stays sends a text and keeps the connection open until the server closes the
// connection.
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

// asksOnce sends a request, waits for the answer, and closes the connection.
func asksOnce(t text) use {
	return func(h *client, conn net.Conn) error {
		if err := h.send(conn, t(), 1); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, block))
		return err
	}
}
