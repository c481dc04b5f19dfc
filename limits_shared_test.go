package rpcx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// newLoadedServer returns a server and wires to n sessions of it, whose ends do not read
// until they listen.
func newLoadedServer(t *testing.T, srv *rpcx.Server, n int) []*wire {
	t.Helper()
	wires := make([]*wire, n)
	for i := range wires {
		near, far := net.Pipe()
		srv.ServeConn(near)
		wires[i] = &wire{Conn: far, t: t}
	}
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	return wires
}

// liveHeap returns how many bytes of the heap are in use, without garbage and what pools keep.
func liveHeap() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // the pools keep what they have for one
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// Whatever peers do, the memory that a server holds for them is at most twice the limit,
// without garbage.
func TestMemoryIsBounded(t *testing.T) {
	const limit, handled = 8 << 20, 8 << 20 / 16
	replying := func(size int) func(chan struct{}) rpcx.HandlerFunc {
		return func(chan struct{}) rpcx.HandlerFunc {
			return func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", size), nil }
		}
	}
	waiting := func(open chan struct{}) rpcx.HandlerFunc {
		return func(ctx context.Context, r *rpcx.Request) (any, error) {
			var v any
			err := r.Bind(&v)
			select {
			case <-open:
			case <-ctx.Done():
			}
			runtime.KeepAlive(v)
			return nil, err
		}
	}
	requests := func(number int) string { return strings.Repeat(ask("m", 1)+"\n", number) }
	batch := "[" + strings.Repeat(ask("m", 1)+",", 99) + ask("m", 1) + "]\n"
	list := `{"jsonrpc":"2.0","method":"m","params":[` + strings.Repeat("0,", 100_000) + `0],"id":1}` + "\n"
	for _, c := range []struct {
		name     string
		sessions int
		handler  func(open chan struct{}) rpcx.HandlerFunc
		says     string // each of the peers
		ends     bool   // some sessions, surely
		decodes  bool   // large params
	}{
		{"small replies", 300, replying(200), requests(100), false, false},
		{"replies just over a small buffer", 300, replying(9000), requests(100), true, false},
		{"replies of some size", 60, replying(60_000), requests(100), false, false},
		{"one to each", 300, replying(60_000), requests(1), false, false},
		{"large replies", 60, replying(300_000), requests(100), true, false},
		{"large replies to many", 300, replying(300_000), requests(100), true, false},
		{"batches", 60, replying(10_000), strings.Repeat(batch, 10), true, false},
		{"batches of many", 300, replying(2000), strings.Repeat(batch, 10), true, false},
		{"tiny requests that wait", 100, waiting, requests(1000), false, false},
		{"large requests that wait", 100, waiting, strings.Repeat(padded(1, 100_000)+"\n", 10), false, false},
		{"large lists that are decoded", 100, waiting, strings.Repeat(list, 3), false, true},
		{"large messages without an end", 100, waiting, padded(1, 600_000), true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open, says := make(chan struct{}), []byte(c.says)
				srv := &rpcx.Server{MaxQueuedBytes: limit, MaxHandledBytes: handled}
				srv.Options.Handler = c.handler(open)
				ends := make(chan error, c.sessions)
				srv.OnSession = func(s *rpcx.Session) { s.OnClose(func(err error) { ends <- err }) }
				wires := newLoadedServer(t, srv, c.sessions)
				synctest.Wait()
				before, most, counted := liveHeap(), 0, 0
				for i, w := range wires {
					// Owner: the test. End: the session ends.
					go w.Conn.Write(says) // one copy, for all
					if i%20 == 19 {
						synctest.Wait()
						most, counted = max(most, liveHeap()-before), max(counted, srv.Stats().QueuedBytes)
					}
				}
				t.Logf("%.2f of the limit are held and %.2f counted, at most", float64(most)/limit, float64(counted)/limit)
				allowed := 2 * limit
				if c.decodes {
					allowed += 16 * handled
				}
				if most > allowed {
					t.Errorf("%d bytes of memory are held, of %d", most, allowed)
				}
				if counted > 2*limit {
					t.Errorf("%d bytes are counted, of %d", counted, limit)
				}
				select {
				case err := <-ends:
					_, framing := errors.AsType[*rpcx.FrameError](err)
					if !errors.Is(err, rpcx.ErrServerFull) || !framing && !errors.Is(err, rpcx.ErrSlowPeer) {
						t.Errorf("a session ended with %v", err)
					}
				default:
					if c.ends {
						t.Error("no session ended")
					}
				}
				close(open)
				srv.Close()
				for _, w := range wires {
					w.Close()
				}
			})
		})
	}
}

