package rpcx

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// decodeBuffer is the memory of a reader while there is input.
type decodeBuffer struct {
	Message
	decodedInput
}

var decodeBuffers = sync.Pool{New: func() any { return new(decodeBuffer) }}

// recycle returns r to the pool, without the decoded data.
func (r *decodeBuffer) recycle() {
	m := &r.Message
	m.keepItems()
	spare := m.spare[:0]
	if clear(m.spare); cap(spare) > maxPooledItems {
		spare = nil
	}
	texts := m.texts[:0]
	if clear(m.texts[:cap(texts)]); cap(texts) > 128 {
		texts = nil
	}
	*m = Message{lastMethod: m.lastMethod, spare: spare, texts: texts}
	decodeBuffers.Put(r)
}

// decodedInput holds decoded messages before the hand-over. The reader hands over all
// messages that arrived together under one lock. The replies share memory with the input,
// so the hand-over comes before the next read; see receivedReply.
type decodedInput struct {
	messages           uint64
	bytes              int  // size of the messages
	queueFullOrCrowded bool // the queue was full or crowded at the last hand-over: reading may have to pause
	hasBlank           bool // blank messages arrived, too
	replies            []receivedReply
	resultBytes        byteArena // memory for small results of futures
	entries            []queueEntry
	news               []receivedNews // notifications of known methods
	newsKeys           []byte         // their keys
	newsBytes          byteArena      // their params
}

// maxDecodedMessages is the upper bound of reader.maxMessages, which is two messages for
// each worker.
const maxDecodedMessages = 32

// setMaxMessages sets maxMessages. While the gate is closed, the reader hands over each
// message at once.
func (r *reader) setMaxMessages() {
	limit := min(r.s.limits.Concurrency, maxDecodedMessages)
	if r.s.requests.order == Sequential {
		limit = 1
	}
	r.maxMessages = uint64(min(maxDecodedMessages, 2*limit))
	if r.s.requests.gate.closed.Load() {
		r.maxMessages = 1
	}
}

// readLoop reads messages until the connection fails or closes, or until the role of the
// reader becomes vacant; see readingRole.
func (r *reader) readLoop() {
	s := r.s
	buf := decodeBuffers.Get().(*decodeBuffer)
	for {
		if buf.queueFullOrCrowded {
			r.handOverDecoded(&buf.decodedInput)
			buf.queueFullOrCrowded = false
			if r.pauseReading() {
				buf.recycle()
				return
			}
		}
		msg, err := []byte(nil), r.leftError
		if r.leftError = nil; err == nil {
			msg, err = s.conn.nextMessage(false)
		}
		if msg == nil && err == nil {
			step := r.handOver(&buf.decodedInput, true)
			if step == readOn && buf.queueFullOrCrowded {
				continue
			}
			buf.recycle() // the wait for input may be long
			switch step {
			case leaveRole:
				return
			case runRequest:
				s.requests.runWorker()
				if !r.retakeRole() {
					return
				}
			case readOn:
				// Goroutines woken by the last messages run first: their messages leave
				// sooner, and more input arrives at once.
				runtime.Gosched()
			}
			msg, err = s.conn.nextMessage(true)
			buf = decodeBuffers.Get().(*decodeBuffer)
		}
		if err == nil {
			if !r.ignoresInput {
				r.receiveMessage(&buf.decodedInput, &buf.Message, msg)
				continue
			}
			if r.mayIgnoreMore(s.conn.receivedBytes()) {
				continue
			}
			s.lock()
			r.inputLeft = true
			s.unlock()
			break
		}
		r.handOverDecoded(&buf.decodedInput)
		if err == errInputIgnored {
			s.lock()
			r.inputLeft = true
			s.unlock()
			break
		}
		if err == io.EOF && r.endedInMessage {
			err = io.ErrUnexpectedEOF
		}
		if err != io.EOF {
			err = r.explainInput(err)
		}
		frame, bad := errors.AsType[*FrameError](err)
		s.lock()
		r.countReceivedLocked() // dropped bytes, or bytes cut off by the end
		if bad {
			r.countBadFrameLocked(frame)
		}
		s.unlock()
		told, unclear := false, false
		if bad && !r.ignoresInput {
			told, unclear = r.receiveDropped(&buf.Message, frame)
		}
		if bad && frame.Recoverable && unclear && s.conn.tellsCause() {
			final := *frame
			final.Recoverable, final.Start = false, nil
			frame, err, told = &final, &final, true // the close reports the error
		}
		if !bad || !frame.Recoverable {
			if r.closeInput(err) {
				buf.recycle()
				return
			}
			grace := time.Duration(0)
			if told || errors.Is(err, io.EOF) {
				grace = closeGrace // the peer may still read: the writer writes the queue
			} else if bad {
				grace = s.violationGrace()
			}
			s.closeWith(err, grace) // keeps an earlier cause (I6)
			break
		}
		s.lock()
		ending := s.life.state >= stateClosing
		s.cost.checkCostLimitLocked()
		s.unlock()
		if ending {
			break
		}
	}
	s.conn.releaseInput()
	s.lock()
	s.life.runningLoops--
	s.writer.wakeWriter() // the writer may linger
	s.unlock()
}

