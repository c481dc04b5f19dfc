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
)

// listening is a form in which the reply to the call ends the stream.
var listening = &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"id"}, Value: []string{"v"}, CallID: true, Error: []string{"error"}}

// A stream that ends with its call has the first reason, not that the call was given up.
func TestStreamOfACallHasTheFirstReason(t *testing.T) {
	closed := func(st *rpcx.Stream[int], _ *wire) { st.Close() }
	say := func(lines ...string) func(*rpcx.Stream[int], *wire) {
		return func(_ *rpcx.Stream[int], w *wire) { w.say(lines...) }
	}
	for _, test := range []struct {
		name string
		end  func(st *rpcx.Stream[int], w *wire)
		want func(err error) bool
	}{
		{"Close", closed, func(err error) bool { return err == nil }},
		{"EndStream", say(`{"jsonrpc":"2.0","method":"news","params":{"id":0,"v":1}}`, `{"jsonrpc":"2.0","method":"news","params":{"id":0,"v":2}}`),
			func(err error) bool { return err == rpcx.ErrSlowReader }},
		{"the peer", say(`{"jsonrpc":"2.0","method":"news","params":{"id":0,"error":"gone"}}`),
			func(err error) bool { return errors.As(err, new(*rpcx.PeerEndError)) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				st := subscribing[int](s, rpcx.Subscription{Method: "listen", Correlation: listening, Queue: 1, Overflow: rpcx.EndStream}).must(t)
				w.heard()
				test.end(st, w)
				synctest.Wait()
				if err := st.Err(); !test.want(err) {
					t.Errorf("Err is %v", err)
				}
				noStreams(t, s)
			})
		})
	}
}

// A panic of a hook leaves nothing behind.
func TestSubscribeWithPanickingHook(t *testing.T) {
	for _, sub := range []rpcx.Subscription{ethereum(), script("a"), {Method: "m", Correlation: rpcx.LSPWorkDone}, {Method: "m", Correlation: listening}} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newWire(t, &rpcx.Options{OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
				func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) { panic("oops") },
			}})
			if got := panicOf(func() { _, _ = rpcx.Subscribe[int](t.Context(), s, sub) }); got != "oops" {
				t.Errorf("recovered %v", got)
			}
			noStreams(t, s)
		})
	}
}

// panicOf returns what f panics with.
func panicOf(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

// A panic of Key reaches the consumer, also if a full queue has called Key before.
func TestPanickingKey(t *testing.T) {
	for _, values := range []int{1, 20} {
		synctest.Test(t, func(t *testing.T) {
			panics := true
			st, _, w := openedStream[int](t, nil, rpcx.Subscription{Queue: 4, Overflow: rpcx.KeepLatest, Key: func(v json.RawMessage) string {
				if panics {
					panic("oops")
				}
				return string(v)
			}})
			for i := range values {
				w.say(fmt.Sprintf(ethNews, i))
				synctest.Wait()
			}
			if got := panicOf(func() { _, _ = st.Next(t.Context()) }); got != "oops" {
				t.Errorf("recovered %v", got)
			}
			panics = false
			if got := queued(t, st); len(got) != min(values, 4) || got[len(got)-1] != values-1 {
				t.Errorf("the values are %v", got)
			}
		})
	}
}

// Of two forms of a method, a notification has both ids: that with a stream counts.
func TestTwoFormsOfAMethod(t *testing.T) {
	byURI := &rpcx.Correlation{Methods: []string{"updated"}, ID: []string{"uri"}, Token: []string{"uri"}, Unsubscribe: "unsubscribe"}
	byCall := &rpcx.Correlation{Methods: []string{"updated"}, ID: []string{"_meta", "id"}, Value: []string{"n"}, CallID: true}
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Correlations: []*rpcx.Correlation{byURI}})
		st := subscribing[int](s, rpcx.Subscription{Method: "listen", Correlation: byCall}).must(t)
		w.say(`{"jsonrpc":"2.0","method":"updated","params":{"uri":"u","_meta":{"id":0},"n":1}}`, `{"jsonrpc":"2.0","method":"updated","params":{"uri":"u","n":2}}`)
		has(t, st, 1)
		if stats := s.Stats(); stats.News != 2 {
			t.Errorf("%d news", stats.News)
		}
	})
}

// Aiomas has no notifications, so nothing is sent.
func TestStreamsWithAiomas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Protocol: rpcx.Aiomas})
		if _, err := subscribing[int](s, ethereum()).result(t); err != rpcx.ErrNoStreams {
			t.Errorf("the error is %v", err)
		}
		w.expectNothing()
	})
}

