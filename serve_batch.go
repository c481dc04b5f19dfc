package rpcx

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// peerBatch is a batch of requests from the peer. The request queue holds a batch as one
// entry, and workers take the members in turn. After the last reply, the replies leave in
// a single message, in the order of the requests. The session's lock guards the fields.
// Members share no bytes with the received message.
type peerBatch struct {
	members        []peerRequest // every item of the batch; invalid items are answered
	nextMember     int           // number of members begun or refused
	replies        *batchReplies // nil before the first reply, and after the sending
	missingReplies int           // number of replies still to come
	openMembers    int           // requests and notifications that have not finished
	replySize      int           // bytes of handlers' replies, plus 2 for each; including replies that were too large
	reservedBytes  int           // part of replySize that memoryUse.batchReplies includes
	size           int           // bytes for Limits.QueueBytes
	arrived        time.Duration
	deadline       deadline
	handlers       int          // members whose handlers run
	begunCounted   bool         // no member waits, and handlers run: requestQueue.begunBatchBytes includes size
	sending        bool         // every reply is stored, but the message is not queued yet
	outcome        replyOutcome // replyOpen until decided
	disconnect     bool         // close the session once the replies are queued, as a handler wants
}

func (b *peerBatch) markArrived(s *Session, now time.Duration) {
	b.arrived = now
	for i := range b.members {
		s.requests.trackCancellableLocked(&b.members[i])
	}
}

func (b *peerBatch) queuedBytes() int           { return b.size }
func (b *peerBatch) requestDeadline() *deadline { return &b.deadline }
func (b *peerBatch) isQueued() bool             { return b.deadline.owner != nil && b.nextMember < len(b.members) }

func (b *peerBatch) about() (string, slog.Attr) {
	return "request refused", slog.Int("members", len(b.members))
}

func (b *peerBatch) appendRequests(calls []*peerRequest, want func(*peerRequest) bool) []*peerRequest {
	for i := range b.members {
		if c := &b.members[i]; want(c) {
			calls = append(calls, c)
		}
	}
	return calls
}

func (b *peerBatch) beginNext(s *Session) (c *peerRequest, last bool) {
	for b.skipAnswered() {
		c := &b.members[b.nextMember]
		b.nextMember++
		if c.IsNotification() || s.life.state < stateClosing {
			c.arrived = b.arrived
			c.markBegun(s)
			b.handlers++
			return c, !b.skipAnswered()
		}
	}
	return nil, true
}

// skipAnswered skips members that need no handler, and reports whether a member is left.
func (b *peerBatch) skipAnswered() bool {
	for b.nextMember < len(b.members) && b.members[b.nextMember].answered {
		b.nextMember++
	}
	return b.nextMember < len(b.members)
}

func (b *peerBatch) nextHandlingBytes() int {
	if !b.skipAnswered() {
		return 0
	}
	return int(b.members[b.nextMember].handlingBytes)
}

// memberSize is the approximate memory of a waiting member, besides the bytes of the
// member.
const memberSize = 256

// maxGuess bounds an allocation of estimated size.
const maxGuess = 64 << 10

// span is a part of a buffer. An empty span stands for no reply.
type span struct{ start, end int }

// batchReplies holds the encoded replies of a batch, until they leave in one message. The
// batch owns the memory, which no user sees, and returns the memory to pools.
type batchReplies struct {
	*frameBuffer        // the replies, in the order of completion
	spans        []span // position of each member's reply in buf
}

var batchRepliesPool = sync.Pool{New: func() any { return new(batchReplies) }}

// maxPooledSpans is the maximum number of pooled spans. A batch in the queue may keep the
// spans of an earlier and longer batch.
const maxPooledSpans = 1 << 10

// recycleReplies returns the memory of the replies.
func (b *peerBatch) recycleReplies() {
	r := b.replies
	if r == nil {
		return
	}
	b.replies = nil
	r.frameBuffer.recycle()
	if r.frameBuffer = nil; cap(r.spans) <= maxPooledSpans {
		batchRepliesPool.Put(r)
	}
}

// appendReply stores the reply to item i.
func (b *peerBatch) appendReply(i int, reply []byte) {
	r := b.replies
	if r == nil {
		n := len(b.members)
		r = batchRepliesPool.Get().(*batchReplies)
		r.frameBuffer = getFrameBuffer(min((len(reply)+8)*n, maxGuess)) // further replies are probably about as long
		r.spans = slices.Grow(r.spans[:0], n)[:n]
		clear(r.spans)
		b.replies = r
	}
	start := len(r.buf)
	r.frameBuffer = r.appendFrame(reply)
	r.spans[i] = span{start, len(r.buf)}
}

