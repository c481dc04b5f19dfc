package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

// progressNews is a notification for the token 1 of StreamOf.
func progressNews(value any) string {
	text, _ := json.Marshal(value)
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"$/progress","params":{"token":1,"value":%s}}`, text)
}

// openedStream returns a stream of Ethereum's form, and the wire of its session.
func openedStream[T any](t *testing.T, opts *rpcx.Options, sub rpcx.Subscription) (*rpcx.Stream[T], *rpcx.Session, *wire) {
	t.Helper()
	s, w := newWire(t, opts)
	sub.Method = "eth_subscribe"
	r := subscribing[T](s, sub)
	synctest.Wait()
	w.heard()
	w.say(ethReply)
	return r.must(t), s, w
}

// What each policy does with values for which there is no room.
func TestOverflowPolicies(t *testing.T) {
	tens := func(v json.RawMessage) string { return string(v[:1]) }
	tests := []struct {
		name    string
		sub     rpcx.Subscription
		values  []any
		want    []string
		dropped uint64
		end     error
	}{
		{"DropOldest by number", rpcx.Subscription{Queue: 3}, []any{1, 2, 3, 4, 5}, []string{"3", "4", "5"}, 2, nil},
		{"DropOldest by size", rpcx.Subscription{Bytes: 100}, []any{11, 22, 33, 44}, []string{"33", "44"}, 2, nil},
		{"DropOldest with a value over Bytes", rpcx.Subscription{Bytes: 100}, []any{1, strings.Repeat("x", 100)}, []string{`"` + strings.Repeat("x", 100) + `"`}, 1, nil},
		{"KeepLatest", rpcx.Subscription{Overflow: rpcx.KeepLatest}, []any{1, 2, 3}, []string{"3"}, 2, nil},
		{"KeepLatest with keys", rpcx.Subscription{Overflow: rpcx.KeepLatest, Key: tens}, []any{10, 20, 11, 30, 21, 12}, []string{"30", "21", "12"}, 3, nil},
		{"KeepLatest with keys, over the queue", rpcx.Subscription{Queue: 2, Overflow: rpcx.KeepLatest, Key: tens}, []any{10, 20, 11, 21, 12, 22, 13, 23}, []string{"13", "23"}, 6, nil},
		{"KeepLatest with too many keys", rpcx.Subscription{Queue: 2, Overflow: rpcx.KeepLatest, Key: tens}, []any{10, 20, 30, 40, 50}, []string{"40", "50"}, 3, nil},
		{"EndStream by number", rpcx.Subscription{Queue: 3, Overflow: rpcx.EndStream}, []any{1, 2, 3, 4, 5}, []string{"1", "2", "3"}, 0, rpcx.ErrSlowReader},
		{"EndStream by size", rpcx.Subscription{Bytes: 90, Overflow: rpcx.EndStream}, []any{1, 2, 3}, []string{"1", "2"}, 0, rpcx.ErrSlowReader},
		{"EndStream with a value over Bytes", rpcx.Subscription{Bytes: 10, Overflow: rpcx.EndStream}, []any{1}, []string{"1"}, 0, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, _, w := openedStream[json.RawMessage](t, nil, test.sub)
				for _, v := range test.values {
					text, _ := json.Marshal(v)
					w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":%s}}`, text))
					synctest.Wait()
				}
				var got []string
				for _, v := range queued(t, st) {
					got = append(got, string(v))
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("wrong values (-want +got):\n%s", diff)
				}
				if got := st.Dropped(); got != test.dropped {
					t.Errorf("%d values were dropped, want %d", got, test.dropped)
				}
				if err := st.Err(); err != test.end {
					t.Errorf("Err is %v, want %v", err, test.end)
				}
				if test.end != nil {
					endsWith(t, st, test.end)
					w.expect(`{"jsonrpc":"2.0","method":"eth_unsubscribe","id":1,"params":["0x1"]}`)
				}
			})
		})
	}
}

