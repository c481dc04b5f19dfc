package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// targetSampling is the sampling interval of the program under attack.
const targetSampling = 20 * time.Millisecond

// damage is the effect of an attack on the program under attack.
type damage struct {
	Took     time.Duration  `json:"took"`
	CPU      time.Duration  `json:"cpu"`      // of the process, user and system
	Peak     sample         `json:"peak"`     // highest value of each field
	Received uint64         `json:"received"` // bytes, in sessions
	Sent     uint64         `json:"sent"`
	Records  records        `json:"records"`
	Ended    map[string]int `json:"ended"`
	Left     sample         `json:"left"`   // after the shutdown
	Faults   []string       `json:"faults"` // in the texts of errors that the client has returned
}

// target is the program under attack, in a separate process: a server, and a client for
// attacks on clients.
type target struct {
	server
	http    http.Server
	log     recordCounter
	dialing sync.WaitGroup
	cancel  context.CancelFunc // ends the clients
	ctx     context.Context

	began time.Time
	cpu   time.Duration // CPU time at began

	mu             sync.Mutex
	peak           sample
	received, sent uint64 // bytes, of ended sessions
	faults         []string
}

// runTarget is the process of the program under attack. The parent gives orders until the
// parent ends.
func runTarget() {
	t := &target{server: server{
		quit:    make(chan struct{}),
		started: make(chan struct{}),
		ended:   make(map[string]int),
	}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	log.SetOutput(&t.log) // for package net/http
	router := rpcx.NewRouter()
	router.Handle("listen", rpcx.Func(t.listen))
	router.Handle("begin", rpcx.Func(t.begin))
	router.Handle("dial", rpcx.Func(t.dial))
	router.Handle("finish", rpcx.Func(t.finish))
	parent := control(router)
	close(t.started)
	<-parent.Done()
}

// options returns the default options with a log and a trace, for the server and the
// clients of the process.
func (t *target) options(handler rpcx.Handler) rpcx.Options {
	return rpcx.Options{
		Handler: handler,
		Logger:  slog.New(slog.NewTextHandler(&t.log, nil)),
		Trace:   &rpcx.Trace{Closed: t.over},
	}
}

// listen starts serving with the settings of the given attack, and returns the address.
func (t *target) listen(attack string) (string, error) {
	<-t.started
	a := findAttack(attack)
	if a == nil {
		return "", fmt.Errorf("no attack %q", attack)
	}
	over := a.over
	if a.serves {
		over = overTCP // the attack is on a client, and the honest client of the server measures the process
	}
	t.goroutines = countGoroutines()
	t.Options = t.options(targetMethods())
	t.Options.Framer = over.framer()
	acceptor := websocket.Acceptor{Server: &t.Server}
	if a.configure != nil {
		a.configure(&t.Server, &acceptor)
	}
	l, addr, err := over.listen()
	if err != nil {
		return "", err
	}
	if over == overWS {
		t.http.Handler = &acceptor
		t.http.ReadHeaderTimeout = 10 * time.Second
		t.http.MaxHeaderBytes = 32 << 10 // a megabyte of small fields takes 30 ms, before the Acceptor runs
		t.http.ErrorLog = slog.NewLogLogger(t.Options.Logger.Handler(), slog.LevelWarn)
		// Owner: the target. End: finish.
		t.running.Go(func() error { return whenClosed(t.http.Serve(l)) })
	} else {
		// Owner: the target. End: finish.
		t.running.Go(func() error { return whenClosed(t.Serve(l)) })
	}
	// Owner: the target. End: finish.
	t.running.Go(t.watch)
	return addr, nil
}

// watch samples the process until the end.
func (t *target) watch() error {
	tick := time.NewTicker(targetSampling)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			var s sample
			s.measure()
			s.Sessions = t.Stats().Sessions
			t.mu.Lock()
			t.peak.highest(s)
			t.mu.Unlock()
		case <-t.quit:
			return nil
		}
	}
}

// begin starts the measurement.
func (t *target) begin() {
	t.began = time.Now()
	t.cpu = processTime()
}

