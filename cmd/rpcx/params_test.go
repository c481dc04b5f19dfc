package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "params.json")
	if err := os.WriteFile(file, []byte(" {\"a\": [1, 2]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string // the params, or the beginning of the error
	}{
		{"none", nil, ""},
		{"an object", []string{`{"a": 1}`}, `{"a": 1}`},
		{"an array", []string{` [1, 2] `}, `[1, 2]`},
		{"a number", []string{"1"}, `[1]`},
		{"a string", []string{"text"}, `["text"]`},
		{"a quoted string", []string{`"text"`}, `["text"]`},
		{"several values", []string{"1", "text", "[2]", "true", "-3.5", ""}, `[1,"text",[2],true,-3.5,""]`},
		{"two objects", []string{"{}", "{}"}, `[{},{}]`},
		{"one array as an argument", []string{"[[1]]"}, `[[1]]`},
		{"names", []string{"a=1", "b=text", "c=", "d=[1]", "e=x=y", "f=<&>", `g="1"`}, `{"a":1,"b":"text","c":"","d":[1],"e":"x=y","f":"<&>","g":"1"}`},
		{"unusual names", []string{"$a=1", "b.c=2", "ünï=3", "d-e/f=4"}, `{"$a":1,"b.c":2,"ünï":3,"d-e/f":4}`},
		{"no name", []string{"1=2", "=3"}, `["1=2","=3"]`},
		{"a file", []string{"@" + file}, `{"a": [1, 2]}`},
		{"a file as one of several", []string{"1", "@" + file}, `[1,{"a":[1,2]}]`},
		{"stdin", []string{"-"}, `{"in": 1}`},
		{"a large number", []string{"n=12345678901234567890.10"}, `{"n":12345678901234567890.10}`},
		{"HTML", []string{"<a&b>"}, `["<a&b>"]`},
		{"bytes that are no UTF-8", []string{"a\xffb"}, "params: a byte that is not UTF-8\n  a\\ufffdb\n   ^"},
		{"a name twice", []string{"a=1", "a=2"}, "params: a is given twice"},
		{"a name and none", []string{"a=1", "2"}, `params: "2" has no name, and "a=1" has one`},
		{"none and a name", []string{"2", "a=1"}, `params: "a=1" has a name, and "2" has none`},
		{"a bad object", []string{`{"a":}`}, "params: not JSON: "},
		{"a bad array by name", []string{`a=[1`}, "param a: not JSON: "},
		{"a bad string", []string{`"a`}, "params: not JSON: "},
		{"no UTF-8", []string{"[\xff]"}, "params: not JSON: a byte that is not UTF-8\n  [\\ufffd]\n   ^"},
		{"more than one value", []string{`{} {}`}, "params: not JSON: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseParams(&env{stdin: strings.NewReader(`{"in": 1}`)}, c.args)
			text := strings.ReplaceAll(string(got), "\ufffd", `\ufffd`) // Go 1.27 does not escape it
			if err != nil {
				text = err.Error()
			}
			if err == nil && text != c.want || err != nil && (c.want == "" || !strings.HasPrefix(text, c.want)) {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}

// The caret stands below the place, also in long lines and with characters of two columns.
func TestMarkPlace(t *testing.T) {
	for _, c := range []struct{ name, text, at, want string }{
		{"the beginning", "x", "x", "  x\n  ^"},
		{"the end", "[1", "", "  [1\n    ^"},
		{"a later line", "{\n \"a\": x\n}", "x", "  2:  \"a\": x\n           ^"},
		{"wide characters", `["東京", x]`, "x", "  [\"東京\", x]\n           ^"},
		{"a long line", strings.Repeat("1,", 100) + "x" + strings.Repeat(",1", 100), "x", "  …" + strings.Repeat("1,", 25) + "x" + strings.Repeat(",1", 9) + ",…\n" + strings.Repeat(" ", 53) + "^"},
		{"control characters", "\x1b[x", "x", `  \u001b[x` + "\n         ^"},
	} {
		t.Run(c.name, func(t *testing.T) {
			offset := len(c.text)
			if c.at != "" {
				offset = strings.Index(c.text, c.at)
			}
			if got := markPlace(c.text, offset); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestSplitWords(t *testing.T) {
	for line, want := range map[string]string{
		"":                          "",
		"  a  b\tc ":                "a|b|c",
		`a 'b c' "d e"`:             "a|b c|d e",
		`a\ b 'c\d' "e\"f" "g\h"`:   `a b|c\d|e"f|g\h`,
		`x=' y'z ''`:                "x= yz|",
		`'a`:                        "error",
		`a\`:                        "error",
		"prog --opt='{\"a\": 1}' x": `prog|--opt={"a": 1}|x`,
	} {
		words, err := splitWords(line)
		got := strings.Join(words, "|")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestParseLine(t *testing.T) {
	for _, c := range []struct {
		line, method, params string
		notification         bool
		err                  string
	}{
		{"sum", "sum", "", false, ""},
		{"sum [1, 2]", "sum", "[1, 2]", false, ""},
		{"sum 1 2", "sum", "[1,2]", false, ""},
		{`! log {"a": "b c"}`, "", "", false, "no method"},
		{`!log {"a": "b c"}`, "log", `{"a": "b c"}`, true, ""},
		{`echo a='two words' b=1`, "echo", `{"a":"two words","b":1}`, false, ""},
		{`echo "two words"`, "echo", `["two words"]`, false, ""},
		{`echo {"a": "b c"} [1, 2] "x y" 'z w'`, "echo", `[{"a":"b c"},[1,2],"x y","z w"]`, false, ""},
		{`echo a={"b": "c d"} e="f g" h=[1, 2]`, "echo", `{"a":{"b": "c d"},"e":"f g","h":[1, 2]}`, false, ""},
		{"echo\na\n\tb\n", "echo", `["a","b"]`, false, ""},
		{`echo 'a'b"c"`, "echo", `["abc"]`, false, ""},
		{`echo "a"b`, "echo", `["ab"]`, false, ""},
		{`echo {"a": 1}b`, "", "", false, "not JSON"},
		{`echo a={"b" 1} c=2`, "", "", false, "not JSON"},
		{"!", "", "", false, "no method"},
		{"sum [1,", "", "", false, "not JSON"},
		{"sum -", "", "", false, "stdin has the lines"},
		{"sum 'a", "", "", false, "ends within quotes"},
	} {
		m, err := parseLine(&env{}, c.line)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %s", c.line, err, c.err)
			}
			continue
		}
		if err != nil || m.method != c.method || string(m.params) != c.params || m.notification != c.notification {
			t.Errorf("%s: %+v (%s), %v", c.line, m, m.params, err)
		}
	}
}
