package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
)

// Settings of the well-behaved clients.
const (
	clientCount = 32
	clientPause = 40 * time.Millisecond // between a client's calls, on average
)

// timing holds the start and the duration of a call. If the call failed, or the answer
// was wrong, err is not nil.
type timing struct {
	at, took time.Duration
	err      error
}

// clients holds the well-behaved clients.
type clients struct {
	now      func() time.Duration
	pause    time.Duration // between a client's calls, on average
	sessions []*rpcx.Session
	cancel   context.CancelFunc
	running  sync.WaitGroup // the clients, and the calls in progress

	mu    sync.Mutex
	calls []timing
}

// newClients makes a client on each session. The clients call until stop.
func newClients(ctx context.Context, sessions []*rpcx.Session, pause time.Duration, seed uint64, now func() time.Duration) *clients {
	c := &clients{now: now, pause: pause, sessions: sessions}
	ctx, c.cancel = context.WithCancel(ctx)
	for i, s := range c.sessions {
		// Owner: the clients. End: stop.
		c.running.Go(func() { c.run(ctx, s, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	return c
}

// dialClients connects the well-behaved clients to addr.
func dialClients(ctx context.Context, addr string) ([]*rpcx.Session, error) {
	var sessions []*rpcx.Session
	for range clientCount {
		s, err := rpcx.Dial(ctx, addr, nil)
		if err != nil {
			return nil, err
		}
		sessions = append(sessions, s)
	}
	return sessions, nil
}

// run calls at random intervals, without waiting for the previous call. So a stalled
// server receives as many calls as a working server, and cannot hide the stall.
func (c *clients) run(ctx context.Context, s *rpcx.Session, r *rand.Rand) {
	for sleep(ctx, time.Duration(r.ExpFloat64()*float64(c.pause))) == nil {
		call := choose(r)
		// Owner: the clients. End: the call is answered, or times out.
		c.running.Go(func() {
			began := c.now()
			err := call(s)
			c.add(timing{began, c.now() - began, err})
		})
	}
}

func (c *clients) add(t timing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, t)
}

// stop ends the clients after every call is answered, and returns the calls.
func (c *clients) stop(ctx context.Context) ([]timing, error) {
	c.cancel()
	c.running.Wait()
	var errs []error
	for _, s := range c.sessions {
		errs = append(errs, s.Shutdown(ctx))
	}
	return c.calls, errors.Join(errs...)
}

// choose returns a random call that checks the answer.
func choose(r *rand.Rand) func(*rpcx.Session) error {
	ctx := context.Background() // Limits.RequestTimeout bounds a call
	text := strings.Repeat(string(rune('a'+r.IntN(26))), 10+r.IntN(190))
	switch n := r.IntN(100); {
	case n < 5:
		text = strings.Repeat(text, 100)
		fallthrough
	case n < 70:
		return func(s *rpcx.Session) error {
			got, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{text})
			return check(got, text, err)
		}
	case n < 90:
		a, b := float64(r.IntN(1e6)), float64(r.IntN(1e6))
		return func(s *rpcx.Session) error {
			got, err := rpcx.Call[float64](ctx, s, "sum", rpcx.Args{a, b})
			return check(got, a+b, err)
		}
	default:
		return func(s *rpcx.Session) error {
			var b rpcx.Batch
			answers := make([]string, 10)
			for i := range answers {
				b.Call("echo", rpcx.Args{text}, &answers[i])
			}
			err := s.SendBatch(ctx, &b)
			for _, answer := range answers {
				err = cmp.Or(err, check(answer, text, err))
			}
			return err
		}
	}
}

// check returns err, or an error if the answer is wrong.
func check[T comparable](got, want T, err error) error {
	if err == nil && got != want {
		return fmt.Errorf("a wrong answer: %v, not %v", got, want)
	}
	return err
}

// quantiles holds quantiles of the durations of calls.
type quantiles struct {
	P50 time.Duration `json:"p50"`
	P99 time.Duration `json:"p99"`
	Max time.Duration `json:"max"`
}

// newQuantiles sorts times, and returns the median, the 99th percentile and the maximum.
func newQuantiles(times []time.Duration) quantiles {
	if len(times) == 0 {
		return quantiles{}
	}
	slices.Sort(times)
	n := len(times)
	return quantiles{times[(n-1)/2], times[(n*99+99)/100-1], times[n-1]}
}

// sleep returns after d, or with an error when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
