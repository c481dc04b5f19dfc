package rpcx

import (
	"context"
	"iter"
	"sync"
)

// WaitPolicy says which tasks [TaskGroup.Join] waits for before it cancels the
// others. Daemons are never waited for, and whatever the policy, an error of a
// task, or the end of Join's context, ends the waiting.
//
//	           Join waits until               then it cancels   Completed is
//	WaitAll    all tasks have finished        daemons           the first to finish
//	WaitAny    one task has finished          all others        that task
//	WaitFirst  one has a result that is       all others        that task
//	           not nil, or all have finished
//	WaitNone   –                              all tasks         nil
//
// If a task fails before, Join waits no longer and cancels all others, and
// Completed is the task that failed, unless under WaitAll another has finished
// first.
type WaitPolicy uint8

const (
	// WaitAll waits for all tasks: they are the parts of one piece of work. It is
	// the default.
	WaitAll WaitPolicy = iota
	// WaitAny waits for any one task: one outcome is enough, be it nil.
	WaitAny
	// WaitFirst waits for the first result: one answer is enough, and a task whose
	// result is nil had none. To have none and leave the race to others, a task
	// returns nil and no error: an error would end the race. For a T that cannot be
	// nil it is the same as WaitAny. (It is curio's wait=object.)
	WaitFirst
	// WaitNone waits for no task: what is left when Join is called is not needed.
	WaitNone
)

// TaskGroupOptions are what a [TaskGroup] can be told. The zero value is the
// default.
type TaskGroupOptions struct {
	Wait WaitPolicy // what Join waits for; WaitAll by default
	// Retain keeps tasks that have finished, for Results and Errs. Otherwise a
	// task is released when NextDone or Join has taken it, so that a group can
	// live for days: have somebody in one of the two all the time.
	Retain bool
	// Limit is how many tasks may run at once, daemons not counted; there is none
	// if it is 0 or negative. Tasks beyond it wait for others to finish, in the
	// order in which they were added.
	Limit int
}

// TaskGroup runs tasks that end together: whoever joins it goes on when none of
// them runs any more. Unlike an errgroup it need not wait for all of them, and
// has their results; it behaves as a TaskGroup of aiorpcX and curio. It is made
// by [NewTaskGroup], and its methods may be called from any goroutine.
//
// Tasks are started by [TaskGroup.Go], taken in the order in which they finish by
// [TaskGroup.NextDone] or [TaskGroup.All], and the rest is left to
// [TaskGroup.Join], which must be called: [TaskGroup.Do] does it. The error of a
// task stays with it, and does nothing to the others until Join comes upon it. A
// task must not wait for its own group, by Join or CancelRemaining or by taking
// tasks until none remain, for these wait for the task.
type TaskGroup[T any] struct {
	ctx  context.Context
	opts TaskGroupOptions

	mu         sync.Mutex
	changed    sync.Cond   // of what updateDecisionLocked says
	waiting    taskList[T] // for a goroutine, or for Limit
	running    taskList[T] // that run
	daemons    taskList[T] // that run
	finished   taskList[T] // finished and not taken, in that order
	retained   []*Task[T]  // all, daemons excepted, if Retain
	completed  *Task[T]
	starting   bool // a goroutine is on its way to a task that waits
	nextCalls  int  // calls of NextDone that wait
	joinCalls  int  // calls of Join
	decided    bool // they have waited enough
	taskFailed bool // because of an error of a task
	bodyFailed bool // Do's body has failed
	closed     bool // Join waits for no more tasks
	joined     bool
}

// NewTaskGroup returns an empty group. Its tasks' contexts are made from ctx,
// whose end cancels them, but it does not end the group. A nil opts is the zero
// TaskGroupOptions.
func NewTaskGroup[T any](ctx context.Context, opts *TaskGroupOptions) *TaskGroup[T] {
	g := &TaskGroup[T]{ctx: ctx}
	if opts != nil {
		g.opts = *opts
	}
	g.changed.L = &g.mu
	return g
}

// Go starts f as a task of the group, at once or when Limit lets it, and returns
// without waiting. The context given to f ends when the task is cancelled, when
// the group's context ends, and when f returns. A task whose context has ended
// before it was its turn finishes without f being called.
//
// Tasks can be added by other tasks, and while Join waits. Once the group has begun
// to end, a new task is cancelled at birth: f is not called, and the task has
// finished when Go returns. If Join cancels what is left, or has done so, the error of
// the task is [ErrTaskGroupJoined]. If the body of [TaskGroup.Do] has failed, the
// error is [ErrTaskCancelled] until Join begins.
//
// If f panics the program ends: to hand the panic over to Join would delay or
// hide it.
func (g *TaskGroup[T]) Go(f func(context.Context) (T, error)) *Task[T] {
	mustHave("TaskGroup.Go", "function", f)
	return g.enqueue(&Task[T]{f: f})
}

