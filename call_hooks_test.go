package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

type (
	onCall      = func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error)
	onBatchCall = func(context.Context, *rpcx.Session, *rpcx.Batch) (context.Context, func(error))
)

// hook returns a function that records each call, and the end of each call, under name.
func (e *events) hook(name string) onCall {
	return func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
		e.add("%s %s", name, c.Method)
		method := c.Method
		return nil, func(err error) { e.add("%s %s is over: %v", name, method, err) }, nil
	}
}

// batchHook is hook for batches.
func (e *events) batchHook(name string) onBatchCall {
	return func(_ context.Context, _ *rpcx.Session, b *rpcx.Batch) (context.Context, func(error)) {
		e.add("%s of %d", name, b.Len())
		return nil, func(err error) { e.add("%s is over: %v", name, err) }
	}
}

// hooked returns options with functions of OnCall.
func hooked(hooks ...onCall) *rpcx.Options { return &rpcx.Options{OnCall: hooks} }

// goroutine returns the number of the calling goroutine.
func goroutine() string {
	buf := make([]byte, 64)
	return strings.Fields(string(buf[:runtime.Stack(buf, false)]))[1]
}

// ways are the ways to send a call of method m, or a notification, and to wait for the end.
var ways = map[string]func(ctx context.Context, c rpcx.Caller) error{
	"Call": func(ctx context.Context, c rpcx.Caller) error { return c.Call(ctx, "m", rpcx.Args{1}, nil) },
	"Go":   func(ctx context.Context, c rpcx.Caller) error { return waitFor(c.Go(ctx, "m", rpcx.Args{1})) },
	"SendBatch": func(ctx context.Context, c rpcx.Caller) error {
		var b rpcx.Batch
		b.Call("m", rpcx.Args{1}, nil)
		return c.SendBatch(ctx, &b)
	},
	"GoBatch": func(ctx context.Context, c rpcx.Caller) error {
		var b rpcx.Batch
		b.Call("m", rpcx.Args{1}, nil)
		return waitFor(c.(*rpcx.Session).GoBatch(ctx, &b))
	},
	"a proxy": func(ctx context.Context, c rpcx.Caller) error { return rpcx.Remote(c).Call(ctx, nil, "m", 1) },
	"Notify":  func(ctx context.Context, c rpcx.Caller) error { return c.Notify(ctx, "m", rpcx.Args{1}) },
	"a proxy's Notify": func(ctx context.Context, c rpcx.Caller) error {
		return rpcx.Remote(c).Notify(ctx, "m", 1)
	},
	"TryNotify": func(_ context.Context, c rpcx.Caller) error {
		sent, err := c.(*rpcx.Session).TryNotify("m", rpcx.Args{1})
		if !sent && err == nil {
			err = errors.New("no room")
		}
		return err
	},
}

// openCaller returns a Caller whose peer has the handler h.
type openCaller func(t *testing.T, opts *rpcx.Options, h rpcx.Handler) rpcx.Caller

// hookedCallers are the kinds of Callers with Options.OnCall.
var hookedCallers = map[string]openCaller{
	"Session": func(t *testing.T, opts *rpcx.Options, h rpcx.Handler) rpcx.Caller {
		peer := handling(h)
		peer.Limits.ProcessingTimeout = time.Hour
		client, _ := newPipe(t, opts, peer)
		return client
	},
	"Exchange": func(t *testing.T, opts *rpcx.Options, h rpcx.Handler) rpcx.Caller {
		return newExchange(t, opts, handlingMessages(h))
	},
}

// way is a way to send a call of method m, or a notification, with one kind of Caller.
type way struct {
	name   string
	caller string // a key of hookedCallers
	open   openCaller
	send   func(ctx context.Context, c rpcx.Caller) error
}

func (w way) notifies() bool { return strings.HasSuffix(w.name, "Notify") }
func (w way) batches() bool  { return strings.HasSuffix(w.name, "Batch") }

// eachWay runs test in a bubble for each way of each kind of Caller.
func eachWay(t *testing.T, test func(t *testing.T, w way)) {
	for caller, open := range hookedCallers {
		for name, send := range ways {
			if caller == "Session" || name != "GoBatch" && name != "TryNotify" {
				t.Run(caller+"/"+name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { test(t, way{name, caller, open, send}) })
				})
			}
		}
	}
}

func waitFor(f *rpcx.Future) error { return f.Wait(context.Background(), nil) }

func TestOnCallSeesWhatIsSent(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		type key struct{}
		var seen []rpcx.OutgoingCall
		var caller string
		c := w.open(t, hooked(func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			if w.name != "TryNotify" && ctx.Value(key{}) != "the caller's" {
				t.Error("it is not the caller's context")
			}
			if goroutine() != caller {
				t.Error("it is not the caller's goroutine")
			}
			seen = append(seen, *c)
			return nil, nil, nil
		}), methods{"m": reply})
		caller = goroutine()
		if err := w.send(context.WithValue(t.Context(), key{}, "the caller's"), c); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 1 {
			t.Fatalf("%d calls were seen", len(seen))
		}
		session, _ := c.(*rpcx.Session) // nil for an Exchange
		o := seen[0]
		if o.Session != session || o.Method != "m" || fmt.Sprint(o.Params) != "[1]" || o.Attempt != 1 || o.Meta != nil ||
			o.Notification != w.notifies() || (o.Batch != nil) != w.batches() {
			t.Errorf("it saw %+v", o)
		}
	})
}

// Done functions see the id of the request in the message. Before, and for a notification,
// there is none.
func TestIDOfAnOutgoingCall(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var ids []string
		opts := hooked(func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			if c.ID() != nil {
				t.Errorf("id %s before the encoding", c.ID())
			}
			return nil, func(error) { ids = append(ids, string(c.ID())) }, nil
		})
		opts.FirstID = 7
		var received []string
		c := w.open(t, opts, rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			received = append(received, string(req.ID))
			return 1, nil
		}))
		for range 2 {
			if err := w.send(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // two handlers at once would write received
		}
		want := []string{"7", "8"}
		if w.notifies() {
			want = []string{"", ""}
		}
		if !slices.Equal(ids, want) || !slices.Equal(received, want) {
			t.Errorf("ids %q, received %q", ids, received)
		}
	})
}

