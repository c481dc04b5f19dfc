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

// calls.table is what a session knows of its own calls: which wait for a reply, and
// which were given up. It does no I/O and has no clock; its user serialises all
// but newID.
type callTable struct {
	lastID  atomic.Uint64 // one more than the last id given out; the first one at the start
	calls   []pendingCall // in the order of their ids, in which most of them come and go
	pending int           // of calls, how many have no reply

	abandoned       []idRange // of calls given up, the oldest at oldestAbandoned once it is full
	oldestAbandoned int
}

// idRange are ids that follow one another; none if last is before first.
type idRange struct {
	first, last uint64
	answered    []bool // those from first on, if they are not answered in order
}

// pendingCall is a call under its id, which is searched for. Without a call it is
// a gap.
type pendingCall struct {
	id   uint64
	call *Future
}

// newID returns the next id: they count from Options.FirstID. (I8)
func (t *callTable) newID() uint64 { return t.lastID.Add(1) - 1 }

// addCalls registers calls, which are in the order of their ids. They belong behind the
// others, but for what has overtaken them on their way here: that is moved once,
// however many they are.
func (t *callTable) addCalls(calls ...*Future) {
	if len(t.calls)+len(calls) > cap(t.calls) && t.pending <= len(t.calls)/2 {
		t.calls = slices.DeleteFunc(t.calls, func(c pendingCall) bool { return c.call == nil })
	}
	end := len(t.calls)
	t.calls = slices.Grow(t.calls, len(calls))[:end+len(calls)]
	for i := len(calls) - 1; i >= 0; i-- {
		for ; end > 0 && t.calls[end-1].id > calls[i].id; end-- {
			t.calls[end+i] = t.calls[end-1]
		}
		t.calls[end+i] = pendingCall{calls[i].id, calls[i]}
	}
	t.pending += len(calls)
}

// find returns the call that is pending under id, nil if there is none, and its place.
func (t *callTable) find(id uint64) (*Future, int) {
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

// remove takes a call off, and reports whether it was there: whoever removes
// it completes it. (I3)
func (t *callTable) remove(f *Future) bool {
	found, i := t.find(f.id)
	if found != f {
		return false
	}
	t.delete(i)
	return true
}

// delete leaves a gap at i. What has grown large is given up when nothing is pending.
func (t *callTable) delete(i int) {
	t.calls[i].call = nil
	if t.pending--; t.pending == 0 {
		if t.calls = t.calls[:0]; cap(t.calls) > 256 {
			t.calls = nil
		}
	}
}

// abandonCall removes a call whose reply may still come, and remembers its id.
func (t *callTable) abandonCall(f *Future) bool {
	if !t.remove(f) {
		return false
	}
	t.rememberAbandoned(f)
	return true
}

// rememberAbandoned keeps the id of a call given up. Those of a batch follow one another and
// are kept as one, or else a long batch would leave no room for the others.
func (t *callTable) rememberAbandoned(f *Future) {
	if n := len(t.abandoned); n > 0 && f.batch != nil {
		newest := &t.abandoned[(t.oldestAbandoned+n-1)%n]
		if newest.first <= newest.last && newest.last+1 == f.id {
			newest.last++
			return
		}
	}
	t.keepRange(idRange{first: f.id, last: f.id})
}

// keepRange adds to what is late, in place of the oldest if there is no room.
func (t *callTable) keepRange(r idRange) {
	if len(t.abandoned) < maxAbandoned {
		t.abandoned = append(t.abandoned, r)
		return
	}
	t.abandoned[t.oldestAbandoned] = r
	t.oldestAbandoned = (t.oldestAbandoned + 1) % maxAbandoned
}

// takeAbandoned reports whether the reply to a call given up was still to come, and takes
// the id out: another reply is one too many.
func (t *callTable) takeAbandoned(id uint64) bool {
	i := slices.IndexFunc(t.abandoned, func(r idRange) bool { return r.first <= id && id <= r.last })
	if i < 0 {
		return false
	}
	r := &t.abandoned[i]
	if r.answered == nil {
		switch id {
		case r.first: // as it is if they are answered in order
			r.first++
			return true
		case r.last:
			r.last--
			return true
		}
	}
	at := int(id - r.first)
	if at >= len(r.answered) {
		// All of it at once: the peer may go on as it likes.
		r.answered = append(r.answered, make([]bool, int(r.last-r.first)+1-len(r.answered))...)
	}
	if r.answered[at] {
		return false
	}
	r.answered[at] = true
	return true
}

// matchKind is what became of a response.
type matchKind uint8

const (
	matched    matchKind = iota // it was the reply to a call
	late                        // its call had been given up
	unexpected                  // nothing waited for it
)

// matchReply removes the call that a response with the given id is for, and
// returns it to be settled and finished.
func (t *callTable) matchReply(id ID) (*Future, matchKind) {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		return nil, unexpected
	}
	f, at := t.find(n)
	if f == nil {
		if t.takeAbandoned(n) {
			return nil, late
		}
		return nil, unexpected
	}
	t.delete(at)
	return f, matched
}

