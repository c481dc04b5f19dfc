package rpcx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// tripper is a RoundTripper of a function. It counts how often it was closed.
type tripper struct {
	trip     func(ctx context.Context, msg []byte) ([]byte, error)
	closeErr error
	closed   atomic.Int32
}

func (r *tripper) RoundTrip(ctx context.Context, msg []byte) ([]byte, error) { return r.trip(ctx, msg) }

func (r *tripper) Close() error {
	r.closed.Add(1)
	return r.closeErr
}

// newExchange returns an Exchange over trip, which is closed at the end of the test.
func newExchange(t *testing.T, opts *rpcx.Options, trip func(ctx context.Context, msg []byte) ([]byte, error)) *rpcx.Exchange {
	t.Helper()
	x := rpcx.NewExchange(&tripper{trip: trip}, opts)
	t.Cleanup(func() { x.Close() })
	return x
}

// replying returns a trip that replies the same to each message.
func replying(reply string) func(context.Context, []byte) ([]byte, error) {
	return func(context.Context, []byte) ([]byte, error) { return []byte(reply), nil }
}

// handlingMessages returns a trip that runs h for the requests in each message, as a peer
// of JSON-RPC 2.0 does.
func handlingMessages(h rpcx.Handler) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, msg []byte) ([]byte, error) {
		var m rpcx.Message
		rpcx.JSONRPCv2.Decode(&m, msg, 100)
		var replies [][]byte
		for item := range m.Requests() {
			result, err := h.ServeRPC(ctx, &rpcx.Request{Method: item.Method, ID: item.ID, Params: item.Params})
			if item.Kind == rpcx.KindNotification {
				continue
			}
			var reply []byte
			if e, ok := errors.AsType[*rpcx.Error](err); ok {
				reply, err = rpcx.JSONRPCv2.AppendError(nil, item.ID, e, nil)
			} else if err == nil {
				reply, err = rpcx.JSONRPCv2.AppendResult(nil, item.ID, result, nil)
			}
			if err != nil {
				return nil, err
			}
			replies = append(replies, reply)
		}
		switch {
		case len(replies) == 0:
			return nil, nil
		case !m.Batch:
			return replies[0], nil
		}
		slices.Reverse(replies)
		return rpcx.JSONRPCv2.AppendBatch(nil, replies)
	}
}

