package rpcx

import (
	"math"
	"time"
)

// Limits bound what one session may use. The zero value of a field is its
// default, a negative value switches it off.
type Limits struct {
	// Concurrency is how many handlers run at once. Default 20.
	Concurrency int

	// Queue and QueueBytes are how many requests, and of how many bytes
	// together, may wait for a handler. A batch is one request here, and each of
	// its members counts 256 bytes more. Defaults 4,096 and 8 MiB. A request beyond is answered CodeServerBusy, a
	// notification dropped and counted.
	Queue      int
	QueueBytes int

	// Outbox is how many bytes may wait to be written to the peer. Default
	// 4 MiB. One message of any size may wait in it alone. When it is full,
	// callers and handlers wait.
	Outbox int

	// Batch is how many members a batch may have. Default 10,000. A longer one
	// from the peer is refused as a whole, with one error; one of our own is not sent.
	Batch int

	// Response is how many bytes a reply may have; in a batch, all its replies
	// together, with 2 bytes more for each. Default 16 MiB. A reply that is
	// larger is replaced by an error with CodeInvalidRequest.
	Response int

	// RequestTimeout is how long a call waits for its reply when its context
	// has no deadline. Default 30 s. The error is ErrTimeout.
	RequestTimeout time.Duration

	// ProcessingTimeout is how long a request may take from its arrival, waiting
	// included. Default 30 s. Then it is answered CodeServerBusy and its
	// handler's context ends; what the handler returns later is dropped.
	ProcessingTimeout time.Duration

	// SendTimeout is how long a write may make no progress, that is, how long the
	// peer may take for 16 KiB (for a MessageConn, for that many and one message
	// more). Default 20 s. Then the session ends with ErrSlowPeer.
	SendTimeout time.Duration

	// CloseTimeout is how long a session that is closed by ReplyAndDisconnect
	// may take to send what is queued. Default 30 s.
	CloseTimeout time.Duration
}

const (
	// reserve is how much the reader and the timer, which cannot wait, may queue
	// beyond Limits.Outbox.
	reserve = 256 << 10
	// closeGrace is how long Close goes on writing what was queued.
	closeGrace = time.Second
	// lateIDs is how many given-up calls are remembered, to know late replies.
	lateIDs = 1024

	never = time.Duration(math.MaxInt64)
)

// resolved returns the limits with defaults filled in and with what is
// switched off out of reach.
func (l Limits) resolved() Limits {
	number := func(n *int, byDefault int) {
		switch {
		case *n == 0:
			*n = byDefault
		case *n < 0:
			*n = math.MaxInt
		}
	}
	duration := func(d *time.Duration, byDefault time.Duration) {
		switch {
		case *d == 0:
			*d = byDefault
		case *d < 0:
			*d = never
		}
	}
	number(&l.Concurrency, 20)
	number(&l.Queue, 4096)
	number(&l.QueueBytes, 8<<20)
	number(&l.Outbox, 4<<20)
	number(&l.Batch, 10000)
	number(&l.Response, 16<<20)
	duration(&l.RequestTimeout, 30*time.Second)
	duration(&l.ProcessingTimeout, 30*time.Second)
	duration(&l.SendTimeout, 20*time.Second)
	duration(&l.CloseTimeout, 30*time.Second)
	return l
}

// after returns the time d after now, never if d is never.
func after(now, d time.Duration) time.Duration {
	if d > never-now {
		return never
	}
	return now + d
}
