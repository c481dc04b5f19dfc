package benchmarks

import "testing"

func TestRatio(t *testing.T) {
	a := []float64{20, 22, 24, 26, 28, 30, 32, 34, 36}
	b := []float64{10, 10, 10, 10, 10, 10, 10, 10, 10}
	for runs, want := range map[int]string{9: "2.80 (2.20–3.40)", 6: "2.50 (2.00–3.00)", 5: "2.40"} {
		if got, ok := newRatio(a[:runs], b); !ok || got.String() != want {
			t.Errorf("%d runs: %s, want %s", runs, got, want)
		}
	}
	if got, ok := newRatio(nil, b); ok {
		t.Errorf("no runs: %+v", got)
	}
}

// The ranks are those of printed tables of the sign test.
func TestOutsideInterval(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 1, 8: 1, 9: 2, 11: 2, 12: 3, 15: 4, 20: 6, 100: 40} {
		if got := outsideInterval(n); got != want {
			t.Errorf("%d values: %d, want %d", n, got, want)
		}
	}
}
