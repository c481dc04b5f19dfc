package rpcx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// sending returns options with a function of OnCall that sets meta, sent in the given form.
func sending(form *rpcx.Meta, meta map[string]any) *rpcx.Options {
	return &rpcx.Options{Meta: form, OnCall: []onCall{func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
		for key, value := range meta {
			c.SetMeta(key, value)
		}
		return nil, nil, nil
	}}}
}

func TestMetaIsSent(t *testing.T) {
	trace := map[string]any{"trace": "1-2"}
	for _, c := range []struct {
		name     string
		form     *rpcx.Meta
		meta     map[string]any
		params   any
		protocol rpcx.Protocol
		want     string // behind the method and the id
	}{
		{"named params", rpcx.MCPMeta, trace, map[string]any{"a": 1}, nil, `,"params":{"a":1,"_meta":{"trace":"1-2"}}}`},
		{"an empty object", rpcx.MCPMeta, trace, struct{}{}, nil, `,"params":{"_meta":{"trace":"1-2"}}}`},
		{"no params", rpcx.MCPMeta, trace, nil, nil, `,"params":{"_meta":{"trace":"1-2"}}}`},
		{"empty Args", rpcx.MCPMeta, trace, rpcx.Args{}, nil, `,"params":{"_meta":{"trace":"1-2"}}}`},
		{"positional params", rpcx.MCPMeta, trace, rpcx.Args{1}, nil, `,"params":[1]}`},
		{"EmptyArgs", rpcx.MCPMeta, trace, rpcx.EmptyArgs, nil, `,"params":[]}`},
		{"any JSON", rpcx.MCPMeta, map[string]any{"o": map[string]any{"x": []int{1}}, "n": nil, "": true}, nil, nil,
			`,"params":{"_meta":{"":true,"n":null,"o":{"x":[1]}}}}`},
		{"merged", rpcx.MCPMeta, map[string]any{"trace": 1, "z": 2}, json.RawMessage(`{"_meta":{"token":5,"\u0074race":0,"y":{}},"a":[1,2]}`), nil,
			`,"params":{"_meta":{"token":5,"y":{},"trace":1,"z":2},"a":[1,2]}}`},
		{"merged, all replaced", rpcx.MCPMeta, trace, json.RawMessage(`{"a":1,"\u005fmeta":{"trace":0}}`), nil,
			`,"params":{"a":1,"\u005fmeta":{"trace":"1-2"}}}`},
		{"merged with an empty object", rpcx.MCPMeta, trace, json.RawMessage(`{"_meta":{},"a":1}`), nil, `,"params":{"_meta":{"trace":"1-2"},"a":1}}`},
		{"merged with null", rpcx.MCPMeta, trace, json.RawMessage(`{"_meta":null}`), nil, `,"params":{"_meta":{"trace":"1-2"}}}`},
		{"a nested member of the name", rpcx.MCPMeta, trace, json.RawMessage(`{"a":{"_meta":1}}`), nil, `,"params":{"a":{"_meta":1},"_meta":{"trace":"1-2"}}}`},
		{"no data", rpcx.MCPMeta, nil, map[string]any{"_meta": 5}, nil, `,"params":{"_meta":5}}`},
		{"a param of another name", &rpcx.Meta{Param: `a "b"`}, trace, nil, nil, `,"params":{"a \"b\"":{"trace":"1-2"}}}`},
		{"nowhere", nil, trace, map[string]any{"a": 1}, nil, `,"params":{"a":1}}`},

		{"a member", rpcx.MemberMeta, trace, rpcx.Args{1}, nil, `,"params":[1],"meta":{"trace":"1-2"}}`},
		{"a member without params", rpcx.MemberMeta, trace, nil, nil, `,"meta":{"trace":"1-2"}}`},
		{"each a member", rpcx.VSMeta, map[string]any{"traceparent": "00", "tracestate": []int{1}}, rpcx.Args{1}, nil,
			`,"params":[1],"traceparent":"00","tracestate":[1]}`},
		{"no member", rpcx.VSMeta, nil, rpcx.Args{1}, nil, `,"params":[1]}`},

		{"loose", rpcx.MCPMeta, trace, nil, rpcx.JSONRPCLoose, `,"params":{"_meta":{"trace":"1-2"}}}`},
		{"detecting", rpcx.VSMeta, trace, nil, rpcx.JSONRPCAutoDetect, `,"trace":"1-2"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := sending(c.form, c.meta)
				opts.Protocol = c.protocol
				s, w := newWire(t, opts)
				s.Go(t.Context(), "m", c.params)
				w.expect(`{"jsonrpc":"2.0","method":"m","id":0` + c.want)
				if err := s.Notify(t.Context(), "m", c.params); err != nil {
					t.Error(err)
				}
				w.expect(`{"jsonrpc":"2.0","method":"m"` + c.want)
				var b rpcx.Batch
				b.Call("m", c.params, nil)
				b.Notify("m", c.params)
				s.GoBatch(t.Context(), &b)
				w.expect(`[{"jsonrpc":"2.0","method":"m","id":1` + c.want + `, {"jsonrpc":"2.0","method":"m"` + c.want + `]`)
			})
		})
	}
}

func TestMetaInOtherProtocols(t *testing.T) {
	trace := map[string]any{"trace": 1}
	for _, c := range []struct {
		name     string
		form     *rpcx.Meta
		protocol rpcx.Protocol
		params   any
		want     string
	}{
		{"1.0 has no named params", rpcx.MCPMeta, rpcx.JSONRPCv1, nil, `{"method":"m","params":[],"id":0}`},
		{"1.0 has members", rpcx.MemberMeta, rpcx.JSONRPCv1, nil, `{"method":"m","params":[],"id":0,"meta":{"trace":1}}`},
		{"aiomas has no place", rpcx.VSMeta, rpcx.Aiomas, rpcx.Args{1}, `[0,0,["m",[1],{}]]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := sending(c.form, trace)
				opts.Protocol = c.protocol
				s, w := newWire(t, opts)
				s.Go(t.Context(), "m", c.params)
				w.expect(c.want)
			})
		})
	}
}

func TestMetaThatCannotBeSent(t *testing.T) {
	trace := map[string]any{"trace": 1}
	for _, c := range []struct {
		name   string
		form   *rpcx.Meta
		meta   map[string]any
		params string
		want   string
	}{
		{"no object", rpcx.MCPMeta, trace, `{"_meta":5}`, `member "_meta" is no object: nothing can be added for OutgoingCall.Meta (code -32602)`},
		{"an array", rpcx.MCPMeta, trace, `{"_meta":[]}`, `member "_meta" is no object: nothing can be added for OutgoingCall.Meta (code -32602)`},
		{"twice", rpcx.MCPMeta, trace, `{"_meta":{},"\u005fmeta":{}}`, `member "_meta" is given twice: nothing can be added for OutgoingCall.Meta (code -32602)`},
		{"id", rpcx.VSMeta, map[string]any{"id": 1}, `[]`, `OutgoingCall.Meta has the key "id", a name of JSON-RPC itself: choose another key (code -32600)`},
		{"error", rpcx.VSMeta, map[string]any{"error": 1}, `[]`, `OutgoingCall.Meta has the key "error", a name of JSON-RPC itself: choose another key (code -32600)`},
		{"a value", rpcx.MCPMeta, map[string]any{"f": func() {}}, `{}`, `JSON payload encoding error: json: unsupported type: func() (code -32603)`},
		{"a value in a member", rpcx.MemberMeta, map[string]any{"f": func() {}}, `{}`, `JSON payload encoding error: json: unsupported type: func() (code -32603)`},
		{"a value as a member", rpcx.VSMeta, map[string]any{"f": func() {}}, `{}`, `JSON payload encoding error: json: unsupported type: func() (code -32603)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, sending(c.form, c.meta))
				params := json.RawMessage(c.params)
				refused(t, s.Call(t.Context(), "m", params, nil), "message not sent: "+c.want)
				refused(t, s.Go(t.Context(), "m", params).Err(), "message not sent: "+c.want)
				refused(t, s.Notify(t.Context(), "m", params), "message not sent: "+c.want)
				var b rpcx.Batch
				b.Notify("n", rpcx.Args{1})
				b.Call("m", params, nil)
				err := s.SendBatch(t.Context(), &b)
				if c.form == rpcx.MCPMeta {
					refused(t, err, `member 2 of the batch, "m": message not sent: `+c.want)
				} else { // the first has a place for the data, too
					refused(t, err, `member 1 of the batch, "n": message not sent: `+c.want)
				}
				w.expectNothing()
				if n := s.Stats().Pending; n != 0 {
					t.Errorf("%d calls are pending", n)
				}
			})
		})
	}
}

func TestMetaOptions(t *testing.T) {
	for _, c := range []struct {
		form rpcx.Meta
		want string
	}{
		{rpcx.Meta{}, "Options.Meta has neither Param nor Member: use MCPMeta, for example"},
		{rpcx.Meta{Param: "a", Member: "b"}, "Options.Meta has Param and Member: set one of the two"},
		{rpcx.Meta{Member: "params"}, `Options.Meta.Member is "params", a name of JSON-RPC itself: choose another name`},
	} {
		_, err := rpcx.Dial(t.Context(), "tcp://127.0.0.1:1", &rpcx.Options{Meta: &c.form})
		refused(t, err, c.want)
	}
	synctest.Test(t, func(t *testing.T) {
		form := rpcx.Meta{Member: "meta"}
		s, w := newWire(t, sending(&form, map[string]any{"a": 1}))
		form.Member = "other" // a session copies its options
		s.Notify(t.Context(), "m", nil)
		w.expect(`{"jsonrpc":"2.0","method":"m","meta":{"a":1}}`)
	})
}

// A receiver finds the data, and its handlers see the other params alone.
func TestMetaIsReceived(t *testing.T) {
	for _, c := range []struct {
		name   string
		form   *rpcx.Meta
		rest   string // of the message, behind the method
		params string // that the handler sees
		trace  string // the value of the key "trace"
	}{
		{"last", rpcx.MCPMeta, `"params":{"a":1,"_meta":{"trace":5}}`, `{"a":1}`, `5`},
		{"first", rpcx.MCPMeta, `"params":{"_meta":{"trace":5},"a":1}`, `{"a":1}`, `5`},
		{"in the middle", rpcx.MCPMeta, `"params":{"b":2,"_meta":{"trace":5},"a":1}`, `{"b":2,"a":1}`, `5`},
		{"with space", rpcx.MCPMeta, `"params" : { "b" : 2 , "_meta" : { "x" : 1 , "trace" : 5 } , "a" : 1 }`, `{ "b" : 2  , "a" : 1 }`, `5`},
		{"first, with space", rpcx.MCPMeta, `"params" : { "_meta" : { "trace" : 5 } , "a" : 1 }`, `{ "a" : 1 }`, `5`},
		{"alone", rpcx.MCPMeta, `"params":{"_meta":{"trace":{"x":[1]}}}`, ``, `{"x":[1]}`},
		{"alone, with space", rpcx.MCPMeta, `"params":{ "_meta" : {"trace":5} }`, ``, `5`},
		{"another key", rpcx.MCPMeta, `"params":{"_meta":{"Trace":5}}`, ``, ``},
		{"an empty object", rpcx.MCPMeta, `"params":{"_meta":{}}`, ``, ``},
		{"a nested key", rpcx.MCPMeta, `"params":{"_meta":{"x":{"trace":5}}}`, ``, ``},
		{"null", rpcx.MCPMeta, `"params":{"_meta":{"trace":null}}`, ``, `null`},
		{"escaped", rpcx.MCPMeta, `"params":{"\u005fmeta":{"tr\u0061ce":5}}`, ``, `5`},
		{"a key twice", rpcx.MCPMeta, `"params":{"_meta":{"trace":1,"tr\u0061ce":5}}`, ``, `5`},
		{"twice", rpcx.MCPMeta, `"params":{"_meta":{"trace":1},"_meta":{"trace":5}}`, `{"_meta":{"trace":1},"_meta":{"trace":5}}`, ``},
		{"no object", rpcx.MCPMeta, `"params":{"_meta":5,"a":1}`, `{"_meta":5,"a":1}`, ``},
		{"a nested member", rpcx.MCPMeta, `"params":{"a":{"_meta":{"trace":5}}}`, `{"a":{"_meta":{"trace":5}}}`, ``},
		{"without", rpcx.MCPMeta, `"params":{"a":1}`, `{"a":1}`, ``},
		{"an empty object as params", rpcx.MCPMeta, `"params":{}`, `{}`, ``},
		{"positional", rpcx.MCPMeta, `"params":[{"_meta":{"trace":5}}]`, `[{"_meta":{"trace":5}}]`, ``},
		{"no params", rpcx.MCPMeta, `"x":0`, ``, ``},
		{"not as a member", rpcx.MCPMeta, `"_meta":{"trace":5}`, ``, ``},

		{"a member", rpcx.MemberMeta, `"params":[1],"meta":{"trace":5}`, `[1]`, `5`},
		{"a member in front", rpcx.MemberMeta, ` "m\u0065ta" : { "trace" : 5 } , "params" : [1]`, `[1]`, `5`},
		{"a member that is no object", rpcx.MemberMeta, `"params":[1],"meta":5`, `[1]`, ``},
		{"a member twice", rpcx.MemberMeta, `"meta":{"trace":5},"meta":{"trace":5}`, ``, ``},
		{"not as a param", rpcx.MemberMeta, `"params":{"meta":{"trace":5}}`, `{"meta":{"trace":5}}`, ``},

		{"each a member", rpcx.VSMeta, `"params":[1],"trace":5`, `[1]`, `5`},
		{"one of many", rpcx.VSMeta, `"a":1,"b":[],"c":{"trace":1},"d":null,"tr\u0061ce":"x","e":1`, ``, `"x"`},
		{"a member's key twice", rpcx.VSMeta, `"trace":1,"trace":5`, ``, `5`},
		{"no further member", rpcx.VSMeta, `"params":{"trace":5}`, `{"trace":5}`, ``},

		{"not declared", nil, `"params":{"_meta":{"trace":5}},"trace":5,"meta":{"trace":5}`, `{"_meta":{"trace":5}}`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got []string
				s, w := newWire(t, &rpcx.Options{Meta: c.form, Order: rpcx.Sequential, Handler: methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
					for _, name := range []string{"jsonrpc", "method", "params", "id", "result", "error", ""} {
						if v := req.Meta(name); v != nil {
							t.Errorf("Meta(%q) is %s", name, v)
						}
					}
					got = append(got, string(req.Params.Positional)+string(req.Params.Named)+" "+string(req.Meta("trace")))
					return 0, nil
				}}})
				single := `{"jsonrpc":"2.0","method":"m",` + c.rest
				w.say(single+`,"id":1}`, single+`}`, " [1,"+single+`,"id":1} ,`+single+`, "id" : 2 }, `+single+` } ]`)
				if n := len(w.heard()); n != 2 {
					t.Errorf("%d answers", n)
				}
				want := c.params + " " + c.trace
				if !reflect.DeepEqual(got, []string{want, want, want, want, want}) {
					t.Errorf("the handler saw %q, want %q", got, want)
				}
				if s.Stats().QueuedBytes != 0 {
					t.Errorf("the stats are %+v", s.Stats())
				}
			})
		})
	}
}

// Functions, which refuse params that they do not know, are called with data about the
// request in any form, and with keys that JSON-RPC has itself.
func TestMetaBesideStrictFunctions(t *testing.T) {
	meta := func(ctx context.Context, key string) string { return string(rpcx.RequestFromContext(ctx).Meta(key)) }
	router := rpcx.NewRouter()
	router.Handle("named", rpcx.Func(func(ctx context.Context, a int) string { return fmt.Sprint(a, meta(ctx, "trace")) }, "a"))
	router.Handle("struct", rpcx.Func(func(ctx context.Context, p struct{ A int }) string { return fmt.Sprint(p.A, meta(ctx, "trace")) }))
	router.Handle("none", rpcx.Func(func(ctx context.Context) string { return meta(ctx, "trace") }))
	router.Handle("id", rpcx.Func(func(ctx context.Context, a int) string { return meta(ctx, "id") + meta(ctx, "method") }, "a"))
	for name, c := range map[string]struct {
		form *rpcx.Meta
		meta map[string]any
	}{
		"param":  {rpcx.MCPMeta, map[string]any{"trace": 7, "id": 8, "method": 9}},
		"member": {rpcx.MemberMeta, map[string]any{"trace": 7, "id": 8, "method": 9}},
		"each":   {rpcx.VSMeta, map[string]any{"trace": 7}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, _ := newPipe(t, sending(c.form, c.meta), &rpcx.Options{Meta: c.form, Handler: router})
				ids := "89"
				if name == "each" {
					ids = ""
				}
				for _, call := range []struct {
					method string
					params any
					want   string
				}{
					{"named", map[string]int{"a": 1}, "17"},
					{"struct", map[string]int{"A": 1}, "17"},
					{"none", nil, "7"},
					{"id", map[string]int{"a": 1}, ids},
				} {
					if got, err := rpcx.Call[string](t.Context(), client, call.method, call.params); err != nil || strings.ReplaceAll(got, " ", "") != call.want {
						t.Errorf("%s: %q, %v, want %q", call.method, got, err, call.want)
					}
				}
				if _, err := rpcx.Call[string](t.Context(), client, "named", map[string]int{"a": 1, "b": 2}); err == nil {
					t.Error("an unknown param is not refused")
				}
			})
		})
	}
}

// What a handler keeps is its own, and what arrives later does not change it.
func TestMetaIsTheHandlersOwn(t *testing.T) {
	for name, form := range map[string]*rpcx.Meta{"param": rpcx.MCPMeta, "member": rpcx.MemberMeta, "each": rpcx.VSMeta} {
		synctest.Test(t, func(t *testing.T) {
			var kept []json.RawMessage
			var params []json.RawMessage
			a, b := socketed(sending(form, map[string]any{"trace": strings.Repeat("x", 10)}), &rpcx.Options{Meta: form, Order: rpcx.Sequential,
				Handler: methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
					kept, params = append(kept, req.Meta("trace")), append(params, req.Params.Named)
					return nil, nil
				}}})
			defer b.Close()
			defer a.Close()
			for i := range 10 {
				if err := a.Call(t.Context(), "m", map[string]any{"i": i}, nil); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 10 {
				if string(kept[i]) != `"xxxxxxxxxx"` || string(params[i]) != fmt.Sprintf(`{"i":%d}`, i) {
					t.Errorf("%s: %s and %s", name, kept[i], params[i])
				}
			}
		})
	}
}

// A value may be nested as deeply as the message allows.
func TestDeepMeta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deep := strings.Repeat("[", 9997) + strings.Repeat("]", 9997) // in the message, the params and the object
		var got json.RawMessage
		s, w := newWire(t, &rpcx.Options{Meta: rpcx.MCPMeta, Handler: methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
			got = req.Meta("deep")
			return 0, nil
		}}})
		w.say(`{"jsonrpc":"2.0","method":"m","params":{"_meta":{"deep":` + deep + `}},"id":0}`)
		w.expect(answered("0", 0))
		if string(got) != deep {
			t.Errorf("the value has %d bytes", len(got))
		}
		w.say(`{"jsonrpc":"2.0","method":"m","params":{"_meta":{"deep":[` + deep + `]}},"id":0}`)
		if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], "invalid JSON") {
			t.Errorf("the answer is %q", lines)
		}
		live(t, s)
	})
}

// A Request that a test has made has no data.
func TestMetaOfAnOwnRequest(t *testing.T) {
	if v := (&rpcx.Request{Method: "m"}).Meta("trace"); v != nil {
		t.Errorf("it is %s", v)
	}
}

// Data about a call costs nothing where Options.Meta is not set, and little where it is.
func TestMetaAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	meta := map[string]any{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	for name, form := range map[string]*rpcx.Meta{"param": rpcx.MCPMeta, "member": rpcx.MemberMeta, "each": rpcx.VSMeta} {
		hook := func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			c.Meta = meta
			return ctx, nil, nil
		}
		handler := methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
			if form := req.Meta("traceparent"); len(form) > 0 {
				return nil, nil
			}
			return nil, nil
		}}
		params := any(map[string]any{"a": true})
		allocs := func(a, b *rpcx.Meta) float64 {
			client, server := rpcx.Pipe(&rpcx.Options{Meta: a, OnCall: []onCall{hook}}, &rpcx.Options{Meta: b, Handler: handler})
			defer server.Close()
			defer client.Close()
			return testing.AllocsPerRun(2000, func() {
				if err := client.Call(context.Background(), "m", params, nil); err != nil {
					t.Fatal(err)
				}
			})
		}
		none, sent, both := allocs(nil, nil), allocs(form, nil), allocs(form, form)
		t.Logf("%s: %v allocations without data, %v with data sent, %v with data read", name, none, sent, both)
		if sent > none+1 || both > sent+2 { // a longer message needs a larger arena
			t.Errorf("%s: %v allocations without data, %v with data sent, %v with data read", name, none, sent, both)
		}
	}
}

// FuzzMeta compares what a receiver finds with what was sent.
func FuzzMeta(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, ` { "_meta" : { "k" : [ ] , "l" : 0 } , "a" : { } } `, `{"_meta":null}`, `{"_meta":{"k":1,"\u006b":2}}`, `{"_meta":1}`, `[]`, `{"":{}}`} {
		f.Add(s, "k", `{"x":1}`)
		f.Add(s, "", `null`)
	}
	f.Fuzz(func(t *testing.T, params, key, value string) {
		var object map[string]any
		if json.Unmarshal([]byte(params), &object) != nil || object == nil || !json.Valid([]byte(value)) || !utf8.ValidString(key) { // a byte that is no UTF-8 is sent as U+FFFD
			return
		}
		for _, form := range []*rpcx.Meta{rpcx.MCPMeta, rpcx.MemberMeta, rpcx.VSMeta} {
			synctest.Test(t, func(t *testing.T) {
				var found json.RawMessage
				var seen map[string]any
				called := false
				client, _ := newPipe(t, sending(form, map[string]any{key: json.RawMessage(value)}), &rpcx.Options{Meta: form,
					Handler: methods{"m": func(_ context.Context, req *rpcx.Request) (any, error) {
						found, seen, called = req.Meta(key), map[string]any{}, true
						return nil, req.Bind(&seen)
					}}})
				if err := client.Call(t.Context(), "m", json.RawMessage(params), nil); err != nil {
					if called {
						t.Errorf("%v", err)
					}
					return // the params, or the key, have no place for data
				}
				var a, b any
				json.Unmarshal([]byte(value), &a)
				if err := json.Unmarshal(found, &b); err != nil || !reflect.DeepEqual(a, b) {
					t.Errorf("%+v: %q was sent, %q found", form, value, found)
				}
				want := maps.Clone(object)
				if form == rpcx.MCPMeta {
					delete(want, "_meta")
				}
				if len(want)+len(seen) > 0 && !reflect.DeepEqual(want, seen) {
					t.Errorf("%+v: of %s the handler saw %v", form, params, seen)
				}
			})
		}
	})
}