// hanging is a trip that returns when its context ends, with the cause.
func hanging(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func TestExchange(t *testing.T) {
	ctx := t.Context()
	var mu sync.Mutex
	var sent []string
	answer := handlingMessages(arithmetic())
	x := newExchange(t, &rpcx.Options{FirstID: 5}, func(ctx context.Context, msg []byte) ([]byte, error) {
		mu.Lock()
		sent = append(sent, string(msg))
		mu.Unlock()
		return answer(ctx, msg)
	})
	var sum int
	if err := x.Call(ctx, "sum", rpcx.Args{1, 2}, &sum); sum != 3 || err != nil {
		t.Errorf("Call: %d, %v", sum, err)
	}
	matches(t, x.Call(ctx, "fail", nil, nil), rpcx.Errorf(7, ""))
	f := x.Go(ctx, "sum", rpcx.Args{3, 4})
	if err := f.Wait(ctx, &sum); sum != 7 || err != nil {
		t.Errorf("Go: %d, %v", sum, err)
	}
	if err := x.Notify(ctx, "note", nil); err != nil {
		t.Errorf("Notify: %v", err)
	}
	if sum, err := rpcx.Call[int](ctx, x, "sum", rpcx.Args{5, 6}); sum != 11 || err != nil {
		t.Errorf("Call[int]: %d, %v", sum, err)
	}
	if err := rpcx.Remote(x).At("math").Call(ctx, &sum, "negate", 8); sum != -8 || err != nil {
		t.Errorf("a proxy: %d, %v", sum, err)
	}

	var b rpcx.Batch
	var first, last int
	b.Call("gone", nil, nil).Cancel()
	b.Call("sum", rpcx.Args{1, 1}, &first)
	b.Notify("note", nil)
	b.Call("fail", nil, nil)
	b.Call("sum", rpcx.Args{2, 2}, &last)
	e, ok := errors.AsType[*rpcx.BatchError](x.SendBatch(ctx, &b))
	if !ok || len(e.Errs) != 4 || e.Errs[0] != rpcx.ErrCancelled || e.Errs[1] != nil || e.Errs[3] != nil || first != 2 || last != 4 {
		t.Errorf("a batch: %v, %d, %d", e, first, last)
	}
	matches(t, e.Errs[2], rpcx.Errorf(7, ""))
	if err := x.SendBatch(ctx, &b); err != rpcx.ErrBatchSent {
		t.Errorf("sent again: %v", err)
	}
	var notes rpcx.Batch
	if err := x.SendBatch(ctx, &notes); err != nil { // empty: nothing is sent
		t.Error(err)
	}
	notes.Notify("note", rpcx.Args{1})
	if err := x.SendBatch(ctx, &notes); err != nil {
		t.Errorf("a batch of notifications: %v", err)
	}
	var cancelled rpcx.Batch
	cancelled.Call("sum", nil, nil).Cancel()
	matches(t, x.SendBatch(ctx, &cancelled), rpcx.ErrCancelled)
	var rest rpcx.Batch
	rest.Call("sum", nil, nil).Cancel()
	rest.Notify("note", rpcx.Args{2})
	matches(t, x.SendBatch(ctx, &rest), rpcx.ErrCancelled)

	want := []string{
		`{"jsonrpc":"2.0","method":"sum","id":5,"params":[1,2]}`,
		`{"jsonrpc":"2.0","method":"fail","id":6}`,
		`{"jsonrpc":"2.0","method":"sum","id":7,"params":[3,4]}`,
		`{"jsonrpc":"2.0","method":"note"}`,
		`{"jsonrpc":"2.0","method":"sum","id":8,"params":[5,6]}`,
		`{"jsonrpc":"2.0","method":"math/negate","id":9,"params":[8]}`,
		`[{"jsonrpc":"2.0","method":"sum","id":10,"params":[1,1]}, {"jsonrpc":"2.0","method":"note"}, ` +
			`{"jsonrpc":"2.0","method":"fail","id":11}, {"jsonrpc":"2.0","method":"sum","id":12,"params":[2,2]}]`,
		`[{"jsonrpc":"2.0","method":"note","params":[1]}]`,
		`[{"jsonrpc":"2.0","method":"note","params":[2]}]`,
	}
	if !slices.Equal(sent, want) {
		t.Errorf("sent\n%s, want\n%s", strings.Join(sent, "\n"), strings.Join(want, "\n"))
	}
}

// What a call becomes by the reply to its message.
func TestExchangeReplies(t *testing.T) {
	for _, test := range []struct {
		sentence string
		protocol rpcx.Protocol
		reply    string
		want     string // the result or the error
		target   error  // that the error matches
	}{
		{"a result", nil, `{"jsonrpc":"2.0","result":1,"id":0}`, "1", nil},
		{"the id as a float", nil, `{"jsonrpc":"2.0","result":1,"id":0.0}`, "1", nil},
		{"a response in an array", nil, `[{"jsonrpc":"2.0","result":1,"id":0}]`, "1", nil},
		{"a response beside another", nil, `[{"jsonrpc":"2.0","result":2,"id":9},{"jsonrpc":"2.0","result":1,"id":0}]`, "1", nil},
		{"two responses, of which the first counts", nil, `[{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","result":2,"id":0}]`, "1", nil},
		{"an error", nil, `{"jsonrpc":"2.0","error":{"code":7,"message":"no"},"id":0}`, "no (code 7)", rpcx.Errorf(7, "")},
		{"an error without an id", nil, `{"jsonrpc":"2.0","error":{"code":-32603,"message":"no"},"id":null}`, "no (code -32603)", rpcx.ErrInternalError},
		{"a result without an id", nil, `{"jsonrpc":"2.0","result":1,"id":null}`, "protocol error: response to unsent request (ID: null) (code -32600)", rpcx.ErrInvalidRequest},
		{"another id", nil, `{"jsonrpc":"2.0","result":1,"id":1}`, "protocol error: response to unsent request (ID: 1) (code -32600)", rpcx.ErrInvalidRequest},
		{"a string as the id", nil, `{"jsonrpc":"2.0","result":1,"id":"0"}`, `protocol error: the id of the response is the string "0", not the number 0 (code -32600)`, rpcx.ErrInvalidRequest},
		{"a string as the id, in a loose protocol", rpcx.JSONRPCLoose, `{"result":1,"id":"0"}`, "1", nil},
		{"another string as the id", nil, `{"jsonrpc":"2.0","result":1,"id":"x"}`, `protocol error: response to unsent request (ID: "x") (code -32600)`, rpcx.ErrInvalidRequest},
		{"another version", nil, `{"result":1,"error":null,"id":0}`, "protocol error:", rpcx.ErrInvalidRequest},
		{"result and error", nil, `{"jsonrpc":"2.0","result":1,"error":{"code":1,"message":"m"},"id":0}`, "protocol error:", rpcx.ErrInvalidRequest},
		{"neither result nor error", nil, `{"jsonrpc":"2.0","id":0}`, "protocol error:", rpcx.ErrInvalidRequest},
		{"an ill-formed error", nil, `{"jsonrpc":"2.0","error":5,"id":0}`, "protocol error:", rpcx.ErrInvalidRequest},
		{"a request", nil, `{"jsonrpc":"2.0","method":"m","id":0}`, `protocol error: the reply has a request or notification, "m" (code -32600)`, rpcx.ErrInvalidRequest},
		{"a notification", nil, `{"jsonrpc":"2.0","method":"m"}`, `protocol error: the reply has a request or notification, "m" (code -32600)`, rpcx.ErrInvalidRequest},
		{"no JSON", nil, `<html>`, "protocol error: invalid JSON (code -32700)", rpcx.ErrParseError},
		{"no UTF-8", nil, "\"\xff\"", "protocol error: messages must be encoded in UTF-8 (code -32700)", rpcx.ErrParseError},
		{"broken JSON with the id", nil, `{"jsonrpc":"2.0","id":0,"result":tru}`, "protocol error: invalid JSON (ID: 0) (code -32700)", rpcx.ErrParseError},
		{"a number", nil, `7`, "protocol error: request object must be a dictionary (code -32600)", rpcx.ErrInvalidRequest},
		{"an empty array", nil, `[]`, "protocol error: batch is empty (code -32600)", rpcx.ErrInvalidRequest},
		{"nothing", nil, ``, "rpcx: no response to the call", rpcx.ErrNoResponse},
		{"white space", nil, " \r\n", "rpcx: no response to the call", rpcx.ErrNoResponse},
		{"a result of another type", nil, `{"jsonrpc":"2.0","result":"x","id":0}`, `decode the result of "m": `, nil},
		{"1.0", rpcx.JSONRPCv1, `{"result":1,"error":null,"id":0}`, "1", nil},
		{"an error in 1.0", rpcx.JSONRPCv1, `{"result":null,"error":{"code":7,"message":"no"},"id":0}`, "no (code 7)", rpcx.Errorf(7, "")},
		{"a version to be found", rpcx.JSONRPCAutoDetect, `{"result":1,"error":null,"id":0}`, "1", nil},
		{"aiomas", rpcx.Aiomas, `[1,0,1]`, "1", nil},
		{"a string as the id in aiomas", rpcx.Aiomas, `[1,"x",1]`, "protocol error: ", rpcx.ErrInvalidRequest},
		{"an exception of aiomas", rpcx.Aiomas, `[2,0,"Traceback"]`, "", rpcx.ErrUnavailable},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			x := newExchange(t, &rpcx.Options{Protocol: test.protocol}, replying(test.reply))
			got, err := rpcx.Call[int](t.Context(), x, "m", nil)
			text := fmt.Sprint(got)
			if err != nil {
				text = err.Error()
			}
			if !strings.HasPrefix(text, test.want) {
				t.Errorf("got %s, want %s", text, test.want)
			}
			if test.target != nil {
				matches(t, err, test.target)
			}
		})
	}
}

