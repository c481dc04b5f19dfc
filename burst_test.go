package rpcx_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// burstSize is how many requests a peer pipelines.
func burstSize() int {
	if testing.Short() {
		return 5000
	}
	return 20000
}

// requests returns n requests with ids from 0 on, each on a line, with the given
// parameter.
func requests(n int, param string) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, `{"jsonrpc":"2.0","method":"m","params":[%q],"id":%d}`+"\n", param, i)
	}
	return b
}

// sendBurst writes n requests to conn in one go and reads the replies as they come,
// at the given number of bytes a second (0: as they come). Each request must be
// answered once, with a result. It returns when all are.
func sendBurst(t *testing.T, conn io.ReadWriter, n int, input []byte, perSecond int) {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(input)
		written <- err
	}()
	answered := make([]bool, n)
	replies := bufio.NewReaderSize(conn, 16<<10)
	for read := range n {
		line, err := replies.ReadBytes('\n')
		if err != nil {
			t.Errorf("after %d of %d replies: %v", read, n, err)
			return
		}
		if perSecond > 0 {
			time.Sleep(time.Duration(len(line)) * time.Second / time.Duration(perSecond))
		}
		var reply struct {
			ID     *int
			Result json.RawMessage
		}
		switch err := json.Unmarshal(line, &reply); {
		case err != nil || reply.Result == nil || reply.ID == nil:
			t.Errorf("reply %d is %s", read, line)
			return
		case answered[*reply.ID]:
			t.Errorf("%d is answered twice", *reply.ID)
			return
		}
		answered[*reply.ID] = true
	}
	if err := <-written; err != nil {
		t.Errorf("write the requests: %v", err)
	}
}

// slow returns a handler that takes so long.
func slow(d time.Duration) rpcx.HandlerFunc {
	return func(context.Context, *rpcx.Request) (any, error) {
		if d > 0 {
			time.Sleep(d)
		}
		return true, nil
	}
}

// notRefused checks the session of a peer that has pipelined requests and done
// nothing wrong.
func notRefused(t *testing.T, stats rpcx.Stats) {
	t.Helper()
	if stats.Errors != 0 || stats.Queued != 0 || stats.QueuedBytes != 0 || stats.Running != 0 || stats.NotificationsDropped != 0 {
		t.Errorf("stats are %+v", stats)
	}
}

func TestBurstIsAnsweredInFull(t *testing.T) {
	for _, c := range []struct {
		name string
		// dial returns the ends of a connection.
		dial func(t *testing.T) (near, far io.ReadWriteCloser)
	}{
		{"TCP", func(t *testing.T) (near, far io.ReadWriteCloser) { return socketPair(t, "tcp", "127.0.0.1:0") }},
		{"unix", func(t *testing.T) (near, far io.ReadWriteCloser) {
			return socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
		}},
		{"TLS", func(t *testing.T) (near, far io.ReadWriteCloser) { return tlsPair(t) }},
		{"pipes", func(t *testing.T) (near, far io.ReadWriteCloser) {
			r1, w1 := io.Pipe()
			r2, w2 := io.Pipe()
			return rpcx.Join(r1, w2), rpcx.Join(r2, w1)
		}},
	} {
		for _, takes := range []time.Duration{0, 5 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, handlers of %v", c.name, takes), func(t *testing.T) {
				if takes > 0 {
					t.Parallel()
				}
				near, far := c.dial(t)
				defer far.Close()
				s := rpcx.NewSession(near, &rpcx.Options{Handler: slow(takes), Role: rpcx.RoleServer})
				sendBurst(t, far, burstSize(), requests(burstSize(), "x"), 0)
				notRefused(t, settled(s))
				s.Close()
				<-s.Done()
			})
		}
	}
}

// settled returns the stats when the last handler has returned, whose reply came before.
func settled(s *rpcx.Session) rpcx.Stats {
	stats := s.Stats()
	for deadline := time.Now().Add(10 * time.Second); stats.Running > 0 && time.Now().Before(deadline); stats = s.Stats() {
		runtime.Gosched()
	}
	return stats
}

// socketPair returns both ends of a connection.
func socketPair(t *testing.T, network, address string) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// tlsPair returns both ends of a TLS connection over TCP.
func tlsPair(t *testing.T) (near, far *tls.Conn) {
	t.Helper()
	server, client := certificate(t)
	client.ServerName = "example.com"
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	return tls.Server(a, server), tls.Client(b, client)
}

// Such handlers are slow against Limits.ProcessingTimeout.
func TestBurstIsAnsweredInFullBySlowHandlers(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		opts  rpcx.Options
	}{
		{200 * time.Millisecond, rpcx.Options{}},
		{2 * time.Second, rpcx.Options{}},
		{2 * time.Second, rpcx.Options{Order: rpcx.Sequential}},
		{200 * time.Millisecond, rpcx.Options{Cancellation: rpcx.LSPCancellation}},
		{200 * time.Millisecond, rpcx.Options{Limits: rpcx.Limits{ProcessingTimeout: -1, Queue: -1, QueueBytes: -1}}},
		{200 * time.Millisecond, rpcx.Options{Limits: rpcx.Limits{Concurrency: -1}}},
	} {
		t.Run(fmt.Sprintf("%v, %v, limits %+v", c.takes, c.opts.Order, c.opts.Limits.Queue), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer far.Close()
				c.opts.Handler, c.opts.Role = slow(c.takes), rpcx.RoleServer
				s := rpcx.NewSession(near, &c.opts)
				n := burstSize()
				if c.opts.Order == rpcx.Sequential {
					n = 500
				}
				sendBurst(t, far, n, requests(n, "x"), 0)
				synctest.Wait()
				notRefused(t, s.Stats())
				if cost := s.Cost(); cost > 100 { // of the bytes
					t.Errorf("it cost %v", cost)
				}
				s.Close()
				<-s.Done()
			})
		})
	}
}

