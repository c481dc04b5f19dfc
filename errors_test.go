package rpcx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

func TestNotStarted(t *testing.T) {
	for _, c := range []struct {
		err  *rpcx.Error
		want bool
	}{
		{nil, false},
		{rpcx.ServerBusy("a reason"), false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":false}`)}, true},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":false,"reason":"queue","more":[]}`)}, true},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":true,"reason":"timeout"}`)}, false},
		{&rpcx.Error{Code: -101, Data: json.RawMessage(`{"started":false}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":null}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":"false"}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":0}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"reason":"queue"}`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`[false]`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`false`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`null`)}, false},
		{&rpcx.Error{Code: -102, Data: json.RawMessage(`{"started":false`)}, false},
		{&rpcx.Error{Code: -102, Data: "started: false"}, false},
	} {
		if got := c.err.NotStarted(); got != c.want {
			t.Errorf("for %+v it is %v", c.err, got)
		}
	}
}

// What a caller learns of a request that was refused or took too long.
func TestBusyErrorsSayWhetherTheRequestWasBegun(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		delay  bool
		then   func(s *rpcx.Session) // while one handler runs and another request waits
		// What the errors of the two, and of a third, say.
		want [3]string
	}{
		{"a full queue", rpcx.Limits{Queue: 1, ProcessingTimeout: time.Minute}, false,
			func(*rpcx.Session) { time.Sleep(6 * time.Second) }, [3]string{2: "queue"}},
		{"no time", rpcx.Limits{}, false,
			func(*rpcx.Session) { time.Sleep(31 * time.Second) }, [3]string{"begun", "queue", "queue"}},
		{"delayed until it is too late", rpcx.Limits{CostHard: 10_000, CostDelay: time.Hour, CostDecay: -1}, true,
			func(*rpcx.Session) { time.Sleep(31 * time.Second) }, [3]string{"queue", "queue", "queue"}},
		{"shutting down", rpcx.Limits{}, false,
			func(s *rpcx.Session) { go s.Shutdown(context.Background()); synctest.Wait() }, [3]string{1: "shutting down", 2: "shutting down"}},
	} {
		for name, p := range map[string]rpcx.Protocol{"2.0": rpcx.JSONRPCv2, "loose": rpcx.JSONRPCLoose, "1.0": rpcx.JSONRPCv1} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					limits := c.limits
					limits.Concurrency = 1
					open := make(gate)
					caller, s := newPipe(t, &rpcx.Options{Protocol: p, Limits: rpcx.Limits{RequestTimeout: -1}}, &rpcx.Options{Protocol: p, Handler: open, Limits: limits})
					if c.delay {
						s.BumpCost(6000)
						s.UpdateCost()
					}
					var calls []*rpcx.Future
					for range 3 {
						calls = append(calls, caller.Go(t.Context(), "m", nil))
						synctest.Wait()
					}
					c.then(s)
					synctest.Wait()
					for i, f := range calls {
						got := ""
						if e, ok := errors.AsType[*rpcx.Error](f.Err()); ok {
							var data struct {
								Started bool
								Reason  string
							}
							raw, _ := e.Data.(json.RawMessage)
							_ = json.Unmarshal(raw, &data)
							got = data.Reason
							if data.Started {
								got = "begun"
							}
							if name == "1.0" { // has a code and a message only
								if raw != nil || e.Code != rpcx.CodeServerBusy {
									t.Errorf("call %d: %+v", i, e)
								}
								continue
							}
							if e.NotStarted() != (c.want[i] != "begun") {
								t.Errorf("call %d: NotStarted says %v", i, e.NotStarted())
							}
						}
						if got != c.want[i] {
							t.Errorf("call %d: %q, want %q (%v)", i, got, c.want[i], f.Err())
						}
					}
					close(open)
				})
			})
		}
	}
}

// Limits.RequestTimeout bounds all of a call: the wait for a slot and for room, too.
func TestRequestTimeoutBoundsAllOfACall(t *testing.T) {
	calls := map[string]func(s *rpcx.Session) error{
		"Call": func(s *rpcx.Session) error { return s.Call(context.Background(), "m", nil, nil) },
		"Go": func(s *rpcx.Session) error {
			return s.Go(context.Background(), "m", nil).Wait(context.Background(), nil)
		},
		"SendBatch": func(s *rpcx.Session) error {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			b.Notify("m", nil)
			return s.SendBatch(context.Background(), &b)
		},
		"GoBatch": func(s *rpcx.Session) error {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			b.Call("m", nil, nil)
			return s.GoBatch(context.Background(), &b).Wait(context.Background(), nil)
		},
	}
	for name, limits := range map[string]rpcx.Limits{
		"slots":         {},
		"room":          {Outbox: 1000, SendTimeout: -1, Outgoing: -1},
		"both":          {Outbox: 1000, SendTimeout: -1},
		"another limit": {RequestTimeout: 5 * time.Second},
	} {
		for kind, call := range calls {
			t.Run(name+", "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, w := newDeafWire(t, &rpcx.Options{Limits: limits})
					if limits.Outbox == 0 {
						w.listen()
					}
					want := limits.RequestTimeout
					if want == 0 {
						want = 30 * time.Second
					}
					errs := make(chan error)
					for range 200 {
						go func() { errs <- call(s) }()
					}
					takes(t, want, func() {
						for range 200 {
							matches(t, <-errs, rpcx.ErrTimeout, context.DeadlineExceeded)
						}
					})
					if stats := s.Stats(); stats.Pending != 0 {
						t.Errorf("stats are %+v", stats)
					}
				})
			})
		}
	}
}

