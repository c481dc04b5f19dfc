package rpcx

import (
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"example.com/rpcx/internal/jsonscan"
)

// Type is a Go type whose values travel as objects; see [NewType].
type Type struct {
	typ    reflect.Type
	encode func(v any) (any, error)
	decode func(unmarshal func(any) error) (any, error)
}

// objectTypes is what sessions with the same Options share about objects.
type objectTypes struct {
	root  *Router // what the handler is, under its middleware; nil if that is no Router
	types []Type
	raw   reflect.Type // the codec's raw values
	null  []byte       // the codec's null
	plans atomic.Pointer[planTable]
}

// planTable has the plans that were made when as many types had been exposed.
type planTable struct {
	exposures uint64
	byType    sync.Map
}

// NewType returns a Type for Options.Types. encode turns a T into what is sent in
// its place, of a type that the codec can encode and decode (or that has objects in
// it); decode is its inverse. A T is found at any depth of params and results, and
// where a T is expected nothing but such an object is accepted.
//
// As the only parameter of a [Func], a T that is a struct, and a pointer to one, needs a
// name, for otherwise its fields are the parameters. So do a map and a slice.
//
// NewType panics if T is an interface or a pointer, or has no name of its own, like
// string or []int: a value of such a type is what it is in JSON.
func NewType[T, W any](encode func(T) (W, error), decode func(W) (T, error)) Type {
	t := reflect.TypeFor[T]()
	if t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer {
		panic(fmt.Sprintf("rpcx.NewType: %v is an interface or a pointer", t))
	}
	if t.PkgPath() == "" {
		panic(fmt.Sprintf("rpcx.NewType: %v has no name of its own", t))
	}
	return Type{
		typ:    t,
		encode: func(v any) (any, error) { return encode(v.(T)) },
		decode: func(unmarshal func(any) error) (any, error) {
			var w W
			if err := unmarshal(&w); err != nil {
				return nil, err
			}
			return decode(w)
		},
	}
}

// checkTypes returns an error if a type is given twice.
func checkTypes(types []Type) error {
	for i, t := range types {
		for _, before := range types[:i] {
			if before.typ == t.typ {
				return fmt.Errorf("Options.Types has %v twice", t.typ)
			}
		}
	}
	return nil
}

func newObjectTypes(handler Handler, types []Type, c Codec) *objectTypes {
	o := &objectTypes{types: types, raw: rawType(c)}
	o.root, _ = handler.(*Router)
	o.null, _ = c.Append(nil, nil)
	if o.raw == nil {
		o.raw = reflect.TypeFor[json.RawMessage]()
	}
	return o
}

// Objects are values that travel as {"__type__": [id, data]}, as in aiomas: those
// of the types in Options.Types, whose ids are their places there, and after them
// references to services, whose data is the service's path.
//
// They are put in before a value is encoded, and taken out when it has been
// decoded, by a Codec around the session's own. So nothing else in a session needs
// to know of them, and a session without objects does not pass by here at all.

const typeKey = "__type__"

// objectCodec is the codec of a session with objects.
type objectCodec struct {
	Codec
	*objectTypes
	session *Session
}

// Append implements [Codec].
func (o *objectCodec) Append(dst []byte, v any) ([]byte, error) {
	return o.appendWithObjects(dst, v, 0)
}

func (o *objectCodec) appendWithObjects(dst []byte, v any, depth int) ([]byte, error) {
	lowered, _, err := o.replaceObjects(v, depth)
	if err != nil {
		return dst, err
	}
	return o.Codec.Append(dst, lowered)
}

// replaceObjects returns v with what the codec can encode in the place of its objects. If
// there are none that is v itself, and nothing is allocated.
func (o *objectCodec) replaceObjects(v any, depth int) (_ any, changed bool, err error) {
	if depth > jsonscan.MaxDepth {
		return nil, false, fmt.Errorf("a value is nested over %d levels deep", jsonscan.MaxDepth)
	}
	switch x := v.(type) {
	case nil, bool, string, int, int64, float64:
		return v, false, nil
	case Args:
		return o.replaceInList(v, x, depth)
	case []any:
		return o.replaceInList(v, x, depth)
	case map[string]any:
		return o.replaceInMap(v, x, depth)
	}
	rv := reflect.ValueOf(v)
	p := o.planOf(rv.Type())
	if p.kind == planNone {
		return v, false, nil
	}
	low, err := o.replaceByPlan(rv, p, depth)
	return low, true, err
}

