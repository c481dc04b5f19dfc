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

// decodeBuffer is what a reader uses while there is something to read.
type decodeBuffer struct {
	Message
	decodedInput
}

var decodeBuffers = sync.Pool{New: func() any { return new(decodeBuffer) }}

// recycle gives r up for reuse, without what was decoded.
func (r *decodeBuffer) recycle() {
	m := &r.Message
	spare := m.spare
	if n := cap(m.Items); n > len(m.singleItem) && n <= 128 {
		clear(m.Items[:n]) // longer batches were before
		spare = m.Items[:0]
	}
	*m = Message{lastMethod: m.lastMethod, spare: spare}
	decodeBuffers.Put(r)
}

// decodedInput is what the reader has decoded and not handed over yet. It hands over
// what came in at once under one lock.
type decodedInput struct {
	messages     uint64
	bytes        int  // of the messages
	queueCrowded bool // the queue was when the last were handed over: reading may have to pause
	hasBlank     bool // there were blank messages, too
	replies      []receivedReply
	resultBytes  byteArena // of the replies
	entries      []queueEntry
}

// receivedReply is a response that came as a message of its own.
type receivedReply struct {
	id     ID
	result []byte
	err    error
}

// maxDecodedMessages is how many messages are decoded before they are handed over, though
// there are more: two for each worker, at most so many.
const maxDecodedMessages = 32

// readLoop reads messages until the connection fails or is closed, or until reading
// pauses (I13).
func (r *reader) readLoop() {
	s := r.s
	buf := decodeBuffers.Get().(*decodeBuffer)
	for {
		if buf.queueCrowded {
			r.handOverDecoded(&buf.decodedInput)
			buf.queueCrowded = false
			if r.pauseReading() {
				buf.recycle()
				return
			}
		}
		msg, err := s.conn.nextMessage(false)
		if msg == nil && err == nil {
			r.handOverDecoded(&buf.decodedInput)
			if buf.queueCrowded {
				continue
			}
			// What was woken by the last messages runs first: what it sends goes
			// out sooner, and more comes in at once. Meanwhile, and that may be
			// long, nothing is held that can be had again.
			buf.recycle()
			runtime.Gosched()
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
		r.countReceivedLocked() // what is dropped, or was cut off by the end
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
			frame, err, told = &final, &final, true // by the close
		}
		if !bad || !frame.Recoverable {
			if r.closeInput(err) {
				buf.recycle()
				return
			}
			grace := time.Duration(0)
			if told || errors.Is(err, io.EOF) {
				grace = closeGrace // the peer may read on: it gets what is queued
			} else if bad {
				grace = s.violationGrace()
			}
			s.closeWith(err, grace) // does nothing if the session was ending already (I6)
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
	s.writer.wakeWriter() // which may linger
	s.unlock()
}

// maxIgnoredBytes is how many bytes are read, and not looked at, of a session that ends.
const maxIgnoredBytes = 256 << 10

// errInputIgnored ends the reading of a long message when enough was ignored.
var errInputIgnored = errors.New("rpcx: input ignored")

// reader reads what the peer sends. Its methods are for the goroutine that reads, but for
// those that end in Locked. Its fields are that goroutine's, if nothing else is said.
type reader struct {
	s              *Session
	maxMessages    uint64 // messages that are handed over at once
	ignoresInput   bool   // the session ends: what arrives is read and dropped
	ignoredFrom    uint64 // the bytes that had arrived when that began
	endedInMessage bool   // the input has ended within a message
	inputLeft      bool   // there is more input than is ignored; guarded by s.mu
	blankMessages  uint8  // how many blank messages came in succession
}

// mayIgnoreMore reports whether reading goes on when so many bytes have arrived: the peer
// that is sent the last replies should not be reset before it has read them, and
// cannot keep the session busy.
func (r *reader) mayIgnoreMore(received uint64) bool {
	return received-r.ignoredFrom <= maxIgnoredBytes
}

// ignoreInputIfClosingLocked has the reader drop what arrives from now on if the session is
// ending. Callers must hold s.mu and be the reader.
func (r *reader) ignoreInputIfClosingLocked() {
	s := r.s
	s.mu.AssertHeld()
	if !r.ignoresInput && s.life.state >= stateClosing {
		r.ignoresInput, r.ignoredFrom = true, s.conn.receivedBytes()
	}
}

// receiveMessage deals with one message, which is valid only until it returns.
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
			r.endedInMessage = true // the connection ended in the middle of it
			return
		}
	}
	r.blankMessages = 0
	switch item := &m.Items[0]; {
	case m.Batch && m.Kind() == KindResponse:
		r.handOverDecoded(in) // what came before
		r.receiveBatchResponse(m.Items, true)
	case m.Batch:
		r.handOverDecoded(in)
		if items := r.takeInvalidReplies(in, s.Protocol(), m, msg); len(items) > 0 {
			r.receiveBatch(in, items, len(msg))
		}
	case item.Kind == KindInvalid:
		if items := r.takeInvalidReplies(in, s.Protocol(), m, msg); len(items) > 0 {
			r.receiveInvalid(item, msg, s.stats.MessagesReceived+in.messages == 0)
		}
	case item.Kind == KindFatal:
		r.handOverDecoded(in) // what came before
		s.lock()
		r.countBadMessageLocked(item.Err)
		s.effects.closeSession(item.Err, s.violationGrace())
		s.unlock()
	case item.Kind == KindResponse:
		in.resultBytes.grow(len(item.ID) + len(item.Result))
		in.replies = append(in.replies, receivedReply{in.resultBytes.appendCopy(item.ID), in.resultBytes.appendCopy(item.Result), item.Err})
	case s.cancellation != nil && item.Kind == KindNotification && item.Method == s.cancellation.Method:
		r.handOverDecoded(in) // what is cancelled may be in it
		s.requests.cancelRequests(item.Params)
	default:
		in.entries = append(in.entries, r.newRequest(item, len(msg)))
	}
	in.messages++
	in.bytes += len(msg)
	if in.messages >= r.maxMessages || in.bytes >= maxDecodedBytes {
		r.handOverDecoded(in)
	}
}

