package rpcx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"example.com/rpcx/internal/bounded"
)

// callTable tracks the calls of one side: the pending calls, and the ids of abandoned
// calls. A callTable does no I/O and has no clock. Except for newID, callers must hold
// s.mu.
type callTable struct {
	lastID  atomic.Uint64 // the next id; at the start, Options.FirstID
	calls   []tableEntry  // sorted by id; most calls come and go in this order
	pending int           // number of calls without a reply

	abandoned       []idRange // ids of abandoned calls; if full, the oldest is at oldestAbandoned
	oldestAbandoned int
}

// idRange is a range of consecutive ids. If last is before first, the range is empty.
type idRange struct {
	first, last uint64
	answered    []bool // by id, from first on; nil if replies come in order
}

// tableEntry is an entry of a callTable. If call is nil, the entry is a gap.
type tableEntry struct {
	id   uint64
	call *pendingCall
}

// newID returns the next id, counting from Options.FirstID (I8).
func (t *callTable) newID() uint64 { return t.lastID.Add(1) - 1 }

// addCalls registers calls, which are sorted by id. The usual place of new calls is the
// end of the table. If calls with later ids were registered before, addCalls moves each of
// the later calls once, for any number of new calls.
func (t *callTable) addCalls(calls []pendingCall) {
	if len(t.calls)+len(calls) > cap(t.calls) && t.pending <= len(t.calls)/2 {
		t.calls = slices.DeleteFunc(t.calls, func(c tableEntry) bool { return c.call == nil })
	}
	end := len(t.calls)
	t.calls = slices.Grow(t.calls, len(calls))[:end+len(calls)]
	for i := len(calls) - 1; i >= 0; i-- {
		for ; end > 0 && t.calls[end-1].id > calls[i].id; end-- {
			t.calls[end+i] = t.calls[end-1]
		}
		t.calls[end+i] = tableEntry{calls[i].id, &calls[i]}
	}
	t.pending += len(calls)
}

// find returns the pending call with the given id, or nil, and the index of the id in the
// table.
func (t *callTable) find(id uint64) (*pendingCall, int) {
	i, end := 0, len(t.calls)
	for i < end {
		if half := int(uint(i+end) / 2); t.calls[half].id < id {
			i = half + 1
		} else {
			end = half
		}
	}
	if i == len(t.calls) || t.calls[i].id != id {
		return nil, i
	}
	return t.calls[i].call, i
}

// remove removes a call and reports whether the call was pending. The goroutine that
// removes a call completes the call (I3).
func (t *callTable) remove(c *pendingCall) bool {
	found, i := t.find(c.id)
	if found != c {
		return false
	}
	t.delete(i)
	return true
}

// delete leaves a gap at i. If no call is pending any more, a large table is released.
func (t *callTable) delete(i int) {
	t.calls[i].call = nil
	if t.pending--; t.pending == 0 {
		if t.calls = t.calls[:0]; cap(t.calls) > 256 {
			t.calls = nil
		}
	}
}

// removeButRemember removes a call and remembers the id, because the reply may still come. It
// reports whether the call was pending.
func (t *callTable) removeButRemember(c *pendingCall) bool {
	if !t.remove(c) {
		return false
	}
	t.rememberAbandoned(c)
	return true
}

// rememberAbandoned stores the id of an abandoned call. Consecutive ids of a batch share a
// range, so that a long batch does not displace earlier ids.
func (t *callTable) rememberAbandoned(c *pendingCall) {
	if n := len(t.abandoned); n > 0 && c.message.isBatch {
		newest := &t.abandoned[(t.oldestAbandoned+n-1)%n]
		if newest.first <= newest.last && newest.last+1 == c.id {
			newest.last++
			return
		}
	}
	t.keepRange(idRange{first: c.id, last: c.id})
}

// keepRange stores a range of abandoned ids. If abandoned is full, the new range replaces
// the oldest.
func (t *callTable) keepRange(r idRange) {
	if len(t.abandoned) < maxAbandoned {
		t.abandoned = append(t.abandoned, r)
		return
	}
	t.abandoned[t.oldestAbandoned] = r
	t.oldestAbandoned = (t.oldestAbandoned + 1) % maxAbandoned
}

