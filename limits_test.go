package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"reflect"
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

// A reply that is too large is replaced by an error without a name, and the record beside
// it names the limit that it exceeds.
func TestLogNamesTheLimitOfAReply(t *testing.T) {
	text := func(n int) rpcx.Handler {
		return rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", n), nil })
	}
	for name, c := range map[string]struct {
		limits rpcx.Limits
		framer rpcx.Framer
		say    string
		want   string
	}{
		"Limits.Response":            {rpcx.Limits{Response: 1000}, nil, ask("large", 1), "[name=Limits.Response bytes=1000]"},
		"the framer's":               {rpcx.Limits{}, rpcx.NewlineFramer{MaxSize: 1000}, ask("large", 1), "[name=NewlineFramer.MaxSize bytes=1000]"},
		"the smaller of the two":     {rpcx.Limits{Response: 5000}, rpcx.NewlineFramer{MaxSize: 1000}, ask("large", 1), "[name=NewlineFramer.MaxSize bytes=1000]"},
		"replies of a batch":         {rpcx.Limits{Response: 1000}, nil, "[" + ask("half", 1) + "," + ask("half", 2) + "]", "[name=Limits.Response bytes=1000]"},
		"a batch as one message":     {rpcx.Limits{Response: -1}, rpcx.NewlineFramer{MaxSize: 1300}, "[" + ask("half", 1) + "," + ask("half", 2) + ",5]", "[name=NewlineFramer.MaxSize bytes=1300]"},
		"what batches wait with":     {rpcx.Limits{Response: -1, Outbox: 1000}, sizedLines{}, "[" + ask("half", 1) + "," + ask("half", 2) + "," + ask("hang", 3) + "]", ""},
		"a message conn of no limit": {rpcx.Limits{}, sizedLines{}, ask("large", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				opts := handling(methods{"large": text(2000).ServeRPC, "half": text(600).ServeRPC, "hang": hang})
				opts.Logger, opts.Limits, opts.Framer = slog.New(log), c.limits, c.framer
				opts.Limits.Concurrency = 1
				_, w := newWire(t, opts)
				w.say(c.say)
				synctest.Wait()
				got := log.attr("limit")
				if c.want == "" && len(got) > 0 || c.want != "" && !slices.Contains(got, c.want) {
					t.Errorf("the log has the limits %q, want %q", got, c.want)
				}
			})
		})
	}
}

// sizedLines is a framer without a limit.
type sizedLines struct{ rpcx.NewlineFramer }

func (sizedLines) MaxMessage() int { return 1 << 30 }

// An error by which a limit ends something names the limit and its field.
func TestErrorsNameTheirLimits(t *testing.T) {
	many := &rpcx.Batch{}
	for range 1001 {
		many.Notify("m", nil)
	}
	for name, c := range map[string]struct {
		fail func(t *testing.T) error
		want string
	}{
		"a batch of our own": {func(t *testing.T) error {
			s, _ := newWire(t, &rpcx.Options{Limits: rpcx.Limits{Batch: 1000}})
			return s.SendBatch(t.Context(), many)
		}, "over 1,000 members (Limits.Batch)"},
		"a message of our own": {func(t *testing.T) error {
			s, _ := newWire(t, &rpcx.Options{Framer: rpcx.JSONFramer{MaxSize: 1000}})
			return s.Notify(t.Context(), "m", rpcx.Args{strings.Repeat("x", 1000)})
		}, "over 1,000 bytes (JSONFramer.MaxSize)"},
		"a peer that does not read": {func(t *testing.T) error {
			s, _ := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{SendTimeout: 3 * time.Second}})
			s.Notify(t.Context(), "m", nil)
			<-s.Done()
			return s.Err()
		}, "rpcx: peer does not read: none of a write in 3s (Limits.SendTimeout)"},
		"a peer that does not read its replies": {func(t *testing.T) error {
			s, w := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{Outbox: 1000}})
			for range 5000 {
				if _, err := fmt.Fprintln(w, `{"id":1}`); err != nil {
					break
				}
			}
			return ended(t, s)
		}, "rpcx: peer does not read: over 1,000 bytes waiting (Limits.Outbox)"},
		"a handler that takes long": {func(t *testing.T) error {
			cause := make(chan error, 1)
			_, w := newWire(t, handling(methods{"m": func(ctx context.Context, _ *rpcx.Request) (any, error) {
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return nil, nil
			}}))
			w.say(ask("m", 1))
			return <-cause
		}, "rpcx: request timed out (Limits.ProcessingTimeout)"},
		"a message that is dropped": {func(t *testing.T) error {
			split := rpcx.NewlineFramer{MaxSize: 1000}.NewSplitter()
			_, _, err := split([]byte(strings.Repeat("x", 2000)), false)
			return err
		}, "framing error: dropping message over 1,000 bytes and re-synchronizing (NewlineFramer.MaxSize)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := c.fail(t); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the error is %v, want %s", err, c.want)
				}
			})
		})
	}
	_, err := (&rpcx.Dialer{Timeout: time.Millisecond, SOCKS: &rpcx.SOCKSProxy{Addr: "proxy.test:1", Dial: neverAnswers}}).Dial(t.Context(), "tcp://a.test:1", nil)
	var timeout net.Error
	if err == nil || strings.Count(err.Error(), "over 1ms (Dialer.Timeout)") != 1 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("dialling by a proxy failed with %v", err)
	}
}

