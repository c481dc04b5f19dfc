package natsrpcx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/bounded"
	"github.com/nats-io/nats.go"
)

// maxRepeats is how often a request that was not started is sent again.
const maxRepeats = 2

// requester sends requests and finds their replies. One subscription receives all replies:
// the last segment of its subjects is the number of the request.
type requester struct {
	config *Config
	inbox  string    // subject of the replies, up to replyMark
	start  time.Time // zero of the clock for the time of sending
	known  *directory
	subs   []*nats.Subscription
	status chan nats.Status

	mu       sync.Mutex // guards the fields below
	last     uint64     // number of the last request
	pending  map[uint64]chan *nats.Msg
	isClosed bool
}

// newRequester returns a requester for c, which is resolved. The requester ends by close,
// or with the connection.
func newRequester(c *Config) (*requester, error) {
	r := &requester{
		config: c, inbox: c.Conn.NewInbox(), start: time.Now(), known: newDirectory(c.Announce),
		pending: make(map[uint64]chan *nats.Msg),
	}
	r.status = c.Conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	for _, s := range []struct {
		subject string
		receive nats.MsgHandler
	}{
		{r.inbox + replyMark + "*.*.*", r.receive},
		{c.subject(announceSubject), func(m *nats.Msg) { r.known.note(string(m.Data)) }},
	} {
		sub, err := c.Conn.Subscribe(s.subject, s.receive)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("natsrpcx: subscribe to %s: %w", s.subject, err)
		}
		r.subs = append(r.subs, sub)
	}
	// Owner: the requester. End: close, or the close of the connection.
	go r.watchConn(r.status)
	return r, nil
}

// close releases the requester. Requests without a reply fail.
func (r *requester) close() {
	r.mu.Lock()
	closed := r.isClosed
	r.isClosed = true
	r.mu.Unlock()
	if closed {
		return
	}
	for _, sub := range r.subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	r.config.Conn.RemoveStatusListener(r.status)
	r.loseAll()
}

// watchConn fails the requests that are under way when the connection is lost: their
// replies are lost, too, or come much later.
func (r *requester) watchConn(status <-chan nats.Status) {
	for s := range status {
		r.loseAll()
		if s == nats.CLOSED {
			r.close()
		}
	}
}

// loseAll fails all requests that are under way.
func (r *requester) loseAll() {
	r.mu.Lock()
	lost := r.pending
	r.pending = make(map[uint64]chan *nats.Msg)
	r.mu.Unlock()
	for _, reply := range lost {
		reply <- nil // has room
	}
}

// receive passes a reply to the request.
func (r *requester) receive(m *nats.Msg) {
	if subject, ok := parseReplySubject(m.Subject); ok {
		if reply := r.remove(subject.n); reply != nil {
			reply <- m // has room
		}
	}
}

