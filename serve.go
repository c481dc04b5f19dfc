package rpcx

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"strconv"

	"example.com/rpcx/internal/bounded"
)

// peerRequest is a request or notification of the peer, from arrival to reply.
type peerRequest struct {
	Request
	ctx           handlerContext
	entry         queueEntry // the request as a single, or the batch with the request
	handlingBytes int32      // bytes counted while the handler runs; 0 if few
	begun         bool       // the handler was called, or will be after a delay
	delayed       bool       // the handler waits for the end of the delay
	answered      bool       // replied to, or nobody waits for the end any more
	disconnect    bool       // close the session after the reply, as the handler wants
	tooLarge      bool       // an error replaces the reply; the peer is not at fault
	failed        bool       // the reply is an error; guarded by the session's lock
	timed         bool       // the run of the handler tells whether the handler is quick; see quickHandlers
	replyDone     bool       // the handler has returned, and the reply is sent; only callbacks and the close remain
	outcome       replyOutcome
}

// initFromItem initializes c from item, and numbers c. text is that of the item, if
// Options.Meta needs the text, and in is the queue entry of c. Only the reader calls
// initFromItem.
func (c *peerRequest) initFromItem(s *Session, item *Item, text []byte, in queueEntry) {
	s.reader.lastSeq++
	c.Method, c.ID, c.Params, c.session, c.seq = item.Method, item.ID, item.Params, s, s.reader.lastSeq
	c.Params.codec = s.codec
	if s.requests.meta != nil {
		c.takeMeta(s.requests.meta, text)
	}
	c.ctx.session, c.ctx.owner = s, c
	c.entry = in
	if size := c.size(); size >= minHandling && s.load.handlingLimit != 0 {
		p := &c.Params
		for _, data := range [][]byte{p.Positional, p.Named, p.Raw} {
			size += objectSize * bytes.Count(data, []byte{'{'})
		}
		c.handlingBytes = int32(min(size, math.MaxInt32))
	}
}

// appendRequests appends c if want returns true.
func (c *peerRequest) appendRequests(calls []*peerRequest, want func(*peerRequest) bool) []*peerRequest {
	if want(c) {
		calls = append(calls, c)
	}
	return calls
}

// parentBatch returns the batch with the member c, or nil if c came alone.
func (c *peerRequest) parentBatch() *peerBatch {
	b, _ := c.entry.(*peerBatch)
	return b
}

// size returns the number of bytes of c: of the whole message, or of the params of a
// member.
func (c *peerRequest) size() int {
	if single, ok := c.entry.(*singleRequest); ok {
		return single.queuedBytes()
	}
	p := &c.Params
	return len(p.Positional) + len(p.Named) + len(p.Raw)
}

// about returns the log message and an attribute for an unhandled c. Only the log reports
// a dropped notification.
func (c *peerRequest) about() (msg string, what slog.Attr) {
	msg = "request refused"
	if c.IsNotification() {
		msg = "notification dropped"
	}
	return msg, methodAttr(c.Method)
}

// isRunning reports whether the handler of c was called. A delayed handler was not.
func (c *peerRequest) isRunning() bool { return c.begun && !c.delayed }

// isOpen reports whether c has begun, perhaps with a delay, and is unanswered.
func (c *peerRequest) isOpen() bool { return c.begun && !c.answered }

// isUnbegun reports whether c waits in the queue, and is unanswered.
func (c *peerRequest) isUnbegun() bool { return !c.begun && !c.answered }

// isUnhandled reports whether c waits in the queue or for the end of a delay, and is
// unanswered.
func (c *peerRequest) isUnhandled() bool { return !c.isRunning() && !c.answered }

// isWaitingNotification reports whether a discarded queue would lose c.
func (c *peerRequest) isWaitingNotification() bool {
	return c.IsNotification() && c.isUnbegun()
}

// markBegun sets the handler's deadline just before the handler of c is called.
func (c *peerRequest) markBegun(s *Session) {
	c.begun = true
	c.ctx.deadline = after(c.arrived, s.limits.ProcessingTimeout)
}