// takeAbandoned reports whether the reply to the abandoned call with the given id is still
// to come. If so, takeAbandoned removes the id: a second reply is unexpected.
func (t *callTable) takeAbandoned(id uint64) bool {
	i := slices.IndexFunc(t.abandoned, func(r idRange) bool { return r.first <= id && id <= r.last })
	if i < 0 {
		return false
	}
	r := &t.abandoned[i]
	if r.answered == nil {
		switch id {
		case r.first: // replies in order need no flags
			r.first++
			return true
		case r.last:
			r.last--
			return true
		}
	}
	at := int(id - r.first)
	if at >= len(r.answered) {
		// Allocate the flags of the whole range at once: the peer chooses the order of the
		// replies.
		r.answered = append(r.answered, make([]bool, int(r.last-r.first)+1-len(r.answered))...)
	}
	if r.answered[at] {
		return false
	}
	r.answered[at] = true
	return true
}

// matchKind classifies a response.
type matchKind uint8

const (
	matched     matchKind = iota // reply to a pending call
	toAbandoned                  // reply to an abandoned call
	unexpected                   // reply to no call
)

// matchReply finds the call for a response with the given id, and removes the call from
// the table. The caller must complete the call.
func (t *callTable) matchReply(id ID) (*pendingCall, matchKind) {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		return nil, unexpected
	}
	c, at := t.find(n)
	if c == nil {
		if t.takeAbandoned(n) {
			return nil, toAbandoned
		}
		return nil, unexpected
	}
	t.delete(at)
	return c, matched
}

// onlyCall returns the only call that a response of unknown id can answer. If several
// calls are candidates, or the reply to an abandoned call may still come, onlyCall returns
// nil. If the response is an array, a batch counts as a single call.
func (t *callTable) onlyCall(array bool) (only *pendingCall) {
	if t.awaitsAbandoned() {
		return nil
	}
	for _, c := range t.calls {
		switch {
		case c.call == nil:
		case only == nil:
			only = c.call
		case !array || c.call.message != only.message:
			return nil
		}
	}
	return only
}

// awaitsAbandoned reports whether the reply to an abandoned call may still come.
func (t *callTable) awaitsAbandoned() bool {
	return slices.ContainsFunc(t.abandoned, func(r idRange) bool {
		answered := 0
		for _, is := range r.answered {
			if is {
				answered++
			}
		}
		return r.first <= r.last && uint64(answered) <= r.last-r.first
	})
}

// awaitsReply reports whether the given id belongs to a pending or an abandoned call. A
// string with a number in it counts as the number.
func (t *callTable) awaitsReply(id ID) bool {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		var ok bool
		if n, ok = stringNumber(id); !ok {
			return false
		}
	}
	c, _ := t.find(n)
	return c != nil || slices.ContainsFunc(t.abandoned, func(r idRange) bool { return r.first <= n && n <= r.last })
}

// pendingCalls returns the pending calls in the order of ids.
func (t *callTable) pendingCalls() []*pendingCall {
	calls := make([]*pendingCall, 0, t.pending)
	for _, c := range t.calls {
		if c.call != nil {
			calls = append(calls, c.call)
		}
	}
	return calls
}

// pendingCalls holds the calls of this side that wait for a reply.
type pendingCalls struct {
	s             *Session
	table         callTable
	lastReplyMark uint64        // number of queued messages when the last reply was matched
	lastStarted   time.Duration // when the last message was registered
	timeouts      deadlineList  // timeouts of the calls
	limiter       callLimiter

	// Set by newSession, and unchanged afterwards.
	hooks        *callHooks
	meta         *Meta          // nil for none
	client       *clientSession // nil unless a Client has the session; set under s.mu, before the first call
	timeoutIsSet bool           // Limits.RequestTimeout is no default, and bounds calls that a stream lasts as long as
}

// releaseSlotLocked releases the slot of a message whose last call finished at the given
// time. Callers must hold s.mu.
func (pc *pendingCalls) releaseSlotLocked(m *pendingMessage, at time.Duration) {
	pc.s.mu.AssertHeld()
	if !pc.limiter.off() && !(m.stream != nil && m.stream.slotReleased) {
		pc.limiter.releaseAfterReply(at-m.started, int(m.items), pc.s.limits)
	}
}

// pendingCall is a call that was sent, or is being sent, on one session. The fields result
// and err are final when the call has left the table; until then, s.mu guards them. Without
// a session, Future.mu guards them until the call has finished.
type pendingCall struct {
	message *pendingMessage // with the call
	id      uint64
	method  string
	result  []byte // owned by the pendingCall; in a single call, perhaps in message.resultBuffer
	err     error
}

