package conformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// traffic is what goes on between two sessions until they end, with something
// that happens in the middle.
type traffic struct {
	t        *testing.T
	ops      atomic.Int64 // that were begun
	happenAt int64        // at this one
	happen   func()
	answered atomic.Int64
}

var trafficHandler = methods{
	"reply": reply,
	"back": func(ctx context.Context, req *rpcx.Request) (any, error) {
		return rpcx.Call[int](ctx, req.Session(), "reply", req.Params)
	},
	"note": func(context.Context, *rpcx.Request) (any, error) { return nil, nil },
}

// check says that a call got its own answer, or that it failed for a reason
// that there was.
func (tr *traffic) check(what string, got, want int, err error, also ...error) {
	switch {
	case err == nil && got == want:
		tr.answered.Add(1)
	case err == nil:
		tr.t.Errorf("%s: got %d, want %d", what, got, want)
	default:
		for _, target := range append(also, rpcx.ErrConnectionLost, rpcx.ErrClosed, rpcx.ErrServerBusy, rpcx.ErrExcessiveResourceUsage) {
			if errors.Is(err, target) {
				return
			}
		}
		tr.t.Errorf("%s: %v", what, err)
	}
}

// run does ops on s until n are done or the session is over.
func (tr *traffic) run(ctx context.Context, s *rpcx.Session, n int) {
	for range n {
		op := tr.ops.Add(1)
		if op == tr.happenAt {
			tr.happen()
		}
		want := int(op)
		switch op % 6 {
		case 0:
			got, err := rpcx.Call[int](ctx, s, "reply", rpcx.Args{want})
			tr.check("a call", got, want, err)
		case 1:
			got, err := rpcx.Call[int](ctx, s, "back", rpcx.Args{want})
			// A handler that could not call back says no more than that it failed.
			tr.check("a call that is called back", got, want, err, rpcx.ErrInternalError)
		case 2:
			tr.check("a notification", 0, 0, s.Notify(ctx, "note", rpcx.Args{want}))
		case 3:
			var b rpcx.Batch
			var first, second int
			b.Call("reply", rpcx.Args{want}, &first)
			b.Notify("note", nil)
			member := b.Call("reply", rpcx.Args{-want}, &second)
			err := s.SendBatch(ctx, &b)
			tr.check("a batch", first+second, 0, err)
			tr.check("its last member", second, -want, member.Wait(ctx, nil))
		case 4:
			f := s.Go(ctx, "reply", rpcx.Args{want})
			told := make(chan struct{})
			f.OnDone(func(*rpcx.Future) { close(told) })
			if op%4 == 0 {
				f.Cancel()
			}
			got := 0
			err := f.Wait(ctx, &got)
			tr.check("a future", got, want, err, rpcx.ErrCancelled)
			<-told
		case 5:
			short, cancel := context.WithCancel(ctx)
			f := s.Go(short, "reply", rpcx.Args{want})
			cancel()
			got := 0
			err := f.Wait(ctx, &got)
			tr.check("a call that is given up", got, want, err, context.Canceled)
		}
		select {
		case <-s.Done():
			return
		default:
		}
	}
}

// flow runs traffic in both directions, on two goroutines each, closes the
// sessions, and says that nothing is left of it.
func (tr *traffic) flow(ctx context.Context, a, b *rpcx.Session, n int) {
	var wg sync.WaitGroup
	for _, s := range []*rpcx.Session{a, b, a, b} {
		wg.Go(func() { tr.run(ctx, s, n) })
	}
	wg.Wait()
	a.Close()
	b.Close()
	<-a.Done()
	<-b.Done()
	for _, s := range []*rpcx.Session{a, b} {
		if stats := s.Stats(); stats.Pending != 0 || stats.Running != 0 || stats.Queued != 0 || stats.UnexpectedReplies != 0 {
			tr.t.Errorf("stats at the end are %+v", stats)
		}
		if s.Err() == nil || errors.Is(s.Err(), context.Canceled) {
			tr.t.Errorf("it ended with %v", s.Err())
		}
	}
}

// happenings are what may come in the middle of everything.
var happenings = map[string]func(t *testing.T, a, b *rpcx.Session){
	"nothing":                func(t *testing.T, a, b *rpcx.Session) {},
	"Close":                  func(t *testing.T, a, b *rpcx.Session) { a.Close() },
	"Close at both ends":     func(t *testing.T, a, b *rpcx.Session) { go a.Close(); b.Close() },
	"the connection's end":   func(t *testing.T, a, b *rpcx.Session) { a.NetConn().Close() },
	"Shutdown":               func(t *testing.T, a, b *rpcx.Session) { shutdown(t, a) },
	"Shutdown at both ends":  func(t *testing.T, a, b *rpcx.Session) { shutdown(t, a); shutdown(t, b) },
	"Shutdown and Close":     func(t *testing.T, a, b *rpcx.Session) { shutdown(t, a); a.Close() },
	"Shutdown against Close": func(t *testing.T, a, b *rpcx.Session) { shutdown(t, a); b.Close() },
}