// runHandler runs the handler of c and sends the reply.
func (rs *requestServer) runHandler(c *peerRequest) {
	s := rs.s
	if s.trace.RequestReceived != nil {
		s.trace.RequestReceived(&c.Request)
	}
	defer func() {
		if c.replyDone { // a panic of a Trace or a callback ends the program
			return
		}
		// The handler, or the encoding of the result, panicked or ended the goroutine. In
		// both cases the caller gets an error.
		if r := recover(); r != nil {
			s.logs.logHandlerLater(slog.LevelError, "handler panicked", c, nil,
				slog.String("panic", bounded.Text(fmt.Sprint(r))), slog.String("stack", bounded.Cut(debug.Stack(), maxStack)))
		}
		rs.finishRequest(c, nil, InternalError())
	}()
	ctx := c.contextForHandler()
	if !c.timed {
		result, err := s.handler.ServeRPC(ctx, &c.Request)
		rs.finishRequest(c, result, err)
		return
	}
	start := s.now()
	result, err := s.handler.ServeRPC(ctx, &c.Request)
	if e, ok := err.(*Error); !ok || e.Code != CodeMethodNotFound { // there is a handler
		s.pool.handlers.recordRun(c.Method, s.now()-start)
	}
	rs.finishRequest(c, result, err)
}

// maxStack bounds the logged stack of a panic. A record over the log budget would not be
// logged.
const maxStack = 8 << 10

// finishRequest ends the handling of c and sends the reply. A notification, or a request
// that was answered at the deadline, gets no reply.
func (rs *requestServer) finishRequest(c *peerRequest, result any, err error) {
	s := rs.s
	if c.ctx.endWith(errHandlerReturned) {
		rs.expireRequest(c)
	}
	err = noNilError(err)
	d := findDisconnect(result, err)
	if d != nil {
		c.disconnect = true // even if an error has to replace the reply
		result, err = d.reply, nil
		if e, ok := d.reply.(error); ok {
			result, err = nil, e
		}
	}
	if failure := failureOf(result); failure != nil && err == nil {
		result, err = nil, failure
	}
	err = noNilError(err)
	var e *Error
	excessive, first := errors.Is(err, ErrExcessiveCost), false
	switch {
	case err == nil:
	case excessive:
		s.lock()
		first = !s.cost.limitExceeded
		s.cost.limitExceeded, s.cost.byHandler = true, s.cost.byHandler || first
		e = s.cost.excessiveErrorLocked()
		s.unlock()
	case s.cancellation != nil && c.failedByCancellation(err):
		e = rs.cancellationError()
	default:
		if e = wireError(err); e == nil {
			e = rs.opaqueErrorFor(err)
			level := slog.LevelError
			if c.failedByContext(err) {
				level = slog.LevelDebug
			}
			s.logs.logHandlerLater(level, "handler failed", c, err, rs.hintForeign(err)...)
		} else if c.IsNotification() && e.Code != CodeInternalError || c.errorHint(e) != "" { // only the log reports a failed notification; a panic is logged already
			rs.logFailedRequest(c, e)
		}
	}
	e, completed, ready := rs.encodeAndSendReply(c, result, e)
	c.replyDone = true
	if s.trace.ReplySent != nil {
		if e != nil && err == nil {
			err = e
		}
		s.trace.ReplySent(&c.Request, err, s.now()-c.arrived)
	}
	defer rs.endSessionAfter(c, completed, first) // also if a callback ends the goroutine
	if len(ready) > 0 {
		rs.runCallbacks(ready, nil)
	}
}

// endSessionAfter ends the session if the handler of c wants. completed is the batch for
// finishSending, or nil. excessive is set if the handler was the first to return
// ErrExcessiveCost.
func (rs *requestServer) endSessionAfter(c *peerRequest, completed *peerBatch, excessive bool) {
	s := rs.s
	if completed != nil {
		completed.finishSending(s)
	}
	if excessive {
		s.cost.closeForCost()
	} else if c.disconnect && !c.deferEnd(s) {
		s.closePolitely(ErrClosed)
	}
}

// encodeAndSendReply encodes the reply to c, e or result if e is nil, and sends it as
// sendReply does.
func (rs *requestServer) encodeAndSendReply(c *peerRequest, result any, e *Error) (sent *Error, completed *peerBatch, ready []*peerRequest) {
	sc := getEncodeBuffer()
	defer sc.recycle()
	if !c.IsNotification() {
		e = rs.encodeReply(sc, c, result, e)
	}
	return rs.sendReply(c, sc, e)
}

// logFailedRequest logs the error e of the handler of c, with a hint if known.
func (rs *requestServer) logFailedRequest(c *peerRequest, e *Error) {
	msg := "request failed"
	if c.IsNotification() {
		msg = "notification failed"
	}
	var attrs []slog.Attr
	if hint := c.errorHint(e); hint != "" {
		attrs = append(attrs, slog.String("hint", hint))
	}
	rs.s.logs.logHandlerLater(slog.LevelInfo, msg, c, e, attrs...)
}

