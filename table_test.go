package rpcx

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// The table finds what a map finds, in whatever order calls come and go.
func TestTableFindsWhatAMapFinds(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var table table
		pending := map[uint64]*Future{}
		var coming []*Future // have their ids, and are not registered
		most := 1 + rnd.IntN(100)
		for range 5000 {
			switch n := rnd.IntN(10); {
			case n < 5 && len(pending) < most:
				f := &Future{id: table.newID()}
				if coming = append(coming, f); len(coming) < 1+rnd.IntN(4) {
					continue
				}
				rnd.Shuffle(len(coming), func(i, j int) { coming[i], coming[j] = coming[j], coming[i] })
				some := rnd.IntN(len(coming)) // together, as those of a batch
				slices.SortFunc(coming[:some], func(a, b *Future) int { return int(a.id) - int(b.id) })
				table.add(coming[:some]...)
				for _, f := range coming[some:] {
					table.add(f)
				}
				for _, f := range coming {
					pending[f.id] = f
				}
				coming = nil
			case n < 6:
				f := &Future{id: rnd.Uint64N(table.lastID.Load() + 2)}
				if table.remove(f) {
					t.Fatalf("seed %d: a call that is not in the table was removed from it", seed)
				}
			default:
				id := table.lastID.Load() - min(table.lastID.Load(), rnd.Uint64N(uint64(2*most)))
				want := pending[id]
				delete(pending, id)
				if n == 9 && want != nil {
					if !table.remove(want) {
						t.Fatalf("seed %d: call %d was not removed", seed, id)
					}
				} else if f, _ := table.receive(strconv.AppendUint(nil, id, 10)); f != want {
					t.Fatalf("seed %d: for id %d got %v, want %v", seed, id, f, want)
				}
			}
			if table.pending != len(pending) {
				t.Fatalf("seed %d: %d are pending, want %d", seed, table.pending, len(pending))
			}
			if len(table.calls) > 4*most+8 {
				t.Fatalf("seed %d: %d places for at most %d calls", seed, len(table.calls), most)
			}
		}
		all := table.all()
		if len(all) != len(pending) || !slices.IsSortedFunc(all, func(a, b *Future) int { return int(a.id) - int(b.id) }) {
			t.Fatalf("seed %d: all returns %d calls, want %d in order", seed, len(all), len(pending))
		}
		for _, f := range all {
			if pending[f.id] != f {
				t.Fatalf("seed %d: call %d is not pending", seed, f.id)
			}
		}
	}
}

// A batch that is given up is remembered as one, however long it is, so late replies
// to its members are late, in any order, and each only once.
func TestTableRemembersALongBatch(t *testing.T) {
	const long = 3 * lateIDs
	for name, order := range map[string]func(i int) int{
		"in order":         func(i int) int { return i },
		"the last first":   func(i int) int { return long - 1 - i },
		"from both ends":   func(i int) int { return []int{i / 2, long - 1 - i/2}[i%2] },
		"out of the midst": func(i int) int { return (i + long/2) % long },
		"every other":      func(i int) int { return (2*i + i/(long/2)) % long },
	} {
		var table table
		before := &Future{id: table.newID()}
		calls := []*Future{before}
		for batch := new(Batch); len(calls) <= long; {
			calls = append(calls, &Future{id: table.newID(), batch: batch})
		}
		table.add(calls...)
		for _, f := range calls {
			if !table.giveUp(f) {
				t.Fatalf("%s: call %d was not pending", name, f.id)
			}
		}
		for i := range long {
			id := strconv.AppendInt(nil, int64(order(i)+1), 10)
			if _, what := table.receive(id); what != late {
				t.Fatalf("%s: the reply to call %s is %v, want late", name, id, what)
			}
			if _, what := table.receive(id); what != unexpected {
				t.Fatalf("%s: another reply to call %s is %v, want unexpected", name, id, what)
			}
		}
		if _, what := table.receive(ID("0")); what != late {
			t.Errorf("%s: the call before the batch was forgotten", name)
		}
		if len(table.late) > 4 {
			t.Errorf("%s: %d entries for a call and a batch", name, len(table.late))
		}
	}
}

// A response of unknown id is that of the only call, or batch, that can get one.
func TestTableOnlyCall(t *testing.T) {
	var table table
	newCall := func(b *Batch) *Future { return &Future{id: table.newID(), batch: b} }
	want := func(array bool, f *Future) {
		t.Helper()
		if got := table.only(array); got != f {
			t.Errorf("the only call is %v, want %v", got, f)
		}
	}
	want(false, nil)
	first, second := newCall(nil), newCall(nil)
	table.add(first)
	want(false, first)
	want(true, first)
	table.add(second)
	want(false, nil)
	want(true, nil)
	table.remove(first)
	want(false, second)

	table.giveUp(second)
	b := &Batch{}
	one, two, three := newCall(b), newCall(b), newCall(b)
	table.add(one, two, three)
	want(true, nil) // it may be a late reply
	table.isLate(second.id)
	want(true, one)
	want(false, nil)
	for _, f := range []*Future{one, two, three} {
		table.giveUp(f)
	}
	table.add(first)
	for _, f := range []*Future{two, one, three} {
		want(false, nil)
		table.isLate(f.id)
	}
	want(false, first)
	table.add(newCall(b))
	want(true, nil)
}