// durations returns the names of the exported fields of type time.Duration of a struct.
func durations[T any]() (names []string) {
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		if f.IsExported() && f.Type == reflect.TypeFor[time.Duration]() {
			names = append(names, f.Name)
		}
	}
	return names
}

// setDuration sets a field of type time.Duration of the struct that p points to.
func setDuration(p any, name string, d time.Duration) {
	reflect.ValueOf(p).Elem().FieldByName(name).SetInt(int64(d))
}

// refused reports an error that does not say what is wrong.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("it is %v, want %q", err, want)
	}
}

// Each duration of the limits without a unit is refused by whatever takes options, before
// anything is connected, listened to or started.
func TestLimitsWithoutUnitAreRefused(t *testing.T) {
	names := durations[rpcx.Limits]()
	if len(names) < 11 {
		t.Fatalf("there are only the durations %q", names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			opts := &rpcx.Options{}
			setDuration(&opts.Limits, name, 30)
			want := "Limits." + name + " is 30ns: write 30*time.Second"
			d := rpcx.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
				t.Error("it is dialled")
				return nil, errors.New("not here")
			}}
			_, err := d.Dial(t.Context(), "tcp://localhost:1", opts)
			refused(t, err, want)
			_, err = rpcx.Command(t.Context(), exec.Command("cat"), opts)
			refused(t, err, want)
			_, err = rpcx.DialMessageSession(func() (rpcx.MessageConn, error) {
				t.Error("it is connected")
				return nil, errors.New("not here")
			}, opts)
			refused(t, err, want)

			refusedByServer(t, &rpcx.Server{Options: *opts}, want)
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			for function, call := range map[string]func(){
				"NewSession":        func() { rpcx.NewSession(near, opts) },
				"NewMessageSession": func() { rpcx.NewMessageSession(messageEnd(), opts) },
				"Pipe":              func() { rpcx.Pipe(nil, opts) },
				"Pipe's client":     func() { rpcx.Pipe(opts, nil) },
				"ServeConn":         func() { (&rpcx.Server{Options: *opts}).ServeConn(near) },
			} {
				func() {
					defer func() {
						if text, _ := recover().(string); text != "rpcx: "+want {
							t.Errorf("%s panics with %q", function, text)
						}
					}()
					call()
				}()
			}
		})
	}
}

// refusedByServer reports it if a function that serves does not return the error.
func refusedByServer(t *testing.T, srv *rpcx.Server, want string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, srv.Serve(l), want)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
	refused(t, srv.ServeContext(t.Context(), l), want)
	file := filepath.Join(t.TempDir(), "s")
	refused(t, srv.ListenAndServe(t.Context(), "unix://"+file), want)
}

