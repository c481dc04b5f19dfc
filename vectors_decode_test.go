package rpcx

import (
	"encoding/json"
	"maps"
	"math/big"
	"strconv"
	"testing"
	"unicode/utf8"
)

type decodeCase struct {
	Name     string
	Protocol string
	Message  vectorBytes
	Expect   decodeExpect
}

// decodeExpect is the outcome of a message, or of a member of a batch.
type decodeExpect struct {
	Kind      string
	Method    any
	Params    any
	ID        any
	Result    any
	Error     *vectorError // that a response carries
	BatchKind string       `json:"batch_kind"`
	Members   []decodeExpect
	vectorError

	decidedID *json.RawMessage // where rpcx decides: the id that an error is answered under
}

func TestVectorsDecode(t *testing.T) {
	for _, c := range loadVectors[decodeCase](t, "jsonrpc_decode.json") {
		t.Run(c.Name, func(t *testing.T) {
			want := c.Expect.decided(t, c.Protocol, c.Message)
			m := Message{StrictParams: true}
			vectorProtocols[c.Protocol].Decode(&m, c.Message, 0)
			if m.Batch != (want.Kind == "batch") {
				t.Fatalf("got batch %v, want %s", m.Batch, want.Kind)
			}
			if !m.Batch {
				want.checkItem(t, c.Protocol, c.Message, &m.Items[0])
				return
			}
			if got, response := m.Kind(), want.BatchKind == "response"; (got == KindResponse) != response {
				t.Errorf("got a batch of %v, want %s", got, want.BatchKind)
			}
			if m.Len() != len(want.Members) {
				t.Fatalf("got %d members, want %d", m.Len(), len(want.Members))
			}
			for i, raw := range batchMembers(t, c.Message) {
				want.Members[i].checkItem(t, c.Protocol, raw, &m.Items[i])
			}
		})
	}
}

