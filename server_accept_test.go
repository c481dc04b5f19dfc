package rpcx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
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

// Listeners that cannot be compared, or be the key of a map.
type (
	listWithSlice struct {
		*memory
		names []string
	}
	listWithFunc struct {
		net.Listener
		log func()
	}
	listOfOne [1]any
)

func (l listWithSlice) String() string { return fmt.Sprint(l.names) }
func (l listWithFunc) Close() error    { l.log(); return l.Listener.Close() }

func (l listOfOne) Accept() (net.Conn, error) { return l[0].([]*memory)[0].Accept() }
func (l listOfOne) Close() error              { return l[0].([]*memory)[0].Close() }
func (l listOfOne) Addr() net.Addr            { return l[0].([]*memory)[0].Addr() }

func TestServeTakesListenersThatCannotBeCompared(t *testing.T) {
	for name, listener := range map[string]func(*memory) net.Listener{
		"a struct with a slice":     func(m *memory) net.Listener { return listWithSlice{m, []string{"one"}} },
		"a struct with a function":  func(m *memory) net.Listener { return listWithFunc{m, func() {}} },
		"an array that holds slice": func(m *memory) net.Listener { return listOfOne{[]*memory{m}} },
		"one in another":            func(m *memory) net.Listener { return listWithFunc{listWithSlice{m, nil}, func() {}} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
				m := newMemory()
				served := make(chan error, 2)
				for range 2 { // two calls with one listener are two
					go func() { served <- srv.Serve(listener(m)) }()
				}
				w := m.connect(t)
				w.say(ask("reply", 1))
				w.expect(answered("null", 1))
				srv.Close()
				srv.Wait(context.Background())
				for range 2 {
					if err := <-served; err != rpcx.ErrServerClosed {
						t.Errorf("Serve returns %v", err)
					}
				}
				<-m.closed
				if err := srv.Serve(listener(m)); err != rpcx.ErrServerClosed {
					t.Errorf("after the end, Serve returns %v", err)
				}
			})
		})
	}
}

func TestStoppingDoesNotWaitForTheNextAccept(t *testing.T) {
	for name, stop := range map[string]func(*rpcx.Server){
		"StopListening": (*rpcx.Server).StopListening,
		"Close":         func(srv *rpcx.Server) { srv.Close() },
		"Shutdown": func(srv *rpcx.Server) {
			if err := srv.Shutdown(context.Background()); err != nil {
				panic(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &rpcx.Server{}
				m, served := newServer(t, srv)
				for range 9 { // until it is a second
					m.errs <- passing{}
				}
				synctest.Wait()
				takes(t, 0, func() {
					stop(srv)
					srv.Wait(context.Background())
				})
				if err := <-served; err != rpcx.ErrServerClosed {
					t.Errorf("Serve returns %v", err)
				}
			})
		})
	}
}

// denying is an error that says that it does not pass.
type denying struct{ error }

func (denying) Temporary() bool { return false }
func (d denying) Unwrap() error { return d.error }

func TestErrorsOfAcceptThatPass(t *testing.T) {
	for name, err := range map[string]error{
		"as it is":         passing{},
		"wrapped":          fmt.Errorf("accept: %w", passing{}),
		"wrapped twice":    fmt.Errorf("accept: %w", fmt.Errorf("limit: %w", passing{})),
		"one of several":   fmt.Errorf("%w, %w", io.ErrNoProgress, passing{}),
		"joined":           errors.Join(io.ErrNoProgress, passing{}),
		"of an OpError":    &net.OpError{Op: "accept", Err: passing{}},
		"wrapped there":    &net.OpError{Op: "accept", Err: fmt.Errorf("limit: %w", passing{})},
		"an OpError in it": fmt.Errorf("limit: %w", &net.OpError{Op: "accept", Err: passing{}}),
	} {
		t.Run(name, func(t *testing.T) { serveSurvives(t, err) })
	}
}

// serveSurvives tests that a server goes on after an error of Accept.
func serveSurvives(t *testing.T, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply})}
		srv.Options.Logger = slog.New(log)
		m, served := newServer(t, srv)
		takes(t, 5*time.Millisecond, func() {
			m.errs <- err
			select {
			case m.conns <- newHungUp(t):
			case err := <-served:
				t.Errorf("Serve returns %v", err)
			}
		})
		synctest.Wait()
		if got := log.take(); len(got) == 0 || got[0] != "WARN accept failed" {
			t.Errorf("logged: %q", got)
		}
	})
}

// newHungUp returns a connection whose peer has hung up.
func newHungUp(t *testing.T) net.Conn {
	near, far := net.Pipe()
	far.Close()
	t.Cleanup(func() { near.Close() })
	return near
}

