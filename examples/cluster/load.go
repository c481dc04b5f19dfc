package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/oracle"
)

// load is clients that call, one call after another, and what has become of their calls.
// The oracle compares what the clients and the workers have recorded: a program of your
// own has no use for it.
type load struct {
	settings *settings
	addrs    []string
	out      io.Writer
	log      oracle.Log

	mu       sync.Mutex
	times    []time.Duration // of answered calls, since the last line
	notes    []string        // for the next line
	errors   int             // answers that are errors of the method, of which there should be none
	anyError error           // one of them

	uncertain map[string]int // calls with an uncertain end, by error
}

// newLoad returns a load for the gateways at addrs.
func newLoad(addrs []string, s *settings, out io.Writer) *load {
	return &load{settings: s, addrs: addrs, out: out, uncertain: make(map[string]int)}
}

// note puts text into the next line.
func (l *load) note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes = append(l.notes, text)
}

// run calls for the duration, or until ctx ends, and prints a line a second.
func (l *load) run(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, l.settings.duration)
	defer stop()
	var clients sync.WaitGroup
	for range l.settings.clients {
		clients.Go(func() { l.client(ctx) })
	}
	begun := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
			l.printLine(time.Since(begun))
		case <-ctx.Done():
		}
	}
	clients.Wait()
	l.printLine(time.Since(begun))
}

// client is a client, with all gateways as its addresses. It chooses one by chance, and
// another one when that is gone.
func (l *load) client(ctx context.Context) {
	client := rpcx.NewClient(&rpcx.ClientOptions{
		Addrs:   l.addrs,
		Shuffle: true,
		Options: rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 10 * time.Second}},
	})
	for ctx.Err() == nil {
		l.call(client)
		select {
		case <-time.After(l.settings.pause):
		case <-ctx.Done():
		}
	}
	client.Close()
	<-client.Done()
}

// call makes a call. It ends with the end of the call, and not with that of the load.
func (l *load) call(client *rpcx.Client) {
	n := l.log.Begin(oracle.Once) // must not be carried out twice
	begun := time.Now()
	result, err := rpcx.Call[int](context.Background(), client, "work", rpcx.Args{n})
	took := time.Since(begun)
	l.log.End(n, result, err)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.times = append(l.times, took)
	case oracle.OutcomeOf(err) == oracle.Answered:
		l.errors, l.anyError = l.errors+1, err
	case oracle.OutcomeOf(err) == oracle.Written:
		l.uncertain[err.Error()]++
	}
}

// printLine prints what has happened since the last line, and the losses so far.
func (l *load) printLine(at time.Duration) {
	l.mu.Lock()
	times, notes := l.times, l.notes
	l.times, l.notes = nil, nil
	l.mu.Unlock()
	if len(times)+len(notes) == 0 {
		return
	}
	slices.Sort(times)
	percentile := func(p int) float64 {
		if len(times) == 0 {
			return 0
		}
		return times[(len(times)-1)*p/100].Seconds() * 1000
	}
	counts := l.log.Counts()
	ended := counts.Ended[oracle.Once]
	fmt.Fprintf(l.out, "%5.1f s  %6d calls  p50 %6.2f ms  p99 %7.2f ms  not started %d, uncertain %d  %s\n",
		at.Seconds(), len(times), percentile(50), percentile(99), ended[oracle.NotStarted], ended[oracle.Written], strings.Join(notes, ", "))
}

// report prints the account of all calls. If a call cannot be accounted for, report returns
// an error. recorded says that the workers have recorded what they have carried out.
func (l *load) report(recorded bool) error {
	counts := l.log.Counts()
	ended := counts.Ended[oracle.Once]
	for text, n := range l.uncertain {
		fmt.Fprintf(l.out, "uncertain: %d, %s\n", n, text)
	}
	fmt.Fprintf(l.out, "calls %d: answered %d, not started %d, uncertain %d", l.log.Len(), ended[oracle.Answered], ended[oracle.NotStarted], ended[oracle.Written])
	unaccounted := l.log.Len() - ended[oracle.Answered] - ended[oracle.NotStarted] - ended[oracle.Written]
	if !recorded {
		fmt.Fprintf(l.out, "; unaccounted: %d (without the records of the workers)\n", unaccounted)
	} else {
		problems := l.log.Problems()
		unaccounted = len(problems)
		for _, problem := range problems[:min(10, len(problems))] {
			fmt.Fprintf(l.out, "\n  %s", problem)
		}
		fmt.Fprintf(l.out, "; carried out twice: %d; unaccounted: %d\n", l.log.Twice(), unaccounted)
	}
	if unaccounted > 0 {
		return fmt.Errorf("%d calls are unaccounted for", unaccounted)
	}
	switch {
	case l.errors > 0:
		return fmt.Errorf("%d answers are errors: %w", l.errors, l.anyError)
	case ended[oracle.Answered] == 0:
		return fmt.Errorf("no call was answered")
	}
	return nil
}
