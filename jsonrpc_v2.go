package rpcx

import (
	"encoding/json"

	"example.com/rpcx/internal/jsonscan"
)

// JSONRPCv2 is strict JSON-RPC 2.0: every message must contain its version. A request
// with a null id is a notification, as in aiorpcX, and gets no answer.
var JSONRPCv2 Protocol = jsonrpc{v2{}}

type v2 struct{}

// id: "An identifier established by the Client that MUST contain a String, Number, or
// NULL value if included. If it is not included it is assumed to be a notification." A
// request with a null id is a notification too.
func (v2) id(e *envelope, response bool) (ID, *ProtocolError) {
	raw := e.vals[memberID]
	switch {
	case raw == nil && response:
		return nil, protocolError(CodeInvalidRequest, `request has no "id"`)
	case raw == nil || jsonscan.IsNull(raw):
		return nil, nil
	case raw[0] == '"' || raw[0] == '-' || raw[0]-'0' <= 9:
		return ID(raw), nil
	}
	return nil, protocolError(CodeInvalidRequest, `invalid "id": `+excerpt(raw))
}

// checkVersion: "A String specifying the version of the JSON-RPC protocol. MUST be
// exactly "2.0"."
func (v2) checkVersion(e *envelope) *ProtocolError {
	v := e.vals[memberVersion]
	if string(v) != `"2.0"` && (v == nil || !jsonscan.EqualString(v, "2.0")) {
		return protocolError(CodeInvalidRequest, `"jsonrpc" is not "2.0"`)
	}
	return nil
}

// requestParams: "A Structured value that holds the parameter values to be used during
// the invocation of the method. This member MAY be omitted."
func (v2) requestParams(e *envelope) (Params, *ProtocolError) {
	switch raw := e.vals[memberParams]; {
	case raw == nil:
		return Params{}, nil
	case raw[0] == '[':
		return Params{Positional: raw}, nil
	case raw[0] == '{':
		return Params{Named: raw}, nil
	default:
		return Params{}, wrongParamsError(raw)
	}
}

// responseOutcome: "Either the result member or error member MUST be included, but both
// members MUST NOT be included."
func (v2) responseOutcome(e *envelope) (json.RawMessage, error) {
	result, err := e.vals[memberResult], e.vals[memberError]
	switch {
	case result != nil && err != nil:
		return nil, protocolError(CodeInvalidRequest, `response contains both "result" and "error"`)
	case result != nil:
		return result, nil
	case err == nil:
		return nil, protocolError(CodeInvalidRequest, `response contains neither "result" nor "error"`)
	}
	object, codeOK, messageOK := decodeErrorObject(err, parseInteger)
	if !codeOK || !messageOK {
		text := "ill-formed response error object: " + excerpt(err) + " (ID: " + excerpt(appendID(nil, e.vals[memberID])) + ")"
		return nil, protocolError(CodeInvalidRequest, text)
	}
	return nil, object
}

func (v2) appendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error) {
	out := append(dst, `{"jsonrpc":"2.0","method":`...)
	out = jsonscan.AppendString(out, method)
	if id != nil {
		out = append(append(out, `,"id":`...), id...)
	}
	bare := len(out)
	out = append(out, `,"params":`...)
	start := len(out)
	out, err := appendParams(out, params, c)
	if err != nil {
		return dst, err
	}
	if len(out) == start {
		out = out[:bare]
	}
	return append(out, '}'), nil
}

func (v2) AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error) {
	out, err := appendCodec(append(dst, `{"jsonrpc":"2.0","result":`...), c, result)
	return endResponse(dst, out, err, `,"id":`, id)
}

func (v2) AppendError(dst []byte, id ID, e *Error, c Codec) ([]byte, error) {
	out, err := appendErrorObject(append(dst, `{"jsonrpc":"2.0","error":`...), e, c)
	return endResponse(dst, out, err, `,"id":`, id)
}
