package openrpc_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx/openrpc"
)

// stubs has what generated code needs of each package that it may import. The type checker
// reads a stub in a moment, and the package itself in seconds. The generated packages of
// this module are compiled with the packages themselves.
var stubs = map[string]string{
	"context":       "package context; type Context interface{ Done() <-chan struct{} }",
	"encoding/json": "package json; type RawMessage []byte",
	"math/big":      "package big; type Int struct{ abs []uint }",
	"time":          "package time; type Time struct{ wall uint64 }",
	"example.com/rpcx": `package rpcx; import "context"
		type Router struct{ entries map[string]Handler }
		func NewRouter() *Router
		func (r *Router) Handle(method string, h Handler)
		type Handler interface{ ServeRPC(ctx context.Context, req *Request) (any, error) }
		type HandlerFunc func(ctx context.Context, req *Request) (any, error)
		func (f HandlerFunc) ServeRPC(ctx context.Context, req *Request) (any, error)
		type Request struct{ Method string }
		func Func(fn any, names ...string) Handler
		type Doc struct { Summary, Description string; Tags []string; Result string; Errors []Error; Examples []Example; Deprecated, Public bool }
		type Error struct { Code int; Message string; Data any }
		func (e *Error) Error() string
		type Example struct { Name string; Params, Result any }
		func Documented(h Handler, d Doc) Handler
		type Args []any
		type Caller interface {
			Call(ctx context.Context, method string, params, result any) error
			Notify(ctx context.Context, method string, params any) error
		}
		func Call[T any](ctx context.Context, c Caller, method string, params any) (_ T, _ error) { return }
		type Proxy struct{ path string }
		func Remote(c Caller) *Proxy
		func BindProxy(p *Proxy, client any) error
		func MethodNotFound(method string) *Error`,
}

// stubImporter imports the packages of stubs.
type stubImporter struct {
	mu       sync.Mutex
	packages map[string]*types.Package
}

var imported = &stubImporter{packages: make(map[string]*types.Package)}

func (s *stubImporter) Import(path string) (*types.Package, error) {
	if path == "example.com/rpcx" {
		if _, err := s.Import("context"); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.packages[path]; p != nil {
		return p, nil
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, stubs[path], 0)
	if err != nil {
		return nil, err
	}
	config := types.Config{Importer: importedOnly(s.packages), IgnoreFuncBodies: true}
	p, err := config.Check(path, fset, []*ast.File{file}, nil)
	s.packages[path] = p
	return p, err
}

// importedOnly imports packages that were imported before.
type importedOnly map[string]*types.Package

func (packages importedOnly) Import(path string) (*types.Package, error) { return packages[path], nil }

// checkCode fails the test if generated code does not compile, or has more than the
// declarations and imports that it should have.
func checkCode(t *testing.T, code []byte) *ast.File {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "generated.go", code, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatalf("the code does not parse: %v\n%s", err, code)
	}
	for _, i := range file.Imports {
		switch i.Path.Value {
		case `"context"`, `"encoding/json"`, `"math/big"`, `"time"`, `"example.com/rpcx"`:
		default:
			t.Errorf("the code imports %s", i.Path.Value)
		}
	}
	for _, group := range file.Comments {
		for _, c := range group.List {
			if !strings.HasPrefix(c.Text, "// ") && c.Text != "//" && !strings.HasPrefix(c.Text, "//\t") {
				t.Errorf("the comment %q could be a directive", c.Text)
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		for _, c := range []byte(identifier(id)) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
				t.Errorf("the identifier %q has other characters than ASCII letters and digits", id.Name)
			}
		}
		_, function := n.(*ast.FuncDecl)
		return !ok || !function
	})
	config := types.Config{Importer: imported, Sizes: types.SizesFor("gc", "amd64")}
	if _, err := config.Check("generated", fset, []*ast.File{file}, nil); err != nil {
		t.Errorf("the code does not compile: %v\n%s", err, code)
	}
	return file
}

func identifier(id *ast.Ident) string {
	if id == nil {
		return ""
	}
	return id.Name
}

