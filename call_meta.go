package rpcx

import (
	"errors"
	"fmt"
	"slices"

	"example.com/rpcx/internal/jsonscan"
)

// Meta describes where a request carries data about itself, such as the trace context of
// the caller. JSON-RPC has no place for such data. Exactly one field must be set.
//
// The data is a set of values with keys. A function of Options.OnCall fills
// OutgoingCall.Meta, and Options.Codec encodes the values. A handler of the peer reads the
// values by [Request.Meta]. Both sides need the same Meta. A message without data is
// unchanged. Replies carry no data, and neither do messages other than JSON-RPC's: those of
// [Aiomas], [BitcoinProtocol] and MessagePack.
type Meta struct {
	// Param is the name of a member of named params, an object with the values.
	//
	//	{"jsonrpc":"2.0","method":"sum","id":0,"params":{"a":1,"_meta":{"traceparent":"00-…"}}}
	//
	// If a call has no params, the object becomes the only param. Positional params carry no
	// data, and neither does [JSONRPCv1], which sends no named params. If the params already
	// have an object of this name, the values are added, and replace values with the same
	// key. If the member is no object, or is given twice, the call fails.
	//
	// The receiver takes the object out of the params, because functions of [Func] would
	// refuse the member. If no param is left, the request has no params. A member that is no
	// object, or is given twice, stays, and is bound like any param.
	Param string

	// Member is the name of a member of the message, an object with the values.
	//
	//	{"jsonrpc":"2.0","method":"sum","id":0,"params":[1,2],"meta":{"traceparent":"00-…"}}
	//
	// The receiver ignores a member that is no object, or is given twice.
	//
	// With "*", each value is a member of the message. The names of JSON-RPC's members
	// (jsonrpc, method, params, id, result, error) cannot be keys: a call with such a key
	// fails, and Request.Meta does not find such a member.
	//
	//	{"jsonrpc":"2.0","method":"sum","id":0,"params":[1,2],"traceparent":"00-…"}
	Member string
}

// Places of data in well-known protocols. See [Meta].
var (
	// MCPMeta is the "_meta" of the Model Context Protocol and the Agent Client Protocol.
	MCPMeta = &Meta{Param: "_meta"}
	// VSMeta is for StreamJsonRpc of Visual Studio: "traceparent" and "tracestate" are
	// members of the message.
	VSMeta = &Meta{Member: "*"}
	// MemberMeta is the "meta" of sourcegraph/jsonrpc2.
	MemberMeta = &Meta{Member: "meta"}
)

// resolved returns a copy of m, or why m is invalid. A nil m stays nil.
func (m *Meta) resolved() (*Meta, error) {
	switch {
	case m == nil:
		return nil, nil
	case m.Param == "" && m.Member == "":
		return nil, errors.New("Options.Meta has neither Param nor Member: use MCPMeta, for example")
	case m.Param != "" && m.Member != "":
		return nil, errors.New("Options.Meta has Param and Member: set one of the two")
	case isEnvelopeKey(m.Member):
		return nil, fmt.Errorf("Options.Meta.Member is %q, a name of JSON-RPC itself: choose another name", m.Member)
	}
	copied := *m
	return &copied, nil
}

// isEnvelopeKey reports whether name is a member of JSON-RPC's messages.
func isEnvelopeKey(name string) bool { return slices.Contains(envelopeKeys[:], name) }

// eachMember is the Meta.Member with which each value is a member of the message.
const eachMember = "*"

// appendTo adds values to the message that begins at msg[start:]. If m is nil, or the
// message has no place for values, appendTo returns msg unchanged.
func (m *Meta) appendTo(msg []byte, start int, values map[string]any, c Codec) ([]byte, error) {
	if m == nil || len(values) == 0 {
		return msg, nil
	}
	message, params, ok := findParams(msg, start)
	if !ok {
		return msg, nil
	}
	end := len(msg)
	switch {
	case m.Member == eachMember:
		return appendEachMember(msg, message, values, c)
	case m.Member != "":
		return mergeObject(msg, message, m.Member, values, c)
	case params.end == 0:
		msg = append(msg, `,"params":{`...)
		params = span{message.end - 1, message.end - 1}
	case msg[params.start] == '{':
		return mergeObject(msg, params, m.Param, values, c)
	case jsonscan.IsNull(msg[params.start:params.end]):
		msg = append(msg, '{')
	default: // positional
		return msg, nil
	}
	msg = append(jsonscan.AppendString(msg, m.Param), ':')
	msg, err := appendValues(msg, values, c)
	if err != nil {
		return msg, err
	}
	return moveEnd(append(msg, '}'), end, params), nil
}

