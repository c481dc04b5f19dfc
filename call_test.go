package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// callers start n calls, one after the other, which note how they end.
func callers(ctx context.Context, s *rpcx.Session, n int, ended *events) {
	for i := range n {
		go func() { ended.add("%d %v", i, s.Call(ctx, "m", rpcx.Args{i}, nil)) }()
		synctest.Wait()
	}
}

// waitingCalls returns options that let so many calls out at once.
func waitingCalls(n int) *rpcx.Options {
	return &rpcx.Options{Limits: rpcx.Limits{Outgoing: n}}
}

func TestFiftyCallsAreOutAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var ended events
		callers(context.Background(), s, 60, &ended)
		if n := len(w.heard()); n != 50 || s.Stats().Outgoing != 50 || s.Stats().Pending != 50 {
			t.Errorf("%d calls are out, the stats are %+v", n, s.Stats())
		}
		for i := range 10 {
			w.say(answered("null", i))
			w.expect(fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","id":%d,"params":[%d]}`, 50+i, 50+i)) // first come, first served
		}
	})
}

func TestOutgoingCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(-1))
		for range 1000 {
			s.Go(t.Context(), "m", nil)
		}
		if n := len(w.heard()); n != 1000 {
			t.Errorf("%d calls are out", n)
		}
	})
}

func TestCallsThatWaitForASlot(t *testing.T) {
	for name, send := range map[string]func(ctx context.Context, s *rpcx.Session) error{
		"Call": func(ctx context.Context, s *rpcx.Session) error { return s.Call(ctx, "m", nil, nil) },
		"Go":   func(ctx context.Context, s *rpcx.Session) error { return s.Go(ctx, "m", nil).Wait(ctx, nil) },
		"SendBatch": func(ctx context.Context, s *rpcx.Session) error {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			return s.SendBatch(ctx, &b)
		},
	} {
		impatient := errors.New("impatient")
		for _, c := range []struct {
			name string
			end  func(s *rpcx.Session, w *wire, cancel context.CancelCauseFunc)
			want error
		}{
			{"their context ends", func(_ *rpcx.Session, _ *wire, cancel context.CancelCauseFunc) { cancel(impatient) }, impatient},
			{"Close", func(s *rpcx.Session, _ *wire, _ context.CancelCauseFunc) { s.Close() }, rpcx.ErrClosed},
			{"Shutdown", func(s *rpcx.Session, _ *wire, _ context.CancelCauseFunc) {
				go s.Shutdown(context.Background())
			}, rpcx.ErrClosed},
			{"the peer hangs up", func(_ *rpcx.Session, w *wire, _ context.CancelCauseFunc) { w.Close() }, rpcx.ErrConnectionLost},
		} {
			t.Run(name+", "+c.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, w := newWire(t, waitingCalls(1))
					s.Go(context.Background(), "first", nil)
					ctx, cancel := context.WithCancelCause(context.Background())
					defer cancel(nil)
					errs := make(chan error, 3)
					for range cap(errs) {
						go func() { errs <- send(ctx, s) }()
					}
					synctest.Wait()
					w.expect(ask("first", 0))
					takes(t, 0, func() {
						c.end(s, w, cancel)
						for range cap(errs) {
							matches(t, <-errs, c.want)
						}
					})
					synctest.Wait()
					w.expectNothing()
				})
			})
		}
	}
}

func TestSlotOfOneWhoGaveUpIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(1))
		var ended events
		first := s.Go(t.Context(), "m", rpcx.Args{"first"})
		ctx, cancel := context.WithCancel(context.Background())
		callers(ctx, s, 1, &ended)
		callers(context.Background(), s, 1, &ended)
		cancel()
		synctest.Wait()
		if got := ended.take(); len(got) != 1 || len(w.heard()) != 1 {
			t.Fatalf("ended: %q", got)
		}
		first.Cancel() // gives its slot back too
		if lines := w.heard(); len(lines) != 1 {
			t.Errorf("heard %q", lines)
		}
	})
}

func TestBatchTakesOneSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(2))
		var b, notes rpcx.Batch
		for range 10 {
			b.Call("m", nil, nil)
			notes.Notify("n", nil)
		}
		s.GoBatch(t.Context(), &b)
		s.Go(t.Context(), "m", nil)
		if n := len(w.heard()); n != 2 {
			t.Errorf("%d messages are out", n)
		}
		takes(t, 0, func() { // what is not answered takes none
			if err := s.SendBatch(t.Context(), &notes); err != nil || s.Notify(t.Context(), "n", nil) != nil {
				t.Error("notifications are not sent")
			}
		})
		w.heard()
		go s.Call(context.Background(), "late", nil, nil)
		w.expectNothing()
		for id := range 9 {
			w.say(answered("null", id))
		}
		w.expectNothing() // it is over when all of it is
		w.say(answered("null", 9))
		if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], "late") {
			t.Errorf("heard %q", lines)
		}
	})
}

