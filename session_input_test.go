package rpcx_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
	"example.com/rpcx/internal/interoptest"
)

func init() {
	for name, takes := range map[string]time.Duration{"server": 0, "slow server": 100 * time.Millisecond} {
		programs[name] = func() {
			s := rpcx.NewSession(rpcx.Stdio(), &rpcx.Options{Handler: slow(takes), Role: rpcx.RoleServer})
			<-s.Done()
			if s.Err() != io.EOF {
				fmt.Fprintln(os.Stderr, s.Err())
				os.Exit(1)
			}
		}
	}
}

// allAnswered says that output is one result for each of n requests, and nothing else.
func allAnswered(t *testing.T, n int, output []byte) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(string(output), "\n"), "\n")
	slices.Sort(lines)
	var want []string
	for i := range n {
		want = append(want, answered("true", i))
	}
	slices.Sort(want)
	if !slices.Equal(lines, want) {
		t.Errorf("%d lines are the replies to %d requests; the first is %.200s", len(lines), n, lines[0])
	}
}

// half is a connection of which one half can be closed.
type half interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// halves is a connection of two halves.
type halves struct {
	io.ReadCloser
	w io.WriteCloser
}

func (h halves) Write(p []byte) (int, error) { return h.w.Write(p) }
func (h halves) CloseWrite() error           { return h.w.Close() }
func (h halves) Close() error                { return errors.Join(h.w.Close(), h.ReadCloser.Close()) }

// newHalves returns both ends of a connection in memory.
func newHalves() (near io.ReadWriteCloser, far half) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return rpcx.Join(r1, w2), halves{r2, w1}
}

// bareTLS is a TLS connection that ends without close_notify.
type bareTLS struct{ *tls.Conn }

func (c bareTLS) CloseWrite() error { return c.NetConn().(*net.TCPConn).CloseWrite() }

func TestRequestsBeforeTheEndOfInputAreAnswered(t *testing.T) {
	for name, dial := range map[string]func(t *testing.T) (io.ReadWriteCloser, half){
		"TCP": func(t *testing.T) (io.ReadWriteCloser, half) {
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			return near, far.(half)
		},
		"unix": func(t *testing.T) (io.ReadWriteCloser, half) {
			near, far := socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
			return near, far.(half)
		},
		"TLS": func(t *testing.T) (io.ReadWriteCloser, half) { return tlsPair(t) },
		"TLS without close_notify": func(t *testing.T) (io.ReadWriteCloser, half) {
			near, far := tlsPair(t)
			return near, bareTLS{far}
		},
		"pipes": func(*testing.T) (io.ReadWriteCloser, half) { return newHalves() },
	} {
		for _, takes := range []time.Duration{0, 100 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, handlers of %v", name, takes), func(t *testing.T) {
				t.Parallel()
				near, far := dial(t)
				defer far.Close()
				s := rpcx.NewSession(near, &rpcx.Options{Handler: slow(takes), Role: rpcx.RoleServer})
				go func() {
					far.Write(requests(200, "x"))
					far.CloseWrite()
				}()
				output, err := io.ReadAll(far)
				if err != nil {
					t.Error(err)
				}
				allAnswered(t, 200, output)
				<-s.Done()
				if s.Err() != io.EOF {
					t.Errorf("it ended with %v", s.Err())
				}
			})
		}
	}
}

