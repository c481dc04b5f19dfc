package rpcx

import "example.com/rpcx/internal/jsonscan"

// JSONRPCAutoDetect settles on one of the other three by the first message
// that a session receives. Until then it writes JSON-RPC 2.0. A message that
// says its version decides for it; one that has both "result" and "error" is
// 1.0; anything else that is JSON makes the session [JSONRPCLoose]. In a batch
// one member that shows a strict version decides, 2.0 before 1.0.
var JSONRPCAutoDetect Protocol = autoDetect{jsonrpc{v2{}}}

type autoDetect struct{ jsonrpc }

// Decode interprets a message under the protocol that it shows.
func (a autoDetect) Decode(m *Message, msg []byte, maxBatch int) {
	if p := a.Detect(msg, maxBatch); p != nil {
		p.Decode(m, msg, maxBatch)
		return
	}
	a.jsonrpc.Decode(m, msg, maxBatch)
}

// Detect implements [Detector]. A message that does not parse, one that gives
// a member twice, and a batch that is too long decide nothing.
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

// detectBatch scans a batch; s is in it as in decodeBatch.
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

// shownProtocol returns the protocol that a message or member shows.
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
