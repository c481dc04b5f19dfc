package rpcx

import (
	"slices"
	"time"
)

// The parts of a clientStream: a queue for each session, as long as it has values.

// streamPart is the queue of a clientStream on one session.
type streamPart struct {
	queue *streamQueue
	cs    *clientSession
	left  time.Time // when the client has replaced the session; zero if it has not
	gap   *GapError // before the part; nil for the first, and after OnGap
}

// maxParts is the number of parts with unread values. If the reader is slower, the oldest
// part is dropped, or the stream ends with ErrSlowReader, as the policy says.
const maxParts = 2

// addPart appends a part whose subscription the peer has confirmed.
func (st *clientStream) addPart(queue *streamQueue, cs *clientSession) {
	defer st.leaveIfLost(cs)
	st.mu.Lock()
	switch {
	case st.end != nil:
		reason := st.end
		st.mu.Unlock()
		queue.closeWith(reason) // unsubscribes
		return
	case st.subject != nil && st.subject.cs.number >= cs.number: // the reply has come too late
		st.mu.Unlock()
		return
	}
	p := &streamPart{queue: queue, cs: cs}
	if before := st.subject; before != nil {
		p.gap = before.newGap()
	}
	st.dropReadLocked(p)
	if slow := len(st.parts) >= maxParts; slow && st.sub.Overflow == EndStream {
		st.end = ErrSlowReader
		st.mu.Unlock()
		st.client.removeStream(st)
		queue.closeWith(ErrSlowReader)
		st.signal()
		return
	} else if slow {
		st.dropLocked(0, p)
	}
	st.parts = append(st.parts, p)
	st.subject = p
	st.mu.Unlock()
	st.signal()
}

// newGap returns the gap after p, whose session was lost or replaced.
func (p *streamPart) newGap() *GapError {
	gap := &GapError{From: p.left, To: time.Now()}
	if p.left.IsZero() {
		gap.From = p.cs.lostAt
	}
	if lost, ok := p.queue.reason().(*ConnectionError); ok {
		gap.Err = lost.Err
	}
	return gap
}

// dropReadLocked drops the parts that have ended without a value to be read. next is the
// part after all others. Callers must hold st.mu.
func (st *clientStream) dropReadLocked(next *streamPart) {
	for i := len(st.parts) - 1; i >= 0; i-- {
		p := st.parts[i]
		taken := st.sub.Correlation.Current && p.gap != nil // the reader compares the value
		if p.queue.isRead() && !taken {
			st.dropLocked(i, next)
		}
	}
}

// dropLocked drops the part with index i. next is the part after all others. Callers must
// hold st.mu.
func (st *clientStream) dropLocked(i int, next *streamPart) {
	p := st.parts[i]
	st.parts = slices.Delete(st.parts, i, i+1)
	if i < len(st.parts) {
		next = st.parts[i]
	}
	st.dropped += p.queue.discard()
	if p.gap != nil && next.gap != nil { // one gap, with both
		next.gap = &GapError{From: p.gap.From, To: next.gap.To, Err: p.gap.Err}
		p.gap = nil
	}
}

// endPart removes part, whose queue has ended and is read, or has a value that cannot be
// read. Unless its session was lost, the stream ends, too.
func (st *clientStream) endPart(part *streamPart, reason error) {
	st.mu.Lock()
	st.parts = slices.DeleteFunc(st.parts, func(p *streamPart) bool { return p == part })
	st.dropped += part.queue.droppedValues()
	if st.end == nil && !isLoss(reason) {
		st.end = reason
	}
	ended := st.end != nil
	st.mu.Unlock()
	if ended {
		st.client.removeStream(st)
		part.queue.closeWith(reason) // unsubscribes, if the session goes on
	}
}

// takeStreams ends the parts on cs, which the client replaces, for the given reason.
func (c *Client) takeStreams(cs *clientSession, reason error) {
	c.mu.Lock()
	streams := slices.Clone(c.streams)
	c.mu.Unlock()
	for _, st := range streams {
		st.leavePart(cs, reason)
	}
}

// leaveIfLost ends the part on cs if the client has lost or left cs before it could see the
// part. The session may go on.
func (st *clientStream) leaveIfLost(cs *clientSession) {
	switch {
	case cs.isLeft():
		st.leavePart(cs, errReconnect)
	case !cs.takesCalls():
		st.leavePart(cs, cs.reason())
	}
}

// leavePart ends the part on cs, which the client replaces, for the given reason.
func (st *clientStream) leavePart(cs *clientSession, reason error) {
	st.mu.Lock()
	last := st.subject
	isOn := last.cs == cs
	if isOn && last.left.IsZero() {
		last.left = time.Now()
	}
	st.mu.Unlock()
	if isOn {
		last.queue.leave(&ConnectionError{Written: true, Err: reason, isStream: true})
	}
}
