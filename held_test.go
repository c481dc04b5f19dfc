package rpcx

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What held a session up, or made it hold or do too much.

// Waiters were woken after the writer's writes only, and not after that of a
// sender who had been lent the write side.
func TestSenderThatWaitsBehindALentWriteIsWoken(t *testing.T) {
	frame := []byte("message\n")
	for name, written := range map[string]int{"all was written": len(frame), "a part was": 3} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			o := outbox{idle: true, sock: new(socket), wake: sync.Cond{L: &mu}}
			if !o.lend(len(frame), true) {
				t.Fatal("a sender that is alone was not lent the write side")
			}
			if o.room(1, len(frame)) {
				t.Error("there is room beside a message that is being written")
			}
			waiter := make(chan struct{}, 1)
			o.line.turns = append(o.line.turns, waiter)
			o.unlend(frame, written)
			if written < len(frame) { // the writer has the rest, and wakes who waits
				f := o.take()
				if string(f.buf) != "sage\n" || o.idle {
					t.Errorf("left to the writer is %q; it is idle: %v", f.buf, o.idle)
				}
				o.giveBack(f)
			}
			select {
			case <-waiter:
			default:
				t.Error("who waited for room was not woken")
			}
			if !o.room(len(frame), len(frame)) || o.written != 1 {
				t.Errorf("afterwards %d bytes and %d messages were written", o.size(), o.written)
			}
		})
	}
}

// A request that is about to be refused can expire first.
func TestRequestThatExpiresBeforeItIsRefusedIsAnsweredOnce(t *testing.T) {
	o := newOffline(JSONRPCv2)
	o.receive([]byte(`{"jsonrpc":"2.0","method":"m","id":1}`))
	o.lock()
	waiting := o.in.waiting()
	waiting[0].expire(o.Session)
	o.incoming.remove(waiting[0].due())
	waiting[0].refuse(o.Session, ServerBusy("shutting down"), fromHandler)
	o.unlock()
	if sent := o.sent(); len(sent) != 1 {
		t.Errorf("it is answered with %s", sent)
	}
}

// A batch of small members is small on the wire only.
func TestWaitingBatchCountsWhatItHolds(t *testing.T) {
	o := newOffline(JSONRPCv2)
	o.pressure.insist = true // reading goes on
	batch := []byte(`[{"jsonrpc":"2.0","method":"m","id":1}` + strings.Repeat(",0", 9999) + `]`)
	refused := 0
	for range 10 {
		o.receive(batch)
		refused += len(o.sent())
	}
	if held := o.Stats().QueuedBytes; held > 8<<20 || refused == 0 {
		t.Errorf("after 10 batches of 10,000 members %d bytes wait and %d were refused", held, refused)
	}
}

// Batches are decoded into the same items, the short behind the long.
func TestReaderThatWaitsHoldsNoMessage(t *testing.T) {
	r := new(reading)
	for _, n := range []int{2, 99, 3} {
		batch := strings.Repeat(`,{"jsonrpc":"2.0","method":"m","params":[1],"id":1}`, n)
		JSONRPCv2.Decode(&r.Message, []byte("["+batch[1:]+"]"), 0)
	}
	items := r.Items[:cap(r.Items)]
	r.release()
	for i := range items {
		if items[i].ID != nil || items[i].Params.Positional != nil {
			t.Fatalf("item %d of the last messages is held", i)
		}
	}
}

// stuckFramer reports an error, or a message, in no bytes, again and again.
type stuckFramer struct {
	NewlineFramer
	err error
}

func (f stuckFramer) NewSplitter() bufio.SplitFunc {
	return func([]byte, bool) (int, []byte, error) { return 0, []byte{}, f.err }
}

func TestFramerWithoutProgressEndsTheSession(t *testing.T) {
	for name, stuck := range map[string]error{
		"a recoverable error in no bytes": &FrameError{Message: "stuck", Recoverable: true},
		"a message in no bytes":           nil,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer far.Close()
				s := NewSession(near, &Options{Framer: stuckFramer{err: stuck}})
				far.Write([]byte("x"))
				<-s.Done()
				var frame *FrameError
				if err := s.Err(); !errors.As(err, &frame) || frame.Recoverable {
					t.Errorf("it ended with %v", err)
				}
			})
		})
	}
}

// A slice for all the arguments was made before the first was seen to be bad.
func TestVariadicArgumentsTakeMemoryAsTheyAreDecoded(t *testing.T) {
	type large struct{ A [2048]byte }
	h := Func(func(_ context.Context, _ ...large) error { return nil })
	params := []byte("[" + strings.Repeat("0,", 100_000) + "0]")
	allocs := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := h.ServeRPC(context.Background(), &Request{Method: "m", Params: Params{Positional: params}}); err == nil {
				b.Fatal("numbers were taken for structs")
			}
		}
	})
	if n := allocs.AllocedBytesPerOp(); n > 1<<20 {
		t.Errorf("%d bytes were allocated for arguments that are refused at the first", n)
	}
}

// A peer that keeps asking, and reads slowly, kept the outbox from being empty.
func TestShutdownDoesNotWaitForWhatIsRefusedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		s := NewSession(near, nil)
		asked, read := make(chan struct{}), make(chan struct{})
		ended := make(chan error, 1)
		go func() { // asks all the time
			defer close(asked)
			for i := 0; ; i++ {
				if _, err := io.WriteString(far, `{"jsonrpc":"2.0","method":"m","id":`+strconv.Itoa(i)+"}\n"); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}()
		go func() { // reads a little
			defer close(read)
			buf := make([]byte, 256)
			for {
				if _, err := far.Read(buf); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
		time.Sleep(time.Second)
		go func() { ended <- s.Shutdown(t.Context()) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Shutdown waits for a peer that goes on asking")
			s.Close()
			<-ended
		}
		<-asked
		<-read
	})
}

