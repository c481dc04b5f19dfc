package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"github.com/google/go-cmp/cmp"
)

// query is a function's only parameter, whose fields are the arguments.
type query struct {
	paging
	Name   string    `json:"name"`
	Since  time.Time `json:"since,omitzero"`
	Tags   []string  `json:",omitempty"`
	Limit  *int      `json:"limit"`
	Secret string    `json:"-"`
	//lint:ignore U1000 it shows that unexported fields are no arguments
	hidden int
}

type paging struct {
	Page int `json:"page"`
}

func echo(_ context.Context, message string) (string, error) { return message, nil }

func sum(_ context.Context, values ...float64) (float64, error) {
	var total float64
	for _, v := range values {
		total += v
	}
	return total, nil
}

func divide(_ context.Context, a, b int) (int, error) { return a / b, nil }

func describe(q query) string {
	limit := "no limit"
	if q.Limit != nil {
		limit = fmt.Sprint(*q.Limit)
	}
	return fmt.Sprintf("%s page %d %v %s %d", q.Name, q.Page, q.Tags, limit, q.Since.Unix())
}

func join(first string, n int, rest ...string) string {
	return fmt.Sprintf("%s%d%v", first, n, rest)
}

type (
	label  string
	labels []label
)

func counts(m map[string]int) string { return fmt.Sprint(m) }

func total(list []float64) float64 {
	sum, _ := sum(context.Background(), list...)
	return sum
}

func optional(a int, b *int, c *string) string { return fmt.Sprint(a, b == nil, c == nil) }

