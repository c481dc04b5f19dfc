package rpcx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"reflect"
	"sync/atomic"
	"time"

	"example.com/rpcx/internal/lockowner"
)

// How a message travels, by the functions that it passes:
//
//	our call       Call → send → post → enqueueFrameLocked → outbox.push ─▶ writeLoop → transport.write
//	                                          → outbox.lend, writeDirectly when it is alone
//	its reply      readLoop → transport.next → Protocol.Decode → deliver → Future.finish
//	their request  readLoop → transport.next → Protocol.Decode → deliver ─▶ work → serve → Handler
//	our reply      reply → answer → enqueueFrameLocked → outbox.push ─▶ writeLoop → transport.write
//
// (─▶ passes to another goroutine.)
//
// A session is in one of these states, and goes through them in this order:
//
//	state     entered by                         from then on
//	open      NewSession
//	draining  Shutdown                           requests are refused (-102); only running handlers may call
//	closing   Close, a drained Shutdown, an      nothing more is queued or handled, but for notifications
//	          error, ReplyAndDisconnect          that came before the peer hung up; no call is pending; the
//	                                             writer writes what was queued, until life.closeDeadline
//	done      reader, writer, handlers returned  nothing happens any more
//
// What always holds:
//
//	I1   Only the reader reads the connection. Only the writer writes it, or while it
//	     is idle the sender that the outbox lent it to, who does not wait.
//	I2   The reader never waits for anything but the connection and s.mu, pauses only
//	     by I13, and runs no user code but the Protocol's, the Framer's and, for
//	     Limits.CostData, the Codec's.
//	I3   A call is completed once, by whoever removes it from the table.
//	I4   A call is registered before its message is queued, under one lock.
//	I5   No user code runs under s.mu.
//	I6   The first cause of a close wins.
//	I7   Each go statement names its owner and its end on the line above.
//	I8   An id is never used twice in a session.
//	I9   A peer's id is echoed byte for byte.
//	I10  A partial write ends the session.
//	I11  The protocol changes at most once, before any reply.
//	I12  A limit is checked before memory is taken.
//	I13  Reading pauses if and only if the queue is full (or crowded) and a running
//	     handler that does not wait for this session can empty it. Nobody waits in a
//	     pause: who makes room starts the reader.
//	I14  When the input ends between two messages, what was read is handled in order
//	     and answered, and no call is pending; then the session ends with io.EOF.

// Session is one end of a connection. Both ends may call each other at any time. Sessions
// come from [Dial], a [Server], [Command], [NewSession], [NewMessageSession] and [Pipe].
//
// All methods may be called from any goroutine, handlers and callbacks included. A reader
// and a writer are the goroutines of a session; handlers run on reused goroutines, and a
// pending call has no goroutine. [Order] has the order of messages.
//
// A session ends with its connection, by [Session.Close] or by [Session.Shutdown]. A
// forgotten session lives as long as its connection. When the peer has finished sending, the
// session still answers the input, for [Limits].HalfClose at most. [Session.Err] has the
// first cause of the end. When reader, writer and handlers have returned, the session calls
// the callbacks of [Session.OnClose] and closes the channel of [Session.Done].
//
// Handlers, and callbacks of OnClose, must not wait for the end of their own session, which
// waits for them: see [ErrInHandler]. In the source, docs/behaviour.md has the details, in
// the sections "Ending a program" and "How a session ends".
type Session struct {
	sessionConfig
	proto atomic.Pointer[Protocol]

	mu       lockowner.Mutex // guards everything below
	life     lifecycle
	calls    pendingCalls  // this side's
	requests requestServer // the peer's
	reader   reader
	input    inputState
	writer   writer
	timer    sessionTimer
	activity connActivity
	idle     idleMark // for a server that is nearly full
	cost     costState
	faults   peerErrors
	memory   memoryUse
	logs     deferredLog
	effects  effects
	stats    Stats
	values   map[any]any // of SetValue
}

