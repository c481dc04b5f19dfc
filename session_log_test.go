package rpcx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

func TestStatsCountWhatGoesOverTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, handling(methods{"reply": reply}))
		if diff := cmp.Diff(rpcx.Stats{Concurrency: 20, Outgoing: 50}, s.Stats()); diff != "" {
			t.Errorf("at the beginning (-want +got):\n%s", diff)
		}
		want := rpcx.Stats{Concurrency: 20, Outgoing: 50}
		for _, step := range []struct {
			name    string
			line    string
			counted func()
		}{
			{"a request", `{"jsonrpc":"2.0","method":"reply","id":1}`, func() { want.RequestsReceived++ }},
			{"a notification", `{"jsonrpc":"2.0","method":"reply"}`, func() { want.RequestsReceived++ }},
			{"a request that fails", `{"jsonrpc":"2.0","method":"nope","id":1}`, func() { want.RequestsReceived++; want.Errors++ }},
			{"a notification that fails", `{"jsonrpc":"2.0","method":"nope"}`, func() { want.RequestsReceived++; want.Errors++ }},
			{"what is no JSON", `rubbish`, func() { want.Errors++ }},
			{"an invalid request", `{}`, func() { want.Errors++ }},
			{"a reply to nothing", `{"jsonrpc":"2.0","result":1,"id":0}`, func() { want.UnexpectedReplies++; want.Errors++ }},
			{"a batch with each of these", `[{"jsonrpc":"2.0","method":"reply","id":1},{"jsonrpc":"2.0","method":"reply"},{"jsonrpc":"2.0","method":"nope","id":1},{}]`,
				func() { want.RequestsReceived += 3; want.Errors += 2 }},
			{"a batch of what is invalid", `[1,2]`, func() { want.Errors++ }},
			{"an empty batch", `[]`, func() { want.Errors++ }},
		} {
			w.say(step.line)
			step.counted()
			want.MessagesReceived++
			want.BytesReceived += uint64(len(step.line) + 1)
			for _, line := range w.heard() {
				want.MessagesSent++
				want.BytesSent += uint64(len(line) + 1)
			}
			if diff := cmp.Diff(want, s.Stats()); diff != "" {
				t.Fatalf("after %s (-want +got):\n%s", step.name, diff)
			}
		}

		f := s.Go(t.Context(), "m", nil)
		s.Notify(t.Context(), "m", nil)
		w.heard()
		if stats := s.Stats(); stats.Pending != 1 || stats.MessagesSent != want.MessagesSent+2 {
			t.Errorf("after a call and a notification: %+v", stats)
		}
		w.say(`{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":0}`)
		w.expectNothing()
		if stats := s.Stats(); !isDone(f) || stats.Pending != 0 || stats.Errors != want.Errors {
			t.Errorf("after a reply: %+v", stats)
		}
	})
}

func TestStatsTellWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits.Concurrency = 2
		s, w := newDeafWire(t, opts)
		const request = `{"jsonrpc":"2.0","method":"m","id":1}`
		for range 5 {
			w.say(request)
		}
		synctest.Wait()
		if stats := s.Stats(); stats.Running != 2 || stats.Queued != 3 || stats.QueuedBytes != 3*len(request) {
			t.Errorf("with 5 requests for 2 handlers: %+v", stats)
		}
		close(open)
		synctest.Wait()
		const answers = 5 * len(`{"jsonrpc":"2.0","result":"through","id":1}`+"\n")
		if stats := s.Stats(); stats.Running != 0 || stats.Queued != 0 || stats.QueuedBytes != 0 || stats.OutboxBytes != answers {
			t.Errorf("with %d bytes that nobody reads: %+v", answers, stats)
		}
		w.listen()
		w.heard()
		if stats := s.Stats(); stats.OutboxBytes != 0 || stats.BytesSent != uint64(answers) {
			t.Errorf("after all was read: %+v", stats)
		}
	})
}

// events records what is told, in order.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

// take returns what was recorded since the last time, once nothing moves.
func (e *events) take() []string {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.list
	e.list = nil
	return list
}

