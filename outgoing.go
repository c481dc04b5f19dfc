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
func (l *line) wait(ctx context.Context, mu *sync.Mutex, ready func() (bool, error)) error {
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
	taken int
	line  line
	took  time.Duration // the replies since the last calibration, together
	count int           // of these
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
		o.limit = recalibrate(o.limit, o.took/time.Duration(o.count), l.ResponseTime, l.OutgoingMax)
		o.took, o.count = 0, 0
	}
	o.free()
}

// waitForSlot takes a slot. It is called with the lock held, and returns so.
func (s *Session) waitForSlot(ctx context.Context, from *sender) error {
	// A running handler does not wait: all slots may be taken by calls whose
	// replies wait for it.
	if (s.slots.taken >= s.slots.limit || len(s.slots.line.turns) > 0) && !s.handles(ctx) {
		err := s.slots.line.wait(ctx, &s.mu, func() (bool, error) {
			err := s.mayCall(ctx, from)
			return s.slots.taken < s.slots.limit, err
		})
		if err != nil {
			return err
		}
	}
	s.slots.taken++
	return nil
}

// mayCall reports why a message of ours cannot be sent any more. It is called
// with the lock held, which it may give up for a moment.
func (s *Session) mayCall(ctx context.Context, from *sender) error {
	if s.state == stateDraining && *from == fromCaller {
		// Only what a running handler calls goes out now.
		if !s.handles(ctx) {
			return ErrClosed
		}
		*from = fromHandler
	}
	if s.state >= stateClosing {
		return s.closedError()
	}
	return nil
}

// handles reports whether ctx is that of a handler of s. It gives up the lock,
// with which it is called, for a moment.
func (s *Session) handles(ctx context.Context) bool {
	s.mu.Unlock()
	defer s.mu.Lock()
	return ctx.Value(sessionKey{}) == s
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