// Who reads is answered while others do not, and have taken all the memory there is.
func TestReadersGoOnWhileOthersDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 300_000
		srv := &rpcx.Server{MaxQueuedBytes: 8 << 20}
		srv.Options.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			return strings.Repeat("x", size), nil
		})
		wires := newLoadedServer(t, srv, 101)
		honest, attackers := wires[0], wires[1:]
		replies := bufio.NewReaderSize(honest.Conn, 2*size)
		for _, w := range attackers {
			// Owner: the test. End: the session ends.
			go io.WriteString(w.Conn, strings.Repeat(ask("m", 1)+"\n", 100))
			synctest.Wait()
			go io.WriteString(honest.Conn, ask("m", 1)+"\n")
			if line, err := replies.ReadSlice('\n'); err != nil || len(line) < size {
				t.Fatalf("it is answered %.200q, %v", line, err)
			}
		}
		if n := srv.Stats().Sessions; n > 60 {
			t.Errorf("%d sessions are left", n)
		}
		for _, w := range wires {
			w.Close()
		}
	})
}

// Who reads replies too slowly makes room for large messages, too: neither a request nor
// its session ends for them.
func TestUnreadRepliesMakeRoomForMessages(t *testing.T) {
	for name, c := range map[string]struct {
		attackers, size int
		rate            int // bytes a second that are read
	}{
		"nothing is read":     {63, 300_000, 0},
		"2 kB/s":              {63, 300_000, 2000},
		"a few large replies": {20, 900_000, 2000},
		"many smaller ones":   {400, 60_000, 2000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const limit = 16 << 20
				srv := &rpcx.Server{MaxQueuedBytes: limit}
				srv.Options.Handler = rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
					if len(req.Params.Positional) > 0 {
						return 0, nil
					}
					return strings.Repeat("x", c.size), nil
				})
				wires := newLoadedServer(t, srv, c.attackers+1)
				honest := wires[0]
				honest.listen()
				for _, w := range wires[1:] {
					_, _ = io.WriteString(w.Conn, ask("m", 1)+"\n")
					if c.rate > 0 {
						// Owner: the test. End: the session ends.
						go readSlowly(w, c.rate)
					}
				}
				time.Sleep(5 * time.Second)
				if n := srv.Stats().QueuedBytes; n < limit {
					t.Fatalf("%d bytes wait", n)
				}
				for id := range 20 {
					honest.say(padded(id, 900_000))
					honest.expect(answered("0", id))
				}
				if n := srv.Stats(); n.Sessions < c.attackers/4 || n.QueuedBytes > limit {
					t.Errorf("%d sessions are left, and %d bytes wait", n.Sessions, n.QueuedBytes)
				}
				for _, w := range wires {
					w.Close()
				}
				time.Sleep(time.Second) // for who reads slowly
			})
		})
	}
}

// readSlowly reads so many bytes a second, until the connection ends.
func readSlowly(w *wire, rate int) {
	for buf := make([]byte, rate); ; time.Sleep(time.Second) {
		if _, err := io.ReadFull(w.Conn, buf); err != nil {
			return
		}
	}
}

// The errors that answer what is no request are bounded likewise, however large their
// ids are: they wait for no room.
func TestUnreadErrorsAreBounded(t *testing.T) {
	const limit, sessions = 4 << 20, 60
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxQueuedBytes: limit}
		wires := newLoadedServer(t, srv, sessions)
		invalid := `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 30_000) + `","method":1}` + "\n"
		for _, w := range wires {
			_, _ = io.WriteString(w.Conn, strings.Repeat(invalid, 50)) // fails if the session has been ended
		}
		synctest.Wait()
		if counted := srv.Stats().QueuedBytes; counted < limit || counted > 2*limit {
			t.Errorf("%d bytes wait, of %d", counted, limit)
		}
		for _, w := range wires {
			w.Close()
		}
	})
}

