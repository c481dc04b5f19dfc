package rpcx

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"example.com/rpcx/internal/bounded"
)

// streamQueue holds the values of a stream, or of a CallProgress, that wait to be read. The
// reader of the session fills the queue under the session's lock. The consumer takes values
// without the session's lock, and decodes them on its own goroutine.
//
// The bytes of a value belong to the queue, and are never used again: the reader has copied
// them out of its input. Queues of equal subscriptions share the bytes, which nobody changes.
type streamQueue struct {
	session  *Session
	form     *Correlation
	method   string          // of the subscribing call; "" for StreamOf
	id       json.RawMessage // set before the stream is returned to the user
	limits   queueLimits
	progress *progressReader // of a CallProgress, otherwise nil
	wake     chan struct{}   // has a value after a change

	route *route // nil when the stream has ended; guarded by the session's lock

	mu sync.Mutex // guards the fields below; taken after the session's lock
	newsRing
	end       error // why the stream has ended; nil before
	closed    bool  // Close was called
	misuse    error // for Err, if the stream has not ended
	reading   bool  // a goroutine is in next
	merging   bool  // a goroutine is in mergeKeys
	hasFilled bool  // of a CallProgress: the queue was full, and is not below three quarters yet
}

// newsRing holds the values of a queue in the order of arrival. streamQueue.mu guards the
// fields.
type newsRing struct {
	values   []queuedNews
	head     int // index of the first value in values
	dead     int // number of dead values from head on; the first is not dead
	bytes    int // size of the values
	lastSeq  uint64
	keyedSeq uint64            // values up to keyedSeq have their key
	latest   map[string]uint64 // the values with a key, by their keys; nil without keys
	dropped  uint64
}

// queueLimits is what a Subscription says about the queue.
type queueLimits struct {
	count  int
	bytes  int
	policy OverflowPolicy
	key    func(json.RawMessage) string // for KeepLatest; nil if all values have one key
}

// queuedNews is the params of a notification, or a value.
type queuedNews struct {
	data    []byte
	isValue bool   // data is the value itself: the reply
	seq     uint64 // increasing
	key     string // set by storeKey
	dead    bool   // a later value has the same key; only seq is left
}

func newStreamQueue(s *Session, form *Correlation, method string, limits queueLimits) *streamQueue {
	return &streamQueue{session: s, form: form, method: method, limits: limits, wake: make(chan struct{}, 1)}
}

// defaultQueueLimits are those of a zero Subscription.
var defaultQueueLimits = queueLimits{count: defaultStreamQueue, bytes: defaultStreamBytes}

// count returns the number of queued values. Callers must hold q.mu.
func (q *newsRing) count() int { return len(q.values) - q.head - q.dead }

// isOver reports whether size bytes more exceed the limits, multiplied by factor. A single
// value is never over. Callers must hold q.mu.
func (q *streamQueue) isOver(size, factor int) bool {
	return q.count() > 0 && (q.count() >= factor*q.limits.count || size > factor*q.limits.bytes-q.bytes)
}

// push queues a value, as the policy says. It reports false if the stream has to end with
// ErrSlowReader. The queue of a CallProgress takes any value.
func (q *streamQueue) push(n queuedNews) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end != nil {
		return true
	}
	size := len(n.data)
	switch l := &q.limits; {
	case q.progress != nil:
	case l.policy == EndStream:
		if q.isOver(size, 1) {
			return false
		}
	case l.policy == KeepLatest && l.key == nil:
		q.dropOldest(q.count())
	case l.policy == KeepLatest:
		if !q.merging && q.isOver(size, 1) {
			q.merging = true
			q.session.pool.RunTask(q.mergeKeysLater)
		}
		for q.isOver(size, 2) { // the keys are still being compared
			q.dropOldest(1)
		}
	default:
		for q.isOver(size, 1) {
			q.dropOldest(1)
		}
	}
	if len(q.values) == cap(q.values) && q.head+q.dead > q.count() {
		live := slices.DeleteFunc(q.values[q.head:], func(n queuedNews) bool { return n.dead })
		n := copy(q.values, live)
		clear(q.values[n:])
		q.values, q.head, q.dead = q.values[:n], 0, 0
	}
	q.lastSeq++
	n.seq = q.lastSeq
	q.values = append(q.values, n)
	q.bytes += size
	q.signal()
	return true
}

