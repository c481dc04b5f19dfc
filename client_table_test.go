package rpcx_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// tableCase is a case of the table in the comment of Client: what happens to a message, and what
// follows. Without a text for notifications, these have no such case. The outcomes have the form "what the caller gets, number of times that the message
// has left". Without a text for idempotent calls, it is that of other calls.
type tableCase struct {
	name string
	opts rpcx.ClientOptions
	// script plays the peer. The message is sent when the first session is ready, or, with
	// down, while there is none.
	down, deaf bool
	script     func(p *tablePeer)

	call, idempotent, notification, subscription string
}

// tablePeer is the peer of a case.
type tablePeer struct {
	*lines
	t      *testing.T
	cancel context.CancelCauseFunc // of the message's context
	client *rpcx.Client
	sent   int // times that the message has left
}

// hears takes the messages on the n-th wire.
func (p *tablePeer) hears(n int) []string {
	p.t.Helper()
	messages := p.wire(n).heard()
	p.sent += len(messages)
	return messages
}

// replies answers what is heard on the n-th wire.
func (p *tablePeer) replies(n int, outcome string) {
	p.t.Helper()
	for _, message := range p.hears(n) {
		type request struct{ ID json.RawMessage }
		reply := func(r request) string { return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, r.ID, outcome) }
		var one request
		var batch []request
		if message[0] == '[' {
			if err := json.Unmarshal([]byte(message), &batch); err != nil || len(batch) != 1 {
				p.t.Fatalf("%s: %v", message, err)
			}
			p.wire(n).say("[" + reply(batch[0]) + "]")
			continue
		}
		if err := json.Unmarshal([]byte(message), &one); err != nil {
			p.t.Fatalf("%s: %v", message, err)
		}
		if one.ID != nil {
			p.wire(n).say(reply(one))
		}
	}
}

// hangsUp closes the n-th wire, after taking what is there.
func (p *tablePeer) hangsUp(n int) {
	p.t.Helper()
	p.hears(n)
	p.wire(n).Close()
	synctest.Wait()
}

const (
	isAnswered     = `"result":1`
	isNotStarted   = `"error":{"code":-102,"message":"busy","data":{"started":false,"reason":"queue"}}`
	isShuttingDown = `"error":{"code":-102,"message":"busy","data":{"started":false,"reason":"shutting down"}}`
	isLate         = `"error":{"code":-102,"message":"busy","data":{"started":true,"reason":"timeout"}}`
	isBusy         = `"error":{"code":-102,"message":"busy"}`
	isCost         = `"error":{"code":-101,"message":"cost","data":{"retry_after":60}}`
	isFailed       = `"error":{"code":1,"message":"no"}`
)

var errTableContext = errors.New("the context has ended")

