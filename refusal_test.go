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
		// No handler returns for a quarter of SendTimeout, so reading goes on.
		{"beyond the queue", rpcx.Limits{Queue: 1, SendTimeout: 400 * time.Millisecond}, []string{ask("reply", 1), ask("reply", 2), ask("reply", 3)},
			`{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - over 1 requests waiting (Limits.Queue)","data":{"started":false,"reason":"queue"}},"id":2}`},
		{"too late", rpcx.Limits{ProcessingTimeout: time.Second}, []string{ask("reply", 1)}, timedOutNew + "1}"},
		{"batch too late", rpcx.Limits{ProcessingTimeout: time.Second}, []string{"[" + ask("reply", 1) + "]"}, "[" + timedOutNew + "1}]"},
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

// A batch leaves as a whole: what runs of it is answered with what is refused.
func TestBatchesAreAnsweredWhenASessionIsEndedForItsCost(t *testing.T) {
	for name, c := range map[string]struct {
		limits rpcx.Limits
		say    []string
		want   []string
	}{
		"by one of their members": {
			say:  []string{"[" + ask("hang", 1) + "," + ask("end", 2) + `,{"jsonrpc":"2.0","method":"hang"}]`},
			want: []string{"[" + excessive + "1}, " + excessive + "2}]"},
		},
		"by another request, while some wait": {
			limits: rpcx.Limits{Concurrency: 2},
			say:    []string{"[" + ask("hang", 1) + "," + ask("hang", 2) + "," + ask("hang", 3) + "]", ask("hang", 4)},
			want:   []string{"[" + excessive + "1}, " + excessive + "2}, " + excessive + "3}]", excessive + "4}"},
		},
		"by another request, when some are answered": {
			say:  []string{"[" + ask("hang", 1) + "," + ask("reply", 2) + "]", ask("end", 3)},
			want: []string{excessive + "3}", "[" + excessive + `1}, {"jsonrpc":"2.0","result":null,"id":2}]`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"reply": reply, "hang": hang, "end": func(context.Context, *rpcx.Request) (any, error) {
					time.Sleep(time.Second)
					return nil, rpcx.ErrExcessiveCost
				}})
				opts.Limits = c.limits
				s, w := newServed(t, opts)
				w.say(c.say...)
				time.Sleep(2 * time.Second)
				if c.limits.Concurrency > 0 {
					s.BumpCost(20000)
					w.say(ask("hang", 5))
					c.want = append([]string{excessive + "5}"}, c.want...)
				}
				lines := w.heard()
				slices.Sort(lines)
				slices.Sort(c.want)
				if !slices.Equal(lines, c.want) {
					t.Errorf("heard %q, want %q", lines, c.want)
				}
				matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
			})
		})
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
		w.expect("[" + timedOut + "1}]")
		if stats := s.Stats(); stats.NotificationsDropped != 1 || stats.Errors != 1 {
			t.Errorf("stats are %+v", stats)
		}
		close(open)
		ended(t, s)
	})
}