// replyTo returns the reply to item i, or nothing.
func (r *batchReplies) replyTo(i int) []byte { return r.buf[r.spans[i].start:r.spans[i].end] }

// reserveReplyLocked counts a reply of size bytes, and returns the exceeded limit, or 0.
// The replies of the batch, including refused replies, must fit into Limits.Response (as
// in aiorpcX). The replies of all incomplete batches together must fit into
// Limits.Response or Limits.Outbox, whichever is larger. Callers must hold s.mu.
func (b *peerBatch) reserveReplyLocked(s *Session, size int) (limit int) {
	s.mu.AssertHeld()
	size += 2
	b.replySize += size
	response := s.requests.maxResponse()
	together := max(response, s.limits.Outbox)
	switch {
	case b.replySize > response:
		return response
	case s.memory.batchReplies+size > together:
		return together
	}
	b.reservedBytes += size
	s.memory.batchReplies += size
	return 0
}

// storeReplyLocked stores an awaited reply, and reports whether the reply was the last.
// Callers must hold s.mu.
func (b *peerBatch) storeReplyLocked(s *Session, i int, reply []byte) bool {
	s.mu.AssertHeld()
	b.appendReply(i, reply)
	b.missingReplies--
	b.finishMemberLocked(s)
	b.sending = b.missingReplies == 0
	return b.sending
}

// finishMemberLocked counts a finished member. The last member ends the batch's deadline.
// Callers must hold s.mu.
func (b *peerBatch) finishMemberLocked(s *Session) {
	s.mu.AssertHeld()
	if b.openMembers--; b.openMembers == 0 {
		s.requests.open.removeDeadline(&b.deadline)
	}
}

func (b *peerBatch) refuseRemaining(s *Session, e *Error, from sendMode) {
	if x := s.exchange(); x != nil {
		x.noteRefusalLocked(e)
	}
	s.effects.failMembers(b, b.takeUnbegunLocked(s), e, from)
}

func (b *peerBatch) abortRequest(s *Session, c *peerRequest, e *Error) {
	c.markAnsweredLocked(s)
	if b.isQueued() && !b.skipAnswered() {
		s.requests.removeEntry(b)
	}
	s.effects.failMembers(b, []*peerRequest{c}, e, fromReader)
}

// takeUnbegunLocked takes the members that have not begun. It drops the notifications and
// returns the requests. Callers must hold s.mu.
func (b *peerBatch) takeUnbegunLocked(s *Session) (rest []*peerRequest) {
	s.mu.AssertHeld()
	if b.isQueued() {
		s.requests.removeEntry(b)
	}
	for ; b.nextMember < len(b.members); b.nextMember++ {
		switch c := &b.members[b.nextMember]; {
		case c.answered:
		case c.IsNotification():
			c.markAnsweredLocked(s)
			s.requests.countDroppedLocked(c)
			b.finishMemberLocked(s)
		default:
			c.markAnsweredLocked(s)
			rest = append(rest, c)
		}
	}
	return rest
}

// answerMembers answers members with e. If e is nil, the members get no reply.
func (b *peerBatch) answerMembers(s *Session, members []*peerRequest, e *Error, from sendMode) {
	sc := getEncodeBuffer()
	defer sc.recycle()
	complete := false
	for _, c := range members {
		sc.msg = sc.msg[:0]
		if e != nil { // a nil e means no reply
			s.requests.encodeError(sc, c.ID, e)
		}
		s.lock()
		complete = b.storeReplyLocked(s, int(c.index), sc.msg)
		s.unlock()
	}
	if complete {
		b.sendReplies(s, nil, from)
	}
}

// expireLocked implements [expirer]. Limits.ProcessingTimeout has passed. Each unfinished
// member counts as an error, like a request outside a batch. Callers must hold s.mu.
func (b *peerBatch) expireLocked(s *Session) {
	s.mu.AssertHeld()
	for i := range b.members {
		if c := &b.members[i]; !c.answered {
			s.requests.timeOutLocked(c)
		}
	}
	waiting := b.takeUnbegunLocked(s)
	calls := b.appendRequests(nil, (*peerRequest).isOpen)
	var begun []*peerRequest
	for _, c := range calls {
		c.markAnsweredLocked(s)
		switch {
		case c.IsNotification():
			b.finishMemberLocked(s)
		case c.isRunning():
			begun = append(begun, c)
		default:
			waiting = append(waiting, c)
		}
	}
	if x := s.exchange(); x != nil && len(begun) == 0 {
		x.noteRefusalLocked(timedOut(false))
	}
	s.effects.failMembers(b, waiting, timedOut(false), fromReader)
	s.effects.failMembers(b, begun, timedOut(true), fromReader)
	for _, c := range calls {
		s.effects.endContext(c, errProcessing)
	}
}

