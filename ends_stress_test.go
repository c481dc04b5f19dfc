package rpcx

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

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
	case n == 1 && m.s.cancel != nil && m.lastID > 0:
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
	l.CostData = rng.IntN(2) == 0
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
	if s.refusing != 0 || s.in.running != 0 || s.in.workers != 0 || s.in.count != 0 || s.in.bytes != 0 || s.table.pending != 0 || s.slots.taken != 0 || s.out.size() != 0 || s.in.waking || s.in.waits {
		m.t.Errorf("refusing %d, running %d, workers %d, count %d, bytes %d, pending %d, slots %d, outbox %d, waking %v, waits %v", s.refusing, s.in.running, s.in.workers, s.in.count, s.in.bytes, s.table.pending, s.slots.taken, s.out.size(), s.in.waking, s.in.waits)
	}
	if s.state == stateOpen && (s.assembled != 0 || s.incoming.first != nil || s.outgoing.first != nil || len(s.requests) != 0) {
		m.t.Errorf("assembled %d, incoming %v, outgoing %v, requests %v", s.assembled, s.incoming.first, s.outgoing.first, s.requests)
	}
	if b := &s.pressure; b.paused || b.tied != 0 || b.crammed != 0 || b.insist {
		m.t.Errorf("the state of pauses is %+v", *b)
	}
	if d := s.weight - s.partial; s.state == stateOpen && s.load.limit > 0 && (d >= weightStep || d <= -weightStep) {
		m.t.Errorf("the weight is %d, of which %d are part of a message; in %d, out %d, assembled %d", s.weight, s.partial, s.in.bytes, s.out.size(), s.assembled)
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