// A server that holds nearly all that it may has one handler at a time for a session. One
// that waits for its peer does not count: the peer may have to ask before it replies.
func TestNestedCallsGoOnWhereMemoryIsShort(t *testing.T) {
	const limit = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		callPeer := func(ctx context.Context, req *rpcx.Request, method string) (any, error) {
			var answer any
			err := req.Session().Call(ctx, method, nil, &answer)
			return answer, err
		}
		srv := &rpcx.Server{MaxQueuedBytes: limit}
		srv.Options.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			switch req.Method {
			case "large":
				return strings.Repeat("x", limit/10*9), nil
			case "outer":
				return callPeer(ctx, req, "middle")
			}
			return "inner", nil
		})
		wires := newLoadedServer(t, srv, 1)
		_, _ = io.WriteString(wires[0].Conn, ask("large", 1)+"\n") // which is not read
		near, far := net.Pipe()
		srv.ServeConn(near)
		c := rpcx.NewSession(far, &rpcx.Options{Handler: rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			return callPeer(ctx, req, "inner")
		})})
		defer c.Close()
		synctest.Wait()
		if counted := srv.Stats().QueuedBytes; counted < limit/4*3 || counted > limit {
			t.Fatalf("%d bytes wait, of %d", counted, limit)
		}
		var answer string
		if err := c.Call(context.Background(), "outer", nil, &answer); err != nil || answer != "inner" {
			t.Errorf("got %q, %v", answer, err)
		}
		wires[0].Close()
	})
}

// What could not be written of a session that ends counts no longer than the connection
// lasts, though a handler goes on.
func TestEndedSessionsHoldNoReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{}
		srv.Options.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			if req.Method == "large" {
				return strings.Repeat("x", 500_000), nil
			}
			<-open
			return nil, nil
		})
		wires := newLoadedServer(t, srv, 1)
		_, _ = io.WriteString(wires[0].Conn, ask("m", 1)+"\n"+ask("large", 2)+"\n"+ask("large", 3)+"\n")
		synctest.Wait()
		if counted := srv.Stats().QueuedBytes; counted < 1_000_000 {
			t.Errorf("%d bytes wait", counted)
		}
		wires[0].Close()
		synctest.Wait()
		if counted := srv.Stats().QueuedBytes; counted > 4096 {
			t.Errorf("%d bytes wait when the connection is closed", counted)
		}
		close(open)
	})
}

// A batch counts until its last handler has returned, though none of its members waits.
func TestBatchesCountUntilTheyAreOver(t *testing.T) {
	const limit, sessions, members = 4 << 20, 10, 500
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{MaxQueuedBytes: limit}
		srv.Options.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			if req.Method == "slow" {
				<-open
			}
			return nil, nil
		})
		batch := "[" + strings.Repeat(padded(1, 100)+",", members) + ask("slow", 1) + "]"
		wires := newLoadedServer(t, srv, sessions)
		for _, w := range wires {
			w.listen()
			go w.Write([]byte(strings.Repeat(batch+"\n", 20))) // waits where reading pauses
		}
		synctest.Wait()
		begun := 0
		for s := range srv.Sessions() {
			begun += s.Stats().Running
		}
		counted := srv.Stats().QueuedBytes
		size := len(batch) + members*256
		if counted < begun*size/10*9 || counted > 2*limit+sessions*size { // and one message each

			t.Errorf("%d bytes count, with %d batches that are begun; the limit is %d", counted, begun, limit)
		}
		close(open)
		synctest.Wait()
		if counted := srv.Stats().QueuedBytes; counted > sessions*4096 {
			t.Errorf("afterwards %d bytes count", counted)
		}
	})
}

