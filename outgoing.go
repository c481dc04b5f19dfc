package rpcx

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// line is where goroutines wait for something to come true that a lock guards,
// in the order in which they came.
type line struct {
	turns []chan struct{} // each has one slot
}

// wait returns when it is the caller's turn and ready says so, or with the error
// of ready or of ctx. It is called with mu held, and returns so.
func (l *line) wait(ctx context.Context, mu sync.Locker, ready func() (bool, error)) error {
	var turn chan struct{}
	for {
		ok, err := ready()
		if err == nil && ok && (len(l.turns) == 0 || l.turns[0] == turn) {
			// It may be true for the next as well: it looks when the caller is
			// done, who has the lock until then.
			l.leave(turn)
			return nil
		}
		if err == nil {
			if turn == nil {
				turn = make(chan struct{}, 1)
				l.turns = append(l.turns, turn)
			}
			mu.Unlock()
			select {
			case <-turn:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			mu.Lock()
		}
		if err != nil {
			l.leave(turn)
			return err
		}
	}
}

// leave takes one out, and lets the first look.
func (l *line) leave(turn chan struct{}) {
	if i := slices.Index(l.turns, turn); i >= 0 {
		l.turns = slices.Delete(l.turns, i, i+1)
		l.next()
	}
}

// next lets the first look whether it is its turn.
func (l *line) next() {
	if len(l.turns) > 0 {
		signal(l.turns[0])
	}
}

// release lets all look, to see that there is an error.
func (l *line) release() {
	for _, turn := range l.turns {
		signal(turn)
	}
}

func signal(turn chan struct{}) {
	select {
	case turn <- struct{}{}:
	default:
	}
}

// calibration is after how many replies the number of slots is looked at.
const calibration = 30

// slots bound how many of our calls wait for a reply at once. A number that was
// raised takes effect when the next reply comes, one that was lowered when as
// many have come as are too many. They are guarded by the session's lock.
type slots struct {
	limit int // now; beyond reach if it is off
	floor int // below which it is not lowered
	taken int
	line  line

	// Since the last calibration.
	took    time.Duration // of all replies together
	count   int           // of replies
	reached bool          // the limit was

	calm time.Duration // what replies took on average when the limit was last not reached
}

func (o *slots) off() bool { return o.limit == math.MaxInt }

// free gives one back whose message was not sent.
func (o *slots) free() {
	o.taken--
	o.line.next()
}

// done gives one back after a call, or a batch of n messages.
func (o *slots) done(took time.Duration, n int, l *Limits) {
	if o.took, o.count = o.took+took, o.count+n; o.count >= calibration {
		o.calibrate(o.took/time.Duration(o.count), l)
		o.took, o.count, o.reached = 0, 0, false
	}
	o.free()
}

// calibrate adapts the limit to what replies took on average. It is lowered only
// because of calls that the load makes slow: if it was reached, and if replies take
// more than twice as long as when it was not. Calls that are slow by themselves, such
// as long polls, say nothing about the peer.
func (o *slots) calibrate(average time.Duration, l *Limits) {
	next := recalibrate(o.limit, average, l.ResponseTime, l.OutgoingMax)
	if !o.reached {
		o.calm = average
	}
	if next < o.limit && (!o.reached || o.calm > 0 && average/2 <= o.calm) {
		return
	}
	o.limit = max(next, min(o.limit, o.floor))
}

// take takes a slot.
func (o *slots) take() {
	o.taken++
	o.reached = o.reached || o.taken >= o.limit
}

// isFree reports whether a slot is free.
func (o *slots) isFree() bool { return o.taken < o.limit }

// hasFree reports whether a slot is free that nobody waits for.
func (o *slots) hasFree() bool { return o.isFree() && len(o.line.turns) == 0 }

// maySend returns why a message cannot be sent any more, nil if it can: by the
// handler h if that is not nil, and for the given call if that is not nil. Callers
// must hold s.mu.
func (s *Session) maySend(h *handlerContext, from sender, call *Future) error {
	switch {
	case s.state == stateDraining && from == fromCaller && (h == nil || h.session != s):
		return ErrClosed // only what a running handler calls goes out now
	case s.state >= stateClosing:
		return s.closedError()
	case call != nil && s.input.closed:
		return &endedError{errInputClosed}
	}
	return nil
}

// free gives back the slot of a call, or a batch, that was over at the given time.
func (s *Session) free(f *Future, at time.Duration) {
	switch {
	case s.slots.off():
	case f.batch != nil:
		s.slots.done(at-f.started, len(f.batch.entries), s.limits)
	default:
		s.slots.done(at-f.started, 1, s.limits)
	}
}
