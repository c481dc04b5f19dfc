package rpcx_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

const allLate = "WARN no request is handled: the handlers that run are all of requests that have timed out"

// stubborn is a handler that does not heed its context before it is let go.
func stubborn(release chan struct{}) rpcx.HandlerFunc {
	return func(context.Context, *rpcx.Request) (any, error) {
		<-release
		return nil, nil
	}
}

// Handlers that go on after Limits.ProcessingTimeout keep the places of others: the log
// says which methods they are of, once for as long as there are any.
func TestLoggerTellsThatLateHandlersHaveAllPlaces(t *testing.T) {
	for name, c := range map[string]struct {
		order rpcx.Order
		limit string
		say   []string
		want  string
	}{
		"calls":                {0, "[name=Limits.Concurrency handlers=3]", []string{ask("b", 1), ask("a", 2), ask("a", 3)}, "a (2), b (1)"},
		"notifications":        {0, "[name=Limits.Concurrency handlers=3]", []string{`{"jsonrpc":"2.0","method":"b"}`, `{"jsonrpc":"2.0","method":"b"}`, ask("a", 3)}, "b (2), a (1)"},
		"a batch":              {0, "[name=Limits.Concurrency handlers=3]", []string{"[" + ask("b", 1) + "," + ask("a", 2) + "," + ask("a", 3) + "]"}, "a (2), b (1)"},
		"one at a time":        {rpcx.Sequential, "[name=Options.Order handlers=1]", []string{ask("a", 1)}, "a (1)"},
		"a notification first": {rpcx.NotificationsFirst, "[name=Options.Order handlers=1]", []string{`{"jsonrpc":"2.0","method":"a"}`}, "a (1)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, release := &records{}, make(chan struct{})
				opts := handling(methods{"a": stubborn(release), "b": stubborn(release), "fine": reply})
				opts.Logger, opts.Order = slog.New(log), c.order
				opts.Limits = rpcx.Limits{Concurrency: 3, ProcessingTimeout: 10 * time.Second}
				_, w := newWire(t, opts)
				w.say(c.say...)
				time.Sleep(10*time.Second + time.Millisecond)
				got := log.take()
				for _, record := range got {
					if !strings.HasSuffix(record, " timed out, and its handler goes on") {
						t.Errorf("at the timeout, %q was logged", got)
					}
				}
				if got := log.attr("limit"); len(got) == 0 || got[0] != "[name=Limits.ProcessingTimeout duration=10s]" {
					t.Errorf("with the limits %q", got)
				}
				time.Sleep(time.Second)
				if got := log.take(); !slices.Equal(got, []string{allLate}) {
					t.Errorf("%q was logged a second later", got)
				}
				if got := log.attr("methods"); !slices.Equal(got, []string{c.want}) {
					t.Errorf("the methods are %q, want %q", got, c.want)
				}
				if got := log.attr("limit"); !slices.Contains(got, c.limit) {
					t.Errorf("the limits are %q, want %q", got, c.limit)
				}
				release <- struct{}{} // one returns, and another takes its place
				w.say(ask("a", 9))
				time.Sleep(time.Minute)
				if again := slices.Contains(log.take(), allLate); again != (c.order == rpcx.Sequential) { // where there was none between
					t.Errorf("logged again: %v", again)
				}
				close(release)
			})
		})
	}
}

// Handlers that return when their context ends are not late.
func TestLoggerSaysNothingOfHandlersThatHeedTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		opts := handling(methods{"hang": hang})
		opts.Logger = slog.New(log)
		opts.Limits = rpcx.Limits{Concurrency: 2, ProcessingTimeout: 10 * time.Second}
		_, w := newWire(t, opts)
		w.say(ask("hang", 1), ask("hang", 2))
		time.Sleep(time.Minute)
		got := log.take()
		if slices.Contains(got, allLate) || !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, "WARN request timed out") }) {
			t.Errorf("%q was logged", got)
		}
	})
}

// However many methods there are, the record is small.
func TestLoggerNamesFewLateMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, release := &records{}, make(chan struct{})
		opts := &rpcx.Options{Handler: stubborn(release), Logger: slog.New(log)}
		opts.Limits = rpcx.Limits{Concurrency: 50, ProcessingTimeout: 10 * time.Second}
		_, w := newWire(t, opts)
		for i := range 50 {
			w.say(ask(fmt.Sprintf("%02d%s", i, strings.Repeat("x", 1000)), i))
		}
		time.Sleep(12 * time.Second)
		got := log.attr("methods")
		if len(got) != 1 || len(got[0]) > 8*100 || !strings.HasSuffix(got[0], " and 42 others") {
			t.Errorf("the methods are %q", got)
		}
		close(release)
	})
}
