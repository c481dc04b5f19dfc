package rpcx

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"example.com/rpcx/internal/jsonscan"
)

// JSONRPCLoose reads both versions of JSON-RPC and forms between the two. No version is
// required. A response may have a null "error" beside its result, or a null "result"
// beside its error. A missing result is null. A call's number in a string is that call's
// id. A code may be written as -32000.0 or "-32000". An error may have any type, as for
// [JSONRPCv1]. JSONRPCLoose writes JSON-RPC 2.0, so that a peer recognizes the version to
// answer in.
var JSONRPCLoose Protocol = jsonrpc{loose{}}

type loose struct{ v2 }

func (loose) checkVersion(*envelope) *ProtocolError { return nil }

func (loose) responseOutcome(e *envelope) (json.RawMessage, error) {
	result, err := e.vals[memberResult], e.vals[memberError]
	switch {
	case err != nil && !jsonscan.IsNull(err) && result != nil && !jsonscan.IsNull(result):
		return nil, protocolError(CodeInvalidRequest, `response contains both "result" and "error"`)
	case err != nil && !jsonscan.IsNull(err):
		return nil, bestEffortError(err)
	case result == nil:
		return json.RawMessage("null"), nil
	}
	return result, nil
}

// DecodeStart implements [StartDecoder]. A member counts only if the member is complete,
// belongs to the outermost object, and a comma or closing brace follows.
func (p jsonrpc) DecodeStart(m *Message, start []byte) {
	item := m.Single()
	s := jsonscan.Scanner{Data: start}
	array := s.Peek() == '[' && p.batches()
	if array {
		s.Pos++
	}
	if s.Peek() != '{' {
		return
	}
	e := &m.env
	seen, closed := scanStart(&s, e)
	outcome := seen&(1<<memberResult|1<<memberError) != 0
	method := e.vals[memberMethod]
	response := outcome && (method != nil && method[0] != '"' || seen&(1<<memberMethod|1<<memberParams) == 0)
	request := !response && seen&(1<<memberMethod|1<<memberParams) != 0
	if !request && !response {
		return
	}
	id, err := p.id(e, response)
	clear := err == nil && e.dup == 0 && utf8.Valid(id)
	null := e.has(memberID) && jsonscan.IsNull(e.vals[memberID])
	switch {
	case clear && null && !array: // a notification, or an error that belongs to no call
		item.Kind = KindNotification
	case response:
		m.Batch, item.Kind = array, KindResponse
		if clear {
			item.ID = callID(id)
		}
	case array: // a batch of requests, which is refused as a whole
	case clear && id != nil:
		item.Kind, item.ID = KindRequest, id
	case clear && closed:
		item.Kind = KindNotification
	}
}

// scanStart scans the beginning of an object, and stores the complete members of
// envelopeKeys in e. Bit i of seen is set if the key of member i is present. closed
// reports whether the object is complete.
func scanStart(s *jsonscan.Scanner, e *envelope) (seen uint, closed bool) {
	*e = envelope{object: true}
	for {
		s.Pos++ // the brace or comma
		s.Peek()
		begin := s.Pos
		s.HasEscape = false
		if s.Pos >= len(s.Data) || s.Data[s.Pos] != '"' || !s.ScanString() {
			return seen, false
		}
		key := s.Data[begin:s.Pos]
		if s.Peek() != ':' {
			return seen, false
		}
		s.Pos++
		s.Peek()
		member := -1
		for i, name := range envelopeKeys {
			if jsonscan.EqualString(key, name) {
				member = i
				e.dup |= seen & (1 << i)
				seen |= 1 << i
			}
		}
		begin = s.Pos
		if !s.ScanValue() {
			return seen, false
		}
		value := s.Data[begin:s.Pos:s.Pos]
		next := s.Peek()
		if member >= 0 && (next == ',' || next == '}') {
			e.vals[member] = value
		}
		if next != ',' {
			return seen, next == '}'
		}
	}
}

