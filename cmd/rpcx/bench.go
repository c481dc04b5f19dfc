package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"example.com/rpcx"
)

// benchCall is the flags of bench.
type benchCall struct {
	conn *connFlags
	out  *outputFlags

	calls       int
	duration    time.Duration
	warmUp      time.Duration
	connections int
	inFlight    int
	rate        int
	batch       int
	notify      bool
	noProgress  bool
}

const (
	defaultBenchTime = 10 * time.Second
	// closedInFlight and openInFlight are the defaults of --in-flight. With --rate the
	// number is a bound, which a peer in good health does not reach.
	closedInFlight, openInFlight = 50, 1000
	// maxHTTPInFlight is the number of idle connections that an HTTP client keeps. More
	// calls would connect anew.
	maxHTTPInFlight = 100
	// maxBenchInFlight bounds the goroutines of bench, and thereby the memory: about 1 GB.
	maxBenchInFlight = 100_000
	maxBenchRate     = 10_000_000
	// maxBenchBatch bounds the memory for the calls of all batches in flight.
	maxBenchBatch = 1_000_000
	// maxBenchTime keeps sums of times in their type: no run lasts a year.
	maxBenchTime = 365 * 24 * time.Hour
)

func benchCommand() *command {
	return &command{
		name:    "bench",
		usage:   "ADDR METHOD [PARAMS… | NAME=VALUE… | @FILE | -]",
		summary: "Measure how fast a peer answers calls",
		help: `
Without --rate, bench is a closed loop: the next call starts when a reply has come. The
result is the greatest rate that the peer reaches with so many calls in flight. A closed
loop waits while the peer stalls, so that its latencies do not show what others would see.

With --rate, bench is an open model: calls are due at fixed times, whatever the peer does,
and latency is counted from when a call was due. If --in-flight calls have no reply, calls
that are due wait: they are sent late, and none is dropped before the time is up. The report
has the rate that was reached, and how late calls were sent. The column "from sent" is the
time from the sending of a call to the reply.

Every call that was due counts in the latencies. Without a reply, the time counts until the
call was given up: by --timeout, by the loss of the connection, or at the end of the time.
After the end bench sends no call, and waits for the replies to the calls in flight. Ctrl-C
ends the run early, and the report is about what was measured until then.

A connection that is lost is not made again: the run goes on with the others. Over HTTP/1.1,
every call in flight has a TCP connection of its own, and --connections is the number of
clients. Requests that failed are not repeated.

bench itself takes less than 1 µs of processor time for each call. If the peer is on the
same machine, both share the processors. A peer that limits its callers, as servers of rpcx
do by default, slows down or ends connections that send so much. Raise its limits first: at
servers of rpcx, the costs CostSoft and CostHard.

With --output json, numbers have the unit at the end of the field's name, _s or _us:
  target, method, kind      what was sent: call or notification, or a batch of these
  model, rate_wanted        closed, or open with --rate
  connections, in_flight    in_flight is for each connection
  batch                     calls in a message, with --batch
  warm_up_s, duration_s     the time before the measurement, and of the measurement
  ended                     complete, interrupted, or disconnected
  calls                     numbers: due = sent + unsent, and
                            sent = succeeded + failed + unfinished (given up by Ctrl-C);
                            waited: sent late, because too many were in flight
  rate                      calls a second that were answered
  latency_us                from due to the reply: min, mean, stddev, p50, p75, p90, p95,
                            p99, p99_9, p99_99, max; three digits count
  reply_us, late_us         with --rate: from sent to the reply, and from due to sent
  histogram                 count of the latencies over from_us, up to to_us
  errors                    count of each kind (peer, timeout, connection, http, message),
                            code and message; after 20 of these, the others are one, "other"

The exit code is 0 if all calls succeeded; otherwise 3 if a connection failed or a reply was
not JSON-RPC, or else 4 if a call timed out, or else 1. After Ctrl-C it is 130.`,
		examples: `
rpcx bench localhost:8888 sum 1 2
rpcx bench localhost:8888 sum 1 2 --rate 5000 -d 30s --warm-up 2s
rpcx bench ws://localhost:8080/ws echo message=hi -n 100000 -c 10 -p 20
rpcx bench localhost:8888 sum 1 2 --rate 1000 --output json --jq .latency_us.p99`,
		setup: func(fs *flags) action {
			return newBenchCall(fs).run
		},
	}
}

