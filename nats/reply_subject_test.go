package natsrpcx

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestReplySubject(t *testing.T) {
	for _, test := range []struct {
		r    replySubject
		want string
	}{
		{replySubject{"_INBOX.a", 1, 0, 0}, "_INBOX.a.rpcx.1.0.0"},
		{replySubject{"x.y", 1<<64 - 1, 36 * time.Millisecond, time.Hour}, "x.y.rpcx.3w5e11264sgsf.10.255s0"},
	} {
		subject := string(appendReplySubject(nil, test.r.inbox, test.r.n, test.r.sent, test.r.left))
		parsed, ok := parseReplySubject(subject)
		if subject != test.want || !ok || parsed != test.r {
			t.Errorf("%+v: %s, %+v, %t", test.r, subject, parsed, ok)
		}
	}
	// A deadline out of the range of the format still has a subject that the sender can parse.
	for _, left := range []time.Duration{maxTime * time.Millisecond, maxTime*time.Millisecond + 1, 1<<63 - 1} {
		subject := string(appendReplySubject(nil, "i", 1, 0, left))
		if r, ok := parseReplySubject(subject); !ok || r.left != maxTime*time.Millisecond {
			t.Errorf("%v: %s, %+v, %t", left, subject, r, ok)
		}
	}
	// A time is rounded up, so that a deadline is not taken for none.
	if subject := string(appendReplySubject(nil, "i", 1, 0, 1)); subject != "i.rpcx.1.0.1" {
		t.Error(subject)
	}
}

func FuzzReplySubject(f *testing.F) {
	for _, subject := range []string{"", "_INBOX.a.b", "i.rpcx.1.2.3", "i.rpcx.1.2", "i.rpcx.1.2.3.4", "i.rpcx.-1.2.3", "i.rpcx.1.zzzzzzzzzzzzz.0", ".rpcx..."} {
		f.Add(subject)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		r, ok := parseReplySubject(subject)
		if !ok {
			return
		}
		const longest = maxTime * time.Millisecond
		if r.sent < 0 || r.sent > longest || r.left < 0 || r.left > longest {
			t.Errorf("%q: %+v", subject, r)
		}
		again, ok := parseReplySubject(string(appendReplySubject(nil, r.inbox, r.n, r.sent, r.left)))
		if !ok || again != r || strings.Contains(r.inbox, replyMark) {
			t.Errorf("%q: %+v and then %+v", subject, r, again)
		}
	})
}

func TestDeadlineContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		parent := context.WithValue(context.WithoutCancel(t.Context()), key{}, "value")
		newContext := func() *deadlineContext {
			c := &deadlineContext{parent: parent, deadline: time.Now().Add(time.Second)}
			t.Cleanup(c.release)
			if deadline, ok := c.Deadline(); !ok || deadline != c.deadline || c.Value(key{}) != "value" || c.Err() != nil {
				t.Error("the new context is wrong")
			}
			return c
		}
		unused, waited, derivedFrom, released := newContext(), newContext(), newContext(), newContext()
		derived, cancel := context.WithCancel(derivedFrom)
		defer cancel()
		after := make(chan struct{})
		context.AfterFunc(waited, func() { close(after) })
		released.Done()
		released.release()
		if released.Err() != context.Canceled {
			t.Errorf("after release: %v", released.Err())
		}
		time.Sleep(time.Second - 1)
		if err := errors.Join(unused.Err(), waited.Err(), derived.Err()); err != nil {
			t.Error(err)
		}
		<-waited.Done()
		<-derived.Done()
		<-after
		for _, c := range []context.Context{unused, waited, derived, derivedFrom} {
			if c.Err() != context.DeadlineExceeded || context.Cause(c) != context.DeadlineExceeded || c.Value(key{}) != "value" {
				t.Errorf("at the end: %v, %v", c.Err(), context.Cause(c))
			}
		}
	})
}
