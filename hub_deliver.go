package rpcx

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"

	"example.com/rpcx/internal/bounded"
	"example.com/rpcx/internal/jsonscan"
)

// publication is a value on its way to the subscribers of a topic. Only the goroutine of
// Hub.Publish, or of the Broker, uses a publication.
type publication struct {
	value    any
	isJSON   bool // value is a json.RawMessage, from a Broker
	key      string
	encoded  []encodedValue
	space    [2]encodedValue
	valueBuf *encodeBuffer // memory of encoded values
	frameBuf *encodeBuffer // the notification to the present subscriber
	traced   []*Subscriber // for Trace.RequestSent, which runs without topic.order
}

// encodedValue is the encoding of a publication's value by a codec. The bytes are in
// publication.valueBuf, which is used again. Subscribers that have to wait share kept.
type encodedValue struct {
	codec Codec
	hubValue
	err  error       // of the codec
	kept []*hubValue // one for each server
}

// hubValue is a value for subscribers. A hubValue in a ring does not change.
type hubValue struct {
	encoded []byte
	key     string // for KeepLatest
	isEnd   bool   // no value, but the notification that the subscription has ended

	load  *serverLoad // counts the bytes while a ring has the value; may be nil
	pool  *pool       // of the server
	rings int32       // that have the value; changed atomically
}

// retain counts a ring that has v. The first ring makes the server count the bytes.
func (v *hubValue) retain() {
	if atomic.AddInt32(&v.rings, 1) == 1 && v.load != nil {
		v.load.addBytes(len(v.encoded), v.pool)
	}
}

// release reverts retain.
func (v *hubValue) release() {
	if atomic.AddInt32(&v.rings, -1) == 0 && v.load != nil {
		v.load.addBytes(-len(v.encoded), v.pool)
	}
}

// hubOverhead is the approximate memory of a waiting value, besides the bytes of the value.
const hubOverhead = 64

func (v *hubValue) countedBytes() int { return len(v.encoded) + hubOverhead }

// hubRoom is the number of bytes in the outbox from which values of hubs wait in rings. The
// memory of rings is shared. That of outboxes is not, and a peer that does not read must
// not take as much as Limits.Outbox allows.
const hubRoom = 64 << 10

// publish is Hub.Publish.
func (h *Hub) publish(ctx context.Context, name string, v any) error {
	if h.Broker == nil {
		h.published.Add(1)
		h.mu.Lock()
		t := h.topics[name]
		h.mu.Unlock()
		if t == nil {
			return nil
		}
		return h.deliver(t, v, false)
	}
	sc := getEncodeBuffer()
	defer sc.recycle()
	var err error
	if sc.msg, err = appendCodec(sc.msg[:0], JSON, v); err != nil {
		return err
	}
	h.published.Add(1)
	return h.Broker.Publish(ctx, name, sc.msg)
}

// receive delivers a value from the Broker, unless the value is not JSON.
func (h *Hub) receive(t *topic, value []byte) {
	if ok, _ := jsonscan.Valid(value); ok {
		_ = h.deliver(t, json.RawMessage(value), true) // no publisher waits for the error
	}
}

// deliver sends v to the subscribers of t.
func (h *Hub) deliver(t *topic, v any, isJSON bool) (err error) {
	p := &publication{value: v, isJSON: isJSON}
	if h.Overflow == KeepLatest && h.Key != nil {
		p.key = h.Key(t.name, v)
	}
	p.valueBuf, p.frameBuf = getEncodeBuffer(), getEncodeBuffer()
	p.encoded, p.valueBuf.msg = p.space[:0], p.valueBuf.msg[:0]
	defer p.valueBuf.recycle()
	defer p.frameBuf.recycle()
	err = h.deliverInOrder(t, p)
	for _, sub := range p.traced {
		sub.session.writer.traceRequestSent(sub.form.method, nil)
	}
	return err
}

// deliverInOrder sends the value of p to the subscribers of t, and returns the first error.
func (h *Hub) deliverInOrder(t *topic, p *publication) (err error) {
	t.order.Lock()
	defer t.order.Unlock()
	h.mu.Lock()
	subscribers := t.subscribers
	t.published = true
	h.mu.Unlock()
	for _, sub := range subscribers {
		if e := sub.deliver(p); err == nil {
			err = e
		}
	}
	return err
}

