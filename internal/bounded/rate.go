package bounded

import (
	"sync"
	"time"
)

// Rate bounds how often something is logged that anybody can cause who connects:
// Burst times, and PerSecond times a second from then on. The zero value is ready.
type Rate struct {
	mu      sync.Mutex
	begun   bool
	last    time.Time
	left    float64
	skipped int
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
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.begun {
		r.begun, r.left = true, Burst
	} else {
		r.left = min(Burst, r.left+PerSecond*max(0, now.Sub(r.last).Seconds()))
	}
	r.last = now
	if r.left < 1 {
		r.skipped++
		return false, 0
	}
	r.left--
	skipped, r.skipped = r.skipped, 0
	return true, skipped
}
