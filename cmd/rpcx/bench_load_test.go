package main

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"example.com/rpcx"
)

// fakeCaller is a peer of a load. serve returns how long a call takes that was sent at the
// given time since the start.
type fakeCaller struct {
	rpcx.Caller
	serve func(sent time.Duration) (time.Duration, error)

	start time.Time // of the bubble
	calls atomic.Int64
}

func (c *fakeCaller) Call(ctx context.Context, _ string, _, _ any) error {
	c.calls.Add(1)
	takes, err := c.serve(time.Since(c.start))
	select {
	case <-time.After(takes):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *fakeCaller) Notify(ctx context.Context, method string, params any) error {
	return c.Call(ctx, method, params, nil)
}

// serve1ms is a peer that always takes 1 ms.
func serve1ms(time.Duration) (time.Duration, error) { return time.Millisecond, nil }

// fakeConn returns a connection to a fakeCaller.
func fakeConn(serve func(time.Duration) (time.Duration, error)) *loadConn {
	c := &loadConn{
		caller:   &fakeCaller{serve: serve, start: time.Now()},
		ended:    make(chan struct{}),
		close:    func() {},
		patience: 1,
	}
	c.ctx, c.abandon = context.WithCancel(context.Background())
	return c
}

// testPlan completes a plan of calls.
func testPlan(plan loadPlan) loadPlan {
	flags := &connFlags{timeout: defaultTimeout}
	plan.perMessage, plan.kindOf, plan.timer = 1, flags.kindOfError, plainTimer{}
	plan.send = func(ctx context.Context, c rpcx.Caller) error { return c.Call(ctx, "m", nil, nil) }
	return plan
}

// histogramOf returns a histogram of times.
func histogramOf(times []time.Duration) *hdrhistogram.Histogram {
	h := newTally().latency
	for _, d := range times {
		recordTime(h, d, 1)
	}
	return h
}

// checkHistogram compares a histogram with the times that are wanted, exactly.
func checkHistogram(t *testing.T, name string, h *hdrhistogram.Histogram, times []time.Duration) {
	t.Helper()
	if want := histogramOf(times); !h.Equals(want) {
		t.Errorf("%s: got %+v of %d\nwant %+v of %d", name, summaryOf(h), h.TotalCount(), summaryOf(want), want.TotalCount())
	}
}

// A peer that stalls for a second shows up in the latencies of all calls that were due in
// this second, although the peer answers each call within a millisecond otherwise.
func TestOpenModelCountsFromDue(t *testing.T) {
	const rate, seconds, service = 100, 10, time.Millisecond
	// stall returns the time of a call that is sent during the sixth second: all these calls
	// are answered at its end.
	stall := func(sent time.Duration) time.Duration {
		if sent >= 5*time.Second && sent < 6*time.Second {
			return 6*time.Second - sent + service
		}
		return service
	}
	for name, inFlight := range map[string]int{"calls in flight": 1000, "one call at a time": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := fakeConn(func(sent time.Duration) (time.Duration, error) { return stall(sent), nil })
				l := newLoad(testPlan(loadPlan{
					conns: []*loadConn{c}, inFlight: inFlight, rate: rate, duration: seconds * time.Second,
				}))
				m := l.run(t.Context())
				var latency, reply, late []time.Duration
				free, waited := time.Duration(0), int64(0)
				for k := range rate * seconds {
					due := time.Duration(k) * time.Second / rate
					sent := due
					if inFlight == 1 && free > due {
						sent = free
						waited++
					}
					free = sent + stall(sent)
					latency, reply, late = append(latency, free-due), append(reply, free-sent), append(late, sent-due)
				}
				checkHistogram(t, "latency", m.latency, latency)
				checkHistogram(t, "from sent", m.reply, reply)
				checkHistogram(t, "late", m.late, late)
				if m.waited != waited || m.unsent != 0 || m.succeeded != rate*seconds || m.elapsed != seconds*time.Second {
					t.Errorf("waited %d, want %d; unsent %d, succeeded %d, elapsed %v", m.waited, waited, m.unsent, m.succeeded, m.elapsed)
				}
				// 10 % of the calls were due in the stall.
				if p := summaryOf(m.latency); p.P99 < 900_000 || p.P50 > 1001 {
					t.Errorf("the stall is not in the percentiles: %+v", p)
				}
			})
		})
	}
}

