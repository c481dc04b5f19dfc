package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"
)

// The connecting goroutine of a Client. It makes sessions, one after the other, and waits
// for the end of each:
//
//	run → nextAddr → waitUntil, then attempt: Connect, adopt, OnConnect → becomeReady
//	    → await: until the session is lost, is to be replaced, or the client ends
//
// becomeReady starts sendWaiting (client_queue.go), which subscribes again and sends what
// waits. A session that is replaced goes on in drain, until its calls are finished.

// clientAddrs is the list of addresses. Only the connecting goroutine uses it, except
// holds.
type clientAddrs struct {
	list     []string
	next     int // index of the next address
	shuffle  bool
	failures int // attempts since the last stable session; doubles the backoff
	hops     int // attempts without backoff, since the last backoff or stable session
}

// take returns the next address.
func (a *clientAddrs) take() string {
	if a.next == 0 && a.shuffle {
		rand.Shuffle(len(a.list), func(i, j int) { a.list[i], a.list[j] = a.list[j], a.list[i] })
	}
	addr := a.list[a.next]
	a.next = (a.next + 1) % len(a.list)
	return addr
}

// mayHop reports whether the next address may be tried at once, because the peer goes away.
// After an attempt without backoff for each other address, the backoff applies.
func (a *clientAddrs) mayHop() bool {
	if a.hops >= len(a.list)-1 {
		a.hops = 0
		return false
	}
	a.hops++
	return true
}

// maxRetryAfter is the bound of RetryAfter, as a multiple of MaxBackoff.
const maxRetryAfter = 10

// backoff returns a random time, below MinBackoff after no failure, and below twice as much
// with each failure, up to MaxBackoff.
func (o *ClientOptions) backoff(failures int) time.Duration {
	bound := o.MaxBackoff
	if failures < 30 && o.MinBackoff < bound>>failures {
		bound = o.MinBackoff << failures
	}
	return rand.N(bound)
}

// run makes sessions until the client ends.
func (c *Client) run() {
	defer c.release()
	var reason error // why there is no session
	hop := true      // the first attempt is made at once
	for c.waitUntilNeeded() {
		addr, at := c.nextAddr(hop)
		if !c.waitUntil(at, reason) {
			return
		}
		c.setState(ClientConnecting, reason)
		cs, err := c.attempt(addr)
		if err == nil && c.becomeReady(cs) {
			err = c.await(cs)
			if time.Since(cs.since) >= c.options.StableAfter {
				c.addrs.failures, c.addrs.hops = 0, 0
			}
		}
		hop = c.judgeEnd(cs, err)
		c.logFailure(addr, cs, reason, err)
		reason = err
		c.addrs.failures++
	}
}

// logFailure logs that the attempt at addr has failed with err, unless the attempt before
// has failed with the same error. cs is nil if the attempt has failed.
func (c *Client) logFailure(addr string, cs *clientSession, before, err error) {
	if cs != nil || c.ctx.Err() != nil || before != nil && before.Error() == err.Error() {
		return
	}
	c.logger.LogAttrs(c.ctx, slog.LevelInfo, "attempt to connect failed", slog.String("addr", addr), errorAttr(err))
}

// nextAddr returns the next address, and when it may be tried. An address is left out as
// long as its peer asks for patience, unless all are.
func (c *Client) nextAddr(hop bool) (addr string, at time.Time) {
	now := time.Now()
	at = now
	if !hop {
		at = now.Add(c.options.backoff(c.addrs.failures - 1))
	}
	var until time.Time
	for range len(c.addrs.list) {
		candidate := c.addrs.take()
		hold := c.holdOf(candidate)
		if !hold.After(at) {
			return candidate, at
		}
		if addr == "" || hold.Before(until) {
			addr, until = candidate, hold
		}
	}
	return addr, until
}

// holdOf returns when the peer at addr may be tried again.
func (c *Client) holdOf(addr string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holds[addr]
}

