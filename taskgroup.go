package rpcx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// WaitPolicy selects the tasks for which [TaskGroup.Join] waits before cancelling the
// other tasks. Join never waits for daemons. The end of Join's context ends the waiting.
// So does a failed task, except under WaitSuccess.
//
//	             Join waits until                then Join cancels  Completed is
//	WaitAll      all tasks have finished         daemons            the first task that finished
//	WaitAny      one task has finished           all other tasks    that task
//	WaitSuccess  one task has returned no        all other tasks    that task; nil if all
//	             error, or all have finished                        have failed
//	WaitFirst    one task has a result that is   all other tasks    that task
//	             not nil, or all have finished
//	WaitNone     –                               all tasks          nil
//
// If a task fails before, Join stops waiting and cancels the other tasks. Completed is
// then the failed task, unless under WaitAll another task has finished first. Under
// WaitSuccess, Join goes on waiting for the other tasks, and Failures has the error.
type WaitPolicy uint8

const (
	// WaitAll waits for every task: the tasks are the parts of one piece of work. WaitAll
	// is the default.
	WaitAll WaitPolicy = iota
	// WaitAny waits for any task: one outcome is enough, and may be nil.
	WaitAny
	// WaitFirst waits for the first result that is not nil. A task without a result
	// returns nil and no error, and the waiting goes on. An error ends the waiting. If
	// the type T has no nil, WaitFirst is the same as WaitAny. (WaitFirst is curio's
	// wait=object.)
	WaitFirst
	// WaitNone waits for no task: tasks unfinished at the call of Join are not needed.
	WaitNone
	// WaitSuccess waits for the first task that returns no error: one of several servers
	// is enough, and a few may be down. [TaskGroup.Failures] keeps the errors of earlier
	// failed tasks. If every task fails, Result and Err return all of the errors.
	WaitSuccess
)

// TaskGroupOptions holds the settings of a [TaskGroup]. The zero value is the default.
type TaskGroupOptions struct {
	Wait WaitPolicy // tasks that Join waits for; WaitAll by default
	// Retain keeps finished tasks, for Results and Errs. Without Retain, NextDone or Join
	// releases each taken task. So a group can live for days, provided that a goroutine
	// is in NextDone or Join all the time.
	Retain bool
	// Limit is the maximum number of running tasks, daemons not counted. If Limit is 0 or
	// negative, there is no limit. Tasks over the limit wait until other tasks have
	// finished, in the order of adding.
	Limit int
}

// TaskGroup runs tasks that end together: when Join returns, no task of the group runs
// any more. An errgroup carries the goroutines. Unlike an errgroup, a TaskGroup keeps the
// results and need not wait for every task. The behaviour follows the task groups of
// aiorpcX and curio. [NewTaskGroup] makes a group. The methods may be called from any
// goroutine.
//
// [TaskGroup.Go] starts tasks. [TaskGroup.NextDone] and [TaskGroup.All] take tasks in the
// order of finishing. [TaskGroup.Join] handles the remaining tasks and must be called;
// [TaskGroup.Do] calls Join. The error of a task stays with the task, and has no effect
// on other tasks until Join takes the task. A task must not wait for its own group, by
// Join or CancelRemaining or by taking tasks until none remain: each call waits for the
// task.
type TaskGroup[T any] struct {
	// Immutable.
	ctx          context.Context
	opts         TaskGroupOptions
	runWaitingFn func() error // g.runWaitingTasks, bound once for all goroutines

	// goroutines carries every goroutine of the group. A goroutine is started under mu,
	// by a goroutine of the group, or for a task in the list running. Join calls Wait
	// when the group is closed and no task is left. So no start races with Wait.
	goroutines errgroup.Group

	mu             sync.Mutex
	changed        sync.Cond   // see updateDecisionLocked
	waiting        taskList[T] // not started: no goroutine yet, or over Limit
	running        taskList[T]
	daemons        taskList[T] // not finished
	finished       taskList[T] // not taken, in the order of finishing
	retained       []*Task[T]  // with Retain, every task except daemons
	completed      *Task[T]    // see WaitPolicy
	failures       []error     // see Failures
	workerStarting bool        // a goroutine was started for a waiting task, and has not taken the task
	nextCalls      int         // calls of NextDone in progress
	joinCalls      int         // calls of Join in progress
	decided        bool        // the calls of Join have waited for enough tasks
	taskFailed     bool        // the last task that Join took has failed
	bodyFailed     bool        // the body of Do has failed
	closed         bool        // new tasks are refused with ErrTaskGroupJoined
	joined         bool
}

