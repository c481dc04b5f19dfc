package rpcx

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"example.com/rpcx/internal/jsonscan"
)

// jsonrpc is a version of JSON-RPC as a [Protocol]. jsonrpc holds the code common to
// every version; the dialect holds the differences.
type jsonrpc struct{ dialect }

// dialect is the part of JSON-RPC that depends on the version.
type dialect interface {
	// id returns the id of a request or response, nil for null and for a permitted
	// absence.
	id(e *envelope, response bool) (ID, *ProtocolError)
	// checkVersion checks the "jsonrpc" member.
	checkVersion(e *envelope) *ProtocolError
	// requestParams checks the params of a request. The callers treat null as no params:
	// without Message.StrictParams, they call requestParams only for params that are
	// neither absent nor null.
	requestParams(e *envelope) (Params, *ProtocolError)
	// responseOutcome returns the result of a response, or its error: an *Error, or a
	// *ProtocolError if the response is ill-formed.
	responseOutcome(e *envelope) (json.RawMessage, error)

	// The append methods build messages. In appendRequest, a nil id makes a notification.
	appendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error)
	AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error)
	AppendError(dst []byte, id ID, e *Error, c Codec) ([]byte, error)
}

// batches reports whether an array is a batch.
func (p jsonrpc) batches() bool { return p.dialect != v1{} }

// loose reports whether a response may contain its call's number as a string.
func (p jsonrpc) loose() bool { return p.dialect == loose{} }

// envelope holds the raw members of a message; absent members are nil.
type envelope struct {
	object bool // the message is an object
	dup    uint // bit i: member i occurs twice
	vals   [len(envelopeKeys)][]byte
}

var envelopeKeys = [...]string{"jsonrpc", "method", "params", "id", "result", "error"}

const (
	memberVersion = iota
	memberMethod
	memberParams
	memberID
	memberResult
	memberError
)

func (e *envelope) has(member int) bool { return e.vals[member] != nil }

// likeResponse reports whether a message looks like a response.
func (e *envelope) likeResponse() bool { return e.has(memberResult) || e.has(memberError) }

// scanEnvelope scans a value, and stores the members of envelopeKeys if the value is an
// object.
func scanEnvelope(s *jsonscan.Scanner, e *envelope) (ok bool) {
	*e = envelope{object: s.Peek() == '{'}
	const usual = `{"jsonrpc":"2.0",` // the usual beginning of a message
	switch rest := s.Data[s.Pos:]; {
	case !e.object:
		return s.ScanValue()
	case len(rest) > len(usual) && string(rest[:len(usual)]) == usual:
		e.vals[memberVersion] = rest[len(`{"jsonrpc":`) : len(usual)-1 : len(usual)-1]
		s.Pos += len(usual)
		e.dup, ok = s.ScanMoreMembers(envelopeKeys[:], e.vals[:])
	default:
		e.dup, ok = s.ScanMembers(envelopeKeys[:], e.vals[:])
	}
	return ok
}

// maxInvalid is the number of invalid members of a batch that are answered separately. A
// batch with more invalid members is refused as a whole. Its sender sends no requests,
// and a member of two bytes would get an answer of a hundred.
const maxInvalid = 16

const (
	textNotUTF8   = "messages must be encoded in UTF-8"
	textNotJSON   = "invalid JSON"
	textNotObject = "request object must be a dictionary"
	textEmpty     = "batch is empty"

	textManyInvalid = "batch has over 16 invalid members"
)

// Decode implements [Protocol].
func (p jsonrpc) Decode(m *Message, msg []byte, maxBatch int) {
	s := jsonscan.Scanner{Data: msg}
	var ok bool
	switch c := s.Peek(); {
	case c == '[' && p.batches():
		ok = p.decodeBatch(m, &s, maxBatch, true)
	case c == '{':
		e := &m.env
		if ok = scanEnvelope(&s, e); ok {
			p.interpretEnvelope(m, m.Single(), e, !e.has(memberMethod) && e.likeResponse())
			m.keepText(msg)
		}
	default:
		if ok = s.ScanValue(); ok {
			m.setInvalid(CodeInvalidRequest, textNotObject)
			if c == '[' {
				m.Items[0].Err.(*ProtocolError).Hint = hintV2
			}
		}
	}
	ok = ok && (s.Stopped || s.AtEnd())
	switch {
	case ok && s.Stopped: // a refused batch is not checked further
	case (s.NonASCII || !ok) && !utf8.Valid(msg):
		m.setInvalid(CodeParseError, textNotUTF8)
	case !ok:
		m.setInvalid(CodeParseError, textNotJSON)
	}
}

