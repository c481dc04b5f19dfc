package rpcx

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// atRest checks that a session where nothing goes on counts nothing.
func atRest(t *testing.T, s *Session) {
	t.Helper()
	s.lock()
	defer s.unlock()
	b := &s.requests.pressure
	if s.requests.running != 0 || s.requests.workers != 0 || s.requests.count != 0 || s.requests.bytes != 0 || s.requests.workerStarting || s.calls.table.pending != 0 || s.calls.limiter.taken != 0 || s.life.unsentErrors != 0 {
		t.Errorf("running %d, workers %d, count %d, bytes %d, waking %v, pending %d, slots %d, refusing %d",
			s.requests.running, s.requests.workers, s.requests.count, s.requests.bytes, s.requests.workerStarting, s.calls.table.pending, s.calls.limiter.taken, s.life.unsentErrors)
	}
	if s.reader.role.vacancy == vacantPaused || b.replyWaiters != 0 || b.roomWaiters != 0 || b.foreignWaiters != 0 || b.pauseForbidden || b.writerStalled {
		t.Errorf("the state of its pauses is %+v", *b)
	}
	if s.life.state == stateOpen && (s.requests.open.first != nil || s.calls.timeouts.first != nil || s.life.runningLoops != 2) {
		t.Errorf("incoming %v, outgoing %v, loops %d", s.requests.open.first, s.calls.timeouts.first, s.life.runningLoops)
	}
}

// smallLimits are soon reached.
func smallLimits() Limits {
	return Limits{Queue: 16, Concurrency: 4, Outbox: 2000, Outgoing: 8, CostOff: true}
}

// mustEnd checks how a call ended: by its reply, or refused without having begun.
func mustEnd(t *testing.T, what string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*Error](err); err != nil && !(ok && e.NotStarted()) {
		t.Errorf("%s ended with %v", what, err)
	}
}

// notice has the handler send the peer a notification of the given size.
func notice(ctx context.Context, s *Session, size int) {
	_ = s.Notify(ctx, "ignored", Args{string(make([]byte, size))})
}

// TestFloodsOfBothSidesEnd has two sessions flood each other while they call each
// other. Where all handlers wait for their own session, no time passes but the second
// that it takes to see that the peer does not read.
func TestFloodsOfBothSidesEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		// calls makes what a handler asks its own peer.
		calls func(ctx context.Context, s *Session, n int) error
	}{
		{"by Notify", func(ctx context.Context, s *Session, n int) error {
			notice(ctx, s, n*10)
			return nil
		}},
		{"by Call", func(ctx context.Context, s *Session, n int) error {
			return s.Call(ctx, "leaf", nil, nil)
		}},
		{"by SendBatch", func(ctx context.Context, s *Session, n int) error {
			var b Batch
			for range 1 + n%3 {
				b.Call("leaf", nil, nil)
			}
			b.Notify("ignored", nil)
			return s.SendBatch(ctx, &b)
		}},
		{"by Future.Wait", func(ctx context.Context, s *Session, n int) error {
			return s.Go(ctx, "leaf", nil).Wait(ctx, nil)
		}},
		{"by goroutines of the handler", func(ctx context.Context, s *Session, n int) error {
			ctx, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			errs := make(chan error)
			for range 3 {
				go func() { errs <- s.Call(ctx, "leaf", nil, nil) }()
			}
			return errors.Join(<-errs, <-errs, <-errs)
		}},
		{"by all of them", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(6) {
				synctest.Test(t, func(t *testing.T) { testFloods(t, seed, c.calls) })
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

func testFloods(t *testing.T, seed uint64, calls func(ctx context.Context, s *Session, n int) error) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	random := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	var over atomic.Bool
	// Handlers of both sides send, but only one side's call: if both did, all workers
	// of both could wait for requests that wait for a worker.
	serve := func(calling bool) Handler {
		return HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			s, n := req.Session(), random(20)
			switch {
			case req.Method == "leaf" || req.Method == "ignored":
			case !calling || calls == nil && n < 5:
				notice(ctx, s, n*10)
			case calls != nil:
				mustEnd(t, "a handler's call", batchMember(calls(ctx, s, n)))
			case n < 10:
				mustEnd(t, "a handler's Call", s.Call(ctx, "leaf", nil, nil))
			case n < 15:
				mustEnd(t, "a handler's Future", s.Go(ctx, "leaf", nil).Wait(ctx, nil))
			case n == 15:
				panic("on purpose")
			case n == 16:
				runtime.Goexit()
			default:
				go notice(ctx, s, n*10) // which goes on when the handler has returned
			}
			return string(make([]byte, random(100))), nil
		})
	}
	options := func(calling bool) *Options {
		return &Options{Handler: serve(calling), Limits: smallLimits()}
	}
	a, b := Pipe(options(seed%2 == 0), options(seed%2 == 1))
	start := time.Now()
	var floods, asked sync.WaitGroup
	for _, s := range []*Session{a, b} {
		for range 3 {
			floods.Go(func() {
				for i := 0; !over.Load() && i < 1000; i++ {
					if err := s.Notify(context.Background(), "work", Args{i}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 4 {
			asked.Go(func() {
				for range 20 {
					err := s.Call(context.Background(), "work", nil, nil)
					if !errors.Is(err, ErrInternalError) { // of a panic
						mustEnd(t, "a call", err)
					}
				}
			})
		}
	}
	asked.Wait()
	over.Store(true)
	floods.Wait()
	if took := time.Since(start); took >= a.limits.pauseLimit() {
		t.Errorf("it took %v", took)
	}
	time.Sleep(a.limits.pauseLimit()) // what the floods have left
	for _, s := range []*Session{a, b} {
		s.lock()
		s.requests.pressure.pauseForbidden = false // until a handler returns
		s.unlock()
		atRest(t, s)
		s.Close()
	}
	<-a.Done()
	<-b.Done()
	atRest(t, a)
	atRest(t, b)
}

// batchMember returns the first error of a batch's calls.
func batchMember(err error) error {
	if e, ok := errors.AsType[*BatchError](err); ok {
		for _, err := range e.Errs {
			if err != nil {
				return err
			}
		}
	}
	return err
}

// TestRingOfThreeSessionsEnds has calls go around a ring of three nodes in both
// directions: their handlers wait for another session than their own, whose reader
// may have paused, too.
func TestRingOfThreeSessionsEnds(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			// next[node][direction] is where a node's calls leave in that direction.
			var next [3][2]*Session
			node := func(n, direction int) *Options {
				return &Options{Limits: smallLimits(), Handler: HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
					if n == 0 || req.Method == "ignored" {
						return n, nil
					}
					return Call[int](ctx, next[n][direction], req.Method, nil)
				})}
			}
			var all []*Session
			for n := range 3 {
				to := (n + 1) % 3
				// What arrives at a node goes on in the same direction.
				next[n][0], next[to][1] = Pipe(node(n, 1), node(to, 0))
				all = append(all, next[n][0], next[to][1])
			}
			start := time.Now()
			var wg sync.WaitGroup
			refused := atomic.Int64{}
			for direction := range 2 {
				for range 20 {
					wg.Go(func() {
						for range 20 {
							err := next[0][direction].Call(context.Background(), "around", nil, nil)
							mustEnd(t, "a call", err)
							if err != nil {
								refused.Add(1)
							}
						}
					})
				}
				for n := range 3 {
					wg.Go(func() {
						for range 300 {
							notice(context.Background(), next[n][direction], 10)
						}
					})
				}
			}
			wg.Wait()
			took := time.Since(start)
			if took > 2*all[0].limits.pauseLimit() {
				t.Errorf("it took %v", took)
			}
			time.Sleep(all[0].limits.pauseLimit()) // what the floods have left
			for _, s := range all {
				s.lock()
				s.requests.pressure.pauseForbidden = false
				s.unlock()
				atRest(t, s)
			}
			for _, s := range all {
				s.Close()
			}
			for _, s := range all {
				<-s.Done()
			}
			t.Logf("%v, %d refused", took, refused.Load())
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A handler's goroutine may go on when the handler has returned: then it is nobody's.
func TestWaitsThatOutliveTheirHandlerTieNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends sync.WaitGroup
		a, b := Pipe(&Options{Handler: HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			for range 3 {
				ends.Go(func() { _ = req.Session().Call(ctx, "hang", nil, nil) })
			}
			time.Sleep(time.Second) // they wait
			return nil, nil
		})}, &Options{Handler: HandlerFunc(func(ctx context.Context, _ *Request) (any, error) {
			time.Sleep(10 * time.Second)
			return nil, nil
		})})
		tied := func() int {
			a.lock()
			defer a.unlock()
			return a.requests.pressure.replyWaiters
		}
		if err := b.Notify(t.Context(), "m", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		if tied() != 1 {
			t.Errorf("%d handlers are tied, want the one", tied())
		}
		time.Sleep(time.Second)
		if tied() != 0 {
			t.Errorf("%d handlers are tied when it has returned", tied())
		}
		ends.Wait()
		time.Sleep(10 * time.Second)
		atRest(t, a)
		a.Close()
		b.Close()
		<-a.Done()
		<-b.Done()
	})
}