// shrinkReplies replaces replies by e, the largest first, until the message has shrunk by
// the given number of bytes.
func (b *peerBatch) shrinkReplies(s *Session, sc *encodeBuffer, e *Error, bytes int) {
	r := b.replies
	size := func(i int) int { return len(r.replyTo(i)) }
	order := make([]int, len(r.spans))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return size(j) - size(i) })
	for _, i := range order {
		if bytes <= 0 {
			return
		}
		if c := &b.members[i]; c.ID != nil && s.requests.encodeError(sc, c.ID, e) && len(sc.msg) < size(i) {
			bytes -= size(i) - len(sc.msg)
			c.markFailed(s)
			r.spans[i].end = r.spans[i].start + copy(r.replyTo(i), sc.msg)
		}
	}
}

// sendReplies sends the replies. No other goroutine has the batch any more. h is the handler
// of the last member, or nil. If h is not nil, sendReplies returns the members for
// runCallbacks, and callers must call finishSending after the callbacks.
func (b *peerBatch) sendReplies(s *Session, h *handlerContext, from sendMode) (ready []*peerRequest) {
	s.lock()
	s.memory.batchReplies -= b.reservedBytes
	s.unlock()
	sc := getEncodeBuffer()
	defer sc.recycle()
	err := b.frameReplies(s, sc)
	b.recycleReplies() // a waiting sender keeps a single copy
	clear(sc.parts)
	if err == nil {
		err = s.writer.sendFrame(context.Background(), h, sc, from, nil) // fails only if the session ends
	}
	outcome := replyQueued
	if err != nil {
		outcome = replyUnsent
	}
	s.lock()
	ready = s.requests.decideBatchLocked(b, outcome)
	if h != nil {
		s.unlock()
		return ready
	}
	later := s.requests.runCallbacksLaterLocked(ready, func() { b.finishSending(s) })
	s.unlock()
	if !later {
		b.finishSending(s)
	}
	return nil
}

// finishSending ends the session after sendReplies, if a handler wants.
func (b *peerBatch) finishSending(s *Session) {
	s.lock()
	b.sending = false
	s.unlock()
	if b.disconnect { // final, because sending was true until now
		s.closePolitely(ErrClosed)
	}
}

// frameReplies frames the replies as a single message. If the message is too large, errors
// replace the largest replies. If the message is still too large, a single error replaces
// the message.
func (b *peerBatch) frameReplies(s *Session, sc *encodeBuffer) error {
	err := b.joinReplies(s, sc)
	size, ok := errors.AsType[*SizeError](err)
	if !ok {
		return err
	}
	e := responseTooLarge(size.Limit)
	s.lock()
	s.logs.logPeerLaterLocked(slog.LevelWarn, "replies to a batch are too large together, and some are replaced by errors",
		slog.Int("members", len(b.members)), byteLimitAttr(size.Field, size.Limit))
	s.unlock()
	b.shrinkReplies(s, sc, e, size.Size-size.Limit)
	if err = b.joinReplies(s, sc); err == nil {
		return nil
	}
	for i := range b.members {
		b.members[i].markFailed(s)
	}
	s.requests.encodeError(sc, nil, e)
	return s.writer.frameMessage(sc)
}

// markFailed records that an error has replaced the reply to c.
func (c *peerRequest) markFailed(s *Session) {
	s.lock()
	c.failed = true
	s.unlock()
}

// joinReplies joins the replies into a single message and frames the message.
func (b *peerBatch) joinReplies(s *Session, sc *encodeBuffer) (err error) {
	sc.parts = slices.Grow(sc.parts[:0], len(b.members))
	if b.replies != nil {
		for i := range b.members {
			if reply := b.replies.replyTo(i); len(reply) > 0 {
				sc.parts = append(sc.parts, reply)
			}
		}
	}
	if sc.msg, err = s.Protocol().AppendBatch(sc.msg[:0], sc.parts); err != nil {
		return err
	}
	return s.writer.frameMessage(sc)
}
