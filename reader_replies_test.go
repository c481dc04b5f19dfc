package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

// A peer that refuses a batch as a whole answers with one error under id null. The
// batch waited for its timeout.
func TestBatchThatThePeerRefusesFailsAtOnce(t *testing.T) {
	for name, limit := range map[string]int{"by one member": 3, "by all": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := handling(methods{"reply": reply})
				server.Limits.Batch = limit
				a, _ := newPipe(t, nil, server)
				if err := a.Call(t.Context(), "reply", nil, nil); err != nil {
					t.Fatal(err)
				}
				var b rpcx.Batch
				b.Notify("reply", nil)
				members := []*rpcx.Future{b.Call("reply", nil, nil), b.Call("reply", nil, nil)}
				b.Notify("reply", nil)
				takes(t, 0, func() {
					err := a.SendBatch(t.Context(), &b)
					matches(t, err, rpcx.ErrInvalidRequest)
					var batch *rpcx.BatchError
					if !errors.As(err, &batch) || !strings.Contains(err.Error(), "batch too long") {
						t.Errorf("SendBatch returns %v", err)
					}
				})
				for i, f := range members {
					var e *rpcx.Error
					if !errors.As(f.Err(), &e) || e.Code != rpcx.CodeInvalidRequest {
						t.Errorf("member %d has %v", i, f.Err())
					}
				}
				if stats := a.Stats(); stats.UnexpectedReplies != 0 || stats.Errors != 0 || stats.Pending != 0 {
					t.Errorf("stats are %+v", stats)
				}
				if err := a.Call(t.Context(), "reply", nil, nil); err != nil {
					t.Errorf("the next call fails with %v", err)
				}
			})
		})
	}
}

func TestErrorWithoutAnIDFailsTheOnlyCall(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		say      string
		want     error
	}{
		"a parse error":   {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","error":{"code":-32700,"message":"what?"},"id":null}`, rpcx.ErrParseError},
		"invalid request": {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}`, rpcx.ErrInvalidRequest},
		"1.0":             {rpcx.JSONRPCv1, `{"error":{"code":-32600,"message":"no"},"id":null}`, rpcx.ErrInvalidRequest},
		"loose":           {rpcx.JSONRPCLoose, `{"error":{"code":"-32700","message":"no"},"result":null,"id":null}`, rpcx.ErrParseError},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: test.protocol})
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(test.say)
				if !isDone(f) {
					t.Fatal("the call waits on")
				}
				matches(t, f.Err(), test.want)
				w.expectNothing()
			})
		})
	}
}

// An answer of ours, a cancellation and a probe are messages that the peer may mean.
func TestErrorWithoutAnIDAfterOtherMessagesIsForNobody(t *testing.T) {
	const refusal = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}`
	for name, test := range map[string]struct {
		opts rpcx.Options
		send func(s *rpcx.Session, w *wire)
	}{
		"a reply":        {rpcx.Options{}, func(_ *rpcx.Session, w *wire) { w.say(`{"jsonrpc":"2.0","method":"m","id":1}`) }},
		"a refusal":      {rpcx.Options{}, func(_ *rpcx.Session, w *wire) { w.say(`{"jsonrpc":"2.0"}`) }},
		"a notification": {rpcx.Options{}, func(s *rpcx.Session, _ *wire) { _ = s.Notify(context.Background(), "n", nil) }},
		"a call given up": {rpcx.Options{Cancellation: rpcx.LSPCancellation}, func(s *rpcx.Session, _ *wire) {
			s.Go(context.Background(), "n", nil).Cancel()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &test.opts)
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				test.send(s, w)
				if len(w.heard()) == 0 {
					t.Fatal("nothing was sent")
				}
				w.say(refusal)
				if isDone(f) {
					t.Errorf("the call has failed with %v", f.Err())
				}
				if n := s.Stats().UnexpectedReplies; n != 1 {
					t.Errorf("%d replies are unexpected", n)
				}
				w.say(answered("1", 0))
				if !isDone(f) || f.Err() != nil {
					t.Errorf("its reply comes, and it has %v", f.Err())
				}
			})
		})
	}
}