// trace returns hooks that record. Each of them also asks the session something.
func (e *events) trace() *rpcx.Trace {
	return &rpcx.Trace{
		Connected: func(s *rpcx.Session) { s.Stats(); e.add("connected") },
		RequestSent: func(s *rpcx.Session, method string, id rpcx.ID) {
			s.Stats()
			e.add("sent %s %q", method, id)
		},
		ReplyReceived: func(s *rpcx.Session, method string, id rpcx.ID, err error, d time.Duration) {
			s.Stats()
			e.add("reply to %s %q after %v: %v", method, id, d, err)
		},
		RequestReceived: func(req *rpcx.Request) {
			req.Session().Stats()
			e.add("received %s %q", req.Method, req.ID)
		},
		ReplySent: func(req *rpcx.Request, err error, d time.Duration) {
			req.Session().Stats()
			e.add("answered %s %q after %v: %v", req.Method, req.ID, d, err)
		},
		Closed: func(s *rpcx.Session, err error) { s.Stats(); e.add("closed: %v", err) },
	}
}

func TestTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ours, theirs events
		slow := func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(3 * time.Second)
			return reply(ctx, req)
		}
		opts := &rpcx.Options{Trace: theirs.trace(), Handler: methods{"slow": slow}}
		opts.Limits.Concurrency = 1 // one after the other
		a, b := newPipe(t, &rpcx.Options{Trace: ours.trace()}, opts)
		step := func(name string, do func(), our, their []string) {
			t.Helper()
			do()
			got := ours.take()
			slices.Sort(got) // a quick reply may be told of before its request
			slices.Sort(our)
			if diff := cmp.Diff(our, got); diff != "" {
				t.Errorf("%s: the caller (-want +got):\n%s", name, diff)
			}
			if diff := cmp.Diff(their, theirs.take()); diff != "" {
				t.Errorf("%s: the callee (-want +got):\n%s", name, diff)
			}
		}
		step("the beginning", func() {}, []string{"connected"}, []string{"connected"})
		step("a call", func() { a.Call(t.Context(), "slow", nil, nil) },
			[]string{`sent slow "0"`, `reply to slow "0" after 3s: <nil>`},
			[]string{`received slow "0"`, `answered slow "0" after 3s: <nil>`})
		step("a call that fails", func() { a.Call(t.Context(), "nope", nil, nil) },
			[]string{`sent nope "1"`, `reply to nope "1" after 0s: unknown method "nope" (code -32601)`},
			[]string{`received nope "1"`, `answered nope "1" after 0s: unknown method "nope" (code -32601)`})
		step("a notification", func() { a.Notify(t.Context(), "slow", nil); time.Sleep(time.Minute) },
			[]string{`sent slow ""`},
			[]string{`received slow ""`, `answered slow "" after 3s: <nil>`})
		step("a call that cannot be sent", func() { a.Go(t.Context(), "slow", 1) }, nil, nil)
		step("a call that is given up", func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			a.Call(ctx, "slow", nil, nil)
			time.Sleep(time.Minute)
		},
			[]string{`sent slow "3"`, `reply to slow "3" after 1s: context deadline exceeded`},
			[]string{`received slow "3"`, `answered slow "3" after 3s: <nil>`})
		step("a batch", func() {
			var batch rpcx.Batch
			batch.Call("nope", nil, nil)
			batch.Notify("nope", nil)
			a.SendBatch(t.Context(), &batch)
		},
			[]string{`sent nope "4"`, `sent nope ""`, `reply to nope "4" after 0s: unknown method "nope" (code -32601)`},
			[]string{`received nope "4"`, `answered nope "4" after 0s: unknown method "nope" (code -32601)`,
				`received nope ""`, `answered nope "" after 0s: unknown method "nope" (code -32601)`})
		step("the end", func() { a.Close(); <-a.Done(); <-b.Done(); a.Go(t.Context(), "slow", nil) },
			[]string{"closed: " + rpcx.ErrClosed.Error()}, []string{"closed: " + io.EOF.Error()})
	})
}

// A session of any connection calls Connected once.
func TestConnectedIsCalledOnceForEachSession(t *testing.T) {
	for name, start := range map[string]func(opts *rpcx.Options) *rpcx.Session{
		"NewSession": func(opts *rpcx.Options) *rpcx.Session {
			near, _ := net.Pipe()
			return rpcx.NewSession(near, opts)
		},
		"NewMessageSession": func(opts *rpcx.Options) *rpcx.Session {
			near, _ := newSockets()
			return rpcx.NewMessageSession(near, opts)
		},
		"DialMessageSession": func(opts *rpcx.Options) *rpcx.Session {
			s, err := rpcx.DialMessageSession(func() (rpcx.MessageConn, error) {
				near, _ := newSockets()
				return near, nil
			}, opts)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var connected []*rpcx.Session
			s := start(&rpcx.Options{Trace: &rpcx.Trace{Connected: func(s *rpcx.Session) { connected = append(connected, s) }}})
			defer s.Close()
			if len(connected) != 1 || connected[0] != s {
				t.Errorf("%s: Connected was called with %v", name, connected)
			}
		})
	}
}

func TestConnectedMayCallThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := func(got *int) *rpcx.Options {
			return &rpcx.Options{Handler: methods{"reply": reply}, Trace: &rpcx.Trace{Connected: func(s *rpcx.Session) {
				*got, _ = rpcx.Call[int](t.Context(), s, "reply", rpcx.Args{1})
			}}}
		}
		var first, second int
		takes(t, 0, func() {
			newPipe(t, opts(&first), opts(&second))
			synctest.Wait()
		})
		if first != 1 || second != 1 {
			t.Errorf("the calls gave %d and %d", first, second)
		}
	})
}

// records keeps what is logged.
type records struct {
	events
	attrs []slog.Attr
	then  func() // is called for each record, if it is set
}

func (*records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &recordsWith{r, attrs}
}
func (r *records) WithGroup(string) slog.Handler { panic("not used here") }
func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.add("%v %s", rec.Level, rec.Message)
	r.mu.Lock()
	rec.Attrs(func(a slog.Attr) bool { r.attrs = append(r.attrs, a); return true })
	r.mu.Unlock()
	if r.then != nil {
		r.then()
	}
	return nil
}

// recordsWith are records with attributes that were there before.
type recordsWith struct {
	*records
	before []slog.Attr
}

func (r *recordsWith) Handle(ctx context.Context, rec slog.Record) error {
	rec.AddAttrs(r.before...)
	return r.records.Handle(ctx, rec)
}

// attr returns the values of all attributes with this key.
func (r *records) attr(key string) (values []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.attrs {
		if a.Key == key {
			values = append(values, a.Value.String())
		}
	}
	return values
}

func TestLoggerIsToldOfWhatNobodyElseIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		opts := handling(methods{
			"fail":  func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("the disk is full") },
			"panic": func(context.Context, *rpcx.Request) (any, error) { panic("the roof is on fire") },
			"chan":  func(context.Context, *rpcx.Request) (any, error) { return make(chan int), nil },
			"late":  func(context.Context, *rpcx.Request) (any, error) { return nil, context.DeadlineExceeded }, // another's
			"error": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.Errorf(1, "as intended") },
			"fine":  reply,
		})
		opts.Logger = slog.New(log)
		_, w := newWire(t, opts)
		for _, c := range []struct {
			line      string
			want      []string
			key, attr string
		}{
			{`{"jsonrpc":"2.0","method":"fine","id":1}`, nil, "", ""},
			{`{"jsonrpc":"2.0","method":"error","id":1}`, nil, "", ""},
			{`{"jsonrpc":"2.0","method":"fail","id":1}`, []string{"ERROR handler failed"}, "error", "the disk is full"},
			{`{"jsonrpc":"2.0","method":"late","id":1}`, []string{"ERROR handler failed"}, "error", "deadline exceeded"},
			{`{"jsonrpc":"2.0","method":"fail"}`, []string{"ERROR handler failed"}, "method", "fail"},
			{`{"jsonrpc":"2.0","method":"fail"}`, []string{"ERROR handler failed"}, "peer", "pipe"},
			{`{"jsonrpc":"2.0","method":"error"}`, []string{"INFO notification failed"}, "error", "as intended"},
			{`{"jsonrpc":"2.0","method":"error"}`, []string{"INFO notification failed"}, "method", "error"},
			{`{"jsonrpc":"2.0","method":"none"}`, []string{"INFO notification failed"}, "error", "unknown method"},
			{`{"jsonrpc":"2.0","method":"panic","id":1}`, []string{"ERROR handler panicked"}, "panic", "the roof is on fire"},
			{`{"jsonrpc":"2.0","method":"panic"}`, []string{"ERROR handler panicked"}, "stack", "session_log_test.go"},
			{`{"jsonrpc":"2.0","method":"chan","id":1}`, []string{"ERROR result cannot be encoded"}, "method", "chan"},
			{`evil`, []string{"WARN bad message"}, "error", "invalid JSON"},
			{`evil`, []string{"WARN bad message"}, "peer", "pipe"},
			{`{"jsonrpc":"2.0","method":"m","id":[" level=ERROR msg=evil "]}`, []string{"WARN bad message"}, "error", "evil"},
			{`{"jsonrpc":"2.0","result":1,"id":"evil"}`, []string{"WARN bad message"}, "error", "evil"},
			{`{"jsonrpc":"2.0","error":{"code":1,"message":"evil"},"id":null}`, []string{"WARN bad message"}, "error", "evil"},
		} {
			log.attrs = nil
			w.say(c.line)
			got := log.take()
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.line, diff)
			}
			if strings.Contains(strings.Join(got, ""), "evil") {
				t.Errorf("%s: the peer's text is in the message: %q", c.line, got)
			}
			values := log.attr(c.key)
			if !slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, c.attr) }) && c.key != "" {
				t.Errorf("%s: the values of %q are %q, want one with %q", c.line, c.key, values, c.attr)
			}
			w.heard()
		}
	})
}

