package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

func TestMembersOfABatchAreHandledAtOnceAndAnsweredInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, handling(methods{"after": func(_ context.Context, req *rpcx.Request) (any, error) {
			var seconds [1]int
			err := req.Bind(&seconds)
			time.Sleep(time.Duration(seconds[0]) * time.Second)
			return seconds[0], err
		}, "reply": reply}))
		takes(t, 5*time.Second, func() {
			w.say(`[{"jsonrpc":"2.0","method":"after","params":[5],"id":"a"},{"jsonrpc":"2.0","method":"after","params":[1],"id":"b"},` +
				`{"jsonrpc":"2.0","method":"after","params":[4]},{"jsonrpc":"2.0","method":"after","params":[3],"id":"c"}]`)
			w.say(`{"jsonrpc":"2.0","method":"reply","id":"meanwhile"}`)
			w.expect(`{"jsonrpc":"2.0","result":null,"id":"meanwhile"}`)
			time.Sleep(5*time.Second - 1)
			w.expectNothing()
			time.Sleep(time.Nanosecond)
			w.expect(`[{"jsonrpc":"2.0","result":5,"id":"a"}, {"jsonrpc":"2.0","result":1,"id":"b"}, {"jsonrpc":"2.0","result":3,"id":"c"}]`)
		})
		time.Sleep(time.Minute) // beyond the time that was allowed for it
		w.expectNothing()
		if stats := s.Stats(); stats.MessagesReceived != 2 || stats.RequestsReceived != 5 || stats.MessagesSent != 2 || stats.Errors != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestBatchIsAnsweredWithoutWaitingForItsNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, handling(methods{"hang": hang, "reply": reply}))
		w.say(`[{"jsonrpc":"2.0","method":"hang"},{"jsonrpc":"2.0","method":"reply","id":1}]`)
		w.expect(`[{"jsonrpc":"2.0","result":null,"id":1}]`)
	})
}

func TestBatchLimit(t *testing.T) {
	member := func(i int) string { return fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d}`, i) }
	batch := func(n int, rest string) string {
		var members []string
		for i := range n {
			members = append(members, member(i))
		}
		return `[` + strings.Join(members, ",") + rest
	}
	for _, c := range []struct {
		name  string
		limit int
		say   string
		want  string // nothing for a batch that is answered
	}{
		{"as many as are allowed", 3, batch(3, "]"), ``},
		{"one more", 3, batch(4, "]"), `batch too long: over 3 members (Limits.Batch)`},
		{"one more, which is not even looked at", 3, batch(3, ",\x00\xff}}}"), `batch too long: over 3 members (Limits.Batch)`},
		{"many more", 3, batch(10000, "]"), `batch too long: over 3 members (Limits.Batch)`},
		{"10,000 by default", 0, batch(10000, "]"), ``},
		{"10,001 by default", 0, batch(10001, "]"), `batch too long: over 10,000 members (Limits.Batch)`},
		{"any number if it is off", -1, batch(12000, "]"), ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handled := make(chan struct{}, 20000)
				opts := handling(methods{"m": func(context.Context, *rpcx.Request) (any, error) { handled <- struct{}{}; return nil, nil }})
				opts.Limits.Batch = c.limit
				s, w := newWire(t, opts)
				w.say(c.say)
				if c.want != "" {
					w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"` + c.want + `"},"id":null}`)
					if len(handled) != 0 || s.Stats().Errors != 1 {
						t.Errorf("%d members were handled, %d errors counted", len(handled), s.Stats().Errors)
					}
					return
				}
				want := strings.Count(c.say, "{")
				lines := w.heard()
				if len(lines) != 1 || strings.Count(lines[0], "result") != want || len(handled) != want {
					t.Errorf("%d of %d members were handled, and %d answers sent", len(handled), want, len(lines))
				}
			})
		})
	}
}

func TestResponseLimit(t *testing.T) {
	size := func(n int) string { // of a reply, with the id 1
		return strings.Repeat("x", n-len(`{"jsonrpc":"2.0","result":"","id":1}`))
	}
	const tooLarge = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 1,000 bytes)"},"id":1}`
	fits := func(n int) string { return `{"jsonrpc":"2.0","result":"` + size(n) + `","id":1}` }
	ask := func(n int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"reply","params":["%s"],"id":1}`, size(n))
	}
	for _, c := range []struct{ name, say, want string }{
		{"just as large as allowed", ask(1000), fits(1000)},
		{"one byte more", ask(1001), tooLarge},
		{"in a batch, with two bytes each", `[` + ask(600) + `,` + ask(396) + `]`, `[` + fits(600) + `, ` + fits(396) + `]`},
		{"in a batch, one byte more", `[` + ask(600) + `,` + ask(397) + `]`, `[` + fits(600) + `, ` + tooLarge + `]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"reply": reply})
				opts.Limits.Response = 1000
				opts.Limits.Concurrency = 1 // so the first comes first
				s, w := newWire(t, opts)
				w.say(c.say)
				w.expect(c.want)
				if want := uint64(strings.Count(c.want, "too large")); s.Stats().Errors != want {
					t.Errorf("%d errors are counted, want %d", s.Stats().Errors, want)
				}
			})
		})
	}
}

