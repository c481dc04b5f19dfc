package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"example.com/rpcx"
)

// listenCall is the flags of listen.
type listenCall struct {
	conn      *connFlags
	out       *outputFlags
	subscribe []string
	count     int
	duration  time.Duration
}

func listenCommand() *command {
	return &command{
		name:    "listen",
		usage:   "ADDR [--subscribe METHOD [PARAMS…]]",
		summary: "Print the notifications of the peer as they come",
		help: `
A notification is printed as an object with method and params. The reply to --subscribe
is printed first, as an object with result. A request of the peer is printed with its id,
and refused. rpcx ends when the peer closes the connection, or by --count or --for.

--subscribe may be repeated. Its value is METHOD, with the arguments of rpcx as params, or
'METHOD PARAMS' as in a line of batch; '!METHOD' sends a notification.`,
		examples: `
rpcx listen wss://eth.example/ --subscribe eth_subscribe newHeads --jq '.params.result.number // empty'
rpcx listen tls://electrum.example:50002 --subscribe blockchain.headers.subscribe --count 3`,
		setup: func(fs *flags) action {
			l := &listenCall{}
			fs.List(&l.subscribe, "subscribe", "`METHOD`: call this method first; may be repeated")
			fs.Int(&l.count, "count", "`N`: end after this many notifications")
			fs.Duration(&l.duration, "for", "`TIME`: end after this time")
			l.out, l.conn = declareOutputFlags(fs), declareConnFlags(fs)
			return l.run
		},
	}
}

func (l *listenCall) run(ctx context.Context, e *env, args []string) error {
	p, err := l.out.printer(e)
	if err != nil {
		return err
	}
	t, args, err := l.conn.targetOf(args)
	if err != nil {
		return err
	}
	if t.kind == kindHTTP {
		return usagef("HTTP brings no notifications; a WebSocket does: write ws:// in place of http://")
	}
	first, err := l.firstCalls(e, args)
	if err != nil {
		return err
	}
	if l.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.duration, errListenedEnough)
		defer cancel()
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	listener := &listener{p: p, count: l.count, end: end, ready: make(chan struct{})}
	c, err := l.conn.dial(ctx, e, t, &rpcx.Options{
		Handler: listener,
		Order:   rpcx.Sequential,
		// A reader of stdout that is slow slows the peer down, in place of a loss.
		Limits: rpcx.Limits{ProcessingTimeout: -1, Queue: 1 << 17, QueueBytes: maxInput},
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := listener.call(ctx, c, first); err != nil {
		return enough(ctx, err)
	}
	return l.wait(ctx, e, c)
}

// firstCalls reads --subscribe. The arguments are the params of the only --subscribe.
func (l *listenCall) firstCalls(e *env, args []string) (calls []messageLine, err error) {
	for _, text := range l.subscribe {
		m, err := parseLine(e, text)
		if err != nil {
			return nil, usagef("--subscribe: %w", err)
		}
		calls = append(calls, m)
	}
	if len(args) == 0 {
		return calls, nil
	}
	switch {
	case len(calls) == 0:
		return nil, usagef("%q is too much: params come after --subscribe METHOD", clip(args[0]))
	case len(calls) > 1 || calls[0].params != nil:
		return nil, usagef("%q is too much: with several subscriptions, or params within quotes, write --subscribe 'METHOD PARAMS'", clip(args[0]))
	}
	calls[0].params, err = parseParams(e, args)
	return calls, err
}

// errListenedEnough is the cause of the end by --count or --for.
var errListenedEnough = errors.New("--count or --for has been reached")

// enough returns nil in place of err if --count or --for has ended ctx, and the error of
// the output if that has ended ctx.
func enough(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, errListenedEnough) {
		return nil
	}
	if out, ok := errors.AsType[*outputError](cause); ok {
		return out
	}
	return err
}

// wait waits for the end of the session, or of ctx.
func (l *listenCall) wait(ctx context.Context, e *env, c *connection) error {
	select {
	case <-ctx.Done():
		return enough(ctx, context.Cause(ctx))
	case <-c.session.Done():
	}
	if n := c.session.Stats().NotificationsDropped; n > 0 {
		notice(e, "%d notifications were dropped: the reader of stdout is too slow", n)
	}
	if err := c.session.Err(); !errors.Is(err, io.EOF) {
		return enough(ctx, c.explain(fmt.Errorf("the connection ended: %w", err)))
	}
	notice(e, "the peer has closed the connection")
	return enough(ctx, nil)
}

// listener prints what the peer sends. It is a handler, of one message at a time.
type listener struct {
	p     *printer
	count int // of notifications that are still wanted; 0 for no limit
	end   context.CancelCauseFunc
	// ready is closed after the replies to the first calls have been printed.
	ready chan struct{}

	once sync.Once // for ready
}

// event is a printed message: of the peer, or a reply.
type event struct {
	ID     json.RawMessage `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// call makes the first calls, and lets notifications through then.
func (l *listener) call(ctx context.Context, c *connection, calls []messageLine) error {
	defer l.once.Do(func() { close(l.ready) })
	for _, m := range calls {
		if err := l.callOne(ctx, c, m); err != nil {
			return err
		}
	}
	return nil
}

func (l *listener) callOne(ctx context.Context, c *connection, m messageLine) error {
	callCtx, cancel := c.flags.withTimeout(ctx)
	defer cancel()
	if m.notification {
		return c.explain(c.Notify(callCtx, m.method, paramsOrNil(m.params)))
	}
	result, err := c.call(callCtx, m.method, m.params)
	if err != nil {
		return err
	}
	return l.print(ctx, event{Result: result})
}

func (l *listener) ServeRPC(ctx context.Context, req *rpcx.Request) (any, error) {
	select {
	case <-l.ready:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	params := req.Params.Positional
	if req.Params.Named != nil {
		params = req.Params.Named
	}
	if l.count >= 0 {
		if err := l.print(ctx, event{ID: json.RawMessage(req.ID), Method: req.Method, Params: params}); err != nil {
			l.end(err)
			l.count = -1
		} else if l.count > 0 {
			if l.count--; l.count == 0 {
				l.end(errListenedEnough)
				l.count = -1 // prints nothing more
			}
		}
	}
	if req.IsNotification() {
		return nil, nil
	}
	return nil, rpcx.MethodNotFound(req.Method)
}

func (l *listener) print(ctx context.Context, ev event) error {
	text, err := marshal(ev)
	if err != nil {
		return err
	}
	return l.p.print(ctx, text)
}