// TestProgramAnswersWhatIsPipedIn has programs of this library as people use them in a
// shell: printf … | server, and server < requests > replies.
func TestProgramAnswersWhatIsPipedIn(t *testing.T) {
	for _, name := range []string{"server", "slow server"} {
		input := requests(100, "x")
		t.Run("pipes of a "+name, func(t *testing.T) {
			t.Parallel()
			cmd := program(t, name)
			cmd.Stdin = bytes.NewReader(input)
			output, err := cmd.Output()
			if err != nil {
				t.Errorf("the program: %v", err)
			}
			allAnswered(t, 100, output)
		})
		t.Run("files of a "+name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			in, out := filepath.Join(dir, "requests"), filepath.Join(dir, "replies")
			if err := os.WriteFile(in, bytes.TrimSuffix(input, []byte("\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := program(t, name)
			stdin, err := os.Open(in)
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			stdout, err := os.Create(out)
			if err != nil {
				t.Fatal(err)
			}
			defer stdout.Close()
			cmd.Stdin, cmd.Stdout = stdin, stdout
			if err := cmd.Run(); err != nil {
				t.Errorf("the program: %v", err)
			}
			output, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			allAnswered(t, 100, output)
		})
	}
}

func TestInteropNetcatAndSocat(t *testing.T) {
	for _, c := range []struct {
		program, install string
		args             func(network, addr string) []string
	}{
		{"nc", "apt-get install netcat-openbsd", func(network, addr string) []string {
			if network == "unix" {
				return []string{"-N", "-U", addr}
			}
			host, port, _ := net.SplitHostPort(addr)
			return []string{"-N", host, port}
		}},
		{"socat", "apt-get install socat", func(network, addr string) []string {
			if network == "unix" {
				return []string{"-t", "10", "-", "UNIX-CONNECT:" + addr}
			}
			return []string{"-t", "10", "-", "TCP:" + addr}
		}},
	} {
		t.Run(c.program, func(t *testing.T) {
			if _, err := exec.LookPath(c.program); err != nil {
				interoptest.Missing(t, err, c.install)
			}
			for _, network := range []string{"tcp", "unix"} {
				addr := "127.0.0.1:0"
				if network == "unix" {
					addr = filepath.Join(t.TempDir(), "s")
				}
				l, err := net.Listen(network, addr)
				if err != nil {
					t.Fatal(err)
				}
				srv := &rpcx.Server{Options: rpcx.Options{Handler: slow(20 * time.Millisecond)}}
				go srv.Serve(l)
				cmd := exec.Command(c.program, c.args(network, l.Addr().String())...)
				cmd.Stdin = bytes.NewReader(requests(200, "x"))
				output, err := cmd.Output()
				if err != nil {
					t.Errorf("%s: %v", network, err)
				}
				allAnswered(t, 200, output)
				srv.Close()
				srv.Wait(context.Background())
			}
		})
	}
}

// newHalfWire returns a session over two pipes, and the wire whose writing half can
// be closed.
func newHalfWire(t *testing.T, opts *rpcx.Options) (*rpcx.Session, half, *wire) {
	near, far := newHalves()
	s := rpcx.NewSession(near, opts)
	w := &wire{Conn: pipeConn{far}, t: t}
	t.Cleanup(func() {
		s.Close()
		far.Close()
		<-s.Done()
	})
	w.listen()
	return s, far, w
}

// pipeConn makes a connection of halves a net.Conn, of which nothing else is used.
type pipeConn struct{ half }

func (pipeConn) LocalAddr() net.Addr              { return nil }
func (pipeConn) RemoteAddr() net.Addr             { return nil }
func (pipeConn) SetDeadline(time.Time) error      { return nil }
func (pipeConn) SetReadDeadline(time.Time) error  { return nil }
func (pipeConn) SetWriteDeadline(time.Time) error { return nil }

func TestLastLineNeedsNoNewline(t *testing.T) {
	for _, c := range []struct {
		name, input string
		want        []string
		err         error
	}{
		{"a request", ask("reply", 1), []string{answered("null", 1)}, io.EOF},
		{"one with white space behind it", ask("reply", 1) + " \r", []string{answered("null", 1)}, io.EOF},
		{"a batch", "[" + ask("reply", 1) + "]", []string{"[" + answered("null", 1) + "]"}, io.EOF},
		{"a line before", ask("reply", 1) + "\n" + ask("reply", 2), []string{answered("null", 1), answered("null", 2)}, io.EOF},
		{"nothing", "", nil, io.EOF},
		{"white space only", ask("reply", 1) + "\n \t\r", []string{answered("null", 1)}, io.EOF},
		{"no request", `{"jsonrpc":"2.0","id":1}`, []string{`{"jsonrpc":"2.0","error":{"code":-32600,"message":"method must be a string"},"id":1}`}, io.EOF},
		{"a request that is cut off", ask("reply", 1) + "\n" + ask("reply", 2)[:20], []string{answered("null", 1)}, io.ErrUnexpectedEOF},
		{"a line of rubbish", "rubbish\n", []string{`{"jsonrpc":"2.0","error":{"code":-32700,"message":"invalid JSON"},"id":null}`}, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"reply": reply})
				opts.Role, opts.Limits = rpcx.RoleServer, rpcx.Limits{CostPerByte: -1, Concurrency: 1}
				s, far, w := newHalfWire(t, opts)
				far.Write([]byte(c.input))
				far.CloseWrite()
				if c.err == io.EOF {
					w.expect(c.want...)
				} else { // the end does not wait for handlers
					synctest.Wait()
				}
				if err := ended(t, s); err != c.err {
					t.Errorf("it ended with %v", err)
				}
				if strings.Contains(c.name, "cut off") && (s.Stats().Errors != 0 || s.Cost() != 0) {
					t.Errorf("%d errors at a cost of %v", s.Stats().Errors, s.Cost())
				}
			})
		})
	}
}

// A reader may return the end of the input with the last bytes of it.
func TestLastLineThatComesWithTheEndIsWhole(t *testing.T) {
	var out bytes.Buffer
	s := rpcx.NewSession(rpcx.Join(&atOnce{strings.NewReader("rubbish\n")}, &out), nil)
	<-s.Done()
	if s.Err() != io.EOF || !strings.Contains(out.String(), "-32700") {
		t.Errorf("it ended with %v, and wrote %q", s.Err(), out.String())
	}
}

// atOnce returns io.EOF with the last bytes.
type atOnce struct{ *strings.Reader }

func (r *atOnce) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.Len() == 0 {
		err = io.EOF
	}
	return n, err
}

func TestCallsEndWithTheInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := make(chan error, 1)
		opts := handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			time.Sleep(time.Second)
			back <- req.Session().Call(ctx, "back", nil, nil)
			return nil, req.Session().Notify(ctx, "note", nil)
		}})
		s, far, w := newHalfWire(t, opts)
		pending := s.Go(t.Context(), "pending", nil)
		w.say(ask("m", 1))
		w.expect(`{"jsonrpc":"2.0","method":"pending","id":0}`)
		takes(t, 0, func() {
			far.CloseWrite()
			lost(t, pending.Wait(t.Context(), nil), true, io.EOF)
		})
		refused := func(err error) {
			t.Helper()
			matches(t, err, rpcx.ErrClosed)
			if err == nil || !strings.Contains(err.Error(), "the peer has finished sending") {
				t.Errorf("the error is %v", err)
			}
		}
		refused(s.Call(t.Context(), "late", nil, nil))
		refused(s.Go(t.Context(), "late", nil).Err())
		var b rpcx.Batch
		b.Call("late", nil, nil)
		refused(s.SendBatch(t.Context(), &b))
		if err := s.Notify(t.Context(), "note", nil); err != nil {
			t.Error(err)
		}
		w.expect(`{"jsonrpc":"2.0","method":"note"}`)
		live(t, s)
		time.Sleep(time.Second)
		refused(<-back)
		w.expect(`{"jsonrpc":"2.0","method":"note"}`, answered("null", 1))
		if err := ended(t, s); err != io.EOF {
			t.Errorf("it ended with %v", err)
		}
	})
}

// What waits for a slot or for room when the input ends fails then.
func TestCallsThatWaitEndWithTheInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, far, w := newHalfWire(t, &rpcx.Options{Handler: methods{"hang": hang}, Limits: rpcx.Limits{Outgoing: 1}})
		w.say(ask("hang", 1)) // keeps the session
		s.Go(t.Context(), "m", nil)
		errs := make(chan error, 3)
		for range 3 {
			go func() { errs <- s.Call(t.Context(), "m", nil, nil) }()
		}
		synctest.Wait()
		takes(t, 0, func() {
			far.CloseWrite()
			for range 3 {
				matches(t, <-errs, rpcx.ErrClosed)
			}
		})
	})
}

