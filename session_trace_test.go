package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
	"github.com/google/go-cmp/cmp"
)

// moreTrace returns functions of Trace that record, and that ask the session for something.
func (e *events) moreTrace() *rpcx.Trace {
	return &rpcx.Trace{
		RequestReceived: func(req *rpcx.Request) { e.add("received %s", req.Method) },
		Refused: func(s *rpcx.Session, method string, id rpcx.ID, err *rpcx.Error) {
			s.Stats()
			e.add("refused %s %q: %s, not started: %v", method, id, err.Message, err.NotStarted())
		},
		BatchReceived: func(s *rpcx.Session, members int) { s.Stats(); e.add("batch of %d", members) },
		BatchSent: func(s *rpcx.Session, members, bytes int) {
			s.Stats()
			e.add("sent a batch of %d, %d bytes", members, bytes)
		},
		RequestSent: func(s *rpcx.Session, method string, id rpcx.ID) { e.add("sent %s %q", method, id) },
		BadMessage:  func(s *rpcx.Session, err error) { s.Stats(); e.add("bad: %v", err) },
		Closed:      func(s *rpcx.Session, err error) { e.add("closed: %v", err) },
	}
}

// TestTraceRefused checks that each request whose handler is never called is traced once.
func TestTraceRefused(t *testing.T) {
	blocked := func(t *testing.T, change func(*rpcx.Options)) (*rpcx.Session, *wire, *events, gate) {
		e, g := &events{}, make(gate)
		opts := handling(g)
		opts.Trace = e.moreTrace()
		opts.Limits.Concurrency = 1
		if change != nil {
			change(opts)
		}
		s, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"first","id":1}`)
		e.expect(t, "received first")
		return s, w, e, g
	}
	t.Run("a timeout before the start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, w, e, g := blocked(t, nil)
			w.say(`{"jsonrpc":"2.0","method":"a","id":2}`, `{"jsonrpc":"2.0","method":"b"}`,
				`[{"jsonrpc":"2.0","method":"c","id":3},{"jsonrpc":"2.0","method":"d"},5]`)
			e.expect(t, "batch of 3", "bad: protocol error: request object must be a dictionary (code -32600)")
			time.Sleep(31 * time.Second)
			const why = ": server busy - request timed out, not started: true"
			e.expect(t, `refused a "2"`+why, `refused b ""`+why, `refused c "3"`+why, `refused d ""`+why)
			close(g)
			e.expect(t)
		})
	})
	t.Run("the queue", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := &events{}
			opts := handling(methods{"queued": reply, "first": func(ctx context.Context, req *rpcx.Request) (any, error) {
				return nil, req.Session().Call(ctx, "back", nil, nil) // tied: reading goes on
			}})
			opts.Trace = e.moreTrace()
			opts.Limits.Concurrency, opts.Limits.Queue = 1, 1
			_, w := newWire(t, opts)
			w.say(`{"jsonrpc":"2.0","method":"first","id":1}`)
			e.expect(t, "received first", `sent back "0"`)
			w.say(`{"jsonrpc":"2.0","method":"queued","id":2}`, `{"jsonrpc":"2.0","method":"full","id":3}`, `{"jsonrpc":"2.0","method":"full"}`)
			const why = ": server busy - over 1 requests waiting (Limits.Queue), not started: true"
			e.expect(t, `refused full "3"`+why, `refused full ""`+why)
			w.say(`{"jsonrpc":"2.0","result":1,"id":0}`)
			e.expect(t, "received queued")
		})
	})
	t.Run("the queue before Admit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := &events{}
			opts := gated(methods{"first": func(ctx context.Context, req *rpcx.Request) (any, error) {
				return nil, req.Session().Call(ctx, "back", nil, nil) // tied: reading goes on
			}})
			opts.Trace = e.moreTrace()
			opts.Limits.GateQueue = 1
			s, w := newWire(t, opts)
			w.say(`{"jsonrpc":"2.0","method":"first","id":1}`)
			e.expect(t, "received first", `sent back "0"`)
			w.say(`{"jsonrpc":"2.0","method":"queued","id":2}`, `{"jsonrpc":"2.0","method":"full","id":3}`)
			ended(t, s)
			e.expect(t, `refused full "3": server busy - over 1 requests waiting (Limits.GateQueue), not started: true`,
				"closed: "+s.Err().Error())
		})
	})
	t.Run("a batch behind a hang-up before Admit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := &events{}
			opts := gated(methods{"wrong": func(context.Context, *rpcx.Request) (any, error) {
				return nil, rpcx.ReplyAndDisconnect(nil)
			}})
			opts.Trace = e.moreTrace()
			s, w := newWire(t, opts)
			w.say(`[{"jsonrpc":"2.0","method":"wrong","id":1},{"jsonrpc":"2.0","method":"right","id":2},{"jsonrpc":"2.0","method":"note"}]`)
			ended(t, s)
			const why = ": server busy - shutting down, not started: true"
			got := e.take()
			slices.Sort(got) // RequestReceived has no order with the others
			want := []string{"batch of 3", "closed: rpcx: session closed", "received wrong", `refused note ""` + why, `refused right "2"` + why}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("wrong events (-want +got):\n%s", diff)
			}
		})
	})
	t.Run("Shutdown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w, e, g := blocked(t, nil)
			w.say(`{"jsonrpc":"2.0","method":"waits","id":2}`)
			go s.Shutdown(context.Background())
			synctest.Wait()
			w.say(`{"jsonrpc":"2.0","method":"late","id":3}`, `{"jsonrpc":"2.0","method":"late"}`)
			const why = ": server busy - shutting down, not started: true"
			e.expect(t, `refused waits "2"`+why, `refused late "3"`+why, `refused late ""`+why)
			close(g)
			ended(t, s)
			e.expect(t, "closed: rpcx: session closed")
		})
	})
	t.Run("cost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w, e, g := blocked(t, func(opts *rpcx.Options) { opts.Limits.CostHard = 1000 })
			w.say(`{"jsonrpc":"2.0","method":"waits","id":2}`, `[{"jsonrpc":"2.0","method":"member","id":3}]`)
			e.expect(t, "batch of 1")
			s.BumpCost(2000)
			w.say(`{"jsonrpc":"2.0","method":"late","id":4}`)
			const why = ": excessive resource usage, not started: false"
			synctest.Wait()
			close(g)
			ended(t, s)
			e.expect(t, `refused late "4"`+why, `refused waits "2"`+why, `refused member "3"`+why, "closed: "+s.Err().Error())
		})
	})
	t.Run("a delayed member of a batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := &events{}
			opts := handling(methods{"m": reply})
			opts.Trace = e.moreTrace()
			opts.Limits.CostHard, opts.Limits.CostSoft, opts.Limits.CostDelay = 1000, 100, time.Minute
			s, w := newWire(t, opts)
			s.BumpCost(800)
			w.say(`[{"jsonrpc":"2.0","method":"m","id":1},{"jsonrpc":"2.0","method":"m","id":2}]`)
			e.expect(t, "batch of 2")
			time.Sleep(31 * time.Second)
			const why = ": server busy - request timed out, not started: true"
			e.expect(t, `refused m "1"`+why, `refused m "2"`+why)
		})
	})
	t.Run("not: a cancellation, and the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w, e, g := blocked(t, func(opts *rpcx.Options) { opts.Cancellation = rpcx.LSPCancellation })
			w.say(`{"jsonrpc":"2.0","method":"a","id":2}`, `{"jsonrpc":"2.0","method":"b","id":3}`,
				`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":2}}`)
			synctest.Wait()
			s.Close()
			close(g)
			ended(t, s)
			e.expect(t, "closed: rpcx: session closed")
		})
	})
}

