package oracle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"example.com/rpcx"
)

func TestOutcomeOf(t *testing.T) {
	refused := &rpcx.Error{Code: rpcx.CodeServerBusy, Data: json.RawMessage(`{"started":false,"reason":"queue"}`)}
	unwritten := &rpcx.ConnectionError{Err: io.EOF}
	for _, test := range []struct {
		err  error
		want Outcome
	}{
		{nil, Answered},
		{&rpcx.Error{Code: 1}, Answered},
		{&rpcx.Error{Code: rpcx.CodeServerBusy}, Answered},
		{refused, NotStarted},
		{&rpcx.Error{Code: rpcx.CodeServerBusy, Data: json.RawMessage(`{"started":true,"reason":"timeout"}`)}, Written},
		{unwritten, NotStarted},
		{&rpcx.ConnectionError{Err: io.EOF, Written: true}, Written},
		{rpcx.ErrNotConnected, NotStarted},
		{rpcx.ErrClosed, NotStarted},
		{fmt.Errorf("%w: %w", rpcx.ErrNotConnected, refused), NotStarted},
		{fmt.Errorf("%w: %w", rpcx.ErrNotConnected, &rpcx.ConnectionError{Err: io.EOF, Written: true}), Written},
		{context.DeadlineExceeded, Written},
		{rpcx.ErrTimeout, Written},
	} {
		if got := OutcomeOf(test.err); got != test.want {
			t.Errorf("the outcome of %v is %s, want %s", test.err, got, test.want)
		}
	}
}

// Each fault of a client is found, and nothing else.
func TestProblems(t *testing.T) {
	lost := &rpcx.ConnectionError{Err: io.EOF, Written: true}
	unwritten := &rpcx.ConnectionError{Err: io.EOF}
	for _, test := range []struct {
		name    string
		kind    Kind
		starts  int
		finish  bool
		results []int // of the ends
		err     error // of each end
		want    string
	}{
		{"answered", Once, 1, true, []int{0}, nil, ""},
		{"answered twice", Once, 1, true, []int{0, 0}, nil, "call 0 has ended twice"},
		{"answered with another result", Once, 1, true, []int{7}, nil, "call 0 has the result 7"},
		{"answered and never started", Once, 0, false, []int{0}, nil, "call 0 is lost: it was answered"},
		{"without an end", Once, 1, true, nil, nil, "call 0 is lost: it has no end"},
		{"carried out twice", Once, 2, true, []int{0}, nil, "call 0 was carried out twice"},
		{"written and carried out", Once, 1, true, []int{0}, lost, ""},
		{"written and not carried out", Once, 0, false, []int{0}, lost, ""},
		{"written and carried out twice", Once, 2, true, []int{0}, lost, "call 0 was carried out twice"},
		{"not written", Once, 0, false, []int{0}, unwritten, ""},
		{"not written and carried out", Once, 1, true, []int{0}, unwritten, "call 0 was started 1 times"},
		{"idempotent, three times", Idempotent, 3, true, []int{0}, nil, ""},
		{"idempotent, four times", Idempotent, 4, true, []int{0}, nil, "idempotent call 0 was carried out 4 times"},
		{"idempotent, not started", Idempotent, 1, false, []int{0}, unwritten, "idempotent call 0 was started 1 times"},
		{"a notification", Notification, 1, true, []int{0}, nil, ""},
		{"a notification, dropped", Notification, 0, false, []int{0}, nil, ""},
		{"a notification, twice", Notification, 2, true, []int{0}, nil, "notification 0 was carried out twice"},
		{"a notification, not sent and received", Notification, 1, true, []int{0}, unwritten, "notification 0 was started 1 times"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l Log
			n := l.Begin(test.kind)
			for range test.starts {
				l.Started(n)
				if test.finish {
					l.Finished(n)
				}
			}
			for _, result := range test.results {
				l.End(n, result, test.err)
			}
			problems := l.Problems()
			switch {
			case test.want == "" && len(problems) > 0:
				t.Errorf("found %q, want nothing", problems)
			case test.want != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0], test.want)):
				t.Errorf("found %q, want one like %q", problems, test.want)
			}
		})
	}
	var l Log
	l.Started(3)
	if problems := l.Problems(); len(problems) != 1 || !strings.Contains(problems[0], "not made") {
		t.Errorf("found %q", problems)
	}
	if got := OutcomeOf(errors.New("unknown")); got != Written {
		t.Error(got)
	}
}
