package conformance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// wired joins two sessions by a net.Pipe, whatever their framer and protocol.
func wired(a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session) {
	near, far := net.Pipe()
	return rpcx.NewSession(near, a), rpcx.NewSession(far, b)
}

// dribbled does the same, with bytes that come one by one.
func dribbled(a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session) {
	near, far := net.Pipe()
	return rpcx.NewSession(dribble{near}, a), rpcx.NewSession(dribble{far}, b)
}

// socketed joins two sessions by a connection that keeps messages apart.
func socketed(a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session) {
	near, far := newSockets()
	return rpcx.NewMessageSession(near, a), rpcx.NewMessageSession(far, b)
}

// TestSessionsOverAnything runs all that a session does over framers, message
// connections, protocols and codecs that are not this package's.
func TestSessionsOverAnything(t *testing.T) {
	for name, c := range map[string]struct {
		join func(a, b *rpcx.Options) (*rpcx.Session, *rpcx.Session)
		opts rpcx.Options
	}{
		"lines":                                {wired, rpcx.Options{}},
		"lines, byte by byte":                  {dribbled, rpcx.Options{}},
		"lengths":                              {wired, rpcx.Options{Framer: lengthFramer{1 << 20}}},
		"lengths, byte by byte":                {dribbled, rpcx.Options{Framer: lengthFramer{1 << 20}}},
		"headers":                              {wired, rpcx.Options{Framer: rpcx.HeaderFramer{}}},
		"headers, byte by byte":                {dribbled, rpcx.Options{Framer: rpcx.HeaderFramer{}}},
		"values":                               {wired, rpcx.Options{Framer: rpcx.JSONFramer{}}},
		"values, byte by byte":                 {dribbled, rpcx.Options{Framer: rpcx.JSONFramer{}}},
		"a socket":                             {socketed, rpcx.Options{}},
		"a binary wire":                        {wired, rpcx.Options{Framer: lengthFramer{1 << 20}, Protocol: packed{}}},
		"a binary wire, byte by byte":          {dribbled, rpcx.Options{Framer: lengthFramer{1 << 20}, Protocol: packed{}}},
		"a binary wire over a socket":          {socketed, rpcx.Options{Protocol: packed{}}},
		"JSON with a codec of somebody else's": {wired, rpcx.Options{Codec: spaced{}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var noted events
				both := c.opts
				both.Handler = methods{
					"join": func(_ context.Context, req *rpcx.Request) (any, error) {
						var words []string
						if err := req.Bind(&words); err != nil {
							return nil, err
						}
						return strings.Join(words, " "), nil
					},
					"back": func(ctx context.Context, req *rpcx.Request) (any, error) {
						return rpcx.Call[string](ctx, req.Session(), "join", rpcx.Args{"there", "and", "back"})
					},
					"note": func(_ context.Context, req *rpcx.Request) (any, error) {
						var words []string
						err := req.Bind(&words)
						noted.add("%s", words)
						return nil, err
					},
					"refuse": func(context.Context, *rpcx.Request) (any, error) {
						return nil, &rpcx.Error{Code: -5, Message: "no", Data: "because"}
					},
				}
				a, b := c.join(&both, &both)
				large := 200000
				if strings.Contains(name, "byte by byte") {
					large = 5000
				}
				for _, s := range []*rpcx.Session{a, b} {
					converse(t, s, &noted, strings.Repeat("x", large))
				}
				takes(t, 0, func() {
					if err := a.Shutdown(t.Context()); err != nil {
						t.Errorf("Shutdown returns %v", err)
					}
				})
				if err := ended(t, b); err != io.EOF {
					t.Errorf("the other side ended with %v", err)
				}
			})
		})
	}
}

// converse does all that can be done from one side.
func converse(t *testing.T, s *rpcx.Session, noted *events, large string) {
	ctx := t.Context()
	for _, c := range []struct {
		method string
		params rpcx.Args
		want   string
	}{
		{"join", rpcx.Args{"a", "b"}, "a b"},
		{"join", rpcx.Args{"line\nbreak\r\n", "\x00", "é"}, "line\nbreak\r\n \x00 é"},
		{"join", rpcx.Args{large, large}, large + " " + large},
		{"back", rpcx.Args{}, "there and back"},
	} {
		if got, err := rpcx.Call[string](ctx, s, c.method, c.params); err != nil || got != c.want {
			t.Errorf("%s gives %.50q, %v", c.method, got, err)
		}
	}

	err := s.Call(ctx, "refuse", rpcx.Args{}, nil)
	var e *rpcx.Error
	if !errors.As(err, &e) || e.Code != -5 || e.Message != "no" {
		t.Errorf("an error arrives as %v", err)
	}
	matches(t, s.Call(ctx, "nope", rpcx.Args{}, nil), rpcx.ErrMethodNotFound)
	if err := s.Call(ctx, "join", rpcx.Args{make(chan int)}, nil); err == nil {
		t.Error("a channel was sent")
	}

	if err := s.Notify(ctx, "note", rpcx.Args{"first", "note"}); err != nil {
		t.Error(err)
	}
	if got := noted.take(); !slices.Equal(got, []string{"[first note]"}) {
		t.Errorf("the notifications are %q", got)
	}

	var batch rpcx.Batch
	var first, second string
	batch.Call("join", rpcx.Args{"a", "b"}, &first)
	batch.Notify("note", rpcx.Args{"in", "a", "batch"})
	batch.Call("nope", rpcx.Args{}, nil)
	batch.Call("back", rpcx.Args{}, &second)
	err = s.SendBatch(ctx, &batch)
	matches(t, err, rpcx.ErrMethodNotFound)
	if first != "a b" || second != "there and back" {
		t.Errorf("the batch gives %q and %q", first, second)
	}
	if got := noted.take(); !slices.Equal(got, []string{"[in a batch]"}) {
		t.Errorf("the notifications are %q", got)
	}

	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			want := fmt.Sprintf("call %d", i)
			if got, err := rpcx.Call[string](ctx, s, "join", rpcx.Args{"call", fmt.Sprint(i)}); err != nil || got != want {
				t.Errorf("%s gives %q, %v", want, got, err)
			}
		})
	}
	wg.Wait()
	live(t, s)
}

