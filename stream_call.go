package rpcx

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"

	"example.com/rpcx/internal/jsonscan"
)

// streamCall is what the outcome of a call means for a stream. A pendingMessage has one only
// if the call belongs to a stream. The session's lock guards the fields, except those of the
// first block.
type streamCall struct {
	ss   *sessionStreams
	kind streamCallKind

	form         *Correlation
	methods      []*newsMethod
	queue        *streamQueue // nil for callUnsubscribes
	route        *route       // nil until the id is known
	finished     bool         // the outcome is known
	slotReleased bool         // the call has no slot of Limits.Outgoing
}

// streamCallKind is the relation of a call to a stream.
type streamCallKind uint8

const (
	callSubscribes   streamCallKind = iota // the reply confirms the subscription
	callListens                            // the reply ends the stream, or the progress
	callUnsubscribes                       // nobody waits for the reply
)

// givenUpCall is a subscribing call without a reply that was given up. The reply may still
// come, and is then unsubscribed.
type givenUpCall struct {
	id   uint64
	call *streamCall
}

var (
	errStreamsNeedJSON = errors.New("rpcx: streams need a codec with JSON: ids and values are found in JSON params")
	errNamedParams     = errors.New("rpcx: the subscribing call needs positional params, such as rpcx.Args: " +
		"without Correlation.ID, a notification repeats the params of the call, and one more")
	errTokenNeedsNamed = errors.New("rpcx: the call needs named params, a struct or a map: Correlation.Token is a place in them")
)

// errNoStreamID is the error for a reply that is no id.
func errNoStreamID(method string, result []byte) error {
	return fmt.Errorf("rpcx: the reply to %q is %s, and no id, which is a string or a number: "+
		"choose the Correlation of this method, or describe its form", method, excerpt(result[:min(len(result), 64)]))
}

// checkStreams returns why s can have no streams, or nil.
func (s *Session) checkStreams() error {
	switch {
	case s.exchange() != nil:
		return ErrNoStreams
	case rawType(s.codec) != nil:
		return errStreamsNeedJSON
	}
	if _, err := s.Protocol().AppendNotification(nil, "m", nil, s.codec); err != nil {
		return ErrNoStreams // Aiomas has no notifications
	}
	return nil
}

// openStream implements [Subscribe].
func (s *Session) openStream(ctx context.Context, sub *Subscription) (streamSource, error) {
	if err := s.checkStreams(); err != nil {
		return nil, err
	}
	sub, err := sub.resolve()
	if err != nil {
		return nil, err
	}
	q, err := s.openQueue(ctx, sub, 1, nil)
	if err != nil {
		return nil, err
	}
	return q, nil
}

// openQueue makes the subscribing call of sub, which is resolved, and waits for the reply, if
// the reply confirms the subscription. attempt and t are those of a Client, or 1 and nil.
func (s *Session) openQueue(ctx context.Context, sub *Subscription, attempt int, t *sendTurn) (*streamQueue, error) {
	q := newStreamQueue(s, sub.Correlation, sub.Method, queueLimits{sub.Queue, sub.Bytes, sub.Overflow, sub.Key})
	call, params, err := s.beginStreamCall(ctx, q, sub.Params)
	if err != nil {
		return nil, err
	}
	err = errCallPanicked
	defer func() {
		if err != nil { // perhaps of Options.OnCall, which may panic
			call.finishUnsent(err)
		}
	}()
	if call.kind == callListens {
		_, err = s.startStreamCall(ctx, sub.Method, params, call, attempt)
	} else {
		err = s.callWithStream(ctx, sub.Method, params, call, attempt, t)
	}
	if err != nil {
		return nil, err
	}
	if call.kind == callListens {
		call.releaseSlot()
	}
	return q, nil
}

// startQueue is openQueue without waiting for the reply, which is that of the future.
func (s *Session) startQueue(ctx context.Context, sub *Subscription) (*streamQueue, *Future, error) {
	q := newStreamQueue(s, sub.Correlation, sub.Method, queueLimits{sub.Queue, sub.Bytes, sub.Overflow, sub.Key})
	call, params, err := s.beginStreamCall(ctx, q, sub.Params)
	if err != nil {
		return nil, nil, err
	}
	f, err := s.startStreamCall(ctx, sub.Method, params, call, 1)
	if err != nil {
		call.finishUnsent(err)
		return nil, nil, err
	}
	if call.kind == callListens {
		call.releaseSlot()
	}
	return q, f, nil
}

