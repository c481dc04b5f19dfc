package rpcx_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
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
				if counted > 3*limit/2+limit/8 {
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
