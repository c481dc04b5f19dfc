package rpcx

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
)

// Stdio returns standard input and output as one connection, for a program that
// another one starts and speaks to: NewSession(Stdio(), opts). Nothing else may
// use them then: what is printed would be taken for messages. Log to [os.Stderr].
// Close closes both.
//
// If the other program is gone, a write fails and the session ends with the cause, so
// that OnClose and Done work. On Unix, Stdio writes to a duplicate of descriptor 1 for
// that: Go ends a program by SIGPIPE if it writes to [os.Stdout] or os.Stderr itself
// and the reader is gone. Stdio changes nothing of this, since signals are the
// program's. If the standard error may be a pipe to the same program, call
// signal.Ignore(syscall.SIGPIPE) before you log to it.
//
// If the descriptor cannot be duplicated, each write fails with the reason.
func Stdio() io.ReadWriteCloser { return Join(os.Stdin, standardOutput(os.Stdout)) }

// Join returns a connection that reads from r and writes to w. Close returns at
// once and ends a Read and a Write of the connection that wait, even if r and w do
// not: a read of a terminal cannot be ended, and the one goroutine that is in it
// stays until it is done, its result lost. (The same holds for a write.) Close
// also closes r and w if they are an [io.Closer]. For standard input and output there
// is [Stdio].
func Join(r io.Reader, w io.Writer) io.ReadWriteCloser {
	mustHave("Join", "reader", r)
	mustHave("Join", "writer", w)
	return &joined{
		r: r, w: w, closed: make(chan struct{}),
		reads:  operation{do: r.Read, done: make(chan struct{}, 1)},
		writes: operation{do: w.Write, done: make(chan struct{}, 1)},
	}
}

// joined is a connection of two halves.
type joined struct {
	r      io.Reader
	w      io.Writer
	reads  operation
	writes operation
	once   sync.Once
	closed chan struct{}
}

// operation is a Read or a Write that goes on when nobody waits for it any more.
// So it has a buffer of its own.
type operation struct {
	do   func([]byte) (int, error)
	buf  []byte
	n    int
	err  error
	done chan struct{} // has one slot
}

// run does the operation with o.buf. It returns net.ErrClosed, and leaves the
// operation alone, if closed is closed before it is done.
func (o *operation) run(closed <-chan struct{}) (int, error) {
	buf := o.buf
	// Owner: the connection. End: do returns, perhaps after the connection's end.
	go func() {
		o.n, o.err = o.do(buf)
		o.done <- struct{}{}
	}()
	select {
	case <-o.done:
		return o.n, o.err
	case <-closed:
		return 0, net.ErrClosed
	}
}

// Read is called by one goroutine at a time, and so is Write.
func (j *joined) Read(p []byte) (int, error) {
	if j.isClosed() { // and the buffer may be in use
		return 0, net.ErrClosed
	}
	o := &j.reads
	o.buf = slices.Grow(o.buf[:0], len(p))[:len(p)]
	n, err := o.run(j.closed)
	copy(p, o.buf[:n])
	return n, err
}

func (j *joined) Write(p []byte) (int, error) {
	if j.isClosed() {
		return 0, net.ErrClosed
	}
	o := &j.writes
	o.buf = append(o.buf[:0], p...)
	return o.run(j.closed)
}

func (j *joined) isClosed() bool {
	select {
	case <-j.closed:
		return true
	default:
		return false
	}
}

// Close closes the halves, which need not wait for what is under way.
func (j *joined) Close() error {
	var errs []error
	j.once.Do(func() {
		close(j.closed)
		for _, half := range []any{j.w, j.r} {
			if c, ok := half.(io.Closer); ok {
				errs = append(errs, c.Close())
			}
		}
	})
	return errors.Join(errs...)
}
