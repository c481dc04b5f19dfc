package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// groupRunner runs a case. What is one turn of the original's event loop takes a
// few nanoseconds here, and so happens in the same order.
type groupRunner struct {
	*testing.T
	c      groupCase
	start  time.Time
	group  *TaskGroup[any]
	cancel context.CancelFunc // of main

	mu    sync.Mutex
	tasks map[string]*Task[any]
	ends  map[string]int64
}

func runGroupCase(t *testing.T, c groupCase, retain bool) {
	policies := map[string]WaitPolicy{"all": WaitAll, "any": WaitAny, "object": WaitFirst, "none": WaitNone}
	policy, ok := policies[c.Wait]
	if !ok {
		t.Fatalf("unknown policy %q", c.Wait)
	}
	opts := &TaskGroupOptions{Wait: policy, Retain: retain}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &groupRunner{
		T: t, c: c, start: time.Now(), group: NewTaskGroup[any](context.Background(), opts), cancel: cancel,
		tasks: make(map[string]*Task[any]), ends: make(map[string]int64),
	}
	for _, task := range c.Tasks {
		if task.Added == "constructor" {
			r.apply(ctx, groupOp{Op: "start_outside", Task: task.Name})
			r.apply(ctx, groupOp{Op: "add_existing", Task: task.Name})
		}
	}
	external := NewTaskGroup[groupOpExpect](context.Background(), &TaskGroupOptions{Retain: true})
	for _, op := range c.External {
		external.Go(func(context.Context) (groupOpExpect, error) {
			time.Sleep(time.Duration(op.AtMs)*time.Millisecond + time.Microsecond)
			got, _ := r.apply(ctx, op)
			if op.Op == "cancel_remaining" {
				got.ReturnedAt = got.AtMs
			}
			return got, nil
		})
	}

	var err error
	if c.Style == "context" {
		err = r.group.Do(ctx, r.body)
	} else {
		err = r.body(ctx)
	}
	r.check(err)

	if err := external.Join(context.Background()); err != nil {
		t.Fatal(err)
	}
	got, err := external.Results()
	if err != nil {
		t.Fatal(err)
	}
	expected := c.externals()
	if len(expected) != len(c.Expect.External) {
		t.Errorf("more is expected from outside than happens: %+v", c.Expect.External)
	}
	for i, want := range expected {
		if got[i].Raises != want.Raises || got[i].Message != want.Message || got[i].ReturnedAt != want.ReturnedAt {
			t.Errorf("external %s: got %+v, want %+v", want.Op, got[i], want)
		}
	}
	for _, task := range r.tasks {
		task.Cancel()
		<-task.Done()
	}
}

// now is the time on the case's clock.
func (r *groupRunner) now() int64 { return time.Since(r.start).Milliseconds() }

// body does what main does.
func (r *groupRunner) body(ctx context.Context) error {
	for i, op := range r.c.Actions {
		got, err := r.apply(ctx, op)
		if i >= len(r.c.Expect.Actions) {
			r.Errorf("%s was not expected to happen", op.Op)
			return err
		}
		want := r.c.Expect.Actions[i]
		// The original goes on listing daemons that have finished.
		want.Daemons = slices.DeleteFunc(slices.Clone(want.Daemons), r.ended)
		if diff := gocmp.Diff(want, got); diff != "" {
			r.Errorf("action %d, want (-) and got (+):\n%s", i, diff)
		}
		if op.Op == "raise" || errors.Is(err, context.Canceled) {
			return err
		}
	}
	if len(r.c.Actions) < len(r.c.Expect.Actions) {
		r.Error("more actions expected than there are")
	}
	return nil
}

