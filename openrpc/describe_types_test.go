package openrpc_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/openrpc"
	invopop "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

type level int

func (l level) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "level %d", int(l)), nil }

type Base struct {
	A int     `json:"a"`
	P *string `json:"p"`
}

type hiddenBase struct {
	A int `json:"a"`
}

type One struct {
	Same int
	A    string
}

type Two struct {
	Same string
	B    *bool
}

type Text string

// Structs that embed others.
type (
	embedsValue   struct{ Base }
	embedsPointer struct{ *Base }
	embedsHidden  struct{ hiddenBase }
	embedsBoth    struct {
		*hiddenBase
		B int `json:"b"`
	}
	embedsTagged struct {
		Base `json:"inner"`
	}
	embedsText  struct{ Text }
	hidesBefore struct {
		A string `json:"a,omitempty"`
		Base
	}
	hidesAfter struct {
		Base
		A string `json:"a,omitempty"`
	}
	hidesPointer struct {
		P int `json:"p"`
		*Base
	}
	embedsItself struct {
		Name string
		*embedsItself
	}
	Around struct{ *Within }
	Within struct {
		Depth int
		*Around
	}
	inAnonymous struct {
		X []struct {
			*Within
			Next *inAnonymous `json:"next"`
		}
	}
)

// embedsTwo has two fields with the same name, so that none is encoded.
type embedsTwo struct {
	One
	Two
}

type tags struct {
	Number  int             `json:"number,string"`
	Pointer *float64        `json:"pointer,string"`
	Truth   bool            `json:"truth,string"`
	Zero    time.Time       `json:"zero,omitzero"`
	Raw     json.RawMessage `json:"raw"`
	Comma   int             `json:",omitempty"`
	Empty   struct{}        `json:"empty"`
	Bytes   [4]byte         `json:"bytes"`
}

type maps struct {
	Addresses map[netip.Addr]int
	Levels    map[level]*int
	Numbers   map[int8]struct{ P *int }
	Unsigned  map[uint]bool
	Any       map[int]any
}

type namedMap map[level]Base

type generic[K comparable, V any] struct {
	Key   K
	Value V
	More  []generic[string, K]
}

// withSchema describes itself.
type withSchema struct {
	P *int `json:"p"`
}

var schemaOfUser = &invopop.Schema{Type: "object", Properties: invopop.NewProperties(), Description: "of the user"}

func (withSchema) JSONSchema() *invopop.Schema {
	schemaOfUser.Properties.Set("p", &invopop.Schema{})
	return schemaOfUser
}

// The schema of each type accepts what encoding/json makes of its values, and lists all
// properties.
func TestSchemasAcceptValues(t *testing.T) {
	text, number := "text", 1
	base := Base{1, &text}
	for _, v := range []any{
		embedsValue{}, embedsValue{base}, embedsPointer{}, embedsPointer{&base}, embedsPointer{&Base{}}, embedsHidden{}, embedsBoth{}, embedsBoth{hiddenBase: &hiddenBase{}},
		embedsTagged{}, embedsText{}, hidesBefore{}, hidesBefore{A: "a"}, hidesAfter{}, hidesAfter{A: "a"}, hidesPointer{}, hidesPointer{Base: &base},
		embedsTwo{}, embedsTwo{One{1, "a"}, Two{}},
		embedsItself{}, embedsItself{"a", &embedsItself{"b", nil}}, Around{}, Around{&Within{1, &Around{}}}, Within{}, []Within{{}},
		inAnonymous{X: []struct {
			*Within
			Next *inAnonymous `json:"next"`
		}{{}, {&Within{}, &inAnonymous{X: []struct {
			*Within
			Next *inAnonymous `json:"next"`
		}{}}}}},
		struct{ embedsPointer }{}, struct{ X *embedsTwo }{}, map[string]struct{ hidesBefore }{"x": {}},
		tags{}, tags{Number: 1, Raw: json.RawMessage(`[1]`), Zero: time.Unix(0, 0)},
		maps{map[netip.Addr]int{netip.IPv4Unspecified(): 1}, map[level]*int{1: &number}, map[int8]struct{ P *int }{-1: {}}, map[uint]bool{1: true}, map[int]any{-5: "x"}},
		namedMap{7: base}, map[int]namedMap{-7: {}}, generic[level, Base]{1, base, []generic[string, level]{}}, withSchema{}, []withSchema{{}},
	} {
		t.Run(fmt.Sprintf("%T", v), func(t *testing.T) {
			fn := reflect.MakeFunc(reflect.FuncOf(nil, []reflect.Type{reflect.TypeOf(v)}, false), nil)
			r := rpcx.NewRouter()
			r.Handle("m", rpcx.Func(fn.Interface()))
			d := describe(t, r, &openrpc.Options{All: true, Reflector: &invopop.Reflector{}})
			data := checkDocument(t, d)
			document, err := jsonschema.UnmarshalJSON(strings.NewReader(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			c := jsonschema.NewCompiler()
			if err := c.AddResource("https://document.test/", document); err != nil {
				t.Fatal(err)
			}
			schema, err := c.Compile("https://document.test/#/methods/0/result/schema")
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(encoded)))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); err != nil {
				t.Errorf("%s: %v\n%s", encoded, err, data)
			}
			generated, err := d.Go("types")
			if err != nil {
				t.Fatal(err)
			}
			checkCode(t, generated)
		})
	}
	if len(schemaOfUser.OneOf) > 0 || schemaOfUser.Properties.Len() != 1 {
		t.Error("Describe has changed a schema of the user")
	}
}

// A field keeps the description of its type, unless the field has a description.
func TestDescribeDurations(t *testing.T) {
	type times struct {
		Wait  time.Duration  `json:"wait"`
		Limit *time.Duration `json:"limit"`
		Own   time.Duration  `json:"own" jsonschema_description:"how long"`
	}
	r := rpcx.NewRouter()
	r.Handle("a", rpcx.Func(func(times) times { return times{} }))
	d := describe(t, r, &openrpc.Options{All: true})
	params := d.Methods[0].Params
	if got := params[0].Description + params[1].Description + params[2].Description; got != "how long" {
		t.Errorf("the params are described by %q", got)
	}
	for _, p := range params[:2] {
		if want := `{"type":"integer","description":"nanoseconds"}`; string(p.Schema) != want {
			t.Errorf("param %s is %s, want %s", p.Name, p.Schema, want)
		}
	}
	if s := string(d.Components.Schemas["Times"]); strings.Count(s, "nanoseconds") != 2 || strings.Count(s, "how long") != 1 {
		t.Errorf("the result is %s", s)
	}
}