// What the calls of a batch become by the reply to their message.
func TestExchangeBatchReplies(t *testing.T) {
	const zero, one = `{"jsonrpc":"2.0","result":10,"id":0}`, `{"jsonrpc":"2.0","result":11,"id":1}`
	const other, refusal = `{"jsonrpc":"2.0","result":12,"id":2}`, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"no batches"},"id":null}`
	for _, test := range []struct{ sentence, reply, want string }{
		{"in order", "[" + zero + "," + one + "]", "10 11"},
		{"in another order", "[" + one + "," + zero + "]", "10 11"},
		{"one alone", one, "none 11"},
		{"one in an array", "[" + zero + "]", "10 none"},
		{"one beside a response to nothing", "[" + zero + "," + other + "]", "10 none"},
		{"one beside an error without an id", "[" + zero + "," + refusal + "]", "10 none"},
		{"a refusal", refusal, "no batches (code -32600) no batches (code -32600)"},
		{"a response to nothing", other, "protocol error: response to unsent request (ID: 2) (code -32600) protocol error: response to unsent request (ID: 2) (code -32600)"},
		{"an ill-formed one", "[" + zero + `,{"jsonrpc":"2.0","id":1,"result":1,"error":2}]`, "10 protocol error: "},
		{"nothing", "", "none none"},
		{"no JSON", "oops", "protocol error: invalid JSON (code -32700) protocol error: invalid JSON (code -32700)"},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			x := newExchange(t, nil, replying(test.reply))
			var b rpcx.Batch
			var results [2]int
			futures := []*rpcx.Future{b.Call("a", nil, &results[0]), b.Call("b", nil, &results[1])}
			err := x.SendBatch(t.Context(), &b)
			var texts []string
			failed := false
			for i, f := range futures {
				text := fmt.Sprint(results[i])
				if f.Err() == rpcx.ErrNoResponse {
					text = "none"
				} else if f.Err() != nil {
					text = f.Err().Error()
				}
				failed = failed || f.Err() != nil
				texts = append(texts, text)
			}
			if got := strings.Join(texts, " "); !strings.HasPrefix(got, test.want) {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if _, ok := errors.AsType[*rpcx.BatchError](err); ok != failed {
				t.Errorf("the error of the batch is %v", err)
			}
		})
	}
}

// A reply that has more than the responses is logged, because no call has the error.
func TestExchangeLogsFaultsBesideReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		opts := &rpcx.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
		x := newExchange(t, opts, replying(`[{"jsonrpc":"2.0","result":1,"id":0},{"jsonrpc":"2.0","result":2,"id":9}]`))
		if err := x.Call(t.Context(), "m", nil, nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `msg="bad message" error="protocol error: response to unsent request (ID: 9)`) {
			t.Errorf("the log has %s", got)
		}
	})
}

