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
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// admit is a handler of Gate that admits the session.
func admit(_ context.Context, req *rpcx.Request) (any, error) {
	req.Session().Admit()
	return "admitted", nil
}

// gated returns options with a Gate. The Handler answers each method with its name and
// "handled".
func gated(g rpcx.Handler) *rpcx.Options {
	return &rpcx.Options{Gate: g, Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		return req.Method + " handled", nil
	})}
}

// failed is the reply with an error.
func failed(code int, message string, id int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","error":{"code":%d,"message":%q},"id":%d}`, code, message, id)
}

// A language server refuses what comes before "initialize" with -32002, drops
// notifications, and ends at "exit".
func TestGateOfALanguageServer(t *testing.T) {
	lsp := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		switch req.Method {
		case "initialize":
			req.Session().Admit()
			return map[string]any{"capabilities": map[string]any{}}, nil
		case "exit":
			return nil, rpcx.ReplyAndDisconnect(nil)
		}
		return nil, rpcx.Errorf(-32002, "server not initialized")
	})
	synctest.Test(t, func(t *testing.T) {
		var opened events
		opts := gated(lsp)
		opts.Handler = methods{
			"textDocument/didOpen": func(context.Context, *rpcx.Request) (any, error) { opened.add("opened"); return nil, nil },
			"textDocument/hover":   reply,
		}
		s, w := newServed(t, opts)
		w.say(ask("textDocument/hover", 1), sayNote("textDocument/didOpen", 1), ask("shutdown", 2))
		w.expect(failed(-32002, "server not initialized", 1), failed(-32002, "server not initialized", 2))
		if got := opened.take(); len(got) != 0 {
			t.Errorf("before initialize: %q", got)
		}
		if cost := s.Cost(); cost > 1 {
			t.Errorf("refusals by the Gate cost %v", cost)
		}
		w.say(ask("initialize", 3), sayNote("textDocument/didOpen", 1), ask("textDocument/hover", 4))
		w.expect(`{"jsonrpc":"2.0","result":{"capabilities":{}},"id":3}`, answered("null", 4))
		if got := opened.take(); !slices.Equal(got, []string{"opened"}) {
			t.Errorf("after initialize: %q", got)
		}
		w.say(ask("initialize", 5))
		w.expect(failed(-32601, `unknown method "initialize"`, 5))
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, gated(lsp))
		w.say(sayNote("exit", 1))
		w.expectNothing()
		if err := ended(t, s); err != rpcx.ErrClosed {
			t.Errorf("after exit the session has ended with %v", err)
		}
	})
}

// An Electrum server wants "server.version" first, and hangs up on anything else.
func TestGateOfElectrum(t *testing.T) {
	electrum := func() *rpcx.Options {
		return gated(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			if req.Method != "server.version" {
				return nil, rpcx.ReplyAndDisconnect(rpcx.InvalidRequest("use server.version to identify client"))
			}
			req.Session().Admit()
			return []string{"server", "1.4"}, nil
		}))
	}
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, electrum())
		w.say(ask("server.version", 0), ask("server.ping", 1), ask("server.version", 2))
		lines := w.heard()
		slices.Sort(lines[1:]) // handled at the same time
		if want := []string{answered(`["server","1.4"]`, 0), answered(`"server.ping handled"`, 1), answered(`"server.version handled"`, 2)}; !slices.Equal(lines, want) {
			t.Errorf("heard %q, want %q", lines, want)
		}
		live(t, s)
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, electrum())
		w.say(ask("blockchain.headers.subscribe", 0))
		w.expect(failed(-32600, "use server.version to identify client", 0))
		if err := ended(t, s); err != rpcx.ErrClosed {
			t.Errorf("the session has ended with %v", err)
		}
	})
}

// An MCP server answers a ping before "initialize" is done.
func TestGateAnswersEarlyPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ping := func(context.Context, *rpcx.Request) (any, error) { return struct{}{}, nil }
		opts := gated(methods{"ping": ping, "initialize": admit})
		_, w := newServed(t, opts)
		w.say(ask("ping", 1), ask("initialize", 2), ask("tools/list", 3))
		w.expect(answered("{}", 1), answered(`"admitted"`, 2), answered(`"tools/list handled"`, 3))
	})
}

