package rpcx

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
)

// vectorProtocols are the protocols by the names that the vectors give them.
var vectorProtocols = map[string]Protocol{
	"v1": JSONRPCv1, "v2": JSONRPCv2, "loose": JSONRPCLoose, "auto": JSONRPCAutoDetect, "any": JSONRPCv2,
}

// vectorMessage is an outgoing message. JSON is nil if Raw is no JSON.
type vectorMessage struct {
	Raw  string
	JSON any
}

// vectorError is an error of the original: one that it received, or a violation
// of the protocol, with what it answers to that.
type vectorError struct {
	Type       string
	Code       any
	Message    any
	Prefix     *string        `json:"message_prefix"`
	Reply      *vectorMessage `json:"error_reply"`
	IsResponse bool           `json:"is_response"`
	ResponseID any            `json:"response_id"`
}

// pythonTexts are the beginnings of texts that end in a value as Python writes it.
var pythonTexts = []string{"invalid request arguments: ", `invalid "id": `, "ill-formed response error object: "}

// check compares an error's code and text; nil as the expected text is any.
func (want *vectorError) check(t *testing.T, code int, text string) {
	t.Helper()
	for _, prefix := range pythonTexts {
		if message, ok := want.Message.(string); ok && want.Prefix == nil && strings.HasPrefix(message, prefix) {
			want.Prefix = &prefix
		}
	}
	if !sameValue(json.Number(strconv.Itoa(code)), want.Code) {
		t.Errorf("got code %d, want %v", code, want.Code)
	}
	switch {
	case want.Prefix != nil && !strings.HasPrefix(text, *want.Prefix):
		t.Errorf("got text %q, want one that starts with %q", text, *want.Prefix)
	case want.Prefix == nil && want.Message != nil && !sameValue(text, want.Message):
		t.Errorf("got text %q, want %q", text, want.Message)
	case text == "" && want.Message != "":
		t.Error("the error has no text")
	}
}

// checkError compares an error of any type that is expected to come from a peer
// or to be a violation of the protocol.
func (want *vectorError) checkError(t *testing.T, err error) {
	t.Helper()
	switch err := err.(type) {
	case *Error:
		if want.Type == "ProtocolError" {
			t.Errorf("got %v, want a *ProtocolError", err)
		}
		want.check(t, err.Code, err.Message)
	case *ProtocolError:
		if want.Type == "RPCError" {
			t.Errorf("got %v, want an *Error", err)
		}
		want.check(t, err.Code, err.Message)
	default:
		t.Errorf("got %v (%T), want error %v %v", err, err, want.Code, want.Message)
	}
}

// jsonValue decodes JSON exactly.
func jsonValue(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := decodeExact(data, &v); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return v
}

// checkJSON compares JSON with a value of the vectors.
func checkJSON(t *testing.T, what string, got []byte, want any) {
	t.Helper()
	if !json.Valid(got) {
		t.Errorf("%s: got %q, which is no JSON", what, got)
	} else if !sameValue(jsonValue(t, got), want) {
		t.Errorf("%s: got %s, want %v", what, got, want)
	}
}

// sameValue reports whether got, decoded exactly, is the value that the vectors
// describe as want.
func sameValue(got, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		if len(want) == 1 {
			if same, special := sameSpecial(got, want); special {
				return same
			}
		}
		got, ok := got.(map[string]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for key, v := range want {
			if g, ok := got[key]; !ok || !sameValue(g, v) {
				return false
			}
		}
		return true
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return false
		}
		for i := range want {
			if !sameValue(got[i], want[i]) {
				return false
			}
		}
		return true
	case json.Number:
		got, ok := got.(json.Number)
		return ok && sameNumber(got, want)
	}
	return got == want
}

