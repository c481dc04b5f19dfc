package rpcx_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// A newsServer is the far end of a session, and the oracle: it logs what it has written, in
// the order of the wire.
type newsServer struct {
	conn   net.Conn
	random func(n int) int

	mu      sync.Mutex // guards what is below, and the writes
	unsent  []byte     // lines for the next write
	log     map[string][]loggedValue
	active  map[string]int // subscriptions by id or hash
	next    int            // the last value
	nextID  int
	over    bool
	pending sync.WaitGroup
}

// loggedValue is a value on the wire: a notification's, or that of a reply.
type loggedValue struct {
	value   int
	isReply bool
}

// write writes a line, and logs a value of id unless id is "".
func (srv *newsServer) write(id string, isReply bool, format string, args ...any) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	srv.writeLocked(id, isReply, format, args...)
}

func (srv *newsServer) writeLocked(id string, isReply bool, format string, args ...any) {
	if srv.over {
		return
	}
	if id != "" {
		srv.next++
		srv.log[id] = append(srv.log[id], loggedValue{srv.next, isReply})
		args = append(args, srv.next)
	}
	srv.unsent = fmt.Appendf(srv.unsent, format+"\n", args...)
	if srv.random(3) == 0 {
		srv.flushLocked()
	}
}

// flushLocked writes the lines that wait, in one write.
func (srv *newsServer) flushLocked() {
	if _, err := srv.conn.Write(srv.unsent); err != nil {
		srv.over = true
	}
	srv.unsent = srv.unsent[:0]
}

// hangUp ends the connection between two lines.
func (srv *newsServer) hangUp() {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if !srv.over {
		srv.flushLocked()
	}
	srv.over = true
	srv.conn.Close()
}

// nap sleeps for up to n milliseconds, often not at all.
func (srv *newsServer) nap(n int) {
	if srv.random(3) > 0 {
		time.Sleep(time.Duration(srv.random(n*1000)) * time.Microsecond)
	}
}

// news writes some news of an active subscription.
func (srv *newsServer) news(id string, n int) {
	for range n {
		srv.mu.Lock()
		switch {
		case srv.active[id] == 0:
		case strings.HasPrefix(id, "hash"):
			srv.writeLocked(id, false, `{"jsonrpc":"2.0","method":"blockchain.scripthash.subscribe","params":["%s",%d]}`, id)
		default:
			srv.writeLocked(id, false, `{"jsonrpc":"2.0","method":"eth_subscription","params":{"subscription":"%s","result":%d}}`, id)
		}
		srv.mu.Unlock()
	}
}

// publish writes news until the connection is over.
func (srv *newsServer) publish() {
	for {
		srv.mu.Lock()
		over := srv.over
		var ids []string
		for id, n := range srv.active {
			if n > 0 {
				ids = append(ids, id)
			}
		}
		srv.mu.Unlock()
		if over {
			return
		}
		slices.Sort(ids)
		if len(ids) > 0 {
			srv.news(ids[srv.random(len(ids))], 1+srv.random(5))
		}
		srv.mu.Lock()
		srv.flushLocked()
		srv.mu.Unlock()
		time.Sleep(time.Duration(1+srv.random(2000)) * time.Microsecond)
	}
}

// serve answers requests, each on its own goroutine, until the connection is over.
func (srv *newsServer) serve() {
	lines := bufio.NewScanner(srv.conn)
	for lines.Scan() {
		var req struct {
			ID     json.RawMessage
			Method string
			Params json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			panic(err)
		}
		srv.pending.Go(func() { srv.answer(req.Method, string(req.ID), req.Params) })
	}
	srv.hangUp()
	srv.pending.Wait()
}

