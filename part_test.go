package rpcx_test

import (
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

// large is a request of n bytes.
func large(n int) string {
	const begin, end = `{"jsonrpc":"2.0","method":"reply","id":1,"params":[0,"`, `"]}`
	return begin + strings.Repeat("x", n-len(begin)-len(end)) + end
}

// begin sends n bytes of a message that is longer.
func (w *wire) begin(n int) {
	w.t.Helper()
	if _, err := io.WriteString(w, large(n + 10)[:n]); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// heapInUse returns how many bytes of memory are in use.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Those who begin large messages and do not end them lock nobody out, and take no more
// memory than they may.
func TestUnfinishedMessagesMakeRoom(t *testing.T) {
	const mega = 1 << 20
	for name, c := range map[string]struct {
		size   int // of what the attackers send
		honest int // the size of the message
		then   func(*wire)
	}{
		"silent":                   {600_000, 900_000, func(*wire) {}},
		"silent, for a small one":  {600_000, 100_000, func(*wire) {}},
		"small, for a large one":   {100_000, 900_000, func(*wire) {}},
		"one byte after the other": {600_000, 900_000, func(w *wire) { io.WriteString(w, "x") }},
		"always more":              {200_000, 600_000, func(w *wire) { io.WriteString(w, strings.Repeat("x", 5_000)) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit = 16 * mega
				srv := &rpcx.Server{MaxQueuedBytes: limit, Options: *handling(methods{"reply": reply})}
				m, _ := newServer(t, srv)
				before := heapInUse()
				var attackers []*wire
				for srv.Stats().QueuedBytes < limit*15/16 {
					w := m.connect(t)
					w.begin(c.size)
					attackers = append(attackers, w)
				}
				for i := range 30 {
					w := m.connect(t)
					time.Sleep(time.Second)
					for _, a := range attackers {
						if !a.hungUp() {
							c.then(a)
						}
					}
					w.say(large(c.honest))
					w.expect(answered("0", 1))
					if n := srv.Stats().QueuedBytes; n > limit {
						t.Fatalf("%d bytes wait", n)
					}
					w.Close()
					more := m.connect(t)
					more.begin(c.size)
					attackers = append(attackers, more)
					if i%10 == 0 {
						if used := heapInUse(); used > before+2*limit {
							t.Errorf("%d bytes of memory are in use, which is over twice the limit of %d", used-before, limit)
						}
					}
				}
				gone, alive := 0, 0
				for _, a := range attackers {
					if a.hungUp() {
						gone++
					} else {
						alive++
					}
				}
				if gone == 0 || alive == 0 {
					t.Errorf("of those who attack %d are gone and %d are not", gone, alive)
				}
			})
		})
	}
}

// The oldest goes first, and as few as possible.
func TestOldestUnfinishedMessageGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{MaxQueuedBytes: 8*128<<10 + 64<<10, Options: *handling(methods{"reply": reply})}
		srv.Options.Logger = slog.New(log)
		m, _ := newServer(t, srv)
		var wires []*wire
		begin := func() {
			time.Sleep(time.Millisecond)
			w := m.connect(t)
			w.begin(100_000) // for which 128 KiB are taken
			wires = append(wires, w)
		}
		for range 7 {
			begin()
		}
		// It streams: each of its messages is a new one.
		wires[0].say(strings.Repeat("x", 10)+`"]}`, large(100_000))
		wires[0].begin(100_000)
		begin() // the last for which there is room
		for i, want := range []int{1, 2, 3} {
			begin()
			for k, w := range wires {
				if gone := w.hungUp(); gone != (k >= 1 && k <= want) {
					t.Errorf("after %d more, it is %v that the one of %d is gone", i+1, gone, k)
				}
			}
		}
		if got := log.take(); strings.Count(strings.Join(got, "\n"), "makes room for a later one") != 3 {
			t.Errorf("logged was %q", got)
		}
	})
}

// If the older ones do not suffice, none of them has to go.
func TestUnfinishedMessagesThatAreTooFewStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxQueuedBytes: 400_000}
		m, _ := newServer(t, srv)
		older := m.connect(t)
		older.begin(100_000)
		w := m.connect(t)
		go io.WriteString(w, large(900_000))
		if !w.hungUp() || older.hungUp() {
			t.Errorf("gone is the new one: %v, the older one: %v", w.hungUp(), older.hungUp())
		}
	})
}

