package rpcx_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// A notification that is dropped is lost, and nobody but the log tells which.
func TestLoggerTellsWhatIsNotHandled(t *testing.T) {
	note := `{"jsonrpc":"2.0","method":"text/didChange"}`
	for name, c := range map[string]struct {
		opts rpcx.Options
		then string // is said while a handler runs and another message waits
		want string
		key  string
		attr string
	}{
		"a notification":           {then: note, want: "WARN notification dropped", key: "method", attr: "text/didChange"},
		"a request":                {then: ask("text/hover", 3), want: "WARN request refused", key: "method", attr: "text/hover"},
		"a batch":                  {then: "[" + note + "," + note + "]", want: "WARN request refused", key: "members", attr: "2"},
		"a notification that runs": {want: "WARN notification timed out", key: "method", attr: "hang"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				c.opts.Handler = methods{"hang": hang}
				c.opts.Logger = slog.New(log)
				c.opts.Limits = rpcx.Limits{Concurrency: 1, Queue: 1, ProcessingTimeout: 10 * time.Second}
				_, w := newWire(t, &c.opts)
				w.say(`{"jsonrpc":"2.0","method":"hang"}`)
				if c.then != "" {
					w.say(ask("hang", 2), c.then)
				}
				if c.then == "" {
					time.Sleep(11 * time.Second)
				}
				time.Sleep(time.Second) // after 5 s, when reading goes on
				synctest.Wait()
				if got := log.take(); !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, c.want) }) {
					t.Errorf("%q was logged, want %q", got, c.want)
				}
				if got := log.attr(c.key); !slices.Contains(got, c.attr) {
					t.Errorf("%s is %q, want %q", c.key, got, c.attr)
				}
			})
		})
	}
}

// A program that prints something else than messages is found by what it has printed.
func TestLoggerShowsWhatIsNoJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		_, w := newWire(t, &rpcx.Options{Logger: slog.New(log)})
		w.say("Starting server on port 80", strings.Repeat("x", 1000), `{"jsonrpc":"2.0"}`)
		synctest.Wait()
		want := []string{"Starting server on port 80", strings.Repeat("x", 64) + "... (1000 bytes)"}
		if got := log.attr("begin"); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestLoggerTellsHowMuchItLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		block := make(chan struct{})
		log.then = func() { <-block }
		_, w := newWire(t, &rpcx.Options{Logger: slog.New(log), Limits: rpcx.Limits{CostOff: true}})
		for range 100 {
			w.say("rubbish") // while the logger is stuck
		}
		synctest.Wait()
		close(block)
		synctest.Wait()
		logged := len(log.take()) - 1
		if got := log.attr("records left out"); !slices.Equal(got, []string{fmt.Sprint(100 - logged)}) {
			t.Errorf("%d of 100 were logged, and %q left out", logged, got)
		}
	})
}

// What has been logged takes up no room for what comes.
func TestLoggerThatIsAlwaysTooSlowShowsSomeOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		log.then = func() { time.Sleep(time.Second) }
		s, w := newWire(t, &rpcx.Options{Logger: slog.New(log), Limits: rpcx.Limits{CostOff: true}})
		for range 5000 {
			w.say(strings.Repeat("rubbish", 30)) // as many bytes as are logged of it
			time.Sleep(100 * time.Millisecond)
		}
		w.Close()
		<-s.Done()
		bad, left := 0, 0
		for _, got := range log.take() {
			if got == "WARN bad message" {
				bad++
			}
		}
		for _, got := range log.attr("records left out") {
			n, err := strconv.Atoi(got)
			if err != nil {
				t.Error(err)
			}
			left += n
		}
		if bad < 400 || bad+left != 5000 {
			t.Errorf("%d of 5000 were shown, and %d left out", bad, left)
		}
	})
}
