package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// pause waits for d, or returns ctx's cause.
func pause(ctx context.Context, d time.Duration) error {
	_, err := after(d, 0)(ctx)
	return err
}

func TestTimeoutErrors(t *testing.T) {
	sleep := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error { return pause(ctx, d) }
	}
	within := func(outer, inner time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			return rpcx.TimeoutAfter(ctx, outer, func(ctx context.Context) error {
				return rpcx.TimeoutAfter(ctx, inner, sleep(time.Hour))
			})
		}
	}
	for _, test := range []struct {
		name     string
		run      func(context.Context) error
		as       any
		text     string
		deadline bool
	}{
		{"one deadline", func(ctx context.Context) error { return rpcx.TimeoutAfter(ctx, time.Second, sleep(time.Hour)) },
			new(*rpcx.TaskTimeout), "task timed out after 1s", true},
		{"the outer of two", within(time.Second, time.Minute),
			new(*rpcx.TaskTimeout), "task timed out after 1s", true},
		{"the inner of two, that nobody handled", within(time.Minute, time.Second),
			new(rpcx.UncaughtTimeoutError), "uncaught timeout received: task timed out after 1s", false},
		{"the outer of two, as the inner sees it", func(ctx context.Context) (inner error) {
			_, _ = rpcx.IgnoreAfter(ctx, time.Second, func(ctx context.Context) error {
				inner = rpcx.TimeoutAfter(ctx, time.Minute, sleep(time.Hour))
				return inner
			})
			return inner
		}, new(rpcx.TimeoutCancellationError), "cancelled by an outer timeout: task timed out after 1s", true},
		{"one deadline, and an error that wraps the context's", func(ctx context.Context) error {
			return rpcx.TimeoutAfter(ctx, time.Second, func(ctx context.Context) error {
				<-ctx.Done()
				return fmt.Errorf("read: %w", ctx.Err())
			})
		}, new(*rpcx.TaskTimeout), "task timed out after 1s", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				err := test.run(t.Context())
				if !errors.As(err, test.as) || err.Error() != test.text {
					t.Errorf("got %T: %v", err, err)
				}
				if errors.Is(err, context.DeadlineExceeded) != test.deadline || errors.Is(err, context.Canceled) {
					t.Errorf("%v matches what it should not, or does not", err)
				}
			})
		})
	}
}

// Which of two equal deadlines is noticed first must make no difference.
func TestEqualDeadlinesWithALaterOneBetween(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			at := time.Now().Add(time.Second)
			var inner, between error
			outer := rpcx.TimeoutAt(t.Context(), at, func(ctx context.Context) error {
				between = rpcx.TimeoutAfter(ctx, time.Minute, func(ctx context.Context) error {
					inner = rpcx.TimeoutAt(ctx, at, func(ctx context.Context) error { return pause(ctx, time.Hour) })
					return inner
				})
				return between
			})
			if _, ok := inner.(*rpcx.TaskTimeout); !ok {
				t.Fatalf("the inner one returned %T", inner)
			}
			if _, ok := between.(rpcx.TimeoutCancellationError); !ok {
				t.Fatalf("the one between returned %T", between)
			}
			if _, ok := outer.(*rpcx.TaskTimeout); !ok || outer == inner {
				t.Fatalf("the outer one returned %T", outer)
			}
		})
	}
}

func TestACancellationFromOutsideIsNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("enough")
		for name, parent := range map[string]func() (context.Context, func()){
			"cancelled": func() (context.Context, func()) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(why) })
				return ctx, func() {}
			},
			"a plain deadline": func() (context.Context, func()) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
				return ctx, cancel
			},
		} {
			ctx, cancel := parent()
			var inner error
			expired, err := rpcx.IgnoreAfter(ctx, time.Minute, func(ctx context.Context) error {
				<-ctx.Done()
				inner = ctx.Err()
				return inner
			})
			if expired || err != inner || context.Cause(ctx) != why {
				t.Errorf("%s: got %v, %v", name, expired, err)
			}
			cancel()
		}
	})
}

func TestWhatWasDoneInSpiteOfATimeoutCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("failure")
		for _, want := range []error{nil, failure} {
			start := time.Now()
			err := rpcx.TimeoutAfter(t.Context(), time.Second, func(context.Context) error {
				time.Sleep(time.Minute)
				return want
			})
			if err != want || time.Since(start) != time.Minute {
				t.Errorf("got %v after %v, want %v", err, time.Since(start), want)
			}
		}
	})
}

// A context that has ended has no timer.
func TestATimeoutLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept context.Context
		if err := rpcx.TimeoutAt(t.Context(), time.Now().Add(time.Hour), func(ctx context.Context) error {
			kept = ctx
			return nil
		}); err != nil || kept.Err() != context.Canceled {
			t.Errorf("got %v; the context's error is %v", err, kept.Err())
		}
	})
}

func TestADeadlineHoldsForTheTasksOfAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var task *rpcx.Task[int]
		err := rpcx.TimeoutAfter(t.Context(), time.Second, func(ctx context.Context) error {
			g := rpcx.NewTaskGroup[int](ctx, nil)
			task = g.Go(func(ctx context.Context) (int, error) {
				return 0, rpcx.TimeoutAfter(ctx, time.Minute, func(ctx context.Context) error { return pause(ctx, time.Hour) })
			})
			return g.Join(ctx)
		})
		var timeout *rpcx.TaskTimeout
		if !errors.As(err, &timeout) || timeout.Duration != time.Second {
			t.Errorf("the group ended with %v", err)
		}
		var outer rpcx.TimeoutCancellationError
		if !errors.As(task.Err(), &outer) || outer.Outer != timeout {
			t.Errorf("the task ended with %v", task.Err())
		}
	})
}

func TestATimeoutWithoutAUnitSaysSo(t *testing.T) {
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for d, want := range map[time.Duration]string{
		3:                "task timed out after 3ns: write 3*time.Second",
		time.Millisecond: "task timed out after 1ms",
		0:                "task timed out after 0s",
	} {
		if err := rpcx.TimeoutAfter(t.Context(), d, wait); err == nil || err.Error() != want {
			t.Errorf("%v: got %v, want %s", d, err, want)
		}
	}
	synctest.Test(t, func(t *testing.T) { // a point in time has no unit
		err := rpcx.TimeoutAt(t.Context(), time.Now().Add(3), wait)
		if err == nil || err.Error() != "task timed out after 3ns" {
			t.Errorf("got %v", err)
		}
	})
}