// beginStreamCall enters q as far as the id is known before the call. It returns the call
// for pendingMessage.stream, and the params to be sent. If an equal subscription is being
// unsubscribed, beginStreamCall waits.
func (s *Session) beginStreamCall(ctx context.Context, q *streamQueue, params any) (*streamCall, any, error) {
	ss, form := s.useStreams(), q.form
	call := &streamCall{ss: ss, form: form, queue: q}
	if form.endsByReply() {
		call.kind = callListens
	}
	switch {
	case len(form.Token) > 0:
		object, token, err := ss.addToken(form, params)
		if err != nil {
			return nil, nil, err
		}
		q.id = token
		key := string(appendCanonical(nil, token))
		if call.kind == callListens {
			return call, object, ss.reserveRoute(call, key)
		}
		unsubscribed, err := setPath([]byte("{}"), form.Token, token)
		if err != nil {
			return nil, nil, err
		}
		return call, object, ss.joinRoute(ctx, call, key, unsubscribed)
	case form.isByParams():
		encoded, err := s.encodeParams(params)
		if err != nil {
			return nil, nil, err
		}
		if encoded != nil && encoded[0] != '[' {
			return nil, nil, errNamedParams
		}
		if encoded == nil {
			encoded = []byte("[]")
		}
		key, _ := appendParamsKey(nil, encoded, false)
		return call, params, ss.joinRoute(ctx, call, string(key), encoded)
	}
	s.lock()
	defer s.unlock()
	call.methods = ss.learnLocked(form, q.method)
	return call, params, nil
}

// reserveRoute makes the route of call, whose token is the key.
func (ss *sessionStreams) reserveRoute(call *streamCall, key string) error {
	ss.s.lock()
	defer ss.s.unlock()
	call.methods = ss.learnLocked(call.form, call.queue.method)
	r, isNew := ss.enterLocked(call.form, call.methods, key)
	if !isNew {
		return errIDTaken(call.queue.id)
	}
	call.route = r
	ss.dropOlderLocked(r, call.methods)
	ss.attachLocked(r, call.queue)
	return nil
}

// errIDTaken is the error for an id that has a stream already.
func errIDTaken(id []byte) error {
	return fmt.Errorf("rpcx: the id %s has a stream already: close that first, or choose another token", excerpt(id))
}

// encodeParams encodes params, or returns nil for no params.
func (s *Session) encodeParams(params any) ([]byte, error) {
	if params == nil {
		return nil, nil
	}
	encoded, err := appendCodec(nil, s.codec, params)
	if err != nil {
		return nil, asUnsent(err)
	}
	if encoded = bytes.TrimSpace(encoded); jsonscan.IsNull(encoded) {
		return nil, nil
	}
	return encoded, nil
}

// addToken returns params with a token, and the token.
func (ss *sessionStreams) addToken(form *Correlation, params any) (object, token json.RawMessage, err error) {
	s := ss.s
	encoded, err := s.encodeParams(params)
	switch {
	case err != nil:
		return nil, nil, err
	case encoded == nil:
		encoded = []byte("{}")
	case encoded[0] != '{':
		return nil, nil, errTokenNeedsNamed
	}
	if given := findPath(encoded, form.Token); given != nil && !jsonscan.IsNull(given) {
		if !isStreamID(given) {
			return nil, nil, fmt.Errorf("rpcx: the token %s in the params is neither a string nor a number", excerpt(given))
		}
		return encoded, bytes.Clone(given), nil
	}
	s.lock()
	ss.lastToken++
	token = fmt.Appendf(nil, `"rpcx-%d"`, ss.lastToken)
	s.unlock()
	if object, err = setPath(encoded, form.Token, token); err != nil {
		return nil, nil, fmt.Errorf("rpcx: no place for the token in the params: %w", err)
	}
	return object, token, nil
}

// joinRoute enters call, a subscribing call whose key is known, in the route of the key, which
// equal subscriptions share. params are those of the unsubscribing call. While the
// unsubscribing call of an equal subscription has no reply, joinRoute waits.
func (ss *sessionStreams) joinRoute(ctx context.Context, call *streamCall, key string, params json.RawMessage) error {
	s := ss.s
	for {
		s.lock()
		call.methods = ss.learnLocked(call.form, call.queue.method)
		r, isNew := ss.enterLocked(call.form, call.methods, key)
		if !r.unsent {
			call.route, r.params = r, params
			r.pending++
			if isNew {
				ss.dropOlderLocked(r, call.methods)
			}
			if len(call.form.Token) > 0 {
				ss.attachLocked(r, call.queue)
			}
			s.unlock()
			return nil
		}
		answered := make(chan struct{})
		r.waiters = append(r.waiters, answered)
		s.unlock()
		if err := s.awaitUnsubscribed(ctx, answered); err != nil {
			s.lock()
			r.waiters = slices.DeleteFunc(r.waiters, func(w chan struct{}) bool { return w == answered })
			s.unlock()
			return err
		}
	}
}

