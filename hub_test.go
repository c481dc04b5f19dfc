package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// ethLine is a notification of eth_subscription.
func ethLine(id, value string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":%s,"result":%s}}`, id, value)
}

// firstParam is a function for Hub.Handlers: the topic is the first param.
func firstParam(_ context.Context, req *rpcx.Request) (string, error) {
	var args []string
	if err := req.Bind(&args); err != nil || len(args) == 0 {
		return "", rpcx.InvalidParams("no topic")
	}
	return args[0], nil
}

// numberOf returns a function for Hub.Handlers that returns n.
func numberOf(n int) func(context.Context, string) (any, error) {
	return func(context.Context, string) (any, error) { return n, nil }
}

// hubMethods are the handlers of a hub in the form of Ethereum and in that of Electrum.
func hubMethods(hub *rpcx.Hub) methods {
	m := make(methods)
	sub, unsub := hub.Handlers(nil, firstParam, nil)
	m["eth_subscribe"], m["eth_unsubscribe"] = sub.ServeRPC, unsub.ServeRPC
	sub, unsub = hub.Handlers(rpcx.ElectrumScriptHash, firstParam, numberOf(0))
	m["blockchain.scripthash.subscribe"], m["blockchain.scripthash.unsubscribe"] = sub.ServeRPC, unsub.ServeRPC
	sub, _ = hub.Handlers(rpcx.ElectrumHeaders, func(context.Context, *rpcx.Request) (string, error) { return "headers", nil }, numberOf(7))
	m["blockchain.headers.subscribe"] = sub.ServeRPC
	return m
}

// publish publishes v, which must succeed.
func publish(t *testing.T, hub *rpcx.Hub, topic string, v any) {
	t.Helper()
	if err := hub.Publish(context.Background(), topic, v); err != nil {
		t.Errorf("publish %v: %v", v, err)
	}
}

// hubIs says that the hub has so many topics and subscribers.
func hubIs(t *testing.T, hub *rpcx.Hub, topics, subscribers int) {
	t.Helper()
	if got := hub.Stats(); got.Topics != topics || got.Subscribers != subscribers {
		t.Errorf("the hub has %d topics and %d subscribers, want %d and %d", got.Topics, got.Subscribers, topics, subscribers)
	}
}

// resultOf returns the result in a reply.
func resultOf(t *testing.T, line string) string {
	t.Helper()
	var reply struct{ Result json.RawMessage }
	if err := json.Unmarshal([]byte(line), &reply); err != nil || reply.Result == nil {
		t.Fatalf("%s is no reply with a result", line)
	}
	return string(reply.Result)
}

// TestHubEthForm checks the form of Ethereum: an id in the reply, and in each notification.
func TestHubEthForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		s, w := newWire(t, handling(hubMethods(hub)))
		publish(t, hub, "heads", "nobody")
		w.say(`{"jsonrpc":"2.0","method":"eth_subscribe","params":["heads"],"id":1}`)
		first := resultOf(t, w.heard()[0])
		w.say(`{"jsonrpc":"2.0","method":"eth_subscribe","params":["heads"],"id":2}`)
		second := resultOf(t, w.heard()[0])
		if first == second || len(first) != 36 || first[:3] != `"0x` {
			t.Errorf("the ids are %s and %s", first, second)
		}
		publish(t, hub, "heads", map[string]any{"number": "0x1"})
		publish(t, hub, "others", 1)
		w.expect(ethLine(first, `{"number":"0x1"}`), ethLine(second, `{"number":"0x1"}`))
		hubIs(t, hub, 1, 2)
		if got := maps.Collect(hub.Topics()); got["heads"] != 2 || len(got) != 1 {
			t.Errorf("the topics are %v", got)
		}
		escaped := strings.Replace(first, "0x", `\u0030x`, 1) // the same id
		w.say(`{"jsonrpc":"2.0","method":"eth_unsubscribe","params":[` + escaped + `],"id":3}`)
		w.expect(`{"jsonrpc":"2.0","result":true,"id":3}`)
		w.say(`{"jsonrpc":"2.0","method":"eth_unsubscribe","params":[` + first + `],"id":4}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32000,"message":"subscription not found"},"id":4}`)
		w.say(`{"jsonrpc":"2.0","method":"eth_unsubscribe","params":[{}],"id":5}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32602,"message":"the id of a subscription is a string or a number"},"id":5}`)
		w.say(`{"jsonrpc":"2.0","method":"eth_unsubscribe","id":5}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32602,"message":"the id of the subscription is missing"},"id":5}`)
		publish(t, hub, "heads", nil)
		w.expect(ethLine(second, `null`))
		s.Close()
		hubIs(t, hub, 0, 0)
		publish(t, hub, "heads", 1)
		if got := hub.Stats(); got.Published != 5 || got.Sent != 3 || got.Dropped != 0 || got.Lagging != 0 {
			t.Errorf("the counters are %+v", got)
		}
	})
}

// TestHubElectrumForm checks the form of Electrum: the reply is the first value, and the
// params of a notification are those of the call and the value.
func TestHubElectrumForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		_, w := newWire(t, handling(hubMethods(hub)))
		w.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab"],"id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":0,"id":1}`)
		w.say(`{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","id":2}`)
		w.expect(`{"jsonrpc":"2.0","result":7,"id":2}`)
		publish(t, hub, "ab", "status")
		publish(t, hub, "headers", map[string]any{"height": 8})
		w.expect(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab","status"]}`,
			`{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[{"height":8}]}`)
		w.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["\u0061b"],"id":3}`) // an equal one
		w.expect(`{"jsonrpc":"2.0","result":0,"id":3}`)
		publish(t, hub, "ab", 2)
		w.expect(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab",2]}`)
		w.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.unsubscribe","params":["ab"],"id":4}`)
		w.expect(`{"jsonrpc":"2.0","result":true,"id":4}`)
		w.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.unsubscribe","params":["ab"],"id":5}`)
		w.expect(`{"jsonrpc":"2.0","result":false,"id":5}`)
		publish(t, hub, "ab", 3)
		w.expectNothing()
		w.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":{"hash":"ab"},"id":6}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32602,"message":"no topic"},"id":6}`)
		hubIs(t, hub, 1, 1)
	})
}

