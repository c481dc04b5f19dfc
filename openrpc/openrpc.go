// Package openrpc describes the methods of a [rpcx.Router] as an OpenRPC document, and
// makes Go code and a page for people from such a document.
//
//	router := rpcx.NewRouter()
//	router.Handle("greet", rpcx.Documented(rpcx.Func(greet, "name"), rpcx.Doc{
//		Summary: "Says hello",
//		Public:  true,
//	}))
//	info := openrpc.Info{Title: "Greeter", Version: "1.0.0"}
//	router.Handle("rpc.discover", openrpc.Discover(router, info, nil))
//
// [Describe] makes the document, and [Discover] serves it to peers. [Parse] reads the
// document of another program. [Document.Go] generates Go code from a document: types, an
// interface for a server, and a client.
//
// # What a document says
//
// A document has version 1.3.2 of OpenRPC. The names, types and order of the params come
// from the signature of the handler, and the texts come from its [rpcx.Doc]. A function
// whose parameters have no names has the params arg1, arg2 and so on, by position.
//
// JSON Schema describes each type, as encoding/json encodes values of the type. A named
// struct, map, slice or array has a schema of its own under components. A type that
// encodes itself as text is a string. A type that encodes itself as JSON can be any value,
// unless the type has a method JSONSchema() *jsonschema.Schema.
//
// Some functions take arguments that OpenRPC has no words for. Four extensions describe
// them, and other programs ignore the extensions:
//
//	x-rpcx-params: "any"   the method takes any params: its handler is not of rpcx.Func
//	x-rpcx-params: "open"  the method ignores further named arguments
//	x-rpcx-values          the schema of arguments, which have any name
//	x-rpcx-variadic        on the last param: the param can be repeated
//
// # Documents of strangers
//
// A document may come from a program that nobody trusts. [Parse] and [Document.Go] refuse
// what they cannot use, with an error that names the method or schema. In generated code,
// names from the document are checked identifiers or quoted literals, and texts are
// comments of one line each.
package openrpc

import "encoding/json"

// Version is the version of OpenRPC of each Document that [Describe] makes.
const Version = "1.3.2"

// Document is an OpenRPC document, without references outside of schemas. A Document can be
// encoded with encoding/json.
type Document struct {
	OpenRPC    string     `json:"openrpc"`
	Info       Info       `json:"info"`
	Servers    []Server   `json:"servers,omitempty"`
	Methods    []*Method  `json:"methods"`
	Components Components `json:"components,omitzero"`
}

// Info says what a Document describes.
type Info struct {
	Title       string `json:"title"`
	Version     string `json:"version"` // of the described program
	Description string `json:"description,omitempty"`
	// Servers lists URLs of the program, for [Describe]. In a Document, Servers is nil, and
	// Document.Servers has the URLs.
	Servers []string `json:"-"`
}

// Server is a place where the methods can be called.
type Server struct {
	URL         string `json:"url"`
	Name        string `json:"name,omitempty"`
	Summary     string `json:"summary,omitempty"`
	Description string `json:"description,omitempty"`
}

// Components holds the schemas of a Document by name.
type Components struct {
	Schemas map[string]Schema `json:"schemas,omitempty"`
}

// Schema is a JSON Schema. References in a Schema begin with "#/components/schemas/".
type Schema = json.RawMessage

// Method describes a method.
type Method struct {
	Name        string `json:"name"`
	Summary     string `json:"summary,omitempty"`
	Description string `json:"description,omitempty"`
	Tags        []Tag  `json:"tags,omitempty"`
	// ParamStructure says how arguments are passed: one of ByName, ByPosition and Either.
	// "" means Either.
	ParamStructure string     `json:"paramStructure,omitempty"`
	Params         []*Content `json:"params"`
	Result         *Content   `json:"result,omitempty"` // nil for a notification
	Errors         []Error    `json:"errors,omitempty"`
	Examples       []Example  `json:"examples,omitempty"`
	Deprecated     bool       `json:"deprecated,omitempty"`

	// ParamsKind is "any", "open" or "". The package comment has the meaning of the
	// extension.
	ParamsKind string `json:"x-rpcx-params,omitempty"`
	// Values, if not nil, is the schema of arguments of any name.
	Values Schema `json:"x-rpcx-values,omitempty"`
}

// The values of [Method].ParamStructure.
const (
	ByName     = "by-name"
	ByPosition = "by-position"
	Either     = "either"
)

// Tag is the name of a group of methods.
type Tag struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

// Content describes a param or a result.
type Content struct {
	Name        string `json:"name"`
	Summary     string `json:"summary,omitempty"`
	Description string `json:"description,omitempty"`
	Required    bool   `json:"required,omitempty"`
	Schema      Schema `json:"schema"`
	Deprecated  bool   `json:"deprecated,omitempty"`
	Variadic    bool   `json:"x-rpcx-variadic,omitempty"` // the param can be repeated
}

// Error is an error that a method may return.
type Error struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// Example is a call of a method and its result.
type Example struct {
	Name        string         `json:"name"`
	Summary     string         `json:"summary,omitempty"`
	Description string         `json:"description,omitempty"`
	Params      []ExampleValue `json:"params"`
	Result      *ExampleValue  `json:"result,omitempty"`
}

// ExampleValue is an argument or a result of an Example. The name of an argument is the
// name of its param.
type ExampleValue struct {
	Name        string          `json:"name"`
	Summary     string          `json:"summary,omitempty"`
	Description string          `json:"description,omitempty"`
	Value       json.RawMessage `json:"value"`
}

// structure returns how arguments of m are passed.
func (m *Method) structure() string {
	if m.ParamStructure == "" {
		return Either
	}
	return m.ParamStructure
}

// variadic returns the last param if it can be repeated, or nil. fixed are the params
// before.
func (m *Method) variadic() (fixed []*Content, variadic *Content) {
	if n := len(m.Params); n > 0 && m.Params[n-1].Variadic {
		return m.Params[:n-1], m.Params[n-1]
	}
	return m.Params, nil
}
