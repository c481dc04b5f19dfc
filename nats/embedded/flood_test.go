package embedded_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
)

// A worker lost thousands of requests that arrived in one burst while it drained.
func TestABurstWhileDrainingIsAnswered(t *testing.T) {
	bus := newBus(t)
	conn, err := bus.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	drain := work(t, serverOf(router()), natsrpcx.Config{Conn: conn, MaxInFlight: -1})
	const calls = 20_000
	client := dial(t, natsrpcx.Config{Conn: bus.Conn}, &rpcx.Options{Limits: rpcx.Limits{Outgoing: calls, RequestTimeout: -1}})
	until(t, "the worker answers", func() bool { return client.Call(t.Context(), "sum", nil, nil) == nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // only a lost call takes so long
	defer cancel()
	var ended, lost atomic.Int64
	var callers sync.WaitGroup
	for range calls {
		callers.Go(func() {
			_ = client.Call(ctx, "sum", nil, nil) // answered, or refused at once
			if ended.Add(1); ctx.Err() != nil {
				lost.Add(1)
			}
		})
	}
	until(t, "the burst has begun", func() bool { return ended.Load() > 0 })
	if err := drain(); err != nil {
		t.Error(err)
	}
	callers.Wait()
	if n := lost.Load(); n > 0 {
		t.Errorf("%d of %d calls had no reply", n, calls)
	}
}