// An address is an object with three members to whoever writes JSON.
func TestPeerIsLoggedAsText(t *testing.T) {
	var out bytes.Buffer
	addr := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.7:1000"))
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		opts := &rpcx.Options{Logger: slog.New(slog.NewJSONHandler(&out, nil))}
		s := rpcx.NewSession(addressed{near, addr}, opts)
		far.Write([]byte("evil\n"))
		synctest.Wait()
		far.Close()
		<-s.Done()
	})
	if want := `"peer":"192.0.2.7:1000"`; !strings.Contains(out.String(), want) {
		t.Errorf("logged is %s, want %s in it", out.String(), want)
	}
}

// addressed is a connection with a remote address.
type addressed struct {
	net.Conn
	addr net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.addr }

// Handlers that end because their context has ended did what they should, and
// clients come and go.
func TestHandlersThatHeedTheirContextAreNoErrors(t *testing.T) {
	late := func(ctx context.Context, _ *rpcx.Request) (any, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("look it up: %w", context.Cause(ctx))
	}
	for name, end := range map[string]func(s *rpcx.Session, w *wire){
		"the peer hangs up":        func(_ *rpcx.Session, w *wire) { w.Close() },
		"the session is closed":    func(s *rpcx.Session, _ *wire) { s.Close() },
		"Limits.ProcessingTimeout": func(*rpcx.Session, *wire) { time.Sleep(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				opts := handling(methods{"hang": hang, "late": late})
				opts.Logger = slog.New(log)
				s, w := newWire(t, opts)
				w.say(ask("hang", 1), ask("late", 2))
				synctest.Wait()
				end(s, w)
				synctest.Wait()
				got := log.take()
				if failed := func(r string) bool { return strings.HasPrefix(r, "ERROR") }; slices.ContainsFunc(got, failed) {
					t.Errorf("%q was logged", got)
				}
				if n := strings.Count(fmt.Sprint(got), "DEBUG handler failed"); n != 2 {
					t.Errorf("%q was logged, which tells of %d handlers", got, n)
				}
			})
		})
	}
}

// A request that is refused is no bad message.
func TestLoggerTellsRefusalsFromBadMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		opts := handling(methods{"hang": hang})
		opts.Logger = slog.New(log)
		opts.Limits = rpcx.Limits{Concurrency: 1, Queue: 1, ProcessingTimeout: 10 * time.Second}
		_, w := newWire(t, opts)
		w.say(ask("hang", 1), ask("hang", 2), ask("hang", 3))
		time.Sleep(time.Second) // after 5 s, when reading goes on
		want := []string{"INFO reading paused: requests arrive faster than they are handled",
			"WARN reading goes on though the queue is full: no handler has returned", "WARN request refused"}
		if got := log.take(); !slices.Equal(got, want) {
			t.Errorf("for a full queue, %q was logged", got)
		}
		time.Sleep(5 * time.Second)
		if got := log.take(); !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, "WARN request timed out") }) || slices.Contains(got, "WARN bad message") {
			t.Errorf("for requests that took too long, %q was logged", got)
		}
	})
}

func TestLoggerIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		block := make(chan struct{})
		log.then = func() { <-block }
		s, w := newWire(t, &rpcx.Options{Logger: slog.New(log)})
		for range 1000 {
			w.say("rubbish") // while the logger is stuck
		}
		if n := len(w.heard()); n != 1000 {
			t.Errorf("%d messages were answered while the logger was stuck", n)
		}
		close(block)
		// 64 that were being logged, 64 that waited, and after each lot what was left out
		if n := len(log.take()); n == 0 || n > 130 {
			t.Errorf("%d messages were kept for the logger", n)
		}
		live(t, s)
	})
}

func TestAllIsLoggedBeforeASessionIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{then: func() { time.Sleep(time.Second) }}
		s, w := newWire(t, &rpcx.Options{Logger: slog.New(log)})
		w.say("rubbish", "rubbish")
		w.Close()
		takes(t, 2*time.Second, func() { <-s.Done() })
		if got := log.take(); !slices.Equal(got, []string{"WARN bad message", "WARN bad message"}) {
			t.Errorf("logged was %q", got)
		}
	})
}

