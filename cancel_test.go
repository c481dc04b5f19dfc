package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

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