// NewTaskGroup returns an empty group. The contexts of tasks derive from ctx. The end of
// ctx cancels the tasks, but does not end the group. So a group under [TimeoutAfter] must
// be made inside the function, with the function's context. If opts is nil, the options
// are the zero TaskGroupOptions. If ctx is nil, or Wait is not a WaitPolicy, NewTaskGroup
// panics.
func NewTaskGroup[T any](ctx context.Context, opts *TaskGroupOptions) *TaskGroup[T] {
	mustHaveContext("NewTaskGroup", ctx)
	g := &TaskGroup[T]{ctx: ctx}
	if opts != nil {
		g.opts = *opts
	}
	if g.opts.Wait > WaitSuccess {
		panic(fmt.Sprintf("rpcx: NewTaskGroup with a WaitPolicy that does not exist: %d", g.opts.Wait))
	}
	g.runWaitingFn = g.runWaitingTasks
	g.changed.L = &g.mu
	return g
}

// Go starts f as a task of the group, at once or when Limit allows, and returns without
// waiting. The context of f ends when the task is cancelled, when the context of the
// group ends, and when f returns. If the context ends before the call of f, the task
// finishes without the call.
//
// Tasks may add tasks, and tasks may be added while Join waits. Once the group has begun
// to end, a new task is cancelled at birth: f is not called, and the task has finished
// when Go returns. If Join cancels tasks, or has done so, the error of the new task is
// [ErrTaskGroupJoined]. If the body of [TaskGroup.Do] has failed, the error is
// [ErrTaskCancelled] until Join begins.
//
// If f panics, the program ends: handing the panic to Join would delay or hide the panic.
func (g *TaskGroup[T]) Go(f func(context.Context) (T, error)) *Task[T] {
	mustHave("TaskGroup.Go", "function", f)
	return g.enqueueTask(&Task[T]{function: f})
}

// GoDaemon starts f as a daemon: a background task that serves the other tasks. Join does
// not wait for daemons, but cancels daemons after waiting for the other tasks. NextDone,
// Results, Len and Limit ignore daemons. The error of a daemon has no effect.
func (g *TaskGroup[T]) GoDaemon(f func(context.Context) (T, error)) *Task[T] {
	mustHave("TaskGroup.GoDaemon", "function", f)
	return g.enqueueTask(&Task[T]{function: f, daemon: true})
}

// enqueueTask adds a new task, and starts a goroutine if the task needs a goroutine.
func (g *TaskGroup[T]) enqueueTask(t *Task[T]) *Task[T] {
	t.ctx.parent, t.group = g.ctx, g
	g.mu.Lock()
	if err := g.refusalLocked(); err != nil {
		g.mu.Unlock()
		t.group, t.err = nil, err
		t.publishOutcome()
		return t
	}
	defer g.mu.Unlock()
	if t.daemon {
		g.daemons.push(t)
		g.startGoroutine(t)
		return t
	}
	g.waiting.push(t)
	g.retainLocked(t)
	g.startWorkerLocked()
	return t
}

// refusalLocked returns the error for a new task if the group has begun to end, or nil.
// Callers must hold g.mu.
func (g *TaskGroup[T]) refusalLocked() error {
	switch {
	case g.closed:
		return ErrTaskGroupJoined
	case g.bodyFailed:
		return ErrTaskCancelled
	}
	return nil
}

