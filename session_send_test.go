package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// TestTryNotify checks that TryNotify sends as long as there is room, and never waits.
func TestTryNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var traced []string
		opts := &rpcx.Options{Trace: &rpcx.Trace{RequestSent: func(_ *rpcx.Session, method string, id rpcx.ID) {
			traced = append(traced, method+string(id))
		}}}
		opts.Limits.Outbox = 100
		s, w := newDeafWire(t, opts)
		try := func(method string) bool {
			t.Helper()
			sent, err := s.TryNotify(method, rpcx.Args{strings.Repeat("x", 40)})
			if err != nil {
				t.Error(err)
			}
			synctest.Wait()
			return sent
		}
		takes(t, 0, func() {
			if !try("one") || try("two") || try("three") {
				t.Error("want true for one message, and then false")
			}
		})
		if got := strings.Join(traced, " "); got != "one" {
			t.Errorf("traced: %s", got)
		}
		// A short message would fit, but an earlier sender waits.
		go s.Notify(t.Context(), "waiting", rpcx.Args{strings.Repeat("x", 40)})
		synctest.Wait()
		if sent, err := s.TryNotify("s", nil); sent || err != nil {
			t.Errorf("before a waiting sender: %v, %v", sent, err)
		}
		w.listen()
		x := strings.Repeat("x", 40)
		w.expect(`{"jsonrpc":"2.0","method":"one","params":["`+x+`"]}`, `{"jsonrpc":"2.0","method":"waiting","params":["`+x+`"]}`)
		if !try("last") {
			t.Error("no room in an empty outbox")
		}
		w.expect(`{"jsonrpc":"2.0","method":"last","params":["` + x + `"]}`)
	})
}

// TestTryNotifyErrors checks that TryNotify fails as Notify does.
func TestTryNotifyErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		opts := handling(g)
		opts.Framer = rpcx.NewlineFramer{MaxSize: 1000}
		s, w := newWire(t, opts)
		check := func(name string, params any, match func(error) bool) {
			t.Helper()
			sent, err := s.TryNotify("m", params)
			other := s.Notify(t.Context(), "m", params)
			if sent || err == nil || other == nil || err.Error() != other.Error() || !match(err) {
				t.Errorf("%s: %v, %v; Notify: %v", name, sent, err, other)
			}
		}
		check("params that cannot be encoded", 1, func(err error) bool {
			e, ok := errors.AsType[*rpcx.ProtocolError](err)
			return ok && e.Unsent
		})
		check("a message over the framer's limit", rpcx.Args{strings.Repeat("x", 1000)}, func(err error) bool {
			_, ok := errors.AsType[*rpcx.SizeError](err)
			return ok
		})
		closed := func(err error) bool { return errors.Is(err, rpcx.ErrClosed) }
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		synctest.Wait()
		go s.Shutdown(context.Background())
		synctest.Wait()
		check("during Shutdown", nil, closed)
		close(g)
		ended(t, s)
		check("after the end", nil, closed)
	})
}

// TestOnCallSeesTryNotify checks that a function of OnCall sees a notification without room,
// too, and can refuse one.
func TestOnCallSeesTryNotify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		opts := hooked(e.hook("hook"), func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			if c.Method == "refused" {
				return nil, nil, errors.New("refused")
			}
			c.Params = rpcx.Args{strings.Repeat("x", 40)}
			c.SetMeta("trace", 1)
			return nil, nil, nil
		})
		opts.Meta = rpcx.MemberMeta
		opts.Limits.Outbox = 100
		s, w := newDeafWire(t, opts)
		for _, c := range []struct {
			method string
			sent   bool
			err    string
			over   string
		}{
			{"one", true, "<nil>", "<nil>"},
			{"two", false, "<nil>", "rpcx: no room in the outbox (Limits.Outbox)"},
			{"refused", false, "refused", "refused"},
		} {
			if sent, err := s.TryNotify(c.method, nil); sent != c.sent || fmt.Sprint(err) != c.err {
				t.Errorf("%s: %v, %v", c.method, sent, err)
			}
			e.expect(t, "hook "+c.method, "hook "+c.method+" is over: "+c.over)
		}
		w.listen()
		w.expect(`{"jsonrpc":"2.0","method":"one","params":["` + strings.Repeat("x", 40) + `"],"meta":{"trace":1}}`)
	})
}

// TestTryNotifyAllocs checks that TryNotify allocates no more than Notify.
func TestTryNotifyAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	a, _ := newPipe(t, nil, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })))
	ctx := t.Context()
	args := rpcx.Args{1}
	notify := testing.AllocsPerRun(1000, func() { a.Notify(ctx, "m", args) })
	try := testing.AllocsPerRun(1000, func() { a.TryNotify("m", args) })
	if try > notify {
		t.Errorf("%v allocations, and %v of Notify", try, notify)
	}
}
