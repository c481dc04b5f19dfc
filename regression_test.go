package rpcx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// Each of these guards against what went wrong in some other library.

// A reply that came while the client was being closed was sent on a channel
// that had been closed, which is a panic; or the call was never completed.
func TestCloseRacingWithAReply(t *testing.T) {
	noLeak(t)
	for i := range 300 {
		a, b := rpcx.Pipe(nil, handling(methods{"reply": reply}))
		errs := make(chan error, 4)
		for range cap(errs) {
			go func() { errs <- a.Call(t.Context(), "reply", rpcx.Args{1}, nil) }()
		}
		for range i % 20 {
			runtime.Gosched()
		}
		if i%2 == 0 {
			a.Close()
		} else {
			b.Close()
		}
		for range cap(errs) {
			if err := <-errs; err != nil && !errors.Is(err, rpcx.ErrConnectionLost) && !errors.Is(err, rpcx.ErrClosed) {
				t.Errorf("the call ends with %v", err)
			}
		}
		<-a.Done()
		<-b.Done()
	}
}

// The reply to a call that Close had failed was taken for a violation of the protocol.
func TestReplyAfterCloseIsNoFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, nil)
		f, g := s.Go(t.Context(), "m", nil), newBatch(t, s, 2)
		s.Close() // but it has a second yet to write what was queued
		synctest.Wait()
		w.say(result(0, 1), `[`+result(1, 1)+`,`+result(2, 1)+`]`)
		time.Sleep(time.Minute)
		if stats := s.Stats(); stats.UnexpectedReplies != 0 || stats.Errors != 0 {
			t.Errorf("stats are %+v", stats)
		}
		matches(t, f.Err(), rpcx.ErrConnectionLost)
		matches(t, g.own.Err(), rpcx.ErrConnectionLost)
	})
}

// A logger was called under the session's lock, so one that asked the session
// for anything, to say whose record it was, stood still for ever.
func TestLoggerCallsBackIntoTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		opts := handling(methods{"fail": func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("failed") }})
		opts.Logger = slog.New(log)
		a, b := newPipe(t, handling(methods{"reply": reply}), opts)
		called := 0
		log.then = func() {
			b.Stats()
			b.Notify(t.Context(), "note", nil)
			if err := b.Call(t.Context(), "reply", nil, nil); err != nil {
				t.Error(err)
			}
			called++
			b.OnClose(func(error) {})
			if called == 2 {
				b.Close()
			}
		}
		takes(t, 0, func() {
			if err := a.Call(t.Context(), "fail", nil, nil); !errors.Is(err, rpcx.ErrInternalError) {
				t.Error(err)
			}
			a.Call(t.Context(), "fail", nil, nil)
			<-a.Done()
			<-b.Done()
		})
		if called != 2 {
			t.Errorf("the logger was called %d times", called)
		}
	})
}

