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

// fatal is a protocol to which each message is the end.
type fatal struct {
	rpcx.Protocol
	message string
}

func (f fatal) Decode(m *rpcx.Message, _ []byte, _ int) {
	m.Batch = false
	m.Items = append(m.Items[:0], rpcx.Item{Kind: rpcx.KindFatal, Err: &rpcx.ProtocolError{Code: rpcx.CodeInvalidRequest, Message: f.message}})
}

// closes are the ways in which a server's session ends, and what its peer is told.
func closes() map[string]closeCase {
	say := func(kind coder.MessageType, msg string) func(*testing.T, *rpcx.Server, *rpcx.Session, *coder.Conn) {
		return func(t *testing.T, _ *rpcx.Server, _ *rpcx.Session, ws *coder.Conn) {
			if err := ws.Write(t.Context(), kind, []byte(msg)); err != nil {
				t.Error(err)
			}
		}
	}
	ask := func(method string) func(*testing.T, *rpcx.Server, *rpcx.Session, *coder.Conn) {
		return say(coder.MessageText, `{"jsonrpc":"2.0","method":"`+method+`"}`)
	}
	fragments := func(parts ...string) func(*testing.T, *rpcx.Server, *rpcx.Session, *coder.Conn) {
		return func(t *testing.T, _ *rpcx.Server, _ *rpcx.Session, ws *coder.Conn) {
			w, err := ws.Writer(t.Context(), coder.MessageText)
			for _, part := range parts {
				if err == nil {
					_, err = io.WriteString(w, part)
				}
			}
			if err == nil {
				err = w.Close()
			}
			if err != nil && !errors.Is(err, io.ErrClosedPipe) && coder.CloseStatus(err) == -1 {
				t.Log(err) // the other side need not read all of it
			}
		}
	}
	return map[string]closeCase{
		"Close": {
			end:  func(_ *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *coder.Conn) { s.Close() },
			want: coder.CloseError{Code: 1000},
		},
		"Shutdown of the session": {
			end: func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *coder.Conn) {
				if err := s.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			},
			want: coder.CloseError{Code: 1000},
		},
		"a handler that disconnects": {end: ask("bye"), want: coder.CloseError{Code: 1000}},
		"nothing happens": {
			opts: rpcx.Options{Limits: rpcx.Limits{IdleTimeout: time.Minute}},
			end:  func(*testing.T, *rpcx.Server, *rpcx.Session, *coder.Conn) {},
			want: coder.CloseError{Code: 1000, Reason: "session idle"},
		},
		"a peer that is not admitted": {
			opts: rpcx.Options{Gate: methods()},
			end:  func(*testing.T, *rpcx.Server, *rpcx.Session, *coder.Conn) {},
			want: coder.CloseError{Code: 1008, Reason: "session not admitted"},
		},
		"Shutdown of the server": {
			end: func(t *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *coder.Conn) {
				if err := srv.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			},
			want: coder.CloseError{Code: 1001, Reason: "server shutting down"},
		},
		"Close of the server": {
			end:  func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *coder.Conn) { srv.Close() },
			want: coder.CloseError{Code: 1001, Reason: "server shutting down"},
		},
		"a message that the protocol cannot answer": {
			opts: rpcx.Options{Protocol: fatal{rpcx.JSONRPCv2, "out of tune"}},
			end:  say(coder.MessageText, "!"),
			want: coder.CloseError{Code: 1002, Reason: "out of tune"},
		},
		"one of which there is much to say": {
			opts: rpcx.Options{Protocol: fatal{rpcx.JSONRPCv2, strings.Repeat("é", 100)}},
			end:  say(coder.MessageText, "!"),
			want: coder.CloseError{Code: 1002, Reason: strings.Repeat("é", 61)},
		},
		"one of which it is said in no UTF-8": {
			opts: rpcx.Options{Protocol: fatal{rpcx.JSONRPCv2, "a\xff"}},
			end:  say(coder.MessageText, "!"),
			want: coder.CloseError{Code: 1002, Reason: "a\uFFFD"},
		},
		"a text that is no UTF-8":          {end: say(coder.MessageText, "{\"\xff\":0}"), want: coder.CloseError{Code: 1007, Reason: "text message is no UTF-8"}},
		"a text that is cut in a letter":   {end: say(coder.MessageText, "\"\xc3"), want: coder.CloseError{Code: 1007, Reason: "text message is no UTF-8"}},
		"a text with half a surrogate":     {end: say(coder.MessageText, "\"\xed\xa0\x80\""), want: coder.CloseError{Code: 1007, Reason: "text message is no UTF-8"}},
		"one whose letters lie apart":      {end: fragments("\"\xc3", "\xa9", "\xc3", "\""), want: coder.CloseError{Code: 1007, Reason: "text message is no UTF-8"}},
		"a cost that is too high":          {opts: rpcx.Options{Limits: rpcx.Limits{CostPerByte: 10_000}}, end: ask("echo"), want: coder.CloseError{Code: 1008, Reason: "excessive resource usage"}},
		"a handler that finds it too high": {end: ask("costly"), want: coder.CloseError{Code: 1008, Reason: "excessive resource usage"}},
		"too much that is wrong": {
			opts: rpcx.Options{Limits: rpcx.Limits{PeerErrors: 1}},
			end:  say(coder.MessageText, "["+strings.Repeat("1,", 10)+"1]"),
			want: coder.CloseError{Code: 1008, Reason: "too many bad messages"},
		},
		"a message that is too large": {end: say(coder.MessageText, strings.Repeat(" ", 2001)), want: coder.CloseError{Code: 1009, Reason: "message too large (over 2000 bytes)"}},
		"a binary one":                {end: say(coder.MessageBinary, strings.Repeat("\xff", 5000)), want: coder.CloseError{Code: 1009, Reason: "message too large (over 2000 bytes)"}},
		"one in fragments":            {end: fragments(strings.Repeat(" ", 1000), strings.Repeat(" ", 1000), " ", " "), want: coder.CloseError{Code: 1009, Reason: "message too large (over 2000 bytes)"}},
		"a very large one":            {end: fragments(strings.Repeat(strings.Repeat(" ", 100_000), 20)), want: coder.CloseError{Code: 1009, Reason: "message too large (over 2000 bytes)"}},
	}
}