// awaitUnsubscribed waits until answered is closed.
func (s *Session) awaitUnsubscribed(ctx context.Context, answered <-chan struct{}) error {
	h := handlerOf(ctx)
	s.requests.beginReplyWait(h)
	defer s.requests.endReplyWait(h)
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// callWithStream makes a call whose reply confirms a stream, and waits for the reply.
func (s *Session) callWithStream(ctx context.Context, method string, params any, call *streamCall, attempt int, t *sendTurn) error {
	if len(s.calls.hooks.onCall) > 0 {
		return s.calls.hooks.runCall(ctx, OutgoingCall{Session: s, Method: method, Params: params, Attempt: attempt}, func(ctx context.Context, c *OutgoingCall) error {
			return s.callAndWait(ctx, c.Method, c.Params, c, nil, call, t)
		})
	}
	return s.callAndWait(ctx, method, params, nil, nil, call, t)
}

// startStreamCall makes a call of a stream, and does not wait for the reply.
func (s *Session) startStreamCall(ctx context.Context, method string, params any, call *streamCall, attempt int) (*Future, error) {
	if len(s.calls.hooks.onCall) == 0 {
		return s.startCall(ctx, method, params, nil, call)
	}
	var err error
	started := false
	f := s.calls.hooks.startCall(ctx, &s.pool.Pool, OutgoingCall{Session: s, Method: method, Params: params, Attempt: attempt}, func(ctx context.Context, h *hookedCall) (f *Future, _ error) {
		started = true
		f, err = s.startCall(ctx, h.Method, h.Params, h, call)
		return f, err
	})
	if !started {
		err = f.Err()
	}
	return f, err
}

// registerLocked enters a call whose id is the id of the call, just before m is queued (I4).
// Callers must hold s.mu.
func (c *streamCall) registerLocked(m *pendingMessage) {
	ss := c.ss
	ss.s.mu.AssertHeld()
	if c.kind != callListens || ss.ended {
		return
	}
	if c.form.CallID {
		id := strconv.AppendUint(nil, m.calls[0].id, 10)
		c.queue.id = id
		c.route, _ = ss.enterLocked(c.form, c.methods, string(appendCanonical(nil, id)))
		ss.attachLocked(c.route, c.queue)
	}
	c.route.call = m
}

// releaseSlot releases the slot of a call that lasts as long as its stream.
func (c *streamCall) releaseSlot() {
	s := c.ss.s
	s.lock()
	defer s.unlock()
	if c.finished {
		return
	}
	c.slotReleased = true
	c.ss.listening++
	if !s.calls.limiter.off() {
		s.calls.limiter.releaseSlot()
	}
}

// finishUnsent ends a call that failed before it was queued. If the call was queued, its
// outcome is known, and finishUnsent does nothing.
func (c *streamCall) finishUnsent(err error) {
	s := c.ss.s
	s.lock()
	c.finishLocked(nil, err)
	s.unlock()
}

// finishLocked handles the outcome of the call: the result, or the error. It returns the
// error of the call. Callers must hold s.mu.
func (c *streamCall) finishLocked(result []byte, err error) error {
	ss := c.ss
	ss.s.mu.AssertHeld()
	if c.finished {
		return err
	}
	c.finished = true
	switch c.kind {
	case callUnsubscribes:
		c.route.unsent = false
		if err != nil && !ss.ended {
			ss.s.logs.logLaterLocked(slog.LevelDebug, "unsubscribing call failed", methodAttr(c.route.form.Unsubscribe), slog.String("error", excerpt(err.Error())))
		}
		ss.endUnusedLocked(c.route)
		c.route.wakeWaiters()
	case callListens:
		if c.slotReleased {
			ss.listening--
		}
		if c.route != nil {
			c.route.call = nil
		}
		ss.detachLocked(c.queue)
		reason := err
		if err == nil {
			reason = ErrStreamEnded
		}
		c.queue.finish(reason, false)
	case callSubscribes:
		return c.confirmLocked(result, err)
	}
	return err
}

// confirmLocked is finishLocked for callSubscribes. Callers must hold s.mu.
func (c *streamCall) confirmLocked(result []byte, err error) error {
	ss, q := c.ss, c.queue
	ss.s.mu.AssertHeld()
	if c.route != nil { // entered by joinRoute
		c.route.pending--
	}
	if err == nil && ss.ended {
		err = ss.s.closedErrorLocked()
	}
	if err == nil {
		err = c.findRouteLocked(result)
	}
	if err != nil {
		if q.route != nil {
			ss.detachLocked(q)
		} else if c.route != nil {
			ss.endUnusedLocked(c.route)
		}
		return err
	}
	c.route.subscribed = true
	if c.form.Current {
		q.push(queuedNews{data: bytes.Clone(result), isValue: true})
	}
	if q.route == nil {
		ss.attachLocked(c.route, q)
		ss.claimKeptLocked(c.route, c.methods, ss.s.now())
	}
	return nil
}

// findRouteLocked sets the route of a confirmed subscription. If the reply is the id, the
// route is that of the id. Callers must hold s.mu.
func (c *streamCall) findRouteLocked(result []byte) error {
	ss := c.ss
	ss.s.mu.AssertHeld()
	if c.route != nil {
		return nil
	}
	id := bytes.TrimSpace(result)
	if !isStreamID(id) || len(id) > maxReplyID {
		return errNoStreamID(c.queue.method, id)
	}
	id = bytes.Clone(id)
	r, isNew := ss.enterLocked(c.form, c.methods, string(appendCanonical(nil, id)))
	if !isNew && r.unsent { // the peer has given the id again before the reply to the unsubscribing call
		for _, table := range r.tables {
			delete(table, r.key)
		}
		delete(ss.routes, r)
		r, _ = ss.enterLocked(c.form, c.methods, r.key)
	}
	c.route, c.queue.id, r.params = r, id, Args{json.RawMessage(id)}
	return nil
}

// rememberGivenUpLocked remembers a subscribing call that was given up, until the reply
// comes. Callers must hold s.mu.
func (ss *sessionStreams) rememberGivenUpLocked(id uint64, call *streamCall) {
	ss.s.mu.AssertHeld()
	if call.kind != callSubscribes || call.form.Unsubscribe == "" {
		return
	}
	if len(ss.givenUp) >= maxAbandoned {
		ss.givenUp = slices.Delete(ss.givenUp, 0, 1)
	}
	ss.givenUp = append(ss.givenUp, givenUpCall{id, call})
}

// unsubscribeLateLocked handles a reply to a call that was given up. If the call has
// subscribed, unsubscribeLateLocked unsubscribes, unless an equal subscription needs the
// notifications. Callers must hold s.mu.
func (ss *sessionStreams) unsubscribeLateLocked(id ID, result []byte, err error) {
	ss.s.mu.AssertHeld()
	n, parseErr := strconv.ParseUint(string(id), 10, 64)
	i := slices.IndexFunc(ss.givenUp, func(g givenUpCall) bool { return g.id == n })
	if i < 0 || parseErr != nil {
		return
	}
	old := ss.givenUp[i].call
	if ss.givenUp = slices.Delete(ss.givenUp, i, i+1); err != nil || ss.ended {
		return
	}
	c := &streamCall{ss: ss, form: old.form, methods: old.methods, queue: &streamQueue{}}
	if old.route != nil { // the key is that of the old route, which may have been removed
		c.route, _ = ss.enterLocked(old.form, old.methods, old.route.key)
		c.route.params = old.route.params
	}
	if c.findRouteLocked(result) != nil {
		return
	}
	c.route.subscribed = true
	ss.endUnusedLocked(c.route)
}

// claimStream implements [StreamOf].
func (s *Session) claimStream(form *Correlation, id any) (streamSource, error) {
	if err := s.checkStreams(); err != nil {
		return nil, err
	}
	if err := form.check("the Correlation for StreamOf, such as LSPWorkDone,"); err != nil {
		return nil, fmt.Errorf("rpcx: %w", err)
	}
	if form.isByParams() || len(form.Methods) == 0 {
		return nil, errors.New("rpcx: StreamOf needs a Correlation with Methods and ID: set those of the notifications")
	}
	raw, err := s.encodeParams(id)
	if err != nil {
		return nil, err
	}
	if !isStreamID(raw) {
		return nil, fmt.Errorf("rpcx: the id for StreamOf is %s: use a string or a number", cmp.Or(excerpt(raw), "null"))
	}
	q := newStreamQueue(s, form, "", defaultQueueLimits)
	q.id = raw
	ss := s.useStreams()
	s.lock()
	defer s.unlock()
	if s.life.state >= stateClosing || ss.ended {
		return nil, s.closedErrorLocked()
	}
	methods := ss.learnLocked(form, "")
	r, isNew := ss.enterLocked(form, methods, string(appendCanonical(nil, raw)))
	if !isNew {
		return nil, errIDTaken(raw)
	}
	ss.attachLocked(r, q)
	ss.claimKeptLocked(r, methods, s.now())
	return q, nil
}
