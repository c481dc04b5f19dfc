package rpcx

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"example.com/rpcx/internal/jsonscan"
)

// Meta describes where a request carries data about itself, such as the trace context of
// the caller. JSON-RPC has no place for such data. Exactly one field must be set.
//
// For peers of your own use [MemberMeta], which carries data beside params of any kind.
//
// The data is a set of values with keys. A function of Options.OnCall fills
// OutgoingCall.Meta, and Options.Codec encodes the values. A handler of the peer reads the
// values by [Request.Meta]. Both sides need the same Meta. A message without data is
// unchanged. An [Exchange] sends data as a session does. Replies carry no data, and neither
// do messages other than JSON-RPC's: those of [Aiomas], [BitcoinProtocol] and MessagePack.
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

// isEnvelopeKey reports whether name is one of envelopeKeys.
func isEnvelopeKey(name string) bool {
	switch name { // faster than a search
	case "jsonrpc", "method", "params", "id", "result", "error":
		return true
	}
	return false
}

// eachMember is the Meta.Member with which each value is a member of the message.
const eachMember = "*"

// appendTo adds values to the message that begins at msg[start:]. If m is nil, or the
// message has no place for values, appendTo returns msg unchanged.
func (m *Meta) appendTo(msg []byte, start int, values map[string]any, c Codec) ([]byte, error) {
	if m == nil || len(values) == 0 || !beginsLikeRequest(msg[start:]) {
		return msg, nil
	}
	switch m.Member {
	case "":
		return m.appendToParams(msg, start, values, c)
	case eachMember:
		return appendEachMember(msg, values, c)
	}
	msg = append(jsonscan.AppendString(append(msg[:len(msg)-1], ','), m.Member), ':')
	msg, err := appendValues(msg, values, c)
	return append(msg, '}'), err
}

// beginsLikeRequest reports whether msg is an object that begins with a member of JSON-RPC.
// Messages of other protocols do not.
func beginsLikeRequest(msg []byte) bool {
	if len(msg) == 0 || msg[0] != '{' || msg[len(msg)-1] != '}' {
		return false
	}
	s := jsonscan.Scanner{Data: msg, Pos: 1}
	s.Peek()
	begin := s.Pos
	return s.Pos < len(msg) && msg[s.Pos] == '"' && s.ScanString() && isEnvelopeKey(string(jsonscan.UnquoteBytes(msg[begin:s.Pos])))
}

// appendToParams adds values to the params of the message that begins at msg[start:].
func (m *Meta) appendToParams(msg []byte, start int, values map[string]any, c Codec) ([]byte, error) {
	s := jsonscan.Scanner{Data: msg, Pos: start}
	end := len(msg)
	at := span{end - 1, end - 1} // of the new bytes: before the closing brace
	for {
		s.Pos++ // the brace or comma
		s.Peek()
		begin := s.Pos
		if !s.ScanKey() {
			return msg, nil
		}
		params := jsonscan.EqualString(bytes.TrimRight(msg[begin:s.Pos-1], " \t\r\n"), envelopeKeys[memberParams])
		first := s.Peek()
		switch {
		case params && first == '{':
			return m.mergeIntoObject(msg, s.Pos, values, c)
		case params && first == '[':
			return msg, nil
		}
		begin = s.Pos
		if !s.ScanValue() {
			return msg, nil
		}
		if params { // null
			at = span{begin, s.Pos}
			break
		}
		if s.Peek() != ',' {
			break
		}
	}
	if at.start == at.end {
		msg = append(msg, `,"params":`...)
	}
	msg = append(jsonscan.AppendString(append(msg, '{'), m.Param), ':')
	msg, err := appendValues(msg, values, c)
	if err != nil {
		return msg, err
	}
	return moveEnd(append(msg, '}'), end, at), nil
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

// mergeIntoObject adds values to the member m.Param of params, an object that begins at
// msg[start]. The member is an object, or null, or missing.
func (m *Meta) mergeIntoObject(msg []byte, start int, values map[string]any, c Codec) ([]byte, error) {
	s := jsonscan.Scanner{Data: msg, Pos: start}
	var found span
	empty := true
	for key, value, ok := s.NextMember(); ok; key, value, ok = s.NextMember() {
		empty = false
		if jsonscan.EqualString(key, m.Param) {
			if found.end > 0 {
				return msg, unsentf(CodeInvalidParams, "member %q is given twice: nothing can be added for OutgoingCall.Meta", m.Param)
			}
			found = span{s.Pos - len(value), s.Pos}
		}
	}
	end := len(msg)
	if found.end == 0 {
		if !empty {
			msg = append(msg, ',')
		}
		msg, err := appendValues(append(jsonscan.AppendString(msg, m.Param), ':'), values, c)
		if err != nil {
			return msg, err
		}
		return moveEnd(msg, end, span{s.Pos, s.Pos}), nil // before the closing brace
	}
	if msg[found.start] != '{' && !jsonscan.IsNull(msg[found.start:found.end]) {
		return msg, unsentf(CodeInvalidParams, "member %q is no object: nothing can be added for OutgoingCall.Meta", m.Param)
	}
	msg = append(msg, '{')
	old := jsonscan.Scanner{Data: msg[:found.end], Pos: found.start}
	for key, value, ok := old.NextMember(); ok; key, value, ok = old.NextMember() {
		if _, replaced := values[string(jsonscan.UnquoteBytes(key))]; !replaced {
			msg = append(append(append(append(msg, key...), ':'), value...), ',')
		}
	}
	start = len(msg)
	msg, err := appendValues(msg, values, c)
	if err != nil {
		return msg, err
	}
	msg = slices.Delete(msg, start, start+1) // the brace of the new values
	return moveEnd(msg, end, found), nil
}

// appendEachMember adds each value as a member of the message at the end of msg.
func appendEachMember(msg []byte, values map[string]any, c Codec) ([]byte, error) {
	keys := make([]string, 0, 16) // on the stack
	for key := range values {
		if isEnvelopeKey(key) {
			return msg, unsentf(CodeInvalidRequest, "OutgoingCall.Meta has the key %q, a name of JSON-RPC itself: choose another key", key)
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	msg = msg[:len(msg)-1]
	for _, key := range keys {
		msg = append(jsonscan.AppendString(append(msg, ','), key), ':')
		var err error
		if msg, err = appendCodec(msg, c, values[key]); err != nil {
			return msg, err
		}
	}
	return append(msg, '}'), nil
}

// readsMembers reports whether a receiver needs the members of messages.
func (m *Meta) readsMembers() bool { return m != nil && m.Member != "" }
