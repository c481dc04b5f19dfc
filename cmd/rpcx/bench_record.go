package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"example.com/rpcx"
	"example.com/rpcx/rpchttp"
)

// shard is a part of what a load has measured. Each worker has one shard, and a shard has
// several workers: a histogram takes 300 KB.
type shard struct {
	mu sync.Mutex // guards all fields
	tally
}

// tally is what was counted and measured.
type tally struct {
	succeeded, failed int64         // calls
	unfinished        int64         // calls that were given up
	lastReply         time.Duration // when the last reply came, since the start of the load
	errors            map[errorKind]int64

	latency *hdrhistogram.Histogram // from due to the end of a message, in ns
	reply   *hdrhistogram.Histogram // from sent to the reply
	late    *hdrhistogram.Histogram // from due to sent
}

// longestLatency is the largest value of a histogram. Longer times count as this one.
const longestLatency = 24 * time.Hour

func newTally() tally {
	h := func() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(longestLatency), 3) }
	return tally{errors: map[errorKind]int64{}, latency: h(), reply: h(), late: h()}
}

func newShard() *shard { return &shard{tally: newTally()} }

// measurement is what a load has measured.
type measurement struct {
	tally
	ended   string
	lost    error         // why the last connection was lost
	elapsed time.Duration // without the warm-up
	unsent  int64         // calls that were due when the load ended, and not sent
	waited  int64         // calls that were sent late, since too many were in flight
}

// errorKind tells errors apart, for counting.
type errorKind struct {
	kind    string
	code    int // of the peer or HTTP, otherwise 0
	message string
}

// The kinds of errors.
const (
	kindPeer       = "peer"       // an error of JSON-RPC
	kindTimeout    = "timeout"    // no reply in time
	kindConnection = "connection" // no connection
	kindStatus     = "http"       // an answer of HTTP without JSON-RPC
	kindMessage    = "message"    // a reply that is ill-formed or too large
	kindOther      = "other"      // of more kinds than maxErrorKinds
)

const (
	maxErrorKinds  = 20
	maxErrorLength = 120 // in characters
)

// kindOfError returns the kind of a call's error.
func (c *connFlags) kindOfError(err error) errorKind {
	if peer, ok := errors.AsType[*rpcx.Error](err); ok {
		return errorKind{kindPeer, peer.Code, shortText(peer.Message)}
	}
	if status, ok := errors.AsType[*rpchttp.StatusError](err); ok {
		return errorKind{kindStatus, status.StatusCode, http.StatusText(status.StatusCode)}
	}
	kind := errorKind{kind: kindConnection, message: shortText(c.redact(err.Error()))}
	if errors.Is(err, context.DeadlineExceeded) {
		kind.kind, kind.message = kindTimeout, fmt.Sprintf("no reply within %v (--timeout)", c.timeout)
	} else if isBadReply(err) {
		kind.kind = kindMessage
	}
	return kind
}

// isBadReply reports whether the reply to a call was ill-formed or too large.
func isBadReply(err error) bool {
	_, protocol := errors.AsType[*rpcx.ProtocolError](err)
	_, size := errors.AsType[*rpcx.SizeError](err)
	return (protocol || size || errors.Is(err, rpcx.ErrNoResponse)) && !errors.Is(err, rpcx.ErrConnectionLost)
}

// shortText returns the first line of text, at most maxErrorLength characters.
func shortText(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	if r := []rune(text); len(r) > maxErrorLength {
		return string(r[:maxErrorLength]) + "…"
	}
	return text
}

// add counts n errors of a kind. More than maxErrorKinds kinds count as one.
func (t *tally) addErrors(kind errorKind, n int64) {
	if _, ok := t.errors[kind]; !ok && len(t.errors) >= maxErrorKinds {
		kind = errorKind{kind: kindOther, message: fmt.Sprintf("more than %d kinds of errors", maxErrorKinds)}
	}
	t.errors[kind] += n
}

