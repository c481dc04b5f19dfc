package rpcx

import (
	"context"
	"sync"
	"time"
)

// handlerContext is the context of a handler. Most handlers never wait on
// theirs, so it is a part of the call, and becomes a real one of package
// context only when somebody asks for its Done channel or for a value that it
// does not have. From then on it stands behind that one, so contexts derived
// from it attach without a goroutine of their own.
type handlerContext struct {
	session  *Session
	deadline time.Duration // on the session's clock

	mu     sync.Mutex
	real   context.Context
	cancel context.CancelCauseFunc
	cause  error // why it ended, nil before
}

// sessionKey is the context key for the session whose handler it is.
type sessionKey struct{}

// end ends the context.
func (c *handlerContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = cause
	if c.cancel != nil {
		c.cancel(cause)
	}
}

// materialise returns the real context.
func (c *handlerContext) materialise() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		c.real, c.cancel = context.WithCancelCause(context.Background())
		if c.cause != nil {
			c.cancel(c.cause)
		}
	}
	return c.real
}

func (c *handlerContext) Deadline() (time.Time, bool) {
	if c.deadline == never {
		return time.Time{}, false
	}
	return c.session.epoch.Add(c.deadline), true
}

func (c *handlerContext) Done() <-chan struct{} { return c.materialise().Done() }

func (c *handlerContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		return nil
	}
	return context.Canceled
}

func (c *handlerContext) Value(key any) any {
	if _, ok := key.(sessionKey); ok {
		return c.session
	}
	return c.materialise().Value(key)
}