// In a batch, each call has its own id. A call that cannot be encoded has none.
func TestIDsInABatch(t *testing.T) {
	for name, open := range hookedCallers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ids := make(map[string]string)
				c := open(t, hooked(func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
					return nil, func(error) { ids[fmt.Sprint(c.Params)] = string(c.ID()) }, nil
				}), methods{"m": reply})
				var b rpcx.Batch
				b.Call("m", rpcx.Args{1}, nil)
				b.Notify("m", rpcx.Args{2})
				b.Call("m", rpcx.Args{3}, nil)
				if err := c.SendBatch(t.Context(), &b); err != nil {
					t.Fatal(err)
				}
				if err := c.Call(t.Context(), "m", rpcx.Args{make(chan int)}, nil); err == nil {
					t.Error("a channel was encoded")
				}
				if len(ids) != 4 || ids["[1]"] != "0" || ids["[2]"] != "" || ids["[3]"] != "1" {
					t.Errorf("%q", ids)
				}
			})
		})
	}
}

func TestOnCallOrder(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var e events
		c := w.open(t, hooked(e.hook("first"), e.hook("second"), e.hook("third"), e.hook("fourth")), methods{"m": reply})
		if err := w.send(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		e.add("it returns")
		e.expect(t, "first m", "second m", "third m", "fourth m",
			"fourth m is over: <nil>", "third m is over: <nil>", "second m is over: <nil>", "first m is over: <nil>", "it returns")
	})
}

func TestDoneRunsOnTheGoroutineThatWaits(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		if strings.HasPrefix(w.name, "Go") {
			return // or on a goroutine of the pool
		}
		var on string
		hook := func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
			return nil, func(error) { on = goroutine() }, nil
		}
		c := w.open(t, hooked(hook), methods{"m": reply})
		if err := w.send(t.Context(), c); err != nil || on != goroutine() {
			t.Errorf("it ran on goroutine %s of %s, the error is %v", on, goroutine(), err)
		}
	})
}

// The context that a function returns goes to the next function and to the call.
func TestOnCallContexts(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		if w.notifies() && w.caller == "Session" {
			return // nothing is waited for
		}
		type key struct{}
		var found any
		var cancel context.CancelFunc
		opts := hooked(
			func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
				return context.WithValue(ctx, key{}, "of the first"), nil, nil
			},
			func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
				return nil, nil, nil
			},
			func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
				found = ctx.Value(key{})
				if c.Batch != nil {
					return ctx, nil, nil
				}
				ctx, cancel = context.WithTimeout(ctx, time.Minute)
				return ctx, nil, nil
			})
		opts.OnBatchCall = []onBatchCall{func(ctx context.Context, _ *rpcx.Session, _ *rpcx.Batch) (context.Context, func(error)) {
			ctx, cancel = context.WithTimeout(ctx, time.Minute)
			return ctx, nil
		}}
		c := w.open(t, opts, methods{"m": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // the call ends before
			return nil, ctx.Err()
		}})
		takes(t, time.Minute, func() { matches(t, w.send(t.Context(), c), context.DeadlineExceeded) }) // not after 30 s
		cancel()
		time.Sleep(2 * time.Second) // until RoundTrip has returned
		if found != "of the first" {
			t.Errorf("the last found %v", found)
		}
	})
}

func TestOnBatchCallContextIsForTheMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		found := 0
		opts := hooked(func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			if n, _ := ctx.Value(key{}).(int); n == 1 {
				found++
			}
			return context.WithValue(ctx, key{}, 2), nil, nil // not for the next member
		})
		opts.OnBatchCall = []onBatchCall{func(ctx context.Context, _ *rpcx.Session, _ *rpcx.Batch) (context.Context, func(error)) {
			return context.WithValue(ctx, key{}, 1), nil
		}}
		client, _ := newPipe(t, opts, handling(methods{"m": reply}))
		var b rpcx.Batch
		b.Call("m", nil, nil)
		b.Notify("m", nil)
		b.Call("m", nil, nil)
		if err := client.SendBatch(t.Context(), &b); err != nil || found != 3 {
			t.Errorf("%d of 3 members had the context, the error is %v", found, err)
		}
	})
}

func TestOnCallMayChangeACall(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var e events
		opts := hooked(func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			c.Method, c.Params = "other."+c.Method, map[string]any{"n": 2}
			c.Session, c.Notification, c.Batch, c.Attempt = nil, !c.Notification, nil, 7 // without effect
			return nil, nil, nil
		}, e.hook("then"))
		opts.Trace = &rpcx.Trace{RequestSent: func(_ *rpcx.Session, method string, _ rpcx.ID) { e.add("%s was sent", method) }}
		c := w.open(t, opts, rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			var params json.RawMessage
			err := req.Bind(&params)
			if req.Method != "other.m" || string(params) != `{"n":2}` || req.IsNotification() != w.notifies() || err != nil {
				t.Errorf("the peer received %s with %s, %v", req.Method, params, err)
			}
			time.Sleep(time.Second) // so that the notification is over before
			e.add("%s is handled", req.Method)
			return nil, errors.New("no")
		}))
		err := w.send(t.Context(), c)
		if w.notifies() {
			time.Sleep(time.Second)
		}
		want := []string{"then other.m", "other.m was sent", "other.m is handled", fmt.Sprintf("then other.m is over: %v", asMember(err))}
		switch {
		case w.caller == "Exchange":
			want = slices.Delete(want, 1, 2) // no Trace
		case w.notifies():
			want[2], want[3] = want[3], want[2]
		}
		e.expect(t, want...)
	})
}

