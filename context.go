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
	request  *Request
	deadline time.Duration // on the session's clock

	waits waits // guarded by the session's lock

	mu     sync.Mutex
	real   context.Context
	cancel context.CancelCauseFunc
	cause  error // why it ended, nil before
}

// errHandlerReturned is the cause with which a handler's context ends when the handler
// has returned, if it had not ended before. Whoever keeps the context, to call the peer
// later, is told so.
var errHandlerReturned error = &cancelledError{"rpcx: the handler has returned, and its context has ended with it"}

// end ends the context, and reports whether it had ended by itself, at its
// deadline, before.
func (c *handlerContext) end(cause error) (overdue bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	overdue = c.cause == nil && c.real != nil && c.real.Err() != nil
	if overdue {
		c.cause = errProcessing
	} else if c.cause == nil {
		c.cause = cause
	}
	if c.cancel != nil && cause != errProcessing {
		c.cancel(cause)
	}
	return overdue
}

// ended returns why the context ended, nil if it has not (or by itself only).
func (c *handlerContext) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// materialise returns the real context.
func (c *handlerContext) materialise() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		// At the deadline it has to end by itself, for only so is what its Err
		// says, and that of the contexts made from it, DeadlineExceeded.
		base, stop := context.Background(), context.CancelFunc(func() {})
		if at, ok := c.Deadline(); ok {
			base, stop = context.WithDeadlineCause(base, at, errProcessing)
		}
		real, cancel := context.WithCancelCause(base)
		c.real, c.cancel = real, func(cause error) { cancel(cause); stop() }
		if c.cause != nil && c.cause != errProcessing {
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
	switch {
	case c.real != nil:
		return c.real.Err()
	case c.cause == nil:
		return nil
	case c.cause == errProcessing:
		return context.DeadlineExceeded
	}
	return context.Canceled
}

func (c *handlerContext) Value(key any) any {
	if _, ok := key.(handlerKey); ok {
		return c
	}
	if v := c.session.Value(key); v != nil {
		return v
	}
	return c.materialise().Value(key)
}

// SetValue stores value under key in the session: what a program has to know of this
// peer, such as who has logged in. A value of nil removes the key, which must be
// comparable, and be of a type of the package's own, as in [context.WithValue].
// Handlers find the values in their contexts, too. They run concurrently, so what
// changes should be stored once, by [Server.OnSession] before the first request is
// handled, as a pointer to what has a lock.
func (s *Session) SetValue(key, value any) {
	s.lock()
	defer s.unlock()
	if value == nil {
		delete(s.values, key)
		return
	}
	if s.values == nil {
		s.values = make(map[any]any)
	}
	s.values[key] = value
}

// Value returns what [Session.SetValue] has stored under key, nil if nothing.
func (s *Session) Value(key any) any {
	s.lock()
	defer s.unlock()
	return s.values[key]
}