// apply does an action, and says what happened.
func (r *groupRunner) apply(ctx context.Context, op groupOp) (groupOpExpect, error) {
	got := groupOpExpect{Op: op.Op}
	var err error
	var task *Task[any]
	begun := make(chan struct{})
	switch op.Op {
	case "spawn":
		i := r.index(op.Task)
		f := r.function(i, begun)
		if r.c.Tasks[i].Daemon {
			task = r.group.GoDaemon(f)
		} else {
			task = r.group.Go(f)
		}
		select {
		case <-begun:
			r.setTask(op.Task, task)
		case <-task.Done():
			err = task.Err()
		}
	case "start_outside":
		r.setTask(op.Task, StartTask(context.Background(), r.function(r.index(op.Task), begun)))
		<-begun
	case "add_existing":
		if r.c.Tasks[r.index(op.Task)].Daemon {
			err = r.group.AddDaemon(r.task(op.Task))
		} else {
			err = r.group.Add(r.task(op.Task))
		}
	case "sleep":
		err = sleep(ctx, max(time.Duration(op.Ms)*time.Millisecond, turns))
	case "raise":
		err = namedErr(op.Error)
	case "next_done":
		if task, err = r.group.NextDone(ctx); err == nil {
			name := r.name(task)
			got.Task = &name
		} else if err == ErrNoRemainingTasks { // the original returns None
			err = nil
		}
	case "next_result":
		got.Result, err = r.group.NextResult(ctx)
	case "iterate":
		got.Tasks = []string{}
		for task := range r.group.All(ctx) {
			got.Tasks = append(got.Tasks, r.name(task))
		}
		if err = ctx.Err(); err != nil {
			got.Tasks = nil
		}
	case "observe":
		got.Joined = r.group.Joined()
		if completed := r.group.Completed(); completed != nil {
			name := r.name(completed)
			got.Completed = &name
		}
		got.Tasks, got.Daemons = r.held()
		if len(got.Tasks) != r.group.Len() {
			r.Errorf("Len is %d with %q in the group", r.group.Len(), got.Tasks)
		}
	case "join":
		err = r.group.Join(ctx)
	case "cancel_remaining":
		r.group.CancelRemaining()
	case "cancel_task":
		r.task(op.Task).Cancel()
	case "cancel_main":
		r.cancel()
	default:
		r.Fatalf("unknown action %q", op.Op)
	}
	got.AtMs = r.now()
	got.Raises, got.Message = errName(err)
	return got, err
}

func (r *groupRunner) index(name string) int {
	i := slices.IndexFunc(r.c.Tasks, func(task groupTask) bool { return task.Name == name })
	if i < 0 {
		r.Fatalf("no task %q", name)
	}
	return i
}

func (r *groupRunner) setTask(name string, task *Task[any]) {
	r.mu.Lock()
	r.tasks[name] = task
	r.mu.Unlock()
	// Owner: the test. End: the task has finished.
	go func() {
		<-task.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ends[name] = r.now()
	}()
}

func (r *groupRunner) task(name string) *Task[any] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[name]
}

// ended reports whether a task has finished.
func (r *groupRunner) ended(name string) bool {
	_, err := r.task(name).Result()
	return err != ErrNotDone
}

func (r *groupRunner) name(task *Task[any]) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, known := range r.tasks {
		if known == task {
			return name
		}
	}
	return "unknown"
}

// held returns the names of the tasks and of the daemons in the group.
func (r *groupRunner) held() (tasks, daemons []string) {
	r.group.mu.Lock()
	held := r.group.retained
	if !r.group.opts.Retain {
		held = r.group.running.appendTo(r.group.waiting.appendTo(nil))
	}
	background := r.group.daemons.appendTo(nil)
	r.group.mu.Unlock()
	tasks, daemons = []string{}, []string{}
	for _, task := range held {
		tasks = append(tasks, r.name(task))
	}
	for _, task := range background {
		daemons = append(daemons, r.name(task))
	}
	slices.Sort(tasks)
	slices.Sort(daemons)
	return tasks, daemons
}

// turn is the time that task i takes for a turn: so tasks whose time is up
// together finish in the order in which they are listed.
func turn(i int) time.Duration { return time.Duration(i + 1) }

// turns is longer than a turn of each task.
const turns = 50 * time.Nanosecond