// If the peer cannot keep the rate, calls are late and none is dropped. Calls that were due
// at the end and not sent count in the latencies with the time that they have waited.
func TestOpenModelOfSlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, service, end = 100, 21 * time.Millisecond, 10 * time.Second
		c := fakeConn(func(time.Duration) (time.Duration, error) { return service, nil })
		l := newLoad(testPlan(loadPlan{conns: []*loadConn{c}, inFlight: 1, rate: rate, duration: end}))
		m := l.run(t.Context())
		var latency []time.Duration
		sent := int64(0)
		for k := range 1000 {
			due, start := time.Duration(k)*time.Second/rate, time.Duration(k)*service
			if start < end {
				latency = append(latency, start+service-due)
				sent++
			} else {
				latency = append(latency, end-due)
			}
		}
		checkHistogram(t, "latency", m.latency, latency)
		if m.succeeded != sent || m.unsent != 1000-sent || m.ended != endedComplete {
			t.Errorf("succeeded %d, unsent %d, ended %s; want %d, %d", m.succeeded, m.unsent, m.ended, sent, 1000-sent)
		}
		if last := time.Duration(sent) * service; m.elapsed != last {
			t.Errorf("elapsed %v, want %v: until the last reply", m.elapsed, last)
		}
	})
}

// Calls during the warm-up are sent, and not measured.
func TestWarmUp(t *testing.T) {
	const warmUp = 500 * time.Millisecond
	slowAtFirst := func(sent time.Duration) (time.Duration, error) {
		if sent < 400*time.Millisecond {
			return 7 * time.Millisecond, nil
		}
		return time.Millisecond, nil
	}
	for _, c := range []struct {
		name              string
		plan              loadPlan
		measured, atLeast int64 // calls; all calls, with the warm-up
		elapsed           time.Duration
	}{
		{"open, by time", loadPlan{rate: 1000. / 3, duration: time.Second}, 333, 499, time.Second},
		{"open, by number", loadPlan{rate: 1000. / 3, messages: 100}, 100, 266, 300 * time.Millisecond},
		{"closed, by time", loadPlan{duration: time.Second}, 4000, 4200, time.Second},
		{"closed, by number", loadPlan{messages: 200}, 200, 400, 50 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := fakeConn(slowAtFirst)
				c.plan.conns, c.plan.inFlight, c.plan.warmUp = []*loadConn{conn}, 4, warmUp
				m := newLoad(testPlan(c.plan)).run(t.Context())
				all := conn.caller.(*fakeCaller).calls.Load()
				if m.succeeded != c.measured || all < c.atLeast {
					t.Errorf("%d calls were measured, of %d; want %d of %d or more", m.succeeded, all, c.measured, c.atLeast)
				}
				if max := time.Duration(m.latency.Max()); max > 1100*time.Microsecond {
					t.Errorf("the warm-up was measured: %v", max)
				}
				if d := m.elapsed - c.elapsed; d < -2*time.Millisecond || d > 2*time.Millisecond {
					t.Errorf("elapsed %v, want %v", m.elapsed, c.elapsed)
				}
			})
		})
	}
}

// An interrupted run reports what was measured until then. Calls without a reply are given
// up after a grace.
func TestInterruptedLoad(t *testing.T) {
	for name, takes := range map[string]time.Duration{"replies in the grace": 200 * time.Millisecond, "no reply": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 3005*time.Millisecond)
				defer cancel()
				c := fakeConn(func(time.Duration) (time.Duration, error) { return takes, nil })
				l := newLoad(testPlan(loadPlan{conns: []*loadConn{c}, inFlight: 1000, rate: 100, duration: time.Minute}))
				m := l.run(ctx)
				succeeded, unfinished, end := int64(301), int64(0), 3200*time.Millisecond
				if takes == time.Hour {
					succeeded, unfinished, end = 0, 301, 3005*time.Millisecond
				}
				if m.succeeded != succeeded || m.unfinished != unfinished || m.failed != 0 || m.unsent != 0 || m.ended != endedInterrupted {
					t.Errorf("%+v", m)
				}
				if m.elapsed != end || m.latency.TotalCount() != 301 {
					t.Errorf("elapsed %v, %d latencies", m.elapsed, m.latency.TotalCount())
				}
				if l.now() > 3505*time.Millisecond {
					t.Errorf("the run ended after %v", l.now())
				}
			})
		})
	}
}

var errLost = &rpcx.ConnectionError{Err: io.EOF}

