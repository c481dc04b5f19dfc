package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// TestDecided plays conversations that end otherwise than with aiorpcX, on
// purpose. In their lines
//
//	--> …            the peer says this; what it asks is answered with its
//	                 params, the last request first
//	<-- …            the session says this, word for word, and no more
//	call M, batch M… the session calls M, or sends a batch; /M is a notification
//	note M           the session sends the notification M
//	strict params    params that are null are bad from now on
//	cancel N         call N is cancelled
//	N = …            call N has ended with this result
//	N ! …            call N has ended with an error of this text
//	N ?              call N has not ended
//	unexpected N     that many replies were unexpected; so for late
func TestDecided(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"a key given twice is an invalid request", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","method":"a","id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"a member of the message is given twice"},"id":1}`},
		{"if that is the id, the answer is for nobody", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","id":1,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"a member of the message is given twice"},"id":null}`},
		{"an escape does not hide that a key is given twice", JSONRPCLoose, `
			--> {"method":"a","id":1,"m\u0065thod":"b"}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"a member of the message is given twice"},"id":1}`},
		{"a key given twice in a response fails the call that it is for", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","result":1,"result":2,"id":0}
			0 ! a member of the message is given twice
			1 ?`},
		{"if that is the id, no call fails", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","result":1,"id":0,"id":0}
			0 ?
			unexpected 1`},
		{"in a batch only the member that gives a key twice is refused", JSONRPCv2, `
			--> [{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"a","params":[],"params":[],"id":2}]
			<-- [{"jsonrpc":"2.0","result":[],"id":1}, {"jsonrpc":"2.0","error":{"code":-32600,"message":"a member of the message is given twice"},"id":2}]`},
		{"in a batch of responses only its call fails", JSONRPCv2, `
			batch a b
			--> [{"jsonrpc":"2.0","result":1,"id":1},{"jsonrpc":"2.0","result":1,"id":0,"error":null,"error":null}]
			0 ! a member of the message is given twice
			1 = 1`},
		{"a key that the envelope does not have may be given twice", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","x":1,"x":2,"params":{"y":1,"y":2},"id":1}
			<-- {"jsonrpc":"2.0","result":{"y":1,"y":2},"id":1}`},

		{"keys match in exact case: this is no method", JSONRPCv2, `
			--> {"jsonrpc":"2.0","Method":"a","id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":1}`},
		{"nor is this an id", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","ID":1}`},
		{"nor a second method", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","METHOD":"b","Params":[2],"params":[1],"id":1}
			<-- {"jsonrpc":"2.0","result":[1],"id":1}`},
		{"an escaped key is the key that it stands for", JSONRPCv2, `
			--> {"jsonrpc":"2.0","m\u0065thod":"a","\u0069\u0064":1,"p\u0061rams":[2]}
			<-- {"jsonrpc":"2.0","result":[2],"id":1}`},

		{"a boolean is no id of a request", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","id":true}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"invalid \"id\": true"},"id":null}`},
		{"not even in JSON-RPC 1.0", JSONRPCv1, `
			--> {"method":"a","params":[],"id":false}
			<-- {"result":null,"error":{"code":-32600,"message":"invalid \"id\": false"},"id":null}`},
		{"a boolean is no number, so it is the id of no call", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","result":5,"id":false}
			--> [{"jsonrpc":"2.0","result":5,"id":true}]
			0 ?
			1 ?
			unexpected 2`},
		{"a boolean is no error code", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","error":{"code":true,"message":"m"},"id":0}
			0 ! protocol error: ill-formed response error object: {"code":true,"message":"m"} (ID: 0) (code -32600)`},
		{"where errors are read as well as may be, it is like none", JSONRPCLoose, `
			call a
			--> {"error":{"code":true,"message":"m"},"id":0}
			0 ! m (code -100)`},

		{"10,000 levels of nesting are taken", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":` + nested("[", 9999) + `,"id":1}
			<-- {"jsonrpc":"2.0","result":` + nested("[", 9999) + `,"id":1}`},
		{"10,001 are no JSON", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":` + nested("[", 10000) + `,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`},
		{"a batch counts as one of them", JSONRPCv2, `
			--> [{"jsonrpc":"2.0","method":"a","params":` + nested("[", 9999) + `,"id":1}]
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`},
		{"what is outside of the envelope counts too", JSONRPCv2, `
			--> ` + nested("[", 10001) + `
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`},
		{"NaN and Infinity are no JSON", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":[NaN],"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","method":"a","params":[-Infinity],"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`},
		{"numbers of any size are text", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":[1e999,123456789012345678901234567890],"id":1e999}
			<-- {"jsonrpc":"2.0","result":[1e999,123456789012345678901234567890],"id":1e999}`},

		{"what is neither request nor response is answered", JSONRPCLoose, `
			--> {}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":null}
			--> {"foo":"boo","id":"x"}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":"x"}`},
		{"a method that is no string is refused before params are looked at", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":5,"params":5,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":1}`},
		{"bad params of a good method are bad params", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":5,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: 5"},"id":1}`},

		{"a batch of invalid members and notifications is answered", JSONRPCv2, `
			--> [5,{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","id":2}]
			<-- [{"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}, {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":2}]`},
		{"one of notifications only is not", JSONRPCv2, `
			--> [{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"a"}]`},
		{"replies keep the order of the requests, errors among them", JSONRPCv2, `
			--> [{"jsonrpc":"2.0","method":"a","id":1},5,{"jsonrpc":"2.0","method":"a","id":2},{"jsonrpc":"2.0","method":"a","id":3}]
			<-- [{"jsonrpc":"2.0","result":[],"id":1}, {"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}, {"jsonrpc":"2.0","result":[],"id":2}, {"jsonrpc":"2.0","result":[],"id":3}]`},
		{"a batch of the permitted length is taken", JSONRPCv2, `
			longest batch 2
			--> [{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"a","id":2}]
			<-- [{"jsonrpc":"2.0","result":[],"id":1}, {"jsonrpc":"2.0","result":[],"id":2}]`},
		{"a longer one gets one error, and is not read further", JSONRPCv2, `
			longest batch 2
			--> [{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"a","id":2},{"jsonrpc":"2.0","method":"a","id":3}]
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"batch too long: over 2 members (Limits.Batch)"},"id":null}
			--> [1,2,and so on
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"batch too long: over 2 members (Limits.Batch)"},"id":null}`},
		{"so does one of responses, and no call ends", JSONRPCv2, `
			batch a b
			longest batch 1
			--> [{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","result":1,"id":1}]
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"batch too long: over 1 members (Limits.Batch)"},"id":null}
			0 ?
			1 ?`},

		{"the text for a large response has both parentheses", JSONRPCv2, `
			largest response 1000
			--> {"jsonrpc":"2.0","method":"a","params":["` + strings.Repeat("a", 1000) + `"],"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 1,000 bytes)"},"id":1}`},
		{"output is UTF-8 without escapes for HTML", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"text","params":["\u00e9<&>"],"id":1}
			<-- {"jsonrpc":"2.0","result":"é<&>","id":1}`},
		{"what counts is the bytes that are sent", JSONRPCv2, `
			largest response 44
			--> {"jsonrpc":"2.0","method":"text","params":["éééé"],"id":1}
			<-- {"jsonrpc":"2.0","result":"éééé","id":1}
			--> {"jsonrpc":"2.0","method":"text","params":["ééééé"],"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 44 bytes)"},"id":1}`},
		{"a result that JSON cannot express is an internal error, and the session goes on", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"inexpressible","id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}
			--> {"jsonrpc":"2.0","method":"a","id":2}
			<-- {"jsonrpc":"2.0","result":[],"id":2}`},

		{"ids are echoed byte for byte", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","id":1.0}
			<-- {"jsonrpc":"2.0","result":[],"id":1.0}
			--> {"jsonrpc":"2.0","method":"a","id":1e0}
			<-- {"jsonrpc":"2.0","result":[],"id":1e0}
			--> {"jsonrpc":"2.0","method":"a","id":-0}
			<-- {"jsonrpc":"2.0","result":[],"id":-0}
			--> {"jsonrpc":"2.0","method":"a","id":9007199254740993.000}
			<-- {"jsonrpc":"2.0","result":[],"id":9007199254740993.000}
			--> {"jsonrpc":"2.0","method":"a","id":"\u0041\/é\u00e9"}
			<-- {"jsonrpc":"2.0","result":[],"id":"\u0041\/é\u00e9"}
			--> {"jsonrpc":"2.0","method":"a","id":"\ud800"}
			<-- {"jsonrpc":"2.0","result":[],"id":"\ud800"}
			--> {"jsonrpc":"2.0","method":5,"id":1.50}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":1.50}`},
		{"in JSON-RPC 1.0 so are arrays and objects", JSONRPCv1, `
			--> {"method":"a","params":[],"id":[1, 2.0]}
			<-- {"result":[],"error":null,"id":[1, 2.0]}
			--> {"method":"a","params":[],"id":{"b":1,"a":[]}}
			<-- {"result":[],"error":null,"id":{"b":1,"a":[]}}`},
		{"ids are compared exactly, beyond 2^53 too", JSONRPCv2, `
			next id 9007199254740992
			call a
			call b
			call c
			--> {"jsonrpc":"2.0","result":"b","id":9007199254740993}
			0 ?
			1 = "b"
			2 ?
			--> {"jsonrpc":"2.0","result":"a","id":9007199254740992.0}
			--> {"jsonrpc":"2.0","result":"c","id":9007199254740994.5}
			0 = "a"
			2 ?
			unexpected 1
			--> {"jsonrpc":"2.0","result":"c","id":9007199254740994e0}
			2 = "c"`},
		{"however a number is written, it is the same id", JSONRPCv2, `
			next id 100
			call a
			call b
			--> {"jsonrpc":"2.0","result":1,"id":1e2}
			--> {"jsonrpc":"2.0","result":2,"id":10100.0E-2}
			0 = 1
			1 = 2`},
		{"each member of a batch of responses is for the call with its id, wherever that was sent", JSONRPCv2, `
			batch a b
			call c
			batch d
			--> [{"jsonrpc":"2.0","result":3,"id":3},{"jsonrpc":"2.0","result":2,"id":2},{"jsonrpc":"2.0","result":0,"id":0},{"jsonrpc":"2.0","result":1,"id":1}]
			0 = 0
			1 = 1
			2 = 2
			3 = 3`},
		{"an ill-formed member fails its own call", JSONRPCv2, `
			batch a b
			--> [{"jsonrpc":"2.0","error":5,"id":0},{"jsonrpc":"2.0","result":1,"id":1}]
			0 ! ill-formed response error object: 5
			1 = 1`},
		{"the first of two replies wins, the second is surplus", JSONRPCv2, `
			batch a
			--> [{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","result":2,"id":0}]
			0 = 1
			unexpected 1`},
		{"members that an array leaves out have no response", JSONRPCv2, `
			batch a b /c
			--> [{"jsonrpc":"2.0","result":1,"id":1}]
			0 ! rpcx: no response to this member of the batch
			1 = 1
			--> {"jsonrpc":"2.0","result":0,"id":0}
			0 ! rpcx: no response to this member of the batch
			late 1`},
		{"a lone response ends one member, and the batch waits for the others", JSONRPCv2, `
			batch a b
			--> {"jsonrpc":"2.0","result":1,"id":1}
			0 ?
			1 ?
			--> {"jsonrpc":"2.0","result":0,"id":0}
			0 = 0
			1 = 1`},

		{"a call that was cancelled is forgotten; its reply is late once, then unexpected", JSONRPCv2, `
			call a
			cancel 0
			0 ! rpcx: call cancelled
			--> {"jsonrpc":"2.0","result":0,"id":0}
			late 1
			unexpected 0
			--> {"jsonrpc":"2.0","result":0,"id":0}
			late 1
			unexpected 1`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}

func playDecided(t *testing.T, p Protocol, script string) {
	o := newOffline(p)
	var calls []*Future
	var said [][]byte
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		what, rest, _ := strings.Cut(line, " ")
		if what != "<--" && len(said) > 0 {
			t.Fatalf("before %.100s: the session said more: %s", line, said)
		}
		var n uint64
		switch what {
		case "-->":
			o.receive([]byte(rest))
			for _, c := range slices.Backward(o.take()) {
				o.reply(c, decidedResult(c), nil)
			}
			said = o.sent()
		case "<--":
			if len(said) == 0 || string(said[0]) != rest {
				t.Fatalf("the session says %.1000s\nwant             %.1000s", said, rest)
			}
			said = said[1:]
		case "call":
			calls = append(calls, o.Go(context.Background(), rest, nil))
			o.sent()
		case "batch":
			var b Batch
			for method := range strings.FieldsSeq(rest) {
				if note, ok := strings.CutPrefix(method, "/"); ok {
					b.Notify(note, nil)
				} else {
					calls = append(calls, b.Call(method, nil, nil))
				}
			}
			o.GoBatch(context.Background(), &b)
			o.sent()
		case "note":
			if err := o.Notify(context.Background(), rest, nil); err != nil {
				t.Fatal(err)
			}
			o.sent()
		case "strict":
			o.strictParams = true
		case "cancel":
			decidedCall(t, calls, rest).Cancel()
		case "next":
			scan(t, rest, "id %d", &n)
			o.table.lastID.Store(n)
		case "longest":
			scan(t, rest, "batch %d", &o.limits.Batch)
		case "largest":
			scan(t, rest, "response %d", &o.limits.Response)
		case "unexpected", "late":
			got := map[string]uint64{"unexpected": o.stats.UnexpectedReplies, "late": o.stats.LateReplies}[what]
			if scan(t, rest, "%d", &n); got != n {
				t.Errorf("got %d replies that were %s, want %d", got, what, n)
			}
		default:
			checkDecided(t, decidedCall(t, calls, what), line, rest)
		}
	}
	if len(said) > 0 {
		t.Errorf("at the end the session said more: %s", said)
	}
}

