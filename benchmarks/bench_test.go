package benchmarks

import (
	"errors"
	"testing"
)

func BenchmarkOne(b *testing.B)          { bench(b, "One") }
func BenchmarkOneApart(b *testing.B)     { bench(b, "OneApart") }
func BenchmarkInFlight16(b *testing.B)   { bench(b, "InFlight16") }
func BenchmarkInFlight128(b *testing.B)  { bench(b, "InFlight128") }
func BenchmarkInFlight1024(b *testing.B) { bench(b, "InFlight1024") }
func BenchmarkBatch10(b *testing.B)      { bench(b, "Batch10") }
func BenchmarkBatch100(b *testing.B)     { bench(b, "Batch100") }
func BenchmarkBatch10000(b *testing.B)   { bench(b, "Batch10000") }
func BenchmarkNotify100(b *testing.B)    { bench(b, "Notify100") }
func BenchmarkEcho1kB(b *testing.B)      { bench(b, "Echo1kB") }
func BenchmarkEcho8kB(b *testing.B)      { bench(b, "Echo8kB") }
func BenchmarkEcho64kB(b *testing.B)     { bench(b, "Echo64kB") }
func BenchmarkEcho1MB(b *testing.B)      { bench(b, "Echo1MB") }
func BenchmarkConns200(b *testing.B)     { bench(b, "Conns200") }

// bench runs a row for each peer. The names are fit for benchstat -col /peer.
func bench(b *testing.B, name string) {
	rows, err := FindRows(name)
	if err != nil {
		b.Fatal(err)
	}
	row := rows[0]
	for _, peer := range Peers {
		b.Run("peer="+peer.Name, func(b *testing.B) {
			r, err := Open(b.Context(), peer, row)
			if errors.Is(err, errors.ErrUnsupported) {
				b.Skip("the library has none")
			}
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			if err := r.Run(b.Context(), row.Callers); err != nil { // fill pools, grow stacks
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetBytes(int64(row.Size))
			b.ResetTimer()
			if err := r.Run(b.Context(), b.N); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
		})
	}
}
