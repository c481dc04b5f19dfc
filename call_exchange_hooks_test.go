package rpcx_test

import (
	"context"
	"errors"
	"fmt"
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
				synctest.Wait()
				if len(ends) > 0 {
					t.Fatal("it is over before its end")
				}
				c.end(x, trips, f, cancel)
				if !isDone(f) || len(ends) != 1 {
					t.Fatalf("it has %d ends", len(ends))
				}
				if end := <-ends; end != f.Err() || !errors.Is(end, c.want) {
					t.Errorf("the end is %v, the call's error is %v, want %v", end, f.Err(), c.want)
				}
				waitFor(f)
				if len(ends) > 0 {
					t.Errorf("Wait has ended it again: %v", <-ends)
				}
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
	connection := &rpcx.ConnectionError{Written: true, Err: broken}
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
