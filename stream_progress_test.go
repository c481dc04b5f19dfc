package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"github.com/google/go-cmp/cmp"
)

// progressing starts CallProgress with the form, and returns the progress so far.
func progressing(ctx context.Context, s *rpcx.Session, form *rpcx.Correlation, got *[]string) *running[string] {
	return run(func() (string, error) {
		return rpcx.CallProgress[string](ctx, s, form, "work", nil, func(v json.RawMessage) { *got = append(*got, string(v)) })
	})
}

const lspNews = `{"jsonrpc":"2.0","method":"$/progress","params":{"token":"rpcx-1","value":%d}}`

// All progress before the reply comes before CallProgress returns, and none later.
func TestCallProgressOrder(t *testing.T) {
	for _, test := range []struct {
		reply string
		value string
		err   string
	}{
		{`{"jsonrpc":"2.0","result":"done","id":0}`, "done", "<nil>"},
		{`{"jsonrpc":"2.0","error":{"code":7,"message":"failed"},"id":0}`, "", "failed (code 7)"},
		{`{"jsonrpc":"2.0","result":1,"id":0}`, "", `decode the result of "work"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, nil)
			var got []string
			r := progressing(t.Context(), s, rpcx.LSPWorkDone, &got)
			w.expect(`{"jsonrpc":"2.0","method":"work","id":0,"params":{"workDoneToken":"rpcx-1"}}`)
			w.say(fmt.Sprintf(lspNews, 1))
			r.waits(t)
			lines := []string{fmt.Sprintf(lspNews, 2), fmt.Sprintf(lspNews, 3), test.reply, fmt.Sprintf(lspNews, 4)}
			w.say(strings.Join(lines, "\n"))
			value, err := r.result(t)
			if value != test.value || !strings.Contains(fmt.Sprint(err), test.err) {
				t.Errorf("returned %q, %v", value, err)
			}
			if diff := cmp.Diff([]string{"1", "2", "3"}, got); diff != "" {
				t.Errorf("wrong progress (-want +got):\n%s", diff)
			}
			time.Sleep(2 * time.Second)
			noStreams(t, s)
			if stats := s.Stats(); stats.News != 4 || stats.Unclaimed != 1 {
				t.Errorf("the counters are %d, %d", stats.News, stats.Unclaimed)
			}
		})
	}
}

// A call that is given up reports no more progress, and is cancelled at the peer.
func TestCallProgressGivenUp(t *testing.T) {
	opts := &rpcx.Options{Cancellation: rpcx.LSPCancellation}
	cancelled := `{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":0}}`
	t.Run("by its context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, opts)
			ctx, cancel := context.WithCancelCause(t.Context())
			var got []string
			r := progressing(ctx, s, rpcx.LSPWorkDone, &got)
			synctest.Wait()
			w.heard()
			w.say(fmt.Sprintf(lspNews, 1))
			synctest.Wait()
			enough := errors.New("enough")
			cancel(enough)
			if _, err := r.result(t); err != enough || len(got) != 1 {
				t.Errorf("returned %v after %q", err, got)
			}
			w.expect(cancelled)
			w.say(fmt.Sprintf(lspNews, 2), `{"jsonrpc":"2.0","result":"late","id":0}`)
			synctest.Wait()
			if len(got) != 1 {
				t.Errorf("the progress is %q", got)
			}
		})
	})
	t.Run("by its context, in its function", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, opts)
			ctx, cancel := context.WithCancel(t.Context())
			calls := 0
			r := run(func() (string, error) {
				return rpcx.CallProgress[string](ctx, s, rpcx.LSPWorkDone, "work", nil, func(int) { calls++; cancel() })
			})
			synctest.Wait()
			w.heard()
			w.say(fmt.Sprintf(lspNews, 1) + "\n" + fmt.Sprintf(lspNews, 2))
			if _, err := r.result(t); err != context.Canceled || calls != 1 {
				t.Errorf("returned %v after %d calls", err, calls)
			}
			w.expect(cancelled)
			noStreams(t, s)
		})
	})
	t.Run("by progress that cannot be decoded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, opts)
			r := run(func() (string, error) {
				return rpcx.CallProgress[string](t.Context(), s, rpcx.LSPWorkDone, "work", nil, func(bool) {})
			})
			synctest.Wait()
			w.heard()
			w.say(fmt.Sprintf(lspNews, 1))
			if _, err := r.result(t); err == nil || !strings.HasPrefix(err.Error(), `decode a value for "work": `) {
				t.Errorf("returned %v", err)
			}
			w.expect(cancelled)
			noStreams(t, s)
		})
	})
	t.Run("by a panic of its function", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, opts)
			r := run(func() (got any, _ error) {
				defer func() { got = recover() }()
				_, err := rpcx.CallProgress[string](t.Context(), s, rpcx.LSPWorkDone, "work", nil, func(int) { panic("oops") })
				return nil, err
			})
			synctest.Wait()
			w.heard()
			w.say(fmt.Sprintf(lspNews, 1))
			if got := r.must(t); got != "oops" {
				t.Errorf("recovered %v", got)
			}
			w.expect(cancelled)
			noStreams(t, s)
		})
	})
	t.Run("by the end of the session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, opts)
			var got []string
			r := progressing(t.Context(), s, rpcx.LSPWorkDone, &got)
			synctest.Wait()
			w.say(fmt.Sprintf(lspNews, 1))
			w.Close()
			_, err := r.result(t)
			matches(t, err, rpcx.ErrConnectionLost)
			if len(got) != 1 {
				t.Errorf("the progress is %q", got)
			}
			noStreams(t, s)
		})
	})
}

