package rpcx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
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

// The batch is sent as it was encoded, and the member gets no result.
func TestMemberThatIsCancelledWhileItsBatchWaitsForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(1))
		first := s.Go(t.Context(), "m", nil)
		w.heard()
		var b rpcx.Batch
		dests := make([]int, 2)
		cancelled, f := b.Call("m", nil, &dests[0]), b.Call("m", nil, &dests[1])
		sent := make(chan *rpcx.Future, 1)
		go func() { sent <- s.GoBatch(t.Context(), &b) }()
		synctest.Wait()
		cancelled.Cancel()
		w.expectNothing()
		w.say(result(0, 10))
		own := <-sent
		if lines := w.heard(); len(lines) != 1 || first.Err() != nil {
			t.Fatalf("heard %q; the first call has %v", lines, first.Err())
		}
		if matches(t, cancelled.Err(), rpcx.ErrCancelled); isDone(f) || isDone(own) {
			t.Errorf("done are the other member: %v, the batch: %v", isDone(f), isDone(own))
		}
		w.say(`[` + result(1, 11) + `,` + result(2, 12) + `]`)
		matches(t, own.Wait(t.Context(), nil), rpcx.ErrCancelled)
		if f.Err() != nil || dests[0] != 0 || dests[1] != 12 {
			t.Errorf("the results are %v, the other member has %v", dests, f.Err())
		}
		if stats := s.Stats(); stats.LateReplies != 1 || stats.Pending != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

// The member was given up before the batch failed.
func TestMemberThatIsCancelledBeforeItsBatchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(1))
		s.Go(t.Context(), "m", nil)
		w.heard()
		var b rpcx.Batch
		cancelled, f := b.Call("m", nil, nil), b.Call("m", nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		sent := make(chan *rpcx.Future, 1)
		go func() { sent <- s.GoBatch(ctx, &b) }() // waits for a slot
		synctest.Wait()
		cancelled.Cancel()
		cancel()
		matches(t, (<-sent).Err(), context.Canceled)
		if cancelled.Err() != rpcx.ErrCancelled || f.Err() != context.Canceled {
			t.Errorf("the cancelled member has %v, the other has %v", cancelled.Err(), f.Err())
		}
	})
}

type panicking struct{}

func (panicking) MarshalJSON() ([]byte, error) { panic("not to be encoded") }

// A session recovers the panic of a handler, and others may wait for the batch of the
// handler.
func TestWaitingForABatchThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var b rpcx.Batch
		f := b.Call("m", nil, nil)
		b.Call("m", rpcx.Args{panicking{}}, nil)
		waited := make(chan error, 1)
		go func() { waited <- f.Wait(t.Context(), nil) }()
		func() {
			defer func() {
				if recover() == nil {
					t.Error("SendBatch has not panicked")
				}
			}()
			s.SendBatch(t.Context(), &b)
		}()
		synctest.Wait()
		select {
		case err := <-waited:
			if err == nil {
				t.Error("the call has succeeded")
			}
		default:
			t.Error("the call waits on")
		}
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

func TestCopyOfABatchIsRefused(t *testing.T) {
	for name, use := range map[string]func(s *rpcx.Session, b *rpcx.Batch){
		"by Call":      func(_ *rpcx.Session, b *rpcx.Batch) { b.Call("reply", rpcx.Args{2}, nil) },
		"by Notify":    func(_ *rpcx.Session, b *rpcx.Batch) { b.Notify("reply", nil) },
		"by SendBatch": func(s *rpcx.Session, b *rpcx.Batch) { _ = s.SendBatch(t.Context(), b) },
		"by GoBatch":   func(s *rpcx.Session, b *rpcx.Batch) { s.GoBatch(t.Context(), b) },
		"by Append": func(_ *rpcx.Session, b *rpcx.Batch) {
			_, _ = b.Append(nil, rpcx.JSONRPCv2, nil, func() rpcx.ID { return rpcx.ID("1") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newPipe(t, nil, handling(methods{"reply": reply}))
				var n int
				var b rpcx.Batch
				b.Call("reply", rpcx.Args{1}, &n)
				copied := copyOf(&b)
				func() {
					defer func() {
						if text := fmt.Sprint(recover()); !strings.Contains(text, "a Batch was copied after its first use") {
							t.Errorf("the panic is %q", text)
						}
					}()
					use(s, copied)
				}()
				if err := s.SendBatch(t.Context(), &b); err != nil || n != 1 {
					t.Errorf("the original returns %v, result %d", err, n)
				}
			})
		})
	}
}

