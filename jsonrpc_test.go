package rpcx

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"example.com/rpcx/internal/jsonscan"
)

// startItem returns what the beginning of a message is taken for.
func startItem(p Protocol, start string) string {
	var m Message
	p.(StartDecoder).DecodeStart(&m, []byte(start))
	batch := ""
	if m.Batch {
		batch = " batch"
	}
	if m.Items[0].ID == nil {
		return m.Items[0].Kind.String() + batch
	}
	return fmt.Sprintf("%s%s %s", m.Items[0].Kind, batch, m.Items[0].ID)
}

func TestDecodeStart(t *testing.T) {
	all := []Protocol{JSONRPCv1, JSONRPCv2, JSONRPCLoose, JSONRPCAutoDetect}
	second := all[1:]
	for _, c := range []struct {
		name      string
		protocols []Protocol
		start     string
		want      string
	}{
		{"a request, the id before the params", all, `{"jsonrpc":"2.0","method":"m","id":7,"params":["x`, "request 7"},
		{"the id before the method", all, `{"id":7,"method":"m`, "request 7"},
		{"the params without a method", all, `{"id":7,"params":{"a":[1`, "request 7"},
		{"a string", all, `{"id":"a\"}é","method":"m","params":[`, `request "a\"}é"`},
		{"white space", all, " \t{ \"id\" : -1.5e3 ,\r\n\"method\" : ", "request -1.5e3"},
		{"keys that are escaped", all, `{"\u0069d":7,"meth\u006fd":"m","params":[`, "request 7"},
		{"members that mean nothing", all, `{"a":{"id":1,"b":[{"id":2}]},"id":3,"x":"\"id\":4","method":`, "request 3"},
		{"ids that are deeper", all, `{"params":{"id":7},"x":[{"id":8},"`, "invalid"},
		{"ids in an open value", all, `{"method":"m","params":{"id":7,`, "invalid"},
		{"other cases", all, `{"ID":7,"Id":8,"method":"m","params":[`, "invalid"},
		{"keys that contain it", all, `{"id ":7,"xid":8,"":9,"method":"m","params":[`, "invalid"},
		{"a number that may go on", all, `{"method":"m","id":7`, "invalid"},
		{"a number that is followed by white space only", all, `{"method":"m","id":7 `, "invalid"},
		{"a string that goes on", all, `{"method":"m","id":"7`, "invalid"},
		{"an id without its colon", all, `{"method":"m","id"`, "invalid"},
		{"an id that has no value", all, `{"method":"m","id":`, "invalid"},
		{"an id that is not JSON", all, `{"method":"m","id":07,"params":[`, "invalid"},
		{"an id that is not UTF-8", all, "{\"id\":\"\xff\",\"method\":\"m", "invalid"},
		{"an id given twice", all, `{"id":1,"method":"m","id":2,"params":[`, "invalid"},
		{"an id given twice, the second one cut off", all, `{"id":1,"method":"m","id":2`, "invalid"},
		{"a method given twice", all, `{"id":1,"method":"m","method":"m`, "invalid"},
		{"a Boolean", all, `{"id":true,"method":"m","params":[`, "invalid"},
		{"an array as id", second, `{"id":[1],"method":"m","params":[`, "invalid"},
		{"an array as id", all[:1], `{"id":[1],"method":"m","params":[`, "request [1]"},
		{"nothing but an id", all, `{"id":7,"other":"`, "invalid"}, // may be a reply: to answer it could fail a call
		{"no id yet", all, `{"jsonrpc":"2.0","method":"m","params":[`, "invalid"},
		{"null as id", all, `{"id":null,"method":"m","params":[`, "notification"},
		{"an object that is over", second, `{"jsonrpc":"2.0","method":"m"}   `, "notification"},
		{"an object that is over", all, `{"method":"m","id":7}   `, "request 7"},
		{"an object that is over and has to have an id", all[:1], `{"method":"m","params":[]}   `, "invalid"},

		{"a reply", all, `{"jsonrpc":"2.0","id":7,"result":"x`, "response 7"},
		{"a reply, the id last", all, `{"jsonrpc":"2.0","result":{"id":7,"x":"`, "response"},
		{"an error", all, `{"error":{"code":1},"id":7,"x":`, "response 7"},
		{"an error that is cut off", all, `{"id":7,"error":{"code":1,"message":"`, "response 7"},
		{"a reply to ours in another form", all, `{"id":7.0,"result":[`, "response 7"},
		{"a reply with a null beside it", all, `{"id":7,"error":null,"result":[`, "response 7"},
		{"a reply with a null for each other member", all, `{"method":null,"params":null,"id":7,"error":null,"result":[`, "response 7"},
		{"a reply with a null for the method", all, `{"id":7,"method":null,"result":"x`, "response 7"},
		{"a method that is null, no outcome yet", all, `{"id":7,"method":null,"params":[`, "request 7"},
		{"a request with a result", all, `{"id":7,"result":1,"method":"`, "request 7"},
		{"an error without an id", all, `{"id":null,"error":{"code":1,"message":"`, "notification"},

		{"a batch of requests", second, `[{"jsonrpc":"2.0","id":7,"method":"m","params":[`, "invalid"},
		{"a batch of notifications", second, `[{"jsonrpc":"2.0","method":"m"}, {"`, "invalid"},
		{"a batch of replies", second, ` [ {"jsonrpc":"2.0","id":7,"result":[]},{"`, "response batch 7"},
		{"a batch of replies, the first cut off", second, `[{"jsonrpc":"2.0","id":7,"result":[`, "response batch 7"},
		{"a batch of replies, no id yet", second, `[{"jsonrpc":"2.0","result":[`, "response batch"},
		{"a batch of other things", second, `[1,{"id":7,"method":"m",`, "invalid"},
		{"no batches", all[:1], `[{"id":7,"method":"m","params":[`, "invalid"},

		{"nothing", all, ``, "invalid"},
		{"a brace", all, `{`, "invalid"},
		{"a bracket", all, `[`, "invalid"},
		{"a string that has one in it", all, `"{\"id\":7,\"method\":\"m\",`, "invalid"},
		{"no JSON", all, "GET / HTTP/1.1", "invalid"},
		{"deep", all, strings.Repeat(`{"id":`, 160), "invalid"},

		{"aiomas: a request", []Protocol{Aiomas}, `[0,7,["path",["x`, "request 7"},
		{"aiomas: a result", []Protocol{Aiomas}, ` [ 1 , 7 , "x`, "response 7"},
		{"aiomas: an exception", []Protocol{Aiomas}, `[2,7.0,"Traceback`, "response 7"},
		{"aiomas: an id that is cut off", []Protocol{Aiomas}, `[0,7`, "fatal"},
		{"aiomas: another type", []Protocol{Aiomas}, `[3,7,"`, "fatal"},
		{"aiomas: no UTF-8", []Protocol{Aiomas}, "[0,\"\xff\",[", "fatal"},
		{"aiomas: no array", []Protocol{Aiomas}, `{"id":7,"method":"m",`, "fatal"},
		{"aiomas: nothing", []Protocol{Aiomas}, ``, "fatal"},
	} {
		for _, p := range c.protocols {
			if got := startItem(p, c.start); got != c.want {
				t.Errorf("%s (%T): %s is taken for %q, want %q", c.name, p, c.start, got, c.want)
			}
		}
	}
}

