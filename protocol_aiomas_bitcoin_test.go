package rpcx_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/aiomastest"
	"github.com/google/go-cmp/cmp"
)

// onBothWires runs a test over JSON-RPC 2.0 and over aiomas's own protocol.
func onBothWires(t *testing.T, test func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options)) {
	t.Run("JSON-RPC", func(t *testing.T) { test(t, withObjects) })
	t.Run("aiomas", func(t *testing.T) { test(t, aiomasOptions) })
}

// The tests from here on do what the examples in aiomas's documentation do.

// maths is its first server.
type maths interface {
	Add(a, b float64) float64
}

type mathServer struct{}

func (mathServer) Add(a, b float64) float64 { return a + b }

func TestAiomasMathServer(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		client, _ := newPipe(t, opts(nil), opts(rpcx.Expose[maths](mathServer{})))
		var sum float64
		if err := client.Remote().Call(t.Context(), &sum, "add", 3, 4); err != nil || sum != 7 {
			t.Errorf("got %v, %v", sum, err)
		}
	})
}

func TestAiomasDictServices(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		server := rpcx.ExposeMap(map[string]any{
			"get":  func() string { return "spam" },
			"deep": map[string]any{"add": func(a, b int) int { return a + b }},
		})
		client, _ := newPipe(t, opts(nil), opts(server))
		var text string
		var sum int
		err := errors.Join(client.Remote().Call(t.Context(), &text, "get"),
			client.Remote().At("deep").Call(t.Context(), &sum, "add", 3, 4))
		if err != nil || text != "spam" || sum != 7 {
			t.Errorf("got %q and %d, %v", text, sum, err)
		}
	})
}

// A tree can be built from its root, from its leaves, or by each service for itself.
func TestAiomasHierarchies(t *testing.T) {
	leaf := func() *rpcx.Router { return rpcx.ExposeMap(map[string]any{"get": func() string { return "spam" }}) }
	fromTheRoot := func(t *testing.T) *rpcx.Router {
		root := rpcx.NewRouter()
		sub := rpcx.NewRouter()
		mount(t, root, "sub", sub)
		mount(t, sub, "leaf", leaf())
		return root
	}
	fromTheLeaves := func(t *testing.T) *rpcx.Router {
		below := leaf()
		sub := rpcx.NewRouter()
		mount(t, sub, "leaf", below)
		root := rpcx.NewRouter()
		mount(t, root, "sub", sub)
		return root
	}
	byThemselves := func(*testing.T) *rpcx.Router {
		return rpcx.ExposeMap(map[string]any{"sub": map[string]any{"leaf": leaf()}})
	}
	for name, build := range map[string]func(*testing.T) *rpcx.Router{
		"from the root": fromTheRoot, "from the leaves": fromTheLeaves, "by themselves": byThemselves,
	} {
		t.Run(name, func(t *testing.T) {
			onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
				client, _ := newPipe(t, opts(nil), opts(build(t)))
				var text string
				if err := client.Remote().At("sub", "leaf").Call(t.Context(), &text, "get"); err != nil || text != "spam" {
					t.Errorf("got %q, %v", text, err)
				}
			})
		})
	}
}

// registering is a server that keeps its clients, and calls them.
type registering interface {
	Register(ctx context.Context, client *rpcx.Proxy, name string) (string, error)
}

type registrar struct{}

func (registrar) Register(ctx context.Context, client *rpcx.Proxy, name string) (string, error) {
	var reply string
	err := client.Call(ctx, &reply, "get_name")
	return fmt.Sprintf("%s is %s at %q", name, reply, client.Path()), err
}

func TestAiomasCallbacks(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		below := rpcx.ExposeMap(map[string]any{"get_name": func() string { return "Graham" }})
		mine := rpcx.ExposeMap(map[string]any{"get_name": func() string { return "Monty" }, "sub": below})
		client, _ := newPipe(t, opts(mine), opts(rpcx.Expose[registering](registrar{})))
		for want, service := range map[string]any{`root is Monty at ""`: mine, `sub is Graham at "sub"`: below} {
			var got string
			name, _, _ := strings.Cut(want, " ")
			if err := client.Remote().Call(t.Context(), &got, "register", service, name); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		}
	})
}