// sessionConfig is what a session is made of. It does not change after newSession.
type sessionConfig struct {
	conn                 transport
	handler              Handler
	cancellation         *Cancellation // nil if there is none
	strictParams         bool          // Options.StrictParams
	unknownParamsIgnored bool          // Options.IgnoreUnknownParams
	extraCost            func(*Session) float64
	onExcessiveCost      func(*Session)
	codec                Codec
	limits               *Limits // resolved; shared by the sessions of a server
	role                 Role
	log                  *slog.Logger
	trace                *Trace
	pool                 *pool
	load                 *serverLoad // memory that the server's sessions hold together
	startTime            time.Time   // of the session's clock
	connBytes            int         // memory that the connection keeps beside messages
	runWorkerFn          func()      // requests.runWorker, made once
	readLoopFn           func()      // reader.readLoop, made once
	beforeCallbacks      func()      // tells the server before the callbacks, so that it forgets the session; may be nil
	afterCallbacks       func()      // tells the server after the callbacks; may be nil
}

// lifecycle is how far a session is on its way to the end.
type lifecycle struct {
	state         state
	runningLoops  int32                // of reader and writer, how many run; a paused reader does not
	lingerWanted  bool                 // the writer closes its half first, and waits for the peer's
	closeCause    error                // the first cause of the close (I6)
	connCause     error                // the cause as the connection is given it
	closeDeadline time.Duration        // when the connection is closed even if messages are unwritten
	drained       chan struct{}        // closed when Shutdown has nothing to wait for
	drainTarget   uint64               // the last message that Shutdown waits for to be written
	unsentErrors  int32                // goroutines that have refusals to queue yet; Shutdown and closeForCost wait for them
	droppedAtEnd  droppedNotifications // notifications dropped since the session began to end
	onClose       []func(error)
	callbacksDone bool          // the session is done and the callbacks have returned
	done          chan struct{} // closed then; made when asked for
}

type state uint8

const (
	stateOpen state = iota
	stateDraining
	stateClosing
	stateDone
)

// NewSession starts a session on a byte stream. A nil opts is the zero Options.
// Closing conn must unblock its Read and Write, as it does for a [net.Conn]; see
// [Join] for what does not. Close may wait, but only for what ends by itself. A nil
// conn panics, and so do options that are wrong.
func NewSession(conn io.ReadWriteCloser, opts *Options) *Session {
	mustHave("NewSession", "connection", conn)
	o := mustResolveOptions(opts)
	return startStandalone(newStream(conn, o.Framer), o)
}

// NewMessageSession starts a session on a connection that keeps messages apart
// by itself; Options.Framer is ignored. A nil opts is the zero Options. A nil conn
// panics, and so do options that are wrong.
func NewMessageSession(conn MessageConn, opts *Options) *Session {
	mustHave("NewMessageSession", "connection", conn)
	return startStandalone(newMessages(conn), mustResolveOptions(opts))
}

// DialMessageSession starts a session, as [NewMessageSession] does, on the connection that
// connect makes. It is for the Dial of a transport. If the options are wrong, it returns
// an error and does not call connect. An error of connect is returned as it is, and a nil
// connection without one is an error, too.
func DialMessageSession(connect func() (MessageConn, error), opts *Options) (*Session, error) {
	mustHave("DialMessageSession", "function", connect)
	o, err := resolveOptions(opts)
	if err != nil {
		return nil, err
	}
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	if conn == nil || isNilPointer(conn) {
		return nil, errors.New("connect returned neither a connection nor an error")
	}
	return startStandalone(newMessages(conn), o), nil
}

// mustHave panics if v, which a user has given to a function of the given name, is nil
// or a nil pointer. Otherwise that would be found in a goroutine of ours.
func mustHave(function, what string, v any) {
	switch {
	case v == nil, isNilPointer(v):
		panic("rpcx: " + function + " with a nil " + what + ": check the error of what returned it")
	case reflect.TypeOf(v).Kind() == reflect.Func && reflect.ValueOf(v).IsNil():
		panic("rpcx: " + function + " with a nil " + what)
	}
}

// mustHaveContext panics if ctx, which a user has given to a function of the given name, is
// nil.
func mustHaveContext(function string, ctx context.Context) {
	if ctx == nil {
		panic("rpcx: " + function + " with a nil context: write context.Background() if there is none")
	}
}

