package openrpc

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/rpcx"
	"github.com/invopop/jsonschema"
)

const schemaPrefix = "#/components/schemas/"

// typeSchemas makes the schemas of Go types for one document. A named type is described
// once, under components, and its other places refer to the component.
type typeSchemas struct {
	reflector *jsonschema.Reflector
	mapper    func(reflect.Type) *jsonschema.Schema // of the user, or nil
	lookup    func(reflect.Type) jsonschema.ID      // of the user, or nil
	names     map[reflect.Type]string               // names of components
	types     map[string]reflect.Type               // the reverse of names
	pending   []reflect.Type                        // components without a schema yet
	objects   map[reflect.Type]*jsonschema.Schema   // of structs with params as fields

	root        reflect.Type // the type that the reflector describes now
	rootLookups int          // how often the reflector has looked up root
}

func newTypeSchemas(from *jsonschema.Reflector) *typeSchemas {
	r := &jsonschema.Reflector{AllowAdditionalProperties: true}
	if from != nil {
		*r = *from
	}
	types := &typeSchemas{
		reflector: r, mapper: r.Mapper, lookup: r.Lookup,
		names: make(map[reflect.Type]string), types: make(map[string]reflect.Type),
		objects: make(map[reflect.Type]*jsonschema.Schema),
	}
	r.Anonymous, r.DoNotReference = true, true
	r.Lookup = types.referTo
	r.Mapper = func(t reflect.Type) *jsonschema.Schema {
		if s := types.mapType(t); s != nil {
			return s
		}
		if s := types.flatSchema(t); s != nil {
			return s
		}
		return types.mapSchema(t)
	}
	return types
}

// components returns the schemas of all types that were referred to.
func (types *typeSchemas) components() (map[string]Schema, error) {
	schemas := make(map[string]Schema)
	for len(types.pending) > 0 {
		t := types.pending[0]
		types.pending = types.pending[1:]
		s, err := types.reflectType(t)
		if err != nil {
			return nil, err
		}
		if schemas[types.names[t]], err = encodeSchema(s); err != nil {
			return nil, err
		}
	}
	return schemas, nil
}

// schemaOf returns the schema of a value of type t, or of *t.
func (types *typeSchemas) schemaOf(t reflect.Type) (Schema, error) {
	s, err := types.inlineSchema(t)
	if err != nil {
		return nil, err
	}
	return encodeSchema(s)
}

// schemaOfResult is schemaOf, except that a pointer may be null.
func (types *typeSchemas) schemaOfResult(t reflect.Type) (Schema, error) {
	s, err := types.inlineSchema(t)
	if err != nil {
		return nil, err
	}
	if t.Kind() == reflect.Pointer {
		s = orNull(s)
	}
	return encodeSchema(s)
}

// schemaOfField returns the schema and the description of the param with the given name,
// which is a field of the struct type object. The tags of the field count.
func (types *typeSchemas) schemaOfField(object reflect.Type, name string, t reflect.Type) (s Schema, description string, err error) {
	all := types.objects[object]
	if all == nil {
		if all, err = types.reflectStruct(object); err != nil {
			return nil, "", err
		}
		types.objects[object] = all
	}
	if all.Properties != nil {
		if property, ok := all.Properties.Get(name); ok {
			copied := *property // without the text, which describes the param
			copied.Description = ""
			types.allowNullWithin(&copied, t)
			describeMapped(&copied, t)
			s, err = encodeSchema(&copied)
			return s, property.Description, err
		}
	}
	s, err = types.schemaOf(t)
	return s, "", err
}

// inlineSchema returns the schema of t, which refers to a component if t has a name.
func (types *typeSchemas) inlineSchema(t reflect.Type) (*jsonschema.Schema, error) {
	for t.Kind() == reflect.Pointer && types.mapType(t) == nil {
		t = t.Elem()
	}
	types.root = nil
	if id := types.referTo(t); id != "" {
		return &jsonschema.Schema{Ref: string(id)}, nil
	}
	return types.reflectType(t)
}

// reflectType returns the schema of t in full, with references to the types within.
func (types *typeSchemas) reflectType(t reflect.Type) (*jsonschema.Schema, error) {
	s, err := types.reflectStruct(t)
	if err == nil {
		types.allowNullWithin(s, t)
	}
	return s, err
}

// reflectStruct is reflectType without the rule that a pointer can be null.
func (types *typeSchemas) reflectStruct(t reflect.Type) (s *jsonschema.Schema, err error) {
	defer func() {
		if failure := recover(); failure != nil { // a panic of the reflector
			err = fmt.Errorf("type %v: %v: leave the field out of JSON by the tag `json:\"-\"`, or write a method JSONSchema", t, failure)
		}
	}()
	types.root, types.rootLookups = t, 0
	copied := *types.reflector.ReflectFromType(t)
	// The reflector looks up root once itself. Another time means that root refers to root.
	if types.rootLookups > 1 && types.names[t] == "" {
		types.nameComponent(t)
	}
	copied.ID, copied.Version, copied.Definitions = "", "", nil
	return &copied, nil
}

