package rpcx

import (
	"encoding/json"

	"example.com/rpcx/internal/jsonscan"
)

// JSONRPCv1 is JSON-RPC 1.0: only positional params, always an id (null for
// notifications), both "result" and "error" in every response, no batches. A received
// response may have only one of the two. A received error may have any type. If an error
// has no code, its code is [CodeUnavailable]. If an error is not of the form {code,
// message, data}, [Error].Data holds the whole error.
var JSONRPCv1 Protocol = jsonrpc{v1{}}

type v1 struct{}

// id accepts an id of any type but Boolean.
func (v1) id(e *envelope, _ bool) (ID, *ProtocolError) {
	raw := e.vals[memberID]
	switch {
	case raw == nil:
		return nil, protocolError(CodeInvalidRequest, `request has no "id"`)
	case raw[0] == 't' || raw[0] == 'f':
		return nil, protocolError(CodeInvalidRequest, `invalid "id": `+excerpt(raw))
	case jsonscan.IsNull(raw):
		return nil, nil
	}
	return ID(raw), nil
}

func (v1) checkVersion(*envelope) *ProtocolError { return nil }

func (v1) requestParams(e *envelope) (Params, *ProtocolError) {
	raw := e.vals[memberParams]
	if raw == nil || raw[0] != '[' {
		return Params{}, wrongParamsError(raw)
	}
	return Params{Positional: raw}, nil
}

// responseOutcome accepts a result without "error", and an error without "result": few
// programs that speak JSON-RPC 1.0 send both members.
func (v1) responseOutcome(e *envelope) (json.RawMessage, error) {
	result, err := e.vals[memberResult], e.vals[memberError]
	switch {
	case err == nil || jsonscan.IsNull(err):
		if result == nil {
			return nil, protocolError(CodeInvalidRequest, `response must contain both "result" and "error"`)
		}
		return result, nil
	case result != nil && !jsonscan.IsNull(result):
		return nil, protocolError(CodeInvalidRequest, `response has a "result" and an "error"`)
	}
	return nil, bestEffortError(err)
}

func (v1) appendRequest(dst []byte, id ID, method string, params any, c Codec) ([]byte, error) {
	out := append(dst, `{"method":`...)
	out = jsonscan.AppendString(out, method)
	out = append(out, `,"params":`...)
	start := len(out)
	out, err := appendParams(out, params, c)
	switch {
	case err != nil:
		return dst, err
	case len(out) == start:
		out = append(out, "[]"...)
	case out[start] == '{':
		return dst, unsentf(CodeInvalidParams, "JSONRPCv1 does not support named arguments")
	}
	out = appendID(append(out, `,"id":`...), id)
	return append(out, '}'), nil
}

func (v1) AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error) {
	out, err := appendCodec(append(dst, `{"result":`...), c, result)
	return endResponse(dst, out, err, `,"error":null,"id":`, id)
}

func (v1) AppendError(dst []byte, id ID, e *Error, c Codec) ([]byte, error) {
	if _, ours := e.Data.(busyData); ours { // peers of 1.0 expect only a code and a message
		e = &Error{Code: e.Code, Message: e.Message}
	}
	out, err := appendErrorObject(append(dst, `{"result":null,"error":`...), e, c)
	return endResponse(dst, out, err, `,"id":`, id)
}

// wrongParamsError returns the error for params of the wrong type; raw is nil for missing
// params.
func wrongParamsError(raw []byte) *ProtocolError {
	if raw == nil {
		raw = []byte("none")
	}
	return protocolError(CodeInvalidParams, "invalid request arguments: "+excerpt(raw))
}