// TestTraceBatches checks both ends of a batch.
func TestTraceBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ours, theirs events
		a, b := newPipe(t, &rpcx.Options{Trace: ours.moreTrace()}, &rpcx.Options{Handler: methods{"m": reply}, Trace: theirs.moreTrace()})
		var batch rpcx.Batch
		batch.Call("m", nil, nil)
		batch.Notify("m", nil)
		if err := a.SendBatch(t.Context(), &batch); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the bytes are counted after the write
		ours.expect(t, fmt.Sprintf("sent a batch of 2, %d bytes", a.Stats().BytesSent), `sent m "0"`, `sent m ""`)
		got := theirs.take()
		slices.Sort(got) // several goroutines
		if want := []string{"batch of 2", "received m", "received m"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if b.Stats().EventsDropped != 0 {
			t.Error("events were dropped")
		}
	})
}

// TestTraceBadMessage checks that faults of the peer are traced in their order, and before
// Closed.
func TestTraceBadMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		s, w := newWire(t, &rpcx.Options{Handler: methods{}, Trace: e.moreTrace(), Framer: rpcx.NewlineFramer{MaxSize: 100}})
		w.say(`{"jsonrpc":"2.0","method":5}`, `no JSON`, `{"jsonrpc":"2.0","result":1,"id":7}`, strings.Repeat("x", 200))
		synctest.Wait()
		w.Close()
		ended(t, s)
		got := e.take()
		if len(got) != 5 || !strings.Contains(got[0], "-32600") || !strings.Contains(got[1], "-32700") || !strings.Contains(got[2], "7") ||
			!strings.Contains(got[3], "100") || !strings.HasPrefix(got[4], "closed") {
			t.Errorf("the events are %q", got)
		}
	})
}

