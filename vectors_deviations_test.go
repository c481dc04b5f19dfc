package rpcx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
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
				o.requests.finishRequest(c, decidedResult(c), nil)
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
			o.calls.table.lastID.Store(n)
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
func decidedResult(c *peerRequest) any {
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
	for range maxAbandoned + 2 {
		o.Go(context.Background(), "a", nil).Cancel()
		o.sent()
	}
	for id := range maxAbandoned + 2 {
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
		msg, err := s.nextMessage(true)
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

// TestDecidedParams plays conversations as TestDecided does, about params that are null.
func TestDecidedParams(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"params that are null are none", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}
			--> [{"jsonrpc":"2.0","method":"a","params": null ,"id":1},{"jsonrpc":"2.0","method":"a","params":null}]
			<-- [{"jsonrpc":"2.0","result":[],"id":1}]`},
		{"in JSON-RPC 1.0 too, which asks for them", JSONRPCv1, `
			--> {"method":"a","params":null,"id":1}
			<-- {"result":[],"error":null,"id":1}
			--> {"method":"a","id":2}
			<-- {"result":[],"error":null,"id":2}`},
		{"and where the protocol is loose", JSONRPCLoose, `
			--> {"method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}`},
		{"and where it is found out", JSONRPCAutoDetect, `
			--> {"method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}`},
		{"other params that are no list or dictionary are still bad", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","params":false,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: false"},"id":1}
			--> {"jsonrpc":"2.0","method":"a","params":"null","id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: \"null\""},"id":1}`},
		{"if params are strict, null is bad", JSONRPCv2, `
			strict params
			--> {"jsonrpc":"2.0","method":"a","params":null,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: null"},"id":1}
			--> {"jsonrpc":"2.0","method":"a","id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}`},
		{"if they are strict, JSON-RPC 1.0 asks for them", JSONRPCv1, `
			strict params
			--> {"method":"a","id":2}
			<-- {"result":null,"error":{"code":-32602,"message":"invalid request arguments: none"},"id":2}`},
		{"a request whose id is null is a notification", JSONRPCv2, `
			--> {"jsonrpc":"2.0","method":"a","id":null}`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}

// TestDecidedReplies plays conversations as TestDecided does, about what may be a reply
// and is none by the letter.
func TestDecidedReplies(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"if it has the id of a call it is a reply, and bad", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","res":1,"id":0}
			0 ! response contains neither "result" nor "error"
			1 ?
			unexpected 0`},
		{"however its id is written", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","id":0.0}
			--> {"id":"1","jsonrpc":"2.0","params":[]}
			0 ! response contains neither "result" nor "error"
			1 ! the id of the response is the string "1", not the number 1
			unexpected 0`},
		{"if its call was given up it is late, and not answered", JSONRPCv2, `
			call a
			cancel 0
			--> {"jsonrpc":"2.0","id":0}
			late 1
			unexpected 0
			--> {"jsonrpc":"2.0","id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}`},
		{"with the id of no call it is answered, though calls are pending", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","res":1,"id":7}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":7}
			--> {"jsonrpc":"2.0","res":1,"id":"x"}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":"x"}
			0 ?`},
		{"a bad request with the id of a call is a request", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","method":"a","params":5,"id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: 5"},"id":0}
			--> {"jsonrpc":"2.0","m\u0065thod":5,"id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}
			0 ?`},
		{"in JSON-RPC 1.0 it ends its call too", JSONRPCv1, `
			call a
			call b
			--> {"id":0}
			--> {"id":1,"error":null}
			0 ! response must contain both "result" and "error"
			1 ! response must contain both "result" and "error"`},
		{"where the protocol is loose the result is null", JSONRPCLoose, `
			call a
			call b
			call c
			--> {"id":0}
			--> {"jsonrpc":"2.0","id":1,"error":null}
			--> {"id":"2","more":[1,{"id":7}]}
			0 = null
			1 = null
			2 = null
			unexpected 0`},
		{"a member of a reply that has neither fails its own call", JSONRPCv2, `
			batch a b c
			--> [{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","id":1},{"jsonrpc":"2.0","result":3,"id":2}]
			0 = 1
			1 ! response contains neither "result" nor "error"
			2 = 3`},
		{"or has a null result", JSONRPCLoose, `
			batch a b c
			--> [{"id":0},{"id":"1"},{"result":3,"id":2}]
			0 = null
			1 = null
			2 = 3`},
		{"what else is in such a reply is answered", JSONRPCv2, `
			batch a b
			--> [{"jsonrpc":"2.0","result":1,"id":0},5,{"jsonrpc":"2.0","id":9}]
			<-- [{"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}, {"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":9}]
			0 = 1
			1 ! rpcx: no response to this member of the batch`},
		{"a batch with a request in it is one of requests", JSONRPCv2, `
			call a
			--> [{"jsonrpc":"2.0","id":0},{"jsonrpc":"2.0","method":"a","id":1}]
			<-- [{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}, {"jsonrpc":"2.0","result":[],"id":1}]
			0 ?`},
		{"a reply that is no JSON fails the call whose id it has", JSONRPCv2, `
			call a
			call b
			call c
			call d
			--> {"jsonrpc":"2.0","result":[1,NaN],"id":0}
			0 ! protocol error: invalid JSON (ID: 0) (code -32700)
			1 ?
			--> {"jsonrpc":"2.0","id":"1","result":{"a":"}","b":[Infinity]}}
			1 ! the id of the response is the string "1", not the number 1
			--> {"jsonrpc":"2.0","id":2,"error":{"code":1,"message":
			2 ! protocol error: invalid JSON (ID: 2) (code -32700)
			--> {"jsonrpc":"2.0","result":"` + "\xff" + `","id":3}
			3 ! protocol error: messages must be encoded in UTF-8 (ID: 3) (code -32700)
			unexpected 0`},
		{"so does each member of a batch", JSONRPCv2, `
			batch a b c
			--> [{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","result":NaN,"id":1}]
			0 ! protocol error: invalid JSON (ID: 0) (code -32700)
			1 ! protocol error: invalid JSON (ID: 1) (code -32700)
			2 ! rpcx: no response to this member of the batch`},
		{"what is no JSON and may be no reply is answered", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","method":"a","result":NaN,"id":0}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","id":0,"params":NaN}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":{"id":0,"x":NaN}}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":NaN,"id":7}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":NaN,"id":0
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			--> {"jsonrpc":"2.0","result":NaN,"id":0,"id":1}
			<-- {"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}
			0 ?`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}

// TestDecidedRepliesByVersion plays some about what one version of JSON-RPC takes for a
// good reply and another does not.
func TestDecidedRepliesByVersion(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"an id that is the string of a call's number fails the call", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","result":1,"id":"0"}
			0 ! protocol error: the id of the response is the string "0", not the number 0 (code -32600)
			unexpected 0
			--> {"jsonrpc":"2.0","result":1,"id":"0"}
			unexpected 1`},
		{"in JSON-RPC 1.0 too", JSONRPCv1, `
			call a
			--> {"result":1,"error":null,"id":"0"}
			0 ! the id of the response is the string "0", not the number 0`},
		{"where the protocol is loose it is the call's id", JSONRPCLoose, `
			next id 9007199254740993
			call a
			call b
			call c
			call d
			--> {"result":"a","id":"9007199254740993"}
			--> {"result":"b","id":"9007199254740994.0"}
			--> {"error":{"code":5,"message":"no"},"id":"\u0039007199254740995"}
			--> {"result":"d","id":" 9007199254740996"}
			--> {"result":"d","id":"9007199254740996x"}
			--> {"result":"d","id":"09007199254740996"}
			--> {"result":"d","id":["9007199254740996"]}
			0 = "a"
			1 = "b"
			2 ! no (code 5)
			3 ?
			unexpected 4`},
		{"if the call was given up, its reply is late", JSONRPCLoose, `
			call a
			cancel 0
			--> {"result":1,"id":"0"}
			late 1
			unexpected 0`},
		{"codes keep their value where the protocol is loose", JSONRPCLoose, `
			call a
			call b
			call c
			call d
			call e
			call f
			--> {"error":{"code":-32000.0,"message":"m"},"id":0}
			--> {"error":{"code":"-32000","message":"m"},"id":1}
			--> {"error":{"code":-3.2e4,"message":"m"},"id":2}
			--> {"error":{"code":"7.0","message":"m"},"id":3}
			--> {"error":{"code":-32000.5,"message":"m"},"id":4}
			--> {"error":{"code":1e99,"message":"m"},"id":5}
			0 ! m (code -32000)
			1 ! m (code -32000)
			2 ! m (code -32000)
			3 ! m (code 7)
			4 ! m (code -100)
			5 ! m (code -100)`},
		{"elsewhere they fail the call, with its id", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32000.0,"message":"m"},"id":0}
			--> {"jsonrpc":"2.0","error":{"code":"-32000","message":"m"},"id":1}
			0 ! ill-formed response error object: {"code":-32000.0,"message":"m"} (ID: 0)
			1 ! ill-formed response error object: {"code":"-32000","message":"m"} (ID: 1)`},
		{"in JSON-RPC 1.0 half of a response will do", JSONRPCv1, `
			call a
			call b
			call c
			call d
			--> {"result":1,"id":0}
			--> {"error":{"code":5,"message":"no"},"id":1}
			--> {"result":null,"id":2}
			--> {"id":3,"error":{"error":"unknown database","details":"x"},"result":null}
			0 = 1
			1 ! no (code 5)
			2 = null
			3 ! no error message provided (code -100)`},
		{"a result and an error together are still bad", JSONRPCv1, `
			call a
			--> {"result":1,"error":"x","id":0}
			0 ! response has a "result" and an "error"`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}

// TestDecidedRefusals plays some about errors whose id is null.
func TestDecidedRefusals(t *testing.T) {
	for _, c := range []struct {
		sentence string
		protocol Protocol
		script   string
	}{
		{"an error without an id is for the only message that was sent", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"what?"},"id":null}
			0 ! what? (code -32700)
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			1 ! no (code -32600)
			unexpected 0`},
		{"if that is a batch, for all of its calls", JSONRPCv2, `
			batch a /b c
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"batch too long"},"id":null}
			0 ! batch too long (code -32600)
			1 ! batch too long (code -32600)
			unexpected 0`},
		{"after a reply, for what was sent since", JSONRPCv2, `
			call a
			call b
			note c
			--> {"jsonrpc":"2.0","result":0,"id":1}
			--> {"jsonrpc":"2.0","result":0,"id":0}
			batch d e
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			2 ! no (code -32600)
			3 ! no (code -32600)
			unexpected 0`},
		{"after a late reply too", JSONRPCv2, `
			call a
			cancel 0
			--> {"jsonrpc":"2.0","result":0,"id":0}
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			1 ! no (code -32600)`},
		{"in an array as well, unless that answers anything", JSONRPCv2, `
			batch a b
			--> [{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}]
			0 ! no (code -32600)
			1 ! no (code -32600)
			unexpected 0
			batch c d
			--> [{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null},{"jsonrpc":"2.0","result":3,"id":3}]
			2 ! rpcx: no response to this member of the batch
			3 = 3
			unexpected 1`},
		{"in JSON-RPC 1.0 and loose too", JSONRPCLoose, `
			call a
			--> {"result":null,"error":{"code":"-32600","message":"no"},"id":null}
			0 ! no (code -32600)`},
		{"any other code is for nobody", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","error":{"code":-32603,"message":"no"},"id":null}
			--> {"jsonrpc":"2.0","error":{"code":-32000,"message":"no"},"id":null}
			--> {"jsonrpc":"2.0","error":{"code":"-32600","message":"no"},"id":null}
			--> {"jsonrpc":"2.0","result":1,"id":null}
			0 ?
			unexpected 4`},
		{"so is an error after two calls", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}
			0 ?
			1 ?
			unexpected 1`},
		{"or after a notification", JSONRPCv2, `
			note a
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			unexpected 1`},
		{"or before one", JSONRPCv2, `
			call a
			note b
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			unexpected 1`},
		{"or after a reply of ours", JSONRPCv2, `
			call a
			--> {"jsonrpc":"2.0","method":"b","id":1}
			<-- {"jsonrpc":"2.0","result":[],"id":1}
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			unexpected 1`},
		{"or while an older call is pending", JSONRPCv2, `
			call a
			call b
			--> {"jsonrpc":"2.0","result":1,"id":1}
			call c
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			0 ?
			2 ?
			unexpected 1`},
		{"or after a call was given up", JSONRPCv2, `
			call a
			cancel 0
			call b
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			1 ?
			unexpected 1`},
		{"or when a part of the batch was answered", JSONRPCv2, `
			batch a b
			--> {"jsonrpc":"2.0","result":1,"id":0}
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			1 ?
			unexpected 1`},
		{"or when nothing is pending", JSONRPCv2, `
			note a
			--> {"jsonrpc":"2.0","error":{"code":-32700,"message":"no"},"id":null}
			unexpected 1`},
	} {
		t.Run(c.sentence, func(t *testing.T) { playDecided(t, c.protocol, c.script) })
	}
}