// findParams returns the place of the message that begins at msg[start:], and of its
// params, which are empty if missing. If the message is no object with a method, ok is
// false.
func findParams(msg []byte, start int) (message, params span, ok bool) {
	s := jsonscan.Scanner{Data: msg, Pos: start}
	message = span{start, len(msg)}
	if s.Peek() != '{' {
		return message, params, false
	}
	for key, value, more := s.NextMember(); more; key, value, more = s.NextMember() {
		switch {
		case jsonscan.EqualString(key, envelopeKeys[memberMethod]):
			ok = true
		case jsonscan.EqualString(key, envelopeKeys[memberParams]):
			params = span{s.Pos - len(value), s.Pos}
		}
	}
	return message, params, ok && s.Peek() == '}' && s.Pos == len(msg)-1
}

// moveEnd replaces msg[at.start:at.end] by msg[end:].
func moveEnd(msg []byte, end int, at span) []byte {
	msg = append(msg, msg[at.end:end]...)
	n := copy(msg[at.start:], msg[end:])
	return msg[:at.start+n]
}

// appendValues appends values as an object.
func appendValues(msg []byte, values map[string]any, c Codec) ([]byte, error) {
	start := len(msg)
	msg, err := appendCodec(msg, c, values)
	if err == nil && msg[start] != '{' {
		err = unsentf(CodeInternalError, "the codec encodes a map[string]any to something other than an object, which OutgoingCall.Meta needs")
	}
	return msg, err
}

// mergeObject adds values to the member name of the object at the given place. The member
// is an object, or null, or missing.
func mergeObject(msg []byte, at span, name string, values map[string]any, c Codec) ([]byte, error) {
	s := jsonscan.Scanner{Data: msg, Pos: at.start}
	var found span
	empty := true
	for key, value, ok := s.NextMember(); ok; key, value, ok = s.NextMember() {
		empty = false
		if jsonscan.EqualString(key, name) {
			if found.end > 0 {
				return msg, unsentf(CodeInvalidParams, "member %q is given twice: nothing can be added for OutgoingCall.Meta", name)
			}
			found = span{s.Pos - len(value), s.Pos}
		}
	}
	end := len(msg)
	if found.end == 0 {
		if !empty {
			msg = append(msg, ',')
		}
		msg, err := appendValues(append(jsonscan.AppendString(msg, name), ':'), values, c)
		if err != nil {
			return msg, err
		}
		return moveEnd(msg, end, span{s.Pos, s.Pos}), nil // before the closing brace
	}
	if msg[found.start] != '{' && !jsonscan.IsNull(msg[found.start:found.end]) {
		return msg, unsentf(CodeInvalidParams, "member %q is no object: nothing can be added for OutgoingCall.Meta", name)
	}
	msg = append(msg, '{')
	old := jsonscan.Scanner{Data: msg[:found.end], Pos: found.start}
	for key, value, ok := old.NextMember(); ok; key, value, ok = old.NextMember() {
		if _, replaced := values[string(jsonscan.UnquoteBytes(key))]; !replaced {
			msg = append(append(append(append(msg, key...), ':'), value...), ',')
		}
	}
	start := len(msg)
	msg, err := appendValues(msg, values, c)
	if err != nil {
		return msg, err
	}
	msg = slices.Delete(msg, start, start+1) // the brace of the new values
	return moveEnd(msg, end, found), nil
}

// appendEachMember adds each value as a member of the message.
func appendEachMember(msg []byte, message span, values map[string]any, c Codec) ([]byte, error) {
	s := jsonscan.Scanner{Data: msg, Pos: message.start}
	for key, _, ok := s.NextMember(); ok; key, _, ok = s.NextMember() {
		if name := jsonscan.UnquoteBytes(key); !isEnvelopeKey(string(name)) {
			if _, twice := values[string(name)]; twice {
				return msg, unsentf(CodeInvalidRequest, "the message has a member %q already, which OutgoingCall.Meta has, too", name)
			}
		}
	}
	end := len(msg)
	keys := make([]string, 0, 16) // on the stack
	for key := range values {
		if isEnvelopeKey(key) {
			return msg, unsentf(CodeInvalidRequest, "OutgoingCall.Meta has the key %q, a name of JSON-RPC itself: choose another key", key)
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		msg = append(jsonscan.AppendString(append(msg, ','), key), ':')
		var err error
		if msg, err = appendCodec(msg, c, values[key]); err != nil {
			return msg, err
		}
	}
	return moveEnd(msg, end, span{message.end - 1, message.end - 1}), nil
}

// readsMembers reports whether a receiver needs the members of messages.
func (m *Meta) readsMembers() bool { return m != nil && m.Member != "" }