// decidedResult is what a request is answered with.
func decidedResult(c *call) any {
	switch c.Method {
	case "inexpressible":
		return make(chan int)
	case "text":
		var params []string
		if err := c.Params.Bind(&params); err != nil {
			return err
		}
		return params[0]
	}
	return json.RawMessage(paramsJSON(c.Params))
}

func decidedCall(t *testing.T, calls []*Future, index string) *Future {
	t.Helper()
	var i int
	if scan(t, index, "%d", &i); i >= len(calls) {
		t.Fatalf("there is no call %d", i)
	}
	return calls[i]
}

func checkDecided(t *testing.T, f *Future, line, want string) {
	t.Helper()
	var result json.RawMessage
	err := f.Decode(&result)
	over := !errors.Is(err, ErrNotDone)
	how, want, _ := strings.Cut(want, " ")
	switch {
	case how == "?" && over, how != "?" && !over:
		t.Errorf("%s: is it over: %v", line, over)
	case how == "=" && (err != nil || string(result) != want):
		t.Errorf("%s: got %s %v", line, result, err)
	case how == "!" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %s %v", line, result, err)
	}
}

func scan(t *testing.T, text, format string, into any) {
	t.Helper()
	if _, err := fmt.Sscanf(text, format, into); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
}

func TestAMessageThatIsRefusedDecidesNoProtocol(t *testing.T) {
	for sentence, msg := range map[string]string{
		"a key given twice":      `{"jsonrpc":"2.0","id":1,"id":1}`,
		"no JSON behind it":      `{"jsonrpc":"2.0"}x`,
		"NaN":                    `{"jsonrpc":"2.0","result":NaN}`,
		"nesting too deep":       `{"jsonrpc":"2.0","result":` + nested("[", 10000) + `}`,
		"no UTF-8":               `{"jsonrpc":"2.0","result":"` + "\xff" + `"}`,
		"no UTF-8, in a batch":   `[{"jsonrpc":"2.0","result":"` + "\xff" + `"}]`,
		"a batch that is longer": `[{"jsonrpc":"2.0"},{"jsonrpc":"2.0"},{"jsonrpc":"2.0"}]`,
	} {
		if p := JSONRPCAutoDetect.(Detector).Detect([]byte(msg), 2); p != nil {
			t.Errorf("%s: got %v", sentence, p)
		}
	}
}