// What the beginning of a message shows is what the whole message is.
func FuzzDecodeStart(f *testing.F) {
	for _, msg := range []string{
		`{"jsonrpc":"2.0","method":"m","id":71,"params":[{"id":8}]}`,
		`{"id":"a\u0062","method":"m","params":{}}`,
		`{"jsonrpc":"2.0","result":{"error":1},"id":71.0}`,
		`{"id":7,"result":null,"error":{"code":-1,"message":"\"id\":8,"}}`,
		`[{"jsonrpc":"2.0","id":12,"result":1},{"jsonrpc":"2.0","id":13,"result":1}]`,
		`[0,71,["a",[],{}]]`,
		`[2,71,"Traceback"]`,
	} {
		f.Add([]byte(msg))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, p := range []Protocol{JSONRPCv1, JSONRPCv2, JSONRPCLoose, Aiomas} {
			var whole, begin Message
			p.Decode(&whole, msg, 0)
			want := &whole.Items[0]
			for cut := range msg {
				p.(StartDecoder).DecodeStart(&begin, msg[:cut])
				got := &begin.Items[0]
				switch {
				case want.Kind == KindInvalid || want.Kind == KindFatal:
					if got.ID != nil {
						if ok, _ := jsonscan.Valid(got.ID); !ok {
							t.Fatalf("%T: of %q the id is %q", p, msg[:cut], got.ID)
						}
					}
					continue
				case got.Kind == KindInvalid, got.Kind == KindFatal:
				case want.Kind == KindResponse && want.ID == nil && got.Kind == KindNotification: // it is about no call
				case got.Kind == KindResponse && (want.Kind == KindRequest || want.Kind == KindNotification) && hasResult(msg): // its method comes later
				case got.Kind != want.Kind || begin.Batch != whole.Batch || got.ID != nil && string(got.ID) != string(want.ID):
					t.Fatalf("%T: %q is taken for %s %s, of %q for %s %s", p, msg, want.Kind, want.ID, msg[:cut], got.Kind, got.ID)
				}
			}
		}
	})
}

