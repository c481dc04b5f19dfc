package jsonscan

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestScannerAcceptsWhatIsJSON(t *testing.T) {
	tests := []struct{ name, text string }{
		{"null", `null`},
		{"true", `true`},
		{"false", `false`},
		{"zero", `0`},
		{"minus zero", `-0`},
		{"an integer", `1234567890`},
		{"a negative integer", `-12`},
		{"an integer too large for any type", strings.Repeat("9", 400)},
		{"a fraction", `0.5`},
		{"a fraction with leading zeros", `0.005`},
		{"an exponent", `1e5`},
		{"an exponent in upper case", `1E5`},
		{"an exponent of zero", `0e0`},
		{"a positive exponent", `1e+5`},
		{"a negative exponent with leading zeros", `1.25e-005`},
		{"an empty string", `""`},
		{"a string", `"a"`},
		{"a string of seven bytes", `"1234567"`},
		{"a string of eight bytes", `"12345678"`},
		{"a string of nine bytes", `"123456789"`},
		{"every short escape", `"\"\\\/\b\f\n\r\t"`},
		{"an escape by number in both cases", `"\u00aF\uFFff\u0000"`},
		{"an unpaired surrogate in an escape", `"\ud800 \udc00"`},
		{"an escaped backslash before the closing quote", `"\\"`},
		{"DEL, which is no control character in JSON", "\"\x7f\""},
		{"characters of two, three and four bytes", `"é€😀"`},
		{"U+2028", "\"\u2028\""},
		{"an empty array", `[]`},
		{"an empty array with a space in it", `[ ]`},
		{"an array", `[1,"2",null,true,false,[],{}]`},
		{"an empty object", `{}`},
		{"an empty object with a space in it", `{ }`},
		{"an object", `{"a":1,"b":{"c":[{}]}}`},
		{"an object with an empty key", `{"":0}`},
		{"an object with a key given twice", `{"a":1,"a":2}`},
		{"all white space everywhere", " \t\r\n{ \t\r\n\"a\" \t\r\n: \t\r\n[ \t\r\n1 \t\r\n, \t\r\n2 \t\r\n] \t\r\n} \t\r\n"},
		{"arrays and objects by turns, beyond the bits of the first levels", strings.Repeat(`[{"a":`, 200) + "1" + strings.Repeat("}]", 200)},
		{"a second deep value after the first was closed", "[" + strings.Repeat("[", 300) + strings.Repeat("]", 300) + "," + strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300) + "]"},
		{"10,000 arrays", nested("[", 10000)},
		{"10,000 objects", nested(`{"a":`, 10000)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if ok, _ := Valid([]byte(test.text)); !ok {
				t.Errorf("refused %.80q", test.text)
			}
			if !json.Valid([]byte(test.text)) {
				t.Error("encoding/json refuses it: the test is wrong")
			}
		})
	}
}