// The same with hooks, and with those that close the session.
func TestHooksCallBackIntoTheSession(t *testing.T) {
	for name, set := range map[string]func(trace *rpcx.Trace, then func(s *rpcx.Session)){
		"Connected": func(trace *rpcx.Trace, then func(s *rpcx.Session)) { trace.Connected = then },
		"RequestSent": func(trace *rpcx.Trace, then func(s *rpcx.Session)) {
			trace.RequestSent = func(s *rpcx.Session, method string, _ rpcx.ID) {
				if method == "first" {
					then(s)
				}
			}
		},
		"ReplyReceived": func(trace *rpcx.Trace, then func(s *rpcx.Session)) {
			trace.ReplyReceived = func(s *rpcx.Session, method string, _ rpcx.ID, _ error, _ time.Duration) {
				if method == "first" {
					then(s)
				}
			}
		},
		"RequestReceived": func(trace *rpcx.Trace, then func(s *rpcx.Session)) {
			trace.RequestReceived = func(req *rpcx.Request) { then(req.Session()) }
		},
		"ReplySent": func(trace *rpcx.Trace, then func(s *rpcx.Session)) {
			trace.ReplySent = func(req *rpcx.Request, _ error, _ time.Duration) { then(req.Session()) }
		},
		"Closed": func(trace *rpcx.Trace, then func(s *rpcx.Session)) {
			trace.Closed = func(s *rpcx.Session, _ error) { then(s) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				called := make(chan struct{}, 10)
				trace := &rpcx.Trace{}
				set(trace, func(s *rpcx.Session) {
					s.Call(t.Context(), "reply", nil, nil)
					s.Notify(t.Context(), "reply", nil)
					s.Stats()
					s.Close()
					called <- struct{}{}
				})
				takes(t, 0, func() {
					opts := &rpcx.Options{Handler: methods{"first": reply, "reply": reply}, Trace: trace}
					a, b := newPipe(t, opts, handling(methods{"first": reply, "reply": reply}))
					a.Call(t.Context(), "first", nil, nil)
					b.Call(t.Context(), "first", nil, nil)
					a.Close()
					<-a.Done()
					<-b.Done()
					<-called
				})
			})
		})
	}
}

// What a call had borrowed for as long as it lasts was returned though the call
// was still known, and another call got the wrong answer.
func TestHookThatPanicsDoesNotMixUpCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var panicking bool
		s, w := newWire(t, &rpcx.Options{Trace: &rpcx.Trace{RequestSent: func(*rpcx.Session, string, rpcx.ID) {
			if panicking {
				panic("a hook")
			}
		}}})
		func() {
			defer func() { recover() }()
			panicking = true
			s.Call(t.Context(), "first", nil, nil)
		}()
		panicking = false
		got := make(chan int, 1)
		go func() {
			n, _ := rpcx.Call[int](t.Context(), s, "second", nil)
			got <- n
		}()
		w.heard()
		w.say(result(0, 10), result(1, 11))
		if n := <-got; n != 11 {
			t.Errorf("the second call got %d", n)
		}
	})
}

// Close waited for all calls to return, among them one that nobody waited for.
func TestAbandonedCallFollowedByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(t, nil, handling(methods{"hang": hang}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		abandoned := a.Go(t.Context(), "hang", nil)
		matches(t, a.Call(ctx, "hang", nil, nil), context.DeadlineExceeded)
		takes(t, 0, func() {
			a.Close()
			<-a.Done()
			<-b.Done()
		})
		matches(t, abandoned.Err(), rpcx.ErrConnectionLost)
	})
}

// A client that stopped reading held up the server, its other clients and its end.
func TestPeerThatStopsReadingHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		large := strings.Repeat("x", 100000)
		srv := &rpcx.Server{Options: *handling(methods{
			"large": func(context.Context, *rpcx.Request) (any, error) { return large, nil },
			"reply": reply,
		})}
		m, _ := newServer(t, srv)
		near, far := net.Pipe()
		defer far.Close()
		m.conns <- near
		for range 100 { // more than the outbox takes
			if _, err := far.Write([]byte(`{"jsonrpc":"2.0","method":"large","id":1}` + "\n")); err != nil {
				t.Fatal(err)
			}
		}
		w := m.connect(t)
		for range 100 {
			w.say(`{"jsonrpc":"2.0","method":"reply","id":1}`)
			w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
		}
		if n := srv.Stats().Sessions; n != 2 {
			t.Fatalf("%d sessions", n)
		}
		takes(t, time.Second, func() { srv.Close(); srv.Wait(context.Background()) })
	})
}

