package rpcx_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

var bitcoinFramer = rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet}

// plain returns options for plain messages, which are handled one after the other.
func plain(h rpcx.Handler) *rpcx.Options {
	opts := &rpcx.Options{Protocol: rpcx.BitcoinProtocol, Framer: bitcoinFramer, Handler: h}
	opts.Limits.Concurrency = 1
	return opts
}

// plainRouter routes the commands to a handler that records them.
func plainRouter(got *events, commands ...string) *rpcx.Router {
	router := rpcx.NewRouter()
	for _, command := range commands {
		router.Handle(command, rpcx.Func(func(payload []byte) { got.add("%s %.20q", command, payload) }))
	}
	return router
}

// plainFrame returns a message as it is on the wire.
func plainFrame(t *testing.T, command, payload string) []byte {
	t.Helper()
	msg, err := rpcx.BitcoinProtocol.AppendNotification(nil, command, []byte(payload), nil)
	if err == nil {
		msg, err = bitcoinFramer.AppendFrame(nil, msg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func (e *events) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := e.take(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPlainMessages(t *testing.T) {
	block := strings.Repeat("block", 1_000_000) // more than other messages may have, and than an outbox
	for name, join := range map[string]func(a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session){
		"in memory":              rpcx.Pipe,
		"on a connection":        wired,
		"kept apart by a socket": socketed,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				var atA, atB events
				a, b := join(plain(plainRouter(&atA, "pong", "verack")), plain(plainRouter(&atB, "ping", "block", "a command 12")))
				for _, message := range []struct{ command, payload string }{{"ping", ""}, {"ping", "\n\x00\xff"}, {"block", block}, {"a command 12", "x"}} {
					if err := a.Notify(ctx, message.command, []byte(message.payload)); err != nil {
						t.Error(err)
					}
				}
				if err := b.Notify(ctx, "verack", nil); err != nil {
					t.Error(err)
				}
				if err := b.Notify(ctx, "pong", rpcx.Params{Raw: []byte("passed on")}); err != nil {
					t.Error(err)
				}
				atB.expect(t, `ping ""`, `ping "\n\x00\xff"`, `block "blockblockblockblock"`, `a command 12 "x"`)
				atA.expect(t, `verack ""`, `pong "passed on"`)
				if sent, received := a.Stats(), b.Stats(); sent.MessagesSent != 4 || received.RequestsReceived != 4 || sent.BytesSent != received.BytesReceived || received.Errors != 0 {
					t.Errorf("a's stats are %+v, b's %+v", sent, received)
				}

				// To a router, a command that it does not know is an error of the peer's.
				if err := a.Notify(ctx, "what", nil); err != nil {
					t.Error(err)
				}
				atB.expect(t)
				if n := b.Stats().Errors; n != 1 {
					t.Errorf("an unknown command is counted as %d errors", n)
				}
				if n := b.Stats().MessagesSent; n != 2 {
					t.Errorf("%d messages were sent, want 2: there are no answers", n)
				}
				a.Close()
				if err := ended(t, b); err != io.EOF {
					t.Errorf("the other side ended with %v", err)
				}
			})
		})
	}
}

func TestPlainMessagesAreAllThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		a, b := newPipe(t, plain(nil), plain(nil))
		var calls, notifications rpcx.Batch
		calls.Call("ping", nil, nil)
		notifications.Notify("ping", nil)
		for what, err := range map[string]error{
			"a call":                          a.Call(ctx, "ping", nil, nil),
			"a future":                        a.Go(ctx, "ping", nil).Err(),
			"a batch of calls":                a.SendBatch(ctx, &calls),
			"a batch of notifications":        a.SendBatch(ctx, &notifications),
			"a command that is too long":      a.Notify(ctx, "far too long a command", nil),
			"arguments that are no payload":   a.Notify(ctx, "ping", rpcx.Args{1}),
			"a payload that is nearly bytes":  a.Notify(ctx, "ping", "text"),
			"a call with more than a command": a.Call(ctx, "far too long a command", rpcx.Args{1}, nil),
		} {
			var perr *rpcx.ProtocolError
			if !errors.As(err, &perr) {
				t.Errorf("%s fails with %v, want a *ProtocolError", what, err)
			}
		}
		synctest.Wait()
		if sent, received := a.Stats(), b.Stats(); sent.MessagesSent != 0 || sent.Pending != 0 || received.BytesReceived != 0 {
			t.Errorf("stats are %+v and %+v", sent, received)
		}
	})
}

// One message is dropped, and the stream goes on, up to a point.
func TestPlainMessagesWithABadChecksum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got events
		near, far := net.Pipe()
		opts := plain(plainRouter(&got, "first", "bad", "second"))
		opts.Role = rpcx.RoleServer // which is charged
		s := rpcx.NewSession(near, opts)
		spoilt := plainFrame(t, "bad", "payload")
		spoilt[len(spoilt)-1]++
		far.Write(slices.Concat(plainFrame(t, "first", "payload"), spoilt, plainFrame(t, "second", "")))
		got.expect(t, `first "payload"`, `second ""`)
		if stats := s.Stats(); stats.Errors != 1 || stats.MessagesReceived != 2 {
			t.Errorf("stats are %+v", stats)
		}
		if cost := s.Cost(); int(cost) != 200 { // and less than 1 for the bytes
			t.Errorf("a bad checksum costs %v, want 100 more than any error", cost)
		}
		live(t, s)
		go far.Write(bytes.Repeat(spoilt, 50))
		var excess *rpcx.CostError
		if err := ended(t, s); !errors.As(err, &excess) {
			t.Errorf("after 50 more it ended with %v", err)
		}
		got.expect(t)
		far.Close()
	})
}