func TestHalfCloseLimit(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits rpcx.Limits
		want   time.Duration
		says   int // how many replies there are
	}{
		{"by default, as long as a request may take", rpcx.Limits{}, 30 * time.Second, 1},
		{"which may be set", rpcx.Limits{ProcessingTimeout: 7 * time.Second}, 7 * time.Second, 1},
		{"as long as Limits say", rpcx.Limits{HalfClose: 3 * time.Second}, 3 * time.Second, 0},
		{"not at all if it is off", rpcx.Limits{HalfClose: -1}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				causes := make(chan error, 1)
				opts := handling(methods{"hang": func(ctx context.Context, _ *rpcx.Request) (any, error) {
					<-ctx.Done()
					causes <- context.Cause(ctx)
					return nil, nil
				}})
				opts.Limits = c.limits
				s, far, w := newHalfWire(t, opts)
				w.say(ask("hang", 1))
				synctest.Wait()
				takes(t, c.want, func() {
					far.CloseWrite()
					<-s.Done()
				})
				if lines := w.heard(); len(lines) != c.says || s.Err() != io.EOF {
					t.Errorf("heard %q, and it ended with %v", lines, s.Err())
				}
				if cause := <-causes; c.says == 0 && cause != io.EOF {
					t.Errorf("the handler's context ended with %v", cause)
				}
			})
		})
	}
}

// A handler that does not return when its time is over holds the session up for a second.
func TestHandlersThatDoNotReturnHoldUpASessionWithoutInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		s, far, w := newHalfWire(t, handling(open))
		w.say(ask("m", 1))
		far.CloseWrite()
		time.Sleep(30 * time.Second)
		w.expect(timedOut + "1}")
		live(t, s)
		time.Sleep(time.Second)
		if !w.hungUp() {
			t.Error("the connection is open")
		}
		close(open)
		<-s.Done()
	})
}

// A connection that has no halves ends at once, as before.
func TestConnectionsWithoutHalvesEndAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, handling(methods{"hang": hang}))
		w.say(ask("hang", 1))
		synctest.Wait()
		takes(t, 0, func() { w.Close(); <-s.Done() })
	})
}

// tcpMessages is a message connection with all methods of the TCP connection below.
type tcpMessages struct {
	*net.TCPConn
	lines *bufio.Reader
}

func (c tcpMessages) ReadMessage() ([]byte, error) { return c.lines.ReadBytes('\n') }

func (c tcpMessages) WriteMessages(msgs [][]byte) error {
	for _, msg := range msgs {
		if _, err := c.Write(append(msg, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// Message connections have no halves, whatever methods they have.
func TestMessageConnectionsEndAtOnce(t *testing.T) {
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	opts := handling(methods{"hang": hang})
	opts.Limits.HalfClose = time.Hour
	s := rpcx.NewMessageSession(tcpMessages{near.(*net.TCPConn), bufio.NewReader(near)}, opts)
	io.WriteString(far, ask("hang", 1)+"\n")
	if err := far.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
		s.Close()
	}
}

func TestNothingIsAskedOfAPeerThatHasFinishedSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(slow(20 * time.Second))
		opts.Limits = rpcx.Limits{IdleTimeout: time.Second, KeepAlive: time.Second, KeepAliveMethod: "alive"}
		s, far, w := newHalfWire(t, opts)
		w.say(ask("m", 1))
		far.CloseWrite()
		takes(t, 20*time.Second, func() { <-s.Done() })
		w.expect(answered("true", 1))
	})
}

func TestShutdownAndCloseAfterTheEndOfInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(slow(5 * time.Second))
		opts.Limits.Concurrency = 1
		s, far, w := newHalfWire(t, opts)
		w.say(ask("m", 1), ask("m", 2))
		far.CloseWrite()
		time.Sleep(time.Second)
		takes(t, 4*time.Second, func() {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
		w.expect(shuttingDown+"2}", answered("true", 1))
	})
	synctest.Test(t, func(t *testing.T) {
		s, far, w := newHalfWire(t, handling(methods{"hang": hang}))
		w.say(ask("hang", 1))
		far.CloseWrite()
		synctest.Wait()
		takes(t, 0, func() { s.Close(); <-s.Done() })
		if s.Err() != rpcx.ErrClosed {
			t.Errorf("it ended with %v", s.Err())
		}
	})
}

func TestSessionWithoutInputCountsInMaxSessions(t *testing.T) {
	open := make(gate)
	sessions := make(chan *rpcx.Session, 2)
	srv := &rpcx.Server{MaxSessions: 1, Options: rpcx.Options{Handler: open}, OnSession: func(s *rpcx.Session) { sessions <- s }}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(l)
	defer func() { srv.Close(); srv.Wait(context.Background()) }()
	dial := func() *net.TCPConn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn.(*net.TCPConn)
	}
	first := dial()
	first.Write([]byte(ask("m", 1) + "\n"))
	s := <-sessions
	first.CloseWrite()
	matches(t, s.Call(t.Context(), "m", nil, nil), rpcx.ErrConnectionLost) // when the input has ended
	if n, err := dial().Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("there is a second session")
	}
	close(open)
	output, err := io.ReadAll(first)
	if err != nil || !strings.HasSuffix(string(output), answered(`"through"`, 1)+"\n") {
		t.Errorf("heard %q, %v", output, err)
	}
	<-s.Done()
}