// encodeFor returns the encoding of the value for f.
func (p *publication) encodeFor(f *hubForm) (*encodedValue, error) {
	if f.comparable {
		for i := range p.encoded {
			if e := &p.encoded[i]; e.codec == f.codec {
				return e, e.err
			}
		}
	}
	e := encodedValue{codec: f.codec, hubValue: hubValue{key: p.key}}
	start, value := len(p.valueBuf.msg), p.value
	if p.isJSON && f.raw != nil {
		if err := JSON.Unmarshal(value.(json.RawMessage), &value); err != nil {
			return nil, err
		}
	}
	var buf []byte
	if buf, e.err = f.encode(p.valueBuf.msg, value); e.err == nil {
		p.valueBuf.msg, e.encoded = buf, buf[start:len(buf):len(buf)]
	}
	if !f.comparable {
		return &e, e.err
	}
	p.encoded = append(p.encoded, e)
	return &p.encoded[len(p.encoded)-1], e.err
}

// keep returns the value in memory of its own, which the sessions of a server share.
func (e *encodedValue) keep(s *Session) *hubValue {
	for _, v := range e.kept {
		if v.load == s.load {
			return v
		}
	}
	v := &hubValue{encoded: bytes.Clone(e.encoded), key: e.key, load: s.load, pool: s.pool}
	e.kept = append(e.kept, v)
	return v
}

// deliver sends the value of p to sub, or lets the value wait.
func (sub *Subscriber) deliver(p *publication) error {
	s, f := sub.session, sub.form
	e, err := p.encodeFor(f)
	if err != nil {
		return err
	}
	if err := f.check(e.encoded); err != nil {
		sub.hub.dropped.Add(1)
		return err
	}
	framed := false
	for {
		if !framed && !sub.queueing.Load() {
			if err := f.frame(s, p.frameBuf, &e.hubValue); err != nil {
				sub.hub.dropped.Add(1)
				return err
			}
			framed = true
		}
		s.lock()
		switch {
		case !sub.isOpenLocked():
		case sub.holds > 0 || sub.ring.count > 0 || s.exchange() != nil || !s.hubs.hasRoomLocked(f.size(&e.hubValue)):
			sub.queueLocked(e.keep(s))
		case framed:
			s.hubs.pushLocked(sub, p.frameBuf)
			s.unlock()
			if s.trace.RequestSent != nil {
				p.traced = append(p.traced, sub)
			}
			return nil
		default:
			s.unlock()
			sub.queueing.Store(false)
			continue
		}
		s.unlock()
		return nil
	}
}

// frame composes and frames the notification with v into sc.
func (f *hubForm) frame(s *Session, sc *encodeBuffer, v *hubValue) (err error) {
	if sc.msg, err = f.appendNotification(sc.msg[:0], v); err != nil {
		return err
	}
	return s.writer.frameMessage(sc)
}

// isOpenLocked reports whether the subscription takes further values. Callers must hold
// the session's lock.
func (sub *Subscriber) isOpenLocked() bool {
	sub.session.mu.AssertHeld()
	return !sub.ended && (sub.until == nil || !sub.until.answered)
}

// queueLocked lets v wait in the ring, as Hub.Overflow allows. Callers must hold the
// session's lock.
func (sub *Subscriber) queueLocked(v *hubValue) {
	s, h, r := sub.session, sub.hub, &sub.ring
	s.mu.AssertHeld()
	if h.Overflow == KeepLatest && r.remove(v.key) {
		h.dropped.Add(1)
	}
	for limit := sub.exceededLocked(v); limit != (hubLimit{}); limit = sub.exceededLocked(v) {
		if h.Overflow == EndStream || h.Overflow == EndSession {
			sub.overflowLocked(limit)
			return
		}
		h.dropped.Add(1)
		if r.count == 0 { // the server has no room for another value
			return
		}
		r.popFront()
	}
	r.pushBack(v, h.Overflow == KeepLatest)
	sub.queueing.Store(true)
	sub.startLaggingLocked()
}

// hubLimit is a limit that a value would exceed. The zero hubLimit is none.
type hubLimit struct {
	name, unit string
	value      int
}