// The queued values come before the end of the session.
func TestStreamEndsWithTheSession(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(s *rpcx.Session, w *wire)
		want error
	}{
		{"by the peer", func(_ *rpcx.Session, w *wire) { w.Close() }, io.EOF},
		{"by Close", func(s *rpcx.Session, _ *wire) { s.Close() }, rpcx.ErrClosed},
		{"by Shutdown", func(s *rpcx.Session, _ *wire) { _ = s.Shutdown(context.Background()) }, rpcx.ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st, s, w := openedStream[int](t, nil, rpcx.Subscription{})
				w.say(fmt.Sprintf(ethNews, 1), fmt.Sprintf(ethNews, 2))
				synctest.Wait()
				test.end(s, w)
				synctest.Wait()
				has(t, st, 1, 2)
				endsWith(t, st, rpcx.ErrConnectionLost)
				matches(t, st.Err(), rpcx.ErrConnectionLost, test.want)
				if !strings.HasPrefix(st.Err().Error(), "connection lost (end of the stream): ") {
					t.Errorf("Err is %v", st.Err())
				}
				if _, ok := errors.AsType[*rpcx.ConnectionError](st.Err()); !ok {
					t.Errorf("the error is a %T", st.Err())
				}
				noStreams(t, s)
				st.Close()
				endsWith(t, st, rpcx.ErrStreamClosed)
			})
		})
	}
}

// A waiting Next ends with the session, with Close, and with its context.
func TestNextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, _, w := openedStream[int](t, nil, rpcx.Subscription{})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too long"))
		defer cancel()
		if _, err := st.Next(ctx); err == nil || err.Error() != "too long" {
			t.Errorf("the error is %v", err)
		}
		w.say(fmt.Sprintf(ethNews, 1))
		has(t, st, 1)
		r := run(func() (int, error) { return st.Next(t.Context()) })
		r.waits(t)
		if _, err := st.Next(t.Context()); err == nil || err.Error() != "rpcx: two goroutines read a Stream at once: use one goroutine, or a Stream for each" {
			t.Errorf("the error of a second reader is %v", err)
		}
		for range st.Values() {
			t.Error("a second reader has got a value")
		}
		if err := st.Err(); err == nil || !strings.Contains(err.Error(), "two goroutines") {
			t.Errorf("Err is %v", err)
		}
		st.Close()
		if _, err := r.result(t); err != rpcx.ErrStreamClosed {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestStreamValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, _, w := openedStream[int](t, nil, rpcx.Subscription{})
		for i := range 5 {
			w.say(fmt.Sprintf(ethNews, i))
		}
		want := 0
		for v := range st.Values() {
			if v != want {
				t.Errorf("the value is %d, want %d", v, want)
			}
			if want++; want == 3 {
				break
			}
		}
		go func() {
			time.Sleep(time.Second)
			w.Close()
		}()
		for v := range st.Values() {
			if v != want {
				t.Errorf("the value is %d, want %d", v, want)
			}
			want++
		}
		if want != 5 {
			t.Errorf("%d values", want)
		}
		matches(t, st.Err(), rpcx.ErrConnectionLost)
	})
}

// A value that cannot be decoded ends the stream.
func TestStreamOfWrongType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, _, w := openedStream[bool](t, nil, rpcx.Subscription{})
		w.say(fmt.Sprintf(ethNews, 1), fmt.Sprintf(ethNews, 2))
		for range 2 {
			_, err := run(func() (bool, error) { return st.Next(t.Context()) }).result(t)
			if err == nil || !strings.HasPrefix(err.Error(), `decode a value for "eth_subscribe": `) || err != st.Err() {
				t.Errorf("the error is %v", err)
			}
		}
		w.expect(`{"jsonrpc":"2.0","method":"eth_unsubscribe","id":1,"params":["0x1"]}`)
	})
}