// A large request that waits for others to be handled holds up what comes behind it no
// longer than it waits itself, and of a batch its members count, each for itself.
func TestSmallRequestsNeedNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{MaxHandledBytes: 100_000}
		srv.Options.Limits = rpcx.Limits{CostOff: true, ProcessingTimeout: time.Minute}
		srv.Options.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			if len(req.Params.Positional) > 0 {
				<-open // and does not heed its context
			}
			return nil, nil
		})
		wires := newLoadedServer(t, srv, 3)
		for _, w := range wires {
			w.listen()
		}
		wires[0].say(padded(1, 90_000))
		synctest.Wait() // it is the one that is handled
		wires[1].say(padded(1, 90_000), ask("m", 2))
		wires[2].say("[" + strings.Repeat(ask("m", 1)+",", 999) + ask("m", 1) + "]")
		if n := len(wires[2].heard()); n != 1 {
			t.Errorf("the batch has %d replies", n)
		}
		if n := len(wires[1].heard()); n != 0 {
			t.Errorf("there are %d replies before the first request is over", n)
		}
		time.Sleep(time.Minute)
		if n := len(wires[1].heard()); n != 2 { // both were refused
			t.Errorf("there are %d replies to two requests whose time is over", n)
		}
		wires[1].say(ask("m", 3))
		if n := len(wires[1].heard()); n != 1 {
			t.Errorf("there are %d replies to a small request behind a large one that is over", n)
		}
		close(open)
		synctest.Wait()
		if handled := srv.Stats().HandledBytes; handled != 0 {
			t.Errorf("afterwards %d bytes are being handled", handled)
		}
	})
}

// Reading goes on for a handler that waits for a reply, though what is behind it waits for
// handlers of other sessions.
func TestReplyIsReadBeforeRequestsThatWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{MaxHandledBytes: 100_000}
		srv.Options.Limits.QueueBytes = 90_000
		srv.Options.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			if len(req.Params.Positional) > 0 {
				<-open
				return nil, nil
			}
			return nil, req.Session().Call(ctx, "question", nil, nil)
		})
		wires := newLoadedServer(t, srv, 2)
		for _, w := range wires {
			w.listen()
		}
		wires[0].say(padded(1, 90_000))
		wires[1].say(ask("m", 1))
		question := wires[1].heard()
		if len(question) != 1 {
			t.Fatalf("heard %d lines", len(question))
		}
		wires[1].say(padded(2, 90_000))
		takes(t, 0, func() {
			wires[1].say(`{"jsonrpc":"2.0","result":null,"id":` + idOf(t, question[0]) + `}`)
			if n := len(wires[1].heard()); n != 1 {
				t.Errorf("%d requests are answered", n)
			}
		})
		close(open)
		synctest.Wait()
	})
}

