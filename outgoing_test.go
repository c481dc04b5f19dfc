package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
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
