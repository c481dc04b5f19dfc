package rpcx

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx/internal/sockstate"
)

// What held a session up, or made it hold or do too much.

// Waiters were woken after the writer's writes only, and not after that of a
// sender who had been lent the write side.
func TestSenderThatWaitsBehindALentWriteIsWoken(t *testing.T) {
	frame := []byte("message\n")
	for name, written := range map[string]int{"all was written": len(frame), "a part was": 3} {
		t.Run(name, func(t *testing.T) {
			o := outbox{writerIdle: true, sock: new(socket), startWriter: func() {}}
			if !o.lendWriteSide(len(frame), true) {
				t.Fatal("a sender that is alone was not lent the write side")
			}
			if o.hasRoom(1, len(frame)) {
				t.Error("there is room beside a message that is being written")
			}
			waiter := make(chan struct{}, 1)
			o.roomLine.waiters = append(o.roomLine.waiters, waiter)
			o.returnWriteSide(frame, written)
			if written < len(frame) { // the writer has the rest, and wakes who waits
				f := o.takeFrames()
				if string(f.buf) != "sage\n" || o.writerIdle {
					t.Errorf("left to the writer is %q; it is idle: %v", f.buf, o.writerIdle)
				}
				o.returnFrames(f)
			}
			select {
			case <-waiter:
			default:
				t.Error("who waited for room was not woken")
			}
			if !o.hasRoom(len(frame), len(frame)) || o.writtenMessages != 1 {
				t.Errorf("afterwards %d bytes and %d messages were written", o.size(), o.writtenMessages)
			}
		})
	}
}

// A buffer that waits for reuse keeps no replies of the batch that it was used for.
func TestRecycledBufferKeepsNoReplies(t *testing.T) {
	parts := [][]byte{[]byte("reply")}
	sc := &encodeBuffer{parts: parts}
	sc.recycle()
	if parts[0] != nil || len(sc.parts) != 0 {
		t.Errorf("it keeps %q, and has %d parts", parts[0], len(sc.parts))
	}
}

// A request that is about to be refused can expire first.
func TestRequestThatExpiresBeforeItIsRefusedIsAnsweredOnce(t *testing.T) {
	o := newOffline(JSONRPCv2)
	o.receive([]byte(`{"jsonrpc":"2.0","method":"m","id":1}`))
	o.lock()
	waiting := o.requests.waitingEntries()
	waiting[0].expireLocked(o.Session)
	o.requests.open.removeDeadline(waiting[0].requestDeadline())
	waiting[0].refuseRemaining(o.Session, ServerBusy("shutting down"), fromHandler)
	o.unlock()
	if sent := o.sent(); len(sent) != 1 {
		t.Errorf("it is answered with %s", sent)
	}
}