// replaceInList lowers a list that v is.
func (o *objectCodec) replaceInList(v any, list []any, depth int) (any, bool, error) {
	var out []any // a copy, once it is needed
	for i, x := range list {
		low, changed, err := o.replaceObjects(x, depth+1)
		if err != nil {
			return nil, false, err
		}
		if changed {
			if out == nil {
				out = slices.Clone(list)
			}
			out[i] = low
		}
	}
	if out == nil {
		return v, false, nil
	}
	return out, true, nil
}

func (o *objectCodec) replaceInMap(v any, m map[string]any, depth int) (any, bool, error) {
	var out map[string]any
	for key, x := range m {
		low, changed, err := o.replaceObjects(x, depth+1)
		if err != nil {
			return nil, false, err
		}
		if changed {
			if out == nil {
				out = maps.Clone(m)
			}
			out[key] = low
		}
	}
	if out == nil {
		return v, false, nil
	}
	return out, true, nil
}

// replaceByPlan lowers a value whose type may have objects in it.
func (o *objectCodec) replaceByPlan(v reflect.Value, p *typePlan, depth int) (any, error) {
	switch p.kind {
	case planService:
		if v.IsNil() {
			return nil, nil
		}
		return o.serviceReference(v.Interface())
	case planProxy:
		if v.Kind() == reflect.Pointer && v.IsNil() {
			return nil, nil
		}
		return nil, errors.New("a service of the peer cannot be sent to it")
	case planObject:
		data, err := o.types[p.id].encode(v.Interface())
		if err == nil {
			data, _, err = o.replaceObjects(data, depth+1)
		}
		return map[string]any{typeKey: []any{p.id, data}}, err
	case planRaw:
		return v.Convert(o.raw).Interface(), nil
	case planPointer:
		if v.IsNil() {
			return nil, nil
		}
		low, _, err := o.replaceObjects(v.Elem().Interface(), depth+1)
		return low, err
	case planList:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return nil, nil
		}
		list := make([]any, v.Len())
		for i := range list {
			low, _, err := o.replaceObjects(v.Index(i).Interface(), depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = low
		}
		return list, nil
	case planMap:
		if v.IsNil() {
			return nil, nil
		}
		t := reflect.MapOf(v.Type().Key(), reflect.TypeFor[any]())
		m := reflect.MakeMapWithSize(t, v.Len())
		for each := v.MapRange(); each.Next(); {
			low, _, err := o.replaceObjects(each.Value().Interface(), depth+1)
			if err != nil {
				return nil, err
			}
			x := reflect.New(t.Elem()).Elem() // an interface, which may be nil
			if low != nil {
				x.Set(reflect.ValueOf(low))
			}
			m.SetMapIndex(each.Key(), x)
		}
		return m.Interface(), nil
	}
	// A struct.
	twin := reflect.New(p.shadowType).Elem()
	for i := range p.fields {
		f := &p.fields[i]
		from, ok := f.fieldOf(v, false)
		to := twin.Field(i)
		switch {
		case !ok:
		case !f.objects && !f.viaPointer:
			to.Set(from)
		case f.omits(from):
		case !f.objects:
			to.Set(reflect.New(from.Type()))
			to.Elem().Set(from)
		default:
			raw, err := o.appendWithObjects(nil, from.Interface(), depth+1)
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", f.name, err)
			}
			to.SetBytes(raw)
		}
	}
	return twin.Interface(), nil
}