// A call with progress has no timeout unless one is set, and progress begins it anew.
func TestCallProgressTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var got []string
		r := progressing(t.Context(), s, rpcx.LSPWorkDone, &got)
		time.Sleep(time.Hour)
		r.waits(t)
		w.say(`{"jsonrpc":"2.0","result":"done","id":0}`)
		r.must(t)
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 30 * time.Second}})
		var got []string
		r := progressing(t.Context(), s, rpcx.LSPWorkDone, &got)
		for i := range 5 {
			time.Sleep(29 * time.Second)
			w.say(fmt.Sprintf(lspNews, i))
		}
		r.waits(t)
		takes(t, 30*time.Second, func() { <-r.done })
		if _, err := r.result(t); err != rpcx.ErrTimeout || len(got) != 5 {
			t.Errorf("returned %v after %q", err, got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, _ := newWire(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var got []string
		takes(t, time.Minute, func() { <-progressing(ctx, s, rpcx.LSPWorkDone, &got).done })
	})
}

// A full ring pauses the reading, and loses nothing.
func TestCallProgressPausesReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		const n = 3000
		var got []int
		r := run(func() (string, error) {
			return rpcx.CallProgress[string](t.Context(), s, rpcx.LSPWorkDone, "work", nil, func(v int) {
				time.Sleep(time.Millisecond)
				got = append(got, v)
			})
		})
		synctest.Wait()
		for i := range n {
			w.say(fmt.Sprintf(lspNews, i))
		}
		if s.Stats().Pauses == 0 {
			t.Error("reading has not paused")
		}
		w.say(`{"jsonrpc":"2.0","result":"done","id":0}`)
		<-r.done
		r.must(t)
		if len(got) != n || !slices.IsSorted(got) {
			t.Errorf("got %d values", len(got))
		}
		noStreams(t, s)
	})
}

// A function that does not return holds up the reading for PauseLimit at most.
func TestCallProgressTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		var other error
		calls := 0
		r := run(func() (string, error) {
			return rpcx.CallProgress[string](t.Context(), s, rpcx.LSPWorkDone, "work", nil, func(v int) {
				if calls++; calls == 1 {
					other = s.Call(t.Context(), "other", nil, nil) // whose reply is behind the progress
				}
			})
		})
		synctest.Wait()
		start := time.Now()
		for i := range 1000 {
			w.say(fmt.Sprintf(lspNews, i))
		}
		w.say(`{"jsonrpc":"2.0","result":"done","id":1}`)
		<-r.done
		if _, err := r.result(t); err != rpcx.ErrSlowReader || other != nil || calls != 1 {
			t.Errorf("returned %v after %d calls, the other call %v", err, calls, other)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		time.Sleep(2 * time.Second)
		noStreams(t, s)
	})
}