// hasResult reports whether msg has a result or an error.
func hasResult(msg []byte) bool {
	var e envelope
	s := jsonscan.Scanner{Data: msg}
	if s.Peek() == '[' {
		s.Pos++
	}
	return scanEnvelope(&s, &e) && e.likeResponse()
}

func BenchmarkDecodeStart(b *testing.B) {
	start := []byte(`{"jsonrpc":"2.0","method":"m","trace":"` + strings.Repeat("x", 900) + `","id":7,"params":["`)
	var m Message
	for b.Loop() {
		JSONRPCv2.(StartDecoder).DecodeStart(&m, start)
	}
	if string(m.Items[0].ID) != "7" {
		b.Fatal("it has no id")
	}
}

// A key that may be one of several members is unquoted once.
func TestEnvelopeUnquotesAKeyOnce(t *testing.T) {
	for key, member := range map[string]int{`"\u0065rror"`: memberError, `"\u006fther and no member of any message"`: -1} {
		var e envelope
		once := testing.AllocsPerRun(10, func() { jsonscan.UnquoteBytes([]byte(key)) })
		all := testing.AllocsPerRun(10, func() { e.setMember([]byte(key), []byte("1")) })
		if all > once+1 {
			t.Errorf("%s: %v allocations, and %v to unquote it", key, all, once)
		}
		if member >= 0 && !e.has(member) {
			t.Errorf("%s was not found", key)
		}
	}
}