func shutdown(t *testing.T, s *rpcx.Session) {
	go func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown returns %v", err)
		}
	}()
}

// features are options of the two ends, beside what they handle.
var features = map[string]func(a, b *rpcx.Options){
	"plain": func(a, b *rpcx.Options) {},
	"with cancellation, few slots, an order": func(a, b *rpcx.Options) {
		for _, o := range []*rpcx.Options{a, b} {
			o.Cancellation = rpcx.LSPCancellation
			o.Order = rpcx.NotificationsFirst
			o.Limits.Outgoing = 2
		}
	},
	"with silent cancellation, one end sequential": func(a, b *rpcx.Options) {
		a.Cancellation = &rpcx.Cancellation{Method: "cancel"}
		b.Cancellation = a.Cancellation
		a.Order = rpcx.Sequential
		a.Limits.IdleTimeout = time.Hour
		a.Limits.KeepAliveMethod = "note"
	},
	"until it costs too much": func(a, b *rpcx.Options) {
		for _, o := range []*rpcx.Options{a, b} {
			// No calls back: with one handler at each end they would wait for each other.
			o.Handler = methods{"reply": reply, "back": reply, "note": trafficHandler["note"]}
			o.Role = rpcx.RoleServer
			o.Limits.CostPerByte = 1
			o.Limits.CostSoft, o.Limits.CostHard, o.Limits.CostDelay = 300, 2000, -1
			o.Limits.Concurrency = 4
			o.ExtraCost = func(s *rpcx.Session) float64 { return s.Cost() / 10 }
			o.OnExcessiveCost = func(s *rpcx.Session) { s.BumpCost(1) }
			o.Trace = &rpcx.Trace{CostChanged: func(s *rpcx.Session, _ float64, _ int) { s.Stats() }}
			o.Cancellation = rpcx.LSPCancellation
		}
		b.Limits.CostHard = 3000
	},
}

func TestStressSessionsThatEndAtAnyPoint(t *testing.T) {
	for feature, set := range features {
		for name, happen := range happenings {
			t.Run(feature+", "+name, func(t *testing.T) { stressPipe(t, set, happen, feature == "plain" && name == "nothing") })
		}
	}
}

func stressPipe(t *testing.T, set func(a, b *rpcx.Options), happen func(t *testing.T, a, b *rpcx.Session), all bool) {
	for at := int64(1); at < 60; at += 2 {
		synctest.Test(t, func(t *testing.T) {
			oa, ob := handling(trafficHandler), handling(trafficHandler)
			set(oa, ob)
			a, b := rpcx.Pipe(oa, ob)
			tr := &traffic{t: t, happenAt: at, happen: func() { happen(t, a, b) }}
			start := time.Now()
			tr.flow(context.Background(), a, b, 15)
			if d := time.Since(start); d > time.Second { // the second that Close may take
				t.Errorf("something waited for %v", d)
			}
			if all && tr.answered.Load() < 50 {
				t.Errorf("only %d were answered", tr.answered.Load())
			}
		})
		if t.Failed() {
			t.Fatalf("at operation %d", at)
		}
	}
}

// failing is a connection that fails when so many bytes have gone through it.
type failing struct {
	net.Conn
	left *atomic.Int64
}

var errFailing = errors.New("the cable was cut")

func (f failing) limit(p []byte, do func([]byte) (int, error)) (int, error) {
	n := int64(len(p))
	if left := f.left.Add(-n) + n; left < n {
		done := 0
		if left > 0 {
			done, _ = do(p[:left])
		}
		f.Conn.Close()
		return done, errFailing
	}
	return do(p)
}

// failingWrite and failingRead count one direction each.
type failingWrite struct{ failing }

func (f failingWrite) Write(p []byte) (int, error) { return f.limit(p, f.Conn.Write) }

type failingRead struct{ failing }

func (f failingRead) Read(p []byte) (int, error) {
	return f.limit(p[:1], f.Conn.Read) // byte by byte, to be exact
}

func TestStressConnectionsThatFailAtAnyByte(t *testing.T) {
	for name, wrap := range map[string]func(failing) net.Conn{
		"written": func(f failing) net.Conn { return failingWrite{f} },
		"read":    func(f failing) net.Conn { return failingRead{f} },
	} {
		t.Run(name, func(t *testing.T) {
			for bytes := int64(0); bytes < 2000; bytes += 1 + bytes/20 {
				synctest.Test(t, func(t *testing.T) {
					near, far := net.Pipe()
					left := new(atomic.Int64)
					left.Store(bytes)
					a := rpcx.NewSession(wrap(failing{Conn: near, left: left}), handling(trafficHandler))
					b := rpcx.NewSession(far, handling(trafficHandler))
					tr := &traffic{t: t}
					start := time.Now()
					tr.flow(context.Background(), a, b, 15)
					if d := time.Since(start); d > time.Second {
						t.Errorf("something waited for %v", d)
					}
				})
				if t.Failed() {
					t.Fatalf("when %d bytes were %s", bytes, name)
				}
			}
		})
	}
}