// Where the peer has closed the whole connection, that is seen at once (unix), or at the
// first write.
func TestFullCloseThatLooksLikeAHalfClose(t *testing.T) {
	for _, c := range []struct {
		name, network string
		takes         time.Duration // of a handler; the requests together take a minute
		limits        rpcx.Limits
		most          time.Duration
	}{
		{"unix", "unix", time.Minute, rpcx.Limits{HalfClose: time.Minute}, 5 * time.Second},
		{"TCP, after the first replies", "tcp", 20 * time.Millisecond, rpcx.Limits{HalfClose: time.Minute}, 10 * time.Second},
		{"TCP, after Limits.HalfClose", "tcp", time.Minute, rpcx.Limits{HalfClose: 500 * time.Millisecond}, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr := "127.0.0.1:0"
			if c.network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			near, far := socketPair(t, c.network, addr)
			opts := handling(rpcx.HandlerFunc(func(ctx context.Context, _ *rpcx.Request) (any, error) {
				select {
				case <-ctx.Done():
				case <-time.After(c.takes):
				}
				return nil, nil
			}))
			opts.Limits = c.limits
			opts.Limits.Concurrency, opts.Limits.Queue = 1, -1
			opts.Cancellation = rpcx.LSPCancellation // reading does not pause before the end
			s := rpcx.NewSession(near, opts)
			far.Write(requests(60, "x"))
			far.Close()
			start := time.Now()
			select {
			case <-s.Done():
			case <-time.After(30 * time.Second):
				t.Fatal("it does not end")
			}
			if took := time.Since(start); took > c.most {
				t.Errorf("it took %v", took)
			}
			if !errors.Is(s.Err(), io.EOF) && !strings.Contains(s.Err().Error(), "reset") {
				t.Errorf("it ended with %v", s.Err())
			}
		})
	}
}

// notes returns n notifications, each a line.
func notes(n int) []byte {
	return []byte(strings.Repeat(`{"jsonrpc":"2.0","method":"note"}`+"\n", n))
}

// A peer that notifies and closes is heard, whatever OnSession does meanwhile.
func TestNotificationsBeforeTheCloseAreHandled(t *testing.T) {
	transports := map[string]func(t *testing.T) (near, far io.ReadWriteCloser){
		"TCP": func(t *testing.T) (near, far io.ReadWriteCloser) { return socketPair(t, "tcp", "127.0.0.1:0") },
		"unix": func(t *testing.T) (near, far io.ReadWriteCloser) {
			return socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
		},
		"TLS":       func(t *testing.T) (near, far io.ReadWriteCloser) { return tlsPair(t) },
		"pipe":      func(*testing.T) (near, far io.ReadWriteCloser) { return net.Pipe() },
		"two pipes": func(*testing.T) (near, far io.ReadWriteCloser) { return newHalves() },
	}
	for transport, pair := range transports {
		for name, onSession := range map[string]func(s *rpcx.Session, closed <-chan struct{}){
			"returns at once":               func(*rpcx.Session, <-chan struct{}) {},
			"returns when the peer is gone": func(s *rpcx.Session, closed <-chan struct{}) { <-closed },
			"waits for a reply": func(s *rpcx.Session, _ <-chan struct{}) {
				err := s.Call(context.Background(), "m", nil, nil)
				if !errors.Is(err, rpcx.ErrConnectionLost) || s.Err() == nil {
					t.Errorf("the call fails with %v, and Err says %v", err, s.Err())
				}
			},
			"speaks to who is gone": func(s *rpcx.Session, closed <-chan struct{}) {
				<-closed
				for s.Notify(context.Background(), "greeting", rpcx.Args{strings.Repeat("x", 1000)}) == nil {
				}
			},
		} {
			t.Run(transport+": OnSession "+name, func(t *testing.T) {
				t.Parallel()
				for range 20 {
					var handled atomic.Int32
					closed := make(chan struct{})
					srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { onSession(s, closed) }}
					srv.Options.Handler = rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
						handled.Add(1)
						return nil, nil
					})
					near, far := pair(t)
					go func() {
						defer close(closed)
						defer far.Close()
						_, _ = far.Write(notes(50))
					}()
					s := srv.ServeConn(near)
					srv.Wait(t.Context())
					if n := handled.Load(); n != 50 || s.Stats().NotificationsDropped != 0 {
						t.Fatalf("%d of 50 were handled, and %d dropped; it ended with %v", n, s.Stats().NotificationsDropped, s.Err())
					}
				}
			})
		}
	}
}

// What waits for OnSession longer than it may is dropped, and then nothing holds the
// session up.
func TestNotificationsThatOnSessionHoldsTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		srv := &rpcx.Server{OnSession: func(s *rpcx.Session) { <-s.Done() }}
		srv.Options = rpcx.Options{Logger: slog.New(log), Limits: rpcx.Limits{ProcessingTimeout: time.Minute}}
		near, far := net.Pipe()
		s := srv.ServeConn(near)
		far.Write(notes(3))
		far.Close()
		takes(t, time.Minute, func() { srv.Wait(t.Context()) })
		if n := s.Stats().NotificationsDropped; n != 3 {
			t.Errorf("%d were dropped", n)
		}
		if got := log.attr("method"); !slices.Equal(got, []string{"note", "note", "note"}) {
			t.Errorf("the log tells of %q", got)
		}
	})
}

// cutOff is a connection whose writes fail from some moment on.
type cutOff struct {
	net.Conn
	fails atomic.Bool
}

func (c *cutOff) Write(p []byte) (int, error) {
	if c.fails.Load() {
		return 0, errors.New("the cable is cut")
	}
	return c.Conn.Write(p)
}

