package rpcx

import (
	"bytes"

	"example.com/rpcx/internal/buffers"
)

// Who owns the bytes of a result outside of an array. A reply is decoded in place: id and
// result of a receivedReply are parts of the connection's input. The input stays unchanged
// until the reader reads more, and handOverDecoded runs before. But a Framer of another
// package may use the memory of a message for the next: then newReply copies id and result.
//
//	result          owner                            memory
//	small           reader, until handOverDecoded    input of the connection
//	                Session.Call, until putCall      pendingMessage.resultBuffer, which stays
//	                                                 with the pooled call
//	                Future                           garbage collected
//	large           reader, until handOverDecoded    receivedReply.buffer, pooled
//	                Session.Call, until putCall      pendingMessage.resultBuffer, the same buffer
//	                Future                           garbage collected: ownResult copies
//
// Session.Call decodes the result before putCall, and a Codec retains no data. So the user
// gets no memory that is used again. A Future can be decoded at any time, any number of
// times: its result is never in pooled memory.

// smallResult is the maximum size of a result that is copied under the session's lock, and
// of the memory that stays with a pooled call.
const smallResult = 2 << 10

// receivedReply is a response outside of an array.
type receivedReply struct {
	id     ID
	result []byte
	err    error
	buffer []byte // holds a large result; from getReadBuffer, owned by the reply; otherwise nil
}

// newReply returns the reply in item. A large result gets the buffer that the connection
// has read the message into, or else a copy in another buffer.
func (r *reader) newReply(item *Item, size int) receivedReply {
	reply := receivedReply{id: item.ID, result: item.Result, err: item.Err}
	n, keepsMessages := len(item.Result), r.s.conn.keepsMessages()
	if !keepsMessages {
		reply.id = bytes.Clone(item.ID)
	}
	switch {
	case n > smallResult:
		if reply.buffer = r.s.conn.detachInput(size); reply.buffer == nil {
			reply.buffer = getReadBuffer(readBufferSize(n))
			reply.result = reply.buffer[:copy(reply.buffer, item.Result)]
		}
	case !keepsMessages:
		reply.result = bytes.Clone(item.Result)
	}
	return reply
}

// recycleReplies clears the decoded replies. Buffers that no call has taken are reused.
func (in *decodedInput) recycleReplies() {
	for i := range in.replies {
		if buf := in.replies[i].buffer; buf != nil {
			recycleReadBuffer(buf)
		}
	}
	clear(in.replies)
	in.replies, in.resultBytes = in.replies[:0], nil
}

// keepResult moves the result of reply to memory of c, and returns the moved result. The
// results of futures share small. Callers must hold the session's lock.
func (c *pendingCall) keepResult(reply *receivedReply, small *byteArena) []byte {
	m := c.message
	switch {
	case reply.result == nil:
		return nil
	case reply.buffer != nil && !m.isBatch:
		m.resultBuffer, reply.buffer = reply.buffer, nil
		return reply.result
	case m.future == nil && !m.isBatch:
		if len(reply.result) > cap(m.resultBuffer) {
			m.resultBuffer = make([]byte, buffers.SizeFor(len(reply.result)))
		}
		return append(m.resultBuffer[:0], reply.result...)
	}
	small.grow(len(reply.result))
	return small.appendCopy(reply.result)
}

// ownResult moves the result of a future's call out of pooled memory.
func (m *pendingMessage) ownResult() {
	if buf := m.resultBuffer; buf != nil {
		c := &m.calls[0]
		c.result, m.resultBuffer = bytes.Clone(c.result), nil
		recycleReadBuffer(buf)
	}
}

// releaseResult ends the use of the result, and keeps only small memory for the next call.
func (m *pendingMessage) releaseResult() {
	if buf := m.resultBuffer; len(buf) > smallResult {
		m.resultBuffer = nil
		recycleReadBuffer(buf)
	}
}

// receiveBatchResponse completes the calls answered by a batch of responses. If array is
// false, the responses come from a message that is no array. If an array answers only a
// part of a batch of ours, the unanswered calls fail.
func (r *reader) receiveBatchResponse(items []Item, array bool) {
	s := r.s
	need := 0
	for i := range items {
		need += len(items[i].Result)
	}
	results := make(byteArena, 0, need)
	var touched []*pendingMessage // batches
	faults := 0
	s.lock()
	now := s.now()
	complete := func(item *Item) {
		c, err, fault := r.takeCallForReplyLocked(item.ID, item.Result, item.Err)
		if fault != nil {
			faults++
			r.countItemFaultLocked(fault, faults)
			s.cost.countPeerErrorBytesLocked(wholeError, len(item.Result))
		}
		if c == nil {
			return
		}
		s.calls.completeCallLocked(c, now, results.appendCopy(item.Result), err)
		if m := c.message; array && m.isBatch && !m.hasReply {
			m.hasReply = true
			touched = append(touched, m)
		}
	}
	for i := range items {
		if items[i].ID != nil {
			complete(&items[i])
		}
	}
	for _, m := range touched {
		s.calls.failUnansweredLocked(m, now, ErrNoResponse)
	}
	for i := range items { // last: the replies with ids narrow the calls for replies without
		if items[i].ID == nil && !r.completeRefusedCallsLocked(now, items[i].Err) {
			complete(&items[i])
		}
	}
	s.unlock()
}
