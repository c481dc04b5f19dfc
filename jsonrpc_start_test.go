package rpcx

import (
	"fmt"
	"strings"
	"testing"

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
		all := testing.AllocsPerRun(10, func() { e.set([]byte(key), []byte("1")) })
		if all > once+1 {
			t.Errorf("%s: %v allocations, and %v to unquote it", key, all, once)
		}
		if member >= 0 && !e.has(member) {
			t.Errorf("%s was not found", key)
		}
	}
}
