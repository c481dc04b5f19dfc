package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// sayNote is a notification with a number.
func sayNote(method string, n int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":[%d]}`, method, n)
}

// seconds is a handler that takes a second, and notes when it begins and ends.
func (e *events) seconds(_ context.Context, req *rpcx.Request) (any, error) {
	what := "note"
	if !req.IsNotification() {
		what = req.ID.String()
	}
	e.add("%s begins", what)
	time.Sleep(time.Second)
	e.add("%s ends", what)
	return nil, nil
}

func TestOrder(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"m"}`
	for _, c := range []struct {
		name  string
		order rpcx.Order
		lines []string
		want  []string // what happens within each second
	}{
		{
			"concurrent handlers run at once", rpcx.Concurrent, []string{ask("m", 1), note, ask("m", 2)},
			[]string{"[1 begins 2 begins note begins]", "[1 ends 2 ends note ends]"},
		},
		{
			"what follows a notification waits for it, and what is before does not matter", rpcx.NotificationsFirst,
			[]string{ask("m", 1), note, ask("m", 2), ask("m", 3)},
			[]string{"[1 begins note begins]", "[1 ends 2 begins 3 begins note ends]", "[2 ends 3 ends]"},
		},
		{
			"notifications are handled one after the other", rpcx.NotificationsFirst, []string{note, note, ask("m", 1)},
			[]string{"[note begins]", "[note begins note ends]", "[1 begins note ends]", "[1 ends]"},
		},
		{
			"in a batch too", rpcx.NotificationsFirst, []string{"[" + ask("m", 1) + "," + note + "," + ask("m", 2) + "]", ask("m", 3)},
			[]string{"[1 begins note begins]", "[1 ends 2 begins 3 begins note ends]", "[2 ends 3 ends]"},
		},
		{
			"one at a time", rpcx.Sequential, []string{ask("m", 1), note, "[" + ask("m", 2) + "," + ask("m", 3) + "]"},
			[]string{"[1 begins]", "[1 ends note begins]", "[2 begins note ends]", "[2 ends 3 begins]", "[3 ends]"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e events
				_, w := newWire(t, &rpcx.Options{Order: c.order, Handler: rpcx.HandlerFunc(e.seconds)})
				w.say(c.lines...)
				for i, want := range c.want {
					synctest.Wait()
					got := e.take()
					slices.Sort(got)
					if fmt.Sprint(got) != want {
						t.Errorf("after %d s: %v, want %v", i, got, want)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestRepliesToOwnCallsAreNotHeldUpByTheOrder(t *testing.T) {
	for _, order := range []rpcx.Order{rpcx.NotificationsFirst, rpcx.Sequential} {
		synctest.Test(t, func(t *testing.T) {
			got := make(chan int, 1)
			a, _ := newPipe(t, handling(methods{"reply": reply}), &rpcx.Options{Order: order, Handler: methods{
				"note": func(ctx context.Context, req *rpcx.Request) (any, error) {
					n, err := rpcx.Call[int](ctx, req.Session(), "reply", rpcx.Args{7})
					got <- n
					return nil, err
				},
			}})
			takes(t, 0, func() {
				a.Notify(t.Context(), "note", nil)
				if n := <-got; n != 7 {
					t.Errorf("the handler got %d", n)
				}
			})
		})
	}
}

// The handler of a notification may end in other ways than by returning.
func TestNotificationThatFailsLetsTheNextOnesThrough(t *testing.T) {
	for name, handler := range map[string]rpcx.HandlerFunc{
		"a panic":            func(context.Context, *rpcx.Request) (any, error) { panic("oh") },
		"runtime.Goexit":     func(context.Context, *rpcx.Request) (any, error) { runtime.Goexit(); return nil, nil },
		"an error":           func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.InternalError() },
		"a context that end": hang,
	} {
		for _, order := range []rpcx.Order{rpcx.NotificationsFirst, rpcx.Sequential} {
			t.Run(fmt.Sprint(name, order), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opts := handling(methods{"fail": handler, "reply": reply})
					opts.Order = order
					opts.Limits.ProcessingTimeout = time.Minute
					s, w := newWire(t, opts)
					w.say(sayNote("fail", 1))
					time.Sleep(time.Second)
					w.say(sayNote("fail", 2))
					time.Sleep(time.Second)
					w.say(ask("reply", 3))
					time.Sleep(time.Minute)
					w.say(ask("reply", 4))
					synctest.Wait()
					time.Sleep(time.Minute)
					lines := w.heard()
					if len(lines) != 2 || lines[1] != answered("null", 4) {
						t.Errorf("heard %q", lines)
					}
					if stats := s.Stats(); stats.Running != 0 || stats.Queued != 0 {
						t.Errorf("stats are %+v", stats)
					}
				})
			})
		}
	}
}

// A handler that does not heed its context keeps its place in the order, and
// what waits behind it is answered at its own time.
func TestNotificationThatTakesTooLongHoldsUpItsFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(methods{"stuck": open.ServeRPC, "reply": reply})
		opts.Order = rpcx.NotificationsFirst
		_, w := newWire(t, opts)
		w.say(sayNote("stuck", 1), ask("reply", 2))
		time.Sleep(30 * time.Second)
		w.expect(timedOutNew + `2}`)
		w.say(ask("reply", 3))
		w.expectNothing()
		close(open)
		w.expect(answered("null", 3))
	})
}

// The manual's recipe for what follows a reply: the future is done when the handler of a
// notification behind it begins.
func TestFutureIsDoneWhenWhatFollowsItsReplyIsHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			calls, done := make(chan *rpcx.Future, 1), make(chan bool)
			s, w := newWire(t, handling(methods{"news": func(context.Context, *rpcx.Request) (any, error) {
				var number int
				err := (<-calls).Decode(&number)
				if err != nil || number != 7 {
					t.Errorf("the result is %d, %v", number, err)
				}
				close(done)
				return nil, nil
			}}))
			f := s.Go(t.Context(), "subscribe", nil)
			calls <- f
			w.expect(ask("subscribe", 0))
			w.say(answered("7", 0) + "\n" + sayNote("news", 7))
			<-done
		}
	})
}

const allLate = "WARN no request is handled: the handlers that run are all of requests that have timed out"

// stubborn is a handler that does not heed its context before it is let go.
func stubborn(release chan struct{}) rpcx.HandlerFunc {
	return func(context.Context, *rpcx.Request) (any, error) {
		<-release
		return nil, nil
	}
}

// Handlers that go on after Limits.ProcessingTimeout keep the places of others: the log
// says which methods they are of, once for as long as there are any.
func TestLoggerTellsThatLateHandlersHaveAllPlaces(t *testing.T) {
	for name, c := range map[string]struct {
		order rpcx.Order
		limit string
		say   []string
		want  string
	}{
		"calls":                {0, "[name=Limits.Concurrency handlers=3]", []string{ask("b", 1), ask("a", 2), ask("a", 3)}, "a (2), b (1)"},
		"notifications":        {0, "[name=Limits.Concurrency handlers=3]", []string{`{"jsonrpc":"2.0","method":"b"}`, `{"jsonrpc":"2.0","method":"b"}`, ask("a", 3)}, "b (2), a (1)"},
		"a batch":              {0, "[name=Limits.Concurrency handlers=3]", []string{"[" + ask("b", 1) + "," + ask("a", 2) + "," + ask("a", 3) + "]"}, "a (2), b (1)"},
		"one at a time":        {rpcx.Sequential, "[name=Options.Order handlers=1]", []string{ask("a", 1)}, "a (1)"},
		"a notification first": {rpcx.NotificationsFirst, "[name=Options.Order handlers=1]", []string{`{"jsonrpc":"2.0","method":"a"}`}, "a (1)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, release := &records{}, make(chan struct{})
				opts := handling(methods{"a": stubborn(release), "b": stubborn(release), "fine": reply})
				opts.Logger, opts.Order = slog.New(log), c.order
				opts.Limits = rpcx.Limits{Concurrency: 3, ProcessingTimeout: 10 * time.Second}
				_, w := newWire(t, opts)
				w.say(c.say...)
				time.Sleep(10*time.Second + time.Millisecond)
				got := log.take()
				for _, record := range got {
					if !strings.HasSuffix(record, " timed out, and its handler goes on") {
						t.Errorf("at the timeout, %q was logged", got)
					}
				}
				if got := log.attr("limit"); len(got) == 0 || got[0] != "[name=Limits.ProcessingTimeout duration=10s]" {
					t.Errorf("with the limits %q", got)
				}
				time.Sleep(time.Second)
				if got := log.take(); !slices.Equal(got, []string{allLate}) {
					t.Errorf("%q was logged a second later", got)
				}
				if got := log.attr("methods"); !slices.Equal(got, []string{c.want}) {
					t.Errorf("the methods are %q, want %q", got, c.want)
				}
				if got := log.attr("limit"); !slices.Contains(got, c.limit) {
					t.Errorf("the limits are %q, want %q", got, c.limit)
				}
				release <- struct{}{} // one returns, and another takes its place
				w.say(ask("a", 9))
				time.Sleep(time.Minute)
				if again := slices.Contains(log.take(), allLate); again != (c.order == rpcx.Sequential) { // where there was none between
					t.Errorf("logged again: %v", again)
				}
				close(release)
			})
		})
	}
}

// Handlers that return when their context ends are not late.
func TestLoggerSaysNothingOfHandlersThatHeedTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		opts := handling(methods{"hang": hang})
		opts.Logger = slog.New(log)
		opts.Limits = rpcx.Limits{Concurrency: 2, ProcessingTimeout: 10 * time.Second}
		_, w := newWire(t, opts)
		w.say(ask("hang", 1), ask("hang", 2))
		time.Sleep(time.Minute)
		got := log.take()
		if slices.Contains(got, allLate) || !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, "WARN request timed out") }) {
			t.Errorf("%q was logged", got)
		}
	})
}

// However many methods there are, the record is small.
func TestLoggerNamesFewLateMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, release := &records{}, make(chan struct{})
		opts := &rpcx.Options{Handler: stubborn(release), Logger: slog.New(log)}
		opts.Limits = rpcx.Limits{Concurrency: 50, ProcessingTimeout: 10 * time.Second}
		_, w := newWire(t, opts)
		for i := range 50 {
			w.say(ask(fmt.Sprintf("%02d%s", i, strings.Repeat("x", 1000)), i))
		}
		time.Sleep(12 * time.Second)
		got := log.attr("methods")
		if len(got) != 1 || len(got[0]) > 8*100 || !strings.HasSuffix(got[0], " and 42 others") {
			t.Errorf("the methods are %q", got)
		}
		close(release)
	})
}

const cancelledReply = `{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":`

func sayCancel(id string) string {
	return `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":` + id + `}}`
}

// cancelling are options with LSP's cancellation.
func cancelling(h rpcx.Handler) *rpcx.Options {
	return &rpcx.Options{Handler: h, Cancellation: rpcx.LSPCancellation}
}

func TestCancelledHandlerLearnsWhy(t *testing.T) {
	for _, c := range []struct {
		name   string
		result func(ctx context.Context) (any, error)
		want   string
		errors uint64 // that it counts as
	}{
		{"its context's error is answered as the dialect says", func(ctx context.Context) (any, error) { return nil, ctx.Err() }, cancelledReply + "1}", 0},
		{"so is its cause", func(ctx context.Context) (any, error) { return nil, context.Cause(ctx) }, cancelledReply + "1}", 0},
		{"and either of them wrapped", func(ctx context.Context) (any, error) { return nil, fmt.Errorf("query: %w", ctx.Err()) }, cancelledReply + "1}", 0},
		{"a result is sent all the same", func(context.Context) (any, error) { return "done", nil }, answered(`"done"`, 1), 0},
		{"and so is an error of its own", func(context.Context) (any, error) { return nil, rpcx.Errorf(5, "half done") },
			`{"jsonrpc":"2.0","error":{"code":5,"message":"half done"},"id":1}`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, cancelling(rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
					takes(t, time.Second, func() { <-ctx.Done() })
					if ctx.Err() != context.Canceled || context.Cause(ctx) != rpcx.ErrPeerCancelled {
						t.Errorf("it ended with %v, cause %v", ctx.Err(), context.Cause(ctx))
					}
					return c.result(ctx)
				})))
				w.say(ask("m", 1))
				time.Sleep(time.Second)
				w.say(sayCancel("1"))
				w.expect(c.want)
				w.say(sayCancel("1")) // it is answered
				w.expectNothing()
				live(t, s)
				if n := s.Stats().Errors; n != c.errors {
					t.Errorf("it counts as %d errors", n)
				}
			})
		})
	}
}

func TestCancelOfWhatWaitsIsAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := cancelling(open)
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		w.say(ask("m", 1), ask("m", 2), `{"jsonrpc":"2.0","method":"m","id":"three"}`, ask("m", 4))
		w.say(sayCancel("2"), sayCancel(`"three"`), sayCancel("5"), sayCancel("4.0"), sayCancel("null"),
			`{"jsonrpc":"2.0","method":"$/cancelRequest"}`, `{"jsonrpc":"2.0","method":"$/cancelRequest","params":[2]}`)
		w.expect(cancelledReply+"2}", cancelledReply+`"three"}`)
		close(open)
		w.expect(answered(`"through"`, 1), answered(`"through"`, 4))
		if stats := s.Stats(); stats.Errors != 0 || stats.RequestsReceived != 2 || stats.Queued != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestCancelOfMembersOfABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := cancelling(rpcx.HandlerFunc(hang))
		opts.Limits.Concurrency = 2
		_, w := newWire(t, opts)
		w.say("[" + strings.Join([]string{ask("m", 1), ask("m", 2), ask("m", 3), ask("m", 4)}, ",") + "]")
		w.say(sayCancel("3"), sayCancel("1"), sayCancel("2"))
		w.expectNothing()
		w.say(sayCancel("4"))
		w.expect("[" + cancelledReply + "1}, " + cancelledReply + "2}, " + cancelledReply + "3}, " + cancelledReply + "4}]")
	})
}

func TestCancelWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"hang": hang, "reply": reply})
		opts.Cancellation = &rpcx.Cancellation{Method: "cancel"}
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		w.say(ask("hang", 1), ask("reply", 2), "["+ask("reply", 3)+","+ask("reply", 4)+"]", "["+ask("reply", 5)+"]")
		w.say(sayNote("cancel", 2), sayNote("cancel", 3), sayNote("cancel", 5))
		w.expectNothing()
		w.say(sayNote("cancel", 1))
		w.expect("[" + answered("null", 4) + "]")
		if stats := s.Stats(); stats.Running != 0 || stats.Queued != 0 {
			t.Errorf("stats are %+v", stats)
		}
		if err := s.Shutdown(t.Context()); err != nil { // nothing is waited for
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// Only of a request that was cancelled is an error with the dialect's code free.
func TestErrorWithTheCodeOfCancellationCosts(t *testing.T) {
	for name, dialect := range map[string]*rpcx.Cancellation{"LSP's": rpcx.LSPCancellation, "none": {Method: "cancel"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"m": func(context.Context, *rpcx.Request) (any, error) {
					return nil, &rpcx.Error{Code: dialect.Code, Message: "failed", Cost: 400}
				}})
				opts.Cancellation = dialect
				s, w := newServed(t, opts)
				w.say(ask("m", 1))
				if n := len(w.heard()); n != 1 || s.Stats().Errors != 1 || int(s.Cost()) != 400 {
					t.Errorf("%d answers, stats are %+v", n, s.Stats())
				}
			})
		})
	}
}