// A login of two steps: the first asks the client back, and the second admits. A client may
// send all of it at once.
func TestGateLoginOfTwoSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := gated(methods{
			"hello": func(ctx context.Context, req *rpcx.Request) (any, error) {
				secret, err := rpcx.Call[string](ctx, req.Session(), "challenge", rpcx.Args{"nonce"})
				if err != nil || secret != "nonce signed" {
					return nil, rpcx.ReplyAndDisconnect(rpcx.Errorf(1, "wrong answer"))
				}
				return "prove it", nil
			},
			"login": admit,
		})
		client := handling(methods{"challenge": func(_ context.Context, req *rpcx.Request) (any, error) {
			var nonce []string
			err := req.Bind(&nonce)
			return nonce[0] + " signed", err
		}})
		s, _ := newPipe(t, client, opts)
		ctx := t.Context()
		hello, login := s.Go(ctx, "hello", nil), s.Go(ctx, "login", nil)
		work, err := rpcx.Call[string](ctx, s, "work", nil)
		if err != nil || work != "work handled" {
			t.Errorf("work was answered %q, %v", work, err)
		}
		var first, second string
		if err := hello.Wait(ctx, &first); err != nil || first != "prove it" {
			t.Errorf("hello was answered %q, %v", first, err)
		}
		if err := login.Wait(ctx, &second); err != nil || second != "admitted" {
			t.Errorf("login was answered %q, %v", second, err)
		}
	})
}

// A handler of Gate that waits for its peer does not keep replies and cancellations away,
// also if as much waits as may.
func TestGateLetsRepliesAndCancellationsThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := gated(methods{
			"login": func(ctx context.Context, req *rpcx.Request) (any, error) {
				return nil, req.Session().Call(ctx, "challenge", nil, nil)
			},
		})
		opts.Cancellation = rpcx.LSPCancellation
		s, w := newServed(t, opts)
		own := s.Go(t.Context(), "fromOurSide", nil) // needs no Admit
		w.say(ask("login", 1))
		lines := w.heard() // from now on the handler waits
		for i := range 16 {
			w.say(ask("nope", 10+i))
		}
		w.expectNothing()
		if len(lines) != 2 {
			t.Fatalf("heard %q, want two calls", lines)
		}
		if stats := s.Stats(); stats.Queued != 16 || stats.Running != 1 || stats.Pauses != 0 || stats.Concurrency != 1 {
			t.Errorf("before Admit, stats are %+v", stats)
		}
		w.say(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":12}}`)
		w.expect(failed(-32800, "request cancelled", 12))
		w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":null,"id":%s}`, idOf(t, lines[0])))
		if !isDone(own) {
			t.Error("the reply to a call of ours waits")
		}
		w.say(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)
		lines = w.heard()
		if len(lines) != 17 || lines[1] != failed(-32800, "request cancelled", 1) {
			t.Errorf("after the login was cancelled: %q", lines)
		}
		if !strings.Contains(lines[0], "$/cancelRequest") {
			t.Errorf("the challenge was not cancelled: %q", lines[0])
		}
		if stats := s.Stats(); stats.Running != 0 || stats.Queued != 0 {
			t.Errorf("at the end, stats are %+v", stats)
		}
	})
}

// What arrived behind the admitting request starts when that is answered, in order.
func TestGateRepliesBeforeTheNextStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began events
		opts := gated(methods{"initialize": func(_ context.Context, req *rpcx.Request) (any, error) {
			req.Session().Admit()
			time.Sleep(time.Second)
			began.add("end of initialize")
			return "ready", nil
		}})
		opts.Handler = rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			began.add("%s", req.Method)
			req.Session().Notify(context.Background(), "event", nil)
			return nil, nil
		})
		opts.Order = rpcx.NotificationsFirst
		s, w := newServed(t, opts)
		w.say(ask("initialize", 0), sayNote("a", 1), sayNote("b", 1), sayNote("c", 1))
		w.expectNothing()
		if stats := s.Stats(); stats.Running != 1 || stats.Queued != 3 {
			t.Errorf("while the handler of Gate runs, stats are %+v", stats)
		}
		time.Sleep(time.Second)
		event := `{"jsonrpc":"2.0","method":"event"}`
		w.expect(answered(`"ready"`, 0), event, event, event)
		if got := began.take(); !slices.Equal(got, []string{"end of initialize", "a", "b", "c"}) {
			t.Errorf("handled in the order %q", got)
		}
	})
}

