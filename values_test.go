package rpcx_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

func TestValuesOfASession(t *testing.T) {
	type key struct{ name string }
	synctest.Test(t, func(t *testing.T) {
		a, b := newPipe(t, nil, &rpcx.Options{Handler: rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			derived, cancel := context.WithCancel(context.WithValue(ctx, key{"derived"}, "derived"))
			defer cancel()
			req.Session().SetValue(key{"set inside"}, "inside")
			return []any{
				derived.Value(key{"derived"}), derived.Value(key{"set before"}), derived.Value(key{"set inside"}),
				derived.Value(key{"removed"}), derived.Value(key{"never set"}), derived.Value("set before"),
			}, nil
		})})
		if got := b.Value(key{"set before"}); got != nil {
			t.Errorf("a new session has %v", got)
		}
		b.SetValue(key{"removed"}, nil) // there is none yet
		b.SetValue(key{"set before"}, "soon gone")
		b.SetValue(key{"set before"}, "before")
		b.SetValue(key{"removed"}, "still there")
		b.SetValue(key{"removed"}, nil)
		got, err := rpcx.Call[[]any](t.Context(), a, "m", nil)
		if want := []any{"derived", "before", "inside", nil, nil, nil}; err != nil || !slices.Equal(got, want) {
			t.Errorf("a handler has %v, %v, want %v", got, err, want)
		}
		if got := a.Value(key{"set before"}); got != nil {
			t.Errorf("the other end has %v", got)
		}
		b.OnClose(func(error) {
			if got := b.Value(key{"set inside"}); got != "inside" {
				t.Errorf("at the end there is %v", got)
			}
		})
		b.Close()
		<-b.Done()
	})
}
