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
		ReplyReceived: func(s *rpcx.Session, method string, err error, d time.Duration) {
			s.Stats()
			e.add("reply to %s after %v: %v", method, d, err)
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
			[]string{`sent slow "0"`, "reply to slow after 3s: <nil>"},
			[]string{`received slow "0"`, `answered slow "0" after 3s: <nil>`})
		step("a call that fails", func() { a.Call(t.Context(), "nope", nil, nil) },
			[]string{`sent nope "1"`, `reply to nope after 0s: unknown method "nope" (code -32601)`},
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
			[]string{`sent slow "3"`, "reply to slow after 1s: context deadline exceeded"},
			[]string{`received slow "3"`, `answered slow "3" after 3s: <nil>`})
		step("a batch", func() {
			var batch rpcx.Batch
			batch.Call("nope", nil, nil)
			batch.Notify("nope", nil)
			a.SendBatch(t.Context(), &batch)
		},
			[]string{`sent nope "4"`, `sent nope ""`, `reply to nope after 0s: unknown method "nope" (code -32601)`},
			[]string{`received nope "4"`, `answered nope "4" after 0s: unknown method "nope" (code -32601)`,
				`received nope ""`, `answered nope "" after 0s: unknown method "nope" (code -32601)`})
		step("the end", func() { a.Close(); <-a.Done(); <-b.Done(); a.Go(t.Context(), "slow", nil) },
			[]string{"closed: " + rpcx.ErrClosed.Error()}, []string{"closed: " + io.EOF.Error()})
	})
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
			{`{"jsonrpc":"2.0","method":"panic"}`, []string{"ERROR handler panicked"}, "stack", "observe_test.go"},
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