// Before Admit one handler runs, and then as many as Limits.Concurrency allows.
func TestGateHandlesOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, most, lock := 0, 0, sync.Mutex{}
		count := func(n int) {
			lock.Lock()
			defer lock.Unlock()
			running += n
			most = max(most, running)
		}
		opts := gated(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			count(1)
			defer count(-1)
			time.Sleep(time.Millisecond)
			if req.Method == "last" {
				req.Session().Admit()
			}
			return nil, nil
		}))
		opts.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			count(1)
			defer count(-1)
			time.Sleep(time.Millisecond)
			return nil, nil
		})
		opts.Limits.Concurrency = 5
		s, w := newServed(t, opts)
		for range 10 {
			w.say(sayNote("m", 1))
		}
		w.say(sayNote("last", 1))
		time.Sleep(20 * time.Millisecond)
		if stats := s.Stats(); most != 1 || stats.RequestsReceived != 11 || stats.Concurrency != 5 {
			t.Errorf("before Admit %d handlers ran at once, and stats are %+v", most, stats)
		}
		for range 10 {
			w.say(sayNote("m", 1))
		}
		time.Sleep(20 * time.Millisecond)
		if stats := s.Stats(); most != 5 || stats.RequestsReceived != 21 {
			t.Errorf("after Admit %d handlers ran at once, and stats are %+v", most, stats)
		}
	})
}

// The cost of a session changes how many handlers run after Admit, and not before.
func TestGateAndCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServed(t, gated(methods{}))
		s.BumpCost(6000)
		s.UpdateCost()
		if n := s.Stats().Concurrency; n != 1 {
			t.Errorf("before Admit %d handlers may run", n)
		}
		s.Admit()
		if n := s.Stats().Concurrency; n != 10 {
			t.Errorf("at half of the cost %d handlers may run, want 10", n)
		}
	})
}

// The members of a batch pass the gate one by one.
func TestGateAdmitsInTheMiddleOfABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled events
		opts := gated(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			handled.add("gate %s", req.Method)
			if req.Method == "login" {
				return admit(ctx, req)
			}
			return nil, rpcx.Errorf(1, "log in")
		}))
		opts.Order = rpcx.Sequential
		opts.Handler = rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			handled.add("%s", req.Method)
			return req.Method, nil
		})
		_, w := newServed(t, opts)
		w.say("["+ask("a", 1)+","+sayNote("b", 1)+","+ask("login", 2)+","+sayNote("c", 1)+","+ask("d", 3)+"]", ask("e", 4))
		w.expect("["+failed(1, "log in", 1)+", "+answered(`"admitted"`, 2)+", "+answered(`"d"`, 3)+"]", answered(`"e"`, 4))
		if got := handled.take(); !slices.Equal(got, []string{"gate a", "gate b", "gate login", "c", "d", "e"}) {
			t.Errorf("handled in the order %q", got)
		}
	})
}

// A server gives its clients Limits.GateTimeout, by default as long as for a handshake.
func TestGateTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		srv  *rpcx.Server
		want time.Duration // 0: none
	}{
		"by default":                   {srv: &rpcx.Server{}, want: 10 * time.Second},
		"that of handshakes":           {srv: &rpcx.Server{HandshakeTimeout: 3 * time.Second}, want: 3 * time.Second},
		"no limit of handshakes":       {srv: &rpcx.Server{HandshakeTimeout: -1}},
		"its own":                      {srv: &rpcx.Server{HandshakeTimeout: 3 * time.Second, Options: rpcx.Options{Limits: rpcx.Limits{GateTimeout: 20 * time.Second}}}, want: 20 * time.Second},
		"none":                         {srv: &rpcx.Server{Options: rpcx.Options{Limits: rpcx.Limits{GateTimeout: -1}}}},
		"none for a client by default": {srv: &rpcx.Server{HandshakeTimeout: 3 * time.Second, Options: rpcx.Options{Role: rpcx.RoleClient}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				srv := c.srv
				srv.Options.Gate, srv.Options.Logger = methods{}, slog.New(log)
				m, _ := newServer(t, srv)
				m.connect(t)
				synctest.Wait()
				s := slices.Collect(srv.Sessions())[0]
				if c.want == 0 {
					time.Sleep(time.Hour)
					live(t, s)
					return
				}
				time.Sleep(c.want - 1)
				live(t, s)
				time.Sleep(time.Nanosecond)
				err := ended(t, s)
				matches(t, err, rpcx.ErrNotAdmitted)
				if want := fmt.Sprintf("rpcx: session not admitted: no Session.Admit in %v (Limits.GateTimeout)", c.want); err.Error() != want {
					t.Errorf("the error is %v, want %s", err, want)
				}
				if got := log.take(); !slices.Equal(got, []string{"INFO session ended: it was not admitted in time"}) {
					t.Errorf("logged %q", got)
				}
			})
		})
	}
}

