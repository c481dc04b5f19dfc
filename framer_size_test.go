package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
)

// sized is a framer of somebody else that tells its limit.
type sized struct {
	rpcx.Framer
	max int
}

func (f sized) MaxMessage() int { return f.max }

// untold is a framer that does not tell its limit.
type untold struct{ rpcx.Framer }

// sizedConn is a MessageConn that tells its limit.
type sizedConn struct {
	*chanConn
	max int
}

func (c sizedConn) MaxMessage() int         { return c.max }
func (c sizedConn) MaxMessageField() string { return "sizedConn.max" }

// A message over the framer's limit is not sent, and the error has both sizes and the
// field.
func TestOwnMessageOverTheLimit(t *testing.T) {
	for _, c := range []struct {
		framer rpcx.Framer
		field  string
	}{
		{rpcx.NewlineFramer{MaxSize: 1000}, "NewlineFramer.MaxSize"},
		{rpcx.LengthFramer{MaxSize: 1000}, "LengthFramer.MaxSize"},
		{rpcx.HeaderFramer{MaxSize: 1000}, "HeaderFramer.MaxSize"},
		{sized{rpcx.LengthFramer{}, 1000}, "rpcx_test.sized.MaxMessage"},
	} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := rpcx.NewSession(near, &rpcx.Options{Framer: c.framer})
			checkOwnMessages(t, s, c.field)
			n := 0
			buf := make([]byte, 4096)
			go func() {
				for err := error(nil); err == nil; {
					var some int
					some, err = far.Read(buf)
					n += some
				}
			}()
			synctest.Wait()
			if n < 1000 || n > 1100 {
				t.Errorf("%T: %d bytes were sent, want one message of 1,000", c.framer, n)
			}
			s.Close()
			<-s.Done()
		})
	}
}

func TestOwnMessageOverTheLimitOfAMessageConn(t *testing.T) {
	conn := newChanConn()
	s := rpcx.NewMessageSession(sizedConn{conn, 1000}, nil)
	checkOwnMessages(t, s, "sizedConn.max")
	if msg := <-conn.out; len(msg) != 1000 {
		t.Errorf("%s was sent", msg)
	}
	s.Close()
	<-s.Done()
}

// checkOwnMessages sends messages over 1,000 bytes in all ways, and one that is not.
func checkOwnMessages(t *testing.T, s *rpcx.Session, field string) {
	t.Helper()
	ctx := t.Context()
	large := rpcx.Args{strings.Repeat("x", 990)}
	some := rpcx.Args{strings.Repeat("x", 500)}
	refused := func(what string, err error, size int) {
		t.Helper()
		got, ok := errors.AsType[*rpcx.SizeError](err)
		if want := (rpcx.SizeError{Size: size, Limit: 1000, Field: field}); !ok || *got != want {
			t.Errorf("%s: %v, want %+v", what, err, want)
			return
		}
		if want := fmt.Sprintf("over 1,000 bytes (%s), to be raised at both ends", field); !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var result any
	refused("Call", s.Call(ctx, "m", large, &result), 1041)
	refused("Go", s.Go(ctx, "m", large).Wait(ctx, nil), 1041)
	refused("Notify", s.Notify(ctx, "m", large), 1034)
	var b rpcx.Batch
	member := b.Call("m", some, nil)
	b.Notify("m", some)
	refused("SendBatch", s.SendBatch(ctx, &b), 1099)
	refused("a member of the batch", member.Err(), 1099)
	if stats := s.Stats(); stats.Pending != 0 || stats.MessagesSent != 0 || stats.OutboxBytes != 0 {
		t.Errorf("stats are %+v", stats)
	}
	s.Go(ctx, "m", rpcx.Args{strings.Repeat("x", 1000-len(`{"jsonrpc":"2.0","method":"m","id":4,"params":[""]}`))})
	if n := s.Stats().MessagesSent; n != 1 {
		t.Errorf("%d messages were sent", n)
	}
}

// Without a limit, and where it is not known, everything is sent.
func TestOwnMessageWithoutALimit(t *testing.T) {
	for _, f := range []rpcx.Framer{rpcx.NewlineFramer{MaxSize: -1}, untold{rpcx.NewlineFramer{}}, sized{rpcx.NewlineFramer{}, 0}} {
		synctest.Test(t, func(t *testing.T) {
			s, w := newWire(t, &rpcx.Options{Framer: f})
			if err := s.Notify(t.Context(), "m", rpcx.Args{strings.Repeat("x", 2_000_000)}); err != nil {
				t.Errorf("%T: %v", f, err)
			}
			if lines := w.heard(); len(lines) != 1 || len(lines[0]) < 2_000_000 {
				t.Errorf("%T: %d lines were sent", f, len(lines))
			}
		})
	}
}

// The limit of a plain message is that of its command.
func TestOwnPayloadOverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := plain(nil)
		opts.Framer = rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet, MaxPayload: 100, MaxBlock: 200}
		near, far := net.Pipe()
		s := rpcx.NewSession(near, opts)
		for _, c := range []struct {
			command string
			size    int
			field   string // "" if it is sent
		}{
			{"tx", 100, ""}, {"tx", 101, "BitcoinFramer.MaxPayload"},
			{"block", 200, ""}, {"block", 201, "BitcoinFramer.MaxBlock"},
		} {
			err := s.Notify(t.Context(), c.command, make([]byte, c.size))
			size, ok := errors.AsType[*rpcx.SizeError](err)
			if ok != (c.field != "") || ok && (size.Limit != c.size-1 || size.Field != c.field) || !ok && err != nil {
				t.Errorf("a payload of %d bytes for %q: %v", c.size, c.command, err)
			}
		}
		far.Close()
		<-s.Done()
	})
}

