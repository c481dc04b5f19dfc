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