// Without a server the default is 10 s for role server, and none for role client. What a
// peer says does not prolong it, and a session without Gate has no such limit.
func TestGateTimeoutWithoutAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, w := newServed(t, gated(methods{"ping": reply}))
		client, _ := newWire(t, gated(methods{}))
		open, _ := newServed(t, handling(methods{}))
		admitted, _ := newServed(t, gated(methods{}))
		admitted.Admit()
		for i := range 9 {
			time.Sleep(time.Second)
			w.say(ask("ping", i))
		}
		time.Sleep(time.Second)
		matches(t, ended(t, busy), rpcx.ErrNotAdmitted)
		time.Sleep(time.Hour)
		live(t, client)
		live(t, open)
		live(t, admitted)
	})
}

// The timeout ends a handler that still runs, but not a session that the handler has
// admitted.
func TestGateTimeoutWhileAHandlerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 1)
		slow := methods{"login": func(ctx context.Context, req *rpcx.Request) (any, error) {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		}}
		s, w := newServed(t, gated(slow))
		w.say(ask("login", 1))
		time.Sleep(10 * time.Second)
		matches(t, ended(t, s), rpcx.ErrNotAdmitted)
		matches(t, <-causes, rpcx.ErrNotAdmitted)

		late := methods{"login": func(_ context.Context, req *rpcx.Request) (any, error) {
			req.Session().Admit()
			time.Sleep(15 * time.Second)
			return "late", nil
		}}
		s, w = newServed(t, gated(late))
		w.say(ask("login", 1), ask("work", 2))
		time.Sleep(15 * time.Second)
		w.expect(answered(`"late"`, 1), answered(`"work handled"`, 2))
		live(t, s)
	})
}

// floods are what a peer may send before it is admitted, in lines.
var floods = map[string]string{
	"requests":      ask("nope", 1) + "\n",
	"notifications": sayNote("nope", 1) + "\n",
	"batches":       "[" + ask("nope", 1) + "," + sayNote("nope", 1) + "]\n",
	"large ones":    `{"jsonrpc":"2.0","method":"nope","params":["` + strings.Repeat("x", 20_000) + `"]}` + "\n",
}

// A flood before Admit makes reading pause when 16 messages or 64 KiB wait. When the session
// is admitted, everything is handled.
func TestGateHoldsAFloodBack(t *testing.T) {
	for name, line := range floods {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(gate)
				opts := gated(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
					<-open
					req.Session().Admit()
					return nil, nil
				}))
				opts.Limits.Queue = 20 // less than what comes
				s, w := newServed(t, opts)
				const n = 200
				go io.WriteString(w, strings.Repeat(line, n))
				synctest.Wait()
				most := 16
				if name == "batches" {
					most++ // a batch counts until its last member begins, and here its first member runs
				}
				stats := s.Stats()
				if stats.Queued > most || stats.QueuedBytes > 64<<10+len(line) || stats.Running != 1 || stats.Pauses != 1 {
					t.Errorf("before Admit, stats are %+v", stats)
				}
				// The first message may have begun after the reading had paused.
				if full := stats.Queued >= 16 || stats.QueuedBytes+len(line) > 64<<10; !full {
					t.Errorf("reading has paused too soon: %+v", stats)
				}
				close(open)
				time.Sleep(time.Second)
				if stats := s.Stats(); stats.MessagesReceived != n || stats.Queued != 0 || stats.Errors != 0 || stats.NotificationsDropped != 0 {
					t.Errorf("after Admit, stats are %+v", stats)
				}
				live(t, s)
			})
		})
	}
}

// A flood that is refused by a quick handler is answered, in bounded memory, until the
// timeout.
func TestGateRefusesAFlood(t *testing.T) {
	for name, line := range floods {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				most := 0
				s, w := newServed(t, gated(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
					most = max(most, req.Session().Stats().Queued)
					return nil, rpcx.Errorf(1, "log in")
				})))
				written := make(chan error, 1)
				go func() {
					_, err := io.WriteString(w, strings.Repeat(line, 2000))
					written <- err
				}()
				synctest.Wait()
				if err := <-written; err != nil || most > 17 {
					t.Errorf("%d messages have waited, and writing has ended with %v", most, err)
				}
				live(t, s)
				time.Sleep(10 * time.Second)
				matches(t, ended(t, s), rpcx.ErrNotAdmitted)
			})
		})
	}
}

