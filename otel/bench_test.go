package otelrpcx_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// connectBenchmark starts a server process, and connects to it. The result pid is that of
// the server.
func connectBenchmark(b *testing.B, variant string) (s *rpcx.Session, pid int) {
	cmd := exec.Command(must(os.Executable()))
	cmd.Env = append(os.Environ(), serverVariant+"="+variant)
	stdin, stdout := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	addr := strings.TrimSpace(must(bufio.NewReader(stdout).ReadString('\n')))
	s = must(rpcx.Dial(context.Background(), "tcp://"+addr, benchmarkOptions(variant, rpcx.Options{})))
	b.Cleanup(func() { s.Close(); <-s.Done() })
	return s, cmd.Process.Pid
}

func callBenchmark(b *testing.B, s *rpcx.Session) {
	var out string
	if err := s.Call(context.Background(), "echo", rpcx.Args{"hi"}, &out); err != nil {
		b.Error(err)
	}
}

// BenchmarkCall measures a small call between two processes over TCP, instrumented at both
// ends: one at a time, and with as many in flight as the session allows.
func BenchmarkCall(b *testing.B) {
	for _, v := range benchmarkVariants {
		b.Run("one at a time/"+v.name, func(b *testing.B) {
			s, _ := connectBenchmark(b, v.name)
			b.ReportAllocs()
			for b.Loop() {
				callBenchmark(b, s)
			}
		})
		b.Run("in flight/"+v.name, func(b *testing.B) {
			s, _ := connectBenchmark(b, v.name)
			b.ReportAllocs()
			b.SetParallelism(25)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					callBenchmark(b, s)
				}
			})
		})
	}
}

// BenchmarkInTurns compares the variants on a busy machine: calls of all of them, 100 of
// each in turn, so that each has the same neighbours. It reports the turn at a tenth, since a
// quick turn had no neighbours, the median, the processor time of both processes, and how
// many percent more than without instrumentation.
func BenchmarkInTurns(b *testing.B) {
	const turn = 100
	type run struct {
		session *rpcx.Session
		pid     int
		wall    []float64 // of the turns, in µs a call
		cpu     float64   // of all turns, in µs
	}
	runs := make([]run, len(benchmarkVariants))
	for i, v := range benchmarkVariants {
		runs[i].session, runs[i].pid = connectBenchmark(b, v.name)
		callBenchmark(b, runs[i].session)
	}
	for b.Loop() {
		for i := range runs {
			r := &runs[i]
			own, start := processorTimeOf(os.Getpid()), time.Now()
			for range turn {
				callBenchmark(b, r.session)
			}
			r.wall = append(r.wall, time.Since(start).Seconds()*1e6/turn)
			r.cpu += (processorTimeOf(os.Getpid()) - own).Seconds() * 1e6
		}
	}
	calls := float64(b.N * turn)
	var plain [3]float64
	for i := range runs {
		r := &runs[i]
		slices.Sort(r.wall)
		now := [3]float64{r.wall[len(r.wall)/10], r.wall[len(r.wall)/2], (r.cpu + processorTimeOf(r.pid).Seconds()*1e6) / calls}
		if i == 0 {
			plain = now
		}
		more := func(k int) float64 { return 100 * (now[k]/plain[k] - 1) }
		b.Logf("%-25s %5.1f µs (%+5.1f %%), median %5.1f µs (%+5.1f %%), processors %5.1f µs (%+5.1f %%)", benchmarkVariants[i].name,
			now[0], more(0), now[1], more(1), now[2], more(2))
	}
}

// processorTimeOf returns the processor time of the threads of a process, where the system
// tells.
func processorTimeOf(pid int) (sum time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, file := range threads {
		text, _ := os.ReadFile(file)
		var ns int64
		if _, err := fmt.Sscan(string(text), &ns); err == nil {
			sum += time.Duration(ns)
		}
	}
	return sum
}
