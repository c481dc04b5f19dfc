package rpcx

import (
	"encoding/json"

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

func (loose) version(*envelope) *ProtocolError { return nil }

func (loose) outcome(e *envelope) (json.RawMessage, error) {
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