// newBenchCall declares the flags of bench.
func newBenchCall(fs *flags) *benchCall {
	b := &benchCall{connections: 1}
	fs.group("Load")
	fs.Int(&b.calls, "calls", "end after `N` calls. Default: no end")
	fs.alias("n", "calls")
	fs.Duration(&b.duration, "duration", "end after `TIME`. Default: 10s, unless --calls is given")
	fs.alias("d", "duration")
	fs.Duration(&b.warmUp, "warm-up", "send calls for `TIME` before the measurement begins")
	fs.Int(&b.connections, "connections", "open `CONNS` connections")
	fs.alias("c", "connections")
	fs.Int(&b.inFlight, "in-flight", "at most `N` calls without a reply on each connection. Default: 50; with --rate 1000, or 100 over HTTP")
	fs.alias("p", "in-flight")
	fs.Int(&b.rate, "rate", "send `N` calls a second in all, and count latency from when a call was due. Default: a closed loop")
	fs.Int(&b.batch, "batch", "send calls in batches of `N`; a latency is that of a batch")
	fs.Bool(&b.notify, "notify", "send notifications, which have no reply: a latency is the wait for room to send")
	fs.Bool(&b.noProgress, "no-progress", "show no progress on a terminal")
	b.out, b.conn = declareOutputFlags(fs, "text"), declareConnFlags(fs)
	return b
}

// run reads the arguments, measures, and prints the report.
func (b *benchCall) run(ctx context.Context, e *env, args []string) error {
	p, err := b.out.printer(e)
	if err != nil {
		return err
	}
	t, args, err := b.conn.targetOf(args)
	if err != nil {
		return err
	}
	method, params, err := parseCall(e, args)
	if err != nil {
		return err
	}
	if err := b.check(t); err != nil {
		return err
	}
	conns, err := b.dial(ctx, e, t)
	defer closeAll(conns)
	if err != nil {
		return err
	}
	plan := b.plan(conns, method, params)
	plan.timer = newPreciseTimer()
	defer plan.timer.close()
	return b.measure(ctx, e, p, benchSubject{target: t.shown, method: method}, plan)
}

// benchSubject names what is measured.
type benchSubject struct{ target, method string }

// measure runs the load, shows the progress, and prints the report.
func (b *benchCall) measure(ctx context.Context, e *env, p *printer, subject benchSubject, plan loadPlan) error {
	l := newLoad(plan)
	hide := showProgress(e, l, b.noProgress)
	m := l.run(ctx)
	hide()
	if m.ended == endedDisconnected && m.lastReply == 0 {
		return b.lostError(m.lost, heardUnknown) // nothing was measured
	}
	r := newReport(b, subject, m)
	if err := r.print(e, p); err != nil {
		return err
	}
	return b.result(ctx, m)
}

// check fills in defaults, and refuses numbers that make no sense together.
func (b *benchCall) check(t target) error {
	if b.inFlight == 0 {
		switch {
		case b.rate > 0 && t.kind == kindHTTP:
			b.inFlight = maxHTTPInFlight
		case b.rate > 0:
			b.inFlight = openInFlight
		default:
			b.inFlight = closedInFlight
		}
	}
	if b.calls == 0 && b.duration == 0 {
		b.duration = defaultBenchTime
	}
	switch all := b.connections * b.inFlight; {
	case b.connections == 0:
		return usagef("--connections must be 1 or more")
	case b.connections > maxBenchInFlight || b.inFlight > maxBenchInFlight || all > maxBenchInFlight:
		return usagef("--connections %d times --in-flight %d is too much: at most %s calls can be in flight", b.connections, b.inFlight, grouped(maxBenchInFlight))
	case t.kind == kindHTTP && b.inFlight > maxHTTPInFlight:
		return usagef("--in-flight is at most %d over HTTP; raise --connections", maxHTTPInFlight)
	case b.rate > maxBenchRate:
		return usagef("--rate is at most %s calls a second", grouped(maxBenchRate))
	case b.batch > maxBenchBatch/all:
		return usagef("--batch %d with %s batches in flight is too much: at most %s calls can be in flight in batches", b.batch, grouped(int64(all)), grouped(maxBenchBatch))
	case b.duration > maxBenchTime || b.warmUp > maxBenchTime:
		return usagef("--duration and --warm-up are at most %v", maxBenchTime)
	case b.batch > 1 && b.calls%b.batch != 0:
		return usagef("--calls %d is not a multiple of --batch %d", b.calls, b.batch)
	}
	return nil
}