func TestServerDurationsWithoutUnitAreRefused(t *testing.T) {
	names := durations[rpcx.Server]()
	if len(names) < 3 {
		t.Fatalf("there are only the durations %q", names)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			srv := &rpcx.Server{}
			setDuration(srv, name, 5000)
			refusedByServer(t, srv, "Server."+name+" is 5µs: a duration is at least 1ms, with its unit, such as 30*time.Second")
		})
	}
}

func TestDialerTimeoutWithoutUnitIsRefused(t *testing.T) {
	d := rpcx.Dialer{Timeout: 10, DialContext: func(context.Context, string, string) (net.Conn, error) {
		t.Error("it is dialled")
		return nil, errors.New("not here")
	}}
	_, err := d.Dial(t.Context(), "tcp://localhost:1", nil)
	refused(t, err, "dial tcp://localhost:1: Dialer.Timeout is 10ns: write 10*time.Second")
	_, err = d.Connect(t.Context(), "tcp://localhost:1")
	refused(t, err, "dial tcp://localhost:1: Dialer.Timeout is 10ns: write 10*time.Second")
}

// Durations that mean something are taken: a millisecond, and below zero "off".
func TestDurationsThatAreTaken(t *testing.T) {
	for _, name := range durations[rpcx.Limits]() {
		for _, d := range []time.Duration{-1, time.Millisecond} {
			opts := &rpcx.Options{}
			setDuration(&opts.Limits, name, d)
			a, b := rpcx.Pipe(opts, opts)
			a.Close()
			b.Close()
			<-a.Done()
			<-b.Done()
		}
	}
}

func TestDialMessageSession(t *testing.T) {
	failure := errors.New("nobody is there")
	for name, c := range map[string]struct {
		conn rpcx.MessageConn
		err  error
		want string
	}{
		"an error":               {nil, failure, failure.Error()},
		"nothing":                {nil, nil, "connect returned neither a connection nor an error"},
		"a pointer that is nil ": {(*messagePipe)(nil), nil, "connect returned neither a connection nor an error"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return c.conn, c.err }, nil)
			if s != nil || err == nil || err.Error() != c.want {
				t.Errorf("it returns %v, %v", s, err)
			}
		})
	}
	wrapped := 0
	opts := &rpcx.Options{Middleware: []func(rpcx.Handler) rpcx.Handler{func(h rpcx.Handler) rpcx.Handler { wrapped++; return h }}}
	s, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) { return messageEnd(), nil }, opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	<-s.Done()
	if wrapped != 1 {
		t.Errorf("the middleware is wrapped %d times", wrapped)
	}
}

// messageEnd returns a connection whose peer is silent.
func messageEnd() rpcx.MessageConn {
	near, _ := newMessagePipe()
	return near
}

// sized is a framer of somebody else that tells its limit.
type sized struct {
	rpcx.Framer
	max int
}

func (f sized) MaxMessage() int { return f.max }

// untold is a framer that does not tell its limit.
type untold struct{ rpcx.Framer }

// sizedConn is a MessageConn that tells its limit.
type sizedConn struct {
	*chanConn
	max int
}

func (c sizedConn) MaxMessage() int         { return c.max }
func (c sizedConn) MaxMessageField() string { return "sizedConn.max" }

// A message over the framer's limit is not sent, and the error has both sizes and the
// field.
func TestOwnMessageOverTheLimit(t *testing.T) {
	for _, c := range []struct {
		framer rpcx.Framer
		field  string
	}{
		{rpcx.NewlineFramer{MaxSize: 1000}, "NewlineFramer.MaxSize"},
		{rpcx.LengthFramer{MaxSize: 1000}, "LengthFramer.MaxSize"},
		{rpcx.HeaderFramer{MaxSize: 1000}, "HeaderFramer.MaxSize"},
		{sized{rpcx.LengthFramer{}, 1000}, "rpcx_test.sized.MaxMessage"},
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := rpcx.NewSession(near, &rpcx.Options{Framer: c.framer})
			checkOwnMessages(t, s, c.field)
			n := 0
			buf := make([]byte, 4096)
			go func() {
				for err := error(nil); err == nil; {
					var some int
					some, err = far.Read(buf)
					n += some
				}
			}()
			synctest.Wait()
			if n < 1000 || n > 1100 {
				t.Errorf("%T: %d bytes were sent, want one message of 1,000", c.framer, n)
			}
			s.Close()
			<-s.Done()
		})
	}
}