func TestFindReplies(t *testing.T) {
	for sentence, test := range map[string]struct {
		protocol Protocol
		message  string
		want     []string // place, id and error
	}{
		"a lone object":                        {JSONRPCv2, `{"jsonrpc":"2.0","id":3}`, []string{`0 3 response contains neither "result" nor "error"`}},
		"one without an id":                    {JSONRPCv2, `{"jsonrpc":"2.0"}`, nil},
		"one with two":                         {JSONRPCv2, `{"jsonrpc":"2.0","id":3,"id":3}`, nil},
		"one with an id of no legal kind":      {JSONRPCv2, `{"jsonrpc":"2.0","id":[3]}`, nil},
		"one with a method":                    {JSONRPCv2, `{"jsonrpc":"2.0","id":3,"method":1}`, nil},
		"one whose method is escaped":          {JSONRPCv2, `{"jsonrpc":"2.0","id":3,"\u006dethod":1}`, nil},
		"one whose id is escaped":              {JSONRPCv2, `{"jsonrpc":"2.0","\u0069d":3}`, []string{`0 3 response contains neither "result" nor "error"`}},
		"names within values do not count":     {JSONRPCv2, `{"jsonrpc":"2.0","x":{"method":1,"id":4},"id":3,"y":["method",{"id":5}]}`, []string{`0 3 response contains neither "result" nor "error"`}},
		"brackets and quotes in strings":       {JSONRPCv2, `{"jsonrpc":"2.0","x":"}]{,\"id\":4,","id":3}`, []string{`0 3 response contains neither "result" nor "error"`}},
		"members of a batch, by their places":  {JSONRPCv2, `[5,{"jsonrpc":"2.0","id":1},[{"id":2}],{"jsonrpc":"2.0","result":{"id":9},"id":3}]`, []string{`1 1 response contains neither "result" nor "error"`, `3 3 `}},
		"an empty batch":                       {JSONRPCv2, `[]`, nil},
		"a batch that is too long":             {JSONRPCv2, `[{"id":0},{"id":1},{"id":2},{"id":3},{"id":4}]`, nil},
		"an array where there are no batches":  {JSONRPCv1, `[{"id":0,"result":1}]`, nil},
		"an object where they have no members": {JSONRPCv2, `5`, nil},

		"no JSON, and the id behind":              {JSONRPCv2, `{"result":NaN,"id":3}`, []string{`0 3 invalid JSON (ID: 3)`}},
		"no JSON, and the id before":              {JSONRPCv2, `{"id":3.0,"error":{]}`, []string{`0 3 invalid JSON (ID: 3.0)`}},
		"no JSON, and neither":                    {JSONRPCv2, `{"id":3,"res":NaN}`, nil},
		"no JSON, and a method":                   {JSONRPCv2, `{"id":3,"result":NaN,"method":"m"}`, nil},
		"no JSON, and an id of no JSON":           {JSONRPCv2, `{"id":NaN,"result":1}`, nil},
		"no JSON, cut off in the result":          {JSONRPCv2, `{"id":3,"result":"abc`, []string{`0 3 invalid JSON (ID: 3)`}},
		"no JSON, cut off in the id":              {JSONRPCv2, `{"result":1,"id":3`, nil},
		"no JSON, cut off behind the id":          {JSONRPCv2, `{"result":1,"id":3,`, []string{`0 3 invalid JSON (ID: 3)`}},
		"no JSON, but two messages":               {JSONRPCv2, `{"result":1,"id":3}{"result":1,"id":4}`, []string{`0 3 invalid JSON (ID: 3)`, `0 4 invalid JSON (ID: 4)`}},
		"no JSON, in a batch":                     {JSONRPCv2, `[{"id":3,"result":1},{"id":4,"result":NaN},{"method":"m","id":5}]`, []string{`0 3 invalid JSON (ID: 3)`, `0 4 invalid JSON (ID: 4)`}},
		"no JSON, in a batch that is too long":    {JSONRPCv2, `[NaN,{"id":1,"result":1},{"id":2,"result":1},{"id":3,"result":1},{"id":4,"result":1}]`, []string{`0 1 invalid JSON (ID: 1)`, `0 2 invalid JSON (ID: 2)`, `0 3 invalid JSON (ID: 3)`}},
		"no UTF-8":                                {JSONRPCv2, "{\"id\":3,\"result\":\"\xff\"}", []string{`0 3 messages must be encoded in UTF-8 (ID: 3)`}},
		"more closing brackets than opening ones": {JSONRPCv2, `}}]]{"id":3,"result":1}`, nil},
	} {
		t.Run(sentence, func(t *testing.T) {
			var m Message
			test.protocol.Decode(&m, []byte(test.message), 4)
			var got []string
			for _, r := range test.protocol.(replyFinder).findReplies(&m, []byte(test.message), 4) {
				text := ""
				if err, ok := r.Err.(*ProtocolError); ok {
					text = err.Message
				}
				got = append(got, fmt.Sprintf("%d %s %s", r.itemIndex, r.ID, text))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestNumbersInStrings(t *testing.T) {
	for raw, want := range map[string]string{
		`1`: "1", `-1.50e+3`: "-1.50e+3", `"7"`: "7", `"-7.0"`: "-7.0", `"\u0037\u0038"`: "78",
		`""`: "", `"x"`: "", `" 7"`: "", `"07"`: "", `"+7"`: "", `"7`: "", `7"`: "", `"\"`: "", `"7"8`: "", `true`: "", ``: "", `[7]`: "", `-`: "", `"-"`: "",
		`"` + strings.Repeat("7", 1000) + `"`: "",
	} {
		if got := string(numberIn([]byte(raw))); got != want {
			t.Errorf("%s: got %q, want %q", raw, got, want)
		}
	}
	for raw, want := range map[string]any{
		`-32000`: -32000, `-32000.0`: -32000, `-3.2e4`: -32000, `"-32000"`: -32000, `"1e2"`: 100, `-0`: 0, `"-0.0"`: 0,
		`0.5`: nil, `1e99`: nil, `-1e99`: nil, `"1.5"`: nil, `"a"`: nil, `18446744073709551615`: nil, `null`: nil, `false`: nil, `{}`: nil,
	} {
		got, ok := looseInteger([]byte(raw))
		if ok != (want != nil) || ok && got != want {
			t.Errorf("%s: got %d, %v, want %v", raw, got, ok, want)
		}
	}
}

// FuzzFindReplies holds the outline to the scanner: of a message that is JSON, both
// find the same members. Of any other it is only expected to end.
func FuzzFindReplies(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":0}`, `[{"id":"0"},5,{"id":1,"result":NaN}]`, `{"id":0,"result":"a\"}`, `[[{"id":0}],{"id":1}]`, `}{"id":`, `{"id":1:2,"x"}`, "\xff{", `{"\u0069d":7,"error":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, p := range []Protocol{JSONRPCv1, JSONRPCv2, JSONRPCLoose} {
			var m Message
			p.Decode(&m, msg, 100)
			if !slices.ContainsFunc(m.Items, func(item Item) bool { return item.Kind != KindInvalid }) {
				for _, r := range p.(replyFinder).findReplies(&m, msg, 100) {
					if r.Kind != KindResponse || r.ID == nil || r.itemIndex >= len(m.Items) {
						t.Fatalf("%q: found %+v", msg, r)
					}
				}
			}
		}
		s := jsonscan.Scanner{Data: msg}
		var want envelope
		if s.Peek() != '{' || !scanEnvelope(&s, &want) || !s.AtEnd() {
			return
		}
		o := outline{data: msg, level: 1}
		var got envelope
		if !o.nextObject(&got) || got.dup != want.dup {
			t.Fatalf("%q: the outline is %+v, the envelope %+v", msg, got, want)
		}
		for i := range want.vals {
			if string(got.vals[i]) != string(want.vals[i]) {
				t.Errorf("%q: %s is %q by its outline, and %q", msg, envelopeKeys[i], got.vals[i], want.vals[i])
			}
		}
		if o.nextObject(&got) {
			t.Errorf("%q: the outline has another object", msg)
		}
	})
}

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

type encodeCase struct {
	Name     string
	Protocol string
	Op       string
	Kind     string // of what is constructed
	Method   any
	Args     any
	ID       any
	Result   any
	Payload  any
	Error    struct{ Code, Message any }
	Items    any
	IDs      []any
	Parts    []string
	Expect   struct {
		OK      bool
		Message *vectorMessage
		Error   *vectorError
	}
}

var encodeSkips = []skipRule[encodeCase]{
	{"in Go a method is a string", func(c encodeCase) bool {
		return c.Op == "construct" && !isText(c.Method)
	}},
	{"a Batch holds calls and notifications, and nothing else", func(c encodeCase) bool {
		items, ok := c.Items.([]any)
		for _, item := range items {
			ok = ok && (item == "request" || item == "notification")
		}
		return c.Op == "construct-batch" && !ok
	}},
	{"no map of Go's has such keys in JSON", func(c encodeCase) bool {
		return anywhere([]any{c.Args, c.Result, c.Payload, c.Items}, func(v map[string]any) bool {
			_, ok := goValue(v).(unkeyed)
			return ok
		})
	}},
	{"an error's code is an int", func(c encodeCase) bool {
		return c.Op == "error" && !intCode(c.Error.Code)
	}},
}

func TestVectorsEncode(t *testing.T) {
	for _, c := range loadVectors[encodeCase](t, "jsonrpc_encode.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, encodeSkips, c)
			c = c.decided()
			p := vectorProtocols[c.Protocol]
			if p == nil {
				t.Fatalf("unknown protocol %q", c.Protocol)
			}
			prefix := []byte("before")
			got, err := c.encode(t, p, prefix)
			if string(got[:len(prefix)]) != "before" {
				t.Fatalf("got %q, which was not appended", got)
			}
			msg := got[len(prefix):]
			switch want := c.Expect; {
			case want.Error != nil:
				if err == nil {
					t.Fatalf("got %s, want error %v", msg, want.Error.Message)
				}
				want.Error.checkError(t, err)
				if len(msg) > 0 {
					t.Errorf("%q was appended in spite of the error", msg)
				}
			case err != nil:
				t.Fatal(err)
			case want.OK:
				if !json.Valid(msg) {
					t.Errorf("got %q, which is no JSON", msg)
				}
			case want.Message.JSON == nil && want.Message.Raw != "null":
				if string(msg) != want.Message.Raw {
					t.Errorf("got %s, want %s", msg, want.Message.Raw)
				}
			default:
				checkJSON(t, "message", msg, want.Message.JSON)
			}
		})
	}
}

// decided returns the case with what is expected of rpcx, where that differs.
func (c encodeCase) decided() encodeCase {
	prefix := "JSON payload encoding error: "
	inexpressible := vectorError{Type: "ProtocolError", Code: json.Number(strconv.Itoa(CodeInternalError)), Prefix: &prefix}
	switch {
	case c.Op == "batch" && c.Expect.Error != nil: // the protocol has no batches
	case anywhere([]any{c.Args, c.Result, c.Payload, c.Items}, isFloat):
		c.Expect.Error = &inexpressible // NaN and Infinity are no JSON
	case c.Op == "construct" && c.Args == nil:
		c.Expect.OK, c.Expect.Error = true, nil // nil is how Go says that there are no arguments
	}
	return c
}

// encode appends the case's message to dst.
func (c encodeCase) encode(t *testing.T, p Protocol, dst []byte) ([]byte, error) {
	t.Helper()
	id, op := goID(t, c.ID), c.Op
	if op == "construct" {
		op, id = c.Kind, ID("0")
	}
	switch op {
	case "request":
		return p.AppendRequest(dst, id, goText(c.Method), goValue(c.Args), nil)
	case "notification":
		return p.AppendNotification(dst, goText(c.Method), goValue(c.Args), nil)
	case "response":
		return p.AppendResult(dst, id, goValue(c.Result), nil)
	case "error":
		code, err := strconv.Atoi(string(c.Error.Code.(json.Number)))
		if err != nil {
			t.Fatal(err)
		}
		return p.AppendError(dst, id, &Error{Code: code, Message: goText(c.Error.Message)}, nil)
	case "batch", "construct-batch":
		return c.batch(t).Append(dst, p, nil, func() ID {
			if len(c.IDs) == 0 {
				return ID("0")
			}
			id := goID(t, c.IDs[0])
			c.IDs = c.IDs[1:]
			return id
		})
	case "batch_from_parts":
		var parts [][]byte
		for _, part := range c.Parts {
			parts = append(parts, []byte(part))
		}
		return p.AppendBatch(dst, parts)
	case "encode_payload":
		return appendCodec(dst, p.Codec(), goValue(c.Payload))
	}
	t.Fatalf("unknown op %q", c.Op)
	return nil, nil
}

// batch builds the batch that the case describes.
func (c encodeCase) batch(t *testing.T) *Batch {
	t.Helper()
	var b Batch
	for _, item := range c.Items.([]any) {
		entry, ok := item.(map[string]any)
		if !ok {
			entry = map[string]any{"kind": item, "method": "m"}
		}
		if method, params := goText(entry["method"]), goValue(entry["args"]); entry["kind"] == "request" {
			b.Call(method, params, nil)
		} else {
			b.Notify(method, params)
		}
	}
	return &b
}

// isText reports whether a value of the vectors is a string.
func isText(v any) bool {
	form, _ := v.(map[string]any)
	_, plain := v.(string)
	return plain || form["$lone_surrogates"] != nil
}

// goID returns the id that a value of the vectors stands for.
func goID(t *testing.T, v any) ID {
	t.Helper()
	if v == nil {
		return nil
	}
	id, err := JSON.Append(nil, goValue(v))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func goText(v any) string {
	if form, ok := v.(map[string]any); ok {
		return loneSurrogates(form["$lone_surrogates"].(string))
	}
	return v.(string)
}

// unkeyed is a map whose keys no map of Go's can have.
type unkeyed struct{}

// goValue returns the Go value that is to be encoded for a value of the vectors.
func goValue(v any) any {
	switch v := v.(type) {
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = goValue(v[i])
		}
		return list
	case map[string]any:
		if text, ok := v["$float"].(string); ok {
			f, err := strconv.ParseFloat(text, 64)
			if err != nil {
				panic(err)
			}
			return f
		}
		if text, ok := v["$lone_surrogates"].(string); ok {
			return json.RawMessage(`"` + text + `"`)
		}
		if digits, ok := v["$bigint"].(string); ok {
			return json.Number(digits)
		}
		if pairs, ok := v["$python_dict"].([]any); ok {
			return pythonDict(pairs)
		}
		if _, ok := v["$unencodable"]; ok {
			return make(chan int)
		}
		object := make(map[string]any, len(v))
		for key, value := range v {
			object[key] = goValue(value)
		}
		return object
	}
	return v
}

// pythonDict returns the map that has integers as its keys, if all are.
func pythonDict(pairs []any) any {
	dict := make(map[int]any)
	for _, pair := range pairs {
		pair := pair.([]any)
		key, err := strconv.Atoi(fmt.Sprint(pair[0]))
		if err != nil {
			return unkeyed{}
		}
		dict[key] = goValue(pair[1])
	}
	return dict
}

// isFloat reports whether a value of the vectors is NaN or Infinity.
func isFloat(v map[string]any) bool { return v["$float"] != nil }

// anywhere reports whether found holds for any object in a value of the vectors.
func anywhere(v any, found func(map[string]any) bool) bool {
	within := func(v any) bool { return anywhere(v, found) }
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, within)
	case map[string]any:
		return found(v) || slices.ContainsFunc(slices.Collect(maps.Values(v)), within)
	}
	return false
}