// A goroutine of the handler that waits for the peer does not end a CallProgress that is
// quick.
func TestCallProgressBesideAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got error
		n := 0
		_, w := newWire(t, handling(methods{"begin": func(ctx context.Context, req *rpcx.Request) (any, error) {
			ctx, cancel := context.WithCancel(ctx)
			waited := make(chan error)
			go func() { waited <- req.Session().Call(ctx, "other", nil, nil) }()
			_, got = rpcx.CallProgress[string](ctx, req.Session(), rpcx.LSPWorkDone, "work", nil, func(int) {
				n++
				time.Sleep(time.Microsecond)
			})
			cancel()
			return nil, <-waited
		}}))
		w.say(`{"jsonrpc":"2.0","method":"begin","id":1}`)
		var id string
		for _, line := range w.heard() {
			if strings.Contains(line, `"work"`) {
				id = idOf(t, line)
			}
		}
		for i := range 1000 {
			w.say(fmt.Sprintf(lspNews, i))
		}
		w.say(`{"jsonrpc":"2.0","result":"done","id":` + id + `}`)
		time.Sleep(time.Second)
		synctest.Wait()
		if got != nil || n != 1000 {
			t.Errorf("%d values, %v", n, got)
		}
	})
}

// A notification without a value at Correlation.Value is an error, and no zero value.
func TestWrongValuePath(t *testing.T) {
	form := *rpcx.EthSubscription
	form.Value = []string{"value", "n"}
	want := `rpcx: a notification for "eth_subscribe" has no value at "value.n": check Correlation.Value`
	for _, key := range []func(json.RawMessage) string{nil, func(v json.RawMessage) string { return string(v) }} {
		synctest.Test(t, func(t *testing.T) {
			sub := rpcx.Subscription{Correlation: &form, Key: key}
			if key != nil {
				sub.Overflow = rpcx.KeepLatest
			}
			st, s, w := openedStream[int](t, nil, sub)
			w.say(fmt.Sprintf(ethNews, 1), fmt.Sprintf(ethNews, 2))
			for range 2 {
				_, err := run(func() (int, error) { return st.Next(t.Context()) }).result(t)
				if err == nil || err.Error() != want || st.Err() != err {
					t.Errorf("the error is %v", err)
				}
			}
			w.expect(`{"jsonrpc":"2.0","method":"eth_unsubscribe","id":1,"params":["0x1"]}`)
			w.say(`{"jsonrpc":"2.0","result":true,"id":1}`)
			noStreams(t, s)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var got []string
		r := progressing(t.Context(), s, rpcx.LSPWorkDone, &got)
		synctest.Wait()
		w.say(`{"jsonrpc":"2.0","method":"$/progress","params":{"token":"rpcx-1","values":1}}`)
		want := `rpcx: a notification for "work" has no value at "value": check Correlation.Value`
		if _, err := r.result(t); err == nil || err.Error() != want {
			t.Errorf("the error is %v", err)
		}
		noStreams(t, s)
	})
}

// The handlers of Func need no parameter for a token.
func TestFuncIgnoresTokens(t *testing.T) {
	build := rpcx.Func(func(ctx context.Context, path string) (string, error) {
		return "built", rpcx.Progress(ctx)(path)
	}, "path")
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, &rpcx.Options{Handler: build, Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone, rpcx.MCPProgress}})
		w.say(`{"jsonrpc":"2.0","method":"m","params":{"path":"a","workDoneToken":1,"_meta":{}},"id":1}`)
		w.expect(`{"jsonrpc":"2.0","method":"$/progress","params":{"value":"a","token":1}}`, `{"jsonrpc":"2.0","result":"built","id":1}`)
		w.say(`{"jsonrpc":"2.0","method":"m","params":{"path":"a","partialResultToken":1},"id":2}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32602,"message":"method \"m\" does not take parameter \"partialResultToken\""},"id":2}`)
	})
}

// Without a Correlation, the namespace of Ethereum's form is that of the method.
func TestSubscribeInANamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		r := subscribing[int](s, rpcx.Subscription{Method: "shh_subscribe"})
		synctest.Wait()
		w.heard()
		w.say(ethReply, `{"jsonrpc":"2.0","method":"shh_subscription","params":{"subscription":"0x1","result":1}}`)
		has(t, r.must(t), 1)
		r.must(t).Close()
		w.expect(`{"jsonrpc":"2.0","method":"shh_unsubscribe","id":1,"params":["0x1"]}`)
	})
}

// The last progress of a request that the peer has cancelled.
func TestProgressAfterCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := &rpcx.Options{Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone}, Cancellation: rpcx.LSPCancellation}
		opts.Handler = rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			matches(t, rpcx.Progress(ctx)("lost"), rpcx.ErrPeerCancelled)
			return nil, errors.Join(ctx.Err(), rpcx.Progress(context.WithoutCancel(ctx))("end"))
		})
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"m","params":{"workDoneToken":1},"id":1}`)
		synctest.Wait() // the handler runs: otherwise the request could be cancelled before
		w.say(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)
		w.expect(`{"jsonrpc":"2.0","method":"$/progress","params":{"value":"end","token":1}}`,
			`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}`)
	})
}
