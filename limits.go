package rpcx

import (
	"log/slog"
	"math"
	"time"
)

// Limits bound what one session may use. The zero value of a field is its
// default, a negative value switches it off. A duration between 0 and a millisecond is
// refused: it is a number without its unit (30 instead of 30*time.Second).
type Limits struct {
	// Concurrency is how many handlers run at once. Default 20. Cost lowers it.
	Concurrency int

	// Queue and QueueBytes are how many requests, and of how many bytes
	// together, may wait for a handler. A batch is one request here, and each of
	// its members counts 256 bytes more. Defaults 4,096 and 8 MiB. Reading pauses
	// then, and before if they would wait too long. Where reading has to go on (see
	// the manual on bursts), a request beyond is answered CodeServerBusy, at no cost,
	// and a notification dropped and counted.
	Queue      int
	QueueBytes int

	// Outbox is how many bytes may wait to be written to the peer. Default
	// 4 MiB. One message of any size may wait in it alone. When it is full,
	// callers and handlers wait.
	Outbox int

	// Batch is how many members a batch may have, notifications included. Default
	// 10,000. A longer one from the peer is refused as a whole, with one error; one of
	// our own is not sent, since the peer's limit is taken to be the same.
	Batch int

	// Response is how many bytes a reply may have; in a batch, all its replies
	// together, with 2 bytes more for each. Default, and at most: the largest message
	// that the session's framer takes, see [SizeLimiter]; [DefaultMaxSize] if that
	// is not known. What waits in unfinished batches may have as many in all, or as
	// many as Outbox if that is more. A reply that is larger is replaced by an error
	// with CodeInvalidRequest.
	Response int

	// RequestTimeout is how long a call takes when its context has no deadline: from
	// when it waits for a slot or for room, if it does, to the reply. Default 30 s.
	// The error is ErrTimeout. It is no upper limit: a context with a deadline, be that
	// shorter or longer, counts instead.
	RequestTimeout time.Duration

	// ProcessingTimeout is how long a request may take from its arrival, waiting
	// included. Default 30 s. Then it is answered CodeServerBusy and its
	// handler's context ends; what the handler returns later is dropped. Once handlers
	// that go on all the same have all places of Concurrency, the log has their methods.
	ProcessingTimeout time.Duration

	// SendTimeout is how long a write may make no progress, that is, how long the
	// peer may take for 16 KiB (for a MessageConn, for that many and one message
	// more, or one part of it if the connection is a PartWriter). Default 20 s. Then the
	// session ends with ErrSlowPeer. How fast a peer has to read so is in the manual,
	// under Limits. A peer whose reading pauses takes as long as its handlers do: one whose
	// handlers get through less than that needs a longer SendTimeout at this end.
	// On a server that holds half of MaxQueuedBytes, 16 KiB of a message of more than
	// 64 KiB have to come in the same time, or the session ends with a FrameError.
	SendTimeout time.Duration

	// CloseTimeout is how long a session that is closed by ReplyAndDisconnect,
	// or for its cost, may take to send what is queued. Default 30 s.
	CloseTimeout time.Duration

	// ExitTimeout is how long a program that [Command] has started, and its process
	// group, may take to end once its input is closed. Default cmd.WaitDelay, or 5 s
	// if that is not set. Then the group is sent SIGTERM.
	ExitTimeout time.Duration

	// KillTimeout is how long a program, and its group, may take to end after
	// SIGTERM. Default cmd.WaitDelay, or 2 s if that is not set. Then the group is sent
	// SIGKILL.
	KillTimeout time.Duration

	// HalfClose is how long a session goes on when its peer has finished sending
	// (closed its half of the connection), to handle and answer what it had sent.
	// Default: ProcessingTimeout and a second more for unix sockets, pipes and
	// programs, 5 s for TCP and TLS, where a peer that is gone looks the same. A
	// connection that cannot be closed by halves, such as a WebSocket, ends at once, and
	// so does any other if HalfClose is negative.
	HalfClose time.Duration

	// Outgoing is how many of our calls wait for a reply at once, in the
	// beginning. Default 50. A batch is one. Others wait for their turn, in order;
	// those of a running handler do not. After every 30 replies the number is
	// changed so that they take ResponseTime (default 3 s), up to OutgoingMax
	// (default 250), as in aiorpcX. It is lowered only if it was reached and replies
	// take more than twice as long as when it was not, and not below a fifth of
	// Outgoing.
	Outgoing     int
	OutgoingMax  int
	ResponseTime time.Duration

	// IdleTimeout is how long nothing may pass in either direction while no
	// handler runs and no call is pending. Default: for ever. Then the session
	// ends with ErrIdle.
	IdleTimeout time.Duration
	// KeepAlive is after how long without anything passing the connection is
	// probed: by a notification if KeepAliveMethod names one (default 60 s; what
	// is sent so is no life for this side's IdleTimeout), otherwise by TCP
	// (default what package net does: 15 s). The peer should have a handler for
	// that method, or each probe is an error, with its cost. Over TCP the session ends
	// with ErrUnreachable if nothing is acknowledged for three times KeepAlive; where
	// something of ours is under way, that is only so on Linux.
	KeepAlive       time.Duration
	KeepAliveMethod string

	// What a session uses has a cost, which decays with time. Sessions of role
	// server are held to it; those of role client only if CostHard is set. The
	// formulas and numbers are aiorpcX's. CostOff switches all of it off.
	CostOff bool
	// CostSoft is the cost above which requests are delayed, and fewer of them
	// handled at once: the more, the nearer the cost is to CostHard. Default 2,000,
	// or a fifth of CostHard if that is no more. A negative value: neither, up to
	// CostHard.
	CostSoft float64
	// CostHard is the cost at which the session's requests are answered
	// CodeExcessiveResourceUsage and it ends with a [*CostError]. Default 10,000.
	// If it is not above CostSoft, nothing is limited, as in aiorpcX, and that is logged.
	CostHard float64
	// CostDecay is by how much a cost falls each second. Default CostHard / 3,600.
	CostDecay float64
	// CostPerByte is the cost of a byte, sent or received. Default 1/100,000.
	CostPerByte float64
	// CostError is the cost of an error, to which an Error's own Cost is added; a
	// message that is no JSON costs ten times as much in addition. Default 100.
	CostError float64
	// CostHandlerError is the cost of an error of the handler's, to which the Error's own
	// Cost is added, of a reply that is too large, and of a request that was begun and not
	// finished within ProcessingTimeout. Default 0: an application's errors must not end its sessions. In
	// aiorpcX it is 100.
	CostHandlerError float64
	// CostDelay is by how much a request is delayed at CostHard. Default 2 s.
	CostDelay time.Duration
	// CostData has the peer told what a CostError says, in the data of the error
	// that it is answered, which decodes to one.
	CostData bool

	// PeerErrors is how many errors a second the peer may make, as an average over ten
	// seconds: messages that are wrong, and replies to nothing that was asked, each 10,000
	// bytes of them once more. A request or notification whose method or arguments are
	// wrong counts a tenth. With more the
	// session ends with ErrFaultyPeer. Default 10,000 for role client, which is not held
	// to cost: no honest server gets there, and one that does would keep the client busy
	// for nothing. For role server the default is none.
	PeerErrors int

	// Group names the group whose members share one budget and
	// Server.MaxGroup; "" is none. It is called when a Server starts a session
	// (for others there is nobody to share with), and must not wait: no other
	// connection is accepted meanwhile. A group's cost is never more than
	// twice CostHard. A session that has not used more than CostSoft itself (a fifth of
	// CostHard, if that is negative) is held to its own cost alone, so that neighbours do
	// not end it; but one that begins when the group is over CostHard is answered
	// CodeExcessiveResourceUsage, and ends. Default: none. See [GroupBySubnet].
	Group func(*Session) string
	// Exempt reports whether a session's cost is not counted. It is called when
	// the session starts. Default: none is exempt.
	Exempt func(*Session) bool
}