// merge adds what other has.
func (t *tally) merge(other *tally) {
	t.succeeded += other.succeeded
	t.failed += other.failed
	t.unfinished += other.unfinished
	t.lastReply = max(t.lastReply, other.lastReply)
	for _, kind := range slices.SortedFunc(maps.Keys(other.errors), func(a, b errorKind) int {
		return cmp.Compare(other.errors[b], other.errors[a])
	}) {
		t.addErrors(kind, other.errors[kind])
	}
	t.latency.Merge(other.latency)
	t.reply.Merge(other.reply)
	t.late.Merge(other.late)
}

// recordTime adds n times to a histogram.
func recordTime(h *hdrhistogram.Histogram, d time.Duration, n int64) {
	h.RecordValues(int64(max(0, min(d, longestLatency))), n) // the error is of a value out of range
}

// outcome is how the calls of a message ended.
type outcome struct {
	succeeded int64
	errors    []errorKind // of each failed call, or one for all
	answered  bool        // by results or errors
}

// outcomeOf returns how the calls of a message have ended.
func (l *load) outcomeOf(err error) (o outcome) {
	if err == nil {
		return outcome{succeeded: int64(l.perMessage), answered: true}
	}
	errs := []error{err}
	if batch, ok := errors.AsType[*rpcx.BatchError](err); ok {
		errs = batch.Errs
	}
	for _, err := range errs {
		if err == nil {
			o.succeeded++
			o.answered = true
			continue
		}
		kind := l.kindOf(err)
		o.errors = append(o.errors, kind)
		o.answered = o.answered || kind.kind == kindPeer || kind.kind == kindStatus || kind.kind == kindMessage
	}
	return o
}

// lostConnection reports whether the connection has failed.
func (o *outcome) lostConnection() bool {
	return !o.answered && len(o.errors) > 0 && o.errors[0].kind == kindConnection
}

// record counts a message. All times are since the start of the load.
func (l *load) record(c *loadConn, sh *shard, due, sent, end time.Duration, err error) {
	o := l.outcomeOf(err)
	c.noteOutcome(err, o.lostConnection())
	if due < l.warmUp {
		return
	}
	failed := int64(l.perMessage) - o.succeeded
	sh.mu.Lock()
	defer sh.mu.Unlock()
	recordTime(sh.latency, end-due, 1)
	if l.rate > 0 {
		recordTime(sh.late, sent-due, 1)
		if o.answered {
			recordTime(sh.reply, end-sent, 1)
		}
	}
	if o.answered {
		sh.lastReply = max(sh.lastReply, end)
	} else if l.abandoned.Load() {
		sh.unfinished += failed
		return
	}
	sh.succeeded += o.succeeded
	sh.failed += failed
	for _, kind := range o.errors {
		sh.addErrors(kind, failed/int64(len(o.errors)))
	}
}

// counts returns the numbers of calls so far.
func (l *load) counts() (succeeded, failed int64) {
	for _, sh := range l.shards {
		sh.mu.Lock()
		succeeded += sh.succeeded
		failed += sh.failed
		sh.mu.Unlock()
	}
	return succeeded, failed
}

// measurement returns what was measured, after the end.
func (l *load) measurement() *measurement {
	m := &measurement{tally: newTally(), ended: l.ended, lost: l.lost}
	for _, sh := range l.shards {
		m.merge(&sh.tally)
	}
	at, first, last := l.end()
	m.elapsed = max(0, max(at, m.lastReply)-l.warmUp)
	m.unsent = (last - first) * int64(l.perMessage)
	m.waited = l.waited.Load() * int64(l.perMessage)
	l.recordUnsent(m.latency, at, first, last)
	return m
}

// recordUnsent adds the time until the end for messages that were due and not sent.
func (l *load) recordUnsent(h *hdrhistogram.Histogram, end time.Duration, first, last int64) {
	const steps = 10_000 // more than the histogram tells apart
	for n := max(1, (last-first+steps-1)/steps); first < last; first += n {
		n = min(n, last-first)
		recordTime(h, end-l.dueAt(first+n/2), n)
	}
}
