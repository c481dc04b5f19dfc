package rpcx_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// A call that times out says what came meanwhile that may have been its reply, and names
// the limit that has dropped it.
func TestTimeoutTellsOfABadMessage(t *testing.T) {
	large := strings.Repeat("x", 2000)
	const dropped = "; a bad message came meanwhile: framing error: dropping message over 1,000 bytes"
	for name, c := range map[string]struct {
		framer rpcx.Framer
		before string // comes before the calls
		after  string
		want   string // in the error of the calls; "" for nothing
	}{
		"too large a line":         {rpcx.NewlineFramer{MaxSize: 1000}, "", `{"result":"` + large + `"}`, dropped + " and re-synchronizing (NewlineFramer.MaxSize)"},
		"too large a value":        {rpcx.JSONFramer{MaxSize: 1000}, "", `{"result":"` + large + `"}`, dropped + " (JSONFramer.MaxSize)"},
		"no JSON":                  {nil, "", "Dear Sir or Madam", "; a bad message came meanwhile: protocol error: invalid JSON (code -32700)"},
		"an id that is none":       {nil, "", `{"jsonrpc":"2.0","result":1,"id":"a"}`, `; a bad message came meanwhile: protocol error: response to unsent request (ID: "a") (code -32600)`},
		"before the call was sent": {rpcx.NewlineFramer{MaxSize: 1000}, `{"result":"` + large + `"}`, "", ""},
		"nothing":                  {nil, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Framer: c.framer})
				s.Go(t.Context(), "early", nil) // or nobody would be told of what comes before
				if c.before != "" {
					w.say(c.before)
					synctest.Wait()
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				first, second := s.Go(t.Context(), "m", nil), s.Go(t.Context(), "m", nil)
				bounded := s.Go(ctx, "m", nil)
				batch := &rpcx.Batch{}
				batch.Call("m", nil, nil)
				member := s.GoBatch(t.Context(), batch)
				if c.after != "" {
					w.say(c.after)
				}
				for _, f := range []*rpcx.Future{first, second, member} {
					err := f.Wait(t.Context(), nil)
					if !errors.Is(err, rpcx.ErrTimeout) || !strings.HasSuffix(err.Error(), rpcx.ErrTimeout.Error()+c.want) {
						t.Errorf("a call ended with %v", err)
					}
				}
				err := bounded.Wait(t.Context(), nil)
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rpcx.ErrTimeout) || err.Error() != context.DeadlineExceeded.Error()+c.want {
					t.Errorf("the call with a deadline ended with %v", err)
				}
				late := s.Call(t.Context(), "m", nil, nil) // sent later
				if late == nil || late.Error() != rpcx.ErrTimeout.Error() {
					t.Errorf("a call that was sent later ended with %v", late)
				}
			})
		})
	}
}

// What the peer sends that this side does not take for a message is named, once, in the
// log, and by calls that time out meanwhile.
func TestInputThatIsNoMessageIsNamed(t *testing.T) {
	const reply = `{"jsonrpc":"2.0","result":1,"id":0}`
	const values = "JSON without newlines, as JSONFramer reads"
	for name, c := range map[string]struct {
		framer rpcx.Framer
		input  string
		want   string // "" for nothing
	}{
		"a value without a newline":  {nil, reply, values},
		"two":                        {nil, reply + reply, values},
		"a large value, and another": {nil, reply + `{"a":"` + strings.Repeat("x", 10_000), values},
		"half a value":               {nil, reply[:20], ""},
		"a line":                     {nil, reply + "\n", ""},
		"a line and a value":         {nil, reply + "\n" + reply, ""},
		"a length before it":         {nil, "\x00\x00\x00\x23" + reply, "messages with their lengths before them, as LengthFramer reads"},
		"no headers":                 {rpcx.HeaderFramer{}, reply, "JSON with nothing before it, as NewlineFramer and JSONFramer read"},
		"half a message":             {rpcx.HeaderFramer{}, "Content-Length: 100\r\n\r\n" + reply, ""},
		"half of what it reads":      {rpcx.JSONFramer{}, reply[:20], ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				s, w := newWire(t, &rpcx.Options{Framer: c.framer, Logger: slog.New(log)})
				call := s.Go(t.Context(), "m", nil)
				for part := range strings.SplitAfterSeq(c.input, ",") {
					w.Write([]byte(part))
					synctest.Wait()
				}
				time.Sleep(4 * time.Second)
				if got := log.take(); len(got) > 0 {
					t.Errorf("%q was logged at once", got)
				}
				time.Sleep(time.Minute)
				got := log.attr("looks like")
				if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || got[0] != c.want) {
					t.Errorf("the log says that it looks like %q, want %q", got, c.want)
				}
				err := call.Err()
				if text := "what has come is not taken for a message: it looks like " + c.want; c.want != "" &&
					(!errors.Is(err, rpcx.ErrTimeout) || !strings.HasSuffix(err.Error(), text)) {
					t.Errorf("the call ended with %v", err)
				}
				if c.want == "" && err != nil && err.Error() != rpcx.ErrTimeout.Error() {
					t.Errorf("the call ended with %v", err)
				}
			})
		})
	}
}

// A peer that sends its first message in small parts costs no more than before.
func TestInputThatIsNoMessageInSmallParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		s, w := newWire(t, &rpcx.Options{Logger: slog.New(log)})
		call := s.Go(t.Context(), "m", nil)
		for _, c := range `{"jsonrpc":"2.0","result":"` + strings.Repeat("x", 6000) + `","id":0}` {
			w.Write([]byte(string(c)))
		}
		time.Sleep(10 * time.Second)
		w.Write([]byte("\n"))
		if err := call.Wait(t.Context(), nil); err != nil || len(log.take()) > 0 {
			t.Errorf("the call ended with %v, and %q was logged", err, log.take())
		}
	})
}
