package rpcx

import (
	"container/list"
	"log/slog"
	"slices"
	"time"

	"example.com/rpcx/internal/bounded"
)

// sessionHubs tracks the subscriptions of a session at hubs. It is guarded by the session's
// lock. A nil sessionHubs has no subscriptions.
type sessionHubs struct {
	s        *Session
	perHub   []hubSubscribers
	lagging  list.List // of *Subscriber with values that wait for room, in the order of their turns
	bytes    int       // bytes in the rings, which share values with other sessions
	waiting  int       // values in the rings
	draining bool      // a goroutine runs drain, or will
}

// hubSubscribers is the subscriptions of a session at one Hub.
type hubSubscribers struct {
	hub   *Hub
	byKey map[subscriptionKey]*Subscriber
}

// hubsLocked returns s.hubs, and makes it on first use. Callers must hold s.mu.
func (s *Session) hubsLocked() *sessionHubs {
	s.mu.AssertHeld()
	if s.hubs == nil {
		s.hubs = &sessionHubs{s: s}
	}
	return s.hubs
}

// of returns the subscriptions at h; nil if there are none.
func (n *sessionHubs) of(h *Hub) map[subscriptionKey]*Subscriber {
	if n == nil {
		return nil
	}
	for _, own := range n.perHub {
		if own.hub == h {
			return own.byKey
		}
	}
	return nil
}

// find returns the subscription with the given key, or nil.
func (n *sessionHubs) find(h *Hub, key subscriptionKey) *Subscriber { return n.of(h)[key] }

// findAll returns the subscriptions that an unsubscribing request with the given id means.
// Without Correlation.Methods, the method is not known.
func (n *sessionHubs) findAll(h *Hub, c *Correlation, id string) (found []*Subscriber) {
	own := n.of(h)
	if len(c.Methods) > 0 {
		if sub := own[subscriptionKey{c.Methods[0], id}]; sub != nil {
			found = append(found, sub)
		}
		return found
	}
	for key, sub := range own {
		if of := sub.form.correlation; key.id == id && len(of.Methods) == 0 && of.Unsubscribe == c.Unsubscribe {
			found = append(found, sub)
		}
	}
	return found
}

// checkCountLocked returns an error if the session has as many subscriptions at h as it may
// have. Callers must hold the session's lock.
func (n *sessionHubs) checkCountLocked(h *Hub) error {
	n.s.mu.AssertHeld()
	if limit := bounded.LimitOr(h.MaxPerSession, 1000); len(n.of(h)) >= limit {
		e := serverBusy("too many subscriptions, end one first: "+overLimitText(limit, "subscriptions", "Hub.MaxPerSession"), true, "subscriptions")
		e.Hint = "unless the peer has lost count, raise Hub.MaxPerSession"
		return e
	}
	return nil
}

// addLocked adds sub. Callers must hold the session's lock.
func (n *sessionHubs) addLocked(sub *Subscriber) {
	n.s.mu.AssertHeld()
	own := n.of(sub.hub)
	if own == nil {
		own = make(map[subscriptionKey]*Subscriber)
		n.perHub = append(n.perHub, hubSubscribers{sub.hub, own})
	}
	own[sub.key] = sub
	sub.ring.hubs = n
}

// removeLocked removes sub and its waiting values. Callers must hold the session's lock.
func (n *sessionHubs) removeLocked(sub *Subscriber) {
	n.s.mu.AssertHeld()
	own := n.of(sub.hub)
	if delete(own, sub.key); len(own) == 0 {
		n.perHub = slices.DeleteFunc(n.perHub, func(o hubSubscribers) bool { return o.hub == sub.hub })
	}
	sub.ring.clear()
	n.stopLaggingLocked(sub)
}

// stopLaggingLocked removes sub from the lagging subscribers. Callers must hold the
// session's lock.
func (n *sessionHubs) stopLaggingLocked(sub *Subscriber) {
	n.s.mu.AssertHeld()
	if sub.lagging != nil {
		n.lagging.Remove(sub.lagging)
		sub.lagging = nil
		sub.hub.lagging.Add(-1)
	}
}

// firstLaggingLocked returns the lagging subscriber whose turn it is. Callers must hold the
// session's lock, and there must be one.
func (n *sessionHubs) firstLaggingLocked() *Subscriber {
	n.s.mu.AssertHeld()
	return n.lagging.Front().Value.(*Subscriber)
}

// endAllLocked ends all subscriptions of the session. Callers must hold the session's lock.
func (n *sessionHubs) endAllLocked(err error) {
	if n == nil {
		return
	}
	n.s.mu.AssertHeld()
	for len(n.perHub) > 0 {
		for _, sub := range n.perHub[0].byKey {
			sub.endLocked(err)
		}
	}
	for n.lagging.Len() > 0 { // notifications that subscriptions have ended
		sub := n.firstLaggingLocked()
		sub.ring.clear()
		n.stopLaggingLocked(sub)
	}
}

// hasRoomLocked reports whether the outbox has room for a notification of size bytes. An
// empty outbox has room for any notification, except that a full server takes no large
// one. Callers must hold the session's lock.
func (n *sessionHubs) hasRoomLocked(size int) bool {
	s, w := n.s, &n.s.writer
	s.mu.AssertHeld()
	if s.exchange() != nil {
		return true // drain waits for the function of the user
	}
	if queued := w.size(); queued > 0 && queued+size > hubRoom || size >= weightStep && s.load.reachesLimit(size) {
		return false // the half of the limit up to the ceiling is for values that rings share
	}
	return w.hasRoomNowLocked(size, fromTryNotify)
}

