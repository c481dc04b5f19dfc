package main

import (
	"context"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"example.com/rpcx"
)

// loadPlan is what a load sends. A message is a call, a notification or a batch.
type loadPlan struct {
	conns      []*loadConn
	inFlight   int                                      // messages without a reply on each connection
	perMessage int                                      // calls in a message
	rate       float64                                  // messages a second in all; 0 for a closed loop
	messages   int64                                    // to measure; 0 for no limit
	duration   time.Duration                            // of the measurement; 0 for no limit
	warmUp     time.Duration                            // before the measurement
	send       func(context.Context, rpcx.Caller) error // sends a message, and waits for the reply
	kindOf     func(error) errorKind
	timer      timer
}

// load sends messages to a peer, and measures. All times are since the start.
//
// Each connection has inFlight workers. In a closed loop, a worker sends its next message
// after the reply.
//
// In the open model, message k is due at k/rate, and workers take messages in this order.
// A worker that is free takes a message that is due. If no message is due, the worker is
// idle. The pacer, a goroutine, waits until a message is due, and gives the message to an
// idle worker. If no worker is idle, the message is sent later. No queue takes memory.
type load struct {
	loadPlan

	start   time.Time
	last    int64 // number of messages of the open model, with the warm-up
	shards  []*shard
	claimed atomic.Int64 // measured messages of a closed loop
	live    atomic.Int64 // connections

	// The open model.
	given  atomic.Int64       // messages that workers have
	waited atomic.Int64       // measured messages that found no idle worker
	idle   atomic.Int64       // workers; may be too high for a moment
	parked chan struct{}      // has an element after a worker has become idle
	due    chan time.Duration // from the pacer to an idle worker: when the message was due

	abandoned atomic.Bool   // calls in flight are given up
	finished  chan struct{} // closed when all workers have ended

	stopOnce  sync.Once
	stopped   chan struct{} // closed when no message may be sent any more
	ended     string        // why; ended, stoppedAt and lost are written before stopped is closed
	stoppedAt time.Duration
	lost      error // why the last connection was lost
}

// The reasons for the end of a load.
const (
	endedComplete     = "complete"
	endedInterrupted  = "interrupted"
	endedDisconnected = "disconnected"
)

const (
	// interruptGrace is how long an interrupted load waits for replies.
	interruptGrace = 500 * time.Millisecond
	// longestSleep is how long the pacer takes to notice the end of the load.
	longestSleep = 20 * time.Millisecond
)

// loadConn is a connection of a load.
type loadConn struct {
	caller  rpcx.Caller
	ctx     context.Context // for calls
	abandon func()          // ends the calls in flight
	close   func()          // after the load
	// patience is the number of failures in a row after which the connection is lost: 1 for
	// a session, more for a client of HTTP, which connects anew.
	patience int32
	failures atomic.Int32 // in a row

	once  sync.Once
	ended chan struct{} // closed when the connection takes no more messages
	err   error         // why; written before ended is closed
}

// end marks the connection as lost.
func (c *loadConn) end(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.ended)
	})
}

// noteOutcome tracks failures of the connection.
func (c *loadConn) noteOutcome(err error, failed bool) {
	switch {
	case failed:
		if c.failures.Add(1) >= c.patience {
			c.end(err)
		}
	case c.failures.Load() > 0:
		c.failures.Store(0)
	}
}

// newLoad returns a load that starts now.
func newLoad(plan loadPlan) *load {
	l := &load{
		loadPlan: plan, start: time.Now(), due: make(chan time.Duration), parked: make(chan struct{}, 1),
		stopped: make(chan struct{}), finished: make(chan struct{}),
		shards: make([]*shard, min(2*runtime.GOMAXPROCS(0), len(plan.conns)*plan.inFlight)),
	}
	l.live.Store(int64(len(plan.conns)))
	l.last = math.MaxInt64
	if plan.rate > 0 && plan.messages > 0 {
		l.last = l.dueBefore(plan.warmUp) + plan.messages
	}
	l.idle.Store(int64(len(plan.conns) * plan.inFlight))
	for i := range l.shards {
		l.shards[i] = newShard()
	}
	return l
}

func (l *load) now() time.Duration { return time.Since(l.start) }

// run sends all messages, and returns what was measured. The end of ctx ends the run.
func (l *load) run(ctx context.Context) *measurement {
	// Owner: run. End: finished is closed, or interruptGrace has passed.
	defer context.AfterFunc(ctx, l.interrupt)()
	if l.duration > 0 {
		timeUp := time.AfterFunc(l.warmUp+l.duration-l.now(), func() { l.stop(endedComplete, nil) })
		defer timeUp.Stop()
	}
	var conns sync.WaitGroup
	for i, c := range l.conns {
		// Owner: run. End: the connection is lost, or all messages are sent.
		conns.Go(func() { l.runConn(c, i*l.inFlight) })
	}
	if l.rate > 0 {
		l.pace()
	}
	conns.Wait()
	l.stop(endedComplete, nil)
	close(l.finished)
	return l.measurement()
}

// stop ends the sending. The first reason counts.
func (l *load) stop(reason string, lost error) {
	l.stopOnce.Do(func() {
		l.ended, l.lost, l.stoppedAt = reason, lost, l.now()
		close(l.stopped)
	})
}

