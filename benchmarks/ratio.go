package benchmarks

import (
	"fmt"
	"slices"
)

// A Ratio is how many times as long a peer takes as another, or how many times as much
// memory: the median of the ratios within each run, which a machine that is slower in some runs than in
// others does not disturb.
type Ratio struct {
	Median float64
	// Low and High are the ends of the interval that has the median of all possible
	// runs in it with a probability of at least 95 %. They are order statistics:
	// with 9 runs the second smallest and the second largest. Both are 0 if the runs are
	// fewer than 6, which no such interval can be had from.
	Low, High float64
}

// String formats the ratio as 0.62 (0.58–0.66).
func (r Ratio) String() string {
	if r.High == 0 {
		return fmt.Sprintf("%.2f", r.Median)
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Low, r.High)
}

// Ratio compares the times of peer with those of base, or their memory for
// [IdleRow]. It is false if one of both is missing.
func (r *Results) Ratio(row, peer, base string) (Ratio, bool) {
	return newRatio(r.Values(row, peer), r.Values(row, base))
}

func newRatio(a, b []float64) (Ratio, bool) {
	ratios := make([]float64, min(len(a), len(b)))
	if len(ratios) == 0 {
		return Ratio{}, false
	}
	for i := range ratios {
		ratios[i] = a[i] / b[i]
	}
	ratio := Ratio{Median: median(ratios, float)}
	slices.Sort(ratios)
	if outside := outsideInterval(len(ratios)); outside > 0 {
		ratio.Low, ratio.High = ratios[outside-1], ratios[len(ratios)-outside]
	}
	return ratio, true
}

// outsideInterval returns k, the largest number for which the k-th of n sorted
// values and the k-th from their end are the ends of a 95 % interval of the
// median, 0 if there is none. The median is outside if fewer than k values are on
// one side of it, and each value is on either side with probability ½.
func outsideInterval(n int) (k int) {
	ways, all := 1.0, 1.0 // of k values out of n on one side; of all n values
	for range n {
		all *= 2
	}
	for outside := ways; 2*outside/all <= 0.05; outside += ways {
		k++
		ways *= float64(n-k+1) / float64(k)
	}
	return k
}