// pushLocked queues the frame in sc, a notification to sub. The writer writes the frame.
// Callers must hold the session's lock.
func (n *sessionHubs) pushLocked(sub *Subscriber, sc *encodeBuffer) {
	s := n.s
	s.mu.AssertHeld()
	s.cost.addTrafficLocked(len(sc.msg))
	s.activity.markActiveLocked()
	s.writer.push(sc.frame)
	s.stats.MessagesSent++
	sub.hub.sent.Add(1)
}

// ringBytesLocked returns the memory of the rings without the values. Callers must hold the
// session's lock.
func (n *sessionHubs) ringBytesLocked() int {
	if n == nil {
		return 0
	}
	n.s.mu.AssertHeld()
	return n.waiting * hubOverhead
}

// checkLaggingLocked schedules drain if a waiting value has room. Callers must hold the
// session's lock.
func (n *sessionHubs) checkLaggingLocked() {
	s := n.s
	s.mu.AssertHeld()
	if n.lagging.Len() == 0 || n.draining {
		return
	}
	if n.nextLocked() != nil {
		n.draining = true
		switch { // a publisher must not wait for a function of the user, which may publish
		case s.exchange() != nil:
			n.startTaskLocked(n.drainExchange)
		case s.trace.RequestSent != nil:
			n.startTaskLocked(n.drain)
		default:
			s.effects.setFlag(&s.effects.hubsDue)
		}
	} else if s.writer.size() == 0 && len(s.writer.roomLine.waiters) == 0 { // the server is full, and no write will end
		s.timer.setTimerLocked(after(s.now(), hubRetry))
	}
}

// isLaggingLocked reports whether values wait for room. Callers must hold the session's
// lock.
func (n *sessionHubs) isLaggingLocked() bool {
	if n == nil {
		return false
	}
	n.s.mu.AssertHeld()
	return n.lagging.Len() > 0
}

// hubRetry is the interval of checks whether a full server has room for a large value.
const hubRetry = 100 * time.Millisecond

// startTaskLocked runs drain as a task, for which the end of the session waits. Callers
// must hold the session's lock.
func (n *sessionHubs) startTaskLocked(drain func()) {
	s := n.s
	s.mu.AssertHeld()
	s.life.callbackTasks++
	s.pool.RunTask(func() {
		drain()
		s.lock()
		s.life.callbackTasks--
		s.unlock()
	})
}

// nextLocked returns the lagging subscriber whose turn it is, if its next value has room.
// Callers must hold the session's lock.
func (n *sessionHubs) nextLocked() *Subscriber {
	n.s.mu.AssertHeld()
	if n.lagging.Len() == 0 || n.s.life.state != stateOpen {
		return nil
	}
	sub := n.firstLaggingLocked()
	if !n.hasRoomLocked(sub.form.size(sub.ring.front())) {
		return nil
	}
	return sub
}

// drain moves waiting values to the outbox, as far as there is room. The subscribers take
// turns.
func (n *sessionHubs) drain() {
	s := n.s
	sc := getEncodeBuffer()
	defer sc.recycle()
	s.lock()
	for sub := n.nextLocked(); sub != nil; sub = n.nextLocked() {
		v := sub.ring.front()
		s.unlock()
		err := sub.form.frame(s, sc, v)
		s.lock()
		sent := n.sendLocked(sub, v, sc, err)
		if sent && s.trace.RequestSent != nil {
			s.unlock()
			s.writer.traceRequestSent(sub.form.method, nil)
			s.lock()
		}
	}
	n.draining = false
	s.unlock()
}

// drainExchange passes waiting values to the notify function of an exchange.
func (n *sessionHubs) drainExchange() {
	s, x := n.s, n.s.exchange()
	sc := getEncodeBuffer()
	defer sc.recycle()
	s.lock()
	for sub := n.nextLocked(); sub != nil; sub = n.nextLocked() {
		v := sub.ring.front()
		n.popLocked(sub)
		if open := sub.isOpenLocked(); !open {
			continue
		}
		s.unlock()
		err := sub.form.frame(s, sc, v)
		if err == nil {
			err = x.sendOwn(x.ctx, sc, fromCaller, nil)
		}
		if err == nil {
			sub.hub.sent.Add(1)
			s.writer.traceRequestSent(sub.form.method, nil)
		} else {
			sub.hub.dropped.Add(1)
		}
		s.lock()
	}
	n.draining = false
	s.unlock()
}

// popLocked removes the first value of sub, whose turn it was. Callers must hold the
// session's lock.
func (n *sessionHubs) popLocked(sub *Subscriber) {
	n.s.mu.AssertHeld()
	sub.ring.popFront()
	n.lagging.MoveToBack(sub.lagging)
	if sub.ring.count == 0 {
		sub.queueing.Store(false)
		n.stopLaggingLocked(sub)
	}
}

// sendLocked sends v, framed in sc, if v is still the next value of sub and has room. If
// err is not nil, v cannot be sent, and is dropped. sendLocked reports whether v was sent.
// Callers must hold the session's lock.
func (n *sessionHubs) sendLocked(sub *Subscriber, v *hubValue, sc *encodeBuffer, err error) (sent bool) {
	s := n.s
	s.mu.AssertHeld()
	switch {
	case sub.ring.front() != v || sub.holds > 0: // dropped, replaced, held back, or the subscription has ended
		return false
	case err != nil:
		sub.hub.dropped.Add(1)
		s.logs.logPeerLaterLocked(slog.LevelWarn, "value for a subscriber cannot be sent", methodAttr(sub.form.method), errorAttr(err))
	case sub.until != nil && sub.until.answered:
		sub.endLocked(ErrUnsubscribed)
		return false
	case !n.hasRoomLocked(sub.form.size(v)):
		return false
	default:
		n.pushLocked(sub, sc)
		sent = true
	}
	n.popLocked(sub)
	return sent
}
