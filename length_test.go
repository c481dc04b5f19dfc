package rpcx

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// plainSplit is what a stream is, taken apart in one go.
func plainSplit(stream []byte, limit int) (msgs []string, dropped int) {
	for len(stream) >= 4 {
		size := uint64(binary.BigEndian.Uint32(stream))
		stream = stream[4:]
		tooLarge := limit > 0 && size > uint64(limit)
		if tooLarge {
			dropped++
		}
		if size > uint64(len(stream)) {
			return msgs, dropped
		}
		if !tooLarge {
			msgs = append(msgs, string(stream[:size]))
		}
		stream = stream[size:]
	}
	return msgs, dropped
}

// Any chunking gives the messages that the stream has, less those over the limit,
// each of which is reported once.
func FuzzLengthFramer(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x01c"), []byte{0}, 5)
	f.Add([]byte("\x00\x00\x00\x06abcdef\x00\x00\x00\x01c"), []byte{2, 0, 9}, 5)
	f.Add([]byte("\xff\xff\xff\xffabc"), []byte{}, 3)
	f.Add([]byte("\x00\x00\x00"), []byte{1}, 1)
	f.Fuzz(func(t *testing.T, stream, cuts []byte, limit int) {
		if limit == 0 {
			limit = 1
		}
		want, wantDropped := plainSplit(stream, limit)
		got, dropped := splitStream(t, LengthFramer{MaxSize: limit}, stream, cuts)
		if !slices.Equal(got, want) || dropped != wantDropped {
			t.Errorf("messages %q, %d dropped; want %q, %d", got, dropped, want, wantDropped)
		}
	})
}

// A stream may be cut in two anywhere.
func TestLengthFramerSplitAnywhere(t *testing.T) {
	var stream []byte
	f := LengthFramer{MaxSize: 10}
	msgs := []string{"one", "", "ten bytes!", "eleven byte", "last"}
	for _, msg := range msgs {
		var err error
		if stream, err = f.AppendFrame(stream, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	want := slices.Delete(slices.Clone(msgs), 3, 4) // without the one that is too large
	for cut := range len(stream) {
		got, dropped := splitStream(t, f, stream, []byte{byte(cut)})
		if !slices.Equal(got, want) || dropped != 1 {
			t.Errorf("cut at %d: messages %q, %d dropped", cut+1, got, dropped)
		}
	}
}

// A length is not believed: nothing is asked for or kept on account of it, except the
// beginning of the message.
func TestLengthFramerHugeLength(t *testing.T) {
	split := LengthFramer{}.NewSplitter()
	data := "\xff\xff\xff\xff{" + strings.Repeat("a", StartSize-1)
	if advance, token, err := split([]byte(data[:len(data)-1]), false); advance != 0 || token != nil || err != nil {
		t.Fatalf("part of the beginning: advance %d, token %q, error %v", advance, token, err)
	}
	advance, token, err := split([]byte(data+"b"), false)
	frame, ok := err.(*FrameError)
	if advance != len(data) || token != nil || !ok || !frame.Recoverable || string(frame.Start) != data[4:] {
		t.Fatalf("advance %d, token %q, error %v", advance, token, err)
	}
	if advance, token, err = split([]byte("abc"), false); advance != 3 || token != nil || err != nil {
		t.Errorf("what belongs to it: advance %d, token %q, error %v", advance, token, err)
	}
	msgs, dropped := splitStream(t, LengthFramer{MaxSize: -1}, []byte("\xff\xff\xff\xffabc"), nil)
	if len(msgs) != 0 || dropped != 0 {
		t.Errorf("without a limit it waits: messages %q, %d dropped", msgs, dropped)
	}
}
