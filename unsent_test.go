package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// What is wrong with a message of this side is not called an error of the protocol, and
// its text says how to mend it.
func TestErrorsOfWhatIsNotSent(t *testing.T) {
	type named struct{ N int }
	var many rpcx.Batch
	for range 10_001 {
		many.Notify("m", nil)
	}
	call := func(params any) func(*rpcx.Session) error {
		return func(s *rpcx.Session) error { return s.Call(t.Context(), "m", params, nil) }
	}
	notify := func(params any) func(*rpcx.Session) error {
		return func(s *rpcx.Session) error { return s.Notify(t.Context(), "m", params) }
	}
	send := func(b *rpcx.Batch) func(*rpcx.Session) error {
		return func(s *rpcx.Session) error { return s.SendBatch(t.Context(), b) }
	}
	v1, aiomas := &rpcx.Options{Protocol: rpcx.JSONRPCv1}, &rpcx.Options{Protocol: rpcx.Aiomas}
	bitcoin := &rpcx.Options{Protocol: rpcx.BitcoinProtocol}
	foreign := &rpcx.Options{Protocol: refusing{rpcx.JSONRPCv2}}
	for name, c := range map[string]struct {
		opts *rpcx.Options
		send func(*rpcx.Session) error
		want string // a part of its text
	}{
		"a string as params":            {nil, call("hi"), "value of type string, make rpcx.Args{…}"},
		"a number as params":            {nil, call(5), "value of type int, make rpcx.Args{…}"},
		"a boolean as params":           {nil, notify(true), "value of type bool, make rpcx.Args{…}"},
		"raw JSON as params":            {nil, notify(json.RawMessage("1")), "value of type json.RawMessage, make rpcx.Args{…}"},
		"a string for aiomas":           {aiomas, call("hi"), "value of type string, make rpcx.Args{…}"},
		"what cannot be encoded":        {nil, call(rpcx.Args{math.NaN()}), "unsupported value: NaN"},
		"what no codec knows":           {nil, notify(rpcx.Args{make(chan int)}), "unsupported type: chan int"},
		"names by JSON-RPC 1.0":         {v1, call(named{1}), "JSONRPCv1 does not support named arguments"},
		"a batch by JSON-RPC 1.0":       {v1, send(batchOfParams(nil)), "protocol does not permit batches"},
		"a notification by aiomas":      {aiomas, notify(nil), "protocol does not permit notifications"},
		"a call of plain messages":      {bitcoin, call(nil), "BitcoinProtocol has no calls"},
		"a batch that is too long":      {nil, send(&many), "batch too long"},
		"a bad member of a batch":       {nil, send(batchOfParams(rpcx.Args{}, "hi")), `member 2 of the batch, "m2": message not sent: `},
		"another one":                   {nil, send(batchOfParams(nil, nil, rpcx.Args{math.Inf(1)}, 5)), `member 3 of the batch, "m3": message not sent: `},
		"what another protocol refuses": {foreign, call(nil), "not packed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newPipe(t, c.opts, nil)
				err := c.send(s)
				var perr *rpcx.ProtocolError
				if !errors.As(err, &perr) || !perr.Unsent {
					t.Fatalf("the error is %#v", err)
				}
				// Go 1.27 calls json.RawMessage by another name.
				if text := strings.ReplaceAll(err.Error(), "jsontext.Value", "json.RawMessage"); !strings.Contains(text, c.want) || !strings.Contains(text, "not sent: ") || strings.Contains(text, "protocol error") {
					t.Errorf("its text is %q", text)
				}
				if strings.Contains(perr.Error(), "protocol error") {
					t.Errorf("unwrapped, its text is %q", perr)
				}
			})
		})
	}
}

var errPacked = &rpcx.ProtocolError{Code: rpcx.CodeParseError, Message: "not packed"}

// refusing is a protocol of another package, which has no calls.
type refusing struct{ rpcx.Protocol }

func (refusing) AppendRequest(dst []byte, _ rpcx.ID, _ string, _ any, _ rpcx.Codec) ([]byte, error) {
	return dst, errPacked
}

// batchOfParams returns a batch with a call for each of params, of m1 and so on.
func batchOfParams(params ...any) *rpcx.Batch {
	var b rpcx.Batch
	for i, p := range params {
		b.Call("m"+string(rune('1'+i)), p, nil)
	}
	return &b
}

// A handler whose own call was not sent has failed. The peer, whose request was right, is
// told no more than that, and not charged.
func TestUnsentCallOfAHandlerIsNoErrorOfThePeer(t *testing.T) {
	for name, call := range map[string]func(context.Context, *rpcx.Session) error{
		"a call": func(ctx context.Context, s *rpcx.Session) error { return s.Call(ctx, "m", 5, nil) },
		"a batch": func(ctx context.Context, s *rpcx.Session) error {
			return s.SendBatch(ctx, batchOfParams(5))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newServed(t, handling(rpcx.Func(call)))
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				w.expect(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
				if cost := s.Cost(); cost > 1 {
					t.Errorf("it costs %v", cost)
				}
			})
		})
	}
}

// What the peer did is still one.
func TestErrorOfWhatWasReceived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		f := s.Go(t.Context(), "m", nil)
		w.say(`{"jsonrpc":"2.0","id":0}`)
		var perr *rpcx.ProtocolError
		if err := f.Wait(t.Context(), nil); !errors.As(err, &perr) || perr.Unsent || !strings.HasPrefix(err.Error(), "protocol error: ") {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestWithData(t *testing.T) {
	original := rpcx.Errorf(7, "no %s", "more")
	with := original.WithData(map[string]any{"left": 0})
	if original.Data != nil {
		t.Error("the original was changed")
	}
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, handling(rpcx.Func(func() error { return with })))
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":7,"message":"no more","data":{"left":0}},"id":1}`)
		if again := with.WithData(2); again.Data != 2 || again.Code != 7 || again.Message != "no more" {
			t.Errorf("got %#v", again)
		}
	})
}

func TestBatchErrorSaysWhich(t *testing.T) {
	bad := errors.New("bad")
	for want, errs := range map[string][]error{
		"1 of 3 batch requests failed, the first, number 3: bad": {nil, nil, bad},
		"2 of 3 batch requests failed, the first, number 1: bad": {bad, nil, bad},
		"none of 1 batch requests failed":                        {nil},
	} {
		if got := (&rpcx.BatchError{Errs: errs}).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
