package rpcx

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
)

// Call calls method at the peer, waits for the reply, and decodes its result
// into result, a pointer, unless that is nil.
//
// params is what encodes to an array or an object: [Args] for positional
// arguments, a map or a struct for named ones, nil for none, [EmptyArgs] for none in
// an array.
//
// ctx bounds the whole call, waiting for room in the outbox included: when it
// ends the call is given up and fails with ctx's cause. If ctx has no deadline,
// Limits.RequestTimeout applies, and the error is [ErrTimeout]; a deadline of ctx counts
// instead, even one that is longer. An error that matches context.DeadlineExceeded may be
// wrapped, to say that a bad message came meanwhile, or that what has come is not taken for
// a message. If the peer
// answers with an error it is an [*Error]; if its answer is ill-formed a
// [*ProtocolError]; if the connection ends first a [*ConnectionError]; if the
// session is over already it matches [ErrClosed]. If the request is larger than the
// framer takes, or the reply was, it is a [*SizeError].
func (s *Session) Call(ctx context.Context, method string, params, result any) error {
	mustHaveContext("Session.Call", ctx)
	f := s.pool.call(s, method)
	if err := s.send(ctx, f, params); err != nil {
		s.pool.putCall(f)
		return err
	}
	h := handlerOf(ctx)
	s.waitForReply(h)
	if end := ctx.Done(); end == nil {
		<-f.done
	} else {
		select {
		case <-f.done:
		case <-end:
			s.giveUp(f, context.Cause(ctx))
			<-f.done // by whoever removed it from the table, if not by us (I3)
		}
	}
	s.waitedForReply(h)
	err := f.decode(result)
	s.pool.putCall(f) // not after a panic (of a hook, say), when the table may have it still
	return err
}

// Go calls method at the peer and returns a future for the result, as soon as
// the request is queued. Before that it waits while the outbox is full, and, unless
// ctx is a handler's, while as many calls as Limits.Outgoing says have no reply (50
// in the beginning). ctx bounds the whole call, as for [Session.Call], not only Go.
// If Go, Notify or GoBatch has returned before another of them is called, its
// message leaves first.
func (s *Session) Go(ctx context.Context, method string, params any) *Future {
	mustHaveContext("Session.Go", ctx)
	f := newFuture(s, method)
	if err := s.send(ctx, f, params); err != nil {
		f.fail(err)
		return f
	}
	f.watch(ctx)
	return f
}

// Notify sends a notification: a request that is not answered. It returns when
// the message is queued; ctx bounds the wait for room in the outbox. The error is
// ctx's cause, one that matches [ErrClosed], or why the message cannot be built or
// framed: a [*SizeError] if it is larger than the framer takes. That it returns nil does
// not mean that the peer has the notification: before a program ends, it should call
// [Session.Shutdown], which waits until all is written, and not only Close.
func (s *Session) Notify(ctx context.Context, method string, params any) error {
	mustHaveContext("Session.Notify", ctx)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	err := s.notify(ctx, fromCaller, method, params)
	if err == nil {
		s.traceSent(method, nil)
	}
	return err
}

// notify encodes and queues a notification.
func (s *Session) notify(ctx context.Context, from sender, method string, params any) (err error) {
	sc := getScratch()
	defer sc.put()
	if sc.msg, err = s.Protocol().AppendNotification(sc.msg[:0], method, params, s.codec); err != nil {
		return asUnsent(err)
	}
	return s.post(ctx, sc, from, nil)
}

// mention sends a notification of the session's own, if the outbox has room, and
// reports whether one could be sent. If not, and the session goes on, it has failed
// logged.
func (s *Session) mention(method string, params any, failed string) bool {
	err := s.notify(context.Background(), fromNobody, method, params)
	if err != nil && !errors.Is(err, ErrClosed) && s.log.Handler() != slog.DiscardHandler {
		attrs := []slog.Attr{errorAttr(err)}
		size := recordSize(failed, attrs)
		s.lock()
		s.noteOfSizeLocked(size, slog.LevelWarn, failed, attrs)
		s.unlock()
	}
	return err == nil
}

// send encodes and queues a request.
func (s *Session) send(ctx context.Context, f *Future, params any) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	sc := getScratch()
	defer sc.put()
	f.id = s.table.newID()
	_, f.untimed = ctx.Deadline()
	sc.id = strconv.AppendUint(sc.id[:0], f.id, 10)
	var err error
	if sc.msg, err = s.Protocol().AppendRequest(sc.msg[:0], sc.id, f.method, params, s.codec); err != nil {
		return asUnsent(err)
	}
	if err = s.post(ctx, sc, fromCaller, f); err == nil {
		s.traceSent(f.method, f)
	}
	return err
}

// watch gives the call up when ctx ends. It needs no goroutine until then.
func (f *Future) watch(ctx context.Context) {
	if ctx.Done() == nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { f.session.giveUp(f, context.Cause(ctx)) })
	f.mu.Lock()
	f.stop = stop
	finished := f.finished
	f.mu.Unlock()
	if finished {
		stop()
	}
}

// giveUp ends a call without its reply, if it is not over.
func (s *Session) giveUp(f *Future, err error) {
	late := errors.Is(err, context.DeadlineExceeded) // before the lock is held: err may be the user's
	s.lock()
	if late {
		err = s.timeoutErrorLocked(f, err)
	}
	s.forget(f, err)
	s.unlock()
}

// forget removes a call, or all that is pending of a batch, from the table. Callers must
// hold s.mu.
func (s *Session) forget(f *Future, err error) {
	now := s.now()
	calls := f.members
	if calls == nil {
		calls = []*Future{f}
	}
	for _, c := range calls {
		if !s.table.giveUp(c) {
			continue
		}
		if s.cancel != nil {
			s.fx.abandonCall(c.id)
		}
		if c == f && f.batch != nil {
			s.fx.complete(f) // a member that is given up by itself does not wait for its batch
		}
		s.complete(c, now, nil, err)
	}
	s.rested()
}
