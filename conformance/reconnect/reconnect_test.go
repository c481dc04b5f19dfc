// Package reconnect tests the Client of package rpcx over real sockets: many callers count at
// servers that end one after the other, through a proxy that disturbs the connections. An
// oracle accounts for each call.
package reconnect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/leaktest"
	"example.com/rpcx/internal/oracle"
)

// TestMain fails the run if it leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

const (
	callers  = 64
	patience = 30 * time.Second // until something that must happen has happened
)

// site is a server that can end and come back, behind a proxy.
type site struct {
	t      *testing.T
	log    *oracle.Log
	proxy  *proxy
	addr   string
	srv    *rpcx.Server // nil while the server is down
	served chan error
}

// newSite starts a server whose calls are recorded in log.
func newSite(t *testing.T, log *oracle.Log) *site {
	t.Helper()
	s := &site{t: t, log: log, addr: "127.0.0.1:0"}
	s.start()
	s.proxy = newProxy(t, s.addr)
	t.Cleanup(func() { s.end(nil) })
	return s
}

// start starts the server, again at the same address.
func (s *site) start() {
	s.t.Helper()
	var l net.Listener
	waitFor(s.t, "the address of the server is free", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", s.addr)
		return err == nil
	})
	s.addr = l.Addr().String()
	s.srv = &rpcx.Server{Options: rpcx.Options{
		Handler: handler(s.log),
		Limits:  rpcx.Limits{CostHard: -1}, // all callers have one address
	}}
	s.served = make(chan error, 1)
	// Owner: the site. End: the server is shut down or closed.
	go func(srv *rpcx.Server, served chan<- error) { served <- srv.Serve(l) }(s.srv, s.served)
}

// end ends the server by f and Close, and waits until nothing is left of it.
func (s *site) end(f func(*rpcx.Server)) {
	if s.srv == nil {
		return
	}
	if f != nil {
		f(s.srv)
	}
	s.srv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.srv.Wait(ctx); err != nil {
		s.t.Errorf("the server does not end: %v", err)
	}
	if err := <-s.served; !errors.Is(err, rpcx.ErrServerClosed) {
		s.t.Errorf("Serve: %v", err)
	}
	s.srv = nil
}

// shutdown is an orderly end.
func shutdown(srv *rpcx.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = srv.Shutdown(ctx) // Close ends what is left
}

// crash is an end without any message, also to what was sent before.
func (s *site) crash(*rpcx.Server) { s.proxy.each(func(l *link) { l.cut(true) }) }

// handler counts: the result of a call is its number.
func handler(log *oracle.Log) rpcx.Handler {
	count := rpcx.Func(func(n int, work time.Duration) int {
		log.Started(n)
		time.Sleep(work) // stands for the work; it does not stop when the session ends
		log.Finished(n)
		return n
	})
	router := rpcx.NewRouter()
	router.Handle("count", count)
	router.Handle("count.idempotent", count)
	router.Handle("hello", rpcx.Func(func() {}))
	return router
}

// method returns the method for calls of a kind.
func method(kind oracle.Kind) string {
	if kind == oracle.Idempotent {
		return "count.idempotent"
	}
	return "count"
}

// waitFor waits until ok returns true.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("after %v, it is still not so that %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// newClient returns a client of the sites that reconnects quickly, and notices half-open
// connections within a second.
func newClient(t *testing.T, failFast bool, sites ...*site) *rpcx.Client {
	t.Helper()
	opts := &rpcx.ClientOptions{
		OnConnect: func(ctx context.Context, s *rpcx.Session) error {
			return s.Call(ctx, "hello", nil, nil)
		},
		Options: rpcx.Options{Limits: rpcx.Limits{
			KeepAlive: 200 * time.Millisecond, KeepAliveMethod: "hello",
		}},
		MinBackoff: time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		ConnectTimeout: time.Second,
		Idempotent:     func(method string) bool { return method == "count.idempotent" },
		FailFast:       failFast,
	}
	for _, s := range sites {
		opts.Addrs = append(opts.Addrs, s.proxy.addr)
	}
	c := rpcx.NewClient(opts)
	t.Cleanup(func() {
		c.Close()
		select {
		case <-c.Done():
		case <-time.After(patience):
			t.Error("the client does not end")
		}
	})
	return c
}

