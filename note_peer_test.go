package rpcx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

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