// dropOldest drops n values, and counts them. Callers must hold q.mu.
func (q *newsRing) dropOldest(n int) {
	for range n {
		q.pop()
		q.dropped++
	}
}

// pop removes the first value. Callers must hold q.mu, and the queue must not be empty.
func (q *newsRing) pop() queuedNews {
	n := q.values[q.head]
	q.values[q.head] = queuedNews{}
	q.head++
	q.bytes -= len(n.data)
	if q.latest != nil && q.latest[n.key] == n.seq {
		delete(q.latest, n.key)
	}
	q.skipDead()
	return n
}

// skipDead removes dead values from the beginning. Callers must hold q.mu.
func (q *newsRing) skipDead() {
	for q.head < len(q.values) && q.values[q.head].dead {
		q.head++
		q.dead--
	}
	if q.head == len(q.values) {
		q.clear()
	}
}

// maxIdleValues is the capacity that an empty queue keeps.
const maxIdleValues = 64

// clear removes all values. Callers must hold q.mu.
func (q *newsRing) clear() {
	clear(q.values)
	clear(q.latest)
	q.values, q.head, q.dead, q.bytes = q.values[:0], 0, 0, 0
	if cap(q.values) > maxIdleValues {
		q.values = nil
	}
}

// signal wakes the consumer.
func (q *streamQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// addDropped counts values that were dropped before the stream began.
func (q *streamQueue) addDropped(n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropped += n
}

// finish ends the queue. Only the first reason counts. If discard is set, the queued values are
// dropped.
func (q *streamQueue) finish(reason error, discard bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		q.end = reason
	}
	if reason == ErrStreamClosed {
		q.closed = true
	}
	if discard {
		q.clear()
	}
	q.signal()
}

// leave ends the queue, whose session goes on without the stream. Queued values stay.
func (q *streamQueue) leave(reason error) {
	s := q.session
	s.lock()
	if q.route != nil {
		s.streams.Load().detachLocked(q)
	}
	s.unlock()
	q.finish(reason, false)
}

// isRead reports whether the queue has ended and is empty.
func (q *streamQueue) isRead() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.end != nil && q.count() == 0
}

// hasValues reports whether a value is queued.
func (q *streamQueue) hasValues() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count() > 0
}

// discard drops the queued values, and returns the number of dropped values so far.
func (q *streamQueue) discard() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped := q.dropped + uint64(q.count())
	q.clear()
	q.dropped = 0
	return dropped
}

// streamID returns the id of the subscription, or nil.
func (q *streamQueue) streamID() json.RawMessage { return q.id }

// closeWith ends the stream on behalf of the user, and unsubscribes.
func (q *streamQueue) closeWith(reason error) {
	s := q.session
	s.lock()
	q.finish(reason, true) // before detachLocked, which may end a call with another reason
	if q.route != nil {
		s.streams.Load().detachLocked(q)
	}
	s.unlock()
}

// next returns the next value, and waits for it.
func (q *streamQueue) next(ctx context.Context) ([]byte, error) {
	if !q.beginRead() {
		return nil, errTwoReaders
	}
	defer q.endRead()
	for {
		switch value, err := q.take(); {
		case err != nil && q.reason() == nil: // the value is missing
			q.closeWith(err)
			return nil, err
		case value != nil || err != nil:
			return value, err
		}
		if err := q.wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (q *streamQueue) beginRead() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	wasReading := q.reading
	q.reading = true
	return !wasReading
}

func (q *streamQueue) endRead() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reading = false
}

// take returns the next value, or why there will be none, or neither.
func (q *streamQueue) take() ([]byte, error) {
	if q.limits.key != nil && q.beginMerge() {
		q.mergeKeys()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return nil, ErrStreamClosed
	case q.merging: // the end of mergeKeys wakes the consumer
		return nil, nil
	case q.count() > 0:
		return q.valueOf(q.pop())
	}
	return nil, q.end
}