// A large message has to go on when memory is short, and only then.
func TestUnfinishedMessageHasToGoOn(t *testing.T) {
	const timeout = 20 * time.Second
	slow := func(w *wire) { // 16 KiB take half of the time
		for range 12 {
			io.WriteString(w, strings.Repeat("x", 4096))
			time.Sleep(timeout / 8)
		}
	}
	for name, c := range map[string]struct {
		limit   int
		send    time.Duration // Limits.SendTimeout
		then    func(*wire)
		lives   time.Duration
		forever bool
	}{
		"silence":                        {200_000, 0, func(*wire) {}, timeout, false},
		"silence, another timeout":       {200_000, time.Minute, func(*wire) {}, time.Minute, false},
		"silence, while there is memory": {300_000, 0, func(*wire) {}, 0, true},
		"silence, without a timeout":     {200_000, -1, func(*wire) {}, 0, true},
		"a byte now and then": {200_000, 0, func(w *wire) {
			for range 10 {
				time.Sleep(time.Second)
				io.WriteString(w, "x")
			}
		}, timeout, false},
		"half of what has to come": {200_000, 0, func(w *wire) {
			time.Sleep(timeout / 2)
			io.WriteString(w, strings.Repeat("x", 8192))
		}, timeout, false},
		"twice what has to come, then silence": {200_000, 0, slow, 10*timeout/8 + timeout, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{MaxQueuedBytes: c.limit}
				srv.Options.Limits.SendTimeout = c.send
				m, _ := newServer(t, srv)
				w := m.connect(t)
				w.begin(70_000) // for which 128 KiB are taken
				start := time.Now()
				var s *rpcx.Session
				for s = range srv.Sessions() {
				}
				c.then(w)
				if c.forever {
					time.Sleep(24 * time.Hour)
					live(t, s)
					return
				}
				<-s.Done()
				// The limit is looked at once more after what has come meanwhile.
				if took := time.Since(start); took < c.lives-timeout/8 || took > c.lives+timeout/8 {
					t.Errorf("it ended after %v, want %v", took, c.lives)
				}
				if frame, ok := errors.AsType[*rpcx.FrameError](s.Err()); !ok || !errors.Is(s.Err(), rpcx.ErrServerFull) || !strings.Contains(frame.Message, "Limits.SendTimeout") {
					t.Errorf("it ended with %v", s.Err())
				}
			})
		})
	}
}

// That reading pauses is not the peer's fault.
func TestUnfinishedMessageThatIsNotReadMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		srv := &rpcx.Server{MaxQueuedBytes: 400_000, Options: rpcx.Options{Handler: rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-open
			return 0, nil
		})}}
		limits := &srv.Options.Limits
		limits.Concurrency, limits.Queue = 1, 1
		limits.SendTimeout, limits.ProcessingTimeout = 4*time.Second, time.Hour
		m, _ := newServer(t, srv)
		w := m.connect(t)
		w.say(ask("m", 1), ask("m", 2))
		go fmt.Fprintf(w, "%s\n%s", large(100_000), large(200_000)[:100_000])
		synctest.Wait()
		var s *rpcx.Session
		for s = range srv.Sessions() {
		}
		if s.Stats().Pauses == 0 {
			t.Fatal("reading does not pause")
		}
		for range 20 { // handlers return now and then: the pause goes on
			time.Sleep(900 * time.Millisecond)
		}
		live(t, s)
		close(open)
		w.hungUp()
	})
}

// What small messages take that do not end counts, too, and a server of many sessions
// goes on for others: it ends the oldest of them when there is no other way.
func TestSmallUnfinishedMessagesAreBounded(t *testing.T) {
	const limit, sessions = 8 << 20, 600
	for _, size := range []int{14_000, 30_000, 60_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{MaxQueuedBytes: limit, Options: *handling(methods{"reply": reply})}
				wires := newLoadedServer(t, srv, sessions)
				synctest.Wait()
				before := liveHeap()
				for _, w := range wires {
					_, _ = io.WriteString(w.Conn, large(2 * size)[:size]) // fails if the session has been ended
					synctest.Wait()
					time.Sleep(time.Millisecond)
				}
				stats := srv.Stats()
				counted, held := stats.QueuedBytes, liveHeap()-before
				t.Logf("%d bytes are held, %d counted, %d sessions are left", held, counted, stats.Sessions)
				if held > 2*limit {
					t.Errorf("%d bytes of memory are held, of %d", held, limit)
				}
				if counted < held-stats.Sessions*(12<<10) || counted > 3*limit/2+limit/8 {
					t.Errorf("%d bytes are counted, and %d held", counted, held)
				}
				for _, more := range []int{100, 30_000, 900_000} {
					near, far := net.Pipe()
					srv.ServeConn(near)
					w := &wire{Conn: far, t: t}
					w.listen()
					w.say(large(more))
					w.expect(answered("0", 1))
					w.Close()
				}
				for _, w := range wires {
					w.Close()
				}
			})
		})
	}
}

// On a server that is full, sessions go on whose messages are not large: they take
// their time to come, and are answered.
func TestSmallUnfinishedMessagesGoOnWhereTheServerIsFull(t *testing.T) {
	const limit = 16 << 20
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxQueuedBytes: limit, Options: *handling(methods{
			"reply": reply,
			"much":  func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", 300_000), nil },
		})}
		m, _ := newServer(t, srv)
		for _, w := range newLoadedServer(t, srv, 34) { // each reply takes 512 KiB
			_, _ = io.WriteString(w.Conn, ask("much", 1)+"\n")
			defer w.Close()
		}
		synctest.Wait()
		var wires []*wire
		for i := range 50 {
			w := m.connect(t)
			w.begin([]int{10_000, 20_000, 60_000}[i%3])
			wires = append(wires, w)
		}
		if n := srv.Stats().QueuedBytes; n < limit {
			t.Fatalf("%d bytes wait", n)
		}
		time.Sleep(10 * time.Second)
		for _, w := range wires {
			w.say(`xxxxxxxxxx"]}`)
			w.expect(answered("0", 1))
		}
	})
}
