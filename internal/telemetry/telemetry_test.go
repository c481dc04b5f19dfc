package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"example.com/rpcx"
	"example.com/rpcx/internal/telemetry"
	"example.com/rpcx/rpchttp"
)

func TestTableHasALimit(t *testing.T) {
	var mu sync.Mutex
	made := make(map[string]int)
	table := telemetry.NewTable(10, func(key string) string {
		mu.Lock()
		defer mu.Unlock()
		made[key]++
		return "value of " + key
	})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 100 {
				if v := table.Get(fmt.Sprint(i)); v != fmt.Sprint("value of ", i) && v != "value of _OTHER" {
					t.Errorf("%d: %s", i, v)
				}
			}
		})
	}
	all.Wait()
	if len(made) != 11 {
		t.Errorf("%d values", len(made))
	}
	for key, n := range made {
		if n != 1 {
			t.Errorf("%d values of %s", n, key)
		}
	}
}

// A peer that sends any number of codes does not take the places of the usual ones.
func TestUsualTypesKeepTheirPlaces(t *testing.T) {
	types := telemetry.NewTypes()
	others := 0
	for i := range 10_000 {
		for _, typ := range []string{strconv.Itoa(i), fmt.Sprint("http_", i)} {
			if types.Get(typ) == telemetry.Other {
				others++
			}
		}
	}
	if others != 20_000-telemetry.MaxCodes {
		t.Errorf("%d types are %s", others, telemetry.Other)
	}
	for _, typ := range []string{"-32603", "-102", telemetry.TypeTimeout, telemetry.TypeNotConnected} {
		if got := types.Get(typ); got != typ {
			t.Errorf("%s is %s", typ, got)
		}
	}
}

func TestMethods(t *testing.T) {
	m := telemetry.NewMethods(3, func(method string) bool { return strings.HasPrefix(method, "k") }, func(name string) string { return name })
	for _, test := range []struct{ method, want string }{
		{"k1", "k1"}, {"x", telemetry.Other}, {"k" + strings.Repeat("x", 256), telemetry.Other}, {"k\xff", telemetry.Other}, {"k2", "k2"}, {"k3", "k3"},
		{"k4", telemetry.Other}, {"k1", "k1"}, {telemetry.Other, telemetry.Other},
	} {
		if got := m.Get(test.method); got != test.want {
			t.Errorf("%.20s: %s, want %s", test.method, got, test.want)
		}
	}
}

func TestOutcomeOfACall(t *testing.T) {
	for _, test := range []struct {
		err        error
		code, kind string
	}{
		{nil, "", ""},
		{rpcx.Errorf(-5, "no"), "-5", "-5"},
		{fmt.Errorf("ask: %w", rpcx.Errorf(-5, "no")), "-5", "-5"},
		{&rpcx.BatchError{Errs: []error{rpcx.Errorf(-5, "no")}}, "", telemetry.TypeMemberFailed},
		{rpcx.ErrTimeout, "", telemetry.TypeTimeout},
		{context.DeadlineExceeded, "", telemetry.TypeTimeout},
		{context.Canceled, "", telemetry.TypeCancelled},
		{rpcx.ErrCancelled, "", telemetry.TypeCancelled},
		{fmt.Errorf("%w: %w", rpcx.ErrNotConnected, context.Canceled), "", telemetry.TypeNotConnected},
		{fmt.Errorf("%w: %w", rpcx.ErrNotConnected, rpcx.Errorf(-102, "busy")), "", telemetry.TypeNotConnected},
		{&rpcx.ConnectionError{Err: rpcx.ErrClosed}, "", telemetry.TypeConnectionLost},
		{&rpcx.ConnectionError{Err: rpcx.Errorf(-101, "cost")}, "", telemetry.TypeConnectionLost},
		{fmt.Errorf("%w: %w", rpcx.ErrClosed, &rpcx.PermanentError{Err: rpcx.Errorf(3, "login")}), "", telemetry.TypeClosed},
		{rpcx.ErrClosed, "", telemetry.TypeClosed},
		{rpcx.ErrNoResponse, "", telemetry.TypeNoResponse},
		{rpcx.ErrNoCallback, "", telemetry.TypeNotSent},
		{&rpcx.ProtocolError{Code: rpcx.CodeInvalidParams, Unsent: true}, "", telemetry.TypeNotSent},
		{&rpcx.SizeError{Size: 9, Limit: 8}, "", telemetry.TypeNotSent},
		{&rpcx.SizeError{Limit: 8}, "", telemetry.Other}, // of a reply
		{&rpcx.ConnectionError{Err: &rpchttp.StatusError{StatusCode: 401}}, "", "http_401"},
		{errors.New("else"), "", telemetry.Other},
	} {
		if got := telemetry.OfCall(context.Background(), test.err); got != (telemetry.Outcome{Code: test.code, Type: test.kind}) {
			t.Errorf("%v: %+v", test.err, got)
		}
	}
}

