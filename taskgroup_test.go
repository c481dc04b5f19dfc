package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// after returns a function that returns v when d has passed, or its context's
// cause if that ends before.
func after[T any](d time.Duration, v T) func(context.Context) (T, error) {
	return func(ctx context.Context) (T, error) {
		select {
		case <-time.After(d):
			return v, nil
		case <-ctx.Done():
			var zero T
			return zero, context.Cause(ctx)
		}
	}
}

func TestJoinReturnsTheContextsCauseAndEndsTheTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		task := g.Go(after(time.Hour, 1))
		daemon := g.GoDaemon(after(time.Hour, 2))
		time.AfterFunc(time.Second, func() { cancel(why) })
		if err := g.Join(ctx); err != why {
			t.Errorf("Join returned %v", err)
		}
		for _, task := range []*rpcx.Task[int]{task, daemon} {
			if err := task.Err(); !errors.Is(err, rpcx.ErrTaskCancelled) || !errors.Is(err, context.Canceled) {
				t.Errorf("the task ended with %v", err)
			}
		}
		if !g.Joined() || g.Completed() != nil {
			t.Errorf("joined %v, completed %v", g.Joined(), g.Completed())
		}
	})
}

func TestAJoinThatIsOverEndsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		g.Go(after(time.Hour, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		other := rpcx.StartTask(t.Context(), func(context.Context) (int, error) { return 0, g.Join(context.Background()) })
		start := time.Now()
		if err := g.Join(ctx); err != context.DeadlineExceeded {
			t.Errorf("Join returned %v", err)
		}
		if _, err := other.Wait(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Errorf("the other Join returned %v after %v", err, time.Since(start))
		}
	})
}

// Which of them Join comes upon first must make no difference.
func TestATaskThatEndsWithJoinsContext(t *testing.T) {
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		g := rpcx.NewTaskGroup[int](ctx, nil)
		g.Go(after(time.Hour, 1))
		rpcx.StartTask(t.Context(), func(context.Context) (int, error) {
			cancel()
			return 0, nil
		})
		if err := g.Join(ctx); err != context.Canceled {
			t.Fatalf("Join returned %v", err)
		}
	}
}

func TestTheGroupsContextEndsTheTasksAndNotTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		g := rpcx.NewTaskGroup[int](ctx, nil)
		running := g.Go(after(time.Hour, 1))
		synctest.Wait()
		cancel(why)
		late := g.Go(func(context.Context) (int, error) {
			t.Error("called, though its context had ended")
			return 0, nil
		})
		if err := g.Join(t.Context()); err != nil {
			t.Errorf("Join returned %v", err)
		}
		if running.Err() != why || late.Err() != why {
			t.Errorf("the tasks ended with %v and %v", running.Err(), late.Err())
		}
	})
}

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Limit: 3, Retain: true})
		g.GoDaemon(after(time.Hour, 0)) // does not count
		var running, most, order atomic.Int32
		start := time.Now()
		for i := range 10 {
			g.Go(func(ctx context.Context) (int, error) {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				if place := int(order.Add(1)) - 1; place/3 != i/3 {
					t.Errorf("task %d was the %d. to run", i, place)
				}
				return after(time.Second, i)(ctx)
			})
		}
		cancelled := g.Go(after(time.Second, 10))
		if g.Len() != 11 {
			t.Errorf("Len is %d", g.Len())
		}
		synctest.Wait()
		cancelled.Cancel()
		for task := range g.All(t.Context()) {
			switch err := task.Err(); {
			case task == cancelled && !errors.Is(err, rpcx.ErrTaskCancelled), task != cancelled && err != nil:
				t.Errorf("a task ended with %v", err)
			}
		}
		if took := time.Since(start); most.Load() != 3 || took != 4*time.Second || order.Load() != 10 {
			t.Errorf("%d tasks, %d at once, %v in all", order.Load(), most.Load(), took)
		}
		_ = g.Join(t.Context())
	})
}

func TestATaskThatWaitsForLimitIsNotRunOnceTheGroupIsDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Wait: rpcx.WaitAny, Limit: 2})
		var calls atomic.Int32
		for range 100 {
			g.Go(func(ctx context.Context) (int, error) {
				calls.Add(1)
				return after(time.Second, 1)(ctx)
			})
		}
		if err := g.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Those that finish first take others before Join is woken.
		if n := calls.Load(); n < 2 || n > 10 {
			t.Errorf("%d tasks were run", n)
		}
	})
}

