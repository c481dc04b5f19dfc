package msgpack

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"

	"example.com/rpcx"
	mp "github.com/vmihailenco/msgpack/v5"
)

// Codec encodes params and results in MessagePack.
var Codec rpcx.RawCodec = codec{}

type codec struct{}

// RawType implements [rpcx.RawCodec].
func (codec) RawType() reflect.Type { return reflect.TypeFor[mp.RawMessage]() }

// encoder is a reusable Encoder that appends to a slice.
type encoder struct {
	dst []byte
	enc *mp.Encoder
}

func (e *encoder) Write(p []byte) (int, error) {
	e.dst = append(e.dst, p...)
	return len(p), nil
}

// WriteByte spares Encoder a wrapper: Encoder wraps writers without WriteByte.
func (e *encoder) WriteByte(c byte) error {
	e.dst = append(e.dst, c)
	return nil
}

var encoders = sync.Pool{New: func() any {
	e := new(encoder)
	e.enc = mp.NewEncoder(e)
	e.enc.SetCustomStructTag("json")
	e.enc.SetSortMapKeys(true)
	e.enc.UseCompactInts(true)
	return e
}}

// Append implements [rpcx.Codec].
func (codec) Append(dst []byte, v any) ([]byte, error) {
	e := encoders.Get().(*encoder)
	e.dst = dst
	err := e.enc.Encode(v)
	out := e.dst
	e.dst = nil
	encoders.Put(e)
	if err != nil {
		return dst, err
	}
	return out, nil
}

type decoder struct {
	bytes.Reader
	dec *mp.Decoder
}

var decoders = sync.Pool{New: func() any {
	d := new(decoder)
	d.dec = mp.NewDecoder(&d.Reader)
	d.dec.SetCustomStructTag("json")
	d.dec.SetMapDecoder(func(dec *mp.Decoder) (any, error) { return decodeMap(dec) })
	return d
}}

// Unmarshal implements [rpcx.Codec].
func (codec) Unmarshal(data []byte, v any) error {
	if skip(data, 0) != len(data) {
		return errors.New("not one value in MessagePack")
	}
	data, err := withoutMapsInExtensions(data)
	if err != nil {
		return err
	}
	err = decode(data, v)
	if dest, ok := v.(*any); ok && err == nil {
		*dest = widest(*dest)
	}
	return err
}

// decode decodes data, which was checked, with the library. Input from the peer must not
// end the program, but the library can panic. Examples are a list as a key of a
// map[any]any, and a null for a struct in a list. A panic becomes an error.
func decode(data []byte, v any) (err error) {
	d := decoders.Get().(*decoder)
	d.Reader.Reset(data)
	defer func() {
		if failure := recover(); failure != nil { // the state of d is unknown now
			err = fmt.Errorf("decode into a %T: %v", v, failure)
			return
		}
		d.Reader.Reset(nil)
		decoders.Put(d)
	}()
	return d.dec.Decode(v)
}

// widest converts the numbers in x to types independent of the encoded size: int64, uint64
// or float64.
func widest(x any) any {
	switch x := x.(type) {
	case []any:
		for i, v := range x {
			x[i] = widest(v)
		}
		return x
	case map[string]any:
		for key, v := range x {
			x[key] = widest(v)
		}
		return x
	case map[any]any:
		for key, v := range x {
			x[key] = widest(v)
		}
		return x
	}
	switch v := reflect.ValueOf(x); {
	case !v.IsValid():
	case v.CanInt():
		return v.Int()
	case v.CanUint() && v.Uint() <= math.MaxInt64:
		return int64(v.Uint())
	case v.CanUint():
		return v.Uint()
	case v.CanFloat():
		return v.Float()
	}
	return x
}

// decodeMap decodes a map into an any. If every key is a string, the result is a
// map[string]any, otherwise a map[any]any.
func decodeMap(dec *mp.Decoder) (any, error) {
	n, err := dec.DecodeMapLen()
	if err != nil || n < 0 {
		return nil, err
	}
	texts, others := make(map[string]any), map[any]any(nil)
	for range n {
		key, err := dec.DecodeInterface()
		if err != nil {
			return nil, err
		}
		value, err := dec.DecodeInterface()
		if err != nil {
			return nil, err
		}
		switch key := widest(key).(type) {
		case string:
			texts[key] = value
		case nil, bool, int64, uint64, float64:
			if others == nil {
				others = make(map[any]any)
			}
			others[key] = value
		default:
			return nil, fmt.Errorf("a map with a key that is a %T", key)
		}
	}
	if others == nil {
		return texts, nil
	}
	for key, value := range texts {
		others[key] = value
	}
	return others, nil
}
