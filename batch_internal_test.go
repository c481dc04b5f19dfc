package rpcx

import (
	"context"
	"encoding/json"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"

	"example.com/rpcx/internal/race"
)

// TestMemoryOfABatch bounds the allocations and bytes of a member, there and back, at both
// ends: Batch.Call, the sending, the handler, the reply, and the destination. The caller
// has made the params before. Some of the memory is that of the user: a handler's result
// as a value of type any, and for Func also the argument.
func TestMemoryOfABatch(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	raw := HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		params := req.Params.Positional
		return params[1 : len(params)-1], nil
	})
	text := Func(func(_ context.Context, text string) (string, error) { return text, nil }, "text")
	for _, test := range []struct {
		name          string
		handler       Handler
		members       int
		allocs, bytes float64 // of a member, at most
	}{
		{"raw handler, 10", raw, 10, 4.6, 1500},
		{"raw handler, 100", raw, 100, 2.5, 780},
		{"Func, 100", text, 100, 3.5, 780},
		{"raw handler, 10,000", raw, 10_000, 2.4, 1100},
		{"Func, 10,000", text, 10_000, 3.4, 1100},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, peer := Pipe(&Options{Limits: Limits{Outgoing: -1}}, &Options{Handler: test.handler, Limits: Limits{CostOff: true}})
			params := make([]any, test.members)
			for i := range params {
				params[i] = Args{"caller 1, text " + strconv.Itoa(i)}
			}
			results := make([]string, test.members)
			send := func() {
				var b Batch
				for i := range params {
					b.Call("echo", params[i], &results[i])
				}
				if err := s.SendBatch(t.Context(), &b); err != nil {
					t.Fatal(err)
				}
			}
			send()
			defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
			send()
			runs := max(2, 1000/test.members)
			allocs := testing.AllocsPerRun(runs, send) / float64(test.members)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				send()
			}
			runtime.ReadMemStats(&after)
			bytes := float64(after.TotalAlloc-before.TotalAlloc) / float64(runs*test.members)
			t.Logf("a member takes %.2f allocations and %.0f bytes", allocs, bytes)
			if allocs > test.allocs || bytes > test.bytes {
				t.Errorf("want at most %v allocations and %v bytes", test.allocs, test.bytes)
			}
			for i, got := range results {
				if want, _ := json.Marshal(params[i]); `["`+got+`"]` != string(want) {
					t.Fatalf("result %d is %q", i, got)
				}
			}
			s.Close()
			<-s.Done()
			<-peer.Done()
		})
	}
}