type closeCase struct {
	opts rpcx.Options
	end  func(t *testing.T, srv *rpcx.Server, s *rpcx.Session, ws *coder.Conn)
	want coder.CloseError
}

// The peer is told why a session ends.
func TestCloseCodes(t *testing.T) {
	for name, c := range closes() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				router := methods()
				router.Handle("costly", rpcx.Func(func() error { return rpcx.ErrExcessiveCost }))
				c.opts.Handler = router
				accepted := make(chan *rpcx.Session, 1)
				srv := &rpcx.Server{Options: c.opts, OnSession: func(s *rpcx.Session) { accepted <- s }}
				l, stop := inMemory(&websocket.Acceptor{Server: srv, Config: websocket.Config{MaxSize: 2000}})
				defer stop()
				ws := dialPeer(t, l)
				defer ws.CloseNow()
				// Owner: the test. End: the session is closed.
				read := make(chan error, 1)
				go func() {
					for {
						if _, _, err := ws.Read(context.Background()); err != nil {
							read <- err
							return
						}
					}
				}()
				s := <-accepted
				c.end(t, srv, s, ws)
				if closed, ok := errors.AsType[coder.CloseError](<-read); !ok || closed != c.want {
					t.Errorf("the peer is told %v, want %v", closed, c.want)
				}
				<-s.Done()
				srv.Close()
				srv.Wait(context.Background())
			})
		})
	}
}