func TestRepliesToTheLast1024CallsGivenUpAreLate(t *testing.T) {
	o := newOffline(JSONRPCv2)
	for range lateIDs + 2 {
		o.Go(context.Background(), "a", nil).Cancel()
		o.sent()
	}
	for id := range lateIDs + 2 {
		o.receive(fmt.Appendf(nil, `{"jsonrpc":"2.0","result":0,"id":%d}`, id))
	}
	if got := o.Stats(); got.UnexpectedReplies != 2 || got.LateReplies != 1024 {
		t.Errorf("got %d unexpected and %d late, want 2 and 1024", got.UnexpectedReplies, got.LateReplies)
	}
	if got := len(o.faults()); got != 2 {
		t.Errorf("got %d faults, want 2: late replies are free", got)
	}
}

func TestABatchOfNotificationsIsOverWhenItIsQueued(t *testing.T) {
	o := newOffline(JSONRPCv2)
	var b Batch
	b.Notify("a", nil)
	b.Notify("b", Args{1})
	if err := o.SendBatch(context.Background(), &b); err != nil {
		t.Error(err)
	}
	want := `[{"jsonrpc":"2.0","method":"a"}, {"jsonrpc":"2.0","method":"b","params":[1]}]`
	if got := o.sent(); len(got) != 1 || string(got[0]) != want {
		t.Errorf("sent %s, want %s", got, want)
	}
}