func TestErrorsOfAcceptThatEndServe(t *testing.T) {
	for name, err := range map[string]error{
		"closed":                    net.ErrClosed,
		"closed, wrapped":           &net.OpError{Op: "accept", Err: net.ErrClosed},
		"closed, and another":       errors.Join(passing{}, net.ErrClosed),
		"nothing known":             errors.New("the network is down"),
		"the end":                   io.EOF,
		"one that denies":           denying{io.EOF},
		"one that denies another's": denying{passing{}},
		"denied, wrapped":           fmt.Errorf("accept: %w", denying{passing{}}),
	} {
		t.Run(name, func(t *testing.T) { serveEnds(t, err) })
	}
}

// serveEnds tests that Serve returns an error of Accept.
func serveEnds(t *testing.T, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		m, served := newServer(t, srv)
		m.errs <- err
		synctest.Wait()
		select {
		case got := <-served:
			if fmt.Sprint(got) != fmt.Sprint(err) {
				t.Errorf("Serve returns %v", got)
			}
		default:
			t.Error("Serve goes on")
		}
	})
}

// wrapping is a listener that wraps what it accepts.
type wrapping struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l wrapping) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		conn = l.wrap(conn)
	}
	return conn, err
}

// newWrapping has srv serve a listener in memory whose connections are wrapped.
func newWrapping(t *testing.T, srv *rpcx.Server, wrap func(net.Conn) net.Conn) *memory {
	t.Helper()
	m := newMemory()
	go srv.Serve(wrapping{m, wrap})
	t.Cleanup(func() {
		srv.Close()
		srv.Wait(context.Background())
	})
	synctest.Wait()
	return m
}

// headed is a connection that begins with a line, the address of its peer.
type headed struct {
	net.Conn
	once sync.Once
	addr net.Addr
}

type textAddr string

func (textAddr) Network() string  { return "text" }
func (a textAddr) String() string { return string(a) }

func (c *headed) read() {
	c.once.Do(func() {
		var line []byte
		for b := make([]byte, 1); ; line = append(line, b[0]) {
			if _, err := c.Conn.Read(b); err != nil {
				c.addr = c.Conn.RemoteAddr()
				return
			} else if b[0] == '\n' {
				c.addr = textAddr(line)
				return
			}
		}
	})
}

func (c *headed) RemoteAddr() net.Addr { c.read(); return c.addr }

// Connections that read their peer's address when they are first used in one way.
type (
	headedNetConn struct{ *headed }
	headedAddr    struct{ *headed }
)

func (c headedNetConn) RemoteAddr() net.Addr { return c.addr }
func (c headedNetConn) NetConn() net.Conn    { c.read(); return c.Conn }
func (c headedAddr) RemoteAddr() net.Addr    { return c.addr }

func TestSilentClientsDoNotStopTheOthers(t *testing.T) {
	for name, c := range map[string]struct {
		wrap  func(net.Conn) net.Conn
		group func(*rpcx.Session) string
	}{
		"where RemoteAddr reads":             {wrap: func(c net.Conn) net.Conn { return &headed{Conn: c} }},
		"where RemoteAddr reads, in a group": {func(c net.Conn) net.Conn { return &headed{Conn: c} }, rpcx.GroupBySubnet(24, 64)},
		"where NetConn reads":                {wrap: func(c net.Conn) net.Conn { return headedNetConn{&headed{Conn: c}} }},
		"where Limits.Group reads": {func(c net.Conn) net.Conn { return headedAddr{&headed{Conn: c}} }, func(s *rpcx.Session) string {
			s.NetConn().(headedAddr).read()
			return ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				addr := make(chan net.Addr, 1)
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), OnSession: func(s *rpcx.Session) { addr <- s.RemoteAddr() }}
				srv.Options.Logger = slog.New(log)
				srv.Options.Limits.Group = c.group
				m := newWrapping(t, srv, c.wrap)
				silent := []net.Conn{m.dial(t), m.dial(t)}
				takes(t, 0, func() {
					conn := m.dial(t)
					fmt.Fprint(conn, "192.0.2.7:1000\n")
					s := rpcx.NewSession(conn, nil)
					if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
						t.Errorf("the call: %v", err)
					}
					if a := <-addr; a == nil || a.String() != "192.0.2.7:1000" {
						t.Errorf("the address is %v", a)
					}
					s.Close()
				})
				if got := srv.Stats(); got.Handshakes != 2 {
					t.Errorf("stats are %+v", got)
				}
				time.Sleep(10*time.Second - 2)
				if isClosed(silent[0]) {
					t.Error("the connection is closed too early")
				}
				time.Sleep(time.Nanosecond) // another has passed in isClosed
				synctest.Wait()
				if !isClosed(silent[0]) || !isClosed(silent[1]) || srv.Stats().Handshakes != 0 || srv.Stats().Sessions != 0 {
					t.Errorf("silent clients are kept, stats are %+v", srv.Stats())
				}
				if got := log.attr("error"); len(got) != 2 || !strings.Contains(got[1], "Server.HandshakeTimeout") {
					t.Errorf("logged were the errors %q", got)
				}
			})
		})
	}
}

func TestMaxHandshakesIsForAddressesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxHandshakes: 2, HandshakeTimeout: -1}
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return &headed{Conn: c} })
		first, second := m.dial(t), m.dial(t)
		if !isClosed(m.dial(t)) {
			t.Error("there is a third handshake")
		}
		time.Sleep(time.Hour)
		third := m.dial(t)
		if !isClosed(first) || isClosed(second) || isClosed(third) {
			t.Error("it is not the oldest that was given up")
		}
		if got := srv.Stats(); got.Handshakes != 2 || !maps.Equal(got.Refused, map[string]uint64{"Server.MaxHandshakes": 2}) {
			t.Errorf("stats are %+v", got)
		}
		takes(t, 0, func() {
			srv.Close()
			srv.Wait(context.Background())
		})
		if !isClosed(second) || !isClosed(third) {
			t.Error("a connection outlives the server")
		}
	})
}

// What is known of a peer only after its header is asked after it.
func TestMaxGroupComesAfterTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxGroup: 1}
		srv.Options.Limits.Group = rpcx.GroupBySubnet(24, 64)
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return &headed{Conn: c} })
		connect := func(addr string) net.Conn {
			conn := m.dial(t)
			fmt.Fprintln(conn, addr)
			synctest.Wait()
			return conn
		}
		if isClosed(connect("192.0.2.7:1000")) || isClosed(connect("198.51.100.7:1000")) {
			t.Error("the first of a group is refused")
		}
		if !isClosed(connect("192.0.2.8:1000")) {
			t.Error("there is a second of a group")
		}
		if got := srv.Stats(); got.Sessions != 2 || !maps.Equal(got.Refused, map[string]uint64{"Server.MaxGroup": 1}) {
			t.Errorf("stats are %+v", got)
		}
	})
}

// A server that is full does not make handshakes for nothing.
func TestMaxSessionsComesBeforeTheHandshake(t *testing.T) {
	secure, _ := certificate(t)
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 1}
		near, far := net.Pipe()
		defer far.Close()
		srv.ServeConn(near)
		m := newSecureServer(t, srv, secure)
		if !isClosed(m.dial(t)) {
			t.Error("a handshake has begun")
		}
		if got := srv.Stats(); got.Handshakes != 0 || !maps.Equal(got.Refused, map[string]uint64{"Server.MaxSessions": 1}) {
			t.Errorf("stats are %+v", got)
		}
	})
}

// slowToClose is a connection whose Close waits.
type slowToClose struct {
	net.Conn
	closing atomic.Int32
	end     chan struct{}
}

func (c *slowToClose) Close() error {
	if c.closing.Add(1) > 1 {
		panic("closed twice")
	}
	<-c.end
	return c.Conn.Close()
}

func TestAcceptingDoesNotWaitForClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxSessions: 1, MaxHandshakes: -1}
		end := make(chan struct{})
		m := newWrapping(t, srv, func(c net.Conn) net.Conn {
			if srv.Stats().Sessions == 0 {
				return c
			}
			return &slowToClose{Conn: c, end: end}
		})
		first := m.dial(t)
		refused := m.dial(t)
		first.Close()
		synctest.Wait()
		m.dial(t)
		if got := srv.Stats(); got.Sessions != 1 || got.Refused["Server.MaxSessions"] != 1 {
			t.Errorf("stats are %+v", got)
		}
		close(end)
		synctest.Wait()
		if !isClosed(refused) {
			t.Error("what was refused is left open")
		}
	})
}

// Connections that are wrapped and do not wait for anything are no handshakes, however
// many come at once.
func TestManyWrappedConnectionsAtOnce(t *testing.T) {
	const n = 2000
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{}
		m := newMemory()
		m.conns = make(chan net.Conn, n)
		for range n {
			near, far := net.Pipe()
			t.Cleanup(func() { far.Close() })
			m.conns <- struct{ net.Conn }{near}
		}
		go srv.Serve(m)
		synctest.Wait()
		if got := srv.Stats(); got.Sessions != n || got.Refused != nil || got.Handshakes != 0 {
			t.Errorf("stats are %+v", got)
		}
		srv.Close()
		srv.Wait(context.Background())
	})
}