// escapes are texts that try to leave a comment, a literal, a tag or an identifier.
var escapes = []string{
	"*/ func init() { panic(1) } /*", "\nfunc init() { panic(1) }\n", "\r\nvar x = 1", "`; var x = 1; `", `" + panic(1) + "`,
	"\u2028func init(){}", "\u202efunc", "go:generate rm", "\n//go:build ignore\n", "+build ignore", "line x.go:1", "a`b", `a\`, "a,string",
	"func", "type", "init", "main", "string", "error", "nil", "any", "_", "-", "", " ", "0", "9lives", "é", "名前", "𝔘", "Client", "Service", "NewClient",
	"NewHandler", "Unimplemented", "ctx", "context", "rpcx", "json", "caller", "Caller", "A", "a", "A2", "a2", "A_2", strings.Repeat("long", 100), "*", "...", "a?",
	"json:\"x\"", "\x00", "\x7f", "\ufeff", "\ufffd", "<script>alert(1)</script>", "Export", "export X", "cgo LDFLAGS: -x", "Output: x",
}

// hostileDocument returns a document with text in each place that takes any text.
func hostileDocument(text, other string) []byte {
	q := func(s string) string {
		data, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return string(data)
	}
	a, b := q(text), q(other)
	ref := q("#/components/schemas/" + strings.NewReplacer("~", "~0", "/", "~1", "%", "%25").Replace(text))
	return fmt.Appendf(nil, `{"openrpc":"1.3.2","info":{"title":%[1]s,"version":%[1]s,"description":%[1]s},"methods":[
		{"name":%[1]s,"summary":%[1]s,"description":%[2]s,"tags":[{"name":%[1]s}],"paramStructure":"by-position",
		 "params":[{"name":%[1]s,"description":%[1]s,"schema":{"$ref":%[3]s},"required":true},{"name":%[2]s,"schema":{"type":"string"}}],
		 "result":{"name":%[1]s,"description":%[1]s,"schema":{"$ref":%[3]s}},
		 "errors":[{"code":1,"message":%[1]s,"data":%[1]s}],"deprecated":true,
		 "examples":[{"name":%[1]s,"params":[{"name":%[1]s,"value":%[1]s}],"result":{"name":%[1]s,"value":{%[1]s:%[1]s}}}]},
		{"name":%[2]s,"paramStructure":"either","params":[{"name":%[1]s,"schema":{"$ref":%[3]s},"required":true},{"name":%[2]s,"schema":{}}],
		 "examples":[{"name":%[1]s,"params":[{"name":%[1]s,"value":1}]}]}],
		"components":{"schemas":{
		 %[1]s:{"title":%[1]s,"description":%[1]s,"type":"object","required":[%[1]s],"properties":{
		   %[1]s:{"description":%[1]s,"$ref":%[3]s},%[2]s:{"type":"string","description":%[1]s},"both":{"enum":[%[1]s,%[2]s]}}},
		 %[2]s:{"type":"string","enum":[%[1]s,%[2]s,"x"],"description":%[1]s}}}}`, a, b, ref)
}

// A document whose texts try to become code makes code that compiles and holds nothing of
// the texts outside of literals and comments, or is refused.
func TestHostileDocuments(t *testing.T) {
	made := 0
	for i, text := range escapes {
		d, err := openrpc.Parse(hostileDocument(text, escapes[(i+1)%len(escapes)]+"!"))
		if err != nil {
			continue
		}
		code, err := d.Go("hostile")
		if err != nil {
			continue
		}
		made++
		file := checkCode(t, code)
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && !strings.HasPrefix(f.Name.Name, "New") {
				t.Errorf("%q makes the function %s", text, f.Name.Name)
			}
		}
	}
	if made < len(escapes)/2 {
		t.Errorf("only %d of %d documents make code", made, len(escapes))
	}
	t.Logf("%d of %d documents make code", made, len(escapes))
}

// Schemas that contain each other, or only themselves, make types that Go accepts.
func TestSchemaCircles(t *testing.T) {
	for name, schemas := range map[string]string{
		"itself":                   `"a":{"$ref":"#/components/schemas/a"}`,
		"aliases":                  `"a":{"$ref":"#/components/schemas/b"},"b":{"$ref":"#/components/schemas/a"}`,
		"a struct in itself":       `"a":{"properties":{"a":{"$ref":"#/components/schemas/a"}},"required":["a"]}`,
		"structs in each other":    `"a":{"properties":{"b":{"$ref":"#/components/schemas/b"}},"required":["b"]},"b":{"properties":{"c":{"properties":{"a":{"$ref":"#/components/schemas/a"}},"required":["a"]}},"required":["c"]}`,
		"through an alias":         `"a":{"properties":{"b":{"$ref":"#/components/schemas/b"}},"required":["b"]},"b":{"$ref":"#/components/schemas/a"}`,
		"through allOf":            `"a":{"properties":{"b":{"allOf":[{"$ref":"#/components/schemas/a"}]}},"required":["b"]}`,
		"a list of itself":         `"a":{"type":"array","items":{"$ref":"#/components/schemas/a"}}`,
		"a fixed list of itself":   `"a":{"type":"array","items":{"$ref":"#/components/schemas/a"},"minItems":2,"maxItems":2}`,
		"a map of itself":          `"a":{"type":"object","additionalProperties":{"$ref":"#/components/schemas/a"}}`,
		"null or itself":           `"a":{"oneOf":[{"$ref":"#/components/schemas/a"},{"type":"null"}]}`,
		"null or each other":       `"a":{"anyOf":[{"type":"null"},{"$ref":"#/components/schemas/b"}]},"b":{"anyOf":[{"type":"null"},{"$ref":"#/components/schemas/a"}]}`,
		"null or an alias of it":   `"a":{"anyOf":[{"type":"null"},{"$ref":"#/components/schemas/b"}]},"b":{"$ref":"#/components/schemas/a"}`,
		"a struct in a null":       `"a":{"oneOf":[{"properties":{"a":{"$ref":"#/components/schemas/a"}},"required":["a"]},{"type":"null"}]}`,
		"a list of struct of list": `"a":{"type":"array","items":{"properties":{"a":{"$ref":"#/components/schemas/a"}},"required":["a"]}}`,
		"types as a list":          `"a":{"type":["object","null"],"properties":{"a":{"$ref":"#/components/schemas/a"}},"required":["a"]}`,
		"a huge array":             `"a":{"type":"array","items":{"type":"string"},"minItems":1000000000000,"maxItems":1000000000000}`,
	} {
		t.Run(name, func(t *testing.T) {
			d, err := openrpc.Parse(document(`{"name":"m","params":[{"name":"p","required":true,"schema":{"$ref":"#/components/schemas/a"}}],
				"result":{"name":"r","schema":{"$ref":"#/components/schemas/a"}}}`, `"schemas":{`+schemas+`}`))
			if err != nil {
				t.Fatal(err)
			}
			code, err := d.Go("circles")
			if err != nil {
				t.Fatal(err)
			}
			checkCode(t, code)
		})
	}
}

// Whatever the document, generated code compiles.
func FuzzGo(f *testing.F) {
	for _, name := range []string{"testdata/shop.json", "testdata/minecraft.json"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for i, text := range escapes {
		f.Add(hostileDocument(text, escapes[(i+7)%len(escapes)]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := openrpc.Parse(data)
		if err != nil {
			return
		}
		code, err := d.Go("fuzzed")
		if err != nil {
			if strings.Contains(err.Error(), "generated.go") || strings.Contains(err.Error(), "expected") {
				t.Fatalf("the code does not parse: %v", err)
			}
			return
		}
		checkCode(t, code)
	})
}

// Whatever the two texts, generated code compiles.
func FuzzGoTexts(f *testing.F) {
	for i, text := range escapes {
		f.Add(text, escapes[(i+11)%len(escapes)])
	}
	f.Fuzz(func(t *testing.T, text, other string) {
		d, err := openrpc.Parse(hostileDocument(text, other))
		if err != nil {
			return
		}
		if code, err := d.Go("fuzzed"); err == nil {
			checkCode(t, code)
		} else if strings.Contains(err.Error(), "expected") {
			t.Fatalf("the code does not parse: %v", err)
		}
	})
}