func TestAiomasRemoteExceptions(t *testing.T) {
	server := rpcx.ExposeMap(map[string]any{
		"plain":   func() error { return errors.New("spam is not a number") },
		"wrapped": func() error { return fmt.Errorf("reading: %w", io.ErrUnexpectedEOF) },
		"error":   func() error { return &rpcx.Error{Code: 5, Message: "over\ntwo lines"} },
		"panic":   func() { panic("the password is 1234") },
	})
	client, _ := newPipe(t, aiomasOptions(nil), aiomasOptions(server))
	for method, want := range map[string]string{
		"plain":   "spam is not a number",
		"wrapped": "reading: unexpected EOF",
		"error":   "over\ntwo lines",
		"panic":   "internal server error",
		"nothing": `LookupError: Name "nothing" not found in ""`,
	} {
		err := client.Remote().Call(t.Context(), nil, method)
		matches(t, err, rpcx.ErrUnavailable)
		var e *rpcx.Error
		if !errors.As(err, &e) || e.Message != want || e.Data != "Traceback (most recent call last):\n"+want+"\n" {
			t.Errorf("%s: got %#v, want %q", method, err, want)
		}
	}
}

func TestAiomasLostConnections(t *testing.T) {
	onBothWires(t, func(t *testing.T, opts func(rpcx.Handler) *rpcx.Options) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		connected, reset := make(chan *rpcx.Session, 1), make(chan error, 1)
		started := make(chan struct{})
		srv := &rpcx.Server{
			Options: *opts(rpcx.ExposeMap(map[string]any{
				"hang": func(ctx context.Context) { close(started); <-ctx.Done() },
			})),
			OnSession: func(s *rpcx.Session) {
				s.OnClose(func(err error) { reset <- err })
				connected <- s
			},
		}
		go srv.Serve(l) // until Close
		defer srv.Wait(context.Background())
		defer srv.Close()
		client, err := rpcx.Dial(t.Context(), "tcp://"+l.Addr().String(), opts(nil))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		pending := client.Remote().Go(t.Context(), "hang")
		<-started
		(<-connected).Close()
		if err := <-reset; !errors.Is(err, rpcx.ErrClosed) {
			t.Errorf("the server's callback is given %v", err)
		}
		<-client.Done()
		matches(t, pending.Wait(t.Context(), nil), rpcx.ErrConnectionLost, io.EOF)
		matches(t, client.Remote().Call(t.Context(), nil, "hang"), rpcx.ErrClosed)
	})
}

// And from here on they are about the protocol itself.

func TestAiomasMessages(t *testing.T) {
	p := rpcx.Aiomas
	for want, build := range map[string]func() ([]byte, error){
		`[0,7,["a/b",[],{}]]`:    func() ([]byte, error) { return p.AppendRequest(nil, rpcx.ID("7"), "a/b", nil, nil) },
		`[0,7,["m",[1,"x"],{}]]`: func() ([]byte, error) { return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Args{1, "x"}, nil) },
		`[0,7,["m",[],{"a":1}]]`: func() ([]byte, error) { return p.AppendRequest(nil, rpcx.ID("7"), "m", map[string]int{"a": 1}, nil) },
		`[0,7,["m",[1],{"a":2}]]`: func() ([]byte, error) {
			return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Mixed{Args: rpcx.Args{1}, Named: rpcx.Named{"a": 2}}, nil)
		},
		`[0,7,["m",[],{"b":2}]]`: func() ([]byte, error) {
			return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Mixed{Named: rpcx.Named{"b": 2}}, nil)
		},
		`[0,7,["m",[5],{}]]`: func() ([]byte, error) {
			return p.AppendRequest(nil, rpcx.ID("7"), "m", rpcx.Params{Positional: []byte("[5]")}, nil)
		},
		`[1,"x",null]`: func() ([]byte, error) { return p.AppendResult(nil, rpcx.ID(`"x"`), nil, nil) },
		`[2,null,"Traceback (most recent call last):\nTypeError: no\n"]`: func() ([]byte, error) { return p.AppendError(nil, nil, rpcx.InvalidParams("no"), nil) },
	} {
		if got, err := build(); string(got) != want || err != nil {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
	for what, build := range map[string]func() ([]byte, error){
		"a request without an ID": func() ([]byte, error) { return p.AppendRequest([]byte("x"), nil, "m", nil, nil) },
		"params that are no list": func() ([]byte, error) { return p.AppendRequest([]byte("x"), rpcx.ID("1"), "m", 5, nil) },
		"two lists": func() ([]byte, error) {
			return p.AppendRequest([]byte("x"), rpcx.ID("1"), "m", rpcx.Mixed{Named: rpcx.Args{1}}, nil)
		},
		"what cannot be encoded":  func() ([]byte, error) { return p.AppendRequest([]byte("x"), rpcx.ID("1"), "m", rpcx.Args{hang}, nil) },
		"a result that cannot be": func() ([]byte, error) { return p.AppendResult([]byte("x"), rpcx.ID("1"), hang, nil) },
		"a notification":          func() ([]byte, error) { return p.AppendNotification([]byte("x"), "m", nil, nil) },
		"a batch":                 func() ([]byte, error) { return p.AppendBatch([]byte("x"), [][]byte{[]byte("[]")}) },
	} {
		var bad *rpcx.ProtocolError
		if got, err := build(); string(got) != "x" || !errors.As(err, &bad) {
			t.Errorf("%s: got %s, %v", what, got, err)
		}
	}
}

// A message that is not of the form ends the session: there is no telling what is
// meant, and nobody to answer. What is pending is told why.
func TestAiomasFatalMessages(t *testing.T) {
	for _, body := range []string{``, `5`, `{}`, `[0,1]`, `[0,1,["m",[],{}],4]`, `[3,0,1]`, `["0",0,1]`, `[-1,0,1]`, `[1,0,1] x`, "[1,0,\"\xff\"]", `[1,0,`} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := rpcx.NewSession(near, aiomasOptions(nil))
			go io.Copy(io.Discard, far) // until it is closed
			f := s.Go(t.Context(), "m", nil)
			synctest.Wait()
			frame, err := rpcx.LengthFramer{}.AppendFrame(nil, []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			far.Write(frame)
			var bad *rpcx.ProtocolError
			if err := ended(t, s); !errors.As(err, &bad) {
				t.Errorf("%s: the session ended with %v", body, err)
			}
			matches(t, f.Err(), rpcx.ErrConnectionLost)
			if s.Stats().Errors != 1 {
				t.Errorf("%s: counted %d errors", body, s.Stats().Errors)
			}
		})
	}
}