// A batch of small members is small on the wire only.
func TestWaitingBatchCountsWhatItHolds(t *testing.T) {
	o := newOffline(JSONRPCv2)
	o.requests.pressure.pauseForbidden = true // reading goes on
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
	r := new(decodeBuffer)
	for _, n := range []int{2, 99, 3} {
		batch := strings.Repeat(`,{"jsonrpc":"2.0","method":"m","params":[1],"id":1}`, n)
		JSONRPCv2.Decode(&r.Message, []byte("["+batch[1:]+"]"), 0)
	}
	items := r.Items[:cap(r.Items)]
	r.recycle()
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

// A message that its sender has written counts as queued and written. Shutdown waits for
// the messages behind it, and a call behind it that was not written is said not to be.
func TestMessagesBehindADirectWriteAreWaitedFor(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// start returns a session whose first call is answered and was written directly.
	start := func() (s *Session, far net.Conn, in *bufio.Reader) {
		near, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if far, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		limits := Limits{SendTimeout: time.Hour, RequestTimeout: time.Hour}
		s, in = NewSession(near, &Options{Framer: NewlineFramer{MaxSize: 64 << 20}, Limits: limits}), bufio.NewReader(far)
		if s.writer.sock == nil {
			t.Skip("no sender writes directly on this system")
		}
		waitForWriter(s)
		f := s.Go(t.Context(), "first", nil)
		s.lock()
		direct := s.writer.writerIdle
		s.unlock()
		if _, err := in.ReadString('\n'); err != nil || !direct {
			t.Fatalf("the first call was written directly: %v; read: %v", direct, err)
		}
		if _, err := io.WriteString(far, `{"jsonrpc":"2.0","result":1,"id":0}`+"\n"); err != nil {
			t.Fatal(err)
		}
		if err := f.Wait(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		return s, far, in
	}
	large := Args{strings.Repeat("x", 32<<20)} // more than the operating system takes

	s, far, in := start()
	if err := s.Notify(t.Context(), "large", large); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Shutdown(context.Background()) }()
	var drained chan struct{}
	for ; drained == nil; runtime.Gosched() {
		s.lock()
		drained = s.life.drained
		s.unlock()
	}
	select {
	case <-drained:
		t.Error("Shutdown does not wait for a message that is being written")
	default:
	}
	if line, err := in.ReadString('\n'); err != nil || len(line) < 32<<20 {
		t.Errorf("%d bytes were read, and %v", len(line), err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Shutdown returns %v", err)
	}
	far.Close()

	s, far, _ = start()
	f := s.Go(t.Context(), "large", large)
	far.Close()
	<-s.Done()
	if lost, ok := errors.AsType[*ConnectionError](f.Err()); !ok || lost.Written {
		t.Errorf("a call that was not written has the error %#v", f.Err())
	}
}

// The writer cannot end while a sender has the write side, and has to be woken afterwards.
func TestWriterOfAClosedSessionEndsAfterADirectWrite(t *testing.T) {
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	defer far.Close()
	s := NewSession(near, nil)
	if s.writer.sock == nil {
		t.Skip("no sender writes directly on this system")
	}
	waitForWriter(s)
	frame := []byte(`{"jsonrpc":"2.0","method":"m"}` + "\n")
	s.lock()
	lent := s.writer.lendWriteSide(len(frame), true)
	s.unlock()
	s.closeWith(ErrClosed, time.Hour)
	s.lock()
	idle := s.writer.writerIdle
	s.unlock()
	if !lent || !idle {
		t.Errorf("the write side is lent: %v, and the writer idle: %v", lent, idle)
	}
	s.writer.writeDirectly(frame)
	s.lock()
	idle = s.writer.writerIdle
	s.unlock()
	if idle {
		t.Error("the writer was not woken")
		s.Close()
	}
	<-s.Done()
	if line, err := bufio.NewReader(far).ReadBytes('\n'); !bytes.Equal(line, frame) {
		t.Errorf("read %q, %v", line, err)
	}
}

// waitForWriter returns when the writer of s has nothing to do.
func waitForWriter(s *Session) {
	for idle := false; !idle; runtime.Gosched() {
		s.lock()
		idle = s.writer.writerIdle
		s.unlock()
	}
}

// Errors of a network that is gone match ErrUnreachable, and no others do.
func TestErrorsOfAnUnreachablePeer(t *testing.T) {
	for err, want := range map[error]bool{
		syscall.ETIMEDOUT: true, syscall.EHOSTUNREACH: true, syscall.ENETUNREACH: true,
		syscall.ECONNRESET: false, os.ErrDeadlineExceeded: false, io.EOF: false,
	} {
		if got := isUnreachable(&net.OpError{Op: "read", Err: err}); got != want {
			t.Errorf("%v: got %v", err, got)
		}
	}
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
			s.activity.sendKeepAlive()
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
	b := o.requests.waitingEntries()[1].(*peerBatch)
	b.abortRequest(o.Session, &b.members[0], ServerBusy("cancelled"))
	first := o.requests.takeRequest(o.Session)
	waiting := o.requests.waitingEntries()
	o.unlock()
	if rest := o.take(); first.Method != "first" || len(waiting) != 1 || len(rest) != 1 || rest[0].Method != "third" {
		t.Errorf("%s, then %d wait, then %d are taken", first.Method, len(waiting), len(rest))
	}
	if stats := o.Stats(); stats.Queued != 0 || stats.QueuedBytes != 0 {
		t.Errorf("stats are %+v", stats)
	}
}

// socketPair returns the two ends of a connection of the operating system.
func socketPair(t *testing.T, network, addr string) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial(network, l.Addr().String()); err == nil {
		near, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

// What a peer reads is progress, though the writer waits for more room than that makes.
func TestWhatTheSystemSendsIsProgress(t *testing.T) {
	if !sockstate.CanSeeUnsent {
		t.Skip("the operating system does not tell what it has not sent")
	}
	web := httptest.NewTLSServer(nil) // has a certificate for tests
	defer web.Close()
	for name, connect := range map[string]func() (near, far, raw net.Conn){
		"TCP": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "tcp", "127.0.0.1:0")
			return near, far, near
		},
		"unix": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
			return near, far, near
		},
		"TLS": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "tcp", "127.0.0.1:0")
			secured := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
			server := tls.Server(near, web.TLS)
			// Owner: the test. End: the handshake.
			go server.Handshake()
			if err := secured.Handshake(); err != nil {
				t.Fatal(err)
			}
			return server, secured, near
		},
		"a tunnel": func() (near, far, raw net.Conn) {
			near, far = socketPair(t, "tcp", "127.0.0.1:0")
			return &SOCKSConn{Conn: near}, far, near
		},
	} {
		t.Run(name, func(t *testing.T) {
			near, far, raw := connect()
			defer far.Close()
			unsent := func() int {
				n, ok := sockstate.UnsentBytes(socketUnder(raw))
				if !ok {
					t.Fatal("the system does not tell what is unsent")
				}
				return n
			}
			s := NewSession(near, &Options{Framer: NewlineFramer{MaxSize: -1}, Limits: Limits{SendTimeout: time.Hour}})
			defer func() {
				s.Close()
				far.Close()
				<-s.Done()
			}()
			if err := s.Notify(context.Background(), "m", Args{strings.Repeat("x", 32<<20)}); err != nil {
				t.Fatal(err)
			}
			for last, equal := -1, 0; equal < 100; { // until the system takes no more
				if n := unsent(); n > 0 && n == last {
					equal++
				} else {
					last, equal = n, 0
				}
				time.Sleep(time.Millisecond)
			}

			// restarted reports whether the time of the write begins anew in so many
			// minutes, in which it would not by itself.
			restarted := func(minutes time.Duration) bool {
				s.lock()
				defer s.unlock()
				now := s.now() + minutes*time.Minute
				s.writer.checkSendProgressLocked(now)
				return s.writer.writeDeadline == now+time.Hour
			}
			if restarted(1) || restarted(10) {
				t.Fatal("there is progress, and nothing was read")
			}
			before, read := unsent(), 0
			for before-unsent() < writeChunk {
				n, err := io.CopyN(io.Discard, far, 4<<10)
				if read += int(n); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("the queue of %d bytes has fallen to %d when %d were read", before, unsent(), read)
			if !restarted(30) {
				t.Error("what was read is no progress")
			}
			if restarted(31) || restarted(89) {
				t.Error("it is progress twice")
			}
		})
	}
}

