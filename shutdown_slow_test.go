package rpcx_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// What Shutdown refuses waits for room in the outbox, as replies do: a peer that is
// only slow to read what it has asked for loses nothing.
func TestShutdownRefusesMuchToAPeerThatIsSlowToRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const asked = 4400
		long := strings.Repeat("x", 10_000)
		s, w := newDeafWire(t, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return long, nil })))
		for i := range asked {
			w.say(ask("m", i))
		}
		synctest.Wait()
		queued := s.Stats().Queued
		done := make(chan error)
		go func() { done <- s.Shutdown(t.Context()) }()
		time.Sleep(10 * time.Second)
		w.listen()
		if err := <-done; err != nil || s.Err() != rpcx.ErrClosed {
			t.Errorf("Shutdown returns %v, and the session ended with %v", err, s.Err())
		}
		refused := 0
		lines := w.heard()
		for _, line := range lines {
			if strings.Contains(line, "shutting down") {
				refused++
			}
		}
		if len(lines) != asked || refused != queued {
			t.Errorf("%d of %d were answered, and %d of %d refused", len(lines), asked, refused, queued)
		}
	})
}

// Its context bounds that, too.
func TestShutdownThatHasMuchToRefuseIsOverWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := strings.Repeat("x", 10_000)
		s, w := newDeafWire(t, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return long, nil })))
		for i := range 4400 {
			w.say(ask("m", i))
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		takes(t, 5*time.Second, func() {
			if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
				t.Errorf("Shutdown returns %v", err)
			}
		})
		takes(t, time.Second, func() { <-s.Done() })
	})
}

// The log tells which handlers a Shutdown waits for: after a while, and when it gives up.
func TestLogTellsWhatShutdownWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		open := make(chan struct{})
		opts := log.options()
		opts.Limits.ProcessingTimeout = -1
		opts.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { <-open; return nil, nil })
		s, w := newWire(t, opts)
		w.say(ask("slow", 1), ask("stuck", 2), ask("slow", 3), `{"jsonrpc":"2.0","method":"note"}`, "["+ask("member", 4)+"]")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		takes(t, 30*time.Second, func() { matches(t, s.Shutdown(ctx), context.DeadlineExceeded) })
		synctest.Wait()
		const handlers = `peer=pipe "handlers that run"="slow (2), member (1), note (1), stuck (1)" calls=0`
		for _, want := range []string{
			`time=2000-01-01T00:00:10.000Z level=WARN msg="shutdown waits" ` + handlers,
			`time=2000-01-01T00:00:30.000Z level=WARN msg="shutdown did not finish in time" ` + handlers,
		} {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("the log says\n%s\nwant %s", log.String(), want)
			}
		}
		close(open)
		<-s.Done()
	})
}
