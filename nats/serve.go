package natsrpcx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/gopool"
	"github.com/nats-io/nats.go"
)

const (
	// arrivedMessages is the maximum number of messages that have arrived and are neither
	// handled nor refused. The goroutine of Serve takes them at once, but a burst may be
	// faster: of 20,000 requests at once, a channel of 4,096 lost some.
	arrivedMessages = 64 << 10
	// defaultDrain is the time for handlers to finish, without Server.ShutdownTimeout.
	defaultDrain = 30 * time.Second
	// replyRoom is the part of max_payload that is left for the headers of a reply.
	replyRoom = 256
)

// Serve answers with srv, a worker, the requests that come by c, until ctx ends. Further
// workers, in other processes or in the same one, share the requests. A worker needs no
// listener. Each message is an exchange, as [rpcx.Server.ServeMessage] describes it, with
// the options, limits and counters of srv; handlers cannot call back.
//
// The worker has the methods of the router, which may change, or those of Config.Methods. A
// method that is added begins with the next announcement.
//
// When ctx ends, Serve drains: it takes no further requests, handles those that have
// arrived, and returns nil when all are answered. After Server.ShutdownTimeout Serve
// returns an error that matches context.DeadlineExceeded, and handlers may still run. If
// srv is shut down or closed, Serve drains in the same way, at the next message or
// announcement, and returns [rpcx.ErrServerClosed]. If the subject of an added method is
// too long, Serve drains and returns an error. If Conn is closed, Serve returns an error
// at once.
//
// The contexts of the handlers have the values of ctx, and do not end with ctx.
func Serve(ctx context.Context, srv *rpcx.Server, c Config) error {
	w, err := newWorker(ctx, srv, c)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.subscribe(); err != nil {
		return err
	}
	return w.run(ctx)
}

// worker is a Serve.
type worker struct {
	config      *Config
	server      *rpcx.Server
	ctx         context.Context // of the handlers, without their deadlines
	start       time.Time       // zero of the clock for delays
	maxInFlight int
	delays      delays
	pool        gopool.Pool
	arrived     chan *nats.Msg
	stopped     chan struct{} // has an element when the server refuses everything
	status      chan nats.Status
	subs        map[string]*nats.Subscription // by subject without the prefix; goroutine of Serve only

	mu      sync.Mutex // guards the fields below
	running int        // messages that are handled
	refused int        // messages that met a full worker, since the last record in the log
	idle    chan struct{}
}

// newWorker returns a worker without subscriptions.
func newWorker(ctx context.Context, srv *rpcx.Server, c Config) (*worker, error) {
	resolved, err := c.resolved()
	if err != nil {
		return nil, err
	}
	if resolved.Methods == nil {
		router, ok := srv.Options.Handler.(*rpcx.Router)
		if !ok {
			return nil, fmt.Errorf("natsrpcx: the methods of a worker are unknown: Options.Handler is a %T and not an *rpcx.Router; set Config.Methods", srv.Options.Handler)
		}
		resolved.Methods = router.Methods
	}
	if srv.Options.Gate != nil && resolved.Admit == nil {
		return nil, errors.New("natsrpcx: the server has a Gate, and a message by NATS has no first message: set Config.Admit, or leave the Gate to the gateway")
	}
	if p := srv.Options.Protocol; p != nil && !speaksJSONRPC2(p) {
		return nil, errors.New("natsrpcx: Options.Protocol of the server does not speak JSON-RPC 2.0, as gateways and clients do: leave it out, or use JSONRPCAutoDetect")
	}
	if srv.Stopped() {
		return nil, rpcx.ErrServerClosed
	}
	// An empty message finds invalid options; the answer does not matter. Functions of the
	// options find a message there, as always.
	if reply, err := srv.ServeMessage(ctx, &exchange{msg: new(nats.Msg)}, nil, nil); err != nil && reply == nil && ctx.Err() == nil {
		return nil, fmt.Errorf("natsrpcx: %w", err)
	}
	w := &worker{
		config: resolved, server: srv, ctx: context.WithoutCancel(ctx), start: time.Now(), maxInFlight: resolved.MaxInFlight,
		arrived: make(chan *nats.Msg, arrivedMessages), stopped: make(chan struct{}, 1), subs: make(map[string]*nats.Subscription),
	}
	if w.maxInFlight == 0 {
		w.maxInFlight = srv.Options.Limits.Concurrency
	}
	if w.maxInFlight == 0 {
		w.maxInFlight = defaultConcurrency
	}
	w.status = resolved.Conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	w.pool.AddUser()
	return w, nil
}

// speaksJSONRPC2 reports whether p takes a request of JSON-RPC 2.0 for a request, and
// answers in JSON-RPC 2.0.
func speaksJSONRPC2(p rpcx.Protocol) bool {
	request := []byte(`{"jsonrpc":"2.0","method":"m","params":[1],"id":0}`)
	if d, ok := p.(rpcx.Detector); ok {
		if found := d.Detect(request, 1); found != nil {
			p = found
		}
	}
	var m rpcx.Message
	p.Decode(&m, request, 1)
	if m.Items[0].Kind != rpcx.KindRequest || m.Items[0].Method != "m" {
		return false
	}
	reply, err := p.AppendResult(nil, m.Items[0].ID, 1, p.Codec())
	rpcx.JSONRPCv2.Decode(&m, reply, 1)
	return err == nil && m.Items[0].Kind == rpcx.KindResponse && m.Items[0].Err == nil
}

