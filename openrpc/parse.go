package openrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"reflect"
	"slices"
	"strings"
)

// Parse reads an OpenRPC document of any version 1.x. References to components are
// resolved, except within schemas. Parse keeps neither the extensions of other programs
// nor links and external documentation.
//
// Parse fails if two methods or two params of a method have the same name, or if a
// reference leads nowhere. Parse follows only references within the document, and decodes
// each component once. [Parser] has a limit for what many references lead to.
func Parse(data []byte) (*Document, error) { return new(Parser).Parse(data) }

// DefaultMaxExpanded is the default of [Parser].MaxExpanded.
const DefaultMaxExpanded = 16 << 20

// Parser is [Parse] with another limit. The zero Parser has the limit of Parse.
type Parser struct {
	// MaxExpanded bounds the size in bytes of all components together, each as often as
	// references lead to it. A small document whose references lead to one large component
	// would become large when it is encoded, or becomes code. Each server, param, tag,
	// error and example adds 128 bytes, because {} in a list takes more memory than text.
	// 0 means [DefaultMaxExpanded], and a negative value means no limit.
	MaxExpanded int
}

// Parse reads a document, as the function [Parse] does.
func (p *Parser) Parse(data []byte) (*Document, error) {
	limit := p.MaxExpanded
	switch {
	case limit == 0:
		limit = DefaultMaxExpanded
	case limit < 0:
		limit = math.MaxInt
	}
	d, err := parseDocument(data, limit)
	if err != nil {
		return nil, fmt.Errorf("parse OpenRPC document: %w", err)
	}
	return d, nil
}

// writtenDocument is a document before references are resolved.
type writtenDocument struct {
	Document
	Servers    []json.RawMessage                     `json:"servers"`
	Methods    []json.RawMessage                     `json:"methods"`
	Components map[string]map[string]json.RawMessage `json:"components"`
}

// writtenMethod is a method before references are resolved.
type writtenMethod struct {
	Method
	Tags     []json.RawMessage `json:"tags"`
	Params   []json.RawMessage `json:"params"`
	Result   json.RawMessage   `json:"result"`
	Errors   []json.RawMessage `json:"errors"`
	Examples []json.RawMessage `json:"examples"`
}

// writtenExample is an example before references are resolved.
type writtenExample struct {
	Example
	Params []json.RawMessage `json:"params"`
	Result json.RawMessage   `json:"result"`
}

func parseDocument(data []byte, maxExpanded int) (*Document, error) {
	var written writtenDocument
	if err := decode(data, &written); err != nil {
		return nil, err
	}
	d := &written.Document
	switch {
	case d.OpenRPC == "":
		return nil, errors.New(`there is no member "openrpc" with a version: a document is the result of rpc.discover, without the reply around it`)
	case !strings.HasPrefix(d.OpenRPC, "1."):
		return nil, fmt.Errorf("version %.20q is not a version 1 of OpenRPC", d.OpenRPC)
	case written.Methods == nil:
		return nil, errors.New(`there is no member "methods"`)
	}
	d.Components.Schemas = written.Components["schemas"]
	resolver := &resolver{written.Components, make(map[string]any), maxExpanded, maxExpanded}
	servers, err := resolveAll[Server](resolver, "servers", written.Servers)
	if err != nil {
		return nil, fmt.Errorf("servers: %w", err)
	}
	d.Servers = dereference(servers)
	d.Methods = make([]*Method, 0, len(written.Methods))
	names := make(map[string]bool, len(written.Methods))
	for i, raw := range written.Methods {
		m, err := resolver.parseMethod(raw)
		if err != nil {
			return nil, fmt.Errorf("method %d: %w", i, err)
		}
		if names[m.Name] {
			return nil, fmt.Errorf("two methods are named %.100q", m.Name)
		}
		names[m.Name] = true
		d.Methods = append(d.Methods, m)
	}
	return d, nil
}

func (r *resolver) parseMethod(raw json.RawMessage) (*Method, error) {
	written, err := resolve[writtenMethod](r, "methods", raw)
	if err != nil {
		return nil, err
	}
	m := written.Method // a copy, because another reference may lead to the same component
	if m.Name == "" {
		return nil, errNoMethodName
	}
	if err := r.completeMethod(&m, written); err != nil {
		return nil, fmt.Errorf("%.100q: %w", m.Name, err)
	}
	return &m, nil
}

