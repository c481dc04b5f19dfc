package rpcx

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"example.com/rpcx/internal/gopool"
)

// Batch collects requests and notifications to be sent in a single message. The zero value
// is ready to use. A Batch is sent once, by [Session.SendBatch], [Session.GoBatch] or the
// SendBatch of another [Caller]. Until then, only one goroutine may use the Batch.
//
// A Batch must not be copied after its first use. The methods panic on a copy, and go vet
// finds most copies.
//
// If calls fail, the error is a [*BatchError], and the results of successful calls are
// available. If a member cannot be encoded, nothing is sent. A call without a response
// fails with [ErrNoResponse]. A peer may also answer in separate messages.
//
// The members of a received batch are handled concurrently, and answered in a single
// message. At most 16 invalid members are answered. A batch with more invalid members, or
// over Limits.Batch, is refused as a whole. If a peer refuses a batch as a whole, the
// calls fail at once if no other message was sent since the last reply. JSON-RPC 1.0 has
// no batches.
type Batch struct {
	_       noCopy
	self    *Batch // receiver of the first use; a copy has another address
	entries []*batchEntry
	sent    bool

	// Allocated in advance, for the next calls and notifications.
	nextCalls         []batchCall
	nextNotifications []batchEntry

	members   []*Future   // of the calls, once the batch is sent
	hooked    *hookedCall // the batch as a whole; nil without functions of Options.OnCall and OnBatchCall
	sentAgain bool        // Calls was used after the batch was sent
	attempt   int         // number of the attempt of a Client; 0 means 1
}

// noCopy makes go vet report copies of a struct with a field of type noCopy.
type noCopy struct{}

// Lock and Unlock exist for go vet. Nobody calls them.
func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// checkCopy panics if b is a copy of a used batch.
func (b *Batch) checkCopy() {
	if b.self == nil {
		b.self = b
	}
	if b.self != b {
		panic("rpcx: a Batch was copied after its first use: pass a *Batch instead")
	}
}

// batchEntry is a call or a notification of a batch.
type batchEntry struct {
	method string
	params any
	future *Future     // nil for a notification
	hooked *hookedCall // nil without functions of Options.OnCall
}

// batchCall is a call of a batch, and the future of the call. Many are allocated together:
// most of the memory of a batch is here.
type batchCall struct {
	entry batchEntry
	batchFuture
}

// takeNext takes the next of values that are allocated in advance. n is the number of values
// in use. Few values are allocated at once: a user who keeps one keeps the others.
func takeNext[T any](next *[]T, n int) *T {
	if len(*next) == 0 {
		*next = make([]T, min(max(4, 2*n), 8))
	}
	v := &(*next)[0]
	*next = (*next)[1:]
	return v
}

// batchPart is the part of a Future that only a member of a batch, or a batch as a whole,
// has.
type batchPart struct {
	members *[]*Future // of a batch as a whole; nil for a member
	dest    any        // destination of a member's result
	filled  sync.Once  // guards fillErr
	fillErr error
}

// batchFuture is the future of a member or of a batch as a whole, in one allocation.
type batchFuture struct {
	future Future
	part   batchPart
}

// sentBatch is the message of a batch, and the future of the batch as a whole.
type sentBatch struct {
	message pendingMessage
	batchFuture
	members []*Future
	waiters futureWaiters
	pool    *gopool.Pool // that of hookedCall
}

// open makes the future that of an unsent batch or member, and returns the future.
func (b *batchFuture) open() *Future {
	b.future.phase, b.future.batch = futureOpen, &b.part
	return &b.future
}

// members returns the futures of the calls, or nil if f is not a batch as a whole.
func (f *Future) members() []*Future {
	if f.batch == nil || f.batch.members == nil {
		return nil
	}
	return *f.batch.members
}

// joinMessage adds the call of f to the message m of a batch. After Cancel, joinMessage
// reports false: the call is not sent.
func (f *Future) joinMessage(m *pendingMessage, method string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase != futureOpen {
		return false
	}
	c := pendingCall{message: m, method: method}
	if m.session != nil {
		c.id = m.session.calls.table.newID()
		f.message = m
	}
	m.calls = append(m.calls, c)
	f.call = &m.calls[len(m.calls)-1]
	return true
}

