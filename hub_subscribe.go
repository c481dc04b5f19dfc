package rpcx

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"example.com/rpcx/internal/bounded"
)

// topic is a topic with subscribers.
type topic struct {
	name string
	// order is held during a publication, so that all subscribers receive the values of a
	// topic in one order. order is taken before Session.mu.
	order sync.Mutex

	// The fields below are guarded by Hub.mu.
	subscribers []*Subscriber
	published   bool        // a publication may read subscribers: a removal makes a copy
	link        *brokerLink // nil without a Broker
}

// brokerLink is a topic's subscription at the Broker.
type brokerLink struct {
	ready       chan struct{} // closed when Broker.Subscribe has returned
	err         error         // of Broker.Subscribe, set before ready is closed
	unsubscribe func()        // guarded by Hub.mu
	unused      bool          // the topic has lost its last subscriber; guarded by Hub.mu
}

// errHubOutside is the error of Hub.Subscribe and Hub.Unsubscribe outside of a handler.
var errHubOutside = errors.New("rpcx: Hub.Subscribe and Hub.Unsubscribe need the context of a handler, or a context derived from it: the handler's session is meant, and values follow the handler's reply")

// errNotificationSubscribes answers a notification, with an error that only the log shows.
var errNotificationSubscribes = InvalidRequest("a subscription begins with a reply, so the request needs an id")

// errExchangeSubscribes is the answer in an exchange. The code and the text are those of
// go-ethereum over HTTP.
var errExchangeSubscribes = &refusedError{&Error{Code: CodeMethodNotFound, Message: "notifications not supported"}, ErrNoCallback}

// errSubscribeFailed is the reason for the end of a subscription whose reply is an error.
var errSubscribeFailed = &noReplyError{errors.New("the reply is an error")}

// subscribe is Hub.Subscribe. If held is set, the values of a subscription that the reply
// ends wait for releaseCurrent.
func (h *Hub) subscribe(ctx context.Context, name string, c *Correlation, id any, held bool) (*Subscriber, error) {
	if c == nil {
		c = EthSubscription
	}
	owner := handlerOf(ctx)
	switch {
	case owner == nil:
		return nil, errHubOutside
	case owner.owner.IsNotification():
		return nil, errNotificationSubscribes
	case !owner.session.takesSubscriptions(c):
		return nil, errExchangeSubscribes
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	if err := c.checkForHub(); err != nil {
		return nil, err
	}
	s, req := owner.session, owner.owner
	if id == nil && !c.isByParams() && !c.callerMakesID() {
		id = newSubscriptionID()
	}
	if len(name) > maxSubscriptionID {
		return nil, InvalidParams("the topic is too long: over %s bytes", thousands(maxSubscriptionID))
	}
	form, shown, err := newHubForm(s, &req.Request, c, id)
	if err != nil {
		return nil, err
	}
	sub := &Subscriber{hub: h, session: s, form: form, id: shown, place: -1}
	sub.key = subscriptionKey{form.method, canonicalID(s.codec, form.id)}
	if c.endsByReply() {
		if sub.until = req; held {
			sub.holds = 1
		}
	}
	if sub, err = h.enter(sub, name); err != nil {
		return nil, err
	}
	s.requests.addReplyCallback(req, func(err error) { sub.releaseAfter(req, err) })
	if link := sub.topic.link; link != nil {
		if err := link.wait(ctx); err != nil {
			return nil, fmt.Errorf("subscribe to topic %q at the broker: %w", name, err)
		}
	}
	return sub, nil
}

// takesSubscriptions reports whether values can be sent in the form c. An exchange has only
// the time until the reply.
func (s *Session) takesSubscriptions(c *Correlation) bool {
	x := s.exchange()
	return x == nil || c.endsByReply() && x.notify != nil
}

// newSubscriptionID returns an id that no other session has. A client that reconnects may
// still send an id of its last session, which must not mean a subscription of the new one.
func newSubscriptionID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return "0x" + hex.EncodeToString(id[:])
}

// enter enters sub in its session and under its topic, or returns an equal subscriber of
// the session. The values of the result wait for one more reply.
func (h *Hub) enter(sub *Subscriber, name string) (*Subscriber, error) {
	s := sub.session
	link, begins := (*brokerLink)(nil), false
	s.lock()
	err := s.subscribableErrorLocked()
	if err == nil {
		n := s.hubsLocked()
		if old := n.find(h, sub.key); old != nil {
			sub, err = old.joinLocked(name)
		} else if err = n.checkCountLocked(h); err == nil {
			if begins, err = h.addLocked(sub, name); err == nil {
				n.addLocked(sub)
			}
		}
	}
	if err == nil {
		if link = sub.topic.link; sub.until == nil {
			sub.holds++
		}
	}
	s.unlock()
	if begins {
		h.subscribeAtBroker(sub.topic, link)
	}
	return sub, err
}

