package rpcx

import (
	"bytes"
	"encoding/json"

	"example.com/rpcx/internal/jsonscan"
)

// Meta returns the value of key in the data about the request, in JSON, or nil if there is
// none. Options.Meta says where the data is; without Options.Meta the result is nil. If a
// key is given twice, the last value counts. The bytes belong to the request.
//
// The data is input from the peer, like the params. A server must not trust the data of
// strangers, for example the sampling flag of a trace context.
func (r *Request) Meta(key string) json.RawMessage {
	if r.meta == nil {
		return nil
	}
	var found json.RawMessage
	s := jsonscan.Scanner{Data: *r.meta}
	for name, value, ok := s.NextMember(); ok; name, value, ok = s.NextMember() {
		if jsonscan.EqualString(name, key) {
			found = value
		}
	}
	return found
}

// takeMeta stores the data for Request.Meta, as m says. A param with data is taken out of
// the params. text is the message, or the member of a batch, and is not kept.
func (c *peerRequest) takeMeta(m *Meta, text []byte) {
	var object json.RawMessage
	switch p := &c.Params; {
	case m.Param != "":
		if p.Named != nil && p.Positional == nil && rawType(p.codec) == nil {
			object, p.Named = cutObject(p.Named, m.Param)
		}
	case m.Member == eachMember:
		object = furtherMembers(text)
	default:
		object, _ = findObject(text, m.Member)
		object = bytes.Clone(object)
	}
	if object != nil {
		c.Request.meta = new(json.RawMessage)
		*c.Request.meta = object
	}
}

// findObject finds the member name of object, if the member is an object and is given
// once. at is the part of object to be removed to remove the member.
func findObject(object []byte, name string) (value []byte, at span) {
	s := jsonscan.Scanner{Data: object}
	count := 0
	for first := true; ; first = false {
		s.Peek()
		start := s.Pos // the brace or comma before the member
		key, v, ok := s.NextMember()
		if !ok {
			break
		}
		if !jsonscan.EqualString(key, name) {
			continue
		}
		if count++; count > 1 || v[0] != '{' {
			return nil, span{}
		}
		value, at = v, span{start, s.Pos}
		if first { // the comma after the member goes, too
			if at.start++; s.Peek() == ',' {
				at.end = s.Pos + 1
			}
		}
	}
	return value, at
}

// cutObject takes the member name out of params, if the member is an object and is given
// once. If no member is left, rest is nil. The memory of params becomes that of rest.
func cutObject(params []byte, name string) (value, rest []byte) {
	value, at := findObject(params, name)
	if value == nil {
		return nil, params
	}
	value = bytes.Clone(value)
	rest = append(params[:at.start], params[at.end:]...)
	if s := (jsonscan.Scanner{Data: rest, Pos: 1}); s.Peek() == '}' {
		rest = nil
	}
	return value, rest
}

// furtherMembers returns an object with the members of a message that are not JSON-RPC's
// own, or nil if there are none.
func furtherMembers(message []byte) (object []byte) {
	s := jsonscan.Scanner{Data: message}
	for key, value, ok := s.NextMember(); ok; key, value, ok = s.NextMember() {
		if isEnvelopeKey(string(jsonscan.UnquoteBytes(key))) {
			continue
		}
		separator := byte(',')
		if object == nil {
			object, separator = make([]byte, 0, len(key)+len(value)+64), '{'
		}
		object = append(append(append(append(object, separator), key...), ':'), value...)
	}
	if object != nil {
		object = append(object, '}')
	}
	return object
}