func TestHandlerThatIgnoresItsCancellationKeepsItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := cancelling(open)
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		w.say(ask("m", 1))
		synctest.Wait()
		w.say(ask("m", 2), sayCancel("1"))
		w.expectNothing()
		if stats := s.Stats(); stats.Running != 1 || stats.Queued != 1 {
			t.Errorf("stats are %+v", stats)
		}
		close(open)
		w.expect(answered(`"through"`, 1), answered(`"through"`, 2))
	})
}

func TestCancelDuringTheDelayForCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := cancelling(rpcx.HandlerFunc(reply))
		opts.Role = rpcx.RoleServer
		s, w := newWire(t, opts)
		s.BumpCost(6000)
		w.say(ask("m", 1))
		time.Sleep(time.Millisecond)
		w.expectNothing()
		w.say(sayCancel("1"))
		w.expect(cancelledReply + "1}")
		if n := s.Stats().Running; n != 0 {
			t.Errorf("%d handlers run", n)
		}
	})
}

// A request that was not cancelled is answered, whatever its handler says.
func TestErrPeerCancelledOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.ErrPeerCancelled }))
		opts.Cancellation = &rpcx.Cancellation{Method: "cancel"}
		_, w := newWire(t, opts)
		w.say(ask("m", 1))
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
	})
}

func TestWithoutADialectNothingIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got events
		_, w := newWire(t, handling(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			got.add("%s", req.Method)
			return nil, nil
		})))
		w.say(sayCancel("1")) // a notification like any other
		w.expectNothing()
		if got := got.take(); fmt.Sprint(got) != "[$/cancelRequest]" {
			t.Errorf("handled were %q", got)
		}
		s, w := newWire(t, nil)
		s.Go(t.Context(), "m", nil).Cancel()
		w.expect(ask("m", 0))
	})
}