// onlyCall returns the call that a response of unknown id can be for, nil if there may be
// several: none was given up whose reply is still to come. The calls of one batch count
// as one if the response is an array.
func (t *callTable) onlyCall(array bool) (only *Future) {
	if t.awaitsAbandoned() {
		return nil
	}
	for _, c := range t.calls {
		switch {
		case c.call == nil:
		case only == nil:
			only = c.call
		case !array || only.batch == nil || c.call.batch != only.batch:
			return nil
		}
	}
	return only
}

// awaitsAbandoned reports whether the reply to a call given up may still come.
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

// awaitsReply reports whether a response with the given id would be the reply to a call that
// is pending, or was given up.
func (t *callTable) awaitsReply(id ID) bool {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		var ok bool
		if n, ok = stringNumber(id); !ok {
			return false
		}
	}
	f, _ := t.find(n)
	return f != nil || slices.ContainsFunc(t.abandoned, func(r idRange) bool { return r.first <= n && n <= r.last })
}

// pendingCalls returns the pending calls in the order of their ids.
func (t *callTable) pendingCalls() []*Future {
	calls := make([]*Future, 0, t.pending)
	for _, c := range t.calls {
		if c.call != nil {
			calls = append(calls, c.call)
		}
	}
	return calls
}

// calibration is after how many replies the number of slots is looked at.
const calibration = 30

// pendingCalls are the calls of this side that wait for a reply.
type pendingCalls struct {
	s             *Session
	table         callTable
	lastReplyMark uint64       // the messages queued when the last reply was matched
	timeouts      deadlineList // of the calls
	limiter       callLimiter
}

// callLimiter bound how many of our calls wait for a reply at once. A number that was
// raised takes effect when the next reply comes, one that was lowered when as
// many have come as are too many. They are guarded by the session's lock.
type callLimiter struct {
	limit int // now; beyond reach if it is off
	floor int // below which it is not lowered
	taken int
	line  waitLine

	// Since the last calibration.
	latencySum time.Duration // of all replies together
	samples    int           // of replies
	reached    bool          // the limit was

	calm time.Duration // what replies took on average when the limit was last not reached
}

func (o *callLimiter) off() bool { return o.limit == math.MaxInt }

// releaseSlot gives one back whose message was not sent.
func (o *callLimiter) releaseSlot() {
	o.taken--
	o.line.wakeFirst()
}

// releaseAfterReply gives one back after a call, or a batch of n messages.
func (o *callLimiter) releaseAfterReply(took time.Duration, n int, l *Limits) {
	if o.latencySum, o.samples = o.latencySum+took, o.samples+n; o.samples >= calibration {
		o.calibrate(o.latencySum/time.Duration(o.samples), l)
		o.latencySum, o.samples, o.reached = 0, 0, false
	}
	o.releaseSlot()
}

// calibrate adapts the limit to what replies took on average. It is lowered only
// because of calls that the load makes slow: if it was reached, and if replies take
// more than twice as long as when it was not. Calls that are slow by themselves, such
// as long polls, say nothing about the peer.
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

// takeSlot takes a slot.
func (o *callLimiter) takeSlot() {
	o.taken++
	o.reached = o.reached || o.taken >= o.limit
}