// pendingMessage is a message of this side on one session: a single call, or a batch. If
// the calls are sent again, on another session, a new pendingMessage takes their place.
// Without a session, only calls and detachedCodec are set.
type pendingMessage struct {
	// Set by the sender, before the calls are registered.
	session        *Session
	calls          []pendingCall // sorted by id; without the notifications of a batch
	detachedCodec  Codec         // of results, without a session; otherwise nil
	items          int32         // number of calls and notifications
	isBatch        bool
	hasOwnDeadline bool          // the context has a deadline, which replaces Limits.RequestTimeout
	future         *Future       // of the single call, or of the batch as a whole; nil in Session.Call
	done           chan struct{} // in Session.Call, a channel of one slot; otherwise nil
	stream         *streamCall   // of a call that belongs to a stream; otherwise nil
	owner          messageOwner  // of a message of a Client; otherwise nil

	resultBuffer []byte // memory of the result of a single call; see receivedReply

	// Guarded by s.mu.
	messageSeq   uint64 // number of the queued message; 0 before
	started      time.Duration
	deadline     deadline
	givenUp      error           // why the message must not be queued any more; nil if it may
	hasReply     bool            // an array has answered a call of the batch
	openCalls    int32           // calls without an outcome
	mayRead      bool            // in Session.Call: the reading role was vacant when the call was registered
	nextFinished *pendingMessage // link in a messageList
}

// soleCall is a message with a single call, in one allocation.
type soleCall struct {
	message pendingMessage
	calls   [1]pendingCall
}

// futureCall is a call of Session.Go, and the future of the call.
type futureCall struct {
	soleCall
	future  Future
	waiters futureWaiters
}

// begin prepares c for a call of method. The channel done and resultBuffer stay.
func (c *soleCall) begin(s *Session, method string) *pendingMessage {
	c.calls[0] = pendingCall{message: &c.message, method: method}
	c.message = pendingMessage{session: s, calls: c.calls[:], items: 1, done: c.message.done, resultBuffer: c.message.resultBuffer}
	return &c.message
}

// registerMessageLocked adds the calls of m to the table. Callers must hold s.mu.
func (pc *pendingCalls) registerMessageLocked(m *pendingMessage) {
	pc.s.mu.AssertHeld()
	m.started, m.openCalls = pc.s.now(), int32(len(m.calls))
	pc.lastStarted = m.started
	pc.table.addCalls(m.calls)
	if m.stream != nil {
		m.stream.registerLocked(m)
	}
	if m.expectsReply() {
		pc.startCallTimeoutLocked(m, m.started)
	}
}

// expectsReply reports whether m expects a reply. A batch in which only notifications are
// sent does not.
func (m *pendingMessage) expectsReply() bool { return len(m.calls) > 0 }

// startCallTimeoutLocked starts Limits.RequestTimeout for m, unless the timeout has
// started or the context has a deadline. Callers must hold s.mu.
func (pc *pendingCalls) startCallTimeoutLocked(m *pendingMessage, now time.Duration) {
	s := pc.s
	s.mu.AssertHeld()
	if m.stream != nil && m.stream.kind == callListens && !pc.timeoutIsSet {
		return
	}
	if m.deadline.owner == nil && !m.hasOwnDeadline && s.limits.RequestTimeout != never {
		pc.timeouts.appendDeadline(s, &m.deadline, after(now, s.limits.RequestTimeout), m)
	}
}

// expireLocked implements [expirer]. Limits.RequestTimeout has passed. Callers must hold
// s.mu.
func (m *pendingMessage) expireLocked(s *Session) {
	s.mu.AssertHeld()
	if m.messageSeq == 0 { // the sender still waits for a slot or for room
		s.calls.giveUpUnqueuedLocked(m, ErrTimeout)
		return
	}
	s.calls.abandonMessageLocked(m, s.calls.timeoutErrorLocked(m, ErrTimeout))
}

// abandonMessage ends the unfinished calls of m without a reply.
func (pc *pendingCalls) abandonMessage(m *pendingMessage, err error) {
	s := pc.s
	timedOut := errors.Is(err, context.DeadlineExceeded) // before locking, because err may have a user's type (I5)
	s.lock()
	if timedOut {
		err = pc.timeoutErrorLocked(m, err)
	}
	pc.abandonMessageLocked(m, err)
	s.unlock()
}

// abandonMessageLocked does the work of abandonMessage. Callers must hold s.mu.
func (pc *pendingCalls) abandonMessageLocked(m *pendingMessage, err error) {
	s := pc.s
	s.mu.AssertHeld()
	if m.messageSeq == 0 { // the sender of a Client's call may wait for a slot or for room
		pc.giveUpUnqueuedLocked(m, err)
		return
	}
	now := s.now()
	for i := range m.calls {
		pc.abandonCallLocked(&m.calls[i], now, err)
	}
	s.activity.markWorkEndLocked()
}

