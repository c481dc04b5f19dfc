package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
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
		{"too many names", echo, names("a", "b"), "wrong number of names: 2, want 1"},
		{"more names than are known", divide, names("..."), "wrong number of names: 0, want 2"},
		{"more names in the middle", divide, names("...", "b"), `the name of parameter 1 is "...", which may only be the last`},
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
		{"a request by value", func(context.Context, rpcx.Request) error { return nil }, nil, "write rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error))"},
		{"a handler of net/rpc", func(args paging, reply *int) error { return nil }, nil, "write func(ctx context.Context, args rpcx_test.paging) (int, error)"},
		{"one with two pointers", func(args *paging, reply *paging) error { return nil }, nil, "write func(ctx context.Context, args *rpcx_test.paging) (rpcx_test.paging, error)"},
		{"another library's request", func(context.Context, *foreignRequest) (any, error) { return nil, nil }, nil, "foreignRequest has no fields that can be params: export them, or give the parameter a name"},
		{"a struct without exported fields", func(struct{ a, b int }) {}, nil, "has no fields that can be params"},
		{"an array of all params", func(context.Context, [1]string) error { return nil }, nil, "an array of all params: write []string for any number of them"},
		{"a pointer to an array", func(*[2]int) {}, nil, "an array of all params: write []int"},
		{"a pointer to a slice", func(*[]int) {}, nil, "a pointer to all params: write []int, or give the parameter a name"},
		{"a pointer to a map", func(*map[string]int) {}, nil, "a pointer to all params: write map[string]int, or give the parameter a name"},
		{"a map of all params by number", func(map[int]string) {}, nil, "write map[string]string, or give the parameter a name"},
		{"a map of all params by address", func(context.Context, *map[netip.Addr]int) {}, nil, "write map[string]int, or give the parameter a name"},
		{"the params", func(context.Context, rpcx.Params) {}, nil, "use rpcx.RequestFromContext(ctx).Params"},
		{"a pointer to them", func(*rpcx.Params) {}, nil, "use rpcx.RequestFromContext(ctx).Params"},
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
