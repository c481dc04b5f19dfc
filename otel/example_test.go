package otelrpcx_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
)

// A service that is called by services of its own network goes on with their traces. A
// program usually sets the global providers instead of the fields of Config.
func ExampleInstrument() {
	spans := tracetest.NewSpanRecorder()
	config := &otelrpcx.Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		Propagator:     propagation.TraceContext{},
		TrustPeer:      func(*rpcx.Session) bool { return true },
	}
	router := rpcx.NewRouter()
	router.Handle("add", rpcx.Func(func(a, b int) int { return a + b }))

	client, server := rpcx.Pipe(
		otelrpcx.Instrument(&rpcx.Options{Meta: rpcx.MemberMeta}, config),
		otelrpcx.Instrument(&rpcx.Options{Meta: rpcx.MemberMeta, Handler: router}, config))
	sum, err := rpcx.Call[int](context.Background(), client, "add", rpcx.Args{1, 2})
	fmt.Println(sum, err)
	client.Close()
	<-server.Done()

	ended := spans.Ended()
	for _, s := range spans.Started() {
		fmt.Println(s.SpanKind(), s.Name(), s.SpanContext().TraceID() == ended[0].SpanContext().TraceID())
	}
	// Output:
	// 3 <nil>
	// client add true
	// server add true
}