// No reply comes that would give the slot back.
func TestBatchWhoseCallsWereCancelledTakesNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(1))
		var b rpcx.Batch
		b.Call("m", nil, nil).Cancel()
		b.Notify("n", nil)
		if err := s.SendBatch(t.Context(), &b); !errors.Is(err, rpcx.ErrCancelled) {
			t.Errorf("the batch: %v", err)
		}
		w.expect(`[{"jsonrpc":"2.0","method":"n"}]`)
		go s.Call(context.Background(), "m", nil, nil)
		w.expect(`{"jsonrpc":"2.0","method":"m","id":0}`)
	})
}

// All slots may be taken by calls that the peer answers only after its own were.
func TestHandlersCallBackThoughAllSlotsAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := methods{"back": func(ctx context.Context, req *rpcx.Request) (any, error) {
			return rpcx.Call[int](ctx, req.Session(), "reply", req.Params)
		}, "reply": reply}
		opts := func() *rpcx.Options {
			return &rpcx.Options{Handler: back, Limits: rpcx.Limits{Outgoing: 2}}
		}
		a, b := newPipe(t, opts(), opts())
		takes(t, 0, func() {
			var futures []*rpcx.Future
			for i := range 10 {
				for _, s := range []*rpcx.Session{a, b} {
					go s.Call(context.Background(), "back", rpcx.Args{i}, nil)
				}
			}
			for i := range 10 {
				futures = append(futures, a.Go(t.Context(), "back", rpcx.Args{i}))
			}
			for i, f := range futures {
				got := 0
				if err := f.Wait(t.Context(), &got); err != nil || got != i {
					t.Errorf("call %d: %d, %v", i, got, err)
				}
			}
		})
	})
}

func TestOutgoingFollowsTheResponseTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, waitingCalls(10))
		ctx, cancel := context.WithTimeout(t.Context(), 1000*time.Hour) // instead of Limits.RequestTimeout
		defer cancel()
		// round makes calls, so many at once as there are slots, at most.
		round := func(calls, atOnce int, took time.Duration) int {
			turns := make(chan struct{}, atOnce)
			var wg sync.WaitGroup
			for range calls {
				wg.Go(func() {
					turns <- struct{}{}
					defer func() { <-turns }()
					if err := s.Call(ctx, "m", nil, nil); err != nil {
						t.Error(err)
					}
				})
			}
			for answers := 0; answers < calls; {
				lines := w.heard()
				time.Sleep(took)
				for _, line := range lines {
					w.say(answered("null", int(idNumber(t, line))))
				}
				answers += len(lines)
			}
			wg.Wait()
			return s.Stats().Outgoing
		}
		for _, c := range []struct {
			calls, atOnce int
			took          time.Duration
			want          int
		}{
			{29, 1, time.Millisecond, 10}, {1, 1, time.Millisecond, 13}, // up, by 3 or a tenth
			{30, 1, time.Millisecond, 16},
			{30, 1, 6 * time.Second, 16},  // slow, but not because of the number of calls
			{30, 30, 6 * time.Second, 16}, // no slower when all slots are taken
			{30, 1, time.Millisecond, 19},
			{30, 30, 6 * time.Second, 15}, // down, by a fifth
			{30, 30, 3 * time.Second, 15}, // as it should be
			{300, 30, 9 * time.Second, 2}, // down to a fifth of Limits.Outgoing
			{30, 1, time.Millisecond, 5},  // and up again
		} {
			if got := round(c.calls, c.atOnce, c.took); got != c.want {
				t.Errorf("after %d calls of %v, %d at once, there are %d slots, want %d", c.calls, c.took, c.atOnce, got, c.want)
			}
		}

		// A batch of 30 that took 60 s counts as 30 calls of 2 s.
		var b rpcx.Batch
		for range 30 {
			b.Call("m", nil, nil)
		}
		f := s.GoBatch(ctx, &b)
		time.Sleep(60 * time.Second)
		first := 0
		if _, err := fmt.Sscanf(w.heard()[0], `[{"jsonrpc":"2.0","method":"m","id":%d`, &first); err != nil {
			t.Fatal(err)
		}
		var replies []string
		for i := range 30 {
			replies = append(replies, answered("null", first+i))
		}
		w.say("[" + strings.Join(replies, ",") + "]")
		if err := f.Wait(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if got := s.Stats().Outgoing; got != 8 {
			t.Errorf("after a batch there are %d slots", got)
		}

		// Calls that time out took as long.
		for range 4 {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { matches(t, s.Call(context.Background(), "m", nil, nil), rpcx.ErrTimeout) })
			}
			wg.Wait()
		}
		if got := s.Stats().Outgoing; got != 6 {
			t.Errorf("after timeouts there are %d slots", got)
		}
	})
}