// failedByContext reports whether the handler of c failed because the context had ended
// before. A handler should then fail, because nobody waits for the result.
func (c *peerRequest) failedByContext(err error) bool {
	cause := c.ctx.endCause()
	return cause != errHandlerReturned &&
		(errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, cause))
}

// expireRequest makes c expire now. The handler has noticed the end of the deadline before
// the session's timer.
func (rs *requestServer) expireRequest(c *peerRequest) {
	s := rs.s
	if x := s.exchange(); x != nil && x.closeIfContextEnded() {
		return // not the deadline has ended the handler's context
	}
	s.lock()
	defer s.unlock()
	if c.answered {
		return
	}
	c.entry.expireLocked(s)
	rs.open.removeDeadline(c.entry.requestDeadline())
}

// deferEnd leaves the end of the session to the batch of c, and reports whether the batch
// takes over. The batch ends the session once the replies are queued.
func (c *peerRequest) deferEnd(s *Session) bool {
	s.lock()
	defer s.unlock()
	b := c.parentBatch()
	if b == nil || b.missingReplies == 0 && !b.sending {
		return false
	}
	b.disconnect = true
	if s.requests.gate.closed.Load() { // one member must not let in the next
		s.requests.gate.admitted = false
		s.requests.refuseForShutdownLocked(b, fromReader)
	}
	return true
}

// encodeReply encodes the reply to c: e, or result if e is nil. It returns the error in
// the reply, or nil.
func (rs *requestServer) encodeReply(sc *encodeBuffer, c *peerRequest, result any, e *Error) *Error {
	s := rs.s
	if e == nil {
		var err error
		if sc.msg, err = s.Protocol().AppendResult(sc.msg[:0], c.ID, result, s.codec); err != nil {
			s.logs.logHandlerLater(slog.LevelError, "result cannot be encoded", c, err)
			e = InternalError()
		}
	}
	if e != nil {
		rs.encodeError(sc, c.ID, e)
	}
	if limit := rs.maxResponse(); len(sc.msg) > limit && c.parentBatch() == nil { // a batch has a limit for the sum
		e = rs.encodeTooLarge(sc, c, limit)
	}
	return e
}

// maxResponse returns the effective Limits.Response, which depends on the connection's
// largest message.
func (rs *requestServer) maxResponse() int {
	s := rs.s
	limit, largest := s.limits.Response, s.conn.maxMessage()
	switch {
	case largest == 0:
		return cmp.Or(limit, DefaultMaxSize)
	case limit == 0:
		return largest
	}
	return min(limit, largest)
}

// encodeTooLarge encodes the error that replaces a reply over limit.
func (rs *requestServer) encodeTooLarge(sc *encodeBuffer, c *peerRequest, limit int) *Error {
	s := rs.s
	e, field := responseTooLarge(limit), rs.responseField(limit)
	c.tooLarge = true
	rs.encodeError(sc, c.ID, e)
	s.lock()
	s.logs.logPeerLaterLocked(slog.LevelWarn, "reply is too large, and is replaced by an error",
		methodAttr(c.Method), byteLimitAttr(field, limit))
	s.unlock()
	return e
}

// responseField returns the name of the exceeded field, whose value is limit. Callers must
// not hold s.mu, because the framer may be the user's (I5).
func (rs *requestServer) responseField(limit int) string {
	s := rs.s
	switch limit {
	case s.limits.Response:
	case s.conn.maxMessage():
		return s.conn.maxMessageField()
	case s.limits.Outbox: // limit for the replies of unfinished batches
		return "Limits.Outbox"
	}
	return "Limits.Response"
}

// frameError frames the response in sc, which carries e. If the id makes the response too
// large, null replaces the id.
func (rs *requestServer) frameError(sc *encodeBuffer, e *Error) error {
	s := rs.s
	err := s.writer.frameMessage(sc)
	if _, ok := errors.AsType[*SizeError](err); ok && rs.encodeError(sc, nil, e) {
		err = s.writer.frameMessage(sc)
	}
	return err
}