// function returns what task i does. It sends to begun first.
func (r *groupRunner) function(i int, begun chan<- struct{}) func(context.Context) (any, error) {
	task := r.c.Tasks[i]
	return func(ctx context.Context) (any, error) {
		begun <- struct{}{}
		// It is started now, but does nothing before the next turn.
		err := sleep(ctx, turn(i))
		caught := err == nil && task.OnCancel != nil
		if err == nil && task.Duration == "forever" {
			<-ctx.Done()
			err = ctx.Err()
		} else if err == nil {
			ms, _ := task.Duration.(json.Number).Int64()
			err = sleep(ctx, time.Duration(ms)*time.Millisecond+turn(i))
		}
		if err != nil {
			time.Sleep(turn(i) + turns) // a cancellation takes a turn
		}
		switch {
		case err != nil && caught:
			time.Sleep(time.Duration(task.OnCancel.FinishAfter) * time.Millisecond)
			if task.OnCancel.Raise != "" {
				return nil, namedErr(task.OnCancel.Raise)
			}
			return task.OnCancel.Return, nil
		case err != nil:
			return nil, err
		case task.Raises != "":
			return nil, namedErr(task.Raises)
		}
		return task.Returns, nil
	}
}

// sleep returns ctx's error if it ends before d has passed.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// check compares what is the case when main has finished.
func (r *groupRunner) check(mainErr error) {
	time.Sleep(10 * turns) // for what is cancelled to end
	synctest.Wait()
	want := r.c.Expect
	if raised, _ := errName(mainErr); raised != want.Main.Raised || r.now() != want.Main.FinishedAt {
		r.Errorf("finished with %q at %d ms, want %q at %d ms", raised, r.now(), want.Main.Raised, want.Main.FinishedAt)
	}
	if r.group.Joined() != want.Joined {
		r.Errorf("Joined is %v", r.group.Joined())
	}
	var completed string
	if task := r.group.Completed(); task != nil {
		completed = r.name(task)
	}
	allowed := want.CompletedOneOf
	if allowed == nil && want.Completed != nil {
		allowed = []string{*want.Completed}
	}
	if completed != "" || len(allowed) > 0 {
		if !slices.Contains(allowed, completed) {
			r.Errorf("completed %q, want one of %q", completed, allowed)
		}
	}

	r.mu.Lock()
	tasks, ends := maps.Clone(r.tasks), maps.Clone(r.ends)
	r.mu.Unlock()
	states := make(map[string]any)
	for name, task := range tasks {
		if value, err := task.Result(); err == ErrNotDone {
			states[name] = "running"
		} else if errors.Is(err, context.Canceled) {
			states[name] = "cancelled"
		} else if err != nil {
			states[name] = map[string]any{"raised": err.Error()}
		} else {
			states[name] = map[string]any{"returned": value}
		}
	}
	if diff := gocmp.Diff(want.TasksThen, states); diff != "" {
		r.Errorf("tasks, want (-) and got (+):\n%s", diff)
	}
	if diff := gocmp.Diff(want.TaskEnd, ends); diff != "" {
		r.Errorf("ends, want (-) and got (+):\n%s", diff)
	}

	value, err := r.group.Result()
	r.checkValue("result", want.Result, value, err)
	if err := r.group.Err(); errors.Is(err, ErrNotJoined) {
		r.checkValue("exception", want.Exception, nil, err)
	} else {
		r.checkValue("exception", want.Exception, errValue(err), nil)
	}
	results, err := r.group.Results()
	r.checkValue("results", want.Results, append([]any{}, results...), err)
	if errs := r.group.Errs(); errs == nil {
		r.checkValue("exceptions", want.Exceptions, nil, ErrNotJoined)
	} else {
		names := []any{}
		for _, err := range errs {
			names = append(names, errValue(err))
		}
		r.checkValue("exceptions", want.Exceptions, names, nil)
	}
}

// errValue is an error as the cases list it.
func errValue(err error) any {
	if err == nil {
		return nil
	}
	name, _ := errName(err)
	return name
}

// checkValue compares a property of the group. The order of a list is open.
func (r *groupRunner) checkValue(what string, want groupValue, value any, err error) {
	r.Helper()
	name, message := errName(err)
	if want.RaisesOneOf != nil {
		if !slices.Contains(want.RaisesOneOf, name) {
			r.Errorf("%s: got error %q, want one of %q", what, name, want.RaisesOneOf)
		}
		return
	}
	if name != want.Raises || message != want.Message {
		r.Errorf("%s: got error %q (%s), want %q (%s)", what, name, message, want.Raises, want.Message)
		return
	}
	sorted := cmpopts.SortSlices(func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	if err == nil && !gocmp.Equal(want.Value, value, sorted) {
		r.Errorf("%s: got %v, want %v", what, value, want.Value)
	}
}
