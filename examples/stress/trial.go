package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"

	"example.com/rpcx"
)

const (
	longAttack  = 3 * time.Second
	shortAttack = 500 * time.Millisecond
	// shortAtOnce is the number of simultaneous attacks in the short form, which judges
	// times roughly.
	shortAtOnce = 4
	// maxTries is the maximum number of tries of an attack if late calls are the only
	// problem. Other work of the machine can only delay calls.
	maxTries     = 3
	warmUpAttack = 100 * time.Millisecond
	// shortPatience and longPatience are the times for which sessions may go on after
	// their attack. The default of Limits.HalfClose allows 5 s, and in the long form
	// Limits.ProcessingTimeout 30 s.
	shortPatience = 10 * time.Second
	longPatience  = 40 * time.Second
	// costPatience is the time after an attack in which CPU time still counts for the
	// attack.
	costPatience = 3 * time.Second
	// honestPause is the pause between two calls of the honest client, and newcomerPause
	// between two connections of honest newcomers, on average.
	honestPause   = 5 * time.Millisecond
	newcomerPause = 100 * time.Millisecond
	// newcomerTimeout bounds the attempt of a newcomer.
	newcomerTimeout = 5 * time.Second
)

// trial is a single run of an attack, with the results.
type trial struct {
	*attack
	attackers tally
	damage
	honest   // the client that calls from the beginning
	newcomer honest
	lasted   time.Duration
	calm     *trial // without an attack
	connects *trial // connections with a single request
	echo     *trial // echoes of the same size
}

// honest holds the results of honest clients.
type honest struct {
	calls    int
	took     quantiles
	failures []timing
	sent     uint64 // bytes
	received uint64
}

// runAttacks runs the attacks whose names match only, prints each result, and returns the
// number of failed attacks. In the short form, shortAtOnce attacks run at once.
func runAttacks(ctx context.Context, w io.Writer, length time.Duration, short bool, only *regexp.Regexp) (failed int, err error) {
	var chosen, compared []*attack
	seen := make(map[string]bool)
	for i := range attacks {
		a := &attacks[i]
		if !only.MatchString(a.name) {
			continue
		}
		chosen = append(chosen, a)
		for _, r := range a.references() {
			if !seen[r.name] {
				seen[r.name] = true
				compared = append(compared, findAttack(r.name))
			}
		}
	}
	atOnce := 1
	if short {
		atOnce = shortAtOnce
	}
	references := make(map[string]*trial)
	complete := func(t *trial) {
		compared := t.attack.references()
		t.calm, t.connects, t.echo = references[compared[0].name], references[compared[1].name], references[compared[2].name]
	}
	err = runAll(ctx, compared, atOnce,
		func(ctx context.Context, a *attack) (*trial, error) { return try(ctx, a, length) },
		func(t *trial) { references[t.name] = t })
	if err != nil {
		return 0, err
	}
	printHead(w)
	for _, a := range compared {
		t := references[a.name]
		complete(t)
		t.printLine(w, "", "")
	}
	again := func(ctx context.Context, a *attack) (t *trial, err error) {
		for range maxTries {
			if t, err = try(ctx, a, length); err != nil {
				return nil, err
			}
			complete(t)
			if t.late(short) == "" || len(t.judgeBounds(short)) > 0 {
				break
			}
		}
		return t, nil
	}
	err = runAll(ctx, chosen, atOnce, again, func(t *trial) {
		problems := t.judge(short)
		t.print(w, problems)
		if len(problems) > 0 {
			failed++
		}
	})
	fmt.Fprintf(w, "%d attacks, %d failed\n", len(chosen), failed)
	return failed, err
}

// runAll runs the attacks in list by run, atOnce at a time, and calls done with each
// result, in the order of list.
func runAll(ctx context.Context, list []*attack, atOnce int, run func(context.Context, *attack) (*trial, error), done func(*trial)) error {
	g := rpcx.NewTaskGroup[*trial](ctx, &rpcx.TaskGroupOptions{Limit: atOnce, Retain: true})
	return g.Do(ctx, func(ctx context.Context) error {
		var tasks []*rpcx.Task[*trial]
		for _, a := range list {
			tasks = append(tasks, g.Go(func(ctx context.Context) (*trial, error) { return run(ctx, a) }))
		}
		for _, task := range tasks {
			t, err := task.Wait(ctx)
			if err != nil {
				return err
			}
			done(t)
		}
		return nil
	})
}