// A notification that is dropped is lost, and nobody but the log tells which.
func TestLoggerTellsWhatIsNotHandled(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"text/didChange"}`
	for name, c := range map[string]struct {
		opts rpcx.Options
		then string // is said while a handler runs and another message waits
		want string
		key  string
		attr string
	}{
		"a notification":           {then: note, want: "WARN notification dropped", key: "method", attr: "text/didChange"},
		"a request":                {then: ask("text/hover", 3), want: "WARN request refused", key: "method", attr: "text/hover"},
		"a batch":                  {then: "[" + note + "," + note + "]", want: "WARN request refused", key: "members", attr: "2"},
		"a notification that runs": {want: "WARN notification timed out", key: "method", attr: "hang"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				c.opts.Handler = methods{"hang": hang}
				c.opts.Logger = slog.New(log)
				c.opts.Limits = rpcx.Limits{Concurrency: 1, Queue: 1, ProcessingTimeout: 10 * time.Second}
				_, w := newWire(t, &c.opts)
				w.say(`{"jsonrpc":"2.0","method":"hang"}`)
				if c.then != "" {
					w.say(ask("hang", 2), c.then)
				}
				if c.then == "" {
					time.Sleep(11 * time.Second)
				}
				time.Sleep(time.Second) // after 5 s, when reading goes on
				synctest.Wait()
				if got := log.take(); !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, c.want) }) {
					t.Errorf("%q was logged, want %q", got, c.want)
				}
				if got := log.attr(c.key); !slices.Contains(got, c.attr) {
					t.Errorf("%s is %q, want %q", c.key, got, c.attr)
				}
			})
		})
	}
}

// A program that prints something else than messages is found by what it has printed.
func TestLoggerShowsWhatIsNoJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		_, w := newWire(t, &rpcx.Options{Logger: slog.New(log)})
		w.say("Starting server on port 80", strings.Repeat("x", 1000), `{"jsonrpc":"2.0"}`)
		synctest.Wait()
		want := []string{"Starting server on port 80", strings.Repeat("x", 64) + "... (1000 bytes)"}
		if got := log.attr("begin"); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestLoggerTellsHowMuchItLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		block := make(chan struct{})
		log.then = func() { <-block }
		_, w := newWire(t, &rpcx.Options{Logger: slog.New(log), Limits: rpcx.Limits{CostOff: true}})
		for range 100 {
			w.say("rubbish") // while the logger is stuck
		}
		synctest.Wait()
		close(block)
		synctest.Wait()
		logged := len(log.take()) - 1
		if got := log.attr("records left out"); !slices.Equal(got, []string{fmt.Sprint(100 - logged)}) {
			t.Errorf("%d of 100 were logged, and %q left out", logged, got)
		}
	})
}

// What has been logged takes up no room for what comes.
func TestLoggerThatIsAlwaysTooSlowShowsSomeOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		log.then = func() { time.Sleep(time.Second) }
		s, w := newWire(t, &rpcx.Options{Logger: slog.New(log), Limits: rpcx.Limits{CostOff: true}})
		for range 5000 {
			w.say(strings.Repeat("rubbish", 30)) // as many bytes as are logged of it
			time.Sleep(100 * time.Millisecond)
		}
		w.Close()
		<-s.Done()
		bad, left := 0, 0
		for _, got := range log.take() {
			if got == "WARN bad message" {
				bad++
			}
		}
		for _, got := range log.attr("records left out") {
			n, err := strconv.Atoi(got)
			if err != nil {
				t.Error(err)
			}
			left += n
		}
		if bad < 400 || bad+left != 5000 {
			t.Errorf("%d of 5000 were shown, and %d left out", bad, left)
		}
	})
}

// logBurst is what a session logs of its peer's doing before the bytes received count,
// twice: for errors and for the others.
const logBurst = 2 * 16 << 10

// failingMethods are handlers that fail in each way.
func failingMethods() methods {
	return methods{
		"refuse": func(context.Context, *rpcx.Request) (any, error) { return nil, rpcx.Errorf(1, "no") },
		"repeat": func(_ context.Context, req *rpcx.Request) (any, error) {
			return nil, rpcx.Errorf(1, "there is no %s", req.Params.Positional)
		},
		"fail": func(context.Context, *rpcx.Request) (any, error) { return nil, errors.New("the disk is full") },
		"fail on it": func(_ context.Context, req *rpcx.Request) (any, error) {
			return nil, fmt.Errorf("no file %s: %w", req.Params.Positional, io.EOF)
		},
		"panic":      func(context.Context, *rpcx.Request) (any, error) { panic("the roof is on fire") },
		"panic deep": func(context.Context, *rpcx.Request) (any, error) { return nil, deep(1000) },
		"panic over it": func(_ context.Context, req *rpcx.Request) (any, error) {
			panic("not " + string(req.Params.Positional))
		},
		"chan": func(context.Context, *rpcx.Request) (any, error) { return make(chan int), nil },
		"hang": hang,
	}
}

// deep panics in a deep stack.
func deep(depth int) error {
	if depth == 0 {
		panic("deep down")
	}
	if err := deep(depth - 1); err != nil {
		return fmt.Errorf("%d: %w", depth, err)
	}
	return nil
}

// A peer can make a session log no more than two bytes for each byte that it sends, but
// for the first 32 KiB, whatever it sends and even if that costs it nothing.
func TestLogIsBoundedByWhatIsReceived(t *testing.T) {
	long := strings.Repeat("x", 900_000)
	note := func(method string) string { return `{"method":"` + method + `"}` }
	for name, c := range map[string]struct {
		say   string
		times int
	}{
		"a long method":                  {note(long), 3},
		"methods":                        {note("m"), 1000},
		"methods that have to be quoted": {note(strings.Repeat(`\u0001\u202e\"`, 20)), 1000},
		"a method without UTF-8":         {note(strings.Repeat(`\ud800`, 64)), 1000},
		"errors of the application":      {note("refuse"), 1000},
		"errors that repeat a text":      {`{"method":"repeat","params":["` + long + `"]}`, 3},
		"errors that are short":          {`{"method":"repeat","params":[0]}`, 1000},
		"handlers that fail":             {note("fail"), 1000},
		"handlers that fail on a text":   {`{"method":"fail on it","params":["` + long + `"]}`, 3},
		"handlers that panic":            {note("panic"), 1000},
		"handlers that panic deep down":  {note("panic deep"), 100},
		"handlers that panic over it":    {`{"method":"panic over it","params":["` + long + `"]}`, 3},
		"results of no encoding":         {`{"method":"chan","id":1}`, 1000},
		"no JSON":                        {"x", 1000},
		"a long text that is no JSON":    {long, 3},
		"control characters":             {strings.Repeat("\x01", 64), 1000},
		"zeros":                          {"0", 1000},
		"batches of zeros":               {membersOf(16, "0"), 300},
		"replies to nothing":             {`{"id":-1,"result":0}`, 1000},
		"a reply to a long nothing":      {`{"id":"` + long + `","result":0}`, 3},
		"batches of replies to nothing":  {membersOf(1000, `{"id":-1,"result":0}`), 10},
		"errors under no id":             {`{"id":null,"error":{"code":1,"message":"` + strings.Repeat("\x7f", 900_000) + `"}}`, 3},
		"an id that is none":             {`{"id":{"a":"` + long + `"},"method":"m"}`, 3},
		"params that are none":           {`{"id":1,"method":"m","params":"` + long + `"}`, 3},
	} {
		for format, handler := range map[string]func(io.Writer) slog.Handler{
			"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
			"JSON": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
		} {
			t.Run(name+"/"+format, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var out bytes.Buffer
					opts := handling(failingMethods())
					opts.Logger = slog.New(handler(&out))
					opts.Protocol = rpcx.JSONRPCLoose
					opts.Limits.CostOff = true
					s, w := newWire(t, opts)
					for range c.times {
						w.say(c.say)
						w.heard() // let it be logged
					}
					received := s.Stats().BytesReceived
					w.Close()
					<-s.Done()
					logged := uint64(out.Len())
					t.Logf("%d bytes were logged for %d", logged, received)
					if logged > logBurst+2*received {
						t.Errorf("%d bytes were logged for %d", logged, received)
					}
					lines := strings.SplitAfter(out.String(), "\n")
					for _, line := range lines {
						if len(line) > 10_000 {
							t.Fatalf("a record of %d bytes was logged: %.500s", len(line), line)
						}
					}
					if len(lines) < 3 {
						t.Errorf("only %q was logged", lines)
					}
				})
			})
		}
	}
}