type autodetectCase struct {
	Name    string
	Message vectorBytes
	Expect  struct {
		Protocol        string
		Error           *vectorError
		PythonException string `json:"python_exception"`
	}
}

func TestVectorsAutodetect(t *testing.T) {
	for _, c := range loadVectors[autodetectCase](t, "autodetect.json") {
		t.Run(c.Name, func(t *testing.T) {
			c = c.decided()
			found := JSONRPCAutoDetect.(Detector).Detect(c.Message, 0)
			if c.Expect.Error == nil {
				if found == nil || found != vectorProtocols[c.Expect.Protocol] {
					t.Errorf("got %v, want %s", found, c.Expect.Protocol)
				}
				return
			}
			if found != nil {
				t.Errorf("got %v from a message that decides nothing", found)
			}
			m := Message{StrictParams: true}
			JSONRPCAutoDetect.Decode(&m, c.Message, 0)
			err, ok := m.Items[0].Err.(*ProtocolError)
			if m.Batch || !ok {
				t.Fatalf("got %v %v, want %v", m.Kind(), m.Items[0].Err, c.Expect.Error.Message)
			}
			c.Expect.Error.check(t, err.Code, err.Message)
			reply, replyErr := JSONRPCAutoDetect.AppendError(nil, m.Items[0].ID, wireError(err), nil)
			if replyErr != nil {
				t.Fatal(replyErr)
			}
			if c.Expect.Error.Reply != nil {
				checkJSON(t, "reply", reply, c.Expect.Error.Reply.JSON)
			}
		})
	}
}