// TestTraceThatBlocks checks that a function that does not return holds up neither the
// reader nor the handlers, that a flood of events takes limited memory, and that the
// session's end waits for the function.
func TestTraceThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		var mu sync.Mutex
		calls, concurrent := 0, 0
		trace := &rpcx.Trace{BadMessage: func(*rpcx.Session, error) {
			mu.Lock()
			calls++
			if concurrent++; concurrent > 1 {
				t.Error("two calls at the same time")
			}
			mu.Unlock()
			<-block
			mu.Lock()
			concurrent--
			mu.Unlock()
		}}
		opts := &rpcx.Options{Handler: methods{"m": reply}, Trace: trace}
		opts.Limits.CostOff, opts.Limits.PeerErrors = true, -1
		s, w := newWire(t, opts)
		const flood = 3000
		bad := `[{"jsonrpc":"2.0","method":"m"}` + strings.Repeat(",5", 15) + "]"
		for range flood / 15 {
			w.say(bad)
		}
		w.heard()
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
		if dropped := s.Stats().EventsDropped; dropped < flood-2*1024 || dropped >= flood-1024 {
			t.Errorf("%d events were dropped", dropped)
		}
		s.Close()
		live(t, s)
		close(block)
		ended(t, s)
		mu.Lock()
		defer mu.Unlock()
		if dropped := int(s.Stats().EventsDropped); calls+dropped != flood {
			t.Errorf("%d calls, %d dropped, want %d together", calls, dropped, flood)
		}
	})
}

