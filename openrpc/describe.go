package openrpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"example.com/rpcx"
	"github.com/invopop/jsonschema"
)

// Options changes what [Describe] and [Discover] describe. A nil *Options is the same as
// the zero Options.
type Options struct {
	// All also describes the methods without a Doc, and methods whose Doc is not Public.
	All bool
	// Reflector, if set, makes the schemas. Describe works on a copy. The copy has the
	// fields Anonymous and DoNotReference set, and asks Mapper and Lookup first. If
	// Reflector is nil, objects may have further properties.
	Reflector *jsonschema.Reflector
}

// Describe returns the document of the methods in the tree below r. Only methods whose Doc
// is Public are described, unless opts says otherwise. If a method has several names in
// its router, as after [rpcx.Expose], Describe uses the last in the order of bytes:
// get_name instead of GetName.
//
// Describe fails if info has no Title or no Version, if JSON cannot hold a type, or if an
// example cannot be encoded.
func Describe(r *rpcx.Router, info Info, opts *Options) (*Document, error) {
	if opts == nil {
		opts = &Options{}
	}
	return describeMethods(listMethods(r, opts.All), info, opts)
}

// describedMethod is a method for a document.
type describedMethod struct {
	name    string
	handler rpcx.Handler
	doc     *rpcx.Doc // nil if there is none
}

// listMethods returns the methods below r for a document, each with one of its names.
func listMethods(r *rpcx.Router, all bool) []describedMethod {
	type place struct {
		parent  string
		handler rpcx.Handler
	}
	var methods []describedMethod
	places := make(map[place]int) // index in methods of each function
	for name, h := range r.Handlers() {
		if isDiscover(h) {
			continue
		}
		doc, _ := rpcx.DocOf(h)
		if !all && (doc == nil || !doc.Public) {
			continue
		}
		m := describedMethod{name, h, doc}
		if reflect.ValueOf(h).Comparable() {
			at := place{parentPath(name), h}
			if i, again := places[at]; again {
				if _, function := rpcx.SignatureOf(h); function { // which does not depend on the name
					methods[i].handler = nil
				}
			}
			places[at] = len(methods)
		}
		methods = append(methods, m)
	}
	return slices.DeleteFunc(methods, func(m describedMethod) bool { return m.handler == nil })
}

func parentPath(path string) string { return path[:strings.LastIndexByte(path, '/')+1] }

// sameHandler reports whether a and b are certainly the same handler.
func sameHandler(a, b rpcx.Handler) bool {
	v, w := reflect.ValueOf(a), reflect.ValueOf(b)
	if !v.Comparable() || !w.Comparable() {
		return false
	}
	return a == b
}

func describeMethods(methods []describedMethod, info Info, opts *Options) (*Document, error) {
	if info.Title == "" || info.Version == "" {
		return nil, errors.New("describe: the document needs a title and a version: set Info.Title and Info.Version")
	}
	d := &Document{OpenRPC: Version, Info: info, Methods: []*Method{}}
	d.Info.Servers = nil
	for _, url := range info.Servers {
		d.Servers = append(d.Servers, Server{URL: url})
	}
	types := newTypeSchemas(opts.Reflector)
	for _, m := range methods {
		method, err := types.describeMethod(m)
		if err != nil {
			return nil, fmt.Errorf("describe method %q: %w", m.name, err)
		}
		d.Methods = append(d.Methods, method)
	}
	var err error
	if d.Components.Schemas, err = types.components(); err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	return d, nil
}

// describeMethod describes a method. reflect and jsonschema panic for some types of users,
// and describeMethod returns the panic as an error.
func (types *typeSchemas) describeMethod(from describedMethod) (m *Method, err error) {
	m = &Method{Name: from.name, Params: []*Content{}}
	if sig, ok := rpcx.SignatureOf(from.handler); ok {
		err = types.describeSignature(m, sig)
	} else {
		m.ParamStructure, m.ParamsKind = Either, "any"
		m.Result = &Content{Name: "result", Schema: Schema("{}")}
	}
	if err == nil && from.doc != nil {
		err = m.addDoc(from.doc)
	}
	return m, err
}

