package rpcx

import (
	"context"
)

// callAgain makes a call that waits, or whose attempt on cs has ended with err.
func (c *Client) callAgain(ctx context.Context, cs *clientSession, err error, method string, params, result any) error {
	return c.again(ctx, cs, err, method, func(ctx context.Context, s *Session, attempt int, t *sendTurn) error {
		return s.call(ctx, method, params, result, attempt, t)
	})
}

// notifyAgain sends a notification that waits, or that could not be sent on cs because of
// err.
func (c *Client) notifyAgain(ctx context.Context, cs *clientSession, err error, method string, params any) error {
	return c.again(ctx, cs, err, method, func(ctx context.Context, s *Session, attempt int, _ *sendTurn) error {
		return s.notifyCaller(ctx, fromClient, method, params, attempt)
	})
}

// again makes a call by op until it has an outcome. The first attempt on cs, if cs is not
// nil, has ended with err.
func (c *Client) again(ctx context.Context, cs *clientSession, err error, method string, op func(ctx context.Context, s *Session, attempt int, t *sendTurn) error) error {
	r := &repetition{method: method}
	if cause := context.Cause(ctx); cs == nil && cause != nil {
		return cause
	}
	if cs != nil {
		r.attempt = 1
		if again, final := c.judge(r, cs, err); !again {
			return final
		}
	}
	return c.repeat(ctx, r, func(ctx context.Context, cs *clientSession, t *sendTurn) (bool, error) {
		return c.judge(r, cs, op(ctx, cs.session, r.attempt, t))
	})
}

// clientClosedError is the error of calls after the end of a client.
type clientClosedError struct {
	cause *PermanentError // nil after Close or Shutdown
}

var errClientClosed = &clientClosedError{}

func (e *clientClosedError) Error() string {
	if e.cause == nil {
		return "rpcx: client closed"
	}
	return "rpcx: client closed: " + trimPrefix(e.cause)
}

func (e *clientClosedError) Unwrap() []error {
	if e.cause == nil {
		return []error{ErrClosed}
	}
	return []error{ErrClosed, e.cause}
}

// end ends the client, for the given reason.
func (c *Client) end(reason *clientClosedError) {
	c.mu.Lock()
	if c.endErr != nil {
		c.mu.Unlock()
		return
	}
	c.setStateLocked(ClientClosed, reason)
	c.endErr = reason
	latest, streams := c.latest, c.streams
	waiting := append(c.queue.messages, c.queue.held...)
	c.current, c.streams = nil, nil
	c.ready.Store(nil)
	c.queue.messages, c.queue.held = nil, nil
	if c.queue.timer != nil {
		c.queue.timer.Stop()
	}
	c.checkDrainedLocked()
	c.mu.Unlock()

	c.cancel() // ends attempts, drained sessions, and goroutines that wait for their turn
	for _, w := range waiting {
		if w.call != nil {
			w.call.endWith(reason)
		}
	}
	for _, st := range streams {
		st.endWith(&ConnectionError{Written: true, Err: reason, isStream: true})
	}
	if latest != nil {
		c.closeSession(latest) // also if it is lost, and its writer goes on
	}
}

// closeSession closes the session of cs. All its calls fail at once.
func (c *Client) closeSession(cs *clientSession) {
	s := cs.session
	s.lock()
	cs.mayLose = true
	if s.life.state >= stateClosing {
		s.calls.failPendingLocked(s.life.closeCause, true)
	}
	s.unlock()
	s.Close()
}

// shutdown implements [Client.Shutdown].
func (c *Client) shutdown(ctx context.Context) error {
	for {
		c.mu.Lock()
		c.draining = true
		c.ready.Store(nil)
		drained := make(chan struct{})
		c.drained = append(c.drained, drained)
		c.checkDrainedLocked()
		c.mu.Unlock()
		select {
		case <-drained:
		case <-ctx.Done():
			c.end(errClientClosed)
			return ctx.Err()
		}
		c.mu.Lock()
		cs := c.current
		c.mu.Unlock()
		if cs == nil {
			break
		}
		if err := cs.session.shutdownWith(ctx, ErrClosed, 0); err != nil {
			c.end(errClientClosed)
			return err
		}
		c.loseSession(cs, ErrClosed)
	}
	c.end(errClientClosed)
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkDrainedLocked ends the wait of Shutdown, if no message waits any more. Callers must
// hold c.mu.
func (c *Client) checkDrainedLocked() {
	c.mu.AssertHeld()
	if !c.queue.isEmpty() || c.judging || c.current != nil && c.current.sending {
		return
	}
	for _, drained := range c.drained {
		close(drained)
	}
	c.drained = nil
}

// wakeUp makes the connecting goroutine look at the state.
func (c *Client) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// retain makes Done wait for a goroutine or a session.
func (c *Client) retain() {
	c.mu.Lock()
	c.active++
	c.mu.Unlock()
}

// release reverts retain.
func (c *Client) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active--; c.active == 0 && c.endErr != nil && !c.over {
		c.over = true
		close(c.done)
	}
}