// What was cancelled, or has waited too long, takes no place in the queue.
func TestQueueHoldsOnlyWhatIsToBeHandled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Cancellation = rpcx.LSPCancellation
		opts.Limits.Concurrency = 1
		s, w := newWire(t, opts)
		cancel := func(id int) string {
			return fmt.Sprintf(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}`, id)
		}
		const cancelled = `{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":`
		queued := func(n int) {
			t.Helper()
			synctest.Wait()
			if stats := s.Stats(); stats.Queued != n || (n == 0) != (stats.QueuedBytes == 0) {
				t.Errorf("%d requests of %d bytes wait, want %d", stats.Queued, stats.QueuedBytes, n)
			}
		}
		w.say(ask("m", 0)) // runs
		w.say(ask("m", 1), ask("m", 2), "["+ask("m", 3)+","+ask("m", 4)+"]", ask("m", 5))
		queued(4)
		w.say(cancel(2))
		queued(3)
		w.say(cancel(3))
		queued(3) // the other member waits
		w.expect(cancelled + "2}")
		w.say(cancel(4))
		queued(2)
		w.expect("[" + cancelled + "3}, " + cancelled + "4}]")
		w.say(cancel(1))
		queued(1)
		w.say(cancel(5))
		queued(0)
		w.expect(cancelled+"1}", cancelled+"5}")

		w.say(ask("m", 6), "["+ask("m", 7)+","+sayNote("m", 1)+"]", sayNote("m", 2))
		queued(3)
		time.Sleep(30 * time.Second)
		queued(0)
		w.expect(timedOut+"0}", timedOutNew+"6}", "["+timedOutNew+"7}]")
		close(open)
		w.say(ask("m", 8))
		w.expect(answered(`"through"`, 8))
	})
}

// Calls that take 25 s by design say nothing of what the peer can bear.
func TestLongPollsDoNotHoldUpOtherCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		caller, _ := newPipe(t, nil, &rpcx.Options{Handler: methods{
			"poll":  func(context.Context, *rpcx.Request) (any, error) { time.Sleep(25 * time.Second); return nil, nil },
			"short": reply,
		}, Limits: rpcx.Limits{CostOff: true}})
		over := make(chan struct{})
		for range 10 {
			go func() {
				for {
					select {
					case <-over:
						return
					default:
						if err := caller.Call(t.Context(), "poll", nil, nil); err != nil {
							t.Error(err)
						}
					}
				}
			}()
		}
		for range 360 { // an hour
			time.Sleep(10 * time.Second)
			takes(t, 0, func() {
				if err := caller.Call(t.Context(), "short", nil, nil); err != nil {
					t.Error(err)
				}
			})
		}
		close(over)
		time.Sleep(time.Minute)
		if n := caller.Stats().Outgoing; n < 50 {
			t.Errorf("%d calls may be out", n)
		}
	})
}

func TestErrorDecodeData(t *testing.T) {
	type stock struct{ Item string }
	for name, c := range map[string]struct {
		data any
		want stock
		err  string
	}{
		"of a peer":       {json.RawMessage(`{"Item":"pear"}`), stock{"pear"}, ""},
		"of this side":    {map[string]string{"Item": "pear"}, stock{"pear"}, ""},
		"none":            {nil, stock{"before"}, ""},
		"another type":    {json.RawMessage(`[1]`), stock{"before"}, "decode the data of error 7: json: cannot unmarshal array"},
		"what is no data": {func() {}, stock{"before"}, "decode the data of error 7: json: unsupported type"},
	} {
		t.Run(name, func(t *testing.T) {
			got := stock{"before"}
			err := rpcx.Errorf(7, "no").WithData(c.data).DecodeData(&got)
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("got %v, %v; want %v, %s", got, err, c.want, c.err)
			}
		})
	}
}

// An error's text may be a hostile peer's, and comes into logs and onto terminals.
func TestErrorTextIsQuotedAndCut(t *testing.T) {
	long := strings.Repeat("x", 480_000)
	cut := long[:512] + "... (480000 bytes)"
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"plain":                  {rpcx.Errorf(1, `no "é" in C:\dir`), `no "é" in C:\dir (code 1)`},
		"control characters":     {rpcx.Errorf(1, "a\nb\x1b[2J\x00"), `a\nb\x1b[2J\x00 (code 1)`},
		"another direction":      {rpcx.Errorf(1, "a\u202eb"), `a\u202eb (code 1)`},
		"long":                   {rpcx.Errorf(-32000, "%s", long), cut + " (code -32000)"},
		"of the protocol":        {&rpcx.ProtocolError{Code: -32600, Message: "a\x1b" + long}, `protocol error: a\x1b` + long[:510] + "... (480002 bytes) (code -32600)"},
		"of the framing":         {&rpcx.FrameError{Message: "\a" + long}, `framing error: \a` + long[:511] + "... (480001 bytes)"},
		"within a batch's":       {&rpcx.BatchError{Errs: []error{nil, rpcx.Errorf(1, "\n%s", long)}}, `1 of 2 batch requests failed, the first, number 2: \n` + long[:511] + "... (480001 bytes) (code 1)"},
		"within a connection's":  {&rpcx.ConnectionError{Err: &rpcx.FrameError{Message: "\n"}}, `connection lost (request not written): framing error: \n`},
		"of an unknown method":   {rpcx.MethodNotFound("a\n" + long), `unknown method "a\n` + long[:62] + `... (480002 bytes)" (code -32601)`},
		"of a method that fits":  {rpcx.MethodNotFound(long[:64]), `unknown method "` + long[:64] + `" (code -32601)`},
		"of a method's argument": {rpcx.InvalidParams("%s", "\r"), `\r (code -32602)`},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%s: got %.100q, want %.100q", name, got, c.want)
		}
	}
}