func TestOwnMessageOverTheLimitOfAMessageConn(t *testing.T) {
	conn := newChanConn()
	s := rpcx.NewMessageSession(sizedConn{conn, 1000}, nil)
	checkOwnMessages(t, s, "sizedConn.max")
	if msg := <-conn.out; len(msg) != 1000 {
		t.Errorf("%s was sent", msg)
	}
	s.Close()
	<-s.Done()
}

// checkOwnMessages sends messages over 1,000 bytes in all ways, and one that is not.
func checkOwnMessages(t *testing.T, s *rpcx.Session, field string) {
	t.Helper()
	ctx := t.Context()
	large := rpcx.Args{strings.Repeat("x", 990)}
	some := rpcx.Args{strings.Repeat("x", 500)}
	refused := func(what string, err error, size int) {
		t.Helper()
		got, ok := errors.AsType[*rpcx.SizeError](err)
		if want := (rpcx.SizeError{Size: size, Limit: 1000, Field: field}); !ok || *got != want {
			t.Errorf("%s: %v, want %+v", what, err, want)
			return
		}
		if want := fmt.Sprintf("over 1,000 bytes (%s), to be raised at both ends", field); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var result any
	refused("Call", s.Call(ctx, "m", large, &result), 1041)
	refused("Go", s.Go(ctx, "m", large).Wait(ctx, nil), 1041)
	refused("Notify", s.Notify(ctx, "m", large), 1034)
	var b rpcx.Batch
	member := b.Call("m", some, nil)
	b.Notify("m", some)
	refused("SendBatch", s.SendBatch(ctx, &b), 1099)
	refused("a member of the batch", member.Err(), 1099)
	if stats := s.Stats(); stats.Pending != 0 || stats.MessagesSent != 0 || stats.OutboxBytes != 0 {
		t.Errorf("stats are %+v", stats)
	}
	s.Go(ctx, "m", rpcx.Args{strings.Repeat("x", 1000-len(`{"jsonrpc":"2.0","method":"m","id":4,"params":[""]}`))})
	if n := s.Stats().MessagesSent; n != 1 {
		t.Errorf("%d messages were sent", n)
	}
}

// Without a limit, and where it is not known, everything is sent.
func TestOwnMessageWithoutALimit(t *testing.T) {
	for _, f := range []rpcx.Framer{rpcx.NewlineFramer{MaxSize: -1}, untold{rpcx.NewlineFramer{}}, sized{rpcx.NewlineFramer{}, 0}} {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, &rpcx.Options{Framer: f})
			if err := s.Notify(t.Context(), "m", rpcx.Args{strings.Repeat("x", 2_000_000)}); err != nil {
				t.Errorf("%T: %v", f, err)
			}
			if lines := w.heard(); len(lines) != 1 || len(lines[0]) < 2_000_000 {
				t.Errorf("%T: %d lines were sent", f, len(lines))
			}
		})
	}
}

// The limit of a plain message is that of its command.
func TestOwnPayloadOverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := plain(nil)
		opts.Framer = rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet, MaxPayload: 100, MaxBlock: 200}
		near, far := net.Pipe()
		s := rpcx.NewSession(near, opts)
		for _, c := range []struct {
			command string
			size    int
			field   string // "" if it is sent
		}{
			{"tx", 100, ""}, {"tx", 101, "BitcoinFramer.MaxPayload"},
			{"block", 200, ""}, {"block", 201, "BitcoinFramer.MaxBlock"},
		} {
			err := s.Notify(t.Context(), c.command, make([]byte, c.size))
			size, ok := errors.AsType[*rpcx.SizeError](err)
			if ok != (c.field != "") || ok && (size.Limit != c.size-1 || size.Field != c.field) || !ok && err != nil {
				t.Errorf("a payload of %d bytes for %q: %v", c.size, c.command, err)
			}
		}
		far.Close()
		<-s.Done()
	})
}