// copyOf copies a batch where go vet does not see it.
func copyOf[T any](v *T) *T {
	w := *v
	return &w
}

func TestCopyOfABatchThatWasNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newPipe(t, nil, handling(methods{"reply": reply}))
		b := copyOf(new(rpcx.Batch))
		f := b.Call("reply", rpcx.Args{1}, nil)
		if err := s.SendBatch(t.Context(), b); err != nil || f.Err() != nil {
			t.Error(err, f.Err())
		}
	})
}

func TestVetFindsCopiesOfBatches(t *testing.T) {
	out, err := exec.Command("go", "vet", "./testdata/vet").CombinedOutput()
	if err == nil {
		t.Fatal("go vet finds nothing")
	}
	for _, want := range []string{
		"byParameter passes lock by value",
		"assignment copies lock value to again",
		"return copies lock value",
		"range var b copies lock",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("go vet does not say %q:\n%s", want, out)
		}
	}
}

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

// refusedBatch is the answer to a batch with more than 16 invalid members.
const refusedBatch = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"batch has over 16 invalid members"},"id":null}`

// membersOf returns a batch of n members that are alike, and of others behind them.
func membersOf(n int, member string, others ...string) string {
	members := append(strings.Split(strings.Repeat(member+"\n", n), "\n")[:n], others...)
	return "[" + strings.Join(members, ",") + "]"
}

// A batch of invalid members is one error and gets one answer.
func TestBatchOfInvalidMembersIsRefusedAsAWhole(t *testing.T) {
	const (
		good = `{"jsonrpc":"2.0","method":"count","id":1}`
		note = `{"jsonrpc":"2.0","method":"count"}`
	)
	for name, c := range map[string]struct {
		protocol rpcx.Protocol
		say      string
	}{
		"zeros":                              {rpcx.JSONRPCv2, membersOf(10_000, "0")},
		"one too many":                       {rpcx.JSONRPCv2, membersOf(17, "0")},
		"null":                               {rpcx.JSONRPCv2, membersOf(17, "null")},
		"strings":                            {rpcx.JSONRPCv2, membersOf(17, `""`)},
		"empty batches":                      {rpcx.JSONRPCv2, membersOf(100, "[]")},
		"objects":                            {rpcx.JSONRPCv2, membersOf(3_000, "{}")},
		"requests of no version":             {rpcx.JSONRPCv2, membersOf(17, `{"method":"count","id":1}`)},
		"requests without a method":          {rpcx.JSONRPCv2, membersOf(17, `{"jsonrpc":"2.0","id":"x"}`)},
		"requests with an id that is none":   {rpcx.JSONRPCv2, membersOf(17, `{"jsonrpc":"2.0","method":"count","id":{}}`)},
		"requests with params that are none": {rpcx.JSONRPCLoose, membersOf(17, `{"method":"count","params":1,"id":1}`)},
		"responses beside a request":         {rpcx.JSONRPCv2, membersOf(17, `{"jsonrpc":"2.0","result":1,"id":1}`, good)},
		"behind requests":                    {rpcx.JSONRPCv2, "[" + strings.Repeat(good+","+note+",", 100) + membersOf(17, "0")[1:]},
		"before requests":                    {rpcx.JSONRPCv2, membersOf(17, "0", good, note)},
		"between requests":                   {rpcx.JSONRPCv2, membersOf(17, "0,"+good)},
		"loose":                              {rpcx.JSONRPCLoose, membersOf(17, "0", good)},
		"the first message of any version":   {rpcx.JSONRPCAutoDetect, membersOf(17, "0", good)},
		"before what is not even looked at":  {rpcx.JSONRPCv2, "[" + strings.Repeat("0,", 17) + "\xff\x00}}]" + good},
		"before a member that never ends":    {rpcx.JSONRPCv2, "[" + strings.Repeat("0,", 17) + `{"a`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handled := 0
				opts := handling(methods{"count": func(context.Context, *rpcx.Request) (any, error) { handled++; return nil, nil }})
				opts.Protocol = c.protocol
				opts.Role = rpcx.RoleServer
				s, w := newWire(t, opts)
				w.say(c.say)
				w.expect(refusedBatch)
				if handled > 0 {
					t.Errorf("%d members were handled", handled)
				}
				stats := s.Stats()
				if stats.Errors != 1 || stats.MessagesReceived != 1 || stats.RequestsReceived != 0 || stats.MessagesSent != 1 {
					t.Errorf("stats are %+v", stats)
				}
				// One error, and at most a hundredth for the bytes.
				if stats.Cost < 100 || stats.Cost > 101 {
					t.Errorf("the cost is %v", stats.Cost)
				}
				live(t, s)
			})
		})
	}
}