// A reply that names one pending call ends that at once, and not after 30 seconds.
func TestBadReplyEndsItsCallAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		say      string
		want     string
	}{
		"neither result nor error":        {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0}`, `neither "result" nor "error"`},
		"and another member":              {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"Result":1}`, `neither "result" nor "error"`},
		"and an id that is a string":      {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0"}`, `the string "0", not the number 0`},
		"and no version":                  {rpcx.JSONRPCv2, `{"id":0}`, `"jsonrpc" is not "2.0"`},
		"an id that is a string":          {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0","result":1}`, `the string "0", not the number 0`},
		"one with an escape":              {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"\u0030","result":1}`, `the string "\u0030", not the number 0`},
		"a string of 0.0":                 {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0.0","result":1}`, `the string "0.0", not the number 0`},
		"an error under such an id":       {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":"0","error":{"code":1,"message":"m"}}`, `the string "0", not the number 0`},
		"in an array":                     {rpcx.JSONRPCv2, `[{"jsonrpc":"2.0","id":0}]`, `neither "result" nor "error"`},
		"in an array, with a string":      {rpcx.JSONRPCv2, `[{"jsonrpc":"2.0","id":"0","result":1}]`, `the string "0", not the number 0`},
		"no version":                      {rpcx.JSONRPCv2, `{"id":0,"result":1}`, `"jsonrpc" is not "2.0"`},
		"result and error":                {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"result":1,"error":{"code":1,"message":"m"}}`, `both "result" and "error"`},
		"a code that is a string":         {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"error":{"code":"-32000","message":"m"}}`, `(ID: 0)`},
		"a code with a fraction":          {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"error":{"code":-32000.0,"message":"m"}}`, `(ID: 0)`},
		"NaN, as Python writes it":        {rpcx.JSONRPCv2, `{"jsonrpc": "2.0", "result": NaN, "id": 0}`, `invalid JSON (ID: 0)`},
		"a line that is cut off":          {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","id":0,"result":{"x":[1,2`, `invalid JSON (ID: 0)`},
		"text in Latin-1":                 {rpcx.JSONRPCv2, "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":\"\xe9\"}", `UTF-8 (ID: 0)`},
		"1.0, neither":                    {rpcx.JSONRPCv1, `{"id":0}`, `"result" and "error"`},
		"1.0, an id that is a string":     {rpcx.JSONRPCv1, `{"id":"0","result":1,"error":null}`, `the string "0", not the number 0`},
		"loose, two outcomes":             {rpcx.JSONRPCLoose, `{"id":"0","result":1,"error":1}`, `both "result" and "error"`},
		"loose, NaN":                      {rpcx.JSONRPCLoose, `{"id":"0","result":NaN}`, `invalid JSON (ID: "0")`},
		"not known yet, a string":         {rpcx.JSONRPCAutoDetect, `{"jsonrpc":"2.0","id":"0","result":1}`, `the string "0", not the number 0`},
		"a method that is null":           {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":null,"result":1,"id":0}`, `a "method" (ID: 0)`},
		"and null params, and an error":   {rpcx.JSONRPCv2, `{"id":0,"jsonrpc":"2.0","method":null,"params":null,"error":{"code":1,"message":"m"}}`, `a "method" (ID: 0)`},
		"a method that is a number":       {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":5,"result":1,"id":0}`, `a "method" (ID: 0)`},
		"a method that is null, and NaN":  {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":null,"result":NaN,"id":0}`, `invalid JSON (ID: 0)`},
		"1.0, a method that is null":      {rpcx.JSONRPCv1, `{"method":null,"result":1,"error":null,"id":0}`, `a "method" (ID: 0)`},
		"not known yet, an array of NaNs": {rpcx.JSONRPCAutoDetect, `[{"jsonrpc":"2.0","id":0,"result":NaN}]`, `invalid JSON (ID: 0)`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: test.protocol})
				f, other := s.Go(t.Context(), "m", nil), s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(test.say)
				if !isDone(f) {
					t.Fatal("the call waits on")
				}
				var perr *rpcx.ProtocolError
				if !errors.As(f.Err(), &perr) || !strings.Contains(perr.Message, test.want) {
					t.Errorf("its error is %v", f.Err())
				}
				if isDone(other) {
					t.Errorf("another call has ended with %v", other.Err())
				}
				w.expectNothing()
				if stats := s.Stats(); stats.Errors != 1 || stats.UnexpectedReplies != 0 {
					t.Errorf("stats are %+v", stats)
				}
				live(t, s)
			})
		})
	}
}

// What comes in one piece is dealt with as what comes line by line.
func TestBadRepliesInOnePiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		a, b := s.Go(t.Context(), "m", nil), s.Go(t.Context(), "m", nil)
		w.heard()
		w.say(answered("1", 0) + "\n" + `{"jsonrpc":"2.0","id":0}` + "\n" + `{"jsonrpc":"2.0","id":1}`)
		if !isDone(a) || !isDone(b) || a.Err() != nil || b.Err() == nil {
			t.Errorf("the calls have %v and %v", a.Err(), b.Err())
		}
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":0}`)
	})
}

