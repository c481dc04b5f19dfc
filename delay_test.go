package rpcx_test

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// newDelayed returns a session that delays each request by two seconds because of
// its cost, and its wire.
func newDelayed(t *testing.T, opts *rpcx.Options) (*rpcx.Session, *wire) {
	t.Helper()
	opts.Limits.CostDelay, opts.Limits.CostDecay = 4*time.Second, -1
	s, w := newServed(t, opts)
	s.BumpCost(6000) // halfway from CostSoft to CostHard
	s.UpdateCost()
	return s, w
}

func TestWhatIsDelayedWhenASessionIsEndedForItsCostIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a handler was called")
			return nil, nil
		}})
		s, w := newDelayed(t, opts)
		w.say(ask("reply", 1), "["+ask("reply", 2)+`,{"jsonrpc":"2.0","method":"reply"}]`, `{"jsonrpc":"2.0","method":"reply"}`)
		time.Sleep(time.Second)
		w.expectNothing()
		s.BumpCost(20000)
		w.say(ask("reply", 4))
		w.expect(excessive+"4}", excessive+"1}", "["+excessive+"2}]")
		matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
		if stats := s.Stats(); stats.NotificationsDropped != 2 || stats.Errors != 3 || stats.RequestsReceived != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestDelayedNotificationsSentBeforeAnEOFAreHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled events
		opts := handling(methods{"note": func(ctx context.Context, req *rpcx.Request) (any, error) {
			handled.add("%s, %v", req.Params.Positional, context.Cause(ctx))
			return nil, nil
		}})
		opts.Limits.Concurrency = 1
		opts.Cancellation = rpcx.LSPCancellation // so that reading does not pause so early
		s, w := newDelayed(t, opts)
		const note = `{"jsonrpc":"2.0","method":"note","params":`
		w.say(note+"[1]}", ask("reply", 1), note+"[2]}")
		time.Sleep(time.Second)
		takes(t, 3*time.Second, func() { w.Close(); <-s.Done() })
		if got := handled.take(); len(got) != 2 || got[0] != "[1], EOF" || got[1] != "[2], EOF" {
			t.Errorf("handled were %q", got)
		}
		if stats := s.Stats(); stats.RequestsReceived != 2 {
			t.Errorf("stats are %+v", stats)
		}
		if s.Err() != io.EOF {
			t.Errorf("it ended with %v", s.Err())
		}
	})
}

func TestDelayedNotificationsAreDroppedByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDelayed(t, handling(methods{"note": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a handler was called")
			return nil, nil
		}}))
		w.say(`{"jsonrpc":"2.0","method":"note"}`)
		time.Sleep(time.Second)
		takes(t, 0, func() { s.Close(); <-s.Done() })
		if n := s.Stats().NotificationsDropped; n != 1 {
			t.Errorf("%d were dropped", n)
		}
	})
}

// Its context and the session's timer end such a request at the same moment, and
// either may be the first.
func TestShutdownWaitsForDelayedRequestsWhoseTimeIsOver(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			opts := handling(methods{"reply": reply})
			opts.Limits.ProcessingTimeout = time.Second
			s, w := newDelayed(t, opts)
			w.say(ask("reply", 1))
			synctest.Wait()
			takes(t, time.Second, func() {
				if err := s.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown returns %v", err)
				}
			})
			w.expect(timedOutNew + "1}")
		})
	}
}

// A long delay must not keep a session whose peer has gone.
func TestDelayedNotificationsSentBeforeAnEOFAreDroppedWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"note": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a handler was called")
			return nil, nil
		}})
		opts.Limits.ProcessingTimeout = 1500 * time.Millisecond
		s, w := newDelayed(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"note"}`)
		time.Sleep(time.Second)
		takes(t, time.Second/2, func() { w.Close(); <-s.Done() })
		if stats := s.Stats(); stats.NotificationsDropped != 1 || stats.Errors != 1 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestDelayedRequestsThatAreCancelledHaveNoHandlerAndNoResult(t *testing.T) {
	for name, c := range map[string]struct {
		how  *rpcx.Cancellation
		want []string
	}{
		"and are answered": {rpcx.LSPCancellation, []string{
			`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}`,
			`[{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":2}]`,
		}},
		"and are not answered": {rpcx.MCPCancellation, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{})
				opts.Cancellation = c.how
				opts.Trace = &rpcx.Trace{
					RequestReceived: func(*rpcx.Request) { t.Error("a handler was called") },
					ReplySent:       func(*rpcx.Request, error, time.Duration) { t.Error("a handler returned") },
				}
				s, w := newDelayed(t, opts)
				for i, request := range []string{ask("reply", 1), "[" + ask("reply", 2) + "]"} {
					w.say(request, fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":{%q:%d}}`, c.how.Method, c.how.Param, i+1))
				}
				w.expect(c.want...)
				if stats := s.Stats(); stats.Running != 0 || stats.LateResults != 0 || stats.Errors != 0 {
					t.Errorf("stats are %+v", stats)
				}
			})
		})
	}
}