func TestProgressIsARate(t *testing.T) {
	const timeout = 20 * time.Second
	for _, c := range []struct {
		name   string
		fallen int
		after  time.Duration
		want   bool
	}{
		{"nothing", 0, timeout, false},
		{"nothing, at once", 0, 0, false},
		{"the queue has grown", -100_000, timeout, false},
		{"a chunk in the whole time", writeChunk, timeout, true},
		{"a byte less", writeChunk - 1, timeout, false},
		{"half of it in half of the time", writeChunk / 2, timeout / 2, true},
		{"much at once", 1 << 20, time.Millisecond, true},
	} {
		if got := isProgress(c.fallen, c.after, timeout); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// What carries no socket has no queue to look at.
func TestNoSocketUnderAConnection(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, conn := range []net.Conn{nil, a, tls.Client(a, &tls.Config{}), &SOCKSConn{Conn: a}} {
		if raw := socketUnder(conn); raw != nil {
			t.Errorf("under a %T there is %v", conn, raw)
		}
	}
}

// The table finds what a map finds, in whatever order calls come and go.
func TestTableFindsWhatAMapFinds(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var table callTable
		pending := map[uint64]*pendingCall{}
		var coming []pendingCall // have their ids, and are not registered
		most := 1 + rnd.IntN(100)
		for range 5000 {
			switch n := rnd.IntN(10); {
			case n < 5 && len(pending) < most:
				c := pendingCall{id: table.newID(), message: new(pendingMessage)}
				if coming = append(coming, c); len(coming) < 1+rnd.IntN(4) {
					continue
				}
				rnd.Shuffle(len(coming), func(i, j int) { coming[i], coming[j] = coming[j], coming[i] })
				some := rnd.IntN(len(coming)) // together, as those of a batch
				slices.SortFunc(coming[:some], func(a, b pendingCall) int { return int(a.id) - int(b.id) })
				table.addCalls(coming[:some])
				for i := some; i < len(coming); i++ {
					table.addCalls(coming[i : i+1])
				}
				for i := range coming {
					pending[coming[i].id] = &coming[i]
				}
				coming = nil
			case n < 6:
				c := &pendingCall{id: rnd.Uint64N(table.lastID.Load() + 2)}
				if table.remove(c) {
					t.Fatalf("seed %d: a call that is not in the table was removed from it", seed)
				}
			default:
				id := table.lastID.Load() - min(table.lastID.Load(), rnd.Uint64N(uint64(2*most)))
				want := pending[id]
				delete(pending, id)
				if n == 9 && want != nil {
					if !table.remove(want) {
						t.Fatalf("seed %d: call %d was not removed", seed, id)
					}
				} else if c, _ := table.matchReply(strconv.AppendUint(nil, id, 10)); c != want {
					t.Fatalf("seed %d: for id %d got %v, want %v", seed, id, c, want)
				}
			}
			if table.pending != len(pending) {
				t.Fatalf("seed %d: %d are pending, want %d", seed, table.pending, len(pending))
			}
			if len(table.calls) > 4*most+8 {
				t.Fatalf("seed %d: %d places for at most %d calls", seed, len(table.calls), most)
			}
		}
		all := table.pendingCalls()
		if len(all) != len(pending) || !slices.IsSortedFunc(all, func(a, b *pendingCall) int { return int(a.id) - int(b.id) }) {
			t.Fatalf("seed %d: all returns %d calls, want %d in order", seed, len(all), len(pending))
		}
		for _, c := range all {
			if pending[c.id] != c {
				t.Fatalf("seed %d: call %d is not pending", seed, c.id)
			}
		}
	}
}

// A batch that is given up is remembered as one, however long it is, so late replies
// to its members are late, in any order, and each only once.
func TestTableRemembersALongBatch(t *testing.T) {
	const long = 3 * maxAbandoned
	for name, order := range map[string]func(i int) int{
		"in order":         func(i int) int { return i },
		"the last first":   func(i int) int { return long - 1 - i },
		"from both ends":   func(i int) int { return []int{i / 2, long - 1 - i/2}[i%2] },
		"out of the midst": func(i int) int { return (i + long/2) % long },
		"every other":      func(i int) int { return (2*i + i/(long/2)) % long },
	} {
		var table callTable
		calls := []pendingCall{{id: table.newID(), message: new(pendingMessage)}}
		for batch := (&pendingMessage{isBatch: true}); len(calls) <= long; {
			calls = append(calls, pendingCall{id: table.newID(), message: batch})
		}
		table.addCalls(calls)
		for i := range calls {
			if !table.removeButRemember(&calls[i]) {
				t.Fatalf("%s: call %d was not pending", name, calls[i].id)
			}
		}
		for i := range long {
			id := strconv.AppendInt(nil, int64(order(i)+1), 10)
			if _, what := table.matchReply(id); what != toAbandoned {
				t.Fatalf("%s: the reply to call %s is %v, want late", name, id, what)
			}
			if _, what := table.matchReply(id); what != unexpected {
				t.Fatalf("%s: another reply to call %s is %v, want unexpected", name, id, what)
			}
		}
		if _, what := table.matchReply(ID("0")); what != toAbandoned {
			t.Errorf("%s: the call before the batch was forgotten", name)
		}
		if len(table.abandoned) > 4 {
			t.Errorf("%s: %d entries for a call and a batch", name, len(table.abandoned))
		}
	}
}

// A response of unknown id is that of the only call, or batch, that can get one.
func TestTableOnlyCall(t *testing.T) {
	var table callTable
	newCalls := func(m *pendingMessage, n int) (calls []pendingCall) {
		for range n {
			calls = append(calls, pendingCall{id: table.newID(), message: m})
		}
		return calls
	}
	want := func(array bool, c *pendingCall) {
		t.Helper()
		if got := table.onlyCall(array); got != c {
			t.Errorf("the only call is %v, want %v", got, c)
		}
	}
	want(false, nil)
	first, second := newCalls(new(pendingMessage), 1), newCalls(new(pendingMessage), 1)
	table.addCalls(first)
	want(false, &first[0])
	want(true, &first[0])
	table.addCalls(second)
	want(false, nil)
	want(true, nil)
	table.remove(&first[0])
	want(false, &second[0])

	table.removeButRemember(&second[0])
	b := &pendingMessage{isBatch: true}
	members := newCalls(b, 3)
	table.addCalls(members)
	want(true, nil) // it may be a late reply
	table.takeAbandoned(second[0].id)
	want(true, &members[0])
	want(false, nil)
	for i := range members {
		table.removeButRemember(&members[i])
	}
	table.addCalls(first)
	for _, i := range []int{1, 0, 2} {
		want(false, nil)
		table.takeAbandoned(members[i].id)
	}
	want(false, &first[0])
	table.addCalls(newCalls(b, 1))
	want(true, nil)
}

// The calls of a batch can be sent again on another session, in a new message: the
// futures know the session of the last message only. A member that was cancelled before
// a message is not in the message.
func TestFuturesOfABatchAreSentOnAnotherSession(t *testing.T) {
	var b Batch
	var futures [4]*Future
	var results [4]int
	for i := range futures {
		futures[i] = b.Call("m", nil, &results[i])
		if futures[i].message != nil {
			t.Errorf("future %d knows a session", i)
		}
	}
	members := futures[:]
	whole := (&batchFuture{part: batchPart{members: &members}}).open()
	send := func(firstID uint64, ids ...uint64) *pendingMessage {
		s := &Session{sessionConfig: sessionConfig{codec: jsonCodec{}, hooks: hooks{trace: new(Trace)}, pool: new(pool)}}
		s.calls.s = s
		s.calls.table.lastID.Store(firstID)
		s.calls.limiter.limit = math.MaxInt
		m := &pendingMessage{session: s, isBatch: true, future: whole, calls: make([]pendingCall, 0, len(futures))}
		for _, f := range futures {
			if f.joinMessage(m, "m") {
				whole.message = m
			}
		}
		var got []uint64
		for i := range m.calls {
			got = append(got, m.calls[i].id)
		}
		if !slices.Equal(got, ids) {
			t.Errorf("sent are the calls %v, want %v", got, ids)
		}
		s.calls.table.addCalls(m.calls)
		m.openCalls = int32(len(m.calls))
		return m
	}
	complete := func(m *pendingMessage, i int, result string, err error) {
		m.session.mu.Lock()
		defer m.session.mu.Unlock()
		if !m.session.calls.table.remove(&m.calls[i]) {
			t.Errorf("call %d is not in the table", m.calls[i].id)
		}
		m.session.calls.completeCallLocked(&m.calls[i], 0, []byte(result), err)
	}

	futures[0].Cancel()
	futures[3].phase = futureCancelled // Cancel has not finished yet
	first := send(10, 10, 11)
	complete(first, 0, "", ErrConnectionLost)
	if first.session.effects.finishedMessages.first != nil {
		t.Error("the batch is finished before the last call")
	}
	complete(first, 1, "", ErrConnectionLost)
	if first.session.effects.finishedMessages.first != first {
		t.Error("the batch is not finished after the last call")
	}

	// A client that reconnects publishes nothing, but sends the calls again.
	second := send(20, 20, 21)
	complete(second, 1, "7", nil)
	complete(second, 0, "", MethodNotFound("m"))
	done := make(chan *Future, 1)
	futures[2].OnDone(func(f *Future) { done <- f })
	second.session.effects.runUnlocked(second.session)
	if f := <-done; f != futures[2] {
		t.Error("the callback has another future")
	}
	err := whole.Wait(t.Context(), nil)
	batch, ok := errors.AsType[*BatchError](err)
	if !ok || len(batch.Errs) != 4 || batch.Errs[3] != ErrCancelled || batch.Errs[0] != ErrCancelled || !errors.Is(batch.Errs[1], ErrMethodNotFound) || batch.Errs[2] != nil {
		t.Errorf("the error of the batch is %v", err)
	}
	if results != [4]int{2: 7} {
		t.Errorf("the results are %v", results)
	}
	second.future.finish(nil) // only the first outcome counts
	if whole.Err() == nil {
		t.Error("a second outcome was stored")
	}
}

// mayhem is a session to which everything happens at once, and what is known of it
// from outside.
type mayhem struct {
	t   *testing.T
	end string // how the session is ended
	srv *Server
	s   *Session
	far net.Conn

	sending chan struct{} // has a slot for who writes: to wait for a mutex would stop the bubble's clock

	mu       sync.Mutex
	rng      *rand.Rand
	lastID   int
	batchOf  map[int][]int // the requests of the batch that a request came in
	decoded  []int
	taken    int // of decoded, how many the session has dealt with for sure
	begun    map[int]bool
	silenced map[int]bool // cancelled
	replies  map[int]int
	shut     []int // ids that are owed an answer if Shutdown ends it
	costly   []int // and if its cost does, unless their handlers run
	spoilt   bool  // by something that ends it without answers
	stop     bool
	flood    bool // requests come faster than they are handled
}

func (m *mayhem) rand(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rng.IntN(n)
}

func (m *mayhem) pause(most time.Duration) {
	if d := m.rand(2 * int(most)); d > int(most) {
		time.Sleep(time.Duration(d) - most)
	} else if d%2 == 0 {
		runtime.Gosched()
	}
}

// mayhemConn tells when the session has dealt with all that it has read.
type mayhemConn struct {
	net.Conn
	m *mayhem
}

func (c mayhemConn) Read(p []byte) (int, error) {
	c.m.mu.Lock()
	c.m.taken = len(c.m.decoded)
	c.m.mu.Unlock()
	return c.Conn.Read(p)
}

// mayhemProtocol takes its time.
type mayhemProtocol struct {
	Protocol
	m *mayhem
}

func (p mayhemProtocol) Decode(m *Message, msg []byte, limit int) {
	p.Protocol.Decode(m, msg, limit)
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for _, item := range m.Items {
		if n, err := strconv.Atoi(string(item.ID)); err == nil && item.Kind != KindResponse {
			p.m.decoded = append(p.m.decoded, n)
		}
	}
}

func (p mayhemProtocol) AppendResult(dst []byte, id ID, result any, c Codec) ([]byte, error) {
	p.m.pause(20 * time.Millisecond)
	return p.Protocol.AppendResult(dst, id, result, c)
}

func (p mayhemProtocol) AppendError(dst []byte, id ID, e *Error, c Codec) ([]byte, error) {
	p.m.pause(20 * time.Millisecond)
	return p.Protocol.AppendError(dst, id, e, c)
}

func (p mayhemProtocol) AppendBatch(dst []byte, items [][]byte) ([]byte, error) {
	p.m.pause(20 * time.Millisecond)
	return p.Protocol.AppendBatch(dst, items)
}

type mayhemPanic struct{}

func (mayhemPanic) MarshalJSON() ([]byte, error) { panic("not to be encoded") }

func (m *mayhem) ServeRPC(ctx context.Context, req *Request) (any, error) {
	if id, err := strconv.Atoi(string(req.ID)); err == nil {
		m.mu.Lock()
		if m.begun[id] {
			m.t.Errorf("%d is handled twice", id)
		}
		m.begun[id] = true
		m.mu.Unlock()
	}
	switch req.Method {
	case "sleep":
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(time.Duration(m.rand(int(800 * time.Millisecond)))):
		}
	case "stubborn":
		time.Sleep(time.Duration(m.rand(int(800 * time.Millisecond))))
	case "panic":
		panic("at work")
	case "goexit":
		runtime.Goexit()
	case "bad":
		return mayhemPanic{}, nil
	case "badchan":
		return make(chan int), nil
	case "error":
		return nil, &Error{Code: 1, Message: "no", Cost: 50}
	case "big":
		return strings.Repeat("x", m.rand(20000)), nil
	case "call":
		return Call[any](ctx, req.session, "back", nil)
	case "callout":
		ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		var b Batch
		b.Call("back", nil, nil)
		b.Notify("back", nil)
		b.Call("back", nil, nil)
		return nil, req.session.SendBatch(ctx, &b)
	case "bump":
		req.session.BumpCost(300)
	case "excessive":
		return nil, ErrExcessiveCost
	case "quit":
		m.mu.Lock()
		m.spoilt = true
		m.mu.Unlock()
		return ReplyAndDisconnect(7), nil
	case "close":
		m.mu.Lock()
		m.spoilt = true
		m.mu.Unlock()
		req.session.Close()
	}
	return 1, nil
}

