package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// session, also if that is sending already.
func TestClientSubscribesAgainForALateStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{Limits: rpcx.Limits{Outgoing: 1}, OnCall: []onCall{
			func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
				if call.Method == "sub" {
					return ctx, func(error) { <-release }, nil
				}
				return ctx, nil, nil
			},
		}}})
		var st *rpcx.Stream[int]
		subscribed := started(func() (err error) {
			st, err = rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: "sub", Correlation: rpcx.ElectrumHeaders})
			return err
		})
		l.wire(1).answer("1")
		l.downFrom(1)
		for range 3 {
			c.Go(t.Context(), "m", nil)
		}
		l.set(false, nil)
		w := l.wire(2)
		lines := w.heard() // a call; the others wait for Limits.Outgoing
		close(release)
		if err := subscribed(); err != nil {
			t.Fatal(err)
		}
		w.reply(lines[0], isAnswered)
		for range 3 {
			w.answer("2")
		}
		if v := value(t, st); v != 1 {
			t.Error(v)
		}
		if v := value(t, st); v != 2 {
			t.Error(v)
		}
	})
}

// A stream that ends because a notification has no value unsubscribes, as on a session.
func TestClientStreamWithoutAValueUnsubscribes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{})
		w := l.wire(1)
		st := clientStreamOf[int](t, c, w, rpcx.Subscription{Method: "eth_subscribe"}, `"id"`)
		w.say(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"id","nothing":1}}`)
		if v, err := st.Next(t.Context()); err == nil {
			t.Error(v)
		}
		if lines := w.heard(); len(lines) != 1 || !strings.Contains(lines[0], "eth_unsubscribe") {
			t.Errorf("heard %q", lines)
		}
	})
}

// values from two sessions.
func TestClientStreamLeavesASessionThatGoesOn(t *testing.T) {
	for _, lose := range []string{"Reconnect", "Session.Shutdown"} {
		t.Run(lose, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{OnCall: []onCall{
					func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
						if call.Method == "sub" {
							return ctx, func(error) { <-release }, nil
						}
						return ctx, nil, nil
					},
				}}})
				pending := c.Go(t.Context(), "pending", nil)
				l.wire(1).heard()
				var st *rpcx.Stream[int]
				subscribed := started(func() (err error) {
					st, err = rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: "sub", Correlation: rpcx.ElectrumHeaders})
					return err
				})
				l.wire(1).answer("1")
				s, _ := c.Session(t.Context())
				if lose == "Reconnect" {
					c.Reconnect()
				} else {
					go s.Shutdown(t.Context())
				}
				w := l.wire(2)
				close(release)
				if err := subscribed(); err != nil {
					t.Fatal(err)
				}
				w.answer("2")
				for want := range 2 {
					if v := value(t, st); v != want+1 {
						t.Error(v)
					}
				}
				l.wire(1).say(`{"jsonrpc":"2.0","method":"sub","params":[3]}`)
				noValue(t, st)
				pending.Cancel()
			})
		})
	}
}

// Sessions without values do not make a reader too slow: their gaps become one.
func TestClientStreamOfSilentSessions(t *testing.T) {
	for _, policy := range []rpcx.OverflowPolicy{rpcx.EndStream, rpcx.DropOldest, rpcx.KeepLatest} {
		synctest.Test(t, func(t *testing.T) {
			c, l := newClient(t, rpcx.ClientOptions{})
			var gaps []*rpcx.GapError
			sub := rpcx.Subscription{Method: "eth_subscribe", Overflow: policy, OnGap: func(g *rpcx.GapError) { gaps = append(gaps, g) }}
			st := clientStreamOf[int](t, c, l.wire(1), sub, `"id"`)
			say := func(n, v int) {
				l.wire(n).say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"id","result":%d}}`, v))
				synctest.Wait()
			}
			say(1, 1)
			start, end := time.Now(), time.Now()
			for n := range 5 {
				l.wire(n + 1).Close()
				l.wire(n + 2).answer(`"id"`)
				synctest.Wait()
				end = time.Now()
				time.Sleep(time.Minute)
			}
			say(6, 2)
			want := 1
			if policy == rpcx.KeepLatest {
				want = 2
			}
			for ; want <= 2; want++ {
				if v := value(t, st); v != want {
					t.Errorf("policy %d: the value is %d, want %d", policy, v, want)
				}
			}
			if len(gaps) != 1 || !gaps[0].From.Equal(start) || !gaps[0].To.Equal(end) {
				t.Errorf("policy %d: the gaps are %v, want one from %v to %v", policy, gaps, start, end)
			}
		})
	}
}

