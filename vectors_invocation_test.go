package rpcx

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"
)

type invocationCase struct {
	Name      string
	Signature *[]invocationParam // nil: the method does not exist
	Method    string
	Args      json.RawMessage
	Expect    struct {
		Bound map[string]any
		Error *struct {
			Code    int
			Message string
		}
	}
}

type invocationParam struct {
	Name    string
	Kind    string
	Default json.RawMessage // nil: required
}

func (c invocationCase) params() []invocationParam {
	if c.Signature == nil {
		return nil
	}
	return *c.Signature
}

// has reports whether a parameter is of the given kind.
func (c invocationCase) has(kind string) bool {
	return slices.ContainsFunc(c.params(), func(p invocationParam) bool { return p.Kind == kind })
}

// positional returns how many arguments there are in an array, or -1 if they
// have names.
func (c invocationCase) positional() int {
	var list []any
	if json.Unmarshal(c.Args, &list) != nil {
		return -1
	}
	return len(list)
}

var invocationSkips = []skipRule[invocationCase]{
	{"keyword-only parameters have no form in Go", func(c invocationCase) bool { return c.has("keyword_only") }},
	{"**kwargs has no form in Go", func(c invocationCase) bool { return c.has("var_keyword") }},
	{"parameters without names cannot be optional, and a positional-only signature's default is left out", func(c invocationCase) bool {
		n := c.positional()
		return n >= 0 && n < len(c.params()) && c.has("positional_only") && slices.ContainsFunc(c.params()[n:], func(p invocationParam) bool {
			return p.Default != nil
		})
	}},
}

func TestVectorsInvocation(t *testing.T) {
	for _, c := range loadVectors[invocationCase](t, "invocation.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, invocationSkips, c)
			// With a context and (any, error) some of the functions are called
			// directly; without, all are called by reflection.
			c.run(t, []reflect.Type{contextType}, []reflect.Type{reflect.TypeFor[any](), errorType})
			c.run(t, nil, nil)
		})
	}
}

// run calls a function that has the types lead before the case's parameters,
// and results of the types out.
func (c invocationCase) run(t *testing.T, lead, out []reflect.Type) {
	t.Helper()
	bound := make(map[string]json.RawMessage)
	variadic := make(map[string][]json.RawMessage)
	req := &Request{Method: c.Method}
	if c.positional() >= 0 {
		req.Params.Positional = c.Args
	} else {
		req.Params.Named = c.Args
	}
	_, err := c.handler(lead, out, func(p invocationParam, v any) {
		if list, ok := v.([]json.RawMessage); ok {
			variadic[p.Name] = list
		} else {
			bound[p.Name] = v.(json.RawMessage)
		}
	}).ServeRPC(t.Context(), req)

	if want := c.Expect.Error; want != nil {
		var got *Error
		if !errors.As(err, &got) || got.Code != want.Code || got.Message != want.Message {
			t.Errorf("got %v, want error %d %q", err, want.Code, want.Message)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]any)
	for name, raw := range bound {
		got[name] = exact(t, raw)
	}
	for name, list := range variadic {
		values := []any{}
		for _, raw := range list {
			values = append(values, exact(t, raw))
		}
		got[name] = values
	}
	if want := c.bound(t); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// bound returns what the parameters are expected to be: what they were in the
// original, but the zero value in place of its defaults.
func (c invocationCase) bound(t *testing.T) map[string]any {
	t.Helper()
	var named map[string]any
	if c.positional() < 0 {
		named = exact(t, c.Args).(map[string]any)
	}
	want := make(map[string]any)
	for i, p := range c.params() {
		_, given := named[p.Name]
		if given || i < c.positional() || p.Default == nil {
			want[p.Name] = c.Expect.Bound[p.Name]
		} else {
			want[p.Name] = zero{}
		}
	}
	return want
}

// zero stands for a json.RawMessage that was left nil.
type zero struct{}

func exact(t *testing.T, raw json.RawMessage) any {
	t.Helper()
	if raw == nil {
		return zero{}
	}
	return jsonValue(t, raw)
}

// handler returns the handler for a function with the case's signature, which
// calls record for each of its parameters.
func (c invocationCase) handler(lead, out []reflect.Type, record func(p invocationParam, v any)) Handler {
	if c.Signature == nil {
		return NewRouter()
	}
	in := slices.Clone(lead)
	var names []string
	variadic := false
	for _, p := range *c.Signature {
		switch p.Kind {
		case "var_positional":
			variadic = true
			in = append(in, reflect.TypeFor[[]json.RawMessage]())
			continue
		case "positional_or_keyword":
			name := p.Name
			if p.Default != nil {
				name += "?"
			}
			names = append(names, name)
		}
		in = append(in, reflect.TypeFor[json.RawMessage]())
	}
	if c.has("positional_only") {
		names = nil // one parameter without a name is enough
	}
	fn := reflect.MakeFunc(reflect.FuncOf(in, out, variadic), func(args []reflect.Value) []reflect.Value {
		for i, p := range *c.Signature {
			record(p, args[len(lead)+i].Interface())
		}
		results := make([]reflect.Value, len(out))
		for i, t := range out {
			results[i] = reflect.Zero(t)
		}
		return results
	})
	return Func(fn.Interface(), names...)
}
