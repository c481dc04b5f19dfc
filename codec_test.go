package rpcx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// stdAppend is what JSON.Append has to do, except for text that is no UTF-8.
func stdAppend(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// checkAppend compares JSON.Append(v) with encoding/json.
func checkAppend(t *testing.T, v any) {
	t.Helper()
	got, err := JSON.Append([]byte("before"), v)
	rest, kept := bytes.CutPrefix(got, []byte("before"))
	if !kept {
		t.Fatalf("Append(%#v) changed what was there: %q", v, got)
	}
	want, wantErr := stdAppend(v)
	if wantErr == nil && !utf8.Valid(want) {
		if err == nil || len(rest) > 0 {
			t.Errorf("Append(%#v) = %q, %v, want an error for invalid UTF-8", v, rest, err)
		}
		return
	}
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Errorf("Append(%#v): error %v, want %v", v, err, wantErr)
	}
	if !bytes.Equal(rest, want) {
		t.Errorf("Append(%#v) =\n%s, want\n%s", v, rest, want)
	}
}

// Types of a user, which must not take the direct paths.
type (
	plainString string // is not the type string, but encodes like it
	jsonString  string
	textString  string
	jsonArgs    []any
	rawJSON     string // returns itself from MarshalJSON
	nestedJSON  struct{ v any }
	textKey     string
)

func (jsonString) MarshalJSON() ([]byte, error)       { return []byte(` { "a" : "<" } `), nil }
func (textString) MarshalText() ([]byte, error)       { return []byte("<text>"), nil }
func (jsonArgs) MarshalJSON() ([]byte, error)         { return []byte("\"args\"\n"), nil }
func (r rawJSON) MarshalJSON() ([]byte, error)        { return []byte(r), nil }
func (n nestedJSON) MarshalJSON() ([]byte, error)     { return JSON.Append(nil, n.v) }
func (k textKey) MarshalText() ([]byte, error)        { return []byte("key " + k), nil }
func (r *rawJSON) UnmarshalJSON(data []byte) error    { *r = rawJSON(data); return nil }
func (k *textKey) UnmarshalText(text []byte) error    { *k = textKey(text); return nil }
func (s *jsonString) UnmarshalJSON(data []byte) error { return errors.New("refused") }