// idNumber returns the id of the request in line, as a number.
func idNumber(t *testing.T, line string) (n int64) {
	t.Helper()
	if _, err := fmt.Sscan(idOf(t, line), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSlotsNeverExceedTheirMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := waitingCalls(240)
		s, _ := newPipe(t, opts, handling(methods{"reply": reply}))
		for range 300 {
			if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.Stats().Outgoing; got != 250 {
			t.Errorf("there are %d slots", got)
		}
	})
}

// A caller that comes when a slot is free, and others wait for it, is behind them.
func TestNobodyOvertakesThoseWhoWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order events
		open := make(gate)
		opts := handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			order.add("%s", req.Params.Positional)
			return open.ServeRPC(ctx, req)
		}})
		opts.Order = rpcx.Sequential // once there are more slots, two can be there at once
		a, _ := newPipe(t, waitingCalls(1), opts)
		done := make(chan error)
		for range 100 {
			go func() {
				err := a.Call(context.Background(), "m", rpcx.Args{"first"}, nil)
				done <- errors.Join(err, a.Call(context.Background(), "m", rpcx.Args{"second"}, nil))
			}()
		}
		synctest.Wait() // 99 of them wait
		close(open)
		for range 100 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if first := slices.Index(order.take(), `["second"]`); first != 100 {
			t.Errorf("a second call came in place %d, before first ones that waited", first)
		}
	})
}

// Go waits for a slot, as its comment says, and Limits.Outgoing can be switched off.
func TestGoWaitsForASlot(t *testing.T) {
	for name, c := range map[string]struct{ limit, want int }{
		"by default": {0, 50},
		"never":      {-1, 60},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newWire(t, &rpcx.Options{Limits: rpcx.Limits{Outgoing: c.limit}})
				ctx, cancel := context.WithCancel(t.Context())
				returned := make(chan bool, 60)
				go func() {
					for range 60 {
						s.Go(ctx, "m", nil)
						returned <- true
					}
				}()
				synctest.Wait()
				if n := len(returned); n != c.want {
					t.Errorf("Go has returned %d times, want %d", n, c.want)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

func TestFutureBeforeAndAfterItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		f := s.Go(t.Context(), "m", nil)
		var got string
		if isDone(f) || f.Err() != nil {
			t.Errorf("not answered, but done with %v", f.Err())
		}
		if err := f.Decode(&got); err != rpcx.ErrNotDone {
			t.Errorf("Decode returns %v, want ErrNotDone", err)
		}
		if err := f.Decode(nil); err != rpcx.ErrNotDone {
			t.Errorf("Decode into nothing returns %v, want ErrNotDone", err)
		}

		w.say(`{"jsonrpc":"2.0","result":"done","id":0}`)
		if !isDone(f) || f.Err() != nil {
			t.Errorf("answered, but not done, or with %v", f.Err())
		}
		for range 2 { // as often as one likes
			got = ""
			if err := f.Decode(&got); err != nil || got != "done" {
				t.Errorf("Decode gives %q, %v", got, err)
			}
			got = ""
			if err := f.Wait(t.Context(), &got); err != nil || got != "done" {
				t.Errorf("Wait gives %q, %v", got, err)
			}
		}
		var n int
		if err := f.Decode(&n); err == nil {
			t.Error("a text was decoded into an int")
		}
		if f.Err() != nil {
			t.Errorf("the wrong type of one who decodes became the call's error: %v", f.Err())
		}
		f.Cancel()
		if f.Err() != nil {
			t.Errorf("cancelled when it was done, it has the error %v", f.Err())
		}
	})
}

func TestWaitEndsWithItsContextAndTheCallGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		f := s.Go(t.Context(), "m", nil)
		impatient := errors.New("impatient")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(impatient) })
		takes(t, time.Second, func() {
			if err := f.Wait(ctx, nil); err != impatient {
				t.Errorf("Wait returns %v, want the context's cause", err)
			}
		})
		if isDone(f) {
			t.Fatal("the call has ended with somebody's waiting")
		}
		w.say(`{"jsonrpc":"2.0","result":1,"id":0}`)
		if !isDone(f) {
			t.Fatal("not done")
		}
		if err := f.Wait(ctx, nil); err != nil {
			t.Errorf("a future that is done cannot be waited for any more: %v", err)
		}
	})
}

func TestManyMayWaitForOneFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		f := s.Go(t.Context(), "m", nil)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				var got int
				if err := f.Wait(t.Context(), &got); err != nil || got != 7 {
					t.Errorf("got %d, %v", got, err)
				}
			})
			wg.Go(func() { <-f.Done() })
		}
		synctest.Wait()
		w.say(`{"jsonrpc":"2.0","result":7,"id":0}`)
		wg.Wait()
	})
}

func TestCancelledCallIsOverAndItsReplyIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		f := s.Go(t.Context(), "m", nil)
		w.heard()
		f.Cancel()
		f.Cancel()
		if !isDone(f) {
			t.Fatal("not done")
		}
		matches(t, f.Err(), rpcx.ErrCancelled, context.Canceled)
		matches(t, f.Wait(t.Context(), nil), rpcx.ErrCancelled)
		w.expectNothing() // the peer is not told
		lateIsFree(t, s, w, 0)
	})
}

// lateIsFree says that a reply to the call with this id, which was given up, is
// counted and no fault, and that a second one is.
func lateIsFree(t *testing.T, s *rpcx.Session, w *wire, id int) {
	t.Helper()
	before := s.Stats()
	if before.Pending != 0 {
		t.Errorf("%d calls are pending", before.Pending)
	}
	w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id))
	w.expectNothing()
	after := s.Stats()
	if after.LateReplies != before.LateReplies+1 || after.UnexpectedReplies != before.UnexpectedReplies || after.Errors != before.Errors {
		t.Errorf("a late reply: stats were %+v\nand are %+v", before, after)
	}
	w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id))
	w.expectNothing()
	again := s.Stats()
	if again.LateReplies != after.LateReplies || again.UnexpectedReplies != after.UnexpectedReplies+1 || again.Errors != after.Errors+1 {
		t.Errorf("a second late reply: stats were %+v\nand are %+v", after, again)
	}
	live(t, s)
}

func TestOnDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(t, nil, handling(methods{"reply": reply, "hang": hang}))
		calls := make(chan string)
		tell := func(name string) func(*rpcx.Future) {
			return func(f *rpcx.Future) { calls <- fmt.Sprint(name, " ", f.Err() == nil) } // until it is heard
		}
		f := a.Go(t.Context(), "reply", rpcx.Args{1})
		f.OnDone(tell("before"))
		f.OnDone(tell("before"))
		if !isDone(f) {
			t.Fatal("a future waits for those whom it tells")
		}
		f.OnDone(tell("after"))
		g := a.Go(t.Context(), "hang", nil)
		g.OnDone(tell("cancelled"))
		g.Cancel()
		got := []string{<-calls, <-calls, <-calls, <-calls}
		slices.Sort(got)
		if want := []string{"after true", "before true", "before true", "cancelled false"}; !slices.Equal(got, want) {
			t.Errorf("callbacks: %q, want %q", got, want)
		}

		// A callback may do what takes long: the reader does not wait for it.
		var nested int
		a.Go(t.Context(), "reply", nil).OnDone(func(*rpcx.Future) {
			nested, _ = rpcx.Call[int](t.Context(), a, "reply", rpcx.Args{5})
			b.Close()
		})
		synctest.Wait()
		if nested != 5 {
			t.Errorf("the call from a callback gave %d", nested)
		}
	})
}

func TestContextThatHasEndedSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		cause := errors.New("never mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		var b, c rpcx.Batch
		member := b.Call("m", nil, nil)
		c.Call("m", nil, nil)
		f, g := s.Go(ctx, "m", nil), s.GoBatch(ctx, &c)
		if !isDone(f) || !isDone(g) {
			t.Error("the futures are not done")
		}
		for how, err := range map[string]error{
			"Call": s.Call(ctx, "m", nil, nil), "Go": f.Err(), "Notify": s.Notify(ctx, "m", nil),
			"SendBatch": s.SendBatch(ctx, &b), "GoBatch": g.Err(),
		} {
			if !errors.Is(err, cause) {
				t.Errorf("%s returns %v, want the context's cause", how, err)
			}
		}
		if !isDone(member) || !errors.Is(member.Err(), cause) {
			t.Errorf("the member of the batch has the error %v", member.Err())
		}
		w.expectNothing()
	})
}

func TestContextThatEndsGivesTheCallUp(t *testing.T) {
	cause := errors.New("never mind")
	for name, call := range map[string]func(ctx context.Context, s *rpcx.Session) error{
		"Call": func(ctx context.Context, s *rpcx.Session) error { return s.Call(ctx, "m", nil, nil) },
		"Go": func(ctx context.Context, s *rpcx.Session) error {
			f := s.Go(ctx, "m", nil)
			<-f.Done()
			return f.Err()
		},
		"SendBatch": func(ctx context.Context, s *rpcx.Session) error {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			return s.SendBatch(ctx, &b)
		},
		"GoBatch": func(ctx context.Context, s *rpcx.Session) error {
			var b rpcx.Batch
			f := b.Call("m", nil, nil)
			g := s.GoBatch(ctx, &b)
			<-f.Done()
			<-g.Done()
			matches(t, f.Err(), g.Err().(*rpcx.BatchError).Errs[0])
			return g.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Minute/4, func() { cancel(cause) })
				takes(t, time.Minute/4, func() { matches(t, call(ctx, s), cause) })
				w.heard()
				lateIsFree(t, s, w, 0)

				ctx, stop := context.WithTimeout(t.Context(), time.Hour) // far beyond RequestTimeout
				defer stop()
				takes(t, time.Hour, func() {
					err := call(ctx, s)
					matches(t, err, context.DeadlineExceeded)
					matchesNot(t, err, rpcx.ErrTimeout)
				})
				w.heard()
				lateIsFree(t, s, w, 1)
			})
		})
	}
}