var tableCases = []tableCase{
	{
		name: "nothing: there is no session", down: true,
		script: func(p *tablePeer) { p.set(false, nil); p.replies(1, isAnswered) },
		call:   "answered, 1", notification: "sent, 1", subscription: "answered, 1",
	},
	{
		name: "nothing: there is no session, and FailFast", down: true, opts: rpcx.ClientOptions{FailFast: true},
		script: func(p *tablePeer) {},
		call:   "not connected, 0", notification: "not connected, 0", subscription: "not connected, 0",
	},
	{
		name: "nothing: there is no session, and MaxWaiting calls wait", down: true, opts: rpcx.ClientOptions{MaxWaiting: -1},
		script: func(p *tablePeer) { p.set(false, nil); p.replies(1, isAnswered) },
		call:   "answered, 1", notification: "sent, 1", subscription: "answered, 1",
	},
	{
		name: "queued, and the session ends before the writing", deaf: true,
		script: func(p *tablePeer) { p.set(false, nil); p.wire(1).Close(); p.replies(2, isAnswered) },
		call:   "answered, 1", notification: "sent, 1", subscription: "answered, 1",
	},
	{
		name: "queued, and four sessions end before the writing", deaf: true,
		script: func(p *tablePeer) {
			for n := range 4 {
				p.set(n < 3, nil)
				p.wire(n + 1).Close()
				p.wire(n + 2)
			}
			p.replies(5, isAnswered)
		},
		call: "answered, 1", notification: "sent, 1", subscription: "answered, 1",
	},
	{
		name:   "written, and the session ends before the reply",
		script: func(p *tablePeer) { p.hangsUp(1); p.replies(2, isAnswered) },
		call:   "written, 1", idempotent: "answered, 2", notification: "sent, 1", subscription: "answered, 2",
	},
	{
		name: "written, and three sessions end before the reply",
		script: func(p *tablePeer) {
			for n := range 3 {
				p.hangsUp(n + 1)
			}
			p.replies(4, isAnswered)
		},
		call: "written, 1", idempotent: "written, 3", notification: "sent, 1", subscription: "written, 3",
	},
	{
		name: "written, and no repetition is allowed", opts: rpcx.ClientOptions{MaxRetries: -1},
		script: func(p *tablePeer) { p.hangsUp(1); p.replies(2, isAnswered) },
		call:   "written, 1", notification: "sent, 1", subscription: "written, 1",
	},
	{
		name: "written, then queued, and the client is closed",
		script: func(p *tablePeer) {
			p.set(true, nil)
			p.hangsUp(1)
			p.wire(2)
			synctest.Wait()
			p.client.Close()
		},
		call: "written, 1", notification: "sent, 1", subscription: "written, 1",
	},
	{
		name: "refused as not started",
		script: func(p *tablePeer) {
			p.replies(1, isNotStarted)
			time.Sleep(time.Second)
			p.replies(1, isAnswered)
		},
		call: "answered, 2", notification: "sent, 1", subscription: "answered, 2",
	},
	{
		name: "refused as not started, and the session ends in the backoff", opts: rpcx.ClientOptions{MaxBackoff: time.Hour, MinBackoff: time.Hour},
		script: func(p *tablePeer) {
			p.replies(1, isNotStarted)
			synctest.Wait()
			p.client.Reconnect()
			p.replies(2, isAnswered)
		},
		call: "answered, 2", notification: "sent, 1", subscription: "answered, 2",
	},
	{
		name: "refused as not started for ever",
		script: func(p *tablePeer) {
			for range 10 {
				p.replies(1, isNotStarted)
				time.Sleep(time.Second)
			}
		},
		call: "not started, 3", notification: "sent, 1", subscription: "not started, 3",
	},
	{
		name: "written and lost, then refused as not started for ever",
		script: func(p *tablePeer) {
			p.hangsUp(1)
			for range 10 {
				p.replies(2, isNotStarted)
				time.Sleep(time.Second)
			}
		},
		call: "written, 1", idempotent: "written, 3", notification: "sent, 1", subscription: "written, 3",
	},
	{
		name: "refused by a peer that shuts down, with another address", opts: rpcx.ClientOptions{Addrs: []string{"a", "b"}, MinBackoff: time.Hour, MaxBackoff: time.Hour},
		script: func(p *tablePeer) {
			p.replies(1, isShuttingDown)
			synctest.Wait()
			p.replies(2, isAnswered) // at once
		},
		call: "answered, 2", subscription: "answered, 2",
	},
	{
		name: "refused by a peer that shuts down, without another address",
		script: func(p *tablePeer) {
			p.replies(1, isShuttingDown)
			p.wire(2)
			p.replies(2, isAnswered)
		},
		call: "answered, 2", subscription: "answered, 2",
	},
	{
		name:   "refused for its cost",
		script: func(p *tablePeer) { p.replies(1, isCost) },
		call:   "refused -101, 1", notification: "sent, 1", subscription: "refused -101, 1",
	},
	{
		name:   "refused, and the peer does not say whether it has begun",
		script: func(p *tablePeer) { p.replies(1, isBusy) },
		call:   "refused -102, 1", notification: "sent, 1", subscription: "refused -102, 1",
	},
	{
		name:   "begun, and not finished in time",
		script: func(p *tablePeer) { p.replies(1, isLate) },
		call:   "refused -102, 1", notification: "sent, 1", subscription: "refused -102, 1",
	},
	{
		name:   "answered by an error",
		script: func(p *tablePeer) { p.replies(1, isFailed) },
		call:   "refused 1, 1", notification: "sent, 1", subscription: "refused 1, 1",
	},
	{
		name: "the context ends without a session", down: true,
		script: func(p *tablePeer) {
			synctest.Wait()
			p.cancel(errTableContext)
			synctest.Wait()
			p.set(false, nil)
			p.hears(1)
		},
		call: "context and not connected, 0", notification: "context and not connected, 0", subscription: "context and not connected, 0",
	},
	{
		name:   "the context ends before the reply",
		script: func(p *tablePeer) { p.hears(1); p.cancel(errTableContext); synctest.Wait(); p.hangsUp(1); p.hears(2) },
		call:   "context, 1", notification: "sent, 1", subscription: "context, 1",
	},
	{
		name: "the context ends between two attempts",
		script: func(p *tablePeer) {
			p.set(false, errors.New("down"))
			p.hangsUp(1)
			p.cancel(errTableContext)
			synctest.Wait()
			p.set(false, nil)
			p.hears(2)
		},
		call: "written, 1", idempotent: "context and written, 1", notification: "sent, 1", subscription: "context and written, 1",
	},
	{
		name: "Limits.RequestTimeout passes without a session", down: true,
		script: func(p *tablePeer) {
			time.Sleep(31 * time.Second)
			p.set(false, nil)
			time.Sleep(time.Minute)
			p.hears(1)
		},
		call: "timeout and not connected, 0", notification: "timeout and not connected, 0", subscription: "timeout and not connected, 0",
	},
	{
		name:   "Limits.RequestTimeout passes before the reply",
		script: func(p *tablePeer) { p.hears(1); time.Sleep(31 * time.Second) },
		call:   "timeout, 1", notification: "sent, 1", subscription: "timeout, 1",
	},
	{
		name:   "the client is closed before the reply",
		script: func(p *tablePeer) { p.hears(1); p.client.Close() },
		call:   "written, 1", notification: "sent, 1", subscription: "written, 1",
	},
	{
		name: "the client is closed without a session", down: true,
		script: func(p *tablePeer) { synctest.Wait(); p.client.Close() },
		call:   "closed, 0", notification: "closed, 0", subscription: "closed, 0",
	},
}