// The rules of what is full, by the numbers.
func TestCrowded(t *testing.T) {
	for _, c := range []struct {
		name                string
		limits              Limits
		cancel              bool
		waiting, returned   int
		bytes               int
		crowded, stillAfter bool // at four quarters, and at three
	}{
		{"nothing", Limits{}, false, 0, 0, 0, false, false},
		{"two for each worker, which run", Limits{Concurrency: 4}, false, 8 + 4, 0, 0, true, true},
		{"one less", Limits{Concurrency: 4}, false, 7 + 4, 0, 0, false, true},
		{"below three quarters", Limits{Concurrency: 4}, false, 5 + 4, 0, 0, false, false},
		{"as many as have returned lately", Limits{Concurrency: 4}, false, 100 + 4, 100, 0, true, true},
		{"one less than have returned", Limits{Concurrency: 4}, false, 99 + 4, 100, 0, false, true},
		{"Queue", Limits{Queue: 50}, false, 50 + 20, 1000, 0, true, true},
		{"QueueBytes", Limits{QueueBytes: 1000}, false, 1, 0, 1000, true, true},
		{"three quarters of QueueBytes", Limits{QueueBytes: 1000}, false, 1, 0, 750, false, true},
		{"less", Limits{QueueBytes: 1000}, false, 1, 0, 749, false, false},
		{"requests that can be cancelled", Limits{Concurrency: 1}, true, 63 + 1, 0, 0, false, true},
		{"64 of them", Limits{Concurrency: 1}, true, 64 + 1, 0, 0, true, true},
		{"without a limit", Limits{Queue: -1, QueueBytes: -1, ProcessingTimeout: -1}, false, 1 << 30, 0, 1 << 30, false, false},
		{"without a limit of handlers", Limits{Concurrency: -1}, false, 1 << 30, 0, 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := mustResolveOptions(&Options{Limits: c.limits})
			if c.cancel {
				o.Cancellation = LSPCancellation
			}
			s := newSession(&messages{conn: nowhere{}}, o, RoleClient, &pool{}, &noServer)
			s.lock()
			defer s.mu.Unlock() // what it holds is made up
			s.requests.count, s.requests.bytes = c.waiting, c.bytes
			s.requests.pressure.currentReturns = c.returned
			if got := s.requests.isFullOrCrowdedLocked(0, 4); got != c.crowded {
				t.Errorf("crowded: %v", got)
			}
			if got := s.requests.isFullOrCrowdedLocked(0, 3); got != c.stillAfter {
				t.Errorf("still crowded: %v", got)
			}
		})
	}
}

