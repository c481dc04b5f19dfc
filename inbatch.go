package rpcx

import (
	"context"
	"time"
)

// inBatch is a batch of requests that the peer sent: one entry of the inbox,
// whose members workers take in turn. Its replies go out in one message, in the
// order of the requests, when the last is there. It is guarded by the session's
// lock; what it shares with its message was copied.
type inBatch struct {
	items      []Item
	taken      int // items that were begun or refused
	calls      []*call
	replies    []byte // in the order in which they came
	spans      []span // where in replies those of the items are
	waiting    int    // replies that are not there yet
	unfinished int    // requests and notifications that are not over
	replySize  int    // of the replies of handlers, 2 more for each
	size       int    // what it counts in Limits.QueueBytes
	arrived    time.Duration
	deadline   deadline
	disconnect bool // a member's handler wants it when the replies are sent
}

func (b *inBatch) arrive(now time.Duration) { b.arrived = now }
func (b *inBatch) bytes() int               { return b.size }
func (b *inBatch) due() *deadline           { return &b.deadline }

func (b *inBatch) next(s *Session) (c *call, last bool) {
	for b.taken < len(b.items) {
		i := b.taken
		b.taken++
		if item := &b.items[i]; item.Kind == KindNotification || item.Kind == KindRequest && s.state < stateClosing {
			c = newCall(s, item)
			c.batch, c.index, c.arrived = b, i, b.arrived
			c.begin(s)
			b.calls[i] = c
			return c, b.taken == len(b.items)
		}
	}
	return nil, true
}

func (b *inBatch) running(calls []*call) []*call {
	for _, c := range b.calls {
		if c != nil {
			calls = c.running(calls)
		}
	}
	return calls
}

// memberSize is about what a member takes up while it waits, beside its bytes.
const memberSize = 256

// span is a part of a buffer; an empty one is none.
type span struct{ start, end int }

// append stores the reply to item i.
func (b *inBatch) append(i int, reply []byte) {
	b.spans[i].start = len(b.replies)
	b.replies = append(b.replies, reply...)
	b.spans[i].end = len(b.replies)
}

// put stores a reply that was waited for, and reports whether it was the last.
func (b *inBatch) put(s *Session, i int, reply []byte) bool {
	b.append(i, reply)
	b.waiting--
	b.finish(s, 1)
	return b.waiting == 0
}

// finish counts members that are over.
func (b *inBatch) finish(s *Session, n int) {
	if b.unfinished -= n; b.unfinished == 0 {
		s.incoming.remove(&b.deadline)
	}
}

func (b *inBatch) refuse(s *Session, e *Error) {
	s.mu.Lock()
	members := b.remaining(s)
	s.mu.Unlock()
	b.fail(s, members, e)
}

// remaining takes what was not begun: it drops the notifications and returns
// the places of the requests.
func (b *inBatch) remaining(s *Session) (members []int) {
	for ; b.taken < len(b.items); b.taken++ {
		switch b.items[b.taken].Kind {
		case KindRequest:
			members = append(members, b.taken)
		case KindNotification:
			s.stats.NotificationsDropped++
			b.finish(s, 1)
		}
	}
	return members
}

// fail answers members with e.
func (b *inBatch) fail(s *Session, members []int, e *Error) {
	sc := getScratch()
	defer sc.put()
	p := s.protocol()
	complete := false
	for _, i := range members {
		s.encodeError(sc, p, b.items[i].ID, e)
		s.mu.Lock()
		complete = b.put(s, i, sc.msg)
		s.mu.Unlock()
	}
	if complete {
		b.send(s, fromReader)
	}
}

// expire implements [expirer]: Limits.ProcessingTimeout has passed.
func (b *inBatch) expire(s *Session) func() {
	e := ServerBusy("request timed out")
	s.fault(e)
	members := b.remaining(s)
	calls := b.running(nil)
	for _, c := range calls {
		c.answered = true
		if c.IsNotification() {
			b.finish(s, 1)
		} else {
			members = append(members, c.index)
		}
	}
	return func() {
		b.fail(s, members, e)
		for _, c := range calls {
			c.ctx.end(errProcessing)
		}
	}
}

// send sends the replies. Nobody else has the batch any more.
func (b *inBatch) send(s *Session, from sender) {
	sc := getScratch()
	defer sc.put()
	parts := make([][]byte, 0, len(b.spans))
	for _, sp := range b.spans {
		if sp.end > sp.start {
			parts = append(parts, b.replies[sp.start:sp.end])
		}
	}
	var err error
	if sc.msg, err = s.protocol().AppendBatch(sc.msg[:0], parts); err == nil {
		_ = s.post(context.Background(), sc, from, nil) // fails only if the session ends
	}
	if b.disconnect {
		s.end(ErrClosed, s.limits.CloseTimeout)
	}
}