// retainLocked keeps t if Retain is set. Callers must hold g.mu.
func (g *TaskGroup[T]) retainLocked(t *Task[T]) {
	if g.opts.Retain {
		g.retained = append(g.retained, t)
	}
}

// Add puts a task started by [StartTask] into the group, finished or not. If the task is
// or was in a group, the error is [ErrTaskInGroup]. If the group refuses new tasks, as in
// Go, the error is [ErrTaskGroupJoined], and the task runs on without a group. Limit does
// not delay the task, but counts the task.
func (g *TaskGroup[T]) Add(t *Task[T]) error { return g.adoptTask(t, false) }

// AddDaemon is Add for a task that becomes a daemon, as in GoDaemon.
func (g *TaskGroup[T]) AddDaemon(t *Task[T]) error { return g.adoptTask(t, true) }

// adoptTask puts a task that was started without a group into the group.
func (g *TaskGroup[T]) adoptTask(t *Task[T], daemon bool) error {
	t.mu.Lock() // keeps the task from finishing meanwhile
	defer t.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.group != nil {
		return ErrTaskInGroup
	}
	if g.refusalLocked() != nil {
		return ErrTaskGroupJoined
	}
	t.group, t.daemon = g, daemon
	switch {
	case !daemon:
		g.retainLocked(t)
		if t.finished {
			g.finished.push(t)
			g.updateDecisionLocked()
		} else {
			g.running.push(t)
		}
	case !t.finished:
		g.daemons.push(t)
	}
	return nil
}

// removeRunning records that t has finished. The result is a waiting task for the caller
// to run next, or nil.
func (g *TaskGroup[T]) removeRunning(t *Task[T]) (next *Task[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.daemon {
		g.daemons.remove(t)
	} else {
		g.running.remove(t)
		g.finished.push(t)
	}
	next = g.takeWaitingLocked()
	g.updateDecisionLocked()
	return next
}

// updateDecisionLocked must be called after each change of the lists. If a call of Join
// waits, updateDecisionLocked takes the finished tasks and applies the policy. So Join
// wakes up once, and not for each task. If the condition of a waiting call may have
// become true, the waiting calls wake up. Callers must hold g.mu.
func (g *TaskGroup[T]) updateDecisionLocked() {
	decided := g.decided
	for g.joinCalls > 0 && !g.decided && g.nextCalls == 0 {
		t := g.finished.pop()
		if t == nil {
			g.decided = g.unfinishedLocked() == 0
			break
		}
		g.applyPolicyLocked(t)
	}
	// A task added before Join is awake would start only to be cancelled.
	g.closed = g.closed || g.decided
	if g.nextCalls > 0 || g.decided != decided || g.closed && g.unfinishedLocked()+g.daemons.len == 0 {
		g.changed.Broadcast()
	}
}

// applyPolicyLocked decides whether the finished task t ends the waiting of Join. Callers
// must hold g.mu.
func (g *TaskGroup[T]) applyPolicyLocked(t *Task[T]) {
	wait := g.opts.Wait
	g.taskFailed = t.err != nil
	if wait == WaitSuccess && t.err != nil {
		if g.completed == nil {
			g.failures = append(g.failures, t.err)
		}
		return
	}
	if g.completed == nil && (t.err != nil || wait != WaitFirst || !isNil(t.value)) {
		g.completed = t
	}
	g.decided = g.taskFailed || wait == WaitAny || wait == WaitSuccess || wait == WaitFirst && g.completed != nil
}

// unfinishedLocked returns the number of unfinished tasks, daemons not counted. Callers
// must hold g.mu.
func (g *TaskGroup[T]) unfinishedLocked() int { return g.running.len + g.waiting.len }

// waitUntilLocked waits until ready returns true. If ctx ends before, the result is the
// cause of ctx. Callers must hold g.mu, which is released during the waiting.
func (g *TaskGroup[T]) waitUntilLocked(ctx context.Context, ready func() bool) error {
	if ready() {
		return nil
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.changed.Broadcast()
		})
		defer stop()
	}
	for !ready() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.changed.Wait()
	}
	return nil
}