// TestClientTable plays each case for calls of each kind, idempotent or not, for a notification
// and for a subscription.
func TestClientTable(t *testing.T) {
	call := func(ctx context.Context, c *rpcx.Client) error { return c.Call(ctx, "m", nil, nil) }
	future := func(ctx context.Context, c *rpcx.Client) error {
		return c.Go(ctx, "m", nil).Wait(context.Background(), nil)
	}
	batch := func(ctx context.Context, c *rpcx.Client) error {
		var b rpcx.Batch
		f := b.Call("m", nil, nil)
		err := c.SendBatch(ctx, &b)
		if member := f.Decode(nil); (member == nil) != (err == nil) || member == rpcx.ErrNotDone {
			return fmt.Errorf("the batch has %w, and its member %w", err, member)
		}
		return f.Err()
	}
	notify := func(ctx context.Context, c *rpcx.Client) error { return c.Notify(ctx, "m", nil) }
	subscribe := func(ctx context.Context, c *rpcx.Client) error {
		_, err := rpcx.Subscribe[int](ctx, c, rpcx.Subscription{Method: "m", Correlation: rpcx.ElectrumHeaders})
		return err
	}
	for _, test := range tableCases {
		if test.idempotent == "" {
			test.idempotent = test.call
		}
		for _, kind := range []struct {
			name       string
			send       func(context.Context, *rpcx.Client) error
			idempotent bool
			want       string
		}{
			{"call", call, false, test.call},
			{"idempotent call", call, true, test.idempotent},
			{"future", future, false, test.call},
			{"idempotent future", future, true, test.idempotent},
			{"batch", batch, false, test.call},
			{"idempotent batch", batch, true, test.idempotent},
			{"notification", notify, false, test.notification},
			{"notification of an idempotent method", notify, true, test.notification},
			{"subscription", subscribe, false, test.subscription},
		} {
			if kind.want == "" {
				continue
			}
			t.Run(test.name+"/"+kind.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { test.play(t, kind.send, kind.idempotent, kind.want) })
			})
		}
	}
}

// play plays the case for one kind of message.
func (test *tableCase) play(t *testing.T, send func(context.Context, *rpcx.Client) error, idempotent bool, want string) {
	l := &lines{t: t, deaf: test.deaf}
	if test.down {
		l.down = errors.New("down")
	}
	opts := test.opts
	opts.Connect = l.connect
	if idempotent {
		opts.Idempotent = func(method string) bool { return method == "m" }
	}
	c, _ := newClient(t, opts)
	defer func() {
		for _, w := range l.wires {
			w.Close()
		}
	}()
	if synctest.Wait(); !test.down {
		l.wire(1)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	outcome := make(chan error, 1)
	go func() { outcome <- send(ctx, c) }()
	p := &tablePeer{lines: l, t: t, cancel: cancel, client: c}
	synctest.Wait()
	test.script(p)
	synctest.Wait()
	got := "no outcome"
	select {
	case err := <-outcome:
		got = tableOutcome(err)
	default:
	}
	if strings.HasPrefix(want, "sent") {
		got = strings.Replace(got, "answered", "sent", 1)
	}
	if got = fmt.Sprintf("%s, %d", got, p.sent); got != want {
		t.Errorf("the outcome is %q, want %q", got, want)
	}
}

// tableOutcome is the text for the error of a message.
func tableOutcome(err error) string {
	text := ""
	switch {
	case err == nil:
		return "answered"
	case errors.Is(err, errTableContext):
		text = "context"
	case errors.Is(err, rpcx.ErrTimeout):
		text = "timeout"
	}
	second := ""
	var lost *rpcx.ConnectionError
	var refused *rpcx.Error
	switch {
	case errors.As(err, &lost) && lost.Written:
		second = "written"
	case errors.As(err, &lost):
		second = "unwritten"
	case errors.As(err, &refused) && refused.NotStarted():
		second = "not started"
	case errors.As(err, &refused):
		second = fmt.Sprintf("refused %d", refused.Code)
	case errors.Is(err, rpcx.ErrNotConnected):
		second = "not connected"
	case errors.Is(err, rpcx.ErrClosed):
		second = "closed"
	case text == "":
		return err.Error()
	}
	switch {
	case text == "":
		return second
	case second == "":
		return text
	}
	return text + " and " + second
}