func (srv *newsServer) answer(method, id string, params json.RawMessage) {
	srv.nap(20)
	var list []string
	_ = json.Unmarshal(params, &list)
	switch method {
	case "eth_subscribe":
		srv.mu.Lock()
		srv.nextID++
		sub := fmt.Sprintf("sub%d", srv.nextID)
		srv.active[sub] = 1
		srv.mu.Unlock()
		if srv.random(4) == 0 {
			srv.news(sub, srv.random(4))
		}
		srv.write("", false, `{"jsonrpc":"2.0","result":"%s","id":%s}`, sub, id)
		srv.news(sub, srv.random(6))
	case "blockchain.scripthash.subscribe":
		srv.mu.Lock()
		srv.active[list[0]] = 1
		srv.mu.Unlock()
		srv.news(list[0], srv.random(2))
		srv.nap(5)
		srv.mu.Lock()
		srv.active[list[0]] = 1 // an unsubscribing call before the reply does not count
		srv.writeLocked(list[0], true, `{"jsonrpc":"2.0","id":%s,"result":%d}`, id)
		srv.mu.Unlock()
		srv.news(list[0], srv.random(3))
	case "eth_unsubscribe", "blockchain.scripthash.unsubscribe":
		srv.news(list[0], srv.random(3))
		srv.mu.Lock()
		srv.active[list[0]] = 0
		srv.mu.Unlock()
		srv.nap(10)
		srv.write("", false, `{"jsonrpc":"2.0","result":true,"id":%s}`, id)
	case "work":
		var p struct{ WorkDoneToken, PartialResultToken string }
		_ = json.Unmarshal(params, &p)
		for range srv.random(20) {
			token := p.WorkDoneToken
			if srv.random(2) == 0 && p.PartialResultToken != "" {
				token = p.PartialResultToken
			}
			srv.write(token, false, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":"%s","value":%d}}`, token)
			srv.nap(2)
		}
		srv.write("", false, `{"jsonrpc":"2.0","result":"done","id":%s}`, id)
		srv.write("after", false, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":"%s","value":%d}}`, p.WorkDoneToken)
	}
}

// announce makes a token, asks the client to listen, and reports progress at once.
func (srv *newsServer) announce() {
	srv.mu.Lock()
	srv.nextID++
	token := fmt.Sprintf("made%d", srv.nextID)
	srv.mu.Unlock()
	srv.write("", false, `{"jsonrpc":"2.0","method":"create","params":{"token":"%s"},"id":"%s"}`, token, token)
	for range 1 + srv.random(30) {
		srv.write(token, false, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":"%s","value":%d}}`, token)
		srv.nap(2)
	}
	srv.write(token, false, `{"jsonrpc":"2.0","method":"$/progress","params":{"token":"%s","value":-%d}}`, token)
}

// streamRun is a run of the property test.
type streamRun struct {
	t      *testing.T
	s      *rpcx.Session
	srv    *newsServer
	random func(n int) int
}

// check compares what a stream has returned with the log. ended is set if the stream has
// returned all values until the end of the connection.
func (run *streamRun) check(name, id string, policy rpcx.OverflowPolicy, got []int, dropped uint64, ended bool) {
	run.t.Helper()
	srv := run.srv
	srv.mu.Lock()
	log := slices.Clone(srv.log[id])
	srv.mu.Unlock()
	byReply := strings.HasPrefix(id, "hash")
	if byReply && len(got) > 0 {
		first := slices.IndexFunc(log, func(v loggedValue) bool { return v.value == got[0] })
		if first < 0 {
			run.t.Errorf("%s: the value %d was never sent", name, got[0])
			return
		}
		if !log[first].isReply && dropped == 0 {
			run.t.Errorf("%s: the first value %d is not that of the reply", name, got[0])
		}
		known := log[first].isReply
		log = slices.DeleteFunc(log[first:], func(v loggedValue) bool { return v.isReply && v.value != got[0] })
		ended = ended && known
	}
	if byReply && len(got) == 0 {
		return
	}
	missing := 0
	for _, v := range got {
		at := slices.IndexFunc(log, func(l loggedValue) bool { return l.value == v })
		if at < 0 {
			run.t.Errorf("%s: the value %d of %v is early, late, twice or of others; the log is %v", name, v, got, log)
			return
		}
		missing += at
		log = log[at+1:]
	}
	if uint64(missing) > dropped {
		run.t.Errorf("%s: %d values are missing, but only %d were dropped: %v", name, missing, dropped, got)
	}
	if policy == rpcx.EndStream && missing > 0 {
		run.t.Errorf("%s: %d values are missing in a stream that drops nothing", name, missing)
	}
	if ended && uint64(missing+len(log)) != dropped {
		run.t.Errorf("%s: %d values are missing, and %d were dropped: %v", name, missing+len(log), dropped, got)
	}
}

// subscribe subscribes, reads for a while, and closes the stream.
func (run *streamRun) subscribe(sub rpcx.Subscription, hash string) {
	policies := []rpcx.OverflowPolicy{rpcx.DropOldest, rpcx.DropOldest, rpcx.EndStream, rpcx.KeepLatest}
	sub.Overflow, sub.Queue = policies[run.random(len(policies))], 1+run.random(10)
	if run.random(2) == 0 {
		sub.Queue = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+run.random(60))*time.Millisecond)
	defer cancel()
	if run.random(3) > 0 {
		ctx = context.Background()
	}
	st, err := rpcx.Subscribe[int](ctx, run.s, sub)
	if err != nil {
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, rpcx.ErrConnectionLost) && !errors.Is(err, rpcx.ErrClosed) {
			run.t.Errorf("Subscribe: %v", err)
		}
		return
	}
	id := hash
	if id == "" {
		_ = json.Unmarshal(st.ID(), &id)
	}
	var got []int
	ended := false
	for range run.random(40) {
		v, err := st.Next(context.Background())
		if err != nil {
			ended = errors.Is(err, rpcx.ErrConnectionLost)
			if !ended && err != rpcx.ErrSlowReader {
				run.t.Errorf("Next: %v", err)
			}
			break
		}
		got = append(got, v)
		if run.random(3) == 0 {
			time.Sleep(time.Duration(run.random(5000)) * time.Microsecond)
		}
	}
	if run.random(4) == 0 {
		go st.Close()
	}
	st.Close()
	if _, err := st.Next(context.Background()); err != rpcx.ErrStreamClosed {
		run.t.Errorf("Next after Close: %v", err)
	}
	run.check(fmt.Sprintf("%s with policy %d", id, sub.Overflow), id, sub.Overflow, got, st.Dropped(), ended)
}

// work makes a call with progress, sometimes with two tokens.
func (run *streamRun) work(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+run.random(60))*time.Millisecond)
	defer cancel()
	if run.random(3) > 0 {
		ctx = context.Background()
	}
	params := map[string]any{"workDoneToken": name}
	var other *rpcx.Stream[int]
	if run.random(2) == 0 {
		params["partialResultToken"] = name + "b"
		var err error
		if other, err = rpcx.StreamOf[int](run.s, rpcx.LSPPartialResult, name+"b"); err != nil {
			matches(run.t, err, rpcx.ErrClosed)
			return
		}
	}
	var got []int
	returned := false
	result, err := rpcx.CallProgress[string](ctx, run.s, rpcx.LSPWorkDone, "work", params, func(v int) {
		if returned {
			run.t.Error("progress after the return")
		}
		got = append(got, v)
		run.srv.nap(3)
	})
	returned = true
	if err == nil && result != "done" || err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, rpcx.ErrConnectionLost) && !errors.Is(err, rpcx.ErrClosed) {
		run.t.Errorf("CallProgress: %q, %v", result, err)
	}
	run.check("progress", name, rpcx.EndStream, got, 0, err == nil)
	if other == nil {
		return
	}
	var second []int
	for err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		v, end := other.Next(ctx)
		cancel()
		if end != nil {
			break
		}
		second = append(second, v)
	}
	other.Close()
	run.check("the second token", name+"b", rpcx.EndStream, second, other.Dropped(), err == nil)
}