// wait waits until the queue may have a value, or has ended. A handler that waits is tied,
// because the values come from the peer of the session.
func (q *streamQueue) wait(ctx context.Context) error {
	h := handlerOf(ctx)
	q.session.requests.beginReplyWait(h)
	defer q.session.requests.endReplyWait(h)
	select {
	case <-q.wake:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// beginMerge sets q.merging for the caller, if there are values whose keys are unknown.
func (q *streamQueue) beginMerge() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.merging || q.count() == 0 || q.lastSeq == q.keyedSeq {
		return false
	}
	q.merging = true
	return true
}

// mergeKeysLater is mergeKeys on a goroutine of the pool. After a panic of the user's
// function, the consumer calls the function again, and can recover.
func (q *streamQueue) mergeKeysLater() {
	defer func() { _ = recover() }()
	q.mergeKeys()
}

// mergeKeys computes the keys of the values, and drops each value that has a later value
// with the same key. The caller has set q.merging.
func (q *streamQueue) mergeKeys() {
	q.mu.Lock()
	fresh := slices.Clone(q.values[q.find(q.keyedSeq+1):])
	q.mu.Unlock()
	known := 0
	defer func() { // also if limits.key has panicked
		q.mu.Lock()
		defer q.mu.Unlock()
		q.merging = false
		for _, n := range fresh[:known] {
			q.storeKey(n)
		}
		for q.count() > 1 && (q.count() > q.limits.count || q.bytes > q.limits.bytes) {
			q.dropOldest(1)
		}
		q.signal()
	}()
	for i := range fresh {
		if value, err := q.valueOf(fresh[i]); err == nil { // next returns the error
			fresh[i].key = q.limits.key(value)
		}
		known++
	}
}

// find returns the index of the first value whose seq is at least seq. Callers must hold
// q.mu.
func (q *newsRing) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(q.values[q.head:], seq, func(n queuedNews, seq uint64) int { return cmp.Compare(n.seq, seq) })
	return q.head + i
}

// storeKey stores the key of n, unless n was dropped meanwhile, and drops the earlier value
// with the same key. Callers must hold q.mu.
func (q *streamQueue) storeKey(n queuedNews) {
	q.keyedSeq = n.seq
	i := q.find(n.seq)
	if i == len(q.values) || q.values[i].seq != n.seq {
		return
	}
	q.values[i].key = n.key
	if q.latest == nil {
		q.latest = make(map[string]uint64)
	}
	if earlier, ok := q.latest[n.key]; ok {
		old := &q.values[q.find(earlier)]
		q.bytes -= len(old.data)
		*old = queuedNews{seq: earlier, dead: true}
		q.dead++
		q.dropped++
		q.skipDead()
	}
	q.latest[n.key] = n.seq
}

// valueOf returns the value in n.
func (q *streamQueue) valueOf(n queuedNews) ([]byte, error) {
	if n.isValue {
		return n.data, nil
	}
	if value := q.form.valueIn(n.data); value != nil {
		return value, nil
	}
	return nil, fmt.Errorf("rpcx: a notification for %s has no value at %q: check Correlation.Value", q.name(), strings.Join(q.form.Value, "."))
}

// name returns a description of the stream for errors.
func (q *streamQueue) name() string {
	if q.method == "" {
		return "a stream of the id " + excerpt(q.id)
	}
	return fmt.Sprintf("%q", q.method)
}

// decode decodes a value into v.
func (q *streamQueue) decode(value []byte, v any) error {
	if err := q.session.codec.Unmarshal(value, v); err != nil {
		return fmt.Errorf("decode a value for %s: %w", q.name(), bounded.Error(err))
	}
	return nil
}

// reason returns why the stream has ended or cannot be read, or nil.
func (q *streamQueue) reason() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		return q.misuse
	}
	return q.end
}

func (q *streamQueue) setMisuse(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.misuse = err
}

func (q *streamQueue) droppedValues() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}