// What a peer answers a call is whole in the error, and not in its text.
func TestErrorOfAPeerIsWholeInItsMessage(t *testing.T) {
	message := "\x1b]0;evil\a\n" + strings.Repeat("x", 480_000)
	quoted, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		protocol rpcx.Protocol
		reply    string
	}{
		"2.0":                     {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","error":{"code":-32000,"message":` + string(quoted) + `},"id":0}`},
		"1.0":                     {rpcx.JSONRPCv1, `{"result":null,"error":{"code":-32000,"message":` + string(quoted) + `},"id":0}`},
		"1.0, an error of a text": {rpcx.JSONRPCv1, `{"result":null,"error":` + string(quoted) + `,"id":0}`},
		"loose":                   {rpcx.JSONRPCLoose, `{"error":` + string(quoted) + `,"id":0}`},
		"aiomas":                  {rpcx.Aiomas, `[2,0,` + string(quoted) + `]`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: c.protocol, Framer: rpcx.NewlineFramer{}})
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(c.reply)
				if !isDone(f) {
					t.Fatal("the call waits on")
				}
				e, ok := errors.AsType[*rpcx.Error](f.Err())
				if !ok {
					t.Fatalf("got %v", f.Err())
				}
				if e.Message != message {
					t.Errorf("the message has %d bytes, want %d: %.100q", len(e.Message), len(message), e.Message)
				}
				for _, text := range []string{f.Err().Error(), fmt.Sprint(fmt.Errorf("call: %w", f.Err()))} {
					if len(text) > 700 || !strings.Contains(text, `\x1b]0;evil\a\nxxx`) || !strings.Contains(text, "(480010 bytes)") {
						t.Errorf("the text has %d bytes: %.100q", len(text), text)
					}
				}
			})
		})
	}
}

// A result that does not fit repeats what the peer has sent.
func TestErrorOfAResultIsCut(t *testing.T) {
	digits := strings.Repeat("1", 480_000)
	for name, c := range map[string]struct {
		result string
		dest   any
	}{
		"a number": {digits, new(int)},
		"an IP":    {`"` + digits + `"`, new(netip.Addr)},
		"a time":   {`"` + digits + `"`, new(time.Time)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, nil)
				f := s.Go(t.Context(), "m", nil)
				w.heard()
				w.say(`{"jsonrpc":"2.0","result":` + c.result + `,"id":0}`)
				synctest.Wait()
				err := f.Decode(c.dest)
				if err == nil || len(err.Error()) > 700 || !strings.HasPrefix(err.Error(), `decode the result of "m": `) {
					t.Errorf("got %.800q", fmt.Sprint(err))
				}
				if errors.Unwrap(err) == nil {
					t.Error("the codec's error is not wrapped")
				}
			})
		})
	}
}

type longQuery struct {
	From  time.Time
	Count *big.Int
	Addr  netip.Addr
	Limit int
}

