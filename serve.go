package rpcx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// inbox holds what waits for a worker, and knows how many workers there are.
// It is guarded by the session's lock.
type inbox struct {
	queue []entry
	head  int // of queue; before it all is nil
	count int
	bytes int

	workers int  // that have the session
	waking  bool // one was called and has not looked yet
	running int  // handlers
	held    bool // no worker is called for now
}

// entry is what waits in an inbox as one: a call, or a batch of them.
type entry interface {
	expirer
	// next returns the next call to be run, nil if none is left; last means
	// that nothing is left behind it.
	next(s *Session) (c *call, last bool)
	// refuse answers what was not begun with e.
	refuse(s *Session, e *Error)
	// running appends the calls that were begun and not answered.
	running(calls []*call) []*call
	arrive(now time.Duration)
	due() *deadline
	bytes() int
}

func (in *inbox) push(e entry) {
	in.queue = append(in.queue, e)
	in.count++
	in.bytes += e.bytes()
}

// take returns the next call to be run, nil if there is none.
func (in *inbox) take(s *Session) *call {
	for in.head < len(in.queue) {
		e := in.queue[in.head]
		c, last := e.next(s)
		if c == nil || last {
			in.queue[in.head] = nil
			if in.head++; in.head == len(in.queue) {
				in.queue, in.head = in.queue[:0], 0
			} else if in.head >= 1024 && in.head > len(in.queue)/2 {
				n := copy(in.queue, in.queue[in.head:])
				clear(in.queue[n:])
				in.queue, in.head = in.queue[:n], 0
			}
			in.count--
			in.bytes -= e.bytes()
		}
		if c != nil {
			return c
		}
	}
	return nil
}

// clear empties the inbox and returns what was in it.
func (in *inbox) clear() []entry {
	entries := in.queue[in.head:]
	in.queue, in.head, in.count, in.bytes = nil, 0, 0, 0
	return entries
}

// wants reports whether another worker is to be called, and counts it in if so:
// one at a time, and only while work waits that nobody is coming for.
func (in *inbox) wants(limit int) bool {
	if in.waking || in.held || in.workers >= limit || in.head == len(in.queue) {
		return false
	}
	in.waking = true
	in.workers++
	return true
}

// admit queues what has arrived, or returns why it is refused. It is called
// under the lock.
func (s *Session) admit(e entry) *Error {
	var refusal *Error
	switch size := e.bytes(); {
	case s.state >= stateClosing:
		return nil // nobody waits for an answer any more
	case s.state == stateDraining:
		return ServerBusy("shutting down")
	case s.in.count >= s.limits.Queue:
		refusal = ServerBusy(fmt.Sprintf("over %d requests waiting (Limits.Queue)", s.limits.Queue))
	case s.in.count > 0 && size > s.limits.QueueBytes-s.in.bytes:
		refusal = ServerBusy(fmt.Sprintf("over %d bytes of requests waiting (Limits.QueueBytes)", s.limits.QueueBytes))
	}
	if refusal != nil {
		s.fault(refusal)
		return refusal
	}
	now := s.now()
	e.arrive(now)
	s.incoming.add(s, e.due(), after(now, s.limits.ProcessingTimeout), e)
	s.in.push(e)
	return nil
}

// work handles requests until there are none.
func (s *Session) work() {
	s.mu.Lock()
	s.in.waking = false
	clean := false
	defer func() {
		if !clean { // a handler ended the goroutine: runtime.Goexit
			s.mu.Lock()
			s.in.running--
		}
		s.in.workers--
		wake := !clean && s.in.wants(s.limits.Concurrency)
		s.checkDrained()
		s.leave()
		s.mu.Unlock()
		if wake {
			s.pool.run(s.workFn)
		}
	}()
	for s.in.workers <= s.limits.Concurrency {
		c := s.in.take(s)
		if c == nil {
			break
		}
		s.in.running++
		s.stats.RequestsReceived++
		if s.state >= stateClosing {
			c.ctx.end(s.cause)
		}
		wake := s.in.wants(s.limits.Concurrency)
		s.mu.Unlock()
		if wake {
			s.pool.run(s.workFn)
		}
		s.serve(c)
		s.mu.Lock()
		s.in.running--
		s.checkDrained()
	}
	clean = true
}

