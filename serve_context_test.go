package rpcx_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// TestRequestSeq checks the numbers, times and places of requests.
func TestRequestSeq(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var got []string
		opts := handling(rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			n, of := req.Batch()
			got = append(got, fmt.Sprintf("%d %s %d/%d %v", req.Seq(), req.Method, n, of, req.Arrived().Sub(start)))
			return nil, nil
		}))
		opts.Cancellation = rpcx.LSPCancellation
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"a","id":1}`, `{"jsonrpc":"2.0","method":"b"}`,
			`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":9}}`, `no JSON`)
		time.Sleep(time.Second)
		w.say(`[{"jsonrpc":"2.0","method":"c","id":2},1,{"jsonrpc":"2.0","method":"d"}]`)
		time.Sleep(time.Second)
		w.say(`{"jsonrpc":"2.0","method":"e"}`)
		synctest.Wait()
		want := []string{"1 a 0/0 0s", "2 b 0/0 0s", "3 c 1/3 1s", "4 d 3/3 1s", "5 e 0/0 2s"}
		slices.Sort(got) // handlers run concurrently
		if !slices.Equal(got, want) {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	})
}

// TestSeqOfRefusedRequests checks that a refused request takes a number.
func TestSeqOfRefusedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate)
		seqs := make(chan uint64, 10)
		opts := handling(rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			seqs <- req.Seq()
			return g.ServeRPC(ctx, req)
		}))
		opts.Limits.Concurrency = 1
		opts.Limits.ProcessingTimeout = time.Second
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"a","id":1}`, `{"jsonrpc":"2.0","method":"b","id":2}`)
		time.Sleep(2 * time.Second) // b has timed out
		w.say(`{"jsonrpc":"2.0","method":"c","id":3}`)
		close(g)
		synctest.Wait()
		if a, c := <-seqs, <-seqs; a != 1 || c != 3 || len(seqs) > 0 {
			t.Errorf("the numbers are %d and %d", a, c)
		}
	})
}

// TestRequestOfATest checks the methods of a Request that no session has made.
func TestRequestOfATest(t *testing.T) {
	var req rpcx.Request
	n, of := req.Batch()
	if req.Seq() != 0 || !req.Arrived().IsZero() || n != 0 || of != 0 || req.Session() != nil {
		t.Errorf("%d, %v, %d of %d, %v", req.Seq(), req.Arrived(), n, of, req.Session())
	}
}

type contextKey struct{}

// TestOptionsContext checks that handlers and middleware get the context of
// Options.Context.
func TestOptionsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []any
		opts := handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			seen = append(seen, ctx.Value(contextKey{}), rpcx.RequestFromContext(ctx) == req)
			return hang(ctx, req)
		}})
		opts.Limits.ProcessingTimeout = time.Second
		opts.Middleware = []func(rpcx.Handler) rpcx.Handler{func(next rpcx.Handler) rpcx.Handler {
			return rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
				seen = append(seen, ctx.Value(contextKey{}))
				return next.ServeRPC(ctx, req)
			})
		}}
		opts.Context = func(ctx context.Context, req *rpcx.Request) context.Context {
			deadline, _ := ctx.Deadline()
			seen = append(seen, deadline.Equal(req.Arrived().Add(time.Second)))
			return context.WithValue(ctx, contextKey{}, req.Seq())
		}
		_, w := newWire(t, opts)
		w.say(`{"jsonrpc":"2.0","method":"m"}`)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if want := []any{true, uint64(1), uint64(1), true}; !slices.Equal(seen, want) {
			t.Errorf("seen %v, want %v", seen, want)
		}
	})
}

// TestOptionsContextThatFails checks that a wrong result, and a panic, are a handler's
// panic.
func TestOptionsContextThatFails(t *testing.T) {
	for text, f := range map[string]func(ctx context.Context, req *rpcx.Request) context.Context{
		"rpcx: Options.Context has returned nil: return ctx if there is nothing to add": func(context.Context, *rpcx.Request) context.Context {
			return nil
		},
		"rpcx: Options.Context has returned a context that does not derive from ctx": func(context.Context, *rpcx.Request) context.Context {
			return context.Background()
		},
		"out of order": func(context.Context, *rpcx.Request) context.Context { panic("out of order") },
	} {
		t.Run(text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				opts := handling(methods{"m": func(context.Context, *rpcx.Request) (any, error) {
					t.Error("the handler was called")
					return nil, nil
				}})
				opts.Context = f
				opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
				s, w := newWire(t, opts)
				w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
				w.expect(`{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":1}`)
				s.Close()
				ended(t, s)
				if want := fmt.Sprintf(`msg="handler panicked" peer=pipe method=m panic=%s`, strconv.Quote(text)); !strings.Contains(log.String(), want) {
					t.Errorf("the log has no %s:\n%s", want, log.String())
				}
			})
		})
	}
}

// TestRequestHooksAllocs checks the allocations of hooks: none of those that are not set,
// and at most two of those that are.
func TestRequestHooksAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	raw := func(ctx context.Context, req *rpcx.Request) (any, error) { return reply(ctx, req) }
	f := func(error) {}
	with := rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
		rpcx.AfterReply(ctx, f)
		return raw(ctx, req)
	})
	plain := callAllocs(t, rpcx.Options{Handler: rpcx.HandlerFunc(raw)})
	if got := callAllocs(t, rpcx.Options{Handler: with}); got > plain+2 {
		t.Errorf("with AfterReply %v allocations, without %v", got, plain)
	}
	if got := callAllocs(t, rpcx.Options{Handler: rpcx.HandlerFunc(raw), Context: func(ctx context.Context, _ *rpcx.Request) context.Context {
		return ctx
	}}); got > plain {
		t.Errorf("with Options.Context %v allocations, without %v", got, plain)
	}
}
