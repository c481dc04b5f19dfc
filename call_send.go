package rpcx

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
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

// abandonCall removes a call and remembers the id, because the reply may still come. It
// reports whether the call was pending.
func (t *callTable) abandonCall(c *pendingCall) bool {
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
	matched    matchKind = iota // reply to a pending call
	late                        // reply to an abandoned call
	unexpected                  // reply to no call
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
			return nil, late
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

// calibration is the number of replies after which the limiter adapts the limit.
const calibration = 30

// pendingCalls holds the calls of this side that wait for a reply.
type pendingCalls struct {
	s             *Session
	table         callTable
	lastReplyMark uint64       // number of queued messages when the last reply was matched
	timeouts      deadlineList // timeouts of the calls
	limiter       callLimiter
}

// callLimiter bounds the number of concurrent calls of this side. A raised limit takes
// effect at the next reply. A lowered limit takes effect after the replies to the excess
// calls. Callers must hold s.mu.
type callLimiter struct {
	limit int // current limit; math.MaxInt if off
	floor int // lower bound of limit
	taken int
	line  waitLine

	// Since the last calibration.
	latencySum time.Duration // sum over the replies
	samples    int           // number of replies
	reached    bool          // limit was reached

	calm time.Duration // average latency when the limit was last not reached
}

func (o *callLimiter) off() bool { return o.limit == math.MaxInt }

// releaseSlot releases a slot whose message was not sent.
func (o *callLimiter) releaseSlot() {
	o.taken--
	o.line.wakeFirst()
}

// releaseAfterReply releases a slot after a call, or after a batch of n messages, that
// took the given time.
func (o *callLimiter) releaseAfterReply(took time.Duration, n int, l *Limits) {
	if o.latencySum, o.samples = o.latencySum+took, o.samples+n; o.samples >= calibration {
		o.calibrate(o.latencySum/time.Duration(o.samples), l)
		o.latencySum, o.samples, o.reached = 0, 0, false
	}
	o.releaseSlot()
}

// calibrate adapts the limit to the average latency of replies. The limit is lowered only
// if load makes the calls slow: if the limit was reached, and replies take more than twice
// as long as below the limit. Calls that are always slow, such as long polls, say nothing
// about the peer's load.
func (o *callLimiter) calibrate(average time.Duration, l *Limits) {
	next := recalibrate(o.limit, average, l.ResponseTime, l.OutgoingMax)
	if !o.reached {
		o.calm = average
	}
	if next < o.limit && (!o.reached || o.calm > 0 && average/2 <= o.calm) {
		return
	}
	o.limit = max(next, min(o.limit, o.floor))
}

func (o *callLimiter) takeSlot() {
	o.taken++
	o.reached = o.reached || o.taken >= o.limit
}

func (o *callLimiter) isFree() bool { return o.taken < o.limit }

// hasFree reports whether a slot is free and nobody waits for a slot.
func (o *callLimiter) hasFree() bool { return o.isFree() && len(o.line.waiters) == 0 }

// checkSendableLocked returns the reason why a message can no longer be sent, or nil. h is
// the sending handler, or nil; m is the message if it expects a reply, or nil. Callers
// must hold s.mu.
func (w *writer) checkSendableLocked(h *handlerContext, from sendMode, m *pendingMessage) error {
	s := w.s
	s.mu.AssertHeld()
	switch {
	case s.life.state == stateDraining && from == fromCaller && (h == nil || h.session != s):
		return ErrClosed // while draining, only running handlers may send
	case s.life.state >= stateClosing:
		return s.closedErrorLocked()
	case m != nil && s.input.closed:
		return &endedError{errInputClosed}
	}
	return nil
}

// releaseSlotLocked releases the slot of a message whose last call finished at the given
// time. Callers must hold s.mu.
func (pc *pendingCalls) releaseSlotLocked(m *pendingMessage, at time.Duration) {
	pc.s.mu.AssertHeld()
	if !pc.limiter.off() {
		pc.limiter.releaseAfterReply(at-m.started, m.items, pc.s.limits)
	}
}

// sendMode says who sends a message. The mode decides when the message may be sent, and
// whether the sender waits for room.
type sendMode uint8

const (
	fromCaller  sendMode = iota // waits for room; while draining, only handlers may send
	fromHandler                 // a reply, or a refusal of Shutdown: waits for room
	fromReader                  // a reply of the reader or the timer: never waits (I2), may exceed the limit
	fromNobody                  // the session itself: never waits; without room, the message is dropped
)

// sendMessage frames sc.msg and queues the frame. If register is not nil, the calls of
// register are registered before (I4). If sendMessage has to wait for room, the end of ctx
// or of the session ends the wait with an error.
func (w *writer) sendMessage(ctx context.Context, sc *encodeBuffer, from sendMode, register *pendingMessage) error {
	if err := w.frameMessage(sc); err != nil {
		return err
	}
	return w.sendFrame(ctx, handlerOf(ctx), sc, from, register)
}

// sendFrame queues sc.frame as sendMessage does. h is the sending handler, or nil.
func (w *writer) sendFrame(ctx context.Context, h *handlerContext, sc *encodeBuffer, from sendMode, register *pendingMessage) error {
	s := w.s
	s.lock()
	lent, err := w.enqueueFrameLocked(ctx, h, sc, from, register)
	s.unlock()
	if lent {
		w.writeDirectly(sc.frame)
	}
	return err
}

// frameMessage frames sc.msg into sc.frame.
func (w *writer) frameMessage(sc *encodeBuffer) (err error) {
	sc.frame, err = w.s.conn.appendFramed(sc.frame[:0], sc.msg)
	return err
}

// enqueueFrameLocked queues sc.frame. If lent is true, the outbox does not hold the frame:
// the caller has the write side of the connection, and must call writeDirectly after
// releasing s.mu. Callers must hold s.mu, which is released during a wait for room.
func (w *writer) enqueueFrameLocked(ctx context.Context, h *handlerContext, sc *encodeBuffer, from sendMode, register *pendingMessage) (lent bool, err error) {
	s := w.s
	s.mu.AssertHeld()
	if h != nil && h.session == s && h.waits.handlerReturned {
		h = nil // context.WithoutCancel lets a context outlive the handler
	}
	size := len(sc.msg)
	switch from {
	case fromReader:
		if name, limit := w.outboxLimitLocked(len(sc.frame)); name != "" && s.life.state < stateClosing {
			s.logs.logLaterLocked(slog.LevelWarn, "peer does not read its replies", byteLimitAttr(name, limit))
			err := slowPeer("%s", overLimitText(limit, "bytes waiting", name))
			if name != "Limits.Outbox" {
				err = &fullError{err}
			}
			s.effects.closeSession(err, 0)
			return false, err
		}
	case fromNobody:
		if !w.hasRoom(len(sc.frame), s.limits.Outbox) {
			return false, nil
		}
	default:
		if n := len(sc.frame); n >= weightStep && s.load.exceedsCeiling(n) {
			s.unlock()
			room := s.load.makeRoom(n)
			if !room {
				s.memory.closeForMemory(false)
			}
			s.lock()
		}
		if err := w.waitToSendLocked(ctx, h, sc, from, register); err != nil {
			return false, err
		}
	}
	if s.life.state >= stateClosing {
		return false, s.closedErrorLocked()
	}
	if register != nil {
		s.calls.registerMessageLocked(register)
	}
	s.cost.addTrafficLocked(size)
	if from != fromNobody {
		s.activity.markActiveLocked()
	}
	lent = w.lendWriteSide(len(sc.frame), w.mayWriteDirectlyLocked(from, register))
	if !lent {
		w.push(sc.frame)
	}
	if register != nil {
		register.messageSeq = w.queuedMessages
	}
	s.stats.MessagesSent++
	return lent, nil
}

// writeDirectly writes frame on the sender's goroutine. The outbox has lent the write side
// to the sender.
func (w *writer) writeDirectly(frame []byte) {
	s := w.s
	n := w.sock.tryWrite(frame)
	s.lock()
	s.stats.BytesSent += uint64(n)
	w.returnWriteSide(frame, n)
	s.calls.failUnanswerableLocked()
	s.requests.startWorkerAfterWriteLocked()
	if s.life.state >= stateClosing {
		w.wakeWriter()
	}
	s.unlock()
}

// mayWriteDirectlyLocked reports whether the message is the only activity of the session:
// the only pending call, or the reply to the only request. Callers must hold s.mu.
func (w *writer) mayWriteDirectlyLocked(from sendMode, m *pendingMessage) bool {
	s := w.s
	s.mu.AssertHeld()
	switch from {
	case fromCaller:
		return m != nil && s.calls.table.pending == 1
	case fromHandler:
		return s.requests.running == 1 && s.requests.count == 0
	}
	return false
}

// waitToSendLocked waits until sc.frame fits into the outbox and no earlier sender waits.
// If m expects a reply, waitToSendLocked first takes a slot for m. A handler h of the
// session takes a slot without waiting, because the calls in the slots may wait for
// replies of the handler. Callers must hold s.mu, which is released during a wait.
func (w *writer) waitToSendLocked(ctx context.Context, h *handlerContext, sc *encodeBuffer, from sendMode, m *pendingMessage) error {
	s := w.s
	s.mu.AssertHeld()
	if m != nil && !m.expectsReply() {
		m = nil
	}
	if m != nil {
		if own := h != nil && h.session == s; !own && !s.calls.limiter.hasFree() {
			s.requests.changeWaitsLocked(h, 1, 0)
			err := w.waitInLineLocked(ctx, &s.calls.limiter.line, h, from, m, s.calls.limiter.isFree)
			s.requests.changeWaitsLocked(h, -1, 0)
			if err != nil {
				return err
			}
		}
		s.calls.limiter.takeSlot()
	}
	err := w.checkSendableLocked(h, from, m)
	if n := len(sc.frame); err == nil && !(len(w.roomLine.waiters) == 0 && w.hasRoomLocked(n)) {
		sc.msg = nil // a waiting sender keeps a single copy
		if cap(sc.frame) > 2*n {
			sc.frame = bytes.Clone(sc.frame)
		}
		w.waitingBytes += n
		s.memory.reportMemoryLocked()
		s.requests.changeWaitsLocked(h, 0, 1)
		err = w.waitInLineLocked(ctx, &w.roomLine, h, from, m, func() bool { return w.hasRoomLocked(n) })
		s.requests.changeWaitsLocked(h, 0, -1)
		w.waitingBytes -= n
		s.requests.startWorkerIfNeededLocked() // a waiting sender prevents new workers
	}
	if err != nil && m != nil {
		s.calls.limiter.releaseSlot()
	}
	return err
}

// waitInLineLocked waits until the caller is first in l and ready returns true. If ctx
// ends, or nothing can be sent any more, waitInLineLocked fails. If m is not nil, the first
// wait starts Limits.RequestTimeout. Callers must hold s.mu, which is released during a
// wait.
func (w *writer) waitInLineLocked(ctx context.Context, l *waitLine, h *handlerContext, from sendMode, m *pendingMessage, ready func() bool) error {
	s := w.s
	s.mu.AssertHeld()
	if m != nil {
		s.calls.startCallTimeoutLocked(m, s.now())
	}
	err := l.waitTurn(ctx, (*locker)(s), func() (bool, error) {
		err := w.checkSendableLocked(h, from, m)
		if err == nil && m != nil && m.expired {
			err = ErrTimeout
		}
		return ready(), err
	})
	if err != nil && m != nil {
		s.calls.timeouts.removeDeadline(&m.deadline)
	}
	return err
}

// hasRoomLocked reports whether n bytes fit into the outbox. If the server is full and the
// session holds more than its share, only an empty outbox has room. Callers must hold
// s.mu.
func (w *writer) hasRoomLocked(n int) bool {
	s := w.s
	s.mu.AssertHeld()
	limit := s.limits.Outbox
	if s.load.isOverShare(s.memory.reported) {
		limit = 0
	}
	return w.hasRoom(n, limit)
}

// outboxLimitLocked checks n more bytes in the outbox, from a sender that never waits. It
// returns the name and value of the exceeded limit, or an empty name. Callers must hold
// s.mu.
func (w *writer) outboxLimitLocked(n int) (name string, value int) {
	s := w.s
	s.mu.AssertHeld()
	limit, size := s.limits.Outbox, w.size()
	if limit < math.MaxInt-reserve {
		limit += reserve
	}
	switch {
	case !w.hasRoom(n, limit):
		return "Limits.Outbox", s.limits.Outbox
	case size > writeChunk && s.load.exceedsCeiling(n) && s.load.isOverShare(size-writeChunk): // short refusals always have room
		return "Server.MaxQueuedBytes", s.load.limit
	}
	return "", 0
}