// A notification expects no reply.
func TestExchangeRepliesToNotifications(t *testing.T) {
	for _, test := range []struct{ sentence, reply, want string }{
		{"nothing", "", "<nil>"},
		{"white space", "\n", "<nil>"},
		{"a refusal", `{"jsonrpc":"2.0","error":{"code":-32601,"message":"none"},"id":null}`, "none (code -32601)"},
		{"a response", `{"jsonrpc":"2.0","result":1,"id":0}`, "protocol error: response to unsent request (ID: 0) (code -32600)"},
		{"no JSON", "oops", "protocol error: invalid JSON (code -32700)"},
	} {
		x := newExchange(t, nil, replying(test.reply))
		if err := x.Notify(t.Context(), "n", nil); fmt.Sprint(err) != test.want {
			t.Errorf("%s: %v, want %s", test.sentence, err, test.want)
		}
		var b rpcx.Batch
		b.Notify("n", nil)
		if err := x.SendBatch(t.Context(), &b); fmt.Sprint(err) != test.want {
			t.Errorf("%s to a batch: %v, want %s", test.sentence, err, test.want)
		}
	}
}

// sentError is a SentError.
type sentError bool

func (e sentError) Error() string { return fmt.Sprintf("sent: %v", bool(e)) }
func (e sentError) Sent() bool    { return bool(e) }