// A task that blocks must never keep another from being run.
func TestTasksThatWaitForEachOther(t *testing.T) {
	noLeak(t)
	for range 200 {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		const n = 20
		var all sync.WaitGroup
		all.Add(n)
		for range n {
			g.Go(func(context.Context) (int, error) {
				all.Done()
				all.Wait()
				return 0, nil
			})
		}
		if err := g.Join(t.Context()); err != nil || g.Err() != nil {
			t.Fatal(err, g.Err())
		}
	}
}

func TestTasksMayAddTasks(t *testing.T) {
	g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Retain: true, Limit: 2})
	var tree func(depth int) func(context.Context) (int, error)
	tree = func(depth int) func(context.Context) (int, error) {
		return func(context.Context) (int, error) {
			if depth > 0 {
				g.Go(tree(depth - 1))
				g.Go(tree(depth - 1))
			}
			return depth, nil
		}
	}
	g.Go(tree(6))
	if err := g.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	results, err := g.Results()
	if err != nil || len(results) != 127 || g.Len() != 127 {
		t.Errorf("%d results, error %v", len(results), err)
	}
}

func TestNothingIsAddedAfterJoin(t *testing.T) {
	g := rpcx.NewTaskGroup[int](t.Context(), nil)
	if err := g.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, add := range []func(func(context.Context) (int, error)) *rpcx.Task[int]{g.Go, g.GoDaemon} {
		task := add(func(context.Context) (int, error) {
			t.Error("was called")
			return 0, nil
		})
		if _, err := task.Wait(t.Context()); err != rpcx.ErrTaskGroupJoined {
			t.Errorf("got %v", err)
		}
	}
	task := rpcx.StartTask(t.Context(), after(0, 1))
	if err := g.Add(task); err != rpcx.ErrTaskGroupJoined {
		t.Errorf("Add returned %v", err)
	}
	other := rpcx.NewTaskGroup[int](t.Context(), nil)
	if err := other.AddDaemon(task); err != nil {
		t.Errorf("a task that one group has refused was refused by another: %v", err)
	}
	if err := g.Add(task); err != rpcx.ErrTaskInGroup {
		t.Errorf("Add returned %v", err)
	}
	_ = other.Join(t.Context())
}

// While Join waits for tasks that it has cancelled, nothing can be added: nobody
// would wait for it.
func TestNothingIsAddedWhileJoinWaitsForCancelledTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Wait: rpcx.WaitNone})
		g.Go(func(ctx context.Context) (int, error) {
			<-ctx.Done()
			if err := g.Go(after(0, 1)).Err(); err != rpcx.ErrTaskGroupJoined {
				t.Errorf("got %v", err)
			}
			return 0, nil
		})
		synctest.Wait()
		if err := g.Join(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Under WaitAll a task that is begun is waited for: once none is left, none is
// taken, though Join is not awake yet.
func TestATaskAddedWhenJoinHasWaitedForAllIsRefused(t *testing.T) {
	for range 200 {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		g.Go(after(0, 1))
		adder := rpcx.StartTask(t.Context(), func(ctx context.Context) (v int, err error) {
			for err == nil {
				v, err = g.Go(func(ctx context.Context) (int, error) { return 2, ctx.Err() }).Wait(ctx)
			}
			return v, err
		})
		_ = g.Join(t.Context())
		if _, err := adder.Wait(t.Context()); err != rpcx.ErrTaskGroupJoined {
			t.Fatalf("got %v", err)
		}
	}
}

func TestWaitFirstWithTypesThatCannotBeNil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Wait: rpcx.WaitFirst})
		g.Go(after(time.Second, 0))
		g.Go(after(2*time.Second, 1))
		_ = g.Join(t.Context())
		if v, err := g.Result(); v != 0 || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
		p := rpcx.NewTaskGroup[*int](t.Context(), &rpcx.TaskGroupOptions{Wait: rpcx.WaitFirst})
		p.Go(after[*int](time.Second, nil))
		p.Go(after(2*time.Second, new(int)))
		_ = p.Join(t.Context())
		if v, err := p.Result(); v == nil || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
	})
}