// subscriber returns a handler that subscribes to topic, and replies with the id.
func subscriber(hub *rpcx.Hub, topic string, c *rpcx.Correlation, id any) rpcx.HandlerFunc {
	return func(ctx context.Context, _ *rpcx.Request) (any, error) {
		sub, err := hub.Subscribe(ctx, topic, c, id)
		if err != nil {
			return nil, err
		}
		return sub.ID(), nil
	}
}

// TestHubForms checks notifications of further forms and protocols.
func TestHubForms(t *testing.T) {
	resource := &rpcx.Correlation{Methods: []string{"notifications/resources/updated"}, ID: []string{"uri"}, Token: []string{"uri"}, Unsubscribe: "resources/unsubscribe"}
	lsp, mcp := *rpcx.LSPWorkDone, *rpcx.MCPProgress
	lsp.Unsubscribe, mcp.Unsubscribe = "end", "end" // otherwise the reply is the end
	deep := &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"_meta", "sub", "id"}}
	for _, test := range []struct {
		name     string
		protocol rpcx.Protocol
		form     *rpcx.Correlation
		id       any
		params   string
		value    any
		want     []string // the reply, and the notification
	}{
		{
			name: "1.0, Electrum", protocol: rpcx.JSONRPCv1, form: rpcx.ElectrumHeaders, params: `["x",[1, {"a":2}]]`, value: 5,
			want: []string{`{"result":["x",[1,{"a":2}]],"error":null,"id":1}`, `{"method":"sub","params":["x",[1,{"a":2}],5],"id":null}`},
		},
		{
			name: "loose, Ethereum with an id of the user's", protocol: rpcx.JSONRPCLoose, form: rpcx.EthSubscription, id: 17, params: `[]`, value: "v",
			want: []string{`{"jsonrpc":"2.0","result":17,"id":1}`, ethLine("17", `"v"`)},
		},
		{
			name: "a token of the peer's", form: &lsp, params: `{"workDoneToken":"tok","more":1}`, value: map[string]any{"kind": "begin"},
			want: []string{`{"jsonrpc":"2.0","result":"tok","id":1}`, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":"tok","value":{"kind":"begin"}}}`},
		},
		{
			name: "a token in depth, and the value as the params", form: &mcp, params: `{"_meta":{"progressToken":3}}`, value: map[string]any{"progress": 1},
			want: []string{`{"jsonrpc":"2.0","result":3,"id":1}`, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":3}}`},
		},
		{
			name: "no value", form: resource, params: `{"uri":"file:///a"}`, value: nil,
			want: []string{`{"jsonrpc":"2.0","result":"file:///a","id":1}`, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a"}}`},
		},
		{
			name: "an empty value", form: resource, params: `{"uri":"file:///a"}`, value: struct{}{},
			want: []string{`{"jsonrpc":"2.0","result":"file:///a","id":1}`, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a"}}`},
		},
		{
			name: "a value that has the member of the id", form: deep, id: "i", params: `[]`, value: map[string]any{"_meta": map[string]any{"more": 1}, "x": 2},
			want: []string{`{"jsonrpc":"2.0","result":"i","id":1}`, `{"jsonrpc":"2.0","method":"news","params":{"_meta":{"more":1,"sub":{"id":"i"}},"x":2}}`},
		},
		{
			name: "a form with the text of the samples in it", form: rpcx.EthSubscription, id: "rpcx value", params: `[]`, value: 1,
			want: []string{`{"jsonrpc":"2.0","result":"rpcx value","id":1}`, ethLine(`"rpcx value"`, `1`)},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := new(rpcx.Hub)
				_, w := newWire(t, &rpcx.Options{Protocol: test.protocol, Handler: methods{"sub": subscriber(hub, "topic", test.form, test.id)}})
				w.say(`{"jsonrpc":"2.0","method":"sub","params":` + test.params + `,"id":1}`)
				synctest.Wait()
				publish(t, hub, "topic", test.value)
				w.expect(test.want...)
			})
		})
	}
}