// Up to 16 invalid members are answered each for itself, and the others are handled.
func TestFewInvalidMembersOfABatchAreAnsweredEach(t *testing.T) {
	const bad = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}`
	const good = `{"jsonrpc":"2.0","result":null,"id":7}`
	for name, c := range map[string]struct {
		say  string
		want string
	}{
		"alone":              {membersOf(16, "0"), strings.Repeat(bad+", ", 15) + bad},
		"before a request":   {membersOf(16, "0", ask("reply", 7)), strings.Repeat(bad+", ", 16) + good},
		"among many of them": {membersOf(16, "0,"+ask("reply", 7)), strings.Repeat(bad+", "+good+", ", 15) + bad + ", " + good},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, handling(methods{"reply": reply}))
				w.say(c.say)
				w.expect("[" + c.want + "]")
				if stats := s.Stats(); stats.Errors != 1 {
					t.Errorf("stats are %+v", stats)
				}
			})
		})
	}
}

// What an answer to 20 kB of zeros takes up does not depend on how many they are.
func TestAnswerToABatchOfZerosIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, nil)
		batch := membersOf(10_000, "0")
		for range 10 {
			w.say(batch)
		}
		sent := 0
		for _, line := range w.heard() {
			sent += len(line) + 1
		}
		if sent*100 > 10*len(batch) {
			t.Errorf("%d bytes were sent for %d", sent, 10*len(batch))
		}
	})
}

// Members without a method that have the ids of our calls are their replies, however
// ill-formed, and however many.
func TestManyIllFormedRepliesEndTheirCalls(t *testing.T) {
	for name, member := range map[string]string{
		"without a result": `{"jsonrpc":"2.0","id":%d}`,
		"of no version":    `{"id":%d,"value":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				var b rpcx.Batch
				var calls []*rpcx.Future
				var replies []string
				for i := range 40 {
					calls = append(calls, b.Call("m", nil, nil))
					replies = append(replies, fmt.Sprintf(member, i))
				}
				whole := s.GoBatch(t.Context(), &b)
				w.heard()
				w.say("[" + strings.Join(replies, ",") + "]")
				if !isDone(whole) {
					t.Fatal("the batch waits on")
				}
				for i, f := range calls {
					if err := f.Err(); err == nil {
						t.Errorf("call %d has no error", i)
					} else {
						matches(t, err, rpcx.ErrInvalidRequest)
					}
				}
				w.expectNothing()
			})
		})
	}
}

// BenchmarkBatchOfZeros answers 20 kB of zeros, and echoes as many bytes for comparison.
// On an AMD EPYC the zeros take half as long as the echo. When each of them was answered
// they took 92 times as long.
func BenchmarkBatchOfZeros(b *testing.B) {
	zeros := membersOf(10_000, "0") + "\n"
	echo := `{"jsonrpc":"2.0","method":"reply","params":["` + strings.Repeat("x", len(zeros)-60) + `"],"id":1}` + "\n"
	for name, message := range map[string]string{"zeros": zeros, "echo": echo} {
		b.Run(name, func(b *testing.B) {
			opts := handling(methods{"reply": reply})
			opts.Limits.CostOff = true
			near, far := net.Pipe()
			s := rpcx.NewSession(near, opts)
			defer func() { s.Close(); <-s.Done() }()
			answers := bufio.NewReaderSize(far, 2<<20)
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				go io.WriteString(far, message)
				if _, err := answers.ReadSlice('\n'); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
