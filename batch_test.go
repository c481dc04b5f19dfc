package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// sentBatch is a batch of calls that was sent by GoBatch, with ids from 0.
type sentBatch struct {
	own     *rpcx.Future
	members []*rpcx.Future
	dests   []int
}

// newBatch sends a batch of n calls.
func newBatch(t *testing.T, s *rpcx.Session, n int) *sentBatch {
	t.Helper()
	var b rpcx.Batch
	sent := &sentBatch{dests: make([]int, n)}
	for i := range n {
		sent.members = append(sent.members, b.Call("m", nil, &sent.dests[i]))
	}
	sent.own = s.GoBatch(t.Context(), &b)
	return sent
}

// open says which members are not done.
func (b *sentBatch) open() string {
	var open []string
	for i, f := range b.members {
		if !isDone(f) {
			open = append(open, fmt.Sprint(i))
		}
	}
	return strings.Join(open, " ")
}

// outcome waits for the batch, and says what became of its calls: the numbers
// that are in their destinations, or their errors.
func (b *sentBatch) outcome(t *testing.T) string {
	t.Helper()
	if !isDone(b.own) || b.open() != "" {
		t.Fatalf("the batch is done: %v, but not its members %s", isDone(b.own), b.open())
	}
	err := b.own.Wait(t.Context(), nil)
	var batch *rpcx.BatchError
	if err != nil && (!errors.As(err, &batch) || len(batch.Errs) != len(b.members)) {
		t.Fatalf("the batch's error is %#v", err)
	}
	var outcome []string
	for i, f := range b.members {
		if err := f.Wait(t.Context(), nil); err == nil {
			outcome = append(outcome, fmt.Sprint(b.dests[i]))
		} else {
			outcome = append(outcome, err.Error())
		}
		if batch != nil && !errors.Is(batch.Errs[i], f.Err()) {
			t.Errorf("member %d has the error %v, and the batch says %v", i, f.Err(), batch.Errs[i])
		}
	}
	return strings.Join(outcome, ", ")
}

func result(id, value int) string {
	return answered(fmt.Sprint(value), id)
}

func TestBatchIsAnswered(t *testing.T) {
	const unanswered = "rpcx: no response to this member of the batch"
	for _, c := range []struct {
		name string
		say  []string
		want string
	}{
		{"in order", []string{`[` + result(0, 10) + `,` + result(1, 11) + `,` + result(2, 12) + `]`}, "10, 11, 12"},
		{"in another order", []string{`[` + result(2, 12) + `,` + result(0, 10) + `,` + result(1, 11) + `]`}, "10, 11, 12"},
		{"one by one", []string{result(1, 11), result(0, 10), result(2, 12)}, "10, 11, 12"},
		{"partly one by one, and the rest together", []string{result(1, 11), `[` + result(2, 12) + `,` + result(0, 10) + `]`}, "10, 11, 12"},
		{"in part: what is left out of an array is not waited for", []string{`[` + result(1, 11) + `]`}, unanswered + ", 11, " + unanswered},
		{"in part, after one alone", []string{result(0, 10), `[` + result(1, 11) + `]`}, "10, 11, " + unanswered},
		{"with an error", []string{`[` + result(0, 10) + `,{"jsonrpc":"2.0","error":{"code":5,"message":"no"},"id":1},` + result(2, 12) + `]`},
			"10, no (code 5), 12"},
		{"with what is ill-formed, which is that call's own matter",
			[]string{`[` + result(0, 10) + `,{"jsonrpc":"2.0","result":1,"error":null,"id":1},` + result(2, 12) + `]`},
			`10, protocol error: response contains both "result" and "error" (code -32600), 12`},
		{"with ids that are the same numbers otherwise", []string{`[{"jsonrpc":"2.0","result":10,"id":-0.0},{"jsonrpc":"2.0","result":11,"id":10e-1},` + result(2, 12) + `]`},
			"10, 11, 12"},
		{"twice: the first counts", []string{`[` + result(0, 10) + `,` + result(0, 99) + `,` + result(1, 11) + `,` + result(2, 12) + `]`}, "10, 11, 12"},
		{"with what nobody asked for", []string{`[` + result(77, 99) + `,` + result(0, 10) + `,` + result(1, 11) + `,` + result(2, 12) + `]`}, "10, 11, 12"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				b := newBatch(t, s, 3)
				w.expect(`[{"jsonrpc":"2.0","method":"m","id":0}, {"jsonrpc":"2.0","method":"m","id":1}, {"jsonrpc":"2.0","method":"m","id":2}]`)
				for i, line := range c.say {
					if b.open() != "0 1 2" { // they end together
						t.Errorf("before line %d, only members %q are open", i, b.open())
					}
					w.say(line)
				}
				if got := b.outcome(t); got != c.want {
					t.Errorf("the outcome is %s, want %s", got, c.want)
				}
				w.expectNothing()
				live(t, s)
			})
		})
	}
}

func TestWhatABatchLeavesUnansweredIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		b := newBatch(t, s, 2)
		w.heard()
		w.say(`[` + result(1, 11) + `]`)
		b.outcome(t)
		matches(t, b.members[0].Err(), rpcx.ErrNoResponse)
		matches(t, b.own.Err(), rpcx.ErrNoResponse)
		lateIsFree(t, s, w, 0)
	})
}

func TestRepliesOfSeveralBatchesInOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		first, second := newBatch(t, s, 2), newBatch(t, s, 2)
		lone := s.Go(t.Context(), "m", nil)
		w.heard()
		w.say(`[` + result(3, 13) + `,` + result(4, 14) + `,` + result(0, 10) + `]`)
		if got := first.outcome(t); !strings.HasPrefix(got, "10, rpcx: no response") {
			t.Errorf("the first batch: %s", got)
		}
		if got := second.outcome(t); !strings.HasPrefix(got, "rpcx: no response") || !strings.HasSuffix(got, ", 13") {
			t.Errorf("the second batch: %s", got)
		}
		var n int
		if err := lone.Wait(t.Context(), &n); err != nil || n != 14 {
			t.Errorf("the call beside them: %d, %v", n, err)
		}
	})
}

func TestOneMemberOfABatchIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		b := newBatch(t, s, 3)
		b.members[1].Cancel()
		if b.open() != "0 2" || isDone(b.own) {
			t.Errorf("members %q are open, the batch is done: %v", b.open(), isDone(b.own))
		}
		w.heard()
		w.say(`[` + result(0, 10) + `,` + result(1, 11) + `,` + result(2, 12) + `]`)
		if got := b.outcome(t); got != "10, rpcx: call cancelled, 12" {
			t.Errorf("the outcome is %s", got)
		}
		if stats := s.Stats(); stats.LateReplies != 1 || stats.UnexpectedReplies != 0 || stats.Errors != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the last one that is open
		s, w := newWire(t, nil)
		b := newBatch(t, s, 2)
		w.heard()
		w.say(result(0, 10))
		b.members[1].Cancel()
		if got := b.outcome(t); got != "10, rpcx: call cancelled" {
			t.Errorf("the outcome is %s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) { // one by one, all of them
		s, _ := newWire(t, nil)
		b := newBatch(t, s, 2)
		b.members[0].Cancel()
		b.members[1].Cancel()
		if got := b.outcome(t); got != "rpcx: call cancelled, rpcx: call cancelled" {
			t.Errorf("the outcome is %s", got)
		}
	})
}

func TestBatchIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		b := newBatch(t, s, 2)
		w.heard()
		w.say(result(0, 10))
		synctest.Wait()
		b.own.Cancel()
		b.own.Cancel()
		if got := b.outcome(t); got != "10, rpcx: call cancelled" {
			t.Errorf("the outcome is %s", got)
		}
		matches(t, b.own.Err(), rpcx.ErrCancelled, context.Canceled)
		lateIsFree(t, s, w, 1)
	})
}

func TestBatchOnALostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		b := newBatch(t, s, 2)
		w.heard()
		w.say(result(0, 10))
		synctest.Wait()
		w.Close()
		synctest.Wait()
		if err := b.members[0].Wait(t.Context(), nil); err != nil || b.dests[0] != 10 {
			t.Errorf("the member that was answered has %d, %v", b.dests[0], err)
		}
		lost(t, b.members[1].Err(), true, io.EOF)
		lost(t, b.own.Err(), true, io.EOF)
	})
}

func TestDestinationsAreFilledByWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		answer := func(b *sentBatch, first int) {
			w.heard()
			w.say(`[` + result(first, 10) + `,` + result(first+1, 11) + `]`)
			if !isDone(b.own) || b.dests[0] != 0 || b.dests[1] != 0 {
				t.Errorf("before anybody has waited the destinations hold %v", b.dests)
			}
		}
		b := newBatch(t, s, 2)
		answer(b, 0)
		if err := b.own.Wait(t.Context(), nil); err != nil || b.dests[0] != 10 || b.dests[1] != 11 {
			t.Errorf("after waiting for the batch: %v, %v", b.dests, err)
		}

		b = newBatch(t, s, 2)
		answer(b, 2)
		if err := b.members[1].Wait(t.Context(), nil); err != nil || b.dests[0] != 0 || b.dests[1] != 11 {
			t.Errorf("after waiting for one: %v, %v", b.dests, err)
		}
		var again int
		if err := b.members[0].Wait(t.Context(), &again); err != nil || again != 10 || b.dests[0] != 10 {
			t.Errorf("waiting with a destination beside the one that was given: %d, %v, %v", again, b.dests, err)
		}
		b.dests[0] = 5
		if err := b.own.Wait(t.Context(), nil); err != nil || b.dests[0] != 5 {
			t.Errorf("they are filled once, not again: %v, %v", b.dests, err)
		}
		if err := b.own.Decode(&again); err == nil {
			t.Error("a batch has a result of its own")
		}
	})
}

func TestSendBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		noted := 0
		a, _ := newPipe(t, nil, handling(methods{
			"reply": reply,
			"note":  func(context.Context, *rpcx.Request) (any, error) { noted++; return nil, nil },
		}))
		var text string
		var number, wrong int
		var b rpcx.Batch
		b.Call("reply", rpcx.Args{"text"}, &text)
		b.Notify("note", nil)
		b.Call("nope", nil, nil)
		b.Call("reply", rpcx.Args{"text"}, &wrong)
		b.Call("reply", rpcx.Args{7}, &number)
		unwanted := b.Call("reply", rpcx.Args{8}, nil)
		if b.Len() != 6 {
			t.Errorf("its length is %d", b.Len())
		}
		err := a.SendBatch(t.Context(), &b)
		var batch *rpcx.BatchError
		if !errors.As(err, &batch) {
			t.Fatalf("SendBatch returns %v", err)
		}
		for i, failed := range []bool{false, true, true, false, false} { // the calls, in order
			if (batch.Errs[i] != nil) != failed {
				t.Errorf("call %d has the error %v", i, batch.Errs[i])
			}
		}
		matches(t, err, rpcx.ErrMethodNotFound)
		if !strings.Contains(err.Error(), "2 of 5") || !strings.Contains(err.Error(), `unknown method "nope"`) {
			t.Errorf("the error reads %q", err)
		}
		if text != "text" || number != 7 || wrong != 0 {
			t.Errorf("the results are %q, %d and %d", text, number, wrong)
		}
		var late int
		if err := unwanted.Decode(&late); err != nil || late != 8 {
			t.Errorf("a result without a destination can be had later: %d, %v", late, err)
		}
		synctest.Wait()
		if noted != 1 {
			t.Errorf("%d notifications were handled", noted)
		}
		if err := a.SendBatch(t.Context(), &b); err != rpcx.ErrBatchSent {
			t.Errorf("sent again, it returns %v", err)
		}
		if err := a.GoBatch(t.Context(), &b).Err(); err != rpcx.ErrBatchSent {
			t.Errorf("sent again, its future has %v", err)
		}
		if text != "text" || unwanted.Err() != nil {
			t.Error("and that has changed what it had")
		}
	})
}

func TestBatchesWithoutCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var empty, notes, more rpcx.Batch
		takes(t, 0, func() {
			if err := s.SendBatch(t.Context(), &empty); err != nil {
				t.Errorf("an empty batch has the error %v", err)
			}
			if err := s.GoBatch(t.Context(), &empty).Wait(t.Context(), nil); err != nil {
				t.Errorf("the future of an empty batch has %v", err)
			}
		})
		w.expectNothing()
		empty.Notify("m", rpcx.Args{"later"})
		if err := s.SendBatch(t.Context(), &empty); err != nil {
			t.Errorf("filled, it has the error %v", err)
		}
		w.expect(`[{"jsonrpc":"2.0","method":"m","params":["later"]}]`)
		notes.Notify("m", nil)
		more.Notify("m", nil)
		more.Notify("m", rpcx.Args{1})
		takes(t, 0, func() {
			if err := s.SendBatch(t.Context(), &notes); err != nil {
				t.Errorf("SendBatch returns %v", err)
			}
			f := s.GoBatch(t.Context(), &more)
			if err := f.Wait(t.Context(), nil); err != nil {
				t.Errorf("the future has %v", err)
			}
		})
		w.expect(`[{"jsonrpc":"2.0","method":"m"}]`, `[{"jsonrpc":"2.0","method":"m"}, {"jsonrpc":"2.0","method":"m","params":[1]}]`)
	})
}

