package rpcx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"
)

// clientStream is a subscription of a Client. On each session, the client makes the
// subscribing call anew, and the session fills a queue of its own: a part of the stream.
// The reader takes the values of one part after the other. A part ends with its session,
// and the stream does not.
//
//	openStream, or resubscribe → subscribeOn → Session.openStream ─▶ addPart
//	Stream.Next → next → nextPart, streamQueue.take, and before the values of a later part: OnGap
type clientStream struct {
	client *Client
	sub    *Subscription // resolved; Params are encoded
	wake   chan struct{} // has a value after a change of parts or end

	on *clientSession // the last session with a subscribing call; guarded by Client.mu

	// The reader's.
	from *streamQueue // of the last value
	last []byte       // the last value, if Correlation.Current is set

	mu      sync.Mutex    // guards the fields below; no other lock is taken under mu, except streamQueue.mu
	parts   []*streamPart // at most maxParts; the first is being read
	subject *streamPart   // the last part; nil before the first
	dropped uint64        // values of dropped parts
	end     error         // why the stream has ended; nil before
	closed  bool          // Close was called
	misuse  error
	reading bool // a goroutine is in next
}

var _ streamCaller = (*Client)(nil)

// openStream implements [Subscribe].
func (c *Client) openStream(ctx context.Context, sub *Subscription) (streamSource, error) {
	sub, err := sub.resolve()
	if err != nil {
		return nil, err
	}
	if rawType(c.codec) != nil {
		return nil, errStreamsNeedJSON
	}
	params, err := c.encodeParams(sub.Params)
	if err != nil {
		return nil, err
	}
	sub.Params = c.keptParams(params)
	st := &clientStream{client: c, sub: sub, wake: make(chan struct{}, 1)}
	r := &repetition{method: sub.Method, repeatable: true}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	err = c.repeat(ctx, r, func(ctx context.Context, cs *clientSession, t *sendTurn) (bool, error) {
		if err := cs.session.checkStreams(); err != nil {
			return false, err
		}
		queue, err := cs.session.openQueue(ctx, sub, r.attempt, t)
		if err == nil {
			st.on = cs
			st.addPart(queue, cs)
			err = c.addStream(st)
			st.leaveIfLost(cs)
		}
		return c.judge(r, cs, err)
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// addStream makes the client subscribe again for st on each later session, also if the
// session of the subscribing call was lost meanwhile. If the client has ended, st ends, too,
// and addStream returns the error.
func (c *Client) addStream(st *clientStream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endErr != nil {
		return c.endErr
	}
	c.streams = append(c.streams, st)
	if later := c.current; later != nil && later != st.on {
		st.on = later
		c.active++
		// Owner: the client. End: the call is queued, at the latest with the session.
		go func() {
			defer c.release()
			st.subscribeOn(later, 0)
		}()
	}
	return nil
}

// removeStream reverts addStream.
func (c *Client) removeStream(st *clientStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams = slices.DeleteFunc(c.streams, func(other *clientStream) bool { return other == st })
}

// resubscribe makes the subscribing calls on cs, in the order of the streams. The calls
// leave one after the other; their replies are not awaited.
func (c *Client) resubscribe(cs *clientSession) {
	c.mu.Lock()
	streams := slices.Clone(c.streams)
	c.mu.Unlock()
	for _, st := range streams {
		c.mu.Lock()
		due := st.on != cs && cs.takesCalls()
		if due {
			st.on = cs
		}
		c.mu.Unlock()
		if due {
			st.subscribeOn(cs, 0)
		}
	}
}

// subscribeOn makes the subscribing call on cs, after the given number of refusals and
// timeouts.
func (st *clientStream) subscribeOn(cs *clientSession, refusals int) {
	if st.hasEnded() {
		st.client.removeStream(st)
		return
	}
	queue, f, err := cs.session.startQueue(st.client.inTurn(st.client.ctx, cs), st.sub)
	switch {
	case err != nil:
		st.judgeSubscribing(cs, refusals, err)
	case queue.form.endsByReply():
		st.addPart(queue, cs)
	default:
		f.OnDone(func(f *Future) {
			if err := f.Err(); err != nil {
				st.judgeSubscribing(cs, refusals, err)
			} else {
				st.addPart(queue, cs)
			}
		})
	}
}

// judgeSubscribing handles the failure of a subscribing call on cs. If the session was
// lost, the next makes the call again. A refusal as not started, or a timeout, is repeated,
// after a backoff. Any other error ends the stream.
func (st *clientStream) judgeSubscribing(cs *clientSession, refusals int, err error) {
	c := st.client
	if !cs.takesCalls() || c.Err() != nil {
		return
	}
	c.noteRefusal(cs, err)
	refused, _ := errors.AsType[*Error](err)
	switch {
	case refused.isShutdown(): // the next session subscribes
		c.mu.Lock()
		c.leaveLocked(cs, refused)
		c.mu.Unlock()
	case !refused.NotStarted() && !errors.Is(err, ErrTimeout) || refusals >= c.options.MaxRetries:
		st.finish(err)
		c.removeStream(st)
	default:
		c.retain()
		// Owner: the client. End: the call is queued, at the latest with the client.
		go func() {
			defer c.release()
			timer := time.NewTimer(c.options.backoff(refusals))
			defer timer.Stop()
			select {
			case <-timer.C:
				st.subscribeOn(cs, refusals+1)
			case <-cs.lost:
			case <-c.ctx.Done():
			}
		}()
	}
}

// signal wakes the reader.
func (st *clientStream) signal() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// hasEnded reports whether no subscribing call is needed any more: the stream has ended, or
// its last part for another reason than the loss of a session.
func (st *clientStream) hasEnded() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.endReason() != nil
}

// endReason returns why the stream has ended, also if values are still to be read, or nil.
// Callers must hold st.mu.
func (st *clientStream) endReason() error {
	if st.end == nil && st.subject != nil {
		if end := st.subject.queue.reason(); end != nil && !isLoss(end) {
			return end
		}
	}
	return st.end
}

// isLoss reports whether reason, of the end of a queue, is the loss of its session.
func isLoss(reason error) bool {
	_, lost := reason.(*ConnectionError)
	return lost
}

// finish ends the stream with the first reason.
func (st *clientStream) finish(reason error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.end == nil {
		st.end = reason
	}
	st.signal()
}

// endWith ends the stream with the client.
func (st *clientStream) endWith(reason error) { st.finish(reason) }

// closeWith implements [streamSource].
func (st *clientStream) closeWith(reason error) {
	st.mu.Lock()
	if st.end == nil {
		st.end = reason
	}
	st.closed = st.closed || reason == ErrStreamClosed
	parts := st.parts
	for _, p := range parts {
		st.dropped += p.queue.droppedValues()
	}
	st.parts = nil
	st.mu.Unlock()
	st.client.removeStream(st)
	for _, p := range parts {
		p.queue.closeWith(reason)
	}
	st.signal()
}

// next implements [streamSource].
func (st *clientStream) next(ctx context.Context) ([]byte, error) {
	if !st.beginRead() {
		return nil, errTwoReaders
	}
	defer st.endRead()
	for {
		part, gap, err := st.nextPart()
		if err != nil {
			return nil, err
		}
		if gap != nil && !st.sub.Correlation.Current {
			st.showGap(part, gap)
			gap = nil
		}
		if part != nil {
			value, end := part.queue.take()
			switch {
			case value != nil:
				if st.skips(part, gap, value) {
					continue
				}
				return value, nil
			case end != nil:
				st.endPart(part, end)
				continue
			}
		}
		if err := st.wait(ctx, part); err != nil {
			return nil, err
		}
	}
}

// nextPart returns the part to be read, and its gap; nil if there is none yet. After the
// last part it returns why the stream has ended.
func (st *clientStream) nextPart() (*streamPart, *GapError, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return nil, nil, ErrStreamClosed
	}
	if st.sub.Overflow == KeepLatest && st.sub.Key == nil && len(st.parts) > 1 && st.subject.queue.hasValues() {
		for len(st.parts) > 1 {
			st.dropLocked(0, nil)
		}
	}
	if len(st.parts) == 0 {
		return nil, nil, st.end
	}
	return st.parts[0], st.parts[0].gap, nil
}

// showGap calls OnGap, once for a part, and not if the part was dropped meanwhile: then the
// gap is that of the next.
func (st *clientStream) showGap(part *streamPart, gap *GapError) {
	st.mu.Lock()
	isNext := part.gap == gap
	part.gap = nil
	st.mu.Unlock()
	if isNext && st.sub.OnGap != nil {
		st.sub.OnGap(gap)
	}
}

// skips takes note of value, which the reader has taken from part. If value is the first
// after a gap, and equals the last before, skips reports true, and there was no gap.
func (st *clientStream) skips(part *streamPart, gap *GapError, value []byte) bool {
	st.from = part.queue
	if !st.sub.Correlation.Current {
		return false
	}
	same := gap != nil && st.last != nil && equalJSON(st.last, value)
	st.last = value
	if same {
		st.mu.Lock()
		part.gap = nil
		st.mu.Unlock()
	} else if gap != nil {
		st.showGap(part, gap)
	}
	return same
}

// equalJSON reports whether a and b are the same JSON value. Servers order the members of
// an object differently.
func equalJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	decode := func(data []byte) (v any, err error) {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		err = d.Decode(&v)
		return v, err
	}
	x, errX := decode(a)
	y, errY := decode(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

// wait waits until part has a value, or the parts have changed. part may be nil.
func (st *clientStream) wait(ctx context.Context, part *streamPart) error {
	var values chan struct{}
	if part != nil {
		values = part.queue.wake
		h, s := handlerOf(ctx), part.queue.session
		s.requests.beginReplyWait(h)
		defer s.requests.endReplyWait(h)
	}
	select {
	case <-values:
	case <-st.wake:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func (st *clientStream) beginRead() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	wasReading := st.reading
	st.reading = true
	return !wasReading
}

func (st *clientStream) endRead() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.reading = false
}

// decode implements [streamSource], for the value that next has returned.
func (st *clientStream) decode(value []byte, v any) error { return st.from.decode(value, v) }

// reason implements [streamSource].
func (st *clientStream) reason() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if end := st.endReason(); end != nil {
		return end
	}
	return st.misuse
}

// setMisuse implements [streamSource].
func (st *clientStream) setMisuse(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.misuse = err
}

// droppedValues implements [streamSource].
func (st *clientStream) droppedValues() uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	dropped := st.dropped
	for _, p := range st.parts {
		dropped += p.queue.droppedValues()
	}
	return dropped
}

// streamID implements [streamSource].
func (st *clientStream) streamID() json.RawMessage {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.subject.queue.streamID()
}