// Notifications that wait are counted and logged, whatever ends their session.
func TestDroppedNotificationsAreCounted(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, srv *rpcx.Server, s *rpcx.Session, c *cutOff, far net.Conn){
		"Close":              func(_ *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *cutOff, _ net.Conn) { s.Close() },
		"the server's Close": func(_ *testing.T, srv *rpcx.Server, _ *rpcx.Session, _ *cutOff, _ net.Conn) { srv.Close() },
		"Shutdown": func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *cutOff, _ net.Conn) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			s.Shutdown(ctx)
		},
		"a broken connection": func(t *testing.T, _ *rpcx.Server, s *rpcx.Session, c *cutOff, _ net.Conn) {
			c.fails.Store(true)
			s.Notify(t.Context(), "note", nil)
		},
		"bad framing": func(_ *testing.T, _ *rpcx.Server, _ *rpcx.Session, _ *cutOff, far net.Conn) {
			far.Write([]byte("Content-Length: none\r\n\r\n"))
		},
		"a handler that finds it too costly": func(_ *testing.T, _ *rpcx.Server, s *rpcx.Session, _ *cutOff, _ net.Conn) {
			s.BumpCost(1e9)
			s.UpdateCost()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &records{}
				srv := &rpcx.Server{Options: rpcx.Options{
					Handler: methods{"hang": hang}, Framer: rpcx.HeaderFramer{}, Logger: slog.New(log),
					Limits: rpcx.Limits{Concurrency: 1},
				}}
				near, far := net.Pipe()
				c := &cutOff{Conn: near}
				s := srv.ServeConn(c)
				go io.Copy(io.Discard, far)
				note := `{"jsonrpc":"2.0","method":"note"}`
				for _, msg := range []string{`{"jsonrpc":"2.0","method":"hang","id":0}`, note, "[" + note + "," + note + "," + ask("m", 1) + "]", note} {
					fmt.Fprintf(far, "Content-Length: %d\r\n\r\n%s", len(msg), msg)
				}
				synctest.Wait()
				end(t, srv, s, c, far)
				<-s.Done()
				if n := s.Stats().NotificationsDropped; n != 4 {
					t.Errorf("%d were dropped, want 4", n)
				}
				if got := log.take(); !slices.ContainsFunc(got, func(r string) bool { return strings.Contains(r, "dropped") || strings.Contains(r, "refused") }) {
					t.Errorf("the log has %q", got)
				}
				far.Close()
				srv.Close()
				srv.Wait(t.Context())
			})
		})
	}
}

// Whoever learns of the end can ask for its reason, and finds the server without the
// session.
func TestEndIsKnownToWhoLearnsOfIt(t *testing.T) {
	for name, end := range map[string]func(s *rpcx.Session, far net.Conn){
		"Close":             func(s *rpcx.Session, _ net.Conn) { s.Close() },
		"the peer":          func(_ *rpcx.Session, far net.Conn) { far.Close() },
		"the peer, by half": func(_ *rpcx.Session, far net.Conn) { far.(*net.TCPConn).CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := socketPair(t, "tcp", "127.0.0.1:0")
			srv := &rpcx.Server{}
			s := srv.ServeConn(near)
			type seen struct {
				err  error
				live int
			}
			called := make(chan seen, 1)
			s.OnClose(func(err error) {
				live := 0
				for range srv.Sessions() {
					live++
				}
				if s.Err() != err {
					err = fmt.Errorf("OnClose is given %v, Err says %w", err, s.Err())
				}
				called <- seen{err, live + srv.Stats().Sessions}
			})
			if err := s.Err(); err != nil {
				t.Errorf("while it is live Err says %v", err)
			}
			f := s.Go(t.Context(), "m", nil)
			errs := make(chan error, 1)
			f.OnDone(func(*rpcx.Future) { errs <- s.Err() })
			end(s, far)
			if err := <-errs; err == nil {
				t.Errorf("the call failed with %v, and Err says nothing", f.Err())
			}
			if got := <-called; got.err == nil || strings.Contains(got.err.Error(), "is given") || got.live != 0 {
				t.Errorf("OnClose saw %v and %d sessions", got.err, got.live)
			}
			srv.Wait(t.Context())
		})
	}
}

// lost says that err is that of a call whose connection was lost, for one of
// these reasons.
func lost(t *testing.T, err error, written bool, reasons ...error) {
	t.Helper()
	var lost *rpcx.ConnectionError
	if !errors.As(err, &lost) {
		t.Fatalf("the error is %v, want a *ConnectionError", err)
	}
	if lost.Written != written {
		t.Errorf("the request is said to be written: %v, want %v", lost.Written, written)
	}
	matches(t, err, rpcx.ErrConnectionLost)
	matchesNot(t, err, context.Canceled, context.DeadlineExceeded)
	if !slices.ContainsFunc(reasons, func(reason error) bool { return errors.Is(err, reason) }) {
		t.Errorf("the error is %v, which matches none of %v", err, reasons)
	}
}

// Which of the two is seen first, when the peer closes a net.Pipe, is a matter of chance.
var hungUp = []error{io.EOF, io.ErrClosedPipe}

func TestPeerThatHangsUpFailsTheCallsThatItRead(t *testing.T) {
	for name, call := range map[string]func(s *rpcx.Session) error{
		"Call": func(s *rpcx.Session) error { return s.Call(context.Background(), "m", nil, nil) },
		"Call with a context that can end": func(s *rpcx.Session) error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			return s.Call(ctx, "m", nil, nil)
		},
		"Go": func(s *rpcx.Session) error {
			return s.Go(context.Background(), "m", nil).Wait(context.Background(), nil)
		},
		"SendBatch": func(s *rpcx.Session) error {
			var b rpcx.Batch
			b.Call("m", nil, nil)
			return s.SendBatch(context.Background(), &b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 200 { // the writer and the reader of the session must not race
				synctest.Test(t, func(t *testing.T) {
					s, w := newDeafWire(t, nil)
					go func() {
						buf := make([]byte, 1000)
						w.Read(buf) // the whole request
						w.Close()
					}()
					lost(t, call(s), true, io.EOF)
					if err := ended(t, s); err != io.EOF {
						t.Errorf("it ended with %v", err)
					}
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}

func TestRequestsThatWereNotWrittenAreSaidNotToBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, nil)
		first := s.Go(t.Context(), "first", nil)
		synctest.Wait() // the writer is in a write that nobody reads
		second := s.Go(t.Context(), "second", nil)
		var b rpcx.Batch
		third := b.Call("third", nil, nil)
		s.GoBatch(t.Context(), &b)
		w.Close()
		synctest.Wait()
		lost(t, first.Err(), false, hungUp...)
		lost(t, second.Err(), false, hungUp...)
		lost(t, third.Err(), false, hungUp...)
		matches(t, s.Call(t.Context(), "m", nil, nil), rpcx.ErrClosed, s.Err())
	})
}

// TestPartOfAWriteIsKnown: a write that fails in the middle has delivered what
// lies before, and those requests may have been carried out.
func TestPartOfAWriteIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newDeafWire(t, nil)
		s.Notify(t.Context(), "hold the writer up", nil)
		synctest.Wait()
		first, second := s.Go(t.Context(), "first", nil), s.Go(t.Context(), "second", nil)
		toRead := len(`{"jsonrpc":"2.0","method":"hold the writer up"}` + "\n" + `{"jsonrpc":"2.0","method":"first","id":0}` + "\n" + `{"json`)
		if _, err := io.ReadFull(w, make([]byte, toRead)); err != nil {
			t.Fatal(err)
		}
		w.Close()
		synctest.Wait()
		lost(t, first.Err(), true, hungUp...)
		lost(t, second.Err(), false, hungUp...)
	})
}

