package peers

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"example.com/rpcx"

	"github.com/google/go-cmp/cmp"
)

// aiorpcxCheck is something that our client does with aiorpcX's server.
type aiorpcxCheck struct {
	name string
	run  func(t *testing.T, ctx context.Context, s *rpcx.Session)
}

var (
	aiorpcxChecks = []aiorpcxCheck{
		{"call", checkCall},
		{"named arguments", checkNamed},
		{"errors", checkErrors},
		{"errors that say how named arguments do not fit", checkNamedErrors},
		{"error: the server is busy", checkBusy},
		{"error: the reply would be too large", checkReplyTooLarge},
		{"error: the session has cost too much", checkExcessive},
		{"notification", checkNotification},
		{"2000 pipelined calls", checkPipelined},
		{"batch with notifications and failing members", checkBatch},
		{"batch of 2000", checkLargeBatch},
		{"batch of notifications only", checkNotificationBatch},
		{"900 kB message", checkLargeMessage},
		{"request over the limit", checkLargeRequest},
		{"reply over the limit", checkLargeReply},
		{"called back", checkCalledBack},
		{"reply and disconnect", checkDisconnect},
		{"connection lost", checkConnectionLost},
	}
	aiorpcxV1Checks = []aiorpcxCheck{
		{"call", checkCall},
		{"errors", checkErrors},
		{"notification", checkNotification},
		{"2000 pipelined calls", checkPipelined},
		{"called back", checkCalledBack},
		{"what 1.0 cannot express", checkInexpressible},
		{"connection lost", checkConnectionLost},
	}
)

func checkCall(t *testing.T, ctx context.Context, s *rpcx.Session) {
	for _, value := range []any{
		"Howdy", "", "naïve ☃ 𝄞 </script> \u2028", "tab\tquote\"\\\x00\x7f", 0.0, -1.5, 1e300, true, nil,
		[]any{}, map[string]any{}, []any{1.0, []any{2.0, map[string]any{"é": nil}}},
	} {
		got, err := rpcx.Call[any](ctx, s, "echo", rpcx.Args{value})
		if diff := cmp.Diff(value, got); diff != "" || err != nil {
			t.Errorf("%v: %v, (-want +got)\n%s", value, err, diff)
		}
	}
	for _, value := range []uint64{1<<53 + 1, math.MaxUint64} {
		if got, err := rpcx.Call[uint64](ctx, s, "echo", rpcx.Args{value}); got != value || err != nil {
			t.Errorf("%d: got %d, %v", value, got, err)
		}
	}
	for want, args := range map[float64]any{0: nil, 42: rpcx.Args{1, 2, 39}, 1: []float64{1}} {
		if got, err := rpcx.Call[float64](ctx, s, "sum", args); got != want || err != nil {
			t.Errorf("the sum of %v: got %v, %v", args, got, err)
		}
	}
}

func checkNamed(t *testing.T, ctx context.Context, s *rpcx.Session) {
	type operands struct {
		Subtrahend float64 `json:"subtrahend,omitzero"`
		Minuend    float64 `json:"minuend"`
	}
	for _, test := range []struct {
		args any
		want float64
	}{
		{map[string]any{"subtrahend": 23, "minuend": 42}, 19},
		{operands{23, 42}, 19},
		{operands{Minuend: 42}, 42},
	} {
		if got, err := rpcx.Call[float64](ctx, s, "subtract", test.args); got != test.want || err != nil {
			t.Errorf("%v: got %v, %v", test.args, got, err)
		}
	}
}

func checkErrors(t *testing.T, ctx context.Context, s *rpcx.Session) {
	call := func(method string, args ...any) error { return s.Call(ctx, method, rpcx.Args(args), nil) }
	wantPeerError(t, call("nothing"), rpcx.ErrMethodNotFound, `unknown method "nothing"`)
	wantPeerError(t, call("echo"), rpcx.ErrInvalidParams, `0 arguments passed to method "echo" but it requires 1`)
	wantPeerError(t, call("echo", 1, 2), rpcx.ErrInvalidParams, "2 arguments passed to method echo taking at most 1")
	wantPeerError(t, call("refuse"), &rpcx.Error{Code: 42}, "refused: naïve")
	wantPeerError(t, call("fail"), rpcx.ErrInternalError, "internal server error")
	wantStillThere(t, ctx, s)
}

func checkNamedErrors(t *testing.T, ctx context.Context, s *rpcx.Session) {
	call := func(args map[string]any) error { return s.Call(ctx, "echo", args, nil) }
	wantPeerError(t, call(map[string]any{}), rpcx.ErrInvalidParams, `method "echo" requires parameter "message"`)
	wantPeerError(t, call(map[string]any{"message": 1, "other": 2}), rpcx.ErrInvalidParams, `method "echo" does not take parameter "other"`)
	wantStillThere(t, ctx, s)
}