// Errors of RoundTrip, and of messages that are not sent.
func TestExchangeErrors(t *testing.T) {
	plain := errors.New("refused")
	for _, test := range []struct {
		err     error
		written bool
	}{
		{plain, true},
		{sentError(true), true},
		{sentError(false), false},
		{fmt.Errorf("dialling: %w", sentError(false)), false},
		{io.EOF, true},
		{context.Canceled, true}, // of a context of the RoundTripper's own
		{rpcx.ServerBusy("later"), true},
	} {
		x := newExchange(t, nil, func(context.Context, []byte) ([]byte, error) { return []byte(`[`), test.err })
		var b rpcx.Batch
		member := b.Call("m", nil, nil)
		matches(t, x.SendBatch(t.Context(), &b), test.err)
		for _, err := range []error{x.Call(t.Context(), "m", nil, nil), x.Notify(t.Context(), "m", nil), member.Err()} {
			e, ok := errors.AsType[*rpcx.ConnectionError](err)
			if !ok || e.Written != test.written || e.Err != test.err {
				t.Errorf("%v: the error is %v", test.err, err)
			}
			matches(t, err, rpcx.ErrConnectionLost)
		}
	}

	trips := 0
	x := newExchange(t, &rpcx.Options{Limits: rpcx.Limits{Batch: 2}}, func(context.Context, []byte) ([]byte, error) {
		trips++
		return nil, nil
	})
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(plain)
	var late, long, bad rpcx.Batch
	member := late.Call("m", nil, nil)
	for range 3 {
		long.Notify("m", nil)
	}
	bad.Call("m", nil, nil)
	bad.Notify("bad", rpcx.Args{make(chan int)})
	for _, test := range []struct {
		err  error
		want string
	}{
		{x.Call(ended, "m", nil, nil), "refused"},
		{x.Notify(ended, "m", nil), "refused"},
		{x.Go(ended, "m", nil).Err(), "refused"},
		{x.SendBatch(ended, &late), "refused"},
		{member.Err(), "refused"},
		{x.Call(t.Context(), "m", 5, nil), "message not sent: "},
		{x.Call(t.Context(), "m", rpcx.Args{make(chan int)}, nil), "message not sent: "},
		{x.SendBatch(t.Context(), &long), "message not sent: batch too long: 3 calls and notifications, over 2 members (Limits.Batch)"},
		{x.SendBatch(t.Context(), &bad), `member 2 of the batch, "bad": message not sent: `},
	} {
		if !strings.HasPrefix(fmt.Sprint(test.err), test.want) {
			t.Errorf("the error is %v, want %s", test.err, test.want)
		}
	}
	if trips != 0 {
		t.Errorf("%d messages were sent", trips)
	}
	v1 := newExchange(t, &rpcx.Options{Protocol: rpcx.JSONRPCv1}, replying(""))
	var b rpcx.Batch
	b.Call("m", nil, nil)
	if err := v1.SendBatch(t.Context(), &b); err == nil || !strings.Contains(err.Error(), "does not permit batches") {
		t.Errorf("a batch in 1.0: %v", err)
	}
}