// TestStressSockets is the same over real sockets, which sessions use in ways
// of their own.
func TestStressSockets(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for name, happen := range happenings {
			t.Run(network+", "+name, func(t *testing.T) {
				noLeak(t)
				address := "127.0.0.1:0"
				if network == "unix" {
					address = filepath.Join(t.TempDir(), "socket")
				}
				l, err := net.Listen(network, address)
				if err != nil {
					t.Fatal(err)
				}
				accepted := make(chan *rpcx.Session)
				srv := &rpcx.Server{Options: *handling(trafficHandler), OnSession: func(s *rpcx.Session) { accepted <- s }}
				go srv.Serve(l)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // not to hang for ever
				defer cancel()
				for at := int64(1); at < 400; at += 37 {
					a, err := rpcx.Dial(ctx, network+"://"+l.Addr().String(), handling(trafficHandler))
					if err != nil {
						t.Fatal(err)
					}
					b := <-accepted
					tr := &traffic{t: t, happenAt: at, happen: func() { happen(t, a, b) }}
					tr.flow(ctx, a, b, 100)
					if name == "nothing" && tr.answered.Load() < 300 {
						t.Errorf("only %d were answered", tr.answered.Load())
					}
				}
				srv.Close()
				srv.Wait(context.Background())
				if ctx.Err() != nil {
					t.Error("it took too long")
				}
			})
		}
	}
}

// TestStressServer has many clients come and go while the server is shut down.
func TestStressServer(t *testing.T) {
	noLeak(t)
	for round := range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := &rpcx.Server{Options: *handling(trafficHandler)}
		if round%3 == 0 { // they share a budget, which is soon used up
			srv.Options.Limits.Group = rpcx.GroupBySubnet(24, 48)
			srv.Options.Limits.CostPerByte, srv.Options.Limits.CostDelay = 1, -1
			srv.Options.Limits.CostDecay = 1e6 // and soon there again
			srv.MaxGroup = 8
		}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		tr := &traffic{t: t}
		var wg sync.WaitGroup
		begun := make(chan struct{}, 10)
		for range cap(begun) {
			wg.Go(func() {
				for first := true; ; first = false {
					s, err := rpcx.Dial(context.Background(), "tcp://"+l.Addr().String(), handling(trafficHandler))
					if first {
						begun <- struct{}{}
					}
					if err != nil {
						return // the server is gone
					}
					tr.run(context.Background(), s, 20)
					s.Close()
					<-s.Done()
				}
			})
		}
		for range cap(begun) {
			<-begun
		}
		for range round * 100 {
			runtime.Gosched()
		}
		if round%2 == 0 {
			srv.Close()
		} else if err := srv.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown returns %v", err)
		}
		if err := <-served; err != rpcx.ErrServerClosed {
			t.Errorf("Serve returns %v", err)
		}
		srv.Wait(context.Background())
		wg.Wait()
		if n := srv.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	}
}

// TestStressOutbox has many write more than there is room for, while the peer
// reads and while it ends.
func TestStressOutbox(t *testing.T) {
	for _, end := range []int{0, 1, 10, 50, 1000} {
		synctest.Test(t, func(t *testing.T) {
			got := make(chan int, 10000)
			opts := handling(methods{"note": func(_ context.Context, req *rpcx.Request) (any, error) {
				var n [1]int
				err := req.Bind(&n)
				got <- n[0]
				return nil, err
			}})
			opts.Limits.Concurrency = 1
			a, b := rpcx.Pipe(&rpcx.Options{Limits: rpcx.Limits{Outbox: 200}}, opts)
			var wg sync.WaitGroup
			for g := range 10 {
				wg.Go(func() {
					for i := range 50 {
						if err := a.Notify(t.Context(), "note", rpcx.Args{g*100 + i}); err != nil {
							matches(t, err, rpcx.ErrClosed)
							return
						}
					}
				})
			}
			if end < 1000 {
				for range end {
					<-got
				}
				b.Close()
			}
			wg.Wait()
			a.Close()
			<-a.Done()
			<-b.Done()
			close(got)
			next := make(map[int]int) // of each goroutine
			for n := range got {
				if end == 1000 && n%100 != next[n/100] {
					t.Errorf("%d came out of order", n)
				}
				next[n/100] = n%100 + 1
			}
			if end == 1000 && fmt.Sprint(next) != "map[0:50 1:50 2:50 3:50 4:50 5:50 6:50 7:50 8:50 9:50]" {
				t.Errorf("not all of them came: %v", next)
			}
		})
	}
}