// A peer may read slower than its requests are handled: handlers wait for room in the
// outbox, and the peer reads on.
func TestBurstOfAPeerThatReadsSlowlyIsAnsweredInFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		s := rpcx.NewSession(near, &rpcx.Options{Handler: methods{"m": reply}, Role: rpcx.RoleServer, Limits: rpcx.Limits{Outbox: 64 << 10}})
		const n = 2000
		sendBurst(t, far, n, requests(n, strings.Repeat("x", 1000)), 50_000)
		synctest.Wait()
		notRefused(t, s.Stats())
		s.Close()
		<-s.Done()
	})
}

// The bound is Limits.QueueBytes and Limits.Outbox, and 8 MiB for all the rest; the
// requests together have 20 MB, and what a request takes beside its bytes is more.
func TestBurstTakesBoundedMemory(t *testing.T) {
	const n, bound = 20000, 8<<20 + 4<<20 + 8<<20
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	input := requests(n, strings.Repeat("x", 1000))
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	runtime.GC()
	var peak, handled atomic.Int64
	before := heap()
	s := rpcx.NewSession(near, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
		if handled.Add(1)%200 == 0 {
			if now := heap(); now > peak.Load() {
				peak.Store(now)
			}
		}
		time.Sleep(time.Millisecond)
		return true, nil
	})))
	sendBurst(t, far, n, input, 0)
	s.Close()
	<-s.Done()
	t.Logf("%.1f MiB at most, of %.1f", float64(peak.Load()-before)/(1<<20), float64(bound)/(1<<20))
	if peak.Load()-before > bound {
		t.Errorf("the heap grew by %d bytes", peak.Load()-before)
	}
}

func TestFloodOfNotificationsIsHandledInFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100_000
		var handled atomic.Int64
		subscriber, server := newPipe(t, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			time.Sleep(time.Millisecond)
			handled.Add(1)
			return nil, nil
		})), nil)
		for i := range n {
			if err := server.Notify(t.Context(), "changed", rpcx.Args{i}); err != nil {
				t.Fatal(err)
			}
		}
		if err := server.Shutdown(t.Context()); err != nil { // when all is written
			t.Error(err)
		}
		<-subscriber.Done()
		if handled.Load() != n {
			t.Errorf("%d of %d were handled", handled.Load(), n)
		}
		notRefused(t, subscriber.Stats())
	})
}

func TestPausesAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		var seen events
		open := make(gate)
		opts := handling(open)
		opts.Logger = slog.New(log)
		opts.Limits = rpcx.Limits{Concurrency: 1, SendTimeout: time.Minute}
		opts.Trace = &rpcx.Trace{
			Paused:  func(*rpcx.Session) { seen.add("paused") },
			Resumed: func(_ *rpcx.Session, d time.Duration) { seen.add("resumed after %v", d) },
		}
		s, w := newWire(t, opts)
		go func() {
			for range 8 {
				io.WriteString(w, sayNote("m", 1)+"\n")
			}
		}()
		time.Sleep(500 * time.Millisecond)
		if stats := s.Stats(); stats.Pauses != 1 || stats.Paused != 500*time.Millisecond || stats.Queued != 2 {
			t.Errorf("in a pause, stats are %+v", stats)
		}
		if got := log.take(); len(got) != 0 {
			t.Errorf("for a short pause, %q was logged", got)
		}
		time.Sleep(2500 * time.Millisecond)
		if got := log.take(); !slices.Equal(got, []string{"INFO reading paused: requests arrive faster than they are handled"}) {
			t.Errorf("for a long pause, %q was logged", got)
		}
		close(open)
		synctest.Wait()
		stats := s.Stats()
		if stats.Paused != 3*time.Second || stats.RequestsReceived != 8 {
			t.Errorf("after it, stats are %+v", stats)
		}
		if got := seen.take(); len(got) != 2*int(stats.Pauses) || got[0] != "paused" || got[1] != "resumed after 3s" {
			t.Errorf("Trace was told of %q in %d pauses", got, stats.Pauses)
		}
	})
}

// Where a handler waits for something that the session does not know of, reading goes
// on after 5 s, and what finds no room is refused, at no cost.
func TestRefusalsByALimitCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits = rpcx.Limits{Concurrency: 1, Queue: 4, ProcessingTimeout: 20 * time.Second, CostPerByte: -1}
		s, w := newServed(t, opts)
		takes(t, 5*time.Second, func() {
			for i := range 1000 {
				w.say(ask("m", i))
			}
		})
		lines := w.heard()
		if len(lines) != 995 || s.Cost() != 0 {
			t.Errorf("%d were refused, at a cost of %v", len(lines), s.Cost())
		}
		for _, line := range lines {
			if !strings.Contains(line, `"data":{"started":false,"reason":"queue"}`) {
				t.Fatalf("refused with %s", line)
			}
		}
		time.Sleep(20 * time.Second) // all are timed out, of which one had begun
		if n := len(w.heard()); n != 5 || s.Cost() != 0 {
			t.Errorf("%d timed out, at a cost of %v", n, s.Cost())
		}
		close(open)
		live(t, s)
	})
}

// A peer that cancels is heard while fewer than 64 requests wait.
func TestCancellationIsHeardBehindRequestsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"hang": hang})
		opts.Order = rpcx.Sequential
		opts.Cancellation = rpcx.LSPCancellation
		_, w := newWire(t, opts)
		takes(t, 0, func() {
			for i := range 60 {
				w.say(ask("hang", i))
			}
			w.say(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":0}}`)
			w.expect(`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":0}`)
		})
	})
}
