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
	lastID  atomic.Uint64 // one more than the last id given out
	pending map[uint64]*Future
	most    int // that pending has had

	late     []uint64 // ids of calls given up, the oldest at lateNext once it is full
	lateNext int
}

// newID returns the next id: they count from 0. (I8)
func (t *table) newID() uint64 { return t.lastID.Add(1) - 1 }

// add registers a call under its id.
func (t *table) add(f *Future) {
	if t.pending == nil {
		t.pending = make(map[uint64]*Future)
	}
	t.pending[f.id] = f
	t.most = max(t.most, len(t.pending))
}

// remove takes a call off, and reports whether it was there: whoever removes
// it completes it. (I3)
func (t *table) remove(f *Future) bool {
	if t.pending[f.id] != f {
		return false
	}
	t.delete(f.id)
	return true
}

// delete takes an id out. A map never shrinks, so one that was large and is
// empty is given up.
func (t *table) delete(id uint64) {
	delete(t.pending, id)
	if len(t.pending) == 0 && t.most > 256 {
		t.pending, t.most = nil, 0
	}
}

// giveUp removes a call whose reply may still come, and remembers its id.
func (t *table) giveUp(f *Future) bool {
	if !t.remove(f) {
		return false
	}
	if len(t.late) < lateIDs {
		t.late = append(t.late, f.id)
	} else {
		t.late[t.lateNext] = f.id
		t.lateNext = (t.lateNext + 1) % lateIDs
	}
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
	f := t.pending[n]
	if f == nil {
		if i := slices.Index(t.late, n); i >= 0 {
			t.late[i] = ^uint64(0) // never given out: another reply is one too many
			return nil, late
		}
		return nil, unexpected
	}
	t.delete(n)
	return f, matched
}

// unexpectedReply is the error for a response that nothing waited for; err is
// what it carried.
func unexpectedReply(id ID, err error) *ProtocolError {
	if e, ok := err.(*Error); ok && id == nil {
		return &ProtocolError{CodeInvalidRequest, "diagnostic error received: " + excerpt([]byte(e.Error()))}
	}
	text := "null"
	if id != nil {
		text = excerpt(id)
	}
	return &ProtocolError{CodeInvalidRequest, "response to unsent request (ID: " + text + ")"}
}

// calls returns the pending calls in the order of their ids.
func (t *table) calls() []*Future {
	calls := make([]*Future, 0, len(t.pending))
	for _, f := range t.pending {
		calls = append(calls, f)
	}
	slices.SortFunc(calls, func(a, b *Future) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return calls
}