// fails returns a function that fails with err when d has passed, or before with the cause
// of its context.
func fails(d time.Duration, err error) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if _, ended := after(d, 0)(ctx); ended != nil {
			return "", ended
		}
		return "", err
	}
}

func TestWaitSuccess(t *testing.T) {
	type group = rpcx.TaskGroup[string]
	first, second, third := errors.New("first"), errors.New("second"), errors.New("third")
	for _, test := range []struct {
		name      string
		start     func(g *group)
		took      time.Duration
		joinErr   error
		result    string
		resultErr []error // nil if there is a result; otherwise all that the error matches
		err       bool    // whether Err is the error of Result
		failures  []error
	}{
		{
			name: "a task succeeds after two have failed, and the rest is cancelled",
			start: func(g *group) {
				g.Go(fails(2*time.Second, second))
				g.Go(after(3*time.Second, "answer"))
				g.Go(fails(time.Second, first))
				g.Go(fails(time.Hour, third))
				g.Go(after(time.Hour, "late"))
			},
			took: 3 * time.Second, result: "answer", failures: []error{first, second},
		},
		{
			name: "the zero value is a result",
			start: func(g *group) {
				g.Go(after(time.Second, ""))
				g.Go(after(time.Hour, "late"))
			},
			took: time.Second,
		},
		{
			name: "all tasks fail",
			start: func(g *group) {
				g.Go(fails(3*time.Second, third))
				g.Go(fails(2*time.Second, second))
				g.Go(fails(time.Second, first))
			},
			took: 3 * time.Second, resultErr: []error{rpcx.ErrNoTaskCompleted, first, second, third}, err: true,
			failures: []error{first, second, third},
		},
		{
			name:      "no task was added",
			start:     func(*group) {},
			resultErr: []error{rpcx.ErrNoTaskCompleted},
		},
		{
			name: "the context ends after a task has failed",
			start: func(g *group) {
				g.Go(fails(time.Second, first))
				g.Go(after(2*time.Hour, "late"))
			},
			took: time.Hour, joinErr: context.DeadlineExceeded,
			resultErr: []error{rpcx.ErrNoTaskCompleted, first}, err: true, failures: []error{first},
		},
		{
			name: "a daemon is no task",
			start: func(g *group) {
				g.GoDaemon(fails(0, first))
				g.GoDaemon(after(0, "daemon"))
				g.Go(after(time.Second, "answer"))
			},
			took: time.Second, result: "answer",
		},
		{
			name: "a task that was cancelled before has failed",
			start: func(g *group) {
				g.Go(after(time.Hour, "late")).Cancel()
				g.Go(after(time.Second, "answer"))
			},
			took: time.Second, result: "answer", failures: []error{rpcx.ErrTaskCancelled},
		},
		{
			name: "a task that was started elsewhere has failed",
			start: func(g *group) {
				task := rpcx.StartTask(context.Background(), fails(0, first))
				<-task.Done()
				if err := g.Add(task); err != nil {
					panic(err)
				}
				g.Go(after(time.Second, "answer"))
			},
			took: time.Second, result: "answer", failures: []error{first},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				g := rpcx.NewTaskGroup[string](t.Context(), &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess})
				test.start(g)
				start := time.Now()
				if err := g.Join(ctx); err != test.joinErr || time.Since(start) != test.took {
					t.Errorf("Join returned %v after %v, want %v after %v", err, time.Since(start), test.joinErr, test.took)
				}
				check := func() {
					t.Helper()
					result, err := g.Result()
					if result != test.result || (err == nil) != (test.resultErr == nil) || (g.Completed() == nil) != (err != nil) {
						t.Errorf("the result is %q, %v, completed %v", result, err, g.Completed())
					}
					for _, want := range test.resultErr {
						if !errors.Is(err, want) {
							t.Errorf("the error %q does not match %q", err, want)
						}
					}
					if got := g.Err(); (got != nil) != test.err || got != nil && got.Error() != err.Error() {
						t.Errorf("Err returned %v", got)
					}
					if got := g.Failures(); !slices.Equal(got, test.failures) {
						t.Errorf("the failures are %v, want %v", got, test.failures)
					}
				}
				check()
				if test.result != "" { // what the first call has cancelled is no failure
					if err := g.Join(ctx); err != nil {
						t.Errorf("the second Join returned %v", err)
					}
					check()
				}
			})
		})
	}
}

