package otelrpcx_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"example.com/rpcx"
	otelrpcx "example.com/rpcx/otel"
)

// serverVariant is the environment variable that makes the test program a server for
// BenchmarkCall.
const serverVariant = "OTELRPCX_BENCHMARK_SERVER"

// benchmarkVariants are the ways in which both ends are instrumented.
var benchmarkVariants = []struct {
	name    string
	meta    *rpcx.Meta
	sampler sdktrace.Sampler // nil: not instrumented
}{
	{"plain", nil, nil},
	{"sampling off", nil, sdktrace.NeverSample()},
	{"sampling off, with Meta", rpcx.MemberMeta, sdktrace.NeverSample()},
	{"sampling on, with Meta", rpcx.MemberMeta, sdktrace.AlwaysSample()},
}

// benchmarkOptions returns the options of one end.
func benchmarkOptions(variant string, opts rpcx.Options) *rpcx.Options {
	for _, v := range benchmarkVariants {
		if v.name == variant && v.sampler != nil {
			opts.Meta = v.meta
			return otelrpcx.Instrument(&opts, &otelrpcx.Config{
				TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(v.sampler)),
				MeterProvider:  metric.NewMeterProvider(metric.WithReader(metric.NewManualReader())),
				Propagator:     propagation.TraceContext{},
			})
		}
	}
	return &opts
}

// serveBenchmark prints the address of a server, and serves until the end of the input.
func serveBenchmark(variant string) {
	r := rpcx.NewRouter()
	r.Handle("echo", rpcx.Func(func(ctx context.Context, s string) (string, error) { return s, nil }))
	srv := &rpcx.Server{Options: *benchmarkOptions(variant, rpcx.Options{Handler: r, Limits: rpcx.Limits{CostOff: true}})}
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Println(l.Addr())
	// Owner: the process. End: that of the process.
	go srv.Serve(l)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// BenchmarkCall measures a small call between two processes over TCP, instrumented at both
// ends: one at a time, and with as many in flight as the session allows.
func BenchmarkCall(b *testing.B) {
	for _, v := range benchmarkVariants {
		connect := func(b *testing.B) *rpcx.Session {
			cmd := exec.Command(must(os.Executable()))
			cmd.Env = append(os.Environ(), serverVariant+"="+v.name)
			stdin, stdout := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
			addr := strings.TrimSpace(must(bufio.NewReader(stdout).ReadString('\n')))
			s := must(rpcx.Dial(context.Background(), "tcp://"+addr, benchmarkOptions(v.name, rpcx.Options{})))
			b.Cleanup(func() { s.Close(); <-s.Done() })
			return s
		}
		call := func(b *testing.B, s *rpcx.Session) {
			var out string
			if err := s.Call(context.Background(), "echo", rpcx.Args{"hi"}, &out); err != nil {
				b.Error(err)
			}
		}
		b.Run("one at a time/"+v.name, func(b *testing.B) {
			s := connect(b)
			b.ReportAllocs()
			for b.Loop() {
				call(b, s)
			}
		})
		b.Run("in flight/"+v.name, func(b *testing.B) {
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
