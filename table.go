package rpcx

import (
	"slices"
	"strconv"
	"sync/atomic"
)

// table is what a session knows of its own calls: which wait for a reply, and
// which were given up. It does no I/O and has no clock; its user serialises all
// but newID.
type table struct {
	lastID  atomic.Uint64 // one more than the last id given out; the first one at the start
	calls   []pendingCall // in the order of their ids, in which most of them come and go
	pending int           // of calls, how many have no reply

	late     []idRange // of calls given up, the oldest at lateNext once it is full
	lateNext int
}

// idRange are ids that follow one another; none if last is before first.
type idRange struct {
	first, last uint64
	answered    []bool // those from first on, if they are not answered in order
}

// pendingCall is a call under its id, which is searched for. Without a call it is
// a gap.
type pendingCall struct {
	id   uint64
	call *Future
}

// newID returns the next id: they count from Options.FirstID. (I8)
func (t *table) newID() uint64 { return t.lastID.Add(1) - 1 }

// add registers calls, which are in the order of their ids. They belong behind the
// others, but for what has overtaken them on their way here: that is moved once,
// however many they are.
func (t *table) add(calls ...*Future) {
	if len(t.calls)+len(calls) > cap(t.calls) && t.pending <= len(t.calls)/2 {
		t.calls = slices.DeleteFunc(t.calls, func(c pendingCall) bool { return c.call == nil })
	}
	end := len(t.calls)
	t.calls = slices.Grow(t.calls, len(calls))[:end+len(calls)]
	for i := len(calls) - 1; i >= 0; i-- {
		for ; end > 0 && t.calls[end-1].id > calls[i].id; end-- {
			t.calls[end+i] = t.calls[end-1]
		}
		t.calls[end+i] = pendingCall{calls[i].id, calls[i]}
	}
	t.pending += len(calls)
}

// find returns the call that is pending under id, nil if there is none, and its place.
func (t *table) find(id uint64) (*Future, int) {
	i, end := 0, len(t.calls)
	for i < end {
		if half := int(uint(i+end) / 2); t.calls[half].id < id {
			i = half + 1
		} else {
			end = half
		}
	}
	if i == len(t.calls) || t.calls[i].id != id {
		return nil, i
	}
	return t.calls[i].call, i
}

// remove takes a call off, and reports whether it was there: whoever removes
// it completes it. (I3)
func (t *table) remove(f *Future) bool {
	found, i := t.find(f.id)
	if found != f {
		return false
	}
	t.delete(i)
	return true
}

// delete leaves a gap at i. What has grown large is given up when nothing is pending.
func (t *table) delete(i int) {
	t.calls[i].call = nil
	if t.pending--; t.pending == 0 {
		if t.calls = t.calls[:0]; cap(t.calls) > 256 {
			t.calls = nil
		}
	}
}

// giveUp removes a call whose reply may still come, and remembers its id.
func (t *table) giveUp(f *Future) bool {
	if !t.remove(f) {
		return false
	}
	t.remember(f)
	return true
}

// remember keeps the id of a call given up. Those of a batch follow one another and
// are kept as one, or else a long batch would leave no room for the others.
func (t *table) remember(f *Future) {
	if n := len(t.late); n > 0 && f.batch != nil {
		newest := &t.late[(t.lateNext+n-1)%n]
		if newest.first <= newest.last && newest.last+1 == f.id {
			newest.last++
			return
		}
	}
	t.keep(idRange{first: f.id, last: f.id})
}

// keep adds to what is late, in place of the oldest if there is no room.
func (t *table) keep(r idRange) {
	if len(t.late) < lateIDs {
		t.late = append(t.late, r)
		return
	}
	t.late[t.lateNext] = r
	t.lateNext = (t.lateNext + 1) % lateIDs
}

// isLate reports whether the reply to a call given up was still to come, and takes
// the id out: another reply is one too many.
func (t *table) isLate(id uint64) bool {
	i := slices.IndexFunc(t.late, func(r idRange) bool { return r.first <= id && id <= r.last })
	if i < 0 {
		return false
	}
	r := &t.late[i]
	if r.answered == nil {
		switch id {
		case r.first: // as it is if they are answered in order
			r.first++
			return true
		case r.last:
			r.last--
			return true
		}
	}
	at := int(id - r.first)
	if at >= len(r.answered) {
		// All of it at once: the peer may go on as it likes.
		r.answered = append(r.answered, make([]bool, int(r.last-r.first)+1-len(r.answered))...)
	}
	if r.answered[at] {
		return false
	}
	r.answered[at] = true
	return true
}

// match is what became of a response.
type match uint8

const (
	matched    match = iota // it was the reply to a call
	late                    // its call had been given up
	unexpected              // nothing waited for it
)

// receive removes the call that a response with the given id is for, and
// returns it to be settled and finished.
func (t *table) receive(id ID) (*Future, match) {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		return nil, unexpected
	}
	f, at := t.find(n)
	if f == nil {
		if t.isLate(n) {
			return nil, late
		}
		return nil, unexpected
	}
	t.delete(at)
	return f, matched
}

// only returns the call that a response of unknown id can be for, nil if there may be
// several: none was given up whose reply is still to come. The calls of one batch count
// as one if the response is an array.
func (t *table) only(array bool) (only *Future) {
	if t.awaitsLate() {
		return nil
	}
	for _, c := range t.calls {
		switch {
		case c.call == nil:
		case only == nil:
			only = c.call
		case !array || only.batch == nil || c.call.batch != only.batch:
			return nil
		}
	}
	return only
}

// awaitsLate reports whether the reply to a call given up may still come.
func (t *table) awaitsLate() bool {
	return slices.ContainsFunc(t.late, func(r idRange) bool {
		answered := 0
		for _, is := range r.answered {
			if is {
				answered++
			}
		}
		return r.first <= r.last && uint64(answered) <= r.last-r.first
	})
}

// awaits reports whether a response with the given id would be the reply to a call that
// is pending, or was given up.
func (t *table) awaits(id ID) bool {
	n, err := strconv.ParseUint(string(id), 10, 64)
	if err != nil {
		var ok bool
		if n, ok = stringNumber(id); !ok {
			return false
		}
	}
	f, _ := t.find(n)
	return f != nil || slices.ContainsFunc(t.late, func(r idRange) bool { return r.first <= n && n <= r.last })
}

// unexpectedReply is the error for a response that nothing waited for; err is
// what it carried.
func unexpectedReply(id ID, err error) *ProtocolError {
	if e, ok := err.(*Error); ok && id == nil {
		return protocolErrorf(CodeInvalidRequest, "diagnostic error received: %d %s", e.Code, excerpt(e.Message))
	}
	text := "null"
	if id != nil {
		text = excerpt(id)
	}
	return protocolError(CodeInvalidRequest, "response to unsent request (ID: "+text+")")
}

// all returns the pending calls in the order of their ids.
func (t *table) all() []*Future {
	calls := make([]*Future, 0, t.pending)
	for _, c := range t.calls {
		if c.call != nil {
			calls = append(calls, c.call)
		}
	}
	return calls
}