func TestPeerIsToldOfCallsThatAreGivenUp(t *testing.T) {
	positional := &rpcx.Cancellation{Method: "cancel"}
	for _, c := range []struct {
		name    string
		dialect *rpcx.Cancellation
		give    func(t *testing.T, s *rpcx.Session)
		want    []string
	}{
		{"when a call's context ends", rpcx.LSPCancellation, func(t *testing.T, s *rpcx.Session) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			takes(t, time.Second, func() { matches(t, s.Call(ctx, "m", nil, nil), context.DeadlineExceeded) })
		}, []string{ask("m", 0), sayCancel("0")}},
		{"at the timeout", rpcx.LSPCancellation, func(t *testing.T, s *rpcx.Session) {
			takes(t, 30*time.Second, func() { matches(t, s.Call(t.Context(), "m", nil, nil), rpcx.ErrTimeout) })
		}, []string{ask("m", 0), sayCancel("0")}},
		{"by Future.Cancel, in MCP's form", rpcx.MCPCancellation, func(t *testing.T, s *rpcx.Session) {
			s.Go(t.Context(), "m", nil).Cancel()
		}, []string{ask("m", 0), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":0}}`}},
		{"by Future.Cancel, in the positional form", positional, func(t *testing.T, s *rpcx.Session) {
			f := s.Go(t.Context(), "m", nil)
			f.Cancel()
			f.Cancel()
		}, []string{ask("m", 0), `{"jsonrpc":"2.0","method":"cancel","params":[0]}`}},
		{"of each call of a batch", positional, func(t *testing.T, s *rpcx.Session) {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			b.Notify("n", nil)
			b.Call("m", nil, nil)
			s.GoBatch(t.Context(), &b).Cancel()
		}, []string{"[" + ask("m", 0) + `, {"jsonrpc":"2.0","method":"n"}, ` + ask("m", 1) + "]",
			`{"jsonrpc":"2.0","method":"cancel","params":[0]}`, `{"jsonrpc":"2.0","method":"cancel","params":[1]}`}},
		{"of one member alone", positional, func(t *testing.T, s *rpcx.Session) {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			second := b.Call("m", nil, nil)
			s.GoBatch(t.Context(), &b)
			second.Cancel()
		}, []string{"[" + ask("m", 0) + ", " + ask("m", 1) + "]", `{"jsonrpc":"2.0","method":"cancel","params":[1]}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Cancellation: c.dialect})
				c.give(t, s)
				w.expect(c.want...)
			})
		})
	}
}

func TestTellingThePeerDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := cancelling(nil)
		opts.Limits = rpcx.Limits{Outbox: 1000, SendTimeout: -1}
		s, w := newDeafWire(t, opts)
		f := s.Go(t.Context(), "m", nil)
		for s.Stats().OutboxBytes+100 <= 1000 {
			s.Notify(t.Context(), "m", note(100))
		}
		s.Notify(t.Context(), "m", note(1000-s.Stats().OutboxBytes))
		takes(t, 0, func() {
			f.Cancel()
			matches(t, f.Wait(t.Context(), nil), rpcx.ErrCancelled)
		})
		live(t, s)
		w.listen()
		for _, line := range w.heard() {
			if strings.Contains(line, "cancelRequest") {
				t.Error("there was no room for it")
			}
		}
	})
}

func TestCancellationFromEndToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 1)
		a, _ := newPipe(t, cancelling(nil), cancelling(rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		})))
		changed := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(changed) })
		matches(t, a.Call(ctx, "m", nil, nil), changed)
		takes(t, 0, func() { matches(t, <-causes, rpcx.ErrPeerCancelled) })
		synctest.Wait()
		if stats := a.Stats(); stats.LateReplies != 1 || stats.UnexpectedReplies != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestRPCCancellationOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Handler: rpcx.HandlerFunc(hang), Cancellation: rpcx.RPCCancellation})
		w.say(ask("m", 7), sayNote("rpc.cancel", 7))
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32097,"message":"request cancelled"},"id":7}`)
		f := s.Go(t.Context(), "m", nil)
		w.expect(ask("m", 0))
		f.Cancel()
		w.expect(`{"jsonrpc":"2.0","method":"rpc.cancel","params":[0]}`)
	})
}

// A peer may cancel several requests at once, as jrpc2 does.
func TestCancellationOfAListOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, &rpcx.Options{Handler: rpcx.HandlerFunc(hang), Cancellation: rpcx.RPCCancellation})
		w.say(ask("m", 3), ask("m", 4), ask("m", 5), `{"jsonrpc":"2.0","method":"rpc.cancel","params":[3,9,4]}`)
		var got []string
		for _, line := range w.heard() {
			got = append(got, line[strings.Index(line, `"id":`):])
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{`"id":3}`, `"id":4}`}) {
			t.Errorf("cancelled are %q", got)
		}
	})
}