// A peer can end a subscription, with a reason.
func TestStreamEndedByPeer(t *testing.T) {
	form := *rpcx.EthSubscription
	form.Error = []string{"error"}
	for _, test := range []struct {
		reason, text string
		wraps        error
	}{
		{`{"code":-32601,"message":"gone","data":[1]}`, `rpcx: the peer has ended the subscription: {"code":-32601,"message":"gone","data":[1]}`, rpcx.ErrMethodNotFound},
		{`"gone"`, `rpcx: the peer has ended the subscription: "gone"`, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			st, s, w := openedStream[int](t, nil, rpcx.Subscription{Correlation: &form})
			w.say(fmt.Sprintf(ethNews, 1), `{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","error":null,"result":2}}`,
				`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","error":`+test.reason+`}}`, fmt.Sprintf(ethNews, 3))
			has(t, st, 1, 2)
			err := st.Err()
			if e, ok := errors.AsType[*rpcx.PeerEndError](err); !ok || string(e.Reason) != test.reason || err.Error() != test.text {
				t.Errorf("the error is %v", err)
			}
			if test.wraps != nil {
				matches(t, err, test.wraps)
			}
			st.Close()
			w.expectNothing()
			time.Sleep(time.Second)
			noStreams(t, s)
		})
	}
}

// Notifications with an unknown id are kept: 64, 1 MiB, for a second.
func TestUnknownNewsAreKept(t *testing.T) {
	opts := &rpcx.Options{Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone}}
	claim := func(t *testing.T, s *rpcx.Session) *rpcx.Stream[json.RawMessage] {
		t.Helper()
		st, err := rpcx.StreamOf[json.RawMessage](s, rpcx.LSPWorkDone, 1)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	tests := []struct {
		name    string
		say     []string
		after   time.Duration
		got     int
		dropped uint64
		lost    uint64
	}{
		{"64", fill(64, progressNews(1)), 999 * time.Millisecond, 64, 0, 0},
		{"65", fill(65, progressNews(1)), 0, 64, 1, 1},
		{"those of others", append(fill(10, progressNews(1)), fill(63, strings.ReplaceAll(progressNews(1), `"token":1`, `"token":2`))...), 0, 1, 9, 9},
		{"after a second", fill(10, progressNews(1)), time.Second, 0, 0, 10},
		{"1 MiB", fill(4, progressNews(strings.Repeat("x", 262000))), 0, 4, 0, 0},
		{"over 1 MiB", fill(4, progressNews(strings.Repeat("x", 263000))), 0, 3, 1, 1},
		{"one over 1 MiB", append(fill(3, progressNews(1)), progressNews(strings.Repeat("x", 1<<20))), 0, 3, 0, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := *opts
				opts.Framer = rpcx.NewlineFramer{MaxSize: 4 << 20}
				s, w := newWire(t, &opts)
				w.say(test.say...)
				synctest.Wait()
				time.Sleep(test.after)
				synctest.Wait()
				st := claim(t, s)
				if got := len(queued(t, st)); got != test.got || st.Dropped() != test.dropped {
					t.Errorf("%d values, %d dropped, want %d, %d", got, st.Dropped(), test.got, test.dropped)
				}
				if stats := s.Stats(); stats.News != uint64(len(test.say)) || stats.Unclaimed != test.lost || stats.NotificationsDropped != 0 {
					t.Errorf("the counters are %d, %d, %d", stats.News, stats.Unclaimed, stats.NotificationsDropped)
				}
				st.Close()
				time.Sleep(time.Second)
				noStreams(t, s)
			})
		})
	}
}

// fill returns n times the line.
func fill(n int, line string) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = line
	}
	return lines
}

