package rpcx

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"example.com/rpcx/internal/duration"
)

// Task is a function that runs concurrently, and the function's outcome. [TaskGroup.Go]
// starts a task in a group, and [StartTask] a task without a group. The methods of a task
// may be called from any goroutine.
type Task[T any] struct {
	ctx      lazyContext
	function func(context.Context) (T, error) // nil once the function has returned
	value    T                                // value and err do not change after the task has finished
	err      error

	// The order of the locks: Task.mu, TaskGroup.mu, endState.mu.

	mu         sync.Mutex
	group      *TaskGroup[T]
	daemon     bool
	finished   bool
	done       chan struct{} // closed when the task has finished; made by the first call of Done
	prev, next *Task[T]      // the neighbours in a list of the group; guarded by TaskGroup.mu
}

// StartTask starts f as a task without a group. [TaskGroup.Add] puts the task into a
// group. The context of f derives from ctx, as in [TaskGroup.Go].
func StartTask[T any](ctx context.Context, f func(context.Context) (T, error)) *Task[T] {
	mustHaveContext("StartTask", ctx)
	mustHave("StartTask", "function", f)
	t := &Task[T]{function: f}
	t.ctx.parent = ctx
	// Owner: the caller. End: f returns.
	go t.runOutsideGroup()
	return t
}

// runOutsideGroup runs a task on a goroutine outside any group. If the task was added to
// a group, and a waiting task may run now, the group starts a goroutine for the waiting
// task.
func (t *Task[T]) runOutsideGroup() {
	if next := t.runAndFinish(); next != nil {
		next.group.startGoroutine(next)
	}
}

// runTaskChain runs the task, and then waiting tasks of its group until none may run. The
// error is always nil: the errors of tasks stay with the tasks.
func (t *Task[T]) runTaskChain() error {
	for t != nil {
		t = t.runAndFinish()
	}
	return nil
}

// errExited is the error of a task whose function called runtime.Goexit, as
// testing.T.FailNow does, instead of returning.
var errExited = errors.New("rpcx: task called runtime.Goexit")

// runAndFinish calls the function and finishes the task. The result is a waiting task of
// the group for the caller to run next, or nil.
//
// A panic ends the program, as in errgroup: runAndFinish recovers a panic only to tell
// the panic from runtime.Goexit, and panics again. Handing the panic to Join would delay
// the panic, or hide the panic for ever if the panic has blocked Join. The stack, which
// shows the cause, would be lost. A panicking task does not finish either: otherwise Join
// would return, and the program might exit before the panic has ended the program.
func (t *Task[T]) runAndFinish() *Task[T] {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			panic(v)
		}
		// The function has called runtime.Goexit, which ends this goroutine.
		if next := t.publishOutcome(); next != nil {
			next.group.startGoroutine(next)
		}
	}()
	t.callFunction()
	returned = true
	return t.publishOutcome()
}

// callFunction calls the function of the task, unless the task was cancelled before.
func (t *Task[T]) callFunction() {
	if t.ctx.Err() != nil {
		t.err = context.Cause(&t.ctx)
		return
	}
	t.err = errExited
	t.value, t.err = t.function(&t.ctx)
}