// What a peer calls a method is shown in no record in full.
func TestLoggerShowsExcerptsOfMethods(t *testing.T) {
	long := strings.Repeat("é", 4000)
	want := strings.Repeat("é", 32) + "... (8000 bytes)"
	for name, c := range map[string]struct {
		handler rpcx.HandlerFunc
		say     []string
		want    string
	}{
		"a notification that fails": {
			func(_ context.Context, req *rpcx.Request) (any, error) { return nil, rpcx.MethodNotFound(req.Method) },
			[]string{`{"jsonrpc":"2.0","method":"` + long + `"}`}, "INFO notification failed",
		},
		"a handler that fails": {
			func(context.Context, *rpcx.Request) (any, error) { return nil, io.EOF },
			[]string{ask(long, 1)}, "ERROR handler failed",
		},
		"a handler that panics": {
			func(context.Context, *rpcx.Request) (any, error) { panic("now") },
			[]string{ask(long, 1)}, "ERROR handler panicked",
		},
		"a result that cannot be encoded": {
			func(context.Context, *rpcx.Request) (any, error) { return make(chan int), nil },
			[]string{ask(long, 1)}, "ERROR result cannot be encoded",
		},
		"a request that is refused": {hang, []string{ask("m", 1), ask("m", 2), ask(long, 3)}, "WARN request refused"},
		"a notification that is dropped": {
			hang, []string{ask("m", 1), ask("m", 2), `{"jsonrpc":"2.0","method":"` + long + `"}`}, "WARN notification dropped",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				opts := handling(c.handler)
				opts.Logger = slog.New(log)
				opts.Limits.Concurrency, opts.Limits.Queue = 1, 1
				_, w := newWire(t, opts)
				w.say(c.say...)
				if got := log.take(); !slices.Contains(got, c.want) {
					t.Errorf("%q was logged, want %q", got, c.want)
				}
				if got := log.attr("method"); !slices.Equal(got, []string{want}) {
					t.Errorf("the method is %q, want %q", got, want)
				}
				for _, text := range log.attr("error") {
					if len(text) > 600 {
						t.Errorf("the error has %d bytes", len(text))
					}
				}
			})
		})
	}
}