// call is a request or notification that is to be handled, or is.
type call struct {
	Request
	ctx      handlerContext
	deadline deadline // unless it is a member of a batch, which has one
	arrived  time.Duration
	size     int
	batch    *inBatch
	index    int      // in the batch
	begun    bool     // its handler was called
	answered bool     // it was replied to, or nobody waits for its end any more
	arena    [64]byte // what the request has of its message, if that is little
}

func newCall(s *Session, item *Item) *call {
	c := &call{Request: Request{Method: item.Method, ID: item.ID, Params: item.Params, session: s}}
	c.Params.codec = s.codec
	c.ctx.session = s
	return c
}

func (c *call) arrive(now time.Duration) { c.arrived = now }
func (c *call) bytes() int               { return c.size }
func (c *call) due() *deadline           { return &c.deadline }

func (c *call) begin(s *Session) {
	c.begun = true
	c.ctx.deadline = after(c.arrived, s.limits.ProcessingTimeout)
}

func (c *call) next(s *Session) (*call, bool) {
	if c.answered || s.state >= stateClosing && !c.IsNotification() {
		return nil, true
	}
	c.begin(s)
	return c, true
}

func (c *call) running(calls []*call) []*call {
	if c.begun && !c.answered {
		calls = append(calls, c)
	}
	return calls
}

func (c *call) refuse(s *Session, e *Error) {
	s.mu.Lock()
	claimed := !c.answered // it may have expired meanwhile
	if claimed {
		s.incoming.remove(&c.deadline)
		c.drop(s)
	}
	s.mu.Unlock()
	if claimed {
		c.fail(s, e)
	}
}

// drop gives up the answering of c, or of c's handler to it. Who calls it has to
// call fail, without the lock.
func (c *call) drop(s *Session) {
	c.answered = true
	if c.IsNotification() && !c.begun {
		s.stats.NotificationsDropped++
	}
}

// fail answers c with e.
func (c *call) fail(s *Session, e *Error) {
	if c.IsNotification() {
		return
	}
	sc := getScratch()
	defer sc.put()
	if s.encodeError(sc, s.protocol(), c.ID, e) {
		_ = s.post(context.Background(), sc, fromReader, nil) // fails only if the session ends
	}
}

// expire implements [expirer]: Limits.ProcessingTimeout has passed.
func (c *call) expire(s *Session) func() {
	c.drop(s)
	e := ServerBusy("request timed out")
	s.fault(e)
	return func() {
		c.fail(s, e)
		c.ctx.end(errProcessing)
	}
}

// serve runs the handler of c and sends the reply.
func (s *Session) serve(c *call) {
	if s.trace.RequestReceived != nil {
		s.trace.RequestReceived(&c.Request)
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		// The handler (or the encoding of its result) panicked, or ended the
		// goroutine. Either way the caller is told that it failed.
		if r := recover(); r != nil {
			s.log.LogAttrs(context.Background(), slog.LevelError, "handler panicked",
				slog.String("method", c.Method), slog.Any("panic", r), slog.String("stack", string(debug.Stack())))
		}
		s.reply(c, nil, InternalError())
	}()
	result, err := s.handler.ServeRPC(&c.ctx, &c.Request)
	s.reply(c, result, err)
	returned = true
}

