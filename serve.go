package rpcx

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"runtime/debug"
	"strconv"
	"time"

	"example.com/rpcx/internal/bounded"
)

// peerRequest is a request or notification of the peer, from arrival to reply.
type peerRequest struct {
	Request
	ctx           handlerContext
	entry         queueEntry // the request as a single, or the batch with the request
	arrived       time.Duration
	index         int32 // position in the batch
	handlingBytes int32 // bytes counted while the handler runs; 0 if few
	begun         bool  // the handler was called, or will be after a delay
	delayed       bool  // the handler waits for the end of the delay
	answered      bool  // replied to, or nobody waits for the end any more
	disconnect    bool  // close the session after the reply, as the handler wants
	tooLarge      bool  // an error replaces the reply; the peer is not at fault
	replyDone     bool  // the handler has returned, and the reply is sent; only Trace and the close remain
}

// initFromItem initializes c from item. in is the queue entry of c.
func (c *peerRequest) initFromItem(s *Session, item *Item, in queueEntry) {
	c.Request = Request{Method: item.Method, ID: item.ID, Params: item.Params, session: s}
	c.Params.codec = s.codec
	c.ctx.parent, c.ctx.session, c.ctx.request = context.Background(), s, &c.Request
	if x := s.exchange(); x != nil {
		c.ctx.parent = x.ctx
	}
	c.entry = in
	if size := c.size(); size >= minHandling && s.load.handlingLimit != 0 {
		p := &c.Params
		for _, data := range [][]byte{p.Positional, p.Named, p.Raw} {
			size += objectSize * bytes.Count(data, []byte{'{'})
		}
		c.handlingBytes = int32(min(size, math.MaxInt32))
	}
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

// isWaitingNotification reports whether a discarded queue would lose c.
func (c *peerRequest) isWaitingNotification() bool {
	return c.IsNotification() && !c.begun && !c.answered
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
	result, err := s.handler.ServeRPC(&c.ctx, &c.Request)
	rs.finishRequest(c, result, err)
}

// maxStack bounds the logged stack of a panic. A record over the log budget would not be
// logged.
const maxStack = 8 << 10

// wireError returns the error to be sent for err. If the text of err is not for the peer,
// wireError returns nil.
func wireError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if p, ok := errors.AsType[*ProtocolError](err); ok && !p.Unsent && p.Code != CodeInternalError { // unsent messages and internal errors are this side's
		return &Error{Code: p.Code, Message: p.Message}
	}
	return nil
}

// opaqueErrorFor returns the error to be sent for an err without a wire form.
func (rs *requestServer) opaqueErrorFor(err error) *Error {
	if p, ok := rs.s.Protocol().(ServiceProtocol); ok {
		return p.Exception(err)
	}
	return InternalError() // the text of err stays here
}

// hintForeign returns a hint if err, from a handler, has the error type of another
// JSON-RPC library. The session does not send the code and message of a foreign error.
func (rs *requestServer) hintForeign(err error) []slog.Attr {
	s := rs.s
	if !s.log.Enabled(context.Background(), slog.LevelError) {
		return nil
	}
	if _, service := s.Protocol().(ServiceProtocol); service || !hasForeignCode(err) {
		return nil
	}
	return []slog.Attr{slog.String("hint",
		fmt.Sprintf("the code and the message of an *rpcx.Error are sent, and those of a %T are not: return rpcx.Errorf(code, …)", err))}
}

