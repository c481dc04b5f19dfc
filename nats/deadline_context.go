package natsrpcx

import (
	"context"
	"sync"
	"time"
)

// deadlineContext is a context with a deadline, which makes a timer only when Done is
// called. Most handlers never wait for the end of their context.
type deadlineContext struct {
	parent   context.Context // does not end
	deadline time.Time

	mu     sync.Mutex // guards the fields below
	real   context.Context
	cancel context.CancelFunc
}

func (c *deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *deadlineContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		c.real, c.cancel = context.WithDeadline(c.parent, c.deadline)
	}
	return c.real.Done()
}

func (c *deadlineContext) Err() error {
	if real := c.madeReal(); real != nil {
		return real.Err()
	}
	if !time.Now().Before(c.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// Value asks the real context, if there is one: a derived context attaches to it then,
// without a goroutine.
func (c *deadlineContext) Value(key any) any {
	if real := c.madeReal(); real != nil {
		return real.Value(key)
	}
	return c.parent.Value(key)
}

// madeReal returns the real context, or nil.
func (c *deadlineContext) madeReal() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.real
}

// release ends the context.
func (c *deadlineContext) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}
