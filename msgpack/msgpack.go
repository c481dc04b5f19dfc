// Package msgpack implements the MessagePack form of aiomas.rpc, aiomas's second codec:
//
//	opts := &rpcx.Options{Protocol: msgpack.Aiomas, Framer: rpcx.LengthFramer{}}
//
// The documentation of [rpcx.Aiomas] applies too. In addition, the protocol carries binary
// data, as []byte. Fields of structs take their names from json tags, so types need no
// second tag.
//
// If the destination is an any, integers become int64, or uint64 if too large for int64. A
// map with a key other than a string becomes a map[any]any.
//
// The package is in a separate module, example.com/rpcx/msgpack.
package msgpack

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"example.com/rpcx"
)

// Aiomas is the protocol, for use with [rpcx.LengthFramer].
var Aiomas rpcx.ServiceProtocol = wire{}

// wire implements aiomas in MessagePack. Errors have the form of [rpcx.Aiomas].
type wire struct{}

// Message types.
const (
	typeRequest = iota
	typeResult
	typeException
)

// Decode implements [rpcx.Protocol].
func (wire) Decode(m *rpcx.Message, msg []byte, _ int) {
	item := m.Single()
	item.Kind = rpcx.KindFatal
	var parts [3][]byte
	if rest, ok := split(msg, parts[:]); !ok || len(rest) > 0 {
		item.Err = &rpcx.ProtocolError{Code: rpcx.CodeParseError, Message: "the message is not [type, id, content]"}
		return
	}
	number, ok := integer(parts[0])
	switch {
	case ok && number == typeRequest:
		item.ID = parts[1]
		request(item, parts[2])
	case ok && number == typeResult:
		item.Kind, item.ID, item.Result = rpcx.KindResponse, callID(parts[1]), parts[2]
	case ok && number == typeException:
		item.Kind, item.ID = rpcx.KindResponse, callID(parts[1])
		traceback, ok := text(parts[2])
		if !ok {
			traceback = "an exception without a traceback"
		}
		item.Err = rpcx.TracebackError(traceback)
	default:
		item.Err = &rpcx.ProtocolError{Code: rpcx.CodeInvalidRequest, Message: fmt.Sprint("invalid message type ", number)}
	}
}

// DecodeStart implements [rpcx.StartDecoder].
func (wire) DecodeStart(m *rpcx.Message, start []byte) {
	item := m.Single()
	item.Kind = rpcx.KindFatal // an answer without an ID would end the connection
	n, _, elements := header(start)
	if n < 0 || kindOf(start[0]) != kindArray || elements != 3 {
		return
	}
	var parts [2][]byte
	for i, rest := 0, start[n:]; i < len(parts); i++ {
		size := skip(rest, 0)
		if size < 0 {
			return
		}
		parts[i], rest = rest[:size:size], rest[size:]
	}
	switch number, ok := integer(parts[0]); {
	case ok && number == typeRequest:
		item.Kind, item.ID = rpcx.KindRequest, parts[1]
	case ok && (number == typeResult || number == typeException):
		item.Kind, item.ID = rpcx.KindResponse, callID(parts[1])
	}
}

// request fills item from the content of a request.
func request(item *rpcx.Item, content []byte) {
	item.Kind = rpcx.KindInvalid
	var parts [3][]byte
	if _, ok := split(content, parts[:]); !ok {
		item.Err = &rpcx.ProtocolError{Code: rpcx.CodeInvalidRequest, Message: "the content of a request has to be [path, args, kwargs]"}
		return
	}
	path, ok := text(parts[0])
	switch {
	case !ok:
		item.Err = &rpcx.ProtocolError{Code: rpcx.CodeInvalidRequest, Message: "the path of a request has to be a string"}
	case kindOf(parts[1][0]) != kindArray:
		item.Err = &rpcx.ProtocolError{Code: rpcx.CodeInvalidParams, Message: "the args of a request have to be a list"}
	case kindOf(parts[2][0]) != kindMap:
		item.Err = &rpcx.ProtocolError{Code: rpcx.CodeInvalidParams, Message: "the kwargs of a request have to be a dictionary"}
	default:
		item.Kind, item.Method = rpcx.KindRequest, path
		item.Params = rpcx.Params{Positional: parts[1], Named: parts[2]}
	}
}