// What a peer sends comes back in no error but for a short excerpt, and its id.
func TestErrorsRepeatLittleOfAMessage(t *testing.T) {
	x := strings.Repeat("x", 480_000)
	digits := strings.Repeat("1", 480_000)
	keys := func(n int, key string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"%s%d":0,`, key, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	router := rpcx.NewRouter()
	router.Handle("query", rpcx.Func(func(context.Context, longQuery) {}))
	router.Handle("bind", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		var n []int
		return nil, req.Bind(&n)
	}))
	router.Handle("number", rpcx.Func(func(context.Context, int) error { return nil }, "n"))
	router.Handle("numbers", rpcx.Func(func(context.Context, ...int) (int, error) { return 0, nil }))
	router.Handle("map", rpcx.Func(func(context.Context, map[string]int) error { return nil }))
	router.Handle("none", rpcx.Func(func() {}))
	sub := rpcx.NewRouter()
	sub.Handle("m", rpcx.Func(func() {}))
	if err := router.Mount("sub", sub); err != nil {
		t.Fatal(err)
	}
	any1 := rpcx.Func(func(context.Context, int) error { return nil }, "n") // of any method
	call := func(method, params string) string {
		return `{"jsonrpc":"2.0","method":"` + method + `","params":` + params + `,"id":1}`
	}
	for name, c := range map[string]struct {
		handler  rpcx.Handler
		protocol rpcx.Protocol
		say      string
	}{
		"an unknown method":                     {router, nil, call(x, "[]")},
		"an unknown service":                    {router, nil, call(x+"/m", "[]")},
		"an unknown name in a service":          {router, nil, call("sub."+x, "[]")},
		"an unknown name in a method":           {router, nil, call("sub/m/"+x, "[]")},
		"many separators":                       {router, nil, call(strings.Repeat("sub/", 100_000), "[]")},
		"an aiomas name":                        {router, rpcx.Aiomas, `[0,1,["sub/` + x + `",[],{}]]`},
		"characters that are quoted":            {router, nil, call(strings.Repeat("\u2028", 100_000), "[]")},
		"an unknown parameter":                  {router, nil, call("query", `{"`+x+`":1}`)},
		"beside all that are required":          {router, nil, call("number", `{"n":1,"`+x+`":1}`)},
		"many unknown parameters":               {router, nil, call("number", `{"n":1,`+keys(50_000, "")+`}`)},
		"many long unknown parameters":          {router, nil, call("number", `{"n":1,`+keys(500, x[:1000])+`}`)},
		"unknown parameters in escapes":         {router, nil, call("number", `{"n":1,`+keys(500, strings.Repeat(`\u0000`, 200))+`}`)},
		"a number that is too large":            {router, nil, call("number", `[`+digits+`]`)},
		"one of several":                        {router, nil, call("numbers", `[1,2,3,`+digits+`]`)},
		"a number in a field":                   {router, nil, call("query", `{"From":"2020-01-01T00:00:00Z","Count":1,"Addr":"::1","Limit":`+digits+`}`)},
		"a text that is no time":                {router, nil, call("query", `{"From":"`+x+`","Count":1,"Addr":"::1","Limit":1}`)},
		"a text that is no number":              {router, nil, call("query", `{"From":"2020-01-01T00:00:00Z","Count":"`+x+`","Addr":"::1","Limit":1}`)},
		"a text that is no address":             {router, nil, call("query", `{"From":"2020-01-01T00:00:00Z","Count":1,"Addr":"`+x+`","Limit":1}`)},
		"a number for Bind":                     {router, nil, call("bind", `[`+digits+`]`)},
		"a long method of a Func":               {any1, nil, call(x, `["no"]`)},
		"and too many arguments":                {any1, nil, call(x, `[1,2]`)},
		"and too few":                           {any1, nil, call(x, `[]`)},
		"and an unknown parameter":              {any1, nil, call(x, `{"n":1,"m":1}`)},
		"and a parameter that is given twice":   {any1, nil, call(x, `{"n":1,"n":1}`)},
		"and no name":                           {router, nil, call("numbers", `{"`+x+`":1}`)},
		"a long key of a map, twice":            {router, nil, call("map", `{"`+x+`":1,"`+x+`":1}`)},
		"a number in a map":                     {router, nil, call("map", `{"`+x+`":`+digits+`}`)},
		"a parameter of a Func that takes none": {router, nil, call("none", `{"`+x+`":1}`)},
		"params that are none":                  {router, nil, call("query", `"`+x+`"`)},
		"an id that is none":                    {router, nil, `{"jsonrpc":"2.0","method":"m","id":["` + x + `"]}`},
		"a version that is none":                {router, nil, `{"jsonrpc":"` + x + `","method":"m","id":1}`},
		"no JSON":                               {router, nil, x},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, w := newWire(t, &rpcx.Options{Handler: c.handler, Protocol: c.protocol, Framer: rpcx.NewlineFramer{}})
				w.say(c.say)
				got := w.heard()
				if len(got) != 1 || !strings.Contains(got[0], "-32") && c.protocol != rpcx.Aiomas {
					t.Fatalf("heard %.1000q", got)
				}
				if len(got[0]) > 2500 {
					t.Errorf("%d bytes were answered to %d: %.1000s", len(got[0]), len(c.say), got[0])
				}
			})
		})
	}
}

// What is not named is counted.
func TestFuncNamesSomeUnknownParameters(t *testing.T) {
	h := rpcx.Func(func(int) {}, "n")
	params := func(n int) rpcx.Params {
		keys := []string{`"n":1`}
		for i := range n {
			keys = append(keys, fmt.Sprintf(`"k%02d":0`, i))
		}
		return rpcx.Params{Named: json.RawMessage("{" + strings.Join(keys, ",") + "}")}
	}
	const sixteen = `"k00", "k01", "k02", "k03", "k04", "k05", "k06", "k07", "k08", "k09", "k10", "k11", "k12", "k13", "k14", "k15"`
	for n, want := range map[int]string{
		1:     `parameter "k00"`,
		2:     `parameters "k00", "k01"`,
		16:    `parameters ` + sixteen,
		17:    `parameters ` + sixteen + ` and 1 more`,
		10016: `parameters ` + sixteen + ` and 10000 more`,
	} {
		_, err := h.ServeRPC(t.Context(), &rpcx.Request{Method: "m", Params: params(n)})
		e, ok := errors.AsType[*rpcx.Error](err)
		if want = `method "m" does not take ` + want; !ok || e.Message != want {
			t.Errorf("%d: got %v, want %s", n, err, want)
		}
	}
}

// logged is what a logger wrote.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns what was written since it was last asked.
func (l *logged) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.buf.String()
	l.buf.Reset()
	return strings.ReplaceAll(text, `\"`, `"`)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

type adder interface {
	Add(a, b int) int
	Find(q hinted)
	Sum(values ...int) int
}

func (*hasMethods) Find(hinted) {}

func (*hasMethods) Sum(...int) int { return 0 }

type hinted struct {
	Text string
	Page int `json:"page"`
}

// An error about params tells the log, and not the peer, how to allow them.
func TestHintsAboutParams(t *testing.T) {
	router := rpcx.NewRouter()
	router.Handle("fields", rpcx.Func(func(hinted) {}))
	router.Handle("pointer", rpcx.Func(func(context.Context, *hinted) error { return nil }))
	router.Handle("named", rpcx.Func(func(a, b int) {}, "a", "b?"))
	router.Handle("direct", rpcx.Func(func(context.Context, string) error { return nil }, "a"))
	router.Handle("nameless", rpcx.Func(func(a, b int) {}))
	router.Handle("map", rpcx.Func(func(map[string]int) {}))
	router.Handle("slice", rpcx.Func(func([]int) {}))
	router.Handle("variadic", rpcx.Func(func(...int) {}))
	router.Handle("raw", rpcx.Func(func(json.RawMessage) {}))
	router.Handle("anything", rpcx.Func(func(context.Context, any) error { return nil }))
	router.Handle("any", rpcx.Func(func(any) {}, "v"))
	router.Handle("own", rpcx.Func(func() error { return &rpcx.Error{Code: 5, Message: "no", Hint: "there is no more"} }))
	if err := router.Mount("exposed", rpcx.Expose[adder](new(hasMethods))); err != nil {
		t.Fatal(err)
	}
	const unknown = `hint="to ignore unknown params, set Options.IgnoreUnknownParams, or give rpcx.Func "..." as its last name"`
	for name, c := range map[string]struct{ method, params, want string }{
		"a missing field":             {"fields", `{"Text":""}`, `hint="to make "page" optional, add omitempty to the tag of its field, or make that a pointer"`},
		"no params":                   {"pointer", `{}`, `hint="to make "Text" optional, add omitempty`},
		"a field in another case":     {"fields", `{"text":"","page":1}`, `the tag of a field can set its name: `},
		"an unknown field":            {"pointer", `{"Text":"","page":1,"more":1}`, unknown},
		"a missing name":              {"named", `{"b":1}`, `hint="to make "a" optional, name it "a?""`},
		"an unknown name":             {"named", `{"a":1,"c":1}`, unknown},
		"an unknown one, directly":    {"direct", `{"a":"","c":1}`, unknown},
		"too few arguments":           {"named", `[]`, `hint="to make "a" optional, name it "a?""`},
		"too few without names":       {"nameless", `[1]`, `hint="to make parameters optional, name them, "a?" for an optional one, or make the last ones pointers"`},
		"names for no names":          {"nameless", `{"a":1}`, `hint="to take params by name, give rpcx.Func the names of all parameters"`},
		"names for a method":          {"exposed/Add", `{"a":1}`, `hint="to take params by name, let the method take a struct"`},
		"names for a slice":           {"slice", `{"a":1}`, `hint="the function takes positional params only: rpcx.Func(fn, "list") takes the slice as one param instead, {"list": […]} or [[…]]"`},
		"names for a variadic one":    {"variadic", `{"a":1}`, `hint="the function takes positional params only: a variadic parameter has no name"`},
		"names for a method's rest":   {"exposed/Sum", `{"a":1}`, `hint="the function takes positional params only: let the method take a struct"`},
		"names for raw JSON":          {"raw", `{"a":1}`, `hint="to take all params as they are, write rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) { … }) and use req.Bind; to take those by name, write a map[string]any as the only parameter"`},
		"names for any value":         {"anything", `{"a":1}`, `hint="to take all params as they are, write rpcx.HandlerFunc(`},
		"a wrong name":                {"named", `{"x":1,"n":2}`, `hint="the peer has sent parameters "n", "x", which the method does not have; to make "a" optional, name it "a?""`},
		"a wrong field":               {"fields", `{"Txt":"","page":1}`, `hint="the peer has sent parameter "Txt", which the method does not have; to make "Text" optional, add omitempty`},
		"many wrong names":            {"direct", `{"g":1,"f":1,"e":1,"d":1,"c":1,"b":1}`, `hint="the peer has sent parameters "d", "e", "f", "g", which the method does not have; to make "a" optional`},
		"positions for a struct":      {"fields", `[{"Text":""}]`, `rpcx.Func(fn, "name") takes it by position`},
		"positions for a map":         {"map", `[{"a":1}]`, `rpcx.Func(fn, "name") takes it by position`},
		"positions for a method":      {"exposed/Find", `[{"Text":""}]`, `beside a second one it is positional`},
		"an object as an argument":    {"nameless", `[1,{"__type__":[0,"x"]}]`, `set Options.Objects at this side`},
		"an object in place of a map": {"map", `{"a":{"__type__":[0,"x"]}}`, `set Options.Objects at this side`},
		"a hint of the program's own": {"own", `[]`, `hint="there is no more"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logged
				_, w := newWire(t, &rpcx.Options{Handler: router, Logger: log.logger()})
				w.say(`{"jsonrpc":"2.0","method":"` + c.method + `","params":` + c.params + `,"id":1}`)
				if got := w.heard(); len(got) != 1 || !strings.Contains(got[0], `"error"`) || strings.Contains(got[0], "optional") || strings.Contains(got[0], "Options") && !strings.Contains(name, "object") {
					t.Errorf("the reply is %s", got)
				}
				text := log.take()
				if !strings.Contains(text, c.want) || !strings.Contains(text, `msg="request failed" peer=pipe method=`+c.method) {
					t.Errorf("the log is %s, want %s", text, c.want)
				}
				w.say(`{"jsonrpc":"2.0","method":"` + c.method + `","params":` + c.params + `}`)
				synctest.Wait()
				if text := log.take(); !strings.Contains(text, c.want) || !strings.Contains(text, "notification failed") {
					t.Errorf("of a notification the log is %s", text)
				}
			})
		})
	}
}

// What has no hint, and what succeeds, is not logged.
func TestErrorsWithoutHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		opts := handling(rpcx.Func(func(_ context.Context, a int) error { return rpcx.Errorf(5, "no") }, "a"))
		opts.Logger = log.logger()
		_, w := newWire(t, opts)
		for _, params := range []string{`[1]`, `["x"]`, `{"a":1,"\u0061":2}`, `{"a":1,"a":1,"A":2}`, `[1,2]`} {
			w.say(`{"jsonrpc":"2.0","method":"m","params":` + params + `,"id":1}`)
			if got := w.heard(); len(got) != 1 || !strings.Contains(got[0], `"error"`) {
				t.Errorf("%s: %s", params, got)
			}
			if text := log.take(); text != "" {
				t.Errorf("%s: logged %s", params, text)
			}
		}
	})
}

// The log, and not the peer, is told why a method may not be found.
func TestHintsAboutUnknownMethods(t *testing.T) {
	nop := rpcx.Func(func() {})
	router := rpcx.ExposeMap(map[string]any{
		"create": nop, "Cut": nop, "CUT": nop, "dotted.Name": nop,
		"math": map[string]any{"add": nop, "deep": map[string]any{"er": nop}},
	})
	for name, c := range map[string]struct {
		handler      rpcx.Handler
		method, want string // "" if nothing is logged
	}{
		"another case":                {router, "Create", `hint="names are case-sensitive: there is "create""`},
		"the first of several":        {router, "cut", `there is "CUT""`},
		"another case of a path":      {router, "Math/Add", `there is "math/add""`},
		"another case with dots":      {router, "math.ADD", `there is "math.add""`},
		"another case further down":   {router, "math/deep.Er", `there is "math/deep.er""`},
		"another case of dotted one":  {router, "Dotted.name", `there is "dotted.Name""`},
		"another name":                {router, "creat", ""},
		"a service in another case":   {router, "MATH", ""},
		"a long name":                 {router, "Create" + strings.Repeat("x", 300), ""},
		"a session without a handler": {nil, "create", `hint="this session has no handler: set Options.Handler"`},
		"a router without methods":    {rpcx.NewRouter(), "create", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logged
				_, w := newWire(t, &rpcx.Options{Handler: c.handler, Logger: log.logger()})
				w.say(`{"jsonrpc":"2.0","method":"` + c.method + `","id":1}`)
				if got := w.heard(); len(got) != 1 || !strings.Contains(got[0], "-32601") || strings.Contains(got[0], "case-sensitive") || strings.Contains(got[0], "Options") {
					t.Errorf("the reply is %s", got)
				}
				if text := log.take(); !strings.Contains(text, c.want) || c.want == "" && text != "" {
					t.Errorf("the log is %s, want %s", text, c.want)
				}
			})
		})
	}
}