func TestRequestTimeout(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit time.Duration
		want  time.Duration
	}{
		{"is 30 s by default", 0, 30 * time.Second},
		{"is what Limits say", 7 * time.Second, 7 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: c.limit}})
				time.Sleep(time.Second)
				timedOut := func(err error) {
					t.Helper()
					matches(t, err, rpcx.ErrTimeout, context.DeadlineExceeded)
					matchesNot(t, err, context.Canceled)
					var timeout net.Error
					if errors.As(err, &timeout) {
						t.Log("and is a net.Error") // allowed
					}
					var says interface{ Timeout() bool }
					if !errors.As(err, &says) || !says.Timeout() {
						t.Errorf("%v does not say that it is a timeout", err)
					}
				}
				takes(t, c.want, func() { timedOut(s.Call(t.Context(), "m", nil, nil)) })
				takes(t, c.want, func() { timedOut(s.Go(context.Background(), "m", nil).Wait(t.Context(), nil)) })
				takes(t, c.want, func() {
					var b rpcx.Batch
					f := b.Call("m", nil, nil)
					b.Call("m", nil, nil)
					err := s.SendBatch(t.Context(), &b)
					timedOut(err)
					timedOut(f.Err())
					var batch *rpcx.BatchError
					if !errors.As(err, &batch) || len(batch.Errs) != 2 || batch.Errs[1] == nil {
						t.Errorf("the batch's error is %#v", err)
					}
				})
				w.heard()
				lateIsFree(t, s, w, 0)
			})
		})
	}
	t.Run("runs for each call from its own beginning", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, nil)
			start := time.Now()
			var wg sync.WaitGroup
			for i := range 20 {
				f := s.Go(t.Context(), "m", nil)
				begun := time.Since(start)
				wg.Go(func() {
					<-f.Done()
					if i == 7 {
						matches(t, f.Err(), nil)
						return
					}
					if got := time.Since(start) - begun; got != 30*time.Second {
						t.Errorf("call %d took %v", i, got)
					}
				})
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
			}
			w.say(`{"jsonrpc":"2.0","result":1,"id":7}`)
			wg.Wait()
			live(t, s)
		})
	})
	t.Run("gives way to the context's deadline, whichever is sooner", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newWire(t, nil)
			for _, d := range []time.Duration{time.Second, 31 * time.Second} {
				ctx, cancel := context.WithTimeout(t.Context(), d)
				takes(t, d, func() {
					err := s.Call(ctx, "m", nil, nil)
					matches(t, err, context.DeadlineExceeded)
					matchesNot(t, err, rpcx.ErrTimeout)
				})
				takes(t, 0, func() { cancel() })
			}
		})
	})
	t.Run("can be switched off", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: -1}})
			f := s.Go(t.Context(), "m", nil)
			time.Sleep(1000 * time.Hour)
			w.say(`{"jsonrpc":"2.0","result":1,"id":0}`)
			if !isDone(f) || f.Err() != nil {
				t.Errorf("after 1000 hours: %v", f.Err())
			}
		})
	})
	t.Run("leaves a call alone that was answered at the last moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, nil)
			f := s.Go(t.Context(), "m", nil)
			time.Sleep(30*time.Second - 1)
			w.say(`{"jsonrpc":"2.0","result":1,"id":0}`)
			if !isDone(f) || f.Err() != nil {
				t.Errorf("a nanosecond before: %v", f.Err())
			}
			time.Sleep(time.Hour)
			if stats := s.Stats(); f.Err() != nil || stats.LateReplies != 0 {
				t.Errorf("an hour later: %v, %+v", f.Err(), stats)
			}
		})
	})
}

func TestManyCallsThatWereGivenUpAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		const remembered = 1024
		for range remembered + 1 {
			s.Go(t.Context(), "m", nil).Cancel()
		}
		for id := range remembered + 1 {
			w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id))
		}
		w.heard()
		if stats := s.Stats(); stats.LateReplies != remembered || stats.UnexpectedReplies != 1 || stats.Errors != 1 {
			t.Errorf("%d late and %d unexpected replies, %d errors", stats.LateReplies, stats.UnexpectedReplies, stats.Errors)
		}
	})
}