// startStandalone starts a session that is no server's and has a pool of its own.
func startStandalone(conn transport, o *Options) *Session {
	s := newSession(conn, o, RoleClient, &pool{}, &noServer)
	s.start()
	s.traceConnected()
	return s
}

// Pipe returns two sessions that are joined in memory: a client with the options a,
// and a server with b. They work in a bubble of testing/synctest. Options that are
// wrong panic.
//
// A pipe has no halves. When one session closes, the other ends at once, and so do the
// contexts of its handlers. Over TCP these may go on for Limits.HalfClose, 5 s.
func Pipe(a, b *Options) (*Session, *Session) {
	p := &pool{}
	ca, cb := net.Pipe()
	oa, ob := mustResolveOptions(a), mustResolveOptions(b)
	sa := newSession(newStream(ca, oa.Framer), oa, RoleClient, p, &noServer)
	sb := newSession(newStream(cb, ob.Framer), ob, RoleServer, p, &noServer)
	sa.start()
	sb.start()
	sa.traceConnected()
	sb.traceConnected()
	return sa, sb
}

// newSessionInGroup makes a session of resolved options. It does nothing until start.
func newSession(conn transport, o *Options, role Role, p *pool, l *serverLoad) *Session {
	s := &Session{sessionConfig: sessionConfig{
		conn:                 conn,
		handler:              o.Handler,
		codec:                o.Codec,
		cancellation:         o.Cancellation,
		strictParams:         o.StrictParams,
		unknownParamsIgnored: o.IgnoreUnknownParams,
		extraCost:            o.ExtraCost,
		onExcessiveCost:      o.OnExcessiveCost,
		role:                 role,
		log:                  o.Logger,
		trace:                o.Trace,
		pool:                 p,
		load:                 l,
		startTime:            time.Now(),
	}}
	s.timer.at, s.life.runningLoops = never, 2
	s.calls.s, s.requests.s, s.reader.s, s.writer.s, s.timer.s = s, s, s, s, s
	s.activity.s, s.cost.s, s.memory.s, s.logs.s = s, s, s, s

	if o.Role != RoleDefault {
		s.role = o.Role
	}
	if addr := s.RemoteAddr(); addr != nil && s.log.Handler() != slog.DiscardHandler {
		s.log = s.log.With(peerAttr(addr))
	}
	switch {
	case l.limits != nil:
		s.limits = l.limits
	case s.role == RoleClient && reflect.ValueOf(o.Limits).IsZero():
		s.limits = &clientLimits
	default:
		limits := o.Limits.resolved(s.role)
		s.limits = &limits
	}
	s.calls.table.lastID.Store(o.FirstID)
	s.calls.limiter.limit = s.limits.Outgoing
	s.calls.limiter.floor = max(1, s.limits.Outgoing/outgoingFloor)
	s.requests.order = o.Order
	if s.requests.limit = s.limits.Concurrency; o.Order == Sequential {
		s.requests.limit = 1
	}
	s.reader.maxMessages = uint64(min(maxDecodedMessages, 2*min(s.requests.limit, maxDecodedMessages)))
	if s.cancellation != nil {
		s.requests.cancellable = make(map[string]*peerRequest)
	}
	if !s.limits.CostOff && (s.limits.Exempt == nil || !s.limits.Exempt(s)) {
		s.cost.account = newAccount()
		s.cost.target = s.limits.Concurrency
	}
	if o.objects != nil {
		s.codec = &objectCodec{o.Codec, o.objects, s}
	}
	s.runWorkerFn, s.readLoopFn = s.requests.runWorker, s.reader.readLoop
	protocol := o.Protocol // a copy, not to keep all of the options alive
	s.proto.Store(&protocol)
	s.writer.writerWakeup.L = (*locker)(s)
	s.writer.sock = conn.socket()
	s.connBytes = keptBytes(conn.userConn())
	conn.onPart(s.reader.receivePart)
	return s
}

