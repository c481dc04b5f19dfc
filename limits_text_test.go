package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// A reply that is too large is replaced by an error without a name, and the record beside
// it names the limit that it exceeds.
func TestLogNamesTheLimitOfAReply(t *testing.T) {
	text := func(n int) rpcx.Handler {
		return rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) { return strings.Repeat("x", n), nil })
	}
	for name, c := range map[string]struct {
		limits rpcx.Limits
		framer rpcx.Framer
		say    string
		want   string
	}{
		"Limits.Response":            {rpcx.Limits{Response: 1000}, nil, ask("large", 1), "[name=Limits.Response bytes=1000]"},
		"the framer's":               {rpcx.Limits{}, rpcx.NewlineFramer{MaxSize: 1000}, ask("large", 1), "[name=NewlineFramer.MaxSize bytes=1000]"},
		"the smaller of the two":     {rpcx.Limits{Response: 5000}, rpcx.NewlineFramer{MaxSize: 1000}, ask("large", 1), "[name=NewlineFramer.MaxSize bytes=1000]"},
		"replies of a batch":         {rpcx.Limits{Response: 1000}, nil, "[" + ask("half", 1) + "," + ask("half", 2) + "]", "[name=Limits.Response bytes=1000]"},
		"a batch as one message":     {rpcx.Limits{Response: -1}, rpcx.NewlineFramer{MaxSize: 1300}, "[" + ask("half", 1) + "," + ask("half", 2) + ",5]", "[name=NewlineFramer.MaxSize bytes=1300]"},
		"what batches wait with":     {rpcx.Limits{Response: -1, Outbox: 1000}, sizedLines{}, "[" + ask("half", 1) + "," + ask("half", 2) + "," + ask("hang", 3) + "]", ""},
		"a message conn of no limit": {rpcx.Limits{}, sizedLines{}, ask("large", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				opts := handling(methods{"large": text(2000).ServeRPC, "half": text(600).ServeRPC, "hang": hang})
				opts.Logger, opts.Limits, opts.Framer = slog.New(log), c.limits, c.framer
				opts.Limits.Concurrency = 1
				_, w := newWire(t, opts)
				w.say(c.say)
				synctest.Wait()
				got := log.attr("limit")
				if c.want == "" && len(got) > 0 || c.want != "" && !slices.Contains(got, c.want) {
					t.Errorf("the log has the limits %q, want %q", got, c.want)
				}
			})
		})
	}
}

// sizedLines is a framer without a limit.
type sizedLines struct{ rpcx.NewlineFramer }

func (sizedLines) MaxMessage() int { return 1 << 30 }

// An error by which a limit ends something names the limit and its field.
func TestErrorsNameTheirLimits(t *testing.T) {
	many := &rpcx.Batch{}
	for range 1001 {
		many.Notify("m", nil)
	}
	for name, c := range map[string]struct {
		fail func(t *testing.T) error
		want string
	}{
		"a batch of our own": {func(t *testing.T) error {
			s, _ := newWire(t, &rpcx.Options{Limits: rpcx.Limits{Batch: 1000}})
			return s.SendBatch(t.Context(), many)
		}, "over 1,000 members (Limits.Batch)"},
		"a message of our own": {func(t *testing.T) error {
			s, _ := newWire(t, &rpcx.Options{Framer: rpcx.JSONFramer{MaxSize: 1000}})
			return s.Notify(t.Context(), "m", rpcx.Args{strings.Repeat("x", 1000)})
		}, "over 1,000 bytes (JSONFramer.MaxSize)"},
		"a peer that does not read": {func(t *testing.T) error {
			s, _ := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{SendTimeout: 3 * time.Second}})
			s.Notify(t.Context(), "m", nil)
			<-s.Done()
			return s.Err()
		}, "rpcx: peer does not read: none of a write in 3s (Limits.SendTimeout)"},
		"a peer that does not read its replies": {func(t *testing.T) error {
			s, w := newDeafWire(t, &rpcx.Options{Limits: rpcx.Limits{Outbox: 1000}})
			for range 5000 {
				if _, err := fmt.Fprintln(w, `{"id":1}`); err != nil {
					break
				}
			}
			return ended(t, s)
		}, "rpcx: peer does not read: over 1,000 bytes waiting (Limits.Outbox)"},
		"a handler that takes long": {func(t *testing.T) error {
			cause := make(chan error, 1)
			_, w := newWire(t, handling(methods{"m": func(ctx context.Context, _ *rpcx.Request) (any, error) {
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return nil, nil
			}}))
			w.say(ask("m", 1))
			return <-cause
		}, "rpcx: request timed out (Limits.ProcessingTimeout)"},
		"a message that is dropped": {func(t *testing.T) error {
			split := rpcx.NewlineFramer{MaxSize: 1000}.NewSplitter()
			_, _, err := split([]byte(strings.Repeat("x", 2000)), false)
			return err
		}, "framing error: dropping message over 1,000 bytes and re-synchronizing (NewlineFramer.MaxSize)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if err := c.fail(t); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the error is %v, want %s", err, c.want)
				}
			})
		})
	}
	_, err := (&rpcx.Dialer{Timeout: time.Millisecond, SOCKS: &rpcx.SOCKSProxy{Addr: "proxy.test:1", Dial: neverAnswers}}).Dial(t.Context(), "tcp://a.test:1", nil)
	var timeout net.Error
	if err == nil || strings.Count(err.Error(), "over 1ms (Dialer.Timeout)") != 1 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("dialling by a proxy failed with %v", err)
	}
}
