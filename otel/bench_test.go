package otelrpcx_test

import (
	"context"
	"net"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
)

// BenchmarkCall measures a small call over TCP, instrumented at both ends: one at a time,
// and with as many in flight as the session allows.
func BenchmarkCall(b *testing.B) {
	config := func(sampler sdktrace.Sampler) *otelrpcx.Config {
		return &otelrpcx.Config{
			TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)),
			MeterProvider:  metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())),
			Propagator:     propagation.TraceContext{},
		}
	}
	for _, variant := range []struct {
		name   string
		meta   *rpcx.Meta
		config *otelrpcx.Config // nil: not instrumented
	}{
		{"plain", nil, nil},
		{"sampling off", nil, config(sdktrace.NeverSample())},
		{"sampling off, with Meta", rpcx.MemberMeta, config(sdktrace.NeverSample())},
		{"sampling on, with Meta", rpcx.MemberMeta, config(sdktrace.AlwaysSample())},
	} {
		r := rpcx.NewRouter()
		r.Handle("echo", rpcx.Func(func(s string) string { return s }))
		connect := func(b *testing.B) *rpcx.Session {
			server, client := &rpcx.Options{Handler: r, Meta: variant.meta, Limits: rpcx.Limits{CostOff: true}}, &rpcx.Options{Meta: variant.meta}
			if variant.config != nil {
				server, client = otelrpcx.Instrument(server, variant.config), otelrpcx.Instrument(client, variant.config)
			}
			srv := &rpcx.Server{Options: *server}
			l := must(net.Listen("tcp", "127.0.0.1:0"))
			// Owner: the benchmark. End: srv.Close.
			go srv.Serve(l)
			b.Cleanup(func() { srv.Close(); _ = srv.Wait(context.Background()) })
			s := must(rpcx.Dial(context.Background(), "tcp://"+l.Addr().String(), client))
			b.Cleanup(func() { s.Close(); <-s.Done() })
			return s
		}
		call := func(b *testing.B, s *rpcx.Session) {
			var out string
			if err := s.Call(context.Background(), "echo", rpcx.Args{"hi"}, &out); err != nil {
				b.Error(err)
			}
		}
		b.Run("one at a time/"+variant.name, func(b *testing.B) {
			s := connect(b)
			b.ReportAllocs()
			for b.Loop() {
				call(b, s)
			}
		})
		b.Run("in flight/"+variant.name, func(b *testing.B) {
			s := connect(b)
			b.ReportAllocs()
			b.SetParallelism(25)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					call(b, s)
				}
			})
		})
	}
}