// Limits.Response is by default what the framer takes, and never more.
func TestResponseLimitIsTheFramers(t *testing.T) {
	for _, c := range []struct {
		name     string
		framer   rpcx.Framer
		response int
		limit    int
		said     string
	}{
		{"by default", nil, 0, 1_000_000, "1,000,000"},
		{"of a framer with another", rpcx.NewlineFramer{MaxSize: 2000}, 0, 2000, "2,000"},
		{"of a framer with more", rpcx.NewlineFramer{MaxSize: 3_000_000}, 0, 3_000_000, "3,000,000"},
		{"less than the framer's", rpcx.NewlineFramer{MaxSize: 2000}, 1500, 1500, "1,500"},
		{"more than the framer's", rpcx.NewlineFramer{MaxSize: 2000}, 5000, 2000, "2,000"},
		{"none, but for the framer's", rpcx.NewlineFramer{MaxSize: 2000}, -1, 2000, "2,000"},
		{"of a framer that does not tell", untold{rpcx.NewlineFramer{}}, 0, rpcx.DefaultMaxSize, "1,000,000"},
		{"none, of a framer that does not tell", untold{rpcx.NewlineFramer{}}, -1, 0, ""},
		{"of a framer without one", rpcx.NewlineFramer{MaxSize: -1}, 0, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"text": func(_ context.Context, req *rpcx.Request) (any, error) {
					var n []int
					if err := req.Params.Bind(&n); err != nil {
						return nil, err
					}
					return strings.Repeat("x", n[0]), nil
				}})
				opts.Framer, opts.Limits.Response = c.framer, c.response
				_, w := newWire(t, opts)
				const around = len(`{"jsonrpc":"2.0","result":"","id":1}`)
				if c.limit == 0 {
					w.say(`{"jsonrpc":"2.0","method":"text","params":[4000000],"id":1}`)
					if got := w.heard(); len(got) != 1 || len(got[0]) != 4_000_000+around {
						t.Errorf("%d replies", len(got))
					}
					return
				}
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"text","params":[%d],"id":1}`, c.limit-around))
				if got := w.heard(); len(got) != 1 || len(got[0]) != c.limit {
					t.Errorf("%.100q, want a reply of %d bytes", got, c.limit)
				}
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"text","params":[%d],"id":2}`, c.limit-around+1))
				w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over ` + c.said + ` bytes)"},"id":2}`)
			})
		})
	}
}

// The replies to a batch become smaller until the framer takes them all: the largest
// are replaced by errors.
func TestBatchOfRepliesOverTheLimit(t *testing.T) {
	texts := methods{"text": func(_ context.Context, req *rpcx.Request) (any, error) {
		var n []int
		if err := req.Params.Bind(&n); err != nil {
			return nil, err
		}
		return strings.Repeat("x", n[0]), nil
	}}
	request := func(id string, size int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"text","params":[%d],"id":%s}`, size, id)
	}
	result := func(id string, size int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","result":"%s","id":%s}`, strings.Repeat("x", size), id)
	}
	refused := func(id string) string {
		return `{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 1,000 bytes)"},"id":` + id + `}`
	}
	const invalid = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":9}`
	for _, c := range []struct {
		name     string
		requests []string
		want     string
	}{
		{"all fit", []string{request("1", 400), request("2", 400)}, "[" + result("1", 400) + ", " + result("2", 400) + "]"},
		{"the second has no room", []string{request("1", 400), request("2", 600)}, "[" + result("1", 400) + ", " + refused("2") + "]"},
		{"nor the error in its place", []string{request("1", 200), request("2", 650), request("3", 900)},
			"[" + result("1", 200) + ", " + refused("2") + ", " + refused("3") + "]"},
		{"nor an invalid member's", []string{`{"jsonrpc":"2.0","method":1,"id":9}`, request("1", 150), request("2", 700)},
			"[" + invalid + ", " + result("1", 150) + ", " + refused("2") + "]"},
		{"no room for errors only", strings.Split(strings.TrimSuffix(strings.Repeat(request("1", 50)+"\n", 14), "\n"), "\n"), refused("null")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(texts)
				opts.Order = rpcx.Sequential
				opts.Framer = splitSize{rpcx.NewlineFramer{}, rpcx.NewlineFramer{MaxSize: 1000}}
				_, w := newWire(t, opts)
				w.say("[" + strings.Join(c.requests, ",") + "]")
				w.expect(c.want)
				w.say(request("5", 1))
				w.expect(result("5", 1))
			})
		})
	}
}

