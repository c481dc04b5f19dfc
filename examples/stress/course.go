package main

import (
	"context"
	"sync"
	"time"

	"example.com/rpcx"
)

// aftermath is the part of a phase in which its hostile clients are gone and
// the server's next samples count their ends.
const aftermath = 2 * sampling

// course is what happened, and when: times are counted from its beginning.
type course struct {
	short  bool
	began  time.Time
	phases []phase
	calls  []timing // of the well-behaved clients

	left sample // after the server's shutdown; goroutines beyond those before it began

	mu      sync.Mutex
	samples []sample
}

// phase is a part of the course, with its results.
type phase struct {
	name     string
	share    int      // of the whole time
	classes  []string // of hostile clients
	from, to time.Duration
	hostile  map[string]tally

	answered quantiles // of the well-behaved clients' calls
	calls    int       // of these
	failures []error
	ended    map[string]int // sessions at the server, by reason
	peak     sample
	settled  sample // at its end, when what is not needed has been given back
}

// plan returns the phases before they have happened.
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

// shares returns those of all phases together.
func (c *course) shares() (n int) {
	for _, p := range c.phases {
		n += p.share
	}
	return n
}

func (c *course) now() time.Duration { return time.Since(c.began) }

// run starts the processes, goes through the phases, and stops the server.
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
		// So that the memory of the next phase is its own.
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

// pass goes through a phase.
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

// sample takes a sample of the server in.
func (c *course) sample(s sample) {
	s.At = c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = append(c.samples, s)
}

// sort gives each phase what belongs to it.
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

// peak returns the highest of the samples in a time, number by number, and the
// last of them.
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

// between looks at the calls that began in a time.
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
