package rpcx_test

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

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
