// Package oracle accounts for calls. Each call has a number of its own, which is the argument
// of the call. The client's side records how each call has ended, and the handler at the
// server's side, when each call has started and finished there. At the end, [Log.Problems]
// compares both records: no call may be lost, and none carried out twice that must not be.
package oracle

import (
	"errors"
	"fmt"
	"sync"

	"example.com/rpcx"
)

// Kind is what a call promises.
type Kind uint8

const (
	// Once is a call that must not be carried out twice.
	Once Kind = iota
	// Idempotent is a call that may be carried out several times.
	Idempotent
	// Notification has no reply, and must not be carried out twice.
	Notification
	kinds
)

// String returns the name of the kind, as in texts.
func (k Kind) String() string { return [...]string{"call", "idempotent call", "notification"}[k] }

// Outcome is how a call has ended at the client's side.
type Outcome uint8

const (
	// Open is the state before the end.
	Open Outcome = iota
	// Answered means that the server has replied. A notification is Answered if it was sent.
	Answered
	// NotStarted means that the server has not begun to carry out the call, and will not.
	NotStarted
	// Written means that the server may have carried out the call.
	Written
	outcomes
)

// String returns the name of the outcome, as in texts.
func (o Outcome) String() string {
	return [...]string{"without an end", "answered", "not started", "written"}[o]
}

// OutcomeOf returns the outcome that err says.
func OutcomeOf(err error) Outcome {
	lost, isLost := errors.AsType[*rpcx.ConnectionError](err)
	reply, isReply := errors.AsType[*rpcx.Error](err)
	switch {
	case err == nil:
		return Answered
	case isLost && lost.Written:
		return Written
	case isReply && reply.NotStarted():
		return NotStarted
	case isReply && isUncertain(reply):
		return Written
	case isReply:
		return Answered
	case isLost, errors.Is(err, rpcx.ErrNotConnected), errors.Is(err, rpcx.ErrClosed):
		return NotStarted
	}
	return Written // given up at some time
}

// isUncertain reports whether a reply says that the request was started, and not whether it
// was carried out: a gateway has lost its worker, or a handler its time.
func isUncertain(reply *rpcx.Error) bool {
	var data struct{ Started bool }
	return reply.Code == rpcx.CodeServerBusy && reply.DecodeData(&data) == nil && data.Started
}

// Log records calls. The methods may be called by any goroutine. The zero value is an empty
// log of calls that may be carried out three times if they are idempotent.
type Log struct {
	mu       sync.Mutex
	calls    []*call
	problems []string
	counts   Counts
}

// call is the record of a call.
type call struct {
	kind              Kind
	outcome           Outcome
	err               error
	started, finished int
}

// Counts are numbers of calls.
type Counts struct {
	Ended    [kinds][outcomes]int // by kind and outcome; calls without an end do not count
	Repeated int                  // idempotent calls that the server has started several times
}

// Answered is the number of calls with a reply.
func (c *Counts) Answered() int {
	return c.Ended[Once][Answered] + c.Ended[Idempotent][Answered]
}

// maxStarts is how often an idempotent call may be carried out: a Client repeats it twice.
const maxStarts = 3

// Begin begins a call, and returns its number.
func (l *Log) Begin(kind Kind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, &call{kind: kind})
	return len(l.calls) - 1
}

// End records the end of call n with err. result is the result that the server has sent.
func (l *Log) End(n, result int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[n]
	if c.outcome != Open {
		l.addLocked("%s %d has ended twice: %v, and %v", c.kind, n, c.err, err)
	}
	c.outcome, c.err = OutcomeOf(err), err
	l.counts.Ended[c.kind][c.outcome]++
	if c.kind != Notification && err == nil && result != n {
		l.addLocked("%s %d has the result %d", c.kind, n, result)
	}
}

// Started records that the server begins to carry out call n.
func (l *Log) Started(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < 0 || n >= len(l.calls) {
		l.addLocked("the server has received call %d, which was not made", n)
		return
	}
	c := l.calls[n]
	if c.started++; c.started == 2 && c.kind == Idempotent {
		l.counts.Repeated++
	}
}

// Finished records that the server has carried out call n.
func (l *Log) Finished(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n >= 0 && n < len(l.calls) {
		l.calls[n].finished++
	}
}

// Counts returns the numbers so far.
func (l *Log) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// Len returns the number of calls that were begun.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls)
}

// Twice returns how many calls were carried out twice that must not be.
func (l *Log) Twice() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, c := range l.calls {
		if c.kind != Idempotent && c.started > 1 {
			n++
		}
	}
	return n
}

// HasStarted reports whether the server has begun to carry out call n.
func (l *Log) HasStarted(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls[n].started > 0
}

// Problems returns what is wrong, at the end: no call is under way, and no server runs.
func (l *Log) Problems() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n, c := range l.calls {
		switch {
		case c.outcome == Open:
			l.addLocked("%s %d is lost: it has no end at the client", c.kind, n)
		case c.outcome == NotStarted && c.started > 0:
			l.addLocked("%s %d was started %d times, and the client says that it was not: %v", c.kind, n, c.started, c.err)
		case c.kind != Notification && c.err == nil && c.finished == 0:
			l.addLocked("%s %d is lost: it was answered, and the server has not finished it", c.kind, n)
		}
		switch {
		case c.kind != Idempotent && c.started > 1:
			l.addLocked("%s %d was carried out twice: %d times, %s (%v)", c.kind, n, c.started, c.outcome, c.err)
		case c.started > maxStarts:
			l.addLocked("%s %d was carried out %d times", c.kind, n, c.started)
		}
	}
	return l.problems
}

// addLocked adds a problem. Callers must hold l.mu.
func (l *Log) addLocked(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}
