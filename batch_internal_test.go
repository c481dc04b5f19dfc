package rpcx

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
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
		{"raw handler, 10", raw, 10, 3.8, 1500},
		{"raw handler, 100", raw, 100, 1.6, 780},
		{"Func, 100", text, 100, 2.6, 780},
		{"raw handler, 10,000", raw, 10_000, 1.5, 1100},
		{"Func, 10,000", text, 10_000, 2.5, 1100},
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

// TestStringsOfABatchShareMemory checks that strings of every kind reach their destinations,
// that a string filled before stays, and that shared memory is bounded.
func TestStringsOfABatchShareMemory(t *testing.T) {
	s, peer := Pipe(nil, &Options{Handler: HandlerFunc(func(_ context.Context, req *Request) (any, error) {
		var v []any
		if err := req.Params.Bind(&v); err != nil {
			return nil, err
		}
		if v[0] == "fail" {
			return nil, InvalidParams("failed")
		}
		return v[0], nil
	})})
	long := strings.Repeat("long ", 100)
	values := []any{"", "a", "b\nc", "é", long, "d", 7, "fail", "e", "f", nil, "g"}
	for range 100 {
		values = append(values, "the same text of a few bytes")
	}
	var b Batch
	results := make([]string, len(values))
	futures := make([]*Future, len(values))
	for i, v := range values {
		futures[i] = b.Call("echo", Args{v}, &results[i])
	}
	all := s.GoBatch(t.Context(), &b)
	<-all.Done()
	if err := futures[9].Wait(t.Context(), nil); err != nil || results[9] != "f" {
		t.Errorf("the member has %q, %v", results[9], err)
	}
	results[9] = "changed by the user"
	failed, ok := errors.AsType[*BatchError](all.Wait(t.Context(), nil))
	if !ok {
		t.Fatal("the batch has not failed")
	}
	for i, v := range values {
		want, isText := v.(string)
		switch failure := failed.Errs[i]; {
		case i == 9:
			want = "changed by the user"
		case want == "fail", !isText && v != nil:
			if want = ""; failure == nil {
				t.Errorf("member %d has not failed", i)
			}
		case failure != nil:
			t.Errorf("member %d: %v", i, failure)
		}
		if results[i] != want {
			t.Errorf("result %d is %q, want %q", i, results[i], want)
		}
	}
	run := textRun{members: b.members}
	for i := range b.members {
		if run.textOf(i); len(run.text) > maxSharedArena {
			t.Errorf("strings share %d bytes", len(run.text))
		}
	}
	s.Close()
	<-s.Done()
	<-peer.Done()
}
