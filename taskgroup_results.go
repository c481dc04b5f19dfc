package rpcx

import (
	"errors"
	"slices"
)

// Joined reports whether Join has returned, or is about to return.
func (g *TaskGroup[T]) Joined() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.joined
}

// Len returns how many tasks the group holds: the tasks that have not finished, and with
// Retain also the finished ones. Daemons are not counted.
func (g *TaskGroup[T]) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opts.Retain {
		return len(g.retained)
	}
	return g.unfinishedLocked()
}

// Completed returns the task that ended the waiting of Join, as [WaitPolicy] says, or nil
// if there is no such task (yet). The following tasks do not count: tasks taken by
// NextDone, tasks that Join has cancelled, under WaitFirst tasks that returned nil, and
// under WaitSuccess tasks that failed.
func (g *TaskGroup[T]) Completed() *Task[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.completed
}

// Result returns the Result of the task that Completed returns. If there is no such task,
// the error is [ErrNoTaskCompleted], under WaitSuccess joined with the Failures as by
// [errors.Join]. Before the group has been joined, the error is [ErrNotJoined].
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

// noneCompletedLocked returns the error of Result if no task has completed.
func (g *TaskGroup[T]) noneCompletedLocked() error {
	if len(g.failures) == 0 {
		return ErrNoTaskCompleted
	}
	return errors.Join(append([]error{ErrNoTaskCompleted}, g.failures...)...)
}

// Err returns the error of the task that Completed returns, nil if there is no such task,
// and [ErrNotJoined] before the group has been joined. If all tasks failed under
// WaitSuccess, Err returns the error of Result. Under WaitAll, if one task has succeeded and
// then another one fails, Err returns nil, and Errs has the error.
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
// task succeeded, in the order in which the tasks failed. The errors of tasks that were
// cancelled since one has succeeded are not among them, nor those of daemons and of
// tasks taken by NextDone. Under the other policies the result is nil. Retain is not needed.
func (g *TaskGroup[T]) Failures() []error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.failures)
}

// Results returns the results of all tasks, daemons excepted, in the order in which the
// tasks were added. If a task has failed or was cancelled, the error is that of the first
// such task. Without Retain, Results is empty. Before the group has been joined, the error
// is [ErrNotJoined].
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

// Errs returns the errors of all tasks, daemons excepted, in the order in which the tasks
// were added, nil for each task that succeeded. Without Retain, Errs is empty. Before the
// group has been joined, the result is nil.
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