// splitSize receives as one framer and sends as another.
type splitSize struct {
	rpcx.Framer
	out rpcx.NewlineFramer
}

func (f splitSize) MaxMessage() int { return f.out.MaxMessage() }

// An id that makes the answer too large is not repeated.
func TestErrorWithALargeID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Framer = rpcx.NewlineFramer{MaxSize: 1000}
		_, w := newWire(t, opts)
		id := `"` + strings.Repeat("i", 940) + `"`
		w.say(`{"jsonrpc":"2.0","method":"none","id":` + id + `}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 1,000 bytes)"},"id":null}`)
		w.say(`{"jsonrpc":"2.0","method":1,"id":` + id + `}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":null}`)
		w.say(`{"jsonrpc":"2.0","method":"reply","id":` + id + `}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":` + id + `}`)
	})
}

// flood says a line n times, so that nothing of it finds the queue full.
func (w *wire) flood(line string, n int) {
	w.t.Helper()
	const atOnce = 1000
	for ; n > 0; n -= atOnce {
		if _, err := w.Write([]byte(strings.Repeat(line+"\n", min(n, atOnce)))); err != nil {
			return // the session has ended
		}
		synctest.Wait()
		w.heard()
	}
}

// A server that sends what a client can do nothing with does not keep it busy for ever.
func TestPeerErrors(t *testing.T) {
	for name, c := range map[string]struct {
		line string
		most int // that are taken at once, in tenths of ten times PeerErrors
	}{
		"what is no JSON":              {"rubbish", 1},
		"what is no message":           {"{}", 1},
		"replies to nothing":           {`{"jsonrpc":"2.0","result":1,"id":77}`, 1},
		"replies under no id":          {`{"jsonrpc":"2.0","error":{"code":1,"message":"m"},"id":null}`, 1},
		"lines that are too long":      {strings.Repeat("x", 101), 1},
		"notifications nobody handles": {`{"jsonrpc":"2.0","method":"unknown"}`, 10},
		"requests nobody handles":      {`{"jsonrpc":"2.0","method":"unknown","id":1}`, 10},
		"arguments that do not fit":    {`{"jsonrpc":"2.0","method":"known","params":[true]}`, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("known", rpcx.Func(func(int) {}, "n"))
				opts := &rpcx.Options{Handler: router, Framer: rpcx.NewlineFramer{MaxSize: 100}}
				opts.Limits.PeerErrors = 20
				s, w := newWire(t, opts)
				w.flood(c.line, 200*c.most)
				live(t, s)
				time.Sleep(5 * time.Second) // half of it is forgotten
				w.flood(c.line, 100*c.most)
				live(t, s)
				w.flood(c.line, c.most)
				if err := ended(t, s); err != rpcx.ErrFaultyPeer {
					t.Errorf("the session ended with %v", err)
				}
			})
		})
	}
	for name, line := range map[string]string{
		"long rubbish":    `{"a":"` + strings.Repeat("x", 89_998) + `"`,
		"a long reply":    `{"jsonrpc":"2.0","id":77,"result":"` + strings.Repeat("x", 90_000) + `"}`,
		"one in an array": `[{"jsonrpc":"2.0","id":77,"result":"` + strings.Repeat("x", 90_000) + `"}]`,
		"a long request":  `{"jsonrpc":"2.0","method":"unknown","params":["` + strings.Repeat("x", 900_000) + `"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := &rpcx.Options{}
				opts.Limits.PeerErrors = 20
				s, w := newWire(t, opts)
				for n := 0; s.Err() == nil && n < 300; n++ {
					if _, err := w.Write([]byte(line + "\n")); err != nil {
						break
					}
					synctest.Wait()
					if n == 10 {
						live(t, s)
					}
					if n > 25 {
						t.Fatal("the session goes on")
					}
				}
				if err := ended(t, s); err != rpcx.ErrFaultyPeer {
					t.Errorf("the session ended with %v", err)
				}
			})
		})
	}
	t.Run("members of a batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := &rpcx.Options{}
			opts.Limits.PeerErrors = 20
			s, w := newWire(t, opts)
			w.say("[" + strings.Repeat(`{"jsonrpc":"2.0","result":1,"id":77},`, 199) + `{"jsonrpc":"2.0","result":1,"id":77}]`)
			live(t, s)
			w.say("[" + `{"jsonrpc":"2.0","result":1,"id":77}` + "]")
			if err := ended(t, s); err != rpcx.ErrFaultyPeer {
				t.Errorf("the session ended with %v", err)
			}
		})
	})
}

// What an honest server sends is free, however fast it comes.
func TestPeerErrorsDoNotMeetHonestServers(t *testing.T) {
	const rubbish, unknown = "rubbish", `{"jsonrpc":"2.0","method":"unknown"}`
	for name, play := range map[string]func(t *testing.T, s *rpcx.Session, w *wire){
		"100,000 notifications that are handled": func(_ *testing.T, _ *rpcx.Session, w *wire) {
			w.flood(`{"jsonrpc":"2.0","method":"known","params":[1]}`, 100_000)
		},
		"100,000 that are not": func(_ *testing.T, _ *rpcx.Session, w *wire) { w.flood(unknown, 100_000) },
		"a program that prints 50,000 lines": func(_ *testing.T, _ *rpcx.Session, w *wire) {
			w.flood(rubbish, 50_000)
		},
		"one that goes on printing": func(_ *testing.T, _ *rpcx.Session, w *wire) {
			for range 100 {
				w.flood(rubbish, 1000)
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := rpcx.NewRouter()
				router.Handle("known", rpcx.Func(func(int) {}, "n"))
				s, w := newWire(t, handling(router))
				play(t, s, w)
				live(t, s)
			})
		})
	}
	t.Run("late replies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := &rpcx.Options{}
			opts.Limits.PeerErrors = 1
			opts.Limits.Outgoing = -1
			s, w := newWire(t, opts)
			const calls = 1000
			for range calls {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				s.Go(ctx, "m", nil)
				defer cancel()
			}
			time.Sleep(time.Second)
			w.heard()
			for id := range calls {
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id))
			}
			live(t, s)
			if n := s.Stats().LateReplies; n != calls {
				t.Errorf("%d replies were late", n)
			}
		})
	})
	t.Run("errors that it answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := &rpcx.Options{}
			opts.Limits.PeerErrors = 1
			s, w := newWire(t, opts)
			for range 1000 {
				f := s.Go(t.Context(), "m", nil)
				w.say(`{"jsonrpc":"2.0","error":{"code":-32601,"message":"no"},"id":` + idOf(t, w.heard()[0]) + `}`)
				matches(t, f.Wait(t.Context(), nil), rpcx.ErrMethodNotFound)
			}
			live(t, s)
		})
	})
}

// The default is for clients; servers have cost. Both can be set, and switched off.
func TestPeerErrorsDefault(t *testing.T) {
	const most = 100_000
	for name, c := range map[string]struct {
		limits rpcx.Limits
		role   rpcx.Role
		ends   bool
	}{
		"of a client":                        {rpcx.Limits{}, rpcx.RoleDefault, true},
		"of a client with other limits":      {rpcx.Limits{Queue: 100}, rpcx.RoleClient, true},
		"of a client, switched off":          {rpcx.Limits{PeerErrors: -1}, rpcx.RoleDefault, false},
		"of a server that does not see cost": {rpcx.Limits{CostOff: true}, rpcx.RoleServer, false},
		"of a server, set":                   {rpcx.Limits{CostOff: true, PeerErrors: 1000}, rpcx.RoleServer, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Limits: c.limits, Role: c.role})
				if c.limits.PeerErrors == 0 {
					w.flood("{}", most)
					live(t, s)
				}
				w.flood("{}", most/10+1)
				if !c.ends {
					live(t, s)
				} else if err := ended(t, s); err != rpcx.ErrFaultyPeer {
					t.Errorf("the session ended with %v", err)
				}
			})
		})
	}
}