// deafConn is a connection whose peer says nothing more, but may listen.
type deafConn struct {
	net.Conn
	eof chan struct{}
}

func (c deafConn) Read([]byte) (int, error) {
	<-c.eof
	return 0, io.EOF
}

// TestPeerThatListensOnMayCarryOutWhatIsWrittenYet: the peer has closed its half
// of the connection, and is still given what was queued.
func TestPeerThatListensOnMayCarryOutWhatIsWrittenYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conn := deafConn{near, make(chan struct{})}
		s := rpcx.NewSession(conn, nil)
		first := s.Go(t.Context(), "first", nil)
		synctest.Wait() // it is being written
		second, third := s.Go(t.Context(), "second", nil), s.Go(t.Context(), "third", nil)
		close(conn.eof)
		time.Sleep(time.Second / 2)
		toRead := len(`{"jsonrpc":"2.0","method":"first","id":0}` + "\n" + `{"jsonrpc":"2.0","method":"second","id":1}` + "\n")
		if _, err := io.ReadFull(far, make([]byte, toRead)); err != nil {
			t.Fatal(err)
		}
		takes(t, time.Second/2, func() { <-s.Done() })
		lost(t, first.Err(), true, io.EOF)
		lost(t, second.Err(), true, io.EOF)
		lost(t, third.Err(), false, io.EOF)
		if s.Err() != io.EOF {
			t.Errorf("it ended with %v", s.Err())
		}
	})
}

// deafHalfConn is a deafConn with halves.
type deafHalfConn struct{ deafConn }

func (deafHalfConn) CloseWrite() error { return nil }

// TestUnwrittenCallsEndWithTheirWrites: after the peer has finished sending, the fate of a
// queued request is known only when its write has ended.
func TestUnwrittenCallsEndWithTheirWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conn := deafHalfConn{deafConn{near, make(chan struct{})}}
		s := rpcx.NewSession(conn, nil)
		first := s.Go(t.Context(), "first", nil)
		synctest.Wait() // the writer is in a write
		second := s.Go(t.Context(), "second", nil)
		var b rpcx.Batch
		third := b.Call("third", nil, nil)
		whole := s.GoBatch(t.Context(), &b)
		close(conn.eof)
		synctest.Wait()
		if first.Err() != nil || second.Err() != nil || third.Err() != nil || whole.Err() != nil {
			t.Errorf("before their writes end, the calls have ended with %v, %v, %v, %v", first.Err(), second.Err(), third.Err(), whole.Err())
		}
		refused := s.Go(t.Context(), "fourth", nil)
		matches(t, refused.Err(), rpcx.ErrClosed)
		toRead := len(`{"jsonrpc":"2.0","method":"first","id":0}` + "\n" + `{"jsonrpc":"2.0","method":"second","id":1}` + "\n")
		if _, err := io.ReadFull(far, make([]byte, toRead)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		lost(t, first.Err(), true, io.EOF)
		if second.Err() != nil {
			t.Errorf("during its write, the second call has ended with %v", second.Err())
		}
		far.Close()
		<-s.Done()
		lost(t, second.Err(), true, io.EOF)
		lost(t, third.Err(), false, io.EOF)
	})
}

// TestCallWithoutItsLastByteIsWritten: a peer that reads lines takes a last line without its
// end.
func TestCallWithoutItsLastByteIsWritten(t *testing.T) {
	request := len(`{"jsonrpc":"2.0","method":"m","id":0}` + "\n")
	for missing, written := range map[int]bool{0: true, 1: true, 2: false} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s := rpcx.NewSession(near, nil)
			f := s.Go(t.Context(), "m", nil)
			if _, err := io.ReadFull(far, make([]byte, request-missing)); err != nil {
				t.Fatal(err)
			}
			far.Close()
			<-s.Done()
			lost(t, f.Err(), written, io.EOF)
		})
	}
}

// brokenConn is a connection whose Write fails from some time on.
type brokenConn struct {
	net.Conn
	write chan error
}

func (c *brokenConn) Write(p []byte) (int, error) {
	select {
	case err := <-c.write:
		return 0, err
	default:
		return c.Conn.Write(p)
	}
}

func TestTheFirstCauseOfAnEndWins(t *testing.T) {
	broken := errors.New("the cable is broken")
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		conn := &brokenConn{Conn: near, write: make(chan error, 1)}
		s := rpcx.NewSession(conn, nil)
		conn.write <- broken
		lost(t, s.Call(t.Context(), "m", nil, nil), false, broken)
		if err := ended(t, s); err != broken {
			t.Errorf("it ended with %v", err)
		}
		s.Close()
		far.Close()
		if s.Err() != broken {
			t.Errorf("later it ended with %v", s.Err())
		}
		err := s.Call(t.Context(), "m", nil, nil)
		matches(t, err, rpcx.ErrClosed, broken)
		if strings.Count(err.Error(), "rpcx:") != 1 {
			t.Errorf("the message is %q", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		s.Close()
		w.Close()
		if err := ended(t, s); err != rpcx.ErrClosed {
			t.Errorf("it ended with %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		w.Close()
		synctest.Wait()
		s.Close()
		if err := ended(t, s); err != io.EOF {
			t.Errorf("it ended with %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, w := newWire(t, nil)
		fmt.Fprint(w, `{"jsonrpc":"2.0","meth`)
		w.Close()
		if err := ended(t, s); err != io.ErrUnexpectedEOF {
			t.Errorf("in the middle of a message, it ended with %v", err)
		}
	})
}

// shortConn is a connection that breaks the contract of io.Writer.
type shortConn struct{ net.Conn }

func (c shortConn) Write(p []byte) (int, error) { return c.Conn.Write(p[:len(p)/2]) }

func TestShortWriteEndsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		s := rpcx.NewSession(shortConn{near}, nil)
		lost(t, s.Call(t.Context(), "m", nil, nil), false, io.ErrShortWrite)
		if err := ended(t, s); err != io.ErrShortWrite {
			t.Errorf("it ended with %v", err)
		}
	})
}

// burstSize is how many requests a peer pipelines.
func burstSize() int {
	if testing.Short() {
		return 5000
	}
	return 20000
}

// requests returns n requests with ids from 0 on, each on a line, with the given
// parameter.
func requests(n int, param string) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, `{"jsonrpc":"2.0","method":"m","params":[%q],"id":%d}`+"\n", param, i)
	}
	return b
}

