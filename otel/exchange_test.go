package otelrpcx_test

import (
	"context"
	"testing"
	"testing/synctest"

	"go.opentelemetry.io/otel/trace"

	"example.com/rpcx"
)

// direct brings messages to a server within the program. Like the middleware of a web
// server, it has a span of its own for each message.
type direct struct {
	tel *telemetry
	srv *rpcx.Server
}

func (d direct) RoundTrip(_ context.Context, msg []byte) ([]byte, error) {
	ctx, span := d.tel.tracer.Start(context.Background(), "POST", trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	return d.srv.ServeMessage(ctx, nil, msg, nil)
}

func (d direct) Close() error { return nil }

// An exchange has the same spans as a session. If the peer is trusted, the SERVER span is
// in the trace of the call and linked to the span of the transport, and otherwise the other
// way round.
func TestTreeOfAnExchange(t *testing.T) {
	for _, test := range []struct {
		trusted bool
		want    string
	}{
		{true, `
		program
			CLIENT add jsonrpc.request.id=0
				SERVER add jsonrpc.request.id=0 → server POST
			CLIENT note
				SERVER note → server POST
			jsonrpc batch rpcx.batch.size=1
				CLIENT add jsonrpc.request.id=1
					SERVER add jsonrpc.request.id=1 rpcx.batch.number=1 rpcx.batch.size=1 → server POST
		SERVER POST
		SERVER POST
		SERVER POST`},
		{false, `
		program
			CLIENT add jsonrpc.request.id=0
			CLIENT note
			jsonrpc batch rpcx.batch.size=1
				CLIENT add jsonrpc.request.id=1
		SERVER POST
			SERVER add jsonrpc.request.id=0 → client add
		SERVER POST
			SERVER note → client note
		SERVER POST
			SERVER add jsonrpc.request.id=1 rpcx.batch.number=1 rpcx.batch.size=1 → client add`},
	} {
		synctest.Test(t, func(t *testing.T) {
			tel := newTelemetry()
			tel.config.TrustPeer = func(*rpcx.Session) bool { return test.trusted }
			srv := &rpcx.Server{Options: *tel.instrument(rpcx.Options{Handler: router(nil)})}
			x := rpcx.NewExchange(direct{tel, srv}, tel.instrument(rpcx.Options{}))
			ctx, span := tel.tracer.Start(t.Context(), "program")
			if err := x.Call(ctx, "add", rpcx.Args{1, 2}, nil); err != nil {
				t.Error(err)
			}
			if err := x.Notify(ctx, "note", rpcx.Args{"x"}); err != nil {
				t.Error(err)
			}
			var b rpcx.Batch
			b.Call("add", rpcx.Args{1, 2}, nil)
			if err := x.SendBatch(ctx, &b); err != nil {
				t.Error(err)
			}
			span.End()
			x.Close()
			srv.Close()
			_ = srv.Wait(context.Background())
			tel.wantTree(t, test.want)
		})
	}
}