var errNoMethodName = errors.New("the name is missing or empty")

// check returns an error if m is not a method for code, or for a document.
func (m *Method) check() error {
	switch m.structure() {
	case ByName, ByPosition, Either:
	default:
		return fmt.Errorf("paramStructure %.100q is none of %s, %s and %s", m.ParamStructure, ByName, ByPosition, Either)
	}
	names := make(map[string]bool, len(m.Params))
	for i, p := range m.Params {
		switch {
		case p == nil || p.Name == "":
			return fmt.Errorf("params: the name of param %d is missing or empty", i)
		case names[p.Name]:
			return fmt.Errorf("params: two are named %.100q", p.Name)
		case p.Variadic && i < len(m.Params)-1:
			return fmt.Errorf("params: %.100q is repeated, but is not the last", p.Name)
		}
		names[p.Name] = true
	}
	return nil
}

// completeMethod resolves the parts of a method.
func (r *resolver) completeMethod(m *Method, written *writtenMethod) error {
	var err error
	if m.Params, err = resolveAll[Content](r, "contentDescriptors", written.Params); err != nil {
		return fmt.Errorf("params: %w", err)
	}
	if err := m.check(); err != nil {
		return err
	}
	if len(written.Result) > 0 && string(written.Result) != "null" {
		if m.Result, err = resolve[Content](r, "contentDescriptors", written.Result); err != nil {
			return fmt.Errorf("result: %w", err)
		}
	}
	tags, err := resolveAll[Tag](r, "tags", written.Tags)
	if err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	m.Tags = dereference(tags)
	failures, err := resolveAll[Error](r, "errors", written.Errors)
	if err != nil {
		return fmt.Errorf("errors: %w", err)
	}
	m.Errors = dereference(failures)
	if err := r.count(len(written.Examples) * elementSize); err != nil {
		return fmt.Errorf("examples: %w", err)
	}
	for i, raw := range written.Examples {
		example, err := r.parseExample(raw)
		if err != nil {
			return fmt.Errorf("example %d: %w", i, err)
		}
		m.Examples = append(m.Examples, *example)
	}
	return nil
}

func (r *resolver) parseExample(raw json.RawMessage) (*Example, error) {
	written, err := resolve[writtenExample](r, "examplePairings", raw)
	if err != nil {
		return nil, err
	}
	example := written.Example
	params, err := resolveAll[ExampleValue](r, "examples", written.Params)
	if err != nil {
		return nil, err
	}
	example.Params = dereference(params)
	if len(written.Result) > 0 && string(written.Result) != "null" {
		example.Result, err = resolve[ExampleValue](r, "examples", written.Result)
	}
	return &example, err
}

// resolver finds components.
type resolver struct {
	components map[string]map[string]json.RawMessage
	decoded    map[string]any // by reference; nil while the component is being decoded
	limit      int            // Parser.MaxExpanded
	left       int            // how much of limit is left
}

// elementSize is what an element of a list counts of the limit, beside its text.
const elementSize = 128

// count counts n more bytes, and fails if the limit is reached.
func (r *resolver) count(n int) error {
	if r.left -= n; r.left < 0 {
		return fmt.Errorf("the elements of lists, and the components to which references lead, are more than %d bytes: raise Parser.MaxExpanded", r.limit)
	}
	return nil
}

// resolve decodes raw, or the component of the given kind to which raw refers. The caller
// must not change the result, which other references share.
func resolve[T any](r *resolver, kind string, raw json.RawMessage) (*T, error) {
	var reference struct {
		Ref *string `json:"$ref"`
	}
	if err := decode(raw, &reference); err != nil {
		return nil, err
	}
	if reference.Ref == nil {
		v := new(T)
		return v, decode(raw, v)
	}
	ref := *reference.Ref
	name, err := componentName(ref, kind)
	if err != nil {
		return nil, err
	}
	component, ok := r.components[kind][name]
	if !ok {
		return nil, fmt.Errorf("the reference %.100q leads nowhere", ref)
	}
	if err := r.count(len(component)); err != nil {
		return nil, err
	}
	key := kind + "/" + name
	if v, ok := r.decoded[key]; ok {
		if v, ok := v.(*T); ok {
			return v, nil
		}
		return nil, fmt.Errorf("the reference %.100q leads back to itself", ref)
	}
	r.decoded[key] = nil
	v, err := resolve[T](r, kind, component)
	if err != nil {
		return nil, err
	}
	r.decoded[key] = v
	return v, nil
}