// Limits.Response is by default what the framer takes, and never more.
func TestResponseLimitIsTheFramers(t *testing.T) {
	for _, c := range []struct {
		name     string
		framer   rpcx.Framer
		response int
		limit    int
		said     string
	}{
		{"by default", nil, 0, 1_000_000, "1,000,000"},
		{"of a framer with another", rpcx.NewlineFramer{MaxSize: 2000}, 0, 2000, "2,000"},
		{"of a framer with more", rpcx.NewlineFramer{MaxSize: 3_000_000}, 0, 3_000_000, "3,000,000"},
		{"less than the framer's", rpcx.NewlineFramer{MaxSize: 2000}, 1500, 1500, "1,500"},
		{"more than the framer's", rpcx.NewlineFramer{MaxSize: 2000}, 5000, 2000, "2,000"},
		{"none, but for the framer's", rpcx.NewlineFramer{MaxSize: 2000}, -1, 2000, "2,000"},
		{"of a framer that does not tell", untold{rpcx.NewlineFramer{}}, 0, rpcx.DefaultMaxSize, "1,000,000"},
		{"none, of a framer that does not tell", untold{rpcx.NewlineFramer{}}, -1, 0, ""},
		{"of a framer without one", rpcx.NewlineFramer{MaxSize: -1}, 0, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"text": func(_ context.Context, req *rpcx.Request) (any, error) {
					var n []int
					if err := req.Params.Bind(&n); err != nil {
						return nil, err
					}
					return strings.Repeat("x", n[0]), nil
				}})
				opts.Framer, opts.Limits.Response = c.framer, c.response
				_, w := newWire(t, opts)
				const around = len(`{"jsonrpc":"2.0","result":"","id":1}`)
				if c.limit == 0 {
					w.say(`{"jsonrpc":"2.0","method":"text","params":[4000000],"id":1}`)
					if got := w.heard(); len(got) != 1 || len(got[0]) != 4_000_000+around {
						t.Errorf("%d replies", len(got))
					}
					return
				}
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"text","params":[%d],"id":1}`, c.limit-around))
				if got := w.heard(); len(got) != 1 || len(got[0]) != c.limit {
					t.Errorf("%.100q, want a reply of %d bytes", got, c.limit)
				}
				w.say(fmt.Sprintf(`{"jsonrpc":"2.0","method":"text","params":[%d],"id":2}`, c.limit-around+1))
				w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over ` + c.said + ` bytes)"},"id":2}`)
			})
		})
	}
}

// The replies to a batch become smaller until the framer takes them all: the largest
// are replaced by errors.
func TestBatchOfRepliesOverTheLimit(t *testing.T) {
	texts := methods{"text": func(_ context.Context, req *rpcx.Request) (any, error) {
		var n []int
		if err := req.Params.Bind(&n); err != nil {
			return nil, err
		}
		return strings.Repeat("x", n[0]), nil
	}}
	request := func(id string, size int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"text","params":[%d],"id":%s}`, size, id)
	}
	result := func(id string, size int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","result":"%s","id":%s}`, strings.Repeat("x", size), id)
	}
	refused := func(id string) string {
		return `{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 1,000 bytes)"},"id":` + id + `}`
	}
	const invalid = `{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":9}`
	for _, c := range []struct {
		name     string
		requests []string
		want     string
	}{
		{"all fit", []string{request("1", 400), request("2", 400)}, "[" + result("1", 400) + ", " + result("2", 400) + "]"},
		{"the second has no room", []string{request("1", 400), request("2", 600)}, "[" + result("1", 400) + ", " + refused("2") + "]"},
		{"nor the error in its place", []string{request("1", 200), request("2", 650), request("3", 900)},
			"[" + result("1", 200) + ", " + refused("2") + ", " + refused("3") + "]"},
		{"nor an invalid member's", []string{`{"jsonrpc":"2.0","method":1,"id":9}`, request("1", 150), request("2", 700)},
			"[" + invalid + ", " + result("1", 150) + ", " + refused("2") + "]"},
		{"no room for errors only", strings.Split(strings.TrimSuffix(strings.Repeat(request("1", 50)+"\n", 14), "\n"), "\n"), refused("null")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(texts)
				opts.Order = rpcx.Sequential
				opts.Framer = splitSize{rpcx.NewlineFramer{}, rpcx.NewlineFramer{MaxSize: 1000}}
				_, w := newWire(t, opts)
				w.say("[" + strings.Join(c.requests, ",") + "]")
				w.expect(c.want)
				w.say(request("5", 1))
				w.expect(result("5", 1))
			})
		})
	}
}

// splitSize receives as one framer and sends as another.
type splitSize struct {
	rpcx.Framer
	out rpcx.NewlineFramer
}

func (f splitSize) MaxMessage() int { return f.out.MaxMessage() }

// An id that makes the answer too large is not repeated.
func TestErrorWithALargeID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"reply": reply})
		opts.Framer = rpcx.NewlineFramer{MaxSize: 1000}
		_, w := newWire(t, opts)
		id := `"` + strings.Repeat("i", 940) + `"`
		w.say(`{"jsonrpc":"2.0","method":"none","id":` + id + `}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"response too large (over 1,000 bytes)"},"id":null}`)
		w.say(`{"jsonrpc":"2.0","method":1,"id":` + id + `}`)
		w.expect(`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":null}`)
		w.say(`{"jsonrpc":"2.0","method":"reply","id":` + id + `}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":` + id + `}`)
	})
}