// Cancel works before a batch is sent, and while it is.
func TestCancelBeforeABatchIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := HandlerFunc(func(_ context.Context, req *Request) (any, error) { return req.Method, nil })
		a, b := Pipe(nil, &Options{Handler: answer})
		defer b.Close()
		defer a.Close()
		var batch Batch
		var kept string
		cancelled := batch.Call("cancelled", nil, nil)
		batch.Call("kept", nil, &kept)
		cancelled.Cancel()
		err := a.SendBatch(t.Context(), &batch)
		if !errors.Is(err, ErrCancelled) || cancelled.Err() != ErrCancelled || kept != "kept" {
			t.Errorf("SendBatch: %v, the call: %v, the other one's result: %q", err, cancelled.Err(), kept)
		}
		if err := batch.Call("late", nil, nil).Err(); err != ErrBatchSent {
			t.Errorf("a call that is added after sending: %v", err)
		}
		if got := b.Stats().RequestsReceived; got != 1 {
			t.Errorf("the peer received %d requests", got)
		}
		for range 100 { // for the race detector
			var racing Batch
			f := racing.Call("m", nil, nil)
			go f.Cancel()
			_ = a.SendBatch(t.Context(), &racing)
		}
	})
}

// The context of a handler ends at its deadline as the contract of Context says.
func TestHandlerContextAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		h := HandlerFunc(func(ctx context.Context, _ *Request) (any, error) {
			defer close(done)
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			<-child.Done()
			for _, c := range []context.Context{ctx, child} {
				if c.Err() != context.DeadlineExceeded || context.Cause(c) != errProcessing {
					t.Errorf("it ended with %v, cause %v", c.Err(), context.Cause(c))
				}
			}
			return "too late", nil
		})
		a, b := Pipe(nil, &Options{Handler: h})
		defer b.Close()
		defer a.Close()
		if err := a.Call(t.Context(), "m", nil, nil); !errors.Is(err, ErrServerBusy) && !errors.Is(err, ErrTimeout) {
			t.Errorf("the call: %v", err)
		}
		<-done
		synctest.Wait()
		if n := b.Stats().LateResults; n != 1 {
			t.Errorf("%d late results", n)
		}
	})
}

// halfClosed is a connection whose peer has closed its half when closed is
// closed, and reads on: it takes each write from written.
type halfClosed struct {
	closed  chan struct{}
	written chan string
	end     chan struct{}
}

func (c *halfClosed) ReadMessage() ([]byte, error) {
	<-c.closed
	return nil, io.EOF
}

func (c *halfClosed) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		select {
		case c.written <- string(msg):
		case <-c.end:
			return net.ErrClosed
		}
	}
	return nil
}

func (c *halfClosed) Close() error {
	close(c.end)
	return nil
}

// A peer that has nothing more to say may still listen.
func TestPeerThatClosesItsHalfGetsWhatWasQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &halfClosed{make(chan struct{}), make(chan string), make(chan struct{})}
		s := NewMessageSession(conn, nil)
		for _, method := range []string{"first", "second"} {
			if err := s.Notify(t.Context(), method, nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the first is being written, the second waits
		}
		close(conn.closed)
		synctest.Wait()
		for _, method := range []string{"first", "second"} {
			if got, want := <-conn.written, `{"jsonrpc":"2.0","method":"`+method+`"}`; got != want {
				t.Errorf("the peer reads %s, want %s", got, want)
			}
		}
		<-s.Done()
		if s.Err() != io.EOF {
			t.Errorf("it ended with %v", s.Err())
		}
	})
}

// A keep-alive that was due when the session ended was logged as a fault. One that
// the protocol does not have still is.
func TestKeepAliveThatTheEndOvertakesIsNoFault(t *testing.T) {
	for _, c := range []struct {
		protocol Protocol
		end      bool
		logged   bool
	}{
		{JSONRPCv2, true, false},
		{Aiomas, false, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			opts := &Options{Protocol: c.protocol, Logger: slog.New(slog.NewTextHandler(&log, nil))}
			opts.Limits.KeepAliveMethod = "alive"
			s, far := Pipe(opts, nil)
			defer far.Close()
			defer s.Close()
			if c.end {
				s.Close()
			}
			s.probe()
			synctest.Wait()
			if logged := strings.Contains(log.String(), "keep-alive cannot be sent"); logged != c.logged {
				t.Errorf("logged is %q", log.String())
			}
		})
	}
}

// A batch whose members were all cancelled has left the queue before its replies are
// queued, while it is still between those that wait.
func TestBatchThatWasCancelledInTheQueueIsPassedOver(t *testing.T) {
	o := newOffline(JSONRPCv2)
	for _, msg := range []string{
		`{"jsonrpc":"2.0","method":"first","id":1}`, `[{"jsonrpc":"2.0","method":"second","id":2}]`, `{"jsonrpc":"2.0","method":"third","id":3}`,
	} {
		o.receive([]byte(msg))
	}
	o.lock()
	b := o.in.waiting()[1].(*inBatch)
	b.cancel(o.Session, &b.members[0], ServerBusy("cancelled"))
	first := o.in.take(o.Session)
	waiting := o.in.waiting()
	o.unlock()
	if rest := o.take(); first.Method != "first" || len(waiting) != 1 || len(rest) != 1 || rest[0].Method != "third" {
		t.Errorf("%s, then %d wait, then %d are taken", first.Method, len(waiting), len(rest))
	}
	if stats := o.Stats(); stats.Queued != 0 || stats.QueuedBytes != 0 {
		t.Errorf("stats are %+v", stats)
	}
}