func TestFunc(t *testing.T) {
	named := func(text string) rpcx.Params { return rpcx.Params{Named: json.RawMessage(text)} }
	placed := func(text string) rpcx.Params { return rpcx.Params{Positional: json.RawMessage(text)} }
	both := func(list, object string) rpcx.Params {
		return rpcx.Params{Positional: json.RawMessage(list), Named: json.RawMessage(object)}
	}
	tests := []struct {
		name   string
		fn     any
		names  string // separated by spaces
		params rpcx.Params
		want   string // the result as JSON
		err    string // or the message of the error
	}{
		{"a positional argument binds by place", echo, "message", placed(`["hi"]`), `"hi"`, ""},
		{"a named argument binds by name", echo, "message", named(`{"message":"hi"}`), `"hi"`, ""},
		{"named arguments come in any order", divide, "a b", named(`{"b":2,"a":8}`), `4`, ""},
		{"a name may be written with escapes", echo, "message", named(`{"m\u0065ssage":"hi"}`), `"hi"`, ""},
		{"white space is no part of an argument", divide, "a b", placed(" [ 8 ,\n2 ] "), `4`, ""},
		{"nor of a name", divide, "a b", named(" { \"a\" : 8 ,\n\"b\"\t: 2 } "), `4`, ""},
		{"nested values are passed whole", func(v any, w any) any { return v }, "", placed(`[[1,{"a":[]}],2]`), `[1,{"a":[]}]`, ""},
		{"null leaves the zero value", divide, "a b", placed(`[null,1]`), `0`, ""},
		{"null is nil for a pointer", func(n *int) bool { return n == nil }, "", placed(`[null]`), `true`, ""},
		{"raw JSON is passed as it is", func(_ context.Context, v json.RawMessage) (json.RawMessage, error) { return v, nil }, "", placed(`[1.50]`), `1.50`, ""},

		{"no arguments are needed for no parameters", func(context.Context) (int, error) { return 1, nil }, "", rpcx.Params{}, `1`, ""},
		{"an empty object is no argument", func() int { return 1 }, "", named(`{}`), `1`, ""},
		{"no params are no arguments", echo, "message", rpcx.Params{}, "", `0 arguments passed to method "m" but it requires 1`},
		{"too few arguments", divide, "a b", placed(`[1]`), "", `1 argument passed to method "m" but it requires 2`},
		{"too many arguments", divide, "a b", placed(`[1,2,3]`), "", `3 arguments passed to method m taking at most 2`},
		{"a missing name", divide, "a b", named(`{"a":1}`), "", `method "m" requires parameter "b"`},
		{"unknown names are listed in order, each once", divide, "a b", named(`{"a":1,"z":0,"b":1,"Z":0,"c":0,"z":1}`), "", `method "m" does not take parameters "Z", "c", "z"`},
		{"a name given twice", divide, "a b", named(`{"a":1,"b":2,"\u0061":3}`), "", `method "m" was given parameter "a" twice`},
		{"a function without names", divide, "", named(`{"a":1,"b":1}`), "", `method "m" cannot be called with named arguments`},
		{"an ill-typed named argument", divide, "a b", named(`{"a":"x","b":1}`), "", `invalid argument "a" of method "m": json: cannot unmarshal string into Go value of type int`},
		{"an ill-typed positional argument that has a name", divide, "a b", placed(`[1,"x"]`), "", `invalid argument "b" of method "m": json: cannot unmarshal string into Go value of type int`},
		{"an only argument that is ill-typed", echo, "message", placed(`[{}]`), "", `invalid argument "message" of method "m": json: cannot unmarshal object into Go value of type string`},
		{"an ill-typed positional argument that has none", divide, "", placed(`[1,"x"]`), "", `invalid argument 2 of method "m": json: cannot unmarshal string into Go value of type int`},
		{"an ill-typed argument of a function called by reflection", join, "", placed(`[1,2]`), "", `invalid argument 1 of method "m": json: cannot unmarshal number into Go value of type string`},

		{"an absent optional argument is the zero value", echo, "message?", placed(`[]`), `""`, ""},
		{"so it is by name", echo, "message?", named(`{}`), `""`, ""},
		{"and in a function called by reflection", join, "first n?", named(`{"first":"a"}`), `"a0[]"`, ""},
		{"the required ones before it are still required", join, "first n?", placed(`[]`), "", `0 arguments passed to method "m" but it requires 1`},

		{"a variadic parameter takes all arguments", sum, "", placed(`[1,2.5,-1e1]`), `-6.5`, ""},
		{"or none", sum, "", rpcx.Params{}, `0`, ""},
		{"or the rest", join, "first n", placed(`["a",1,"b","c"]`), `"a1[b c]"`, ""},
		{"or no rest", join, "first n", placed(`["a",1]`), `"a1[]"`, ""},
		{"an ill-typed one among the rest", join, "first n", placed(`["a",1,"b",2]`), "", `invalid argument 4 of method "m": json: cannot unmarshal number into Go value of type string`},
		{"an ill-typed one among all", sum, "", placed(`[1,"x"]`), "", `invalid argument 2 of method "m": json: cannot unmarshal string into Go value of type float64`},
		{"the rest cannot be given by name", join, "first n", named(`{"first":"a","n":1,"rest":["b"]}`), "", `method "m" does not take parameter "rest"`},

		{"named arguments complete positional ones", divide, "a b", both(`[8]`, `{"b":2}`), `4`, ""},
		{"an empty object beside an array is nothing", divide, "", both(`[8,2]`, `{}`), `4`, ""},
		{"an empty array beside an object is nothing", divide, "a b", both(`[]`, `{"a":8,"b":2}`), `4`, ""},
		{"too few of both", divide, "a b", both(`[8]`, `{}`), "", `1 argument passed to method "m" but it requires 2`},
		{"an argument given by place and by name", divide, "a b", both(`[8]`, `{"a":1,"b":2}`), "", `method "m" was given parameter "a" twice`},
		{"too many by place, more by name", divide, "a b", both(`[8,2,1]`, `{"a":1}`), "", `3 arguments passed to method m taking at most 2`},

		{"fields of a struct are required, unless a pointer or omitempty", describe, "", named(`{"name":"n","page":2}`), `"n page 2 [] no limit -62135596800"`, ""},
		{"all fields of a struct", describe, "", named(`{"limit":3,"page":2,"Tags":["x"],"since":"1970-01-01T00:00:01Z","name":"n"}`), `"n page 2 [x] 3 1"`, ""},
		{"the same of an argument that has a name", describe, "q", named(`{"q":{"NAME":"n"}}`), `"n page 0 [] no limit -62135596800"`, ""},
		{"missing fields", describe, "", rpcx.Params{}, "", `method "m" requires parameters "name", "page"`},
		{"fields in another case are unknown", describe, "", named(`{"name":"n","page":1,"Page":2}`), "", `method "m" does not take parameter "Page"`},
		{"and so they are missing", describe, "", named(`{"Name":"n","page":1}`), "", `method "m" requires parameter "name"; names are case-sensitive: "name" (not "Name")`},
		{"the first of several other cases", echo, "message", named(`{"messagE":"","Message":"","MESSAGE":"","mEssage":""}`), "", `method "m" requires parameter "message"; names are case-sensitive: "message" (not "MESSAGE")`},
		{"each of them", describe, "", named(`{"NAME":"n","PAGE":1}`), "", `method "m" requires parameters "name", "page"; names are case-sensitive: "page" (not "PAGE"), "name" (not "NAME")`},
		{"optional ones, too", describe, "", named(`{"name":"n","page":1,"Limit":1,"tags":[]}`), "", `method "m" does not take parameters "Limit", "tags"; names are case-sensitive: "Tags" (not "tags"), "limit" (not "Limit")`},
		{"a field without a tag", func(q struct{ Text string }) string { return q.Text }, "", named(`{"text":"hi"}`), "", `method "m" requires parameter "Text"; names are case-sensitive: "Text" (not "text")`},
		{"a parameter in another case", divide, "a b", named(`{"A":1,"b":1}`), "", `method "m" requires parameter "a"; names are case-sensitive: "a" (not "A")`},
		{"an optional one", echo, "message?", named(`{"Message":"hi"}`), "", `method "m" does not take parameter "Message"; names are case-sensitive: "message" (not "Message")`},
		{"one that is missing though more may be given", describe, "...", named(`{"Name":"n","page":1}`), "", `method "m" requires parameter "name"; names are case-sensitive: "name" (not "Name")`},
		{"fields that JSON does not see are unknown", describe, "", named(`{"name":"n","page":1,"hidden":1,"Secret":"s","-":0}`), "", `method "m" does not take parameters "-", "Secret", "hidden"`},
		{"a field given twice", describe, "", named(`{"name":"n","page":1,"page":2}`), "", `method "m" was given parameter "page" twice`},
		{"an ill-typed field", describe, "", named(`{"name":"n","page":"1"}`), "", `invalid argument "page" of method "m": json: cannot unmarshal string into Go value of type int`},
		{"what there is no field for is left out if it may be", describe, "...", named(`{"_meta":{"page":9},"name":"n","page":1,"Page":2}`), `"n page 1 [] no limit -62135596800"`, ""},
		{"but for what is missing", describe, "...", named(`{"_meta":{},"name":"n"}`), "", `method "m" requires parameter "page"`},
		{"and for what is given twice", describe, "...", named(`{"name":"n","page":1,"page":2}`), "", `method "m" was given parameter "page" twice`},
		{"what there is no parameter for, too", divide, "a b ...", named(`{"a":8,"c":1,"b":2}`), `4`, ""},
		{"and all if there is none", func() int { return 1 }, "...", named(`{"a":8}`), `1`, ""},
		{"but not what is given by place", divide, "a b ...", placed(`[8,2,1]`), "", `3 arguments passed to method m taking at most 2`},
		{"a struct has no order to bind by", describe, "", placed(`["n"]`), "", `method "m" cannot be called with positional arguments`},
		{"an empty array has nothing to bind", describe, "", both(`[]`, `{"name":"n","page":1}`), `"n page 1 [] no limit -62135596800"`, ""},
		{"a struct that decodes itself is an ordinary parameter", func(at time.Time) int64 { return at.Unix() }, "", placed(`["1970-01-01T00:01:00Z"]`), `60`, ""},
		{"so is a pointer to that", func(at *time.Time) int64 { return at.Unix() }, "", placed(`["1970-01-01T00:01:00Z"]`), `60`, ""},

		{"a pointer to a struct is like the struct", func(p *paging) int { return p.Page }, "", named(`{"page":7}`), `7`, ""},
		{"its fields are required", func(p *paging) int { return p.Page }, "", rpcx.Params{}, "", `method "m" requires parameter "page"`},
		{"it is not nil without params", func(p *struct{ N *int }) bool { return p != nil }, "", rpcx.Params{}, `true`, ""},
		{"it has no order", func(p *paging) int { return p.Page }, "", placed(`[{"page":7}]`), "", `method "m" cannot be called with positional arguments`},
		{"with a name it is an ordinary parameter", func(p *paging) int { return p.Page }, "p", placed(`[{"page":7}]`), `7`, ""},
		{"with a context, too", func(_ context.Context, p *paging) (int, error) { return p.Page, nil }, "", named(`{"page":7}`), `7`, ""},
		{"beside another parameter it is an ordinary one", func(n int, p *paging) int { return n + p.Page }, "", placed(`[1,{"page":7}]`), `8`, ""},

		{"a map takes all named params", counts, "", named(`{"a":1,"b":2}`), `"map[a:1 b:2]"`, ""},
		{"none", counts, "", rpcx.Params{}, `"map[]"`, ""},
		{"also beside an empty array", counts, "", both(`[]`, `{"a":1}`), `"map[a:1]"`, ""},
		{"with escapes in their names", counts, "", named(`{"\u0061":1}`), `"map[a:1]"`, ""},
		{"of any type", func(_ context.Context, m map[string]any) (any, error) { return m, nil }, "", named(`{"a":[1],"b":null}`), `{"a":[1],"b":null}`, ""},
		{"of a type of one's own", func(m map[label]*paging) int { return m["a"].Page }, "", named(`{"a":{"page":3}}`), `3`, ""},
		{"with more allowed, too", counts, "...", named(`{"a":1}`), `"map[a:1]"`, ""},
		{"a map takes no positional ones", counts, "", placed(`[{"a":1}]`), "", `method "m" cannot be called with positional arguments`},
		{"nor one twice", counts, "", named(`{"a":1,"b":1,"\u0061":1}`), "", `method "m" was given parameter "a" twice`},
		{"an ill-typed one in a map is named", counts, "", named(`{"a":1,"b":"x"}`), "", `invalid argument "b" of method "m": json: cannot unmarshal string into Go value of type int`},
		{"with a name a map is an ordinary parameter", counts, "m", placed(`[{"a":1}]`), `"map[a:1]"`, ""},
		{"so is a map whose keys are no strings, if it has a name", func(m map[int]int) int { return m[3] }, "m", placed(`[{"3":4}]`), `4`, ""},

		{"a slice takes all positional arguments", total, "", placed(`[1,2.5,-1e1]`), `-6.5`, ""},
		{"or none of them", total, "", rpcx.Params{}, `0`, ""},
		{"a slice that is empty is not nil", func(list []string) bool { return list != nil }, "", placed(`[]`), `true`, ""},
		{"of a type that has a name", func(l labels) int { return len(l) }, "", placed(`["a","b"]`), `2`, ""},
		{"of slices", func(l [][]int) int { return len(l) }, "", placed(`[[1,2],[3],[]]`), `3`, ""},
		{"with a context as well", func(_ context.Context, l []string) (string, error) { return strings.Join(l, "+"), nil }, "", placed(`["a","b"]`), `"a+b"`, ""},
		{"an ill-typed one of them is named", total, "", placed(`[1,"x"]`), "", `invalid argument 2 of method "m": json: cannot unmarshal string into Go value of type float64`},
		{"a slice takes none by name", total, "", named(`{"list":[1]}`), "", `method "m" does not take parameter "list"`},
		{"with a name a slice is an ordinary parameter", total, "list", placed(`[[1,2]]`), `3`, ""},
		{"by name, too", total, "list", named(`{"list":[1,2]}`), `3`, ""},
		{"an optional name is one", total, "list?", rpcx.Params{}, `0`, ""},
		{"beside another a slice is an ordinary parameter", func(n int, l []int) int { return n + len(l) }, "", placed(`[1,[2,3]]`), `3`, ""},
		{"a slice that decodes itself is one", func(ip net.IP) string { return ip.String() }, "", placed(`["127.0.0.1"]`), `"127.0.0.1"`, ""},

		{"pointers at the end may be absent", optional, "", placed(`[1]`), `"1 true true"`, ""},
		{"or be given in part", optional, "", placed(`[1,null]`), `"1 true true"`, ""},
		{"or in full", func(a *int, b *int) int { return *a + *b }, "", placed(`[1,2]`), `3`, ""},
		{"but not what is before them", optional, "", placed(`[]`), "", `0 arguments passed to method "m" but it requires 1`},
		{"nor what has a name without a question mark", optional, "a b c", placed(`[1]`), "", `1 argument passed to method "m" but it requires 3`},
		{"before a variadic parameter, too", func(a *int, rest ...int) bool { return a == nil && len(rest) == 0 }, "", placed(`[]`), `true`, ""},

		{"a raw payload binds to bytes", func(b []byte) int { return len(b) }, "", rpcx.Params{Raw: []byte{0, 255}}, `2`, ""},
		{"an empty raw payload, too", func(b []byte) int { return len(b) }, "b", rpcx.Params{Raw: []byte{}}, `0`, ""},
		{"bytes in JSON are in base64", func(b []byte) int { return len(b) }, "", placed(`["AP8="]`), `2`, ""},
		{"a raw payload binds to nothing else", echo, "message", rpcx.Params{Raw: []byte("hi")}, "", `method "m" does not take a raw payload`},
		{"nor to bytes beside others", func(a, b []byte) {}, "", rpcx.Params{Raw: []byte("hi")}, "", `method "m" does not take a raw payload`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := rpcx.Func(test.fn, strings.Fields(test.names)...)
			result, err := h.ServeRPC(t.Context(), &rpcx.Request{Method: "m", Params: test.params})
			if test.err != "" {
				var e *rpcx.Error
				if !errors.As(err, &e) || e.Code != rpcx.CodeInvalidParams || e.Message != test.err {
					t.Fatalf("got result %v, error %v\nwant error %s", result, err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := json.Marshal(result); string(got) != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// Functions of every number of results and parameters are called, with and
// without reflection, and what they return is passed on unchanged.
func TestFuncResults(t *testing.T) {
	failure := errors.New("failure")
	goodbye := rpcx.ReplyAndDisconnect("bye")
	tests := []struct {
		name string
		fn   any
		want any
		err  error
	}{
		{"nothing", func(string) {}, nil, nil},
		{"a result", func(s string) string { return s }, "arg", nil},
		{"no error", func(string) error { return nil }, nil, nil},
		{"an error", func(string) error { return failure }, nil, failure},
		{"a result and no error", func(s string) (string, error) { return s, nil }, "arg", nil},
		{"a result and an error", func(s string) (string, error) { return s, failure }, nil, failure},
		{"a disconnect", func(string) any { return goodbye }, goodbye, nil},
		{"a disconnect as an error", func(string) error { return goodbye }, nil, goodbye},

		{"no error, with a context", func(context.Context, string) error { return nil }, nil, nil},
		{"an error, with a context", func(context.Context, string) error { return failure }, nil, failure},
		{"a result and no error, with a context", func(_ context.Context, s string) (string, error) { return s, nil }, "arg", nil},
		{"a result and an error, with a context", func(_ context.Context, s string) (string, error) { return s, failure }, nil, failure},
		{"any, with a context", func(_ context.Context, s string) (any, error) { return s, nil }, "arg", nil},
		{"no result in any, with a context", func(context.Context, string) (any, error) { return nil, nil }, nil, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req := &rpcx.Request{Method: "m", Params: rpcx.Params{Positional: json.RawMessage(`["arg"]`)}}
			result, err := rpcx.Func(test.fn).ServeRPC(t.Context(), req)
			if result != test.want || err != test.err {
				t.Errorf("got %v, %v; want %v, %v", result, err, test.want, test.err)
			}
		})
	}
}

// The request's context reaches the function, however it is called.
func TestFuncContext(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "value")
	for name, fn := range map[string]any{
		"alone":                     func(ctx context.Context) (any, error) { return ctx.Value(key{}), nil },
		"alone, for an error":       func(ctx context.Context) error { return errors.New(ctx.Value(key{}).(string)) },
		"before an argument":        func(ctx context.Context, _ ...int) (any, error) { return ctx.Value(key{}), nil },
		"by reflection":             func(ctx context.Context) any { return ctx.Value(key{}) },
		"by reflection, a session":  func(ctx context.Context, _ *rpcx.Session) any { return ctx.Value(key{}) },
		"by reflection, a variadic": func(ctx context.Context, _ *rpcx.Session, _ ...bool) any { return ctx.Value(key{}) },
	} {
		t.Run(name, func(t *testing.T) {
			result, err := rpcx.Func(fn).ServeRPC(ctx, &rpcx.Request{Method: "m"})
			if err != nil {
				result = err.Error()
			}
			if result != "value" {
				t.Errorf("got %v", result)
			}
		})
	}
}

// foreignRequest is like the request of another library, which has only methods.
type foreignRequest struct {
	//lint:ignore U1000 it shows that unexported fields are no params
	id, params string
}

type hasMethod struct{}

func (hasMethod) Method() string { return "" }

// takingMethods, takingInterface and takingFields take requests as other libraries have
// them: with methods only, as an interface, and with fields, decoding itself.
func takingMethods() any {
	type Request struct{ hasMethod }
	return func(context.Context, *Request) (any, error) { return nil, nil }
}

func takingInterface() any {
	type Request interface{ Method() string }
	return func(context.Context, int, Request) (any, error) { return nil, nil }
}

func takingFields() any {
	type Request struct {
		time.Time // for its UnmarshalJSON
		Method    string
	}
	return func(context.Context, *Request) (any, error) { return nil, nil }
}

type hasMethods struct{}

func (*hasMethods) Add(a, b int) int { return a + b }

// sessionByValue takes what go vet would find.
var sessionByValue = reflect.Zero(reflect.FuncOf([]reflect.Type{reflect.TypeFor[rpcx.Session]()}, nil, false)).Interface()

// errorFirst returns an error and an int.
var errorFirst = reflect.Zero(reflect.FuncOf(nil, []reflect.Type{reflect.TypeFor[error](), reflect.TypeFor[int]()}, false)).Interface()

func TestFuncPanics(t *testing.T) {
	type cyclic []cyclic // is fine, and is not followed for ever
	rpcx.Func(func(cyclic) {})

	type embedded struct{ *paging }
	type twice struct {
		paging
		Page string `json:"page"`
	}
	type option struct {
		N int `json:",string"`
	}
	type channel struct{ C chan int }
	names := func(names ...string) []string { return names }
	tests := []struct {
		name  string
		fn    any
		names []string
		want  string // a part of the message
	}{
		{"nil", nil, nil, "rpcx.Func(<nil>): not a function"},
		{"no function", 1, nil, "rpcx.Func(int): not a function"},
		{"a nil function", (func())(nil), nil, "the function is nil"},
		{"a handler's function", func(context.Context, *rpcx.Request) (any, error) { return nil, nil }, nil, "a function that takes a *Request is a HandlerFunc"},
		{"too few names", divide, names("a"), "wrong number of names: 1, want 2"},
		{"too many names", echo, names("a", "b"), "wrong number of names: 2, want 1 (a context.Context, a *rpcx.Session and a variadic parameter have none)"},
		{"names for the fields of a struct", func(context.Context, paging) {}, names("page", "size"), "wrong number of names: 2, want 1 (the fields of a struct have names already, by their tags: leave the names out)"},
		{"names for the fields of a pointer", func(*paging) {}, names("page", "size", "..."), "the fields of a struct have names already"},
		{"a name for a context", func(context.Context, string) {}, names("ctx", "text"), "a context.Context, a *rpcx.Session and a variadic parameter have none"},
		{"more names than are known", divide, names("..."), `wrong number of names: 0, want 2 ("..." comes after the names of all parameters)`},
		{"more names in the middle", divide, names("...", "b"), `the name of parameter 1 is "...", which may only be the last name`},
		{"and more names than parameters", divide, names("a", "...", "b"), `the name of parameter 2 is "...", which may only be the last name`},
		{"more names that are optional", divide, names("a", "...?"), `the name of parameter 2 is "...", which may only be the last name`},
		{"a name for a variadic parameter", sum, names("values"), "wrong number of names: 1, want 0 (a variadic parameter has none)"},
		{"an empty name", echo, names(""), "the name of parameter 1 is empty"},
		{"an empty optional name", divide, names("a", "?"), "the name of parameter 2 is empty"},
		{"a name twice", divide, names("a", "a?"), `two parameters are named "a"`},
		{"a required parameter behind an optional one", divide, names("a?", "b"), `parameter "b" follows an optional one, but is not optional`},
		{"a context behind a parameter", func(int, context.Context) {}, nil, "context.Context has to come first"},
		{"a session behind a parameter", func(int, *rpcx.Session) {}, nil, "*rpcx.Session has to come first"},
		{"a channel as parameter", func(int, chan int) {}, nil, "parameter 2: chan int cannot be decoded"},
		{"functions as parameters", func(...func()) {}, nil, "[]func() cannot be decoded"},
		{"an interface with methods", func(error) {}, nil, "error cannot be decoded"},
		{"a map whose keys are no text", func(map[float64]int) {}, nil, "map[float64]int cannot be decoded"},
		{"a map of channels", func(map[string]chan int) {}, nil, "map[string]chan int cannot be decoded"},
		{"a channel as result", func() chan int { return nil }, nil, "result chan int cannot be encoded"},
		{"the *Error of this package as result", func() *rpcx.Error { return nil }, nil, "result *rpcx.Error is an error: write error"},
		{"that with a context and an argument", func(context.Context, int) *rpcx.Error { return nil }, nil, "result *rpcx.Error is an error: write error"},
		{"that behind a result", func() (int, *rpcx.Error) { return 0, nil }, nil, "result *rpcx.Error is an error: write error"},
		{"that before an error", func() (*rpcx.Error, error) { return nil, nil }, nil, "result *rpcx.Error is an error: write error"},
		{"an Error by value", func() rpcx.Error { return rpcx.Error{} }, nil, "result rpcx.Error is an error: write error"},
		{"that of another type", func() (net.OpError, error) { return net.OpError{}, nil }, nil, "result net.OpError is an error: write error"},
		{"another type of errors", func() *net.OpError { return nil }, nil, "result *net.OpError is an error: write error"},
		{"an interface of errors", func() (int, net.Error) { return 0, nil }, nil, "result net.Error is an error: write error"},
		{"an error that is no pointer", func() rpcx.TimeoutCancellationError { panic("") }, nil, "is an error: write error"},
		{"the error first", errorFirst, nil, "result error is an error: write error, as the last result"},
		{"a session as result", func() *rpcx.Session { return nil }, nil, "result *rpcx.Session cannot be encoded"},
		{"a future as result", func() (*rpcx.Future, error) { return nil, nil }, nil, "result *rpcx.Future cannot be encoded"},
		{"a batch as result", func() *rpcx.Batch { return nil }, nil, "result *rpcx.Batch cannot be encoded"},
		{"a session by value", sessionByValue, nil, "a Session must not be copied: write *rpcx.Session"},
		{"a future as parameter", func(int, *rpcx.Future) {}, nil, "parameter 2: *rpcx.Future cannot be decoded"},
		{"batches as parameters", func(...*rpcx.Batch) {}, nil, "[]*rpcx.Batch cannot be decoded"},
		{"a request by value", func(context.Context, rpcx.Request) error { return nil }, nil, "write rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) { … })"},
		{"a handler of net/rpc", func(args paging, reply *int) error { return nil }, nil, "write func(ctx context.Context, args rpcx_test.paging) (int, error)"},
		{"one with two pointers", func(args *paging, reply *paging) error { return nil }, nil, "write func(ctx context.Context, args *rpcx_test.paging) (rpcx_test.paging, error)"},
		{"another library's request", func(context.Context, *foreignRequest) (any, error) { return nil, nil }, nil, "foreignRequest has no fields that can be params: export them, or give the parameter a name; if it is another library's request, write rpcx.HandlerFunc("},
		{"one that has methods", takingMethods(), nil, "parameter 1: *rpcx_test.Request looks like another library's request: write rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) { … })"},
		{"one that is an interface", takingInterface(), nil, "parameter 2: rpcx_test.Request looks like another library's request"},
		{"one that decodes itself", takingFields(), nil, "parameter 1: *rpcx_test.Request looks like another library's request"},
		{"all params as they are", func(rpcx.Params) {}, nil, "a function that takes Params is a HandlerFunc: write rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) { … }), which has req.Params and req.Bind"},
		{"a pointer to them", func(context.Context, *rpcx.Params) error { return nil }, names("p"), "a function that takes Params is a HandlerFunc"},
		{"a HandlerFunc", rpcx.HandlerFunc(nil), nil, "it is a Handler already: pass it to Router.Handle or Options.Handler as it is"},
		{"what Func returned", rpcx.Func(echo), names("message"), "it is a Handler already"},
		{"a router", rpcx.NewRouter(), nil, "it is a Handler already"},
		{"a struct without exported fields", func(struct{ a, b int }) {}, nil, "has no fields that can be params"},
		{"an array of all params", func(context.Context, [1]string) error { return nil }, nil, "an array of all params: write []string for any number of them"},
		{"a pointer to an array", func(*[2]int) {}, nil, "an array of all params: write []int"},
		{"a pointer to a slice", func(*[]int) {}, nil, "a pointer to all params: write []int, or give the parameter a name"},
		{"a pointer to a map", func(*map[string]int) {}, nil, "a pointer to all params: write map[string]int, or give the parameter a name"},
		{"a map of all params by number", func(map[int]string) {}, nil, "write map[string]string, or give the parameter a name"},
		{"a map of all params by address", func(context.Context, *map[netip.Addr]int) {}, nil, "write map[string]int, or give the parameter a name"},
		{"a service's methods", new(hasMethods), nil, "not a function: write rpcx.Expose[I](v) for the methods of an interface I"},
		{"two results", func() (int, int) { return 0, 0 }, nil, "the results have to be (T, error), T, error or none"},
		{"three results", func() (int, int, error) { return 0, 0, nil }, nil, "the results have to be (T, error), T, error or none"},
		{"a struct with an embedded pointer", func(embedded) {}, nil, "field paging is an embedded pointer: embed the struct itself"},
		{"a struct with a name twice", func(twice) {}, nil, `two fields are named "page"`},
		{"a struct with numbers in strings", func(option) {}, nil, "field N has the option string"},
		{"a struct with a channel", func(channel) {}, nil, "field C: chan int cannot be decoded"},
		{"a struct with that embedded", func(struct{ channel }) {}, nil, "field C: chan int cannot be decoded"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			defer func() {
				if got, _ := recover().(string); !strings.Contains(got, test.want) {
					t.Errorf("got panic %q, want %q", got, test.want)
				}
			}()
			rpcx.Func(test.fn, test.names...)
		})
	}
}

// What a function was given is its own: the memory that arguments are decoded
// into is used again, but neither shows nor changes them.
func TestFuncReuse(t *testing.T) {
	var kept []json.RawMessage
	h := rpcx.Func(func(_ context.Context, v json.RawMessage) error {
		kept = append(kept, v)
		return nil
	}, "v?")
	for _, params := range []string{`["first"]`, `["other"]`, `[]`} {
		req := &rpcx.Request{Params: rpcx.Params{Positional: json.RawMessage(params)}}
		if _, err := h.ServeRPC(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprintf("%q", [][]byte{kept[0], kept[1], kept[2]}); got != `["\"first\"" "\"other\"" ""]` {
		t.Errorf("got %s", got)
	}

	var wg sync.WaitGroup
	double := rpcx.Func(func(_ context.Context, a, b int) (int, error) { return a + b, nil })
	for i := range 100 {
		wg.Go(func() {
			req := &rpcx.Request{Params: rpcx.Params{Positional: fmt.Appendf(nil, "[%d,%[1]d]", i)}}
			if got, err := double.ServeRPC(t.Context(), req); got != 2*i || err != nil {
				t.Errorf("got %v, %v for %d", got, err, i)
			}
		})
	}
	wg.Wait()
}

var benchmarks = []struct {
	name    string
	handler rpcx.Handler
	params  rpcx.Params
	allocs  float64 // how many are allowed
}{
	{"raw", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) { return nil, nil }),
		rpcx.Params{}, 0},
	{"echo", rpcx.Func(echo, "message"), // the string, and the result
		rpcx.Params{Positional: json.RawMessage(`["Howdy, how are you?"]`)}, 2},
	{"echo_by_name", rpcx.Func(echo, "message"),
		rpcx.Params{Named: json.RawMessage(`{"message":"Howdy, how are you?"}`)}, 2},
	{"two_numbers", rpcx.Func(divide), // the result
		rpcx.Params{Positional: json.RawMessage(`[98765,2]`)}, 1},
	{"variadic", rpcx.Func(sum), // the slice, and the result
		rpcx.Params{Positional: json.RawMessage(`[1,2,3,4,5,6,7,8]`)}, 2},
	{"by_reflection", rpcx.Func(func(message string) string { return message }),
		rpcx.Params{Positional: json.RawMessage(`["Howdy, how are you?"]`)}, 7},
	{"struct", rpcx.Func(func(p paging) int { return p.Page }),
		rpcx.Params{Named: json.RawMessage(`{"page":1}`)}, 7},
}

func TestFuncAllocs(t *testing.T) {
	for _, b := range benchmarks {
		req := &rpcx.Request{Method: "m", Params: b.params}
		got := testing.AllocsPerRun(1000, func() {
			if _, err := b.handler.ServeRPC(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		})
		if got > b.allocs {
			t.Errorf("%s: %v allocations, want at most %v", b.name, got, b.allocs)
		}
	}
}

func BenchmarkFunc(b *testing.B) {
	for _, bench := range benchmarks {
		b.Run(bench.name, func(b *testing.B) {
			ctx := b.Context()
			req := &rpcx.Request{Method: "m", Params: bench.params}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := bench.handler.ServeRPC(ctx, req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// slowValue is decoded while the gate is closed.
type slowValue struct{}

var slowDecoding struct {
	entered       chan struct{}
	open          chan struct{}
	running, most atomic.Int64
}

func (*slowValue) UnmarshalJSON([]byte) error {
	d := &slowDecoding
	running := d.running.Add(1)
	for most := d.most.Load(); running > most && !d.most.CompareAndSwap(most, running); most = d.most.Load() {
	}
	d.entered <- struct{}{}
	<-d.open
	d.running.Add(-1)
	return nil
}

// processorsAtStart is the number that the package has seen, before the flag -test.cpu counts.
var processorsAtStart = runtime.GOMAXPROCS(0)

// Large params are decoded by fewer goroutines than there are processors, so that small
// requests do not wait for them.
func TestLargeParamsAreDecodedInTurn(t *testing.T) {
	const calls = 40
	for name, handler := range map[string]rpcx.Handler{
		"Func":          rpcx.Func(func(slowValue) {}),
		"Func of a map": rpcx.Func(func(map[string]slowValue) {}),
		"Bind": rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			return nil, req.Params.Bind(&struct{ V *slowValue }{})
		}),
	} {
		t.Run(name, func(t *testing.T) {
			d := &slowDecoding
			d.entered, d.open = make(chan struct{}, calls), make(chan struct{})
			d.running.Store(0)
			d.most.Store(0)
			router := rpcx.NewRouter()
			router.Handle("slow", handler)
			router.Handle("small", rpcx.Func(func(n int) int { return n }, "n"))
			opts := &rpcx.Options{Handler: router, Limits: rpcx.Limits{Concurrency: 2 * calls}}
			client, server := rpcx.Pipe(nil, opts)
			defer func() {
				client.Close()
				<-client.Done()
				<-server.Done()
			}()
			args := map[string]string{"v": strings.Repeat("x", 64<<10)}
			var params any = args
			if name == "Func" {
				params = rpcx.Args{args["v"]}
			}
			var futures []*rpcx.Future
			for range calls {
				futures = append(futures, client.Go(t.Context(), "slow", params))
			}
			slots := int64(max(1, processorsAtStart-1))
			for range slots {
				<-d.entered
			}
			for n := range 100 {
				if got, err := rpcx.Call[int](t.Context(), client, "small", rpcx.Args{n}); got != n || err != nil {
					t.Fatalf("a small request: %d, %v", got, err)
				}
			}
			close(d.open)
			for _, f := range futures {
				if err := f.Wait(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
			if most := d.most.Load(); most > slots {
				t.Errorf("%d were decoded at once, with %d slots", most, slots)
			}
		})
	}
}

// Editors send "params":null with "shutdown" and "exit".
func TestNullParamsAreNone(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		say      string
		want     string
	}{
		"in JSON-RPC 2.0":           {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"none","params":null,"id":1}`, `{"jsonrpc":"2.0","result":"ok","id":1}`},
		"in JSON-RPC 1.0":           {rpcx.JSONRPCv1, `{"method":"none","params":null,"id":1}`, `{"result":"ok","error":null,"id":1}`},
		"in a loose mix":            {rpcx.JSONRPCLoose, `{"method":"none","params":null,"id":1}`, `{"jsonrpc":"2.0","result":"ok","id":1}`},
		"with detection":            {rpcx.JSONRPCAutoDetect, `{"jsonrpc":"1.0","method":"none","params":null,"id":1}`, `{"result":"ok","error":null,"id":1}`},
		"before the other members":  {rpcx.JSONRPCv2, `{"params" : null,"id":1,"method":"none","jsonrpc":"2.0"}`, `{"jsonrpc":"2.0","result":"ok","id":1}`},
		"in a batch":                {rpcx.JSONRPCv2, `[{"jsonrpc":"2.0","method":"none","params":null,"id":1}]`, `[{"jsonrpc":"2.0","result":"ok","id":1}]`},
		"for a variadic parameter":  {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"sum","params":null,"id":1}`, `{"jsonrpc":"2.0","result":0,"id":1}`},
		"for a struct, whose field": {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"struct","params":null,"id":1}`, `{"jsonrpc":"2.0","error":{"code":-32602,"message":"method \"struct\" requires parameter \"name\""},"id":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("none", rpcx.Func(func() string { return "ok" }))
				router.Handle("sum", rpcx.Func(func(terms ...int) int { return len(terms) }))
				router.Handle("struct", rpcx.Func(func(params struct {
					Name string `json:"name"`
				}) string {
					return params.Name
				}))
				_, w := newWire(t, &rpcx.Options{Protocol: test.protocol, Handler: router})
				w.say(test.say)
				w.expect(test.want)
			})
		})
	}
}

// Whoever polls with null params was cut off for the cost of ninety errors.
func TestNullParamsCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handled := 0
		s, w := newServed(t, handling(methods{"poll": func(_ context.Context, req *rpcx.Request) (any, error) {
			if req.Params.Positional != nil || req.Params.Named != nil {
				t.Errorf("the params are %+v", req.Params)
			}
			handled++
			return nil, nil
		}}))
		for range 200 {
			w.say(`{"jsonrpc":"2.0","method":"poll","params":null}`)
			synctest.Wait()
		}
		live(t, s)
		if stats := s.Stats(); handled != 200 || stats.Errors != 0 || stats.Cost > 1 {
			t.Errorf("%d were handled, with %d errors at a cost of %v", handled, stats.Errors, stats.Cost)
		}
	})
}

func TestStrictParams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.StrictParams = true
		opts.Limits.Concurrency = 1 // the replies are in the order of the requests
		s, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"reply","params":null,"id":1}`, `[{"jsonrpc":"2.0","method":"reply","params":null,"id":2}]`,
			`{"jsonrpc":"2.0","method":"reply","id":3}`, `{"jsonrpc":"2.0","method":"reply","params":[null],"id":4}`)
		const null = `{"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: null"},"id":`
		w.expect(null+`1}`, `[`+null+`2}]`, `{"jsonrpc":"2.0","result":null,"id":3}`, `{"jsonrpc":"2.0","result":null,"id":4}`)
		if n := s.Stats().Errors; n != 2 {
			t.Errorf("%d errors are counted", n)
		}
		if s.Protocol() != rpcx.JSONRPCv2 {
			t.Errorf("the protocol has become %v", s.Protocol())
		}
	})
}

func TestStrictParamsWithoutASession(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		message  string
		strict   rpcx.Kind
	}{
		"null in 2.0":           {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"null in a loose mix":   {rpcx.JSONRPCLoose, `{"method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"null with detection":   {rpcx.JSONRPCAutoDetect, `{"jsonrpc":"2.0","method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"null in 1.0":           {rpcx.JSONRPCv1, `{"method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"nothing in 1.0":        {rpcx.JSONRPCv1, `{"method":"m","id":1}`, rpcx.KindInvalid},
		"nothing in 2.0":        {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"m","id":1}`, rpcx.KindRequest},
		"an empty list in both": {rpcx.JSONRPCv1, `{"method":"m","params":[],"id":1}`, rpcx.KindRequest},
	} {
		t.Run(name, func(t *testing.T) {
			var m rpcx.Message
			for _, strict := range []bool{false, true, true, false} {
				m.StrictParams = strict
				test.protocol.Decode(&m, []byte(test.message), 0)
				want := rpcx.KindRequest
				if strict {
					want = test.strict
				}
				if m.Kind() != want || m.StrictParams != strict {
					t.Errorf("strict %v: got %v %v, want %v", strict, m.Kind(), m.Items[0].Err, want)
				}
			}
		})
	}
}