func TestScannerRefusesWhatIsNoJSON(t *testing.T) {
	tests := []struct{ name, text string }{
		{"nothing", ``},
		{"only white space", " \t\r\n"},
		{"a NUL", "\x00"},
		{"a NUL behind a value", "1\x00"},
		{"two values", `1 2`},
		{"two values without a space", `""""`},
		{"a vertical tab for white space", "\v1"},
		{"a no-break space for white space", "\u00a01"},
		{"a byte order mark", "\ufeff1"},
		{"a comment", `1 // one`},
		{"NaN", `NaN`},
		{"Infinity", `Infinity`},
		{"minus Infinity", `-Infinity`},
		{"a literal in upper case", `True`},
		{"a literal cut short", `nul`},
		{"a literal with more behind it", `nulll`},
		{"a literal with a typing error", `falsy`},
		{"a minus alone", `-`},
		{"a plus", `+1`},
		{"a leading zero", `01`},
		{"a leading zero behind a minus", `-01`},
		{"a fraction without digits before it", `.5`},
		{"a fraction without digits", `1.`},
		{"a fraction without digits before an exponent", `1.e5`},
		{"two fractions", `1.2.3`},
		{"an exponent without digits", `1e`},
		{"an exponent with a sign but without digits", `1e+`},
		{"a fractional exponent", `1e0.5`},
		{"a hexadecimal number", `0x10`},
		{"a number with a separator", `1_000`},
		{"an unterminated string", `"abc`},
		{"a quote alone", `"`},
		{"an unterminated string of eight bytes", `"12345678`},
		{"a string that ends within an escape", `"\`},
		{"a string that ends behind an escaped quote", `"\"`},
		{"a string that ends within an escape by number", `"\u12`},
		{"an escape by number with too few digits", `"\u123"`},
		{"an escape by number with a letter beyond F", `"\u12g4"`},
		{"an escape by number with a sign", `"\u+123"`},
		{"an escape by number with an upper-case U", `"\U1234"`},
		{"an unknown escape", `"\a"`},
		{"an escaped apostrophe", `"\'"`},
		{"an escaped newline", "\"\\\n\""},
		{"a string in apostrophes", `'a'`},
		{"a newline in a string", "\"a\nb\""},
		{"a control character in a string", "\"\x1f\""},
		{"a control character far into a string", `"` + strings.Repeat("x", 100) + "\x01" + strings.Repeat("x", 100) + `"`},
		{"a NUL in a string", "\"\x00\""},
		{"a byte that is no UTF-8", "\"\xff\""},
		{"a continuation byte alone", "\"\x80\""},
		{"a character cut short", "\"\xe2\x82\""},
		{"an overlong character", "\"\xc0\x80\""},
		{"a surrogate in UTF-8", "\"\xed\xa0\x80\""},
		{"a byte that is no UTF-8 far into a string", `"` + strings.Repeat("x", 100) + "\xff" + strings.Repeat("x", 100) + `"`},
		{"a byte that is no UTF-8 in a key", "{\"\xff\":1}"},
		{"a character outside of strings", `é`},
		{"an unterminated array", `[1`},
		{"an array that ends behind a comma", `[1,`},
		{"an opening bracket alone", `[`},
		{"a closing bracket alone", `]`},
		{"an array with a comma too many", `[1,]`},
		{"an array with only a comma", `[,]`},
		{"an array with a hole", `[1,,2]`},
		{"an array without a comma", `[1 2]`},
		{"an array with a colon", `[1:2]`},
		{"an array closed as an object", `[1}`},
		{"an empty array closed as an object", `[}`},
		{"an array closed twice", `[]]`},
		{"an object closed as an array", `{"a":1]`},
		{"an empty object closed as an array", `{]`},
		{"an opening brace alone", `{`},
		{"an object that ends behind a key", `{"a"`},
		{"an object that ends behind a colon", `{"a":`},
		{"an object that ends behind a value", `{"a":1`},
		{"an object that ends behind a comma", `{"a":1,`},
		{"an object with a comma too many", `{"a":1,}`},
		{"an object with only a comma", `{,}`},
		{"an object without a comma", `{"a":1 "b":2}`},
		{"an object without a colon", `{"a" 1}`},
		{"an object with two colons", `{"a"::1}`},
		{"an object with a comma for a colon", `{"a",1}`},
		{"an object without a value", `{"a":}`},
		{"an object without a key", `{:1}`},
		{"an object with a number for a key", `{1:1}`},
		{"an object with a key without quotes", `{a:1}`},
		{"an object with a second key without quotes", `{"a":1,b:1}`},
		{"an object closed by a deep array", `{"a":` + strings.Repeat("[", 300) + "1" + strings.Repeat("]", 299) + "}]"},
		{"10,001 arrays", nested("[", 10001)},
		{"10,001 objects", nested(`{"a":`, 10001)},
		{"a million brackets", strings.Repeat("[", 1e6)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if ok, _ := Valid([]byte(test.text)); ok {
				t.Errorf("accepted %.80q", test.text)
			}
			if json.Valid([]byte(test.text)) && utf8.ValidString(test.text) {
				t.Error("encoding/json accepts it: the test is wrong")
			}
		})
	}
}

// nested returns n nested arrays or objects; open is the beginning of each.
func nested(open string, n int) string {
	if open == "[" {
		return strings.Repeat("[", n) + strings.Repeat("]", n)
	}
	return strings.Repeat(open, n) + "1" + strings.Repeat("}", n)
}

func TestScannerCountsEnvelopesAsDepth(t *testing.T) {
	text := []byte(nested("[", 5000))
	for outside, want := range map[int]bool{5000: true, 5001: false} {
		s := Scanner{Data: text, Depth: outside}
		if got := s.ScanValue(); got != want {
			t.Errorf("5000 levels within %d others: %v, want %v", outside, got, want)
		}
	}
}

func TestScannerFindsWhiteSpace(t *testing.T) {
	tests := []struct {
		text  string
		space bool
	}{
		{`{"a":[1,2]}`, false},
		{`"a b"`, false},
		{` 1`, true},
		{"1\n", true},
		{`[ ]`, true},
		{`[1, 2]`, true},
		{`{"a" :1}`, true},
		{`{"a": 1}`, true},
		{`{"a":1 }`, true},
		{`{"a":1, "b":1}`, true},
	}
	for _, test := range tests {
		if ok, space := Valid([]byte(test.text)); !ok || space != test.space {
			t.Errorf("validJSON(%q) = %v, %v, want true, %v", test.text, ok, space, test.space)
		}
	}
}