// A report that does not fit is logged. That the request has been answered is normal.
func TestBadCancellationIsLogged(t *testing.T) {
	const rpc, lsp = `{"jsonrpc":"2.0","method":"rpc.cancel"`, `{"jsonrpc":"2.0","method":"$/cancelRequest"`
	for _, c := range []struct{ name, message, want string }{
		{"a string for a number", rpc + `,"params":["3"]}`, `id="\"3\"" reason="the id of the request is 3"`},
		{"a number for a string", rpc + `,"params":[4]}`, `id=4 reason="the id of the request is \"4\""`},
		{"no id at all", rpc + `,"params":[null]}`, `id=null reason="an id is a number or a string"`},
		{"an object for the id", rpc + `,"params":[{}]}`, `id={} reason="an id is a number or a string"`},
		{"named params", rpc + `,"params":{"id":3}}`, `params="{\"id\":3}" reason="params have to be like [7]"`},
		{"an empty list", rpc + `,"params":[]}`, `params=[] reason="params have to be like [7]"`},
		{"no params", rpc + `}`, `params="" reason="params have to be like [7]"`},
		{"positional params", lsp + `,"params":[3]}`, `params=[3] reason="params have to be like {\"id\":7}"`},
		{"another name", lsp + `,"params":{"requestId":3}}`, `params="{\"requestId\":3}" reason="params have to be like {\"id\":7}"`},
		{"a request that is over", rpc + `,"params":[5]}`, ""},
		{"an empty string", rpc + `,"params":[""]}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log journal
				opts := &rpcx.Options{Handler: rpcx.HandlerFunc(hang), Cancellation: rpcx.RPCCancellation, Logger: log.options().Logger}
				if strings.HasPrefix(c.message, lsp) {
					opts.Cancellation = rpcx.LSPCancellation
				}
				_, w := newWire(t, opts)
				w.say(ask("m", 3), `{"jsonrpc":"2.0","method":"m","id":"4"}`, c.message)
				w.expectNothing()
				if c.want == "" && log.String() != "" || !strings.Contains(log.String(), c.want) {
					t.Errorf("the log says\n%s\nwant %s", log.String(), c.want)
				}
			})
		})
	}
}

// Two ends with different dialects: the log names the one that fits, once.
func TestLogNamesTheCancellationThatFits(t *testing.T) {
	for name, own := range map[string]*rpcx.Cancellation{"none": nil, "another": rpcx.RPCCancellation} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log journal
				_, w := newWire(t, &rpcx.Options{Cancellation: own, Logger: log.options().Logger})
				w.say(sayCancel("3"), sayCancel("4"))
				w.expectNothing()
				const want = `msg="peer cancels requests; set Options.Cancellation to have that work" peer=pipe method=$/cancelRequest Options.Cancellation=LSPCancellation`
				if strings.Count(log.String(), want) != 1 {
					t.Errorf("the log says\n%s", log.String())
				}
			})
		})
	}
}

// A typed handler reaches the request that it handles, also in a batch, through derived
// contexts, and when its context is a real one.
func TestRequestFromContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var session *rpcx.Session
		seen := func(ctx context.Context) string {
			req := rpcx.RequestFromContext(ctx)
			if req == nil || req.Session() != session {
				return fmt.Sprintf("the request is %v", req)
			}
			return fmt.Sprintf("%s %s %s", req.Method, req.ID, []byte(req.Params.Positional)) // a RawMessage prints itself since Go 1.27
		}
		notified := make(chan string, 2)
		router := rpcx.NewRouter()
		router.Handle("direct", rpcx.Func(func(ctx context.Context, n int) (string, error) { return seen(ctx), nil }))
		router.Handle("reflected", rpcx.Func(func(ctx context.Context, n int8) string { return seen(ctx) }, "n"))
		router.Handle("derived", rpcx.Func(func(ctx context.Context, n int) (string, error) {
			type key struct{}
			ctx, cancel := context.WithCancel(context.WithValue(ctx, key{}, 1)) // which makes it a real one
			defer cancel()
			return seen(ctx), nil
		}))
		router.Handle("note", rpcx.Func(func(ctx context.Context) { notified <- seen(ctx) }))
		s, w := newWire(t, handling(router))
		session = s
		w.say(`{"jsonrpc":"2.0","method":"direct","params":[1],"id":"a"}`)
		w.expect(`{"jsonrpc":"2.0","result":"direct \"a\" [1]","id":"a"}`)
		w.say(`[{"jsonrpc":"2.0","method":"reflected","params":[2],"id":2},{"jsonrpc":"2.0","method":"derived","params":[3],"id":3},{"jsonrpc":"2.0","method":"note"}]`)
		w.expect(`[{"jsonrpc":"2.0","result":"reflected 2 [2]","id":2}, {"jsonrpc":"2.0","result":"derived 3 [3]","id":3}]`)
		if got := <-notified; got != "note  " {
			t.Errorf("a notification is %q", got)
		}
	})
}

func TestRequestFromAnotherContext(t *testing.T) {
	if req := rpcx.RequestFromContext(t.Context()); req != nil {
		t.Errorf("got %v", req)
	}
}

// deaf returns a connection whose peer closes it when the test ends.
func deaf(t *testing.T) net.Conn {
	near, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	return near
}

// Who keeps a handler's context is told what is wrong with it.
func TestCauseAfterTheHandlerHasReturned(t *testing.T) {
	for name, asked := range map[string]bool{"asked for before": true, "asked for later": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kept := make(chan context.Context, 1)
				s, w := newWire(t, handling(methods{"keep": func(ctx context.Context, _ *rpcx.Request) (any, error) {
					if asked {
						ctx.Done()
					}
					kept <- ctx
					return nil, nil
				}}))
				w.say(ask("keep", 1))
				w.expect(answered("null", 1))
				ctx := <-kept
				derived, cancel := context.WithCancel(ctx)
				defer cancel()
				for _, err := range []error{
					context.Cause(ctx), context.Cause(derived), s.Call(ctx, "m", nil, nil), s.Notify(ctx, "m", nil),
					s.Go(derived, "m", nil).Err(),
				} {
					if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the handler has returned") {
						t.Errorf("the error is %v", err)
					}
				}
				if ctx.Err() != context.Canceled {
					t.Errorf("Err returns %v", ctx.Err())
				}
			})
		})
	}
}

// ctxKey is the key of a value that derived contexts carry.
type ctxKey struct{}

func TestHandlerContextEndsWithTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *rpcx.Session, w *wire)
		want error
	}{
		"the peer hangs up": {func(_ *rpcx.Session, w *wire) { w.Close() }, io.EOF},
		"Close":             {func(s *rpcx.Session, _ *wire) { s.Close() }, rpcx.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				causes := make(chan error, 10)
				watch := func(ctx context.Context, _ *rpcx.Request) (any, error) {
					if ctx.Err() != nil || context.Cause(ctx) != nil {
						t.Errorf("it begins with a context that has ended: %v", context.Cause(ctx))
					}
					derived, cancel := context.WithCancel(context.WithValue(ctx, ctxKey{}, "value"))
					defer cancel()
					stop := context.AfterFunc(ctx, func() { causes <- context.Cause(ctx) })
					defer stop()
					<-derived.Done()
					causes <- context.Cause(derived)
					if ctx.Err() == nil {
						t.Error("the derived context ended, and its parent did not")
					}
					return nil, nil
				}
				s, w := newWire(t, handling(methods{"watch": watch}))
				w.say(`{"jsonrpc":"2.0","method":"watch","id":1}`, `[{"jsonrpc":"2.0","method":"watch"}]`)
				synctest.Wait()
				c.end(s, w)
				for range 4 {
					if cause := <-causes; cause != c.want {
						t.Errorf("a context ended with %v, want %v", cause, c.want)
					}
				}
				<-s.Done()
			})
		})
	}
}

// A batch of which some members run and others wait is no exception: the contexts of
// those end at once, and the others are dropped, each counted once.
func TestHandlersOfABatchThatIsBegunEndWithTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		batch   string
		dropped uint64
	}{
		"requests":      {"[" + ask("hang", 1) + "," + ask("hang", 2) + "," + ask("hang", 3) + "]", 0},
		"notifications": {`[{"jsonrpc":"2.0","method":"hang"},{"jsonrpc":"2.0","method":"hang"},{"jsonrpc":"2.0","method":"hang"}]`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"hang": hang})
				opts.Limits.Concurrency = 1
				s, w := newWire(t, opts)
				w.say(c.batch)
				synctest.Wait()
				takes(t, 0, func() {
					s.Close()
					<-s.Done()
				})
				if n := s.Stats().NotificationsDropped; n != c.dropped {
					t.Errorf("%d notifications were dropped, want %d", n, c.dropped)
				}
			})
		})
	}
}

func TestHandlerContextEndsWithTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept context.Context
		_, w := newWire(t, handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			kept = ctx
			return nil, nil
		}}))
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.heard()
		select {
		case <-kept.Done(): // asked for only now
		default:
			t.Error("the context has not ended")
		}
		if kept.Err() != context.Canceled || !errors.Is(context.Cause(kept), context.Canceled) {
			t.Errorf("it ended with %v and the cause %v", kept.Err(), context.Cause(kept))
		}
	})
}

// TestChildrenOfAHandlerContextNeedNoGoroutine: contexts of package context
// attach to a parent of a foreign type with a goroutine each.
func TestChildrenOfAHandlerContextNeedNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			before := runtime.NumGoroutine()
			children := ctx
			for range 100 {
				var cancel context.CancelFunc
				children, cancel = context.WithTimeout(children, time.Minute)
				defer cancel()
				_, cancel = context.WithCancel(ctx)
				defer cancel()
				defer context.AfterFunc(ctx, func() {})()
			}
			if n := runtime.NumGoroutine() - before; n > 0 {
				t.Errorf("300 contexts took %d goroutines", n)
			}
			deadline, ok := ctx.Deadline()
			if child, _ := children.Deadline(); !ok || !child.Equal(deadline) || time.Until(deadline) != 30*time.Second {
				t.Errorf("the deadline is %v, %v", time.Until(deadline), ok)
			}
			return nil, nil
		}}))
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
	})
}

// TestRequestSeq checks the numbers, times and places of requests.
func TestRequestSeq(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var got []string
		opts := handling(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			n, of := req.Batch()
			got = append(got, fmt.Sprintf("%d %s %d/%d %v", req.Seq(), req.Method, n, of, req.Arrived().Sub(start)))
			return nil, nil
		}))
		opts.Cancellation = rpcx.LSPCancellation
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"a","id":1}`, `{"jsonrpc":"2.0","method":"b"}`,
			`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":9}}`, `no JSON`)
		time.Sleep(time.Second)
		w.say(`[{"jsonrpc":"2.0","method":"c","id":2},1,{"jsonrpc":"2.0","method":"d"}]`)
		time.Sleep(time.Second)
		w.say(`{"jsonrpc":"2.0","method":"e"}`)
		synctest.Wait()
		want := []string{"1 a 0/0 0s", "2 b 0/0 0s", "3 c 1/3 1s", "4 d 3/3 1s", "5 e 0/0 2s"}
		slices.Sort(got) // handlers run concurrently
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// TestSeqOfRefusedRequests checks that a refused request takes a number.
func TestSeqOfRefusedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		seqs := make(chan uint64, 10)
		opts := handling(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			seqs <- req.Seq()
			return g.ServeRPC(ctx, req)
		}))
		opts.Limits.Concurrency = 1
		opts.Limits.ProcessingTimeout = time.Second
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"a","id":1}`, `{"jsonrpc":"2.0","method":"b","id":2}`)
		time.Sleep(2 * time.Second) // b has timed out
		w.say(`{"jsonrpc":"2.0","method":"c","id":3}`)
		close(g)
		synctest.Wait()
		if a, c := <-seqs, <-seqs; a != 1 || c != 3 || len(seqs) > 0 {
			t.Errorf("the numbers are %d and %d", a, c)
		}
	})
}

// TestRequestOfATest checks the methods of a Request that no session has made.
func TestRequestOfATest(t *testing.T) {
	var req rpcx.Request
	n, of := req.Batch()
	if req.Seq() != 0 || !req.Arrived().IsZero() || n != 0 || of != 0 || req.Session() != nil {
		t.Errorf("%d, %v, %d of %d, %v", req.Seq(), req.Arrived(), n, of, req.Session())
	}
}

type contextKey struct{}

// TestOptionsContext checks that handlers and middleware get the context of
// Options.Context.
func TestOptionsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []any
		opts := handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			seen = append(seen, ctx.Value(contextKey{}), rpcx.RequestFromContext(ctx) == req)
			return hang(ctx, req)
		}})
		opts.Limits.ProcessingTimeout = time.Second
		opts.Middleware = []func(rpcx.Handler) rpcx.Handler{func(next rpcx.Handler) rpcx.Handler {
			return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
				seen = append(seen, ctx.Value(contextKey{}))
				return next.ServeRPC(ctx, req)
			})
		}}
		opts.Context = func(ctx context.Context, req *rpcx.Request) context.Context {
			deadline, _ := ctx.Deadline()
			seen = append(seen, deadline.Equal(req.Arrived().Add(time.Second)))
			return context.WithValue(ctx, contextKey{}, req.Seq())
		}
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"m"}`)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if want := []any{true, uint64(1), uint64(1), true}; !slices.Equal(seen, want) {
			t.Errorf("seen %v, want %v", seen, want)
		}
	})
}

