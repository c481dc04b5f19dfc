package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

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
	*s = strings.ToUpper(unquote(data))
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