// libraryError is the error of another library, with its code in fields.
type libraryError struct {
	Code    int32
	Message string
}

func (libraryError) Error() string { return "no such account" }

// codedError is the error of another library, with its code in a method.
type codedError struct{ error }

func (codedError) ErrorCode() int { return 7 }

// The log says that the codes of other libraries' errors are not sent.
func TestHintsAboutForeignErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string // "" for no hint
	}{
		"fields":              {libraryError{7, "no"}, "those of a rpcx_test.libraryError are not: return rpcx.Errorf(code, …)"},
		"fields, a pointer":   {&libraryError{7, "no"}, "those of a *rpcx_test.libraryError are not"},
		"a method":            {codedError{errors.New("no such account")}, "those of a rpcx_test.codedError are not"},
		"one that is wrapped": {fmt.Errorf("no such account: %w", libraryError{7, "no"}), "and those of a *fmt.wrapError are not"},
		"no code":             {errors.New("no such account"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logged
				opts := handling(rpcx.Func(func() error { return c.err }))
				opts.Logger = log.logger()
				_, w := newWire(t, opts)
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				w.expect(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
				text := log.take()
				if !strings.Contains(text, "no such account") || !strings.Contains(text, c.want) || strings.Contains(text, "hint=") != (c.want != "") {
					t.Errorf("the log is %s, want %s", text, c.want)
				}
			})
		})
	}
}