// decodeMessage decodes msg under the session's protocol, which msg may decide.
func (r *reader) decodeMessage(m *Message, msg []byte) {
	s := r.s
	p := s.Protocol()
	if d, ok := p.(Detector); ok {
		if found := d.Detect(msg, s.limits.Batch); found != nil {
			s.proto.Store(&found) // before any reply (I11)
			p = found
		}
	}
	m.StrictParams = s.strictParams
	p.Decode(m, msg, s.limits.Batch)
}

// handOverDecoded hands over what was received: it completes calls and queues requests.
func (r *reader) handOverDecoded(in *decodedInput) {
	s := r.s
	if in.messages == 0 && len(in.entries) == 0 && !in.hasBlank {
		return
	}
	s.memory.makeRoomForRequests(in.entries)
	s.lock()
	s.stats.MessagesReceived += in.messages
	r.countReceivedLocked()
	s.activity.markActiveLocked()
	now := s.now()
	for _, reply := range in.replies {
		if reply.id == nil && r.completeRefusedCallsLocked(now, reply.err) {
			continue
		}
		f, err, fault := r.takeCallForReplyLocked(reply.id, reply.err)
		if fault != nil {
			r.countBadMessageLocked(fault)
			s.cost.countPeerErrorBytesLocked(wholeError, len(reply.result))
		}
		if f != nil {
			s.calls.completeCallLocked(f, now, reply.result, err)
		}
	}
	s.cost.checkCostLimitLocked()
	for _, e := range in.entries {
		s.requests.enqueueRequestLocked(e, now)
	}
	s.cost.checkStarvedQueueLocked() // what was refused may have cost what those before it need
	s.requests.startWorkerIfNeededLocked()
	in.queueCrowded = s.requests.isCrowdedLocked(now, 4)
	r.ignoreInputIfClosingLocked()
	s.unlock()

	clear(in.replies)
	clear(in.entries)
	in.messages, in.bytes, in.hasBlank = 0, 0, false
	in.replies, in.entries, in.resultBytes = in.replies[:0], in.entries[:0], nil
}

// takeCallForReplyLocked removes the call that a response is for from the table, and returns it
// to be completed; nil if there is none. outcome is the call's error, if
// it has one. fault is what is to be counted against the peer. It is called under
// the lock.
func (r *reader) takeCallForReplyLocked(id ID, err error) (f *Future, outcome, fault error) {
	s := r.s
	s.mu.AssertHeld()
	f, what := s.calls.table.matchReply(id)
	if what == unexpected {
		f, what, err = r.takeCallByStringLocked(id, err)
	}
	switch what {
	case matched:
		s.calls.lastReplyMark = s.writer.queuedMessages
		if bad, ok := err.(*ProtocolError); ok {
			fault = bad
		}
	case late:
		s.calls.lastReplyMark = s.writer.queuedMessages
		s.stats.LateReplies++
	case unexpected:
		if s.life.state >= stateClosing {
			break // the end has failed the calls that were pending
		}
		s.stats.UnexpectedReplies++
		fault = unexpectedReply(id, err)
	}
	return f, err, fault
}

