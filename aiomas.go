package rpcx

import (
	"encoding/json"
	"slices"
	"strings"

	"example.com/rpcx/internal/jsonscan"
)

// Aiomas is the protocol of aiomas.rpc with its JSON codec; it goes together with
// a [LengthFramer]. A message is [type, id, content]: a request has type 0 and the
// content [path, args, kwargs], a result type 1, an exception type 2 and a traceback.
//
// An error is sent as a traceback without stack: its text, whatever the error
// is, behind "LookupError: " or "TypeError: " if its code is [CodeMethodNotFound]
// or [CodeInvalidParams]. An exception that is received is an [*Error] with
// [CodeUnavailable], the last lines as its message, and the whole traceback, a
// string, as its Data.
//
// Where any value is expected, whole numbers are decoded to int64.
//
// There are neither notifications nor batches. As in aiomas, a message that is not
// of this form ends the session. Other than there, a request whose content is not
// is answered with an exception.
var Aiomas ServiceProtocol = aiomas{}

type aiomas struct{}

// The types of messages.
const (
	aiomasRequest = iota
	aiomasResult
	aiomasException
)

// Decode implements [Protocol].
func (aiomas) Decode(m *Message, msg []byte, _ int) {
	item := m.Single()
	item.Kind = KindFatal
	s := jsonscan.Scanner{Data: msg}
	var parts [3]json.RawMessage
	if !scanArray(&s, parts[:]) || !s.AtEnd() || !s.IsUTF8() {
		item.Err = protocolError(CodeParseError, "the message is not [type, id, content]")
		return
	}
	kind, ok := integralValue(parts[0])
	content := parts[2]
	switch {
	case ok && kind == aiomasRequest:
		item.ID = ID(parts[1])
		m.request(item, content)
	case ok && kind == aiomasResult:
		item.Kind, item.ID, item.Result = KindResponse, callID(ID(parts[1])), content
	case ok && kind == aiomasException:
		item.Kind, item.ID = KindResponse, callID(ID(parts[1]))
		traceback := string(content)
		if content[0] == '"' {
			traceback = jsonscan.Unquote(content)
		}
		item.Err = TracebackError(traceback)
	default:
		item.Err = protocolError(CodeInvalidRequest, "invalid message type "+excerpt(parts[0]))
	}
}

// DecodeStart implements [StartDecoder].
func (aiomas) DecodeStart(m *Message, start []byte) {
	item := m.Single()
	item.Kind = KindFatal // an answer without an ID would end the connection
	s := jsonscan.Scanner{Data: start}
	if s.Peek() != '[' {
		return
	}
	var parts [2]json.RawMessage
	for i := range parts {
		s.Pos++ // the bracket or comma
		s.Peek()
		begin := s.Pos
		if !s.ScanValue() {
			return
		}
		parts[i] = start[begin:s.Pos:s.Pos]
		if s.Peek() != ',' {
			return
		}
	}
	if kind, ok := integralValue(parts[0]); ok && kind <= aiomasException && s.IsUTF8() {
		if item.Kind, item.ID = KindRequest, ID(parts[1]); kind != aiomasRequest {
			item.Kind, item.ID = KindResponse, callID(item.ID)
		}
	}
}

// request makes item of the content of a request.
func (m *Message) request(item *Item, content []byte) {
	item.Kind = KindInvalid
	s := jsonscan.Scanner{Data: content}
	var parts [3]json.RawMessage
	switch {
	case !scanArray(&s, parts[:]):
		item.Err = protocolError(CodeInvalidRequest, "the content of a request has to be [path, args, kwargs]")
	case parts[0][0] != '"':
		item.Err = protocolError(CodeInvalidRequest, "the path of a request has to be a string")
	case parts[1][0] != '[':
		item.Err = protocolError(CodeInvalidParams, "the args of a request have to be a list")
	case parts[2][0] != '{':
		item.Err = protocolError(CodeInvalidParams, "the kwargs of a request have to be a dictionary")
	default:
		item.Kind, item.Method = KindRequest, m.methodName(parts[0])
		item.Params = Params{Positional: parts[1], Named: parts[2]}
	}
}

// scanArray scans an array of just as many elements as parts has.
func scanArray(s *jsonscan.Scanner, parts []json.RawMessage) bool {
	if s.Peek() != '[' {
		return false
	}
	s.Depth++
	defer func() { s.Depth-- }()
	for i := range parts {
		s.Pos++ // the bracket or comma
		s.Peek()
		start := s.Pos
		if !s.ScanValue() {
			return false
		}
		parts[i] = s.Data[start:s.Pos:s.Pos]
		if c := s.Peek(); c != ',' && i < len(parts)-1 || c != ']' && i == len(parts)-1 {
			return false
		}
	}
	s.Pos++
	return true
}