// caller makes one call after the other, until stop is closed.
func caller(c rpcx.Caller, log *oracle.Log, stop <-chan struct{}, isMutant bool) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if rand.N(20) == 0 { // a call that is given up
			ctx, cancel = context.WithTimeout(context.Background(), rand.N(2*time.Millisecond))
		}
		kind := oracle.Once
		if rand.N(2) == 0 {
			kind = oracle.Idempotent
		}
		way := rand.N(4)
		if isMutant { // only Call is mutated
			way = 0
		}
		switch way {
		case 0:
			n := log.Begin(kind)
			var result int
			err := c.Call(ctx, method(kind), args(n), &result)
			log.End(n, result, err)
			if errors.Is(err, rpcx.ErrNotConnected) { // a caller with FailFast would spin
				time.Sleep(time.Millisecond)
			}
		case 1:
			goSeveral(ctx, c, log, kind)
		case 2:
			sendBatch(ctx, c, log)
		case 3:
			n := log.Begin(oracle.Notification)
			log.End(n, n, c.Notify(ctx, method(oracle.Notification), args(n)))
		}
		cancel()
	}
}

// args returns the arguments of call n. A few calls take long at the server.
func args(n int) rpcx.Args {
	var work time.Duration
	if rand.N(50) == 0 {
		work = rand.N(20 * time.Millisecond)
	}
	return rpcx.Args{n, work}
}

// goSeveral makes calls by Go, which are under way together.
func goSeveral(ctx context.Context, c rpcx.Caller, log *oracle.Log, kind oracle.Kind) {
	futures := make(map[int]*rpcx.Future)
	for range 1 + rand.N(4) {
		n := log.Begin(kind)
		futures[n] = c.Go(ctx, method(kind), args(n))
	}
	for n, f := range futures {
		var result int
		err := f.Wait(context.Background(), &result)
		log.End(n, result, err)
	}
}

// sendBatch sends a batch with calls of both kinds and a notification.
func sendBatch(ctx context.Context, c rpcx.Caller, log *oracle.Log) {
	var b rpcx.Batch
	type member struct {
		n      int
		result int
		future *rpcx.Future
	}
	var members []*member
	for i := range 1 + rand.N(4) {
		kind := oracle.Kind(i % 2)
		m := &member{n: log.Begin(kind)}
		m.future = b.Call(method(kind), args(m.n), &m.result)
		members = append(members, m)
	}
	note := log.Begin(oracle.Notification)
	b.Notify(method(oracle.Notification), args(note))
	sent := c.SendBatch(ctx, &b)
	for _, m := range members {
		err := sent
		select {
		case <-m.future.Done():
			err = m.future.Err()
		default: // the batch was not sent
		}
		log.End(m.n, m.result, err)
	}
	if oracle.OutcomeOf(sent) == oracle.NotStarted && len(members) > 0 {
		// The error is that of a member. It says nothing of the notification, unless
		// nothing was sent, and then no member has finished.
		sent = context.Canceled
	}
	log.End(note, note, sent)
}

// run makes the callers call, disturbs them, and returns what the oracle finds. wrap makes the
// Caller of a client.
func run(t *testing.T, rounds int, isMutant bool, wrap func(*rpcx.Client) rpcx.Caller) ([]string, oracle.Counts) {
	leaktest.Check(t)
	log := new(oracle.Log)
	sites := []*site{newSite(t, log), newSite(t, log), newSite(t, log)}
	clients := []*rpcx.Client{newClient(t, false, sites...), newClient(t, true, sites...)}
	stop := make(chan struct{})
	var calling sync.WaitGroup
	for i := range callers {
		c := clients[0]
		if i%8 == 0 {
			c = clients[1]
		}
		// Owner: run. End: stop is closed.
		calling.Go(func() { caller(wrap(c), log, stop, isMutant) })
	}
	for round := range rounds {
		disturb(t, log, sites)
		restart(t, log, sites, round)
	}
	close(stop)
	finished := make(chan struct{})
	// Owner: run. End: the callers have ended.
	go func() { calling.Wait(); close(finished) }()
	waitFor(t, "all callers have ended", func() bool {
		select {
		case <-finished:
			return true
		default:
			return false
		}
	})
	for _, c := range clients {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := c.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown of the client: %v", err)
		}
		cancel()
	}
	for _, s := range sites {
		s.end(shutdown)
	}
	return log.Problems(), log.Counts()
}

// progress waits until 200 further calls are answered.
func progress(t *testing.T, log *oracle.Log, after string) {
	t.Helper()
	before := log.Counts()
	waitFor(t, "calls are answered after "+after, func() bool {
		now := log.Counts()
		return now.Answered() >= before.Answered()+200
	})
}