// TestOptionsContextRunsWithItsHandler checks that Options.Context runs on the handler's
// goroutine, before the handler and after Trace.RequestReceived, also for Gate, and that
// AfterReply can release what it has made.
func TestOptionsContextRunsWithItsHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		var on string
		note := func(text string) {
			e.add("%s", text)
			if on == "" {
				on = goroutine()
			}
			if got := goroutine(); got != on {
				t.Errorf("%s: on goroutine %s, and before on %s", text, got, on)
			}
		}
		handler := func(name string) rpcx.HandlerFunc {
			return func(ctx context.Context, req *rpcx.Request) (any, error) {
				note(name)
				req.Session().Admit()
				return reply(ctx, req)
			}
		}
		opts := gated(handler("gate"))
		opts.Handler = handler("handler")
		opts.Trace = &rpcx.Trace{
			RequestReceived: func(*rpcx.Request) { on = ""; note("received") },
			ReplySent:       func(*rpcx.Request, error, time.Duration) { note("sent") },
		}
		opts.Context = func(ctx context.Context, _ *rpcx.Request) context.Context {
			note("context")
			rpcx.AfterReply(ctx, func(err error) { note(fmt.Sprint("released: ", err)) })
			return ctx
		}
		_, w := newServed(t, opts)
		for i, name := range []string{"gate", "handler"} {
			w.say(ask("m", i))
			w.expect(answered("null", i))
			e.expect(t, "received", "context", name, "sent", "released: <nil>")
		}
	})
}

