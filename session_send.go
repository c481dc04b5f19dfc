package rpcx

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
)

// sendMode says who sends a message. The mode decides when the message may be sent, and
// whether the sender waits for room.
type sendMode uint8

const (
	fromCaller    sendMode = iota // waits for room; while draining, only handlers may send
	fromHandler                   // a reply, or a refusal of Shutdown: waits for room
	fromReader                    // a reply of the reader or the timer: never waits (I2), may exceed the limit
	fromTryNotify                 // as fromCaller, but never waits: without room, the error is errNoRoom
	fromNobody                    // the session itself: never waits; without room, the error is errNoRoom
	fromProgress                  // progress of a handler: as fromCaller, but not after the reply
	fromClient                    // a notification of a Client: as fromCaller, and kept until it is written
	fromProbe                     // a probe of a Client: never waits, also not for a slot
)

// errNoRoom is the error for a message that is not sent, because the outbox has no room and
// the sender does not wait.
var errNoRoom = errors.New("rpcx: no room for a message that may not wait (Limits.Outbox)")

// sendMessage frames sc.msg and queues the frame. If register is not nil, the calls of
// register are registered before (I4). If sendMessage has to wait for room, the end of ctx
// or of the session ends the wait with an error.
func (w *writer) sendMessage(ctx context.Context, sc *encodeBuffer, from sendMode, register *pendingMessage) error {
	if x := w.s.exchange(); x != nil {
		return x.sendOwn(ctx, sc, from, register)
	}
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
func (w *writer) frameMessage(sc *encodeBuffer) error {
	frame, inPlace, err := w.s.conn.frame(sc.copied[:0], sc.msg)
	if sc.frame = frame; inPlace {
		sc.msg = frame[:len(sc.msg)] // the frame may have moved to more memory
	} else {
		sc.copied = frame
	}
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
	case fromTryNotify, fromNobody, fromProbe:
		if err := w.checkSendableLocked(nil, from, register); err != nil {
			return false, err
		}
		if !w.hasRoomNowLocked(len(sc.frame), from) {
			return false, errNoRoom
		}
		if register != nil {
			s.calls.limiter.takeSlot()
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
	if register != nil && register.givenUp != nil {
		if register.expectsReply() {
			s.calls.limiter.releaseSlot()
		}
		return false, register.givenUp
	}
	if register != nil {
		s.calls.registerMessageLocked(register)
		if register.mayRead = register.done != nil && register.stream == nil && s.reader.role.isLent(); !register.mayRead && register.expectsReply() {
			s.reader.fillVacancyLocked()
		}
	}
	s.cost.addTrafficLocked(size)
	if from != fromNobody && from != fromProbe {
		s.activity.markActiveLocked()
	}
	lent = w.lendWriteSide(len(sc.frame), w.mayWriteDirectlyLocked(from, register))
	if x := s.exchange(); x != nil {
		x.takeReplyLocked(sc.frame)
	} else if !lent {
		w.push(sc.frame)
	}
	if register != nil {
		register.messageSeq = w.queuedMessages
	}
	if from == fromClient {
		s.calls.client.keepNoteLocked(w.queuedMessages)
	}
	s.stats.MessagesSent++
	return lent, nil
}

// checkSendableLocked returns the reason why a message can no longer be sent, or nil. h is
// the sending handler, or nil; m is the message if it expects a reply, or nil. Callers
// must hold s.mu.
func (w *writer) checkSendableLocked(h *handlerContext, from sendMode, m *pendingMessage) error {
	s := w.s
	s.mu.AssertHeld()
	switch {
	case from == fromProgress && !h.mayProgressLocked():
		return errHandlerReturned
	case s.life.state == stateDraining && (from == fromCaller || from == fromTryNotify || from == fromClient) && (h == nil || h.session != s):
		return ErrClosed // while draining, only running handlers may send
	case s.life.state >= stateClosing:
		return s.closedErrorLocked()
	case m != nil && s.input.closed:
		return &endedError{errInputClosed}
	}
	return nil
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
		sc.msg, sc.copied = nil, nil // a waiting sender keeps a single copy
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
		if err == nil && m != nil && m.givenUp != nil {
			err = m.givenUp
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

// hasRoomNowLocked reports whether n bytes fit into the outbox, for a sender that does not
// wait. A message of the user fits only if no earlier sender waits for room. Callers must
// hold s.mu.
func (w *writer) hasRoomNowLocked(n int, from sendMode) bool {
	w.s.mu.AssertHeld()
	if from == fromNobody || from == fromProbe {
		return w.hasRoom(n, w.s.limits.Outbox)
	}
	return len(w.roomLine.waiters) == 0 && w.hasRoomLocked(n) && (n < weightStep || !w.s.load.exceedsCeiling(n))
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

// waitLine is a line of goroutines that wait, in order of arrival, for a condition
// guarded by a lock.
type waitLine struct {
	waiters []chan struct{} // each channel has room for one value
}

// waitTurn returns when the caller is first in line and ready reports true, or with the
// error of ready or ctx. Callers must hold mu. During a wait, mu is released.
func (l *waitLine) waitTurn(ctx context.Context, mu sync.Locker, ready func() (bool, error)) error {
	var turn chan struct{}
	for {
		ok, err := ready()
		if err == nil && ok && (len(l.waiters) == 0 || l.waiters[0] == turn) {
			// The next waiter may be ready, too. removeWaiter wakes that waiter, which
			// calls ready when the caller has released mu.
			l.removeWaiter(turn)
			return nil
		}
		if err == nil {
			if turn == nil {
				turn = make(chan struct{}, 1)
				l.waiters = append(l.waiters, turn)
			}
			mu.Unlock()
			select {
			case <-turn:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			mu.Lock()
		}
		if err != nil {
			l.removeWaiter(turn)
			return err
		}
	}
}

// removeWaiter removes turn from the line, and wakes the first waiter.
func (l *waitLine) removeWaiter(turn chan struct{}) {
	if i := slices.Index(l.waiters, turn); i >= 0 {
		l.waiters = slices.Delete(l.waiters, i, i+1)
		l.wakeFirst()
	}
}

// wakeFirst makes the first waiter check its condition.
func (l *waitLine) wakeFirst() {
	if len(l.waiters) > 0 {
		wakeWaiter(l.waiters[0])
	}
}

// wakeAll makes all waiters check for an error.
func (l *waitLine) wakeAll() {
	for _, turn := range l.waiters {
		wakeWaiter(turn)
	}
}

func wakeWaiter(turn chan struct{}) {
	select {
	case turn <- struct{}{}:
	default:
	}
}
