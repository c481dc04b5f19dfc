package rpcx

import (
	"container/list"
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
)

// Hub sends values that are published under a topic to the sessions that have subscribed to
// the topic. The zero value is ready for use. The fields must not change after the first
// use, and a Hub must not be copied.
//
// A handler subscribes its peer by [Hub.Subscribe], or [Hub.Handlers] makes the handlers.
// The [Correlation] says how notifications belong to the subscription:
//
//	hub := new(rpcx.Hub)
//	subscribe, unsubscribe := hub.Handlers(rpcx.EthSubscription, topicOf, nil)
//	router.Handle("eth_subscribe", subscribe)
//	router.Handle("eth_unsubscribe", unsubscribe)
//	…
//	err := hub.Publish(ctx, "newHeads", head)
//
// All subscribers of a topic receive its values in the same order. No value is sent before
// the reply to the subscribing request, or before the message with the replies to its
// batch.
//
// [Hub.Publish] encodes a value once for each codec, puts the notifications into the
// outboxes of the sessions, and never waits for a session. If an outbox holds 64 KiB, the
// values for its subscribers wait in a queue of each subscriber. The session sends these
// values when there is room. When a queue is full, Overflow says what happens. The sessions
// of a server share the queued values, which count for Server.MaxQueuedBytes once. If a
// server has reached this limit, the queues of a session that would hold more than the
// limit divided by the number of sessions keep one value each, and at one and a half times
// the limit there is no room for a new value.
//
// A subscription ends by [Subscriber.Close], by [Hub.Unsubscribe], when Overflow ends it,
// and with its session. From the start of [Session.Shutdown], nothing is sent any more.
//
// The notifications do not pass Options.OnCall and carry no Options.Meta. They cost their
// session as much as those of [Session.Notify].
type Hub struct {
	// Queue and Bytes bound what waits for each subscriber. One value always has room, and
	// each value counts 64 bytes more. Defaults: 256 values, 1 MiB.
	Queue, Bytes int
	// Overflow says what happens when a queue is full. KeepLatest also replaces waiting
	// values before. A slow peer first receives the values in its outbox and in the buffers
	// of the network, which no policy drops. A Stream of the peer has a policy of its own.
	// Default: DropOldest.
	Overflow OverflowPolicy
	// Key is for KeepLatest: values with equal keys replace each other. Publish calls Key
	// once for each value. With a Broker, v is a [json.RawMessage]. Default: all values of
	// a topic have the same key.
	Key func(topic string, v any) string
	// MaxPerSession is the maximum number of subscriptions of a session. More are answered
	// CodeServerBusy. Default: 1,000.
	MaxPerSession int
	// MaxTopics is the maximum number of topics with subscribers. A subscription to one
	// more topic is answered CodeServerBusy. Default: 1,000,000.
	MaxTopics int
	// Broker carries values to the hubs of other processes. Default: none.
	Broker Broker

	mu     sync.Mutex        // guards topics and each topic; taken after Session.mu
	topics map[string]*topic // topics with subscribers

	subscribers, lagging             atomic.Int64
	published, sent, dropped, endedN atomic.Uint64
}

// HubStats are counters of a [Hub].
type HubStats struct {
	Topics, Subscribers int
	Lagging             int // subscribers whose values wait for room
	// Published counts the values given to Publish. Sent counts notifications, Dropped
	// values that a subscriber does not receive, and Ended subscriptions that Overflow has
	// ended.
	Published, Sent, Dropped, Ended uint64
}

// A Broker carries values between the hubs of several processes. Publish and Subscribe are
// called by any number of goroutines, without a lock of the Hub.
//
// Values arrive at most once, and those of one publisher in their order. A subscriber need
// not receive what is published within about a round trip after Subscribe has returned. A
// Hub delivers only what receive has been called with, so each process has one order for
// all subscribers of a topic.
type Broker interface {
	// Publish sends value, JSON, to all subscribers of the topic, those of this process
	// included. Publish must not keep value.
	Publish(ctx context.Context, topic string, value []byte) error
	// Subscribe makes the Broker call receive for each value, one call at a time. receive
	// does not keep value, and returns soon. A Hub subscribes to a topic when the topic has
	// a first subscriber, and calls unsubscribe after the last one, on a goroutine of its
	// own. By then the Hub may have subscribed to the topic anew.
	Subscribe(topic string, receive func(topic string, value []byte)) (unsubscribe func(), err error)
}