// offline is a session without goroutines, connection or timer. The test is
// its reader, its writer and its worker: with receive, sent and take.
type offline struct {
	*Session
	message Message
	intake  decodedInput
}

func newOffline(p Protocol) *offline {
	o := mustResolveOptions(&Options{
		Protocol: p,
		Limits:   Limits{Response: -1, RequestTimeout: -1, ProcessingTimeout: -1},
		Logger:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	s := newSession(&messages{conn: nowhere{}}, o, RoleClient, &pool{}, &noServer)
	s.requests.workersHeld = true // nobody is called to handle requests
	s.logs.running = true         // nor to log
	return &offline{Session: s}
}

// nowhere is the connection that an offline session does not use.
type nowhere struct{}

func (nowhere) ReadMessage() ([]byte, error) { return nil, io.EOF }
func (nowhere) WriteMessages([][]byte) error { return nil }
func (nowhere) Close() error                 { return nil }

// receive has the session take a message. The bytes are overwritten behind it,
// for they are only lent.
func (o *offline) receive(msg []byte) {
	msg = bytes.Clone(msg)
	o.Session.reader.receiveMessage(&o.intake, &o.message, msg)
	o.reader.handOverDecoded(&o.intake)
	for i := range msg {
		msg[i] = '?'
	}
}

// take returns the requests and notifications that wait for a handler.
func (o *offline) take() (calls []*peerRequest) {
	for c := o.requests.takeRequest(o.Session); c != nil; c = o.requests.takeRequest(o.Session) {
		calls = append(calls, c)
	}
	return calls
}

// sent returns the messages that wait to be written.
func (o *offline) sent() (msgs [][]byte) {
	if o.writer.isEmpty() {
		return nil
	}
	f := o.writer.takeFrames()
	for _, msg := range f.appendParts(nil) {
		msgs = append(msgs, bytes.Clone(msg))
	}
	o.writer.returnFrames(f)
	return msgs
}

// faults returns the violations of the protocol that were noted.
func (o *offline) faults() (faults []error) {
	for _, n := range o.logs.records {
		for _, attr := range n.attrs {
			if attr.Key == "error" {
				faults = append(faults, attr.Value.Any().(error))
			}
		}
	}
	o.logs.records = nil
	return faults
}

// sameErrors compares errors by their types and texts.
func sameErrors(t *testing.T, what string, got, want []error) {
	t.Helper()
	describe := func(errs []error) (list []string) {
		for _, err := range errs {
			list = append(list, fmt.Sprintf("%T %v", err, err))
		}
		return list
	}
	if g, w := describe(got), describe(want); fmt.Sprint(g) != fmt.Sprint(w) {
		t.Errorf("%s: got %q, want %q", what, g, w)
	}
}

// A ledger says what becomes of a session's calls, by the rules and not by the
// session's code: a response completes the pending call that has its id,
// wherever it was sent and whatever comes with it; the first of two wins; one
// whose call was given up is late; any other is unexpected. A string of a call's
// number is its id where the protocol is loose, and fails it elsewhere. An error
// without an id, of the code for what cannot be read, is for the pending calls if all
// are of the one message that was sent since the last response was of use.
type ledger struct {
	calls            []*ledgerCall // by their ids
	late, unexpected uint64        // responses
	loose            bool
	sent, replied    int // messages: so far, and when the last response was of use
}

type ledgerCall struct {
	ref     string // of the call or its batch
	message int    // that it was sent in
	member  bool   // of a batch
	state   ledgerState
	swept   bool // it was over when all pending calls were given up
	result  []byte
	err     error
}

type ledgerState uint8

const (
	ledgerUnsent  ledgerState = iota // its id is used up
	ledgerPending                    // it waits for its reply
	ledgerGivenUp                    // it does not, but the reply may come
	ledgerOver
)

// find returns the call with a response's id, nil if there is none.
func (l *ledger) find(item *Item) *ledgerCall {
	id, _ := ledgerID(item.ID)
	if id, err := strconv.ParseUint(id, 10, 64); err == nil && id < uint64(len(l.calls)) {
		return l.calls[id]
	}
	return nil
}

// ledgerID returns an id without its quotes, if it is a string.
func ledgerID(id []byte) (text string, quoted bool) {
	var s string
	if len(id) > 0 && id[0] == '"' && json.Unmarshal(id, &s) == nil {
		return s, true
	}
	return string(id), false
}

// refused returns the pending calls that an error without an id is for.
func (l *ledger) refused(item *Item) (calls []*ledgerCall) {
	e, ok := item.Err.(*Error)
	if item.ID != nil || !ok || e.Code != CodeParseError && e.Code != CodeInvalidRequest || l.sent != l.replied+1 {
		return nil
	}
	for _, c := range l.calls {
		if c.state == ledgerPending {
			if c.message != l.sent {
				return nil
			}
			calls = append(calls, c)
		}
	}
	return calls
}

// receive notes the responses of one message, and returns the faults in them.
func (l *ledger) receive(items []Item, batch bool) (faults []error) {
	answered := map[string]bool{} // batches by an array
	for i := range items {
		item := &items[i]
		c := l.find(item)
		refused := l.refused(item)
		switch {
		case len(refused) > 0:
			for _, c := range refused {
				c.settle(ledgerOver, nil, item.Err)
			}
			l.replied = l.sent
		case c != nil && c.state == ledgerPending:
			err := item.Err
			if text, quoted := ledgerID(item.ID); quoted && !l.loose {
				err = protocolErrorf(CodeInvalidRequest, "the id of the response is the string %q, not the number %s", text, text)
			}
			c.settle(ledgerOver, bytes.Clone(item.Result), err)
			if err, ok := err.(*ProtocolError); ok {
				faults = append(faults, err)
			}
			answered[c.ref] = answered[c.ref] || batch && c.member
			l.replied = l.sent
		case c != nil && c.state == ledgerGivenUp:
			c.state = ledgerOver
			l.late++
			l.replied = l.sent
		default:
			l.unexpected++
			faults = append(faults, unexpectedResponse(item))
		}
	}
	for _, c := range l.calls {
		if answered[c.ref] && c.state == ledgerPending {
			c.settle(ledgerGivenUp, nil, ErrNoResponse)
		}
	}
	return faults
}

func unexpectedResponse(item *Item) error {
	if e, ok := item.Err.(*Error); ok && item.ID == nil {
		return protocolErrorf(CodeInvalidRequest, "diagnostic error received: %d %s", e.Code, excerpt(e.Message))
	}
	return protocolError(CodeInvalidRequest, "response to unsent request (ID: "+excerpt(appendID(nil, item.ID))+")")
}

func (c *ledgerCall) settle(state ledgerState, result []byte, err error) {
	c.state, c.result, c.err = state, result, err
}

// giveUp notes that the pending calls of ref, or all if it is empty, end with err.
func (l *ledger) giveUp(ref string, state ledgerState, err error) {
	for _, c := range l.calls {
		if c.state == ledgerPending && (ref == "" || c.ref == ref) {
			c.settle(state, nil, err)
		}
	}
}

// in returns the references of the calls that pass, in order.
func (l *ledger) in(pass func(c *ledgerCall) bool) (refs []string) {
	for _, c := range l.calls {
		if pass(c) && (len(refs) == 0 || refs[len(refs)-1] != c.ref) {
			refs = append(refs, c.ref)
		}
	}
	return refs
}

func (c *ledgerCall) pending() bool { return c.state == ledgerPending }

// of returns the calls of ref.
func (l *ledger) of(ref string) (calls []*ledgerCall) {
	for _, c := range l.calls {
		if c.ref == ref {
			calls = append(calls, c)
		}
	}
	return calls
}