// While a handler of Gate waits for its peer, reading goes on. A message over the limit
// is refused, and ends the session.
func TestGateEndsAFloodBesideACall(t *testing.T) {
	for name, want := range map[string]string{
		"requests":      "over 16 requests waiting (Limits.GateQueue)",
		"notifications": "over 16 requests waiting (Limits.GateQueue)",
		"batches":       "over 16 requests waiting (Limits.GateQueue)",
		"large ones":    "over 65,536 bytes of requests waiting (Limits.GateQueueBytes)",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				causes := make(chan error, 1)
				opts := gated(methods{"login": func(ctx context.Context, req *rpcx.Request) (any, error) {
					err := req.Session().Call(ctx, "challenge", nil, nil)
					<-ctx.Done() // a little later
					causes <- context.Cause(ctx)
					return nil, err
				}})
				opts.Logger = slog.New(log)
				s, w := newServed(t, opts)
				w.say(ask("login", 0))
				w.heard()
				line := floods[name]
				for range 16 {
					io.WriteString(w, line)
					synctest.Wait()
					if len(line) > 20_000 && s.Stats().QueuedBytes > 60_000 {
						break
					}
				}
				live(t, s)
				w.expectNothing()
				io.WriteString(w, line)
				err := ended(t, s)
				matches(t, err, rpcx.ErrNotAdmitted)
				matches(t, <-causes, rpcx.ErrNotAdmitted)
				if text := "rpcx: session not admitted: " + want; err.Error() != text {
					t.Errorf("the error is %v, want %s", err, text)
				}
				if lines := w.heard(); strings.Contains(line, `"id"`) && (len(lines) != 1 || !strings.Contains(lines[0], want)) {
					t.Errorf("heard %q", lines)
				}
				if got := log.take(); !slices.Contains(got, "WARN session ended: too much has arrived before it was admitted") {
					t.Errorf("logged %q", got)
				}
			})
		})
	}
}

// A handler of Gate that does not return ends a pause after a while, and what does not fit
// then ends the session.
func TestGateHandlerThatHoldsUpReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := gated(methods{"login": hang})
		opts.Limits.GateTimeout = time.Minute
		s, w := newServed(t, opts)
		w.say(ask("login", 0))
		go io.WriteString(w, strings.Repeat(ask("nope", 1)+"\n", 17))
		time.Sleep(5*time.Second - 1)
		live(t, s)
		if stats := s.Stats(); stats.Queued != 16 || stats.Pauses != 1 {
			t.Errorf("in the pause, stats are %+v", stats)
		}
		time.Sleep(time.Nanosecond)
		matches(t, ended(t, s), rpcx.ErrNotAdmitted)
	})
}

// A pause before Admit lasts as long as handlers of Gate return, and lets nothing through.
func TestGateInALongPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := 0
		opts := gated(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(4 * time.Second)
			most = max(most, req.Session().Stats().Queued)
			return nil, rpcx.Errorf(1, "log in")
		}))
		opts.Limits.GateTimeout, opts.Limits.ProcessingTimeout = time.Hour, time.Hour
		s, w := newServed(t, opts)
		go io.WriteString(w, strings.Repeat(ask("nope", 1)+"\n", 100))
		time.Sleep(2 * time.Minute)
		live(t, s)
		if stats := s.Stats(); most > 17 || stats.RequestsReceived < 29 || stats.Errors < 29 {
			t.Errorf("%d messages have waited, and stats are %+v", most, stats)
		}
	})
}

// Limits.GateQueue and GateQueueBytes can be set and switched off. One message has room.
func TestGateQueueLimits(t *testing.T) {
	for name, c := range map[string]struct {
		limits rpcx.Limits
		line   string
		want   int
	}{
		"messages":         {rpcx.Limits{GateQueue: 3}, ask("nope", 1), 3},
		"bytes":            {rpcx.Limits{GateQueueBytes: 1}, ask("nope", 1), 1},
		"neither":          {rpcx.Limits{GateQueue: -1, GateQueueBytes: -1}, ask("nope", 1), 100},
		"at most Queue":    {rpcx.Limits{GateQueue: -1, Queue: 5}, ask("nope", 1), 5},
		"a single message": {rpcx.Limits{}, `{"jsonrpc":"2.0","method":"nope","params":["` + strings.Repeat("x", 500_000) + `"]}`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := gated(methods{"login": hang})
				opts.Limits = c.limits
				opts.Limits.ProcessingTimeout = time.Second // the rest is not asked about
				s, w := newServed(t, opts)
				w.say(ask("login", 0))
				go io.WriteString(w, strings.Repeat(c.line+"\n", 100))
				synctest.Wait()
				if stats := s.Stats(); stats.Queued != c.want {
					t.Errorf("%d messages wait, want %d", stats.Queued, c.want)
				}
				s.Close()
			})
		})
	}
}