// What has returned counts for a quarter of Limits.ProcessingTimeout, or a little less.
func TestReturnedHandlersAreForgotten(t *testing.T) {
	l := Limits{ProcessingTimeout: 8 * time.Second}.resolved(RoleClient)
	b := &backPressure{}
	for i, c := range []struct {
		at   time.Duration
		did  int
		want int
	}{
		{0, 10, 10}, {999 * time.Millisecond, 0, 10}, {1000 * time.Millisecond, 5, 15},
		{1999 * time.Millisecond, 0, 15}, {2 * time.Second, 0, 5}, {3 * time.Second, 0, 0},
		{10 * time.Second, 7, 7}, {13 * time.Second, 0, 0},
	} {
		b.countRecentReturns(c.at, &l)
		b.currentReturns += c.did
		if got := b.countRecentReturns(c.at, &l); got != c.want {
			t.Errorf("step %d: %d", i, got)
		}
	}
}

// Requests that time out leave room: reading goes on then, though no handler returns.
func TestPauseEndsWhenRequestsExpire(t *testing.T) {
	for _, order := range []Order{0, Sequential, NotificationsFirst} {
		for name, line := range map[string]string{
			"requests":      `{"jsonrpc":"2.0","method":"m","id":1}`,
			"notifications": `{"jsonrpc":"2.0","method":"m"}`,
			"batches":       `[{"jsonrpc":"2.0","method":"m","id":1},{"jsonrpc":"2.0","method":"m"}]`,
		} {
			t.Run(fmt.Sprint(name, order), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near, far := net.Pipe()
					stuck := make(chan struct{})
					s := NewSession(near, &Options{Order: order, Role: RoleServer, Handler: HandlerFunc(func(context.Context, *Request) (any, error) {
						<-stuck
						return nil, nil
					}), Limits: Limits{Concurrency: 1, ProcessingTimeout: time.Second}})
					go io.Copy(io.Discard, far)
					for range 4 { // the last is read when the first have timed out
						fmt.Fprintln(far, line)
					}
					fmt.Fprintln(far, line)
					synctest.Wait()
					if stats := s.Stats(); stats.Pauses == 0 || stats.Paused > 2*time.Second {
						t.Errorf("reading paused %d times, for %v", stats.Pauses, stats.Paused)
					}
					close(stuck)
					s.Close()
					far.Close()
					<-s.Done()
				})
			})
		}
	}
}

// A few batches may fill the queue for longer than the peer's SendTimeout. The peer is
// not to take that for death, and its replies come through.
func TestLongPauseIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(&Options{Handler: HandlerFunc(func(context.Context, *Request) (any, error) { return 7, nil })},
			&Options{Handler: HandlerFunc(func(context.Context, *Request) (any, error) {
				time.Sleep(50 * time.Millisecond)
				return nil, nil
			}), Limits: Limits{ProcessingTimeout: -1}})
		for range 3 { // 3 MB each, as Limits.QueueBytes counts, and 25 s of work
			var batch Batch
			for range 10000 {
				batch.Notify("m", Args{1})
			}
			if err := a.SendBatch(t.Context(), &batch); err != nil {
				t.Fatal(err)
			}
		}
		const notes = 120 // of 650 bytes: two long pauses let so much through
		sent := make(chan error)
		go func() {
			for range notes {
				if err := a.Notify(t.Context(), "m", Args{string(make([]byte, 100))}); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		if _, err := Call[int](t.Context(), b, "ask", nil); err != nil { // not a handler's
			t.Errorf("the reply did not come: %v", err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if err := a.Shutdown(t.Context()); err != nil || a.Err() != ErrClosed {
			t.Errorf("Shutdown returned %v, the session ended with %v", err, a.Err())
		}
		<-b.Done()
		stats := b.Stats()
		if stats.RequestsReceived != 3*10000+notes || stats.NotificationsDropped != 0 {
			t.Errorf("stats are %+v", stats)
		}
		atRest(t, a)
		atRest(t, b)
	})
}

// An id is kept twice if the peer can cancel requests, and counts twice.
func TestIDsOfCancellableRequestsCountTwice(t *testing.T) {
	id := `"` + strings.Repeat("x", 1000) + `"`
	single, batch := `{"jsonrpc":"2.0","method":"m","id":`+id+`}`+"\n", `[{"jsonrpc":"2.0","method":"m","id":`+id+`}]`+"\n"
	queued := func(c *Cancellation) (bytes int) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := NewSession(near, &Options{Cancellation: c, Limits: Limits{Concurrency: 1, ProcessingTimeout: -1}, Handler: HandlerFunc(func(ctx context.Context, _ *Request) (any, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})})
			io.WriteString(far, single+single+batch) // the first is being handled
			synctest.Wait()
			s.lock()
			bytes = s.requests.bytes
			s.unlock()
			far.Close()
			<-s.Done()
		})
		return bytes
	}
	if with, without := queued(LSPCancellation), queued(nil); with != without+2*len(id) {
		t.Errorf("the queue has %d bytes, and %d without cancellation, want %d more", with, without, 2*len(id))
	}
}

// What is read in a long pause has a bound: twice Limits.Queue and QueueBytes, and what
// is read at once.
func TestLongPauseTakesBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const queueBytes = 250_000
		var most int // a message of the notifications has 6,000 bytes
		a, b := Pipe(&Options{Limits: Limits{SendTimeout: -1}}, &Options{Handler: HandlerFunc(func(_ context.Context, r *Request) (any, error) {
			time.Sleep(time.Second)
			most = max(most, r.Session().Stats().QueuedBytes)
			return nil, nil
		}), Limits: Limits{Concurrency: 1, ProcessingTimeout: -1, QueueBytes: queueBytes}})
		var batch Batch
		for range 1000 {
			batch.Notify("m", nil)
		}
		if err := a.SendBatch(t.Context(), &batch); err != nil {
			t.Fatal(err)
		}
		go func() {
			for a.Notify(t.Context(), "m", Args{string(make([]byte, 1000))}) == nil {
			}
		}()
		time.Sleep(900 * time.Second)
		size := b.Stats().QueuedBytes
		a.Close()
		b.Close()
		<-a.Done()
		<-b.Done()
		if bound := 2*queueBytes + maxDecodedBytes + 7000; most > bound || size <= queueBytes {
			t.Errorf("%d bytes waited, %d in the end", most, size)
		}
	})
}