// TestHubErrors checks the errors of Subscribe.
func TestHubErrors(t *testing.T) {
	hub := &rpcx.Hub{MaxPerSession: 2, MaxTopics: 3}
	ctx := context.Background()
	if _, err := hub.Subscribe(ctx, "t", nil, nil); err == nil || !strings.Contains(err.Error(), "context of a handler") {
		t.Errorf("outside of a handler the error is %v", err)
	}
	if _, err := hub.Unsubscribe(ctx, nil, nil); err == nil || !strings.Contains(err.Error(), "context of a handler") {
		t.Errorf("outside of a handler the error is %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		var got error
		subscribe := func(topic string, c *rpcx.Correlation, id any) rpcx.HandlerFunc {
			return func(ctx context.Context, req *rpcx.Request) (any, error) {
				_, got = hub.Subscribe(ctx, topic, c, id)
				return nil, got
			}
		}
		client, _ := newPipe(t, nil, handling(methods{
			"a": subscribe("a", rpcx.ElectrumHeaders, nil), "b": subscribe("b", nil, 1), "b again": subscribe("c", nil, 1), "c": subscribe("c", nil, nil),
			"topic": subscribe(strings.Repeat("x", 4097), nil, nil), "token": subscribe("d", rpcx.LSPWorkDone, nil), "no list": subscribe("a", rpcx.ElectrumHeaders, 1),
		}))
		for _, test := range []struct {
			method string
			params any
			want   string
		}{
			{"token", rpcx.Args{1}, "a subscription needs the param workDoneToken, a string or a number"},
			{"token", map[string]any{"other": 1}, "a subscription needs the param workDoneToken, a string or a number"},
			{"token", map[string]any{"workDoneToken": nil}, "a subscription needs the param workDoneToken, a string or a number"},
			{"token", map[string]any{"workDoneToken": strings.Repeat("x", 4095)}, "the id of a subscription is too long: over 4,096 bytes"},
			{"topic", nil, "the topic is too long: over 4,096 bytes"},
			{"a", map[string]any{"other": 1}, "a subscription whose params are its id needs positional params: send an array"},
			{"no list", nil, "internal server error"},
			{"a", nil, ""},
			{"b", nil, ""},
			{"b again", nil, "a subscription with this id exists"},
			{"c", nil, "server busy - too many subscriptions, end one first: over 2 subscriptions (Hub.MaxPerSession)"},
		} {
			err := client.Call(ctx, test.method, test.params, nil)
			if e, ok := errors.AsType[*rpcx.Error](err); test.want == "" && err != nil || test.want != "" && (!ok || e.Message != test.want) {
				t.Errorf("%s: the error is %v, want %s", test.method, err, test.want)
			}
		}
		client.Notify(ctx, "a", nil)
		synctest.Wait()
		if got == nil || !strings.Contains(got.Error(), "needs an id") {
			t.Errorf("for a notification the error is %v", got)
		}
		hubIs(t, hub, 2, 2)
		more, _ := newPipe(t, nil, handling(methods{"c": subscribe("c", nil, nil), "d": subscribe("d", nil, nil)}))
		if err := more.Call(ctx, "c", nil, nil); err != nil {
			t.Error(err)
		}
		if err := more.Call(ctx, "d", nil, nil); err == nil || !strings.Contains(err.Error(), "over 3 topics (Hub.MaxTopics)") {
			t.Errorf("with too many topics the error is %v", err)
		}
	})
}

// TestHubInExchange checks that an exchange, which ends with its reply, has no
// subscriptions.
func TestHubInExchange(t *testing.T) {
	hub := new(rpcx.Hub)
	var got error
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods{"sub": func(ctx context.Context, _ *rpcx.Request) (any, error) {
		_, got = hub.Subscribe(ctx, "t", nil, nil)
		return nil, got
	}}}}
	for _, notify := range []func([]byte) error{nil, func([]byte) error { t.Error("notified"); return nil }} {
		reply, err := srv.ServeMessage(context.Background(), nil, []byte(`{"jsonrpc":"2.0","method":"sub","id":1}`), notify)
		if want := `{"jsonrpc":"2.0","error":{"code":-32601,"message":"notifications not supported"},"id":1}`; err != nil || string(reply) != want {
			t.Errorf("the reply is %s (%v), want %s", reply, err, want)
		}
		matches(t, got, rpcx.ErrNoCallback)
	}
	hubIs(t, hub, 0, 0)
}

// TestHubCallIDInExchange checks that an exchange with a function for notifications has
// values until the reply, and that the function does not hold up the publisher.
func TestHubCallIDInExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listen := &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"id"}, Value: []string{"v"}, CallID: true}
		hub := new(rpcx.Hub)
		sub, _ := hub.Handlers(listen, firstParam, numberOf(5))
		srv := &rpcx.Server{Options: rpcx.Options{Handler: sub}}
		var notified []string
		step := make(chan struct{})
		var reply []byte
		done := make(chan struct{})
		go func() {
			defer close(done)
			reply, _ = srv.ServeMessage(context.Background(), nil, []byte(`{"jsonrpc":"2.0","method":"listen","params":["t"],"id":1}`), func(msg []byte) error {
				<-step
				notified = append(notified, string(msg))
				return nil
			})
		}()
		synctest.Wait()
		publish(t, hub, "t", 6)
		publish(t, hub, "t", 7)
		step <- struct{}{}
		step <- struct{}{}
		synctest.Wait()
		time.Sleep(time.Minute) // the handler's time is over
		close(step)
		<-done
		var want []string
		for _, v := range []int{5, 6, 7} {
			want = append(want, fmt.Sprintf(`{"jsonrpc":"2.0","method":"news","params":{"id":1,"v":%d}}`, v))
		}
		if !slices.Equal(notified, want) || !strings.Contains(string(reply), `"error"`) {
			t.Errorf("the peer was sent %q and %s, want %q and an error", notified, reply, want)
		}
		publish(t, hub, "t", 8)
		hubIs(t, hub, 0, 0)
		srv.Close()
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// TestHubWithoutNotifications checks that a protocol without notifications has no
// subscriptions.
func TestHubWithoutNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		var got error
		client, _ := newPipe(t, &rpcx.Options{Protocol: rpcx.Aiomas}, &rpcx.Options{Protocol: rpcx.Aiomas, Handler: methods{"sub": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			_, got = hub.Subscribe(ctx, "t", nil, nil)
			return nil, got
		}}})
		if err := client.Call(context.Background(), "sub", nil, nil); err == nil || got == nil || !strings.Contains(got.Error(), "notification") {
			t.Errorf("the error is %v, at the handler %v", err, got)
		}
		hubIs(t, hub, 0, 0)
	})
}

// TestHubNamedParams checks that a peer of JSON-RPC 1.0, which has no named params, learns why
// the subscription is refused.
func TestHubNamedParams(t *testing.T) {
	hub := new(rpcx.Hub)
	client, _ := newPipe(t, &rpcx.Options{Protocol: rpcx.JSONRPCv1}, &rpcx.Options{Protocol: rpcx.JSONRPCv1, Handler: methods{"sub": subscriber(hub, "t", nil, nil)}})
	err := client.Call(context.Background(), "sub", nil, nil)
	want := "no notification of this subscription can be sent: JSONRPCv1 does not support named arguments"
	if e, ok := errors.AsType[*rpcx.Error](err); !ok || e.Code != rpcx.CodeInvalidRequest || e.Message != want {
		t.Errorf("the error is %v", err)
	}
	hubIs(t, hub, 0, 0)
}

