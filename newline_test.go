package rpcx

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

// splitStream is readStream for a stream at whose end nothing is wrong, but that it
// may be cut off.
func splitStream(t *testing.T, f Framer, stream, cuts []byte) (msgs []string, dropped int) {
	t.Helper()
	msgs, dropped, err := readStream(f, stream, cuts)
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	return msgs, dropped
}

// Any chunking gives the messages that a plain split at newlines does, less
// those over the limit, each of which is reported once.
func FuzzNewlineFramer(f *testing.F) {
	f.Add([]byte("a\nbc\n\ndef\n"), []byte{0}, 5)
	f.Add([]byte("abcdefgh\nok\n"), []byte{2, 0, 9}, 5)
	f.Add([]byte("abcdefgh"), []byte{}, 3)
	f.Add([]byte("\n\n\n"), []byte{1}, 1)
	f.Fuzz(func(t *testing.T, stream, cuts []byte, limit int) {
		if limit == 0 {
			limit = 1
		}
		lines := strings.Split(string(stream), "\n")
		rest := lines[len(lines)-1]
		var want []string
		wantDropped := 0
		for _, line := range lines[:len(lines)-1] {
			if limit > 0 && len(line) > limit {
				wantDropped++
			} else {
				want = append(want, line)
			}
		}
		switch { // the last line needs no newline
		case limit > 0 && len(rest) > limit:
			wantDropped++
		case strings.TrimSpace(rest) != "":
			want = append(want, rest)
		}
		msgs, dropped := splitStream(t, NewlineFramer{MaxSize: limit}, stream, cuts)
		if !slices.Equal(msgs, want) || dropped != wantDropped {
			t.Errorf("messages %q, %d dropped; want %q, %d", msgs, dropped, want, wantDropped)
		}
	})
}

// What is framed is split into what it was; a message with a newline is refused.
func TestNewlineFramerRoundTrip(t *testing.T) {
	f := NewlineFramer{}
	var stream []byte
	msgs := []string{`{}`, ``, `[1, 2]`}
	for _, msg := range msgs {
		var err error
		if stream, err = f.AppendFrame(stream, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := splitStream(t, f, stream, []byte{0}); !slices.Equal(got, msgs) {
		t.Errorf("split into %q, want %q", got, msgs)
	}
	if out, err := f.AppendFrame(stream, []byte("a\nb")); err == nil || len(out) != len(stream) {
		t.Errorf("a message with a newline: %d bytes appended, error %v", len(out)-len(stream), err)
	}
}

// The splitter looks at each byte a bounded number of times, however small the
// chunks are: it searches only what is new.
func TestNewlineFramerSearchesNewBytesOnly(t *testing.T) {
	split := NewlineFramer{}.NewSplitter()
	data := bytes.Repeat([]byte("a"), 1000)
	split(data, false)
	data[500] = '\n' // a second look would find it
	data = append(data, "b\n"...)
	advance, token, err := split(data, false)
	if advance != len(data) || len(token) != len(data)-1 || err != nil {
		t.Errorf("advance %d, a message of %d bytes, error %v; want the newline at the end", advance, len(token), err)
	}
}