// holdAddr makes the address of cs wait, because the peer has refused with e for its cost.
func (c *Client) holdAddr(addr string, e *Error) {
	var cost CostError
	if raw, ok := e.Data.(json.RawMessage); !ok || json.Unmarshal(raw, &cost) != nil || !(cost.RetryAfter > 0) {
		return
	}
	longest := maxRetryAfter * c.options.MaxBackoff
	if longest/maxRetryAfter != c.options.MaxBackoff {
		longest = c.options.MaxBackoff // ten times as much is over 292 years
	}
	wait := longest
	if cost.RetryAfter < longest.Seconds() {
		wait = time.Duration(cost.RetryAfter * float64(time.Second))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holds == nil {
		c.holds = make(map[string]time.Time)
	}
	c.holds[addr] = time.Now().Add(wait)
}

// waitUntilNeeded reports whether a session is to be made. During Shutdown, it waits until
// a call waits for a session.
func (c *Client) waitUntilNeeded() bool {
	for {
		c.mu.Lock()
		closed, idle := c.endErr != nil, c.draining && c.queue.isEmpty()
		c.mu.Unlock()
		if closed || !idle {
			return !closed
		}
		select {
		case <-c.wake:
		case <-c.ctx.Done():
		}
	}
}

// waitUntil waits for the time at. Reconnect ends the wait, and so does the end of the
// client: then the result is false.
func (c *Client) waitUntil(at time.Time, reason error) bool {
	c.takeReconnect()
	wait := time.Until(at)
	if wait <= 0 {
		return c.ctx.Err() == nil
	}
	c.setState(ClientBackoff, reason)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-c.ctx.Done():
			return false
		case <-c.wake:
			if c.takeReconnect() {
				return true
			}
		}
	}
}

// takeReconnect reports whether Reconnect was called since the last takeReconnect.
func (c *Client) takeReconnect() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := c.reconnect
	c.reconnect = false
	return wanted
}

// attempt makes a session with addr, and calls OnConnect, within ConnectTimeout. The context
// of both ends with the session.
func (c *Client) attempt(addr string) (_ *clientSession, err error) {
	late := fmt.Errorf("rpcx: no session within %v (ClientOptions.ConnectTimeout): %w", c.options.ConnectTimeout, context.DeadlineExceeded)
	ctx, cancel := context.WithCancelCause(c.ctx)
	timer := time.AfterFunc(c.options.ConnectTimeout, func() { cancel(late) })
	defer func() {
		timer.Stop()
		if err != nil {
			if context.Cause(ctx) == late && err != late {
				err = fmt.Errorf("%w: %w", late, err)
			}
			cancel(err)
		}
	}()
	opts := c.session
	s, err := c.options.Connect(ctx, addr, &opts)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errors.New("rpcx: ClientOptions.Connect has returned neither a session nor an error")
	}
	c.number++
	cs, err := c.adopt(s, addr, c.number)
	if err != nil {
		return nil, err
	}
	c.retain() // until the session is over
	// Owner: the client. End: the client has ended, or the session is over. A lost session may
	// go on for a while.
	stopWatch := context.AfterFunc(c.ctx, func() { c.closeSession(cs) })
	s.OnClose(func(err error) {
		stopWatch()
		cancel(err)
		c.release()
	})
	if c.options.OnConnect == nil {
		return cs, nil
	}
	stop := context.AfterFunc(ctx, func() { s.closeWith(ErrClosed, 0) }) // so that calls of OnConnect end
	err = c.options.OnConnect(context.WithValue(ctx, sessionKey{c}, cs), s)
	c.noteRefusal(cs, err)
	if _, permanent := errors.AsType[*PermanentError](err); !stop() && !permanent {
		if cause := context.Cause(ctx); err == nil || cause == late || c.ctx.Err() != nil {
			err = cause // rather than what the close of s has caused
		}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return cs, nil
}

// becomeReady makes cs the session of the client. It reports false if the client has ended.
func (c *Client) becomeReady(cs *clientSession) bool {
	cs.since = time.Now()
	c.mu.Lock()
	if c.endErr != nil {
		c.mu.Unlock()
		c.closeSession(cs)
		return false
	}
	c.current, c.latest, c.reconnect = cs, cs, false
	c.queue.releaseHeldLocked(c)
	c.setStateLocked(ClientReady, nil)
	if c.queue.isEmpty() && len(c.streams) == 0 {
		c.publishLocked(cs)
	} else {
		c.startSendingLocked(cs)
	}
	c.mu.Unlock()
	return true
}

// publishLocked lets calls go directly to cs. Callers must hold c.mu.
func (c *Client) publishLocked(cs *clientSession) {
	c.mu.AssertHeld()
	c.published = cs.number
	if !c.draining {
		c.ready.Store(cs)
	}
}

// await waits until cs takes no more calls, is to be replaced, or the client ends. It
// returns the reason.
func (c *Client) await(cs *clientSession) error {
	var tick <-chan time.Time
	if c.keepAliveMethod != "" {
		ticker := time.NewTicker(c.keepAlive)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-cs.lost:
			err := cs.reason()
			c.loseSession(cs, err)
			c.takeStreams(cs, err) // after Shutdown of the session they would go on
			return err
		case <-c.ctx.Done():
			return ErrClosed
		case <-tick:
			cs.checkAlive(c.keepAliveMethod)
		case <-c.wake:
			if err := c.takeReplacement(cs); err != nil {
				c.drain(cs, err)
				return err
			}
		}
	}
}