// TestHubUndone checks that no subscription is left when a handler fails, in each way.
func TestHubUndone(t *testing.T) {
	for name, end := range map[string]func(ctx context.Context) (any, error){
		"an error":           func(context.Context) (any, error) { return nil, errors.New("no") },
		"an error as result": func(context.Context) (any, error) { return rpcx.InvalidParams("no"), nil },
		"a panic":            func(context.Context) (any, error) { panic("no") },
		"a large reply":      func(context.Context) (any, error) { return strings.Repeat("x", 2000), nil },
		"no encoding":        func(context.Context) (any, error) { return func() {}, nil },
		"a timeout":          func(ctx context.Context) (any, error) { <-ctx.Done(); time.Sleep(time.Second); return 1, nil },
		"a disconnect":       func(context.Context) (any, error) { return rpcx.ReplyAndDisconnect(rpcx.InvalidParams("no")), nil },
	} {
		for _, form := range []string{"%s", "[%s]"} {
			t.Run(name+" of "+form, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub := new(rpcx.Hub)
					var sub *rpcx.Subscriber
					s, w := newWire(t, &rpcx.Options{
						Limits: rpcx.Limits{ProcessingTimeout: 5 * time.Second, Response: 1000, CostOff: true},
						Handler: methods{"sub": func(ctx context.Context, _ *rpcx.Request) (any, error) {
							var err error
							if sub, err = hub.Subscribe(ctx, "t", nil, nil); err != nil {
								t.Error(err)
							}
							return end(ctx)
						}},
					})
					w.say(fmt.Sprintf(form, `{"jsonrpc":"2.0","method":"sub","id":1}`))
					synctest.Wait()
					publish(t, hub, "t", 1)
					time.Sleep(time.Minute)
					publish(t, hub, "t", 2)
					if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], `"error"`) {
						t.Errorf("the peer has heard %q", lines)
					}
					hubIs(t, hub, 0, 0)
					<-sub.Done()
					if err := sub.Err(); !errors.Is(err, rpcx.ErrNoReply) && !errors.Is(err, rpcx.ErrClosed) {
						t.Errorf("the subscription has ended with %v", err)
					}
					s.Close()
				})
			})
		}
	}
}

// TestHubLostConnection checks that the end of a connection ends subscriptions, begun or
// not, and that Shutdown does.
func TestHubLostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		release := make(chan struct{})
		var held *rpcx.Subscriber
		s, w := newWire(t, handling(methods{"now": subscriber(hub, "t", nil, nil), "later": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			held, _ = hub.Subscribe(ctx, "t", nil, nil)
			<-release
			return nil, nil
		}}))
		w.say(`{"jsonrpc":"2.0","method":"now","id":1}`, `{"jsonrpc":"2.0","method":"later","id":2}`)
		synctest.Wait()
		hubIs(t, hub, 1, 2)
		w.Close()
		synctest.Wait()
		hubIs(t, hub, 0, 0)
		publish(t, hub, "t", 1)
		<-held.Done()
		matches(t, held.Err(), rpcx.ErrClosed)
		close(release)
		matches(t, ended(t, s), io.EOF)

		s, w = newWire(t, handling(methods{"now": subscriber(hub, "t", nil, nil)}))
		w.say(`{"jsonrpc":"2.0","method":"now","id":1}`)
		synctest.Wait()
		hubIs(t, hub, 1, 1)
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		hubIs(t, hub, 0, 0)
	})
}

// TestHubReplyFirst checks 10,000 times that nothing is sent before the reply, and nothing
// is lost or out of order from then on, while others publish. Every second request is a
// member of a batch.
func TestHubReplyFirst(t *testing.T) {
	noLeak(t)
	rounds := 10000
	if testing.Short() {
		rounds = 1000
	}
	hub := &rpcx.Hub{Queue: 1 << 16, Bytes: 64 << 20}
	var mu sync.Mutex // one publisher at a time, so that current knows the last value
	last := 0
	step := func() {
		mu.Lock()
		defer mu.Unlock()
		last++
		hub.Publish(context.Background(), "t", last)
	}
	sub, unsub := hub.Handlers(rpcx.ElectrumScriptHash, func(context.Context, *rpcx.Request) (string, error) { return "t", nil }, func(context.Context, string) (any, error) {
		mu.Lock()
		defer mu.Unlock()
		return last, nil
	})
	near, far := net.Pipe()
	s := rpcx.NewSession(near, &rpcx.Options{Handler: methods{"sub": sub.ServeRPC, "unsub": unsub.ServeRPC}, Limits: rpcx.Limits{CostOff: true}})
	defer func() { s.Close(); far.Close(); <-s.Done() }()
	var publishing atomic.Bool // false while a round ends, so that rounds are short
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if publishing.Load() {
					step()
				}
				runtime.Gosched()
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	dec := json.NewDecoder(far)
	type message struct {
		Method string
		Params []json.RawMessage
		ID     json.RawMessage
		Result json.RawMessage
	}
	next := func() (m message) {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			t.Fatal(err)
		}
		if raw[0] == '[' {
			var batch []message
			if json.Unmarshal(raw, &batch) != nil || len(batch) != 2 {
				t.Fatalf("the batch is %s", raw)
			}
			return batch[0]
		}
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for i := range rounds {
		request := fmt.Sprintf(`{"jsonrpc":"2.0","method":"sub","params":[%d],"id":%d}`, i, i)
		if i%2 == 1 {
			request = "[" + request + `,{"jsonrpc":"2.0","method":"none","id":"x"}]`
		}
		publishing.Store(true)
		go fmt.Fprintln(far, request)
		m := next()
		if string(m.ID) != fmt.Sprint(i) {
			t.Fatalf("round %d: %+v came before the reply", i, m)
		}
		var value, at int
		json.Unmarshal(m.Result, &value)
		for n := range 4 {
			if m = next(); m.Method != "sub" || len(m.Params) != 2 || string(m.Params[0]) != fmt.Sprint(i) {
				t.Fatalf("round %d: %+v is not the news", i, m)
			}
			// The reply may have a value that was published after the subscription.
			if json.Unmarshal(m.Params[1], &at); at != value+1 && (n > 0 || at > value) {
				t.Fatalf("round %d: %d follows %d", i, at, value)
			}
			value = at
		}
		publishing.Store(false)
		go fmt.Fprintf(far, `{"jsonrpc":"2.0","method":"unsub","params":[%d],"id":-1}`+"\n", i)
		for m = next(); m.ID == nil; m = next() {
		}
		if string(m.Result) != "true" {
			t.Fatalf("round %d: %+v is no reply", i, m)
		}
	}
}