// Ways to wrap a connection.
type (
	wrappedValue   struct{ net.Conn }
	wrappedPointer struct {
		net.Conn
		closed atomic.Bool
	}
	netConn       interface{ net.Conn }
	wrappedHidden struct{ netConn }
	wrappedStream struct {
		forwarder
		Stream io.ReadWriteCloser
	}
	wrappedTLS struct {
		forwarder
		tls *tls.Conn
	}
	wrappedFunc struct{ forwarder }
)

// wrapCircle returns a connection that is one of its own fields.
func wrapCircle(conn net.Conn) net.Conn {
	c := &wrappedCircle{Conn: conn}
	c.self = c
	return c
}

type wrappedCircle struct {
	self *wrappedCircle
	net.Conn
}

func (c *wrappedPointer) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	return c.Conn.Close()
}

func wrapNothing(c net.Conn) net.Conn   { return c }
func wrapValue(c net.Conn) net.Conn     { return wrappedValue{c} }
func wrapPointer(c net.Conn) net.Conn   { return &wrappedPointer{Conn: c} }
func wrapHidden(c net.Conn) net.Conn    { return wrappedHidden{c} }
func wrapStream(c net.Conn) net.Conn    { return &wrappedStream{forward(c), c} }
func wrapTLS(c net.Conn) net.Conn       { return wrappedTLS{forward(c), c.(*tls.Conn)} }
func wrapFunc(c net.Conn) net.Conn      { return wrappedFunc{forward(c)} }
func (c wrappedFunc) NetConn() net.Conn { return c.conn() }
func forward(c net.Conn) forwarder      { return forwarder{func() net.Conn { return c }} }

// forwarder has the methods of a connection, and not the connection.
type forwarder struct{ conn func() net.Conn }

func (f forwarder) Read(b []byte) (int, error)         { return f.conn().Read(b) }
func (f forwarder) Write(b []byte) (int, error)        { return f.conn().Write(b) }
func (f forwarder) Close() error                       { return f.conn().Close() }
func (f forwarder) LocalAddr() net.Addr                { return f.conn().LocalAddr() }
func (f forwarder) RemoteAddr() net.Addr               { return f.conn().RemoteAddr() }
func (f forwarder) SetDeadline(t time.Time) error      { return f.conn().SetDeadline(t) }
func (f forwarder) SetReadDeadline(t time.Time) error  { return f.conn().SetReadDeadline(t) }
func (f forwarder) SetWriteDeadline(t time.Time) error { return f.conn().SetWriteDeadline(t) }

func TestTLSBehindAWrapper(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"not wrapped":                  wrapNothing,
		"in a struct":                  wrapValue,
		"in a pointer":                 wrapPointer,
		"in one in another":            func(c net.Conn) net.Conn { return wrapPointer(wrapValue(c)) },
		"in a stream":                  wrapStream,
		"in a field that is not open":  wrapHidden,
		"as a field that is not open":  wrapTLS,
		"in an open one in a closed":   func(c net.Conn) net.Conn { return wrapHidden(wrapPointer(c)) },
		"behind NetConn":               wrapFunc,
		"behind NetConn, in a struct":  func(c net.Conn) net.Conn { return wrapFunc(wrapValue(c)) },
		"in what is a field of itself": wrapCircle,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var last *tls.Conn
				begun := make(chan bool, 1)
				log := &records{}
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), MaxHandshakes: 2}
				srv.Options.Logger = slog.New(log)
				srv.OnSession = func(*rpcx.Session) { begun <- last.ConnectionState().HandshakeComplete }
				m := newWrapping(t, srv, func(c net.Conn) net.Conn {
					last = tls.Server(c, secure)
					return wrap(last)
				})
				first, second := m.dial(t), m.dial(t)
				if got := srv.Stats(); got.Handshakes != 2 || got.Sessions != 0 {
					t.Errorf("stats are %+v", got)
				}
				time.Sleep(time.Second)
				third := m.dial(t)
				if !isClosed(first) || isClosed(second) || isClosed(third) {
					t.Error("beyond MaxHandshakes it is not the oldest that was given up")
				}
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if !isClosed(second) || !isClosed(third) || srv.Stats().Handshakes != 0 {
					t.Error("silent clients are kept")
				}
				if len(begun) != 0 {
					t.Error("there is a session before the handshake")
				}
				if got := log.attr("error"); len(got) != 3 || !strings.Contains(got[0], "Server.MaxHandshakes") || !strings.Contains(got[2], "Server.HandshakeTimeout") {
					t.Errorf("logged were the errors %q", got)
				}

				s := rpcx.NewSession(tls.Client(m.dial(t), client), nil)
				if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
					t.Errorf("the call: %v", err)
				}
				if !<-begun {
					t.Error("OnSession runs before the handshake is complete")
				}
				s.Close()
				<-s.Done()
			})
		})
	}
}