// maxIgnoredBytes is the number of bytes that a closing session reads and ignores.
const maxIgnoredBytes = 256 << 10

// errInputIgnored ends the reading of a long message after maxIgnoredBytes.
var errInputIgnored = errors.New("rpcx: input ignored")

// reader reads messages of the peer. The methods are for the reading goroutine, except
// methods that end in Locked. The fields belong to the reading goroutine, except as
// noted.
type reader struct {
	s              *Session
	maxMessages    uint64 // maximum number of messages handed over at once
	ignoresInput   bool   // the session is closing: input is read and dropped
	ignoredFrom    uint64 // number of received bytes when ignoresInput was set
	endedInMessage bool   // the input ended within a message
	inputLeft      bool   // more than maxIgnoredBytes of input is left; guarded by s.mu
	blankMessages  uint8  // number of successive blank messages
	lastSeq        uint64 // number of the last request or notification
	leftError      error  // of the connection, which a caller that read has left to readLoop
	role           readingRole
}

// mayIgnoreMore reports whether a closing session reads on after received bytes. Unread
// input would reset the connection before the peer has read the last replies. But the
// peer must not keep the session busy.
func (r *reader) mayIgnoreMore(received uint64) bool {
	return received-r.ignoredFrom <= maxIgnoredBytes
}

// ignoreInputIfClosingLocked lets the reader drop further input if the session is
// closing. Callers must hold s.mu and be the reader.
func (r *reader) ignoreInputIfClosingLocked() {
	s := r.s
	s.mu.AssertHeld()
	if !r.ignoresInput && s.life.state >= stateClosing {
		r.ignoresInput, r.ignoredFrom = true, s.conn.receivedBytes()
	}
}

// receiveMessage handles a message. A decoded reply uses msg until handOverDecoded.
func (r *reader) receiveMessage(in *decodedInput, m *Message, msg []byte) {
	s := r.s
	r.decodeMessage(m, msg)
	if m.Items[0].isNoJSON() {
		text, marked := bytes.CutPrefix(msg, byteOrderMark)
		if marked && s.stats.MessagesReceived+in.messages == 0 {
			msg = text
			r.decodeMessage(m, msg)
		}
		if r.passOverBlank(msg) {
			in.hasBlank = true
			return
		}
		if s.conn.endedUnterminated() {
			r.endedInMessage = true // the connection ended within the message
			return
		}
	}
	r.blankMessages = 0
	switch item := &m.Items[0]; {
	case m.Batch && m.Kind() == KindResponse:
		r.handOverDecoded(in) // earlier messages first
		r.receiveBatchResponse(m.Items, true)
	case m.Batch:
		r.handOverDecoded(in)
		if r.takeNewsOfBatch(in, m); len(m.Items) == 0 {
			break
		}
		if items := r.takeInvalidReplies(in, s.Protocol(), m, msg); len(items) > 0 {
			r.receiveBatch(in, items, m, len(msg))
		}
	case item.Kind == KindInvalid:
		if items := r.takeInvalidReplies(in, s.Protocol(), m, msg); len(items) > 0 {
			r.receiveInvalid(item, msg, s.stats.MessagesReceived+in.messages == 0)
		}
	case item.Kind == KindFatal:
		r.handOverDecoded(in) // earlier messages first
		s.lock()
		r.countBadMessageLocked(item.Err)
		s.effects.closeSession(item.Err, s.violationGrace())
		s.unlock()
	case item.Kind == KindResponse:
		in.replies = append(in.replies, r.newReply(item, len(msg)))
	case s.cancellation != nil && item.Kind == KindNotification && item.Method == s.cancellation.Method:
		r.handOverDecoded(in) // in may hold the cancelled request
		s.requests.cancelRequests(item.Params)
	case item.Kind == KindNotification && r.takeNews(in, item):
	default:
		in.entries = append(in.entries, r.newRequest(item, m.textOf(0), len(msg)))
	}
	in.messages++
	in.bytes += len(msg)
	if in.messages >= r.maxMessages || in.bytes >= maxDecodedBytes {
		r.handOverDecoded(in)
	}
}

