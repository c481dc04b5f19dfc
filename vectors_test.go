package rpcx

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// loadVectors returns the cases of a file of testdata/vectors, or of the folder
// that the environment variable RPCX_VECTORS names instead. In an any of T,
// numbers are json.Numbers.
func loadVectors[T any](t *testing.T, file string) []T {
	t.Helper()
	var content struct{ Cases []T }
	if err := decodeExact(readVectors(t, file), &content); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(content.Cases) == 0 {
		t.Fatalf("%s has no cases", file)
	}
	return content.Cases
}

// readVectors returns a file of vectors.
func readVectors(t *testing.T, file string) []byte {
	t.Helper()
	dir := cmp.Or(os.Getenv("RPCX_VECTORS"), filepath.Join("testdata", "vectors"))
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// decodeExact decodes JSON without rounding its numbers.
func decodeExact(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec.Decode(v)
}

// skipRule passes over the cases that have no counterpart here, for a reason
// that lies in a property of the case.
type skipRule[T any] struct {
	reason  string
	applies func(c T) bool
}

// skipVector skips the test of a case to which a rule applies.
func skipVector[T any](t *testing.T, rules []skipRule[T], c T) {
	t.Helper()
	for _, rule := range rules {
		if rule.applies(c) {
			t.Skip(rule.reason)
		}
	}
}

// vectorBytes are bytes as the vectors write them: a string (its UTF-8),
// {"hex": "00ff"}, or {"repeat": [[text, count], …]} for long ones.
type vectorBytes []byte

func (b *vectorBytes) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		var text string
		err := json.Unmarshal(data, &text)
		*b = vectorBytes(text)
		return err
	}
	var form struct {
		Hex    string
		Repeat [][2]json.RawMessage
	}
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	var err error
	*b, err = hex.DecodeString(form.Hex)
	for _, part := range form.Repeat {
		var text string
		var count int
		if err := json.Unmarshal(part[0], &text); err != nil {
			return err
		}
		if err := json.Unmarshal(part[1], &count); err != nil {
			return err
		}
		*b = append(*b, strings.Repeat(text, count)...)
	}
	return err
}

func TestVectorBytes(t *testing.T) {
	for in, want := range map[string]string{
		`"é\n"`:                               "é\n",
		`{"hex":"00ff"}`:                      "\x00\xff",
		`{"hex":""}`:                          "",
		`{"repeat":[["[",3],["",9],["]",2]]}`: "[[[]]",
	} {
		var got vectorBytes
		if err := json.Unmarshal([]byte(in), &got); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
}
