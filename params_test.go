package rpcx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

func TestEmptyArgsAreSent(t *testing.T) {
	for name, test := range map[string]struct {
		opts rpcx.Options
		want string
	}{
		"JSON-RPC 2.0":    {rpcx.Options{}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"JSON-RPC 1.0":    {rpcx.Options{Protocol: rpcx.JSONRPCv1}, `{"method":"m","params":[],"id":0}`},
		"a loose mix":     {rpcx.Options{Protocol: rpcx.JSONRPCLoose}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"not yet known":   {rpcx.Options{Protocol: rpcx.JSONRPCAutoDetect}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"another codec":   {rpcx.Options{Codec: failingCodec{}}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"with objects":    {rpcx.Options{Objects: true}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"aiomas, as ever": {rpcx.Options{Protocol: rpcx.Aiomas}, `[0,0,["m",[],{}]]`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &test.opts)
				if err := s.Go(t.Context(), "m", rpcx.EmptyArgs).Err(); err != nil {
					t.Error(err)
				}
				w.expect(test.want)
			})
		})
	}
}

// failingCodec encodes nothing.
type failingCodec struct{ rpcx.Codec }

func (failingCodec) Append(dst []byte, _ any) ([]byte, error) { return dst, context.Canceled }

func TestEmptyArgsInBatchesAndNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var b rpcx.Batch
		b.Call("a", rpcx.EmptyArgs, nil)
		b.Notify("b", rpcx.EmptyArgs)
		b.Call("c", rpcx.Args{}, nil)
		s.GoBatch(t.Context(), &b)
		if err := s.Notify(t.Context(), "d", rpcx.EmptyArgs); err != nil {
			t.Error(err)
		}
		w.expect(`[{"jsonrpc":"2.0","method":"a","id":0,"params":[]}, {"jsonrpc":"2.0","method":"b","params":[]}, {"jsonrpc":"2.0","method":"c","id":1}]`,
			`{"jsonrpc":"2.0","method":"d","params":[]}`)
	})
}

func TestEmptyArgsAreAnEmptyListToOtherCodecs(t *testing.T) {
	if text, err := json.Marshal(rpcx.EmptyArgs); err != nil || string(text) != "[]" {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestFirstID(t *testing.T) {
	for name, test := range map[string]struct {
		opts rpcx.Options
		want []string
	}{
		"1, for whom 0 is none": {rpcx.Options{FirstID: 1}, []string{
			`{"jsonrpc":"2.0","method":"m","id":1}`, `[{"jsonrpc":"2.0","method":"a","id":2}, {"jsonrpc":"2.0","method":"b","id":3}]`}},
		"0 by default": {rpcx.Options{}, []string{
			`{"jsonrpc":"2.0","method":"m","id":0}`, `[{"jsonrpc":"2.0","method":"a","id":1}, {"jsonrpc":"2.0","method":"b","id":2}]`}},
		"beyond floats": {rpcx.Options{FirstID: 1<<64 - 3}, []string{
			`{"jsonrpc":"2.0","method":"m","id":18446744073709551613}`,
			`[{"jsonrpc":"2.0","method":"a","id":18446744073709551614}, {"jsonrpc":"2.0","method":"b","id":18446744073709551615}]`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &test.opts)
				f := s.Go(t.Context(), "m", nil)
				var b rpcx.Batch
				one, two := b.Call("a", nil, nil), b.Call("b", nil, nil)
				s.GoBatch(t.Context(), &b)
				w.expect(test.want...)
				for i := range uint64(3) {
					w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":%d,"id":%d}`, i, test.opts.FirstID+i))
				}
				for i, f := range []*rpcx.Future{f, one, two} {
					var got int
					if !isDone(f) || f.Decode(&got) != nil || got != i {
						t.Errorf("call %d is done: %v, with %d, %v", i, isDone(f), got, f.Err())
					}
				}
			})
		})
	}
}

func TestFirstIDOfAiomas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Protocol: rpcx.Aiomas, FirstID: 5})
		s.Go(t.Context(), "m", nil)
		w.expect(`[0,5,["m",[],{}]]`)
	})
}
