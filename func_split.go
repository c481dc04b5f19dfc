package rpcx

import (
	"encoding/json"
	"reflect"

	"example.com/rpcx/internal/jsonscan"
)

// elements goes through the elements of an array: of JSON as it stands, of any
// other encoding as the codec has taken it to pieces.
type elements struct {
	scan   jsonscan.Scanner // behind the element before
	pieces []json.RawMessage
}

// next returns the next element. ok is false behind the last one.
func (e *elements) next() (value json.RawMessage, ok bool) {
	if len(e.pieces) > 0 {
		value, e.pieces = e.pieces[0], e.pieces[1:]
		return value, true
	}
	return e.scan.NextElement()
}

// members goes through the members of an object likewise.
type members struct {
	scan   jsonscan.Scanner
	pieces []member
}

type member struct{ key, value json.RawMessage } // the key is a JSON string in any encoding

func (m *members) next() (key, value json.RawMessage, ok bool) {
	if len(m.pieces) > 0 {
		next := m.pieces[0]
		m.pieces = m.pieces[1:]
		return next.key, next.value, true
	}
	return m.scan.NextMember()
}

// split returns what goes through the params, from their start.
func (p *Params) split() (positional elements, named members, err error) {
	raw := rawType(p.codec)
	if raw == nil {
		positional.scan.Data, named.scan.Data = p.Positional, p.Named
		return positional, named, nil
	}
	if p.Positional != nil {
		list := reflect.New(reflect.SliceOf(raw))
		if err := p.codec.Unmarshal(p.Positional, list.Interface()); err != nil {
			return positional, named, invalidArguments(err)
		}
		for i := range list.Elem().Len() {
			positional.pieces = append(positional.pieces, piece(p.codec, list.Elem().Index(i)))
		}
	}
	if p.Named != nil {
		object := reflect.New(reflect.MapOf(reflect.TypeFor[string](), raw))
		if err := p.codec.Unmarshal(p.Named, object.Interface()); err != nil {
			return positional, named, invalidArguments(err)
		}
		for each := object.Elem().MapRange(); each.Next(); {
			key := jsonscan.AppendString(nil, each.Key().String())
			named.pieces = append(named.pieces, member{key, piece(p.codec, each.Value())})
		}
	}
	return positional, named, nil
}

// piece returns the bytes of a codec's raw value, which are nil for null.
func piece(c Codec, raw reflect.Value) json.RawMessage {
	if raw.Len() > 0 {
		return raw.Bytes()
	}
	null, _ := c.Append(nil, nil)
	return null
}

// rawType returns the type of the raw values of a codec, nil if that is JSON's.
func rawType(c Codec) reflect.Type {
	if o, ok := c.(*objects); ok {
		c = o.Codec
	}
	if c, ok := c.(RawCodec); ok {
		return c.RawType()
	}
	return nil
}