// exceededLocked returns the limit that the ring would exceed with v. Callers must hold the
// session's lock.
func (sub *Subscriber) exceededLocked(v *hubValue) hubLimit {
	s, h, r := sub.session, sub.hub, &sub.ring
	s.mu.AssertHeld()
	n, values, bytes := v.countedBytes(), bounded.LimitOr(h.Queue, 256), bounded.LimitOr(h.Bytes, 1<<20)
	isNew := atomic.LoadInt32(&v.rings) == 0 // for the server
	switch {
	case r.count == 0 && !(isNew && s.load.exceedsCeiling(n)):
	case r.count == 0:
		return hubLimit{"Server.MaxQueuedBytes", "bytes on this server", s.load.limit}
	case r.count >= values:
		return hubLimit{"Hub.Queue", "values waiting for a subscriber", values}
	case n > bytes-r.bytes:
		return hubLimit{"Hub.Bytes", "bytes waiting for a subscriber", bytes}
	case s.load.isOverShareWith(n, s.memory.reported+s.hubs.bytes) || isNew && s.load.exceedsCeiling(n):
		return hubLimit{"Server.MaxQueuedBytes", "bytes on this server", s.load.limit}
	}
	return hubLimit{}
}

// overflowLocked ends the subscription, or the session, because the ring would exceed l.
// While a reply is awaited, the peer is not to blame. Callers must hold the session's lock.
func (sub *Subscriber) overflowLocked(l hubLimit) {
	s, h := sub.session, sub.hub
	s.mu.AssertHeld()
	h.dropped.Add(uint64(sub.ring.count + 1))
	h.endedN.Add(1)
	if h.Overflow == EndStream || sub.holds > 0 {
		sub.endLocked(ErrSlowReader)
		sub.tellEndLocked()
		return
	}
	err := slowPeer("%s", overLimitText(l.value, l.unit, l.name))
	if l.name == "Server.MaxQueuedBytes" {
		err = &fullError{err}
	}
	attr := byteLimitAttr(l.name, l.value)
	if l.name == "Hub.Queue" {
		attr = limitAttr(l.name, slog.Int("notifications", l.value))
	}
	s.logs.logLaterLocked(slog.LevelWarn, "peer does not read what it has subscribed to", attr)
	sub.endLocked(err)
	s.pool.RunTask(func() { s.closeWith(err, 0) }) // a publisher waits for no connection
}

// tellEndLocked makes the notification that the subscription has ended wait for room, if
// the form has such a notification and no reply is awaited. Callers must hold the session's
// lock.
func (sub *Subscriber) tellEndLocked() {
	s, c := sub.session, sub.form.correlation
	s.mu.AssertHeld()
	if len(c.Error) == 0 || c.isByParams() || sub.holds > 0 || sub.ring.count > 0 || s.life.state != stateOpen {
		return
	}
	sub.ring.pushBack(&hubValue{isEnd: true}, false)
	sub.startLaggingLocked()
}

// startLaggingLocked makes the session send the waiting values when there is room, if no
// reply is awaited. Callers must hold the session's lock.
func (sub *Subscriber) startLaggingLocked() {
	s := sub.session
	s.mu.AssertHeld()
	if sub.lagging != nil || sub.holds > 0 || sub.ring.count == 0 {
		return
	}
	sub.lagging = s.hubs.lagging.PushBack(sub)
	sub.hub.lagging.Add(1)
}

// prepend puts v before the values that wait for the reply.
func (sub *Subscriber) prepend(v any) error {
	s, f := sub.session, sub.form
	encoded, err := f.encode(nil, v)
	if err != nil {
		return fmt.Errorf("encode the current value: %w", err)
	}
	value := &hubValue{encoded: encoded, load: s.load, pool: s.pool}
	latest := sub.hub.Overflow == KeepLatest
	if latest && sub.hub.Key != nil {
		value.key = sub.hub.Key(sub.topic.name, v)
	}
	s.lock()
	defer s.unlock()
	if sub.ended || latest && sub.ring.has(value.key) { // a later value waits already
		return nil
	}
	sub.ring.pushFront(value, latest)
	sub.queueing.Store(true)
	sub.startLaggingLocked()
	return nil
}