const (
	// reserve is how much the reader and the timer, which cannot wait, may queue
	// beyond Limits.Outbox.
	reserve = 256 << 10
	// closeGrace is how long Close goes on writing what was queued.
	closeGrace = time.Second
	// outgoingFloor is into how many parts Limits.Outgoing is divided for the lowest
	// number of calls that may wait for a reply.
	outgoingFloor = 5
	// errorSeconds is over how many seconds PeerErrors is an average.
	errorSeconds = 10
	// lateIDs is how many calls and batches given up are remembered, to know late replies.
	lateIDs = 1024

	never = time.Duration(math.MaxInt64)
)

// resolved returns the limits of a session of the given role, with defaults
// filled in and with what is switched off out of reach.
func (l Limits) resolved(role Role) Limits {
	number := func(n *int, byDefault int) { *n = limitOr(*n, byDefault) }
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
	number(&l.Outbox, 4<<20)
	number(&l.Batch, 10000)
	if l.Response < 0 {
		l.Response = math.MaxInt
	}
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

// costIsVoid reports whether a session's cost is counted in vain.
func (l *Limits) costIsVoid() bool { return !l.CostOff && l.CostSoft >= 0 && l.CostHard <= l.CostSoft }

const voidCost = "cost limits nothing: its hard limit is not above its soft one (Limits.CostHard, Limits.CostSoft); set CostOff if that is meant"

// costAttr returns the limit that voidCost is about.
func (l *Limits) costAttr() slog.Attr {
	return limitAttr("Limits.CostHard", slog.Float64("cost", l.CostHard))
}

// goodCost returns what a session may have used itself without being held to what the
// others of its group have used.
func (l *Limits) goodCost() float64 {
	if l.CostSoft < 0 {
		return l.CostHard / 5
	}
	return l.CostSoft
}

// clientLimits are the defaults, resolved, for all clients that have no others.
var clientLimits = Limits{}.resolved(RoleClient)

// costStep is by how much a cost has to change before what follows from it is
// calculated anew.
const costStep = 100

// budget is a cost that decays.
type budget struct {
	cost float64
	at   time.Duration // until when it has decayed
}

// charge adds what may be negative.
func (b *budget) charge(delta float64) { b.cost = max(0, b.cost+delta) }

// decay takes off what the time since the last decay is worth.
func (b *budget) decay(now time.Duration, perSecond float64) {
	b.charge(-(now - b.at).Seconds() * perSecond)
	b.at = now
}

// throttle is what follows from a session's cost.
type throttle struct {
	last     float64 // the cost that it was calculated from
	fraction float64 // of the way from the soft limit to the hard one: 0 below, 1 or more beyond
	target   int     // how many handlers may run at once; 0 means that it is over
}

// due reports whether a cost is far enough from the one that was calculated with.
func (t *throttle) due(cost float64) bool { return math.Abs(cost-t.last) > costStep }

// update calculates what follows from a cost. extra counts as well, but is no
// cost that decays.
func (t *throttle) update(l *Limits, cost, extra float64) {
	t.last = cost
	t.fraction = 0
	switch cost += extra; {
	case l.CostHard <= l.CostSoft:
	case l.CostSoft < 0 && cost >= l.CostHard:
		t.fraction = 1
	case l.CostSoft >= 0:
		t.fraction = max(0, (cost-l.CostSoft)/(l.CostHard-l.CostSoft))
	}
	switch {
	case t.fraction >= 1:
		t.target = 0
	case t.fraction > 0 && l.Concurrency < math.MaxInt32:
		t.target = int(math.Ceil((1 - t.fraction) * float64(l.Concurrency)))
	default:
		t.target = l.Concurrency
	}
}

// delay is how long a request waits before it is handled.
func (t *throttle) delay(l *Limits) time.Duration {
	return time.Duration(t.fraction * float64(l.CostDelay))
}

// recalibrate returns how many calls may wait for a reply from now on, if that
// is current and replies took average.
func recalibrate(current int, average, target time.Duration, most int) int {
	now := float64(current)
	highest := min(now+max(3, now*0.1), float64(most))
	lowest := max(1, min(now*0.8, now-1))
	next := highest
	if average > 0 {
		next = max(lowest, min(highest, now*float64(target)/float64(average)))
	}
	return int(0.5 + next)
}

// limitOr resolves a limit: 0 is its default, a negative one is none.
func limitOr(n, byDefault int) int {
	switch {
	case n == 0:
		return byDefault
	case n < 0:
		return math.MaxInt
	}
	return n
}

// after returns the time d after now, never if d is never.
func after(now, d time.Duration) time.Duration {
	if d > never-now {
		return never
	}
	return now + d
}
