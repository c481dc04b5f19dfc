package buffers

import (
	"math"
	"testing"

	"example.com/rpcx/internal/race"
)

func TestSizeFor(t *testing.T) {
	for n, want := range map[int]int{0: 1, 1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 1000: 1024, 1024: 1024, 1025: 2048, math.MaxInt32: 1 << 31} {
		if got := SizeFor(n); got != want {
			t.Errorf("SizeFor(%d) = %d, want %d", n, got, want)
		}
	}
}

func TestGetReturnsTheGivenSize(t *testing.T) {
	for size := 1; size <= 2*MaxSize; size *= 2 {
		for range 2 { // a new buffer, then perhaps a reused one
			buf := Get(size)
			if len(buf) != size {
				t.Fatalf("Get(%d) returns %d bytes", size, len(buf))
			}
			Put(buf)
		}
	}
}

func TestReuseDoesNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes pools drop some values")
	}
	if n := testing.AllocsPerRun(100, func() { Put(Get(1 << 16)) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestBufferOverMaxSizeIsNotKept(t *testing.T) {
	large := Get(2 * MaxSize)
	large[0] = 1
	Put(large)
	if again := Get(2 * MaxSize); &again[0] == &large[0] {
		t.Error("it is used again")
	}
}