// dialPeer is peer over a connection in memory.
func dialPeer(t *testing.T, l *memory) *coder.Conn {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: l.dial, DisableKeepAlives: true}}
	ws, _, err := coder.Dial(t.Context(), "ws://memory/", &coder.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// A program can have a code of its own sent, whatever the session ends by.
func TestSetCloseCode(t *testing.T) {
	set := func(t *testing.T, s *rpcx.Session) {
		if err := websocket.SetCloseCode(s, 4001, "naïve"); err != nil {
			t.Error(err)
		}
	}
	router := methods()
	router.Handle("leave", rpcx.Func(func(s *rpcx.Session) error {
		if err := websocket.SetCloseCode(s, 4001, "naïve"); err != nil {
			return err
		}
		return rpcx.ReplyAndDisconnect("bye")
	}))
	for name, end := range map[string]func(srv *rpcx.Server, server, client *rpcx.Session){
		"Close":                  func(_ *rpcx.Server, s, _ *rpcx.Session) { set(t, s); s.Close() },
		"Shutdown":               func(_ *rpcx.Server, s, _ *rpcx.Session) { set(t, s); s.Shutdown(t.Context()) },
		"Shutdown of the server": func(srv *rpcx.Server, s, _ *rpcx.Session) { set(t, s); srv.Shutdown(t.Context()) },
		"ReplyAndDisconnect": func(_ *rpcx.Server, _, client *rpcx.Session) {
			if got, err := rpcx.Call[string](t.Context(), client, "leave", nil); got != "bye" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		},
		"a second code": func(_ *rpcx.Server, s, _ *rpcx.Session) {
			if err := websocket.SetCloseCode(s, 1012, "restarting"); err != nil {
				t.Error(err)
			}
			set(t, s)
			s.Close()
		},
		"one that was refused": func(_ *rpcx.Server, s, _ *rpcx.Session) {
			set(t, s)
			if websocket.SetCloseCode(s, 999, "") == nil {
				t.Error("999 is accepted")
			}
			s.Close()
		},
		"the client's Close": func(_ *rpcx.Server, _, client *rpcx.Session) { set(t, client); client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			accepted := make(chan *rpcx.Session, 1)
			srv := &rpcx.Server{Options: rpcx.Options{Handler: router}, OnSession: func(s *rpcx.Session) { accepted <- s }}
			client := dial(t, websocket.Dialer{}, serveRPC(t, srv), nil)
			server := <-accepted
			end(srv, server, client)
			told := client
			if name == "the client's Close" {
				told = server
			}
			if closed, ok := errors.AsType[*websocket.CloseError](ended(t, told)); !ok || *closed != (websocket.CloseError{Code: 4001, Reason: "naïve"}) {
				t.Errorf("the other side ended with %v", told.Err())
			}
		})
	}
}

func TestCodesThatCannotBeSent(t *testing.T) {
	s := dial(t, websocket.Dialer{}, serveRPC(t, &rpcx.Server{}), nil)
	for _, code := range []int{-1, 0, 200, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 1 << 16} {
		if err := websocket.SetCloseCode(s, code, ""); err == nil || !strings.Contains(err.Error(), "want 1000 to") {
			t.Errorf("code %d: %v", code, err)
		}
	}
	for _, code := range []int{1000, 1003, 1007, 1012, 1014, 3000, 4999} {
		if err := websocket.SetCloseCode(s, code, strings.Repeat("x", 123)); err != nil {
			t.Errorf("code %d: %v", code, err)
		}
	}
	for name, reason := range map[string]string{"too long": strings.Repeat("x", 124), "no UTF-8": "\xff"} {
		if err := websocket.SetCloseCode(s, 4000, reason); err == nil || !strings.Contains(err.Error(), "close reason") {
			t.Errorf("a reason that is %s: %v", name, err)
		}
	}
	a, b := rpcx.Pipe(nil, nil)
	if err := websocket.SetCloseCode(a, 4000, "not for a WebSocket"); err != nil {
		t.Error(err)
	}
	for _, s := range []*rpcx.Session{a, b} {
		s.Close()
		<-s.Done()
	}
}

