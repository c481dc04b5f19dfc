package rpcx_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// sayNote is a notification with a number.
func sayNote(method string, n int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":[%d]}`, method, n)
}

// seconds is a handler that takes a second, and notes when it begins and ends.
func (e *events) seconds(_ context.Context, req *rpcx.Request) (any, error) {
	what := "note"
	if !req.IsNotification() {
		what = req.ID.String()
	}
	e.add("%s begins", what)
	time.Sleep(time.Second)
	e.add("%s ends", what)
	return nil, nil
}

func TestOrder(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"m"}`
	for _, c := range []struct {
		name  string
		order rpcx.Order
		lines []string
		want  []string // what happens within each second
	}{
		{
			"concurrent handlers run at once", rpcx.Concurrent, []string{ask("m", 1), note, ask("m", 2)},
			[]string{"[1 begins 2 begins note begins]", "[1 ends 2 ends note ends]"},
		},
		{
			"what follows a notification waits for it, and what is before does not matter", rpcx.NotificationsFirst,
			[]string{ask("m", 1), note, ask("m", 2), ask("m", 3)},
			[]string{"[1 begins note begins]", "[1 ends 2 begins 3 begins note ends]", "[2 ends 3 ends]"},
		},
		{
			"notifications are handled one after the other", rpcx.NotificationsFirst, []string{note, note, ask("m", 1)},
			[]string{"[note begins]", "[note begins note ends]", "[1 begins note ends]", "[1 ends]"},
		},
		{
			"in a batch too", rpcx.NotificationsFirst, []string{"[" + ask("m", 1) + "," + note + "," + ask("m", 2) + "]", ask("m", 3)},
			[]string{"[1 begins note begins]", "[1 ends 2 begins 3 begins note ends]", "[2 ends 3 ends]"},
		},
		{
			"one at a time", rpcx.Sequential, []string{ask("m", 1), note, "[" + ask("m", 2) + "," + ask("m", 3) + "]"},
			[]string{"[1 begins]", "[1 ends note begins]", "[2 begins note ends]", "[2 ends 3 begins]", "[3 ends]"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e events
				_, w := newWire(t, &rpcx.Options{Order: c.order, Handler: rpcx.HandlerFunc(e.seconds)})
				w.say(c.lines...)
				for i, want := range c.want {
					synctest.Wait()
					got := e.take()
					slices.Sort(got)
					if fmt.Sprint(got) != want {
						t.Errorf("after %d s: %v, want %v", i, got, want)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestRepliesToOwnCallsAreNotHeldUpByTheOrder(t *testing.T) {
	for _, order := range []rpcx.Order{rpcx.NotificationsFirst, rpcx.Sequential} {
		synctest.Test(t, func(t *testing.T) {
			got := make(chan int, 1)
			a, _ := newPipe(t, handling(methods{"reply": reply}), &rpcx.Options{Order: order, Handler: methods{
				"note": func(ctx context.Context, req *rpcx.Request) (any, error) {
					n, err := rpcx.Call[int](ctx, req.Session(), "reply", rpcx.Args{7})
					got <- n
					return nil, err
				},
			}})
			takes(t, 0, func() {
				a.Notify(t.Context(), "note", nil)
				if n := <-got; n != 7 {
					t.Errorf("the handler got %d", n)
				}
			})
		})
	}
}

// The handler of a notification may end in other ways than by returning.
func TestNotificationThatFailsLetsTheNextOnesThrough(t *testing.T) {
	for name, handler := range map[string]rpcx.HandlerFunc{
		"a panic":            func(context.Context, *rpcx.Request) (any, error) { panic("oh") },
		"runtime.Goexit":     func(context.Context, *rpcx.Request) (any, error) { runtime.Goexit(); return nil, nil },
		"an error":           func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.InternalError() },
		"a context that end": hang,
	} {
		for _, order := range []rpcx.Order{rpcx.NotificationsFirst, rpcx.Sequential} {
			t.Run(fmt.Sprint(name, order), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := handling(methods{"fail": handler, "reply": reply})
					opts.Order = order
					opts.Limits.ProcessingTimeout = time.Minute
					s, w := newWire(t, opts)
					w.say(sayNote("fail", 1))
					time.Sleep(time.Second)
					w.say(sayNote("fail", 2))
					time.Sleep(time.Second)
					w.say(ask("reply", 3))
					time.Sleep(time.Minute)
					w.say(ask("reply", 4))
					synctest.Wait()
					time.Sleep(time.Minute)
					lines := w.heard()
					if len(lines) != 2 || lines[1] != answered("null", 4) {
						t.Errorf("heard %q", lines)
					}
					if stats := s.Stats(); stats.Running != 0 || stats.Queued != 0 {
						t.Errorf("stats are %+v", stats)
					}
				})
			})
		}
	}
}

// A handler that does not heed its context keeps its place in the order, and
// what waits behind it is answered at its own time.
func TestNotificationThatTakesTooLongHoldsUpItsFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(methods{"stuck": open.ServeRPC, "reply": reply})
		opts.Order = rpcx.NotificationsFirst
		_, w := newWire(t, opts)
		w.say(sayNote("stuck", 1), ask("reply", 2))
		time.Sleep(30 * time.Second)
		w.expect(timedOutNew + `2}`)
		w.say(ask("reply", 3))
		w.expectNothing()
		close(open)
		w.expect(answered("null", 3))
	})
}

// The manual's recipe for what follows a reply: the future is done when the handler of a
// notification behind it begins.
func TestFutureIsDoneWhenWhatFollowsItsReplyIsHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			calls, done := make(chan *rpcx.Future, 1), make(chan bool)
			s, w := newWire(t, handling(methods{"news": func(context.Context, *rpcx.Request) (any, error) {
				var number int
				err := (<-calls).Decode(&number)
				if err != nil || number != 7 {
					t.Errorf("the result is %d, %v", number, err)
				}
				close(done)
				return nil, nil
			}}))
			f := s.Go(t.Context(), "subscribe", nil)
			calls <- f
			w.expect(ask("subscribe", 0))
			w.say(answered("7", 0) + "\n" + sayNote("news", 7))
			<-done
		}
	})
}