// add enters a request that waits for a reply.
func (r *requester) add() (n uint64, reply chan *nats.Msg, err error) {
	reply = make(chan *nats.Msg, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isClosed {
		return 0, nil, &requestError{err: rpcx.ErrClosed}
	}
	r.last++
	r.pending[r.last] = reply
	return r.last, reply, nil
}

// remove removes a request. The result is nil if the request is over.
func (r *requester) remove(n uint64) chan *nats.Msg {
	r.mu.Lock()
	defer r.mu.Unlock()
	reply := r.pending[n]
	delete(r.pending, n)
	return reply
}

// requestError is the error of a request without a reply. It implements [rpcx.SentError].
type requestError struct {
	err  error
	sent bool
}

func (e *requestError) Error() string { return bounded.Text(e.err.Error()) }
func (e *requestError) Unwrap() error { return e.err }
func (e *requestError) Sent() bool    { return e.sent }

var (
	errNotConnected = errors.New("not connected to NATS")
	errConnLost     = errors.New("the connection to NATS was lost before the reply")
	errNoWorker     = errors.New("no worker")
)

// request sends msg to one worker and returns the reply. A request that was not started is
// sent again. The error is errNoWorker, a *requestError, or the cause of ctx.
func (r *requester) request(ctx context.Context, subject string, h nats.Header, msg []byte) (*nats.Msg, error) {
	m := &nats.Msg{Subject: r.config.subject(subject), Header: h, Data: msg}
	for repeats := 0; ; repeats++ {
		reply, err := r.requestOnce(ctx, m)
		if err != nil {
			return nil, err
		}
		if _, refused := reply.Header[notStartedHeader]; !refused || repeats == maxRepeats || ctx.Err() != nil {
			return reply, nil
		}
	}
}

// requestOnce sends m once.
func (r *requester) requestOnce(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	now := time.Now()
	left, err := timeLeft(ctx, now)
	if err != nil {
		return nil, err
	}
	n, replies, err := r.add()
	if err != nil {
		return nil, err
	}
	m.Reply = string(appendReplySubject(make([]byte, 0, 64), r.inbox, n, now.Sub(r.start), left))
	if err := r.send(m); err != nil {
		r.remove(n)
		return nil, err
	}
	select {
	case reply := <-replies:
		switch {
		case reply == nil:
			return nil, &requestError{err: errConnLost, sent: true}
		case len(reply.Data) == 0 && reply.Header.Get(statusHeader) == noResponders:
			return nil, errNoWorker
		}
		return reply, nil
	case <-ctx.Done():
		r.remove(n)
		return nil, context.Cause(ctx)
	}
}

// timeLeft returns the time until the deadline of ctx, or 0 if there is none. If ctx has
// ended, the error is its cause.
func timeLeft(ctx context.Context, now time.Time) (time.Duration, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	deadline, limited := ctx.Deadline()
	if !limited {
		return 0, nil
	}
	left := deadline.Sub(now)
	if left <= 0 { // the timer of ctx is late
		return 0, context.DeadlineExceeded
	}
	return left, nil
}

// notify sends msg, which has no reply, to one worker.
func (r *requester) notify(ctx context.Context, subject string, h nats.Header, msg []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.send(&nats.Msg{Subject: r.config.subject(subject), Header: h, Data: msg})
}

// send publishes m. The error is a *requestError.
func (r *requester) send(m *nats.Msg) error {
	return publishError(r.config.Conn, len(m.Data), r.config.Conn.PublishMsg(m))
}

// publishError returns err, the result of publishing a message of the given size, as a
// *requestError.
func publishError(conn *nats.Conn, size int, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return &requestError{err: &rpcx.SizeError{Size: size, Limit: int(conn.MaxPayload()), Field: maxPayloadField}}
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining),
		errors.Is(err, nats.ErrHeadersNotSupported) && !conn.IsConnected():
		return &requestError{err: fmt.Errorf("%w: %s", errNotConnected, strings.TrimPrefix(err.Error(), "nats: "))}
	case errors.Is(err, nats.ErrHeadersNotSupported), errors.Is(err, nats.ErrBadSubject):
		return &requestError{err: err}
	}
	return &requestError{err: err, sent: true} // a part may be written
}

// maxPayloadField is the name of the limit of a message, in errors.
const maxPayloadField = "max_payload of the NATS server, with headers"

// headers returns the headers for a message, or nil for none. s is the session of a
// gateway's client, or nil.
func (r *requester) headers(ctx context.Context, s *rpcx.Session) (nats.Header, error) {
	if r.config.Header == nil && (r.config.Peer == nil || s == nil) {
		return nil, nil
	}
	h := make(nats.Header)
	if c := r.config; c.Header != nil {
		if err := addHeaders(h, c.Header(ctx), "Header"); err != nil {
			return nil, err
		}
	}
	if c := r.config; c.Peer != nil && s != nil {
		if err := addHeaders(h, c.Peer(s), "Peer"); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// answerFor returns the error that a client receives for err, an error of request or
// notify. The result is nil if err is not for a client.
func (r *requester) answerFor(subject, method string, err error) *rpcx.Error {
	e, isRequestError := errors.AsType[*requestError](err)
	size, isSizeError := errors.AsType[*rpcx.SizeError](err)
	switch {
	case errors.Is(err, errNoWorker) && r.known.mayExist(subject):
		return busy("no worker", "no worker", false)
	case errors.Is(err, errNoWorker):
		return rpcx.MethodNotFound(method)
	case isSizeError:
		return rpcx.InvalidRequest("request too large (over %s bytes)", bounded.Thousands(size.Limit))
	case errors.Is(err, errConnLost):
		return busy("connection to the worker lost", "connection lost", true)
	case isRequestError && !e.sent:
		return busy("no worker", "no worker", false)
	}
	return nil
}

// busy returns a CodeServerBusy error. reason is for programs, why for people.
func busy(why, reason string, started bool) *rpcx.Error {
	return rpcx.ServerBusy(why).WithData(json.RawMessage(fmt.Sprintf(`{"started":%t,"reason":%q}`, started, reason)))
}
