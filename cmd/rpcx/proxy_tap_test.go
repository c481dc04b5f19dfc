package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
)

// A message that never ends takes no more memory than --max-size.
func TestTapIsBounded(t *testing.T) {
	const limit = 100_000
	for name, split := range map[string]splitter{
		"line": rpcx.NewlineFramer{MaxSize: limit}.NewSplitter(), "lsp": rpcx.HeaderFramer{MaxSize: limit}.NewSplitter(),
		"length": rpcx.LengthFramer{MaxSize: limit}.NewSplitter(), "json": rpcx.JSONFramer{MaxSize: limit}.NewSplitter(),
		"body": wholeSplitter(limit), "events": eventSplitter(limit),
	} {
		start := map[string]string{"lsp": "Content-Length: 90000000\r\n\r\n", "length": "\x02\x00\x00\x00", "json": `"`}[name]
		shown := 0
		tap := newTap(split, func(tapped) { shown++ })
		tap.feed([]byte(start))
		for range 1000 {
			tap.feed(bytes.Repeat([]byte("x"), 32<<10))
			if cap(tap.buf) > 3*(limit+64<<10) {
				t.Fatalf("%s: the tap holds %d bytes", name, cap(tap.buf))
			}
		}
		tap.end()
		if shown != 1 {
			t.Errorf("%s: shown %d times", name, shown)
		}
	}
	// A WebSocket: one frame, many frames, and a control frame.
	socket := &socketState{limit: limit, show: func(tapped) {}}
	shown := 0
	tap := newTap(socket.split, func(tapped) { shown++ })
	tap.feed(binary.BigEndian.AppendUint64([]byte{0x01, 127}, 1<<40))
	for range 1000 {
		tap.feed(make([]byte, 32<<10))
	}
	if cap(socket.message) > 2*limit || cap(tap.buf) > 256<<10 {
		t.Errorf("the WebSocket holds %d and %d bytes", cap(socket.message), cap(tap.buf))
	}
}

// Messages are found however the bytes are cut.
func TestWebSocketSplitter(t *testing.T) {
	frame := func(first byte, mask bool, payload string) []byte {
		b := []byte{first}
		bit := byte(0)
		if mask {
			bit = 0x80
		}
		switch {
		case len(payload) > 0xffff:
			b = binary.BigEndian.AppendUint64(append(b, 127|bit), uint64(len(payload)))
		case len(payload) > 125:
			b = binary.BigEndian.AppendUint16(append(b, 126|bit), uint16(len(payload)))
		default:
			b = append(b, byte(len(payload))|bit)
		}
		if !mask {
			return append(b, payload...)
		}
		key := []byte{1, 2, 3, 4}
		b = append(b, key...)
		for i := range len(payload) {
			b = append(b, payload[i]^key[i%4])
		}
		return b
	}
	long := strings.Repeat("m", 70_000)
	for _, mask := range []bool{false, true} {
		stream := slices.Concat(frame(0x81, mask, `{"a":1}`), frame(0x01, mask, "par"), frame(0x89, mask, "ping"), frame(0x80, mask, "ts"),
			frame(0x82, mask, strings.Repeat("b", 200)), frame(0x81, mask, ""), frame(0x81, mask, long), frame(0x81, mask, "end"),
			frame(0x88, mask, "\x03\xe9away"))
		want := []string{`{"a":1}`, "parts", strings.Repeat("b", 200), "problem: a message of more than 50000 bytes passes, and is not shown (--max-size)", "end", "problem: closes the WebSocket: 1001 away"}
		for _, chunk := range []int{1, 7, 1000, len(stream)} {
			var got []string
			show := func(m tapped) {
				if m.message == nil {
					got = append(got, "problem: "+m.problem)
				} else {
					got = append(got, string(m.message))
				}
			}
			tap := newTap(webSocketSplitter(50_000, show), show)
			for part := range slices.Chunk(stream, chunk) {
				tap.feed(part)
			}
			if !slices.Equal(got, want) {
				t.Errorf("mask %v, chunks of %d: %q", mask, chunk, got)
			}
		}
	}
}

// Many calls without replies take bounded memory.
func TestCallTableIsBounded(t *testing.T) {
	calls := newCallTable()
	for i := range maxPending + 100 {
		calls.match(fromClient, json.RawMessage(fmt.Sprintf(`{"id":%d,"method":"m"}`, i)), time.Now())
	}
	calls.match(fromClient, json.RawMessage(fmt.Sprintf(`{"id":"%s","method":"m"}`, strings.Repeat("x", 1000))), time.Now())
	if n := len(calls.pending[fromClient]); n != maxPending {
		t.Errorf("%d calls", n)
	}
	// The ids of the two directions are apart.
	if ended := calls.match(fromClient, json.RawMessage(`{"id":1,"result":1}`), time.Now()); ended != nil {
		t.Errorf("%v", ended)
	}
	if ended := calls.match(fromServer, json.RawMessage(`{"result":1, "id": 1}`), time.Now()); len(ended) != 1 {
		t.Errorf("%v", ended)
	}
}