// wireError returns the error as it can be sent, nil if its text is not for the peer.
func wireError(err error) *Error {
	if e, ok := err.(*Error); ok {
		return e
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var p *ProtocolError
	if errors.As(err, &p) && p.Code != CodeInternalError { // that would be one of this side
		return &Error{Code: p.Code, Message: p.Message}
	}
	return nil
}

// reply ends the handling of c: it sends the reply, unless c is a notification
// or was answered at its deadline.
func (s *Session) reply(c *call, result any, err error) {
	if c.ctx.end(context.Canceled) {
		s.overdue(c)
	}
	d := disconnection(result, err)
	if d != nil {
		result, err = d.reply, nil
		if e, ok := d.reply.(error); ok {
			result, err = nil, e
		}
	}
	var e *Error
	if err != nil {
		if e = wireError(err); e == nil {
			e = InternalError()
			s.log.LogAttrs(context.Background(), slog.LevelError, "handler failed",
				slog.String("method", c.Method), slog.Any("error", err))
		}
	}
	sc := getScratch()
	defer sc.put()
	if !c.IsNotification() {
		e = s.encodeReply(sc, c, result, e)
	}
	s.answer(c, sc, e)
	if s.trace.ReplySent != nil {
		if e != nil && err == nil {
			err = e
		}
		s.trace.ReplySent(&c.Request, err, s.now()-c.arrived)
	}
	if d != nil && !c.deferEnd(s) {
		s.end(ErrClosed, s.limits.CloseTimeout)
	}
}

// overdue has c expire now. Its handler has seen that its time is over before the
// session's timer did.
func (s *Session) overdue(c *call) {
	var e entry = c
	if c.batch != nil {
		e = c.batch
	}
	s.mu.Lock()
	if c.answered {
		s.mu.Unlock()
		return
	}
	s.incoming.remove(e.due())
	finish := e.expire(s)
	s.mu.Unlock()
	finish()
}

// deferEnd leaves it to the batch that c is a member of to end the session,
// when its replies are sent, and reports whether it does.
func (c *call) deferEnd(s *Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.batch == nil || c.batch.waiting == 0 {
		return false
	}
	c.batch.disconnect = true
	return true
}

// disconnection returns what [ReplyAndDisconnect] made, nil if the handler did
// not return it.
func disconnection(result any, err error) *Disconnect {
	if d, ok := result.(*Disconnect); ok || err == nil {
		return d
	}
	var d *Disconnect
	errors.As(err, &d)
	return d
}

// encodeReply encodes the reply to c: e if it is not nil, or result. It returns
// the error that the reply carries.
func (s *Session) encodeReply(sc *scratch, c *call, result any, e *Error) *Error {
	p := s.protocol()
	if e == nil {
		var err error
		if sc.msg, err = p.AppendResult(sc.msg[:0], c.ID, result, s.codec); err != nil {
			s.log.LogAttrs(context.Background(), slog.LevelError, "result cannot be encoded",
				slog.String("method", c.Method), slog.Any("error", err))
			e = InternalError()
		}
	}
	if e != nil {
		s.encodeError(sc, p, c.ID, e)
	}
	size := len(sc.msg)
	if c.batch != nil {
		s.mu.Lock()
		c.batch.replySize += size + 2
		size = c.batch.replySize
		s.mu.Unlock()
	}
	if size > s.limits.Response {
		e = Errorf(CodeInvalidRequest, "response too large (over %s bytes)", thousands(s.limits.Response))
		s.encodeError(sc, p, c.ID, e)
	}
	return e
}

// encodeError encodes the response that carries e, without its data if that
// cannot be encoded, and reports whether there is one to be sent.
func (s *Session) encodeError(sc *scratch, p Protocol, id ID, e *Error) bool {
	var err error
	if sc.msg, err = p.AppendError(sc.msg[:0], id, e, s.codec); err != nil && e.Data != nil {
		sc.msg, err = p.AppendError(sc.msg[:0], id, &Error{Code: e.Code, Message: e.Message}, s.codec)
	}
	if err != nil {
		s.mu.Lock()
		s.note(slog.LevelError, "error cannot be encoded", slog.Any("error", err))
		s.mu.Unlock()
	}
	return err == nil
}

// answer sends the reply to c that sc has, unless c was answered already.
func (s *Session) answer(c *call, sc *scratch, e *Error) {
	b := c.batch
	lone := b == nil && !c.IsNotification()
	if lone {
		if err := s.framed(sc); err != nil {
			s.log.LogAttrs(context.Background(), slog.LevelError, "reply cannot be framed",
				slog.String("method", c.Method), slog.Any("error", err))
			e = InternalError()
			s.encodeError(sc, s.protocol(), c.ID, e)
			lone = s.framed(sc) == nil // if not, there is nothing to be done
		}
	}
	s.mu.Lock()
	if e != nil {
		s.stats.Errors++ // (What an error costs is to be charged here.)
	}
	if c.answered {
		s.stats.LateResults++
		s.mu.Unlock()
		return
	}
	c.answered = true
	complete := false
	switch {
	case lone:
		s.incoming.remove(&c.deadline)
		_ = s.queue(context.Background(), sc, fromHandler, nil) // fails only if the session ends
		return
	case b == nil:
		s.incoming.remove(&c.deadline)
	case c.IsNotification():
		b.finish(s, 1)
	default:
		complete = b.put(s, c.index, sc.msg)
	}
	s.mu.Unlock()
	if complete {
		b.send(s, fromHandler)
	}
}

// thousands writes n with commas between its thousands.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