// Notifications that fail do not wait for a log that is stuck, and it keeps no more of
// them than of other records.
func TestNotificationsThatFailDoNotWaitForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		stuck := make(chan struct{})
		log.then = func() { <-stuck }
		opts := handling(failingMethods())
		opts.Logger = slog.New(log)
		opts.Limits.CostOff = true
		s, w := newWire(t, opts)
		for range 1000 {
			w.say(`{"jsonrpc":"2.0","method":"refuse"}`)
			synctest.Wait()
		}
		if stats := s.Stats(); stats.Running != 0 || stats.RequestsReceived != 1000 {
			t.Errorf("stats are %+v", stats)
		}
		close(stuck)
		if n := len(log.take()); n == 0 || n > 130 {
			t.Errorf("%d records were kept for the logger", n)
		}
	})
}

// All that was not logged is counted, at the latest at the end.
func TestLoggerTellsAtTheEndHowMuchItLeftOut(t *testing.T) {
	for name, n := range map[string]int{"little": 10, "more than there is room for": 200, "much": 5000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				opts := handling(failingMethods())
				opts.Logger = slog.New(log)
				opts.Limits.CostOff = true
				s, w := newWire(t, opts)
				for range n {
					w.say(`{"jsonrpc":"2.0","method":"refuse"}`)
					synctest.Wait()
				}
				w.Close()
				<-s.Done()
				shown := 0
				for _, record := range log.take() {
					if record == "INFO notification failed" {
						shown++
					}
				}
				left := 0
				for _, value := range log.attr("records left out") {
					var n int
					if _, err := fmt.Sscan(value, &n); err != nil {
						t.Error(err)
					}
					left += n
				}
				if shown+left != n || shown == 0 || n > 1000 && shown > n/2 {
					t.Errorf("%d of %d were shown, and %d left out", shown, n, left)
				}
			})
		})
	}
}

// Messages that a peer makes up do not keep a handler's panic out of the log.
func TestLoggerShowsAPanicBehindBadMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		opts := handling(failingMethods())
		opts.Logger = slog.New(log)
		opts.Limits.CostOff = true
		_, w := newWire(t, opts)
		for range 500 {
			w.say("x", `{"jsonrpc":"2.0","method":"refuse"}`)
			synctest.Wait()
		}
		log.take()
		w.say(`{"jsonrpc":"2.0","method":"panic","id":1}`)
		if got := log.take(); !slices.Contains(got, "ERROR handler panicked") {
			t.Errorf("%q was logged", got)
		}
	})
}

