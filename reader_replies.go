package rpcx

import (
	"slices"
	"strconv"
	"time"
)

// completeRefusedLocked completes the calls that an error under id null can only be
// for. It reports false if it may be for anything else. A
// peer that cannot read a message, or refuses a batch as a whole, knows no id to
// answer under. So the error counts if its code says that, and if all pending calls
// are of the one message that was sent since the last reply was matched.
func (s *Session) completeRefusedLocked(now time.Duration, err error) bool {
	s.owner.Check()
	e, ok := err.(*Error)
	if !ok || e.Code != CodeParseError && e.Code != CodeInvalidRequest || s.out.queued-s.replied != 1 {
		return false
	}
	calls := s.table.all()
	if len(calls) == 0 || slices.ContainsFunc(calls, func(f *Future) bool { return f.queued != s.out.queued }) {
		return false
	}
	for _, f := range calls {
		s.table.remove(f)
		s.complete(f, now, nil, err)
	}
	s.replied = s.out.queued
	return true
}

// matchString does what table.receive does for a response of JSON-RPC whose id is a
// string with the number of a call in it. Where the protocol does not take the one for
// the other the call fails: nothing else can be meant, and nothing better will come.
func (s *Session) matchString(id ID, err error) (*Future, match, error) {
	p, ok := s.Protocol().(interface{ loose() bool })
	if !ok {
		return nil, unexpected, err
	}
	number, ok := stringNumber(id)
	if !ok {
		return nil, unexpected, err
	}
	f, what := s.table.receive(strconv.AppendUint(nil, number, 10))
	if what == matched && !p.loose() {
		err = protocolErrorf(CodeInvalidRequest, "the id of the response is the string %s, not the number %d", excerpt(id), number)
	}
	return f, what, err
}

// stringNumber returns the number that is in the id of a response, if that is a string.
func stringNumber(id ID) (uint64, bool) {
	if len(id) == 0 || id[0] != '"' {
		return 0, false
	}
	number := numberIn(id)
	if number == nil {
		return 0, false
	}
	return integralValue(number)
}

// A replyFinder is a protocol that finds what may be replies in messages that are
// invalid, or have invalid members.
type replyFinder interface {
	findReplies(m *Message, msg []byte, maxBatch int) []foundReply
}

// foundReply is what an invalid item is if a call of ours has its id.
type foundReply struct {
	place int // of the invalid item
	Item
}

// takeReplies completes the calls for which invalid items of a message are replies
// all the same, and returns the other items. Otherwise these calls would wait in vain.
// An item without a method is taken for a reply if a call of ours has its id, but not
// beside a request: such a batch is one of requests.
func (s *Session) takeReplies(in *intake, p Protocol, m *Message, msg []byte) []Item {
	finder, ok := p.(replyFinder)
	if !ok || slices.ContainsFunc(m.Items, func(item Item) bool { return item.Kind != KindInvalid }) {
		return m.Items
	}
	s.lock()
	none := s.table.pending == 0 && len(s.table.late) == 0
	s.unlock()
	if none {
		return m.Items
	}
	s.deliver(in) // the replies before it
	found := finder.findReplies(m, msg, s.limits.Batch)
	s.lock()
	found = slices.DeleteFunc(found, func(r foundReply) bool { return !s.table.awaits(r.ID) })
	s.unlock()
	if len(found) == 0 {
		return m.Items
	}
	replies := make([]Item, 0, len(found))
	taken := make([]bool, len(m.Items))
	for _, r := range found {
		replies = append(replies, r.Item)
		taken[r.place] = true
	}
	s.receiveBatchResponse(replies, m.Batch || firstByte(msg) == '[')
	rest := make([]Item, 0, len(m.Items))
	for i, item := range m.All() {
		if !taken[i] {
			rest = append(rest, *item)
		}
	}
	return rest
}