// dial makes all connections. The connections that were made are returned with an error,
// too.
func (b *benchCall) dial(ctx context.Context, e *env, t target) (conns []*loadConn, err error) {
	// A load has the bounds of its flags, and no others at this end.
	opts := &rpcx.Options{Limits: rpcx.Limits{Outgoing: -1, Batch: max(b.batch, 1), PeerErrors: -1}}
	b.conn.retries = -1
	made := make([]*loadConn, b.connections)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for i := range made {
		// Owner: dial. End: with the connection, or with --timeout.
		g.Go(func() error {
			c, err := b.conn.dial(ctx, e, t, opts)
			if err != nil {
				return err
			}
			made[i] = newLoadConn(c)
			return nil
		})
	}
	err = g.Wait()
	for _, c := range made {
		if c != nil {
			conns = append(conns, c)
		}
	}
	return conns, err
}

// newLoadConn returns the connection of a load that uses c.
func newLoadConn(c *connection) *loadConn {
	conn := &loadConn{caller: c.Caller, ended: make(chan struct{}), close: func() { c.Close() }}
	if c.session == nil {
		conn.patience = maxRefused
		conn.ctx, conn.abandon = context.WithCancel(context.Background())
		return conn
	}
	// A context that cannot end costs a call nothing. --timeout is Limits.RequestTimeout.
	conn.patience, conn.ctx, conn.abandon = 1, context.Background(), func() { c.session.Close() }
	c.session.OnClose(conn.end)
	return conn
}

// maxRefused is how many times in a row an HTTP server may be out of reach.
const maxRefused = 10

func closeAll(conns []*loadConn) {
	var g errgroup.Group
	for _, c := range conns {
		// Owner: closeAll. End: within closeTimeout.
		g.Go(func() error { c.close(); return nil })
	}
	g.Wait()
}

// plan returns what the flags ask for.
func (b *benchCall) plan(conns []*loadConn, method string, params json.RawMessage) loadPlan {
	perMessage := max(b.batch, 1)
	l := loadPlan{
		conns: conns, inFlight: b.inFlight, perMessage: perMessage,
		rate: float64(b.rate) / float64(perMessage), warmUp: b.warmUp, duration: b.duration,
		messages: int64(b.calls / perMessage), kindOf: b.conn.kindOfError,
	}
	args := paramsOrNil(params)
	switch {
	case b.batch > 0:
		l.send = func(ctx context.Context, c rpcx.Caller) error {
			var batch rpcx.Batch
			for range b.batch {
				if b.notify {
					batch.Notify(method, args)
				} else {
					batch.Call(method, args, nil)
				}
			}
			return c.SendBatch(ctx, &batch)
		}
	case b.notify:
		l.send = func(ctx context.Context, c rpcx.Caller) error { return c.Notify(ctx, method, args) }
	default:
		l.send = func(ctx context.Context, c rpcx.Caller) error { return c.Call(ctx, method, args, nil) }
	}
	return l
}

// result returns the error that decides the exit code. The report has said everything,
// except a hint.
func (b *benchCall) result(ctx context.Context, m *measurement) error {
	switch m.ended {
	case endedInterrupted:
		return context.Cause(ctx)
	case endedDisconnected:
		return b.lostError(m.lost, heardSomething)
	}
	failed := map[string]bool{}
	for kind := range m.errors {
		failed[kind.kind] = true
	}
	code := exitConnection
	switch {
	case len(failed) == 0:
		return nil
	case len(failed) == 1 && failed[kindPeer]:
		code = exitPeer
	case !failed[kindConnection] && !failed[kindStatus] && !failed[kindMessage] && !failed[kindOther]:
		code = exitTimeout
	}
	return &exitError{code: code, err: errors.New("calls have failed"), silent: true}
}

// lostError returns the loss of all connections as an error for the user.
func (b *benchCall) lostError(lost error, h heard) error {
	err := fmt.Errorf("all connections were lost: %w", lost)
	if _, ok := errors.AsType[*rpcx.Error](lost); ok {
		err = errors.New(err.Error()) // no call has failed with this error of the peer
	}
	return b.conn.explain(err, h)
}