// A violation is told though the other side is being written to.
func TestViolationWhileWeWrite(t *testing.T) {
	accepted := make(chan *rpcx.Session, 1)
	srv := &rpcx.Server{OnSession: func(s *rpcx.Session) {
		accepted <- s
		for s.Notify(context.Background(), "tick", rpcx.Args{strings.Repeat("x", 50_000)}) == nil {
		}
	}}
	t.Cleanup(func() { srv.Wait(context.Background()) })
	t.Cleanup(func() { srv.Close() })
	url := serve(t, &websocket.Acceptor{Server: srv, Config: websocket.Config{MaxSize: 1000}})
	for range 30 {
		ws := peer(t, url, nil)
		ws.SetReadLimit(-1)
		s := <-accepted
		if err := ws.Write(t.Context(), coder.MessageText, make([]byte, 2000)); err != nil {
			t.Fatal(err)
		}
		var err error
		for err == nil {
			_, _, err = ws.Read(t.Context())
		}
		if coder.CloseStatus(err) != coder.StatusMessageTooBig {
			t.Fatalf("the peer is told %v", err)
		}
		if _, ok := errors.AsType[*rpcx.FrameError](ended(t, s)); !ok {
			t.Fatalf("the session ended with %v", s.Err())
		}
	}
}

// A peer that is told and does not answer is waited for, but not by Close.
func TestCloseDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ws, stop := inBubble(t)
		defer stop()
		begin := time.Now()
		s.Close()
		if took := time.Since(begin); took != 0 {
			t.Errorf("Close took %v", took)
		}
		<-s.Done()
		if took := time.Since(begin); took != time.Second {
			t.Errorf("the session was over after %v", took)
		}
		ws.CloseNow()
	})
}

// A session that cannot have its place is told that it may come again.
func TestCloseCodeOfAFullServer(t *testing.T) {
	srv := &rpcx.Server{MaxGroup: 1}
	srv.Options.Limits.Group = func(*rpcx.Session) string { return "all" }
	url := serveRPC(t, srv)
	first := dial(t, websocket.Dialer{}, url, nil)
	if err := first.Call(t.Context(), "any", nil, nil); !errors.Is(err, rpcx.ErrMethodNotFound) {
		t.Fatal(err) // it has its place now
	}
	second := dial(t, websocket.Dialer{}, url, nil)
	if closed, ok := errors.AsType[*websocket.CloseError](ended(t, second)); !ok || closed.Code != 1013 || closed.Reason == "" {
		t.Errorf("it ended with %v", second.Err())
	}
}

// A peer that has much under way when it is sent a close frame may send all of it, and
// then its answer: closed before, the connection would be reset, and the peer would lose
// what it has not read.
func TestCloseWhileThePeerSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, r, s, stop := rawServer(t, &rpcx.Server{}, websocket.Config{})
		defer stop()
		closed := make(chan error, 1)
		// Owner: the test. End: the peer has answered.
		go func() { closed <- s.Close() }()
		if _, code := serverFrames(r); code != 1000 {
			t.Fatalf("the peer is told code %d", code)
		}
		message := clientFrame(beginText|0x80, strings.Repeat("x", 100))
		for sent := 0; sent < 4<<20; sent += len(message) * 100 {
			if _, err := conn.Write(bytes.Repeat(message, 100)); err != nil {
				t.Fatalf("after %d bytes: %v", sent, err)
			}
		}
		if _, err := conn.Write(clientFrame(closeFrame, "\x03\xe8")); err != nil {
			t.Error(err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

// Two ends that are silent ping each other at the same moment, and both answer, even
// where a write waits for the other end's read.
func TestTwoEndsPingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		config := websocket.Config{PingInterval: 10 * time.Second}
		l, stopped := inMemory(&websocket.Acceptor{Server: srv, Config: config})
		d := websocket.Dialer{Dialer: rpcx.Dialer{DialContext: l.dial}, Config: config}
		s, err := d.Dial(t.Context(), "ws://memory/", nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := s.Err(); err != nil {
			t.Errorf("the session ended with %v", err)
		}
		if n := srv.Stats().Sessions; n != 1 {
			t.Errorf("there are %d sessions", n)
		}
		s.Close()
		srv.Wait(context.Background())
		stopped()
	})
}