// A call ends with its context, or by RequestTimeout if the context has no deadline, even
// if RoundTrip does not heed its context.
func TestExchangeContext(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ctx := context.WithValue(t.Context(), key{}, "value")
		causes := make(chan error, 10)
		x := newExchange(t, nil, func(ctx context.Context, _ []byte) ([]byte, error) {
			if ctx.Value(key{}) != "value" {
				t.Error("the context of RoundTrip lacks the values of the caller's")
			}
			<-ctx.Done()
			causes <- context.Cause(ctx)
			<-release
			return []byte(`{"jsonrpc":"2.0","result":1,"id":0}`), nil
		})
		defer close(release)
		takes(t, 30*time.Second, func() { matches(t, x.Call(ctx, "m", nil, nil), rpcx.ErrTimeout, context.DeadlineExceeded) })
		takes(t, 30*time.Second, func() { matches(t, x.Notify(ctx, "m", nil), rpcx.ErrTimeout) })
		long, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		takes(t, time.Minute, func() {
			err := x.Call(long, "m", nil, nil)
			matches(t, err, context.DeadlineExceeded)
			matchesNot(t, err, rpcx.ErrTimeout)
		})
		cause := errors.New("enough")
		given, cancel := context.WithCancelCause(ctx)
		time.AfterFunc(time.Second, func() { cancel(cause) })
		var b rpcx.Batch
		member := b.Call("m", nil, nil)
		takes(t, time.Second, func() { matches(t, x.SendBatch(given, &b), cause) })
		if member.Err() != cause {
			t.Errorf("the error of the member is %v", member.Err())
		}
		synctest.Wait()
		for _, want := range []error{rpcx.ErrTimeout, rpcx.ErrTimeout, context.DeadlineExceeded, cause} {
			if got := <-causes; got != want {
				t.Errorf("the context of RoundTrip has ended by %v, want %v", got, want)
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		x := newExchange(t, &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: -1}}, func(ctx context.Context, _ []byte) ([]byte, error) {
			if _, ok := ctx.Deadline(); ok {
				t.Error("a call has a deadline without a RequestTimeout")
			}
			time.Sleep(time.Hour)
			return []byte(`{"jsonrpc":"2.0","result":1,"id":0}`), nil
		})
		takes(t, time.Hour, func() {
			if err := x.Call(t.Context(), "m", nil, nil); err != nil {
				t.Error(err)
			}
		})
	})
}

// Future.Cancel ends the context of RoundTrip when no call of the message is left.
func TestExchangeCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 3)
		x := newExchange(t, nil, func(ctx context.Context, msg []byte) ([]byte, error) {
			_, err := hanging(ctx, msg)
			causes <- err
			return nil, err
		})
		f := x.Go(t.Context(), "m", nil)
		synctest.Wait() // RoundTrip has begun
		f.Cancel()
		if err := <-causes; err != rpcx.ErrCancelled || f.Err() != rpcx.ErrCancelled {
			t.Errorf("cause %v, error %v", err, f.Err())
		}
		var b rpcx.Batch
		first, second := b.Call("a", nil, nil), b.Call("b", nil, nil)
		failed := make(chan error, 1)
		go func() { failed <- x.SendBatch(t.Context(), &b) }()
		synctest.Wait()
		second.Cancel()
		synctest.Wait()
		if len(causes) > 0 || second.Err() != rpcx.ErrCancelled || first.Err() != nil {
			t.Errorf("after one call was cancelled: errors %v and %v", first.Err(), second.Err())
		}
		first.Cancel()
		matches(t, <-failed, rpcx.ErrCancelled)
		if err := <-causes; err != rpcx.ErrCancelled {
			t.Errorf("the cause is %v", err)
		}
	})
}

// At most Limits.Outgoing messages are on their way, and the others wait in order.
func TestExchangeOutgoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var begun []string
		running, most := 0, 0
		answer := handlingMessages(rpcx.HandlerFunc(reply))
		x := newExchange(t, &rpcx.Options{Limits: rpcx.Limits{Outgoing: 2}}, func(ctx context.Context, msg []byte) ([]byte, error) {
			var m rpcx.Message
			rpcx.JSONRPCv2.Decode(&m, msg, 10)
			mu.Lock()
			begun = append(begun, m.Items[0].Method)
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return answer(ctx, msg)
		})
		x.Go(t.Context(), "first", nil)
		time.Sleep(time.Second / 2) // slots become free one by one
		x.Go(t.Context(), "second", nil)
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				if err := x.Call(t.Context(), fmt.Sprint(i), nil, nil); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		takes(t, time.Millisecond, func() { matches(t, x.Notify(impatient, "late", nil), context.DeadlineExceeded) })
		all.Wait()
		if want := []string{"first", "second", "0", "1", "2", "3"}; !slices.Equal(begun, want) || most != 2 {
			t.Errorf("the messages began as %q, %d at once", begun, most)
		}
	})
	synctest.Test(t, func(t *testing.T) { // RequestTimeout bounds the wait, too
		x := newExchange(t, &rpcx.Options{Limits: rpcx.Limits{Outgoing: 1, RequestTimeout: time.Second}}, hanging)
		minute, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		first := x.Go(minute, "first", nil)
		takes(t, time.Second, func() { matches(t, x.Go(t.Context(), "second", nil).Err(), rpcx.ErrTimeout) })
		if isDone(first) {
			t.Errorf("the first call has ended: %v", first.Err())
		}
	})
	synctest.Test(t, func(t *testing.T) { // no limit
		x := newExchange(t, &rpcx.Options{Limits: rpcx.Limits{Outgoing: -1}}, hanging)
		for range 300 {
			x.Go(t.Context(), "m", nil)
		}
		takes(t, 30*time.Second, func() { matches(t, x.Call(t.Context(), "m", nil, nil), rpcx.ErrTimeout) })
	})
}