// TestHubOrder checks that all subscribers of a topic receive the values of several
// publishers in one order.
func TestHubOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sessions, publishers, each = 5, 4, 200
		hub := &rpcx.Hub{Queue: publishers * each}
		var wires []*wire
		for range sessions {
			_, w := newWire(t, handling(methods{"sub": subscriber(hub, "t", nil, 1)}))
			w.say(`{"jsonrpc":"2.0","method":"sub","id":1}`)
			w.heard()
			wires = append(wires, w)
		}
		var wg sync.WaitGroup
		for p := range publishers {
			wg.Go(func() {
				for i := range each {
					publish(t, hub, "t", []int{p, i})
				}
			})
		}
		wg.Wait()
		first := wires[0].heard()
		if len(first) != publishers*each {
			t.Errorf("%d values have come, want %d", len(first), publishers*each)
		}
		for _, w := range wires[1:] {
			if !slices.Equal(w.heard(), first) {
				t.Error("two subscribers have received the values in different orders")
			}
		}
	})
}

// lag subscribes a session whose peer does not listen yet. The outbox has no room for a
// further notification, and a first value, filler, waits.
func lag(t *testing.T, hub *rpcx.Hub, opts rpcx.Options, form *rpcx.Correlation) (*rpcx.Session, *wire) {
	t.Helper()
	opts.Handler = methods{"sub": func(ctx context.Context, _ *rpcx.Request) (any, error) {
		_, err := hub.Subscribe(ctx, "t", form, 1)
		return nil, err
	}}
	opts.Limits.SendTimeout = -1
	s, w := newDeafWire(t, &opts)
	w.say(`{"jsonrpc":"2.0","method":"sub","id":1}`)
	synctest.Wait() // the reply is being written
	publish(t, hub, "t", strings.Repeat("x", 65000))
	for hub.Stats().Lagging == 0 {
		publish(t, hub, "t", filler)
	}
	return s, w
}

const filler = "filler"

// values returns the values in the lines, in the form of Ethereum, without those of lag.
func values(t *testing.T, lines []string) (list []string) {
	t.Helper()
	for _, line := range lines {
		var m struct {
			Params struct{ Result, Error json.RawMessage }
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Error(err)
		}
		if v := m.Params.Result; v != nil && len(v) < 1000 && string(v) != `"filler"` {
			list = append(list, string(v))
		} else if e := m.Params.Error; e != nil {
			list = append(list, "end: "+string(e))
		}
	}
	return list
}

// TestHubOverflow checks what a slow peer receives, by each policy.
func TestHubOverflow(t *testing.T) {
	withEnd := *rpcx.EthSubscription
	withEnd.Error = []string{"error"}
	for _, test := range []struct {
		name  string
		hub   *rpcx.Hub
		form  *rpcx.Correlation
		want  string
		stats rpcx.HubStats
	}{
		{"the oldest are dropped", &rpcx.Hub{Queue: 4}, nil, "[6 7 8 9]", rpcx.HubStats{Topics: 1, Subscribers: 1, Sent: 4, Dropped: 7}},
		{"by bytes", &rpcx.Hub{Bytes: 3 * 65}, nil, "[7 8 9]", rpcx.HubStats{Topics: 1, Subscribers: 1, Sent: 3, Dropped: 8}},
		{"the latest of all", &rpcx.Hub{Overflow: rpcx.KeepLatest}, nil, "[9]", rpcx.HubStats{Topics: 1, Subscribers: 1, Sent: 1, Dropped: 10}},
		{
			"the latest of each key", &rpcx.Hub{Overflow: rpcx.KeepLatest, Key: func(_ string, v any) string { return fmt.Sprint(v) }},
			nil, "[0 1 2 3 4 5 6 7 8 9]", rpcx.HubStats{Topics: 1, Subscribers: 1, Sent: 11},
		},
		{
			"the latest of odd and even", &rpcx.Hub{Overflow: rpcx.KeepLatest, Key: func(_ string, v any) string {
				n, _ := v.(int)
				return fmt.Sprint(n % 2)
			}},
			nil, "[8 9]", rpcx.HubStats{Topics: 1, Subscribers: 1, Sent: 2, Dropped: 9},
		},
		{"the subscription ends", &rpcx.Hub{Queue: 4, Overflow: rpcx.EndStream}, nil, "[]", rpcx.HubStats{Dropped: 5, Ended: 1}},
		{"and the peer learns of it", &rpcx.Hub{Queue: 4, Overflow: rpcx.EndStream}, &withEnd, `[end: "the reader of a stream is too slow"]`, rpcx.HubStats{Sent: 1, Dropped: 5, Ended: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := lag(t, test.hub, rpcx.Options{}, test.form)
				before := test.hub.Stats()
				for i := range 10 {
					publish(t, test.hub, "t", i)
				}
				w.listen()
				if got := fmt.Sprint(values(t, w.heard())); got != test.want {
					t.Errorf("the peer has received %s, want %s", got, test.want)
				}
				got := test.hub.Stats()
				got.Published, got.Sent, got.Dropped = 0, got.Sent-before.Sent, got.Dropped-before.Dropped
				if got != test.stats {
					t.Errorf("the counters are %+v, want %+v", got, test.stats)
				}
				live(t, s)
				if test.stats.Subscribers > 0 {
					publish(t, test.hub, "t", "again")
					if got := fmt.Sprint(values(t, w.heard())); got != `["again"]` {
						t.Errorf("a peer that has caught up receives %s", got)
					}
				}
			})
		})
	}
}