// subscribableErrorLocked returns the reason why the session takes no subscriptions, or
// nil. Callers must hold s.mu.
func (s *Session) subscribableErrorLocked() error {
	s.mu.AssertHeld()
	switch {
	case s.life.state == stateDraining:
		return &refusedError{serverBusy("shutting down", true, "shutting down"), ErrClosed}
	case s.life.state != stateOpen:
		return s.closedErrorLocked()
	}
	return nil
}

// joinLocked returns sub for another request with the same id. Callers must hold the
// session's lock.
func (sub *Subscriber) joinLocked(name string) (*Subscriber, error) {
	sub.session.mu.AssertHeld()
	if sub.topic.name != name || sub.until != nil {
		return nil, InvalidParams("a subscription with this id exists")
	}
	sub.session.hubs.stopLaggingLocked(sub)
	return sub, nil
}

// addLocked adds sub to the topic with the given name. It reports whether the caller has to
// call subscribeAtBroker. Callers must hold the lock of sub's session.
func (h *Hub) addLocked(sub *Subscriber, name string) (begins bool, err error) {
	sub.session.mu.AssertHeld()
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[name]
	if t == nil {
		if limit := bounded.LimitOr(h.MaxTopics, 1000000); len(h.topics) >= limit {
			return false, serverBusy("too many topics: "+overLimitText(limit, "topics", "Hub.MaxTopics"), true, "topics")
		}
		if h.topics == nil {
			h.topics = make(map[string]*topic)
		}
		t = &topic{name: name}
		if begins = h.Broker != nil; begins {
			t.link = &brokerLink{ready: make(chan struct{})}
		}
		h.topics[name] = t
	}
	sub.topic, sub.place = t, len(t.subscribers)
	t.subscribers = append(t.subscribers, sub)
	h.subscribers.Add(1)
	return begins, nil
}

// removeLocked removes sub from its topic, and an empty topic from the Hub. Callers must
// hold the lock of sub's session.
func (h *Hub) removeLocked(sub *Subscriber) {
	s := sub.session
	s.mu.AssertHeld()
	h.mu.Lock()
	defer h.mu.Unlock()
	t := sub.topic
	if t.published { // a publication that is under way keeps its list
		t.subscribers, t.published = slices.Clone(t.subscribers), false
	}
	last := len(t.subscribers) - 1
	moved := t.subscribers[last]
	t.subscribers[sub.place], moved.place = moved, sub.place
	t.subscribers[last] = nil
	t.subscribers = t.subscribers[:last]
	sub.place = -1
	h.subscribers.Add(-1)
	if last > 0 {
		return
	}
	delete(h.topics, t.name)
	if l := t.link; l != nil {
		l.unused = true
		if l.unsubscribe != nil {
			s.pool.RunTask(l.unsubscribe)
		}
	}
}

// subscribeAtBroker subscribes to a topic that is new. If the Broker fails, the
// subscriptions to the topic end.
func (h *Hub) subscribeAtBroker(t *topic, l *brokerLink) {
	l.err = errors.New("rpcx: Broker.Subscribe has panicked")
	defer func() {
		close(l.ready)
		if l.err != nil {
			h.mu.Lock()
			subscribers := slices.Clone(t.subscribers)
			h.mu.Unlock()
			for _, sub := range subscribers {
				sub.end(l.err)
			}
		}
	}()
	unsubscribe, err := h.Broker.Subscribe(t.name, func(_ string, value []byte) { h.receive(t, value) })
	if l.err = err; err != nil {
		return
	}
	h.mu.Lock()
	l.unsubscribe = unsubscribe
	unused := l.unused
	h.mu.Unlock()
	if unused {
		unsubscribe()
	}
}

