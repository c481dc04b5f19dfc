package rpcx_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// TestHubFullServer checks that slow subscribers of large values, on a server with little
// memory, keep their sessions, and that a good client is served.
func TestHubFullServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, sessions = 8 << 20, 100
		hub := new(rpcx.Hub)
		srv := &rpcx.Server{MaxQueuedBytes: limit, Options: rpcx.Options{
			Handler: methods{"sub": subscriber(hub, "t", nil, 1), "echo": reply},
			Limits:  rpcx.Limits{SendTimeout: -1},
		}}
		connect := func() *wire {
			near, far := net.Pipe()
			srv.ServeConn(near)
			return &wire{Conn: far, t: t}
		}
		var slow []*wire
		for range sessions {
			w := connect()
			w.say(`{"jsonrpc":"2.0","method":"sub","id":1}`)
			slow = append(slow, w)
		}
		good := connect()
		good.listen()
		synctest.Wait()
		for range 100 {
			publish(t, hub, "t", strings.Repeat("x", 200_000))
			good.say(`{"jsonrpc":"2.0","method":"echo","params":[1],"id":1}`)
			good.expect(`{"jsonrpc":"2.0","result":1,"id":1}`)
			if queued := srv.Stats().QueuedBytes; queued > limit/2*3 {
				t.Fatalf("the server holds %d bytes", queued)
			}
		}
		hubIs(t, hub, 1, sessions)
		publish(t, hub, "t", "last")
		for _, w := range slow {
			w.listen()
		}
		time.Sleep(time.Second) // a full server looks again after a while
		for _, w := range slow {
			if lines := w.heard(); len(lines) < 2 || lines[len(lines)-1] != ethLine("1", `"last"`) {
				t.Errorf("%d lines have come, and the last value is not the last", len(lines))
			}
		}
		if queued := srv.Stats().QueuedBytes; queued > 1<<20 {
			t.Errorf("the server holds %d bytes when all have read", queued)
		}
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		for _, w := range append(slow, good) {
			w.Close()
		}
	})
}