// decided returns the case with what is expected of rpcx, where that differs.
func (c autodetectCase) decided() autodetectCase {
	switch {
	case c.Expect.Error != nil:
	case !json.Valid(c.Message): // nested too deep, NaN, Infinity
		want := invalidExpect(CodeParseError, textNotJSON, nil)
		c.Expect.Error = &want.vectorError
	case readEnvelope(c.Message).twice(): // it is refused, so it decides nothing
		want := invalidExpect(CodeInvalidRequest, nil, nil)
		c.Expect.Error = &want.vectorError
	case c.Expect.PythonException != "":
		// Too deep, or a number of too many digits, for the original only.
		c.Expect.Protocol = readEnvelope(c.Message).protocol()
	}
	return c
}

// protocol returns the name of the protocol that a single message shows.
func (e vectorEnvelope) protocol() string {
	switch version := string(e.get("jsonrpc")); {
	case version == `"2.0"`:
		return "v2"
	case version == `"1.0"`, e.has("result") && e.has("error"):
		return "v1"
	}
	return "loose"
}

type invocationCase struct {
	Name      string
	Signature *[]invocationParam // nil: the method does not exist
	Method    string
	Args      json.RawMessage
	Expect    struct {
		Bound map[string]any
		Error *struct {
			Code    int
			Message string
		}
	}
}

