package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/rpcx/internal/jsonscan"
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
	sig, err := newSignature(fn, nil)
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
				_, err = sig.bind(req, args)
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
			sig, err := newSignature(reflect.TypeFor[func(a, b, c int)](), names)
			if err != nil {
				t.Fatal(err)
			}
			known := []string{"a", "b", "c"}
			req := &Request{Method: "m", Params: namedParams(append(known, unknown...), escaped)}
			args := make([]json.RawMessage, 3)
			allocs := testing.AllocsPerRun(1, func() {
				clear(args)
				_, err = sig.bind(req, args)
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
			if _, err := newSignature(fn, nil); err != nil {
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
				if _, err := newSignature(fn, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("bind/%d", n), func(b *testing.B) {
			sig, err := newSignature(fn, nil)
			if err != nil {
				b.Fatal(err)
			}
			req := &Request{Method: "m", Params: namedParams(names, strconv.Quote)}
			args := make([]json.RawMessage, n)
			for b.Loop() {
				clear(args)
				if _, err := sig.bind(req, args); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
