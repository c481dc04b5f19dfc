package main

import (
	"fmt"
	"slices"
	"time"
)

// What is tolerated.
const (
	// A well-behaved client's p99 beside hostile ones may be as many times what it
	// is without them. The floor is two of the time slices of Go's scheduler: while
	// all processors have goroutines to run, it may look at the network as seldom
	// as that, whatever a server does.
	slowdown     = 5
	latencyFloor = 20 * time.Millisecond
	// In the short form a phase has about a thousand calls, so that ten that were
	// in the way of the machine's other work make its p99. There it only has to be
	// far from all the timeouts: nobody is left to starve.
	shortLatency = 2 * time.Second

	// heapSlack is what the server may need more at the end than at the beginning,
	// with the same clients connected: buffers of up to 4 MiB that are kept for
	// reuse, and stay while they are used. It does not grow with the hours.
	heapSlack = 8 << 20
	// rssSlack is the same for all the process has of the machine's memory, of
	// which the collector returns no page in which a single object lives.
	rssSlack = 32 << 20
	// rssPeak is what the process may have at any time. The limits leave to a slow
	// reader 4 MiB of outbox, in a buffer that may be twice as large, and twenty
	// replies that wait for room in it, each as a message and as a frame; that is
	// about 11 MiB. With the batches and the half messages it makes 150 MiB, and
	// the collector lets them become twice as much.
	rssPeak = 320 << 20
)

// bound is what the well-behaved clients' p99 must not exceed.
func (c *course) bound() time.Duration {
	if c.short {
		return shortLatency
	}
	// They are alone in the first phase and in the last one. What else the
	// machine does can only make them slower: the better one is what they have.
	first, last := c.phases[0], c.phases[len(c.phases)-1]
	return max(slowdown*min(first.answered.P99, last.answered.P99), latencyFloor)
}

// judge returns what was not as it should be.
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
		// The attacks must have taken place, and the defences too.
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

// defence returns for what reason the server has to have ended sessions of a
// class after a time, "" if it need not have.
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