// In a handler that waits for its peer, a full ring holds up the reading for a second at most.
func TestCallProgressTied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got error
		s, w := newWire(t, handling(methods{"begin": func(ctx context.Context, req *rpcx.Request) (any, error) {
			_, got = rpcx.CallProgress[string](ctx, req.Session(), rpcx.LSPWorkDone, "work", nil, func(v int) {
				if v == 0 {
					_ = req.Session().Call(ctx, "other", nil, nil)
				}
			})
			return nil, nil
		}}))
		w.say(`{"jsonrpc":"2.0","method":"begin","id":1}`)
		synctest.Wait()
		takes(t, time.Second, func() {
			for i := range 1000 {
				w.say(fmt.Sprintf(lspNews, i))
			}
			w.say(`{"jsonrpc":"2.0","result":"done","id":1}`)
			synctest.Wait()
		})
		if got != rpcx.ErrSlowReader {
			t.Errorf("returned %v", got)
		}
		_ = s
	})
}

// A call can have two tokens: one is that of CallProgress, the other that of a stream.
func TestTwoTokensInOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type item struct{ N int }
		forms := []*rpcx.Correlation{rpcx.LSPWorkDone, rpcx.LSPPartialResult}
		search := func(ctx context.Context, req *rpcx.Request) (any, error) {
			work, part := rpcx.Progress(ctx), rpcx.ProgressOf(ctx, rpcx.LSPPartialResult)
			for i := range 3 {
				if err := errors.Join(work(fmt.Sprint("step ", i)), part([]item{{i}})); err != nil {
					return nil, err
				}
			}
			return []item{}, nil
		}
		s, _ := newPipe(t, nil, &rpcx.Options{Handler: methods{"search": search}, Correlations: forms})
		work, err := rpcx.StreamOf[string](s, rpcx.LSPWorkDone, "search-1")
		if err != nil {
			t.Fatal(err)
		}
		var found []item
		rest, err := rpcx.CallProgress[[]item](t.Context(), s, rpcx.LSPPartialResult, "search", map[string]any{"query": "x", "workDoneToken": "search-1"},
			func(part []item) { found = append(found, part...) })
		if err != nil || len(rest) != 0 {
			t.Errorf("returned %v, %v", rest, err)
		}
		if diff := cmp.Diff([]item{{0}, {1}, {2}}, found); diff != "" {
			t.Errorf("wrong results (-want +got):\n%s", diff)
		}
		has(t, work, "step 0", "step 1", "step 2")
		work.Close()
		noStreams(t, s)
	})
}