// says is a handler that answers with a text.
func says(text string) rpcx.Handler { return rpcx.Func(func() string { return text }) }

// mount mounts routers, which works.
func mount(t *testing.T, r *rpcx.Router, name string, sub *rpcx.Router) {
	t.Helper()
	if err := r.Mount(name, sub); err != nil {
		t.Fatal(err)
	}
}

// tree returns a router in which a, b and c hang one below the other. Each has a
// method get.
func tree(t *testing.T) (root, a, b, c *rpcx.Router) {
	t.Helper()
	var routers [4]*rpcx.Router
	for i := range routers {
		routers[i] = rpcx.NewRouter()
		routers[i].Handle("get", says(fmt.Sprint("level ", i)))
		if i > 0 {
			mount(t, routers[i-1], string("abc"[i-1]), routers[i])
		}
	}
	return routers[0], routers[1], routers[2], routers[3]
}

func TestRouterPaths(t *testing.T) {
	root, a, _, c := tree(t)
	root.Handle("a/b/special", says("a whole name"))
	root.Handle("dotted.name", says("dotted"))
	slashed := rpcx.NewRouter()
	slashed.Handle("get", says("slashed"))
	mount(t, a, "x/y", slashed)
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: root})
	for _, test := range []struct{ sentence, path, result, message string }{
		{"a method at the root", "get", "level 0", ""},
		{"one below", "a/get", "level 1", ""},
		{"three below", "a/b/c/get", "level 3", ""},
		{"dots are as good", "a.b.c.get", "level 3", ""},
		{"dots and slashes may be mixed", "a.b/c.get", "level 3", ""},
		{"the whole name comes first", "a/b/special", "a whole name", ""},
		{"so a name may have a dot in it", "dotted.name", "dotted", ""},
		{"a router's name may have a slash in it", "a/x/y/get", "slashed", ""},
		{"no such method", "put", "", `unknown method "put"`},
		{"no such method below", "a/b/put", "", `unknown method "a/b/put": Name "put" not found in "a/b"`},
		{"no such service", "a/z/get", "", `unknown method "a/z/get": Name "z" not found in "a"`},
		{"nothing is within a method", "a/get/x", "", `unknown method "a/get/x": Name "x" not found in "a/get"`},
		{"an empty name", "a//get", "", `unknown method "a//get": Name "" not found in "a"`},
		{"an empty name at the end", "a/get/", "", `unknown method "a/get/": Name "" not found in "a/get"`},
		{"no name at all", "", "", `unknown method ""`},
		{"a service is no method", "a/b", "", `unknown method "a/b": "a/b" is a service and not a method`},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			if has := root.Has(test.path); has != (test.message == "") {
				t.Errorf("Has is %t", has)
			}
			got, err := rpcx.Call[string](t.Context(), client, test.path, nil)
			if test.message != "" {
				matches(t, err, rpcx.ErrMethodNotFound)
				if e, ok := err.(*rpcx.Error); !ok || e.Message != test.message {
					t.Errorf("error %v, want %q", err, test.message)
				}
			} else if err != nil || got != test.result {
				t.Errorf("got %q, %v; want %q", got, err, test.result)
			}
		})
	}
	if path := c.Path(); path != "a/b/c" || c.Parent().Path() != "a/b" || root.Path() != "" {
		t.Errorf("the path of c is %q, of its parent %q, of the root %q", path, c.Parent().Path(), root.Path())
	}
}

