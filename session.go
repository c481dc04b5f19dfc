package rpcx

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx/internal/gopool"
	"example.com/rpcx/internal/lockowner"
)

// The way of a message, by the functions on the way. (docs/architecture.md has more steps,
// the parts, the goroutines and the locks.)
//
//	our call:       Session.Call → sendCall → sendMessage → sendFrame → enqueueFrameLocked → outbox.push
//	                ─▶ writeLoop → writeFrames;
//	                a lone message: enqueueFrameLocked → lendWriteSide, then writeDirectly.
//	                a lone call may read its reply: takeRoleFor → readForCall, in place of readLoop.
//	the reply:      readLoop → nextMessage → receiveMessage → decodeMessage; handOverDecoded → completeCallLocked;
//	                after unlock: publishOutcome.
//	a request:      readLoop → nextMessage → receiveMessage → decodeMessage; handOverDecoded →
//	                enqueueRequestLocked ─▶ runWorker → runHandler → Handler;
//	                with Options.Gate, runHandler → gateSwitch → Gate until Admit, then Handler.
//	a notification for a stream: receiveMessage → takeNews; handOverDecoded → sortNewsLocked →
//	                streamQueue.push ─▶ Stream.Next.
//	a message without a connection: ServeMessage → receive → receiveMessage, then runWorker; see exchange.
//	our reply:      finishRequest → sendReply → enqueueFrameLocked → outbox.push ─▶ writeLoop → writeFrames.
//
// (─▶ passes to another goroutine.)
//
// A session passes through these states in order:
//
//	state      entered by                         from then on
//	open       NewSession.
//	draining   Shutdown:                          requests are refused (-102); only running handlers may call.
//	closing    Close, a drained Shutdown, an      calls with written requests fail, the others fail
//	           error, ReplyAndDisconnect:         at the latest with the end of the writer; nothing more
//	                                              is queued or handled, except notifications received
//	                                              before the peer hung up; the writer writes the queue
//	                                              until life.closeDeadline.
//	done       reader, writer, workers returned,  the callbacks of OnClose run, then Done is closed.
//	           and all log records are written:
//
// Invariants:
//
//	I1   Only the reader reads from the connection. Only the writer writes to the connection.
//	     An idle writer has no goroutine. While the writer is idle, the outbox may lend the
//	     write side to a sender. The sender never waits.
//	I2   The reader is the goroutine that has the reading role; see readingRole. It waits
//	     only for the connection (a close included), for s.mu, and on a full server for
//	     serverLoad.roomMu. It pauses only by I13. It runs no user code, except the Protocol,
//	     the Framer and, for the data of a cost error, the Codec. It may put the role down, for
//	     lendTime at most, to run the handler of a lone request that has proved to be quick.
//	I3   A call is completed once, by the goroutine that removes the call from the table.
//	I4   A call is registered before its message is queued, without releasing s.mu between.
//	I5   No user code runs under s.mu, except two short methods of a user's connection:
//	     PartReader.Received and NetConn.
//	I6   The first cause of a close wins.
//	I7   Each go statement names its owner and its end on the line above.
//	I8   An id is never used twice in a session.
//	I9   A peer's id is echoed byte for byte.
//	I10  A partial write ends the session.
//	I11  The protocol changes at most once, before any reply.
//	I12  A limit is checked before memory is taken.
//	I13  Reading pauses only if the queue is full or crowded, and can empty without the
//	     reader (see mayPauseLocked), or if the queue of a CallProgress is full. Before
//	     Admit, only the handler of Gate empties the queue. No goroutine waits in a pause:
//	     the goroutine that ends the reason for the pause starts the reader.
//	I14  When the input ends between two messages, pending calls fail, and the session
//	     handles and answers the received messages. Then the session ends with io.EOF.

// Session is one end of a connection. Both ends may call each other at any time. Sessions
// come from [Dial], a [Server], [Command], [NewSession], [NewMessageSession] and [Pipe].
//
// All methods may be called from any goroutine, handlers and callbacks included. An idle
// session has one goroutine, which reads. Handlers run on reused goroutines, and a pending
// call has no goroutine. [Order] has the order of messages.
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

	// mu guards the fields below, except the fields of reader, and fields that are set once at
	// the start, such as writer.sock. Only the reader changes stats.MessagesReceived and
	// stats.BytesReceived, and may read both without mu.
	mu       lockowner.Mutex
	life     lifecycle                      // state, cause of the close, callbacks
	calls    pendingCalls                   // to the peer
	requests requestServer                  // from the peer
	reader   reader                         // decoding, faults of the peer
	input    inputState                     // the end of the input
	writer   writer                         // outbox, senders that wait for room
	timer    sessionTimer                   // the one timer, for all deadlines
	activity connActivity                   // silence, keep-alive
	idle     idleMark                       // for a nearly full server
	cost     costState                      // cost and throttle
	faults   peerErrors                     // for Limits.PeerErrors
	memory   memoryUse                      // bytes that the server counts
	logs     deferredLog                    // records to be logged without mu
	events   eventQueue                     // for Trace
	streams  atomic.Pointer[sessionStreams] // sorts notifications; nil if unused, and set without mu
	effects  effects                        // work for after unlock
	hubs     *sessionHubs                   // subscriptions at hubs; nil before the first
	stats    Stats
	values   atomic.Pointer[sync.Map] // set by SetValue; not guarded by mu
}