// attempt: Limits.RequestTimeout bounds the waits, not the call.
func TestClientRepeatsALongCallProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var attempts []int
		c, l := newClient(t, rpcx.ClientOptions{
			Idempotent: func(string) bool { return true },
			Options: rpcx.Options{OnCall: []onCall{
				func(ctx context.Context, call *rpcx.OutgoingCall) (context.Context, func(error), error) {
					attempts = append(attempts, call.Attempt)
					return ctx, nil, nil
				},
			}},
		})
		call := started(func() error {
			_, err := rpcx.CallProgress[int](t.Context(), c, rpcx.MCPProgress, "work", nil, func(int) {})
			return err
		})
		l.wire(1).heard()
		time.Sleep(time.Minute)
		l.wire(1).Close()
		w := l.wire(2)
		line := w.heard()[0]
		time.Sleep(time.Minute)
		w.reply(line, isAnswered)
		if err := call(); err != nil || fmt.Sprint(attempts) != "[1 2]" {
			t.Errorf("%v, attempts %v", err, attempts)
		}
		l.downFrom(2)
		takes(t, 30*time.Second, func() {
			_, err := rpcx.CallProgress[int](t.Context(), c, rpcx.MCPProgress, "work", nil, func(int) {})
			matches(t, err, rpcx.ErrTimeout, rpcx.ErrNotConnected)
		})
	})
}

// Subscribing calls and those with progress wait in line with other calls.
func TestClientSendsCallsOfStreamsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{Options: rpcx.Options{Limits: rpcx.Limits{Outgoing: -1}}})
		l.downFrom(1)
		const n = 300
		for i := range n {
			switch method := fmt.Sprintf("m%03d", i); i % 3 {
			case 0:
				go rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: method, Correlation: rpcx.ElectrumHeaders})
			case 1:
				c.Go(t.Context(), method, nil)
			case 2:
				go rpcx.CallProgress[int](t.Context(), c, rpcx.MCPProgress, method, nil, func(int) {})
			}
			synctest.Wait()
		}
		l.set(false, nil)
		lines := l.wire(2).heard()
		if len(lines) != n {
			t.Errorf("heard %d lines, want %d", len(lines), n)
		}
		for i, line := range lines {
			if !strings.Contains(line, fmt.Sprintf("m%03d", i)) {
				t.Fatalf("line %d is %s", i, line)
			}
		}
	})
}

// A server that does not answer the subscribing calls of a new session in time ends no stream.
func TestClientSubscribesAgainAfterATimeout(t *testing.T) {
	for _, timeouts := range []int{2, 3} {
		synctest.Test(t, func(t *testing.T) {
			c, l := newClient(t, rpcx.ClientOptions{MaxBackoff: time.Second})
			st := clientStreamOf[int](t, c, l.wire(1), rpcx.Subscription{Method: "news", Correlation: rpcx.ElectrumHeaders}, "1")
			if v := value(t, st); v != 1 {
				t.Error(v)
			}
			l.wire(1).Close()
			w := l.wire(2)
			for range timeouts {
				if lines := w.heard(); len(lines) != 1 {
					t.Fatalf("heard %q", lines)
				}
				time.Sleep(31 * time.Second)
			}
			w.answerAny("2")
			v, err := st.Next(t.Context())
			if timeouts == 2 && (v != 2 || err != nil) || timeouts == 3 && !errors.Is(err, rpcx.ErrTimeout) {
				t.Errorf("after %d timeouts: %d, %v", timeouts, v, err)
			}
		})
	}
}
