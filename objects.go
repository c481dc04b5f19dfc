package rpcx

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"example.com/rpcx/internal/jsonscan"
)

// Objects are values that travel as {"__type__": [id, data]}, as in aiomas: those
// of the types in Options.Types, whose ids are their places there, and after them
// references to services, whose data is the service's path.
//
// They are put in before a value is encoded, and taken out when it has been
// decoded, by a Codec around the session's own. So nothing else in a session needs
// to know of them, and a session without objects does not pass by here at all.

const typeKey = "__type__"

// Type is a Go type whose values travel as objects; see [NewType].
type Type struct {
	typ    reflect.Type
	encode func(v any) (any, error)
	decode func(unmarshal func(any) error) (any, error)
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

// objects is the codec of a session with objects.
type objects struct {
	Codec
	*objectTypes
	session *Session
}

// Append implements [Codec].
func (o *objects) Append(dst []byte, v any) ([]byte, error) { return o.append(dst, v, 0) }

func (o *objects) append(dst []byte, v any, depth int) ([]byte, error) {
	lowered, _, err := o.lower(v, depth)
	if err != nil {
		return dst, err
	}
	return o.Codec.Append(dst, lowered)
}

// lower returns v with what the codec can encode in the place of its objects. If
// there are none that is v itself, and nothing is allocated.
func (o *objects) lower(v any, depth int) (_ any, changed bool, err error) {
	if depth > jsonscan.MaxDepth {
		return nil, false, fmt.Errorf("a value is nested over %d levels deep", jsonscan.MaxDepth)
	}
	switch x := v.(type) {
	case nil, bool, string, int, int64, float64:
		return v, false, nil
	case Args:
		return o.lowerList(v, x, depth)
	case []any:
		return o.lowerList(v, x, depth)
	case map[string]any:
		return o.lowerMap(v, x, depth)
	}
	rv := reflect.ValueOf(v)
	p := o.plan(rv.Type())
	if p.kind == planNone {
		return v, false, nil
	}
	low, err := o.lowerValue(rv, p, depth)
	return low, true, err
}

// lowerList lowers a list that v is.
func (o *objects) lowerList(v any, list []any, depth int) (any, bool, error) {
	var out []any // a copy, once it is needed
	for i, x := range list {
		low, changed, err := o.lower(x, depth+1)
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

func (o *objects) lowerMap(v any, m map[string]any, depth int) (any, bool, error) {
	var out map[string]any
	for key, x := range m {
		low, changed, err := o.lower(x, depth+1)
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

// lowerValue lowers a value whose type may have objects in it.
func (o *objects) lowerValue(v reflect.Value, p *plan, depth int) (any, error) {
	switch p.kind {
	case planService:
		if v.IsNil() {
			return nil, nil
		}
		return o.reference(v.Interface())
	case planProxy:
		if v.Kind() == reflect.Pointer && v.IsNil() {
			return nil, nil
		}
		return nil, errors.New("a service of the peer cannot be sent to it")
	case planObject:
		data, err := o.types[p.id].encode(v.Interface())
		if err == nil {
			data, _, err = o.lower(data, depth+1)
		}
		return map[string]any{typeKey: []any{p.id, data}}, err
	case planRaw:
		return v.Convert(o.raw).Interface(), nil
	case planPointer:
		if v.IsNil() {
			return nil, nil
		}
		low, _, err := o.lower(v.Elem().Interface(), depth+1)
		return low, err
	case planList:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return nil, nil
		}
		list := make([]any, v.Len())
		for i := range list {
			low, _, err := o.lower(v.Index(i).Interface(), depth+1)
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
			low, _, err := o.lower(each.Value().Interface(), depth+1)
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
	twin := reflect.New(p.twin).Elem()
	for i := range p.fields {
		f := &p.fields[i]
		from, ok := f.in(v, false)
		to := twin.Field(i)
		switch {
		case !ok:
		case !f.objects && !f.far:
			to.Set(from)
		case f.omits(from):
		case !f.objects:
			to.Set(reflect.New(from.Type()))
			to.Elem().Set(from)
		default:
			raw, err := o.append(nil, from.Interface(), depth+1)
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", f.name, err)
			}
			to.SetBytes(raw)
		}
	}
	return twin.Interface(), nil
}

// reference returns the object that stands for a service of this side.
func (o *objects) reference(service any) (any, error) {
	if o.root == nil {
		return nil, fmt.Errorf("a service (%T) cannot be sent: the session's own handler is no *Router", service)
	}
	path, ok := o.root.PathOf(service)
	if !ok {
		return nil, fmt.Errorf("a service (%T) cannot be sent: it does not hang in the tree of the session's handler", service)
	}
	return map[string]any{typeKey: []any{len(o.types), path}}, nil
}
