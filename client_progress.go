package rpcx

import "context"

// claimStream implements [StreamOf], on the present session: the peer has made the id
// there.
func (c *Client) claimStream(form *Correlation, id any) (streamSource, error) {
	c.mu.Lock()
	cs := c.current
	err := c.noSessionErrorLocked()
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return cs.session.claimStream(form, id)
}

// noSessionErrorLocked returns why there is no session, or nil. Callers must hold c.mu.
func (c *Client) noSessionErrorLocked() error {
	c.mu.AssertHeld()
	switch {
	case c.endErr != nil:
		return c.endErr
	case c.current == nil:
		return &notConnectedError{reason: c.reason}
	}
	return nil
}

// callWithProgress implements [CallProgress]. After the first progress, the call is not
// repeated: its results would come twice.
func (c *Client) callWithProgress(ctx context.Context, form *Correlation, method string, params, result any, f func(q *streamQueue, value []byte) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	r := &repetition{method: method}
	op := func(ctx context.Context, cs *clientSession, t *sendTurn) (bool, error) {
		err := cs.session.attemptProgress(ctx, form, OutgoingCall{Method: method, Params: params, Attempt: r.attempt}, result, t, func(q *streamQueue, value []byte) error {
			r.final = true
			return f(q, value)
		})
		return c.judge(r, cs, err)
	}
	for { // not c.repeat: Limits.RequestTimeout bounds each wait, and not the call
		waitCtx, cancel := c.withRequestTimeout(ctx)
		cs, t, err := c.waitTurn(waitCtx, r)
		cancel()
		if err != nil {
			return err
		}
		if again, err := c.attemptCall(ctx, r, cs, t, op); !again {
			return err
		}
	}
}