// isFree reports whether a slot is free.
func (o *callLimiter) isFree() bool { return o.taken < o.limit }

// hasFree reports whether a slot is free that nobody waits for.
func (o *callLimiter) hasFree() bool { return o.isFree() && len(o.line.waiters) == 0 }

// checkSendableLocked returns why a message cannot be sent any more, nil if it can: by the
// handler h if that is not nil, and for the given call if that is not nil. Callers
// must hold s.mu.
func (w *writer) checkSendableLocked(h *handlerContext, from sendMode, call *Future) error {
	s := w.s
	s.mu.AssertHeld()
	switch {
	case s.life.state == stateDraining && from == fromCaller && (h == nil || h.session != s):
		return ErrClosed // only what a running handler calls goes out now
	case s.life.state >= stateClosing:
		return s.closedErrorLocked()
	case call != nil && s.input.closed:
		return &endedError{errInputClosed}
	}
	return nil
}

// releaseSlotLocked gives back the slot of a call, or a batch, that was over at the given time.
func (pc *pendingCalls) releaseSlotLocked(f *Future, at time.Duration) {
	s := pc.s
	s.mu.AssertHeld()
	switch {
	case pc.limiter.off():
	case f.batch != nil:
		pc.limiter.releaseAfterReply(at-f.started, len(f.batch.entries), s.limits)
	default:
		pc.limiter.releaseAfterReply(at-f.started, 1, s.limits)
	}
}

// sendMode is who queues a message, which decides when it may and whether it waits.
type sendMode uint8

const (
	fromCaller  sendMode = iota // waits for room; not while draining, unless a handler calls
	fromHandler                 // a reply, or what Shutdown refuses: waits for room
	fromReader                  // another reply: never waits (I2), and may exceed the limit
	fromNobody                  // never waits, and is dropped if there is no room
)

// sendMessage frames sc.msg and queues it, with register (a call, or a batch's future)
// entered into the table before (I4). It waits for room, and fails if ctx ends
// or the session does.
func (w *writer) sendMessage(ctx context.Context, sc *encodeBuffer, from sendMode, register *Future) error {
	if err := w.frameMessage(sc); err != nil {
		return err
	}
	return w.sendFrame(ctx, handlerOf(ctx), sc, from, register)
}

// sendFrame is post for sc.frame, for the handler h if that is not nil.
func (w *writer) sendFrame(ctx context.Context, h *handlerContext, sc *encodeBuffer, from sendMode, register *Future) error {
	s := w.s
	s.lock()
	lent, err := w.enqueueFrameLocked(ctx, h, sc, from, register)
	s.unlock()
	if lent {
		w.writeDirectly(sc.frame)
	}
	return err
}

// frameMessage frames sc.msg.
func (w *writer) frameMessage(sc *encodeBuffer) (err error) {
	sc.frame, err = w.s.conn.appendFramed(sc.frame[:0], sc.msg)
	return err
}

// enqueueFrameLocked queues sc.frame. It reports whether the caller has the write side of the
// connection and is to call writeDirectly instead, when it has left the lock. Callers must
// hold s.mu, which is released while enqueueFrameLocked waits for room.
func (w *writer) enqueueFrameLocked(ctx context.Context, h *handlerContext, sc *encodeBuffer, from sendMode, register *Future) (lent bool, err error) {
	s := w.s
	s.mu.AssertHeld()
	if h != nil && h.session == s && h.waits.handlerReturned {
		h = nil // a context may outlive its handler, by context.WithoutCancel
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
		s.calls.registerCallLocked(register)
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
		for _, member := range register.members {
			member.messageSeq = w.queuedMessages
		}
	}
	s.stats.MessagesSent++
	return lent, nil
}

// writeDirectly writes frame on the goroutine that sends it, to which the outbox has lent
// the write side.
func (w *writer) writeDirectly(frame []byte) {
	s := w.s
	n := w.sock.tryWrite(frame)
	s.lock()
	s.stats.BytesSent += uint64(n)
	w.returnWriteSide(frame, n)
	s.requests.startWorkerAfterWriteLocked()
	if s.life.state >= stateClosing {
		w.wakeWriter()
	}
	s.unlock()
}