// try runs an attack, with a new hostile process and a new target process.
func try(ctx context.Context, a *attack, length time.Duration) (t *trial, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", a.name, err)
		}
	}()
	hostile, err := start(hostileRole, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = hostile.stop(err) }()
	victim, err := start(targetRole, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = victim.stop(err) }()
	addr, err := rpcx.Call[string](ctx, victim.Session, "listen", rpcx.Args{a.name})
	if err != nil {
		return nil, err
	}
	over := a.over
	if a.serves {
		over = overTCP
	}
	s, err := over.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	now := func() time.Duration { return time.Since(began) }
	client := newClients(ctx, []*rpcx.Session{s}, honestPause, 1, now)
	if err := sleep(ctx, warmUpAttack); err != nil { // warms the processes up
		return nil, err
	}

	t = &trial{attack: a, lasted: length}
	if err := victim.Call(ctx, "begin", nil, nil); err != nil {
		return nil, err
	}
	from := now()
	target, err := rpcx.Call[string](ctx, hostile.Session, "begin", order{Addr: addr, Classes: []string{a.name}, Seed: 1})
	if err != nil {
		return nil, err
	}
	if a.serves {
		if err := victim.Call(ctx, "dial", rpcx.Args{a.name, target}, nil); err != nil {
			return nil, err
		}
	}
	newcomers := newNewcomers(over, addr, a.large, now)
	if err := sleep(ctx, length); err != nil {
		return nil, err
	}
	to := now()
	t.newcomer = newcomers.stop()
	tallies, err := rpcx.Call[map[string]tally](ctx, hostile.Session, "cease", nil)
	if err != nil {
		return nil, err
	}
	t.attackers = tallies[a.name]
	calls, err := client.stop(ctx)
	if err != nil {
		return nil, fmt.Errorf("the honest client: %w", err)
	}
	t.honest.add(calls, from, to)
	t.honest.count(s.Stats())
	patience := longPatience
	switch {
	case a.throttled: // the verdict ignores the remaining sessions
		patience = costPatience
	case length < longAttack:
		patience = shortPatience
	}
	if err := victim.Call(ctx, "finish", rpcx.Args{patience}, &t.damage); err != nil {
		return nil, err
	}
	return t, nil
}

// add adds the results of the calls that began in a time.
func (h *honest) add(calls []timing, from, to time.Duration) {
	var times []time.Duration
	for _, call := range calls {
		switch {
		case call.at < from || call.at >= to:
		case call.err != nil:
			h.failures = append(h.failures, call)
		default:
			times = append(times, call.took)
		}
	}
	h.calls = len(times)
	h.took = newQuantiles(times)
}

func (h *honest) count(stats rpcx.Stats) {
	h.sent += stats.BytesSent
	h.received += stats.BytesReceived
}

// newcomers holds honest clients, each of which connects, sends a request, and closes the
// connection.
type newcomers struct {
	over   transport
	addr   string
	text   string
	now    func() time.Duration
	began  time.Duration
	cancel context.CancelFunc
	ctx    context.Context
	done   chan struct{}

	running sync.WaitGroup
	mu      sync.Mutex
	calls   []timing // times count from the beginning of the attack
	honest
}

// newNewcomers starts newcomers until stop.
func newNewcomers(over transport, addr string, isLarge bool, now func() time.Duration) *newcomers {
	n := &newcomers{over: over, addr: addr, text: "here I am", now: now, began: now(), done: make(chan struct{})}
	if isLarge {
		n.text = inString("x")()[:large]
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	// Owner: the newcomers. End: stop.
	go func() {
		defer close(n.done)
		for {
			// Owner: the newcomers. End: the answer, or newcomerTimeout.
			n.running.Go(n.come)
			if sleep(n.ctx, newcomerPause) != nil {
				return
			}
		}
	}()
	return n
}

// come is the work of a newcomer.
func (n *newcomers) come() {
	began := n.now()
	ctx, cancel := context.WithTimeout(context.Background(), newcomerTimeout)
	defer cancel()
	s, err := n.over.dial(ctx, n.addr)
	if err == nil {
		var got string
		got, err = rpcx.Call[string](ctx, s, "echo", rpcx.Args{n.text})
		err = check(got, n.text, err)
		s.Close()
		<-s.Done()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, timing{began - n.began, n.now() - began, err})
	if s != nil {
		n.count(s.Stats())
	}
}

// stop ends the newcomers, waits for newcomers in progress, and returns the results.
func (n *newcomers) stop() honest {
	n.cancel()
	<-n.done
	n.running.Wait()
	n.add(n.calls, 0, time.Hour)
	return n.honest
}