// A context may outlive its handler. What is called with it is like any other call.
func TestContextThatOutlivesItsHandlerIsNoHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := make(chan context.Context, 1)
		a, b := Pipe(&Options{Handler: HandlerFunc(func(ctx context.Context, _ *Request) (any, error) {
			kept <- context.WithoutCancel(ctx)
			return nil, nil
		}), Limits: Limits{Outgoing: 2}}, &Options{Handler: HandlerFunc(func(ctx context.Context, _ *Request) (any, error) {
			time.Sleep(time.Second)
			return nil, nil
		})})
		if err := b.Call(t.Context(), "m", nil, nil); err != nil {
			t.Fatal(err)
		}
		ctx := <-kept
		synctest.Wait() // the handler's worker is done with it
		var calls sync.WaitGroup
		for range 10 {
			calls.Go(func() { _ = a.Call(ctx, "m", nil, nil) })
		}
		synctest.Wait()
		if pending := a.Stats().Pending; pending != 2 {
			t.Errorf("%d calls have a slot, want 2", pending)
		}
		down := make(chan error)
		go func() { down <- a.Shutdown(t.Context()) }()
		synctest.Wait()
		if err := a.Call(ctx, "m", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("while the session drains, a call returns %v", err)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
		calls.Wait()
		b.Close()
		<-b.Done()
	})
}

// A handler that returns wakes as many blocked sessions as can go on, and not all of them.
func TestHandlersThatReturnWakeFewSessions(t *testing.T) {
	const sessions, size = 50, 40_000
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		var handled atomic.Int64
		srv := &Server{MaxHandledBytes: 2*size + size/2}
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			handled.Add(1)
			<-open
			return nil, nil
		})
		var conns []net.Conn
		for range sessions {
			near, far := net.Pipe()
			srv.ServeConn(near)
			// Owner: the test. End: the connection is closed.
			go io.Copy(io.Discard, far)
			fmt.Fprintf(far, `{"jsonrpc":"2.0","method":"m","params":["%s"],"id":1}`+"\n", strings.Repeat("x", size))
			synctest.Wait()
			conns = append(conns, far)
		}
		l := &srv.load
		blocked := func() int {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.blocked)
		}
		for done := 2; done <= sessions; done++ {
			if n := handled.Load(); n != int64(done) {
				t.Fatalf("%d handlers were called when %d may run", n, done)
			}
			if n := blocked(); n != sessions-done {
				t.Fatalf("%d sessions are blocked, want %d", n, sessions-done)
			}
			before := make(map[*Session]int)
			l.mu.Lock()
			for i, s := range l.blocked {
				before[s] = i
			}
			l.mu.Unlock()
			open <- struct{}{}
			synctest.Wait()
			l.mu.Lock()
			for i, s := range l.blocked { // who is not woken keeps the place in the line
				if want, ok := before[s]; !ok || i != want-1 {
					t.Errorf("the session at %d was at %d, of %d", i, want, len(before))
				}
			}
			l.mu.Unlock()
		}
		close(open)
		synctest.Wait()
		if n := l.handling.Load(); n != 0 {
			t.Errorf("%d bytes are handled afterwards", n)
		}
		for _, c := range conns {
			c.Close()
		}
		srv.Wait(context.Background())
	})
}

// Room that a session does not need any more is others', who wait for it.
func TestRoomThatIsNotUsedIsPassedOn(t *testing.T) {
	const size = 40_000
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		handled := make(chan string, 10)
		srv := &Server{MaxHandledBytes: size + size/2}
		srv.Options.Limits.ProcessingTimeout = time.Minute
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			handled <- string(req.ID)
			<-open // and does not heed its context
			return nil, nil
		})
		var conns []net.Conn
		ask := func(id int) {
			near, far := net.Pipe()
			srv.ServeConn(near)
			// Owner: the test. End: the connection is closed.
			go io.Copy(io.Discard, far)
			fmt.Fprintf(far, `{"jsonrpc":"2.0","method":"m","params":["%s"],"id":%d}`+"\n", strings.Repeat("x", size), id)
			synctest.Wait()
			conns = append(conns, far)
		}
		ask(1) // runs
		ask(2) // times out
		ask(3) // ends
		time.Sleep(time.Minute)
		ask(4)
		ask(5)
		conns[2].Close()
		synctest.Wait()
		open <- struct{}{}
		synctest.Wait()
		close(open)
		synctest.Wait()
		close(handled)
		var got []string
		for id := range handled {
			got = append(got, id)
		}
		if fmt.Sprint(got) != "[1 4 5]" {
			t.Errorf("handled were %v", got)
		}
		if n := srv.load.handling.Load(); n != 0 || len(srv.load.blocked) != 0 {
			t.Errorf("afterwards %d bytes are handled, and %d sessions blocked", n, len(srv.load.blocked))
		}
		for _, c := range conns {
			c.Close()
		}
		srv.Wait(context.Background())
	})
}

// addressed is a connection with a remote address.
type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }

// text is an address as some connections have it.
type text string

func (text) Network() string  { return "text" }
func (a text) String() string { return string(a) }

