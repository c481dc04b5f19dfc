package rpcx

import (
	"math"
	"time"

	"example.com/rpcx/internal/bounded"
)

// resolved returns the limits of a session of the given role, with defaults filled in.
// Switched-off limits become unreachable values.
func (l Limits) resolved(role Role) Limits {
	number := func(n *int, byDefault int) { *n = bounded.LimitOr(*n, byDefault) }
	duration := func(d *time.Duration, byDefault time.Duration) {
		switch {
		case *d == 0:
			*d = byDefault
		case *d < 0:
			*d = never
		}
	}
	rate := func(x *float64, byDefault float64) {
		switch {
		case *x == 0:
			*x = byDefault
		case *x < 0:
			*x = 0
		}
	}
	number(&l.Concurrency, 20)
	number(&l.Queue, 4096)
	number(&l.QueueBytes, 8<<20)
	number(&l.GateQueue, 16)
	number(&l.GateQueueBytes, 64<<10)
	number(&l.Outbox, 4<<20)
	number(&l.Batch, 10000)
	if l.Response < 0 {
		l.Response = math.MaxInt
	}
	if l.GateTimeout == 0 && role != RoleServer {
		l.GateTimeout = never
	}
	duration(&l.GateTimeout, 10*time.Second)
	duration(&l.RequestTimeout, 30*time.Second)
	duration(&l.ProcessingTimeout, 30*time.Second)
	duration(&l.SendTimeout, 20*time.Second)
	duration(&l.CloseTimeout, 30*time.Second)

	number(&l.Outgoing, 50)
	number(&l.OutgoingMax, 250)
	duration(&l.ResponseTime, 3*time.Second)
	duration(&l.IdleTimeout, never)
	if l.KeepAliveMethod != "" {
		duration(&l.KeepAlive, 60*time.Second)
	}

	if l.CostHard < 0 || l.CostHard == 0 && role != RoleServer {
		l.CostOff = true
	}
	if role == RoleServer {
		number(&l.PeerErrors, math.MaxInt)
	} else {
		number(&l.PeerErrors, 10000)
	}
	rate(&l.CostHard, 10000)
	if l.CostSoft == 0 {
		if l.CostSoft = 2000; l.CostHard <= 2000 {
			l.CostSoft = l.CostHard / 5
		}
	}
	rate(&l.CostDecay, l.CostHard/3600)
	rate(&l.CostPerByte, 1./100000)
	rate(&l.CostError, 100)
	rate(&l.CostHandlerError, 0)
	if l.CostDelay == 0 {
		l.CostDelay = 2 * time.Second
	}
	l.CostDelay = max(l.CostDelay, 0)
	return l
}

// clientLimits holds the resolved defaults, for clients without limits.
var clientLimits = Limits{}.resolved(RoleClient)