// decodeMessage decodes msg. If the session's protocol is a Detector, msg may decide the
// protocol.
func (r *reader) decodeMessage(m *Message, msg []byte) {
	s := r.s
	p := s.Protocol()
	if d, ok := p.(Detector); ok {
		if found := d.Detect(msg, s.limits.Batch); found != nil {
			s.proto.Store(&found) // before any reply (I11)
			p = found
		}
	}
	m.StrictParams, m.keepsTexts, m.texts = s.strictParams, s.requests.meta.readsMembers(), m.texts[:0]
	p.Decode(m, msg, s.limits.Batch)
	for i := range m.Items {
		if err := m.Items[i].Err; err != nil {
			m.Items[i].Err = withFixedText(err)
		}
	}
}

// handOverDecoded completes the calls of decoded replies and queues decoded requests.
func (r *reader) handOverDecoded(in *decodedInput) { r.handOver(in, false) }

// handOver is handOverDecoded. If last is set, all available input is handed over, and
// handOver decides who reads further.
func (r *reader) handOver(in *decodedInput, last bool) (step readStep) {
	s := r.s
	if in.messages == 0 && len(in.entries) == 0 && !in.hasBlank && (!last || r.role.caller == nil) {
		return readOn
	}
	s.memory.makeRoomForRequests(in.entries)
	s.lock()
	s.stats.MessagesReceived += in.messages
	r.countReceivedLocked()
	s.activity.markActiveLocked()
	now := s.now()
	sorted := 0
	for i := range in.replies {
		if sorted < len(in.news) {
			sorted = s.streams.Load().sortNewsLocked(in, sorted, i, now)
		}
		reply := &in.replies[i]
		if reply.id == nil && r.completeRefusedCallsLocked(now, reply.err) {
			continue
		}
		c, err, fault := r.takeCallForReplyLocked(reply.id, reply.result, reply.err)
		if fault != nil {
			r.countBadMessageLocked(fault)
			s.cost.countPeerErrorBytesLocked(wholeError, len(reply.result))
		}
		if c != nil {
			s.calls.completeCallLocked(c, now, c.keepResult(reply, &in.resultBytes), err)
		}
	}
	if sorted < len(in.news) {
		s.streams.Load().sortNewsLocked(in, sorted, len(in.replies), now)
	}
	s.cost.checkCostLimitLocked()
	for _, e := range in.entries {
		s.requests.enqueueRequestLocked(e, now)
	}
	s.cost.checkStarvedQueueLocked() // refused requests may have used up the cost limit
	s.requests.startWorkerIfNeededLocked()
	in.queueFullOrCrowded = s.requests.isFullOrCrowdedLocked(now, 4) || s.isProgressFullLocked()
	if r.maxMessages == 1 {
		r.setMaxMessages()
	}
	r.ignoreInputIfClosingLocked()
	if last {
		step = r.nextStepLocked(in, now)
	}
	s.unlock()

	in.recycleReplies()
	if len(in.news) > 0 {
		in.recycleNews()
	}
	clear(in.entries)
	in.messages, in.bytes, in.hasBlank = 0, 0, false
	in.entries = in.entries[:0]
	return step
}

// takeCallForReplyLocked removes the call of a response from the table and returns the
// call, or nil. outcome is the error of the call. fault is an error of the peer, for the
// caller to count. result is only for calls that were given up. Callers must hold s.mu.
func (r *reader) takeCallForReplyLocked(id ID, result []byte, err error) (c *pendingCall, outcome, fault error) {
	s := r.s
	s.mu.AssertHeld()
	c, what := s.calls.table.matchReply(id)
	if what == unexpected {
		c, what, err = r.takeCallByStringLocked(id, err)
	}
	switch what {
	case matched:
		s.calls.lastReplyMark = s.writer.queuedMessages
		if bad, ok := err.(*ProtocolError); ok {
			fault = bad
		}
	case toAbandoned:
		s.calls.lastReplyMark = s.writer.queuedMessages
		s.stats.LateReplies++
		if ss := s.streams.Load(); ss != nil {
			ss.unsubscribeLateLocked(id, result, err)
		}
	case unexpected:
		if s.life.state >= stateClosing {
			break // closeWith has failed the pending calls
		}
		s.stats.UnexpectedReplies++
		fault = unexpectedReply(id, err)
	}
	return c, err, fault
}

// newRequest makes a singleRequest from a request or notification. text is that of the
// item, if Options.Meta needs the text.
func (r *reader) newRequest(item *Item, text []byte, size int) *singleRequest {
	c := &singleRequest{size: size}
	a := byteArena(c.arena[:0])
	if p := &item.Params; len(p.Positional) > 0 && len(p.Named) > 0 {
		a.grow(item.sharedBytes())
	} // otherwise the only copy makes its own room, which need not be cleared before
	item.detachInto(&a)
	c.initFromItem(r.s, item, text, c)
	c.size += r.s.copiedIDBytes(item)
	return c
}