// decodeBatch scans a batch from its opening bracket to its closing bracket. If every
// member looks like a response, the batch is a batch of responses. The first call sets
// responses and expects such a batch. If a later member differs, decodeBatch starts again,
// once, with responses false.
func (p jsonrpc) decodeBatch(m *Message, s *jsonscan.Scanner, maxBatch int, responses bool) bool {
	start := s.Pos
	s.Pos++
	if s.Peek() == ']' {
		s.Pos++
		m.setInvalid(CodeInvalidRequest, textEmpty)
		return true
	}
	if m.keepItems(); m.spare == nil {
		m.spare = make([]Item, 0, min(len(s.Data)/40+1, 128)) // a rough count of the members, at most 128
	}
	m.Batch, m.Items, m.texts = true, m.spare[:0], m.texts[:0]
	s.Depth = 1
	invalid := 0
	for {
		if maxBatch > 0 && len(m.Items) == maxBatch {
			m.setInvalid(CodeInvalidRequest, "batch too long: "+overLimitText(maxBatch, "members", "Limits.Batch"))
			s.Stopped = true
			return true
		}
		e, begin := &m.env, s.Pos
		if !scanEnvelope(s, e) {
			return false
		}
		if responses && !e.likeResponse() {
			if responses = false; len(m.Items) > 0 {
				s.Pos = start
				return p.decodeBatch(m, s, maxBatch, false)
			}
		}
		if len(m.Items) == cap(m.Items) {
			m.growItems(s.Pos-start, len(s.Data)-s.Pos, maxBatch)
		}
		m.Items = append(m.Items, Item{})
		item := &m.Items[len(m.Items)-1]
		p.interpretEnvelope(m, item, e, responses)
		m.keepText(s.Data[begin:s.Pos])
		if item.Kind == KindInvalid {
			if invalid++; invalid > maxInvalid {
				onlyInvalid := len(m.Items) == invalid
				m.setInvalid(CodeInvalidRequest, textManyInvalid)
				m.allMembersInvalid = onlyInvalid
				s.Stopped = true
				return true
			}
		}
		switch s.Peek() {
		case ',':
			s.Pos++
		case ']':
			s.Pos++
			s.Depth = 0
			return true
		default:
			return false
		}
	}
}

// interpretEnvelope fills item from an envelope.
func (p jsonrpc) interpretEnvelope(m *Message, item *Item, e *envelope, response bool) {
	perr := p.checkEnvelope(item, e, response)
	if perr != nil {
		perr.Hint = p.versionHint(e)
	}
	switch {
	case response:
		item.Kind = KindResponse
		item.ID = callID(item.ID)
		if perr != nil {
			item.Err = perr
		} else {
			item.Result, item.Err = p.responseOutcome(e)
		}
	case perr != nil:
		item.Err = perr
	case !e.has(memberMethod) || e.vals[memberMethod][0] != '"':
		item.Err = protocolError(CodeInvalidRequest, "method must be a string")
	default:
		raw := e.vals[memberParams]
		without := raw == nil || jsonscan.IsNull(raw)
		if m.StrictParams || !without {
			if item.Params, perr = p.requestParams(e); perr != nil {
				if perr.Hint = p.versionHint(e); perr.Hint == "" && without {
					perr.Hint = hintStrict
				}
				item.Err = perr
				return
			}
		}
		item.Method = m.methodName(e.vals[memberMethod])
		item.Kind = KindRequest
		if item.ID == nil {
			item.Kind = KindNotification
		}
	}
}

const (
	hintV1     = "the message looks like JSON-RPC 1.0: set Options.Protocol to JSONRPCv1, to JSONRPCAutoDetect for the version of a session's first message, or to JSONRPCLoose for both in one session"
	hintStrict = "null or missing params are taken for none without Options.StrictParams"

	hintV2 = "the message looks like JSON-RPC 2.0: set Options.Protocol to JSONRPCv2, to JSONRPCAutoDetect for the version of a session's first message, or to JSONRPCLoose for both in one session"
)

// versionHint returns a hint if the sender of an invalid message speaks another version
// than p, otherwise "".
func (p jsonrpc) versionHint(e *envelope) string {
	if !e.object {
		return ""
	}
	version := e.vals[memberVersion]
	switch p.dialect {
	case v1{}:
		if version != nil && jsonscan.EqualString(version, "2.0") {
			return hintV2
		}
	case v2{}:
		switch {
		case version != nil && version[0] != '"':
			return `"jsonrpc" has to be a string, "2.0"`
		case version == nil && (e.has(memberMethod) || e.likeResponse()) || version != nil && jsonscan.EqualString(version, "1.0"):
			return hintV1
		}
	}
	return ""
}