// Progress finds the token, wraps the value, and stops with the reply.
func TestProgress(t *testing.T) {
	listen := &rpcx.Correlation{Methods: []string{"news"}, ID: []string{"_meta", "id"}, CallID: true}
	all := []*rpcx.Correlation{rpcx.EthSubscription, rpcx.LSPWorkDone, rpcx.LSPPartialResult, rpcx.MCPProgress, listen}
	tests := []struct {
		name   string
		params string
		of     *rpcx.Correlation // for ProgressOf
		value  any
		meta   *rpcx.Meta
		want   string
	}{
		{"LSP", `{"workDoneToken":7}`, nil, "half", nil, `{"jsonrpc":"2.0","method":"$/progress","params":{"value":"half","token":7}}`},
		{"LSP with null", `{"workDoneToken":"a"}`, nil, nil, nil, `{"jsonrpc":"2.0","method":"$/progress","params":{"value":null,"token":"a"}}`},
		{"the first form", `{"partialResultToken":1,"workDoneToken":2}`, nil, 5, nil, `{"jsonrpc":"2.0","method":"$/progress","params":{"value":5,"token":2}}`},
		{"a later form", `{"partialResultToken":1}`, nil, 5, nil, `{"jsonrpc":"2.0","method":"$/progress","params":{"value":5,"token":1}}`},
		{"a form of choice", `{"partialResultToken":1,"workDoneToken":2}`, rpcx.LSPPartialResult, 5, nil, `{"jsonrpc":"2.0","method":"$/progress","params":{"value":5,"token":1}}`},
		{"a form of choice without a token", `{"workDoneToken":2}`, rpcx.LSPPartialResult, 5, nil, ""},
		{"MCP", `{"_meta":{"progressToken":"\u0061"}}`, nil, map[string]any{"progress": 1}, nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":"\u0061"}}`},
		{"MCP with Options.Meta", `{"_meta":{"progressToken":"a"}}`, nil, map[string]any{"progress": 1}, rpcx.MCPMeta, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":"a"}}`},
		{"MCP without values", `{"_meta":{"progressToken":"a"}}`, nil, nil, nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a"}}`},
		{"MCP with a forged token", `{"_meta":{"progressToken":"a"}}`, nil, map[string]any{"progressToken": "b"}, nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"a"}}`},
		{"the id of the call", `{}`, listen, map[string]any{"uri": "u"}, nil, `{"jsonrpc":"2.0","method":"news","params":{"uri":"u","_meta":{"id":1}}}`},
		{"the id of the call beside other data", `{}`, listen, map[string]any{"_meta": map[string]any{"a": 1}}, nil, `{"jsonrpc":"2.0","method":"news","params":{"_meta":{"a":1,"id":1}}}`},
		{"no token", `{}`, nil, 1, nil, ""},
		{"a token of another type", `{"workDoneToken":[1]}`, nil, 1, nil, ""},
		{"positional params", `[{"workDoneToken":1}]`, nil, 1, nil, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var send func(any) error
				opts := handling(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
					if send = rpcx.Progress(ctx); test.of != nil {
						send = rpcx.ProgressOf(ctx, test.of)
					}
					return nil, send(test.value)
				}))
				opts.Correlations, opts.Meta = all, test.meta
				_, w := newWire(t, opts)
				w.say(`{"jsonrpc":"2.0","method":"m","params":` + test.params + `,"id":1}`)
				want := []string{test.want, `{"jsonrpc":"2.0","result":null,"id":1}`}
				if test.want == "" {
					want = want[1:]
				}
				w.expect(want...)
				err := send(test.value)
				if test.want != "" {
					matches(t, err, context.Canceled)
				} else if err != nil {
					t.Errorf("the error is %v", err)
				}
				w.expectNothing()
			})
		})
	}
	if err := rpcx.Progress(t.Context())(1); err != nil {
		t.Errorf("outside of a handler: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		opts := handling(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			return fmt.Sprint(rpcx.Progress(ctx)(1)), nil
		}))
		opts.Correlations = all
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"m","params":{"_meta":{"progressToken":1}},"id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":"rpcx: without Correlation.Value, progress is an object with named values: pass a struct or a map","id":1}`)
	})
}

// Progress of another goroutine, and of a member of a batch, never leaves after the reply.
func TestProgressNeverAfterTheReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		some, stop := make(chan struct{}), make(chan struct{})
		opts := handling(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			send := rpcx.Progress(ctx)
			go func() {
				for i := 0; send(i) == nil; i++ {
					if i == 100 {
						close(some)
					}
				}
				close(stop)
			}()
			<-some
			return nil, nil
		}))
		opts.Correlations = []*rpcx.Correlation{rpcx.LSPWorkDone}
		_, w := newWire(t, opts)
		w.say(`[{"jsonrpc":"2.0","method":"m","params":{"workDoneToken":1},"id":1}]`)
		<-stop
		lines := w.heard()
		if len(lines) < 102 || !strings.HasPrefix(lines[len(lines)-1], "[") {
			t.Errorf("%d lines, the last is %.100s", len(lines), lines[len(lines)-1])
		}
	})
}