func (f *Future) isCancelled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase == futureCancelled
}

// fillDestinations decodes results into the destinations given to [Batch.Call], once, and
// returns the error of the call or of the decoding.
func (f *Future) fillDestinations() error {
	b := f.batch
	if b == nil || b.members == nil && b.dest == nil {
		return f.err
	}
	b.filled.Do(func() {
		if b.members == nil {
			b.fillErr = f.Decode(b.dest)
			return
		}
		b.fillErr = fillMembers(*b.members)
	})
	return b.fillErr
}

// Call adds a call. dest is a pointer or nil. The result of the call is decoded into dest
// when [Session.SendBatch] returns, or when Wait of the call's or the batch's future
// returns. After the batch was sent, Call returns a future that has failed with
// [ErrBatchSent].
func (b *Batch) Call(method string, params, dest any) *Future {
	b.checkCopy()
	if b.sent {
		return newFailedFuture(ErrBatchSent)
	}
	c := takeNext(&b.nextCalls, len(b.entries))
	c.part.dest = dest
	c.entry = batchEntry{method: method, params: params, future: c.open()}
	b.entries = append(b.entries, &c.entry)
	return &c.future
}

// Notify adds a notification. After the batch was sent, Notify does nothing.
func (b *Batch) Notify(method string, params any) {
	b.checkCopy()
	if b.sent { // a hook has called Notify while the batch is being sent
		return
	}
	e := takeNext(&b.nextNotifications, len(b.entries))
	*e = batchEntry{method: method, params: params}
	b.entries = append(b.entries, e)
}

// Len returns the number of calls and notifications.
func (b *Batch) Len() int { return len(b.entries) }

// isEmpty reports whether the batch is unsent and has no members.
func (b *Batch) isEmpty() bool {
	b.checkCopy()
	return !b.sent && len(b.entries) == 0
}

// Append appends the batch to dst, as a single message of protocol p, without framing. id
// supplies the ids of the calls. If a member cannot be encoded, or p has no batches,
// Append fails and returns dst unchanged. Append is for use without a session.
func (b *Batch) Append(dst []byte, p Protocol, c Codec, id func() ID) ([]byte, error) {
	b.checkCopy()
	return b.appendWithMeta(dst, p, c, id, nil)
}

// appendWithMeta is Append with data about the members, added as meta says.
func (b *Batch) appendWithMeta(dst []byte, p Protocol, c Codec, id func() ID, meta *Meta) ([]byte, error) {
	f := getFrameBuffer(0)
	defer func() { f.recycle() }()
	for i, e := range b.entries {
		var err error
		start := len(f.buf)
		if i > 0 {
			f = f.withRoom(2 * start / i) // twice the average; for a larger member, append makes room
		}
		if e.future != nil {
			f.buf, err = p.AppendRequest(f.buf, id(), e.method, e.params, c)
		} else {
			f.buf, err = p.AppendNotification(f.buf, e.method, e.params, c)
		}
		if err == nil && e.hooked != nil {
			f.buf, err = meta.appendTo(f.buf, start, e.hooked.Meta, c)
		}
		if err != nil {
			// If the protocol has no batches, that error comes first, for any members.
			if _, none := p.AppendBatch(nil, [][]byte{[]byte("0")}); none != nil {
				return dst, none
			}
			return dst, fmt.Errorf("member %d of the batch, %q: %w", i+1, e.method, asUnsent(err))
		}
		f.ends = append(f.ends, len(f.buf))
	}
	sc := getEncodeBuffer()
	defer sc.recycle()
	sc.parts = f.appendParts(slices.Grow(sc.parts, len(f.ends)))
	return p.AppendBatch(dst, sc.parts)
}

// setIDs stores the ids of the calls for OutgoingCall.ID, unless err, the error of the
// encoding, is set. id returns the id of a call by its number among the calls of b.
func (b *Batch) setIDs(err error, id func(call int) uint64) {
	if err != nil || b.hooked == nil {
		return
	}
	call := 0
	for _, e := range b.entries {
		if e.future == nil {
			continue
		}
		if e.hooked != nil {
			e.hooked.setID(id(call))
		}
		call++
	}
}

