package rpcx_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
