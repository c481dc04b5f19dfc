package rpcx_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// subscribed returns a hub with n sessions that are subscribed to "t", and whose peers read.
func subscribed(tb testing.TB, hub *rpcx.Hub, n int) {
	tb.Helper()
	for range n {
		near, far := net.Pipe()
		s := rpcx.NewSession(near, handling(methods{"sub": subscriber(hub, "t", nil, nil)}))
		go io.Copy(io.Discard, far)
		tb.Cleanup(func() { s.Close(); far.Close(); <-s.Done() })
		fmt.Fprintln(far, `{"jsonrpc":"2.0","method":"sub","id":1}`)
	}
	for hub.Stats().Subscribers < n {
		runtime.Gosched()
	}
}

// TestHubAllocations checks that a value allocates little for each subscriber: nothing if
// the outbox has room, and nothing but a place in the ring if not.
func TestHubAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	const sessions = 100
	ctx := context.Background()
	value := map[string]any{"number": "0x1b4", "hash": "0x0000000000000000"}
	hub := new(rpcx.Hub)
	subscribed(t, hub, sessions)
	publishOne := func(hub *rpcx.Hub) func() {
		return func() {
			if err := hub.Publish(ctx, "t", value); err != nil {
				t.Error(err)
			}
		}
	}
	if n := testing.AllocsPerRun(200, publishOne(hub)); n > sessions/2 {
		t.Errorf("Publish to %d subscribers makes %v allocations, their writers' included", sessions, n)
	}
	lagging := &rpcx.Hub{Queue: 100}
	for range sessions {
		near, far := net.Pipe()
		s := rpcx.NewSession(near, &rpcx.Options{Handler: methods{"sub": subscriber(lagging, "t", nil, nil)}, Limits: rpcx.Limits{SendTimeout: -1}})
		t.Cleanup(func() { s.Close(); far.Close(); <-s.Done() })
		fmt.Fprintln(far, `{"jsonrpc":"2.0","method":"sub","id":1}`)
	}
	for lagging.Stats().Subscribers < sessions {
		runtime.Gosched()
	}
	for dropped := lagging.Stats().Dropped; lagging.Stats().Dropped < dropped+300*sessions; {
		publishOne(lagging)()
	}
	if n := testing.AllocsPerRun(200, publishOne(lagging)); n > sessions/2 {
		t.Errorf("Publish to %d subscribers that lag makes %v allocations", sessions, n)
	}
}

func BenchmarkHubPublish(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			hub := new(rpcx.Hub)
			subscribed(b, hub, n)
			value := map[string]any{"number": "0x1b4", "hash": "0x0000000000000000"}
			b.ReportAllocs()
			for b.Loop() {
				_ = hub.Publish(context.Background(), "t", value)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/subscriber")
		})
	}
}