// sameSpecial compares with a value for which JSON has no form, or none that
// every program reads alike.
func sameSpecial(got any, want map[string]any) (same, special bool) {
	number, isNumber := got.(json.Number)
	if text, ok := want["$float"].(string); ok {
		// A number that was too large for the original's floats is text here.
		f, _ := strconv.ParseFloat(string(number), 64)
		return isNumber && (text == "Infinity" && math.IsInf(f, 1) || text == "-Infinity" && math.IsInf(f, -1)), true
	}
	if digits, ok := want["$bigint"].(string); ok {
		return isNumber && sameNumber(number, json.Number(digits)), true
	}
	if text, ok := want["$lone_surrogates"].(string); ok {
		return got == loneSurrogates(text), true
	}
	_, omitted := want["$omitted"]
	return true, omitted
}

// loneSurrogates reads a text that is escaped as in JSON. No string of Go's can
// hold an unpaired surrogate: it becomes U+FFFD.
func loneSurrogates(escaped string) string {
	var text string
	if err := json.Unmarshal([]byte(`"`+escaped+`"`), &text); err != nil {
		panic(err)
	}
	return text
}

// sameNumber compares exactly, unless the original had a float and so has
// rounded the number itself.
func sameNumber(got, want json.Number) bool {
	if strings.ContainsAny(string(want), ".eE") {
		g, _ := got.Float64()
		w, _ := want.Float64()
		return g == w
	}
	g, ok := new(big.Rat).SetString(string(got))
	w, ok2 := new(big.Rat).SetString(string(want))
	return ok && ok2 && g.Cmp(w) == 0
}

// vectorEnvelope is a message or a member of a batch as the tests read it,
// apart from the library: all values of each key, as they stand.
type vectorEnvelope map[string][]json.RawMessage

// readEnvelope reads an object; it returns nil for anything else.
func readEnvelope(raw []byte) vectorEnvelope {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return nil
	}
	e := vectorEnvelope{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil
		}
		e[key.(string)] = append(e[key.(string)], value)
	}
	return e
}

// twice reports whether a key that matters is given twice.
func (e vectorEnvelope) twice() bool {
	for _, key := range envelopeKeys {
		if len(e[key]) > 1 {
			return true
		}
	}
	return false
}

func (e vectorEnvelope) has(key string) bool { return len(e[key]) > 0 }

// get returns the last value of key, nil if it has none.
func (e vectorEnvelope) get(key string) json.RawMessage {
	if values := e[key]; len(values) > 0 {
		return values[len(values)-1]
	}
	return nil
}

// likeResponse reports whether the message can be a response by itself.
func (e vectorEnvelope) likeResponse() bool {
	return e != nil && !e.has("method") && (e.has("result") || e.has("error"))
}

// neither reports whether it is neither a request nor a response.
func (e vectorEnvelope) neither() bool {
	return e != nil && !e.has("method") && !e.has("result") && !e.has("error")
}

func (e vectorEnvelope) stringMethod() bool {
	method := e.get("method")
	return method != nil && method[0] == '"'
}

func (e vectorEnvelope) booleanID() bool {
	id := e.get("id")
	return id != nil && (id[0] == 't' || id[0] == 'f')
}

// textID reports whether the id is a string.
func (e vectorEnvelope) textID() bool {
	id := e.get("id")
	return id != nil && id[0] == '"'
}

// halfResponse reports whether the message has a result or an error, and not both; an
// error of null by itself is none.
func (e vectorEnvelope) halfResponse() bool {
	return e.has("result") != e.has("error") && string(e.get("error")) != "null"
}

// roundedID reports whether the id is an integer only in the original, which has
// rounded it to a float.
func (e vectorEnvelope) roundedID() bool {
	id := string(e.get("id"))
	number, ok := new(big.Rat).SetString(id)
	if !ok || !strings.ContainsAny(id, ".eE") {
		return false
	}
	f, exact := number.Float64()
	return !exact && f == math.Trunc(f)
}

// id returns the id under which an error is answered: the message's, if it is
// given once and is legal, or nil.
func (e vectorEnvelope) id(protocol string) json.RawMessage {
	id := e.get("id")
	if len(e["id"]) != 1 || e.booleanID() || id[0] == 'n' || protocol != "v1" && (id[0] == '[' || id[0] == '{') {
		return nil
	}
	return id
}
