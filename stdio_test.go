package rpcx_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"example.com/rpcx"
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
