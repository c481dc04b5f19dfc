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

// reading is what a reader uses while there is something to read.
type reading struct {
	Message
	intake
}

var readings = sync.Pool{New: func() any { return new(reading) }}

// release gives r up for reuse, without what was decoded.
func (r *reading) release() {
	m := &r.Message
	spare := m.spare
	if n := cap(m.Items); n > len(m.scratch) && n <= 128 {
		clear(m.Items[:n]) // longer batches were before
		spare = m.Items[:0]
	}
	*m = Message{method: m.method, spare: spare}
	readings.Put(r)
}

// intake is what the reader has decoded and not handed over yet. It hands over
// what came in at once under one lock.
type intake struct {
	messages uint64
	bytes    int  // of the messages
	crowded  bool // the queue was when the last were handed over: reading may have to pause
	blank    bool // there were blank messages, too
	replies  []reply
	results  arena // of the replies
	entries  []entry
}

// reply is a response that came as a message of its own.
type reply struct {
	id     ID
	result []byte
	err    error
}

// maxIntake is how many messages are decoded before they are handed over, though
// there are more: two for each worker, at most so many.
const maxIntake = 32

// readLoop reads messages until the connection fails or is closed, or until reading
// pauses (I13).
func (s *Session) readLoop() {
	r := readings.Get().(*reading)
	for {
		if r.crowded {
			s.deliver(&r.intake)
			r.crowded = false
			if s.pause() {
				r.release()
				return
			}
		}
		msg, err := s.conn.next(false)
		if msg == nil && err == nil {
			s.deliver(&r.intake)
			if r.crowded {
				continue
			}
			// What was woken by the last messages runs first: what it sends goes
			// out sooner, and more comes in at once. Meanwhile, and that may be
			// long, nothing is held that can be had again.
			r.release()
			runtime.Gosched()
			msg, err = s.conn.next(true)
			r = readings.Get().(*reading)
		}
		if err == nil {
			if !s.reader.ignoring {
				s.receive(&r.intake, &r.Message, msg)
				continue
			}
			if s.reader.ignores(s.conn.received()) {
				continue
			}
			s.lock()
			s.reader.gaveUp = true
			s.unlock()
			break
		}
		s.deliver(&r.intake)
		if err == errIgnored {
			s.lock()
			s.reader.gaveUp = true
			s.unlock()
			break
		}
		if err == io.EOF && s.reader.cutOff {
			err = io.ErrUnexpectedEOF
		}
		if err != io.EOF {
			err = s.explain(err)
		}
		frame, bad := errors.AsType[*FrameError](err)
		s.lock()
		s.meter() // what is dropped, or was cut off by the end
		if bad {
			s.faultOfFrame(frame)
		}
		s.unlock()
		told, unclear := false, false
		if bad && !s.reader.ignoring {
			told, unclear = s.receiveDropped(&r.Message, frame)
		}
		if bad && frame.Recoverable && unclear && s.conn.tells() {
			final := *frame
			final.Recoverable, final.Start = false, nil
			frame, err, told = &final, &final, true // by the close
		}
		if !bad || !frame.Recoverable {
			if s.closeInput(err) {
				r.release()
				return
			}
			grace := time.Duration(0)
			if told || errors.Is(err, io.EOF) {
				grace = closeGrace // the peer may read on: it gets what is queued
			} else if bad {
				grace = s.violationGrace()
			}
			s.end(err, grace) // does nothing if the session was ending already (I6)
			break
		}
		s.lock()
		ending := s.state >= stateClosing
		s.overdrawn()
		s.unlock()
		if ending {
			break
		}
	}
	s.conn.releaseInput()
	s.lock()
	s.loops--
	s.out.wakeWriter() // which may linger
	s.unlock()
}

// maxIgnored is how many bytes are read, and not looked at, of a session that ends.
const maxIgnored = 256 << 10

// errIgnored ends the reading of a long message when enough was ignored.
var errIgnored = errors.New("rpcx: input ignored")

// readerState belongs to the reader.
type readerState struct {
	most     uint64 // messages that are handed over at once
	ignoring bool   // the session ends: what arrives is read and dropped
	from     uint64 // the bytes that had arrived when that began
	cutOff   bool   // the input has ended within a message
	gaveUp   bool   // there is more input than is ignored; guarded by the session's lock
}

// ignores reports whether reading goes on when so many bytes have arrived: the peer
// that is sent the last replies should not be reset before it has read them, and
// cannot keep the session busy.
func (r *readerState) ignores(received uint64) bool { return received-r.from <= maxIgnored }

// ignoreIfEndingLocked has the reader drop what arrives from now on if the session is
// ending. Callers must hold s.mu and be the reader.
func (s *Session) ignoreIfEndingLocked() {
	s.owner.Check()
	if !s.reader.ignoring && s.state >= stateClosing {
		s.reader.ignoring, s.reader.from = true, s.conn.received()
	}
}

