package bounded

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Rate
		count := func(n int) (allowed, skipped int) {
			for range n {
				ok, s := r.Allow()
				if ok {
					allowed++
				}
				skipped += s
			}
			return allowed, skipped
		}
		step := func(name string, n, wantAllowed, wantSkipped int) {
			t.Helper()
			if allowed, skipped := count(n); allowed != wantAllowed || skipped != wantSkipped {
				t.Errorf("%s: %d of %d allowed, %d said to be skipped; want %d and %d", name, allowed, n, skipped, wantAllowed, wantSkipped)
			}
		}
		step("at once", 1000, Burst, 0)
		time.Sleep(time.Second)
		step("after a second", 1000, PerSecond, 900)
		time.Sleep(time.Hour)
		step("after an hour", 1000, Burst, 990)
	})
}
