package rpcx_test

import (
	"context"
	"encoding/json"
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

// The values of two sessions wait for a slow reader; further ones are dropped, as the policy
// says, and the gaps become one.
func TestClientStreamOfASlowReader(t *testing.T) {
	for _, test := range []struct {
		policy rpcx.OverflowPolicy
		want   string
	}{
		{rpcx.DropOldest, "gap 20 21 gap 30 31, 4 dropped"},
		{rpcx.KeepLatest, "gap 31, 7 dropped"},
		{rpcx.EndStream, "0 1 gap 10 11, 0 dropped, rpcx: the reader of a stream is too slow"},
	} {
		t.Run(test.want, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, l := newClient(t, rpcx.ClientOptions{})
				got := ""
				sub := rpcx.Subscription{Method: "eth_subscribe", Overflow: test.policy, OnGap: func(*rpcx.GapError) { got += "gap " }}
				var st *rpcx.Stream[int]
				for n := range 4 {
					w := l.wire(n + 1)
					if n == 0 {
						st = clientStreamOf[int](t, c, w, sub, `"id"`)
					} else {
						w.answerAny(`"id"`)
					}
					for i := range 2 {
						w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"id","result":%d}}`, 10*n+i))
					}
					synctest.Wait()
					if n < 3 {
						w.Close()
					}
				}
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
					v, err := st.Next(ctx)
					cancel()
					if err != nil {
						break
					}
					got += fmt.Sprintf("%d ", v)
				}
				got = strings.TrimSpace(got) + fmt.Sprintf(", %d dropped", st.Dropped())
				if err := st.Err(); err != nil {
					got += ", " + err.Error()
				}
				if got != test.want {
					t.Errorf("the reader gets %q, want %q", got, test.want)
				}
			})
		})
	}
}

// answerAny answers the next call, if there is one.
func (w *wire) answerAny(result string) {
	for _, line := range w.heard() {
		w.say(fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, idOf(w.t, line), result))
	}
}

// A refusal of the subscribing call as not started is repeated, at most MaxRetries times.
func TestClientSubscribesAgainAfterARefusal(t *testing.T) {
	for _, refusals := range []int{2, 3} {
		synctest.Test(t, func(t *testing.T) {
			c, l := newClient(t, rpcx.ClientOptions{})
			st := clientStreamOf[int](t, c, l.wire(1), rpcx.Subscription{Method: "news", Correlation: rpcx.ElectrumHeaders}, "1")
			l.wire(1).Close()
			w := l.wire(2)
			for range refusals {
				w.reply(w.heard()[0], isNotStarted)
				time.Sleep(time.Second)
			}
			w.answerAny("2")
			if v := value(t, st); v != 1 {
				t.Error(v)
			}
			v, err := st.Next(t.Context())
			var refused *rpcx.Error
			if refusals == 2 && (v != 2 || err != nil) || refusals == 3 && (!errors.As(err, &refused) || !refused.NotStarted()) {
				t.Errorf("after %d refusals: %d, %v", refusals, v, err)
			}
		})
	}
}

// A subscription whose call lasts as long as the stream is made again, too, with a new id.
func TestClientListensAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		form := *rpcx.MCPListen
		form.Methods = []string{"news"}
		gaps := 0
		c, l := newClient(t, rpcx.ClientOptions{OnConnect: func(ctx context.Context, s *rpcx.Session) error {
			return s.Notify(ctx, "hello", nil)
		}})
		st, err := rpcx.Subscribe[json.RawMessage](t.Context(), c, rpcx.Subscription{
			Method: "listen", Correlation: &form, OnGap: func(*rpcx.GapError) { gaps++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			w := l.wire(n + 1)
			lines := w.heard()
			if len(lines) != 2 || !strings.Contains(lines[1], "listen") {
				t.Fatalf("%q", lines)
			}
			w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"news","params":{"n":%d,"_meta":{"io.modelcontextprotocol/subscriptionId":%s}}}`, n, idOf(t, lines[1])))
			if v := string(value(t, st)); !strings.Contains(v, fmt.Sprintf(`"n":%d`, n)) || gaps != n {
				t.Errorf("%s, %d gaps", v, gaps)
			}
			time.Sleep(time.Minute) // Limits.RequestTimeout does not apply
			if n < 2 {
				w.Close()
			} else {
				w.reply(lines[1], isAnswered)
			}
		}
		if _, err := st.Next(t.Context()); err != rpcx.ErrStreamEnded {
			t.Error(err)
		}
	})
}

// CallProgress is repeated only before the first progress, and StreamOf lasts as long as the
// session.
func TestClientProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{Idempotent: func(string) bool { return true }})
		var got []string
		call := started(func() error {
			_, err := rpcx.CallProgress[int](t.Context(), c, rpcx.MCPProgress, "work", nil, func(v json.RawMessage) { got = append(got, string(v)) })
			return err
		})
		l.wire(1).heard()
		st, err := rpcx.StreamOf[int](c, rpcx.LSPWorkDone, "t")
		if err != nil {
			t.Fatal(err)
		}
		l.wire(1).Close()
		w := l.wire(2)
		line := w.heard()[0]
		if _, err := st.Next(t.Context()); !errors.Is(err, rpcx.ErrConnectionLost) {
			t.Error(err)
		}
		token := line[strings.Index(line, `"progressToken":`)+len(`"progressToken":`):]
		token = token[:strings.Index(token, "}")]
		time.Sleep(20 * time.Second)
		w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1}}`, token))
		time.Sleep(20 * time.Second) // only an explicit RequestTimeout applies
		w.Close()
		var lost *rpcx.ConnectionError
		if err := call(); !errors.As(err, &lost) || !lost.Written || len(got) != 1 {
			t.Errorf("%v, after %q", err, got)
		}
		l.wire(3).expectNothing()
		l.downFrom(3)
		if _, err := rpcx.StreamOf[int](c, rpcx.LSPWorkDone, "t"); !errors.Is(err, rpcx.ErrNotConnected) {
			t.Error(err)
		}
	})
}

// All streams end with the client, after the values that wait.
func TestClientStreamsEndWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, l := newClient(t, rpcx.ClientOptions{})
		st := clientStreamOf[int](t, c, l.wire(1), rpcx.Subscription{Method: "news", Correlation: rpcx.ElectrumHeaders}, "1")
		c.Close()
		if v := value(t, st); v != 1 {
			t.Error(v)
		}
		_, err := st.Next(t.Context())
		matches(t, err, rpcx.ErrClosed, rpcx.ErrConnectionLost)
		matches(t, st.Err(), rpcx.ErrClosed)
		if _, err := rpcx.Subscribe[int](t.Context(), c, rpcx.Subscription{Method: "news", Correlation: rpcx.ElectrumHeaders}); !errors.Is(err, rpcx.ErrClosed) {
			t.Error(err)
		}
	})
}