// TestScannerSeesEveryPlaceInAString moves special text through every place in the words of
// eight bytes in which ScanString reads.
func TestScannerSeesEveryPlaceInAString(t *testing.T) {
	for before := range 20 {
		for after := range 20 {
			for text, want := range map[string]bool{
				"": true, "x": true, `\n`: true, `\u0041`: true, `\\`: true, "é": true, "\x7f": true,
				`"`: false, "\n": false, "\x00": false, "\x1f": false, `\x`: false, "\xff": false,
			} {
				text = `"` + strings.Repeat("x", before) + text + strings.Repeat("x", after) + `"`
				if ok, _ := Valid([]byte(text)); ok != want {
					t.Errorf("validJSON(%q) = %v", text, ok)
				}
			}
		}
	}
}

// TestScannerSeesEveryPlaceInALongString does so in the blocks of 32 bytes, and compares
// AppendString with encoding/json.
func TestScannerSeesEveryPlaceInALongString(t *testing.T) {
	for before := 50; before < 150; before++ {
		for _, after := range []int{0, 1, 31, 32, 33, 100} {
			for text, want := range map[string]bool{
				"": true, `\n`: true, `\\`: true, "é": true, "\x7f": true, `\"`: true,
				`"`: false, "\n": false, "\x00": false, "\x1f": false, `\x`: false, "\xff": false,
			} {
				plain := strings.Repeat("x", before) + text + strings.Repeat(" ", after)
				if ok, _ := Valid([]byte(`"` + plain + `"`)); ok != want {
					t.Errorf("Valid(%q) = %v", plain, ok)
				}
				var got string
				if err := json.Unmarshal(AppendString(nil, plain), &got); err != nil || got != strings.ToValidUTF8(plain, "\ufffd") {
					t.Errorf("AppendString(%q) is %q, %v", plain, got, err)
				}
			}
		}
	}
}

// NextElement and NextMember end a string at its quote, whatever is in the string.
func TestNextElementPassesOverStrings(t *testing.T) {
	want := []string{`""`, `"a"`, `"\""`, `"\\"`, `"a\\\"b"`, `["]"]`, `"é"`, `"]"`, `","`, `1`}
	s := Scanner{Data: []byte("[" + strings.Join(want, " , ") + "]")}
	o := Scanner{Data: []byte(`{"k":` + strings.Join(want, `,"k" : `) + "}")}
	for _, value := range want {
		if got, ok := s.NextElement(); !ok || string(got) != value {
			t.Errorf("element %s, %v, want %s", got, ok, value)
		}
		if key, got, ok := o.NextMember(); !ok || string(got) != value || string(key) != `"k"` {
			t.Errorf("member %s: %s, %v, want %s", key, got, ok, value)
		}
	}
	if got, ok := s.NextElement(); ok {
		t.Errorf("one more element: %s", got)
	}
	for _, text := range []string{`["`, `["a`, `["a\"`, `["a\"]`, `[`} {
		s := Scanner{Data: []byte(text)}
		if got, ok := s.NextElement(); ok {
			t.Errorf("element %s of %s", got, text)
		}
	}
}

func TestScannerDoesNotAllocate(t *testing.T) {
	text := []byte(nested(`{"a":`, 256))
	if n := testing.AllocsPerRun(100, func() { Valid(text) }); n != 0 {
		t.Errorf("%v allocations at a depth of 256", n)
	}
}

func TestUnquote(t *testing.T) {
	tests := []struct{ name, raw, want string }{
		{"an empty string", `""`, ""},
		{"a plain string", `"abc"`, "abc"},
		{"characters beyond ASCII", `"é€😀"`, "é€😀"},
		{"only an escape", `"\n"`, "\n"},
		{"every short escape", `"a\"b\\c\/d\be\ff\ng\rh\ti"`, "a\"b\\c/d\be\ff\ng\rh\ti"},
		{"an escaped backslash before what looks like an escape", `"\\n\\u0041"`, `\n\u0041`},
		{"escapes by number in both cases", `"\u0041\u00e9\u20AC\u20ac"`, "Aé€€"},
		{"an escaped NUL", `"\u0000"`, "\x00"},
		{"a pair of surrogates", `"<\ud83d\ude00>"`, "<😀>"},
		{"a high surrogate at the end", `"\ud83d"`, "\ufffd"},
		{"a high surrogate before text", `"\ud83dabcdefgh"`, "\ufffdabcdefgh"},
		{"a high surrogate before another escape", `"\ud83d\nabcdefgh"`, "\ufffd\nabcdefgh"},
		{"a high surrogate before an escaped letter", `"\ud83d\u0041"`, "\ufffdA"},
		{"a high surrogate before a pair", `"\ud83d\ud83d\ude00"`, "\ufffd😀"},
		{"a low surrogate", `"\ude00x"`, "\ufffdx"},
		{"surrogates in the wrong order", `"\ude00\ud83d"`, "\ufffd\ufffd"},
		{"an escaped U+FFFD before an escape", `"\ufffd\ufffd"`, "\ufffd\ufffd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Unquote([]byte(test.raw)); got != test.want {
				t.Errorf("unquote(%s) = %q, want %q", test.raw, got, test.want)
			}
			var std string
			if err := json.Unmarshal([]byte(test.raw), &std); err != nil || std != test.want {
				t.Errorf("encoding/json says %q, %v: the test is wrong", std, err)
			}
		})
	}
}