// A caller of many methods is told whose result does not fit.
func TestErrorOfAResultThatDoesNotFitNamesTheMethod(t *testing.T) {
	s, _ := newPipe(t, nil, handling(methods{"reply": reply}))
	var text string
	f := s.Go(t.Context(), "reply", rpcx.Args{7})
	<-f.Done()
	var b rpcx.Batch
	b.Call("reply", rpcx.Args{7}, &text)
	for name, err := range map[string]error{
		"Call":      s.Call(t.Context(), "reply", rpcx.Args{7}, &text),
		"Decode":    f.Decode(&text),
		"SendBatch": s.SendBatch(t.Context(), &b),
	} {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok || !strings.Contains(err.Error(), `the result of "reply"`) {
			t.Errorf("%s failed with %v", name, err)
		}
	}
}

func TestEmptyArgsAreSent(t *testing.T) {
	for name, test := range map[string]struct {
		opts rpcx.Options
		want string
	}{
		"JSON-RPC 2.0":    {rpcx.Options{}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"JSON-RPC 1.0":    {rpcx.Options{Protocol: rpcx.JSONRPCv1}, `{"method":"m","params":[],"id":0}`},
		"a loose mix":     {rpcx.Options{Protocol: rpcx.JSONRPCLoose}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"not yet known":   {rpcx.Options{Protocol: rpcx.JSONRPCAutoDetect}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"another codec":   {rpcx.Options{Codec: failingCodec{}}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"with objects":    {rpcx.Options{Objects: true}, `{"jsonrpc":"2.0","method":"m","id":0,"params":[]}`},
		"aiomas, as ever": {rpcx.Options{Protocol: rpcx.Aiomas}, `[0,0,["m",[],{}]]`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &test.opts)
				if err := s.Go(t.Context(), "m", rpcx.EmptyArgs).Err(); err != nil {
					t.Error(err)
				}
				w.expect(test.want)
			})
		})
	}
}

// failingCodec encodes nothing.
type failingCodec struct{ rpcx.Codec }

func (failingCodec) Append(dst []byte, _ any) ([]byte, error) { return dst, context.Canceled }

func TestEmptyArgsInBatchesAndNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var b rpcx.Batch
		b.Call("a", rpcx.EmptyArgs, nil)
		b.Notify("b", rpcx.EmptyArgs)
		b.Call("c", rpcx.Args{}, nil)
		s.GoBatch(t.Context(), &b)
		if err := s.Notify(t.Context(), "d", rpcx.EmptyArgs); err != nil {
			t.Error(err)
		}
		w.expect(`[{"jsonrpc":"2.0","method":"a","id":0,"params":[]}, {"jsonrpc":"2.0","method":"b","params":[]}, {"jsonrpc":"2.0","method":"c","id":1}]`,
			`{"jsonrpc":"2.0","method":"d","params":[]}`)
	})
}

func TestEmptyArgsAreAnEmptyListToOtherCodecs(t *testing.T) {
	if text, err := json.Marshal(rpcx.EmptyArgs); err != nil || string(text) != "[]" {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestFirstID(t *testing.T) {
	for name, test := range map[string]struct {
		opts rpcx.Options
		want []string
	}{
		"1, for whom 0 is none": {rpcx.Options{FirstID: 1}, []string{
			`{"jsonrpc":"2.0","method":"m","id":1}`, `[{"jsonrpc":"2.0","method":"a","id":2}, {"jsonrpc":"2.0","method":"b","id":3}]`}},
		"0 by default": {rpcx.Options{}, []string{
			`{"jsonrpc":"2.0","method":"m","id":0}`, `[{"jsonrpc":"2.0","method":"a","id":1}, {"jsonrpc":"2.0","method":"b","id":2}]`}},
		"beyond floats": {rpcx.Options{FirstID: 1<<64 - 3}, []string{
			`{"jsonrpc":"2.0","method":"m","id":18446744073709551613}`,
			`[{"jsonrpc":"2.0","method":"a","id":18446744073709551614}, {"jsonrpc":"2.0","method":"b","id":18446744073709551615}]`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &test.opts)
				f := s.Go(t.Context(), "m", nil)
				var b rpcx.Batch
				one, two := b.Call("a", nil, nil), b.Call("b", nil, nil)
				s.GoBatch(t.Context(), &b)
				w.expect(test.want...)
				for i := range uint64(3) {
					w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":%d,"id":%d}`, i, test.opts.FirstID+i))
				}
				for i, f := range []*rpcx.Future{f, one, two} {
					var got int
					if !isDone(f) || f.Decode(&got) != nil || got != i {
						t.Errorf("call %d is done: %v, with %d, %v", i, isDone(f), got, f.Err())
					}
				}
			})
		})
	}
}

