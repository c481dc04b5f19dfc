package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

// running is a function that runs on another goroutine of a bubble.
type running[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// run starts f.
func run[T any](f func() (T, error)) *running[T] {
	r := &running[T]{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.value, r.err = f()
	}()
	return r
}

// waits says that the function has not returned.
func (r *running[T]) waits(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case <-r.done:
		t.Fatalf("returned %v, %v, too early", r.value, r.err)
	default:
	}
}

// result says that the function has returned.
func (r *running[T]) result(t *testing.T) (T, error) {
	t.Helper()
	synctest.Wait()
	select {
	case <-r.done:
	default:
		t.Fatal("has not returned")
	}
	return r.value, r.err
}

// must says that the function has returned without an error.
func (r *running[T]) must(t *testing.T) T {
	t.Helper()
	value, err := r.result(t)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// subscribing starts Subscribe.
func subscribing[T any](s rpcx.Caller, sub rpcx.Subscription) *running[*rpcx.Stream[T]] {
	return run(func() (*rpcx.Stream[T], error) { return rpcx.Subscribe[T](context.Background(), s, sub) })
}

// queued returns the values that the stream has now.
func queued[T any](t *testing.T, st *rpcx.Stream[T]) []T {
	t.Helper()
	synctest.Wait()
	var values []T
	for {
		ctx, cancel := context.WithCancel(t.Context())
		r := run(func() (T, error) { return st.Next(ctx) })
		synctest.Wait()
		cancel()
		v, err := r.result(t)
		if err != nil {
			return values
		}
		values = append(values, v)
	}
}

// has says that the stream has just these values now.
func has[T any](t *testing.T, st *rpcx.Stream[T], want ...T) {
	t.Helper()
	if diff := cmp.Diff(want, queued(t, st)); diff != "" {
		t.Errorf("wrong values (-want +got):\n%s", diff)
	}
}

// noStreams says that the tables of streams are empty.
func noStreams(t *testing.T, s *rpcx.Session) {
	t.Helper()
	synctest.Wait()
	if sizes := rpcx.StreamTableSizes(s); sizes != [5]int{} {
		t.Errorf("the tables have %v", sizes)
	}
}

// endsWith says that Next returns the error.
func endsWith[T any](t *testing.T, st *rpcx.Stream[T], want error) {
	t.Helper()
	r := run(func() (T, error) { return st.Next(t.Context()) })
	if v, err := r.result(t); !errors.Is(err, want) {
		t.Errorf("the stream has returned %v, %v, want the error %v", v, err, want)
	}
}

const (
	ethReply = `{"jsonrpc":"2.0","result":"0x1","id":0}`
	ethNews  = `{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":%d}}`
)

// ethereum is a subscription in Ethereum's form.
func ethereum() rpcx.Subscription {
	return rpcx.Subscription{Method: "eth_subscribe", Params: rpcx.Args{"newHeads"}}
}

// script is a subscription in Electrum's form.
func script(hash string) rpcx.Subscription {
	return rpcx.Subscription{Method: "blockchain.scripthash.subscribe", Params: rpcx.Args{hash}, Correlation: rpcx.ElectrumScriptHash}
}

// Each form: the call, what belongs to the stream, what does not, and the end.
func TestStreamForms(t *testing.T) {
	listen := *rpcx.MCPListen
	listen.Methods = []string{"notifications/resources/updated", "notifications/tools/list_changed"}
	confirmed := rpcx.Correlation{Methods: []string{"tick"}, ID: []string{"t"}, Value: []string{"v"}, Token: []string{"as", "token"}, Unsubscribe: "stop"}
	tests := []struct {
		name  string
		sub   rpcx.Subscription
		call  string
		early []string // before the reply
		reply string   // "" if Subscribe does not wait
		news  []string
		id    string
		want  []string
		close string // what Close sends
		over  string // the reply that ends the stream, if one does
	}{{
		name:  "EthSubscription",
		sub:   ethereum(),
		call:  `{"jsonrpc":"2.0","method":"eth_subscribe","id":0,"params":["newHeads"]}`,
		early: []string{fmt.Sprintf(ethNews, 1), strings.Replace(fmt.Sprintf(ethNews, 10), "0x1", "0x2", 1)},
		reply: ethReply,
		news: []string{
			fmt.Sprintf(ethNews, 2), fmt.Sprintf(strings.ReplaceAll(ethNews, "0x1", "0x3"), 9),
			fmt.Sprintf(strings.ReplaceAll(ethNews, "0x1", "\\u0030x1"), 3),
		},
		id: `"0x1"`, want: []string{"1", "2", "3"},
		close: `{"jsonrpc":"2.0","method":"eth_unsubscribe","id":1,"params":["0x1"]}`,
	}, {
		name:  "EthSubscription with a number for an id",
		sub:   ethereum(),
		call:  `{"jsonrpc":"2.0","method":"eth_subscribe","id":0,"params":["newHeads"]}`,
		reply: `{"jsonrpc":"2.0","result":100,"id":0}`,
		news: []string{
			strings.ReplaceAll(fmt.Sprintf(ethNews, 1), `"0x1"`, `100`), strings.ReplaceAll(fmt.Sprintf(ethNews, 2), `"0x1"`, `1.00E2`),
			strings.ReplaceAll(fmt.Sprintf(ethNews, 3), `"0x1"`, `"100"`), strings.ReplaceAll(fmt.Sprintf(ethNews, 4), `"0x1"`, `100.1`),
			strings.ReplaceAll(fmt.Sprintf(ethNews, 5), `"0x1"`, `0.1e+3`),
		},
		id: `100`, want: []string{"1", "2", "5"},
		close: `{"jsonrpc":"2.0","method":"eth_unsubscribe","id":1,"params":[100]}`,
	}, {
		name:  "ElectrumHeaders",
		sub:   rpcx.Subscription{Method: "blockchain.headers.subscribe", Correlation: rpcx.ElectrumHeaders},
		call:  `{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","id":0}`,
		early: []string{`{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[1]}`},
		reply: `{"jsonrpc":"2.0","result":2,"id":0}`,
		news: []string{
			`{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[3]}`,
			`{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[7,8]}`,
			`{"jsonrpc":"2.0","method":"blockchain.headers.subscribe","params":[{"height":4}]}`,
		},
		want: []string{"2", "3", `{"height":4}`},
	}, {
		name:  "ElectrumScriptHash",
		sub:   script("ab"),
		call:  `{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","id":0,"params":["ab"]}`,
		early: []string{`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab","old"]}`},
		reply: `{"jsonrpc":"2.0","result":null,"id":0}`,
		news: []string{
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab","new"]}`,
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["cd","new"]}`,
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab"]}`,
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab","x","y"]}`,
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["\u0061b",null]}`,
		},
		want:  []string{"null", `"new"`, "null"},
		close: `{"jsonrpc":"2.0","method":"blockchain.scripthash.unsubscribe","id":1,"params":["ab"]}`,
	}, {
		name: "LSPPartialResult",
		sub:  rpcx.Subscription{Method: "search", Params: map[string]any{"query": "x"}, Correlation: rpcx.LSPPartialResult},
		call: `{"jsonrpc":"2.0","method":"search","id":0,"params":{"query":"x","partialResultToken":"rpcx-1"}}`,
		news: []string{
			`{"jsonrpc":"2.0","method":"$/progress","params":{"token":"rpcx-1","value":[1]}}`,
			`{"jsonrpc":"2.0","method":"$/progress","params":{"token":"rpcx-2","value":[2]}}`,
			`{"jsonrpc":"2.0","method":"$/progress","params":{"value":[3],"token":"rpcx-1"}}`,
			`{"jsonrpc":"2.0","method":"$/progress","params":{"token":"rpcx-1","value":null}}`,
		},
		id: `"rpcx-1"`, want: []string{"[1]", "[3]", "null"},
		over: `{"jsonrpc":"2.0","result":[],"id":0}`,
	}, {
		name: "LSPWorkDone with a token of the program's own",
		sub:  rpcx.Subscription{Method: "search", Params: map[string]any{"workDoneToken": 7}, Correlation: rpcx.LSPWorkDone},
		call: `{"jsonrpc":"2.0","method":"search","id":0,"params":{"workDoneToken":7}}`,
		news: []string{
			`{"jsonrpc":"2.0","method":"$/progress","params":{"token":7.0,"value":{"kind":"begin"}}}`,
			`{"jsonrpc":"2.0","method":"$/progress","params":{"token":"7","value":{"kind":"end"}}}`,
		},
		id: `7`, want: []string{`{"kind":"begin"}`},
		over: `{"jsonrpc":"2.0","result":null,"id":0}`,
	}, {
		name: "MCPProgress",
		sub:  rpcx.Subscription{Method: "tools/call", Params: map[string]any{"_meta": map[string]any{"a": 1}, "name": "f"}, Correlation: rpcx.MCPProgress},
		call: `{"jsonrpc":"2.0","method":"tools/call","id":0,"params":{"_meta":{"a":1,"progressToken":"rpcx-1"},"name":"f"}}`,
		news: []string{`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"rpcx-1","progress":50}}`},
		id:   `"rpcx-1"`, want: []string{`{"progressToken":"rpcx-1","progress":50}`},
		over: `{"jsonrpc":"2.0","result":{},"id":0}`,
	}, {
		name: "MCPListen",
		sub:  rpcx.Subscription{Method: "subscriptions/listen", Params: map[string]any{"a": 1}, Correlation: &listen},
		call: `{"jsonrpc":"2.0","method":"subscriptions/listen","id":0,"params":{"a":1}}`,
		news: []string{
			`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"u","_meta":{"io.modelcontextprotocol/subscriptionId":0}}}`,
			`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1}}}`,
		},
		id: `0`, want: []string{`{"uri":"u","_meta":{"io.modelcontextprotocol/subscriptionId":0}}`},
		over: `{"jsonrpc":"2.0","result":{},"id":0}`,
	}, {
		name:  "a token that the reply confirms",
		sub:   rpcx.Subscription{Method: "start", Correlation: &confirmed},
		call:  `{"jsonrpc":"2.0","method":"start","id":0,"params":{"as":{"token":"rpcx-1"}}}`,
		early: []string{`{"jsonrpc":"2.0","method":"tick","params":{"t":"rpcx-1","v":1}}`},
		reply: `{"jsonrpc":"2.0","result":true,"id":0}`,
		news:  []string{`{"jsonrpc":"2.0","method":"tick","params":{"t":"rpcx-1","v":2}}`},
		id:    `"rpcx-1"`, want: []string{"1", "2"},
		close: `{"jsonrpc":"2.0","method":"stop","id":1,"params":{"as":{"token":"rpcx-1"}}}`,
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, handling(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
					t.Errorf("the handler got %s", req.Method)
					return nil, nil
				})))
				subscribed := subscribing[json.RawMessage](s, test.sub)
				w.expect(test.call)
				w.say(test.early...)
				if test.reply != "" {
					subscribed.waits(t)
					w.say(test.reply)
				}
				st := subscribed.must(t)
				w.say(test.news...)
				var got []string
				for _, v := range queued(t, st) {
					got = append(got, string(v))
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("wrong values (-want +got):\n%s", diff)
				}
				if got := string(st.ID()); got != test.id {
					t.Errorf("the id is %s, want %s", got, test.id)
				}
				if test.over != "" {
					w.say(test.news[0], test.over, test.news[0])
					if v, err := run(func() (json.RawMessage, error) { return st.Next(t.Context()) }).result(t); err != nil || string(v) != test.want[0] {
						t.Errorf("the last value is %s, %v", v, err)
					}
					endsWith(t, st, rpcx.ErrStreamEnded)
				}
				if err := st.Err(); err != nil {
					t.Errorf("Err is %v", err)
				}
				st.Close()
				if test.close != "" {
					w.expect(test.close)
					w.say(test.news[0], `{"jsonrpc":"2.0","error":{"code":-32601,"message":"unknown method"},"id":1}`)
				} else {
					w.expectNothing()
				}
				endsWith(t, st, rpcx.ErrStreamClosed)
				if err := st.Err(); err != nil {
					t.Errorf("Err is %v", err)
				}
				time.Sleep(2 * time.Second)
				noStreams(t, s)
			})
		})
	}
}

// A mistake is an error that says what to do, before anything is sent.
func TestStreamMistakes(t *testing.T) {
	bad := func(change func(*rpcx.Correlation)) *rpcx.Correlation {
		c := &rpcx.Correlation{Methods: []string{"news"}}
		change(c)
		return c
	}
	forms := []struct {
		form *rpcx.Correlation
		want string
	}{
		{nil, `Options.Correlations[1] is nil`},
		{bad(func(c *rpcx.Correlation) { c.Methods = []string{"a", ""} }), `Options.Correlations[1].Methods has an empty name`},
		{bad(func(c *rpcx.Correlation) { c.Token, c.CallID = []string{"t"}, true }), `Options.Correlations[1] has Token and CallID: the id is either a token or the id of the call`},
		{bad(func(c *rpcx.Correlation) { c.Token = []string{"t"} }), `Options.Correlations[1] has Token without ID: set ID to where notifications carry the token`},
		{bad(func(c *rpcx.Correlation) { c.CallID = true }), `Options.Correlations[1] has CallID without ID: set ID to where notifications carry the id of the call`},
		{bad(func(c *rpcx.Correlation) { c.CallID, c.ID, c.Unsubscribe = true, []string{"i"}, "stop" }), `Options.Correlations[1] has CallID and Unsubscribe: the call itself is the subscription, and Options.Cancellation ends it`},
		{bad(func(c *rpcx.Correlation) { c.CallID, c.ID, c.Current = true, []string{"i"}, true }), `Options.Correlations[1] has CallID and Current: the reply ends the subscription, and is no value`},
		{rpcx.MCPListen, `Options.Correlations[1] has CallID without Methods: copy MCPListen, and set Methods to those of the notifications`},
		{bad(func(c *rpcx.Correlation) { c.ID, c.Value = []string{"a"}, []string{"a", "b"} }), `Options.Correlations[1] has ID and Value at one place: "a" and "a.b"`},
		{bad(func(c *rpcx.Correlation) { c.ID, c.Value = []string{"a", "b"}, []string{"a"} }), `Options.Correlations[1] has ID and Value at one place: "a.b" and "a"`},
		{bad(func(c *rpcx.Correlation) { c.ID, c.Current = []string{"i"}, true }), `Options.Correlations[1] has ID and Current without Token: the reply is either the id or the first value`},
	}
	for _, test := range forms {
		opts := &rpcx.Options{Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone, test.form}}
		_, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return nil, errors.New("connected") }, opts)
		if err == nil || err.Error() != test.want {
			t.Errorf("the error is %v\nwant %s", err, test.want)
		}
	}

	subscriptions := []struct {
		name string
		sub  rpcx.Subscription
		want string
	}{
		{"no method", rpcx.Subscription{}, `rpcx: Subscription.Method is empty: set the method of the subscribing call`},
		{"no form", rpcx.Subscription{Method: "listen"}, `rpcx: Subscription.Correlation is not set, and "listen" is no method of Ethereum, such as eth_subscribe: set Correlation`},
		{"a form without methods", rpcx.Subscription{Method: "listen", Correlation: rpcx.MCPListen}, `rpcx: Subscription.Correlation has CallID without Methods: copy MCPListen, and set Methods to those of the notifications`},
		{"a wrong form", rpcx.Subscription{Method: "m", Correlation: forms[3].form}, `rpcx: Subscription.Correlation has Token without ID: set ID to where notifications carry the token`},
		{"a long queue", rpcx.Subscription{Method: "m_subscribe", Queue: 65537}, `rpcx: Subscription.Queue is 65537: use 1 to 65,536, or 0 for 256`},
		{"a negative queue", rpcx.Subscription{Method: "m_subscribe", Queue: -1}, `rpcx: Subscription.Queue is -1: use 1 to 65,536, or 0 for 256`},
		{"no bound", rpcx.Subscription{Method: "m_subscribe", Bytes: -1}, `rpcx: Subscription.Bytes is -1: use a positive number, or 0 for 1 MiB`},
		{"a policy of a Hub", rpcx.Subscription{Method: "m_subscribe", Overflow: rpcx.EndSession}, `rpcx: Subscription.Overflow is EndSession, which is for a Hub: use EndStream, and close the session`},
		{"no policy", rpcx.Subscription{Method: "m_subscribe", Overflow: 9}, `rpcx: Subscription.Overflow is 9, which is no policy`},
		{"a key without its policy", rpcx.Subscription{Method: "m_subscribe", Key: func(json.RawMessage) string { return "" }}, `rpcx: Subscription.Key is for the policy KeepLatest: set Overflow, too`},
		{"named params in Electrum's form", rpcx.Subscription{Method: "m", Params: map[string]any{"a": 1}, Correlation: rpcx.ElectrumScriptHash},
			`rpcx: the subscribing call needs positional params, such as rpcx.Args: without Correlation.ID, a notification repeats the params of the call, and one more`},
		{"positional params with a token", rpcx.Subscription{Method: "m", Params: rpcx.Args{1}, Correlation: rpcx.MCPProgress},
			`rpcx: the call needs named params, a struct or a map: Correlation.Token is a place in them`},
		{"no place for the token", rpcx.Subscription{Method: "m", Params: map[string]any{"_meta": 1}, Correlation: rpcx.MCPProgress},
			`rpcx: no place for the token in the params: member "_meta" is no object`},
		{"a token that is no id", rpcx.Subscription{Method: "m", Params: map[string]any{"workDoneToken": true}, Correlation: rpcx.LSPWorkDone},
			`rpcx: the token true in the params is neither a string nor a number`},
		{"params that cannot be encoded", rpcx.Subscription{Method: "m", Params: map[string]any{"a": func() {}}, Correlation: rpcx.LSPWorkDone}, `encoding error`},
	}
	for _, test := range subscriptions {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				_, err := subscribing[int](s, test.sub).result(t)
				if err == nil || err.Error() != test.want && !strings.Contains(err.Error(), test.want) {
					t.Errorf("the error is %v\nwant %s", err, test.want)
				}
				w.expectNothing()
				noStreams(t, s)
			})
		})
	}

	t.Run("StreamOf", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, nil)
			st, err := rpcx.StreamOf[int](s, rpcx.LSPWorkDone, "a")
			if err != nil {
				t.Fatal(err)
			}
			for _, test := range []struct {
				form *rpcx.Correlation
				id   any
				want string
			}{
				{nil, 1, `rpcx: the Correlation for StreamOf, such as LSPWorkDone, is nil`},
				{rpcx.ElectrumHeaders, 1, `rpcx: StreamOf needs a Correlation with Methods and ID: set those of the notifications`},
				{rpcx.MCPListen, 1, `rpcx: the Correlation for StreamOf, such as LSPWorkDone, has CallID without Methods: copy MCPListen, and set Methods to those of the notifications`},
				{rpcx.LSPWorkDone, nil, `rpcx: the id for StreamOf is null: use a string or a number`},
				{rpcx.LSPWorkDone, []int{1}, `rpcx: the id for StreamOf is [1]: use a string or a number`},
				{rpcx.LSPPartialResult, json.RawMessage(`"\u0061"`), `rpcx: the id "\u0061" has a stream already: close that first, or choose another token`},
			} {
				if _, err := rpcx.StreamOf[int](s, test.form, test.id); err == nil || err.Error() != test.want {
					t.Errorf("the error is %v\nwant %s", err, test.want)
				}
			}
			_, err = rpcx.CallProgress[any](t.Context(), s, rpcx.LSPWorkDone, "m", map[string]any{"workDoneToken": "a"}, func(int) {})
			if want := `rpcx: the id "a" has a stream already: close that first, or choose another token`; err == nil || err.Error() != want {
				t.Errorf("the error is %v\nwant %s", err, want)
			}
			_, err = rpcx.CallProgress[any](t.Context(), s, rpcx.EthSubscription, "m", nil, func(int) {})
			if want := `rpcx: CallProgress needs a Correlation with Token or CallID, without Unsubscribe and Current: use Subscribe`; err == nil || err.Error() != want {
				t.Errorf("the error is %v\nwant %s", err, want)
			}
			st.Close()
			noStreams(t, s)
			w.expectNothing()
			s.Close()
			if _, err := rpcx.StreamOf[int](s, rpcx.LSPWorkDone, "a"); !errors.Is(err, rpcx.ErrClosed) {
				t.Errorf("on a closed session: %v", err)
			}
		})
	})
}

// A Caller without a reader fails before anything is sent.
func TestCallersWithoutStreams(t *testing.T) {
	type wrapped struct{ rpcx.Caller }
	s, _ := newPipe(t, nil, nil)
	x := rpcx.NewExchange(nowhere{}, nil)
	defer x.Close()
	for _, c := range []rpcx.Caller{x, wrapped{s}} {
		if _, err := rpcx.Subscribe[int](t.Context(), c, ethereum()); err != rpcx.ErrNoStreams {
			t.Errorf("Subscribe on a %T: %v", c, err)
		}
		if _, err := rpcx.StreamOf[int](c, rpcx.LSPWorkDone, 1); err != rpcx.ErrNoStreams {
			t.Errorf("StreamOf on a %T: %v", c, err)
		}
		if _, err := rpcx.CallProgress[any](t.Context(), c, rpcx.LSPWorkDone, "m", nil, func(int) {}); err != rpcx.ErrNoStreams {
			t.Errorf("CallProgress on a %T: %v", c, err)
		}
	}
	if _, err := rpcx.StreamOf[int](embedder{s}, rpcx.LSPWorkDone, 1); err != nil {
		t.Errorf("StreamOf on a struct that embeds a session: %v", err)
	}
	srv := &rpcx.Server{Options: rpcx.Options{Handler: methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
		_, err := rpcx.Subscribe[int](ctx, req.Session(), ethereum())
		return fmt.Sprint(err), nil
	}}}}
	got, err := srv.ServeMessage(t.Context(), nil, []byte(`{"jsonrpc":"2.0","method":"m","id":1}`), func([]byte) error { return nil })
	if want := rpcx.ErrNoStreams.Error(); err != nil || !strings.Contains(string(got), want) {
		t.Errorf("in an exchange: %s, %v", got, err)
	}
}

// nowhere is a RoundTripper that must not be used.
type nowhere struct{}

func (nowhere) RoundTrip(context.Context, []byte) ([]byte, error) { panic("something was sent") }
func (nowhere) Close() error                                      { return nil }

// Without an id in the reply, Subscribe fails.
func TestSubscribeWithoutID(t *testing.T) {
	for _, result := range []string{`null`, `true`, `{"id":1}`, `[1]`, `"` + strings.Repeat("x", 5000) + `"`} {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, nil)
			r := subscribing[int](s, ethereum())
			synctest.Wait()
			w.say(`{"jsonrpc":"2.0","result":` + result + `,"id":0}`)
			if _, err := r.result(t); err == nil || !strings.HasPrefix(err.Error(), `rpcx: the reply to "eth_subscribe" is `+result[:1]) ||
				!strings.HasSuffix(err.Error(), ", and no id, which is a string or a number: choose the Correlation of this method, or describe its form") || len(err.Error()) > 300 {
				t.Errorf("%.20s: the error is %v", result, err)
			}
			noStreams(t, s)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		r := subscribing[int](s, ethereum())
		synctest.Wait()
		w.say(`{"jsonrpc":"2.0","error":{"code":-32601,"message":"no"},"id":0}`)
		if _, err := r.result(t); !errors.Is(err, rpcx.ErrMethodNotFound) {
			t.Errorf("the error is %v", err)
		}
		noStreams(t, s)
	})
}

// A subscribing call that was given up is unsubscribed when its reply comes.
func TestSubscribeGivenUp(t *testing.T) {
	for _, test := range []struct {
		name                     string
		sub                      rpcx.Subscription
		reply, unsubscribe, news string
	}{
		{"Ethereum", ethereum(), ethReply, `{"jsonrpc":"2.0","method":"eth_unsubscribe","id":1,"params":["0x1"]}`, fmt.Sprintf(ethNews, 1)},
		{"Electrum", script("ab"), `{"jsonrpc":"2.0","result":null,"id":0}`,
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.unsubscribe","id":1,"params":["ab"]}`,
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab","new"]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				ctx, cancel := context.WithCancel(t.Context())
				r := run(func() (*rpcx.Stream[any], error) { return rpcx.Subscribe[any](ctx, s, test.sub) })
				synctest.Wait()
				w.heard()
				cancel()
				if _, err := r.result(t); err != context.Canceled {
					t.Errorf("the error is %v", err)
				}
				w.expectNothing()
				w.say(test.reply)
				w.expect(test.unsubscribe)
				w.say(test.news, `{"jsonrpc":"2.0","result":true,"id":1}`)
				noStreams(t, s)
			})
		})
	}
}

