package rpcx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/rpcx/internal/jsonscan"
)

// stdAppend is what encoding/json makes of v.
func stdAppend(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// checkAppend checks that JSON.Append(v) is valid, without white space, and has
// the same value as the output of encoding/json, or its error.
func checkAppend(t *testing.T, v any) {
	t.Helper()
	got, err := JSON.Append([]byte("before"), v)
	rest, kept := bytes.CutPrefix(got, []byte("before"))
	if !kept {
		t.Fatalf("Append(%#v) changed what was there: %q", v, got)
	}
	want, wantErr := stdAppend(v)
	if wantErr == nil {
		if valid, _ := jsonscan.Valid(want); !valid { // no UTF-8, or nested too deep
			if err == nil || len(rest) > 0 {
				t.Errorf("Append(%#v) = %.80q, %v, want an error", v, rest, err)
			}
			return
		}
	}
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Errorf("Append(%#v): error %v, want %v", v, err, wantErr)
	}
	if err != nil {
		if len(rest) > 0 {
			t.Errorf("Append(%#v) = %.80q beside an error", v, rest)
		}
		return
	}
	if ok, space := jsonscan.Valid(rest); !ok || space {
		t.Errorf("Append(%#v) = %.80q: not JSON, or not compact", v, rest)
	}
	if !sameTokens(rest, want) {
		t.Errorf("Append(%#v) =\n%s, want the value of\n%s", v, rest, want)
	}
}