// sessionConfig holds the fields that do not change after the start of a session.
type sessionConfig struct {
	conn                 transport
	handler              Handler
	cancellation         *Cancellation  // may be nil
	correlations         []*Correlation // Options.Correlations
	strictParams         bool           // Options.StrictParams
	unknownParamsIgnored bool           // Options.IgnoreUnknownParams
	hooks                               // functions of the user
	codec                Codec
	limits               *Limits // resolved; shared by the sessions of a server
	role                 Role
	log                  *slog.Logger
	pool                 *pool
	load                 *serverLoad // shared by the sessions of a server
	startTime            time.Time   // zero of the session's clock
	connBytes            int         // memory of the connection, without messages
	runWorkerFn          func()      // requests.runWorker, made once
	readLoopFn           func()      // reader.readLoop, made once
	server               *Server     // set when the server accepts the session; may be nil
}

// hooks holds functions of the user for all sessions with the same Options. Except trace,
// each may be nil.
type hooks struct {
	extraCost       func(*Session) float64
	onExcessiveCost func(*Session)
	makeContext     func(context.Context, *Request) context.Context // Options.Context
	trace           *Trace
}

// lifecycle tracks the end of a session.
type lifecycle struct {
	state         state
	runningLoops  int32                // the writer and the reading role, as long as they last
	lingerWanted  bool                 // the writer closes its half first, and waits for the end of input
	closeCause    error                // first cause of the close (I6)
	connCause     error                // the cause passed to the connection
	closeDeadline time.Duration        // when the connection closes, even with unwritten messages
	drained       chan struct{}        // closed when Shutdown has nothing to wait for; nil before Shutdown
	drainTarget   uint64               // number of the last message that Shutdown waits for; 0 if not fixed yet
	callbackTasks int32                // tasks of runCallbacksLaterLocked; Shutdown and the end wait for 0
	unsentErrors  int32                // goroutines with error replies to queue; Shutdown and closeForCost wait for 0
	droppedAtEnd  droppedNotifications // dropped since the session began to end
	onClose       []func(error)
	callbacksDone bool          // the callbacks have returned
	done          chan struct{} // closed after the callbacks; made on demand
}

type state uint8

const (
	stateOpen state = iota
	stateDraining
	stateClosing
	stateDone
)

// NewSession starts a session on a byte stream. A nil opts means the zero Options.
// NewSession panics if conn is nil or an option is invalid.
//
// The Close method of conn must unblock Read and Write, as for a [net.Conn]; for other
// streams see [Join]. Close may wait, but must end by itself. Optional methods of conn are
// CloseWrite() error, if the two halves close separately (see Limits.HalfClose), and
// NetConn() net.Conn, for addresses and TLS.
func NewSession(conn io.ReadWriteCloser, opts *Options) *Session {
	mustHave("NewSession", "connection", conn)
	o := mustResolveOptions(opts)
	return startStandalone(newStream(conn, o.Framer), o)
}

// NewMessageSession starts a session on a connection that separates messages itself.
// Options.Framer is ignored. A nil opts means the zero Options. NewMessageSession panics
// if conn is nil or an option is invalid.
func NewMessageSession(conn MessageConn, opts *Options) *Session {
	mustHave("NewMessageSession", "connection", conn)
	return startStandalone(newMessages(conn), mustResolveOptions(opts))
}

// DialMessageSession starts a session, as [NewMessageSession] does, on the connection
// returned by connect. DialMessageSession serves the Dial functions of transports.
//
// If an option is invalid, DialMessageSession returns an error without calling connect.
// An error of connect is returned unchanged. A nil connection without an error is an
// error, too.
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

// mustHave panics if v, an argument of the named function, is nil or a nil pointer.
// Otherwise a goroutine of this package would panic later.
func mustHave(function, what string, v any) {
	switch {
	case v == nil, isNilPointer(v):
		panic("rpcx: " + function + " with a nil " + what + ": check the error of what returned it")
	case reflect.TypeOf(v).Kind() == reflect.Func && reflect.ValueOf(v).IsNil():
		panic("rpcx: " + function + " with a nil " + what)
	}
}