// wait waits until Broker.Subscribe has returned, and returns its error or the cause of
// ctx's end.
func (l *brokerLink) wait(ctx context.Context) error {
	select {
	case <-l.ready:
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// releaseAfter ends the wait of the subscription for the reply to c. err is the argument of
// a function of AfterReply.
func (sub *Subscriber) releaseAfter(c *peerRequest, err error) {
	s := sub.session
	s.lock()
	defer s.unlock()
	if err == nil && c.failed {
		err = errSubscribeFailed
	}
	if sub.until != nil {
		sub.endLocked(cmpError(err, ErrUnsubscribed))
		return
	}
	sub.holds--
	switch {
	case sub.ended:
		if err == nil && errors.Is(sub.err, ErrSlowReader) { // while the reply was awaited
			sub.tellEndLocked()
		}
	case err == nil:
		sub.confirmed = true
	case sub.holds == 0 && !sub.confirmed:
		sub.endLocked(err)
	}
	sub.startLaggingLocked()
}

// cmpError returns err, or byDefault if err is nil.
func cmpError(err, byDefault error) error {
	if err == nil {
		return byDefault
	}
	return err
}

// end ends the subscription for the reason err.
func (sub *Subscriber) end(err error) {
	s := sub.session
	s.lock()
	sub.endLocked(err)
	s.unlock()
}

// endLocked ends the subscription for the reason err, unless it has ended. Callers must
// hold the session's lock.
func (sub *Subscriber) endLocked(err error) {
	s := sub.session
	s.mu.AssertHeld()
	if sub.ended {
		return
	}
	sub.ended, sub.err = true, err
	s.hubs.removeLocked(sub)
	sub.hub.removeLocked(sub)
	if sub.done != nil {
		close(sub.done)
	}
}

// unsubscribe is Hub.Unsubscribe.
func (h *Hub) unsubscribe(ctx context.Context, c *Correlation, id any) (bool, error) {
	owner := handlerOf(ctx)
	if owner == nil {
		return false, errHubOutside
	}
	if c == nil {
		c = EthSubscription
	}
	s := owner.session
	var encoded []byte
	var err error
	if id != nil {
		encoded, err = appendValue(nil, s.codec, rawType(s.codec), id)
	} else {
		encoded, err = idInRequest(c, &owner.owner.Request)
	}
	if err != nil {
		return false, err
	}
	if len(encoded) > maxSubscriptionID {
		return false, nil
	}
	text := canonicalID(s.codec, encoded)
	s.lock()
	defer s.unlock()
	found := s.hubs.findAll(h, c, text)
	for _, sub := range found {
		sub.endLocked(ErrUnsubscribed)
	}
	return len(found) > 0, nil
}

// handlers is Hub.Handlers.
func (h *Hub) handlers(c *Correlation, topic func(context.Context, *Request) (string, error), current func(context.Context, string) (any, error)) (subscribe, unsubscribe Handler) {
	if c == nil {
		c = EthSubscription
	}
	mustHave("Hub.Handlers", "function for topics", topic)
	if err := c.checkForHub(); err != nil {
		panic(err)
	}
	if c.Current && current == nil {
		panic("rpcx: Hub.Handlers without a function for the current value, which is the reply with Correlation.Current: give a third argument")
	}
	subscribe = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
		name, err := topic(ctx, req)
		if err != nil {
			return nil, err
		}
		sub, err := h.subscribe(ctx, name, c, nil, current != nil)
		if err != nil {
			return nil, err
		}
		var value any
		if current != nil {
			if value, err = current(ctx, name); err != nil {
				return nil, err
			}
		}
		switch {
		case !c.endsByReply() && (c.Current || len(c.Token) > 0):
			return value, sub.overflowError()
		case current != nil:
			if err := sub.prepend(value); err != nil {
				return nil, err
			}
		}
		if c.endsByReply() {
			sub.releaseCurrent()
			return nil, sub.wait(ctx)
		}
		return sub.id, sub.overflowError()
	})
	unsubscribe = HandlerFunc(func(ctx context.Context, _ *Request) (any, error) {
		found, err := h.unsubscribe(ctx, c, nil)
		if err == nil && !found && !c.isByParams() {
			err = errSubscriptionNotFound
		}
		if err != nil {
			return nil, err
		}
		return found, nil
	})
	return subscribe, unsubscribe
}

// errSubscriptionNotFound answers an unknown id as go-ethereum does.
var errSubscriptionNotFound = Errorf(-32000, "subscription not found")

// overflowError returns the answer to a subscribing request if the queue has overflowed.
func (sub *Subscriber) overflowError() error {
	switch {
	case !errors.Is(sub.Err(), ErrSlowReader):
		return nil
	case sub.until != nil:
		return serverBusy("values are read too slowly", true, "subscription")
	}
	return serverBusy("more values came than can wait for the reply", true, "subscription")
}

// releaseCurrent ends the wait of a subscription that the reply ends for the current value,
// if values wait.
func (sub *Subscriber) releaseCurrent() {
	s := sub.session
	s.lock()
	sub.holds = 0
	sub.startLaggingLocked()
	s.unlock()
}

// wait waits for the end of a subscription that the reply ends, or of ctx.
func (sub *Subscriber) wait(ctx context.Context) error {
	select {
	case <-sub.Done():
		return sub.overflowError()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
