package rpcx

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"
)

// Task is a function that runs concurrently, and what comes of it. It is started
// by [TaskGroup.Go], or without a group by [StartTask]. Its methods may be called
// from any goroutine.
type Task[T any] struct {
	ctx   taskContext
	f     func(context.Context) (T, error) // nil once it has been called
	value T                                // value and err are not changed once it has finished
	err   error

	mu         sync.Mutex // taken before the group's, and that before a context's
	group      *TaskGroup[T]
	daemon     bool
	finished   bool
	done       chan struct{} // closed when finished; made when asked for
	prev, next *Task[T]      // in a list of the group's
}

// StartTask starts f as a task that is in no group; [TaskGroup.Add] puts it into
// one. The context that f is given is made from ctx, as in [TaskGroup.Go].
func StartTask[T any](ctx context.Context, f func(context.Context) (T, error)) *Task[T] {
	mustHave("StartTask", "function", f)
	t := &Task[T]{f: f}
	t.ctx.parent = ctx
	// Owner: the caller. End: f returns, and no task of its group waits.
	go t.run()
	return t
}

// errExited is the error of a task whose function did not return, but called
// runtime.Goexit, as testing.T.FailNow does.
var errExited = errors.New("rpcx: task called runtime.Goexit")

// run runs the task, and then others of its group that wait for a goroutine.
//
// A panic is not recovered, and so ends the program, as in errgroup. To hand it
// to whoever joins the group would delay it until then, or for ever if that is
// stuck because of it; and its stack, which tells what was wrong, would be lost.
// Nor does the task finish, for then whoever joins the group would go on, and
// might exit before the program has ended.
func (t *Task[T]) run() {
	defer func() {
		if t == nil {
			return
		}
		if v := recover(); v != nil {
			panic(v)
		}
		if next := t.finish(); next != nil {
			// Owner: the group. End: its function returns, and no other task waits.
			go next.run()
		}
	}()
	for t != nil {
		t.callFunction()
		t = t.finish()
	}
}

// callFunction calls the task's function, unless the task was cancelled before.
func (t *Task[T]) callFunction() {
	if t.ctx.Err() != nil {
		t.err = context.Cause(&t.ctx)
		return
	}
	t.err = errExited
	t.value, t.err = t.f(&t.ctx)
}

// finish publishes the outcome, and returns a task of the group that waits to be
// run. The group comes first, so that who has waited for the task finds it there.
func (t *Task[T]) finish() (next *Task[T]) {
	t.f = nil
	t.ctx.cancel(context.Canceled)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finished = true
	if t.group != nil {
		next = t.group.removeRunning(t)
	}
	if t.done != nil {
		close(t.done)
	}
	return next
}

// Cancel ends the context of the task's function, with the cause
// [ErrTaskCancelled], and does not wait. A function that does not heed its context
// runs on; one that was not called yet will not be, and the task finishes when it
// would have been its turn. To cancel a task that has finished does nothing.
func (t *Task[T]) Cancel() { t.ctx.cancel(ErrTaskCancelled) }

// Done returns a channel that is closed when the task has finished: its function
// has returned, or was not called because the task was cancelled before.
func (t *Task[T]) Done() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		t.done = make(chan struct{})
		if t.finished {
			close(t.done)
		}
	}
	return t.done
}

// Wait waits for the task to finish and returns its Result, or for ctx to end,
// which ends the waiting only, and returns ctx's cause.
func (t *Task[T]) Wait(ctx context.Context) (T, error) {
	if !t.isFinished() {
		select {
		case <-t.Done():
		case <-ctx.Done():
			var zero T
			return zero, context.Cause(ctx)
		}
	}
	return t.value, t.err
}

// Result returns what the task's function has returned. If the task was cancelled
// before its function was called the error is the cause of that, and before the
// task has finished it is [ErrNotDone].
func (t *Task[T]) Result() (T, error) {
	if !t.isFinished() {
		var zero T
		return zero, ErrNotDone
	}
	return t.value, t.err
}

// Err returns the error of Result, but nil before the task has finished.
func (t *Task[T]) Err() error {
	if !t.isFinished() {
		return nil
	}
	return t.err
}

func (t *Task[T]) isFinished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// taskContext is the context of a task. Most tasks never wait on theirs, so it is
// a part of the task, and becomes a real one of package context only when
// somebody asks for its Done channel or for a value. From then on it stands
// behind that one, so contexts derived from it attach without a goroutine.
type taskContext struct {
	parent context.Context

	mu    sync.Mutex
	real  *realContext
	cause error // why it ended, nil if it has not or if parent ended first
}

type realContext struct {
	context.Context
	cancel context.CancelCauseFunc
}

// cancel ends the context unless it has ended.
func (c *taskContext) cancel(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
		c.real.cancel(cause)
	case c.cause == nil && c.parent.Err() == nil:
		c.cause = cause
	}
}

// makeReal returns the real context.
func (c *taskContext) makeReal() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		parent := c.parent
		if c.cause != nil { // that is why it ended, whatever parent does since
			parent = context.WithoutCancel(parent)
		}
		ctx, cancel := context.WithCancelCause(parent)
		c.real = &realContext{ctx, cancel}
		if c.cause != nil {
			cancel(c.cause)
		}
	}
	return c.real.Context
}

func (c *taskContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }
func (c *taskContext) Done() <-chan struct{}       { return c.makeReal().Done() }
func (c *taskContext) Value(key any) any           { return c.makeReal().Value(key) }

func (c *taskContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
		return c.real.Err()
	case c.cause != nil:
		return context.Canceled
	}
	return c.parent.Err()
}

// taskList is a list of tasks, each of which is in one list at most.
type taskList[T any] struct {
	first, last *Task[T]
	len         int
}

func (l *taskList[T]) push(t *Task[T]) {
	t.prev = l.last
	if l.last != nil {
		l.last.next = t
	} else {
		l.first = t
	}
	l.last = t
	l.len++
}

func (l *taskList[T]) remove(t *Task[T]) {
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		l.first = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		l.last = t.prev
	}
	t.prev, t.next = nil, nil
	l.len--
}

// pop removes and returns the first task, nil if there is none.
func (l *taskList[T]) pop() *Task[T] {
	t := l.first
	if t != nil {
		l.remove(t)
	}
	return t
}

func (l *taskList[T]) appendTo(tasks []*Task[T]) []*Task[T] {
	for t := l.first; t != nil; t = t.next {
		tasks = append(tasks, t)
	}
	return tasks
}

// isNil reports whether v is nil, which only a value of some types can be.
func isNil[T any](v T) bool {
	switch r := reflect.ValueOf(&v).Elem(); r.Kind() {
	case reflect.Interface, reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan, reflect.UnsafePointer:
		return r.IsNil()
	}
	return false
}