func TestBatchOfRequestsAndResponses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, handling(methods{"reply": reply}))
		f := s.Go(t.Context(), "m", nil)
		w.heard()
		w.say(`[{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","method":"reply","id":7}]`)
		lines := w.heard()
		if len(lines) != 1 || !strings.Contains(lines[0], `{"jsonrpc":"2.0","result":null,"id":7}`) || !strings.Contains(lines[0], `"code":-32600`) {
			t.Errorf("a batch that mixes them is one of requests: %q", lines)
		}
		if isDone(f) {
			t.Error("and yet its response was taken")
		}
		live(t, s)
	})
}

// A batch whose replies wait for others is bounded by Limits.Response, as if it
// were alone; all together by that or Limits.Outbox, whichever is more.
func TestRepliesOfUnfinishedBatchesAreBounded(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		refuse string // the text with which the quick member of the third batch is
	}{
		{"each within the limit", rpcx.Limits{Response: 300}, ""},
		{"beyond Response together", rpcx.Limits{Response: 300, Outbox: 200}, "response too large (over 300 bytes)"},
		{"beyond Outbox together", rpcx.Limits{Response: 200, Outbox: 300}, "response too large (over 300 bytes)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				finish := make(chan struct{})
				opts := handling(methods{
					"slow":  func(context.Context, *rpcx.Request) (any, error) { <-finish; return nil, nil },
					"quick": func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", 100), nil },
				})
				opts.Limits = c.limits
				client, server := rpcx.Pipe(nil, opts)
				defer server.Close()
				defer client.Close()
				var futures, wholes []*rpcx.Future
				for range 3 {
					var b rpcx.Batch
					b.Call("slow", nil, nil)
					futures = append(futures, b.Call("quick", nil, nil))
					wholes = append(wholes, client.GoBatch(t.Context(), &b))
					synctest.Wait()
				}
				close(finish)
				for i, f := range futures {
					<-wholes[i].Done()
					var e *rpcx.Error
					if refused := errors.As(f.Err(), &e); refused != (i == 2 && c.refuse != "") || refused && e.Message != c.refuse {
						t.Errorf("the quick member of batch %d: %v", i, f.Err())
					}
				}
				var again rpcx.Batch // there is room again
				again.Call("quick", nil, nil)
				if err := client.SendBatch(t.Context(), &again); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What was too large to be sent does not wait for anything, and leaves other
// batches their room.
func TestReplyThatIsTooLargeIsNotHeldAgainstOtherBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		client, server := rpcx.Pipe(nil, &rpcx.Options{
			Limits: rpcx.Limits{Response: 300, Outbox: 300},
			Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
				switch req.Method {
				case "slow":
					<-open
				case "large":
					return strings.Repeat("x", 1000), nil
				}
				return strings.Repeat("x", 100), nil
			}),
		})
		defer server.Close()
		defer client.Close()
		var first, second rpcx.Batch
		large := first.Call("large", nil, nil)
		first.Call("slow", nil, nil)
		whole := client.GoBatch(t.Context(), &first)
		synctest.Wait()
		second.Call("quick", nil, nil)
		if err := client.SendBatch(t.Context(), &second); err != nil {
			t.Error(err)
		}
		close(open)
		<-whole.Done()
		if !errors.Is(large.Err(), rpcx.ErrInvalidRequest) {
			t.Error(large.Err())
		}
	})
}

// What a member returns after its deadline, when its batch has been sent, is not
// counted among what waits.
func TestLateMembersOfBatchesAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finish := make(chan struct{})
		client, server := rpcx.Pipe(nil, &rpcx.Options{
			Limits: rpcx.Limits{Response: 300, Outbox: 300, ProcessingTimeout: time.Second, CostOff: true},
			Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
				if req.Method == "late" {
					<-finish
				}
				return strings.Repeat("x", 100), nil
			}),
		})
		defer server.Close()
		defer client.Close()
		for range 4 {
			var b rpcx.Batch
			f := b.Call("late", nil, nil)
			_ = client.SendBatch(t.Context(), &b)
			if !errors.Is(f.Err(), rpcx.ErrServerBusy) {
				t.Fatal(f.Err())
			}
		}
		close(finish)
		synctest.Wait()
		if got := server.Stats().LateResults; got != 4 {
			t.Errorf("%d late results", got)
		}
		var b rpcx.Batch
		b.Call("quick", nil, nil)
		if err := client.SendBatch(t.Context(), &b); err != nil {
			t.Error(err)
		}
	})
}
