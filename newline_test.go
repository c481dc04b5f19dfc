package rpcx

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

// splitStream feeds stream to a splitter of f in chunks whose sizes are those
// of cuts in turn, as the reader does, and returns the messages and how many
// were dropped.
func splitStream(t *testing.T, f Framer, stream, cuts []byte) (msgs [][]byte, dropped int) {
	split := f.NewSplitter()
	var data []byte
	for i := 0; len(stream) > 0; i++ {
		n := len(stream)
		if len(cuts) > 0 {
			n = min(n, int(cuts[i%len(cuts)])+1)
		}
		data = append(data, stream[:n]...)
		stream = stream[n:]
		for {
			advance, token, err := split(data, false)
			if advance < 0 || advance > len(data) {
				t.Fatalf("advance %d of %d bytes", advance, len(data))
			}
			if token != nil {
				msgs = append(msgs, bytes.Clone(token))
			}
			data = data[advance:]
			var frame *FrameError
			switch {
			case errors.As(err, &frame) && frame.Recoverable:
				dropped++
			case err != nil:
				t.Fatal(err)
			}
			if advance == 0 || len(data) == 0 {
				break
			}
		}
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
		lines := bytes.Split(stream, []byte("\n"))
		rest := lines[len(lines)-1]
		var want [][]byte
		wantDropped := 0
		for _, line := range lines[:len(lines)-1] {
			if limit > 0 && len(line) > limit {
				wantDropped++
			} else {
				want = append(want, line)
			}
		}
		if limit > 0 && len(rest) > limit {
			wantDropped++
		}
		msgs, dropped := splitStream(t, NewlineFramer{MaxSize: limit}, stream, cuts)
		if !slices.EqualFunc(msgs, want, bytes.Equal) || dropped != wantDropped {
			t.Errorf("messages %q, %d dropped; want %q, %d", msgs, dropped, want, wantDropped)
		}
	})
}

// What is framed is split into what it was; a message with a newline is refused.
func TestNewlineFramerRoundTrip(t *testing.T) {
	f := NewlineFramer{}
	var stream []byte
	msgs := [][]byte{[]byte(`{}`), []byte(``), []byte(`[1, 2]`)}
	for _, msg := range msgs {
		var err error
		if stream, err = f.AppendFrame(stream, msg); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := splitStream(t, f, stream, []byte{0}); !slices.EqualFunc(got, msgs, bytes.Equal) {
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