func TestGroupBySubnet(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, c := range []struct {
		name         string
		bits4, bits6 int
		addr         net.Addr
		want         string
	}{
		{"IPv4", 24, 48, tcp("192.0.2.7:1000"), "192.0.2.0/24"},
		{"IPv4, another of the same", 24, 48, tcp("192.0.2.255:2000"), "192.0.2.0/24"},
		{"IPv4, one by one", 32, 64, tcp("192.0.2.7:1000"), "192.0.2.7/32"},
		{"IPv6 /48", 24, 48, tcp("[2001:db8:1:2::7]:1000"), "2001:db8:1::/48"},
		{"IPv6 /64", 24, 64, tcp("[2001:db8:1:2::7]:1000"), "2001:db8:1:2::/64"},
		{"IPv4 in IPv6", 24, 48, text("[::ffff:192.0.2.7]:1000"), "192.0.2.0/24"},
		{"IPv6 with a zone", 24, 64, tcp("[fe80::1%eth0]:1000"), "fe80::/64"},
		{"more bits than there are", 33, 129, tcp("192.0.2.7:1000"), "192.0.2.7"},
		{"no bits: all together", 0, 0, tcp("192.0.2.7:1000"), "0.0.0.0/0"},
		{"this machine", 24, 48, tcp("127.0.0.1:1000"), ""},
		{"this machine, another of its addresses", 32, 64, tcp("127.3.2.1:1000"), ""},
		{"this machine, IPv6", 24, 48, tcp("[::1]:1000"), ""},
		{"this machine, IPv4 in IPv6", 24, 48, text("[::ffff:127.0.0.1]:1000"), ""},
		{"this machine, no bits", 0, 0, tcp("127.0.0.1:1000"), ""},
		{"this machine, more bits than there are", 33, 129, tcp("[::1]:1000"), ""},
		{"a neighbour of this machine's addresses", 24, 48, tcp("128.0.0.1:1000"), "128.0.0.0/24"},
		{"a neighbour of this machine's, IPv6", 24, 128, tcp("[::2]:1000"), "::2/128"},
		{"a unix socket", 24, 48, &net.UnixAddr{Net: "unix"}, ""},
		{"a unix socket with a name", 24, 48, &net.UnixAddr{Net: "unix", Name: "@name"}, ""},
		{"a name", 24, 48, text("localhost:1000"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := addressed{addr: c.addr}
			s := newSession(newStream(conn, NewlineFramer{}), mustResolveOptions(nil), RoleServer, &pool{}, &serverLoad{})
			if got := GroupBySubnet(c.bits4, c.bits6)(s); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	s := newSession(&messages{conn: nowhere{}}, mustResolveOptions(nil), RoleServer, &pool{}, &serverLoad{})
	if got := GroupBySubnet(24, 48)(s); got != "" {
		t.Errorf("without an address it is in group %q", got)
	}
}

func TestAccountsOfGroupsArePruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g groups
		l := &Limits{CostDecay: 1, CostHard: 100000}
		kept := g.joinGroup("with a session", l)
		kept.addCost(50)
		g.joinGroup("with a cost", l).addCost(100000)
		g.accounts["with a cost"].sessions--
		for i := range 100000 {
			a := g.joinGroup(fmt.Sprint(i), l)
			a.addCost(1)
			a.sessions--
			if i%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		if n := len(g.accounts); n > 2100 {
			t.Errorf("%d accounts are kept", n)
		}
		if g.joinGroup("with a session", l) != kept || g.accounts["with a cost"] == nil {
			t.Error("an account that was needed is gone")
		}
		if g.size("with a session") != 2 || g.size("with a cost") != 0 || g.size("none") != 0 {
			t.Error("the sessions are not counted")
		}
	})
}

// One line after the other that is no JSON, all in one piece, are not an hour's
// but ten days' worth of decay.
func TestGroupIsNotLockedOutForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{Options: Options{Limits: Limits{Group: func(*Session) string { return "one" }}}}
		near, far := net.Pipe()
		s := srv.ServeConn(near)
		go far.Write([]byte(strings.Repeat("x\n", 2000)))
		io.Copy(io.Discard, far)
		<-s.Done()

		time.Sleep(time.Hour + time.Second) // what is above CostHard has decayed
		near, far = net.Pipe()
		s = srv.ServeConn(near)
		if got := s.Cost(); got > 10000 || s.Stats().Concurrency == 0 {
			t.Errorf("the cost is %v, with a concurrency of %d", got, s.Stats().Concurrency)
		}
		far.Close()
		srv.Close()
		srv.Wait(context.Background())
	})
}

// What has come of a message that the peer does not complete has been received all
// the same: to connect again and again for it is not to be had for nothing.
func TestGroupPaysForMessagesThatAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{Options: Options{Limits: Limits{Group: func(*Session) string { return "one" }, CostPerByte: 1}}}
		const size, times = 300, 3
		for range times {
			near, far := net.Pipe()
			s := srv.ServeConn(near)
			far.Write([]byte(strings.Repeat("x", size)))
			far.Close()
			<-s.Done()
			if got := s.Stats().BytesReceived; got != size {
				t.Errorf("%d bytes were received, want %d", got, size)
			}
		}
		near, far := net.Pipe()
		if got := srv.ServeConn(near).Cost(); got != times*size {
			t.Errorf("the cost is %v, want %v", got, times*size)
		}
		far.Close()
		srv.Close()
		srv.Wait(context.Background())
	})
}

// Behind a proxy on this machine, one client must not use up the budget of all.
func TestClientsOfALocalProxyShareNoBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{MaxGroup: 1, Options: Options{Limits: Limits{Group: GroupBySubnet(24, 64)}}}
		for _, addr := range []net.Addr{text("127.0.0.1:1000"), text("[::1]:1000"), &net.UnixAddr{Net: "unix"}} {
			var sessions []*Session
			for range 2 {
				near, far := net.Pipe()
				defer far.Close()
				s := srv.ServeConn(addressed{near, addr})
				if s == nil {
					t.Fatalf("a second client from %v is refused", addr)
				}
				sessions = append(sessions, s)
			}
			sessions[0].BumpCost(6000)
			if got := sessions[1].Cost(); got != 0 {
				t.Errorf("what a client from %v costs counts for another: %v", addr, got)
			}
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}

