package bounded

import (
	"sync"
	"time"
)

// A Budget bounds how much is logged that anybody can cause who connects: Burst at once,
// and PerSecond in a second from then on, in any unit. Once it is used up, nothing fits
// before there is room for Run, so that what is logged of a flood are runs of records.
type Budget struct {
	Burst, PerSecond, Run float64

	mu           sync.Mutex
	started      bool
	usedUp       bool
	lastTaken    time.Time
	available    float64
	newlySkipped int
	totalSkipped uint64
}

// Take reports whether size fits, and takes it if so, with more that has been earned
// besides. If it does not fit, so many records are skipped, and counted; otherwise Take
// returns how many were since it last did.
func (b *Budget) Take(size, earned float64, records int) (ok bool, skipped int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if !b.started {
		b.started, b.available = true, b.Burst
	} else {
		b.available = min(b.Burst, b.available+b.PerSecond*max(0, now.Sub(b.lastTaken).Seconds()))
	}
	b.lastTaken = now
	b.available += earned
	if b.available < size || b.usedUp && b.available < size+b.Run {
		b.usedUp = true
		b.newlySkipped += records
		b.totalSkipped += uint64(records)
		return false, 0
	}
	b.usedUp = false
	b.available -= size
	skipped, b.newlySkipped = b.newlySkipped, 0
	return true, skipped
}

// Skipped returns how many records were skipped ever.
func (b *Budget) Skipped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.totalSkipped
}

// Rate bounds how often something is logged that anybody can cause who connects:
// Burst times, and PerSecond times a second from then on. The zero value is ready.
type Rate struct {
	once   sync.Once
	budget Budget
}

// OfServer returns the rate at which an *rpcx.Server logs connections that fail before
// there is a session. Package rpcx sets it, for the other packages of this module.
var OfServer func(server any) *Rate

const (
	// Burst is how many records there may be at once.
	Burst = 100
	// PerSecond is how many records there may be in a second in the long run.
	PerSecond = 10
)

// Allow reports whether there may be a record now, and how many there were not since
// the last one.
func (r *Rate) Allow() (ok bool, skipped int) {
	r.once.Do(func() { r.budget.Burst, r.budget.PerSecond = Burst, PerSecond })
	return r.budget.Take(1, 0, 1)
}