// giveUpUnqueuedLocked makes the sender of m fail with err. Callers must hold s.mu.
func (pc *pendingCalls) giveUpUnqueuedLocked(m *pendingMessage, err error) {
	s := pc.s
	s.mu.AssertHeld()
	m.givenUp = err
	pc.limiter.line.wakeAll()
	s.writer.roomLine.wakeAll()
}

// abandonCallLocked ends a call without a reply. It reports whether the call was pending.
// Callers must hold s.mu.
func (pc *pendingCalls) abandonCallLocked(c *pendingCall, now time.Duration, err error) bool {
	s := pc.s
	s.mu.AssertHeld()
	if !pc.table.removeButRemember(c) {
		return false
	}
	if s.cancellation != nil {
		s.effects.reportAbandoned(c.id)
	}
	pc.completeCallLocked(c, now, nil, err)
	if call := c.message.stream; call != nil {
		call.ss.rememberGivenUpLocked(c.id, call)
	}
	return true
}

// abandonMember abandons the call of f, a member of a batch. The future does not wait for
// the rest of the batch.
func (pc *pendingCalls) abandonMember(f *Future, c *pendingCall, err error) {
	s := pc.s
	s.lock()
	if pc.abandonCallLocked(c, s.now(), err) {
		s.effects.finishMember(f)
	}
	s.activity.markWorkEndLocked()
	s.unlock()
}

// completeCallLocked stores the outcome of a call that was removed from the table (I3).
// When s.mu is released after the last call of a message, the future is finished. Callers
// must hold s.mu.
func (pc *pendingCalls) completeCallLocked(c *pendingCall, now time.Duration, result []byte, err error) {
	pc.s.mu.AssertHeld()
	m := c.message
	if m.stream != nil {
		err = m.stream.finishLocked(result, err)
	}
	c.result, c.err = result, err
	if m.openCalls--; m.openCalls > 0 {
		return
	}
	pc.timeouts.removeDeadline(&m.deadline)
	pc.releaseSlotLocked(m, now)
	pc.s.effects.finishMessage(m)
	if role := &pc.s.reader.role; role.caller == m {
		role.callerDone = true
	}
}

// codec returns the codec of the results.
func (m *pendingMessage) codec() Codec {
	if m.session == nil {
		return m.detachedCodec
	}
	return m.session.codec
}

// messageOwner is a call or a batch of a Client, which may be sent in several messages, one
// after the other.
type messageOwner interface {
	// takeOutcome takes the outcome of m. If it returns false, the outcome is that of the
	// future of m. takeOutcome waits for nothing and calls no function of the user.
	takeOutcome(m *pendingMessage) bool
}

// publishOutcome finishes the future of m, and returns it, or signals the end to Session.Call
// or to the owner.
func (m *pendingMessage) publishOutcome() *Future {
	if m.owner != nil && m.owner.takeOutcome(m) {
		return nil
	}
	if m.future != nil {
		m.ownResult()
		m.future.publishOutcome()
		return m.future
	}
	m.done <- struct{}{} // last use of m: the receiver returns m to the pool
	return nil
}

// decodeResult decodes the result of a completed call into v. If v is nil, decodeResult
// decodes nothing. If the call has failed, decodeResult returns the error of the call.
func (c *pendingCall) decodeResult(v any) error {
	if c.err != nil || v == nil {
		return c.err
	}
	codec := c.message.codec()
	err := codec.Unmarshal(c.result, v)
	if isObjectData(codec, c.result) && (err != nil || !takesObjectData(v)) {
		err = errLooksLikeObject
	}
	if err == nil {
		return nil
	}
	what := "decode the result"
	if c.method != "" { // NewFuture takes no method
		what += fmt.Sprintf(" of %q", c.method)
	}
	if !isPointer(v) {
		return fmt.Errorf("%s: %w: pass a pointer to where the result goes, not a %T", what, bounded.Error(err), v)
	}
	return fmt.Errorf("%s: %w", what, bounded.Error(err))
}

// failUnansweredLocked fails the pending calls of a batch. Another part of the reply may
// still come. Callers must hold s.mu.
func (pc *pendingCalls) failUnansweredLocked(m *pendingMessage, now time.Duration, err error) {
	pc.s.mu.AssertHeld()
	for i := range m.calls {
		if c := &m.calls[i]; pc.table.removeButRemember(c) {
			pc.completeCallLocked(c, now, nil, err)
		}
	}
}
