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

// Type is a Go type whose values are sent as objects; see [NewType].
type Type struct {
	typ    reflect.Type
	encode func(v any) (any, error)
	decode func(unmarshal func(any) error) (any, error)
}

// objectTypes holds the data about objects that sessions with the same Options share.
type objectTypes struct {
	root  *Router // the handler without its middleware; nil if the handler is not a Router
	types []Type
	raw   reflect.Type // type of the codec's raw values
	null  []byte       // encoding of null by the codec
	plans atomic.Pointer[planTable]
}

// planTable holds the plans made at a certain number of exposed types.
type planTable struct {
	exposures uint64
	byType    sync.Map
}

// NewType returns a Type for Options.Types. encode converts a T to the value to be sent,
// of a type that the codec can encode and decode. The sent value may contain objects, too.
// decode is the inverse of encode. A session finds a T at any depth of params and results.
// Where a T is expected, the session accepts only an object of this type.
//
// If the only parameter of a [Func] is a T, and T is a struct, a map or a slice, the
// parameter needs a name. So does a pointer to a struct T. Without the name, the fields or
// elements would be the params.
//
// NewType panics if T is an interface or a pointer, or has no name of its own, like string
// or []int. A value of the latter types always has its form in JSON.
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

// checkTypes returns an error if types contains a type twice.
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

// Objects are values sent as {"__type__": [id, data]}, as in aiomas. The id of a type is
// its index in Options.Types, and data is the encoded value. The next id marks references
// to services, and data is the path of the service.
//
// objectCodec wraps the session's codec. It replaces objects before a value is encoded,
// and restores objects after a value is decoded. The session uses objectCodec like any
// other codec, and a session without objects does not use objectCodec at all.

const typeKey = "__type__"

// objectCodec is the codec of a session with objects.
type objectCodec struct {
	Codec
	*objectTypes
	caller Caller // for calls to received services
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

// replaceObjects returns v with values in place of its objects that the codec can encode.
// If v has no objects, the result is v itself, and nothing is allocated.
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

// replaceInList is replaceObjects for a list. v is the list as an any.
func (o *objectCodec) replaceInList(v any, list []any, depth int) (any, bool, error) {
	var out []any // copy of list, made at the first change
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

// replaceByPlan replaces the objects in a value whose type may contain objects.
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
			x := reflect.New(t.Elem()).Elem() // an interface value, nil if low is nil
			if low != nil {
				x.Set(reflect.ValueOf(low))
			}
			m.SetMapIndex(each.Key(), x)
		}
		return m.Interface(), nil
	}
	// The kind is planStruct.
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

// serviceReference returns the object that refers to a service of this side.
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

// typePlan describes how values of a type are encoded and decoded.
type typePlan struct {
	kind       planKind
	id         int          // of planObject: index in objectTypes.types
	shadowType reflect.Type // of planStruct: the struct with raw values in place of the fields with objects
	fields     []planField  // of planStruct: the fields of shadowType

	anyElements bool // of planList and planMap: convertible to []any or map[string]any
}

type planField struct {
	name       string // in JSON
	index      []int  // in the struct
	objects    bool   // the field may have objects, and is a raw value in shadowType
	viaPointer bool   // the field is within an embedded pointer; if the pointer is nil, the field is left out
	omitEmpty  bool
	omitZero   bool
}

type planKind uint8

const (
	planNone      planKind = iota // no objects
	planService                   // a *Router, or a pointer passed to Expose
	planProxy                     // a Proxy or *Proxy
	planObject                    // a type of Options.Types
	planRaw                       // json.RawMessage, if the codec has another type of raw values
	planInterface                 // this kind and the following kinds may contain objects
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

// planOf returns the plan for t. Plans are kept until Expose is called with a new type. Any
// goroutine may call planOf, even the reader, which encodes the data of a cost error.
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

// leafPlan returns the plan for a type without parts to examine, or nil for any other
// type.
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

// mayHoldObjects reports whether values of t may contain objects. seen has the types
// examined already, because types may contain themselves.
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

// structPlan returns the plan for a struct, with its shadow type. The fields of embedded
// structs become fields of the shadow type, with the names that encoding/json gives to the
// fields.
func (o *objectTypes) structPlan(t reflect.Type) *typePlan {
	p := &typePlan{kind: planStruct}
	var twin []reflect.StructField
	all := o.visibleFields(t, nil, false)
	foremost := make(map[string]structField, len(all)) // for each name, a field that no other field hides
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
			f.options = append(f.options, "omitempty") // leaves out fields that are not set in the shadow struct
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
	viaPointer bool // the field is within an embedded pointer
}

// hides reports whether f takes precedence over another field of the same name. The field
// with fewer levels of embedding takes precedence. At the same level, a field with its
// name from a tag takes precedence.
func (f structField) hides(other structField) bool {
	if len(f.Index) != len(other.Index) {
		return len(f.Index) < len(other.Index)
	}
	return f.tagged && !other.tagged
}

// visibleFields returns the fields of t that a codec sees. index is the path to t in the
// outermost struct. far is set if there is an embedded pointer on the path.
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

// maxEmbedded bounds the levels of embedding, because a struct may embed a pointer to its
// own type.
const maxEmbedded = 10

// omits reports whether the field is left out if its value is v.
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

// fieldOf returns the field of v. If an embedded pointer on the path is nil, and made is
// set, fieldOf allocates the embedded struct. Without made, or if v cannot be set, ok is
// false.
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