func (s *Session) start() {
	s.pool.addUser()
	s.load.sessions.Add(1)
	if s.load.limits == nil && s.limits.costIsVoid() { // a server logs it once
		s.lock()
		s.logs.logLaterLocked(slog.LevelWarn, voidCost, s.limits.costAttr())
		s.unlock()
	}
	s.activity.watchConn()
	// Owner: the session. End: the connection fails or is closed by the writer, or
	// reading pauses.
	go s.reader.readLoop()
	// Owner: the session. End: the session is closing and the rest is written.
	go s.writer.writeLoop()
}

// traceConnected tells Trace that the session, and whoever it may call, has started.
func (s *Session) traceConnected() {
	if s.trace.Connected != nil {
		s.trace.Connected(s)
	}
}

// Protocol returns the protocol that the session speaks: what auto-detection
// has found, once it has.
func (s *Session) Protocol() Protocol { return *s.proto.Load() }

// Role returns which end of the connection the session is.
func (s *Session) Role() Role { return s.role }

// Done returns a channel that is closed when the session is over: its reader
// and writer have returned and no handler runs. A handler must not wait for it, and
// neither must [Server.OnSession]: the session waits for them, and nobody can tell that
// they do.
func (s *Session) Done() <-chan struct{} {
	s.lock()
	defer s.unlock()
	if s.life.done == nil {
		s.life.done = make(chan struct{})
		if s.life.callbacksDone {
			close(s.life.done)
		}
	}
	return s.life.done
}

// Err says why the session has ended, or is about to, nil before: [ErrClosed] if by
// Close or Shutdown, io.EOF if the peer closed the connection, or its half of it,
// [ErrSlowPeer], [ErrFaultyPeer], [ErrIdle], a [*CostError], a [*FrameError], or the
// connection's error. The last two say what the input looks like, if it is recognized as
// something else than messages. An end that makes room on the server matches
// [ErrServerFull] as well. Err is set before a call fails with [ErrConnectionLost],
// and before the callbacks of OnClose are called.
func (s *Session) Err() error {
	s.lock()
	defer s.unlock()
	if s.life.closeCause == nil && s.input.closed {
		return s.endOfInput()
	}
	return s.life.closeCause
}

// OnClose has callback called with Err's error when the session is over, just
// before Done is closed; at once if it is closed. Callbacks run one after the
// other, on a goroutine of their own, and must not wait for Done.
func (s *Session) OnClose(callback func(err error)) {
	mustHave("Session.OnClose", "callback", callback)
	s.lock()
	defer s.unlock()
	if s.life.state != stateDone {
		s.life.onClose = append(s.life.onClose, callback)
		return
	}
	cause := s.life.closeCause
	// Owner: the caller. End: callback returns.
	go callback(cause)
}

// Stats returns what the session did so far and holds now.
func (s *Session) Stats() Stats {
	s.lock()
	defer s.unlock()
	stats := s.stats
	stats.Pending = s.calls.table.pending
	stats.Queued, stats.QueuedBytes, stats.Running = s.requests.count, s.requests.bytes, s.requests.running
	stats.OutboxBytes = s.writer.size()
	if s.requests.pressure.paused {
		stats.Paused += s.now() - s.requests.pressure.since
	}
	stats.Concurrency, stats.Outgoing = s.requests.limit, s.calls.limiter.limit
	if s.cost.account != nil {
		s.cost.chargeTrafficLocked()
		stats.Cost = s.cost.account.currentCost(s.limits.CostDecay)
	}
	return stats
}

// Close ends the session, and does not wait for the peer. Calls that are pending fail,
// and the contexts of running handlers end. Of what had been queued for the peer, Close
// writes as much as the operating system takes at once, which is nearly always all of
// it. (That may take a tenth of a second where the system does not say how much it
// takes.) The rest is written in the background, for at most a second, and so is all of
// it on connections that are not the operating system's. A program that ends right
// after Close may lose that rest, and nobody says whether the peer has read anything:
// a program ends with [Session.Shutdown].
func (s *Session) Close() error {
	s.closeAndFlush(ErrClosed)
	return nil
}

// closeAndFlush is Close, for the cause given.
func (s *Session) closeAndFlush(cause error) {
	s.closeWith(cause, closeGrace)
	flush(s)
}