// disturb lets each fault happen once, in random order, wherever the clients are connected.
func disturb(t *testing.T, log *oracle.Log, sites []*site) {
	type disturbance struct {
		name              string
		requests, replies fault
	}
	for _, i := range rand.Perm(9) {
		d := []disturbance{
			{"a cut", cutBetween, cutBetween},
			{"a cut within a request", cutWithin, none},
			{"a cut within a reply", none, cutWithin},
			{"a loss of replies, and a cut", none, cutBetween},
			{"a half-open connection", stall, stall},
			{"a connection that stalls in one direction", none, stall},
			{"a proxy that swallows replies", none, swallow},
			{"a proxy that swallows everything", swallow, swallow},
			{"a half-close by the server", none, finish},
		}[i]
		before := make([]int64, len(sites))
		for i, s := range sites {
			before[i] = s.proxy.faults.Load()
			s.proxy.delay.Store(int64(rand.N(3 * time.Millisecond)))
		}
		waitFor(t, d.name+" has taken effect", func() bool {
			for _, s := range sites {
				s.proxy.each(func(l *link) { // also of connections made meanwhile
					l.requests.fault.Store(int32(d.requests))
					l.replies.fault.Store(int32(d.replies))
				})
			}
			for i, s := range sites {
				if s.proxy.faults.Load() > before[i] {
					return true
				}
			}
			return false
		})
		progress(t, log, d.name)
	}
	for _, s := range sites {
		s.proxy.delay.Store(0)
	}
}

// restart ends the servers one after the other, in order or by a crash, while one server
// always runs.
func restart(t *testing.T, log *oracle.Log, sites []*site, round int) {
	for i, s := range sites {
		end, name := shutdown, "an orderly end of a server"
		if (i+round)%2 == 1 {
			end, name = s.crash, "a crash of a server"
		}
		s.end(end)
		progress(t, log, name)
		if i > 0 { // the server before is back, and no other is left after the next end
			sites[i-1].start()
			progress(t, log, "the return of a server")
		}
	}
	sites[len(sites)-1].start()
}

// No call is lost, and none is carried out twice unless that is allowed.
func TestEachCallHasOneEnd(t *testing.T) {
	problems, counts := run(t, 3, false, func(c *rpcx.Client) rpcx.Caller { return c })
	for _, problem := range problems[:min(20, len(problems))] {
		t.Error(problem)
	}
	t.Log(describe(counts))
	for _, kind := range []oracle.Kind{oracle.Once, oracle.Idempotent} {
		for _, o := range []oracle.Outcome{oracle.Answered, oracle.NotStarted, oracle.Written} {
			if counts.Ended[kind][o] == 0 {
				t.Errorf("no %s was %s: the test has not tried it", kind, o)
			}
		}
	}
	if counts.Repeated == 0 {
		t.Error("no idempotent call was repeated: the test has not tried it")
	}
}

func describe(c oracle.Counts) string {
	var text strings.Builder
	for kind := range c.Ended {
		fmt.Fprintf(&text, "%ss:", oracle.Kind(kind))
		for o, n := range c.Ended[kind] {
			if o != int(oracle.Open) {
				fmt.Fprintf(&text, " %d %s", n, oracle.Outcome(o))
			}
		}
		text.WriteString("; ")
	}
	fmt.Fprintf(&text, "%d carried out several times", c.Repeated)
	return text.String()
}

// repeater is a mutant: it repeats each call that was written and has no reply.
type repeater struct{ rpcx.Caller }

func (r repeater) Call(ctx context.Context, method string, params, result any) error {
	for {
		err := r.Caller.Call(ctx, method, params, result)
		if lost, ok := errors.AsType[*rpcx.ConnectionError](err); !ok || !lost.Written || ctx.Err() != nil {
			return err
		}
	}
}

// A client that repeats written calls is found out: the test above can fail.
func TestRepetitionOfWrittenCallsIsFound(t *testing.T) {
	problems, _ := run(t, 1, true, func(c *rpcx.Client) rpcx.Caller { return repeater{c} })
	if !slices.ContainsFunc(problems, func(p string) bool {
		return strings.HasPrefix(p, "call ") && strings.Contains(p, "was carried out twice")
	}) {
		t.Errorf("the oracle has found %d problems, and no call that was carried out twice: %q", len(problems), problems[:min(5, len(problems))])
	}
}
