package bounded

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// defaultDialTimeout is the default of rpcx.Dialer.Timeout.
const defaultDialTimeout = 30 * time.Second

// dialTimeoutError is the cause of a context of DialTimeout that has reached its
// deadline.
type dialTimeoutError struct{ limit time.Duration }

func (e *dialTimeoutError) limitText() string {
	return fmt.Sprintf("over %v (Dialer.Timeout)", e.limit)
}

func (e *dialTimeoutError) Error() string      { return "timed out, " + e.limitText() }
func (*dialTimeoutError) Timeout() bool        { return true }
func (*dialTimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// DialTimeout returns a context that ends after timeout, a Dialer.Timeout. 0 means the
// default of 30 s, a negative value no timeout.
func DialTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout < 0 {
		return context.WithCancel(ctx)
	}
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	return context.WithTimeoutCause(ctx, timeout, &dialTimeoutError{timeout})
}

// DialError returns err, an error of dialling. If Dialer.Timeout has ended ctx, the text
// of the result names Dialer.Timeout.
func DialError(ctx context.Context, err error) error {
	cause, ok := context.Cause(ctx).(*dialTimeoutError)
	if err == nil || !ok {
		return err
	}
	text := err.Error()
	if strings.Contains(text, cause.limitText()) { // err comes from a dialler within a dialler
		return err
	}
	return &textError{Text(text) + ", " + cause.limitText(), err}
}