// asMember returns the error of the only member of a batch, or err.
func asMember(err error) error {
	if b, ok := errors.AsType[*rpcx.BatchError](err); ok {
		return b.Errs[0]
	}
	return err
}

func TestOnCallFails(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var e events
		refusal := errors.New("refused")
		opts := hooked(e.hook("first"), e.hook("second"), func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
			return nil, func(error) { t.Error("the done function of the failed function was called") }, refusal
		}, func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
			t.Error("the next function was called")
			return nil, nil, nil
		})
		opts.OnBatchCall = []onBatchCall{e.batchHook("batch")}
		opts.Limits.Outgoing = 1
		c := w.open(t, opts, rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			t.Error("a message was sent")
			return nil, nil
		}))
		err := w.send(t.Context(), c)
		matches(t, err, refusal)
		if w.batches() {
			if want := `member 1 of the batch, "m": refused`; err.Error() != want {
				t.Errorf("the error is %v", err)
			}
			e.expect(t, "batch of 1", "first m", "second m", "second m is over: refused", "first m is over: refused",
				`batch is over: member 1 of the batch, "m": refused`)
			return
		}
		e.expect(t, "first m", "second m", "second m is over: refused", "first m is over: refused")
	})
}

func TestOnCallFailsForAMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		opts := hooked(e.hook("hook"), func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			if c.Method == "third" {
				return nil, nil, errors.New("refused")
			}
			return nil, nil, nil
		})
		s, w := newWire(t, opts)
		var b rpcx.Batch
		one := b.Call("first", nil, nil)
		b.Notify("second", nil)
		three := b.Call("third", nil, nil)
		four := b.Call("fourth", nil, nil)
		f := s.GoBatch(t.Context(), &b)
		const want = `member 3 of the batch, "third": refused`
		for _, f := range []*rpcx.Future{f, one, three, four} {
			if !isDone(f) || f.Err() == nil || f.Err().Error() != want {
				t.Errorf("the error is %v", f.Err())
			}
		}
		w.expectNothing()
		e.expect(t, "hook first", "hook second", "hook third", "hook third is over: refused",
			"hook first is over: "+want, "hook second is over: "+want)
	})
}

// A panic of a function passes to the caller, and leaves no pending call and no slot.
func TestOnCallPanics(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var e events
		panics := true
		opts := hooked(e.hook("first"), func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
			if panics {
				panic("ouch")
			}
			return nil, nil, nil
		})
		opts.OnBatchCall = []onBatchCall{e.batchHook("batch")}
		opts.Limits.Outgoing = 1
		c := w.open(t, opts, methods{"m": reply})
		func() {
			defer func() {
				if r := recover(); r != "ouch" {
					t.Errorf("the caller saw %v", r)
				}
			}()
			w.send(t.Context(), c)
		}()
		got := strings.Join(e.take(), ", ")
		want := "first m, first m is over: rpcx: a function of Options.OnCall or Options.OnBatchCall has not returned"
		if w.batches() {
			want = "batch of 1, " + want + ", batch is over: rpcx: the call has not returned"
		}
		if got != want {
			t.Errorf("the events are %s", got)
		}
		if s, ok := c.(*rpcx.Session); ok && s.Stats().Pending != 0 {
			t.Errorf("the stats are %+v", s.Stats())
		}
		panics = false
		if err := w.send(t.Context(), c); err != nil {
			t.Error(err)
		}
	})
}

func TestOnBatchCallPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		opts := &rpcx.Options{OnBatchCall: []onBatchCall{e.batchHook("first"), func(context.Context, *rpcx.Session, *rpcx.Batch) (context.Context, func(error)) {
			panic("ouch")
		}}}
		s, w := newWire(t, opts)
		var b rpcx.Batch
		f := b.Call("m", nil, nil)
		func() {
			defer func() { recover() }()
			s.SendBatch(t.Context(), &b)
		}()
		if !isDone(f) || f.Err() == nil {
			t.Error("the future of the member is not done")
		}
		w.expectNothing()
		e.expect(t, "first of 1", "first is over: rpcx: the call has not returned")
	})
}

// panickingParam panics when it is encoded.
type panickingParam struct{}

func (panickingParam) MarshalJSON() ([]byte, error) { panic("ouch") }

func TestDoneIsCalledIfTheEncodingPanics(t *testing.T) {
	for name, send := range map[string]func(ctx context.Context, c rpcx.Caller){
		"Call":   func(ctx context.Context, c rpcx.Caller) { c.Call(ctx, "m", rpcx.Args{panickingParam{}}, nil) },
		"Go":     func(ctx context.Context, c rpcx.Caller) { c.Go(ctx, "m", rpcx.Args{panickingParam{}}) },
		"Notify": func(ctx context.Context, c rpcx.Caller) { c.Notify(ctx, "m", rpcx.Args{panickingParam{}}) },
		"SendBatch": func(ctx context.Context, c rpcx.Caller) {
			var b rpcx.Batch
			f := b.Call("m", rpcx.Args{panickingParam{}}, nil)
			defer func() {
				if !isDone(f) {
					panic("the future of the member is not done")
				}
			}()
			c.SendBatch(ctx, &b)
		},
	} {
		for kind, open := range hookedCallers {
			synctest.Test(t, func(t *testing.T) {
				var e events
				c := open(t, hooked(e.hook("hook")), methods{})
				func() {
					defer func() {
						if r := recover(); fmt.Sprint(r) != "ouch" {
							t.Errorf("%s of %s: the panic is %v", name, kind, r)
						}
					}()
					send(t.Context(), c)
				}()
				e.expect(t, "hook m", "hook m is over: rpcx: the call has not returned")
			})
		}
	}
}

