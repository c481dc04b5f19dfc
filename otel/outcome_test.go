package otelrpcx_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
)

// silent is a transport that gives no answers.
type silent struct{}

func (silent) RoundTrip(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func (silent) Close() error { return nil }

// await waits for a call, and returns the error.
func await(f *rpcx.Future) error {
	<-f.Done()
	return f.Decode(nil)
}

// With an errgroup, a call that is given up ends with the error of another call. The error
// is then no answer.
func TestCallsGivenUpForTheErrorOfAnotherCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		p := tel.connect(t, "pipe", rpcx.Options{}, rpcx.Options{Handler: router(make(chan struct{}, 9))})
		x := rpcx.NewExchange(silent{}, tel.instrument(rpcx.Options{}))
		for name, call := range map[string]func(ctx context.Context) error{
			"Session.Call":  func(ctx context.Context) error { return p.client.Call(ctx, "sleep", nil, nil) },
			"Session.Go":    func(ctx context.Context) error { return await(p.client.Go(ctx, "sleep", nil)) },
			"Exchange.Call": func(ctx context.Context) error { return x.Call(ctx, "sleep", nil, nil) },
			"Exchange.Go":   func(ctx context.Context) error { return await(x.Go(ctx, "sleep", nil)) },
		} {
			ctx, cancel := context.WithCancelCause(context.Background())
			cause := rpcx.Errorf(7, "the answer to another call")
			time.AfterFunc(time.Second, func() { cancel(cause) }) // in a bubble
			if err := call(ctx); err != error(cause) {
				t.Errorf("%s: %v", name, err)
			}
		}
		x.Close()
		p.close()
		want := map[string]uint64{"error.type=cancelled rpc.method=sleep": 4}
		if got := tel.series(t, "rpc.client.call.duration"); !maps.Equal(got, want) {
			t.Errorf("%v", got)
		}
	})
}

// A gateway gets the names of methods from its clients: none has a series by default, unless
// a router within has the method.
func TestMethodsOfForward(t *testing.T) {
	answer := rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return nil, nil })
	for name, test := range map[string]struct {
		handler rpcx.Handler
		methods func(string) bool
		want    map[string]uint64
	}{
		"default":        {answer, nil, map[string]uint64{"rpc.method=_OTHER": 10_000}},
		"Config.Methods": {answer, func(m string) bool { return m == "m7" }, map[string]uint64{"rpc.method=m7": 1, "rpc.method=_OTHER": 9999}},
		"router":         {oneMethod(t, "m7"), nil, map[string]uint64{"rpc.method=m7": 1, "error.type=-32601 rpc.method=_OTHER rpc.status_code=-32601": 9999}},
	} {
		tel := newTelemetry()
		tel.config.Methods = test.methods
		h := otelrpcx.InstrumentForward(test.handler, &tel.config)
		for i := range 10_000 {
			_, _ = h.ServeRPC(t.Context(), &rpcx.Request{Method: fmt.Sprint("m", i)})
		}
		if got := tel.series(t, "rpc.client.call.duration"); !maps.Equal(got, test.want) {
			t.Errorf("%s: %d series, %.200v", name, len(got), fmt.Sprint(got))
		}
	}
}

// oneMethod returns a router with a method.
func oneMethod(t *testing.T, name string) *rpcx.Router {
	t.Helper()
	r := rpcx.NewRouter()
	r.Handle(name, rpcx.Func(func() {}))
	return r
}