// sameTokens reports whether two JSON texts have equal tokens in the same order,
// numbers in the same form.
func sameTokens(a, b []byte) bool {
	x, y := json.NewDecoder(bytes.NewReader(a)), json.NewDecoder(bytes.NewReader(b))
	x.UseNumber()
	y.UseNumber()
	for {
		xt, xerr := x.Token()
		yt, yerr := y.Token()
		if xt != yt || fmt.Sprint(xerr) != fmt.Sprint(yerr) {
			return false
		}
		if xerr != nil {
			return xerr == io.EOF
		}
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

func TestCodecAppendsTheValue(t *testing.T) {
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

// These bytes are the same with every version of Go and of encoding/json.
func TestCodecWritesTheSameBytesEverywhere(t *testing.T) {
	type fields struct {
		S string          `json:"s,omitempty"`
		R json.RawMessage `json:"r,omitempty"`
		M rawJSON         `json:"m"`
		T textString      `json:"t"`
	}
	type chain struct {
		Next *chain `json:"n,omitempty"`
	}
	tests := []struct {
		name string
		v    any
		want string
	}{
		{"a string that is not UTF-8", "a\xffb\xe2\x80c", "\"a\ufffdb\ufffd\ufffdc\""},
		{"the same in a defined type", plainString("a\xffb\xe2\x80c"), "\"a\ufffdb\ufffd\ufffdc\""},
		{"the same in a struct", struct{ A string }{"a\xffb\xe2\x80c"}, "{\"A\":\"a\ufffdb\ufffd\ufffdc\"}"},
		{"the same behind a pointer", &[]string{"\xff"}[0], "\"\ufffd\""},
		{"the same in lists", []any{[]string{"\xff"}, []plainString{"\xff"}, [1]string{"\xff"}}, "[[\"\ufffd\"],[\"\ufffd\"],[\"\ufffd\"]]"},
		{"the same in maps", []any{map[string]any{"a": "\xff"}, map[string]string{"a": "\xff"}}, "[{\"a\":\"\ufffd\"},{\"a\":\"\ufffd\"}]"},
		{"the same in keys", []any{map[string]any{"\xff": 1}, map[string]int{"\xff": 1}, map[plainString]int{"\xff": 1}}, "[{\"\ufffd\":1},{\"\ufffd\":1},{\"\ufffd\":1}]"},
		{"U+FFFD itself", []any{"\ufffd", plainString("\ufffd")}, "[\"\ufffd\",\"\ufffd\"]"},
		{"text that looks like an escape", []any{`\ufffd`, plainString(`\ufffd`), plainString(`\\ufffd`)}, `["\\ufffd","\\ufffd","\\\\ufffd"]`},
		{"line separators", []any{"\u2028", plainString("\u2029"), map[string]int{"\u2028": 1}}, `["\u2028","\u2029",{"\u2028":1}]`},
		{"their neighbours", []any{"\u2027\u202a“”", plainString("\u2027\u202a“”")}, "[\"\u2027\u202a“”\",\"\u2027\u202a“”\"]"},
		{"HTML", []any{"<&>", plainString("<&>")}, `["<&>","<&>"]`},
		{"control characters", []any{"\x00\b\f\n\r\t\x1f\x7f", plainString("\x00\b\f\n\r\t\x1f\x7f")},
			"[\"\\u0000\\b\\f\\n\\r\\t\\u001f\x7f\",\"\\u0000\\b\\f\\n\\r\\t\\u001f\x7f\"]"},
		{"line separators in raw JSON", fields{R: json.RawMessage("\"\u2028\u2029\""), M: "[\"\u2028\"]"}, `{"r":"\u2028\u2029","m":["\u2028"],"t":"<text>"}`},
		{"escapes in raw JSON", fields{R: json.RawMessage(`"\ufffd\uFFFD\\ufffd\u0041\/\ud800"`), M: `"\ufffd"`}, "{\"r\":\"\ufffd\\uFFFD\\\\ufffd\\u0041\\/\\ud800\",\"m\":\"\ufffd\",\"t\":\"<text>\"}"},
		{"raw JSON keeps its form", json.RawMessage(" { \"b\" : [ 1.0 , 1E5 , -0 ] , \"b\" : \"\\u0041\\/<\u2028\" }\n"), "{\"b\":[1.0,1E5,-0],\"b\":\"\\u0041\\/<\u2028\"}"},
		{"and in a struct", fields{R: json.RawMessage(` { "b" : [ 1.0 , 1E5 , -0 ] , "b" : "\u0041\/<" } `), M: " 1E0 "}, `{"r":{"b":[1.0,1E5,-0],"b":"\u0041\/<"},"m":1E0,"t":"<text>"}`},
		{"floats", []any{1e21, 1e20, 1e-7, float32(0.1), []float32{3.4e38, 1e-7, 16777216}, struct{ A float64 }{5e-324}}, `[1e+21,100000000000000000000,1e-7,0.1,[3.4e+38,1e-7,16777216],{"A":5e-324}]`},
		{"keys in order", []any{map[string]any{"\U0001F600": 1, "\uffff": 2, "a": 3, "B": 4}, map[string]int{"\U0001F600": 1, "\uffff": 2, "a": 3, "B": 4}, map[int]string{10: "a", 9: "b", -1: "c"}},
			"[{\"B\":4,\"a\":3,\"\uffff\":2,\"\U0001F600\":1},{\"B\":4,\"a\":3,\"\uffff\":2,\"\U0001F600\":1},{\"-1\":\"c\",\"10\":\"a\",\"9\":\"b\"}]"},
		{"what is nil", []any{[]byte(nil), []int8(nil), map[string]int(nil), (*int)(nil), struct{ A error }{}}, `[null,null,null,null,{"A":null}]`},
		{"times and bytes", []any{time.Unix(0, 1).UTC(), time.Second, []byte("hi"), [2]byte{1, 2}}, `["1970-01-01T00:00:00.000000001Z",1000000000,"aGk=",[1,2]]`},
		{"the option string", struct {
			A string  `json:",string"`
			B int     `json:",string"`
			C float64 `json:",string"`
			D bool    `json:",string"`
		}{"é\u2028", 1, 1e21, true}, "{\"A\":\"\\\"é\\\\u2028\\\"\",\"B\":\"1\",\"C\":\"1e+21\",\"D\":\"true\"}"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			checkAppend(t, test.v)
			if got, err := JSON.Append(nil, test.v); err != nil || string(got) != test.want {
				t.Errorf("got\n%s, %v, want\n%s", got, err, test.want)
			}
		})
	}
	link := new(chain)
	for range 9999 {
		link = &chain{link}
	}
	if got, err := JSON.Append(nil, link); err != nil || len(got) != 9999*len(`{"n":}`)+len("{}") {
		t.Errorf("10,000 levels: %d bytes, %v", len(got), err)
	}
	raw := json.RawMessage(nested("[", 10000))
	var lists any
	for range 10001 {
		lists = []any{lists}
	}
	if got, err := JSON.Append(nil, lists.([]any)[0]); err != nil || len(got) != 2*10000+len("null") {
		t.Errorf("10,000 lists: %d bytes, %v", len(got), err)
	}
	for _, v := range []any{&chain{link}, struct{ A json.RawMessage }{raw}, map[int]rawJSON{1: rawJSON(raw)}, Args{raw}, map[string]any{"a": link}, lists} {
		if got, err := JSON.Append(nil, v); err == nil || len(got) > 0 {
			t.Errorf("10,001 levels in a %T: %d bytes and no error", v, len(got))
		}
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
	func() any { return new([]any) },
	func() any { v := []any{"a", new(int), nil}[:2]; return &v },
	func() any { return &[]any{new(*string), new(any), new([]int), map[string]any{"a": 1}} },
	func() any { return new(Args) },
	func() any { return &Args{1, 2, 3} },
	func() any { return new(map[string]any) },
	func() any { return &map[string]any{"A": new(int), "z": 1} },
	func() any { v := any(&map[string]any{"z": 1}); return &v },
	func() any { v := any(new(*int)); return &v },
	func() any { return new(*any) },
	func() any { return new([2]any) },
	func() any { return new(map[string][]any) },
	func() any { return new([]map[string]any) },
	func() any { return &struct{ A any }{} },
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
	func() any { return (*[]any)(nil) },
	func() any { return (*Args)(nil) },
	func() any { return (*map[string]any)(nil) },
	func() any { return nil },
	func() any { return "no pointer" },
}

// keptOnError reports whether v is unchanged when decoding into it fails: it takes
// any values, and none of them has a pointer to decode into.
func keptOnError(v any) bool {
	switch v := v.(type) {
	case *any:
		return v != nil && !isPointer(*v)
	case *[]any:
		return v != nil && !slices.ContainsFunc(*v, isPointer)
	case *Args:
		return v != nil && !slices.ContainsFunc(*v, isPointer)
	case *map[string]any:
		return v != nil
	}
	return false
}

// checkUnmarshal compares JSON.Unmarshal with encoding/json for every target.
func checkUnmarshal(t *testing.T, data []byte) {
	t.Helper()
	for _, target := range unmarshalTargets {
		got, want := target(), target()
		err, wantErr := JSON.Unmarshal(data, got), json.Unmarshal(data, want)
		if fmt.Sprintf("%T", err) != fmt.Sprintf("%T", wantErr) {
			t.Errorf("Unmarshal(%.80q, %T): error %v, want %v", data, got, err, wantErr)
		}
		if err != nil {
			if !keptOnError(got) {
				continue
			}
			want = target()
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("Unmarshal(%.80q, %T) = %#v, want %#v", data, got, got, want)
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
	`[null]`, `[1,null,"x",[]]`, `[[1,[2,{"a":[]}]],{}]`, `[1e309]`, `{"A":1e309}`, `{"A":{"x":1},"A":{"y":2}}`, `{"A":[1,2],"A":[3]}`, "{\"\xff\":1,\"\xfe\":2}",
	`{"\u0041":1,"A":2}`, `{"\ud800":1,"\udc00":2}`, `{"A":1`, `{"A":1,}`, `{"A":1}}`, `[1 2]`, `{"A" 1}`, `{A:1}`, `[1]x`, "[\xff]", "[\"\xe2\x80\"]", `"\ud800\ud83d\ude00"`,
	`1e700x`, `[1e700,]`, `123456789012345`, `1234567890123456`, `-123456789012345`, `0.0`, `[-0]`, `1E2`, `{"":{"":[{}]}}`,
}

func TestCodecUnmarshalsTheValue(t *testing.T) {
	for _, data := range unmarshalSeeds {
		checkUnmarshal(t, []byte(data))
	}
	checkUnmarshal(t, []byte(nested("[", 10000)))
	checkUnmarshal(t, []byte(nested("[", 10001)))
}

// Any value is decoded to the same with every version of Go and of encoding/json,
// wherever it stands.
func TestCodecDecodesAnyValueTheSameEverywhere(t *testing.T) {
	tests := []struct {
		name, data string
		want       any // nil: an error
	}{
		{"numbers", `[0,-0,17,1.5,1e3,123456789012345,1234567890123456,9007199254740993,1e-400]`,
			[]any{0.0, math.Copysign(0, -1), 17.0, 1.5, 1000.0, 123456789012345.0, 1234567890123456.0, 9007199254740992.0, 0.0}},
		{"a number of many digits", "1" + strings.Repeat("0", 300), 1e300},
		{"words", ` [ true , false , null ] `, []any{true, false, nil}},
		{"what is empty", `["",[],{}]`, []any{"", []any{}, map[string]any{}}},
		{"equal keys: the last counts", `{"a":1,"b":2,"\u0061":3}`, map[string]any{"a": 3.0, "b": 2.0}},
		{"and nothing is merged", `{"a":{"x":1},"a":{"y":2},"b":[1,2],"b":[3]}`, map[string]any{"a": map[string]any{"y": 2.0}, "b": []any{3.0}}},
		{"the case of keys counts", `{"a":1,"A":2}`, map[string]any{"a": 1.0, "A": 2.0}},
		{"escapes", `"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\u0000"`, "\"\\/\b\f\n\r\té\U0001F600\x00"},
		{"unpaired surrogates", `["\ud800","\udc00x","\ud800\ud83d\ude00","\ude00\ud83d","\ud800\u0041"]`, []any{"\ufffd", "\ufffdx", "\ufffd\U0001F600", "\ufffd\ufffd", "\ufffdA"}},
		{"keys that become equal by that", `{"\ud800":1,"\udc00":2}`, map[string]any{"\ufffd": 2.0}},
		{"bytes that are not UTF-8", "[\"\xff\xfe\",\"é\xe2\x80\",{\"\xff\":1}]", []any{"\ufffd\ufffd", "é\ufffd\ufffd", map[string]any{"\ufffd": 1.0}}},
		{"such bytes outside of a string", "[\xff]", nil},
		{"a number beyond float64", `1e309`, nil},
		{"such a number in a list", `[1,{"a":-1e309},2]`, nil},
		{"two values", `1 2`, nil},
		{"a comma alone", `,`, nil},
		{"a list without its end", `[1,2`, nil},
		{"a key without its value", `{"a"}`, nil},
		{"a comma too many", `[1,]`, nil},
		{"NaN", `[NaN]`, nil},
		{"nesting over the limit", nested("[", 10001), nil},
		{"nested objects over the limit", strings.Repeat(`{"a":`, 10001) + "1" + strings.Repeat("}", 10001), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check := func(data string, v any, get func() any) {
				t.Helper()
				err := JSON.Unmarshal([]byte(data), v)
				if test.want == nil && err == nil {
					t.Errorf("a %T is %v, want an error", v, get())
				} else if test.want != nil && (err != nil || !reflect.DeepEqual(get(), test.want)) {
					t.Errorf("a %T is %#v, %v, want %#v", v, get(), err, test.want)
				}
			}
			var (
				alone  any
				list   []any
				args   Args
				object map[string]any
				member struct{ A any }
				array  [1]any
				lists  map[string][]any
				maps   []map[string]any
				inside any = &alone
			)
			check(test.data, &alone, func() any { return alone })
			check("["+test.data+"]", &list, func() any { return list[0] })
			check("[1,"+test.data+"]", &args, func() any { return args[1] })
			check(`{"A":`+test.data+"}", &object, func() any { return object["A"] })
			check(`{"A":`+test.data+"}", &member, func() any { return member.A })
			check("["+test.data+"]", &array, func() any { return array[0] })
			check(`{"A":[`+test.data+"]}", &lists, func() any { return lists["A"][0] })
			check(`[{"A":`+test.data+"}]", &maps, func() any { return maps[0]["A"] })
			check(test.data, &inside, func() any { return *inside.(*any) })
		})
	}
}

// A destination that has values already is filled as by encoding/json, and is
// unchanged if decoding fails.
func TestCodecDecodesIntoWhatIsThere(t *testing.T) {
	number, text := 1, "text"
	list := []any{&number, "old", &text, 4}
	memory := list
	if err := JSON.Unmarshal([]byte(`[2,{"a":1},"new"]`), &list); err != nil {
		t.Fatal(err)
	}
	if want := []any{&number, map[string]any{"a": 1.0}, &text}; !reflect.DeepEqual(list, want) || number != 2 || text != "new" || &memory[0] != &list[0] {
		t.Errorf("the list is %v, with %v and %q", list, number, text)
	}
	object := map[string]any{"a": 1, "b": &number}
	same := object
	if err := JSON.Unmarshal([]byte(`{"b":5,"c":[]}`), &object); err != nil {
		t.Fatal(err)
	}
	if want := map[string]any{"a": 1, "b": 5.0, "c": []any{}}; !reflect.DeepEqual(same, want) || number != 2 {
		t.Errorf("the map is %v, with %v", same, number)
	}
	var huge json.Number
	if err := JSON.Unmarshal([]byte(`[1e999]`), &[]any{&huge}); err != nil || huge != "1e999" {
		t.Errorf("a pointer within a list has %v, %v", huge, err)
	}
	for _, data := range []string{`[9,9,1e309]`, `{"a":9,"z":1e309}`, `[9,9`, `{"a":9`, `1e309`} {
		value, list, args, object := any("old"), []any{1, 2, 3}, Args{1, 2, 3}, map[string]any{"a": 1}
		for _, v := range []any{&value, &list, &args, &object} {
			if err := JSON.Unmarshal([]byte(data), v); err == nil {
				t.Errorf("no error for %s in a %T", data, v)
			}
		}
		if value != "old" || !slices.Equal(list, []any{1, 2, 3}) || !slices.Equal(args, Args{1, 2, 3}) || len(object) != 1 || object["a"] != 1 {
			t.Errorf("%s left %v, %v, %v, %v", data, value, list, args, object)
		}
	}
	var itself any
	itself = &itself
	if err := JSON.Unmarshal([]byte(`1`), &itself); err != nil || itself != 1.0 {
		t.Errorf("a value that points to itself is %v, %v", itself, err)
	}
}

// Whole numbers stay whole wherever any value is expected.
func TestCodecDecodesWholeNumbers(t *testing.T) {
	const data = `[9007199254740993,1.0,-7,1e2,18446744073709551616,{"a":[3]}]`
	want := []any{int64(9007199254740993), 1.0, int64(-7), 100.0, json.Number("18446744073709551616"), map[string]any{"a": []any{int64(3)}}}
	var value any
	var list []any
	var args Args
	object := map[string]any{}
	inside := any(&value)
	for _, test := range []struct {
		data string
		v    any
		got  func() any
	}{
		{data, &value, func() any { return value }},
		{data, &list, func() any { return list }},
		{data, &args, func() any { return []any(args) }},
		{`{"m":` + data + `}`, &object, func() any { return object["m"] }},
		{data, &inside, func() any { return value }},
		{`[` + data + `]`, &[]any{&value}, func() any { return value }},
	} {
		value = nil
		if err := Aiomas.Codec().Unmarshal([]byte(test.data), test.v); err != nil || !reflect.DeepEqual(test.got(), want) {
			t.Errorf("a %T has %#v, %v", test.v, test.got(), err)
		}
	}
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
			*protocolErr != (ProtocolError{Code: CodeInternalError, Message: "JSON payload encoding error: json: unsupported value: NaN", Unsent: true}) {
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
		// What encoding/json has written has the form that does not depend on it.
		v := struct {
			A string
			B json.RawMessage
			C map[string]rawJSON
		}{s, r, map[string]rawJSON{"k": rawJSON(raw)}}
		checkAppend(t, v)
		if out, err := JSON.Append(nil, v); err == nil && bytes.ContainsAny(out, "\u2028\u2029") {
			t.Errorf("a line separator is not escaped: %s", out)
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

func BenchmarkUnmarshalAny100KB(b *testing.B) {
	for _, bench := range []struct{ name, element string }{
		{"numbers", `1234,0.25,-17`},
		{"strings", `"hello, world","a\nb","żółw"`},
		{"objects", `{"jsonrpc":"2.0","id":17,"params":["x",{"height":800000,"hex":"00ff"}]}`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			data := []byte("[" + strings.Repeat(bench.element+",", 100_000/len(bench.element)) + "null]")
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				var v any
				if err := JSON.Unmarshal(data, &v); err != nil {
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
		{`"hello, world"`, new(any)},
		{`12345`, new(any)},
		{`[1,2.5,"x",true]`, new([]any)},
		{`{"name":"x","id":17,"tags":["a","b"]}`, new(any)},
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

// nested returns n arrays or objects within each other, of which open begins one.
func nested(open string, n int) string {
	if open == "[" {
		return strings.Repeat("[", n) + strings.Repeat("]", n)
	}
	return strings.Repeat(open, n) + "1" + strings.Repeat("}", n)
}

// plainObjects is the codec of a session with objects.
func plainObjects() *objectCodec {
	return &objectCodec{JSON, newObjectTypes(nil, nil, JSON), nil}
}

// mixture has what may have objects in it beside what has none, in the forms that
// encoding/json knows.
type mixture struct {
	Int     int64             `json:"int"`
	Any     any               `json:"any"`
	Omitted any               `json:"omitted,omitempty"`
	Zero    []any             `json:"zero,omitzero"`
	List    []any             `json:"list"`
	Map     map[string]any    `json:"map,omitempty"`
	Keys    map[int]any       `json:"keys"`
	Array   [2]any            `json:"array"`
	Pointer *mixture          `json:"pointer,omitempty"`
	Structs []struct{ X any } `json:"structs"`
	Skipped any               `json:"-"`
	Raw     json.RawMessage   `json:"raw,omitempty"`
	hidden  any
	mixedIn
	*MixedPointer
}

type mixedIn struct {
	Promoted any `json:"promoted"`
	Int      int // shadowed
}

// MixedPointer is embedded by pointer.
type MixedPointer struct {
	Far any `json:"far,omitempty"`
}

// Without objects in it a value is encoded and decoded as if there were none.
func checkPlain(t *testing.T, data []byte) {
	t.Helper()
	if bytes.Contains(data, []byte("__")) || bytes.Contains(data, []byte(`\u`)) || !json.Valid(data) {
		return // it may have an object in it
	}
	o := plainObjects()
	for _, dest := range []func() any{
		func() any { return new(any) }, func() any { return new(mixture) },
		func() any { return new([]any) }, func() any { return new(map[string][]any) },
	} {
		want, got := dest(), dest()
		wantErr, err := json.Unmarshal(data, want), o.Unmarshal(data, got)
		if (wantErr == nil) != (err == nil) {
			t.Errorf("%s into %T: error %v, want %v", data, want, err, wantErr)
			continue
		}
		if err != nil {
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", data, got, want)
		}
		wantOut, wantErr := JSON.Append(nil, want)
		out, err := o.Append(nil, want)
		if (wantErr == nil) != (err == nil) || !bytes.Equal(sortedJSON(t, out), sortedJSON(t, wantOut)) {
			t.Errorf("%+v: got %s, %v; want %s, %v", want, out, err, wantOut, wantErr)
		}
	}
}

// sortedJSON brings the members of objects into order.
func sortedJSON(t *testing.T, data []byte) []byte {
	t.Helper()
	if len(data) == 0 {
		return nil
	}
	sorted, err := json.Marshal(jsonValue(t, data))
	if err != nil {
		t.Fatal(err)
	}
	return sorted
}

var plainValues = []string{
	`null`, `1`, `"x"`, `[]`, `{}`, `[null,[1,"x"],{"a":[]}]`, `{"a":[1],"b":null}`,
	`{"int":4611686018427387905,"any":[1,{"x":null}],"list":null,"keys":{"1":[2]},"array":[1]}`,
	`{"promoted":{"x":1},"far":[2],"pointer":{"any":1,"pointer":null},"structs":[{"X":1},{"x":[]}]}`,
	`{"ANY":5,"map":{"m":{}},"zero":[],"omitted":0,"raw":[1, 2]}`,
	`{"array":[1,2,3],"structs":[null]}`, `{"int":"x"}`, `{"list":{}}`, `{"structs":[1]}`, `[1]`, `{"keys":{"x":1}}`,
}

func TestObjectsLeaveTheRestAlone(t *testing.T) {
	for _, data := range plainValues {
		checkPlain(t, []byte(data))
	}
	m := mixture{Any: 1, Skipped: 2, hidden: 3, MixedPointer: &MixedPointer{Far: []any{4}}}
	m.Promoted = 5
	got, err := plainObjects().Append(nil, m)
	want, _ := json.Marshal(m)
	if err != nil || !bytes.Equal(sortedJSON(t, got), sortedJSON(t, want)) {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if m.hidden == nil {
		t.Error("a field that no codec sees has changed")
	}
}

// What is promoted from an embedded pointer is there only if the pointer is set.
func TestObjectsInEmbeddedPointers(t *testing.T) {
	type Near struct {
		Plain  int    `json:"plain"`
		Quoted int64  `json:"quoted,string"`
		Empty  string `json:"empty,omitempty"`
		Any    any    `json:"any"`
		//lint:ignore SA5008 the name - is what is tested
		Dash any `json:"-,"`
	}
	type Far struct{ *Near }
	type outer struct {
		*Far
		//lint:ignore SA5008 the name - is what is tested
		Dash int `json:"-,"`
		Own  any `json:"own"`
	}
	for _, v := range []outer{
		{}, {Own: 1, Dash: 2}, {Far: &Far{}}, {Far: &Far{&Near{}}},
		{Far: &Far{&Near{Plain: 1, Quoted: 2, Empty: "x", Any: []any{3.0}}}},
	} {
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := plainObjects().Append(nil, v)
		if err != nil || string(got) != string(want) {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
		var back, wantBack outer
		if err := plainObjects().Unmarshal(got, &back); err != nil {
			t.Errorf("%s: %v", got, err)
		}
		if err := json.Unmarshal(want, &wantBack); err != nil || !reflect.DeepEqual(back, wantBack) {
			t.Errorf("%s: got %+v, want %+v, %v", got, back, wantBack, err)
		}
	}
	kept := outer{Far: &Far{&Near{Plain: 1, Any: 2}}}
	if err := plainObjects().Unmarshal([]byte(`{"any":3}`), &kept); err != nil || kept.Plain != 1 || kept.Any != 3.0 {
		t.Errorf("decoded over it: %+v, %v", kept.Near, err)
	}
}

// An embedded pointer to an unexported struct cannot be set. Its fields are left out, and
// the others are decoded.
func TestObjectsInEmbeddedPointersThatCannotBeSet(t *testing.T) {
	type near struct {
		Plain int `json:"plain"`
		Any   any `json:"any"`
	}
	type outer struct {
		*near
		Own any `json:"own"`
	}
	for _, data := range []string{`{"plain":1,"own":2}`, `{"any":[1],"own":2}`} {
		var v outer
		if err := plainObjects().Unmarshal([]byte(data), &v); err != nil || v.near != nil || v.Own != 2.0 {
			t.Errorf("%s: got %+v, %v", data, v, err)
		}
		v = outer{near: &near{Plain: 3}}
		if err := plainObjects().Unmarshal([]byte(data), &v); err != nil || v.Plain == 3 && v.Any == nil || v.Own != 2.0 {
			t.Errorf("%s, where the pointer is set: got %+v with %+v, %v", data, v, v.near, err)
		}
	}
}

// What there was already is decoded into as by encoding/json.
func TestObjectsDecodeOver(t *testing.T) {
	for _, data := range []string{`null`, `{}`, `{"any":1}`, `{"any":{"any":[2]}}`, `{"list":[3],"map":{"b":[]}}`, `{"map":null,"any":null}`} {
		for name, dest := range map[string]func() any{
			"a map":                    func() any { return &map[string]any{"any": "old"} },
			"a pointer in any":         func() any { var v any = &mixture{Any: "old", List: []any{1}}; return &v },
			"a pointer in a field":     func() any { return &mixture{Any: &mixture{Any: "old"}, Map: map[string]any{"a": 1}} },
			"another value in any":     func() any { var v any = mixture{}; return &v },
			"a pointer that is nil":    func() any { var v any = (*mixture)(nil); return &v },
			"a map in an embedded one": func() any { return &mixture{MixedPointer: &MixedPointer{Far: map[string]any{"x": 1}}} },
		} {
			want, got := dest(), dest()
			wantErr, err := json.Unmarshal([]byte(data), want), plainObjects().Unmarshal([]byte(data), got)
			if (wantErr == nil) != (err == nil) || !reflect.DeepEqual(got, want) {
				t.Errorf("%s into %s: got %+v, %v; want %+v, %v", data, name, got, err, want, wantErr)
			}
		}
	}
}

// A list of any values is not decoded one by one: a peer says how many there are.
func TestObjectsInLongLists(t *testing.T) {
	data := []byte("[" + strings.Repeat("1,", 9999) + "1]")
	for _, c := range []Codec{JSON, Aiomas.Codec()} {
		o := &objectCodec{c, newObjectTypes(nil, nil, c), nil}
		allocs := testing.AllocsPerRun(10, func() {
			var list []any
			if err := o.Unmarshal(data, &list); err != nil || len(list) != 10000 {
				t.Errorf("%d elements, error %v", len(list), err)
			}
		})
		if perElement := allocs / 10000; perElement > 3 {
			t.Errorf("%T: %v allocations for each element", c, perElement)
		}
	}
}

func FuzzObjects(f *testing.F) {
	for _, data := range plainValues {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !repeatsKeys(data) {
			checkPlain(t, data)
		}
	})
}

var keyPattern = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"\s*:`)

// repeatsKeys reports whether a key comes twice, in any case. If both are of one
// object encoding/json decodes the second over the first, and here it alone counts.
func repeatsKeys(data []byte) bool {
	seen := make(map[string]bool)
	for _, match := range keyPattern.FindAllSubmatch(data, -1) {
		key := strings.ToLower(strings.ToUpper(string(match[1])))
		if seen[key] {
			return true
		}
		seen[key] = true
	}
	return false
}

// Types that have no objects in them cost nothing.
func TestObjectsCostNothingWhereThereAreNone(t *testing.T) {
	o := plainObjects()
	type flat struct {
		A int
		B []string
		C map[string]*flat
	}
	for _, v := range []any{1, "x", []string{"y"}, flat{}, &flat{}, []flat{}, Args{1, "two", []any{3.5}}} {
		if low, changed, err := o.replaceObjects(v, 0); changed || err != nil {
			t.Errorf("%T: changed to %v, %v", v, low, err)
		}
		if allocs := testing.AllocsPerRun(100, func() { _, _, _ = o.replaceObjects(v, 0) }); allocs > 0 {
			t.Errorf("%T: %v allocations", v, allocs)
		}
	}
	if p := o.planOf(reflect.TypeFor[*flat]()); p.kind != planNone {
		t.Error("there is a plan for a type without objects")
	}
	if p := o.planOf(reflect.TypeFor[struct{ F []map[int]*any }]()); p.kind != planStruct || strings.Contains(p.shadowType.String(), "interface") {
		t.Error("there is no plan for a type with objects")
	}
}

func TestFuncSession(t *testing.T) {
	s := new(Session)
	req := &Request{Method: "m", Params: Params{Positional: json.RawMessage(`[1]`)}, session: s}
	for name, fn := range map[string]any{
		"alone":           func(got *Session, n int) bool { return got == s && n == 1 },
		"after a context": func(_ context.Context, got *Session, n int) bool { return got == s && n == 1 },
		"variadic":        func(got *Session, n ...int) bool { return got == s && len(n) == 1 },
	} {
		t.Run(name, func(t *testing.T) {
			if ok, err := Func(fn).ServeRPC(t.Context(), req); ok != true || err != nil {
				t.Errorf("got %v, %v", ok, err)
			}
		})
	}
}

// loudCodec decodes strings to upper case, and nothing else.
type loudCodec struct{ Codec }

func (loudCodec) Unmarshal(data []byte, v any) error {
	s, ok := v.(*string)
	if !ok {
		return errors.New("not loud")
	}
	*s = strings.ToUpper(jsonscan.Unquote(data))
	return nil
}

func TestFuncDecodesWithTheCodecOfTheParams(t *testing.T) {
	type object struct{ A string }
	params := Params{Positional: json.RawMessage(`["a"]`), codec: loudCodec{}}
	fields := Params{Named: json.RawMessage(`{"A":"a"}`), codec: loudCodec{}}
	tests := []struct {
		name   string
		fn     any
		params Params
		want   any
		err    string
	}{
		{"one", func(_ context.Context, s string) (string, error) { return s, nil }, params, "A", ""},
		{"variadic", func(_ context.Context, s ...string) (string, error) { return s[0], nil }, params, "A", ""},
		{"by reflection", func(s string) string { return s }, params, "A", ""},
		{"a field", func(o object) string { return o.A }, fields, "A", ""},
		{"an error", func(int) {}, params, nil, `invalid argument 1 of method "m": not loud`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := Func(test.fn).ServeRPC(t.Context(), &Request{Method: "m", Params: test.params})
			if got != test.want || (err == nil) != (test.err == "") {
				t.Fatalf("got %v, %v", got, err)
			}
			if err != nil && err.(*Error).Message != test.err {
				t.Errorf("got %v, want %s", err, test.err)
			}
		})
	}
}

// Params that were decoded from a message are valid JSON. Those that a user
// makes may not be; binding them must end all the same.
func TestFuncEndsOnBrokenParams(t *testing.T) {
	h := Func(func(context.Context, string, ...string) {}, "a?")
	for _, text := range []string{
		``, ` `, `[`, `[[`, `[1`, `["a"`, `["a",`, `["a" "b"]`, `["a",,"b"]`, `["a"]]`, `{`, `{"a"`, `{"a":`, `{"a":}`,
		`{"a":"b",`, `{"a":"b",}`, `{"a" "b"}`, `{1:2}`, `{{`, `null`, `1`, `"a"`, `]`, `,`, `:`,
	} {
		raw := json.RawMessage(text)
		for _, p := range []Params{{Positional: raw}, {Named: raw}, {Positional: raw, Named: raw}} {
			_, _ = h.ServeRPC(t.Context(), &Request{Method: "m", Params: p})
		}
	}
}

// manyFields returns the type of a function of a struct of n fields, whose names
// are long and differ at their ends, and the names.
func manyFields(n int, name string) (reflect.Type, []string) {
	fields := make([]reflect.StructField, n)
	names := make([]string, n)
	for i := range fields {
		names[i] = fmt.Sprintf("%s%05d", name, i)
		fields[i] = reflect.StructField{
			Name: fmt.Sprintf("F%d", i),
			Type: reflect.TypeFor[int](),
			Tag:  reflect.StructTag(`json:"` + names[i] + `"`),
		}
	}
	return reflect.FuncOf([]reflect.Type{reflect.StructOf(fields)}, nil, false), names
}

// namedParams returns params in which each name, written by quote, has its place
// in names.
func namedParams(names []string, quote func(name string) string) Params {
	data := []byte{'{'}
	for i, name := range names {
		data = fmt.Appendf(data, `%s:%d,`, quote(name), i)
	}
	data[len(data)-1] = '}'
	return Params{Named: data}
}

// escaped writes a name with its first character escaped.
func escaped(name string) string { return fmt.Sprintf(`"\u%04x%s"`, name[0], name[1:]) }

// Each member is looked up once, in whichever order and form the names come. Only a
// name with an escape is unquoted, which takes memory, so this memory tells how many
// names were compared.
func TestFuncLooksUpEachMemberOnce(t *testing.T) {
	const n = 1024
	fn, names := manyFields(n, "field")
	sig, err := newSignature(fn, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	backwards, shuffled := slices.Clone(names), slices.Clone(names)
	slices.Reverse(backwards)
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for _, test := range []struct {
		name  string
		names []string
		quote func(string) string
		most  float64 // allocations for each member
	}{
		{"in order", names, strconv.Quote, 0},
		{"backwards", backwards, strconv.Quote, 0},
		{"in no order", shuffled, strconv.Quote, 0},
		{"in order and escaped", names, escaped, 2},
		{"backwards and escaped", backwards, escaped, 2},
		{"in no order and escaped", shuffled, escaped, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := &Request{Method: "m", Params: namedParams(test.names, test.quote)}
			args := make([]json.RawMessage, n)
			allocs := testing.AllocsPerRun(1, func() {
				clear(args)
				_, err = sig.bindArguments(req, args)
			})
			if err != nil {
				t.Fatal(err)
			}
			for i, name := range test.names {
				if want := strconv.Itoa(i); string(args[sig.places[name]]) != want {
					t.Fatalf("%s has the argument %s, want %s", name, args[sig.places[name]], want)
				}
			}
			if allocs > test.most*n {
				t.Errorf("%v allocations for %d members, want at most %v for each", allocs, n, test.most)
			}
		})
	}
}

// A key that no parameter has is unquoted once, too: to be looked up, and to be named.
func TestFuncUnquotesUnknownKeysOnce(t *testing.T) {
	const n = 1024
	_, unknown := manyFields(n, "other")
	for name, names := range map[string][]string{"left out": {"a", "b", "c", "..."}, "refused": {"a", "b", "c"}} {
		t.Run(name, func(t *testing.T) {
			sig, err := newSignature(reflect.TypeFor[func(a, b, c int)](), names, false)
			if err != nil {
				t.Fatal(err)
			}
			known := []string{"a", "b", "c"}
			req := &Request{Method: "m", Params: namedParams(append(known, unknown...), escaped)}
			args := make([]json.RawMessage, 3)
			allocs := testing.AllocsPerRun(1, func() {
				clear(args)
				_, err = sig.bindArguments(req, args)
			})
			if (err == nil) != (name == "left out") {
				t.Fatalf("got %v", err)
			}
			if most := float64(2*n + 100); allocs > most {
				t.Errorf("%v allocations for %d members, want at most %v", allocs, n, most)
			}
		})
	}
}

// What a field costs does not depend on how many there are. Where each name is
// compared with all others, a field costs 30 times as much among 2,048 as alone.
func TestFuncOfManyFieldsIsBuiltInLinearTime(t *testing.T) {
	const n = 2048
	name := strings.Repeat("x", n)
	many, _ := manyFields(n, name)
	one, _ := manyFields(1, name)
	build := func(fn reflect.Type, times int) time.Duration {
		start := time.Now()
		for range times {
			if _, err := newSignature(fn, nil, false); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(start)
	}
	var together, alone time.Duration
	for range 20 { // other programs disturb some
		together, alone = build(many, 1), build(one, n)
		if together < 8*alone {
			return
		}
	}
	t.Errorf("%d fields take %v together, and %v one by one", n, together, alone)
}

// BenchmarkFuncFields builds a Func of a struct, and binds named arguments to it in
// no order. On an AMD EPYC, in µs, and when each name was compared with all others:
//
//	fields  build   bind   build before  bind before
//	    16    4.7    0.8           8.3          1.7
//	   128     39    6.1            67           45
//	 1,024    273     57         2,214        2,964
func BenchmarkFuncFields(b *testing.B) {
	for _, n := range []int{16, 128, 1024} {
		fn, names := manyFields(n, "field")
		rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { names[i], names[j] = names[j], names[i] })
		b.Run(fmt.Sprintf("build/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := newSignature(fn, nil, false); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("bind/%d", n), func(b *testing.B) {
			sig, err := newSignature(fn, nil, false)
			if err != nil {
				b.Fatal(err)
			}
			req := &Request{Method: "m", Params: namedParams(names, strconv.Quote)}
			args := make([]json.RawMessage, n)
			for b.Loop() {
				clear(args)
				if _, err := sig.bindArguments(req, args); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