// Subscriber is a subscription of a session at a [Hub].
type Subscriber struct {
	hub     *Hub
	topic   *topic
	session *Session
	form    *hubForm
	id      any             // for the peer
	key     subscriptionKey // in the session
	until   *peerRequest    // with CallID, the request whose reply ends the subscription
	place   int             // in topic.subscribers, guarded by Hub.mu; -1 outside

	// queueing tells a publisher, without the lock, that the next value probably has to
	// wait. The fields below are guarded by the session's lock.
	queueing  atomic.Bool
	holds     int           // handlers whose replies the values have to wait for
	confirmed bool          // a reply has told the peer of the subscription
	lagging   *list.Element // in sessionHubs.lagging, or nil
	ring      hubRing
	ended     bool
	err       error         // why the subscription has ended
	done      chan struct{} // made by Done
}

// Subscribe subscribes the session of a handler to topic. ctx is the context of the
// handler, or derived from it. Values published from now on are sent after the handler's
// reply, in a batch after the message with all replies, in their order. Until then they
// wait in the queue of the subscriber. If no reply is sent, or the reply is an error, the
// subscription ends. A nil c means [EthSubscription].
//
// The form of c decides about the id:
//
//   - Without c.ID (Electrum), the id is the positional params of the request. A different
//     id must encode to an array.
//   - With c.Token, the id is the param of the request at this path.
//   - With c.CallID, the id is the id of the request.
//   - Otherwise the Hub makes an id: "0x" and 128 random bits in hexadecimal. The reply has to
//     carry [Subscriber.ID].
//
// A non-nil id is used instead, and is sent as it is.
//
// With c.CallID, and with c.Token but neither c.Unsubscribe nor c.Current, the reply ends
// the subscription. Then values are sent at once, and until the handler returns.
//
// If the session has a subscription with the same notifications and an equal id, Subscribe
// returns the Subscriber of that subscription, and values wait for the new reply, too. If
// the topic differs, Subscribe fails.
//
// The id and the topic have at most 4,096 bytes. For a longer topic, take a hash.
//
// Subscribe fails if ctx is not a handler's, or c is invalid. It also fails in an exchange
// of [Server.ServeMessage], unless the reply ends the subscription, and there is a function
// for notifications. The error is an [*Error] for the peer if the request has no id, or its
// params do not fit the form, or a limit is reached. In an exchange, the same error matches
// [ErrNoCallback]. The protocol must have notifications: [Aiomas] has none. With a Broker,
// Subscribe waits for [Broker.Subscribe] and returns its error.
func (h *Hub) Subscribe(ctx context.Context, topic string, c *Correlation, id any) (*Subscriber, error) {
	mustHaveContext("Hub.Subscribe", ctx)
	return h.subscribe(ctx, topic, c, id, false)
}

// Unsubscribe ends the subscription of a handler's session that c and id describe, and
// reports whether there was one. ctx is the context of the handler, or derived from it. A
// nil id means the id in the params of the request: without c.ID all params, with c.Token
// the param at this path, otherwise the first param. No value is sent after Unsubscribe has
// returned.
func (h *Hub) Unsubscribe(ctx context.Context, c *Correlation, id any) (bool, error) {
	mustHaveContext("Hub.Unsubscribe", ctx)
	return h.unsubscribe(ctx, c, id)
}

