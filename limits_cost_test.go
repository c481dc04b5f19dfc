package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

const excessive = `{"jsonrpc":"2.0","error":{"code":-101,"message":"excessive resource usage"},"id":`

// ask is a request with an id.
func ask(method string, id int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"id":%d}`, method, id)
}

// answered is the reply to it.
func answered(result string, id int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","result":%s,"id":%d}`, result, id)
}

// newServed returns a session of role server and its wire.
func newServed(t *testing.T, opts *rpcx.Options) (*rpcx.Session, *wire) {
	t.Helper()
	opts.Role = rpcx.RoleServer
	return newWire(t, opts)
}

// costs is a handler whose requests cost so much.
func costs(delta float64) rpcx.HandlerFunc {
	return func(_ context.Context, req *rpcx.Request) (any, error) {
		req.Session().BumpCost(delta)
		return nil, nil
	}
}

func TestRequestsAreDelayedBetweenTheSoftAndTheHardLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, handling(methods{"reply": reply}))
		took := func(cost float64) time.Duration {
			s.BumpCost(cost - s.Cost())
			start := time.Now()
			w.say(ask("reply", 1))
			for len(w.heard()) == 0 {
				time.Sleep(time.Millisecond)
			}
			return time.Since(start).Round(time.Millisecond)
		}
		for _, c := range []struct {
			cost float64
			want time.Duration
		}{
			{0, 0}, {2000, 0}, {4000, 500 * time.Millisecond}, {6000, time.Second}, {9999, 2 * time.Second},
		} {
			if got := took(c.cost); got < c.want-2*time.Millisecond || got > c.want+time.Millisecond {
				t.Errorf("at a cost of %v it takes %v, want %v", c.cost, got, c.want)
			}
		}
	})
}

func TestFewerHandlersRunTheMoreASessionCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes events
		open := make(gate)
		opts := handling(open)
		opts.Limits.CostDelay = -1
		opts.Trace = &rpcx.Trace{CostChanged: func(_ *rpcx.Session, cost float64, concurrency int) {
			changes.add("%.0f %d", cost, concurrency)
		}}
		s, w := newServed(t, opts)
		s.BumpCost(8000) // three quarters of the way
		for i := range 10 {
			w.say(ask("m", i))
		}
		synctest.Wait()
		if stats := s.Stats(); stats.Running != 5 || stats.Queued != 5 || stats.Concurrency != 5 || int(stats.Cost) != 8000 {
			t.Errorf("stats are %+v", stats)
		}
		if got := changes.take(); len(got) == 0 || got[0] != "8000 5" {
			t.Errorf("Trace.CostChanged was told of %q", got)
		}
		close(open)
		if n := len(w.heard()); n != 10 {
			t.Errorf("%d were answered", n)
		}
	})
}

func TestThrottledSessionRecoversWithTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, handling(methods{"reply": reply}))
		s.BumpCost(9000)
		time.Sleep(2520 * time.Second) // at 10,000 an hour it has fallen to 2,000
		if got := s.Cost(); got < 1999.9 || got > 2000.1 {
			t.Errorf("the cost is %v", got)
		}
		w.say(ask("reply", 1)) // is still delayed by what was calculated last, or not at all
		time.Sleep(2 * time.Second)
		w.expect(answered("null", 1))
		takes(t, 0, func() {
			w.say(ask("reply", 2))
			w.expect(answered("null", 2))
		})
		if n := s.Stats().Concurrency; n != 20 {
			t.Errorf("the concurrency is %d", n)
		}
	})
}

func TestSessionOverTheHardLimitIsForgivenWhatHasDecayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, handling(methods{"reply": reply}))
		s.BumpCost(10500)
		time.Sleep(time.Hour)
		w.say(ask("reply", 1))
		w.expect(answered("null", 1))
		live(t, s)
	})
}

func TestHardLimitAnswersAndEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		var order events
		opts := handling(methods{"costly": costs(20000)})
		opts.Limits.HideCost = true
		opts.Logger = slog.New(log)
		opts.OnExcessiveCost = func(s *rpcx.Session) {
			select {
			case <-s.Done():
				order.add("too late")
			default:
				order.add("hook, %.0f", s.Cost())
			}
		}
		s, w := newServed(t, opts)
		s.OnClose(func(error) { order.add("closed") })
		w.say(ask("costly", 1))
		w.expect(answered("null", 1)) // the reply to what was costly arrives
		live(t, s)
		w.say(ask("costly", 2))
		w.expect(excessive + "2}")
		err := ended(t, s)
		var cost *rpcx.CostError
		if !errors.As(err, &cost) || cost.Limit != 10000 || int(cost.Cost) != 20000 || cost.RetryAfter != 6480 {
			t.Errorf("it ended with %+v", err)
		}
		matches(t, err, rpcx.ErrExcessiveResourceUsage)
		if !strings.Contains(err.Error(), "Limits.CostHard") {
			t.Errorf("its text is %q", err)
		}
		if got := order.take(); !slices.Equal(got, []string{"hook, 20000", "closed"}) {
			t.Errorf("in order: %q", got)
		}
		if got := log.take(); !slices.Contains(got, "WARN session ended because of its cost") {
			t.Errorf("logged was %q", got)
		}
		if got := log.attr("limit"); !slices.Contains(got, "[name=Limits.CostHard cost=10000]") {
			t.Errorf("with the limits %q", got)
		}
	})
}

func TestWhatIsQueuedAtTheHardLimitIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"costly": func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			return costs(20000)(ctx, req)
		}})
		opts.Limits.Concurrency, opts.Limits.HideCost = 1, true
		s, w := newServed(t, opts)
		w.say(ask("costly", 1), ask("costly", 2), `[`+ask("costly", 3)+`,{"jsonrpc":"2.0","method":"costly"}]`)
		time.Sleep(time.Second)
		w.expect(answered("null", 1), excessive+"2}", "["+excessive+"3}]")
		matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
		if stats := s.Stats(); stats.NotificationsDropped != 1 || stats.RequestsReceived != 1 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

// A request that is taken in has no worker yet when the next message, which is bad,
// exhausts the session's budget.
func TestRequestBeforeAMistakeThatCostsTooMuchIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Limits.HideCost = true
		s, w := newServed(t, opts)
		s.BumpCost(9850)
		s.BumpCost(95)
		w.say(ask("reply", 1) + "\n" + `{"jsonrpc":"2.0","id":2}`) // in one piece
		lines := w.heard()
		if len(lines) != 2 || !slices.Contains(lines, excessive+"1}") {
			t.Errorf("heard %q", lines)
		}
		matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
	})
}

// The hook is the owner's code, and may take its time.
func TestPeerThatLeavesWhileTheHookRunsLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"costly": func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			return costs(20000)(ctx, req)
		}})
		opts.Limits.Concurrency = 1
		opts.OnExcessiveCost = func(*rpcx.Session) { time.Sleep(time.Minute) }
		s, w := newServed(t, opts)
		w.say(ask("costly", 1), ask("costly", 2), ask("costly", 3))
		time.Sleep(2 * time.Second)
		w.Close()
		time.Sleep(time.Minute)
		if err := ended(t, s); err != io.EOF {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestNotificationsThatAreTooCostlyDoNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"costly": func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(time.Second) // the peer has gone by then
			return costs(20000)(ctx, req)
		}})
		opts.Limits.Concurrency = 1
		s, w := newServed(t, opts)
		note := `{"jsonrpc":"2.0","method":"costly"}` + "\n"
		w.Write([]byte(strings.Repeat(note, 30)))
		w.Close()
		synctest.Wait()
		time.Sleep(time.Minute)
		ended(t, s)
	})
}

func TestOnlyTheFirstEndForCostIsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: rpcx.Options{Logger: slog.New(log), Handler: methods{"costly": costs(20000)}}}
		m, _ := newServer(t, srv)
		for range 3 {
			w := m.connect(t)
			w.say(ask("costly", 1))
			w.expect(answered("null", 1)) // or the second might be let in before the first has cost anything
			w.say(ask("costly", 2))
			if !w.hungUp() {
				t.Error("the session goes on")
			}
		}
		got := log.take()
		slices.Sort(got)
		want := []string{"INFO session ended because of its cost", "INFO session ended because of its cost", "WARN session ended because of its cost"}
		got = slices.DeleteFunc(got, func(line string) bool { return !strings.Contains(line, "ended") })
		if !slices.Equal(got, want) {
			t.Errorf("logged was %q", got)
		}
	})
}

func TestCostErrorTellsThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, handling(methods{"reply": reply}))
		s.BumpCost(12000)
		w.say(ask("reply", 1))
		lines := w.heard()
		var got struct {
			Error struct{ Data map[string]float64 }
		}
		if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &got) != nil {
			t.Fatalf("heard %q", lines)
		}
		// It falls by 10000/3600 a second, to 2,000.
		if d := got.Error.Data; len(d) != 3 || int(d["cost"]) != 12000 || d["limit"] != 10000 || d["retry_after"] != 3600 {
			t.Errorf("the data are %v", d)
		}
	})
}

func TestHideCostKeepsTheErrorFromThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Limits.HideCost = true
		s, w := newServed(t, opts)
		s.BumpCost(12000)
		w.say(ask("reply", 1))
		w.expect(excessive + "1}")
	})
}

func TestWhoIsHeldToTheirCost(t *testing.T) {
	for _, c := range []struct {
		name   string
		role   rpcx.Role
		limits rpcx.Limits
		held   bool
	}{
		{"a server by default", rpcx.RoleServer, rpcx.Limits{}, true},
		{"not a client", rpcx.RoleClient, rpcx.Limits{}, false},
		{"nor one without a role that dialled", rpcx.RoleDefault, rpcx.Limits{}, false},
		{"a client that sets CostHard", rpcx.RoleClient, rpcx.Limits{CostHard: 10000}, true},
		{"no server with CostOff", rpcx.RoleServer, rpcx.Limits{CostOff: true, CostHard: 10000}, false},
		{"none with a negative CostHard", rpcx.RoleServer, rpcx.Limits{CostHard: -1}, false},
		{"none that is exempt", rpcx.RoleServer, rpcx.Limits{Exempt: func(*rpcx.Session) bool { return true }}, false},
		{"one that is not exempt", rpcx.RoleServer, rpcx.Limits{Exempt: func(*rpcx.Session) bool { return false }}, true},
		{"one with a low CostHard alone", rpcx.RoleServer, rpcx.Limits{CostHard: 1000}, true},
		{"none with CostSoft above CostHard", rpcx.RoleServer, rpcx.Limits{CostSoft: 3000, CostHard: 2000}, false},
		{"one without a soft limit", rpcx.RoleServer, rpcx.Limits{CostSoft: -1}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.limits.HideCost = true
				s, w := newWire(t, &rpcx.Options{Role: c.role, Limits: c.limits, Handler: methods{"reply": reply}})
				s.BumpCost(20000)
				w.say(ask("reply", 1))
				if c.held {
					w.expect(excessive + "1}")
					matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
				} else {
					w.expect(answered("null", 1))
					live(t, s)
				}
			})
		})
	}
}

// A hard limit below the soft one switches both off. The log says so, once.
func TestLogSaysThatCostLimitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		opts := rpcx.Options{Role: rpcx.RoleServer, Logger: log.options().Logger, Limits: rpcx.Limits{CostSoft: 20000}}
		const want = `msg="cost limits nothing: its hard limit is not above its soft one (Limits.CostHard, Limits.CostSoft); set CostOff if that is meant"`
		newWire(t, &opts)
		synctest.Wait()
		if strings.Count(log.String(), want) != 1 || !strings.Contains(log.String(), "limit.name=Limits.CostHard limit.cost=10000") {
			t.Errorf("the log of a session says\n%s", log.String())
		}
		srv := &rpcx.Server{Options: opts}
		for range 2 {
			near, far := net.Pipe()
			srv.ServeConn(near)
			far.Close()
		}
		synctest.Wait()
		if strings.Count(log.String(), want) != 2 {
			t.Errorf("the log of a session and a server says\n%s", log.String())
		}
		if err := (&rpcx.Server{MaxGroup: 2}).ListenAndServe(t.Context(), "tcp://127.0.0.1:0"); err == nil ||
			!strings.Contains(err.Error(), "(Server.MaxGroup, Limits.Group)") {
			t.Errorf("MaxGroup without Group: %v", err)
		}
	})
}

func TestWithoutASoftLimitNothingIsDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Limits.CostSoft = -1
		s, w := newServed(t, opts)
		s.BumpCost(9999)
		w.say(ask("reply", 1))
		w.expect(answered("null", 1))
		if n := s.Stats().Concurrency; n != 20 {
			t.Errorf("the concurrency is %d", n)
		}
	})
}

func TestExtraCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		extra := 0.0
		opts := handling(methods{"reply": reply})
		opts.Limits.HideCost = true
		opts.ExtraCost = func(s *rpcx.Session) float64 {
			s.Stats() // it may call the session
			return extra
		}
		s, w := newServed(t, opts)
		for _, c := range []struct {
			cost, extra float64
			want        int
		}{{0, 6000, 10}, {0, 0, 20}, {5000, 1000, 10}, {5000, -3000, 20}} {
			extra = c.extra
			s.BumpCost(c.cost - s.Cost())
			s.UpdateCost()
			synctest.Wait() // BumpCost may have had it asked, too
			if got := s.Stats(); got.Concurrency != c.want || got.Cost != c.cost {
				t.Errorf("with a cost of %v and %v extra, the stats are %+v", c.cost, c.extra, got)
			}
		}
		extra = 6000
		s.BumpCost(101 - s.Cost()) // by more than 100: it is asked without UpdateCost
		synctest.Wait()
		if got := s.Stats().Concurrency; got != 10 {
			t.Errorf("the concurrency is %d", got)
		}
		extra = 20000
		s.UpdateCost()
		w.say(ask("reply", 1))
		w.expect(excessive + "1}")
	})
}

func TestHandlerMayEndTheSessionForItsCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		hooks := 0
		opts := handling(methods{"stop": func(context.Context, *rpcx.Request) (any, error) {
			return nil, fmt.Errorf("that was it: %w", rpcx.ErrExcessiveCost)
		}})
		opts.Logger = slog.New(log)
		opts.OnExcessiveCost = func(*rpcx.Session) { hooks++ }
		s, w := newWire(t, opts) // where cost is not counted, too
		w.say(ask("stop", 1))
		w.expect(excessive + "1}")
		err := ended(t, s)
		matches(t, err, rpcx.ErrExcessiveResourceUsage)
		if strings.Contains(err.Error(), "CostHard") || hooks != 1 {
			t.Errorf("it ended with %v, the hook was called %d times", err, hooks)
		}
		if got := log.take(); !slices.Equal(got, []string{"INFO session ended because of its cost"}) {
			t.Errorf("logged was %q", got)
		}
	})
}

func TestFloodOfRubbishEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, &rpcx.Options{})
		said := 0
		for range 100 {
			if _, err := w.Write([]byte("rubbish\n")); err != nil {
				break
			}
			synctest.Wait()
			said++
		}
		// Each costs 1,100.
		if said != 10 {
			t.Errorf("%d messages were read", said)
		}
		matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
	})
}

// Messages that arrive together are answered until the session is over its cost, and no
// more while its end is being made ready.
func TestRubbishThatArrivesAtOnceIsNotAnsweredBeyondTheCost(t *testing.T) {
	for name, message := range map[string]string{
		"messages": "0",
		"batches":  membersOf(16, "0"),
		"both":     "0\n" + membersOf(16, "0"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newServed(t, &rpcx.Options{})
				go func() { _, _ = w.Write([]byte(strings.Repeat(message+"\n", 2000))) }() // fails at the end of the session
				matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
				// Each costs 100, and the last is the one that meets with the limit.
				if n := len(w.heard()); n < 100 || n > 102 {
					t.Errorf("%d messages were answered", n)
				}
			})
		})
	}
}

func TestBytesCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Limits.CostPerByte = 1
		s, w := newServed(t, opts)
		line := ask("reply", 1)
		w.say(line)
		w.expect(answered("null", 1))
		// The newline is counted only where it is received, as in aiorpcX.
		if want := float64(len(line) + 1 + len(answered("null", 1))); s.Cost() != want {
			t.Errorf("the cost is %v, want %v", s.Cost(), want)
		}
		for range 200 {
			w.Write([]byte(line + "\n")) // until nobody reads
			time.Sleep(time.Second)
		}
		matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
	})
}

// What is dropped is charged for as well: with the error, and from time to time while
// it does not end.
func TestDroppedBytesCost(t *testing.T) {
	for name, framer := range map[string]rpcx.Framer{
		"lines":   rpcx.NewlineFramer{MaxSize: 1000},
		"lengths": rpcx.LengthFramer{MaxSize: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := &rpcx.Options{Framer: framer}
				opts.Limits.CostPerByte = 0.001
				opts.Limits.CostError = 1
				s, w := newServed(t, opts)
				w.Write([]byte("\x7f\xff\xff\xff" + strings.Repeat("x", 3000))) // the length, for one of them
				synctest.Wait()
				if got := s.Stats(); got.Errors != 1 || got.Cost < 1.5 || got.Cost > 1+3.004 {
					t.Errorf("stats are %+v", got)
				}
				sent := 0
				for chunk := make([]byte, 100_000); sent < 100_000_000; sent += len(chunk) {
					if _, err := w.Write(chunk); err != nil {
						break
					}
					synctest.Wait()
				}
				// CostHard is reached after 10 MB; they are counted by the MiB.
				if sent < 10_000_000 || sent > 12_000_000 {
					t.Errorf("it ended after %d bytes", sent)
				}
				matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
			})
		})
	}
}

func TestExtraCostThatIsOvertakenIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		opts := handling(methods{"reply": reply})
		opts.ExtraCost = func(*rpcx.Session) float64 {
			if calls.Add(1) == 1 {
				time.Sleep(time.Second) // and returns what was true before
				return 0
			}
			return 6000
		}
		s, _ := newServed(t, opts)
		s.BumpCost(101)
		synctest.Wait()
		s.UpdateCost()
		time.Sleep(2 * time.Second)
		if got := s.Stats().Concurrency; got != 10 {
			t.Errorf("the concurrency is %d", got)
		}
	})
}

// An application that says no has not been misused: only what the peer did wrong costs.
func TestErrorsOfHandlersAreFree(t *testing.T) {
	for _, c := range []struct {
		name, method string
		limits       rpcx.Limits
		want         float64 // for each request
	}{
		{"an application's error", "missing", rpcx.Limits{}, 0},
		{"one with a cost of its own", "costly", rpcx.Limits{}, 7},
		{"an error without a code", "broken", rpcx.Limits{}, 0},
		{"an unknown method", "nothing", rpcx.Limits{}, 100},
		{"bad params", "strict", rpcx.Limits{}, 100},
		{"as in the original", "missing", rpcx.Limits{CostHandlerError: 100}, 100},
		{"as in the original, with its own", "costly", rpcx.Limits{CostHandlerError: 100}, 107},
		{"a reply that is too large", "large", rpcx.Limits{Response: 1000}, 0},
		{"a large reply, as in the original", "large", rpcx.Limits{Response: 1000, CostHandlerError: 100}, 100},
		{"without the original's", "missing", rpcx.Limits{CostHandlerError: -1}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("missing", rpcx.Func(func() error { return rpcx.Errorf(4, "no such key") }))
				router.Handle("costly", rpcx.Func(func() error { return &rpcx.Error{Code: 5, Message: "no", Cost: 7} }))
				router.Handle("broken", rpcx.Func(func() error { return errors.New("disk") }))
				router.Handle("strict", rpcx.Func(func(int) {}))
				router.Handle("large", rpcx.Func(func() string { return strings.Repeat("x", 1000) }))
				opts := &rpcx.Options{Handler: router, Limits: c.limits}
				opts.Limits.CostPerByte, opts.Limits.CostDecay = -1, -1
				s, w := newServed(t, opts)
				for id := range 10 {
					w.say(ask(c.method, id))
				}
				if n := len(w.heard()); n != 10 || s.Cost() != 10*c.want {
					t.Errorf("%d answers cost %v, want %v", n, s.Cost(), 10*c.want)
				}
			})
		})
	}
}

