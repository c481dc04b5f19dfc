package rpchttp

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"example.com/rpcx"
)

// mayRepeat reports whether msg may be sent again after an attempt with the outcome o and
// err.
func (t *transport) mayRepeat(msg []byte, o *outcome, err error) bool {
	if err == nil {
		return o.status == http.StatusTooManyRequests && t.isIdempotent(msg) || t.isNotStarted(msg, o)
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		return mayPass(e.StatusCode) && t.isIdempotent(msg)
	}
	if e, ok := errors.AsType[*sendError](err); ok {
		return !e.final && (!e.sent || t.isIdempotent(msg))
	}
	return false // the reply is too large, or cannot be read
}

// mayPass reports whether a status says that the server, or a proxy, may answer differently
// a little later.
func mayPass(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isIdempotent reports whether all methods of msg are idempotent.
func (t *transport) isIdempotent(msg []byte) bool {
	if t.Idempotent == nil {
		return false
	}
	var m rpcx.Message
	t.decode(&m, msg)
	for _, item := range m.Items {
		if item.Method == "" || !t.Idempotent(item.Method) {
			return false
		}
	}
	return true
}

// shortReply is the size up to which a reply with status 200 is searched for calls that
// were not started. The search would take time for every large result.
const shortReply = 512

// isNotStarted reports whether the reply says that the server has started nothing of msg:
// each call was refused, or the message as a whole. Notifications have no reply. The status
// 503 speaks for them, too; with another status they may have been handled.
func (t *transport) isNotStarted(msg []byte, o *outcome) bool {
	if len(o.reply) > shortReply && o.status != http.StatusServiceUnavailable || !bytes.Contains(o.reply, []byte(`"started"`)) {
		return false
	}
	var m rpcx.Message
	t.decode(&m, o.reply)
	refused := len(m.Items)
	for _, item := range m.Items {
		e, _ := item.Err.(*rpcx.Error)
		if item.Kind != rpcx.KindResponse || !e.NotStarted() {
			return false
		}
	}
	if refused == 1 && m.Items[0].ID == nil {
		return true
	}
	t.decode(&m, msg)
	for _, item := range m.Items {
		if item.Kind == rpcx.KindRequest {
			refused--
		} else if o.status != http.StatusServiceUnavailable {
			return false
		}
	}
	return refused == 0
}

// The longest waits before the first and before any repetition, if the server asks for
// none.
const (
	firstWait = 100 * time.Millisecond
	anyWait   = 30 * time.Second
)

// waitToRepeat waits before the message is sent again, and reports whether that is still
// of use.
func (t *transport) waitToRepeat(ctx context.Context, attempt int, o *outcome, err error) bool {
	wait := retryAfter(o.header)
	limit := t.maxRetryWait()
	switch {
	case wait > limit:
		return false
	case wait > 0:
	case err != nil && closedWhileIdle(err):
	default:
		wait = rand.N(min(firstWait<<min(attempt, 20), anyWait, limit))
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return false // and the error says more than the end of ctx would
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// retryAfter returns the time until the moment in Retry-After: seconds or a date. Without
// either the result is 0.
func retryAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if text == "" {
		return 0
	}
	const longest = 365 * 24 * time.Hour
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(longest/time.Second))) * time.Second
	}
	date, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return min(max(0, time.Until(date)), longest)
}