// A reply to nobody, or a second one, ended the session or hit another call.
func TestReplyToNobodyTwiceOrToACancelledCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		w.say(result(0, 99)) // before there is such a call
		w.expectNothing()
		f := s.Go(t.Context(), "m", nil)
		cancelled := s.Go(t.Context(), "m", nil)
		cancelled.Cancel()
		g := s.Go(t.Context(), "m", nil)
		w.heard()
		w.say(result(0, 10), result(0, 99), result(1, 99), result(7, 99), result(-2, 99), `{"jsonrpc":"2.0","result":99,"id":"x"}`,
			`{"jsonrpc":"2.0","result":99,"id":null}`, result(2, 12))
		w.expectNothing()
		var first, last int
		if f.Decode(&first) != nil || g.Decode(&last) != nil || first != 10 || last != 12 {
			t.Errorf("the calls got %d and %d", first, last)
		}
		matches(t, cancelled.Err(), rpcx.ErrCancelled)
		if stats := s.Stats(); stats.LateReplies != 1 || stats.UnexpectedReplies != 6 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

// The end of the connection was reported as context.Canceled, as if the caller
// had given up.
func TestEOFIsNoCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 1)
		a, b := newPipe(t, nil, handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			err := req.Session().Call(ctx, "never answered", nil, nil)
			matchesNot(t, err, context.Canceled)
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, nil
		}, "never answered": hang}))
		go a.Call(t.Context(), "m", nil, nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f, g := b.Go(ctx, "m", nil), newBatch(t, b, 1)
		synctest.Wait()
		b.NetConn().Close()
		for _, err := range []error{f.Wait(t.Context(), nil), g.own.Wait(t.Context(), nil), <-causes, b.Notify(t.Context(), "m", nil)} {
			if err == nil {
				t.Error("there is no error")
			}
			matchesNot(t, err, context.Canceled)
		}
		<-a.Done()
		<-b.Done()
		matchesNot(t, a.Err(), context.Canceled)
		matchesNot(t, b.Err(), context.Canceled)
	})
}

// Ids went through a float64, where these are the same.
func TestIDsBeyond2To53(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		s, w := newWire(t, handling(open))
		w.say(`{"jsonrpc":"2.0","method":"m","id":9007199254740992}`, `{"jsonrpc":"2.0","method":"m","id":9007199254740993}`)
		synctest.Wait()
		if n := s.Stats().Running; n != 2 {
			t.Errorf("%d handlers run", n)
		}
		close(open)
		lines := strings.Join(w.heard(), "\n")
		for _, id := range []string{"9007199254740992", "9007199254740993"} {
			if strings.Count(lines, `"id":`+id+`}`) != 1 {
				t.Errorf("%s is not answered once in\n%s", id, lines)
			}
		}

		s.Go(t.Context(), "m", nil).Cancel()
		f := s.Go(t.Context(), "m", nil) // has the id 1
		w.say(`{"jsonrpc":"2.0","result":99,"id":1.0000000000000000000001}`, `{"jsonrpc":"2.0","result":99,"id":18446744073709551617}`)
		if isDone(f) {
			t.Error("a call was answered under an id that is nearly its own")
		}
	})
}

// Names of members were compared without regard to case, so one program saw a
// method where another saw none.
func TestMethodInAnotherCaseIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			t.Error("it was handled")
			return nil, nil
		})))
		w.say(`{"jsonrpc":"2.0","Method":"m","id":1}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":1}`)
		f := s.Go(t.Context(), "m", nil)
		w.heard()
		w.say(`{"jsonrpc":"2.0","Result":1,"ID":0}`, `{"jsonrpc":"2.0","result":1,"ID":0}`)
		if isDone(f) {
			t.Error("a reply in another case was taken")
		}
	})
}

// An empty object was a response without an outcome, for call 0.
func TestEmptyObjectIsNoResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		f := s.Go(t.Context(), "m", nil)
		w.heard()
		w.say(`{}`, `[{}]`)
		if len(w.heard()) != 2 || isDone(f) {
			t.Errorf("the call is done: %v", f.Err())
		}
		live(t, s)
	})
}

// chanConn is a MessageConn over channels.
type chanConn struct {
	in, out chan []byte
	closed  chan struct{}
}