type invocationParam struct {
	Name    string
	Kind    string
	Default json.RawMessage // nil: required
}

func (c invocationCase) params() []invocationParam {
	if c.Signature == nil {
		return nil
	}
	return *c.Signature
}

// has reports whether a parameter is of the given kind.
func (c invocationCase) has(kind string) bool {
	return slices.ContainsFunc(c.params(), func(p invocationParam) bool { return p.Kind == kind })
}

// positional returns how many arguments there are in an array, or -1 if they
// have names.
func (c invocationCase) positional() int {
	var list []any
	if json.Unmarshal(c.Args, &list) != nil {
		return -1
	}
	return len(list)
}

var invocationSkips = []skipRule[invocationCase]{
	{"keyword-only parameters have no form in Go", func(c invocationCase) bool { return c.has("keyword_only") }},
	{"**kwargs has no form in Go", func(c invocationCase) bool { return c.has("var_keyword") }},
	{"parameters without names cannot be optional, and a positional-only signature's default is left out", func(c invocationCase) bool {
		n := c.positional()
		return n >= 0 && n < len(c.params()) && c.has("positional_only") && slices.ContainsFunc(c.params()[n:], func(p invocationParam) bool {
			return p.Default != nil
		})
	}},
}

func TestVectorsInvocation(t *testing.T) {
	for _, c := range loadVectors[invocationCase](t, "invocation.json") {
		t.Run(c.Name, func(t *testing.T) {
			skipVector(t, invocationSkips, c)
			// With a context and (any, error) some of the functions are called
			// directly; without, all are called by reflection.
			c.run(t, []reflect.Type{contextType}, []reflect.Type{reflect.TypeFor[any](), errorType})
			c.run(t, nil, nil)
		})
	}
}

