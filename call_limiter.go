package rpcx

import (
	"math"
	"time"
)

// calibration is the number of replies after which the limiter adapts the limit.
const calibration = 30

// callLimiter bounds the number of concurrent calls of this side. A raised limit takes
// effect at the next reply. A lowered limit takes effect after the replies to the excess
// calls. Callers must hold s.mu.
type callLimiter struct {
	limit int // current limit; math.MaxInt if off
	floor int // lower bound of limit
	taken int
	line  waitLine

	// Since the last calibration.
	latencySum time.Duration // sum over the replies
	samples    int           // number of replies
	reached    bool          // limit was reached

	calm time.Duration // average latency when the limit was last not reached
}

func (o *callLimiter) off() bool { return o.limit == math.MaxInt }

// releaseSlot releases a slot whose message was not sent.
func (o *callLimiter) releaseSlot() {
	o.taken--
	o.line.wakeFirst()
}

// releaseAfterReply releases a slot after a call, or after a batch of n messages, that
// took the given time.
func (o *callLimiter) releaseAfterReply(took time.Duration, n int, l *Limits) {
	if o.latencySum, o.samples = o.latencySum+took, o.samples+n; o.samples >= calibration {
		o.calibrate(o.latencySum/time.Duration(o.samples), l)
		o.latencySum, o.samples, o.reached = 0, 0, false
	}
	o.releaseSlot()
}

// calibrate adapts the limit to the average latency of replies. The limit is lowered only
// if load makes the calls slow: if the limit was reached, and replies take more than twice
// as long as below the limit. Calls that are always slow, such as long polls, say nothing
// about the peer's load.
func (o *callLimiter) calibrate(average time.Duration, l *Limits) {
	next := recalibrate(o.limit, average, l.ResponseTime, l.OutgoingMax)
	if !o.reached {
		o.calm = average
	}
	if next < o.limit && (!o.reached || o.calm > 0 && average/2 <= o.calm) {
		return
	}
	o.limit = max(next, min(o.limit, o.floor))
}

func (o *callLimiter) takeSlot() {
	o.taken++
	o.reached = o.reached || o.taken >= o.limit
}

func (o *callLimiter) isFree() bool { return o.taken < o.limit }

// hasFree reports whether a slot is free and nobody waits for a slot.
func (o *callLimiter) hasFree() bool { return o.isFree() && len(o.line.waiters) == 0 }