// If the tasks fail because the context of Join has ended, Join returns the cause, whether
// Join notices the tasks or the context first.
func TestWaitSuccessWithTasksThatEndWithJoinsContext(t *testing.T) {
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		g := rpcx.NewTaskGroup[string](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess})
		for range 2 {
			g.Go(fails(time.Hour, nil))
		}
		rpcx.StartTask(t.Context(), func(context.Context) (int, error) {
			cancel()
			return 0, nil
		})
		if err := g.Join(ctx); err != context.Canceled {
			t.Fatalf("Join returned %v", err)
		}
	}
}

// A task's error is its own, though it is one of those that a group makes.
func TestATaskThatFailsWithTheErrorOfAnotherGroup(t *testing.T) {
	g := rpcx.NewTaskGroup[int](t.Context(), nil)
	g.Go(func(ctx context.Context) (int, error) {
		inner := rpcx.NewTaskGroup[int](ctx, nil)
		_ = inner.Join(ctx)
		return inner.Result()
	})
	_ = g.Join(t.Context())
	if err := g.Err(); err != rpcx.ErrNoTaskCompleted {
		t.Errorf("got %v", err)
	}
}

func TestDo(t *testing.T) {
	failure := errors.New("failure")
	for _, test := range []struct {
		name string
		body func(context.Context) error
		want error
		took time.Duration
	}{
		{"a body that succeeds is followed by Join", func(context.Context) error { return nil }, nil, time.Minute},
		{"a body that fails cancels the tasks", func(context.Context) error { return failure }, failure, 0},
		{"a body whose context ends cancels the tasks", func(ctx context.Context) error {
			_, err := after(time.Hour, 0)(ctx)
			return err
		}, context.DeadlineExceeded, time.Hour / 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour/2)
				defer cancel()
				start := time.Now()
				g := rpcx.NewTaskGroup[int](ctx, nil)
				g.Go(after(time.Minute, 1))
				if err := g.Do(ctx, test.body); err != test.want {
					t.Errorf("Do returned %v", err)
				}
				if took := time.Since(start); took != test.took || !g.Joined() {
					t.Errorf("joined %v after %v", g.Joined(), took)
				}
			})
		})
	}
}

func TestDoJoinsWhenItsBodyPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		task := g.Go(after(time.Hour, 1))
		func() {
			defer func() {
				if r := recover(); r != "ouch" {
					t.Errorf("recovered %v", r)
				}
			}()
			_ = g.Do(t.Context(), func(context.Context) error { panic("ouch") })
		}()
		if !g.Joined() || !errors.Is(task.Err(), context.Canceled) {
			t.Errorf("joined %v, task %v", g.Joined(), task.Err())
		}
	})
}