// A Subscribe whose key is being unsubscribed waits for the answer.
func TestSubscribeWhileUnsubscribing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		first := subscribing[any](s, script("ab"))
		synctest.Wait()
		w.say(`{"jsonrpc":"2.0","result":"one","id":0}`)
		st := first.must(t)
		w.heard()
		st.Close()
		second, other := subscribing[any](s, script("ab")), subscribing[any](s, script("cd"))
		second.waits(t)
		lines := w.heard()
		if len(lines) != 2 {
			t.Fatalf("wrong lines on the wire: %q", lines)
		}
		var unsubscribe, subscribe string
		for _, line := range lines {
			if strings.Contains(line, "unsubscribe") {
				unsubscribe = idOf(t, line)
			} else {
				subscribe = idOf(t, line)
			}
		}
		w.say(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab","late"]}`, `{"jsonrpc":"2.0","result":true,"id":`+unsubscribe+`}`)
		w.expect(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","id":3,"params":["ab"]}`)
		w.say(`{"jsonrpc":"2.0","result":"two","id":3}`, `{"jsonrpc":"2.0","result":"three","id":`+subscribe+`}`)
		has[any](t, second.must(t), "two")
		has[any](t, other.must(t), "three")

		// A context that ends bounds the wait.
		second.must(t).Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := rpcx.Subscribe[any](ctx, s, script("ab")); err != context.DeadlineExceeded {
			t.Errorf("the error is %v", err)
		}
	})
}