// callID returns the id of a response in the session's form, decimal text. An id that is no
// number is unchanged, and matches no call.
func callID(raw []byte) rpcx.ID {
	if n, ok := integer(raw); ok {
		return strconv.AppendUint(nil, n, 10)
	}
	return raw
}

const (
	array2 = 0x92 // header of an array of two elements
	array3 = 0x93
	null   = 0xc0
)

// AppendRequest implements [rpcx.Protocol].
func (wire) AppendRequest(dst []byte, id rpcx.ID, method string, params any, c rpcx.Codec) ([]byte, error) {
	number, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		return dst, &rpcx.ProtocolError{Code: rpcx.CodeInvalidRequest, Message: "a request needs a number as its ID", Unsent: true}
	}
	positional, named := params, any(nil)
	switch p := params.(type) {
	case rpcx.Mixed:
		positional, named = p.Args, p.Named
	case rpcx.Params: // params of a forwarded request
		positional, named = p.Positional, p.Named
	}
	out := appendUint(append(dst, array3, typeRequest), number)
	if out, err = encode(append(out, array3), nil, method); err != nil {
		return dst, err
	}
	start := len(out)
	if out, err = encode(out, c, positional); err != nil {
		return dst, err
	}
	switch kind := kindOf(out[start]); {
	case kind == kindArray:
	case kind == kindNull:
		out[start] = emptyArray
	case kind == kindMap && named == nil: // only named params
		return slices.Insert(out, start, emptyArray), nil
	default:
		return dst, &rpcx.ProtocolError{
			Code: rpcx.CodeInvalidParams, Message: "request arguments must be a list or a dictionary", Unsent: true,
			Hint: fmt.Sprintf("of the params, a value of type %T, make rpcx.Args{…}, or a map or struct for named ones", positional),
		}
	}
	start = len(out)
	if out, err = encode(out, c, named); err != nil {
		return dst, err
	}
	switch kindOf(out[start]) {
	case kindMap:
	case kindNull:
		out[start] = emptyMap
	default:
		return dst, &rpcx.ProtocolError{Code: rpcx.CodeInvalidParams, Message: "named arguments must be a dictionary", Unsent: true}
	}
	return out, nil
}

const (
	emptyArray = 0x90
	emptyMap   = 0x80
)

// encode appends the encoding of v, and checks that the output is a single value. The
// package's own codec (also for a nil c) is checked too, since a value may encode itself.
func encode(dst []byte, c rpcx.Codec, v any) ([]byte, error) {
	if c == nil {
		c = Codec
	}
	out, err := c.Append(dst, v)
	if err == nil && (len(out) < len(dst) || skip(out[len(dst):], 0) != len(out)-len(dst)) {
		err = errors.New("the codec's output is not one value in MessagePack")
	}
	if err != nil {
		return dst, &rpcx.ProtocolError{Code: rpcx.CodeInternalError, Message: "payload encoding error: " + err.Error(), Unsent: true}
	}
	return out, nil
}

// AppendNotification implements [rpcx.Protocol]. It returns an error: aiomas has no
// notifications.
func (wire) AppendNotification(dst []byte, method string, params any, c rpcx.Codec) ([]byte, error) {
	return rpcx.Aiomas.AppendNotification(dst, method, params, c)
}

// AppendResult implements [rpcx.Protocol].
func (wire) AppendResult(dst []byte, id rpcx.ID, result any, c rpcx.Codec) ([]byte, error) {
	out, err := encode(appendID(append(dst, array3, typeResult), id), c, result)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// AppendError implements [rpcx.Protocol].
func (wire) AppendError(dst []byte, id rpcx.ID, e *rpcx.Error, _ rpcx.Codec) ([]byte, error) {
	return encode(appendID(append(dst, array3, typeException), id), nil, rpcx.Traceback(e))
}

func appendID(dst []byte, id rpcx.ID) []byte {
	if id == nil {
		return append(dst, null)
	}
	return append(dst, id...)
}

// AppendBatch implements [rpcx.Protocol]. It returns an error: aiomas has no batches.
func (wire) AppendBatch(dst []byte, parts [][]byte) ([]byte, error) {
	return rpcx.Aiomas.AppendBatch(dst, parts)
}

// Codec returns [Codec].
func (wire) Codec() rpcx.Codec { return Codec }

// Exception implements [rpcx.ServiceProtocol].
func (wire) Exception(err error) *rpcx.Error { return rpcx.Aiomas.Exception(err) }
