package rpcx

import (
	"context"
	"fmt"
	"slices"
	"strconv"
)

// Batch collects requests and notifications that are sent in one message. The
// zero value is ready to use. It is sent once, by [Session.SendBatch] or
// [Session.GoBatch], and is for one goroutine until then.
//
// A Batch must not be copied after its first use: its methods panic on the copy, and
// go vet finds most copies.
type Batch struct {
	_         noCopy
	self      *Batch // the receiver of the first use, which a copy is not
	entries   []batchEntry
	futures   []Future // to be given to the next calls
	sent      bool
	own       *Future // the outcome of the whole
	unsettled int     // members without an outcome
	answered  bool    // a member of an array was the reply to one of ours
}

// noCopy makes go vet report the copies of a struct that has a field of this type.
type noCopy struct{}

// Lock and Unlock are what go vet looks for. Nobody calls them.
func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// checkCopy panics if b is a copy of a batch that was used.
func (b *Batch) checkCopy() {
	if b.self == nil {
		b.self = b
	}
	if b.self != b {
		panic("rpcx: a Batch was copied after its first use: pass a *Batch instead")
	}
}

type batchEntry struct {
	method string
	params any
	future *Future // nil for a notification
}

// Call adds a call. Its result goes to dest, a pointer or nil, when
// [Session.SendBatch] returns or when the future or the batch's is waited for.
func (b *Batch) Call(method string, params, dest any) *Future {
	b.checkCopy()
	if b.sent {
		return failed(nil, method, ErrBatchSent)
	}
	if len(b.futures) == 0 {
		b.futures = make([]Future, min(max(1, len(b.entries)), 64))
	}
	f := &b.futures[0]
	b.futures = b.futures[1:]
	f.method, f.batch, f.dest = method, b, dest
	b.entries = append(b.entries, batchEntry{method, params, f})
	return f
}

// Notify adds a notification.
func (b *Batch) Notify(method string, params any) {
	b.checkCopy()
	b.entries = append(b.entries, batchEntry{method, params, nil})
}

// Len returns the number of calls and notifications.
func (b *Batch) Len() int { return len(b.entries) }

// isEmpty reports whether nothing was added.
func (b *Batch) isEmpty() bool {
	b.checkCopy()
	return !b.sent && len(b.entries) == 0
}

// Append appends the batch as one message under p, without framing, to dst; id
// gives the calls their ids. It fails, with dst as it was, if a member cannot be
// built, or if p has no batches. It is for use without a session.
func (b *Batch) Append(dst []byte, p Protocol, c Codec, id func() ID) ([]byte, error) {
	b.checkCopy()
	f := getFrames(0)
	defer f.put()
	for i, e := range b.entries {
		var err error
		if e.future != nil {
			f.buf, err = p.AppendRequest(f.buf, id(), e.method, e.params, c)
		} else {
			f.buf, err = p.AppendNotification(f.buf, e.method, e.params, c)
		}
		if err != nil {
			// A protocol that has no batches says so, whatever their members are.
			if _, none := p.AppendBatch(nil, [][]byte{[]byte("0")}); none != nil {
				return dst, none
			}
			return dst, fmt.Errorf("member %d of the batch, %q: %w", i+1, e.method, asUnsent(err))
		}
		f.ends = append(f.ends, len(f.buf))
	}
	sc := getScratch()
	defer sc.put()
	sc.parts = slices.AppendSeq(sc.parts, split(f.buf, f.ends))
	return p.AppendBatch(dst, sc.parts)
}

// SendBatch sends b and waits for the replies to all of its calls. ctx bounds
// the whole, as for [Session.Call]. If a call fails the error is a
// [*BatchError]; then the results of the others are there all the same. If the
// batch cannot be sent the error says why, and because of which member. A batch of
// notifications only is over when it has been queued. For an empty batch nothing is
// sent, and nil returned; it may be filled and sent later.
func (s *Session) SendBatch(ctx context.Context, b *Batch) error {
	mustHaveContext("Session.SendBatch", ctx)
	if b.isEmpty() {
		return nil
	}
	own, err := s.sendBatch(ctx, b)
	if err != nil {
		return err
	}
	if err := own.wait(ctx); err != nil {
		s.giveUp(own, err)
		<-own.Done()
	}
	return own.fill()
}

// GoBatch sends b and returns a future for the whole of it. It waits, and ctx bounds
// the calls, as for [Session.Go]; to Limits.Outgoing a batch is one call. For an empty
// batch nothing is sent, as by SendBatch, and the future is done.
func (s *Session) GoBatch(ctx context.Context, b *Batch) *Future {
	mustHaveContext("Session.GoBatch", ctx)
	if b.isEmpty() {
		done := newFuture(s, "")
		done.members = []*Future{}
		done.finish()
		return done
	}
	own, err := s.sendBatch(ctx, b)
	if err != nil {
		return failed(s, "", err)
	}
	own.watch(ctx)
	return own
}

// sendBatch queues b and returns the future of the whole.
func (s *Session) sendBatch(ctx context.Context, b *Batch) (*Future, error) {
	b.checkCopy()
	if b.sent {
		return nil, ErrBatchSent
	}
	b.sent = true
	own := newFuture(s, "")
	own.members = make([]*Future, 0, len(b.entries))
	_, own.untimed = ctx.Deadline()
	b.own = own
	b.entries = slices.DeleteFunc(b.entries, func(e batchEntry) bool {
		if e.future == nil {
			return false
		}
		own.members = append(own.members, e.future)
		return !e.future.send(s) // it was cancelled
	})
	if len(b.entries) == 0 && len(own.members) > 0 {
		own.finish()
		return own, nil
	}
	err := context.Cause(ctx)
	if n := len(b.entries); err == nil && n > s.limits.Batch {
		// The receiver, whose limit is the same by default, would refuse it as a
		// whole, and this side a reply of as many members.
		err = unsentf(CodeInvalidRequest, "batch too long: %s calls and notifications, %s: send it in parts, or raise the limit at both ends",
			thousands(n), over(s.limits.Batch, "members", "Limits.Batch"))
	}
	if err == nil {
		err = s.queueBatch(ctx, b)
	}
	if err != nil {
		for _, f := range own.members {
			f.fail(err)
		}
		return nil, err
	}
	if b.calls() == 0 {
		own.finish()
	}
	return own, nil
}

// calls counts the calls.
func (b *Batch) calls() (n int) {
	for _, e := range b.entries {
		if e.future != nil {
			n++
		}
	}
	return n
}

func (s *Session) queueBatch(ctx context.Context, b *Batch) error {
	sc := getScratch()
	defer sc.put()
	next := 0
	var err error
	sc.msg, err = b.Append(sc.msg[:0], s.Protocol(), s.codec, func() ID {
		for b.entries[next].future == nil {
			next++
		}
		sc.id = strconv.AppendUint(sc.id[:0], b.entries[next].future.id, 10)
		next++
		return sc.id
	})
	if err != nil {
		return asUnsent(err)
	}
	if err = s.post(ctx, sc, fromCaller, b.own); err != nil {
		return err
	}
	for _, e := range b.entries {
		if e.future != nil && e.future.isWithdrawn() { // just before it was in the table
			s.giveUp(e.future, ErrCancelled)
		}
	}
	if s.trace.RequestSent != nil {
		for _, e := range b.entries {
			s.traceSent(e.method, e.future)
		}
	}
	return nil
}