// mayWriteDirectlyLocked reports whether nothing but the message at hand is going on.
func (w *writer) mayWriteDirectlyLocked(from sendMode, call *Future) bool {
	s := w.s
	s.mu.AssertHeld()
	switch from {
	case fromCaller:
		return call != nil && s.calls.table.pending == 1
	case fromHandler:
		return s.requests.running == 1 && s.requests.count == 0
	}
	return false
}

// waitToSendLocked returns when sc.frame fits into the outbox and nobody waited longer;
// before, if call is not nil, it takes a slot for it. Callers must hold s.mu, which is
// released while it waits. A handler h of the session takes a slot without waiting: all
// slots may be taken by calls whose replies wait for it.
func (w *writer) waitToSendLocked(ctx context.Context, h *handlerContext, sc *encodeBuffer, from sendMode, call *Future) error {
	s := w.s
	s.mu.AssertHeld()
	if call != nil && !call.expectsReply() {
		call = nil
	}
	if call != nil {
		if own := h != nil && h.session == s; !own && !s.calls.limiter.hasFree() {
			s.requests.changeWaitsLocked(h, 1, 0)
			err := w.waitInLineLocked(ctx, &s.calls.limiter.line, h, from, call, s.calls.limiter.isFree)
			s.requests.changeWaitsLocked(h, -1, 0)
			if err != nil {
				return err
			}
		}
		s.calls.limiter.takeSlot()
	}
	err := w.checkSendableLocked(h, from, call)
	if n := len(sc.frame); err == nil && !(len(w.roomLine.waiters) == 0 && w.hasRoomLocked(n)) {
		sc.msg = nil // one copy is enough to wait with
		if cap(sc.frame) > 2*n {
			sc.frame = bytes.Clone(sc.frame)
		}
		w.waitingBytes += n
		s.memory.reportMemoryLocked()
		s.requests.changeWaitsLocked(h, 0, 1)
		err = w.waitInLineLocked(ctx, &w.roomLine, h, from, call, func() bool { return w.hasRoomLocked(n) })
		s.requests.changeWaitsLocked(h, 0, -1)
		w.waitingBytes -= n
		s.requests.startWorkerIfNeededLocked() // while this waited, no worker was called
	}
	if err != nil && call != nil {
		s.calls.limiter.releaseSlot()
	}
	return err
}

// waitInLineLocked returns when it is the caller's turn in l and ready says so, or with the
// error for which nothing can be sent any more. Limits.RequestTimeout of a call
// begins with the first wait. Callers must hold s.mu, which is released while it waits.
func (w *writer) waitInLineLocked(ctx context.Context, l *waitLine, h *handlerContext, from sendMode, call *Future, ready func() bool) error {
	s := w.s
	s.mu.AssertHeld()
	if call != nil {
		s.calls.startCallTimeoutLocked(call, s.now())
	}
	err := l.waitTurn(ctx, (*locker)(s), func() (bool, error) {
		err := w.checkSendableLocked(h, from, call)
		if err == nil && call != nil && call.expired {
			err = ErrTimeout
		}
		return ready(), err
	})
	if err != nil && call != nil {
		s.calls.timeouts.removeDeadline(&call.deadline)
	}
	return err
}

// hasRoomLocked reports whether n bytes fit into the outbox. Where the server holds all
// that it may and the session more than its share, only an empty outbox has room.
func (w *writer) hasRoomLocked(n int) bool {
	s := w.s
	s.mu.AssertHeld()
	limit := s.limits.Outbox
	if s.load.isOverShare(s.memory.reported) {
		limit = 0
	}
	return w.hasRoom(n, limit)
}

// outboxLimitLocked returns the limit for which n bytes of who never waits are too many
// in the outbox, and its name; no name if there is none. Callers must hold s.mu.
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
	case size > writeChunk && s.load.exceedsCeiling(n) && s.load.isOverShare(size-writeChunk): // short refusals find room
		return "Server.MaxQueuedBytes", s.load.limit
	}
	return "", 0
}