// Before its method is known, and without an id, a notification goes to the handler.
func TestOtherNewsGoToTheHandler(t *testing.T) {
	var handled []string
	handler := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		handled = append(handled, string(req.Params.Positional)+string(req.Params.Named))
		return nil, nil
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Handler: handler, Order: rpcx.Sequential})
		w.say(progressNews(1))
		synctest.Wait()
		st, err := rpcx.StreamOf[json.RawMessage](s, rpcx.LSPWorkDone, 1)
		if err != nil {
			t.Fatal(err)
		}
		w.say(progressNews(2),
			`{"jsonrpc":"2.0","method":"$/progress","params":{"value":3}}`, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":null}}`,
			`{"jsonrpc":"2.0","method":"$/progress","params":{"token":{}}}`, `{"jsonrpc":"2.0","method":"$/progress","params":[1]}`,
			`{"jsonrpc":"2.0","method":"$/progress"}`, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":1},"id":1}`)
		want := []string{`{"token":1,"value":1}`, `{"value":3}`, `{"token":null}`, `{"token":{}}`, `[1]`, ``, `{"token":1}`}
		synctest.Wait()
		if diff := cmp.Diff(want, handled); diff != "" {
			t.Errorf("the handler got (-want +got):\n%s", diff)
		}
		if got := len(queued(t, st)); got != 1 {
			t.Errorf("the stream got %d values", got)
		}
	})
}

// The notifications in a batch of the peer are sorted, too; the other members are handled.
func TestNewsInABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, _, w := openedStream[int](t, handling(rpcx.HandlerFunc(reply)), rpcx.Subscription{})
		news := func(n int) string { return fmt.Sprintf(ethNews, n) }
		w.say("["+news(1)+","+news(2)+"]", news(3),
			"["+news(4)+`,{"jsonrpc":"2.0","method":"m","params":[7],"id":1},`+news(5)+`,{"jsonrpc":"2.0","method":"m","params":[8],"id":2},{"id":[]}]`, news(6))
		has(t, st, 1, 2, 3, 4, 5, 6)
		lines := w.heard()
		if len(lines) != 1 || !strings.Contains(lines[0], `"result":7,"id":1`) || !strings.Contains(lines[0], `"result":8,"id":2`) || !strings.Contains(lines[0], `"error"`) {
			t.Errorf("the replies are %q", lines)
		}
	})
}

// A stream that lasts as long as its call takes no slot, has no timeout, is not waited for
// by Shutdown, and is cancelled by Close.
func TestStreamOfACall(t *testing.T) {
	listen := *rpcx.MCPListen
	listen.Methods = []string{"updated"}
	opts := &rpcx.Options{Cancellation: rpcx.MCPCancellation, Limits: rpcx.Limits{Outgoing: 1, OutgoingMax: 1}}
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, opts)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		var streams []*rpcx.Stream[any]
		for range 3 {
			st, err := rpcx.Subscribe[any](ctx, s, rpcx.Subscription{Method: "listen", Correlation: &listen})
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, st)
		}
		cancel()
		time.Sleep(time.Hour)
		w.heard()
		streams[1].Close()
		w.expect(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
		w.say(`{"jsonrpc":"2.0","error":{"code":5,"message":"refused"},"id":2}`)
		if _, err := streams[2].Next(t.Context()); err == nil || err.Error() != "refused (code 5)" || err != streams[2].Err() {
			t.Errorf("the error is %v", err)
		}
		call := run(func() (int, error) { return rpcx.Call[int](t.Context(), s, "m", nil) })
		w.expect(`{"jsonrpc":"2.0","method":"m","id":3}`)
		w.say(`{"jsonrpc":"2.0","result":1,"id":3}`)
		call.must(t)
		takes(t, 0, func() {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
		endsWith(t, streams[0], rpcx.ErrConnectionLost)
		noStreams(t, s)
	})
}

