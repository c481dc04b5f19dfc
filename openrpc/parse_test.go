package openrpc_test

import (
	"fmt"
	"strings"
	"testing"

	"example.com/rpcx/openrpc"
)

// document returns a document with the given methods and components.
func document(methods, components string) []byte {
	return fmt.Appendf(nil, `{"openrpc":"1.2.6","info":{"title":"t","version":"1"},"methods":[%s],"components":{%s}}`, methods, components)
}

func TestParseReferences(t *testing.T) {
	d, err := openrpc.Parse(document(`
		{"name": "a", "params": [{"$ref": "#/components/contentDescriptors/x~1y"}], "result": {"$ref": "#/components/contentDescriptors/alias"},
		 "errors": [{"$ref": "#/components/errors/full"}], "tags": [{"$ref": "#/components/tags/t%20t"}, {"name": "own"}],
		 "examples": [{"$ref": "#/components/examplePairings/e"}]},
		{"name": "b", "params": [{"$ref": "#/components/contentDescriptors/x~1y"}]}`, `
		"contentDescriptors": {"x/y": {"name": "x", "schema": true, "required": true}, "alias": {"$ref": "#/components/contentDescriptors/x~1y"}},
		"errors": {"full": {"code": -1, "message": "full"}}, "tags": {"t t": {"name": "shared"}},
		"examplePairings": {"e": {"name": "e", "params": [{"$ref": "#/components/examples/one"}], "result": {"name": "r", "value": null}}},
		"examples": {"one": {"name": "x", "value": 1}}`))
	if err != nil {
		t.Fatal(err)
	}
	a := d.Methods[0]
	if a.Params[0].Name != "x" || !a.Params[0].Required || a.Result.Name != "x" || a.Errors[0].Code != -1 ||
		a.Tags[0].Name != "shared" || a.Tags[1].Name != "own" || string(a.Examples[0].Params[0].Value) != "1" || d.Methods[1].Result != nil {
		t.Errorf("the methods are %+v", d.Methods)
	}
	checkDocument(t, d)
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, doc, want string }{
		{"no JSON", `{`, "unexpected end"},
		{"no version", `{"methods":[]}`, `no member "openrpc"`},
		{"a whole reply", `{"jsonrpc":"2.0","id":1,"result":{}}`, "without the reply around it"},
		{"a list", `[]`, "a JSON array stands where an object is needed"},
		{"methods as an object", `{"openrpc":"1.0.0","methods":{}}`, `the member "methods" is a JSON object, and not a list`},
		{"a number as a name", string(document(`{"name":7}`, "")), `the member "name" is a JSON number, and not a string`},
		{"a param as a text", string(document(`{"name":"m","params":["a"]}`, "")), "params: 0: a JSON string stands where an object is needed"},
		{"a code as a text", string(document(`{"name":"m","params":[],"errors":[{"code":"7"}]}`, "")), `the member "code" is a JSON string, and not a whole number`},
		{"version 2", `{"openrpc":"2.0.0","methods":[]}`, "not a version 1"},
		{"no methods", `{"openrpc":"1.0.0"}`, `no member "methods"`},
		{"a method without a name", string(document(`{"params":[]}`, "")), "method 0: the name is missing"},
		{"two methods of a name", string(document(`{"name":"m","params":[]},{"name":"m","params":[]}`, "")), `two methods are named "m"`},
		{"two params of a name", string(document(`{"name":"m","params":[{"name":"a"},{"name":"a"}]}`, "")), `two are named "a"`},
		{"a param without a name", string(document(`{"name":"m","params":[{}]}`, "")), "the name of param 0"},
		{"a wrong structure", string(document(`{"name":"m","params":[],"paramStructure":"any"}`, "")), `"any" is none of by-name`},
		{"a reference to a file", string(document(`{"$ref":"file:///etc/passwd"}`, "")), "does not begin with #/components/methods/"},
		{"a reference to nothing", string(document(`{"name":"m","params":[{"$ref":"#/components/contentDescriptors/x"}]}`, "")), "leads nowhere"},
		{"a circle", string(document(`{"name":"m","params":[{"$ref":"#/components/contentDescriptors/x"}]}`,
			`"contentDescriptors":{"x":{"$ref":"#/components/contentDescriptors/y"},"y":{"$ref":"#/components/contentDescriptors/x"}}`)), "leads back to itself"},
	} {
		if _, err := openrpc.Parse([]byte(c.doc)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Many references to one large component are refused before they take memory.
func TestParseBoundsReferences(t *testing.T) {
	var methods []string
	for i := range 1000 {
		methods = append(methods, fmt.Sprintf(`{"name":"m%d","params":[{"$ref":"#/components/contentDescriptors/x"}]}`, i))
	}
	doc := document(strings.Join(methods, ","), `"contentDescriptors":{"x":{"name":"x","schema":{"description":"`+strings.Repeat("x", 20000)+`"}}}`)
	if _, err := openrpc.Parse(doc); err == nil || !strings.Contains(err.Error(), "Parser.MaxExpanded") {
		t.Errorf("20 MB of components: %v", err)
	}
	for _, limit := range []int{-1, 30 << 20} {
		parser := openrpc.Parser{MaxExpanded: limit}
		if _, err := parser.Parse(doc); err != nil {
			t.Errorf("with the limit %d: %v", limit, err)
		}
	}
}

func TestGoRefuses(t *testing.T) {
	method := func(param string) []byte {
		return document(`{"name":"m","paramStructure":"by-name","params":[`+param+`]}`, "")
	}
	for _, c := range []struct {
		name, pkg string
		doc       []byte
		want      string
	}{
		{"a keyword as the package", "func", document("", ""), "not the name of a package"},
		{"code as the package", "a;import \"os\"", document("", ""), "not the name of a package"},
		{"a param that cannot be a field", "p", method(`{"name":"a\"b","schema":{}}`), "takes no such name"},
		{"a schema that refers to nothing", "p", method(`{"name":"a","schema":{"$ref":"#/components/schemas/none"}}`), "leads nowhere"},
		{"a schema of another document", "p", method(`{"name":"a","schema":{"$ref":"https://example.com/"}}`), "does not begin with"},
		{"a deep schema", "p", method(`{"name":"a","schema":` + strings.Repeat(`{"items":`, 200) + "{}" + strings.Repeat("}", 200) + "}"), "100 levels"},
		{"a param without a schema", "p", method(`{"name":"a"}`), `param "a": the schema is missing`},
	} {
		d, err := openrpc.Parse(c.doc)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if _, err := d.Go(c.pkg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// An element of a list takes more memory than its text. A list that is longer than the
// limit is refused before its elements are decoded, also where references lead to it often.
func TestParseBoundsElements(t *testing.T) {
	elements := strings.Repeat("{},", 200) + "{}"
	for name, doc := range map[string][]byte{
		"params":    document(`{"name":"m","params":[`+elements+`]}`, ""),
		"tags":      document(`{"name":"m","params":[],"tags":[`+elements+`]}`, ""),
		"errors":    document(`{"name":"m","params":[],"errors":[`+elements+`]}`, ""),
		"examples":  document(`{"name":"m","params":[],"examples":[`+elements+`]}`, ""),
		"arguments": document(`{"name":"m","params":[],"examples":[{"params":[`+elements+`]}]}`, ""),
		"servers":   []byte(`{"openrpc":"1.0.0","servers":[` + elements + `],"methods":[]}`),
		"references": document(`{"name":"m","params":[],"examples":[`+strings.Repeat(`{"$ref":"#/components/examplePairings/a"},`, 10)+`{}]}`,
			`"examplePairings":{"a":{"params":[`+strings.Repeat("{},", 20)+`{}]}}`),
	} {
		parser := openrpc.Parser{MaxExpanded: 20_000}
		if _, err := parser.Parse(doc); err == nil || !strings.Contains(err.Error(), "more than 20000 bytes: raise Parser.MaxExpanded") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := openrpc.Parse(document(`{"name":"m","params":[],"tags":[`+elements+`]}`, "")); err != nil {
		t.Errorf("with the default: %v", err)
	}
}

// A Document that was not parsed is checked before it becomes code.
func TestGoChecksMethods(t *testing.T) {
	schema := openrpc.Schema("{}")
	for want, methods := range map[string][]*openrpc.Method{
		"method 0: the name is missing":      {nil},
		"method 1: the name is missing":      {{Name: "a"}, {}},
		`two methods are named "a"`:          {{Name: "a"}, {Name: "a"}},
		`"a": params: the name of param 0`:   {{Name: "a", Params: []*openrpc.Content{nil}}},
		`"a": params: two are named "x"`:     {{Name: "a", Params: []*openrpc.Content{{Name: "x", Schema: schema}, {Name: "x", Schema: schema}}}},
		`"a": paramStructure "x" is none of`: {{Name: "a", ParamStructure: "x"}},
		`"a": result: the schema is missing`: {{Name: "a", Result: &openrpc.Content{}}},
	} {
		d := &openrpc.Document{Methods: methods}
		if _, err := d.Go("p"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
