package rpcx

// What became of the tasks of a group, when it has been joined.

// Joined reports whether Join has returned, or is just about to.
func (g *TaskGroup[T]) Joined() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.joined
}

// Len returns how many tasks the group holds: those that have not finished, and
// with Retain also those that have. Daemons are not counted.
func (g *TaskGroup[T]) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opts.Retain {
		return len(g.retained)
	}
	return g.unfinishedLocked()
}

// Completed returns the task that decided Join, as [WaitPolicy] says; nil if there
// is none (yet). Tasks taken by NextDone do not count, nor do those that Join
// has cancelled, nor, under WaitFirst, those that returned nil.
func (g *TaskGroup[T]) Completed() *Task[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.completed
}

// Result returns the Result of the task that Completed returns. It fails with
// [ErrNoTaskCompleted] if there is none, and before the group has been joined
// with [ErrNotJoined].
func (g *TaskGroup[T]) Result() (value T, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.joined:
		return value, ErrNotJoined
	case g.completed == nil:
		return value, ErrNoTaskCompleted
	}
	return g.completed.value, g.completed.err
}

// Err returns the error of the task that Completed returns, nil if there is no
// such task, and [ErrNotJoined] before the group has been joined. So under WaitAll
// it is not the error of a task that failed after another has finished: that is
// in Errs.
func (g *TaskGroup[T]) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.joined:
		return ErrNotJoined
	case g.completed == nil:
		return nil
	}
	return g.completed.err
}

// Results returns the results of all tasks, daemons excepted, in the order in
// which they were added, or the first error among them: that of a task that was
// cancelled counts too. It has those of retained tasks only, so without Retain it
// is empty. Before the group has been joined it fails with [ErrNotJoined].
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

// Errs returns the errors of the tasks that Results is about, nil for those that
// succeeded. It is nil before the group has been joined.
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