// Options.OnCall sees the subscribing call, and can refuse it.
func TestStreamsWithOnCall(t *testing.T) {
	listen := *rpcx.MCPListen
	listen.Methods = []string{"updated"}
	for _, sub := range []rpcx.Subscription{ethereum(), script("ab"), {Method: "m", Correlation: rpcx.LSPWorkDone}, {Method: "m", Correlation: &listen}} {
		synctest.Test(t, func(t *testing.T) {
			refusal := errors.New("refused")
			var seen []string
			opts := &rpcx.Options{OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
				func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
					if seen = append(seen, c.Method); len(seen) == 1 {
						return nil, nil, refusal
					}
					return nil, func(err error) { seen = append(seen, fmt.Sprint(c.Method, ": ", err)) }, nil
				},
			}}
			s, w := newWire(t, opts)
			if _, err := subscribing[any](s, sub).result(t); err != refusal {
				t.Errorf("the error is %v", err)
			}
			w.expectNothing()
			noStreams(t, s)
			r := subscribing[any](s, sub)
			synctest.Wait()
			w.say(`{"jsonrpc":"2.0","result":"0x1","id":0}`)
			r.must(t).Close()
			synctest.Wait()
			if diff := cmp.Diff([]string{sub.Method, sub.Method, sub.Method + ": <nil>"}, seen); diff != "" {
				t.Errorf("OnCall has seen (-want +got):\n%s", diff)
			}
		})
	}
}

// Ids and params compare as JSON values.
func TestStreamIDsCompareAsValues(t *testing.T) {
	tests := []struct {
		id, other string
		equal     bool
	}{
		{`1`, `1.0`, true}, {`1`, `10e-1`, true}, {`-0`, `0`, true}, {`0.0`, `0e9`, true}, {`100`, `1E+2`, true}, {`0.001`, `1e-3`, true},
		{`12345678901234567890`, `12345678901234567890.0`, true}, {`12345678901234567890`, `12345678901234567891`, false},
		{`1`, `"1"`, false}, {`1`, `-1`, false}, {`1`, `10`, false}, {`1e9999999999999`, `1e9999999999999`, true},
		{`"a"`, `"\u0061"`, true}, {`"\/"`, `"/"`, true}, {`"é"`, `"\u00e9"`, true}, {`"\u2028"`, "\"\u2028\"", true}, {`"a"`, `"A"`, false}, {`""`, `" "`, false},
	}
	for _, test := range tests {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, nil)
			st, err := rpcx.StreamOf[any](s, rpcx.LSPWorkDone, json.RawMessage(test.id))
			if err != nil {
				t.Fatal(err)
			}
			w.say(`{"jsonrpc":"2.0","method":"$/progress","params":{"token":` + test.other + `,"value":1}}`)
			if got := len(queued(t, st)) == 1; got != test.equal {
				t.Errorf("%s and %s: %v", test.id, test.other, got)
			}
		})
	}
	for _, test := range []struct {
		params, news string
		equal        bool
	}{
		{`[{"a":1,"b":[1,"x"]}]`, `[{"b":[1.0,"\u0078"],"a":1},0]`, true},
		{`[{"a":1,"b":[1,"x"]}]`, `[{"b":["x",1],"a":1},0]`, false},
		{`["a","b"]`, `["a","b",0]`, true}, {`["a","b"]`, `["a\",\"b",0]`, false}, {`["a"]`, `["a","b",0]`, false},
		{`[[]]`, `[[],0]`, true}, {`[[]]`, `[{},0]`, false}, {`[null,true]`, `[null,true,0]`, true}, {`[]`, `[0]`, true}, {`[]`, `[]`, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, nil)
			r := subscribing[any](s, rpcx.Subscription{Method: "m", Params: json.RawMessage(test.params), Correlation: rpcx.ElectrumHeaders})
			synctest.Wait()
			w.say(`{"jsonrpc":"2.0","result":0,"id":0}`, `{"jsonrpc":"2.0","method":"m","params":`+test.news+`}`)
			if got := len(queued(t, r.must(t))) == 2; got != test.equal {
				t.Errorf("%s and %s: %v", test.params, test.news, got)
			}
		})
	}
}