// The cause of a context may be the error of another call, which is no answer to this one.
func TestOutcomeOfACallWhoseContextEnds(t *testing.T) {
	for _, cause := range []error{rpcx.Errorf(5, "no"), rpcx.ErrConnectionLost, errors.New("else"), &rpcx.BatchError{}} {
		cancelled, cancel := context.WithCancelCause(t.Context())
		if got := telemetry.OfCall(cancelled, cause); got.Type == telemetry.TypeCancelled {
			t.Errorf("%v before the end: %+v", cause, got)
		}
		cancel(cause)
		if got := telemetry.OfCall(cancelled, cause); got != (telemetry.Outcome{Type: telemetry.TypeCancelled}) {
			t.Errorf("%v: %+v", cause, got)
		}
		if got := telemetry.OfCall(cancelled, rpcx.Errorf(5, "no")); got.Code != "5" {
			t.Errorf("an answer after the end: %+v", got)
		}
		late, stop := context.WithTimeoutCause(t.Context(), 0, cause)
		if got := telemetry.OfCall(late, cause); got != (telemetry.Outcome{Type: telemetry.TypeTimeout}) {
			t.Errorf("%v after a deadline: %+v", cause, got)
		}
		stop()
	}
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errorList{})
	if got := telemetry.OfCall(cancelled, errorList{}); got != (telemetry.Outcome{Type: telemetry.Other}) {
		t.Errorf("an error that cannot be compared: %+v", got)
	}
}

// errorList is an error that cannot be compared.
type errorList []error

func (errorList) Error() string { return "errors" }

func TestOutcomeOfARequest(t *testing.T) {
	cancelled := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		return ctx
	}
	late, cancel := context.WithTimeout(context.Background(), 0)
	defer cancel()
	returned := cancelled(context.Canceled)
	for _, test := range []struct {
		ctx        context.Context
		err        error
		c          *rpcx.Cancellation
		code, kind string
	}{
		{returned, nil, nil, "", ""},
		{returned, errors.New("disk full"), nil, "-32603", "-32603"},
		{returned, rpcx.Errorf(7, "no"), nil, "7", "7"},
		{returned, rpcx.ErrExcessiveCost, nil, "-101", "-101"},
		{returned, &rpcx.ProtocolError{Code: rpcx.CodeInvalidParams}, nil, "-32602", "-32602"},
		{returned, &rpcx.ProtocolError{Code: rpcx.CodeInvalidParams, Unsent: true}, nil, "-32603", "-32603"},
		{late, nil, nil, "-102", "-102"},
		{late, late.Err(), nil, "-102", "-102"},
		{cancelled(rpcx.ErrPeerCancelled), context.Canceled, rpcx.RPCCancellation, "-32097", "-32097"},
		{cancelled(rpcx.ErrPeerCancelled), rpcx.ErrPeerCancelled, rpcx.MCPCancellation, "", telemetry.TypeCancelled},
		{cancelled(rpcx.ErrPeerCancelled), nil, rpcx.RPCCancellation, "", ""},
		{cancelled(rpcx.ErrPeerCancelled), errors.New("else"), rpcx.RPCCancellation, "-32603", "-32603"},
		{cancelled(rpcx.ErrPeerCancelled), fmt.Errorf("%w: %w", context.Canceled, rpcx.Errorf(7, "no")), rpcx.RPCCancellation, "-32097", "-32097"},
		{returned, errors.Join(rpcx.Errorf(7, "no"), rpcx.ErrExcessiveCost), nil, "-101", "-101"},
		{cancelled(rpcx.ErrClosed), context.Canceled, nil, "", telemetry.TypeClosed},
		{cancelled(rpcx.ErrClosed), rpcx.ErrClosed, nil, "", telemetry.TypeClosed},
	} {
		if got := telemetry.OfRequest(test.ctx, nil, test.err, test.c); got != (telemetry.Outcome{Code: test.code, Type: test.kind}) {
			t.Errorf("%v with %v: %+v", test.err, context.Cause(test.ctx), got)
		}
	}
}