// A group's budget is the sum of what its members use, and outlives them.
func TestGroupSharesItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{Options: Options{Limits: Limits{Group: func(s *Session) string { return s.RemoteAddr().String() }}}}
		serve := func(group string) (*Session, net.Conn) {
			near, far := net.Pipe()
			go func() { // what is written is not looked at
				for buf := make([]byte, 1000); ; {
					if _, err := far.Read(buf); err != nil {
						return
					}
				}
			}()
			s := srv.ServeConn(addressed{near, text(group)})
			t.Cleanup(func() { far.Close() })
			return s, far
		}
		say := func(conn net.Conn) {
			conn.Write([]byte(`{"jsonrpc":"2.0","method":"m"}` + "\n"))
			synctest.Wait()
		}
		a, _ := serve("one")
		b, farB := serve("one")
		other, _ := serve("two")
		alone, _ := serve("")
		a.BumpCost(6000)
		if a.Cost() != 6000 || b.Cost() != 6000 || other.Cost() != 0 || alone.Cost() != 0 {
			t.Errorf("the costs are %v, %v, %v, %v", a.Cost(), b.Cost(), other.Cost(), alone.Cost())
		}
		b.BumpCost(2000) // too much to be held to its own cost alone
		a.BumpCost(-2000)
		say(farB)
		if n := b.Stats().Concurrency; n != 10 {
			t.Errorf("another member's concurrency is %d", n)
		}
		a.BumpCost(10000)
		say(farB) // it learns it when it next does something
		<-b.Done()
		a.Close()
		<-a.Done()

		time.Sleep(time.Minute)
		c, farC := serve("one") // a reconnect does not help
		if got := c.Cost(); got < 15000 || c.Stats().Concurrency != 0 {
			t.Errorf("the cost after a reconnect is %v, with a concurrency of %d", got, c.Stats().Concurrency)
		}
		say(farC)
		<-c.Done()
		if _, ok := c.Err().(*CostError); !ok {
			t.Errorf("it ended with %v", c.Err())
		}
		time.Sleep(2 * time.Hour)
		d, farD := serve("one") // time does
		say(farD)
		if d.Stats().Concurrency != 20 || d.Err() != nil {
			t.Errorf("after two hours: %+v, %v", d.Stats(), d.Err())
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}

// Older claims that hold just as much as is needed make room, and those that hold less
// stay.
func TestOlderClaimsThatJustSufficeMakeRoom(t *testing.T) {
	const size = 1 << 20
	for needed, want := range map[int]bool{size - 1: true, size: true, size + 1: false} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			var older *Session
			l := &serverLoad{limit: size / 2, live: func() []*Session { return []*Session{older} }}
			o := mustResolveOptions(nil)
			older = newSession(newStream(near, o.Framer), o, RoleServer, &pool{}, l)
			older.start()
			defer older.Close()
			synctest.Wait()
			older.lock()
			older.memory.partial = partialInput{bufferSize: size}
			older.unlock()
			got := l.makeRoomForMessage(nil, time.Now(), needed)
			synctest.Wait()
			if closed := older.Err() != nil; got != want || closed != want {
				t.Errorf("%d bytes: there is room: %v, and the older claim is gone: %v", needed, got, closed)
			}
		})
	}
}

// A good member of a group is held to its own cost, so that what the others use does not
// change its throttle.
func TestThrottleOfAGoodMemberFollowsItsOwnCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		changes := make(map[*Session]int)
		srv := &Server{Options: Options{
			Limits: Limits{Group: func(*Session) string { return "one" }},
			Trace: &Trace{CostChanged: func(s *Session, _ float64, _ int) {
				mu.Lock()
				defer mu.Unlock()
				changes[s]++
			}},
		}}
		serve := func() *Session {
			near, far := net.Pipe()
			t.Cleanup(func() { far.Close() })
			return srv.ServeConn(near)
		}
		check := func(s *Session, want int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if changes[s] != want {
				t.Errorf("the cost has changed %d times, want %d", changes[s], want)
			}
			clear(changes)
		}
		costly, good := serve(), serve()
		check(good, 1) // it has joined the group
		costly.BumpCost(6000)
		check(costly, 1)
		for range 10 {
			good.BumpCost(10)
		}
		check(good, 0)
		good.BumpCost(10)
		check(good, 1)
		srv.Close()
		srv.Wait(context.Background())
	})
}

// One peer's mistakes do not end the sessions of its neighbours: those that were good go
// on, and the new are refused.
func TestGroupOverItsBudgetLetsTheGoodGoOn(t *testing.T) {
	const request = `{"jsonrpc":"2.0","method":"m","id":1}` + "\n"
	const good, refused = `{"jsonrpc":"2.0","result":"fine","id":1}`, `{"jsonrpc":"2.0","error":{"code":-101,`
	for name, c := range map[string]struct {
		limits  Limits
		before  float64       // what the neighbour had used when the group's budget was used up
		after   float64       // what it uses then
		late    bool          // it begins then
		wait    time.Duration // before it asks
		answers string
	}{
		"one that has used nothing":                 {answers: good},
		"one that has used a little":                {before: 900, after: 900, answers: good},
		"one that has used no more than CostSoft":   {before: 1990, answers: good},
		"one that has used more":                    {before: 2100, answers: refused},
		"one that has used more, and then waits":    {before: 2100, wait: 10 * time.Minute, answers: good},
		"one that uses more then":                   {before: 900, after: 1200, answers: refused},
		"one that begins then":                      {late: true, answers: refused},
		"one that begins then, and waits":           {late: true, wait: 2 * time.Hour, answers: good},
		"one that begins then, and waits too short": {late: true, wait: 10 * time.Minute, answers: refused},
		"without a soft limit, a good one":          {limits: Limits{CostSoft: -1}, before: 1900, answers: good},
		"without a soft limit, another":             {limits: Limits{CostSoft: -1}, before: 2100, answers: refused},
		"with a low hard limit, a good one":         {limits: Limits{CostHard: 1000}, before: 190, answers: good},
		"with a low hard limit, another":            {limits: Limits{CostHard: 1000}, before: 250, answers: refused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.limits.Group = func(*Session) string { return "one" }
				srv := &Server{Options: Options{Limits: c.limits, Handler: HandlerFunc(func(context.Context, *Request) (any, error) { return "fine", nil })}}
				defer srv.Wait(context.Background())
				defer srv.Close()
				serve := func() (*Session, net.Conn) {
					near, far := net.Pipe()
					t.Cleanup(func() { far.Close() })
					return srv.ServeConn(near), far
				}
				spoil := func() {
					near, far := net.Pipe()
					abuser := srv.ServeConn(near)
					go far.Write([]byte(strings.Repeat("x\n", 2000))) // the cost of a tenth of it would suffice
					go io.Copy(io.Discard, far)
					<-abuser.Done()
					far.Close()
				}
				if c.late {
					spoil()
				}
				s, far := serve()
				s.BumpCost(c.before)
				if !c.late {
					spoil()
				}
				if got := s.Cost(); got < s.limits.CostHard {
					t.Fatalf("the group's cost is %v", got)
				}
				s.BumpCost(c.after)
				time.Sleep(c.wait)
				start := time.Now()
				go far.Write([]byte(request))
				line := make([]byte, 1000)
				n, err := far.Read(line)
				if got := string(line[:n]); err != nil || !strings.HasPrefix(got, c.answers) {
					t.Errorf("the answer is %s, %v; want %s", got, err, c.answers)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("it came after %v", took)
				}
				synctest.Wait()
				if err := s.Err(); c.answers == good && err != nil {
					t.Errorf("the session has ended with %v", err)
				}
			})
		})
	}
}

