package rpcx_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// What refuses a message has to queue the answer yet when the session begins to end.
func TestRefusalsThatAreUnderWayWhenTheEndBeginsAreSent(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits rpcx.Limits
		say    []string // while a handler runs, the only one that may
		want   string
	}{
		{"invalid", rpcx.Limits{}, []string{`{"jsonrpc":"2.0","id":7}`},
			`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":7}`},
		{"invalid batch", rpcx.Limits{}, []string{`[{"jsonrpc":"2.0","id":7}]`},
			`[{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":7}]`},
		{"beyond the queue", rpcx.Limits{Queue: 1}, []string{ask("reply", 1), ask("reply", 2)},
			`{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - over 1 requests waiting (Limits.Queue)"},"id":2}`},
		{"too late", rpcx.Limits{ProcessingTimeout: time.Second}, []string{ask("reply", 1)},
			`{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out"},"id":1}`},
		{"batch too late", rpcx.Limits{ProcessingTimeout: time.Second}, []string{"[" + ask("reply", 1) + "]"},
			`[{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out"},"id":1}]`},
		{"cancelled", rpcx.Limits{}, []string{ask("reply", 1), `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`},
			`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}`},
		{"batch cancelled", rpcx.Limits{}, []string{"[" + ask("reply", 1) + "]", `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`},
			`[{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}]`},
	} {
		for _, end := range []error{rpcx.ErrExcessiveCost, rpcx.ErrClosed} {
			t.Run(test.name+"/"+end.Error(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := handling(methods{"reply": reply, "end": func(context.Context, *rpcx.Request) (any, error) {
						time.Sleep(1500 * time.Millisecond)
						return nil, end
					}})
					var first atomic.Bool
					opts.Protocol = slowErrors{rpcx.JSONRPCv2, func() {
						if first.CompareAndSwap(false, true) {
							time.Sleep(2 * time.Second)
						}
					}}
					opts.Cancellation = rpcx.LSPCancellation
					opts.Limits = test.limits
					opts.Limits.Concurrency = 1
					s, w := newWire(t, opts)
					w.say(`{"jsonrpc":"2.0","method":"end"}`)
					w.say(test.say...)
					if end == rpcx.ErrClosed {
						time.Sleep(1250 * time.Millisecond)
						if err := s.Shutdown(t.Context()); err != nil {
							t.Error(err)
						}
					}
					<-s.Done()
					if lines := w.heard(); !slices.Contains(lines, test.want) {
						t.Errorf("heard %q, without %s", lines, test.want)
					}
				})
			})
		}
	}
}

// What a shutdown has dropped of a batch is not over once more when the time is.
func TestDroppedMembersOfABatchAreNoErrorsWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits = rpcx.Limits{Concurrency: 1, ProcessingTimeout: time.Second}
		s, w := newWire(t, opts)
		w.say("[" + ask("m", 1) + `,{"jsonrpc":"2.0","method":"m"}]`)
		synctest.Wait()
		go s.Shutdown(t.Context())
		time.Sleep(2 * time.Second)
		w.expect(`[{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out"},"id":1}]`)
		if stats := s.Stats(); stats.NotificationsDropped != 1 || stats.Errors != 1 {
			t.Errorf("stats are %+v", stats)
		}
		close(open)
		ended(t, s)
	})
}
