package embedded_test

import (
	"context"
	"testing"

	"example.com/rpcx"
	natsrpcx "example.com/rpcx/nats"
)

// router returns the methods of most workers.
func router() *rpcx.Router {
	r := rpcx.NewRouter()
	r.Handle("sum", rpcx.Func(func(_ context.Context, values ...float64) (float64, error) {
		total := 0.0
		for _, v := range values {
			total += v
		}
		return total, nil
	}))
	r.Handle("echo", rpcx.Func(func(_ context.Context, v string) (string, error) { return v, nil }, "v"))
	r.Handle("refuse", rpcx.Func(func() error { return rpcx.Errorf(42, "refused").WithData([]int{1}) }))
	return r
}

func TestACallReachesAWorkerThroughAGateway(t *testing.T) {
	bus := newBus(t)
	c := natsrpcx.Config{Conn: bus.Conn}
	work(t, &rpcx.Server{Options: rpcx.Options{Handler: router()}}, c)
	s := gateway(t, c, rpcx.Options{}, nil)
	isServed(t, s, "sum", rpcx.Args{1, 2})
	if sum, err := rpcx.Call[float64](t.Context(), s, "sum", rpcx.Args{1, 2, 3}); err != nil || sum != 6 {
		t.Errorf("sum: %v, %v", sum, err)
	}
	if v, err := rpcx.Call[string](t.Context(), s, "echo", map[string]any{"v": "é \u2028"}); err != nil || v != "é \u2028" {
		t.Errorf("echo: %q, %v", v, err)
	}
}