// GoDaemon starts f as a daemon: a task in the background that serves the others.
// Join does not wait for it, but cancels it when it has done waiting for the
// others. NextDone, Results, Len and Limit pass it over, and if it fails nothing
// happens.
func (g *TaskGroup[T]) GoDaemon(f func(context.Context) (T, error)) *Task[T] {
	mustHave("TaskGroup.GoDaemon", "function", f)
	return g.enqueue(&Task[T]{f: f, daemon: true})
}

func (g *TaskGroup[T]) enqueue(t *Task[T]) *Task[T] {
	t.ctx.parent, t.group = g.ctx, g
	g.mu.Lock()
	if err := g.refusalLocked(); err != nil {
		g.mu.Unlock()
		t.group, t.err = nil, err
		t.finish()
		return t
	}
	defer g.mu.Unlock()
	if t.daemon {
		g.daemons.push(t)
		// Owner: the group. End: the task's function returns, and no other task waits.
		go t.run()
		return t
	}
	g.waiting.push(t)
	g.retainLocked(t)
	g.startWorkerLocked()
	return t
}

// refusalLocked returns the error of a task that the group does not run because the
// group has begun to end, or nil. Callers must hold g.mu.
func (g *TaskGroup[T]) refusalLocked() error {
	switch {
	case g.closed:
		return ErrTaskGroupJoined
	case g.bodyFailed:
		return ErrTaskCancelled
	}
	return nil
}

func (g *TaskGroup[T]) retainLocked(t *Task[T]) {
	if g.opts.Retain {
		g.retained = append(g.retained, t)
	}
}

// startWorkerLocked sends for a goroutine if a task waits that may run and none is coming for
// it. A goroutine whose task has finished takes another by itself, so many short
// tasks need few goroutines; but it never leaves one behind that nobody comes for.
func (g *TaskGroup[T]) startWorkerLocked() {
	if g.starting || !g.mayRunLocked() {
		return
	}
	g.starting = true
	// Owner: the group. End: no task waits that may run.
	go func() {
		g.mu.Lock()
		g.starting = false
		t := g.takeWaitingLocked()
		g.mu.Unlock()
		if t != nil {
			t.run()
		}
	}()
}

// mayRunLocked reports whether a task waits that may run.
func (g *TaskGroup[T]) mayRunLocked() bool {
	return g.waiting.len > 0 && (g.opts.Limit <= 0 || g.running.len < g.opts.Limit)
}

// takeWaitingLocked returns a task that is to be run now, nil if there is none.
func (g *TaskGroup[T]) takeWaitingLocked() *Task[T] {
	if !g.mayRunLocked() {
		return nil
	}
	t := g.waiting.pop()
	g.running.push(t)
	g.startWorkerLocked()
	return t
}

// Add puts a task into the group that [StartTask] has started, finished or not.
// It fails with [ErrTaskInGroup] if the task is or was in a group, and with
// [ErrTaskGroupJoined] if this group takes no more, as in Go; the task then goes
// on alone. Limit does not hold it up, but it counts.
func (g *TaskGroup[T]) Add(t *Task[T]) error { return g.adopt(t, false) }

// AddDaemon is Add for a task that is to be a daemon, as in GoDaemon.
func (g *TaskGroup[T]) AddDaemon(t *Task[T]) error { return g.adopt(t, true) }