// TestOptionsContextThatFails checks that a wrong result, and a panic, are a handler's
// panic.
func TestOptionsContextThatFails(t *testing.T) {
	for text, f := range map[string]func(ctx context.Context, req *rpcx.Request) context.Context{
		"rpcx: Options.Context has returned nil: return ctx if there is nothing to add": func(context.Context, *rpcx.Request) context.Context {
			return nil
		},
		"rpcx: Options.Context has returned a context that does not derive from ctx": func(context.Context, *rpcx.Request) context.Context {
			return context.Background()
		},
		"out of order": func(context.Context, *rpcx.Request) context.Context { panic("out of order") },
	} {
		t.Run(text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				opts := handling(methods{"m": func(context.Context, *rpcx.Request) (any, error) {
					t.Error("the handler was called")
					return nil, nil
				}})
				opts.Context = f
				opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
				s, w := newWire(t, opts)
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				w.expect(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
				s.Close()
				ended(t, s)
				if want := fmt.Sprintf(`msg="handler panicked" peer=pipe method=m panic=%s`, strconv.Quote(text)); !strings.Contains(log.String(), want) {
					t.Errorf("the log has no %s:\n%s", want, log.String())
				}
			})
		})
	}
}

// TestRequestHooksAllocs checks the allocations of hooks: none of those that are not set,
// and at most two of those that are.
func TestRequestHooksAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	raw := func(ctx context.Context, req *rpcx.Request) (any, error) { return reply(ctx, req) }
	f := func(error) {}
	with := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		rpcx.AfterReply(ctx, f)
		return raw(ctx, req)
	})
	plain := callAllocs(t, rpcx.Options{Handler: rpcx.HandlerFunc(raw)})
	if got := callAllocs(t, rpcx.Options{Handler: with}); got > plain+2 {
		t.Errorf("with AfterReply %v allocations, without %v", got, plain)
	}
	if got := callAllocs(t, rpcx.Options{Handler: rpcx.HandlerFunc(raw), Context: func(ctx context.Context, _ *rpcx.Request) context.Context {
		return ctx
	}}); got > plain {
		t.Errorf("with Options.Context %v allocations, without %v", got, plain)
	}
}