// However a call of Go ends, done is called once, with the error of the call.
func TestDoneOfGo(t *testing.T) {
	impatient := errors.New("impatient")
	for name, c := range map[string]struct {
		end  func(s *rpcx.Session, w *wire, f *rpcx.Future, cancel context.CancelCauseFunc)
		want error
	}{
		"reply":           {func(_ *rpcx.Session, w *wire, _ *rpcx.Future, _ context.CancelCauseFunc) { w.say(answered("1", 0)) }, nil},
		"Cancel":          {func(_ *rpcx.Session, _ *wire, f *rpcx.Future, _ context.CancelCauseFunc) { f.Cancel() }, rpcx.ErrCancelled},
		"context":         {func(_ *rpcx.Session, _ *wire, _ *rpcx.Future, cancel context.CancelCauseFunc) { cancel(impatient) }, impatient},
		"timeout":         {func(*rpcx.Session, *wire, *rpcx.Future, context.CancelCauseFunc) { time.Sleep(time.Minute) }, rpcx.ErrTimeout},
		"lost connection": {func(_ *rpcx.Session, w *wire, _ *rpcx.Future, _ context.CancelCauseFunc) { w.Close() }, rpcx.ErrConnectionLost},
		"Close":           {func(s *rpcx.Session, _ *wire, _ *rpcx.Future, _ context.CancelCauseFunc) { s.Close() }, rpcx.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan error, 2)
				s, w := newWire(t, hooked(func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
					return nil, func(err error) { ends <- err }, nil
				}))
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				f := s.Go(ctx, "m", nil)
				endsOnce(t, f, ends, c.want, func() { c.end(s, w, f, cancel) })
			})
		})
	}
}

// endsOnce checks that the done function of f, which sends to ends, is called once, by end,
// with the error want.
func endsOnce(t *testing.T, f *rpcx.Future, ends <-chan error, want error, end func()) {
	t.Helper()
	synctest.Wait()
	if len(ends) > 0 {
		t.Fatal("it is over before its end")
	}
	end()
	if !isDone(f) || len(ends) != 1 {
		t.Fatalf("it has %d ends", len(ends))
	}
	if err := <-ends; err != f.Err() || !errors.Is(err, want) {
		t.Errorf("the end is %v, the call's error is %v, want %v", err, f.Err(), want)
	}
	waitFor(f)
	if len(ends) > 0 {
		t.Errorf("Wait has ended it again: %v", <-ends)
	}
}

// A call that is not sent is over before Go returns.
func TestDoneOfWhatIsNotSent(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		var e events
		c := w.open(t, hooked(e.hook("hook")), methods{})
		if w.name != "TryNotify" {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errors.New("too late"))
			err := w.send(ctx, c)
			e.add("it returns %v", err)
			e.expect(t, "hook m", "hook m is over: too late", "it returns too late")
		}
		c.Close()
		err := w.send(t.Context(), c)
		matches(t, err, rpcx.ErrClosed)
		if got := e.take(); len(got) != 2 || !strings.HasPrefix(got[1], "hook m is over: rpcx: ") {
			t.Errorf("the events are %q", got)
		}
	})
}

// A done function that blocks holds up who waits for its call, and nothing else: neither
// replies to other calls nor timeouts.
func TestBlockingDone(t *testing.T) {
	for name, end := range map[string]func(w *wire){
		"reply":   func(w *wire) { w.say(answered("1", 0)) },
		"timeout": func(*wire) { time.Sleep(30 * time.Second) },
		"member":  func(w *wire) { w.say("[" + answered("1", 0) + "]") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(chan struct{})
				s, w := newWire(t, hooked(func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
					if c.Method != "blocked" {
						return nil, nil, nil
					}
					return nil, func(error) { <-open }, nil
				}))
				var b rpcx.Batch
				member := b.Call("blocked", nil, nil)
				f := member
				if name == "member" {
					s.GoBatch(t.Context(), &b)
				} else {
					f = s.Go(t.Context(), "blocked", nil)
				}
				returned := make(chan error)
				go func() { returned <- waitFor(f) }()
				synctest.Wait()
				end(w)
				if !isDone(f) {
					t.Fatal("the call is not done")
				}
				for i := range 20 {
					next := s.Go(t.Context(), "next", nil)
					w.say(answered("2", i+1))
					if !isDone(next) || next.Err() != nil {
						t.Fatalf("the error is %v", next.Err())
					}
				}
				next := s.Go(t.Context(), "next", nil)
				time.Sleep(30 * time.Second)
				if !isDone(next) || !errors.Is(next.Err(), rpcx.ErrTimeout) {
					t.Errorf("the error is %v", next.Err())
				}
				select {
				case <-returned:
					t.Error("Wait has returned before the done function")
				default:
				}
				close(open)
				<-returned
			})
		})
	}
}

// Cancel takes effect at once, also if the call has a done function.
func TestCancelWithDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		s, _ := newWire(t, hooked(e.hook("hook")))
		f := s.Go(t.Context(), "m", nil)
		f.Cancel()
		if f.Err() != rpcx.ErrCancelled {
			t.Errorf("the error is %v", f.Err())
		}
		e.expect(t, "hook m", "hook m is over: "+rpcx.ErrCancelled.Error())
	})
}