// run calls a function that has the types lead before the case's parameters,
// and results of the types out.
func (c invocationCase) run(t *testing.T, lead, out []reflect.Type) {
	t.Helper()
	bound := make(map[string]json.RawMessage)
	variadic := make(map[string][]json.RawMessage)
	req := &Request{Method: c.Method}
	if c.positional() >= 0 {
		req.Params.Positional = c.Args
	} else {
		req.Params.Named = c.Args
	}
	_, err := c.handler(lead, out, func(p invocationParam, v any) {
		if list, ok := v.([]json.RawMessage); ok {
			variadic[p.Name] = list
		} else {
			bound[p.Name] = v.(json.RawMessage)
		}
	}).ServeRPC(t.Context(), req)

	if want := c.Expect.Error; want != nil {
		var got *Error
		if !errors.As(err, &got) || got.Code != want.Code || got.Message != want.Message {
			t.Errorf("got %v, want error %d %q", err, want.Code, want.Message)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]any)
	for name, raw := range bound {
		got[name] = exact(t, raw)
	}
	for name, list := range variadic {
		values := []any{}
		for _, raw := range list {
			values = append(values, exact(t, raw))
		}
		got[name] = values
	}
	if want := c.bound(t); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// bound returns what the parameters are expected to be: what they were in the
// original, but the zero value in place of its defaults.
func (c invocationCase) bound(t *testing.T) map[string]any {
	t.Helper()
	var named map[string]any
	if c.positional() < 0 {
		named = exact(t, c.Args).(map[string]any)
	}
	want := make(map[string]any)
	for i, p := range c.params() {
		_, given := named[p.Name]
		if given || i < c.positional() || p.Default == nil {
			want[p.Name] = c.Expect.Bound[p.Name]
		} else {
			want[p.Name] = zero{}
		}
	}
	return want
}

// zero stands for a json.RawMessage that was left nil.
type zero struct{}

func exact(t *testing.T, raw json.RawMessage) any {
	t.Helper()
	if raw == nil {
		return zero{}
	}
	return jsonValue(t, raw)
}

// handler returns the handler for a function with the case's signature, which
// calls record for each of its parameters.
func (c invocationCase) handler(lead, out []reflect.Type, record func(p invocationParam, v any)) Handler {
	if c.Signature == nil {
		return NewRouter()
	}
	in := slices.Clone(lead)
	var names []string
	variadic := false
	for _, p := range *c.Signature {
		switch p.Kind {
		case "var_positional":
			variadic = true
			in = append(in, reflect.TypeFor[[]json.RawMessage]())
			continue
		case "positional_or_keyword":
			name := p.Name
			if p.Default != nil {
				name += "?"
			}
			names = append(names, name)
		}
		in = append(in, reflect.TypeFor[json.RawMessage]())
	}
	if c.has("positional_only") {
		names = nil // one parameter without a name is enough
	}
	fn := reflect.MakeFunc(reflect.FuncOf(in, out, variadic), func(args []reflect.Value) []reflect.Value {
		for i, p := range *c.Signature {
			record(p, args[len(lead)+i].Interface())
		}
		results := make([]reflect.Value, len(out))
		for i, t := range out {
			results[i] = reflect.Zero(t)
		}
		return results
	})
	return Func(fn.Interface(), names...)
}