// A lost connection leaves its share to the others. The last one ends the run.
func TestLoadLosesConnections(t *testing.T) {
	until := func(end time.Duration) func(time.Duration) (time.Duration, error) {
		return func(sent time.Duration) (time.Duration, error) {
			if sent >= end {
				return 0, errLost
			}
			return time.Millisecond, nil
		}
	}
	for _, rate := range []float64{0, 1000} {
		synctest.Test(t, func(t *testing.T) {
			first, second := fakeConn(until(2005*time.Millisecond)), fakeConn(until(4005*time.Millisecond))
			l := newLoad(testPlan(loadPlan{conns: []*loadConn{first, second}, inFlight: 4, rate: rate, duration: time.Minute}))
			m := l.run(t.Context())
			if m.ended != endedDisconnected || !errors.Is(m.lost, io.EOF) || m.errors[errorKind{kindConnection, 0, errLost.Error()}] == 0 {
				t.Errorf("rate %v: ended %s, lost %v, errors %v", rate, m.ended, m.lost, m.errors)
			}
			if m.failed < 2 || m.failed > 8 { // each worker fails once at most
				t.Errorf("rate %v: %d calls failed", rate, m.failed)
			}
			want := int64(4*2005 + 4*4005) // as many as possible
			if rate > 0 {
				want = 4005
			}
			if d := m.succeeded - want; d < -16 || d > 16 {
				t.Errorf("rate %v: %d calls succeeded, want about %d", rate, m.succeeded, want)
			}
			if l.now() > 4100*time.Millisecond {
				t.Errorf("rate %v: the run ended after %v", rate, l.now())
			}
		})
	}
}

// A client of HTTP is lost only after several failures in a row.
func TestRefusedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := fakeConn(func(sent time.Duration) (time.Duration, error) {
			if n++; n%maxRefused != 0 && n < 1000 || n > 1000 {
				return time.Millisecond, errLost
			}
			return time.Millisecond, nil
		})
		c.patience = maxRefused
		m := newLoad(testPlan(loadPlan{conns: []*loadConn{c}, inFlight: 1, messages: 1_000_000})).run(t.Context())
		if m.failed != 900+maxRefused || m.succeeded != 100 || m.ended != endedDisconnected {
			t.Errorf("%d failed, %d succeeded, %s", m.failed, m.succeeded, m.ended)
		}
	})
}

// The numbers of messages agree with the times for rates that are no whole numbers.
func TestDueTimes(t *testing.T) {
	for _, rate := range []float64{0.1, 1. / 3, 1, 3, 7, 999.9, 1e6 / 7, 1e7} {
		l := &load{loadPlan: loadPlan{rate: rate}}
		for _, k := range []int64{0, 1, 2, 3, 10, 999, 1000, 12345, 1e7, 1e9} {
			if float64(k)/rate > 1e9 {
				continue // decades
			}
			at := l.dueAt(k)
			if got := l.dueBefore(at); got != k {
				t.Errorf("rate %v: %d messages are due before %v, want %d", rate, got, at, k)
			}
			if got := l.dueBefore(at + 1); got != k+1 {
				t.Errorf("rate %v: %d messages are due until %v, want %d", rate, got, at, k+1)
			}
		}
	}
}

// The messages that were due and not sent take no time to count, however many.
func TestManyUnsent(t *testing.T) {
	l := &load{loadPlan: loadPlan{rate: 1e7}}
	h := newTally().latency
	const n = 12 * 3600 * 1e7
	l.recordUnsent(h, l.dueAt(n), 0, n)
	if s := summaryOf(h); h.TotalCount() != n || s.P50 < 0.999*6*3600e6 || s.P50 > 1.001*6*3600e6 || s.Max > 1.001*12*3600e6 {
		t.Errorf("%d: %+v", h.TotalCount(), s)
	}
}

// Errors of more kinds than maxErrorKinds take no memory.
func TestErrorKindsAreBounded(t *testing.T) {
	l := newLoad(testPlan(loadPlan{conns: make([]*loadConn, 1), inFlight: runtime.GOMAXPROCS(0)}))
	c := &loadConn{patience: 1, ended: make(chan struct{})}
	for i := range 1000 {
		l.record(c, l.shards[i%len(l.shards)], 0, 0, 1, rpcx.Errorf(i%100, "text"))
	}
	m := l.measurement()
	total := int64(0)
	for _, n := range m.errors {
		total += n
	}
	other := m.errors[errorKind{kind: kindOther, message: "more than 20 kinds of errors"}]
	if len(m.errors) > maxErrorKinds+1 || total != 1000 || m.failed != 1000 || other == 0 {
		t.Errorf("%d kinds, %d errors, %d others: %v", len(m.errors), total, other, m.errors)
	}
}