// close releases the worker.
func (w *worker) close() {
	for _, sub := range w.subs {
		_ = sub.Unsubscribe() // does nothing after Drain
	}
	w.config.Conn.RemoveStatusListener(w.status)
	w.pool.RemoveUser()
}

// run handles messages until ctx ends, the server is stopped or the connection is closed.
func (w *worker) run(ctx context.Context) error {
	w.announce()
	ticker := time.NewTicker(w.config.Announce)
	defer ticker.Stop()
	for {
		select {
		case m := <-w.arrived:
			w.takeMessage(m)
			w.takeArrived() // faster than the large select, one by one
		case <-ticker.C:
			if w.server.Stopped() { // a worker without messages learns only now
				return w.drainStopped()
			}
			if err := w.subscribe(); err != nil {
				if w.config.Conn.IsClosed() {
					return err
				}
				return errors.Join(err, w.drain())
			}
			w.announce()
			w.logRefused(ctx)
		case s := <-w.status:
			if s == nats.CLOSED {
				return fmt.Errorf("natsrpcx: serve: %w", nats.ErrConnectionClosed)
			}
			w.announce()
		case <-w.stopped:
			return w.drainStopped()
		case <-ctx.Done():
			return w.drain()
		}
	}
}

// logRefused logs how many messages have met a full worker.
func (w *worker) logRefused(ctx context.Context) {
	w.mu.Lock()
	refused := w.refused
	w.refused = 0
	w.mu.Unlock()
	if log := w.server.Options.Logger; refused > 0 && log != nil {
		log.LogAttrs(ctx, slog.LevelWarn, "the worker was full: requests were left to other workers, and notifications dropped",
			slog.Int("messages", refused),
			slog.Group("limit", slog.String("name", "natsrpcx.Config.MaxInFlight"), slog.Int("requests", w.maxInFlight)))
	}
}

// subscribe subscribes to the subjects of the methods that are new, and ends the
// subscriptions of methods that are gone.
func (w *worker) subscribe() error {
	subjects, err := subjectsOf(w.config.Methods())
	if err != nil {
		return err
	}
	for subject, sub := range w.subs {
		if _, ok := subjects[subject]; !ok {
			_ = sub.Drain() // fails only if the connection is closed
			delete(w.subs, subject)
		}
	}
	for subject := range subjects {
		if w.subs[subject] != nil {
			continue
		}
		sub, err := w.config.Conn.ChanQueueSubscribe(w.config.subject(subject), w.config.Queue, w.arrived)
		if err != nil {
			return fmt.Errorf("natsrpcx: subscribe to %s: %w", w.config.subject(subject), err)
		}
		w.subs[subject] = sub
	}
	return nil
}

// subjectsOf returns the subjects of methods, without the prefix.
func subjectsOf(methods iter.Seq[string]) (map[string]struct{}, error) {
	subjects := make(map[string]struct{})
	for method := range methods {
		subject, ok := methodSubject(method)
		if !ok {
			return nil, fmt.Errorf("natsrpcx: the subject of the method %.64q… has over %d bytes: give the method a shorter name", method, maxSubject)
		}
		subjects[subject] = struct{}{}
	}
	return subjects, nil
}

// announce publishes the worker's methods, in messages of at most half of max_payload.
// Without a connection, nothing is published.
func (w *worker) announce() {
	conn := w.config.Conn
	limit := int(conn.MaxPayload()) / 2
	publish := func(text string) { _ = conn.Publish(w.config.subject(announceSubject), []byte(text)) }
	var text strings.Builder
	for subject := range w.subs {
		if text.Len() > 0 && text.Len()+len(subject) >= limit {
			publish(text.String())
			text.Reset()
		}
		text.WriteString(subject)
		text.WriteByte('\n')
	}
	if text.Len() > 0 {
		publish(text.String())
	}
}

// drain ends the subscriptions, handles the messages that have arrived, and waits for the
// answers.
func (w *worker) drain() error {
	timeout := w.server.ShutdownTimeout
	if timeout == 0 {
		timeout = defaultDrain
	}
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for _, sub := range w.subs {
		_ = sub.Drain() // fails only if the connection is closed
	}
	// When the flush has returned, whatever NATS has sent before the end of the subscriptions
	// has arrived. More may come meanwhile than w.arrived has room for.
	flushed := make(chan struct{})
	// Owner: drain. End: flush returns.
	go func() {
		defer close(flushed)
		w.flush(ctx)
	}()
	for flushing := true; flushing; {
		select {
		case m := <-w.arrived:
			w.takeMessage(m)
		case <-flushed:
			flushing = false
		}
	}
	w.takeArrived()
	select {
	case <-w.whenIdle():
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		return fmt.Errorf("natsrpcx: %d requests are not finished after %v (Server.ShutdownTimeout): %w", w.running, timeout, context.Cause(ctx))
	}
	w.flush(ctx) // the replies
	return nil
}

// drainStopped is drain after the server was stopped.
func (w *worker) drainStopped() error {
	if err := w.drain(); err != nil {
		return err
	}
	return rpcx.ErrServerClosed
}

// takeArrived takes the messages that have arrived.
func (w *worker) takeArrived() {
	for {
		select {
		case m := <-w.arrived:
			w.takeMessage(m)
		default:
			return
		}
	}
}

// flush waits until NATS has everything that was published. Without a connection, or after
// five seconds, flush gives up.
func (w *worker) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = w.config.Conn.FlushWithContext(ctx)
}

// whenIdle returns a channel that is closed when no message is handled. No further messages
// may begin.
func (w *worker) whenIdle() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = make(chan struct{})
	if w.running == 0 {
		close(w.idle)
	}
	return w.idle
}