func checkBusy(t *testing.T, ctx context.Context, s *rpcx.Session) {
	if err := s.Call(ctx, "be_impatient", nil, nil); err != nil {
		t.Fatal(err)
	}
	wantPeerError(t, s.Call(ctx, "hang", nil, nil), rpcx.ErrServerBusy, "server busy - request timed out")
}

func checkReplyTooLarge(t *testing.T, ctx context.Context, s *rpcx.Session) {
	if err := s.Call(ctx, "limit_response", rpcx.Args{1000}, nil); err != nil {
		t.Fatal(err)
	}
	wantPeerError(t, s.Call(ctx, "text", rpcx.Args{2000}, nil), rpcx.ErrInvalidRequest, "response too large (over 1,000 bytes")
	wantStillThere(t, ctx, s)
}

func checkExcessive(t *testing.T, ctx context.Context, s *rpcx.Session) {
	if err := s.Call(ctx, "overspend", nil, nil); err != nil {
		t.Fatal(err)
	}
	wantPeerError(t, s.Call(ctx, "echo", rpcx.Args{1}, nil), rpcx.ErrExcessiveResourceUsage, "excessive resource usage")
	wantHangup(t, ctx, s)
}

func checkNotification(t *testing.T, ctx context.Context, s *rpcx.Session) {
	if err := s.Notify(ctx, "note", rpcx.Args{"alone"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Notify(ctx, "refuse", nil); err != nil { // nobody is told that it fails
		t.Fatal(err)
	}
	if got, err := rpcx.Call[string](ctx, s, "await_note", rpcx.Args{"alone"}); got != "alone" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if stats := s.Stats(); stats.UnexpectedReplies != 0 {
		t.Errorf("it was answered: %+v", stats)
	}
}

func checkPipelined(t *testing.T, ctx context.Context, s *rpcx.Session) {
	calls := make([]*rpcx.Future, 2000)
	for i := range calls {
		calls[i] = s.Go(ctx, "echo", rpcx.Args{i})
	}
	for i, call := range calls {
		var got int
		if err := call.Wait(ctx, &got); got != i || err != nil {
			t.Fatalf("call %d: got %d, %v", i, got, err)
		}
	}
}

func checkBatch(t *testing.T, ctx context.Context, s *rpcx.Session) {
	var first, last string
	var difference float64
	var b rpcx.Batch
	b.Call("echo", rpcx.Args{"first"}, &first)
	b.Notify("note", rpcx.Args{"in a batch"})
	b.Call("nothing", nil, nil)
	b.Call("subtract", map[string]int{"minuend": 3, "subtrahend": 1}, &difference)
	b.Call("refuse", nil, nil)
	b.Notify("nothing", nil)
	b.Call("echo", nil, nil)
	b.Call("fail", nil, nil)
	b.Call("echo", rpcx.Args{"last"}, &last)

	var failed *rpcx.BatchError
	if err := s.SendBatch(ctx, &b); !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	want := []error{
		nil, rpcx.ErrMethodNotFound, nil, &rpcx.Error{Code: 42}, rpcx.ErrInvalidParams, rpcx.ErrInternalError, nil,
	}
	if !slices.EqualFunc(failed.Errs, want, errors.Is) {
		t.Errorf("got the errors %v", failed.Errs)
	}
	if first != "first" || difference != 2 || last != "last" {
		t.Errorf("got the results %q, %v, %q", first, difference, last)
	}
	if err := s.Call(ctx, "await_note", rpcx.Args{"in a batch"}, nil); err != nil {
		t.Error(err)
	}
}

func checkLargeBatch(t *testing.T, ctx context.Context, s *rpcx.Session) {
	var b rpcx.Batch
	got := make([]int, 2000)
	for i := range got {
		b.Call("echo", rpcx.Args{i}, &got[i])
	}
	if err := s.SendBatch(ctx, &b); err != nil {
		t.Fatal(err)
	}
	for i, n := range got {
		if n != i {
			t.Fatalf("member %d: got %d", i, n)
		}
	}
}

func checkNotificationBatch(t *testing.T, ctx context.Context, s *rpcx.Session) {
	var b rpcx.Batch
	b.Notify("note", rpcx.Args{"one"})
	b.Notify("note", rpcx.Args{"two"})
	if err := s.SendBatch(ctx, &b); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"one", "two"} {
		if err := s.Call(ctx, "await_note", rpcx.Args{token}, nil); err != nil {
			t.Error(err)
		}
	}
}

func checkLargeMessage(t *testing.T, ctx context.Context, s *rpcx.Session) {
	text := strings.Repeat("é0123456789", 900_000/16) // é comes back as six bytes
	if got, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{text}); got != text || err != nil {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func checkLargeRequest(t *testing.T, ctx context.Context, s *rpcx.Session) {
	err := s.Call(ctx, "echo", rpcx.Args{strings.Repeat("x", 1_500_000)}, nil)
	if _, ok := errors.AsType[*rpcx.SizeError](err); !ok {
		t.Errorf("the call ended with %v", err)
	}
	wantStillThere(t, ctx, s)
	if dropped, err := rpcx.Call[int](ctx, s, "dropped", nil); dropped != 0 || err != nil {
		t.Errorf("%d messages were dropped (%v), want none", dropped, err)
	}
}

func checkLargeReply(t *testing.T, ctx context.Context, s *rpcx.Session) {
	lost := s.Go(ctx, "text", rpcx.Args{1_100_000})
	wantStillThere(t, ctx, s) // aiorpcX answers in order if its handlers do not wait
	if stats := s.Stats(); stats.Errors != 1 {
		t.Errorf("%d errors were counted, want 1", stats.Errors)
	}
	wantUnanswered(t, lost)
}

func checkCalledBack(t *testing.T, ctx context.Context, s *rpcx.Session) {
	if got, err := rpcx.Call[int](ctx, s, "call_back", rpcx.Args{"double", 21}); got != 42 || err != nil {
		t.Errorf("got %d, %v", got, err)
	}
	// The server hands our own errors back to us.
	wantPeerError(t, s.Call(ctx, "call_back", rpcx.Args{"refuse", 1}, nil), &rpcx.Error{Code: 7}, "no")
	wantPeerError(t, s.Call(ctx, "call_back", rpcx.Args{"nothing", 1}, nil), rpcx.ErrMethodNotFound, `unknown method "nothing"`)
}

func checkDisconnect(t *testing.T, ctx context.Context, s *rpcx.Session) {
	if got, err := rpcx.Call[string](ctx, s, "bye", nil); got != "bye" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	wantHangup(t, ctx, s)
}

func checkConnectionLost(t *testing.T, ctx context.Context, s *rpcx.Session) {
	var calls []*rpcx.Future
	for range 10 {
		calls = append(calls, s.Go(ctx, "hang", nil))
	}
	calls = append(calls, s.Go(ctx, "hangup", nil))
	for _, call := range calls {
		wantCallLost(t, call.Wait(ctx, nil))
	}
	wantHangup(t, ctx, s)
}

func checkInexpressible(t *testing.T, ctx context.Context, s *rpcx.Session) {
	var refused *rpcx.ProtocolError
	if err := s.Call(ctx, "echo", map[string]int{"message": 1}, nil); !errors.As(err, &refused) {
		t.Errorf("named arguments: %v", err)
	}
	var b rpcx.Batch
	b.Call("echo", rpcx.Args{1}, nil)
	if err := s.SendBatch(ctx, &b); !errors.As(err, &refused) {
		t.Errorf("a batch: %v", err)
	}
	wantStillThere(t, ctx, s)
}

// wantPeerError wants an error that the peer has sent: want's code and the message.
func wantPeerError(t *testing.T, err, want error, message string) {
	t.Helper()
	var e *rpcx.Error
	if !errors.As(err, &e) || !errors.Is(err, want) || e.Message != message {
		t.Errorf("got %v, want %q as of %v", err, message, want)
	}
}

// wantCallLost wants the error of a call that was sent, and never answered.
func wantCallLost(t *testing.T, err error) {
	t.Helper()
	var lost *rpcx.ConnectionError
	if !errors.Is(err, rpcx.ErrConnectionLost) || !errors.As(err, &lost) || !lost.Written {
		t.Errorf("got %v, want that the connection was lost after the request was written", err)
	}
}

// wantUnanswered wants that a call is pending still, and gives it up.
func wantUnanswered(t *testing.T, call *rpcx.Future) {
	t.Helper()
	call.Cancel()
	if err := call.Err(); !errors.Is(err, rpcx.ErrCancelled) {
		t.Errorf("a call that cannot be answered ended with %v", err)
	}
}

func wantStillThere(t *testing.T, ctx context.Context, s *rpcx.Session) {
	t.Helper()
	if got, err := rpcx.Call[string](ctx, s, "echo", rpcx.Args{"still there"}); got != "still there" || err != nil {
		t.Errorf("the next call: got %q, %v", got, err)
	}
}

// wantHangup wants that the peer ends the session.
func wantHangup(t *testing.T, ctx context.Context, s *rpcx.Session) {
	t.Helper()
	select {
	case <-s.Done():
		if err := s.Err(); !errors.Is(err, io.EOF) {
			t.Errorf("the session ended with %v, want io.EOF", err)
		}
	case <-ctx.Done():
		t.Error("the session goes on")
	}
}