// receiveBatchResponse completes the calls that a batch of responses answers, or those
// that responses of one message do if array is not set. The members of our batches
// that an array answers in part fail where it does not.
func (r *reader) receiveBatchResponse(items []Item, array bool) {
	s := r.s
	need := 0
	for i := range items {
		need += len(items[i].Result)
	}
	results := make(byteArena, 0, need)
	var touched []*Batch
	faults := 0
	s.lock()
	now := s.now()
	complete := func(item *Item) {
		f, err, fault := r.takeCallForReplyLocked(item.ID, item.Err)
		if fault != nil {
			faults++
			r.countItemFaultLocked(fault, faults)
			s.cost.countPeerErrorBytesLocked(wholeError, len(item.Result))
		}
		if f == nil {
			return
		}
		s.calls.completeCallLocked(f, now, results.appendCopy(item.Result), err)
		if array && f.batch != nil && !f.batch.hasReply {
			f.batch.hasReply = true
			touched = append(touched, f.batch)
		}
	}
	for i := range items {
		if items[i].ID != nil {
			complete(&items[i])
		}
	}
	for _, b := range touched {
		for _, f := range b.whole.members {
			if s.calls.table.abandonCall(f) {
				s.calls.completeCallLocked(f, now, nil, ErrNoResponse)
			}
		}
	}
	for i := range items { // last: what has an id says what the others can be for
		if items[i].ID == nil && !r.completeRefusedCallsLocked(now, items[i].Err) {
			complete(&items[i])
		}
	}
	s.unlock()
}

// newRequest makes a call of a request or notification.
func (r *reader) newRequest(item *Item, size int) *singleRequest {
	c := &singleRequest{size: size}
	a := byteArena(c.arena[:0])
	a.grow(item.sharedBytes())
	item.detachInto(&a)
	c.initFromItem(r.s, item, c)
	return c
}

// receiveBatch answers the invalid members of a batch and takes in the rest.
func (r *reader) receiveBatch(in *decodedInput, items []Item, size int) {
	s := r.s
	b := &peerBatch{members: make([]peerRequest, len(items)), spans: make([]span, len(items)), size: size}
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
		c.index = int32(i)
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
		}
		b.openMembers++
		item.detachInto(&a)
		c.initFromItem(s, item, b)
	}
	b.size += len(b.replies) + memberSize*len(b.members)
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

// sharedBytes is how many bytes of the message the item needs.
func (item *Item) sharedBytes() int { return len(item.ID) + item.Params.sharedBytes() }

func (p *Params) sharedBytes() int { return len(p.Positional) + len(p.Named) + len(p.Raw) }

// detachInto moves what the item shares with its message to a, which has room for it.
func (item *Item) detachInto(a *byteArena) {
	p := &item.Params
	item.ID, p.Positional, p.Named, p.Raw = a.appendCopy(item.ID), a.appendCopy(p.Positional), a.appendCopy(p.Named), a.appendCopy(p.Raw)
}

// byteArena is memory that small things which came in together share.
type byteArena []byte

// maxSharedArena is how large an arena becomes for small things: a user who keeps one
// of them keeps all of it.
const maxSharedArena = 512

// appendCopy returns a copy of b in the arena, which has room for it.
func (a *byteArena) appendCopy(b []byte) []byte {
	if b == nil {
		return nil
	}
	start := len(*a)
	*a = append(*a, b...)
	return (*a)[start:len(*a):len(*a)]
}

// grow makes room for n bytes: the more there were, the more for others as well.
func (a *byteArena) grow(n int) {
	if n > cap(*a)-len(*a) {
		*a = make(byteArena, 0, max(n, min(2*cap(*a), maxSharedArena)))
	}
}

// countBadFrameLocked is fault for what the framer, or the connection, reports. Callers must
// hold the lock.
func (r *reader) countBadFrameLocked(frame *FrameError) {
	r.s.mu.AssertHeld()
	var more []slog.Attr
	if size := frame.TooLarge; size != nil {
		more = append(more, byteLimitAttr(size.Field, size.Limit))
	}
	noted := *frame
	noted.Start = nil // not to be kept until it is logged
	r.countBadMessageLocked(&noted, more...)
}

// receiveDropped tells whom it concerns of a message that was dropped, as far as its
// beginning shows who that is: the peer is answered, or the call ends that the message
// was a reply to. told reports whether the peer is answered. unclear reports whether
// somebody may be waiting who learns nothing of it.
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

// failCallOfDroppedReply ends the call, or the batch, whose reply was dropped. It reports whether
// no call can be waiting for that reply any more.
func (r *reader) failCallOfDroppedReply(id ID, array bool, frame *FrameError) bool {
	s := r.s
	var err error = frame.TooLarge
	if frame.TooLarge == nil {
		err = frame
	}
	err = fmt.Errorf("reply dropped: %w", err)
	s.lock()
	defer s.unlock()
	f := s.calls.table.onlyCall(array)
	if id != nil {
		f, _, _ = r.takeCallForReplyLocked(id, nil) // the fault is that of the frame
	} else if f != nil {
		s.calls.table.remove(f)
	}
	if f == nil {
		return id != nil || s.calls.table.pending == 0
	}
	now := s.now()
	s.calls.completeCallLocked(f, now, nil, err)
	if f.batch != nil && array {
		for _, member := range f.batch.whole.members {
			if s.calls.table.abandonCall(member) { // another part of its reply may come
				s.calls.completeCallLocked(member, now, nil, err)
			}
		}
	}
	return true
}
