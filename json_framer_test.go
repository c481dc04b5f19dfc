package rpcx

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"example.com/rpcx/internal/jsonscan"
)

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
