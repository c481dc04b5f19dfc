package rpcx

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// ServeMessage answers one message without a connection, for HTTP and other transports that
// bring each message its answer. The call is an exchange: a session that receives msg and
// nothing more, with the options, limits, budgets and counters of the server. The reply has
// no framing. The reply is nil if nothing is to be answered: for notifications and
// responses, for example. Any number of goroutines may call ServeMessage. ServeMessage does
// not limit the size of msg; the caller should, by [http.MaxBytesReader] for example.
//
// The first request of msg is handled on the goroutine of the caller, and further members
// of a batch on other goroutines, as Limits.Concurrency allows. ServeMessage returns when
// the reply is complete, and the handlers and functions of [AfterReply] have returned. At
// Limits.ProcessingTimeout the contexts of the handlers end, and the reply becomes an error
// ("started": true). A handler that goes on makes the caller wait. But while such a handler
// runs in the server, new messages are handled on other goroutines, and ServeMessage
// returns at ProcessingTimeout. The same applies if OnSession or Trace.Connected is set.
//
// The contexts of the handlers derive from ctx. If ctx ends first, ServeMessage returns no
// reply and the cause of ctx, except if all handlers reply without noticing the end. The
// caller may reuse msg afterwards, and owns the reply.
//
// [Session.Conn] returns conn, which may be nil. Optional methods of conn are:
//
//   - RemoteAddr() net.Addr is the result of [Session.RemoteAddr].
//   - Group() string is the name of the exchange's group if Limits.Group is nil or returns "".
//   - MaxMessage() int is the size of the largest reply, as for a [SizeLimiter].
//   - Dropped() *FrameError, if not nil, says that the transport has received only a part of
//     the message, which is msg. The part is charged and answered as a dropped message of a
//     [MessageConn], and not handled.
//   - Admitted() bool reports that the exchange needs no [Session.Admit]. Otherwise a server
//     with Options.Gate gives each request to Gate, in each exchange anew.
//
// Calls to the peer fail with [ErrNoCallback], and so do notifications if notify is nil.
// Otherwise notify is called for each notification, or batch of notifications, with the
// encoded message. notify runs on the goroutine of the sender, without a lock of the
// session, and one call at a time. The error of notify is the error of [Session.Notify]. A
// panic of notify is a panic of Notify. notify must not keep its argument or call the
// session, and must return soon after the end of ctx: ServeMessage returns after the last
// call of notify.
//
// [Request.Session] is the session of the exchange, which ends with the exchange; the cause
// is io.EOF. A running exchange counts in MaxSessions and MaxGroup. OnSession,
// Trace.Connected, Trace.Closed and the callbacks of OnClose are called as for any other
// session. If a handler calls Close, or returns a [Disconnect], only the exchange ends. The
// cost of a group stays after the exchange. Without a group, each exchange begins without
// cost.
//
// If the message was refused as a whole, or the exchange has ended for its cost, the error
// says so, beside the reply:
//
//   - A [*CostError]: the reply has CodeExcessiveResourceUsage. Requests of the message may
//     have been handled before.
//   - An [*Error] whose [Error.NotStarted] is true: no handler was called, and the message
//     may be sent again. If the server was stopped, the error also matches
//     [ErrServerClosed], and over MaxSessions or MaxGroup [ErrServerFull].
//
// Any other error comes without a reply: the cause of ctx, the cause with which a handler
// or Server.Close has closed the session, a message that the protocol cannot answer, or an
// invalid option of the server. To find invalid options, a program can answer an empty
// message at its start. MaxGroup needs Limits.Group, even if conn has a method Group.
func (srv *Server) ServeMessage(ctx context.Context, conn any, msg []byte, notify func(msg []byte) error) (reply []byte, err error) {
	mustHaveContext("Server.ServeMessage", ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := srv.checkOptions(); err != nil {
		return nil, fmt.Errorf("serve message: %w", err)
	}
	x := newExchange(ctx, srv, conn, notify)
	if c, ok := conn.(interface{ Admitted() bool }); ok && c.Admitted() {
		x.session.Admit()
	}
	x.reserveWorker(srv)
	if err := srv.startSession(x.session, x.group(), nil); err != nil {
		x.refuseAll(err)
	}
	return x.serve(msg)
}

// exchange is the transport of a session that answers one message, for
// [Server.ServeMessage]. The goroutine of ServeMessage is the reader, and mostly the first
// worker. The exchange has no writer: enqueueFrameLocked stores the reply. The input ends
// right after the message (I14), so the session ends when everything is answered.
type exchange struct {
	session *Session
	conn    any                // the user's; may be nil
	ctx     context.Context    // of the caller
	notify  func([]byte) error // may be nil
	turn    chan struct{}      // of one slot, held during a call of notify; nil without notify
	maxSize int                // see maxMessage
	size    int                // of the message
	// ownWorker is set if the goroutine of ServeMessage is a worker, too.
	ownWorker bool
	// unstarted is set if the server has refused the exchange. The session then refuses
	// every request.
	unstarted bool

	// Guarded by the session's lock.
	reply   []byte        // owned by the caller of ServeMessage
	refusal error         // why the message is refused as a whole; nil if it is not
	over    bool          // the session is closing: nothing more is answered
	end     chan struct{} // closed when over is set; made on demand
}

// newExchange makes an exchange with a session that has not started.
func newExchange(ctx context.Context, srv *Server, conn any, notify func([]byte) error) *exchange {
	x := &exchange{ctx: ctx, conn: conn, notify: notify, maxSize: maxMessage(conn)}
	if notify != nil {
		x.turn = make(chan struct{}, 1)
	}
	x.session = newSession(x, srv.options, RoleServer, &srv.pool, &srv.load)
	x.session.life.runningLoops = 1 // ServeMessage, until waitForReply
	return x
}

// exchange returns the transport of an exchange, or nil for a session with a connection.
func (s *Session) exchange() *exchange {
	x, _ := s.conn.(*exchange)
	return x
}

// workerTask returns requests.runWorker as a function.
func (s *Session) workerTask() func() {
	if s.runWorkerFn != nil {
		return s.runWorkerFn
	}
	return s.requests.runWorker
}

// group returns the name of the group of the exchange.
func (x *exchange) group() string {
	if group := x.session.limits.Group; group != nil {
		if name := group(x.session); name != "" {
			return name
		}
	}
	if conn, ok := x.conn.(interface{ Group() string }); ok {
		return conn.Group()
	}
	return ""
}

// reserveWorker makes the caller the first worker: over loopback HTTP, a change of the
// goroutine costs as much as all other work of an exchange. No other goroutine has the
// session yet.
//
// If OnSession or Trace.Connected holds the workers, all workers come from the pool. The
// same applies while a handler of another exchange is late: the caller then returns at the
// deadline.
func (x *exchange) reserveWorker(srv *Server) {
	rs := &x.session.requests
	x.ownWorker = srv.OnSession == nil && x.session.trace.Connected == nil && srv.load.lateExchanges.Load() == 0
	if x.ownWorker {
		rs.workers, rs.workerStarting = 1, true
	}
	rs.pressure.pauseForbidden = true // the exchange has nothing further to read
}

// refuseAll makes the session, which the server has refused with err, refuse every
// request.
func (x *exchange) refuseAll(err error) {
	s := x.session
	s.lock()
	s.life.state, s.life.drained = stateDraining, make(chan struct{})
	x.unstarted, x.refusal = true, err
	s.unlock()
}

// receive decodes msg and queues its requests. From then on, the session ends when
// everything is answered.
func (x *exchange) receive(msg []byte) {
	s := x.session
	x.size = len(msg)
	buf := decodeBuffers.Get().(*decodeBuffer)
	if conn, ok := x.conn.(interface{ Dropped() *FrameError }); ok && conn.Dropped() != nil {
		x.receiveDropped(&buf.Message, *conn.Dropped(), msg)
	} else {
		s.reader.receiveMessage(&buf.decodedInput, &buf.Message, msg)
		s.reader.handOverDecoded(&buf.decodedInput)
	}
	buf.recycle()
	s.lock()
	s.input.closed, s.input.closeDeadline = true, never
	s.unlock()
}

// receiveDropped handles part, which the transport has received of a message.
func (x *exchange) receiveDropped(m *Message, frame FrameError, part []byte) {
	s := x.session
	if frame.Start == nil {
		frame.Start = part[:min(len(part), StartSize)]
	}
	s.lock()
	s.reader.countReceivedLocked()
	s.cost.checkCostLimitLocked()
	s.reader.countBadFrameLocked(&frame)
	s.unlock()
	s.reader.receiveDropped(m, &frame)
}

// serve answers msg, and returns the results of ServeMessage.
func (x *exchange) serve(msg []byte) (reply []byte, err error) {
	s := x.session
	complete := false
	defer func() { // also after runtime.Goexit in a handler
		if !complete {
			s.closeWith(ErrClosed, 0)
		}
		if x.turn != nil {
			x.turn <- struct{}{} // waits for a call of notify; no further call begins
		}
		s.lock()
		reply, err = x.reply, x.outcomeLocked()
		if !x.unstarted { // otherwise the end of the session must not be counted
			s.life.runningLoops--
		}
		s.unlock()
	}()
	x.receive(msg)
	if x.ownWorker {
		s.requests.runWorker()
	}
	if end := x.endChannel(); end != nil {
		select {
		case <-end:
		case <-x.ctx.Done():
			x.closeIfContextEnded()
			<-end
		}
	}
	complete = true
	return nil, nil // the deferred function has the results
}

// endChannel returns a channel that is closed when the exchange is over, or nil if it is.
func (x *exchange) endChannel() chan struct{} {
	s := x.session
	s.lock()
	defer s.unlock()
	if x.over {
		return nil
	}
	if x.end == nil {
		x.end = make(chan struct{})
	}
	return x.end
}

// closeIfContextEnded closes the session if the caller's context has ended, and reports
// whether it has.
func (x *exchange) closeIfContextEnded() bool {
	ended := x.ctx.Err() != nil
	if ended {
		x.session.closeWith(context.Cause(x.ctx), 0)
	}
	return ended
}

// outcomeLocked returns the error of ServeMessage. Callers must hold s.mu.
func (x *exchange) outcomeLocked() error {
	s := x.session
	s.mu.AssertHeld()
	cost, excessive := s.life.closeCause.(*CostError)
	switch {
	case excessive:
		return cost
	case x.reply == nil && !s.input.closeStarted: // closed before everything was answered
		return s.life.closeCause
	case s.stats.RequestsReceived == 0:
		return x.refusal
	}
	return nil
}

// takeReplyLocked stores a reply. The reply counts as written. Callers must hold s.mu.
func (x *exchange) takeReplyLocked(reply []byte) {
	s := x.session
	s.mu.AssertHeld()
	x.reply = bytes.Clone(reply)
	s.writer.queuedMessages++
	s.writer.writtenMessages++
	s.stats.BytesSent += uint64(len(reply))
}

// noteRefusalLocked records that a request is answered with e instead of being handled.
// Callers must hold s.mu.
func (x *exchange) noteRefusalLocked(e *Error) {
	s := x.session
	s.mu.AssertHeld()
	if x.refusal != nil || !e.NotStarted() {
		return
	}
	x.refusal = e
	if s.life.state == stateDraining {
		x.refusal = &refusedError{e, ErrServerClosed}
	}
}

// exchangeAnswered has the arguments for closing a session whose exchange is answered.
var exchangeAnswered = closeArguments{cause: io.EOF}

// refusedError is the error of an exchange that the server refuses. A refusedError matches
// the error in the reply, and cause.
type refusedError struct {
	answer *Error
	cause  error
}

func (e *refusedError) Error() string   { return trimPrefix(e.cause) + ": " + e.answer.Message }
func (e *refusedError) Unwrap() []error { return []error{e.answer, e.cause} }

// drainErrorLocked returns the error that answers requests while the session drains.
// Callers must hold s.mu.
func (s *Session) drainErrorLocked() *Error {
	s.mu.AssertHeld()
	if x := s.exchange(); x != nil {
		if refused, ok := x.refusal.(*refusedError); ok {
			return refused.answer
		}
	}
	return notStarted("shutting down", "shutting down")
}

// sendOwn passes the notifications in sc.msg to notify, on the goroutine of the sender.
// register is the message if it is a batch, or if it has a call.
func (x *exchange) sendOwn(ctx context.Context, sc *encodeBuffer, from sendMode, register *pendingMessage) error {
	s := x.session
	if x.notify == nil || register != nil && register.expectsReply() {
		return ErrNoCallback
	}
	if err := s.writer.frameMessage(sc); err != nil {
		return err
	}
	if end := x.endChannel(); end != nil {
		switch hasTurn, err := x.takeTurn(ctx, end, from); {
		case err != nil:
			return err
		case hasTurn:
			defer func() { <-x.turn }()
		}
	}
	s.lock()
	err := s.writer.checkSendableLocked(handlerOf(ctx), from, nil)
	if err == nil {
		s.cost.addTrafficLocked(len(sc.frame))
		s.stats.MessagesSent++
		s.stats.BytesSent += uint64(len(sc.frame))
	}
	s.unlock()
	if err != nil {
		return err
	}
	return x.notify(sc.frame)
}

// takeTurn waits for the end of another call of notify, unless the sender never waits. It
// reports false if the exchange has ended.
func (x *exchange) takeTurn(ctx context.Context, end <-chan struct{}, from sendMode) (bool, error) {
	if from == fromTryNotify {
		select {
		case x.turn <- struct{}{}:
			return true, nil
		default:
			return false, errNoRoom
		}
	}
	select {
	case x.turn <- struct{}{}:
		return true, nil
	case <-end:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// endExchange ends the session of an exchange, in place of the goroutine for callbacks. If
// no user code is to be called, the session ends at once. A client that sends its next
// message after the reply is then no longer counted.
func (s *Session) endExchange() {
	callbacks, dropped := s.life.onClose, s.life.droppedAtEnd
	s.server.forgetSession(s)
	if len(callbacks) == 0 && dropped.count == 0 && s.trace.Closed == nil {
		s.runCloseCallbacks(nil, dropped)
		return
	}
	// Owner: the session. End: the callbacks return.
	go s.runCloseCallbacks(callbacks, dropped)
}

// The exchange as a transport.

func (x *exchange) nextMessage(bool) ([]byte, error) { return nil, io.EOF }
func (x *exchange) maxMessage() int                  { return x.maxSize }
func (x *exchange) maxMessageField() string          { return maxMessageField(x.conn) }

func (x *exchange) frame(_, msg []byte) (frame []byte, inPlace bool, err error) {
	return msg, true, checkSize(x.conn, x.maxSize, msg)
}

func (x *exchange) writeFrames([]byte, []int, func()) (int, error) { return 0, io.ErrClosedPipe }
func (x *exchange) onPart(func(int) error)                         {}
func (x *exchange) socket() *socket                                { return nil }
func (x *exchange) canWriteNow() bool                              { return false }

func (x *exchange) closeWithCause(error) error {
	s := x.session
	s.lock()
	defer s.unlock()
	if !x.over && x.end != nil {
		close(x.end)
	}
	x.over = true
	return nil
}

func (x *exchange) tellsCause() bool               { return false }
func (x *exchange) closeWrite() bool               { return false }
func (x *exchange) endedUnterminated() bool        { return false }
func (x *exchange) hasHungUp() bool                { return x.ctx.Err() != nil }
func (x *exchange) receivedBytes() uint64          { return uint64(x.size) }
func (x *exchange) unreadInput() ([]byte, framing) { return nil, framedOtherwise }
func (x *exchange) releaseInput()                  {}
func (x *exchange) detachInput(int) []byte         { return nil }
func (x *exchange) keepsMessages() bool            { return true }
func (x *exchange) userConn() any                  { return x.conn }
