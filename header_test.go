package rpcx

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
)

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
		msg, err := s.next(true)
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
		for _, err := s.next(true); err != io.EOF && err != io.ErrUnexpectedEOF; _, err = s.next(true) {
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