// SendBatch sends b and waits for the replies to every call. ctx bounds the whole batch,
// as for [Session.Call]. If a call fails, the error is a [*BatchError], and the results of
// successful calls are available. If the batch cannot be sent, the error gives the reason
// and the member at fault.
//
// A batch of only notifications is finished when queued. If the batch is empty, SendBatch
// sends nothing and returns nil. An empty batch may be filled and sent later.
func (s *Session) SendBatch(ctx context.Context, b *Batch) error {
	mustHaveContext("Session.SendBatch", ctx)
	if b.isEmpty() {
		return nil
	}
	sent := new(sentBatch)
	ctx, err := s.sendBatch(ctx, b, sent)
	if err != nil {
		return err
	}
	own := &sent.future
	if err := own.waitUntilFinished(ctx); err != nil {
		s.calls.abandonMessage(own.message, err)
		<-own.Done()
	}
	err = own.fillDestinations()
	own.endHooks(ctx, (*Future).fillDestinations)
	return err
}

// GoBatch sends b and returns a future for the whole batch. GoBatch waits as [Session.Go]
// does, and ctx bounds the calls in the same way. For Limits.Outgoing, a batch counts as
// one call. If the batch is empty, GoBatch sends nothing, and the future is finished.
func (s *Session) GoBatch(ctx context.Context, b *Batch) *Future {
	mustHaveContext("Session.GoBatch", ctx)
	if b.isEmpty() {
		return &Future{phase: futureFinished, batch: &batchPart{members: &[]*Future{}}}
	}
	sent := &sentBatch{pool: &s.pool.Pool}
	ctx, err := s.sendBatch(ctx, b, sent)
	if err != nil {
		return newFailedFuture(err)
	}
	sent.future.watchContext(ctx)
	return &sent.future
}

// sendBatch queues b as sent, which must be new, and returns the context for the batch. If
// b cannot be sent, its calls fail.
func (s *Session) sendBatch(ctx context.Context, b *Batch, sent *sentBatch) (_ context.Context, err error) {
	b.checkCopy()
	if b.sent {
		return ctx, ErrBatchSent
	}
	b.sent = true
	calls := b.countCalls()
	own, m := sent.open(), &sent.message
	sent.members = make([]*Future, 0, calls)
	own.message, own.batch.members, own.waiters = m, &sent.members, &sent.waiters
	m.session, m.future, m.isBatch, m.calls = s, own, true, make([]pendingCall, 0, calls)
	b.entries = slices.DeleteFunc(b.entries, func(e *batchEntry) bool {
		if e.future == nil {
			return false
		}
		sent.members = append(sent.members, e.future)
		return !e.future.joinMessage(m, e.method) // cancelled before
	})
	b.members = sent.members
	m.items = int32(len(b.entries))
	if m.items == 0 && calls > 0 {
		own.publishOutcome()
		return ctx, nil
	}
	err = errCallPanicked
	defer func() {
		if err != nil && m.messageSeq == 0 { // the batch was not queued
			b.failSending(err)
		}
	}()
	ctx, err = s.sendJoinedBatch(ctx, b, sent)
	return ctx, err
}

// sendJoinedBatch calls the hooks, and queues b, whose calls are in sent. It returns the
// context for the batch.
func (s *Session) sendJoinedBatch(ctx context.Context, b *Batch, sent *sentBatch) (context.Context, error) {
	own, m := &sent.future, &sent.message
	ctx, err := s.calls.hooks.beginBatch(ctx, sent.pool, s, b)
	if err != nil {
		return ctx, err
	}
	if own.hooked = b.hooked; own.hooked != nil {
		own.hooked.future = own
	}
	_, m.hasOwnDeadline = ctx.Deadline()
	err = context.Cause(ctx)
	if err == nil {
		err = b.checkLength(s.limits.Batch)
	}
	if err == nil {
		err = s.queueBatch(ctx, b, m)
	}
	if err != nil {
		return ctx, err
	}
	for _, e := range b.entries {
		if e.future == nil && e.hooked != nil {
			e.hooked.end(ctx, nil)
		}
	}
	if !m.expectsReply() {
		own.publishOutcome()
		own.endHooksUnlessSender(ctx)
	}
	return ctx, nil
}