func TestHooksOfABatch(t *testing.T) {
	send := func(t *testing.T, s *rpcx.Session, b *rpcx.Batch, wait bool) *rpcx.Future {
		if !wait {
			return s.GoBatch(t.Context(), b)
		}
		s.SendBatch(t.Context(), b)
		return nil
	}
	for name, wait := range map[string]bool{"SendBatch": true, "GoBatch": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e events
				opts := hooked(e.hook("a"), e.hook("b"))
				opts.OnBatchCall = []onBatchCall{e.batchHook("batch 1"), e.batchHook("batch 2")}
				client, _ := newPipe(t, opts, handling(methods{"echo": func(ctx context.Context, req *rpcx.Request) (any, error) {
					time.Sleep(time.Second) // until the notification is over
					return reply(ctx, req)
				}}))
				var b rpcx.Batch
				b.Call("echo", rpcx.Args{1}, nil)
				b.Notify("note", nil)
				b.Call("none", nil, nil)
				if f := send(t, client, &b, wait); f != nil {
					waitFor(f)
				}
				none := rpcx.MethodNotFound("none").Error()
				got := e.take()
				if len(got) != 16 {
					t.Fatalf("the events are\n%s", strings.Join(got, "\n"))
				}
				whole := strings.TrimPrefix(got[14], "batch 2 is over: ")
				want := []string{
					"batch 1 of 3", "batch 2 of 3",
					"a echo", "b echo", "a note", "b note", "a none", "b none",
					"b note is over: <nil>", "a note is over: <nil>",
					"b echo is over: <nil>", "a echo is over: <nil>",
					"b none is over: " + none, "a none is over: " + none,
					"batch 2 is over: " + whole, "batch 1 is over: " + whole,
				}
				if strings.Join(got, "\n") != strings.Join(want, "\n") || !strings.Contains(whole, none) {
					t.Errorf("the events are\n%s", strings.Join(got, "\n"))
				}
				e.add("again")
				matches(t, client.SendBatch(t.Context(), &b), rpcx.ErrBatchSent)
				e.expect(t, "again") // no function was called

				var notes rpcx.Batch
				notes.Notify("note", nil)
				send(t, client, &notes, wait)
				e.expect(t, "batch 1 of 1", "batch 2 of 1", "a note", "b note", "b note is over: <nil>", "a note is over: <nil>",
					"batch 2 is over: <nil>", "batch 1 is over: <nil>")

				send(t, client, new(rpcx.Batch), wait)
				var cancelled rpcx.Batch
				cancelled.Call("echo", nil, nil).Cancel()
				send(t, client, &cancelled, wait)
				if got := e.take(); len(got) > 0 {
					t.Errorf("nothing is sent, and the events are %q", got)
				}
			})
		})
	}
}

// A member that is cancelled alone is over at once, before the batch.
func TestDoneOfACancelledMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		opts := hooked(e.hook("hook"))
		opts.OnBatchCall = []onBatchCall{e.batchHook("batch")}
		s, w := newWire(t, opts)
		var b rpcx.Batch
		one := b.Call("one", nil, nil)
		b.Call("two", nil, nil)
		f := s.GoBatch(t.Context(), &b)
		e.expect(t, "batch of 2", "hook one", "hook two")
		one.Cancel()
		e.expect(t, "hook one is over: "+rpcx.ErrCancelled.Error())
		w.say("[" + answered("2", 1) + "]")
		synctest.Wait()
		e.expect(t, "hook two is over: <nil>", fmt.Sprintf("batch is over: %v", f.Err()))
	})
}

// A function can cancel a member, and cannot add members.
func TestHooksThatUseTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b rpcx.Batch
		one := b.Call("one", nil, nil)
		b.Call("two", nil, nil)
		opts := hooked(func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			one.Cancel()
			c.Batch.Notify("more", nil)
			matches(t, c.Batch.Call("more", nil, nil).Err(), rpcx.ErrBatchSent)
			return nil, nil, nil
		})
		s, w := newWire(t, opts)
		f := s.GoBatch(t.Context(), &b)
		w.expect(`[{"jsonrpc":"2.0","method":"one","id":0}, {"jsonrpc":"2.0","method":"two","id":1}]`)
		if !isDone(one) || one.Err() != rpcx.ErrCancelled || s.Stats().Pending != 1 {
			t.Errorf("the error is %v, the stats are %+v", one.Err(), s.Stats())
		}
		w.say("[" + answered("2", 1) + "]")
		if !isDone(f) {
			t.Error("the batch is not done")
		}
	})
}

func TestOnCallDoesNotSeeTheSessionsOwnMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		opts := hooked(e.hook("hook"))
		opts.Cancellation = rpcx.RPCCancellation
		opts.Limits.KeepAlive, opts.Limits.KeepAliveMethod = time.Second, "alive"
		s, w := newWire(t, opts)
		s.Go(t.Context(), "m", nil).Cancel()
		time.Sleep(1500 * time.Millisecond)
		w.expect(`{"jsonrpc":"2.0","method":"m","id":0}`, `{"jsonrpc":"2.0","method":"rpc.cancel","params":[0]}`, `{"jsonrpc":"2.0","method":"alive"}`)
		e.expect(t, "hook m", "hook m is over: "+rpcx.ErrCancelled.Error())
	})
}

