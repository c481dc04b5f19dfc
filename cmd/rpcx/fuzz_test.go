package main

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// Whatever JSON a peer sends, a terminal receives no control characters but the command's
// own colours, and without the colours the output is the same JSON.
func FuzzPrint(f *testing.F) {
	for _, seed := range []string{goldenValue, `"\u001b[31m"`, "\"\u009b\u202e\U000e0001\"", `[{"a":"b"},{"c":null}]`, `{"a":{}}`, "-1.5e3", "true", `[]`, "\"\x7f\""} {
		f.Add(seed)
	}
	colours := regexp.MustCompile(`\x1b\[(34;1|32|36|33|0)m`)
	f.Fuzz(func(t *testing.T, text string) {
		var want any
		if json.Unmarshal([]byte(text), &want) != nil {
			return
		}
		for _, form := range []string{"json", "compact"} {
			p := &printer{form: form, colours: true, terminal: true}
			shown := colours.ReplaceAllString(p.format(json.RawMessage(text)), "")
			if strings.ContainsFunc(shown, isControl) {
				t.Errorf("%s: control characters in %q", form, shown)
			}
			var got any
			if err := json.Unmarshal([]byte(shown), &got); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %q is %v, want %v (%v)", form, shown, got, want, err)
			}
		}
		for _, form := range []string{"raw", "table"} {
			p := &printer{form: form, terminal: true}
			if shown := p.format(json.RawMessage(text)); strings.ContainsFunc(shown, isControl) {
				t.Errorf("%s: control characters in %q", form, shown)
			}
		}
	})
}

// A line of batch is a message, or an error, and never a panic. Its params are JSON.
func FuzzParseLine(f *testing.F) {
	for _, seed := range []string{"sum [1, 2]", "!a b=c", `x 'y z' "w"`, `x a={"b": [1`, "x @", "x -", `x \`, "x a= =b", "\xff \xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "@") {
			return // a file
		}
		m, err := parseLine(&env{}, line)
		if err == nil && (m.method == "" || m.params != nil && !json.Valid(m.params)) {
			t.Errorf("%q: %+v", line, m)
		}
	})
}