// A message is counted that a sender writes itself, until it is written.
func TestLentWriteIsNotCountedForEver(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &Server{}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	c, err := Dial(t.Context(), "tcp://"+l.Addr().String(), &Options{
		Handler: HandlerFunc(func(context.Context, *Request) (any, error) { return "thanks", nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(t.Context(), "m", nil, nil); !errors.Is(err, ErrMethodNotFound) { // now the server has the session
		t.Fatal(err)
	}
	for s := range srv.Sessions() {
		waitForWriter(s)
		if err := s.Call(t.Context(), "m", Args{strings.Repeat("x", 20000)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for srv.Stats().QueuedBytes != 0 { // the reply can be faster than the end of the write
		runtime.Gosched()
	}
	c.Close()
	<-c.Done()
	srv.Close()
	srv.Wait(context.Background())
	<-served
}

// What goes when there are too many handshakes is of whoever has the most.
func TestHandshakesOfWhoeverHasTheMostMakeWay(t *testing.T) {
	const limit, wait = 4, "wait"
	for name, c := range map[string]struct {
		peers []string // addresses, in order, and pauses of minHandshakeTime
		lost  []int    // which of the handshakes are given up
	}{
		"an address, for another":                  {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "198.51.100.1:1"}, []int{0}},
		"an address, for several others":           {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "198.51.100.1:1", "203.0.113.1:1"}, []int{0, 1}},
		"not those before it":                      {[]string{"198.51.100.1:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "203.0.113.1:1"}, []int{1}},
		"an address, for its own":                  {[]string{"192.0.2.1:1", "198.51.100.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4"}, []int{4}},
		"an address, for its own, later":           {[]string{"198.51.100.1:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", wait, "192.0.2.1:4"}, []int{1}},
		"a flood, the oldest of it first":          {[]string{"198.51.100.1:1", "192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", wait, "192.0.2.1:4", "192.0.2.1:5"}, []int{1, 2}},
		"a subnet of IPv4":                         {[]string{"203.0.113.1:1", "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "198.51.100.1:1"}, []int{1}},
		"an address within the subnet":             {[]string{"192.0.2.1:1", "192.0.2.2:1", "192.0.2.2:2", "203.0.113.1:1", "198.51.100.1:1"}, []int{1}},
		"a subnet of IPv6":                         {[]string{"[2001:db8:9::1]:1", "[2001:db8:1:1::1]:1", "[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", "198.51.100.1:1"}, []int{1}},
		"a /64 within the subnet":                  {[]string{"[2001:db8:1:1::1]:1", "[2001:db8:1:2::1]:1", "[2001:db8:1:2::2]:1", "203.0.113.1:1", "198.51.100.1:1"}, []int{1}},
		"IPv4 in IPv6 is IPv4":                     {[]string{"203.0.113.1:1", "192.0.2.1:1", "[::ffff:192.0.2.2]:1", "198.51.100.1:1", "198.51.99.1:1"}, []int{1}},
		"those without an IP address":              {[]string{"203.0.113.1:1", "one", "two", "three", "198.51.100.1:1"}, []int{1}},
		"the new one, if its address is not known": {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "one"}, []int{4}},
		"its address is not known, later":          {[]string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", wait, "one"}, []int{0}},
		"all are alike: the new one":               {[]string{"192.0.2.1:1", "198.51.100.1:1", "203.0.113.1:1", "198.51.99.1:1", "198.51.98.1:1"}, []int{4}},
		"all are alike: the oldest, later":         {[]string{"192.0.2.1:1", "198.51.100.1:1", "203.0.113.1:1", "198.51.99.1:1", wait, "198.51.98.1:1"}, []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &Server{MaxHandshakes: limit}
				srv.mustResolveOptionsLocked()
				var handshakes []*handshake
				var lost []int
				for _, peer := range c.peers {
					if peer == wait {
						time.Sleep(minHandshakeTime)
						continue
					}
					i, h := len(handshakes), &handshake{startedAt: time.Now()}
					h.cancel = func(error) { lost = append(lost, i) }
					handshakes = append(handshakes, h)
					if srv.beginHandshake(h, addressed{addr: text(peer)}) != nil {
						lost = append(lost, i)
					}
				}
				if !slices.Equal(lost, c.lost) {
					t.Errorf("given up were %v, want %v", lost, c.lost)
				}
				if got := srv.Stats(); got.Handshakes != limit || got.Refused["Server.MaxHandshakes"] != uint64(len(c.lost)) {
					t.Errorf("stats are %+v", got)
				}
				for _, h := range handshakes {
					srv.endHandshake(h)
				}
				if n := len(srv.handshakes.list) + len(srv.handshakes.groups); n != 0 {
					t.Errorf("%d are left in the table", n)
				}
			})
		})
	}
}

// hear returns the lines that come over conn.
func hear(conn net.Conn) <-chan string {
	lines := make(chan string, 100)
	// Owner: the test. End: the connection is closed.
	go func() {
		for r := bufio.NewScanner(conn); r.Scan(); {
			lines <- r.Text()
		}
		close(lines)
	}()
	return lines
}

// next returns the next line, "" if none comes within a second.
func next(lines <-chan string) string {
	select {
	case line := <-lines:
		return line
	case <-time.After(time.Second):
		return ""
	}
}

// A request that a nearly full server holds back, until a message is written, is handled
// then, even if a handler waits for a reply of the peer.
func TestWrittenMessageWakesWorkerBesideTiedHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &Server{MaxQueuedBytes: 1 << 20}
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			if req.Method == "outer" {
				return nil, req.Session().Call(ctx, "question", nil, nil)
			}
			return "inner", nil
		})
		near, far := net.Pipe()
		srv.ServeConn(near)
		srv.load.bytes.Store(1 << 20 / 4 * 3)
		fmt.Fprintln(far, `{"jsonrpc":"2.0","method":"outer","id":1}`)
		fmt.Fprintln(far, `{"jsonrpc":"2.0","method":"inner","id":2}`)
		synctest.Wait() // the question is being written
		lines := hear(far)
		if line := next(lines); !strings.Contains(line, "question") {
			t.Fatalf("got %q", line)
		}
		if line := next(lines); !strings.Contains(line, "inner") {
			t.Errorf("got %q, want the second reply", line)
		}
		far.Close()
		srv.load.bytes.Store(0)
		srv.Wait(context.Background())
	})
}

// A handler that waits for a reply of its peer does not hold up what the peer asks before,
// however large its own request is. What other sessions handle does, until it is over.
func TestHandledBytesDoNotHoldUpNestedRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		srv := &Server{MaxHandledBytes: 50_000}
		srv.Options.Handler = HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
			switch req.Method {
			case "outer":
				return nil, req.Session().Call(ctx, "question", nil, nil)
			case "other":
				<-open
			}
			return "inner", nil
		})
		send := func(conn net.Conn, method string, id, size int) {
			fmt.Fprintf(conn, `{"jsonrpc":"2.0","method":"%s","params":["%s"],"id":%d}`+"\n", method, strings.Repeat("x", size), id)
			synctest.Wait()
		}
		near, far := net.Pipe()
		srv.ServeConn(near)
		lines := hear(far)
		send(far, "outer", 1, 60_000)
		if line := next(lines); !strings.Contains(line, "question") {
			t.Fatalf("got %q", line)
		}
		send(far, "inner", 2, 30_000)
		if line := next(lines); !strings.Contains(line, "inner") {
			t.Errorf("got %q, want the second reply", line)
		}
		otherNear, otherFar := net.Pipe()
		srv.ServeConn(otherNear)
		hear(otherFar)
		send(otherFar, "other", 1, 24_000) // its share is 25,000
		send(far, "inner", 3, 30_000)
		if line := next(lines); line != "" {
			t.Errorf("got %q beside the handler of another session", line)
		}
		close(open)
		if line := next(lines); !strings.Contains(line, "inner") {
			t.Errorf("got %q, want the third reply", line)
		}
		far.Close()
		otherFar.Close()
		srv.Wait(context.Background())
		if n := srv.Stats().HandledBytes; n != 0 || len(srv.load.blocked) != 0 {
			t.Errorf("afterwards %d bytes are handled, and %d sessions blocked", n, len(srv.load.blocked))
		}
	})
}

