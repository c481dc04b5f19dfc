package main

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"example.com/rpcx"

	"golang.org/x/sync/errgroup"
)

// returnClients is the process of the clients that return.
type returnClients struct {
	clients []*rpcx.Client

	mu       sync.Mutex
	attempts []*returnAttempt // since begin
	ready    []time.Time      // by client: since begin, when OnConnect had its reply; zero before
	missing  int              // clients that are not ready since begin
	all      chan struct{}    // closed when no client is missing
}

// returnAttempt is an attempt of a client.
type returnAttempt struct {
	client int
	at     time.Time
	err    error // of Connect
}

// runReturnClients is the process of the clients, until the parent ends.
func runReturnClients() {
	c := new(returnClients)
	router := rpcx.NewRouter()
	router.Handle("connect", rpcx.Func(c.connect))
	router.Handle("begin", rpcx.Func(c.begin))
	router.Handle("await", rpcx.Func(c.await))
	router.Handle("call", rpcx.Func(c.call))
	parent := control(router)
	<-parent.Done()
	for _, client := range c.clients {
		if client != nil {
			client.Close()
		}
	}
}

// connect makes n clients of the server at addr, a few at once.
func (c *returnClients) connect(ctx context.Context, addr string, n int, maxBackoff, stable time.Duration) error {
	c.clients, c.ready = make([]*rpcx.Client, n), make([]time.Time, n)
	c.begin()
	var connecting errgroup.Group
	connecting.SetLimit(10)
	for i := range n {
		connecting.Go(func() error {
			client := rpcx.NewClient(&rpcx.ClientOptions{
				Addrs:       []string{"tls://" + addr},
				Connect:     c.dialAs(i),
				OnConnect:   c.greetAs(i),
				MaxBackoff:  maxBackoff,
				StableAfter: stable,
			})
			c.clients[i] = client
			_, err := client.Session(ctx)
			return err
		})
	}
	return connecting.Wait()
}

// dialAs returns the function Connect of client i. On Linux, each client has an address in
// a subnet of its own, as far-away clients have.
func (c *returnClients) dialAs(i int) func(context.Context, string, *rpcx.Options) (*rpcx.Session, error) {
	var from net.Dialer
	if runtime.GOOS == "linux" {
		from.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, byte(1+i>>8), byte(i), 1)}
	}
	dialer := &rpcx.Dialer{TLS: insecure, DialContext: from.DialContext}
	return func(ctx context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
		attempt := &returnAttempt{client: i, at: time.Now()}
		c.mu.Lock()
		c.attempts = append(c.attempts, attempt)
		c.mu.Unlock()
		s, err := dialer.Dial(ctx, addr, opts)
		c.mu.Lock()
		defer c.mu.Unlock()
		attempt.err = err
		return s, err
	}
}

// greetAs returns the function OnConnect of client i.
func (c *returnClients) greetAs(i int) func(context.Context, *rpcx.Session) error {
	return func(ctx context.Context, s *rpcx.Session) error {
		if err := s.Call(ctx, "server.version", rpcx.Args{i}, nil); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.ready[i].IsZero() {
			if c.missing--; c.missing == 0 {
				close(c.all)
			}
		}
		c.ready[i] = time.Now()
		return nil
	}
}

// begin forgets the attempts so far. All clients have to become ready again.
func (c *returnClients) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempts, c.missing, c.all = nil, len(c.ready), make(chan struct{})
	clear(c.ready)
}

// await waits until all clients are ready again, for at most patience. The last server has
// ended at ended, and the next has come at returned, in nanoseconds since 1970.
func (c *returnClients) await(ended, returned int64, patience time.Duration) returnArrivals {
	select {
	case <-c.all:
	case <-time.After(patience):
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	since := func(t time.Time) time.Duration { return time.Duration(t.UnixNano() - ended) }
	away := time.Duration(returned - ended)
	var attempts, first, ready []time.Duration
	failures := make(map[string]int)
	tried := make([]bool, len(c.clients)) // since the return
	for _, attempt := range c.attempts {
		at := since(attempt.at)
		attempts = append(attempts, at)
		if at < away {
			continue
		}
		if !tried[attempt.client] {
			tried[attempt.client] = true
			first = append(first, at)
		}
		if attempt.err != nil {
			failures[reasonOf(attempt.err)]++
		}
	}
	for _, at := range c.ready {
		if !at.IsZero() {
			ready = append(ready, since(at))
		}
	}
	a := newReturnArrivals(attempts, first, ready, away, len(c.clients))
	a.Failures = failures
	return a
}

// reasonOf returns the kind of an error of dialling.
func reasonOf(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "closed in the handshake"
}

// call makes each client call, and returns the number of clients whose call was not
// answered by the process with the given number.
func (c *returnClients) call(ctx context.Context, pid int) (unanswered int) {
	var calls errgroup.Group
	calls.SetLimit(100)
	answered := make([]bool, len(c.clients))
	for i, client := range c.clients {
		calls.Go(func() error {
			got, err := rpcx.Call[int](ctx, client, "pid", nil)
			answered[i] = err == nil && got == pid
			return nil
		})
	}
	_ = calls.Wait()
	for _, ok := range answered {
		if !ok {
			unanswered++
		}
	}
	return unanswered
}
