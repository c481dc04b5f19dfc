package rpcx_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
	"example.com/rpcx/internal/race"
)

// stuck is a reader and a writer that waits until it is released, whatever is
// closed.
type stuck struct {
	release chan struct{}
	closed  chan struct{}
}

func newStuck() stuck { return stuck{make(chan struct{}), make(chan struct{})} }

func (s stuck) Read(p []byte) (int, error) {
	<-s.release
	return copy(p, "too late"), nil
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.release
	return len(p), nil
}

func (s stuck) Close() error {
	close(s.closed)
	return nil
}

// What waits in a read and in a write that nothing can end does not hold a
// session up.
func TestJoinEndsWhatCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, out := newStuck(), newStuck()
		conn := rpcx.Join(in, out)
		s := rpcx.NewSession(conn, nil)
		f := s.Go(t.Context(), "anything", nil)
		synctest.Wait() // reader and writer wait
		s.Close()
		<-s.Done()
		if err := f.Err(); !errors.Is(err, rpcx.ErrConnectionLost) {
			t.Errorf("the call failed with %v", err)
		}
		<-in.closed
		<-out.closed
		buf := make([]byte, 10)
		if _, err := conn.Read(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read after the end: %v", err)
		}
		if _, err := conn.Write(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after the end: %v", err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("a second Close: %v", err)
		}
		close(in.release) // what stayed behind ends
		close(out.release)
	})
}

func TestJoinCarriesASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, down := newHalfPipe(), newHalfPipe()
		both := handling(methods{"reply": reply})
		a := rpcx.NewSession(rpcx.Join(down.r, up.w), both)
		b := rpcx.NewSession(rpcx.Join(up.r, down.w), both)
		for _, s := range []*rpcx.Session{a, b} {
			live(t, s)
			if err := s.Call(t.Context(), "reply", nil, nil); err != nil {
				t.Error(err)
			}
		}
		a.Close()
		if err := ended(t, b); err != io.EOF {
			t.Errorf("the other end ended with %v", err)
		}
		<-a.Done()
	})
}

// halfPipe carries bytes one way.
type halfPipe struct {
	r *io.PipeReader
	w *io.PipeWriter
}

func newHalfPipe() halfPipe {
	r, w := io.Pipe()
	return halfPipe{r, w}
}

// A server on standard output whose client is gone ends its session, and decides
// itself how the program ends. SIGPIPE does not end it.
func TestStdioOutlivesItsReader(t *testing.T) {
	for _, c := range []struct {
		name       string
		input      bool // is closed, too
		stderr     bool // the program's standard error is closed before
		brokenPipe bool // is the cause
	}{
		{"the output is read no longer", false, false, true},
		{"the client is gone", true, false, false},
		{"a lower descriptor is free", false, true, true},
		{"a lower descriptor is free and the client is gone", true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range childRuns() {
				report := filepath.Join(t.TempDir(), "report")
				cmd := program(t, "sender")
				cmd.Env = append(cmd.Env, reportVariable+"="+report)
				if c.stderr {
					cmd.Env = append(cmd.Env, stderrVariable+"=closed")
				}
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(out, make([]byte, 100_000)); err != nil { // it is sending
					t.Error(err)
				}
				out.Close()
				if c.input {
					in.Close()
				}
				_ = cmd.Wait()
				if code := cmd.ProcessState.ExitCode(); code != 7 {
					t.Fatalf("the program ended with %v", cmd.ProcessState)
				}
				got, err := os.ReadFile(report)
				if err != nil {
					t.Fatal(err)
				}
				closed, rest, _ := strings.Cut(string(got), "\n")
				if rest != "done\n" || !strings.HasPrefix(closed, "closed, true") || c.brokenPipe && !strings.HasSuffix(closed, "broken pipe true") {
					t.Fatalf("the program says\n%s", got)
				}
			}
		})
	}
}

// childRuns is how often a child process is run that may fail once in a while. With the
// race detector each takes a second to start.
func childRuns() int {
	if race.Enabled || testing.Short() {
		return 3
	}
	return 8
}
