package rpcx

import "unicode/utf8"

// DecodeStart implements [StartDecoder]. A member counts only if it is whole, one of the
// object itself, and followed by what must follow it.
func (p jsonrpc) DecodeStart(m *Message, start []byte) {
	item := m.Single()
	s := scanner{data: start}
	array := s.ws() == '[' && p.batches()
	if array {
		s.pos++
	}
	if s.ws() != '{' {
		return
	}
	e := &m.env
	seen, closed := s.start(e)
	outcome := seen&(1<<memberResult|1<<memberError) != 0
	method := e.vals[memberMethod]
	response := outcome && (method != nil && method[0] != '"' || seen&(1<<memberMethod|1<<memberParams) == 0)
	request := !response && seen&(1<<memberMethod|1<<memberParams) != 0
	if !request && !response {
		return
	}
	id, err := p.id(e, response)
	clear := err == nil && e.dup == 0 && utf8.Valid(id)
	null := e.has(memberID) && isNull(e.vals[memberID])
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

// start scans what there is of an object at pos. It stores the members of interest that
// are whole in e. Bit i of seen is set if the key of member i is there. closed reports
// whether the object is whole.
func (s *scanner) start(e *envelope) (seen uint, closed bool) {
	*e = envelope{object: true}
	for {
		s.pos++ // the brace or comma
		s.ws()
		begin := s.pos
		s.escaped = false
		if s.pos >= len(s.data) || s.data[s.pos] != '"' || !s.str() {
			return seen, false
		}
		key := s.data[begin:s.pos]
		if s.ws() != ':' {
			return seen, false
		}
		s.pos++
		s.ws()
		member := -1
		for i, name := range envelopeKeys {
			if equalString(key, name) {
				member = i
				e.dup |= seen & (1 << i)
				seen |= 1 << i
			}
		}
		begin = s.pos
		if !s.value() {
			return seen, false
		}
		value := s.data[begin:s.pos:s.pos]
		next := s.ws()
		if member >= 0 && (next == ',' || next == '}') {
			e.vals[member] = value
		}
		if next != ',' {
			return seen, next == '}'
		}
	}
}