func TestBatchThatCannotBeSent(t *testing.T) {
	for name, c := range map[string]struct {
		opts *rpcx.Options
		fill func(b *rpcx.Batch)
	}{
		"JSON-RPC 1.0 has none":       {&rpcx.Options{Protocol: rpcx.JSONRPCv1}, func(b *rpcx.Batch) {}},
		"one of its calls is no good": {nil, func(b *rpcx.Batch) { b.Call("m", 1, nil) }},
		"one of its notifications":    {nil, func(b *rpcx.Batch) { b.Notify("m", make(chan int)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, c.opts)
				var b rpcx.Batch
				f := b.Call("m", nil, nil)
				if err := f.Decode(nil); err != rpcx.ErrNotDone || f.Err() != nil {
					t.Errorf("before it is sent its call has %v and %v", err, f.Err())
				}
				told := make(chan error, 1)
				f.OnDone(func(f *rpcx.Future) { told <- f.Err() })
				c.fill(&b)
				err := s.SendBatch(t.Context(), &b)
				var perr *rpcx.ProtocolError
				if !errors.As(err, &perr) {
					t.Errorf("SendBatch returns %v", err)
				}
				takes(t, 0, func() { matches(t, f.Wait(t.Context(), nil), err) })
				matches(t, <-told, err)
				w.expectNothing()
				if n := s.Stats().Pending; n != 0 {
					t.Errorf("%d calls are pending", n)
				}
			})
		})
	}
}

func TestBatchBeyondTheReceiversLimitIsNotSent(t *testing.T) {
	for name, test := range map[string]struct {
		limit        int
		calls, notes int
		sent         bool
	}{
		"10,000 by default":               {0, 9000, 1000, true},
		"10,001 by default":               {0, 10001, 0, false},
		"10,001, most are notifications":  {0, 1, 10000, false},
		"10,001, all are notifications":   {0, 0, 10001, false},
		"one more than was set":           {3, 2, 2, false},
		"as many as were set":             {3, 2, 1, true},
		"any number if the limit is off":  {-1, 1, 10000, true},
		"more if the limit was set so":    {20000, 10000, 10000, true},
		"one more than that limit":        {20000, 10000, 10001, false},
		"notifications, and a limit of 1": {1, 0, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := &rpcx.Options{}
				opts.Limits.Batch = test.limit
				s, w := newWire(t, opts)
				var b rpcx.Batch
				var last *rpcx.Future
				for range test.calls {
					last = b.Call("m", nil, nil)
				}
				for range test.notes {
					b.Notify("m", nil)
				}
				own := s.GoBatch(t.Context(), &b)
				if sent := len(w.heard()) == 1; sent != test.sent {
					t.Fatalf("it was sent: %v, with %v", sent, own.Err())
				}
				if test.sent {
					return
				}
				err := own.Err()
				var perr *rpcx.ProtocolError
				if !errors.As(err, &perr) || !strings.Contains(perr.Message, "Limits.Batch") {
					t.Errorf("the error is %v", err)
				}
				if last != nil {
					matches(t, last.Err(), err)
				}
				if stats := s.Stats(); stats.Pending != 0 || stats.MessagesSent != 0 {
					t.Errorf("stats are %+v", stats)
				}
			})
		})
	}
}

func TestCallThatIsCancelledBeforeItsBatchIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var b rpcx.Batch
		var got int
		cancelled := b.Call("never", nil, nil)
		told := make(chan error, 1)
		cancelled.OnDone(func(f *rpcx.Future) { told <- f.Err() })
		f := b.Call("m", nil, &got)
		cancelled.Cancel()
		matches(t, <-told, rpcx.ErrCancelled)
		own := s.GoBatch(t.Context(), &b)
		lines := w.heard()
		if len(lines) != 1 || strings.Contains(lines[0], "never") {
			t.Fatalf("heard %q", lines)
		}
		w.say(`[{"jsonrpc":"2.0","result":10,"id":` + idOf(t, strings.Trim(lines[0], "[]")) + `}]`)
		matches(t, own.Wait(t.Context(), nil), rpcx.ErrCancelled)
		if f.Err() != nil || got != 10 || !errors.Is(cancelled.Err(), rpcx.ErrCancelled) {
			t.Errorf("the other got %d, %v, the first has %v", got, f.Err(), cancelled.Err())
		}
		if n := s.Stats().Pending; n != 0 {
			t.Errorf("%d calls are pending", n)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the only one
		s, w := newWire(t, nil)
		var b rpcx.Batch
		b.Call("never", nil, nil).Cancel()
		takes(t, 0, func() { matches(t, s.SendBatch(t.Context(), &b), rpcx.ErrCancelled) })
		w.expectNothing()
	})
}

func TestWaitingForABatchThatIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var b rpcx.Batch
		var got int
		f := b.Call("m", nil, &got)
		waited := make(chan error)
		go func() { waited <- f.Wait(t.Context(), nil) }()
		time.Sleep(time.Hour) // which is not counted as the call's time
		s.GoBatch(t.Context(), &b)
		w.heard()
		time.Sleep(29 * time.Second)
		w.say(`[` + result(0, 10) + `]`)
		if err := <-waited; err != nil || got != 10 {
			t.Errorf("got %d, %v", got, err)
		}
	})
}