// receive deals with one message, which is valid only until it returns.
func (s *Session) receive(in *intake, m *Message, msg []byte) {
	s.decode(m, msg)
	if m.Items[0].isNoJSON() {
		text, marked := bytes.CutPrefix(msg, byteOrderMark)
		if marked && s.stats.MessagesReceived+in.messages == 0 {
			msg = text
			s.decode(m, msg)
		}
		if s.passOver(msg) {
			in.blank = true
			return
		}
		if s.conn.unterminated() {
			s.reader.cutOff = true // the connection ended in the middle of it
			return
		}
	}
	s.blank = 0
	switch item := &m.Items[0]; {
	case m.Batch && m.Kind() == KindResponse:
		s.deliver(in) // what came before
		s.receiveBatchResponse(m.Items, true)
	case m.Batch:
		s.deliver(in)
		if items := s.takeReplies(in, s.Protocol(), m, msg); len(items) > 0 {
			s.receiveBatch(in, items, len(msg))
		}
	case item.Kind == KindInvalid:
		if items := s.takeReplies(in, s.Protocol(), m, msg); len(items) > 0 {
			s.receiveInvalid(item, msg, s.stats.MessagesReceived+in.messages == 0)
		}
	case item.Kind == KindFatal:
		s.deliver(in) // what came before
		s.lock()
		s.fault(item.Err)
		s.fx.end(item.Err, s.violationGrace())
		s.unlock()
	case item.Kind == KindResponse:
		in.results.grow(len(item.ID) + len(item.Result))
		in.replies = append(in.replies, reply{in.results.add(item.ID), in.results.add(item.Result), item.Err})
	case s.cancel != nil && item.Kind == KindNotification && item.Method == s.cancel.Method:
		s.deliver(in) // what is cancelled may be in it
		s.cancelled(item.Params)
	default:
		in.entries = append(in.entries, s.request(item, len(msg)))
	}
	in.messages++
	in.bytes += len(msg)
	if in.messages >= s.reader.most || in.bytes >= maxIntakeBytes {
		s.deliver(in)
	}
}

