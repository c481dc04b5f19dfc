package rpcx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/rpcx"
)

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

// ctxKey is the key of a value that derived contexts carry.
type ctxKey struct{}

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

func TestHandlerContextEndsWithTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *rpcx.Session, w *wire)
		want error
	}{
		"the peer hangs up": {func(_ *rpcx.Session, w *wire) { w.Close() }, io.EOF},
		"Close":             {func(s *rpcx.Session, _ *wire) { s.Close() }, rpcx.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				causes := make(chan error, 10)
				watch := func(ctx context.Context, _ *rpcx.Request) (any, error) {
					if ctx.Err() != nil || context.Cause(ctx) != nil {
						t.Errorf("it begins with a context that has ended: %v", context.Cause(ctx))
					}
					derived, cancel := context.WithCancel(context.WithValue(ctx, ctxKey{}, "value"))
					defer cancel()
					stop := context.AfterFunc(ctx, func() { causes <- context.Cause(ctx) })
					defer stop()
					<-derived.Done()
					causes <- context.Cause(derived)
					if ctx.Err() == nil {
						t.Error("the derived context ended, and its parent did not")
					}
					return nil, nil
				}
				s, w := newWire(t, handling(methods{"watch": watch}))
				w.say(`{"jsonrpc":"2.0","method":"watch","id":1}`, `[{"jsonrpc":"2.0","method":"watch"}]`)
				synctest.Wait()
				c.end(s, w)
				for range 4 {
					if cause := <-causes; cause != c.want {
						t.Errorf("a context ended with %v, want %v", cause, c.want)
					}
				}
				<-s.Done()
			})
		})
	}
}

// A batch of which some members run and others wait is no exception: the contexts of
// those end at once, and the others are dropped, each counted once.
func TestHandlersOfABatchThatIsBegunEndWithTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		batch   string
		dropped uint64
	}{
		"requests":      {"[" + ask("hang", 1) + "," + ask("hang", 2) + "," + ask("hang", 3) + "]", 0},
		"notifications": {`[{"jsonrpc":"2.0","method":"hang"},{"jsonrpc":"2.0","method":"hang"},{"jsonrpc":"2.0","method":"hang"}]`, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := handling(methods{"hang": hang})
				opts.Limits.Concurrency = 1
				s, w := newWire(t, opts)
				w.say(c.batch)
				synctest.Wait()
				takes(t, 0, func() {
					s.Close()
					<-s.Done()
				})
				if n := s.Stats().NotificationsDropped; n != c.dropped {
					t.Errorf("%d notifications were dropped, want %d", n, c.dropped)
				}
			})
		})
	}
}

func TestHandlerContextEndsWithTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept context.Context
		_, w := newWire(t, handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			kept = ctx
			return nil, nil
		}}))
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.heard()
		select {
		case <-kept.Done(): // asked for only now
		default:
			t.Error("the context has not ended")
		}
		if kept.Err() != context.Canceled || !errors.Is(context.Cause(kept), context.Canceled) {
			t.Errorf("it ended with %v and the cause %v", kept.Err(), context.Cause(kept))
		}
	})
}

// TestChildrenOfAHandlerContextNeedNoGoroutine: contexts of package context
// attach to a parent of a foreign type with a goroutine each.
func TestChildrenOfAHandlerContextNeedNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newWire(t, handling(methods{"m": func(ctx context.Context, req *rpcx.Request) (any, error) {
			before := runtime.NumGoroutine()
			children := ctx
			for range 100 {
				var cancel context.CancelFunc
				children, cancel = context.WithTimeout(children, time.Minute)
				defer cancel()
				_, cancel = context.WithCancel(ctx)
				defer cancel()
				defer context.AfterFunc(ctx, func() {})()
			}
			if n := runtime.NumGoroutine() - before; n > 0 {
				t.Errorf("300 contexts took %d goroutines", n)
			}
			deadline, ok := ctx.Deadline()
			if child, _ := children.Deadline(); !ok || !child.Equal(deadline) || time.Until(deadline) != 30*time.Second {
				t.Errorf("the deadline is %v, %v", time.Until(deadline), ok)
			}
			return nil, nil
		}}))
		w.say(`{"jsonrpc":"2.0","method":"m","id":1}`)
		w.expect(`{"jsonrpc":"2.0","result":null,"id":1}`)
	})
}
