package embedded_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/oracle"
	natsrpcx "example.com/rpcx/nats"
	"github.com/nats-io/nats.go"
)

// load is calls under way through gateways and clients, accounted for by an oracle.
type load struct {
	log      oracle.Log
	answered atomic.Int64
	running  atomic.Bool
	callers  sync.WaitGroup
}

// lostTimeout is the deadline of each call: as long does a call last whose reply is lost.
const lostTimeout = 3 * time.Second

// call makes a call, which the oracle accounts for.
func (l *load) call(caller rpcx.Caller) error {
	n := l.log.Begin(oracle.Once)
	ctx, cancel := context.WithTimeout(context.Background(), lostTimeout)
	defer cancel()
	result, err := rpcx.Call[int](ctx, caller, "work", rpcx.Args{n})
	l.log.End(n, result, err)
	if err == nil {
		l.answered.Add(1)
	}
	return err
}

// start starts the goroutines that call through caller, one call after another.
func (l *load) start(caller rpcx.Caller, goroutines int) {
	l.running.Store(true)
	for range goroutines {
		l.callers.Go(func() {
			for l.running.Load() {
				_ = l.call(caller)
			}
		})
	}
}

// more waits until another n calls are answered.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	target := l.answered.Load() + n
	until(t, fmt.Sprintf("%d calls are answered", target), func() bool { return l.answered.Load() >= target })
}

// end ends the load, and fails the test for each problem.
func (l *load) end(t *testing.T) oracle.Counts {
	t.Helper()
	l.running.Store(false)
	l.callers.Wait()
	counts := l.log.Counts()
	for _, problem := range l.log.Problems() {
		t.Error(problem)
	}
	t.Logf("answered %d, not started %d, written %d", counts.Ended[oracle.Once][oracle.Answered],
		counts.Ended[oracle.Once][oracle.NotStarted], counts.Ended[oracle.Once][oracle.Written])
	return counts
}

// handler returns the method "work", which records its calls. If slow is set, it waits for
// the next 20 answers to other calls, as long as there is load.
func (l *load) handler(slow bool) *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("work", rpcx.Func(func(ctx context.Context, n int) (int, error) {
		l.log.Started(n)
		if slow {
			for target := l.answered.Load() + 20; l.answered.Load() < target && l.running.Load() && ctx.Err() == nil; {
				pause(ctx)
			}
		}
		l.log.Finished(n)
		return n, nil
	}))
	return r
}

// pause lets others run.
func pause(ctx context.Context) {
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
	}
}

func TestAClusterLosesAWorkerAndANodeUnderLoad(t *testing.T) {
	c := newCluster(t)
	l := new(load)
	var conns []*nats.Conn
	var drains []func() error
	for i := range c.nodes {
		for k, srv := range []*rpcx.Server{serverOf(l.handler(false)), serverOf(l.handler(true))} {
			conn := c.connect(t, i)
			conns = append(conns, conn)
			drains = append(drains, work(t, srv, natsrpcx.Config{Conn: conn, MaxInFlight: 10 - 8*k})) // the slow ones are often full
		}
	}
	var callers []rpcx.Caller
	for i := range c.nodes {
		callers = append(callers, gateway(t, natsrpcx.Config{Conn: c.connect(t, i)}, rpcx.Options{Limits: rpcx.Limits{CostOff: true}}, nil))
		callers = append(callers, dial(t, natsrpcx.Config{Conn: c.connect(t, i)}, nil))
	}
	for _, caller := range callers {
		until(t, "a worker serves", func() bool { return l.call(caller) == nil })
	}
	for _, caller := range callers {
		l.start(caller, 4)
	}
	l.more(t, 500)
	if err := drains[0](); err != nil { // a quick worker at node 0
		t.Error(err)
	}
	l.more(t, 500)
	conns[3].Close() // a slow worker at node 1 is killed
	l.more(t, 500)
	c.nodes[1].NATS.Shutdown()
	l.more(t, 500)
	for _, caller := range callers { // those at node 1 have gone to another one
		until(t, "a worker serves again", func() bool { return l.call(caller) == nil })
	}
	l.more(t, 500)
	counts := l.end(t)
	if written := counts.Ended[oracle.Once][oracle.Written]; written > 100 {
		t.Errorf("%d calls have an uncertain end", written)
	}
}

// No call is lost by a worker that drains.
func TestDrainingUnderLoad(t *testing.T) {
	c := newCluster(t)
	l := new(load)
	var drains []func() error
	serve := func(i int) {
		drains = append(drains, work(t, serverOf(l.handler(false)), natsrpcx.Config{Conn: c.connect(t, i), MaxInFlight: 1000}))
	}
	for i := range c.nodes {
		serve(i)
	}
	callers := []rpcx.Caller{dial(t, natsrpcx.Config{Conn: c.connect(t, 0)}, nil), dial(t, natsrpcx.Config{Conn: c.connect(t, 1)}, nil)}
	for _, caller := range callers {
		until(t, "a worker serves", func() bool { return l.call(caller) == nil })
		l.start(caller, 8)
	}
	for i := range 9 {
		l.more(t, 300)
		if err := drains[i](); err != nil {
			t.Error(err)
		}
		serve(i % 3)
	}
	counts := l.end(t)
	if n := counts.Ended[oracle.Once][oracle.Written]; n > 0 {
		t.Errorf("%d calls were lost", n)
	}
}