// hasForeignCode reports whether err, or a wrapped error, has a code like the errors of
// foreign JSON-RPC libraries. The code is a method, or a field beside the message.
func hasForeignCode(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		t := reflect.TypeOf(err)
		for _, name := range []string{"ErrorCode", "ErrCode"} {
			if m, ok := t.MethodByName(name); ok && m.Type.NumIn() == 1 && m.Type.NumOut() == 1 && m.Type.Out(0).ConvertibleTo(reflect.TypeFor[int]()) {
				return true
			}
		}
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			continue
		}
		code, hasCode := t.FieldByName("Code")
		message, hasMessage := t.FieldByName("Message")
		if hasCode && hasMessage && code.Type.ConvertibleTo(reflect.TypeFor[int]()) && message.Type.Kind() == reflect.String {
			return true
		}
	}
	return false
}

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
	sc := getEncodeBuffer()
	defer sc.recycle()
	if !c.IsNotification() {
		e = rs.encodeReply(sc, c, result, e)
	}
	e = rs.sendReply(c, sc, e)
	c.replyDone = true
	if s.trace.ReplySent != nil {
		if e != nil && err == nil {
			err = e
		}
		s.trace.ReplySent(&c.Request, err, s.now()-c.arrived)
	}
	if first {
		s.cost.closeForCost()
	} else if c.disconnect && !c.deferEnd(s) {
		s.closePolitely(ErrClosed)
	}
}

// errorHint returns a hint how to fix the failure of c, or "" if no hint is known.
func (c *peerRequest) errorHint(e *Error) string {
	if _, objects := c.Params.codec.(*objectCodec); !objects && e.Code == CodeInvalidParams &&
		(bytes.Contains(c.Params.Positional, objectStart) || bytes.Contains(c.Params.Named, objectStart)) {
		return looksLikeObject
	}
	return e.Hint
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

// failureOf returns the error that a handler returned as the result, or nil.
func failureOf(result any) error {
	switch v := result.(type) {
	case Error: // only a *Error implements error
		return &v
	case error:
		if !isNilPointer(v) {
			return v
		}
	}
	return nil
}

// noNilError returns err. If err is a nil pointer, whose methods may panic, noNilError
// returns a new error instead.
func noNilError(err error) error {
	if err != nil && isNilPointer(err) {
		return fmt.Errorf("the handler returned a nil %T as its error: where there is none it has to return nil", err)
	}
	return err
}

// isNilPointer reports whether v is a nil pointer, such as a nil *Error returned as an
// error.
func isNilPointer(v any) bool {
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
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
	return true
}

// findDisconnect returns the [*Disconnect] that the handler returned, or nil.
func findDisconnect(result any, err error) *Disconnect {
	if d, ok := result.(*Disconnect); ok || err == nil {
		return d
	}
	d, _ := errors.AsType[*Disconnect](err)
	return d
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

func responseTooLarge(limit int) *Error {
	return InvalidRequest("response too large (over %s bytes)", thousands(limit))
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
// that has timed out, the result is late. sendReply returns the error in the reply, or nil.
func (rs *requestServer) sendReply(c *peerRequest, sc *encodeBuffer, e *Error) *Error {
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
		s.unlock()
		return e
	}
	if e != nil && (c.ctx.endCause() != ErrPeerCancelled || e.Code != s.cancellation.Code) {
		s.stats.Errors++
		s.cost.addCostLocked(s.cost.costOfErrorLocked(c, e) + e.Cost)
		if e.Code == CodeMethodNotFound || e.Code == CodeInvalidParams {
			s.cost.countPeerErrorLocked(tenthError)
			s.cost.countPeerErrorBytesLocked(tenthError, c.Params.sharedBytes())
		}
	}
	c.markAnsweredLocked(s)
	complete, lent := false, false
	switch {
	case alone:
		rs.open.removeDeadline(c.entry.requestDeadline())
		lent, _ = s.writer.enqueueFrameLocked(context.Background(), &c.ctx, sc, fromHandler, nil) // fails only if the session ends
	case b == nil:
		rs.open.removeDeadline(c.entry.requestDeadline())
	case c.IsNotification():
		b.finishMemberLocked(s)
	default:
		complete = b.storeReplyLocked(s, int(c.index), sc.msg)
	}
	s.unlock()
	switch {
	case lent:
		s.writer.writeDirectly(sc.frame)
	case complete:
		b.sendReplies(s, &c.ctx, fromHandler)
	}
	return e
}