// encodeError encodes the response that carries e, and reports whether a response can be
// sent. If the data of e cannot be encoded, the response has no data.
func (rs *requestServer) encodeError(sc *encodeBuffer, id ID, e *Error) bool {
	s := rs.s
	p := s.Protocol()
	var err error
	if sc.msg, err = p.AppendError(sc.msg[:0], id, e, s.codec); err != nil && e.Data != nil {
		s.notePeer(slog.LevelError, "data of an error cannot be encoded, and is left out", slog.String("code", strconv.Itoa(e.Code)), errorAttr(err))
		sc.msg, err = p.AppendError(sc.msg[:0], id, &Error{Code: e.Code, Message: e.Message}, s.codec)
	}
	if err != nil {
		s.notePeer(slog.LevelError, "error cannot be encoded", errorAttr(err))
	}
	return err == nil
}

// sendErrorReply sends the response that carries e.
func (rs *requestServer) sendErrorReply(id ID, e *Error, from sendMode) {
	s := rs.s
	sc := getEncodeBuffer()
	defer sc.recycle()
	if !rs.encodeError(sc, id, e) {
		return
	}
	if err := rs.frameError(sc, e); err != nil {
		s.notePeer(slog.LevelError, "error cannot be framed", errorAttr(err))
		return
	}
	_ = s.writer.sendFrame(context.Background(), nil, sc, from, nil) // fails only if the session ends
}

// sendReply sends the reply to c in sc, unless c was already answered. A notification gets
// no reply, and is only marked as answered. If c was already answered, or is a notification
// that has timed out, the result is late.
//
// sendReply returns the error in the reply, or nil; the batch, if its replies are sent now,
// for finishSending; and the requests for runCallbacks.
func (rs *requestServer) sendReply(c *peerRequest, sc *encodeBuffer, e *Error) (sent *Error, completed *peerBatch, ready []*peerRequest) {
	s := rs.s
	b := c.parentBatch()
	alone := b == nil && !c.IsNotification()
	if alone {
		if err := s.writer.frameMessage(sc); err != nil {
			if size, ok := errors.AsType[*SizeError](err); ok { // in an error reply, the id is too large
				e = rs.encodeTooLarge(sc, c, size.Limit)
			} else {
				s.logs.logHandlerLater(slog.LevelError, "reply cannot be framed", c, err)
				e = InternalError()
				rs.encodeError(sc, c.ID, e)
			}
			alone = rs.frameError(sc, e) == nil // if false, no reply can be sent
		}
	}
	s.lock()
	if b != nil && !c.answered && !c.IsNotification() {
		if limit := b.reserveReplyLocked(s, len(sc.msg)); limit > 0 {
			s.unlock()
			e = rs.encodeTooLarge(sc, c, limit)
			s.lock()
		}
	}
	if c.answered { // and charged
		s.stats.LateResults++
		c.outcome = replyNone
		ready = rs.ownCallbacksLocked(c)
		s.unlock()
		return e, nil, ready
	}
	cancelled := e != nil && c.ctx.endCause() == ErrPeerCancelled && e.Code == s.cancellation.Code
	if e != nil && !cancelled {
		s.stats.Errors++
		s.cost.addCostLocked(s.cost.costOfErrorLocked(c, e) + e.Cost)
		if e.Code == CodeMethodNotFound || e.Code == CodeInvalidParams {
			s.cost.countPeerErrorLocked(tenthError)
			s.cost.countPeerErrorBytesLocked(tenthError, c.Params.sharedBytes())
		}
	}
	c.markAnsweredLocked(s)
	complete, lent, outcome := false, false, replyUnsent
	switch {
	case alone:
		rs.open.removeDeadline(c.entry.requestDeadline())
		var err error // only if the session ends
		if lent, err = s.writer.enqueueFrameLocked(context.Background(), &c.ctx, sc, fromHandler, nil); err == nil {
			outcome = replyQueued
		}
	case b == nil:
		rs.open.removeDeadline(c.entry.requestDeadline())
	case c.IsNotification():
		b.finishMemberLocked(s)
	default:
		complete = b.storeReplyLocked(s, int(c.index), sc.msg)
		outcome = replyInBatch
	}
	c.failed = e != nil
	if c.outcome = outcome; cancelled {
		c.outcome = replyNone
	}
	ready = rs.ownCallbacksLocked(c)
	s.unlock()
	switch {
	case lent:
		s.writer.writeDirectly(sc.frame)
	case complete:
		return e, b, append(ready, b.sendReplies(s, &c.ctx, fromHandler)...)
	}
	return e, nil, ready
}