// AppendRequest implements [Protocol].
func (aiomas) AppendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error) {
	if id == nil {
		return dst, unsentf(CodeInvalidRequest, "a request needs an ID")
	}
	positional, named := params, any(nil)
	switch p := params.(type) {
	case Mixed:
		positional, named = p.Args, p.Named
	case Params: // those of a request that is passed on
		positional, named = p.Positional, p.Named
	}
	out := append(append(append(dst, "[0,"...), id...), ",["...)
	out = append(jsonscan.AppendString(out, method), ',')
	start := len(out)
	out, err := appendCodec(out, c, positional)
	if err != nil {
		return dst, err
	}
	switch {
	case out[start] == 'n':
		out = append(out[:start], "[],"...)
	case out[start] == '[':
		out = append(out, ',')
	case out[start] == '{' && named == nil:
		out = append(slices.Insert(out, start, '[', ']', ','), "]]"...)
		return out, nil
	default:
		return dst, illTypedParams(params)
	}
	start = len(out)
	if out, err = appendCodec(out, c, named); err != nil {
		return dst, err
	}
	switch out[start] {
	case 'n':
		out = append(out[:start], "{}"...)
	case '{':
	default:
		return dst, unsentf(CodeInvalidParams, "named arguments must be a dictionary")
	}
	return append(out, "]]"...), nil
}

// AppendNotification implements [Protocol].
func (aiomas) AppendNotification(dst []byte, _ string, _ any, _ Codec) ([]byte, error) {
	return dst, unsentf(CodeInvalidRequest, "protocol does not permit notifications")
}

// AppendResult implements [Protocol].
func (aiomas) AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error) {
	out := append(appendID(append(dst, "[1,"...), id), ',')
	out, err := appendCodec(out, c, result)
	if err != nil {
		return dst, err
	}
	return append(out, ']'), nil
}

// AppendError implements [Protocol].
func (aiomas) AppendError(dst []byte, id ID, e *Error, _ Codec) ([]byte, error) {
	out := append(appendID(append(dst, "[2,"...), id), ',')
	return append(jsonscan.AppendString(out, Traceback(e)), ']'), nil
}

// AppendBatch implements [Protocol].
func (aiomas) AppendBatch(dst []byte, _ [][]byte) ([]byte, error) {
	return dst, unsentf(CodeInvalidRequest, "protocol does not permit batches")
}

// Codec returns [JSON], save that where any value is expected whole numbers become
// int64 (json.Number beyond that), so that they are not rounded.
func (aiomas) Codec() Codec { return wholeNumbers{} }

type wholeNumbers struct{ jsonCodec }

// Unmarshal implements [Codec].
func (wholeNumbers) Unmarshal(data []byte, v any) error {
	return unmarshalForm(data, v, integerNumbers)
}

// number implements [numberCodec].
func (wholeNumbers) number(n json.Number) (any, error) { return integerOrFloat(n), nil }

// integerOrFloat returns an int64 if n is a whole number, a float64 if n has a
// fraction or an exponent, and n itself beyond their ranges.
func integerOrFloat(n json.Number) any {
	if i, err := n.Int64(); err == nil {
		return i
	}
	if f, err := n.Float64(); err == nil && strings.ContainsAny(string(n), ".eE") {
		return f
	}
	return n
}

// Exception implements [ServiceProtocol]: the text of err is sent.
func (aiomas) Exception(err error) *Error {
	return &Error{Code: CodeInternalError, Message: err.Error()}
}

// tracebackStart is the first line of every traceback.
const tracebackStart = "Traceback (most recent call last):\n"

// Traceback returns the text as which [Aiomas] sends e.
func Traceback(e *Error) string {
	class := ""
	switch e.Code {
	case CodeMethodNotFound:
		class = "LookupError: "
	case CodeInvalidParams:
		class = "TypeError: "
	}
	return tracebackStart + class + e.Message + "\n"
}

// TracebackError returns the error that [Aiomas] makes of a traceback: the message
// is what stands behind the stack, whose lines are indented.
func TracebackError(traceback string) *Error {
	lines := strings.Split(strings.TrimRight(strings.TrimPrefix(traceback, tracebackStart), "\n"), "\n")
	for i, line := range slices.Backward(lines) {
		if strings.HasPrefix(line, " ") && i+1 < len(lines) {
			lines = lines[i+1:]
			break
		}
	}
	return &Error{Code: CodeUnavailable, Message: strings.Join(lines, "\n"), Data: traceback}
}