func TestTracebackError(t *testing.T) {
	const start = "Traceback (most recent call last):\n"
	for traceback, want := range map[string]string{
		start + "  File \"s.py\", line 1, in a\n    f()\nValueError: spam\n": "ValueError: spam",
		start + "  File \"s.py\"\nValueError: one\ntwo\n":                    "ValueError: one\ntwo",
		start + "plain\n": "plain",
		"no traceback":    "no traceback",
		"":                "",
		start + "  x\n":   "  x",
	} {
		e := rpcx.TracebackError(traceback)
		if diff := cmp.Diff(&rpcx.Error{Code: rpcx.CodeUnavailable, Message: want, Data: traceback}, e); diff != "" {
			t.Error(diff)
		}
	}
	e := rpcx.Errorf(5, "no")
	if got := rpcx.TracebackError(rpcx.Traceback(e)); got.Message != "no" {
		t.Errorf("there and back it is %q", got.Message)
	}
}

// Whole numbers are not rounded where any value is expected.
func TestAiomasWholeNumbers(t *testing.T) {
	echo := rpcx.ExposeMap(map[string]any{"echo": func(v any) any { return v }})
	client, _ := newPipe(t, aiomasOptions(nil), aiomasOptions(echo))
	for _, v := range []any{int64(1<<62 + 1), int64(-5), 1.5, []any{int64(1)}, map[string]any{"x": int64(2)}, nil, "1", true} {
		var got any
		if err := client.Remote().Call(t.Context(), &got, "echo", v); err != nil || !cmp.Equal(got, v) {
			t.Errorf("got %#v, %v; want %#v", got, err, v)
		}
	}
}

// TestVectorsAiomas runs the cases with JSON, and those without a codec.
func TestVectorsAiomas(t *testing.T) {
	aiomastest.Run(t, filepath.Join("testdata", "vectors"), aiomastest.Wire{
		Codec:    "json",
		Protocol: rpcx.Aiomas,
		Decode: func(body []byte) (v any, err error) {
			dec := json.NewDecoder(bytes.NewReader(body))
			dec.UseNumber()
			if err := dec.Decode(&v); err != nil {
				return nil, err
			}
			if _, err := dec.Token(); err != io.EOF {
				return nil, fmt.Errorf("more than one value: %v", err)
			}
			return v, nil
		},
		Result: func(id int, content []byte) []byte { return fmt.Appendf(nil, "[1,%d,%s]", id, content) },
	})
}

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
