package websocket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"

	coder "github.com/coder/websocket"
)

// blobs is a protocol of messages that are bytes, each a notification.
type blobs struct{ rpcx.Protocol }

func (blobs) Decode(m *rpcx.Message, msg []byte, _ int) {
	m.Batch = false
	m.Items = append(m.Items[:0], rpcx.Item{Kind: rpcx.KindNotification, Method: "blob", Params: rpcx.Params{Raw: msg}})
}

func (blobs) AppendNotification(dst []byte, _ string, params any, _ rpcx.Codec) ([]byte, error) {
	return append(dst, params.([]byte)...), nil
}

func TestTextAndBinary(t *testing.T) {
	texts, others := []string{"text", "naïve ☃", ""}, []string{"\xff", "ab\xc3"}
	srv := &rpcx.Server{Options: rpcx.Options{
		Protocol: blobs{rpcx.JSONRPCv2},
		Handler: rpcx.HandlerFunc(func(ctx context.Context, req *rpcx.Request) (any, error) {
			return nil, req.Session().Notify(ctx, "blob", bytes.Clone(req.Params.Raw))
		}),
	}}
	ws := peer(t, serveRPC(t, srv), nil)
	for _, sent := range []coder.MessageType{coder.MessageText, coder.MessageBinary} {
		for want, msgs := range map[coder.MessageType][]string{coder.MessageText: texts, coder.MessageBinary: others} {
			for _, msg := range msgs {
				if sent == coder.MessageText && want == coder.MessageBinary {
					continue // is no text
				}
				if err := ws.Write(t.Context(), sent, []byte(msg)); err != nil {
					t.Fatal(err)
				}
				if kind, got, err := ws.Read(t.Context()); kind != want || string(got) != msg || err != nil {
					t.Errorf("%q, sent as %v, comes back as %v %q (%v)", msg, sent, kind, got, err)
				}
			}
		}
	}
}