// TestTraceRefusedIsBounded checks that long methods of waiting events take limited memory.
func TestTraceRefusedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block, bytes := make(chan struct{}), 0
		opts := handling(methods{"hold": hang})
		opts.Trace = &rpcx.Trace{Refused: func(_ *rpcx.Session, method string, _ rpcx.ID, _ *rpcx.Error) {
			<-block
			bytes += len(method)
		}}
		opts.Limits.Concurrency, opts.Limits.CostOff = 1, true
		s, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"hold"}`)
		synctest.Wait()
		go s.Shutdown(context.Background())
		synctest.Wait()
		for range 100 {
			w.say(`{"jsonrpc":"2.0","method":"` + strings.Repeat("m", 10_000) + `","id":1}`)
		}
		w.heard()
		if dropped := s.Stats().EventsDropped; dropped < 80 {
			t.Errorf("%d events were dropped", dropped)
		}
		close(block)
		s.Close()
		ended(t, s)
		if bytes == 0 || bytes > 64<<10+10_000 {
			t.Errorf("%d bytes of methods were kept", bytes)
		}
	})
}

// TestTraceConnRefused checks the trace of connections that a server refuses.
func TestTraceConnRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e events
		srv := &rpcx.Server{MaxSessions: 2, MaxGroup: 1}
		srv.Options.Limits.Group = func(*rpcx.Session) string { return "all" }
		block := make(chan struct{})
		srv.Options.Trace = &rpcx.Trace{ConnRefused: func(of *rpcx.Server, limit string, addr net.Addr) {
			e.add("%s %v %d", limit, addr, of.Stats().Sessions)
			<-block
		}}
		connect := func() *rpcx.Session {
			here, there := net.Pipe()
			t.Cleanup(func() { here.Close() })
			return srv.ServeConn(there)
		}
		first := connect()
		for range 3 {
			if connect() != nil {
				t.Error("a connection over MaxGroup was taken")
			}
		}
		e.expect(t, "Server.MaxGroup pipe 1") // the others wait
		close(block)
		e.expect(t, "Server.MaxGroup pipe 1", "Server.MaxGroup pipe 1")
		first.Close()
		<-first.Done()

		srv.Shutdown(t.Context())
		srv = &rpcx.Server{MaxSessions: 1, Options: srv.Options}
		connect()
		if connect() != nil || srv.Accepts() {
			t.Error("a connection over MaxSessions was taken")
		}
		e.expect(t, "Server.MaxSessions pipe 1", "Server.MaxSessions <nil> 1")
		if n := srv.Stats().EventsDropped; n != 0 {
			t.Errorf("%d events were dropped", n)
		}
		srv.Shutdown(t.Context())
	})
}

// TestTraceConnRefusedByHandshakes checks the address of a handshake that is given up.
func TestTraceConnRefusedByHandshakes(t *testing.T) {
	secure, _ := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		var e events
		srv := &rpcx.Server{MaxHandshakes: 1}
		srv.Options.Trace = &rpcx.Trace{ConnRefused: func(_ *rpcx.Server, limit string, addr net.Addr) { e.add("%s %v", limit, addr) }}
		m := newSecureServer(t, srv, secure)
		first := m.dial(t)
		e.expect(t)
		time.Sleep(time.Second)
		if second := m.dial(t); !isClosed(first) || isClosed(second) {
			t.Error("it is not the first handshake that was given up")
		}
		e.expect(t, "Server.MaxHandshakes pipe")
	})
}

// TestTraceConnRefusedBeforeTheHandshake checks the address of a connection that waits for
// TLS or a Preamble while the server is full. Before a Preamble, the address is unknown.
func TestTraceConnRefusedBeforeTheHandshake(t *testing.T) {
	secure, _ := certificate(t)
	for _, c := range []struct {
		preamble func(context.Context, net.Conn) (net.Conn, error)
		want     string
	}{
		{nil, "Server.MaxSessions pipe"},
		{func(_ context.Context, conn net.Conn) (net.Conn, error) { return conn, nil }, "Server.MaxSessions <nil>"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var e events
			srv := &rpcx.Server{MaxSessions: 1, Preamble: c.preamble}
			srv.Options.Trace = &rpcx.Trace{ConnRefused: func(_ *rpcx.Server, limit string, addr net.Addr) { e.add("%s %v", limit, addr) }}
			m := newSecureServer(t, srv, secure)
			here, there := net.Pipe()
			defer here.Close()
			srv.ServeConn(there)
			if !isClosed(m.dial(t)) {
				t.Error("the connection was not refused")
			}
			e.expect(t, c.want)
		})
	}
}

// TestTraceConnRefusedIsBounded checks that a function that does not return holds up
// nothing.
func TestTraceConnRefusedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block, calls := make(chan struct{}), 0
		srv := &rpcx.Server{MaxSessions: 1}
		srv.Options.Trace = &rpcx.Trace{ConnRefused: func(*rpcx.Server, string, net.Addr) { calls++; <-block }}
		_, there := net.Pipe()
		srv.ServeConn(there)
		const flood = 3000
		for range flood {
			srv.Accepts()
		}
		synctest.Wait()
		srv.Shutdown(t.Context())
		close(block)
		synctest.Wait()
		if stats := srv.Stats(); stats.EventsDropped < flood-2*1024 || calls+int(stats.EventsDropped) != flood || stats.Refused["Server.MaxSessions"] != flood {
			t.Errorf("%d calls, %+v", calls, stats)
		}
	})
}

// TestReplyReceivedHasTheID checks that ReplyReceived gets the id of RequestSent.
func TestReplyReceivedHasTheID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		methodOf, wrong := map[string]string{}, 0
		trace := &rpcx.Trace{
			RequestSent: func(_ *rpcx.Session, method string, id rpcx.ID) {
				mu.Lock()
				defer mu.Unlock()
				methodOf[string(id)] = method
			},
			ReplyReceived: func(_ *rpcx.Session, method string, id rpcx.ID, err error, _ time.Duration) {
				time.Sleep(time.Millisecond) // RequestSent may come later
				mu.Lock()
				defer mu.Unlock()
				if methodOf[string(id)] != method || err != nil && !errors.Is(err, rpcx.ErrMethodNotFound) {
					wrong++
				}
				delete(methodOf, string(id))
			},
		}
		a, _ := newPipe(t, &rpcx.Options{Trace: trace}, handling(methods{"m0": reply, "m1": reply}))
		var batch rpcx.Batch
		for i := range 3 {
			a.Go(t.Context(), fmt.Sprintf("m%d", i), nil)
			batch.Call(fmt.Sprintf("m%d", i), nil, nil)
		}
		a.SendBatch(t.Context(), &batch)
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if wrong > 0 || len(methodOf) > 0 {
			t.Errorf("%d wrong ids, %d calls without a reply", wrong, len(methodOf))
		}
	})
}

// TestTraceAllocs checks that functions of Trace that are not called add no allocation.
func TestTraceAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	h := rpcx.HandlerFunc(reply)
	var e events
	set := rpcx.Trace{Refused: e.moreTrace().Refused, BadMessage: e.moreTrace().BadMessage, BatchReceived: e.moreTrace().BatchReceived}
	without, with := callAllocs(t, rpcx.Options{Handler: h}), callAllocs(t, rpcx.Options{Handler: h, Trace: &set})
	if with > without {
		t.Errorf("%v allocations a call with Trace, %v without", with, without)
	}
}

// TestReplyReceivedBeforeCallReturns checks that Session.Call calls Trace.ReplyReceived on
// the goroutine of the caller, once, for each outcome, and with the id of RequestSent.
func TestReplyReceivedBeforeCallReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent, got string // without a lock: the race detector finds another goroutine
		s, w := newWire(t, &rpcx.Options{Trace: &rpcx.Trace{
			RequestSent: func(_ *rpcx.Session, method string, id rpcx.ID) { sent = method + " " + id.String() },
			ReplyReceived: func(_ *rpcx.Session, method string, id rpcx.ID, err error, d time.Duration) {
				got += fmt.Sprintf("%s %v %v %v;", method, id, err, d)
			},
		}})
		call := func(ctx context.Context, answer string) {
			t.Helper()
			got = ""
			go func() {
				time.Sleep(time.Second)
				if answer != "" {
					w.say(answer)
				}
			}()
			err := s.Call(ctx, "m", nil, nil)
			if want := fmt.Sprintf("%s %v 1s;", sent, err); got != want {
				t.Errorf("ReplyReceived was called with %q, want %q", got, want)
			}
		}
		call(t.Context(), `{"jsonrpc":"2.0","result":1,"id":0}`)
		call(t.Context(), `{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":1}`)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		call(ctx, "")
	})
}