// An error of a handler is itself in the log, but for a text of any length.
func TestLoggerGetsTheErrorOfAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []error
		log := &records{}
		opts := handling(failingMethods())
		opts.Logger = slog.New(&errorsOf{records: log, keep: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, err)
		}})
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"fail on it","params":["a"],"id":1}`)
		synctest.Wait()
		w.say(`{"jsonrpc":"2.0","method":"fail on it","params":["` + strings.Repeat("a", 10_000) + `"],"id":1}`)
		w.heard()
		mu.Lock()
		defer mu.Unlock()
		if len(got) != 2 {
			t.Fatalf("got %v", got)
		}
		for _, err := range got {
			matches(t, err, io.EOF)
		}
		if text := got[0].Error(); text != `no file ["a"]: EOF` {
			t.Errorf("got %q", text)
		}
		if text := got[1].Error(); !strings.HasPrefix(text, `no file ["aaaa`) || !strings.HasSuffix(text, "... (10017 bytes)") {
			t.Errorf("got %q", text)
		}
	})
}

// errorsOf keeps the errors in records.
type errorsOf struct {
	*records
	keep func(error)
}

func (e *errorsOf) WithAttrs([]slog.Attr) slog.Handler { return e }
func (e *errorsOf) Handle(_ context.Context, rec slog.Record) error {
	rec.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			e.keep(err)
		}
		return true
	})
	return nil
}

// serverLogBurst is what a server logs of its sessions before the bytes received count: for
// errors, for what else peers cause, and for what ends sessions.
const serverLogBurst = 3 * 256 << 10

// visit has a session of its own say something, and end.
func visit(srv *rpcx.Server, text string) (said int) {
	near, far := net.Pipe()
	srv.ServeConn(near)
	// Owner: the caller. End: the connection is closed.
	go io.Copy(io.Discard, far)
	said, _ = io.WriteString(far, text) // fails if the session ends meanwhile
	far.Close()
	synctest.Wait()
	return said
}

// Many short sessions make a server log no more than two bytes for each byte received, but
// for what it has for all.
func TestServerLogIsBoundedByWhatIsReceived(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"refuse"}` + "\n"
	for name, c := range map[string]struct {
		text     string
		sessions int
	}{
		"two bytes":              {"x\n", 5000},
		"garbage":                {strings.Repeat("x\n", 200), 500},
		"zeros":                  {strings.Repeat("0\n", 200), 500},
		"notifications":          {strings.Repeat(note, 50), 500},
		"one notification":       {note, 5000},
		"handlers that fail":     {strings.Replace(note, "refuse", "fail", 1), 5000},
		"too much that is wrong": {strings.Repeat("x", 20_000) + "\n" + strings.Repeat("x\n", 100), 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				srv := &rpcx.Server{Options: *handling(failingMethods())}
				srv.Options.Logger = slog.New(slog.NewTextHandler(&out, nil))
				received := 0
				for range c.sessions {
					received += visit(srv, c.text)
				}
				srv.Close()
				srv.Wait(context.Background())
				t.Logf("%d bytes were logged for %d, and %d records left out", out.Len(), received, srv.Stats().LogRecordsLeftOut)
				if out.Len() > serverLogBurst+2*received {
					t.Errorf("%d bytes were logged for %d", out.Len(), received)
				}
				if srv.Stats().LogRecordsLeftOut == 0 {
					t.Error("no records were left out")
				}
			})
		})
	}
}

// What peers send hides no error of a handler, and no reason for which a session ends.
func TestServerLogShowsErrorsBesideBadMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: *handling(failingMethods())}
		srv.Options.Logger = slog.New(log)
		srv.Options.Limits.IdleTimeout = time.Second
		for range 3000 {
			visit(srv, "x\n")
		}
		left := srv.Stats().LogRecordsLeftOut
		if n := uint64(len(log.take())); left == 0 || n+left != 3000 {
			t.Errorf("of 3000 records %d were logged, and %d left out", n, left)
		}
		visit(srv, `{"jsonrpc":"2.0","method":"fail"}`+"\n")
		near, far := net.Pipe()
		srv.ServeConn(near)
		time.Sleep(2 * time.Second)
		if got := strings.Join(log.take(), "; "); got != "ERROR handler failed; INFO session is idle" {
			t.Errorf("logged was %q", got)
		}
		far.Close()
		time.Sleep(time.Minute)
		visit(srv, "x\n")
		if got := strings.Join(log.take(), "; "); got != "WARN too much to log of this server's sessions; WARN bad message" {
			t.Errorf("a minute later %q was logged", got)
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}
