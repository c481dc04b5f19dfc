package rpcx

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"
)

// The work for the key of what a peer sends does not grow with the depth: each level costs
// a scan of what is within, so levels from maxKeyDepth on keep their text.
func TestKeyOfDeepParams(t *testing.T) {
	const levels, params = 9000, 16
	deep := strings.Repeat(`{"a": `, levels) + "1" + strings.Repeat("}", levels)
	key, _ := appendParamsKey(nil, []byte("["+strings.Repeat(deep+",", params)+"1]"), true)
	kept := params * (levels - (maxKeyDepth - 1)) // the list of params is a level, too
	if n := bytes.Count(key, []byte(`: `)); n != kept {
		t.Errorf("%d levels have kept their text; want %d", n, kept)
	}
}

// Any text of a JSON value has the key of its value: with and without white space, and after
// decoding and encoding.
func FuzzStreamKeys(f *testing.F) {
	for _, text := range []string{`1`, `-0.10e2`, `"aé😀\/"`, `{"b":[1,{"c":null}],"a":true}`, `[[],{}]`, `12345678901234567890`, `"\u2028"`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !json.Valid(text) || !utf8.Valid(text) || bytes.Contains(text, []byte("\ufffd")) || strings.Contains(strings.ToLower(string(text)), `\ud`) {
			return
		}
		text = bytes.TrimSpace(text)
		var v any
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if d.Decode(&v) != nil {
			return
		}
		again, err := json.Marshal(v)
		var compact bytes.Buffer
		if err != nil || json.Compact(&compact, text) != nil || len(compact.Bytes()) != len(again) && bytes.ContainsRune(text, '{') {
			return // a member given twice, say
		}
		if bytes.Count(text, []byte("[")) < maxKeyDepth && bytes.Count(text, []byte("{")) == 0 {
			if a, b := appendCanonical(nil, text), appendCanonical(nil, again); string(a) != string(b) {
				t.Errorf("%s and %s: %s and %s", text, again, a, b)
			}
		}
		n, ok := v.(json.Number)
		if !ok || len(n) > 20 || strings.ContainsAny(string(n), "eE") {
			return
		}
		key := string(appendCanonical(nil, text))
		a, okA := new(big.Rat).SetString(string(n))
		b, okB := new(big.Rat).SetString(key)
		if !okA || !okB || a.Cmp(b) != 0 {
			t.Errorf("the key of %s is %s", n, key)
		}
	})
}
