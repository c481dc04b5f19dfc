package rpcx_test

import (
	"context"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// Editors send "params":null with "shutdown" and "exit".
func TestNullParamsAreNone(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		say      string
		want     string
	}{
		"in JSON-RPC 2.0":           {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"none","params":null,"id":1}`, `{"jsonrpc":"2.0","result":"ok","id":1}`},
		"in JSON-RPC 1.0":           {rpcx.JSONRPCv1, `{"method":"none","params":null,"id":1}`, `{"result":"ok","error":null,"id":1}`},
		"in a loose mix":            {rpcx.JSONRPCLoose, `{"method":"none","params":null,"id":1}`, `{"jsonrpc":"2.0","result":"ok","id":1}`},
		"with detection":            {rpcx.JSONRPCAutoDetect, `{"jsonrpc":"1.0","method":"none","params":null,"id":1}`, `{"result":"ok","error":null,"id":1}`},
		"before the other members":  {rpcx.JSONRPCv2, `{"params" : null,"id":1,"method":"none","jsonrpc":"2.0"}`, `{"jsonrpc":"2.0","result":"ok","id":1}`},
		"in a batch":                {rpcx.JSONRPCv2, `[{"jsonrpc":"2.0","method":"none","params":null,"id":1}]`, `[{"jsonrpc":"2.0","result":"ok","id":1}]`},
		"for a variadic parameter":  {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"sum","params":null,"id":1}`, `{"jsonrpc":"2.0","result":0,"id":1}`},
		"for a struct, whose field": {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"struct","params":null,"id":1}`, `{"jsonrpc":"2.0","error":{"code":-32602,"message":"method \"struct\" requires parameter \"name\""},"id":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("none", rpcx.Func(func() string { return "ok" }))
				router.Handle("sum", rpcx.Func(func(terms ...int) int { return len(terms) }))
				router.Handle("struct", rpcx.Func(func(params struct {
					Name string `json:"name"`
				}) string {
					return params.Name
				}))
				_, w := newWire(t, &rpcx.Options{Protocol: test.protocol, Handler: router})
				w.say(test.say)
				w.expect(test.want)
			})
		})
	}
}

// Whoever polls with null params was cut off for the cost of ninety errors.
func TestNullParamsCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handled := 0
		s, w := newServed(t, handling(methods{"poll": func(_ context.Context, req *rpcx.Request) (any, error) {
			if req.Params.Positional != nil || req.Params.Named != nil {
				t.Errorf("the params are %+v", req.Params)
			}
			handled++
			return nil, nil
		}}))
		for range 200 {
			w.say(`{"jsonrpc":"2.0","method":"poll","params":null}`)
			synctest.Wait()
		}
		live(t, s)
		if stats := s.Stats(); handled != 200 || stats.Errors != 0 || stats.Cost > 1 {
			t.Errorf("%d were handled, with %d errors at a cost of %v", handled, stats.Errors, stats.Cost)
		}
	})
}

func TestStrictParams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.StrictParams = true
		opts.Limits.Concurrency = 1 // the replies are in the order of the requests
		s, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"reply","params":null,"id":1}`, `[{"jsonrpc":"2.0","method":"reply","params":null,"id":2}]`,
			`{"jsonrpc":"2.0","method":"reply","id":3}`, `{"jsonrpc":"2.0","method":"reply","params":[null],"id":4}`)
		const null = `{"jsonrpc":"2.0","error":{"code":-32602,"message":"invalid request arguments: null"},"id":`
		w.expect(null+`1}`, `[`+null+`2}]`, `{"jsonrpc":"2.0","result":null,"id":3}`, `{"jsonrpc":"2.0","result":null,"id":4}`)
		if n := s.Stats().Errors; n != 2 {
			t.Errorf("%d errors are counted", n)
		}
		if s.Protocol() != rpcx.JSONRPCv2 {
			t.Errorf("the protocol has become %v", s.Protocol())
		}
	})
}

func TestStrictParamsWithoutASession(t *testing.T) {
	for name, test := range map[string]struct {
		protocol rpcx.Protocol
		message  string
		strict   rpcx.Kind
	}{
		"null in 2.0":           {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"null in a loose mix":   {rpcx.JSONRPCLoose, `{"method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"null with detection":   {rpcx.JSONRPCAutoDetect, `{"jsonrpc":"2.0","method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"null in 1.0":           {rpcx.JSONRPCv1, `{"method":"m","params":null,"id":1}`, rpcx.KindInvalid},
		"nothing in 1.0":        {rpcx.JSONRPCv1, `{"method":"m","id":1}`, rpcx.KindInvalid},
		"nothing in 2.0":        {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"m","id":1}`, rpcx.KindRequest},
		"an empty list in both": {rpcx.JSONRPCv1, `{"method":"m","params":[],"id":1}`, rpcx.KindRequest},
	} {
		t.Run(name, func(t *testing.T) {
			var m rpcx.Message
			for _, strict := range []bool{false, true, true, false} {
				m.StrictParams = strict
				test.protocol.Decode(&m, []byte(test.message), 0)
				want := rpcx.KindRequest
				if strict {
					want = test.strict
				}
				if m.Kind() != want || m.StrictParams != strict {
					t.Errorf("strict %v: got %v %v, want %v", strict, m.Kind(), m.Items[0].Err, want)
				}
			}
		})
	}
}