// Close ends all calls, and closes the RoundTripper once.
func TestExchangeClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("close failed")
		causes := make(chan error, 2)
		rt := &tripper{closeErr: failure, trip: func(ctx context.Context, msg []byte) ([]byte, error) {
			_, err := hanging(ctx, msg)
			causes <- err
			return nil, err
		}}
		x := rpcx.NewExchange(rt, &rpcx.Options{Limits: rpcx.Limits{Outgoing: 2}})
		pending := x.Go(t.Context(), "m", nil)
		var b rpcx.Batch
		member := b.Call("m", nil, nil)
		failed := make(chan error, 2)
		go func() { failed <- x.SendBatch(t.Context(), &b) }()
		synctest.Wait()
		go func() { failed <- x.Call(t.Context(), "waiting for a slot", nil, nil) }()
		synctest.Wait()
		if err := x.Close(); err != failure {
			t.Errorf("Close: %v", err)
		}
		for range 2 {
			matches(t, <-failed, rpcx.ErrClosed)
			matches(t, <-causes, rpcx.ErrClosed)
		}
		for _, err := range []error{pending.Err(), member.Err()} {
			e, ok := errors.AsType[*rpcx.ConnectionError](err)
			if !ok || !e.Written || e.Err != rpcx.ErrClosed {
				t.Errorf("the error of a pending call is %v", err)
			}
		}
		var later rpcx.Batch
		later.Call("m", nil, nil)
		for _, err := range []error{x.Call(t.Context(), "m", nil, nil), x.Go(t.Context(), "m", nil).Err(), x.Notify(t.Context(), "m", nil), x.SendBatch(t.Context(), &later)} {
			if err != rpcx.ErrClosed {
				t.Errorf("after Close: %v", err)
			}
		}
		if err := x.Close(); err != nil || rt.closed.Load() != 1 {
			t.Errorf("closed again: %v; the RoundTripper was closed %d times", err, rt.closed.Load())
		}
	})
}

// The first reply decides the protocol, as in a session.
func TestExchangeDetectsProtocol(t *testing.T) {
	var sent []string
	x := newExchange(t, &rpcx.Options{Protocol: rpcx.JSONRPCAutoDetect}, func(_ context.Context, msg []byte) ([]byte, error) {
		sent = append(sent, string(msg))
		return fmt.Appendf(nil, `{"result":%d,"error":null,"id":%d}`, len(sent), len(sent)-1), nil
	})
	for i := range 2 {
		if got, err := rpcx.Call[int](t.Context(), x, "m", nil); got != i+1 || err != nil {
			t.Errorf("call %d: %d, %v", i, got, err)
		}
	}
	if want := []string{`{"jsonrpc":"2.0","method":"m","id":0}`, `{"method":"m","params":[],"id":1}`}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
}