// Handlers returns handlers for the two methods of c. A nil c means [EthSubscription].
// topic returns the topic of a request. current returns the present value of a topic, and
// may be nil unless c.Current is set.
//
// The subscribing handler subscribes, calls current, and replies. So the peer misses no
// change between. An error of topic or current is the reply, and undoes the subscription.
//
//	form of c                            reply                    value of current
//	the reply ends, see Hub.Subscribe    null, at the end         first notification
//	c.Current, or c.Token                the value of current     reply
//	otherwise                            the id                   first notification
//
// If the reply ends the subscription, the handler runs until then, counts for
// Limits.Concurrency, and is ended by Limits.ProcessingTimeout. Raise both limits.
//
// The unsubscribing handler replies true. If there is no such subscription, the reply is
// false without c.ID, as from ElectrumX. Otherwise the reply is the error -32000
// "subscription not found", as from go-ethereum. For another reply, a handler of the user
// calls [Hub.Unsubscribe]. Handlers panics if c is invalid.
func (h *Hub) Handlers(c *Correlation, topic func(ctx context.Context, req *Request) (string, error), current func(ctx context.Context, topic string) (any, error)) (subscribe, unsubscribe Handler) {
	return h.handlers(c, topic, current)
}

// Publish sends v to all subscribers of topic. Two calls for one topic are delivered one
// after the other, so that all subscribers receive the values in the same order. Publish
// waits for such calls, and never for a session. v is encoded by the codecs of the
// sessions, once by each, and not at all without subscribers. A session with
// Options.Objects has a codec of its own.
//
// The MarshalJSON methods of v, codecs and framers must not publish under the same topic.
//
// If v cannot be encoded or framed for some of the subscribers, Publish returns the first
// error, after it has served the others. If ctx has ended, Publish returns its cause. With
// a Broker, Publish encodes v as JSON and returns the result of [Broker.Publish].
func (h *Hub) Publish(ctx context.Context, topic string, v any) error {
	mustHaveContext("Hub.Publish", ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return h.publish(ctx, topic, v)
}

// Topics iterates over the topics with subscribers, and the numbers of their subscribers.
// If a topic is a filter, a publisher publishes under each topic that matches: see the
// example.
func (h *Hub) Topics() iter.Seq2[string, int] {
	h.mu.Lock()
	counts := make(map[string]int, len(h.topics))
	for name, t := range h.topics {
		counts[name] = len(t.subscribers)
	}
	h.mu.Unlock()
	return func(yield func(string, int) bool) {
		for name, n := range counts {
			if !yield(name, n) {
				return
			}
		}
	}
}

// Stats returns the counters of the Hub.
func (h *Hub) Stats() HubStats {
	h.mu.Lock()
	topics := len(h.topics)
	h.mu.Unlock()
	return HubStats{
		Topics: topics, Subscribers: int(h.subscribers.Load()), Lagging: int(h.lagging.Load()),
		Published: h.published.Load(), Sent: h.sent.Load(), Dropped: h.dropped.Load(), Ended: h.endedN.Load(),
	}
}

// ID returns the id of the subscription. If the Hub has made the id, it is a string, which
// the reply has to carry. If the id is that of the params, it is a [json.RawMessage], or a
// raw value of the session's [RawCodec].
func (sub *Subscriber) ID() any { return sub.id }

// Done returns a channel that is closed when the subscription has ended.
func (sub *Subscriber) Done() <-chan struct{} {
	s := sub.session
	s.lock()
	defer s.unlock()
	if sub.done == nil {
		sub.done = make(chan struct{})
		if sub.ended {
			close(sub.done)
		}
	}
	return sub.done
}

// Err returns nil before the end of the subscription, and afterwards the reason:
// [ErrUnsubscribed], [ErrSlowReader], [ErrSlowPeer], [ErrNoReply], or an error that matches
// [ErrClosed].
func (sub *Subscriber) Err() error {
	s := sub.session
	s.lock()
	defer s.unlock()
	return sub.err
}

// Close ends the subscription. No value is sent after Close has returned. The peer does not
// learn of the end.
func (sub *Subscriber) Close() { sub.end(ErrUnsubscribed) }

// ErrUnsubscribed is the error of a [Subscriber] after [Subscriber.Close] and
// [Hub.Unsubscribe].
var ErrUnsubscribed = errors.New("rpcx: the subscription was closed")
