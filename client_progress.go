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
	return c.repeat(ctx, r, func(_ context.Context, cs *clientSession, t *sendTurn) (bool, error) {
		t.pass() // the reply may take long; only ctx and the session bound the call
		err := cs.session.callWithProgress(ctx, form, method, params, result, func(q *streamQueue, value []byte) error {
			r.final = true
			return f(q, value)
		})
		return c.judge(r, cs, err)
	})
}
