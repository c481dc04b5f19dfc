package rpcx

import (
	"slices"
	"strconv"
)

// noResponseError is the error of a single call without a reply.
type noResponseError struct{}

func (noResponseError) Error() string        { return "rpcx: no response to the call" }
func (noResponseError) Is(target error) bool { return target == ErrNoResponse }

// receive finishes the calls that the reply answers, and then the others with an error:
// no other reply will come. If no call was answered, an error of the peer without an id
// is the error of all. Otherwise a fault in the reply is the error.
func (t *roundTrip) receive(reply []byte) {
	x := t.exchange
	var refusal, fault error
	answered := 0
	if spaces(reply) < len(reply) {
		buf := decodeBuffers.Get().(*decodeBuffer)
		defer buf.recycle()
		p := x.decode(&buf.Message, reply)
		for _, item := range x.findReplies(&buf.Message, p, reply) {
			e, isError := item.Err.(*Error)
			switch {
			case item.Kind == KindResponse && item.ID == nil && isError:
				refusal = e
			case item.Kind == KindResponse:
				if f, err := t.match(p, &item); f != nil {
					t.finishNotifications(nil)
					f.complete(item.Result, err)
					answered++
				} else {
					fault = unexpectedReply(item.ID, item.Err)
				}
			case item.Err != nil:
				fault = item.Err
			default:
				fault = protocolErrorf(CodeInvalidRequest, "the reply has a request or notification, %q", excerpt(item.Method))
			}
		}
	}
	switch {
	case answered == 0 && refusal != nil:
		t.finishAll(refusal)
	case answered == 0 && fault != nil:
		t.finishAll(fault)
	case t.calls == 0:
		t.finishAll(nil)
	case t.batch:
		t.finishNotifications(nil)
		t.finishAll(ErrNoResponse)
	default:
		t.finishAll(noResponseError{})
	}
	if answered > 0 && fault != nil {
		x.log.Warn("bad message", errorAttr(fault))
	}
}

// decode decodes a reply into m. If the protocol is a Detector, the reply may decide the
// protocol.
func (x *Exchange) decode(m *Message, reply []byte) Protocol {
	p := x.protocol.Load()
	if d, ok := (*p).(Detector); ok {
		if found := d.Detect(reply, x.limits.Batch); found != nil {
			x.protocol.CompareAndSwap(p, &found)
			p = &found
		}
	}
	(*p).Decode(m, reply, x.limits.Batch)
	return *p
}

// findReplies returns the items of m. If all items are invalid, findReplies also finds
// replies in them, as in a session: objects with an id and without a method.
func (x *Exchange) findReplies(m *Message, p Protocol, reply []byte) []Item {
	finder, ok := p.(replyFinder)
	if !ok || slices.ContainsFunc(m.Items, func(item Item) bool { return item.Kind != KindInvalid }) {
		return m.Items
	}
	var items []Item
	taken := make([]bool, len(m.Items))
	for _, found := range finder.findReplies(m, reply, x.limits.Batch) {
		items = append(items, found.Item)
		taken[found.itemIndex] = true
	}
	for i, item := range m.Items {
		if !taken[i] {
			items = append(items, item)
		}
	}
	return items
}

// match returns the future of the call that item answers, and the outcome of the call. If
// there is no such call, the future is nil.
func (t *roundTrip) match(p Protocol, item *Item) (*Future, error) {
	id, err := strconv.ParseUint(string(item.ID), 10, 64)
	outcome := item.Err
	if err != nil {
		loose, ok := p.(interface{ loose() bool })
		if !ok {
			return nil, nil
		}
		if id, ok = stringNumber(item.ID); !ok {
			return nil, nil
		}
		if !loose.loose() {
			outcome = stringIDError(item.ID, id)
		}
	}
	if i := id - t.firstID; i < uint64(t.calls) {
		return t.futures[i], outcome
	}
	return nil, nil
}