// checkEnvelope sets the item's ID and makes the checks common to requests and responses.
func (p jsonrpc) checkEnvelope(item *Item, e *envelope, response bool) *ProtocolError {
	if !e.object {
		return protocolError(CodeInvalidRequest, textNotObject)
	}
	if e.dup != 0 {
		// Programs differ in whether the first or the last occurrence counts.
		if e.dup&(1<<memberID) == 0 {
			item.ID, _ = p.id(e, response)
		}
		return protocolError(CodeInvalidRequest, "a member of the message is given twice")
	}
	var perr *ProtocolError
	if item.ID, perr = p.id(e, response); perr != nil {
		return perr
	}
	return p.checkVersion(e)
}

func (p jsonrpc) AppendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error) {
	if id == nil {
		return dst, unsentf(CodeInvalidRequest, "a request needs an ID")
	}
	return p.appendRequest(dst, id, method, params, c)
}

func (p jsonrpc) AppendNotification(dst []byte, method string, params any, c Codec) ([]byte, error) {
	return p.appendRequest(dst, nil, method, params, c)
}

func (p jsonrpc) AppendBatch(dst []byte, parts [][]byte) ([]byte, error) {
	if len(parts) == 0 || len(parts) == 1 && len(parts[0]) == 0 {
		return dst, unsentf(CodeInvalidRequest, textEmpty)
	}
	if !p.batches() {
		return dst, unsentf(CodeInvalidRequest, "protocol does not permit batches")
	}
	size := 2
	for _, part := range parts {
		size += len(part) + len(", ")
	}
	dst = append(slices.Grow(dst, size), '[')
	for i, part := range parts {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, part...)
	}
	return append(dst, ']'), nil
}

// Codec returns [JSON].
func (jsonrpc) Codec() Codec { return JSON }

// appendParams appends the encoding of params, an array or an object. For nil, null and
// an empty array other than EmptyArgs, appendParams appends nothing.
func appendParams(dst []byte, params any, c Codec) (out []byte, err error) {
	switch p := params.(type) {
	case nil:
		return dst, nil
	case emptyArgs:
		return append(dst, "[]"...), nil
	case Mixed:
		if params = p.Args; p.Named != nil {
			if len(p.Args) > 0 {
				return dst, unsentf(CodeInvalidParams, "JSON-RPC cannot carry positional and named arguments together")
			}
			params = p.Named
		}
	case Params: // the params of a forwarded request
		if params = p.Positional; p.Named != nil {
			params = p.Named
		}
	}
	out, err = appendCodec(dst, c, params)
	if err != nil {
		return dst, err
	}
	switch added := out[len(dst):]; {
	case added[0] == '{', added[0] == '[' && len(added) > 2:
		return out, nil
	case added[0] == '[', jsonscan.IsNull(added):
		return dst, nil
	}
	return dst, illTypedParams(params)
}

// illTypedParams returns the error for outgoing params whose encoding is neither an array
// nor an object.
func illTypedParams(params any) *ProtocolError {
	e := unsentf(CodeInvalidParams, "request arguments must be a list or a dictionary")
	e.Hint = fmt.Sprintf("of the params, a value of type %T, make rpcx.Args{…}, or a map or struct for named ones", params)
	if _, ok := params.([]byte); ok {
		e.Hint += "; of bytes that are JSON already, json.RawMessage(params)"
	}
	return e
}

// appendErrorObject appends the error object of e.
func appendErrorObject(dst []byte, e *Error, c Codec) ([]byte, error) {
	out := append(dst, `{"code":`...)
	out = strconv.AppendInt(out, int64(e.Code), 10)
	out = append(out, `,"message":`...)
	out = jsonscan.AppendString(out, e.Message)
	switch data := e.Data.(type) {
	case nil:
	case busyData:
		out = append(append(out, `,"data":`...), data...)
	default:
		var err error
		if out, err = appendCodec(append(out, `,"data":`...), c, data); err != nil {
			return dst, err
		}
	}
	return append(out, '}'), nil
}

// endResponse ends a response whose beginning is out: with end, id and a brace. For an
// error, endResponse returns dst.
func endResponse(dst, out []byte, err error, end string, id ID) ([]byte, error) {
	if err != nil {
		return dst, err
	}
	return append(appendID(append(out, end...), id), '}'), nil
}

func appendID(dst []byte, id ID) []byte {
	if id == nil {
		return append(dst, "null"...)
	}
	return append(dst, id...)
}

var errorKeys = [...]string{"code", "message", "data"}

