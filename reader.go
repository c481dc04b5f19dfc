package rpcx

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
)

// readLoop reads messages until the connection fails or is closed.
func (s *Session) readLoop() {
	var m Message
	for {
		msg, err := s.conn.next(false)
		if msg == nil && err == nil {
			runtime.Gosched()
			msg, err = s.conn.next(true)
		}
		if err == nil {
			s.receive(&m, msg)
			continue
		}
		var frame *FrameError
		if !errors.As(err, &frame) || !frame.Recoverable {
			s.end(err, 0) // does nothing if the session was ending already (I6)
			break
		}
		s.mu.Lock()
		s.fault(frame)
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.loops--
	s.leave()
	s.mu.Unlock()
}

// receive deals with one message, which is valid only until it returns.
func (s *Session) receive(m *Message, msg []byte) {
	p := s.protocol()
	if d, ok := p.(Detector); ok {
		if found := d.Detect(msg, s.limits.Batch); found != nil {
			s.proto.Store(&found) // before any reply (I11)
			p = found
		}
	}
	p.Decode(m, msg, s.limits.Batch)
	switch {
	case m.Batch && m.Kind() == KindResponse:
		s.receiveResponses(m.Items, true)
	case m.Batch:
		s.receiveBatch(p, m, len(msg))
	default:
		item := &m.Items[0]
		switch item.Kind {
		case KindResponse:
			s.receiveResponses(m.Items, false)
		case KindInvalid:
			s.receiveInvalid(p, item)
		default:
			s.receiveRequest(item, len(msg))
		}
	}
}

// fault counts a message that was not as it should be. It is called under the
// lock. (What such messages cost is to be charged here.)
func (s *Session) fault(err error) {
	s.stats.Errors++
	s.note(slog.LevelWarn, "bad message", slog.Any("error", err))
}

// received counts a message. It is called under the lock.
func (s *Session) received() {
	s.stats.MessagesReceived++
	s.stats.BytesReceived = s.conn.received()
}

// receiveInvalid answers what is no valid request.
func (s *Session) receiveInvalid(p Protocol, item *Item) {
	s.mu.Lock()
	s.received()
	s.fault(item.Err)
	s.mu.Unlock()
	sc := getScratch()
	defer sc.put()
	if s.encodeError(sc, p, item.ID, wireError(item.Err)) {
		_ = s.post(context.Background(), sc, fromReader, nil) // fails only if the session ends
	}
}

// receiveRequest queues a request for a worker.
func (s *Session) receiveRequest(item *Item, size int) {
	c := newCall(s, item)
	arena := c.arena[:0]
	if n := item.bytes(); n > len(c.arena) {
		arena = make([]byte, 0, n)
	}
	item.own(arena)
	c.ID, c.Params = item.ID, item.Params
	c.Params.codec = s.codec
	c.size = size
	s.accept(c, &c.deadline)
}

// receiveBatch answers the invalid members of a batch and queues the rest.
func (s *Session) receiveBatch(p Protocol, m *Message, size int) {
	b := &inBatch{items: m.Items, spans: make([]span, len(m.Items)), calls: make([]*call, len(m.Items)), size: size}
	m.Items = nil // they are the batch's now
	need := 0
	for i := range b.items {
		need += b.items[i].bytes()
	}
	arena := make([]byte, 0, need)
	sc := getScratch()
	defer sc.put()
	invalid := 0
	for i := range b.items {
		item := &b.items[i]
		switch item.Kind {
		case KindInvalid:
			invalid++
			s.mu.Lock()
			s.fault(item.Err)
			s.mu.Unlock()
			if s.encodeError(sc, p, item.ID, wireError(item.Err)) {
				b.append(i, sc.msg)
			}
			continue
		case KindRequest:
			b.waiting++
		}
		b.unfinished++
		arena = item.own(arena)
	}
	if b.waiting == 0 && invalid > 0 {
		b.send(s, fromReader)
	}
	if b.unfinished > 0 {
		s.accept(b, &b.deadline)
	}
}

// receiveResponses settles the calls that one message answers: one response,
// or a batch of them.
func (s *Session) receiveResponses(items []Item, batch bool) {
	finish := s.finishing[:0]
	s.mu.Lock()
	s.received()
	var touched []*Batch // of which the message has a member
	need := 0
	for i := range items {
		need += len(items[i].Result)
	}
	arena := make([]byte, 0, need)
	for i := range items {
		item := &items[i]
		f, what := s.table.receive(item)
		switch what {
		case matched:
			if err, bad := item.Err.(*ProtocolError); bad {
				s.fault(err)
			}
			arena = append(arena, item.Result...)
			finish = append(finish, f.settle(arena[len(arena)-len(item.Result):len(arena):len(arena)], item.Err))
			if f.batch != nil && batch && !f.batch.answered {
				f.batch.answered = true
				touched = append(touched, f.batch)
			}
		case late:
			s.stats.LateReplies++
		case unexpected:
			s.stats.UnexpectedReplies++
			s.fault(unexpectedReply(item))
		}
	}
	for _, b := range touched {
		for _, f := range b.own.members {
			if s.table.giveUp(f) {
				finish = append(finish, f.settle(nil, ErrNoResponse))
			}
		}
	}
	s.checkDrained()
	s.mu.Unlock()
	for i, f := range finish {
		f.finish()
		finish[i] = nil
	}
	s.finishing = finish
}

// bytes is how many bytes of the message the item needs.
func (item *Item) bytes() int {
	p := &item.Params
	return len(item.ID) + len(p.Positional) + len(p.Named) + len(p.Raw)
}

// own moves what the item shares with its message to arena, which has room for
// it, and returns the arena with that.
func (item *Item) own(arena []byte) []byte {
	for _, part := range []*[]byte{(*[]byte)(&item.ID), (*[]byte)(&item.Params.Positional), (*[]byte)(&item.Params.Named), &item.Params.Raw} {
		if *part != nil {
			n := len(arena)
			arena = append(arena, *part...)
			*part = arena[n:len(arena):len(arena)]
		}
	}
	return arena
}