func TestLooseRepliesAreTakenForWhatTheyMean(t *testing.T) {
	for name, test := range map[string]struct {
		say  string
		want string
	}{
		"no result":                    {`{"jsonrpc":"2.0","id":0}`, "null"},
		"a null error, and no result":  {`{"id":0,"error":null}`, "null"},
		"an id that is a string":       {`{"id":"0","result":[1]}`, "[1]"},
		"that, without a result":       {`{"id":"0"}`, "null"},
		"all in an array":              {`[{"id":"0","result":5}]`, "5"},
		"a null for each other member": {`{"method":null,"params":null,"error":null,"id":0,"result":7}`, "7"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: rpcx.JSONRPCLoose})
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(test.say)
				var got json.RawMessage
				if !isDone(f) || f.Decode(&got) != nil || string(got) != test.want {
					t.Errorf("done: %v, with %s and %v", isDone(f), got, f.Err())
				}
				w.expectNothing()
				if stats := s.Stats(); stats.Errors != 0 {
					t.Errorf("stats are %+v", stats)
				}
			})
		})
	}
}

// The replies are those of ovsdb-server, bitcoind, and others of their kind.
func TestErrorsOfAnyShape(t *testing.T) {
	v1, loose := rpcx.JSONRPCv1, rpcx.JSONRPCLoose
	const none = "no error message provided"
	for name, test := range map[string]struct {
		protocols []rpcx.Protocol
		say       string
		want      rpcx.Error
	}{
		"an object of other members": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"error":"unknown database","details":"no such"},"result":null}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`{"error":"unknown database","details":"no such"}`)}},
		"without a result": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"error":"x"}}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`{"error":"x"}`)}},
		"a string": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":"canceled","result":null}`,
			rpcx.Error{Code: -100, Message: "canceled", Data: json.RawMessage(`"canceled"`)}},
		"an array": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":[1, "two"]}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`[1, "two"]`)}},
		"a number": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":7}`,
			rpcx.Error{Code: 7, Message: none, Data: json.RawMessage(`7`)}},
		"true": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":true}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`true`)}},
		"an empty object": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{}}`,
			rpcx.Error{Code: -100, Message: none, Data: json.RawMessage(`{}`)}},
		"a code alone": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":3,"data":1}}`,
			rpcx.Error{Code: 3, Message: none, Data: json.RawMessage(`{"code":3,"data":1}`)}},
		"a message alone": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"message":"m"}}`,
			rpcx.Error{Code: -100, Message: "m", Data: json.RawMessage(`{"message":"m"}`)}},
		"a code and a message": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":3,"message":"m"}}`,
			rpcx.Error{Code: 3, Message: "m"}},
		"and data": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":3,"message":"m","data":[1]}}`,
			rpcx.Error{Code: 3, Message: "m", Data: json.RawMessage(`[1]`)}},
		"and what has another name": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"name":"JSONRPCError","code":3,"message":"m","error":[1]}}`,
			rpcx.Error{Code: 3, Message: "m", Data: json.RawMessage(`{"name":"JSONRPCError","code":3,"message":"m","error":[1]}`)}},
		"a code in a string": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":"-32000","message":"m"}}`,
			rpcx.Error{Code: -32000, Message: "m"}},
		"a code with a fraction": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":-32000.0,"message":"m"}}`,
			rpcx.Error{Code: -32000, Message: "m"}},
		"a code that is none": {[]rpcx.Protocol{v1, loose}, `{"id":0,"error":{"code":"E42","message":"m"}}`,
			rpcx.Error{Code: -100, Message: "m", Data: json.RawMessage(`{"code":"E42","message":"m"}`)}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range test.protocols {
				synctest.Test(t, func(t *testing.T) {
					s, w := newWire(t, &rpcx.Options{Protocol: p})
					f := s.Go(t.Context(), "m", nil)
					w.heard()
					w.say(test.say)
					if !isDone(f) {
						t.Fatal("the call waits on")
					}
					if diff := cmp.Diff(error(&test.want), f.Err()); diff != "" {
						t.Errorf("wrong error (-want +got):\n%s", diff)
					}
				})
			}
		})
	}
}

func TestHalfAResponseOfJSONRPC1(t *testing.T) {
	for name, test := range map[string]struct {
		say    string
		result string // or
		code   int
	}{
		"a result without an error":     {`{"id":0,"result":["Open_vSwitch"]}`, `["Open_vSwitch"]`, 0},
		"a null result without one":     {`{"result":null,"id":0}`, `null`, 0},
		"an error without a result":     {`{"id":0,"error":{"code":5,"message":"no"}}`, ``, 5},
		"an error beside a null result": {`{"id":0,"error":{"code":5,"message":"no"},"result":null}`, ``, 5},
		"a result beside a null error":  {`{"id":0,"error":null,"result":1}`, `1`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: rpcx.JSONRPCv1})
				f := s.Go(t.Context(), "list_dbs", nil)
				w.expect(`{"method":"list_dbs","params":[],"id":0}`)
				w.say(test.say)
				var got json.RawMessage
				var e *rpcx.Error
				err := f.Wait(t.Context(), &got)
				switch {
				case test.code == 0 && (err != nil || string(got) != test.result):
					t.Errorf("got %s, %v", got, err)
				case test.code != 0 && (!errors.As(err, &e) || e.Code != test.code):
					t.Errorf("got the error %v", err)
				}
			})
		})
	}
}