// Once a group has begun to end, a task that is cancelled cannot hold it up by
// starting another one, however the group ends and whatever starts.
func TestACancelledTaskThatStartsAnotherDoesNotHoldTheGroupUp(t *testing.T) {
	type group = rpcx.TaskGroup[any]
	failure := errors.New("failure")
	fail := func(context.Context) (any, error) { return nil, failure }
	value := func(context.Context) (any, error) { return 1, nil }
	succeed := func(context.Context) error { return nil }
	ends := []struct {
		name string
		wait rpcx.WaitPolicy
		end  func(ctx context.Context, g *group) error
		want error // of the end
		late error // of the task that is started
	}{
		{"the body of Do fails", rpcx.WaitAll, func(ctx context.Context, g *group) error {
			return g.Do(ctx, func(context.Context) error { return failure })
		}, failure, rpcx.ErrTaskCancelled},
		{"the body of Do fails and one task would be enough", rpcx.WaitAny, func(ctx context.Context, g *group) error {
			return g.Do(ctx, func(context.Context) error { return failure })
		}, failure, rpcx.ErrTaskCancelled},
		{"the body of Do fails and one result would be enough", rpcx.WaitFirst, func(ctx context.Context, g *group) error {
			return g.Do(ctx, func(context.Context) error { return failure })
		}, failure, rpcx.ErrTaskCancelled},
		{"the body of Do fails and nothing was needed", rpcx.WaitNone, func(ctx context.Context, g *group) error {
			return g.Do(ctx, func(context.Context) error { return failure })
		}, failure, rpcx.ErrTaskCancelled},
		{"the body of Do panics", rpcx.WaitAll, func(ctx context.Context, g *group) (err error) {
			defer func() { err, _ = recover().(error) }()
			return g.Do(ctx, func(context.Context) error { panic(failure) })
		}, failure, rpcx.ErrTaskCancelled},
		{"the context of Do ends", rpcx.WaitAll, func(ctx context.Context, g *group) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return g.Do(ctx, succeed)
		}, context.DeadlineExceeded, rpcx.ErrTaskGroupJoined},
		{"the context of Do ends in its body", rpcx.WaitAll, func(ctx context.Context, g *group) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return g.Do(ctx, func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
		}, context.DeadlineExceeded, rpcx.ErrTaskCancelled},
		{"a task fails", rpcx.WaitAll, func(ctx context.Context, g *group) error {
			g.Go(fail)
			return g.Do(ctx, succeed)
		}, nil, rpcx.ErrTaskGroupJoined},
		{"one task is enough", rpcx.WaitAny, func(ctx context.Context, g *group) error {
			g.Go(value)
			return g.Join(ctx)
		}, nil, rpcx.ErrTaskGroupJoined},
		{"one success is enough", rpcx.WaitSuccess, func(ctx context.Context, g *group) error {
			g.Go(fail)
			g.Go(value)
			return g.Join(ctx)
		}, nil, rpcx.ErrTaskGroupJoined},
		{"one result is enough", rpcx.WaitFirst, func(ctx context.Context, g *group) error {
			g.Go(value)
			return g.Join(ctx)
		}, nil, rpcx.ErrTaskGroupJoined},
		{"no task is needed", rpcx.WaitNone, func(ctx context.Context, g *group) error { return g.Join(ctx) }, nil, rpcx.ErrTaskGroupJoined},
	}
	starts := map[string]func(g *group, f func(context.Context) (any, error)) error{
		"a task":   func(g *group, f func(context.Context) (any, error)) error { return g.Go(f).Err() },
		"a daemon": func(g *group, f func(context.Context) (any, error)) error { return g.GoDaemon(f).Err() },
		"a task that it waits for": func(g *group, f func(context.Context) (any, error)) error {
			_, err := g.Go(f).Wait(context.Background())
			return err
		},
	}
	for _, c := range ends {
		for what, start := range starts {
			for _, limit := range []int{0, 2} {
				t.Run(fmt.Sprintf("%s/%s/limit %d", c.name, what, limit), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						g := rpcx.NewTaskGroup[any](t.Context(), &rpcx.TaskGroupOptions{Wait: c.wait, Limit: limit, Retain: true})
						var late []error
						g.Go(func(ctx context.Context) (any, error) {
							<-ctx.Done()
							time.Sleep(time.Second) // the others have finished
							for range 2 {
								late = append(late, start(g, func(ctx context.Context) (any, error) {
									t.Error("the late task is run")
									<-ctx.Done()
									return nil, ctx.Err()
								}))
							}
							return nil, nil
						})
						synctest.Wait()
						if err := c.end(t.Context(), g); err != c.want {
							t.Errorf("the group ended with %v, want %v", err, c.want)
						}
						if !slices.Equal(late, []error{c.late, c.late}) {
							t.Errorf("the late tasks ended with %v, want %v", late, c.late)
						}
						if !g.Joined() {
							t.Error("the group is not joined")
						}
					})
				})
			}
		}
	}
}

// A task that was started elsewhere stays there, and goes on.
func TestNothingIsAddedWhileDoCancelsTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("failure")
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		elsewhere := rpcx.StartTask(t.Context(), after(time.Hour, 1))
		task := g.Go(func(ctx context.Context) (int, error) {
			<-ctx.Done()
			for _, add := range []func(*rpcx.Task[int]) error{g.Add, g.AddDaemon} {
				if err := add(elsewhere); err != rpcx.ErrTaskGroupJoined {
					t.Errorf("got %v", err)
				}
			}
			return 0, nil
		})
		synctest.Wait()
		if err := g.Do(t.Context(), func(context.Context) error { return failure }); err != failure {
			t.Errorf("Do returned %v", err)
		}
		if err := task.Err(); err != nil {
			t.Error(err)
		}
		if v, err := elsewhere.Wait(t.Context()); v != 1 || err != nil {
			t.Errorf("the task that was started elsewhere: %v, %v", v, err)
		}
	})
}

