package rpcx

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx/internal/jsonscan"
	"github.com/google/go-cmp/cmp"
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

// readConn is a connection that is only read.
type readConn struct {
	io.Reader
	io.WriteCloser
}

// cutReader gives data in pieces, whose sizes are those of cuts in turn, plus one.
type cutReader struct {
	data, cuts []byte
	reads      int
}

func (c *cutReader) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := len(c.data)
	if len(c.cuts) > 0 {
		n = int(c.cuts[c.reads%len(c.cuts)]) + 1
	}
	c.reads++
	n = copy(p, c.data[:min(n, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

// readStream reads a stream to its end as a session does. It returns the
// messages, how many were dropped, and the error at the end.
func readStream(f Framer, data, cuts []byte) (msgs []string, dropped int, err error) {
	s := newStream(readConn{Reader: &cutReader{data: data, cuts: cuts}}, f)
	s.split = f.NewSplitter() // alone, without what the session passes over
	for {
		msg, err := s.nextMessage(true)
		var frame *FrameError
		switch {
		case err == nil:
			msgs = append(msgs, string(msg))
		case errors.As(err, &frame) && frame.Recoverable:
			dropped++
		default:
			return msgs, dropped, err
		}
	}
}

func TestHeaderFramer(t *testing.T) {
	for _, c := range []struct {
		name   string
		stream string
		msgs   []string
		drops  int
		err    string // at the end; "EOF" if nothing is wrong
	}{
		{"messages follow each other", "Content-Length: 2\r\n\r\n{}Content-Length: 3\r\n\r\n[1]", []string{"{}", "[1]"}, 0, "EOF"},
		{"a message may be empty", "Content-Length: 0\r\n\r\nContent-Length: 1\r\n\r\n1", []string{"", "1"}, 0, "EOF"},
		{"a message may have line ends in it", "Content-Length: 6\r\n\r\n[\r\n\r\n]", []string{"[\r\n\r\n]"}, 0, "EOF"},
		{"names are in any case", "cOnTeNt-LENGTH: 2\r\n\r\n{}", []string{"{}"}, 0, "EOF"},
		{"white space around the number is passed over", "Content-Length:2 \t\r\n\r\n{}Content-Length: \t 2\r\n\r\n{}", []string{"{}", "{}"}, 0, "EOF"},
		{"other headers are passed over", "Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 2\r\nX-Length: 5\r\nEmpty:\r\n\r\n{}", []string{"{}"}, 0, "EOF"},
		{"headers may end in bare newlines", "Content-Length: 2\n\n{}Content-Length: 3\nContent-Type: x\n\n[1]", []string{"{}", "[1]"}, 0, "EOF"},
		{"line ends may be mixed within a message", "Content-Length: 2\nA: b\r\n\n{}A: b\r\nContent-Length: 3\n\r\n[1]", []string{"{}", "[1]"}, 0, "EOF"},
		{"line ends may be mixed between messages", "Content-Length: 2\r\n\r\n{}Content-Length: 3\n\n[1]", []string{"{}", "[1]"}, 0, "EOF"},
		{"the message after bare newlines may begin with one", "Content-Length: 3\n\n\n{}", []string{"\n{}"}, 0, "EOF"},
		{"a larger message behind bare newlines is dropped", "Content-Length: 11\n\n0123456789aContent-Length: 1\n\n1", []string{"1"}, 1, "EOF"},
		{"zeros in front mean nothing", "Content-Length: 0002\r\n\r\n{}", []string{"{}"}, 0, "EOF"},
		{"a message of the largest size is taken", "Content-Length: 10\r\n\r\n0123456789", []string{"0123456789"}, 0, "EOF"},
		{"a larger one is dropped, and no other", "Content-Length: 11\r\n\r\n0123456789aContent-Length: 1\r\n\r\n1", []string{"1"}, 1, "EOF"},
		{"two larger ones are dropped", "Content-Length: 11\r\n\r\n0123456789aContent-Length: 12\r\n\r\n0123456789abContent-Length: 1\r\n\r\n1", []string{"1"}, 2, "EOF"},
		{"a stream may end in a message", "Content-Length: 2\r\n\r\n{", nil, 0, "unexpected EOF"},
		{"a stream may end in a header", "Content-Len", nil, 0, "unexpected EOF"},

		{"a message needs a length", "Content-Type: x\r\n\r\n{}", nil, 0, "without a Content-Length"},
		{"a bare blank line before headers is an empty message", "\nContent-Length: 2\n\n{}\n", []string{"", "{}", ""}, 0, "EOF"},
		{"one carriage return belongs to a line end", "Content-Length: 2\r\r\n\r\n{}", nil, 0, `bad Content-Length: "2\r"`},
		{"a blank line before headers is an empty message", "\r\nContent-Length: 2\r\n\r\n{}\r\n\r\n", []string{"", "{}", "", ""}, 0, "EOF"},
		{"a carriage return alone is no blank line", "\r", nil, 0, "unexpected EOF"},
		{"there is one length", "Content-Length: 2\r\ncontent-length: 2\r\n\r\n{}", nil, 0, "two Content-Lengths"},
		{"a length is not negative", "Content-Length: -2\r\n\r\n{}", nil, 0, `bad Content-Length: "-2"`},
		{"a length has no sign", "Content-Length: +2\r\n\r\n{}", nil, 0, `bad Content-Length: "+2"`},
		{"a length is one number", "Content-Length: 2, 2\r\n\r\n{}", nil, 0, `bad Content-Length: "2, 2"`},
		{"a length is decimal", "Content-Length: 0x2\r\n\r\n{}", nil, 0, `bad Content-Length: "0x2"`},
		{"a length is there", "Content-Length: \r\n\r\n{}", nil, 0, `bad Content-Length: ""`},
		{"a length is not beyond all numbers", "Content-Length: 18446744073709551618\r\n\r\n{}", nil, 0, `bad Content-Length: "18446744073709551618"`},
		{"a name ends at its colon", "Content-Length : 2\r\n\r\n{}", nil, 0, "without a Content-Length"},
		{"a line of JSON is no header", `{"jsonrpc":"2.0"}` + "\n", nil, 0, `not a header: "{\"jsonrpc\"`},
		{"nor with a carriage return", `["a:b"]` + "\r\n", nil, 0, `not a header: "[\"a:b\"]"`},
		{"a line without a colon is no header", "GET / HTTP/1.1\r\n\r\n", nil, 0, `not a header: "GET / HTTP/1.1"`},
		{"headers do not go on for ever", strings.Repeat("X-Header: value\r\n", 300), nil, 0, "more than 4,096 bytes"},
		{"nor does one header", "Content-Length: " + strings.Repeat("0", 5000), nil, 0, "more than 4,096 bytes"},
		{"a fault after a message leaves the message", "Content-Length: 2\r\n\r\n{}{}\r\n", []string{"{}"}, 0, `not a header: "{}"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := HeaderFramer{MaxSize: 10}
			for _, cuts := range [][]byte{nil, {0}, {1}, {2, 0, 6}, {18}} {
				msgs, dropped, err := readStream(f, []byte(c.stream), cuts)
				if !slices.Equal(msgs, c.msgs) || dropped != c.drops {
					t.Errorf("cut at %v: messages %q, %d dropped; want %q, %d", cuts, msgs, dropped, c.msgs, c.drops)
				}
				if c.err == "EOF" && err != io.EOF || !strings.Contains(err.Error(), c.err) {
					t.Errorf("cut at %v: error %v, want %s", cuts, err, c.err)
				}
			}
		})
	}
}

func TestHeaderFramerCharset(t *testing.T) {
	for _, c := range []struct {
		contentType string
		refused     string // the charset as the error has it; "" if the message is read
	}{
		{"application/vscode-jsonrpc", ""},
		{"application/vscode-jsonrpc; charset=utf-8", ""},
		{"application/vscode-jsonrpc;charset=utf8", ""},
		{"application/json; Charset = UTF-8 ", ""},
		{`application/json; charset="utf-8"; a=b`, ""},
		{`application/json; charset='UTF8'`, ""},
		{"application/json; charset=", ""},
		{"application/json; charsets=utf-16", ""},
		{`application/json; a="; charset=utf-16"`, ""},
		{`application/json; a="\"; charset=utf-16"`, ""},
		{"charset", ""},
		{"", ""},
		{"application/vscode-jsonrpc; charset=utf-16", "utf-16"},
		{"application/vscode-jsonrpc;charset=UTF-16LE", "UTF-16LE"},
		{"application/json; charset=iso-8859-1", "iso-8859-1"},
		{`application/json; charset="us-ascii"`, "us-ascii"},
		{`application/json; a="b;c"; CHARSET = "utf-7"`, "utf-7"},
		{"application/json; charset=utf-8; charset=utf-32", "utf-32"},
		{"charset=latin1", "latin1"},
		{"application/json; charset=utf-88", "utf-88"},
	} {
		for _, stream := range []string{
			"Content-Length: 2\r\nContent-Type: " + c.contentType + "\r\n\r\n{}",
			"content-type:" + c.contentType + "\nContent-Length: 2\n\n{}",
		} {
			for _, cuts := range [][]byte{nil, {0}} {
				msgs, _, err := readStream(HeaderFramer{}, []byte(stream), cuts)
				switch {
				case c.refused == "" && (!slices.Equal(msgs, []string{"{}"}) || err != io.EOF):
					t.Errorf("%q: messages %q, error %v", stream, msgs, err)
				case c.refused != "" && (len(msgs) > 0 || !strings.Contains(err.Error(), strconv.Quote(c.refused)+" in a Content-Type")):
					t.Errorf("%q: messages %q, error %v; want one that names %q", stream, msgs, err, c.refused)
				}
			}
		}
	}
}

// A stream that is split in two, and in three, anywhere gives the same messages.
func TestHeaderFramerSplitAnywhere(t *testing.T) {
	const stream = "Content-Length: 2\r\n\r\n{}Content-Length: 9\r\nA: b\r\n\r\nccccccccccontent-length:0\r\n\r\nContent-Length: 1\r\n\r\n1"
	want := []string{"{}", "", "1"}
	for i := range len(stream) {
		for j := range len(stream) - i {
			msgs, dropped, err := readStream(HeaderFramer{MaxSize: 8}, []byte(stream), []byte{byte(i), byte(j), 255})
			if !slices.Equal(msgs, want) || dropped != 1 || err != io.EOF {
				t.Fatalf("cut after %d and %d more: messages %q, %d dropped, error %v", i+1, j+1, msgs, dropped, err)
			}
		}
	}
}

// Of a message that is announced, only what has arrived takes memory.
func TestHeaderFramerTakesNoMemoryOnTrust(t *testing.T) {
	for _, f := range []HeaderFramer{{}, {MaxSize: -1}} {
		s := newStream(readConn{Reader: strings.NewReader("Content-Length: 4294967296\r\n\r\nabc")}, f)
		for _, err := s.nextMessage(true); err != io.EOF && err != io.ErrUnexpectedEOF; _, err = s.nextMessage(true) {
			if frame, ok := errors.AsType[*FrameError](err); !ok || !frame.Recoverable {
				t.Fatal(err)
			}
		}
		if cap(s.buf) > firstBuffer {
			t.Errorf("%+v: the buffer has %d bytes for 3 that came", f, cap(s.buf))
		}
	}
}

func TestHeaderFramerAllocatesNothing(t *testing.T) {
	split := HeaderFramer{}.NewSplitter()
	frame, _ := HeaderFramer{}.AppendFrame(nil, []byte(`{"jsonrpc":"2.0","result":null,"id":1}`))
	dst := make([]byte, 0, len(frame))
	if n := testing.AllocsPerRun(100, func() {
		if _, token, err := split(frame, false); token == nil || err != nil {
			t.Fatalf("no message, error %v", err)
		}
		dst, _ = HeaderFramer{}.AppendFrame(dst[:0], frame[len(frame)-38:])
	}); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
	if !bytes.Equal(dst, frame) {
		t.Errorf("framed as %q, and again as %q", frame, dst)
	}
}

// Any chunking of a stream gives the same messages and the same end, none is
// over the limit, and what is framed comes out as it was.
func FuzzHeaderFramer(f *testing.F) {
	f.Add([]byte("Content-Length: 2\r\n\r\n{}"), []byte{0}, 5)
	f.Add([]byte("content-length:7\r\nContent-Type: a\r\n\r\n0123456Content-Length: 1\r\n\r\n1"), []byte{3, 0, 9}, 5)
	f.Add([]byte("Content-Length: 99999999999999999999\r\n\r\n"), []byte{}, -1)
	f.Add([]byte("a: b\r\n\r\n"), []byte{1}, 1)
	f.Add([]byte("Content-Length: 2\nA: b\r\n\n{}Content-Length: 9\r\n\n"), []byte{2, 0}, 5)
	f.Add([]byte("Content-Type: a; charset=\"utf-16\"\nContent-Length: 0\n\n"), []byte{4}, 1)
	f.Fuzz(func(t *testing.T, stream, cuts []byte, limit int) {
		framer := HeaderFramer{MaxSize: limit}
		msgs, dropped, err := readStream(framer, stream, nil)
		for _, msg := range msgs {
			if limit > 0 && len(msg) > limit || len(msg) > 0 && !bytes.Contains(stream, []byte(strconv.Itoa(len(msg)))) {
				t.Errorf("a message of %d bytes", len(msg))
			}
		}
		msgs2, dropped2, err2 := readStream(framer, stream, cuts)
		if !slices.Equal(msgs, msgs2) || dropped != dropped2 || err.Error() != err2.Error() {
			t.Errorf("whole: %q, %d dropped, %v\ncut at %v: %q, %d dropped, %v", msgs, dropped, err, cuts, msgs2, dropped2, err2)
		}
		framed, _ := framer.AppendFrame(nil, stream)
		framed, _ = framer.AppendFrame(framed, cuts)
		want := []string{string(stream), string(cuts)}
		if msgs, _, err := readStream(HeaderFramer{MaxSize: -1}, framed, cuts); !slices.Equal(msgs, want) || err != io.EOF {
			t.Errorf("framed and read: %q, %v; want %q", msgs, err, want)
		}
	})
}

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

func TestJSONFramer(t *testing.T) {
	deep := strings.Repeat("[", jsonscan.MaxDepth+1)
	for _, c := range []struct {
		name   string
		stream string
		msgs   []string
		drops  int
		err    string // at the end; "EOF" if nothing is wrong
	}{
		{"nothing between", `{"a":1}{}[][{}]"b"{}`, []string{`{"a":1}`, `{}`, `[]`, `[{}]`, `"b"`, `{}`}, 0, "EOF"},
		{"white space between", " {}\t{}\r\n\r\n[ ]\n\n", []string{`{}`, `{}`, `[ ]`}, 0, "EOF"},
		{"two newlines behind each", "{\"a\": 1}\n\n{\"b\": 2}\n\n", []string{`{"a": 1}`, `{"b": 2}`}, 0, "EOF"},
		{"white space within", "{\n  \"a\": [\n    1,\n    {}\n  ]\n}{}", []string{"{\n  \"a\": [\n    1,\n    {}\n  ]\n}", "{}"}, 0, "EOF"},
		{"brackets and escapes within strings", `{"}":"]\"}\\"}["\\","\\\"]"]"\\"{}`, []string{`{"}":"]\"}\\"}`, `["\\","\\\"]"]`, `"\\"`, `{}`}, 0, "EOF"},
		{"an escape by number", `{"a":"\u0022\\u"}{}`, []string{`{"a":"\u0022\\u"}`, `{}`}, 0, "EOF"},
		{"long strings", `{"a":"` + strings.Repeat("x}é", 9) + `"}{}`, []string{`{"a":"` + strings.Repeat("x}é", 9) + `"}`, "{}"}, 0, "EOF"},
		{"numbers and literals", "1 -2.5e3\ntrue\tfalse null", []string{"1", "-2.5e3", "true", "false", "null"}, 0, "EOF"},
		{"numbers and literals before brackets and strings", `1{}null[]true"a"`, []string{"1", "{}", "null", "[]", "true", `"a"`}, 0, "EOF"},
		{"a number at the end of input", `{}7`, []string{"{}", "7"}, 0, "EOF"},
		{"only white space", " \n\r\t\n", nil, 0, "EOF"},
		{"nothing", "", nil, 0, "EOF"},

		{"what the protocol is to refuse is in step", `{'a':NaN}{"a":tru}[1,]{,}[:]{"a"}{}`, []string{`{'a':NaN}`, `{"a":tru}`, `[1,]`, `{,}`, `[:]`, `{"a"}`, `{}`}, 0, "EOF"},
		{"a line of a program's log", "Serving on [::]:80 {}\n{}", []string{"Serving on [::]:80 {}", "{}"}, 0, "EOF"},
		{"one that begins as a literal does", "note: {}\n{}\n", []string{"note: {}", "{}"}, 0, "EOF"},
		{"one that begins with a date", "2024-01-31 12:00 {}\n{}\n", []string{"2024-01-31 12:00 {}", "{}"}, 0, "EOF"},
		{"one that begins with a time", "12:00 {}\n{}\n", []string{"12:00 {}", "{}"}, 0, "EOF"},
		{"one behind a message", "{}\nfoo\n{}", []string{"{}", "foo", "{}"}, 0, "EOF"},
		{"one directly behind a message", "{}foo {}\n{}", []string{"{}", "foo {}", "{}"}, 0, "EOF"},
		{"a bracket that closes nothing", "}{}\n{}\n", []string{"}{}", "{}"}, 0, "EOF"},
		{"a bracket of the other kind", "{\"a\":[1}\n{}\n", []string{`{"a":[1}`, "{}"}, 0, "EOF"},
		{"a comma between messages", "{},{}\n{}\n", []string{"{}", ",{}", "{}"}, 0, "EOF"},
		{"a newline in a string", "{\"a\":\"b\n{}\n", []string{`{"a":"b`, "{}"}, 0, "EOF"},
		{"a newline behind a backslash", "{\"a\":\"b\\\n{}\n", []string{`{"a":"b\`, "{}"}, 0, "EOF"},
		{"no comma between values", "[1 2]{}\n{}\n", []string{`[1 2]{}`, "{}"}, 0, "EOF"},
		{"a message cut short behind a value", "{\"a\":1\n{\"b\":2}\n{}\n", []string{"{\"a\":1\n", `{"b":2}`, "{}"}, 0, "EOF"},
		{"a message cut short before a value", "{\"a\":\n{\"b\":2}\n{}\n", []string{"{\"a\":\n{\"b\":2}\n", "{}"}, 0, "EOF"},
		{"a missing comma in an indented value", "[\n  {}\n  {}\n]\n{}\n", []string{"[\n  {}\n  {}", "]", "{}"}, 0, "EOF"},
		{"too many levels", deep + "\n{}\n", []string{deep, "{}"}, 0, "EOF"},
		{"as many levels as there may be", nested("[", jsonscan.MaxDepth) + nested(`{"a":`, jsonscan.MaxDepth), []string{nested("[", jsonscan.MaxDepth), nested(`{"a":`, jsonscan.MaxDepth)}, 0, "EOF"},
		{"a byte order mark within the stream", "{}\n\ufeff{}\n{}", []string{"{}", "\ufeff{}", "{}"}, 0, "EOF"},

		{"no newline to go on behind", `{}{}{"a":[1}{}`, []string{"{}", "{}"}, 0, "no newline behind which"},
		{"nor behind a word", `{}[]foo {}`, []string{"{}", "[]"}, 0, "no newline behind which"},
		{"a stream may end in an object", `{}{"a":`, []string{"{}"}, 0, "unexpected EOF"},
		{"or in a string", `"a`, nil, 0, "unexpected EOF"},
		{"or in an escape", `"a\`, nil, 0, "unexpected EOF"},
		{"or in a literal", "{} nul", []string{"{}"}, 0, "unexpected EOF"},
		{"or in a line that is no JSON", "{} foo", []string{"{}"}, 0, "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, cuts := range [][]byte{nil, {0}, {1}, {2, 0, 6}, {18}} {
				msgs, dropped, err := readStream(JSONFramer{}, []byte(c.stream), cuts)
				if !slices.Equal(msgs, c.msgs) || dropped != c.drops {
					t.Errorf("cut at %v: messages %.200q, %d dropped; want %.200q, %d", cuts, msgs, dropped, c.msgs, c.drops)
				}
				if c.err == "EOF" && err != io.EOF || !strings.Contains(err.Error(), c.err) {
					t.Errorf("cut at %v: the stream ends with %v, want %s", cuts, err, c.err)
				}
			}
		})
	}
}

func TestJSONFramerLimit(t *testing.T) {
	for _, c := range []struct {
		name   string
		stream string
		msgs   []string
		drops  int
	}{
		{"white space does not count", strings.Repeat(" \n", 100) + "{}" + strings.Repeat(" \n", 100) + "[]", []string{"{}", "[]"}, 0},
		{"a message of the largest size is taken", `{"a":1234}{}`, []string{`{"a":1234}`, "{}"}, 0},
		{"a larger one is dropped, and no other", `{"a":12345}{}`, []string{"{}"}, 1},
		{"what is in it begins no message", `[{},{},"]",[],{"a":"}"}]{}`, []string{"{}"}, 1},
		{"nor what is on lines of its own", "[\n{},\n{},\n\"]\",\n[]\n]{}", []string{"{}"}, 1},
		{"two larger ones are dropped", `["0123456789"]{"0123456789":0}{}`, []string{"{}"}, 2},
		{"a string", `"0123456789"{}`, []string{"{}"}, 1},
		{"a number, with its line", "12345678901 {}\n{}", []string{"{}"}, 1},
		{"a number of the largest size is taken", "1234567890{}", []string{"1234567890", "{}"}, 0},
		{"a line that is no JSON", "0123456789a\n{}", []string{"{}"}, 1},
		{"a value that is dropped turns out to be none", "[1,2,3,4,5,}{}\n{}", []string{"{}"}, 1},
		{"it is cut short", "[1,2,3,4,5,6\n{}\n{}\n", []string{"{}", "{}"}, 1},
		{"more often", "[1,2,3,4,5,6\n[1,2,3,4,5,6\n{}\n", []string{"{}"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := JSONFramer{MaxSize: 10}
			for _, cuts := range [][]byte{nil, {0}, {1}, {2, 0, 6}, {10}, {11}, {12}, {18}} {
				msgs, dropped := splitStream(t, f, []byte(c.stream), cuts)
				if !slices.Equal(msgs, c.msgs) || dropped != c.drops {
					t.Errorf("cut at %v: messages %q, %d dropped; want %q, %d", cuts, msgs, dropped, c.msgs, c.drops)
				}
			}
		})
	}
	for size, want := range map[int]int{0: DefaultMaxSize, 10: 10, -1: math.MaxInt} {
		if got := (JSONFramer{MaxSize: size}).MaxMessage(); got != want {
			t.Errorf("MaxSize %d: MaxMessage %d, want %d", size, got, want)
		}
	}
}

// Any chunking gives the same messages, none of them over the limit. Valid values are
// the messages, and are found again behind whatever was no JSON.
func FuzzJSONFramer(f *testing.F) {
	for _, stream := range []string{
		`{"a":"}\""}[1,2]"x" 12 true`, "{}\n\n{}\n\n", "foo\n{}", "{\"a\":1\n{}\n", "[[[[\n{}", "{\"a\":\"\n", "[1}\n{}", "{}{}[}",
		"1{}2[]\"\\", "\"\\\n\"", "[{\"\":", "nul", "-", "[\n{}\n{}\n",
	} {
		f.Add([]byte(stream), []byte{0}, 7)
		f.Add([]byte(stream), []byte{2, 0, 9}, -1)
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte, limit int) {
		framer := JSONFramer{MaxSize: limit}
		msgs, dropped, err := readStream(framer, stream, nil)
		again, droppedAgain, errAgain := readStream(framer, stream, cuts)
		if !slices.Equal(msgs, again) || dropped != droppedAgain || reflect.TypeOf(err) != reflect.TypeOf(errAgain) {
			t.Errorf("messages %q, %d dropped, %v; cut at %v: %q, %d, %v", msgs, dropped, err, cuts, again, droppedAgain, errAgain)
		}
		for _, msg := range msgs {
			if len(msg) > framer.MaxMessage() {
				t.Errorf("a message of %d bytes: %.100q", len(msg), msg)
			}
			if len(msg) == 0 || jsonscan.IsSpace(msg[0]) {
				t.Errorf("message %q", msg)
			}
		}

		var want []string
		wantDropped := 0
		values := json.NewDecoder(bytes.NewReader(stream))
		for {
			var value json.RawMessage
			if errors.Is(values.Decode(&value), io.EOF) {
				if !slices.Equal(msgs, want) || dropped != wantDropped || err != io.EOF {
					t.Errorf("messages %q, %d dropped, %v; want %q, %d", msgs, dropped, err, want, wantDropped)
				}
				break
			}
			if value == nil {
				break // it is no JSON
			}
			rest := stream[values.InputOffset():]
			if beginsLiteral(value[0]) && (len(value) > framer.MaxMessage() || len(rest) > 0 && !endsWord(rest[0])) {
				break // as that of a line, here
			}
			if len(value) > framer.MaxMessage() {
				wantDropped++
			} else {
				want = append(want, string(value))
			}
		}

		// An object or array that was not finished may take the next line with it.
		tail := "\n{\"ok\":1}\n{\"ok\":2}\n{\"ok\":3}"
		msgs, _, err = readStream(JSONFramer{MaxSize: -1}, append(stream[:len(stream):len(stream)], tail...), cuts)
		var frame *FrameError
		if !errors.As(err, &frame) && (len(msgs) < 2 || msgs[len(msgs)-2] != `{"ok":2}` || msgs[len(msgs)-1] != `{"ok":3}`) {
			t.Errorf("messages %q, %v: it is not in step again", msgs, err)
		}
	})
}

// What is framed is split into what it was.
func TestJSONFramerRoundTrip(t *testing.T) {
	var stream []byte
	msgs := []string{`{}`, `1`, `2`, `[1, 2]`, `"a"`, `null`}
	for _, msg := range msgs {
		var err error
		if stream, err = (JSONFramer{}).AppendFrame(stream, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := splitStream(t, JSONFramer{}, stream, []byte{0}); !slices.Equal(got, msgs) {
		t.Errorf("split into %q, want %q", got, msgs)
	}
	if lines, _ := splitStream(t, NewlineFramer{}, stream, nil); !slices.Equal(lines, msgs) {
		t.Errorf("a NewlineFramer splits it into %q", lines)
	}
}

// The splitter looks at each byte once, however small the chunks are.
func TestJSONFramerSearchesNewBytesOnly(t *testing.T) {
	for _, begin := range []string{`{"a":"` + strings.Repeat("x", 1000), "[" + strings.Repeat("1,", 500), strings.Repeat("1", 1000), "foo" + strings.Repeat(" ", 1000)} {
		split := JSONFramer{}.NewSplitter()
		data := []byte(begin)
		split(data, false)
		for i := range data {
			data[i] = '\n' // a second look would find it
		}
		if advance, token, err := split(data, false); advance != 0 || token != nil || err != nil {
			t.Errorf("%.10s...: advance %d, message %q, error %v", begin, advance, token, err)
		}
	}
}

func BenchmarkJSONFramer(b *testing.B) {
	msg := `{"jsonrpc":"2.0","method":"update","params":["monitor",{"Bridge":{"5d3b":{"new":{"name":"br0","ports":["set",[1,2,3]]}}}}]}`
	data := []byte(strings.Repeat(msg, 100))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		split := JSONFramer{}.NewSplitter()
		for rest := data; len(rest) > 0; {
			advance, _, err := split(rest, false)
			if err != nil || advance == 0 {
				b.Fatal(advance, err)
			}
			rest = rest[advance:]
		}
	}
}

func TestRecognize(t *testing.T) {
	const hello = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	all := []framing{framedOtherwise, framedByLines, framedByValues, framedByHeaders, framedByLengths}
	for _, c := range []struct {
		name, input string
		at          []framing
		want        string // the beginning; "" if nothing is recognized
	}{
		{"a response", "HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", all, `HTTP ("HTTP/1.1 400 Bad Request")`},
		{"a response of 1.0", "HTTP/1.0 200 OK\r\n", all, "HTTP ("},
		{"a response that is cut off", "HTTP/1.", all, "HTTP ("},
		{"a request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", all, `HTTP ("GET / HTTP/1.1")`},
		{"a request with a bare newline", "POST /rpc HTTP/1.0\nContent-Length: 2\n\n{}", all, "HTTP ("},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", all, "HTTP ("},
		{"a request to a proxy", "CONNECT example.com:443 HTTP/1.1\r\n", all, "HTTP ("},
		{"an access log", "GET / HTTP/1.1 200 17\n", all, ""},
		{"words", "GET the HTTP/1.1 thing\n", all, ""},
		{"lower case", "get / HTTP/1.1\n", all, ""},
		{"a name alone", "HTTP/server is up\n", all, ""},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", all, "SSH ("},
		{"SMTP", "220 mail.example ESMTP Postfix\r\n", all, "a server of mail or files ("},
		{"POP3", "+OK ready\r\n", all, "a server of mail or files ("},
		{"IMAP", "* OK [CAPABILITY IMAP4rev1] ready\r\n", all, "a server of mail or files ("},
		{"numbers", "220 221\n", all, ""},
		{"a client's hello", hello, all, "a TLS handshake"},
		{"a server's hello", strings.Replace(hello, "\x00\x01\x00", "\x00\x02\x00", 1), all, "a TLS handshake"},
		{"another record", "\x17\x03\x03\x00\x10\x01", all, ""},
		{"a record that is too long", "\x16\x03\x01\x50\x00\x01", all, ""},
		{"another version", "\x16\x04\x01\x02\x00\x01", all, ""},
		{"a record cut off", "\x16\x03\x01\x02\x00", all, ""},
		{"an alert", "\x15\x03\x03\x00\x02\x02\x46", all, "a TLS alert"},
		{"an alert that is none", "\x15\x03\x03\x00\x03\x02\x46", all, ""},
		{"UTF-16, little-endian", "\xff\xfe{\x00\"\x00", all, "UTF-16"},
		{"UTF-16, big-endian", "\xfe\xff\x00{\x00\"", all, "UTF-16"},
		{"a mark alone", "\xff\xfe", all, "UTF-16"},
		{"UTF-16 without a mark", "{\x00\"\x00", []framing{framedOtherwise, framedByLines, framedByValues, framedByHeaders}, "UTF-16"},
		{"the other one", "\x00[\x00{", []framing{framedOtherwise, framedByLines, framedByValues, framedByHeaders}, "UTF-16"},
		{"a length that looks like it", "\x00{\x00\"", []framing{framedByLengths}, ""},
		{"headers", "Content-Length: 2\r\n\r\n{}", []framing{framedOtherwise, framedByLines, framedByValues, framedByLengths}, "messages with headers"},
		{"headers in another case", "content-length:2\r\n", []framing{framedByLines}, "messages with headers"},
		{"other headers", "Content-Type: application/vscode-jsonrpc\r\n", []framing{framedByLines}, "messages with headers"},
		{"headers where they are expected", "Content-Length: 2\r\n\r\n{", []framing{framedByHeaders}, ""},
		{"lengths", "\x00\x00\x01\x00{\"jsonrpc\"", []framing{framedByLines, framedByValues, framedByHeaders}, "messages with their lengths"},
		{"lengths where they are expected", "\x00\x00\x01\x00{\"jsonrpc\"", []framing{framedByLengths, framedOtherwise}, ""},
		{"an object", `{"jsonrpc":"2.0"}`, []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"an indented object", "{\n  \"jsonrpc\": ", []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"a batch", `[{"jsonrpc":"2.0"}]`, []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"a message of Aiomas", `[0,1,["a",[],{}]]`, []framing{framedByLengths, framedByHeaders}, "JSON with nothing before it"},
		{"no object", `{jsonrpc}`, []framing{framedByLengths, framedByHeaders}, ""},
		{"a bracket", `{`, []framing{framedByLengths, framedByHeaders}, ""},
		{"two values", `{"a":1}{"b":2}`, []framing{framedByLines}, "JSON without newlines"},
		{"two values with a space", `{"a":1} [{"b":`, []framing{framedByLines}, "JSON without newlines"},
		{"a line too long", "{\"a\":1}\n{\"b\":2}", []framing{framedByLines}, ""},
		{"a value that has not ended", `{"a":1`, []framing{framedByLines}, ""},
		{"a value and text", `{"a":1} is what I got`, []framing{framedByLines}, ""},
		{"a value", `{"a":1}`, []framing{framedByLines}, ""},
		{"two values where that is expected", `{"a":1}{"b":2`, []framing{framedByValues, framedOtherwise}, ""},
		{"text", "Starting server on port 80\n", all, ""},
		{"nothing", "", all, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, f := range c.at {
				got := recognizeInput([]byte(c.input), f, false)
				if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
					t.Errorf("framed as %d: %q, want %q", f, got, c.want)
				}
			}
		})
	}
	for input, want := range map[string]string{`{"a":1}`: likeValues, "[1] ": likeValues, `{"a":1`: "", "12": ""} {
		if got := recognizeInput([]byte(input), framedByLines, true); got != want {
			t.Errorf("%s at the end of input: %q, want %q", input, got, want)
		}
	}
}

// What is recognized does not depend on how the framer is passed.
func TestFramingOf(t *testing.T) {
	for want, framers := range map[framing][]Framer{
		framedByLines:   {NewlineFramer{}, &NewlineFramer{}},
		framedByValues:  {JSONFramer{}, &JSONFramer{}},
		framedByHeaders: {HeaderFramer{}, &HeaderFramer{}},
		framedByLengths: {LengthFramer{}, &LengthFramer{}, BitcoinFramer{}, &BitcoinFramer{}},
		framedOtherwise: {struct{ Framer }{NewlineFramer{}}},
	} {
		for _, f := range framers {
			if got := framingOf(f); got != want {
				t.Errorf("%T: %d, want %d", f, got, want)
			}
		}
	}
}

// arrival is what a session gets of a stream: a message, or an error.
type arrival struct {
	command string
	payload []byte
	err     *FrameError
}

func (a arrival) String() string {
	if a.err != nil {
		return fmt.Sprintf("%v (cost %v, recoverable %t)", a.err, a.err.Cost, a.err.Recoverable)
	}
	return fmt.Sprintf("%q %q", a.command, a.payload)
}

// arrive returns what arrives in chunks, one at each Read. After an error it reads on, even if a
// session would not.
func arrive(t *testing.T, f BitcoinFramer, chunks [][]byte) (all []arrival) {
	t.Helper()
	readers := make([]io.Reader, len(chunks))
	for i, chunk := range chunks {
		readers[i] = bytes.NewReader(chunk)
	}
	stream := newStream(readConn{Reader: io.MultiReader(readers...)}, f)
	for {
		msg, err := stream.nextMessage(true)
		var frame *FrameError
		switch {
		case errors.As(err, &frame):
			all = append(all, arrival{err: frame})
			continue
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return all
		case err != nil:
			t.Fatal(err)
		}
		var m Message
		BitcoinProtocol.Decode(&m, msg, 0)
		item := m.Items[0]
		if m.Batch || m.Len() != 1 || item.Kind != KindNotification || item.ID != nil || item.Params.Raw == nil {
			t.Fatalf("%x decodes to %+v", msg, m.Items)
		}
		all = append(all, arrival{command: item.Method, payload: bytes.Clone(item.Params.Raw)})
	}
}

// bitcoinFrame returns a message as it is on the wire.
func bitcoinFrame(t testing.TB, f BitcoinFramer, command string, payload []byte) []byte {
	t.Helper()
	msg, err := BitcoinProtocol.AppendNotification(nil, command, payload, nil)
	if err == nil {
		msg, err = f.AppendFrame(nil, msg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// Any chunking gives the same messages and errors, those that a look at the
// whole stream finds, and none that is over its limit.
func FuzzBitcoinFramer(f *testing.F) {
	f.Add([]byte("one|b two|"), []byte{0}, uint16(0), byte(0), 5, 5)
	f.Add([]byte("one|b a block|three"), []byte{23, 3}, uint16(24), byte(1), 5, 9)
	f.Add([]byte("|12345|123456"), []byte{}, uint16(16), byte(7), 5, 0)
	f.Add([]byte("a|b"), []byte{100, 0, 0}, uint16(2), byte(255), -1, -1)
	f.Fuzz(func(t *testing.T, payloads, cuts []byte, at uint16, damage byte, maxPayload, maxBlock int) {
		framer := BitcoinFramer{BitcoinMainnet, maxPayload, maxBlock}
		var stream []byte
		for payload := range bytes.SplitSeq(payloads, []byte("|")) {
			command := "tx"
			if bytes.HasPrefix(payload, []byte("b")) {
				command = "block"
			}
			stream = append(stream, bitcoinFrame(t, BitcoinFramer{framer.Magic, -1, -1}, command, payload)...)
		}
		stream[int(at)%len(stream)] ^= damage

		var chunks [][]byte
		for i, rest := 0, stream; len(rest) > 0; i++ {
			n := len(rest)
			if len(cuts) > 0 {
				n = min(n, int(cuts[i%len(cuts)])+1)
			}
			chunks, rest = append(chunks, rest[:n]), rest[n:]
		}
		got, want := arrive(t, framer, chunks), wholeBitcoin(framer, stream)
		if !slices.EqualFunc(got, want, func(a, b arrival) bool {
			if a.err == nil || b.err == nil {
				return a.err == b.err && a.String() == b.String()
			}
			return a.err.Cost == b.err.Cost && a.err.Recoverable == b.err.Recoverable
		}) {
			t.Errorf("%x in chunks of %v gives\n%v, want\n%v", stream, cuts, got, want)
		}
	})
}

// wholeBitcoin finds what is in a stream that is there as a whole.
func wholeBitcoin(f BitcoinFramer, stream []byte) (all []arrival) {
	for len(stream) >= 24 {
		header := stream[:24]
		stream = stream[24:]
		command := strings.TrimRight(string(header[4:16]), "\x00")
		size := int64(binary.LittleEndian.Uint32(header[16:20]))
		fits := func(limit int, byDefault int64) bool {
			return limit < 0 || limit == 0 && size <= byDefault || limit > 0 && size <= int64(limit)
		}
		switch {
		case string(header[:4]) != string(f.Magic[:]):
			all = append(all, arrival{err: &FrameError{Cost: 1000}})
			continue
		case !fits(f.MaxPayload, 2_000_000) && !(command == "block" && fits(f.MaxBlock, 128_000_000)):
			all = append(all, arrival{err: &FrameError{Cost: 500}})
			continue
		case int64(len(stream)) < size:
			return all
		}
		payload := stream[:size]
		stream = stream[size:]
		if sum := bitcoinChecksum(payload); string(sum[:]) != string(header[20:]) {
			all = append(all, arrival{err: &FrameError{Cost: 100, Recoverable: true}})
		} else {
			all = append(all, arrival{command: command, payload: payload})
		}
	}
	return all
}

// What has come in is a part of what was read.
func TestBitcoinMessagesAreNotCopied(t *testing.T) {
	stream := bitcoinFrame(t, BitcoinFramer{}, "block", make([]byte, 1000))
	split := BitcoinFramer{}.NewSplitter()
	var m Message
	var item *Item
	read := func() {
		_, msg, err := split(stream, false)
		if err != nil {
			t.Fatal(err)
		}
		BitcoinProtocol.Decode(&m, msg, 0)
		item = &m.Items[0]
	}
	read()
	if &item.Params.Raw[0] != &stream[bitcoinHeader] || len(item.Params.Raw) != 1000 || cap(item.Params.Raw) != 1000 {
		t.Error("the payload is not that of the stream")
	}
	if n := testing.AllocsPerRun(100, read); n > 1 {
		t.Errorf("a message takes %v allocations, want one for its command", n)
	}
}

func TestWhatIsNoPlainMessage(t *testing.T) {
	before := []byte("before")
	p := BitcoinProtocol
	for name, appendTo := range map[string]func() ([]byte, error){
		"a call":                    func() ([]byte, error) { return p.AppendRequest(before, ID("1"), "ping", nil, nil) },
		"a result":                  func() ([]byte, error) { return p.AppendResult(before, ID("1"), []byte("pong"), nil) },
		"an error":                  func() ([]byte, error) { return p.AppendError(before, nil, InternalError(), nil) },
		"a batch":                   func() ([]byte, error) { return p.AppendBatch(before, [][]byte{make([]byte, 20)}) },
		"a command of 13 bytes":     func() ([]byte, error) { return p.AppendNotification(before, "thirteen byte", nil, nil) },
		"a payload of text":         func() ([]byte, error) { return p.AppendNotification(before, "ping", "text", nil) },
		"arguments":                 func() ([]byte, error) { return p.AppendNotification(before, "ping", Args{1}, nil) },
		"the arguments of JSON-RPC": func() ([]byte, error) { return p.AppendNotification(before, "ping", Params{Named: []byte("{}")}, nil) },
	} {
		out, err := appendTo()
		var perr *ProtocolError
		if string(out) != "before" || !errors.As(err, &perr) {
			t.Errorf("%s gives %q, %v", name, out, err)
		}
	}
	for _, size := range []int{0, bitcoinHead - 1} {
		if out, err := (BitcoinFramer{}).AppendFrame(before, make([]byte, size)); string(out) != "before" || err == nil {
			t.Errorf("%d bytes are framed to %q, %v", size, out, err)
		}
		var m Message
		p.Decode(&m, make([]byte, size), 0)
		var perr *ProtocolError
		if m.Len() != 1 || m.Kind() != KindInvalid || !errors.As(m.Items[0].Err, &perr) {
			t.Errorf("%d bytes decode to %+v", size, m.Items)
		}
	}
}

func TestPayloads(t *testing.T) {
	const head = "ping\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	for name, c := range map[string]struct {
		params any
		codec  Codec
		want   string
	}{
		"bytes are a payload":             {[]byte("{\n\x00"), nil, "{\n\x00"},
		"so are none":                     {[]byte{}, nil, ""},
		"nil is an empty one":             {nil, nil, ""},
		"nil bytes are, too":              {[]byte(nil), nil, ""},
		"a payload can be passed on":      {Params{Raw: []byte("hi")}, nil, "hi"},
		"an empty one can be, too":        {Params{}, nil, ""},
		"a codec encodes what it can":     {Args{1}, JSON, "[1]"},
		"but nil is not for it to encode": {nil, JSON, ""},
	} {
		msg, err := BitcoinProtocol.AppendNotification([]byte("before"), "ping", c.params, c.codec)
		if want := "before" + head + c.want; err != nil || string(msg) != want {
			t.Errorf("%s: %q %v, want %q", name, msg, err, want)
		}
	}

	var m Message
	BitcoinProtocol.Decode(&m, []byte(head+"[1]"), 0)
	params := m.Items[0].Params
	var payload []byte
	if err := params.Bind(&payload); err != nil || string(payload) != "[1]" {
		t.Errorf("bound to bytes it is %q, %v", payload, err)
	}
	var list []int
	if err := params.Bind(&list); !errors.Is(err, ErrInvalidParams) {
		t.Errorf("bound to a list it is %v, %v", list, err)
	}
	params.codec = JSON
	if err := params.Bind(&list); err != nil || !slices.Equal(list, []int{1}) {
		t.Errorf("with a codec for it, it is %v, %v", list, err)
	}

	codec := BitcoinProtocol.Codec()
	if err := codec.Unmarshal([]byte("abc"), &payload); err != nil || string(payload) != "abc" {
		t.Errorf("decoded into bytes it is %q, %v", payload, err)
	}
	if err := codec.Unmarshal([]byte("abc"), &list); err == nil {
		t.Error("a payload was decoded into a list")
	}
}

type framingCase struct {
	Name    string
	Op      string
	MaxSize int `json:"max_size"` // 0: unlimited
	Steps   []framingStep
	Message vectorBytes     // of newline_frame
	Expect  json.RawMessage // {"framed": …}, or a list of bitcoinEvents

	// Of bitcoin_frame and bitcoin_parse:
	Magic            string
	Command, Payload vectorBytes
	MaxPayload       int `json:"max_payload_size"`
	MaxBlock         int `json:"max_block_size"`
	Chunks           []vectorBytes
}

type framingStep struct {
	Op     string
	Chunks []vectorBytes
	Expect []framingEvent
}

// framingEvent is what a reader gets: one of the three.
type framingEvent struct {
	Message *vectorBytes
	Dropped string
	Failed  string
}

func TestVectorsFraming(t *testing.T) {
	for _, c := range loadVectors[framingCase](t, "framing.json") {
		t.Run(c.Name, func(t *testing.T) {
			switch c.Op {
			case "newline":
				synctest.Test(t, c.testNewline)
			case "newline_frame":
				var expect struct{ Framed vectorBytes }
				if err := json.Unmarshal(c.Expect, &expect); err != nil {
					t.Fatal(err)
				}
				got, err := NewlineFramer{}.AppendFrame([]byte("before"), c.Message)
				if bytes.Contains(c.Message, []byte("\n")) { // the peer would take it for two messages
					if err == nil {
						t.Errorf("got %q, want an error", got)
					}
					return
				}
				if want := "before" + string(expect.Framed); err != nil || string(got) != want {
					t.Errorf("got %q %v, want %q", got, err, want)
				}
			case "bitcoin_frame":
				c.testBitcoinFrame(t)
			case "bitcoin_parse":
				c.testBitcoinParse(t)
			default:
				t.Fatalf("unknown op %q", c.Op)
			}
		})
	}
}

func (c framingCase) testNewline(t *testing.T) {
	framer := NewlineFramer{MaxSize: c.MaxSize}
	if c.MaxSize == 0 {
		framer.MaxSize = -1
	}
	conn := &chunkConn{chunks: make(chan vectorBytes)}
	stream := newStream(conn, framer)
	var got []framingEvent
	read := func() (more bool) {
		msg, err := stream.nextMessage(true)
		var frame *FrameError
		switch {
		case err == nil:
			b := vectorBytes(string(msg))
			got = append(got, framingEvent{Message: &b})
		case errors.As(err, &frame) && frame.Recoverable:
			got = append(got, framingEvent{Dropped: frame.Message})
		default:
			got = append(got, framingEvent{Failed: "ConnectionLost"})
			return false
		}
		return true
	}
	go func() {
		for read() {
		}
	}()
	failed := false
	decided := c.decided()
	for i, step := range c.Steps {
		switch {
		case step.Op == "cancel_receive": // a reader is never cancelled
		case step.Op == "fail":
			failed = true
			close(conn.chunks)
		case failed:
			for range step.Chunks {
				read() // nothing arrives any more
			}
		default:
			for _, chunk := range step.Chunks {
				conn.chunks <- chunk
			}
		}
		synctest.Wait()
		want := step.Expect
		if decided != nil {
			want = decided[i]
		}
		if len(got) != len(want) || len(want) > 0 && !cmp.Equal(got, want) {
			t.Errorf("step %d: %s", i, cmp.Diff(want, got))
		}
		got = nil
	}
	if !failed {
		close(conn.chunks)
	}
}

// chunkConn is a connection that reads the chunks that are sent to it, one at a
// time, until it is closed.
type chunkConn struct {
	chunks chan vectorBytes
	rest   vectorBytes
}

func (c *chunkConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		chunk, ok := <-c.chunks
		if !ok {
			return 0, io.ErrClosedPipe
		}
		c.rest = chunk
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *chunkConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *chunkConn) Close() error                { return nil }

// decided returns what each step yields where rpcx decides differently, nil
// where it does not: the limit holds for every message, even if its newline
// came in the same chunk; each dropped message is one error; a negative limit
// is none; and a reader that is never cancelled loses nothing.
func (c framingCase) decided() (steps [][]framingEvent) {
	differs := c.MaxSize < 0
	var line []byte
	dropping, failed := false, false
	for _, step := range c.Steps {
		failed = failed || step.Op == "fail"
		if failed {
			steps = append(steps, step.Expect)
			continue
		}
		var events []framingEvent
		for _, chunk := range step.Chunks {
			for _, b := range chunk {
				switch {
				case b == '\n' && dropping:
					dropping = false
				case b == '\n':
					message := append(vectorBytes{}, line...)
					events = append(events, framingEvent{Message: &message})
					line = nil
				case !dropping:
					line = append(line, b)
				}
				if c.MaxSize > 0 && len(line) > c.MaxSize {
					events = append(events, framingEvent{Dropped: "dropping message over " + thousands(c.MaxSize) + " bytes and re-synchronizing"})
					line, dropping = nil, true
				}
			}
		}
		steps = append(steps, events)
		overlong := func(e framingEvent) bool { return c.MaxSize > 0 && e.Message != nil && len(*e.Message) > c.MaxSize }
		differs = differs || drops(step.Expect) > drops(events) || slices.ContainsFunc(step.Expect, overlong) ||
			step.Op == "cancel_receive" && len(line) > 0
	}
	if !differs {
		return nil
	}
	return steps
}

// drops counts the messages that were dropped.
func drops(events []framingEvent) (n int) {
	for _, event := range events {
		if event.Dropped != "" {
			n++
		}
	}
	return n
}

// bitcoinEvent is what a reader gets: a message, or an error with its details.
type bitcoinEvent struct {
	Command, Payload *vectorBytes

	Error           string
	Cost            float64
	Got, Expected   string // of bad_magic
	Actual, Claimed string // of bad_checksum
	Length          uint32 `json:"payload_len"` // of oversized, with Command
}

func (c framingCase) bitcoinFramer(t *testing.T) BitcoinFramer {
	t.Helper()
	magic, err := hex.DecodeString(c.Magic)
	if err != nil || len(magic) != bitcoinMagic {
		t.Fatalf("magic %q", c.Magic)
	}
	return BitcoinFramer{Magic: [4]byte(magic), MaxPayload: c.MaxPayload, MaxBlock: c.MaxBlock}
}

func (c framingCase) testBitcoinFrame(t *testing.T) {
	var expect struct {
		Framed  vectorBytes
		Error   string
		Message string `json:"message_suffix"`
	}
	if err := json.Unmarshal(c.Expect, &expect); err != nil {
		t.Fatal(err)
	}
	msg, err := BitcoinProtocol.AppendNotification(nil, string(c.Command), []byte(c.Payload), nil)
	if expect.Error != "" {
		var perr *ProtocolError
		if !errors.As(err, &perr) || !strings.HasSuffix(perr.Message, expect.Message) {
			t.Errorf("the error is %v, want one that ends with %q", err, expect.Message)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.bitcoinFramer(t).AppendFrame([]byte("before"), msg)
	if want := "before" + string(expect.Framed); err != nil || string(got) != want {
		t.Errorf("got %x %v, want %x", got, err, want)
	}
}

func (c framingCase) testBitcoinParse(t *testing.T) {
	var expect []bitcoinEvent
	if err := json.Unmarshal(c.Expect, &expect); err != nil {
		t.Fatal(err)
	}
	chunks := make([][]byte, len(c.Chunks))
	for i, chunk := range c.Chunks {
		chunks[i] = chunk
	}
	got := arrive(t, c.bitcoinFramer(t), chunks)
	for i := range max(len(got), len(expect)) {
		switch {
		case i >= len(expect):
			t.Errorf("event %d is %v, want none", i, got[i])
		case i >= len(got):
			t.Errorf("there is no event %d, want %+v", i, expect[i])
		case expect[i].Error == "":
			if want := fmt.Sprintf("%q %q", *expect[i].Command, *expect[i].Payload); got[i].err != nil || got[i].String() != want {
				t.Errorf("event %d is %v, want %.100s", i, got[i], want)
			}
		default:
			expect[i].compare(t, i, got[i].err)
		}
	}
}

// compare checks an error: its kind, its cost, and that it tells the details.
func (e bitcoinEvent) compare(t *testing.T, i int, got *FrameError) {
	t.Helper()
	want := FrameError{Cost: e.Cost, Recoverable: e.Error == "bad_checksum"}
	var details []string
	switch e.Error {
	case "bad_magic":
		details = []string{"magic", e.Got, e.Expected}
	case "bad_checksum":
		details = []string{"checksum", e.Actual, e.Claimed}
	case "oversized":
		details = []string{fmt.Sprintf("%d bytes", e.Length), fmt.Sprintf("%q", *e.Command)}
	default:
		t.Fatalf("unknown error %q", e.Error)
	}
	if got == nil || got.Cost != want.Cost || got.Recoverable != want.Recoverable {
		t.Errorf("event %d is %+v, want %s at a cost of %v", i, got, e.Error, e.Cost)
		return
	}
	for _, detail := range details {
		if !strings.Contains(got.Message, detail) {
			t.Errorf("event %d: %q does not tell %s", i, got.Message, detail)
		}
	}
}
