package bounded

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// defaultDialTimeout is the default of rpcx.Dialer.Timeout.
const defaultDialTimeout = 30 * time.Second

// dialTimeoutError is the cause with which the context of DialTimeout ends at its deadline.
type dialTimeoutError struct{ limit time.Duration }

func (e *dialTimeoutError) limitText() string {
	return fmt.Sprintf("over %v (Dialer.Timeout)", e.limit)
}

func (e *dialTimeoutError) Error() string      { return "timed out, " + e.limitText() }
func (*dialTimeoutError) Timeout() bool        { return true }
func (*dialTimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// DialTimeout returns a context that ends after Dialer.Timeout: 0 is the default, a
// negative one is none.
func DialTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout < 0 {
		return context.WithCancel(ctx)
	}
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	return context.WithTimeoutCause(ctx, timeout, &dialTimeoutError{timeout})
}

// DialError returns err, with which dialling has failed, and names Dialer.Timeout if that
// has ended ctx.
func DialError(ctx context.Context, err error) error {
	cause, ok := context.Cause(ctx).(*dialTimeoutError)
	if err == nil || !ok {
		return err
	}
	text := err.Error()
	if strings.Contains(text, cause.limitText()) { // as that of a dialler within a dialler
		return err
	}
	return &textError{Text(text) + ", " + cause.limitText(), err}
}