// encodeSchema returns s in JSON. A schema that allows every value is {}.
func encodeSchema(s *jsonschema.Schema) (Schema, error) {
	data, err := json.Marshal(s)
	if string(data) == "true" {
		data = []byte("{}")
	}
	return data, err
}

// schemer and aliased are types that describe themselves, for the reflector.
type schemer interface{ JSONSchema() *jsonschema.Schema }

type aliased interface{ JSONSchemaAlias() any }

func describesItself(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[schemer]()) || t.Implements(reflect.TypeFor[aliased]())
}

// referTo is the Lookup of the reflector. For a type with a name and parts, the result
// refers to a component.
func (types *typeSchemas) referTo(t reflect.Type) jsonschema.ID {
	if types.lookup != nil {
		if id := types.lookup(t); id != "" {
			return id
		}
	}
	if t.Name() == "" || t.Implements(reflect.TypeFor[aliased]()) || types.mapType(t) != nil {
		return ""
	}
	if !t.Implements(reflect.TypeFor[schemer]()) {
		switch t.Kind() {
		case reflect.Struct, reflect.Map, reflect.Slice, reflect.Array:
		default:
			return ""
		}
		if t == reflect.TypeFor[time.Time]() || t == reflect.TypeFor[json.RawMessage]() {
			return ""
		}
	}
	if t == types.root {
		if types.rootLookups++; types.names[t] == "" {
			return jsonschema.ID(schemaPrefix + types.newName(t))
		}
	}
	if types.names[t] == "" {
		types.nameComponent(t)
	}
	return jsonschema.ID(schemaPrefix + types.names[t])
}

// nameComponent makes t a component.
func (types *typeSchemas) nameComponent(t reflect.Type) {
	name := types.newName(t)
	types.names[t], types.types[name] = name, t
	types.pending = append(types.pending, t)
}

// newName returns a free name for a component. If the name of the type is taken, the name
// of its package comes first.
func (types *typeSchemas) newName(t reflect.Type) string {
	base := ""
	if types.reflector.Namer != nil {
		base = types.reflector.Namer(t)
	}
	if base == "" {
		base = t.Name()
	}
	name := goName(withoutPackages(base))
	if types.types[name] != nil {
		name = goName(t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:]) + name
	}
	for n, first := 2, name; types.types[name] != nil; n++ {
		name = first + strconv.Itoa(n)
	}
	return name
}

// withoutPackages removes the packages in the name of a generic type: from
// Page[example.com/store.Item] to Page[Item].
func withoutPackages(name string) string {
	words := strings.FieldsFunc(name, func(c rune) bool { return strings.ContainsRune("[], *", c) })
	for i, word := range words {
		words[i] = word[strings.LastIndexByte(word, '.')+1:]
	}
	return strings.Join(words, " ")
}

// mappedTypes lists types whose encoding differs from the encoding of their kind, beside
// the types that encode themselves.
var mappedTypes = map[reflect.Type]jsonschema.Schema{
	reflect.TypeFor[big.Int]():       {Type: "integer", Format: "bigint"},
	reflect.TypeFor[json.Number]():   {Type: "number"},
	reflect.TypeFor[url.URL]():       {Type: "object"},
	reflect.TypeFor[time.Duration](): {Type: "integer", Description: "nanoseconds"},
	reflect.TypeFor[rpcx.Proxy]():    {Description: "reference to a service"},
	reflect.TypeFor[rpcx.Router]():   {Description: "reference to a service"},
}

// mapType is the Mapper of the reflector. The result is nil for a type that the reflector
// describes well, and is new for each call, because the reflector changes it.
func (types *typeSchemas) mapType(t reflect.Type) *jsonschema.Schema {
	if types.mapper != nil {
		if s := types.mapper(t); s != nil {
			return s
		}
	}
	if s, ok := mappedTypes[t]; ok {
		return &s
	}
	switch p := reflect.PointerTo(t); {
	case t.Kind() == reflect.Interface, t.Kind() == reflect.Pointer, describesItself(t), t == reflect.TypeFor[time.Time](), t == reflect.TypeFor[json.RawMessage]():
		return nil
	case p.Implements(reflect.TypeFor[json.Marshaler]()):
		return &jsonschema.Schema{} // any value
	case p.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return &jsonschema.Schema{Type: "string"}
	}
	switch t.Kind() {
	case reflect.Uint, reflect.Uint64, reflect.Uintptr:
		return &jsonschema.Schema{Type: "integer", Format: "uint64"}
	}
	return nil
}

// sortedNames returns the keys of m in order.
func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
