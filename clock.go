package rpcx

import (
	"log/slog"
	"time"
)

// Time. A session reads one clock, the time since its start, and has one timer,
// for all of its deadlines. The timer is set for the earliest deadline it was
// told of, and is left alone when that one is met in time: while messages flow
// it fires about once in the shortest timeout.

// deadline is an entry in a list of them. Equal timeouts expire in the order in
// which they began, so a list needs no sorting.
type deadline struct {
	at         time.Duration
	owner      expirer // nil when it is in no list
	prev, next *deadline
}

// expirer is what a deadline is for.
type expirer interface {
	// expire is called when the deadline has passed. The caller holds s.mu, and removes
	// the deadline from its list afterwards.
	expire(s *Session)
}

type deadlines struct{ first, last *deadline }

// add appends d, and makes sure that the timer will fire for it.
func (l *deadlines) add(s *Session, d *deadline, at time.Duration, owner expirer) {
	d.at, d.owner, d.prev, d.next = at, owner, l.last, nil
	if l.last != nil {
		l.last.next = d
	} else {
		l.first = d
	}
	l.last = d
	s.arm(at)
}

// remove takes d out if it is in.
func (l *deadlines) remove(d *deadline) {
	if d.owner == nil {
		return
	}
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		l.first = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		l.last = d.prev
	}
	*d = deadline{}
}

// now is the time on the session's clock.
func (s *Session) now() time.Duration { return time.Since(s.epoch) }

// arm makes sure that the timer fires at the given time or before.
func (s *Session) arm(at time.Duration) {
	if at >= s.armed {
		return
	}
	s.armed = at
	if s.timer == nil {
		s.timer = time.AfterFunc(at-s.now(), s.tick)
	} else {
		s.timer.Reset(at - s.now())
	}
}

// tick does what is due, and arms the timer for what is next.
func (s *Session) tick() {
	s.lock()
	s.armed = never
	if s.state == stateDone {
		s.unlock()
		return
	}
	now := s.now()
	for _, list := range []*deadlines{&s.outgoing, &s.incoming} {
		for list.first != nil && list.first.at <= now {
			d := list.first
			d.owner.expire(s)
			list.remove(d)
		}
		if list.first != nil {
			s.arm(list.first.at)
		}
	}
	s.checkSentLocked(now)
	switch {
	case s.out.writing && s.out.writeBy <= now:
		s.note(slog.LevelWarn, "peer does not read", timeLimit("Limits.SendTimeout", s.limits.SendTimeout))
		s.fx.end(slowPeer("none of a write in %v (Limits.SendTimeout)", s.limits.SendTimeout), 0)
	case s.out.writing:
		s.arm(s.out.writeBy)
	}
	switch {
	case s.input.awaited && s.input.awaitBy <= now:
		s.out.wakeWriter()
	case s.input.awaited:
		s.arm(s.input.awaitBy)
	}
	s.checkPauseLocked() // what has expired left room
	s.checkPauseTimeLocked(now)
	s.checkInputTimeLocked(now)
	s.checkLateLocked(now)
	s.checkStandingLocked(now)
	s.checkPartLocked(now)
	s.checkNetworkLocked(now)
	s.keepVigil(now)
	if s.state == stateClosing {
		if s.closeBy <= now {
			s.fx.set(&s.fx.closeConn)
			s.out.wakeWriter() // which may linger
		} else {
			s.arm(s.closeBy)
		}
	}
	s.unlock()
}
