package main

import (
	"context"
	"sync"
	"time"

	"example.com/rpcx"
)

// aftermath is the end of a phase, without hostile clients: the next samples of the
// server count the ends of their sessions.
const aftermath = 2 * sampling

// course records the events of a run. Times count from the beginning of the run.
type course struct {
	short  bool
	began  time.Time
	phases []phase
	calls  []timing // of the well-behaved clients

	left sample // after the server's shutdown; counts only goroutines that started after the beginning

	mu      sync.Mutex
	samples []sample
}

// phase is a part of the course, with results.
type phase struct {
	name     string
	share    int      // of the whole time
	classes  []string // of hostile clients
	from, to time.Duration
	hostile  map[string]tally

	answered quantiles // of the well-behaved clients' calls
	calls    int       // answered calls of the well-behaved clients
	failures []error
	ended    map[string]int // sessions at the server, by reason
	peak     sample
	settled  sample // at the end, after the server has freed unneeded memory
}

// plan returns the phases, without results.
func plan() []phase {
	phases := []phase{{name: "alone", share: 2}}
	var all []string
	for _, class := range classes {
		share := 2
		if class.name == "sleepers" {
			share = 5
		}
		phases = append(phases, phase{name: class.name, share: share, classes: []string{class.name}})
		all = append(all, class.name)
	}
	return append(phases, phase{name: "all", share: 2, classes: all}, phase{name: "quiet", share: 2})
}

// shares returns the sum of the shares of the phases.
func (c *course) shares() (n int) {
	for _, p := range c.phases {
		n += p.share
	}
	return n
}

func (c *course) now() time.Duration { return time.Since(c.began) }

// run starts the processes, runs the phases, and stops the server.
func (c *course) run(ctx context.Context, length time.Duration, seed uint64) (err error) {
	router := rpcx.NewRouter()
	router.Handle("sample", rpcx.Func(c.sample))
	server, err := start(serverRole, router)
	if err != nil {
		return err
	}
	defer func() { err = server.stop(err) }()
	hostile, err := start(hostileRole, nil)
	if err != nil {
		return err
	}
	defer func() { err = hostile.stop(err) }()

	addr, err := rpcx.Call[string](ctx, server.Session, "listen", nil)
	if err != nil {
		return err
	}
	sessions, err := dialClients(ctx, addr)
	if err != nil {
		return err
	}
	good := newClients(ctx, sessions, clientPause, seed, c.now)
	if err := sleep(ctx, warmUp); err != nil {
		return err
	}
	c.phases = plan()
	for i := range c.phases {
		p := &c.phases[i]
		takes := length * time.Duration(p.share) / time.Duration(c.shares())
		order := order{Addr: addr, Classes: p.classes, Seed: seed + uint64(i), Rest: takes * 4 / 5}
		if err := c.pass(ctx, p, takes, hostile, order); err != nil {
			return err
		}
		// settle frees the memory of this phase before the next phase begins.
		if err := server.Call(ctx, "settle", nil, &p.settled); err != nil {
			return err
		}
	}
	if c.calls, err = good.stop(ctx); err != nil {
		return err
	}
	if err := server.Call(ctx, "stop", nil, &c.left); err != nil {
		return err
	}
	c.sort()
	return nil
}

// pass runs a phase.
func (c *course) pass(ctx context.Context, p *phase, length time.Duration, hostile *process, order order) error {
	p.from = c.now()
	if len(order.Classes) > 0 {
		if err := hostile.Call(ctx, "begin", order, nil); err != nil {
			return err
		}
	}
	if err := sleep(ctx, length-aftermath); err != nil {
		return err
	}
	if len(order.Classes) > 0 {
		if err := hostile.Call(ctx, "cease", nil, &p.hostile); err != nil {
			return err
		}
	}
	err := sleep(ctx, aftermath)
	p.to = c.now()
	return err
}

// sample stores a sample of the server.
func (c *course) sample(s sample) {
	s.At = c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = append(c.samples, s)
}

// sort assigns calls and samples to the phases.
func (c *course) sort() {
	var ended map[string]int // before the phase
	for i := range c.phases {
		p := &c.phases[i]
		p.calls, p.answered, p.failures = c.between(p.from, p.to)
		var last sample
		p.peak, last = c.peak(p.from, p.to)
		p.ended = make(map[string]int)
		for why, n := range last.Ended {
			p.ended[why] = n - ended[why]
		}
		ended = last.Ended
	}
}

// peak returns the highest values of the samples in a time, field by field, and the last
// sample.
func (c *course) peak(from, to time.Duration) (peak, last sample) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.samples {
		if s.At >= from && s.At < to {
			peak.highest(s)
			last = s
		}
	}
	return peak, last
}

// between returns the results of the calls that began in a time.
func (c *course) between(from, to time.Duration) (answered int, q quantiles, failures []error) {
	var times []time.Duration
	for _, call := range c.calls {
		switch {
		case call.at < from || call.at >= to:
		case call.err != nil:
			failures = append(failures, call.err)
		default:
			times = append(times, call.took)
		}
	}
	return len(times), newQuantiles(times), failures
}
