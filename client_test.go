package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// lines is what a client connects to: each connection is a wire of the test.
type lines struct {
	t *testing.T

	mu    sync.Mutex
	wires []*wire
	addrs []string // of the attempts
	times []time.Time
	deaf  bool // further wires do not read
	down  error
}

// connect implements ClientOptions.Connect.
func (l *lines) connect(_ context.Context, addr string, opts *rpcx.Options) (*rpcx.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addrs = append(l.addrs, addr)
	l.times = append(l.times, time.Now())
	if l.down != nil {
		return nil, l.down
	}
	near, far := net.Pipe()
	w := &wire{Conn: far, t: l.t}
	l.wires = append(l.wires, w)
	if !l.deaf {
		w.listen()
	}
	return rpcx.NewSession(near, opts), nil
}

// set changes how the next attempts go.
func (l *lines) set(deaf bool, down error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf, l.down = deaf, down
}

// wire returns the n-th wire, from 1, and waits for it on the bubble's clock.
func (l *lines) wire(n int) *wire {
	l.t.Helper()
	for range 10000 {
		synctest.Wait()
		l.mu.Lock()
		if len(l.wires) >= n {
			defer l.mu.Unlock()
			return l.wires[n-1]
		}
		l.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatalf("there is no connection number %d", n)
	return nil
}

// attempts returns the number of attempts so far.
func (l *lines) attempts() int {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.addrs)
}

// newClient returns a client of the wires, which is closed at the end of the test.
func newClient(t *testing.T, opts rpcx.ClientOptions) (*rpcx.Client, *lines) {
	t.Helper()
	l := &lines{t: t}
	if opts.Addrs == nil {
		opts.Addrs = []string{"a"}
	}
	if opts.Connect == nil {
		opts.Connect = l.connect
	}
	c := rpcx.NewClient(&opts)
	t.Cleanup(func() {
		takes(t, 0, func() { c.Close() })
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, w := range l.wires {
			w.Close()
		}
		<-c.Done()
	})
	return c, l
}

// started calls f on a goroutine, and returns its error when that is asked for.
func started(f func() error) func() error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return func() error { return <-done }
}

func TestClientCallsAndReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{})
		ctx := t.Context()
		var got string
		call := started(func() error { return c.Call(ctx, "echo", rpcx.Args{"a"}, &got) })
		w := l.wire(1)
		w.expect(`{"jsonrpc":"2.0","method":"echo","id":0,"params":["a"]}`)
		w.say(`{"jsonrpc":"2.0","result":"b","id":0}`)
		if err := call(); err != nil || got != "b" {
			t.Fatalf("%q, %v", got, err)
		}
		w.Close()
		f := c.Go(ctx, "echo", rpcx.Args{"c"})
		w = l.wire(2)
		w.expect(`{"jsonrpc":"2.0","method":"echo","id":0,"params":["c"]}`)
		w.say(`{"jsonrpc":"2.0","result":"d","id":0}`)
		if err := f.Wait(ctx, &got); err != nil || got != "d" {
			t.Fatalf("%q, %v", got, err)
		}
		// Written, and not idempotent.
		f = c.Go(ctx, "echo", rpcx.Args{"e"})
		w.expect(`{"jsonrpc":"2.0","method":"echo","id":1,"params":["e"]}`)
		call = started(func() error { return c.Call(ctx, "echo", nil, nil) })
		w.expect(`{"jsonrpc":"2.0","method":"echo","id":2}`)
		w.Close()
		var lost *rpcx.ConnectionError
		for _, err := range []error{f.Wait(ctx, nil), call()} {
			if !errors.As(err, &lost) || !lost.Written {
				t.Errorf("%v", err)
			}
		}
		l.wire(3).expectNothing()
		if err := c.Notify(ctx, "n", nil); err != nil {
			t.Error(err)
		}
		l.wire(3).expect(`{"jsonrpc":"2.0","method":"n"}`)
	})
}

func TestClientSendsUnwrittenMessagesAgainInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lines{t: t, deaf: true}
		c, _ := newClient(t, rpcx.ClientOptions{Connect: l.connect})
		ctx := t.Context()
		w := l.wire(1) // does not read
		var want []string
		for i := range 9 {
			switch i % 3 {
			case 0:
				c.Go(ctx, "go", rpcx.Args{i})
				want = append(want, fmt.Sprintf(`"params":[%d]`, i))
			case 1:
				if err := c.Notify(ctx, "notify", rpcx.Args{i}); err != nil {
					t.Fatal(err)
				}
				want = append(want, fmt.Sprintf(`"params":[%d]`, i))
			case 2:
				started(func() error { return c.Call(ctx, "call", rpcx.Args{i}, nil) })
				synctest.Wait()
				want = append(want, fmt.Sprintf(`"params":[%d]`, i))
			}
			synctest.Wait()
		}
		l.set(false, nil)
		w.Close()
		got := l.wire(2).heard()
		if len(got) != len(want) {
			t.Fatalf("%q", got)
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("message %d is %s, want %s", i, got[i], want[i])
			}
		}
		l.wire(2).Close()
	})
}