// serviceReference returns the object that stands for a service of this side.
func (o *objectCodec) serviceReference(service any) (any, error) {
	if o.root == nil {
		return nil, fmt.Errorf("a service (%T) cannot be sent: the session's own handler is no *Router", service)
	}
	path, ok := o.root.PathOf(service)
	if !ok {
		return nil, fmt.Errorf("a service (%T) cannot be sent: it does not hang in the tree of the session's handler", service)
	}
	return map[string]any{typeKey: []any{len(o.types), path}}, nil
}

// typePlan is what is to be done with the values of a type.
type typePlan struct {
	kind       planKind
	id         int          // of planObject: its place among the types
	shadowType reflect.Type // of planStruct: the same struct with raw values for the fields with objects
	fields     []planField  // and its fields

	anyElements bool // of planList and planMap: it is a []any or a map[string]any
}

type planField struct {
	name       string // in JSON
	index      []int  // in the struct
	objects    bool   // it is a raw value in the twin
	viaPointer bool   // it is within an embedded pointer: without that the twin has to leave it out
	omitEmpty  bool
	omitZero   bool
}

type planKind uint8

const (
	planNone      planKind = iota // there are no objects in it
	planService                   // *Router, or what Expose was given
	planProxy                     // Proxy or *Proxy
	planObject                    // one of Options.Types
	planRaw                       // json.RawMessage, where the codec's raw values are others
	planInterface                 // these may have objects in them
	planPointer
	planList
	planMap
	planStruct
)

var (
	proxyType  = reflect.TypeFor[Proxy]()
	routerType = reflect.TypeFor[*Router]()
	noPlan     = &typePlan{}
)

// planOf returns the plan for a type. It is made once.
func (o *objectTypes) planOf(t reflect.Type) *typePlan {
	table := o.plans.Load()
	if now := exposures.Load(); table == nil || table.exposures != now {
		table = &planTable{exposures: now}
		o.plans.Store(table)
	}
	if p, ok := table.byType.Load(t); ok {
		return p.(*typePlan)
	}
	p := o.newPlan(t)
	table.byType.Store(t, p)
	return p
}

func (o *objectTypes) newPlan(t reflect.Type) *typePlan {
	if !o.mayHoldObjects(t, make(map[reflect.Type]bool)) {
		return noPlan
	}
	if p := o.leafPlan(t); p != nil {
		return p
	}
	switch t.Kind() {
	case reflect.Interface:
		return &typePlan{kind: planInterface}
	case reflect.Pointer:
		return &typePlan{kind: planPointer}
	case reflect.Map:
		return &typePlan{kind: planMap, anyElements: t.ConvertibleTo(reflect.TypeFor[map[string]any]())}
	case reflect.Struct:
		return o.structPlan(t)
	}
	return &typePlan{kind: planList, anyElements: t.ConvertibleTo(reflect.TypeFor[[]any]())}
}

// leafPlan returns the plan for a type that is looked into no further, nil if it is
// another.
func (o *objectTypes) leafPlan(t reflect.Type) *typePlan {
	for id := range o.types {
		if o.types[id].typ == t {
			return &typePlan{kind: planObject, id: id}
		}
	}
	switch _, service := exposedTypes.Load(t); {
	case t == routerType || service:
		return &typePlan{kind: planService}
	case t == proxyType || t == reflect.PointerTo(proxyType):
		return &typePlan{kind: planProxy}
	case t == reflect.TypeFor[json.RawMessage]() && t != o.raw:
		return &typePlan{kind: planRaw}
	case t.Kind() == reflect.Interface:
		return nil
	case decodesItself(t), encodesItself(t):
		return noPlan
	}
	return nil
}

func encodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Marshaler]()) || p.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// mayHoldObjects reports whether there may be objects in the values of t. seen has the
// types that are looked into already: types may contain themselves.
func (o *objectTypes) mayHoldObjects(t reflect.Type, seen map[reflect.Type]bool) bool {
	if p := o.leafPlan(t); p != nil {
		return p.kind != planNone
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return o.mayHoldObjects(t.Elem(), seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if isEncodedField(f) && o.mayHoldObjects(f.Type, seen) {
				return true
			}
		}
	}
	return false
}