func TestCodecAppendsAsEncodingJSON(t *testing.T) {
	text, number, raw := "text", 5, json.RawMessage(`{"a": 1}`)
	values := []any{
		nil, true, false,
		0, -1, math.MinInt, math.MaxInt, int8(-128), int16(-32768), int32(math.MinInt32), int64(math.MinInt64),
		uint(7), uint8(255), uint16(65535), uint32(math.MaxUint32), uint64(math.MaxUint64), uintptr(9),
		0.0, math.Copysign(0, -1), 1.0, -1.5, 0.1, 1e20, 999999999999999999999.0, 1e21, -1e21, 1.5e21, 1e100, 1e-5, 1e-6,
		9.99e-7, 1e-7, -1.25e-9, 1e-10, 1e-100, 5e-324, math.MaxFloat64, math.Pi, 100000000000000000000.0, math.Nextafter(1e21, 0), math.Nextafter(1e-6, 0),
		float32(0), float32(0.1), float32(16777216), float32(1e20), float32(1e21), float32(1e-6), float32(1e-7), float32(9.9e-7),
		float32(math.MaxFloat32), float32(math.SmallestNonzeroFloat32), math.Nextafter32(1e21, 0), math.Nextafter32(1e-6, 0), math.Nextafter32(1e-6, 1),
		math.NaN(), math.Inf(1), math.Inf(-1), float32(math.NaN()), float32(math.Inf(1)),

		"", "a", "hello, world", `"`, `\`, "/", "<b>&amp;</b>", "é€😀", "\u2028\u2029\u2027\u202a", "\u007f\u0080", "\ufffd", "\ufeff",
		"\xff", "\xe2\x80", "\xe2\x80\xa8\xe2", "\xed\xa0\x80", "\xc0\x80", "\xf0\x9f\x98", "ab\xffcd\xfe", "1234567\xff", "12345678\xff",

		json.Number("12"), json.Number("-0.5e+7"), json.Number(""), json.Number("12 "), json.Number("abc"), json.Number("01"), json.Number("NaN"),

		json.RawMessage(nil), json.RawMessage{}, json.RawMessage("null"), json.RawMessage(`{"a":[1,"<x>"],"b":"\u2028"}`),
		json.RawMessage(" { \"a b\" : [ 1 , \"c\\\" d\" , true , { } ] ,\r\n\t\"e\" : -1.5e3 } \n"), json.RawMessage("\n1"), json.RawMessage("\"\u2028\""),
		json.RawMessage(`{"a":1`), json.RawMessage(`1 2`), json.RawMessage("\"\n\""), json.RawMessage("\"\xff\""), json.RawMessage("[ \"\xff\" ]"),
		json.RawMessage(nested("[", 10000)), json.RawMessage(nested("[", 10001)),

		Args(nil), Args{}, Args{1, "two", 3.5, nil, true, json.RawMessage(`[ ]`), Args{Args{}, Args(nil), []any{"x"}}}, []any(nil), []any{}, []any{"<>"},
		Args{1, math.NaN()}, Args{Args{make(chan int)}}, Args{json.RawMessage("{")},
		[]string(nil), []string{}, []string{"a", "<\xff>", ""}, []int(nil), []int{}, []int{1, -2}, []float64(nil), []float64{0.1, 1e30}, []float64{math.Inf(1)},
		map[string]any(nil), map[string]any{}, map[string]any{"b": 1, "a": map[string]any{"<\n>": nil}, "": Args{}, "é": 2.5, "\xff": "x"},
		map[string]any{"a": math.NaN()},

		plainString("<\xff>"), jsonString("x"), textString("x"), jsonArgs{1}, nestedJSON{Args{nestedJSON{"<"}, "x"}}, nestedJSON{make(chan int)},
		rawJSON(""), rawJSON("{"), rawJSON("[\n1]"), rawJSON("\"\xff\""), Args{rawJSON("\"\xff\"")}, rawJSON("\"\u2028\""),
		map[string]rawJSON{"a": "\"\xff\""}, struct{ A json.RawMessage }{json.RawMessage("\"\xff\"")}, struct{ A json.RawMessage }{json.RawMessage("[ 1 ]")},
		map[textKey]int{"a": 1}, map[int]string{2: "a", 1: "b"}, map[string]string{"<": ">"},
		&text, &number, &raw, (*string)(nil), (*json.RawMessage)(nil), &map[string]any{"a": 1}, &Args{1},
		[]byte("bytes"), [2]int{1, 2}, time.Unix(0, 0).UTC(), time.Second, 'x', struct {
			A string `json:"a,omitempty"`
			B any
		}{B: "<"},
		make(chan int), func() {}, complex(1, 2), map[bool]int{true: 1}, Args{1, func() {}},
	}
	for _, c := range append(make([]byte, 0, 128), "\x00\x01\b\t\n\v\f\r\x1f\x7f"...) {
		values = append(values, "control "+string(rune(c))+" character")
	}
	for _, v := range values {
		checkAppend(t, v)
	}
}

// Wherever in a string something special stands, relative to the words of
// eight bytes in which strings are read, it is escaped.
func TestCodecEscapesAtEveryPlaceInAString(t *testing.T) {
	for before := range 20 {
		for after := range 20 {
			for _, text := range []string{"", "\"", "\\", "\n", "\x00", "\x1f", "\x7f", "é", "\u2028", "\xff", "\xe2\x80", "\"\xff\n"} {
				checkAppend(t, strings.Repeat("x", before)+text+strings.Repeat("x", after))
			}
		}
	}
}

func TestCodecAppendsDeepAndCyclicValues(t *testing.T) {
	for _, depth := range []int{maxDirect - 1, maxDirect, maxDirect + 1, 2 * maxDirect} {
		var v any = "x"
		for i := range depth {
			if i%2 == 0 {
				v = Args{v, "<"}
			} else {
				v = map[string]any{"a": v}
			}
		}
		checkAppend(t, v)
	}
	args := Args{1, nil}
	args[1] = args
	m := map[string]any{}
	m["m"] = m
	for _, v := range []any{args, m} {
		if _, err := JSON.Append(nil, v); err == nil {
			t.Errorf("no error for a %T that contains itself", v)
		}
	}
}

func TestCodecOrIsJSONForNil(t *testing.T) {
	if codecOr(nil) != JSON {
		t.Error("nil is not JSON")
	}
	if c := (testCodec{}); codecOr(&c) != Codec(&c) {
		t.Error("a codec is not itself")
	}
}

// unmarshalTargets make values to decode into, unset and set.
var unmarshalTargets = []func() any{
	func() any { return new(string) },
	func() any { v := "before"; return &v },
	func() any { return new(bool) },
	func() any { v := true; return &v },
	func() any { return new(int) },
	func() any { v := 5; return &v },
	func() any { return new(int8) },
	func() any { return new(int32) },
	func() any { return new(int64) },
	func() any { return new(uint) },
	func() any { return new(uint32) },
	func() any { return new(uint64) },
	func() any { return new(float32) },
	func() any { return new(float64) },
	func() any { v := 0.5; return &v },
	func() any { return new(json.Number) },
	func() any { v := json.Number("5"); return &v },
	func() any { return new(json.RawMessage) },
	func() any { v := json.RawMessage("before"); return &v },
	func() any { return new(any) },
	func() any { v := any("before"); return &v },
	func() any { v := any(new(int)); return &v },
	func() any { v := any(json.RawMessage("before")); return &v },
	func() any { return new(*string) },
	func() any { return new([]string) },
	func() any { return new(Args) },
	func() any { return new(map[string]any) },
	func() any { return new([]byte) },
	func() any { return new(plainString) },
	func() any { return new(jsonString) },
	func() any { return new(rawJSON) },
	func() any { return new(textKey) },
	func() any { return new(struct{ A json.RawMessage }) },
	func() any { return (*string)(nil) },
	func() any { return (*bool)(nil) },
	func() any { return (*int)(nil) },
	func() any { return (*int32)(nil) },
	func() any { return (*int64)(nil) },
	func() any { return (*uint)(nil) },
	func() any { return (*uint32)(nil) },
	func() any { return (*uint64)(nil) },
	func() any { return (*float64)(nil) },
	func() any { return (*json.Number)(nil) },
	func() any { return (*json.RawMessage)(nil) },
	func() any { return (*any)(nil) },
	func() any { return nil },
	func() any { return "no pointer" },
}

// checkUnmarshal compares JSON.Unmarshal with encoding/json for every target.
func checkUnmarshal(t *testing.T, data []byte) {
	t.Helper()
	for _, target := range unmarshalTargets {
		got, want := target(), target()
		err, wantErr := JSON.Unmarshal(data, got), json.Unmarshal(data, want)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Errorf("Unmarshal(%.80q, %T): error %v, want %v", data, got, err, wantErr)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("Unmarshal(%.80q, %T): differs from encoding/json", data, got)
		}
	}
}

var unmarshalSeeds = []string{
	``, ` `, `null`, ` null `, `nul`, `true`, `false`, ` true`, `truex`,
	`0`, `-0`, `1`, `-1`, `17`, ` 17 `, `1.0`, `1.5`, `1e3`, `01`, `+1`, `1_0`, `0x1`, `-`, `1.`, `NaN`, `Infinity`, `inf`,
	`127`, `128`, `2147483647`, `2147483648`, `-2147483648`, `-2147483649`, `4294967295`, `4294967296`,
	`9223372036854775807`, `9223372036854775808`, `-9223372036854775808`, `-9223372036854775809`, `18446744073709551615`, `18446744073709551616`,
	`1e308`, `1e309`, `-1e309`, `1e-400`, `3.5e38`, `0.1`, `123456789012345678901234567890123456789012345`,
	`""`, `"a"`, ` "a" `, `"a" x`, `"a`, `"`, `"a""b"`, `"a\n\"\\\/\u00e9"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ude00\ud83d"`, `"\x"`, `"\u12"`,
	"\"a\nb\"", "\"\x00\"", "\"\xff\"", "\"\xff\\n\"", "\"é€😀\"", "\"\u2028\"", `"12"`, `"YWJj"`,
	`[]`, ` [ ] `, `["a", "b"]`, `[1,"a"]`, `[1,]`, `{}`, `{"A": [1, 2] }`, `{"a":1,"A":2}`, `{"a"}`, "[\"\xff\"]", "\n{\"A\"\t:\r1}\n",
}

func TestCodecUnmarshalsAsEncodingJSON(t *testing.T) {
	for _, data := range unmarshalSeeds {
		checkUnmarshal(t, []byte(data))
	}
	checkUnmarshal(t, []byte(nested("[", 10000)))
	checkUnmarshal(t, []byte(nested("[", 10001)))
}

func TestCodecUnmarshalKeepsNoData(t *testing.T) {
	data := []byte(`"text"`)
	var s string
	var raw json.RawMessage
	var v any
	for _, target := range []any{&s, &raw, &v} {
		if err := JSON.Unmarshal(data, target); err != nil {
			t.Fatal(err)
		}
	}
	clear(data)
	if s != "text" || string(raw) != `"text"` || v != any("text") {
		t.Errorf("%q, %q, %q changed with the data", s, raw, v)
	}
}

// testCodec appends what a test says.
type testCodec struct {
	output string
	err    error
	cut    int // how many bytes it takes off what was there
}

func (c *testCodec) Append(dst []byte, v any) ([]byte, error) {
	return append(dst[:len(dst)-c.cut], c.output...), c.err
}

func (c *testCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

func TestForeignCodecsAreChecked(t *testing.T) {
	tests := []struct {
		name  string
		codec testCodec
		want  string // "" is an error
	}{
		{"a value", testCodec{output: `{"a":[1,"b c"]}`}, `{"a":[1,"b c"]}`},
		{"a newline at the end", testCodec{output: "17\n"}, `17`},
		{"newlines within", testCodec{output: "{\n  \"a b\": \"\\\" c \",\n  \"d\": [ true, null , -1.5e3 ]\r\n}\n"}, `{"a b":"\" c ","d":[true,null,-1.5e3]}`},
		{"nothing", testCodec{}, ""},
		{"only white space", testCodec{output: " \n"}, ""},
		{"two values", testCodec{output: "1\n2"}, ""},
		{"a value cut short", testCodec{output: `{"a":`}, ""},
		{"a value that closes more than it opened", testCodec{output: `1},{"id":2`}, ""},
		{"a newline in a string", testCodec{output: "\"a\nb\""}, ""},
		{"invalid UTF-8", testCodec{output: "\"\xff\""}, ""},
		{"too much nesting", testCodec{output: nested("[", 10001)}, ""},
		{"less than there was", testCodec{cut: 3}, ""},
		{"an error", testCodec{output: "1", err: errors.New("no")}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := appendCodec([]byte("before"), &test.codec, nil)
			if string(got) != "before"+test.want {
				t.Errorf("got %q, want %q", got, "before"+test.want)
			}
			var protocolErr *ProtocolError
			switch {
			case test.want != "" && err != nil:
				t.Error(err)
			case test.want == "" && (!errors.As(err, &protocolErr) || protocolErr.Code != CodeInternalError):
				t.Errorf("error %v, want a *ProtocolError with CodeInternalError", err)
			}
		})
	}
}

func TestAppendCodecWithTheBuiltInOne(t *testing.T) {
	for _, c := range []Codec{nil, JSON} {
		got, err := appendCodec([]byte("before"), c, Args{"<", json.RawMessage("[ 1 ]")})
		if err != nil || string(got) != `before["<",[1]]` {
			t.Errorf("got %q, %v", got, err)
		}
		got, err = appendCodec([]byte("before"), c, Args{1, math.NaN()})
		var protocolErr *ProtocolError
		if string(got) != "before" || !errors.As(err, &protocolErr) ||
			*protocolErr != (ProtocolError{CodeInternalError, "JSON payload encoding error: json: unsupported value: NaN"}) {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestCodecAllocations(t *testing.T) {
	buf := make([]byte, 0, 1024)
	appends := []any{"a string that is longer than a word", Args{"x"}, Args{1, 2.5, true, nil, Args{"x"}}, json.RawMessage(`{"a": 1}`), json.Number("12"),
		[]string{"a"}, map[string]any{"a": 1, "b": "x"}}
	for _, v := range appends {
		if n := testing.AllocsPerRun(100, func() { JSON.Append(buf, v) }); n != 0 {
			t.Errorf("%v allocations to append a %T", n, v)
		}
	}
	raw := make(json.RawMessage, 0, 100)
	unmarshals := []struct {
		data   string
		target any
		want   float64
	}{
		{`"a string that is longer than a word"`, new(string), 1},
		{`"a string with\nan escape"`, new(string), 1},
		{`true`, new(bool), 0},
		{`123456`, new(int), 0},
		{`123456`, new(uint64), 0},
		{`1234.5`, new(float64), 0},
		{`{"a":1}`, &raw, 0},
	}
	for _, test := range unmarshals {
		data := []byte(test.data)
		if n := testing.AllocsPerRun(100, func() { JSON.Unmarshal(data, test.target) }); n != test.want {
			t.Errorf("%v allocations to unmarshal %s into a %T, want %v", n, data, test.target, test.want)
		}
	}
}

func FuzzCodecAppend(f *testing.F) {
	for i, s := range unmarshalSeeds {
		f.Add(s, int64(i)<<(i&63), float64(i)*math.Pow10(i-30), []byte(s))
	}
	f.Add("\"\\/\b\f\n\r\t<>&\u2028\u2029\x7f\xff\xe2\x80", int64(math.MinInt64), 1e21, []byte(" [ \"\u2028 <>\" , 1 ] "))
	f.Add("-1.5e7", int64(-1), 1e-7, []byte("\"12345678\xff\""))
	f.Fuzz(func(t *testing.T, s string, n int64, x float64, raw []byte) {
		r := json.RawMessage(raw)
		for _, v := range []any{
			s, r, json.Number(s), x, float32(x),
			int(n), int8(n), int16(n), int32(n), n, uint(n), uint8(n), uint16(n), uint32(n), uint64(n), uintptr(n),
			Args{s, n, x, r, Args{s}}, []any{r}, []string{s, s}, []int{int(n)}, []float64{x},
			map[string]any{s: n, s + "x": r, "a": s, string(raw): x}, plainString(s), rawJSON(s), &s, &r,
		} {
			checkAppend(t, v)
		}
	})
}

func FuzzCodecUnmarshal(f *testing.F) {
	for _, seed := range unmarshalSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(checkUnmarshal)
}

func BenchmarkAppendString1MB(b *testing.B) {
	for _, bench := range []struct{ name, text string }{
		{"ascii", "x"},
		{"lines", "forty characters of text, then an escape\n"},
		{"cyrillic", "ж"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var v any = strings.Repeat(bench.text, 1<<20/len(bench.text))
			buf := make([]byte, 0, 2<<20)
			b.SetBytes(1 << 20)
			b.ReportAllocs()
			for b.Loop() {
				JSON.Append(buf, v)
			}
		})
	}
}

func BenchmarkUnmarshalString1MB(b *testing.B) {
	for _, bench := range []struct{ name, text string }{
		{"ascii", "x"},
		{"lines", `forty characters of text, then an escape\n`},
		{"cyrillic", "ж"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			data := []byte(`"` + strings.Repeat(bench.text, 1<<20/len(bench.text)) + `"`)
			var s string
			b.SetBytes(1 << 20)
			b.ReportAllocs()
			for b.Loop() {
				if err := JSON.Unmarshal(data, &s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendSmall(b *testing.B) {
	for _, v := range []any{
		"hello, world", 12345, 0.25, Args{"hello, world"}, Args{1, 2.5, true}, json.RawMessage(`{"a":[1,2,3]}`),
		map[string]any{"name": "x", "id": 17}, struct{ A string }{"hello, world"},
	} {
		b.Run(fmt.Sprintf("%T", v), func(b *testing.B) {
			buf := make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				JSON.Append(buf, v)
			}
		})
	}
}

func BenchmarkUnmarshalSmall(b *testing.B) {
	for _, bench := range []struct {
		data   string
		target any
	}{
		{`"hello, world"`, new(string)},
		{`12345`, new(int)},
		{`0.25`, new(float64)},
		{`{"a":[1,2,3]}`, new(json.RawMessage)},
		{`{"A":"hello, world"}`, new(struct{ A string })},
	} {
		b.Run(fmt.Sprintf("%T", bench.target), func(b *testing.B) {
			data := []byte(bench.data)
			b.ReportAllocs()
			for b.Loop() {
				JSON.Unmarshal(data, bench.target)
			}
		})
	}
}