// Tasks are cancelled, and the group goes on.
func TestTasksMayBeAddedWhileCancelRemainingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Retain: true})
		g.Go(func(ctx context.Context) (int, error) {
			<-ctx.Done()
			g.Go(after(time.Hour, 2))
			return 1, nil
		})
		synctest.Wait()
		g.CancelRemaining()
		if err := g.Join(t.Context()); err != nil {
			t.Error(err)
		}
		if results, err := g.Results(); !slices.Equal(results, []int{1, 2}) || err != nil {
			t.Errorf("got %v, %v", results, err)
		}
	})
}

func TestWhoWaitsInNextDoneComesBeforeJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		first, second := g.Go(after(time.Second, 1)), g.Go(after(2*time.Second, 2))
		taker := rpcx.StartTask(t.Context(), g.NextDone)
		synctest.Wait()
		if err := g.Join(t.Context()); err != nil {
			t.Error(err)
		}
		if task, err := taker.Wait(t.Context()); task != first || err != nil {
			t.Errorf("took %v, %v", task, err)
		}
		if g.Completed() != second {
			t.Error("Join has not seen the second")
		}
	})
}

func TestAnAbandonedWaitTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		g.Go(after(time.Minute, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.NextDone(ctx); err != context.DeadlineExceeded {
			t.Errorf("NextDone returned %v", err)
		}
		for range g.All(ctx) {
			t.Error("All went on")
		}
		if v, err := g.NextResult(t.Context()); v != 1 || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
		_ = g.Join(t.Context())
	})
}

// A goroutine that a task leaves behind may wait in the group with the task's
// context while the task finishes.
func TestNextDoneWithTheContextOfATaskThatFinishes(t *testing.T) {
	noLeak(t)
	for range 5000 {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		var left sync.WaitGroup
		g.Go(func(ctx context.Context) (int, error) {
			left.Go(func() { _, _ = g.NextDone(ctx) })
			runtime.Gosched()
			return 0, nil
		})
		if err := g.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		left.Wait()
	}
}

func TestAllCanBeBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[int](t.Context(), nil)
		for i := range 4 {
			g.Go(after(time.Duration(4-i)*time.Second, i))
		}
		var got []int
		for range 2 {
			for task := range g.All(t.Context()) {
				v, _ := task.Result()
				if got = append(got, v); len(got)%2 == 0 {
					break
				}
			}
		}
		if !slices.Equal(got, []int{3, 2, 1, 0}) {
			t.Errorf("got %v", got)
		}
		_ = g.Join(t.Context())
	})
}

// Join waits until a cancelled task has finished, also if the goroutine is not the
// group's.
func TestJoinWaitsForCancelledTasksThatWereStartedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ignoresCancel := func(context.Context) (int, error) {
			time.Sleep(time.Minute)
			return 1, nil
		}
		for _, add := range []func(*rpcx.TaskGroup[int], *rpcx.Task[int]) error{
			(*rpcx.TaskGroup[int]).Add, (*rpcx.TaskGroup[int]).AddDaemon,
		} {
			g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Wait: rpcx.WaitNone})
			task := rpcx.StartTask(t.Context(), ignoresCancel)
			synctest.Wait()
			if err := add(g, task); err != nil {
				t.Fatal(err)
			}
			if err := g.Join(t.Context()); err != nil {
				t.Error(err)
			}
			if v, err := task.Result(); v != 1 || err != nil {
				t.Errorf("after Join the task has %v, %v", v, err)
			}
		}
	})
}

// Each function that a group starts runs on a goroutine that the errgroup has started,
// also where a goroutine takes over from another one.
func TestTasksRunOnTheGoroutinesOfAnErrgroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := rpcx.NewTaskGroup[bool](t.Context(), &rpcx.TaskGroupOptions{Limit: 1, Retain: true})
		onErrgroup := func(context.Context) (bool, error) {
			return strings.Contains(string(debug.Stack()), "created by golang.org/x/sync/errgroup.(*Group).Go"), nil
		}
		outside := rpcx.StartTask(t.Context(), after(time.Second, true))
		if err := g.Add(outside); err != nil {
			t.Fatal(err)
		}
		tasks := map[string]*rpcx.Task[bool]{
			"a daemon": g.GoDaemon(onErrgroup),
			"a task that waits for a task that was started elsewhere": g.Go(onErrgroup),
			"a task on the same goroutine":                            g.Go(onErrgroup),
		}
		g.Go(func(context.Context) (bool, error) {
			runtime.Goexit()
			return false, nil
		})
		tasks["a task after one that exits"] = g.Go(onErrgroup)
		for range g.All(t.Context()) {
		}
		if err := g.Join(t.Context()); err != nil {
			t.Error(err)
		}
		for name, task := range tasks {
			if ok, err := task.Result(); !ok || err != nil {
				t.Errorf("%s: %v, %v", name, ok, err)
			}
		}
	})
}