// A negative cost of handlers' errors switches it off, as it does any limit.
func TestNegativeCostOfHandlerErrorIsNone(t *testing.T) {
	if cost := (Limits{CostHandlerError: -1}).resolved(RoleServer).CostHandlerError; cost != 0 {
		t.Errorf("an error costs %v", cost)
	}
}

// sessionError is an error whose text needs the session.
type sessionError struct{ session *atomic.Pointer[Session] }

func (e sessionError) Error() string {
	return fmt.Sprint("bytes sent: ", e.session.Load().Stats().BytesSent)
}

// failingFramer is a framer whose errors are the user's own.
type failingFramer struct {
	NewlineFramer
	err error
}

func (f failingFramer) AppendFrame(dst, msg []byte) ([]byte, error) {
	if bytes.Contains(msg, []byte("error")) || bytes.Contains(msg, []byte("cancel")) {
		return dst, f.err
	}
	return f.NewlineFramer.AppendFrame(dst, msg)
}

// Texts of the user's errors are asked for without the lock (I5).
func TestTextsOfErrorsMayNeedTheSession(t *testing.T) {
	for name, use := range map[string]func(s *Session, far net.Conn){
		"a reply to what is wrong": func(_ *Session, far net.Conn) { fmt.Fprintln(far, `{"jsonrpc":"2.0","id":7}`) },
		"a cancellation": func(s *Session, _ net.Conn) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = s.Call(ctx, "m", nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var session atomic.Pointer[Session]
				near, far := net.Pipe()
				hear(far)
				srv := &Server{Options: Options{
					Framer:       failingFramer{err: sessionError{&session}},
					Logger:       slog.New(slog.NewTextHandler(io.Discard, nil)),
					Cancellation: RPCCancellation,
				}}
				s := srv.ServeConn(near)
				session.Store(s)
				done := make(chan struct{})
				// Owner: the test. End: use and Stats return.
				go func() {
					use(s, far)
					time.Sleep(10 * time.Millisecond)
					s.Stats()
					close(done)
				}()
				select {
				case <-done:
					s.Close()
					<-s.Done()
				case <-time.After(5 * time.Second):
					t.Error("the session hangs")
				}
			})
		})
	}
}
