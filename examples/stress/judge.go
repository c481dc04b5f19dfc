package main

import (
	"fmt"
	"slices"
	"time"
)

// Tolerated values.
const (
	// slowdown is the largest ratio of a well-behaved client's p99 beside hostile clients
	// to the p99 without. latencyFloor is two time slices of Go's scheduler. If every
	// processor has goroutines to run, the scheduler may look at the network only so
	// often, regardless of the server.
	slowdown     = 5
	latencyFloor = 20 * time.Millisecond
	// shortLatency is the bound in the short form. There a phase has about a thousand
	// calls, so that ten calls delayed by other work of the machine decide the p99. The
	// bound only has to be far below the timeouts, to show that no client starves.
	shortLatency = 2 * time.Second

	// heapSlack is the tolerated growth of the server's heap from the beginning to the
	// end, with the same clients. Buffers of up to 4 MiB are kept for reuse, and stay
	// while in use. The growth does not depend on the length of the run.
	heapSlack = 8 << 20
	// rssSlack is the same for the resident memory of the process. The collector returns
	// no page with a live object.
	rssSlack = 32 << 20
	// rssPeak is the maximum resident memory of the process at any time. The limits allow
	// a slow reader 4 MiB of outbox, in a buffer of up to twice the size. Twenty further
	// replies may wait for room, each as a message and as a frame. Together, a slow
	// reader can take about 11 MiB. With the batches and the half messages, the sum is
	// 150 MiB, and the collector lets the heap double.
	rssPeak = 320 << 20
)

// bound returns the maximum p99 of the well-behaved clients.
func (c *course) bound() time.Duration {
	if c.short {
		return shortLatency
	}
	// The clients are alone in the first and the last phase. Other work of the machine
	// can only slow the clients down, so the better phase counts.
	first, last := c.phases[0], c.phases[len(c.phases)-1]
	return max(slowdown*min(first.answered.P99, last.answered.P99), latencyFloor)
}

// judge returns the problems of the course.
func (c *course) judge() (problems []string) {
	fail := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, p := range c.phases {
		if p.calls == 0 {
			fail("%s: no call was answered", p.name)
		}
		if len(p.failures) > 0 {
			fail("%s: %d calls of well-behaved clients failed, the first: %v", p.name, len(p.failures), p.failures[0])
		}
		if bound := c.bound(); p.answered.P99 > bound {
			fail("%s: p99 is %v, over %v", p.name, p.answered.P99, bound)
		}
		if p.peak.RSS > rssPeak {
			fail("%s: the server took %s, over %s", p.name, mega(p.peak.RSS), mega(rssPeak))
		}
		// The attacks must have taken place, and the defences, too.
		for _, class := range p.classes {
			if p.hostile[class].Connections == 0 {
				fail("%s: no connection of %s", p.name, class)
			}
			if h := p.hostile[class]; slices.Contains(slowOnly, class) && h.Refused+h.Cut > 0 {
				fail("%s: %d messages of %s were refused, and %d connections cut off, though they are only slow", p.name, h.Refused, class, h.Cut)
			}
			if want := defence(class, p.to-p.from); want != "" && p.ended[want] == 0 {
				fail("%s: %s, but no session was ended for %q", p.name, class, want)
			}
		}
	}
	before, after := c.phases[0].settled, c.phases[len(c.phases)-1].settled
	if after.Heap > before.Heap+heapSlack {
		fail("the heap is %s at the end, %s at the beginning", mega(after.Heap), mega(before.Heap))
	}
	if after.RSS > before.RSS+rssSlack {
		fail("the server has %s at the end, %s at the beginning", mega(after.RSS), mega(before.RSS))
	}
	if after.Sessions != clientCount {
		fail("%d sessions at the end, but there are %d clients", after.Sessions, clientCount)
	}
	if c.left.Sessions != 0 || c.left.Goroutines > 0 {
		fail("%d sessions and %d goroutines are left after the shutdown", c.left.Sessions, c.left.Goroutines)
	}
	return problems
}

// defence returns the reason for which the server must have ended sessions of a class
// after a time, or "".
func defence(class string, after time.Duration) string {
	switch {
	case class == "garbage":
		return overCost // eleven lines are enough
	case class == "slow readers" && after > 25*time.Second:
		return slowPeer // Limits.SendTimeout is 20 s
	}
	return ""
}

func mega(bytes uint64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
