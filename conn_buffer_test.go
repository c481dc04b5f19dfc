package rpcx

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// pieces is a connection whose Read fills the buffer, as long as there is input.
type pieces struct {
	io.Reader
	io.Writer
	io.Closer
}

// A buffer grows by what the last message needed, and to at most maxGrowth times its size. The
// sizes are reported before they are taken.
func TestReadBufferGrowsToTheLastSize(t *testing.T) {
	const size = 1_000_000
	msg := strings.Repeat("x", size) + "\n"
	s := newStream(pieces{Reader: strings.NewReader(msg + msg + "short\n" + msg)}, NewlineFramer{MaxSize: -1})
	var sizes []int
	s.onPart(func(size int) error {
		if n := len(sizes); size > len(s.buf) && (n == 0 || sizes[n-1] != size) {
			sizes = append(sizes, size)
			if n := len(s.buf); n >= readBuffer && size > maxGrowth*n {
				t.Errorf("a buffer of %d bytes grows to %d", n, size)
			}
		}
		return nil
	})
	grown := func() (growths int) {
		sizes = nil
		next, err := s.nextMessage(true)
		if err != nil || len(next) != size && string(next) != "short" {
			t.Fatalf("%d bytes, %v", len(next), err)
		}
		return len(sizes)
	}
	first := grown()
	second := grown()
	if first < 6 || second > 3 {
		t.Errorf("%d steps for the first message and %d for the second, want fewer", first, second)
	}
}

// A limit on the memory ends the reading before a larger buffer is taken.
func TestReadBufferDoesNotGrowWithoutPermission(t *testing.T) {
	refused := errors.New("no room")
	s := newStream(pieces{Reader: strings.NewReader(strings.Repeat("x", 1_000_000))}, NewlineFramer{MaxSize: -1})
	s.lastFill = 1_000_000
	s.onPart(func(size int) error {
		if size > 32<<10 {
			return refused
		}
		return nil
	})
	if _, err := s.nextMessage(true); err != refused || len(s.buf) > 32<<10 {
		t.Errorf("error %v with a buffer of %d bytes", err, len(s.buf))
	}
}

// The buffer of a message goes to the caller only if the message fills more than half of it.
// What follows the message stays with the connection.
func TestDetachInput(t *testing.T) {
	large, small := strings.Repeat("x", 20_000), strings.Repeat("y", 5000)
	s := newStream(pieces{Reader: strings.NewReader(large + "\n" + small + "\n" + "end\n")}, NewlineFramer{})
	msg, err := s.nextMessage(true)
	if err != nil || string(msg) != large {
		t.Fatalf("%.20q, %v", msg, err)
	}
	buf := s.detachInput(len(msg))
	if len(buf) != 32<<10 || &buf[0] != &msg[0] {
		t.Fatalf("the buffer has %d bytes", len(buf))
	}
	clear(buf)
	for _, want := range []string{small, "end"} {
		msg, err = s.nextMessage(true)
		if err != nil || string(msg) != want {
			t.Fatalf("%.20q, %v, want %.20q", msg, err, want)
		}
		if s.detachInput(len(msg)) != nil {
			t.Errorf("the buffer of %.20q, %d bytes, is detached", want, len(s.buf))
		}
	}
}

// prefixFramer frames as its own AppendFrame says, though it embeds a framer that needs no
// copy.
type prefixFramer struct{ NewlineFramer }

func (prefixFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	return append(append(append(dst, ' '), msg...), '\n'), nil
}

func TestFramesInPlace(t *testing.T) {
	for _, c := range []struct {
		framer  Framer
		want    string
		inPlace bool
	}{
		{NewlineFramer{}, "message\n", true},
		{JSONFramer{}, "message\n", true},
		{&NewlineFramer{}, "message\n", false},
		{prefixFramer{}, " message\n", false},
		{HeaderFramer{}, "Content-Length: 7\r\n\r\nmessage", false},
	} {
		msg := append(make([]byte, 0, 64), "message"...)
		frame, inPlace, err := newStream(pieces{}, c.framer).frame(nil, msg)
		if string(frame) != c.want || inPlace != c.inPlace || err != nil || inPlace != (&frame[0] == &msg[0]) {
			t.Errorf("%T: %q, in place %v, %v", c.framer, frame, inPlace, err)
		}
	}
	for _, framer := range []Framer{NewlineFramer{}, NewlineFramer{MaxSize: 3}} {
		if frame, _, err := newStream(pieces{}, framer).frame(nil, []byte("mess\nage")); err == nil {
			t.Errorf("%+v: %q", framer, frame)
		}
	}
}

// A pooled call keeps small memory only.
func TestPooledCallKeepsSmallMemory(t *testing.T) {
	var p pool
	for _, n := range []int{10, smallResult, smallResult + 1, 1 << 20} {
		c := p.takeCall(nil, "m")
		r := receivedReply{result: make([]byte, n)}
		if n > smallResult {
			r.buffer = getReadBuffer(readBufferSize(n))
			r.result = r.buffer[:n]
		}
		if got := c.calls[0].keepResult(&r, nil); len(got) != n || r.buffer != nil {
			t.Errorf("a result of %d bytes has %d", n, len(got))
		}
		p.putCall(c)
		if kept := cap(c.message.resultBuffer); kept > smallResult {
			t.Errorf("a call keeps %d bytes after a result of %d", kept, n)
		}
	}
}
