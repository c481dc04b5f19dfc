package rpcx

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
)

// maxObjectDepth bounds the nesting of values that may contain objects, because data at
// depth n is decoded n times.
const maxObjectDepth = 32

// Unmarshal implements [Codec].
func (o *objectCodec) Unmarshal(data []byte, v any) error { return o.unmarshalWithObjects(data, v, 0) }

func (o *objectCodec) unmarshalWithObjects(data []byte, v any, depth int) error {
	switch v.(type) {
	case *string, *bool, *int, *int64, *float64:
		return o.Codec.Unmarshal(data, v)
	}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return o.Codec.Unmarshal(data, v) // fails with the codec's error
	}
	p := o.planOf(rv.Type().Elem())
	if p.kind == planNone {
		return o.Codec.Unmarshal(data, v)
	}
	if depth > maxObjectDepth {
		return fmt.Errorf("objects are nested over %d levels deep", maxObjectDepth)
	}
	return o.decodeByPlan(data, rv.Elem(), p, depth)
}

// decodeByPlan decodes data into v, whose type may contain objects.
func (o *objectCodec) decodeByPlan(data []byte, v reflect.Value, p *typePlan, depth int) error {
	switch p.kind {
	case planProxy, planObject:
		return o.decodeExpectedObject(data, v, depth)
	case planService:
		if pair, err := o.findTypePair(data); err == nil && pair.IsValid() {
			return fmt.Errorf("a service arrives as a *Proxy and not as a %v", v.Type())
		}
	case planRaw:
		v.SetBytes(bytes.Clone(data))
		return nil
	case planInterface:
		if to := v.Elem(); to.Kind() == reflect.Pointer && !to.IsNil() && !o.isNull(data) { // as in encoding/json
			return o.unmarshalWithObjects(data, to.Interface(), depth+1)
		}
		if v.NumMethod() > 0 {
			break
		}
		x, err := o.decodeAnyValue(data, depth)
		v.SetZero()
		if x != nil && err == nil {
			v.Set(reflect.ValueOf(x))
		}
		return err
	case planPointer:
		if o.isNull(data) {
			v.SetZero()
			return nil
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return o.unmarshalWithObjects(data, v.Interface(), depth)
	case planList, planMap:
		if p.anyElements && v.IsNil() {
			// Elements are not decoded separately, because a peer may send any number of
			// elements.
			x, err := o.decodeAnyValue(data, depth)
			if got := reflect.ValueOf(x); err == nil && x != nil && got.CanConvert(v.Type()) {
				v.Set(got.Convert(v.Type()))
				return nil
			}
			if err != nil {
				return err
			}
			break // null, or an error
		}
		if p.kind == planMap {
			return o.decodeMap(data, v, depth)
		}
		return o.decodeList(data, v, depth)
	case planStruct:
		return o.decodeStruct(data, v, p, depth)
	}
	return o.Codec.Unmarshal(data, v.Addr().Interface())
}

func (o *objectCodec) decodeList(data []byte, v reflect.Value, depth int) error {
	pieces := reflect.New(reflect.SliceOf(o.raw)).Elem()
	if err := o.Codec.Unmarshal(data, pieces.Addr().Interface()); err != nil {
		return err
	}
	v.SetZero()
	if v.Kind() == reflect.Slice && !pieces.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, min(pieces.Len(), fewArguments)))
	}
	for i := range pieces.Len() {
		if v.Kind() == reflect.Slice {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		} else if i == v.Len() {
			break // as in encoding/json, surplus elements are dropped
		}
		if err := o.unmarshalWithObjects(pieceBytes(o.Codec, pieces.Index(i)), v.Index(i).Addr().Interface(), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (o *objectCodec) decodeMap(data []byte, v reflect.Value, depth int) error {
	pieces := reflect.New(reflect.MapOf(v.Type().Key(), o.raw)).Elem()
	if err := o.Codec.Unmarshal(data, pieces.Addr().Interface()); err != nil {
		return err
	}
	switch {
	case pieces.IsNil():
		v.SetZero()
	case v.IsNil():
		v.Set(reflect.MakeMap(v.Type()))
	}
	for each := pieces.MapRange(); each.Next(); {
		x := reflect.New(v.Type().Elem())
		if err := o.unmarshalWithObjects(pieceBytes(o.Codec, each.Value()), x.Interface(), depth+1); err != nil {
			return err
		}
		v.SetMapIndex(each.Key(), x.Elem())
	}
	return nil
}

func (o *objectCodec) decodeStruct(data []byte, v reflect.Value, p *typePlan, depth int) error {
	twin := reflect.New(p.shadowType).Elem()
	for i := range p.fields {
		f := &p.fields[i]
		switch from, ok := f.fieldOf(v, false); {
		case !ok || f.objects:
		case f.viaPointer:
			twin.Field(i).Set(from.Addr()) // decoded in place
		default:
			twin.Field(i).Set(from) // an absent field keeps its value
		}
	}
	if err := o.Codec.Unmarshal(data, twin.Addr().Interface()); err != nil {
		return err
	}
	for i := range p.fields {
		f, from := &p.fields[i], twin.Field(i)
		to, ok := f.fieldOf(v, !from.IsZero())
		switch {
		case !ok:
		case !f.objects && !f.viaPointer:
			to.Set(from)
		case !f.objects:
			if !from.IsNil() {
				to.Set(from.Elem())
			}
		case from.Len() > 0:
			if err := o.unmarshalWithObjects(from.Bytes(), to.Addr().Interface(), depth+1); err != nil {
				return fmt.Errorf("field %s: %w", f.name, err)
			}
		}
	}
	return nil
}

// isNull reports whether data is the codec's encoding of null.
func (o *objectCodec) isNull(data []byte) bool { return bytes.Equal(bytes.TrimSpace(data), o.null) }

// numberCodec is a codec of JSON that can keep numbers as text until objects are found.
// The type of an object may need the exact number.
type numberCodec interface {
	decodeTextNumbers(data []byte) (any, error) // decodes into an any, with each number as a json.Number
	convertNumber(n json.Number) (any, error)   // returns n as Unmarshal decodes a number into an any
}

// decodeAnyValue decodes data into an any, and restores the objects.
func (o *objectCodec) decodeAnyValue(data []byte, depth int) (x any, err error) {
	c, ok := o.Codec.(numberCodec)
	plain := ok && !bytes.Contains(data, []byte(typeKey)) && !bytes.Contains(data, []byte(`\u`)) // an escape sequence may hide typeKey
	if ok && !plain {
		x, err = c.decodeTextNumbers(data)
	} else {
		err = o.Codec.Unmarshal(data, &x)
	}
	if plain || err != nil {
		return x, err
	}
	return o.restoreObjects(x, depth)
}

// restoreObjects returns x with its objects decoded. The codec has decoded x into an any.
func (o *objectCodec) restoreObjects(x any, depth int) (any, error) {
	var err error
	switch x := x.(type) {
	case json.Number:
		if c, ok := o.Codec.(numberCodec); ok {
			return c.convertNumber(x)
		}
	case map[string]any:
		if _, object := x[typeKey]; object {
			// The type to decode depends on the id.
			var data []byte
			if data, err = o.Codec.Append(nil, x); err != nil {
				return nil, err
			}
			return o.decodeAnyObject(data, depth)
		}
		for key, value := range x {
			if x[key], err = o.restoreObjects(value, depth); err != nil {
				return nil, err
			}
		}
	case map[any]any:
		for key, value := range x {
			if x[key], err = o.restoreObjects(value, depth); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, value := range x {
			if x[i], err = o.restoreObjects(value, depth); err != nil {
				return nil, err
			}
		}
	}
	return x, nil
}

// decodeExpectedObject decodes an object of v's type into v. Null becomes a nil pointer or
// a zero Proxy.
func (o *objectCodec) decodeExpectedObject(data []byte, v reflect.Value, depth int) error {
	if t := v.Type(); (t == proxyType || t.Kind() == reflect.Pointer) && o.isNull(data) {
		v.SetZero()
		return nil
	}
	x, err := o.decodeAnyObject(data, depth)
	if err != nil {
		return err
	}
	switch got := reflect.ValueOf(x); {
	case got.Type() == v.Type():
		v.Set(got)
	case got.Kind() == reflect.Pointer && got.Type().Elem() == v.Type(): // v is a Proxy, not a pointer
		v.Set(got.Elem())
	default:
		return fmt.Errorf("the object is a %T and not a %v", x, v.Type())
	}
	return nil
}

// findTypePair returns the value of typeKey in data. If data has no typeKey, the result is
// not valid.
func (o *objectCodec) findTypePair(data []byte) (reflect.Value, error) {
	members := reflect.New(reflect.MapOf(reflect.TypeFor[string](), o.raw)).Elem()
	err := o.Codec.Unmarshal(data, members.Addr().Interface())
	return members.MapIndex(reflect.ValueOf(typeKey)), err
}

// decodeAnyObject decodes an object of any type.
func (o *objectCodec) decodeAnyObject(data []byte, depth int) (any, error) {
	if depth > maxObjectDepth {
		return nil, fmt.Errorf("objects are nested over %d levels deep", maxObjectDepth)
	}
	pair, err := o.findTypePair(data)
	if err != nil || !pair.IsValid() {
		return nil, fmt.Errorf("not an object with %q", typeKey)
	}
	parts := reflect.New(reflect.SliceOf(o.raw)).Elem()
	err = o.Codec.Unmarshal(pieceBytes(o.Codec, pair), parts.Addr().Interface())
	if err != nil || parts.Len() != 2 {
		return nil, fmt.Errorf("the %q of an object has to be [id, data]", typeKey)
	}
	id, content := -1, pieceBytes(o.Codec, parts.Index(1))
	if err := o.Codec.Unmarshal(pieceBytes(o.Codec, parts.Index(0)), &id); err != nil || id < 0 || id > len(o.types) {
		return nil, fmt.Errorf("there is no type with the id of an object: %s", excerpt(pieceBytes(o.Codec, parts.Index(0))))
	}
	if id < len(o.types) {
		return o.types[id].decode(func(v any) error { return o.unmarshalWithObjects(content, v, depth+1) })
	}
	proxy := &Proxy{caller: o.caller}
	if err := o.Codec.Unmarshal(content, &proxy.path); err != nil {
		return nil, fmt.Errorf("the path of a service has to be a string: %w", err)
	}
	return proxy, nil
}