func TestRouterResolve(t *testing.T) {
	root, _, _, c := tree(t)
	if h, err := root.Resolve("a/b/c"); h != c || err != nil {
		t.Errorf("resolved to %v, %v; want the router c", h, err)
	}
	if h, err := root.Resolve("a/b/get"); h == nil || err != nil {
		t.Errorf("resolved to %v, %v; want the method", h, err)
	}
	for path, message := range map[string]string{
		"a/z": `Name "z" not found in "a"`,
		"a.b": `Name "a.b" not found in ""`, // dots are of JSON-RPC
		"":    `Name "" not found in ""`,
	} {
		_, err := root.Resolve(path)
		matches(t, err, rpcx.ErrMethodNotFound)
		if e, ok := err.(*rpcx.Error); !ok || e.Message != message {
			t.Errorf("%q: error %v, want %q", path, err, message)
		}
	}
}

func TestRouterHasOneParent(t *testing.T) {
	root, a, b, _ := tree(t)
	alone := rpcx.NewRouter()
	for _, test := range []struct {
		sentence, name string
		into, sub      *rpcx.Router
		want           string
	}{
		{"mounted already", "x", root, b, `mounted already, as "a/b"`},
		{"mounted there already", "x", a, b, "mounted already"},
		{"within itself", "x", alone, alone, "within itself"},
		{"within what is within it", "x", b, root, "within itself"},
		{"under a name that is taken", "get", root, alone, "taken"},
		{"without a name", "", root, alone, "needed"},
		{"nothing", "x", root, nil, "needed"},
	} {
		if err := test.into.Mount(test.name, test.sub); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.sentence, err, test.want)
		}
	}
	if !root.Remove("a") || root.Remove("a") || a.Parent() != nil || b.Path() != "b" {
		t.Error("a is not removed just once")
	}
	mount(t, alone, "moved", a)
	if b.Path() != "moved/b" {
		t.Errorf("the path of b is %q", b.Path())
	}
}