// NextDone waits until a task has finished, takes the task from the group and returns the
// task. Each task is returned once, in the order of finishing. If no tasks remain, the
// error is [ErrNoRemainingTasks]. If ctx ends before a task has finished, the error is
// the cause of ctx. While a call of NextDone waits, finished tasks go to NextDone and not
// to Join.
func (g *TaskGroup[T]) NextDone(ctx context.Context) (*Task[T], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nextCalls++
	err := g.waitUntilLocked(ctx, func() bool { return g.finished.len > 0 || g.unfinishedLocked() == 0 })
	g.nextCalls--
	t := g.finished.pop()
	g.updateDecisionLocked()
	switch {
	case t != nil:
		return t, nil
	case err != nil:
		return nil, err
	}
	return nil, ErrNoRemainingTasks
}

// NextResult is NextDone for the Result of the task. The error may be the error of the
// task, [ErrNoRemainingTasks] or the cause of ctx.
func (g *TaskGroup[T]) NextResult(ctx context.Context) (T, error) {
	t, err := g.NextDone(ctx)
	if err != nil {
		var zero T
		return zero, err
	}
	return t.Result()
}

// All ranges over the tasks in the order of NextDone, until no tasks remain or ctx ends.
// Neither a failed task nor the policy ends the loop. If the loop breaks, the remaining
// tasks stay in the group. After Join, All ranges over the tasks that Join has not taken.
func (g *TaskGroup[T]) All(ctx context.Context) iter.Seq[*Task[T]] {
	return func(yield func(*Task[T]) bool) {
		for {
			t, err := g.NextDone(ctx)
			if err != nil || !yield(t) {
				return
			}
		}
	}
}

// CancelRemaining cancels the unfinished tasks, daemons excepted, and waits until the
// tasks have finished. The group does not end: a task added later is run, even if a
// cancelled task adds the new task.
func (g *TaskGroup[T]) CancelRemaining() {
	g.mu.Lock()
	tasks := g.running.appendTo(g.waiting.appendTo(nil))
	g.mu.Unlock()
	cancelTasks(tasks)
	for _, t := range tasks {
		<-t.Done()
	}
}

// Join waits for tasks as the [WaitPolicy] of the group says. Then Join cancels the
// remaining tasks, daemons included, and returns when every task has finished, however
// long the tasks take. No goroutine of the group is left. If ctx ends during the waiting,
// or a task fails together with ctx, the result is the cause of ctx. Otherwise the result
// is nil: the errors of tasks stay with the tasks (see Err). Another call of Join goes on
// with the tasks that the policy has left.
func (g *TaskGroup[T]) Join(ctx context.Context) error {
	g.mu.Lock()
	if g.joinCalls == 0 {
		g.decided, g.taskFailed = g.opts.Wait == WaitNone, false
	}
	g.joinCalls++
	g.updateDecisionLocked()
	err := g.waitUntilLocked(ctx, func() bool { return g.decided })
	if err == nil && g.taskFailed && ctx.Err() != nil {
		err = context.Cause(ctx) // Join may see a task that ends with ctx first
	}
	g.decided, g.closed = true, true
	g.changed.Broadcast() // to other calls of Join
	tasks := g.daemons.appendTo(g.running.appendTo(g.waiting.appendTo(nil)))
	g.mu.Unlock()

	cancelTasks(tasks)

	// Join waits for the lists first: added tasks may run on other goroutines, and a
	// panicking goroutine leaves the errgroup before the panic ends the program.
	g.mu.Lock()
	for g.unfinishedLocked()+g.daemons.len > 0 {
		g.changed.Wait()
	}
	g.mu.Unlock()
	_ = g.goroutines.Wait() // the error is always nil

	g.mu.Lock()
	defer g.mu.Unlock()
	g.joined = true
	g.joinCalls--
	return err
}