func TestEqualString(t *testing.T) {
	tests := []struct {
		raw, s string
		want   bool
	}{
		{`"2.0"`, "2.0", true},
		{`"2.0"`, "2.1", false},
		{`"2.0"`, "2.00", false},
		{`"2.0"`, "2", false},
		{`""`, "", true},
		{`""`, "a", false},
		{`"a"`, "", false},
		{`"\u0032.0"`, "2.0", true},
		{`"\u0032.0"`, "3.0", false},
		{`"\n"`, "\n", true},
		{`"\n"`, `\n`, false}, // the same bytes, but not the same string
		{`"\\n"`, `\n`, true},
		{`"é"`, "é", true},
		{`"\u00e9"`, "é", true},
		{`2.0`, "2.0", false},
		{`12`, "", false},
		{`null`, "nu", false},
		{`["2"]`, "2", false},
		{``, "", false},
	}
	for _, test := range tests {
		if got := EqualString([]byte(test.raw), test.s); got != test.want {
			t.Errorf("equalString(%s, %q) = %v", test.raw, test.s, got)
		}
	}
}

func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `null`, `true`, `fals`, `-0.5e+10`, `01`, `1.`, `"a\u00e9\n"`, `"\ud83d\ude00"`, "\"\xff\"", "\"\x1f\"",
		`"12345678\"`, `[]`, `[1,2,]`, `{"a":[{}, null]}`, `{"a"}`, ` { "jsonrpc" : "2.0" , "id" : 1 } `, `{"é":"` + "\u2028" + `"}`,
		nested("[", 300), nested(`{"a":`, 300), // the limit is tested above: texts that deep slow fuzzing down
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ok, space := Valid(data)
		if want := json.Valid(data) && utf8.Valid(data); ok != want {
			t.Fatalf("validJSON(%q) = %v, want %v", data, ok, want)
		}
		if !ok {
			return
		}
		var compacted bytes.Buffer
		if err := json.Compact(&compacted, data); err != nil {
			t.Fatal(err)
		}
		if want := compacted.Len() < len(data); space != want {
			t.Fatalf("white space found in %q: %v, want %v", data, space, want)
		}
		if data[0] == '"' && !space {
			var s string
			if err := json.Unmarshal(data, &s); err != nil {
				t.Fatal(err)
			}
			if got := Unquote(data); got != s {
				t.Fatalf("unquote(%s) = %q, want %q", data, got, s)
			}
			if !EqualString(data, s) || EqualString(data, s+"x") {
				t.Fatalf("equalString(%s) fails", data)
			}
		}
	})
}

func BenchmarkScan1MB(b *testing.B) {
	word := func(text string) string { return `"` + strings.Repeat(text, 1<<20/len(text)) + `"` }
	array := func(text string) string { return "[" + strings.Repeat(text+",", 1<<20/(len(text)+1)) + text + "]" }
	for _, bench := range []struct{ name, text string }{
		{"string", word("x")},
		{"lines", word(`forty characters of text, then an escape\n`)},
		{"cyrillic", word("ж")},
		{"integers", array("1234567")},
		{"floats", array("-3.14159265e-10")},
		{"strings", array(`"hello"`)},
		{"objects", array(`{"id":17,"name":"somebody","ok":true,"tags":["a","b"]}`)},
		{"indented", array("\n    {\n      \"id\": 17,\n      \"name\": \"somebody\"\n    }")},
	} {
		b.Run(bench.name, func(b *testing.B) {
			data := []byte(bench.text)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if ok, _ := Valid(data); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}

func BenchmarkScanSmall(b *testing.B) {
	data := []byte(`{"jsonrpc":"2.0","method":"echo","params":["hello"],"id":17}`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		Valid(data)
	}
}

// TestEqualStringLooksAtNoMoreThanCanBeEqual checks that EqualString unquotes no string
// that is too long to be equal.
func TestEqualStringLooksAtNoMoreThanCanBeEqual(t *testing.T) {
	long := []byte(`"\u0032.0` + strings.Repeat("x", 100_000) + `"`)
	if n := testing.AllocsPerRun(10, func() {
		if EqualString(long, "2.0") {
			t.Error("a longer string is equal")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if !EqualString([]byte(`"\u0032\u002e\u0030"`), "2.0") {
		t.Error("a string of escape sequences is not equal")
	}
}