// TestHubEndSession checks that EndSession ends the session of a slow peer, which does not
// hold up the publisher.
func TestHubEndSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := &rpcx.Hub{Queue: 4, Overflow: rpcx.EndSession}
		s, _ := lag(t, hub, rpcx.Options{}, nil)
		takes(t, 0, func() {
			for i := range 10 {
				publish(t, hub, "t", i)
			}
		})
		err := ended(t, s)
		matches(t, err, rpcx.ErrSlowPeer)
		if !strings.Contains(err.Error(), "over 4 values waiting for a subscriber (Hub.Queue)") {
			t.Errorf("the error is %v", err)
		}
		hubIs(t, hub, 0, 0)
		if got := hub.Stats(); got.Ended != 1 || got.Lagging != 0 {
			t.Errorf("the counters are %+v", got)
		}
	})
}

// TestHubOverflowBeforeReply checks that values that do not fit while a reply is awaited
// end the subscription, and not the session.
func TestHubOverflowBeforeReply(t *testing.T) {
	for _, policy := range []rpcx.OverflowPolicy{rpcx.EndStream, rpcx.EndSession} {
		synctest.Test(t, func(t *testing.T) {
			hub := &rpcx.Hub{Queue: 2, Overflow: policy}
			sub, _ := hub.Handlers(rpcx.ElectrumHeaders, func(context.Context, *rpcx.Request) (string, error) { return "t", nil }, func(context.Context, string) (any, error) {
				for i := range 5 {
					publish(t, hub, "t", i)
				}
				return 1, nil
			})
			s, w := newWire(t, handling(sub))
			w.say(`{"jsonrpc":"2.0","method":"sub","id":1}`)
			w.expect(`{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - more values came than can wait for the reply","data":{"started":true,"reason":"subscription"}},"id":1}`)
			live(t, s)
			hubIs(t, hub, 0, 0)
		})
	}
}

// TestHubCurrentIsFirst checks that the current value is the first notification where it
// is not the reply.
func TestHubCurrentIsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		sub, _ := hub.Handlers(nil, firstParam, func(context.Context, string) (any, error) {
			publish(t, hub, "t", 1)
			return 0, nil
		})
		_, w := newWire(t, handling(sub))
		w.say(`{"jsonrpc":"2.0","method":"eth_subscribe","params":["t"],"id":1}`)
		lines := w.heard()
		id := resultOf(t, lines[0])
		if want := []string{ethLine(id, "0"), ethLine(id, "1")}; !slices.Equal(lines[1:], want) {
			t.Errorf("the peer has heard %q after the reply, want %q", lines[1:], want)
		}
	})
}

// TestHubCallID checks that with CallID values come before the reply, and none after.
func TestHubCallID(t *testing.T) {
	listen := &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"id"}, Value: []string{"v"}, CallID: true}
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		sub, _ := hub.Handlers(listen, firstParam, numberOf(5))
		s, w := newWire(t, &rpcx.Options{Handler: sub, Limits: rpcx.Limits{ProcessingTimeout: time.Minute}})
		w.say(`{"jsonrpc":"2.0","method":"listen","params":["t"],"id":"call"}`)
		w.expect(`{"jsonrpc":"2.0","method":"news","params":{"id":"call","v":5}}`)
		publish(t, hub, "t", 6)
		w.expect(`{"jsonrpc":"2.0","method":"news","params":{"id":"call","v":6}}`)
		time.Sleep(time.Hour)
		if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], `"id":"call"`) {
			t.Errorf("the peer has heard %q", lines)
		}
		publish(t, hub, "t", 7)
		w.expectNothing()
		hubIs(t, hub, 0, 0)
		live(t, s)
	})
}

// TestHubTokenUntilReply checks that with a token whose call is the subscription, values come
// before the reply, and none after.
func TestHubTokenUntilReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		_, w := newWire(t, handling(rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
			_, err := hub.Subscribe(ctx, "t", rpcx.LSPWorkDone, nil)
			publish(t, hub, "t", 1)
			return "done", err
		})))
		w.say(`{"jsonrpc":"2.0","method":"work","params":{"workDoneToken":5},"id":1}`)
		w.expect(`{"jsonrpc":"2.0","method":"$/progress","params":{"token":5,"value":1}}`, `{"jsonrpc":"2.0","result":"done","id":1}`)
		publish(t, hub, "t", 2)
		w.expectNothing()
		hubIs(t, hub, 0, 0)
	})
}

