package rpcx

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.com/rpcx/internal/jsonscan"
)

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
				got = append(got, fmt.Sprintf("%d %s %s", r.place, r.ID, text))
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
					if r.Kind != KindResponse || r.ID == nil || r.place >= len(m.Items) {
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
		if !o.next(&got) || got.dup != want.dup {
			t.Fatalf("%q: the outline is %+v, the envelope %+v", msg, got, want)
		}
		for i := range want.vals {
			if string(got.vals[i]) != string(want.vals[i]) {
				t.Errorf("%q: %s is %q by its outline, and %q", msg, envelopeKeys[i], got.vals[i], want.vals[i])
			}
		}
		if o.next(&got) {
			t.Errorf("%q: the outline has another object", msg)
		}
	})
}
