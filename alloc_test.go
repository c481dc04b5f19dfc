package rpcx_test

import (
	"context"
	"encoding/json"
	"net"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// TestCallAllocs bounds the allocations of a small call over TCP, both ends
// together, the caller's own (three: the Args, their conversion, the result) included.
func TestCallAllocs(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes sync.Pool forget at random")
	}
	raw := rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
		params := req.Params.Positional
		return json.RawMessage(params[1 : len(params)-1]), nil
	})
	fn := rpcx.Func(func(_ context.Context, message string) (string, error) { return message, nil }, "message")
	for _, test := range []struct {
		name    string
		handler rpcx.Handler
		most    float64
	}{
		{"raw handler", raw, 10},
		{"Func", fn, 14},
	} {
		t.Run(test.name, func(t *testing.T) {
			if allocs := callAllocs(t, rpcx.Options{Handler: test.handler}); allocs > test.most {
				t.Errorf("%v allocations a call, want at most %v", allocs, test.most)
			}
		})
	}
	t.Run("accounting adds none", func(t *testing.T) {
		off := rpcx.Options{Handler: raw}
		off.Limits.CostOff = true
		on := rpcx.Options{Handler: raw}
		on.Limits.CostPerByte = 1e-3 // charged for each message
		on.Limits.Group = func(*rpcx.Session) string { return "all" }
		without, with := callAllocs(t, off), callAllocs(t, on)
		if with > without {
			t.Errorf("%v allocations a call with accounting, %v without", with, without)
		}
	})
}

// callAllocs returns the allocations of an echo by a server with opts.
func callAllocs(t *testing.T, opts rpcx.Options) float64 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &rpcx.Server{Options: opts}
	go srv.Serve(l)
	defer srv.Wait(context.Background())
	defer srv.Close()
	s, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	allocs := testing.AllocsPerRun(2000, func() {
		var reply string
		if err := s.Call(ctx, "echo", rpcx.Args{"Howdy"}, &reply); err != nil || reply != "Howdy" {
			t.Fatalf("reply %q, error %v", reply, err)
		}
	})
	t.Logf("%v allocations a call", allocs)
	return allocs
}
