package rpcx

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"

	"example.com/rpcx/internal/jsonscan"
)

// JSONRPCLoose reads both versions of JSON-RPC and what lies between them: no
// version is asked for, and a response may have a null beside what counts. A result
// that is missing is null, a string of a call's number is its id, and a code may be
// written as -32000.0 or "-32000". An error may be of any type, as for [JSONRPCv1].
// It writes JSON-RPC 2.0, so that a peer can tell what to answer in.
var JSONRPCLoose Protocol = jsonrpc{loose{}}

type loose struct{ v2 }

func (loose) loose() bool { return true }

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

// DecodeStart implements [StartDecoder]. A member counts only if it is whole, one of the
// object itself, and followed by what must follow it.
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
	case clear && null && !array: // a notification, or an error that is about no call
		item.Kind = KindNotification
	case response:
		m.Batch, item.Kind = array, KindResponse
		if clear {
			item.ID = callID(id)
		}
	case array: // which is refused as a whole
	case clear && id != nil:
		item.Kind, item.ID = KindRequest, id
	case clear && closed:
		item.Kind = KindNotification
	}
}

// scanStart scans what there is of an object. It stores the members of interest that
// are whole in e. Bit i of seen is set if the key of member i is there. closed reports
// whether the object is whole.
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

// findReplies implements [replyFinder]. A member of a batch, or a message, may be a
// reply if it is an object with an id and without a method. One that is no valid JSON,
// or has a method that is no string, needs a result or an error as well. If it is no
// valid JSON, the ids are found by the outline of the text, which is all that can be
// told of it.
func (p jsonrpc) findReplies(m *Message, msg []byte, maxBatch int) (found []foundReply) {
	perr, _ := m.Items[0].Err.(*ProtocolError)
	broken := !m.Batch && perr != nil && perr.Code == CodeParseError
	array := firstByte(msg) == '['
	refused := array && !broken && !m.Batch // the batch as a whole
	if refused && !m.allMembersInvalid || array && !p.batches() {
		return nil // an empty batch, one that is too long, or none
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

// isReplyWithMethod reports whether a message has an outcome beside a method that is no
// string, and so can only be a reply. Some programs send null for each member that they
// do not use.
func (e *envelope) isReplyWithMethod() bool {
	method := e.vals[memberMethod]
	return e.likeResponse() && len(method) > 0 && method[0] != '"'
}

// firstByte returns the first byte of a message that is no white space, 0 if there is none.
func firstByte(msg []byte) byte {
	s := jsonscan.Scanner{Data: msg}
	return s.Peek()
}

// outline goes through a text by its brackets and strings alone, whether or not it is
// JSON, and finds objects at a level of nesting.
type outline struct {
	data     []byte
	level    int // of the objects' members
	pos      int
	depth    int
	elements int // of the array around the objects, how many are behind
	place    int // of the last object among them
}

// nextObject stores the members of the next object in e. The last member of a text that is
// cut off has an empty value.
func (o *outline) nextObject(e *envelope) bool {
	*e = envelope{object: true}
	in := false // such an object
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

// stringEnd returns where the string that starts at start ends: at its closing quote,
// or at the end of data.
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

// setMember stores a member of an object.
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