// A message in fragments is one message.
func TestFragments(t *testing.T) {
	ws := peer(t, serveRPC(t, &rpcx.Server{Options: rpcx.Options{Handler: methods()}}), nil)
	w, err := ws.Writer(t.Context(), coder.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`{"jsonrpc":"2.0","meth`, ``, `od":"echo","params":["é`, `"],"id":1}`} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, got, err := ws.Read(t.Context()); string(got) != `{"jsonrpc":"2.0","result":"é","id":1}` || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// A message whose end does not come is not handled, wherever it is cut.
func TestCutMessages(t *testing.T) {
	const msg = `{"jsonrpc":"2.0","method":"note"}`
	frame := func(final byte, length int) []byte {
		return append([]byte{final | 1, 0x80 | 126, byte(length >> 8), byte(length), 0, 0, 0, 0}, msg...)
	}
	for name, sent := range map[string][]byte{
		"after a fragment":      frame(0, len(msg)),
		"in a fragment":         frame(0, 1000),
		"between two reads":     append(frame(0x80, 1000), strings.Repeat(" ", 512-len(msg))...),
		"in the next header":    append(frame(0, len(msg)), 0x80),
		"before its only frame": frame(0x80, 1000)[:8],
	} {
		t.Run(name, func(t *testing.T) {
			accepted := make(chan *rpcx.Session, 1)
			url := serveRPC(t, &rpcx.Server{
				Options: rpcx.Options{Handler: rpcx.HandlerFunc(func(_ context.Context, req *rpcx.Request) (any, error) {
					t.Errorf("%s is handled", req.Method)
					return nil, nil
				})},
				OnSession: func(s *rpcx.Session) { accepted <- s },
			})
			client := dial(t, websocket.Dialer{}, url, nil)
			s := <-accepted
			if _, err := client.NetConn().Write(sent); err != nil {
				t.Fatal(err)
			}
			client.NetConn().Close()
			if err := ended(t, s); err != io.ErrUnexpectedEOF {
				t.Errorf("the session ended with %v", err)
			}
		})
	}
}

// The peer's way to close the connection is the session's Err.
func TestPeerCloses(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(ws *coder.Conn)
		want func(err error) bool
	}{
		"in order": {
			func(ws *coder.Conn) { ws.Close(coder.StatusNormalClosure, "") },
			func(err error) bool { return err == io.EOF },
		},
		"as a page does that is left": {
			func(ws *coder.Conn) { ws.Close(coder.StatusGoingAway, "") },
			func(err error) bool {
				e, ok := errors.AsType[*websocket.CloseError](err)
				return ok && *e == websocket.CloseError{Code: 1001} && errors.Is(err, io.EOF)
			},
		},
		"in order, with a reason": {
			func(ws *coder.Conn) { ws.Close(coder.StatusNormalClosure, "lunch") },
			func(err error) bool {
				e, ok := errors.AsType[*websocket.CloseError](err)
				return ok && *e == websocket.CloseError{Code: 1000, Reason: "lunch"} && errors.Is(err, io.EOF)
			},
		},
		"with a code of its own": {
			func(ws *coder.Conn) { ws.Close(4000, "") },
			func(err error) bool {
				e, ok := errors.AsType[*websocket.CloseError](err)
				return ok && *e == websocket.CloseError{Code: 4000} && !errors.Is(err, io.EOF)
			},
		},
		"as a page does that says nothing": {
			func(ws *coder.Conn) { ws.Close(coder.StatusNoStatusRcvd, "") },
			func(err error) bool { return err == io.EOF },
		},
		"with a complaint": {
			func(ws *coder.Conn) { ws.Close(coder.StatusPolicyViolation, "I object") },
			func(err error) bool {
				e, ok := errors.AsType[*websocket.CloseError](err)
				return ok && *e == websocket.CloseError{Code: 1008, Reason: "I object"}
			},
		},
		"without a word": {
			func(ws *coder.Conn) { ws.CloseNow() },
			func(err error) bool { return err == io.ErrUnexpectedEOF },
		},
	} {
		t.Run(name, func(t *testing.T) {
			accepted := make(chan *rpcx.Session, 1)
			url := serveRPC(t, &rpcx.Server{OnSession: func(s *rpcx.Session) { accepted <- s }})
			ws := peer(t, url, nil)
			s := <-accepted
			f := s.Go(t.Context(), "never answered", nil)
			if _, _, err := ws.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.end(ws)
			if err := ended(t, s); !c.want(err) {
				t.Errorf("the session ended with %v", err)
			}
			if err := f.Err(); !errors.Is(err, rpcx.ErrConnectionLost) {
				t.Errorf("the call failed with %v", err)
			}
		})
	}
}

// So it is if we write when the peer closes it, whichever of reading and writing
// fails first.
func TestPeerClosesWhileWeWrite(t *testing.T) {
	accepted := make(chan *rpcx.Session, 1)
	url := serveRPC(t, &rpcx.Server{OnSession: func(s *rpcx.Session) {
		accepted <- s
		for s.Notify(context.Background(), "tick", nil) == nil {
		}
	}})
	for range 100 {
		ws := peer(t, url, nil)
		if _, _, err := ws.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		ws.Close(4000, "enough")
		err := ended(t, <-accepted)
		if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != 4000 {
			t.Fatalf("the session ended with %v", err)
		}
	}
}

// Our way to close it is seen by the peer, after what was queued.
func TestWeClose(t *testing.T) {
	srv := &rpcx.Server{OnSession: func(s *rpcx.Session) {
		_ = s.Notify(context.Background(), "last words", nil)
		s.Close()
	}}
	ws := peer(t, serveRPC(t, srv), nil)
	if _, got, err := ws.Read(t.Context()); err != nil || !strings.Contains(string(got), "last words") {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := ws.Read(t.Context()); coder.CloseStatus(err) != coder.StatusNormalClosure {
		t.Errorf("the connection ended with %v", err)
	}
}

// accepting is a server whose peers do not follow the protocol: it hands over
// plain WebSockets.
func accepting(conns chan<- *coder.Conn) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws, err := coder.Accept(w, r, nil); err == nil {
			conns <- ws
		}
	})
}

