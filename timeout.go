package rpcx

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.com/rpcx/internal/duration"
)

// TaskTimeout is the error of [TimeoutAfter] and [TimeoutAt] when their own
// deadline ended what they ran. It matches [context.DeadlineExceeded].
type TaskTimeout struct {
	// Duration is how long it was from the beginning to the deadline; negative if
	// that had passed before.
	Duration time.Duration

	at    time.Time // the deadline; zero if somebody else made the error
	given bool      // Duration is what the caller wrote, and not the time until a point
}

func (e *TaskTimeout) Error() string {
	text := fmt.Sprintf("task timed out after %v", e.Duration)
	if advice := duration.Advice(e.Duration); e.given && advice != "" {
		text += ": " + advice
	}
	return text
}

func (*TaskTimeout) Timeout() bool        { return true }
func (*TaskTimeout) Is(target error) bool { return target == context.DeadlineExceeded }

// TimeoutCancellationError is the error of a timeout within another when the
// outer deadline ended what they ran. The outer one returns a [*TaskTimeout]. It
// matches [context.DeadlineExceeded].
type TimeoutCancellationError struct {
	Outer *TaskTimeout // what that one returns
}

func (e TimeoutCancellationError) Error() string {
	return fmt.Sprintf("cancelled by an outer timeout: %v", e.Outer)
}
func (TimeoutCancellationError) Timeout() bool        { return true }
func (TimeoutCancellationError) Is(target error) bool { return target == context.DeadlineExceeded }

// UncaughtTimeoutError is the error of a timeout when a [*TaskTimeout] of one
// within it was returned to it. It is an ordinary error that matches no other, lest the
// inner timeout, which somebody forgot to handle, be taken for an outer one.
type UncaughtTimeoutError struct {
	Inner *TaskTimeout // that nobody handled
}

func (e UncaughtTimeoutError) Error() string {
	return fmt.Sprintf("uncaught timeout received: %v", e.Inner)
}

// TimeoutAfter calls f, with a context that ends d from now, and waits for it to
// return, even if it does not heed that. If d passed first, and f returns an
// error that says that its context ended (it matches [context.Canceled] or
// [context.DeadlineExceeded]), that becomes a [*TaskTimeout]. Any other error, and
// nil, is returned as it is: what f did in spite of the timeout counts.
//
// Timeouts nest, as in curio: where f, or what it calls, sets another one, the
// deadline that passes first ends what is within it.
//
//	what ended the innermost     it returns                  those around it return
//	its own deadline             *TaskTimeout                UncaughtTimeoutError, unless f handles it
//	a deadline around it         TimeoutCancellationError    the one whose deadline it was *TaskTimeout
//	another cancellation         f's error                   f's error
//
// Deadlines that are exactly equal pass together: each returns its own *TaskTimeout.
//
// A d of 0 or below has passed at once. A number without a unit is in nanoseconds: for
// three seconds write 3*time.Second. The text of the error says so if d is above 0 and
// below a millisecond, which is no error by itself, as what is left of a longer time may
// be so short.
func TimeoutAfter(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	return timeout(ctx, newTimeout(d), f)
}

// newTimeout returns the timeout of a deadline d from now.
func newTimeout(d time.Duration) *TaskTimeout {
	return &TaskTimeout{Duration: d, at: time.Now().Add(d), given: true}
}

// TimeoutAt is [TimeoutAfter] with a point in time.
func TimeoutAt(ctx context.Context, at time.Time, f func(context.Context) error) error {
	return timeout(ctx, &TaskTimeout{Duration: time.Until(at), at: at}, f)
}

// IgnoreAfter is [TimeoutAfter] for a deadline that is no error: where that returns its
// [*TaskTimeout], this returns true and nil, and otherwise false.
func IgnoreAfter(ctx context.Context, d time.Duration, f func(context.Context) error) (expired bool, err error) {
	return ignore(ctx, newTimeout(d), f)
}

// IgnoreAt is [IgnoreAfter] with a point in time.
func IgnoreAt(ctx context.Context, at time.Time, f func(context.Context) error) (expired bool, err error) {
	return ignore(ctx, &TaskTimeout{Duration: time.Until(at), at: at}, f)
}

func ignore(ctx context.Context, own *TaskTimeout, f func(context.Context) error) (expired bool, err error) {
	err = timeout(ctx, own, f)
	if err == error(own) {
		return true, nil
	}
	return false, err
}

// timeout calls f under a deadline, and tells by the cause with which its context
// ended which deadline that was.
func timeout(ctx context.Context, own *TaskTimeout, f func(context.Context) error) error {
	mustHaveContext("TimeoutAfter", ctx)
	ctx, cancel := context.WithDeadlineCause(ctx, own.at, own)
	defer cancel()
	err := f(ctx)
	if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	inner, _ := errors.AsType[*TaskTimeout](err)
	if at, _ := ctx.Deadline(); inner.notBefore(at) {
		<-ctx.Done() // equal deadlines pass together, if one is noticed before the other
	}
	passed, _ := errors.AsType[*TaskTimeout](context.Cause(ctx))
	switch {
	case passed.notBefore(own.at), inner.notBefore(own.at):
		return own
	case passed.ours():
		return TimeoutCancellationError{passed}
	case inner.ours():
		return UncaughtTimeoutError{inner}
	}
	return err
}

// ours reports whether a function of this file has set the timeout.
func (e *TaskTimeout) ours() bool { return e != nil && !e.at.IsZero() }

// notBefore reports whether it is ours, and so has passed, and at has passed no
// later.
func (e *TaskTimeout) notBefore(at time.Time) bool { return e.ours() && !e.at.Before(at) }