// padded is a request of about so many bytes.
func padded(id, bytes int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"m","params":["%s"],"id":%d}`, strings.Repeat("x", bytes), id)
}

// Of large requests only so many are handled at once on a server. Sessions that have
// more than their share wait, and the others go on.
func TestMaxHandledBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{MaxHandledBytes: 200_000, Options: rpcx.Options{Handler: open}}
		wires := newLoadedServer(t, srv, 4)
		running := func() (running int) {
			synctest.Wait()
			for s := range srv.Sessions() {
				running += s.Stats().Running
			}
			return running
		}
		for _, w := range wires {
			w.listen()
		}
		for id := range 20 {
			wires[0].say(padded(id, 40_000))
			wires[1].say(padded(id, 40_000))
		}
		if n, bytes := running(), srv.Stats().HandledBytes; n != 4 || bytes > 200_000 {
			t.Errorf("%d handlers run, of %d bytes", n, bytes)
		}
		before := running()
		wires[2].say(padded(1, 40_000)) // within its share
		wires[3].say(ask("m", 1))       // too small to count
		if n := running(); n != before+2 {
			t.Errorf("%d handlers run, %d before", n, before)
		}
		close(open)
		synctest.Wait()
		for i, want := range []int{20, 20, 1, 1} {
			if n := len(wires[i].heard()); n != want {
				t.Errorf("session %d has %d replies, want %d", i, n, want)
			}
		}
		if stats := srv.Stats(); stats.HandledBytes != 0 || stats.QueuedBytes > 4*4096 {
			t.Errorf("afterwards stats are %+v", stats)
		}
	})
}

// A session that waits for others can end: its notifications are handled.
func TestBlockedSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{MaxHandledBytes: 50_000, Options: rpcx.Options{Handler: open}}
		wires := newLoadedServer(t, srv, 2)
		wires[0].say(padded(1, 45_000)) // runs
		wires[1].say(padded(1, 24_000), padded(2, 24_000), strings.Replace(padded(3, 24_000), `,"id":3`, "", 1))
		synctest.Wait()
		ends := make(chan error, 1)
		for s := range srv.Sessions() {
			if s.Stats().Queued > 0 {
				s.OnClose(func(err error) { ends <- err })
			}
		}
		wires[1].Close()
		synctest.Wait()
		close(open)
		if err := <-ends; err != io.EOF {
			t.Errorf("it ended with %v", err)
		}
		wires[0].Close()
	})
}

// What JSON takes when it is decoded into any is said of Server.MaxHandledBytes.
func TestDecodedJSONTakesAsMuchAsIsSaid(t *testing.T) {
	held := func() int64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	nested := strings.Repeat(`{"":`, 500) + "0" + strings.Repeat("}", 500)
	for _, element := range []string{nested, `{"":0}`, `{"":[]}`, `{"a":"b"}`, `{}`, `[]`, `[[]]`, `0`, `""`} {
		var counted int
		var grown int64
		synctest.Test(t, func(t *testing.T) {
			srv := &rpcx.Server{}
			srv.Options.Handler = rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
				var args []any
				before := held()
				if err := req.Params.Bind(&args); err != nil {
					return nil, err
				}
				grown, counted = held()-before, srv.Stats().HandledBytes
				runtime.KeepAlive(args)
				return nil, nil
			})
			w := newLoadedServer(t, srv, 1)[0]
			w.listen()
			w.say(`{"jsonrpc":"2.0","method":"m","id":1,"params":[` + strings.Repeat(element+",", 400_000/len(element)) + `0]}`)
			w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
		})
		if times := float64(grown) / float64(counted); times > 17.5 {
			t.Errorf("%.20s takes %.1f times what it counts", element, times)
		}
	}
}

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
				if counted < held-stats.Sessions*(12<<10) || counted > 2*limit {
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

// Connections on which nothing passes cannot take all of MaxSessions for ever.
func TestIdleSessionsMakeRoomWhereTheServerIsNearlyFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 20, Options: *handling(methods{"reply": reply, "hang": hang})}
		srv.Options.Limits.ProcessingTimeout = time.Hour
		m, _ := newServer(t, srv)
		busy, waiting := m.connect(t), m.connect(t)
		waiting.say(ask("hang", 1))
		var idle []*wire
		for range 18 {
			time.Sleep(time.Second)
			idle = append(idle, m.connect(t))
		}
		if !m.connect(t).hungUp() {
			t.Fatal("the server is not full")
		}
		for range 5 { // the timeout, and a look more
			time.Sleep(15 * time.Second)
			busy.say(ask("reply", 1))
			busy.expect(answered("null", 1))
		}
		var gone []int
		for i, w := range idle {
			if w.hungUp() {
				gone = append(gone, i)
			}
		}
		if busy.hungUp() || waiting.hungUp() || len(gone) != 3 || slices.Max(gone) > 15 {
			t.Errorf("gone are the busy one: %v, the one that waits: %v, of the idle ones %v", busy.hungUp(), waiting.hungUp(), gone)
		}
		if n := srv.Stats().Sessions; n != 17 {
			t.Errorf("%d sessions are left", n)
		}
		time.Sleep(24 * time.Hour) // the server is not nearly full any more
		if n := srv.Stats().Sessions; n != 17 {
			t.Errorf("a day later %d sessions are left", n)
		}
		for range 3 {
			if m.connect(t).hungUp() {
				t.Error("there is no room")
			}
		}
	})
}

func TestWhatIsIdleWhereTheServerIsNearlyFull(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(*rpcx.Server)
		do     func(*rpcx.Session, *wire) // every half minute
		others int                        // sessions
		lives  bool
	}{
		"nothing passes":            {do: func(*rpcx.Session, *wire) {}},
		"blank lines come":          {do: func(_ *rpcx.Session, w *wire) { io.WriteString(w, "\n") }},
		"a small server":            {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = 0 }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"requests come":             {do: func(_ *rpcx.Session, w *wire) { w.say(ask("reply", 1)) }, lives: true},
		"notifications go":          {do: func(s *rpcx.Session, _ *wire) { s.Notify(context.Background(), "m", nil) }, lives: true},
		"a byte comes of a message": {do: func(_ *rpcx.Session, w *wire) { io.WriteString(w, " ") }},
		"a large message goes on":   {do: func(_ *rpcx.Session, w *wire) { io.WriteString(w, strings.Repeat(" ", 70_000)) }, lives: true},
		"a longer timeout":          {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = time.Hour }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"a shorter timeout":         {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = time.Second }, do: func(_ *rpcx.Session, w *wire) {}},
		"no timeout":                {set: func(srv *rpcx.Server) { srv.CrowdedIdleTimeout = -1 }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"no limit":                  {set: func(srv *rpcx.Server) { srv.MaxSessions = -1 }, do: func(*rpcx.Session, *wire) {}, lives: true},
		"there is room":             {set: func(srv *rpcx.Server) { srv.MaxSessions = 2 }, do: func(*rpcx.Session, *wire) {}, lives: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{MaxSessions: 1, CrowdedIdleTimeout: time.Minute, Options: *handling(methods{"reply": reply})}
				if c.set != nil {
					c.set(srv)
				}
				m, _ := newServer(t, srv)
				w := m.connect(t)
				var s *rpcx.Session
				synctest.Wait()
				for s = range srv.Sessions() {
				}
				for range 10 {
					c.do(s, w)
					time.Sleep(30 * time.Second)
					if w.hungUp() {
						break
					}
				}
				if c.lives {
					live(t, s)
				} else if err := ended(t, s); !errors.Is(err, rpcx.ErrIdle) || !errors.Is(err, rpcx.ErrServerFull) || !strings.Contains(err.Error(), "Server.CrowdedIdleTimeout") {
					t.Errorf("it ended with %v", err)
				}
			})
		})
	}
}

// A server for a few clients is meant to be full: none of them ends by default since it is
// silent. From MaxSessions 10 on they do.
func TestIdleSessionsOfSmallServers(t *testing.T) {
	for most, want := range map[int]int{1: 1, 9: 9, 10: 8, 20: 17} {
		synctest.Test(t, func(t *testing.T) {
			srv := &rpcx.Server{MaxSessions: most}
			m, _ := newServer(t, srv)
			for range most {
				m.connect(t)
			}
			time.Sleep(time.Hour)
			if n := srv.Stats().Sessions; n != want {
				t.Errorf("of %d idle sessions %d are left, want %d", most, n, want)
			}
		})
	}
}

// Where a server holds nearly all that it may, a session goes on handling requests while its
// outbox holds at most a quarter of its share, and no longer.
func TestSessionWithLittleGoesOnWhereMemoryIsShort(t *testing.T) {
	const limit, sessions, requests = 1 << 20, 2, 5
	const quarter = limit / sessions / 4
	for _, test := range []struct {
		about string
		size  int   // of a reply
		want  int64 // handlers, while nothing is read
	}{
		{"replies that are small together", 10, requests},
		{"replies whose buffers have half a quarter each", quarter / 3, 3},
		{"a reply that is more than a quarter", quarter + 1, 1},
	} {
		t.Run(test.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var running, handled atomic.Int64
				srv := &rpcx.Server{MaxQueuedBytes: limit}
				srv.Options.Handler = rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
					if req.Method == "large" {
						return strings.Repeat("x", limit/10*9), nil
					}
					if n := running.Add(1); n > 1 {
						t.Errorf("%d handlers run at once", n)
					}
					defer running.Add(-1)
					handled.Add(1)
					return strings.Repeat("x", test.size), nil
				})
				wires := newLoadedServer(t, srv, sessions)
				hoarder, w := wires[0], wires[1]
				_, _ = io.WriteString(hoarder.Conn, ask("large", 1)+"\n") // whose reply is not read
				synctest.Wait()
				if counted := srv.Stats().QueuedBytes; counted < limit/4*3 {
					t.Fatalf("%d bytes wait, of %d", counted, limit)
				}
				for id := range requests {
					_, _ = fmt.Fprintln(w.Conn, ask("m", id))
					synctest.Wait()
				}
				if n := handled.Load(); n != test.want {
					t.Errorf("%d handlers were called before anything was read, want %d", n, test.want)
				}
				w.listen()
				if n := len(w.heard()); n != requests {
					t.Errorf("there are %d replies, want %d", n, requests)
				}
				hoarder.Close()
			})
		})
	}
}