// A destination that is no pointer, and bytes that are JSON already, are told of.
func TestHintsAboutValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		s, _ := newPipe(t, nil, &rpcx.Options{Logger: log.logger(), Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			if req.Method == "bind" {
				return nil, req.Bind([]string{})
			}
			return []string{"a"}, nil
		})})
		var list []string
		err := s.Call(t.Context(), "list", nil, list)
		if err == nil || !strings.Contains(err.Error(), `decode the result of "list": json: Unmarshal(non-pointer []string): pass a pointer to where the result goes, not a []string`) {
			t.Errorf("a result: %v", err)
		}
		if err := s.Go(t.Context(), "list", nil).Wait(t.Context(), list); err == nil || !strings.Contains(err.Error(), "pass a pointer") {
			t.Errorf("the result of a future: %v", err)
		}
		matches(t, s.Call(t.Context(), "bind", rpcx.Args{"a"}, nil), rpcx.ErrInternalError)
		synctest.Wait()
		if text := log.take(); !strings.Contains(text, `bind params: []string is no pointer to decode into`) {
			t.Errorf("the log is %s", text)
		}
		err = s.Call(t.Context(), "list", []byte(`[1]`), nil)
		if err == nil || !strings.Contains(err.Error(), "; of bytes that are JSON already, json.RawMessage(params)") {
			t.Errorf("params of bytes: %v", err)
		}
	})
}

func TestIgnoreUnknownParams(t *testing.T) {
	router := rpcx.NewRouter()
	router.Handle("fields", rpcx.Func(func(q hinted) string { return q.Text }))
	router.Handle("named", rpcx.Func(func(_ context.Context, a string) (string, error) { return a, nil }, "a"))
	router.Handle("none", rpcx.Func(func() string { return "none" }))
	synctest.Test(t, func(t *testing.T) {
		s, _ := newPipe(t, nil, &rpcx.Options{Handler: router, IgnoreUnknownParams: true})
		strict, _ := newPipe(t, nil, handling(router))
		for _, c := range []struct {
			method, want string
			params       any
		}{
			{"fields", "hi", map[string]any{"Text": "hi", "page": 1, "_meta": 2}},
			{"named", "hi", map[string]any{"a": "hi", "b": 1}},
			{"none", "none", map[string]any{"a": "hi"}},
		} {
			if got, err := rpcx.Call[string](t.Context(), s, c.method, c.params); got != c.want || err != nil {
				t.Errorf("%s: got %q, %v", c.method, got, err)
			}
			_, err := rpcx.Call[string](t.Context(), strict, c.method, c.params)
			matches(t, err, rpcx.ErrInvalidParams)
		}
		_, err := rpcx.Call[string](t.Context(), s, "fields", map[string]any{"Text": "hi"})
		matches(t, err, rpcx.ErrInvalidParams) // "page" is still required
		_, err = rpcx.Call[string](t.Context(), s, "named", rpcx.Args{"hi", 1})
		matches(t, err, rpcx.ErrInvalidParams) // as are all by position known
	})
}

// Options that can only be mistaken are refused: by an error where there is one to
// return, and else by a panic.
func TestOptionsThatAreRefused(t *testing.T) {
	next := func(h rpcx.Handler) rpcx.Handler { return h }
	for want, opts := range map[string]*rpcx.Options{
		"Options.Handler is a rpcx.HandlerFunc that is nil":      {Handler: rpcx.HandlerFunc(nil)},
		"Options.Handler is a *rpcx.Router that is nil":          {Handler: (*rpcx.Router)(nil)},
		"Options.Middleware[1] is nil":                           {Middleware: []func(rpcx.Handler) rpcx.Handler{next, nil}},
		"Options.Middleware[0] has returned a nil Handler":       {Middleware: []func(rpcx.Handler) rpcx.Handler{func(rpcx.Handler) rpcx.Handler { return nil }}},
		"Options.Cancellation has no Method":                     {Cancellation: &rpcx.Cancellation{Code: -1}},
		"Options.Types without Options.Objects: set that, too":   {Types: []rpcx.Type{celsiusType}},
		"Options.Types has rpcx_test.celsius twice":              {Types: []rpcx.Type{celsiusType, momentType, celsiusType}, Objects: true},
		"Options.Middleware[0] has returned a nil Handler\u200b": {Middleware: []func(rpcx.Handler) rpcx.Handler{func(rpcx.Handler) rpcx.Handler { return rpcx.HandlerFunc(nil) }}},
	} {
		want = strings.TrimSuffix(want, "\u200b")
		t.Run(want, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			defer far.Close()
			panicsWith(t, "rpcx: "+want, func() { rpcx.NewSession(near, opts) })
			panicsWith(t, "rpcx: "+want, func() { rpcx.Pipe(opts, nil) })
			panicsWith(t, "rpcx: "+want, func() { rpcx.Pipe(nil, opts) })
			d := rpcx.Dialer{DialContext: func(context.Context, string, string) (net.Conn, error) {
				t.Error("it dials all the same")
				return nil, io.EOF
			}}
			_, err := d.Dial(t.Context(), "tcp://localhost:1", opts)
			failsWith(t, "Dial", err, want)
			_, err = rpcx.Command(t.Context(), exec.Command("no-such-program"), opts)
			failsWith(t, "Command", err, want)
			srv := &rpcx.Server{Options: *opts}
			failsWith(t, "ListenAndServe", srv.ListenAndServe(t.Context(), "tcp://127.0.0.1:0"), want)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			failsWith(t, "Serve", srv.Serve(l), want)
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the listener is open: %v", err)
			}
		})
	}
}

