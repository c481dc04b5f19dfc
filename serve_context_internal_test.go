package rpcx

import (
	"context"
	"testing"
	"time"
)

// TestOwnContextKeyIsTheOnlyKey checks what needsReal relies on: package context asks a
// parent of a foreign type for one key, in every function. If this test fails with a new
// version of Go, needsReal has to know the other keys: contexts that derive from a lazy
// context would each need a goroutine, or context.Cause would miss the cause.
func TestOwnContextKeyIsTheOnlyKey(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background()) // Cause asks only a context with an error
	cancel()
	for name, derive := range map[string]func(context.Context) func(){
		"WithCancel": func(ctx context.Context) func() {
			_, cancel := context.WithCancel(ctx)
			return cancel
		},
		"WithCancelCause": func(ctx context.Context) func() {
			_, cancel := context.WithCancelCause(ctx)
			return func() { cancel(nil) }
		},
		"WithTimeout": func(ctx context.Context) func() {
			_, cancel := context.WithTimeout(ctx, time.Hour)
			return cancel
		},
		"WithDeadlineCause": func(ctx context.Context) func() {
			_, cancel := context.WithDeadlineCause(ctx, time.Now().Add(time.Hour), context.Canceled)
			return cancel
		},
		"AfterFunc": func(ctx context.Context) func() {
			stop := context.AfterFunc(ctx, func() {})
			return func() { stop() }
		},
		"a child of WithValue": func(ctx context.Context) func() {
			_, cancel := context.WithCancel(context.WithValue(ctx, &ownContextKey, 1))
			return cancel
		},
		"Cause": func(ctx context.Context) func() {
			_ = context.Cause(ctx)
			return func() {}
		},
	} {
		var keys []any
		derive(keyProbe{ended, make(chan struct{}), func(key any) { keys = append(keys, key) }})()
		if len(keys) == 0 {
			t.Errorf("%s asks for no key", name)
		}
		for _, key := range keys {
			if key != ownContextKey {
				t.Errorf("%s asks for %v (%T), not only for %v", name, key, key, ownContextKey)
			}
		}
	}
	if ownContextKey == nil {
		t.Error("package context asks for no key")
	}
}

// TestValueMakesNoRealContext checks that looking for a value in the context of a handler or
// a task allocates nothing.
func TestValueMakesNoRealContext(t *testing.T) {
	type key struct{}
	s, peer := Pipe(nil, &Options{Handler: HandlerFunc(func(ctx context.Context, req *Request) (any, error) {
		ask := func() {
			if v := ctx.Value(key{}); v != nil {
				t.Errorf("the value is %v", v)
			}
		}
		if n := testing.AllocsPerRun(100, ask); n > 0 {
			t.Errorf("a value of a handler's context takes %v allocations", n)
		}
		if h := handlerOf(ctx); h.end.state.Load() != nil {
			t.Error("the value made a real context")
		}
		return nil, nil
	})})
	if err := s.Call(t.Context(), "m", nil, nil); err != nil {
		t.Error(err)
	}
	s.Close()
	<-s.Done()
	<-peer.Done()

	parent := context.WithValue(context.Background(), key{}, "of the parent")
	c := &lazyContext{parent: parent}
	if v := c.Value(key{}); v != "of the parent" || c.end.state.Load() != nil {
		t.Errorf("the value is %v, and the state %v", v, c.end.state.Load())
	}
	c.endWith(context.Canceled)
	if v := c.Value(key{}); v != "of the parent" || c.end.state.Load() != taskFinished {
		t.Errorf("after the end, the value is %v, and the state %v", v, c.end.state.Load())
	}
	if err := context.Cause(c); err != context.Canceled || c.end.state.Load() == taskFinished || taskFinished.real != nil {
		t.Errorf("the cause is %v", err)
	}
}
