package rpcx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

// newSecureServer has srv serve a listener in memory by TLS.
func newSecureServer(t *testing.T, srv *rpcx.Server, config *tls.Config) *memory {
	t.Helper()
	m := newMemory()
	go srv.Serve(tls.NewListener(m, config))
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	synctest.Wait()
	return m
}

// dial returns a connection to the server that accepts from m.
func (m *memory) dial(t *testing.T) net.Conn {
	near, far := net.Pipe()
	m.conns <- near
	t.Cleanup(func() { far.Close() })
	synctest.Wait()
	return far
}

// isClosed reports whether the other end has closed the connection.
func isClosed(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(time.Nanosecond))
	_, err := conn.Read(make([]byte, 1))
	return err == io.EOF
}

func TestHandshakesAreBounded(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{MaxHandshakes: 2, Options: rpcx.Options{Handler: methods{"reply": reply}, Logger: slog.New(log)}}
		m := newSecureServer(t, srv, secure)
		oldest := []net.Conn{m.dial(t), m.dial(t)} // they never speak
		if n := srv.Stats().Handshakes; n != 2 || srv.Stats().Sessions != 0 {
			t.Errorf("%d handshakes are in progress", n)
		}
		time.Sleep(250*time.Millisecond - 1)
		if !isClosed(m.dial(t)) || isClosed(oldest[0]) || isClosed(oldest[1]) { // a nanosecond each
			t.Error("a handshake that had not had its time made way for another")
		}
		silent := []net.Conn{m.dial(t), m.dial(t)}
		if !isClosed(oldest[0]) || !isClosed(oldest[1]) || isClosed(silent[0]) || isClosed(silent[1]) {
			t.Error("beyond the limit it is not the oldest handshakes that were given up")
		}
		if got := srv.Stats().Refused; !maps.Equal(got, map[string]uint64{"Server.MaxHandshakes": 3}) {
			t.Errorf("refused were %v", got)
		}
		if got := log.take(); len(got) != 3 || strings.Count(strings.Join(got, "\n"), "WARN connection refused") != 1 {
			t.Errorf("logged was %q", got)
		}

		time.Sleep(10*time.Second - 3) // two have passed in isClosed
		synctest.Wait()
		if n := srv.Stats().Handshakes; n != 2 {
			t.Errorf("%d handshakes are in progress", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := srv.Stats().Handshakes; n != 0 || !isClosed(silent[0]) || !isClosed(silent[1]) {
			t.Errorf("after HandshakeTimeout %d handshakes are in progress", n)
		}
		if got := log.attr("error"); len(got) != 4 || !strings.Contains(got[0], "Server.MaxHandshakes") || !strings.Contains(got[2], "Server.HandshakeTimeout") {
			t.Errorf("logged were the errors %q", got)
		}

		conn := tls.Client(m.dial(t), client) // there is room again
		s := rpcx.NewSession(conn, nil)
		got, err := rpcx.Call[int](t.Context(), s, "reply", rpcx.Args{1})
		if got != 1 || err != nil {
			t.Errorf("the call: %v, %v", got, err)
		}
		s.Close()
		<-s.Done()
	})
}

// A handshake may wait for a certificate as well as for the peer.
func TestHandshakeThatIsGivenUpIsOver(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	synctest.Test(t, func(t *testing.T) {
		var waiting atomic.Int32
		secure.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			waiting.Add(1)
			defer waiting.Add(-1)
			<-hello.Context().Done()
			return nil, hello.Context().Err()
		}
		m := newSecureServer(t, &rpcx.Server{MaxHandshakes: 2}, secure)
		for range 5 {
			go tls.Client(m.dial(t), client).Handshake()
			time.Sleep(time.Second) // the oldest has had its time when the next comes
		}
		if n := waiting.Load(); n != 2 {
			t.Errorf("%d handshakes are in progress", n)
		}
	})
}

func TestHandshakeEndsWithTheServer(t *testing.T) {
	secure, _ := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{HandshakeTimeout: -1}
		m := newSecureServer(t, srv, secure)
		conn := m.dial(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		if srv.Stats().Handshakes != 1 {
			t.Error("without HandshakeTimeout the handshake has ended")
		}
		takes(t, 0, func() {
			srv.Close()
			srv.Wait(context.Background())
		})
		if !isClosed(conn) {
			t.Error("the connection is left open")
		}
	})
}

func TestMaxGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := "first"
		srv := &rpcx.Server{MaxGroup: 2, MaxSessions: 5}
		srv.Options.Limits.Group = func(*rpcx.Session) string { return group }
		srv.Options.Limits.CostOff = true // it is counted all the same
		m, _ := newServer(t, srv)
		one := m.connect(t)
		m.connect(t)
		if !m.connect(t).hungUp() {
			t.Error("the group has a third session")
		}
		group = "" // none
		for range 3 {
			if m.connect(t).hungUp() {
				t.Error("what is in no group is refused")
			}
		}
		if !m.connect(t).hungUp() {
			t.Error("there is a session beyond MaxSessions")
		}
		if got := srv.Stats().Refused; !maps.Equal(got, map[string]uint64{"Server.MaxGroup": 1, "Server.MaxSessions": 1}) {
			t.Errorf("refused were %v", got)
		}
		one.Close()
		synctest.Wait()
		group = "first"
		if m.connect(t).hungUp() {
			t.Error("the place of a session that ended is not given away")
		}
	})
}

func TestServerLimitsCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxGroup: -1, MaxSessions: -1, MaxQueuedBytes: -1}
		srv.Options.Limits.Group = func(*rpcx.Session) string { return "all" }
		m, _ := newServer(t, srv)
		for range 100 {
			if m.connect(t).hungUp() {
				t.Fatal("a session is refused")
			}
		}
		if got := srv.Stats(); got.Sessions != 100 || got.Refused != nil {
			t.Errorf("stats are %+v", got)
		}
	})
}

func TestMaxQueuedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		srv := &rpcx.Server{MaxQueuedBytes: 100_000, Options: rpcx.Options{Handler: open}}
		srv.Options.Limits.Concurrency = 1
		m, _ := newServer(t, srv)
		large := `{"jsonrpc":"2.0","method":"m","params":["` + strings.Repeat("x", 7_000) + `"],"id":`
		greedy, modest := m.connect(t), m.connect(t)
		greedy.say(large + `0}`) // runs
		for range 14 {
			greedy.say(large + `1}`)
		}
		greedy.expectNothing()
		if n := srv.Stats().QueuedBytes; n < 80_000 || n > 106_000 {
			t.Errorf("%d bytes wait", n)
		}
		full := `{"jsonrpc":"2.0","error":{"code":-102,"message":"server busy - over 100,000 bytes waiting (Server.MaxQueuedBytes)","data":{"started":false,"reason":"queue"}},"id":`
		greedy.say(large + `2}`)
		greedy.expect(full + `2}`)
		modest.say(ask("m", 3)) // which has not had its share
		modest.expectNothing()

		close(open)
		modest.expect(answered(`"through"`, 3))
		if n := len(greedy.heard()); n != 15 {
			t.Errorf("%d were answered", n)
		}
		greedy.Close()
		modest.Close()
		synctest.Wait()
		if n := srv.Stats().QueuedBytes; n != 0 {
			t.Errorf("%d bytes are left of sessions that ended", n)
		}
	})
}

// Small requests, taken in while there was room, have large replies.
func TestMaxQueuedBytesBoundsReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		large := strings.Repeat("x", 10_000)
		srv := &rpcx.Server{MaxQueuedBytes: 250_000}
		srv.Options.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			return large, nil
		})
		srv.Options.Limits.Concurrency = 1 // no handler has started before the limit is reached
		var wires []*wire
		for range 10 {
			near, far := net.Pipe()
			defer far.Close()
			srv.ServeConn(near)
			wires = append(wires, &wire{Conn: far, t: t})
		}
		for _, w := range wires {
			w.say(slices.Repeat([]string{ask("m", 1)}, 20)...)
		}
		synctest.Wait()
		if n := srv.Stats().QueuedBytes; n < 50_000 || n > 375_000 {
			t.Errorf("%d bytes wait", n)
		}
		ended := 0
		for _, w := range wires {
			w.listen()
			lines := w.heard()
			if len(lines) == 0 {
				ended++ // one of the first, which took more than others when there was room
				continue
			}
			for _, line := range lines {
				if strings.Contains(line, "error") && !strings.Contains(line, `"started":false`) {
					t.Errorf("heard %.200q", line)
				}
			}
			if len(lines) != 20 {
				t.Errorf("heard %d lines, the first %.200q", len(lines), lines[0])
			}
		}
		if ended > 5 { // all took as much as they could at once
			t.Errorf("%d sessions were ended", ended)
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}

// newBacklog returns a server and its only peer, whose requests of ten kilobytes wait
// until the handler of the first is let go.
func newBacklog(t *testing.T) (*rpcx.Server, *wire, gate) {
	t.Helper()
	open := make(gate)
	srv := &rpcx.Server{Options: rpcx.Options{Handler: open}}
	srv.Options.Limits.Concurrency = 1
	m, _ := newServer(t, srv)
	w := m.connect(t)
	for i := range 10 {
		w.say(`{"jsonrpc":"2.0","method":"m","params":["` + strings.Repeat("x", 10_000) + `"],"id":` + string(rune('0'+i)) + `}`)
	}
	synctest.Wait()
	if n := srv.Stats().QueuedBytes; n < 80_000 {
		t.Errorf("%d bytes wait", n)
	}
	return srv, w, open
}