// receiveBatch answers the invalid members of a batch and adds the valid members to in. The
// items are those of m, or invalid ones of them.
func (r *reader) receiveBatch(in *decodedInput, items []Item, m *Message, size int) {
	s := r.s
	b := &peerBatch{members: make([]peerRequest, len(items)), size: size}
	s.traceBatchReceived(len(items))
	need := 0
	for i := range items {
		need += items[i].sharedBytes()
	}
	a := make(byteArena, 0, need)
	sc := getEncodeBuffer()
	defer sc.recycle()
	invalid := 0
	for i := range items {
		item, c := &items[i], &b.members[i]
		switch item.Kind {
		case KindInvalid:
			c.answered = true
			s.lock()
			if r.dropsBadMessagesLocked() {
				s.unlock()
				continue
			}
			invalid++
			r.countItemFaultLocked(item.Err, invalid)
			if invalid == 1 {
				s.life.unsentErrors++
			}
			s.unlock()
			if s.requests.encodeError(sc, item.ID, r.invalidItemError(item)) {
				b.appendReply(i, sc.msg)
			}
			continue
		case KindRequest:
			b.missingReplies++
			b.size += s.copiedIDBytes(item)
		}
		b.openMembers++
		item.detachInto(&a)
		c.initFromItem(s, item, m.textOf(i), b)
		c.index, c.members = int32(i), int32(len(items))
	}
	if b.replies != nil { // of invalid members
		b.size += len(b.replies.buf)
	}
	b.size += memberSize * len(b.members)
	if b.missingReplies == 0 && invalid > 0 {
		b.sendReplies(s, nil, fromReader)
	}
	if invalid > 0 {
		s.requests.finishSendingErrors()
	}
	if b.openMembers > 0 {
		in.entries = append(in.entries, b)
	}
}

// countBadFrameLocked is countBadMessageLocked for an error of the framer or connection.
// Callers must hold s.mu.
func (r *reader) countBadFrameLocked(frame *FrameError) {
	r.s.mu.AssertHeld()
	var more []slog.Attr
	if size := frame.TooLarge; size != nil {
		more = append(more, byteLimitAttr(size.Field, size.Limit))
	}
	noted := *frame
	noted.Start = nil // the log must not keep the bytes
	r.countBadMessageLocked(&noted, more...)
}

// receiveDropped handles a dropped message, as far as the start of the message shows its
// kind. If the message is a request, receiveDropped answers the peer. If the message is a
// reply, the call fails.
//
// told reports whether the peer is answered. unclear reports whether somebody may still
// wait without an error.
func (r *reader) receiveDropped(m *Message, frame *FrameError) (told, unclear bool) {
	s := r.s
	answer := frame.Answer
	if size := frame.TooLarge; size != nil && answer == nil {
		answer = InvalidRequest("message too large (over %s bytes)", thousands(size.Limit))
	}
	if answer == nil {
		return false, false
	}
	p, ok := s.Protocol().(StartDecoder)
	if !ok {
		return false, true
	}
	p.DecodeStart(m, frame.Start)
	item := &m.Items[0]
	switch item.Kind {
	case KindRequest, KindInvalid:
		s.lock()
		s.effects.replyError(item.ID, answer, fromReader)
		s.unlock()
		return true, item.ID == nil
	case KindResponse:
		return false, !r.failCallOfDroppedReply(item.ID, m.Batch, frame)
	}
	return false, item.Kind == KindFatal
}

// failCallOfDroppedReply fails the call, or the batch, whose reply was dropped. It
// reports whether no call can still wait for the reply.
func (r *reader) failCallOfDroppedReply(id ID, array bool, frame *FrameError) bool {
	s := r.s
	var err error = frame.TooLarge
	if frame.TooLarge == nil {
		err = frame
	}
	err = fmt.Errorf("reply dropped: %w", err)
	s.lock()
	defer s.unlock()
	c := s.calls.table.onlyCall(array)
	if id != nil {
		c, _, _ = r.takeCallForReplyLocked(id, nil, nil) // the fault is counted with the frame
	} else if c != nil {
		s.calls.table.remove(c)
	}
	if c == nil {
		return id != nil || s.calls.table.pending == 0
	}
	now := s.now()
	s.calls.completeCallLocked(c, now, nil, err)
	if c.message.isBatch && array {
		s.calls.failUnansweredLocked(c.message, now, err)
	}
	return true
}