// finish ends the clients, waits until the sessions of the attack have ended, for at most
// patience, and shuts the server down. The result is the damage of the attack.
func (t *target) finish(ctx context.Context, patience time.Duration) (damage, error) {
	t.cancel()
	t.dialing.Wait()
	t.awaitSessions(costPatience)
	d := damage{Took: time.Since(t.began), CPU: processTime() - t.cpu}
	t.awaitSessions(patience - costPatience)
	d.Left.Sessions = t.Stats().Sessions
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if t.http.Handler != nil {
		_ = t.http.Close()
	}
	if err := t.Shutdown(ctx); err != nil {
		return d, err
	}
	close(t.quit)
	if err := t.running.Wait(); err != nil {
		return d, err
	}
	sessions := d.Left.Sessions
	d.Left = t.leftOver()
	d.Left.Sessions = sessions
	t.mu.Lock()
	defer t.mu.Unlock()
	d.Peak, d.Received, d.Sent, d.Faults = t.peak, t.received, t.sent, t.faults
	d.Records = t.log.read()
	d.Ended = t.ended
	return d, nil
}

// whenClosed returns nil for the error of a stopped server, and other errors unchanged.
func whenClosed(err error) error {
	if errors.Is(err, rpcx.ErrServerClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// awaitSessions waits until every session has ended, for at most timeout.
func (t *target) awaitSessions(timeout time.Duration) {
	for deadline := time.Now().Add(timeout); t.Stats().Sessions > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
}

// over counts an ended session.
func (t *target) over(s *rpcx.Session, err error) {
	t.closed(s, err)
	stats := s.Stats()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.received += stats.BytesReceived
	t.sent += stats.BytesSent
}

// records counts log records.
type records struct {
	Bytes  uint64 `json:"bytes"`
	Count  int    `json:"count"`
	Broken int    `json:"broken"` // with control characters, or of several lines
}

// recordCounter receives the log, counts the records, and looks for control characters.
type recordCounter struct {
	mu sync.Mutex
	records
}

func (c *recordCounter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Bytes += uint64(len(p))
	c.Count++
	if hasControl(string(bytes.TrimSuffix(p, []byte("\n")))) {
		c.Broken++
	}
	return len(p), nil
}

func (c *recordCounter) read() records {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records
}

func hasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}

// targetMethods returns the methods of a server under attack: methods, and further
// methods that suit attackers.
func targetMethods() *rpcx.Router {
	router := methods()
	// any decodes the argument into values of type any, and keeps the values for a while.
	router.Handle("any", rpcx.Func(func(ctx context.Context, v any) error {
		err := sleep(ctx, lookTime)
		runtime.KeepAlive(v)
		return err
	}))
	router.Handle("wait", rpcx.Func(func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}))
	router.Handle("back", rpcx.Func(func(ctx context.Context, s *rpcx.Session) error {
		return s.Call(ctx, "poke", nil, nil)
	}))
	return router
}

// dial starts clients that call the hostile servers at addr until finish.
func (t *target) dial(attack, addr string) error {
	a := findAttack(attack)
	if a == nil {
		return fmt.Errorf("no attack %q", attack)
	}
	dial := a.dial
	if dial == nil {
		dial = rpcx.Dial
	}
	options := t.options(nil)
	for range a.count {
		// Owner: the target. End: finish.
		t.dialing.Go(func() {
			for sleep(t.ctx, 20*time.Millisecond) == nil {
				if s, err := dial(t.ctx, addr, &options); err == nil {
					t.call(s)
				} else {
					t.inspect(err)
				}
			}
		})
	}
	return nil
}

// call sends calls until the session or the attack ends.
func (t *target) call(s *rpcx.Session) {
	for t.ctx.Err() == nil && s.Err() == nil {
		t.inspect(s.Call(t.ctx, "echo", rpcx.Args{"hello"}, nil))
	}
	s.Close()
	<-s.Done()
	t.inspect(s.Err())
}

// maxErrorText is the maximum length of an error text, in bytes.
const maxErrorText = 4 << 10

// inspect checks the text of an error: a program would print or log the text.
func (t *target) inspect(err error) {
	if err == nil {
		return
	}
	text, fault := err.Error(), ""
	switch {
	case len(text) > maxErrorText:
		fault = fmt.Sprintf("the text of an error has %d bytes: %.100q", len(text), text)
	case hasControl(text):
		fault = fmt.Sprintf("the text of an error has control characters: %.100q", text)
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.faults) < 3 {
		t.faults = append(t.faults, fault)
	}
}