// Do runs body and joins the group. If body fails, Do first cancels the remaining tasks,
// and returns the error of body; otherwise Do returns the error of Join. After a failure
// of body the group refuses new tasks, so a cancelled task cannot delay Do by starting
// another task. A panic in body counts as a failure, and goes on when the group is
// joined. (Do is the with-block of the original.)
func (g *TaskGroup[T]) Do(ctx context.Context, body func(context.Context) error) (err error) {
	bodyFailed := true // stays true if body does not return
	defer func() {
		if bodyFailed {
			g.mu.Lock()
			g.bodyFailed = true
			g.mu.Unlock()
			g.CancelRemaining()
		}
		if joinErr := g.Join(ctx); err == nil {
			err = joinErr
		}
	}()
	err = body(ctx)
	bodyFailed = err != nil
	return err
}

// Joined reports whether Join has returned, or is about to return.
func (g *TaskGroup[T]) Joined() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.joined
}

// Len returns the number of tasks in the group: unfinished tasks, and with Retain also
// finished tasks. Daemons do not count.
func (g *TaskGroup[T]) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opts.Retain {
		return len(g.retained)
	}
	return g.unfinishedLocked()
}

// Completed returns the task that ended the waiting of Join, as [WaitPolicy] says, or nil
// if there is no such task (yet). Tasks taken by NextDone and tasks cancelled by Join do
// not count. Nor do tasks that returned nil under WaitFirst, and tasks that failed under
// WaitSuccess.
func (g *TaskGroup[T]) Completed() *Task[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.completed
}

// Result returns the Result of the Completed task. If there is no Completed task, the
// error is [ErrNoTaskCompleted]; under WaitSuccess, [errors.Join] joins the error with
// the Failures. Before the group has been joined, the error is [ErrNotJoined].
func (g *TaskGroup[T]) Result() (value T, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.joined:
		return value, ErrNotJoined
	case g.completed == nil:
		return value, g.noneCompletedLocked()
	}
	return g.completed.value, g.completed.err
}

// noneCompletedLocked returns the error of Result if no task has completed. Callers must
// hold g.mu.
func (g *TaskGroup[T]) noneCompletedLocked() error {
	if len(g.failures) == 0 {
		return ErrNoTaskCompleted
	}
	return errors.Join(append([]error{ErrNoTaskCompleted}, g.failures...)...)
}

// Err returns the error of the Completed task, or nil if there is no Completed task.
// Before the group has been joined, the error is [ErrNotJoined]. If every task failed
// under WaitSuccess, Err returns the error of Result. If a task fails under WaitAll after
// another task has succeeded, Err returns nil, and Errs has the error.
func (g *TaskGroup[T]) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.joined:
		return ErrNotJoined
	case g.completed != nil:
		return g.completed.err
	case len(g.failures) > 0:
		return g.noneCompletedLocked()
	}
	return nil
}

// Failures returns the errors of the tasks that failed under [WaitSuccess] before another
// task succeeded, in the order of failing. Errors of daemons, of tasks taken by NextDone,
// and of tasks cancelled after the success are not included. Under the other policies the
// result is nil. Retain is not needed.
func (g *TaskGroup[T]) Failures() []error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.failures)
}

// Results returns the results of every task, daemons excepted, in the order of adding. If
// a task has failed or was cancelled, the error is the error of the first such task.
// Without Retain, Results is empty. Before the group has been joined, the error is
// [ErrNotJoined].
func (g *TaskGroup[T]) Results() ([]T, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.joined {
		return nil, ErrNotJoined
	}
	results := make([]T, len(g.retained))
	for i, t := range g.retained {
		if t.err != nil {
			return nil, t.err
		}
		results[i] = t.value
	}
	return results, nil
}

// Errs returns the errors of every task, daemons excepted, in the order of adding, with
// nil for each successful task. Without Retain, Errs is empty. Before the group has been
// joined, the result is nil.
func (g *TaskGroup[T]) Errs() []error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.joined {
		return nil
	}
	errs := make([]error, len(g.retained))
	for i, t := range g.retained {
		errs[i] = t.err
	}
	return errs
}
