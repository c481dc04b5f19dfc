package benchmarks

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// A Sample is what one measuring of a row found, for one operation. Memory
// counts both ends, as both are in this process.
type Sample struct {
	Nanoseconds float64 `json:"ns"`
	Allocs      float64 `json:"allocs"`
	Bytes       float64 `json:"bytes"`
}

// stuck is after how long without progress a measuring is given up.
const stuck = time.Minute

// Measure sets up row for peer, warms it up, and measures it for about d.
func Measure(ctx context.Context, peer Peer, row Row, d time.Duration) (s Sample, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s, %s: %w", peer.Name, row.Name, err)
		}
	}()
	b, err := Open(ctx, peer, row)
	if err != nil {
		return Sample{}, err
	}
	defer b.Close()
	// A peer that loses a reply would wait for ever: show where.
	dog := time.AfterFunc(stuck+2*d, func() { panic(peer.Name + ", " + row.Name + ": no end in sight") })
	defer dog.Stop()

	// Warming up also finds out how many operations take d.
	n := row.Callers
	for start := time.Now(); ; n *= 2 {
		if err := b.Run(ctx, n); err != nil {
			return Sample{}, err
		}
		if elapsed := time.Since(start); elapsed > d/4 {
			n = int(float64(2*n-row.Callers) * float64(d) / float64(elapsed))
			break
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	if err := b.Run(ctx, max(n, row.Callers)); err != nil {
		return Sample{}, err
	}
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	ops := float64(max(n, row.Callers))
	return Sample{
		Nanoseconds: float64(elapsed.Nanoseconds()) / ops,
		Allocs:      float64(after.Mallocs-before.Mallocs) / ops,
		Bytes:       float64(after.TotalAlloc-before.TotalAlloc) / ops,
	}, nil
}