// Any goroutine may admit, at any time, and as often as it likes.
func TestAdmitFromAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		s, w := newServed(t, gated(open))
		w.say(ask("a", 1), ask("b", 2))
		synctest.Wait()
		s.Admit() // while a handler runs
		s.Admit()
		w.say(ask("c", 3))
		w.expectNothing()
		if stats := s.Stats(); stats.Running != 1 || stats.Queued != 2 {
			t.Errorf("while the handler of Gate runs, stats are %+v", stats)
		}
		close(open)
		lines := w.heard()
		slices.Sort(lines[1:])
		if want := []string{answered(`"through"`, 1), answered(`"b handled"`, 2), answered(`"c handled"`, 3)}; !slices.Equal(lines, want) {
			t.Errorf("heard %q, want %q", lines, want)
		}
		s.Admit()
		w.say(ask("d", 4))
		w.expect(answered(`"d handled"`, 4))

		s, w = newServed(t, gated(methods{}))
		s.Admit() // while nothing runs
		w.say(ask("e", 5))
		w.expect(answered(`"e handled"`, 5))

		s, w = newServed(t, handling(methods{"f": reply}))
		s.Admit() // without Gate
		w.say(ask("f", 6))
		w.expect(answered("null", 6))

		s, _ = newServed(t, gated(methods{}))
		s.Close()
		s.Admit() // while it ends
		<-s.Done()
		s.Admit() // after the end
		if n := s.Stats().Concurrency; n != 20 {
			t.Errorf("Admit after the end: %d handlers", n)
		}
	})
}

// Many goroutines may admit while messages arrive.
func TestAdmitFromManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			opts := gated(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return "gate", nil }))
			opts.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })
			s, peer := newPipe(t, opts, nil)
			var calls []*rpcx.Future
			for i := range 50 {
				if i%10 == 5 {
					go s.Admit()
				}
				calls = append(calls, peer.Go(t.Context(), "m", nil))
			}
			byGate := true
			for i, call := range calls {
				var result string
				if err := call.Wait(t.Context(), &result); err != nil {
					t.Fatal(err)
				}
				if result == "gate" && !byGate {
					t.Fatalf("call %d was handled by Gate after one that was not", i)
				}
				byGate = result == "gate"
			}
			synctest.Wait() // every Admit has returned
			if result, err := rpcx.Call[string](t.Context(), peer, "last", nil); err != nil || result != "" {
				t.Errorf("after Admit the answer is %q, %v", result, err)
			}
		}
	})
}

// A server may admit in OnSession, and messages that are there already wait for it.
func TestAdmitInOnSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{Options: *gated(methods{}), OnSession: func(s *rpcx.Session) {
			time.Sleep(time.Second)
			s.Admit()
		}}
		m, _ := newServer(t, srv)
		w := m.connect(t)
		w.say(ask("a", 1))
		time.Sleep(time.Second)
		w.expect(answered(`"a handled"`, 1))
	})
}

// Without a handler, a session with Gate answers that it knows no method after Admit.
func TestGateWithoutHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newServed(t, &rpcx.Options{Gate: methods{"login": admit}})
		w.say(ask("login", 1), ask("work", 2))
		w.expect(answered(`"admitted"`, 1), failed(-32601, `unknown method "work"`, 2))
	})
}

// A handler of Gate that panics, or that ends its goroutine, has failed, and the next
// message goes to Gate.
func TestGateHandlerPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newServed(t, gated(methods{
			"panic": func(context.Context, *rpcx.Request) (any, error) { panic("no") },
			"both":  func(_ context.Context, req *rpcx.Request) (any, error) { req.Session().Admit(); panic("no") },
		}))
		w.say(ask("panic", 1), ask("work", 2))
		w.expect(failed(-32603, "internal server error", 1), failed(-32601, `unknown method "work"`, 2))
		w.say(ask("both", 3), ask("work", 4))
		w.expect(failed(-32603, "internal server error", 3), answered(`"work handled"`, 4))
		live(t, s)
	})
}

