package rpcx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// countingCodec is JSON, and counts the values that it encodes.
type countingCodec struct {
	rpcx.Codec
	n *atomic.Int64
}

func (c countingCodec) Append(dst []byte, v any) ([]byte, error) {
	if m, ok := v.(map[string]int); ok && m["counted"] > 0 {
		c.n.Add(1)
	}
	return c.Codec.Append(dst, v)
}

// listCodec is a codec that cannot be compared.
type listCodec struct {
	rpcx.Codec
	_ []int
}

// TestHubEncodesOnce checks that each codec encodes a value once, and that a codec that
// cannot be compared works.
func TestHubEncodesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n, m atomic.Int64
		hub := new(rpcx.Hub)
		var wires []*wire
		for _, codec := range []rpcx.Codec{nil, countingCodec{rpcx.JSON, &n}, countingCodec{rpcx.JSON, &n}, countingCodec{rpcx.JSON, &m}, nil, listCodec{Codec: rpcx.JSON}} {
			_, w := newWire(t, &rpcx.Options{Codec: codec, Handler: methods{"sub": subscriber(hub, "t", nil, 1)}})
			w.say(`{"jsonrpc":"2.0","method":"sub","id":1}`)
			w.heard()
			wires = append(wires, w)
		}
		publish(t, hub, "t", map[string]int{"counted": 1})
		for _, w := range wires {
			w.expect(ethLine("1", `{"counted":1}`))
		}
		if n.Load() != 1 || m.Load() != 1 {
			t.Errorf("the codecs have encoded the value %d and %d times, want once", n.Load(), m.Load())
		}
	})
}

// rawText is the raw value of rawCodec.
type rawText []byte

func (r rawText) MarshalJSON() ([]byte, error)  { return r, nil }
func (r *rawText) UnmarshalJSON(b []byte) error { *r = append((*r)[:0], b...); return nil }

// rawCodec stands for a codec that is not JSON, though its bytes are.
type rawCodec struct{ rpcx.Codec }

func (rawCodec) RawType() reflect.Type { return reflect.TypeFor[rawText]() }

// countedProtocol adds the number of bytes to each notification, which therefore is no
// text around the value.
type countedProtocol struct{ rpcx.Protocol }

func (p countedProtocol) AppendNotification(dst []byte, method string, params any, c rpcx.Codec) ([]byte, error) {
	n := len(dst)
	out, err := p.Protocol.AppendNotification(dst, method, params, c)
	if err != nil {
		return dst, err
	}
	return fmt.Appendf(out[:len(out)-1], `,"n":%d}`, len(out)-n), nil
}

// TestHubOtherEncodings checks the forms with a RawCodec, and with a protocol whose
// notifications depend on the value, without and with a Broker.
func TestHubOtherEncodings(t *testing.T) {
	whole := &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"_meta", "id"}, Token: []string{"_meta", "id"}, Unsubscribe: "unsub"}
	for _, test := range []struct {
		form                 *rpcx.Correlation
		params, value        string
		params2, unsubscribe string // of the notification, and of the unsubscribing request
	}{
		{rpcx.ElectrumScriptHash, `["ab",{"x":1}]`, `[7]`, `["ab",{"x":1},[7]]`, `["ab",{"x":1}]`},
		{rpcx.EthSubscription, `[]`, `"v"`, `{"subscription":"id","result":"v"}`, `["id"]`},
		{whole, `{"_meta":{"id":"tok"}}`, `{"a":1}`, `{"a":1,"_meta":{"id":"tok"}}`, `{"_meta":{"id":"tok"}}`},
		{whole, `{"_meta":{"id":"tok"}}`, `null`, `{"_meta":{"id":"tok"}}`, `{"_meta":{"id":"tok"}}`},
	} {
		for name, opts := range map[string]*rpcx.Options{
			"RawCodec":      {Codec: rawCodec{rpcx.JSON}},
			"other objects": {Protocol: countedProtocol{rpcx.JSONRPCv2}},
		} {
			for _, broker := range []rpcx.Broker{nil, new(memoryBroker)} {
				t.Run(fmt.Sprint(name, test.params2, broker != nil), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						hub := &rpcx.Hub{Broker: broker}
						var id any
						if test.form == rpcx.EthSubscription {
							id = "id"
						}
						o := *opts
						o.Handler = methods{"sub": subscriber(hub, "t", test.form, id), "unsub": func(ctx context.Context, _ *rpcx.Request) (any, error) {
							return hub.Unsubscribe(ctx, test.form, nil)
						}}
						_, w := newWire(t, &o)
						w.say(`{"jsonrpc":"2.0","method":"sub","params":` + test.params + `,"id":1}`)
						resultOf(t, w.heard()[0])
						var v any
						json.Unmarshal([]byte(test.value), &v)
						publish(t, hub, "t", v)
						lines := w.heard()
						if len(lines) != 1 {
							t.Fatalf("the peer has heard %q", lines)
						}
						var m struct{ Params, N any }
						var want any
						json.Unmarshal([]byte(lines[0]), &m)
						json.Unmarshal([]byte(test.params2), &want)
						if !reflect.DeepEqual(m.Params, want) || (m.N != nil) != (opts.Protocol != nil) {
							t.Errorf("the notification is %s, want the params %s", lines[0], test.params2)
						}
						w.say(`{"jsonrpc":"2.0","method":"unsub","params":` + test.unsubscribe + `,"id":2}`)
						w.expect(`{"jsonrpc":"2.0","result":true,"id":2}`)
						hubIs(t, hub, 0, 0)
					})
				})
			}
		}
	}
}

// TestHubTokenInMeta checks that a token is found where Options.Meta takes it out of the
// params.
func TestHubTokenInMeta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		form := *rpcx.MCPProgress
		form.Unsubscribe = "end"
		_, w := newWire(t, &rpcx.Options{Meta: rpcx.MCPMeta, Handler: methods{"sub": subscriber(hub, "t", &form, nil)}})
		w.say(`{"jsonrpc":"2.0","method":"sub","params":{"_meta":{"progressToken":5}},"id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":5,"id":1}`)
		publish(t, hub, "t", map[string]int{"progress": 1})
		w.expect(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":5}}`)
	})
}

// TestHubOverMessages checks a transport that keeps messages apart, and objects of the
// session's own.
func TestHubOverMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		heads := make(chan int, 1)
		client, server := socketed(handling(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			var p struct{ Result int }
			err := req.Bind(&p)
			heads <- p.Result
			return nil, err
		})), &rpcx.Options{Objects: true, Handler: methods{"sub": subscriber(hub, "t", nil, nil)}})
		if err := client.Call(context.Background(), "sub", nil, nil); err != nil {
			t.Error(err)
		}
		for i := range 100 {
			publish(t, hub, "t", i)
			if got := <-heads; got != i {
				t.Errorf("%d has come, want %d", got, i)
			}
		}
		client.Close()
		server.Close()
		<-client.Done()
		<-server.Done()
		hubIs(t, hub, 0, 0)
	})
}