// publishOutcome publishes the outcome. The result is a waiting task of the group for the
// caller to run next, or nil. publishOutcome moves the task in the group before closing
// Done, so that callers of Done find the task among the finished tasks.
func (t *Task[T]) publishOutcome() (next *Task[T]) {
	t.function = nil
	t.ctx.endWith(context.Canceled)
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

// Cancel ends the context of the function, with the cause [ErrTaskCancelled], and does
// not wait. A function that ignores its context runs on. If the function was not called
// yet, Cancel prevents the call: the task finishes when the function would have been
// called. If the task has finished, Cancel does nothing.
func (t *Task[T]) Cancel() { t.ctx.endWith(ErrTaskCancelled) }

// Done returns a channel that is closed when the task has finished: the function has
// returned, or was not called because the task was cancelled before.
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

// Wait waits until the task has finished, and returns the Result. If ctx ends before,
// Wait returns the cause of ctx, and the task runs on.
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

// Result returns the results of the function. If the task was cancelled before the call
// of the function, the error is the cause, such as [ErrTaskCancelled]. Before the task
// has finished, the error is [ErrNotDone].
func (t *Task[T]) Result() (T, error) {
	if !t.isFinished() {
		var zero T
		return zero, ErrNotDone
	}
	return t.value, t.err
}

// Err returns the error of Result, and nil before the task has finished.
func (t *Task[T]) Err() error {
	if !t.isFinished() {
		return nil
	}
	return t.err
}

// isFinished reports whether the outcome is published.
func (t *Task[T]) isFinished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// taskList is a linked list of tasks. A task is in one list at most.
type taskList[T any] struct {
	first, last *Task[T]
	len         int
}

// push appends t to the list.
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

// remove removes t, which must be in the list.
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

// pop removes and returns the first task, or nil if the list is empty.
func (l *taskList[T]) pop() *Task[T] {
	t := l.first
	if t != nil {
		l.remove(t)
	}
	return t
}

// appendTo appends the tasks of the list to tasks.
func (l *taskList[T]) appendTo(tasks []*Task[T]) []*Task[T] {
	for t := l.first; t != nil; t = t.next {
		tasks = append(tasks, t)
	}
	return tasks
}

// isNil reports whether v is nil. Values of most types cannot be nil.
func isNil[T any](v T) bool {
	switch r := reflect.ValueOf(&v).Elem(); r.Kind() {
	case reflect.Interface, reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan, reflect.UnsafePointer:
		return r.IsNil()
	}
	return false
}

// startGoroutine starts a goroutine of the group that begins with t. The list running or
// daemons must contain t. The goroutine ends when no waiting task may run.
func (g *TaskGroup[T]) startGoroutine(t *Task[T]) { g.goroutines.Go(t.runTaskChain) }

// startWorkerLocked starts a goroutine if a waiting task may run, unless a started
// goroutine has yet to take a task. A goroutine that has finished a task takes the next
// waiting task, so many short tasks need few goroutines. Each goroutine that takes a task
// also calls startWorkerLocked, so a blocking task delays no other task. Callers must
// hold g.mu.
func (g *TaskGroup[T]) startWorkerLocked() {
	if g.workerStarting || !g.mayStartTaskLocked() {
		return
	}
	g.workerStarting = true
	g.goroutines.Go(g.runWaitingFn)
}

// runWaitingTasks runs a waiting task, and then further waiting tasks until none may run.
func (g *TaskGroup[T]) runWaitingTasks() error {
	g.mu.Lock()
	g.workerStarting = false
	t := g.takeWaitingLocked()
	g.mu.Unlock()
	return t.runTaskChain()
}

// mayStartTaskLocked reports whether a waiting task may run. Callers must hold g.mu.
func (g *TaskGroup[T]) mayStartTaskLocked() bool {
	return g.waiting.len > 0 && (g.opts.Limit <= 0 || g.running.len < g.opts.Limit)
}

// takeWaitingLocked moves the first waiting task to the list running and returns the task
// for the caller to run. If no waiting task may run, the result is nil. Callers must hold
// g.mu.
func (g *TaskGroup[T]) takeWaitingLocked() *Task[T] {
	if !g.mayStartTaskLocked() {
		return nil
	}
	t := g.waiting.pop()
	g.running.push(t)
	g.startWorkerLocked()
	return t
}

// cancelTasks cancels tasks. Waiting tasks must come first: otherwise a waiting task
// could start after the end of a cancelled running task.
func cancelTasks[T any](tasks []*Task[T]) {
	for _, t := range tasks {
		t.Cancel()
	}
}

// TaskTimeout is the error of [TimeoutAfter] and [TimeoutAt] if their own deadline ended
// the function. A TaskTimeout matches [context.DeadlineExceeded].
type TaskTimeout struct {
	// Duration is the time from the beginning to the deadline; negative if the deadline
	// had passed before.
	Duration time.Duration

	deadline      time.Time // zero if other code made the error
	durationGiven bool      // the caller wrote Duration, instead of a point in time
}

func (e *TaskTimeout) Error() string {
	text := fmt.Sprintf("task timed out after %v", e.Duration)
	if advice := duration.Advice(e.Duration); e.durationGiven && advice != "" {
		text += ": " + advice
	}
	return text
}

func (*TaskTimeout) Timeout() bool        { return true }
func (*TaskTimeout) Is(target error) bool { return target == context.DeadlineExceeded }

// TimeoutCancellationError is the error of a nested timeout if an outer deadline ended
// the function. The outer timeout returns a [*TaskTimeout]. A TimeoutCancellationError
// matches [context.DeadlineExceeded].
type TimeoutCancellationError struct {
	Outer *TaskTimeout // the error of the outer timeout
}

func (e TimeoutCancellationError) Error() string {
	return fmt.Sprintf("cancelled by an outer timeout: %v", e.Outer)
}
func (TimeoutCancellationError) Timeout() bool        { return true }
func (TimeoutCancellationError) Is(target error) bool { return target == context.DeadlineExceeded }

// UncaughtTimeoutError is the error of a timeout if the function returned the
// [*TaskTimeout] of a nested timeout. An UncaughtTimeoutError matches no other error, so
// that a forgotten inner timeout is not taken for an outer timeout.
type UncaughtTimeoutError struct {
	Inner *TaskTimeout // the unhandled error of the nested timeout
}

func (e UncaughtTimeoutError) Error() string {
	return fmt.Sprintf("uncaught timeout received: %v", e.Inner)
}

// TimeoutAfter calls f, with a context that ends d from now, and waits for the return of
// f, even if f ignores the context. If d passed first, and f returns a context error
// (matching [context.Canceled] or [context.DeadlineExceeded]), the result is a
// [*TaskTimeout]. TimeoutAfter returns nil and any other error unchanged: work that f did
// in spite of the timeout counts.
//
// Timeouts nest, as in curio: if f or a callee sets another timeout, the first deadline
// to pass ends the function inside of its timeout.
//
//	end of the innermost f    innermost timeout returns    outer timeouts return
//	its own deadline          *TaskTimeout                 UncaughtTimeoutError, unless their f handles the error
//	an outer deadline         TimeoutCancellationError     *TaskTimeout, from the timeout with the deadline
//	another cancellation      the error of f               the error of f
//
// Equal deadlines pass together: each timeout returns its own *TaskTimeout.
//
// A d of 0 or less has passed at once. A number without a unit is in nanoseconds: for
// three seconds write 3*time.Second. If d is above 0 and below a millisecond, the text of
// the error says so. Such a d is no error by itself, because the remaining part of a
// longer time may be as short.
func TimeoutAfter(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	return runWithTimeout(ctx, newTimeout(d), f)
}

// newTimeout returns the timeout of a deadline d from now.
func newTimeout(d time.Duration) *TaskTimeout {
	return &TaskTimeout{Duration: d, deadline: time.Now().Add(d), durationGiven: true}
}

// TimeoutAt is [TimeoutAfter] with a point in time.
func TimeoutAt(ctx context.Context, at time.Time, f func(context.Context) error) error {
	return runWithTimeout(ctx, &TaskTimeout{Duration: time.Until(at), deadline: at}, f)
}

// IgnoreAfter is [TimeoutAfter] for a deadline that is no error. If TimeoutAfter would
// return its own [*TaskTimeout], IgnoreAfter returns true and nil; otherwise IgnoreAfter
// returns false and the error.
func IgnoreAfter(ctx context.Context, d time.Duration, f func(context.Context) error) (expired bool, err error) {
	return ignoreTimeout(ctx, newTimeout(d), f)
}

// IgnoreAt is [IgnoreAfter] with a point in time.
func IgnoreAt(ctx context.Context, at time.Time, f func(context.Context) error) (expired bool, err error) {
	return ignoreTimeout(ctx, &TaskTimeout{Duration: time.Until(at), deadline: at}, f)
}

func ignoreTimeout(ctx context.Context, own *TaskTimeout, f func(context.Context) error) (expired bool, err error) {
	err = runWithTimeout(ctx, own, f)
	if err == error(own) {
		return true, nil
	}
	return false, err
}

// runWithTimeout calls f under a deadline. The cause of the context's end shows which
// deadline ended f.
func runWithTimeout(ctx context.Context, own *TaskTimeout, f func(context.Context) error) error {
	mustHaveContext("TimeoutAfter", ctx)
	ctx, cancel := context.WithDeadlineCause(ctx, own.deadline, own)
	defer cancel()
	err := f(ctx)
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	inner, _ := errors.AsType[*TaskTimeout](err)
	if at, _ := ctx.Deadline(); inner.notBefore(at) {
		<-ctx.Done() // equal deadlines pass together, even if f noticed one deadline before the other
	}
	passed, _ := errors.AsType[*TaskTimeout](context.Cause(ctx))
	switch {
	case passed.notBefore(own.deadline), inner.notBefore(own.deadline):
		return own
	case passed.hasDeadline():
		return TimeoutCancellationError{passed}
	case inner.hasDeadline():
		return UncaughtTimeoutError{inner}
	}
	return err
}

// hasDeadline reports whether a function of this file has set the timeout.
func (e *TaskTimeout) hasDeadline() bool { return e != nil && !e.deadline.IsZero() }

// notBefore reports whether a function of this file has set the timeout, with a deadline
// not before at. If e has passed, at has passed, too.
func (e *TaskTimeout) notBefore(at time.Time) bool { return e.hasDeadline() && !e.deadline.Before(at) }
