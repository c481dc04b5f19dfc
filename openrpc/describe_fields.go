package openrpc

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// jsonField is a field of a struct, or of a struct embedded in the struct, in JSON.
type jsonField struct {
	field  reflect.StructField
	name   string // in JSON
	tagged bool   // the name is in the tag
	depth  int    // number of embedded structs around the field
	// absent reports whether the field is within an embedded pointer. If the pointer is
	// nil, the field is absent.
	absent bool
}

// hides reports whether encoding/json leaves out other because of f, which has the same
// name.
func (f *jsonField) hides(other *jsonField) bool {
	if f == other || f.name != other.name {
		return false
	}
	return f.depth < other.depth || f.depth == other.depth && (f.tagged || !other.tagged)
}

// embeddedStruct returns the struct whose fields are fields of the struct with f, or nil.
func embeddedStruct(f reflect.StructField) (t reflect.Type, pointer bool) {
	if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); !f.Anonymous || name != "" {
		return nil, false
	}
	t, pointer = f.Type, f.Type.Kind() == reflect.Pointer
	if pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	return t, pointer
}

// allFields appends the fields of the struct type t and of the structs embedded in it.
// around has the structs around t, which encoding/json does not enter again. pointers
// reports whether a pointer is embedded.
func allFields(fields []*jsonField, t reflect.Type, around []reflect.Type, absent bool) (_ []*jsonField, pointers bool) {
	around = append(slices.Clip(around), t)
	for f := range t.Fields() {
		tag := f.Tag.Get("json")
		inner, pointer := embeddedStruct(f)
		pointers = pointers || pointer
		switch {
		case tag == "-", inner != nil && slices.Contains(around, inner):
		case inner != nil:
			var within bool
			fields, within = allFields(fields, inner, around, absent || pointer)
			pointers = pointers || within
		case f.IsExported():
			name, _, _ := strings.Cut(tag, ",")
			field := &jsonField{f, name, name != "", len(around), absent}
			if name == "" {
				field.name = f.Name
			}
			fields = append(fields, field)
		}
	}
	return fields, pointers
}

// flatStruct returns a struct without embedded structs that encoding/json encodes as the
// struct type t. absent has the fields that can be absent. The result is nil if the
// reflector describes t well: it knows neither embedded pointers nor fields that hide each
// other, and a struct that is embedded in itself would overflow its stack.
func flatStruct(t reflect.Type) (flat reflect.Type, absent []string) {
	if !slices.ContainsFunc(slices.Collect(t.Fields()), func(f reflect.StructField) bool { return f.Anonymous }) {
		return nil, nil
	}
	all, unknown := allFields(nil, t, nil, false)
	var fields []reflect.StructField
	names := make(goNames)
	for _, f := range all {
		if slices.ContainsFunc(all, func(other *jsonField) bool { return other.hides(f) }) {
			unknown = true
			continue
		}
		if f.absent {
			absent = append(absent, f.name)
		}
		_, options, _ := strings.Cut(f.field.Tag.Get("json"), ",")
		fields = append(fields, reflect.StructField{
			Name: names.take(f.field.Name), Type: f.field.Type,
			Tag: reflect.StructTag(fmt.Sprintf("json:%q %s", f.name+","+options, f.field.Tag)), // the first json counts
		})
	}
	if !unknown {
		return nil, nil
	}
	return reflect.StructOf(fields), absent
}

// extender is a type that changes its schema, for the reflector.
type extender interface{ JSONSchemaExtend(*jsonschema.Schema) }

// flatSchema returns the schema of a struct type t that the reflector does not describe
// well, or nil.
func (types *typeSchemas) flatSchema(t reflect.Type) *jsonschema.Schema {
	if t.Kind() != reflect.Struct || describesItself(t) {
		return nil
	}
	flat, absent := flatStruct(t)
	if flat == nil {
		return nil
	}
	s := *types.reflector.ReflectFromType(flat)
	s.ID, s.Version, s.Definitions = "", "", nil
	types.allowNull(&s, flat)
	s.Required = slices.DeleteFunc(s.Required, func(name string) bool { return slices.Contains(absent, name) })
	if e, ok := reflect.New(t).Interface().(extender); ok {
		e.JSONSchemaExtend(&s)
	}
	return &s
}

// mapSchema returns the schema of a map type t whose keys are numbers or encode themselves,
// or nil. The reflector knows neither negative numbers nor texts of numeric types.
func (types *typeSchemas) mapSchema(t reflect.Type) *jsonschema.Schema {
	if t.Kind() != reflect.Map || describesItself(t) {
		return nil
	}
	text := t.Key().Implements(reflect.TypeFor[encoding.TextMarshaler]())
	number := t.Key().Kind() >= reflect.Int && t.Key().Kind() <= reflect.Int64
	if !text && !number {
		return nil
	}
	s := *types.reflector.ReflectFromType(reflect.MapOf(reflect.TypeFor[string](), t.Elem()))
	s.ID, s.Version, s.Definitions = "", "", nil
	if !text {
		values := s.AdditionalProperties
		if values == nil {
			values = jsonschema.TrueSchema
		}
		s.PatternProperties = map[string]*jsonschema.Schema{numberKeys: values}
		s.AdditionalProperties = jsonschema.FalseSchema
	}
	return &s
}

// numberKeys is the pattern for the keys of a map with whole numbers as keys.
const numberKeys = "^-?[0-9]+$"

// allowNull allows null for the properties of s whose field in t is a pointer that is
// always encoded, and within the properties.
func (types *typeSchemas) allowNull(s *jsonschema.Schema, t reflect.Type) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if inner, _ := embeddedStruct(f); inner != nil {
			types.allowNull(s, inner)
			continue
		}
		if name == "" {
			name = f.Name
		}
		property, ok := s.Properties.Get(name)
		if !ok {
			continue
		}
		types.allowNullWithin(property, f.Type)
		describeMapped(property, f.Type)
		if f.Type.Kind() == reflect.Pointer && !strings.Contains(options, "omit") && property.OneOf == nil {
			s.Properties.Set(name, orNull(property))
		}
	}
}

// allowNullWithin is allowNull for the structs in s, the schema of a value of type t,
// without the components to which s refers.
func (types *typeSchemas) allowNullWithin(s *jsonschema.Schema, t reflect.Type) {
	if s == nil || s.Ref != "" || describesItself(t) || types.mapType(t) != nil {
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		types.allowNullWithin(s, t.Elem())
	case reflect.Slice, reflect.Array:
		types.allowNullWithin(s.Items, t.Elem())
	case reflect.Map:
		types.allowNullWithin(s.AdditionalProperties, t.Elem())
		for _, values := range s.PatternProperties {
			types.allowNullWithin(values, t.Elem())
		}
	case reflect.Struct:
		if flat, _ := flatStruct(t); flat == nil && s.Properties != nil { // else flatSchema has done it
			types.allowNull(s, t)
		}
	}
}

// describeMapped gives the schema of a field the description of its type, which the
// reflector removes from fields without a description of their own.
func describeMapped(s *jsonschema.Schema, t reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s.Description == "" {
		s.Description = mappedTypes[t].Description
	}
}

func orNull(s *jsonschema.Schema) *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{s, {Type: "null"}}}
}
