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

func TestNotStarted(t *testing.T) {
	for _, c := range []struct {
		err  *rpcx.Error
		want bool
	}{
		{nil, false},
		{rpcx.ServerBusy("a reason"), false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":false}`)}, true},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":false,"reason":"queue","more":[]}`)}, true},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":true,"reason":"timeout"}`)}, false},
		{&rpcx.Error{Code: -101, Data: json.RawMessage(`{"started":false}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":null}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":"false"}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":0}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"reason":"queue"}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`[false]`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`false`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`null`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":false`)}, false},
		{&rpcx.Error{Code: -102, Data: "started: false"}, false},
	} {
		if got := c.err.NotStarted(); got != c.want {
			t.Errorf("for %+v it is %v", c.err, got)
		}
	}
}

// What a caller learns of a request that was refused or took too long.
func TestBusyErrorsSayWhetherTheRequestWasBegun(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		delay  bool
		then   func(s *rpcx.Session) // while one handler runs and another request waits
		// What the errors of the two, and of a third, say.
		want [3]string
	}{
		{"a full queue", rpcx.Limits{Queue: 1, ProcessingTimeout: time.Minute}, false,
			func(*rpcx.Session) { time.Sleep(6 * time.Second) }, [3]string{2: "queue"}},
		{"no time", rpcx.Limits{}, false,
			func(*rpcx.Session) { time.Sleep(31 * time.Second) }, [3]string{"begun", "queue", "queue"}},
		{"delayed until it is too late", rpcx.Limits{CostHard: 10_000, CostDelay: time.Hour, CostDecay: -1}, true,
			func(*rpcx.Session) { time.Sleep(31 * time.Second) }, [3]string{"queue", "queue", "queue"}},
		{"shutting down", rpcx.Limits{}, false,
			func(s *rpcx.Session) { go s.Shutdown(context.Background()); synctest.Wait() }, [3]string{1: "shutting down", 2: "shutting down"}},
	} {
		for name, p := range map[string]rpcx.Protocol{"2.0": rpcx.JSONRPCv2, "loose": rpcx.JSONRPCLoose, "1.0": rpcx.JSONRPCv1} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					limits := c.limits
					limits.Concurrency = 1
					open := make(gate)
					caller, s := newPipe(t, &rpcx.Options{Protocol: p, Limits: rpcx.Limits{RequestTimeout: -1}}, &rpcx.Options{Protocol: p, Handler: open, Limits: limits})
					if c.delay {
						s.BumpCost(6000)
						s.UpdateCost()
					}
					var calls []*rpcx.Future
					for range 3 {
						calls = append(calls, caller.Go(t.Context(), "m", nil))
						synctest.Wait()
					}
					c.then(s)
					synctest.Wait()
					for i, f := range calls {
						got := ""
						if e, ok := errors.AsType[*rpcx.Error](f.Err()); ok {
							var data struct {
								Started bool
								Reason  string
							}
							raw, _ := e.Data.(json.RawMessage)
							_ = json.Unmarshal(raw, &data)
							got = data.Reason
							if data.Started {
								got = "begun"
							}
							if name == "1.0" { // has a code and a message only
								if raw != nil || e.Code != rpcx.CodeServerBusy {
									t.Errorf("call %d: %+v", i, e)
								}
								continue
							}
							if e.NotStarted() != (c.want[i] != "begun") {
								t.Errorf("call %d: NotStarted says %v", i, e.NotStarted())
							}
						}
						if got != c.want[i] {
							t.Errorf("call %d: %q, want %q (%v)", i, got, c.want[i], f.Err())
						}
					}
					close(open)
				})
			})
		}
	}
}

// Limits.RequestTimeout bounds all of a call: the wait for a slot and for room, too.
func TestRequestTimeoutBoundsAllOfACall(t *testing.T) {
	calls := map[string]func(s *rpcx.Session) error{
		"Call": func(s *rpcx.Session) error { return s.Call(context.Background(), "m", nil, nil) },
		"Go": func(s *rpcx.Session) error {
			return s.Go(context.Background(), "m", nil).Wait(context.Background(), nil)
		},
		"SendBatch": func(s *rpcx.Session) error {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			b.Notify("m", nil)
			return s.SendBatch(context.Background(), &b)
		},
		"GoBatch": func(s *rpcx.Session) error {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			b.Call("m", nil, nil)
			return s.GoBatch(context.Background(), &b).Wait(context.Background(), nil)
		},
	}
	for name, limits := range map[string]rpcx.Limits{
		"slots":         {},
		"room":          {Outbox: 1000, SendTimeout: -1, Outgoing: -1},
		"both":          {Outbox: 1000, SendTimeout: -1},
		"another limit": {RequestTimeout: 5 * time.Second},
	} {
		for kind, call := range calls {
			t.Run(name+", "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, w := newDeafWire(t, &rpcx.Options{Limits: limits})
					if limits.Outbox == 0 {
						w.listen()
					}
					want := limits.RequestTimeout
					if want == 0 {
						want = 30 * time.Second
					}
					errs := make(chan error)
					for range 200 {
						go func() { errs <- call(s) }()
					}
					takes(t, want, func() {
						for range 200 {
							matches(t, <-errs, rpcx.ErrTimeout, context.DeadlineExceeded)
						}
					})
					if stats := s.Stats(); stats.Pending != 0 {
						t.Errorf("stats are %+v", stats)
					}
				})
			})
		}
	}
}