func (m *mayhem) method() string {
	all := []string{"reply", "reply", "sleep", "stubborn", "panic", "goexit", "bad", "badchan", "error", "big", "call", "callout", "bump"}
	switch {
	case m.end == "quit" && m.rng.IntN(20) == 0:
		return "quit"
	case m.end == "excessive" && m.rng.IntN(20) == 0:
		return "excessive"
	case m.end == "close in a handler" && m.rng.IntN(20) == 0:
		return "close"
	}
	return all[m.rng.IntN(len(all))]
}

// item returns a request or a notification, or what is neither.
func (m *mayhem) item(ids *[]int) string {
	switch n := m.rng.IntN(10); {
	case n == 0:
		return `{"jsonrpc":"2.0"}`
	case n < 3:
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q}`, m.method())
	}
	m.lastID++
	*ids = append(*ids, m.lastID)
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"id":%d}`, m.method(), m.lastID)
}

func (m *mayhem) message() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []int
	switch n := m.rng.IntN(20); {
	case n == 0:
		return "rubbish"
	case n == 1 && m.s.cancellation != nil && m.lastID > 0:
		id := m.lastID - m.rng.IntN(min(m.lastID, 8))
		m.silenced[id] = true
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}`, id)
	case n < 7:
		items := make([]string, 1+m.rng.IntN(5))
		for i := range items {
			items[i] = m.item(&ids)
		}
		for _, id := range ids {
			m.batchOf[id] = ids
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	return m.item(&ids)
}

func (m *mayhem) write(msg string) error {
	m.sending <- struct{}{}
	defer func() { <-m.sending }()
	_, err := m.far.Write([]byte(msg + "\n"))
	return err
}

func (m *mayhem) stopped() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stop
}

func (m *mayhem) talk() {
	for !m.stopped() {
		if m.write(m.message()) != nil {
			return
		}
		if m.flood {
			m.pause(time.Millisecond)
		} else {
			m.pause(60 * time.Millisecond)
		}
	}
}

func (m *mayhem) listen(lazy bool) {
	lines := bufio.NewReader(m.far)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var all []map[string]json.RawMessage
		if bytes.HasPrefix(line, []byte("[")) {
			err = json.Unmarshal(line, &all)
		} else {
			all = append(all, nil)
			err = json.Unmarshal(line, &all[0])
		}
		if err != nil {
			m.t.Errorf("heard %s: %v", line, err)
		}
		for _, item := range all {
			id, err := strconv.Atoi(string(item["id"]))
			if err != nil {
				continue
			}
			if item["method"] == nil {
				m.mu.Lock()
				m.replies[id]++
				m.mu.Unlock()
			} else if m.rand(3) > 0 {
				go func() { m.write(fmt.Sprintf(`{"jsonrpc":"2.0","result":1,"id":%d}`, id)) }()
			}
		}
		if lazy {
			m.pause(5 * time.Millisecond)
		}
	}
}

// owe notes what the session has to answer from now on, since it has been taken in.
func (m *mayhem) owe(ids *[]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*ids = append(*ids, m.decoded[:m.taken]...)
}

func (m *mayhem) shutdown(ctx context.Context) {
	m.owe(&m.shut)
	err := m.s.Shutdown(ctx)
	if err != nil && ctx.Err() == nil {
		m.t.Errorf("Shutdown returns %v", err)
	}
}

func (m *mayhem) run() {
	rng := m.rng
	opts := &m.srv.Options
	opts.Handler = m
	opts.Protocol = mayhemProtocol{JSONRPCv2, m}
	opts.Order = Order(rng.IntN(3))
	l := &opts.Limits
	l.Concurrency = 1 + rng.IntN(4)
	l.ProcessingTimeout = []time.Duration{300 * time.Millisecond, 3 * time.Second}[rng.IntN(2)]
	l.RequestTimeout = 500 * time.Millisecond
	l.Queue = []int{1, 3, 100}[rng.IntN(3)]
	l.Outgoing = 2
	l.Response = []int{0, 10000}[rng.IntN(2)]
	l.Outbox = []int{0, 5000}[rng.IntN(2)]
	l.CostDelay = []time.Duration{-1, 200 * time.Millisecond}[rng.IntN(2)]
	l.CostError = 20
	l.HideCost = rng.IntN(2) == 0
	if rng.IntN(2) == 0 && m.end != "drain" && m.end != "Shutdown" {
		l.CostHard = 5000
	} else {
		l.CostHard = 50000
	}
	m.srv.MaxQueuedBytes = []int{0, 8000}[rng.IntN(2)]
	switch rng.IntN(3) {
	case 0:
		opts.Cancellation = LSPCancellation
	case 1:
		opts.Cancellation = &Cancellation{Method: "$/cancelRequest", Param: "id"}
	}
	if rng.IntN(2) == 0 {
		opts.ExtraCost = func(*Session) float64 { m.pause(50 * time.Millisecond); return float64(m.rand(3000)) }
	}
	var hook sync.Once
	opts.OnExcessiveCost = func(s *Session) {
		hook.Do(func() { m.owe(&m.costly) })
		m.pause(50 * time.Millisecond)
	}
	if rng.IntN(2) == 0 {
		opts.Trace = &Trace{
			ReplySent:       func(*Request, error, time.Duration) { m.pause(20 * time.Millisecond) },
			RequestReceived: func(*Request) { m.pause(20 * time.Millisecond) },
			CostChanged:     func(s *Session, _ float64, _ int) { s.Stats() },
		}
	}
	if rng.IntN(3) == 0 {
		m.srv.OnSession = func(s *Session) { m.pause(50 * time.Millisecond) }
	}
	lazy := rng.IntN(4) == 0
	m.flood = rng.IntN(3) == 0
	near, far := net.Pipe()
	m.far = far
	m.s = m.srv.ServeConn(mayhemConn{near, m})
	s := m.s

	var wg sync.WaitGroup
	go m.listen(lazy)
	for range 1 + m.rand(3) {
		wg.Go(m.talk)
	}
	for range 2 {
		wg.Go(func() {
			for !m.stopped() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(m.rand(int(200*time.Millisecond))))
				f := s.Go(ctx, "back", nil)
				if m.rand(3) == 0 {
					f.Cancel()
				}
				f.Wait(ctx, nil)
				cancel()
				if errors.Is(f.Err(), ErrClosed) {
					return
				}
				m.pause(50 * time.Millisecond)
			}
		})
	}
	time.Sleep(time.Duration(m.rand(int(2 * time.Second))))
	spoil := func() { m.mu.Lock(); m.spoilt = true; m.mu.Unlock() }
	switch m.end {
	case "Close":
		spoil()
		s.Close()
	case "Shutdown":
		m.shutdown(context.Background())
	case "Shutdown in time":
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(m.rand(int(time.Second))))
		m.shutdown(ctx)
		spoil()
		cancel()
	case "hang up":
		spoil()
		far.Close()
	case "break":
		spoil()
		near.Close()
	case "cost":
		s.BumpCost(1e6)
	case "all":
		spoil()
		for _, f := range []func(){func() { s.Close() }, func() { far.Close() }, func() { s.BumpCost(1e6) }, func() { s.Shutdown(context.Background()) }, func() { s.Shutdown(context.Background()) }} {
			wg.Go(func() { m.pause(100 * time.Millisecond); f() })
		}
	case "Shutdown and cost":
		wg.Go(func() { m.pause(100 * time.Millisecond); s.BumpCost(1e6) })
		m.shutdown(context.Background())
	case "drain":
		m.mu.Lock()
		m.stop = true
		m.mu.Unlock()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		m.quiet()
		m.shutdown(context.Background())
	default:
		time.Sleep(20 * time.Second)
	}
	m.mu.Lock()
	m.stop = true
	m.mu.Unlock()
	time.Sleep(100 * time.Second)
	synctest.Wait()
	select {
	case <-s.Done():
	default:
		// Some depend on what comes from the peer, which may have been nothing more.
		if m.end != "cost" && m.end != "excessive" && m.end != "quit" && m.end != "close in a handler" {
			m.t.Error("it does not end")
		}
		spoil()
		s.Close()
	}
	far.Close()
	near.Close()
	<-s.Done()
	wg.Wait()
	synctest.Wait()
	m.quiet()
	m.srv.Close()
	m.srv.Wait(context.Background())
	if got := m.srv.Stats(); got.QueuedBytes != 0 || got.Sessions != 0 {
		m.t.Errorf("the server's stats are %+v", got)
	}
	m.judge()
}

// quiet checks what has to be so where nothing goes on.
func (m *mayhem) quiet() {
	s := m.s
	s.lock()
	defer s.unlock()
	if s.life.unsentErrors != 0 || s.requests.running != 0 || s.requests.workers != 0 || s.requests.count != 0 || s.requests.bytes != 0 || s.calls.table.pending != 0 || s.calls.limiter.taken != 0 || s.writer.size() != 0 || s.requests.workerStarting || s.requests.notificationRuns {
		m.t.Errorf("refusing %d, running %d, workers %d, count %d, bytes %d, pending %d, slots %d, outbox %d, waking %v, waits %v", s.life.unsentErrors, s.requests.running, s.requests.workers, s.requests.count, s.requests.bytes, s.calls.table.pending, s.calls.limiter.taken, s.writer.size(), s.requests.workerStarting, s.requests.notificationRuns)
	}
	if s.life.state == stateOpen && (s.memory.batchReplies != 0 || s.requests.open.first != nil || s.calls.timeouts.first != nil || len(s.requests.cancellable) != 0) {
		m.t.Errorf("assembled %d, incoming %v, outgoing %v, requests %v", s.memory.batchReplies, s.requests.open.first, s.calls.timeouts.first, s.requests.cancellable)
	}
	if b := &s.requests.pressure; s.reader.role.vacancy == vacantPaused || b.replyWaiters != 0 || b.roomWaiters != 0 || b.pauseForbidden {
		m.t.Errorf("the state of pauses is %+v", *b)
	}
	if d := s.memory.reported - s.memory.partialBytes; s.life.state == stateOpen && s.load.limit > 0 && (d >= weightStep || d <= -weightStep) {
		m.t.Errorf("the weight is %d, of which %d are part of a message; in %d, out %d, assembled %d", s.memory.reported, s.memory.partialBytes, s.requests.bytes, s.writer.size(), s.memory.batchReplies)
	}
}

func (m *mayhem) judge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, n := range m.replies {
		if n > 1 {
			m.t.Errorf("%d has %d replies", id, n)
		}
	}
	if m.spoilt {
		return
	}
	var cost *CostError
	owed, dismissed := m.shut, errors.As(m.s.Err(), &cost)
	if dismissed {
		owed = m.costly
	} else if m.s.Err() != ErrClosed {
		return
	}
	for _, id := range owed {
		lost := m.replies[id] == 0 && !m.silenced[id]
		for _, member := range append(m.batchOf[id], id) {
			lost = lost && !(dismissed && m.begun[member])
		}
		if lost {
			m.t.Errorf("%d has no reply (begun: %v, batch %v, end %v)", id, m.begun[id], m.batchOf[id], m.s.Err())
		}
	}
}

// TestStressEnds ends sessions in every way while everything else goes on. Each
// request is answered once at most, and once if the session was shut down or
// dismissed, but for those that may be left; and nothing stays behind.
func TestStressEnds(t *testing.T) {
	ends := []string{"Close", "Shutdown", "Shutdown in time", "hang up", "break", "cost", "all", "Shutdown and cost", "drain", "quit", "excessive", "close in a handler"}
	for _, end := range ends {
		t.Run(end, func(t *testing.T) {
			for seed := range uint64(20) {
				synctest.Test(t, func(t *testing.T) {
					m := &mayhem{t: t, sending: make(chan struct{}, 1), end: end, srv: new(Server), rng: rand.New(rand.NewPCG(seed, 0)),
						batchOf: map[int][]int{}, begun: map[int]bool{}, silenced: map[int]bool{}, replies: map[int]int{}}
					m.run()
				})
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// The reader hands over each message by itself until the session is admitted, and then as
// many as for a session without Gate.
func TestGateAndMessagesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, peer := Pipe(&Options{Gate: NewRouter()}, nil)
		defer peer.Close()
		defer s.Close()
		call := func() uint64 {
			if err := peer.Call(t.Context(), "m", nil, nil); err == nil {
				t.Error("m is known")
			}
			synctest.Wait()
			return s.reader.maxMessages
		}
		if n := call(); n != 1 {
			t.Errorf("before Admit, %d messages are handed over at once", n)
		}
		s.Admit()
		if n := call(); n != maxDecodedMessages {
			t.Errorf("after Admit, %d messages are handed over at once", n)
		}
	})
}

// A session reads and writes the socket under a connection with other addresses as it does
// the socket itself. TLS within is not bypassed.
func TestWithAddrsKeepsTheSocket(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	elsewhere := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}
	addressed := WithAddrs(WithAddrs(conn, elsewhere, nil), nil, elsewhere)
	if newSocket(addressed) == nil || rawConn(addressed) == nil || carrierOf(addressed) != conn {
		t.Error("the socket is not found")
	}
	if newSocket(WithAddrs(tls.Server(conn, nil), elsewhere, nil)) != nil {
		t.Error("TLS is bypassed")
	}
}

// Before a Preamble, the address is that of a proxy. The socket still tells whether the
// peer has sent anything.
func TestHandshakeBeforeThePreambleHasNoAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	srv := &Server{}
	if counted := srv.handshakeConn(tls.Server(conn, nil)); counted != conn {
		t.Errorf("without a Preamble the handshake is that of %v", counted)
	}
	srv.Preamble = func(_ context.Context, conn net.Conn) (net.Conn, error) { return conn, nil }
	if counted := srv.handshakeConn(conn); counted.RemoteAddr() != nil || rawConn(counted) == nil {
		t.Errorf("before the Preamble the handshake is that of %v", counted.RemoteAddr())
	}
}

// The members of a batch pass the gate one by one, also in an exchange whose group has its
// own cost.
func TestGateOfAnExchangeInAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int32
		srv := &Server{}
		srv.Options.Limits.Group = func(*Session) string { return "all" }
		srv.Options.Gate = HandlerFunc(func(context.Context, *Request) (any, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			return nil, nil
		})
		const msg = `[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"b","id":2},{"jsonrpc":"2.0","method":"c","id":3}]`
		if _, err := srv.ServeMessage(t.Context(), nil, []byte(msg), nil); err != nil {
			t.Error(err)
		}
		if n := most.Load(); n != 1 {
			t.Errorf("%d members were at the gate at once", n)
		}
	})
}

// A Shutdown between the start of an exchange and its message refuses the message as not
// started.
func TestShutdownBeforeTheMessageOfAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{}
		srv.resolvedOptions()
		x := newExchange(t.Context(), srv, nil, nil)
		x.reserveWorker(srv)
		if err := srv.startSession(x.session, "", nil); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error)
		go func() { stopped <- srv.Shutdown(context.Background()) }()
		synctest.Wait()
		reply, err := x.serve([]byte(`{"jsonrpc":"2.0","method":"a","id":1}`))
		const want = `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - shutting down","data":{"started":false,"reason":"shutting down"}},"id":1}`
		e, ok := errors.AsType[*Error](err)
		if string(reply) != want || !ok || !e.NotStarted() || !errors.Is(err, ErrServerClosed) {
			t.Errorf("the message is answered %s, %v", reply, err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}
