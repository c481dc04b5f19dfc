package rpcx_test

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/rpcx"
)

// slowValue is decoded while the gate is closed.
type slowValue struct{}

var slowDecoding struct {
	entered       chan struct{}
	open          chan struct{}
	running, most atomic.Int64
}

func (*slowValue) UnmarshalJSON([]byte) error {
	d := &slowDecoding
	running := d.running.Add(1)
	for most := d.most.Load(); running > most && !d.most.CompareAndSwap(most, running); most = d.most.Load() {
	}
	d.entered <- struct{}{}
	<-d.open
	d.running.Add(-1)
	return nil
}

// Large params are decoded by fewer goroutines than there are processors, so that small
// requests do not wait for them.
func TestLargeParamsAreDecodedInTurn(t *testing.T) {
	const calls = 40
	for name, handler := range map[string]rpcx.Handler{
		"Func":          rpcx.Func(func(slowValue) {}),
		"Func of a map": rpcx.Func(func(map[string]slowValue) {}),
		"Bind": rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			return nil, req.Params.Bind(&struct{ V *slowValue }{})
		}),
	} {
		t.Run(name, func(t *testing.T) {
			d := &slowDecoding
			d.entered, d.open = make(chan struct{}, calls), make(chan struct{})
			d.running.Store(0)
			d.most.Store(0)
			router := rpcx.NewRouter()
			router.Handle("slow", handler)
			router.Handle("small", rpcx.Func(func(n int) int { return n }, "n"))
			opts := &rpcx.Options{Handler: router, Limits: rpcx.Limits{Concurrency: 2 * calls}}
			client, server := rpcx.Pipe(nil, opts)
			defer func() {
				client.Close()
				<-client.Done()
				<-server.Done()
			}()
			args := map[string]string{"v": strings.Repeat("x", 64<<10)}
			var params any = args
			if name == "Func" {
				params = rpcx.Args{args["v"]}
			}
			var futures []*rpcx.Future
			for range calls {
				futures = append(futures, client.Go(t.Context(), "slow", params))
			}
			slots := int64(max(1, runtime.GOMAXPROCS(0)-1))
			for range slots {
				<-d.entered
			}
			for n := range 100 {
				if got, err := rpcx.Call[int](t.Context(), client, "small", rpcx.Args{n}); got != n || err != nil {
					t.Fatalf("a small request: %d, %v", got, err)
				}
			}
			close(d.open)
			for _, f := range futures {
				if err := f.Wait(t.Context(), nil); err != nil {
					t.Error(err)
				}
			}
			if most := d.most.Load(); most > slots {
				t.Errorf("%d were decoded at once, with %d slots", most, slots)
			}
		})
	}
}