// A peer that cancels in a dialect of its own is told of in the log, and not cut off.
func TestCancellationThatWasNotAgreedOnCostsLittle(t *testing.T) {
	for method, own := range map[string]*rpcx.Cancellation{
		"$/cancelRequest":         nil,
		"notifications/cancelled": rpcx.LSPCancellation, // this side has another one
		"rpc.cancel":              nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			log := &records{}
			opts := &rpcx.Options{Handler: rpcx.NewRouter(), Logger: slog.New(log), Cancellation: own}
			opts.Limits.CostPerByte, opts.Limits.CostDecay = -1, -1
			s, w := newServed(t, opts)
			for range 200 {
				w.say(`{"jsonrpc":"2.0","method":"` + method + `","params":{"id":1}}`)
			}
			w.expectNothing()
			if s.Cost() != 200 || s.Err() != nil {
				t.Errorf("the cost is %v, the session ended with %v", s.Cost(), s.Err())
			}
			told := 0
			for _, text := range log.take() {
				if strings.Contains(text, "Options.Cancellation") {
					told++
				}
			}
			if told != 1 {
				t.Errorf("the log tells of it %d times", told)
			}
		})
	}
}

// newDelayed returns a session that delays each request by two seconds because of
// its cost, and its wire.
func newDelayed(t *testing.T, opts *rpcx.Options) (*rpcx.Session, *wire) {
	t.Helper()
	opts.Limits.CostDelay, opts.Limits.CostDecay = 4*time.Second, -1
	s, w := newServed(t, opts)
	s.BumpCost(6000) // halfway from CostSoft to CostHard
	s.UpdateCost()
	return s, w
}

func TestWhatIsDelayedWhenASessionIsEndedForItsCostIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a handler was called")
			return nil, nil
		}})
		s, w := newDelayed(t, opts)
		w.say(ask("reply", 1), "["+ask("reply", 2)+`,{"jsonrpc":"2.0","method":"reply"}]`, `{"jsonrpc":"2.0","method":"reply"}`)
		time.Sleep(time.Second)
		w.expectNothing()
		s.BumpCost(20000)
		w.say(ask("reply", 4))
		w.expect(excessive+"4}", excessive+"1}", "["+excessive+"2}]")
		matches(t, ended(t, s), rpcx.ErrExcessiveResourceUsage)
		if stats := s.Stats(); stats.NotificationsDropped != 2 || stats.Errors != 3 || stats.RequestsReceived != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestDelayedNotificationsSentBeforeAnEOFAreHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled events
		opts := handling(methods{"note": func(ctx context.Context, req *rpcx.Request) (any, error) {
			handled.add("%s, %v", req.Params.Positional, context.Cause(ctx))
			return nil, nil
		}})
		opts.Limits.Concurrency = 1
		opts.Cancellation = rpcx.LSPCancellation // so that reading does not pause so early
		s, w := newDelayed(t, opts)
		const note = `{"jsonrpc":"2.0","method":"note","params":`
		w.say(note+"[1]}", ask("reply", 1), note+"[2]}")
		time.Sleep(time.Second)
		takes(t, 3*time.Second, func() { w.Close(); <-s.Done() })
		if got := handled.take(); len(got) != 2 || got[0] != "[1], EOF" || got[1] != "[2], EOF" {
			t.Errorf("handled were %q", got)
		}
		if stats := s.Stats(); stats.RequestsReceived != 2 {
			t.Errorf("stats are %+v", stats)
		}
		if s.Err() != io.EOF {
			t.Errorf("it ended with %v", s.Err())
		}
	})
}

func TestDelayedNotificationsAreDroppedByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"note": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a handler was called")
			return nil, nil
		}})
		log := &records{}
		opts.Logger = slog.New(log)
		s, w := newDelayed(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"note"}`)
		time.Sleep(time.Second)
		takes(t, 0, func() { s.Close(); <-s.Done() })
		if n := s.Stats().NotificationsDropped; n != 1 {
			t.Errorf("%d were dropped", n)
		}
		if diff := cmp.Diff([]string{"INFO concurrency changed", "INFO notifications dropped: the session was ending"}, log.take()); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
	})
}

// Its context and the session's timer end such a request at the same moment, and
// either may be the first.
func TestShutdownWaitsForDelayedRequestsWhoseTimeIsOver(t *testing.T) {
	for range 100 {
		synctest.Test(t, func(t *testing.T) {
			opts := handling(methods{"reply": reply})
			opts.Limits.ProcessingTimeout = time.Second
			s, w := newDelayed(t, opts)
			w.say(ask("reply", 1))
			synctest.Wait()
			takes(t, time.Second, func() {
				if err := s.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown returns %v", err)
				}
			})
			w.expect(timedOutNew + "1}")
		})
	}
}

// A delayed notification whose time is over is logged then, and not when the session ends.
func TestDelayedNotificationsAreDroppedWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"note": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a handler was called")
			return nil, nil
		}})
		opts.Limits.ProcessingTimeout = time.Second
		log := &records{}
		opts.Logger = slog.New(log)
		s, w := newDelayed(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"note"}`)
		time.Sleep(2 * time.Second)
		takes(t, 0, func() { s.Close(); <-s.Done() })
		if stats := s.Stats(); stats.NotificationsDropped != 1 || stats.Errors != 1 {
			t.Errorf("stats are %+v", stats)
		}
		if diff := cmp.Diff([]string{"INFO concurrency changed", "WARN notification timed out before its handler was called"}, log.take()); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
	})
}

// A long delay must not keep a session whose peer has gone.
func TestDelayedNotificationsSentBeforeAnEOFAreDroppedWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"note": func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a handler was called")
			return nil, nil
		}})
		opts.Limits.ProcessingTimeout = 1500 * time.Millisecond
		s, w := newDelayed(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"note"}`)
		time.Sleep(time.Second)
		takes(t, time.Second/2, func() { w.Close(); <-s.Done() })
		if stats := s.Stats(); stats.NotificationsDropped != 1 || stats.Errors != 1 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestDelayedRequestsThatAreCancelledHaveNoHandlerAndNoResult(t *testing.T) {
	for name, c := range map[string]struct {
		how  *rpcx.Cancellation
		want []string
	}{
		"and are answered": {rpcx.LSPCancellation, []string{
			`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":1}`,
			`[{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":2}]`,
		}},
		"and are not answered": {rpcx.MCPCancellation, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{})
				opts.Cancellation = c.how
				opts.Trace = &rpcx.Trace{
					RequestReceived: func(*rpcx.Request) { t.Error("a handler was called") },
					ReplySent:       func(*rpcx.Request, error, time.Duration) { t.Error("a handler returned") },
				}
				s, w := newDelayed(t, opts)
				for i, request := range []string{ask("reply", 1), "[" + ask("reply", 2) + "]"} {
					w.say(request, fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":{%q:%d}}`, c.how.Method, c.how.Param, i+1))
				}
				w.expect(c.want...)
				if stats := s.Stats(); stats.Running != 0 || stats.LateResults != 0 || stats.Errors != 0 {
					t.Errorf("stats are %+v", stats)
				}
			})
		})
	}
}