func TestNewlineFramerLimits(t *testing.T) {
	const dropped = "dropping message over 5 bytes and re-synchronizing"
	for _, c := range []struct {
		sentence string
		maxSize  int
		input    string
		want     []string
	}{
		{"a message of the largest size is taken", 5, "abcde\nx\n", []string{"abcde", "x"}},
		{"a larger one is dropped, though its newline came in the same chunk", 5, "abcdef\nx\n", []string{dropped, "x"}},
		{"however large it is, that is one error", 5, strings.Repeat("abcdef", 1000) + "\nx\n", []string{dropped, "x"}},
		{"each message that is dropped is an error", 5, "abcdef\nabcdefg\nx\n", []string{dropped, dropped, "x"}},
		{"an empty line is a message", 5, "\n\nx\n", []string{"", "", "x"}},
		{"a negative limit is none", -1, strings.Repeat("x", 2_000_000) + "\n", []string{strings.Repeat("x", 2_000_000)}},
		{"the default is 1,000,000", 0, strings.Repeat("x", 1_000_001) + "\nx\n",
			[]string{"dropping message over 1,000,000 bytes and re-synchronizing", "x"}},
	} {
		t.Run(c.sentence, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"at once":      strings.NewReader(c.input),
				"byte by byte": iotest.OneByteReader(strings.NewReader(c.input)),
			} {
				if got := testFrames(t, NewlineFramer{MaxSize: c.maxSize}, r); !slices.Equal(got, c.want) {
					t.Errorf("%s: got %.200q, want %.200q", how, got, c.want)
				}
			}
		})
	}
}

// testFrames returns the messages in a stream, and the texts of the errors.
func testFrames(t *testing.T, framer Framer, r io.Reader) (got []string) {
	t.Helper()
	s := newStream(readConn{Reader: r}, framer)
	for {
		msg, err := s.next(true)
		var frame *FrameError
		switch {
		case err == nil:
			got = append(got, string(msg))
		case errors.As(err, &frame) && frame.Recoverable:
			got = append(got, frame.Message)
		case err == io.EOF:
			return got
		default:
			t.Fatal(err)
		}
	}
}
