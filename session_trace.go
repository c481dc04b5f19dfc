package rpcx

import (
	"bytes"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// Trace holds functions to be called on events. Any function may be nil, and then costs
// nothing. A function runs on the goroutine named in its comment, never while the goroutine
// has to read, and never under a lock. A function may call the session, but must not wait for
// the session's end. A panic in a function ends the program.
//
// A pool goroutine is a goroutine of the package. The functions Refused, BatchReceived and
// BadMessage of a session have one pool goroutine together, which calls them one at a time,
// in the order of the events. The session's end waits for the calls. ConnRefused has such a
// goroutine for each server. At most 1,024 events wait for a goroutine, with 64 KiB of
// methods and ids. Further events are only counted, in Stats.EventsDropped and
// ServerStats.EventsDropped.
type Trace struct {
	// Connected: the session has started. Goroutine: of Dial, NewSession or Pipe; on a
	// server a separate goroutine, before the first request is handled.
	Connected func(s *Session)
	// RequestSent: a request was queued, or a notification, whose id is nil. RequestSent is
	// called for each member of a batch. If the peer is quick, ReplyReceived may come
	// before. Goroutine: the sender's.
	RequestSent func(s *Session, method string, id ID)
	// BatchSent: a batch of calls and notifications was queued, a message of the given
	// number of bytes, framing included. RequestSent for each member follows. Goroutine:
	// the sender's.
	BatchSent func(s *Session, members, bytes int)
	// ReplyReceived: a call ended, after d; err is its error. id is the id of RequestSent.
	// Goroutine: for Session.Call that of the caller, before the result is decoded; for other
	// calls, a pool goroutine for each call. So calls have no order.
	ReplyReceived func(s *Session, method string, id ID, err error, d time.Duration)
	// RequestReceived: a request or notification is about to be handled. Goroutine: the
	// handler's.
	RequestReceived func(req *Request)
	// ReplySent: the handler of a request or notification returned, d after its arrival;
	// err is the error. The reply is in the queue, so later messages leave after the reply.
	// In a batch, the reply leaves with the replies to other members, possibly later; see
	// [AfterReply]. Goroutine: the handler's.
	ReplySent func(req *Request, err error, d time.Duration)
	// Refused: a request, or a notification, whose id is nil, will never be handled,
	// because of e: the queue is full, the cost too high, the session is shutting down, or
	// Limits.ProcessingTimeout has passed before the start. Refused is called for each
	// member of a batch. What a closed session drops is not refused. Goroutine: a pool
	// goroutine.
	Refused func(s *Session, method string, id ID, e *Error)
	// BatchReceived: a batch of requests and notifications has arrived, with the given
	// number of members, invalid members included. Replies to a batch of this side do not
	// count. Goroutine: a pool goroutine, in no order with RequestReceived of the members.
	BatchReceived func(s *Session, members int)
	// BadMessage: the peer has sent a message, or a member of a batch, that is wrong for
	// the reason err, as in the log record "bad message". Goroutine: a pool goroutine.
	BadMessage func(s *Session, err error)
	// CostChanged: the session's cost has changed by more than 100, or by less while
	// requests are delayed; concurrency is the present limit on handlers running at once.
	// Goroutine: a pool goroutine for each change.
	CostChanged func(s *Session, cost float64, concurrency int)
	// Paused: reading pauses, because requests arrive faster than they are handled.
	// Goroutine: a pool goroutine for each pause.
	Paused func(s *Session)
	// Resumed: reading goes on after a pause of d. Goroutine: a pool goroutine for each
	// pause.
	Resumed func(s *Session, d time.Duration)
	// Closed: the session is over, for the reason err. Goroutine: that of the callbacks of
	// [Session.OnClose], before the callbacks.
	Closed func(s *Session, err error)
	// ConnRefused: the server has closed a connection, or not made one, because of limit:
	// "Server.MaxSessions", "Server.MaxGroup" or "Server.MaxHandshakes". addr is the
	// address of the peer; nil if unknown. Goroutine: a pool goroutine of the server.
	ConnRefused func(srv *Server, limit string, addr net.Addr)
}

var noTrace = new(Trace)

// eventQueue holds events for a function of Trace that a single task calls. The lock of
// the owner, a session or a server, guards the queue.
type eventQueue struct {
	events  []traceEvent
	bytes   int    // size of the waiting events
	running bool   // the task runs, or is about to
	dropped uint64 // events without room
}

// traceEvent is an event that waits for a function of Trace.
type traceEvent struct {
	kind   eventKind
	text   string // method, or limit
	id     ID
	err    error // *Error for eventRefused
	number int   // of members
	addr   net.Addr
}

type eventKind uint8

const (
	eventRefused eventKind = iota
	eventBatchReceived
	eventBadMessage
	eventConnRefused
)

const (
	// maxEvents is the maximum number of waiting events. At most as many more are being
	// passed to Trace.
	maxEvents = 1024
	// maxEventBytes is the maximum size of the methods and ids in waiting events.
	maxEventBytes = 64 << 10
)

// push adds an event, and reports whether the caller must start the task.
func (q *eventQueue) push(e traceEvent) (start bool) {
	size := len(e.text) + len(e.id)
	if len(q.events) >= maxEvents || size > maxEventBytes-q.bytes {
		q.dropped++
		return false
	}
	// The queue must not keep the memory of a whole message.
	e.text, e.id = strings.Clone(e.text), bytes.Clone(e.id)
	q.events, q.bytes = append(q.events, e), q.bytes+size
	start = !q.running
	q.running = true
	return start
}

// take returns the waiting events for the task. If there are none, the task must end.
func (q *eventQueue) take() []traceEvent {
	events := q.events
	q.events, q.bytes, q.running = nil, 0, len(events) > 0
	return events
}

// traceLaterLocked queues an event for the session's task. Callers must hold s.mu, and
// have checked that the function of Trace is set.
func (s *Session) traceLaterLocked(e traceEvent) {
	s.mu.AssertHeld()
	if s.life.state != stateDone && s.events.push(e) {
		s.pool.RunTask(s.callTrace)
	}
}

// callTrace calls functions of Trace until no event is left.
func (s *Session) callTrace() {
	for {
		s.lock()
		events := s.events.take()
		s.unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			switch e.kind {
			case eventRefused:
				s.trace.Refused(s, e.text, e.id, e.err.(*Error))
			case eventBatchReceived:
				s.trace.BatchReceived(s, e.number)
			case eventBadMessage:
				s.trace.BadMessage(s, e.err)
			}
		}
	}
}