// isEncodedField reports whether a codec sees the field.
func isEncodedField(f reflect.StructField) bool {
	return f.Tag.Get("json") != "-" && (f.IsExported() || f.Anonymous)
}

// structPlan makes the twin of a struct. What is embedded in the struct has its
// fields among the twin's own, with the names that encoding/json gives them.
func (o *objectTypes) structPlan(t reflect.Type) *typePlan {
	p := &typePlan{kind: planStruct}
	var twin []reflect.StructField
	all := o.visibleFields(t, nil, false)
	foremost := make(map[string]structField, len(all)) // of each name, one that no other hides
	for _, f := range all {
		if other, ok := foremost[f.name]; !ok || f.hides(other) {
			foremost[f.name] = f
		}
	}
	for i, f := range all {
		if foremost[f.name].hides(f) {
			continue
		}
		field := planField{
			name:       f.name,
			index:      f.Index,
			objects:    o.planOf(f.Type).kind != planNone,
			viaPointer: f.viaPointer,
			omitEmpty:  slices.Contains(f.options, "omitempty"),
			omitZero:   slices.Contains(f.options, "omitzero"),
		}
		switch {
		case field.objects:
			f.Type = o.raw
		case field.viaPointer:
			f.Type = reflect.PointerTo(f.Type)
		}
		if field.objects || field.viaPointer {
			f.options = append(f.options, "omitempty") // what was not set in the twin is left out
		}
		tag := fmt.Sprintf("json:%q %s", f.name+","+strings.Join(f.options, ","), f.Tag)
		twin = append(twin, reflect.StructField{Name: fmt.Sprint("F", i), Type: f.Type, Tag: reflect.StructTag(tag)})
		p.fields = append(p.fields, field)
	}
	p.shadowType = reflect.StructOf(twin)
	return p
}

// structField is a field that a codec sees.
type structField struct {
	reflect.StructField
	name       string
	options    []string
	tagged     bool
	viaPointer bool // it is within an embedded pointer
}

// hides reports whether f is seen in the place of another field of the same name:
// it is less deeply embedded, or, as deeply, has its name from a tag.
func (f structField) hides(other structField) bool {
	if len(f.Index) != len(other.Index) {
		return len(f.Index) < len(other.Index)
	}
	return f.tagged && !other.tagged
}

// visibleFields returns the fields of t, which is embedded at index, far if by a pointer.
func (o *objectTypes) visibleFields(t reflect.Type, index []int, far bool) (all []structField) {
	for f := range t.Fields() {
		f.Index = append(slices.Clone(index), f.Index...)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := f.Type
		if embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		switch {
		case !isEncodedField(f):
		case f.Anonymous && name == "" && embedded.Kind() == reflect.Struct && o.leafPlan(f.Type) == nil && o.leafPlan(embedded) == nil:
			if len(index) < maxEmbedded {
				all = append(all, o.visibleFields(embedded, f.Index, far || embedded != f.Type)...)
			}
		case f.IsExported():
			field := structField{f, cmp.Or(name, f.Name), nil, name != "", far}
			if options != "" {
				field.options = strings.Split(options, ",")
			}
			all = append(all, field)
		}
	}
	return all
}

// maxEmbedded is an end to structs that embed a pointer to themselves.
const maxEmbedded = 10

// omits reports whether the field is left out with the value v.
func (f *planField) omits(v reflect.Value) bool {
	if f.omitZero && v.IsZero() {
		return true
	}
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.Array, reflect.String:
		return f.omitEmpty && v.Len() == 0
	case reflect.Struct:
		return false
	}
	return f.omitEmpty && v.IsZero()
}

// fieldOf returns the field of v, and none if that is within an embedded pointer that
// is nil and is not to be made.
func (f *planField) fieldOf(v reflect.Value, made bool) (field reflect.Value, ok bool) {
	for i, x := range f.index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				if !made || !v.CanSet() {
					return reflect.Value{}, false
				}
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(x)
	}
	return v, true
}