// failSending ends the calls of b, which was not sent.
func (b *Batch) failSending(err error) {
	b.failUnsentMembers(err)
	b.endHooks(context.Background(), func(*Future) error { return err }, err)
}

// checkLength returns the error for a batch of more members than limit. A receiver with
// the same limit, the default, would refuse the whole batch. This side would refuse a reply
// with as many members.
func (b *Batch) checkLength(limit int) error {
	if len(b.entries) <= limit {
		return nil
	}
	return unsentf(CodeInvalidRequest, "batch too long: %s calls and notifications, %s: send it in parts, or raise the limit at both ends",
		thousands(len(b.entries)), overLimitText(limit, "members", "Limits.Batch"))
}

// failUnsentMembers finishes the calls of b, which was not sent, with err. For calls that
// were cancelled before, the error is ErrCancelled.
func (b *Batch) failUnsentMembers(err error) {
	for _, member := range b.members {
		if member.isCancelled() {
			member.finish(ErrCancelled)
		} else {
			member.finish(err)
		}
	}
}

// countCalls returns the number of calls, without notifications.
func (b *Batch) countCalls() (n int) {
	for _, e := range b.entries {
		if e.future != nil {
			n++
		}
	}
	return n
}

// queueBatch encodes and queues b, whose calls are in m.
func (s *Session) queueBatch(ctx context.Context, b *Batch, m *pendingMessage) error {
	sc := getEncodeBuffer()
	defer sc.recycle()
	next := 0
	var err error
	sc.msg, err = b.appendWithMeta(sc.msg[:0], s.Protocol(), s.codec, func() ID {
		sc.id = strconv.AppendUint(sc.id[:0], m.calls[next].id, 10)
		next++
		return sc.id
	}, s.calls.meta)
	b.setIDs(err, func(call int) uint64 { return m.calls[call].id })
	if err != nil {
		return asUnsent(err)
	}
	from := fromCaller
	if m.owner != nil && !m.expectsReply() {
		from = fromClient
	}
	if err = s.writer.sendMessage(ctx, sc, from, m); err != nil {
		return err
	}
	for _, e := range b.entries {
		if e.future != nil && e.future.isCancelled() { // cancelled just before the registration
			s.calls.abandonMember(e.future, e.future.call, ErrCancelled)
		}
	}
	if s.trace.BatchSent != nil {
		s.trace.BatchSent(s, int(m.items), len(sc.frame))
	}
	if s.trace.RequestSent != nil {
		for _, e := range b.entries {
			var c *pendingCall // nil for a notification
			if e.future != nil {
				c = e.future.call
			}
			s.writer.traceRequestSent(e.method, c)
		}
	}
	return nil
}

// BatchError is the error of a batch with at least one failed item.
type BatchError struct {
	// Errs has an entry for each request of the batch, in order; nil means success.
	// (Notifications have no entry.)
	Errs []error
}

func (e *BatchError) Error() string {
	failed, number := 0, 0
	for i, err := range e.Errs {
		if err != nil {
			if failed++; number == 0 {
				number = i + 1
			}
		}
	}
	if failed == 0 {
		return fmt.Sprintf("none of %d batch requests failed", len(e.Errs))
	}
	return fmt.Sprintf("%d of %d batch requests failed, the first, number %d: %v", failed, len(e.Errs), number, e.Errs[number-1])
}

// Unwrap returns the errors of the failed items.
func (e *BatchError) Unwrap() []error {
	var errs []error
	for _, err := range e.Errs {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// batchError returns a *BatchError with the members' errors, or nil if no member failed.
func batchError(members []*Future, errOf func(*Future) error) error {
	var errs []error
	for i, f := range members {
		if err := errOf(f); err != nil {
			if errs == nil {
				errs = make([]error, len(members))
			}
			errs[i] = err
		}
	}
	if errs == nil {
		return nil
	}
	return &BatchError{errs}
}