func failsWith(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s returns %v", what, err)
	}
}

func TestNilHandlerFuncOfAMethod(t *testing.T) {
	panicsWith(t, "rpcx: nil handler for method m", func() { rpcx.NewRouter().Handle("m", rpcx.HandlerFunc(nil)) })
	panicsWith(t, "rpcx: nil handler for method m", func() { rpcx.ExposeMap(map[string]any{"m": rpcx.HandlerFunc(nil)}) })
}

// An error is never sent as a result, and a nil pointer is not taken for one by mistake.
func TestErrorsInThePlaceOfResults(t *testing.T) {
	const internal = `{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`
	var none *rpcx.Error
	var lost *rpcx.ConnectionError
	for name, c := range map[string]struct {
		h         rpcx.Handler
		want, log string
	}{
		"an *Error as the result":    {rpcx.Func(func() any { return rpcx.Errorf(5, "no") }), `{"jsonrpc":"2.0","error":{"code":5,"message":"no"},"id":1}`, ""},
		"by a HandlerFunc":           {rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return rpcx.Errorf(5, "no"), nil }), `{"jsonrpc":"2.0","error":{"code":5,"message":"no"},"id":1}`, ""},
		"an Error by value":          {rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return rpcx.Error{Code: 5, Message: "no"}, nil }), `{"jsonrpc":"2.0","error":{"code":5,"message":"no"},"id":1}`, ""},
		"that with a disconnection":  {rpcx.Func(func() any { return rpcx.ReplyAndDisconnect(rpcx.Error{Code: 5, Message: "no"}) }), `{"jsonrpc":"2.0","error":{"code":5,"message":"no"},"id":1}`, ""},
		"another error":              {rpcx.Func(func() any { return errors.New("secret") }), internal, "error=secret"},
		"a nil *Error as the result": {rpcx.Func(func() any { return none }), `{"jsonrpc":"2.0","result":null,"id":1}`, ""},
		"a nil *Error as the error":  {rpcx.Func(func() error { return none }), internal, "the handler returned a nil *rpcx.Error as its error: where there is none it has to return nil"},
		"that by reflection":         {rpcx.Func(func(int) (int, error) { return 1, none }, "n?"), internal, "the handler returned a nil *rpcx.Error"},
		"that by a HandlerFunc":      {rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return 1, none }), internal, "the handler returned a nil *rpcx.Error"},
		"a nil pointer of another":   {rpcx.Func(func() error { return lost }), internal, "the handler returned a nil *rpcx.ConnectionError"},
		"an empty struct":            {rpcx.Func(func() struct{} { return struct{}{} }), `{"jsonrpc":"2.0","result":{},"id":1}`, ""},
		"no result":                  {rpcx.Func(func() {}), `{"jsonrpc":"2.0","result":null,"id":1}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logged
				_, w := newWire(t, &rpcx.Options{Handler: c.h, Logger: log.logger()})
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				w.expect(c.want)
				if text := log.take(); !strings.Contains(text, c.log) || c.log == "" && text != "" || strings.Contains(text, "panic") {
					t.Errorf("the log is %s", text)
				}
			})
		})
	}
}

// The other version of JSON-RPC is recognized, by who answers and by who calls.
func TestHintsAboutVersions(t *testing.T) {
	const (
		like1 = "the message looks like JSON-RPC 1.0: set Options.Protocol to JSONRPCv1, to JSONRPCAutoDetect for the version of a session's first message, or to JSONRPCLoose"
		like2 = "the message looks like JSON-RPC 2.0: set Options.Protocol to JSONRPCv2, to JSONRPCAutoDetect for the version of a session's first message, or to JSONRPCLoose"
	)
	for name, c := range map[string]struct {
		p          rpcx.Protocol
		line, want string
	}{
		"a request of 1.0":                 {rpcx.JSONRPCv2, `{"method":"m","params":[],"id":1}`, like1},
		"a notification of 1.0":            {rpcx.JSONRPCv2, `{"method":"m","params":[],"id":null}`, like1},
		"one that names its version":       {rpcx.JSONRPCv2, `{"jsonrpc":"1.0","method":"m","params":[],"id":1}`, like1},
		"a version that is a number":       {rpcx.JSONRPCv2, `{"jsonrpc":2.0,"method":"m","id":1}`, `"jsonrpc" has to be a string, "2.0"`},
		"named params of 2.0":              {rpcx.JSONRPCv1, `{"jsonrpc":"2.0","method":"m","params":{"a":1},"id":1}`, like2},
		"a notification of 2.0":            {rpcx.JSONRPCv1, `{"jsonrpc":"2.0","method":"m"}`, like2},
		"a batch of 2.0":                   {rpcx.JSONRPCv1, `[{"jsonrpc":"2.0","method":"m","id":1}]`, like2},
		"what is no message of any":        {rpcx.JSONRPCv2, `{"foo":1}`, ""},
		"another version":                  {rpcx.JSONRPCv2, `{"jsonrpc":"3.0","method":"m","id":1}`, ""},
		"a scalar":                         {rpcx.JSONRPCv1, `5`, ""},
		"a request of 1.0 that is no good": {rpcx.JSONRPCv1, `{"method":5,"params":[],"id":1}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logged
				_, w := newWire(t, &rpcx.Options{Protocol: c.p, Logger: log.logger()})
				w.say(c.line)
				if got := w.heard(); len(got) != 1 || strings.Contains(got[0], "Options") {
					t.Errorf("the reply is %s", got)
				}
				text := log.take()
				if !strings.Contains(text, c.want) || c.want == "" && strings.Contains(text, "looks like") {
					t.Errorf("the log is %s", text)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		for id, line := range []string{`{"result":1,"error":null,"id":0}`, `{"result":null,"error":{"code":1,"message":"no"},"id":1}`, `{"result":1,"id":2}`} {
			f := s.Go(t.Context(), "m", nil)
			w.heard()
			w.say(line)
			if err := f.Wait(t.Context(), nil); err == nil || !strings.Contains(err.Error(), like1) {
				t.Errorf("call %d has the error %v", id, err)
			}
		}
	})
}