// sendBurst writes n requests to conn in one go and reads the replies as they come,
// at the given number of bytes a second (0: as they come). Each request must be
// answered once, with a result. It returns when all are.
func sendBurst(t *testing.T, conn io.ReadWriter, n int, input []byte, perSecond int) {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(input)
		written <- err
	}()
	answered := make([]bool, n)
	replies := bufio.NewReaderSize(conn, 16<<10)
	for read := range n {
		line, err := replies.ReadBytes('\n')
		if err != nil {
			t.Errorf("after %d of %d replies: %v", read, n, err)
			return
		}
		if perSecond > 0 {
			time.Sleep(time.Duration(len(line)) * time.Second / time.Duration(perSecond))
		}
		var reply struct {
			ID     *int
			Result json.RawMessage
		}
		switch err := json.Unmarshal(line, &reply); {
		case err != nil || reply.Result == nil || reply.ID == nil:
			t.Errorf("reply %d is %s", read, line)
			return
		case answered[*reply.ID]:
			t.Errorf("%d is answered twice", *reply.ID)
			return
		}
		answered[*reply.ID] = true
	}
	if err := <-written; err != nil {
		t.Errorf("write the requests: %v", err)
	}
}

// slow returns a handler that takes so long.
func slow(d time.Duration) rpcx.HandlerFunc {
	return func(context.Context, *rpcx.Request) (any, error) {
		if d > 0 {
			time.Sleep(d)
		}
		return true, nil
	}
}

// notRefused checks the session of a peer that has pipelined requests and done
// nothing wrong.
func notRefused(t *testing.T, stats rpcx.Stats) {
	t.Helper()
	if stats.Errors != 0 || stats.Queued != 0 || stats.QueuedBytes != 0 || stats.Running != 0 || stats.NotificationsDropped != 0 {
		t.Errorf("stats are %+v", stats)
	}
}

func TestBurstIsAnsweredInFull(t *testing.T) {
	for _, c := range []struct {
		name string
		// dial returns the ends of a connection.
		dial func(t *testing.T) (near, far io.ReadWriteCloser)
	}{
		{"TCP", func(t *testing.T) (near, far io.ReadWriteCloser) { return socketPair(t, "tcp", "127.0.0.1:0") }},
		{"unix", func(t *testing.T) (near, far io.ReadWriteCloser) {
			return socketPair(t, "unix", filepath.Join(t.TempDir(), "s"))
		}},
		{"TLS", func(t *testing.T) (near, far io.ReadWriteCloser) { return tlsPair(t) }},
		{"pipes", func(t *testing.T) (near, far io.ReadWriteCloser) {
			r1, w1 := io.Pipe()
			r2, w2 := io.Pipe()
			return rpcx.Join(r1, w2), rpcx.Join(r2, w1)
		}},
	} {
		for _, takes := range []time.Duration{0, 5 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s, handlers of %v", c.name, takes), func(t *testing.T) {
				if takes > 0 {
					t.Parallel()
				}
				near, far := c.dial(t)
				defer far.Close()
				s := rpcx.NewSession(near, &rpcx.Options{Handler: slow(takes), Role: rpcx.RoleServer})
				sendBurst(t, far, burstSize(), requests(burstSize(), "x"), 0)
				notRefused(t, settled(s))
				s.Close()
				<-s.Done()
			})
		}
	}
}

// settled returns the stats when the last handler has returned, whose reply came before.
func settled(s *rpcx.Session) rpcx.Stats {
	stats := s.Stats()
	for deadline := time.Now().Add(10 * time.Second); stats.Running > 0 && time.Now().Before(deadline); stats = s.Stats() {
		runtime.Gosched()
	}
	return stats
}

// socketPair returns both ends of a connection.
func socketPair(t *testing.T, network, address string) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// tlsPair returns both ends of a TLS connection over TCP.
func tlsPair(t *testing.T) (near, far *tls.Conn) {
	t.Helper()
	server, client := certificate(t)
	client.ServerName = "example.com"
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	return tls.Server(a, server), tls.Client(b, client)
}

// Such handlers are slow against Limits.ProcessingTimeout.
func TestBurstIsAnsweredInFullBySlowHandlers(t *testing.T) {
	for _, c := range []struct {
		takes time.Duration
		opts  rpcx.Options
	}{
		{200 * time.Millisecond, rpcx.Options{}},
		{2 * time.Second, rpcx.Options{}},
		{2 * time.Second, rpcx.Options{Order: rpcx.Sequential}},
		{200 * time.Millisecond, rpcx.Options{Cancellation: rpcx.LSPCancellation}},
		{200 * time.Millisecond, rpcx.Options{Limits: rpcx.Limits{ProcessingTimeout: -1, Queue: -1, QueueBytes: -1}}},
		{200 * time.Millisecond, rpcx.Options{Limits: rpcx.Limits{Concurrency: -1}}},
	} {
		t.Run(fmt.Sprintf("%v, %v, limits %+v", c.takes, c.opts.Order, c.opts.Limits.Queue), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				defer far.Close()
				c.opts.Handler, c.opts.Role = slow(c.takes), rpcx.RoleServer
				s := rpcx.NewSession(near, &c.opts)
				n := burstSize()
				if c.opts.Order == rpcx.Sequential {
					n = 500
				}
				sendBurst(t, far, n, requests(n, "x"), 0)
				synctest.Wait()
				notRefused(t, s.Stats())
				if cost := s.Cost(); cost > 100 { // of the bytes
					t.Errorf("it cost %v", cost)
				}
				s.Close()
				<-s.Done()
			})
		})
	}
}