// interrupt stops the load, and gives up the calls without a reply after interruptGrace.
func (l *load) interrupt() {
	l.stop(endedInterrupted, nil)
	select {
	case <-l.finished:
		return
	case <-time.After(interruptGrace):
	}
	l.abandoned.Store(true)
	for _, c := range l.conns {
		c.abandon()
	}
}

// runConn runs the workers of a connection until all have ended.
func (l *load) runConn(c *loadConn, firstWorker int) {
	var workers sync.WaitGroup
	for i := range l.inFlight {
		// Owner: runConn. End: the connection is lost, or all messages are sent.
		workers.Go(func() { l.work(c, l.shards[(firstWorker+i)%len(l.shards)]) })
	}
	workers.Wait()
	select {
	case <-c.ended:
		if l.live.Add(-1) == 0 {
			l.stop(endedDisconnected, c.err)
		}
	default:
	}
}

// work sends messages on a connection, one after the other.
func (l *load) work(c *loadConn, sh *shard) {
	next := l.next
	if l.rate > 0 {
		next = l.park // idle from the beginning
	}
	for {
		due, ok := next(c)
		if !ok {
			return
		}
		next = l.next
		sent := due
		if l.rate > 0 {
			sent = l.now()
		}
		err := l.send(c.ctx, c.caller)
		l.record(c, sh, due, sent, l.now(), err)
	}
}

// next returns when the next message for c was due. Without a next message, ok is false.
func (l *load) next(c *loadConn) (due time.Duration, ok bool) {
	if l.rate > 0 {
		return l.nextDue(c)
	}
	now := l.now()
	switch {
	case isClosed(c.ended) || isClosed(l.stopped):
		return 0, false
	case now < l.warmUp:
		return now, true
	case l.duration > 0 && now >= l.warmUp+l.duration:
		return 0, false
	}
	return now, l.messages == 0 || l.claimed.Add(1) <= l.messages
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// nextDue is next in the open model.
func (l *load) nextDue(c *loadConn) (due time.Duration, ok bool) {
	if isClosed(c.ended) {
		return 0, false
	}
	select {
	case due, ok = <-l.due: // first, so that this message does not wait for an idle worker
		return due, ok
	default:
	}
	if due, ok = l.take(); ok {
		if l.idle.Load() == 0 && due >= l.warmUp {
			l.waited.Add(1)
		}
		return due, true
	}
	l.idle.Add(1)
	select {
	case l.parked <- struct{}{}:
	default:
	}
	return l.park(c)
}

// park waits for a message from the pacer. The worker has been counted as idle.
func (l *load) park(c *loadConn) (due time.Duration, ok bool) {
	defer l.idle.Add(-1)
	select {
	case due, ok = <-l.due:
		return due, ok
	case <-c.ended:
		return 0, false
	}
}

// take takes the next message, if it is due.
func (l *load) take() (due time.Duration, ok bool) {
	for {
		k := l.given.Load()
		due = l.dueAt(k)
		if due > l.now() || !l.mayGive(k, due) || isClosed(l.stopped) {
			return 0, false
		}
		if l.given.CompareAndSwap(k, k+1) {
			return due, true
		}
	}
}

// mayGive reports whether message k, which is due at the given time, belongs to the load.
func (l *load) mayGive(k int64, due time.Duration) bool {
	return k < l.last && (l.duration == 0 || due < l.warmUp+l.duration)
}

// pace gives messages to idle workers when these are due, until the last message.
func (l *load) pace() {
	defer close(l.due)
	for {
		k := l.given.Load()
		due := l.dueAt(k)
		if !l.mayGive(k, due) || !l.sleepUntil(due) {
			return
		}
		if l.idle.Load() == 0 {
			select {
			case <-l.parked:
			case <-l.stopped:
				return
			}
		} else if due, ok := l.take(); ok {
			select {
			case l.due <- due:
			case <-l.stopped:
				l.given.Add(-1)
				return
			}
		}
	}
}

// sleepUntil waits. It reports false if the load is stopped.
func (l *load) sleepUntil(at time.Duration) bool {
	for !isClosed(l.stopped) {
		wait := at - l.now()
		if wait <= 0 {
			return true
		}
		l.timer.sleep(min(wait, longestSleep))
	}
	return false
}

// dueAt returns when message k of the open model is due.
func (l *load) dueAt(k int64) time.Duration {
	return time.Duration(math.Round(float64(k) / l.rate * float64(time.Second)))
}

// dueBefore returns the number of messages that are due before a time.
func (l *load) dueBefore(at time.Duration) int64 {
	k := max(0, int64(at.Seconds()*l.rate)-1)
	for l.dueAt(k) < at {
		k++
	}
	return k
}

// end returns when the measurement ended, unless a later reply ends it. Messages of the
// open model from first to last were due and not sent.
func (l *load) end() (at time.Duration, first, last int64) {
	byTime := l.warmUp + l.duration
	if l.rate == 0 {
		switch {
		case l.ended != endedComplete:
			return l.stoppedAt, 0, 0
		case l.messages > 0 && l.claimed.Load() >= l.messages:
			return 0, 0, 0
		}
		return byTime, 0, 0
	}
	first, last = max(l.given.Load(), l.dueBefore(l.warmUp)), l.last
	switch {
	case l.ended != endedComplete:
		at = l.stoppedAt
	case first >= last: // the time between two messages follows each
		at = l.dueAt(last)
		if l.duration > 0 {
			at = min(at, byTime)
		}
	default:
		at = byTime
	}
	return at, first, max(first, min(last, l.dueBefore(at)))
}