func TestRouterPathOf(t *testing.T) {
	root, a, _, c := tree(t)
	svc, twin := new(counter), new(counter)
	mount(t, c, "count", rpcx.Expose[counting](svc))
	slashed := rpcx.NewRouter()
	mount(t, a, "/with/slashes", slashed)
	for _, test := range []struct {
		sentence string
		from     *rpcx.Router
		service  any
		path     string
		ok       bool
	}{
		{"a router", root, c, "a/b/c", true},
		{"itself", a, a, "", true},
		{"from the middle of the tree", a, c, "b/c", true},
		{"not what is above", c, a, "", false},
		{"a name that begins with a slash", a, slashed, "/with/slashes", true},
		{"a service", root, svc, "a/b/c/count", true},
		{"a service from the middle", c, svc, "count", true},
		{"one that is not there", root, twin, "", false},
		{"no service at all", root, []int{1}, "", false},
		{"nothing", root, nil, "", false},
		{"no router", root, (*rpcx.Router)(nil), "", false},
	} {
		if path, ok := test.from.PathOf(test.service); path != test.path || ok != test.ok {
			t.Errorf("%s: %q, %v", test.sentence, path, ok)
		}
	}
	again := rpcx.Expose[counting](svc)
	mount(t, root, "again", again)
	a.Remove("b")
	if path, ok := root.PathOf(svc); path != "again" || !ok {
		t.Errorf("exposed twice, removed once: %q, %v", path, ok)
	}
	root.Remove("again")
	if path, ok := root.PathOf(svc); ok {
		t.Errorf("removed, but still at %q", path)
	}
}