// The refusal of params that are null, or missing, tells the log alone how to allow them.
func TestHintAboutStrictParams(t *testing.T) {
	const hint = "; null or missing params are taken for none without Options.StrictParams"
	for name, c := range map[string]struct {
		p    rpcx.Protocol
		line string
		hint bool
	}{
		"null":            {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"m","params":null,"id":1}`, true},
		"missing, in 1.0": {rpcx.JSONRPCv1, `{"method":"m","id":1}`, true},
		"a number":        {rpcx.JSONRPCv2, `{"jsonrpc":"2.0","method":"m","params":5,"id":1}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logged
				_, w := newWire(t, &rpcx.Options{Protocol: c.p, StrictParams: true, Logger: log.logger()})
				w.say(c.line)
				if got := w.heard(); len(got) != 1 || strings.Contains(got[0], "StrictParams") || !strings.Contains(got[0], "-32602") {
					t.Errorf("the reply is %s", got)
				}
				if text := log.take(); strings.Contains(text, hint) != c.hint {
					t.Errorf("the log is %s", text)
				}
			})
		})
	}
}

// A caller without Options.Objects is told what it has received.
func TestResultsThatLookLikeObjects(t *testing.T) {
	type point struct{ X, Y int }
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		id := 0
		call := func(result string, dest any) error {
			f := s.Go(t.Context(), "m", nil)
			w.heard()
			w.say(`{"jsonrpc":"2.0","result":` + result + `,"id":` + string(rune('0'+id)) + `}`)
			id++
			return f.Wait(t.Context(), dest)
		}
		object := `{"__type__":[0,{"X":1,"Y":2}]}`
		for _, dest := range []any{new(point), new(*point), new(int), new([]int), new(rpcx.Proxy)} {
			if err := call(object, dest); err == nil || !strings.Contains(err.Error(), "set Options.Objects at this side") {
				t.Errorf("a %T has the error %v", dest, err)
			}
		}
		var own struct {
			Type []any `json:"__type__"`
		}
		for _, dest := range []any{new(any), new(map[string]any), &own, nil} {
			if err := call(object, dest); err != nil {
				t.Errorf("a %T has the error %v", dest, err)
			}
		}
		if len(own.Type) != 2 {
			t.Errorf("got %v", own)
		}
	})
}

// What is wrong at this side is told to the log, and not charged to the peer.
func TestBindToNoPointer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		s, w := newServed(t, &rpcx.Options{Logger: log.logger(), Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			var params struct{ A int }
			return nil, req.Bind(params)
		})})
		for _, message := range []string{`{"jsonrpc":"2.0","method":"m","params":{"A":1},"id":1}`, `{"jsonrpc":"2.0","method":"m","id":1}`} {
			w.say(message)
			w.expect(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
			if text := log.take(); !strings.Contains(text, `msg="handler failed"`) || !strings.Contains(text, "bind params: struct { A int } is no pointer") {
				t.Errorf("the log says\n%s", text)
			}
		}
		if cost := s.Cost(); cost > 1 {
			t.Errorf("the cost is %v", cost)
		}
	})
}

func TestDataThatCannotBeEncodedIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		_, w := newWire(t, &rpcx.Options{Logger: log.logger(), Handler: rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			return nil, rpcx.Errorf(7, "sold out").WithData(make(chan int))
		})})
		w.say(ask("m", 1))
		w.expect(`{"jsonrpc":"2.0","error":{"code":7,"message":"sold out"},"id":1}`)
		if text := log.take(); !strings.Contains(text, `msg="data of an error cannot be encoded, and is left out" peer=pipe code=7 error=`) {
			t.Errorf("the log says\n%s", text)
		}
	})
}

func TestLogSaysThatOnSessionHasNotReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		returns := make(chan struct{})
		srv := &rpcx.Server{Options: rpcx.Options{Logger: log.logger(), Limits: rpcx.Limits{ProcessingTimeout: time.Second}}, OnSession: func(*rpcx.Session) { <-returns }}
		near, far := net.Pipe()
		srv.ServeConn(near)
		client := rpcx.NewSession(far, nil)
		matches(t, client.Call(t.Context(), "login", nil, nil), rpcx.ErrServerBusy)
		synctest.Wait()
		text := log.take()
		if !strings.Contains(text, "before its handler was called") || !strings.Contains(text, `reason="OnSession or Trace.Connected has not returned"`) {
			t.Errorf("the log says\n%s", text)
		}
		close(returns)
		client.Close()
		srv.Close()
		if err := srv.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// The code of an error that answers nothing is the peer's, and not mistaken for this side's.
func TestDiagnosticErrorTellsItsCodeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logged
		_, w := newWire(t, &rpcx.Options{Logger: log.logger()})
		w.say(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"invalid request"},"id":null}`)
		w.expectNothing()
		if text := log.take(); !strings.Contains(text, "diagnostic error received: -32600 invalid request (code -32600)") {
			t.Errorf("the log says\n%s", text)
		}
	})
}