// A request that waits for Gate is cancelled at once, and one that Gate handles when its
// handler returns.
func TestGateAndCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := gated(methods{"login": hang})
		opts.Cancellation = rpcx.LSPCancellation
		_, w := newServed(t, opts)
		w.say(ask("login", 1), ask("work", 2))
		w.expectNothing()
		w.say(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":2}}`)
		w.expect(failed(-32800, "request cancelled", 2))
		w.say(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}`)
		w.expect(failed(-32800, "request cancelled", 1))
		w.say(ask("work", 3))
		w.expect(failed(-32601, `unknown method "work"`, 3))
	})
}

// A handler of Gate has Limits.ProcessingTimeout, and so has what waits behind it. While
// the handler goes on, nothing else is handled, and the log says so.
func TestGateAndProcessingTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		open := make(gate)
		opts := gated(open)
		opts.Logger = slog.New(log)
		opts.Limits = rpcx.Limits{ProcessingTimeout: 2 * time.Second, GateTimeout: time.Minute}
		s, w := newServed(t, opts)
		w.say(ask("login", 1), ask("next", 2))
		time.Sleep(2 * time.Second)
		w.expect(timedOut+"1}", timedOutNew+"2}")
		s.Admit()
		w.say(ask("later", 3))
		time.Sleep(time.Second)
		w.expectNothing() // the handler has not returned
		if got := log.attr("limit"); !slices.Contains(got, "[name=Options.Gate handlers=1]") {
			t.Errorf("the limits in the log are %q", got)
		}
		close(open)
		w.expect(answered(`"later handled"`, 3))
	})
}

// Shutdown answers what waits, waits for the handler of Gate, and for no other.
func TestGateAndShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle, _ := newServed(t, gated(methods{}))
		takes(t, 0, func() {
			if err := idle.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})

		s, w := newServed(t, gated(methods{"login": func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			return admit(ctx, req)
		}}))
		w.say(ask("login", 1), ask("work", 2))
		synctest.Wait()
		takes(t, time.Second, func() {
			go func() {
				time.Sleep(time.Millisecond)
				w.say(ask("more", 3))
			}()
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
		w.expect(shuttingDown+"2}", shuttingDown+"3}", answered(`"admitted"`, 1))

		// The timeout ends what would not end.
		hung, w := newServed(t, gated(methods{"login": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}))
		w.say(ask("login", 1))
		synctest.Wait()
		takes(t, 10*time.Second, func() { hung.Shutdown(t.Context()) })
		matches(t, hung.Err(), rpcx.ErrNotAdmitted)
	})
}

// A full queue in a pause does not hold up Shutdown or Close.
func TestGateEndsInAPause(t *testing.T) {
	for name, end := range map[string]func(s *rpcx.Session) error{
		"Shutdown": func(s *rpcx.Session) error { return s.Shutdown(context.Background()) },
		"Close":    func(s *rpcx.Session) error { s.Close(); <-s.Done(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newServed(t, gated(methods{"login": func(ctx context.Context, _ *rpcx.Request) (any, error) {
					select {
					case <-ctx.Done():
					case <-time.After(time.Second):
					}
					return nil, nil
				}}))
				w.say(ask("login", 0))
				go io.WriteString(w, strings.Repeat(ask("nope", 1)+"\n", 100))
				synctest.Wait()
				if stats := s.Stats(); stats.Pauses != 1 || stats.Queued != 16 {
					t.Fatalf("stats are %+v", stats)
				}
				start := time.Now()
				if err := end(s); err != nil || time.Since(start) > time.Second {
					t.Errorf("it took %v: %v", time.Since(start), err)
				}
			})
		})
	}
}

// When the peer has finished sending, what it has sent passes the gate.
func TestGateAndHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := gated(methods{"login": func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			return admit(ctx, req)
		}})
		opts.Role = rpcx.RoleServer
		s, far, w := newHalfWire(t, opts)
		w.say(ask("early", 1), ask("login", 2), ask("work", 3))
		far.CloseWrite()
		<-s.Done()
		w.expect(failed(-32601, `unknown method "early"`, 1), answered(`"admitted"`, 2), answered(`"work handled"`, 3))
		if s.Err() != io.EOF {
			t.Errorf("the session has ended with %v", s.Err())
		}

		// Nothing is left to do, admitted or not.
		s, far, w = newHalfWire(t, gated(methods{}))
		w.say(ask("early", 1))
		takes(t, 0, func() {
			far.CloseWrite()
			<-s.Done()
		})
		w.expect(failed(-32601, `unknown method "early"`, 1))
	})
}

// Notifications that a peer has sent before hanging up pass the gate, too.
func TestGateAndHangUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handled events
		open := make(chan struct{})
		opts := gated(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			<-open
			handled.add("gate %s", req.Method)
			return admit(ctx, req)
		}))
		opts.Handler = rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			handled.add("%s", req.Method)
			return nil, nil
		})
		opts.Order = rpcx.NotificationsFirst
		s, w := newServed(t, opts)
		w.say(sayNote("login", 1), sayNote("a", 1), sayNote("b", 1))
		w.Close()
		synctest.Wait()
		close(open)
		<-s.Done()
		if got := handled.take(); !slices.Equal(got, []string{"gate login", "a", "b"}) {
			t.Errorf("handled %q", got)
		}
	})
}

// Options.Middleware is around Gate as around Handler, and is made once.
func TestMiddlewareIsAroundGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen events
		made := 0
		opts := gated(methods{"login": admit})
		opts.Middleware = []func(rpcx.Handler) rpcx.Handler{func(next rpcx.Handler) rpcx.Handler {
			made++
			return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
				seen.add("%s", req.Method)
				if req.Method == "renamed" { // a request of its own is the same to the gate
					req = &rpcx.Request{Method: "login", ID: req.ID, Params: req.Params}
					result, err := next.ServeRPC(ctx, req)
					var e *rpcx.Error
					if errors.As(err, &e) {
						return e.Message, nil
					}
					return result, err
				}
				return next.ServeRPC(ctx, req)
			})
		}}
		_, w := newServed(t, opts)
		w.say(ask("early", 1), ask("login", 2), ask("work", 3), ask("renamed", 4))
		lines := w.heard()
		slices.Sort(lines[2:])
		if want := []string{failed(-32601, `unknown method "early"`, 1), answered(`"admitted"`, 2),
			answered(`"login handled"`, 4), answered(`"work handled"`, 3)}; !slices.Equal(lines, want) {
			t.Errorf("heard %q, want %q", lines, want)
		}
		if got := seen.take(); len(got) != 4 || got[0] != "early" || made != 1 {
			t.Errorf("a middleware that was made %d times has seen %q", made, got)
		}

		_, w = newServed(t, func() *rpcx.Options {
			o := *opts
			o.Gate = methods{"login": func(context.Context, *rpcx.Request) (any, error) { return "by the gate", nil }}
			return &o
		}())
		w.say(ask("renamed", 1))
		w.expect(answered(`"by the gate"`, 1))
	})
}

// A Gate that is a nil function or a nil router is refused.
func TestNilGateIsRefused(t *testing.T) {
	for _, g := range []rpcx.Handler{rpcx.HandlerFunc(nil), (*rpcx.Router)(nil)} {
		err := (&rpcx.Server{Options: rpcx.Options{Gate: g}}).Serve(newMemory())
		if want := fmt.Sprintf("serve: Options.Gate is a %T that is nil", g); err == nil || err.Error() != want {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
}

// An admitted session allocates for a call what a session without Gate does.
func TestGateAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	raw := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		params := req.Params.Positional
		return json.RawMessage(params[1 : len(params)-1]), nil
	})
	admitting := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		req.Session().Admit()
		return raw(ctx, req)
	})
	without := callAllocs(t, rpcx.Options{Handler: raw})
	for name, opts := range map[string]rpcx.Options{
		"admitted":     {Gate: admitting, Handler: raw},
		"not admitted": {Gate: raw},
	} {
		if with := callAllocs(t, opts); with > without {
			t.Errorf("%s: %v allocations a call with Gate, %v without", name, with, without)
		}
	}
}

// Over TCP, the first message of a client that pipelines is answered first.
func TestGateOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: *gated(methods{"login": admit})}
	go srv.Serve(l)
	defer srv.Wait(context.Background())
	defer srv.Close()
	for range 20 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		text.WriteString(ask("login", 0) + "\n")
		for i := range 100 {
			text.WriteString(ask("m", i+1) + "\n")
		}
		go io.WriteString(conn, text.String())
		replies := json.NewDecoder(conn)
		for i := range 101 {
			var reply struct {
				ID     int
				Result string
			}
			if err := replies.Decode(&reply); err != nil {
				t.Fatal(err)
			}
			if (i == 0) != (reply.ID == 0) || reply.Result == "" {
				t.Fatalf("reply %d is %+v", i, reply)
			}
		}
		conn.Close()
	}
}

// A member of a batch that is hung up on does not let in the members behind.
func TestGateHangsUpWithinABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		guesses, secrets := 0, 0
		opts := gated(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			guesses++
			if req.Method == "right" {
				req.Session().Admit()
				return "in", nil
			}
			req.Session().Admit() // taken back by the disconnect
			return rpcx.ReplyAndDisconnect(rpcx.Errorf(1, "wrong")), nil
		}))
		opts.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			secrets++
			return "secret", nil
		})
		s, w := newServed(t, opts)
		w.say("[" + ask("wrong", 1) + "," + `{"jsonrpc":"2.0","method":"note"}` + "," + ask("right", 2) + "," + ask("secret", 3) + "]" + "\n" + ask("secret", 4))
		const refused = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - shutting down","data":{"started":false,"reason":"shutting down"}},"id":`
		w.expect(`[{"jsonrpc":"2.0","error":{"code":1,"message":"wrong"},"id":1}, ` + refused + "2}, " + refused + "3}]")
		<-s.Done()
		if guesses != 1 || secrets != 0 {
			t.Errorf("Gate was called %d times, and Handler %d times", guesses, secrets)
		}
	})
}