func newChanConn() *chanConn {
	return &chanConn{make(chan []byte), make(chan []byte, 10), make(chan struct{})}
}

func (c *chanConn) ReadMessage() ([]byte, error) {
	select {
	case msg := <-c.in:
		return msg, nil
	case <-c.closed:
		return nil, io.EOF
	}
}

func (c *chanConn) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		select {
		case c.out <- bytes.Clone(msg):
		case <-c.closed:
			return net.ErrClosed
		}
	}
	return nil
}

func (c *chanConn) Close() error {
	close(c.closed) // a session closes its connection once
	return nil
}

// allocated returns how many objects and bytes f allocates.
func allocated(f func()) (objects, bytes uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc
}

// batchOf returns a batch of n requests.
func batchOf(n int) []byte {
	const member = `{"jsonrpc":"2.0","method":"m","id":1},`
	return append(bytes.TrimSuffix([]byte("["+strings.Repeat(member, n)), []byte(",")), ']')
}

// Batches had no limit, and answering a long one took quadratic time.
func TestBatchOf280000(t *testing.T) {
	noLeak(t)
	answer := func(limit, members int) (answer []byte, objects, bytes uint64) {
		opts := handling(methods{"m": func(context.Context, *rpcx.Request) (any, error) { return nil, nil }})
		opts.Limits.Batch = limit
		opts.Limits.Response = -1
		opts.Limits.ProcessingTimeout = -1
		conn := newChanConn()
		s := rpcx.NewMessageSession(conn, opts)
		batch := batchOf(members)
		objects, bytes = allocated(func() {
			conn.in <- batch
			answer = <-conn.out
		})
		s.Close()
		<-s.Done()
		return answer, objects, bytes
	}
	_, few, fewBytes := answer(-1, 28000)
	long, many, manyBytes := answer(-1, 280000)
	if n := bytes.Count(long, []byte("result")); n != 280000 {
		t.Errorf("%d members of 280,000 were answered", n)
	}
	if objects, bytes := float64(many)/float64(few), float64(manyBytes)/float64(fewBytes); objects > 12 || bytes > 15 {
		t.Errorf("ten times the members took %.1f times the objects and %.1f times the bytes", objects, bytes)
	}
	refused, _, size := answer(0, 280000)
	if want := `{"jsonrpc":"2.0","error":{"code":-32600,"message":"batch too long: over 10,000 members (Limits.Batch)"},"id":null}`; string(refused) != want {
		t.Errorf("under the default limit the answer is %s", refused)
	}
	if limit := uint64(10000 * 1024); size > limit || manyBytes < 2*limit {
		t.Errorf("to refuse it took %d bytes, to answer it %d", size, manyBytes)
	}
}

// The same as it comes over a stream by default: it is not even kept.
func TestMessageThatIsTooLongIsNotKept(t *testing.T) {
	noLeak(t)
	near, far := net.Pipe()
	s := rpcx.NewSession(near, handling(methods{"reply": reply}))
	batch := append(batchOf(280000), '\n')
	const refused = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"message too large (over 1,000,000 bytes)"},"id":null}` + "\n"
	const next = `{"jsonrpc":"2.0","result":null,"id":1}` + "\n"
	line := make([]byte, 200)
	_, size := allocated(func() {
		far.Write(batch)
		fmt.Fprintln(far, `{"jsonrpc":"2.0","method":"reply","id":1}`)
		n, _ := io.ReadFull(far, line[:len(refused+next)])
		line = line[:n]
	})
	if string(line) != refused+next {
		t.Errorf("it and what comes after it are answered by %s", line)
	}
	if size > 4*rpcx.DefaultMaxSize {
		t.Errorf("%d bytes were allocated for a message of %d", size, len(batch))
	}
	if n := s.Stats().Errors; n != 1 {
		t.Errorf("%d errors are counted", n)
	}
	s.Close()
	far.Close()
	<-s.Done()
}
