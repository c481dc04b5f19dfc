package rpcx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
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
	b := &s.pressure
	if s.in.running != 0 || s.in.workers != 0 || s.in.count != 0 || s.in.bytes != 0 || s.in.waking || s.table.pending != 0 || s.slots.taken != 0 || s.refusing != 0 {
		t.Errorf("running %d, workers %d, count %d, bytes %d, waking %v, pending %d, slots %d, refusing %d",
			s.in.running, s.in.workers, s.in.count, s.in.bytes, s.in.waking, s.table.pending, s.slots.taken, s.refusing)
	}
	if b.paused || b.tied != 0 || b.crammed != 0 || b.outside != 0 || b.insist || b.stalled {
		t.Errorf("the state of its pauses is %+v", *b)
	}
	if s.state == stateOpen && (s.incoming.first != nil || s.outgoing.first != nil || s.loops != 2) {
		t.Errorf("incoming %v, outgoing %v, loops %d", s.incoming.first, s.outgoing.first, s.loops)
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
		s.pressure.insist = false // until a handler returns
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
				s.pressure.insist = false
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
			return a.pressure.tied
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
			o := options(&Options{Limits: c.limits})
			if c.cancel {
				o.Cancellation = LSPCancellation
			}
			s := newSession(&messages{conn: nowhere{}}, o, RoleClient, &pool{}, &lone)
			s.lock()
			defer s.mu.Unlock() // what it holds is made up
			s.in.count, s.in.bytes = c.waiting, c.bytes
			s.pressure.current = c.returned
			if got := s.crowdedLocked(0, 4); got != c.crowded {
				t.Errorf("crowded: %v", got)
			}
			if got := s.crowdedLocked(0, 3); got != c.stillAfter {
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
		b.returned(c.at, &l)
		b.current += c.did
		if got := b.returned(c.at, &l); got != c.want {
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
		if bound := 2*queueBytes + maxIntakeBytes + 7000; most > bound || size <= queueBytes {
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