// TestHubInvalidForms checks the errors for forms that cannot work.
func TestHubInvalidForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for want, form := range map[string]*rpcx.Correlation{
			"Token without ID":          {Token: []string{"t"}},
			"CallID without ID":         {CallID: true},
			"ID and Current":            {ID: []string{"id"}, Current: true},
			"empty name":                {Methods: []string{""}},
			"ID and Value at one place": {ID: []string{"a", "id"}, Value: []string{"a"}},
		} {
			hub := new(rpcx.Hub)
			var got error
			client, _ := newPipe(t, nil, handling(rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
				_, got = hub.Subscribe(ctx, "t", form, 1)
				return nil, got
			})))
			if err := client.Call(context.Background(), "sub", nil, nil); err == nil || got == nil || !strings.Contains(got.Error(), want) {
				t.Errorf("the error is %v, want one with %s", got, want)
			}
			func() {
				defer func() {
					if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), want) {
						t.Errorf("Handlers has panicked with %v, want %s", r, want)
					}
				}()
				hub.Handlers(form, firstParam, numberOf(1))
			}()
		}
	})
}

// TestHubCallIDCurrentFirst checks that with CallID the current value is the first, and what
// was published meanwhile follows.
func TestHubCallIDCurrentFirst(t *testing.T) {
	listen := &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"id"}, Value: []string{"v"}, CallID: true}
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		sub, _ := hub.Handlers(listen, firstParam, func(context.Context, string) (any, error) {
			publish(t, hub, "t", 1)
			return 0, nil
		})
		s, w := newWire(t, handling(sub))
		w.say(`{"jsonrpc":"2.0","method":"listen","params":["t"],"id":1}`)
		w.expect(`{"jsonrpc":"2.0","method":"news","params":{"id":1,"v":0}}`, `{"jsonrpc":"2.0","method":"news","params":{"id":1,"v":1}}`)
		publish(t, hub, "t", 2)
		w.expect(`{"jsonrpc":"2.0","method":"news","params":{"id":1,"v":2}}`)
		s.Close()
		hubIs(t, hub, 0, 0)
	})
}

// TestHubRejoin checks that a second request with the same params makes the values wait for
// its reply, which has an older value.
func TestHubRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		step := make(chan error)
		sub, _ := hub.Handlers(rpcx.ElectrumHeaders, func(context.Context, *rpcx.Request) (string, error) { return "t", nil }, func(context.Context, string) (any, error) {
			return "current", <-step
		})
		_, w := newWire(t, handling(sub))
		w.say(`{"jsonrpc":"2.0","method":"sub","id":1}`, `{"jsonrpc":"2.0","method":"sub","id":2}`)
		synctest.Wait()
		hubIs(t, hub, 1, 1)
		publish(t, hub, "t", 1)
		step <- nil
		if lines := w.heard(); len(lines) != 1 {
			t.Errorf("the peer has heard %q before the second reply", lines)
		}
		step <- errors.New("fails")
		if lines := w.heard(); len(lines) != 2 || lines[1] != `{"jsonrpc":"2.0","method":"sub","params":[1]}` {
			t.Errorf("the peer has heard %q after the second reply", lines)
		}
		w.say(`{"jsonrpc":"2.0","method":"sub","id":3}`)
		synctest.Wait()
		publish(t, hub, "t", 2)
		w.expectNothing()
		step <- nil
		w.expect(`{"jsonrpc":"2.0","result":"current","id":3}`, `{"jsonrpc":"2.0","method":"sub","params":[2]}`)
		hubIs(t, hub, 1, 1)
	})
}

// TestHubMemory checks that waiting values count for Server.MaxQueuedBytes, and that a full
// server keeps a single value for each slow subscriber.
func TestHubMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		near, far := net.Pipe()
		srv := &rpcx.Server{MaxQueuedBytes: 512 << 10, Options: rpcx.Options{Handler: methods{"sub": subscriber(hub, "t", nil, 1)}, Limits: rpcx.Limits{SendTimeout: -1}}}
		s := srv.ServeConn(near)
		w := &wire{Conn: far, t: t}
		w.say(`{"jsonrpc":"2.0","method":"sub","id":1}`)
		synctest.Wait()
		for range 100 {
			publish(t, hub, "t", strings.Repeat("x", 10000))
		}
		if got := hub.Stats(); got.Dropped < 40 || got.Lagging != 1 {
			t.Errorf("the counters are %+v", got)
		}
		live(t, s)
		w.listen()
		if n := len(w.heard()); n < 5 || n > 60 {
			t.Errorf("%d messages have come", n)
		}
		srv.Close()
		far.Close()
		<-s.Done()
	})
}

// TestHubTracePublishes checks that Trace.RequestSent, called for each notification, may
// publish under the same topic.
func TestHubTracePublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := &rpcx.Hub{Queue: 4}
		var traced atomic.Int64
		trace := &rpcx.Trace{RequestSent: func(*rpcx.Session, string, rpcx.ID) {
			if traced.Add(1)%2 == 1 {
				publish(t, hub, "t", -1)
			}
		}}
		s, w := lag(t, hub, rpcx.Options{Trace: trace}, nil)
		for i := range 10 {
			publish(t, hub, "t", i)
		}
		w.listen()
		lines := w.heard()
		if sent := hub.Stats().Sent; int64(sent) != traced.Load() || int(sent) != len(lines)-1 {
			t.Errorf("%d notifications were sent, %d traced, and %d have come", sent, traced.Load(), len(lines)-1)
		}
		s.Close()
		hubIs(t, hub, 0, 0)
	})
}

// TestHubPublishError checks the errors of Publish.
func TestHubPublishError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := new(rpcx.Hub)
		whole := &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"id"}}
		_, w := newWire(t, handling(methods{"a": subscriber(hub, "t", whole, 1), "b": subscriber(hub, "t", nil, 2)}))
		w.say(`{"jsonrpc":"2.0","method":"a","id":1}`)
		w.heard()
		w.say(`{"jsonrpc":"2.0","method":"b","id":1}`)
		w.heard()
		if err := hub.Publish(context.Background(), "t", func() {}); err == nil {
			t.Error("a function has been published")
		}
		if err := hub.Publish(context.Background(), "t", 5); err == nil || !strings.Contains(err.Error(), "take an object") {
			t.Errorf("the error is %v", err)
		}
		w.expect(ethLine("2", "5"))
		if err := hub.Publish(context.Background(), "t", map[string]string{"text": strings.Repeat("x", 1<<20)}); err == nil || !strings.Contains(err.Error(), "1,000,000") {
			t.Errorf("the error is %v", err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		matches(t, hub.Publish(ctx, "t", 1), context.Canceled)
		w.expectNothing()
	})
}