// What was cancelled, or has waited too long, takes no place in the queue.
func TestQueueHoldsOnlyWhatIsToBeHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Cancellation = rpcx.LSPCancellation
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		cancel := func(id int) string {
			return fmt.Sprintf(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}`, id)
		}
		const cancelled = `{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":`
		queued := func(n int) {
			t.Helper()
			synctest.Wait()
			if stats := s.Stats(); stats.Queued != n || (n == 0) != (stats.QueuedBytes == 0) {
				t.Errorf("%d requests of %d bytes wait, want %d", stats.Queued, stats.QueuedBytes, n)
			}
		}
		w.say(ask("m", 0)) // runs
		w.say(ask("m", 1), ask("m", 2), "["+ask("m", 3)+","+ask("m", 4)+"]", ask("m", 5))
		queued(4)
		w.say(cancel(2))
		queued(3)
		w.say(cancel(3))
		queued(3) // the other member waits
		w.expect(cancelled + "2}")
		w.say(cancel(4))
		queued(2)
		w.expect("[" + cancelled + "3}, " + cancelled + "4}]")
		w.say(cancel(1))
		queued(1)
		w.say(cancel(5))
		queued(0)
		w.expect(cancelled+"1}", cancelled+"5}")

		w.say(ask("m", 6), "["+ask("m", 7)+","+sayNote("m", 1)+"]", sayNote("m", 2))
		queued(3)
		time.Sleep(30 * time.Second)
		queued(0)
		w.expect(timedOut+"0}", timedOutNew+"6}", "["+timedOutNew+"7}]")
		close(open)
		w.say(ask("m", 8))
		w.expect(answered(`"through"`, 8))
	})
}

// Calls that take 25 s by design say nothing of what the peer can bear.
func TestLongPollsDoNotHoldUpOtherCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		caller, _ := newPipe(t, nil, &rpcx.Options{Handler: methods{
			"poll":  func(context.Context, *rpcx.Request) (any, error) { time.Sleep(25 * time.Second); return nil, nil },
			"short": reply,
		}, Limits: rpcx.Limits{CostOff: true}})
		over := make(chan struct{})
		for range 10 {
			go func() {
				for {
					select {
					case <-over:
						return
					default:
						if err := caller.Call(t.Context(), "poll", nil, nil); err != nil {
							t.Error(err)
						}
					}
				}
			}()
		}
		for range 360 { // an hour
			time.Sleep(10 * time.Second)
			takes(t, 0, func() {
				if err := caller.Call(t.Context(), "short", nil, nil); err != nil {
					t.Error(err)
				}
			})
		}
		close(over)
		time.Sleep(time.Minute)
		if n := caller.Stats().Outgoing; n < 50 {
			t.Errorf("%d calls may be out", n)
		}
	})
}

func TestErrorDecodeData(t *testing.T) {
	type stock struct{ Item string }
	for name, c := range map[string]struct {
		data any
		want stock
		err  string
	}{
		"of a peer":       {json.RawMessage(`{"Item":"pear"}`), stock{"pear"}, ""},
		"of this side":    {map[string]string{"Item": "pear"}, stock{"pear"}, ""},
		"none":            {nil, stock{"before"}, ""},
		"another type":    {json.RawMessage(`[1]`), stock{"before"}, "decode the data of error 7: json: cannot unmarshal array"},
		"what is no data": {func() {}, stock{"before"}, "decode the data of error 7: json: unsupported type"},
	} {
		t.Run(name, func(t *testing.T) {
			got := stock{"before"}
			err := rpcx.Errorf(7, "no").WithData(c.data).DecodeData(&got)
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("got %v, %v; want %v, %s", got, err, c.want, c.err)
			}
		})
	}
}
