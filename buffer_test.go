package rpcx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
)

// Buffers that are read into are used again by other sessions. Nothing that a
// handler or a caller has kept changes by that.
func TestBuffersOfOthersAreLeftAlone(t *testing.T) {
	noLeak(t)
	var mu sync.Mutex
	kept := map[string]json.RawMessage{} // what handlers were given
	srv := &rpcx.Server{Options: rpcx.Options{
		Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			kept[req.Method] = req.Params.Positional
			return req.Params.Positional, nil
		}),
		Limits: rpcx.Limits{CostOff: true},
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	var callers sync.WaitGroup
	for caller := range 6 {
		callers.Go(func() {
			s, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			rnd := rand.New(rand.NewPCG(uint64(caller), 0))
			sent, results := map[string]string{}, map[string]json.RawMessage{}
			for i := range 20 {
				method := fmt.Sprint(caller, ".", i)
				text := strings.Repeat(method, 1+rnd.IntN(1<<rnd.IntN(17)))
				got, err := rpcx.Call[json.RawMessage](t.Context(), s, method, rpcx.Args{text})
				if err != nil {
					t.Errorf("%s with %d bytes: %v", method, len(text), err)
					return
				}
				sent[method], results[method] = `["`+text+`"]`, got
			}
			mu.Lock()
			defer mu.Unlock()
			for method, want := range sent {
				if string(kept[method]) != want || string(results[method]) != want {
					t.Errorf("the argument or the result of %s has changed", method)
				}
			}
		})
	}
	callers.Wait()
	srv.Close()
	<-served
}