func TestRouterMethods(t *testing.T) {
	root, _, b, _ := tree(t)
	b.Handle("zap", says(""))
	want := []string{"a/b/c/get", "a/b/get", "a/b/zap", "a/get", "get"}
	if diff := cmp.Diff(want, slices.Collect(root.Methods())); diff != "" {
		t.Error(diff)
	}
	for range b.Methods() {
		b.Remove("zap") // no lock is held
		break
	}
}

// A tree may be changed, in any place and from both ends, while it serves.
func TestRouterChangesWhileItServes(t *testing.T) {
	root, a, b, _ := tree(t)
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: root, Limits: rpcx.Limits{CostOff: true}}) // for there are many errors
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { // until stop
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name := fmt.Sprint("more", i%10)
			b.Handle(name, says(name))
			a.Remove("b")
			if err := b.Mount("a", a); err == nil {
				b.Remove("a")
			}
			_ = a.Mount("b", b)
			b.Remove(name)
		}
	})
	for range 200 {
		got, err := rpcx.Call[string](t.Context(), client, "a/b/get", nil)
		if err != nil {
			matches(t, err, rpcx.ErrMethodNotFound)
		} else if got != "level 2" {
			t.Errorf("got %q", got)
		}
		for range root.Methods() {
		}
		b.Path()
	}
	close(stop)
	wg.Wait()
}

func TestRouterLookupAllocatesNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	root, _, _, _ := tree(t)
	if n := testing.AllocsPerRun(100, func() {
		if h, err := root.Resolve("a/b/c/get"); h == nil || err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A look-up that fails costs no more than the names that there are, however long
// the path is.
func TestRouterLongPath(t *testing.T) {
	root, _, _, _ := tree(t)
	_, err := root.Resolve(strings.Repeat("a/", 500_000))
	matches(t, err, rpcx.ErrMethodNotFound)
	_, err = root.Resolve(strings.Repeat("/", 500_000))
	matches(t, err, rpcx.ErrMethodNotFound)
}

func TestRouterRefuses(t *testing.T) {
	r := rpcx.NewRouter()
	r.Handle("a", says(""))
	for part, f := range map[string]func(){
		"nil handler":      func() { r.Handle("b", nil) },
		"second handler":   func() { r.Handle("a", says("")) },
		"but mounted: sub": func() { r.Handle("sub", rpcx.NewRouter()) },
	} {
		panicsWith(t, part, f)
	}
}

// panicsWith says that f panics with a text that contains part.
func panicsWith(t *testing.T, part string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), part) {
			t.Errorf("panicked with %v, want %q", r, part)
		}
	}()
	f()
}

// counting is what a counter exposes.
type counting interface {
	Add(ctx context.Context, n int) (int, error)
	GetTotal() int
}