// refusable is a request, or a queue entry.
type refusable interface {
	about() (msg string, what slog.Attr)
	appendRequests(calls []*peerRequest, want func(*peerRequest) bool) []*peerRequest
}

// traceRefusedLocked calls Trace.Refused later, if set, for the requests of entry that
// are refused with e. Callers must hold s.mu.
func (rs *requestServer) traceRefusedLocked(entry refusable, e *Error) {
	s := rs.s
	s.mu.AssertHeld()
	if s.trace.Refused == nil {
		return
	}
	refused := (*peerRequest).isUnhandled
	if _, batch := entry.(*peerBatch); batch {
		refused = (*peerRequest).isUnbegun // a delayed member is refused alone, or handled
	}
	for _, c := range entry.appendRequests(nil, refused) {
		s.traceLaterLocked(traceEvent{kind: eventRefused, text: c.Method, id: c.ID, err: e})
	}
}

// traceBatchReceived calls Trace.BatchReceived later, if set.
func (s *Session) traceBatchReceived(members int) {
	if s.trace.BatchReceived != nil {
		s.lock()
		s.traceLaterLocked(traceEvent{kind: eventBatchReceived, number: members})
		s.unlock()
	}
}

// traceConnRefusedLocked calls Trace.ConnRefused later, if set. Callers must hold srv.mu.
func (srv *Server) traceConnRefusedLocked(limit string, addr net.Addr) {
	if srv.options.Trace.ConnRefused != nil && srv.events.push(traceEvent{kind: eventConnRefused, text: limit, addr: addr}) {
		srv.pool.RunTask(srv.callTrace)
	}
}

// callTrace calls Trace.ConnRefused until no event is left.
func (srv *Server) callTrace() {
	for {
		srv.mu.Lock()
		events := srv.events.take()
		srv.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			srv.options.Trace.ConnRefused(srv, e.text, e.addr)
		}
	}
}

// traceRequestSent calls Trace.RequestSent, if set. For a notification, c is nil.
func (w *writer) traceRequestSent(method string, c *pendingCall) {
	s := w.s
	if s.trace.RequestSent == nil {
		return
	}
	var id ID
	if c != nil {
		id = c.traceID()
	}
	s.trace.RequestSent(s, method, id)
}

// traceReply calls Trace.ReplyReceived, which is set, for a call that was sent and has
// ended.
func (c *pendingCall) traceReply() {
	s := c.message.session
	s.trace.ReplyReceived(s, c.method, c.traceID(), c.err, s.now()-c.message.started)
}

// traceReplyLater calls Trace.ReplyReceived on another goroutine, if set and if the call was
// sent.
func (c *pendingCall) traceReplyLater() {
	m := c.message
	if m.messageSeq == 0 || m.session.trace.ReplyReceived == nil {
		return
	}
	s, method, id, err, d := m.session, c.method, c.traceID(), c.err, m.session.now()-m.started
	s.pool.RunTask(func() { s.trace.ReplyReceived(s, method, id, err, d) })
}

// traceID returns the id of c for a function of Trace.
func (c *pendingCall) traceID() ID { return strconv.AppendUint(nil, c.id, 10) }