// decodeErrorObject decodes an error object, with integer as the parser of its code. If
// the code or the message is missing or ill typed, its result is false; the valid member
// is kept.
func decodeErrorObject(raw []byte, integer func([]byte) (int, bool)) (e *Error, codeOK, messageOK bool) {
	e = &Error{}
	if raw[0] != '{' {
		return e, false, false
	}
	var vals [len(errorKeys)][]byte
	s := jsonscan.Scanner{Data: raw}
	if _, ok := s.ScanMembers(errorKeys[:], vals[:]); !ok {
		return e, false, false
	}
	if vals[0] != nil {
		e.Code, codeOK = integer(vals[0])
	}
	if vals[1] != nil && vals[1][0] == '"' {
		e.Message, messageOK = jsonscan.Unquote(vals[1]), true
	}
	if vals[2] != nil {
		e.Data = json.RawMessage(bytes.Clone(vals[2]))
	}
	return e, codeOK, messageOK
}

// bestEffortError decodes an error of any form. Data is the whole error, except for an
// object with a code and a message that has data or no further members.
func bestEffortError(raw []byte) *Error {
	e, codeOK, messageOK := decodeErrorObject(raw, looseInteger)
	if !codeOK || !messageOK || e.Data == nil && hasMore(raw) {
		e.Data = json.RawMessage(bytes.Clone(raw))
	}
	if raw[0] == '"' {
		e.Message, messageOK = jsonscan.Unquote(raw), true
	} else if raw[0] != '{' {
		e.Code, codeOK = looseInteger(raw)
	}
	if !codeOK {
		e.Code = CodeUnavailable
	}
	if !messageOK {
		e.Message = "no error message provided"
	}
	return e
}

// hasMore reports whether an error object has more than two members.
func hasMore(raw []byte) bool {
	s := jsonscan.Scanner{Data: raw}
	n := 0
	for _, _, ok := s.NextMember(); ok; _, _, ok = s.NextMember() {
		n++
	}
	return n > 2
}

// parseInteger parses a JSON number written as an integer.
func parseInteger(raw []byte) (int, bool) {
	n, err := strconv.Atoi(string(raw))
	return n, err == nil && raw[0] != '+'
}

// looseInteger parses an integer in any notation: 1, 1.0, 1e0, or such a number in a
// string.
func looseInteger(raw []byte) (int, bool) {
	if n, ok := parseInteger(raw); ok {
		return n, true
	}
	if raw = numberIn(raw); raw == nil {
		return 0, false
	}
	digits, negative := bytes.CutPrefix(raw, []byte("-"))
	n, ok := integralValue(digits)
	switch {
	case !ok, n > math.MaxInt:
		return 0, false
	case negative:
		return -int(n), true
	}
	return int(n), true
}

// maxNumber is the number of characters in which numberIn looks for a number. An escape
// sequence takes 6 bytes for a character, so numberIn ignores strings over 6*maxNumber
// bytes.
const maxNumber = 64

// numberIn returns raw if raw is a JSON number, or the number within the string raw,
// otherwise nil.
func numberIn(raw []byte) []byte {
	if s := (jsonscan.Scanner{Data: raw}); s.Peek() == '"' && len(raw) <= 6*maxNumber && s.ScanString() && s.Pos == len(raw) {
		raw = []byte(jsonscan.Unquote(raw))
	}
	if !isNumber(raw) {
		return nil
	}
	return raw
}

// callID normalizes the id of a response to the form of this side's own ids: the decimal
// text of an integer. An id with the same value (-0, 1.0, 1e0) becomes that text. Any
// different id stays unchanged.
func callID(id ID) ID {
	for _, c := range id {
		if c-'0' > 9 {
			if n, ok := integralValue(id); ok {
				return strconv.AppendUint(nil, n, 10)
			}
			break
		}
	}
	return id
}

// integralValue returns the value of a valid JSON number if the value is an integer from
// 0 to 2^64-1. The result is exact: integralValue never converts to a float.
func integralValue(raw []byte) (uint64, bool) {
	if raw[0] != '-' && raw[0]-'0' > 9 {
		return 0, false
	}
	mantissa, exponent := raw, 0
	if i := bytes.IndexAny(raw, "eE"); i >= 0 {
		// For an exponent out of range, Atoi returns the nearest int, whose size is far
		// beyond the length of any mantissa.
		mantissa = raw[:i]
		exponent, _ = strconv.Atoi(string(raw[i+1:]))
	}
	negative := mantissa[0] == '-'
	mantissa = bytes.TrimPrefix(mantissa, []byte("-"))
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	digits := append(bytes.Clone(whole), fraction...)
	significant := bytes.TrimRight(digits, "0")
	exponent += len(digits) - len(significant) - len(fraction)
	significant = bytes.TrimLeft(significant, "0")
	if len(significant) == 0 {
		return 0, true // zero, of either sign
	}
	if negative || exponent < 0 || exponent > 20 {
		return 0, false
	}
	text := append(significant, bytes.Repeat([]byte("0"), exponent)...)
	n, err := strconv.ParseUint(string(text), 10, 64)
	return n, err == nil
}