// spaced is a codec of JSON that is generous with white space.
type spaced struct{}

func (spaced) Append(dst []byte, v any) ([]byte, error) {
	out, err := rpcx.JSON.Append(append(dst, " \n\t"...), v)
	if err != nil {
		return dst, err
	}
	return append(out, "\r\n "...), nil
}

func (spaced) Unmarshal(data []byte, v any) error { return rpcx.JSON.Unmarshal(data, v) }

func TestMessageThatTheConnectionDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := newSockets()
		s := rpcx.NewMessageSession(near, handling(methods{"reply": reply}))
		near.bad <- struct{}{}
		far.out <- []byte(`{"jsonrpc":"2.0","method":"reply","id":1}`)
		if msg := <-far.in; string(msg) != `{"jsonrpc":"2.0","result":null,"id":1}` {
			t.Errorf("after a message that was dropped: %s", msg)
		}
		if n := s.Stats().Errors; n != 1 {
			t.Errorf("%d errors are counted", n)
		}
		far.Close()
		if err := ended(t, s); err != io.EOF {
			t.Errorf("it ended with %v", err)
		}
	})
}

// greedy is a framer that says that it has used more than there is.
type greedy struct{ lengthFramer }

func (greedy) NewSplitter() bufio.SplitFunc {
	return func(data []byte, _ bool) (int, []byte, error) { return len(data) + 1, data, nil }
}

func TestFramerThatBreaksItsContractEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := rpcx.NewSession(near, &rpcx.Options{Framer: greedy{}})
		far.Write([]byte("x"))
		var bad *rpcx.FrameError
		if err := ended(t, s); !errors.As(err, &bad) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// Memory was taken for a message on the word of its header.
func TestFourGibibytesInALengthHeader(t *testing.T) {
	for name, c := range map[string]struct {
		framer rpcx.Framer
		ends   bool
	}{
		"a framer that has a limit":           {lengthFramer{1 << 20}, true},
		"a framer that would wait for it all": {lengthFramer{1<<32 - 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			near, far := net.Pipe()
			s := rpcx.NewSession(near, &rpcx.Options{Framer: c.framer})
			_, size := allocated(func() {
				far.Write([]byte("\xff\xff\xff\xff"))
				if c.ends {
					<-s.Done()
				} else {
					far.Write(make([]byte, 1000)) // a little of it
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

func TestHeadersOnTheWire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := rpcx.NewSession(near, &rpcx.Options{Framer: rpcx.HeaderFramer{}, Handler: methods{"reply": reply}})
		io.WriteString(far, "Content-Type: application/json\r\ncontent-length: 41\r\n\r\n"+`{"jsonrpc":"2.0","method":"reply","id":1}`)
		const want = "Content-Length: 38\r\n\r\n" + `{"jsonrpc":"2.0","result":null,"id":1}`
		got := make([]byte, len(want))
		if _, err := io.ReadFull(far, got); err != nil || string(got) != want {
			t.Errorf("the answer is %q, %v", got, err)
		}
		time.Sleep(time.Second)
		far.Close()
		ended(t, s)
	})
}

// blaming is JSON-RPC that has an error of its own for what is invalid.
type blaming struct {
	rpcx.Protocol
	err error
}

func (b blaming) Decode(m *rpcx.Message, msg []byte, maxBatch int) {
	b.Protocol.Decode(m, msg, maxBatch)
	for _, item := range m.All() {
		if item.Kind == rpcx.KindInvalid {
			item.Err = b.err
		}
	}
}

// TestInvalidItemWithAnErrorOfThisSide: its text is not for the peer, and the item is
// answered all the same.
func TestInvalidItemWithAnErrorOfThisSide(t *testing.T) {
	const answer = `{"jsonrpc":"2.0","error":{"code":-32603,"message":"internal server error"},"id":null}`
	for name, err := range map[string]error{
		"with a code": &rpcx.ProtocolError{Code: rpcx.CodeInternalError, Message: "secret"},
		"of any type": errors.New("secret"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newWire(t, &rpcx.Options{Protocol: blaming{rpcx.JSONRPCv2, err}})
				w.say(`1`, `[1]`)
				w.expect(answer, "["+answer+"]")
				live(t, s)
			})
		})
	}
}
