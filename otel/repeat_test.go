package otelrpcx_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// A call that a Client repeats has a span for each attempt.
func TestTreeOfARepeatedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := newTelemetry()
		attempts := 0
		r := router(nil)
		r.Handle("get", rpcx.Func(func(s *rpcx.Session) (string, error) {
			if attempts++; attempts == 1 {
				s.Close()
			}
			return "value", nil
		}))
		srv := &rpcx.Server{Options: *tel.instrument(rpcx.Options{Handler: r})}
		client := rpcx.NewClient(&rpcx.ClientOptions{
			Addrs:   []string{"the server"},
			Options: *tel.instrument(rpcx.Options{}),
			Connect: func(_ context.Context, _ string, opts *rpcx.Options) (*rpcx.Session, error) {
				here, there := net.Pipe()
				srv.ServeConn(there)
				return rpcx.NewSession(here, opts), nil
			},
			Idempotent: func(string) bool { return true },
		})
		ctx, span := tel.tracer.Start(t.Context(), "program")
		if v, err := rpcx.Call[string](ctx, client, "get", nil); v != "value" || err != nil {
			t.Error(v, err)
		}
		span.End()
		client.Close()
		<-client.Done()
		srv.Close()
		_ = srv.Wait(context.Background())
		tel.wantTree(t, `
		program
			CLIENT get error.type=connection_lost jsonrpc.request.id=0
				SERVER get jsonrpc.request.id=0
			CLIENT get jsonrpc.request.id=0 rpcx.attempt=2
				SERVER get jsonrpc.request.id=0`)
	})
}

// A subscription is a call. The values of a hub have no spans; a notification of a handler
// has.
func TestTreeOfASubscription(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		hub := new(rpcx.Hub)
		r := router(nil)
		subscribe, unsubscribe := hub.Handlers(rpcx.EthSubscription, func(context.Context, *rpcx.Request) (string, error) { return "heads", nil }, nil)
		r.Handle("eth_subscribe", subscribe)
		r.Handle("eth_unsubscribe", unsubscribe)
		r.Handle("tell", rpcx.Func(func(ctx context.Context, s *rpcx.Session) error { return s.Notify(ctx, "tick", rpcx.Args{1}) }))
		ticked := make(chan struct{})
		p := newTelemetry().connect(t, transport, rpcx.Options{Handler: names(ticked), Order: rpcx.Sequential}, rpcx.Options{Handler: r})

		stream, err := rpcx.Subscribe[int](context.Background(), p.client, rpcx.Subscription{
			Method: "eth_subscribe", Params: rpcx.Args{"newHeads"}, Correlation: rpcx.EthSubscription,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, span := p.tracer.Start(t.Context(), "publisher")
		if err := hub.Publish(ctx, "heads", 5); err != nil {
			t.Error(err)
		}
		span.End()
		if v, err := stream.Next(context.Background()); v != 5 || err != nil {
			t.Error(v, err)
		}
		if err := p.client.Call(context.Background(), "tell", nil, nil); err != nil {
			t.Error(err)
		}
		<-ticked // Shutdown drops what waits
		p.srv.Shutdown(context.Background())
		p.client.Shutdown(context.Background())
		p.close()
		p.wantTree(t, `
		CLIENT eth_subscribe jsonrpc.request.id=0
			SERVER eth_subscribe jsonrpc.request.id=0
		publisher
		CLIENT tell jsonrpc.request.id=1
			SERVER tell jsonrpc.request.id=1
				CLIENT tick
					SERVER tick`)
	})
}

// A failed member of OnCall, and a session that has ended, fail the call before it is sent.
func TestTreeOfACallThatIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		forbidden := errors.New("forbidden")
		tel := newTelemetry()
		p := tel.connect(t, "pipe", rpcx.Options{OnCall: []func(context.Context, *rpcx.OutgoingCall) (context.Context, func(error), error){
			func(ctx context.Context, c *rpcx.OutgoingCall) (context.Context, func(error), error) {
				if c.Method == "refuse" {
					return nil, nil, forbidden
				}
				return nil, nil, nil
			},
		}}, rpcx.Options{Handler: router(nil)})
		if err := p.client.Call(context.Background(), "refuse", nil, nil); err != forbidden {
			t.Error(err)
		}
		p.client.Close()
		if err := p.client.Call(context.Background(), "add", rpcx.Args{1, 2}, nil); !errors.Is(err, rpcx.ErrClosed) {
			t.Error(err)
		}
		p.close()
		p.wantTree(t, `
		CLIENT refuse error.type=_OTHER
		CLIENT add error.type=closed jsonrpc.request.id=0`)
	})
}
