package rpcx

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestHubRing compares a ring with a slice, at random. The memory of a ring is in
// proportion to its values.
func TestHubRing(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		keyed := seed%2 == 0
		r := hubRing{hubs: new(sessionHubs)}
		var want []*hubValue
		remove := func(i int) {
			want = slices.Delete(want, i, i+1)
		}
		most, load := 0, new(serverLoad)
		for step := range 5000 {
			v := &hubValue{key: fmt.Sprint(rnd.IntN(5)), encoded: make([]byte, rnd.IntN(10)), load: load}
			same := slices.IndexFunc(want, func(w *hubValue) bool { return w.key == v.key })
			switch n := rnd.IntN(10); {
			case n < 5:
				if keyed {
					if r.remove(v.key) != (same >= 0) {
						t.Fatalf("step %d: remove is wrong", step)
					}
					if same >= 0 {
						remove(same)
					}
				}
				r.pushBack(v, keyed)
				want = append(want, v)
			case n < 6:
				if !keyed || !r.has(v.key) {
					r.pushFront(v, keyed)
					want = slices.Insert(want, 0, v)
				}
			case n < 9 || len(want) > 20:
				r.popFront()
				if len(want) > 0 {
					remove(0)
				}
			}
			bytes := 0
			for _, w := range want {
				bytes += w.countedBytes()
			}
			if r.count != len(want) || r.bytes != bytes || r.hubs.bytes != bytes || r.hubs.waiting != len(want) || len(want) > 0 && r.front() != want[0] || len(want) == 0 && r.front() != nil {
				t.Fatalf("step %d: the ring has %d values and %d bytes, want %d and %d", step, r.count, r.bytes, len(want), bytes)
			}
			most = max(most, len(want))
			if len(r.values) > 4*most+64 {
				t.Fatalf("step %d: %d places for %d values", step, len(r.values), r.count)
			}
			if all := int(load.bytes.Load()); all != bytes-hubOverhead*len(want) {
				t.Fatalf("step %d: the server counts %d bytes", step, all)
			}
		}
	}
	r := hubRing{hubs: new(sessionHubs)}
	r.pushBack(&hubValue{key: "first"}, true)
	for range 10000 {
		r.remove("second")
		r.pushBack(&hubValue{key: "second"}, true)
	}
	if r.count != 2 || cap(r.values) > 100 {
		t.Errorf("%d values have %d places", r.count, cap(r.values))
	}
}