func TestFirstIDOfAiomas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Protocol: rpcx.Aiomas, FirstID: 5})
		s.Go(t.Context(), "m", nil)
		w.expect(`[0,5,["m",[],{}]]`)
	})
}

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

// The answer to a long batch that was given up is late, and no mistake of the peer's.
func TestLateAnswerToALongBatchIsNoError(t *testing.T) {
	const long = 10_000
	ids := make([]int, long)
	for i := range ids {
		ids[i] = i
	}
	t.Run("in its order", func(t *testing.T) { answerLate(t, ids) })
	slices.Reverse(ids)
	t.Run("backwards", func(t *testing.T) { answerLate(t, ids) })
	rand.New(rand.NewPCG(1, 2)).Shuffle(long, func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	t.Run("in any order", func(t *testing.T) { answerLate(t, ids) })
}

// answerLate gives up a batch, and answers it in the order of ids then.
func answerLate(t *testing.T, ids []int) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		long := len(ids)
		var b rpcx.Batch
		for range long {
			b.Call("m", nil, nil)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.SendBatch(ctx, &b); err == nil {
			t.Error("a batch that nobody answers succeeded")
		}
		replies := make([]string, long)
		for i, id := range ids {
			replies[i] = fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id)
		}
		w.heard()
		w.say("[" + strings.Join(replies, ",") + "]")
		synctest.Wait()
		if got := s.Stats(); got.LateReplies != uint64(long) || got.UnexpectedReplies != 0 || got.Errors != 0 {
			t.Errorf("%d late, %d unexpected, %d errors", got.LateReplies, got.UnexpectedReplies, got.Errors)
		}
		w.say("[" + strings.Join(replies, ",") + "]") // once more
		synctest.Wait()
		if got := s.Stats(); got.LateReplies != uint64(long) || got.UnexpectedReplies != uint64(long) || got.Errors != 1 {
			t.Errorf("then %d late, %d unexpected, %d errors", got.LateReplies, got.UnexpectedReplies, got.Errors)
		}
	})
}

// TestCallAllocs bounds the allocations of a small call over TCP, both ends
// together, the caller's own (three: the Args, their conversion, the result) included.
func TestCallAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	raw := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		params := req.Params.Positional
		return json.RawMessage(params[1 : len(params)-1]), nil
	})
	fn := rpcx.Func(func(_ context.Context, message string) (string, error) { return message, nil }, "message")
	for _, test := range []struct {
		name    string
		handler rpcx.Handler
		most    float64
	}{
		{"raw handler", raw, 7},
		{"Func", fn, 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			if allocs := callAllocs(t, rpcx.Options{Handler: test.handler}); allocs > test.most {
				t.Errorf("%v allocations a call, want at most %v", allocs, test.most)
			}
		})
	}
	t.Run("accounting adds none", func(t *testing.T) {
		off := rpcx.Options{Handler: raw}
		off.Limits.CostOff = true
		on := rpcx.Options{Handler: raw}
		on.Limits.CostPerByte = 1e-3 // charged for each message
		on.Limits.Group = func(*rpcx.Session) string { return "all" }
		without, with := callAllocs(t, off), callAllocs(t, on)
		if with > without {
			t.Errorf("%v allocations a call with accounting, %v without", with, without)
		}
	})
}

// callAllocs returns the allocations of an echo by a server with opts.
func callAllocs(t *testing.T, opts rpcx.Options) float64 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: opts}
	go srv.Serve(l)
	defer srv.Wait(context.Background())
	defer srv.Close()
	s, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	allocs := testing.AllocsPerRun(2000, func() {
		var reply string
		if err := s.Call(ctx, "echo", rpcx.Args{"Howdy"}, &reply); err != nil || reply != "Howdy" {
			t.Fatalf("reply %q, error %v", reply, err)
		}
	})
	t.Logf("%v allocations a call", allocs)
	return allocs
}

// TestTryNotify checks that TryNotify sends as long as there is room, and never waits.
func TestTryNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var traced []string
		opts := &rpcx.Options{Trace: &rpcx.Trace{RequestSent: func(_ *rpcx.Session, method string, id rpcx.ID) {
			traced = append(traced, method+string(id))
		}}}
		opts.Limits.Outbox = 100
		s, w := newDeafWire(t, opts)
		try := func(method string) bool {
			t.Helper()
			sent, err := s.TryNotify(method, rpcx.Args{strings.Repeat("x", 40)})
			if err != nil {
				t.Error(err)
			}
			synctest.Wait()
			return sent
		}
		takes(t, 0, func() {
			if !try("one") || try("two") || try("three") {
				t.Error("want true for one message, and then false")
			}
		})
		if got := strings.Join(traced, " "); got != "one" {
			t.Errorf("traced: %s", got)
		}
		// A short message would fit, but an earlier sender waits.
		go s.Notify(t.Context(), "waiting", rpcx.Args{strings.Repeat("x", 40)})
		synctest.Wait()
		if sent, err := s.TryNotify("s", nil); sent || err != nil {
			t.Errorf("before a waiting sender: %v, %v", sent, err)
		}
		w.listen()
		x := strings.Repeat("x", 40)
		w.expect(`{"jsonrpc":"2.0","method":"one","params":["`+x+`"]}`, `{"jsonrpc":"2.0","method":"waiting","params":["`+x+`"]}`)
		if !try("last") {
			t.Error("no room in an empty outbox")
		}
		w.expect(`{"jsonrpc":"2.0","method":"last","params":["` + x + `"]}`)
	})
}

