package bounded

import (
	"math"
	"testing"
)

func TestLimitOr(t *testing.T) {
	for n, want := range map[int]int{0: 9, 1: 1, 10: 10, -1: math.MaxInt, math.MinInt: math.MaxInt} {
		if got := LimitOr(n, 9); got != want {
			t.Errorf("%d gives %d, want %d", n, got, want)
		}
	}
}
