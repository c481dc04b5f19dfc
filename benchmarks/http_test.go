package benchmarks

import (
	"slices"
	"testing"
	"time"
)

func BenchmarkHTTPOne(b *testing.B) { benchHTTP(b, 1) }
func BenchmarkHTTP16(b *testing.B)  { benchHTTP(b, 16) }

// benchHTTP measures the servers of HTTPPeers in turns, so that other work on the machine
// concerns all alike. The metrics are the medians of the rounds, per call.
func benchHTTP(b *testing.B, callers int) {
	const calls = 200 // in a round
	row := Row{Name: b.Name(), Conns: 1, Callers: callers, op: echo}
	benches := make([]*Bench, len(HTTPPeers))
	times := make([][]time.Duration, len(HTTPPeers))
	for i, peer := range HTTPPeers {
		var err error
		if benches[i], err = Open(b.Context(), peer, row); err != nil {
			b.Fatal(err)
		}
		defer benches[i].Close()
	}
	for b.Loop() {
		for i, bench := range benches {
			start := time.Now()
			if err := bench.Run(b.Context(), calls); err != nil {
				b.Fatal(err)
			}
			times[i] = append(times[i], time.Since(start)/calls)
		}
	}
	for i, peer := range HTTPPeers {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2])/1e3, peer.Name+"-µs")
	}
	b.ReportMetric(0, "ns/op") // of all peers together: nothing to compare
}

// The servers of HTTPPeers answer.
func TestHTTPPeers(t *testing.T) {
	for _, peer := range HTTPPeers {
		b, err := Open(t.Context(), peer, Row{Name: "HTTP", Conns: 1, Callers: 2, op: echo})
		if err != nil {
			t.Fatal(peer.Name, err)
		}
		if err := b.Run(t.Context(), 20); err != nil {
			t.Error(peer.Name, err)
		}
		b.Close()
	}
}
