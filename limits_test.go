package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// What requests are answered at Limits.ProcessingTimeout, up to their ids.
const (
	timedOut    = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out","data":{"started":true,"reason":"timeout"}},"id":`
	timedOutNew = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - request timed out","data":{"started":false,"reason":"queue"}},"id":` // not begun
)

// What requests are answered when the session is shutting down, up to their ids.
const shuttingDown = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - shutting down","data":{"started":false,"reason":"shutting down"}},"id":`

func TestProcessingTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began events
		causes := make(chan error, 1)
		opts := handling(methods{"late": func(ctx context.Context, req *rpcx.Request) (any, error) {
			began.add("%s", req.ID)
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != 30*time.Second {
				t.Errorf("the context ends in %v, %v", time.Until(deadline), ok)
			}
			takes(t, 30*time.Second, func() { <-ctx.Done() })
			causes <- context.Cause(ctx)
			time.Sleep(15 * time.Second) // all the same
			return "late", nil
		}, "next": func(_ context.Context, req *rpcx.Request) (any, error) {
			began.add("%s", req.ID)
			return "next", nil
		}})
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"late","id":1}`)
		w.expectNothing()
		time.Sleep(10 * time.Second)
		w.say(`{"jsonrpc":"2.0","method":"next","id":2}`) // its time runs while it waits
		time.Sleep(10 * time.Second)
		w.say(`{"jsonrpc":"2.0","method":"next","id":3}`)
		time.Sleep(10*time.Second - 1)
		w.expectNothing()

		time.Sleep(time.Nanosecond)
		w.expect(timedOut + `1}`)
		cause := <-causes
		matches(t, cause, context.DeadlineExceeded)
		if began := began.take(); s.Stats().Running != 1 || !slices.Equal(began, []string{"1"}) {
			t.Errorf("the slot of a handler that runs was given away: %q began", began)
		}

		time.Sleep(10*time.Second - 1)
		w.expectNothing()
		time.Sleep(time.Nanosecond)
		w.expect(timedOutNew + `2}`)
		time.Sleep(5 * time.Second) // now the handler returns
		w.expect(`{"jsonrpc":"2.0","result":"next","id":3}`)
		if began := began.take(); !slices.Equal(began, []string{"3"}) {
			t.Errorf("%q began, want what was not answered yet", began)
		}
		if stats := s.Stats(); stats.LateResults != 1 || stats.Errors != 2 || stats.Running != 0 || stats.Queued != 0 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

func TestProcessingTimeoutOfABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(methods{"reply": reply, "stuck": open.ServeRPC})
		opts.Limits.Concurrency = 2
		s, w := newWire(t, opts)
		w.say(`[` + strings.Join([]string{
			`{"jsonrpc":"2.0","method":"stuck","id":1}`,
			`{"jsonrpc":"2.0","method":"reply","params":[2],"id":2}`,
			`{"jsonrpc":"2.0","method":"stuck"}`,
			`{"jsonrpc":"2.0","method":"reply","id":4}`,
			`{"jsonrpc":"2.0","method":"reply"}`,
			`5`,
		}, ",") + `]`)
		time.Sleep(30*time.Second - 1)
		w.expectNothing()
		time.Sleep(time.Nanosecond)
		w.expect(`[` + timedOut + `1}, {"jsonrpc":"2.0","result":2,"id":2}, ` + timedOutNew + `4}, ` +
			`{"jsonrpc":"2.0","error":{"code":-32600,"message":"request object must be a dictionary"},"id":null}]`)
		close(open)
		w.expectNothing()
		if stats := s.Stats(); stats.LateResults != 2 || stats.NotificationsDropped != 1 || stats.Running != 0 {
			t.Errorf("stats are %+v", stats)
		}
		if stats := s.Stats(); stats.Errors != 1+4 { // the invalid one, and each that was not over
			t.Errorf("%d errors were counted", stats.Errors)
		}
	})
}

func TestProcessingTimeoutOfNotifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits.Concurrency = 1
		opts.Limits.ProcessingTimeout = 3 * time.Second
		s, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"runs"}`, `{"jsonrpc":"2.0","method":"waits"}`)
		time.Sleep(time.Minute)
		close(open)
		w.expectNothing()
		if stats := s.Stats(); stats.LateResults != 1 || stats.NotificationsDropped != 1 || stats.RequestsReceived != 1 {
			t.Errorf("with one that ran too long, and one that never ran: %+v", stats)
		}
	})
}

func TestProcessingTimeoutCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"slow": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			if deadline, ok := ctx.Deadline(); ok {
				t.Errorf("the context ends in %v", time.Until(deadline))
			}
			time.Sleep(1000 * time.Hour)
			return nil, ctx.Err()
		}})
		opts.Limits.ProcessingTimeout = -1
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"slow","id":1}`)
		time.Sleep(1000 * time.Hour)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
	})
}

func TestPeerThatDoesNotReadIsEvicted(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit time.Duration
		want  time.Duration
	}{
		{"after 20 s", 0, 20 * time.Second},
		{"after what Limits say", 3 * time.Second, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{SendTimeout: c.limit}})
				time.Sleep(time.Hour) // with nothing to be read
				live(t, s)
				takes(t, c.want, func() { lost(t, s.Call(t.Context(), "m", nil, nil), false, rpcx.ErrSlowPeer) })
				if err := ended(t, s); !errors.Is(err, rpcx.ErrSlowPeer) {
					t.Errorf("it ended with %v", err)
				}
			})
		})
	}
	t.Run("not at all if that is switched off", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{SendTimeout: -1}})
			s.Notify(t.Context(), "m", nil)
			time.Sleep(1000 * time.Hour)
			live(t, s)
		})
	})
	t.Run("not while it reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newDeafWire(t, nil)
			s.Notify(t.Context(), "m", rpcx.Args{strings.Repeat("x", 200<<10)})
			for range 200 {
				time.Sleep(time.Second)
				if _, err := io.CopyN(io.Discard, w, 1<<10); err != nil {
					t.Fatal(err)
				}
			}
			live(t, s)
			<-s.Done() // a few bytes are left
			if !errors.Is(s.Err(), rpcx.ErrSlowPeer) {
				t.Errorf("it ended with %v", s.Err())
			}
		})
	})
}

// TestSlowSocketIsNotEvicted: a connection that keeps messages apart is given a
// few of them at a time.
func TestSlowSocketIsNotEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newSockets()
		s := rpcx.NewMessageSession(near, nil)
		for range 100 {
			s.Notify(t.Context(), "m", note(1000))
		}
		for range 100 {
			time.Sleep(time.Second)
			<-far.in
		}
		live(t, s)
		s.Close()
		<-s.Done()
	})
}

// partSocket writes each message in parts, which take their time.
type partSocket struct {
	*socket
	parts   int
	written func() // nil if it tells of none
}

func (s *partSocket) WriteMessages(msgs [][]byte) error {
	for range s.parts {
		time.Sleep(15 * time.Second)
		if s.written != nil {
			s.written()
		}
	}
	return s.socket.WriteMessages(msgs)
}

type tellingPartSocket struct{ *partSocket }

func (s tellingPartSocket) OnWritten(written func()) { s.written = written }

// A large message may take long if its parts do not.
func TestSendTimeoutIsForAPart(t *testing.T) {
	for name, c := range map[string]struct {
		tells bool
		want  error
	}{
		"told of":     {true, nil},
		"not told of": {false, rpcx.ErrSlowPeer},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := newSockets()
				conn := &partSocket{socket: near, parts: 10}
				var s *rpcx.Session
				if c.tells {
					s = rpcx.NewMessageSession(tellingPartSocket{conn}, nil)
				} else {
					s = rpcx.NewMessageSession(conn, nil)
				}
				defer func() {
					s.Close()
					<-s.Done()
				}()
				s.Notify(t.Context(), "m", nil)
				if c.want != nil {
					<-s.Done()
					matches(t, s.Err(), c.want)
					return
				}
				takes(t, 150*time.Second, func() { <-far.in })
				live(t, s)
			})
		})
	}
}

// note is a notification of exactly size bytes with its newline.
func note(size int) rpcx.Args {
	return rpcx.Args{strings.Repeat("x", size-len(`{"jsonrpc":"2.0","method":"m","params":[""]}`+"\n"))}
}

func TestFullOutboxMakesCallersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{Outbox: 1000, SendTimeout: -1}})
		for range 10 {
			takes(t, 0, func() { s.Notify(t.Context(), "m", note(100)) })
		}
		if n := s.Stats().OutboxBytes; n != 1000 {
			t.Fatalf("the outbox has %d bytes", n)
		}

		impatient := errors.New("impatient")
		for name, send := range map[string]func(ctx context.Context) error{
			"Notify": func(ctx context.Context) error { return s.Notify(ctx, "m", nil) },
			"Call":   func(ctx context.Context) error { return s.Call(ctx, "m", nil, nil) },
			"Go":     func(ctx context.Context) error { return s.Go(ctx, "m", nil).Err() },
			"SendBatch": func(ctx context.Context) error {
				var b rpcx.Batch
				b.Call("m", nil, nil)
				return s.SendBatch(ctx, &b)
			},
		} {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, impatient)
			takes(t, 5*time.Second, func() {
				if err := send(ctx); !errors.Is(err, impatient) {
					t.Errorf("%s returns %v", name, err)
				}
			})
			cancel()
		}
		if stats := s.Stats(); stats.Pending != 0 || stats.OutboxBytes != 1000 || stats.MessagesSent != 10 {
			t.Errorf("those who gave up left something behind: %+v", stats)
		}

		sent := make(chan int, 100)
		for i := range 20 {
			go func() {
				if err := s.Notify(t.Context(), "m", note(50+i)); err != nil {
					t.Error(err)
				}
				sent <- 50 + i
			}()
			synctest.Wait()
		}
		if len(sent) != 0 {
			t.Fatalf("%d did not wait", len(sent))
		}
		w.listen()
		lines := w.heard()
		if len(lines) != 30 || len(sent) != 20 {
			t.Fatalf("%d lines were heard, %d sent", len(lines), 10+len(sent))
		}
		for i, line := range lines[10:] { // in the order in which they came to wait
			if len(line)+1 != 50+i {
				t.Errorf("the line in place %d has %d bytes", i, len(line)+1)
			}
		}
	})
}

func TestAnyMessageFitsIntoAnEmptyOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{Outbox: 1000, SendTimeout: -1}})
		takes(t, 0, func() { s.Notify(t.Context(), "m", note(100000)) })
		second := make(chan struct{})
		go func() {
			s.Notify(t.Context(), "m", note(50))
			close(second)
		}()
		synctest.Wait()
		select {
		case <-second:
			t.Error("another message found room beside it")
		default:
		}
		w.listen()
		if lines := w.heard(); len(lines) != 2 || len(lines[0])+1 != 100000 {
			t.Errorf("%d lines were heard", len(lines))
		}
		<-second
	})
}

func TestCloseReleasesThoseWhoWaitForRoom(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *rpcx.Session, w *wire)
		want error
	}{
		"Close":             {func(s *rpcx.Session, _ *wire) { s.Close() }, rpcx.ErrClosed},
		"the peer hangs up": {func(_ *rpcx.Session, w *wire) { w.Close() }, rpcx.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{Outbox: 100}})
				s.Notify(t.Context(), "m", note(100))
				errs := make(chan error)
				for range 10 {
					go func() { errs <- s.Notify(context.Background(), "m", note(60)) }()
					go func() { errs <- s.Call(context.Background(), "m", nil, nil) }()
				}
				synctest.Wait()
				takes(t, 0, func() {
					c.end(s, w)
					for range 20 {
						matches(t, <-errs, c.want)
					}
				})
			})
		})
	}
}

func TestRepliesOfTheReaderHaveAReserveInTheOutbox(t *testing.T) {
	const answer = `{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}` + "\n"
	for _, outbox := range []int{1000, 100000} {
		synctest.Test(t, func(t *testing.T) {
			s, w := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{Outbox: outbox, SendTimeout: -1}})
			fits := (outbox + 256<<10) / len(answer)
			for range fits {
				w.say("rubbish")
			}
			live(t, s)
			if n := s.Stats().OutboxBytes; n != fits*len(answer) {
				t.Errorf("%d answers of %d bytes are %d bytes in the outbox", fits, len(answer), n)
			}
			f := s.Go(t.Context(), "m", 0) // fails, having the wrong params, whatever the outbox holds
			if !isDone(f) {
				t.Error("a call that cannot be sent waits for room")
			}
			w.say("rubbish")
			if err := ended(t, s); !errors.Is(err, rpcx.ErrSlowPeer) {
				t.Errorf("one more, and it ended with %v", err)
			}
		})
	}
}

func TestFullQueueRefuses(t *testing.T) {
	const request = `{"jsonrpc":"2.0","method":"m","id":1}`
	busy := func(why string) string {
		return `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - ` + why + `","data":{"started":false,"reason":"queue"}},"id":1}`
	}
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		why    string
	}{
		{"by the number of requests", rpcx.Limits{Queue: 3}, "over 3 requests waiting (Limits.Queue)"},
		{"by their bytes", rpcx.Limits{QueueBytes: 3*len(request) + 1}, fmt.Sprintf("over %d bytes of requests waiting (Limits.QueueBytes)", 3*len(request)+1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(gate)
				opts := &rpcx.Options{Handler: open, Limits: c.limits}
				opts.Limits.Concurrency = 1
				s, w := newWire(t, opts)
				w.say(request)
				synctest.Wait() // it runs
				w.say(request, request, request)
				w.expectNothing()

				w.say(request)
				w.expect(busy(c.why))
				w.say(`{"jsonrpc":"2.0","method":"m"}`)
				w.expectNothing()
				w.say(`[` + request + `,{"jsonrpc":"2.0","method":"m"},` + request + `]`)
				w.expect(`[` + busy(c.why) + `, ` + busy(c.why) + `]`)
				stats := s.Stats()
				if stats.Queued != 3 || stats.QueuedBytes != 3*len(request) || stats.NotificationsDropped != 2 || stats.Errors != 3 {
					t.Errorf("stats are %+v", stats)
				}

				close(open)
				through := `{"jsonrpc":"2.0","result":"through","id":1}`
				w.expect(through, through, through, through)
				w.say(request) // there is room again
				w.expect(through)
				if stats := s.Stats(); stats.Queued != 0 || stats.QueuedBytes != 0 {
					t.Errorf("when all is done: %+v", stats)
				}
			})
		})
	}
	t.Run("but not what is alone, nor the members of one batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			open := make(gate)
			opts := &rpcx.Options{Handler: open, Limits: rpcx.Limits{Concurrency: 1, Queue: 1, QueueBytes: 10}}
			s, w := newWire(t, opts)
			w.say(request)
			synctest.Wait()
			w.say(`[` + request + `,` + request + `,` + request + `]`)
			w.expectNothing()
			if stats := s.Stats(); stats.Queued != 1 || stats.Running != 1 {
				t.Errorf("stats are %+v", stats)
			}
			close(open)
			through := `{"jsonrpc":"2.0","result":"through","id":1}`
			w.expect(through, `[`+through+`, `+through+`, `+through+`]`)
		})
	})
}

func TestConcurrency(t *testing.T) {
	for _, c := range []struct {
		name        string
		limit, want int
	}{
		{"20 handlers by default", 0, 20},
		{"as many as Limits say", 3, 3},
		{"all at once if it is off", -1, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(gate)
				opts := handling(open)
				opts.Limits.Concurrency = c.limit
				s, w := newWire(t, opts)
				for range 10 {
					w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				}
				w.say(`[` + strings.Repeat(`{"jsonrpc":"2.0","method":"m","id":1},`, 39) + `{"jsonrpc":"2.0","method":"m","id":1}]`)
				synctest.Wait()
				if n := s.Stats().Running; n != c.want {
					t.Errorf("%d handlers run", n)
				}
				open <- struct{}{} // lets one through, and so another one in
				synctest.Wait()
				if n := s.Stats().Running; n != min(c.want, 49) {
					t.Errorf("after one has returned, %d handlers run", n)
				}
				close(open)
				if lines := w.heard(); len(lines) != 11 {
					t.Errorf("%d answers", len(lines))
				}
			})
		})
	}
}