// errReconnect is the reason for the end of a session that Reconnect replaces.
var errReconnect = errors.New("rpcx: session replaced by Client.Reconnect")

// takeReplacement returns why cs is to be replaced, or nil.
func (c *Client) takeReplacement(cs *clientSession) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reconnect {
		c.reconnect = false
		c.leaveLocked(cs, errReconnect)
	}
	return cs.leaving
}

// leaveLocked makes the connecting goroutine replace cs. Callers must hold c.mu.
func (c *Client) leaveLocked(cs *clientSession, reason error) {
	c.mu.AssertHeld()
	if c.current != cs {
		return
	}
	cs.leaving = reason
	c.loseSessionLocked(cs, reason)
	c.wakeUp()
}

// loseSession records that cs takes no more calls, for the given reason.
func (c *Client) loseSession(cs *clientSession, reason error) {
	c.mu.Lock()
	c.loseSessionLocked(cs, reason)
	c.mu.Unlock()
}

// loseSessionLocked does the work of loseSession. Callers must hold c.mu.
func (c *Client) loseSessionLocked(cs *clientSession, reason error) {
	c.mu.AssertHeld()
	if c.current == cs {
		c.current, c.reason = nil, reason
		c.ready.Store(nil)
	}
}

// drain lets the calls of cs finish, and takes its streams away. Calls on the session
// itself fail from now on.
func (c *Client) drain(cs *clientSession, reason error) {
	c.takeStreams(cs, reason)
	limit := c.requestTimeout
	if limit == never {
		limit = defaultDrain
	}
	c.retain()
	// Owner: the client. End: the session is over, at the latest after limit, or the client
	// ends.
	go func() {
		defer c.release()
		ctx, cancel := context.WithTimeout(c.ctx, limit)
		defer cancel()
		if cs.session.shutdownWith(ctx, ErrClosed, 0) != nil {
			c.closeSession(cs)
		}
	}()
}

// defaultDrain bounds the end of a replaced session, if Limits.RequestTimeout does not.
const defaultDrain = 30 * time.Second

// goingAway is an error of a transport that says whether its peer goes away, so that
// another address should be tried at once: a WebSocket's close code 1001 or 1012.
type goingAway interface {
	error
	GoingAway() bool
}

// judgeEnd handles the end of a session or of an attempt, for the reason err. It reports
// whether the next address is to be tried at once. cs is nil if there was no session.
func (c *Client) judgeEnd(cs *clientSession, err error) (hop bool) {
	if permanent, ok := errors.AsType[*PermanentError](err); ok && (cs == nil || cs.since.IsZero()) {
		c.end(&clientClosedError{permanent})
		return false
	}
	if err == errReconnect {
		return true
	}
	refused, _ := errors.AsType[*Error](err)
	away, ok := errors.AsType[goingAway](err)
	if ok && away.GoingAway() || refused.isShutdown() {
		return c.addrs.mayHop()
	}
	return false
}

// isShutdown reports whether the peer has refused a request because it shuts down.
func (e *Error) isShutdown() bool {
	if !e.NotStarted() {
		return false
	}
	_, reason := e.busyDetails()
	return reason == "shutting down"
}

// noteRefusal takes from err, an error of the peer, how long its address has to wait.
func (c *Client) noteRefusal(cs *clientSession, err error) {
	if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeExcessiveResourceUsage {
		c.holdAddr(cs.addr, e)
	}
}

// maxStateChanges is the number of changes that wait for OnState.
const maxStateChanges = 64

// stateChange is a change that waits for OnState.
type stateChange struct {
	state  ClientState
	reason error
}

// setState changes the state.
func (c *Client) setState(state ClientState, reason error) {
	c.mu.Lock()
	if c.endErr == nil {
		c.reason = reason
		c.setStateLocked(state, reason)
	}
	c.mu.Unlock()
}

// setStateLocked does the work of setState. Callers must hold c.mu.
func (c *Client) setStateLocked(state ClientState, reason error) {
	c.mu.AssertHeld()
	if c.state = state; c.options.OnState == nil {
		return
	}
	if len(c.changes) >= maxStateChanges {
		c.changes = slices.Delete(c.changes, 0, 1)
	}
	if c.changes = append(c.changes, stateChange{state, reason}); !c.reporting {
		c.reporting = true
		c.active++
		// Owner: the client. End: no change is left.
		go c.reportStates()
	}
}

// reportStates calls OnState with the changes.
func (c *Client) reportStates() {
	defer c.release()
	for {
		c.mu.Lock()
		if len(c.changes) == 0 {
			c.reporting = false
			c.mu.Unlock()
			return
		}
		change := c.changes[0]
		c.changes = slices.Delete(c.changes, 0, 1)
		c.mu.Unlock()
		c.options.OnState(change.state, change.reason)
	}
}