// mustHaveContext panics if ctx, an argument of the named function, is nil.
func mustHaveContext(function string, ctx context.Context) {
	if ctx == nil {
		panic("rpcx: " + function + " with a nil context: write context.Background() if there is none")
	}
}

// startStandalone starts a session without a server, with a separate pool.
func startStandalone(conn transport, o *Options) *Session {
	s := newSession(conn, o, RoleClient, &pool{}, &noServer)
	s.start()
	s.traceConnected()
	return s
}

// Pipe returns two sessions joined in memory: a client with the options a, and a server
// with the options b. Both work in a bubble of testing/synctest. Pipe panics if an option
// is invalid.
//
// A pipe has no halves. When one session closes, the peer session ends at once, and so do
// the contexts of its handlers. Over TCP these handlers may continue for
// Limits.HalfClose, 5 s.
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

// newSession makes a session from resolved options, without starting the session.
func newSession(conn transport, o *Options, role Role, p *pool, l *serverLoad) *Session {
	s := &Session{sessionConfig: sessionConfig{
		conn:                 conn,
		handler:              o.Handler,
		codec:                o.Codec,
		cancellation:         o.Cancellation,
		strictParams:         o.StrictParams,
		unknownParamsIgnored: o.IgnoreUnknownParams,
		hooks:                hooks{extraCost: o.ExtraCost, onExcessiveCost: o.OnExcessiveCost, makeContext: o.Context, trace: o.Trace},
		role:                 role,
		log:                  o.Logger,
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
	s.calls.hooks, s.calls.meta, s.requests.meta = o.hooks, o.Meta, o.Meta
	s.calls.limiter.limit = s.limits.Outgoing
	s.calls.limiter.floor = max(1, s.limits.Outgoing/outgoingFloor)
	s.requests.order = o.Order
	s.requests.gate.closed.Store(o.Gate != nil)
	if s.requests.limit = s.limits.Concurrency; o.Order == Sequential || o.Gate != nil {
		s.requests.limit = 1
	}
	s.reader.setMaxMessages()
	if s.cancellation != nil {
		s.requests.cancellable = make(map[string]*peerRequest)
	}
	if !s.limits.CostOff && (s.limits.Exempt == nil || !s.limits.Exempt(s)) {
		s.cost.ownAccount.epoch = s.startTime
		s.cost.account = &s.cost.ownAccount
		s.cost.target = s.limits.Concurrency
	}
	if o.objects != nil {
		s.codec = &objectCodec{o.Codec, o.objects, s}
	}
	if l.limits != nil { // the server keeps the options alive
		s.proto.Store(&o.Protocol)
	} else {
		protocol := o.Protocol // a copy: &o.Protocol would keep all options alive
		s.proto.Store(&protocol)
	}
	s.calls.timeoutIsSet = o.Limits.RequestTimeout != 0
	s.initStreams(o.Correlations)
	if s.exchange() == nil { // an exchange mostly needs none of these
		s.runWorkerFn, s.readLoopFn = s.requests.runWorker, s.reader.readLoop
		conn.onPart(s.reader.receivePart)
		writeLoop := s.writer.writeLoop
		s.writer.startWriter = func() { p.RunTask(writeLoop) }
		s.writer.writerWakeup.L = (*locker)(s)
	}
	s.writer.sock = conn.socket()
	s.connBytes = keptBytes(conn.userConn())
	return s
}

// start starts the reader of the session. From then on, the writer runs when needed. The
// caller is the goroutine that made the session: a goroutine of the user, of Server.Serve
// for a plain connection, or of the pool (Server.prepareConn). After a handshake of
// ServeConn, the caller is the goroutine of Server.startSession.
func (s *Session) start() {
	s.pool.AddUser()
	s.load.sessions.Add(1)
	if s.load.limits == nil && s.limits.costIsVoid() { // a server logs the warning once
		s.lock()
		s.logs.logLaterLocked(slog.LevelWarn, voidCost, s.limits.costAttr())
		s.unlock()
	}
	if s.exchange() != nil {
		return // ServeMessage reads, and nothing is written
	}
	s.activity.watchConn()
	s.requests.startGateTimeout()
	// Owner: the session. End: the input ends, the connection is closed, or the reading
	// role becomes vacant.
	go s.reader.readLoop()
	s.lock()
	if s.writer.writerIdle = true; !s.writer.isEmpty() || s.life.state >= stateClosing {
		s.writer.wakeWriter()
	}
	s.unlock()
}

// traceConnected calls Trace.Connected, if set.
func (s *Session) traceConnected() {
	if s.trace.Connected != nil {
		s.trace.Connected(s)
	}
}

// pool has what the sessions of a server share: goroutines, timers, soleCalls for
// Session.Call, and what is known of the handlers.
// Each Server, dialled session or Pipe has a pool.
type pool struct {
	gopool.Pool
	calls  sync.Pool // of soleCalls
	timers sync.Pool // of pooledTimers

	handlers quickHandlers
}

// takeCall returns a soleCall for Session.Call. Only the caller waits for the end, so a
// single value in done signals the end, and the soleCall can be reused. Only the same pool
// reuses the soleCall: a channel must not leave its testing/synctest bubble.
func (p *pool) takeCall(s *Session, method string) *soleCall {
	c, ok := p.calls.Get().(*soleCall)
	if !ok {
		c = &soleCall{message: pendingMessage{done: make(chan struct{}, 1)}}
	}
	c.begin(s, method)
	return c
}

// putCall returns a soleCall to the pool. The value in done was received, or never sent.
func (p *pool) putCall(c *soleCall) {
	c.message.releaseResult()
	c.begin(nil, "")
	p.calls.Put(c)
}

// Protocol returns the protocol of the session. Auto-detection replaces its own protocol
// by the detected protocol.
func (s *Session) Protocol() Protocol { return *s.proto.Load() }

// Role returns the session's end of the connection: client or server.
func (s *Session) Role() Role { return s.role }

// Done returns a channel that is closed when the session is over: reader, writer and
// handlers have returned, all log records are written, and then the callbacks of
// [Session.OnClose] have returned.
//
// Handlers and [Server.OnSession] must not wait for Done, because the session waits for
// them. Nothing detects such a deadlock.
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

// Err returns the reason for the end of the session, or nil before the end:
//
//   - [ErrClosed] after Close or Shutdown.
//   - io.EOF if the peer closed the connection, or its half of the connection.
//   - [ErrSlowPeer], [ErrFaultyPeer], [ErrIdle], [ErrNotAdmitted] or [ErrUnreachable].
//   - A [*CostError].
//   - A [*ProtocolError] for a message without a possible answer.
//   - A [*FrameError], or an error of the connection.
//
// A FrameError and a connection's error also describe foreign input, if the input is
// recognized. If the session ended to make room on its server, the error matches
// [ErrServerFull], too.
//
// Err is set before a call fails with [ErrConnectionLost], and before the callbacks of
// OnClose run.
func (s *Session) Err() error {
	s.lock()
	defer s.unlock()
	if s.life.closeCause == nil && s.input.closed && s.exchange() == nil {
		return s.endOfInput()
	}
	return s.life.closeCause
}

// OnClose registers callback. When the session is over, callback is called with the error
// of [Session.Err], just before Done is closed. Callbacks run one after the other, on a
// separate goroutine, and must not wait for Done.
//
// If the callbacks have started already, OnClose calls callback at once, on a new
// goroutine.
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

// Stats returns the session's counters and its present use of resources.
func (s *Session) Stats() Stats {
	s.lock()
	defer s.unlock()
	stats := s.stats
	stats.Pending = s.calls.table.pending
	stats.Queued, stats.QueuedBytes, stats.Running = s.requests.count, s.requests.bytes, s.requests.running
	stats.OutboxBytes = s.writer.size()
	if s.reader.role.vacancy == vacantPaused {
		stats.Paused += s.now() - s.requests.pressure.since
	}
	stats.EventsDropped = s.events.dropped
	stats.Concurrency, stats.Outgoing = s.requests.limit, s.calls.limiter.limit
	if s.cost.account != nil {
		s.cost.chargeTrafficLocked()
		stats.Cost = s.cost.account.currentCost(s.limits.CostDecay)
	}
	return stats
}

// Close ends the session without waiting for the peer. Pending calls fail, and the
// contexts of running handlers end.
//
// Close writes queued messages as far as the operating system accepts them at once:
// nearly always completely. If the system does not report free space, the write may take
// a tenth of a second. The remainder is written in the background, within a second. On
// connections outside the operating system, all writing happens in the background.
//
// A program that ends right after Close may lose the remainder, and no error tells how
// much the peer has read. Therefore a program should end with [Session.Shutdown].
func (s *Session) Close() error {
	s.closeAndFlush(ErrClosed)
	return nil
}

// closeAndFlush is Close with the given cause.
func (s *Session) closeAndFlush(cause error) {
	s.closeWith(cause, closeGrace)
	flush(s)
}