func TestPlainMessagesThatEndTheSession(t *testing.T) {
	magic := plainFrame(t, "second", "payload")
	magic[0]++
	size := plainFrame(t, "second", "payload")
	binary.LittleEndian.PutUint32(size[16:], 2_000_001)
	block := plainFrame(t, "block", "payload")
	binary.LittleEndian.PutUint32(block[16:], 128_000_001)
	for name, c := range map[string]struct {
		frame []byte
		want  rpcx.FrameError
	}{
		"a magic of another network": {magic, rpcx.FrameError{Cost: 1000, Message: "bad magic fabeb4d9, want f9beb4d9"}},
		"a payload over the limit":   {size, rpcx.FrameError{Cost: 500, Message: `a payload of 2000001 bytes for "second", over 2,000,000 bytes (BitcoinFramer.MaxPayload)`}},
		"a block over the limit":     {block, rpcx.FrameError{Cost: 500, Message: `a payload of 128000001 bytes for "block", over 128,000,000 bytes (BitcoinFramer.MaxBlock)`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var got events
				near, far := net.Pipe()
				opts := plain(plainRouter(&got, "first", "second", "block", "third"))
				opts.Role = rpcx.RoleServer // which is charged
				s := rpcx.NewSession(near, opts)
				far.Write(plainFrame(t, "first", "payload"))
				got.expect(t, `first "payload"`)
				far.Write(append(c.frame, plainFrame(t, "third", "")...))
				var bad *rpcx.FrameError
				if err := ended(t, s); !errors.As(err, &bad) || bad.Message != c.want.Message || bad.Cost != c.want.Cost || bad.Recoverable {
					t.Errorf("it ended with %#v, want %+v", err, c.want)
				}
				if stats := s.Stats(); stats.Errors != 1 || int(stats.Cost) != int(100+c.want.Cost) { // and less than 1 for the bytes
					t.Errorf("stats are %+v", stats)
				}
				got.expect(t)
				far.Close()
			})
		})
	}
}

// Shutdown waits for the handler that runs and for what it sends, and drops what
// has not begun.
func TestShutdownOfPlainMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got, back events
		router := plainRouter(&got, "ping")
		router.Handle("work", rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(10 * time.Second)
			return nil, req.Session().Notify(ctx, "done", req.Params)
		}))
		a, b := newPipe(t, plain(router), plain(plainRouter(&back, "done")))
		for _, command := range []string{"work", "ping"} {
			if err := b.Notify(t.Context(), command, []byte("payload")); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		takes(t, 10*time.Second, func() {
			if err := a.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
		back.expect(t, `done "payload"`)
		got.expect(t)
		if stats := a.Stats(); stats.NotificationsDropped != 1 {
			t.Errorf("stats are %+v", stats)
		}
		if err := ended(t, b); err != io.EOF {
			t.Errorf("the other side ended with %v", err)
		}
	})
}

// One server's handler and limits serve plain messages as they serve calls.
func TestOneHandlerForCallsAndPlainMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got events
		router := plainRouter(&got, "ping")
		router.Handle("size", rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
			n := len(req.Params.Raw) + len(req.Params.Positional)
			got.add("size %d", n)
			return n, nil
		}))
		a, _ := newPipe(t, nil, handling(router))
		b, _ := newPipe(t, plain(nil), plain(router))
		if n, err := rpcx.Call[int](t.Context(), a, "size", rpcx.Args{"four"}); err != nil || n != len(`["four"]`) {
			t.Errorf("the call returns %d, %v", n, err)
		}
		if err := b.Notify(t.Context(), "size", []byte("four")); err != nil {
			t.Error(err)
		}
		got.expect(t, "size 8", "size 4")
	})
}

// A header's word is not taken for the size of its payload.
func TestSizeInABitcoinHeader(t *testing.T) {
	for name, c := range map[string]struct {
		framer rpcx.BitcoinFramer
		ends   bool
	}{
		"over the limits":     {bitcoinFramer, true},
		"within a high limit": {rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet, MaxPayload: 1 << 30}, false},
		"without limits":      {rpcx.BitcoinFramer{Magic: rpcx.BitcoinMainnet, MaxPayload: -1, MaxBlock: -1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			near, far := net.Pipe()
			opts := plain(nil)
			opts.Framer = c.framer
			s := rpcx.NewSession(near, opts)
			header := plainFrame(t, "block", "")
			binary.LittleEndian.PutUint32(header[16:], 1<<30)
			_, size := allocated(func() {
				far.Write(header)
				if c.ends {
					<-s.Done()
				} else {
					far.Write(bytes.Repeat([]byte("a"), 1000)) // a little of it
				}
			})
			if size > 64<<10 {
				t.Errorf("%d bytes were allocated", size)
			}
			far.Close()
			<-s.Done()
			var bad *rpcx.FrameError
			if err := s.Err(); errors.As(err, &bad) != c.ends || !c.ends && err != io.ErrUnexpectedEOF {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