// TestTaskGroupRaces has everything happen to one group at the same time.
func TestTaskGroupRaces(t *testing.T) {
	noLeak(t)
	for range 200 {
		g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Limit: 4, Retain: true})
		work := func(ctx context.Context) (int, error) {
			runtime.Gosched()
			return 1, ctx.Err()
		}
		others := rpcx.NewTaskGroup[int](t.Context(), nil)
		for _, do := range []func(){
			func() { g.Go(work) },
			func() { g.GoDaemon(work) },
			func() { _ = g.Add(rpcx.StartTask(t.Context(), work)) },
			func() { g.Go(work).Cancel() },
			func() { _, _ = g.Go(work).Wait(t.Context()) },
			func() { _, _ = g.NextDone(t.Context()) },
			func() { g.CancelRemaining() },
			func() { g.Len(); g.Completed(); _, _ = g.Results(); g.Errs() },
		} {
			others.Go(func(context.Context) (int, error) {
				for range 10 {
					do()
				}
				return 0, nil
			})
		}
		for range 2 {
			others.Go(func(context.Context) (int, error) { return 0, g.Join(t.Context()) })
		}
		if err := others.Join(t.Context()); err != nil || others.Err() != nil {
			t.Fatal(err, others.Err())
		}
		if err := g.Join(t.Context()); err != nil || !g.Joined() {
			t.Fatal(err)
		}
		for i, err := range g.Errs() {
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatalf("task %d: %v", i, err)
			}
		}
	}
}

func TestATasksContext(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), time.Hour)
		defer cancel()
		g := rpcx.NewTaskGroup[context.Context](parent, nil)
		task := g.Go(func(ctx context.Context) (context.Context, error) {
			if ctx.Err() != nil || ctx.Value(key{}) != "value" {
				t.Errorf("error %v, value %v", ctx.Err(), ctx.Value(key{}))
			}
			if got, _ := ctx.Deadline(); time.Until(got) != time.Hour {
				t.Errorf("deadline in %v", time.Until(got))
			}
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			before := runtime.NumGoroutine()
			stop := context.AfterFunc(child, func() {})
			stop()
			if after := runtime.NumGoroutine(); after > before {
				t.Error("a context made from it needs a goroutine")
			}
			return ctx, nil
		})
		ctx, err := task.Wait(t.Context())
		if err != nil || ctx.Err() != context.Canceled {
			t.Errorf("error %v; when the function has returned the context's is %v", err, ctx.Err())
		}
		unasked := g.Go(func(ctx context.Context) (context.Context, error) { return ctx, nil })
		ctx, _ = unasked.Wait(t.Context())
		cancel()
		select {
		case <-ctx.Done():
		default:
			t.Error("a context that is asked for after the function has returned has not ended")
		}
		if ctx.Err() != context.Canceled {
			t.Errorf("its error became %v", ctx.Err())
		}
		_ = g.Join(t.Context())
	})
}

func TestATaskThatExitsIsAFailure(t *testing.T) {
	g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Limit: 1})
	exits := g.Go(func(context.Context) (int, error) {
		runtime.Goexit()
		return 0, nil
	})
	next := g.Go(after(0, 1)) // needs another goroutine
	if _, err := exits.Wait(t.Context()); err == nil {
		t.Error("no error")
	}
	if v, err := next.Wait(t.Context()); v != 1 || err != nil {
		t.Errorf("the next task: %v, %v", v, err)
	}
	if err := g.Join(t.Context()); err != nil || g.Completed() != exits {
		t.Errorf("Join returned %v", err)
	}
}

// slowPanic takes its time to be printed.
type slowPanic struct{}

func (slowPanic) Error() string {
	for range 10_000 {
		runtime.Gosched()
	}
	return "ouch"
}