// TestTryNotifyErrors checks that TryNotify fails as Notify does.
func TestTryNotifyErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		opts := handling(g)
		opts.Framer = rpcx.NewlineFramer{MaxSize: 1000}
		s, w := newWire(t, opts)
		check := func(name string, params any, match func(error) bool) {
			t.Helper()
			sent, err := s.TryNotify("m", params)
			other := s.Notify(t.Context(), "m", params)
			if sent || err == nil || other == nil || err.Error() != other.Error() || !match(err) {
				t.Errorf("%s: %v, %v; Notify: %v", name, sent, err, other)
			}
		}
		check("params that cannot be encoded", 1, func(err error) bool {
			e, ok := errors.AsType[*rpcx.ProtocolError](err)
			return ok && e.Unsent
		})
		check("a message over the framer's limit", rpcx.Args{strings.Repeat("x", 1000)}, func(err error) bool {
			_, ok := errors.AsType[*rpcx.SizeError](err)
			return ok
		})
		closed := func(err error) bool { return errors.Is(err, rpcx.ErrClosed) }
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		synctest.Wait()
		go s.Shutdown(context.Background())
		synctest.Wait()
		check("during Shutdown", nil, closed)
		close(g)
		ended(t, s)
		check("after the end", nil, closed)
	})
}

// TestTryNotifyInAnExchange checks that TryNotify does not wait for another call of notify.
func TestTryNotifyInAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		block := make(chan struct{})
		open := sync.OnceFunc(func() { close(block) })
		defer time.AfterFunc(time.Second, open).Stop()
		srv := serving(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			s := req.Session()
			go s.Notify(ctx, "first", nil)
			synctest.Wait()
			started := time.Now()
			sent, err := s.TryNotify("second", nil)
			e.add("%v %v after %v", sent, err, time.Since(started))
			open()
			synctest.Wait()
			sent, err = s.TryNotify("third", nil)
			e.add("%v %v", sent, err)
			return nil, nil
		}})
		_, err := srv.ServeMessage(t.Context(), nil, []byte(request("m")), func(msg []byte) error {
			<-block
			e.add("%s", msg)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		e.expect(t, "false <nil> after 0s", `{"jsonrpc":"2.0","method":"first"}`, `{"jsonrpc":"2.0","method":"third"}`, "true <nil>")
	})
}

// TestOnCallSeesTryNotify checks that a function of OnCall sees a notification without room,
// too, and can refuse one.
func TestOnCallSeesTryNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		opts := hooked(e.hook("hook"), func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			if c.Method == "refused" {
				return nil, nil, errors.New("refused")
			}
			c.Params = rpcx.Args{strings.Repeat("x", 40)}
			c.SetMeta("trace", 1)
			return nil, nil, nil
		})
		opts.Meta = rpcx.MemberMeta
		opts.Limits.Outbox = 100
		s, w := newDeafWire(t, opts)
		for _, c := range []struct {
			method string
			sent   bool
			err    string
			over   string
		}{
			{"one", true, "<nil>", "<nil>"},
			{"two", false, "<nil>", "rpcx: no room for a message that may not wait (Limits.Outbox)"},
			{"refused", false, "refused", "refused"},
		} {
			if sent, err := s.TryNotify(c.method, nil); sent != c.sent || fmt.Sprint(err) != c.err {
				t.Errorf("%s: %v, %v", c.method, sent, err)
			}
			e.expect(t, "hook "+c.method, "hook "+c.method+" is over: "+c.over)
		}
		w.listen()
		w.expect(`{"jsonrpc":"2.0","method":"one","params":["` + strings.Repeat("x", 40) + `"],"meta":{"trace":1}}`)
	})
}

// TestTryNotifyAllocs checks that TryNotify allocates no more than Notify.
func TestTryNotifyAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	a, _ := newPipe(t, nil, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })))
	ctx := t.Context()
	args := rpcx.Args{1}
	notify := testing.AllocsPerRun(1000, func() { a.Notify(ctx, "m", args) })
	try := testing.AllocsPerRun(1000, func() { a.TryNotify("m", args) })
	if try > notify {
		t.Errorf("%v allocations, and %v of Notify", try, notify)
	}
}