// A peer that does not answer, neither a ping nor a close, does not hold us up.
func TestSilentPeer(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(s *rpcx.Session)
		after time.Duration
		want  error
	}{
		"a ping is not answered":  {func(*rpcx.Session) {}, 20 * time.Second, websocket.ErrNoPong},
		"a close is not answered": {func(s *rpcx.Session) { s.Close() }, time.Second, rpcx.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, ws, stop := inBubble(t)
				defer stop()
				start := time.Now()
				c.end(s)
				<-s.Done()
				if err, took := s.Err(), time.Since(start); !errors.Is(err, c.want) || took != c.after {
					t.Errorf("after %v the session ended with %v, want %v after %v", took, err, c.want, c.after)
				}
				ws.CloseNow()
			})
		})
	}
}

// A peer that answers pings, and says nothing else, stays; so does one that talks
// and is not pinged.
func TestQuietPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ws, stop := inBubble(t)
		defer stop()
		reading := make(chan error)
		// Owner: the test. End: the session is closed.
		go func() {
			_, _, err := ws.Read(context.Background())
			reading <- err
		}()
		time.Sleep(time.Hour)
		if err := s.Err(); err != nil {
			t.Errorf("the session ended with %v", err)
		}
		s.Close()
		if err := <-reading; coder.CloseStatus(err) != coder.StatusNormalClosure {
			t.Errorf("the peer's read ends with %v", err)
		}
		if <-s.Done(); s.Err() != rpcx.ErrClosed {
			t.Errorf("the session ended with %v", s.Err())
		}
	})
}

// A peer that takes its time to read stays, as long as Limits.SendTimeout allows.
func TestSlowPeer(t *testing.T) {
	const size = 400 << 10
	for name, read := range map[string]func(ws *coder.Conn, r io.Reader) error{
		"it says nothing": func(_ *coder.Conn, r io.Reader) error {
			time.Sleep(17 * time.Second) // longer than a ping may take
			_, err := io.Copy(io.Discard, r)
			return err
		},
		"it takes long for all of it, and reads on": func(_ *coder.Conn, r io.Reader) error {
			var err error
			for err == nil {
				time.Sleep(9 * time.Second)
				_, err = io.CopyN(io.Discard, r, 32<<10)
			}
			if err == io.EOF {
				return nil
			}
			return err
		},
		"it pings": func(ws *coder.Conn, r io.Reader) error {
			pinged := make(chan error, 1)
			// Owner: the test. End: the ping is answered while the loop reads.
			go func() { pinged <- ws.Ping(context.Background()) }()
			var err error
			for err == nil {
				time.Sleep(time.Second)
				_, err = io.CopyN(io.Discard, r, 32<<10)
			}
			if err != io.EOF {
				return err
			}
			return <-pinged
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, ws, stop := inBubble(t)
				defer stop()
				defer ws.CloseNow()
				ws.SetReadLimit(-1)
				if err := s.Notify(t.Context(), "large", rpcx.Args{strings.Repeat("x", size)}); err != nil {
					t.Fatal(err)
				}
				_, r, err := ws.Reader(context.Background())
				if err == nil {
					err = read(ws, r)
				}
				if err != nil || s.Err() != nil {
					t.Errorf("%v; the session ended with %v", err, s.Err())
				}
				s.Close()
				_, _, err = ws.Read(context.Background())
				if <-s.Done(); coder.CloseStatus(err) != coder.StatusNormalClosure {
					t.Errorf("then %v", err)
				}
			})
		})
	}
}

// inBubble returns a session that pings its peer after 10 s, and that peer.
func inBubble(t *testing.T) (s *rpcx.Session, ws *coder.Conn, stop func()) {
	t.Helper()
	conns := make(chan *coder.Conn, 1)
	l, stop := inMemory(accepting(conns))
	d := websocket.Dialer{
		Dialer: rpcx.Dialer{DialContext: l.dial},
		Config: websocket.Config{PingInterval: 10 * time.Second},
	}
	s, err := d.Dial(t.Context(), "ws://memory/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, <-conns, stop
}