// Functions see the progress of a handler, and not the values of a Hub.
func TestOnCallSeesProgressAndNoPublications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		var hub rpcx.Hub
		opts := hooked(e.hook("hook"))
		opts.Correlations = []*rpcx.Correlation{rpcx.LSPWorkDone}
		opts.Handler = methods{
			"subscribe": func(ctx context.Context, _ *rpcx.Request) (any, error) {
				_, err := hub.Subscribe(ctx, "heads", rpcx.EthSubscription, "0x1")
				return "0x1", err
			},
			"work": func(ctx context.Context, _ *rpcx.Request) (any, error) { return nil, rpcx.Progress(ctx)(5) },
		}
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"subscribe","id":1}`)
		w.expect(answered(`"0x1"`, 1))
		if err := hub.Publish(t.Context(), "heads", 7); err != nil {
			t.Error(err)
		}
		w.expect(`{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"0x1","result":7}}`)
		w.say(`{"jsonrpc":"2.0","method":"work","params":{"workDoneToken":"a"},"id":2}`)
		w.expect(`{"jsonrpc":"2.0","method":"$/progress","params":{"value":5,"token":"a"}}`, answered("null", 2))
		e.expect(t, "hook $/progress", "hook $/progress is over: <nil>")
	})
}

func TestNilHooksAreRefused(t *testing.T) {
	for want, opts := range map[string]*rpcx.Options{
		"Options.OnCall[1] is nil":      {OnCall: []onCall{new(events).hook("hook"), nil}},
		"Options.OnBatchCall[0] is nil": {OnBatchCall: []onBatchCall{nil}},
	} {
		_, err := rpcx.Dial(t.Context(), "tcp://127.0.0.1:1", opts)
		refused(t, err, want)
	}
}

// A session does not notice what becomes of the slices of its options.
func TestHooksAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		opts := hooked(e.hook("hook"))
		client, _ := newPipe(t, opts, handling(methods{"m": reply}))
		opts.OnCall[0] = nil
		if err := client.Call(t.Context(), "m", nil, nil); err != nil {
			t.Error(err)
		}
		e.expect(t, "hook m", "hook m is over: <nil>")
	})
}

// Every call is over once, whoever waits, cancels or closes at the same time.
func TestDoneIsCalledOnce(t *testing.T) {
	const sessions, calls = 20, 200
	for range sessions {
		var begun, over atomic.Int64
		opts := hooked(func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
			begun.Add(1)
			var once atomic.Bool
			return nil, func(error) {
				if once.Swap(true) {
					t.Error("a done function was called twice")
				}
				over.Add(1)
			}, nil
		})
		client, server := rpcx.Pipe(opts, handling(methods{"m": reply}))
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				if i == calls/2 {
					client.Close()
				}
				switch rand.N(4) {
				case 0:
					client.Call(t.Context(), "m", nil, nil)
				case 1:
					f := client.Go(t.Context(), "m", nil)
					go f.Cancel()
					waitFor(f)
				case 2:
					var b rpcx.Batch
					f := b.Call("m", nil, nil)
					b.Notify("m", nil)
					whole := client.GoBatch(t.Context(), &b)
					f.Cancel()
					waitFor(f)
					waitFor(whole)
				case 3:
					client.Notify(t.Context(), "m", nil)
				}
			})
		}
		all.Wait()
		client.Close()
		server.Close()
		<-client.Done()
		<-server.Done()
		if begun.Load() != over.Load() {
			t.Errorf("%d calls began, and %d are over", begun.Load(), over.Load())
		}
	}
}

// TestHookAllocs bounds what a function of Options.OnCall costs, beside its own work.
func TestHookAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	done := func(error) {}
	hook := func(ctx context.Context, _ *rpcx.OutgoingCall) (context.Context, func(error), error) {
		return ctx, done, nil
	}
	for name, call := range map[string]func(s *rpcx.Session) error{
		"Call":   func(s *rpcx.Session) error { return s.Call(context.Background(), "m", nil, nil) },
		"Go":     func(s *rpcx.Session) error { return waitFor(s.Go(context.Background(), "m", nil)) },
		"Notify": func(s *rpcx.Session) error { return s.Notify(context.Background(), "m", nil) },
	} {
		allocs := func(opts *rpcx.Options) float64 {
			client, server := rpcx.Pipe(opts, handling(methods{"m": reply}))
			defer server.Close()
			defer client.Close()
			return testing.AllocsPerRun(2000, func() {
				if err := call(client); err != nil {
					t.Fatal(err)
				}
			})
		}
		without, one, two := allocs(nil), allocs(hooked(hook)), allocs(hooked(hook, hook))
		t.Logf("%s: %v allocations without, %v with one function, %v with two", name, without, one, two)
		if one > without+2 || two > without+2 {
			t.Errorf("%s: %v allocations without, %v with one function, %v with two", name, without, one, two)
		}
	}
}

// The context of OnCall, and for a batch the context of OnBatchCall, goes on to RoundTrip.
func TestHookContextsReachRoundTrip(t *testing.T) {
	type key struct{}
	eachWay(t, func(t *testing.T, w way) {
		if w.caller != "Exchange" {
			return
		}
		opts := hooked(func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			return context.WithValue(ctx, key{}, "of "+c.Method), nil, nil
		})
		opts.OnBatchCall = []onBatchCall{func(ctx context.Context, s *rpcx.Session, b *rpcx.Batch) (context.Context, func(error)) {
			if s != nil || b.Len() != 1 {
				t.Errorf("the session is %v, the batch has %d members", s, b.Len())
			}
			return context.WithValue(ctx, key{}, "of the batch"), nil
		}}
		var found any
		answer := handlingMessages(methods{"m": reply})
		x := newExchange(t, opts, func(ctx context.Context, msg []byte) ([]byte, error) {
			found = ctx.Value(key{})
			return answer(ctx, msg)
		})
		if err := w.send(t.Context(), x); err != nil {
			t.Error(err)
		}
		want := "of m"
		if w.batches() {
			want = "of the batch"
		}
		if found != want {
			t.Errorf("RoundTrip found %v, want %s", found, want)
		}
	})
}

// However a call of Go ends on an Exchange, done is called once, with the error of the call.
func TestDoneOfExchangeGo(t *testing.T) {
	impatient, broken := errors.New("impatient"), errors.New("broken")
	for name, c := range map[string]struct {
		end  func(x *rpcx.Exchange, trips chan<- error, f *rpcx.Future, cancel context.CancelCauseFunc)
		want error
	}{
		"reply":     {func(_ *rpcx.Exchange, trips chan<- error, _ *rpcx.Future, _ context.CancelCauseFunc) { trips <- nil }, nil},
		"RoundTrip": {func(_ *rpcx.Exchange, trips chan<- error, _ *rpcx.Future, _ context.CancelCauseFunc) { trips <- broken }, broken},
		"Cancel":    {func(_ *rpcx.Exchange, _ chan<- error, f *rpcx.Future, _ context.CancelCauseFunc) { f.Cancel() }, rpcx.ErrCancelled},
		"context": {func(_ *rpcx.Exchange, _ chan<- error, _ *rpcx.Future, cancel context.CancelCauseFunc) {
			cancel(impatient)
		}, impatient},
		"timeout": {func(*rpcx.Exchange, chan<- error, *rpcx.Future, context.CancelCauseFunc) { time.Sleep(time.Minute) }, rpcx.ErrTimeout},
		"Close":   {func(x *rpcx.Exchange, _ chan<- error, _ *rpcx.Future, _ context.CancelCauseFunc) { x.Close() }, rpcx.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan error, 2)
				caller := goroutine()
				trips := make(chan error)
				x := newExchange(t, hooked(func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
					return nil, func(err error) {
						if goroutine() == caller {
							t.Error("done runs on the goroutine of the caller")
						}
						ends <- err
					}, nil
				}), func(ctx context.Context, _ []byte) ([]byte, error) {
					select {
					case err := <-trips:
						return []byte(`{"jsonrpc":"2.0","result":1,"id":0}`), err
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				f := x.Go(ctx, "m", nil)
				endsOnce(t, f, ends, c.want, func() { c.end(x, trips, f, cancel) })
			})
		})
	}
}

// Wait returns after the done function, and the future is done before.
func TestBlockingDoneOfExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		x := newExchange(t, hooked(func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
			return nil, func(error) { <-open }, nil
		}), handlingMessages(methods{"m": reply}))
		f := x.Go(t.Context(), "m", nil)
		returned := make(chan error, 1)
		go func() { returned <- waitFor(f) }()
		if !isDone(f) || len(returned) > 0 {
			t.Error("Wait has returned, or the call is not done")
		}
		close(open)
		if err := <-returned; err != nil {
			t.Error(err)
		}
	})
}

// The done functions of a batch run at its end, with the error of each member.
func TestHooksOfAnExchangeBatch(t *testing.T) {
	broken := errors.New("broken")
	none := rpcx.MethodNotFound("none")
	connection := errors.New("no reply to the request: broken") // the text of a *ConnectionError
	answer := handlingMessages(methods{"echo": reply})
	for name, c := range map[string]struct {
		trip                     func(context.Context, []byte) ([]byte, error)
		limit                    int // Limits.Batch
		echo, note, none, nobody error
	}{
		"answered":          {trip: answer, none: none, nobody: nil},
		"nothing":           {replying(""), 0, rpcx.ErrNoResponse, nil, rpcx.ErrNoResponse, nil},
		"a failure":         {func(context.Context, []byte) ([]byte, error) { return nil, broken }, 0, connection, connection, connection, connection},
		"a refusal":         {replying(`{"jsonrpc":"2.0","error":{"code":5,"message":"no"},"id":null}`), 0, rpcx.Errorf(5, "no"), rpcx.Errorf(5, "no"), rpcx.Errorf(5, "no"), rpcx.Errorf(5, "no")},
		"a partial reply":   {replying(`[{"jsonrpc":"2.0","result":1,"id":1}]`), 0, rpcx.ErrNoResponse, nil, nil, nil},
		"the end of a call": {hanging, 0, rpcx.ErrTimeout, rpcx.ErrTimeout, rpcx.ErrTimeout, rpcx.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var e events
				opts := hooked(e.hook("a"), e.hook("b"))
				opts.OnBatchCall = []onBatchCall{e.batchHook("batch 1"), e.batchHook("batch 2")}
				x := newExchange(t, opts, c.trip)
				var b rpcx.Batch
				b.Call("echo", rpcx.Args{1}, nil)
				b.Notify("note", nil)
				b.Call("none", nil, nil)
				err := x.SendBatch(t.Context(), &b)
				e.expect(t, "batch 1 of 3", "batch 2 of 3",
					"a echo", "b echo", "a note", "b note", "a none", "b none",
					fmt.Sprint("b echo is over: ", c.echo), fmt.Sprint("a echo is over: ", c.echo),
					fmt.Sprint("b note is over: ", c.note), fmt.Sprint("a note is over: ", c.note),
					fmt.Sprint("b none is over: ", c.none), fmt.Sprint("a none is over: ", c.none),
					fmt.Sprint("batch 2 is over: ", err), fmt.Sprint("batch 1 is over: ", err))
				if name == "a partial reply" {
					return // for a batch without calls, the reply is unexpected
				}
				var notes rpcx.Batch
				notes.Notify("note", nil)
				err = x.SendBatch(t.Context(), &notes)
				if fmt.Sprint(err) != fmt.Sprint(c.nobody) {
					t.Errorf("the error of notifications is %v, want %v", err, c.nobody)
				}
				e.expect(t, "batch 1 of 1", "batch 2 of 1", "a note", "b note",
					fmt.Sprint("b note is over: ", err), fmt.Sprint("a note is over: ", err),
					fmt.Sprint("batch 2 is over: ", err), fmt.Sprint("batch 1 is over: ", err))

				matches(t, x.SendBatch(t.Context(), &b), rpcx.ErrBatchSent)
				x.SendBatch(t.Context(), new(rpcx.Batch))
				var cancelled rpcx.Batch
				cancelled.Call("echo", nil, nil).Cancel()
				x.SendBatch(t.Context(), &cancelled)
				e.expect(t) // nothing is sent
			})
		})
	}
}

// If all calls of a batch are cancelled, the notifications are over with the message.
func TestHooksOfACancelledExchangeBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		x := newExchange(t, hooked(e.hook("hook")), hanging)
		var b rpcx.Batch
		one := b.Call("one", nil, nil)
		b.Notify("note", nil)
		two := b.Call("two", nil, nil)
		failed := make(chan error, 1)
		go func() { failed <- x.SendBatch(t.Context(), &b) }()
		synctest.Wait()
		one.Cancel()
		matches(t, one.Wait(t.Context(), nil), rpcx.ErrCancelled) // the sender ends the member
		e.expect(t, "hook one", "hook note", "hook two")
		two.Cancel()
		matches(t, <-failed, rpcx.ErrCancelled)
		e.expect(t, "hook one is over: rpcx: call cancelled", "hook note is over: rpcx: call cancelled", "hook two is over: rpcx: call cancelled")
	})
}

// A function can cancel a member of a batch, also while another goroutine waits for it.
func TestHooksThatCancelInAnExchangeBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		var b rpcx.Batch
		one := b.Call("one", nil, nil)
		two := b.Call("echo", rpcx.Args{2}, nil)
		opts := hooked(e.hook("hook"), func(_ context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
			one.Cancel()
			c.Batch.Notify("more", nil)
			return nil, nil, nil
		})
		waited := make(chan error, 1)
		go func() { waited <- waitFor(one) }()
		x := newExchange(t, opts, handlingMessages(methods{"echo": reply}))
		matches(t, x.SendBatch(t.Context(), &b), rpcx.ErrCancelled)
		matches(t, <-waited, rpcx.ErrCancelled)
		if two.Err() != nil {
			t.Errorf("the error is %v", two.Err())
		}
		e.expect(t, "hook one", "hook echo", "hook one is over: "+rpcx.ErrCancelled.Error(), "hook echo is over: <nil>")
	})
}

// Every call is over once, whoever waits, cancels or closes at the same time.
func TestDoneOfExchangeIsCalledOnce(t *testing.T) {
	const exchanges, calls = 10, 100
	for range exchanges {
		var begun, over atomic.Int64
		x := rpcx.NewExchange(&tripper{trip: handlingMessages(methods{"m": reply})}, hooked(func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error) {
			begun.Add(1)
			var once atomic.Bool
			return nil, func(error) {
				if once.Swap(true) {
					t.Error("a done function was called twice")
				}
				over.Add(1)
			}, nil
		}))
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				switch i % 4 {
				case 0:
					x.Call(t.Context(), "m", nil, nil)
				case 1:
					f := x.Go(t.Context(), "m", nil)
					all.Go(f.Cancel)
					waitFor(f)
				case 2:
					var b rpcx.Batch
					f := b.Call("m", nil, nil)
					b.Notify("m", nil)
					all.Go(func() {
						f.Cancel()
						waitFor(f)
					})
					x.SendBatch(t.Context(), &b)
				case 3:
					x.Notify(t.Context(), "m", nil)
				}
				if i == calls/2 {
					x.Close()
				}
			})
		}
		all.Wait()
		x.Close()
		if begun.Load() != over.Load() {
			t.Errorf("%d calls began, and %d are over", begun.Load(), over.Load())
		}
	}
}

func TestExchangeSendsMeta(t *testing.T) {
	for _, c := range []struct {
		form   *rpcx.Meta
		params any
		want   string // behind the method and the id
	}{
		{rpcx.MCPMeta, map[string]any{"a": 1}, `,"params":{"a":1,"_meta":{"trace":"1-2"}}}`},
		{rpcx.MCPMeta, nil, `,"params":{"_meta":{"trace":"1-2"}}}`},
		{rpcx.MemberMeta, rpcx.Args{1}, `,"params":[1],"meta":{"trace":"1-2"}}`},
		{rpcx.VSMeta, rpcx.Args{1}, `,"params":[1],"trace":"1-2"}`},
		{nil, rpcx.Args{1}, `,"params":[1]}`},
	} {
		var sent []string
		x := newExchange(t, sending(c.form, map[string]any{"trace": "1-2"}), func(_ context.Context, msg []byte) ([]byte, error) {
			sent = append(sent, string(msg))
			return nil, nil
		})
		var b rpcx.Batch
		b.Call("m", c.params, nil)
		b.Notify("m", c.params)
		matches(t, x.Call(t.Context(), "m", c.params, nil), rpcx.ErrNoResponse)
		matches(t, waitFor(x.Go(t.Context(), "m", c.params)), rpcx.ErrNoResponse)
		if err := x.Notify(t.Context(), "m", c.params); err != nil {
			t.Error(err)
		}
		matches(t, x.SendBatch(t.Context(), &b), rpcx.ErrNoResponse)
		const call, note = `{"jsonrpc":"2.0","method":"m","id":%d`, `{"jsonrpc":"2.0","method":"m"`
		want := []string{
			fmt.Sprintf(call, 0) + c.want, fmt.Sprintf(call, 1) + c.want, note + c.want,
			"[" + fmt.Sprintf(call, 2) + c.want + ", " + note + c.want + "]",
		}
		if !slices.Equal(sent, want) {
			t.Errorf("sent\n%s, want\n%s", strings.Join(sent, "\n"), strings.Join(want, "\n"))
		}
	}
	x := newExchange(t, sending(rpcx.MCPMeta, map[string]any{"trace": "1-2"}), replying(""))
	err := x.Call(t.Context(), "m", map[string]any{"_meta": 5}, nil)
	if e, ok := errors.AsType[*rpcx.ProtocolError](err); !ok || !e.Unsent {
		t.Errorf("the error is %v", err)
	}
}

func TestNewExchangeRefusesNilHooks(t *testing.T) {
	defer func() {
		if r := fmt.Sprint(recover()); !strings.Contains(r, "Options.OnCall[0] is nil") {
			t.Errorf("the panic is %s", r)
		}
	}()
	rpcx.NewExchange(&tripper{}, hooked(nil))
}

// TestExchangeHookAllocs bounds what a function of Options.OnCall costs on an Exchange.
func TestExchangeHookAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	done := func(error) {}
	hook := func(ctx context.Context, _ *rpcx.OutgoingCall) (context.Context, func(error), error) {
		return ctx, done, nil
	}
	for name, call := range map[string]func(x *rpcx.Exchange) error{
		"Call":   func(x *rpcx.Exchange) error { return x.Call(context.Background(), "m", nil, nil) },
		"Go":     func(x *rpcx.Exchange) error { return waitFor(x.Go(context.Background(), "m", nil)) },
		"Notify": func(x *rpcx.Exchange) error { return x.Notify(context.Background(), "m", nil) },
	} {
		allocs := func(opts *rpcx.Options) float64 {
			x := newExchange(t, opts, replying(""))
			return testing.AllocsPerRun(1000, func() { call(x) })
		}
		without, one := allocs(nil), allocs(hooked(hook))
		t.Logf("%s: %v allocations without, %v with a function", name, without, one)
		if one > without+2 {
			t.Errorf("%s: %v allocations without, %v with a function", name, without, one)
		}
	}
}
