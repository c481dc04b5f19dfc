package rpcx

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
)

// maxObjectDepth bounds how deeply what may have objects in it is taken to pieces,
// since what is within n levels is looked at n times.
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
		return o.Codec.Unmarshal(data, v) // which knows what to say
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

// decodeByPlan decodes data into v, whose type may have objects in it.
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
		if to := v.Elem(); to.Kind() == reflect.Pointer && !to.IsNil() && !o.isNull(data) { // as encoding/json
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
			// Not each element by itself: there may be many, and a peer says how many.
			x, err := o.decodeAnyValue(data, depth)
			if got := reflect.ValueOf(x); err == nil && x != nil && got.CanConvert(v.Type()) {
				v.Set(got.Convert(v.Type()))
				return nil
			}
			if err != nil {
				return err
			}
			break // which is null, or an error
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
			break // as encoding/json: what is too much for an array is dropped
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
			twin.Field(i).Set(from.Addr()) // it is decoded in its place
		default:
			twin.Field(i).Set(from) // it stays what it is if it is absent
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

// isNull reports whether data is the codec's null.
func (o *objectCodec) isNull(data []byte) bool { return bytes.Equal(bytes.TrimSpace(data), o.null) }

// numberCodec is a codec of JSON that can leave numbers as they are until it is
// known whether they are in an object, whose type may take them exactly.
type numberCodec interface {
	decodeTextNumbers(data []byte) (any, error) // decodes any value, and numbers to json.Number
	convertNumber(n json.Number) (any, error)   // what any value would have had in its place
}

// decodeAnyValue decodes any value.
func (o *objectCodec) decodeAnyValue(data []byte, depth int) (x any, err error) {
	c, ok := o.Codec.(numberCodec)
	plain := ok && !bytes.Contains(data, []byte(typeKey)) && !bytes.Contains(data, []byte(`\u`)) // in which it may hide
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

// restoreObjects puts the objects into what the codec has made of any value.
func (o *objectCodec) restoreObjects(x any, depth int) (any, error) {
	var err error
	switch x := x.(type) {
	case json.Number:
		if c, ok := o.Codec.(numberCodec); ok {
			return c.convertNumber(x)
		}
	case map[string]any:
		if _, object := x[typeKey]; object {
			// What its data is to be decoded into is known only by its id.
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

// decodeExpectedObject decodes an object into v, which expects its type. A pointer and a
// Proxy are zero for null.
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
	case got.Kind() == reflect.Pointer && got.Type().Elem() == v.Type(): // a Proxy as a value
		v.Set(got.Elem())
	default:
		return fmt.Errorf("the object is a %T and not a %v", x, v.Type())
	}
	return nil
}

// findTypePair returns what data has under typeKey, which is not valid if it has none.
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
	proxy := &Proxy{session: o.session}
	if err := o.Codec.Unmarshal(content, &proxy.path); err != nil {
		return nil, fmt.Errorf("the path of a service has to be a string: %w", err)
	}
	return proxy, nil
}