type counter struct {
	Limit int
	mu    sync.Mutex
	total int
}

func (c *counter) Add(_ context.Context, n int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total+n > c.Limit {
		return c.total, fmt.Errorf("over the limit of %d", c.Limit)
	}
	c.total += n
	return c.total, nil
}

func (c *counter) GetTotal() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// Reset is not exposed.
func (c *counter) Reset() { c.total = 0 }

func TestExpose(t *testing.T) {
	r := rpcx.Expose[counting](&counter{Limit: 10})
	want := []string{"Add", "GetTotal", "add", "get_total"}
	if diff := cmp.Diff(want, slices.Collect(r.Methods())); diff != "" {
		t.Errorf("it has other methods than the interface:\n%s", diff)
	}
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: r})
	for method, params := range map[string]any{"Add": rpcx.Args{3}, "add": rpcx.Args{4}} {
		if _, err := rpcx.Call[int](t.Context(), client, method, params); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	if total, err := rpcx.Call[int](t.Context(), client, "get_total", nil); total != 7 || err != nil {
		t.Errorf("the total is %d, %v; want 7", total, err)
	}
	for _, hidden := range []string{"Reset", "reset", "Limit", "limit"} {
		err := client.Call(t.Context(), hidden, nil, nil)
		matches(t, err, rpcx.ErrMethodNotFound)
		if want := `"rpcx_test.counter.` + hidden + `" is not exposed`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	for _, absent := range []string{"mu", "total", "Nothing"} {
		err := client.Call(t.Context(), absent, nil, nil)
		matches(t, err, rpcx.ErrMethodNotFound)
		if err == nil || strings.Contains(err.Error(), "exposed") {
			t.Errorf("error %v tells of what is not exported", err)
		}
	}
}

func TestExposeRenames(t *testing.T) {
	lower := func(name string) string { return strings.ToLower(name[:1]) + name[1:] }
	r := rpcx.Expose[counting](&counter{}, lower)
	want := []string{"Add", "GetTotal", "add", "getTotal"}
	if diff := cmp.Diff(want, slices.Collect(r.Methods())); diff != "" {
		t.Error(diff)
	}
}

// names has methods whose names are hard to put in lower snake case.
type names interface {
	HTTPServer()
	GetID()
	ID()
	Utf8Text()
	A()
	Snake_Case()
}

type named struct{}

func (named) HTTPServer() {}
func (named) GetID()      {}
func (named) ID()         {}
func (named) Utf8Text()   {}
func (named) A()          {}
func (named) Snake_Case() {}

func TestExposeSnakeCase(t *testing.T) {
	r := rpcx.Expose[names](named{})
	var lower []string
	for name := range r.Methods() {
		if strings.ToLower(name) == name {
			lower = append(lower, name)
		}
	}
	want := []string{"a", "get_id", "http_server", "id", "snake_case", "utf8_text"}
	if diff := cmp.Diff(want, lower); diff != "" {
		t.Error(diff)
	}
}

// What is not valid is refused when it is built, with the reason.
func TestExposeRefuses(t *testing.T) {
	type hidden interface{ hidden() }
	mounted := rpcx.NewRouter()
	mount(t, rpcx.NewRouter(), "x", mounted)
	for part, f := range map[string]func(){
		"not an interface":                     func() { rpcx.Expose[counter](counter{}) },
		"not an interface with methods":        func() { rpcx.Expose[any](1) },
		"there is no implementation":           func() { rpcx.Expose[counting](nil) },
		"no implementation":                    func() { rpcx.Expose[counting]((*counter)(nil)) },
		"hidden is not exported":               func() { rpcx.Expose[hidden](hider{}) },
		"method Watch: parameter 1: chan int":  func() { rpcx.Expose[interface{ Watch(c chan int) }](hider{}) },
		"method Two: the results have to be":   func() { rpcx.Expose[interface{ Two() (int, int) }](hider{}) },
		"method Take: parameter 1: *rpcx.Rout": func() { rpcx.Expose[interface{ Take(*rpcx.Router) }](hider{}) },
		"two methods are named":                func() { rpcx.Expose[names](named{}, func(string) string { return "same" }) },
		`ExposeMap: "n": int is neither`:       func() { rpcx.ExposeMap(map[string]any{"n": 7}) },
		`"m": map[string]int is neither`:       func() { rpcx.ExposeMap(map[string]any{"m": map[string]int{}}) },
		`"nil": <nil> is neither`:              func() { rpcx.ExposeMap(map[string]any{"nil": nil}) },
		`"f": parameter 1: chan int`:           func() { rpcx.ExposeMap(map[string]any{"f": func(chan int) {}}) },
		`"r": mount "r": the router is mounted`: func() {
			rpcx.ExposeMap(map[string]any{"r": mounted})
		},
	} {
		panicsWith(t, part, f)
	}
}

type hider struct{}

func (hider) hidden()           {}
func (hider) Watch(chan int)    {}
func (hider) Two() (int, int)   { return 1, 2 }
func (hider) Take(*rpcx.Router) {}

func TestExposeMapNests(t *testing.T) {
	r := rpcx.ExposeMap(map[string]any{
		"sum": func(_ context.Context, values ...float64) (total float64, err error) {
			for _, v := range values {
				total += v
			}
			return total, nil
		},
		"divide": rpcx.Func(func(a, b float64) (float64, error) {
			if b == 0 {
				return 0, errors.New("by zero")
			}
			return a / b, nil
		}, "a", "b"),
		"deep":    map[string]any{"er": map[string]any{"get": func() string { return "here" }}},
		"counter": rpcx.Expose[counting](&counter{Limit: 1}),
	})
	want := []string{"counter/Add", "counter/GetTotal", "counter/add", "counter/get_total", "deep/er/get", "divide", "sum"}
	if diff := cmp.Diff(want, slices.Collect(r.Methods())); diff != "" {
		t.Error(diff)
	}
	client, _ := newPipe(t, nil, &rpcx.Options{Handler: r})
	if half, err := rpcx.Call[float64](t.Context(), client, "divide", map[string]any{"b": 4, "a": 2}); half != 0.5 || err != nil {
		t.Errorf("got %v, %v", half, err)
	}
	if here, err := rpcx.Call[string](t.Context(), client, "deep/er/get", nil); here != "here" || err != nil {
		t.Errorf("got %v, %v", here, err)
	}
}