// decode is json.Unmarshal with errors in words of JSON instead of Go.
func decode(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	want := "an object"
	switch wrong.Type.Kind() {
	case reflect.Slice:
		want = "a list"
	case reflect.String:
		want = "a string"
	case reflect.Bool:
		want = "a boolean"
	case reflect.Int:
		want = "a whole number"
	}
	field := wrong.Field[strings.LastIndexByte(wrong.Field, '.')+1:]
	if field == "" {
		return fmt.Errorf("a JSON %s stands where %s is needed", wrong.Value, want)
	}
	return fmt.Errorf("the member %.100q is a JSON %s, and not %s", field, wrong.Value, want)
}

// componentName returns the name in a reference to a component of the given kind.
func componentName(ref, kind string) (string, error) {
	name, ok := strings.CutPrefix(ref, "#/components/"+kind+"/")
	if !ok || strings.Contains(name, "/") {
		return "", fmt.Errorf("the reference %.100q does not begin with #/components/%s/ and end with a name", ref, kind)
	}
	name, err := url.PathUnescape(name)
	if err != nil {
		return "", fmt.Errorf("the reference %.100q has a wrong %%", ref)
	}
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(name), nil
}

// resolveAll resolves each element of a list. The result is never nil.
func resolveAll[T any](r *resolver, kind string, list []json.RawMessage) ([]*T, error) {
	if err := r.count(len(list) * elementSize); err != nil {
		return nil, err
	}
	values := make([]*T, 0, len(list))
	for i, raw := range list {
		v, err := resolve[T](r, kind, raw)
		if err != nil {
			return nil, fmt.Errorf("%d: %w", i, err)
		}
		values = append(values, v)
	}
	return values, nil
}

func dereference[T any](list []*T) []T {
	if len(list) == 0 {
		return nil
	}
	values := make([]T, 0, len(list))
	for _, v := range list {
		values = append(values, *v)
	}
	return values
}

// maxDepth bounds the depth of a schema and of an example.
const maxDepth = 100

// node is a JSON value whose objects keep the order of their members.
type node struct {
	kind     byte // '{', '[', '"', '0' for a number, 't' for a boolean, 'n' for null
	raw      json.RawMessage
	text     string // of a string or number
	truth    bool
	members  []member
	elements []*node
}

type member struct {
	key   string
	value *node
}

// parseNode parses a schema or another JSON value, of at most maxDepth levels.
func parseNode(data []byte) (*node, error) {
	if len(data) == 0 {
		return nil, errors.New("the schema is missing")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	n, err := decodeNode(dec, data, maxDepth)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the value")
	}
	return n, nil
}

func decodeNode(dec *json.Decoder, data []byte, depth int) (*node, error) {
	if depth == 0 {
		return nil, fmt.Errorf("more than %d levels of JSON: write parts of a schema under components", maxDepth)
	}
	start := dec.InputOffset()
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	n := new(node)
	switch token := token.(type) {
	case json.Delim:
		n.kind = byte(token)
		for dec.More() {
			var key string
			if n.kind == '{' {
				name, err := dec.Token()
				if err != nil {
					return nil, err
				}
				key, _ = name.(string)
			}
			value, err := decodeNode(dec, data, depth-1)
			if err != nil {
				return nil, err
			}
			if n.kind == '{' {
				n.members = append(n.members, member{key, value})
			} else {
				n.elements = append(n.elements, value)
			}
		}
		if _, err := dec.Token(); err != nil { // the end of the object or array
			return nil, err
		}
	case string:
		n.kind, n.text = '"', token
	case json.Number:
		n.kind, n.text = '0', token.String()
	case bool:
		n.kind, n.truth = 't', token
	default:
		n.kind = 'n'
	}
	n.raw = bytes.TrimLeft(data[start:dec.InputOffset()], " \t\r\n,:")
	return n, nil
}

// get returns the value of the last member with the given key, or nil.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for _, m := range slices.Backward(n.members) {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

// textOf returns the string under key, or "".
func (n *node) textOf(key string) string {
	if v := n.get(key); v != nil && v.kind == '"' {
		return v.text
	}
	return ""
}
