package rpcx

import (
	"unicode/utf8"

	"example.com/rpcx/internal/jsonscan"
)

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
