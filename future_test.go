package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

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