// memoryBroker is a Broker in memory for the hubs of a test.
type memoryBroker struct {
	mu        sync.Mutex
	receivers map[string]map[*func(string, []byte)]bool
	fail      error
	changes   []string
}

func (b *memoryBroker) Publish(_ context.Context, topic string, value []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for receive := range b.receivers[topic] {
		(*receive)(topic, value)
	}
	clear(value) // which the hubs must not keep
	return b.fail
}

func (b *memoryBroker) Subscribe(topic string, receive func(string, []byte)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return nil, b.fail
	}
	if b.receivers == nil {
		b.receivers = make(map[string]map[*func(string, []byte)]bool)
	}
	if b.receivers[topic] == nil {
		b.receivers[topic] = make(map[*func(string, []byte)]bool)
	}
	b.receivers[topic][&receive] = true
	b.changes = append(b.changes, "+"+topic)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.receivers[topic], &receive)
		b.changes = append(b.changes, "-"+topic)
	}, nil
}

// TestHubBroker checks two hubs at one broker.
func TestHubBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := new(memoryBroker)
		a, b := &rpcx.Hub{Broker: broker}, &rpcx.Hub{Broker: broker}
		_, wa := newWire(t, handling(hubMethods(a)))
		_, wb := newWire(t, handling(hubMethods(b)))
		changes := func(want string) {
			t.Helper()
			synctest.Wait()
			broker.mu.Lock()
			defer broker.mu.Unlock()
			if got := fmt.Sprint(broker.changes); got != want {
				t.Errorf("at the broker: %s, want %s", got, want)
			}
		}
		for _, w := range []*wire{wa, wb} {
			w.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["t"],"id":1}`)
			w.heard()
		}
		wa.say(`{"jsonrpc":"2.0","method":"eth_subscribe","params":["t"],"id":1}`)
		id := resultOf(t, wa.heard()[0])
		changes("[+t +t]")
		publish(t, b, "t", map[string]any{"n": 1})
		line := `{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["t",{"n":1}]}`
		wa.expect(line, ethLine(id, `{"n":1}`))
		wb.expect(line)
		wa.say(`{"jsonrpc":"2.0","method":"eth_unsubscribe","params":[` + id + `],"id":2}`)
		wa.heard()
		changes("[+t +t]")
		wa.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.unsubscribe","params":["t"],"id":2}`)
		wa.heard()
		changes("[+t +t -t]")
		publish(t, a, "t", 2)
		wa.expectNothing()
		wb.expect(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["t",2]}`)
		for receive := range broker.receivers["t"] {
			(*receive)("t", []byte(`{"broken"`))
		}
		wb.expectNothing()
		if err := a.Publish(context.Background(), "t", func() {}); err == nil {
			t.Error("a function has been published")
		}

		broker.fail = errors.New("the broker is away")
		matches(t, a.Publish(context.Background(), "t", 1), broker.fail)
		wb.heard()
		wa.say(`{"jsonrpc":"2.0","method":"eth_subscribe","params":["u"],"id":3}`)
		wa.expect(`{"jsonrpc":"2.0",` + internalErrorText + `,"id":3}`)
		hubIs(t, a, 0, 0)
		broker.fail = nil
		wa.say(`{"jsonrpc":"2.0","method":"eth_subscribe","params":["u"],"id":4}`)
		resultOf(t, wa.heard()[0])
		hubIs(t, a, 1, 1)
	})
}

// TestHubRaces subscribes, publishes, unsubscribes and closes sessions at random. Afterwards
// nothing is left.
func TestHubRaces(t *testing.T) {
	noLeak(t)
	for _, policy := range []rpcx.OverflowPolicy{rpcx.DropOldest, rpcx.KeepLatest, rpcx.EndStream, rpcx.EndSession} {
		hub := &rpcx.Hub{Queue: 8, Overflow: policy}
		stop := make(chan struct{})
		var publishers, clients sync.WaitGroup
		for p := range 3 {
			publishers.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
						hub.Publish(context.Background(), fmt.Sprint("t", p%2), strings.Repeat("x", i%3000))
					}
				}
			})
		}
		for c := range 4 {
			clients.Go(func() {
				rnd := rand.New(rand.NewPCG(1, uint64(c)))
				for range 30 {
					client, server := rpcx.Pipe(&rpcx.Options{Handler: methods{"eth_subscription": func(context.Context, *rpcx.Request) (any, error) { return nil, nil }}}, handling(hubMethods(hub)))
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rnd.IntN(3))*time.Millisecond)
					var id string
					if client.Call(ctx, "eth_subscribe", rpcx.Args{fmt.Sprint("t", rnd.IntN(2))}, &id) == nil && rnd.IntN(2) == 0 {
						client.Call(ctx, "eth_unsubscribe", rpcx.Args{id}, nil)
					}
					client.Go(ctx, "blockchain.scripthash.subscribe", rpcx.Args{fmt.Sprint("t", rnd.IntN(2))})
					switch rnd.IntN(3) {
					case 0:
						server.Close()
					case 1:
						client.Close()
					default:
						server.Shutdown(ctx)
					}
					cancel()
					client.Close()
					server.Close()
					<-client.Done()
					<-server.Done()
				}
			})
		}
		clients.Wait()
		close(stop)
		publishers.Wait()
		hubIs(t, hub, 0, 0)
		if got := hub.Stats(); got.Lagging != 0 {
			t.Errorf("the counters are %+v", got)
		}
	}
}