// What is counted of a session ends with it, however it ends.
func TestQueuedBytesOfSessionsThatEnd(t *testing.T) {
	for name, end := range map[string]func(s *rpcx.Session, w *wire){
		"Close":     func(s *rpcx.Session, _ *wire) { s.Close() },
		"Shutdown":  func(s *rpcx.Session, _ *wire) { go s.Shutdown(context.Background()) },
		"hang up":   func(_ *rpcx.Session, w *wire) { w.Close() },
		"its cost":  func(s *rpcx.Session, w *wire) { s.BumpCost(20000); w.say(ask("m", 1)) },
		"a timeout": func(*rpcx.Session, *wire) { time.Sleep(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, w, open := newBacklog(t)
				for s := range srv.Sessions() {
					end(s, w)
				}
				synctest.Wait()
				close(open)
				w.hungUp()
				w.Close()
				synctest.Wait()
				if got := srv.Stats(); got.QueuedBytes != 0 || got.Sessions != 0 {
					t.Errorf("stats are %+v", got)
				}
			})
		})
	}
}

// Requests whose time is over are taken off the queue when a worker comes.
func TestQueuedBytesOfRequestsWhoseTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, w, open := newBacklog(t)
		time.Sleep(time.Minute)
		close(open)
		if n := len(w.heard()); n != 10 {
			t.Errorf("%d were answered", n)
		}
		if n := srv.Stats().QueuedBytes; n >= 4096 {
			t.Errorf("%d bytes wait", n)
		}
	})
}

// slowErrors waits before it encodes an error.
type slowErrors struct {
	rpcx.Protocol
	wait func()
}

func (p slowErrors) AppendError(dst []byte, id rpcx.ID, e *rpcx.Error, c rpcx.Codec) ([]byte, error) {
	p.wait()
	return p.Protocol.AppendError(dst, id, e, c)
}

// A batch may be complete only when its session is over.
func TestQueuedBytesOfABatchThatOutlivesItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		encode := make(chan struct{})
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply, "wait": func(ctx context.Context, _ *rpcx.Request) (any, error) {
			<-ctx.Done()
			return nil, nil
		}})}
		srv.Options.Protocol = slowErrors{rpcx.JSONRPCv2, func() { <-encode }}
		srv.Options.Limits.Concurrency = 1
		m, _ := newServer(t, srv)
		w := m.connect(t)
		w.say(`[{"jsonrpc":"2.0","method":"reply","params":["` + strings.Repeat("x", 10_000) + `"],"id":1},` + ask("wait", 2) + `,` + ask("reply", 3) + `]`)
		synctest.Wait()
		for s := range srv.Sessions() {
			go s.Shutdown(context.Background()) // refuses the last member
		}
		synctest.Wait()
		w.Close()
		synctest.Wait()
		close(encode)
		synctest.Wait()
		if got := srv.Stats(); got.QueuedBytes != 0 || got.Sessions != 0 {
			t.Errorf("stats are %+v", got)
		}
	})
}

func TestErrorOfARefusedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 1}
		m, _ := newServer(t, srv)
		m.connect(t)
		s := rpcx.NewSession(m.dial(t), nil)
		err := s.Call(t.Context(), "m", nil, nil)
		if !errors.Is(err, rpcx.ErrConnectionLost) {
			t.Errorf("the call: %v", err)
		}
		s.Close()
		<-s.Done()
	})
}

// Server.Sessions may have a session before it runs.
func TestSessionsAreUsedFromTheirFirstMoment(t *testing.T) {
	noLeak(t)
	srv := &rpcx.Server{OnSession: func(*rpcx.Session) {}}
	var users sync.WaitGroup
	over := make(chan struct{})
	for range 4 {
		users.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				for s := range srv.Sessions() {
					s.UpdateCost()
					s.Close()
				}
			}
		})
	}
	for range 3000 {
		near, far := net.Pipe()
		srv.ServeConn(near)
		far.Close()
	}
	close(over)
	users.Wait()
	srv.Close()
	srv.Wait(context.Background())
	if got := srv.Stats(); got.Sessions != 0 || got.QueuedBytes != 0 {
		t.Errorf("stats are %+v", got)
	}
}

// Failed handshakes cost a peer little, and some of their errors repeat what it has sent.
func TestHandshakesThatFailAreLoggedWithinBounds(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	secure.NextProtos = []string{"jsonrpc"}
	client.NextProtos = nil
	for range 50 {
		client.NextProtos = append(client.NextProtos, strings.Repeat("\x1b", 200))
	}
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: rpcx.Options{Logger: slog.New(log)}}
		m := newSecureServer(t, srv, secure)
		const n = 300
		for range n {
			if err := tls.Client(m.dial(t), client).Handshake(); err == nil {
				t.Fatal("the handshake did not fail")
			}
		}
		if got := len(log.take()); got != 100 {
			t.Errorf("%d of %d failed handshakes were logged at once", got, n)
		}
		for _, text := range log.attr("error") {
			if len(text) > 600 || strings.ContainsAny(text, "\x1b") || !strings.Contains(text, "jsonrpc") && !strings.Contains(text, "protocol") {
				t.Fatalf("the error is %q", text)
			}
		}
		time.Sleep(time.Second)
		tls.Client(m.dial(t), client).Handshake()
		if got := log.take(); len(got) != 1 {
			t.Errorf("a second later %q was logged", got)
		}
		if got := log.attr("records left out"); !slices.Equal(got, []string{"200"}) {
			t.Errorf("left out were %q", got)
		}
	})
}