// created handles the request to listen to a token of the server's.
func (run *streamRun) created(listeners *sync.WaitGroup) rpcx.HandlerFunc {
	return func(_ context.Context, req *rpcx.Request) (any, error) {
		var p struct{ Token string }
		if err := req.Bind(&p); err != nil {
			return nil, err
		}
		run.srv.nap(5)
		st, err := rpcx.StreamOf[int](req.Session(), rpcx.LSPWorkDone, p.Token)
		if err != nil {
			return nil, err
		}
		listeners.Go(func() {
			defer st.Close()
			var got []int
			for {
				v, err := st.Next(context.Background())
				if err != nil {
					break
				}
				if v < 0 {
					run.check("a server's token", p.Token, rpcx.DropOldest, append(got, -v), st.Dropped(), true)
					break
				}
				got = append(got, v)
			}
		})
		return nil, nil
	}
}

// runStreams makes actors random things with streams, and compares all with the log of the
// server.
func runStreams(t *testing.T, seed uint64, actors, steps int) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		source := rand.New(rand.NewPCG(seed, 1))
		random := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return source.IntN(n)
		}
		near, far := net.Pipe()
		srv := &newsServer{conn: far, random: random, log: make(map[string][]loggedValue), active: make(map[string]int)}
		run := &streamRun{t: t, srv: srv, random: random}
		var listeners, all sync.WaitGroup
		run.s = rpcx.NewSession(near, &rpcx.Options{
			Handler:      methods{"create": run.created(&listeners)},
			Correlations: []*rpcx.Correlation{rpcx.LSPWorkDone, rpcx.EthSubscription},
			Limits:       rpcx.Limits{PeerErrors: -1},
		})
		all.Go(srv.serve)
		all.Go(srv.publish)
		var acting sync.WaitGroup
		for actor := range actors {
			acting.Go(func() {
				for step := range steps {
					switch random(5) {
					case 0, 1:
						run.subscribe(ethereum(), "")
					case 2, 3:
						hash := fmt.Sprintf("hash%d", random(2))
						run.subscribe(script(hash), hash)
					default:
						run.work(fmt.Sprintf("t%d-%d", actor, step))
					}
					srv.nap(10)
				}
			})
		}
		for range steps / 2 {
			srv.announce()
		}
		if random(3) == 0 { // the connection ends in the middle
			srv.hangUp()
		}
		acting.Wait()
		time.Sleep(10 * time.Second) // for late replies, and what is kept
		synctest.Wait()
		noStreams(t, run.s)
		srv.mu.Lock()
		if !srv.over {
			for id, n := range srv.active {
				if n > 0 {
					t.Errorf("the server still has the subscription %s", id)
				}
			}
		}
		srv.mu.Unlock()
		run.s.Close()
		all.Wait()
		listeners.Wait()
		<-run.s.Done()
		if err := run.s.Err(); err != rpcx.ErrClosed && !errors.Is(err, io.EOF) {
			t.Errorf("the session has ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the seed is %d", seed)
		}
	})
}

// Any interleaving of replies, notifications, cancellations, Close and slow readers gives
// each value once, in the order of the wire, or counts it as dropped. Nothing comes after
// Close, and nothing is left at either end.
func TestStreamProperty(t *testing.T) {
	runs := 400
	if testing.Short() {
		runs = 40
	}
	first := uint64(time.Now().UnixNano())
	for i := range uint64(runs) {
		runStreams(t, first+i, 6, 12)
		if t.Failed() {
			return
		}
	}
}

func FuzzStreams(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, uint8(3), uint8(4))
	}
	f.Fuzz(func(t *testing.T, seed uint64, actors, steps uint8) {
		runStreams(t, seed, 1+int(actors%4), 1+int(steps%4))
	})
}