// A peer may read slower than its requests are handled: handlers wait for room in the
// outbox, and the peer reads on.
func TestBurstOfAPeerThatReadsSlowlyIsAnsweredInFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		s := rpcx.NewSession(near, &rpcx.Options{Handler: methods{"m": reply}, Role: rpcx.RoleServer, Limits: rpcx.Limits{Outbox: 64 << 10}})
		const n = 2000
		sendBurst(t, far, n, requests(n, strings.Repeat("x", 1000)), 50_000)
		synctest.Wait()
		notRefused(t, s.Stats())
		s.Close()
		<-s.Done()
	})
}

// The bound is Limits.QueueBytes and Limits.Outbox, and 8 MiB for all the rest; the
// requests together have 20 MB, and what a request takes beside its bytes is more.
func TestBurstTakesBoundedMemory(t *testing.T) {
	const n, bound = 20000, 8<<20 + 4<<20 + 8<<20
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	near, far := socketPair(t, "tcp", "127.0.0.1:0")
	input := requests(n, strings.Repeat("x", 1000))
	heap := func() int64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	runtime.GC()
	var peak, handled atomic.Int64
	before := heap()
	s := rpcx.NewSession(near, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
		if handled.Add(1)%200 == 0 {
			if now := heap(); now > peak.Load() {
				peak.Store(now)
			}
		}
		time.Sleep(time.Millisecond)
		return true, nil
	})))
	sendBurst(t, far, n, input, 0)
	s.Close()
	<-s.Done()
	t.Logf("%.1f MiB at most, of %.1f", float64(peak.Load()-before)/(1<<20), float64(bound)/(1<<20))
	if peak.Load()-before > bound {
		t.Errorf("the heap grew by %d bytes", peak.Load()-before)
	}
}

func TestFloodOfNotificationsIsHandledInFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100_000
		var handled atomic.Int64
		subscriber, server := newPipe(t, handling(rpcx.HandlerFunc(func(context.Context, *rpcx.Request) (any, error) {
			time.Sleep(time.Millisecond)
			handled.Add(1)
			return nil, nil
		})), nil)
		for i := range n {
			if err := server.Notify(t.Context(), "changed", rpcx.Args{i}); err != nil {
				t.Fatal(err)
			}
		}
		if err := server.Shutdown(t.Context()); err != nil { // when all is written
			t.Error(err)
		}
		<-subscriber.Done()
		if handled.Load() != n {
			t.Errorf("%d of %d were handled", handled.Load(), n)
		}
		notRefused(t, subscriber.Stats())
	})
}

func TestPausesAreSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &records{}
		var seen events
		open := make(gate)
		opts := handling(open)
		opts.Logger = slog.New(log)
		opts.Limits = rpcx.Limits{Concurrency: 1, SendTimeout: time.Minute}
		opts.Trace = &rpcx.Trace{
			Paused:  func(*rpcx.Session) { seen.add("paused") },
			Resumed: func(_ *rpcx.Session, d time.Duration) { seen.add("resumed after %v", d) },
		}
		s, w := newWire(t, opts)
		go func() {
			for range 8 {
				io.WriteString(w, sayNote("m", 1)+"\n")
			}
		}()
		time.Sleep(500 * time.Millisecond)
		if stats := s.Stats(); stats.Pauses != 1 || stats.Paused != 500*time.Millisecond || stats.Queued != 2 {
			t.Errorf("in a pause, stats are %+v", stats)
		}
		if got := log.take(); len(got) != 0 {
			t.Errorf("for a short pause, %q was logged", got)
		}
		time.Sleep(2500 * time.Millisecond)
		if got := log.take(); !slices.Equal(got, []string{"INFO reading paused: requests arrive faster than they are handled"}) {
			t.Errorf("for a long pause, %q was logged", got)
		}
		close(open)
		synctest.Wait()
		stats := s.Stats()
		if stats.Paused != 3*time.Second || stats.RequestsReceived != 8 {
			t.Errorf("after it, stats are %+v", stats)
		}
		if got := seen.take(); len(got) != 2*int(stats.Pauses) || got[0] != "paused" || got[1] != "resumed after 3s" {
			t.Errorf("Trace was told of %q in %d pauses", got, stats.Pauses)
		}
	})
}

// Where a handler waits for something that the session does not know of, reading goes
// on after 5 s, and what finds no room is refused, at no cost.
func TestRefusalsByALimitCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		opts := handling(open)
		opts.Limits = rpcx.Limits{Concurrency: 1, Queue: 4, ProcessingTimeout: 20 * time.Second, CostPerByte: -1}
		s, w := newServed(t, opts)
		takes(t, 5*time.Second, func() {
			for i := range 1000 {
				w.say(ask("m", i))
			}
		})
		lines := w.heard()
		if len(lines) != 995 || s.Cost() != 0 {
			t.Errorf("%d were refused, at a cost of %v", len(lines), s.Cost())
		}
		for _, line := range lines {
			if !strings.Contains(line, `"data":{"started":false,"reason":"queue"}`) {
				t.Fatalf("refused with %s", line)
			}
		}
		time.Sleep(20 * time.Second) // all are timed out, of which one had begun
		if n := len(w.heard()); n != 5 || s.Cost() != 0 {
			t.Errorf("%d timed out, at a cost of %v", n, s.Cost())
		}
		close(open)
		live(t, s)
	})
}

// A peer that cancels is heard while fewer than 64 requests wait.
func TestCancellationIsHeardBehindRequestsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := handling(methods{"hang": hang})
		opts.Order = rpcx.Sequential
		opts.Cancellation = rpcx.LSPCancellation
		_, w := newWire(t, opts)
		takes(t, 0, func() {
			for i := range 60 {
				w.say(ask("hang", i))
			}
			w.say(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":0}}`)
			w.expect(`{"jsonrpc":"2.0","error":{"code":-32800,"message":"request cancelled"},"id":0}`)
		})
	})
}