func (types *typeSchemas) describeSignature(m *Method, sig *rpcx.Signature) error {
	switch {
	case sig.Object != nil:
		m.ParamStructure = ByName
	case sig.Named:
		m.ParamStructure = Either
	default:
		m.ParamStructure = ByPosition
	}
	if sig.IgnoreUnknown {
		m.ParamsKind = "open"
	}
	var err error
	if sig.Object != nil && sig.Object.Kind() == reflect.Map {
		if m.Values, err = types.schemaOf(sig.Object.Elem()); err != nil {
			return err
		}
	}
	for i, p := range sig.Params {
		c := &Content{Name: p.Name, Required: !p.Optional}
		if c.Name == "" {
			c.Name = "arg" + strconv.Itoa(i+1)
		}
		if sig.Object != nil {
			c.Schema, c.Description, err = types.schemaOfField(sig.Object, p.Name, p.Type)
		} else {
			c.Schema, err = types.schemaOf(p.Type)
		}
		if err != nil {
			return err
		}
		m.Params = append(m.Params, c)
	}
	if sig.Variadic != nil {
		c := &Content{Name: "arg" + strconv.Itoa(len(sig.Params)+1), Variadic: true}
		for slices.ContainsFunc(sig.Params, func(p rpcx.Param) bool { return p.Name == c.Name }) {
			c.Name += "_"
		}
		if c.Schema, err = types.schemaOf(sig.Variadic); err != nil {
			return err
		}
		m.Params = append(m.Params, c)
	}
	m.Result = &Content{Name: "result", Schema: Schema(`{"type":"null"}`)}
	if sig.Result != nil {
		m.Result.Schema, err = types.schemaOfResult(sig.Result)
	}
	return err
}

// addDoc adds the texts, errors and examples of doc.
func (m *Method) addDoc(doc *rpcx.Doc) error {
	m.Summary, m.Description, m.Deprecated = doc.Summary, doc.Description, doc.Deprecated
	m.Result.Description = doc.Result
	for _, name := range doc.Tags {
		if name == "" {
			return errors.New("a tag of the Doc is empty")
		}
		m.Tags = append(m.Tags, Tag{Name: name})
	}
	for _, e := range doc.Errors {
		described := Error{Code: e.Code, Message: e.Message}
		if e.Data != nil {
			data, err := json.Marshal(e.Data)
			if err != nil {
				return fmt.Errorf("data of error %d: %w", e.Code, err)
			}
			described.Data = data
		}
		m.Errors = append(m.Errors, described)
	}
	for i, e := range doc.Examples {
		example, err := m.describeExample(e)
		if err != nil {
			return fmt.Errorf("example %d, %q: %w", i+1, e.Name, err)
		}
		if example.Name == "" {
			example.Name = "example " + strconv.Itoa(i+1)
		}
		m.Examples = append(m.Examples, example)
	}
	return nil
}

func (m *Method) describeExample(e rpcx.Example) (Example, error) {
	example := Example{Name: e.Name, Params: []ExampleValue{}}
	result, err := json.Marshal(e.Result)
	if err != nil {
		return example, fmt.Errorf("result: %w", err)
	}
	example.Result = &ExampleValue{Name: "result", Value: result}
	params, err := json.Marshal(e.Params)
	if err != nil {
		return example, fmt.Errorf("params: %w", err)
	}
	args, err := parseNode(params)
	switch {
	case err != nil:
		return example, fmt.Errorf("params: %w", err)
	case args.kind == '[':
		for i, arg := range args.elements {
			example.Params = append(example.Params, ExampleValue{Name: m.paramName(i), Value: arg.raw})
		}
	case args.kind == '{':
		for _, arg := range args.members {
			if arg.key == "" {
				return example, errors.New("params: the name of an argument is empty")
			}
			example.Params = append(example.Params, ExampleValue{Name: arg.key, Value: arg.value.raw})
		}
	case string(params) != "null":
		return example, fmt.Errorf("params: %T is neither an rpcx.Args, a map nor a struct", e.Params)
	}
	return example, nil
}

// paramName returns the name for the positional argument with index i.
func (m *Method) paramName(i int) string {
	fixed, variadic := m.variadic()
	switch {
	case i < len(fixed):
		return fixed[i].Name
	case variadic != nil:
		return variadic.Name
	}
	return "arg" + strconv.Itoa(i+1)
}