func (g *TaskGroup[T]) adopt(t *Task[T], daemon bool) error {
	t.mu.Lock() // so that it does not finish meanwhile
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

// removeRunning counts out a task that has finished, and returns one to be run next.
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

// updateDecisionLocked follows each change. It does what Join does with tasks that have
// finished, so that Join is woken once, and not by each task; and it wakes those
// who wait for what is the case now.
func (g *TaskGroup[T]) updateDecisionLocked() {
	decided := g.decided
	for g.joinCalls > 0 && !g.decided && g.nextCalls == 0 {
		t := g.finished.pop()
		if t == nil {
			g.decided = g.unfinishedLocked() == 0
			break
		}
		if g.completed == nil && (t.err != nil || g.opts.Wait != WaitFirst || !isNil(t.value)) {
			g.completed = t
		}
		g.taskFailed = t.err != nil
		g.decided = g.taskFailed || g.opts.Wait == WaitAny || g.opts.Wait == WaitFirst && g.completed != nil
	}
	// What is added before Join is awake would be begun, only to be cancelled.
	g.closed = g.closed || g.decided
	if g.nextCalls > 0 || g.decided != decided || g.closed && g.unfinishedLocked()+g.daemons.len == 0 {
		g.changed.Broadcast()
	}
}

// unfinishedLocked is how many tasks have not finished, daemons not counted.
func (g *TaskGroup[T]) unfinishedLocked() int { return g.running.len + g.waiting.len }

// waitLocked waits, under the lock, until ready, or until ctx ends, and then returns
// its cause.
func (g *TaskGroup[T]) waitLocked(ctx context.Context, ready func() bool) error {
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

// NextDone waits for a task to finish, takes it from the group and returns it:
// each task once, in the order in which they finish. When no tasks remain it
// fails with [ErrNoRemainingTasks], and when ctx ends before one has finished,
// with its cause. While somebody waits in NextDone, tasks go there and not to Join.
func (g *TaskGroup[T]) NextDone(ctx context.Context) (*Task[T], error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nextCalls++
	err := g.waitLocked(ctx, func() bool { return g.finished.len > 0 || g.unfinishedLocked() == 0 })
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

// NextResult is NextDone for the task's Result: its error may be that of the
// task, [ErrNoRemainingTasks] or ctx's cause.
func (g *TaskGroup[T]) NextResult(ctx context.Context) (T, error) {
	t, err := g.NextDone(ctx)
	if err != nil {
		var zero T
		return zero, err
	}
	return t.Result()
}

// All ranges over the tasks as NextDone returns them, until none remain or ctx
// ends. A task that fails does not end it, nor does the policy. What is left when
// the loop is broken off stays in the group. After Join it has what that left.
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

// CancelRemaining cancels all tasks that have not finished, daemons excepted, and
// returns when they have. It does not end the group: a task that is added later, even
// by a task that it has cancelled, is run.
func (g *TaskGroup[T]) CancelRemaining() {
	g.mu.Lock()
	tasks := g.running.appendTo(g.waiting.appendTo(nil))
	g.mu.Unlock()
	cancelTasks(tasks)
	for _, t := range tasks {
		<-t.Done()
	}
}

// cancelTasks cancels tasks. Those that wait come first in the list, lest they are
// begun when those that run have been cancelled.
func cancelTasks[T any](tasks []*Task[T]) {
	for _, t := range tasks {
		t.Cancel()
	}
}

// Join waits for tasks as the group's [WaitPolicy] says, cancels what is left,
// daemons included, and returns when all have finished, however long they take:
// of the group nothing runs any more. If ctx ends during the first, or a task
// fails with it, Join goes on to the second and returns ctx's cause; otherwise it
// returns nil, for the errors of tasks are with them (see Err). To join again goes
// on with what the policy has left untaken.
func (g *TaskGroup[T]) Join(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.joinCalls == 0 {
		g.decided, g.taskFailed = g.opts.Wait == WaitNone, false
	}
	g.joinCalls++
	g.updateDecisionLocked()
	err := g.waitLocked(ctx, func() bool { return g.decided })
	if err == nil && g.taskFailed && ctx.Err() != nil {
		err = context.Cause(ctx) // a task that ends with ctx may be seen first
	}
	g.decided, g.closed = true, true
	g.changed.Broadcast() // to others that join
	tasks := g.daemons.appendTo(g.running.appendTo(g.waiting.appendTo(nil)))
	g.mu.Unlock()
	cancelTasks(tasks)
	g.mu.Lock()
	for g.unfinishedLocked()+g.daemons.len > 0 {
		g.changed.Wait()
	}
	g.joined = true
	g.joinCalls--
	return err
}

// Do runs body and joins the group. If body fails, what remains of the tasks is
// cancelled first, and Do returns body's error; otherwise it returns Join's. From
// then on the group takes no tasks, so a task that starts another when it is cancelled
// does not hold Do up. A panic in body counts as a failure, and goes on when the
// group is joined. (It is the original's with-block.)
func (g *TaskGroup[T]) Do(ctx context.Context, body func(context.Context) error) (err error) {
	bodyFailed := true // if body does not return
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