func batchMembers(t *testing.T, msg []byte) (members []json.RawMessage) {
	t.Helper()
	if err := json.Unmarshal(msg, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

// decided returns what is expected of rpcx where the original did want: the
// same, except where rpcx decides differently on purpose.
func (want decodeExpect) decided(t *testing.T, protocol string, msg []byte) decodeExpect {
	t.Helper()
	parseError := sameValue(want.Code, json.Number("-32700"))
	switch {
	case parseError:
		return want
	case !json.Valid(msg):
		// NaN and Infinity are no JSON, nor is what is nested beyond 10,000 levels.
		text := textNotJSON
		if !utf8.Valid(msg) {
			text = textNotUTF8
		}
		return invalidExpect(CodeParseError, text, nil)
	case want.Kind == "python_exception":
		want = plainItem(msg) // too deep, or a number of too many digits, for the original only
	}
	if want.Kind != "batch" {
		return want.decidedItem(protocol, readEnvelope(msg), readEnvelope(msg).likeResponse(), false)
	}
	for i, raw := range batchMembers(t, msg) {
		want.Members[i] = want.Members[i].decidedItem(protocol, readEnvelope(raw), want.BatchKind == "response", true)
	}
	return want
}

// decidedItem is decided for a message that is one item, or for a member of a batch.
func (want decodeExpect) decidedItem(protocol string, e vectorEnvelope, response, member bool) decodeExpect {
	if e == nil {
		return want
	}
	id := e.id(protocol)
	switch {
	case e.twice(): // the last one won
		want = invalidExpect(CodeInvalidRequest, nil, id)
	case e.booleanID(): // Python's booleans are integers
		want = invalidExpect(CodeInvalidRequest, nil, nil)
		prefix := `invalid "id": `
		want.Prefix = &prefix
	case !member && e.neither(): // it was taken for a bad response
		return invalidExpect(CodeInvalidRequest, nil, id)
	case !response && !e.stringMethod() && (sameValue(want.Code, json.Number("-32601")) || sameValue(want.Code, json.Number("-32602"))):
		// It was another error, and its params were looked at first.
		return invalidExpect(CodeInvalidRequest, "method must be a string", id)
	case response && protocol == "v1" && e.halfResponse() && sameValue(want.Message, `response must contain both "result" and "error"`):
		return e.plainResponse() // what is missing is null
	case response && protocol == "loose" && e.noOutcome() && sameValue(want.Message, `response contains neither "result" nor "error"`):
		return e.plainResponse() // the result that is missing is null
	case want.Error != nil && protocol != "v2" && e.otherwiseCode() != nil: // the code keeps its value
		err := *want.Error
		err.Code = *e.otherwiseCode()
		want.Error = &err
	case want.Error != nil && !intCode(want.Error.Code) && protocol == "v2":
		want = decodeExpect{Kind: "protocol_error", vectorError: *want.Error.decided(protocol), decidedID: &id}
	case want.Reply != nil && want.Reply.JSON == nil: // the id overflowed to Infinity, which is no JSON
		want.decidedID = &id
	case want.Error != nil:
		want.Error = want.Error.decided(protocol)
	}
	if response && want.decidedID != nil {
		want.IsResponse = true
		if id := *want.decidedID; id != nil {
			want.ResponseID = mustDecode(id)
		}
	}
	return want
}

// decided returns the error that rpcx makes of one that a response carries. A
// code that no int can hold is none: Python's booleans, and its long integers.
func (want *vectorError) decided(protocol string) *vectorError {
	switch {
	case want.Type == "ProtocolError" || intCode(want.Code):
		return want
	case protocol == "v2":
		prefix := "ill-formed response error object: "
		return &vectorError{Type: "ProtocolError", Code: json.Number(strconv.Itoa(CodeInvalidRequest)), Prefix: &prefix}
	}
	err := *want
	err.Code = json.Number(strconv.Itoa(CodeUnavailable))
	return &err
}

// intCode reports whether a code of the vectors is one that an int can hold.
func intCode(code any) bool {
	n, ok := code.(json.Number)
	_, err := strconv.Atoi(string(n))
	return ok && err == nil
}

// noOutcome reports whether the message says that it has no error, and has no result.
func (e vectorEnvelope) noOutcome() bool { return !e.has("result") && string(e.get("error")) == "null" }

// otherwiseCode returns the code of an error object that is an integer and is written
// otherwise: with a fraction or an exponent, or in a string. It is nil for any other.
func (e vectorEnvelope) otherwiseCode() *json.Number {
	var object struct{ Code json.RawMessage }
	if err := e.get("error"); err == nil || err[0] != '{' || json.Unmarshal(err, &object) != nil || object.Code == nil {
		return nil
	}
	text, quoted := ledgerID(object.Code)
	number, ok := new(big.Rat).SetString(text)
	if !ok || !number.IsInt() || !isNumber([]byte(text)) || !number.Num().IsInt64() || !quoted && intCode(json.Number(text)) {
		return nil
	}
	code := json.Number(number.Num().String())
	return &code
}

// plainResponse is the outcome of a message that is a response, to which nothing more
// is known than its id, and its error or its result.
func (e vectorEnvelope) plainResponse() (want decodeExpect) {
	want.Kind = "response"
	want.ID = mustDecode(e.get("id"))
	if !e.has("error") || string(e.get("error")) == "null" {
		if e.has("result") {
			want.Result = mustDecode(e.get("result"))
		}
		return want
	}
	want.Error = &vectorError{Type: "RPCError", Code: json.Number("-100"), Message: "no error message provided"}
	switch err := mustDecode(e.get("error")).(type) {
	case string:
		want.Error.Message = err
	case json.Number:
		if intCode(err) {
			want.Error.Code = err
		}
	case map[string]any:
		if text, ok := err["message"].(string); ok {
			want.Error.Message = text
		}
		if intCode(err["code"]) {
			want.Error.Code = err["code"]
		}
		if code := e.otherwiseCode(); code != nil {
			want.Error.Code = *code
		}
	}
	return want
}

func mustDecode(raw json.RawMessage) (v any) {
	if err := decodeExact(raw, &v); err != nil {
		panic(err)
	}
	return v
}

// invalidExpect is the outcome of an invalid message; nil as the text is any.
func invalidExpect(code int, text any, id json.RawMessage) (want decodeExpect) {
	want.Kind = "protocol_error"
	want.Code, want.Message = json.Number(strconv.Itoa(code)), text
	want.decidedID = &id
	return want
}

// plainItem is the outcome of a message that is a good request or response.
func plainItem(msg []byte) (want decodeExpect) {
	e := readEnvelope(msg)
	value := func(key string, absent any) any {
		if !e.has(key) {
			return absent
		}
		return mustDecode(e.get(key))
	}
	want.ID = value("id", nil)
	switch {
	case e.likeResponse():
		want.Kind, want.Result = "response", value("result", nil)
	case want.ID == nil:
		want.Kind = "notification"
	default:
		want.Kind = "request"
	}
	want.Method, want.Params = value("method", nil), value("params", []any{})
	return want
}

// checkItem compares a decoded item, of the message or member raw.
func (want *decodeExpect) checkItem(t *testing.T, protocol string, raw []byte, item *Item) {
	t.Helper()
	if item.Kind != KindResponse && item.ID != nil && string(item.ID) != string(readEnvelope(raw).get("id")) {
		t.Errorf("the id %s was not taken over byte for byte", item.ID)
	}
	switch want.Kind {
	case "request", "notification":
		if item.Kind.String() != want.Kind || item.Err != nil {
			t.Fatalf("got %v %v, want %s", item.Kind, item.Err, want.Kind)
		}
		if !sameValue(item.Method, want.Method) {
			t.Errorf("got method %q, want %v", item.Method, want.Method)
		}
		checkJSON(t, "params", paramsJSON(item.Params), want.Params)
		checkJSON(t, "id", appendID(nil, item.ID), want.ID)
	case "response":
		if item.Kind != KindResponse {
			t.Fatalf("got %v %v, want a response", item.Kind, item.Err)
		}
		checkJSON(t, "id", appendID(nil, item.ID), want.ID)
		if want.Error != nil {
			if _, ok := item.Err.(*Error); !ok {
				t.Errorf("got error %v (%T), want an *Error", item.Err, item.Err)
			}
			want.Error.checkError(t, item.Err)
		} else if item.Err != nil {
			t.Errorf("got error %v, want a result", item.Err)
		} else {
			checkJSON(t, "result", item.Result, want.Result)
		}
	case "protocol_error":
		if _, ok := item.Err.(*ProtocolError); !ok {
			t.Fatalf("got %v %v, want a *ProtocolError %v %v", item.Kind, item.Err, want.Code, want.Message)
		}
		want.checkError(t, item.Err)
		if want.IsResponse {
			if item.Kind != KindResponse {
				t.Errorf("got %v, want a response", item.Kind)
			}
			checkJSON(t, "id", appendID(nil, item.ID), want.ResponseID)
		} else if item.Kind != KindInvalid {
			t.Errorf("got %v, want an invalid item", item.Kind)
		} else {
			reply, err := vectorProtocols[protocol].AppendError(nil, item.ID, wireError(item.Err), nil)
			if err != nil {
				t.Fatal(err)
			}
			checkJSON(t, "reply", reply, want.reply(protocol, item.Err.(*ProtocolError).Message))
		}
	default:
		t.Fatalf("unknown kind %q", want.Kind)
	}
}

// paramsJSON returns the params of a request; none are an empty array.
func paramsJSON(p Params) []byte {
	switch {
	case p.Positional != nil:
		return p.Positional
	case p.Named != nil:
		return p.Named
	}
	return []byte("[]")
}

// reply is the reply to an invalid message, with the text that it is known to
// have; nil if there is none.
func (want *decodeExpect) reply(protocol, text string) any {
	if want.decidedID != nil {
		var id any
		if *want.decidedID != nil {
			id = mustDecode(*want.decidedID)
		}
		return errorReply(protocol, want.Code, text, id)
	}
	if want.Reply == nil {
		return nil
	}
	reply := maps.Clone(want.Reply.JSON.(map[string]any))
	reply["error"] = map[string]any{"code": want.Code, "message": text}
	return reply
}

// errorReply is the form of an error response.
func errorReply(protocol string, code, text, id any) any {
	reply := map[string]any{"error": map[string]any{"code": code, "message": text}, "id": id}
	if protocol == "v1" {
		reply["result"] = nil
	} else {
		reply["jsonrpc"] = "2.0"
	}
	return reply
}
