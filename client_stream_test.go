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

// clientStreamOf subscribes on c, whose n-th wire answers with reply.
func clientStreamOf[T any](t *testing.T, c *rpcx.Client, w *wire, sub rpcx.Subscription, reply string) *rpcx.Stream[T] {
	t.Helper()
	var st *rpcx.Stream[T]
	done := started(func() (err error) {
		st, err = rpcx.Subscribe[T](t.Context(), c, sub)
		return err
	})
	w.answer(reply)
	if err := done(); err != nil {
		t.Fatal(err)
	}
	return st
}

// answer answers the next call, and returns its line.
func (w *wire) answer(result string) string {
	w.t.Helper()
	lines := w.heard()
	if len(lines) != 1 {
		w.t.Fatalf("heard %q, want a call", lines)
	}
	w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, idOf(w.t, lines[0]), result))
	return lines[0]
}

// value returns the next value of st, which is there.
func value[T any](t *testing.T, st *rpcx.Stream[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	v, err := st.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// noValue says that st has no value now.
func noValue[T any](t *testing.T, st *rpcx.Stream[T]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if v, err := st.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the stream has %v, %v", v, err)
	}
}

func TestClientSubscribesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		gap := func(name string) func(*rpcx.GapError) {
			return func(g *rpcx.GapError) {
				events = append(events, fmt.Sprintf("%s: %v, %v", name, g.To.Sub(g.From) > 0, g.Err))
			}
		}
		c, l := newClient(t, rpcx.ClientOptions{
			MinBackoff: time.Second,
			OnConnect:  func(ctx context.Context, s *rpcx.Session) error { return s.Notify(ctx, "login", nil) },
		})
		w := l.wire(1)
		w.expect(`{"jsonrpc":"2.0","method":"login"}`)
		eth := clientStreamOf[string](t, c, w, rpcx.Subscription{Method: "eth_subscribe", Params: rpcx.Args{"heads"}, OnGap: gap("eth")}, `"0x1"`)
		same := clientStreamOf[int](t, c, w, rpcx.Subscription{Method: "headers", Correlation: rpcx.ElectrumHeaders, OnGap: gap("same")}, `1`)
		other := clientStreamOf[int](t, c, w, rpcx.Subscription{Method: "hash", Params: rpcx.Args{"x"}, Correlation: rpcx.ElectrumHeaders, OnGap: gap("other")}, `1`)
		w.say(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":"a"}}`)
		if value(t, eth) != "a" || value(t, same) != 1 || value(t, other) != 1 {
			t.Error("wrong values")
		}
		w.say(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":"b"}}`)
		synctest.Wait()
		w.Close()
		waiting := started(func() error { return c.Notify(t.Context(), "waits", nil) })

		w = l.wire(2)
		lines := w.heard()
		for i, want := range []string{`"login"`, `"eth_subscribe"`, `"headers"`, `"hash"`, `"waits"`} {
			if len(lines) != 5 || !strings.Contains(lines[i], want) {
				t.Fatalf("heard %q", lines)
			}
		}
		if err := waiting(); err != nil {
			t.Error(err)
		}
		w.say(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x2","result":"c"}}`,
			`{"jsonrpc":"2.0","id":1,"result":1}`, `{"jsonrpc":"2.0","id":2,"result":2}`, `{"jsonrpc":"2.0","id":0,"result":"0x2"}`)
		if v := value(t, eth); v != "b" || len(events) != 0 {
			t.Errorf("before the gap: %q, %q", v, events)
		}
		if v := value(t, eth); v != "c" || string(eth.ID()) != `"0x2"` {
			t.Errorf("after the gap: %q, %s", v, eth.ID())
		}
		noValue(t, same)
		if v := value(t, other); v != 2 {
			t.Errorf("a changed value: %d", v)
		}
		if want := []string{"eth: true, EOF", "other: true, EOF"}; fmt.Sprint(events) != fmt.Sprint(want) {
			t.Errorf("the gaps are %q, want %q", events, want)
		}
		w.say(`{"jsonrpc":"2.0","method":"headers","params":[3]}`)
		if v := value(t, same); v != 3 {
			t.Errorf("a later value: %d", v)
		}
		noValue(t, eth)

		// Closed while there is no session.
		l.set(false, errors.New("down"))
		w.Close()
		synctest.Wait()
		eth.Close()
		other.Close()
		if _, err := other.Next(t.Context()); err != rpcx.ErrStreamClosed {
			t.Error(err)
		}
		l.set(false, nil)
		w = l.wire(3)
		lines = w.heard()
		if len(lines) != 2 || !strings.Contains(lines[1], `"headers"`) {
			t.Fatalf("heard %q", lines)
		}
		w.say(`{"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"no more"}}`)
		var refused *rpcx.Error
		if _, err := same.Next(t.Context()); !errors.As(err, &refused) || refused.Code != 1 {
			t.Error(err)
		}
		w.Close()
		l.wire(4).expect(`{"jsonrpc":"2.0","method":"login"}`)
	})
}