// findReplies implements [replyFinder]. A message, or a member of a batch, may be a reply
// if it is an object with an id and without a method. If the JSON is invalid, or the
// method is no string, a reply needs a result or an error too. In invalid JSON,
// findReplies finds the ids by the outline of the text: nothing more can be recognized
// there.
func (p jsonrpc) findReplies(m *Message, msg []byte, maxBatch int) (found []foundReply) {
	perr, _ := m.Items[0].Err.(*ProtocolError)
	broken := !m.Batch && perr != nil && perr.Code == CodeParseError
	array := firstByte(msg) == '['
	refused := array && !broken && !m.Batch // the batch was refused as a whole
	if refused && !m.allMembersInvalid || array && !p.batches() {
		return nil // an empty or too long batch, or an array in a protocol without batches
	}
	o := outline{data: msg, level: 1}
	if array {
		o.level = 2
	}
	var e envelope
	for o.nextObject(&e) && (maxBatch <= 0 || o.place < maxBatch) {
		r := foundReply{itemIndex: o.place}
		switch {
		case e.has(memberMethod) && !e.isReplyWithMethod() || len(e.vals[memberID]) == 0 || e.dup&(1<<memberID) != 0:
			continue
		case broken:
			id := e.vals[memberID]
			if ok, _ := jsonscan.Valid(id); !ok || !e.likeResponse() {
				continue
			}
			r.itemIndex = 0
			r.ID, _ = p.id(&e, true)
			r.ID = callID(r.ID)
			r.Kind, r.Err = KindResponse, protocolErrorf(CodeParseError, "%s (ID: %s)", perr.Message, excerpt(id))
		default:
			p.interpretEnvelope(m, &r.Item, &e, true)
			if refused {
				r.itemIndex = 0
			}
			if e.has(memberMethod) && !p.loose() {
				r.Result, r.Err = nil, protocolErrorf(CodeInvalidRequest, `response contains a "method" (ID: %s)`, excerpt(e.vals[memberID]))
			}
		}
		if r.ID != nil {
			found = append(found, r)
		}
	}
	return found
}

// isReplyWithMethod reports whether a message has a result or an error, and a method that
// is no string. Such a message can only be a reply: some programs send null for each
// unused member.
func (e *envelope) isReplyWithMethod() bool {
	method := e.vals[memberMethod]
	return e.likeResponse() && len(method) > 0 && method[0] != '"'
}

// firstByte returns the first byte of a message after white space, 0 if there is none.
func firstByte(msg []byte) byte {
	s := jsonscan.Scanner{Data: msg}
	return s.Peek()
}

// outline reads a text only by its brackets and strings, whether or not the text is JSON.
// It finds the objects at a level of nesting.
type outline struct {
	data     []byte
	level    int // nesting level of the objects' members
	pos      int
	depth    int
	elements int // elements of the surrounding array that were passed
	place    int // index of the last object in that array
}

// nextObject stores the members of the next object in e. In a truncated text, the last
// member has an empty value.
func (o *outline) nextObject(e *envelope) bool {
	*e = envelope{object: true}
	in := false // within an object at this level
	key, value := []byte(nil), -1
	for ; o.pos < len(o.data); o.pos++ {
		switch c := o.data[o.pos]; c {
		case '"':
			start := o.pos
			o.pos = stringEnd(o.data, start)
			if in && o.depth == o.level && value < 0 {
				key = o.data[start:min(o.pos+1, len(o.data))]
			}
		case ':':
			if in && o.depth == o.level && value < 0 {
				value = o.pos + 1
			}
		case '{', '[':
			if o.depth++; o.depth == o.level {
				in, o.place = c == '{', o.elements
			}
		case ',', '}', ']':
			if in && o.depth == o.level {
				if value >= 0 {
					e.setMember(key, bytes.Trim(o.data[value:o.pos], " \t\r\n"))
				}
				key, value = nil, -1
			}
			switch {
			case c != ',':
				if o.depth--; in && o.depth < o.level {
					o.pos++
					return true
				}
			case o.depth == o.level-1:
				o.elements++
			}
		}
	}
	if value >= 0 {
		e.setMember(key, []byte{})
	}
	return in
}

// stringEnd returns the position of the closing quote of the string at start, or the
// length of data if the quote is missing.
func stringEnd(data []byte, start int) int {
	for i := start + 1; i < len(data); i++ {
		switch data[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return len(data)
}

// setMember stores a member of an object, if its key is in envelopeKeys.
func (e *envelope) setMember(key, value []byte) {
	s := jsonscan.Scanner{Data: key}
	if !s.ScanString() || s.Pos != len(key) {
		return
	}
	text := jsonscan.UnquoteBytes(key)
	for i, name := range envelopeKeys {
		if string(text) == name {
			if e.vals[i] != nil {
				e.dup |= 1 << i
			}
			e.vals[i] = value
			return
		}
	}
}
