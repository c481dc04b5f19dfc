package websocket_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/websocket"
)

// The opcodes of frames, with the bit of a final one.
const (
	continuation = 0
	beginText    = 1
	closeFrame   = 0x80 | 8
	pingFrame    = 0x80 | 9
	pongFrame    = 0x80 | 10
)

// clientFrame returns a frame as a client sends it, with a mask that changes nothing.
func clientFrame(opcode byte, payload string) []byte {
	return append([]byte{opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
}

// rawServer serves srv in a bubble, and returns a connection to it that the test writes
// and reads itself, and what reads it.
func rawServer(t *testing.T, srv *rpcx.Server, config websocket.Config) (conn net.Conn, r *bufio.Reader, s *rpcx.Session, stop func()) {
	t.Helper()
	config.PingInterval = -1
	l, stopped := inMemory(&websocket.Acceptor{Server: srv, Config: config})
	conn, err := l.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	r = bufio.NewReader(conn)
	upgrade(t, conn, r, "/", nil)
	synctest.Wait()
	for s = range srv.Sessions() {
	}
	return conn, r, s, func() {
		srv.Close()
		conn.Close()
		srv.Wait(context.Background())
		stopped()
	}
}

// upgrade asks for a WebSocket, and returns the answer.
func upgrade(t *testing.T, conn net.Conn, r *bufio.Reader, target string, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://memory"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-Websocket-Version", "13")
	req.Header.Set("Sec-Websocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// serverFrames reads what a server sends, and counts its pongs, until it closes the
// connection or sends a close frame, whose code is returned.
func serverFrames(r io.Reader) (pongs, code int) {
	for {
		var header [2]byte
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return pongs, 0
		}
		payload := make([]byte, header[1])
		if _, err := io.ReadFull(r, payload); err != nil {
			return pongs, 0
		}
		switch header[0] {
		case pongFrame:
			pongs++
		case closeFrame:
			return pongs, int(binary.BigEndian.Uint16(payload))
		}
	}
}

func TestTooManyControlFrames(t *testing.T) {
	for name, c := range map[string]struct {
		opcode byte
		config int // Config.ControlFrames
		most   int // that are taken at once
		field  string
	}{
		"pings":                          {pingFrame, 0, 1000, "over 100 control frames"},
		"pongs to nothing":               {pongFrame, 0, 1000, "over 100 control frames"},
		"pings over a limit that is set": {pingFrame, 3, 30, "over 3 control frames"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, r, s, stop := rawServer(t, &rpcx.Server{}, websocket.Config{ControlFrames: c.config})
				defer stop()
				type heard struct{ pongs, code int }
				over := make(chan heard, 1)
				// Owner: the test. End: the session is over.
				go func() {
					pongs, code := serverFrames(r)
					over <- heard{pongs, code}
				}()
				flood := bytes.Repeat(clientFrame(c.opcode, "boo"), 10)
				for range c.most / 10 {
					if _, err := conn.Write(flood); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if err := s.Err(); err != nil {
					t.Fatalf("after %d the session ended with %v", c.most, err)
				}
				sent := 0
				for ; sent < 10*c.most; sent += 10 {
					if _, err := conn.Write(flood); err != nil {
						break
					}
					synctest.Wait()
				}
				got := <-over
				if c.opcode == pingFrame && got.pongs != c.most || got.pongs > c.most {
					t.Errorf("%d pings were answered", got.pongs)
				}
				if got.code != 1008 {
					t.Errorf("the peer is told code %d", got.code)
				}
				<-s.Done()
				frame, ok := errors.AsType[*rpcx.FrameError](s.Err())
				if !ok || !strings.Contains(frame.Message, c.field) || !strings.Contains(frame.Message, "websocket.Config.ControlFrames") {
					t.Errorf("the session ended with %v", s.Err())
				}
			})
		})
	}
}

// Control frames at a steady rate that is below the limit are answered for ever, and so
// is any rate without a limit.
func TestControlFramesWithinTheLimit(t *testing.T) {
	for name, c := range map[string]struct {
		limit, seconds, rate int
	}{
		"at the limit":    {10, 600, 10},
		"without a limit": {-1, 2, 5_000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, r, s, stop := rawServer(t, &rpcx.Server{}, websocket.Config{ControlFrames: c.limit})
				pongs := make(chan int, 1)
				// Owner: the test. End: the connection is closed.
				go func() {
					n, _ := serverFrames(r)
					pongs <- n
				}()
				for range c.seconds {
					if _, err := conn.Write(bytes.Repeat(clientFrame(pingFrame, ""), c.rate)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
				}
				if err := s.Err(); err != nil {
					t.Errorf("the session ended with %v", err)
				}
				stop()
				if n := <-pongs; n != c.seconds*c.rate {
					t.Errorf("%d pings of %d were answered", n, c.seconds*c.rate)
				}
			})
		})
	}
}

