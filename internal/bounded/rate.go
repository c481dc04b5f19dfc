package bounded

import (
	"sync"
	"time"
)

// Budget bounds the amount of logging that any peer can cause: Burst at once, and
// PerSecond per second afterwards, in any unit. After the budget is used up, no record
// fits until there is room for Run more. So the log of a flood consists of runs of
// records.
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

// Take adds earned to the budget, and reports whether size fits. If size fits, Take
// spends size and returns the number of records skipped since the last success. If size
// does not fit, Take counts records as skipped.
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

// Skipped returns the total number of skipped records.
func (b *Budget) Skipped() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.totalSkipped
}

// Rate bounds the number of log records that any peer can cause: Burst at once, and
// PerSecond per second afterwards. The zero value is ready for use.
type Rate struct {
	once   sync.Once
	budget Budget
}

// OfServer returns the log rate of an *rpcx.Server for connections that fail before a
// session starts. Package rpcx sets OfServer, for the other packages of this module.
var OfServer func(server any) *Rate

const (
	// Burst is the maximum number of records at once.
	Burst = 100
	// PerSecond is the maximum number of records per second in the long run.
	PerSecond = 10
)

// Allow reports whether a record may be logged now. If so, skipped is the number of
// refused records since the last allowed record.
func (r *Rate) Allow() (ok bool, skipped int) {
	r.once.Do(func() { r.budget.Burst, r.budget.PerSecond = Burst, PerSecond })
	return r.budget.Take(1, 0, 1)
}