// decode decodes msg under the session's protocol, which msg may decide.
func (s *Session) decode(m *Message, msg []byte) {
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

// deliver hands over what was received: it completes calls and queues requests.
func (s *Session) deliver(in *intake) {
	if in.messages == 0 && len(in.entries) == 0 && !in.blank {
		return
	}
	s.makeRoomForRequests(in.entries)
	s.lock()
	s.stats.MessagesReceived += in.messages
	s.meter()
	s.markAlive()
	now := s.now()
	for _, r := range in.replies {
		if r.id == nil && s.completeRefusedLocked(now, r.err) {
			continue
		}
		f, err, fault := s.match(r.id, r.err)
		if fault != nil {
			s.fault(fault)
			s.countPeerErrorBytesLocked(wholeError, len(r.result))
		}
		if f != nil {
			s.complete(f, now, r.result, err)
		}
	}
	s.overdrawn()
	for _, e := range in.entries {
		s.admit(e, now)
	}
	s.unblock() // what was refused may have cost what those before it need
	s.wakeWorkerLocked()
	in.crowded = s.crowdedLocked(now, 4)
	s.ignoreIfEndingLocked()
	s.unlock()

	clear(in.replies)
	clear(in.entries)
	in.messages, in.bytes, in.blank = 0, 0, false
	in.replies, in.entries, in.results = in.replies[:0], in.entries[:0], nil
}

// match removes the call that a response is for from the table, and returns it
// to be completed; nil if there is none. outcome is the call's error, if
// it has one. fault is what is to be counted against the peer. It is called under
// the lock.
func (s *Session) match(id ID, err error) (f *Future, outcome, fault error) {
	f, what := s.table.receive(id)
	if what == unexpected {
		f, what, err = s.matchString(id, err)
	}
	switch what {
	case matched:
		s.replied = s.out.queued
		if bad, ok := err.(*ProtocolError); ok {
			fault = bad
		}
	case late:
		s.replied = s.out.queued
		s.stats.LateReplies++
	case unexpected:
		if s.state >= stateClosing {
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
func (s *Session) receiveBatchResponse(items []Item, array bool) {
	need := 0
	for i := range items {
		need += len(items[i].Result)
	}
	results := make(arena, 0, need)
	var touched []*Batch
	faults := 0
	s.lock()
	now := s.now()
	complete := func(item *Item) {
		f, err, fault := s.match(item.ID, item.Err)
		if fault != nil {
			faults++
			s.faultOf(fault, faults)
			s.countPeerErrorBytesLocked(wholeError, len(item.Result))
		}
		if f == nil {
			return
		}
		s.complete(f, now, results.add(item.Result), err)
		if array && f.batch != nil && !f.batch.answered {
			f.batch.answered = true
			touched = append(touched, f.batch)
		}
	}
	for i := range items {
		if items[i].ID != nil {
			complete(&items[i])
		}
	}
	for _, b := range touched {
		for _, f := range b.own.members {
			if s.table.giveUp(f) {
				s.complete(f, now, nil, ErrNoResponse)
			}
		}
	}
	for i := range items { // last: what has an id says what the others can be for
		if items[i].ID == nil && !s.completeRefusedLocked(now, items[i].Err) {
			complete(&items[i])
		}
	}
	s.unlock()
}

// request makes a call of a request or notification.
func (s *Session) request(item *Item, size int) *single {
	c := &single{size: size}
	a := arena(c.arena[:0])
	a.grow(item.bytes())
	item.own(&a)
	c.init(s, item, c)
	return c
}

// receiveBatch answers the invalid members of a batch and takes in the rest.
func (s *Session) receiveBatch(in *intake, items []Item, size int) {
	b := &inBatch{members: make([]call, len(items)), spans: make([]span, len(items)), size: size}
	need := 0
	for i := range items {
		need += items[i].bytes()
	}
	a := make(arena, 0, need)
	sc := getScratch()
	defer sc.put()
	invalid := 0
	for i := range items {
		item, c := &items[i], &b.members[i]
		c.index = int32(i)
		switch item.Kind {
		case KindInvalid:
			c.answered = true
			s.lock()
			if s.dropsFaultsLocked() {
				s.unlock()
				continue
			}
			invalid++
			s.faultOf(item.Err, invalid)
			if invalid == 1 {
				s.refusing++
			}
			s.unlock()
			if s.encodeError(sc, item.ID, s.answerTo(item)) {
				b.append(i, sc.msg)
			}
			continue
		case KindRequest:
			b.waiting++
		}
		b.unfinished++
		item.own(&a)
		c.init(s, item, b)
	}
	b.size += len(b.replies) + memberSize*len(b.members)
	if b.waiting == 0 && invalid > 0 {
		b.send(s, nil, fromReader)
	}
	if invalid > 0 {
		s.refused()
	}
	if b.unfinished > 0 {
		in.entries = append(in.entries, b)
	}
}

// bytes is how many bytes of the message the item needs.
func (item *Item) bytes() int { return len(item.ID) + item.Params.bytes() }

func (p *Params) bytes() int { return len(p.Positional) + len(p.Named) + len(p.Raw) }

// own moves what the item shares with its message to a, which has room for it.
func (item *Item) own(a *arena) {
	p := &item.Params
	item.ID, p.Positional, p.Named, p.Raw = a.add(item.ID), a.add(p.Positional), a.add(p.Named), a.add(p.Raw)
}

// arena is memory that small things which came in together share.
type arena []byte

// maxShared is how large an arena becomes for small things: a user who keeps one
// of them keeps all of it.
const maxShared = 512

// add returns a copy of b in the arena, which has room for it.
func (a *arena) add(b []byte) []byte {
	if b == nil {
		return nil
	}
	start := len(*a)
	*a = append(*a, b...)
	return (*a)[start:len(*a):len(*a)]
}

// grow makes room for n bytes: the more there were, the more for others as well.
func (a *arena) grow(n int) {
	if n > cap(*a)-len(*a) {
		*a = make(arena, 0, max(n, min(2*cap(*a), maxShared)))
	}
}

// faultOfFrame is fault for what the framer, or the connection, reports. Callers must
// hold the lock.
func (s *Session) faultOfFrame(frame *FrameError) {
	var more []slog.Attr
	if size := frame.TooLarge; size != nil {
		more = append(more, byteLimit(size.Field, size.Limit))
	}
	noted := *frame
	noted.Start = nil // not to be kept until it is logged
	s.fault(&noted, more...)
}

// receiveDropped tells whom it concerns of a message that was dropped, as far as its
// beginning shows who that is: the peer is answered, or the call ends that the message
// was a reply to. told reports whether the peer is answered. unclear reports whether
// somebody may be waiting who learns nothing of it.
func (s *Session) receiveDropped(m *Message, frame *FrameError) (told, unclear bool) {
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
		s.fx.replyError(item.ID, answer, fromReader)
		s.unlock()
		return true, item.ID == nil
	case KindResponse:
		return false, !s.failReply(item.ID, m.Batch, frame)
	}
	return false, item.Kind == KindFatal
}

// failReply ends the call, or the batch, whose reply was dropped. It reports whether
// no call can be waiting for that reply any more.
func (s *Session) failReply(id ID, array bool, frame *FrameError) bool {
	var err error = frame.TooLarge
	if frame.TooLarge == nil {
		err = frame
	}
	err = fmt.Errorf("reply dropped: %w", err)
	s.lock()
	defer s.unlock()
	f := s.table.only(array)
	if id != nil {
		f, _, _ = s.match(id, nil) // the fault is that of the frame
	} else if f != nil {
		s.table.remove(f)
	}
	if f == nil {
		return id != nil || s.table.pending == 0
	}
	now := s.now()
	s.complete(f, now, nil, err)
	if f.batch != nil && array {
		for _, member := range f.batch.own.members {
			if s.table.giveUp(member) { // another part of its reply may come
				s.complete(member, now, nil, err)
			}
		}
	}
	return true
}