// Equal subscriptions in Electrum's form share the notifications, and the last unsubscribes.
func TestSharedSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		a := subscribing[any](s, script("ab"))
		synctest.Wait()
		b := subscribing[any](s, script("ab"))
		w.expect(`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","id":0,"params":["ab"]}`,
			`{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","id":1,"params":["ab"]}`)
		news := func(v string) string {
			return `{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["ab","` + v + `"]}`
		}
		w.say(news("0"), `{"jsonrpc":"2.0","result":"1","id":0}`, news("2"), `{"jsonrpc":"2.0","result":"3","id":1}`, news("4"))
		has[any](t, a.must(t), "1", "2", "4")
		has[any](t, b.must(t), "3", "4")
		a.must(t).Close()
		w.expectNothing()
		w.say(news("5"))
		has[any](t, b.must(t), "5")
		b.must(t).Close()
		w.expect(`{"jsonrpc":"2.0","method":"blockchain.scripthash.unsubscribe","id":2,"params":["ab"]}`)
		w.say(`{"jsonrpc":"2.0","result":true,"id":2}`)
		noStreams(t, s)
	})
}

// A token that the program gives, as for MCP's resources, is unsubscribed by name. Equal
// subscriptions share it, and news from before the call do not count.
func TestSubscribeWithGivenToken(t *testing.T) {
	form := &rpcx.Correlation{Methods: []string{"updated"}, ID: []string{"uri"}, Token: []string{"uri"}, Unsubscribe: "unsubscribe"}
	sub := rpcx.Subscription{Method: "subscribe", Params: map[string]any{"uri": "u"}, Correlation: form}
	news := func(n int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"updated","params":{"uri":"u","n":%d}}`, n)
	}
	type update struct{ N int }
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Correlations: []*rpcx.Correlation{form}})
		w.say(news(0))
		synctest.Wait()
		a := subscribing[update](s, sub)
		w.expect(`{"jsonrpc":"2.0","method":"subscribe","id":0,"params":{"uri":"u"}}`)
		w.say(news(1), `{"jsonrpc":"2.0","result":{},"id":0}`, news(2))
		has(t, a.must(t), update{1}, update{2})
		b := subscribing[update](s, sub)
		w.expect(`{"jsonrpc":"2.0","method":"subscribe","id":1,"params":{"uri":"u"}}`)
		w.say(`{"jsonrpc":"2.0","result":{},"id":1}`, news(3))
		has(t, a.must(t), update{3})
		has(t, b.must(t), update{3})
		a.must(t).Close()
		w.expectNothing()
		b.must(t).Close()
		w.expect(`{"jsonrpc":"2.0","method":"unsubscribe","id":2,"params":{"uri":"u"}}`)
		c := subscribing[update](s, sub)
		w.say(news(4))
		c.waits(t)
		w.expectNothing()
		w.say(`{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":2}`)
		w.expect(`{"jsonrpc":"2.0","method":"subscribe","id":3,"params":{"uri":"u"}}`)
		w.say(`{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":3}`, news(5))
		if _, err := c.result(t); err == nil || err.Error() != "no (code 1)" {
			t.Errorf("the error is %v", err)
		}
		time.Sleep(time.Second)
		noStreams(t, s)
	})
}
