package rpcx

import "example.com/rpcx/internal/jsonscan"

// JSONRPCAutoDetect selects one of the three JSON-RPC protocols by the first message
// received in a session. Until then JSONRPCAutoDetect writes JSON-RPC 2.0. A message with
// a version selects its version. A message with both "result" and "error" selects 1.0.
// Any different JSON selects [JSONRPCLoose]. In a batch, a single member with a strict
// version decides, 2.0 before 1.0.
var JSONRPCAutoDetect Protocol = autoDetect{jsonrpc{v2{}}}

type autoDetect struct{ jsonrpc }

// Decode interprets a message under its detected protocol.
func (a autoDetect) Decode(m *Message, msg []byte, maxBatch int) {
	if p := a.Detect(msg, maxBatch); p != nil {
		p.Decode(m, msg, maxBatch)
		return
	}
	a.jsonrpc.Decode(m, msg, maxBatch)
}

// Detect implements [Detector]. Invalid JSON, an object with a duplicate member, and a
// batch over the limit select no protocol. Within a batch, a duplicate member does not
// matter.
func (autoDetect) Detect(msg []byte, maxBatch int) Protocol {
	s := jsonscan.Scanner{Data: msg}
	var found Protocol
	if s.Peek() == '[' {
		if found = detectBatch(&s, maxBatch); found == nil {
			return nil
		}
	} else {
		var e envelope
		if !scanEnvelope(&s, &e) || e.dup != 0 {
			return nil
		}
		found = e.shownProtocol()
	}
	if !s.AtEnd() || !s.IsUTF8() {
		return nil
	}
	return found
}

// detectBatch scans a batch. As in decodeBatch, s must be at the opening bracket.
func detectBatch(s *jsonscan.Scanner, maxBatch int) Protocol {
	found := JSONRPCLoose
	s.Pos++
	s.Depth = 1
	if s.Peek() == ']' {
		s.Pos++
		return found
	}
	for n := 1; maxBatch <= 0 || n <= maxBatch; n++ {
		var e envelope
		if !scanEnvelope(s, &e) {
			return nil
		}
		if p := e.shownProtocol(); p == JSONRPCv2 || p == JSONRPCv1 && found == JSONRPCLoose {
			found = p
		}
		switch s.Peek() {
		case ',':
			s.Pos++
		case ']':
			s.Pos++
			return found
		default:
			return nil
		}
	}
	return nil
}

// shownProtocol returns the protocol of a message or of a member of a batch.
func (e *envelope) shownProtocol() Protocol {
	switch version := e.vals[memberVersion]; {
	case version != nil && jsonscan.EqualString(version, "2.0"):
		return JSONRPCv2
	case version != nil && jsonscan.EqualString(version, "1.0"):
		return JSONRPCv1
	case e.has(memberResult) && e.has(memberError):
		return JSONRPCv1
	}
	return JSONRPCLoose
}