// Objects pass through an Exchange; calls of a received service go through it, too.
func TestExchangeObjects(t *testing.T) {
	opts := &rpcx.Options{Objects: true, Types: []rpcx.Type{rpcx.NewType(
		func(s search) (string, error) { return s.Text, nil },
		func(text string) (search, error) { return search{Text: text}, nil })}}
	var sent string
	x := newExchange(t, opts, func(_ context.Context, msg []byte) ([]byte, error) {
		sent = string(msg)
		if strings.Contains(sent, "svc/m") {
			return []byte(`{"jsonrpc":"2.0","result":"through","id":1}`), nil
		}
		return []byte(`{"jsonrpc":"2.0","result":{"__type__":[1,"svc"]},"id":0}`), nil
	})
	var bound struct {
		Find func(context.Context, search) (*rpcx.Proxy, error)
	}
	if err := rpcx.BindProxy(rpcx.Remote(x), &bound); err != nil {
		t.Fatal(err)
	}
	proxy, err := bound.Find(t.Context(), search{Text: "x"})
	if err != nil || !strings.Contains(sent, `"params":[{"__type__":[0,"x"]}]`) {
		t.Fatalf("sent %s, error %v", sent, err)
	}
	var got string
	if err := proxy.Call(t.Context(), &got, "m"); got != "through" || err != nil || !proxy.Equal(rpcx.Remote(x).At("svc")) {
		t.Errorf("%v: %q, %v", proxy, got, err)
	}
	if err := x.Call(t.Context(), "m", rpcx.Args{rpcx.NewRouter()}, nil); err == nil || !strings.Contains(err.Error(), "cannot be sent") {
		t.Errorf("a service was sent: %v", err)
	}
}

// Calls at the same time get their own replies.
func TestExchangeConcurrentCalls(t *testing.T) {
	x := newExchange(t, nil, handlingMessages(arithmetic()))
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			var b rpcx.Batch
			var twice int
			b.Call("sum", rpcx.Args{i, i}, &twice)
			b.Call("math/negate", rpcx.Args{i}, nil)
			if err := x.SendBatch(t.Context(), &b); err != nil || twice != 2*i {
				t.Errorf("a batch: %d, %v", twice, err)
			}
			if sum, err := rpcx.Call[int](t.Context(), x, "sum", rpcx.Args{i, 1}); sum != i+1 || err != nil {
				t.Errorf("a call: %d, %v", sum, err)
			}
			f := x.Go(t.Context(), "sum", rpcx.Args{1, 1})
			f.Cancel()
			if err := f.Wait(t.Context(), nil); err != nil && err != rpcx.ErrCancelled {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// RoundTrip owns the message, also after it has returned.
func TestExchangeMessagesAreNotReused(t *testing.T) {
	var kept [][]byte
	x := newExchange(t, nil, func(_ context.Context, msg []byte) ([]byte, error) {
		kept = append(kept, msg)
		return nil, nil
	})
	for i := range 3 {
		if err := x.Notify(t.Context(), "n", rpcx.Args{i}); err != nil {
			t.Error(err)
		}
	}
	for i, msg := range kept {
		if want := fmt.Sprintf(`{"jsonrpc":"2.0","method":"n","params":[%d]}`, i); string(msg) != want {
			t.Errorf("message %d is now %s", i, msg)
		}
	}
}

func TestNewExchangePanics(t *testing.T) {
	panicsWith(t, "rpcx: NewExchange with a nil RoundTripper", func() { rpcx.NewExchange(nil, nil) })
	panicsWith(t, "Limits.RequestTimeout", func() {
		rpcx.NewExchange(&tripper{}, &rpcx.Options{Limits: rpcx.Limits{RequestTimeout: 30}})
	})
	x := newExchange(t, &rpcx.Options{
		Handler:    rpcx.HandlerFunc(nil), // ignored, as the middleware
		Middleware: []func(rpcx.Handler) rpcx.Handler{nil},
	}, replying(`{"jsonrpc":"2.0","result":null,"id":0}`))
	var none context.Context
	panicsWith(t, "rpcx: Exchange.Call with a nil context", func() { x.Call(none, "m", nil, nil) })
	if err := x.Call(t.Context(), "m", nil, json.RawMessage(nil)); err == nil || !strings.Contains(err.Error(), "pass a pointer") {
		t.Errorf("a result into no pointer: %v", err)
	}
}