// A listener for TLS may stand on one that reads headers.
func TestTLSBehindAHeader(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	synctest.Test(t, func(t *testing.T) {
		addr := make(chan string, 1)
		srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), OnSession: func(s *rpcx.Session) { addr <- s.RemoteAddr().String() }}
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return tls.Server(&headed{Conn: c}, secure) })
		silent, half := m.dial(t), m.dial(t)
		fmt.Fprint(half, "192.0.2.7:1000\n") // and no TLS
		conn := m.dial(t)
		fmt.Fprint(conn, "192.0.2.8:1000\n")
		s := rpcx.NewSession(tls.Client(conn, client), nil)
		if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
			t.Errorf("the call: %v", err)
		}
		if a := <-addr; a != "192.0.2.8:1000" {
			t.Errorf("the address is %s", a)
		}
		s.Close()
		<-s.Done()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !isClosed(silent) || !isClosed(half) || srv.Stats().Handshakes != 0 {
			t.Error("silent clients are kept")
		}
	})
}

func TestServeConnMakesTheHandshakeFirst(t *testing.T) {
	secure, client := certificate(t)
	client.ServerName = "example.com"
	for name, wrap := range map[string]func(net.Conn) net.Conn{"TLS": wrapNothing, "wrapped": wrapPointer} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var begun atomic.Int32
				srv := &rpcx.Server{Options: *handling(methods{"reply": reply}), MaxHandshakes: 1}
				srv.OnSession = func(*rpcx.Session) { begun.Add(1) }
				serve := func(handshake bool) (*rpcx.Session, net.Conn) {
					near, far := net.Pipe()
					t.Cleanup(func() { far.Close() })
					conn := tls.Server(near, secure)
					peer := tls.Client(far, client)
					if handshake {
						go peer.Handshake()
						if err := conn.Handshake(); err != nil {
							t.Fatal(err)
						}
					}
					s := srv.ServeConn(wrap(conn))
					synctest.Wait()
					return s, peer
				}
				silent, _ := serve(false)
				if got := srv.Stats(); begun.Load() != 0 || got.Handshakes != 1 || got.Sessions != 1 {
					t.Errorf("begun are %d, stats are %+v", begun.Load(), got)
				}
				if s, _ := serve(false); s.Err() == nil {
					t.Error("there is a second handshake")
				}
				made, peer := serve(true) // by the caller, and so it does not count
				s := rpcx.NewSession(peer, nil)
				if err := s.Call(t.Context(), "reply", nil, nil); err != nil || begun.Load() != 1 {
					t.Errorf("the call: %v, begun are %d", err, begun.Load())
				}
				s.Close()
				<-made.Done()

				takes(t, 10*time.Second, func() { <-silent.Done() })
				if err := silent.Err(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "Server.HandshakeTimeout") {
					t.Errorf("the silent one's session ended with %v", err)
				}
				last, peer := serve(false)
				s = rpcx.NewSession(peer, nil)
				if err := s.Call(t.Context(), "reply", nil, nil); err != nil || begun.Load() != 2 {
					t.Errorf("the call: %v, begun are %d", err, begun.Load())
				}
				s.Close()
				<-last.Done()
				srv.Wait(context.Background())
			})
		})
	}
}

// Whose address is not known yet counts with others of that kind, and afterwards with
// those of the address.
func TestHandshakesBeforeTheAddressIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &rpcx.Server{MaxHandshakes: 3, OnSession: func(s *rpcx.Session) {}}
		m := newWrapping(t, srv, func(c net.Conn) net.Conn { return &headed{Conn: c} })
		silent := []net.Conn{m.dial(t), m.dial(t), m.dial(t)}
		time.Sleep(250 * time.Millisecond)
		conn := m.dial(t)
		conn.Write([]byte("192.0.2.7:1000\n"))
		synctest.Wait()
		if got := srv.Stats(); got.Sessions != 1 || got.Handshakes != 2 {
			t.Errorf("stats are %+v", got)
		}
		if !isClosed(silent[0]) || isClosed(silent[1]) || isClosed(conn) {
			t.Error("it is not the oldest that has made way")
		}
	})
}