// The test runs itself as a program that ends well if Join returns.
func TestAPanicEndsTheProgram(t *testing.T) {
	const variable = "RPCX_TEST_PANIC"
	programs := map[string]func(){
		"while Join waits": func() {
			g := rpcx.NewTaskGroup[int](t.Context(), nil)
			g.Go(func(context.Context) (int, error) { panic(slowPanic{}) })
			_ = g.Join(t.Context())
		},
		"when Join cancels": func() {
			g := rpcx.NewTaskGroup[int](t.Context(), &rpcx.TaskGroupOptions{Wait: rpcx.WaitNone})
			started := make(chan struct{})
			g.Go(func(ctx context.Context) (int, error) {
				close(started)
				<-ctx.Done()
				panic(slowPanic{})
			})
			<-started
			_ = g.Join(t.Context())
		},
	}
	if program := programs[os.Getenv(variable)]; program != nil {
		program()
		os.Exit(0)
	}
	for name := range programs {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), variable+"="+name)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%s: the program went on", name)
		}
		if !strings.Contains(string(out), "ouch") || !strings.Contains(string(out), t.Name()) {
			t.Errorf("%s: the panic and the place of the panic are not in\n%s", name, out)
		}
	}
}

func TestTaskOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		task := rpcx.StartTask(t.Context(), after(time.Second, 1))
		if _, err := task.Result(); err != rpcx.ErrNotDone || task.Err() != nil {
			t.Errorf("before it has finished: %v, %v", err, task.Err())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := task.Wait(ctx); err != context.DeadlineExceeded {
			t.Errorf("Wait returned %v", err)
		}
		<-task.Done()
		task.Cancel()
		if v, err := task.Result(); v != 1 || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
	})
}

// A group that lives for long holds no more than what runs.
func TestFinishedTasksAreReleased(t *testing.T) {
	noLeak(t)
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	tasks := 1_000_000
	if race.Enabled {
		tasks = 50_000
	}
	for _, test := range []struct {
		name string
		run  func(t *testing.T, g *rpcx.TaskGroup[[]byte], spawn func())
	}{
		{"when they are taken one by one", func(t *testing.T, g *rpcx.TaskGroup[[]byte], spawn func()) {
			for range tasks {
				spawn()
				if _, err := g.NextResult(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"when Join takes them", func(t *testing.T, g *rpcx.TaskGroup[[]byte], spawn func()) {
			g.Go(func(context.Context) ([]byte, error) { // Join waits as long as this runs
				for range tasks {
					for g.Len() > 100 {
						runtime.Gosched()
					}
					spawn()
				}
				return nil, nil
			})
			if err := g.Join(t.Context()); err != nil || g.Err() != nil {
				t.Fatal(err, g.Err())
			}
		}},
		{"when they are daemons", func(t *testing.T, g *rpcx.TaskGroup[[]byte], _ func()) {
			for range tasks / 10 {
				if _, err := g.GoDaemon(func(context.Context) ([]byte, error) { return make([]byte, 100), nil }).Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := rpcx.NewTaskGroup[[]byte](t.Context(), nil)
			before := heap()
			test.run(t, g, func() {
				g.Go(func(context.Context) ([]byte, error) { return make([]byte, 100), nil })
			})
			if grown := int64(heap()) - int64(before); grown > 1<<20 {
				t.Errorf("the heap has grown by %d bytes", grown)
			}
			if err := g.Join(t.Context()); err != nil || g.Len() != 0 {
				t.Errorf("Join returned %v, Len %d", err, g.Len())
			}
		})
	}
}

// TestTaskAllocs bounds the allocations of a task that does nothing, those of the
// function that is passed and of the group, a hundredth each, included.
func TestTaskAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	const tasks = 100
	ctx := context.Background()
	allocs := testing.AllocsPerRun(100, func() {
		g := rpcx.NewTaskGroup[int](ctx, nil)
		for i := range tasks {
			g.Go(func(context.Context) (int, error) { return i, nil })
		}
		if err := g.Join(ctx); err != nil {
			t.Fatal(err)
		}
	}) / tasks
	t.Logf("%.2f allocations a task", allocs)
	if allocs > 3 {
		t.Errorf("%.2f allocations a task, want at most 3", allocs)
	}
}

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