// A client is not to be kept busy by its server either.
func TestTooManyControlFramesOfAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ws, stop := inBubble(t)
		defer stop()
		defer ws.CloseNow()
		reading := make(chan error, 1)
		// Owner: the test. End: the connection is closed.
		go func() {
			_, _, err := ws.Read(t.Context())
			reading <- err
		}()
		pings := 0
		for ; pings < 5000 && ws.Ping(t.Context()) == nil; pings++ {
		}
		<-s.Done()
		if frame, ok := errors.AsType[*rpcx.FrameError](s.Err()); !ok || !strings.Contains(frame.Message, "websocket.Config.ControlFrames") {
			t.Errorf("the session ended with %v", s.Err())
		}
		if pings != 1000 {
			t.Errorf("%d pings were answered", pings)
		}
		<-reading
	})
}

// All that comes over the connection is counted and charged for, whatever it is.
func TestBytesBesideMessages(t *testing.T) {
	for name, c := range map[string]struct{ begin, frame []byte }{
		"pings":               {nil, clientFrame(pingFrame, "")},
		"long pings":          {nil, clientFrame(pingFrame, strings.Repeat("x", 125))},
		"pongs to nothing":    {nil, clientFrame(pongFrame, "")},
		"empty fragments":     {clientFrame(beginText, ""), clientFrame(continuation, "")},
		"fragments of a byte": {clientFrame(beginText, ""), clientFrame(continuation, " ")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{}
				srv.Options.Limits.CostPerByte = 0.001
				srv.Options.Limits.CostHard = 1000 // of 1 MB
				conn, r, s, stop := rawServer(t, srv, websocket.Config{ControlFrames: -1})
				defer stop()
				// Owner: the test. End: the session is over.
				go serverFrames(r)
				flood := bytes.Repeat(c.frame, 60_000/len(c.frame))
				sent := 0
				_, err := conn.Write(c.begin)
				for ; sent < 20<<20 && err == nil; sent += len(flood) {
					_, err = conn.Write(flood)
				}
				cost, ok := errors.AsType[*rpcx.CostError](ended(t, s))
				// (A MiB is read after the end, for the answer to the close frame.)
				if !ok || sent > 4<<20 {
					t.Errorf("after %d bytes the session ended with %v (%v)", sent, s.Err(), cost)
				}
				if n := s.Stats().BytesReceived; n < 1_000_000 || int(n) > sent+len(flood) {
					t.Errorf("of %d bytes %d were counted", sent, n)
				}
			})
		})
	}
}

// The answers to our own pings are not too many, however often we ask.
func TestManyPingsOfOurOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		l, stopped := inMemory(&websocket.Acceptor{Server: srv, Config: websocket.Config{PingInterval: time.Millisecond}})
		ws := dialPeer(t, l)
		reading := make(chan error, 1)
		// Owner: the test. End: the connection is closed.
		go func() {
			_, _, err := ws.Read(t.Context())
			reading <- err
		}()
		time.Sleep(5 * time.Second)
		if n := srv.Stats().Sessions; n != 1 {
			t.Errorf("there are %d sessions", n)
		}
		srv.Close()
		<-reading
		ws.CloseNow()
		srv.Wait(context.Background())
		stopped()
	})
}
